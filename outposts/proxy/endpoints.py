"""Where a provider's OpenID endpoints are: as browsers reach them, and as we do (RFC 6749 §3, OIDC Discovery §3).

The core builds all URLs from the Host header of whoever asks it, ours included, so a core that is reached by another
name than browsers use needs two views: what a browser is sent to has the public origin, what we call has the address
that we know, with ``Host`` and ``X-Forwarded-Proto`` of the public one, so that tokens name the issuer that everybody
else sees. Only scheme and host are exchanged; paths stay. Level 1: no input or output.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from outposts.proxy.state import LoginState

MAX_ENDPOINT = 2048  # characters of one endpoint's URL; the core's have about 80
SIGNING = frozenset(
    {
        "HS256",
        "HS384",
        "HS512",
        "RS256",
        "RS384",
        "RS512",
        "PS256",
        "PS384",
        "PS512",
        "ES256",
        "ES384",
        "ES512",
        "EdDSA",
    }
)
"""Algorithms of RFC 7518 §3.1 and RFC 8037 that are verified. ``none`` is not one."""

_OCTETS = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The endpoints of one provider; "" is what the core does not name.

    ``authorize`` and ``end_session`` are for browsers; ``jwks``, ``token`` and ``introspection`` for us, the last two
    with ``host`` and ``scheme`` (of the public origin; "" if it is the address's own) as ``Host`` and
    ``X-Forwarded-Proto``. ``issuers`` are the names that the core may give itself in a token.
    """

    authorize: str = ""
    end_session: str = ""
    jwks: str = ""
    token: str = ""
    introspection: str = ""
    issuers: tuple[str, ...] = ()
    algorithms: frozenset[str] = frozenset()
    host: str = ""
    scheme: str = ""

    @property
    def forwarded(self) -> list[tuple[str, str]]:
        """Headers of a call that has to look like a browser's."""
        return [("Host", self.host), ("X-Forwarded-Proto", self.scheme)] if self.host else []


def endpoints(
    oidc: Mapping[str, Any], *, host_browser: str = "", authentik_host: str = "", embedded: bool = False
) -> Endpoints:
    """The endpoints out of a provider's ``oidc_configuration``.

    ``host_browser`` and ``authentik_host`` are URLs, of which scheme and host count. ``embedded``: the outpost is the
    core's own one, whose records have addresses that browsers do not reach.
    """
    public = origin(authentik_host) if embedded else origin(host_browser)
    overriding = origin(host_browser) or origin(authentik_host)
    issuer, jwks = _url(oidc.get("issuer")), _url(oidc.get("jwks_uri"))
    token, introspection = _url(oidc.get("token_endpoint")), _url(oidc.get("introspection_endpoint"))
    names = dict.fromkeys(at(issuer, place) for place in (public, None, overriding) if issuer)
    host, scheme = "", ""
    if overriding is not None and any(origin(url) not in (None, overriding) for url in (token, introspection)):
        scheme, host = overriding
    listed = oidc.get("id_token_signing_alg_values_supported")
    return Endpoints(
        authorize=at(_url(oidc.get("authorization_endpoint")), public),
        end_session=at(_url(oidc.get("end_session_endpoint")), public),
        jwks=at(jwks, public) if embedded else jwks,
        token=token,
        introspection=introspection,
        issuers=tuple(names),
        algorithms=frozenset(name for name in listed if isinstance(name, str)) & SIGNING
        if isinstance(listed, list)
        else frozenset(),
        host=host,
        scheme=scheme,
    )


def origin(url: str) -> tuple[str, str] | None:
    """Scheme and ``host[:port]`` of an http or https URL, in lower case; None if it is none."""
    if not url or len(url) > MAX_ENDPOINT or not _OCTETS.fullmatch(url):
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or port == 0:
        return None
    return parts.scheme, parts.netloc.lower()


def at(url: str, place: tuple[str, str] | None) -> str:
    """A URL with another scheme and host; as it is if there is no place, or no URL."""
    if place is None or not url:
        return url
    parts = urlsplit(url)
    return urlunsplit((*place, parts.path, parts.query, ""))


def _url(value: object) -> str:
    return value if isinstance(value, str) and origin(value) is not None else ""


def authorize_url(
    where: Endpoints, client_id: str, redirect_uri: str, scopes: Iterable[str], state: LoginState, sealed: str
) -> str:
    """The URL that begins a login (RFC 6749 §4.1.1) with PKCE S256 (RFC 7636 §4.3) and a nonce.

    ``sealed`` is the parameter ``state``. A query that the endpoint has already stays (RFC 6749 §3.1).
    """
    pairs = [("client_id", client_id), ("redirect_uri", redirect_uri), ("response_type", "code")]
    scope = " ".join(scopes)
    if scope:
        pairs.append(("scope", scope))
    pairs += [
        ("state", sealed),
        ("nonce", state.nonce),
        ("code_challenge", state.challenge),
        ("code_challenge_method", "S256"),
    ]
    return f"{where.authorize}{'&' if '?' in where.authorize else '?'}{urlencode(pairs)}"
