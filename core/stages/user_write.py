"""User write stage: a new or changed user from what was prompted for (flows.md §5.5).

Only what a person may say of himself is written: user name, name, address, password and attributes. Whether a user is
active, of which type and in which path is decided by the stage's options and the context, never by a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from core import models
from core.errors import ValidationFailed
from core.passwords import MAX_PASSWORD_BYTES
from core.policies.unique_password import remember_password
from core.stages.base import Advance, Invalid, Options, Outcome, Stage
from core.stages.password import INBUILT

FIELDS = ("username", "name", "email")
NOTHING = "No Pending data."
NOT_CREATED = "Unable to create user."
NOT_SAVED = "Failed to update user. Please try again later."


class UserWriteOptions(Options, kw_only=True):
    """``create_users_group`` is a group's primary key."""

    user_creation_mode: Literal["never_create", "create_when_required", "always_create"] = "create_when_required"
    create_users_as_inactive: bool = False
    create_users_group: str | None = None
    user_type: Literal["internal", "external", "service_account", "internal_service_account"] = "external"
    user_path_template: str = ""


class UserWriteStage(Stage):
    """Writes ``prompt_data`` into the pending user, or makes one."""

    model = "authentik_stages_user_write.userwritestage"
    Options = UserWriteOptions
    component = "ak-stage-user-write-form"
    verbose_name = "User Write Stage"
    references: ClassVar[Mapping[str, str]] = {"create_users_group": "authentik_core.group"}

    async def handle(self, method: str, data: Mapping[str, Any] | None) -> Outcome:
        """Works on GET and POST alike."""
        context, services = self.run.plan.context, self.run.services
        prompted = context.get("prompt_data")
        if not isinstance(prompted, dict) or not prompted:
            return Invalid(NOTHING)
        user = self._target()
        if user is None:
            return Invalid(NOT_CREATED)
        created = not user.stored
        old_hash = user.password_hash
        password = prompted.get("password")
        if isinstance(password, str) and password:
            if len(password.encode("utf-8", "surrogatepass")) > MAX_PASSWORD_BYTES:
                return Invalid(NOT_SAVED)
            user.password_hash = await services.passwords.hash(password)
            user.password_change_date = services.now()
        _write(user, prompted)
        if not user.username:
            return Invalid("Username is required")
        user.group_pks = list(dict.fromkeys([*user.group_pks, *self._groups()]))
        backend = getattr(user, "backend", None)
        try:
            with services.database.transaction():
                services.database.save(user)
                if old_hash and user.password_hash != old_hash:
                    remember_password(services.database, user, old_hash)
        except ValidationFailed:
            return Invalid(NOT_SAVED)
        if backend is not None:
            user.backend = backend  # type: ignore[attr-defined]  # exists only once a backend accepted
        services.event("user_write", self.run.request, created=created, username=user.username)
        context["pending_user"] = user
        if self.run.request.user == user:
            self.run.request.user = user
        return Advance()

    def _target(self) -> models.User | None:
        """Who is written: freshly read if stored, new if the mode allows it."""
        context, options, database = self.run.plan.context, self.options, self.run.services.database
        pending = self.run.pending_user
        if options.user_creation_mode != "always_create" and pending is not None and pending.stored:
            fresh = database.first(models.User, pk=pending.pk)
            if fresh is not None and hasattr(pending, "backend"):
                fresh.backend = pending.backend  # type: ignore[attr-defined]
            return fresh
        if options.user_creation_mode == "never_create":
            return None
        kind = context.get("user_type")
        kind = kind if kind in models.USER_TYPES else options.user_type
        if kind == models.INTERNAL_SERVICE_ACCOUNT:
            kind = models.SERVICE_ACCOUNT
        path = context.get("user_path")
        user = models.User(
            username="",
            is_active=not options.create_users_as_inactive,
            type=kind,
            path=path if isinstance(path, str) and path else options.user_path_template or "users",
        )
        context["user_backend"] = INBUILT
        return user

    def _groups(self) -> list[str]:
        wanted = [self.options.create_users_group] if self.options.create_users_group else []
        more = self.run.plan.context.get("groups")
        if isinstance(more, list | tuple):
            wanted += [group.pk for group in more if isinstance(group, models.Group) and group.stored]
        return wanted


def _write(user: models.User, prompted: Mapping[str, Any]) -> None:
    """Fields and attributes; unknown keys are dropped."""
    for key, value in prompted.items():
        if key in FIELDS:
            setattr(user, key, str(value) if value is not None else "")
        elif key == "attributes":
            if isinstance(value, Mapping):
                user.attributes.update(value)
        elif key.startswith(("attributes.", "attributes_")):
            place = user.attributes
            *path, last = key[len("attributes.") :].split(".")
            for name in path:
                inner = place.get(name)
                if not isinstance(inner, dict):
                    inner = place[name] = {}
                place = inner
            if last:
                place[last] = value
