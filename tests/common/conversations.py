"""Logins with a person at the other end, against a scripted core: challenges, and the person's side."""

from __future__ import annotations

from typing import Any

from common.login import Credentials, LoginService, LoginTarget, Outcome, Paused
from tests.common.scripted_core import BOTH, REDIRECT, Core, Step, answer, moved, session
from tests.common.test_recorded_flows import Settings

PLAIN = LoginTarget("radius", 7, "f", "app", mfa_support=True)
PASSWORD = {"component": "ak-stage-password"}
REFUSED = {"response_errors": {"code": [{"string": "Invalid Token.", "code": "invalid"}]}}
EMPTY = {"response_errors": {"non_field_errors": [{"string": "Empty response", "code": "invalid"}]}}
WRONG_PASSWORD = {"response_errors": {"password": [{"string": "Invalid password", "code": "invalid"}]}}
MASKED = "a*****@example.test"


def device(kind: str, uid: str = "1", **challenge: Any) -> dict[str, Any]:
    """One device of a validation challenge."""
    return {"device_class": kind, "device_uid": uid, "challenge": challenge, "last_used": None}


TOTP, STATIC, SMS, DUO = device("totp"), device("static", "2"), device("sms", "3"), device("duo", "7")
EMAIL = device("email", "4", email=MASKED)
WEBAUTHN = device("webauthn", "5", rpId="h")


def factor(*devices: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A second factor is due."""
    return {"component": "ak-stage-authenticator-validate", "device_challenges": list(devices), **more}


def prompt(*fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A page of fields."""
    return {"component": "ak-stage-prompt", "fields": list(fields), **more}


def field(key: str, type_: str = "text", label: str = "", order: int = 0, **more: Any) -> dict[str, Any]:
    """A field of such a page."""
    return {"field_key": key, "type": type_, "label": label, "required": True, "initial_value": "", "placeholder": "",
            "order": order, "sub_text": "", "choices": None, **more}  # fmt: skip


FIRST: tuple[Step, ...] = (answer(BOTH, 200, session("s0", False)), moved())
DONE: Step = answer(REDIRECT, 200, session("s1"))


class Clock:
    """Unix time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def service_for(core: Core, clock: Clock | None = None, token: str = "outpost-token") -> LoginService:
    """A login service in front of a core."""
    return LoginService(core, Settings(token), now=clock or Clock())


async def begin(
    core: Core,
    password: str = "hunter2",
    target: LoginTarget = PLAIN,
    *,
    service: LoginService | None = None,
    sealable: bool = False,
) -> Outcome | Paused:
    """Begin an interactive login."""
    who = Credentials("alice", password, "192.0.2.55")
    return await (service or service_for(core)).begin(target, who, interactive=True, sealable=sealable)


def paused(outcome: Outcome | Paused, text: str | None = None) -> Paused:
    """The outcome as a pause, at this question."""
    assert isinstance(outcome, Paused), outcome
    if text is not None:
        assert outcome.question.text == text
    return outcome
