"""The token endpoint: authorization code, refresh token, client credentials and app passwords (flows.md §8.4).

Success is what :func:`core.oauth2.tokens.issue` returns at the end of a grant; all else is an ``OAuthError``.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from core import models
from core.http_request import HTTPRequest
from core.oauth2 import tokens
from core.oauth2.protocol import Credentials, OAuthError, scopes_of, verifier_matches
from core.oauth2.providers import Client, authenticated, scopes
from core.oauth2.tokens import Login
from core.services import Services

APP_PATH = "goauthentik.io/apps/"  # path of the accounts that stand for clients themselves
LOGIN, LOGIN_FAILED = "login", "login_failed"

Grant = Callable[["TokenEndpoint", Mapping[str, str], Credentials, HTTPRequest, str], Awaitable[dict[str, Any]]]


class TokenEndpoint:
    """Answers token requests."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def answer(
        self, parameters: Mapping[str, str], given: Credentials, request: HTTPRequest, base: str
    ) -> dict[str, Any]:
        """Tokens for a request. ``base`` is where the client reached us.

        :raises OAuthError: there are none.
        """
        grant_type = parameters.get("grant_type", "")
        if not grant_type:
            raise OAuthError("invalid_request", "grant_type is missing")
        grant = _GRANTS.get(grant_type)
        if grant is None:
            raise OAuthError("unsupported_grant_type")
        return await grant(self, parameters, given, request, base)

    async def _code(
        self, parameters: Mapping[str, str], given: Credentials, request: HTTPRequest, base: str
    ) -> dict[str, Any]:
        """RFC 6749 §4.1.3, RFC 7636 §4.5."""
        database = self._services.database
        client = authenticated(database, given)
        code = tokens.take_code(database, client, parameters.get("code", ""))
        if code is None:
            raise OAuthError("invalid_grant")
        if not hmac.compare_digest(code.redirect_uri.encode(), parameters.get("redirect_uri", "").encode()):
            raise OAuthError("invalid_grant")
        verifier = parameters.get("code_verifier", "")
        if bool(code.code_challenge) != bool(verifier):
            raise OAuthError("invalid_grant")
        if verifier and not verifier_matches(verifier, code.code_challenge, code.code_challenge_method):
            raise OAuthError("invalid_grant")
        if not database.exists(models.Session, pk=code.session, user=code.user):
            raise OAuthError("invalid_grant")  # it ended, or its time is over
        granted = scopes_of(code.scope)
        user = await self._user(client, code.user, granted, parameters, request)
        login = Login(user, code.auth_time, code.session, tuple(code.amr))
        return await tokens.issue(
            self._services, client, login, granted, request, base, family=code.pk, nonce=code.nonce, may_refresh=True
        )

    async def _refresh(
        self, parameters: Mapping[str, str], given: Credentials, request: HTTPRequest, base: str
    ) -> dict[str, Any]:
        """RFC 6749 §6; the old refresh token is used up whatever comes out."""
        database = self._services.database
        client = authenticated(database, given)
        old = tokens.take_refresh_token(database, client, parameters.get("refresh_token", ""))
        if old is None:
            raise OAuthError("invalid_grant")
        granted = scopes_of(old.scope)
        asked = scopes_of(parameters.get("scope", "")) or granted
        if not set(asked) <= set(granted):
            raise OAuthError("invalid_scope")
        known = scopes(database, client)
        asked = tuple(scope for scope in asked if scope in known)
        user = await self._user(client, old.user, asked, parameters, request)
        # offline access outlives the session; what is made after its end does not name it
        session = old.session if old.session and database.exists(models.Session, pk=old.session) else None
        login = Login(user, old.auth_time, session, tuple(old.amr))
        return await tokens.issue(
            self._services, client, login, asked, request, base, family=old.family, nonce=old.nonce, may_refresh=True
        )

    async def _client_credentials(
        self, parameters: Mapping[str, str], given: Credentials, request: HTTPRequest, base: str
    ) -> dict[str, Any]:
        """RFC 6749 §4.4; with a user name and an app password it is that user, and no client secret is needed."""
        services, database = self._services, self._services.database
        if "client_assertion" in parameters or "client_assertion_type" in parameters:
            raise OAuthError("invalid_client", "Client assertions are not supported")
        with_user = "username" in parameters or "password" in parameters
        client = authenticated(database, given, secret_needed=not with_user)
        known = scopes(database, client)
        asked = tuple(scope for scope in scopes_of(parameters.get("scope", "")) if scope in known)
        if with_user:
            user = await self._app_password(client, asked, parameters, request)
        else:
            if not client.confidential or given.secret is None:
                raise OAuthError("invalid_client")
            user = await self._user(client, self._own_account(client), asked, parameters, request)
        method = "token" if with_user else "oauth_client_secret"
        self._event(LOGIN, client, user, request, auth_method=method)
        login = Login(user, services.now())
        return await tokens.issue(services, client, login, asked, request, base, family="")

    async def _app_password(
        self, client: Client, asked: tuple[str, ...], parameters: Mapping[str, str], request: HTTPRequest
    ) -> models.User:
        """The active user with this name, spelled like this, and this app password, who may use the application."""
        services, name = self._services, parameters.get("username", "")
        user = services.database.first(models.User, username=name, is_active=True)
        password = parameters.get("password", "")
        token = services.database.app_password(user, password) if user is not None else None
        if user is None or token is None or not hmac.compare_digest(token.key.encode(), password.encode()):
            services.reputation(name[:150], request.client_ip, -1)
            self._event(LOGIN_FAILED, client, None, request, username=name[:150])
            raise OAuthError("invalid_grant")
        return await self._user(client, int(user.pk or 0), asked, parameters, request)

    def _own_account(self, client: Client) -> int:
        """The account that stands for a client itself; made on first use.

        :raises OAuthError: somebody else has its name.
        """
        database, path = self._services.database, APP_PATH + client.application.slug
        name = f"ak-{client.application.slug}-client_credentials"
        user = database.first(models.User, username=name)
        if user is None:
            user = database.save(
                models.User(
                    username=name,
                    name=f"Client credentials of {client.application.name}",
                    type=models.SERVICE_ACCOUNT,
                    path=path,
                    attributes={"goauthentik.io/user/generated": True},
                )
            )
        if user.type != models.SERVICE_ACCOUNT or user.path != path:
            raise OAuthError("invalid_grant")
        return int(user.pk or 0)

    async def _user(
        self,
        client: Client,
        pk: int,
        granted: tuple[str, ...],
        parameters: Mapping[str, str],
        request: HTTPRequest,
    ) -> models.User:
        """The user, who is active and may use the application now.

        :raises OAuthError: otherwise.
        """
        user = self._services.database.first(models.User, pk=pk, is_active=True)
        if user is None:
            raise OAuthError("invalid_grant")
        context = {
            "oauth_scopes": list(granted),
            "oauth_grant_type": parameters.get("grant_type", ""),
            "oauth_code_verifier": parameters.get("code_verifier", ""),
            "oauth_jwt": None,
        }
        result = await self._services.access.application(
            client.application, user, http_request=request, context=context
        )
        if result.passing is not True:
            raise OAuthError("invalid_grant")
        return user

    def _event(
        self, action: str, client: Client, user: models.User | None, request: HTTPRequest, **context: Any
    ) -> None:
        self._services.database.log_event(
            action,
            "authentik.providers.oauth2",
            context=context
            | {"provider": {"pk": client.pk, "name": client.record.name, "model_name": client.record.type}},
            user=user,
            client_ip=request.client_ip,
            brand=request.brand,
        )


_GRANTS: dict[str, Grant] = {
    "authorization_code": TokenEndpoint._code,
    "refresh_token": TokenEndpoint._refresh,
    "client_credentials": TokenEndpoint._client_credentials,
    "password": TokenEndpoint._client_credentials,
}
GRANT_TYPES = tuple(_GRANTS)
