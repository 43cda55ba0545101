"""Sessions in Redis or Valkey: all replicas share them, and hear of each other's ends at once.

::

    outposts:proxy:s:<key>      one session: a hash of content, provider, indexes, last use; ends by itself
    outposts:proxy:i:<index>    set of the keys of one user's, or of one login's, sessions
    outposts:proxy:u:<key>      something that was used, until it no longer matters
    outposts:proxy:b:<key>      a form that waits for a login
    outposts:proxy:news         channel: "r" or "c" and keys of sessions that were removed or changed

What belongs together is done by one script on the server. A replica that is not subscribed to the channel, or whose
subscription does not answer, believes nothing that it has in memory and asks for every request; where there is no
answer, there is a refusal. Losing the server's memory costs everybody one login, no more. Names are digests, contents
sealed. For one server or a replicated pair; not for a cluster, whose scripts must not touch keys of several nodes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common import logs
from common.shared_store import TIMEOUT_S, SharedStore, StoreUnavailable
from outposts.proxy.store_port import News, Row, StoreFull

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import PubSub

PREFIX = "outposts:proxy:"
KEY_SIZE = 32  # octets of a session's key
PING_S = 1.0  # between two questions whether the subscription is still alive
SILENCE_S = 3.0  # without any answer on it: it is not
RECONNECT_FIRST_S, RECONNECT_MAX_S = 0.1, 2.0  # waits between attempts to subscribe
OPENING_S = 5.0  # how long the start waits for the subscription; without one sessions still work, only slower
SCAN_COUNT = 500  # keys looked at per call
BATCH = 500  # sessions per script call: it runs alone on the server, in about a millisecond

# KEYS: session, the one that it replaces or ""
# ARGV: content, provider, last use, end in milliseconds, subject, sid, prefix, channel, whether it must be there
_PUT = """
local function drop(key)
  local found = redis.call('HMGET', key, 'i', 'd')
  if redis.call('DEL', key) == 0 then return end
  local name = string.sub(key, string.len(ARGV[7] .. 's:') + 1)
  for _, index in ipairs(found) do
    if index and index ~= '' then redis.call('SREM', ARGV[7] .. 'i:' .. index, name) end
  end
  redis.call('PUBLISH', ARGV[8], 'r' .. name)
end
local there = redis.call('EXISTS', KEYS[1]) == 1
if ARGV[9] == '1' and not there then return 0 end
if KEYS[2] ~= '' then drop(KEYS[2]) end
redis.call('HSET', KEYS[1], 'v', ARGV[1], 'p', ARGV[2], 'u', ARGV[3], 'i', ARGV[5], 'd', ARGV[6], 'e', ARGV[4])
redis.call('PEXPIREAT', KEYS[1], ARGV[4])
local name = string.sub(KEYS[1], string.len(ARGV[7] .. 's:') + 1)
local now = redis.call('TIME')
local left = tonumber(ARGV[4]) - (tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000))
for _, index in ipairs({ARGV[5], ARGV[6]}) do
  if index ~= '' then
    local set = ARGV[7] .. 'i:' .. index
    redis.call('SADD', set, name)
    if redis.call('PTTL', set) < left then redis.call('PEXPIREAT', set, ARGV[4]) end
  end
end
if there then redis.call('PUBLISH', ARGV[8], 'c' .. name) end
return 1
"""

# KEYS: sessions; ARGV: prefix, channel
_REMOVE = """
local names = {}
for _, key in ipairs(KEYS) do
  local found = redis.call('HMGET', key, 'i', 'd')
  local name = string.sub(key, string.len(ARGV[1] .. 's:') + 1)
  redis.call('DEL', key)
  for _, index in ipairs(found) do
    if index and index ~= '' then redis.call('SREM', ARGV[1] .. 'i:' .. index, name) end
  end
  names[#names + 1] = name
end
redis.call('PUBLISH', ARGV[2], 'r' .. table.concat(names))
return #names
"""

# KEYS: sessions; ARGV: last uses, in the same order
_SEEN = """
for number, key in ipairs(KEYS) do
  local last = redis.call('HGET', key, 'u')
  if last and tonumber(last) < tonumber(ARGV[number]) then redis.call('HSET', key, 'u', ARGV[number]) end
end
return 1
"""

log = logs.get_logger("store")


class RedisBackend:
    """See ``store.Backend``."""

    kind = "redis"

    def __init__(self, url: str, *, prefix: str = PREFIX, timeout_s: float = TIMEOUT_S) -> None:
        self.trusted = False
        self._prefix = prefix.encode()
        self._channel = self._prefix + b"news"
        self._shared = SharedStore(url, prefix, timeout_s=timeout_s)
        self._news: News | None = None
        self._listening: asyncio.Task[None] | None = None
        self._subscribed = asyncio.Event()

    def __repr__(self) -> str:
        return "RedisBackend()"

    async def open(self, news: News) -> None:
        """See ``store.Backend``. A server that does not answer yet is no reason not to start."""
        self._shared.open()
        self._news = news
        self._listening = asyncio.get_running_loop().create_task(self._listen(), name="news of sessions")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(OPENING_S):
                await self._subscribed.wait()

    def _name(self, kind: bytes, key: bytes) -> bytes:
        return self._prefix + kind + b":" + key

    async def _script(self, script: str, keys: Sequence[bytes], values: Sequence[bytes | str | int | float]) -> Any:
        return await self._again(lambda client: client.eval(script, len(keys), *keys, *values))

    async def _again(self, command: Callable[[Redis], Any]) -> Any:
        """An answer to what may be said twice: a kept connection may be one that the server has just closed."""
        try:
            return await self._shared.call(command)
        except StoreUnavailable as error:
            if str(error) != "ConnectionError":
                raise
            return await self._shared.call(command)

    # -- sessions ----------------------------------------------------------------------------------------------------

    async def load(self, key: bytes) -> Row | None:
        """See ``store.Backend``."""
        found = await self._again(lambda client: client.hgetall(self._name(b"s", key)))
        return _row(key, found)

    async def put(self, row: Row, now: float, replaces: bytes | None = None) -> None:
        """See ``store.Backend``."""
        await self._put(row, replaces, must_be_there=False)

    async def update(self, row: Row) -> bool:
        """See ``store.Backend``."""
        return await self._put(row, None, must_be_there=True)

    async def _put(self, row: Row, replaces: bytes | None, *, must_be_there: bool) -> bool:
        keys = [self._name(b"s", row.key), self._name(b"s", replaces) if replaces is not None else b""]
        try:
            done = await self._script(
                _PUT,
                keys,
                [
                    row.sealed,
                    row.provider,
                    repr(row.seen),
                    int(row.expires * 1000),
                    row.subject,
                    row.sid,
                    self._prefix,
                    self._channel,
                    int(must_be_there),
                ],
            )
        except StoreUnavailable as error:
            if "OutOfMemory" in str(error):
                raise StoreFull("the server has no memory left") from None
            raise
        return bool(done)

    async def seen(self, moments: Mapping[bytes, float]) -> None:
        """See ``store.Backend``."""
        pairs = list(moments.items())
        for start in range(0, len(pairs), BATCH):
            some = pairs[start : start + BATCH]
            await self._script(_SEEN, [self._name(b"s", key) for key, _ in some], [repr(moment) for _, moment in some])

    async def remove(self, keys: Sequence[bytes]) -> None:
        """See ``store.Backend``."""
        for start in range(0, len(keys), BATCH):
            names = [self._name(b"s", key) for key in keys[start : start + BATCH]]
            await self._script(_REMOVE, names, [self._prefix, self._channel])
        if self._news is not None:
            self._news.removed(keys)

    async def find(self, indexes: Sequence[bytes]) -> list[bytes]:
        """See ``store.Backend``."""
        if not indexes:
            return []
        names = [self._name(b"i", index) for index in indexes]
        found = await self._again(lambda client: client.sunion(names))
        return sorted(key for key in found if len(key) == KEY_SIZE) if isinstance(found, set | list) else []

    async def rows(self) -> AsyncIterator[Row]:
        """See ``store.Backend``."""
        cursor, start = 0, self._name(b"s", b"")
        pattern = b"".join(b"\\" + bytes([octet]) if octet in b"*?[]\\^" else bytes([octet]) for octet in start) + b"*"
        while True:
            at = cursor
            answer: Any = await self._shared.call(lambda client: client.scan(at, match=pattern, count=SCAN_COUNT))  # noqa: B023
            cursor, names = answer
            for name in names:
                row = await self.load(name[len(start) :])
                if row is not None:
                    yield row
            if not cursor:
                return

    async def count(self) -> int:
        """See ``store.Backend``. Of all that is in the database: the server does not count by kind."""
        found = await self._shared.call(lambda client: client.dbsize())
        return int(found) if isinstance(found, int) else 0

    async def sweep(self, now: float) -> None:
        """See ``store.Backend``. The server does it."""

    # -- other things ------------------------------------------------------------------------------------------------

    async def use_once(self, key: bytes, now: float, ttl_s: float) -> bool:
        """See ``store.Backend``."""
        ttl_ms = max(1, int(ttl_s * 1000))
        return bool(await self._shared.call(lambda client: client.set(self._name(b"u", key), b"1", nx=True, px=ttl_ms)))

    async def forget_use(self, key: bytes) -> None:
        """See ``store.Backend``."""
        await self._shared.call(lambda client: client.delete(self._name(b"u", key)))

    async def put_blob(self, key: bytes, value: bytes, now: float, ttl_s: float) -> None:
        """See ``store.Backend``."""
        ttl_ms = max(1, int(ttl_s * 1000))
        await self._shared.call(lambda client: client.set(self._name(b"b", key), value, px=ttl_ms))

    async def take_blob(self, key: bytes, now: float) -> bytes | None:
        """See ``store.Backend``."""
        found = await self._shared.call(lambda client: client.getdel(self._name(b"b", key)))
        return found if isinstance(found, bytes) else None

    # -- news --------------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Stay subscribed; whenever that is not so, nothing in memory is believed."""
        from redis.exceptions import RedisError

        wait_s = RECONNECT_FIRST_S
        while True:
            try:
                async with self._shared.client.pubsub() as subscription:
                    await self._hear(subscription)
            except (RedisError, OSError, TimeoutError, StoreUnavailable) as error:
                if self.trusted:
                    wait_s = RECONNECT_FIRST_S
                    log.warning(
                        "no news of sessions: the store is asked for every request", problem=type(error).__name__
                    )
            finally:
                self._lost()
            # Kept connections went the same way; who uses one would be told so only then.
            with contextlib.suppress(RedisError, OSError, StoreUnavailable):
                await self._shared.client.connection_pool.disconnect(inuse_connections=False)
            await asyncio.sleep(wait_s)
            wait_s = min(RECONNECT_MAX_S, wait_s * 2)

    async def _hear(self, subscription: PubSub) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(SILENCE_S):
            await subscription.subscribe(self._channel)
        heard = loop.time()
        while True:
            message = await subscription.get_message(timeout=PING_S)
            now = loop.time()
            if message is None:
                if now - heard > SILENCE_S:
                    raise TimeoutError
                async with asyncio.timeout(SILENCE_S):
                    await subscription.ping()
                continue
            heard = now
            kind, data = message.get("type"), message.get("data")
            if kind == "subscribe":
                if self._news is not None:  # what happened before was not heard of, also if it is not the first time
                    self._news.doubt()
                self.trusted = True
                self._subscribed.set()
            elif kind == "message" and isinstance(data, bytes):
                self._tell(data)

    def _tell(self, data: bytes) -> None:
        keys = [data[start : start + KEY_SIZE] for start in range(1, len(data), KEY_SIZE)]
        if self._news is None:
            return
        if data[:1] == b"r":
            self._news.removed(keys)
        elif data[:1] == b"c":
            self._news.changed(keys)
        else:  # of a newer version
            self._news.doubt()

    def _lost(self) -> None:
        self.trusted = False
        self._subscribed.clear()
        if self._news is not None:
            self._news.doubt()

    async def close(self) -> None:
        """See ``store.Backend``."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        self.trusted = False
        await self._shared.close()


def _row(key: bytes, found: object) -> Row | None:
    """A session out of its hash; None if there is none, or it is not one of ours."""
    if not isinstance(found, dict) or not found:
        return None
    try:
        return Row(
            key,
            int(found[b"p"]),
            found.get(b"i", b""),
            found.get(b"d", b""),
            int(found[b"e"]) / 1000,
            float(found[b"u"]),
            found[b"v"],
        )
    except (KeyError, ValueError):
        return None
