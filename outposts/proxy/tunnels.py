"""Two connections that have become one: what comes on either is sent on the other (WebSocket and other upgrades).

No task and no buffer of its own: each side reads only while the other takes. An end that only stops sending lets the
other go on, where the connection can say so (TLS cannot). A tunnel without any octet for its idle time is cut.
"""

from __future__ import annotations

import asyncio
from typing import Any

BUFFER_HIGH = 65_536  # octets that wait on a side before the other is not read
HALF_CLOSED_S = 60.0  # longest silence when one side has stopped sending


class _End(asyncio.Protocol):
    """One side's protocol; ``_to`` is the other side's transport."""

    __slots__ = ("_former", "_other", "_to", "_tunnel", "count", "lost", "over", "transport")

    def __init__(self, tunnel: Tunnel, transport: Any, former: Any) -> None:
        self._tunnel = tunnel
        self._former = former
        self._to: Any = None
        self._other = self
        self.transport = transport
        self.count = 0
        self.lost = False
        self.over = False

    def join(self, other: _End) -> None:
        self._other = other
        self._to = other.transport

    def data_received(self, data: bytes) -> None:
        """To the other side."""
        self._tunnel.busy = True
        self.count += len(data)
        self._to.write(data)

    def pause_writing(self) -> None:
        """This side takes less than the other sends."""
        reading(self._to, False)

    def resume_writing(self) -> None:
        """This side takes more again."""
        reading(self._to, True)

    def eof_received(self) -> bool:
        """This side will send no more. When neither will, or this cannot be said to the other, both are closed."""
        self.over = True
        if self._other.over or self._to.is_closing() or not self._to.can_write_eof():
            self._to.close()
            return False
        self._to.write_eof()
        self._tunnel.half_closed()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """This side has gone; what it sent is still delivered."""
        self.lost = True
        if error is None:
            self._to.close()
        else:
            self._to.abort()
        former, self._former = self._former, None
        if former is not None:
            former.connection_lost(error)
        self._tunnel.lost()


class Tunnel:
    """A tunnel between a client's connection and an application's, both with reading paused.

    ``idle_s`` is the longest silence of both sides. ``ended`` is done when both have closed.
    """

    __slots__ = ("_client", "_deadline", "_idle_s", "_upstream", "busy", "ended")

    def __init__(self, client: Any, from_client: bytes, upstream: Any, from_upstream: bytes, idle_s: float) -> None:
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.busy = False
        self._idle_s = idle_s
        self._deadline = loop.time() + idle_s
        self._client = _End(self, client, client.get_protocol())
        self._upstream = _End(self, upstream, None)
        self._client.join(self._upstream)
        self._upstream.join(self._client)
        for end, first in ((self._upstream, from_upstream), (self._client, from_client)):
            end.transport.set_protocol(end)
            end.transport.set_write_buffer_limits(BUFFER_HIGH)
            if first:
                end.data_received(first)
        for end in (self._upstream, self._client):
            reading(end.transport, True)
        if client.is_closing() or upstream.is_closing():
            self.close()

    @property
    def received(self) -> int:
        """Octets from the client."""
        return self._client.count

    @property
    def sent(self) -> int:
        """Octets to the client."""
        return self._upstream.count

    def tick(self, now: float) -> None:
        """Cut it if it was idle for too long."""
        if self.busy:
            self.busy = False
            self._deadline = now + self._idle_s
        elif now > self._deadline:
            self.close()

    def half_closed(self) -> None:
        """One side sends no more; mostly it has gone altogether, which cannot be told."""
        self._idle_s = min(self._idle_s, HALF_CLOSED_S)
        self.busy = True

    def close(self) -> None:
        """Cut both sides."""
        self._client.transport.abort()
        self._upstream.transport.abort()

    def lost(self) -> None:
        """A side has gone."""
        if self._client.lost and self._upstream.lost and not self.ended.done():
            self.ended.set_result(None)


def reading(transport: Any, on: bool) -> None:
    """Read on or not; a connection that is closing does neither, and says so with an error."""
    try:
        if on:
            transport.resume_reading()
        else:
            transport.pause_reading()
    except RuntimeError:
        pass
