"""Takes packets from sockets, has them decided, sends what comes of it: the one path of every request and every reply.

::

    received → intake ─┬ drop                                    → counted, nothing sent
                       ├ copy                                    → the same reply again
                       └ accepted → at once, or a task of its own → replied ─┬ sent, and kept for copies
                                                                             ├ too late, or superseded: kept only
                                                                             └ silence

Nothing here waits for the core: what has to be waited for runs as a task, at most ``max_pending`` of them, and of one
client at most ``max_pending_per_client``, so that none can use up the room of the others. Whatever goes wrong on the
way ends in silence, never in an Access-Accept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from common import logs
from outposts.radius.intake import ACCOUNTING, ACCOUNTING_CODES, AUTH_CODES, STATUS, Accepted, Copy, Drop, Intake
from outposts.radius.providers import RadiusProvider
from outposts.radius.request import UDP, Answer, Request, Silence
from outposts.radius.rfc import Code
from outposts.radius.session import Entry
from outposts.radius.wire import PacketError, encode_reply

Outcome = Answer | Silence

MAX_PENDING = 1000  # requests in progress; the operator's ``max_pending`` takes its place
MAX_PENDING_PER_CLIENT = 500  # of one address; the operator's ``max_pending_per_nas`` takes its place

# Answers to Status-Server (RFC 5997 §4): they let nobody in.
ALIVE, ALIVE_ACCOUNTING = Answer(Code.ACCESS_ACCEPT), Answer(Code.ACCOUNTING_RESPONSE)

log = logs.get_logger("radius")


class Line(Protocol):
    """A socket or connection that replies go out by."""

    def send(self, octets: bytes, where: object) -> None:
        """Send a reply to where its request came from: ``where`` is what the line itself gave to ``received``."""

    def silent(self, where: object) -> None:
        """A request that was taken gets no reply (or not now: a copy of it may)."""


class AuthenticatorPort(Protocol):
    """What decides Access-Requests (``auth.Authenticator``)."""

    def decide(self, request: Request) -> Outcome | Coroutine[Any, Any, Outcome]:
        """The answer where nobody has to be asked, else what is to be awaited for it."""


class AccountingPort(Protocol):
    """What records Accounting-Requests."""

    def answer(self, request: Request) -> Coroutine[Any, Any, Outcome]:
        """Accounting-Response when it is recorded, else silence: then the client sends it again."""


class Observer(Protocol):
    """What is told of everything that happened (``observe.Observations``). ``took`` is in seconds."""

    def dropped(self, drop: Drop, client_ip: str, now: float) -> None:
        """A packet was dropped by intake."""

    def copied(self, copy: Copy, client_ip: str) -> None:
        """A copy of a recent packet came."""

    def finished(self, request: Request, outcome: Outcome, took: float) -> None:
        """A request was answered, or met by silence."""


class Desk:
    """One per process. ``max_pending`` and ``max_pending_per_client`` change at a refresh.

    ``able()`` says whether logins can be decided now, or what is to be awaited to know.
    """

    def __init__(
        self,
        intake: Intake,
        authenticator: AuthenticatorPort,
        observer: Observer,
        *,
        accounting: AccountingPort | None = None,
        able: Callable[[], bool | Coroutine[Any, Any, bool]] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.intake = intake
        self.authenticator = authenticator
        self.accounting = accounting
        self.max_pending = MAX_PENDING
        self.max_pending_per_client = MAX_PENDING_PER_CLIENT
        # With several workers: passes a packet on whose State another one made; False if it is to be dealt with here.
        self.pass_on: Callable[[Request, Line, object], bool] | None = None
        self.in_service: Callable[[RadiusProvider], bool] = lambda provider: provider.pk in intake.providers.by_pk
        self._observer = observer
        self._able = able
        self._clock = clock
        self._pending = 0
        self._clients: dict[str, int] = {}  # requests in progress by address
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: asyncio.Event | None = None

    @property
    def pending(self) -> int:
        """Requests in progress."""
        return self._pending

    def received(
        self,
        datagram: bytes,
        client_ip: str,
        client_port: int,
        line: Line,
        where: object,
        *,
        local: str = "",
        accounting_only: bool = False,
        transport: str = UDP,
        provider: RadiusProvider | None = None,
        passed_on: bool = False,
    ) -> str:
        """A datagram came. Replies go to ``line.send``, maybe much later. Returns the reason of a drop, else empty.

        ``client_ip`` is the address without scope, IPv4 unmapped. ``provider``: see ``Intake.receive``. ``passed_on``:
        another worker has got it and found that it is ours.
        """
        now = self._clock()
        verdict = self.intake.receive(
            datagram,
            client_ip,
            client_port,
            now,
            line=line,
            local=local,
            codes=ACCOUNTING_CODES if accounting_only else AUTH_CODES,
            transport=transport,
            provider=provider,
        )
        if type(verdict) is Accepted:
            if self.pass_on is not None and not passed_on and self.pass_on(verdict.request, line, where):
                self.intake.duplicates.forget(verdict.entry)  # its copies are passed on too
                return ""
            self._begin(verdict.request, verdict.entry, line, where, accounting_only)
        elif type(verdict) is Copy:
            self._observer.copied(verdict, client_ip)
            if verdict.reply:
                line.send(verdict.reply, where)
        elif type(verdict) is Drop:
            self._observer.dropped(verdict, client_ip, now)
            return verdict.reason
        return ""

    def _begin(self, request: Request, entry: Entry, line: Line, where: object, accounting_only: bool) -> None:
        code = request.packet.code
        try:
            outcome: Outcome | Coroutine[Any, Any, Outcome]
            if self._is_full(request):
                outcome = Silence("overload")
            elif code == STATUS:
                outcome = self._status(accounting_only)
            elif code != ACCOUNTING:
                outcome = self.authenticator.decide(request)
            elif self.accounting is not None:
                outcome = self.accounting.answer(request)
            else:
                outcome = Silence("accounting_off")
        except Exception:
            log.exception("request failed unexpectedly", client=request.client_ip)
            outcome = Silence("unexpected")
        if isinstance(outcome, Answer | Silence):
            # Nobody was asked, so nobody's password was tried: nothing to slow down, and no room to be taken by it.
            self._replied(request, entry, line, where, outcome, delays=False)
            return
        self._taken(request)
        task = asyncio.get_running_loop().create_task(self._work(request, entry, line, where, outcome))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _status(self, accounting_only: bool) -> Outcome | Coroutine[Any, Any, Outcome]:
        """Status-Server (RFC 5997 §4): a sign of life while logins can be decided; nobody is let in by it."""
        alive = ALIVE_ACCOUNTING if accounting_only else ALIVE
        able = self._able()
        if isinstance(able, bool):
            return alive if able else Silence("not_able")

        async def later() -> Outcome:
            return alive if await able else Silence("not_able")

        return later()

    async def _work(
        self, request: Request, entry: Entry, line: Line, where: object, work: Coroutine[Any, Any, Outcome]
    ) -> None:
        outcome: Outcome = Silence("unexpected")
        try:
            outcome = await work
        except asyncio.CancelledError:
            outcome = Silence("stopping")
            raise
        except Exception:
            log.exception("request failed unexpectedly", client=request.client_ip)
        finally:
            try:
                self._replied(request, entry, line, where, outcome)
            finally:
                self._done(request)  # last: a delayed reply must not look like the end of everything

    def _is_full(self, request: Request) -> bool:
        return (
            self._pending >= self.max_pending or self._clients.get(request.client_ip, 0) >= self.max_pending_per_client
        )

    def _taken(self, request: Request) -> None:
        self._pending += 1
        self._clients[request.client_ip] = self._clients.get(request.client_ip, 0) + 1

    def _done(self, request: Request) -> None:
        self._pending -= 1
        left = self._clients[request.client_ip] - 1
        if left:
            self._clients[request.client_ip] = left
        else:
            del self._clients[request.client_ip]
        if not self._pending and self._idle is not None:
            self._idle.set()

    def _replied(
        self, request: Request, entry: Entry, line: Line, where: object, outcome: Outcome, *, delays: bool = True
    ) -> None:
        provider = request.provider
        if isinstance(outcome, Answer) and not self.in_service(provider):
            outcome = Silence("provider_gone")
        if isinstance(outcome, Silence):
            if outcome.again:
                self.intake.duplicates.forget(entry)
            else:
                self.intake.duplicates.answer(entry, b"", self._clock())
        elif outcome.code == Code.ACCESS_REJECT and provider.reject_delay and delays:
            self._taken(request)
            loop = asyncio.get_running_loop()
            loop.call_later(provider.reject_delay, self._send_delayed, request, entry, line, where, outcome)
            return
        else:
            outcome = self._send(request, entry, line, where, outcome)
        self._finished(request, line, where, outcome)

    def _finished(self, request: Request, line: Line, where: object, outcome: Outcome) -> None:
        if isinstance(outcome, Silence):
            line.silent(where)
        self._observer.finished(request, outcome, self._clock() - request.received_at)

    def _send_delayed(self, request: Request, entry: Entry, line: Line, where: object, answer: Answer) -> None:
        try:
            outcome = self._send(request, entry, line, where, answer)
            self._finished(request, line, where, outcome)
        finally:
            self._done(request)

    def _send(self, request: Request, entry: Entry, line: Line, where: object, answer: Answer) -> Outcome:
        """Sign, keep for copies, and send. Silence if that cannot be, or nobody waits for it any more."""
        try:
            octets = encode_reply(request.packet, request.provider.secret, answer.code, answer.attributes)
        except PacketError as error:
            self.intake.duplicates.forget(entry)
            return Silence(error.reason)
        now = self._clock()
        if not self.intake.duplicates.answer(entry, octets, now):
            return Silence("superseded")
        if now - request.received_at > request.provider.deadline:
            # Kept for the next copy; a reply that comes by itself now could meet another request of that Identifier.
            return Silence("deadline", again=False)
        line.send(octets, where)
        return answer

    async def drain(self, timeout_s: float) -> None:
        """Finish what is in progress; nothing new may be received meanwhile."""
        if self._pending:
            self._idle = asyncio.Event()
            try:
                await asyncio.wait_for(self._idle.wait(), timeout_s)
            except TimeoutError:
                log.warning("requests cut off", requests=self._pending)
            finally:
                self._idle = None

    async def close(self) -> None:
        """Cut off what is in progress."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
