"""RADIUS/1.1 (RFC 9765): the same attributes without MD5, as spoken below TLS when ALPN says ``radius/1.1``.

::

    RADIUS/1.0   Code | Identifier | Length | Authenticator (16)              hidden values, Message-Authenticator
    RADIUS/1.1   Code | 0          | Length | Token (4) | 0 (12)              plain values, neither

Nothing behind this file knows of it. A request is rewritten into the older form as soon as it is here, under the secret
that stands for "below TLS" (RFC 6614 §2.3), and its reply is rewritten on the way out: what is hidden in between never
leaves the process, and on the wire there is no MD5.

A packet of RADIUS/1.1 is told from others by its Token, of which 2^32 may be open; the older form has 256 numbers. So
the rewritten request is not to be told from others by its Identifier, but by the object that it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from outposts.radius.das import Result, verdict
from outposts.radius.rfc import (
    HEADER_SIZE,
    MAX_PACKET,
    MAX_PASSWORD,
    RADSEC_SECRET,
    VENDOR_MICROSOFT,
    Attribute,
    Code,
    MicrosoftAttribute,
)
from outposts.radius.wire import (
    Attributes,
    Packet,
    PacketError,
    decode,
    encode_attributes,
    encode_request,
    hide_password,
    unsalted,
    vendor_attributes,
    vsa,
)

ALPN_10 = b"radius/1.0"
"""RFC 9765 §3.3: RADIUS as in RFC 6614, said aloud."""
ALPN_11 = b"radius/1.1"
"""RFC 9765 §3.3; needs TLS 1.3 (§3.4)."""

TOKEN_SIZE = 4
"""Octets. RFC 9765 §4.1."""
RESERVED_2 = bytes(12)
"""RFC 9765 §4.1: zero when sent, ignored when received."""

ORIGINAL_PACKET_CODE = 4
"""RFC 7930 §4, below Extended-Attribute-1; RFC 9765 §5.5 has no use for it."""
SIGNATURE_ROOM = 18 + 128
"""Octets that the older form may take more: a Message-Authenticator, and the padding of passwords (at most 127)."""
MALFORMED = b""
"""A User-Password that no password hides behind: stands for one that RFC 9765 §5.1.1 does not allow."""

# RFC 2548 §2.4: what is salted and hidden in the older form.
SALTED_KEYS = frozenset({MicrosoftAttribute.MS_MPPE_SEND_KEY, MicrosoftAttribute.MS_MPPE_RECV_KEY})
# Requests whose older form is only good with a Message-Authenticator (RFC 3579 §3.2, RFC 5997 §3).
SIGNED_KINDS = frozenset({Code.STATUS_SERVER, Code.DISCONNECT_REQUEST, Code.COA_REQUEST})


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A request in the older form, and the Token that its reply needs."""

    packet: Packet = field(repr=False)
    token: bytes


def token_of(octets: bytes) -> bytes:
    """The Token of a packet that has at least a header."""
    return octets[4 : 4 + TOKEN_SIZE]


def receive(octets: bytes, authenticator: bytes) -> Rewritten:
    """A request as it came, in the older form; ``authenticator`` is 16 random octets for it.

    Reserved-1 and Reserved-2 are not looked at (RFC 9765 §4.1). Raises ``PacketError`` as ``wire.decode`` does, and
    ``too_large`` where the older form would not fit (it may be 18 octets longer).
    """
    packet = decode(octets)
    attributes = []
    for kind, value in packet.attributes:
        if _has_no_place(kind, value):
            continue
        attributes.append((kind, _hidden(authenticator, value) if kind == Attribute.USER_PASSWORD else value))
    # Signed inside as every client should sign, where there is room; where it must be, it has to fit.
    must = packet.code in SIGNED_KINDS or any(kind == Attribute.EAP_MESSAGE for kind, _ in attributes)
    sign = must or len(octets) <= MAX_PACKET - SIGNATURE_ROOM
    # 0: identifiers have no meaning here, and the reply is found by its request.
    older = encode_request(packet.code, 0, RADSEC_SECRET, attributes, authenticator=authenticator, sign=sign)
    return Rewritten(decode(older), token_of(octets))


def _hidden(authenticator: bytes, password: bytes) -> bytes:
    """RFC 9765 §5.1.1: 1 to 128 octets as they are. A NUL would end the password in the older form: no password."""
    if not 1 <= len(password) <= MAX_PASSWORD or b"\0" in password:
        return MALFORMED
    return hide_password(RADSEC_SECRET, authenticator, password)


def _has_no_place(kind: int, value: bytes) -> bool:
    """RFC 9765 §5.2, §5.5: not sent, and passed over when received."""
    return kind == Attribute.MESSAGE_AUTHENTICATOR or (
        kind == Attribute.EXTENDED_ATTRIBUTE_1 and value[:1] == bytes((ORIGINAL_PACKET_CODE,))
    )


def reply(octets: bytes, request: Rewritten) -> bytes:
    """A reply that was made for the older form, as it goes out.

    A Tunnel-Password that is not hidden as it should be is left out: nobody could have read it. Raises ``PacketError``
    for a session key that is not, because a reply without it would promise what it does not hold.
    """
    packet = decode(octets)
    attributes: list[tuple[int, bytes]] = []
    for kind, value in packet.attributes:
        if _has_no_place(kind, value):
            continue
        if kind == Attribute.TUNNEL_PASSWORD:
            try:
                # RFC 2868 §3.5: tag, salt, hidden. RFC 9765 §5.1.3: tag, text.
                plain = unsalted(RADSEC_SECRET, request.packet.authenticator, value[1:])
            except PacketError:
                continue
            attributes.append((kind, value[:1] + plain))
        elif kind == Attribute.VENDOR_SPECIFIC and value[:4] == VENDOR_MICROSOFT.to_bytes(4, "big"):
            attributes += _plain_keys(kind, value, request.packet.authenticator)
        else:
            attributes.append((kind, value))
    return encode(packet.code, request.token, tuple(attributes))


def _plain_keys(kind: int, value: bytes, authenticator: bytes) -> Attributes:
    """Microsoft's attributes, session keys as they are (RFC 9765 §5.1.4)."""
    inner = vendor_attributes(value)
    if not any(number in SALTED_KEYS for number, _ in inner):
        return ((kind, value),)
    return tuple(
        vsa(
            VENDOR_MICROSOFT,
            number,
            unsalted(RADSEC_SECRET, authenticator, content) if number in SALTED_KEYS else content,
        )
        for number, content in inner
    )


def request(octets: bytes, token: bytes) -> bytes:
    """A request of ours that was made for the older form, as it goes out. Raises ``PacketError``."""
    packet = decode(octets)
    return encode(packet.code, token, tuple(row for row in packet.attributes if not _has_no_place(*row)))


def judge(request_octets: bytes, reply_octets: bytes) -> Result | None:
    """What a reply to a request of ours says; None if it is none. TLS has proved who sent it. Never raises."""
    try:
        packet = decode(reply_octets)
    except PacketError:
        return None
    return verdict(Code(request_octets[0]), packet) if token_of(request_octets) == token_of(reply_octets) else None


def encode(code: int, token: bytes, attributes: Attributes) -> bytes:
    """A packet of RADIUS/1.1. Raises ``PacketError``."""
    body = encode_attributes(attributes)
    length = HEADER_SIZE + len(body)
    if length > MAX_PACKET:
        raise PacketError("too_large")
    return b"".join((bytes((code, 0, length >> 8, length & 0xFF)), token, RESERVED_2, body))
