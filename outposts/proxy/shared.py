"""The proxy service of a daemon with several workers: each does all of it, over one store of sessions.

The store is Redis, Valkey or a SQLite file, never a process's memory (``stores.py``): whichever worker a browser meets,
it finds the session, and an end that one worker causes is heard of by all. Nothing has to be made once for all.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from common.cache import Configuration
from common.service import DaemonContext
from common.worker import Published
from outposts.proxy import stores
from outposts.proxy.service import ProxyService


class ProxySource:
    """See ``common.workers.Source``."""

    type = "proxy"
    absence_s = 0.0  # after any time without WebSocket ends of logins may have been missed

    def __init__(self, context: DaemonContext) -> None:
        self._context = context

    async def apply(self, configuration: Configuration) -> None:
        """The workers do it all."""

    def not_ready(self) -> list[str]:
        """Nothing is missing here."""
        return []

    async def close(self) -> None:
        """Remove the file that workers without a state directory have shared; nobody else can use it."""
        base = Path(self._context.settings.tmpdir) / f"outposts-{os.getpid()}-{stores.FILE}"
        for name in (base, Path(f"{base}-wal"), Path(f"{base}-shm")):
            with contextlib.suppress(OSError):
                name.unlink()


class ProxyWorkerService(ProxyService):
    """See ``common.worker.WorkerService``."""

    async def receive(self, published: Published) -> None:
        """Nothing is published."""

    def drop(self, what: str, keys: Sequence[int]) -> None:
        """Nothing is dropped by key: ended logins are told by their session's name."""
