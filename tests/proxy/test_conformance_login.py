"""Conformance cases of start, callback and sign-out (L, O) and of mode ``proxy`` (P1) that need no sockets."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from outposts.proxy.decision import (
    Allow,
    BadRequest,
    Callback,
    Login,
    NotFound,
    Reply,
    SignOut,
    Start,
    Unauthorized,
    from_another_site,
)
from tests.proxy.site import (
    ALL,
    P,
    S,
    X,
    asked,
    assert_login,
    cookie,
    quoted,
    record,
    request,
    session_at,
    table,
    verdict,
)

SINGLE, DOMAIN, PROXY = (ALL.by_pk[pk] for pk in (1, 2, 3))
DIALECTS = ("nginx", "traefik", "caddy", "envoy")


# --- start, callback, sign-out


@pytest.mark.parametrize(
    ("rd", "target"),
    [
        ("", ""),
        ("rd=", ""),
        ("rd=/x?y=1", "https://app.example.com/x?y=1"),
        ("rd=%2Fx%3Fy%3D1", "https://app.example.com/x?y=1"),
        ("a=b&rd=/x", "https://app.example.com/x"),
        ("rd=https%3A%2F%2Fapp.example.com%2Fa%3Fx%3D1%26y%3D2&z=3", "https://app.example.com/a?x=1&y=2"),
        ("rd=https://app.example.com%2Fa%3Fx%3D1", "https://app.example.com/a?x=1"),
        ("rd=https://app.example.com", "https://app.example.com/"),
        ("ard=/x", ""),
    ],
)
def test_l01_start(rd: str, target: str) -> None:
    """With and without ``rd``, encoded and not."""
    assert verdict(request(f"{P}/start?{rd}")) == Start(SINGLE, target)


def test_l01_start_without_query() -> None:
    """The login ends at the external host."""
    assert verdict(request(f"{P}/start")) == Start(SINGLE, "")


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize(
    "rd",
    [
        "https://evil.org/",
        "//evil.org",
        "https://app.example.com@evil.org/",
        "https://app.example.com.evil.org/",
        "https://app.example.com:8443/",
        "/\\evil.org",
        "\\\\evil.org",
        "/\\/evil.org",
        "https:evil.org",
        "https:/evil.org",
        "https:///evil.org",
        "javascript:alert(1)",
        "javascript://app.example.com/%0aalert(1)",
        "https://evilexample.com/",
        "https://app.example.com/%0d%0ax",
        "https://app.example.com/\t",
        "https://app.example.com/a b",
        "https://app.example.com/%",
        "https://app.example.com//evil.org",
        " https://app.example.com/",
    ],
)  # fmt: skip
def test_l02_l03_foreign_targets(rd: str, encoded: bool) -> None:
    """Ignored: the login ends at the external host. Escaped line breaks stay escaped."""
    found = verdict(request(f"{P}/start?rd={quoted(rd) if encoded else rd}"))
    if isinstance(found, BadRequest):
        assert "#" in rd
        return
    assert isinstance(found, Start)
    if found.target:  # an encoded line break in a path is one of the path's
        assert found.target == "https://app.example.com/%0d%0ax"


def test_l04_http_is_upgraded() -> None:
    """Never less than the external host has."""
    assert verdict(request(f"{P}/start?rd=http://app.example.com/")) == Start(SINGLE, "https://app.example.com/")
    assert verdict(request(f"{P}/start?rd=http://app.example.com:8080/")) == Start(SINGLE, "")


def test_l05_default_port_and_apex() -> None:
    """The scheme's own port is no port; the domain itself is in the domain."""
    found = verdict(request(f"{P}/start?rd=https://app.example.com:443/"))
    assert found == Start(SINGLE, "https://app.example.com/")
    dotted = table(S, record(2, "D", "cid-domain", "https://auth.example.com", mode="forward_domain",
                             cookie_domain=".example.com"))  # fmt: skip
    found = verdict(request(f"{P}/start?rd=https://example.com/", host="auth.example.com"), dotted)
    assert found == Start(dotted.by_pk[2], "https://example.com/")


@pytest.mark.parametrize("rd", ["https://evilexample.com/", "javascript://a.example.com/%0aalert(1)", "/x"])
def test_l06_domain(rd: str) -> None:
    """No other domain, no other scheme, and no path without a host."""
    assert verdict(request(f"{P}/start?rd={rd}", host="auth.example.com")) == Start(DOMAIN, "")


def test_l15_long_target() -> None:
    """A URL of 20 kB is left out of the login."""
    long = "/" + "x" * 20_000
    assert verdict(request(f"{P}/start?rd={long}")) == Start(SINGLE, "")
    assert_login(verdict(asked("nginx", long)), "", Reply.UNAUTHORIZED)


def test_callback_paths() -> None:
    """The callback's own path, and in mode ``proxy`` any path with its signature."""
    query = "X-authentik-auth-callback=true&code=c&state=s"
    assert verdict(request(f"{P}/callback?{query}")) == Callback((SINGLE,), query)
    assert verdict(request(f"{P}/callback")) == Callback((SINGLE,), "")
    assert verdict(request(f"/x?{query}", host="proxy.example.com")) == Callback((PROXY,), query)


@pytest.mark.parametrize("target", [f"{P}/sign_out", "/x?X-authentik-logout=true", "/?a&X%2Dauthentik-logout=True"])
def test_o02_sign_out_from_another_site(target: str) -> None:
    """Refused if another site may have asked; without a session it is no login."""
    for headers, confirmed in (
        ({}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "nonsense"}, False),
        ({"Origin": "https://evil.org"}, False),
        ({"Origin": "null"}, False),
        ({"Referer": "https://evil.org/x"}, False),
        ({"Referer": "https://proxy.example.com/page#x"}, True),
    ):
        assert verdict(request(target, headers, host="proxy.example.com")) == SignOut(PROXY, (), confirmed)


def test_another_site_knows_all_places() -> None:
    """All hosts of a domain are one site to its provider."""
    assert not from_another_site(request("/", {"Origin": "https://any.example.com"}), DOMAIN)
    assert from_another_site(request("/", {"Origin": "https://any.example.com"}), SINGLE)


# --- mode proxy


def test_p01_anonymous_keeps_the_query() -> None:
    """302 to the start page with the whole URL."""
    found = verdict(request("/a?x=1&y=2", host="proxy.example.com"))
    assert_login(found, "https://proxy.example.com/a?x=1&y=2", Reply.START)
    assert isinstance(found, Login)
    assert found.start == (
        "https://proxy.example.com/outpost.goauthentik.io/start?rd=https%3A%2F%2Fproxy.example.com%2Fa%3Fx%3D1%26y%3D2"
    )
    assert parse_qs(urlsplit(found.start).query) == {"rd": ["https://proxy.example.com/a?x=1&y=2"]}


def test_p01_start_leads_back() -> None:
    """What ``Login.start`` says is what ``P/start`` understands."""
    for target in ("/a?x=1&y=2", "/%C3%A9?q=%26", "/a//b", "/?q=100%", "/a'(b)*!"):
        found = verdict(request(target, host="proxy.example.com"))
        assert isinstance(found, Login)
        path = found.start.removeprefix("https://proxy.example.com")
        assert verdict(request(path, host="proxy.example.com")) == Start(PROXY, found.target)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_auth_paths_in_mode_proxy(dialect: str) -> None:
    """They are answered in every mode."""
    one = asked(dialect, "https://proxy.example.com/a", cookie(PROXY), host="proxy.example.com")
    assert isinstance(verdict(one, ALL, session_at(PROXY)), Allow)


@pytest.mark.parametrize(
    "target",
    [P, f"{P}/", f"{P}/x", f"{P}/auth/other", f"{P}/callback/", f"/x/..{P}/start", "/%6futpost.goauthentik.io/start",
     "//outpost.goauthentik.io/start", f"/.{P}/start", f"/..;{P}/x", "/outpost.goauthentik%2eio/x",
     "/a/%2e%2e/outpost.goauthentik.io/x", "/outpost.goauthentik.io%2fx", "/outpost.goauthentik.io;/x"],
)  # fmt: skip
def test_nothing_below_the_prefix_goes_upstream(target: str) -> None:
    """404 with a session and without, however it is spelled."""
    for more in ({}, cookie(PROXY)):
        found = verdict(request(target, more, host="proxy.example.com"), ALL, session_at(PROXY))
        assert found == NotFound(), found


def test_names_like_the_prefix_are_the_applications() -> None:
    """Only the prefix itself is ours."""
    for target in ("/outpost.goauthentik.iox", "/x/outpost.goauthentik.io/y", "/outpost.goauthentik"):
        one = request(target, cookie(PROXY), host="proxy.example.com")
        assert isinstance(verdict(one, ALL, session_at(PROXY)), Allow)


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ({"Content-Length": "10", "Content-Type": "application/x-www-form-urlencoded"}, True),
        (
            {"Content-Length": "10", "Content-Type": "multipart/form-data; boundary=x", "Sec-Fetch-Mode": "navigate"},
            True,
        ),
        ({"Content-Length": "10", "Content-Type": "application/json"}, False),
        ({"Content-Length": "65537", "Content-Type": "text/plain"}, False),
        ({"Content-Length": "9" * 30, "Content-Type": "text/plain"}, False),
        ({"Transfer-Encoding": "chunked", "Content-Type": "text/plain"}, False),
        ({"Content-Length": "-1", "Content-Type": "text/plain"}, False),
        ({"Content-Length": "10", "Content-Type": "text/plain", "Sec-Fetch-Mode": "cors"}, False),
        ({"Content-Length": "10", "Content-Type": "text/plain", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Content-Length": "10"}, False),
    ],
)
def test_forms_are_kept_across_a_login(headers: dict[str, str], kept: bool) -> None:
    """A person's form of this site and of bounded size; everything else that is no page is 401."""
    found = verdict(request("/form?x", headers, method="POST", host="proxy.example.com"))
    if kept:
        assert found == Login(PROXY, "https://proxy.example.com/form?x", Reply.REDIRECT, keep_post=True)
    else:
        assert found == Unauthorized(PROXY)
    off = table(X, keep_post=0)
    found = verdict(request("/form?x", headers, method="POST", host="proxy.example.com"), off)
    assert isinstance(found, Unauthorized)
