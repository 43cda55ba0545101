"""Upgrades: WebSockets through the proxy, octet for octet, and what must not become a tunnel."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.proxy.upstream_site import Client, Exchange, site

ASK = (
    b"GET /ws HTTP/1.1\r\nHost: proxy.example.com\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
YES = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
)
MIB = 1 << 20


async def echo(exchange: Exchange) -> None:
    """Says yes, then sends back in capitals what it gets; at its end it says so."""
    await exchange.send(YES + b"hello")
    while data := await exchange.reader.read(65_536):
        await exchange.send(data.upper())
    await exchange.send(b"bye")
    exchange.close()


async def test_p07_a_websocket_is_a_tunnel() -> None:
    async with site(echo) as (client, application, front):
        await client.send(ASK + b"early")  # with the first octets in the same piece
        answer = await client.head()
        assert (answer.status, answer.one("Upgrade"), answer.one("Connection")) == (101, "websocket", "Upgrade")
        assert answer.one("Sec-WebSocket-Accept") == "x"
        assert await client.reader.readexactly(10) == b"helloEARLY"
        seen = application.requests[0]
        assert (seen.one(b"Upgrade"), seen.one(b"Connection")) == (b"websocket", b"Upgrade")
        assert seen.one(b"Sec-WebSocket-Version") == b"13" and seen.one(b"X-Authentik-Username") == b"alice"
        await client.send(b"more")
        assert await client.reader.readexactly(4) == b"MORE"
        assert (len(front.forwarder.tunnels), front.forwarder.pool.busy) == (1, 0)
        client.writer.write_eof()  # only this direction ends
        assert await client.reader.read() == b"bye"
        ended = await front.until_ended()
        assert (ended.tunnel, ended.status, ended.received, ended.sent) == (True, 101, 9, 17)
        assert (len(front.forwarder.tunnels), front.forwarder.pool.busy, front.forwarder.pool.idle) == (0, 0, 0)


async def test_tunnels_carry_much_in_both_directions_and_hold_each_other_up() -> None:
    async with site(echo) as (client, _, front):
        await client.send(ASK)
        await client.head()
        assert await client.reader.readexactly(5) == b"hello"

        async def send() -> None:
            for _ in range(128):
                await client.send(b"x" * 65_536)

        task = asyncio.create_task(send())
        got = 0
        while got < 8 * MIB:
            data = await client.reader.read(65_536)
            assert data.strip(b"X") == b""
            got += len(data)
        await task
        client.close()
        assert (await front.until_ended()).received == 8 * MIB


@pytest.mark.parametrize("reset", [False, True])
async def test_an_application_that_ends_a_tunnel_ends_it_for_the_client(reset: bool) -> None:
    async def ends(exchange: Exchange) -> None:
        await exchange.send(YES)
        await exchange.reader.readexactly(3)
        exchange.close(reset=reset)

    async with site(ends) as (client, _, front):
        await client.send(ASK + b"abc")
        assert (await client.head()).status == 101
        assert await client.at_end()
        client.close()
        await front.until_ended()
        assert not front.forwarder.tunnels


async def test_a_client_that_leaves_a_tunnel_ends_it_for_the_application() -> None:
    freed = asyncio.Event()

    async def waits(exchange: Exchange) -> None:
        await exchange.send(YES)
        with contextlib.suppress(ConnectionError):
            await exchange.reader.read()
        freed.set()

    async with site(waits) as (client, _, front):
        await client.send(ASK)
        await client.head()
        client.writer.transport.abort()
        await freed.wait()
        await front.until_ended()


async def test_a_silent_tunnel_is_cut_after_its_own_time() -> None:
    async with site(echo, tunnel_idle_timeout=0.2, upstream_idle_timeout=0.01) as (client, _, front):
        await client.send(ASK)
        await client.head()
        for _ in range(6):  # longer than its time in all, and longer than that of other answers
            await client.send(b"a")
            await asyncio.sleep(0.05)
        assert await client.reader.readexactly(11) == b"helloAAAAAA"
        assert await client.at_end()
        assert (await front.until_ended()).tunnel


async def test_a_refused_upgrade_is_an_answer_and_the_connection_goes_on() -> None:
    async def refuses(exchange: Exchange) -> None:
        await exchange.answer(b"no", status=b"403 Forbidden")

    async with site(refuses) as (client, application, _):
        await client.send(ASK)
        assert (await client.answer()).status == 403
        assert (await client.get("/next")).status == 403
        assert application.connections == 1


@pytest.mark.parametrize("protocol", ["h2c", "TLS/1.2", "foo"])
async def test_other_protocols_are_not_asked_for(protocol: str) -> None:
    """An upgrade to HTTP/2 in clear text would be a way past every check."""

    async def usual(exchange: Exchange) -> None:
        await exchange.answer()

    async with site(usual, upgrades=("websocket", "h2c", "tls/1.2")) as (client, application, _):
        headers = (
            f"Upgrade: {protocol}",
            "Connection: Upgrade, HTTP2-Settings",
            "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
        )
        assert (await client.get("/", *headers)).status == 200
        seen = application.requests[0]
        assert seen.all(b"Upgrade") == seen.all(b"Connection") == seen.all(b"HTTP2-Settings") == []


async def test_an_upgrade_to_something_else_is_502() -> None:
    async def other(exchange: Exchange) -> None:
        await exchange.send(YES.replace(b"websocket", b"h2c"))

    async with site(other) as (client, _, _):
        await client.send(ASK)
        assert (await client.answer()).status == 502


async def test_post_and_http_1_0_do_not_upgrade() -> None:
    async def usual(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.answer()

    async with site(usual) as (client, application, front):
        await client.send(ASK.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\na"))
        assert (await client.answer()).status == 200
        other: Client = await front.client()
        await other.send(ASK.replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert (await other.answer()).status == 200
        assert all(seen.all(b"Upgrade") == [] for seen in application.requests)
