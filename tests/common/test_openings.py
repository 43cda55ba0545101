"""Flows that are begun with the answer, without looking first: when, for whom, and what a surprise costs."""

from __future__ import annotations

from typing import Any

import pytest

from common.login import Credentials, Denied, LoginService, Outcome, Passed
from common.openings import Opening, Openings
from tests.common.scripted_core import (
    ALICE,
    BOTH,
    GOOD,
    NAME,
    REDIRECT,
    TARGET,
    Core,
    Step,
    answer,
    jwt,
    moved,
    session,
)
from tests.common.test_recorded_flows import Settings


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


OPENED: tuple[Step, ...] = (moved(), answer(REDIRECT, 200, session("s2")))


async def methods_of(core: Core, service: LoginService, who: Credentials = ALICE) -> tuple[list[str], Outcome]:
    """Flow calls of one more login."""
    before = len(core.calls)
    outcome = await service.login(TARGET, who)
    return [method for method, target, *_ in core.calls[before:] if "/flows/" in target], outcome


async def test_openings() -> None:
    """Seen once, the next login begins with the answer; after a minute, or after a refresh, it looks again."""
    clock = Clock()
    core = Core(*GOOD, *OPENED, *GOOD, *OPENED, *GOOD)
    service = LoginService(core, Settings("outpost-token"), monotonic=clock)
    looked, opened = ["GET", "POST", "GET"], ["POST", "GET"]
    for expected, pause_s in ((looked, 30.0), (opened, 31.0), (looked, 0.0), (opened, 0.0)):
        methods, outcome = await methods_of(core, service)
        assert methods == expected
        assert isinstance(outcome, Passed)
        clock.now += pause_s
    service.configuration_changed()
    assert (await methods_of(core, service))[0] == looked


async def test_opening_is_for_the_same_client_address_only() -> None:
    """What another address was shown says nothing: policies may look at it. A certificate always looks first."""
    core = Core(*GOOD, *GOOD, *GOOD)
    service = LoginService(core, Settings("outpost-token"))
    assert (await methods_of(core, service))[0] == ["GET", "POST", "GET"]
    assert (await methods_of(core, service, Credentials("alice", "hunter2", "192.0.2.56")))[0][0] == "GET"
    with_certificate = Credentials("alice", "hunter2", "192.0.2.55", "-----BEGIN CERTIFICATE-----")
    assert (await methods_of(core, service, with_certificate))[0][0] == "GET"


@pytest.mark.parametrize("first", [NAME, {**BOTH, "captcha_stage": {"x": 1}}, {"component": "ak-stage-password"}])
async def test_other_beginnings_are_not_opened(first: Any) -> None:
    """Only a flow that showed both fields, and nothing that we cannot fill in."""
    core = Core(answer(first), answer(REDIRECT), answer(first), answer(REDIRECT))
    service = LoginService(core, Settings("outpost-token"))
    await methods_of(core, service)
    assert (await methods_of(core, service))[0][0] == "GET"


async def test_what_comes_after_a_silent_stage_is_not_opened() -> None:
    """A stage that asks nothing goes before the form: it would swallow an answer that is sent first."""
    core = Core(moved(), *GOOD, moved(), *GOOD)
    service = LoginService(core, Settings("outpost-token"))
    for _ in range(2):
        methods, outcome = await methods_of(core, service)
        assert methods == ["GET", "GET", "POST", "GET"]
        assert isinstance(outcome, Passed)


SURPRISES = [
    {"component": "ak-stage-flow-error", "request_id": "r"},
    {"component": "ak-stage-prompt", "response_errors": {"x": [{"string": "required", "code": "required"}]}},
]


@pytest.mark.parametrize("surprise", SURPRISES)
async def test_surprise_falls_back_to_a_get(surprise: Any) -> None:
    """The flow begins otherwise now: looked at, with fresh cookies, and not opened again for a while."""
    core = Core(*GOOD, answer(surprise, 200, session("stale", False)), *GOOD, *GOOD)
    service = LoginService(core, Settings("outpost-token"))
    await methods_of(core, service)
    methods, outcome = await methods_of(core, service)
    assert methods == ["POST", "GET", "POST", "GET"]
    assert isinstance(outcome, Passed)
    assert not any(jwt("stale", False) in headers.get("cookie", "") for _, _, headers, _ in core.calls)
    assert (await methods_of(core, service))[0] == ["GET", "POST", "GET"]


async def test_wrong_password_in_an_opening_is_sent_once() -> None:
    """A refusal is a refusal: no second try, and the opening stays known."""
    refused = {**BOTH, "response_errors": {"non_field_errors": [{"string": "Failed to authenticate.", "code": "x"}]}}
    core = Core(*GOOD, answer(refused), *OPENED)
    service = LoginService(core, Settings("outpost-token"))
    await methods_of(core, service)
    methods, outcome = await methods_of(core, service, Credentials("alice", "wrong", "192.0.2.55"))
    assert methods == ["POST"]
    assert isinstance(outcome, Denied)
    assert outcome.reason == "invalid_credentials"
    assert (await methods_of(core, service))[0] == ["POST", "GET"]


async def test_restart_after_an_opening_is_a_refusal() -> None:
    """The first stage again without an error: a silent restart; the password is not sent a second time."""
    core = Core(*GOOD, moved(), answer(BOTH), *GOOD)
    service = LoginService(core, Settings("outpost-token"))
    await methods_of(core, service)
    methods, outcome = await methods_of(core, service)
    assert methods == ["POST", "GET"]
    assert isinstance(outcome, Denied)
    assert outcome.reason == "flow_restarted"
    assert (await methods_of(core, service))[0][0] == "GET"


def test_openings_are_bounded() -> None:
    """Many addresses do not fill the memory; the oldest goes first."""
    memory = Openings()
    for number in range(5000):
        memory.saw(Opening("f", "ldap", str(number)), True, 0.0)
    assert len(memory) == 4096
    assert not memory.known(Opening("f", "ldap", "0"), 1.0)
    assert memory.known(Opening("f", "ldap", "4999"), 1.0)
