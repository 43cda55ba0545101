"""What passes between a server and the forwarder: the client's side of one request (``Caller``), and how it ended.

A server makes a ``Caller`` (``callers.py`` has the one for a bare connection) and calls::

    forwarder = Forwarder()                                                   # one per process
    ended = await forwarder.forward(caller, check, allow, pairs, more=cookies)  # upstream.py

``pairs`` are the request's headers as they came, ``more`` headers for the answer (``Set-Cookie``). The forwarder always
answers, with a page if the application cannot, and raises nothing but ``CancelledError``; ``ended`` is for log and
metrics.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from common.errors import OutpostError

Pairs = list[tuple[bytes, bytes]]


class BadBody(OutpostError):
    """The client's body is not what its head says: 400."""


class CallerGone(OutpostError):
    """The client has closed its connection: nobody is left to answer."""


class Cause(StrEnum):
    """Why a request was not answered by the application, or not to its end."""

    NAME = "name"  # its host name has no address
    REFUSED = "refused"  # no connection
    TLS = "tls"  # no TLS, or a certificate that is not trusted
    CONNECT_TIMEOUT = "connect_timeout"
    SETUP = "setup"  # our own settings for it cannot be used: a CA file, a client certificate
    CLOSED = "closed"  # it closed without an answer
    BROKEN = "broken"  # what it answered is not HTTP
    RESPONSE_TIMEOUT = "response_timeout"
    IDLE = "idle"  # it stopped in the middle, or took no more of the request
    CUT = "cut"  # its answer broke off
    TOO_LARGE = "too_large"  # the request's body
    BAD_BODY = "bad_body"
    SLOW_BODY = "slow_body"  # the client stopped in the middle
    BAD_REQUEST = "bad_request"  # it cannot be written as a request of ours
    METHOD = "method"  # CONNECT and TRACE are never passed on
    CLIENT_GONE = "client_gone"
    FAILED = "failed"  # a mistake of ours; it is in the log


STATUS: dict[Cause, int] = {
    Cause.NAME: 502,
    Cause.REFUSED: 502,
    Cause.TLS: 502,
    Cause.CONNECT_TIMEOUT: 504,
    Cause.SETUP: 502,
    Cause.CLOSED: 502,
    Cause.BROKEN: 502,
    Cause.RESPONSE_TIMEOUT: 504,
    Cause.IDLE: 504,
    Cause.CUT: 502,
    Cause.TOO_LARGE: 413,
    Cause.BAD_BODY: 400,
    Cause.SLOW_BODY: 408,
    Cause.BAD_REQUEST: 400,
    Cause.METHOD: 405,
    Cause.CLIENT_GONE: 499,  # for the log only
    Cause.FAILED: 500,
}
"""Status of the page for each cause, as long as no octet of the application's answer was sent."""


@dataclass(slots=True)
class Forwarded:
    """How a request ended. ``status`` is what the client got (499: it had gone), ``cause`` None if all went well.

    ``detail`` is for the log and for superusers; it holds no octet of request or answer. Times in seconds: until the
    application's head had come, and until all was done. ``reused``: over a connection that was open already.
    """

    status: int = 0
    cause: Cause | None = None
    detail: str = ""
    received: int = 0  # octets of the request's body
    sent: int = 0  # octets of the answer's body
    head_s: float = 0.0
    total_s: float = 0.0
    reused: bool = False
    tunnel: bool = False
    origin: str = field(default="")


class Caller(Protocol):
    """The client's side of one request.

    ``minor`` is that of its HTTP/1.x, ``length`` the octets of its body (0: none, None: chunked), ``keep_alive`` its
    wish, ``expects`` whether it waits for 100 before its body. The forwarder writes whole octets of the answer, head
    and framing included.
    """

    method: str
    minor: int
    length: int | None
    keep_alive: bool
    expects: bool

    @property
    def gone(self) -> bool:
        """Whether the client has closed."""

    @property
    def paused(self) -> bool:
        """Whether so much is waiting to be sent that ``drained`` should be awaited."""

    def whole(self) -> bytes | None:
        """The body if all of it has come (b"" if there is none) and it is not large; else None."""

    async def read(self) -> bytes:
        """The next piece of the body, b"" at its end. Raises ``BadBody`` or ``CallerGone``."""

    def trailers(self) -> Pairs:
        """What stood behind a chunked body; to be asked at its end."""

    def write(self, data: bytes) -> None:
        """Send octets. Nothing is raised if the client has gone."""

    async def drained(self) -> None:
        """Wait until more can be sent. Raises ``CallerGone``."""

    def end(self, reusable: bool) -> None:
        """The answer is complete; ``reusable``: another request may follow on the connection."""

    def abort(self) -> None:
        """Cut off, so that the client sees that the answer is not complete."""

    def take_over(self) -> tuple[asyncio.Transport, bytes]:
        """Hand out the connection for a tunnel, reading paused, and what the client has sent already.

        Whoever takes it sets its own protocol, and calls the former one's ``connection_lost`` at the end.
        """
