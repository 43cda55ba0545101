"""The login path's HTTP port over real sockets: bytes as given, nothing added, nothing kept, every fault named."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from common import tls
from common.api import CoreApi
from common.endpoint import executor_target
from common.errors import CoreError, CoreNonsense, CoreTimedOut, CoreUnavailable
from common.lean_transport import LeanTransport, transport_for
from common.link import Link, Timing
from common.login import LoginService, Passed
from common.transport import MAX_ANSWER_BYTES, AiohttpTransport, Response, Transport
from tests.common.core_server import Address, Reply, raw_server, served
from tests.common.scripted_core import ALICE, BOTH, ME, PASSING, REDIRECT, TARGET, session

HEADERS = [("X-authentik-outpost-token", "outpost-token"), ("Cookie", "authentik_session=s3cret")]


Kind = Callable[..., Transport]


@pytest.fixture(params=[AiohttpTransport, LeanTransport], ids=["aiohttp", "lean"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each of the two clients."""
    made: Kind = request.param
    return made


class Recorder:
    """A server that answers the same to everything and remembers what it was asked."""

    def __init__(self, answer: Callable[[web.Request], web.StreamResponse] | None = None) -> None:
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.answer = answer or (lambda request: web.json_response({"ok": True}))

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        return self.answer(request)


async def get(transport: Transport, target: str = "/api/v3/x/", timeout_s: float = 5.0) -> Response:
    """One GET."""
    return await transport.request("GET", target, headers=HEADERS, timeout_s=timeout_s)


@pytest.mark.parametrize(
    "target",
    [
        executor_target("f", "radius"),
        executor_target("f", "ldap", warm_up=True),
        "/api/v3/x/?a=%2f&b=%2F&c=~-_.&d=+%20&e=%E2%82%AC&f=a/b:c@d!$'()*,;",
        "/api/v3/%7Ex/",
    ],
)
async def test_c32_target_is_sent_byte_for_byte(kind: Kind, target: str) -> None:
    """C32: no library re-quotes it."""
    core = Recorder()
    async with served(core) as url:
        transport = kind(Address(url))
        await get(transport, target)
        below = kind(Address(url + "/auth"))
        await get(below, target)
        assert [request.raw_path for request in core.requests] == [target, "/auth" + target]
        await transport.close()
        await below.close()


async def test_what_is_sent_and_what_is_not(kind: Kind, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """C33: our headers and a user agent; no ``Authorization``, not even one out of a ``.netrc`` file."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password something\n")
    monkeypatch.setenv("NETRC", str(netrc))
    core = Recorder()
    async with served(core) as url:
        transport = kind(Address(url))
        await transport.request(
            "POST", "/api/v3/x/", headers=[*HEADERS, ("Content-Type", "application/json")], body=b'{"a":1}', timeout_s=5
        )
        headers = core.requests[0].headers
        assert "Authorization" not in headers
        assert headers["User-Agent"].startswith("goauthentik.io/outpost/")
        assert headers["Accept"] == "application/json"
        assert headers.getall("Cookie") == ["authentik_session=s3cret"]
        assert headers["X-authentik-outpost-token"] == "outpost-token"
        assert core.bodies == [b'{"a":1}']
        await transport.close()


async def test_c60_nothing_is_kept_between_calls(kind: Kind) -> None:
    """C60: a cookie that the core sets for one call is not sent with another; all ``Set-Cookie`` lines arrive."""

    def answer(request: web.Request) -> web.StreamResponse:
        response = web.json_response({})
        response.headers.add("Set-Cookie", "authentik_session=neighbour; Path=/")
        response.headers.add("Set-Cookie", "authentik_csrf=c; Path=/")
        return response

    core = Recorder(answer)
    async with served(core) as url:
        # by name: a common cookie jar keeps nothing for bare addresses, so those would show nothing
        transport = kind(Address(url.replace("127.0.0.1", "localhost")))
        first = await transport.request("GET", "/a/", headers=[("X-One", "1")], timeout_s=5)
        await transport.request("GET", "/a/", headers=[], timeout_s=5)
        assert first.headers.getall("set-cookie") == ["authentik_session=neighbour; Path=/", "authentik_csrf=c; Path=/"]
        assert "Cookie" not in core.requests[1].headers
        assert "X-One" not in core.requests[1].headers
        await transport.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_answers(kind: Kind, status: int) -> None:
    """They are not followed."""
    core = Recorder(lambda request: web.Response(status=status, headers={"Location": "/elsewhere/"}))
    async with served(core) as url:
        transport = kind(Address(url))
        response = await get(transport)
        assert (response.status, response.headers["location"]) == (status, "/elsewhere/")
        assert len(core.requests) == 1
        await transport.close()


async def test_connections_are_reused(kind: Kind) -> None:
    """Ten calls, one connection."""
    peers: set[object] = set()

    def answer(request: web.Request) -> web.StreamResponse:
        peers.add(request.transport.get_extra_info("peername") if request.transport else None)
        return web.json_response({})

    async with served(Recorder(answer)) as url:
        transport = kind(Address(url))
        for _ in range(10):
            await get(transport)
        assert len(peers) == 1
        await transport.close()
        await get(transport)  # a closed transport opens again
        assert len(peers) == 2
        await transport.close()


async def test_forty_calls_at_once(kind: Kind) -> None:
    """The pool has room for at least 32."""
    inside = 0
    all_inside = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal inside
        inside += 1
        if inside == 40:
            all_inside.set()
        await asyncio.wait_for(all_inside.wait(), 10)
        return web.json_response({})

    async with served(answer) as url:
        transport = kind(Address(url))
        responses = await asyncio.gather(*(get(transport, timeout_s=20) for _ in range(40)))
        assert {response.status for response in responses} == {200}
        await transport.close()


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


def saying(data: bytes) -> Reply:
    """Read a request, say something, close."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        writer.close()

    return reply


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A body that never ends, byte by byte."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.005)


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()


ENDLESS = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_ANSWER_BYTES + 100_000)
FAULTS = [
    ("hangs", hang, CoreTimedOut),
    ("drips", drip, CoreTimedOut),
    ("closes", saying(b""), CoreUnavailable),
    ("resets", reset, CoreUnavailable),
    ("stops in the headers", saying(b"HTTP/1.1 200 OK\r\nContent-"), CoreUnavailable),
    ("stops in the body", saying(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), CoreUnavailable),
    ("rubbish", saying(b"\x00\x01\x02 rubbish\r\n\r\n"), CoreNonsense),
    ("too long", saying(ENDLESS), CoreNonsense),
]


@pytest.mark.parametrize(("name", "reply", "expected"), FAULTS, ids=[row[0] for row in FAULTS])
async def test_faults(
    kind: Kind,
    name: str,
    reply: Reply,
    expected: type[CoreError],
) -> None:
    """Each becomes its error, in time, without a secret in its text; a login over it is unavailable."""
    async with raw_server(reply) as port:
        address = Address(f"http://127.0.0.1:{port}")
        transport = kind(address)
        with pytest.raises(expected) as caught:
            await get(transport, "/api/v3/x/?q=s3cret", timeout_s=0.3)
        assert type(caught.value) is expected
        assert "s3cret" not in str(caught.value)
        assert "outpost-token" not in str(caught.value)
        assert caught.value.__cause__ is None
        outcome = await LoginService(transport, address, budget_s=0.5).login(TARGET, ALICE)
        assert not isinstance(outcome, Passed)
        assert type(outcome).__name__ == "Unavailable"
        await transport.close()


async def test_nobody_listens(kind: Kind) -> None:
    """Refused at once."""
    async with served(Recorder()) as url:
        pass
    transport = kind(Address(url))
    with pytest.raises(CoreUnavailable):
        await get(transport)
    await transport.close()


async def test_unix_socket(kind: Kind, tmp_path: Path) -> None:
    """A core behind a unix socket: host ``localhost``; the REST client and the login path."""
    core = Recorder()

    async def handle(request: web.Request) -> web.StreamResponse:
        return await core(request)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    path = str(tmp_path / "core.sock")
    await web.UnixSite(runner, path).start()
    settings = Address("http://localhost", host_socket=path)
    transport = kind(settings)
    api = CoreApi(settings)
    assert (await get(transport)).status == 200
    await api.root_config()
    assert [request.headers["Host"] for request in core.requests] == ["localhost", "localhost"]
    await transport.close()
    await api.close()
    await runner.cleanup()


@pytest.fixture
def own_tls(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """A server context with a self-signed certificate, and that certificate's file."""
    pair = tls.self_signed(datetime.datetime.now(datetime.UTC), names=("localhost",))
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_text(pair.certificate_pem)
    key.write_text(pair.private_key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate


async def test_c06_self_signed_core(kind: Kind, own_tls: tuple[ssl.SSLContext, Path]) -> None:
    """C06: ``AUTHENTIK_INSECURE`` connects login path, REST client and WebSocket; without it none of them does."""
    connected = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if "/ws/" in request.path:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for _ in socket:
                await socket.send_str('{"instruction": 0, "args": {}}')
            return socket
        return web.json_response({})

    async with served(answer, tls=own_tls[0]) as url:
        strict = Address(url.replace("127.0.0.1", "localhost"))
        lax = replace(strict, insecure=True)
        tried = asyncio.Event()

        def delay(attempt: int, gone_s: float) -> float:
            if attempt >= 2:
                tried.set()
            return 0.01

        for settings, works in ((strict, False), (lax, True)):
            transport, api = kind(settings), CoreApi(settings)
            link = Link(
                settings,
                "pk",
                "id",
                on_update=lambda: None,
                on_session_end=lambda session_id: None,
                on_connection=lambda up, absence_s: connected.set(),
                timing=Timing(goodbye_s=0.05, delay=delay),
            )
            running = asyncio.create_task(link.run())
            if works:
                assert (await get(transport)).status == 200
                await api.root_config()
                await asyncio.wait_for(connected.wait(), 5)
            else:
                with pytest.raises(CoreUnavailable):
                    await get(transport)
                with pytest.raises(CoreUnavailable, match="certificate is not trusted: self-signed"):
                    await api.root_config()
                await asyncio.wait_for(tried.wait(), 5)
                assert not connected.is_set()
            await link.close()
            await running
            await transport.close()
            await api.close()


async def test_ssl_cert_file(kind: Kind, own_tls: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A private root named by ``SSL_CERT_FILE`` is trusted, for the name in its certificate."""
    monkeypatch.setenv("SSL_CERT_FILE", str(own_tls[1]))
    async with served(Recorder(), tls=own_tls[0]) as url:
        settings = Address(url.replace("127.0.0.1", "localhost"))
        transport, api = kind(settings), CoreApi(settings)
        assert (await get(transport)).status == 200
        await api.root_config()
        other_name = kind(Address(url))
        with pytest.raises(CoreUnavailable):
            await get(other_name)
        for closing in (transport, api, other_name):
            await closing.close()


async def test_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """``HTTP_PROXY`` is used for login path and REST client, ``NO_PROXY`` excepts."""
    proxy = Recorder()
    async with served(proxy) as url:
        monkeypatch.setenv("http_proxy", url)
        settings = Address("http://core.invalid:9000/auth")
        transport, api = transport_for(settings), CoreApi(settings)
        assert isinstance(transport, AiohttpTransport)
        await get(transport, executor_target("f", "ldap"))
        await api.root_config()
        assert [str(request.url.host) for request in proxy.requests] == ["core.invalid"] * 2
        assert "Authorization" not in proxy.requests[0].headers
        assert proxy.requests[0].raw_path.endswith("/auth" + executor_target("f", "ldap"))
        monkeypatch.setenv("no_proxy", "core.invalid")
        direct = transport_for(settings)
        assert isinstance(direct, LeanTransport)
        with pytest.raises(CoreUnavailable):
            await get(direct)
        assert len(proxy.requests) == 2
        for closing in (transport, api, direct):
            await closing.close()


async def test_whole_login_over_http(kind: Kind) -> None:
    """Everything together: real client, real server, redirect, cookies, checks."""

    def answer(request: web.Request) -> web.StreamResponse:
        cookie = request.headers.get("Cookie", "")
        if "check_access" in request.path:
            return web.json_response(PASSING)
        if "users/me" in request.path:
            return web.json_response(ME)
        if request.method == "POST":
            return web.Response(status=302, headers={"Location": request.raw_path})
        if cookie:
            return web.json_response(REDIRECT, headers={"Set-Cookie": session("s1")})
        return web.json_response(BOTH, headers={"Set-Cookie": session("s0", False)})

    core = Recorder(answer)
    async with served(core) as url:
        address = Address(url)
        transport = kind(address)
        outcome = await LoginService(transport, address).login(TARGET, ALICE)
        assert isinstance(outcome, Passed)
        assert [request.method for request in core.requests] == ["GET", "POST", "GET", "GET", "GET"]
        await transport.close()
