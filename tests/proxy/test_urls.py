"""``outposts/proxy/urls.py``: hosts, paths with one reading, and where a browser may be sent."""

from __future__ import annotations

import string
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from outposts.proxy import rfc
from outposts.proxy.urls import (
    Host,
    Places,
    Url,
    _resolved,
    below,
    canonical_path,
    domain_of,
    in_domain,
    is_own_path,
    parse_host,
    parse_target,
    parse_url,
    query_says,
    query_value,
    return_url,
    safe_redirect,
)
from tests.proxy.site import P

HOME = Url("https", Host("app.example.com"), "/")
SINGLE = Places(HOME)
DOMAIN = Places(Url("https", Host("auth.example.com"), "/"), domain="example.com")
PLAIN = Places(Url("http", Host("app.example.com", 9000), "/"))
PLACES = (SINGLE, DOMAIN, PLAIN)

PIECES = st.sampled_from(
    ["https", "http", ":", "//", "/", "\\", "@", "?", "#", "%", "%2f", "%5c", "%00", "%0d%0a", ".", "..", ";", "&", "=",
     "app.example.com", "auth.example.com", "evil.org", "example.com", ":443", ":80", ":9000", "[::1]", "javascript",
     "\t", "\n", " ", "\x00", "\xe9", "a", "rd="]
)  # fmt: skip
TEXT = st.lists(PIECES, max_size=10).map("".join) | st.text(st.characters(max_codepoint=255), max_size=40)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("app.example.com", Host("app.example.com")),
        ("APP.Example.Com.:8443", Host("app.example.com", 8443)),
        ("localhost", Host("localhost")),
        ("my_host", Host("my_host")),
        ("127.0.0.1:80", Host("127.0.0.1", 80)),
        ("[::1]:9000", Host("::1", 9000)),
        ("[2001:DB8:0:0::1]", Host("2001:db8::1")),
        ("b\u00c3\u00bccher.example", Host("xn--bcher-kva.example")),
        ("xn--bcher-kva.example", Host("xn--bcher-kva.example")),
        ("\u00ef\u00bc\u00a1pp.example.com", Host("app.example.com")),
    ],
)
def test_hosts(text: str, host: Host) -> None:
    """Every spelling of a host is one host."""
    assert parse_host(text) == host
    assert parse_host(str(host)) == host


@pytest.mark.parametrize(
    "text",
    ["", "foo..bar", ".foo", "foo..", "a b", "[::1", "::1", "x" * 300, ".".join(["x" * 63] * 5), "x" * 64, "a:b", "a:0",
     "a:65536", "a:", "a@b", "a/b", "a?b", "a\\b", "a%41", "-a", "a-", "1.2.3", "1.2.3.4.5", "1.2.3.256", "0x7f.1",
     "a\x00", "a\xff", "[::1]x", "[v1.x]", "[fe80::1%eth0]", "a,b", "a;b", "*", "xn--\xc3\xbc"],
)  # fmt: skip
def test_no_hosts(text: str) -> None:
    """R4: nothing is made of what is no host."""
    assert parse_host(text) is None


@given(TEXT)
def test_hosts_are_plain(text: str) -> None:
    """What is a host has one form, which is itself a host."""
    host = parse_host(text)
    if host is not None:
        assert set(host.name) <= set(string.ascii_lowercase + string.digits + "-_.:")
        assert parse_host(str(host)) == host
        assert urlsplit(f"//{host}").hostname == host.name


@pytest.mark.parametrize(
    ("name", "domain", "held"),
    [
        ("example.com", "example.com", True),
        ("a.example.com", "example.com", True),
        ("evilexample.com", "example.com", False),
        ("example.com.evil.org", "example.com", False),
        ("com", "example.com", False),
        ("a", "", False),
        ("", "", False),
    ],
)
def test_w24_domains_end_at_labels(name: str, domain: str, held: bool) -> None:
    """The domain and what is below it."""
    assert in_domain(name, domain) is held


@pytest.mark.parametrize(
    ("text", "domain"),
    [(None, ""), ("", ""), (" .Example.COM ", "example.com"), ("bücher.example", "xn--bcher-kva.example"),
     ("a b", None), ("example.com:80", None), ("..", None)],
)  # fmt: skip
def test_cookie_domains(text: str | None, domain: str | None) -> None:
    """As operators write them."""
    assert domain_of(text) == domain


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://app.example.com", Url("https", Host("app.example.com"), "/")),
        ("HTTPS://APP.example.com:443/A%2fb?%zz", Url("https", Host("app.example.com"), "/A%2fb", "%zz")),
        ("http://[::1]:9000/?", Url("http", Host("::1", 9000), "/", "")),
        ("http://h:443/", Url("http", Host("h", 443), "/")),
        ("https://h?x", Url("https", Host("h"), "/", "x")),
    ],
)  # fmt: skip
def test_urls(text: str, url: Url) -> None:
    """The scheme's own port is no port; path and query stay raw."""
    assert parse_url(text) == url


@pytest.mark.parametrize(
    "text",
    ["", "/a", "//h/a", "h", "https:h", "https:/h", "https:///a", "ftp://h/", "javascript://h/", "https://u@h/",
     "https://h/#f", "https://h/a b", "https://h/%zz", "https://h/\n", "https://h\\x", "https://h:x/", " https://h/",
     "https://h/\x7f", "https://" + "x" * 70_000],
)  # fmt: skip
def test_no_urls(text: str) -> None:
    """Anything else."""
    assert parse_url(text) is None


def test_targets() -> None:
    """Raw path and query."""
    assert parse_target("/a%2F?b?c") == ("/a%2F", "b?c")
    assert parse_target("/") == ("/", None)
    for bad in ("", "a", "*", "/%", "/a#b", "/a b", "/" + "x" * 70_000):
        assert parse_target(bad) is None


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("/", "/"),
        ("/a/b.c/", "/a/b.c/"),
        ("/%61%2E%6a", "/a.j"),
        ("/caf%C3%A9", "/café"),
        ("/caf\u00c3\u00a9", "/café"),
        ("/a%20b", "/a b"),
        ("/.well-known/x", "/.well-known/x"),
        ("/...", "/..."),
        ("/a..b", "/a..b"),
        ("/a;x=1/b", "/a;x=1/b"),
        ("/a=b&c+d", "/a=b&c+d"),
    ],
)
def test_canonical_paths(raw: str, path: str) -> None:
    """Decoded once."""
    assert canonical_path(raw) == path


@pytest.mark.parametrize(
    "raw",
    ["", "a", "//", "/a//b", "/.", "/..", "/a/./b", "/a/../b", "/a/..", "/%2e%2e/a", "/.%2E/a", "/..;/a",
     "/.;x/a",
     "/%2e%2e;a/b", "/;/a", "/a/;x", "/%20/a", "/a%2fb", "/a%5Cb", "/a\\b", "/a%25b", "/%252e", "/%00",
     "/%7f", "/%0a", "/\x85", "/%zz", "/%",
     "/%c3", "/%ed%a0%80", "/%c0%ae%c0%ae/", "/.. /a", "/\u00e2\u0080\u00a5/a",
     "/%EF%BC%8E/a", "/a%EF%BC%8Fb", "/%E2%81%84", "/a%E2%88%95b", "/%C2%85"],
)  # fmt: skip
def test_w27_paths_with_two_readings(raw: str) -> None:
    """They are nobody's canonical path."""
    assert canonical_path(raw) is None


@given(st.lists(st.sampled_from(["/", ".", "..", "a", "%2e", "%2f", "%5c", ";", "\\", "%", "%25", "\xe9", "%C3%A9"])))
def test_canonical_paths_resolve_to_themselves(parts: list[str]) -> None:
    """Decoding again, resolving dots, taking parameters off or joining slashes leads nowhere else."""
    raw = "/" + "".join(parts)
    path = canonical_path(raw)
    if path is None:
        return
    assert unquote(raw.encode("latin-1").decode("utf-8", "replace")) == path
    assert unquote(path) == path
    plain = "/".join(segment.partition(";")[0] for segment in path.split("/"))
    assert "//" not in plain
    assert _resolved(path) == (plain.rstrip("/") or "/")


def test_below() -> None:
    """At the border of a segment."""
    for path, prefix, held in (
        ("/a", "/a", True), ("/a/", "/a", True), ("/a/b", "/a", True), ("/ab", "/a", False), ("/a", "/a/", True),
        ("/ab", "/a/", False), ("/x", "/", True), ("/", "/", True),
    ):  # fmt: skip
        assert below(path, prefix) is held


@pytest.mark.parametrize(
    ("raw", "own"),
    [(P, True), (P + "/x", True), (P + "x", False), ("/a" + P, False), ("/a/.." + P, True), ("/a/%2e%2e" + P, True),
     ("//" + P[1:], True), ("/%6futpost.goauthentik.io/x", True), ("/base" + P + "/x", True), ("/", False),
     (P + "%2fx", True), (P + ";a/x", True), ("/..;" + P, True), ("/x\\.." + P, True)],
)  # fmt: skip
def test_own_paths(raw: str, own: bool) -> None:
    """Whatever may be read as one of ours."""
    assert is_own_path(raw, "/base") is own


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("/x?y=1", "https://app.example.com/x?y=1"),
        ("https://app.example.com:443/a?b#c", "https://app.example.com/a?b"),
        ("http://app.example.com:80/", "https://app.example.com/"),
        ("https://app.example.com/a//b", "https://app.example.com/a//b"),
        ('/a"<>b', "https://app.example.com/a%22%3C%3Eb"),
        ("/\u00c3\u00a9?\u00c3\u00a9", "https://app.example.com/%C3%A9?%C3%A9"),
        ("/?q=100%&r=\\", "https://app.example.com/?q=100%25&r=%5C"),
        ("/#x", "https://app.example.com/"),
    ],
)
def test_where_a_browser_may_go(text: str, target: str) -> None:
    """What a ``Location`` cannot hold is encoded, a fragment is cut off."""
    assert safe_redirect(text, SINGLE) == target


@pytest.mark.parametrize(
    "text",
    ["", "#", "//evil.org", "///evil.org", "/\\evil.org", "\\evil.org", "https:evil.org", "https:/evil.org",
     "https:///evil.org", "https://evil.org/", "https://app.example.com@evil.org", "https://app.example.com:x@evil.org",
     "https://app.example.com.evil.org", "https://evil.org\\.app.example.com", "https://app.example.com\\@evil.org",
     "https://app.example.com:444/", "javascript:alert(1)", "data:text/html,x", "x", "/%", "/%2", "/\t", "/\r\nX: y",
     "http://app.example.com:8080/", "https://app.example.com//evil.org", "/" + "x" * 5000, "/" + "\xe9" * 2000,
     "ftp://app.example.com/", "https://app.example.com%2eevil.org/", "https://app.example.com%00.evil.org/"],
)  # fmt: skip
def test_where_no_browser_is_sent(text: str) -> None:
    """L2, L3, L6, W24, W25."""
    assert safe_redirect(text, SINGLE) is None


def test_places() -> None:
    """Further hosts, a domain with any port, an external host without TLS."""
    more = Places(HOME, frozenset({Host("alias.org", 8443)}))
    assert safe_redirect("https://alias.org:8443/x", more) == "https://alias.org:8443/x"
    assert safe_redirect("https://alias.org/x", more) is None
    for text in ("https://example.com/", "https://a.b.example.com:8443/x"):
        assert safe_redirect(text, DOMAIN) == text
    for text in ("/x", "https://evilexample.com/", "https://example.com.org/", "http://a.example.com:8080/"):
        assert safe_redirect(text, DOMAIN) is None
    assert safe_redirect("/x", PLAIN) == "http://app.example.com:9000/x"
    assert safe_redirect("http://app.example.com:9000/x", PLAIN) == "http://app.example.com:9000/x"
    assert safe_redirect("https://app.example.com:9000/x", PLAIN) == "https://app.example.com:9000/x"
    assert safe_redirect("http://app.example.com/x", PLAIN) is None


def check_target(text: str, places: Places) -> None:
    """Whatever comes in: out comes nothing, or a URL that every reader sends to one of the places."""
    target = safe_redirect(text, places)
    if target is None:
        return
    assert len(target) <= rfc.MAX_TARGET
    assert target.isascii() and target.isprintable()
    assert not set(target) & set(' "<>\\^`{|}#')
    parts = urlsplit(target)
    assert parts.scheme == "https" or (parts.scheme == "http" and places.home.scheme == "http")
    assert "@" not in parts.netloc
    host = parse_host(parts.netloc)
    assert host is not None
    assert places.holds(host)
    assert parts.path.startswith("/") and not parts.path.startswith("//")
    assert safe_redirect(target, places) == target


@given(TEXT, st.sampled_from(PLACES))
@example("https://app.example.com", SINGLE)
@example("https://a.example.com:8443/?x", DOMAIN)
def test_any_text_is_a_safe_target_or_none(text: str, places: Places) -> None:
    """The one fuzzed rule behind every redirect."""
    check_target(text, places)


@given(st.text(st.characters(max_codepoint=255, exclude_characters="%#"), max_size=30), st.booleans())
def test_return_urls_come_back(text: str, full: bool) -> None:
    """Encoded, whatever it is; not encoded, up to the end of the query."""
    url = ("https://app.example.com/" if full else "/") + text
    encoded = quote(url, safe="", encoding="latin-1")
    assert return_url(f"a=1&rd={encoded}&b=2") == url
    assert return_url(f"rd={url}") == url


@pytest.mark.parametrize(
    ("query", "value"),
    [
        (None, ""),
        ("", ""),
        ("x=1", ""),
        ("xrd=/a", ""),
        ("rd=/a&rd=/b", "/a&rd=/b"),
        ("rd=https%3A%2F%2Fh%2F&rd=/b", "https://h/"),
        ("rd=https%3A//h/a", "https://h/a"),
        ("rd=%", ""),
        ("rd=/%zz", ""),
        ("rd=a+b", "a b"),
    ],
)
def test_return_urls(query: str | None, value: str) -> None:
    """Encoded values end at ``&``; a lone percent sign is no encoding."""
    assert return_url(query) == value


def test_query_keys() -> None:
    """The first value of a key, decoded; ``true`` in any case, and before a second question mark."""
    assert query_value("a=1&b=%41+x&b=2", "b") == "A x"
    assert query_value("a", "a") == ""
    assert query_value("", "a") is None
    for query in ("X-authentik-logout=true", "x&X-authentik-logout=TRUE", "X%2dauthentik-logout=tr%75e",
                  "X-authentik-logout=true?error=x"):  # fmt: skip
        assert query_says(query, rfc.LOGOUT_SIGNATURE)
    for query in (None, "", "X-authentik-logout", "X-authentik-logout=1", "x-authentik-logout=true",
                  "X-authentik-logout=false&X-authentik-logout=true"):  # fmt: skip
        assert not query_says(query, rfc.LOGOUT_SIGNATURE)
