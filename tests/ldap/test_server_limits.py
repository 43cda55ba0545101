"""What one client may cost, limit by limit, on real sockets: each is met, each ends that connection or request only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from outposts.ldap.client_wire import encode_request
from outposts.ldap.filter_text import parse_text
from outposts.ldap.messages import ExtendedRequest, SearchRequest
from outposts.ldap.rfc import Extension, ResultCode
from outposts.ldap.session import SessionLimits
from tests.ldap.binds import until
from tests.ldap.desks import LIMITS, Caller, Room, bind_request, calling, search_request, serving


async def final(caller: Caller, request: Any) -> int:
    """The code of a request's last answer."""
    await caller.ask(request)
    answer: Any = (await caller.hear_all(request.message_id))[-1]
    return int(answer.code)


@pytest.mark.parametrize("bound", [False, True])
async def test_message_size(bound: bool) -> None:
    """As soon as the header declares too much: the notice, and the end. Before a bind less is allowed than after."""
    room = Room()
    room.desk.limits = SessionLimits(max_message_size_anonymous=2_000, max_message_size=8_000)
    async with serving(room) as (_, port), calling(port) as caller:
        if bound:
            assert await caller.bind() == 0
            big = search_request(2, text="(cn=alice)", size_limit=1)
            long = SearchRequest(
                **{name: getattr(big, name) for name in big.__struct_fields__} | {"base": b"x" * 5_000}
            )
            assert await final(caller, long) == ResultCode.INVALID_DN_SYNTAX
        caller.writer.write(b"\x30\x82\x1f\xff" if bound else b"\x30\x82\x07\xff")
        notice: Any = await caller.hear()
        assert (notice.message_id, notice.code, notice.oid) == (0, 2, Extension.NOTICE_OF_DISCONNECTION)
        assert await caller.closed() == b""


async def test_a_bound_connection_that_binds_again_is_small_again() -> None:
    """What stands behind the bind is measured by its outcome, not by what the connection was before."""
    room = Room()
    room.desk.limits = SessionLimits(max_message_size_anonymous=2_000, max_message_size=8_000)
    async with serving(room) as (_, port), calling(port) as caller:
        assert await caller.bind() == 0
        caller.writer.write(encode_request(bind_request(2, password="no")) + b"\x30\x82\x0f\xff" + b"x" * 100)
        answer: Any = await caller.hear()
        notice: Any = await caller.hear()
        assert (answer.code, notice.oid) == (49, Extension.NOTICE_OF_DISCONNECTION)
        assert await caller.closed() == b""


async def test_a_bad_request_behind_a_bind_is_answered() -> None:
    """Without waiting for a third message."""
    async with serving(Room()) as (_, port), calling(port) as caller:
        bad = encode_request(search_request(2, scope=2)).replace(b"\x0a\x01\x02", b"\x0a\x01\x63")
        caller.writer.write(encode_request(bind_request()) + bad)
        answers: list[Any] = [await caller.hear(), await caller.hear()]
        assert [(answer.message_id, answer.code) for answer in answers] == [(1, 0), (2, 2)]


async def test_nesting() -> None:
    """Refused as a request; the connection goes on."""
    room = Room()
    room.desk.limits = SessionLimits(max_nesting=10)
    async with serving(room) as (_, port), calling(port) as caller:
        assert await caller.bind() == 0
        deep = search_request(2)
        for levels, expected in ((5, 0), (50, 2)):
            tree = parse_text("(!" * levels + "(cn=x)" + ")" * levels, max_nesting=100)
            fields = {name: getattr(deep, name) for name in deep.__struct_fields__}
            code = await final(caller, SearchRequest(**fields | {"filter": tree, "message_id": levels}))
            assert (code, await final(caller, search_request(3, text="(cn=alice)"))) == (expected, 0)


async def test_attributes_of_a_request() -> None:
    """11 beyond the limit, for who is bound and who is not."""
    room = Room()
    room.desk.searches.max_attributes = 5
    async with serving(room) as (_, port), calling(port) as caller:
        many = [b"cn"] * 6
        assert await final(caller, search_request(1, "", 0, "(objectClass=*)", *many)) == 11
        assert await caller.bind(message_id=2) == 0
        assert await final(caller, search_request(3, text="(cn=alice)")) == 0
        base = search_request().base.decode()
        assert await final(caller, search_request(4, base, 2, "(cn=alice)", *many)) == 11
        assert await final(caller, search_request(5, base, 2, "(cn=alice)", *many[1:])) == 0


async def test_requests_in_progress() -> None:
    """Beyond the limit nothing more is read; when they are answered the rest is."""
    room = Room(mode="direct")
    room.desk.max_requests = 5
    room.core.gate = asyncio.Event()
    async with serving(room) as (server, port), calling(port) as caller:
        assert await caller.bind() == 0
        for number in range(10, 30):
            await caller.ask(search_request(number, text="(cn=alice)"))
            await asyncio.sleep(0)
        await until(lambda: room.core.asked >= 5)
        (wire,) = server.wires
        assert wire.connection is not None
        await until(lambda: wire.connection is not None and not wire.connection._reading)
        assert wire.connection.outstanding <= 20
        room.core.gate.set()
        seen: set[int] = set()
        while len(seen) < 20:
            answer: Any = await caller.hear()
            if hasattr(answer, "code"):
                assert answer.code == 0
                seen.add(answer.message_id)


async def test_a_flood_behind_a_bind_ends_the_connection() -> None:
    """Bytes that wait for a bind are bounded; the bind of the neighbour is answered."""
    room = Room()
    room.desk.limits = SessionLimits(max_waiting=2_000)
    room.login.gate = asyncio.Event()
    async with serving(room) as (server, port), calling(port) as caller, calling(port) as neighbour:
        await neighbour.ask(bind_request())
        await caller.ask(bind_request(password="other"))
        await until(lambda: len(room.login.asked) == 2)
        caller.writer.write(b"\x30" * 100_000)
        await until(
            lambda: len(server.wires) == 1 or any(w.connection and not w.connection._reading for w in server.wires)
        )
        room.login.gate.set()
        answer: Any = await neighbour.hear()
        assert answer.code == 0
        await caller.closed()


DRIP: list[tuple[str, bytes]] = [
    ("tag", b"\x30"),
    ("length", b"\x30\x84\x00"),
    ("body", b"\x30\x20\x02\x01\x01\x60"),
]


@pytest.mark.parametrize("data", [row[1] for row in DRIP], ids=[row[0] for row in DRIP])
@pytest.mark.parametrize("bound", [False, True])
async def test_a_message_that_drips_is_cut_off(data: bytes, bound: bool) -> None:
    """However steadily bytes come, and whoever sends them."""
    async with serving(Room()) as (server, port), calling(port) as caller:
        if bound:
            assert await caller.bind() == 0
        caller.writer.write(data)
        (wire,) = server.wires
        connection = wire.connection
        assert connection is not None
        await until(lambda: connection.session.is_partial)
        assert not connection.is_dripping(100.0, 30.0)
        assert not connection.is_dripping(130.0, 30.0)
        connection.last_heard = 130.0
        assert connection.is_dripping(131.0, 30.0)
        server.limits = replace(LIMITS, message_timeout=0.0)
        assert await caller.closed() == b""


async def test_whole_messages_are_no_drip() -> None:
    """A busy client whose messages are cut anywhere starts anew with each of them."""
    async with serving(Room()) as (server, port), calling(port) as caller:
        assert await caller.bind() == 0
        (wire,) = server.wires
        connection = wire.connection
        assert connection is not None
        message = encode_request(search_request(2, text="(cn=alice)"))
        sent = message[:10]
        caller.writer.write(sent)
        await until(lambda: connection.session.is_partial)
        for moment in range(0, 300, 20):
            assert not connection.is_dripping(float(moment), 30.0)
            caller.writer.write(message[10:] + message[:10])
            await caller.hear_all(2)
            await until(lambda: connection.session.is_partial)
        caller.writer.write(message[10:])
        await caller.hear_all(2)
        assert not connection.session.is_partial


async def test_a_connection_that_we_do_not_read_does_not_drip() -> None:
    """A message behind too many requests waits for us, not for its sender."""
    room = Room(mode="direct")
    room.desk.max_requests = 1
    room.core.gate = asyncio.Event()
    async with serving(room) as (server, port), calling(port) as caller:
        assert await caller.bind() == 0
        whole = encode_request(search_request(2, text="(cn=alice)"))
        caller.writer.write(whole + encode_request(search_request(3, text="(cn=alice)"))[:10])
        await until(lambda: room.core.asked)
        (wire,) = server.wires
        connection = wire.connection
        assert connection is not None
        await until(lambda: not connection._reading)
        assert connection.session.is_partial
        assert not connection.is_dripping(0.0, 30.0)
        assert not connection.is_dripping(1000.0, 30.0)
        room.core.gate.set()
        await caller.hear_all(2)
        caller.writer.write(encode_request(search_request(3, text="(cn=alice)"))[10:])
        assert (await caller.hear_all(3))[-1].code == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("sent", [b"", b"PROXY TCP4 192.0."])
async def test_a_proxy_header_that_does_not_end_is_cut_off(sent: bytes) -> None:
    """A trusted proxy that says nothing, or half of it."""
    async with (
        serving(Room(), trusted="127.0.0.0/8", limits=replace(LIMITS, message_timeout=0.0)) as (server, port),
        calling(port) as caller,
    ):
        caller.writer.write(sent)
        assert await caller.closed() == b""
        await until(lambda: not server.wires)


SILENT: list[Callable[[], Any]] = [
    lambda: ExtendedRequest(5, Extension.PASSWORD_MODIFY, b"\x30\x00"),
    lambda: ExtendedRequest(5, Extension.PASSWORD_MODIFY, None),
]


@pytest.mark.parametrize("make", SILENT)
@pytest.mark.parametrize("bound", [False, True])
async def test_80_password_modify_is_refused(make: Callable[[], Any], bound: bool) -> None:
    """53, the connection stays."""
    async with serving(Room()) as (_, port), calling(port) as caller:
        if bound:
            assert await caller.bind() == 0
        assert await final(caller, make()) == 53
        assert await caller.bind(message_id=9) == 0


@pytest.mark.parametrize("data", [b"\x30\x05\x02\x01\x07\x7e\x00", b"\x30\x05\x02\x01\x07\x61\x00"])
async def test_82_unknown_operations_end_the_connection(data: bytes) -> None:
    """An operation that nobody knows, and a response: the notice of disconnection (RFC 4511 §4.4.1)."""
    async with serving(Room()) as (_, port), calling(port) as caller:
        assert await caller.bind() == 0
        caller.writer.write(data)
        notice: Any = await caller.hear()
        assert (notice.message_id, notice.code, notice.oid) == (0, 2, Extension.NOTICE_OF_DISCONNECTION)
        assert await caller.closed() == b""
