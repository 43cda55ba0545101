"""The plan of a running flow: which stages are left, and the context they and policies share (flows.md §2.1, §4).

A plan lives in the browser's session as JSON. Stored objects are written as references and read again when the plan is
read, so a user who was deactivated between two requests is seen as deactivated:

- ``{"$ref": ["user", 5], "backend": "…"}``  a stored object; ``backend`` only on users that a password backend accepted
- ``{"$user": {"username": …}}``             a user that is not stored (the "pretend" user of an unknown name)
- ``{"$token": [pk, user, flow]}``        the link through which a flow was resumed; it may be used up by now
- ``{"$invitation": {…}}``                an invitation, which its use may have deleted
- ``{"$time": seconds}``                     a ``datetime`` (UTC)
- ``{"$dict": {…}}``                         a dictionary that has keys starting with ``$``

A value of any other kind cannot be kept: :class:`PlanError`, which ends the request as a flow error.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from core import models

REFERABLE: dict[str, type[models.Model]] = {
    "user": models.User,
    "group": models.Group,
    "role": models.Role,
    "token": models.Token,
    "flow": models.Flow,
    "stage": models.Stage,
    "application": models.Application,
    "provider": models.Provider,
    "outpost": models.Outpost,
    "brand": models.Brand,
    "totpdevice": models.TOTPDevice,
    "staticdevice": models.StaticDevice,
    "emaildevice": models.EmailDevice,
    "smsdevice": models.SMSDevice,
    "duodevice": models.DuoDevice,
    "consent": models.Consent,
}
_KINDS = {model: kind for kind, model in REFERABLE.items()}

# Fields of a user that is not stored yet; a password hash never goes into a session.
UNSAVED_USER_FIELDS = ("username", "name", "email", "is_active", "type", "path", "attributes")

INVITATION_FIELDS = ("pk", "name", "single_use", "flow", "fixed_data", "created_by")

MAX_DEPTH = 32  # levels of nesting in a context; deeper is a mistake or an attack, not data

Resolve = Callable[[type[models.Model], Any], models.Model | None]


class PlanError(Exception):
    """A plan cannot be written or read."""


@dataclass
class PlannedStage:
    """One place in a plan: a stored binding, or an in-memory stage that code put there.

    ``re_evaluate`` is the marker: run the binding's policies each time the stage becomes current. ``options`` are those
    of an in-memory stage; for stored ones they are read with the stage.
    """

    binding: str = ""
    stage: str = ""
    type: str = ""
    re_evaluate: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def in_memory(self) -> bool:
        """Whether the stage was made by code and is stored nowhere."""
        return not self.binding


REDIRECT_STAGE = "goauthentik.io/flows/redirect"  # in-memory stage type that answers one redirect


@dataclass
class Plan:
    """Stages that are left, current one first, and the context. Changed in place."""

    flow_pk: str
    stages: list[PlannedStage] = field(default_factory=list)
    context: dict[str, Any] = field(default_factory=dict)

    def append(self, stage: PlannedStage) -> None:
        """Put a stage at the end."""
        self.stages.append(stage)

    def insert_stage(self, stage: PlannedStage, index: int = 1) -> None:
        """Put a stage at ``index``; 1 is right after the current one."""
        self.stages.insert(index, stage)

    def redirect(self, url: str) -> None:
        """Let the next stage be a redirect to ``url``; policies call this."""
        self.insert_stage(PlannedStage(type=REDIRECT_STAGE, options={"to": str(url)}))

    def pop(self) -> None:
        """Drop the current stage."""
        del self.stages[:1]

    def to_data(self) -> dict[str, Any]:
        """The plan as JSON data.

        :raises PlanError: the context holds something that cannot be kept.
        """
        return {
            "flow": self.flow_pk,
            "stages": [
                [planned.binding, planned.stage, planned.type, planned.re_evaluate, _encode(planned.options, 0)]
                for planned in self.stages
            ],
            "context": _encode(self.context, 0),
        }

    @classmethod
    def from_data(cls, data: object, resolve: Resolve) -> Plan:
        """The plan behind JSON data; ``resolve(class, pk)`` reads a stored object.

        :raises PlanError: not a plan, or one of its objects is gone.
        """
        try:
            if not isinstance(data, dict):
                raise TypeError("not an object")
            stages = [
                PlannedStage(
                    binding=str(binding),
                    stage=str(stage),
                    type=str(type_),
                    re_evaluate=re_evaluate is True,
                    options=_decode(options, resolve),
                )
                for binding, stage, type_, re_evaluate, options in data["stages"]
            ]
            context = _decode(data["context"], resolve)
            if not isinstance(context, dict):
                raise TypeError("context is not an object")
            return cls(flow_pk=str(data["flow"]), stages=stages, context=context)
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(f"not a plan: {type(error).__name__}") from None


def _encode(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise PlanError("the flow context is nested too deeply")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, models.Model):
        return _encode_model(value, depth)
    if isinstance(value, dict):
        items = {str(key): _encode(item, depth + 1) for key, item in value.items()}
        return {"$dict": items} if any(key.startswith("$") for key in items) else items
    if isinstance(value, list | tuple | set | frozenset | models.Related):
        return [_encode(item, depth + 1) for item in value]
    if isinstance(value, datetime.datetime):
        return {"$time": value.timestamp()}
    raise PlanError(f"a {type(value).__name__} cannot be kept in a flow context")


def _encode_model(value: models.Model, depth: int) -> dict[str, Any]:
    if isinstance(value, models.FlowToken):
        return {"$token": [value.pk, value.user, value.flow]}
    if isinstance(value, models.Invitation):
        return {"$invitation": {name: _encode(getattr(value, name), depth + 1) for name in INVITATION_FIELDS}}
    kind = _KINDS.get(type(value))
    if kind is None:
        raise PlanError(f"a {type(value).__name__} cannot be kept in a flow context")
    if value.stored:
        data: dict[str, Any] = {"$ref": [kind, value.pk]}
    elif isinstance(value, models.User):
        data = {"$user": {name: _encode(getattr(value, name), depth + 1) for name in UNSAVED_USER_FIELDS}}
    else:
        raise PlanError(f"a {kind} without primary key cannot be kept in a flow context")
    backend = getattr(value, "backend", None)
    if backend is not None:
        data["backend"] = str(backend)
    return data


def _decode(value: Any, resolve: Resolve) -> Any:
    if isinstance(value, list):
        return [_decode(item, resolve) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        kind, pk = value["$ref"]
        found = resolve(REFERABLE[kind], pk)
        if found is None:
            raise PlanError(f"a {kind} of the plan is gone")
        return _with_backend(found, value)
    if "$user" in value:
        fields = {name: _decode(item, resolve) for name, item in value["$user"].items()}
        return _with_backend(models.User(**fields), value)
    if "$token" in value:
        pk, user, flow = value["$token"]
        return models.FlowToken(pk=str(pk), user=user, flow=str(flow), plan="")
    if "$invitation" in value:
        return models.Invitation(**{name: _decode(item, resolve) for name, item in value["$invitation"].items()})
    if "$time" in value:
        return datetime.datetime.fromtimestamp(value["$time"], datetime.UTC)
    if "$dict" in value:
        return {key: _decode(item, resolve) for key, item in value["$dict"].items()}
    return {key: _decode(item, resolve) for key, item in value.items()}


def _with_backend(found: models.Model, data: dict[str, Any]) -> models.Model:
    if "backend" in data:
        found.backend = str(data["backend"])  # type: ignore[attr-defined]  # exists only once a backend accepted
    return found
