"""The WebSocket link against a real server on loopback: contract cases C19 to C27, and the recorded sessions."""

from __future__ import annotations

import asyncio
import gc
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from common.link import Link, Timing
from tests import recorded
from tests.common.core_server import Address, raw_server, served

WS = recorded.ROOT / "ws"
INSTANCE = "6b0a1cbb-7f5e-4a49-9a0e-0d2c6a4f1f60"
QUICK = Timing(
    handshake_s=5.0,
    hello_s=0.05,
    hello_jitter_s=0.01,
    silence_s=30.0,
    refresh_after_s=30.0,
    goodbye_s=0.05,
    stable_s=0.0,
    delay=lambda attempt, absence_s: 0.0,
)


class Watch:
    """A link under observation: what it reported, in order, and conditions to wait for."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []
        self._changed = asyncio.Event()

    def note(self, what: str, value: Any = None) -> None:
        self.seen.append((what, value))
        self._changed.set()

    def count(self, what: str) -> int:
        return sum(1 for kind, _ in self.seen if kind == what)

    def values(self, what: str) -> list[Any]:
        return [value for kind, value in self.seen if kind == what]

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 10)


class Core:
    """The server's end: every connection is handed to ``script``; frames from the outpost are noted."""

    def __init__(self, watch: Watch, script: Callable[[Core, web.WebSocketResponse], Awaitable[None]]) -> None:
        self.watch = watch
        self.script = script
        self.requests: list[web.Request] = []
        self.hellos: list[dict[str, Any]] = []
        self.refuse_with: int | None = None

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if self.refuse_with is not None:
            self.watch.note("refused")
            return web.Response(status=self.refuse_with)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.watch.note("accepted")
        await self.script(self, socket)
        if not socket.closed:
            await socket.close()
        self.watch.note("server end", socket.close_code)
        return socket

    async def acknowledge(self, socket: web.WebSocketResponse) -> None:
        """As a core does: an ACK for each message, until the outpost goes."""
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                frame = json.loads(message.data)
                self.hellos.append(frame)
                self.watch.note("frame", frame)
                await socket.send_str('{"instruction": 0, "args": {}}')


@asynccontextmanager
async def linked(
    script: Callable[[Core, web.WebSocketResponse], Awaitable[None]],
    *,
    timing: Timing = QUICK,
    address: Callable[[str], Address] = Address,
    refuse_with: int | None = None,
    clock: Callable[[], float] | None = None,
) -> AsyncIterator[tuple[Core, Link, Watch]]:
    """A core and a running link to it."""
    watch = Watch()
    core = Core(watch, script)
    core.refuse_with = refuse_with
    more: dict[str, Any] = {} if clock is None else {"clock": clock}
    async with served(core) as url:
        link = Link(
            address(url),
            "4dfddd25-0b44-4ea0-ac4b-54d25a0b8598",
            INSTANCE,
            on_update=lambda: watch.note("update"),
            on_session_end=lambda session_id: watch.note("session end", session_id),
            on_connection=lambda up, absence_s: watch.note("connection", (up, absence_s)),
            timing=timing,
            **more,
        )
        running = asyncio.create_task(link.run())
        try:
            yield core, link, watch
        finally:
            await link.close()
            await asyncio.wait_for(running, 10)


async def talk(core: Core, socket: web.WebSocketResponse) -> None:
    """A core that says nothing of its own."""
    await core.acknowledge(socket)


def sending(*frames: str | bytes) -> Callable[[Core, web.WebSocketResponse], Awaitable[None]]:
    """A core that sends frames, then acknowledges."""

    async def script(core: Core, socket: web.WebSocketResponse) -> None:
        for frame in frames:
            await (socket.send_bytes(frame) if isinstance(frame, bytes) else socket.send_str(frame))
        await core.acknowledge(socket)

    return script


async def test_c19_first_frame_is_a_complete_hello() -> None:
    """C19: hello first, every field there and of the right type; then again and again."""
    async with linked(talk) as (core, _, watch):
        await watch.until(lambda: len(core.hellos) >= 3)
    recorded_hello = next(
        json.loads(line["raw"])
        for line in map(json.loads, (WS / "ws_session_ldap.jsonl").read_text().splitlines())
        if line["event"] == "send"
    )
    for frame in core.hellos[:3]:
        assert frame["instruction"] == 1
        assert frame["args"].keys() == recorded_hello["args"].keys()
        assert frame["args"]["uuid"] == INSTANCE
        for key, value in frame["args"].items():
            assert type(value) is (bool if key in ("opensslEnabled", "fipsEnabled") else str), key
        assert frame["args"]["buildHash"]


async def test_handshake_as_a_core_wants_it() -> None:
    """C04: path, query with the base URL's own parameters, sorted; token and user agent."""

    def address(url: str) -> Address:
        return Address(url, host_query="foo=bar&zoo=1")

    async with linked(talk, address=address) as (core, _, watch):
        await watch.until(lambda: watch.count("accepted") == 1)
    request = core.requests[0]
    assert request.raw_path == (
        f"/ws/outpost/4dfddd25-0b44-4ea0-ac4b-54d25a0b8598/?attempt=0&foo=bar&instance_uuid={INSTANCE}&zoo=1"
    )
    assert request.headers["Authorization"] == "Bearer outpost-token"
    assert request.headers["User-Agent"].startswith("goauthentik.io/outpost/")


async def test_c20_acknowledgements_are_silent() -> None:
    """C20: an ACK sets nothing off."""
    async with linked(talk) as (core, link, watch):
        await watch.until(lambda: len(core.hellos) >= 2)
        assert link.connected
    assert watch.count("update") == 0
    assert watch.count("session end") == 0


async def test_c21_updates_arrive_one_by_one() -> None:
    """C21: five updates are reported five times, at once; making one refresh of them is the daemon's part."""
    async with linked(sending(*['{"instruction":2,"args":{}}'] * 5)) as (_, _, watch):
        await watch.until(lambda: watch.count("update") == 5)
    assert watch.count("update") == 5


async def test_c22_frames_without_meaning_keep_the_connection() -> None:
    """C22: they are passed over; what follows on the same connection still arrives."""
    frames = ['{"instruction":99}', "[]", "not json", "", b"\xff\x00", '{"instruction":4,"args":{}}']
    async with linked(sending(*frames, '{"instruction":2,"args":{}}')) as (_, _, watch):
        await watch.until(lambda: watch.count("update") == 1)
        assert watch.count("accepted") == 1
    assert watch.count("session end") == 0


async def test_c23_session_end_during_a_refresh() -> None:
    """C23: an update that takes long does not hold a session end back."""
    refresh_may_end = asyncio.Event()
    refreshing: list[asyncio.Task[bool]] = []
    ended: list[str] = []
    done = asyncio.Event()

    def on_session_end(session_id: str) -> None:
        ended.append(session_id)
        done.set()

    core = Core(Watch(), sending('{"instruction":2,"args":{}}', '{"instruction":4,"args":{"session_id":"ab"}}'))
    async with served(core) as url:
        link = Link(
            Address(url),
            "pk",
            INSTANCE,
            on_update=lambda: refreshing.append(asyncio.create_task(refresh_may_end.wait())),
            on_session_end=on_session_end,
            on_connection=lambda up, absence_s: None,
            timing=QUICK,
        )
        running = asyncio.create_task(link.run())
        await asyncio.wait_for(done.wait(), 5)
        assert ended == ["ab"]
        assert [task.done() for task in refreshing] == [False]
        refresh_may_end.set()
        await asyncio.gather(*refreshing)
        await link.close()
        await running


async def test_c24_any_session_id_is_handed_on_and_nothing_breaks() -> None:
    """C24: the link knows no sessions; even a handler that fails does not end it."""
    watch = Watch()

    def fail(session_id: str) -> None:
        watch.note("failed")
        raise KeyError(session_id)

    core = Core(watch, sending('{"instruction":4,"args":{"session_id":"unknown"}}', '{"instruction":2}'))
    async with served(core) as url:
        link = Link(
            Address(url),
            "pk",
            INSTANCE,
            on_update=lambda: watch.note("update"),
            on_session_end=fail,
            on_connection=lambda up, absence_s: None,
            timing=QUICK,
        )
        running = asyncio.create_task(link.run())
        await watch.until(lambda: watch.count("update") == 1)
        assert watch.count("failed") == 1
        assert watch.count("accepted") == 1
        await link.close()
        await running


async def test_c25_silent_server_is_left() -> None:
    """C25: TCP stays open, nothing comes: closed and connected anew; reported as gone and back."""
    silent = asyncio.Event()

    async def mute(core: Core, socket: web.WebSocketResponse) -> None:
        if len(core.requests) == 1:
            await silent.wait()  # reads nothing, answers nothing
        else:
            await core.acknowledge(socket)

    async with linked(mute, timing=replace(QUICK, silence_s=0.2)) as (core, _, watch):
        await watch.until(lambda: len(core.hellos) >= 1)
        silent.set()
    assert [up for up, _ in watch.values("connection")][:3] == [True, False, True]


async def test_c25_default_times_find_a_dead_socket_within_45_seconds() -> None:
    """C25 with the numbers of production: silence, goodbye, first retry and handshake together."""
    timing = Timing()
    assert timing.silence_s >= 3 * (timing.hello_s + timing.hello_jitter_s)
    assert timing.silence_s + timing.goodbye_s + timing.delay(0, 0.0) < 45.0
    assert timing.hello_s + timing.hello_jitter_s < 15.0  # the core forgets an instance then


async def test_c26_refused_for_ever() -> None:
    """C26: hundreds of refusals in a row: still trying, nothing piles up, and a core that accepts again is found."""
    rounds = 400
    sizes: list[tuple[int, int]] = []
    async with linked(talk, refuse_with=403) as (core, link, watch):
        for goal in (rounds // 2, rounds):
            await watch.until(lambda goal=goal: watch.count("refused") >= goal)  # type: ignore[misc]
            core.requests.clear()
            gc.collect()
            sizes.append((len(asyncio.all_tasks()), len(gc.get_objects())))
        assert not link.connected
        assert sizes[1][0] <= sizes[0][0] + 2
        assert sizes[1][1] - sizes[0][1] < rounds  # less than two objects a refusal, which the test's own notes use up
        core.refuse_with = None
        await watch.until(lambda: watch.count("accepted") == 1)
    assert watch.values("connection")[0][0] is True


@pytest.mark.parametrize(("absence_s", "updates"), [(40.0, 1), (20.0, 0)])
async def test_c27_refresh_after_a_long_absence(absence_s: float, updates: int) -> None:
    """C27: back after 40 s: one update follows. After 20 s: none."""
    now = 1000.0
    cores: list[Core] = []

    async def drop_first(core: Core, socket: web.WebSocketResponse) -> None:
        cores.append(core)
        if len(core.requests) > 1:
            await core.acknowledge(socket)

    def delay(attempt: int, gone_s: float) -> float:
        nonlocal now
        if len(cores) == 1:
            now += absence_s
        return 0.0

    timing = replace(QUICK, delay=delay)
    async with linked(drop_first, timing=timing, clock=lambda: now) as (core, _, watch):
        await watch.until(lambda: len(core.hellos) >= 2)
        assert watch.count("update") == updates
        assert [absence for up, absence in watch.values("connection") if up] == [0.0, absence_s]


async def test_attempts_are_numbered() -> None:
    """``attempt`` is 0 at first; an outage begins with 1; refusals count on."""

    async def drop_first(core: Core, socket: web.WebSocketResponse) -> None:
        if len(core.requests) == 3:
            core.refuse_with = 403  # the next two are refused
        else:
            await core.acknowledge(socket)

    async with linked(drop_first, refuse_with=403) as (core, _, watch):
        await watch.until(lambda: watch.count("refused") >= 2)
        core.refuse_with = None
        await watch.until(lambda: watch.count("accepted") >= 1)
        attempts = [int(request.query["attempt"]) for request in core.requests]
        assert attempts == list(range(len(attempts)))


async def test_flapping_server_is_not_hammered() -> None:
    """A server that accepts and closes at once counts as failing: attempts go up, so waits do."""
    asked: list[int] = []

    def delay(attempt: int, gone_s: float) -> float:
        asked.append(attempt)
        return 0.0

    async def close(core: Core, socket: web.WebSocketResponse) -> None:
        await socket.close()

    async with linked(close, timing=replace(QUICK, stable_s=5.0, delay=delay)) as (_, _, watch):
        await watch.until(lambda: len(asked) >= 6)
    assert asked[:6] == [0, 1, 2, 3, 4, 5]


async def test_stopped_core_is_found_again() -> None:
    """No server at all, then one: the link comes by itself."""
    watch = Watch()
    core = Core(watch, talk)
    async with served(core) as url:
        pass
    port = int(url.rpartition(":")[2])
    tried: list[int] = []

    def delay(attempt: int, gone_s: float) -> float:
        tried.append(attempt)
        watch.note("tried")
        return 0.0 if attempt < 5 else 0.05

    link = Link(
        Address(url),
        "pk",
        INSTANCE,
        on_update=lambda: None,
        on_session_end=lambda session_id: None,
        on_connection=lambda up, absence_s: watch.note("connection", up),
        timing=replace(QUICK, delay=delay),
    )
    running = asyncio.create_task(link.run())
    await watch.until(lambda: len(tried) > 3)
    async with served(core, port=port):
        await watch.until(lambda: watch.count("connection") == 1)
        await link.close()
        await asyncio.wait_for(running, 5)


async def test_goodbye_is_code_1000() -> None:
    """Closing tells the core, and ``run`` returns."""
    async with linked(talk) as (core, link, watch):
        await watch.until(lambda: len(core.hellos) >= 1)
        await link.close()
        await watch.until(lambda: watch.count("server end") == 1)
        assert watch.values("server end") == [1000]
        await watch.until(lambda: watch.count("connection") == 2)
        assert not link.connected


async def test_close_does_not_wait_for_the_next_try() -> None:
    """A link that waits between two tries ends at once."""
    waiting = asyncio.Event()

    def delay(attempt: int, gone_s: float) -> float:
        if attempt < 2:
            return 0.0
        waiting.set()
        return 3600.0

    async with linked(talk, timing=replace(QUICK, delay=delay), refuse_with=403):
        await asyncio.wait_for(waiting.wait(), 10)


async def test_cancellation_ends_everything() -> None:
    """A cancelled link leaves no task behind."""
    watch = Watch()
    core = Core(watch, talk)
    async with served(core) as url:
        before = len(asyncio.all_tasks())
        link = Link(
            Address(url),
            "pk",
            INSTANCE,
            on_update=lambda: None,
            on_session_end=lambda session_id: None,
            on_connection=lambda up, absence_s: None,
            timing=QUICK,
        )
        running = asyncio.create_task(link.run())
        await watch.until(lambda: len(core.hellos) >= 1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await watch.until(lambda: watch.count("server end") == 1)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) <= before + 1  # the server's own connection task may linger


def lines(path: Path) -> list[dict[str, Any]]:
    """A recorded session."""
    return [json.loads(line) for line in path.read_text().splitlines()]


ACCEPTED = [path for path in sorted(WS.glob("*.jsonl")) if any(row["event"] == "connected" for row in lines(path))]
REFUSED = [path for path in sorted(WS.glob("*.jsonl")) if any("refused" in row["event"] for row in lines(path))]


def test_all_recorded_sessions_are_used() -> None:
    """One session is neither: the core was down, which other tests show live."""
    assert len(ACCEPTED) + len(REFUSED) == len(list(WS.glob("*.jsonl"))) - 1


@pytest.mark.parametrize("path", ACCEPTED, ids=lambda path: path.stem)
async def test_recorded_session(path: Path) -> None:
    """Every frame that a real core sent: updates and session ends are reported, in order, nothing else is."""
    rows = lines(path)
    frames = [row["raw"] for row in rows if row["event"] == "recv"]
    meant = [json.loads(frame) for frame in frames]
    expected: list[tuple[str, str | None]] = []
    for frame in meant:
        if frame["instruction"] == 2:
            expected.append(("update", None))
        if frame["instruction"] == 4:
            expected.append(("session end", frame["args"]["session_id"]))
    code = next((row["code"] for row in rows if row["event"] == "closed"), 1000)

    async def script(core: Core, socket: web.WebSocketResponse) -> None:
        if len(core.requests) > 1:
            await core.acknowledge(socket)
            return
        first = await socket.receive()
        core.hellos.append(json.loads(first.data))
        for frame in frames:
            await socket.send_str(frame)
        await socket.close(code=code)

    async with linked(script) as (core, _, watch):
        # the recorded close is answered by coming back
        await watch.until(lambda: len(core.hellos) >= 2)
    assert [(kind, value) for kind, value in watch.seen if kind in ("update", "session end")] == expected
    assert [up for up, _ in watch.values("connection")][:3] == [True, False, True]


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: path.stem)
async def test_recorded_refusal(path: Path) -> None:
    """A recorded refusal is not the end, and says nothing to the daemon."""
    refused = next(row for row in lines(path) if "refused" in row["event"])
    assert refused["status"] == 403
    async with linked(talk, refuse_with=refused["status"]) as (core, _, watch):
        await watch.until(lambda: watch.count("refused") >= 3)
        assert watch.count("connection") == 0
        core.refuse_with = None
        await watch.until(lambda: watch.count("connection") == 1)


@pytest.mark.parametrize("status", [400, 404, 429, 500, 502, 503])
async def test_any_other_answer_to_the_handshake(status: int) -> None:
    """A gateway's errors are survived like refusals."""
    async with linked(talk, refuse_with=status) as (core, _, watch):
        await watch.until(lambda: watch.count("refused") >= 2)
        core.refuse_with = None
        await watch.until(lambda: watch.count("connection") == 1)


async def test_noise_instead_of_websocket() -> None:
    """A server that answers the handshake with rubbish, then with a proper one."""
    accepted = asyncio.Event()
    tries = 0

    async def rubbish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(random.Random(tries).randbytes(200))
        writer.close()
        if tries >= 3:
            accepted.set()

    async with raw_server(rubbish) as port:
        link = Link(
            Address(f"http://127.0.0.1:{port}"),
            "pk",
            INSTANCE,
            on_update=lambda: None,
            on_session_end=lambda session_id: None,
            on_connection=lambda up, absence_s: None,
            timing=QUICK,
        )
        running = asyncio.create_task(link.run())
        await asyncio.wait_for(accepted.wait(), 10)
        assert not running.done()
        await link.close()
        await asyncio.wait_for(running, 5)
