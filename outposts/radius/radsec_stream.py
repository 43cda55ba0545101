"""Packets out of a stream of octets (RFC 6613 §2.6.1), and numbers for the requests that we send into one.

The Length of a packet is compared with the limits as soon as its four octets are there, so no connection ever holds
more than one packet and one read. Three answers only: packets, "need more" (no packets), ``PacketError``; after an
error the stream cannot be read any further and has to be closed (RFC 6613 §2.6.4).
"""

from __future__ import annotations

from outposts.radius.rfc import MAX_PACKET, MIN_PACKET
from outposts.radius.wire import PacketError

IDENTIFIERS = 256
"""RFC 2865 §3: Identifier is one octet; RFC 6613 §2.6.3: so many requests may be open in each direction."""


class Stream:
    """The receiving half of a connection."""

    __slots__ = ("_broken", "_buffer")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._broken: str = ""

    def __len__(self) -> int:
        """Octets that wait for the rest of their packet."""
        return len(self._buffer)

    def receive(self, data: bytes) -> list[bytes]:
        """Whole packets, in order. Raises ``PacketError``; what came whole before the error is lost with it."""
        if self._broken:
            raise PacketError(self._broken)
        buffer = self._buffer
        buffer += data
        packets = []
        at = 0
        while len(buffer) - at >= 4:
            length = buffer[at + 2] << 8 | buffer[at + 3]
            if not MIN_PACKET <= length <= MAX_PACKET:
                self._broken = "bad_length"
                buffer.clear()
                raise PacketError(self._broken)
            if len(buffer) - at < length:
                break
            packets.append(bytes(buffer[at : at + length]))
            at += length
        del buffer[:at]
        return packets


class Numbers:
    """Identifiers of our own requests on one connection: each is free again when its answer is here or given up."""

    __slots__ = ("_last", "_used")

    def __init__(self) -> None:
        self._used: set[int] = set()
        self._last = IDENTIFIERS - 1

    def __len__(self) -> int:
        """Open requests."""
        return len(self._used)

    def take(self) -> int | None:
        """A number that no open request has, or None. The next one in turn, so that late answers fit nothing."""
        for step in range(1, IDENTIFIERS + 1):
            number = (self._last + step) % IDENTIFIERS
            if number not in self._used:
                self._used.add(number)
                self._last = number
                return number
        return None

    def free(self, number: int) -> None:
        """Its request is over."""
        self._used.discard(number)
