"""A keep-alive HTTP/1.1 client for the login path: ``Transport`` on asyncio and httptools (design.md §4.13).

A login is three to six small calls, and a front that spends a third of a millisecond on each is what limits the rate
when the core is fast. This client does what those calls need and nothing else: one request at a time on a connection,
connections kept and used youngest first, no redirects, no cookies, no pipelining.

What is not HTTP, too long, or out of order is an error and ends its connection; nothing of one answer can become part
of the next: a connection goes back to the pool only when its answer is complete, says so by its length, and nothing
followed it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import time
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import aiohappyeyeballs
import httptools
from multidict import CIMultiDict, CIMultiDictProxy

from common.endpoint import CoreSettings, Endpoint, endpoint
from common.errors import CoreNonsense, CoreTimedOut, CoreUnavailable
from common.transport import (
    CONNECT_TIMEOUT_S,
    DNS_CACHE_S,
    KEEP_ALIVE_S,
    MAX_ANSWER_BYTES,
    MAX_CONNECTIONS,
    AiohttpTransport,
    Response,
    Transport,
    plain,
    proxy_for,
    tls_context,
)
from common.version import user_agent

MAX_HEADER_BYTES = 65_536  # names and values of one answer; the core sends below 4 KiB, proxies in front of it add some
# Seconds between the first attempts at a core's several addresses (RFC 8305 §5): the next is tried before the first
# has failed, so a broken IPv6 does not delay a login by more than that.
NEXT_ADDRESS_S = 0.25
DECODERS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}  # some proxies compress though nobody asked


_NOT_IN_A_TARGET = re.compile(r"[\x00-\x20\x7f]")


class _Broken(Exception):
    """What came is not an answer that can be used; the text is for the log."""


class _Connection(asyncio.Protocol):
    """One connection. At most one request is under way."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.idle_since = 0.0
        self.closed = False
        self._loop = loop
        self._transport: Any = None
        self._waiter: asyncio.Future[Response] | None = None
        self._renew()

    def _renew(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[str, str]] = []
        self._header_bytes = 0
        self._parts: list[bytes] = []
        self._size = 0
        self._head_done = False
        self._complete = False
        self._lasts = False

    # -- asyncio -----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected, TLS included."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """A piece of the answer; anything while none is awaited ends the connection."""
        unasked = self._waiter is None or self._complete
        if unasked:
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            broken = error.__context__
            self._fail(broken if isinstance(broken, _Broken) else _Broken("not an HTTP answer"))
        except httptools.HttpParserUpgrade:
            self._fail(_Broken("not an HTTP answer: it changes the protocol"))
        except httptools.HttpParserError:
            self._fail(_Broken("not an HTTP answer"))
        else:
            if self._complete:
                self._finish()

    def eof_received(self) -> bool:
        """The core closes: the end of an answer that has no length, or of the connection."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Closed."""
        self.closed = True
        if self._waiter is None or self._waiter.done():
            return
        if self._head_done and error is None and not self._has_length():
            self._finish()
        elif not self._header_bytes and not self._head_done:
            self._waiter.set_exception(error or ConnectionResetError("closed without an answer"))
        else:
            self._waiter.set_exception(ConnectionError("the answer broke off"))

    # -- httptools ---------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """An answer begins; there is one for each request."""
        if self._complete:
            raise _Broken("not an HTTP answer: two for one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; also one behind a chunked body, which means nothing here."""
        if self._head_done:
            return
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADER_BYTES:
            raise _Broken(f"headers of more than {MAX_HEADER_BYTES} bytes")
        self._headers.append((name.decode("latin-1"), value.decode("utf-8", "surrogateescape")))

    def on_headers_complete(self) -> None:
        """The head is there; an interim one (RFC 9110 §15.2) is followed by the real one."""
        status = self._parser.get_status_code()
        if status < 200:
            self._headers.clear()
            return
        self._head_done = True

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._size += len(body)
        if self._size > MAX_ANSWER_BYTES:
            raise _Broken(f"answer of more than {MAX_ANSWER_BYTES} bytes")
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """The answer is there, unless it was an interim one."""
        if self._head_done:
            self._complete = True
            self._lasts = self._parser.should_keep_alive()  # to be asked now; later it is about the next answer

    # -- the pool ----------------------------------------------------------------------------------------------------

    async def ask(self, request: bytes, timeout_s: float) -> Response:
        """Send a request, wait for its answer. Raises ``_Broken``, ``OSError`` or ``TimeoutError``."""
        waiter = self._waiter = self._loop.create_future()
        timer = self._loop.call_later(timeout_s, self._time_out)
        self._transport.write(request)
        try:
            answer: Response = await waiter
            return answer
        finally:
            timer.cancel()
            self._waiter = None
            if not waiter.done() or waiter.cancelled() or waiter.exception() is not None:
                self.close()

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return not self.closed and not self._transport.is_closing()

    def close(self) -> None:
        """Cut off."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def _time_out(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TimeoutError())

    def _has_length(self) -> bool:
        """Whether the answer's end can be told without the connection's (RFC 9112 §6.3)."""
        return any(name.lower() in ("content-length", "transfer-encoding") for name, _ in self._headers)

    def _fail(self, error: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)
        self.close()

    def _finish(self) -> None:
        """Hand the answer over, and make ready for the next one."""
        parser, headers, parts = self._parser, self._headers, self._parts
        if not self.closed and not self._lasts:
            self.closed = True
            self._transport.close()
        waiter = self._waiter
        status = parser.get_status_code()
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._renew()
        if waiter is None or waiter.done():
            return
        answer = CIMultiDictProxy(CIMultiDict(headers))
        try:
            waiter.set_result(Response(status, answer, _decoded(answer, body)))
        except _Broken as error:
            waiter.set_exception(error)


def _decoded(headers: Mapping[str, str], body: bytes) -> bytes:
    coding = headers.get("content-encoding", "").strip().lower()
    if coding in ("", "identity") or not body:
        return body
    window = DECODERS.get(coding)
    if window is None:
        raise _Broken("an answer in an encoding that was not asked for")
    decoder = zlib.decompressobj(window)
    try:
        plain_body = decoder.decompress(body, MAX_ANSWER_BYTES + 1)
    except zlib.error:
        raise _Broken("a compressed answer that is damaged") from None
    if len(plain_body) > MAX_ANSWER_BYTES:
        raise _Broken(f"answer of more than {MAX_ANSWER_BYTES} bytes")
    if not decoder.eof:
        raise _Broken("a compressed answer that is damaged")
    return plain_body


class LeanTransport:
    """See ``common.transport.Transport``. One pool for the whole daemon; to be used on one event loop."""

    def __init__(self, settings: CoreSettings, *, default_headers: Mapping[str, str] | None = None) -> None:
        self._endpoint: Endpoint = endpoint(settings)
        self._tls: ssl.SSLContext | None = tls_context(settings) if self._endpoint.scheme == "https" else None
        usual = {"User-Agent": user_agent(), "Accept": "application/json", **(default_headers or {})}
        self._usual = {name.lower(): f"{name}: {_line(value)}\r\n" for name, value in usual.items()}
        self._host, self._port = _address(self._endpoint)
        self._idle: deque[_Connection] = deque()
        self._open: set[_Connection] = set()
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._names: list[Any] = []  # of the core's host, as getaddrinfo gave them
        self._names_until = 0.0

    async def request(
        self,
        method: str,
        target: str,
        *,
        headers: Sequence[tuple[str, str]],
        body: bytes | None = None,
        timeout_s: float,
    ) -> Response:
        """See ``Transport.request``."""
        call = f"{method} {target.partition('?')[0]}"
        until = time.monotonic() + timeout_s
        data = self._encoded(method, target, headers, body)
        try:
            if self._slots.locked():
                async with asyncio.timeout(timeout_s):
                    await self._slots.acquire()
            else:
                await self._slots.acquire()  # at once
            try:
                connection = await self._connection(until - time.monotonic())
                try:
                    return await connection.ask(data, max(0.0, until - time.monotonic()))
                finally:
                    self._keep(connection)  # an answer that failed has closed it
            finally:
                self._slots.release()
        except TimeoutError:
            raise CoreTimedOut(call, f"no answer within {timeout_s:g} s") from None
        except _Broken as error:
            raise CoreNonsense(call, str(error)) from None
        except ConnectionError as error:
            broke_off = str(error) == "the answer broke off"
            raise CoreUnavailable(call, "the answer broke off" if broke_off else plain(error)) from None
        except OSError as error:
            raise CoreUnavailable(call, plain(error)) from None

    async def close(self) -> None:
        """Close all connections; the next request opens a new one."""
        self._idle.clear()
        for connection in list(self._open):
            connection.close()
        self._open.clear()
        await asyncio.sleep(0)

    # ----------------------------------------------------------------------------------------------------------------

    def _encoded(self, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes | None) -> bytes:
        """The request as octets. Raises ValueError for what would be read as another header."""
        where = self._endpoint
        given = {name.lower() for name, _ in headers}
        lines = [f"{method} {where.base_path}{_target(target)} HTTP/1.1\r\n"]
        if "host" not in given:
            lines.append(f"Host: {where.authority}\r\n")
        lines += [line for name, line in self._usual.items() if name not in given]
        lines += [f"{name}: {_line(value)}\r\n" for name, value in headers]
        if body is None:
            lines.append("\r\n")
            return "".join(lines).encode("utf-8", "surrogateescape")
        lines.append(f"Content-Length: {len(body)}\r\n\r\n")
        return "".join(lines).encode("utf-8", "surrogateescape") + body

    async def _connection(self, timeout_s: float) -> _Connection:
        """The connection used last that can still be used, or a new one."""
        old = time.monotonic() - KEEP_ALIVE_S
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.usable and connection.idle_since > old:
                return connection
            self._discard(connection)
            if connection.idle_since <= old:
                while idle:  # the others are older still
                    self._discard(idle.pop())
        async with asyncio.timeout(max(0.0, min(CONNECT_TIMEOUT_S, timeout_s))):
            connection = await self._connect()
        self._open.add(connection)
        return connection

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        where = self._endpoint
        if where.socket_path is not None:
            _, made = await loop.create_unix_connection(lambda: _Connection(loop), where.socket_path)
            return made
        if not self._names or time.monotonic() >= self._names_until:
            self._names = await loop.getaddrinfo(self._host, self._port, type=1)
            self._names_until = time.monotonic() + DNS_CACHE_S
        opened = await aiohappyeyeballs.start_connection(self._names, happy_eyeballs_delay=NEXT_ADDRESS_S)
        try:
            _, made = await loop.create_connection(
                lambda: _Connection(loop),
                sock=opened,
                ssl=self._tls,
                server_hostname=self._host if self._tls is not None else None,
            )
        except BaseException:
            with contextlib.suppress(OSError):
                opened.close()
            raise
        return made

    def _keep(self, connection: _Connection) -> None:
        if connection.usable:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
        else:
            self._discard(connection)

    def _discard(self, connection: _Connection) -> None:
        self._open.discard(connection)
        if not connection.closed:
            connection.close()


def _address(where: Endpoint) -> tuple[str, int]:
    """Host name or address, and port."""
    host, separator, port = where.authority.rpartition(":")
    if not separator or not port.isdigit():
        host, port = where.authority, ""
    return host.removeprefix("[").removesuffix("]"), int(port) if port else (443 if where.scheme == "https" else 80)


def _line(value: str) -> str:
    """A header's value. Raises ValueError for one that would not end where it ends."""
    if "\r" in value or "\n" in value or "\0" in value:
        raise ValueError("a header with a line break")
    return value


def _target(target: str) -> str:
    """Raises ValueError for a target that would not end where it ends."""
    if _NOT_IN_A_TARGET.search(target):
        raise ValueError("a target with a space or a control character")
    return target


def transport_for(settings: CoreSettings) -> Transport:
    """The login path's client: this one, or aiohttp's where an HTTP proxy stands between us and the core."""
    return LeanTransport(settings) if proxy_for(endpoint(settings)) is None else AiohttpTransport(settings)
