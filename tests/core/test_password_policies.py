"""Policies about passwords, and the event matcher: case 45 of flows.md §10 and §6.2."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from aiohttp import web

from core import passwords
from core.database import Database
from core.errors import PolicyFailed, ValidationFailed
from core.models import Brand, Event, PasswordHistory, Policy, PolicyBinding, User, anonymous_user
from core.policies import POLICY_TYPES
from core.policies.base import PolicyRequest, PolicyResult
from core.policies.engine import PolicyEngine
from core.policies.unique_password import remember_password
from tests.core.cores import core
from tests.core.services import _serving
from tests.core.test_flows import Builder
from tests.core.test_stages import DENIED, END, errors, prompt

PASSWORD = "authentik_policies_password.passwordpolicy"
EXPIRY = "authentik_policies_expiry.passwordexpirypolicy"
UNIQUE = "authentik_policies_unique_password.uniquepasswordpolicy"
MATCHER = "authentik_policies_event_matcher.eventmatcherpolicy"
DAY_S = 86400.0


class Setup:
    """A database with one user and a clock."""

    def __init__(self) -> None:
        self.now = 1_764_000_000.0
        self.database = Database(":memory:", clock=lambda: self.now)
        self.engine = PolicyEngine(self.database, POLICY_TYPES)
        self.user = self.database.save(
            User(username="jane", name="Jane Doe", email="jane@example.test", password_hash=hashed("current"))
        )

    def judge(self, type_: str, options: dict[str, Any], user: User | None = None, **context: Any) -> PolicyResult:
        """What a policy says; without the threads of the engine."""
        policy = self.engine.make(Policy(type=type_, name="p", options=options))
        return policy.passes(PolicyRequest(user=user or self.user, context=context))


def hashed(password: str) -> str:
    """A password's hash; the salt does not matter here."""
    return passwords.hash_password(password, bytes(passwords.SALT_BYTES))


@pytest.mark.parametrize(
    ("options", "password", "passes"),
    [
        ({"length_min": 8}, "1234567", False),
        ({"length_min": 8}, "12345678", True),
        ({"amount_digits": 2}, "a1b", False),
        ({"amount_digits": 2}, "a1b2", True),
        ({"amount_digits": 1}, "abc\u0663", False),  # an Arabic-Indic digit
        ({"amount_uppercase": 1}, "abc\u00c4", False),  # only A to Z
        ({"amount_uppercase": 1}, "abC", True),
        ({"amount_lowercase": 2}, "ABc", False),
        ({"amount_symbols": 1}, "abc1", False),
        ({"amount_symbols": 1}, "abc!", True),
        ({"amount_symbols": 1, "symbol_charset": "#"}, "abc!", False),
        ({"length_min": 8, "check_static_rules": False}, "x", True),
        ({}, "x", True),
    ],
)
def test_case_45_static_rules(options: dict[str, Any], password: str, passes: bool) -> None:
    """Each rule at its limit; letters and digits are those of ASCII."""
    result = Setup().judge(PASSWORD, options | {"error_message": "too simple"}, prompt_data={"password": password})
    assert (result.passing, result.messages) == (passes, () if passes else ("too simple",))


def test_where_the_password_comes_from() -> None:
    """What was typed goes before the context; nothing at all fails."""
    setup, options = Setup(), {"length_min": 4, "password_field": "pw"}
    assert setup.judge(PASSWORD, options, prompt_data={"pw": "long enough"}, pw="x").passing
    assert setup.judge(PASSWORD, options, prompt_data={"other": "x"}, pw="long enough").passing
    for context in (
        {},
        {"prompt_data": {}},
        {"pw": ""},
        {"pw": 12345},
        {"prompt_data": {"pw": ""}, "pw": "long enough"},
    ):
        assert not setup.judge(PASSWORD, options, **context).passing


@pytest.mark.parametrize(
    ("password", "threshold", "passes"),
    [
        ("correct horse battery staple unusual", 3, True),
        ("password1", 0, False),
        ("jane", 0, False),
        ("janedoe", 1, False),
        ("jane@example.test", 0, False),
        ("x" * 5000, 4, False),
    ],
)
def test_case_45_zxcvbn(password: str, threshold: int, passes: bool) -> None:
    """The score must be above the threshold; the user's own names are guessed first; long ones cost no more time."""
    options = {"check_zxcvbn": True, "zxcvbn_score_threshold": threshold, "check_static_rules": False}
    assert Setup().judge(PASSWORD, options, prompt_data={"password": password}).passing is passes


async def test_leaked_passwords() -> None:
    """Five characters of the hash leave the house; the count decides; a list that cannot be asked is no result."""
    asked: list[str] = []
    digest = hashlib.sha1(b"leaked", usedforsecurity=False).hexdigest().upper()

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        if request.path.startswith("/broken"):
            return web.Response(status=500)
        return web.Response(text=f"{'0' * 35}:9\r\n{digest[5:]}:3\r\n")

    app = web.Application()
    app.router.add_get("/{any:.*}", answer)
    async with core() as running, _serving(app) as port:
        engine = running.services.engine

        async def judge(password: str, path: str = "range", **more: Any) -> PolicyResult:
            options = {"check_have_i_been_pwned": True, "hibp_url": f"http://127.0.0.1:{port}/{path}"} | more
            policy = running.database.save(
                Policy(type=PASSWORD, name=f"p{len(asked)}{password}{path}", options=options)
            )
            context = {"prompt_data": {"password": password}}
            return await engine.evaluate_policies([policy], running.user("alice"), context=context)

        assert not (await judge("leaked")).passing
        assert asked == [f"/range/{digest[:5]}"]
        assert (await judge("leaked", hibp_allowed_count=3)).passing
        assert (await judge("not leaked")).passing
        failed = await judge("leaked", "broken")
        assert not failed.passing and digest[:5] not in "".join(failed.messages)
    setup = Setup()
    with pytest.raises(PolicyFailed):
        setup.judge(
            PASSWORD, {"check_have_i_been_pwned": True, "hibp_url": "http://127.0.0.1:1"}, prompt_data={"password": "x"}
        )


def test_the_first_group_that_fails_decides() -> None:
    """A password that breaks a rule is not sent anywhere."""
    options = {"length_min": 9, "check_have_i_been_pwned": True, "hibp_url": "http://127.0.0.1:1"}
    assert not Setup().judge(PASSWORD, options, prompt_data={"password": "short"}).passing


@pytest.mark.parametrize("deny_only", [False, True])
def test_expiry(deny_only: bool) -> None:
    """Younger than so many days; an old password becomes unusable, unless it is only denied."""
    setup = Setup()
    options = {"days": 10, "deny_only": deny_only}
    setup.now += 10 * DAY_S - 1
    assert setup.judge(EXPIRY, options).passing
    setup.now += 1
    assert not setup.judge(EXPIRY, options).passing
    user = setup.database.get(User, setup.user.pk)
    assert user.has_usable_password() is deny_only
    assert not setup.judge(EXPIRY, options, anonymous_user()).passing


def test_uniqueness() -> None:
    """The present one and those before it, as many as are wanted; somebody without a past may choose freely."""
    setup = Setup()
    for number in range(3):
        setup.now += 1
        setup.database.save(PasswordHistory(user=setup.user.pk or 0, password_hash=hashed(f"old {number}")))
    for count, used in ((1, ["current"]), (3, ["current", "old 2", "old 1"]), (0, [])):
        for password in ("current", "old 2", "old 1", "old 0", "fresh"):
            result = setup.judge(UNIQUE, {"num_historical_passwords": count}, prompt_data={"password": password})
            assert result.passing is (password not in used), (count, password)
    assert setup.judge(UNIQUE, {}, User(username="new"), prompt_data={"password": "current"}).passing
    assert not setup.judge(UNIQUE, {}).passing


def test_history_is_kept_only_as_long_as_a_policy_asks() -> None:
    """Without such a policy no old hash is kept."""
    setup = Setup()
    remember_password(setup.database, setup.user, hashed("a"))
    assert setup.database.count(PasswordHistory) == 0
    setup.database.save(Policy(type=UNIQUE, name="u", options={"num_historical_passwords": 3}))
    for password in "abcd":
        setup.now += 1
        remember_password(setup.database, setup.user, password)
    assert [item.password_hash for item in setup.database.find(PasswordHistory)] == ["d", "c"]


async def test_uniqueness_in_a_flow() -> None:
    """Changing the password over prompt and write: the present one and the one before are refused."""
    async with core() as running:
        build = Builder(running)
        policy = running.database.save(Policy(type=UNIQUE, name="u", options={"num_historical_passwords": 2}))
        flow = build.flow(designation="stage_configuration", authentication="require_authenticated")
        options = {"fields": [prompt(running, "password", "password")], "validation_policies": [policy.pk]}
        build.stage(flow, "prompt", options=options)
        build.stage(flow, "write")
        client = running.client()
        await client.login("alice", "alice-pw-1")

        async def change(password: str) -> Any:
            await client.flow("f")
            headers = {"X-authentik-CSRF": client.jar["authentik_csrf"]}
            return await client.walk("f", {"password": password}, headers=headers)

        assert errors(await change("alice-pw-1")) == {"non_field_errors": "invalid"}
        assert (await change("second")).component == END
        running.clock.now += 1
        for password in ("second", "alice-pw-1"):
            assert errors(await change(password)) == {"non_field_errors": "invalid"}
        assert (await change("third")).component == END
        assert (await change("alice-pw-1")).component == END


async def test_expired_password_leads_to_a_change() -> None:
    """The policy on a deny stage: who has an old password does not get past it."""
    async with core() as running:
        build = Builder(running)
        flow = build.flow()
        build.stage(
            flow, "identification", options={"user_fields": ["username"], "password_stage": build.password_stage()}
        )
        denied = build.stage(flow, "deny")
        policy = running.database.save(Policy(type=EXPIRY, name="old", options={"days": 30, "deny_only": True}))
        running.database.save(PolicyBinding(target=denied.pk, policy=policy.pk, negate=True))
        assert (await running.client().login("alice", "alice-pw-1", "f")).component == END
        running.clock.now += 31 * DAY_S
        assert (await running.client().login("alice", "alice-pw-1", "f")).component == DENIED


EVENT = Event(
    action="login_failed", app="authentik.flows", client_ip="192.0.2.1",
    context={"model": {"app": "authentik_core", "model_name": "user"}, "deep": [{"text": "a needle here"}]},
)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({}, True),
        ({"action": "login_failed"}, True),
        ({"action": "login"}, False),
        ({"app": "authentik.flows", "client_ip": "192.0.2.1"}, True),
        ({"app": "authentik.flows", "client_ip": "192.0.2.2"}, False),
        ({"model": "authentik_core.user"}, True),
        ({"model": "authentik_core.group"}, False),
        ({"query": "needle"}, True),
        ({"query": "haystack"}, False),
        ({"action": "", "app": None}, True),
    ],
)
def test_event_matcher(options: dict[str, Any], passes: bool) -> None:
    """Everything that is configured must hold."""
    assert Setup().judge(MATCHER, options, event=EVENT).passing is passes


def test_event_matcher_without_an_event() -> None:
    """Nothing to compare: never."""
    assert not Setup().judge(MATCHER, {}).passing
    assert not Setup().judge(MATCHER, {}, event={"action": "login"}).passing


@pytest.mark.parametrize(
    ("type_", "options", "name"),
    [
        (PASSWORD, {"length_min": -1}, "length_min"),
        (PASSWORD, {"zxcvbn_score_threshold": 5}, "zxcvbn_score_threshold"),
        (PASSWORD, {"hibp_url": "ftp://x"}, "hibp_url"),
        (EXPIRY, {}, "days"),
        (EXPIRY, {"days": -1}, "days"),
        (UNIQUE, {"num_historical_passwords": 51}, "num_historical_passwords"),
        (MATCHER, {"actions": "x"}, "actions"),
    ],
)
def test_options(type_: str, options: dict[str, Any], name: str) -> None:
    """Options that cannot work are refused when the policy is saved."""
    with pytest.raises(ValidationFailed) as refused:
        POLICY_TYPES[type_].read_options(options)
    assert name in str(refused.value)


def test_the_brand_is_a_known_word() -> None:
    """Its title counts as easily guessed."""
    setup = Setup()

    class Request:
        brand = Brand(domain="x", branding_title="zyxwvutronic")
        client_ip = "192.0.2.1"

    policy = setup.engine.make(
        Policy(type=PASSWORD, name="p", options={"check_zxcvbn": True, "zxcvbn_score_threshold": 1})
    )
    context = {"prompt_data": {"password": "zyxwvutronic"}}
    assert policy.passes(PolicyRequest(user=setup.user, context=context)).passing
    assert not policy.passes(PolicyRequest(user=setup.user, http_request=Request(), context=context)).passing
