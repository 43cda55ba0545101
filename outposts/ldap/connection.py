"""One client's connection above the socket: dispatch, time, identity. ``server.Wire`` moves its bytes.

``session.Session`` says what is legal now and in which order, ``auth``, ``routing`` and ``extended`` say what a request
means. Here:

* requests that need the core run beside the others, each in a task of its own;
* a large result is made and written in slices: the loop is never held for more than ``SLICE_S``, and nothing more is
  made while the client does not read;
* whatever goes wrong in one request ends as that request's refusal; the connection's other requests go on.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from common import logs, metrics
from outposts.ldap import controls, extended, routing, sasl
from outposts.ldap.auth import BindAnswer, Identity, Peer, refused
from outposts.ldap.desk import Desk, Wire
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
    Sasl,
    SearchRequest,
    UnbindRequest,
)
from outposts.ldap.prepared import bind_success, whole_bind
from outposts.ldap.replies import REQUEST_TAG, bind_controls, search_done
from outposts.ldap.rfc import RESPONSE_TAG, ResultCode, Tag
from outposts.ldap.session import Session, State
from outposts.ldap.wire import encode_bind_response, encode_extended_response, encode_result

log = logs.get_logger("ldap")

SLICE_S = 0.003  # seconds of work on one result before others get their turn: the promise is 5 ms, one chunk may follow
TURN_S = 0.0003  # seconds of it that are always worth the switch
TURN_SHARE = 0.5  # of what others used since the last slice: one listing leaves them two thirds of their rate
AT_ONCE = 65_536  # bytes of a result that are gathered and written in one go; more is a stream
SLICE_REQUESTS = 32  # requests of one read before others get their turn: a search from a snapshot takes some 30 µs


@dataclass(slots=True)
class _Stream:
    """A result that is being written."""

    request: SearchRequest
    chunks: Iterator[bytes]
    result: routing.Result
    started: float

    def close(self) -> None:
        """Make nothing more, follow nothing any more."""
        _close(self.chunks)
        if self.result.follower is not None:
            self.result.follower.close()


class Connection:
    """A client's connection. ``received``, ``blocked``, ``unblocked`` and ``lost`` are called by the wire."""

    def __init__(self, desk: Desk, wire: Wire, client_ip: str, *, encrypted: bool, listener: str) -> None:
        self.desk = desk
        self.client_ip = client_ip
        self.listener = listener
        self.last_heard = self.blocked_since = time.monotonic()
        self.is_blocked = False
        self.session: Session[Identity] = Session(desk.limits, secure=encrypted)
        self._wire = wire
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._tags: dict[int, int] = {}  # what a task's request is answered with
        self._streams: deque[_Stream] = deque()
        self._following: dict[int, _Stream] = {}  # searches that wait for changes of the directory
        self._backlog: deque[Request] = deque()
        self._binding: asyncio.Task[None] | None = None
        self._bind_octets = b""  # digest of the bind that is being received whole and alone
        self._reading = True
        self._partial = (0, self.last_heard)  # which message was incomplete, and since when
        self._pump_due = False
        self._turn_ended = 0.0  # when the last slice was
        self._closing = False

    # -- called by the wire and the server ---------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Bytes from the client."""
        self.last_heard = now = time.monotonic()
        if self.session.is_quiet and self._answered_at_once(data, now):
            return
        self._serve(self.session.receive(data))
        self._bind_octets = b""

    def _answered_at_once(self, data: bytes, started: float) -> bool:
        """Whether the bytes are one search or bind that is known by its octets, and now answered (``prepared``)."""
        if self._streams or self._backlog or self.is_blocked or self._closing:
            return False
        desk = self.desk
        identity = self.session.identity
        try:
            if identity is not None:
                known = desk.searches.prepared(identity, desk.providers)
                answer = known[0].reply(data) if known is not None else None
                if answer is not None and known is not None:
                    octets, count = answer
                    self._wire.send(octets)
                    try:
                        desk.observer.prepared_search(self.client_ip, identity, data, count, known[1], started)
                    except Exception:
                        log.exception("request not told", client=self.client_ip)
                    return True
            start, behind = whole_bind(data)
            return behind > 0 and self._bound_at_once(data, start, behind, started)
        except Exception:
            log.exception("request known by its octets failed unexpectedly", client=self.client_ip)
            return False

    def _bound_at_once(self, data: bytes, start: int, behind: int, started: float) -> bool:
        """RFC 4511 §4.2 for a bind whose octets the cache has answered before, and would answer again."""
        desk = self.desk
        authenticator = desk.authenticator
        octets = authenticator.octets(data[behind:], encrypted=self.session.secure)
        answer = authenticator.again(octets, self.client_ip, desk.providers)
        if answer is None or answer.identity is None:
            self._bind_octets = octets
            return False
        former = desk.bound.enter(self, answer.identity)
        self.session.bound_at_once(answer.identity)
        self._wire.send(bind_success(data[start:behind]))
        self._tell(desk.observer.known_bind, data, answer, started)
        if former is not None and former is not answer.identity:
            asyncio.get_running_loop().call_soon(authenticator.release, former)
        return True

    def _tell(self, tell: Callable[..., None], *told: Any) -> None:
        """Have a finished request counted and logged; what goes wrong there is not the client's business."""
        try:
            tell(self.client_ip, *told)
        except Exception:
            log.exception("request not told", client=self.client_ip)

    def blocked(self) -> None:
        """The client does not read: make no more, and read no more requests."""
        self.is_blocked = True
        self.blocked_since = time.monotonic()
        self._regulate()

    def unblocked(self) -> None:
        """The client has read everything."""
        self.is_blocked = False
        self._regulate()
        self._pump()

    def lost(self) -> None:
        """The socket is gone."""
        self._closing = True
        self.session.connection_lost()
        if self._binding is not None:
            self._binding.cancel()
        for task in list(self._tasks.values()):
            task.cancel()
        for stream in (*self._streams, *self._following.values()):
            stream.close()
        self._streams.clear()
        self._following.clear()
        self._backlog.clear()
        self._leave()

    def finish(self, code: ResultCode, diagnostic: str) -> None:
        """Say goodbye (RFC 4511 §4.4.1) and close when everything is written."""
        self.session.disconnect(code, diagnostic)
        self._speak(self.session.data_to_send(), fault=False)

    def hang_up(self) -> None:
        """Close without a word: the client was silent for too long."""
        self.session.connection_lost()
        self._speak(b"")

    @property
    def identity(self) -> Identity | None:
        """Who the connection is bound as."""
        return self.session.identity

    @property
    def outstanding(self) -> int:
        """Requests in progress."""
        return len(self._tasks) + len(self._streams) + (self._binding is not None)

    @property
    def following(self) -> int:
        """Searches that follow the directory; one that has nothing to say for now is not outstanding."""
        return len(self._following) + sum(stream.result.follower is not None for stream in self._streams)

    @property
    def closing(self) -> bool:
        """Nothing more will be answered."""
        return self._closing

    # -- order -------------------------------------------------------------------------------------------------------

    def _serve(self, requests: list[Request]) -> None:
        """Start requests that the session handed over; many at once in slices, so that others get their turn."""
        if self._backlog:
            self._backlog.extend(requests)
            return
        if len(requests) > SLICE_REQUESTS:
            self._backlog.extend(requests[SLICE_REQUESTS:])
            requests = requests[:SLICE_REQUESTS]
            asyncio.get_running_loop().call_soon(self._serve_more)
        for request in requests:
            try:
                HANDLERS[type(request)](self, request)
            except Exception:
                log.exception("request failed unexpectedly", client=self.client_ip)
                self._fail(request)
        session = self.session
        data = session.data_to_send()
        if data or session.state is State.CLOSED:
            self._speak(data)
        elif not self._reading or self._tasks or self._streams or self._binding is not None or self._backlog:
            self._regulate()

    def _serve_more(self) -> None:
        requests = list(self._backlog)
        self._backlog.clear()
        if not self._closing:
            self._serve(requests)

    def _fail(self, request: Request) -> None:
        """The answer to a request whose handler broke down; without one to give, the connection ends."""
        tag = RESPONSE_TAG.get(REQUEST_TAG.get(type(request), 0))
        if tag is not None and self.session.finish(request.message_id):
            self._wire.send(encode_result(request.message_id, tag, ResultCode.OTHER, diagnostic="internal error"))
        else:
            self.finish(ResultCode.OTHER, "internal error")

    def _speak(self, data: bytes, *, fault: bool = True) -> None:
        """Write what the session itself has to say, and close if it is closed and nothing handed over waits."""
        if data:
            if fault:
                metrics.protocol_errors.labels(self.listener).inc()
                log.info("message refused", client=self.client_ip, closed=self.session.closed)
            self._wire.send(data)
        if self.session.closed and not self._closing and not self._backlog:
            self._closing = True
            self._leave()
            self._wire.close()

    def _run(self, request: Request, work: Awaitable[None], *parts: Awaitable[Any]) -> None:
        """Run the rest of a request beside the others; ``work`` answers it itself and awaits ``parts``."""

        async def guarded() -> None:
            try:
                await work
            except Exception:
                log.exception("request failed unexpectedly", client=self.client_ip)
                self._fail(request)

        def over(_: object) -> None:
            for part in (work, *parts):  # stopped before they began
                _close(part)
            if self._tasks.get(request.message_id) is task:  # the id of an abandoned request may be in use again
                del self._tasks[request.message_id], self._tags[request.message_id]
            self._regulate()

        self._tags[request.message_id] = RESPONSE_TAG[REQUEST_TAG[type(request)]]
        task = self._tasks[request.message_id] = asyncio.get_running_loop().create_task(guarded())
        task.add_done_callback(over)

    def _regulate(self) -> None:
        """Read from the client only while it reads from us and has not too much in progress."""
        wanted = (
            not self._closing
            and not self.is_blocked
            and self.session.wants_data
            and not self._backlog
            and len(self._tasks) + len(self._streams) < self.desk.max_requests
        )
        if wanted != self._reading and not self._closing:
            self._reading = wanted
            if wanted:
                self._wire.resume_reading()
            else:
                self._wire.pause_reading()

    def _leave(self) -> None:
        """The connection rests on no session any more; that session may be over now."""
        former = self.desk.bound.leave(self)
        if former is not None:
            self.desk.authenticator.release(former)

    # -- requests ----------------------------------------------------------------------------------------------------

    def _bind(self, request: BindRequest) -> None:
        """RFC 4511 §4.2. The session has made the connection anonymous; it stays so unless the bind succeeds."""
        self._leave()
        started = time.monotonic()
        certificate = self._wire.client_certificate() if isinstance(request.authentication, Sasl) else None
        peer = Peer(self.client_ip, self.session.secure, certificate)
        octets, self._bind_octets = self._bind_octets, b""
        answer = self.desk.authenticator.at_once(request, peer, self.desk.providers, octets)
        if answer is not None:
            self._answer_bind(request, answer, started)
        else:
            self._binding = asyncio.get_running_loop().create_task(self._finish_bind(request, peer, started))

    async def _finish_bind(self, request: BindRequest, peer: Peer, started: float) -> None:
        desk = self.desk
        try:
            answer = await desk.authenticator.bind(request, peer, desk.providers)
        except Exception:
            log.exception("bind failed unexpectedly", client=self.client_ip)
            answer = refused("unexpected")
        self._binding = None
        if not self._closing:
            self._answer_bind(request, answer, started)

    def _answer_bind(self, request: BindRequest, answer: BindAnswer, started: float) -> None:
        desk = self.desk
        try:
            if answer.identity is not None:
                desk.bound.enter(self, answer.identity)
            self._wire.send(
                encode_bind_response(
                    request.message_id,
                    answer.code,
                    diagnostic=answer.diagnostic,
                    controls=bind_controls(request, answer),
                )
            )
            waiting = self.session.bind_finished(answer.identity)
            desk.observer.bind(self.client_ip, request.name, answer, started)
            if waiting:
                # In a turn of its own: a client may send any number of binds in one piece.
                self._backlog.extend(waiting)
                asyncio.get_running_loop().call_soon(self._serve_more)
            else:
                self._speak(self.session.data_to_send())  # of what stood behind the bind and was no request
                self._regulate()
        except Exception:
            log.exception("bind failed unexpectedly", client=self.client_ip)
            self.finish(ResultCode.OTHER, "internal error")

    def _unbind(self, request: UnbindRequest) -> None:
        """RFC 4511 §4.3: no answer; the session is closed already, ``_speak`` does the rest."""

    def _search(self, request: SearchRequest) -> None:
        """RFC 4511 §4.5: at once from a snapshot, or beside other requests when the core has to be asked."""
        started = time.monotonic()
        desk = self.desk
        mechanisms = self._mechanisms() if not request.base else ()
        answer = desk.searches.begin(request, self.session.identity, desk.providers, mechanisms)
        if isinstance(answer, routing.Result):
            if answer.follower is not None and answer.follower.stays and self.following >= desk.max_followers:
                answer.follower.close()
                answer = routing.failed("too_many_followers", answer.app)
            self._deliver(request, answer, started)
        else:
            self._run(request, self._finish_search(request, answer, started), answer)

    def _mechanisms(self) -> tuple[str, ...]:
        """The SASL mechanisms that this connection may use now, for the root DSE."""
        external = any(provider.settings.client_certificates for provider in self.desk.providers)
        shown = external and self._wire.client_certificate() is not None
        return sasl.mechanisms(encrypted=self.session.secure, certificate=shown, external=external)

    def is_dripping(self, now: float, timeout_s: float) -> bool:
        """Whether one message has been incomplete for longer than that. To be asked regularly: it takes notes."""
        session = self.session
        if not session.is_partial or not self._reading or session.partial_number != self._partial[0]:
            self._partial = (session.partial_number, now)
            return False
        return now - self._partial[1] > timeout_s

    async def _finish_search(self, request: SearchRequest, work: Awaitable[routing.Result], started: float) -> None:
        try:
            result = await work
        except Exception:
            log.exception("search failed unexpectedly", client=self.client_ip)
            result = routing.failed("unexpected")
        if self.session.in_progress(request.message_id):
            self._deliver(request, result, started)

    def _deliver(self, request: SearchRequest, result: routing.Result, started: float) -> None:
        """Write a result: one piece at once, more of them in slices and in turn."""
        chunks = result.answer.chunks
        parts: list[bytes] = []
        if not self._streams and not self.is_blocked and result.follower is None:
            try:
                size = 0
                for chunk in chunks:
                    parts.append(chunk)
                    size += len(chunk)
                    if size > AT_ONCE:
                        break
                else:
                    if self.session.finish(request.message_id):
                        parts.append(search_done(request, result))
                        self._wire.send(b"".join(parts))
                        self.desk.observer.search(self.client_ip, self.session.identity, request, result, started)
                    return
            except Exception:
                log.exception("search failed unexpectedly", client=self.client_ip)
                result, parts, chunks = routing.failed("unexpected"), [], iter(())
            chunks = chain(parts, chunks)
        self._streams.append(_Stream(request, chunks, result, started))
        self._regulate()
        self._pump()

    def _pump(self) -> None:
        """Write results until the client stops reading or the slice of time is used up.

        A slice goes by what others used since the last one, so that a listing takes a third of the time at most.
        """
        if self._pump_due:
            return
        started = time.monotonic()
        until = started + min(SLICE_S, max(TURN_S, TURN_SHARE * (started - self._turn_ended)))
        while self._streams and not self._held():
            stream = self._streams[0]
            try:
                for chunk in stream.chunks:
                    self._wire.send(chunk)
                    now = time.monotonic()
                    if self._held():
                        self._turn_ended = now
                        return
                    if now > until:
                        self._turn_ended = now
                        self._pump_due = True
                        asyncio.get_running_loop().call_soon(self._pump_again)
                        return
            except Exception:
                log.exception("search failed unexpectedly", client=self.client_ip)
                stream.close()
                stream.result = routing.failed("unexpected")
            self._streams.popleft()
            if stream.result.follower is not None and not stream.result.follower.ended:
                self._park(stream)
            elif self.session.finish(stream.request.message_id):
                self._wire.send(search_done(stream.request, stream.result))
                self.desk.observer.search(
                    self.client_ip, self.session.identity, stream.request, stream.result, stream.started
                )
        self._regulate()

    def _park(self, stream: _Stream) -> None:
        """A search that follows the directory waits for its changes."""
        message_id = stream.request.message_id
        follower = stream.result.follower
        if follower is None or not self.session.in_progress(message_id):
            stream.close()
            return

        def awake() -> None:
            if self._following.get(message_id) is stream:
                del self._following[message_id]
                stream.chunks = follower.due()
                self._streams.append(stream)
                self._pump()

        self._following[message_id] = stream
        follower.wake = awake

    def _held(self) -> bool:
        return self.is_blocked or self._closing

    def _pump_again(self) -> None:
        self._pump_due = False
        self._pump()

    def _abandon(self, request: AbandonRequest) -> None:
        """RFC 4511 §4.11: no answer, to this request or the abandoned one. The session knows that it is in progress."""
        self._stop(request.abandoned_id)

    def _stop(self, message_id: int) -> int | None:
        """Stop a request in progress; the tag of its response, None if there is nothing to stop."""
        task = self._tasks.get(message_id)
        if task is not None:
            task.cancel()
            return self._tags[message_id]
        found = self._following.pop(message_id, None)
        for stream in self._streams:
            if stream.request.message_id == message_id:
                found = stream
        if found is None:
            return None
        if found in self._streams:
            self._streams.remove(found)
        found.close()
        if found.result.follower is not None:
            self.desk.observer.search(self.client_ip, self.session.identity, found.request, found.result, found.started)
        return Tag.SEARCH_DONE

    def _cancel(self, own_id: int, message_id: int) -> ResultCode:
        """RFC 3909 §2.2. A bind and StartTLS stand alone, so they are never in progress beside this."""
        if message_id == own_id or self._tags.get(message_id) == Tag.EXTENDED_RESPONSE:
            return ResultCode.CANNOT_CANCEL
        if not self.session.in_progress(message_id):
            return ResultCode.NO_SUCH_OPERATION
        tag = self._stop(message_id)
        if tag is None or not self.session.finish(message_id):
            return ResultCode.TOO_LATE
        self._wire.send(encode_result(message_id, tag, ResultCode.CANCELED))
        return ResultCode.SUCCESS

    def _compare(self, request: CompareRequest) -> None:
        """RFC 4511 §4.10."""
        started = time.monotonic()
        answer = self.desk.searches.compare(request, self.session.identity, self.desk.providers)
        if isinstance(answer, ResultCode):
            self._compared(request, answer, started)
        else:
            self._run(request, self._finish_compare(request, answer, started), answer)

    async def _finish_compare(self, request: CompareRequest, work: Awaitable[ResultCode], started: float) -> None:
        self._compared(request, await work, started)

    def _compared(self, request: CompareRequest, code: ResultCode, started: float) -> None:
        if self.session.finish(request.message_id):
            self._wire.send(encode_result(request.message_id, Tag.COMPARE_RESPONSE, code))
            self.desk.observer.other(self.client_ip, "compare", self.session.identity, code, started)

    def _write(self, request: AddRequest | ModifyRequest | DeleteRequest | ModifyDNRequest) -> None:
        """The directory is the core's: nothing is written through LDAP."""
        started = time.monotonic()
        bound = self.session.identity is not None
        code = ResultCode.UNWILLING_TO_PERFORM if bound else ResultCode.INSUFFICIENT_ACCESS_RIGHTS
        try:
            controls.read(request.controls, controls.Operation.WRITE)
        except controls.ControlError as error:
            code = error.code
        if self.session.finish(request.message_id):
            self._wire.send(encode_result(request.message_id, RESPONSE_TAG[REQUEST_TAG[type(request)]], code))
            self.desk.observer.other(self.client_ip, "write", self.session.identity, code, started)

    def _extended(self, request: ExtendedRequest) -> None:
        """RFC 4511 §4.12. An accepted StartTLS turns the wire to TLS right behind its answer."""
        started = time.monotonic()
        session = self.session
        identity = session.identity
        view = extended.View(
            encrypted=session.secure,
            can_encrypt=True,  # without a certificate of the core there is a self-signed one
            outstanding=len(self._tasks) + len(self._streams),
            authorization_id=identity.authorization_id if identity is not None else "",
            cancel=partial(self._cancel, request.message_id),
        )
        answer = extended.answer(request, view)
        if session.state is State.TLS_STARTING:
            if answer.start_tls:
                self._wire.send(session.start_tls())
                self._wire.start_tls()
            else:
                self._wire.send(session.refuse_tls(answer.code, answer.diagnostic))
        elif session.finish(request.message_id):
            self._wire.send(
                encode_extended_response(request.message_id, answer.code, answer.oid, answer.value, answer.diagnostic)
            )
        self.desk.observer.other(self.client_ip, "extended", self.session.identity, answer.code, started)


HANDLERS: dict[type, Callable[[Connection, Any], None]] = {
    SearchRequest: Connection._search,
    BindRequest: Connection._bind,
    UnbindRequest: Connection._unbind,
    AbandonRequest: Connection._abandon,
    ExtendedRequest: Connection._extended,
    CompareRequest: Connection._compare,
    AddRequest: Connection._write,
    ModifyRequest: Connection._write,
    DeleteRequest: Connection._write,
    ModifyDNRequest: Connection._write,
}


def _close(chunks: Iterator[bytes] | Awaitable[Any]) -> None:
    close = getattr(chunks, "close", None)
    if close is not None:
        close()
