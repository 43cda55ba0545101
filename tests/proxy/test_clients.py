"""``outposts/proxy/clients.py``: the rightmost address that is no trusted proxy."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outposts.proxy.clients import MAX_HOPS, client_address, is_trusted, parse_address, within

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("text", "address"),
    [("10.0.0.1", "10.0.0.1"), (" 10.0.0.1:80 ", "10.0.0.1"), ("[2001:db8::1]:443", "2001:db8::1"),
     ("::ffff:10.0.0.1", "10.0.0.1"), ("fe80::1%eth0", "fe80::1"), ('"[::1]"', "::1")],
)  # fmt: skip
def test_addresses(text: str, address: str) -> None:
    """In every spelling that proxies use."""
    assert parse_address(text) == ip_address(address)


@pytest.mark.parametrize("text", ["", "unknown", "_hidden", "10.0.0", "10.0.0.1, 10.0.0.2", "x" * 100, "1:2:3"])
def test_no_addresses(text: str) -> None:
    """Not guessed at."""
    assert parse_address(text) is None


@pytest.mark.parametrize(
    ("peer", "chain", "client"),
    [
        ("203.0.113.9", None, "203.0.113.9"),
        ("203.0.113.9", "1.1.1.1", "203.0.113.9"),
        ("10.0.0.7", None, "10.0.0.7"),
        ("10.0.0.7", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.7", "1.1.1.1, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.7", "198.51.100.7, 10.0.0.8", "198.51.100.7"),
        ("10.0.0.7", "10.0.0.9,10.0.0.8", "10.0.0.9"),
        ("10.0.0.7", "198.51.100.7, unknown", "10.0.0.7"),
        ("10.0.0.7", "198.51.100.7, , 10.0.0.8", "10.0.0.8"),
        ("::ffff:10.0.0.7", "2001:db8::1", "2001:db8::1"),
        ("fd00::1", "[2001:db8::1]:80", "2001:db8::1"),
    ],
)
def test_clients(peer: str, chain: str | None, client: str) -> None:
    """What stands left of it was written by anybody."""
    assert client_address(peer, chain, PROXIES) == ip_address(client)


def test_no_client() -> None:
    """A unix socket has no address, and nothing is believed."""
    assert client_address("", "1.1.1.1", PROXIES) is None
    assert not is_trusted("", PROXIES)
    assert not within(None, PROXIES)


def test_long_chains_end() -> None:
    """Only the last hops are looked at."""
    chain = ",".join(["198.51.100.7"] + ["10.0.0.1"] * MAX_HOPS)
    assert client_address("10.0.0.7", chain, PROXIES) == ip_address("10.0.0.1")


@given(st.lists(st.sampled_from(["10.0.0.1", "198.51.100.7", "1.1.1.1", "x", ""]), max_size=6))
def test_a_stranger_cannot_hide(claimed: list[str]) -> None:
    """Whatever a client sends before the proxy adds its address: that one counts."""
    chain = ", ".join([*claimed, "198.51.100.99"])
    assert client_address("10.0.0.7", chain, PROXIES) == ip_address("198.51.100.99")
