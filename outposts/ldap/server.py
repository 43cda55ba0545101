"""Where sockets meet the rules: listeners, and one ``Wire`` per socket that feeds a ``Connection``.

* An answer is written straight to the socket when nothing waits there. Twisted's own path (a writer registered with the
  loop, one more turn of it, two more system calls) would cost more than the search itself. What the socket does not
  take goes Twisted's way, which calls the connection back when it is written. Never under TLS: its records are made
  elsewhere.
* LDAPS is StartTLS without the question: the same code starts it, after the PROXY header if there is one.
* The certificate is chosen for each handshake by the client's server name.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from OpenSSL import SSL
from twisted.internet._newtls import _BypassTLS
from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import (
    IHandshakeListener,
    IOpenSSLServerConnectionCreator,
    IPushProducer,
    ISSLTransport,
)
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import directlyProvides, implementer  # type: ignore[import-untyped]

from common import client_certificate, logs, metrics, proxyproto
from common.client_certificate import ClientCertificate
from common.listen import bind, name_of
from common.setting_values import ListenAddress, Network
from common.tls import CertificateError, CertificatePair, Contexts, choose, expires_at
from outposts.ldap.connection import Connection
from outposts.ldap.desk import Desk
from outposts.ldap.rfc import ResultCode

log = logs.get_logger("ldap")

_bypass: Any = _BypassTLS
RENEW_BEFORE_S = 30 * 86_400.0  # of a self-signed certificate's end: clients' clocks may be ahead
SWEEP_S = 1.0  # seconds between looks at silent and stuck connections; their limits are tens of seconds


@dataclass(frozen=True)
class Limits:
    """What one process accepts. Times in seconds; defaults and reasons stand in ``common/setting_rows.py``."""

    max_connections: int
    max_connections_per_address: int
    anonymous_timeout: float
    idle_timeout: float
    write_timeout: float
    message_timeout: float = 30.0


class Server:
    """All listeners and connections of the process. ``limits`` may be replaced at a refresh."""

    def __init__(
        self,
        reactor: Any,
        desk: Desk,
        limits: Limits,
        *,
        trusted_proxies: Iterable[Network],
        self_signed: Callable[[], CertificatePair],
    ) -> None:
        self.reactor = reactor  # a LoopReactor; Twisted's interfaces are more than its classes declare
        self.desk = desk
        self.limits = limits
        self.trusted_proxies = tuple(trusted_proxies)
        self.wires: set[Wire] = set()
        self.draining = False
        self.all_gone: asyncio.Event | None = None
        self._self_signed = self_signed
        self._fallback: CertificatePair | None = None
        self._fallback_until = 0.0  # unix time
        self._pairs: list[tuple[str, CertificatePair]] = []
        self._contexts = Contexts()
        self._prepared: dict[CertificatePair, SSL.Context] = {}
        self._per_address: dict[str, int] = {}
        self._ports: list[Any] = []
        self._stopping: list[Any] = []
        self._sweeper: asyncio.TimerHandle | None = None

    # -- listeners ---------------------------------------------------------------------------------------------------

    def listen(self, listener: str, address: ListenAddress, *, shared: bool = False) -> list[tuple[str, str, int]]:
        """Listen as ``ldap`` or ``ldaps``, ``shared`` with other workers. Returns (listener, host, port) really bound;
        raises ``StartError``.
        """
        bound = []
        for opened in bind(address, shared=shared):
            # The port keeps a duplicate of the socket.
            with opened:
                bound.append((listener, *name_of(opened)))
                port = self.reactor.adopt(opened.fileno(), opened.family, _Factory(self, listener))
            self._ports.append(port)
        if self._sweeper is None:
            self._sweep()
        return bound

    def stop_listening(self) -> None:
        """Accept no more."""
        self.draining = True
        for port in self._ports:
            stopping = port.stopListening()
            if stopping is not None:
                self._stopping.append(stopping)
        self._ports.clear()

    async def drain(self, timeout_s: float) -> None:
        """Accept no more, let requests in progress end, say goodbye to everybody; after the time-out, cut off."""
        self.stop_listening()
        until = time.monotonic() + timeout_s
        while self.wires:
            for wire in list(self.wires):
                connection = wire.connection
                if connection is None:
                    wire.abort()
                elif not connection.outstanding and not connection.is_blocked:
                    connection.finish(ResultCode.UNAVAILABLE, "server is stopping")
            if time.monotonic() >= until:
                break
            await asyncio.sleep(0.02)  # a poll: connections end by themselves, a few turns of the loop later
        await self.close()

    async def close(self) -> None:
        """Cut everybody off."""
        self.stop_listening()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for wire in list(self.wires):
            wire.abort()
        for stopping in self._stopping:
            await stopping.asFuture(asyncio.get_running_loop())
        self._stopping.clear()
        if self.wires:
            self.all_gone = asyncio.Event()
            await self.all_gone.wait()

    # -- certificates ------------------------------------------------------------------------------------------------

    def ask_client_certificates(self, ask: bool) -> None:
        """Whether clients are asked for a certificate, from the next handshake on."""
        if ask != self._contexts.ask_client:
            self._contexts = Contexts(ask_client=ask)
            self._prepared.clear()

    def use_certificates(self, pairs: Iterable[tuple[str, CertificatePair]]) -> None:
        """Serve these from the next handshake on: (server name of the provider or "", pair), in the core's order."""
        usable = []
        for name, pair in pairs:
            try:
                if pair.servable:
                    self._contexts.of(pair)
                    usable.append((name, pair))
            except CertificateError as error:
                log.error("certificate not usable", certificate=pair.pk, problem=str(error))
        self._pairs = usable
        kept = {pair for _, pair in usable} | ({self._fallback} if self._fallback else set())
        self._contexts.keep(kept)
        self._prepared = {pair: context for pair, context in self._prepared.items() if pair in kept}

    def context(self, server_name: str | None) -> SSL.Context:
        """The TLS context for a client that asks for a server name."""
        pair = choose(server_name, self._pairs)
        if pair is None:
            if self._fallback is None or time.time() > self._fallback_until:
                if self._fallback is not None:
                    self._prepared.pop(self._fallback, None)
                self._fallback = self._self_signed()
                self._fallback_until = expires_at(self._fallback) - RENEW_BEFORE_S
                self._contexts.keep({one for _, one in self._pairs})
            pair = self._fallback
        context = self._contexts.of(pair)
        if self._prepared.get(pair) is not context:
            # Once per context: a context that has served a connection must not be changed.
            context.set_tlsext_servername_callback(self._named)
            self._prepared[pair] = context
        return context

    def _named(self, connection: SSL.Connection) -> None:
        try:
            name = connection.get_servername()
            if name:
                connection.set_context(self.context(name.decode("ascii")))
        except (UnicodeDecodeError, CertificateError):
            log.info("server name of a client not usable, default certificate")

    # -- connections -------------------------------------------------------------------------------------------------

    def admit(self, address: str, listener: str) -> bool:
        """Count a connection of a client address; False if it has too many."""
        count = self._per_address.get(address, 0)
        if count >= self.limits.max_connections_per_address:
            metrics.connections_refused.labels(listener, "per_address").inc()
            return False
        self._per_address[address] = count + 1
        return True

    def dismiss(self, address: str) -> None:
        """The opposite of ``admit``."""
        left = self._per_address[address] - 1
        if left:
            self._per_address[address] = left
        else:
            del self._per_address[address]

    def _sweep(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
        self._sweep_now()

    def _sweep_now(self) -> None:
        """Close connections that are silent, drip, or do not read what they asked for."""
        now = time.monotonic()
        for wire in list(self.wires):
            connection = wire.connection
            if wire.handshake_since is not None:
                if now - wire.handshake_since > self.limits.message_timeout:
                    log.info("TLS handshake not completed, cut off", client=wire.client_ip)
                    metrics.connections_cut.labels("handshake").inc()
                    wire.abort()
            elif connection is None:
                if now - wire.opened > self.limits.message_timeout:
                    metrics.connections_cut.labels("opening").inc()
                    wire.abort()
            elif connection.is_blocked:
                if now - connection.blocked_since > self.limits.write_timeout:
                    log.info("client does not read, cut off", client=connection.client_ip)
                    metrics.connections_cut.labels("reading").inc()
                    wire.abort()
            elif connection.is_dripping(now, self.limits.message_timeout):
                log.info("message not completed, cut off", client=connection.client_ip)
                metrics.connections_cut.labels("message").inc()
                wire.abort()
            elif connection.closing:
                if now - connection.last_heard > self.limits.write_timeout:
                    wire.abort()
            elif not connection.outstanding and not connection.following:
                patience = self.limits.anonymous_timeout if connection.identity is None else self.limits.idle_timeout
                if now - connection.last_heard > patience:
                    metrics.connections_cut.labels("idle").inc()
                    connection.hang_up()


class _Factory(ServerFactory):
    """Makes a ``Wire`` for each accepted socket of one listener."""

    noisy = False

    def __init__(self, server: Server, listener: str) -> None:
        self.server = server
        self.listener = listener
        self.gauge = metrics.connections.labels(listener)

    def buildProtocol(self, address: Any) -> Wire | None:
        """None, so that the socket is closed at once, when there are too many."""
        if self.server.draining or len(self.server.wires) >= self.server.limits.max_connections:
            metrics.connections_refused.labels(self.listener, "total").inc()
            return None
        return Wire(self.server, self.listener, self.gauge)


@implementer(IPushProducer, IHandshakeListener)
class Wire(Protocol):
    """One socket: PROXY header, TLS, eager writing, back-pressure. What bytes mean is the ``Connection``'s business."""

    transport: Any  # tcp.Server; its buffers are looked at, see ``send``
    dataReceived: Callable[[bytes], None]  # type: ignore[assignment]

    def __init__(self, server: Server, listener: str, gauge: Any) -> None:
        self.server = server
        self.listener = listener
        self.connection: Connection | None = None
        self.opened = time.monotonic()
        self.handshake_since: float | None = None
        self._layer: Any = None  # of TLS
        self._certificate: ClientCertificate | None = None
        self._gauge = gauge
        self._plain = True
        self._admitted: str | None = None
        self._start = b""
        self._socket: socket.socket
        self.dataReceived = self._opening

    # -- called by Twisted -------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """A socket was accepted."""
        transport = self.transport
        self._socket = transport.getHandle()
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)
        self.server.wires.add(self)
        self._gauge.inc()
        peer = proxyproto.unmap(transport.getPeer().host)
        if not proxyproto.trusted(peer, self.server.trusted_proxies):
            self._open(peer, b"")

    def _opening(self, data: bytes) -> None:
        """Bytes before it is known who the client is: a PROXY header, or not."""
        self._start += data
        peer = proxyproto.unmap(self.transport.getPeer().host)
        if not proxyproto.plausible(self._start):
            self._open(peer, self._start)
            return
        try:
            header = proxyproto.decode(self._start)
        except proxyproto.ProxyProtocolError as error:
            log.info("damaged PROXY header", client=peer, problem=str(error))
            metrics.protocol_errors.labels(self.listener).inc()
            self.abort()
            return
        if header is not None:
            self._open(header.address or peer, self._start[header.size :])

    def connectionLost(self, reason: Any = None) -> None:
        """The socket is gone."""
        self.server.wires.discard(self)
        if self.server.all_gone is not None and not self.server.wires:
            self.server.all_gone.set()
        self._gauge.dec()
        if self._admitted is not None:
            self.server.dismiss(self._admitted)
            self._admitted = None
        if self.connection is not None:
            self.connection.lost()

    def handshakeCompleted(self) -> None:
        """TLS is in use now; what the client showed will not change any more."""
        self.handshake_since = None
        try:
            tls = self._layer._tlsConnection
            leaf = tls.get_peer_certificate(as_cryptography=True)
            if leaf is not None:
                sent = tls.get_peer_cert_chain(as_cryptography=True) or ()
                self._certificate = client_certificate.of_peer(leaf, sent)
        except (SSL.Error, *client_certificate.UNREADABLE) as error:
            log.info("client certificate not readable", client=self.client_ip, kind=type(error).__name__)

    def pauseProducing(self) -> None:
        """More waits to be written than the client reads."""
        if self.connection is not None:
            self.connection.blocked()

    def resumeProducing(self) -> None:
        """Everything is written."""
        if self.connection is not None:
            self.connection.unblocked()

    def stopProducing(self) -> None:
        """Nothing will be written any more; ``connectionLost`` says the rest."""

    # -- called by the connection ------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Write. Straight to the socket if nothing is waiting; what it does not take, Twisted writes later."""
        transport = self.transport
        if self._plain and not transport.dataBuffer and not transport._tempDataLen and not transport.disconnecting:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                transport.abortConnection()
                return
            if sent == len(data):
                return
            data = data[sent:]
        transport.write(data)

    def pause_reading(self) -> None:
        """Read no more for now."""
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Read again."""
        self.transport.resumeProducing()

    def close(self) -> None:
        """Close when everything is written."""
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def abort(self) -> None:
        """Close at once."""
        self.transport.abortConnection()

    def client_certificate(self) -> ClientCertificate | None:
        """What the client showed in the handshake; None without one."""
        return self._certificate

    @property
    def client_ip(self) -> str:
        """The client's address, as far as it is known."""
        return self.connection.client_ip if self.connection is not None else ""

    def start_tls(self) -> None:
        """Encrypt from here on. As Twisted's ``startTLS``, without its layer that delays small writes by a timer."""
        transport = self.transport
        transport.unregisterProducer()
        certificates: Any = _Certificates(self.server)
        wrapped: Any = None
        factory = TLSMemoryBIOFactory(certificates, False, wrapped, clock=self.server.reactor)
        layer: Any = TLSMemoryBIOProtocol(factory, self, False)  # type: ignore[no-untyped-call]
        transport.protocol = layer
        self._layer = layer
        self.handshake_since = time.monotonic()
        transport.getHandle = layer.getHandle
        directlyProvides(transport, ISSLTransport)
        transport.TLS = True
        self._plain = False
        layer.makeConnection(_bypass(FileDescriptor, transport))
        transport.registerProducer(self, True)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _open(self, client_ip: str, rest: bytes) -> None:
        """The client is known: begin."""
        self._start = b""
        if not self.server.admit(client_ip, self.listener):
            self.abort()
            return
        self._admitted = client_ip
        implicit_tls = self.listener == "ldaps"
        self.connection = Connection(self.server.desk, self, client_ip, encrypted=implicit_tls, listener=self.listener)
        self.dataReceived = self.connection.received
        if implicit_tls:
            self.start_tls()
            if rest:
                self.transport.protocol.dataReceived(rest)
            return
        self.transport.registerProducer(self, True)
        if rest:
            self.connection.received(rest)


@implementer(IOpenSSLServerConnectionCreator)
class _Certificates:
    """Chooses the certificate of a handshake by the client's server name."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def serverConnectionForTLS(self, layer: Any) -> SSL.Connection:
        """A TLS connection on memory buffers."""
        return SSL.Connection(self._server.context(None), None)
