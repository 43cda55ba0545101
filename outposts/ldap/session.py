"""Who may say what, when, on one LDAP connection. Two house rules, as in any file of this name:

* every rule about the order of messages lives here, and nowhere else;
* nothing here knows sockets, clocks, providers or what a message means: bytes in, requests out, identity stored.

The theory (RFC 4511 §4.2.1, §4.14, §5; RFC 4513 §4). A connection starts anonymous. A bind request makes it anonymous
again at once, gives up what is still in progress, and is served alone: nothing behind it is even decoded until it is
answered, because the answer decides which message size is allowed. StartTLS needs a quiet, clear connection; octets
that arrive behind it in clear text could have been put there by anybody, so they end the connection. Everything else
runs side by side. The two tables below say it all: :data:`RULES` (state × kind of message → what to do) and
:data:`TRANSITIONS` (state × what happened → next state).

How a server uses it::

    for request in session.receive(data):    # a bind request, and an accepted StartTLS, is always the last one
        …                                    # start it; at its end: if session.finish(request.message_id): answer
    write(session.data_to_send())            # refusals and notices that the rules themselves called for
    if session.closed: disconnect, after the write

    write(bind response); for request in session.bind_finished(identity or None): …
    write(session.start_tls()); switch the transport to TLS

``receive`` never raises. Where a bind gives up operations, each is announced as an :class:`AbandonRequest` in front of
the bind request, so the server needs one way to stop an operation.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, Generic, TypeVar

import msgspec

from outposts.ldap import filters
from outposts.ldap.ber import ProtocolError, frame_end
from outposts.ldap.messages import (
    AbandonRequest,
    AddRequest,
    BindRequest,
    CompareRequest,
    DeleteRequest,
    ExtendedRequest,
    ModifyDNRequest,
    ModifyRequest,
    Request,
    SearchRequest,
    UnbindRequest,
    UnknownRequest,
)
from outposts.ldap.rfc import RESPONSE_TAG, Extension, ResultCode, Tag
from outposts.ldap.wire import (
    decode_request,
    encode_extended_response,
    encode_notice_of_disconnection,
    encode_refusal,
    encode_result,
)


class SessionLimits(msgspec.Struct, frozen=True):
    """What one connection may cost."""

    max_message_size_anonymous: int = 65_536
    """Bytes of one message before a bind: names, passwords and SASL credentials stay far below (OpenLDAP: 262,143)."""

    max_message_size: int = 4_194_304
    """Bytes of one message after a bind: filters may list thousands of names (OpenLDAP: 4,194,303)."""

    max_nesting: int = filters.MAX_NESTING
    """Levels of and/or/not in a filter."""

    max_operations: int = 1_000
    """Requests in progress, a few KiB each; libraries that send without waiting stay in the hundreds. More: busy."""

    max_waiting: int = 131_072
    """Bytes kept undecoded while a bind runs: two reads of a transport. Then :attr:`Session.wants_data` is False; at
    twice as much the connection ends with busy."""


class State(Enum):
    """Where a connection stands."""

    UNBOUND = "unbound"
    BINDING = "binding"
    BOUND = "bound"
    TLS_STARTING = "tls-starting"
    CLOSED = "closed"


class Kind(Enum):
    """What the rules tell apart about messages."""

    BIND = "bind"
    UNBIND = "unbind"
    ABANDON = "abandon"
    START_TLS = "start-tls"
    OPERATION = "operation"
    UNKNOWN = "unknown"


class Rule(Enum):
    """What to do with a message."""

    BIND = "give up operations, forget the identity, hand over, wait"
    END = "hand over and close, no answer"
    ABANDON = "hand over when the operation is in progress and can be given up, else ignore"
    START_TLS = "hand over when the connection is quiet and clear, else refuse"
    START = "hand over"
    DISCONNECT = "notice of disconnection, close"
    WAIT = "leave undecoded until the bind is answered"
    IGNORE = "drop"


RULES: Final[dict[tuple[State, Kind], Rule]] = {
    (State.UNBOUND, Kind.BIND): Rule.BIND,
    (State.UNBOUND, Kind.UNBIND): Rule.END,
    (State.UNBOUND, Kind.ABANDON): Rule.ABANDON,
    (State.UNBOUND, Kind.START_TLS): Rule.START_TLS,
    (State.UNBOUND, Kind.OPERATION): Rule.START,
    (State.UNBOUND, Kind.UNKNOWN): Rule.DISCONNECT,
    (State.BOUND, Kind.BIND): Rule.BIND,
    (State.BOUND, Kind.UNBIND): Rule.END,
    (State.BOUND, Kind.ABANDON): Rule.ABANDON,
    (State.BOUND, Kind.START_TLS): Rule.START_TLS,
    (State.BOUND, Kind.OPERATION): Rule.START,
    (State.BOUND, Kind.UNKNOWN): Rule.DISCONNECT,
    **{(State.BINDING, kind): Rule.WAIT for kind in Kind},
    **{(State.TLS_STARTING, kind): Rule.DISCONNECT for kind in Kind},
    **{(State.CLOSED, kind): Rule.IGNORE for kind in Kind},
}


class Event(Enum):
    """What moves a connection from state to state."""

    BIND_RECEIVED = "bind request received"
    BIND_SUCCEEDED = "bind answered with success for a name"
    BIND_ENDED_ANONYMOUS = "bind answered otherwise: failed, anonymous, or SASL in progress"
    START_TLS_RECEIVED = "acceptable StartTLS request received"
    START_TLS_ENDED_ANONYMOUS = "StartTLS answered on a connection without identity"
    START_TLS_ENDED_BOUND = "StartTLS answered on a connection with identity"
    CLOSED = "unbind, fatal error, or the transport is gone"


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.UNBOUND, Event.BIND_RECEIVED): State.BINDING,
    (State.BOUND, Event.BIND_RECEIVED): State.BINDING,
    (State.BINDING, Event.BIND_SUCCEEDED): State.BOUND,
    (State.BINDING, Event.BIND_ENDED_ANONYMOUS): State.UNBOUND,
    (State.UNBOUND, Event.START_TLS_RECEIVED): State.TLS_STARTING,
    (State.BOUND, Event.START_TLS_RECEIVED): State.TLS_STARTING,
    (State.TLS_STARTING, Event.START_TLS_ENDED_ANONYMOUS): State.UNBOUND,
    (State.TLS_STARTING, Event.START_TLS_ENDED_BOUND): State.BOUND,
    **{(state, Event.CLOSED): State.CLOSED for state in State},
}
"""A pair that is not listed changes nothing: an answer that comes too late, after the connection was closed."""

_KINDS: Final[dict[type, Kind]] = {
    BindRequest: Kind.BIND,
    UnbindRequest: Kind.UNBIND,
    AbandonRequest: Kind.ABANDON,
    SearchRequest: Kind.OPERATION,
    ModifyRequest: Kind.OPERATION,
    AddRequest: Kind.OPERATION,
    DeleteRequest: Kind.OPERATION,
    ModifyDNRequest: Kind.OPERATION,
    CompareRequest: Kind.OPERATION,
    ExtendedRequest: Kind.OPERATION,
    UnknownRequest: Kind.UNKNOWN,
}

_TAGS: Final[dict[type, Tag]] = {
    SearchRequest: Tag.SEARCH_REQUEST,
    ModifyRequest: Tag.MODIFY_REQUEST,
    AddRequest: Tag.ADD_REQUEST,
    DeleteRequest: Tag.DELETE_REQUEST,
    ModifyDNRequest: Tag.MODIFY_DN_REQUEST,
    CompareRequest: Tag.COMPARE_REQUEST,
    ExtendedRequest: Tag.EXTENDED_REQUEST,
}


def kind_of(message: Request) -> Kind:
    """What the rules see in a message."""
    if isinstance(message, ExtendedRequest) and message.oid == Extension.START_TLS:
        return Kind.START_TLS
    return _KINDS[type(message)]


Identity = TypeVar("Identity")


class Session(Generic[Identity]):
    """One connection. ``identity`` is whatever the server bound it as; None means anonymous."""

    def __init__(self, limits: SessionLimits | None = None, *, secure: bool = False) -> None:
        """``secure``: the transport is encrypted from the start (LDAPS)."""
        self.limits = limits or SessionLimits()
        self.secure = secure
        self.state = State.UNBOUND
        self.identity: Identity | None = None
        self._operations: set[int] = set()
        self._start_tls_id = 0
        self._pending = bytearray()
        self.partial_number = 0  # of the messages that did not come in one piece, which one this is
        self._needed = 0  # length that ``_pending`` must reach before looking at it again makes sense
        self._out: list[bytes] = []

    # --- what the server asks ----------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """The connection is to be ended, after :meth:`data_to_send` is written."""
        return self.state is State.CLOSED

    @property
    def wants_data(self) -> bool:
        """False: stop reading from the transport until a bind is finished."""
        return self.state is not State.BINDING or len(self._pending) <= self.limits.max_waiting

    @property
    def is_quiet(self) -> bool:
        """Nothing is in progress or half received: one whole bind or search may be answered on the spot."""
        return (self.state is State.BOUND or self.state is State.UNBOUND) and not self._operations and not self._pending

    def bound_at_once(self, identity: Identity) -> None:
        """A bind came in a quiet moment and was answered with success on the spot (:meth:`bind_finished`)."""
        if not self.is_quiet:
            raise ValueError("not in a quiet moment")
        self._move(Event.BIND_RECEIVED)
        self.identity = identity
        self._move(Event.BIND_SUCCEEDED)

    @property
    def is_partial(self) -> bool:
        """A message has begun and waits for its rest; ``partial_number`` tells it from another one."""
        return bool(self._pending) and self.state is not State.BINDING

    @property
    def operations(self) -> frozenset[int]:
        """Message ids in progress, binds and StartTLS not among them."""
        return frozenset(self._operations)

    def data_to_send(self) -> bytes:
        """Octets that the rules themselves call for, each handed out once."""
        if not self._out:
            return b""
        data = b"".join(self._out)
        self._out.clear()
        return data

    # --- what arrives ------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Request]:
        """Take octets from the transport; gives the requests that may start now, in order. Never raises."""
        if self.state is State.CLOSED or not data:
            return []
        if self.state is State.TLS_STARTING:
            self.disconnect(ResultCode.PROTOCOL_ERROR, "octets before the answer to StartTLS")
            return []
        begun = bool(self._pending)
        if begun or self.state is State.BINDING:
            self._pending += data
            if self.state is State.BINDING:
                if len(self._pending) > 2 * self.limits.max_waiting:
                    self.disconnect(ResultCode.BUSY, "too much sent while a bind is in progress")
                return []
            if len(self._pending) < self._needed:
                return []
            data = bytes(self._pending)
            self._pending.clear()
        return self._advance(data, begun=begun)

    def _advance(self, data: bytes, *, begun: bool = False) -> list[Request]:
        """Decode what is complete in ``data`` and legal now; the rest becomes ``_pending``.

        ``begun``: the first message in ``data`` was incomplete before.
        """
        requests: list[Request] = []
        position = 0
        size = len(data)
        while position < size and (self.state is State.UNBOUND or self.state is State.BOUND):
            try:
                cap = self._cap()
                end = frame_end(data, position, cap)
                if not end or end > size:
                    self._needed = end - position if end else size - position + 1
                    break
                message = decode_request(data, position, end, max_nesting=self.limits.max_nesting)
            except ProtocolError as error:
                self._broken(error)
                if error.fatal or self.closed:
                    return requests
                position = end
                continue
            position = end
            self._apply(message, requests)
        if position < size and self.state is State.TLS_STARTING:
            requests.pop()
            self.disconnect(ResultCode.PROTOCOL_ERROR, "octets behind StartTLS")
        if self.state is not State.CLOSED and position < size:
            self._pending += memoryview(data)[position:]
            if position or not begun:
                self.partial_number += 1
        return requests

    def _cap(self) -> int:
        """Largest message in bytes that this connection may send now."""
        limits = self.limits
        return limits.max_message_size if self.state is State.BOUND else limits.max_message_size_anonymous

    def _broken(self, error: ProtocolError) -> None:
        """Answer a message that could not be decoded (RFC 4511 §4.1.1)."""
        if not error.fatal and (not error.message_id or error.message_id in self._operations):
            error.fatal = True
            error.request_tag = None
        self._out.append(encode_refusal(error))
        if error.fatal:
            self._close()

    def _apply(self, message: Request, requests: list[Request]) -> None:
        """Do what :data:`RULES` says about one message."""
        kind = kind_of(message)
        rule = RULES[self.state, kind]
        message_id = message.message_id
        if rule is Rule.END:
            requests.append(message)
            self._close()
        elif rule is Rule.ABANDON:
            assert isinstance(message, AbandonRequest)
            if message.abandoned_id in self._operations:
                self._operations.discard(message.abandoned_id)
                requests.append(message)
        elif rule is Rule.DISCONNECT:
            self.disconnect(ResultCode.PROTOCOL_ERROR, "not a request")
        elif message_id == 0 or message_id in self._operations:
            self.disconnect(ResultCode.PROTOCOL_ERROR, "message id is zero or in use")
        elif rule is Rule.BIND:
            requests.extend(AbandonRequest(message_id, abandoned) for abandoned in sorted(self._operations))
            self._operations.clear()
            self.identity = None
            self._move(Event.BIND_RECEIVED)
            requests.append(message)
        elif rule is Rule.START_TLS:
            assert isinstance(message, ExtendedRequest)
            self._consider_start_tls(message, requests)
        elif len(self._operations) >= self.limits.max_operations:
            tag = RESPONSE_TAG[_TAGS[type(message)]]
            self._out.append(
                encode_result(message_id, tag, ResultCode.BUSY, diagnostic="too many requests in progress")
            )
        else:
            self._operations.add(message_id)
            requests.append(message)

    def _consider_start_tls(self, message: ExtendedRequest, requests: list[Request]) -> None:
        """RFC 4511 §4.14.1: once, alone, without a value."""
        if self.secure:
            self._refuse_tls(message.message_id, ResultCode.OPERATIONS_ERROR, "connection is already encrypted")
        elif message.value is not None:
            self._refuse_tls(message.message_id, ResultCode.PROTOCOL_ERROR, "StartTLS has no value")
        elif self._operations:
            self._refuse_tls(message.message_id, ResultCode.OPERATIONS_ERROR, "requests are in progress")
        else:
            self._start_tls_id = message.message_id
            self._move(Event.START_TLS_RECEIVED)
            requests.append(message)

    def _refuse_tls(self, message_id: int, code: int, diagnostic: str) -> None:
        self._out.append(encode_extended_response(message_id, code, Extension.START_TLS, diagnostic=diagnostic))

    # --- what the server tells ---------------------------------------------------------------------------------------

    def finish(self, message_id: int) -> bool:
        """An operation has its final answer. True: send it; False: it was given up or the connection is closed."""
        if message_id in self._operations:
            self._operations.discard(message_id)
            return True
        return False

    def in_progress(self, message_id: int) -> bool:
        """The operation may still send answers."""
        return message_id in self._operations

    def bind_finished(self, identity: Identity | None) -> list[Request]:
        """A bind is answered (write the response first). Gives the requests that waited behind it.

        ``identity``: who is bound now; None after a failed or anonymous bind and for saslBindInProgress, which all
        leave the connection anonymous. Does nothing when no bind is in progress, e.g. because the connection closed.
        """
        if self.state is not State.BINDING:
            return []
        self.identity = identity
        self._move(Event.BIND_ENDED_ANONYMOUS if identity is None else Event.BIND_SUCCEEDED)
        return self._resume()

    def start_tls(self) -> bytes:
        """Accept StartTLS: gives the response to write in clear text, directly before the transport turns to TLS.

        Nothing when no StartTLS waits for its answer.
        """
        if self.state is not State.TLS_STARTING:
            return b""
        self.secure = True
        self._move(Event.START_TLS_ENDED_ANONYMOUS if self.identity is None else Event.START_TLS_ENDED_BOUND)
        return encode_extended_response(self._start_tls_id, ResultCode.SUCCESS, Extension.START_TLS)

    def refuse_tls(self, code: int, diagnostic: str = "") -> bytes:
        """Refuse StartTLS: gives the response to write; the connection goes on in clear text."""
        if self.state is not State.TLS_STARTING:
            return b""
        self._move(Event.START_TLS_ENDED_ANONYMOUS if self.identity is None else Event.START_TLS_ENDED_BOUND)
        return encode_extended_response(self._start_tls_id, code, Extension.START_TLS, diagnostic=diagnostic)

    def disconnect(self, code: int, diagnostic: str = "") -> None:
        """End the connection from this side: queues the notice of disconnection (RFC 4511 §4.4.1) and closes."""
        if self.state is not State.CLOSED:
            self._out.append(encode_notice_of_disconnection(code, diagnostic))
            self._close()

    def connection_lost(self) -> None:
        """The transport is gone."""
        self._out.clear()
        self._close()

    def _resume(self) -> list[Request]:
        data = bytes(self._pending)
        self._pending.clear()
        return self._advance(data)

    def _close(self) -> None:
        # The identity stays readable: the server may have to end its session with the core.
        self._move(Event.CLOSED)
        self._operations.clear()
        self._pending.clear()

    def _move(self, event: Event) -> None:
        self.state = TRANSITIONS.get((self.state, event), self.state)
