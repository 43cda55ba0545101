"""A real HTTP and WebSocket server on loopback that a test scripts request by request."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Address:
    """Settings of a core at an address."""

    host: str
    token: str = "outpost-token"
    host_query: str = ""
    host_socket: str | None = None
    insecure: bool = False


@asynccontextmanager
async def served(handler: Handler, *, tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[str]:
    """Run a server; gives its base URL."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls, reuse_address=True)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


Reply = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw_server(reply: Reply) -> AsyncIterator[int]:
    """A TCP server that behaves as badly as ``reply`` likes; gives its port, leaves no connection behind."""
    connections: list[tuple[asyncio.Task[None] | None, asyncio.StreamWriter]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append((asyncio.current_task(), writer))
        try:
            await reply(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side went away, or the test is over

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task, writer in connections:
            writer.transport.abort()
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task, _ in connections if task is not None), return_exceptions=True)
        await server.wait_closed()
        await asyncio.sleep(0)  # aborted transports are closed in the next turn of the loop
