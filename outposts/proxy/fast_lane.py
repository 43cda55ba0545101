"""One client's connection: reads heads strictly, answers checks at once where nothing has to be waited for.

A complete request without a body that asks whether somebody may pass is answered within the call that brought its last
octet, from the sessions that are ready in memory. Everything else takes the full way (``handlers.py``) on the same
connection. One parser (``wire.read_head``) and one judge (``decision.py``) decide in both, so the lanes cannot differ;
the fast one only gives up when it would have to wait. Answers go out in the order of the requests: while one is under
way nothing after it is read, and what has come already waits.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING, Any

from common import logs
from outposts.proxy import callers, pages
from outposts.proxy.callers import RawCaller
from outposts.proxy.decision import Allow, Check, Login, Unauthorized, judge, pick, prepare
from outposts.proxy.identity import Identity
from outposts.proxy.observe import outcome_of
from outposts.proxy.tunnels import reading
from outposts.proxy.wire import AuthRequest, Connection, Head, HeadError, Lane, auth_request, keeps_alive, lane
from outposts.proxy.wire import read_head as read

if TYPE_CHECKING:
    from outposts.proxy.server import Server

OK = b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 0\r\n"

log = logs.get_logger("proxy")


class Phase(Enum):
    """What a connection waits for; the server ends it if that takes too long."""

    HEAD = "head"  # the rest of a request's head, or the first one
    IDLE = "idle"  # another request
    BUSY = "busy"  # our own answer; it has its own time-outs
    CLOSING = "closing"  # the client takes the last octets


class Wire(asyncio.Protocol):
    """See the head of this module. ``since``: when its phase began, in seconds of the loop's clock."""

    __slots__ = ("_buffer", "_caller", "_desk", "_eof", "_loop", "_paused", "_reading", "_server", "_task",
                 "_transport", "_via", "peer", "phase", "since", "stuck_since")  # fmt: skip

    def __init__(self, server: Server, peer: str, port: int, secure: bool) -> None:
        self._server = server
        self._desk = server.desk
        self._loop = asyncio.get_running_loop()
        self._via = Connection(peer, server.trusted_proxies, secure=secure)
        self.peer = peer
        self._buffer = b""
        self._caller: RawCaller | None = None
        self._task: asyncio.Task[None] | None = None
        self._transport: Any = None
        self._paused = False
        self._reading = True
        self._eof = False
        self.phase = Phase.HEAD
        self.since = self._loop.time()
        self.stuck_since = 0.0  # 0: the client takes what is sent

    @property
    def trusted(self) -> bool:
        """Whether the peer is one of the trusted proxies."""
        return self._via.trusted

    # -- from the loop -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self._transport = transport
        self._transport.set_write_buffer_limits(callers.WRITE_HIGH)
        if not self._server.admit(self):
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """What the client sent."""
        if self._caller is not None:
            self._caller.data_received(data)
        elif self.phase is not Phase.CLOSING:
            self._advance(self._buffer + data if self._buffer else data)

    def eof_received(self) -> bool:
        """The client sends no more; an answer that is under way still goes out, where the connection can do that."""
        self._eof = True
        return self._caller is not None and not self._via.secure

    def pause_writing(self) -> None:
        """The client takes less than is sent."""
        self._paused = True
        self.stuck_since = self._loop.time()
        if self._caller is not None:
            self._caller.pause_writing()

    def resume_writing(self) -> None:
        """It takes more again."""
        self._paused = False
        self.stuck_since = 0.0
        if self._caller is not None:
            self._caller.resume_writing()
        elif self._buffer and self.phase is not Phase.CLOSING:
            self._advance(self._buffer)

    def connection_lost(self, error: Exception | None) -> None:
        """The client has gone. An answer under way hears of it, and ends by itself."""
        self.phase = Phase.CLOSING
        self._server.gone(self)
        if self._caller is not None:
            self._caller.connection_lost(error)

    # -- from the server ---------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return self._caller is None

    def close(self) -> None:
        """Close after what was written."""
        self.phase, self.since = Phase.CLOSING, self._loop.time()
        self._transport.close()

    def abort(self) -> None:
        """Cut off."""
        if self._task is not None:
            self._task.cancel()
        self._transport.abort()

    def expire(self) -> None:
        """The rest of a head did not come in time. Who has sent nothing at all is not told so."""
        if not self._buffer:
            self.close()
            return
        self._refuse(408, "it did not come to an end in time")

    # -- requests ----------------------------------------------------------------------------------------------------

    def _advance(self, data: bytes) -> None:
        """Answer what is complete in ``data``, in order, until one takes the full way."""
        at_first = True
        while data and not self._paused:
            try:
                head = read(data)
            except HeadError as error:
                self._buffer = b""
                self._refuse(error.status, error.problem)
                return
            if head is None:
                break
            at_first = False
            if head.repeated:
                # Whatever is said twice, lengths may be too: nobody knows where this request ends.
                self._buffer = b""
                self._refuse(400, f"more than one {head.repeated}")
                return
            request = auth_request(head, self._via)
            if lane(head) is Lane.FAST and self._quick(head, request):
                if self.phase is Phase.CLOSING:
                    return
                data = data[head.size :]
                continue
            self._full(head, request, data)
            return
        self._buffer = data
        if data:
            if self.phase is not Phase.HEAD or not at_first:
                self.phase, self.since = Phase.HEAD, self._loop.time()
            self._read(not self._paused)
            return
        self.phase, self.since = Phase.IDLE, self._loop.time()
        self._read(True)
        if self._server.draining or self._eof:
            self.close()

    def _read(self, on: bool) -> None:
        if on != self._reading:
            self._reading = on
            reading(self._transport, on)

    def _quick(self, head: Head, request: AuthRequest) -> bool:
        """Answer a check at once; False if something would have to be waited for, or is no check."""
        desk = self._desk
        started = self._loop.time()
        check = prepare(request, desk.providers)
        if type(check) is not Check or check.dialect is None:
            return False
        now = desk.clock()
        session = pick(check, desk.sessions.find, now) if check.values else None
        verdict = judge(check, session, now)
        alive = keeps_alive(head) and not self._server.draining
        identity: Identity | None = None
        if type(verdict) is Allow and (verdict.session is not None or not check.values):
            identity = verdict.identity
            outcome, status = outcome_of(verdict), 200
            if verdict.session is not None:
                desk.sessions.touch(verdict.session, verdict.provider)
            if not alive:
                octets = OK + b"Connection: close\r\n" + identity.block + b"\r\n"
            elif head.minor == 0:
                octets = OK + b"Connection: keep-alive\r\n" + identity.block + b"\r\n"
            else:
                octets = OK + identity.block + b"\r\n"
        elif check.values:
            return False  # a session that is not in memory may be in the store
        else:
            if type(verdict) is Login:
                answer = desk.answers.login(verdict, request)
            elif type(verdict) is Unauthorized:
                answer = desk.answers.unauthorized(verdict, request, check.dialect)
            else:
                return False
            outcome, status = answer.outcome, answer.page.status
            octets = pages.octets(answer.page, answer.more, head.method == "HEAD", head.minor, alive)
        self._transport.write(octets)
        desk.observations.finished(
            request, check.provider, outcome, status, self._loop.time() - started, check=check, identity=identity
        )
        if not alive:
            self.close()
        return True

    def _full(self, head: Head, request: AuthRequest, data: bytes) -> None:
        """Hand a request to the handlers; ``_ended`` is called when it is answered."""
        self._buffer = b""
        self.phase, self.since = Phase.BUSY, self._loop.time()
        try:
            caller = RawCaller(self._transport, head, data[head.size :], self._ended)
        except HeadError as error:
            self._refuse(error.status, error.problem)
            return
        if self._server.draining:
            caller.keep_alive = False
        self._caller = caller
        if self._paused:
            caller.pause_writing()
        self._read(True)
        pairs = raw_pairs(data[: head.size])
        self._task = self._loop.create_task(self._server.handlers.handle(caller, request, pairs), name="request")
        self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("request failed unexpectedly", exc_info=error)
            self._transport.abort()

    def _ended(self, reusable: bool) -> None:
        """A request of the full way is answered."""
        caller, self._caller = self._caller, None
        if not reusable or caller is None or self._transport.is_closing():
            self.phase, self.since = Phase.CLOSING, self._loop.time()
            return
        rest, caller.rest = caller.rest, b""
        # In a turn of its own, so that many small requests in one packet do not nest.
        self._buffer = rest
        self._loop.call_soon(self._next)

    def _next(self) -> None:
        if self._caller is None and self.phase is not Phase.CLOSING:
            self._advance(self._buffer)

    def _refuse(self, status: int, problem: str) -> None:
        """What cannot be read as a request: a page, and the end, because nobody knows where the next one begins."""
        page = pages.bad_request(problem, status=status, as_html=True)
        self._transport.write(pages.octets(page, keep_alive=False))
        request = AuthRequest("-", "-", {}, self._via)
        self._desk.observations.finished(request, None, "bad_request", status, 0.0)
        self.close()


def raw_pairs(block: bytes) -> list[tuple[bytes, bytes]]:
    """Headers as they came, out of a head that ``read_head`` has accepted."""
    found = []
    for line in block[:-4].split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        found.append((name, value.strip(b" \t")))
    return found
