"""A worker on a socket pair, in this process: every state meets every order, and orders it cannot follow."""

from __future__ import annotations

import array
import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from common import cache, setting_transfer
from common.cache import Configuration
from common.errors import StartError
from common.published import publish
from common.records import OutpostRecord, RootConfig
from common.service import Connections, DaemonContext
from common.settings import load
from common.worker import Published, Worker
from common.worker_channel import MAX_FILES, Channel
from common.worker_wire import (
    VERSION,
    Ack,
    Configure,
    ConnectionLost,
    Decoder,
    Drain,
    Drop,
    Failed,
    Hello,
    Listen,
    Listening,
    Message,
    Metrics,
    MetricsRequest,
    Publish,
    Refresh,
    SessionEnd,
    Started,
    Status,
    ToSupervisor,
    ToWorker,
    encode,
)

WAIT_S = 10.0  # what has not happened by then will not happen
ROOT = Path(__file__).resolve().parents[2]


class Notes:
    """A service that writes down what it is told, and fails when asked to."""

    type = "ldap"

    def __init__(self, context: DaemonContext) -> None:
        self.context = context
        self.did: list[object] = []
        self.fail: Exception | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()

    def _do(self, what: object) -> None:
        self.did.append(what)
        if self.fail is not None:
            raise self.fail

    async def apply(self, configuration: Configuration) -> None:
        """Note it."""
        self._do(("apply", configuration.outpost.name))

    async def receive(self, published: Published) -> None:
        """Note it, when allowed to go on."""
        await self.go_on.wait()
        content = None if published.file is None else bytes(published.file)
        self._do(("receive", published.name, published.details, content))

    def drop(self, what: str, keys: Sequence[int]) -> None:
        """Note it."""
        self._do(("drop", what, tuple(keys)))

    async def listen(self) -> list[tuple[str, str, int]]:
        """Pretend to."""
        self._do("listen")
        return [("ldap", "127.0.0.1", 3389)]

    def not_ready(self) -> list[str]:
        """Until something was applied."""
        return [] if self.did else ["nothing yet"]

    def session_ended(self, session_id: str) -> None:
        """Note it."""
        self._do(("ended", session_id))

    def connection_lost_for(self, seconds: float) -> None:
        """Note it."""
        self._do(("lost", seconds))

    async def drain(self, timeout_s: float) -> None:
        """When allowed to go on."""
        await self.go_on.wait()
        self._do(("drain", timeout_s))

    async def close(self) -> None:
        """Note it, without failing."""
        self.did.append("close")


class NoLogin:
    """The part of the login that a configuration touches."""

    budget_s = 0.0

    def configuration_changed(self) -> None:
        """Nothing to forget."""


class Line:
    """The supervisor's end of the socket, in the test's hand."""

    def __init__(self, connection: socket.socket, task: asyncio.Task[int], services: list[Notes]) -> None:
        connection.setblocking(False)
        self.socket = connection
        self.task = task
        self.services = services
        self.decoder = Decoder(ToSupervisor)
        self.heard: list[Message] = []

    @property
    def service(self) -> Notes:
        """The service that the worker made."""
        return self.services[0]

    def say(self, *messages: Message, fds: Sequence[int] = ()) -> None:
        """Send, all in one write; descriptors go with the first byte."""
        data = b"".join(encode(message) for message in messages)
        extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        assert self.socket.sendmsg([data], extra) == len(data)

    async def hear(self, kind: type[Message], where: Callable[[Any], bool] = lambda message: True) -> Any:
        """The next message of a kind; others but the signs of life stay in ``heard``."""
        async with asyncio.timeout(WAIT_S):
            while True:
                for message in self.heard:
                    if isinstance(message, kind) and where(message):
                        self.heard.remove(message)
                        return message
                data = await asyncio.get_running_loop().sock_recv(self.socket, 65536)
                assert data, f"the worker is gone before {kind.__name__}; heard {self.heard}"
                self.heard += self.decoder.receive(data)

    async def acknowledged(self, number: int) -> str:
        """The problem in the acknowledgement of a number."""
        answer: Ack = await self.hear(Ack, lambda ack: ack.number == number)
        return answer.problem

    async def ended(self) -> int:
        """Exit code."""
        return await asyncio.wait_for(asyncio.shield(self.task), WAIT_S)


def hello(**environ: str) -> Hello:
    """A greeting with the least settings."""
    given = {"AUTHENTIK_HOST": "http://core", "AUTHENTIK_TOKEN": "the-token", "AUTHENTIK_LOG_LEVEL": "error"} | environ
    return Hello(VERSION, 1, "instance", setting_transfer.to_bytes(load(given)))


def configuration(number: int = 2, **config: Any) -> Configure:
    """An order to serve something."""
    record = OutpostRecord(pk="o", name="outpost", type="ldap", config={"log_level": "error"} | config)
    return Configure(number, cache.to_bytes(Configuration(record, RootConfig(), ())))


@asynccontextmanager
async def line(*first: Message) -> AsyncIterator[Line]:
    """A worker that has heard the first messages; ended at the end."""
    ours, theirs = socket.socketpair()
    services: list[Notes] = []

    def factory(context: DaemonContext) -> Notes:
        services.append(Notes(context))
        return services[-1]

    async def nothing() -> None:
        return None

    def connections(settings: Any) -> Connections:
        return Connections(None, None, NoLogin(), None, nothing)  # type: ignore[arg-type]

    worker = Worker(theirs, factory, connections_to=connections)
    task = asyncio.create_task(worker.run())
    held = Line(ours, task, services)
    try:
        if first:
            held.say(*first)
            await held.hear(Started)
        yield held
    finally:
        ours.close()
        for service in services:
            service.go_on.set()
        await asyncio.wait({task}, timeout=WAIT_S)
        assert task.done()


INPUTS: dict[str, Message] = {
    "hello": hello(),
    "configure": configuration(50),
    "publish": Publish(50, "name", b"details", False, 0),
    "listen": Listen(50),
    "session end": SessionEnd(50, "abc"),
    "connection lost": ConnectionLost(50, 31.0),
    "drop": Drop(50, "users", (1,)),
    "metrics": MetricsRequest(50),
    "drain": Drain(50, 1.0),
}
# What a greeted worker's service is told by each order, whatever came before; "hello" a second time ends it.
TOLD: dict[str, object] = {
    "configure": ("apply", "outpost"),
    "publish": ("receive", "name", b"details", None),
    "listen": "listen",
    "session end": ("ended", "abc"),
    "connection lost": ("lost", 31.0),
    "drop": ("drop", "users", (1,)),
    "metrics": None,
    "drain": ("drain", 1.0),
}
STATES: dict[str, tuple[Message, ...]] = {
    "greeted": (),
    "configured": (configuration(2),),
    "listening": (configuration(2), Listen(3)),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("order", INPUTS)
async def test_every_state_meets_every_order(state: str, order: str) -> None:
    """Each order does the same in each state, and is acknowledged."""
    async with line(hello(), *STATES[state]) as it:
        for message in STATES[state]:
            assert await it.acknowledged(message.number) == ""  # type: ignore[attr-defined]
        before = len(it.service.did)
        it.say(INPUTS[order])
        if order == "hello":
            assert await it.ended() == 1
            return
        if order == "metrics":
            assert (await it.hear(Metrics)).number == 50
        else:
            if order == "listen":
                assert await it.hear(Listening)
            assert await it.acknowledged(50) == ""
        assert it.service.did[before : before + 1] == ([] if TOLD[order] is None else [TOLD[order]])
        if order == "drain":
            assert await it.ended() == 0
            assert it.service.did[-1] == "close"


@pytest.mark.parametrize("order", [name for name in INPUTS if name != "hello"])
async def test_orders_before_the_greeting_end_it(order: str) -> None:
    """There is nobody to follow them."""
    async with line() as it:
        it.say(INPUTS[order])
        assert await it.ended() == 1
        assert it.services == []


@pytest.mark.parametrize(
    "greeting",
    [
        Hello(VERSION + 1, 1, "i", setting_transfer.to_bytes(load({}, need_core=False))),
        Hello(VERSION, 1, "i", b"nonsense"),
    ],
)
async def test_greetings_that_are_not_understood(greeting: Hello) -> None:
    """Another release, or settings that are none."""
    async with line() as it:
        it.say(greeting)
        assert await it.ended() == 1
        assert it.services == []


async def test_settings_arrive() -> None:
    """The token too; the service asks for a refresh through the socket."""
    async with line(hello(OUTPOSTS_LDAP__LOGIN_TIMEOUT="7"), configuration(2)) as it:
        assert await it.acknowledged(2) == ""
        assert it.service.context.settings.token == "the-token"
        assert it.service.context.login.budget_s == 7
        assert it.service.context.outpost_name == "outpost"
        it.service.context.request_refresh()
        assert await it.hear(Refresh)


async def test_status_at_each_change() -> None:
    """Before the acknowledgement, so that who has that knows the other."""
    async with line(hello()) as it:
        assert (await it.hear(Status)).reasons == ("nothing yet",)
        it.say(configuration(2))
        await it.hear(Status, lambda status: status.reasons == ())
        assert not any(isinstance(message, Ack) for message in it.heard) or it.heard[0] == Ack(2)
        assert await it.acknowledged(2) == ""


async def test_revocations_overtake_what_waits() -> None:
    """A directory that takes long to read does not hold up the end of a session."""
    async with line(hello()) as it:
        it.service.go_on.clear()
        it.say(Publish(2, "slow", b"", False, 0), Listen(3), SessionEnd(4, "abc"), Drop(5, "users", (7,)))
        assert await it.acknowledged(4) == ""
        assert await it.acknowledged(5) == ""
        assert it.service.did == [("ended", "abc"), ("drop", "users", (7,))]
        it.service.go_on.set()
        assert await it.acknowledged(2) == ""
        assert await it.acknowledged(3) == ""
        assert it.service.did[2:] == [("receive", "slow", b"", None), "listen"]


@pytest.mark.parametrize("order", ["session end", "connection lost", "drop"])
async def test_revocation_that_fails_is_said(order: str) -> None:
    """The supervisor must know: it ends the process."""
    async with line(hello()) as it:
        it.service.fail = RuntimeError("as asked")
        it.say(INPUTS[order])
        assert await it.acknowledged(50) == "failed"


async def test_configuration_that_fails_ends_it() -> None:
    """The old one may hold rights that are gone."""
    async with line(hello()) as it:
        it.service.fail = RuntimeError("as asked")
        it.say(configuration(2))
        assert await it.acknowledged(2) == "RuntimeError"
        assert await it.ended() == 1


async def test_configuration_that_is_none_ends_it() -> None:
    """Or one of another type of outpost."""
    async with line(hello()) as it:
        it.say(Configure(2, b"{}"))
        assert await it.acknowledged(2) == "WireError"
        assert await it.ended() == 1


async def test_publication_that_fails_is_said() -> None:
    """The worker goes on with what it has."""
    async with line(hello()) as it:
        it.service.fail = RuntimeError("as asked")
        it.say(Publish(2, "a", b"", False, 0))
        assert await it.acknowledged(2) == "RuntimeError"
        it.service.fail = None
        it.say(Publish(3, "b", b"", False, 0))
        assert await it.acknowledged(3) == ""


async def test_address_that_cannot_be_used() -> None:
    """Told in words for the operator."""
    async with line(hello()) as it:
        it.service.fail = StartError("cannot listen on 127.0.0.1:389: Permission denied")
        it.say(Listen(2))
        assert (await it.hear(Failed)).problem == "cannot listen on 127.0.0.1:389: Permission denied"


async def test_no_listening_once_draining() -> None:
    """A SIGTERM of its own, then the order to listen that was under way."""
    async with line(hello()) as it:
        it.service.go_on.clear()
        it.say(Drain(2, 5.0), Listen(3))
        assert await it.acknowledged(3) == ""
        assert "listen" not in it.service.did
        it.service.go_on.set()
        assert await it.ended() == 0


async def test_supervisor_gone_ends_it() -> None:
    """Whatever it was doing."""
    async with line(hello()) as it:
        it.service.go_on.clear()
        it.say(Publish(2, "slow", b"", False, 0))
        it.socket.close()
        assert await it.ended() == 1
        assert it.service.did == ["close"]


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1", encode(Started(VERSION, 1))])
async def test_garbage_ends_it(garbage: bytes) -> None:
    """No guessing."""
    async with line(hello()) as it:
        it.socket.send(garbage)
        assert await it.ended() == 1


# -- files beside messages ---------------------------------------------------------------------------------------------


async def test_files_reach_their_messages() -> None:
    """In order, whether a message between has none."""
    async with line(hello()) as it:
        first, second = publish([b"one"], "/tmp"), publish([b"two"], "/tmp")
        it.say(
            Publish(2, "a", b"", True, first.size),
            Publish(3, "b", b"", False, 0),
            Publish(4, "c", b"", True, second.size),
            fds=[first.fd, second.fd],
        )
        for number in (2, 3, 4):
            assert await it.acknowledged(number) == ""
        assert [what[3] for what in it.service.did] == [b"one", None, b"two"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("messages", "files"),
    [
        ([Publish(2, "a", b"", True, 3)], 0),  # its file is missing
        ([Listen(2)], 1),  # nobody wants it
        ([Publish(2, "a", b"", True, 3)], 2),
        ([Publish(2, "a", b"", True, 3)], MAX_FILES + 1),
    ],
)
async def test_files_that_do_not_fit_end_it(messages: list[Message], files: int) -> None:
    """And are closed, not kept."""
    before = open_files()
    made = publish([b"one"], "/tmp")
    async with line(hello()) as it:
        it.say(*messages, fds=[made.fd] * files)
        assert await it.ended() == 1
    made.close()
    assert open_files() == before


async def test_file_that_is_smaller_than_said() -> None:
    """Refused before anything is read from it."""
    async with line(hello()) as it:
        made = publish([b"one"], "/tmp")
        it.say(Publish(2, "a", b"", True, 1 << 20), fds=[made.fd])
        assert await it.acknowledged(2) == "ValueError"
        assert it.service.did == []


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something holds."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


def open_files() -> int:
    """Descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


async def test_channel_keeps_what_the_socket_does_not_take() -> None:
    """A large frame with a file behind it, to a peer that reads late: whole, in order, and nothing is left open."""
    before = open_files()
    ours, theirs = socket.socketpair()
    got: list[tuple[Message, bytes]] = []

    def take(message: Message, fd: int | None) -> None:
        content = b"" if fd is None else os.pread(fd, 100, 0)
        if fd is not None:
            os.close(fd)
        got.append((message, content))

    sender = Channel(ours, ToSupervisor, lambda message, fd: None, lambda reason: None)
    large = Configure(1, b"x" * 4_000_000)
    made = publish([b"content"], "/tmp")
    sender.send(large)
    sender.send(Publish(2, "a", b"", True, made.size), made.fd)
    sender.send(Listen(3))
    made.close()  # the channel has a copy
    receiver = Channel(theirs, ToWorker, take, lambda reason: got.append((Refresh(), reason.encode())))
    await until(lambda: len(got) >= 3)
    assert got == [(large, b""), (Publish(2, "a", b"", True, made.size), b"content"), (Listen(3), b"")]
    sender.close()
    await until(lambda: not receiver.is_open)
    assert got[3:] == [(Refresh(), b"")]  # the end, once and without a fault
    receiver.send(Refresh())  # nobody there: no error
    assert open_files() == before


async def test_channel_gives_up_a_peer_that_never_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its backlog is bounded."""
    monkeypatch.setattr("common.worker_channel.MAX_UNSENT", 1_000_000)
    ours, theirs = socket.socketpair()
    ends: list[str] = []
    channel = Channel(ours, ToSupervisor, lambda message, fd: None, ends.append)
    for number in range(30):
        channel.send(Configure(number, b"x" * 100_000))
    assert ends == ["does not read"]
    assert not channel.is_open
    theirs.close()


# -- as a process ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
async def test_signals_for_the_supervisor_are_not_for_a_worker(number: signal.Signals) -> None:
    """Ctrl-C and refresh signals to the whole group leave workers to their supervisor; then its end ends them."""
    ours, theirs = socket.socketpair()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.common.worker_program", "worker", str(theirs.fileno()),
        cwd=ROOT, pass_fds=(theirs.fileno(),), stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    theirs.close()
    ours.setblocking(False)
    decoder = Decoder(ToSupervisor)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(ours, encode(hello()))
    messages = decoder.receive(await loop.sock_recv(ours, 65536))
    assert any(isinstance(message, Started) for message in messages)
    process.send_signal(number)
    await loop.sock_sendall(ours, encode(SessionEnd(2, "abc")))
    deadline = time.monotonic() + WAIT_S
    while Ack(2) not in messages:
        assert time.monotonic() < deadline
        messages += decoder.receive(await loop.sock_recv(ours, 65536))
    assert process.returncode is None
    ours.close()
    assert await asyncio.wait_for(process.wait(), WAIT_S) == 1
