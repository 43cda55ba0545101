"""Conformance cases of forward auth (N, T, E) and routing (R) by number, as far as they need no sockets."""

from __future__ import annotations

import pytest

from outposts.proxy.decision import (
    Allow,
    BadRequest,
    Callback,
    Check,
    Login,
    Misconfigured,
    NoProvider,
    NotFound,
    Passed,
    Ping,
    Reply,
    SignOut,
    Start,
    Static,
    Unauthorized,
    prepare,
)
from outposts.proxy.providers import Providers
from outposts.proxy.session import Event
from tests.proxy.site import (
    ALL,
    STRANGER,
    TRUSTED,
    D,
    P,
    S,
    X,
    asked,
    assert_anonymous,
    assert_login,
    cookie,
    headers_of,
    record,
    request,
    session_at,
    table,
    verdict,
)

SINGLE, DOMAIN, PROXY = (ALL.by_pk[pk] for pk in (1, 2, 3))
DIALECTS = ("nginx", "traefik", "caddy", "envoy")


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
