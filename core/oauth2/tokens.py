"""Codes, access and refresh tokens: made, looked up and ended here, and nowhere else.

A code or an access token counts only while the login session lives that it came from, and everything only while its
user is active. A token that a client shows is found by its SHA-256, so its content is never believed, only its owner.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core import models
from core.database import Database
from core.errors import ValidationFailed
from core.http_request import HTTPRequest
from core.oauth2.claims import claims as scope_claims
from core.oauth2.claims import subject
from core.oauth2.keys import signing_key
from core.oauth2.protocol import ACR, OFFLINE_ACCESS, OPENID, Authorization, OAuthError
from core.oauth2.providers import Client
from core.services import Services
from core.sessions import AUTHENTICATED, SessionHandle

SECRET_BYTES = 32  # of a code or a refresh token: 256 bits
ID_BYTES = 30  # of ``jti`` and ``uid``: 40 characters

# How somebody logged in, in the words of RFC 8176
_METHODS = {"password": "pwd", "token": "pwd", "ldap": "pwd", "auth_webauthn_pwl": "user", "mtls": "sc"}
_MFA = "mfa"


@dataclass(frozen=True)
class Login:
    """Who logged in, when and how. ``session`` is the login session's id, ``None`` without one."""

    user: models.User
    auth_time: float
    session: str | None = None
    amr: tuple[str, ...] = ()


@dataclass(frozen=True)
class LiveToken:
    """A token that counts, with its user."""

    record: models.AccessToken | models.RefreshToken
    user: models.User


def login_of(session: SessionHandle) -> Login | None:
    """The login behind a session; ``None`` if nobody is logged in or it is not known when."""
    noted = session.get(AUTHENTICATED)
    if session.user is None or session.record is None or not isinstance(noted, Mapping):
        return None
    amr = [_METHODS[noted["method"]]] if noted.get("method") in _METHODS else []
    if noted.get("mfa") is True:
        amr.append(_MFA)
    return Login(session.user, float(noted["at"]), session.pk, tuple(amr))


def digest(secret: str) -> str:
    """By what a code or token is kept."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_code(services: Services, client: Client, authorization: Authorization, login: Login) -> str:
    """A code for a checked request.

    :raises ValidationFailed: the session has ended meanwhile.
    """
    code = secrets.token_hex(SECRET_BYTES)
    services.database.save(
        models.AuthorizationCode(
            pk=digest(code),
            provider=client.pk,
            user=int(login.user.pk or 0),
            session=str(login.session),
            redirect_uri=authorization.redirect_uri,
            scope=" ".join(authorization.scopes),
            nonce=authorization.nonce,
            code_challenge=authorization.code_challenge,
            code_challenge_method=authorization.code_challenge_method,
            auth_time=login.auth_time,
            amr=list(login.amr),
            expires=services.now() + client.code_life_s,
        )
    )
    return code


def take_code(database: Database, client: Client, code: str) -> models.AuthorizationCode | None:
    """The code of this client, which is used up now. One that comes a second time ends what the first time gave."""
    pk = digest(code)
    with database.transaction():
        found = database.first(models.AuthorizationCode, pk=pk, provider=client.pk)
        if found is None:
            end_family(database, client, pk)
        else:
            database.delete(found)
    return found


def take_refresh_token(database: Database, client: Client, token: str) -> models.RefreshToken | None:
    """The refresh token of this client, which is used up now. A used one ends its whole family (RFC 9700 §4.14.2)."""
    with database.transaction():
        found = database.first(models.RefreshToken, pk=digest(token), provider=client.pk)
        if found is not None and found.used:
            end_family(database, client, found.family)
            return None
        if found is not None:
            found.used = True
            database.save(found)
    return found


def end_family(database: Database, client: Client, family: str) -> None:
    """End all tokens that go back to one login at one client."""
    with database.transaction():
        for kind in (models.AccessToken, models.RefreshToken):
            for record in database.find(kind, family=family, provider=client.pk):
                database.delete(record)


def end_session_of(database: Database, client: Client, session: str) -> None:
    """End the access tokens that a client has from one login session."""
    with database.transaction():
        for record in database.find(models.AccessToken, session=session, provider=client.pk):
            database.delete(record)


def live_access_token(database: Database, token: str) -> LiveToken | None:
    """The access token, if it counts."""
    record = database.first(models.AccessToken, pk=digest(token)) if token else None
    if record is None:
        return None
    if record.session is not None and not database.exists(models.Session, pk=record.session):
        return None
    return _with_user(database, record)


def live_refresh_token(database: Database, token: str) -> LiveToken | None:
    """The refresh token, if it counts."""
    record = database.first(models.RefreshToken, pk=digest(token), used=False) if token else None
    return _with_user(database, record) if record is not None else None


def _with_user(database: Database, record: models.AccessToken | models.RefreshToken) -> LiveToken | None:
    user = database.first(models.User, pk=record.user, is_active=True)
    return LiveToken(record, user) if user is not None else None


async def issue(
    services: Services,
    client: Client,
    login: Login,
    scopes: Sequence[str],
    request: HTTPRequest,
    base: str,
    *,
    family: str,
    nonce: str = "",
    may_refresh: bool = False,
) -> dict[str, Any]:
    """Make and store tokens; the answer of the token endpoint (RFC 6749 §5.1, OpenID Connect Core 1.0 §3.1.3.3).

    :raises OAuthError: a mapping or the key is not usable, or the session ended meanwhile.
    """
    database, key = services.database, signing_key(services.database, client)
    said: dict[str, Any] = {}
    if client.claims_in_token:
        said = await scope_claims(services, client, login.user, scopes, request)
    now = int(services.now())
    expires = now + int(client.access_life_s)
    claims: dict[str, Any] = {
        "iss": client.issuer(base),
        "sub": subject(client, login.user),
        "aud": client.client_id,
        "exp": expires,
        "iat": now,
        "auth_time": int(login.auth_time),
        "acr": ACR,
    }
    if login.amr:
        claims["amr"] = list(login.amr)
    if nonce:
        claims["nonce"] = nonce
    if login.session is not None:
        claims["sid"] = login.session
    claims["jti"] = secrets.token_urlsafe(ID_BYTES)
    claims |= said
    scope = " ".join(scopes)
    access = key.sign(claims | {"azp": client.client_id, "uid": secrets.token_urlsafe(ID_BYTES), "scope": scope})
    answer: dict[str, Any] = {
        "access_token": access,
        "token_type": "Bearer",
        "scope": scope,
        "expires_in": int(client.access_life_s),
    }
    if OPENID in scopes:
        answer["id_token"] = key.sign(claims)
    try:
        with database.transaction():
            database.save(
                models.AccessToken(
                    pk=digest(access),
                    provider=client.pk,
                    user=int(login.user.pk or 0),
                    session=login.session,
                    scope=scope,
                    claims=claims,
                    family=family,
                    expires=float(expires),
                )
            )
            if may_refresh and OFFLINE_ACCESS in scopes:
                answer["refresh_token"] = _new_refresh_token(services, client, login, scope, nonce, family)
    except ValidationFailed:
        raise OAuthError("invalid_grant") from None
    return answer


def _new_refresh_token(services: Services, client: Client, login: Login, scope: str, nonce: str, family: str) -> str:
    token = secrets.token_urlsafe(SECRET_BYTES)
    services.database.save(
        models.RefreshToken(
            pk=digest(token),
            provider=client.pk,
            user=int(login.user.pk or 0),
            session=login.session,
            scope=scope,
            nonce=nonce,
            auth_time=login.auth_time,
            amr=list(login.amr),
            family=family,
            expires=services.now() + client.refresh_life_s,
        )
    )
    return token
