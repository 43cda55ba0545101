"""``outposts/radius/networks.py``: entries of ``client_networks``, longest prefix, and a plain search as the oracle."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outposts.radius.networks import MEMO_SIZE, Networks, address, parse, plain

V4 = st.integers(0, 2**32 - 1).map(lambda number: str(IPv4Address(number)))
V6 = st.integers(0, 2**128 - 1).map(lambda number: str(IPv6Address(number)))


def networks(text: str) -> list[str]:
    """The networks of a text, as text."""
    return [str(network) for network in parse(text)[0]]


@pytest.mark.parametrize(
    ("text", "found", "refused"),
    [
        # R26
        ("10.0.0.5/8", ["10.0.0.0/8"], []),
        ("10.0.0.7", ["10.0.0.7/32"], []),
        ("fe80::/10 , ", ["fe80::/10"], []),
        ("10.0.0.5/8, 10.0.0.7, fe80::/10 , ", ["10.0.0.0/8", "10.0.0.7/32", "fe80::/10"], []),
        # R27
        ("", [], []),
        (" ,\t\n, ", [], []),
        ("foo", [], ["foo"]),
        ("10.0.0.0/8,", ["10.0.0.0/8"], []),
        ("10.0.0.0/8, foo, 10.0.0.0/33", ["10.0.0.0/8"], ["foo", "10.0.0.0/33"]),
        # separators
        ("10.0.0.1 10.0.0.2\t10.0.0.3\n10.0.0.4,10.0.0.5", [f"10.0.0.{number}/32" for number in range(1, 6)], []),
        ("0.0.0.0/0, ::/0", ["0.0.0.0/0", "::/0"], []),
        ("10.0.0.1/8,10.0.0.2/8", ["10.0.0.0/8"], []),
        # IPv6, and IPv4 in it
        ("2001:db8::1", ["2001:db8::1/128"], []),
        ("2001:DB8::1/33", ["2001:db8::/33"], []),
        ("::ffff:10.1.2.3", ["10.1.2.3/32"], []),
        ("::ffff:10.1.2.3/104", ["10.0.0.0/8"], []),
        ("::ffff:10.1.2.3/96", ["0.0.0.0/0"], []),
        ("::ffff:10.1.2.3/95", ["::fffe:0:0/95"], []),
        # no networks
        *(
            (text, [], [text])
            for text in (
                "10.0.0.0/",
                "10.0.0.0/-1",
                "10.0.0.0/+8",
                "10.0.0.0/255.0.0.0",
                "10.0.0.0/0.255.255.255",
                "10.0.0.0/8/8",
                "/8",
                "10.0.0",
                "10",
                "010.0.0.1",
                "::/129",
                "fe80::1%eth0",
                "fe80::%eth0/10",
                "nas.example.com",
                "١٠.0.0.0/8",
                "10.0.0.0/٨",
                "10.0.0.0/0000008",
            )
        ),
    ],
)
def test_r26_r27_entries(text: str, found: list[str], refused: list[str]) -> None:
    """Each entry by itself: what is none does not take away the others."""
    assert networks(text) == found
    assert list(parse(text)[1]) == refused


@given(st.text(max_size=60))
def test_any_text_is_parsed(text: str) -> None:
    """Whatever the core stores, there is an answer."""
    found, refused = parse(text)
    assert len(found) + len(refused) <= len(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("::FFFF:0a01:0203", "10.1.2.3"),
        ("fe80::1%eth0", "fe80::1"),
        ("fe80::1%2", "fe80::1"),
        ("2001:db8:0:0::1", "2001:db8::1"),
        ("::10.1.2.3", "::a01:203"),
        ("/run/nas.sock", "/run/nas.sock"),
        ("", ""),
    ],
)
def test_r28_addresses_are_made_plain(text: str, expected: str) -> None:
    """IPv4 on an IPv6 socket is IPv4, a scope is dropped, and what is no address stays."""
    assert plain(text) == expected
    assert (address(text) is None) == (not text or text.startswith("/"))


def test_r24_the_longest_prefix_wins() -> None:
    """Whatever the order, and every time."""
    rows = [("10.0.0.0/8", "A"), ("10.1.0.0/16", "B"), ("0.0.0.0/0", "C"), ("10.1.2.3/32", "D")]
    for order in (rows, rows[::-1]):
        table = Networks((ip_network(network), value) for network, value in order)
        for peer, value in (
            ("10.1.2.3", "D"),
            ("10.1.2.4", "B"),
            ("10.2.2.3", "A"),
            ("11.0.0.1", "C"),
            ("::ffff:10.1.2.4", "B"),
        ):
            assert [table.find(peer) for _ in range(1000)] == [(value,)] * 1000


def test_r28_r29_versions_never_meet() -> None:
    """``::/0`` is no network of an IPv4 client, nor the other way round; no match is nothing."""
    only_6 = Networks([(ip_network("::/0"), "six")])
    only_4 = Networks([(ip_network("0.0.0.0/0"), "four")])
    for peer, six, four in (
        ("192.0.2.1", (), ("four",)),
        ("::ffff:192.0.2.1", (), ("four",)),
        ("2001:db8::1", ("six",), ()),
        ("fe80::1%eth0", ("six",), ()),
        ("", (), ()),
        ("unix", (), ()),
    ):
        assert only_6.find(peer) == six
        assert only_4.find(peer) == four
    assert Networks[str]().find("192.0.2.1") == ()


def test_one_network_has_several_values_in_order() -> None:
    """And a value that names it twice in a row is there once."""
    net = ip_network("10.0.0.0/8")
    table = Networks([(net, "B"), (net, "A"), (net, "A"), (ip_network("10.1.0.0/16"), "C")])
    assert table.find("10.9.9.9") == ("B", "A")
    assert table.find("10.1.9.9") == ("C",)


def test_the_memo_is_bounded() -> None:
    """Forged addresses and long names do not fill the memory, and the answers stay right."""
    table = Networks([(ip_network("10.0.0.0/8"), "A")])
    for number in range(MEMO_SIZE + 10):
        assert table.find(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}") == ("A",)
        assert len(table._memo) <= MEMO_SIZE
    size = len(table._memo)
    assert table.find("x" * 10_000) == ()
    assert len(table._memo) == size
    assert table.find("10.0.0.1") == ("A",)
    assert table.find("11.0.0.1") == ()


@given(
    st.lists(st.tuples(V4 | V6, st.integers(0, 128)), max_size=30),
    st.lists(V4 | V6, max_size=10),
)
def test_look_up_is_what_a_search_finds(entries: list[tuple[str, int]], peers: list[str]) -> None:
    """Against a search over all networks, for random ones and for addresses inside them."""
    rows = []
    for number, (text, bits) in enumerate(entries):
        bits = bits if ":" in text else bits % 33
        for network in parse(f"{text}/{bits}")[0]:
            rows.append((network, number))
            peers = [*peers, str(network.network_address), str(network.broadcast_address)]
    table = Networks(rows)
    for peer in peers:
        at = address(peer)
        assert at is not None
        holding = [row for row in rows if row[0].version == at.version and at in row[0]]
        longest = max((network.prefixlen for network, _ in holding), default=None)
        expected = tuple(number for network, number in holding if network.prefixlen == longest)
        assert table.find(peer) == expected


def test_thousands_of_networks_cost_no_more_than_one() -> None:
    """A look-up touches one table per prefix length, however many networks there are."""
    rows = [(ip_network((number << 8, 24)), number) for number in range(20_000)]
    rows += [(ip_network(((number << 16) + (1 << 30), 16)), -number) for number in range(1000)]
    table = Networks(rows)
    assert [len(tables) for tables in table._tables.values()] == [2, 0]
    assert table.find(str(IPv4Address((19_999 << 8) + 7))) == (19_999,)
    assert table.find(str(IPv4Address((1 << 30) + (999 << 16) + 5))) == (-999,)
    assert table.find("200.0.0.1") == ()
