"""The reverse proxy over real sockets: what the application gets, and what the client gets of its answers."""

from __future__ import annotations

import asyncio
import base64
import contextlib

import pytest
import uvloop
from msgspec import structs

from outposts.proxy import upstream, upstream_pool
from outposts.proxy.providers import ProxyProvider
from tests.proxy.site import X, provider
from tests.proxy.upstream_site import Exchange, site

MIB = 1 << 20


async def ok(exchange: Exchange) -> None:
    """The usual application."""
    await exchange.body()
    await exchange.answer()


async def test_p02_the_raw_target_goes_on_with_host_and_identity() -> None:
    async with site(ok) as (client, application, front):
        answer = await client.get("/a%2Fb/..;/c?a=%zz&b=1;c", "X-Other: 1")
        assert (answer.status, answer.body, answer.complete) == (200, b"ok", True)
        seen = application.requests[0]
        assert seen.line == b"GET /a%2Fb/..;/c?a=%zz&b=1;c HTTP/1.1"
        assert seen.one(b"Host") == b"proxy.example.com"
        assert seen.one(b"X-Forwarded-Host") == b"proxy.example.com"
        assert seen.one(b"X-Forwarded-Proto") == b"http"
        assert seen.one(b"X-Forwarded-For") == b"127.0.0.1"
        assert seen.one(b"X-Authentik-Username") == b"alice"
        assert seen.one(b"X-Other") == b"1"
        ended = await front.until_ended()
        assert ended.cause is None and ended.sent == 2 and ended.status == 200


@pytest.mark.parametrize("anonymous", [False, True])
async def test_p03_w29_w30_what_a_client_says_about_itself_never_arrives(anonymous: bool) -> None:
    async with site(ok, anonymous=anonymous) as (client, application, _):
        await client.get("/public", "X-Authentik-Username: root", "X_authentik_username: root", "x-authentik.uid: root")
        seen = application.requests[0]
        assert seen.one(b"X-Authentik-Username") == (b"" if anonymous else b"alice")
        assert not any(b"root" in value for _, value in seen.headers)
        assert not any(b"_" in name or b"." in name for name, _ in seen.headers)


@pytest.mark.parametrize("target", ["/q/%2F/n", "/a//b", "/a/./b/../c", "/?", "/%E4%F6", "/a?b?c=/../&d=%00"])
async def test_p04_w44_paths_are_not_repaired(target: str) -> None:
    async with site(ok) as (client, application, _):
        assert (await client.get(target)).status == 200
        assert application.requests[0].line == f"GET {target} HTTP/1.1".encode()


async def test_p05_w40_claims_choose_upstream_and_host() -> None:
    async with site(ok) as (client, application, front):
        claims = {
            "ak_proxy": {"backend_override": f"http://127.0.0.1:{application.port}/p", "host_header": "internal"},
        }
        front.provider = provider_with_upstream("http://127.0.0.1:1")
        front.session = {"claims": claims}
        assert (await client.get("/path?x=1")).status == 200
        assert application.requests[0].line == b"GET /path?x=1 HTTP/1.1"
        assert application.requests[0].one(b"Host") == b"internal"


def provider_with_upstream(internal_host: str) -> ProxyProvider:
    """Provider X with another upstream."""
    return provider(structs.replace(X, internal_host=internal_host))


async def test_w45_the_path_of_the_internal_host_is_put_in_front() -> None:
    async with site(ok) as (client, application, front):
        front.provider = provider_with_upstream(f"http://127.0.0.1:{application.port}/app/")
        await client.get("/x//y?z")
        assert application.requests[0].line == b"GET /app/x//y?z HTTP/1.1"


async def test_p08_headers_of_this_hop_stay_here() -> None:
    async def hop(exchange: Exchange) -> None:
        await exchange.answer(
            b"ok",
            b"Connection: X-Bar, keep-alive",
            b"X-Bar: 1",
            b"Keep-Alive: timeout=9",
            b"Proxy-Authenticate: Basic",
            b"Trailer: X-T",
            b"Upgrade: h2c",
            b"X-Kept: 1",
        )

    async with site(hop) as (client, application, _):
        answer = await client.get(
            "/",
            "Connection: X-Foo, keep-alive",
            "X-Foo: 1",
            "Keep-Alive: timeout=5",
            "Proxy-Authorization: Basic YTpi",
            "Proxy-Connection: keep-alive",
            "TE: trailers",
            "Trailer: X-A",
        )
        seen = application.requests[0]
        for name in (b"X-Foo", b"Keep-Alive", b"Proxy-Authorization", b"Proxy-Connection", b"Trailer", b"Upgrade"):
            assert seen.all(name) == []
        assert seen.one(b"TE") == b"trailers" and seen.one(b"Connection") == b"TE"
        for name_ in ("X-Bar", "Keep-Alive", "Proxy-Authenticate", "Trailer", "Upgrade", "Connection"):
            assert answer.all(name_) == []
        assert answer.one("X-Kept") == "1"


async def test_p09_p10_p11_values_of_claims_are_one_header_each() -> None:
    additional = {
        "X-N": 5,
        "X-B": True,
        "X-authentik-username": "root",
        "Host": "evil",
        "Bad Name": "x",
        "X-L": "a\r\nb",
    }
    claims = {"name": "Ali\r\nce", "ak_proxy": {"user_attributes": {"additionalHeaders": additional}}}
    async with site(ok, session={"claims": claims}) as (client, application, _):
        assert (await client.get()).status == 200
        seen = application.requests[0]
        assert seen.one(b"X-Authentik-Name") == b"Alice"
        assert (seen.one(b"X-N"), seen.one(b"X-B"), seen.one(b"X-L")) == (b"5", b"true", b"ab")
        assert seen.one(b"X-Authentik-Username") == b"alice" and seen.one(b"Host") == b"proxy.example.com"


async def test_p12_basic_injection() -> None:
    async with site(ok) as (client, application, front):
        record = structs.replace(
            X,
            internal_host=f"http://127.0.0.1:{application.port}",
            basic_auth_enabled=True,
            basic_auth_user_attribute="u",
            basic_auth_password_attribute="p",
        )
        front.provider = provider(record)
        front.session = {"claims": {"ak_proxy": {"user_attributes": {"u": "svc", "p": "hunter2"}}}}
        await client.get("/", "Authorization: Bearer of-the-application")
        assert application.requests[0].one(b"Authorization") == b"Basic " + base64.b64encode(b"svc:hunter2")


async def test_p13_w47_own_cookies_stay_here_in_both_directions() -> None:
    async def cookies(exchange: Exchange) -> None:
        await exchange.answer(
            b"ok",
            b"Set-Cookie: a=1; Path=/",
            b"Set-Cookie: authentik_proxy_115fa190=stolen",
            b"set-cookie:  __Host-authentik_proxy_115fa190_login=x",
            b"Set-Cookie: b=2",
        )

    async with site(cookies) as (client, application, front):
        front.more = [(b"Set-Cookie", b"authentik_proxy_115fa190=ours")]
        answer = await client.get("/", f"Cookie: bad pair; authentik_proxy_115fa190={'c' * 43}; a=1; big={'x' * 7000}")
        assert application.requests[0].one(b"Cookie") == b"bad pair; a=1; big=" + b"x" * 7000
        assert answer.all("Set-Cookie") == [b"a=1; Path=/", b"b=2", b"authentik_proxy_115fa190=ours"]


# -- connections -------------------------------------------------------------------------------------------------------


async def test_connections_are_kept_and_used_again() -> None:
    async with site(ok) as (client, application, front):
        for number in range(5):
            assert (await client.get(f"/{number}")).body == b"ok"
        assert application.connections == 1
        await front.until_ended(5)
        assert [ended.reused for ended in front.ended] == [False, True, True, True, True]


async def test_two_requests_in_one_piece_are_answered_in_order() -> None:
    async def echo(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.answer(exchange.seen.line)

    async with site(echo) as (client, _, _):
        one = b"GET /%d HTTP/1.1\r\nHost: proxy.example.com\r\n\r\n"
        two = b"POST /2 HTTP/1.1\r\nHost: proxy.example.com\r\nContent-Length: 3\r\n\r\nabc"
        await client.send(one % 1 + two + one % 3)
        assert [(await client.answer()).body for _ in range(3)] == [
            b"GET /1 HTTP/1.1",
            b"POST /2 HTTP/1.1",
            b"GET /3 HTTP/1.1",
        ]


async def closes_kept(exchange: Exchange) -> None:
    """Answers once per connection, and closes when it is asked again."""
    if exchange.seen.line.startswith(b"GET /first"):
        await exchange.answer()
    elif exchange.number == 1:
        exchange.close()
    else:
        await exchange.body()
        await exchange.answer(b"again")


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
async def test_a_kept_connection_that_has_ended_costs_nobody_an_answer(method: str) -> None:
    """The request crosses the closing of the connection: it is repeated if it may be."""
    async with site(closes_kept) as (client, application, front):
        await client.get("/first")
        answer = await client.get("/second", "Content-Length: 0", method=method)
        ended = await front.until_ended(2)
        if method == "POST":
            assert (answer.status, ended.reused, application.connections) == (502, True, 1)
        else:
            assert (answer.status, answer.body, application.connections) == (200, b"again", 2)


async def test_requests_that_must_not_be_repeated_take_young_connections_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_pool, "YOUNG_S", 0.0)
    async with site(closes_kept) as (client, application, _):
        await client.get("/first")
        answer = await client.get("/second", "Content-Length: 0", method="POST")
        assert (answer.status, answer.body, application.connections) == (200, b"again", 2)


async def test_nothing_is_repeated_once_a_part_of_a_body_was_sent() -> None:
    async def drop_second(exchange: Exchange) -> None:
        if exchange.seen.line.startswith(b"PUT"):
            await exchange.reader.readexactly(3)
            exchange.close(reset=True)
        else:
            await exchange.answer()

    async with site(drop_second) as (client, application, _):
        await client.get("/first")
        await client.send(b"PUT / HTTP/1.1\r\nHost: proxy.example.com\r\nContent-Length: 9\r\n\r\nabc")
        assert (await client.answer()).status == 502
        assert [seen.line for seen in application.requests] == [b"GET /first HTTP/1.1", b"PUT / HTTP/1.1"]


async def test_what_arrives_on_an_idle_connection_ends_it() -> None:
    closed = asyncio.Event()
    go = asyncio.Event()

    async def unasked(exchange: Exchange) -> None:
        await exchange.answer(str(exchange.number).encode())
        if exchange.number == 1:
            await go.wait()
            await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
            with contextlib.suppress(ConnectionError):
                await exchange.reader.read()
            closed.set()

    async with site(unasked) as (client, application, front):
        assert (await client.get("/1")).body == b"1"
        await front.until_ended()
        assert front.forwarder.pool.idle == 1
        go.set()
        await closed.wait()
        assert (await client.get("/2")).body == b"2"
        assert application.connections == 2


async def test_a_second_answer_in_the_same_piece_is_nobodys() -> None:
    async def twice(exchange: Exchange) -> None:
        one = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d"
        await exchange.send(one % exchange.number + one % 9)

    async with site(twice) as (client, application, _):
        assert [(await client.get("/")).body for _ in range(3)] == [b"1", b"2", b"3"]
        assert application.connections == 3


# -- framing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1000, 300_000, 3 * MIB])
@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_of_requests(size: int, chunked: bool) -> None:
    async with site(ok) as (client, application, front):
        body = bytes(index & 0xFF for index in range(256)) * (size // 256 + 1)
        body = body[:size]
        head = b"POST / HTTP/1.1\r\nHost: proxy.example.com\r\n"
        if chunked:
            parts = [b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in pieces(body, 70_001)]
            await client.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(parts) + b"0\r\n\r\n")
        else:
            await client.send(head + b"Content-Length: %d\r\n\r\n" % size + body)
        assert (await client.answer()).status == 200
        assert application.requests[0].body == body
        assert (await front.until_ended()).received == size
        assert (await client.get("/next")).status == 200  # the connection goes on
        assert application.connections == 1


def pieces(body: bytes, size: int) -> list[bytes]:
    """A body in pieces."""
    return [body[at : at + size] for at in range(0, len(body), size)]


async def test_bodies_of_answers() -> None:
    body = bytes(range(256)) * 4000

    async def by_path(exchange: Exchange) -> None:
        path = exchange.seen.line.split(b" ")[1]
        if path == b"/length":
            await exchange.answer(body)
        elif path == b"/chunked":
            head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
            parts = [b"%X\r\n%b\r\n" % (len(part), part) for part in pieces(body, 9999)]
            end = b"0\r\nX-Sum: 1\r\nSet-Cookie: a=1\r\nX-Authentik-Uid: root\r\nContent-Length: 5\r\n\r\n"
            await exchange.send(head, *parts, end)
        elif path == b"/close":
            await exchange.send(b"HTTP/1.1 200 OK\r\n\r\n", body)
            exchange.close()
        else:
            await exchange.send(b"HTTP/1.0 200 OK\r\n\r\n", body)
            exchange.close()

    async with site(by_path) as (client, _, front):
        for path in ("/length", "/chunked", "/close", "/old"):
            answer = await client.get(path)
            assert (answer.status, answer.complete) == (200, True)
            assert answer.body == body
            if path == "/chunked":
                assert answer.trailers == [(b"X-Sum", b"1")]
        ended = await front.until_ended(4)
        assert ended.sent == len(body)


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified", "200 OK"])
async def test_answers_without_a_body(status: str) -> None:
    async def bare(exchange: Exchange) -> None:
        await exchange.send(f"HTTP/1.1 {status}\r\nContent-Length: 7\r\nETag: x\r\n\r\n".encode())

    async with site(bare) as (client, application, _):
        for _ in range(2):
            answer = await client.get("/", method="HEAD")
            assert answer.one("ETag") == "x"
            assert answer.one("Content-Length") == (None if status.startswith("204") else "7")
        assert application.connections == 1


async def test_http_1_0_clients_get_no_chunks() -> None:
    async def chunked(exchange: Exchange) -> None:
        if b"/length" in exchange.seen.line:
            await exchange.answer(b"abc")
        else:
            head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            await exchange.send(head + b"3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n")

    async with site(chunked) as (client, _, _):
        await client.send(b"GET /length HTTP/1.0\r\nHost: proxy.example.com\r\nConnection: keep-alive\r\n\r\n")
        answer = await client.answer()
        assert (answer.body, answer.one("Connection")) == (b"abc", "keep-alive")
        await client.send(b"GET / HTTP/1.0\r\nHost: proxy.example.com\r\nConnection: keep-alive\r\n\r\n")
        answer = await client.answer()
        assert answer.one("Transfer-Encoding") is None and answer.one("Connection") == "close"
        assert (answer.body, await client.at_end()) == (b"abc", True)


async def test_clients_that_want_to_close_are_closed() -> None:
    async with site(ok) as (client, _, _):
        answer = await client.get("/", "Connection: close")
        assert (answer.one("Connection"), answer.body, await client.at_end()) == ("close", b"ok", True)


async def test_trailers_of_requests_go_on_unless_they_could_be_taken_for_headers() -> None:
    async with site(ok) as (client, application, _):
        head = b"POST / HTTP/1.1\r\nHost: proxy.example.com\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"
        lines = b"X-Sum: 1\r\nX-Authentik-Username: root\r\nX_Authentik_Uid: root\r\nCookie: a\r\nX-Real-Ip: ::1\r\n"
        lines += b"Host: evil\r\nAuthorization: x\r\nContent-Length: 3\r\nTransfer-Encoding: x\r\n"
        await client.send(head + lines + b"\r\n")
        assert (await client.answer()).status == 200
        assert application.requests[0].trailers == [(b"X-Sum", b"1")]


# -- 100-continue ------------------------------------------------------------------------------------------------------

EXPECT = b"POST / HTTP/1.1\r\nHost: proxy.example.com\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"


async def test_100_comes_from_the_application() -> None:
    async def willing(exchange: Exchange) -> None:
        if b"/next" in exchange.seen.line:
            await exchange.answer()
            return
        assert exchange.seen.one(b"Expect") == b"100-continue"
        await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await exchange.body()
        await exchange.answer()

    async with site(willing) as (client, application, _):
        await client.send(EXPECT)
        assert (await client.head()).status == 100
        await client.send(b"abc")
        assert (await client.answer()).status == 200
        assert application.requests[0].body == b"abc"
        assert (await client.get("/next")).status == 200


async def test_an_application_can_refuse_before_the_body() -> None:
    async def unwilling(exchange: Exchange) -> None:
        await exchange.answer(b"too much", status=b"413 Too Large")

    async with site(unwilling) as (client, application, _):
        await client.send(EXPECT)
        answer = await client.answer()
        assert (answer.status, answer.body, answer.one("Connection")) == (413, b"too much", "close")
        assert application.requests[0].body == b""


async def test_an_application_that_does_not_know_100_gets_the_body_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upstream, "CONTINUE_S", 0.05)
    async with site(ok) as (client, application, _):
        await client.send(EXPECT)
        assert (await client.head()).status == 100
        await client.send(b"abc")
        assert (await client.answer()).status == 200
        assert application.requests[0].body == b"abc"


async def test_early_hints_go_on_and_other_interim_answers_do_not() -> None:
    async def hints(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await exchange.answer()

    async with site(hints) as (client, _, _):
        first = await client.get("/")
        assert (first.status, first.one("Link")) == (103, "</a>")
        assert (await client.answer()).body == b"ok"


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_above_the_limit_are_413(chunked: bool) -> None:
    async with site(ok, max_body=1000) as (client, application, front):
        head = b"POST / HTTP/1.1\r\nHost: proxy.example.com\r\nAccept: application/json\r\n"
        if chunked:
            await client.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + b"1f4\r\n" + b"x" * 500 + b"\r\n")
            await client.send(b"1f5\r\n" + b"x" * 501 + b"\r\n")
        else:
            await client.send(head + b"Content-Length: 1001\r\n\r\n")
        answer = await client.answer()
        assert answer.status == 413 and b'"error": "too_large"' in answer.body
        assert (await front.until_ended()).cause == "too_large"
        if not chunked:
            assert application.requests == []


async def test_a_body_at_the_limit_passes() -> None:
    async with site(ok, max_body=1000) as (client, application, _):
        await client.send(b"POST / HTTP/1.1\r\nHost: proxy.example.com\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)
        assert (await client.answer()).status == 200
        assert len(application.requests[0].body) == 1000


async def test_trace_would_show_our_headers_to_a_client() -> None:
    async with site(ok) as (client, application, _):
        answer = await client.get("/", method="TRACE")
        assert (answer.status, application.requests) == (405, [])
        assert "TRACE" not in (answer.one("Allow") or "")


# -- back-pressure -----------------------------------------------------------------------------------------------------


async def test_p07_a_client_that_does_not_read_holds_the_application_up() -> None:
    sent = 0

    async def flood(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
        for _ in range(64 * 16):
            await exchange.send(b"x" * 65_536)
            sent += 65_536

    async with site(flood) as (client, _, front):
        await client.send(b"GET / HTTP/1.1\r\nHost: proxy.example.com\r\n\r\n")
        assert (await client.head()).one("Content-Length") == str(64 * MIB)
        before = -1
        while before != sent:  # until nothing moves any more
            before = sent
            await asyncio.sleep(0.1)
        assert 0 < sent < 40 * MIB  # what sockets hold, and at most a few pieces here
        left = 64 * MIB
        while left:
            left -= len(await client.reader.read(left))
        assert (await front.until_ended()).sent == 64 * MIB


async def test_p07_an_application_that_does_not_read_holds_the_client_up() -> None:
    go = asyncio.Event()

    async def lazy(exchange: Exchange) -> None:
        await go.wait()
        await exchange.body()
        await exchange.answer()

    async with site(lazy) as (client, application, front):
        client.writer.write(b"POST / HTTP/1.1\r\nHost: proxy.example.com\r\nContent-Length: %d\r\n\r\n" % (32 * MIB))
        written = 0

        async def upload() -> None:
            nonlocal written
            while written < 32 * MIB:
                await client.send(b"x" * 65_536)
                written += 65_536

        task = asyncio.create_task(upload())
        before = -1
        while before != written:
            before = written
            await asyncio.sleep(0.1)
        assert 0 < written < 24 * MIB
        go.set()
        await task
        assert (await client.answer()).status == 200
        assert len(application.requests[0].body) == (await front.until_ended()).received == 32 * MIB


async def test_w43_streams_are_passed_on_as_they_come() -> None:
    step = asyncio.Event()

    async def events(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(5):
            await exchange.send(b"9\r\ndata: %d\n\n\r\n" % number)
            await step.wait()
            step.clear()
        await exchange.send(b"0\r\n\r\n")

    # silence that is longer than the idle time-out of other answers
    async with site(events, upstream_idle_timeout=0.05) as (client, _, front):
        await client.send(b"GET / HTTP/1.1\r\nHost: proxy.example.com\r\n\r\n")
        assert (await client.head()).status == 200
        for number in range(5):
            assert await client.reader.readuntil(b"\n\n\r\n") == b"9\r\ndata: %d\n\n\r\n" % number
            await asyncio.sleep(0.15)
            step.set()
        assert await client.reader.readuntil(b"0\r\n\r\n") == b"0\r\n\r\n"
        assert (await front.until_ended()).cause is None


@pytest.mark.parametrize("closes", [False, True])
def test_an_answer_before_the_end_of_the_request_is_delivered_whole(closes: bool) -> None:
    """A refusal in the middle of an upload: the client is still sending, and must not lose the answer by a reset.

    On the daemon's own loop: asyncio's gives up reading when it cannot send.
    """

    async def refuses(exchange: Exchange) -> None:
        await exchange.reader.readexactly(1000)
        await exchange.answer(b"enough" * 100, status=b"403 Forbidden")
        if closes:
            exchange.close()
        else:
            with contextlib.suppress(ConnectionError):
                await exchange.reader.read()

    async def scenario() -> None:
        async with site(refuses) as (client, _, front):
            await client.send(b"POST / HTTP/1.1\r\nHost: proxy.example.com\r\nContent-Length: %d\r\n\r\n" % (16 * MIB))

            async def upload() -> None:
                with contextlib.suppress(ConnectionError):
                    for _ in range(256):
                        await client.send(b"x" * 65_536)

            task = asyncio.create_task(upload())
            answer = await client.answer()
            ended = await front.until_ended()
            assert (answer.status, answer.body, answer.complete) == (403, b"enough" * 100, True), ended
            assert answer.one("Connection") == "close"
            assert front.forwarder.pool.idle == front.forwarder.pool.busy == 0
            task.cancel()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


async def test_an_answer_may_overtake_the_request_and_both_go_on() -> None:
    """An application that answers while it reads: both directions stream."""

    async def echo(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        length = int(exchange.seen.one(b"Content-Length") or 0)
        while length:
            data = await exchange.reader.read(min(length, 65_536))
            length -= len(data)
            await exchange.send(b"%x\r\n%b\r\n" % (len(data), data.upper()))
        await exchange.send(b"0\r\n\r\n")

    async with site(echo) as (client, _, front):
        await client.send(b"POST / HTTP/1.1\r\nHost: proxy.example.com\r\nContent-Length: 6\r\n\r\nabc")
        assert (await client.head()).status == 200
        assert await client.reader.readuntil(b"ABC\r\n") == b"3\r\nABC\r\n"
        await client.send(b"def")
        assert await client.reader.readuntil(b"0\r\n\r\n") == b"3\r\nDEF\r\n0\r\n\r\n"
        assert (await front.until_ended()).cause is None
