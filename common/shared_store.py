"""What several replicas share in Redis or Valkey: small sealed values that are taken once and end by themselves.

Values come here sealed, keys hashed: the store learns who waits for something, not what. ``take`` reads and deletes in
one step (GETDEL, Redis 6.2), so of two replicas that ask for the same value one gets it. Nothing is retried here: a
value that may be gone is not asked for again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from common.errors import OutpostError, StartError

if TYPE_CHECKING:
    from redis.asyncio import Redis

TIMEOUT_S = 2.0  # for one call; on the same network it takes a millisecond, and a client waits for the answer
MAX_CONNECTIONS = 32  # at once; calls are short, so this is some thousands a second


class StoreUnavailable(OutpostError):
    """The store gave no usable answer in time."""

    retryable = True


class SharedStore:
    """One Redis or Valkey database. ``prefix`` keeps this use apart from others."""

    def __init__(self, url: str, prefix: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url
        self._prefix = prefix
        self._timeout_s = timeout_s
        self._client: Redis | None = None

    def open(self) -> None:
        """Check the address and make ready; connections are made when needed. Raises ``StartError``."""
        try:
            from redis.asyncio import BlockingConnectionPool, Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError:
            raise StartError("OUTPOSTS_REDIS_URL needs the extra `redis`: pip install 'outposts[redis]'") from None
        try:
            pool = BlockingConnectionPool.from_url(
                self._url,
                max_connections=MAX_CONNECTIONS,
                timeout=self._timeout_s,
                socket_timeout=self._timeout_s,
                socket_connect_timeout=self._timeout_s,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError:
            # The library's text may quote the address, which may hold a password.
            raise StartError("OUTPOSTS_REDIS_URL is no address such as redis://host:6379/0") from None
        self._client = Redis.from_pool(pool)

    def __repr__(self) -> str:
        return f"SharedStore({self._prefix!r})"

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value for ``ttl_s`` seconds. Raises ``StoreUnavailable``."""
        await self.call(lambda client: client.set(self._prefix + key, value, px=max(1, int(ttl_s * 1000))))

    async def take(self, key: str) -> bytes | None:
        """A value, which is gone then; None if there is none. Raises ``StoreUnavailable``."""
        found = await self.call(lambda client: client.getdel(self._prefix + key))
        if found is not None and not isinstance(found, bytes):
            raise StoreUnavailable("not a value")
        return found

    async def call(self, command: Callable[[Redis], Any]) -> object:
        """The answer to a command. Raises ``StoreUnavailable`` if there is none in time."""
        if self._client is None:
            raise StoreUnavailable("not open")
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(self._timeout_s):
                return await command(self._client)
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(type(error).__name__) from None

    @property
    def client(self) -> Redis:
        """The library's client, for what is no single command. Raises ``StoreUnavailable`` if there is none."""
        if self._client is None:
            raise StoreUnavailable("not open")
        return self._client

    async def close(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
