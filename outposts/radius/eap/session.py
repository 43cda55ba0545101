"""One EAP conversation: which packet is legal now. Every rule of that kind is here; methods see only their own data.

The table says what a response of some kind means in some state::

    state      meaning                            start      identity   nak        method     other     notification
    fresh      nothing has been said              ask name   offer      failure    failure    failure   ignore
    identity   the name was asked                 ignore     offer      failure    failure    failure   ignore
    offered    a method's first request is out    ignore     ignore     next one   method     ignore    ignore
    method     the method has taken up its work   ignore     ignore     ignore     method     ignore    ignore
    deciding   the driver is to say the outcome   ignore     ignore     ignore     ignore     ignore    ignore
    ended      Success, Failure or a limit        ignore     ignore     ignore     ignore     ignore    ignore

A start is the empty EAP-Message (RFC 3579 §2.1). Ignored packets cost nothing: neither state nor limits move. A
response must carry the identifier of the last request (RFC 3748 §4.1), except in a fresh session.

A session is used by one thread at a time. It knows no clock and draws no random numbers; OpenSSL, inside the TLS
methods, has its own of both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from outposts.radius.eap import packet
from outposts.radius.eap.contexts import ServerTls
from outposts.radius.eap.fragments import packet_size
from outposts.radius.eap.methods import BY_TYPE, METHODS, choose
from outposts.radius.eap.packet import MAX_IDENTITY, EapCode, EapError, EapPacket, EapType
from outposts.radius.eap.steps import (
    Decide,
    Decision,
    Fail,
    Failed,
    Finished,
    Ignore,
    Method,
    MethodStep,
    Request,
    Send,
    Step,
    Succeed,
)
from outposts.radius.eap.tls import Setup

MAX_ROUND_TRIPS = 50  # requests of ours; a login with large chains in small packets takes thirty
BARE_WEIGHT = 1536  # octets of a session in which TLS has not begun
LONG_FLIGHT = 3000  # octets: a peer's key that takes milliseconds to check comes with a longer certificate
MAX_DURATION_S = 60.0  # from the first packet; a person who types a code takes twenty


@dataclass(frozen=True, slots=True)
class EapSettings:
    """What a provider says about EAP.

    ``types``: names of the methods, in the order in which they are offered (``tls``, ``ttls``, ``peap``). ``tls``: the
    server's certificate, None if there is none; then nothing is offered. ``strip_realm``: names lose ``@realm`` and
    ``DOMAIN\\``. ``require_client_ca``: EAP-TLS is offered only if issuers of client certificates are configured.
    """

    types: tuple[str, ...]
    tls: ServerTls | None
    strip_realm: bool = False
    require_client_ca: bool = False

    def offered(self) -> tuple[int, ...]:
        """Type numbers that can really be offered."""
        if self.tls is None:
            return ()
        return tuple(
            method.type
            for name in self.types
            if (method := METHODS.get(name)) is not None
            and (method.type != EapType.TLS or self.tls.verifies_clients or not self.require_client_ca)
        )


class State(Enum):
    """Where a conversation is."""

    FRESH = "fresh"
    IDENTITY = "identity"
    OFFERED = "offered"
    METHOD = "method"
    DECIDING = "deciding"
    ENDED = "ended"


class Input(Enum):
    """What kind of response came."""

    START = "start"
    IDENTITY = "identity"
    NAK = "nak"
    NOTIFICATION = "notification"
    METHOD = "method"
    OTHER = "other"


class EapSession:
    """One conversation with one peer."""

    __slots__ = (
        "_identifier",
        "_left",
        "_method",
        "_random",
        "_request",
        "_response",
        "_settings",
        "_size",
        "_started",
        "_trips",
        "identity",
        "method",
        "state",
    )

    def __init__(self, settings: EapSettings, random: Callable[[int], bytes], *, framed_mtu: int | None = None) -> None:
        """``random(n)`` gives n octets of chance; ``framed_mtu`` is the first request's Framed-MTU, None without."""
        self._settings = settings
        self._random = random
        self._size = packet_size(framed_mtu)
        self._left = list(settings.offered())
        self._method: Method | None = None
        self._identifier = 0  # of the last request
        self._response = 0  # identifier of the last response: what Success and Failure carry
        self._request = b""
        self._trips = 0
        self._started: float | None = None
        self.state = State.FRESH
        self.identity = ""  # as the peer said it outside any tunnel: for logs
        self.method = ""  # name of the method that was offered last: for logs and metrics

    @property
    def last_request(self) -> bytes:
        """The last request's octets, to be repeated where a response was broken (RFC 3579 §2.2), b"" before."""
        return self._request

    @property
    def is_slow(self) -> bool:
        """Whether a step of this session's cryptography may take several milliseconds: for our key or the peer's."""
        if self._method is not None and self._method.gathered > LONG_FLIGHT:
            return True
        return self._settings.tls is not None and self._settings.tls.is_slow

    @property
    def is_shaking_hands(self) -> bool:
        """Whether the peer's machine, and no person, is awaited in the middle of a handshake."""
        return self._method is not None and self._method.is_shaking_hands

    @property
    def weight(self) -> int:
        """About how many octets the session holds."""
        return BARE_WEIGHT + len(self._request) + (self._method.weight if self._method is not None else 0)

    def works_on(self, eap: bytes) -> bool:
        """Whether ``receive`` of these octets would do cryptography. Cheap."""
        method = self._method
        return (
            method is not None
            and self.state in (State.OFFERED, State.METHOD)
            and len(eap) > packet.HEADER + 1
            and eap[4] == method.type
            and method.works_on(eap[5:])
        )

    def receive(self, eap: bytes, now: float) -> Step:
        """One EAP packet of the peer: the joined EAP-Message of a request, b"" for EAP-Start. ``now`` in seconds."""
        if self.state in (State.DECIDING, State.ENDED):
            return Ignore(f"eap_{self.state.value}")
        response = EapPacket(EapCode.RESPONSE, 0)
        kind = Input.START
        if eap:
            try:
                response = packet.decode_response(eap)
            except EapError as error:
                return Ignore(error.reason)
            if self.state is not State.FRESH and response.identifier != self._identifier:
                return Ignore("eap_identifier")
            kind = self._kind(response)
        handler = _TABLE.get((self.state, kind))
        if handler is None:
            return Ignore(f"eap_unexpected_{kind.value}")
        self._response = response.identifier
        if self._started is None:
            self._started = now
        elif now - self._started > MAX_DURATION_S:
            return self._fail("eap_expired")
        return handler(self, response)

    def decided(self, decision: Decision) -> Step:
        """How the login of the last ``Decide`` ended. A decision that nobody asked for fails the session."""
        if self.state is not State.DECIDING or self._method is None:
            return self._fail("eap_not_deciding")
        self.state = State.METHOD
        return self._advance(self._method.decided(decision))

    def abandon(self) -> None:
        """Free what the session holds: it expired, or no decision will come."""
        self.state = State.ENDED
        self._method = None
        self._request = b""

    def _kind(self, response: EapPacket) -> Input:
        if self._method is not None and response.type == self._method.type:
            return Input.METHOD
        return _KINDS.get(response.type or 0, Input.OTHER)

    def _ask_identity(self, response: EapPacket) -> Step:
        self._identifier = self._random(1)[0]
        self.state = State.IDENTITY
        return self._send(EapType.IDENTITY, b"")

    def _offer(self, response: EapPacket) -> Step:
        identity = packet.text(response.data, MAX_IDENTITY)
        if identity is None:
            return self._fail("malformed_identity")
        self.identity = identity
        if not self._left:
            return self._fail("eap_no_certificate" if self._settings.tls is None else "eap_no_method")
        self._identifier = (response.identifier + 1) % 256
        return self._begin(self._left.pop(0))

    def _nak(self, response: EapPacket) -> Step:
        """The peer wants something else (RFC 3748 §5.3.1): the first of its wishes that is left, each once."""
        wanted = choose(response.data, self._left)
        if wanted is None:
            wishes = ", ".join(str(number) for number in response.data[:8]) or "none"
            return self._fail("eap_no_common_method", f"the peer wants types {wishes}")
        self._left.remove(wanted)
        self._identifier = (self._identifier + 1) % 256
        return self._begin(wanted)

    def _begin(self, number: int) -> Step:
        if self._settings.tls is None:  # nothing is offered then; said again for whoever changes that
            return self._fail("eap_no_certificate")
        canonical = packet.without_realm if self._settings.strip_realm else str
        setup = Setup(self._settings.tls, self._size, self.identity, canonical)
        self._method = BY_TYPE[number](setup)
        self.method = self._method.name
        self.state = State.OFFERED
        return self._send(number, self._method.start().data)

    def _to_method(self, response: EapPacket) -> Step:
        if self._method is None:  # cannot be: the table leads here with a method only
            return self._fail("eap_no_method")
        self._identifier = (self._identifier + 1) % 256
        self.state = State.METHOD
        return self._advance(self._method.receive(response.data))

    def _out_of_order(self, response: EapPacket) -> Step:
        return self._fail("eap_out_of_order", f"type {response.type} before any method was offered")

    def _advance(self, step: MethodStep) -> Step:
        """A method's step as the session's. The only place where Success is made."""
        method = self._method
        if isinstance(step, Request) and method is not None:
            return self._send(method.type, step.data)
        if isinstance(step, Decide):
            self.state = State.DECIDING
            return step
        if isinstance(step, Finished) and method is not None:
            self.abandon()
            return Succeed(packet.success(self._response), step.msk, step.session_id, step.username, method.name)
        if isinstance(step, Failed):
            return self._fail(step.reason, step.detail)
        return self._fail("eap_internal")

    def _send(self, type: int, data: bytes) -> Step:
        self._trips += 1
        if self._trips > MAX_ROUND_TRIPS:
            return self._fail("eap_round_trips")
        self._request = packet.encode(EapCode.REQUEST, self._identifier, type, data)
        return Send(self._request)

    def _fail(self, reason: str, detail: str = "") -> Fail:
        self.abandon()
        return Fail(packet.failure(self._response), reason, detail)


_KINDS: dict[int, Input] = {
    EapType.IDENTITY: Input.IDENTITY,
    EapType.NAK: Input.NAK,
    EapType.NOTIFICATION: Input.NOTIFICATION,
}

_TABLE: dict[tuple[State, Input], Callable[[EapSession, EapPacket], Step]] = {
    (State.FRESH, Input.START): EapSession._ask_identity,
    (State.FRESH, Input.IDENTITY): EapSession._offer,
    (State.FRESH, Input.NAK): EapSession._out_of_order,
    (State.FRESH, Input.METHOD): EapSession._out_of_order,
    (State.FRESH, Input.OTHER): EapSession._out_of_order,
    (State.IDENTITY, Input.IDENTITY): EapSession._offer,
    (State.IDENTITY, Input.NAK): EapSession._out_of_order,
    (State.IDENTITY, Input.METHOD): EapSession._out_of_order,
    (State.IDENTITY, Input.OTHER): EapSession._out_of_order,
    (State.OFFERED, Input.NAK): EapSession._nak,
    (State.OFFERED, Input.METHOD): EapSession._to_method,
    (State.METHOD, Input.METHOD): EapSession._to_method,
}
