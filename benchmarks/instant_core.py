"""A core that answers a login at once: recorded answers for the calls of a bind, everything else goes to a stub core.

A process of its own, so that it shares no lock with anything that is measured:
``python -m benchmarks.instant_core HOST PORT`` reads the recorded answers as JSON from standard input, listens on a
free port, and prints it. It ends with its standard input.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from typing import Any

KINDS = ("ask", "answer", "done", "access", "me")


def kind_of(head: bytes) -> str | None:
    """Which call of a login a request is, by its first lines; None: not one of them."""
    line, _, headers = head.partition(b"\r\n")
    if b"/flows/executor/" in line:
        if line.startswith(b"POST "):
            return "answer"
        return "done" if b"\ncookie:" in headers.lower() else "ask"
    if b"/check_access/" in line:
        return "access"
    return "me" if b"/core/users/me/" in line else None


class Front(asyncio.Protocol):
    """One connection: a client's calls of a login, or whatever else, which is passed on."""

    def __init__(self, recorded: dict[str, bytes], back: tuple[str, int]) -> None:
        self._recorded = recorded
        self._back = back
        self._data = b""
        self._transport: Any = None
        self._behind: Any = None  # transport to the stub core
        self._passing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer, or pass on; a connection that began with other calls stays with the stub core."""
        if self._behind is not None:
            self._behind.write(data)
            return
        self._data += data
        while not self._passing and b"\r\n\r\n" in self._data:
            head, _, rest = self._data.partition(b"\r\n\r\n")
            kind = kind_of(head)
            if kind is None:
                self._passing = True
                asyncio.ensure_future(self._pass_on())  # noqa: RUF006 - ends by itself
                return
            length = next(
                (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
            )
            if len(rest) < length:
                return
            self._data = rest[length:]
            self._transport.write(self._recorded[kind])

    async def _pass_on(self) -> None:
        loop = asyncio.get_running_loop()
        self._behind, _ = await loop.create_connection(lambda: Back(self._transport), *self._back)
        self._behind.write(self._data)

    def connection_lost(self, problem: Exception | None) -> None:
        """Gone."""
        if self._behind is not None:
            self._behind.close()


class Back(asyncio.Protocol):
    """The other half of a connection that is passed on."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        """To the client."""
        self._client.write(data)

    def connection_lost(self, problem: Exception | None) -> None:
        """Gone."""
        self._client.close()


async def serve(recorded: dict[str, bytes], back: tuple[str, int]) -> None:
    """Until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Front(recorded, back), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    import uvloop

    given = {kind: base64.b64decode(text) for kind, text in json.loads(sys.stdin.readline()).items()}
    uvloop.run(serve(given, (sys.argv[1], int(sys.argv[2]))))
