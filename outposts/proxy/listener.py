"""Listening for HTTP and HTTPS: who the client is (PROXY protocol), which certificate it gets (SNI), and when it has to
come over https.

A connection becomes a protocol of whoever serves: ``factory(peer, port, secure)`` is called when the client's address
is known. Peers that are trusted proxies may begin with a PROXY header, and those alone; everybody else's first octets
are HTTP or TLS. The header is taken from the socket to the octet, so what follows may be either.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from common import logs, proxyproto
from common.errors import OutpostError
from common.setting_values import Network
from common.tls import CIPHERS, CertificatePair, choose, self_signed
from outposts.proxy.providers import ProxyProvider
from outposts.proxy.upstream_pool import load_pair
from outposts.proxy.urls import COMMON_PORTS
from outposts.proxy.wire import AuthRequest

PEEK = proxyproto.V2_FIXED + proxyproto.V2_MAX
SIGNATURE = len(proxyproto.V2_SIGNATURE)
# Seconds for a PROXY header, which comes with the connection. Browsers open connections that they may use later, and a
# trusted proxy may do so too: a connection that sends nothing is kept as long as one between two requests.
HEADER_S = 5.0
SILENT_S = 60.0
POLL_S = 0.02  # between looks at a socket whose first octets may be the beginning of either
HANDSHAKE_S = 10.0  # TLS handshakes take three round trips at most
ACCEPTS = 64  # connections that are accepted in one go

Factory = Callable[[str, int, bool], asyncio.Protocol]

log = logs.get_logger("listeners")


class ServerTls:
    """Which certificate a client gets. ``context`` is for the listener and stays; ``renew`` changes what is served.

    By the name that the client asks for: providers' hosts, then names in certificates, with wildcards for one label;
    else the first pair; without any, a self-signed one made at the start.
    """

    def __init__(self) -> None:
        self._pairs: list[tuple[str, CertificatePair]] = []
        self._made: dict[tuple[str, str], ssl.SSLContext] = {}
        self._own = self_signed(datetime.datetime.now(datetime.UTC))
        self.context = server_context(self._own)
        self.context.sni_callback = self._chosen

    def renew(self, providers: Iterable[ProxyProvider]) -> list[str]:
        """Serve the certificates of these providers from the next handshake on; returns what is wrong with any.

        A pair with the fingerprint of before keeps its context. One that cannot be used is left out.
        """
        wrong: list[str] = []
        pairs: list[tuple[str, CertificatePair]] = []
        made: dict[tuple[str, str], ssl.SSLContext] = {}
        for provider in providers:
            pair = provider.certificate
            if pair is None or not pair.servable:
                continue
            key = _key(pair)
            if key not in made:
                try:
                    made[key] = self._made.get(key) or server_context(pair)
                except (OSError, ValueError) as error:
                    wrong.append(f"certificate of provider {provider.name!r} cannot be used: {type(error).__name__}")
                    continue
            pairs += [(name, pair) for name in _names(provider)]
        # one context is enough for all that differ in name only
        self._pairs, self._made = pairs, made
        return wrong

    def pair_for(self, server_name: str | None) -> CertificatePair:
        """The pair that a client with this name gets."""
        return choose(server_name, self._pairs) or self._own

    def _chosen(self, connection: Any, server_name: str | None, _: ssl.SSLContext) -> None:
        """Called within each handshake, with None if the client names nothing."""
        found = self._made.get(_key(self.pair_for(server_name)))
        if found is not None:
            connection.context = found


def _key(pair: CertificatePair) -> tuple[str, str]:
    return (pair.pk, pair.fingerprint or pair.certificate_pem)


def _names(provider: ProxyProvider) -> list[str]:
    """The names of a provider, for ``choose``."""
    places = provider.places
    names = [provider.external.host.name, *sorted(host.name for host in places.hosts)]
    return [*names, f"*.{places.domain}"] if places.domain else names


def server_context(pair: CertificatePair) -> ssl.SSLContext:
    """TLS 1.2 or newer with a certificate. Raises ``OSError`` or ``ValueError`` if it cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
    load_pair(context, pair.certificate_pem.rstrip() + "\n" + pair.private_key_pem)
    return context


class Listener:
    """Accepts on listening sockets (``common.listen.bind``). ``proxies`` are peers whose PROXY header is believed."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        factory: Factory,
        *,
        proxies: Sequence[Network] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._sockets = list(sockets)
        self._factory = factory
        self._proxies = tuple(proxies)
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Accept from now on."""
        self._loop = asyncio.get_running_loop()
        for opened in self._sockets:
            opened.setblocking(False)
            self._loop.add_reader(opened.fileno(), self._accept, opened)

    async def close(self) -> None:
        """Accept nothing more. Connections that are open are their protocols' matter."""
        for opened in self._sockets:
            if self._loop is not None and opened.fileno() >= 0:
                self._loop.remove_reader(opened.fileno())
            opened.close()
        self._sockets.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, opened: socket.socket) -> None:
        assert self._loop is not None
        for _ in range(ACCEPTS):
            try:
                client, where = opened.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of descriptors: the listener would be readable again at once, for ever.
                log.error("cannot accept", problem=error.strerror or type(error).__name__)
                self._loop.remove_reader(opened.fileno())
                self._loop.call_later(1.0, self._again, opened)
                return
            client.setblocking(False)
            task = self._loop.create_task(self._serve(client, where))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _again(self, opened: socket.socket) -> None:
        if self._loop is not None and opened.fileno() >= 0:
            self._loop.add_reader(opened.fileno(), self._accept, opened)

    async def _serve(self, client: socket.socket, where: tuple[Any, ...]) -> None:
        """Make a protocol of a connection, after its PROXY header if there is one."""
        loop = asyncio.get_running_loop()
        peer, port = proxyproto.unmap(str(where[0])), int(where[1])
        try:
            with contextlib.suppress(OSError):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._proxies and proxyproto.trusted(peer, self._proxies):
                header = await _header(client)
                if header is not None and header.address is not None:
                    peer, port = header.address, header.port
            secure = self._tls is not None
            await loop.connect_accepted_socket(
                lambda: self._factory(peer, port, secure),
                client,
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_S if secure else None,
            )
        except (OutpostError, OSError, TimeoutError, asyncio.CancelledError) as error:
            client.close()
            log.debug("connection ended before its first request", problem=type(error).__name__)
            if isinstance(error, asyncio.CancelledError):
                raise
        except Exception:
            client.close()
            log.exception("connection failed unexpectedly")


async def _header(client: socket.socket) -> proxyproto.Header | None:
    """Take a PROXY header off a socket; None if it begins with something else, of which nothing is taken then.

    Raises ``ProxyProtocolError`` for a damaged header, ``TimeoutError``, ``ConnectionError`` if the peer has closed.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + SILENT_S
    waited = False
    while True:
        try:
            data = client.recv(PEEK, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            async with asyncio.timeout_at(until):
                await _readable(client)
            continue
        if not data:
            raise ConnectionResetError("closed before its first octet")
        if not proxyproto.plausible(data):
            return None
        if len(data) >= SIGNATURE or data.startswith(proxyproto.V1_START):
            header = proxyproto.decode(data)
            if header is not None:
                taken = 0
                while taken < header.size:
                    taken += len(client.recv(header.size - taken))
                return header
        if not waited:
            waited, until = True, min(until, loop.time() + HEADER_S)
        if loop.time() > until:
            raise TimeoutError
        await asyncio.sleep(POLL_S)  # readable already, with too little: the loop would not wait


async def _readable(client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(client.fileno(), wake)
    try:
        await ready
    finally:
        loop.remove_reader(client.fileno())


def https_location(request: AuthRequest, provider: ProxyProvider) -> str | None:
    """Where a client that came over plain http has to go instead, or None if it may stay.

    For providers with the switch and an https external host, unless a trusted proxy says that the client came over
    https. The answer is 308, which keeps method and body. To the host that was asked for if it is the provider's.
    """
    if not provider.settings["https_redirect"] or provider.external.scheme != "https":
        return None
    via = request.via
    if via.secure:
        return None
    if via.trusted and request.headers.get("x-forwarded-proto", "").lower() in ("https", "wss"):
        return None
    host = provider.external.host
    asked = next((one for one in provider.places.hosts if str(one) == request.headers.get("host", "").lower()), None)
    if asked is not None and (asked.port is None or asked.port in COMMON_PORTS):
        host = asked._replace(port=None)
    target = request.target
    if not target.startswith("/") or any(not "!" <= character <= "~" for character in target):
        target = "/"
    return f"https://{host}{target}"
