"""The records of sessions, in SQLite and in Redis: the same reports, the same rows; and the list of who is online."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from outposts.__main__ import main
from outposts.radius import journal as module
from outposts.radius import listed
from outposts.radius.accounting import Accounting, Journal, NotRecorded, Session
from outposts.radius.journal import FILE_NAME, SqliteJournal, read_sessions
from outposts.radius.journal_redis import RedisJournal
from outposts.radius.listed import SessionsSocket
from outposts.radius.sessions_command import main as command
from tests.factories import FixedClock
from tests.radius.accounting_packets import INTERIM, ON, START, STOP, report
from tests.radius.test_accounting import NAS, record
from tests.valkey import valkey_server

KEEP_S = 30 * 86_400.0


@asynccontextmanager
async def sqlite(folder: Path, clock: FixedClock) -> AsyncIterator[SqliteJournal]:
    """A journal in a folder."""
    made = SqliteJournal(folder / FILE_NAME, KEEP_S, clock)
    try:
        yield made
    finally:
        await made.close()


async def life(journal: Journal, clock: FixedClock) -> Accounting:
    """One session that ended, one that is open, one that a restart of its client has ended."""
    accounting = Accounting(clock, journal=journal)
    await record(
        accounting, report(START, "s1", user_name="alice", calling_station_id="aa", nas_identifier="ap1"), clock
    )
    await record(accounting, report(START, "s3", user_name="carol", nas_identifier="ap2"), clock)
    clock.advance(60)
    await record(
        accounting,
        report(
            STOP,
            "s1",
            nas_identifier="ap1",
            acct_input_octets=5,
            acct_input_gigawords=0xFFFFFFFF,
            acct_terminate_cause=1,
        ),
        clock,
    )
    await record(accounting, report(ON, "", nas_identifier="ap2"), clock)
    clock.advance(1)
    await record(accounting, report(INTERIM, "s2", user_name="bob", acct_output_octets=7, nas_identifier="ap1"), clock)
    return accounting


def by_name(sessions: list[Session]) -> dict[str, Session]:
    """By the name of the session."""
    return {session.session_id: session for session in sessions}


# -- SQLite ------------------------------------------------------------------------------------------------------------


async def test_sqlite_keeps_what_happened(tmp_path: Path) -> None:
    """Rows for people who read the file; numbers above SQLite's greatest are cut."""
    clock = FixedClock()
    async with sqlite(tmp_path, clock) as journal:
        await life(journal, clock)
    found = by_name(read_sessions(tmp_path / FILE_NAME, ended=True, limit=10))
    assert set(found) == {"s1", "s2", "s3"}
    assert (found["s1"].user_name, found["s1"].terminate_cause) == ("alice", "user_request")
    assert found["s1"].input_octets == (1 << 63) - 1
    assert (found["s2"].ended_at, found["s2"].output_octets) == (None, 7)
    assert found["s3"].terminate_cause == "nas_reboot"
    assert [one.session_id for one in read_sessions(tmp_path / FILE_NAME, ended=False, limit=10)] == ["s2"]
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        rows = database.execute("SELECT user_name, provider, client FROM sessions WHERE ended_at IS NULL").fetchall()
    database.close()
    assert rows == [("bob", "wifi", NAS[0])]


async def test_sqlite_is_nobody_elses_to_read(tmp_path: Path) -> None:
    """It tells who was where."""
    clock = FixedClock()
    async with sqlite(tmp_path / "state", clock) as journal:
        await life(journal, clock)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()}
    assert FILE_NAME in modes and set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


async def test_sqlite_sessions_are_taken_over_after_a_restart(tmp_path: Path) -> None:
    """And a Stop that is heard twice, before and after it, is one session."""
    clock = FixedClock()
    async with sqlite(tmp_path, clock) as journal:
        await life(journal, clock)
    async with sqlite(tmp_path, clock) as journal:
        accounting = Accounting(clock, journal=journal)
        await accounting.start()
        assert [session.session_id for session in accounting.sessions] == ["s2"]
        clock.advance(3)
        await record(accounting, report(STOP, "s1", nas_identifier="ap1", acct_delay_time=4), clock)
        await record(accounting, report(STOP, "s2", nas_identifier="ap1", acct_output_octets=9), clock)
        again = Accounting(clock, journal=journal)
        await again.start()
        assert len(again.sessions) == 0
    found = read_sessions(tmp_path / FILE_NAME, ended=True, limit=10)
    assert sorted(session.session_id for session in found) == ["s1", "s2", "s3"]
    assert by_name(found)["s2"].output_octets == 9


async def test_sqlite_restart_of_a_client_ends_what_other_processes_have_noted(tmp_path: Path) -> None:
    """Each worker hears a part of the reports."""
    clock = FixedClock()
    async with sqlite(tmp_path, clock) as one, sqlite(tmp_path, clock) as other:
        await record(Accounting(clock, journal=one), report(START, "s1", nas_identifier="ap1"), clock)
        await record(Accounting(clock, journal=one), report(START, "s2", nas_identifier="ap2"), clock)
        clock.advance(1)
        await record(Accounting(clock, journal=other), report(ON, "", nas_identifier="ap1"), clock)
        assert [session.session_id for session in await one.open_sessions()] == ["s2"]


async def test_sqlite_reports_that_wait_are_written_together(tmp_path: Path) -> None:
    """A thousand at once take far fewer transactions than a thousand, and none is answered before its own."""
    clock = FixedClock()
    async with sqlite(tmp_path, clock) as journal:
        batches: list[int] = []
        write = journal._write

        def counted(batch: list[object]) -> None:
            batches.append(len(batch))
            write(batch)  # type: ignore[arg-type]

        journal._write = counted  # type: ignore[assignment, method-assign]
        accounting = Accounting(clock, journal=journal)
        await asyncio.gather(*(record(accounting, report(START, f"s{number}"), clock) for number in range(1000)))
        assert sum(batches) == 1000 and len(batches) <= 10
        assert len(await journal.open_sessions()) == 1000


async def test_sqlite_forgets_what_need_not_be_kept(tmp_path: Path) -> None:
    """Ended sessions after 30 days; open ones stay."""
    clock = FixedClock()
    async with sqlite(tmp_path, clock) as journal:
        accounting = await life(journal, clock)
        clock.advance(KEEP_S + 61)
        await record(accounting, report(INTERIM, "s2", nas_identifier="ap1"), clock)
    assert [one.session_id for one in read_sessions(tmp_path / FILE_NAME, ended=True, limit=10)] == ["s2"]


async def test_sqlite_gives_up_what_was_not_heard_of(tmp_path: Path) -> None:
    """Its Stop was lost; it ended when it was last heard of. A session that another worker hears of stays."""
    clock = FixedClock()
    async with sqlite(tmp_path, clock) as journal:
        accounting = await life(journal, clock)
        heard = clock()
        clock.advance(journal.stale_s + 3600)
        await record(accounting, report(START, "s9"), clock)
        found = by_name(await journal.open_sessions())  # type: ignore[arg-type]
        assert set(found) == {"s9"}
    ended = by_name(read_sessions(tmp_path / FILE_NAME, ended=True, limit=10))["s2"]
    assert (ended.ended_at, ended.terminate_cause) == (heard, "stale")


async def test_sqlite_of_another_version_is_left_alone(tmp_path: Path) -> None:
    """Not read, not written, and no report is answered."""
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    clock = FixedClock()
    async with sqlite(tmp_path, clock) as journal:
        accounting = Accounting(clock, journal=journal)
        with pytest.raises(NotRecorded, match="another version"):
            await accounting.start()
        with pytest.raises(NotRecorded):
            await record(accounting, report(START), clock)
    assert (tmp_path / FILE_NAME).stat().st_size == 4096


async def test_sqlite_comes_back_when_the_folder_does(tmp_path: Path) -> None:
    """A file where the folder should be: nothing is recorded; once it is gone, everything is."""
    clock = FixedClock()
    (tmp_path / "state").write_text("in the way")
    async with sqlite(tmp_path / "state", clock) as journal:
        accounting = Accounting(clock, journal=journal)
        with pytest.raises(NotRecorded):
            await record(accounting, report(START), clock)
        (tmp_path / "state").unlink()
        await record(accounting, report(START), clock)
        assert len(await journal.open_sessions()) == 1


async def test_sqlite_queue_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that stands still must not fill the memory."""
    monkeypatch.setattr(module, "MAX_WAITING", 0)
    clock = FixedClock()
    async with sqlite(tmp_path, clock) as journal:
        with pytest.raises(NotRecorded, match="wait"):
            await record(Accounting(clock, journal=journal), report(START), clock)


# -- Redis -------------------------------------------------------------------------------------------------------------


async def test_redis_keeps_what_happened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As SQLite does, and for several daemons at once."""
    clock = FixedClock()
    with valkey_server() as server:
        url = server.connection_url
        journal = RedisJournal(url, KEEP_S)
        await life(journal, clock)
        found = by_name(await journal.list_sessions(ended=True, limit=10))
        assert set(found) == {"s1", "s2", "s3"}
        assert (found["s1"].user_name, found["s1"].terminate_cause) == ("alice", "user_request")
        assert found["s1"].input_octets == 0xFFFFFFFF * 2**32 + 5
        assert (found["s2"].ended_at, found["s2"].output_octets) == (None, 7)
        assert found["s3"].terminate_cause == "nas_reboot"
        accounting = Accounting(clock, journal=journal)
        await accounting.start()
        assert [session.session_id for session in accounting.sessions] == ["s2"]
        other = RedisJournal(url, KEEP_S)
        clock.advance(other.stale_s / 2)
        await record(Accounting(clock, journal=other), report(INTERIM, "s4", nas_identifier="ap1"), clock)
        clock.advance(other.stale_s / 2 + 1)
        await record(Accounting(clock, journal=other), report(INTERIM, "s5", nas_identifier="ap1"), clock)
        found = by_name(await journal.list_sessions(ended=True, limit=10))
        assert found["s2"].terminate_cause == "stale" and found["s4"].ended_at is None
        clock.advance(1)
        await record(Accounting(clock, journal=other), report(ON, "", nas_identifier="ap1"), clock)
        assert await journal.open_sessions() == []
        names = [key.decode() for key in await journal._redis.keys("*")]
        assert all(name.startswith("outposts:radius:") for name in names)
        lives = [await journal._redis.ttl(name) for name in names if name.startswith("outposts:radius:session:")]
        assert len(lives) == 5 and all(0 < seconds <= KEEP_S for seconds in lives)
        settings = {"TMPDIR": str(tmp_path), "OUTPOSTS_REDIS_URL": url}
        assert await asyncio.to_thread(command, ["--json", "--all"], settings) == 0
        assert {row["session_id"] for row in json.loads(capsys.readouterr().out)} == {"s1", "s2", "s3", "s4", "s5"}
        assert await asyncio.to_thread(command, ["--json"], settings) == 0
        assert json.loads(capsys.readouterr().out) == []
        await other.close()
        await journal.close()


async def test_redis_that_is_away(tmp_path: Path) -> None:
    """No report is answered; the daemon lives."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        journal = RedisJournal(f"redis://127.0.0.1:{unused.getsockname()[1]}/0", KEEP_S)
        clock = FixedClock()
        with pytest.raises(NotRecorded, match="Redis"):
            await record(Accounting(clock, journal=journal), report(START), clock)
        with pytest.raises(NotRecorded):
            await journal.open_sessions()
        await journal.close()


# -- the list ----------------------------------------------------------------------------------------------------------


async def test_list_of_a_running_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A socket for its own user; a table for people, JSON for programs; gone when the process is."""
    clock = FixedClock(time.time() - 100)
    accounting = Accounting(clock)
    await record(
        accounting,
        report(START, "s1", user_name="al\x1b[31mice", nas_identifier="ap1", acct_session_time=7200),
        clock,
    )
    await record(accounting, report(INTERIM, "s2", user_name="bob", acct_input_octets=5_000_000), clock)
    told = SessionsSocket(accounting.sessions, str(tmp_path))
    await told.listen()
    path = told.path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    settings = {"TMPDIR": str(tmp_path)}
    assert await asyncio.to_thread(command, ["--json"], settings) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["user"], row["session_id"]) for row in rows] == [("al\x1b[31mice", "s1"), ("bob", "s2")]
    assert rows[1]["input_octets"] == 5_000_000 and "ended_at" not in rows[0]
    assert await asyncio.to_thread(command, [], settings) == 0
    table = capsys.readouterr().out
    assert "al?[31mice" in table and "4.8 MiB" in table and table.endswith("2 sessions\n")
    assert await asyncio.to_thread(command, ["--user", "bob", "--limit", "5"], settings) == 0
    assert capsys.readouterr().out.endswith("1 session\n")
    await told.close()
    assert not path.exists()
    assert await asyncio.to_thread(command, [], settings) == 1
    assert "no daemon with x_radius_accounting answers" in capsys.readouterr().err


async def test_list_of_several_processes_and_one_that_was_killed(tmp_path: Path) -> None:
    """The newest word on a session counts; what is left over of a process is passed over."""
    clock = FixedClock()
    one, other = Accounting(clock), Accounting(clock)
    await record(one, report(START, "s1", user_name="alice"), clock)
    clock.advance(1)
    await record(other, report(INTERIM, "s1", user_name="alice", acct_output_octets=3), clock)
    await record(other, report(START, "s2"), clock)
    first, second = SessionsSocket(one.sessions, str(tmp_path)), SessionsSocket(other.sessions, str(tmp_path))
    second.path = listed.path_of(str(tmp_path), 1)
    await first.listen()
    await second.listen()
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(listed.path_of(str(tmp_path), 2)))
    found = await asyncio.to_thread(listed.ask, str(tmp_path))
    assert found is not None
    assert {one.session_id: one.output_octets for one in found.sessions} == {"s1": 3, "s2": 0}
    assert found.processes == 2
    await first.close()
    await second.close()


async def test_list_of_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """When no daemon runs, or when it is asked for; with what is over too."""
    clock = FixedClock()
    async with sqlite(tmp_path / "state", clock) as journal:
        await life(journal, clock)
    settings = {"TMPDIR": str(tmp_path), "OUTPOSTS_STATE_DIR": str(tmp_path / "state")}
    for arguments, expected in (
        (["--json"], ["s2"]),
        (["--json", "--record"], ["s2"]),
        (["--json", "--all"], ["s1", "s3", "s2"]),
    ):
        assert command(arguments, settings) == 0
        assert [row["session_id"] for row in json.loads(capsys.readouterr().out)] == expected
    assert command(["--all"], settings) == 0
    assert "nas_reboot" in capsys.readouterr().out


def test_list_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit codes as of every other command."""
    assert command(["--record"], {"TMPDIR": str(tmp_path)}) == 1
    assert "OUTPOSTS_STATE_DIR" in capsys.readouterr().err
    assert command([], {"TMPDIR": str(tmp_path), "OUTPOSTS_STATE_DIR": str(tmp_path / "no")}) == 1
    assert command(["--nonsense"], {}) == 2
    assert command([], {"OUTPOSTS_NONSENSE": "1"}) == 2
    assert main(["radius", "sessions", "--help"]) == 0
    assert "--json" in capsys.readouterr().out


def test_path_of_the_socket_fits() -> None:
    """A unix socket's path has at most 107 octets; the usual folders leave room."""
    assert len(str(listed.path_of("/tmp", 4_194_304))) < 60


async def test_a_store_that_hangs_does_not_hold_everybody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that waited behind a failure fail with it, and the next one tries anew."""
    journal = RedisJournal("redis://127.0.0.1:1", 60.0)
    tried, release = [], asyncio.Event()

    async def hangs(recorded: object) -> None:
        tried.append(recorded)
        await release.wait()
        raise NotRecorded("Redis: TimeoutError")

    monkeypatch.setattr(journal, "_note", hangs)
    nothing: Any = None
    waiting = [asyncio.create_task(journal.note(nothing)) for _ in range(50)]
    await asyncio.sleep(0)
    release.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, NotRecorded) for outcome in outcomes) and len(tried) == 1
    with pytest.raises(NotRecorded):
        await journal.note(nothing)
    assert len(tried) == 2
    await journal.close()
