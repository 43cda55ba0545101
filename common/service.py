"""What plugs into a daemon (``Service``), and what it gets from it (``DaemonContext``, the connections to the core)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from common import logs, metrics
from common.cache import Configuration
from common.sealed import SealedFile
from common.setting_rows import EXTRAS_BY_NAME
from common.settings import Settings

log = logs.get_logger("daemon")


class Service(Protocol):
    """What a protocol plugs in. ``type`` is the outpost's type: ``ldap``, ``radius``, ``proxy``."""

    type: str

    async def apply(self, configuration: Configuration) -> None:
        """Serve this from now on; one bad provider must not raise. Without providers: refuse everything."""

    async def listen(self) -> list[tuple[str, str, int]]:
        """Bind all listeners; (name, host, port) really bound. Raises ``StartError``."""

    def not_ready(self) -> list[str]:
        """Reasons why requests cannot be answered; empty = ready."""

    def session_ended(self, session_id: str) -> None:
        """A login session of the core has ended (hex of its SHA-256)."""

    def connection_lost_for(self, seconds: float) -> None:
        """The WebSocket is back after a long absence: session ends may have been missed."""

    async def drain(self, timeout_s: float) -> None:
        """Accept nothing new, finish what is in progress."""

    async def close(self) -> None:
        """Close everything."""


@runtime_checkable
class Composite(Protocol):
    """A service whose work is done in several processes (``workers.Pool``): it answers for all of them."""

    async def metrics_text(self) -> bytes:
        """What ``/metrics`` shows: the sum of all processes."""

    def health_details(self) -> dict[str, Any]:
        """What ``/readyz`` tells beside the reasons."""


class Link(Protocol):
    """The WebSocket to the core, as far as a daemon handles it."""

    async def run(self) -> None:
        """Keep connected until cancelled."""

    async def close(self) -> None:
        """Say good-bye."""


class LinkFactory(Protocol):
    """Makes a link for an outpost."""

    def __call__(
        self,
        outpost_pk: str,
        instance_id: str,
        *,
        on_update: Callable[[], None],
        on_session_end: Callable[[str], None],
        on_connection: Callable[[bool, float], None],
    ) -> Link:
        """``on_connection`` gets whether it is open, and after how many seconds of absence."""


@dataclass(frozen=True)
class Connections:
    """How a daemon reaches its core. ``close`` is called last."""

    api: Any
    transport: Any
    login: Any
    link: LinkFactory
    close: Callable[[], Coroutine[Any, Any, None]]


@dataclass
class DaemonContext:
    """What a service gets from its daemon."""

    settings: Settings
    api: Any
    transport: Any
    login: Any
    instance_id: str
    request_refresh: Callable[[], None]
    clock: Callable[[], float] = time.time
    metrics: Any = metrics
    outpost_name: str = ""
    worker: int = 0  # this process's number among several, from 1; 0: it is alone
    forward: Callable[[int, str, bytes], None] | None = None  # to another worker: its number, what, content
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def sealed(self, name: str) -> SealedFile | None:
        """The sealed state file of this name; None without a state directory."""
        if self.settings.state_dir is None:
            return None
        return SealedFile(Path(self.settings.state_dir) / name, self.settings.token, role=name)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run something in the background until the daemon ends; if it fails, that is logged."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background task failed", task=task.get_name(), exc_info=error)

    async def cancel_all(self) -> None:
        """End all background tasks."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


ServiceFactory = Callable[[DaemonContext], Service]


async def put_in_service(context: DaemonContext, service: Service, configuration: Configuration) -> None:
    """Have a service serve a configuration, with the log level and the login time that it asks for."""
    level = configuration.log_level
    if level is not None and logs.set_level(level):
        log.info("log level set by the core", log_level=level)
    context.outpost_name = configuration.outpost.name
    await service.apply(configuration)
    context.login.configuration_changed()
    if (service.type, "login_timeout") in EXTRAS_BY_NAME:
        config = configuration.outpost.config
        context.login.budget_s = context.settings.extra(service.type, "login_timeout", config)
