"""EAP packets (RFC 3748 §4): Code (1), Identifier (1), Length (2), and for requests and responses Type (1) and data.

Octets beyond Length are padding and ignored (§4.1). Decoding gives a packet or ``EapError``, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from common.errors import OutpostError

HEADER = 4  # octets before the type
MAX_PACKET = 0xFFFF  # the length field has 16 bits; what a RADIUS packet can carry is far less
MAX_IDENTITY = 253  # octets: what a User-Name attribute holds, and the longest NAI (RFC 7542 §2.3)


class EapCode(IntEnum):
    """RFC 3748 §4. 5 and 6 (RFC 6696) are not spoken here."""

    REQUEST = 1
    RESPONSE = 2
    SUCCESS = 3
    FAILURE = 4


class EapType(IntEnum):
    """RFC 3748 §5 and the IANA registry: the types that this server knows by name."""

    IDENTITY = 1  # RFC 3748 §5.1
    NOTIFICATION = 2  # §5.2
    NAK = 3  # §5.3
    MD5 = 4  # §5.4, never offered: the core cannot check it
    GTC = 6  # §5.6
    TLS = 13  # RFC 5216, RFC 9190
    TTLS = 21  # RFC 5281
    PEAP = 25  # draft-kamath-pppext-peapv0
    MSCHAPV2 = 26  # never offered: the core has no password hashes that it could use
    EXTENSIONS = 33  # PEAPv0's own packets with TLVs


class EapError(OutpostError):
    """Octets are not an EAP packet. ``reason`` is a label for metrics."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class EapPacket:
    """One packet. ``type`` is None for Success and Failure."""

    code: int
    identifier: int
    type: int | None = None
    data: bytes = field(default=b"", repr=False)


def decode(octets: bytes) -> EapPacket:
    """Read one packet. Raises ``EapError``: too short, Length wrong, or a request or response without a type."""
    if len(octets) < HEADER:
        raise EapError("eap_too_short")
    length = int.from_bytes(octets[2:4], "big")
    if length < HEADER or length > len(octets):
        raise EapError("eap_length")
    code, identifier = octets[0], octets[1]
    if code not in (EapCode.REQUEST, EapCode.RESPONSE):
        return EapPacket(code, identifier)
    if length == HEADER:
        raise EapError("eap_without_type")
    return EapPacket(code, identifier, octets[4], octets[5:length])


def decode_response(octets: bytes) -> EapPacket:
    """Read what a peer may send, which is responses only (RFC 3748 §4.1). Raises ``EapError``."""
    packet = decode(octets)
    if packet.code != EapCode.RESPONSE:
        raise EapError("eap_code")
    return packet


def encode(code: int, identifier: int, type: int, data: bytes = b"") -> bytes:
    """A request or response. Raises ``EapError`` if it would be longer than the length field can say."""
    length = HEADER + 1 + len(data)
    if length > MAX_PACKET:
        raise EapError("eap_too_long")
    return bytes((code, identifier)) + length.to_bytes(2, "big") + bytes((type,)) + data


def success(identifier: int) -> bytes:
    """EAP-Success with the identifier of the response that it answers (RFC 3748 §4.2)."""
    return bytes((EapCode.SUCCESS, identifier, 0, HEADER))


def failure(identifier: int) -> bytes:
    """EAP-Failure with the identifier of the response that it answers (RFC 3748 §4.2)."""
    return bytes((EapCode.FAILURE, identifier, 0, HEADER))


def failure_for(octets: bytes) -> bytes:
    """EAP-Failure for a packet that belongs to no session, however broken: its second octet is the identifier."""
    return failure(octets[1] if len(octets) > 1 else 0)


def text(value: bytes, limit: int) -> str | None:
    """A name or password as text: UTF-8 without NUL, at most ``limit`` octets; None if it is not. May be empty."""
    if len(value) > limit or b"\0" in value:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def without_realm(name: str) -> str:
    """A name without its realm: ``alice@example.org`` (RFC 7542) and ``EXAMPLE\\alice`` become ``alice``."""
    user, at, _ = name.rpartition("@")
    if at:
        return user
    return name.rpartition("\\")[2]
