"""Conversations with the core as an OpenID client: a code becomes a session's claims, or an error that says why not.

Every call has a time-out over all of it, nothing is sent twice, and only ``tokens.verify`` makes claims that count.

The core answers a code with two tokens. The ID token is checked first and must repeat the login's nonce; the access
token, if it is a JWT, is checked as well and must be about the same user, because applications get it as
``X-authentik-jwt`` and its claims are the session's. One bad token of the two and there is no session.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from common.endpoint import CoreSettings
from common.errors import OutpostError
from common.records import OutpostRecord
from outposts.proxy import endpoints as places
from outposts.proxy import tokens
from outposts.proxy.backchannel import TIMEOUT_S, BackChannel, CallError, Reply, provider_agent
from outposts.proxy.endpoints import Endpoints
from outposts.proxy.keys import KeySets
from outposts.proxy.providers import Providers, ProxyProvider
from outposts.proxy.state import LoginState
from outposts.proxy.tokens import Expected, TokenError, UnknownKey

EMBEDDED = "goauthentik.io/outposts/embedded"  # ``managed`` of the core's own outpost
INTROSPECTED = "outposts/introspected"
"""Claim of ours in a session's payload: the access token, where the session's token is another one."""
MAX_SHOWN = 200  # characters of the core's own words in an error
MAX_REFRESH_TOKEN = 16_384  # characters; the core's have 128


class Problem(StrEnum):
    """Why there are no claims."""

    UNAVAILABLE = "unavailable"  # no answer, an answer too late, or an error of the core's own
    REFUSED = "refused"  # the core says no: used or expired code, wrong credentials
    BAD_TOKEN = "bad_token"  # noqa: S105 - what the core answered is not a token that counts
    NONSENSE = "nonsense"  # the answer is not one of an OpenID provider
    MISCONFIGURED = "misconfigured"  # the provider lacks an endpoint


class OidcError(OutpostError):
    """There are no claims. ``detail`` may stand in a page and in the log: it holds no token, code or password."""

    def __init__(self, problem: Problem, detail: str) -> None:
        super().__init__(f"{problem}: {detail}")
        self.problem = problem
        self.detail = detail
        self.retryable = problem is Problem.UNAVAILABLE


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the core answered, verified. ``token`` is what applications get; ``payload`` are the session's claims."""

    payload: Mapping[str, Any] = field(repr=False)
    token: str = field(repr=False)
    refresh_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class LogoutToken:
    """A verified logout token (OpenID Connect Back-Channel Logout 1.0 §2.4); one of subject and sid may be ""."""

    subject: str
    sid: str
    token_id: str
    expires: float


class OpenIdClient:
    """The client of all providers of one outpost."""

    def __init__(
        self,
        settings: CoreSettings,
        *,
        host_browser: str = "",
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        random: Callable[[int], bytes] = secrets.token_bytes,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.clock = clock
        self.random = random
        self._host_browser = host_browser
        self._channel = BackChannel(settings, timeout_s=timeout_s)
        self._keys = KeySets(self._channel, monotonic)
        self._endpoints: dict[int, Endpoints] = {}

    def apply(self, providers: Providers, outpost: OutpostRecord) -> None:
        """Serve these providers from now on."""
        host = outpost.config.get("authentik_host")
        self._endpoints = {
            provider.pk: places.endpoints(
                provider.oidc,
                host_browser=self._host_browser,
                authentik_host=host if isinstance(host, str) else "",
                embedded=outpost.managed == EMBEDDED,
            )
            for provider in providers
        }

    def endpoints(self, provider: ProxyProvider) -> Endpoints:
        """Where a provider is; of one that is not served any more, nowhere."""
        return self._endpoints.get(provider.pk) or Endpoints()

    # -- browsers ----------------------------------------------------------------------------------------------------

    def authorize_url(self, provider: ProxyProvider, state: LoginState) -> str:
        """Where a browser is sent to log in. Raises ``OidcError`` if the provider names no such place."""
        where = self.endpoints(provider)
        if not where.authorize:
            raise OidcError(Problem.MISCONFIGURED, "the provider names no authorization endpoint")
        sealed = provider.sealer.seal(state, self.random)
        return places.authorize_url(where, provider.client_id, provider.redirect_uri, provider.scopes, state, sealed)

    def end_session_url(self, provider: ProxyProvider) -> str:
        """Where a browser is sent to be signed out of the core; "" if the provider names no such place.

        No ``id_token_hint`` is given: the core does not read it, and tokens do not belong into URLs.
        """
        return self.endpoints(provider).end_session

    # -- tokens ------------------------------------------------------------------------------------------------------

    async def exchange(self, provider: ProxyProvider, code: str, state: LoginState) -> Tokens:
        """A code for claims (RFC 6749 §4.1.3 with RFC 7636 §4.5). Raises ``OidcError``; not to be repeated."""
        reply = await self._ask_for_tokens(
            provider,
            [
                ("grant_type", "authorization_code"),
                ("code", code),
                ("redirect_uri", provider.redirect_uri),
                ("client_id", provider.client_id),
                ("client_secret", provider.client_secret),
                ("code_verifier", state.verifier),
            ],
        )
        return await self._tokens(provider, reply, nonce=state.nonce)

    async def refresh(self, provider: ProxyProvider, refresh_token: str, subject: str) -> Tokens:
        """New tokens for the same user (RFC 6749 §6, OpenID Connect Core §12.2). Raises ``OidcError``."""
        reply = await self._ask_for_tokens(
            provider,
            [
                ("grant_type", "refresh_token"),
                ("refresh_token", refresh_token),
                ("client_id", provider.client_id),
                ("client_secret", provider.client_secret),
            ],
        )
        return await self._tokens(provider, reply, subject=subject)

    async def client_credentials(self, provider: ProxyProvider, user: str, password: str) -> Tokens:
        """Claims of a user with an app password. Raises ``OidcError``, ``REFUSED`` if the core says no.

        The core wants no client secret here; the ID token of its answer is what applications get.
        """
        form = [
            ("grant_type", "client_credentials"),
            ("client_id", provider.client_id),
            ("username", user),
            ("password", password),
        ]
        if provider.scopes:
            form.append(("scope", " ".join(provider.scopes)))
        reply = await self._ask_for_tokens(provider, form)
        token = _text(reply, "id_token") or _text(reply, "access_token")
        return Tokens(await self._verified(provider, token), token)

    async def introspect(self, provider: ProxyProvider, token: str) -> Mapping[str, Any] | None:
        """The claims of a token that the core says is active for this provider (RFC 7662); None if it is not.

        Raises ``OidcError`` if the core does not say.
        """
        where = self.endpoints(provider)
        form = [("client_id", provider.client_id), ("client_secret", provider.client_secret), ("token", token)]
        reply = await self._call(provider, where.introspection, form)
        if reply.status != 200:
            raise OidcError(Problem.NONSENSE, f"the core answers {reply.status} when asked about a token")
        return reply.content if reply.content.get("active") is True else None

    def can_introspect(self, provider: ProxyProvider) -> bool:
        """Whether the provider has an endpoint for it."""
        return bool(self.endpoints(provider).introspection)

    async def verified(self, provider: ProxyProvider, token: str) -> Tokens:
        """Claims of a token that somebody brought, by its signature alone. Raises ``OidcError``."""
        return Tokens(await self._verified(provider, token), token)

    def check_origin(self, provider: ProxyProvider, claims: Mapping[str, Any]) -> None:
        """Raise ``OidcError`` unless introspected claims are for us, or from a provider that the core federates to us.

        Tokens of our own issuer have to be for us. Those of another issuer count only at the same core: it has just
        vouched for them, which it does for federated providers.
        """
        where = self.endpoints(provider)
        issuer = claims.get("iss")
        try:
            if claims.get("client_id", provider.client_id) != provider.client_id:
                raise TokenError("for somebody else")
            if issuer is None or issuer in where.issuers:
                if "aud" in claims:
                    tokens.check_audience(claims, provider.client_id)
                return
            known = {places.origin(name) for name in where.issuers}
            if not isinstance(issuer, str) or places.origin(issuer) not in known:
                raise TokenError("from another issuer")
        except TokenError as error:
            raise OidcError(Problem.BAD_TOKEN, error.problem) from None

    async def logout_token(self, provider: ProxyProvider, token: str) -> LogoutToken:
        """Check a logout token (OpenID Connect Back-Channel Logout 1.0 §2.6). Raises ``OidcError``."""
        payload = await self._verified(provider, token, subject_needed=False)
        events = payload.get("events")
        subject, sid, token_id = (payload.get(name, "") for name in ("sub", "sid", "jti"))
        if (
            not isinstance(events, Mapping)
            or not isinstance(events.get(tokens.LOGOUT_EVENT), Mapping)
            or "nonce" in payload
            or "iat" not in payload
            or not all(isinstance(value, str) for value in (subject, sid, token_id))
            or not (subject or sid)
            or not token_id
        ):
            raise OidcError(Problem.BAD_TOKEN, "not a logout token")
        return LogoutToken(subject, sid, token_id, float(payload["exp"]))

    # ----------------------------------------------------------------------------------------------------------------

    async def _call(self, provider: ProxyProvider, url: str, form: list[tuple[str, str]]) -> Reply:
        if not url:
            raise OidcError(Problem.MISCONFIGURED, "the provider lacks an endpoint that is needed")
        headers = [provider_agent(provider.name), *self.endpoints(provider).forwarded]
        try:
            return await self._channel.post(url, form, headers)
        except CallError as error:
            raise OidcError(Problem.NONSENSE if error.answered else Problem.UNAVAILABLE, error.problem) from None

    async def _ask_for_tokens(self, provider: ProxyProvider, form: list[tuple[str, str]]) -> Mapping[str, Any]:
        reply = await self._call(provider, self.endpoints(provider).token, form)
        if reply.status != 200 or "error" in reply.content:
            raise OidcError(Problem.REFUSED, _refusal(reply))
        return reply.content

    async def _tokens(
        self, provider: ProxyProvider, reply: Mapping[str, Any], *, nonce: str | None = None, subject: str | None = None
    ) -> Tokens:
        """Both tokens of an answer, verified; see the head of this module."""
        id_token, access_token = _text(reply, "id_token"), _text(reply, "access_token")
        refresh_token = _text(reply, "refresh_token")
        if len(refresh_token) > MAX_REFRESH_TOKEN:
            raise OidcError(Problem.NONSENSE, "a refresh token of more than 16 KiB")
        if not id_token:
            if not access_token:
                raise OidcError(Problem.NONSENSE, "the core's answer has no token")
            # Without the scope `openid` there is an access token only, which then has to carry the nonce itself.
            return Tokens(
                await self._verified(provider, access_token, nonce=nonce, subject=subject), access_token, refresh_token
            )
        payload = await self._verified(provider, id_token, nonce=nonce, subject=subject)
        if not access_token:
            return Tokens(payload, id_token, refresh_token)
        try:
            tokens.check_access_token(payload, id_token, access_token)
        except TokenError as error:
            raise OidcError(Problem.BAD_TOKEN, error.problem) from None
        if access_token.count(".") != 2:  # opaque: of use for introspection only
            return Tokens({**payload, INTROSPECTED: access_token}, id_token, refresh_token)
        claims = await self._verified(provider, access_token, subject=payload["sub"])
        # The two are of one login; where the access token does not say so, the ID token does.
        merged = {**payload, **claims}
        merged["exp"] = min(payload["exp"], claims["exp"])
        return Tokens(merged, access_token, refresh_token)

    async def _verified(
        self,
        provider: ProxyProvider,
        token: str,
        *,
        nonce: str | None = None,
        subject: str | None = None,
        subject_needed: bool = True,
    ) -> dict[str, Any]:
        where = self.endpoints(provider)
        expected = Expected(
            provider.client_id, where.issuers, where.algorithms, nonce, subject, subject_needed=subject_needed
        )
        try:
            symmetric = tokens.is_symmetric(token)
            keys = () if symmetric or not where.jwks else await self._keys.get(where.jwks)
            try:
                return tokens.verify(token, expected, provider.client_secret, keys, self.clock())
            except UnknownKey:
                if not where.jwks:
                    raise
                more = await self._keys.newer(where.jwks, keys)
                if more is keys:
                    raise
                return tokens.verify(token, expected, provider.client_secret, more, self.clock())
        except TokenError as error:
            raise OidcError(Problem.BAD_TOKEN, error.problem) from None
        except CallError as error:
            raise OidcError(Problem.UNAVAILABLE, f"the provider's keys: {error.problem}") from None

    async def close(self) -> None:
        """Close all connections."""
        await self._channel.close()


def _text(content: Mapping[str, Any], name: str) -> str:
    value = content.get(name)
    return value if isinstance(value, str) else ""


def _refusal(reply: Reply) -> str:
    """The core's reason as it may be shown: its error code, which is one of a list (RFC 6749 §5.2)."""
    said = _text(reply.content, "error")
    code = said if said.isascii() and said.isprintable() and " " not in said else ""
    return f"the core answers {reply.status}{f' {code[:MAX_SHOWN]}' if code else ''}"
