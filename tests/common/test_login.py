"""The login service against a scripted core: the success rule, failures of every call, headers, cookies, openings."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import common
from common import login as login_module
from common.errors import CoreTimedOut, CoreUnavailable
from common.flow_client import CookieStore, SessionClaims, read_claims
from common.login import Credentials, Denied, LoginService, LoginTarget, Passed, Unavailable
from common.transport import Response
from tests.common.scripted_core import (
    ALICE,
    BOTH,
    FAULTS,
    FLOW,
    GOOD,
    HTML,
    NAME,
    PASSING,
    REDIRECT,
    TARGET,
    TRUNCATED,
    Core,
    Step,
    answer,
    jwt,
    log_in,
    moved,
    session,
)
from tests.common.test_recorded_flows import Settings


async def test_good_login() -> None:
    """All four conditions hold."""
    core = Core(*GOOD)
    outcome = await log_in(core)
    assert isinstance(outcome, Passed)
    assert (outcome.user_pk, outcome.username, outcome.has_search_permission) == (5, "alice", True)
    assert outcome.session.session_id == hashlib.sha256(b"s1").hexdigest()
    assert outcome.used_code is False
    assert core.steps == []


async def test_c33_headers_of_every_call() -> None:
    """C33: never a token as ``Authorization``; both delegation headers, everywhere; C34: the address is bare."""
    core = Core(*GOOD)
    await log_in(core, who=Credentials("alice", "hunter2", "::ffff:10.1.2.3"))
    assert len(core.calls) == 5
    for _, _, headers, _ in core.calls:
        assert "authorization" not in headers
        assert headers["x-authentik-outpost-token"] == "outpost-token"
        assert headers["x-authentik-remote-ip"] == "10.1.2.3"
    assert core.calls[0][1] == FLOW + "?query=goauthentik.io%252Foutpost%252Fldap%3Dtrue"


@pytest.mark.parametrize("attributes", ["Domain=other.tld; Secure", "Path=/elsewhere; SameSite=Strict; Secure", ""])
async def test_c37_cookies_come_back_whatever_they_say(attributes: str) -> None:
    """C37: Domain, Secure, Path and SameSite do not matter."""
    core = Core(answer(BOTH, 200, session("s0", False, attributes)), *GOOD[1:])
    assert isinstance(await log_in(core), Passed)
    assert core.calls[1][2]["cookie"] == f"authentik_session={jwt('s0', False)}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_c38_many_redirects(status: int) -> None:
    """C38: twelve hops in a row, of any kind; each is a GET, and the password went out once."""
    core = Core(GOOD[0], *(moved(status=status) for _ in range(12)), GOOD[2])
    assert isinstance(await log_in(core), Passed)
    assert len(core.posts()) == 1
    assert [method for method, *_ in core.calls].count("POST") == 1


async def test_too_many_redirects() -> None:
    """More than thirty: nobody's wrong password."""
    core = Core(GOOD[0], *(moved() for _ in range(31)))
    outcome = await log_in(core)
    assert isinstance(outcome, Unavailable)
    assert outcome.reason == "nonsense"
    assert isinstance(await log_in(Core(GOOD[0], *(moved() for _ in range(30)), GOOD[2])), Passed)


async def test_redirect_target_is_followed_byte_for_byte() -> None:
    """What stands in ``Location`` is what is asked for."""
    core = Core(GOOD[0], moved(FLOW + "?query=a%2Fb+c&next=%E2%82%AC"), GOOD[2])
    await log_in(core)
    assert core.calls[2][1] == FLOW + "?query=a%2Fb+c&next=%E2%82%AC"


@pytest.mark.parametrize("location", ["/if/flow/x/", "https://evil.example/", "//evil.example/x/", FLOW + "../x"])
async def test_redirect_elsewhere_is_an_end_and_no_call(location: str) -> None:
    """Like a redirect challenge: the rule decides, and nothing is sent to that place."""
    core = Core(GOOD[0], moved(location, session("s0", False)))
    outcome = await log_in(core)
    assert isinstance(outcome, Denied)
    assert outcome.reason == "not_authenticated"
    assert len(core.calls) == 2


@pytest.mark.parametrize("claim", [False, None, "true", 1])
async def test_c39_redirect_without_login(claim: Any) -> None:
    """C39: nobody is logged in: denied, and the access check, which would pass, is not even made."""
    core = Core(GOOD[0], answer(REDIRECT, 200, session("s1", claim)))
    outcome = await log_in(core)
    assert isinstance(outcome, Denied)
    assert outcome.reason == "not_authenticated"
    assert core.asked("check_access") == 0
    assert core.asked("users/me") == 0


async def test_session_deleted_at_the_end() -> None:
    """A flow that logs out again."""
    core = Core(GOOD[0], answer(REDIRECT, 200, 'authentik_session=""; Max-Age=0'))
    outcome = await log_in(core)
    assert isinstance(outcome, Denied)
    assert outcome.reason == "not_authenticated"


async def test_authenticated_without_being_asked_for_a_password() -> None:
    """A flow that lets everyone in is no password login, whatever its cookie says."""
    for steps in (
        (answer(REDIRECT, 200, session("s1")),),
        (answer(NAME), answer(REDIRECT, 200, session("s1"))),
        (answer(BOTH), answer(REDIRECT, 200, session("s1"))),
    ):
        core = Core(*steps)
        outcome = await log_in(core, who=Credentials("alice", "", "192.0.2.55"))
        assert isinstance(outcome, Denied)
        assert outcome.reason == "password_not_asked"
        assert core.asked("check_access") == 0


async def test_push_only_needs_permission() -> None:
    """A confirmed push alone passes only where the operator says so."""
    device = {"device_class": "duo", "device_uid": "1", "challenge": {}, "last_used": None}
    validate = {"component": "ak-stage-authenticator-validate", "device_challenges": [device]}
    steps = (answer(NAME), answer(validate), answer(REDIRECT, 200, session("s1")))
    core = Core(*steps)
    outcome = await log_in(core)
    assert isinstance(outcome, Denied)
    assert outcome.reason == "password_not_asked"
    core = Core(*steps)
    allowing = LoginTarget("ldap", 7, "f", "app", mfa_support=True, allow_push_only=True)
    assert isinstance(await log_in(core, allowing), Passed)
    # C51: the core holds the answer until the user has decided
    assert core.timeouts[2] >= 60.0


async def test_plain_session_key_needs_users_me() -> None:
    """A cookie that is no JWT proves nothing by itself: the core is asked, even where the user is not wanted."""
    radius = LoginTarget("radius", 7, "f", "app", mfa_support=True, want_user=False)
    steps = (GOOD[0], answer(REDIRECT, 200, "authentik_session=plainkey; Path=/"))
    core = Core(*steps)
    outcome = await log_in(core, radius)
    assert isinstance(outcome, Passed)
    assert core.asked("users/me") == 1
    assert outcome.session.session_id == hashlib.sha256(b"plainkey").hexdigest()
    refusing = Core(*steps, users__me=answer({"detail": "no"}, 403))
    outcome = await log_in(refusing, radius)
    assert isinstance(outcome, Denied)
    assert outcome.reason == "not_authenticated"


async def test_user_is_looked_up_only_if_wanted() -> None:
    """One call less for RADIUS."""
    core = Core(*GOOD)
    outcome = await log_in(core, LoginTarget("radius", 7, "f", "app", mfa_support=True, want_user=False))
    assert isinstance(outcome, Passed)
    assert core.asked("users/me") == 0
    assert core.asked("/outposts/radius/7/check_access/?app_slug=app") == 1


async def test_checks_run_together() -> None:
    """The access check and the look-up are both under way before either is answered."""
    both_there = asyncio.Event()
    waiting = 0

    class Slow(Core):
        async def request(self, method: str, target: str, **more: Any) -> Response:
            nonlocal waiting
            if "/flows/" not in target:
                waiting += 1
                if waiting == 2:
                    both_there.set()
                await asyncio.wait_for(both_there.wait(), 5)
            return await super().request(method, target, **more)

    assert isinstance(await log_in(Slow(*GOOD)), Passed)


ACCESS = [
    (answer({"access": {"passing": False}, "has_search_permission": True}), "access_denied", Denied),
    (answer({"detail": "No LDAPProvider matches the given query."}, 404), "core_refused", Unavailable),
    (Response.of(500, [("content-type", "text/html")], b"<h1>"), "core_unavailable", Unavailable),
    (answer({"detail": "x"}, 403), "core_refused", Unavailable),
    (answer({"has_search_permission": True}), "nonsense", Unavailable),
    (answer({"access": {}}), "nonsense", Unavailable),
    (answer({"access": {"passing": None}}), "nonsense", Unavailable),
    (answer({"access": {"passing": "true"}}), "nonsense", Unavailable),
    (answer({"access": {"passing": 1}}), "nonsense", Unavailable),
    (answer(None), "nonsense", Unavailable),
    (Response.of(200, [("content-type", "text/html")], b'{"access": {"passing": true}}'), "nonsense", Unavailable),
    (Response.of(302, [("location", "/")]), "nonsense", Unavailable),
    (CoreTimedOut("GET x", "late"), "deadline", Unavailable),
    (CoreUnavailable("GET x", "reset"), "core_unavailable", Unavailable),
    (RuntimeError("a defect"), "internal", Unavailable),
]


@pytest.mark.parametrize(("check", "reason", "kind"), ACCESS)
async def test_c55_access_check(check: Step, reason: str, kind: type) -> None:
    """C55: not passing is denied; anything that is no answer is an error; and nothing else is a login."""
    outcome = await log_in(Core(*GOOD, check_access=check))
    assert type(outcome) is kind
    assert not isinstance(outcome, Passed)
    assert outcome.reason == reason


async def test_denied_access_wins_over_a_failed_look_up() -> None:
    """The two calls run together; a clear no is not hidden by the other's trouble."""
    core = Core(*GOOD, check_access=answer({"access": {"passing": False}}), users__me=CoreUnavailable("GET x", "reset"))
    outcome = await log_in(core)
    assert isinstance(outcome, Denied)
    assert outcome.reason == "access_denied"


@pytest.mark.parametrize("position", ["first GET", "POST", "hop", "users/me"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_c45_every_call_meets_every_fault(fault: str, position: str) -> None:
    """C45: a fault of core or network is never "invalid credentials" and never a login; a POST goes out once."""
    step, reason = FAULTS[fault]
    repeated = [step] * 3  # a GET is repeated twice where that makes sense
    steps: list[Step] = list(GOOD)
    checks: dict[str, Step] = {}
    if position == "first GET":
        steps = repeated
    elif position == "POST":
        steps = [GOOD[0], step]
    elif position == "hop":
        steps = [GOOD[0], GOOD[1], *repeated]
    elif fault == "flow error":
        checks, reason = {"users__me": step}, "nonsense"
    else:
        checks = {"users__me": step}
    core = Core(*steps, **checks)
    outcome = await log_in(core)
    if position == "users/me" and fault == "403":
        assert isinstance(outcome, Denied)  # the session is gone
    else:
        assert isinstance(outcome, Unavailable)
        assert outcome.reason == reason
    assert len(core.posts()) <= 1
    assert "hunter2" not in repr(outcome)


async def test_get_is_repeated_twice_after_a_network_error() -> None:
    """A stale connection does not fail a login."""
    reset = CoreUnavailable("GET x", "reset")
    core = Core(reset, reset, *GOOD)
    assert isinstance(await log_in(core), Passed)
    core = Core(GOOD[0], GOOD[1], reset, reset, GOOD[2])
    assert isinstance(await log_in(core), Passed)
    assert len(core.posts()) == 1


async def test_deadline() -> None:
    """A core that does not answer ends the login in time, as unavailable; so does a clock that has run out."""
    never = asyncio.Event()

    class Hanging(Core):
        async def request(self, method: str, target: str, **more: Any) -> Response:
            await never.wait()
            raise AssertionError

    service = LoginService(Hanging(), Settings("outpost-token"), budget_s=0.01)
    outcome = await service.login(TARGET, ALICE)
    assert isinstance(outcome, Unavailable)
    assert outcome.reason == "deadline"

    clock = iter([0.0, 0.0, 0.0, 0.0, 89.0, 89.0, *[91.0] * 50])
    core = Core(*GOOD)
    service = LoginService(core, Settings("outpost-token"), monotonic=lambda: next(clock))
    outcome = await service.login(TARGET, ALICE)
    assert isinstance(outcome, Unavailable)
    assert outcome.reason == "deadline"
    assert all(0 < timeout <= 90 for timeout in core.timeouts)


async def test_cancellation_is_not_swallowed() -> None:
    """A client that goes away stops its login."""
    started = asyncio.Event()

    class Hanging(Core):
        async def request(self, method: str, target: str, **more: Any) -> Response:
            started.set()
            await asyncio.Event().wait()
            raise AssertionError

    task = asyncio.create_task(log_in(Hanging()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("address", ["", "nonsense", "192.0.2.1:99"])
async def test_a_client_without_address_is_not_logged_in(address: str) -> None:
    """Nothing is sent without the address that the core's rules look at."""
    core = Core(*GOOD)
    outcome = await log_in(core, who=Credentials("alice", "hunter2", address))
    assert isinstance(outcome, Unavailable)
    assert core.calls == []


@pytest.mark.parametrize("host", ["http://h:9000", "https://h/auth"])
async def test_c54_csrf_after_the_login(host: str) -> None:
    """C54: a stage behind the login: its answer carries the CSRF token and a Referer of the core."""
    validate = {
        "component": "ak-stage-authenticator-validate",
        "device_challenges": [{"device_class": "totp", "device_uid": "1", "challenge": {}, "last_used": None}],
    }
    base = host.removeprefix("https://h").removeprefix("http://h:9000")
    core = Core(
        GOOD[0],
        moved(base + FLOW, session("s1"), "authentik_csrf=csrf1; Path=/"),
        answer(validate),
        answer(REDIRECT, 200, session("s1")),
    )
    service = LoginService(core, Settings("outpost-token", host=host))
    outcome = await log_in(core, who=Credentials("alice", "hunter2;123456", "192.0.2.55"), service=service)
    assert isinstance(outcome, Passed)
    assert outcome.used_code is True
    first, second = (headers for method, _, headers, _ in core.calls if method == "POST")
    assert "x-authentik-csrf" not in first
    assert second["x-authentik-csrf"] == "csrf1"
    assert second["referer"] == f"{host}/"
    assert "authentik_csrf=csrf1" in second["cookie"]


async def test_wrong_code_behind_the_login_is_no_login() -> None:
    """The session is authenticated already; the refused code still ends it."""
    validate: dict[str, Any] = {
        "component": "ak-stage-authenticator-validate",
        "device_challenges": [{"device_class": "totp", "device_uid": "1", "challenge": {}, "last_used": None}],
    }
    refused = {**validate, "response_errors": {"code": [{"string": "Invalid Token.", "code": "invalid"}]}}
    core = Core(GOOD[0], moved(FLOW, session("s1")), answer(validate), answer(refused))
    outcome = await log_in(core, who=Credentials("alice", "hunter2;123456", "192.0.2.55"))
    assert isinstance(outcome, Denied)
    assert outcome.reason == "invalid_credentials"
    assert core.asked("check_access") == 0


@pytest.mark.parametrize(
    ("attributes", "expires"),
    [
        ("Path=/; HttpOnly", None),
        ("Path=/; Max-Age=600", 1600.0),
        ("expires=Thu, 01 Jan 1970 00:50:00 GMT; Path=/", 3000.0),
        ("expires=Thu, 01 Jan 1970 00:50:00 GMT; Max-Age=600", 1600.0),
        ("expires=nonsense", None),
        ("max-age=nonsense", None),
    ],
)
async def test_c56_session_expiry(attributes: str, expires: float | None) -> None:
    """C56: from the cookie; without one it is None, never a date that means "for ever"."""
    core = Core(GOOD[0], GOOD[1], answer(REDIRECT, 200, session("s1", True, attributes)))
    outcome = await log_in(core)
    assert isinstance(outcome, Passed)
    assert outcome.session.expires == expires


class LivingCore(Core):
    """A core with one session that ends when the log-out flow is asked for with its cookie."""

    def __init__(self) -> None:
        super().__init__(*GOOD)
        self.alive = {"s1"}

    async def request(self, method: str, target: str, **more: Any) -> Response:
        lower = {name.lower(): value for name, value in more["headers"]}
        known = [sid for sid in self.alive if f"authentik_session={jwt(sid)}" in lower.get("cookie", "")]
        if "/executor/bye/" in target:
            self.calls.append((method, target, lower, None))
            self.alive -= set(known)
            return answer(REDIRECT, 200, *(['authentik_session=""; Max-Age=0; Path=/'] if known else []))
        if "users/me" in target and not known:
            return answer({"detail": "Authentication credentials were not provided."}, 403)
        return await super().request(method, target, **more)


@pytest.mark.parametrize("slug", ["bye", None])
async def test_c57_logout(slug: str | None) -> None:
    """C57: the session's cookies go along; afterwards users/me refuses them. Without a flow, the brand's is run."""
    core = LivingCore()
    service = LoginService(core, Settings("outpost-token"))
    outcome = await service.login(TARGET, ALICE)
    assert isinstance(outcome, Passed)
    cookie = "; ".join(f"{name}={value}" for name, value in outcome.session.cookies.items())
    assert await service.logout(outcome.session, slug, "192.0.2.55") is True
    assert core.alive == set()
    after = await core.request("GET", "/api/v3/core/users/me/", headers=[("Cookie", cookie)], timeout_s=1)
    assert after.status == 403
    assert await service.logout(outcome.session, slug, "192.0.2.55") is False
    assert core.asked("brands/current") == (1 if slug is None else 0)


async def test_logout_that_wants_a_confirmation() -> None:
    """A page at the end of the log-out flow is confirmed, with the CSRF token."""
    core = Core(*GOOD[:2], answer(REDIRECT, 200, session("s1"), "authentik_csrf=c1"))
    service = LoginService(core, Settings("outpost-token"))
    outcome = await service.login(TARGET, ALICE)
    assert isinstance(outcome, Passed)
    core.steps += [
        answer({"component": "ak-stage-session-end"}),
        answer(REDIRECT, 200, "authentik_session=x; Max-Age=0"),
    ]
    assert await service.logout(outcome.session, "bye", "192.0.2.55") is True
    assert core.calls[-1][3] == {"component": "ak-stage-session-end"}
    assert core.calls[-1][2]["x-authentik-csrf"] == "c1"


@pytest.mark.parametrize("fault", FAULTS)
async def test_failed_logout_is_told(fault: str) -> None:
    """False, never an exception."""
    step, _ = FAULTS[fault]
    core = Core(*GOOD)
    service = LoginService(core, Settings("outpost-token"))
    outcome = await service.login(TARGET, ALICE)
    assert isinstance(outcome, Passed)
    core.steps += [step] * 5
    assert await service.logout(outcome.session, "bye", "192.0.2.55") is False
    core.steps = [step] * 5
    await service.warm_up(TARGET)  # neither does the warm-up raise


async def test_c60_logins_do_not_cross() -> None:
    """C60: twenty logins at once over one transport: each sees its own cookies, address and answers only."""

    class Crowd:
        def __init__(self) -> None:
            self.wrong: list[str] = []

        async def request(
            self,
            method: str,
            target: str,
            *,
            headers: Sequence[tuple[str, str]],
            body: bytes | None = None,
            timeout_s: float,
        ) -> Response:
            lower = {name.lower(): value for name, value in headers}
            number = lower["x-authentik-remote-ip"].rpartition(".")[2]
            cookie = lower.get("cookie", "")
            if cookie and cookie not in (
                f"authentik_session={jwt('a' + number, False)}",
                f"authentik_session={jwt('l' + number)}",
            ):
                self.wrong.append(cookie)
            for _ in range(int(number) % 5):
                await asyncio.sleep(0)
            if "check_access" in target:
                return answer(PASSING)
            if "users/me" in target:
                return answer({"user": {"pk": int(number), "username": f"user{number}"}})
            if method == "POST":
                sent = json.loads(body or b"{}")
                if (sent["uid_field"], sent["password"]) != (f"user{number}", f"pw{number}"):
                    self.wrong.append(sent["uid_field"])
                return answer(REDIRECT, 200, session("l" + number))
            return answer(BOTH, 200, session("a" + number, False))

        async def close(self) -> None:
            """Nothing."""

    crowd = Crowd()
    service = LoginService(crowd, Settings("outpost-token"))
    for _ in range(2):  # the second time with remembered openings
        outcomes = await asyncio.gather(
            *(
                service.login(TARGET, Credentials(f"user{number}", f"pw{number}", f"10.0.0.{number}"))
                for number in range(1, 21)
            )
        )
        for number, outcome in enumerate(outcomes, 1):
            assert isinstance(outcome, Passed)
            assert (outcome.user_pk, outcome.username) == (number, f"user{number}")
            assert outcome.session.session_id == hashlib.sha256(f"l{number}".encode()).hexdigest()
    assert crowd.wrong == []


STEP = st.sampled_from(
    [
        answer(BOTH, 200, session("s0", False)),
        answer(NAME),
        answer({"component": "ak-stage-password"}),
        answer(REDIRECT),
        answer(REDIRECT, 200, session("s1")),
        answer(REDIRECT, 200, session("s1", False)),
        answer({**BOTH, "response_errors": {"x": [{"string": "no", "code": "x"}]}}, 200, session("s1")),
        answer({"component": "ak-stage-access-denied"}, 200, session("s1")),
        answer({"component": "xak-flow-redirect", "to": FLOW}, 200, session("s1")),
        moved(),
        moved(FLOW, session("s1")),
        moved("/elsewhere", session("s1")),
        HTML,
        TRUNCATED,
        CoreUnavailable("GET x", "reset"),
        CoreTimedOut("GET x", "late"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(STEP, max_size=8), passing=st.booleans(), known=st.booleans())
def test_no_login_without_the_rule(steps: list[Step], passing: bool, known: bool) -> None:
    """Random answers of a core: a login passes only with a password sent where it was asked for, an authenticated
    session, and a passing check."""

    class Ending(Core):
        async def request(self, method: str, target: str, **more: Any) -> Response:
            if "/flows/" in target and not self.steps:
                raise CoreUnavailable("GET x", "no more")
            return await super().request(method, target, **more)

    core = Ending(*steps, check_access=answer({"access": {"passing": passing}}))
    outcome = asyncio.run(log_in(core))
    if isinstance(outcome, Passed):
        assert passing
        assert any(sent.get("password") == "hunter2" for sent in core.posts())
        claims = read_claims(outcome.session.cookies["authentik_session"])
        assert claims is not None
        assert claims.authenticated is True
        assert core.asked("check_access") == 1
    sent = [json.dumps(body, sort_keys=True) for body in core.posts()]
    assert len(sent) == len(set(sent))


def test_success_is_stated_in_one_place() -> None:
    """``Passed(`` is written once in the whole package."""
    found = [
        path.name
        for path in Path(str(common.__file__)).parent.rglob("*.py")
        for line in path.read_text().splitlines()
        if "Passed(" in line and not line.lstrip().startswith(("class ", "#"))
    ]
    assert found == [Path(str(login_module.__file__)).name]


def test_what_is_read_of_cookies() -> None:
    """Values that look like a JWT and are none, and the other way round."""
    assert read_claims("plainkey") is None
    assert read_claims("a.b.c") is None
    assert read_claims("...") is None
    assert read_claims(jwt("s", True)) == SessionClaims("s", True)
    header, _, signature = jwt("s").split(".")
    for payload in ("", "!!!", base64.urlsafe_b64encode(b"[]").decode(), base64.urlsafe_b64encode(b"{").decode()):
        assert read_claims(f"{header}.{payload}.{signature}") == SessionClaims()
    store = CookieStore()
    store.receive(["a=1; Path=/", "b=2", "nonsense", "=x", "a=3", "c=4; Max-Age=-1"], 0.0)
    assert store.header() == "a=3; b=2"
    assert store.session is None
    assert "3" not in repr(store)


async def test_secrets_stay_out_of_outcomes() -> None:
    """Neither passwords nor cookies nor tokens in what is handed on or printed."""
    core = Core(*GOOD)
    outcome = await log_in(core)
    shown = repr((outcome, ALICE, TARGET))
    for secret in ("hunter2", "outpost-token", jwt("s1")):
        assert secret not in shown
