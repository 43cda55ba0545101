"""Records of the OAuth2 provider: codes and tokens that were given out.

None of them holds the code or token itself: ``pk`` is the SHA-256 of it in hex, so that a copy of the database is no
copy of the keys. Codes and access tokens go with the login session that they came from; refresh tokens stay, because a
client gets one only by asking for offline access (OpenID Connect Core 1.0 §11).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from core.model_base import Model


@dataclass(kw_only=True, eq=False)
class AuthorizationCode(Model):
    """A code on its way to the client. ``auth_time`` and ``expires`` in Unix seconds."""

    pk: str
    provider: int
    user: int
    session: str
    redirect_uri: str
    scope: str
    nonce: str = ""
    code_challenge: str = ""
    code_challenge_method: str = ""
    auth_time: float = 0.0
    amr: list[str] = field(default_factory=list)
    expires: float | None = None


@dataclass(kw_only=True, eq=False)
class AccessToken(Model):
    """An access token. ``claims`` are those of its id token; ``family`` is the login that it goes back to."""

    pk: str
    provider: int
    user: int
    session: str | None = None
    scope: str
    claims: dict[str, Any] = field(default_factory=dict)
    family: str = ""
    expires: float | None = None


@dataclass(kw_only=True, eq=False)
class RefreshToken(Model):
    """A refresh token. ``used`` ones are kept until they expire, so that a stolen one is noticed."""

    pk: str
    provider: int
    user: int
    session: str | None = None
    scope: str
    nonce: str = ""
    auth_time: float = 0.0
    amr: list[str] = field(default_factory=list)
    family: str = ""
    used: bool = False
    expires: float | None = None
