"""EAP-TTLS version 0 (RFC 5281): a tunnel, and in it a name and a password as attribute-value pairs (AVPs).

An AVP is ``Code (4) | Flags (1): V, M | Length (3) | Vendor-ID (4) if V | data | zeros to a multiple of 4`` (§10.1);
Length counts headers and data. Served are User-Name with User-Password (PAP, §11.2.5) and EAP-Message with inner
Identity and GTC. CHAP and MS-CHAP need what the core does not keep. PAP cannot ask for a code; GTC can.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from common.errors import OutpostError
from outposts.radius.eap import packet
from outposts.radius.eap.gtc import Ask, Dialogue, secret
from outposts.radius.eap.packet import MAX_IDENTITY, EapCode, EapError, EapType
from outposts.radius.eap.steps import Asked, Decide, Decision, Failed, MethodStep, PasswordLogin, Request
from outposts.radius.eap.tls import Setup, TlsMethod

VENDOR = 0x80
MANDATORY = 0x40
MAX_AVPS = 64  # a login has two; what a peer may send more is unknown and optional
MICROSOFT = 311


class Avp(IntEnum):
    """Codes without vendor: RADIUS attribute numbers (RFC 5281 §10.2)."""

    USER_NAME = 1
    USER_PASSWORD = 2
    CHAP_PASSWORD = 3
    CHAP_CHALLENGE = 60
    EAP_MESSAGE = 79


class AvpError(OutpostError):
    """Tunnelled data are not AVPs, or more of them than are taken. ``reason`` is a label."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class AttributeValue:
    """One AVP; ``vendor`` is 0 without Vendor-ID."""

    code: int
    vendor: int
    mandatory: bool
    data: bytes = field(repr=False)


def decode_avps(octets: bytes) -> Iterator[AttributeValue]:
    """Read AVPs, as far as they are whole. Raises ``AvpError`` at the first that is not (§10.1)."""
    at = 0
    count = 0
    while at < len(octets):
        count += 1
        if count > MAX_AVPS:
            raise AvpError("avp_too_many")
        if len(octets) - at < 8:
            raise AvpError("avp_truncated")
        code = int.from_bytes(octets[at : at + 4], "big")
        flags = octets[at + 4]
        length = int.from_bytes(octets[at + 5 : at + 8], "big")
        header = 12 if flags & VENDOR else 8
        if length < header or at + length > len(octets):
            raise AvpError("avp_length")
        vendor = int.from_bytes(octets[at + 8 : at + 12], "big") if flags & VENDOR else 0
        yield AttributeValue(code, vendor, bool(flags & MANDATORY), octets[at + header : at + length])
        at += (length + 3) & ~3


def encode_avp(code: int, data: bytes, vendor: int = 0, *, mandatory: bool = True) -> bytes:
    """One AVP with its padding."""
    flags = (MANDATORY if mandatory else 0) | (VENDOR if vendor else 0)
    length = (12 if vendor else 8) + len(data)
    head = code.to_bytes(4, "big") + bytes((flags,)) + length.to_bytes(3, "big")
    return head + (vendor.to_bytes(4, "big") if vendor else b"") + data + bytes(-length % 4)


# Ways to log in that need a password's clear text or NT hash on our side.
_IMPOSSIBLE = {
    (Avp.CHAP_PASSWORD, 0),
    (Avp.CHAP_CHALLENGE, 0),
    (1, MICROSOFT),  # MS-CHAP-Response
    (11, MICROSOFT),  # MS-CHAP-Challenge
    (25, MICROSOFT),  # MS-CHAP2-Response
}


class Ttls(TlsMethod):
    """TTLS with PAP or GTC."""

    __slots__ = ("_dialogue", "_inner", "_name")

    type = EapType.TTLS
    name = "ttls"
    key_label = b"ttls keying material"  # RFC 5281 §8

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._name = ""
        self._dialogue: Dialogue | None = None
        self._inner = 0  # identifier of our last inner request

    @property
    def username(self) -> str:
        """The inner name."""
        return self._name if self._dialogue is None else self._dialogue.username

    def established(self) -> MethodStep:
        """The peer speaks first in the tunnel; with TLS 1.3 it may have done so already."""
        octets = self._read() if self._tls13 else b""
        return self._avps(octets) if octets else self._flight(self._pending())

    def acknowledged(self) -> MethodStep:
        """It is the peer's turn: say so with nothing. The session's round trips bound that."""
        return self._end("tls_out_of_order") if self._connection is None else self._flight(b"")

    def arrived(self) -> MethodStep:
        """AVPs; a flight of TLS 1.3 that holds none is TLS's own."""
        octets = self._read()
        return self._avps(octets) if octets else self._flight(self._pending())

    def decided(self, decision: Decision) -> MethodStep:
        """Only the GTC dialogue can go on."""
        if isinstance(decision, Asked) and self._dialogue is not None:
            ask = self._dialogue.further(decision.prompt)
            return self._guarded(lambda: self._put(ask))
        return super().decided(decision)

    def _avps(self, octets: bytes) -> MethodStep:
        name: bytes | None = None
        password: bytes | None = None
        message = b""
        try:
            for avp in decode_avps(octets):
                kind = (avp.code, avp.vendor)
                if kind == (Avp.EAP_MESSAGE, 0):
                    message += avp.data
                elif kind == (Avp.USER_NAME, 0) and name is None:
                    name = avp.data
                elif kind == (Avp.USER_PASSWORD, 0) and password is None:
                    password = avp.data
                elif kind in _IMPOSSIBLE:
                    return self._end("unsupported_auth", "CHAP or MS-CHAP inside TTLS")
                elif kind in ((Avp.USER_NAME, 0), (Avp.USER_PASSWORD, 0)):
                    return self._end("avp_twice")
                elif avp.mandatory:
                    return self._end("avp_unknown", f"mandatory AVP {avp.code} of vendor {avp.vendor}")
        except AvpError as error:
            return self._end(error.reason)
        if message:
            return self._eap(message) if password is None else self._end("avp_ambiguous")
        if name is None or password is None or self._dialogue is not None:
            return self._end("avp_incomplete")
        return self._pap(name, password)

    def _pap(self, name: bytes, password: bytes) -> MethodStep:
        typed = packet.text(name, MAX_IDENTITY)
        if typed is None:
            return self._end("malformed_identity")
        self._name = self.setup.canonical(typed)
        if not self._name:
            return self._end("no_identity")
        word = secret(password)
        if isinstance(word, Failed):
            return self._end(word.reason, word.detail)
        self._release()
        return Decide(PasswordLogin(self._name, word, interactive=False, outer_identity=self.setup.identity))

    def _eap(self, message: bytes) -> MethodStep:
        """An inner EAP packet. The first one is an Identity that nobody asked for (§11.2.1)."""
        try:
            inner = packet.decode_response(message)
        except EapError as error:
            return self._end(f"inner_{error.reason}")
        if self._dialogue is None:
            self._dialogue = Dialogue(self.setup.identity, self.setup.canonical)
            self._inner = inner.identifier
        elif inner.identifier != self._inner:
            return self._end("inner_eap_identifier")
        step = self._dialogue.receive(inner.type or 0, inner.data)
        if isinstance(step, Ask):
            return self._put(step)
        return self._end(step.reason, step.detail) if isinstance(step, Failed) else step

    def _put(self, ask: Ask) -> Request:
        self._inner = (self._inner + 1) % 256
        inner = packet.encode(EapCode.REQUEST, self._inner, ask.type, ask.data)
        return self._flight(self._write(encode_avp(Avp.EAP_MESSAGE, inner)))
