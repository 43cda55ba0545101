"""Who sent a request: the rightmost address that is not one of the trusted proxies (RFC 7239 §5.2, X-Forwarded-For)."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_HOPS = 32  # addresses of X-Forwarded-For that are looked at, from the right; real chains have five
MAX_ADDRESS = 64  # characters of an address with port and brackets
ADDRESS_MEMO = 4096  # addresses of recent requests


def _parse(text: str) -> Address | None:
    text = text.strip(' \t"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(ADDRESS_MEMO)
def _remembered(text: str) -> Address | None:
    return _parse(text)


def parse_address(text: str) -> Address | None:
    """An address with or without brackets, port and zone; IPv4 in IPv6 is IPv4. None if it is none."""
    return _remembered(text) if len(text) <= MAX_ADDRESS else None


def within(address: Address | None, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of these networks."""
    return address is not None and any(address in network for network in networks)


def is_trusted(peer: str, trusted: Sequence[Network]) -> bool:
    """Whether forwarding headers of this peer are believed. Asked once per connection."""
    return within(parse_address(peer), trusted)


def client_address(peer: str, forwarded_for: str | None, trusted: Sequence[Network]) -> Address | None:
    """The client of a request: the peer, or behind trusted proxies the rightmost address they did not come from.

    An entry that is no address ends the walk: the last trusted proxy before it is then the client, because what stands
    further left was written by anybody. None if the peer itself has no address (a unix socket).
    """
    client = parse_address(peer)
    if not forwarded_for or not within(client, trusted):
        return client
    for text in reversed(forwarded_for.split(",")[-MAX_HOPS:]):
        address = parse_address(text)
        if address is None:
            return client
        client = address
        if not within(address, trusted):
            return client
    return client
