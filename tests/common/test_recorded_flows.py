"""Our login, driven by the recorded exchanges of a real core: what *we* must decide for each of them.

Where that differs from what the reference's executor decided (``executor_outcome``), the row says why.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import pytest

from common.endpoint import bare_address
from common.login import Credentials, Denied, LoginService, LoginTarget, Outcome, Passed, Unavailable
from tests import recorded
from tests.recorded import EXECUTOR, Replay, Sent

TOKEN_REFUSED = "code: Invalid Token. Please ensure the time on your device is accurate and try again."
FAILED = "non_field_errors: Failed to authenticate."


@dataclass(frozen=True)
class Settings:
    """What a login needs to know of its core."""

    token: str
    host: str = "http://127.0.0.1:9000"
    host_query: str = ""
    host_socket: str | None = None
    insecure: bool = False


@dataclass(frozen=True)
class Row:
    """One run of one recording. ``ended``: the flow passes, but the checks after it were not recorded."""

    name: str
    run: int = 0
    passed: bool = False
    ended: bool = False
    denied: str = ""
    unavailable: str = ""
    message: str = ""
    user: str = ""
    search: bool = False
    code: bool = False
    remember_me: bool = False
    unused: int = 0  # recorded requests that we must not make
    why: str = ""


def good(name: str, user: str, **more: Any) -> Row:
    """A login that passes."""
    return Row(name, passed=True, user=user, **more)


def no(name: str, reason: str, message: str = "", **more: Any) -> Row:
    """A login that is denied."""
    return Row(name, denied=reason, message=message, **more)


ROWS = [
    # good ones
    good("ldap_good_login", "alice", search=True),
    good("ldap_good_login_app_password_service", "ldapservice", search=True),
    good("ldap_good_login_app_password_user", "alice", search=True),
    good("ldap_good_login_email", "alice", search=True),
    good("ldap_good_login_ipv6", "user02"),
    good("ldap_good_login_no_search_permission", "user01"),
    good("ldap_good_login_semicolon_no_mfa", "semi"),
    good("ldap_good_login_service_account", "ldapservice", search=True),
    good("ldap_good_login_unicode_password", "eve"),
    good("ldap_good_login_uppercase", "alice", search=True),
    good("ldap_bad_outpost_token_header", "user03"),
    good("ldap_no_outpost_token_header", "user03"),
    good("ldap_remote_ip_with_port", "user02"),
    good("default_flow_good_no_mfa", "alice", search=True),
    good("flow_require_outpost", "alice", search=True),
    good("two_stage_good", "alice", search=True),
    good("remember_me", "alice", search=True, remember_me=True),
    good("mfa_not_configured_skip", "alice", search=True),
    good("mfa_webauthn_only", "bob"),
    good("mfa_static_good", "erin", code=True),
    good("mfa_totp_good", "bob", code=True),
    good("mfa_totp_good_default_flow", "bob", code=True),
    good("radius_good_login", ""),
    good("radius_no_mappings", ""),
    good("radius_totp_good", "", code=True),
    good("radius_broken_mapping", ""),
    # wrong name or password: the core's one text for all
    no("ldap_wrong_password", "invalid_credentials", FAILED),
    no("ldap_wrong_password_service_account", "invalid_credentials", FAILED),
    no("ldap_unknown_user", "invalid_credentials", FAILED),
    no("ldap_unknown_user_no_pretend", "invalid_credentials", FAILED),
    no("ldap_inactive_user", "invalid_credentials", FAILED),
    no("ldap_empty_password", "invalid_credentials", FAILED),
    no("ldap_empty_username", "invalid_credentials", "non_field_errors: No identification data provided."),
    no("ldap_good_login_semicolon_code_stripped", "invalid_credentials", FAILED),
    no("radius_wrong_password", "invalid_credentials", FAILED),
    no("two_stage_wrong_password", "invalid_credentials", "password: Invalid password"),
    no("two_stage_unknown_user", "invalid_credentials", "password: Invalid password"),
    no("mfa_totp_wrong_password", "invalid_credentials", FAILED),
    no("retry_in_same_session", "invalid_credentials", FAILED, unused=2, why="we never try twice"),
    no(
        "password_stage_too_many_attempts",
        "invalid_credentials",
        "password: Invalid password",
        unused=5,
        why="the first refusal is the end",
    ),
    # second factors
    no("mfa_static_wrong", "invalid_credentials", TOKEN_REFUSED),
    no("mfa_totp_wrong_code", "invalid_credentials", TOKEN_REFUSED),
    no("mfa_totp_mfa_support_off", "invalid_credentials", TOKEN_REFUSED),
    no("radius_totp_mfa_support_off", "invalid_credentials", TOKEN_REFUSED),
    no("mfa_totp_no_code", "no_compatible_authenticator", "no compatible authenticator"),
    no("mfa_not_configured_deny", "flow_denied", "No (allowed) MFA authenticator configured."),
    Row("mfa_totp_replay", 0, ended=True),
    no("mfa_totp_replay", "invalid_credentials", TOKEN_REFUSED, run=1),
    no("mfa_totp_replay", "invalid_credentials", TOKEN_REFUSED, run=2),
    *(no("mfa_totp_throttled", "invalid_credentials", TOKEN_REFUSED, run=run) for run in range(4)),
    Row("mfa_totp_throttled", 4, ended=True),
    *(Row("mfa_totp_drift", run, ended=True) for run in (0, 1, 2, 5, 6)),
    *(no("mfa_totp_drift", "invalid_credentials", TOKEN_REFUSED, run=run) for run in (3, 4, 7)),
    Row(
        "mfa_after_login_csrf",
        unavailable="flow_error",
        why="recorded without the CSRF header; test_login.py shows that ours is sent and passes",
    ),
    # refused by flow or application
    no("deny_stage", "flow_denied", "No entry here."),
    no("deny_stage_denied_action_continue", "flow_denied", "No entry here."),
    no("flow_denied_by_policy", "flow_denied", "Policy says no."),
    no("flow_require_outpost_without_token", "flow_denied", "Flow does not apply to current user."),
    no("ldap_denied_by_application_policy", "access_denied"),
    no("radius_denied_by_application_policy", "access_denied"),
    # stages that need a browser
    no("consent_stage", "unsupported_challenge", "unsupported challenge type ak-stage-consent"),
    no("dummy_stage", "unsupported_challenge", "unsupported challenge type ak-stage-dummy"),
    no("prompt_stage", "unsupported_challenge", "unsupported challenge type ak-stage-prompt"),
    # a redirect that proves nothing: the reference takes all of these for a login; the checks are not even made
    no("empty_flow", "password_not_asked", unused=2, why="nobody asked for the password"),
    no("empty_flow_ldap_no_bindings", "password_not_asked", unused=2, why="as above"),
    no("empty_flow_radius_no_bindings", "password_not_asked", unused=1, why="the reference sends Access-Accept"),
    no("nologin_flow", "not_authenticated", unused=2, why="right password, but nobody is logged in"),
    no("nologin_flow_radius_no_bindings", "not_authenticated", unused=1, why="the reference sends Access-Accept"),
    # not the client's fault
    Row("no_such_flow", unavailable="core_refused", why="a missing flow is no wrong password"),
]  # fmt: skip

# Recordings that are no login from the start, and where they are used instead.
ELSEWHERE = {
    "protocol_errors": "test_recorded_protocol_errors",
    "session_reuse": "test_session_reuse_run",
    "warmup": "test_warm_up_as_recorded",
}


def prepare(row: Row) -> tuple[Replay, LoginService, LoginTarget, Credentials]:
    """Everything that a row's login needs, read from its recording."""
    whole = recorded.recording("flows", row.name)
    exchanges = [
        exchange
        for exchange in recorded.runs(whole["exchanges"])[row.run]
        if "invalidation" not in exchange["request"]["path"]
    ]
    credentials = whole.get("credentials") or credentials_in(exchanges)
    first = exchanges[0]
    protocol, provider, application = "ldap", 1, "ldap-direct"
    path = first["request"]["path"]
    if "radius%3Dtrue" in path:
        protocol = "radius"
    for exchange in exchanges:
        found = re.fullmatch(
            r"/api/v3/outposts/(ldap|radius)/(\d+)/check_access/\?app_slug=(.+)", exchange["request"]["path"]
        )
        if found:
            protocol, provider, application = found[1], int(found[2]), found[3]
    address = recorded.header(first, "X-Authentik-Remote-Ip") or ""
    try:
        bare_address(address)
    except ValueError:
        address = "192.0.2.55"  # the recording shows what a malformed one does; ours never is
    replay = Replay(exchanges)
    service = LoginService(
        replay, Settings(recorded.header(first, "X-Authentik-Outpost-Token") or "outpost-token"), now=lambda: 0.0
    )
    target = LoginTarget(
        protocol=protocol,
        provider_pk=provider,
        flow_slug=path.removeprefix(EXECUTOR).partition("/")[0],
        application_slug=application,
        mfa_support=whole.get("mfa_support", True),
        remember_me=row.remember_me,
        want_user=protocol == "ldap",
    )
    return replay, service, target, Credentials(credentials["username"], credentials["password"], address)


def credentials_in(exchanges: list[recorded.JSON]) -> dict[str, str]:
    """What the recorded answers carry, joined as a client would."""
    fields: dict[str, str] = {}
    for exchange in exchanges:
        for key, value in json.loads(exchange["request"].get("body_text") or "{}").items():
            fields.setdefault(key, value)
    code = f";{fields['code']}" if "code" in fields else ""
    return {"username": fields["uid_field"], "password": fields["password"] + code}


def check_headers(sent: Sent, address: str) -> None:
    """C33 on one request."""
    lower = {name.lower(): value for name, value in sent.headers.items()}
    assert "authorization" not in lower
    assert lower["x-authentik-outpost-token"]
    assert lower["x-authentik-remote-ip"] == bare_address(address)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name}-{row.run}")
async def test_recorded_flow(row: Row) -> None:
    """Requests as recorded, and the outcome that is right for us."""
    replay, service, target, credentials = prepare(row)
    outcome = await service.login(target, credentials)

    assert replay.problems == []
    assert len(replay.left_over()) == row.unused, replay.left_over()
    for sent in replay.sent:
        check_headers(sent, credentials.client_ip)
    if row.ended:
        assert isinstance(outcome, Unavailable)
        assert set(replay.unanswered) == {"GET /core/users/me/", "GET /outposts/ldap/1/check_access/"}
    else:
        assert replay.unanswered == []
        check_outcome(row, outcome)
    assert credentials.password == "" or credentials.password not in repr((outcome, credentials, target))


def check_outcome(row: Row, outcome: Outcome) -> None:
    """Compare with the table."""
    if row.denied:
        assert isinstance(outcome, Denied)
        assert outcome.reason == row.denied
        if row.message:
            assert outcome.message == row.message
    elif row.unavailable:
        assert isinstance(outcome, Unavailable)
        assert outcome.reason == row.unavailable
    else:
        assert row.passed
        assert isinstance(outcome, Passed)
        assert (outcome.username or "") == row.user
        assert (outcome.user_pk is not None) is bool(row.user)
        assert outcome.has_search_permission is row.search
        assert outcome.used_code is row.code
        assert (outcome.session.expires is not None) is row.remember_me
        assert outcome.session.session_id is not None
        assert len(outcome.session.session_id) == 64
        assert "authentik_session" in outcome.session.cookies


def test_every_flow_recording_is_used() -> None:
    """A recording without a row, or a row's recording gone, is noticed."""
    assert {row.name for row in ROWS} | ELSEWHERE.keys() == set(recorded.names("flows"))
    assert not {row.name for row in ROWS} & ELSEWHERE.keys()


def test_every_run_has_a_row() -> None:
    """Recordings with several runs have a row for each."""
    for name in {row.name for row in ROWS}:
        found = [
            run
            for run in recorded.runs(recorded.recording("flows", name)["exchanges"])
            if "invalidation" not in run[0]["request"]["path"]
        ]
        assert {row.run for row in ROWS if row.name == name} == set(range(len(found))), name


async def test_radius_attributes_are_handed_on() -> None:
    """The packet with the reply attributes arrives as recorded; null where the mapping failed."""
    for name, present in (("radius_good_login", True), ("radius_no_mappings", True), ("radius_broken_mapping", False)):
        replay, service, target, credentials = prepare(Row(name))
        outcome = await service.login(target, credentials)
        assert isinstance(outcome, Passed)
        check = next(exchange for exchange in replay.exchanges if "check_access" in exchange["request"]["path"])
        assert outcome.attributes == check["response"]["json"]["attributes"]
        assert (outcome.attributes is not None) is present


async def test_session_reuse_run() -> None:
    """The first login of the recording; what the reference then did with the session is not ours to do."""
    replay, service, target, credentials = prepare(Row("session_reuse"))
    outcome = await service.login(target, credentials)
    assert isinstance(outcome, Unavailable)  # the recording has no access check
    assert set(replay.unanswered) == {"GET /outposts/ldap/1/check_access/"}
    assert replay.problems == []


async def test_logout_as_recorded() -> None:
    """The log-out call brings the session's cookies, and the core's answer deletes the session."""
    replay, service, target, credentials = prepare(Row("ldap_good_login"))
    outcome = await service.login(target, credentials)
    assert isinstance(outcome, Passed)
    whole = recorded.recording("flows", "ldap_good_login")["exchanges"]
    with_cookie = [
        exchange
        for exchange in whole
        if "invalidation" in exchange["request"]["path"] and recorded.header(exchange, "cookie")
    ]
    assert len(with_cookie) == 1
    replay.exchanges.extend(with_cookie)
    assert await service.logout(outcome.session, "default-invalidation-flow", credentials.client_ip) is True
    assert replay.problems == []
    sent = replay.sent[-1].headers["Cookie"]
    assert sorted(sent.split("; ")) == sorted(str(recorded.header(with_cookie[0], "cookie")).split("; "))


async def test_logout_that_ends_nothing_is_told() -> None:
    """An answer that leaves the session alone, as the reference's log-out gets it, is no success."""
    replay, service, target, credentials = prepare(Row("ldap_good_login"))
    outcome = await service.login(target, credentials)
    assert isinstance(outcome, Passed)
    whole = recorded.recording("flows", "ldap_good_login")["exchanges"]
    replay.exchanges.extend(
        exchange
        for exchange in whole
        if "invalidation" in exchange["request"]["path"] and not recorded.header(exchange, "cookie")
    )
    assert await service.logout(outcome.session, "default-invalidation-flow", credentials.client_ip) is False


async def test_warm_up_as_recorded() -> None:
    """The warm-up calls are the recorded ones, with an address added."""
    for exchange in recorded.recording("flows", "warmup")["exchanges"]:
        replay = Replay([exchange])
        path = exchange["request"]["path"]
        protocol = "radius" if "radius%3Dtrue" in path else "ldap"
        slug = path.removeprefix(EXECUTOR).partition("/")[0]
        service = LoginService(replay, Settings("outpost-token"))
        await service.warm_up(LoginTarget(protocol, 1, slug, "app", mfa_support=True))
        assert replay.unanswered == []
        assert replay.sent[0].headers["X-authentik-remote-ip"] == "127.0.0.1"


async def test_recorded_protocol_errors() -> None:
    """A POST as the very first request works at a real core, and each recorded flow-error is "unavailable" to us."""
    exchanges = recorded.recording("flows", "protocol_errors")["exchanges"]
    errors = 0
    for exchange in exchanges:
        body = exchange["response"].get("json") or {}
        if body.get("component") != "ak-stage-flow-error":
            continue
        errors += 1
        replay = Replay(
            [{"request": {**exchange["request"], "method": "GET", "body_text": None}, "response": exchange["response"]}]
        )
        service = LoginService(replay, Settings("outpost-token"))
        target = LoginTarget("ldap", 1, "ldap-authentication-flow", "ldap-direct", mfa_support=True)
        outcome = await service.login(target, Credentials("alice", "alice-pw-1", "192.0.2.55"))
        assert isinstance(outcome, Unavailable)
        assert outcome.reason == "flow_error"
    assert errors == 3


async def test_opening_with_an_answer_as_recorded() -> None:
    """Once a flow was seen to begin with both fields, the second login is the recorded POST without a GET before it."""
    good = recorded.recording("flows", "ldap_good_login")["exchanges"]
    first_post = recorded.recording("flows", "protocol_errors")["exchanges"][:2]
    checks = [e for e in good if "check_access" in e["request"]["path"] or "users/me" in e["request"]["path"]]
    replay = Replay([*good[:3], *checks, *first_post, *(dict(exchange) for exchange in checks)])
    service = LoginService(replay, Settings("outpost-token"))
    target = LoginTarget("ldap", 1, "ldap-authentication-flow", "ldap-direct", mfa_support=True)
    for _ in range(2):
        assert isinstance(await service.login(target, Credentials("alice", "alice-pw-1", "192.0.2.55")), Passed)
    assert replay.problems == []
    assert replay.left_over() == []
    assert [sent.method for sent in replay.sent] == ["GET", "POST", "GET", "GET", "GET", "POST", "GET", "GET", "GET"]
