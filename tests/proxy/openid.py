"""An OpenID provider on loopback that lies when a test wants it to: endpoints, keys, and tokens of any kind."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from common.records import OutpostRecord
from outposts.proxy.oidc import OpenIdClient
from outposts.proxy.providers import Providers, ProxyProvider
from outposts.proxy.state import LoginState
from tests.common.core_server import Address, served
from tests.proxy.site import record, table

SECRET = "x" * 128  # as long as the core's
ALICE = "f182d6106e2ad766"
LOGOUT = {"http://schemas.openid.net/event/backchannel-logout": {}}

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
_OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
_EC = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
}
_ED = ed25519.Ed25519PrivateKey.generate()


def private(algorithm: str, *, other: bool = False) -> Any:
    """A private key for an algorithm; ``other``: one that the provider does not publish."""
    if algorithm[:2] in ("RS", "PS"):
        return _OTHER_RSA if other else _RSA
    if algorithm[:2] == "ES":
        return ec.generate_private_key(_EC[algorithm].curve) if other else _EC[algorithm]
    return ed25519.Ed25519PrivateKey.generate() if other else _ED


def jwk(algorithm: str, key_id: str = "", *, other: bool = False, **more: Any) -> dict[str, Any]:
    """The public half as a provider publishes it."""
    public = private(algorithm, other=other).public_key()
    maker = jwt.get_algorithm_by_name(algorithm)
    entry: dict[str, Any] = json.loads(type(maker).to_jwk(public))
    return entry | ({"kid": key_id} if key_id else {}) | more


def unsigned(header: Mapping[str, Any], payload: Mapping[str, Any], signature: bytes = b"") -> str:
    """A token put together by hand."""
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


class OpenIdProvider:
    """What the server answers. ``forms`` are the bodies it got, by endpoint; ``hosts`` the Host headers."""

    def __init__(self) -> None:
        self.base = ""
        self.algorithm = "HS256"
        self.secret = SECRET
        self.claims: dict[str, Any] = {}  # over those of a good token
        self.access_claims: dict[str, Any] = {}
        self.header: dict[str, Any] = {}
        self.keys: Any = []
        self.sign_with: Any = None
        self.tokens: dict[str, Any] = {}  # over the members of a token answer; None takes one out
        self.active: Callable[[str], Any] = lambda token: False
        self.answers: dict[str, Answer] = {}  # by endpoint, in the place of a right answer
        self.forms: dict[str, list[dict[str, str]]] = {}
        self.heads: list[dict[str, str]] = []
        self.nonce: str | None = None

    @property
    def issuer(self) -> str:
        """The name that tokens say."""
        return f"{self.base}/application/o/app/"

    def oidc(self, algorithms: list[str] | None = None, **more: str) -> dict[str, Any]:
        """The provider's configuration as the core lists it."""
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.base}/authorize/",
            "token_endpoint": f"{self.base}/token/",
            "introspection_endpoint": f"{self.base}/introspect/",
            "end_session_endpoint": f"{self.base}/end-session/",
            "jwks_uri": f"{self.base}/jwks/",
            "id_token_signing_alg_values_supported": algorithms or [self.algorithm],
            **more,
        }

    def payload(self, **more: Any) -> dict[str, Any]:
        """Claims of a good token."""
        now = time.time()
        found = {
            "iss": self.issuer,
            "sub": ALICE,
            "aud": "cid-single",
            "exp": now + 600,
            "iat": now,
            "sid": "5e" * 32,
            "preferred_username": "alice",
            "groups": ["staff"],
            "ak_proxy": {"user_attributes": {}, "is_superuser": False},
        }
        found |= more
        return {name: value for name, value in found.items() if value is not None}

    def token(self, payload: Mapping[str, Any]) -> str:
        """A token signed as the provider signs at the moment."""
        key = self.sign_with
        if key is None:
            key = self.secret if self.algorithm.startswith("HS") else private(self.algorithm)
        return jwt.PyJWS().encode(json.dumps(payload).encode(), key, self.algorithm, headers=self.header)

    def answer(self, nonce: str | None) -> dict[str, Any]:
        """A token answer."""
        id_claims = self.payload(**{"nonce": nonce, **self.claims})
        access_claims = self.payload(**{"azp": "cid-single", "uid": "u", **self.claims, **self.access_claims})
        found = {
            "access_token": self.token(access_claims),
            "id_token": self.token(id_claims),
            "refresh_token": "r" * 64,
            "token_type": "Bearer",
            "expires_in": 600,
            **self.tokens,
        }
        return {name: value for name, value in found.items() if value is not None}

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        name = request.path.strip("/")
        form = {key: values[0] for key, values in parse_qs(await request.text(), keep_blank_values=True).items()}
        self.forms.setdefault(name, []).append(form)
        self.heads.append({key.lower(): value for key, value in request.headers.items()})
        own = self.answers.get(name)
        if own is not None:
            return await own(request)
        if name == "token":
            return web.json_response(
                self.answer(self.nonce if form.get("grant_type") == "authorization_code" else None)
            )
        if name == "introspect":
            found = self.active(form.get("token", ""))
            return web.json_response({"active": bool(found), **(found if isinstance(found, dict) else {})})
        if name == "jwks":
            return web.json_response({"keys": self.keys} if isinstance(self.keys, list) else self.keys)
        return web.Response(status=404)


def outpost(**config: Any) -> OutpostRecord:
    """The outpost object."""
    return OutpostRecord(pk="u", name="outpost", type="proxy", config=config)


class Site:
    """A provider, its configuration, and the client that talks to it."""

    def __init__(self, core: OpenIdProvider, client: OpenIdClient, providers: Providers) -> None:
        self.core = core
        self.client = client
        self.providers = providers
        self.provider: ProxyProvider = providers.by_pk[1]

    def login(self) -> LoginState:
        """A login that is going on: the provider knows its nonce."""
        state = LoginState(b"s" * 32, int(time.time()), b"b" * 16)
        self.core.nonce = state.nonce
        return state


@asynccontextmanager
async def site(
    *,
    algorithms: list[str] | None = None,
    timeout_s: float = 5.0,
    host_browser: str = "",
    settings: dict[str, Any] | None = None,
    **rest: Any,
) -> AsyncIterator[Site]:
    """Everything, on loopback. ``rest`` are fields of the provider's record."""
    core = OpenIdProvider()
    if algorithms:
        core.algorithm = algorithms[0]
    async with served(core) as base:
        core.base = base
        one = record(
            1,
            "S",
            "cid-single",
            "https://app.example.com",
            **{"mode": "forward_single", "client_secret": SECRET, "oidc_configuration": core.oidc(algorithms), **rest},
        )
        client = OpenIdClient(Address(base), host_browser=host_browser, timeout_s=timeout_s)
        providers = table(one, **(settings or {}))
        client.apply(providers, outpost())
        try:
            yield Site(core, client, providers)
        finally:
            await client.close()


def challenge_of(verifier: str) -> str:
    """PKCE S256."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def query_of(url: str) -> dict[str, str]:
    """A URL's parameters."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
