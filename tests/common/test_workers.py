"""The supervisor, with real worker processes of no protocol that crash, hang, lie and refuse."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common import metrics, workers
from common.cache import Configuration
from common.daemon import usable_processors
from common.errors import StartError
from common.published import publish
from common.records import OutpostRecord, RootConfig
from common.service import Composite, DaemonContext
from common.setting_values import ListenAddress
from common.settings import load
from common.workers import Plan, Pool, Publisher

WAIT_S = 30.0  # what has not happened by then will not happen
ROOT = Path(__file__).resolve().parents[2]
LOCAL = ListenAddress("127.0.0.1", 0)
TCP = {"listen_ldap": socket.SOCK_STREAM}
BOTH = TCP | {"listen_radius": socket.SOCK_DGRAM}


class Quiet:
    """A source that makes nothing."""

    type = "ldap"

    def __init__(self, context: DaemonContext, publisher: Publisher) -> None:
        self.applied: list[Configuration] = []
        self.reasons: list[str] = []
        self.closed = False

    async def apply(self, configuration: Configuration) -> None:
        """Note it."""
        self.applied.append(configuration)

    def not_ready(self) -> list[str]:
        """What the test decides."""
        return self.reasons

    async def close(self) -> None:
        """Note it."""
        self.closed = True


def configuration(name: str = "first") -> Configuration:
    """A configuration that is recognised by its outpost's name."""
    return Configuration(OutpostRecord(pk="o", name=name, type="ldap"), RootConfig(), ())


class House:
    """A pool and what the tests ask of its workers."""

    def __init__(self, pool: Pool, context: DaemonContext) -> None:
        self.pool = pool
        self.context = context
        self.refreshes = 0
        self.bound: list[tuple[str, str, int]] = []

    async def open(self, name: str = "first") -> None:
        """As the daemon does."""
        await self.pool.apply(configuration(name))
        self.bound = await self.pool.listen()

    def address(self, name: str = "ldap") -> tuple[str, int]:
        """Where they listen."""
        return next((host, port) for found, host, port in self.bound if found == name)

    def pids(self) -> list[int]:
        """Processes of workers that listen."""
        return [member.process.pid for member in self.pool.members.values() if member.listening]

    async def ask(self) -> dict[str, Any]:
        """What one of them, chosen by the system, was told."""
        reader, writer = await asyncio.open_connection(*self.address())
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
        told: dict[str, Any] = json.loads(line)
        return told

    async def ask_all(self) -> list[dict[str, Any]]:
        """What each of them was told, in the order of ``pids``."""
        found: dict[int, dict[str, Any]] = {}
        deadline = time.monotonic() + WAIT_S
        while set(found) != set(self.pids()):
            assert time.monotonic() < deadline, f"only {found.keys()} of {self.pids()} answer"
            told = await self.ask()
            found[told["pid"]] = told
        return [found[pid] for pid in self.pids()]

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        """Until something holds."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, f"not within {WAIT_S} s: {what}; {self.pool.health_details()}"
            await asyncio.sleep(0.01)

    async def whole(self, count: int = 2) -> None:
        """Until all listen."""
        await self.until(lambda: len(self.pids()) == count, "all workers listen")


@asynccontextmanager
async def house(
    *, count: int = 2, kind: str = "worker", listeners: dict[str, socket.SocketKind] | None = None, **fields: Any
) -> AsyncIterator[House]:
    """A pool whose workers are ``worker_program`` of a kind; ends with nothing left."""
    settings = replace(
        load({"AUTHENTIK_HOST": "http://127.0.0.1:9", "AUTHENTIK_TOKEN": "the-token", "OUTPOSTS_WORKERS": str(count)}),
        **({"listen_ldap": (LOCAL,), "listen_radius": (LOCAL,)} | fields),
    )
    held: list[House] = []
    refresh = lambda: setattr(held[0], "refreshes", held[0].refreshes + 1)  # noqa: E731
    context = DaemonContext(settings, None, None, None, "instance", refresh)
    plan = Plan(count, (sys.executable, "-m", "tests.common.worker_program", kind), listeners or TCP)
    pool = Pool(context, plan, Quiet, draw=lambda: 0.0)
    held.append(House(pool, context))
    everybody: set[int] = set()
    spawn = pool._spawn
    pool._spawn = lambda number: _noted(spawn(number), everybody)  # type: ignore[method-assign]
    try:
        yield held[0]
    finally:
        await context.cancel_all()
        await pool.close()
        assert [pid for pid in everybody if exists(pid)] == []
        assert pool._source.closed  # type: ignore[attr-defined]


def _noted(member: Any, everybody: set[int]) -> Any:
    everybody.add(member.process.pid)
    return member


@pytest.fixture(autouse=True)
def from_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are started from the folder that has the packages, with secrets in the environment that stay here."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("AUTHENTIK_TOKEN", "the-token")
    monkeypatch.setenv("OUTPOSTS_STATE_DIR", "/nowhere")


async def test_life() -> None:
    """Two workers listen on one port that was free, know the configuration and the token, and end when drained."""
    async with house() as it:
        assert isinstance(it.pool, Composite)
        assert it.pool.not_ready()[0] == "no worker is listening"
        await it.open()
        assert it.pool.not_ready() == []
        assert it.bound[0][2] > 0
        first, second = await it.ask_all()
        assert first["pid"] != second["pid"]
        for told in (first, second):
            assert (told["configuration"], told["token"]) == ("first", "the-token")
            assert b"the-token" not in visible(told["pid"])
        await it.pool.apply(configuration("next"))
        assert [told["configuration"] for told in await it.ask_all()] == ["next", "next"]
        pids = it.pids()
        await it.pool.drain(5.0)
        await it.until(lambda: not any(alive(pid) for pid in pids), "workers end by themselves")
        with pytest.raises(ConnectionRefusedError):
            await it.ask()


def exists(pid: int) -> bool:
    """Whether a process runs or has not been collected by its parent."""
    return Path(f"/proc/{pid}").exists()


def visible(pid: int) -> bytes:
    """What others can see of a process: environment and arguments."""
    return Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()


def alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def test_datagrams() -> None:
    """UDP listeners are shared the same way, and the supervisor takes no datagram itself."""
    async with house(listeners=BOTH) as it:
        await it.open()
        loop = asyncio.get_running_loop()
        heard = set()
        for _ in range(64):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                asking.setblocking(False)
                await loop.sock_connect(asking, it.address("radius"))
                await loop.sock_sendall(asking, b"who")
                heard.add(json.loads(await asyncio.wait_for(loop.sock_recv(asking, 65536), WAIT_S))["pid"])
        assert heard == set(it.pids())


async def test_everybody_is_told() -> None:
    """Published things, session ends, drops and a lost link reach all workers before the call returns."""
    async with house() as it:
        await it.open()
        await it.pool.publish("state", b"now")
        await it.pool.publish("directory", b"", publish([b"con", b"tent"], "/tmp"))
        await it.pool.drop("users", [1, 2])
        for told in await it.ask_all():
            assert told["published"] == {
                "state": {"details": "now", "file": None},
                "directory": {"details": "", "file": "content"},
            }
            assert told["dropped"] == [["users", [1, 2]]]
        it.pool.session_ended("abc")
        it.pool.connection_lost_for(31.0)
        await it.until(lambda: not it.context._tasks - set(it.pool._keepers), "told")
        for told in await it.ask_all():
            assert (told["ended"], told["lost"]) == (["abc"], [31.0])


async def test_many_keys_are_several_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is lost at the seams."""
    monkeypatch.setattr(workers, "MAX_DROP_KEYS", 3)
    async with house(count=1) as it:
        await it.open()
        await it.pool.drop("users", list(range(7)))
        (told,) = await it.ask_all()
        assert [keys for _, keys in told["dropped"]] == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
async def test_ended_worker_is_replaced(number: signal.Signals) -> None:
    """The others serve meanwhile; the new one knows all that was published, in its last version."""
    async with house() as it:
        await it.open()
        await it.pool.publish("a", b"old", publish([b"old file"], "/tmp"))
        await it.pool.publish("a", b"new", publish([b"new file"], "/tmp"))
        await it.pool.publish("b", b"withdrawn")
        it.pool.withdraw("b")
        await it.pool.apply(configuration("next"))
        victim, survivor = it.pids()
        restarts = metrics.worker_restarts._value.get()
        os.kill(victim, number)
        await it.until(lambda: victim not in it.pids() and not alive(victim), "noticed, its listener closed")
        assert it.pool.not_ready() == []
        assert (await it.ask())["pid"] == survivor
        assert it.pool.health_details()["workers"]["listening"] == 1
        await it.whole()
        assert metrics.worker_restarts._value.get() == restarts + 1
        assert it.pool.health_details() == {"workers": {"wanted": 2, "listening": 2, "problems": []}}
        for told in await it.ask_all():
            if told["pid"] != survivor:
                assert told["configuration"] == "next"
                assert told["published"] == {"a": {"details": "new", "file": "new file"}}


async def test_only_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere it is said, not half done."""
    monkeypatch.setattr(sys, "platform", "darwin")
    async with house(count=1) as it:
        with pytest.raises(StartError, match="need Linux"):
            await it.open()


async def test_readiness_without_any() -> None:
    """All gone: not ready, and clients are refused at once; nobody else can take the port meanwhile."""
    async with house(count=1) as it:
        await it.open()
        it.pool._draw = lambda: 0.999  # about a second until the next start
        os.kill(it.pids()[0], signal.SIGKILL)
        await it.until(it.pool.not_ready, "not ready")
        await it.until(lambda: "SIGKILL" in str(it.pool.not_ready()), "the reason")
        with pytest.raises(ConnectionRefusedError):
            await it.ask()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(it.address())
        await it.whole(1)
        assert it.pool.not_ready() == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("do-exit", "exit code 3"),
        ("do-hang", "did not confirm Publish"),
        ("do-slow", "did not confirm Publish"),
    ],
)
async def test_worker_that_fails_at_a_publication(name: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended and replaced; the supervisor does not wait for ever."""
    monkeypatch.setattr(workers, "APPLY_S", 0.5)
    async with house(count=1) as it:
        await it.open()
        (pid,) = it.pids()
        await it.pool.publish(name, b"")
        it.pool.withdraw(name)
        await it.until(lambda: not alive(pid), "it is gone")
        await it.until(lambda: reason in str(it.pool.health_details()), "the reason is told")
        await it.whole(1)


async def test_a_publication_that_cannot_be_used() -> None:
    """Is reported; the worker serves on with what it has."""
    async with house(count=1) as it:
        await it.open()
        pids = it.pids()
        await it.pool.publish("do-raise", b"")
        assert it.pids() == pids
        assert (await it.ask())["pid"] == pids[0]


@pytest.mark.parametrize("way", ["refuse", "stop"])
async def test_revocation_that_is_not_confirmed_ends_the_worker(way: str) -> None:
    """Failing or hanging: it is gone, and what it held with it."""
    async with house(count=1) as it:
        await it.open()
        (pid,) = it.pids()
        if way == "refuse":
            await it.pool.publish("do-refuse", b"")
            it.pool.withdraw("do-refuse")
        else:
            os.kill(pid, signal.SIGSTOP)
        it.pool.session_ended("abc")
        await it.until(lambda: not alive(pid), "it is gone")
        await it.until(lambda: "SessionEnd" in str(it.pool.health_details()), "the reason is told")
        await it.whole(1)


async def test_silent_worker_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any sign of life it is replaced, although nothing was asked of it."""
    monkeypatch.setattr(workers, "HANG_S", 3.0)
    monkeypatch.setattr(workers, "WATCH_S", 0.05)
    async with house(count=1) as it:
        await it.open()
        (pid,) = it.pids()
        os.kill(pid, signal.SIGSTOP)
        await it.until(lambda: not alive(pid), "it is gone")
        await it.until(lambda: "no sign of life" in str(it.pool.health_details()), "the reason is told")
        await it.whole(1)


async def test_configuration_that_cannot_be_served() -> None:
    """A worker that cannot apply it does not go on with the old one, and a new one does not listen."""
    async with house(count=1) as it:
        await it.open()
        (pid,) = it.pids()
        await it.pool.apply(configuration("unusable"))
        await it.until(lambda: not alive(pid), "it is gone")
        await it.until(it.pool.not_ready, "not ready")
        with pytest.raises(ConnectionRefusedError):
            await it.ask()
        await it.pool.apply(configuration("usable"))
        await it.whole(1)
        assert (await it.ask())["configuration"] == "usable"


async def test_no_workers_at_all() -> None:
    """Processes that talk nonsense are ended and tried again; nobody listens."""
    async with house(kind="garbage", count=1) as it:
        opening = asyncio.create_task(it.open())
        await it.until(lambda: "that is no message" in str(it.pool.not_ready()), "the reason is told")
        assert it.pool.not_ready()[0] == "no worker is listening"
        await it.until(lambda: "in a row: 2" in str(it.pool.not_ready()), "tried again")
        assert not opening.done()
        opening.cancel()


async def test_silent_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that never says anything is no worker."""
    monkeypatch.setattr(workers, "START_S", 1.0)
    async with house(kind="silent", count=1) as it:
        with pytest.raises(StartError, match="not all workers listen within 1 s: "):
            await it.open()


async def test_command_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's reason is told."""
    monkeypatch.setattr(workers, "START_S", 0.5)
    async with house(count=1) as it:
        it.pool._plan = replace(it.pool._plan, command=("/does/not/exist",))
        with pytest.raises(StartError, match="cannot be started"):
            await it.open()


async def test_address_in_use() -> None:
    """Whoever has it; also another daemon with workers, whose port could be shared."""
    async with house(count=1) as first:
        await first.open()
        taken = ListenAddress(*first.address())
        async with house(count=1, listen_ldap=(taken,)) as second:
            with pytest.raises(StartError, match="in use"):
                await second.open()


async def test_worker_that_cannot_listen() -> None:
    """Its reason is the daemon's."""
    async with house(count=1, listen_ldap=(ListenAddress("127.0.0.99", 0),)) as it:
        with pytest.raises(StartError, match="as asked"):
            await it.open()


async def test_reasons_of_workers() -> None:
    """Ready as soon as one is; else each one's reasons."""
    async with house() as it:
        await it.open()
        await it.pool.publish("do-unready", b"")
        await it.until(it.pool.not_ready, "not ready")
        assert it.pool.not_ready() == ["worker 1: told to be", "worker 2: told to be"]
        it.pool.withdraw("do-unready")
        os.kill(it.pids()[0], signal.SIGKILL)
        await it.until(lambda: it.pool.not_ready() == [], "the new one is ready")


async def test_metrics_are_sums_and_outlive_a_worker() -> None:
    """What each counted is added up, also of those that ended."""
    async with house() as it:
        await it.open()

        async def errors() -> float:
            line = 'outposts_protocol_errors_total{listener="test"} '
            text = (await it.pool.metrics_text()).decode()
            return sum(float(row[len(line) :]) for row in text.splitlines() if row.startswith(line))

        before = await errors()
        await it.pool.publish("do-count", b"")
        it.pool.withdraw("do-count")
        assert await errors() == before + 2
        os.kill(it.pids()[0], signal.SIGKILL)
        await it.until(lambda: len(it.pids()) == 1, "noticed")
        assert await errors() == before + 2
        await it.whole()
        assert await errors() == before + 2


async def test_metrics_while_a_worker_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are told without it, and it is not ended for that."""
    monkeypatch.setattr(workers, "METRICS_S", 0.2)
    async with house(count=1) as it:
        await it.open()
        pids = it.pids()
        os.kill(pids[0], signal.SIGSTOP)
        assert b"outposts_workers_listening 1.0" in await it.pool.metrics_text()
        os.kill(pids[0], signal.SIGCONT)
        assert it.pids() == pids


async def test_refresh_asked_by_a_worker() -> None:
    """Goes to the daemon."""
    async with house(count=1) as it:
        await it.open()
        await it.pool.publish("do-refresh", b"")
        await it.until(lambda: it.refreshes == 1, "refresh")


async def test_failures_in_a_row_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """They decide the pause, and are told; a worker that lived for a while has not failed in a row."""
    async with house(count=1) as it:
        await it.open()
        for row in (1, 2, 1):
            if row == 1:
                monkeypatch.setattr(workers, "STEADY_S", 0.0)
            else:
                monkeypatch.setattr(workers, "STEADY_S", 1e9)
            os.kill(it.pids()[0], signal.SIGKILL)
            await it.until(lambda row=row: f"failures in a row: {row}" in str(it.pool.health_details()), "told")
            await it.whole(1)


def test_usable_processors(tmp_path: Path) -> None:
    """A container's quota counts, rounded up; nonsense does not."""
    everything = usable_processors(tmp_path / "absent")
    assert everything == len(os.sched_getaffinity(0))
    quota = tmp_path / "cpu.max"
    for text, expected in [
        ("max 100000", everything),
        ("50000 100000", 1),
        ("100000 100000", 1),
        ("150000 100000", min(2, everything)),
        ("9900000 100000", everything),
        ("0 100000", 1),
        ("", everything),
        ("1 0", everything),
    ]:
        quota.write_text(text + "\n")
        assert usable_processors(quota) == expected, text
