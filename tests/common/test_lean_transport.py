"""What the small HTTP client takes for an answer, and what ends its connection."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from common import lean_transport
from common.errors import CoreError, CoreNonsense, CoreTimedOut, CoreUnavailable
from common.lean_transport import LeanTransport
from common.transport import MAX_ANSWER_BYTES, Response
from tests.common.core_server import Address, Reply, raw_server
from tests.ldap.binds import until

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Script:
    """A server that says one thing after another to each request of a connection, and counts connections."""

    def __init__(self, *says: bytes, close: bool = False) -> None:
        self.says = says
        self.close = close
        self.connections = 0
        self.heard: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        for said in self.says:
            try:
                self.heard.append(await reader.readuntil(b"\r\n\r\n"))
            except asyncio.IncompleteReadError:
                break
            writer.write(said)
        if not self.close:
            await reader.read()
        writer.close()


async def asked(script: Reply, times: int = 1, timeout_s: float = 2.0) -> list[Response | CoreError]:
    """What so many requests in turn get."""
    found: list[Response | CoreError] = []
    async with raw_server(script) as port:
        transport = LeanTransport(Address(f"http://127.0.0.1:{port}"))
        for _ in range(times):
            try:
                found.append(await transport.request("GET", "/x/", headers=[("A", "b")], timeout_s=timeout_s))
            except CoreError as error:
                found.append(error)
        await transport.close()
    return found


def one(found: list[Response | CoreError]) -> bytes | type[CoreError]:
    """The body of the only answer, or the kind of its error."""
    (answer,) = found
    return answer.body if isinstance(answer, Response) else type(answer)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Trailer: 1\r\n\r\n"
ZIPPED = gzip.compress(b"{}" * 50)
BOMB = gzip.compress(b"x" * (MAX_ANSWER_BYTES + 1))


def encoded(coding: str, body: bytes) -> bytes:
    """An answer in a content coding."""
    return f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (OK, b"{}"),
        (CHUNKED, b"{}"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"{}"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, b"{}"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (encoded("gzip", ZIPPED), b"{}" * 50),
        (encoded("deflate", zlib.compress(b"{}")), b"{}"),
        (encoded("GZip", ZIPPED[:-4]), CoreNonsense),
        (encoded("gzip", b"{}"), CoreNonsense),
        (encoded("gzip", BOMB), CoreNonsense),
        (encoded("br", b"{}"), CoreNonsense),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", CoreNonsense),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", CoreNonsense),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}", CoreNonsense),
        (b"HTTP/1.1 2000 OK\r\n\r\n", CoreNonsense),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", CoreNonsense),
        (b"HTTP/1.1 200 OK\r\n" + b"A: " + b"x" * 70_000 + b"\r\n\r\n", CoreNonsense),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", CoreNonsense),
    ],
)
async def test_answers(said: bytes, expected: bytes | type[CoreError]) -> None:
    """Each form of an answer, and each form of nonsense."""
    assert one(await asked(Script(said))) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n{}", b"{}"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", b"{}"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", CoreUnavailable),
        (CHUNKED[:-5], CoreUnavailable),
        (b"HTTP/1.1 200 OK\r\nContent-", CoreUnavailable),
        (b"", CoreUnavailable),
    ],
)
async def test_answers_that_end_with_the_connection(said: bytes, expected: bytes | type[CoreError]) -> None:
    """Without a length the connection's end is the answer's; otherwise it broke off."""
    assert one(await asked(Script(said, close=True))) == expected


async def test_a_connection_is_used_again_only_after_a_clean_end() -> None:
    """Ten clean answers: one connection. Ones that close, or bring more than was asked for: a connection each."""
    clean = Script(*[OK] * 10)
    assert all(isinstance(answer, Response) for answer in await asked(clean, 10))
    assert clean.connections == 1
    closing = Script(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert [one([answer]) for answer in await asked(closing, 3)] == [b"{}"] * 3
    assert closing.connections == 3


@pytest.mark.parametrize(
    "surplus", [OK, OK[:-1], OK.replace(b"2\r\n\r\n", b"99\r\n\r\n"), b"HTTP/1.1 200", b"junk", b"\r\n"]
)
@pytest.mark.parametrize("said", [OK, CHUNKED])
async def test_nothing_behind_an_answer_becomes_part_of_it(said: bytes, surplus: bytes) -> None:
    """Whatever follows in the same piece: the answer as it is, or an error, and another connection next time."""
    script = Script(said + surplus, OK)
    answers = [one([answer]) for answer in await asked(script, 2)]
    assert answers[0] in (b"{}", CoreNonsense)
    assert answers[1] in (b"{}", CoreNonsense)  # the second connection says the same
    assert script.connections == 2 or surplus == b"\r\n"


async def test_what_comes_unasked_is_nobodys_answer() -> None:
    """A second answer behind the first is never taken for the answer to the next request."""
    evil = OK.replace(b"{}", b"[]")
    for script in (Script(OK + evil, OK), Script(OK + b"junk", OK)):
        answers = await asked(script, 4)
        bodies = [answer.body for answer in answers if isinstance(answer, Response)]
        assert b"[]" not in bodies
    slow = Script(OK, OK)

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        slow.connections += 1
        writer.write(OK)
        await writer.drain()
        await asyncio.sleep(0.05)  # while the connection waits in the pool
        writer.write(evil)
        await reader.read()
        writer.close()

    async with raw_server(late) as port:
        transport = LeanTransport(Address(f"http://127.0.0.1:{port}"))
        first = await transport.request("GET", "/x/", headers=[], timeout_s=2)
        (connection,) = transport._open
        await until(lambda: not connection.usable)
        second = await transport.request("GET", "/x/", headers=[], timeout_s=2)
        assert (first.body, second.body) == (b"{}", b"{}")
        assert slow.connections == 2
        await transport.close()


async def test_an_old_connection_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the keep-alive time a new one is opened and the old ones are closed."""
    monkeypatch.setattr(lean_transport, "KEEP_ALIVE_S", -1.0)
    script = Script(OK, OK)
    assert len(await asked(script, 3)) == 3
    assert script.connections == 3


async def test_a_time_out_ends_the_connection() -> None:
    """Its late answer reaches nobody."""

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for delay_s in (0.3, 0.0):
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(delay_s)
            writer.write(OK)
        writer.close()

    async with raw_server(slow) as port:
        transport = LeanTransport(Address(f"http://127.0.0.1:{port}"))
        with pytest.raises(CoreTimedOut):
            await transport.request("GET", "/x/", headers=[], timeout_s=0.05)
        assert not transport._idle
        assert not transport._open
        await transport.close()


async def test_a_cancelled_request_ends_the_connection() -> None:
    """As when a client leaves: nothing of its answer stays."""
    script = Script(b"")
    async with raw_server(script) as port:
        transport = LeanTransport(Address(f"http://127.0.0.1:{port}"))
        task = asyncio.create_task(transport.request("GET", "/x/", headers=[], timeout_s=5))
        await until(lambda: script.heard)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not transport._idle
        assert not transport._open
        assert not transport._slots.locked()
        await transport.close()


@pytest.mark.parametrize("bad", ["a\r\nX-Evil: 1", "a\nb", "a\0b"])
async def test_no_header_or_target_can_become_two(bad: str) -> None:
    """A line break in what is sent is an error of ours, before anything is sent."""
    transport = LeanTransport(Address("http://127.0.0.1:1"))
    with pytest.raises(ValueError, match="line break"):
        await transport.request("GET", "/x/", headers=[("A", bad)], timeout_s=1)
    with pytest.raises(ValueError, match="control character"):
        await transport.request("GET", f"/x/{bad}", headers=[], timeout_s=1)


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=200), st.integers(0, 120), st.integers(0, 7))
def test_damaged_answers_are_answers_or_errors(noise: bytes, at: int, bit: int) -> None:
    """Whatever comes: an answer, or one of the errors; never another exception, never a hanging request."""
    damaged = bytearray(CHUNKED)
    damaged[at % len(damaged)] ^= 1 << bit
    for said in (bytes(damaged), CHUNKED[: at % len(CHUNKED)] + noise, noise):
        (answer,) = asyncio.run(asked(Script(said, close=True)))
        assert isinstance(answer, Response | CoreError)
