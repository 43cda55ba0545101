"""Sockets: real connections to a server on the running loop."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from dataclasses import replace
from typing import Any

import pytest

from common.errors import StartError
from common.setting_values import ListenAddress
from common.tls import self_signed
from outposts.ldap.client_wire import encode_request
from outposts.ldap.messages import ExtendedRequest, SearchEntry, UnbindRequest
from outposts.ldap.rfc import Extension, ResultCode
from tests.ldap.binds import b, until
from tests.ldap.desks import LIMITS, Caller, Room, bind_request, calling, search_request, serving

MANY = 6_000  # users: some 10 MB of entries, more than the buffers of a loopback connection hold


def client_context() -> ssl.SSLContext:
    """A client that takes any certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def test_bind_and_search_over_tcp() -> None:
    """The whole way."""
    async with serving(Room()) as (_, port), calling(port) as caller:
        assert await caller.bind() == 0
        await caller.ask(search_request(2))
        assert len(await caller.hear_all(2)) == 18


async def test_bytes_may_come_one_by_one() -> None:
    """Framing does not depend on how the network cuts."""
    async with serving(Room()) as (_, port), calling(port) as caller:
        for byte in encode_request(bind_request()):
            caller.writer.write(bytes([byte]))
            await caller.writer.drain()
        answer: Any = await caller.hear()
        assert answer.code == 0


async def test_a_large_result_reaches_a_slow_reader_whole() -> None:
    """More than all buffers hold: nothing is lost, and others are served meanwhile."""
    room = Room(extra_users=MANY)
    async with serving(room) as (server, port), calling(port, limit=2**12) as slow, calling(port) as quick:
        assert await slow.bind() == 0
        assert await quick.bind() == 0
        await slow.ask(search_request(2))
        await until(lambda: any(wire.connection and wire.connection.is_blocked for wire in server.wires))
        await quick.ask(search_request(2, text="(cn=alice)"))
        assert len(await quick.hear_all(2)) == 3
        found = await slow.hear_all(2)
        assert len([entry for entry in found if isinstance(entry, SearchEntry)]) == 17 + 2 * MANY
        assert found[-1].code == 0  # type: ignore[union-attr]
        await slow.ask(search_request(3, text="(cn=alice)"))
        assert len(await slow.hear_all(3)) == 3


async def test_a_large_result_over_tls() -> None:
    """The same behind TLS, whose layer has its own buffers."""
    room = Room(extra_users=MANY)
    async with (
        serving(room, listener="ldaps") as (server, port),
        calling(port, limit=2**12, ssl=client_context()) as caller,
    ):
        assert await caller.bind() == 0
        await caller.ask(search_request(2))
        await until(lambda: any(wire.connection and wire.connection.is_blocked for wire in server.wires))
        found = await caller.hear_all(2)
        assert len(found) == 17 + 2 * MANY + 1


async def test_33_34_start_tls_then_bind() -> None:
    """0 with the operation's name, a handshake, a bind; a second one is refused and the connection stays."""
    async with serving(Room()) as (_, port), calling(port) as caller:
        await caller.ask(ExtendedRequest(1, Extension.START_TLS))
        answer: Any = await caller.hear()
        assert (answer.code, answer.oid) == (0, Extension.START_TLS)
        await caller.writer.start_tls(client_context(), server_hostname="localhost")
        assert await caller.bind(message_id=2) == 0
        await caller.ask(ExtendedRequest(3, Extension.START_TLS))
        refused: Any = await caller.hear()
        assert refused.code == ResultCode.OPERATIONS_ERROR
        await caller.ask(search_request(4, text="(cn=alice)"))
        assert len(await caller.hear_all(4)) == 3


async def certificate_seen(port: int, server_name: str | None) -> bytes:
    """The certificate that a client is shown."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=client_context(), server_hostname=server_name or ""
    )
    seen: bytes = writer.get_extra_info("ssl_object").getpeercert(True)
    await Caller(reader, writer).close()
    return seen


async def test_36_the_certificate_follows_the_server_name() -> None:
    """Two providers with different key pairs; renewed ones are served from the next handshake on."""
    now = datetime.datetime.now(datetime.UTC)
    one, two, renewed = (self_signed(now, [name]) for name in ("one.example", "two.example", "two.example"))

    def der(pair: Any) -> bytes:
        return ssl.PEM_cert_to_DER_cert(pair.certificate_pem)

    async with serving(Room(), listener="ldaps") as (server, port):
        fallback = await certificate_seen(port, None)
        assert await certificate_seen(port, "one.example") == fallback
        server.use_certificates([("one.example", one), ("two.example", two)])
        for _ in range(2):
            assert await certificate_seen(port, "one.example") == der(one)
            assert await certificate_seen(port, "two.example") == der(two)
        server.use_certificates([("one.example", one), ("two.example", renewed)])
        assert await certificate_seen(port, "two.example") == der(renewed)
        server.use_certificates([("x", replace(one, certificate_pem="garbage"))])
        assert await certificate_seen(port, "one.example") == fallback


HEADER = b"PROXY TCP4 192.0.2.7 192.0.2.8 4000 389\r\n"
HEADER_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc0\0\x02\x08\x0f\xa0\x01\x85"


@pytest.mark.parametrize("header", [HEADER, HEADER_2], ids=["version 1", "version 2"])
@pytest.mark.parametrize("pieces", [1, 3, 1000])
async def test_35_the_proxy_header_names_the_client(header: bytes, pieces: int) -> None:
    """The flow sees the header's address, however the header is cut."""
    room = Room()
    async with serving(room, trusted="127.0.0.0/8") as (_, port), calling(port) as caller:
        data = header + encode_request(bind_request())
        size = max(1, len(data) // pieces)
        for start in range(0, len(data), size):
            caller.writer.write(data[start : start + size])
            await caller.writer.drain()
        answer: Any = await caller.hear()
        assert answer.code == 0
        assert room.login.asked[0][1].client_ip == "192.0.2.7"


async def test_35_the_proxy_header_is_optional_and_works_before_tls() -> None:
    """A trusted peer may leave it out; on LDAPS it comes before the handshake."""
    room = Room()
    async with serving(room, trusted="127.0.0.0/8") as (_, port), calling(port) as caller:
        assert await caller.bind() == 0
        assert room.login.asked[0][1].client_ip == "127.0.0.1"
    async with serving(room, listener="ldaps", trusted="127.0.0.0/8") as (_, port), calling(port) as caller:
        caller.writer.write(HEADER)
        await caller.writer.start_tls(client_context(), server_hostname="localhost")
        assert await caller.bind() == 0
        assert room.login.asked[1][1].client_ip == "192.0.2.7"


@pytest.mark.parametrize(
    "data", [HEADER, b"GET / HTTP/1.1\r\n\r\n", b"\x30\x00", b"\x30\x88" + b"\xff" * 8, b"\x16\x03"]
)
async def test_75_76_garbage_closes_that_connection_only(data: bytes) -> None:
    """A PROXY header of somebody untrusted, HTTP, broken BER, TLS on the clear port."""
    async with serving(Room()) as (_, port), calling(port) as neighbour, calling(port) as caller:
        assert await neighbour.bind() == 0
        caller.writer.write(data)
        await caller.closed()
        await neighbour.ask(search_request(2, text="(cn=alice)"))
        assert len(await neighbour.hear_all(2)) == 3


async def test_a_damaged_proxy_header_closes() -> None:
    """Not taken for LDAP."""
    async with serving(Room(), trusted="127.0.0.0/8") as (_, port), calling(port) as caller:
        caller.writer.write(b"PROXY nonsense\r\n" + encode_request(bind_request()))
        assert await caller.closed() == b""


async def test_unbind_closes_and_logs_out() -> None:
    """No answer, the connection is gone, the core session ended."""
    room = Room()
    room.unbind_flow = "bye"
    async with serving(room) as (server, port), calling(port) as caller:
        assert await caller.bind() == 0
        await caller.ask(UnbindRequest(2))
        assert await caller.closed() == b""
        await until(lambda: not server.wires)
        await until(lambda: room.login.logged_out)


async def test_too_many_connections_are_closed_at_once() -> None:
    """In all, and from one address; when one leaves, there is room again."""
    for limits in (replace(LIMITS, max_connections=2), replace(LIMITS, max_connections_per_address=2)):
        async with serving(Room(), limits=limits) as (server, port), calling(port) as first, calling(port) as second:
            assert await first.bind() == 0
            assert await second.bind() == 0
            async with calling(port) as third:
                assert await third.closed() == b""
            await first.close()
            await until(lambda server=server: len(server.wires) == 1)
            async with calling(port) as fourth:
                assert await fourth.bind() == 0


@pytest.mark.parametrize("bound", [False, True])
async def test_silent_connections_are_closed(bound: bool) -> None:
    """Each kind by its own limit; a request in progress is no silence."""
    limits = replace(LIMITS, **{"idle_timeout" if bound else "anonymous_timeout": 0.0})
    room = Room(mode="direct")
    room.core.gate = asyncio.Event()
    async with serving(room, limits=limits) as (_, port), calling(port) as caller, calling(port) as other:
        if bound:
            await caller.ask(bind_request(), search_request(2))
            await until(lambda: room.core.asked)
            await other.bind()
        assert await other.closed() == b""
        if bound:
            room.core.gate.set()
            answers = await caller.hear_all(2)
            assert answers[-1].code == 0  # type: ignore[union-attr]
        await caller.closed()


async def test_a_client_that_never_reads_is_cut_off() -> None:
    """Its answer does not stay in memory for ever."""
    room = Room(extra_users=MANY)
    async with (
        serving(room, limits=replace(LIMITS, write_timeout=0.0)) as (server, port),
        calling(port, limit=2**12) as caller,
    ):
        assert await caller.bind() == 0
        await caller.ask(search_request(2))
        await until(lambda: any(wire.connection and wire.connection.is_blocked for wire in server.wires))
        await until(lambda: not server.wires)
        assert len(room.bound) == 0


async def test_drain_finishes_what_is_in_progress() -> None:
    """Idle connections get a notice, a running search its answer, nobody new comes in."""
    room = Room(mode="direct")
    room.core.gate = asyncio.Event()
    async with serving(room) as (server, port), calling(port) as idle, calling(port) as busy:
        await busy.ask(bind_request(), search_request(2))
        await until(lambda: room.core.asked)
        assert await idle.bind() == 0
        drained = asyncio.ensure_future(server.drain(5))
        notice: Any = await idle.hear()
        assert (notice.message_id, notice.code, notice.oid) == (0, 52, Extension.NOTICE_OF_DISCONNECTION)
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)
        assert not drained.done()
        room.core.gate.set()
        answers = await busy.hear_all(2)
        assert answers[-1].code == 0  # type: ignore[union-attr]
        await drained


async def test_drain_cuts_off_after_its_time() -> None:
    """A search that never ends does not hold up the stop."""
    room = Room(mode="direct")
    room.core.gate = asyncio.Event()
    async with serving(room) as (server, port), calling(port) as busy:
        await busy.ask(bind_request(), search_request(2))
        await until(lambda: room.core.asked)
        await server.drain(0.05)
        assert not server.wires


async def test_a_taken_port_is_a_start_error() -> None:
    """Named, not a traceback."""
    async with serving(Room()) as (server, port):
        with pytest.raises(StartError, match=str(port)):
            server.listen("ldap", ListenAddress("127.0.0.1", port))


async def test_clients_that_vanish_leave_nothing_behind() -> None:
    """Reset in the middle of a bind, of a result, of a handshake."""
    room = Room(extra_users=5_000)
    async with serving(room) as (server, port):
        for requests in ([bind_request()], [bind_request(), search_request(2)]):
            async with calling(port) as caller:
                await caller.ask(*requests)
                caller.writer.transport.abort()
        async with calling(port) as caller:
            await caller.ask(ExtendedRequest(1, Extension.START_TLS))
            await caller.hear()
            caller.writer.transport.abort()
        await until(lambda: not server.wires)
        assert len(room.bound) == 0
        async with calling(port) as caller:
            assert await caller.bind() == 0
            await caller.ask(search_request(2, base=b, scope=0))
            assert len(await caller.hear_all(2)) == 2
