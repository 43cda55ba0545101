"""Session stores for tests: every kind of backend, two processes' worth of ``Sessions`` over one store, and a clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from outposts.proxy.oidc import Tokens
from outposts.proxy.providers import Providers
from outposts.proxy.store import Sessions
from outposts.proxy.store_memory import MemoryBackend
from outposts.proxy.store_port import Backend
from outposts.proxy.store_redis import RedisBackend
from outposts.proxy.store_sqlite import SqliteBackend
from tests.proxy.site import ALL, CLAIMS, NOW

KINDS = ("memory", "sqlite", "redis")
SHARED = ("sqlite", "redis")


class Clock:
    """Unix seconds that a test moves."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


Maker = Callable[[], Backend]


def maker(kind: str, folder: Path, url: str, clock: Callable[[], float], **rest: Any) -> Maker:
    """Makes backends over one store: each one as another process would have it."""
    if kind == "memory":
        return lambda: MemoryBackend(**rest)
    if kind == "sqlite":
        return lambda: SqliteBackend(folder / "sessions.db", clock=clock, look_s=0.01, **rest)
    return lambda: RedisBackend(url, prefix=f"{folder.name}:", **rest)


@asynccontextmanager
async def opened(
    make: Maker, clock: Callable[[], float], providers: Providers = ALL, **rest: Any
) -> AsyncIterator[Sessions]:
    """One process's sessions."""
    sessions = Sessions(make(), clock=clock, **rest)
    sessions.apply(providers)
    await sessions.open()
    try:
        yield sessions
    finally:
        await sessions.close()


def tokens(refresh_token: str = "", token: str = "header.payload.signature", **claims: Any) -> Tokens:
    """What a login of alice's has yielded."""
    return Tokens(CLAIMS | claims, token, refresh_token)
