"""One RadSec client: its octets become requests for the desk, replies and our own requests become octets for it."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import TYPE_CHECKING, Protocol

from common import logs, metrics
from outposts.radius import das, radius11
from outposts.radius.providers import RadiusProvider
from outposts.radius.radsec_clients import Identity
from outposts.radius.radsec_stream import Numbers, Stream
from outposts.radius.radsec_tls import Upper, Wire
from outposts.radius.request import RADSEC
from outposts.radius.rfc import AUTHENTICATOR_SIZE, RADSEC_SECRET, Attribute, Code, ErrorCause
from outposts.radius.wire import Attributes, Packet, PacketError, decode, encode_reply, verify_accounting

if TYPE_CHECKING:
    from outposts.radius.radsec import Server

log = logs.get_logger("radius.radsec")

WRITE_TIMEOUT_S = 30.0  # a client that takes no replies for so long is gone
SLOT_S = 120.0  # a request counts as open no longer than a login may take, should nobody say how it ended

# RFC 6613 §2.6.4: what only a broken client sends. Other reasons of the desk leave the connection as it is.
BROKEN = frozenset(
    {
        "too_short",
        "too_long",
        "bad_length",
        "bad_attribute",
        "too_many_attributes",
        "bad_authenticator",
        "bad_message_authenticator",
    }
)
REPLIES = frozenset({Code.DISCONNECT_ACK, Code.DISCONNECT_NAK, Code.COA_ACK, Code.COA_NAK})
# What a server does not take from a client is refused aloud below TLS, where one port is for everything (RFC 6614).
UNWANTED = {Code.DISCONNECT_REQUEST: Code.DISCONNECT_NAK, Code.COA_REQUEST: Code.COA_NAK}
UNSUPPORTED = ((int(Attribute.ERROR_CAUSE), int(ErrorCause.UNSUPPORTED_EXTENSION).to_bytes(4, "big")),)


class Line(Protocol):
    """What replies go out by (``desk.Line``)."""

    def send(self, octets: bytes, where: object) -> None:
        """Send a reply."""

    def silent(self, where: object) -> None:
        """No reply will be sent to a request."""


class Connection(Upper):
    """One client. As a ``Line`` it takes replies in RADIUS/1.0."""

    def __init__(self, server: Server, wire: Wire, address: str, listener: str, now: float) -> None:
        self.server = server
        self.wire = wire
        self.address = address
        self.port = int((wire.transport.get_extra_info("peername") or ("", 0))[1])
        self.listener = listener
        self.who: Identity | None = None
        self.provider: RadiusProvider | None = None
        self.version_11 = False
        self.heard = self.since = now
        self.blocked_since: float | None = None
        self.closing = False
        self._stream = Stream()
        self._waiting: deque[bytes] = deque()  # whole packets that came while too many requests were open
        self._open: deque[float] = deque()  # when each open request came; which is which does not matter
        self._paused = self._working = False
        self._numbers = Numbers()
        self._token = int.from_bytes(os.urandom(radius11.TOKEN_SIZE), "big")  # RFC 9765 §4.2.1: begins anywhere
        self._asked: dict[bytes, tuple[bytes, asyncio.Future[das.Result | None]]] = {}

    # -- from below --------------------------------------------------------------------------------------------------

    def secured(self, who: Identity, version_11: bool) -> None:
        """The handshake is done: whose client is it?"""
        self.who, self.version_11 = who, version_11
        self.heard = self.server.clock()
        pk = self.server.clients.provider_of(who)
        self.provider = self.server.provider(pk)
        if self.provider is None:
            if self.server.due("unknown_client", self.address):
                log.warning("RadSec client of no provider", client=str(who), names=who.names[0], address=self.address)
            self.close("unknown_client")
            return
        log.info(
            "RadSec client connected",
            client=str(who),
            address=self.address,
            provider=self.provider.name,
            version="1.1" if version_11 else "1.0",
        )

    def received(self, data: bytes) -> None:
        """Octets below TLS."""
        if self.closing or self.provider is None or self.server.draining:
            return  # while the daemon stops, only what it has begun is finished
        self.heard = self.server.clock()
        try:
            self._waiting.extend(self._stream.receive(data))
        except PacketError as error:
            self.close(error.reason)
            return
        self._work()

    def blocked(self, blocked: bool) -> None:
        """Whether too many replies wait for the client to read; nothing more is taken from it meanwhile."""
        self.blocked_since = self.server.clock() if blocked else None
        self._work()

    def lost(self, reason: str) -> None:
        """The connection is over. What is being decided goes on; its replies go nowhere."""
        self.closing = True
        self._waiting.clear()
        self.server.forget(self, reason)
        for _, answer in self._asked.values():
            if not answer.done():
                answer.set_result(None)
        self._asked.clear()

    # -- requests ----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Take waiting packets as long as there is room, and read on only then."""
        if self._working:
            return  # a reply that was ready at once: the loop below goes on with the next packet
        self._working = True
        try:
            self._take_waiting()
        finally:
            self._working = False
        paused = bool(self._waiting) or self.blocked_since is not None
        if paused != self._paused and not self.closing:
            self._paused = paused
            if paused:
                self.wire.pause()
            else:
                self.wire.resume()

    def _take_waiting(self) -> None:
        now = self.server.clock()
        while self._open and self._open[0] + SLOT_S <= now:
            self._open.popleft()
        room = self.server.limits.max_outstanding
        while self._waiting and not self.closing and self.blocked_since is None and len(self._open) < room:
            self._take(self._waiting.popleft(), now)

    def _take(self, octets: bytes, now: float) -> None:
        if octets[0] in REPLIES:
            self._answered(octets)
            return
        line: Line = self
        try:
            if self.version_11:
                rewritten = radius11.receive(octets, self.server.random(AUTHENTICATOR_SIZE))
                line, octets = _Line11(self, rewritten), rewritten.packet.octets
            if octets[0] in UNWANTED:
                self._refuse(decode(octets), line)
                return
        except PacketError as error:
            if error.reason in BROKEN:
                self.close(error.reason)
            else:
                metrics.protocol_errors.labels(self.listener).inc()
            return
        self._open.append(now)
        reason = self.server.desk.received(
            octets, self.address, self.port, line, None, transport=RADSEC, provider=self.provider
        )
        if reason:
            self._free()
        if reason in BROKEN:
            self.close(reason)
        elif reason == "accounting_off":
            self._unsupported(decode(octets), Code.ACCOUNTING_RESPONSE, line)

    def _refuse(self, packet: Packet, line: Line) -> None:
        """Somebody wants to disconnect users of ours: that is not what this connection is for."""
        if verify_accounting(packet, RADSEC_SECRET):
            self._unsupported(packet, UNWANTED[Code(packet.code)], line)
        else:
            self.close("bad_authenticator")

    def _unsupported(self, packet: Packet, code: Code, line: Line) -> None:
        self._open.append(self.server.clock())
        line.send(encode_reply(packet, RADSEC_SECRET, code, UNSUPPORTED), None)

    def send(self, octets: bytes, where: object) -> None:
        """A reply that is ready. The first of what is open counts as done: all are equally old enough."""
        self._free()
        if not self.closing:
            self.wire.write(octets)
        self._work()

    def silent(self, where: object) -> None:
        """A request has met silence: it is open no more."""
        self._free()
        self._work()

    def _free(self) -> None:
        if self._open:
            self._open.popleft()

    # -- requests of ours --------------------------------------------------------------------------------------------

    async def ask(self, code: Code, attributes: Attributes, unix_time: float, timeout_s: float) -> das.Result | None:
        """Send a Disconnect- or CoA-Request to the client (RFC 5176) and wait for what it says.

        None: the connection is gone, or has no number left. There is no repetition below TLS (RFC 6613 §2.6.1).
        """
        number = self._numbers.take()
        if number is None or self.closing:
            return None
        try:
            octets = das.encode(code, number, RADSEC_SECRET, attributes, unix_time)
            key = octets[1:2]
            if self.version_11:
                key = self._token.to_bytes(radius11.TOKEN_SIZE, "big")
                self._token = (self._token + 1) & 0xFFFFFFFF
                octets = radius11.request(octets, key)
            answer: asyncio.Future[das.Result | None] = asyncio.get_running_loop().create_future()
            self._asked[key] = (octets, answer)
            self.wire.write(octets)
            try:
                return await asyncio.wait_for(answer, timeout_s)
            except TimeoutError:
                return das.Result(das.Verdict.NO_ANSWER)
            finally:
                self._asked.pop(key, None)
        finally:
            self._numbers.free(number)

    def _answered(self, octets: bytes) -> None:
        key = radius11.token_of(octets) if self.version_11 else octets[1:2]
        asked = self._asked.get(key)
        if asked is None:
            return  # late, or never asked: nothing waits for it
        request, answer = asked
        if self.version_11:
            result = radius11.judge(request, octets)
        else:
            result = das.judge(request, octets, RADSEC_SECRET)
        if result is None:
            self.close("bad_authenticator")
        elif not answer.done():
            answer.set_result(result)

    # -- ends --------------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether requests are open, in either direction."""
        return bool(self._open or self._waiting or self._asked)

    def close(self, reason: str) -> None:
        """Say goodbye and close. ``reason`` is a metric's label."""
        if self.closing:
            return
        self.closing = True
        self._waiting.clear()
        if reason in BROKEN:
            metrics.protocol_errors.labels(self.listener).inc()
            log.warning("RadSec client has broken the protocol", client=str(self.who), problem=reason)
        self.wire.close(reason)

    def sweep(self, now: float) -> None:
        """Once a second or so: is it still alive?"""
        if self.closing:
            # Asked to close and did not: the client does not read.
            if now - self.heard > WRITE_TIMEOUT_S:
                self.wire.cut("reading")
        elif self.blocked_since is not None and now - self.blocked_since > WRITE_TIMEOUT_S:
            metrics.connections_cut.labels("reading").inc()
            self.wire.cut("reading")
        else:
            self._work()
            if self.who is not None and not self.busy and now - self.heard > self.server.limits.idle_timeout:
                metrics.connections_cut.labels("idle").inc()
                self.close("idle")


class _Line11:
    """Where the reply to one request of RADIUS/1.1 goes: an object of its own, which tells requests apart."""

    __slots__ = ("_connection", "_request")

    def __init__(self, connection: Connection, request: radius11.Rewritten) -> None:
        self._connection = connection
        self._request = request

    def send(self, octets: bytes, where: object) -> None:
        """Rewrite and send."""
        try:
            self._connection.send(radius11.reply(octets, self._request), where)
        except PacketError as error:
            log.error("reply cannot be sent as RADIUS/1.1", problem=error.reason)
            self._connection.silent(where)

    def silent(self, where: object) -> None:
        """Nothing to send."""
        self._connection.silent(where)
