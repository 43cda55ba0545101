"""``outposts/proxy/forwarding.py``: what an application gets, case by case (P2 to P13), and what never arrives."""

from __future__ import annotations

from typing import Any

import pytest

from outposts.proxy.decision import Allow, Check, judge, prepare
from outposts.proxy.forwarding import UpstreamRequest, upstream_request
from outposts.proxy.providers import Providers
from outposts.proxy.session import Session
from outposts.proxy.wire import Connection, raw_request
from tests.proxy.site import ALL, NOW, PROXIES, STRANGER, TRUSTED, S, X, provider, record, session_at, table

PROXY = ALL.by_pk[3]


def sent(
    target: str = "/a",
    headers: list[tuple[str, str]] | None = None,
    *,
    session: Session | None = None,
    via: Connection = STRANGER,
    providers: Providers = ALL,
    host: str = "proxy.example.com",
) -> UpstreamRequest:
    """What goes upstream for a request that may pass: with alice's session, or on an open path without one."""
    one = providers.by_pk[3]
    pairs = [("Host", host), *(headers or [])]
    if session is not None:
        pairs.append(("Cookie", f"{one.cookie.name}={'c' * 43}"))
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
    check = prepare(raw_request("GET", target, raw, via), providers)
    assert isinstance(check, Check)
    allow = judge(check, session, NOW)
    assert isinstance(allow, Allow), allow
    return upstream_request(check, allow, raw)


def alice(**rest: Any) -> Session:
    """A session at X."""
    return session_at(PROXY, **rest)


def values(found: UpstreamRequest, name: str) -> list[str]:
    """All values of a header, in order."""
    return [value.decode("utf-8") for key, value in found.headers if key.decode().lower() == name.lower()]


def test_p02_the_target_goes_on_as_it_came() -> None:
    """Raw path and query; the host stays; who asked is said."""
    target = "/a%2Fb/..;/c?a=%zz&b=1;c"
    found = sent(target, session=alice())
    assert (found.upstream.origin, found.target) == ("http://up:8080", target)
    assert found.headers[0] == (b"Host", b"proxy.example.com")
    assert values(found, "X-Forwarded-Host") == ["proxy.example.com"]
    assert values(found, "X-Forwarded-Proto") == ["http"]
    assert values(found, "X-Forwarded-For") == ["203.0.113.9"]
    assert values(found, "X-Authentik-Username") == ["alice"]


SPOOFED = [
    ("X-Authentik-Username", "root"),
    ("X_authentik_username", "root"),
    ("X-AUTHENTIK_Groups", "root"),
    ("x.authentik.email", "root"),
    ("X-Authentik-New", "root"),
    ("X-Authentik-Username", "root"),
]


@pytest.mark.parametrize("logged_in", [True, False])
def test_p03_identity_of_a_client_never_arrives(logged_in: bool) -> None:
    """Logged in it is replaced, else the headers are there and empty."""
    found = sent("/public", SPOOFED, session=alice() if logged_in else None)
    assert "root" not in repr(found.headers)
    assert values(found, "X-Authentik-Username") == (["alice"] if logged_in else [""])
    names = [name.decode().lower() for name, _ in found.headers]
    assert len(names) == len(set(names))
    assert not any("_" in name or "." in name for name in names)


@pytest.mark.parametrize("target", ["/q/%2F/n", "/a//b", "//x", "/a/./b", "/100%", "/?", "/a?b#".removesuffix("#")])
def test_p04_no_path_is_cleaned(target: str) -> None:
    """What the client asked for arrives."""
    assert sent(target, session=alice()).target == target


def test_p05_claims_of_this_request_choose_the_upstream() -> None:
    """Scheme and host of the override, and the host header; a broken one is none."""
    claims = {"ak_proxy": {"backend_override": "http://b2:1/p?x", "host_header": "internal"}}
    found = sent("/r?q", session=alice(claims=claims))
    assert (found.upstream.origin, found.target) == ("http://b2:1", "/r?q")
    assert values(found, "Host") == ["internal"]
    assert values(found, "X-Forwarded-Host") == ["proxy.example.com"]
    for override, host in (("ftp://b2", "a b"), ("b2", "x\r\ny"), ("http://b2@evil.org/", "a/b")):
        claims = {"ak_proxy": {"backend_override": override, "host_header": host}}
        found = sent(session=alice(claims=claims))
        assert found.upstream.origin == "http://up:8080"
        assert values(found, "Host") == ["proxy.example.com"]


def test_w45_path_of_the_internal_host() -> None:
    """It stands in front of the request's."""
    below = table(
        record(3, "X", "cid-proxy", "https://proxy.example.com", mode="proxy", internal_host="http://up/base/")
    )
    assert sent("/a?b", session=alice(), providers=below).target == "/base/a?b"


def test_p08_hop_by_hop() -> None:
    """Named ones too; ``TE: trailers`` may go on."""
    found = sent(
        headers=[("Connection", "X-Foo, close"), ("X-Foo", "1"), ("Keep-Alive", "x"), ("Proxy-Authorization", "x"),
                 ("TE", "trailers"), ("Transfer-Encoding", "chunked"), ("X-Bar", "2")],
        session=alice(),
    )  # fmt: skip
    assert [name for name in ("Connection", "X-Foo", "Keep-Alive", "Proxy-Authorization", "Transfer-Encoding")
            if values(found, name)] == []  # fmt: skip
    assert values(found, "TE") == ["trailers"]
    assert values(found, "X-Bar") == ["2"]
    assert values(sent(headers=[("TE", "gzip")], session=alice()), "TE") == []
    assert found.upgrade == ""


def test_connection_cannot_take_identity_off() -> None:
    """Naming our headers, the host or ``Authorization`` there changes only what the client sent."""
    one = alice(claims={"ak_proxy": {"user_attributes": {"additionalHeaders": {"X-Remote-User": "alice"}}}})
    found = sent(headers=[("Connection", "X-Authentik-Username, Host, X-Remote-User")], session=one)
    assert values(found, "X-Authentik-Username") == ["alice"]
    assert values(found, "X-Remote-User") == ["alice"]
    assert values(found, "Host") == ["proxy.example.com"]


def test_upgrade_is_named() -> None:
    """Only if the connection says so."""
    assert sent(headers=[("Connection", "keep-alive, Upgrade"), ("Upgrade", "websocket")], session=alice()).upgrade == (
        "websocket"
    )
    assert sent(headers=[("Upgrade", "websocket")], session=alice()).upgrade == ""


def test_p09_p11_added_headers_replace_the_clients() -> None:
    """In any spelling."""
    one = alice(
        claims={"name": "A\r\nB", "ak_proxy": {"user_attributes": {"additionalHeaders": {"X-Remote-User": "a"}}}}
    )
    found = sent(headers=[("x_remote_user", "root"), ("X-Remote-User", "root")], session=one)
    assert values(found, "X-Remote-User") == ["a"]
    assert values(found, "x_remote_user") == []
    assert values(found, "X-Authentik-Name") == ["AB"]


def test_p12_basic_injection_replaces_authorization() -> None:
    """The client's own does not arrive beside it."""
    one = record(3, "X", "cid-proxy", "https://proxy.example.com", mode="proxy", internal_host="http://up",
                 basic_auth_enabled=True, basic_auth_user_attribute="u", basic_auth_password_attribute="p")  # fmt: skip
    providers = table(S, one)
    claims = {"ak_proxy": {"user_attributes": {"u": "svc", "p": "hunter2"}}}
    session = session_at(providers.by_pk[3], claims=claims)
    found = sent(headers=[("Authorization", "Bearer x")], session=session, providers=providers)
    assert values(found, "Authorization") == ["Basic c3ZjOmh1bnRlcjI="]


@pytest.mark.parametrize(
    ("cookies", "arrives"),
    [
        (["a=1"], ["a=1"]),
        (["{own}; a=1; b=2"], ["a=1; b=2"]),
        (["a=1;{own};b=2"], ["a=1;b=2"]),
        (["{own}"], []),
        (["a=1", "{own}; c=3"], ["a=1", "c=3"]),
        (["=; bad pair; {own}; \x01; a=1; =x"], ["=; bad pair; \x01; a=1; =x"]),
        (["a=1; authentik_proxy_0846f340=other; authentik_proxy_0846f340_login=x; b"], ["a=1; b"]),
        (["__Host-authentik_proxy_0846f340=x; authentik_proxy_x=keep"], ["authentik_proxy_x=keep"]),
        (["x" * 16_384 + "; {own}"], ["x" * 16_384]),
    ],
)
def test_p13_own_cookies_stay_here(cookies: list[str], arrives: list[str]) -> None:
    """All others arrive octet for octet, whatever they look like."""
    own = f"{PROXY.cookie.name}={'c' * 43}"
    found = sent(headers=[("Cookie", text.format(own=own)) for text in cookies], session=alice())
    assert values(found, "Cookie") == arrives


def test_w39_credentials_for_us_do_not_arrive() -> None:
    """Those for the application do."""
    one = alice(authorization="Basic YTpi")
    assert values(sent(headers=[("Authorization", "Basic YTpi")], session=one), "Authorization") == []
    assert values(sent(headers=[("Authorization", "Basic eDp5")], session=one), "Authorization") == ["Basic eDp5"]


FORGED = [
    ("X-Forwarded-For", "1.1.1.1"),
    ("X-Forwarded-Host", "evil.org"),
    ("X-Forwarded-Proto", "https"),
    ("X_Forwarded_For", "1.1.1.1"),
    ("X-Real-IP", "1.1.1.1"),
    ("Forwarded", "for=1.1.1.1"),
    ("X-Original-URL", "/admin"),
]


def test_w45_forwarding_headers_of_a_stranger() -> None:
    """Gone; what arrives is what the connection shows."""
    found = sent(headers=FORGED, session=alice())
    assert "1.1.1.1" not in repr(found.headers)
    assert "evil.org" not in repr(found.headers)
    assert values(found, "X-Real-IP") == ["203.0.113.9"]
    assert values(found, "Forwarded") == []
    assert values(found, "X-Original-URL") == []


def test_forwarding_headers_of_a_trusted_proxy() -> None:
    """Believed and carried on; the client is the rightmost address that is no proxy."""
    found = sent(
        headers=[("X-Forwarded-For", "1.1.1.1, 198.51.100.7"), ("X-Forwarded-Host", "proxy.example.com"),
                 ("X-Forwarded-Proto", "https"), ("Forwarded", "for=198.51.100.7")],
        session=alice(),
        via=TRUSTED,
        host="inner:9000",
    )  # fmt: skip
    assert values(found, "X-Forwarded-For") == ["1.1.1.1, 198.51.100.7, 10.0.0.7"]
    assert values(found, "X-Forwarded-Host") == ["proxy.example.com"]
    assert values(found, "X-Forwarded-Proto") == ["https"]
    assert values(found, "X-Real-IP") == ["198.51.100.7"]
    assert values(found, "Forwarded") == ['for=198.51.100.7, for=10.0.0.7;host="inner:9000";proto=https']
    assert values(found, "Host") == ["inner:9000"]


def test_tls_and_version_six() -> None:
    """A connection over TLS is ``https``; addresses are written as their headers want them."""
    via = Connection("::1", PROXIES, secure=True)
    found = sent(headers=[("Forwarded", "for=x")], session=alice(), via=via)
    assert values(found, "X-Forwarded-Proto") == ["https"]
    assert values(found, "X-Forwarded-For") == ["::1"]
    assert 'for="[::1]"' in values(found, "Forwarded")[0]


def test_operators_may_name_more() -> None:
    """``strip_headers`` holds without a session too, in any spelling."""
    providers = table(X, strip_headers=("X-Remote-User",))
    found = sent("/public", [("x_remote_user", "root"), ("X-Other", "1")], providers=providers)
    assert "root" not in repr(found.headers)
    assert values(found, "X-Other") == ["1"]


def test_nothing_behind() -> None:
    """A provider without an upstream gets no request."""
    one = provider(S)
    raw = [(b"host", b"app.example.com")]
    check = Check(raw_request("GET", "/", raw, STRANGER), one, None, one.external, ())
    with pytest.raises(ValueError, match="upstream"):
        upstream_request(check, Allow(one, one.anonymous, None, "session"), raw)  # type: ignore[arg-type]
