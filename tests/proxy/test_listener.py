"""Listeners: PROXY headers of trusted peers, certificates by name, and the way from http to https."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ssl
import struct
import warnings
from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from common import listen
from common.setting_values import ListenAddress
from common.tls import CertificatePair, self_signed
from outposts.proxy.listener import Listener, ServerTls, https_location
from outposts.proxy.providers import Providers, resolve_all
from outposts.proxy.wire import AuthRequest, Connection
from tests.proxy.site import DEFAULTS, PROXIES, STRANGER, TRUSTED, D, S, X, provider, record

LOOPBACK = (ip_network("127.0.0.0/8"),)


class Shows(asyncio.Protocol):
    """Says who connected; then sends back what it gets."""

    def __init__(self, peer: str, port: int, secure: bool) -> None:
        self._first = f"{peer} {port} {secure}\n".encode()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.write(self._first)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


@contextlib.asynccontextmanager
async def listening(tls: ssl.SSLContext | None = None, proxies: Any = LOOPBACK) -> AsyncIterator[int]:
    """A listener; its port."""
    bound = listen.bind(ListenAddress("127.0.0.1", 0))
    port = listen.name_of(bound[0])[1]
    listener = Listener(bound, Shows, proxies=proxies, tls=tls)
    listener.start()
    try:
        yield port
    finally:
        await listener.close()


V1 = b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\r\n"
V2 = (
    b"\r\n\r\n\x00\r\nQUIT\n"
    + struct.pack("!BBH", 0x21, 0x11, 12)
    + bytes([203, 0, 113, 9, 10, 0, 0, 1, 18, 103, 1, 187])
)
V6 = b"PROXY TCP6 2001:db8::9 2001:db8::1 4711 443\r\n"


@pytest.mark.parametrize("header", [V1, V2, V6], ids=["v1", "v2", "v1 of IPv6"])
@pytest.mark.parametrize("step", [1, 7, 13, 1000])
async def test_a_proxy_header_says_who_the_client_is(header: bytes, step: int) -> None:
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        data = header + b"GET / HTTP/1.1\r\n"
        for at in range(0, len(data), step):
            writer.write(data[at : at + step])
            await writer.drain()
            await asyncio.sleep(0)
        address = b"2001:db8::9" if header is V6 else b"203.0.113.9"
        assert await reader.readline() == address + b" 4711 False\n"
        assert await reader.readline() == b"GET / HTTP/1.1\r\n"
        writer.close()


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n", b"P", b"PROPFIND / HTTP/1.1\r\n"])
async def test_what_is_no_proxy_header_stays_where_it_is(first: bytes) -> None:
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first)
        await writer.drain()
        writer.write(b"UT / HTTP/1.1\r\n" if first == b"P" else b"x\n")
        assert (await reader.readline()).startswith(b"127.0.0.1 ")
        assert await reader.readline() == (b"PUT / HTTP/1.1\r\n" if first == b"P" else first)
        writer.close()


async def test_a_proxy_header_of_a_stranger_is_read_as_http() -> None:
    async with listening(proxies=PROXIES) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(V1)
        assert (await reader.readline()).startswith(b"127.0.0.1 ")
        assert await reader.readline() == V1
        writer.close()


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", b"\r\n\r\n\x00\r\nQUIT\n" + struct.pack("!BBH", 0x20, 0, 0)])
async def test_a_header_without_address_leaves_the_peers(header: bytes) -> None:
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(header + b"x\n")
        assert (await reader.readline()).startswith(b"127.0.0.1 ")
        assert await reader.readline() == b"x\n"
        writer.close()


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 nonsense 10.0.0.1 1 2\r\n",
        b"PROXY " + b"x" * 200,
        V2[:12] + struct.pack("!BBH", 0x31, 0x11, 12),
        V2[:12] + struct.pack("!BBH", 0x21, 0x11, 65_000),
    ],
)
async def test_a_damaged_header_ends_the_connection(header: bytes) -> None:
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(header)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()


async def test_a_proxy_header_comes_before_tls() -> None:
    async with listening(ServerTls().context) as port:
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(V1)
        await writer.drain()
        await writer.start_tls(unchecked())
        assert await reader.readline() == b"203.0.113.9 4711 True\n"
        writer.close()
        assert loop.is_running()


# -- certificates ------------------------------------------------------------------------------------------------------


def pair(*names: str) -> CertificatePair:
    """A certificate for these names."""
    return self_signed(datetime.datetime.now(datetime.UTC), names)


def unchecked() -> ssl.SSLContext:
    """A client that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def shown(port: int, name: str | None) -> list[str]:
    """The DNS names of the certificate that a client gets."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=unchecked(), server_hostname=name or "")
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    found = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return found.value.get_values_for_type(x509.DNSName)


def served(**certificates: CertificatePair) -> Providers:
    """Providers S, D, X and one with a port, with these certificates by name."""
    other = record(9, "Y", "cid-y", "https://port.example.net:8443", mode="forward_single")
    found = resolve_all((S, D, X, other), lambda one: certificates.get(one.name), lambda _: DEFAULTS)
    assert found[1] == []
    return found[0]


async def test_w50_certificates_by_name_and_renewal_without_restart() -> None:
    tls = ServerTls()
    async with listening(tls.context, proxies=()) as port:
        assert await shown(port, "app.example.com") == ["localhost"]  # self-signed: nothing else is there
        certificates = {"S": pair("app.example.com"), "D": pair("auth.example.com", "*.example.com"), "Y": pair("y")}
        assert tls.renew(served(**certificates)) == []
        assert await shown(port, "app.example.com") == ["app.example.com"]
        assert await shown(port, "APP.example.com") == ["app.example.com"]
        assert await shown(port, "auth.example.com") == ["auth.example.com", "*.example.com"]
        assert await shown(port, "other.example.com") == ["auth.example.com", "*.example.com"]
        assert await shown(port, "port.example.net") == ["y"]  # the port is not part of the name
        assert await shown(port, "a.b.example.com") == await shown(port, None) == ["app.example.com"]
        before = dict(tls._made)
        certificates["S"] = pair("app.example.com", "new")
        tls.renew(served(**certificates))
        assert await shown(port, "app.example.com") == ["app.example.com", "new"]
        assert sum(context in before.values() for context in tls._made.values()) == 2  # two are the same as before
        tls.renew(served())
        assert await shown(port, "app.example.com") == ["localhost"]


async def test_a_pair_that_does_not_belong_together_is_left_out() -> None:
    good, other = pair("good"), pair("other")
    broken = CertificatePair("1", "f", good.certificate_pem, other.private_key_pem)
    tls = ServerTls()
    wrong = tls.renew(served(S=broken, D=good))
    assert len(wrong) == 1 and "'S'" in wrong[0] and "PRIVATE" not in wrong[0]
    async with listening(tls.context, proxies=()) as port:
        assert await shown(port, "auth.example.com") == ["good"]
        assert await shown(port, "app.example.com") == ["good"]


async def test_old_versions_of_tls_are_refused() -> None:
    old = unchecked()
    with warnings.catch_warnings(action="ignore"):  # that these versions are old
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    async with listening(ServerTls().context, proxies=()) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", port, ssl=old, server_hostname="x")


# -- http to https -----------------------------------------------------------------------------------------------------


def asked(target: str = "/a?b=1", via: Connection = STRANGER, **headers: str) -> AuthRequest:
    """A request over plain http."""
    return AuthRequest("GET", target, {"host": "proxy.example.com", **headers}, via)


REDIRECTED = provider(X, https_redirect=True, hosts=("www.example.com", "odd.example.com:8080"))


@pytest.mark.parametrize(
    ("request_", "location"),
    [
        (asked(), "https://proxy.example.com/a?b=1"),
        (asked(host="www.example.com"), "https://www.example.com/a?b=1"),
        (asked(host="odd.example.com:8080"), "https://proxy.example.com/a?b=1"),
        (asked(host="evil.org"), "https://proxy.example.com/a?b=1"),
        (asked("//evil.org/"), "https://proxy.example.com//evil.org/"),
        (asked("/\u00e4"), "https://proxy.example.com/"),
        (asked(via=STRANGER, **{"x-forwarded-proto": "https"}), "https://proxy.example.com/a?b=1"),
        (asked(via=TRUSTED, **{"x-forwarded-proto": "https"}), None),
        (asked(via=TRUSTED, **{"x-forwarded-proto": "http"}), "https://proxy.example.com/a?b=1"),
        (asked(via=TRUSTED), "https://proxy.example.com/a?b=1"),
        (asked(via=Connection("203.0.113.9", secure=True)), None),
    ],
)
def test_the_way_from_http_to_https(request_: AuthRequest, location: str | None) -> None:
    assert https_location(request_, REDIRECTED) == location


def test_no_way_without_the_switch_or_for_http_sites() -> None:
    assert https_location(asked(), provider(X)) is None
    plain = record(8, "P", "cid", "http://proxy.example.com", mode="proxy", internal_host="http://up")
    assert https_location(asked(), provider(plain, https_redirect=True)) is None


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_location_is_one_line_at_one_of_the_providers_hosts(target: str, host: str) -> None:
    location = https_location(AuthRequest("GET", target, {"host": host}, STRANGER), REDIRECTED)
    assert location is not None and location.isascii() and location.isprintable() and " " not in location
    assert location.startswith(("https://proxy.example.com/", "https://www.example.com/"))
