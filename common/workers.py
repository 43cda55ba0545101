"""The supervisor of several workers: a ``Service`` for the daemon that has its work done in other processes.

It knows no protocol. The daemon above it owns the WebSocket, the API reads, the refresh, the metrics port and the
signals, as in a daemon of one process. Below it are a ``Source``, the half of the protocol's service that makes things
once for all (a directory), and the workers (``worker.py``), which own the listeners and the logins::

    Daemon ── Pool ┬─ Source        apply → publish, drop
                   ├─ worker 1      SO_REUSEPORT listeners, logins, bind cache
                   └─ worker 2      …

**Revocation.** The end of a session and everything else that takes rights away is sent to every worker and has to be
acknowledged within ``REVOKE_S``. A worker that does not is killed: with it go its connections and its cache.

**Restart.** A worker that ends, or is silent for ``HANG_S``, is replaced after a growing pause. The new one is told
the configuration and everything published before it may listen. It starts with nothing else, so no revocation is
missed.

**Addresses.** The supervisor binds each address before the workers do (this settles port 0 and finds ports that are
taken) and for TCP keeps it bound, never listening: between the end of the last worker and the next one clients are
refused and nobody else gets the port.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import msgspec
from prometheus_client import REGISTRY

from common import backoff, cache, listen, logs, metric_merge, metrics, setting_transfer
from common.cache import Configuration
from common.errors import StartError
from common.published import Publication
from common.service import DaemonContext
from common.setting_values import ListenAddress
from common.worker_channel import Channel
from common.worker_process import end_of, start
from common.worker_wire import (
    MAX_DROP_KEYS,
    VERSION,
    Ack,
    Configure,
    ConnectionLost,
    Drain,
    Drop,
    Failed,
    Forward,
    Hello,
    Listen,
    Listening,
    Message,
    Metrics,
    MetricsRequest,
    Publish,
    Refresh,
    SessionEnd,
    Started,
    Status,
    ToSupervisor,
    encode,
)

REVOKE_S = 0.8  # design.md §5: a revocation holds on all workers within a second, the killing of one included
APPLY_S = 60.0  # for taking over a configuration or a directory; a million entries take a tenth of it
METRICS_S = 2.0  # a worker that answers later is shown as it was at the last scrape; scrapers give up after 10 s
START_S = 60.0  # from the start of the first workers to their listening, on a busy machine
HANG_S = 15.0  # without a sign of life; they come every second
STEADY_S = 60.0  # a worker that lived longer has not failed at its start: the pauses begin anew
WATCH_S = 1.0  # between looks for silent workers
LATE_S = 0.05  # when a deadline passes, what has arrived meanwhile is read before anybody is killed for it
REAP_S = 0.25  # for the end of killed processes at the very end

log = logs.get_logger("workers")


class Source(Protocol):
    """The supervisor's half of a protocol's service; see ``service.Service`` for what they mean."""

    type: str

    async def apply(self, configuration: Configuration) -> None:
        """Make what the configuration needs, and publish it."""

    def not_ready(self) -> list[str]:
        """What is still missing."""

    async def close(self) -> None:
        """Release everything."""


class Publisher(Protocol):
    """How a ``Source`` reaches the workers. Each call returns when every worker has done it, or is gone."""

    async def publish(self, name: str, details: bytes, publication: Publication | None = None) -> None:
        """Give this to all workers, also to those that start later; replaces what had that name."""

    def withdraw(self, name: str) -> None:
        """Workers that start later are not given this any more."""

    async def drop(self, what: str, keys: Sequence[int]) -> None:
        """Have all workers forget what rests on these keys. A revocation, see above."""


@dataclass(frozen=True)
class Plan:
    """How a protocol's workers are started. ``command`` gets the number of the inherited socket as last argument;
    ``listeners`` names the settings with addresses, and their kind of socket.
    """

    count: int
    command: tuple[str, ...]
    listeners: Mapping[str, socket.SocketKind]


@dataclass(eq=False)
class _Member:
    """One worker process."""

    number: int
    process: subprocess.Popen[bytes]
    since: float  # monotonic seconds, as ``heard``
    heard: float
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    channel: Channel | None = None
    started: bool = False
    listening: bool = False
    why: str = ""  # we ended it; empty if it ended by itself
    reasons: tuple[str, ...] = ("starting",)
    waiting: dict[int, asyncio.Future[str]] = field(default_factory=dict)
    families: Mapping[str, metric_merge.Family] = field(default_factory=dict)


class Pool:
    """See ``common.service.Service`` and ``Composite``. ``draw`` replaces chance in tests."""

    def __init__(
        self,
        context: DaemonContext,
        plan: Plan,
        make_source: Callable[[DaemonContext, Publisher], Source],
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._context = context
        self._plan = plan
        self._draw = draw
        self._source = make_source(context, self)
        self.type = self._source.type
        if hasattr(self._source, "absence_s"):  # see ``daemon.LONG_ABSENCE_S``
            self.absence_s: float = self._source.absence_s
        self.members: dict[int, _Member] = {}
        self._problems: dict[int, str] = {}
        self._numbers = itertools.count(1)
        self._configuration: bytes | None = None
        self._published: dict[str, tuple[bytes, Publication | None]] = {}
        self._retired: dict[str, metric_merge.Family] = {}
        self._settings = b""
        self._placeholders: list[socket.socket] = []
        self._keepers: list[asyncio.Task[Any]] = []
        self._listen_wanted = False
        self._bound: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._listeners: tuple[tuple[str, str, int], ...] = ()
        self._stopping = asyncio.Event()
        metrics.workers_listening.set_function(lambda: sum(member.listening for member in self.members.values()))

    # -- common.service.Service --------------------------------------------------------------------------------------

    async def apply(self, configuration: Configuration) -> None:
        """Tell the workers, then have the source make what they need."""
        content = cache.to_bytes(configuration)
        encode(Configure(0, content))  # raises if it is too large, before anybody is told to serve it
        self._configuration = content
        if not self._keepers:
            self._start()
        await self._tell(lambda number: Configure(number, content), APPLY_S)
        await self._source.apply(configuration)

    async def listen(self) -> list[tuple[str, str, int]]:
        """Have all workers listen. Raises ``StartError`` if one cannot, or if none does in time."""
        self._listen_wanted = True
        for member in list(self.members.values()):
            if member.started and member.channel is not None:
                member.channel.send(Listen(next(self._numbers)))
        try:
            await asyncio.wait_for(self._bound, START_S)
        except TimeoutError:
            problems = "; ".join(self._problems.values()) or "no answer"
            raise StartError(f"not all workers listen within {START_S:g} s: {problems}") from None
        for opened in list(self._placeholders):
            if opened.type == socket.SOCK_DGRAM:  # it would get a share of the datagrams
                self._placeholders.remove(opened)
                opened.close()
        return list(self._listeners)

    def not_ready(self) -> list[str]:
        """Empty as soon as one worker can answer."""
        listening = [member for member in self.members.values() if member.listening]
        if not listening:
            return ["no worker is listening", *self._problems.values(), *self._source.not_ready()]
        if any(not member.reasons for member in listening):
            return []
        return [f"worker {member.number}: {reason}" for member in listening for reason in member.reasons]

    def session_ended(self, session_id: str) -> None:
        """Tell all workers."""
        self._context.spawn(self._revoke(lambda number: SessionEnd(number, session_id)), "session end")

    def connection_lost_for(self, seconds: float) -> None:
        """Tell all workers."""
        self._context.spawn(self._revoke(lambda number: ConnectionLost(number, seconds)), "connection lost")

    async def drain(self, timeout_s: float) -> None:
        """Have all workers finish, and wait for their end."""
        self._stopping.set()
        members = list(self.members.values())
        for member in members:
            if member.started and member.channel is not None:
                member.channel.send(Drain(next(self._numbers), timeout_s))
            else:
                self._kill(member, "stopping")
        if members:
            await asyncio.wait(
                [asyncio.ensure_future(member.ended.wait()) for member in members], timeout=timeout_s + REAP_S
            )

    async def close(self) -> None:
        """End what is left."""
        self._stopping.set()
        members = list(self.members.values())
        for member in members:
            self._kill(member, "stopping")
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for member in members:
            # Killed already, so this takes as long as the system needs to take a process down.
            with contextlib.suppress(subprocess.TimeoutExpired):
                member.process.wait(REAP_S)
        for opened in self._placeholders:
            opened.close()
        self._placeholders.clear()
        self._published.clear()
        if not self._bound.done():
            self._bound.cancel()
        await self._source.close()

    # -- common.service.Composite ------------------------------------------------------------------------------------

    async def metrics_text(self) -> bytes:
        """All processes' metrics as one."""
        await self._tell(MetricsRequest, METRICS_S, kill=False)
        merged = metric_merge.merge(
            metric_merge.collect(REGISTRY), [self._retired, *(member.families for member in self.members.values())]
        )
        return metrics.text(metric_merge.Merged(merged))

    def health_details(self) -> dict[str, Any]:
        """How many workers there are and should be, and what is wrong with the others."""
        problems = dict(self._problems)
        for member in self.members.values():
            if not member.listening and member.number not in problems:
                problems[member.number] = f"worker {member.number}: starting"
        return {
            "workers": {
                "wanted": self._plan.count,
                "listening": sum(member.listening for member in self.members.values()),
                "problems": [text for _, text in sorted(problems.items())],
            }
        }

    # -- Publisher ---------------------------------------------------------------------------------------------------

    async def publish(self, name: str, details: bytes, publication: Publication | None = None) -> None:
        """See ``Publisher``."""
        self._published[name] = (details, publication)
        fd = publication.fd if publication is not None else None
        await self._tell(lambda number: _published(number, name, details, publication), APPLY_S, fd)

    def withdraw(self, name: str) -> None:
        """See ``Publisher``."""
        self._published.pop(name, None)

    async def drop(self, what: str, keys: Sequence[int]) -> None:
        """See ``Publisher``."""
        for first in range(0, len(keys), MAX_DROP_KEYS):
            part = tuple(keys[first : first + MAX_DROP_KEYS])
            await self._revoke(lambda number, part=part: Drop(number, what, part))  # type: ignore[misc]

    # -- talking -----------------------------------------------------------------------------------------------------

    async def _revoke(self, make: Callable[[int], Message]) -> None:
        await self._tell(make, REVOKE_S, must_succeed=True)

    async def _tell(
        self,
        make: Callable[[int], Message],
        within_s: float,
        fd: int | None = None,
        *,
        kill: bool = True,
        must_succeed: bool = False,
    ) -> None:
        """Send a message to all started workers and wait for their acknowledgements.

        Who does not acknowledge in time is killed (``kill``), who says that it went wrong with ``must_succeed``.
        Workers that start later are told by ``_greet`` what they need.
        """
        number = next(self._numbers)
        message = make(number)
        waiting: dict[asyncio.Future[str], _Member] = {}
        for member in list(self.members.values()):
            if member.started and member.channel is not None and member.channel.is_open:
                answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
                member.waiting[number] = answer
                waiting[answer] = member
                member.channel.send(message, fd)
        if not waiting:
            return
        _, late = await asyncio.wait(waiting, timeout=within_s)
        if late:
            await asyncio.sleep(LATE_S)
        for answer, member in waiting.items():
            member.waiting.pop(number, None)
            if not answer.done():
                if kill:
                    self._kill(member, f"did not confirm {type(message).__name__} within {within_s:g} s")
            elif must_succeed and answer.result():
                self._kill(member, f"could not do {type(message).__name__}")

    def _heard(self, member: _Member, message: Message) -> None:
        member.heard = time.monotonic()
        match message:
            case Started():
                self._greet(member, message)
            case Listening():
                member.listening = True
                self._listeners = message.listeners
                self._problems.pop(member.number, None)
                log.info("worker listens", worker=member.number, worker_pid=member.process.pid)
                if sum(other.listening for other in self.members.values()) == self._plan.count:
                    if not self._bound.done():
                        self._bound.set_result(None)
            case Failed():
                log.error("worker cannot listen", worker=member.number, problem=message.problem)
                if not self._bound.done():
                    self._bound.set_exception(StartError(message.problem))
                self._kill(member, message.problem)
            case Ack():
                self._answered(member, message.number, message.problem)
            case Metrics():
                try:
                    member.families = metric_merge.from_bytes(message.families)
                except msgspec.MsgspecError:
                    self._kill(member, "metrics that cannot be read")
                self._answered(member, message.number, "")
            case Status():
                member.reasons = message.reasons
            case Refresh():
                self._context.request_refresh()
            case Forward():
                other = self.members.get(message.worker)
                if other is not None and other.started and other.channel is not None:
                    other.channel.send(message)

    def _answered(self, member: _Member, number: int, problem: str) -> None:
        if problem:
            log.error("worker reports a problem", worker=member.number, problem=problem)
        answer = member.waiting.get(number)
        if answer is not None and not answer.done():
            answer.set_result(problem)

    def _greet(self, member: _Member, message: Started) -> None:
        """A worker runs: everything that it must know before it may listen."""
        if message.version != VERSION or member.channel is None:
            self._kill(member, "is of another version")
            return
        member.started = True
        channel = member.channel
        if self._configuration is not None:
            channel.send(Configure(next(self._numbers), self._configuration))
        for name, (details, publication) in self._published.items():
            fd = publication.fd if publication is not None else None
            channel.send(_published(next(self._numbers), name, details, publication), fd)
        if self._listen_wanted:
            channel.send(Listen(next(self._numbers)))

    # -- processes ---------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Settle the addresses and start all workers. Raises ``StartError``."""
        if sys.platform != "linux":  # where SO_REUSEPORT spreads connections and a worker can be tied to its parent
            raise StartError("OUTPOSTS_WORKERS: several workers need Linux; set it to 1")
        settings = self._context.settings
        found: dict[str, tuple[ListenAddress, ...]] = {}
        for name, kind in self._plan.listeners.items():
            addresses: list[ListenAddress] = []
            for address in getattr(settings, name):
                addresses += self._settle(address, kind)
            found[name] = tuple(addresses)
        for_workers: dict[str, Any] = {"listen_metrics": (), "state_dir": None, "ready_file": None, **found}
        self._settings = setting_transfer.to_bytes(replace(settings, **for_workers))
        for number in range(1, self._plan.count + 1):
            self._keepers.append(self._context.spawn(self._keep(number), f"worker {number}"))
        self._keepers.append(self._context.spawn(self._watch(), "watch workers"))

    def _settle(self, address: ListenAddress, kind: socket.SocketKind) -> list[ListenAddress]:
        """Bind an address for us alone, then so that our workers can bind it too. Returns what is really bound."""
        if address.port:
            # Who shares an address is not refused another sharer: a second daemon would get half of the clients unseen.
            for probe in listen.bind(address, kind):
                probe.close()
        opened = listen.bind(address, kind, shared=True, accept=False)
        self._placeholders += opened
        return [ListenAddress(*listen.name_of(one)) for one in opened]

    async def _keep(self, number: int) -> None:
        """Keep one worker running."""
        failures = 0
        while not self._stopping.is_set():
            try:
                member = self._spawn(number)
                await member.ended.wait()
                problem = member.why or await asyncio.to_thread(end_of, member.process)
                self._kill(member, problem)
                await asyncio.to_thread(member.process.wait)
            except OSError as error:
                problem = f"cannot be started ({error.strerror})"
            else:
                del self.members[number]
                self._retired = metric_merge.merge(self._retired, [metric_merge.counted(member.families)])
                if time.monotonic() - member.since > STEADY_S:
                    failures = 0
            if self._stopping.is_set():
                return
            failures += 1
            wait_s = backoff.delay(failures, self._draw())
            self._problems[number] = f"worker {number} {problem}, failures in a row: {failures}"
            metrics.worker_restarts.inc()
            log.error("worker ended, starting another", worker=number, problem=problem, wait_s=round(wait_s, 1))
            await asyncio.sleep(wait_s)

    def _spawn(self, number: int) -> _Member:
        """Start a process and greet it. Raises ``OSError``."""
        process, ours = start(self._plan.command)
        now = time.monotonic()
        member = _Member(number, process, now, now)
        self.members[number] = member

        def lost(reason: str) -> None:
            self._lost(member, reason)

        member.channel = Channel(ours, ToSupervisor, lambda message, _: self._heard(member, message), lost)
        member.channel.send(Hello(VERSION, number, self._context.instance_id, self._settings))
        return member

    def _kill(self, member: _Member, why: str) -> None:
        """End a worker now. The first reason is the one that counts."""
        if member.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                member.process.kill()
        if member.channel is not None:
            member.channel.close()
        self._lost(member, why)

    def _lost(self, member: _Member, reason: str) -> None:
        if member.ended.is_set():
            return
        member.why = reason
        member.started = member.listening = False
        for answer in member.waiting.values():
            if not answer.done():
                answer.set_result("")  # it does nothing any more, which is what a revocation wants
        member.ended.set()

    async def _watch(self) -> None:
        """Kill who is silent."""
        while True:
            await asyncio.sleep(WATCH_S)
            now = time.monotonic()
            for member in list(self.members.values()):
                patience = HANG_S if member.started else START_S
                if not member.ended.is_set() and now - member.heard > patience:
                    self._kill(member, f"no sign of life for {patience:g} s")


def _published(number: int, name: str, details: bytes, publication: Publication | None) -> Publish:
    return Publish(number, name, details, publication is not None, publication.size if publication is not None else 0)
