"""Sends Disconnect-Requests: remembers whom we let in, hears of ended sessions, and talks to the clients' port 3799.

One UDP socket per address family, made when first needed. A client that came by RadSec is asked on its own connection,
because nothing listens elsewhere. What is in flight is bounded; what is beyond that is counted and left out: the
network session then ends by its own time-out, as without this.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

from common import logs, metrics
from outposts.radius import das
from outposts.radius.accounting import Recorded
from outposts.radius.providers import RadiusProvider
from outposts.radius.radsec_stream import Numbers
from outposts.radius.request import UDP, Request
from outposts.radius.rfc import PORT_DYNAMIC_AUTHORIZATION, AcctStatusType, Attribute, Code
from outposts.radius.wire import Attributes, PacketError

log = logs.get_logger("radius.das")

MAX_IN_FLIGHT = 2_000  # requests that wait for an answer; an outage of all clients lasts 46 s for each of them
MAX_CLIENTS = 4_096  # clients whose last Identifier is remembered, below 1 KiB each

Target = tuple[str, int]
# (provider, client, code, attributes, unix time) → its answer; None: it has no connection any more
AskRadsec = Callable[[int, Target, Code, Attributes, float], Awaitable[das.Result | None]]


class Disconnector:
    """One per process. ``provider_of`` answers the provider in service with this ``pk``; ``clock`` gives unix seconds.

    ``port_of`` answers the UDP port on which the clients of a provider take requests; ``ask_radsec`` is there when
    RadSec is.
    """

    def __init__(
        self,
        provider_of: Callable[[int], RadiusProvider | None],
        *,
        clock: Callable[[], float] = time.time,
        port_of: Callable[[RadiusProvider], int] = lambda _provider: PORT_DYNAMIC_AUTHORIZATION,
        ask_radsec: AskRadsec | None = None,
        waits_s: tuple[float, ...] = das.WAITS_S,
    ) -> None:
        self.logins = das.Logins()
        self.port_of = port_of
        self.ask_radsec = ask_radsec
        self._provider_of = provider_of
        self._clock = clock
        self._waits_s = waits_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: dict[int, _Socket] = {}

    # -- what is remembered ------------------------------------------------------------------------------------------

    def remember(
        self, session_id: str | None, request: Request, *, class_: bytes = b"", user_name: bytes | None = None
    ) -> None:
        """An Access-Request was accepted in this session of the core. ``class_`` and ``user_name``: what the reply has.

        Does nothing where the provider does not ask for it, or the core did not name the session.
        """
        if session_id is None or not request.provider.das:
            return
        self.logins.remember(
            das.login_of(
                session_id,
                request.packet,
                request.provider.pk,
                request.peer,
                request.transport,
                self._clock(),
                class_=class_,
                user_name=user_name,
            )
        )

    def recorded(self, recorded: Recorded) -> None:
        """Accounting tells how the client names a session, and when there is nothing left to end."""
        report = recorded.report
        where = (report.client.provider_pk, report.client.address)
        if report.status == AcctStatusType.STOP:
            self.logins.stopped(*where, report.class_, report.names)
        elif report.status in (AcctStatusType.START, AcctStatusType.INTERIM_UPDATE):
            self.logins.started(*where, report.class_, report.names)
        else:
            for session in recorded.ended:
                self.logins.stopped(*where, session.class_, session.names)

    def sweep(self) -> None:
        """Forget what is too old; to be called every few seconds."""
        self.logins.sweep(self._clock())

    # -- what is sent ------------------------------------------------------------------------------------------------

    def session_ended(self, session_id: str) -> None:
        """A session of the core has ended: so do the network's sessions that it let in."""
        for login in self.logins.take(session_id, self._clock()):
            if len(self._tasks) >= MAX_IN_FLIGHT:
                metrics.radius_disconnects.labels("dropped").inc()
                log.warning("session not disconnected, too many requests in flight", client=login.peer[0])
                continue
            task = asyncio.get_running_loop().create_task(self._disconnect(login))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _disconnect(self, login: das.Login) -> None:
        provider = self._provider_of(login.provider_pk)
        if provider is None or not provider.das:
            return
        result = await self.ask(login, provider, Code.DISCONNECT_REQUEST, das.identification(login))
        if result is not None and result.try_less:
            result = await self.ask(login, provider, Code.DISCONNECT_REQUEST, das.identification(login, least=True))
        metrics.radius_disconnects.labels("unreachable" if result is None else result.verdict.value).inc()
        user = login.first(Attribute.USER_NAME) or b""
        done = result is not None and result.verdict in (das.Verdict.DONE, das.Verdict.GONE)
        (log.info if done else log.warning)(
            "session disconnected" if done else "session not disconnected",
            client=login.peer[0],
            provider=provider.name,
            user=user.decode("utf-8", "backslashreplace"),
            result="unreachable" if result is None else result.verdict.value,
            cause=result.cause.name.lower() if result is not None and result.cause is not None else "",
        )

    async def ask(
        self, login: das.Login, provider: RadiusProvider, code: Code, attributes: Attributes
    ) -> das.Result | None:
        """Send a Disconnect- or CoA-Request to the client of a login, and wait for the end of it. None: not reachable.

        For a CoA-Request ``attributes`` are ``das.identification(login)`` and what is to change.
        """
        try:
            if login.transport != UDP:
                if self.ask_radsec is None:
                    return None
                return await self.ask_radsec(login.provider_pk, login.peer, code, attributes, self._clock())
            where = (login.peer[0], self.port_of(provider))
            return await (await self._socket(where[0])).ask(
                where, code, attributes, provider.secret, self._clock(), self._waits_s
            )
        except (OSError, PacketError) as error:
            log.warning("request not sent", client=login.peer[0], kind=type(error).__name__)
            return None

    async def _socket(self, address: str) -> _Socket:
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
        found = self._sockets.get(family)
        if found is None:
            # Not ``local_addr``: whatever address the system chooses towards this client is the right one.
            opened = socket.socket(family, socket.SOCK_DGRAM)
            opened.setblocking(False)
            opened.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", 0))
            found = self._sockets[family] = _Socket()
            await asyncio.get_running_loop().create_datagram_endpoint(lambda: found, sock=opened)
        return found

    @property
    def in_flight(self) -> int:
        """Sessions that are being ended."""
        return len(self._tasks)

    async def close(self) -> None:
        """Give up what is in flight."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in self._sockets.values():
            one.transport.close()
        self._sockets.clear()


class _Socket(asyncio.DatagramProtocol):
    """One UDP socket and the requests that are open on it, by client and Identifier (RFC 5176 §2.3)."""

    transport: asyncio.DatagramTransport

    def __init__(self) -> None:
        self._open: dict[tuple[str, int, int], tuple[das.Exchange, asyncio.Event]] = {}
        self._numbers: dict[Target, Numbers] = {}

    def connection_made(self, transport: Any) -> None:
        """The socket is there."""
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple[Any, ...]) -> None:
        """An answer, if it fits what is open; else nothing."""
        if len(data) < 2:
            return
        found = self._open.get((address[0].partition("%")[0], address[1], data[1]))
        if found is not None and found[0].receive(data) is not None:
            found[1].set()

    def error_received(self, error: Exception) -> None:
        """The client's machine says that nobody listens there (ICMP). It may be starting: try on."""
        log.debug("client not reachable", kind=type(error).__name__)

    async def ask(
        self, where: Target, code: Code, attributes: Attributes, secret: bytes, now: float, waits_s: tuple[float, ...]
    ) -> das.Result | None:
        """Send, and again, until it is answered or given up. None: 256 requests are open at this client already."""
        loop = asyncio.get_running_loop()
        numbers = self._numbers.setdefault(where, Numbers())
        number = numbers.take()
        if number is None:
            return None
        key = (*where, number)
        try:
            exchange = das.Exchange(das.encode(code, number, secret, attributes, now), secret, loop.time(), waits_s)
            answered = asyncio.Event()
            self._open[key] = (exchange, answered)
            while (due := exchange.due) is not None:
                try:
                    async with asyncio.timeout_at(due):
                        await answered.wait()
                except TimeoutError:
                    octets = exchange.tick(loop.time())
                    if octets is not None:
                        self.transport.sendto(octets, where)
            return exchange.result
        finally:
            self._open.pop(key, None)
            numbers.free(number)
            # Kept, so that the next request has another number; an answer that comes late then fits nothing.
            if not numbers and len(self._numbers) > MAX_CLIENTS:
                self._numbers.pop(where, None)
