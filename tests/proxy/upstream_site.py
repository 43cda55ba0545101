"""Applications and clients of the reverse proxy's tests: both speak octets, over real sockets.

``Application`` answers each request with what a script says; ``Front`` serves one provider over ``RawCaller``;
``Client`` sends octets and reads whole answers strictly.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from msgspec import structs

from outposts.proxy.bodies import BodyReader, Pairs
from outposts.proxy.callers import RawCaller
from outposts.proxy.decision import Allow, Check, Passed
from outposts.proxy.exchange import Forwarded
from outposts.proxy.providers import ProxyProvider
from outposts.proxy.upstream import Forwarder
from outposts.proxy.urls import parse_url
from outposts.proxy.wire import Connection, Head, HeadError, auth_request, read_head
from tests.proxy.site import X, provider, session_at

Script = Callable[["Exchange"], Awaitable[None]]


@dataclass
class Seen:
    """A request as an application got it."""

    line: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)

    def all(self, name: bytes) -> list[bytes]:
        """The values of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def one(self, name: bytes) -> bytes | None:
        """The value of a header that must not be there twice."""
        found = self.all(name)
        assert len(found) <= 1, (name, found)
        return found[0] if found else None


async def read_request_head(reader: asyncio.StreamReader) -> Seen:
    """The head of a request, strictly."""
    block = await reader.readuntil(b"\r\n\r\n")
    line, *lines = block[:-4].split(b"\r\n")
    return Seen(line, [(name, value) for name, _, value in (one.partition(b": ") for one in lines)])


async def read_body(reader: asyncio.StreamReader, length: int | None, chunked: bool) -> tuple[bytes, Pairs]:
    """A body and its trailers."""
    body = BodyReader(length, chunked)
    content: list[bytes] = []
    while not body.done:
        data = await (reader.readuntil(b"\n") if chunked else reader.read(65_536))
        if not data:
            body.end()
        pieces, rest = body.feed(data)
        assert not rest
        content += pieces
    return b"".join(content), body.trailers


class Exchange:
    """One request at an application, and how to answer it."""

    def __init__(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.seen = seen
        self.reader = reader
        self.writer = writer
        self.number = number  # of the connection, from 1

    async def body(self) -> bytes:
        """Read the request's body."""
        length = self.seen.one(b"Content-Length")
        chunked = self.seen.one(b"Transfer-Encoding") == b"chunked"
        assert not (chunked and length)
        if not chunked and length is None:
            return b""
        found = await read_body(self.reader, None if chunked else int(length or 0), chunked)
        self.seen.body, self.seen.trailers = found
        return self.seen.body

    async def send(self, *parts: bytes) -> None:
        """Send octets."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def answer(self, body: bytes = b"ok", *headers: bytes, status: bytes = b"200 OK") -> None:
        """A usual answer with a length."""
        lines = [b"HTTP/1.1 " + status, *headers, b"Content-Length: %d" % len(body)]
        await self.send(b"\r\n".join(lines) + b"\r\n\r\n" + body)

    def close(self, *, reset: bool = False) -> None:
        """End the connection."""
        if reset:
            self.writer.transport.abort()
        else:
            self.writer.close()


class Application:
    """Answers with ``script``; ``requests`` are those seen, ``connections`` how many were made."""

    def __init__(self, script: Script, ssl: Any = None) -> None:
        self.script = script
        self.requests: list[Seen] = []
        self.connections = 0
        self.problems: list[BaseException] = []
        self._ssl = ssl
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._ssl)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while not writer.is_closing():
                seen = await read_request_head(reader)
                self.requests.append(seen)
                await self.script(Exchange(seen, reader, writer, number))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        except Exception as error:
            self.problems.append(error)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def close(self) -> None:
        """Stop; a script that failed fails the test."""
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.problems:
            raise self.problems[0]


@dataclass
class Answer:
    """A whole answer as a client got it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    complete: bool = True

    def all(self, name: str) -> list[bytes]:
        """The values of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower().encode()]

    def one(self, name: str) -> str | None:
        """The value of a header that must not be there twice."""
        found = self.all(name)
        assert len(found) <= 1
        return found[0].decode("latin-1") if found else None


class Client:
    """A client that speaks octets."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send octets."""
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> Answer:
        """The head of an answer."""
        block = await self.reader.readuntil(b"\r\n\r\n")
        line, *lines = block[:-4].split(b"\r\n")
        assert line.startswith(b"HTTP/1.1 "), line
        return Answer(int(line.split(b" ")[1]), [(n, v) for n, _, v in (one.partition(b": ") for one in lines)])

    async def answer(self, method: str = "GET") -> Answer:
        """A whole answer."""
        answer = await self.head()
        if method == "HEAD" or answer.status in (204, 304, 101) or answer.status < 200:
            return answer
        length, coding = answer.one("Content-Length"), answer.one("Transfer-Encoding")
        assert not (length and coding)
        body = BodyReader(int(length) if length is not None else None, coding == "chunked")
        while not body.done:
            data = await self.reader.read(65_536)
            if not data:
                answer.complete = body.to_the_end
                break
            pieces, rest = body.feed(data)
            assert not rest, "octets behind the answer"
            answer.body += b"".join(pieces)
        answer.trailers = body.trailers
        return answer

    async def get(self, target: str = "/", *headers: str, method: str = "GET") -> Answer:
        """Ask without a body."""
        lines = [f"{method} {target} HTTP/1.1", "Host: proxy.example.com", *headers]
        await self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        return await self.answer(method)

    async def at_end(self) -> bool:
        """Whether the other side has closed."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        """Close."""
        self.writer.close()


class _RawServer(asyncio.Protocol):
    """The smallest server that a ``RawCaller`` needs."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._transport: Any = None
        self._buffer = b""
        self._caller: RawCaller | None = None
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._caller is not None:
            self._caller.data_received(data)
            return
        self._buffer += data
        try:
            head = read_head(self._buffer)
            if head is None:
                return
            rest, self._buffer = self._buffer[head.size :], b""
            self._caller = RawCaller(self._transport, head, rest, self._end)
        except HeadError as error:
            self._transport.write(b"HTTP/1.1 %d Refused\r\nContent-Length: 0\r\n\r\n" % error.status)
            self._transport.close()
            return
        self._front.spawn(self._front.raw(self._caller, head))

    def _end(self, reusable: bool) -> None:
        caller, self._caller = self._caller, None
        if reusable and caller is not None and caller.rest:
            rest, caller.rest = caller.rest, b""
            asyncio.get_running_loop().call_soon(self.data_received, rest)

    def pause_writing(self) -> None:
        if self._caller is not None:
            self._caller.pause_writing()

    def resume_writing(self) -> None:
        if self._caller is not None:
            self._caller.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        if self._caller is not None:
            self._caller.connection_lost(error)


class Front:
    """The reverse proxy in front of one application, ``ended`` is how requests ended."""

    def __init__(self, one: ProxyProvider, *, anonymous: bool = False, **session: Any) -> None:
        self.forwarder = Forwarder(tick_s=0.02)
        self.provider = one
        self.ended: list[Forwarded] = []
        self.more: list[tuple[bytes, bytes]] = []
        self._changed = asyncio.Event()
        self._anonymous = anonymous
        self.session = session
        self._via = Connection("127.0.0.1")
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None
        self._clients: list[Client] = []

    def spawn(self, work: Any) -> None:
        """In the background."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _allow(self, request: Any) -> tuple[Check, Allow]:
        url = parse_url("https://proxy.example.com/")
        assert url is not None
        check = Check(request, self.provider, None, url, ())
        if self._anonymous:
            return check, Allow(self.provider, self.provider.anonymous, None, Passed.OPEN_PATH)
        session = session_at(self.provider, **self.session)
        return check, Allow(self.provider, session.identity, session, Passed.SESSION)

    def _note(self, ended: Forwarded) -> None:
        self.ended.append(ended)
        self._changed.set()

    async def raw(self, caller: RawCaller, head: Head) -> None:
        """One request over a bare connection."""
        request = auth_request(head, self._via)
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head.headers.items()]
        self._note(await self.forwarder.forward(caller, *self._allow(request), pairs, more=self.more))

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _RawServer(self), "127.0.0.1", 0)

    async def client(self) -> Client:
        """A new connection."""
        assert self._server is not None
        client = Client(*await asyncio.open_connection("127.0.0.1", self._server.sockets[0].getsockname()[1]))
        self._clients.append(client)
        return client

    async def until_ended(self, count: int = 1) -> Forwarded:
        """Wait until so many requests have ended; the last one."""
        while len(self.ended) < count:
            self._changed.clear()
            await self._changed.wait()
        return self.ended[count - 1]

    async def close(self) -> None:
        """Stop."""
        for client in self._clients:
            client.close()
        await self.forwarder.close()
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def site(
    script: Script, *, ssl: Any = None, anonymous: bool = False, session: Any = None, **settings: Any
) -> AsyncIterator[tuple[Client, Application, Front]]:
    """A client, an application that answers with ``script``, and the proxy between them."""
    application = Application(script, ssl)
    await application.start()
    scheme = "https" if ssl is not None else "http"
    verify = settings.pop("verify", True)
    record = structs.replace(
        X, internal_host=f"{scheme}://localhost:{application.port}", internal_host_ssl_validation=verify
    )
    front = Front(provider(record, **settings), anonymous=anonymous, **(session or {}))
    await front.start()
    try:
        yield await front.client(), application, front
    finally:
        await front.close()
        await application.close()
