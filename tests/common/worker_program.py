"""A worker of no protocol, for the tests of the supervisor: tells over TCP what it was told, misbehaves on request.

``python -m tests.common.worker_program worker FD`` is a real worker process around ``Telltale``; a connection to its
listener gets one line of JSON. Published names starting with ``do-`` make it misbehave. ``garbage FD`` and ``silent
FD`` are processes that are no workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from common import metrics, worker
from common.cache import Configuration
from common.errors import StartError
from common.listen import bind, name_of
from common.service import DaemonContext
from common.worker import Published


class Telltale:
    """See ``common.worker.WorkerService``. Listens on the LDAP address (TCP) and the RADIUS address (UDP)."""

    type = "ldap"

    def __init__(self, context: DaemonContext) -> None:
        self.context = context
        self.told: dict[str, Any] = {"pid": os.getpid(), "ended": [], "dropped": [], "lost": [], "published": {}}
        self.reasons = ["not configured"]
        self.refuse = False
        self._servers: list[asyncio.Server] = []
        self._datagrams: list[asyncio.DatagramTransport] = []

    async def apply(self, configuration: Configuration) -> None:
        """Note it; an outpost called ``unusable`` cannot be served."""
        if configuration.outpost.name == "unusable":
            raise RuntimeError("unusable")
        self.told["configuration"] = configuration.outpost.name
        self.reasons = []

    async def receive(self, published: Published) -> None:
        """Note it, or misbehave."""
        self.told["published"][published.name] = {
            "details": published.details.decode(),
            "file": None if published.file is None else bytes(published.file).decode(),
        }
        match published.name:
            case "do-hang":
                hang()
            case "do-exit":
                os._exit(3)
            case "do-raise":
                raise RuntimeError("as asked")
            case "do-refuse":
                self.refuse = True
            case "do-slow":
                await asyncio.sleep(3600)
            case "do-unready":
                self.reasons = ["told to be"]
            case "do-count":
                metrics.protocol_errors.labels("test").inc()
            case "do-refresh":
                self.context.request_refresh()
            case "do-stop-reports":
                os.kill(os.getpid(), signal.SIGSTOP)

    def drop(self, what: str, keys: Sequence[int]) -> None:
        """Note it."""
        self.told["dropped"].append([what, list(keys)])

    async def listen(self) -> list[tuple[str, str, int]]:
        """Answer with what was told."""
        bound = []
        loop = asyncio.get_running_loop()
        for address in self.context.settings.listen_ldap:
            if address.host == "127.0.0.99":
                raise StartError(f"cannot listen on {address}: as asked")
            for opened in bind(address, shared=True):
                self._servers.append(await asyncio.start_server(self._answer, sock=opened))
                bound.append(("ldap", *name_of(opened)))
        for address in self.context.settings.listen_radius:
            for opened in bind(address, socket.SOCK_DGRAM, shared=True):
                transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=opened)
                self._datagrams.append(transport)
                bound.append(("radius", *name_of(opened)))
        return bound

    def text(self) -> bytes:
        """What was told so far."""
        return json.dumps(self.told | {"token": self.context.settings.token}).encode() + b"\n"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.text())
        writer.close()

    def not_ready(self) -> list[str]:
        """As told."""
        return self.reasons

    def session_ended(self, session_id: str) -> None:
        """Note it."""
        if self.refuse:
            raise RuntimeError("as asked")
        self.told["ended"].append(session_id)

    def connection_lost_for(self, seconds: float) -> None:
        """Note it."""
        self.told["lost"].append(seconds)

    async def drain(self, timeout_s: float) -> None:
        """Accept no more."""
        for server in self._servers:
            server.close()

    async def close(self) -> None:
        """Close."""
        for server in self._servers:
            server.close()
        for transport in self._datagrams:
            transport.close()


def hang() -> None:
    """Hold the whole process up."""
    time.sleep(3600)


class _Datagrams(asyncio.DatagramProtocol):
    """Answers each datagram."""

    def __init__(self, service: Telltale) -> None:
        self._service = service

    def connection_made(self, transport: Any) -> None:
        """Keep it."""
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        """Answer."""
        self._transport.sendto(self._service.text(), address)


def main(kind: str, fd: int) -> int:
    """Be one."""
    if kind == "worker":
        return worker.main(fd, Telltale)
    with socket.socket(fileno=fd) as connection:
        if kind == "garbage":
            connection.sendall(b"\x00\x00\x00\x05hello")
        with contextlib.suppress(OSError):
            while connection.recv(65536):
                pass
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
