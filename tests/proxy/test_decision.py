"""``outposts/proxy/decision.py``: who may pass at all: sessions, credentials, groups, networks, and nobody else."""

from __future__ import annotations

import ast
import base64
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from outposts import proxy
from outposts.proxy import session as sessions
from outposts.proxy.decision import (
    Allow,
    BadRequest,
    Callback,
    Check,
    CredentialKind,
    Forbidden,
    Login,
    Passed,
    Renew,
    Start,
    Tried,
    TryCredentials,
    Unauthorized,
    credential_from,
    judge,
    pick,
    prepare,
    tickets_of,
)
from outposts.proxy.session import Event, Session, credential_of
from tests.proxy.site import (
    ALL,
    NOW,
    STRANGER,
    TRUSTED,
    P,
    S,
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


def test_which_of_several_sessions_counts() -> None:
    """A live one before one to renew, in the browser's order; never another provider's."""
    name, letters = SINGLE.cookie.name, "abcd"
    check = prepare(asked("nginx", "/a", {"Cookie": "; ".join(f"{name}={letter * 43}" for letter in letters)}), ALL)
    assert isinstance(check, Check)
    assert check.values == tuple(letter * 43 for letter in letters)
    over: dict[str, Any] = {"claims": {"exp": NOW - 1}, "refresh_token": "r", "max_life_s": 60.0}
    foreign = session_at(SINGLE, "a" * 43, provider_pk=9)
    renewable, live = session_at(SINGLE, "b" * 43, **over), session_at(SINGLE, "d" * 43)
    gone = session_at(SINGLE, "c" * 43)
    gone.end(Event.REVOKED)

    def picked(*there: Session) -> Session | None:
        return pick(check, {session.key: session for session in there}.get, NOW)

    assert picked(foreign, renewable, gone, live) is live
    assert picked(foreign, renewable, gone) is renewable
    assert picked(foreign, gone) is None
    assert picked() is None


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


def test_success_is_stated_in_one_place() -> None:
    """No module but ``decision.py`` makes an ``Allow``."""
    makers = set()
    for path in Path(proxy.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and "Allow" in (getattr(node.func, "id", ""), getattr(node.func, "attr", "")):
                makers.add(path.name)
    assert makers == {"decision.py"}


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
