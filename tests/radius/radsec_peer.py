"""A RadSec client for tests, over Python's own ``ssl`` (the server has pyOpenSSL), and certificates for it."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from common.setting_values import ListenAddress
from common.tls import CertificatePair
from outposts.radius.providers import Providers, RadiusProvider
from outposts.radius.radsec import Limits, Server
from outposts.radius.request import RADSEC
from outposts.radius.rfc import RADSEC_SECRET, Code
from outposts.radius.wire import Attributes, Packet, decode, encode_reply
from tests.certificates import Issuer, authority

WAIT_S = 10.0  # what has not come by then will not come


def issue(
    issuer: Issuer, name: str, *, dns: Sequence[str] = (), ip: Sequence[str] = (), uri: Sequence[str] = ()
) -> Issuer:
    """A client certificate with subject alternative names (``Issuer.issue`` has e-mail addresses only)."""
    plain = issuer.issue([name])
    if not (dns or ip or uri):
        return plain
    names: list[x509.GeneralName] = [x509.DNSName(one) for one in dns]
    names += [x509.IPAddress(ipaddress.ip_address(one)) for one in ip]
    names += [x509.UniformResourceIdentifier(one) for one in uri]
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(plain.certificate.subject)
        .issuer_name(issuer.certificate.subject)
        .public_key(plain.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(issuer.key, hashes.SHA256())
    )
    return Issuer(certificate, plain.key)


def revocation_list(issuer: Issuer, *revoked: Issuer) -> str:
    """A revocation list as PEM."""
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(now - datetime.timedelta(hours=1))
        .next_update(now + datetime.timedelta(days=1))
    )
    for one in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(one.certificate.serial_number).revocation_date(now).build()
        )
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


class Office:
    """An authority, a server's certificate, a client's, and the files that name them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = authority("radsec authority")
        self.server = self.root.issue(["radius.example.org"], purposes=())
        self.client = issue(self.root, "ap1", dns=["ap1.example.org"])
        self.ca = folder / "ca.pem"
        self.ca.write_text(self.root.pem)

    def pair(self) -> CertificatePair:
        """What the server shows."""
        return CertificatePair("pk", "", self.server.pem, self.server.key_pem)

    def context(
        self, client: Issuer | None, *, alpn: Sequence[str] = (), version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ) -> ssl.SSLContext:
        """A client's side; None: without a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=self.root.pem)
        context.maximum_version = version
        if client is not None:
            path = self.folder / f"client-{client.certificate.serial_number}.pem"
            path.write_text(client.pem + client.key_pem)
            context.load_cert_chain(path)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context


class Desk:
    """Answers at once, or when the test says so. ``drops`` makes it drop with a reason."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []
        self.providers: list[RadiusProvider] = []
        self.held: list[tuple[Packet, object]] = []
        self.hold = False
        self.drops = ""
        self.attributes: Attributes = ()
        self.code = Code.ACCESS_ACCEPT
        self.came = asyncio.Event()

    def received(
        self,
        datagram: bytes,
        client_ip: str,
        client_port: int,
        line: object,
        where: object,
        *,
        transport: str,
        provider: RadiusProvider | None,
    ) -> str:
        """As ``desk.Desk``."""
        assert transport == RADSEC and provider is not None and provider.secret == RADSEC_SECRET
        if self.drops:
            return self.drops
        packet = decode(datagram)
        self.packets.append(packet)
        self.providers.append(provider)
        self.came.set()
        if self.hold:
            self.held.append((packet, line))
        else:
            self.reply(packet, line)
        return ""

    def silence(self, line: object) -> None:
        """Let a request meet silence."""
        line.silent(None)  # type: ignore[attr-defined]

    def reply(self, packet: Packet, line: object) -> None:
        """Answer a request."""
        line.send(encode_reply(packet, RADSEC_SECRET, self.code, self.attributes), None)  # type: ignore[attr-defined]

    async def until(self, count: int) -> None:
        """So many requests have come."""
        while len(self.packets) < count:
            self.came.clear()
            await asyncio.wait_for(self.came.wait(), WAIT_S)


class Bench:
    """A server with its desk on a free port."""

    def __init__(self, folder: Path) -> None:
        self.office = Office(folder)
        self.desk = Desk()
        self.pairs = [("", self.office.pair())]
        self.now = 1000.0
        self.server = Server(self.desk, lambda: self.pairs, clock=lambda: self.now)
        self.names: dict[str, Sequence[str]] = {"wifi": ("ap1.example.org",)}
        self.providers = Providers([RadiusProvider(7, "wifi", "wifi", "f", b"other", accounting=True)])
        self.port = 0

    def configure(self, limits: Limits | None = None, **more: object) -> None:
        """Put in service."""
        options: dict[str, object] = {"ca_path": str(self.office.ca)} | more
        self.server.configure(
            self.providers,
            lambda provider: self.names.get(provider.name, ()),
            limits or Limits(),
            **options,  # type: ignore[arg-type]
        )

    async def start(self, limits: Limits | None = None, **more: object) -> Bench:
        """Listen."""
        self.configure(limits, **more)
        ((listener, _, self.port),) = await self.server.listen(ListenAddress("127.0.0.1", 0))
        assert listener == "radsec"
        return self

    async def connect(self, client: Issuer | None = None, **more: object) -> Client:
        """A client with the usual certificate, or another one."""
        context = self.office.context(client or self.office.client, **more)  # type: ignore[arg-type]
        return await Client.connect(self.port, context)

    async def close(self) -> None:
        """Stop."""
        await self.server.close()


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, context: ssl.SSLContext) -> Client:
        """Handshake."""
        return cls(*await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port, ssl=context), WAIT_S))

    @property
    def alpn(self) -> str | None:
        """What ALPN has chosen."""
        protocol: str | None = self.writer.get_extra_info("ssl_object").selected_alpn_protocol()
        return protocol

    def send(self, *octets: bytes) -> None:
        """Write."""
        self.writer.write(b"".join(octets))

    async def receive(self) -> bytes:
        """One packet."""
        head = await asyncio.wait_for(self.reader.readexactly(4), WAIT_S)
        return head + await asyncio.wait_for(self.reader.readexactly(int.from_bytes(head[2:], "big") - 4), WAIT_S)

    async def closed(self) -> bool:
        """Wait for the server to close; False if it sends something instead."""
        try:
            return await asyncio.wait_for(self.reader.read(1), WAIT_S) == b""
        except OSError:
            return True  # an alert: the handshake of TLS 1.3 ends for the server after it ends for the client

    async def close(self) -> None:
        """Hang up."""
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass  # the server was faster
