"""Fuzz harness for everything that the proxy reads of clients: heads, hosts, URLs, cookies, states, whole requests.

As a test it runs a fixed number of inputs from a fixed seed. As a program it runs as many as asked for, says how far it
is, and ends with how often each reader gave each answer::

    python -m tests.fuzz.test_proxy 10000000 [seed]

Beyond "nothing but the answers" it checks what must never be: a request that passes without a session or an open place,
a redirect to a foreign host, a header that a client made.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httptools

from outposts.proxy import callback as callbacks
from outposts.proxy import rfc
from outposts.proxy import session as sessions
from outposts.proxy.cookies import MAX_VALUES, Reader, without_own
from outposts.proxy.decision import (
    Allow,
    Callback,
    Check,
    Login,
    Passed,
    Start,
    Tried,
    credential_from,
    judge,
    prepare,
)
from outposts.proxy.forwarding import upstream_request
from outposts.proxy.identity import IdentityOptions, folded
from outposts.proxy.session import StoredError
from outposts.proxy.state import StateError, answer_of, begin, new_ticket
from outposts.proxy.urls import (
    Host,
    Places,
    Url,
    canonical_path,
    is_own_path,
    parse_host,
    parse_url,
    return_url,
    safe_redirect,
)
from outposts.proxy.wire import Connection, HeadError, auth_request, gather, read_head
from tests.fuzz.damage import injured
from tests.proxy.site import ALL, NOW, STRANGER, TRUSTED, P, session_at

TEST_ROUNDS = 110_000  # a few seconds; the program form is for millions
TELL_EVERY_S = 60.0

SINGLE, DOMAIN, PROXY = (ALL.by_pk[pk] for pk in (1, 2, 3))
COOKIE = "c" * 43
SESSIONS = {one.pk: session_at(one, COOKIE) for one in ALL}
PLACES = (
    SINGLE.places,
    DOMAIN.places,
    Places(Url("http", Host("app.example.com", 9000), "/"), frozenset({Host("alias.org")})),
)

HEADS = [
    b"GET /outpost.goauthentik.io/auth/nginx HTTP/1.1\r\nHost: app.example.com\r\n"
    b"X-Original-URL: https://app.example.com/a?x=1\r\nCookie: a=1; authentik_proxy_c25d3005="
    + b"c" * 43
    + b"\r\n\r\n",
    b"GET /outpost.goauthentik.io/auth/nginx HTTP/1.1\r\nHost: app.example.com\r\nX-Original-URI: /public/x\r\n\r\n",
    b"GET /outpost.goauthentik.io/auth/traefik HTTP/1.1\r\nHost: auth.example.com\r\nX-Forwarded-Proto: https\r\n"
    b"X-Forwarded-Host: a.example.com\r\nX-Forwarded-Uri: /x?y\r\nX-Forwarded-Method: GET\r\n"
    b"Cookie: authentik_proxy_0846f340=" + b"c" * 43 + b"\r\n\r\n",
    b"GET /outpost.goauthentik.io/auth/envoy/a/../b HTTP/1.1\r\nHost: app.example.com\r\n"
    b"Authorization: Basic YTpi\r\n\r\n",
    b"POST /form HTTP/1.1\r\nHost: proxy.example.com\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n"
    b"Cookie: authentik_proxy_115fa190=" + b"c" * 43 + b"\r\nX-Authentik-Username: root\r\nx_authentik_groups: root\r\n"
    b"Connection: X-Authentik-Username, upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"GET /outpost.goauthentik.io/start?rd=https%3A%2F%2Fapp.example.com%2F HTTP/1.1\r\nHost: app.example.com\r\n\r\n",
]
FRAGMENTS = [
    "https", "http", "HTTPS", "javascript", "data", ":", "//", "/", "///", "\\", "/\\", "@", "?", "#", "&", "=", "%",
    "%2f", "%5c", "%00", "%0d%0a", "%2e", "%252e", "%e9", "%C3%A9", ".", "..", "...", ";", "..;", " ", "\t", "\r\n",
    "\n", "\x00", "\x7f", "\xe9", "\xc3\xa9", "\xef\xbc\x8e", "\xe2\x80\xa5", "app.example.com", "APP.example.com.",
    "auth.example.com", "a.example.com", "example.com", "evilexample.com", "evil.org", "alias.org",
    "proxy.example.com", ":443", ":80", ":9000", ":0", "[::1]", "[", "]", "127.0.0.1", "xn--", "rd=", "public", P,
    "outpost.goauthentik.io", "start", "callback", "X-authentik-logout=true", "X-authentik-auth-callback=true",
    "authentik_proxy_c25d3005=", "authentik_proxy_115fa190=", "_login", "__Host-", COOKIE, '"', ",", "a=1", "*", "-",
    "_", "0", "x" * 70,
]  # fmt: skip


def pieces(source: random.Random, most: int = 9) -> str:
    """Text out of what matters somewhere."""
    return "".join(source.choice(FRAGMENTS) for _ in range(source.randint(0, most)))


def url_text(source: random.Random) -> str:
    """Something near a URL."""
    start = source.choice(("", "https://", "https://app.example.com", "https://a.example.com/", "http://", "/", "//"))
    return start + pieces(source, 6)


def fuzz_head(source: random.Random) -> str:
    octets = injured(source, source.choice(HEADS))
    try:
        head = read_head(octets)
    except HeadError:
        return "error"
    if head is None:
        return "more"
    assert 0 < head.size <= len(octets)
    assert octets[: head.size].endswith(b"\r\n\r\n")
    assert not any(character in value for value in head.headers.values() for character in "\r\n\0")
    _agrees(octets[: head.size], head.target, head.headers)
    return "message"


def _agrees(octets: bytes, target: str, headers: dict[str, str]) -> None:
    """If another parser accepts the head too, it reads the same."""
    found: list[tuple[str, str]] = []

    class Reading:
        url = b""

        def on_url(self, url: bytes) -> None:
            self.url += url

        def on_header(self, name: bytes, value: bytes) -> None:
            found.append((name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")))

    reading = Reading()
    try:
        httptools.HttpRequestParser(reading).feed_data(octets)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return
    assert (reading.url.decode("latin-1"), gather(found)[0]) == (target, headers)


def fuzz_host(source: random.Random) -> str:
    host = parse_host(pieces(source, 4))
    if host is None:
        return "none"
    assert parse_host(str(host)) == host
    assert host.name == host.name.lower() and host.name.isascii()
    found = ALL.exactly(host)
    for one in found:
        assert one.places.holds(Host(host.name)) or one.external.host.name == host.name
    return "served" if found else "host"


def fuzz_path(source: random.Random) -> str:
    raw = "/" + pieces(source, 6)
    path = canonical_path(raw)
    own = is_own_path(raw)
    if path is None:
        return "own" if own else "none"
    assert (
        not {"", ".", ".."} & {part.partition(";")[0] for part in path.strip("/").split("/")} or path.strip("/") == ""
    )
    assert "\\" not in path and "%" not in path and "//" not in path
    assert own or not (path == P or path.startswith(P + "/"))
    return "path"


def fuzz_redirect(source: random.Random) -> str:
    places = source.choice(PLACES)
    text = url_text(source)
    if source.random() < 0.5:
        text = return_url("rd=" + text)
    target = safe_redirect(text, places)
    if target is None:
        return "none"
    _harmless(target, places)
    return "target"


def _harmless(target: str, places: Places) -> None:
    """Every reader of this URL goes to one of the places."""
    parts = urlsplit(target)
    assert target.isascii() and target.isprintable() and len(target) <= rfc.MAX_TARGET
    assert not set(target) & set(' "<>\\^`{|}#')
    assert parts.scheme == "https" or parts.scheme == places.home.scheme == "http"
    host = parse_host(parts.netloc)
    assert host is not None and places.holds(host)
    assert parts.path.startswith("/") and not parts.path.startswith("//")


def fuzz_cookies(source: random.Random) -> str:
    good = [f"{SINGLE.cookie.name}={letter * 43}" for letter in "cd"]
    pairs = [source.choice((*good, pieces(source, 3))) for _ in range(source.randint(0, 5))]
    header = source.choice(("; ", ";", ", ", " ")).join(pairs)
    values = Reader(SINGLE.cookie.name).values(header)
    assert len(values) <= MAX_VALUES and all(sessions.COOKIE_VALUE.fullmatch(value) for value in values)
    left = without_own(header)
    assert not any(part.strip(" \t").startswith(SINGLE.cookie.name + "=") for part in left.split(";"))
    return f"{min(len(values), 2)} values"


def fuzz_state(source: random.Random) -> str:
    ticket = new_ticket(source.randbytes, NOW)
    text = SINGLE.sealer.seal(begin(source.randbytes, NOW, ticket, target="https://app.example.com/"), source.randbytes)
    damaged = injured(source, text.encode()).decode("latin-1") if source.random() < 0.9 else text
    try:
        SINGLE.sealer.open(damaged, NOW)
    except StateError:
        assert damaged != text
        return "error"
    assert damaged == text
    return "state"


def fuzz_callback(source: random.Random) -> str:
    query = "&".join(
        source.choice(("code=c", "state=x", "error=e", "X-authentik-auth-callback=true", "?", pieces(source, 3)))
        for _ in range(source.randint(0, 5))
    )
    try:
        answer_of(query)
    except StateError:
        return "error"
    there = auth_request(_sound(b"GET / HTTP/1.1\r\nHost: app.example.com\r\n\r\n"), TRUSTED)
    found = callbacks.read(Callback((SINGLE,), query), there, source.randbytes, NOW)
    assert isinstance(found, callbacks.Failed)
    return "failed"


def _sound(octets: bytes) -> Any:
    head = read_head(octets)
    assert head is not None
    return head


def fuzz_stored(source: random.Random) -> str:
    octets = injured(source, sessions.encode(SESSIONS[1]))
    try:
        back = sessions.decode(b"k", octets, IdentityOptions())
    except StoredError:
        return "error"
    assert back.identity.block.endswith(b"\r\n")
    return "session"


def fuzz_credential(source: random.Random) -> str:
    text = injured(source, source.choice((b"Basic YWxpY2U6cHc=", b"Bearer aaa.bbb.ccc"))).decode("latin-1")
    found = credential_from(text)
    if found is None:
        return "none"
    assert found.secret and (found.secret + found.user).isprintable()
    return found.kind


def fuzz_request(source: random.Random) -> str:
    """A whole request: what passes had a session of its provider, or was open; what redirects goes home."""
    try:
        head = read_head(_request(source))
    except HeadError:
        return "bad head"
    if head is None:
        return "more"
    via = source.choice((TRUSTED, STRANGER, Connection("")))
    there = auth_request(head, via)
    check = prepare(there, ALL)
    if not isinstance(check, Check):
        assert not isinstance(check, Allow)
        if isinstance(check, Start) and check.target:
            _harmless(check.target, check.provider.places)
        return type(check).__name__
    session = next((SESSIONS[check.provider.pk] for value in check.values if value == COOKIE), None)
    stranger = SESSIONS[source.choice((1, 2, 3))]
    found = judge(check, session if session is not None else stranger, NOW, source.choice(list(Tried)))
    if isinstance(found, Login) and found.target:
        _harmless(found.target, check.provider.places)
    if isinstance(found, Allow):
        _may_pass(check, found, stranger)
    return type(found).__name__


def _request(source: random.Random) -> bytes:
    if source.random() < 0.5:
        return injured(source, source.choice(HEADS))
    head = source.choice(HEADS)
    name = source.choice(
        (b"Host: ", b"X-Original-URL: ", b"X-Original-URI: ", b"X-Forwarded-Uri: ", b"Cookie: ", b"GET ")
    )
    start, found, rest = head.partition(name)
    if not found:
        return head
    end = rest.find(b"\r\n") if name != b"GET " else rest.find(b" ")
    return start + found + url_text(source).encode("latin-1") + rest[end:]


def _may_pass(check: Check, found: Allow, stranger: sessions.Session) -> None:
    """Why it may, said again in other words."""
    if found.session is not None:
        assert found.session.provider_pk == check.provider.pk
        assert COOKIE in check.values or found.session is stranger
    else:
        path = canonical_path(check.url.path)
        assert path is not None
        if found.why is Passed.OWN_PATH:
            assert path == P or path.startswith(P + "/")
        else:
            assert found.why is Passed.OPEN_PATH
            assert path.startswith("/public") or str(check.url).startswith("https://health.example.com/ping/")
    if check.dialect is not None:
        return
    assert not is_own_path(check.url.path)
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in check.request.headers.items()]
    request = upstream_request(check, found, pairs)
    values = {name.decode().lower(): value for name, value in request.headers}
    user = b"alice" if found.session is not None else b""
    assert values["x-authentik-username"] == user
    ours = [value for name, value in request.headers if folded(name.decode("latin-1")).startswith(rfc.IDENTITY_PREFIX)]
    assert len(ours) == len(rfc.IDENTITY_HEADERS) and b"root" not in ours
    assert PROXY.session_reader.values(values.get("cookie", b"").decode("latin-1")) == ()


def fuzz_url(source: random.Random) -> str:
    url = parse_url(url_text(source))
    if url is None:
        return "none"
    assert parse_url(str(url)) == url
    return "url"


READERS: dict[str, Callable[[random.Random], str]] = {
    "head": fuzz_head,
    "host": fuzz_host,
    "url": fuzz_url,
    "path": fuzz_path,
    "redirect": fuzz_redirect,
    "cookies": fuzz_cookies,
    "state": fuzz_state,
    "callback": fuzz_callback,
    "stored": fuzz_stored,
    "credential": fuzz_credential,
    "request": fuzz_request,
}


def run(rounds: int, seed: int, tell: Callable[[int], None] = lambda done: None) -> Counter[tuple[str, str]]:
    """As many inputs as asked for, all readers in turn; how often each gave each answer."""
    source = random.Random(seed)  # reproducible inputs, no secret
    names = list(READERS)
    answers: Counter[tuple[str, str]] = Counter()
    for number in range(rounds):
        name = names[number % len(names)]
        try:
            answers[name, READERS[name](source)] += 1
        except Exception as problem:
            raise AssertionError(f"{name}, input {number} of seed {seed}") from problem
        if not number % 10_000:
            tell(number)
    return answers


def test_readers_have_their_answers() -> None:
    """Nothing but the answers, and each of them was given: the inputs reach what they are for."""
    answers = run(TEST_ROUNDS, 20_261_125)
    seen = {name: {answer for (reader, answer) in answers if reader == name} for name in READERS}
    assert seen["head"] == {"error", "more", "message"}
    assert seen["host"] == {"none", "host", "served"}
    assert seen["path"] == {"none", "own", "path"}
    assert seen["redirect"] == {"none", "target"}
    assert seen["url"] == {"none", "url"}
    assert seen["state"] == {"error", "state"}
    assert seen["cookies"] == {"0 values", "1 values", "2 values"}
    assert seen["callback"] == {"error", "failed"}
    assert seen["stored"] == {"error", "session"}
    assert seen["credential"] == {"none", "basic", "bearer"}
    assert {"Allow", "Login", "BadRequest", "Misconfigured", "NoProvider", "Start"} <= seen["request"]


def main(arguments: list[str]) -> None:
    """The program."""
    wanted = int(arguments[0]) if arguments else 1_000_000
    seed = int(arguments[1]) if len(arguments) > 1 else 1
    started = told = time.monotonic()

    def tell(done: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= TELL_EVERY_S:
            told = now
            print(f"{done:,} of {wanted:,} inputs, {done / (now - started):,.0f}/s", file=sys.stderr, flush=True)

    answers = run(wanted, seed, tell)
    for (name, answer), count in sorted(answers.items()):
        print(f"{name:20} {answer:14} {count}")
    print(f"{wanted:,} inputs of seed {seed} in {time.monotonic() - started:,.0f} s, nothing but the answers")


if __name__ == "__main__":
    main(sys.argv[1:])
