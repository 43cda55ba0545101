"""The names that every expression finds: of policies, property mappings and prompts (flows.md §6.1).

``helpers.py`` has those that need nothing; here are the ones that know the request or reach into storage.
"""

from __future__ import annotations

from typing import Any

import structlog

from core import models
from core.errors import NotFound
from core.policies.base import PolicyRequest, PolicyResult, PolicyServices
from core.policies.helpers import HELPERS

log = structlog.get_logger(__name__)

FALLBACK_CLIENT_IP = "255.255.255.255"  # as everywhere when there is no usable address (flows.md §3.9)


class SkipObject(Exception):
    """Raised by a mapping to leave out what it would have made; not an error."""


def environment(services: PolicyServices, request: PolicyRequest, name: str) -> dict[str, Any]:
    """The names for one evaluation; ``name`` is that of the policy, mapping or prompt, for its logger."""
    database = services.database

    def ak_call_policy(name: str, **context: Any) -> PolicyResult:
        policy = database.first(models.Policy, name=name)
        if policy is None:
            raise NotFound(f"no policy is called {name!r}")
        inner = PolicyRequest(
            user=request.user,
            http_request=request.http_request,
            obj=request.obj,
            context=request.context | context,
            debug=request.debug,
        )
        return services.make(policy).passes(inner)

    def ak_user_by(**filters: Any) -> models.User | None:
        return database.first(models.User, **filters)

    def ak_user_has_authenticator(user: models.User, device_type: str | None = None) -> bool:
        if not user.stored:
            return False
        names = {type(device).__name__.removesuffix("Device").lower() for device in database.devices_of(user.pk or 0)}
        return bool(names) if device_type is None else device_type.lower().removesuffix("device") in names

    def ak_create_event(action: str, **fields: Any) -> None:
        context = {name: plain(value) for name, value in fields.items()}
        database.log_event(
            f"custom_{action}", "authentik.policies.expression", context=context, user=request.user,
            client_ip=request.client_ip,
        )  # fmt: skip

    bound: dict[str, Any] = HELPERS | {
        "request": request,
        "ak_is_sso_flow": bool(request.context.get("is_sso", False)),
        "ak_call_policy": ak_call_policy,
        "ak_user_by": ak_user_by,
        "ak_user_has_authenticator": ak_user_has_authenticator,
        "ak_is_group_member": ak_is_group_member,
        "ak_create_event": ak_create_event,
        "ak_logger": log.bind(expression=name),
    }
    if request.http_request is not None:
        bound["http_request"] = request.http_request
        bound["ak_client_ip"] = HELPERS["ip_address"](request.client_ip or FALLBACK_CLIENT_IP)
    return bound


def ak_is_group_member(user: models.User, **filters: Any) -> bool:
    """Whether the user is a direct or inherited member of a group for which all look-ups hold."""
    return user.all_groups().filter(**filters).exists()


def plain(value: Any) -> Any:
    """A value as an event can keep it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | models.Related):
        return [plain(item) for item in value]
    if isinstance(value, models.Model):
        return {"pk": value.pk, "model_name": type(value).__name__.lower()}
    return str(value)
