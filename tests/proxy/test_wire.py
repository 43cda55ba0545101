"""``outposts/proxy/wire.py``: one strict reading of a request head, in every delivery, agreed to by other parsers."""

from __future__ import annotations

import itertools
from ipaddress import ip_address

import httptools
import pytest

from outposts.proxy.wire import (
    MAX_FAST_HEAD,
    MAX_HEAD,
    MAX_HEADERS,
    MAX_TARGET,
    AuthRequest,
    Connection,
    Head,
    HeadError,
    Lane,
    auth_request,
    gather,
    keeps_alive,
    lane,
    raw_request,
    read_head,
)
from tests.proxy.site import PROXIES, STRANGER, TRUSTED

NGINX = (
    b"GET /outpost.goauthentik.io/auth/nginx HTTP/1.1\r\n"
    b"Host: app.example.com\r\n"
    b"X-Original-URL: https://app.example.com/a?x=1\r\n"
    b"Cookie: a=1\r\n"
    b"Accept:*/*\r\n"
    b"X-Empty:\r\n"
    b"X-Spaces: \t a b \t \r\n"
    b"X-Bytes: \xc3\xa9\xff\r\n"
    b"\r\n"
)
GOOD = {
    "nginx": (NGINX, ("GET", "/outpost.goauthentik.io/auth/nginx", 1)),
    "no headers": (b"GET / HTTP/1.0\r\n\r\n", ("GET", "/", 0)),
    "any method": (b"PROPFIND /x HTTP/1.1\r\nHost: h\r\n\r\n", ("PROPFIND", "/x", 1)),
    "absolute": (b"GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n", ("GET", "http://h/", 1)),
    "raw octets": (b"GET /\xc3\xa9?%zz HTTP/1.1\r\nHost: h\r\n\r\n", ("GET", "/\u00c3\u00a9?%zz", 1)),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_heads_in_every_delivery(name: str) -> None:
    """Whole, octet by octet, with something behind."""
    octets, expected = GOOD[name]
    whole = read_head(octets)
    assert whole is not None
    assert (whole.method, whole.target, whole.minor) == expected
    assert whole.size == len(octets)
    for end in range(len(octets)):
        assert read_head(octets[:end]) is None
    assert read_head(bytearray(octets) + b"GET / HTTP/1.1\r\nX: y\r\n\r\n") == whole


def test_headers() -> None:
    """Lower case, no space around, one character per octet."""
    head = read_head(NGINX)
    assert head is not None
    assert head.headers == {
        "host": "app.example.com",
        "x-original-url": "https://app.example.com/a?x=1",
        "cookie": "a=1",
        "accept": "*/*",
        "x-empty": "",
        "x-spaces": "a b",
        "x-bytes": "\u00c3\u00a9\u00ff",
    }
    assert head.repeated == ""


BAD = [
    b"GET / HTTP/1.1\nHost: h\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : h\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost\r\n\r\n",
    b"GET / HTTP/1.1\r\n: h\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\n X: folded\r\n\r\n",
    b"GET / HTTP/1.1\r\n Host: h\r\n\r\n",
    b"GET / HTTP/1.1\r\nHo st: h\r\n\r\n",
    b"GET / HTTP/1.1\r\nH\xc3\xb6st: h\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\x7fb\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\x0bb\r\n\r\n",
    b"\r\nGET / HTTP/1.1\r\n\r\n",
    b" GET / HTTP/1.1\r\n\r\n",
    b"GET  / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1 \r\n\r\n",
    b"GET /a b HTTP/1.1\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\n\r\n",
    b"GET /\r\n\r\n",
    b"GET\t/ HTTP/1.1\r\n\r\n",
    b"G(T / HTTP/1.1\r\n\r\n",
    b"GET / http/1.1\r\n\r\n",
    b"GET / HTTP/11\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    b"\r\n\r\n",
]


@pytest.mark.parametrize("octets", BAD)
def test_bad_heads(octets: bytes) -> None:
    """What might be read in two ways is 400; also when such names and lines were seen before."""
    for _ in range(2):
        with pytest.raises(HeadError) as caught:
            read_head(octets)
        assert caught.value.status == 400
        read_head(NGINX)


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"GET / HTTP/1.2\r\n\r\n", 505),
        (b"GET /" + b"x" * MAX_TARGET + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * (MAX_HEADERS + 1) + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * (MAX_HEAD + 1), 431),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * MAX_HEAD + b"\r\n\r\n", 431),
    ],
    ids=["version 2", "version 1.2", "target", "lines", "unfinished", "size"],
)
def test_limits(octets: bytes, status: int) -> None:
    """Each has its own answer."""
    with pytest.raises(HeadError) as caught:
        read_head(octets)
    assert caught.value.status == status


def test_at_the_limits() -> None:
    """The largest that is read."""
    assert read_head(b"GET /" + b"x" * (MAX_TARGET - 1) + b" HTTP/1.1\r\n\r\n") is not None
    assert read_head(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * MAX_HEADERS + b"\r\n") is not None


def other_reading(octets: bytes) -> tuple[str, str, dict[str, str]]:
    """What httptools reads."""
    found: list[tuple[str, str]] = []

    class Target:
        url = b""

        def on_url(self, url: bytes) -> None:
            self.url += url

        def on_header(self, name: bytes, value: bytes) -> None:
            found.append((name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")))

    target = Target()
    parser = httptools.HttpRequestParser(target)
    parser.feed_data(octets)
    return parser.get_method().decode(), target.url.decode("latin-1"), gather(found)[0]


def test_another_parser_reads_the_same() -> None:
    """httptools and we agree on what both accept; it takes no octets beyond ASCII in a target."""
    for octets, _ in GOOD.values():
        if not octets.partition(b"\r\n")[0].isascii():
            continue
        head = read_head(octets)
        assert head is not None
        assert other_reading(octets) == (head.method, head.target, head.headers)


@pytest.mark.parametrize(
    "name", ["Host", "host", "X-Original-URL", "Authorization", "Content-Length", "Sec-Fetch-Mode"]
)
def test_headers_that_must_be_single(name: str) -> None:
    """The first stays, and the request says that there were two."""
    head = read_head(b"GET / HTTP/1.1\r\n%b: a\r\nX: y\r\n%b: b\r\n\r\n" % (name.encode(), name.upper().encode()))
    assert head is not None
    assert head.headers[name.lower()] == "a"
    assert head.repeated == name.lower()
    assert auth_request(head, STRANGER).repeated == name.lower()


def test_headers_that_are_lists() -> None:
    """Cookies are joined as cookies, all others by a comma."""
    head = read_head(b"GET / HTTP/1.1\r\nCookie: a=1\r\nCookie: b=2\r\nX: 1\r\nx: 2\r\nX:\r\n\r\n")
    assert head is not None
    assert head.headers == {"cookie": "a=1; b=2", "x": "1, 2, "}
    assert head.repeated == ""


def test_requests_of_other_parsers() -> None:
    """The same from octets that aiohttp gives."""
    head = read_head(NGINX)
    assert head is not None
    pairs = [tuple(line.split(b":", 1)) for line in NGINX.split(b"\r\n")[1:-2]]
    there = raw_request("GET", head.target, [(name, value.strip(b" \t")) for name, value in pairs], TRUSTED)
    ours = auth_request(head, TRUSTED)
    assert (there.method, there.target, there.headers, there.repeated) == (
        ours.method, ours.target, ours.headers, ours.repeated,
    )  # fmt: skip


def head_of(method: str = "GET", minor: int = 1, size: int = 100, **headers: str) -> Head:
    """A head with these headers."""
    return Head(method, "/", minor, {name.replace("_", "-"): value for name, value in headers.items()}, "", size)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (head_of(), Lane.FAST),
        (head_of("HEAD"), Lane.FAST),
        (head_of(minor=0), Lane.FAST),
        (head_of(content_length="0"), Lane.FAST),
        (head_of(content_length="1"), Lane.FULL),
        (head_of(content_length="+0"), Lane.FULL),
        (head_of(content_length=""), Lane.FULL),
        (head_of(transfer_encoding="chunked"), Lane.FULL),
        (head_of(expect="100-continue"), Lane.FULL),
        (head_of("POST"), Lane.FULL),
        (head_of("OPTIONS"), Lane.FULL),
        (head_of(size=MAX_FAST_HEAD + 1), Lane.FULL),
    ],
)
def test_lanes(head: Head, expected: Lane) -> None:
    """Only a complete request without a body is for the fast lane."""
    assert lane(head) is expected


@pytest.mark.parametrize(
    ("minor", "connection", "kept"),
    [(1, None, True), (0, None, False), (1, "close", False), (1, "Keep-Alive, Close", False), (0, "Keep-Alive", True),
     (1, "upgrade", True), (0, "upgrade", False)],
)  # fmt: skip
def test_connections_that_go_on(minor: int, connection: str | None, kept: bool) -> None:
    """RFC 9112 §9.3."""
    headers = {} if connection is None else {"connection": connection}
    assert keeps_alive(head_of(minor=minor, **headers)) is kept


def test_who_is_believed() -> None:
    """Networks of trusted proxies, and whose address counts."""
    for peer, trusted in (
        ("10.0.0.7", True),
        ("::ffff:10.0.0.7", True),
        ("::1", True),
        ("203.0.113.9", False),
        ("", False),
    ):
        via = Connection(peer, PROXIES)
        assert via.trusted is trusted
        there = AuthRequest("GET", "/", {"x-forwarded-for": "198.51.100.7"}, via)
        expected = ip_address("198.51.100.7") if trusted else ip_address(peer) if peer else None
        assert there.client == expected


def test_nothing_secret_is_shown() -> None:
    """Names, no values."""
    there = AuthRequest("GET", "/", {"cookie": "secret", "authorization": "secret"}, STRANGER)
    assert "secret" not in repr(there)


def test_names_are_remembered_within_bounds() -> None:
    """Clients choose spellings; the memory of them ends."""
    from outposts.proxy import wire

    for number in itertools.count():
        assert read_head(b"GET / HTTP/1.1\r\nX-%d: y\r\n\r\n" % number) is not None
        if number > wire.MAX_NAMES + 10:
            break
    assert len(wire._names) <= wire.MAX_NAMES
