"""What a token says when a client asks: introspection (RFC 7662), revocation (RFC 7009), userinfo (OpenID Connect)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core import models
from core.http_request import HTTPRequest
from core.oauth2 import providers, tokens
from core.oauth2.claims import claims, subject
from core.oauth2.protocol import OPENID, Credentials, OAuthError, scopes_of
from core.services import Services

INACTIVE: dict[str, Any] = {"active": False}


def introspect(services: Services, parameters: Mapping[str, str], given: Credentials) -> dict[str, Any]:
    """The claims of a live token of this client, or of one whose tokens it accepts; else only that it is not active.

    A client that shows a wrong secret learns nothing, not even that the secret is wrong.
    """
    database = services.database
    try:
        client = providers.authenticated(database, given)
    except OAuthError:
        return INACTIVE
    if not client.confidential:
        return INACTIVE
    token = parameters.get("token", "")
    live = tokens.live_access_token(database, token) or tokens.live_refresh_token(database, token)
    if live is None:
        return INACTIVE
    record = live.record
    owner = client if record.provider == client.pk else None
    if owner is None and record.provider in client.federation:
        owner = providers.by_pk(database, record.provider)
    if owner is None:
        return INACTIVE
    if isinstance(record, models.AccessToken):
        said = dict(record.claims)
    else:
        said = {"sub": subject(owner, live.user), "aud": owner.client_id, "exp": int(record.expires or 0)}
    return said | {"active": True, "scope": record.scope, "client_id": owner.client_id}


def revoke(services: Services, parameters: Mapping[str, str], given: Credentials) -> None:
    """End a token of this client; one that is not known, or not this client's, is none (RFC 7009 §2.2).

    With a refresh token goes all that goes back to the same login.

    :raises OAuthError: it is not a client.
    """
    database = services.database
    client = providers.authenticated(database, given)
    pk = tokens.digest(parameters.get("token", ""))
    with database.transaction():
        access = database.first(models.AccessToken, pk=pk, provider=client.pk)
        if access is not None:
            database.delete(access)
        refresh = database.first(models.RefreshToken, pk=pk, provider=client.pk)
        if refresh is not None:
            tokens.end_family(database, client, refresh.family)


async def userinfo(services: Services, token: str, request: HTTPRequest) -> dict[str, Any]:
    """The claims about whoever an access token stands for, as they are now (OpenID Connect Core 1.0 §5.3).

    :raises OAuthError: ``invalid_token`` or ``insufficient_scope``, or a mapping failed.
    """
    live = tokens.live_access_token(services.database, token)
    if live is None or not isinstance(live.record, models.AccessToken):
        raise OAuthError("invalid_token")
    client = providers.by_pk(services.database, live.record.provider)
    if client is None:
        raise OAuthError("invalid_token")
    scopes = scopes_of(live.record.scope)
    if OPENID not in scopes:
        raise OAuthError("insufficient_scope")
    said = {"sub": subject(client, live.user)} | await claims(services, client, live.user, scopes, request)
    nonce = live.record.claims.get("nonce")
    return said | ({"nonce": nonce} if nonce else {})
