"""What to ask a person when a flow wants more than the client brought, and what the typed text means.

Rules only, no input or output: ``flow.py`` asks ``Person`` about each challenge, ``login.py`` carries the question to
the person and the text back. One row for each kind of challenge::

    challenge                                question                           answer to the core
    name or password stage, no password      Password:                          the password
    second factor: TOTP or static codes      Code:                              code
    … only SMS or e-mail                     (has it sent) Code sent to …:      code, nothing selected
    … only Duo                               Confirm push, then press Enter     push
    … several of these                       Code, or 1=SMS 2=E-mail 3=Push     as chosen; 6 or 8 digits are a code
    … nothing that can be typed              –                                  none: mfa_unsupported
    prompt stage                             each field by its label, in order  all fields at once
    the same again with a complaint          Wrong code, try again:             as above, three tries in all

``Person`` is plain data, so that a paused login can be put away and taken up by another process.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from common.challenges import (
    Answer,
    AuthenticatorValidate,
    Challenge,
    CodeAnswer,
    DeliveryAnswer,
    Device,
    Identification,
    Password,
    Prompt,
    PromptAnswer,
    PromptField,
    PushAnswer,
)
from common.outcomes import Denied, QuestionKind, Reason

MAX_TRIES = 3  # answers to one challenge; the core itself ends a session's fifth wrong password
MAX_TEXT = 200  # characters of a question: fits one Reply-Message (253 octets) if not all of it is outside ASCII
MAX_NUMBER = 2**53  # of a number field; JSON numbers are exact up to here everywhere (RFC 8259 §6)
MAX_OPTIONS = 9  # choices that one digit can name
CODE_LENGTHS = frozenset({6, 8})  # of a TOTP code; digits of such a length are never a choice

PASSWORD_TEXT = "Password:"  # noqa: S105 - what a person reads
WRONG_PASSWORD_TEXT = "Wrong password, try again:"  # noqa: S105
CODE_TEXT = "Code:"
WRONG_CODE_TEXT = "Wrong code, try again:"
PUSH_SENT_TEXT = "Confirm push, then press Enter"
PUSH_TEXT = "Press Enter, then confirm push"

TYPED_CLASSES = frozenset({"totp", "static"})  # the person reads the code somewhere: nothing has to be sent
WAYS = {"sms": "SMS", "email": "E-mail", "duo": "Push"}  # in the order in which they are offered
TEXT_FIELDS = frozenset({"text", "text_area", "username", "email", "password", "date", "date-time", "ak-locale"})
CHOICE_FIELDS = frozenset({"radio-button-group", "dropdown"})
SHOWN_FIELDS = frozenset({"text_read_only", "text_area_read_only", "hidden", "static", "separator"})  # not typed
YES = frozenset({"y", "yes", "1", "true", "on"})
NO = frozenset({"", "n", "no", "0", "false", "off"})


@dataclass(frozen=True)
class Ask:
    """A question to the person. ``push``: what to send meanwhile, before the person answers."""

    text: str
    echo: bool
    kind: QuestionKind
    options: tuple[str, ...] = ()
    push: PushAnswer | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Typed:
    """The person typed a password: what it is good for is the solver's business."""

    password: str = field(repr=False)


Move = Ask | Answer | Denied  # what can follow a challenge


class Person(msgspec.Struct, kw_only=True):
    """How far the dialogue has come. ``push_on_answer``: a push waits until the person has answered the question."""

    push_on_answer: bool = False
    wrong: int = 0  # answers to the present challenge that were no good
    delivered: str | None = None  # where a code was sent to ("" = unknown place); None: none was sent
    confirming: Device | None = None  # the device whose push the person was told to confirm
    position: int = 0  # the prompt field that is asked for
    values: dict[str, Any] = {}  # the prompt fields that are done

    def settled(self) -> None:
        """The core took the last answer: what follows is another challenge."""
        self.wrong, self.delivered, self.confirming, self.position, self.values = 0, None, None, 0, {}

    def consider(self, challenge: Challenge, *, password: bool, code: bool) -> Move | None:
        """What to do about a challenge that is no complaint; None: nothing that needs a person.

        ``password`` and ``code``: whether the client brought them.
        """
        if isinstance(challenge, Identification):
            asks = challenge.password_fields and challenge.captcha_stage is None and not password
            return _password(again=False) if asks else None
        if isinstance(challenge, Password):
            return None if password else _password(again=False)
        if isinstance(challenge, AuthenticatorValidate):
            usable = any(device.device_class in TYPED_CLASSES | {"sms", "email"} for device in devices_of(challenge))
            return None if code and usable else self._second_factor(challenge, again=False)
        if isinstance(challenge, Prompt):
            self.position, self.values = 0, {}
            return self._field(challenge, "")
        return None

    def refused(self, challenge: Challenge, last: Answer | None, *, typed: bool) -> Move | None:
        """What to do about a complaint of the core; None: the login is over.

        ``typed``: ``last`` is what the person typed. What the client brought by itself gets no second try.
        """
        if last is None or last.component != challenge.component:
            return None
        if isinstance(last, DeliveryAnswer) and isinstance(challenge, AuthenticatorValidate):
            if set(challenge.response_errors or ()) <= {"non_field_errors"}:
                return self._second_factor(challenge, again=False)
            return None
        if not typed or isinstance(last, PushAnswer | DeliveryAnswer):
            return None
        return self.mistaken(challenge)

    def mistaken(self, challenge: Challenge) -> Move:
        """The person's answer was no good: ask once more, or give up."""
        self.wrong += 1
        if self.wrong >= MAX_TRIES:
            return Denied(
                Reason.INVALID_CREDENTIALS, challenge.refusal or "no answer that can be used", challenge.component
            )
        if isinstance(challenge, AuthenticatorValidate):
            return self._second_factor(challenge, again=True)
        if isinstance(challenge, Prompt):
            remark = "Not accepted"
            if self.position >= len(fields_of(challenge)):  # all fields together were no good: from the first again
                self.position, self.values = 0, {}
                remark = _complaint(challenge) or remark
            return self._field(challenge, f"{remark}, try again: ")
        return _password(again=True)

    def reply(self, challenge: Challenge, text: str) -> Move | Typed:
        """What the text means that the person typed after the question about this challenge."""
        if isinstance(challenge, AuthenticatorValidate):
            return self._factor_reply(challenge, text)
        if isinstance(challenge, Prompt):
            return self._field_reply(challenge, text)
        return Typed(text) if text else self.mistaken(challenge)

    # -- second factors -------------------------------------------------------------------------------------------

    def _second_factor(self, challenge: AuthenticatorValidate, *, again: bool) -> Move:
        """The question about a second factor, or what can be done without one."""
        if self.delivered is not None:
            sent = f"Code sent to {self.delivered}:" if self.delivered else "Code sent:"
            return _code(WRONG_CODE_TEXT if again else sent)
        typed = any(device.device_class in TYPED_CLASSES for device in devices_of(challenge))
        ways = ways_of(challenge)
        if not ways:
            if typed:
                return _code(WRONG_CODE_TEXT if again else CODE_TEXT)
            reason = Reason.MFA_UNSUPPORTED if devices_of(challenge) else Reason.NO_AUTHENTICATOR
            return Denied(reason, "no second factor that can be typed or confirmed", challenge.component)
        if len(ways) == 1 and not typed and not again:
            return self._take(ways[0])
        names = tuple(_names(ways))
        listed = " ".join(f"{number}={name}" for number, name in enumerate(names, 1))
        if typed:
            text = f"{'Wrong code, try again' if again else 'Code'}, or {listed}"
        else:
            text = f"Try again: {listed}" if again else listed
        return Ask(tidy(text), True, QuestionKind.CHOICE, names)

    def _take(self, device: Device) -> Move:
        """Use a device that is not a matter of typing alone."""
        if device.device_class != "duo":
            self.delivered = masked_address(device)
            return DeliveryAnswer(selected_challenge=device)
        self.confirming = device
        if self.push_on_answer:
            return Ask(PUSH_TEXT, True, QuestionKind.PUSH)
        return Ask(PUSH_SENT_TEXT, True, QuestionKind.PUSH, push=push_answer(device))

    def _factor_reply(self, challenge: AuthenticatorValidate, text: str) -> Move:
        if self.confirming is not None:
            return push_answer(self.confirming)
        code = "".join(text.split())  # people type codes in groups
        is_code = len(code) in CODE_LENGTHS and code.isascii() and code.isdigit()
        ways = ways_of(challenge) if self.delivered is None else []
        if ways and not is_code:
            if code.isascii() and code.isdigit() and 1 <= int(code) <= len(ways):
                return self._take(ways[int(code) - 1])
            typed = any(device.device_class in TYPED_CLASSES for device in devices_of(challenge))
            if not typed or len(code) < min(CODE_LENGTHS):
                return self.mistaken(challenge)
        return CodeAnswer(code=code) if code else self.mistaken(challenge)

    # -- prompts --------------------------------------------------------------------------------------------------

    def _field(self, challenge: Prompt, remark: str) -> Move:
        """The question about the next field, or the answer if all are done."""
        fields = fields_of(challenge)
        while self.position < len(fields):
            wanted = fields[self.position]
            if wanted.type in SHOWN_FIELDS:
                if wanted.type != "separator":
                    self.values[wanted.field_key] = _initial(wanted)
                self.position += 1
                continue
            options = tuple(name for _, name in choices_of(wanted)) if wanted.type in CHOICE_FIELDS else ()
            known = wanted.type in TEXT_FIELDS or wanted.type in ("number", "checkbox") or options
            if not known or len(options) > MAX_OPTIONS:
                return Denied(
                    Reason.UNSUPPORTED_CHALLENGE,
                    f"unsupported prompt field type {wanted.type}",
                    challenge.component,
                )
            text = tidy(remark + _label(wanted, options))
            return Ask(text, wanted.type != "password", QuestionKind.FIELD, options)
        return PromptAnswer(values=dict(self.values))

    def _field_reply(self, challenge: Prompt, text: str) -> Move:
        fields = fields_of(challenge)
        if self.position >= len(fields):
            return self.mistaken(challenge)
        wanted = fields[self.position]
        try:
            self.values[wanted.field_key] = _value(wanted, text)
        except ValueError:
            return self.mistaken(challenge)
        self.position += 1
        return self._field(challenge, "")


def _password(*, again: bool) -> Ask:
    return Ask(WRONG_PASSWORD_TEXT if again else PASSWORD_TEXT, False, QuestionKind.PASSWORD)


def _code(text: str) -> Ask:
    return Ask(tidy(text), True, QuestionKind.CODE)


def devices_of(challenge: AuthenticatorValidate) -> list[Device]:
    """The second factors that a challenge offers."""
    return challenge.device_challenges or []


def ways_of(challenge: AuthenticatorValidate) -> list[Device]:
    """The devices to which something has to be sent, in the order of ``WAYS``."""
    found = [
        device
        for device_class in WAYS
        for device in devices_of(challenge)
        if device.device_class == device_class and (device_class != "duo" or can_push(device))
    ]
    return found[:MAX_OPTIONS]


def _names(ways: list[Device]) -> Iterable[str]:
    """What to call each device: its kind, and its address where a kind occurs twice."""
    kinds = [device.device_class for device in ways]
    for device in ways:
        address = masked_address(device)
        twice = kinds.count(device.device_class) > 1 and address
        yield f"{WAYS[device.device_class]} {address}" if twice else WAYS[device.device_class]


def can_push(device: Device) -> bool:
    """Whether a device is one that a push can be sent to."""
    uid = str(device.device_uid)
    return device.device_class == "duo" and uid.isascii() and uid.isdigit()


def push_answer(device: Device) -> PushAnswer:
    """The answer that makes the core send a push; it answers when the user has."""
    return PushAnswer(selected_challenge=device, duo=int(device.device_uid))


def masked_address(device: Device) -> str:
    """Where a device's code goes, as far as the core shows it; "" if it does not."""
    shown = device.challenge if isinstance(device.challenge, dict) else {}
    for key in ("email", "phone_number"):
        if isinstance(shown.get(key), str) and shown[key]:
            return tidy(shown[key])
    return ""


def fields_of(challenge: Prompt) -> list[PromptField]:
    """The fields of a prompt in the order in which they stand on the page."""

    def place(item: PromptField) -> float:
        order = item.order
        return float(order) if isinstance(order, int | float) and not isinstance(order, bool) else 0.0

    return sorted(challenge.fields or [], key=place)


def choices_of(wanted: PromptField) -> list[tuple[Any, str]]:
    """Value and name of each choice of a field."""
    found = []
    for item in wanted.choices if isinstance(wanted.choices, list) else []:
        if isinstance(item, dict):
            value = item.get("value")
            found.append((value, tidy(str(item.get("label") or value))))
        else:
            found.append((item, tidy(str(item))))
    return found


def _initial(wanted: PromptField) -> Any:
    return "" if wanted.initial_value is None else wanted.initial_value


def _label(wanted: PromptField, options: tuple[str, ...]) -> str:
    text = (wanted.label if isinstance(wanted.label, str) else "").strip() or wanted.field_key or "Answer"
    if options:
        return f"{text} " + " ".join(f"{number}={name}" for number, name in enumerate(options, 1))
    if wanted.type == "checkbox":
        return f"{text} (y/n)"
    return text if text[-1] in ":?!." else f"{text}:"


def _value(wanted: PromptField, text: str) -> Any:
    """The typed text as the field's value; ValueError if it cannot be."""
    plain = text.strip()
    if wanted.type == "checkbox":
        if plain.lower() not in YES | NO:
            raise ValueError("neither yes nor no")
        return plain.lower() in YES
    if (text if wanted.type == "password" else plain) == "":
        if wanted.required is True and _initial(wanted) in ("", None):
            raise ValueError("nothing typed")
        return _initial(wanted)
    if wanted.type == "number":
        number = int(plain)
        if abs(number) > MAX_NUMBER:
            raise ValueError("too large")
        return number
    if wanted.type in CHOICE_FIELDS:
        choices = choices_of(wanted)
        if plain.isascii() and plain.isdigit() and 1 <= int(plain) <= len(choices):
            return choices[int(plain) - 1][0]
        for value, name in choices:
            if plain.lower() in (str(value).lower(), name.lower()):
                return value
        raise ValueError("not a choice")
    return text


def _complaint(challenge: Challenge) -> str:
    """The core's first complaint without the field's name."""
    return (challenge.refusal or "").partition(": ")[2].rstrip(" .:")


def tidy(text: str) -> str:
    """One line without control characters, not longer than ``MAX_TEXT``."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain if len(plain) <= MAX_TEXT else plain[: MAX_TEXT - 1] + "…"
