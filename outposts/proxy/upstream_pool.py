"""Connections to applications: opening them, TLS, and keeping them between requests.

A connection goes back only when its answer was complete, said where it ends, and nothing followed it. Of those kept the
youngest is used first, and none longer than the application said it would keep it; what arrives on one that is idle
ends it. So nothing of one answer can become part of another.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohappyeyeballs

from common.errors import OutpostError
from outposts.proxy.exchange import Cause
from outposts.proxy.providers import Upstream
from outposts.proxy.responses import ResponseError, ResponseReader
from outposts.proxy.tunnels import reading

MAX_IDLE = 64  # kept connections to one application; the reference keeps two, and load then opens one per request
KEEP_ALIVE_S = (
    55.0  # longest time that one is kept; nginx closes after 75 s, HAProxy and many load balancers after 60 s
)
KEEP_MARGIN_S = 1.0  # how much earlier than the application says that it will close
# Seconds that a connection may have been idle for a request that must not be sent twice: servers that close idle ones
# early do so after 2 s (Gunicorn) or 5 s (Node.js, Apache), and a request that crosses their closing is lost.
YOUNG_S = 1.0
DNS_CACHE_S = 10.0  # an application that moves to another address is found again within that time
MAX_NAMES = 1024  # host names whose addresses are remembered; users' claims may choose them
NEXT_ADDRESS_S = 0.25  # between first attempts at several addresses (RFC 8305 §5)
HIGH_WATER = 262_144  # octets of an answer that wait for the client before reading stops
WRITE_HIGH = 131_072  # octets of a request that wait for the application before reading from the client stops


class NoConnection(OutpostError):
    """An application cannot be reached. ``cause`` and a text for the log."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause
        self.detail = detail


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """TLS to an application. PEM texts, "" = none: ``ca`` replaces the system's roots, ``certificate`` holds our
    certificate and key. ``server_name`` is asked for and checked instead of the upstream's host.
    """

    verify: bool = True
    ca: str = field(default="", repr=False)
    certificate: str = field(default="", repr=False)
    server_name: str = ""


PLAIN = TlsOptions()


@dataclass(frozen=True, slots=True)
class Place:
    """What a connection can be used for."""

    scheme: str
    host: str
    port: int
    tls: TlsOptions

    @classmethod
    def of(cls, upstream: Upstream, tls: TlsOptions) -> Place:
        """Of an upstream; TLS options count for https only."""
        secure = upstream.scheme == "https"
        port = upstream.host.port or (443 if secure else 80)
        return cls(upstream.scheme, upstream.host.name, port, tls if secure else PLAIN)


class Connection(asyncio.Protocol):
    """One connection to an application, with at most one request under way."""

    __slots__ = (
        "_loop",
        "_on_idle_end",
        "_paused",
        "_transport",
        "_waiter",
        "_writer",
        "broken",
        "closed",
        "idle_since",
        "keep_until",
        "place",
        "reader",
        "writing_paused",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, place: Place) -> None:
        self._loop = loop
        self._transport: Any = None
        self._waiter: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._paused = False
        self._on_idle_end: Callable[[Connection], None] | None = None
        self.place = place
        self.reader: ResponseReader | None = None
        self.broken: ResponseError | None = None
        self.closed = False
        self.writing_paused = False
        self.idle_since = 0.0
        self.keep_until = 0.0

    # -- asyncio -----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected, TLS included."""
        self._transport = transport
        self._transport.set_write_buffer_limits(WRITE_HIGH)

    def data_received(self, data: bytes) -> None:
        """A piece of the answer; anything while none is awaited ends the connection."""
        reader = self.reader
        if reader is None:
            self.close()
            return
        try:
            reader.feed(data)
        except ResponseError as error:
            self.broken = error
            self.close()
        else:
            if not self._paused and not reader.done and reader.size > HIGH_WATER:
                self._paused = True
                reading(self._transport, False)
        self._wake()

    def eof_received(self) -> bool:
        """The application closes: the end of an answer that has no length, or of the connection."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Closed."""
        self.closed = True
        self.resume_writing()
        reader = self.reader
        if reader is not None and self.broken is None:
            try:
                if error is not None and not reader.done:
                    raise ResponseError("closed without an answer" if reader.untouched else "the connection was reset")
                reader.end()
            except ResponseError as problem:
                self.broken = problem
        if self._on_idle_end is not None:
            self._on_idle_end(self)
        self._wake()

    def pause_writing(self) -> None:
        """The application takes less than is sent."""
        self.writing_paused = True

    def resume_writing(self) -> None:
        """It takes more again."""
        self.writing_paused = False
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    # -- a request -----------------------------------------------------------------------------------------------------

    def begin(self, reader: ResponseReader) -> None:
        """Take it into use; the answer of the next request goes into ``reader``."""
        self.reader = reader
        self.broken = None
        self._on_idle_end = None

    def write(self, data: bytes) -> None:
        """Send octets; nothing is raised if it has closed, that shows in the answer."""
        if not self.closed:
            self._transport.write(data)

    async def changed(self) -> None:
        """Wait until something has come or it has ended. For one waiter."""
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    async def writable(self) -> None:
        """Wait until it takes more, or has ended. For one waiter."""
        while self.writing_paused and not self.closed:
            writer = self._writer = self._loop.create_future()
            try:
                await writer
            finally:
                self._writer = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def take(self) -> list[bytes]:
        """What has come of the body; reading goes on."""
        reader = self.reader
        assert reader is not None
        pieces = reader.pieces
        if pieces:
            reader.pieces = []
            reader.size = 0
        if self._paused:
            self._paused = False
            reading(self._transport, True)
        return pieces

    def take_over(self) -> tuple[Any, bytes]:
        """Hand out the transport, reading paused, and what came behind the head of 101."""
        reader = self.reader
        assert reader is not None
        self.reader = None
        reading(self._transport, False)
        return self._transport, reader.rest

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return not self.closed and not self._transport.is_closing()

    def rest(self, now: float, on_end: Callable[[Connection], None]) -> None:
        """Nothing is under way."""
        self.reader = None
        self.idle_since = now
        self._on_idle_end = on_end

    def close(self) -> None:
        """Cut off."""
        if self._transport is not None:
            self._transport.abort()
        self.closed = True


class Pool:
    """Connections of this process to all applications. To be used on one event loop."""

    def __init__(self) -> None:
        self._idle: dict[Place, deque[Connection]] = {}
        self._busy: set[Connection] = set()
        self._contexts: dict[TlsOptions, ssl.SSLContext] = {}
        self._names: dict[tuple[str, int], tuple[float, list[Any]]] = {}

    @property
    def idle(self) -> int:
        """Connections that are kept."""
        return sum(len(kept) for kept in self._idle.values())

    @property
    def busy(self) -> int:
        """Connections in use."""
        return len(self._busy)

    def kept(self, place: Place, *, youngest_only: bool) -> Connection | None:
        """A connection that is open already, the one used last; None if there is none that should be used."""
        kept = self._idle.get(place)
        if not kept:
            return None
        now = time.monotonic()
        while kept:
            connection = kept.pop()
            if youngest_only and now - connection.idle_since > YOUNG_S:
                kept.append(connection)
                return None
            if connection.usable and now < connection.keep_until:
                self._busy.add(connection)
                return connection
            connection.close()
        return None

    async def open(self, place: Place) -> Connection:
        """A new connection. Raises ``NoConnection``; the time is the caller's to limit."""
        loop = asyncio.get_running_loop()
        context = self._context(place.tls) if place.scheme == "https" else None
        try:
            addresses = await self._addresses(place)
        except OSError as error:
            raise NoConnection(Cause.NAME, f"no address for {place.host}: {error.strerror or error}") from None
        try:
            opened = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_S)
        except OSError as error:
            self._names.pop((place.host, place.port), None)
            problem = error.strerror or type(error).__name__
            raise NoConnection(Cause.REFUSED, f"no connection to {place.host} port {place.port}: {problem}") from None
        try:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _, connection = await loop.create_connection(
                lambda: Connection(loop, place),
                sock=opened,
                ssl=context,
                server_hostname=(place.tls.server_name or place.host) if context is not None else None,
            )
        except BaseException as error:
            with contextlib.suppress(OSError):
                opened.close()
            if isinstance(error, OSError):  # ssl.SSLError is one
                raise NoConnection(
                    Cause.TLS, f"no TLS with {place.host} port {place.port}: {_problem(error)}"
                ) from None
            raise
        self._busy.add(connection)
        return connection

    def give_back(self, connection: Connection) -> None:
        """A request has ended: keep its connection if it can be used again, else close it."""
        self._busy.discard(connection)
        reader = connection.reader
        if reader is None or not reader.reusable or not connection.usable or connection.writing_paused:
            connection.close()
            return
        head = reader.head
        said = head.keep_s if head is not None else None
        kept = self._idle.setdefault(connection.place, deque())
        now = time.monotonic()
        keep_s = KEEP_ALIVE_S if said is None else min(KEEP_ALIVE_S, said - KEEP_MARGIN_S)
        if keep_s <= 0:
            connection.close()
            return
        connection.keep_until = now + keep_s
        connection.rest(now, self._ended)
        kept.append(connection)
        if len(kept) > MAX_IDLE:
            kept.popleft().close()

    def forget(self, connection: Connection) -> None:
        """A connection that has become a tunnel."""
        self._busy.discard(connection)

    def sweep(self) -> None:
        """Close what was kept too long; to be called now and then."""
        now = time.monotonic()
        for place, kept in list(self._idle.items()):
            for connection in [one for one in kept if now >= one.keep_until]:
                kept.remove(connection)
                connection.close()
            if not kept:
                del self._idle[place]

    def renew(self) -> None:
        """The configuration was read anew: contexts of options that nobody has any more are forgotten."""
        self._contexts.clear()

    async def close(self) -> None:
        """Close all connections."""
        for kept in self._idle.values():
            while kept:
                kept.pop().close()
        for connection in list(self._busy):
            connection.close()
        self._busy.clear()
        await asyncio.sleep(0)

    def _ended(self, connection: Connection) -> None:
        kept = self._idle.get(connection.place)
        if kept is not None and connection in kept:
            kept.remove(connection)

    async def _addresses(self, place: Place) -> list[Any]:
        key = (place.host, place.port)
        known = self._names.get(key)
        now = time.monotonic()
        if known is not None and now < known[0]:
            return known[1]
        found = await asyncio.get_running_loop().getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
        if len(self._names) >= MAX_NAMES:
            self._names.clear()
        self._names[key] = (now + DNS_CACHE_S, found)
        return found

    def _context(self, options: TlsOptions) -> ssl.SSLContext:
        context = self._contexts.get(options)
        if context is None:
            try:
                context = client_context(options)
            except (OSError, ValueError) as error:
                raise NoConnection(Cause.SETUP, f"TLS settings of the upstream: {_problem(error)}") from None
            self._contexts[options] = context
        return context


def client_context(options: TlsOptions) -> ssl.SSLContext:
    """TLS 1.2 or newer to an application. Raises ``OSError`` or ``ValueError`` if a PEM text cannot be used."""
    context = ssl.create_default_context(cadata=options.ca or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not options.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.certificate:
        load_pair(context, options.certificate)
    return context


def load_pair(context: ssl.SSLContext, pem: str) -> None:
    """Give a context a certificate and key. The library takes files only, so it gets one that has no place on a disk.

    Raises ``OSError`` (``ssl.SSLError`` is one) if the text cannot be used.
    """
    with os.fdopen(os.memfd_create("pair", os.MFD_CLOEXEC), "wb") as file:
        file.write(pem.encode())
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")


def _problem(error: Exception) -> str:
    """What was wrong, for the log and for superusers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted, {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "handshake failed").lower().replace("_", " ")
    return getattr(error, "strerror", None) or type(error).__name__
