"""``outposts doctor``: the way to the core, step by step: name, TCP, TLS, token, clock, WebSocket.

Each step needs the one before. The first that fails is the one to look at, so the rest is not tried then.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp
import httpx
import msgspec
from cryptography import x509
from OpenSSL import SSL
from yarl import URL

from common import endpoint
from common.api import client_for
from common.endpoint import Endpoint
from common.records import OutpostRecord, Page
from common.settings import Settings
from common.transport import connector, proxy_for, tls_context
from common.version import user_agent
from outposts.doctor_report import Report

STEP_S = 5.0  # for a name, a connection or a handshake; each takes far below one on a network that works
CALL_S = 15.0  # for one call; a core that is busy answers within some seconds
EXPIRY_WARNING_S = 14 * 86400.0  # two weeks: renewals that did not happen by then need a person
# A code of an authenticator is good for 30 s before and after; tokens of the core are refused when they come too early.
CLOCK_WARNING_S = 5.0
CLOCK_FAILURE_S = 30.0
READ_SIZE = 65536  # bytes of a TLS handshake read at once
INSTANCES = "/outposts/instances/"
TOKEN = re.compile(r"[!-~]+")  # what a header can hold without spaces; the core's tokens are letters and digits


async def reach(report: Report, settings: Settings, now: Callable[[], float]) -> list[OutpostRecord] | None:
    """All steps up to the outposts that the token may see; None if one failed."""
    where = endpoint.endpoint(settings)
    if not await _connect(report, settings, where, now):
        return None
    return await _token(report, settings, where, now)


# Name, connection, certificate


async def _connect(report: Report, settings: Settings, where: Endpoint, now: Callable[[], float]) -> bool:
    if where.socket_path is not None:
        return await _unix(report, where.socket_path)
    proxy = proxy_for(where)
    url = urlsplit(proxy if proxy is not None else where.origin)
    try:
        host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    except ValueError:
        report.fail("dns", "the proxy's address is none", "correct HTTP_PROXY or HTTPS_PROXY")
        return False
    setting = "HTTP_PROXY, HTTPS_PROXY or NO_PROXY" if proxy is not None else "AUTHENTIK_HOST"
    through = "the proxy " if proxy is not None else ""
    addresses = await _resolve(report, host, port, through, setting)
    if not addresses or not await _tcp(report, addresses, port, through, setting):
        return False
    if where.scheme != "https":
        if not _is_loopback(addresses):
            report.warn(
                "tls", "plain HTTP: passwords and the token can be read on the way", "AUTHENTIK_HOST: use https://"
            )
        return True
    if proxy is not None:
        report.ok("tls", "inside the proxy's tunnel; the next check shows whether it holds")
        return True
    return await _tls(report, settings, host, port, now)


async def _unix(report: Report, path: str) -> bool:
    try:
        async with asyncio.timeout(STEP_S):
            _, writer = await asyncio.open_unix_connection(path)
    except (OSError, TimeoutError) as error:
        report.fail("tcp", f"nobody answers on {path}: {_reason(error)}", "AUTHENTIK_HOST: is this the core's socket?")
        return False
    writer.close()
    report.ok("tcp", f"connected to {path}")
    return True


async def _resolve(report: Report, host: str, port: int, through: str, setting: str) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(STEP_S):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError) as error:
        report.fail(
            "dns",
            f"{through}{host} has no address: {_reason(error)}",
            f"{setting}: check the name; in a container, its DNS server and search domains",
        )
        return []
    addresses = list(dict.fromkeys(str(where[0]) for *_, where in found))
    report.ok("dns", f"{through}{host}: {', '.join(addresses)}")
    return addresses


async def _tcp(report: Report, addresses: list[str], port: int, through: str, setting: str) -> bool:
    good, bad = [], []
    for address in addresses:
        try:
            async with asyncio.timeout(STEP_S):
                _, writer = await asyncio.open_connection(address, port)
        except (OSError, TimeoutError) as error:
            bad.append(f"{address}: {_reason(error)}")
        else:
            writer.close()
            good.append(address)
    advice = f"{setting}: check host and port, and the firewalls on the way"
    if not good:
        report.fail("tcp", f"{through}port {port} does not answer ({'; '.join(bad)})", advice)
    elif bad:
        report.warn("tcp", f"port {port} answers on {', '.join(good)}, not on {'; '.join(bad)}", advice)
    else:
        report.ok("tcp", f"{through}port {port} answers on {', '.join(good)}")
    return bool(good)


async def _tls(report: Report, settings: Settings, host: str, port: int, now: Callable[[], float]) -> bool:
    trouble = await _handshake(tls_context(settings), host, port)
    chain = await _chain(host, port)
    if not chain:
        report.fail(
            "tls",
            f"no TLS 1.2 or newer on port {port}: {_reason(trouble) if trouble else 'the handshake does not end'}",
            "AUTHENTIK_HOST: http:// if the core speaks plain HTTP there, else the port of its HTTPS listener",
        )
        return False
    leaf = chain[0]
    ends = leaf.not_valid_after_utc
    left_s = ends.timestamp() - now()
    names = f"{_name(leaf.subject)}, issued by {_name(leaf.issuer)}"
    end = f"{'ended' if left_s < 0 else 'ends'} {ends:%Y-%m-%d} ({abs(left_s) / 86400:.0f} days)"
    if settings.insecure:
        report.warn(
            "tls",
            f"certificate of {names}, {end}, is not checked: anybody on the way can read passwords",
            "remove AUTHENTIK_INSECURE; SSL_CERT_FILE=/path/ca.pem trusts a certificate authority of your own",
        )
        return True
    if isinstance(trouble, ssl.SSLCertVerificationError):
        report.fail(
            "tls",
            f"certificate of {names}, {end}: {trouble.verify_message}",
            _distrust(trouble, chain, host, ended=left_s < 0),
        )
        return False
    if trouble is not None:
        report.fail("tls", f"handshake failed: {_reason(trouble)}", "look at the TLS settings in front of the core")
        return False
    if left_s < EXPIRY_WARNING_S:
        report.warn("tls", f"certificate of {names}, {end}", "renew the certificate of the core")
    else:
        report.ok("tls", f"certificate of {names}, {end}")
    return True


def _distrust(trouble: ssl.SSLCertVerificationError, chain: list[x509.Certificate], host: str, *, ended: bool) -> str:
    """What to do about a certificate that is not trusted."""
    text = (trouble.verify_message or "").lower()
    if ended or "expired" in text or "not yet valid" in text:
        return f"renew the certificate of the core, for the name {host}, or set this machine's clock"
    if "mismatch" in text or "doesn't match" in text or "not valid for" in text:
        return f"AUTHENTIK_HOST: use a name that the certificate has, or issue one for {host}"
    if len(chain) == 1 and chain[0].issuer != chain[0].subject:
        return (
            "the server sends its own certificate only: have it send the intermediate too, or set SSL_CERT_FILE to "
            "the authority that issued it"
        )
    return "set SSL_CERT_FILE to the authority that issued it (PEM); AUTHENTIK_INSECURE=true is for tests only"


async def _handshake(context: ssl.SSLContext, host: str, port: int) -> Exception | None:
    """What went wrong when connecting as a daemon does."""
    try:
        async with asyncio.timeout(STEP_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
    except (OSError, ValueError, TimeoutError) as error:
        return error
    writer.close()
    return None


async def _chain(host: str, port: int) -> list[x509.Certificate]:
    """The certificates that a server shows, leaf first, unchecked; empty without a handshake."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_verify(SSL.VERIFY_NONE)
    connection = SSL.Connection(context, None)
    if not _is_address(host):
        connection.set_tlsext_host_name(host.encode("idna"))
    connection.set_connect_state()
    try:
        async with asyncio.timeout(STEP_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                await _shake(connection, reader, writer)
            finally:
                writer.close()
    except (SSL.Error, OSError, EOFError, UnicodeError, TimeoutError):
        return []
    return [certificate.to_cryptography() for certificate in connection.get_peer_cert_chain() or []]


async def _shake(connection: SSL.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        try:
            connection.do_handshake()
            return
        except SSL.WantReadError:
            pass
        try:
            writer.write(connection.bio_read(READ_SIZE))
        except SSL.WantReadError:
            pass  # nothing to say before the other side has
        data = await reader.read(READ_SIZE)
        if not data:
            raise EOFError
        connection.bio_write(data)


# Token and clock


async def _token(
    report: Report, settings: Settings, where: Endpoint, now: Callable[[], float]
) -> list[OutpostRecord] | None:
    if not TOKEN.fullmatch(settings.token):
        report.fail(
            "token",
            "it has spaces, line ends or letters that no token has",
            "AUTHENTIK_TOKEN: copy it anew, or look at what is in the file",
        )
        return None
    headers = {
        "Authorization": f"Bearer {settings.token}",
        "Accept": "application/json",
        "User-Agent": user_agent(),
    }
    client = client_for(settings)
    try:
        async with asyncio.timeout(CALL_S):
            answer = await client.get(where.url(endpoint.api_target(INSTANCES)), headers=headers)
    except (httpx.TimeoutException, TimeoutError):
        report.fail(
            "token", f"the core does not answer within {CALL_S:g} s", "look at the core: is it starting, or overloaded?"
        )
        return None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        report.fail("token", f"the call failed: {type(error).__name__}", "AUTHENTIK_HOST: is this the core's address?")
        return None
    finally:
        await client.aclose()
    _clock(report, answer, now())
    found, advice = _judge(answer, where)
    if advice:
        report.fail("token", found, advice)
        return None
    try:
        outposts = msgspec.json.decode(answer.content, type=Page[OutpostRecord]).results
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        report.fail(
            "token", "the answer is no list of outposts", "AUTHENTIK_HOST: is this the core, or a page in front?"
        )
        return None
    report.ok("token", "the core accepts it")
    return outposts


def _judge(answer: httpx.Response, where: Endpoint) -> tuple[str, str]:
    """What an answer to the first call means, and what to do about it; no advice if it is good."""
    status = answer.status_code
    is_json = answer.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
    if status in (401, 403) and is_json:
        return (
            f"the core refuses the token ({status}: {_detail(answer)})",
            "AUTHENTIK_TOKEN: copy it anew from the core, Applications, Outposts, View Deployment Info",
        )
    if status in (401, 403):
        return (
            f"something in front of the core refuses the call ({status}, not the core's JSON)",
            "let AUTHENTIK_HOST name the core itself, or have the proxy in front let /api/ and /ws/ through",
        )
    if status == 404:
        return (
            f"there is no authentik API under {where.origin}{where.base_path} (404)",
            "AUTHENTIK_HOST: host, port and sub-path of the core, without /api or /if",
        )
    if 300 <= status < 400:
        return (
            f"the answer is a redirect to {answer.headers.get('location', 'nowhere')}",
            "AUTHENTIK_HOST: the address that it leads to (https:// instead of http://?)",
        )
    if status == 429:
        return "the core has had too many calls (429)", "wait, then ask again"
    if status >= 500:
        return f"the core cannot answer ({status})", "look at the core's log: is it starting, or its database away?"
    if not is_json:
        return (
            f"the answer is no JSON ({status}): this is not the core's API",
            "AUTHENTIK_HOST: the core itself, not a login page in front of it",
        )
    if not answer.is_success:
        return f"the core refuses the call ({status}: {_detail(answer)})", "look at the core's log"
    return "", ""


def _detail(answer: httpx.Response) -> str:
    try:
        detail = msgspec.json.decode(answer.content).get("detail", "")
    except (msgspec.MsgspecError, AttributeError, UnicodeDecodeError, RecursionError):
        return "no reason given"
    return str(detail) or "no reason given"


def _clock(report: Report, answer: httpx.Response, now: float) -> None:
    """Compare clocks by the ``Date`` header (RFC 9110 §6.6.1); it has whole seconds."""
    try:
        said = parsedate_to_datetime(answer.headers["date"])
        difference = now - (said if said.tzinfo is not None else said.replace(tzinfo=UTC)).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        report.warn(
            "clock", "the core's answer has no usable Date header", "compare the clocks of both machines by hand"
        )
        return
    side = "ahead of" if difference > 0 else "behind"
    advice = "let both machines keep their time by NTP: codes of authenticators and tokens are good for seconds only"
    if abs(difference) <= CLOCK_WARNING_S:
        report.ok("clock", "this clock and the core's agree")
    elif abs(difference) <= CLOCK_FAILURE_S:
        report.warn("clock", f"this clock is {abs(difference):.0f} s {side} the core's", advice)
    else:
        report.fail("clock", f"this clock is {abs(difference):.0f} s {side} the core's", advice)


# Outpost and WebSocket


def outpost(report: Report, found: list[OutpostRecord], wanted: str | None) -> OutpostRecord | None:
    """The outpost that a daemon of the wanted type would serve; None if there is none."""
    if not found:
        report.fail(
            "outpost",
            "the token is good but shows no outpost",
            "AUTHENTIK_TOKEN: the token of the outpost (Outposts, View Deployment Info), not one of a user",
        )
        return None
    fitting = [one for one in found if wanted is None or one.type == wanted]
    if not fitting:
        report.fail(
            "outpost",
            f"the token's outpost {found[0].name!r} is of type {found[0].type}, not {wanted}",
            f"AUTHENTIK_TOKEN: the token of an outpost of type {wanted}, or start `outposts {found[0].type}`",
        )
        return None
    chosen = fitting[0]
    if len(found) > 1:
        report.warn(
            "outpost",
            f"the token shows {len(found)} outposts, {chosen.name!r} ({chosen.type}) would be served",
            "AUTHENTIK_TOKEN: the token of one outpost; this is one of an administrator",
        )
    else:
        report.ok("outpost", f"{chosen.name!r}, type {chosen.type}, refreshed every {chosen.refresh_interval_s:g} s")
    return chosen


async def websocket(report: Report, settings: Settings, outpost_pk: str) -> None:
    """Whether the WebSocket opens. Nothing is said on it, so the core counts no outpost more."""
    where = endpoint.endpoint(settings)
    url = URL(where.websocket_url(outpost_pk, str(uuid.uuid4()), 0), encoded=True)
    headers = {"Authorization": f"Bearer {settings.token}", "User-Agent": user_agent()}
    proxy = proxy_for(where)
    try:
        async with (
            asyncio.timeout(CALL_S),
            aiohttp.ClientSession(
                connector=connector(settings, where, limit=1), cookie_jar=aiohttp.DummyCookieJar()
            ) as session,
            session.ws_connect(url, headers=headers, proxy=proxy, timeout=aiohttp.ClientWSTimeout(ws_close=1.0)),
        ):
            report.ok("websocket", "opens")
    except aiohttp.WSServerHandshakeError as error:
        if error.status == 403:
            advice = "AUTHENTIK_TOKEN: of another outpost? Else let what is in front of the core pass Authorization on"
        else:
            advice = "have what is in front of the core pass WebSockets on (Upgrade and Connection headers, path /ws/)"
        report.fail("websocket", f"the handshake is answered with {error.status}", advice)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        report.fail(
            "websocket",
            f"does not open: {_reason(error)}",
            "have what is in front of the core pass WebSockets on (path /ws/); until then changes come late",
        )


# Words


def _reason(error: BaseException) -> str:
    """The system's own words; never a library's message, which may quote what was sent."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):
        return str(error.reason or "TLS").replace("_", " ").lower()
    if isinstance(error, OSError) and isinstance(error.strerror, str):
        # asyncio puts words and the address of its own there; names that do not resolve have negative numbers
        return os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror
    return type(error).__name__


def _name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME) or name.get_attributes_for_oid(
        x509.NameOID.ORGANIZATION_NAME
    )
    return str(found[0].value) if found else (name.rfc4514_string() or "nobody")


def _is_address(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except OSError:
        return False
    return True


def _is_loopback(addresses: list[str]) -> bool:
    return all(address == "::1" or address.startswith("127.") for address in addresses)


def day(seconds: float) -> str:
    """A unix time as a day."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
