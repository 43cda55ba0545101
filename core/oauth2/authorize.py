"""The checks of an authorization request, in the order that decides who may hear of a refusal (flows.md §8.4).

Client and redirect URI come first: until both are right nothing is sent to any address. Whatever is wrong after that
goes to the client. Who the person is, and whether they may, is asked by ``web``.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from core.database import Database
from core.oauth2 import providers
from core.oauth2.protocol import (
    RESPONSE_MODES,
    Authorization,
    AuthorizeRefused,
    OAuthError,
    RedirectRefused,
    challenge_acceptable,
    redirectable,
    scopes_of,
    single,
)
from core.oauth2.providers import Client

PROMPT_NONE, PROMPT_LOGIN, PROMPT_CONSENT = "none", "login", "consent"
PROMPTS = frozenset({PROMPT_NONE, PROMPT_LOGIN, PROMPT_CONSENT, "select_account"})
# Our own parameter on the way back from a login that was asked for: not before when it must have been, signed.
LOGIN_AFTER = "ak_login_after"
MAX_AGE_DIGITS = 9  # of a max_age: thirty years


@dataclass(frozen=True)
class Asked:
    """A checked request. ``max_age_s`` is ``None`` if the client does not care how old the login is."""

    client: Client
    authorization: Authorization
    prompts: frozenset[str]
    max_age_s: int | None
    login_hint: str
    login_after: str


def read(database: Database, pairs: Sequence[tuple[str, str]]) -> Asked:
    """Check a request.

    :raises RedirectRefused: client or redirect URI; the text may be shown.
    :raises AuthorizeRefused: anything else; goes to the client.
    """
    first = dict(pairs)
    if any(sum(name == key for name, _ in pairs) > 1 for key in ("client_id", "redirect_uri")):
        raise RedirectRefused("The request names more than one client or address.")
    client = providers.by_client_id(database, first.get("client_id", ""))
    if client is None:
        raise RedirectRefused("The client identifier is missing or unknown.")
    redirect_uri = first.get("redirect_uri", "")
    if not redirect_uri:
        raise RedirectRefused("The request names no address to return to.")
    if not redirectable(redirect_uri) or not client.allows(redirect_uri):
        raise RedirectRefused("The address to return to is not one that this application has registered.")
    return _rest(database, client, redirect_uri, pairs, first)


def _rest(
    database: Database,
    client: Client,
    redirect_uri: str,
    pairs: Sequence[tuple[str, str]],
    first: Mapping[str, str],
) -> Asked:
    mode = first.get("response_mode") or "query"
    state = first.get("state")

    def refused(code: str, description: str = "") -> AuthorizeRefused:
        return AuthorizeRefused(code, redirect_uri, mode if mode in RESPONSE_MODES else "query", state, description)

    try:
        found = single(pairs)
    except OAuthError as error:
        raise refused(error.code, error.description) from None
    if "response_type" not in found:
        raise refused("invalid_request", "response_type is missing")
    if found["response_type"] != "code":
        raise refused("unsupported_response_type")
    if mode not in RESPONSE_MODES:
        raise refused("invalid_request", "response_mode is not supported")
    for name in ("request", "request_uri"):
        if name in found:
            raise refused(f"{name}_not_supported")
    known = providers.scopes(database, client)
    scopes = tuple(scope for scope in scopes_of(found.get("scope", "")) if scope in known)
    challenge, method = found.get("code_challenge", ""), found.get("code_challenge_method", "")
    if challenge:
        method = method or "plain"
        if not challenge_acceptable(challenge, method):
            raise refused("invalid_request", "code_challenge or its method is not acceptable")
    elif method:
        raise refused("invalid_request", "code_challenge is missing")
    elif not client.confidential:
        raise refused("invalid_request", "A public client must send a code_challenge")
    prompts = frozenset(found.get("prompt", "").split())
    if not prompts <= PROMPTS or (PROMPT_NONE in prompts and len(prompts) > 1):
        raise refused("invalid_request", "prompt is not acceptable")
    age = found.get("max_age")
    if age is not None and not (age.isascii() and age.isdigit() and len(age) <= MAX_AGE_DIGITS):
        raise refused("invalid_request", "max_age is not acceptable")
    return Asked(
        client=client,
        authorization=Authorization(
            client_id=client.client_id,
            redirect_uri=redirect_uri,
            scopes=scopes,
            response_mode=mode,
            state=found.get("state"),
            nonce=found.get("nonce", ""),
            code_challenge=challenge,
            code_challenge_method=method,
        ),
        prompts=prompts,
        max_age_s=int(age) if age is not None else None,
        login_hint=found.get("login_hint", ""),
        login_after=found.get(LOGIN_AFTER, ""),
    )


def needs_login(asked: Asked, auth_time: float, now: float, key: bytes) -> bool:
    """Whether a login of that time is not the one that the client wants (OpenID Connect Core 1.0 §3.1.2.1).

    A login that happened after it was asked for is good enough, whatever ``max_age`` says.
    """
    after = _login_after(asked, key)
    if after is not None and auth_time > after:
        return False
    return PROMPT_LOGIN in asked.prompts or (asked.max_age_s is not None and now - auth_time > asked.max_age_s)


def login_after(asked: Asked, now: float, key: bytes) -> str:
    """The parameter that says since when a login counts for this request."""
    text = f"{now:.3f}"
    return f"{text}.{_signature(asked, text, key)}"


def _login_after(asked: Asked, key: bytes) -> float | None:
    text, _, signature = asked.login_after.rpartition(".")
    if not text or not hmac.compare_digest(signature.encode(), _signature(asked, text, key).encode()):
        return None
    return float(text)


def _signature(asked: Asked, text: str, key: bytes) -> str:
    bound = "\x00".join((text, asked.client.client_id, asked.authorization.state or "", asked.authorization.nonce))
    return hmac.new(key, bound.encode(), sha256).hexdigest()
