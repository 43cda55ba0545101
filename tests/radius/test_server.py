"""Sockets: batches, addresses, faults that must not stop the reading."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from common.errors import StartError
from common.reactor import LoopReactor
from common.setting_values import ListenAddress
from outposts.radius.rfc import Code
from outposts.radius.server import BATCH, Server, short
from tests.radius.desks import House, access_request, read, status_request

LOCAL = "127.0.0.1"
WAIT_S = 20.0


@asynccontextmanager
async def serving(*hosts: str, house: House | None = None) -> AsyncIterator[tuple[House, Server, list[int]]]:
    """A server on these addresses; its ports."""
    reactor = LoopReactor(asyncio.get_running_loop())
    where = house or House()
    server = Server(reactor, where.desk)
    try:
        bound = [server.listen("radius", ListenAddress(host, 0))[0] for host in hosts]
        yield where, server, [port for _, _, port in bound]
    finally:
        await server.close()
        reactor.dispose()


def client(host: str = LOCAL) -> socket.socket:
    """A socket of a NAS."""
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((host, 0))
    opened.setblocking(False)
    return opened


async def receive(opened: socket.socket) -> tuple[bytes, Any]:
    """The next datagram."""
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recvfrom(opened, 65535), WAIT_S)


@pytest.mark.parametrize(
    ("listen", "ask", "come_from"),
    [
        (LOCAL, LOCAL, LOCAL),
        ("127.0.0.5", "127.0.0.5", LOCAL),
        ("0.0.0.0", "127.0.0.77", LOCAL),
        ("::", "127.0.0.77", "127.0.0.9"),
        ("::", "::1", "::1"),
        ("::1", "::1", "::1"),
    ],
)
async def test_replies_come_from_the_address_that_was_asked(listen: str, ask: str, come_from: str) -> None:
    """Whatever the socket is bound to; the client is known by its short address."""
    async with serving(listen) as (house, _, [port]):
        with client(come_from) as nas:
            octets = access_request()
            nas.sendto(octets, (ask, port))
            reply, where = await receive(nas)
            assert read(reply, octets).code == Code.ACCESS_ACCEPT
            assert where[:2] == (ask, port)
        [(_, credentials, _)] = house.core.logins
        assert credentials.client_ip == come_from


async def test_the_local_address_tells_copies_apart() -> None:
    """The same octets to two addresses of one socket are two requests (RFC 5080 §2.2.2)."""
    async with serving("0.0.0.0") as (house, _, [port]):
        with client() as nas:
            octets = access_request()
            for ask in ("127.0.0.1", "127.0.0.2", "127.0.0.1"):
                nas.sendto(octets, (ask, port))
                assert (await receive(nas))[1][0] == ask
        assert len(house.core.logins) == 2 and house.observer.copies == 1


async def test_more_than_a_batch_is_read_to_the_end() -> None:
    """Nothing stays in the socket, and others get their turn between batches."""
    async with serving(LOCAL) as (_, _, [port]):
        with client() as nas:
            sent = [status_request(identifier=number) for number in range(3 * BATCH)]
            for octets in sent:
                nas.sendto(octets, (LOCAL, port))
            answered = [(await receive(nas))[0][1] for _ in sent]
            assert sorted(answered) == list(range(3 * BATCH))


async def test_a_fault_ends_one_datagram_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception while one is handled does not stop the socket."""
    async with serving(LOCAL, "0.0.0.0") as (house, _, ports):
        real = house.desk.received

        def received(datagram: bytes, *arguments: Any, **fields: Any) -> str:
            if datagram == b"poison":
                raise RuntimeError("broken")
            return real(datagram, *arguments, **fields)

        monkeypatch.setattr(house.desk, "received", received)
        for port in ports:
            with client() as nas:
                nas.sendto(b"poison", (LOCAL, port))
                octets = status_request()
                nas.sendto(octets, (LOCAL, port))
                assert read((await receive(nas))[0], octets).code == Code.ACCESS_ACCEPT


async def test_a_reply_that_cannot_be_sent_is_lost_quietly() -> None:
    """An address that the system refuses; a socket that is closed meanwhile."""
    async with serving(LOCAL, "0.0.0.0") as (_, server, _):
        narrow, wide = server.wires
        narrow.send(b"x", ("255.255.255.255", 9))
        wide.send(b"x", (("255.255.255.255", 9), None))
        narrow.close()
        narrow.send(b"x", (LOCAL, 9))


async def test_nothing_new_is_read_while_draining_but_replies_are_sent() -> None:
    """A login in progress gets its reply; what comes later stays unread."""
    house = House()
    house.core.hold = asyncio.Event()
    async with serving(LOCAL, house=house) as (_, server, [port]):
        with client() as nas:
            octets = access_request()
            nas.sendto(octets, (LOCAL, port))
            await house.core.asked.wait()
            draining = asyncio.ensure_future(server.drain(WAIT_S))
            await asyncio.sleep(0)
            nas.sendto(status_request(), (LOCAL, port))
            house.core.hold.set()
            await draining
            assert read((await receive(nas))[0], octets).code == Code.ACCESS_ACCEPT
            assert len(house.line.replies) == 0 and len(house.observer.outcomes) == 1


async def test_an_address_that_is_taken() -> None:
    """Is said at the start."""
    with client() as taken:
        port = taken.getsockname()[1]
        server = Server(LoopReactor(asyncio.get_running_loop()), House().desk)
        with pytest.raises(StartError, match=str(port)):
            server.listen("radius", ListenAddress(LOCAL, port))


async def test_a_place_on_a_socket_survives_an_encoding() -> None:
    """What another worker sends back is as good as what came from the socket."""
    async with serving(LOCAL, "0.0.0.0") as (_, server, _):
        narrow, wide = server.wires
        assert narrow.where(["127.0.0.1", 5]) == ("127.0.0.1", 5)
        assert wide.where([["127.0.0.1", 5], [0, 8, b"info"]]) == (("127.0.0.1", 5), (0, 8, b"info"))
        assert wide.where([["127.0.0.1", 5], None]) == (("127.0.0.1", 5), None)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("2001:DB8::1", "2001:db8::1"),
    ],
)
def test_short_addresses(host: str, expected: str) -> None:
    """Without scope, IPv4 unmapped (spec §2.2)."""
    assert short(host) == expected
