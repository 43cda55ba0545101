"""The flow generator without a transport: MFA rules, limits, and that no sequence of challenges fakes a login."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import challenges, flow
from common.challenges import Answer, Challenge, CodeAnswer, IdentificationAnswer, PasswordAnswer, PushAnswer
from common.flow import Ended, Result, Solver, Surprise, split_code
from common.outcomes import Denied, Unavailable

PATH = "/api/v3/flows/executor/f/"


def challenge(component: str, **fields: Any) -> Challenge:
    """A challenge as it comes from the wire."""
    return challenges.decode(json.dumps({"component": component, **fields}).encode())


def both(**more: Any) -> Challenge:
    return challenge("ak-stage-identification", password_fields=True, **more)


def name_only(**more: Any) -> Challenge:
    return challenge("ak-stage-identification", password_fields=False, **more)


def password(**more: Any) -> Challenge:
    return challenge("ak-stage-password", **more)


def second_factor(*classes: str, **more: Any) -> Challenge:
    devices = [
        {"device_class": kind, "device_uid": str(number), "challenge": {}, "last_used": None}
        for number, kind in enumerate(classes, 1)
    ]
    return challenge("ak-stage-authenticator-validate", device_challenges=devices, **more)


def redirect(to: str = "/") -> Challenge:
    return challenge("xak-flow-redirect", to=to)


def errors(field: str, text: str) -> dict[str, Any]:
    return {"response_errors": {field: [{"string": text, "code": "invalid"}]}}


SOLVER = Solver.of("alice", "pw;123456", mfa_support=True)


def play(
    sequence: Sequence[Challenge], solver: Solver = SOLVER, *, opening: bool = False
) -> tuple[Result | None, list]:
    """Feed challenges; the result (None if the flow wants more) and what was answered."""
    run = flow.run(solver, PATH, opening=opening)
    answers: list[Answer | None] = [next(run)]
    for item in sequence:
        try:
            answers.append(run.send(item))
        except StopIteration as stop:
            return stop.value, answers
    return None, answers


def body(answer: Answer | None) -> Any:
    return json.loads(challenges.encode(answer)) if answer is not None else None


def test_c35_two_stages() -> None:
    """C35: name, password, end; the password only where it was asked for."""
    result, answers = play([name_only(), password(), redirect()])
    assert [body(answer) for answer in answers] == [
        None,
        {"component": "ak-stage-identification", "uid_field": "alice"},
        {"component": "ak-stage-password", "password": "pw"},
    ]
    assert result == Ended(password_accepted=True, to="/", named=True)


def test_c36_combined_stage() -> None:
    """C36: one answer with both."""
    result, answers = play([both(), redirect()])
    assert body(answers[1]) == {"component": "ak-stage-identification", "uid_field": "alice", "password": "pw"}
    assert result == Ended(password_accepted=True, to="/", named=True)


def test_c40_redirect_to_itself() -> None:
    """C40: looked at again three times, then given up; with and without sub-path, query or origin."""
    own = [redirect(PATH), redirect("/auth" + PATH + "?query=x"), redirect("https://h" + PATH)]
    assert play([both(), *own, redirect()])[0] == Ended(password_accepted=True, to="/", named=True)
    result, answers = play([both(), *own, redirect(PATH)])
    assert isinstance(result, Denied)
    assert result.reason == "too_many_steps"
    assert [body(answer) for answer in answers[2:]] == [None, None, None]


def test_c41_refusal_ends_the_flow() -> None:
    """C41: the core's text, no second answer."""
    result, answers = play([name_only(), password(), password(**errors("password", "Invalid password"))])
    assert result == Denied("invalid_credentials", "password: Invalid password", "ak-stage-password")
    assert len(answers) == 3


def test_c42_restart_is_noticed() -> None:
    """C42: the first stage again, without a word of error; the password went out once."""
    for sequence in ([name_only(), password(), name_only()], [both(), both()]):
        result, answers = play(sequence)
        assert isinstance(result, Denied)
        assert (result.reason, result.message) == ("flow_restarted", "flow restarted")
        assert sum("password" in (body(answer) or {}) for answer in answers) == 1


def test_c42_restart_behind_a_redirect_to_itself() -> None:
    """A self-redirect between does not make a refused password an accepted one."""
    result, answers = play([both(), redirect(PATH), both()])
    assert isinstance(result, Denied)
    assert result.reason == "flow_restarted"
    assert sum("password" in (body(answer) or {}) for answer in answers) == 1


def test_c43_access_denied() -> None:
    """C43: the message of the stage."""
    result, _ = play([challenge("ak-stage-access-denied", error_message="x")])
    assert result == Denied("flow_denied", "x", "ak-stage-access-denied")


@pytest.mark.parametrize(
    "component",
    [
        "ak-stage-captcha",
        "ak-stage-consent",
        "ak-stage-prompt",
        "ak-stage-dummy",
        "ak-stage-autosubmit",
        "ak-stage-email",
        "ak-stage-authenticator-totp",
        "ak-stage-session-end",
        "xak-flow-shell",
        "xak-flow-frame",
        "ak-source-oauth-apple",
        "ak-provider-oauth2-device-code",
        "something-new",
        "",
    ],
)
def test_c44_unsupported(component: str) -> None:
    """C44: named in the message."""
    result, _ = play([challenge(component)])
    assert result == Denied("unsupported_challenge", f"unsupported challenge type {component}", component)


def test_new_password_wanted() -> None:
    """A prompt whose answer would set a password, behind a password that was taken: the old one is no good any more."""
    fields = [{"field_key": "hint", "type": "static"}, {"field_key": "password", "type": "password", "label": "New"}]
    prompt = challenge("ak-stage-prompt", fields=fields)
    for sequence in ([both(), prompt], [name_only(), password(), prompt]):
        result, _ = play(sequence)
        assert result == Denied("new_password_wanted", "the flow asks for a new password", "ak-stage-prompt")


@pytest.mark.parametrize(
    "field",
    [
        {"field_key": "pin", "type": "password"},
        {"field_key": "password", "type": "text"},
        {"type": "password"},
        {},
    ],
)
def test_other_prompts(field: dict[str, str]) -> None:
    """Anything else that a browser would show says nothing about the password; nor does a prompt before it."""
    text = "unsupported challenge type ak-stage-prompt"
    wanted = Denied("unsupported_challenge", text, "ak-stage-prompt")
    assert play([both(), challenge("ak-stage-prompt", fields=[field])])[0] == wanted
    new = challenge("ak-stage-prompt", fields=[{"field_key": "password", "type": "password"}])
    assert play([new])[0] == wanted
    assert play([name_only(), new])[0] == wanted


def test_c44_captcha_inside_identification() -> None:
    """Found before the password is sent."""
    result, answers = play([both(captcha_stage={"site_key": "x"})])
    assert isinstance(result, Denied)
    assert result.reason == "unsupported_challenge"
    assert answers == [None]


def test_c45_flow_error_is_not_the_clients_fault() -> None:
    """C45: an exception inside the core."""
    result, _ = play([both(), challenge("ak-stage-flow-error", request_id="r1")])
    assert isinstance(result, Unavailable)
    assert "r1" in result.message


SPLITS = [
    ("C46", "pw;123456", "pw", "123456"),
    ("C47", "p;w;abcd1234", "p;w", "abcd1234"),
    ("C48", "pw;12345", "pw;12345", None),
    ("C48", "pw;1234567890", "pw;1234567890", None),
    ("C48", "pw;", "pw;", None),
    ("C48", "pw;+12345", "pw;+12345", None),
    ("C48", "pw;-12345", "pw;-12345", None),
    ("C48", "pw;abcdef", "pw;abcdef", None),
    ("C49", ";123456", "", "123456"),
    ("", "pw", "pw", None),
    ("", "", "", None),
    ("", ";", ";", None),
    ("", "pw;12345 ", "pw;12345 ", None),
    ("", "pw;１２３４５６", "pw;１２３４５６", None),
    ("", "pw;٣٣٣٣٣٣", "pw;٣٣٣٣٣٣", None),
    ("", "pw;abcd123é", "pw;abcd123é", None),
    ("", "pw;abc_1234", "pw;abc_1234", None),
    ("", "pw;12345678", "pw", "12345678"),
    ("", "123456", "123456", None),
]


@pytest.mark.parametrize(("case", "given_password", "secret", "code"), SPLITS)
def test_c46_to_c49_code_extraction(case: str, given_password: str, secret: str, code: str | None) -> None:
    """C46, C47, C48, C49."""
    assert split_code(given_password) == (secret, code)


def test_c49_empty_password_is_sent_and_proves_nothing() -> None:
    """C49: the password stage has to fail; should it not, no password was checked."""
    solver = Solver.of("alice", ";123456", mfa_support=True)
    result, answers = play([both(), redirect()], solver)
    assert body(answers[1])["password"] == ""
    assert result == Ended(to="/", named=True)


def test_c50_code_alone() -> None:
    """C50: no selection, no push."""
    result, answers = play([both(), second_factor("totp", "duo"), redirect()])
    assert body(answers[2]) == {"component": "ak-stage-authenticator-validate", "code": "123456"}
    assert result == Ended(password_accepted=True, code_accepted=True, to="/", named=True)


@pytest.mark.parametrize("kind", ["totp", "static", "sms", "email"])
def test_code_goes_to_any_code_device(kind: str) -> None:
    """The core tries it against all of them."""
    _, answers = play([both(), second_factor(kind)])
    assert isinstance(answers[2], CodeAnswer)


def test_c51_push() -> None:
    """C51: the whole device entry and the device's number."""
    solver = Solver.of("alice", "pw", mfa_support=True)
    result, answers = play([both(), second_factor("webauthn", "duo"), redirect()], solver)
    assert isinstance(answers[2], PushAnswer)
    assert body(answers[2]) == {
        "component": "ak-stage-authenticator-validate",
        "selected_challenge": {"device_class": "duo", "device_uid": "2", "challenge": {}, "last_used": None},
        "duo": 2,
    }
    assert result == Ended(password_accepted=True, push_accepted=True, to="/", named=True)


@pytest.mark.parametrize("classes", [("webauthn",), (), ("new",), ("totp",)])
def test_c52_no_authenticator(classes: tuple[str, ...]) -> None:
    """C52: nothing that this protocol can answer; also a code device without a code."""
    result, answers = play([both(), second_factor(*classes)], Solver.of("alice", "pw", mfa_support=True))
    assert isinstance(result, Denied)
    assert (result.reason, result.message) == ("no_compatible_authenticator", "no compatible authenticator")
    assert len(answers) == 2


def test_without_mfa_support_nothing_is_split() -> None:
    """The whole password is the code too, so that a flow which asks for a code alone works."""
    solver = Solver.of("alice", "pw;123456", mfa_support=False)
    assert body(play([both()], solver)[1][1])["password"] == "pw;123456"
    result, answers = play([name_only(), second_factor("totp"), redirect()], solver)
    assert body(answers[2])["code"] == "pw;123456"
    assert result == Ended(code_accepted=True, to="/", named=True)


@pytest.mark.parametrize("remember_me", [False, True])
def test_c53_remember_me(remember_me: bool) -> None:
    """C53: only where sessions are cached on purpose."""
    solver = Solver.of("alice", "pw", mfa_support=True, remember_me=remember_me)
    _, answers = play([both(), challenge("ak-stage-user-login")], solver)
    assert body(answers[2]) == {"component": "ak-stage-user-login", "remember_me": remember_me}


def test_twenty_answers_are_the_end() -> None:
    """A core that asks for ever: changing names so that no answer repeats."""
    run = flow.run(SOLVER, PATH)
    next(run)
    posted = 0
    result: Result | None = None
    for number in itertools.count():
        uid = {"device_class": "duo", "device_uid": str(number), "challenge": {}, "last_used": None}
        asked = challenge("ak-stage-authenticator-validate", device_challenges=[uid])
        try:
            run.send(asked)
            posted += 1
        except StopIteration as stop:
            result = stop.value
            break
    assert posted == flow.MAX_ANSWERS == 20
    assert isinstance(result, Denied)
    assert result.reason == "too_many_steps"


def test_opening() -> None:
    """The first thing sent is the answer; the end counts as after a GET."""
    result, answers = play([redirect()], opening=True)
    assert body(answers[0]) == {"component": "ak-stage-identification", "uid_field": "alice", "password": "pw"}
    assert result == Ended(password_accepted=True, to="/", named=True)


@pytest.mark.parametrize(
    ("answered", "expected"),
    [
        (both(**errors("non_field_errors", "Failed to authenticate.")), Denied),
        (both(), Denied),
        (challenge("ak-stage-access-denied"), Denied),
        (password(**errors("password", "x")), Surprise),
        (challenge("ak-stage-prompt", **errors("field", "required")), Surprise),
        (challenge("ak-stage-flow-error"), Surprise),
    ],
)
def test_what_is_a_surprise(answered: Challenge, expected: type) -> None:
    """An opening that met another stage is begun anew with a GET; a refusal by the right stage is a refusal."""
    result, _ = play([answered], opening=True)
    assert type(result) is expected
    if expected is Surprise:  # later in a flow nothing is a surprise
        later, _ = play([name_only(), answered])
        assert not isinstance(later, Surprise | Ended)


ANY_CHALLENGE = st.sampled_from(
    [
        both(),
        name_only(),
        both(captcha_stage={"x": 1}),
        password(),
        second_factor("totp"),
        second_factor("duo"),
        second_factor("webauthn"),
        second_factor(),
        challenge("ak-stage-user-login"),
        challenge("ak-stage-access-denied", error_message="no"),
        challenge("ak-stage-flow-error"),
        challenge("ak-stage-consent", token="t"),
        challenge("unknown"),
        redirect(),
        redirect(PATH),
        redirect("https://elsewhere/"),
        both(**errors("non_field_errors", "Failed to authenticate.")),
        password(**errors("password", "Invalid password")),
        second_factor("totp", **errors("code", "Invalid Token.")),
        challenge("xak-flow-redirect", to="/", **errors("x", "y")),
    ]
)


@settings(max_examples=400, deadline=None)
@given(
    sequence=st.lists(ANY_CHALLENGE, max_size=30),
    given_password=st.sampled_from(["pw", "pw;123456", ";123456", "", "pw;static01"]),
    mfa_support=st.booleans(),
    opening=st.booleans(),
)
def test_no_sequence_fakes_a_login(
    sequence: list[Challenge], given_password: str, mfa_support: bool, opening: bool
) -> None:
    """The rule, told independently of the code.

    A proof counts only if its answer was asked for, was answered without complaint by something else, and the flow then
    ended in a redirect away from itself. No answer goes out twice, and no more than 20 do.
    """
    solver = Solver.of("alice", given_password, mfa_support=mfa_support)
    run = flow.run(solver, PATH, opening=opening)
    posted: list[tuple[str, dict[str, Any]]] = []
    proven: set[str] = set()
    last: tuple[str, dict[str, Any]] | None = None
    answer = next(run)
    result: Result | None = None
    shown: Challenge | None = None
    for item in sequence:
        if answer is not None:
            last = (answer.component, body(answer))
            if shown is not None:
                assert shown.component == answer.component, "answered what was asked"
                if isinstance(shown, challenges.Identification):
                    assert ("password" in last[1]) is bool(shown.password_fields)
            assert last not in posted
            posted.append(last)
        complaint = bool(item.response_errors)
        detour = isinstance(item, challenges.Redirect) and item.to == PATH
        if not detour and not complaint and last is not None and item.component != last[0]:
            for key in ("password", "code", "duo"):
                if last[1].get(key):
                    proven.add(key)
        if not detour:
            last = None
        shown = item
        try:
            answer = run.send(item)
        except StopIteration as stop:
            result = stop.value
            break
    assert len(posted) <= flow.MAX_ANSWERS
    if isinstance(result, Ended):
        assert isinstance(shown, challenges.Redirect)
        assert not shown.response_errors
        assert shown.to != PATH
        assert result.password_accepted is ("password" in proven)
        assert result.code_accepted is ("code" in proven)
        assert result.push_accepted is ("duo" in proven)
    elif result is not None:
        assert isinstance(result, Denied | Unavailable | Surprise)


STATES: dict[str, list[Challenge]] = {
    "before anything": [],
    "name given": [name_only()],
    "password given": [both()],
    "password given later": [name_only(), password()],
    "code given": [both(), second_factor("totp")],
    "stay answered": [both(), challenge("ak-stage-user-login")],
}
INPUTS: dict[str, Challenge] = {
    "identification": name_only(),
    "identification with password": both(),
    "password": password(),
    "second factor": second_factor("totp"),
    "user login": challenge("ak-stage-user-login"),
    "denied": challenge("ak-stage-access-denied"),
    "error": challenge("ak-stage-flow-error"),
    "redirect": redirect(),
    "unknown": challenge("x"),
    "refused name": name_only(**errors("uid_field", "x")),
    "refused password": password(**errors("password", "x")),
    "refused code": second_factor("totp", **errors("code", "x")),
}


def expected_of(state: str, given_input: str) -> str:
    """The table in words: "ended", "denied", "unavailable" or "goes on"."""
    if given_input in ("denied", "unknown") or given_input.startswith("refused"):
        return "denied"
    if given_input == "error":
        return "unavailable"
    if given_input == "redirect":
        return "ended"
    already = {
        "name given": {"identification"},
        "password given": {"identification with password"},
        "password given later": {"identification", "password"},
        "code given": {"identification with password", "second factor"},
        "stay answered": {"identification with password", "user login"},
    }
    return "denied" if given_input in already.get(state, set()) else "goes on"


@pytest.mark.parametrize("given_input", INPUTS)
@pytest.mark.parametrize("state", STATES)
def test_every_state_meets_every_input(state: str, given_input: str) -> None:
    """Each of them has one defined end or goes on."""
    result, _ = play([*STATES[state], INPUTS[given_input]])
    kinds = {Ended: "ended", Denied: "denied", Unavailable: "unavailable", type(None): "goes on"}
    assert kinds[type(result)] == expected_of(state, given_input)
    if isinstance(result, Ended):
        assert result.password_accepted is (state not in ("before anything", "name given"))
        assert result.code_accepted is (state == "code given")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"component": 5}',
        b'{"component": null}',
        b'{"component": "xak-flow-redirect", "to": 5}',
        b'{"component": "xak-flow-redirect", "response_errors": []}',
        b'{"component": "xak-flow-redirect", "response_errors": {"a": "b"}}',
        b'{"component": "ak-stage-identification", "password_fields": "yes"}',
        b'{"component": "x"',
        b"\xff\xfe",
        b"<html>",
        b"[" * 100_000,
    ],
)
def test_what_is_no_challenge(text: bytes) -> None:
    """One kind of error, which does not quote the body."""
    with pytest.raises(challenges.ChallengeError) as caught:
        challenges.decode(text)
    assert caught.value.__cause__ is None


@given(st.binary())
def test_decoding_any_bytes(data: bytes) -> None:
    """A challenge, or the one error."""
    try:
        challenges.decode(data)
    except challenges.ChallengeError:
        pass


def test_answers_show_nothing() -> None:
    """Neither answers nor solver print a secret."""
    shown = repr(
        (
            IdentificationAnswer(uid_field="alice", password="hunter2"),
            PasswordAnswer(password="hunter2"),
            CodeAnswer(code="123456"),
            Solver.of("alice", "hunter2;123456", mfa_support=True),
        )
    )
    assert "hunter2" not in shown
    assert "123456" not in shown


def test_empty_error_list_is_a_refusal_too() -> None:
    """A complaint without text is a complaint."""
    result, _ = play([both(), both(response_errors={"password": []})])
    assert isinstance(result, Denied)
    assert result.reason == "invalid_credentials"
