"""The providers of the conformance cases (S, D, X), requests to them, and sessions at them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any
from urllib.parse import quote

from common.records import ProxyProvider as Record
from common.setting_rows import EXTRAS
from outposts.proxy import rfc
from outposts.proxy import session as sessions
from outposts.proxy.decision import Allow, Check, Login, Passed, Reply, Tried, Verdict, judge, pick, prepare
from outposts.proxy.providers import Providers, ProxyProvider, resolve, resolve_all
from outposts.proxy.session import Session
from outposts.proxy.wire import AuthRequest, Connection

P = "/outpost.goauthentik.io"
NOW = 1_800_000_000.0  # unix seconds; the clock of these tests
PROXIES = (ip_network("10.0.0.0/8"), ip_network("::1/128"))
TRUSTED = Connection("10.0.0.7", PROXIES)
STRANGER = Connection("203.0.113.9", PROXIES)
DEFAULTS = {row.name: row.default for row in EXTRAS if row.type == "proxy"}
OIDC = {
    "issuer": "https://ak.example.org/application/o/app/",
    "authorization_endpoint": "https://ak.example.org/application/o/authorize/",
    "token_endpoint": "https://ak.example.org/application/o/token/",
    "jwks_uri": "https://ak.example.org/application/o/app/jwks/",
}


def record(pk: int, name: str, client_id: str, external_host: str, **rest: Any) -> Record:
    """A provider as the core lists it."""
    return Record(
        pk=pk,
        name=name,
        client_id=client_id,
        external_host=external_host,
        **{
            "client_secret": "client-secret",
            "cookie_secret": "B8E9ZFO52GJS95HWXFETVTLSLFQOYP99",
            "oidc_configuration": OIDC,
            "access_token_validity": 3600.0,
            "scopes_to_request": ["profile", "openid"],
            "assigned_application_slug": f"app-{pk}",
            "assigned_application_name": f"Application {pk}",
            **rest,
        },
    )


S = record(1, "S", "cid-single", "https://app.example.com", mode="forward_single", skip_path_regex="^/public")
D = record(
    2,
    "D",
    "cid-domain",
    "https://auth.example.com",
    mode="forward_domain",
    cookie_domain="example.com",
    skip_path_regex=r"^https://health\.example\.com/ping/",
)
X = record(
    3,
    "X",
    "cid-proxy",
    "https://proxy.example.com",
    mode="proxy",
    internal_host="http://up:8080",
    skip_path_regex="^/public",
)


def table(*records: Record, **settings: Any) -> Providers:
    """Providers in service, all with these settings."""
    return resolve_all(records, lambda _: None, lambda _: DEFAULTS | settings, outpost="outpost", version="v1")[0]


def provider(one: Record = S, **settings: Any) -> ProxyProvider:
    """One provider with these settings."""
    return resolve(one, None, DEFAULTS | settings, outpost="outpost", version="v1")[0]


ALL = table(S, D, X)

CLAIMS: dict[str, Any] = {
    "sub": "f182d6106e2ad766",
    "preferred_username": "alice",
    "name": "Alice Example",
    "email": "alice@example.com",
    "groups": ["staff", "admins"],
    "entitlements": ["read", "write"],
    "sid": "5e" * 32,
    "exp": NOW + 1800,
    "ak_proxy": {"user_attributes": {}, "is_superuser": False},
}


def randomness(seed: int = 7) -> Any:
    """Octets that are the same in every run."""
    return random.Random(seed).randbytes


def session_at(one: ProxyProvider, cookie: str = "c" * 43, **rest: Any) -> Session:
    """Alice's session at a provider."""
    payload = CLAIMS | rest.pop("claims", {})
    return sessions.create(
        cookie,
        **{
            "provider_pk": one.pk,
            "client_id": one.client_id,
            "payload": payload,
            "token": "header.payload.signature",
            "options": one.options,
            "now": NOW,
            "validity_s": one.validity_s,
            **rest,
        },
    )


def request(
    target: str,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    host: str = "app.example.com",
    via: Connection = TRUSTED,
    repeated: str = "",
) -> AuthRequest:
    """A request; header names in any case."""
    found = {"host": host} | {name.lower(): value for name, value in (headers or {}).items()}
    return AuthRequest(method, target, found, via, repeated)


def asked(dialect: str, url: str, headers: Mapping[str, str] | None = None, **rest: Any) -> AuthRequest:
    """A web server's question about a URL (absolute, or a path of app.example.com)."""
    if url.startswith("/"):
        url = f"https://{rest.get('host', 'app.example.com')}{url}"
    scheme, _, place = url.partition("://")
    host, _, path = place.partition("/")
    more = dict(headers or {})
    target = f"{P}/auth/{dialect}"
    if dialect == "nginx":
        more = {"X-Original-URL": url} | more
    elif dialect == "envoy":
        target += "/" + path
    else:
        more = {"X-Forwarded-Proto": scheme, "X-Forwarded-Host": host, "X-Forwarded-Uri": "/" + path} | more
    return request(target, more, **{"host": host, **rest})


def verdict(
    one: AuthRequest,
    providers: Providers = ALL,
    *sessions_there: Session,
    now: float = NOW,
    tried: Tried = Tried.NOT_YET,
) -> Verdict:
    """What becomes of a request when these sessions are in the store."""
    check = prepare(one, providers)
    if not isinstance(check, Check):
        return check
    stored = {session.key: session for session in sessions_there}
    return judge(check, pick(check, stored.get, now), now, tried)


def cookie(one: ProxyProvider, value: str = "c" * 43) -> dict[str, str]:
    """A ``Cookie`` header with a session of a provider."""
    return {"Cookie": f"a=1; {one.cookie.name}={value}; b=2"}


def quoted(url: str) -> str:
    """A URL as the value of a query's key."""
    return quote(url, safe="")


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
