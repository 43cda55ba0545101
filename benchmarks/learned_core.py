"""A core that answers logins at once: what is measured behind it is the front alone. A process of its own.

It stands before a fake core (``tests.fakes.StubCore``), to which everything goes that is no login, and the first call
of each kind of a login. That answer is learned and given to every later call of the same kind without a look at what
was sent, so it knows no wrong password and is of no use but for measuring. FreeRADIUS asks the same calls of it, and
hears 204, which its rlm_rest takes for "yes" without reading further.

usage: python -m benchmarks.learned_core URL-OF-THE-FAKE-CORE     prints its own port
"""

from __future__ import annotations

import asyncio
import http.client
import re
import sys
from collections.abc import Coroutine
from typing import Any
from urllib.parse import urlsplit

import uvloop

LOGIN = re.compile(rb"/api/v3/(flows/executor/|outposts/(ldap|radius)/\d+/check_access/|core/users/me/)")
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
COOKIE = re.compile(rb"\r\ncookie:", re.IGNORECASE)
FREERADIUS = re.compile(rb"\r\n(x-freeradius-section|user-agent: *freeradius)", re.IGNORECASE)
YES = b"HTTP/1.1 204 No Content\r\n\r\n"
TIMEOUT_S = 20.0  # of one call to the fake core
DROPPED = {"connection", "transfer-encoding", "content-length", "keep-alive", "date"}


class Caller(asyncio.Protocol):
    """One client connection."""

    def __init__(self, core: LearnedCore) -> None:
        self._core = core
        self._data = b""
        self._busy = False
        self._transport: Any = None
        self._behind: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every whole request, in order."""
        if self._behind is not None:
            self._behind.write(data)
            return
        self._data += data
        while self._data and not self._busy:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return
            length = LENGTH.search(self._data, 0, end)
            size = end + 4 + (int(length[1]) if length else 0)
            if len(self._data) < size:
                return
            request, self._data = self._data[:size], self._data[size:]
            line = request[: request.index(b"\r\n")]
            if UPGRADE.search(request, 0, end):
                self._busy = True
                self._start(self._splice(request))
                return
            kind = (line, COOKIE.search(request, 0, end) is not None)
            known = YES if FREERADIUS.search(request, 0, end) else self._core.known.get(kind)
            if known is not None:
                self._transport.write(known)
                continue
            self._busy = True
            self._start(self._ask(kind, request))

    def connection_lost(self, error: Exception | None) -> None:
        """Closed; so is what it was passed on to."""
        if self._behind is not None:
            self._behind.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._core.tasks.add(task)
        task.add_done_callback(self._core.tasks.discard)

    async def _splice(self, request: bytes) -> None:
        """The WebSocket: from now on the fake core's own connection."""
        front = self._transport

        class Back(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                front.write(data)

            def connection_lost(self, error: Exception | None) -> None:
                front.close()

        self._behind, _ = await asyncio.get_running_loop().create_connection(Back, *self._core.address)
        self._behind.write(request + self._data)
        self._data = b""

    async def _ask(self, kind: tuple[bytes, bool], request: bytes) -> None:
        answer = await asyncio.to_thread(self._core.ask, request)
        if LOGIN.search(kind[0]) and answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 302")):
            self._core.known[kind] = answer
        self._transport.write(answer)
        self._busy = False
        self.data_received(b"")


class LearnedCore:
    """What all connections share: ``known`` are the answers by request line and whether there was a cookie."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.known: dict[tuple[bytes, bool], bytes] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def ask(self, request: bytes) -> bytes:
        """The fake core's answer, as octets."""
        head, _, body = request.partition(b"\r\n\r\n")
        first, *fields = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        connection = http.client.HTTPConnection(*self.address, timeout=TIMEOUT_S)
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for field in fields:
                name, _, value = field.partition(":")
                if name.lower() not in ("connection", "upgrade"):
                    connection.putheader(name, value.strip())
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        kept = [f"{name}: {value}" for name, value in answer.getheaders() if name.lower() not in DROPPED]
        lines = [f"HTTP/1.1 {answer.status} {answer.reason}", *kept, f"Content-Length: {len(content)}"]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content


async def serve(url: str) -> None:
    """Serve until ended."""
    core = LearnedCore(url)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Caller(core), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
