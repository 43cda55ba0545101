"""What every stage has in common: its options, the run that it belongs to, and the outcomes it may state.

A stage is made for one request. ``handle`` gets the HTTP method and, for a POST, the decoded JSON body, and returns one
of the outcomes below; the executor turns it into an answer (flows.md §3.3, §3.5). Nothing here says "logged in" or
"passed": a stage can only advance the plan, and the end of a flow is stated in the executor.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from core import durations, models
from core.avatars import DEFAULT_AVATAR, avatar
from core.errors import NON_FIELD, ValidationFailed

if TYPE_CHECKING:
    from core.flows.executor import Run


@dataclass(frozen=True)
class Advance:
    """The stage is done; the next one is current."""


@dataclass(frozen=True)
class Invalid:
    """The stage declares itself invalid; by the binding's action the flow restarts or access is denied."""

    message: str = ""


@dataclass(frozen=True)
class Redirect:
    """Leave for another address; the plan stays where it is."""

    to: str


@dataclass(frozen=True)
class Challenge:
    """Ask the client. ``data`` is the challenge without the envelope (component, flow_info, errors)."""

    component: str
    data: dict[str, Any]
    user_info: bool = False


@dataclass(frozen=True)
class Errors:
    """A submitted response is not accepted: field name → list of (text, code)."""

    fields: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    @classmethod
    def one(cls, text: str, *, name: str = NON_FIELD, code: str = "invalid") -> Errors:
        """One error on one field; object-level without ``name``."""
        return cls({name: [(text, code)]})


Outcome = Advance | Invalid | Redirect | Challenge | Errors


class Options(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of the typed options of a stage; names and defaults are the API's. Unknown names are an error."""


class Stage:
    """Base of all stages. ``model`` is the blueprint's model name; one class serves one stage type."""

    model: ClassVar[str]
    Options: ClassVar[type[Options]] = Options
    component: ClassVar[str] = ""  # name of the admin form
    verbose_name: ClassVar[str] = ""
    references: ClassVar[Mapping[str, str]] = {}  # option → model name that it names by primary key

    def __init__(self, run: Run, stage: models.Stage, binding: models.StageBinding | None) -> None:
        self.run = run
        self.stage = stage
        self.binding = binding
        self.options: Any = self.read_options(stage.options)

    @classmethod
    def read_options(cls, options: Mapping[str, Any]) -> Any:
        """The typed options of stored ones; also the check before a stage is saved.

        :raises ValidationFailed: a name is unknown, or a value is of the wrong type or not accepted.
        """
        try:
            typed = msgspec.convert(dict(options), cls.Options)
        except msgspec.ValidationError as error:
            raise ValidationFailed(str(error)) from None
        cls.check(typed)
        return typed

    @classmethod
    def check(cls, options: Any) -> None:
        """What types alone cannot say about the options.

        :raises ValidationFailed: a value is not accepted.
        """

    async def handle(self, method: str, data: Mapping[str, Any] | None) -> Outcome:
        """Do the stage's work for one request; stages without form work on GET and POST alike."""
        raise NotImplementedError


class ChallengeStage(Stage):
    """A stage that asks: GET builds a challenge, POST checks the response."""

    challenge_component: ClassVar[str]
    user_info: ClassVar[bool] = True

    async def prepare(self, method: str) -> Outcome | None:
        """Anything but ``None`` ends the request before a form is shown or a response is read."""
        return None

    async def challenge(self) -> dict[str, Any]:
        """The fields of the challenge; built anew for every answer."""
        return {}

    async def respond(self, data: Mapping[str, Any]) -> Outcome:
        """Check a submitted response and act on it."""
        raise NotImplementedError

    async def ask(self) -> Challenge:
        """The challenge as an outcome."""
        return Challenge(self.challenge_component, await self.challenge(), self.user_info)

    async def handle(self, method: str, data: Mapping[str, Any] | None) -> Outcome:
        """GET asks, POST answers."""
        early = await self.prepare(method)
        if early is not None:
            return early
        if method == "GET":
            return await self.ask()
        return await self.respond(data or {})


def text_of(data: Mapping[str, Any], name: str) -> str:
    """A text field of a response; anything that is not text counts as missing (``""``)."""
    value = data.get(name)
    return value if isinstance(value, str) else ""


def user_fields(identifier: object, user: models.User | None) -> dict[str, str]:
    """``pending_user`` and ``pending_user_avatar``; the typed identifier goes before the user."""
    if isinstance(identifier, str) and identifier:
        return {"pending_user": identifier, "pending_user_avatar": avatar(identifier, identifier)}
    if user is None or (user.is_anonymous and not user.is_active):
        return {"pending_user": "", "pending_user_avatar": DEFAULT_AVATAR}
    return {"pending_user": user.username, "pending_user_avatar": avatar(user.username, user.name)}


def check_known(name: str, values: list[str], known: Collection[str]) -> None:
    """Refuse values of an option that are not in ``known``.

    :raises ValidationFailed: there is one.
    """
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValidationFailed({name: [f"unknown: {', '.join(unknown)}; known: {', '.join(known)}"]})


def check_duration(name: str, text: str) -> None:
    """Refuse a duration that cannot be read.

    :raises ValidationFailed: it cannot.
    """
    try:
        durations.seconds(text)
    except ValueError as error:
        raise ValidationFailed({name: [str(error)]}) from None
