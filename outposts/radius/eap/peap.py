"""PEAP version 0 with inner EAP-GTC (draft-kamath-pppext-peapv0): a tunnel, and in it EAP packets.

Inner packets travel without their header of four octets; only Extensions packets are whole. The result of the inner
dialogue is said inside, by an Extensions request with a Result TLV, and the peer agrees by the same in return::

    identity, GTC, …  →  Extensions: success  →  peer: success  →  EAP-Success
                      →  Extensions: failure  →  peer: anything →  EAP-Failure

Cryptobinding is not spoken; keys are the tunnel's.
"""

from __future__ import annotations

from enum import Enum

from OpenSSL import SSL

from outposts.radius.eap import packet
from outposts.radius.eap.gtc import Ask, Dialogue
from outposts.radius.eap.packet import EapCode, EapError, EapType
from outposts.radius.eap.steps import Asked, Decision, Failed, Granted, MethodStep, Request
from outposts.radius.eap.tls import Setup, TlsMethod, refusal

RESULT_TLV = 3
TLV_MANDATORY = 0x8000
TLV_TYPE = 0x3FFF
SUCCESS, FAILURE = 1, 2


def result(identifier: int, status: int, code: int = EapCode.REQUEST) -> bytes:
    """An Extensions packet with a Result TLV: ``01 id 000B 21 8003 0002 0001`` for success."""
    tlv = (TLV_MANDATORY | RESULT_TLV).to_bytes(2, "big") + (2).to_bytes(2, "big") + status.to_bytes(2, "big")
    return packet.encode(code, identifier, EapType.EXTENSIONS, tlv)


def status_of(data: bytes) -> int | None:
    """The status that the TLVs of an Extensions packet say; None if they are broken or say none, or several."""
    at = 0
    found: int | None = None
    while at < len(data):
        if len(data) - at < 4:
            return None
        kind = int.from_bytes(data[at : at + 2], "big") & TLV_TYPE
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        value = data[at + 4 : at + 4 + length]
        if len(value) != length:
            return None
        if kind == RESULT_TLV:
            if length != 2 or found is not None:
                return None
            found = int.from_bytes(value, "big")
        at += 4 + length
    return found


class Phase(Enum):
    """Of the tunnel."""

    FINISHED = "finished"  # TLS up to 1.2: our Finished is out
    DIALOGUE = "dialogue"
    RESULT = "result"


class Peap(TlsMethod):
    """PEAPv0/EAP-GTC."""

    __slots__ = ("_dialogue", "_inner", "_phase", "_refused")

    type = EapType.PEAP
    name = "peap"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._dialogue = Dialogue(setup.identity, setup.canonical)
        self._phase = Phase.FINISHED
        self._inner = 0  # identifier of our last Extensions request
        self._refused: Failed | None = None

    @property
    def username(self) -> str:
        """The inner name."""
        return self._dialogue.username

    def established(self) -> MethodStep:
        """The server speaks first in the tunnel: at once in TLS 1.3, else when our Finished has arrived."""
        return self._open() if self._tls13 else self._flight(self._pending())

    def acknowledged(self) -> MethodStep:
        """The peer has our Finished."""
        if self._phase is not Phase.FINISHED or self._keys is None:
            return self._end("tls_out_of_order")
        return self._guarded(self._open)

    def arrived(self) -> MethodStep:
        """An inner packet of the peer."""
        octets = self._read()
        if not octets or self._phase is Phase.FINISHED:
            return self._end("tls_out_of_order")
        if self._phase is Phase.RESULT:
            return self._agreed(octets)
        inner = _inner(octets)
        step = self._dialogue.receive(inner[0], inner[1:])
        if isinstance(step, Ask):
            return self._put(step)
        return self._refuse(step.reason, step.detail) if isinstance(step, Failed) else step

    def decided(self, decision: Decision) -> MethodStep:
        """Ask on, or say the result."""
        try:
            if isinstance(decision, Asked):
                return self._put(self._dialogue.further(decision.prompt))
            if isinstance(decision, Granted):
                return self._say(SUCCESS)
            return self._refuse(refusal(decision))
        except SSL.Error as error:
            return self._break(error)

    def _open(self) -> MethodStep:
        self._phase = Phase.DIALOGUE
        return self._put(self._dialogue.start())

    def _put(self, ask: Ask) -> Request:
        return self._flight(self._write(bytes((ask.type,)) + ask.data))

    def _refuse(self, reason: str, detail: str = "") -> MethodStep:
        self._refused = Failed(reason, detail)
        return self._say(FAILURE)

    def _say(self, status: int) -> MethodStep:
        self._phase = Phase.RESULT
        self._inner = (self._inner + 1) % 256
        return self._flight(self._write(result(self._inner, status)))

    def _agreed(self, octets: bytes) -> MethodStep:
        if self._refused is not None:
            return self._end(self._refused.reason, self._refused.detail)
        try:
            answer = packet.decode_response(octets)
        except EapError as error:
            return self._end(f"inner_{error.reason}")
        if answer.type != EapType.EXTENSIONS or answer.identifier != self._inner:
            return self._end("inner_unexpected")
        return self._finished() if status_of(answer.data) == SUCCESS else self._end("peer_refused")


def _inner(octets: bytes) -> bytes:
    """Type and data of an inner packet; some peers send the header that PEAPv0 leaves out."""
    whole = len(octets) > packet.HEADER and octets[0] == EapCode.RESPONSE
    return octets[packet.HEADER :] if whole and int.from_bytes(octets[2:4], "big") == len(octets) else octets
