"""A record of sessions in one SQLite file, for operators who want to know next month who was online.

A report is noted when its transaction is on the disk (``synchronous=FULL``). Reports that come while one is being
written are written together in the next, so the rate is not that of the disk's flushes. All work is done by one thread
of its own. Several processes may have the file open (workers): SQLite orders their transactions.

The schema is made for reading with ``sqlite3``: one row per session, times in unix seconds.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from common import logs
from outposts.radius.accounting import CLEARING, STALE, STALE_AFTER_S, NotRecorded, Recorded, Session, cause_of
from outposts.radius.reports import Client

log = logs.get_logger("radius.accounting")

FILE_NAME = "radius-accounting.sqlite"  # below OUTPOSTS_STATE_DIR
SCHEMA = 1  # of the tables below; a file with another one is not touched
BUSY_S = 5.0  # seconds to wait for another process's transaction; clients ask again after 3 to 5
MAX_BATCH = 500  # reports in one transaction: some 20 ms of work
MAX_WAITING = 10_000  # reports that wait for the disk; more are not recorded, and their clients ask again
CLEAN_EVERY_S = 3600.0  # between looks for sessions that need not be kept any longer
MAX_INTEGER = (1 << 63) - 1  # SQLite's; counters may say 2^64 - 1
SAME_END_S = 5.0  # a second Stop of a session whose ends lie so close together is the same one, heard again

COLUMNS = (
    "provider_pk",
    "client",
    "nas_ip",
    "nas_identifier",
    "session_id",
    "application",
    "provider",
    "user_name",
    "calling_station",
    "called_station",
    "framed_ip",
    "nas_port",
    "class",
    "multi_session_id",
    "started_at",
    "updated_at",
    "input_octets",
    "output_octets",
    "session_time_s",
    "ended_at",
    "terminate_cause",
)
TABLES = """
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY,
    provider_pk INTEGER NOT NULL, client TEXT NOT NULL, nas_ip TEXT NOT NULL, nas_identifier TEXT NOT NULL,
    session_id TEXT NOT NULL, application TEXT NOT NULL, provider TEXT NOT NULL, user_name TEXT NOT NULL,
    calling_station TEXT NOT NULL, called_station TEXT NOT NULL, framed_ip TEXT NOT NULL, nas_port INTEGER,
    class BLOB NOT NULL, multi_session_id TEXT NOT NULL, started_at REAL NOT NULL, updated_at REAL NOT NULL,
    input_octets INTEGER NOT NULL, output_octets INTEGER NOT NULL, session_time_s INTEGER NOT NULL,
    ended_at REAL, terminate_cause TEXT NOT NULL
) STRICT;
CREATE INDEX of_client ON sessions (provider_pk, client, session_id);
CREATE INDEX open_ones ON sessions (updated_at) WHERE ended_at IS NULL;
CREATE INDEX ended_ones ON sessions (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX of_user ON sessions (user_name, started_at);
"""
_SAME = "provider_pk = ? AND client = ? AND nas_ip = ? AND nas_identifier = ? AND session_id = ?"
_UPDATE = f"UPDATE sessions SET {', '.join(f'{name} = ?' for name in COLUMNS)} WHERE {_SAME} AND ended_at IS NULL"
_HEARD = f"SELECT 1 FROM sessions WHERE {_SAME} AND abs(ended_at - ?) <= {SAME_END_S}"
_INSERT = f"INSERT INTO sessions ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
# RFC 2866 §5.1: On and Off speak of all sessions of a client, of ours and of those that other processes know.
_CLEAR = """
UPDATE sessions SET ended_at = :at, terminate_cause = :cause, updated_at = :heard
WHERE provider_pk = :pk AND client = :address AND (:nas_ip = '' OR nas_ip = :nas_ip)
  AND (:nas_identifier = '' OR nas_identifier = :nas_identifier) AND ended_at IS NULL AND started_at <= :at
"""


class SqliteJournal:
    """See ``accounting.Journal``. ``clock`` gives unix seconds; ``keep_s`` how long ended sessions are kept.

    A session that was not heard of for ``stale_s`` has ended when it was last heard of.
    """

    def __init__(
        self, path: Path, keep_s: float, clock: Callable[[], float] = time.time, *, stale_s: float = STALE_AFTER_S
    ) -> None:
        self.path = path
        self.keep_s = keep_s
        self.stale_s = stale_s
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="radius-accounting")
        self._waiting: list[tuple[Recorded, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._database: sqlite3.Connection | None = None
        self._cleaned_at = 0.0

    async def note(self, recorded: Recorded) -> None:
        """Returns when it is on the disk. Raises ``NotRecorded``."""
        if recorded.session is None and not recorded.ended and recorded.report.status not in CLEARING:
            return
        if len(self._waiting) >= MAX_WAITING:
            raise NotRecorded("too many reports wait for the disk")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append((recorded, done))
        if self._writer is None or self._writer.done():
            self._writer = loop.create_task(self._write_all())
        await done

    async def open_sessions(self) -> Sequence[Session]:
        """Sessions without an end. Raises ``NotRecorded`` if the file cannot be used."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read_open)

    async def close(self) -> None:
        """Write what waits, and close the file."""
        if self._writer is not None:
            await self._writer
        await asyncio.get_running_loop().run_in_executor(self._thread, self._shut)
        self._thread.shutdown()

    async def _write_all(self) -> None:
        """As long as there is something: everything that waits, in one transaction."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            error: Exception | None = None
            try:
                await loop.run_in_executor(self._thread, self._write, [recorded for recorded, _ in batch])
            except Exception as trouble:
                error = trouble
                if not isinstance(trouble, NotRecorded):
                    log.exception("accounting not recorded")
            for _, done in batch:
                if done.cancelled():
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error if isinstance(error, NotRecorded) else NotRecorded(type(error).__name__))

    # -- in the thread -----------------------------------------------------------------------------------------------

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """The database; after an error it is opened anew for the next one."""
        try:
            if self._database is None:
                self._database = _open(self.path)
            yield self._database
        except sqlite3.Error as error:
            self._shut()
            raise NotRecorded(f"{self.path}: {error}") from None
        except OSError as error:
            raise NotRecorded(f"{self.path}: {error.strerror}") from None

    def _write(self, batch: Sequence[Recorded]) -> None:
        with self._opened() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                for recorded in batch:
                    _note(database, recorded)
                self._clean(database)
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise

    def _clean(self, database: sqlite3.Connection) -> None:
        now = self._clock()
        if now - self._cleaned_at >= CLEAN_EVERY_S:
            self._cleaned_at = now
            # Here and not in the table of a process: what one worker has not heard of, another one may have.
            database.execute(_GIVE_UP, (STALE, now - self.stale_s))
            database.execute("DELETE FROM sessions WHERE ended_at < ?", (now - self.keep_s,))

    def _read_open(self) -> list[Session]:
        with self._opened() as database:
            return list(_select(database, "WHERE ended_at IS NULL", ()))

    def _shut(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


_GIVE_UP = "UPDATE sessions SET ended_at = updated_at, terminate_cause = ? WHERE ended_at IS NULL AND updated_at < ?"


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Made by us and not by SQLite, so that it is nobody else's to read; SQLite gives its other files the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    database = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("BEGIN IMMEDIATE")
        found = database.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            for statement in TABLES.split(";\n"):
                if statement.strip():
                    database.execute(statement)
            database.execute(f"PRAGMA user_version = {SCHEMA}")
        elif found != SCHEMA:
            raise NotRecorded(f"{path}: written by another version of this program (schema {found}, not {SCHEMA})")
        database.execute("COMMIT")
    except BaseException:
        database.close()
        raise
    return database


def _note(database: sqlite3.Connection, recorded: Recorded) -> None:
    report = recorded.report
    if report.status in CLEARING:
        client = report.client
        database.execute(
            _CLEAR,
            {
                "at": report.happened_at,
                "cause": cause_of(report.status),
                "heard": report.heard_at,
                "pk": client.provider_pk,
                "address": client.address,
                "nas_ip": client.nas_ip,
                "nas_identifier": client.nas_identifier,
            },
        )
        return
    session = recorded.session
    if session is None:
        return
    row, same = _row(session), _key(session)
    if database.execute(_UPDATE, (*row, *same)).rowcount:
        return
    if session.ended_at is not None and database.execute(_HEARD, (*same, session.ended_at)).fetchone():
        return
    database.execute(_INSERT, row)


def _key(session: Session) -> tuple[Any, ...]:
    client = session.client
    return (client.provider_pk, client.address, client.nas_ip, client.nas_identifier, session.session_id)


def _row(session: Session) -> tuple[Any, ...]:
    return (
        *_key(session),
        session.application_slug,
        session.provider_name,
        session.user_name,
        session.calling_station_id,
        session.called_station_id,
        session.framed_ip,
        session.nas_port,
        session.class_,
        session.multi_session_id,
        session.started_at,
        session.updated_at,
        min(session.input_octets, MAX_INTEGER),
        min(session.output_octets, MAX_INTEGER),
        session.session_time_s,
        session.ended_at,
        session.terminate_cause,
    )


def _select(database: sqlite3.Connection, where: str, values: Sequence[Any]) -> Iterator[Session]:
    for row in database.execute(f"SELECT {', '.join(COLUMNS)} FROM sessions {where}", values):
        pk, address, nas_ip, nas_identifier, session_id, *rest = row
        yield Session(Client(pk, address, nas_ip, nas_identifier), session_id, *rest)


def read_sessions(path: Path, *, ended: bool, limit: int) -> list[Session]:
    """Sessions of a record, the latest first; with ``ended`` also those that are over. Changes nothing.

    Raises ``FileNotFoundError`` and ``NotRecorded``.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    where = "" if ended else "WHERE ended_at IS NULL "
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=BUSY_S)) as database:
            return list(_select(database, where + "ORDER BY started_at DESC LIMIT ?", (limit,)))
    except sqlite3.Error as error:
        raise NotRecorded(f"{path}: {error}") from None
