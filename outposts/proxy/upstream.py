"""Reverse proxy: one request that may pass → the application → its answer, streamed (RFC 9110 §7, RFC 9112).

Nothing is kept of a body but what waits for the slower side. A request is sent a second time only if it was sent on a
connection that had been kept, not one octet of an answer came, none of its body was read, and its method may be
repeated (RFC 9110 §9.2.2). Time-outs cost nothing per request: a clock looks at all that is under way twice a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from common import logs
from outposts.proxy import heads, pages
from outposts.proxy.bodies import chunk, last_chunk
from outposts.proxy.decision import Allow, Check
from outposts.proxy.exchange import STATUS, BadBody, Caller, CallerGone, Cause, Forwarded, Pairs
from outposts.proxy.forwarding import UpstreamRequest, upstream_request
from outposts.proxy.identity import folded
from outposts.proxy.pages import Page
from outposts.proxy.providers import ProxyProvider
from outposts.proxy.responses import ResponseHead, ResponseReader
from outposts.proxy.tunnels import Tunnel
from outposts.proxy.upstream_options import DEFAULTS, Options
from outposts.proxy.upstream_pool import Connection, NoConnection, Place, Pool

TICK_S = 0.5  # how often time-outs are looked at
SWEEP_TICKS = 10  # of these between two looks at the connections that are kept
CONTINUE_S = (
    1.0  # applications that do not know 100 wait for a body that waits for them; after this the client may send
)

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""RFC 9110 §9.2.2, without TRACE, which is never passed on."""
NEVER = frozenset({"CONNECT", "TRACE"})  # TRACE answers with all headers, ours included
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

log = logs.get_logger("upstream")


class Failure(Exception):
    """The request ends here."""

    def __init__(self, cause: Cause, detail: str = "") -> None:
        super().__init__(detail)
        self.cause = cause
        self.detail = detail


class _Stale(Exception):
    """A kept connection had been closed by the other side."""


class Phase(Enum):
    """What is being waited for; its value is the cause if that takes too long."""

    CONNECTING = Cause.CONNECT_TIMEOUT
    RECEIVING = Cause.SLOW_BODY
    SENDING = Cause.IDLE
    WAITING = Cause.RESPONSE_TIMEOUT


class Forwarder:
    """Forwards requests of one process. To be used on one event loop."""

    def __init__(self, *, tick_s: float = TICK_S) -> None:
        self.pool = Pool()
        self.tunnels: set[Tunnel] = set()
        self._active: set[_Exchange] = set()
        self._options: dict[ProxyProvider, Options] = {}
        self._tick_s = tick_s
        self._ticks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def under_way(self) -> int:
        """Requests that are not answered yet, without tunnels."""
        return len(self._active) - len(self.tunnels)

    async def forward(
        self,
        caller: Caller,
        check: Check,
        allow: Allow,
        pairs: Sequence[tuple[bytes, bytes]],
        *,
        more: Sequence[tuple[bytes, bytes]] = (),
    ) -> Forwarded:
        """Answer a request that may pass. ``pairs``: its headers as they came; ``more``: headers for the answer.

        Always answers, with a page if the application does not; raises nothing but ``CancelledError``.
        """
        headers = check.request.headers
        as_html = pages.wants_html(headers.get("accept", ""), headers.get("sec-fetch-mode", ""))

        def page(cause: Cause, detail: str) -> Page:
            superuser = allow.session is not None and allow.session.claims.superuser
            return pages.upstream_failed(
                STATUS[cause], cause.value, as_html=as_html, detail=detail if superuser else ""
            )

        try:
            plan = upstream_request(check, allow, pairs)
        except ValueError as error:
            log.error("request cannot be forwarded", provider=allow.provider.name, problem=type(error).__name__)
            return await self.send(caller, None, DEFAULTS, page, more)
        return await self.send(caller, plan, self.options(allow.provider), page, more)

    async def send(
        self,
        caller: Caller,
        plan: UpstreamRequest | None,
        options: Options,
        page: Callable[[Cause, str], Page],
        more: Sequence[tuple[bytes, bytes]] = (),
    ) -> Forwarded:
        """The same for a request that is ready; ``page`` makes the answer if there is none."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        exchange = _Exchange(self, caller, plan, options, more, started)
        ended = exchange.ended
        self._active.add(exchange)
        if self._timer is None:
            self._timer = loop.call_later(self._tick_s, self._tick)
        try:
            await exchange.run()
        except asyncio.CancelledError:
            if exchange.why is None:
                caller.abort()
                raise
            exchange.task.uncancel()
            ended.cause, ended.detail = exchange.why, exchange.why_detail
        except (Failure, NoConnection) as failure:
            ended.cause, ended.detail = failure.cause, failure.detail
        except CallerGone:
            ended.cause = Cause.CLIENT_GONE
        except Exception:
            log.exception("forwarding failed unexpectedly")
            ended.cause = Cause.FAILED
        finally:
            self._active.discard(exchange)
            exchange.finish()
        if ended.cause is not None:
            self._refuse(caller, exchange, page, more)
        ended.total_s = loop.time() - started
        return ended

    def _refuse(
        self,
        caller: Caller,
        exchange: _Exchange,
        page: Callable[[Cause, str], Page],
        more: Sequence[tuple[bytes, bytes]],
    ) -> None:
        """The application has not answered, or not to the end."""
        ended = exchange.ended
        cause = ended.cause
        assert cause is not None
        if cause is Cause.CLIENT_GONE or caller.gone:
            ended.cause, ended.status = Cause.CLIENT_GONE, STATUS[Cause.CLIENT_GONE]
            caller.abort()
            return
        if exchange.answering:
            caller.abort()  # half an answer must not look like a whole one
            return
        ended.status = STATUS[cause]
        reusable = caller.keep_alive and exchange.body_read
        caller.write(pages.octets(page(cause, ended.detail), more, caller.method == "HEAD", caller.minor, reusable))
        caller.end(reusable)

    def options(self, provider: ProxyProvider) -> Options:
        """A provider's options, made once."""
        found = self._options.get(provider)
        if found is None:
            found = self._options[provider] = Options.of(provider)
        return found

    def renew(self) -> None:
        """The configuration was read anew: settings and files of TLS are looked at again."""
        self._options.clear()
        self.pool.renew()

    async def close(self) -> None:
        """Cut all tunnels and connections."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for tunnel in list(self.tunnels):
            tunnel.close()
        await self.pool.close()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for exchange in list(self._active):
            exchange.tick(now)
        for tunnel in list(self.tunnels):
            tunnel.tick(now)
        self._ticks += 1
        if self._ticks % SWEEP_TICKS == 0:
            self.pool.sweep()
        busy = self._active or self.tunnels or self.pool.idle
        self._timer = loop.call_later(self._tick_s, self._tick) if busy and not self._closed else None


class _Exchange:
    """One request under way."""

    __slots__ = (
        "_connection",
        "_deadline",
        "_forwarder",
        "_more",
        "_options",
        "_phase",
        "_pump",
        "_sent_body",
        "_started",
        "answering",
        "body_read",
        "caller",
        "ended",
        "plan",
        "task",
        "why",
        "why_detail",
    )

    def __init__(
        self,
        forwarder: Forwarder,
        caller: Caller,
        plan: UpstreamRequest | None,
        options: Options,
        more: Sequence[tuple[bytes, bytes]],
        started: float,
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task: asyncio.Task[Any] = task
        self.caller = caller
        self.plan = plan
        self.ended = Forwarded()
        self.answering = False  # whether an octet of the answer was sent
        self.body_read = caller.length == 0  # whether all of the request was read from the client
        self.why: Cause | None = None
        self.why_detail = ""
        self._forwarder = forwarder
        self._options = options
        self._more = more
        self._started = started
        self._phase = Phase.CONNECTING
        self._deadline = started + options.connect_timeout_s
        self._connection: Connection | None = None
        self._pump: asyncio.Task[None] | None = None
        self._sent_body = False

    # -- time and ends -------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Look whether it takes too long, or nobody waits for it any more."""
        if self.why is not None or (self._connection is None and self._phase is not Phase.CONNECTING):
            return
        if self.caller.gone:
            self._stop(Cause.CLIENT_GONE)
        elif now > self._deadline:
            self._stop(self._phase.value)
        elif self.caller.expects and self._phase is Phase.RECEIVING and now > self._started + CONTINUE_S:
            self._go_on()

    def _stop(self, why: Cause, detail: str = "") -> None:
        """End it from outside of its task."""
        if self.why is None:
            self.why, self.why_detail = why, detail
            self.task.cancel()

    def _now_in(self, phase: Phase, seconds: float) -> None:
        self._phase = phase
        self._deadline = asyncio.get_running_loop().time() + seconds

    def finish(self) -> None:
        """Give the connection back, or close it."""
        if self.why is None:
            self.why = Cause.FAILED  # nothing stops it any more
        if self._pump is not None:
            self._pump.cancel()
        connection = self._connection
        if connection is not None:
            self._connection = None
            if self.ended.cause is None and self._sent_body:
                self._forwarder.pool.give_back(connection)
            else:
                connection.close()
                self._forwarder.pool.give_back(connection)

    # -- the request ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Forward. Raises ``Failure``, ``NoConnection`` or ``CallerGone``."""
        plan, caller, options = self.plan, self.caller, self._options
        if plan is None:
            raise Failure(Cause.FAILED)
        self.ended.origin = plan.upstream.origin
        if caller.method in NEVER:
            raise Failure(Cause.METHOD)
        if options.max_body and (caller.length or 0) > options.max_body:
            raise Failure(Cause.TOO_LARGE)
        body = caller.whole()
        self.body_read = body is not None
        if body is not None and options.max_body and len(body) > options.max_body:
            raise Failure(Cause.TOO_LARGE)
        upgrade = plan.upgrade.lower()
        if not (upgrade in options.upgrades and body == b"" and caller.minor == 1 and caller.method == "GET"):
            upgrade = ""
        try:
            head = heads.request_head(
                plan, caller.method, upgrade, len(body) if body is not None else caller.length, caller.expects
            )
        except ValueError as error:
            raise Failure(Cause.BAD_REQUEST, str(error)) from None
        place = Place.of(plan.upstream, options.tls)
        pool = self._forwarder.pool
        idempotent = caller.method in IDEMPOTENT
        connection = pool.kept(place, youngest_only=not idempotent or body is None)
        if connection is not None:
            self.ended.reused = True
            try:
                await self._ask(connection, head, body, upgrade)
                return
            except _Stale as stale:
                if not idempotent or body is None:
                    raise Failure(Cause.CLOSED, str(stale)) from None
            connection.close()
            pool.give_back(connection)
            self._connection = None
            self.ended.reused = False
        self._now_in(Phase.CONNECTING, options.connect_timeout_s)
        await self._ask(await pool.open(place), head, body, upgrade)

    async def _ask(self, connection: Connection, head: bytes, body: bytes | None, upgrade: str) -> None:
        """Send the request and pass on its answer. Raises ``_Stale`` if a kept connection had ended."""
        self._connection = connection
        reader = ResponseReader(self.caller.method == "HEAD", bool(upgrade))
        connection.begin(reader)
        if body is None:
            connection.write(head)
            self._now_in(Phase.RECEIVING, self._options.idle_timeout_s)
            self._pump = asyncio.get_running_loop().create_task(self._send_body(connection))
        else:
            connection.write(head + body if body else head)
            self.ended.received = len(body)
            self._sent_body = True
            self._now_in(Phase.WAITING, self._options.response_timeout_s)
        while reader.head is None:
            if connection.broken is not None:
                untouched = reader.untouched and connection.closed
                if untouched and self.ended.reused and not self.ended.received:
                    raise _Stale(str(connection.broken))
                raise Failure(Cause.CLOSED if untouched else Cause.BROKEN, str(connection.broken))
            await connection.changed()
            if reader.interim:
                self._interim(reader)
        self.ended.head_s = asyncio.get_running_loop().time() - self._started
        if reader.head.status == 101:
            await self._tunnel(connection, reader.head, upgrade)
        else:
            await self._answer(connection, reader, reader.head)

    def _interim(self, reader: ResponseReader) -> None:
        """1xx: 100 lets a client send its body, 103 goes on, others mean nothing to it."""
        for head in reader.interim:
            if head.status == 100:
                if self.caller.expects:
                    self._go_on()
            elif head.status == 103 and self.caller.minor == 1:
                self.caller.write(
                    b"HTTP/1.1 103 Early Hints\r\n%b\r\n" % b"".join(b"%b\r\n" % one for one in head.lines)
                )
        reader.interim.clear()

    def _go_on(self) -> None:
        self.caller.expects = False
        self.caller.write(CONTINUE)

    async def _send_body(self, connection: Connection) -> None:
        """The request's body, as it comes. In a task of its own: the answer may come before its end."""
        caller, options, ended = self.caller, self._options, self.ended
        chunked = caller.length is None
        try:
            while True:
                piece = await caller.read()
                if not piece:
                    break
                ended.received += len(piece)
                if options.max_body and ended.received > options.max_body:
                    self._stop(Cause.TOO_LARGE)
                    return
                connection.write(chunk(piece) if chunked else piece)
                if connection.writing_paused:
                    self._now_in(Phase.SENDING, options.idle_timeout_s)
                    await connection.writable()
                if connection.closed:
                    return
                self._now_in(Phase.RECEIVING, options.idle_timeout_s)
            if chunked:
                connection.write(last_chunk(self._trailers()))
            self.body_read = self._sent_body = True
            self._now_in(Phase.WAITING, options.response_timeout_s)
        except BadBody as error:
            self._stop(Cause.BAD_BODY, str(error))
        except CallerGone:
            self._stop(Cause.CLIENT_GONE)
        except Exception:
            log.exception("forwarding failed unexpectedly")
            self._stop(Cause.FAILED)

    def _trailers(self) -> Pairs:
        """Trailers that go on: nothing that would have been taken out, or was set, as a header."""
        found = self.caller.trailers()
        if not found or self.plan is None:
            return []
        names = frozenset(folded(name.decode("latin-1")) for name, _ in self.plan.headers)
        return [(name, value) for name, value in found if heads.may_trail(name, names)]

    # -- the answer ----------------------------------------------------------------------------------------------------

    async def _answer(self, connection: Connection, reader: ResponseReader, head: ResponseHead) -> None:
        caller, options, ended = self.caller, self._options, self.ended
        bare = caller.method == "HEAD" or head.status in (204, 304)
        chunked = not bare and head.length is None and caller.minor == 1
        keeps = caller.keep_alive and self.body_read and (bare or head.length is not None or chunked)
        lines = [b"HTTP/1.1 %d %b" % (head.status, head.reason), *head.lines]
        lines += [b"%b: %b" % pair for pair in self._more]
        if head.length is not None and head.status != 204:
            lines.append(b"Content-Length: %d" % head.length)
        elif chunked:
            lines.append(b"Transfer-Encoding: chunked")
        if not keeps:
            lines.append(b"Connection: close")
        elif caller.minor == 0:
            lines.append(b"Connection: keep-alive")
        ended.status = head.status
        waits_s = options.idle_timeout_s
        if head.length is None and any(heads.is_event_stream(line) for line in head.lines):
            waits_s = options.tunnel_idle_s
        first = b"\r\n".join(lines) + b"\r\n\r\n"
        self.answering = True
        while True:
            pieces = connection.take()
            if pieces:
                size = sum(map(len, pieces))
                ended.sent += size
                if chunked:
                    pieces = [chunk(pieces[0] if len(pieces) == 1 else b"".join(pieces))]
                if reader.done and chunked:
                    pieces.append(last_chunk(heads.passed_trailers(reader.trailers)))
                caller.write(first + b"".join(pieces) if first or len(pieces) > 1 else pieces[0])
                if reader.done:
                    break
                first = b""
            elif reader.done:
                if chunked:
                    first += last_chunk(heads.passed_trailers(reader.trailers))
                if first:
                    caller.write(first)
                break
            elif first:
                caller.write(first)
                first = b""
            if connection.broken is not None and not reader.pieces:
                raise Failure(Cause.CUT, str(connection.broken))
            if caller.paused:
                self._now_in(Phase.SENDING, waits_s)
                await caller.drained()
            if not reader.pieces and not reader.done and connection.broken is None:
                self._now_in(Phase.SENDING, waits_s)
                await connection.changed()
        caller.end(keeps and self.body_read)

    async def _tunnel(self, connection: Connection, head: ResponseHead, upgrade: str) -> None:
        """101: from here on the octets are not ours."""
        if head.upgrade.lower().decode("latin-1") != upgrade:
            raise Failure(Cause.BROKEN, "it changes to a protocol that nobody asked for")
        lines = [b"HTTP/1.1 101 %b" % (head.reason or b"Switching Protocols"), *head.lines]
        lines += [b"%b: %b" % pair for pair in self._more]
        lines += [b"Upgrade: %b" % head.upgrade, b"Connection: Upgrade"]
        caller, ended, forwarder = self.caller, self.ended, self._forwarder
        if caller.gone:
            raise CallerGone("the client has closed")
        caller.write(b"\r\n".join(lines) + b"\r\n\r\n")
        self.answering = ended.tunnel = True
        ended.status = 101
        client, from_client = caller.take_over()
        upstream, from_upstream = connection.take_over()
        forwarder.pool.forget(connection)
        self._connection = None
        self._phase = Phase.WAITING  # the tunnel has its own clock
        tunnel = Tunnel(client, from_client, upstream, from_upstream, self._options.tunnel_idle_s)
        forwarder.tunnels.add(tunnel)
        try:
            await tunnel.ended
        finally:
            forwarder.tunnels.discard(tunnel)
            tunnel.close()
            ended.received, ended.sent = tunnel.received, tunnel.sent
        caller.end(False)
