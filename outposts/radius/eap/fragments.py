"""Fragments of the TLS methods (RFC 5216 §3.1, the same in RFC 5281 §9.1 and PEAP): flags, length, and the caps.

The data of such a packet is ``Flags (1) | TLS message length (4) if L | octets``. A flight that is longer than a packet
goes out in pieces, each of which the other side acknowledges with an empty packet. Nothing is kept beyond what arrived,
and no more than ``MAX_FLIGHT``: a declared length allocates nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from common.errors import OutpostError

LENGTH_INCLUDED = 0x80
MORE = 0x40
START = 0x20
VERSION = 0x07  # TTLS and PEAP only; reserved in EAP-TLS

MAX_FLIGHT = 65536  # octets: a chain of ten large certificates takes a fifth of it
PACKET_WITHOUT_MTU = 1020  # octets of EAP: fits any link that carries EAP at all (RFC 3748 §3.1 [4])
MAX_PACKET = 1400  # octets of EAP: leaves room for RADIUS and tunnel headers below 1500
MIN_PACKET = 96  # octets of EAP: below that, a certificate chain would not fit the round trips of a session
MTU_OVERHEAD = 4  # octets of the EAPOL header, which Framed-MTU counts (RFC 3579 §2.4)
_HEADERS = 4 + 1 + 1 + 4  # EAP header, type, flags, length


class FragmentError(OutpostError):
    """A fragment breaks the rules. ``reason`` is a label for metrics."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def packet_size(framed_mtu: int | None) -> int:
    """How long an EAP packet may be, in octets, by the request's Framed-MTU (None: the request has none)."""
    if framed_mtu is None:
        return PACKET_WITHOUT_MTU
    return max(MIN_PACKET, min(framed_mtu - MTU_OVERHEAD, MAX_PACKET))


@dataclass(frozen=True, slots=True)
class Fragment:
    """One packet's worth. ``total`` is the length of the whole flight, where the sender said it."""

    flags: int
    total: int | None
    octets: bytes = field(repr=False)

    @property
    def more(self) -> bool:
        """Whether further fragments follow."""
        return bool(self.flags & MORE)

    @property
    def acknowledges(self) -> bool:
        """Whether this is an acknowledgement: nothing in it, nothing to follow."""
        return not self.octets and not self.flags & MORE


def decode(data: bytes) -> Fragment:
    """Read the data after the type. Raises ``FragmentError``."""
    if not data:
        raise FragmentError("fragment_without_flags")
    flags = data[0]
    if not flags & LENGTH_INCLUDED:
        return Fragment(flags, None, data[1:])
    if len(data) < 5:
        raise FragmentError("fragment_length")
    return Fragment(flags, int.from_bytes(data[1:5], "big"), data[5:])


class Incoming:
    """Collects the fragments of one flight of the peer. The length may be on any fragment, or on all, or on none."""

    __slots__ = ("_parts", "_received", "_total")

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._parts: list[bytes] = []
        self._received = 0
        self._total: int | None = None

    def add(self, fragment: Fragment) -> bytes | None:
        """The whole flight with its last fragment, None before. Raises ``FragmentError``; then the flight is lost."""
        total = fragment.total
        if total is not None:
            if total > MAX_FLIGHT:
                raise FragmentError("flight_too_long")
            if self._total is not None and total != self._total:
                raise FragmentError("flight_length_changed")
            self._total = total
        if fragment.more and not fragment.octets:
            raise FragmentError("fragment_empty")  # else a peer could send nothing for ever
        self._received += len(fragment.octets)
        if self._received > (MAX_FLIGHT if self._total is None else self._total):
            raise FragmentError("flight_too_long")
        self._parts.append(fragment.octets)
        if fragment.more:
            return None
        if self._total is not None and self._received != self._total:
            raise FragmentError("flight_length")
        flight = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._clear()
        return flight

    @property
    def held(self) -> int:
        """Octets kept at the moment."""
        return self._received

    @property
    def under_way(self) -> bool:
        """Whether a flight has begun and not ended."""
        return bool(self._parts)


class Outgoing:
    """Cuts one flight into packets: the length on the first of several, M on all but the last (RFC 5216 §3.1)."""

    __slots__ = ("_at", "_flight", "_size")

    def __init__(self, flight: bytes, packet: int) -> None:
        """``packet``: the longest EAP packet in octets. The version in the flags of TTLS and PEAP is 0."""
        self._flight = flight
        self._at = 0
        self._size = packet - _HEADERS

    def __len__(self) -> int:
        """Octets kept at the moment."""
        return len(self._flight)

    def next(self) -> bytes:
        """The data of the next packet, after the type."""
        rest = len(self._flight) - self._at
        if self._at == 0 and rest > self._size:
            head = bytes((LENGTH_INCLUDED | MORE,)) + rest.to_bytes(4, "big")
        else:
            head = bytes((MORE if rest > self._size else 0,))
        piece = self._flight[self._at : self._at + self._size]
        self._at += len(piece)
        if self.done:
            self._flight = b""
            self._at = 0
        return head + piece

    @property
    def done(self) -> bool:
        """Whether the whole flight has been handed out."""
        return self._at >= len(self._flight)
