"""TLS on real sockets: client certificates, resumption, versions, handshakes that do not end, certificates' renewal."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.outcomes import CoreSession, Passed
from common.tls import expires_at, self_signed
from outposts.ldap import server as server_module
from outposts.ldap.client_wire import encode_request
from outposts.ldap.messages import BindRequest, ExtendedRequest, Sasl, SearchEntry
from outposts.ldap.providers import Provider, Providers
from outposts.ldap.rfc import Extension
from outposts.ldap.server import Server
from tests.certificates import Issuer, authority
from tests.ldap.binds import ALICE, settings, until
from tests.ldap.desks import LIMITS, Caller, Room, bind_request, calling, search_request, serving

ROOT = authority()
MIDDLE = ROOT.issue(["middle"], authority=True, purposes=())
TAKES = {"client_certificates": True}
VERIFIES = {"client_certificates": True, "client_ca": ROOT.pem}


def client(
    folder: Path, one: Issuer | None = None, *others: Issuer, version: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    """A client that takes any server and shows a certificate, if it has one."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if one is not None:
        file = folder / "client.pem"
        file.write_text(one.key_pem + one.pem + "".join(other.pem for other in others))
        context.load_cert_chain(file)
    return context


def room_for(extra: dict[str, Any]) -> Room:
    """A directory whose provider takes certificates, and a core that grants alice."""
    room = Room()
    room.desk.providers = Providers([Provider(settings(extra=extra))])
    room.login.outcome = Passed(CoreSession({}, "s" * 64, None), 1, "alice", True, None, False)
    room.desk.authenticator._now = time.time
    return room


def external(message_id: int = 1, credentials: bytes | None = b"") -> BindRequest:
    return BindRequest(message_id, 3, b"", Sasl("EXTERNAL", credentials))


async def code(caller: Caller, request: Any) -> int:
    await caller.ask(request)
    answer: Any = await caller.hear()
    return int(answer.code)


async def mechanisms(caller: Caller, message_id: int = 50) -> set[bytes]:
    """What the root DSE offers."""
    await caller.ask(search_request(message_id, "", 0))
    entry = (await caller.hear_all(message_id))[0]
    assert isinstance(entry, SearchEntry)
    return {
        value
        for attribute in entry.attributes
        if attribute.description.lower() == b"supportedsaslmechanisms"
        for value in attribute.values
    }


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("listener", ["ldap", "ldaps"])
async def test_external_by_certificate(listener: str, version: ssl.TLSVersion, tmp_path: Path) -> None:
    """LDAPS and StartTLS; the chain leads to the issuer over a certificate that the client sends."""
    room = room_for(VERIFIES)
    context = client(tmp_path, MIDDLE.issue(), MIDDLE, version=version)
    async with serving(room, listener=listener) as (server, port):
        server.ask_client_certificates(True)
        async with calling(port, **({"ssl": context} if listener == "ldaps" else {})) as caller:
            if listener == "ldap":
                assert await mechanisms(caller) == set()
                assert await code(caller, external()) == 13
                await caller.ask(ExtendedRequest(2, Extension.START_TLS))
                await caller.hear()
                await caller.writer.start_tls(context, server_hostname="localhost")
            assert await mechanisms(caller) == {b"PLAIN", b"EXTERNAL"}
            assert await code(caller, external(3)) == 0
            await caller.ask(ExtendedRequest(4, Extension.WHO_AM_I))
            who: Any = await caller.hear()
            assert who.value == f"dn:{ALICE}".encode()
    credentials = room.login.asked[0][1]
    assert (credentials.certificate_only, credentials.certificate_trusted) == (True, True)


@pytest.mark.parametrize("ask", [True, False])
async def test_certificates_are_optional(ask: bool, tmp_path: Path) -> None:
    """Without one, and where none is asked for, TLS works; EXTERNAL is not offered and is 48 (or 7)."""
    room = room_for(VERIFIES if ask else {})
    async with serving(room, listener="ldaps") as (server, port):
        server.ask_client_certificates(ask)
        async with calling(port, ssl=client(tmp_path)) as caller:
            assert await mechanisms(caller) == {b"PLAIN"}
            assert await code(caller, external()) == (48 if ask else 7)
            assert await caller.bind(message_id=2) == 0


@pytest.mark.parametrize(
    "shown",
    [
        authority("other").issue(),
        authority("alice"),
        ROOT.issue(days=(-2, -1)),
        MIDDLE.issue(),
    ],
    ids=["other issuer", "self-signed", "expired", "chain incomplete"],
)
async def test_a_certificate_nobody_vouches_for_is_worth_nothing(shown: Issuer, tmp_path: Path) -> None:
    """The handshake goes on, so that a stray certificate does not end password binds; EXTERNAL is refused."""
    room = room_for(VERIFIES)
    async with serving(room, listener="ldaps") as (server, port):
        server.ask_client_certificates(True)
        async with calling(port, ssl=client(tmp_path, shown)) as caller:
            assert await code(caller, external()) == 49
            assert room.login.asked == []
            assert await caller.bind(message_id=2) == 0


async def test_without_issuers_the_core_alone_decides(tmp_path: Path) -> None:
    """The certificate goes to the flow as not verified."""
    room = room_for(TAKES)
    async with serving(room, listener="ldaps") as (server, port):
        server.ask_client_certificates(True)
        async with calling(port, ssl=client(tmp_path, authority("alice"))) as caller:
            assert await code(caller, external()) == 0
    assert room.login.asked[0][1].certificate_trusted is False


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["one.example", "two.example"])
async def test_certificates_are_asked_for_under_every_server_name(
    name: str, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    """The context that a server name chooses asks as the first one does."""
    now = datetime.datetime.now(datetime.UTC)
    room = room_for(VERIFIES)
    async with serving(room, listener="ldaps") as (server, port):
        server.ask_client_certificates(True)
        server.use_certificates([(each, self_signed(now, [each])) for each in ("one.example", "two.example")])
        context = client(tmp_path, ROOT.issue(), version=version)
        async with calling(port, ssl=context, server_hostname=name) as caller:
            assert await code(caller, external()) == 0


def bind_once(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
    """One connection with a bind on it: whether it was resumed, and what to resume the next one with."""
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost", session=session) as secure,
    ):
        secure.sendall(encode_request(bind_request()))
        assert secure.recv(100)
        return bool(secure.session_reused), secure.session


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(("ask", "resumed"), [(True, False), (False, True)])
async def test_no_resumption_where_certificates_are_asked_for(
    ask: bool, resumed: bool, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    """Every connection proves its key anew; elsewhere tickets save a handshake, and change nothing about a bind."""
    room = room_for(VERIFIES if ask else {})
    context = client(tmp_path, ROOT.issue(), version=version)
    async with serving(room, listener="ldaps") as (server, port):
        server.ask_client_certificates(ask)
        first, ticket = await asyncio.to_thread(bind_once, port, context, None)
        second, _ = await asyncio.to_thread(bind_once, port, context, ticket)
        assert (first, second) == (False, resumed)
        await until(lambda: not server.wires)


async def test_switching_certificates_on_holds_from_the_next_handshake_on(tmp_path: Path) -> None:
    """No restart, and connections that are there stay as they are."""
    room = room_for(VERIFIES)
    context = client(tmp_path, ROOT.issue())
    async with serving(room, listener="ldaps") as (server, port), calling(port, ssl=context) as before:
        assert await code(before, external()) == 48
        server.ask_client_certificates(True)
        async with calling(port, ssl=context) as after:
            assert await code(after, external()) == 0
        assert await code(before, external(2)) == 48


def weak(version: ssl.TLSVersion, ciphers: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers(ciphers)
    context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("version", "ciphers"),
    [
        (ssl.TLSVersion.TLSv1, "ALL:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_2, "AES256-SHA:AES128-SHA:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_2, "aNULL:eNULL:@SECLEVEL=0"),
    ],
)
async def test_old_versions_and_weak_suites_are_refused(version: ssl.TLSVersion, ciphers: str) -> None:
    """TLS 1.2 at least, forward secrecy and authenticated encryption only."""
    async with serving(Room(), listener="ldaps") as (_, port):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with calling(port, ssl=weak(version, ciphers)):
                pass


@pytest.mark.parametrize("listener", ["ldap", "ldaps"])
@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"])
async def test_a_handshake_that_does_not_end_is_cut_off(listener: str, sent: bytes) -> None:
    """Also half-open StartTLS; silence and dripping alike."""
    async with (
        serving(Room(), listener=listener, limits=replace(LIMITS, message_timeout=0.0)) as (server, port),
        calling(port) as caller,
    ):
        if listener == "ldap":
            await caller.ask(ExtendedRequest(1, Extension.START_TLS))
            await caller.hear()
        caller.writer.write(sent)
        assert await caller.closed() == b""
        await until(lambda: not server.wires)


@pytest.mark.parametrize("listener", ["ldap", "ldaps"])
async def test_a_completed_handshake_is_not_cut_off(listener: str, tmp_path: Path) -> None:
    """The time of a handshake is over when it is."""
    options: dict[str, Any] = {"ssl": client(tmp_path)} if listener == "ldaps" else {}
    async with serving(Room(), listener=listener) as (server, port), calling(port, **options) as caller:
        if listener == "ldap":
            await caller.ask(ExtendedRequest(1, Extension.START_TLS))
            await caller.hear()
            await caller.writer.start_tls(client(tmp_path), server_hostname="localhost")
        assert await caller.bind(message_id=2) == 0
        assert [wire.handshake_since for wire in server.wires] == [None]
        server.limits = replace(LIMITS, message_timeout=0.0)
        server._sweep_now()
        assert await caller.bind(message_id=3) == 0


async def test_the_self_signed_certificate_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A month before its end, from the next handshake on, without a restart."""
    async with serving(Room(), listener="ldaps") as (server, _):
        made: list[Any] = []

        def sign() -> Any:
            made.append(self_signed(datetime.datetime.fromtimestamp(clock[0], datetime.UTC)))
            return made[-1]

        clock = [time.time()]
        monkeypatch.setattr(server_module, "time", FixedTime(clock))
        server._self_signed = sign
        assert context_of(server) is context_of(server)
        clock[0] += 300 * 86_400
        assert context_of(server) is context_of(server)
        assert len(made) == 1
        clock[0] += 40 * 86_400
        assert context_of(server) is context_of(server)
        assert len(made) == 2
        assert expires_at(made[1]) > clock[0] + 300 * 86_400


class FixedTime:
    """The clock of the server in a test's hand."""

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock
        self.monotonic = time.monotonic

    def time(self) -> float:
        """Unix seconds."""
        return self.clock[0]


def context_of(server: Server) -> Any:
    return server.context(None)
