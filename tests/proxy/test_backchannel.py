"""``outposts/proxy/backchannel.py``: what is sent, over what, in whose name."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from outposts.proxy.backchannel import MAX_ORIGINS, BackChannel, CallError, provider_agent
from tests.common.core_server import Address, served


async def echo(request: web.Request) -> web.StreamResponse:
    """What came in."""
    return web.json_response(
        {
            "method": request.method,
            "target": request.raw_path,
            "headers": sorted([name.lower(), value] for name, value in request.headers.items()),
            "body": await request.text(),
        }
    )


async def test_what_is_sent() -> None:
    """One Host header, the form's kind, no cookies and no token of the outpost's."""
    async with served(echo) as base:
        channel = BackChannel(Address(base, token="outpost-token"))
        reply = await channel.post(
            f"{base}/application/o/token/?a=b%2Fc", [("a", "ä &"), ("b", "")],
            [("Host", "id.example.org"), ("X-Forwarded-Proto", "https"), provider_agent("Ä\r\nX: y")],
        )  # fmt: skip
        headers = [(name, value) for name, value in reply.content["headers"]]
        assert [value for name, value in headers if name == "host"] == ["id.example.org"]
        assert ("x-forwarded-proto", "https") in headers
        assert ("content-type", "application/x-www-form-urlencoded") in headers
        [agent] = [value for name, value in headers if name == "user-agent"]
        assert agent.startswith("goauthentik.io/outpost/") and agent.endswith("(provider=???X: y)")
        assert not {"authorization", "cookie"} & {name for name, _ in headers}
        assert reply.content["target"] == "/application/o/token/?a=b%2Fc"
        assert reply.content["body"] == "a=%C3%A4+%26&b="
        got = await channel.get(f"{base}/jwks/")
        assert [value for name, value in got.content["headers"] if name == "host"] == [base.removeprefix("http://")]
        await channel.close()


async def test_by_unix_socket(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """A core that is reached by a socket is reached by it for this too, whatever its URLs say."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", echo)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    path = str(tmp_path / "core.sock")
    await web.UnixSite(runner, path).start()
    channel = BackChannel(Address("http://localhost", host_socket=path))
    reply = await channel.post("https://id.example.org/token/", [])
    assert ["host", "id.example.org"] in reply.content["headers"]
    assert reply.content["target"] == "/token/"
    await channel.close()
    await runner.cleanup()


async def test_origins_are_bounded() -> None:
    """Whatever records name, there are only so many connections' worth."""
    channel = BackChannel(Address("http://127.0.0.1:9"), timeout_s=1)
    for number in range(MAX_ORIGINS + 2):
        with pytest.raises(CallError) as caught:
            await channel.get(f"http://127.0.0.1:9/{number}" if number % 2 else f"http://127.0.0.{number + 1}:9/")
        assert "too many" not in caught.value.problem
    for number in range(MAX_ORIGINS):
        with pytest.raises(CallError) as caught:
            await channel.get(f"http://127.0.1.{number + 1}:9/")
    assert "too many" in caught.value.problem
    await channel.close()


async def test_many_at_once_each_get_their_own() -> None:
    """Answers are not mixed up on shared connections."""

    async def own(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.001)
        return web.json_response({"it": (await request.post())["it"]})

    async with served(own) as base:
        channel = BackChannel(Address(base))
        replies = await asyncio.gather(*(channel.post(f"{base}/", [("it", str(number))]) for number in range(200)))
        assert [reply.content["it"] for reply in replies] == [str(number) for number in range(200)]
        await channel.close()
