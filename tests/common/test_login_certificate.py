"""Logins with a certificate and nothing else: what proves them, and everything that does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import quote_plus

import pytest

from common.login import Credentials, Denied, Passed, Unavailable
from tests.certificates import authority, key_pair
from tests.common.scripted_core import (
    BOTH,
    FAULTS,
    GOOD,
    PASSING,
    REDIRECT,
    TARGET,
    Core,
    Step,
    answer,
    log_in,
    moved,
    session,
)

PEM = authority().issue(["alice"], emails=["alice@x.io"]).pem
NAME = {"component": "ak-stage-identification", "password_fields": False}
PASSWORD = {"component": "ak-stage-password"}
STAY = {"component": "ak-stage-user-login"}
ME: Any = {"user": {"pk": 5, "username": "alice", "name": "Alice", "email": "a@example.org"}}
# A flow that looks at the certificate and asks nothing.
SILENT: tuple[Step, ...] = (answer(REDIRECT, 200, session("s1")),)
NAMED: tuple[Step, ...] = (answer(NAME, 200, session("s0", False)), moved(), answer(REDIRECT, 200, session("s1")))


def who(username: str = "", *, trusted: bool = False, pem: str | None = PEM, password: str = "") -> Credentials:
    return Credentials(username, password, "10.0.0.1", pem, certificate_only=True, certificate_trusted=trusted)


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_flow_that_asks_nothing_passes(trusted: bool) -> None:
    """The core had nothing but the certificate to find the user by; it is sent with every call, with no password."""
    core = Core(*SILENT, users__me=answer(ME))
    outcome = await log_in(core, who=who(trusted=trusted))
    assert isinstance(outcome, Passed)
    assert (outcome.user_pk, outcome.username, outcome.used_code) == (5, "alice", False)
    assert core.posts() == []
    assert {headers["x-authentik-outpost-certificate"] for _, _, headers, _ in core.calls} == {quote_plus(PEM)}


async def test_a_verified_certificate_may_be_named() -> None:
    """The flow asks for a name and no password, the issuer was verified here, and the session is the named user's."""
    core = Core(*NAMED, users__me=answer(ME))
    assert isinstance(await log_in(core, who=who("alice", trusted=True)), Passed)
    assert core.posts() == [{"component": "ak-stage-identification", "uid_field": "alice"}]


async def test_an_unverified_certificate_must_not_be_named() -> None:
    """A flow without certificate stage would log in whoever is named, with any certificate."""
    core = Core(*NAMED, users__me=answer(ME))
    outcome = await log_in(core, who=who("alice"))
    assert isinstance(outcome, Denied)
    assert outcome.reason == "certificate_not_decisive"
    assert core.asked("check_access") == 0


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize(
    ("challenge", "username", "reason"),
    [
        (BOTH, "alice", "password_wanted"),
        (BOTH, "", "password_wanted"),
        (PASSWORD, "alice", "password_wanted"),
        (NAME, "", "name_wanted"),
        ({"component": "ak-stage-access-denied", "error_message": "no"}, "alice", "flow_denied"),
        ({"component": "ak-stage-prompt"}, "alice", "unsupported_challenge"),
        (
            {"component": "ak-stage-authenticator-validate", "device_challenges": [
                {"device_class": "totp", "device_uid": "1", "challenge": {}, "last_used": None}
            ]},
            "alice",
            "no_compatible_authenticator",
        ),
    ],
)  # fmt: skip
async def test_a_flow_that_asks_for_more_ends(challenge: Any, username: str, reason: str, trusted: bool) -> None:
    """No empty password is ever sent, no name made up."""
    core = Core(answer(challenge, 200, session("s0", False)), users__me=answer(ME))
    outcome = await log_in(core, who=who(username, trusted=trusted))
    assert isinstance(outcome, Denied)
    assert outcome.reason == reason
    assert core.posts() == []


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize(
    "user",
    [
        {"username": "bob"},
        {"username": "Alice"},
        {"username": ""},
        {"username": "bob", "email": "bob@x.io"},
        {"username": "bob", "email": ""},
    ],
)
async def test_the_session_must_be_the_certificates_users(user: Any, trusted: bool) -> None:
    """Whatever the flow did: another user's session is refused."""
    core = Core(*SILENT, users__me=answer({"user": {"pk": 6, **user}}))
    outcome = await log_in(core, who=who(trusted=trusted))
    assert isinstance(outcome, Denied)
    assert outcome.reason == "identity_mismatch"


async def test_a_name_beside_the_certificate_does_not_replace_its_user() -> None:
    """Certificate of alice, name of bob, and a flow that asks for the name after the certificate."""
    core = Core(*NAMED, users__me=answer({"user": {"pk": 6, "username": "bob"}}))
    outcome = await log_in(core, who=who("bob", trusted=True))
    assert isinstance(outcome, Denied)
    assert outcome.reason == "identity_mismatch"


async def test_without_binding_the_core_says_whose_it_is() -> None:
    """Any user, as long as no name was sent: a certificate of alice must not be good for whoever is named."""
    free = replace(TARGET, bind_identity=False)
    bob = answer({"user": {"pk": 6, "username": "bob"}})
    for trusted in (True, False):
        outcome = await log_in(Core(*SILENT, users__me=bob), free, who(trusted=trusted))
        assert isinstance(outcome, Passed)
        assert outcome.username == "bob"
        outcome = await log_in(Core(*NAMED, users__me=bob), free, who("bob", trusted=trusted))
        assert isinstance(outcome, Denied)
        assert outcome.reason == "certificate_not_decisive"


async def test_the_e_mail_address_names_too() -> None:
    """As the core's certificate stage can be set up."""
    core = Core(*SILENT, users__me=answer({"user": {"pk": 6, "username": "al", "email": "alice@x.io"}}))
    assert isinstance(await log_in(core, who=who()), Passed)


@pytest.mark.parametrize(
    ("steps", "checks", "reason"),
    [
        ((answer(REDIRECT, 200, session("s1", False)),), {}, "not_authenticated"),
        ((answer(REDIRECT, 200),), {}, "not_authenticated"),
        (SILENT, {"check_access": answer({**PASSING, "access": {"passing": False}})}, "access_denied"),
        (SILENT, {"users__me": answer({}, 403)}, "not_authenticated"),
        (SILENT, {"users__me": answer({}, 500)}, "core_unavailable"),
        (SILENT, {"check_access": answer({}, 500)}, "core_unavailable"),
    ],
)
async def test_the_other_conditions_hold_as_well(steps: tuple[Step, ...], checks: dict[str, Step], reason: str) -> None:
    """Session, access check, user."""
    outcome = await log_in(Core(*steps, **{"users__me": answer(ME), **checks}), who=who(trusted=True))
    assert isinstance(outcome, Denied | Unavailable)
    assert outcome.reason == reason


@pytest.mark.parametrize(("step", "reason"), FAULTS.values(), ids=FAULTS.keys())
async def test_no_failure_passes(step: Step, reason: str) -> None:
    """At the first call of the flow, and at a later one."""
    for steps in ((step,) * 3, (answer(STAY, 200, session("s0")), step)):
        outcome = await log_in(Core(*steps, users__me=answer(ME)), who=who(trusted=True))
        assert isinstance(outcome, Unavailable)
        assert outcome.reason == reason


@pytest.mark.parametrize("bad", [who(pem=None), who(pem=""), who(password="pw")])
async def test_a_certificate_login_is_one(bad: Credentials) -> None:
    """Without a certificate, or with a password beside it, nothing is asked."""
    core = Core()
    assert isinstance(await log_in(core, who=bad), Unavailable)
    assert core.calls == []


async def test_an_unreadable_certificate_names_nobody() -> None:
    """Even if a core took it."""
    outcome = await log_in(Core(*SILENT, users__me=answer(ME)), who=who(pem="garbage", trusted=True))
    assert isinstance(outcome, Denied)
    assert outcome.reason == "identity_mismatch"


async def test_a_certificate_beside_a_password_proves_nothing() -> None:
    """A password login whose flow did not look at the password is refused, whatever certificate came along."""
    core = Core(*SILENT, users__me=answer(ME))
    outcome = await log_in(core, who=Credentials("alice", "pw", "10.0.0.1", PEM, certificate_trusted=True))
    assert isinstance(outcome, Denied)
    assert outcome.reason == "password_not_asked"
    assert isinstance(await log_in(Core(*GOOD), who=Credentials("alice", "pw", "10.0.0.1", PEM)), Passed)


async def test_self_signed_with_a_name_is_refused() -> None:
    """Anybody can make one."""
    pem = key_pair("alice").certificate
    outcome = await log_in(Core(*NAMED, users__me=answer(ME)), who=who("alice", pem=pem))
    assert isinstance(outcome, Denied)
