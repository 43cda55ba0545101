"""What a token says about a user: the subject, and the claims that scope mappings make (flows.md §8.4).

A mapping is an expression of an administrator. It cannot set the claims that the protocol itself uses. One that fails
fails the whole token: half of the claims could mean other rights than all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core import models
from core.database import merge
from core.oauth2.protocol import APP, OAuthError
from core.oauth2.providers import Client, mappings, scope_of
from core.policies.base import PolicyRequest
from core.policies.environment import SkipObject, plain
from core.policies.expression import evaluate
from core.services import Services

MAPPING_TIMEOUT_S = 5.0  # all mappings of one token; somebody waits for it
CONFIGURATION_ERROR = "configuration_error"

# What a client relies on to know whom, by whom and for how long; never from a mapping.
PROTOCOL_CLAIMS = frozenset(
    {
        "iss", "sub", "aud", "exp", "iat", "nbf", "jti", "auth_time", "acr", "amr", "nonce", "azp", "sid", "at_hash",
        "c_hash", "uid", "scope", "active", "client_id", "token_type", "events",
    }
)  # fmt: skip


@dataclass(frozen=True)
class ProviderFacts:
    """What expressions see as ``provider``."""

    pk: int
    name: str
    client_id: str
    application: models.Application


def subject(client: Client, user: models.User) -> str:
    """The ``sub`` of a user by the provider's mode. One that would be empty is an error: two users could share it.

    :raises OAuthError: the user has no such value.
    """
    upn = user.attributes.get("upn")
    found = {
        "hashed_user_id": user.uid,
        "user_id": str(user.pk),
        "user_uuid": user.uuid,
        "user_username": user.username,
        "user_email": user.email,
        "user_upn": upn if isinstance(upn, str) else "",
    }.get(client.sub_mode, "")
    if not found:
        raise OAuthError("server_error", "The user has no value for the subject")
    return found


async def claims(
    services: Services, client: Client, user: models.User, scopes: Sequence[str], http_request: Any
) -> dict[str, Any]:
    """The claims of these scopes, mappings in order, merged deeply.

    :raises OAuthError: a mapping failed or gave something else than a mapping; an event says which.
    """
    wanted = [mapping for mapping in mappings(services.database, client) if scope_of(mapping) in scopes]
    if not wanted:
        return {}
    request = PolicyRequest(user=user, http_request=http_request, obj=client.record, context={"oauth_scopes": scopes})
    provider = ProviderFacts(client.pk, client.record.name, client.client_id, client.application)
    current: list[models.PropertyMapping] = []

    def work(names: dict[str, Any]) -> dict[str, Any]:
        names = names | {"user": user, "provider": provider, "SkipObject": SkipObject}
        found: dict[str, Any] = {}
        for mapping in wanted:
            current[:] = [mapping]
            try:
                made = evaluate(str(mapping.options.get("expression", "")), mapping.name, names)
            except SkipObject:
                continue
            if made is None:
                continue
            if not isinstance(made, dict):
                raise TypeError("the mapping did not return a dictionary")
            merge(found, {str(name): plain(value) for name, value in made.items()})
        return {name: value for name, value in found.items() if name not in PROTOCOL_CLAIMS}

    try:
        return await services.engine.compute(work, request, client.record.name, MAPPING_TIMEOUT_S)
    except Exception as error:
        failed = current[0] if current else None
        services.database.log_event(
            CONFIGURATION_ERROR,
            APP,
            context={
                "message": f"Failed to evaluate property mapping: {type(error).__name__}",
                "provider": {"pk": client.pk, "name": client.record.name, "model_name": client.record.type},
                "mapping": {"pk": failed.pk, "name": failed.name} if failed is not None else None,
            },
            user=user,
            client_ip=getattr(http_request, "client_ip", None),
        )
        raise OAuthError("server_error") from None
