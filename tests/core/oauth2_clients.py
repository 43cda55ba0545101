"""Clients of the OAuth2 provider in tests, and an independent look at what they get.

Signatures are checked with ``hmac`` and ``cryptography`` alone, not with the library that makes them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from core import models
from tests.core.browsers import FORM
from tests.core.cores import Core, Reply

CALLBACK = "/outpost.goauthentik.io/callback?X-authentik-auth-callback=true"
PROXY_SCOPES = "openid email profile entitlements ak_proxy"
WEB, SPA = "web-client", "spa-client"
WEB_CALLBACK = "https://web.example.test/cb"
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"

# Two ordinary clients beside the recorded proxies.
BLUEPRINT = """
version: 1
entries:
  - model: authentik_providers_oauth2.oauth2provider
    id: web
    identifiers: {name: web}
    attrs:
      authorization_flow: !Find [authentik_flows.flow, [slug, default-provider-authorization-implicit-consent]]
      invalidation_flow: !Find [authentik_flows.flow, [slug, default-invalidation-flow]]
      client_id: web-client
      client_secret: web-client-secret-0123456789abcdef0123456789
      redirect_uris:
        - {url: "https://web.example.test/cb"}
        - {url: "https://[a-z]+\\\\.example\\\\.test/back", matching_mode: regex}
        - {url: "https://web.example.test/bye", redirect_uri_type: logout}
      property_mappings:
        - !Find [authentik_providers_oauth2.scopemapping, [scope_name, openid]]
        - !Find [authentik_providers_oauth2.scopemapping, [scope_name, email]]
        - !Find [authentik_providers_oauth2.scopemapping, [scope_name, offline_access]]
  - model: authentik_core.application
    id: web-app
    identifiers: {slug: web}
    attrs: {name: Web, provider: !KeyOf web, meta_launch_url: "https://web.example.test/?u=%(username)s"}
  - model: authentik_providers_oauth2.oauth2provider
    id: spa
    identifiers: {name: spa}
    attrs:
      authorization_flow: !Find [authentik_flows.flow, [slug, default-provider-authorization-implicit-consent]]
      client_type: public
      client_id: spa-client
      redirect_uris: "https://spa.example.test/cb"
  - model: authentik_core.application
    identifiers: {slug: spa}
    attrs: {name: Spa, provider: !KeyOf spa}
"""


@dataclass(frozen=True)
class OAuthClient:
    """What a client is configured with."""

    core: Core
    client_id: str
    secret: str | None
    redirect_uri: str
    scope: str

    def authorize(self, **changed: str | None) -> str:
        """The path of an authorization request; ``None`` leaves a parameter out."""
        asked: dict[str, str | None] = {
            "client_id": self.client_id,
            "redirect_uri": self.redirect_uri,
            "response_type": "code",
            "scope": self.scope,
            "state": "state-1",
        }
        given = {name: value for name, value in (asked | changed).items() if value is not None}
        return "/application/o/authorize/?" + urlencode(given)

    async def post(self, endpoint: str, headers: dict[str, str] | None = None, **fields: str | None) -> Reply:
        """A form to an endpoint with the client's credentials; ``None`` leaves a field out."""
        sent: dict[str, str | None] = {"client_id": self.client_id, "client_secret": self.secret}
        given = {name: value for name, value in (sent | fields).items() if value is not None}
        return await self.core.client().request(
            "POST",
            f"/application/o/{endpoint}/",
            raw=urlencode(given),
            headers={"Content-Type": FORM} | (headers or {}),
        )

    async def exchange(self, code: str, headers: dict[str, str] | None = None, **fields: str | None) -> Reply:
        """A code for tokens."""
        sent: dict[str, str | None] = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
        }
        return await self.post("token", headers, **(sent | fields))

    async def introspect(self, token: str) -> dict[str, Any]:
        """What the core says about a token."""
        found: dict[str, Any] = (await self.post("introspect", token=token)).json
        return found


def proxy(core: Core, slug: str = "proxy-full") -> OAuthClient:
    """One of the recorded proxy providers, as its outpost knows it."""
    application = core.database.first(models.Application, slug=slug)
    assert application is not None
    provider = core.database.get(models.Provider, application.provider)
    options = provider.options
    return OAuthClient(
        core, options["client_id"], options["client_secret"], options["external_host"] + CALLBACK, PROXY_SCOPES
    )


def web(core: Core) -> OAuthClient:
    """A confidential client that may have refresh tokens; the two ordinary clients are made on first use."""
    if not core.database.exists(models.Application, slug="web"):
        core.inner.blueprints.apply(BLUEPRINT, "clients")
    secret = "web-client-secret-0123456789abcdef0123456789"
    return OAuthClient(core, WEB, secret, WEB_CALLBACK, "openid email offline_access")


def spa(core: Core) -> OAuthClient:
    """A public client."""
    web(core)
    return OAuthClient(core, SPA, None, "https://spa.example.test/cb", "openid profile")


def decoded(text: str) -> Any:
    """JSON behind base64url."""
    return json.loads(raw(text))


def raw(text: str) -> bytes:
    """Octets behind base64url without padding."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def claims_of(token: str, secret: str) -> dict[str, Any]:
    """The claims of an HS256 token, whose signature is checked."""
    head, body, signature = token.split(".")
    assert decoded(head) == {"alg": "HS256", "typ": "JWT"}
    expected = hmac.new(secret.encode(), f"{head}.{body}".encode(), hashlib.sha256).digest()
    assert hmac.compare_digest(expected, raw(signature)), "the signature is wrong"
    claims: dict[str, Any] = decoded(body)
    return claims


def claims_by_key_set(token: str, keys: list[dict[str, Any]]) -> dict[str, Any]:
    """The claims of an RS256 or ES256 token, whose signature is checked with the key that its header names."""
    head, body, signature = token.split(".")
    header = decoded(head)
    (key,) = [item for item in keys if item["kid"] == header["kid"]]
    assert key["alg"] == header["alg"] and key["use"] == "sig"
    signed = f"{head}.{body}".encode()
    number = lambda name: int.from_bytes(raw(key[name]), "big")  # noqa: E731
    if header["alg"] == "RS256":
        public = rsa.RSAPublicNumbers(number("e"), number("n")).public_key()
        public.verify(raw(signature), signed, padding.PKCS1v15(), hashes.SHA256())
    else:
        assert header["alg"] == "ES256" and key["crv"] == "P-256"
        point = ec.EllipticCurvePublicNumbers(number("x"), number("y"), ec.SECP256R1()).public_key()
        octets = raw(signature)
        r, s = (int.from_bytes(part, "big") for part in (octets[:32], octets[32:]))
        point.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
    claims: dict[str, Any] = decoded(body)
    return claims
