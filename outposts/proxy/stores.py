"""Which store sessions are kept in: what the settings ask for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from common.settings import Settings
from outposts.proxy.store_memory import MemoryBackend
from outposts.proxy.store_port import Backend
from outposts.proxy.store_redis import RedisBackend
from outposts.proxy.store_sqlite import SqliteBackend

FILE = "proxy-sessions.db"


def backend(settings: Settings, *, worker: int = 0, clock: Callable[[], float] = time.time) -> Backend:
    """Redis or Valkey if there is an address of one; else a file in the state directory; else this process's memory.

    Several workers (``worker`` is this one's number, 0: alone) cannot share memory: without a state directory they use
    a file beside their supervisor's other temporary ones, which is of no use to the next one.
    """
    if settings.redis_url:
        return RedisBackend(settings.redis_url)
    if settings.state_dir is not None:
        return SqliteBackend(Path(settings.state_dir) / FILE, clock=clock)
    if worker:
        return SqliteBackend(Path(settings.tmpdir) / f"outposts-{os.getppid()}-{FILE}", clock=clock)
    return MemoryBackend()
