"""Sessions in this process's memory: for one process, gone when it ends. Sealed as in the other stores."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

from outposts.proxy.store_port import News, Row, StoreFull

MAX_SESSIONS = 200_000  # some 3 KiB each with a token of 1 KiB: 600 MB when full
MAX_BLOBS_SIZE = 64 * 1024 * 1024  # octets of forms that wait for a login: a thousand of the largest
MAX_USES = 200_000  # 150 bytes each


class MemoryBackend:
    """See ``store.Backend``. Nothing here ever waits."""

    kind = "memory"
    trusted = True

    def __init__(self, max_sessions: int = MAX_SESSIONS) -> None:
        self._max = max_sessions
        self._rows: dict[bytes, Row] = {}
        self._by_index: dict[bytes, set[bytes] | bytes] = {}  # most users have one session: no set for it
        self._blobs: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self._blobs_size = 0
        self._uses: OrderedDict[bytes, float] = OrderedDict()
        self._news: News | None = None

    async def open(self, news: News) -> None:
        """See ``store.Backend``."""
        self._news = news

    async def load(self, key: bytes) -> Row | None:
        """See ``store.Backend``."""
        return self._rows.get(key)

    async def put(self, row: Row, now: float, replaces: bytes | None = None) -> None:
        """See ``store.Backend``."""
        if replaces is not None:
            await self.remove([replaces])
        if len(self._rows) >= self._max:
            await self.sweep(now)
            if len(self._rows) >= self._max:
                raise StoreFull(f"{self._max} sessions are all that is kept")
        self._rows[row.key] = row
        for index in (row.subject, row.sid):
            if index:
                self._add(index, row.key)

    def _add(self, index: bytes, key: bytes) -> None:
        found = self._by_index.get(index)
        if found is None:
            self._by_index[index] = key
        elif isinstance(found, set):
            found.add(key)
        elif found != key:
            self._by_index[index] = {found, key}

    async def update(self, row: Row) -> bool:
        """See ``store.Backend``."""
        former = self._rows.get(row.key)
        if former is None:
            return False
        self._drop(former)
        await self.put(row, 0.0)
        if self._news is not None:
            self._news.changed([row.key])
        return True

    async def seen(self, moments: Mapping[bytes, float]) -> None:
        """See ``store.Backend``."""
        for key, moment in moments.items():
            row = self._rows.get(key)
            if row is not None and row.seen < moment:
                self._rows[key] = replace(row, seen=moment)

    async def remove(self, keys: Sequence[bytes]) -> None:
        """See ``store.Backend``."""
        for key in keys:
            row = self._rows.get(key)
            if row is not None:
                self._drop(row)
        if self._news is not None and keys:
            self._news.removed(keys)

    def _drop(self, row: Row) -> None:
        del self._rows[row.key]
        for index in (row.subject, row.sid):
            found = self._by_index.get(index)
            if isinstance(found, set):
                found.discard(row.key)
                if not found:
                    del self._by_index[index]
            elif found == row.key:
                del self._by_index[index]

    async def find(self, indexes: Sequence[bytes]) -> list[bytes]:
        """See ``store.Backend``."""
        keys: dict[bytes, None] = {}
        for index in indexes:
            found = self._by_index.get(index)
            if isinstance(found, set):
                keys.update(dict.fromkeys(found))
            elif found is not None:
                keys[found] = None
        return list(keys)

    async def rows(self) -> AsyncIterator[Row]:
        """See ``store.Backend``."""
        for key in list(self._rows):
            row = self._rows.get(key)
            if row is not None:
                yield row

    async def use_once(self, key: bytes, now: float, ttl_s: float) -> bool:
        """See ``store.Backend``."""
        if self._uses.get(key, now) > now:
            return False
        self._uses[key] = now + ttl_s
        self._uses.move_to_end(key)
        while len(self._uses) > MAX_USES:
            self._uses.popitem(last=False)
        return True

    async def forget_use(self, key: bytes) -> None:
        """See ``store.Backend``."""
        self._uses.pop(key, None)

    async def put_blob(self, key: bytes, value: bytes, now: float, ttl_s: float) -> None:
        """See ``store.Backend``."""
        self._drop_blobs(now)
        if self._blobs_size + len(value) > MAX_BLOBS_SIZE:
            raise StoreFull("no room for another form")
        self._blobs[key] = (value, now + ttl_s)
        self._blobs_size += len(value)

    async def take_blob(self, key: bytes, now: float) -> bytes | None:
        """See ``store.Backend``."""
        found = self._blobs.pop(key, None)
        if found is None:
            return None
        self._blobs_size -= len(found[0])
        return found[0] if now < found[1] else None

    def _drop_blobs(self, now: float) -> None:
        for key in [key for key, (_, until) in self._blobs.items() if until <= now]:
            self._blobs_size -= len(self._blobs.pop(key)[0])

    async def sweep(self, now: float) -> None:
        """See ``store.Backend``."""
        for row in [row for row in self._rows.values() if row.expires <= now]:
            self._drop(row)
        for key in [key for key, until in self._uses.items() if until <= now]:
            del self._uses[key]
        self._drop_blobs(now)

    async def count(self) -> int:
        """See ``store.Backend``."""
        return len(self._rows)

    async def close(self) -> None:
        """See ``store.Backend``."""
        self._rows.clear()
        self._by_index.clear()
        self._blobs.clear()
        self._uses.clear()
