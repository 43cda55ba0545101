"""Bounded BER reader and writer: exactly the subset that RFC 4511 §5.1 allows.

Reading has three answers: a value, "need more" (only :func:`frame_end` can say so) and :class:`ProtocolError`.
Single-octet identifiers and definite lengths only; lengths may be non-minimal. A declared length is compared with what
may follow before anything is copied. Nothing here recurses.

Positions are plain integers into one immutable ``bytes`` object: slicing happens only where a value leaves the codec.
"""

from __future__ import annotations

from typing import Final

from common.errors import OutpostError
from outposts.ldap.rfc import BOOLEAN, ENUMERATED, INTEGER, OCTET_STRING, SEQUENCE

MAX_LENGTH_OCTETS: Final = 8
"""Octets of a long-form length. Four are enough for every message we accept; some encoders always write eight."""

MAX_INTEGER_OCTETS: Final = 8
"""Octets of an INTEGER's content. LDAP needs four (maxInt); leading zeros are tolerated up to this many."""


class ProtocolError(OutpostError):
    """The peer broke the protocol.

    ``diagnostic``: may be shown to the peer; never holds its data.
    ``message_id``: of the broken message, None when it could not be read.
    ``request_tag``: identifier octet of its protocolOp, None when it could not be read.
    ``fatal``: RFC 4511 §4.1.1: True when the encoding itself is wrong, so that the connection has to end; False when
    only a value is, so that a response with protocolError is enough.
    """

    def __init__(
        self, diagnostic: str, *, message_id: int | None = None, request_tag: int | None = None, fatal: bool = True
    ) -> None:
        super().__init__(diagnostic)
        self.diagnostic = diagnostic
        self.message_id = message_id
        self.request_tag = request_tag
        self.fatal = fatal


def frame_end(buffer: bytes | bytearray, start: int, cap: int) -> int:
    """End of the message that begins at ``start``, or 0 when its header is not complete yet.

    The end may lie beyond the buffer: then the caller waits. ``cap`` is the largest message in bytes, header included;
    a larger declared length is a :class:`ProtocolError` at the first moment the header shows it.
    """
    available = len(buffer) - start
    if available < 1:
        return 0
    if buffer[start] != SEQUENCE:
        raise ProtocolError("message is not a SEQUENCE")
    if available < 2:
        return 0
    length = buffer[start + 1]
    if length < 0x80:
        end = start + 2 + length
    else:
        octets = length & 0x7F
        if octets == 0:
            raise ProtocolError("indefinite length")
        if octets > MAX_LENGTH_OCTETS:
            raise ProtocolError("length of length too large")
        if available < 2 + octets:
            # The octets at hand are the most significant ones: too much already means too much later.
            if int.from_bytes(buffer[start + 2 : start + available], "big") > cap:
                raise ProtocolError("message too large")
            return 0
        end = start + 2 + octets + int.from_bytes(buffer[start + 2 : start + 2 + octets], "big")
    if end - start > cap:
        raise ProtocolError("message too large")
    return end


def header(data: bytes, position: int, end: int) -> tuple[int, int, int]:
    """Read one identifier and length: ``(identifier octet, start of content, end of content)``, all inside ``end``."""
    if position + 2 > end:
        raise ProtocolError("element missing or truncated")
    tag = data[position]
    length = data[position + 1]
    start = position + 2
    if length >= 0x80:
        octets = length & 0x7F
        if octets == 0:
            raise ProtocolError("indefinite length")
        if octets > MAX_LENGTH_OCTETS:
            raise ProtocolError("length of length too large")
        if start + octets > end:
            raise ProtocolError("element missing or truncated")
        length = int.from_bytes(data[start : start + octets], "big")
        start += octets
    stop = start + length
    if stop > end:
        raise ProtocolError("element longer than what holds it")
    if tag & 0x1F == 0x1F:
        raise ProtocolError("multi-octet identifier")
    return tag, start, stop


def expect(data: bytes, position: int, end: int, tag: int) -> tuple[int, int]:
    """Read the header of an element that must carry ``tag``: ``(start, end)`` of its content."""
    found, start, stop = header(data, position, end)
    if found != tag:
        raise ProtocolError(f"element with identifier 0x{found:02x} where 0x{tag:02x} belongs")
    return start, stop


def octets(data: bytes, position: int, end: int, tag: int = OCTET_STRING) -> tuple[bytes, int]:
    """Read an OCTET STRING (or an implicitly tagged one): ``(value, position behind it)``."""
    start, stop = expect(data, position, end, tag)
    return data[start:stop], stop


def integer(data: bytes, position: int, end: int, tag: int = INTEGER) -> tuple[int, int]:
    """Read an INTEGER (or an ENUMERATED): ``(value, position behind it)``."""
    start, stop = expect(data, position, end, tag)
    return integer_content(data, start, stop), stop


def integer_content(data: bytes, start: int, stop: int) -> int:
    """Value of the content octets of an INTEGER."""
    size = stop - start
    if size == 1:
        value = data[start]
        return value if value < 0x80 else value - 0x100
    if size == 0:
        raise ProtocolError("integer without octets")
    if size > MAX_INTEGER_OCTETS:
        raise ProtocolError("integer too large")
    return int.from_bytes(data[start:stop], "big", signed=True)


def boolean(data: bytes, position: int, end: int, tag: int = BOOLEAN) -> tuple[bool, int]:
    """Read a BOOLEAN. Any octet but zero is true: RFC 4511 §5.1 asks senders for 0xFF; to insist gains nothing."""
    start, stop = expect(data, position, end, tag)
    if stop - start != 1:
        raise ProtocolError("boolean is not one octet")
    return data[start] != 0, stop


def skip_rest(data: bytes, position: int, end: int) -> None:
    """Check that unknown trailing elements are well formed. RFC 4511 §4: they MUST be ignored otherwise."""
    while position < end:
        _, _, position = header(data, position, end)


def length_of(size: int) -> bytes:
    """Length octets, definite and minimal."""
    if size < 0x80:
        return bytes((size,))
    if size < 0x100:
        return bytes((0x81, size))
    if size < 0x10000:
        return bytes((0x82, size >> 8, size & 0xFF))
    content = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((0x80 | len(content),)) + content


def tlv(tag: int, content: bytes) -> bytes:
    """One element: identifier, length, content."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    return bytes((tag,)) + length_of(size) + content


def encode_octets(value: bytes) -> bytes:
    """OCTET STRING."""
    return tlv(OCTET_STRING, value)


def encode_integer(value: int, tag: int = INTEGER) -> bytes:
    """INTEGER (or ENUMERATED), two's complement in as few octets as hold it."""
    if 0 <= value < 0x80:
        return bytes((tag, 1, value))
    return tlv(tag, value.to_bytes((value if value >= 0 else ~value).bit_length() // 8 + 1, "big", signed=True))


def encode_enumerated(value: int) -> bytes:
    """ENUMERATED."""
    return encode_integer(value, ENUMERATED)


def encode_boolean(value: bool, tag: int = BOOLEAN) -> bytes:
    """BOOLEAN: 0xFF or 0x00 (RFC 4511 §5.1)."""
    return b"%c\x01%c" % (tag, 0xFF if value else 0)


def sequence(*parts: bytes) -> bytes:
    """SEQUENCE of encoded elements."""
    return tlv(SEQUENCE, b"".join(parts))
