"""Names, errors and pure rules of OAuth2 (RFC 6749), PKCE (RFC 7636) and OpenID Connect. No storage, no clock."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit

OAUTH2_PROVIDER = "authentik_providers_oauth2.oauth2provider"
PROXY_PROVIDER = "authentik_providers_proxy.proxyprovider"
SCOPE_MAPPING = "authentik_providers_oauth2.scopemapping"
APP = "authentik.providers.oauth2"

OPENID, OFFLINE_ACCESS = "openid", "offline_access"

ACR = "goauthentik.io/providers/oauth2/default"
RESPONSE_MODES = ("query", "fragment", "form_post")
PKCE_METHODS = ("plain", "S256")
AUTHORIZATION, LOGOUT = "authorization", "logout"  # what a redirect URI is for
STRICT, REGEX = "strict", "regex"

MAX_PARAMETER = 4096  # characters of one parameter; a state of an outpost has about 400
# What a browser would run instead of open.
REFUSED_SCHEMES = frozenset({"javascript", "data", "vbscript"})

_VERIFIER = re.compile(r"[A-Za-z0-9\-._~]{43,128}")  # RFC 7636 §4.1; a challenge has the same form (§4.2)
_HOST = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")

DESCRIPTIONS = {
    "invalid_request": "The request is otherwise malformed",
    "invalid_client": "Client authentication failed (e.g., unknown client, no client authentication included, or "
    "unsupported authentication method)",
    "invalid_grant": "The provided authorization grant or refresh token is invalid, expired, revoked, does not match "
    "the redirection URI used in the authorization request, or was issued to another client",
    "invalid_scope": "The requested scope is invalid, unknown, malformed, or exceeds the scope granted by the resource "
    "owner",
    "unsupported_grant_type": "The authorization grant type is not supported by the authorization server",
    "unsupported_response_type": "The authorization server does not support obtaining an authorization code using this "
    "method",
    "access_denied": "The resource owner or authorization server denied the request",
    "login_required": "The Authorization Server requires End-User authentication",
    "interaction_required": "The Authorization Server requires End-User interaction of some form to proceed",
    "request_not_supported": "The Authorization Server does not support use of the request parameter",
    "request_uri_not_supported": "The Authorization Server does not support use of the request_uri parameter",
    "server_error": "The authorization server encountered an unexpected condition that prevented it from fulfilling "
    "the request",
    "invalid_token": "The access token provided is expired, revoked, malformed, or invalid for other reasons",
    "insufficient_scope": "The request requires higher privileges than provided by the access token",
}


class OAuthError(Exception):
    """A refusal that a client is told: an error code of RFC 6749 §5.2 or of OpenID Connect."""

    def __init__(self, code: str, description: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.description = description or DESCRIPTIONS.get(code, code)


class RedirectRefused(Exception):
    """Client or redirect URI is not right: the person sees it, nothing is sent anywhere (RFC 6749 §4.1.2.1)."""


class AuthorizeRefused(Exception):
    """A refusal that goes back to the client by redirect (RFC 6749 §4.1.2.1)."""

    def __init__(self, code: str, redirect_uri: str, mode: str, state: str | None, description: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.redirect_uri = redirect_uri
        self.mode = mode
        self.parameters = {"error": code, "error_description": description or DESCRIPTIONS.get(code, code)}
        if state is not None:
            self.parameters["state"] = state


@dataclass(frozen=True)
class RedirectURI:
    """One allowed redirect URI; ``kind`` is what for."""

    url: str
    mode: str = STRICT
    kind: str = AUTHORIZATION

    def matches(self, given: str) -> bool:
        """Equality of octets, or the whole of a regular expression; an expression that is none matches nothing."""
        if self.mode == STRICT:
            return hmac.compare_digest(self.url.encode(), given.encode())
        if self.mode != REGEX:
            return False
        try:
            return re.fullmatch(self.url, given) is not None
        except re.error:
            return False


@dataclass(frozen=True)
class Authorization:
    """A checked authorization request, as it waits in a flow."""

    client_id: str
    redirect_uri: str
    scopes: tuple[str, ...]
    response_mode: str = "query"
    state: str | None = None
    nonce: str = ""
    code_challenge: str = ""
    code_challenge_method: str = ""

    def data(self) -> dict[str, Any]:
        """JSON data for the flow context."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return found | {"scopes": list(self.scopes)}

    @classmethod
    def of(cls, data: object) -> Authorization | None:
        """What :meth:`data` gave, or ``None`` if it is anything else."""
        if not isinstance(data, Mapping) or set(data) != set(cls.__dataclass_fields__):
            return None
        fields = dict(data)
        return cls(**fields | {"scopes": tuple(fields["scopes"])})


@dataclass(frozen=True)
class Credentials:
    """Who a client says it is. ``secret`` is ``None`` if it showed none."""

    client_id: str
    secret: str | None = field(default=None, repr=False)


def single(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Parameters by name; empty ones count as absent.

    :raises OAuthError: one is there twice or too long (RFC 6749 §3.1, §3.2).
    """
    found: dict[str, str] = {}
    seen: set[str] = set()
    for name, value in pairs:
        if name in seen:
            raise OAuthError("invalid_request", f"The parameter {name[:32]} is given more than once")
        if len(value) > MAX_PARAMETER or "\x00" in value:
            raise OAuthError("invalid_request", f"The parameter {name[:32]} is not acceptable")
        seen.add(name)
        if value:
            found[name] = value
    return found


def form(body: bytes, content_type: str) -> dict[str, str]:
    """A form body (RFC 6749 appendix B).

    :raises OAuthError: it is none.
    """
    if content_type.partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise OAuthError("invalid_request", "The body must be application/x-www-form-urlencoded")
    try:
        return single(parse_qsl(body.decode(), keep_blank_values=True, errors="strict"))
    except UnicodeDecodeError:
        raise OAuthError("invalid_request") from None


def credentials(authorization: str, parameters: Mapping[str, str]) -> Credentials:
    """The client's credentials, from the Basic header or from the form (RFC 6749 §2.3.1).

    :raises OAuthError: there are none, two different ones, or the header cannot be read.
    """
    client_id, secret = parameters.get("client_id", ""), parameters.get("client_secret")
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            name, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise OAuthError("invalid_client") from None
        name, password = unquote_plus(name), unquote_plus(password)
        if not colon or secret is not None or (client_id and client_id != name):
            raise OAuthError("invalid_client")
        client_id, secret = name, password
    if not client_id:
        raise OAuthError("invalid_client")
    return Credentials(client_id, secret)


def scopes_of(text: str) -> tuple[str, ...]:
    """A scope text as its parts, each once, in the order they came (RFC 6749 §3.3)."""
    return tuple(dict.fromkeys(text.split()))


def challenge_acceptable(challenge: str, method: str) -> bool:
    """Whether a code challenge has the form that its method wants."""
    return method in PKCE_METHODS and _VERIFIER.fullmatch(challenge) is not None


def verifier_matches(verifier: str, challenge: str, method: str) -> bool:
    """Whether a code verifier belongs to a challenge (RFC 7636 §4.6)."""
    if _VERIFIER.fullmatch(verifier) is None:
        return False
    if method == "S256":
        digest = hashlib.sha256(verifier.encode()).digest()
        verifier = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    elif method != "plain":
        return False
    return hmac.compare_digest(verifier.encode(), challenge.encode())


def redirectable(url: str) -> bool:
    """Whether a browser may be sent there at all: an absolute address without fragment and without a script."""
    if not _SCHEME.match(url) or any(ord(letter) <= 0x20 or letter == "\x7f" for letter in url) or "\\" in url:
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if parts.scheme.lower() in REFUSED_SCHEMES or "#" in url:
        return False
    return bool(parts.netloc) or parts.scheme.lower() not in ("http", "https")


def with_parameters(url: str, parameters: Mapping[str, str], *, fragment: bool = False) -> str:
    """The redirect URI with parameters added to its query, or as its fragment. What is there stays as it is."""
    added = urlencode(parameters)
    if fragment:
        return f"{url}#{added}"
    return f"{url}{'&' if '?' in url else '?'}{added}"


def proxy_redirect_uris(external_host: str) -> tuple[RedirectURI, ...]:
    """The two redirect URIs of a proxy provider: the callback beside the last part of the path, and the host as it is.

    The callback replaces the last part of a path that does not end in a slash, as the reference does.
    """
    parts = urlsplit(external_host)
    folder = parts.path.rpartition("/")[0]
    callback = f"{parts.scheme}://{parts.netloc}{folder}/outpost.goauthentik.io/callback"
    return tuple(RedirectURI(f"{url}?X-authentik-auth-callback=true") for url in (callback, external_host))


def base_url(host: str, proto: str, *, secure: bool) -> str | None:
    """Where the client reached us, by Host and X-Forwarded-Proto; ``None`` if the host is no host.

    Both say only how the answer to this very request names this server, so they count from anybody.
    """
    if not _HOST.fullmatch(host):
        return None
    scheme = proto.split(",")[0].strip().lower()
    if scheme not in ("http", "https"):
        scheme = "https" if secure else "http"
    return f"{scheme}://{host}"
