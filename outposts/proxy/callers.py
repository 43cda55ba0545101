"""The client's side of a forwarded request (``exchange.Caller``) over a bare connection.

No HTTP server stands between: aiohttp's made a small request cost a quarter more processor time in all, and refuses
methods and lines that applications take. The protocol that read the head (``wire.read_head``) makes a
``RawCaller``, gives it what arrives, and hears by ``on_end`` that the next request may begin.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from outposts.proxy.bodies import BodyError, BodyReader
from outposts.proxy.exchange import BadBody, CallerGone, Pairs
from outposts.proxy.tunnels import reading
from outposts.proxy.wire import Head, HeadError, keeps_alive

BODY_HIGH = 262_144  # octets of a request's body that wait for the application before reading stops
WRITE_HIGH = 262_144  # octets of an answer that wait for the client before the application is not read
# After an answer to a request whose body was not read, a client that is still sending would get a reset and perhaps
# lose the answer: what it sends is read and thrown away for this long (RFC 9112 §9.6).
LINGER_S = 2.0
MAX_LENGTH_DIGITS = 18  # of Content-Length: an exabyte


def framing(head: Head) -> tuple[int | None, bool]:
    """Length of a request's body and whether it is chunked (RFC 9112 §6.3). Raises ``HeadError``: 400 or 501.

    A request with both, or with another coding, is two requests for somebody.
    """
    coding = head.headers.get("transfer-encoding")
    length = head.headers.get("content-length")
    if head.repeated in ("content-length", "transfer-encoding"):
        raise HeadError(f"more than one {head.repeated}")
    if coding is not None:
        if length is not None or head.minor == 0:
            raise HeadError("a transfer coding beside a length, or in HTTP/1.0")
        if coding.lower() != "chunked":
            raise HeadError("a transfer coding other than chunked", 501)
        return None, True
    if length is None:
        return 0, False
    if not length.isascii() or not length.isdigit() or len(length) > MAX_LENGTH_DIGITS:
        raise HeadError("malformed length")
    return int(length), False


class RawCaller:
    """A request on a bare connection.

    The protocol of the connection passes on ``data_received``, ``pause_writing``, ``resume_writing`` and
    ``connection_lost`` until ``on_end(reusable)`` is called; then ``rest`` is what has come of the next request.
    Raises ``HeadError`` if the head says no body that can be read.
    """

    __slots__ = ("_body", "_drain", "_held", "_loop", "_lost", "_on_end", "_paused_reading", "_pieces", "_problem",
                 "_transport", "_waiter", "expects", "keep_alive", "length", "method", "minor", "paused",
                 "rest")  # fmt: skip

    def __init__(self, transport: Any, head: Head, rest: bytes, on_end: Callable[[bool], None]) -> None:
        self.length, chunked = framing(head)
        self.method = head.method
        self.minor = head.minor
        self.keep_alive = keeps_alive(head)
        self.paused = False
        self.rest = rest
        self._transport = transport
        self._on_end = on_end
        self._body = BodyReader(self.length, chunked)
        self.expects = (
            not self._body.done and head.minor == 1 and head.headers.get("expect", "").lower() == "100-continue"
        )
        self._lost = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._drain: asyncio.Future[None] | None = None
        self._pieces: list[bytes] = []
        self._held = 0
        self._paused_reading = False
        self._problem: BodyError | None = None
        if not self._body.done and rest:
            self.rest = b""
            self.data_received(rest)

    # -- from the connection -----------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """What the client sent: its body, then what follows."""
        if self._body.done or self._problem is not None:
            self.rest += data
            if len(self.rest) > BODY_HIGH:
                self._pause()
            return
        try:
            pieces, self.rest = self._body.feed(data)
        except BodyError as error:
            self._problem = error
        else:
            self._pieces += pieces
            for piece in pieces:
                self._held += len(piece)
            if self._held > BODY_HIGH:
                self._pause()
        _wake(self._waiter)

    def pause_writing(self) -> None:
        """The client takes less than is sent."""
        self.paused = True

    def resume_writing(self) -> None:
        """It takes more again."""
        self.paused = False
        _wake(self._drain)

    def connection_lost(self, error: Exception | None) -> None:
        """The client has gone."""
        self._lost = True
        self.resume_writing()
        _wake(self._waiter)

    def _pause(self) -> None:
        if not self._paused_reading:
            self._paused_reading = True
            reading(self._transport, False)

    def _resume(self) -> None:
        if self._paused_reading:
            self._paused_reading = False
            reading(self._transport, True)

    # -- for the forwarder -------------------------------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        """See ``Caller``."""
        return self._lost or bool(self._transport.is_closing())

    def whole(self) -> bytes | None:
        """See ``Caller``."""
        if not self._body.done or self._body.trailers:
            return None
        pieces, self._pieces = self._pieces, []
        self._held = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def read(self) -> bytes:
        """See ``Caller``."""
        while not self._pieces:
            if self._problem is not None:
                raise BadBody(str(self._problem))
            if self._body.done:
                return b""
            if self._lost:
                raise CallerGone("the client closed within its request")
            self._waiter = _future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        pieces, self._pieces = self._pieces, []
        self._held = 0
        self._resume()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def trailers(self) -> Pairs:
        """See ``Caller``."""
        return self._body.trailers

    def write(self, data: bytes) -> None:
        """See ``Caller``."""
        if not self._lost:
            self._transport.write(data)

    async def drained(self) -> None:
        """See ``Caller``."""
        while self.paused and not self._lost:
            self._drain = _future()
            try:
                await self._drain
            finally:
                self._drain = None
        if self._lost:
            raise CallerGone("the client has closed")

    def end(self, reusable: bool) -> None:
        """See ``Caller``."""
        if reusable and self._body.done and not self._lost:
            self._resume()
            self._on_end(True)
        else:
            unread = not self._body.done
            self._on_end(False)
            self._close(unread)

    def _close(self, unread: bool) -> None:
        transport = self._transport
        if not unread or self._lost or not transport.can_write_eof():
            transport.close()
            return
        transport.set_protocol(_Lingering(transport))
        transport.write_eof()
        reading(transport, True)

    def abort(self) -> None:
        """See ``Caller``."""
        self._on_end(False)
        self._transport.abort()

    def take_over(self) -> tuple[Any, bytes]:
        """See ``Caller``."""
        reading(self._transport, False)
        rest, self.rest = self.rest, b""
        return self._transport, rest


class _Lingering(asyncio.Protocol):
    """Throws away what a client still sends, for a while; then the connection is cut."""

    def __init__(self, transport: Any) -> None:
        self._former = transport.get_protocol()
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, transport.abort)

    def connection_lost(self, error: Exception | None) -> None:
        """The client has closed too."""
        self._timer.cancel()
        self._former.connection_lost(error)


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
