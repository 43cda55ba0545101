"""A worker process: does what its supervisor says with the protocol's service; see ``worker_wire.py`` for the words.

Configuration, published things and listening come one after the other, in the order they were sent. The end of a
session and other revocations do not wait for them: they take effect in the turn of the loop in which they arrive. A
worker whose supervisor is gone ends, at once and with its connections: nobody could tell it of ended sessions any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

from prometheus_client import REGISTRY

from common import cache, logs, metric_merge, setting_transfer
from common.daemon import connect, new_loop
from common.errors import StartError
from common.published import map_published
from common.service import Connections, DaemonContext, Service, put_in_service
from common.settings import Settings
from common.worker_channel import Channel
from common.worker_wire import (
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
    ToWorker,
    WireError,
)

PR_SET_PDEATHSIG = 1  # prctl(2), Linux: signal that this process gets when its parent dies
STATUS_S = 1.0  # seconds between signs of life; the supervisor's patience (workers.HANG_S) is many of them
CLOSE_S = 0.5  # for closing listeners, and again for connections to the core, at the end
SIGTERM_DRAIN_S = 8.5  # as daemon.DRAIN_S: for a SIGTERM that reaches a worker past its supervisor

log = logs.get_logger("worker")


@dataclass(frozen=True)
class Published:
    """Something the supervisor's half of a service has made. ``file``: a read-only map, if there is one."""

    name: str
    details: bytes
    file: mmap.mmap | None


class WorkerService(Service, Protocol):
    """A service in a worker: what it does not make itself, it is given."""

    async def receive(self, published: Published) -> None:
        """Use what was published; raises if it cannot be used."""

    def drop(self, what: str, keys: Sequence[int]) -> None:
        """Forget at once what rests on these keys; ``what`` is the protocol's word (``Source`` and this agree)."""


@runtime_checkable
class Colleague(Protocol):
    """A service whose workers pass things on to each other (``DaemonContext.forward``)."""

    def forwarded(self, what: str, content: bytes) -> None:
        """Another worker has passed this on."""


WorkerServiceFactory = Callable[[DaemonContext], WorkerService]


class Worker:
    """One worker's life on a socket. ``connections_to`` is replaced in tests."""

    def __init__(
        self,
        connection: socket.socket,
        factory: WorkerServiceFactory,
        *,
        connections_to: Callable[[Settings], Connections] = connect,
    ) -> None:
        self._factory = factory
        self._connections_to = connections_to
        self._connections: Connections | None = None
        self._service: WorkerService | None = None
        self._orders: asyncio.Queue[tuple[Message, int | None]] = asyncio.Queue()
        self._end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._draining = False
        self._channel = Channel(connection, ToWorker, self._heard, self._lost)

    async def run(self) -> int:
        """Until told to end, or the supervisor is gone; returns the exit code."""
        code = await self._end
        if self._service is not None:
            await self._context.cancel_all()
            await self._bounded(self._service.close())
        if self._connections is not None:
            await self._bounded(self._connections.close())
        self._channel.close()
        while not self._orders.empty():
            _, fd = self._orders.get_nowait()
            if fd is not None:
                os.close(fd)
        return code

    async def _bounded(self, work: Any) -> None:
        try:
            await asyncio.wait_for(work, CLOSE_S)
        except TimeoutError:
            log.warning("not closed in time")
        except Exception:
            log.exception("failed while stopping")

    def request_drain(self, timeout_s: float = SIGTERM_DRAIN_S, number: int | None = None) -> None:
        """Accept nothing new, finish, end."""
        if self._draining or self._service is None:
            if self._service is None:
                self._finish(0)
            return
        self._draining = True
        self._context.spawn(self._drain(self._service, timeout_s, number), "drain")

    # -- what the supervisor says ------------------------------------------------------------------------------------

    def _lost(self, reason: str) -> None:
        log.error("supervisor is gone", problem=reason or "connection closed")
        self._finish(1)

    def _finish(self, code: int) -> None:
        if not self._end.done():
            self._end.set_result(code)

    def _heard(self, message: Message, fd: int | None) -> None:
        if isinstance(message, Hello):
            self._begin(message)
            return
        service = self._service
        if service is None:
            raise WireError("not greeted")
        match message:
            case Configure() | Publish() | Listen():
                self._orders.put_nowait((message, fd))
            case SessionEnd():
                self._at_once(message.number, partial(service.session_ended, message.session_id))
            case Drop():
                self._at_once(message.number, partial(service.drop, message.what, message.keys))
            case ConnectionLost():
                self._at_once(message.number, partial(service.connection_lost_for, message.seconds))
            case MetricsRequest():
                families = metric_merge.to_bytes(metric_merge.collect(REGISTRY))
                self._channel.send(Metrics(message.number, families))
            case Forward():
                self._forwarded(service, message)
            case Drain():
                self.request_drain(message.timeout_s, message.number)

    def _begin(self, hello: Hello) -> None:
        if self._service is not None or hello.version != VERSION:
            log.error("greeting not understood")
            self._finish(1)
            return
        try:
            settings = setting_transfer.from_bytes(hello.settings)
            logs.configure(settings.log_level, debug=settings.debug)
            self._connections = self._connections_to(settings)
            self._context = DaemonContext(
                settings,
                self._connections.api,
                self._connections.transport,
                self._connections.login,
                hello.instance_id,
                lambda: self._channel.send(Refresh()),
                time.time,
                worker=hello.worker,
                forward=self._forward,
            )
            self._service = self._factory(self._context)
        except Exception:
            log.exception("worker cannot start")
            self._finish(1)
            return
        self._channel.send(Started(VERSION, os.getpid()))
        self._context.spawn(self._work(self._service), "orders")
        self._context.spawn(self._report(self._service), "status")

    def _forward(self, worker: int, what: str, content: bytes) -> None:
        self._channel.send(Forward(worker, what, content))

    def _forwarded(self, service: WorkerService, message: Forward) -> None:
        if not isinstance(service, Colleague):
            raise WireError("nothing is passed on in this protocol")
        try:
            service.forwarded(message.what, message.content)
        except Exception:
            log.exception("what another worker passed on was not handled")

    def _at_once(self, number: int, work: Callable[[], None]) -> None:
        """A revocation. One that fails is not acknowledged as done: the supervisor ends this process for it."""
        try:
            work()
        except Exception:
            log.exception("revocation failed")
            self._channel.send(Ack(number, "failed"))
        else:
            self._channel.send(Ack(number))

    # -- work --------------------------------------------------------------------------------------------------------

    async def _work(self, service: WorkerService) -> None:
        while True:
            message, fd = await self._orders.get()
            problem = ""
            try:
                match message:
                    case Configure():
                        await self._configure(service, message)
                    case Publish():
                        await self._receive(service, message, fd)
                    case Listen() if not self._draining:
                        listeners = await service.listen()
                        self._channel.send(Listening(tuple(listeners)))
            except StartError as error:
                self._channel.send(Failed(str(error)))
                problem = "cannot listen"
            except Exception as error:
                log.exception("not done", kind=type(message).__name__)
                problem = type(error).__name__
                if not isinstance(message, Publish):
                    # What is in service now may hold rights that were taken away: end, and let another begin anew.
                    self._finish(1)
            assert isinstance(message, Configure | Publish | Listen)
            self._tell_status(service)
            self._channel.send(Ack(message.number, problem))

    async def _configure(self, service: WorkerService, message: Configure) -> None:
        configuration = cache.from_bytes(message.configuration, service.type)
        if configuration is None:
            raise WireError("a configuration that is none")
        await put_in_service(self._context, service, configuration)

    async def _receive(self, service: WorkerService, message: Publish, fd: int | None) -> None:
        try:
            file = map_published(fd, message.size) if fd is not None else None
        finally:
            if fd is not None:
                os.close(fd)  # the map stays
        await service.receive(Published(message.name, message.details, file))

    async def _report(self, service: WorkerService) -> None:
        while True:
            self._tell_status(service)
            await asyncio.sleep(STATUS_S)

    def _tell_status(self, service: WorkerService) -> None:
        try:
            reasons = service.not_ready()
        except Exception:
            log.exception("readiness unknown")
            reasons = ["internal error"]
        self._channel.send(Status(tuple(reasons)))

    async def _drain(self, service: WorkerService, timeout_s: float, number: int | None) -> None:
        try:
            await asyncio.wait_for(service.drain(timeout_s), timeout_s + CLOSE_S)
        except TimeoutError:
            log.warning("requests cut off", seconds=timeout_s)
        except Exception:
            log.exception("failed while draining")
        if number is not None:
            self._channel.send(Ack(number))
        self._finish(0)


def end_with_parent() -> None:
    """Have the system kill this process when its parent dies (Linux).

    The end of the socket tells it too, also of a parent that died before this call; but a process that is stuck would
    not hear it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main(
    fd: int,
    factory: WorkerServiceFactory,
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = new_loop,
) -> int:
    """Be a worker on the inherited socket ``fd``; returns the exit code. Called by a daemon's entry point."""
    end_with_parent()
    # Signals are the supervisor's business: Ctrl-C reaches the whole group, and a refresh is made in one place.
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    loop = loop_factory()
    asyncio.set_event_loop(loop)

    async def live() -> int:
        worker = Worker(socket.socket(fileno=fd), factory)
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(signal.SIGTERM, worker.request_drain)
        return await worker.run()

    try:
        return loop.run_until_complete(live())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()
