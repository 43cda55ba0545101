"""Applications that fail in every way, clients that leave or lie, and what becomes of time: nothing hangs, no half
answer looks whole, and nothing of one answer gets into another.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import structs

from common.tls import CertificatePair, self_signed
from outposts.proxy.exchange import Cause
from tests.proxy.site import X, provider
from tests.proxy.upstream_site import Exchange, site


def says(*parts: bytes, close: bool = True) -> Any:
    """An application that sends these octets, whatever it is asked."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(*parts)
        if close:
            exchange.close()
        else:
            await exchange.reader.read()

    return script


OK = b"HTTP/1.1 200 OK\r\n"
NO_ANSWERS = {
    "nothing": b"",
    "half a status line": b"HTTP/1.1 20",
    "half a head": OK + b"Content-Le",
    "no HTTP": b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
    "HTTP/0.9": b"<html>hello</html>\r\n\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\n\r\n",
    "frames of HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(40),
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "status 0": b"HTTP/1.1 099 OK\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok\r\n\r\n",
    "bare CR in a value": OK + b"X: a\rb\r\nContent-Length: 2\r\n\r\nok",
    "NUL in a value": OK + b"X: a\0b\r\nContent-Length: 2\r\n\r\nok",
    "folded line": OK + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    "space before colon": OK + b"Content-Length : 2\r\n\r\nok",
    "no name": OK + b": x\r\nContent-Length: 2\r\n\r\nok",
    "no colon": OK + b"hello\r\nContent-Length: 2\r\n\r\nok",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "the same length twice": OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "list of lengths": OK + b"Content-Length: 2, 2\r\n\r\nok",
    "negative length": OK + b"Content-Length: -2\r\n\r\nok",
    "signed length": OK + b"Content-Length: +2\r\n\r\nok",
    "length in hexadecimal": OK + b"Content-Length: 0x2\r\n\r\nok",
    "length beyond measure": OK + b"Content-Length: " + b"9" * 40 + b"\r\n\r\nok",
    "empty length": OK + b"Content-Length: \r\n\r\nok",
    "length and chunks": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "another coding": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding with a tab": OK + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "coding twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "huge head": OK + b"X: " + b"x" * 300_000 + b"\r\n\r\n",
    "endless head": OK + b"X: y\r\n" * 50_000,
    "too many headers": OK + b"X: y\r\n" * 600 + b"\r\n",
    "endless interim answers": b"HTTP/1.1 102 Processing\r\n\r\n" * 40,
    "101 that nobody asked for": b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
}


@pytest.mark.parametrize("name", NO_ANSWERS)
async def test_what_is_no_answer_is_502(name: str) -> None:
    async with site(says(NO_ANSWERS[name])) as (client, application, front):
        answer = await client.get("/", "Accept: application/json")
        assert (answer.status, answer.complete) == (502, True)
        ended = await front.until_ended()
        assert json.loads(answer.body)["error"] == ended.cause == (Cause.CLOSED if name == "nothing" else Cause.BROKEN)
        assert front.forwarder.pool.idle == 0
        application.script = says(OK + b"Content-Length: 2\r\n\r\nok")
        assert (await client.get("/")).body == b"ok"  # the client's connection is not to blame


BROKEN_BODIES = {
    "cut": OK + b"Content-Length: 10\r\n\r\n12345",
    "cut between chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
    "cut in a chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n6\r\n12345",
    "cut in trailers": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\nX: y\r\n",
    "no size": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\nxyz\r\n",
    "signed size": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n+5\r\n12345\r\n0\r\n\r\n",
    "size with 0x": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0x5\r\n12345\r\n0\r\n\r\n",
    "size that is too large": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n" + b"f" * 16 + b"\r\n",
    "chunk longer than its size": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n1234567\r\n0\r\n\r\n",
    "chunk lines with bare LF": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n5\n12345\n0\n\n",
    "endless size": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n1;" + b"x" * 5000,
    "trailer that is none": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\nhello\r\n\r\n",
    "endless trailers": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n" + b"X: y\r\n" * 5000,
}


@pytest.mark.parametrize("name", BROKEN_BODIES)
async def test_half_an_answer_never_looks_whole(name: str) -> None:
    head, mark, body = BROKEN_BODIES[name].partition(b"\r\n\r\n")
    go = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(head + mark + body[:4])
        await go.wait()
        await exchange.send(body[4:])
        exchange.close()

    async with site(script) as (client, _, front):
        await client.send(b"GET / HTTP/1.1\r\nHost: proxy.example.com\r\n\r\n")
        answer = await client.head()
        assert answer.status == 200
        go.set()
        with contextlib.suppress(ConnectionError):
            left = await client.reader.read()
            assert not left.endswith(b"0\r\n\r\n") and len(left) < 30
        ended = await front.until_ended()
        assert ended.cause is Cause.CUT and front.forwarder.pool.idle == 0


async def test_an_answer_in_drops_is_an_answer() -> None:
    whole = OK + b"Transfer-Encoding: chunked\r\nX-A: b\r\n\r\n2;x=y\r\nok\r\n0\r\nX-T: 1\r\n\r\n"

    async def drips(exchange: Exchange) -> None:
        for index in range(len(whole)):
            await exchange.send(whole[index : index + 1])
            await asyncio.sleep(0)

    async with site(drips) as (client, application, _):
        for _ in range(2):
            answer = await client.get("/")
            assert (answer.status, answer.body, answer.trailers) == (200, b"ok", [(b"X-T", b"1")])
        assert application.connections == 1


@pytest.mark.parametrize("when", ["at once", "in the head", "in the body"])
async def test_resets(when: str) -> None:
    sent = {"at once": b"", "in the head": OK + b"X: ", "in the body": OK + b"Content-Length: 9\r\n\r\n123"}[when]
    read = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(sent)
        if when == "in the body":
            await read.wait()
        exchange.close(reset=True)

    async with site(script) as (client, _, front):
        await client.send(b"GET / HTTP/1.1\r\nHost: proxy.example.com\r\n\r\n")
        assert (await client.head()).status == (200 if when == "in the body" else 502)
        read.set()
        assert (await front.until_ended()).cause in (Cause.CUT, Cause.CLOSED, Cause.BROKEN)


async def test_p06_w49_an_application_that_is_down() -> None:
    async with site(says()) as (client, application, front):
        await application.close()
        answer = await client.get("/", "Accept: text/html")
        assert answer.status == 502 and b"Failed to connect to backend." in answer.body
        assert answer.one("Content-Type") == "text/html; charset=utf-8" and answer.one("Retry-After") == "10"
        assert b"script" not in answer.body and "default-src 'none'" in (answer.one("Content-Security-Policy") or "")
        assert str(application_port(front)).encode() not in answer.body  # for superusers only
        answer = await client.get("/", "Accept: application/json")
        assert json.loads(answer.body)["error"] == "refused"
        front.session = {"claims": {"ak_proxy": {"is_superuser": True}}}
        answer = await client.get("/", "Accept: application/json")
        assert str(application_port(front)) in json.loads(answer.body)["reason"]
        application.close = lambda: asyncio.sleep(0)  # type: ignore[assignment,method-assign,return-value]


def application_port(front: Any) -> int:
    """Where the front looks for its application."""
    return int(front.provider.upstream.host.port)


async def test_w46_a_name_without_address() -> None:
    async with site(says()) as (client, _, front):
        front.provider = provider(structs.replace(X, internal_host="http://nowhere.invalid"))
        assert (await client.get("/")).status == 502
        assert (await front.until_ended()).cause is Cause.NAME


# -- time --------------------------------------------------------------------------------------------------------------


async def test_w46_no_head_in_time_is_504() -> None:
    async with site(says(OK, close=False), upstream_response_timeout=0.05) as (client, _, front):
        answer = await client.get("/", "Accept: application/json")
        assert (answer.status, json.loads(answer.body)["error"]) == (504, "response_timeout")
        assert front.forwarder.pool.busy == 0


async def test_w46_no_connection_in_time_is_504() -> None:
    """TLS is part of the connection: here nobody ever answers the client's hello."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server, site(says()) as (client, _, front):
        port = server.sockets[0].getsockname()[1]
        record = structs.replace(X, internal_host=f"https://127.0.0.1:{port}")
        front.provider = provider(record, upstream_connect_timeout=0.05)
        answer = await client.get("/", "Accept: application/json")
        assert (answer.status, json.loads(answer.body)["error"]) == (504, "connect_timeout")


async def test_an_answer_that_stops_is_cut() -> None:
    script = says(OK + b"Content-Length: 9\r\n\r\n123", close=False)
    async with site(script, upstream_idle_timeout=0.05) as (client, _, front):
        answer = await client.get("/")
        assert (answer.status, answer.body, answer.complete) == (200, b"123", False)
        assert (await front.until_ended()).cause is Cause.IDLE


async def test_a_client_that_stops_in_its_body_is_408() -> None:
    async def reads(exchange: Exchange) -> None:
        with contextlib.suppress(ConnectionError):
            await exchange.reader.read()

    async with site(reads, upstream_idle_timeout=0.05) as (client, _, front):
        await client.send(b"POST / HTTP/1.1\r\nHost: proxy.example.com\r\nContent-Length: 9\r\n\r\n123")
        assert (await client.answer()).status == 408
        assert (await front.until_ended()).cause is Cause.SLOW_BODY


# -- clients -----------------------------------------------------------------------------------------------------------


async def test_w41_a_client_that_leaves_frees_the_application() -> None:
    asked, freed = asyncio.Event(), asyncio.Event()

    async def waits(exchange: Exchange) -> None:
        asked.set()
        with contextlib.suppress(ConnectionError):
            await exchange.reader.read()
        freed.set()

    async with site(waits) as (client, _, front):
        await client.send(b"GET / HTTP/1.1\r\nHost: proxy.example.com\r\n\r\n")
        await asked.wait()
        client.close()
        await freed.wait()
        ended = await front.until_ended()
        assert (ended.cause, ended.status) == (Cause.CLIENT_GONE, 499)


async def test_a_client_that_leaves_within_its_body_sends_no_whole_request() -> None:
    got: list[bytes] = []
    asked, over = asyncio.Event(), asyncio.Event()

    async def reads(exchange: Exchange) -> None:
        asked.set()
        with contextlib.suppress(ConnectionError):
            got.append(await exchange.reader.read())
        over.set()

    async with site(reads) as (client, _, _):
        await client.send(
            b"POST / HTTP/1.1\r\nHost: proxy.example.com\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        )
        await asked.wait()
        client.close()
        await over.wait()
        assert b"".join(got) in (b"3\r\nabc\r\n", b"")


SMUGGLED = b"GET /admin HTTP/1.1\r\nHost: proxy.example.com\r\n\r\n"
TWO_REQUESTS = {
    "length and chunks": b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (5 + len(SMUGGLED)),
    "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n0\r\n\r\n" % (5 + len(SMUGGLED)),
    "two lengths": b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED),
    "a coding that is none": b"Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n",
    "a coding twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "a coding after a list": b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": b"Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n",
    "a folded coding": b"Transfer-Encoding:\r\n chunked\r\nContent-Length: 0\r\n\r\n",
    "a signed length": b"Content-Length: +0\r\n\r\n",
    "a length in a list": b"Content-Length: 0, 0\r\n\r\n",
    "a length with a letter": b"Content-Length: 0a\r\n\r\n",
    "a name with NUL": b"Content-Length\0: 0\r\n\r\n",
}


@pytest.mark.parametrize("name", TWO_REQUESTS)
async def test_a_request_that_could_be_two_is_none(name: str) -> None:
    async with site(says(OK + b"Content-Length: 2\r\n\r\nok", close=False)) as (client, application, _):
        await client.send(b"POST / HTTP/1.1\r\nHost: proxy.example.com\r\n" + TWO_REQUESTS[name] + SMUGGLED)
        block = await client.reader.readuntil(b"\r\n")
        assert block.split(b" ")[1] in (b"400", b"501")
        assert all(b"/admin" not in seen.line for seen in application.requests)
        assert application.requests == []


@pytest.mark.parametrize(
    "body", [b"3\r\nabcd\r\n0\r\n\r\n", b"-1\r\n", b"3\nabc\n0\n\n", b"3\r\nabc\r\n0\r\nbad\r\n\r\n"]
)
async def test_a_body_that_is_not_chunked_as_it_says_is_400(body: bytes) -> None:
    got: list[bytes] = []

    async def reads(exchange: Exchange) -> None:
        with contextlib.suppress(ConnectionError):
            got.append(await exchange.reader.read())

    async with site(reads) as (client, _, _):
        await client.send(b"POST / HTTP/1.1\r\nHost: proxy.example.com\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.send(body + SMUGGLED)
        block = await client.reader.readuntil(b"\r\n")
        assert block.split(b" ")[1] == b"400"
        assert not any(b"0\r\n\r\n" in one or b"/admin" in one for one in got)


# -- TLS ---------------------------------------------------------------------------------------------------------------


def served(pair: CertificatePair, tmp_path: Path, client_ca: str = "") -> ssl.SSLContext:
    """An application's TLS."""
    file = tmp_path / "pair.pem"
    file.write_text(pair.certificate_pem + pair.private_key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=client_ca)
    return context


def certificate(*names: str) -> CertificatePair:
    """A self-signed certificate."""
    return self_signed(datetime.datetime.now(datetime.UTC), names)


def own_certificate() -> CertificatePair:
    """A certificate for clients."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "outpost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return CertificatePair(
        "", "", made.public_bytes(serialization.Encoding.PEM).decode(), key.private_bytes(*form).decode()
    )


async def answers(exchange: Exchange) -> None:
    """The usual application."""
    await exchange.body()
    await exchange.answer()


async def test_p06_certificates_are_checked(tmp_path: Path) -> None:
    pair = certificate("localhost")
    async with site(answers, ssl=served(pair, tmp_path)) as (client, application, front):
        answer = await client.get("/", "Accept: application/json")
        assert (answer.status, json.loads(answer.body)["error"]) == (502, "tls")
        assert "not trusted" in (await front.until_ended()).detail
        record = structs.replace(X, internal_host=f"https://localhost:{application.port}")
        front.provider = provider(record, upstream_ca=pair.certificate_pem)
        assert [(await client.get("/")).body for _ in range(2)] == [b"ok", b"ok"]
        assert application.connections == 1  # none that was refused, and one that is kept
        front.provider = provider(structs.replace(record, internal_host_ssl_validation=False))
        assert (await client.get("/")).body == b"ok"


async def test_w46_another_server_name_and_a_client_certificate(tmp_path: Path) -> None:
    pair, own = certificate("app.internal"), own_certificate()
    context = served(pair, tmp_path, client_ca=own.certificate_pem)
    asked: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    async with site(answers, ssl=context) as (client, application, front):
        record = structs.replace(X, internal_host=f"https://localhost:{application.port}")
        settings = {
            "upstream_ca": pair.certificate_pem,
            "upstream_certificate": own.certificate_pem + own.private_key_pem,
        }
        front.provider = provider(record, **settings)
        assert (await client.get("/")).status == 502  # the certificate is for another name
        front.provider = provider(record, **settings, upstream_server_name="app.internal")
        assert (await client.get("/")).body == b"ok"
        assert asked == ["localhost", "app.internal"]
        front.provider = provider(record, upstream_ca=pair.certificate_pem, upstream_server_name="app.internal")
        assert (await client.get("/")).status == 502  # no certificate of ours


@pytest.mark.parametrize("setting", ["upstream_ca", "upstream_certificate"])
async def test_settings_that_cannot_be_used_are_502(setting: str) -> None:
    async with site(says()) as (client, _, front):
        front.provider = provider(structs.replace(X, internal_host="https://127.0.0.1:1"), **{setting: "no PEM"})
        answer = await client.get("/", "Accept: application/json")
        assert (answer.status, json.loads(answer.body)["error"]) == (502, "setup")
