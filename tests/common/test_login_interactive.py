"""Logins that stand still at questions to a person: one conversation for each row of the table, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import CoreUnavailable
from common.login import Credentials, Denied, LoginService, Outcome, Passed, Paused, Unavailable
from common.outcomes import QuestionKind
from common.transport import Response
from tests import recorded
from tests.common.conversations import (
    DONE,
    DUO,
    EMAIL,
    EMPTY,
    FIRST,
    MASKED,
    PASSWORD,
    PLAIN,
    REFUSED,
    SMS,
    STATIC,
    TOTP,
    WEBAUTHN,
    WRONG_PASSWORD,
    Clock,
    begin,
    device,
    factor,
    field,
    paused,
    prompt,
    service_for,
)
from tests.common.scripted_core import BOTH, FAULTS, ME, NAME, PASSING, REDIRECT, Core, Step, answer, moved, session
from tests.common.test_recorded_flows import Row, Settings, prepare

VALIDATE = "ak-stage-authenticator-validate"


async def test_totp() -> None:
    """A code is asked for and sent alone; then the rule of every login holds."""
    core = Core(*FIRST, answer(factor(TOTP)), moved(), DONE)
    login = paused(await begin(core), "Code:")
    assert (login.question.kind, login.question.echo, login.username) == (QuestionKind.CODE, True, "alice")
    assert login.question.timeout_s == 120
    assert core.asked("check_access") == 0
    outcome = await login.answer("123456")
    assert isinstance(outcome, Passed)
    assert (outcome.username, outcome.used_code) == ("alice", True)
    assert core.posts()[1:] == [{"component": VALIDATE, "code": "123456"}]
    assert core.steps == []
    # the same session all the way, and the same headers
    assert "authentik_session" in core.calls[3][2]["cookie"]
    assert {call[2]["x-authentik-remote-ip"] for call in core.calls} == {"192.0.2.55"}


@pytest.mark.parametrize("devices", [(TOTP,), (STATIC,), (TOTP, STATIC), (TOTP, WEBAUTHN)])
async def test_codes_that_are_read_somewhere(devices: tuple[dict[str, Any], ...]) -> None:
    """TOTP and static codes: one question for all of them; a passkey beside them is no choice."""
    paused(await begin(Core(*FIRST, answer(factor(*devices)))), "Code:")


async def test_people_type_codes_in_groups() -> None:
    """Spaces are not part of a code."""
    core = Core(*FIRST, answer(factor(TOTP)), moved(), DONE)
    assert isinstance(await paused(await begin(core)).answer(" 123 456 "), Passed)
    assert core.posts()[1]["code"] == "123456"


async def test_three_wrong_codes() -> None:
    """Two more questions, then it is over; each code goes out once."""
    again = answer(factor(TOTP, **REFUSED))
    core = Core(*FIRST, answer(factor(TOTP)), again, again, again)
    login = paused(await begin(core), "Code:")
    login = paused(await login.answer("000001"), "Wrong code, try again:")
    login = paused(await login.answer("000002"), "Wrong code, try again:")
    outcome = await login.answer("000003")
    assert outcome == Denied("invalid_credentials", "code: Invalid Token.", VALIDATE)
    assert [post.get("code") for post in core.posts()[1:]] == ["000001", "000002", "000003"]
    assert core.asked("check_access") == 0


async def test_right_at_the_third_try() -> None:
    """Until then nothing is lost."""
    again = answer(factor(TOTP, **REFUSED))
    core = Core(*FIRST, answer(factor(TOTP)), again, again, moved(), DONE)
    login = paused(await begin(core))
    for wrong in ("000001", "000002"):
        login = paused(await login.answer(wrong))
    assert isinstance(await login.answer("123456"), Passed)


async def test_the_same_wrong_code_is_not_sent_twice() -> None:
    """It would count against the user, and cannot be right."""
    core = Core(*FIRST, answer(factor(TOTP)), answer(factor(TOTP, **REFUSED)))
    login = paused(await begin(core))
    for _ in range(2):
        login = paused(await login.answer("000001"), "Wrong code, try again:")
    outcome = await login.answer("000001")
    assert isinstance(outcome, Denied)
    assert outcome.reason == "invalid_credentials"
    assert len(core.posts()) == 2


async def test_nothing_typed() -> None:
    """An empty answer is a wrong one that is not sent."""
    core = Core(*FIRST, answer(factor(TOTP)), moved(), DONE)
    login = paused(await (paused(await begin(core))).answer(" "), "Wrong code, try again:")
    assert isinstance(await login.answer("123456"), Passed)
    assert len(core.posts()) == 2


async def test_a_code_that_was_brought_comes_first() -> None:
    """No question; and if it is wrong, none either."""
    core = Core(*FIRST, answer(factor(TOTP)), moved(), DONE)
    assert isinstance(await begin(core, "hunter2;123456"), Passed)
    core = Core(*FIRST, answer(factor(EMAIL)), answer(factor(EMAIL, **REFUSED)))
    outcome = await begin(core, "hunter2;123456")
    assert isinstance(outcome, Denied)
    assert outcome.reason == "invalid_credentials"
    assert core.posts()[1] == {"component": VALIDATE, "code": "123456"}


async def test_without_mfa_support_the_password_is_no_code_once_it_was_taken() -> None:
    """It is one only in flows that ask for a code alone."""
    target = replace(PLAIN, mfa_support=False)
    core = Core(*FIRST, answer(factor(TOTP)))
    paused(await begin(core, "hunter2", target), "Code:")
    core = Core(answer(NAME, 200, session("s0", False)), moved(), answer(factor(TOTP)), moved(), DONE)
    outcome = await begin(core, "123456", target)
    assert isinstance(outcome, Passed)
    assert core.posts()[1]["code"] == "123456"


async def test_password_stage_without_a_password() -> None:
    """The name is sent, the password asked for without echo."""
    core = Core(answer(NAME, 200, session("s0", False)), moved(), answer(PASSWORD), moved(), DONE)
    login = paused(await begin(core, ""), "Password:")
    assert (login.question.kind, login.question.echo) == (QuestionKind.PASSWORD, False)
    assert core.posts() == [{"component": "ak-stage-identification", "uid_field": "alice"}]
    assert isinstance(await login.answer(" secret "), Passed)
    assert core.posts()[1] == {"component": "ak-stage-password", "password": " secret "}


async def test_combined_stage_without_a_password() -> None:
    """Asked for before anything is sent: an empty password would be a failed login."""
    core = Core(*FIRST, DONE)
    login = paused(await begin(core, ""), "Password:")
    assert core.posts() == []
    assert isinstance(await login.answer("hunter2"), Passed)
    assert core.posts() == [{"component": "ak-stage-identification", "uid_field": "alice", "password": "hunter2"}]


async def test_typed_password_with_a_code() -> None:
    """What is typed is split as what is brought."""
    core = Core(*FIRST, answer(factor(TOTP)), moved(), DONE)
    outcome = await paused(await begin(core, "")).answer("hunter2;123456")
    assert isinstance(outcome, Passed)
    assert [post.get("password") or post.get("code") for post in core.posts()] == ["hunter2", "123456"]


async def test_typed_password_then_a_code() -> None:
    """Two questions in one login."""
    core = Core(*FIRST, answer(factor(TOTP)), moved(), DONE)
    login = paused(await paused(await begin(core, ""), "Password:").answer("hunter2"), "Code:")
    assert isinstance(await login.answer("123456"), Passed)


async def test_wrong_typed_passwords() -> None:
    """Three tries, as with codes."""
    again = answer({**PASSWORD, **WRONG_PASSWORD})
    core = Core(answer(NAME), moved(), answer(PASSWORD), again, again, again)
    login = paused(await begin(core, ""), "Password:")
    login = paused(await login.answer("one"), "Wrong password, try again:")
    assert login.question.echo is False
    login = paused(await login.answer("two"), "Wrong password, try again:")
    outcome = await login.answer("three")
    assert isinstance(outcome, Denied)
    assert outcome.reason == "invalid_credentials"
    assert [post.get("password") for post in core.posts()[1:]] == ["one", "two", "three"]


async def test_r08_a_wrong_password_that_was_brought_gets_no_second_try() -> None:
    """Row R08: one POST, no question."""
    failed = {"response_errors": {"non_field_errors": [{"string": "Failed to authenticate.", "code": "invalid"}]}}
    core = Core(FIRST[0], answer({**BOTH, **failed}))
    outcome = await begin(core)
    assert isinstance(outcome, Denied)
    assert outcome.reason == "invalid_credentials"
    assert len(core.posts()) == 1


async def test_restart_after_a_typed_password() -> None:
    """A flow that silently begins anew gets neither name nor password again."""
    core = Core(answer(NAME), moved(), answer(PASSWORD), moved(), answer(NAME))
    outcome = await paused(await begin(core, "")).answer("wrong")
    assert isinstance(outcome, Denied)
    assert outcome.reason == "flow_restarted"
    assert len(core.posts()) == 2


async def test_r20_email_only() -> None:
    """Row R20: the mail is requested once, the code sent without a selection, also after a wrong one."""
    core = Core(*FIRST, answer(factor(EMAIL)), answer(factor(EMAIL, **EMPTY)), answer(factor(EMAIL, **REFUSED)),
                moved(), DONE)  # fmt: skip
    login = paused(await begin(core), f"Code sent to {MASKED}:")
    assert core.posts()[1:] == [{"component": VALIDATE, "selected_challenge": EMAIL}]
    login = paused(await login.answer("000000"), "Wrong code, try again:")
    assert isinstance(await login.answer("123456"), Passed)
    assert core.posts()[2:] == [{"component": VALIDATE, "code": code} for code in ("000000", "123456")]


async def test_sms_only() -> None:
    """The core shows no number."""
    core = Core(*FIRST, answer(factor(SMS)), answer(factor(SMS, **EMPTY)), moved(), DONE)
    assert isinstance(await paused(await begin(core), "Code sent:").answer("123456"), Passed)
    assert core.posts()[1]["selected_challenge"]["device_class"] == "sms"


async def test_delivery_that_is_refused() -> None:
    """Another complaint than the expected one: nothing was sent, nothing is asked."""
    wrong = {"response_errors": {"selected_challenge": [{"string": "Invalid device", "code": "invalid"}]}}
    core = Core(*FIRST, answer(factor(EMAIL)), answer(factor(EMAIL, **wrong)))
    assert isinstance(await begin(core), Denied)


async def test_delivery_without_a_complaint() -> None:
    """A core that does not call it an error."""
    core = Core(*FIRST, answer(factor(EMAIL)), moved(), answer(factor(EMAIL)), moved(), DONE)
    assert isinstance(await paused(await begin(core), f"Code sent to {MASKED}:").answer("123456"), Passed)
    assert len(core.posts()) == 3


async def test_several_kinds() -> None:
    """A code at once, or a digit for what is to be sent."""
    every = factor(DUO, EMAIL, SMS, STATIC, TOTP, WEBAUTHN)
    text = "Code, or 1=SMS 2=E-mail 3=Push"
    core = Core(*FIRST, answer(every), moved(), DONE)
    login = paused(await begin(core), text)
    assert (login.question.kind, login.question.options) == (QuestionKind.CHOICE, ("SMS", "E-mail", "Push"))
    assert isinstance(await login.answer("123456"), Passed)

    core = Core(*FIRST, answer(every), answer({**every, **EMPTY}), moved(), DONE)
    login = paused(await paused(await begin(core), text).answer("2"), f"Code sent to {MASKED}:")
    assert isinstance(await login.answer("654321"), Passed)
    assert core.posts()[1:] == [
        {"component": VALIDATE, "selected_challenge": EMAIL},
        {"component": VALIDATE, "code": "654321"},
    ]


async def test_several_kinds_and_a_wrong_code() -> None:
    """The choice stays open."""
    both = factor(SMS, TOTP)
    core = Core(*FIRST, answer(both), answer({**both, **REFUSED}), answer({**both, **EMPTY}))
    login = paused(await begin(core), "Code, or 1=SMS")
    login = paused(await login.answer("000000"), "Wrong code, try again, or 1=SMS")
    paused(await login.answer("1"), "Code sent:")


@pytest.mark.parametrize("text", ["9", "0", "99", "-1", "x", ""])
async def test_neither_a_choice_nor_a_code(text: str) -> None:
    """Nothing is sent; three of these end the login."""
    core = Core(*FIRST, answer(factor(SMS, TOTP)))
    login = paused(await begin(core))
    for _ in range(2):
        login = paused(await login.answer(text))
    outcome = await login.answer(text)
    assert isinstance(outcome, Denied)
    assert outcome.reason == "invalid_credentials"
    assert len(core.posts()) == 1


async def test_digits_of_a_codes_length_are_a_code() -> None:
    """Also where only sending was offered: the user may have one from before. Letters are none there."""
    core = Core(*FIRST, answer(factor(SMS, EMAIL)), moved(), DONE)
    login = paused(await begin(core), "1=SMS 2=E-mail")
    login = paused(await login.answer("abcdefgh"), "Try again: 1=SMS 2=E-mail")
    assert isinstance(await login.answer("12345678"), Passed)


async def test_two_devices_of_one_kind_are_told_apart() -> None:
    """By their masked addresses."""
    second = device("email", "9", email="b*@example.test")
    login = paused(await begin(Core(*FIRST, answer(factor(EMAIL, second)))))
    assert login.question.text == f"1=E-mail {MASKED} 2=E-mail b*@example.test"


@pytest.mark.parametrize("interactive", [True, False])
async def test_nothing_that_can_be_typed(interactive: bool) -> None:
    """A passkey alone: mfa_unsupported where a code would have been asked for."""
    core = Core(*FIRST, answer(factor(WEBAUTHN)))
    who = Credentials("alice", "hunter2", "192.0.2.55")
    outcome = await service_for(core).begin(PLAIN, who, interactive=interactive)
    assert isinstance(outcome, Denied)
    assert outcome.reason == ("mfa_unsupported" if interactive else "no_compatible_authenticator")
    core = Core(*FIRST, answer(factor()))
    outcome = await service_for(core).begin(PLAIN, who, interactive=interactive)
    assert isinstance(outcome, Denied)
    assert outcome.reason == "no_compatible_authenticator"


async def test_r16_without_challenges_there_is_no_question() -> None:
    """Row R16: as ``login``."""
    core = Core(*FIRST, answer(factor(TOTP)))
    outcome = await service_for(core).begin(PLAIN, Credentials("alice", "hunter2", "192.0.2.55"), interactive=False)
    assert isinstance(outcome, Denied)
    assert outcome.reason == "no_compatible_authenticator"


class Pushing(Core):
    """A core that answers a push when the test says so."""

    def __init__(self, *steps: Step, **checks: Step) -> None:
        super().__init__(*steps, **checks)
        self.sent, self.decided = asyncio.Event(), asyncio.Event()
        self.together = 0
        self.most = 0

    async def request(self, method: str, target: str, **more: Any) -> Response:
        flow_call = "/flows/" in target
        self.together += flow_call
        self.most = max(self.most, self.together)
        try:
            if method == "POST" and b'"duo"' in (more["body"] or b""):
                self.sent.set()
                await self.decided.wait()
            return await super().request(method, target, **more)
        finally:
            self.together -= flow_call


async def test_push_only() -> None:
    """The push goes out at once; Enter waits for what became of it. No two calls at a time."""
    core = Pushing(*FIRST, answer(factor(DUO)), moved(), DONE)
    login = paused(await begin(core), "Confirm push, then press Enter")
    assert login.question.kind == QuestionKind.PUSH
    await core.sent.wait()
    assert login.sealed() is None
    entered = asyncio.create_task(login.answer(""))
    await asyncio.sleep(0)
    assert not entered.done()
    core.decided.set()
    outcome = await entered
    assert isinstance(outcome, Passed)
    assert (outcome.used_push, outcome.used_code) == (True, False)
    assert core.posts()[1:] == [{"component": VALIDATE, "selected_challenge": DUO, "duo": 7}]
    assert core.most == 1


async def test_push_that_was_confirmed_before_enter() -> None:
    """The usual case: the answer is there when the packet comes."""
    core = Pushing(*FIRST, answer(factor(DUO)), moved(), DONE)
    core.decided.set()
    login = paused(await begin(core))
    await core.sent.wait()
    assert isinstance(await login.answer("yes"), Passed)


async def test_push_that_is_denied() -> None:
    """No second push."""
    denied = {"response_errors": {"duo": [{"string": "denied", "code": "invalid"}]}}
    core = Pushing(*FIRST, answer(factor(DUO)), answer(factor(DUO, **denied)))
    core.decided.set()
    outcome = await paused(await begin(core)).answer("")
    assert isinstance(outcome, Denied)
    assert outcome.reason == "invalid_credentials"
    assert len(core.posts()) == 2


async def test_push_by_choice() -> None:
    """It is confirmed, then Enter."""
    core = Pushing(*FIRST, answer(factor(DUO, TOTP)), moved(), DONE)
    core.decided.set()
    login = paused(await begin(core), "Code, or 1=Push")
    login = paused(await login.answer("1"), "Confirm push, then press Enter")
    assert isinstance(await login.answer(""), Passed)


async def test_push_that_can_be_put_away() -> None:
    """Then it is sent when the person answers."""
    core = Core(*FIRST, answer(factor(DUO)), moved(), DONE)
    login = paused(await begin(core, sealable=True), "Press Enter, then confirm push")
    assert len(core.posts()) == 1
    assert login.sealed() is not None
    assert isinstance(await login.answer(""), Passed)
    assert core.posts()[1]["duo"] == 7


async def test_push_without_anything_else_proves_nothing() -> None:
    """A flow that asks for no password passes only where the operator allows it."""
    for allowed in (False, True):
        core = Core(answer(NAME), moved(), answer(factor(DUO)), moved(), DONE)
        outcome = await paused(await begin(core, target=replace(PLAIN, allow_push_only=allowed))).answer("")
        assert isinstance(outcome, Passed) is allowed
        if isinstance(outcome, Denied):
            assert outcome.reason == "password_not_asked"


async def test_abandoned_push() -> None:
    """Nothing goes on in the background."""
    core = Pushing(*FIRST, answer(factor(DUO)))
    login = paused(await begin(core))
    await core.sent.wait()
    await login.abandon()
    assert core.together == 0
    assert isinstance(await login.answer(""), Denied)


async def test_abandoned_after_the_push_was_confirmed() -> None:
    """Nobody will use the session: it is ended."""
    ended = answer(REDIRECT, 200, 'authentik_session=""; Max-Age=0')
    core = Pushing(*FIRST, answer(factor(DUO)), moved(), DONE, ended)
    core.decided.set()
    login = paused(await begin(core))
    for _ in range(100):
        await asyncio.sleep(0)
    assert core.asked("check_access") == 1
    await login.abandon()
    assert core.asked("executor/bye/") == 1


PAGE = prompt(
    field("second", "number", "How many", 2),
    field("first", "text", "Favourite colour", 1),
    field("hidden", "hidden", "", 0, initial_value="kept"),
    field("line", "separator", "", 3),
    field("secret", "password", "PIN?", 4),
)


async def test_prompt_field_by_field() -> None:
    """One question for each field in its order, labels as questions; all fields in one answer."""
    core = Core(*FIRST, answer(PAGE), moved(), DONE)
    login = paused(await begin(core), "Favourite colour:")
    login = paused(await login.answer("blue "), "How many:")
    assert login.question.kind == QuestionKind.FIELD
    login = paused(await login.answer("three"), "Not accepted, try again: How many:")
    login = paused(await login.answer("3"), "PIN?")
    assert login.question.echo is False
    assert len(core.posts()) == 1
    assert isinstance(await login.answer("1234"), Passed)
    assert core.posts()[1] == {
        "component": "ak-stage-prompt", "first": "blue ", "second": 3, "hidden": "kept", "secret": "1234",
    }  # fmt: skip


async def test_prompt_that_is_refused() -> None:
    """The core's complaint is shown, and all fields are asked again; three pages in all."""
    page = prompt(field("pin", label="PIN"))
    bad = {"response_errors": {"pin": [{"string": "Too short.", "code": "invalid"}]}}
    core = Core(*FIRST, answer(page), *[answer({**page, **bad})] * 3)
    login = paused(await begin(core), "PIN:")
    login = paused(await login.answer("1"), "Too short, try again: PIN:")
    login = paused(await login.answer("2"), "Too short, try again: PIN:")
    outcome = await login.answer("3")
    assert outcome == Denied("invalid_credentials", "pin: Too short.", "ak-stage-prompt")
    assert [post.get("pin") for post in core.posts()[1:]] == ["1", "2", "3"]


async def test_prompt_for_a_new_password() -> None:
    """A person can be asked for it; a client that cannot is told (as before)."""
    page = prompt(field("password", "password", "New password", 1), field("again", "password", "Again", 2))
    core = Core(*FIRST, answer(page), moved(), DONE)
    login = paused(await paused(await begin(core), "New password:").answer("n3w"), "Again:")
    assert isinstance(await login.answer("n3w"), Passed)
    core = Core(*FIRST, answer(page))
    outcome = await service_for(core).login(PLAIN, Credentials("alice", "hunter2", "192.0.2.55"))
    assert isinstance(outcome, Denied)
    assert outcome.reason == "new_password_wanted"


async def test_choices_and_ticks() -> None:
    """Choices by number or by name, ticks by y and n; an optional field may stay empty."""
    page = prompt(
        field("site", "dropdown", "Site", 1, choices=[{"value": "b", "label": "Berlin"}, "Rome"]),
        field("terms", "checkbox", "Agree", 2),
        field("note", "text", "Note", 3, required=False),
        field("kept", "text", "Kept", 4, initial_value="old"),
    )
    core = Core(*FIRST, answer(page), moved(), DONE)
    login = paused(await begin(core), "Site 1=Berlin 2=Rome")
    assert login.question.options == ("Berlin", "Rome")
    login = paused(await login.answer("rome"), "Agree (y/n)")
    login = paused(await login.answer("perhaps"), "Not accepted, try again: Agree (y/n)")
    login = paused(await login.answer("Y"), "Note:")
    login = paused(await login.answer(""), "Kept:")
    assert isinstance(await login.answer(""), Passed)
    assert core.posts()[1] == {
        "component": "ak-stage-prompt", "site": "Rome", "terms": True, "note": "", "kept": "old",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["file", "something-new"])
async def test_fields_that_need_a_browser(kind: str) -> None:
    """Denied, not guessed."""
    outcome = await begin(Core(*FIRST, answer(prompt(field("x", kind)))))
    assert isinstance(outcome, Denied)
    assert outcome.reason == "unsupported_challenge"


async def test_questions_are_one_clean_line() -> None:
    """Whatever an administrator typed as a label."""
    login = paused(await begin(Core(*FIRST, answer(prompt(field("x", label="a\r\nb\x00\x1b[2J" + "ü" * 500))))))
    assert login.question.text.isprintable()
    assert len(login.question.text) <= 200


@pytest.mark.parametrize("interactive", [True, False])
async def test_consent(interactive: bool) -> None:
    """Only where the operator agrees for the user; the token is the challenge's."""
    consent = {"component": "ak-stage-consent", "token": "t0ken", "permissions": [], "additional_permissions": []}
    who = Credentials("alice", "hunter2", "192.0.2.55")
    core = Core(*FIRST, answer(consent), moved(), DONE)
    target = replace(PLAIN, auto_consent=True)
    assert isinstance(await service_for(core).begin(target, who, interactive=interactive), Passed)
    assert core.posts()[1] == {"component": "ak-stage-consent", "token": "t0ken"}
    core = Core(*FIRST, answer(consent))
    outcome = await service_for(core).begin(PLAIN, who, interactive=interactive)
    assert isinstance(outcome, Denied)
    assert outcome.reason == "unsupported_challenge"
    core = Core(*FIRST, answer({"component": "ak-stage-consent"}))
    assert isinstance(await service_for(core).begin(target, who, interactive=interactive), Denied)


async def test_tries_are_counted_for_each_challenge() -> None:
    """Two mistakes here and two there are not three; a code that was sent for one challenge is not for the next."""
    page = prompt(field("pin", "number", "PIN"))
    core = Core(answer(NAME), moved(), answer(PASSWORD), answer({**PASSWORD, **WRONG_PASSWORD}), moved(),
                answer(factor(EMAIL)), answer(factor(EMAIL, **EMPTY)), answer(factor(EMAIL, **REFUSED)), moved(),
                answer(page), moved(), answer(factor(SMS, TOTP)), moved(), DONE)  # fmt: skip
    login = paused(await begin(core, ""), "Password:")
    login = paused(await login.answer(""), "Wrong password, try again:")
    login = paused(await login.answer("wrong"), "Wrong password, try again:")
    login = paused(await login.answer("hunter2"), f"Code sent to {MASKED}:")
    login = paused(await login.answer(""), "Wrong code, try again:")
    login = paused(await login.answer("000000"), "Wrong code, try again:")
    login = paused(await login.answer("123456"), "PIN:")
    login = paused(await login.answer("x"), "Not accepted, try again: PIN:")
    login = paused(await login.answer("y"), "Not accepted, try again: PIN:")
    login = paused(await login.answer("4"), "Code, or 1=SMS")
    assert isinstance(await login.answer("654321"), Passed)


async def test_after_delivery_everything_typed_is_a_code() -> None:
    """Also a digit that was a choice before: nothing is sent a second time."""
    core = Core(*FIRST, answer(factor(SMS, TOTP)), answer(factor(SMS, TOTP, **EMPTY)),
                answer(factor(SMS, TOTP, **REFUSED)))  # fmt: skip
    login = paused(await paused(await begin(core)).answer("1"), "Code sent:")
    paused(await login.answer("1"), "Wrong code, try again:")
    assert core.posts()[2] == {"component": VALIDATE, "code": "1"}


async def test_complaint_of_another_stage() -> None:
    """It is not about what was typed: the login ends."""
    core = Core(answer(NAME), moved(), answer(PASSWORD), answer(factor(TOTP, **REFUSED)))
    outcome = await paused(await begin(core, "")).answer("hunter2")
    assert isinstance(outcome, Denied)
    assert outcome.stage == VALIDATE


# -- the rule, and what is no proof --------------------------------------------------------------------------------


async def test_a_prompt_is_no_proof() -> None:
    """Typed fields are neither a password nor a code."""
    core = Core(answer(NAME), moved(), answer(prompt(field("password", "password", "Password"))), moved(), DONE)
    outcome = await paused(await begin(core)).answer("anything")
    assert isinstance(outcome, Denied)
    assert outcome.reason == "password_not_asked"
    assert core.asked("check_access") == 0


async def test_the_rule_holds_after_a_pause() -> None:
    """No login, no access: denied after the right code as without it."""
    rows: list[tuple[Step, dict[str, Step], str]] = [
        (answer(REDIRECT, 200, session("s1", False)), {}, "not_authenticated"),
        (DONE, {"check_access": answer({"access": {"passing": False}})}, "access_denied"),
        (DONE, {"users/me": answer({"detail": "x"}, 403)}, "not_authenticated"),
    ]
    for last, checks, reason in rows:
        core = Core(*FIRST, answer(factor(TOTP)), moved(), last)
        core.checks.update(checks)
        outcome = await paused(await begin(core)).answer("123456")
        assert isinstance(outcome, Denied)
        assert outcome.reason == reason


async def test_who_passed() -> None:
    """Groups and e-mail address are handed on."""
    me = {
        "user": {**ME["user"], "email": "a@x.test", "groups": [{"pk": "1", "name": "staff"}, {"pk": "2", "name": "b"}]}
    }
    outcome = await begin(Core(*FIRST, DONE, users__me=answer(me)))
    assert isinstance(outcome, Passed)
    assert (outcome.email, outcome.groups) == ("a@x.test", ("staff", "b"))


async def test_a_certificate_alone_asks_nobody() -> None:
    """EAP-TLS has no way to show a question."""
    who = Credentials("alice", "", "192.0.2.55", certificate_pem="PEM", certificate_only=True, certificate_trusted=True)
    outcome = await service_for(Core(answer(NAME), moved(), answer(factor(TOTP)))).begin(PLAIN, who, interactive=True)
    assert isinstance(outcome, Denied)
    assert outcome.reason == "no_compatible_authenticator"


async def test_flow_that_is_known_to_begin_with_both() -> None:
    """The opening is used, and a surprise begins anew with nothing left of the first try."""
    core = Core(*FIRST, DONE)
    service = service_for(core)
    assert isinstance(await begin(core, service=service), Passed)
    core.steps += [moved(), answer(factor(TOTP)), moved(), DONE]
    login = paused(await begin(core, service=service), "Code:")
    assert core.calls[-2][0] == "POST"
    assert isinstance(await login.answer("123456"), Passed)
    core.steps += [answer({**PASSWORD, **WRONG_PASSWORD}), answer(NAME), moved(), answer(PASSWORD), moved(), DONE]
    assert isinstance(await begin(core, service=service), Passed)


async def test_nobody_with_an_empty_password_opens() -> None:
    """Without a password the flow is looked at first, however it began before."""
    core = Core(*FIRST, DONE)
    service = service_for(core)
    await begin(core, service=service)
    core.steps += [*FIRST, DONE]
    before = len(core.posts())
    login = paused(await begin(core, "", service=service), "Password:")
    assert len(core.posts()) == before
    assert isinstance(await login.answer("hunter2"), Passed)


# -- time, once, elsewhere -----------------------------------------------------------------------------------------


async def test_the_persons_time() -> None:
    """Two minutes from the beginning, whatever was asked in between."""
    clock = Clock()
    core = Core(*FIRST, answer(factor(TOTP)), answer(factor(TOTP, **REFUSED)))
    login = paused(await begin(core, service=service_for(core, clock)))
    clock.now += 100
    login = paused(await login.answer("000000"))
    assert login.question.timeout_s == 20
    clock.now += 20
    calls = len(core.calls)
    assert await login.answer("123456") == Denied("challenge_expired", "the answer came too late")
    assert len(core.calls) == calls


async def test_a_push_is_not_waited_for_after_the_time() -> None:
    """Enter came too late: the call is given up."""
    clock = Clock()
    core = Pushing(*FIRST, answer(factor(DUO)))
    login = paused(await begin(core, service=service_for(core, clock)))
    await core.sent.wait()
    clock.now += 121
    outcome = await login.answer("")
    assert isinstance(outcome, Denied)
    assert outcome.reason == "challenge_expired"
    assert core.together == 0


async def test_one_answer_only() -> None:
    """The second one, and one after giving up, reach nobody."""
    core = Core(*FIRST, answer(factor(TOTP)), moved(), DONE)
    login = paused(await begin(core))
    outcomes = await asyncio.gather(login.answer("123456"), login.answer("123456"))
    assert [type(outcome) for outcome in outcomes] == [Passed, Denied]
    assert len(core.posts()) == 2
    other = paused(await begin(Core(*FIRST, answer(factor(TOTP)))))
    await other.abandon()
    outcome = await other.answer("123456")
    assert isinstance(outcome, Denied)
    assert outcome.reason == "challenge_expired"


async def test_going_on_elsewhere() -> None:
    """Sealed here, restored by another service: the same session, the same rule, what was counted stays counted."""
    clock = Clock()
    core = Core(*FIRST, answer(factor(SMS, TOTP)), answer(factor(SMS, TOTP, **REFUSED)))
    login = paused(await begin(core, service=service_for(core, clock), sealable=True))
    login = paused(await login.answer("000000"))
    clock.now += 30
    sealed = login.sealed(b"client")
    assert sealed is not None

    other = Core(answer(factor(SMS, TOTP, **EMPTY)), answer(factor(SMS, TOTP, **REFUSED)))
    service = service_for(other, clock)
    restored = service.restore(sealed, b"client")
    assert restored is not None
    assert (restored.question.text, restored.username) == ("Wrong code, try again, or 1=SMS", "alice")
    assert restored.question.timeout_s == 90
    login = paused(await restored.answer("1"), "Code sent:")
    assert "authentik_session" in other.calls[0][2]["cookie"]
    again = login.sealed(b"")
    assert again is not None
    restored = service.restore(again)
    assert restored is not None
    # sent before, by the first service: the second mistake, and not sent again
    login = paused(await restored.answer("000000"), "Wrong code, try again:")
    outcome = await login.answer("111111")
    assert isinstance(outcome, Denied)
    assert outcome.reason == "invalid_credentials"
    assert [post.get("code") for post in other.posts()] == [None, "111111"]


async def test_restored_login_passes() -> None:
    """A sealed code question, all the way."""
    core = Core(*FIRST, answer(factor(TOTP)))
    sealed = paused(await begin(core)).sealed()
    assert sealed is not None
    other = Core(moved(), DONE)
    restored = service_for(other).restore(sealed)
    assert restored is not None
    outcome = await restored.answer("123456")
    assert isinstance(outcome, Passed)
    assert outcome.used_code
    assert other.posts() == [{"component": VALIDATE, "code": "123456"}]


async def test_restored_password_question_keeps_the_brought_password_for_later() -> None:
    """A code first, then the password that came with the first packet; once taken it is not kept."""
    core = Core(answer(NAME, 200, session("s0", False)), moved(), answer(factor(TOTP)))
    sealed = paused(await begin(core, "hunter2")).sealed()
    assert sealed is not None
    other = Core(moved(), answer(PASSWORD), moved(), DONE)
    restored = service_for(other).restore(sealed)
    assert restored is not None
    assert isinstance(await restored.answer("123456"), Passed)
    assert other.posts()[1]["password"] == "hunter2"


async def test_what_is_sealed_does_not_open_otherwise() -> None:
    """Another client, another token, one changed octet, cut off, too old: None, and nothing is asked of the core."""
    clock = Clock()
    core = Core(*FIRST, answer(factor(TOTP)))
    sealed = paused(await begin(core, service=service_for(core, clock))).sealed(b"client")
    assert sealed is not None
    service = service_for(core, clock)
    assert service.restore(sealed, b"client") is not None
    assert service.restore(sealed, b"other") is None
    assert service.restore(sealed) is None
    assert service_for(core, clock, token="another").restore(sealed, b"client") is None
    for at in range(len(sealed)):
        changed = sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :]
        assert service.restore(changed, b"client") is None
    for size in (0, 1, 20, len(sealed) - 1):
        assert service.restore(sealed[:size], b"client") is None
    clock.now += 120
    assert service.restore(sealed, b"client") is None


async def test_nothing_secret_shows() -> None:
    """Neither in the sealed octets, nor in what is printed, nor in a log."""
    core = Core(*FIRST, answer(factor(TOTP)))
    login = paused(await begin(core))
    sealed = login.sealed()
    assert sealed is not None
    for secret in (b"hunter2", b"alice", b"authentik_session"):
        assert secret not in sealed
    standing = login._standing  # type: ignore[attr-defined]
    for text in (repr(login), repr(standing), repr(standing.question)):
        for word in ("hunter2", "authentik_session", "outpost-token"):
            assert word not in text
    assert standing.solver.password == ""  # the core has taken it
    assert standing.credentials.password == ""


# -- what goes wrong on the way ------------------------------------------------------------------------------------

CONVERSATION: tuple[Step, ...] = (*FIRST, answer(factor(TOTP)), moved(), DONE)


async def converse(core: Core, service: LoginService | None = None) -> Outcome:
    """The whole conversation, whatever happens."""
    outcome = await begin(core, service=service)
    return await outcome.answer("123456") if isinstance(outcome, Paused) else outcome


@pytest.mark.parametrize("at", range(len(CONVERSATION)))
@pytest.mark.parametrize("fault", FAULTS)
async def test_faults_of_every_call(fault: str, at: int) -> None:
    """Each call of the flow fails in each way: nobody passes, nobody is blamed, and no POST is repeated."""
    step, reason = FAULTS[fault]
    repeats = 3 if fault == "no answer" else 1  # a GET is repeated after a network error
    core = Core(*CONVERSATION[:at], *[step] * repeats)
    outcome = await converse(core)
    assert isinstance(outcome, Unavailable)
    assert outcome.reason == reason
    sent = [json.dumps(body, sort_keys=True) for body in core.posts()]
    assert len(sent) == len(set(sent))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("check", ["check_access", "users/me"])
async def test_faults_of_the_checks(fault: str, check: str) -> None:
    """After a right code too."""
    step, reason = FAULTS[fault]
    if fault == "flow error":
        reason = "nonsense"
    core = Core(*CONVERSATION)
    core.checks[check] = step
    outcome = await converse(core)
    assert not isinstance(outcome, Passed | Paused)
    if not (check == "users/me" and fault == "403"):
        assert isinstance(outcome, Unavailable)
        assert outcome.reason == reason


async def test_an_answer_has_a_budget() -> None:
    """A core that never answers the code."""

    class Hanging(Core):
        async def request(self, method: str, target: str, **more: Any) -> Response:
            if method == "POST" and b'"code"' in more["body"]:
                self.calls.append((method, target, {}, json.loads(more["body"])))
                await asyncio.Event().wait()
            return await super().request(method, target, **more)

    core = Hanging(*CONVERSATION)
    service = LoginService(core, Settings("outpost-token"), now=Clock(), budget_s=0.05)
    outcome = await converse(core, service)
    assert isinstance(outcome, Unavailable)
    assert outcome.reason == "deadline"
    assert len(core.posts()) == 2


async def test_cancelled_answer() -> None:
    """A shutdown stops it, and it does not pass later."""
    core = Pushing(*FIRST, answer(factor(DUO)))
    login = paused(await begin(core))
    await core.sent.wait()
    task = asyncio.create_task(login.answer(""))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert core.together == 0


TEXT = st.sampled_from(["", "1", "2", "9", "123456", "000000", "static01", "yes", "a b", "x" * 300, "\x00"])
CHALLENGE = st.sampled_from(
    [
        answer(BOTH, 200, session("s0", False)),
        answer(NAME),
        answer(PASSWORD),
        answer({**PASSWORD, **WRONG_PASSWORD}),
        answer(factor(TOTP)),
        answer(factor(TOTP, **REFUSED)),
        answer(factor(SMS, EMAIL, TOTP)),
        answer(factor(EMAIL)),
        answer(factor(EMAIL, **EMPTY)),
        answer(factor(EMAIL, **REFUSED)),
        answer(factor(DUO)),
        answer(PAGE),
        answer({"component": "ak-stage-consent", "token": "t"}),
        answer(REDIRECT),
        answer(REDIRECT, 200, session("s1")),
        answer(REDIRECT, 200, session("s1", False)),
        answer({"component": "ak-stage-access-denied"}, 200, session("s1")),
        moved(),
        moved("/api/v3/flows/executor/f/?query=x", session("s1")),
        CoreUnavailable("GET x", "reset"),
    ]
)


@settings(max_examples=400, deadline=None)
@given(
    steps=st.lists(CHALLENGE, max_size=14),
    texts=st.lists(TEXT, max_size=12),
    password=st.sampled_from(["", "hunter2", "hunter2;123456"]),
    passing=st.booleans(),
    sealable=st.booleans(),
)
def test_no_conversation_passes_without_the_rule(
    steps: list[Step], texts: list[str], password: str, passing: bool, sealable: bool
) -> None:
    """Random cores and random people: it ends, no answer is sent twice, and a login passes only with a password or a
    code that was sent, an authenticated session and a passing check. Sealing on the way changes nothing."""

    class Ending(Core):
        async def request(self, method: str, target: str, **more: Any) -> Response:
            if "/flows/" in target and not self.steps:
                raise CoreUnavailable("GET x", "no more")
            return await super().request(method, target, **more)

    core = Ending(*steps, check_access=answer({"access": {"passing": passing}}))

    async def run() -> Outcome | Paused:
        service = service_for(core)
        outcome = await begin(core, password, replace(PLAIN, auto_consent=True), service=service, sealable=sealable)
        for text in texts:
            if not isinstance(outcome, Paused):
                break
            sealed = outcome.sealed(b"x") if sealable else None
            if sealed is not None:
                restored = service.restore(sealed, b"x")
                assert restored is not None
                assert restored.question.text == outcome.question.text
                outcome = restored
            outcome = await outcome.answer(text)
        if isinstance(outcome, Paused):
            await outcome.abandon()
        return outcome

    outcome = asyncio.run(run())
    if isinstance(outcome, Passed):
        assert passing
        assert any(post.get("password") or post.get("code") for post in core.posts())
        assert core.asked("check_access") == 1
    flow_posts = [json.dumps(body, sort_keys=True) for body in core.posts()]
    assert len(flow_posts) == len(set(flow_posts))


# -- as recorded ---------------------------------------------------------------------------------------------------


async def test_recorded_code() -> None:
    """The recorded second factor of a real core, asked for instead of brought."""
    replay, service, target, credentials = prepare(Row("mfa_totp_good"))
    password, code = credentials.password.split(";")
    outcome = await service.begin(target, replace(credentials, password=password), interactive=True)
    login = paused(outcome, "Code:")
    outcome = await login.answer(code)
    assert isinstance(outcome, Passed)
    assert outcome.username == "bob"
    assert replay.problems == []
    assert replay.left_over() == []


async def test_recorded_wrong_code() -> None:
    """The recorded refusal is a second question."""
    replay, service, target, credentials = prepare(Row("mfa_totp_wrong_code"))
    password, code = credentials.password.split(";")
    outcome = await service.begin(target, replace(credentials, password=password), interactive=True)
    paused(await paused(outcome, "Code:").answer(code), "Wrong code, try again:")
    assert replay.problems == []


async def test_recorded_prompt() -> None:
    """The recorded field, by its label."""
    _, service, target, credentials = prepare(Row("prompt_stage"))
    paused(await service.begin(target, credentials, interactive=True), "Favourite colour:")


async def test_recorded_consent() -> None:
    """The recorded token goes back."""
    replay, service, target, credentials = prepare(Row("consent_stage"))
    await service.begin(replace(target, auto_consent=True), credentials, interactive=True)
    shown = recorded.recording("flows", "consent_stage")["exchanges"][2]["response"]["json"]
    assert replay.sent[-1].body == {"component": "ak-stage-consent", "token": shown["token"]}


def test_passing_is_what_the_tests_think() -> None:
    """The scripted core's check passes unless a test says otherwise."""
    assert PASSING["access"]["passing"] is True
