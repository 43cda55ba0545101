"""The life of a daemon, against a core over real HTTP and WebSocket, with a service that only takes notes."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import REGISTRY

from common import daemon as daemon_module
from common import logs, version
from common.cache import Configuration
from common.daemon import MERGE_S, Daemon, connect, refresh_interval
from common.errors import StartError
from common.service import DaemonContext
from common.settings import Settings, load
from tests import daemons, factories
from tests.fakes import StubCore

PREFIX = "/outpost.goauthentik.io"
WAIT_S = 10.0  # what has not happened by then will not happen
ROOT = Path(__file__).resolve().parents[2]


class Notes:
    """A service that writes down what it is told. ``busy`` is a request in flight, ended by ``finish``."""

    type = "ldap"

    def __init__(self, context: DaemonContext) -> None:
        self.context = context
        self.applied: list[Configuration] = []
        self.listened = 0
        self.ended: list[str] = []
        self.lost: list[float] = []
        self.reasons: list[str] = []
        self.steps: list[str] = []
        self.finish = asyncio.Event()
        self.finish.set()
        self.fail_apply: Exception | None = None
        self.fail_listen: Exception | None = None

    async def apply(self, configuration: Configuration) -> None:
        """Note the configuration."""
        if self.fail_apply is not None:
            raise self.fail_apply
        self.applied.append(configuration)

    async def listen(self) -> list[tuple[str, str, int]]:
        """Pretend to listen."""
        if self.fail_listen is not None:
            raise self.fail_listen
        self.listened += 1
        return [("ldap", "127.0.0.1", 3389), ("ldap", "::1", 3389), ("ldaps", "127.0.0.1", 6636)]

    def not_ready(self) -> list[str]:
        """What the test decides."""
        return self.reasons

    def session_ended(self, session_id: str) -> None:
        """Note the session."""
        self.ended.append(session_id)

    def connection_lost_for(self, seconds: float) -> None:
        """Note the absence."""
        self.lost.append(seconds)

    async def drain(self, timeout_s: float) -> None:
        """Wait for the request in flight."""
        self.steps.append("drain")
        with suppress(TimeoutError):
            await asyncio.wait_for(self.finish.wait(), timeout_s)
        self.steps.append("drained")

    async def close(self) -> None:
        """Note the end."""
        self.steps.append("closed")

    @property
    def providers(self) -> int:
        """How many providers are in service; -1 before the first configuration."""
        return len(self.applied[-1].providers) if self.applied else -1


async def until(condition: Callable[[], Any], what: str = "condition") -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_S} s: {what}"
        await asyncio.sleep(0.005)


class Life:
    """A running daemon and its service."""

    def __init__(self, daemon: Daemon, task: asyncio.Task[int], settings: Settings) -> None:
        self.daemon = daemon
        self.task = task
        self.settings = settings

    @property
    def service(self) -> Notes:
        """The service that was plugged in."""
        assert isinstance(self.daemon.service, Notes)
        return self.daemon.service

    async def ask(self, path: str) -> tuple[int, bytes]:
        """Ask the metrics port."""
        host, port = self.daemon.bound["metrics"][0]
        async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}{path}") as answer:
            return answer.status, await answer.read()

    async def reasons(self) -> list[str]:
        """Why it is not ready; empty = ready."""
        status, body = await self.ask("/readyz")
        answer = json.loads(body)
        assert (status == 200) is answer["ready"]
        return list(answer["reasons"])

    async def refreshed(self, times: int = 1) -> None:
        """Wait for refreshes that end after now."""
        wanted = self.daemon.refreshes + times
        await until(lambda: self.daemon.refreshes >= wanted and self.daemon.next_try_s is not None, "refresh")

    async def refresh_now(self) -> None:
        """One refresh, by signal."""
        count = self.daemon.refreshes
        os.kill(os.getpid(), signal.SIGUSR1)
        await until(lambda: self.daemon.refreshes > count and self.daemon.next_try_s is not None, "refresh")


def settings_for(core: StubCore, folder: Path, **environ: str) -> Settings:
    """Settings that lead to a stub core, everything else in a folder."""
    base = {
        "AUTHENTIK_HOST": core.url,
        "AUTHENTIK_TOKEN": core.token,
        "AUTHENTIK_LISTEN__METRICS": "127.0.0.1:0",
        "TMPDIR": str(folder),
        "OUTPOSTS_READY_FILE": str(folder / "ready.json"),
    }
    return load(base | environ)


@asynccontextmanager
async def living(core: StubCore, folder: Path, *, settle: bool = True, **options: Any) -> AsyncIterator[Life]:
    """A daemon in this process, without chance, stopped by SIGTERM at the end; ``settle`` waits for one refresh."""
    environ = options.pop("environ", {})
    prepare = options.pop("prepare", lambda notes: None)
    settings = settings_for(core, folder, **environ)

    def factory(context: DaemonContext) -> Notes:
        notes = Notes(context)
        prepare(notes)
        return notes

    chance: dict[str, Any] = {"offset_s": 0.0, "draw": lambda: 0.0}
    daemon = Daemon(settings, factory, **(chance | options))
    task = asyncio.create_task(daemon.run())
    life = Life(daemon, task, settings)
    try:
        await until(lambda: daemon.bound.get("metrics") or task.done(), "metrics port")
        if settle:
            await until(lambda: daemon.refreshes and daemon.next_try_s is not None, "first refresh")
        yield life
    finally:
        if not task.done():
            daemon.request_stop()
            if isinstance(getattr(daemon, "service", None), Notes):
                life.service.finish.set()
        await asyncio.wait({task}, timeout=WAIT_S)
        assert task.done()


@pytest.fixture
def core() -> Iterator[StubCore]:
    """A core with one LDAP provider."""
    with StubCore() as running:
        running.providers["ldap"] = [factories.ldap_provider()]
        yield running


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What is logged, at info until the core says otherwise."""
    text = io.StringIO()
    logs.configure("info", stream=text)
    yield text
    logs.configure("info")


def lines(stream: io.StringIO, event: str) -> list[dict[str, Any]]:
    """The log lines with some event."""
    return [line for line in map(json.loads, stream.getvalue().splitlines()) if line["event"] == event]


# Start


async def test_start_to_ready(core: StubCore, tmp_path: Path) -> None:
    """One refresh, apply, listen, ready file with the real addresses, WebSocket with a HELLO, ready."""
    async with living(core, tmp_path) as life:
        assert (life.service.providers, life.service.listened) == (1, 1)
        assert await life.reasons() == []
        ready = json.loads((tmp_path / "ready.json").read_text())
        assert ready["ldap"] == [["127.0.0.1", 3389], ["::1", 3389]]
        assert ready["ldaps"] == [["127.0.0.1", 6636]]
        assert ready["metrics"] == [list(life.daemon.bound["metrics"][0])]
        assert ready["pid"] == os.getpid()
        await asyncio.to_thread(core.wait_for, lambda: bool(core.hellos), "hello")
        assert core.hellos[0]["uuid"] == life.daemon.instance_id
        assert len(core.called("/outposts/ldap/")) == 1
    assert await life.task == 0
    assert not (tmp_path / "ready.json").exists()
    assert not (tmp_path / "authentik-metrics.sock").exists()


async def test_c31_info_and_connection_metrics(core: StubCore, tmp_path: Path) -> None:
    """The five labels; the time of the last good refresh; 1 while the WebSocket is open."""
    async with living(core, tmp_path) as life:
        await until(lambda: core.connected(), "websocket")
        short = {"outpost_name": "stub ldap outpost", "outpost_type": "ldap", "uuid": life.daemon.instance_id}
        labels = short | {"version": version.VERSION, "build": version.build_hash()}
        assert REGISTRY.get_sample_value("authentik_outpost_info", labels) == 1
        updated = REGISTRY.get_sample_value("authentik_outpost_last_update", labels)
        assert updated == pytest.approx(time.time(), abs=60)
        await until(lambda: REGISTRY.get_sample_value("authentik_outpost_connection", short) == 1, "gauge")
        assert b"authentik_outpost_info{" in (await life.ask("/metrics"))[1]


@pytest.mark.parametrize(
    ("environ", "code", "said"),
    [
        ({}, 1, "AUTHENTIK_HOST and AUTHENTIK_TOKEN not set"),
        ({"AUTHENTIK_HOST": "http://127.0.0.1:1"}, 1, "AUTHENTIK_TOKEN not set"),
        ({"AUTHENTIK_DEBUG": "maybe"}, 2, "AUTHENTIK_DEBUG"),
        ({"OUTPOSTS_STATEDIR": "/x"}, 2, "OUTPOSTS_STATE_DIR"),
    ],
)
async def test_c01_c05_exit_codes(tmp_path: Path, environ: dict[str, str], code: int, said: str) -> None:
    """1 with usage for a missing host or token, 2 naming the variable; before anything is done."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import sys; from common import daemon; sys.exit(daemon.main('ldap', None))",
        env={"PATH": "", "PYTHONPATH": str(ROOT), **environ}, cwd=tmp_path, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, error = await process.communicate()
    assert process.returncode == code
    assert said in error.decode()


async def test_c09_core_asks_for_patience(core: StubCore, tmp_path: Path) -> None:
    """503 with ``Retry-After: 5``: at least that long until the next try, alive meanwhile, then it goes on."""
    core.fault("/outposts/instances/", status=503, headers={"Retry-After": "5"})
    async with living(core, tmp_path) as life:
        assert life.daemon.next_try_s is not None
        assert life.daemon.next_try_s >= 5
        assert (await life.ask(f"{PREFIX}/ping"))[0] == 204
        assert (await life.reasons())[0].startswith("no configuration yet")
        assert life.service.listened == 0
        core.clear_faults()
        await life.refresh_now()
        assert await life.reasons() == []


async def test_c10_core_away_at_start(core: StubCore, tmp_path: Path, stream: io.StringIO) -> None:
    """It tries for ever, says so once, and is up soon after the core is."""
    core.stop()
    async with living(core, tmp_path) as life:
        await life.refreshed(3)
        assert life.daemon.next_try_s is not None
        assert life.daemon.next_try_s <= 60
        assert await life.reasons() != []
        core.start()
        await until(lambda: life.service.listened, "listening")
        assert await life.reasons() == []
    assert len(lines(stream, "refresh failed, keeping what is in service")) == 1
    assert len(lines(stream, "core answers again")) == 1


async def test_c11_wrong_token(core: StubCore, tmp_path: Path, stream: io.StringIO) -> None:
    """Retries with one clear line, not ready, no exit; with the right token it goes on."""
    right, core.token = core.token, "another"
    async with living(core, tmp_path, environ={"AUTHENTIK_TOKEN": right}) as life:
        await life.refreshed(2)
        assert await life.reasons() != []
        core.token = right
        await until(lambda: life.service.listened, "listening")
        assert await life.reasons() == []
    (line,) = lines(stream, "refresh failed, keeping what is in service")
    assert "refuses the token" in line["problem"]
    assert right not in stream.getvalue()


async def test_c12_no_outpost_visible(core: StubCore, tmp_path: Path) -> None:
    """Not ready, alive; a later entry is picked up."""
    outpost, core.outpost = core.outpost, {}
    async with living(core, tmp_path) as life:
        assert await life.reasons() != []
        core.outpost = outpost
        await until(lambda: life.service.listened, "listening")
        assert await life.reasons() == []


async def test_c13_outpost_of_another_type(core: StubCore, tmp_path: Path, stream: io.StringIO) -> None:
    """No listener, an error, not ready."""
    core.outpost["type"] = "radius"
    async with living(core, tmp_path) as life:
        await life.refreshed()
        assert life.service.listened == 0
        assert any("radius" in reason for reason in await life.reasons())
        core.outpost["type"] = "ldap"
        await until(lambda: life.service.listened, "listening")
        assert await life.reasons() == []
    assert lines(stream, "refusing to serve")[0]["level"] == "error"


async def test_c13_type_changes_while_serving(core: StubCore, tmp_path: Path) -> None:
    """Service ends at once, by a configuration without providers."""
    async with living(core, tmp_path) as life:
        core.outpost["type"] = "radius"
        await life.refresh_now()
        assert life.service.providers == 0
        assert await life.reasons() != []


async def test_c14_no_provider(core: StubCore, tmp_path: Path) -> None:
    """Up, ping 204, not ready; ready as soon as there is one."""
    core.providers["ldap"] = []
    async with living(core, tmp_path) as life:
        assert (await life.ask(f"{PREFIX}/ping"))[0] == 204
        assert await life.reasons() == ["no provider"]
        core.providers["ldap"] = [factories.ldap_provider()]
        await life.refresh_now()
        assert await life.reasons() == []


async def test_service_decides_on_readiness_too(core: StubCore, tmp_path: Path) -> None:
    """Its reasons are shown; a core that is away for a while is none."""
    async with living(core, tmp_path) as life:
        life.service.reasons.append("no directory of ldap-1")
        assert await life.reasons() == ["no directory of ldap-1"]
        life.service.reasons.clear()
        core.stop()
        await life.refresh_now()
        assert await life.reasons() == []
        assert life.service.providers == 1


async def test_unusable_port_ends_with_1(core: StubCore, tmp_path: Path) -> None:
    """A protocol listener that cannot bind is fatal."""

    def prepare(notes: Notes) -> None:
        notes.fail_listen = StartError("cannot listen on [::]:389: Permission denied")

    async with living(core, tmp_path, settle=False, prepare=prepare) as life:
        assert await life.task == 1
        assert life.service.steps == ["closed"]
    assert not (tmp_path / "ready.json").exists()


# Refresh


@pytest.mark.parametrize(("said", "used"), [(0, 300), (-1, 300), (10, 30), (29.9, 30), (30, 30), (3600, 3600)])
def test_c17_interval(said: float, used: float) -> None:
    """Zero and less is 300 s, less than 30 s is 30 s."""
    assert refresh_interval(said) == used
    assert refresh_interval(float("nan")) == 300


async def test_c17_interval_is_read_anew(core: StubCore, tmp_path: Path) -> None:
    """After every refresh."""
    async with living(core, tmp_path) as life:
        assert life.daemon.next_try_s == 3600
        core.outpost["refresh_interval_s"] = 10
        await life.refresh_now()
        assert life.daemon.next_try_s == 30


async def test_c18_log_level_from_the_core(core: StubCore, tmp_path: Path, stream: io.StringIO) -> None:
    """Unknown is debug, absent is info; a managed outpost keeps the environment's."""
    log = logs.get_logger("test")
    core.outpost["config"]["log_level"] = "nonsense"
    async with living(core, tmp_path) as life:
        assert log.enabled("debug")
        assert not log.enabled("trace")
        del core.outpost["config"]["log_level"]
        await life.refresh_now()
        assert log.enabled("info")
        assert not log.enabled("debug")
        core.outpost |= {"managed": "goauthentik.io/outposts/embedded", "config": {"log_level": "error"}}
        await life.refresh_now()
        assert log.enabled("info")


async def test_c21_five_triggers_one_refresh(core: StubCore, tmp_path: Path) -> None:
    """Triggers within the offset are one refresh, at its end."""
    async with living(core, tmp_path, offset_s=0.3) as life:
        await until(lambda: core.connected(), "websocket")
        core.forget()
        began = time.monotonic()
        for _ in range(5):
            await asyncio.to_thread(core.push_update)
        await life.refreshed()
        call = core.called("/outposts/instances/")[0]
        assert 0.3 <= call.at - began <= 1.3
        # A sixth trigger is a second refresh; nothing of the five is left over.
        await asyncio.to_thread(core.push_update)
        await life.refreshed()
        assert len(core.called("/outposts/instances/")) == 2


def test_c21_no_offset_is_too_short_to_merge(monkeypatch: pytest.MonkeyPatch, core: StubCore, tmp_path: Path) -> None:
    """Whatever is drawn, updates that follow each other within a second fall into one refresh."""
    for drawn, expected in ((0, MERGE_S), (1, 1.0), (9, 9.0)):
        monkeypatch.setattr("common.daemon.random.randint", lambda low, high, drawn=drawn: drawn)
        assert Daemon(settings_for(core, tmp_path), Notes)._offset_s == expected


async def test_trigger_during_a_refresh_is_not_lost(core: StubCore, tmp_path: Path) -> None:
    """What changes while a refresh reads is read by the next one."""
    async with living(core, tmp_path) as life:
        core.forget()
        core.fault("/outposts/ldap/", delay_s=0.3, status=None, times=1)
        life.daemon.request_refresh(now=True)
        await asyncio.to_thread(core.wait_for, lambda: bool(core.called("/outposts/ldap/")), "refresh under way")
        life.daemon.request_refresh()
        await life.refreshed(2)
        assert len(core.called("/outposts/instances/")) == 2


async def test_c23_session_end_during_a_refresh(core: StubCore, tmp_path: Path) -> None:
    """It reaches the service while the refresh is still waiting."""
    async with living(core, tmp_path) as life:
        await until(lambda: core.connected(), "websocket")
        core.fault("/outposts/ldap/", hang=True)
        life.daemon.request_refresh(now=True)
        await asyncio.to_thread(core.wait_for, lambda: len(core.called("/outposts/ldap/")) > 1, "refresh under way")
        args = {"type": "event.session.end", "session_id": "ab" * 32}
        await asyncio.to_thread(core.push, {"instruction": 4, "args": args})
        await until(lambda: life.service.ended, "session end")
        assert life.service.ended == ["ab" * 32]
        assert life.daemon.next_try_s is None


async def test_long_absence_is_told_to_the_service(core: StubCore, tmp_path: Path) -> None:
    """After more than 30 s without WebSocket; and the link is made anew for another outpost."""
    made: list[tuple[str, Any]] = []

    class Quiet:
        async def run(self) -> None:
            await asyncio.Event().wait()

        async def close(self) -> None:
            return

    def link(outpost_pk: str, instance_id: str, **callbacks: Any) -> Quiet:
        made.append((outpost_pk, callbacks["on_connection"]))
        return Quiet()

    connections = replace(connect(settings_for(core, tmp_path)), link=link)
    async with living(core, tmp_path, connections=connections) as life:
        (_, on_connection) = made[0]
        on_connection(True, 0.0)
        on_connection(False, 0.0)
        on_connection(True, 29.0)
        assert life.service.lost == []
        on_connection(True, 31.0)
        assert life.service.lost == [31.0]
        vars(life.service)["absence_s"] = 0.0  # a service to which the shortest one matters
        on_connection(True, 0.0)
        on_connection(True, 0.2)
        assert life.service.lost == [31.0, 0.2]
        await life.refresh_now()
        assert len(made) == 1
        core.outpost["pk"] = "00000000-0000-4000-8000-000000000001"
        await life.refresh_now()
        assert [pk for pk, _ in made][1:] == [core.outpost["pk"]]


async def test_service_that_fails_to_apply(core: StubCore, tmp_path: Path, stream: io.StringIO) -> None:
    """The daemon lives on, with what was in service, and tries again."""
    async with living(core, tmp_path) as life:
        life.service.fail_apply = RuntimeError("s3cr3t")
        await life.refresh_now()
        assert life.daemon.next_try_s is not None
        assert life.daemon.next_try_s < 60
        life.service.fail_apply = None
        await until(lambda: len(life.service.applied) == 2, "second try")
    assert lines(stream, "refresh failed")
    assert "s3cr3t" not in stream.getvalue()


async def test_login_budget_follows_the_configuration(core: StubCore, tmp_path: Path) -> None:
    """The whole time of a login is a setting, from the core too."""
    async with living(core, tmp_path) as life:
        assert life.service.context.login.budget_s == 90
        core.outpost["config"]["x_ldap_login_timeout"] = "20s"
        await life.refresh_now()
        assert life.service.context.login.budget_s == 20


async def test_vanished_outpost(core: StubCore, tmp_path: Path) -> None:
    """Not ready at once, served for the grace period, then refused; back as soon as the core knows it again."""
    outpost = core.outpost
    state = {"OUTPOSTS_STATE_DIR": str(tmp_path / "state")}
    async with living(core, tmp_path, grace_s=0.4, environ=state) as life:
        sealed = tmp_path / "state" / "ldap-configuration"
        assert sealed.exists()
        core.outpost = {}
        await life.refresh_now()
        assert await life.reasons() == ["the core does not know this outpost"]
        assert life.service.providers == 1
        await until(lambda: life.service.providers == 0, "refusal")
        assert await life.reasons() == ["the core does not know this outpost any more"]
        assert not sealed.exists()
        core.outpost = outpost
        await until(lambda: life.service.providers == 1, "service")
        assert await life.reasons() == []


# Sealed state


async def test_sealed_configuration_serves_without_a_core(core: StubCore, tmp_path: Path) -> None:
    """Start and serve while the core is away; take what it says when it is back."""
    state = {"OUTPOSTS_STATE_DIR": str(tmp_path / "state")}
    async with living(core, tmp_path, environ=state):
        pass
    core.stop()
    async with living(core, tmp_path, environ=state) as life:
        assert (life.service.providers, life.service.listened) == (1, 1)
        assert await life.reasons() == []
        core.providers["ldap"].append(factories.ldap_provider(2))
        core.start()
        await until(lambda: life.service.providers == 2, "fresh configuration")
        assert life.service.listened == 1


async def test_sealed_configuration_of_another_token(core: StubCore, tmp_path: Path) -> None:
    """Is as good as none."""
    state = {"OUTPOSTS_STATE_DIR": str(tmp_path / "state")}
    async with living(core, tmp_path, environ=state):
        pass
    core.stop()
    async with living(core, tmp_path, environ=state | {"AUTHENTIK_TOKEN": "another"}) as life:
        assert life.service.applied == []


async def test_services_have_sealed_files_of_their_own(core: StubCore, tmp_path: Path) -> None:
    """By name, only with a state directory."""
    state = {"OUTPOSTS_STATE_DIR": str(tmp_path / "state")}
    async with living(core, tmp_path, environ=state) as life:
        file = life.service.context.sealed("directory")
        assert file is not None
        assert file.write(3, b"snapshot")
        assert file.read(3) == b"snapshot"
    async with living(core, tmp_path) as life:
        assert life.service.context.sealed("directory") is None


# Signals and stop


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
async def test_c28_signal_refreshes(core: StubCore, tmp_path: Path, number: int) -> None:
    """At once, without the offset."""
    async with living(core, tmp_path, offset_s=3600) as life:
        core.forget()
        os.kill(os.getpid(), number)
        await life.refreshed()
        assert len(core.called("/outposts/instances/")) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_c28_stop_finishes_requests(core: StubCore, tmp_path: Path, number: int) -> None:
    """Not ready, drained, closed, WebSocket gone, exit code 0."""
    # Whoever runs the tests in the background has them ignore SIGINT, and what is ignored stays so (below).
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        await stopped_by(number, core, tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)


async def stopped_by(number: int, core: StubCore, tmp_path: Path) -> None:
    """A daemon with a request under way is told to stop."""
    async with living(core, tmp_path) as life:
        await until(lambda: core.connected(), "websocket")
        life.service.finish.clear()
        os.kill(os.getpid(), number)
        await until(lambda: life.service.steps == ["drain"], "drain")
        assert "stopping" in await life.reasons()
        assert not life.task.done()
        life.service.finish.set()
        assert await life.task == 0
        assert life.service.steps == ["drain", "drained", "closed"]
        await until(lambda: not core.connected(), "websocket closed")


async def test_interrupt_that_the_parent_ignores(core: StubCore, tmp_path: Path) -> None:
    """A parent that handles Ctrl-C itself starts daemons with SIGINT ignored; it stays so."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        async with living(core, tmp_path) as life:
            os.kill(os.getpid(), signal.SIGINT)
            await life.refresh_now()
            assert not life.task.done()
            assert life.service.steps == []
    finally:
        signal.signal(signal.SIGINT, before)


async def test_stop_does_not_wait_for_ever(core: StubCore, tmp_path: Path) -> None:
    """A request that does not end is cut off; one refresh that hangs, too."""
    async with living(core, tmp_path, drain_s=0.2) as life:
        core.fault("/outposts/.*", hang=True)
        life.daemon.request_refresh(now=True)
        life.service.finish.clear()
        life.daemon.request_stop()
        assert await asyncio.wait_for(life.task, WAIT_S) == 0
        assert life.service.steps[-1] == "closed"


STUBBORN = """
import asyncio, sys
from common import daemon
from tests.common.test_daemon import Notes

def factory(context):
    notes = Notes(context)
    notes.finish.clear()
    return notes

sys.exit(daemon.main("ldap", factory))
"""


async def test_c28_second_signal_ends_at_once(core: StubCore, tmp_path: Path) -> None:
    """A request that never ends holds the first stop up, not the second. With the real loop and the real process.

    It also says that it does not let TLS session keys be written.
    """
    environ = {
        "SSLKEYLOGFILE": str(tmp_path / "keys"),
        "AUTHENTIK_HOST": core.url,
        "AUTHENTIK_TOKEN": core.token,
        "AUTHENTIK_LISTEN__METRICS": "127.0.0.1:0",
    }
    process = daemons.launch("stubborn", [sys.executable, "-c", STUBBORN], environ, folder=tmp_path / "d")
    try:
        await until(lambda: (tmp_path / "d" / "ready.json").exists() or not process.alive(), "ready file")
        process.signal(signal.SIGTERM)
        await until(lambda: "stopping" in process.text(), "first stop")
        assert process.alive()
        began = time.monotonic()
        process.signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.process.wait, WAIT_S) == 0
        assert time.monotonic() - began < daemon_module.DRAIN_S
        assert "SSLKEYLOGFILE ignored" in process.text()
    finally:
        process.kill()


async def test_background_tasks_end_with_the_daemon(core: StubCore, tmp_path: Path, stream: io.StringIO) -> None:
    """A failing one is logged, a running one is cancelled."""
    ended: list[str] = []

    async def for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def fail() -> None:
        raise ValueError("s3cr3t")

    async with living(core, tmp_path) as life:
        life.service.context.spawn(for_ever(), "long")
        await asyncio.wait({life.service.context.spawn(fail(), "short")})
    assert ended == ["cancelled"]
    assert lines(stream, "background task failed")[0]["task"] == "short"
    assert "s3cr3t" not in stream.getvalue()
