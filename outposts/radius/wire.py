"""RADIUS packets: octets to typed packets and back, authenticators, hidden values (RFC 2865, 2866, 2868, 2869, 3579).

A decoder has two answers: a ``Packet``, or ``PacketError``. Nothing here believes a packet: whoever decodes a request
checks ``message_authenticator`` or ``verify_accounting`` before acting on what it says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import Enum
from functools import lru_cache
from hmac import compare_digest
from typing import Final, TypeAlias

import msgspec

from common.errors import OutpostError
from outposts.radius.rfc import (
    AUTHENTICATOR_SIZE,
    HEADER_SIZE,
    MAX_ATTRIBUTES,
    MAX_PACKET,
    MAX_PASSWORD,
    MAX_VALUE,
    MAX_VENDOR_VALUE,
    MIN_PACKET,
    VENDOR_MICROSOFT,
    Attribute,
    Code,
    MicrosoftAttribute,
)

Attributes: TypeAlias = tuple[tuple[int, bytes], ...]
"""(type, value) in wire order."""

# Plain integers: an enumeration's member compares three times slower, and these are compared per attribute.
PROXY_STATE: Final = int(Attribute.PROXY_STATE)
VENDOR_SPECIFIC: Final = int(Attribute.VENDOR_SPECIFIC)
MESSAGE_AUTHENTICATOR: Final = int(Attribute.MESSAGE_AUTHENTICATOR)
ACCOUNTING_RESPONSE: Final = int(Code.ACCOUNTING_RESPONSE)
STATUS_SERVER: Final = int(Code.STATUS_SERVER)

ZEROS: Final = bytes(AUTHENTICATOR_SIZE)
UNSIGNED: Final = bytes((MESSAGE_AUTHENTICATOR, AUTHENTICATOR_SIZE + 2)) + ZEROS
"""A Message-Authenticator whose value is still to be computed."""
SIGNED_AT: Final = HEADER_SIZE + 2
"""Where the value of a Message-Authenticator stands that is the first attribute."""

OWN_AUTHENTICATOR: Final = frozenset({Code.ACCESS_REQUEST, Code.STATUS_SERVER})
"""RFC 2865 §3, RFC 5997 §3: the Request Authenticator is the sender's random; RFC 3579 §3.2 signs it as it stands."""
COMPUTED_AUTHENTICATOR: Final = frozenset({Code.ACCOUNTING_REQUEST, Code.DISCONNECT_REQUEST, Code.COA_REQUEST})
"""RFC 2866 §3, RFC 5176 §2.3: the Request Authenticator is an MD5 over the packet, signed as 16 zero octets."""

SECRETS_KEYED: Final = 4096
"""Secrets whose started digests are kept. A provider has one secret; each entry is below one kilobyte."""

MAX_SALTED: Final = 239
"""Octets. RFC 2868 §3.5: with the length octet at most 240, a multiple of 16 that fits one attribute."""


class PacketError(OutpostError):
    """Octets that are no packet, or a packet that cannot be built. ``reason`` is a label of radius_dropped_total."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Signature(Enum):
    """What a packet's Message-Authenticator says. Only ``VALID`` means that the sender knew the secret."""

    ABSENT = "absent"
    VALID = "valid"
    INVALID = "invalid"


class Packet(msgspec.Struct, frozen=True, gc=False):
    """One packet. ``octets`` is exactly what Length says, without what came after it in the datagram.

    A msgspec structure and not a dataclass, because making one is ten times faster. The repr leaves the octets out:
    they hold passwords.
    """

    code: int
    identifier: int
    authenticator: bytes
    attributes: Attributes
    octets: bytes

    def __repr__(self) -> str:
        """Code, identifier and the types of the attributes; no value."""
        types = [kind for kind, _ in self.attributes]
        return f"Packet(code={self.code}, identifier={self.identifier}, types={types})"

    def first(self, kind: int) -> bytes | None:
        """The value of the first attribute of a type, or None."""
        for found, value in self.attributes:
            if found == kind:
                return value
        return None

    def all(self, kind: int) -> list[bytes]:
        """The values of all attributes of a type, in order."""
        return [value for found, value in self.attributes if found == kind]

    def joined(self, kind: int) -> bytes:
        """The values of all attributes of a type as one (EAP-Message, RFC 3579 §3.1)."""
        return b"".join([value for found, value in self.attributes if found == kind])

    def vendor(self, vendor: int, kind: int) -> list[bytes]:
        """The values of a vendor's attribute in the format that RFC 2865 §5.26 recommends, in order.

        A Vendor-Specific attribute may hold several of them; what does not have that format is left out.
        """
        prefix = vendor.to_bytes(4, "big")
        values: list[bytes] = []
        for found, value in self.attributes:
            if found == VENDOR_SPECIFIC and value.startswith(prefix):
                values.extend(inner for number, inner in vendor_attributes(value) if number == kind)
        return values


def vendor_attributes(value: bytes) -> list[tuple[int, bytes]]:
    """The vendor's attributes (type, value) in the value of a Vendor-Specific attribute; none if it is not well-formed.

    RFC 2865 §5.26: four octets vendor number, then one octet type, one octet length (of all three) and the value.
    """
    inner = []
    position, end = 4, len(value)
    while position < end:
        size = value[position + 1] if position + 1 < end else 0
        if size < 2 or position + size > end:
            return []
        inner.append((value[position], value[position + 2 : position + size]))
        position += size
    return inner


def check_size(datagram: bytes) -> int:
    """The Length of a datagram that may be a packet (RFC 2865 §3); costs nothing that grows with its size.

    Raises ``PacketError`` for less than 20 or more than 4096 octets, and for a Length outside of that or beyond the
    datagram. What follows a packet of that Length is padding.
    """
    size = len(datagram)
    if size < MIN_PACKET:
        raise PacketError("too_short")
    if size > MAX_PACKET:
        raise PacketError("too_long")
    length = datagram[2] << 8 | datagram[3]
    if not MIN_PACKET <= length <= size:
        raise PacketError("bad_length")
    return length


def decode(datagram: bytes) -> Packet:
    """A datagram as a packet; raises ``PacketError`` and nothing else. Authenticity is not checked here."""
    length = check_size(datagram)
    octets = datagram if length == len(datagram) else datagram[:length]
    attributes: list[tuple[int, bytes]] = []
    position = HEADER_SIZE
    try:
        while position < length:
            end = position + octets[position + 1]
            if end < position + 2 or end > length:
                raise PacketError("bad_attribute")
            if len(attributes) == MAX_ATTRIBUTES:
                raise PacketError("too_many_attributes")
            attributes.append((octets[position], octets[position + 2 : end]))
            position = end
    except IndexError:
        raise PacketError("bad_attribute") from None
    return Packet(octets[0], octets[1], octets[4:HEADER_SIZE], tuple(attributes), octets)


# --- authenticators ---------------------------------------------------------------------------------------------------


class Keyed:
    """The digests of one secret, started once: HMAC-MD5 (RFC 2104) and the tail of a Response Authenticator."""

    __slots__ = ("_inner", "_outer", "_start", "secret")

    def __init__(self, secret: bytes) -> None:
        block = secret if len(secret) <= 64 else md5(secret)
        block = block.ljust(64, b"\0")
        self.secret = secret
        self._inner = hashlib.md5(bytes(octet ^ 0x36 for octet in block), usedforsecurity=False)
        self._outer = hashlib.md5(bytes(octet ^ 0x5C for octet in block), usedforsecurity=False)
        self._start = hashlib.md5(secret, usedforsecurity=False)

    def hmac(self, octets: bytes) -> bytes:
        """HMAC-MD5 of the octets."""
        inner = self._inner.copy()
        inner.update(octets)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()

    def mask(self, octets: bytes) -> bytes:
        """MD5(secret + octets), the stream that hides values (RFC 2865 §5.2)."""
        started = self._start.copy()
        started.update(octets)
        return started.digest()


keyed = lru_cache(maxsize=SECRETS_KEYED)(Keyed)


def md5(octets: bytes) -> bytes:
    """MD5 as RADIUS asks for it; systems that forbid it as a signature still allow it here."""
    return hashlib.md5(octets, usedforsecurity=False).digest()


def _signature_at(packet: Packet) -> int:
    """Where the value of the Message-Authenticator stands; 0 if there is none, -1 for two or a wrong length."""
    at, position = 0, HEADER_SIZE
    for kind, value in packet.attributes:
        if kind == MESSAGE_AUTHENTICATOR:
            if at or len(value) != AUTHENTICATOR_SIZE:
                return -1
            at = position + 2
        position += len(value) + 2
    return at


def _verify(packet: Packet, authenticator: bytes, secret: bytes) -> Signature:
    """The Message-Authenticator of a packet, with what RFC 3579 §3.2 puts in the place of the Authenticator."""
    at = _signature_at(packet)
    if not at:
        return Signature.ABSENT
    if at < 0:
        return Signature.INVALID
    octets = packet.octets
    end = at + AUTHENTICATOR_SIZE
    expected = keyed(secret).hmac(b"".join((octets[:4], authenticator, octets[HEADER_SIZE:at], ZEROS, octets[end:])))
    return Signature.VALID if compare_digest(expected, octets[at:end]) else Signature.INVALID


def message_authenticator(packet: Packet, secret: bytes) -> Signature:
    """What the Message-Authenticator of a request says (RFC 3579 §3.2, RFC 5997 §2, RFC 5176 §3.4).

    ``INVALID`` too for two of them, for a wrong length, and for a packet whose code is no request's.
    """
    if packet.code in OWN_AUTHENTICATOR:
        return _verify(packet, packet.authenticator, secret)
    if packet.code in COMPUTED_AUTHENTICATOR:
        return _verify(packet, ZEROS, secret)
    return Signature.INVALID


def verify_accounting(packet: Packet, secret: bytes) -> bool:
    """Whether the Request Authenticator of an Accounting-, Disconnect- or CoA-Request is right (RFC 2866 §3)."""
    if packet.code not in COMPUTED_AUTHENTICATOR:
        return False
    octets = packet.octets
    expected = md5(b"".join((octets[:4], ZEROS, octets[HEADER_SIZE:], secret)))
    return compare_digest(expected, packet.authenticator)


# --- encoding ---------------------------------------------------------------------------------------------------------


def encode_attributes(attributes: Iterable[tuple[int, bytes]]) -> bytes:
    """Attributes as octets. Raises ``PacketError`` for a value over 253 octets or a type over one octet."""
    parts = []
    try:
        for kind, value in attributes:
            parts.append(bytes((kind, len(value) + 2)))
            parts.append(value)
    except ValueError:
        raise PacketError("bad_attribute") from None
    return b"".join(parts)


def encode_reply(request: Packet, secret: bytes, code: int, attributes: Iterable[tuple[int, bytes]]) -> bytes:
    """A reply, signed and ready to send: Message-Authenticator, Proxy-State as it came, then the attributes.

    Every reply is signed, also to a peer that did not sign (CVE-2024-3596), but for an Accounting-Response to anything
    but Status-Server: RFC 2869 §5.19 knows no signature there, and clients that know one do not agree on its formula.
    Raises ``PacketError``: ``too_large`` above 4096 octets, ``bad_attribute`` for a value over 253 octets or an
    attribute that is put there here (Message-Authenticator, Proxy-State).
    """
    wanted = [*attributes]
    proxy_states = [row for row in request.attributes if row[0] == PROXY_STATE]
    signed = code != ACCOUNTING_RESPONSE or request.code == STATUS_SERVER
    for kind, _ in wanted:
        if kind in (MESSAGE_AUTHENTICATOR, PROXY_STATE):
            raise PacketError("bad_attribute")
    body = encode_attributes([*proxy_states, *wanted])
    length = HEADER_SIZE + len(body) + (len(UNSIGNED) if signed else 0)
    if length > MAX_PACKET:
        raise PacketError("too_large")
    head = bytes((code, request.identifier, length >> 8, length & 0xFF))
    if signed:
        signature = keyed(secret).hmac(b"".join((head, request.authenticator, UNSIGNED, body)))
        body = b"".join((UNSIGNED[:2], signature, body))
    return b"".join((head, md5(b"".join((head, request.authenticator, body, secret))), body))


def encode_request(
    code: int,
    identifier: int,
    secret: bytes,
    attributes: Iterable[tuple[int, bytes]],
    *,
    authenticator: bytes | None = None,
    sign: bool = True,
) -> bytes:
    """A request as a client sends it, its Message-Authenticator first.

    Access-Request and Status-Server need 16 random octets as ``authenticator``; for Accounting-, Disconnect- and
    CoA-Request it is computed (RFC 2866 §3). Raises ``PacketError`` as ``encode_reply`` does.
    """
    wanted = [*attributes]
    if sign and any(kind == MESSAGE_AUTHENTICATOR for kind, _ in wanted):
        raise PacketError("bad_attribute")
    computed = code in COMPUTED_AUTHENTICATOR
    if not computed and (authenticator is None or len(authenticator) != AUTHENTICATOR_SIZE):
        raise PacketError("bad_authenticator")
    stated = ZEROS if computed or authenticator is None else authenticator
    body = encode_attributes(wanted)
    length = HEADER_SIZE + len(body) + (len(UNSIGNED) if sign else 0)
    if length > MAX_PACKET:
        raise PacketError("too_large")
    head = bytes((code, identifier, length >> 8, length & 0xFF))
    if sign:
        body = b"".join((UNSIGNED[:2], keyed(secret).hmac(b"".join((head, stated, UNSIGNED, body))), body))
    if computed:
        stated = md5(b"".join((head, ZEROS, body, secret)))
    return b"".join((head, stated, body))


def verify_reply(reply: bytes, request_authenticator: bytes, secret: bytes) -> Packet:
    """A reply to a request that was sent with ``request_authenticator``, proved to know the secret (RFC 2865 §3).

    Raises ``PacketError``: as ``decode`` does, ``bad_authenticator``, or ``bad_message_authenticator`` when there is
    one and it is wrong. Whether one must be there, and whether identifier and code fit, is the caller's to say.
    """
    packet = decode(reply)
    octets = packet.octets
    expected = md5(b"".join((octets[:4], request_authenticator, octets[HEADER_SIZE:], secret)))
    if not compare_digest(expected, packet.authenticator):
        raise PacketError("bad_authenticator")
    if _verify(packet, request_authenticator, secret) is Signature.INVALID:
        raise PacketError("bad_message_authenticator")
    return packet


# --- hidden values ----------------------------------------------------------------------------------------------------


def _xor(left: bytes, right: bytes) -> bytes:
    """Two blocks of 16 octets, octet by octet."""
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(16, "big")


def _hide(secret: bytes, start: bytes, padded: bytes) -> bytes:
    """The stream cipher of RFC 2865 §5.2: each block with MD5(secret + the block hidden before it)."""
    mask = keyed(secret).mask
    blocks = []
    previous = start
    for at in range(0, len(padded), 16):
        previous = _xor(padded[at : at + 16], mask(previous))
        blocks.append(previous)
    return b"".join(blocks)


def _reveal(secret: bytes, start: bytes, hidden: bytes) -> bytes:
    """The way back."""
    mask = keyed(secret).mask
    blocks = []
    previous = start
    for at in range(0, len(hidden), 16):
        block = hidden[at : at + 16]
        blocks.append(_xor(block, mask(previous)))
        previous = block
    return b"".join(blocks)


def _padded(value: bytes) -> bytes:
    """Zeros up to a multiple of 16, at least one block."""
    return value.ljust(max(16, -(-len(value) // 16) * 16), b"\0")


def hide_password(secret: bytes, request_authenticator: bytes, value: bytes) -> bytes:
    """The value of a User-Password (RFC 2865 §5.2). Raises ``PacketError`` above 128 octets."""
    if len(value) > MAX_PASSWORD:
        raise PacketError("malformed_password")
    return _hide(secret, request_authenticator, _padded(value))


def reveal_password(secret: bytes, request_authenticator: bytes, value: bytes) -> bytes:
    """The password in a User-Password, up to its first NUL.

    Raises ``PacketError("malformed_password")`` unless it has 16 to 128 octets, a multiple of 16. A wrong secret gives
    noise, not an error: the caller finds that it is not UTF-8.
    """
    if not 16 <= len(value) <= MAX_PASSWORD or len(value) % 16:
        raise PacketError("malformed_password")
    return _reveal(secret, request_authenticator, value).partition(b"\0")[0]


def make_salts(random: bytes) -> tuple[bytes, bytes]:
    """Two salts out of four random octets: highest bit set, and different within a packet (RFC 2548 §2.4.2)."""
    first, second = (int.from_bytes(random[at : at + 2], "big") | 0x8000 for at in (0, 2))
    if first == second:
        second ^= 1
    return first.to_bytes(2, "big"), second.to_bytes(2, "big")


def salted(secret: bytes, request_authenticator: bytes, salt: bytes, value: bytes) -> bytes:
    """Salt and hidden value, as RFC 2548 §2.4.2 and RFC 2868 §3.5 (after its tag) put them on the wire.

    ``value`` is what is to be hidden, without length octet and padding. Raises ``PacketError`` for more than 239
    octets or a salt that is not two octets with the highest bit set.
    """
    if len(value) > MAX_SALTED or len(salt) != 2 or salt[0] < 0x80:
        raise PacketError("bad_attribute")
    return salt + _hide(secret, request_authenticator + salt, _padded(bytes((len(value),)) + value))


def unsalted(secret: bytes, request_authenticator: bytes, value: bytes) -> bytes:
    """The way back, for clients and tests. Raises ``PacketError`` for a value that cannot have been made so."""
    salt, hidden = value[:2], value[2:]
    if not hidden or len(hidden) % 16:
        raise PacketError("bad_attribute")
    plain = _reveal(secret, request_authenticator + salt, hidden)
    if plain[0] >= len(plain):
        raise PacketError("bad_attribute")
    return plain[1 : 1 + plain[0]]


def mppe_keys(secret: bytes, request_authenticator: bytes, msk: bytes, salts: tuple[bytes, bytes]) -> Attributes:
    """MS-MPPE-Recv-Key and MS-MPPE-Send-Key for an Access-Accept (RFC 2548 §2.4.2 and §2.4.3).

    Recv is octets 0 to 31 of the Master Session Key, Send is octets 32 to 63 (RFC 5216 §2.3); what follows them is
    the extended key, which never leaves the server. ``salts`` as ``make_salts`` gives them.
    """
    receive = salted(secret, request_authenticator, salts[0], msk[:32])
    send = salted(secret, request_authenticator, salts[1], msk[32:64])
    return (
        vsa(VENDOR_MICROSOFT, MicrosoftAttribute.MS_MPPE_RECV_KEY, receive),
        vsa(VENDOR_MICROSOFT, MicrosoftAttribute.MS_MPPE_SEND_KEY, send),
    )


# --- building attributes ----------------------------------------------------------------------------------------------


def vsa(vendor: int, kind: int, value: bytes) -> tuple[int, bytes]:
    """A vendor's attribute as RFC 2865 §5.26 recommends. Raises ``PacketError`` above 247 octets."""
    if len(value) > MAX_VENDOR_VALUE:
        raise PacketError("bad_attribute")
    return VENDOR_SPECIFIC, vendor.to_bytes(4, "big") + bytes((kind, len(value) + 2)) + value


def split_long(kind: int, value: bytes) -> Attributes:
    """A long value as consecutive attributes of at most 253 octets (RFC 3579 §3.1); an empty one as one."""
    return tuple((kind, value[at : at + MAX_VALUE]) for at in range(0, len(value) or 1, MAX_VALUE))
