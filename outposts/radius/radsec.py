"""RadSec (RFC 6614): RADIUS over TLS, fed into the same desk as UDP.

::

    socket → TlsWire → Connection ─ Stream ─┬ requests → (RADIUS/1.1 → 1.0) → Desk.received ⇄ core
                       who? which provider? └ answers to what we have sent (Disconnect-Request)
    socket ← TlsWire ← Connection ← replies, in whatever order they are ready

The client is who its certificate says, never its address. TLS has proved that nobody has changed a packet, so what is
broken comes from a broken client: its connection is closed (RFC 6613 §2.6.4). A closed connection takes nothing back
that is being decided. Nothing is sent twice on one connection.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from common import logs, metrics
from common.errors import StartError
from common.listen import bind, name_of
from common.setting_values import ListenAddress
from common.tls import CertificatePair
from outposts.radius import das, radius11
from outposts.radius.providers import Providers, RadiusProvider
from outposts.radius.radsec_clients import Clients
from outposts.radius.radsec_connection import Connection, Line
from outposts.radius.radsec_tls import NO_PSK, Contexts, TlsWire, Upper, Wire, psk_context, psk_offered, read_keys
from outposts.radius.rfc import RADSEC_SECRET, Code
from outposts.radius.wire import Attributes

log = logs.get_logger("radius.radsec")

LISTENER, PSK_LISTENER = "radsec", "radsec_psk"
SWEEP_S = 1.0  # seconds between looks at silent and stuck connections; their limits are tens of seconds
HANDSHAKES_AT_ONCE = 2  # in threads: strangers can ask for as many as they like, and logins need processors too
ANSWER_TIMEOUT_S = 30.0  # for requests of ours on a connection: as long as five tries over UDP take together


@dataclass(frozen=True)
class Limits:
    """What one process accepts. Times in seconds; defaults and reasons stand in ``common/setting_rows_radius.py``."""

    max_connections: int = 1000
    max_connections_per_address: int = 64
    max_outstanding: int = 256
    handshake_timeout: float = 10.0
    idle_timeout: float = 300.0


class DeskPort(Protocol):
    """What requests are given to (``desk.Desk``)."""

    def received(
        self,
        datagram: bytes,
        client_ip: str,
        client_port: int,
        line: Line,
        where: object,
        *,
        transport: str,
        provider: RadiusProvider | None,
    ) -> str:
        """A request; returns the reason of a drop, else empty."""


class Server:
    """All RadSec listeners and connections of the process.

    ``pairs`` answers the certificates that may be shown, ``clock`` is monotonic, ``random`` gives random octets.
    """

    def __init__(
        self,
        desk: DeskPort,
        pairs: Callable[[], Sequence[tuple[str, CertificatePair]]],
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.desk = desk
        self.clock = clock
        self.random = random
        self.limits = Limits()
        self.clients = Clients()
        self.connections: set[Connection] = set()
        self.draining = False
        self._contexts = Contexts(pairs, self._issuers_changed)
        self._psk_file = ""
        self._providers: dict[int, tuple[RadiusProvider, RadiusProvider]] = {}
        self._in_service = Providers()
        self._per_address: dict[str, int] = {}
        self._servers: list[asyncio.Server] = []
        self._acceptors: list[tuple[socket.socket, asyncio.Task[None]]] = []
        self._handshakes: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._gone: asyncio.Event | None = None
        # Threads are made when first needed; more at once would only wait for one another.
        self._threads = ThreadPoolExecutor(HANDSHAKES_AT_ONCE, thread_name_prefix="radsec")

    # -- what is served ----------------------------------------------------------------------------------------------

    def configure(
        self,
        providers: Providers,
        names_of: Callable[[RadiusProvider], Sequence[str]],
        limits: Limits,
        *,
        ca_path: str = "",
        psk_file: str = "",
        versions: Sequence[str] = ("1.0", "1.1"),
    ) -> None:
        """Serve this from now on. Connections of clients that have another provider now, or none, are closed."""
        self.limits = limits
        self._psk_file = psk_file
        self._in_service = providers
        self.clients = Clients((provider.pk, names_of(provider)) for provider in providers)
        for name in self.clients.twice:
            log.error("RadSec client named for two providers, the first one counts", name=name)
        known = {"1.1": radius11.ALPN_11, "1.0": radius11.ALPN_10}
        self._contexts.configure(ca_path, [alpn for version, alpn in known.items() if version in versions])
        for connection in list(self.connections):
            if connection.who is not None and connection.provider is not None:
                newer = self.provider(self.clients.provider_of(connection.who))
                if newer is None or newer.pk != connection.provider.pk:
                    connection.close("provider_gone")
                else:
                    connection.provider = newer

    def provider(self, pk: int | None) -> RadiusProvider | None:
        """A provider as it serves RadSec: with the secret of RFC 6614, and TLS instead of signatures.

        The same object as long as the provider is the same, because copies of packets are known by it.
        """
        original = self._in_service.by_pk.get(pk) if pk is not None else None
        if original is None or pk is None:
            return None
        known = self._providers.get(pk)
        if known is None or known[0] is not original:
            below_tls = replace(original, secret=RADSEC_SECRET, require_message_authenticator="no")
            known = self._providers[pk] = (original, below_tls)
        return known[1]

    def _issuers_changed(self) -> None:
        """Whoever is connected has shown a certificate to the issuers of before: have them come again."""
        asyncio.get_running_loop().call_soon(self._close_all, "issuers_changed")

    def _close_all(self, reason: str) -> None:
        for connection in list(self.connections):
            if connection.who is not None:
                connection.close(reason)

    # -- listeners ---------------------------------------------------------------------------------------------------

    async def listen(self, address: ListenAddress, *, shared: bool = False) -> list[tuple[str, str, int]]:
        """Listen for clients with certificates. (listener, host, port) really bound; raises ``StartError``."""
        loop = asyncio.get_running_loop()
        bound = []
        for opened in bind(address, shared=shared):
            bound.append((LISTENER, *name_of(opened)))
            self._servers.append(
                await loop.create_server(
                    lambda: TlsWire(
                        self._admit_certificate, self._contexts, self.limits.handshake_timeout, self._threads
                    ),
                    sock=opened,
                )
            )
        self._start_sweeping()
        return bound

    async def listen_psk(self, address: ListenAddress, *, shared: bool = False) -> list[tuple[str, str, int]]:
        """The same for clients with pre-shared keys. Raises ``StartError``, also where Python cannot do that."""
        if not psk_offered():
            raise StartError(NO_PSK)
        try:
            self._keys()
        except (OSError, ValueError) as error:
            raise StartError(f"OUTPOSTS_RADSEC__PSK_FILE: {error}") from None
        bound = []
        for opened in bind(address, shared=shared):
            bound.append((PSK_LISTENER, *name_of(opened)))
            self._acceptors.append((opened, asyncio.get_running_loop().create_task(self._accept_psk(opened))))
        self._start_sweeping()
        return bound

    def _keys(self) -> dict[str, bytes]:
        if not self._psk_file:
            raise ValueError("not set")
        return read_keys(Path(self._psk_file).read_text(encoding="utf-8"))

    def _keys_now(self) -> dict[str, bytes]:
        """The keys of the moment; none if they cannot be read."""
        try:
            return self._keys()
        except (OSError, ValueError) as error:
            log.error("keys of RadSec clients not readable", path=self._psk_file, kind=type(error).__name__)
            return {}

    async def _accept_psk(self, opened: socket.socket) -> None:
        """Each connection has a context of its own, which tells whose key it was."""
        loop = asyncio.get_running_loop()
        while True:
            accepted, peer = await loop.sock_accept(opened)
            task = loop.create_task(self._shake_hands(accepted, str(peer[0])))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, accepted: socket.socket, address: str) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Wire(self._admit_key),
                accepted,
                ssl=psk_context(self._keys_now, self._contexts.versions),
                ssl_handshake_timeout=self.limits.handshake_timeout,
            )
        except (OSError, TimeoutError) as error:
            accepted.close()
            metrics.radsec_closed.labels("handshake").inc()
            if self.due("handshake", address):
                log.info("RadSec handshake with a key failed", kind=type(error).__name__, address=address)

    def _admit_certificate(self, wire: Wire, address: str) -> Upper | None:
        return self._admit(wire, address, LISTENER)

    def _admit_key(self, wire: Wire, address: str) -> Upper | None:
        return self._admit(wire, address, PSK_LISTENER)

    def _admit(self, wire: Wire, host: str, listener: str) -> Upper | None:
        address = bare(host)
        why = ""
        if self.draining:
            why = "total"
        elif self._per_address.get(address, 0) >= self.limits.max_connections_per_address:
            why = "per_address"  # before anybody else has to go for it
        elif len(self.connections) >= self.limits.max_connections and not self._make_room():
            why = "total"
        if why:
            metrics.connections_refused.labels(listener, why).inc()
            return None
        connection = Connection(self, wire, address, listener, self.clock())
        self._per_address[address] = self._per_address.get(address, 0) + 1
        self.connections.add(connection)
        metrics.connections.labels(listener).inc()
        return connection

    def _make_room(self) -> bool:
        """Cut the connection that has been without a handshake for longest: strangers must not keep clients out."""
        unknown = [one for one in self.connections if one.who is None and not one.closing]
        if not unknown:
            return False
        oldest = min(unknown, key=lambda one: one.since)
        oldest.closing = True
        oldest.wire.cut("room")
        return True

    def due(self, reason: str, address: str) -> bool:
        """Whether a line about a stranger may be written."""
        return self._contexts.notes.due(reason, address, self.clock())

    def forget(self, connection: Connection, reason: str) -> None:
        """A connection is over."""
        self.connections.discard(connection)
        metrics.connections.labels(connection.listener).dec()
        metrics.radsec_closed.labels(reason).inc()
        left = self._per_address[connection.address] - 1
        if left:
            self._per_address[connection.address] = left
        else:
            del self._per_address[connection.address]
        if self._gone is not None and not self.connections:
            self._gone.set()

    # -- requests of ours --------------------------------------------------------------------------------------------

    async def ask(
        self, provider_pk: int, peer: tuple[str, int], code: Code, attributes: Attributes, unix_time: float
    ) -> das.Result | None:
        """Send a request to the client that a login came from: on its connection, else on another one of that client.

        None: it has none any more.
        """
        for connection in self._towards(provider_pk, peer):
            result = await connection.ask(code, attributes, unix_time, ANSWER_TIMEOUT_S)
            if result is not None:
                return result
        return None

    def _towards(self, provider_pk: int, peer: tuple[str, int]) -> Iterable[Connection]:
        fitting = [
            connection
            for connection in self.connections
            if not connection.closing
            and connection.provider is not None
            and connection.provider.pk == provider_pk
            and connection.address == peer[0]
        ]
        return sorted(fitting, key=lambda connection: (connection.port != peer[1], connection.since))

    # -- the end -----------------------------------------------------------------------------------------------------

    def _start_sweeping(self) -> None:
        if self._sweeper is None:
            self._sweep()

    def _sweep(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
        now = self.clock()
        for connection in list(self.connections):
            connection.sweep(now)

    def stop_listening(self) -> None:
        """Accept no more."""
        self.draining = True
        for server in self._servers:
            server.close()
        self._servers.clear()
        for opened, task in self._acceptors:
            task.cancel()
            opened.close()
        self._acceptors.clear()

    def say_goodbye(self) -> None:
        """Close all connections when what they have to write is written; after the desk has drained."""
        self.stop_listening()
        for connection in list(self.connections):
            connection.close("stopping")

    async def close(self, timeout_s: float = 1.0) -> None:
        """Say goodbye, then cut everybody off."""
        self.say_goodbye()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for task in list(self._handshakes):
            task.cancel()
        if self.connections:
            self._gone = asyncio.Event()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), timeout_s)
            for connection in list(self.connections):
                connection.wire.cut("stopping")
            if self.connections:
                await self._gone.wait()
        self._threads.shutdown(wait=False, cancel_futures=True)


def bare(host: str) -> str:
    """An address without scope, IPv4 unmapped."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
