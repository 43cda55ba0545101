"""The life of a daemon: start, refresh, signals, drain, exit code. Knows no protocol: a ``Service`` plugs in.

::

    start → sealed configuration, if there is one → listen and serve
          → refresh until it succeeds             → listen and serve
          → refresh on interval, trigger, signal  → … → drain → exit

A refresh never takes anything away: while the core is gone, the last good configuration is served. Only three things
end service: a signal, an outpost that is of another type, and an outpost that the core has not known for ``GRACE_S``;
the last two by putting a configuration without providers in service.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import random
import signal
import sys
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import backoff, cache, logs, metrics, settings
from common.api import CoreApi
from common.cache import Configuration, ConfigurationCache, OutpostVanished, WrongOutpostType
from common.errors import CoreError, OutpostError, SettingError, StartError
from common.health import HealthServer
from common.lean_transport import transport_for
from common.link import Link as CoreLink
from common.login import LoginService
from common.service import (
    Composite,
    Connections,
    DaemonContext,
    Link,
    Service,
    ServiceFactory,
    put_in_service,
)
from common.settings import Settings
from common.version import VERSION, build_hash

DEFAULT_INTERVAL_S = 300.0  # core-contract §7: for an interval of zero or less
MIN_INTERVAL_S = 30.0  # core-contract §7
MAX_OFFSET_S = 9  # whole seconds 0–9: spreads the refreshes that one trigger causes in many outposts
MERGE_S = 0.9  # seconds a trigger waits at least: one edit sends several within a second, for one refresh (C21)
# core-contract §5.4: after more without WebSocket, updates may have been missed (the link asks for a refresh then).
# A service to which each missed end of a session matters says less in its attribute ``absence_s``.
LONG_ABSENCE_S = 30.0
GRACE_S = 600.0  # core-contract §7: last good data are served this long after the outpost has vanished
# A stop takes at most 10 s in all (core-contract §2.3): requests in flight get most of it.
DRAIN_S = 8.5
CLOSE_S = 0.3  # for each of the four things that are closed after that

__all__ = ["Daemon", "DaemonContext", "Service", "ServiceFactory", "connect", "main", "refresh_interval"]

log = logs.get_logger("daemon")


def refresh_interval(seconds: float) -> float:
    """The interval to use for what the core says: zero or less is 300 s, less than 30 s is 30 s."""
    if not math.isfinite(seconds) or seconds <= 0:
        return DEFAULT_INTERVAL_S
    return max(seconds, MIN_INTERVAL_S)


def connect(settings: Settings) -> Connections:
    """The real connections to the core."""
    api = CoreApi(settings)
    transport = transport_for(settings)

    def link(outpost_pk: str, instance_id: str, **callbacks: Any) -> Link:
        return CoreLink(settings, outpost_pk, instance_id, **callbacks)

    async def close() -> None:
        await asyncio.gather(api.close(), transport.close(), return_exceptions=True)

    return Connections(api, transport, LoginService(transport, settings), link, close)


class Daemon:
    """One outpost process. ``offset_s`` and ``draw`` replace chance in tests; ``clock`` gives unix time."""

    def __init__(
        self,
        settings: Settings,
        service_factory: ServiceFactory,
        *,
        connections: Connections | None = None,
        offset_s: float | None = None,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
        grace_s: float = GRACE_S,
        drain_s: float = DRAIN_S,
    ) -> None:
        self.settings = settings
        self.instance_id = str(uuid.uuid4())
        # How long until the next refresh, decided at the end of the last one; None while one is running.
        self.next_try_s: float | None = None
        self.refreshes = 0
        self.bound: dict[str, list[tuple[str, int]]] = {}
        self._factory = service_factory
        self._given_connections = connections
        self._offset_s = max(MERGE_S, float(random.randint(0, MAX_OFFSET_S))) if offset_s is None else offset_s
        self._draw = draw
        self._clock = clock
        self._grace_s = grace_s
        self._drain_s = drain_s
        self._due: float | None = None
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._listening = False
        self._in_service: Configuration | None = None
        self._problem: tuple[str, ...] | None = None
        self._refused = ""
        self._vanished_at: float | None = None
        self._failures = 0
        self._link: Link | None = None
        self._link_task: asyncio.Task[Any] | None = None
        self._link_pk: str | None = None
        self._link_labels: tuple[str, ...] | None = None
        self._info_labels: tuple[str, ...] | None = None

    # What the outside asks for

    def request_refresh(self, *, now: bool = False) -> None:
        """Refresh soon: at once, or after this process's offset. Requests that come meanwhile are one refresh."""
        due = time.monotonic() + (0.0 if now else self._offset_s)
        if self._due is None or due < self._due:
            self._due = due
            self._wake.set()

    def request_stop(self) -> None:
        """Begin to stop; the second time leave at once."""
        if self._stop.is_set():
            os._exit(0)
        log.info("stopping")
        self._stop.set()

    def not_ready(self) -> list[str]:
        """Why this daemon should get no requests; empty = ready."""
        reasons = ["stopping"] if self._stop.is_set() else []
        if self._refused:
            reasons.append(self._refused)
        elif self._vanished_at is not None:
            reasons.append("the core does not know this outpost")
        elif self._in_service is None:
            reasons.append("no configuration yet: " + (self._problem[-1] if self._problem else "starting"))
        elif not self._in_service.providers:
            reasons.append("no provider")
        if not self._listening:
            reasons.append("not listening yet")
        elif self._in_service is not None:
            try:
                reasons += self.service.not_ready()
            except Exception:
                log.exception("readiness unknown")
                reasons.append("internal error")
        return reasons

    def _details(self) -> dict[str, Any]:
        """What ``/readyz`` tells beside the reasons: the workers, and what went wrong at the last refresh."""
        details = self.service.health_details() if isinstance(self.service, Composite) else {}
        return details | ({"last_error": self._problem[-1]} if self._problem is not None else {})

    # Life

    async def run(self) -> int:
        """Live until told to stop; returns the exit code."""
        self._install_signals()
        connections = self._given_connections or connect(self.settings)
        self._connections = connections
        self.context = DaemonContext(
            self.settings,
            connections.api,
            connections.transport,
            connections.login,
            self.instance_id,
            self.request_refresh,
            self._clock,
        )
        self.service = self._factory(self.context)
        self.configuration = ConfigurationCache(connections.api, self.service.type, clock=self._clock)
        self._state = self.context.sealed(f"{self.service.type}-configuration")
        metrics.configuration_age.set_function(self._age)
        whole = self.service if isinstance(self.service, Composite) else None
        health = HealthServer(
            self.settings.listen_metrics,
            self.settings.tmpdir,
            self.not_ready,
            metrics_text=whole.metrics_text if whole is not None else None,
            details=self._details,
        )
        code = 0
        try:
            self.bound["metrics"] = await health.start()
            code = await self._live()
        except StartError as error:
            log.error("cannot start", problem=str(error))
            code = error.exit_code
        except Exception:
            log.exception("unexpected end")
            code = 1
        finally:
            await self._shut_down(health, drain=code == 0)
        log.info("stopped", exit_code=code)
        return code

    async def _live(self) -> int:
        refresher = asyncio.create_task(self._refresh_for_ever(), name="refresh")
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            await asyncio.wait({refresher, stop}, return_when=asyncio.FIRST_COMPLETED)
            if refresher.done():
                refresher.result()  # raises: it never ends otherwise
            return 0
        finally:
            for task in (refresher, stop):
                task.cancel()
            await asyncio.gather(refresher, stop, return_exceptions=True)

    async def _shut_down(self, health: HealthServer, *, drain: bool) -> None:
        self._stop.set()
        if drain and self._listening:
            await self._bounded(self.service.drain(self._drain_s), self._drain_s + CLOSE_S, "drain")
        if self.settings.ready_file:
            with contextlib.suppress(OSError):
                os.unlink(self.settings.ready_file)
        await self._bounded(self._end_link(), CLOSE_S, "link")
        await self.context.cancel_all()
        await self._bounded(self.service.close(), CLOSE_S, "service")
        await self._bounded(health.close(), CLOSE_S, "health")
        await self._bounded(self._connections.close(), CLOSE_S, "connections")

    async def _bounded(self, work: Coroutine[Any, Any, None], timeout_s: float, what: str) -> None:
        try:
            await asyncio.wait_for(work, timeout_s)
        except TimeoutError:
            log.warning("not finished in time", what=what, seconds=timeout_s)
        except Exception:
            log.exception("failed while stopping", what=what)

    def _install_signals(self) -> None:
        loop = asyncio.get_running_loop()
        handlers: dict[str, Callable[[], None]] = {
            "SIGTERM": self.request_stop,
            "SIGINT": self.request_stop,
            "SIGUSR1": lambda: self.request_refresh(now=True),
            "SIGHUP": lambda: self.request_refresh(now=True),
        }
        for name, handler in handlers.items():
            number = getattr(signal, name)
            # A parent that handles Ctrl-C itself starts us with SIGINT ignored; that is its decision.
            if name == "SIGINT" and signal.getsignal(number) == signal.SIG_IGN:
                continue
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not in the main thread
                loop.add_signal_handler(number, handler)

    # Refresh

    async def _refresh_for_ever(self) -> None:
        await self._restore()
        while True:
            self.next_try_s = None
            self._due = None
            wait_s = await self._refresh()
            self.refreshes += 1
            self._ensure_link()
            self.next_try_s = wait_s
            await self._wait(wait_s)

    async def _wait(self, seconds: float) -> None:
        """Until the time is over or a requested refresh is due."""
        end = time.monotonic() + seconds
        while True:
            due = end if self._due is None else min(end, self._due)
            left = due - time.monotonic()
            if left <= 0:
                return
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), left)

    async def _restore(self) -> None:
        """Serve the sealed configuration of an earlier run until the core has answered."""
        content = self._state.read(cache.SCHEMA) if self._state else None
        configuration = cache.from_bytes(content, self.service.type) if content else None
        if configuration is None:
            return
        self.configuration.restore(configuration)
        log.info("serving sealed configuration", age_s=round(self.configuration.age_s(self._clock())))
        try:
            await self._serve(configuration)
        except StartError:
            raise
        except Exception:
            log.exception("sealed configuration not usable")
        self._ensure_link()

    async def _refresh(self) -> float:
        """One refresh; returns the seconds to wait for the next."""
        try:
            configuration = await self.configuration.refresh()
            await self._serve(configuration)
        except StartError:
            raise
        except WrongOutpostType as error:
            self._report(error)
            await self._refuse(str(error))
        except OutpostVanished as error:
            self._report(error)
            if self._vanished_at is None:
                self._vanished_at = time.monotonic()
        except OutpostError as error:
            self._report(error)
        except Exception as error:
            log.exception("refresh failed")
            self._problem = (type(error).__name__, "internal error")
        else:
            return self._refreshed(configuration)
        return await self._failed()

    async def _failed(self) -> float:
        if self._vanished_at is not None and time.monotonic() - self._vanished_at >= self._grace_s:
            await self._refuse("the core does not know this outpost any more")
        self._failures += 1
        wait_s = backoff.delay(
            self._failures, self._draw(), getattr(self.configuration.last_error, "retry_after_s", None)
        )
        if self._vanished_at is not None and not self._refused:
            wait_s = min(wait_s, max(0.0, self._vanished_at + self._grace_s - time.monotonic()) + 0.01)
        return wait_s

    def _refreshed(self, configuration: Configuration) -> float:
        if self._problem is not None:
            log.info("core answers again")
        if self._state is not None:
            self._state.write(cache.SCHEMA, cache.to_bytes(configuration))
        self._problem = None
        self._failures = 0
        self._refused = ""
        self._vanished_at = None
        if self._info_labels is not None:
            metrics.last_update.labels(*self._info_labels).set(configuration.fetched_at)
        log.debug("refreshed", providers=len(configuration.providers))
        return refresh_interval(configuration.outpost.refresh_interval_s)

    def _report(self, error: OutpostError) -> None:
        """Log an error once, until another one or none comes."""
        text = str(error)
        if isinstance(error, CoreError):  # without the request id, which differs each time
            text = f"{error.call}: {error.problem}" + (f" (HTTP {error.status})" if error.status else "")
        problem = (type(error).__name__, text)
        if problem != self._problem:
            self._problem = problem
            log.error("refresh failed, keeping what is in service", problem=str(error))

    async def _refuse(self, reason: str) -> None:
        """Serve nothing until a refresh succeeds; a restart must not bring the old data back either."""
        if self._refused:
            return
        log.error("refusing to serve", reason=reason)
        self._refused = reason
        if self._state is not None:
            self._state.remove()
        if self._in_service is not None:
            self._in_service = self._in_service.without_providers()
            try:
                await self.service.apply(self._in_service)
            except Exception:
                log.exception("service did not give up its providers")

    async def _serve(self, configuration: Configuration) -> None:
        """Put a configuration in service; listen if this is the first one."""
        self._label(configuration)
        await put_in_service(self.context, self.service, configuration)
        self._in_service = configuration
        if not self._listening:
            for name, host, port in await self.service.listen():
                self.bound.setdefault(name, []).append((host, port))
            self._listening = True
            self._write_ready_file()
            log.info(
                "listening", listeners={name: [f"{h}:{p}" for h, p in where] for name, where in self.bound.items()}
            )

    def _label(self, configuration: Configuration) -> None:
        outpost = configuration.outpost
        labels = (outpost.name, outpost.type, self.instance_id, VERSION, build_hash(self.settings.build_hash))
        if labels != self._info_labels:
            for metric in (metrics.info, metrics.last_update, metrics.connection):
                metric.clear()
            self._info_labels = labels
            metrics.info.labels(*labels).set(1)
            metrics.connection.labels(*labels[:3]).set(0)

    def _age(self) -> float:
        age_s = self.configuration.age_s(self._clock())
        return age_s if math.isfinite(age_s) else -1.0

    def _write_ready_file(self) -> None:
        if not self.settings.ready_file:
            return
        path = Path(self.settings.ready_file)
        content: Mapping[str, Any] = {**self.bound, "pid": os.getpid()}
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(content))
            os.replace(temporary, path)
        except OSError as error:
            raise StartError(f"OUTPOSTS_READY_FILE {path}: {error.strerror}") from None

    # WebSocket

    def _ensure_link(self) -> None:
        pk = self.configuration.outpost_pk
        if pk is None or (pk == self._link_pk and self._link_task is not None and not self._link_task.done()):
            return
        if self._link_task is not None:
            self._link_task.cancel()
        self._link_pk = pk
        self._link = self._connections.link(
            pk,
            self.instance_id,
            on_update=self._heard_update,
            on_session_end=self._heard_session_end,
            on_connection=self._heard_connection,
        )
        self._link_task = self.context.spawn(self._link.run(), "link")

    async def _end_link(self) -> None:
        if self._link is not None:
            with contextlib.suppress(Exception):
                await self._link.close()
        if self._link_task is not None:
            self._link_task.cancel()

    def _heard_update(self) -> None:
        self.request_refresh()

    def _heard_session_end(self, session_id: str) -> None:
        metrics.session_ends.inc()
        self.service.session_ended(session_id)

    def _heard_connection(self, connected: bool, absence_s: float) -> None:
        if self._info_labels is not None:
            metrics.connection.labels(*self._info_labels[:3]).set(1 if connected else 0)
        if connected:
            metrics.link_reconnects.inc()
            if absence_s > getattr(self.service, "absence_s", LONG_ABSENCE_S):
                self.service.connection_lost_for(absence_s)


def usable_processors(quota_file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """How many processors this process may use: by affinity, and by a container's quota (rounded up); at least 1."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:
        count = os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # no quota: "max 100000"
        quota, period = quota_file.read_text().split()
        count = min(count, math.ceil(int(quota) / int(period)))
    return max(1, count)


def new_loop() -> asyncio.AbstractEventLoop:
    """The fast event loop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def main(
    type: str,
    service_factory: ServiceFactory,
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = new_loop,
    workers: Callable[[int], ServiceFactory] | None = None,
) -> int:
    """Read the settings, run a daemon, return its exit code.

    ``loop_factory`` makes the loop; an entry point whose servers are Twisted's installs the reactor on it there.
    ``workers`` makes the factory to use instead for a daemon with so many workers (``OUTPOSTS_WORKERS``).
    """
    try:
        loaded = settings.load(os.environ)
    except (SettingError, StartError) as error:
        sys.stderr.write(f"outposts {type}: {error}\n")
        return error.exit_code
    logs.configure(loaded.log_level, debug=loaded.debug)
    if not loaded.debug and os.environ.pop("SSLKEYLOGFILE", None) is not None:
        # Python's TLS contexts would write session keys there: never outside of debugging (core-contract §1.1).
        log.warning("SSLKEYLOGFILE ignored without AUTHENTIK_DEBUG")
    for warning in loaded.warnings:
        log.warning("setting", problem=warning)
    if loaded.workers != 1 and workers is not None:
        count = loaded.workers or usable_processors()
        loaded = replace(loaded, workers=count)
        if count > 1:
            service_factory = workers(count)
    loop = loop_factory()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(Daemon(loaded, service_factory).run())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()
