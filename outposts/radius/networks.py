"""Client networks: what a provider's ``client_networks`` says, and whose network an address is in (longest prefix).

A look-up costs one dictionary access per prefix length in use, however many networks there are, and nothing but one
access for an address seen before. IPv4 and IPv6 never meet: ``::/0`` is no network of an IPv4 client.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Generic, TypeAlias, TypeVar

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network
T = TypeVar("T")

# Peers remembered with what they lead to. Most sites have fewer devices; the memo is emptied when full, so forged
# source addresses cost at most this many short keys.
MEMO_SIZE = 16_384
MEMO_KEY_SIZE = 64  # characters; longer than any address with its scope

_SEPARATORS = re.compile(r"[,\s]+")
_PREFIX = re.compile(r"[0-9]{1,3}")
MAPPED_BITS = 96  # of ::ffff:0:0/96, the IPv4-mapped addresses (RFC 4291 §2.5.5.2)


def parse(text: str) -> tuple[tuple[Network, ...], tuple[str, ...]]:
    """A list of networks, and the entries that are none. Commas and white-space separate entries; empty ones are none.

    An entry is an address with a prefix length (bits beyond it are cleared) or an address alone. IPv4-mapped IPv6
    networks are the IPv4 networks that they hold.
    """
    networks: dict[Network, None] = {}
    refused = []
    for entry in _SEPARATORS.split(text):
        if entry:
            try:
                networks[_network(entry)] = None
            except ValueError:
                refused.append(entry)
    return tuple(networks), tuple(refused)


def _network(entry: str) -> Network:
    """One network; raises ``ValueError``. Netmasks are refused: ``/0.0.0.255`` would be guessed."""
    head, separator, length = entry.partition("/")
    if "%" in head:
        raise AddressValueError("a network has no scope")
    address = ip_address(head)
    bits = int(length) if _PREFIX.fullmatch(length) else -1
    if not separator:
        bits = address.max_prefixlen
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        if mapped is None or bits < MAPPED_BITS:
            return IPv6Network((address, bits), strict=False)
        address, bits = mapped, bits - MAPPED_BITS
    return IPv4Network((address, bits), strict=False)


def address(text: str) -> Address | None:
    """A peer's address as a socket names it: without scope, IPv4-mapped as IPv4; None for what is no address."""
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def plain(text: str) -> str:
    """The same as text, for logs and for the core; what is no address stays as it is."""
    found = address(text)
    return text if found is None else str(found)


class Networks(Generic[T]):
    """Network → the values that were given with it, in their order. Immutable but for a memo of recent look-ups."""

    __slots__ = ("_memo", "_tables")

    def __init__(self, rows: Iterable[tuple[Network, T]] = ()) -> None:
        """Rows of one value that follow each other on the same network count once."""
        found: dict[tuple[int, int], dict[int, list[T]]] = {}
        for network, value in rows:
            shift = network.max_prefixlen - network.prefixlen
            values = found.setdefault((network.version, shift), {}).setdefault(
                int(network.network_address) >> shift, []
            )
            if not values or values[-1] is not value:
                values.append(value)
        # Per IP version, the longest prefix (the least shift) first.
        self._tables: dict[int, list[tuple[int, dict[int, tuple[T, ...]]]]] = {4: [], 6: []}
        for (version, shift), table in sorted(found.items(), key=lambda item: item[0]):
            self._tables[version].append((shift, {number: tuple(values) for number, values in table.items()}))
        self._memo: dict[str, tuple[T, ...]] = {}

    def find(self, peer: str) -> tuple[T, ...]:
        """The values of the longest network that holds the address; empty without one, or for what is no address."""
        known = self._memo.get(peer)
        if known is not None:
            return known
        found = self._look_up(address(peer))
        if len(peer) <= MEMO_KEY_SIZE:
            if len(self._memo) >= MEMO_SIZE:
                self._memo.clear()
            self._memo[peer] = found
        return found

    def _look_up(self, peer: Address | None) -> tuple[T, ...]:
        if peer is None:
            return ()
        number = int(peer)
        for shift, table in self._tables[peer.version]:
            values = table.get(number >> shift)
            if values is not None:
                return values
        return ()
