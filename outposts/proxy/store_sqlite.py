"""Sessions in an SQLite file: they outlive restarts, and all workers of one machine share them.

Reads are made on the event loop: a look-up by key in a file that is in the system's memory takes some 20 µs, and with
write-ahead logging it never waits for a writer. Writes are made in a thread of their own, one after another. What other
processes did is heard of within ``LOOK_S``: a counter of SQLite's (``data_version``) says that there is something, the
table ``news`` says what.

A file that is damaged or of another version is put aside and begun anew: it holds nothing that a login does not bring
back. A disk that is full, or gone, refuses.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from common import logs
from common.errors import StartError
from common.shared_store import StoreUnavailable
from outposts.proxy.store_port import News, Row, StoreFull

T = TypeVar("T")

SCHEMA = 1  # ``user_version`` of the file
MAX_SESSIONS = 1_000_000  # some 4 KiB each in the file
MAX_BLOBS_SIZE = 256 * 1024 * 1024  # octets of forms that wait for a login
LOOK_S = 0.2  # between looks for what others did: an end has to be heard of within a second
NEWS_S = 600.0  # for which news is kept; a process that was halted for longer forgets all it knew
BUSY_WRITE_S = 2.0  # how long a write waits for another process's; a person waits for it
BUSY_READ_S = 0.1  # a read waits only while another process recovers the file after a crash
OPENING_WAITS_S = (0.05, 0.2, 0.5)  # between attempts to open the file at the start
PAGE = 500  # rows read at a time
JOURNAL_SIZE = 16 * 1024 * 1024  # octets that the write-ahead log keeps after it was taken over

_TABLES = """
CREATE TABLE session (
  key BLOB PRIMARY KEY, provider INTEGER NOT NULL, subject BLOB, sid BLOB,
  expires REAL NOT NULL, seen REAL NOT NULL, sealed BLOB NOT NULL
);
CREATE INDEX session_subject ON session (subject) WHERE subject IS NOT NULL;
CREATE INDEX session_sid ON session (sid) WHERE sid IS NOT NULL;
CREATE INDEX session_expires ON session (expires);
CREATE TABLE news (
  number INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL, removed INTEGER NOT NULL, at REAL NOT NULL
);
CREATE TABLE used (key BLOB PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE blob (key BLOB PRIMARY KEY, until REAL NOT NULL, size INTEGER NOT NULL, value BLOB NOT NULL);
"""

log = logs.get_logger("store")


class SqliteBackend:
    """See ``store.Backend``. ``clock`` gives unix seconds."""

    kind = "sqlite"

    def __init__(
        self, path: Path | str, *, clock: Callable[[], float], max_sessions: int = MAX_SESSIONS, look_s: float = LOOK_S
    ) -> None:
        self.path = Path(path)
        self.trusted = False
        self._clock = clock
        self._max = max_sessions
        self._look_s = look_s
        self._writer: ThreadPoolExecutor | None = None
        self._write: sqlite3.Connection | None = None
        self._read: sqlite3.Connection | None = None
        self._news: News | None = None
        self._file = (0, 0)
        self._about = 0  # sessions in the file when it was last counted, and own ones since
        self._version = -1
        self._number = 0
        self._heard_at = 0.0
        self._looking: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"SqliteBackend({str(self.path)!r})"

    async def open(self, news: News) -> None:
        """See ``store.Backend``."""
        self._news = news
        self._writer = ThreadPoolExecutor(1, "sessions")
        loop = asyncio.get_running_loop()
        try:
            self._write = await loop.run_in_executor(self._writer, self._open_file)
            self._read = sqlite3.connect(self.path, timeout=BUSY_READ_S, isolation_level=None)
            self._read.execute("PRAGMA query_only = ON")
            self._file = _inode(self.path)
            self._about = await self.count()
            self._catch_up()
        except (sqlite3.Error, OSError, StoreUnavailable) as error:
            await self.close()
            raise StartError(f"sessions cannot be kept in {self.path}: {_plain(error)}") from None
        self.trusted = True
        self._looking = loop.create_task(self._look(), name="sessions of other processes")

    def _open_file(self) -> sqlite3.Connection:
        """The connection that writes; in its thread."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for wait_s in OPENING_WAITS_S:  # several workers begin at once, and only one can make the file
            try:
                return self._connect()
            except sqlite3.OperationalError:
                time.sleep(wait_s)
            except sqlite3.DatabaseError:
                break
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            log.warning("session file put aside", path=str(self.path), problem=_plain(error))
            for suffix in ("-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{self.path}{suffix}")
            os.replace(self.path, f"{self.path}.damaged")
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        made = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(made).st_uid != os.geteuid():  # somebody else's, in a folder that all may write to
                raise PermissionError(errno.EPERM, "it belongs to another user")
        finally:
            os.close(made)
        connection = sqlite3.connect(self.path, timeout=BUSY_WRITE_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # The log is not synced for each login: a power cut costs the last few sessions, never the file.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_SIZE}")
            with _transaction(connection):
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version != SCHEMA:
                    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                        if not name.startswith("sqlite_"):
                            connection.execute(f'DROP TABLE "{name}"')
                    for statement in _TABLES.split(";"):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {SCHEMA}")
        except BaseException:
            connection.close()
            raise
        return connection

    # -- reads, on the loop ------------------------------------------------------------------------------------------

    def _fetch(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        if self._read is None:
            raise StoreUnavailable("not open")
        try:
            return self._read.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise StoreUnavailable(_plain(error)) from None

    async def load(self, key: bytes) -> Row | None:
        """See ``store.Backend``."""
        found = self._fetch("SELECT * FROM session WHERE key = ?", (key,))
        return _row(found[0]) if found else None

    async def find(self, indexes: Sequence[bytes]) -> list[bytes]:
        """See ``store.Backend``."""
        keys: dict[bytes, None] = {}
        for index in indexes:
            statement = "SELECT key FROM session WHERE subject = ?1 UNION SELECT key FROM session WHERE sid = ?1"
            keys.update((key, None) for (key,) in self._fetch(statement, (index,)))
        return list(keys)

    async def rows(self) -> AsyncIterator[Row]:
        """See ``store.Backend``."""
        last = b""
        while True:
            page = self._fetch("SELECT * FROM session WHERE key > ? ORDER BY key LIMIT ?", (last, PAGE))
            for found in page:
                yield _row(found)
            if len(page) < PAGE:
                return
            last = page[-1][0]
            await asyncio.sleep(0)

    async def count(self) -> int:
        """See ``store.Backend``."""
        return int(self._fetch("SELECT count(*) FROM session")[0][0])

    # -- writes, in their thread -------------------------------------------------------------------------------------

    async def _in_writer(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` in one transaction."""
        writer, connection = self._writer, self._write
        if writer is None or connection is None:
            raise StoreUnavailable("not open")

        def run() -> T:
            with _transaction(connection):
                return work(connection)

        try:
            return await asyncio.get_running_loop().run_in_executor(writer, run)
        except sqlite3.Error as error:
            raise StoreUnavailable(_plain(error)) from None
        except RuntimeError:  # the thread is being ended
            raise StoreUnavailable("not open") from None

    async def put(self, row: Row, now: float, replaces: bytes | None = None) -> None:
        """See ``store.Backend``."""

        def work(connection: sqlite3.Connection) -> None:
            if replaces is not None:
                _remove(connection, [replaces], now)
            if self._about >= self._max:
                connection.execute("DELETE FROM session WHERE expires <= ?", (now,))
                self._about = _count(connection)
                if self._about >= self._max:
                    raise StoreFull(f"{self._max} sessions are all that is kept")
            self._about += 1
            connection.execute("INSERT INTO session VALUES (?, ?, ?, ?, ?, ?, ?)", _values(row))

        await self._in_writer(work)

    async def update(self, row: Row) -> bool:
        """See ``store.Backend``."""
        now = self._clock()

        def work(connection: sqlite3.Connection) -> bool:
            values = _values(row)
            done = connection.execute(
                "UPDATE session SET provider = ?, subject = ?, sid = ?, expires = ?, seen = max(seen, ?), sealed = ?"
                " WHERE key = ?",
                (*values[1:], values[0]),
            )
            if done.rowcount:
                connection.execute("INSERT INTO news (key, removed, at) VALUES (?, 0, ?)", (row.key, now))
            return bool(done.rowcount)

        return await self._in_writer(work)

    async def seen(self, moments: Mapping[bytes, float]) -> None:
        """See ``store.Backend``."""
        pairs = [(moment, key) for key, moment in moments.items()]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany("UPDATE session SET seen = max(seen, ?) WHERE key = ?", pairs)

        await self._in_writer(work)

    async def remove(self, keys: Sequence[bytes]) -> None:
        """See ``store.Backend``."""
        now = self._clock()
        await self._in_writer(lambda connection: _remove(connection, keys, now))
        if self._news is not None:
            self._news.removed(keys)

    async def use_once(self, key: bytes, now: float, ttl_s: float) -> bool:
        """See ``store.Backend``."""

        def work(connection: sqlite3.Connection) -> bool:
            connection.execute("DELETE FROM used WHERE key = ? AND until <= ?", (key, now))
            done = connection.execute("INSERT OR IGNORE INTO used VALUES (?, ?)", (key, now + ttl_s))
            return bool(done.rowcount)

        return await self._in_writer(work)

    async def forget_use(self, key: bytes) -> None:
        """See ``store.Backend``."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM used WHERE key = ?", (key,))

        await self._in_writer(work)

    async def put_blob(self, key: bytes, value: bytes, now: float, ttl_s: float) -> None:
        """See ``store.Backend``."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM blob WHERE until <= ?", (now,))
            (size,) = connection.execute("SELECT sum(size) FROM blob").fetchone()
            if (size or 0) + len(value) > MAX_BLOBS_SIZE:
                raise StoreFull("no room for another form")
            connection.execute("INSERT OR REPLACE INTO blob VALUES (?, ?, ?, ?)", (key, now + ttl_s, len(value), value))

        await self._in_writer(work)

    async def take_blob(self, key: bytes, now: float) -> bytes | None:
        """See ``store.Backend``."""

        def work(connection: sqlite3.Connection) -> bytes | None:
            found = connection.execute("SELECT value, until FROM blob WHERE key = ?", (key,)).fetchone()
            if found is None:
                return None
            connection.execute("DELETE FROM blob WHERE key = ?", (key,))
            return bytes(found[0]) if now < found[1] else None

        return await self._in_writer(work)

    async def sweep(self, now: float) -> None:
        """See ``store.Backend``."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM session WHERE expires <= ?", (now,))
            connection.execute("DELETE FROM used WHERE until <= ?", (now,))
            connection.execute("DELETE FROM blob WHERE until <= ?", (now,))
            connection.execute("DELETE FROM news WHERE at <= ?", (now - NEWS_S,))
            self._about = _count(connection)

        await self._in_writer(work)

    # -- what other processes do -------------------------------------------------------------------------------------

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._look_s)
            self.look()

    def look(self) -> None:
        """Hear of what others did since the last time. If that fails, nothing in memory is believed until it works."""
        try:
            self._catch_up()
        except (StoreUnavailable, sqlite3.Error) as error:
            if self.trusted:
                log.warning("session file not readable", path=str(self.path), problem=str(error))
            self.trusted = False
            if self._news is not None:
                self._news.doubt()
        else:
            self.trusted = True

    def _catch_up(self) -> None:
        now = self._clock()
        if self._file != _inode(self.path):
            raise StoreUnavailable("the file is gone, or another one is in its place")
        (version,) = self._fetch("PRAGMA data_version")[0]
        if abs(now - self._heard_at) > NEWS_S / 2:  # the start, or halted for so long that news may be gone
            (highest,) = self._fetch("SELECT max(number) FROM news")[0]
            self._number = highest or 0
            if self._news is not None:
                self._news.doubt()
        elif version != self._version:
            found = self._fetch(
                "SELECT number, key, removed FROM news WHERE number > ? ORDER BY number", (self._number,)
            )
            if found and self._news is not None:
                self._number = found[-1][0]
                self._news.removed([key for _, key, removed in found if removed])
                self._news.changed([key for _, key, removed in found if not removed])
        self._version = version
        self._heard_at = now

    async def close(self) -> None:
        """See ``store.Backend``."""
        self.trusted = False
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        if self._read is not None:
            self._read.close()
            self._read = None
        writer, connection = self._writer, self._write
        self._writer = self._write = None
        if writer is not None:
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    await asyncio.get_running_loop().run_in_executor(writer, connection.close)
            writer.shutdown(wait=False)


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Any:
    """All or nothing; the lock is taken at once, so that waiting for another process has one place."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _remove(connection: sqlite3.Connection, keys: Iterable[bytes], now: float) -> None:
    for key in keys:
        connection.execute("DELETE FROM session WHERE key = ?", (key,))
        connection.execute("INSERT INTO news (key, removed, at) VALUES (?, 1, ?)", (key, now))


def _count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM session").fetchone()[0])


def _inode(path: Path) -> tuple[int, int]:
    """Which file this is; (0, 0) if there is none."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


def _values(row: Row) -> tuple[Any, ...]:
    return (row.key, row.provider, row.subject or None, row.sid or None, row.expires, row.seen, row.sealed)


def _row(found: Sequence[Any]) -> Row:
    key, provider, subject, sid, expires, seen, sealed = found
    return Row(key, provider, subject or b"", sid or b"", expires, seen, sealed)


def _plain(error: Exception) -> str:
    """What went wrong; SQLite's texts name no values."""
    if isinstance(error, StoreUnavailable):
        return str(error)
    return str(error.strerror) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
