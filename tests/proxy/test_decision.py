"""``outposts/proxy/decision.py``: conformance cases by number as far as they need no sockets, and who may pass."""

from __future__ import annotations

import base64
from itertools import product
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from outposts.proxy import rfc
from outposts.proxy import session as sessions
from outposts.proxy.decision import (
    Allow,
    BadRequest,
    Callback,
    Check,
    CredentialKind,
    Forbidden,
    Login,
    Misconfigured,
    NoProvider,
    NotFound,
    Passed,
    Ping,
    Renew,
    Reply,
    SignOut,
    Start,
    Static,
    Tried,
    TryCredentials,
    Unauthorized,
    credential_from,
    from_another_site,
    judge,
    prepare,
    tickets_of,
)
from outposts.proxy.providers import Providers
from outposts.proxy.session import Event, Session, credential_of
from tests.proxy.site import (
    ALL,
    NOW,
    STRANGER,
    TRUSTED,
    D,
    P,
    S,
    X,
    asked,
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
USER_HEADERS = {"Username", "Groups", "Entitlements", "Email", "Name", "Uid", "Jwt"}


def headers_of(allow: object) -> dict[str, str]:
    """The identity headers of an ``Allow``, by name; all of them are there."""
    assert isinstance(allow, Allow)
    found = {name.decode(): value.decode() for name, value in allow.identity.pairs()}
    assert set(rfc.IDENTITY_HEADERS) <= found.keys()
    return found


def assert_anonymous(allow: object, why: Passed) -> None:
    """It may pass without a user: all headers there, those about a user empty."""
    found = headers_of(allow)
    assert isinstance(allow, Allow)
    assert (allow.session, allow.why) == (None, why)
    assert {found[f"X-Authentik-{name}"] for name in USER_HEADERS} == {""}


def assert_login(found: object, target: str, reply: Reply = Reply.REDIRECT) -> None:
    """A login begins that ends there."""
    assert isinstance(found, Login), found
    assert (found.target, found.reply) == (target, reply)


# --- nginx


@pytest.mark.parametrize(
    "headers", [{}, {"X-Original-URL": ""}, {"X-Original-URI": "", "X-Original-URL": ""}], ids=["none", "empty", "both"]
)
def test_n01_no_original_url(headers: dict[str, str]) -> None:
    """500 ``configuration error``, with or without a session."""
    for more in ({}, cookie(SINGLE)):
        found = verdict(request(f"{P}/auth/nginx", headers | more), ALL, session_at(SINGLE))
        assert isinstance(found, Misconfigured)
        assert (found.provider, found.dialect.name) == (SINGLE, "nginx")


def test_n02_anonymous() -> None:
    """401 with the login as an extra."""
    assert_login(verdict(asked("nginx", "/a")), "https://app.example.com/a", Reply.UNAUTHORIZED)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_n03_t03_e01_valid_cookie(dialect: str, method: str) -> None:
    """200 with all identity headers."""
    session = session_at(SINGLE)
    found = verdict(asked(dialect, "/a?x=1&y=2", cookie(SINGLE), method=method), ALL, session)
    assert headers_of(found)["X-Authentik-Username"] == "alice"
    assert headers_of(found)["X-Authentik-Groups"] == "staff|admins"
    assert isinstance(found, Allow)
    assert (found.session, found.why, found.used_authorization) == (session, Passed.SESSION, False)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_n04_t04_e02_open_path(dialect: str) -> None:
    """200; identity headers are there and empty, whatever the client sent."""
    for more in ({}, {"X-authentik-username": "root"}, cookie(SINGLE, "x" * 43)):
        assert_anonymous(verdict(asked(dialect, "/public/x?y=1", more)), Passed.OPEN_PATH)


def test_n05_uri_wins_over_url() -> None:
    """``X-Original-URI`` is looked at first."""
    both = {"X-Original-URI": "/public", "X-Original-URL": "https://app.example.com/a"}
    assert_anonymous(verdict(request(f"{P}/auth/nginx", both)), Passed.OPEN_PATH)
    both = {"X-Original-URI": "/a", "X-Original-URL": "https://app.example.com/public"}
    assert_login(verdict(request(f"{P}/auth/nginx", both)), "https://app.example.com/a", Reply.UNAUTHORIZED)


def test_n06_query_of_a_bare_uri_opens_nothing() -> None:
    """The query is no part of the path."""
    opened = table(record(1, "S", "cid", "https://app.example.com", mode="forward_single", skip_path_regex="/public"))
    found = verdict(request(f"{P}/auth/nginx", {"X-Original-URI": "/a?x=/public"}), opened)
    assert_login(found, "https://app.example.com/a?x=/public", Reply.UNAUTHORIZED)
    assert_anonymous(verdict(request(f"{P}/auth/nginx", {"X-Original-URI": "/a/public?x"}), opened), Passed.OPEN_PATH)


@pytest.mark.parametrize("path", ["", "/", "/start", "/auth/nginx", "/anything"])
def test_n07_own_paths_pass(path: str) -> None:
    """nginx asks for the outpost's own paths too, which need no login."""
    assert_anonymous(verdict(asked("nginx", P + path)), Passed.OWN_PATH)


@pytest.mark.parametrize(
    "path",
    [
        "/outpost.goauthentik.io/../admin",
        "/outpost.goauthentik.io/%2e%2e/admin",
        "/outpost.goauthentik.io/..%2fadmin",
        "/outpost.goauthentik.io/..;/admin",
        "/outpost.goauthentik.io/..\\admin",
        "/outpost.goauthentik.iofoo",
        "/x/outpost.goauthentik.io/start",
        "//outpost.goauthentik.io/start",
    ],
)
def test_n08_what_only_looks_like_own_paths(path: str) -> None:
    """Dot segments and longer names are not ours."""
    found = verdict(asked("nginx", path))
    assert isinstance(found, Login)
    assert found.reply is Reply.UNAUTHORIZED
    for dialect in ("traefik", "caddy", "envoy"):
        assert isinstance(verdict(asked(dialect, P + "/x")), Login)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "path",
    [
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public/%2E./admin",
        "/public/..%2fadmin",
        "/public%2f../admin",
        "/public/..;a=b/admin",
        "/public/.;/../admin",
        "/public//../admin",
        "/public/..%5cadmin",
        "/public/%252e%252e/admin",
        "/public/%00",
        "/public/%ff",
        "/public/..",
        "/public/.",
        "/public/\u00ef\u00bc\u008e\u00ef\u00bc\u008e/admin",
        "/public/%EF%BC%8E%EF%BC%8E/admin",
        "/public/%E2%80%A5/admin",
    ],
)
def test_n09_paths_with_two_readings_are_closed(dialect: str, path: str) -> None:
    """No expression opens a path that somebody might read differently."""
    assert isinstance(verdict(asked(dialect, path)), Login)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("path", ["/%zz", "/%", "/public/%2", "/public/%zz/x"])
def test_n10_broken_escape(dialect: str, path: str) -> None:
    """500, even with a session."""
    for more in ({}, cookie(SINGLE)):
        assert isinstance(verdict(asked(dialect, path, more), ALL, session_at(SINGLE)), Misconfigured)


@pytest.mark.parametrize("dialect", ["nginx", "traefik", "caddy"])
@pytest.mark.parametrize(
    "url",
    [
        "https://adm.example.com/?u=https://health.example.com/ping/",
        "https://adm.example.com/https://health.example.com/ping/",
        "https://adm.example.com/https:/health.example.com/ping/",
        "https://adm.example.com/health.example.com/ping/",
    ],
)
@pytest.mark.parametrize(
    "line", [r"https://health\.example\.com/ping/", r"health\.example\.com/ping", "https:/+health"]
)
def test_n11_url_rule_without_anchor(dialect: str, url: str, line: str) -> None:
    """An expression with a host opens no other host's paths and queries."""
    providers = table(
        record(2, "D", "cid", "https://auth.example.com", mode="forward_domain", cookie_domain="example.com",
               skip_path_regex=line)
    )  # fmt: skip
    assert isinstance(verdict(asked(dialect, url), providers), Login)
    assert_anonymous(verdict(asked(dialect, "https://health.example.com/ping/"), providers), Passed.OPEN_PATH)


def test_n12_blank_line_opens_nothing() -> None:
    """The other lines still do."""
    lines = "^/public\n\n \r\n^/x"
    providers = table(record(1, "S", "cid", "https://app.example.com", mode="forward_single", skip_path_regex=lines))
    assert isinstance(verdict(asked("nginx", "/secret"), providers), Login)
    for path in ("/public", "/x"):
        assert_anonymous(verdict(asked("nginx", path), providers), Passed.OPEN_PATH)


def test_n13_unencoded_return_url() -> None:
    """nginx cannot encode: the URL goes on to the end of the query."""
    found = verdict(request(f"{P}/start?rd=https://app.example.com/a?x=1&y=2"))
    assert found == Start(SINGLE, "https://app.example.com/a?x=1&y=2")


# --- Traefik, Caddy


@pytest.mark.parametrize("dialect", ["traefik", "caddy"])
@pytest.mark.parametrize(
    "change",
    [
        {"X-Forwarded-Proto": ""},
        {"X-Forwarded-Proto": "ftp"},
        {"X-Forwarded-Uri": ""},
        {"X-Forwarded-Uri": "https://app.example.com/"},
        {"X-Forwarded-Uri": "@evil.org/"},
        {"X-Forwarded-Host": ""},
    ],
)
def test_t01_original_url_missing(dialect: str, change: dict[str, str]) -> None:
    """500 ``configuration error``."""
    assert isinstance(verdict(request(f"{P}/auth/{dialect}")), Misconfigured)
    found = verdict(asked(dialect, "/a", change | cookie(SINGLE)), ALL, session_at(SINGLE))
    assert isinstance(found, Misconfigured)


def test_t01_forwarding_headers_of_a_stranger() -> None:
    """They are not believed; the problem says so."""
    found = verdict(asked("traefik", "/a", cookie(SINGLE), via=STRANGER), ALL, session_at(SINGLE))
    assert isinstance(found, Misconfigured)
    assert "trusted proxies" in found.problem


@pytest.mark.parametrize("target", ["traefik", "caddy", "caddy?x=1&y=2", "traefik?X-authentik-logout=true"])
def test_t02_anonymous(target: str) -> None:
    """A login that ends at the whole URL, whatever query Caddy appends to its question."""
    one = asked(target.partition("?")[0], "/a?x=1&y=2")
    one.target = f"{P}/auth/{target}"
    assert_login(verdict(one), "https://app.example.com/a?x=1&y=2")


def test_t02_websocket_scheme() -> None:
    """Traefik calls the scheme of a WebSocket ``wss``."""
    check = prepare(asked("traefik", "/a", {"X-Forwarded-Proto": "wss"}), ALL)
    assert isinstance(check, Check)
    assert str(check.url) == "https://app.example.com/a"


@pytest.mark.parametrize("dialect", ["traefik", "caddy"])
def test_t05_callback_in_the_forwarded_url(dialect: str) -> None:
    """It goes to the callback with the forwarded query."""
    found = verdict(asked(dialect, "/?X-authentik-auth-callback=TRUE&code=c&state=s"))
    assert found == Callback((SINGLE,), "X-authentik-auth-callback=TRUE&code=c&state=s")
    found = verdict(asked(dialect, "/?X-authentik-auth-callback=true?error=login_required&state=s"))
    assert isinstance(found, Callback)
    for query in ("x-authentik-auth-callback=true", "X-authentik-auth-callback=1", "a=X-authentik-auth-callback=true"):
        assert isinstance(verdict(asked(dialect, f"/?{query}")), Login)
    assert isinstance(verdict(asked("nginx", "/?X-authentik-auth-callback=true&code=c")), Login)


@pytest.mark.parametrize("dialect", ["traefik", "caddy"])
def test_t06_sign_out_in_the_forwarded_url(dialect: str) -> None:
    """With the session cookie, and without one."""
    url = "/?X-authentik-logout=true"
    assert verdict(asked(dialect, url, cookie(SINGLE))) == SignOut(SINGLE, ("c" * 43,), True)
    assert verdict(asked(dialect, url)) == SignOut(SINGLE, (), True)


def test_t07_foreign_forwarded_host() -> None:
    """The only provider takes it; the login ends at its external host, never at the foreign one."""
    alone = table(S)
    for dialect in ("traefik", "caddy"):
        assert_login(verdict(asked(dialect, "https://evil.org/x"), alone), "")
    found = verdict(asked("nginx", "https://evil.org/x"), alone)
    assert_login(found, "", Reply.UNAUTHORIZED)
    assert isinstance(verdict(asked("traefik", "https://evil.org/x"), ALL), NoProvider)


@pytest.mark.parametrize("dialect", ["traefik", "caddy"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PROPFIND", "post"])
def test_t08_forwarded_method(dialect: str, method: str) -> None:
    """401 and no login for what a login would turn into a GET."""
    found = verdict(asked(dialect, "/a", {"X-Forwarded-Method": method, "Sec-Fetch-Mode": "navigate"}))
    assert found == Unauthorized(SINGLE, challenge=False)
    assert_login(verdict(asked(dialect, "/a", {"X-Forwarded-Method": "GET"})), "https://app.example.com/a")


NO_PAGES = [
    {"Sec-Fetch-Mode": "cors"},
    {"Sec-Fetch-Mode": "no-cors", "Accept": "text/html"},
    {"Sec-Fetch-Mode": "websocket"},
    {"Access-Control-Request-Method": "GET"},
    {"Upgrade": "websocket"},
    {"Upgrade": "WebSocket", "Sec-Fetch-Mode": "navigate"},
    {"X-Requested-With": "XMLHttpRequest"},
    {"Accept": "application/json"},
    {"Accept": "text/event-stream"},
    {"Accept": "image/avif,image/webp"},
]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("headers", NO_PAGES)
def test_t09_what_is_no_navigation(dialect: str, headers: dict[str, str]) -> None:
    """401, no session, and it never becomes the URL to return to."""
    found = verdict(asked(dialect, "/a", headers))
    assert found == Unauthorized(SINGLE)
    assert isinstance(found, Unauthorized)
    assert found.login_url == "https://app.example.com/outpost.goauthentik.io/start"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "X-Requested-With": "com.android.browser"},
        {"Accept": "text/html,application/xhtml+xml"},
        {"Accept": "*/*"},
        {"Upgrade": "h2c"},
    ],
)
def test_t09_what_is_a_navigation(dialect: str, headers: dict[str, str]) -> None:
    """Browsers that say so, and all that do not say what they are."""
    assert isinstance(verdict(asked(dialect, "/a", headers)), Login)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_t10_dead_cookies(dialect: str) -> None:
    """A cookie of no session, or of one that was signed out, is as good as none."""
    over = session_at(SINGLE)
    over.end(Event.SIGNED_OUT)
    for found in (
        verdict(asked(dialect, "/a", cookie(SINGLE))),
        verdict(asked(dialect, "/a", cookie(SINGLE)), ALL, over),
        verdict(asked(dialect, "/a", {"Cookie": f"{SINGLE.cookie.name}=broken|mac"})),
    ):
        assert isinstance(found, Login)
        assert found.target == "https://app.example.com/a"


def test_t13_domain() -> None:
    """A host of the domain is served by its provider, whose callback is at the external host."""
    for dialect in ("traefik", "caddy", "envoy"):
        found = verdict(asked(dialect, "https://a.example.com/", host="a.example.com"))
        assert_login(found, "https://a.example.com/")
        assert isinstance(found, Login)
        assert found.provider is DOMAIN
    assert DOMAIN.redirect_uri == (
        "https://auth.example.com/outpost.goauthentik.io/callback?X-authentik-auth-callback=true"
    )
    assert DOMAIN.cookie.domain == "example.com"


@pytest.mark.parametrize("host", ["evilexample.com", "example.com.evil.org", "xexample.com", "com", "example.co"])
def test_t14_domains_end_at_labels(host: str) -> None:
    """400: no application of this name."""
    assert verdict(asked("nginx", "/", host=host), table(S, D)) == NoProvider(host)


@pytest.mark.parametrize(
    "host", ["a.example.com:8443", "A.Example.COM", "a.example.com.", "example.com", "x.y.example.com"]
)
def test_t15_hosts_of_a_domain(host: str) -> None:
    """Any port, case and depth, and the domain itself."""
    found = verdict(asked("nginx", f"https://{host}/x", host=host), table(S, D))
    assert isinstance(found, Login)
    assert found.provider.name == "D"
    assert found.target == f"https://{host.lower().removesuffix('.')}/x"


# --- Envoy


def test_e01_scheme_of_the_external_host() -> None:
    """Envoy does not say a scheme; a trusted peer may."""
    assert_login(verdict(asked("envoy", "/a?x=1")), "https://app.example.com/a?x=1")
    assert_login(verdict(request(f"{P}/auth/envoy")), "https://app.example.com/")
    assert_login(verdict(request(f"{P}/auth/envoy?x=1")), "https://app.example.com/?x=1")
    assert isinstance(verdict(request(f"{P}/auth/envoyfoo")), NotFound)
    plain = table(record(1, "S", "cid", "http://app.example.com", mode="forward_single"))
    found = verdict(asked("envoy", "/a", {"X-Forwarded-Proto": "https"}), plain)
    assert_login(found, "https://app.example.com/a")


def test_e03_doubled_slashes_stay() -> None:
    """The path goes on as it is."""
    assert_login(verdict(asked("envoy", "/a//b")), "https://app.example.com/a//b")


@pytest.mark.parametrize("method", ["POST", "OPTIONS", "DELETE"])
def test_e04_own_method(method: str) -> None:
    """Envoy asks with the original method."""
    assert verdict(asked("envoy", "/a", {"Content-Length": "0"}, method=method)) == Unauthorized(SINGLE)


# --- routing


@pytest.mark.parametrize("host", ["app.example.com", "whatever", "", "foo..bar"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
def test_r01_ping(host: str, method: str) -> None:
    """For any host, whatever the method."""
    assert verdict(request(f"{P}/ping", host=host, method=method)) == Ping()
    assert verdict(request(f"{P}/static/dist/a.css?x", host=host)) == Static("dist/a.css")


def test_r02_unknown_host() -> None:
    """400 with two providers; a single one takes it."""
    assert verdict(asked("nginx", "/", host="other.org"), table(S, X)) == NoProvider("other.org")
    assert isinstance(verdict(asked("nginx", "/", host="other.org"), table(S)), Login)
    assert verdict(asked("nginx", "/", host="other.org"), Providers()) == NoProvider("other.org")


@pytest.mark.parametrize("host", ["APP.example.com", "app.example.com.", "app.example.com:443", "app.example.com:8443"])
def test_r03_spellings_of_a_host(host: str) -> None:
    """Case, final dot and port do not matter where the name has one provider."""
    check = prepare(asked("nginx", "/", host=host), ALL)
    assert isinstance(check, Check)
    assert check.provider is SINGLE


@pytest.mark.parametrize(
    "host", ["foo..bar", "a b", "[::1", "x" * 300, "", "a:b", "a:0", "a@b", "a/b", "-a", "1.2.3.4.5"]
)
@pytest.mark.parametrize("providers", [ALL, table(S)], ids=["several", "one"])
def test_r04_bad_host(host: str, providers: Providers) -> None:
    """400, also with a single provider."""
    assert verdict(request(f"{P}/auth/nginx", host=host), providers) == BadRequest("no host")


def test_r05_forwarded_host_of_a_stranger() -> None:
    """Only trusted proxies may say what the host was."""
    for via, expected in ((STRANGER, SINGLE), (TRUSTED, PROXY)):
        one = asked("nginx", "/a", {"X-Forwarded-Host": "proxy.example.com"}, via=via)
        check = prepare(one, ALL)
        assert isinstance(check, Check)
        assert check.provider is expected


@pytest.mark.parametrize(
    "target",
    ["/anything", "/", f"{P}/callback/", f"{P}/start/", f"{P}/sign_out/x", P, f"{P}/", f"{P}/auth", f"{P}/auth/other",
     f"{P}/auth/nginx/", f"{P}/../x", "/x?X-authentik-auth-callback=true"],
)  # fmt: skip
def test_r06_other_paths_in_forward_modes(target: str) -> None:
    """404."""
    assert verdict(request(target)) == NotFound()


def test_r07_sessions_outlive_a_refresh() -> None:
    """A new table with the same providers knows the same sessions; a new cookie domain is applied."""
    session = session_at(SINGLE)
    assert isinstance(verdict(asked("nginx", "/a", cookie(SINGLE)), table(S, D, X), session), Allow)
    changed = record(
        1, "S", "cid-single", "https://app.example.com", mode="forward_single", cookie_domain=".example.com"
    )
    later = table(changed, D, X)
    assert isinstance(verdict(asked("nginx", "/a", cookie(SINGLE)), later, session), Allow)
    assert later.by_pk[1].cookie.domain == "example.com"


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


# --- sessions


def test_w17_a_session_is_good_for_its_provider_only() -> None:
    """Another provider's cookie value under this one's name is nobody's."""
    for session in (session_at(DOMAIN), session_at(SINGLE, client_id="other"), session_at(SINGLE, provider_pk=9)):
        found = verdict(asked("nginx", "/a", cookie(SINGLE)), ALL, session)
        assert isinstance(found, Login)


def test_w21_a_session_ends_with_its_token() -> None:
    """To the second; and after its idle time."""
    session = session_at(SINGLE, claims={"exp": NOW + 30})
    one = asked("nginx", "/a", cookie(SINGLE))
    assert isinstance(verdict(one, ALL, session, now=NOW + 29.9), Allow)
    assert isinstance(verdict(one, ALL, session, now=NOW + 30), Login)
    idle = table(S, session_idle=60.0)
    assert isinstance(verdict(one, idle, session_at(SINGLE), now=NOW + 59), Allow)
    check = prepare(one, idle)
    assert isinstance(check, Check)
    assert isinstance(judge(check, session_at(SINGLE), NOW + 60), Login)


def test_renewal_is_asked_for_once_the_token_is_over() -> None:
    """With a refresh token and within the session's own life."""
    session = session_at(SINGLE, refresh_token="r", max_life_s=7200.0)
    check = prepare(asked("nginx", "/a", cookie(SINGLE)), ALL)
    assert isinstance(check, Check)
    assert isinstance(judge(check, session, NOW), Allow)
    found = judge(check, session, NOW + 1800)
    assert isinstance(found, Renew)
    assert found.session is session
    assert isinstance(judge(check, None, NOW + 1800), Login)
    assert isinstance(judge(check, session, NOW + 7200), Login)


def test_several_cookies_of_one_name() -> None:
    """The one that is a session counts, wherever it stands."""
    name = SINGLE.cookie.name
    for text in (
        f"{name}={'x' * 43}; {name}={'c' * 43}",
        f"{name}={'c' * 43}; {name}={'x' * 43}",
        f"bad; {name}={'c' * 43}",
    ):
        assert isinstance(verdict(asked("nginx", "/a", {"Cookie": text}), ALL, session_at(SINGLE)), Allow)


def test_groups_for_paths() -> None:
    """403 for who is logged in and in none of them; a path with two readings has to meet every rule."""
    rules = ("/admin=admins|root", "/secret=nobody", "other.example.com/=nobody")
    providers = table(S, required_groups=rules)
    session = session_at(SINGLE)
    for path, passes in (
        ("/", True),
        ("/admin", True),
        ("/admin/x", True),
        ("/secretary", True),
        ("/secret", False),
        ("/secret/x?y", False),
        ("/s%65cret", False),
        ("/x/../secret", False),
        ("/a//b", False),
    ):
        found = verdict(asked("nginx", path, cookie(SINGLE)), providers, session)
        assert isinstance(found, Allow if passes else Forbidden), path
    assert isinstance(verdict(asked("nginx", "/secret"), providers), Login)
    both = table(S, required_groups=("/=nobody",))
    found = verdict(asked("nginx", "/public/x", cookie(SINGLE)), both, session)
    assert headers_of(found)["X-Authentik-Username"] == "alice"


def test_networks_without_login() -> None:
    """By the address that trusted proxies say; nobody is anybody there."""
    providers = table(S, skip_networks=(TRUSTED.proxies[0],))
    inside, outside = {"X-Forwarded-For": "10.1.2.3"}, {"X-Forwarded-For": "10.1.2.3, 203.0.113.5"}
    assert_anonymous(verdict(asked("nginx", "/a", inside), providers), Passed.OPEN_NETWORK)
    assert isinstance(verdict(asked("nginx", "/a", outside), providers), Login)
    assert isinstance(verdict(asked("nginx", "/a", inside, via=STRANGER), providers), Login)
    assert isinstance(verdict(asked("nginx", "/a", inside), table(S)), Login)


# --- Authorization

JWT = "eyJh.eyJz.c2ln"
BASIC = "Basic " + base64.b64encode(b"alice:app:password").decode()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("value", [f"Bearer {JWT}", f"bearer  {JWT}", BASIC, BASIC.replace("Basic", "BASIC")])
def test_h02_credentials_are_tried(dialect: str, value: str) -> None:
    """Then they are good, or it is 401 with a challenge; a page is open all the same."""
    one = asked(dialect, "/a", {"Authorization": value})
    found = verdict(one)
    assert isinstance(found, TryCredentials)
    assert found.credential.digest == credential_of(value)
    for tried in (Tried.REFUSED, Tried.UNKNOWN):
        assert verdict(one, tried=tried) == Unauthorized(SINGLE, challenge=True)
    public = asked(dialect, "/public", {"Authorization": value})
    assert isinstance(verdict(public), TryCredentials)
    assert_anonymous(verdict(public, tried=Tried.REFUSED), Passed.OPEN_PATH)
    check = prepare(one, ALL)
    assert isinstance(check, Check)
    made = session_at(SINGLE, authorization=value)
    found = judge(check, made, NOW, Tried.NOT_YET)
    assert isinstance(found, Allow)
    assert (found.why, found.used_authorization) == (Passed.CREDENTIALS, True)


@pytest.mark.parametrize(
    "value", ["Bearer sk-123", "Basic !!!", "Basic YQ==", "Negotiate x", "", "Bearer", "Basic Og=="]
)
def test_w38_foreign_credentials_are_not_tried(value: str) -> None:
    """An application's own keys never go to the core; the answer is 401 where the provider intercepts."""
    assert credential_from(value) is None
    assert verdict(asked("traefik", "/a", {"Authorization": value})) == Unauthorized(SINGLE, challenge=True)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_w38_interception_off(dialect: str) -> None:
    """Then nothing is tried and a login begins, in all modes."""
    off = table(record(1, "S", "cid", "https://app.example.com", mode="forward_single", intercept_header_auth=False))
    assert isinstance(verdict(asked(dialect, "/a", {"Authorization": BASIC}), off), Login)


def test_w39_credentials_never_go_on() -> None:
    """Also when the session that they made is found by its cookie; other values belong to the application."""
    made = session_at(SINGLE, authorization=BASIC)
    again = asked("nginx", "/a", cookie(SINGLE) | {"Authorization": BASIC})
    found = verdict(again, ALL, made)
    assert isinstance(found, Allow)
    assert found.used_authorization
    other = asked("nginx", "/a", cookie(SINGLE) | {"Authorization": "Bearer key-of-the-application"})
    for session in (made, session_at(SINGLE)):
        found = verdict(other, ALL, session)
        assert isinstance(found, Allow)
        assert not found.used_authorization


def test_credentials_are_read() -> None:
    """The password may hold colons; nothing is shown."""
    found = credential_from(BASIC)
    assert found is not None
    assert (found.kind, found.user, found.secret) == (CredentialKind.BASIC, "alice", "app:password")
    assert "app:password" not in repr(found)
    token = credential_from(f"Bearer {JWT}")
    assert token is not None
    assert (token.kind, token.user, token.secret) == (CredentialKind.BEARER, "", JWT)
    assert credential_from("Bearer " + "a" * 70_000 + ".b.c") is None


# --- requests with two readings


@pytest.mark.parametrize("name", ["host", "x-forwarded-host", "x-original-url", "authorization"])
def test_repeated_headers(name: str) -> None:
    """400, with a session too."""
    one = asked("nginx", "/a", cookie(SINGLE), repeated=name)
    assert verdict(one, ALL, session_at(SINGLE)) == BadRequest(f"more than one {name}")


@pytest.mark.parametrize("target", ["*", "http://app.example.com/", "app.example.com:443", "", "/a#b", "x"])
def test_targets_that_are_no_paths(target: str) -> None:
    """400."""
    assert isinstance(verdict(request(target, host="proxy.example.com")), BadRequest)


# --- several places


def test_further_hosts() -> None:
    """A host without the session's cookie sends the login to the external host; one with it keeps its own."""
    shop = record(1, "S", "cid", "https://app.example.com", mode="forward_single", cookie_domain="example.com")
    providers = table(shop, hosts=("alias.example.com", "other.org:8443"))
    found = verdict(asked("traefik", "https://alias.example.com/x?y", host="alias.example.com"), providers)
    assert_login(found, "https://alias.example.com/x?y")
    found = verdict(asked("traefik", "https://other.org:8443/x?y", host="other.org:8443"), providers)
    assert_login(found, "https://app.example.com/x?y")
    assert verdict(request(f"{P}/start?rd=https://other.org:8443/z"), providers) == Start(
        providers.by_pk[1], "https://app.example.com/z"
    )


def test_w09_providers_below_one_host() -> None:
    """Each has its paths, its own callback where the core expects it, and its rules."""
    providers = table(
        record(1, "root", "cid-1", "https://h.example.com", mode="forward_single"),
        record(2, "app", "cid-2", "https://h.example.com/app/", mode="forward_single"),
        record(3, "deep", "cid-3", "https://h.example.com/app/deep/", mode="forward_single"),
    )
    for path, name in (("/", "root"), ("/appx", "root"), ("/app", "app"), ("/app/x", "app"), ("/app/deep/x", "deep")):
        check = prepare(asked("nginx", path, host="h.example.com"), providers)
        assert isinstance(check, Check)
        assert check.provider.name == name, path
    query = "X-authentik-auth-callback=true&state=s"
    found = verdict(request(f"/app{P}/callback?{query}", host="h.example.com"), providers)
    assert isinstance(found, Callback)
    assert [one.name for one in found.providers] == ["deep", "app", "root"]
    found = verdict(request(f"{P}/start?rd=https://h.example.com/app/x", host="h.example.com"), providers)
    assert found == Start(providers.by_pk[2], "https://h.example.com/app/x")
    assert providers.by_pk[2].redirect_uri == f"https://h.example.com/app{P}/callback?X-authentik-auth-callback=true"


def test_tickets_of_a_browser() -> None:
    """Its login cookies, whatever stands around them."""
    name = SINGLE.cookie.login_name
    good = "t" * 43 + ".6b49d200.3"
    one = request("/", {"Cookie": f"x; {name}=short; {name}={good}; y"})
    assert [ticket.value for ticket in tickets_of(SINGLE, one)] == [good]
    assert tickets_of(SINGLE, request("/")) == []


# --- every combination


STATES: dict[str, Any] = {
    "none": lambda one: None,
    "live": session_at,
    "expired": lambda one: session_at(one, claims={"exp": NOW - 1}),
    "other": lambda one: session_at(one, provider_pk=99),
    "ended": lambda one: _ended(one),
    "renewable": lambda one: session_at(one, claims={"exp": NOW - 1}, refresh_token="r", max_life_s=60.0),
}


def _ended(one: Any) -> Session:
    session = session_at(one)
    session.end(Event.REVOKED)
    return session


def test_only_a_live_session_or_an_open_place_passes() -> None:
    """All providers, sessions, credentials, paths and ways of asking together: nothing else ever says ``Allow``."""
    passed = 0
    ways = (*DIALECTS, "")
    for one, way, state, path, authorization, tried in product(
        (SINGLE, DOMAIN, PROXY),
        ways,
        STATES,
        ("/a", "/public/x", "/public/../a", P + "/x"),
        ("", BASIC, "Bearer key"),
        Tried,
    ):
        if not way and one is not PROXY:
            continue
        host = one.external.host.name
        headers = {"Authorization": authorization} if authorization else {}
        there = asked(way, path, headers, host=host) if way else request(path, headers, host=host)
        check = prepare(there, ALL)
        if not isinstance(check, Check):
            assert not isinstance(check, Allow)
            continue
        found = judge(check, STATES[state](one), NOW, tried)
        open_path = path == "/public/x" and one is not DOMAIN
        own = way == "nginx" and path.startswith(P)
        expected = state == "live" or open_path or own
        if isinstance(found, Allow):
            passed += 1
            assert expected, (one, way, state, path)
            assert (found.session is None) == (state != "live")
        else:
            assert state != "live"
            assert isinstance(found, (Login, Unauthorized, Renew, TryCredentials))
            if expected:
                assert isinstance(found, (Renew, TryCredentials))
    assert passed > 100


def test_a_session_is_found_by_the_digest_of_its_cookie() -> None:
    """What ``Check.values`` holds leads to ``Session.key``."""
    check = prepare(asked("nginx", "/a", cookie(SINGLE)), ALL)
    assert isinstance(check, Check)
    assert [sessions.key_of(value) for value in check.values] == [session_at(SINGLE).key]
