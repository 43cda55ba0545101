"""Flow challenges and answers: what the flow executor asks and what may be answered (core-contract §6.3, §6.4).

Decoding is tolerant: a component that is not in ``COMPONENTS`` becomes ``Unsupported``, unknown fields are ignored.
What decides over success is strict: a body without ``component``, or with misshapen ``response_errors``, is an error.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType


class ChallengeError(ValueError):
    """The body is no challenge."""


class FieldError(msgspec.Struct, frozen=True):
    """One complaint of the core about one field of an answer."""

    string: str = ""
    code: str = ""


class Challenge(msgspec.Struct, frozen=True, kw_only=True):
    """What every challenge has. ``response_errors`` is non-empty if the last answer was refused."""

    component: str
    response_errors: dict[str, list[FieldError]] | None = None

    @property
    def refusal(self) -> str | None:
        """The first complaint as ``field: text``; None if the last answer was not refused."""
        if not self.response_errors:
            return None
        for name, complaints in self.response_errors.items():
            for complaint in complaints:
                return f"{name}: {complaint.string}"
        return f"{next(iter(self.response_errors))}: refused"


class Identification(Challenge, frozen=True, kw_only=True):
    """Who are you? ``password_fields``: the password belongs into the same answer."""

    password_fields: bool | None = False
    captcha_stage: Any = None


class Password(Challenge, frozen=True, kw_only=True):
    """The password."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A class of second factors that the user has. The core wants all four keys back."""

    device_class: str
    device_uid: str | int
    challenge: Any = None
    last_used: Any = None


class AuthenticatorValidate(Challenge, frozen=True, kw_only=True):
    """A second factor."""

    device_challenges: list[Device] | None = None


class UserLogin(Challenge, frozen=True, kw_only=True):
    """Stay signed in?"""


class AccessDenied(Challenge, frozen=True, kw_only=True):
    """The end: refused."""

    error_message: str | None = None


class Redirect(Challenge, frozen=True, kw_only=True):
    """The flow's end, or a detour. By itself it proves nothing."""

    to: str | None = None


class FlowError(Challenge, frozen=True, kw_only=True):
    """An exception inside the core."""

    request_id: str | None = None


class Consent(Challenge, frozen=True, kw_only=True):
    """May the application have what it asks for? ``token`` belongs into the answer."""

    token: Any = None


class PromptField(msgspec.Struct, frozen=True):
    """A field of a prompt stage. What is only shown to people may be of any type: it must not stop a login."""

    field_key: str = ""
    type: str = ""
    label: Any = ""
    required: Any = True
    initial_value: Any = ""
    order: Any = 0
    choices: Any = None


class Prompt(Challenge, frozen=True, kw_only=True):
    """Questions to a person in a browser."""

    fields: list[PromptField] | None = None

    @property
    def wants_new_password(self) -> bool:
        """Whether the answer would set a password: the core stores what the password field ``password`` gets."""
        return any(field.field_key == "password" and field.type == "password" for field in self.fields or ())


class Unsupported(Challenge, frozen=True, kw_only=True):
    """A stage that needs a browser, or one that is not known."""


COMPONENTS: dict[str, type[Challenge]] = {
    "ak-stage-identification": Identification,
    "ak-stage-password": Password,
    "ak-stage-authenticator-validate": AuthenticatorValidate,
    "ak-stage-user-login": UserLogin,
    "ak-stage-consent": Consent,
    "ak-stage-prompt": Prompt,
    "ak-stage-access-denied": AccessDenied,
    "ak-stage-flow-error": FlowError,
    "xak-flow-redirect": Redirect,
}

_DECODERS = {component: msgspec.json.Decoder(kind) for component, kind in COMPONENTS.items()}
_HEAD = msgspec.json.Decoder(Unsupported)


def decode(body: bytes) -> Challenge:
    """A challenge from an executor's JSON body; ``ChallengeError`` (without a cause) if it is none."""
    try:
        head = _HEAD.decode(body)
        decoder = _DECODERS.get(head.component)
        return decoder.decode(body) if decoder is not None else head
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # The library's message may quote the body.
        raise ChallengeError("not a flow challenge") from None


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """An answer. Its ``repr`` shows the component only: the rest is secret."""

    component: str

    def __repr__(self) -> str:
        """Never the fields."""
        return f"{type(self).__name__}({self.component!r})"


class IdentificationAnswer(Answer, frozen=True, kw_only=True):
    """``password`` only if the challenge asked for it."""

    component: str = "ak-stage-identification"
    uid_field: str
    password: str | UnsetType = UNSET
    __repr__ = Answer.__repr__


class PasswordAnswer(Answer, frozen=True, kw_only=True):
    """The password, exactly as it came."""

    component: str = "ak-stage-password"
    password: str
    __repr__ = Answer.__repr__


class CodeAnswer(Answer, frozen=True, kw_only=True):
    """A code alone: the core tries it against all the user's code devices; a selection would send a new one."""

    component: str = "ak-stage-authenticator-validate"
    code: str
    __repr__ = Answer.__repr__


class PushAnswer(Answer, frozen=True, kw_only=True):
    """Ask for a push; the core answers when the user has."""

    component: str = "ak-stage-authenticator-validate"
    selected_challenge: Device
    duo: int
    __repr__ = Answer.__repr__


class DeliveryAnswer(Answer, frozen=True, kw_only=True):
    """Ask for a code to be sent by SMS or e-mail. The core sends it and calls the answer empty: that is no refusal."""

    component: str = "ak-stage-authenticator-validate"
    selected_challenge: Device
    __repr__ = Answer.__repr__


class ConsentAnswer(Answer, frozen=True, kw_only=True):
    """Agreed: the challenge's own token."""

    component: str = "ak-stage-consent"
    token: str
    __repr__ = Answer.__repr__


class PromptAnswer(Answer, frozen=True, kw_only=True):
    """What was typed into a prompt stage's fields, by field key."""

    component: str = "ak-stage-prompt"
    values: dict[str, Any]
    __repr__ = Answer.__repr__


class UserLoginAnswer(Answer, frozen=True, kw_only=True):
    """Whether the core is to keep the session for longer."""

    component: str = "ak-stage-user-login"
    remember_me: bool
    __repr__ = Answer.__repr__


_encoder = msgspec.json.Encoder()


def encode(answer: Answer) -> bytes:
    """JSON body of an answer."""
    if isinstance(answer, PromptAnswer):
        return _encoder.encode({**answer.values, "component": answer.component})
    return _encoder.encode(answer)


def encode_challenge(challenge: Challenge) -> bytes:
    """A challenge as ``decode`` reads it, to be put away; fields that we do not know are not in it."""
    return _encoder.encode(challenge)
