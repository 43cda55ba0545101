"""The reverse proxy over real sockets: what the application gets, what the client gets, and when neither is there."""

from __future__ import annotations

import pytest

from tests.proxy.upstream_site import KINDS, Exchange, site

pytestmark = pytest.mark.parametrize("kind", KINDS)


async def ok(exchange: Exchange) -> None:
    """The usual application."""
    await exchange.body()
    await exchange.answer()


async def test_p02_the_raw_target_goes_on_with_host_and_identity(kind: str) -> None:
    async with site(kind, ok) as (client, application, front):
        answer = await client.get("/a%2Fb/..;/c?a=%zz&b=1;c", "X-Other: 1")
        assert (answer.status, answer.body, answer.complete) == (200, b"ok", True)
        seen = application.requests[0]
        assert seen.line == b"GET /a%2Fb/..;/c?a=%zz&b=1;c HTTP/1.1"
        assert seen.one(b"Host") == b"proxy.example.com"
        assert seen.one(b"X-Forwarded-Host") == b"proxy.example.com"
        assert seen.one(b"X-Forwarded-Proto") == b"http"
        assert seen.one(b"X-Authentik-Username") == b"alice"
        assert seen.one(b"X-Other") == b"1"
        assert front.ended[0].cause is None and front.ended[0].sent == 2


async def test_connections_are_kept_and_used_again(kind: str) -> None:
    async with site(kind, ok) as (client, application, front):
        for number in range(5):
            assert (await client.get(f"/{number}")).body == b"ok"
        assert application.connections == 1
        assert [ended.reused for ended in front.ended] == [False, True, True, True, True]
