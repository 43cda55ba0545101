"""``outposts/proxy/oidc.py`` against a provider that lies, is slow, or is right: cases L7 and L12 to L14."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization

from outposts.proxy.oidc import INTROSPECTED, OidcError, Problem, Tokens
from tests.proxy.openid import (
    ALICE,
    LOGOUT,
    SECRET,
    OpenIdProvider,
    Site,
    challenge_of,
    jwk,
    outpost,
    private,
    query_of,
    site,
    unsigned,
)
from tests.proxy.site import record, table

Change = Callable[[OpenIdProvider], None]
PUBLIC = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


async def exchange(here: Site) -> Tokens:
    """A login whose code has come back."""
    return await here.client.exchange(here.provider, "code", here.login())


async def refused(here: Site) -> OidcError:
    """The error of a login that must not yield anything."""
    with pytest.raises(OidcError) as caught:
        await exchange(here)
    return caught.value


async def test_l07_authorize_url() -> None:
    """S256 challenge and nonce are sent, and the core gets the verifier that belongs to the challenge."""
    async with site() as here:
        state = here.login()
        url = here.client.authorize_url(here.provider, state)
        sent = query_of(url)
        assert url.startswith(f"{here.core.base}/authorize/?client_id=cid-single&redirect_uri=")
        assert list(sent) == [
            "client_id", "redirect_uri", "response_type", "scope", "state", "nonce", "code_challenge",
            "code_challenge_method",
        ]  # fmt: skip
        assert sent["redirect_uri"] == here.provider.redirect_uri
        assert (sent["response_type"], sent["scope"]) == ("code", "openid profile")
        assert (sent["code_challenge"], sent["code_challenge_method"]) == (state.challenge, "S256")
        assert sent["nonce"] == state.nonce
        assert here.provider.sealer.open(sent["state"], time.time()) == state
        await here.client.exchange(here.provider, "c0de", state)
        [form] = here.core.forms["token"]
        assert challenge_of(form.pop("code_verifier")) == sent["code_challenge"]
        assert form == {
            "grant_type": "authorization_code",
            "code": "c0de",
            "redirect_uri": here.provider.redirect_uri,
            "client_id": "cid-single",
            "client_secret": SECRET,
        }


async def test_what_a_login_yields() -> None:
    """The access token's claims and the token itself, whatever the ID token adds; the shorter life of the two."""
    async with site() as here:
        end = time.time() + 100
        here.core.access_claims = {"groups": ["staff", "admins"], "exp": end}
        found = await exchange(here)
        assert found.payload["sub"] == ALICE
        assert found.payload["groups"] == ["staff", "admins"]
        assert found.payload["exp"] == end
        assert found.refresh_token == "r" * 64
        assert jwt.decode(found.token, options={"verify_signature": False})["azp"] == "cid-single"
        assert here.core.heads[-1]["user-agent"].endswith("(provider=S)")
        assert "secret" not in repr(found) and found.token not in repr(found)


async def test_l07_nonce_of_another_login() -> None:
    """Not the one that was sent: no claims."""
    async with site() as here:
        state = here.login()
        for nonce in (None, "", "other", state.nonce + "x"):
            here.core.nonce = nonce
            with pytest.raises(OidcError) as caught:
                await here.client.exchange(here.provider, "code", state)
            assert caught.value.problem is Problem.BAD_TOKEN


def claims(**changed: Any) -> Change:
    """The ID token and the access token say something else."""

    def change(core: OpenIdProvider) -> None:
        core.claims = changed

    return change


def access(**changed: Any) -> Change:
    """Only the access token does."""

    def change(core: OpenIdProvider) -> None:
        core.access_claims = changed

    return change


def members(**changed: Any) -> Change:
    """The token answer has other members."""

    def change(core: OpenIdProvider) -> None:
        core.tokens = changed

    return change


def unsigned_as(spelling: object) -> Change:
    """The ID token without a signature."""

    def change(core: OpenIdProvider) -> None:
        core.tokens["id_token"] = unsigned({"alg": spelling, "typ": "JWT"}, core.payload(nonce=core.nonce))
        core.tokens["access_token"] = None

    return change


def wrong_secret(core: OpenIdProvider) -> None:
    """Signed with something else."""
    core.secret = "y" * 128


def other_hmac(core: OpenIdProvider) -> None:
    """HS512 where the provider says HS256, with the right secret."""
    core.algorithm = "HS512"


def embedded_key(core: OpenIdProvider) -> None:
    """The token brings the key that it is signed with."""
    core.algorithm = "RS256"
    core.sign_with = private("RS256", other=True)
    core.header = {"jwk": jwk("RS256", other=True), "kid": "1", "x5u": f"{core.base}/x", "jku": f"{core.base}/jku"}


def critical(core: OpenIdProvider) -> None:
    """An extension that must be understood."""
    core.header = {"crit": ["exp2"], "exp2": 1}


def half_hash(core: OpenIdProvider) -> None:
    """``at_hash`` of another access token."""
    core.claims = {"at_hash": base64.urlsafe_b64encode(hashlib.sha256(b"other").digest()[:16]).decode().rstrip("=")}


def deep(core: OpenIdProvider) -> None:
    """Claims that are nested to hurt."""
    nested: Any = []
    for _ in range(300):
        nested = [nested]
    core.claims = {"groups": nested}


HOSTILE: dict[str, Change] = {
    "iss of another": claims(iss="https://evil.example/application/o/app/"),
    "iss missing": claims(iss=None),
    "iss with another slash": claims(iss="http://127.0.0.1"),
    "iss as a list": claims(iss=["a"]),
    "aud of another": claims(aud="cid-other"),
    "aud as a list without us": claims(aud=["cid-other"]),
    "aud missing": claims(aud=None),
    "aud as an object": claims(aud={"cid-single": 1}),
    "azp of another": claims(azp="cid-other"),
    "expired": claims(exp=1_000_000_000),
    "expired this second": claims(exp=0),
    "exp missing": claims(exp=None),
    "exp as text": claims(exp="4102444800"),
    "exp as true": claims(exp=True),
    "exp of a thousand years": claims(exp=32_503_680_000),
    "exp beyond floats": claims(exp=10**400),
    "nbf ahead": claims(nbf=32_503_680_000),
    "iat ahead": claims(iat=32_503_680_000),
    "nbf as text": claims(nbf="0"),
    "sub missing": claims(sub=None),
    "sub empty": claims(sub=""),
    "sub as a number": claims(sub=7),
    "at_hash of another": half_hash,
    "deeply nested": deep,
    "access token: aud": access(aud="cid-other"),
    "access token: iss": access(iss="https://evil.example/"),
    "access token: expired": access(exp=1_000_000_000),
    "access token: sub of another": access(sub="somebody else"),
    "access token: no sub": access(sub=None),
    "alg none": unsigned_as("none"),
    "alg None": unsigned_as("None"),
    "alg NONE": unsigned_as("NONE"),
    "alg empty": unsigned_as(""),
    "alg null": unsigned_as(None),
    "alg as a list": unsigned_as(["HS256"]),
    "alg HS256 without signature": unsigned_as("HS256"),
    "alg RS256 without signature": unsigned_as("RS256"),
    "other secret": wrong_secret,
    "other HMAC": other_hmac,
    "key inside": embedded_key,
    "critical extension": critical,
    "no tokens": members(id_token=None, access_token=None),
    "tokens as numbers": members(id_token=7, access_token=8),
    "id_token is no token": members(id_token="abc"),
    "id_token of two parts": members(id_token="a.b"),
    "id_token of four parts": members(id_token="a.b.c.d"),
    "id_token of five parts": members(id_token="a.b.c.d.e"),
    "id_token not ASCII": members(id_token="ä.b.c"),
    "id_token huge": members(id_token="a" * 70_000 + ".b.c"),
    "access token unsigned": members(access_token="e30.e30."),
    "refresh token huge": members(refresh_token="r" * 20_000),
    "an error beside tokens": members(error="invalid_grant"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
async def test_l13_hostile_answers(name: str) -> None:
    """Whatever is wrong with either token, there are no claims; and right after that a good login works."""
    async with site() as here:
        here.login()
        HOSTILE[name](here.core)
        error = await refused(here)
        assert error.problem in (Problem.BAD_TOKEN, Problem.NONSENSE, Problem.REFUSED)
        here.core.claims, here.core.access_claims, here.core.tokens, here.core.header = {}, {}, {}, {}
        here.core.algorithm, here.core.secret, here.core.sign_with = "HS256", SECRET, None
        assert (await exchange(here)).payload["sub"] == ALICE


@pytest.mark.parametrize("algorithm", PUBLIC)
async def test_l14_public_keys(algorithm: str) -> None:
    """Every algorithm with a public key, by the provider's key set."""
    async with site(algorithms=[algorithm]) as here:
        here.core.keys = [jwk(algorithm, "one")]
        here.core.header = {"kid": "one"}
        assert (await exchange(here)).payload["sub"] == ALICE
        await exchange(here)
        assert len(here.core.forms["jwks"]) == 1  # kept


async def test_l14_key_marked_for_its_algorithm() -> None:
    """The core lists HS256 for all providers; a key that it publishes for ES256 says enough."""
    async with site(algorithms=["HS256"]) as here:
        here.core.algorithm = "ES256"
        here.core.keys = [jwk("ES256", "one", alg="ES256")]
        here.core.header = {"kid": "one"}
        assert (await exchange(here)).payload["sub"] == ALICE
        here.core.keys = [jwk("ES256", "two")]  # not marked, and not listed
        here.core.header = {"kid": "two"}
        assert (await refused(here)).problem is Problem.BAD_TOKEN


@pytest.mark.parametrize("algorithms", [["RS256"], ["RS256", "HS256"], ["HS256"]])
async def test_l13_algorithm_confusion(algorithms: list[str]) -> None:
    """HS256 made with a public key in any of its forms is not signed by anybody."""
    async with site(algorithms=algorithms) as here:
        core = here.core
        core.keys = [jwk("RS256", "one")]
        public = private("RS256").public_key()
        forms = [
            public.public_bytes(encoding, form)
            for encoding, form in (
                (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
                (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
                (serialization.Encoding.PEM, serialization.PublicFormat.PKCS1),
            )
        ]
        forms += [form.strip() for form in forms] + [b"", core.keys[0]["n"].encode()]
        for form in forms:
            core.tokens = {"access_token": None, "id_token": hmac_token(core.payload(nonce=here.login().nonce), form)}
            assert (await refused(here)).problem is Problem.BAD_TOKEN


def hmac_token(payload: Mapping[str, Any], secret: bytes) -> str:
    """HS256 with any octets as the key, and the key's name of the RSA key."""
    import hmac

    plain = unsigned({"alg": "HS256", "kid": "one"}, payload).rpartition(".")[0]
    digest = hmac.digest(secret, plain.encode(), "sha256")
    return f"{plain}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


async def test_l13_public_key_where_a_secret_is_listed() -> None:
    """RS256 by a provider that lists HS256 and publishes nothing."""
    async with site() as here:
        here.core.algorithm = "RS256"
        here.core.keys = {}
        assert (await refused(here)).problem is Problem.BAD_TOKEN


@pytest.mark.parametrize(
    "keys",
    [
        [],
        {},
        {"keys": "abc"},
        {"keys": [None, 7, "x", {}, {"kty": "RSA"}, {"kty": "oct", "k": "eHh4", "kid": "one", "alg": "HS256"}]},
        [{"kty": "RSA", "kid": "one", "n": "AQAB", "e": "AQAB"}],  # 17 bits
        [jwk("RS256", "one", use="enc")],
        [jwk("RS256", "one", alg="RS512")],
        [jwk("RS256", "one", key_ops=["encrypt"])],
        [jwk("RS256", "two")],
        [jwk("RS256", "one", other=True)],
        [jwk("ES256", "one")],
    ],
)
async def test_l13_key_sets_that_do_not_help(keys: Any) -> None:
    """Weak, foreign, broken, for other uses, of another kind."""
    async with site(algorithms=["RS256"]) as here:
        here.core.keys = keys
        here.core.header = {"kid": "one"}
        assert (await refused(here)).problem is Problem.BAD_TOKEN


async def test_a_private_key_in_a_key_set_is_used_as_a_public_one() -> None:
    """A provider's mistake that is not made worse here."""
    async with site(algorithms=["RS256"]) as here:
        whole = type(jwt.get_algorithm_by_name("RS256")).to_jwk(private("RS256"), as_dict=True)
        here.core.keys = [whole | {"kid": "one", "key_ops": ["verify"]}]
        here.core.header = {"kid": "one"}
        assert (await exchange(here)).payload["sub"] == ALICE


async def test_key_rotation() -> None:
    """A new key's name makes us look once; names that nobody has do not make us look again and again."""
    now = 1000.0
    async with site(algorithms=["ES256"]) as here:
        here.client._keys._now = lambda: now
        here.core.keys = [jwk("ES256", "old")]
        here.core.header = {"kid": "old"}
        await exchange(here)
        here.core.keys = [jwk("ES384", "other"), jwk("ES256", "new")]
        here.core.header = {"kid": "new"}
        assert (await refused(here)).problem is Problem.BAD_TOKEN  # too early to look again
        now += 10
        await exchange(here)
        assert len(here.core.forms["jwks"]) == 2
        here.core.header = {"kid": "nobody's"}
        for _ in range(20):
            assert (await refused(here)).problem is Problem.BAD_TOKEN
        assert len(here.core.forms["jwks"]) == 2
        now += 10
        for error in await asyncio.gather(*(refused(here) for _ in range(20))):
            assert error.problem is Problem.BAD_TOKEN
        assert len(here.core.forms["jwks"]) == 3  # one for all who wait
        here.core.header = {"kid": "old"}  # withdrawn
        assert (await refused(here)).problem is Problem.BAD_TOKEN


async def test_keys_outlive_a_core_that_is_down() -> None:
    """For a day; then nobody knows any more."""
    now = 1000.0
    async with site(algorithms=["ES256"]) as here:
        here.client._keys._now = lambda: now
        here.core.keys = [jwk("ES256", "one")]
        await exchange(here)
        here.core.answers["jwks"] = failing(503)
        now += 3600
        await exchange(here)
        now += 86_400
        assert (await refused(here)).problem is Problem.UNAVAILABLE


def failing(status: int, body: str = "{}", content_type: str = "application/json", **headers: str) -> Any:
    """An answer that is none."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=body, content_type=content_type, headers=headers)

    return answer


async def hanging(_: web.Request) -> web.StreamResponse:
    """No answer."""
    await asyncio.sleep(3600)
    raise AssertionError


async def dripping(request: web.Request) -> web.StreamResponse:
    """An answer that never ends, an octet at a time, so that no single read takes long."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.01)


async def broken_off(request: web.Request) -> web.StreamResponse:
    """Half an answer."""
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"access_token": "')
    assert request.transport is not None
    request.transport.abort()
    return response


FAULTS: dict[str, tuple[Any, Problem]] = {
    "400": (failing(400, '{"error": "invalid_grant", "error_description": "secret"}'), Problem.REFUSED),
    "401": (failing(401), Problem.REFUSED),
    "403": (failing(403), Problem.REFUSED),
    "404 page": (failing(404, "<html>", "text/html"), Problem.NONSENSE),
    "429": (failing(429), Problem.UNAVAILABLE),
    "500": (failing(500), Problem.UNAVAILABLE),
    "502 page": (failing(502, "<html>", "text/html"), Problem.UNAVAILABLE),
    "a page": (failing(200, "<html>", "text/html"), Problem.NONSENSE),
    "JSON as text": (failing(200, "{}", "text/plain"), Problem.NONSENSE),
    "a redirect": (failing(302, "", "text/html", Location="/elsewhere/"), Problem.NONSENSE),
    "307": (failing(307, "", "text/html", Location="/elsewhere/"), Problem.NONSENSE),
    "a list": (failing(200, "[]"), Problem.NONSENSE),
    "null": (failing(200, "null"), Problem.NONSENSE),
    "broken JSON": (failing(200, '{"access_token": '), Problem.NONSENSE),
    "nesting": (failing(200, "[" * 100_000), Problem.NONSENSE),
    "empty": (failing(200, ""), Problem.NONSENSE),
    "big": (failing(200, '{"x": "' + "a" * 300_000 + '"}'), Problem.NONSENSE),
    "huge": (failing(200, '{"x": "' + "a" * 3_000_000 + '"}'), Problem.NONSENSE),
    "hanging": (hanging, Problem.UNAVAILABLE),
    "dripping": (dripping, Problem.UNAVAILABLE),
    "broken off": (broken_off, Problem.UNAVAILABLE),
}  # fmt: skip


@pytest.mark.parametrize("call", ["token", "introspect", "jwks", "refresh", "client_credentials"])
@pytest.mark.parametrize("name", FAULTS)
async def test_l12_faults_of_every_call(call: str, name: str) -> None:
    """No answer that can be used, within the time that a call may take: an error that says which kind."""
    answer, problem = FAULTS[name]
    async with site(algorithms=["RS256" if call == "jwks" else "HS256"], timeout_s=0.5) as here:
        here.core.answers["token" if call in ("refresh", "client_credentials") else call] = answer
        before = asyncio.get_running_loop().time()
        asked = {
            "introspect": lambda: here.client.introspect(here.provider, "t"),
            "refresh": lambda: here.client.refresh(here.provider, "r", ALICE),
            "client_credentials": lambda: here.client.client_credentials(here.provider, "alice", "p"),
        }.get(call, lambda: exchange(here))
        with pytest.raises(OidcError) as caught:
            await asked()
        assert asyncio.get_running_loop().time() - before < 5
        if call == "jwks":
            assert caught.value.problem is Problem.UNAVAILABLE
        elif call == "introspect" and problem is Problem.REFUSED:
            assert caught.value.problem is Problem.NONSENSE
        else:
            assert caught.value.problem is problem
        assert "elsewhere" not in here.core.forms
        assert len(here.core.forms["jwks" if call == "jwks" else "token" if call != "introspect" else call]) == 1
        assert "secret" not in caught.value.detail


async def test_l12_no_core_at_all() -> None:
    """Nobody listens."""
    async with site() as here:
        gone = table(
            record(
                1,
                "S",
                "cid-single",
                "https://app.example.com",
                mode="forward_single",
                oidc_configuration={**here.core.oidc(), "token_endpoint": "http://127.0.0.1:9/token/"},
            )
        )
        here.client.apply(gone, outpost())
        with pytest.raises(OidcError) as caught:
            await here.client.exchange(gone.by_pk[1], "code", here.login())
        assert caught.value.problem is Problem.UNAVAILABLE
        assert caught.value.retryable


async def test_endpoints_that_are_none() -> None:
    """A provider that names no place, or one that is none, is misconfigured; nothing is called."""
    async with site() as here:
        for bad in ({}, {"authorization_endpoint": "javascript:alert(1)", "token_endpoint": "file:///etc/passwd"}):
            broken = table(
                record(1, "S", "cid-single", "https://app.example.com", mode="forward_single", oidc_configuration=bad)
            )
            here.client.apply(broken, outpost())
            provider = broken.by_pk[1]
            for ask in (
                here.client.exchange(provider, "code", here.login()),
                here.client.introspect(provider, "t"),
            ):
                with pytest.raises(OidcError) as caught:
                    await ask
                assert caught.value.problem is Problem.MISCONFIGURED
            with pytest.raises(OidcError):
                here.client.authorize_url(provider, here.login())
            assert here.client.end_session_url(provider) == ""
        here.client.apply(table(), outpost())
        with pytest.raises(OidcError):
            await exchange(here)  # not served any more
        assert here.core.forms == {}


async def test_access_token_alone() -> None:
    """Without the scope ``openid`` there is no ID token: then the access token has to carry the nonce."""
    async with site() as here:
        state = here.login()
        here.core.tokens = {"id_token": None}
        assert (await refused(here)).problem is Problem.BAD_TOKEN
        here.core.access_claims = {"nonce": state.nonce}
        assert (await exchange(here)).payload["sub"] == ALICE


async def test_opaque_access_token() -> None:
    """It is of use for introspection only; applications get the ID token."""
    async with site() as here:
        here.core.tokens = {"access_token": "opaque"}
        found = await exchange(here)
        assert found.token.count(".") == 2
        assert found.payload[INTROSPECTED] == "opaque"


async def test_access_token_hash() -> None:
    """``at_hash`` of the token that came with it."""
    async with site() as here:
        token = here.core.token(here.core.payload(azp="cid-single"))
        half = hashlib.sha256(token.encode()).digest()[:16]
        here.core.claims = {"at_hash": base64.urlsafe_b64encode(half).rstrip(b"=").decode()}
        here.core.tokens = {"access_token": token}
        assert (await exchange(here)).token == token


async def test_refresh() -> None:
    """New tokens for the same user; for another one, none."""
    async with site() as here:
        found = await here.client.refresh(here.provider, "r0", ALICE)
        assert found.payload["sub"] == ALICE
        assert here.core.forms["token"] == [
            {"grant_type": "refresh_token", "refresh_token": "r0", "client_id": "cid-single", "client_secret": SECRET}
        ]
        with pytest.raises(OidcError) as caught:
            await here.client.refresh(here.provider, "r0", "bob")
        assert caught.value.problem is Problem.BAD_TOKEN


async def test_client_credentials() -> None:
    """The reference's form, without client secret; the ID token is what applications get."""
    async with site() as here:
        found = await here.client.client_credentials(here.provider, "alice", "app pw")
        assert here.core.forms["token"] == [
            {
                "grant_type": "client_credentials",
                "client_id": "cid-single",
                "username": "alice",
                "password": "app pw",
                "scope": "openid profile",
            }
        ]
        assert "azp" not in found.payload


async def test_introspection() -> None:
    """Active is what says so with ``true``, and nothing else."""
    async with site() as here:
        here.core.active = lambda token: {"sub": ALICE}
        assert (await here.client.introspect(here.provider, "t") or {})["sub"] == ALICE
        for content in ('{"active": false}', '{"active": "true"}', '{"active": 1}', "{}"):
            here.core.answers["introspect"] = failing(200, content)
            assert await here.client.introspect(here.provider, "t") is None
        assert here.core.forms["introspect"][0] == {"client_id": "cid-single", "client_secret": SECRET, "token": "t"}


@pytest.mark.parametrize(
    ("claims", "good"),
    [
        ({}, True),
        ({"iss": "own", "aud": "cid-single"}, True),
        ({"iss": "own", "aud": ["x", "cid-single"]}, True),
        ({"iss": "own", "aud": "cid-other"}, False),
        ({"aud": "cid-other"}, False),
        ({"iss": "federated", "aud": "cid-other", "client_id": "cid-single"}, True),
        ({"iss": "federated", "client_id": "cid-other"}, False),
        ({"iss": "https://evil.example/application/o/app/", "aud": "cid-single"}, False),
        ({"iss": 7}, False),
        ({"iss": "own", "aud": "cid-single", "azp": "cid-other"}, False),
    ],
)
async def test_origin_of_introspected_claims(claims: dict[str, Any], good: bool) -> None:
    """Of our issuer and for us, or of another issuer of the same core, which has vouched for it."""
    async with site() as here:
        names = {"own": here.core.issuer, "federated": f"{here.core.base}/application/o/other/"}
        claims = claims | ({"iss": names.get(claims["iss"], claims["iss"])} if "iss" in claims else {})
        if good:
            here.client.check_origin(here.provider, claims)
        else:
            with pytest.raises(OidcError):
                here.client.check_origin(here.provider, claims)


@pytest.mark.parametrize(
    ("changed", "good"),
    [
        ({}, True),
        ({"sub": None}, True),
        ({"sid": None}, True),
        ({"sub": None, "sid": None}, False),
        ({"jti": None}, False),
        ({"iat": None}, False),
        ({"exp": None}, False),
        ({"exp": 1}, False),
        ({"nonce": "n"}, False),
        ({"events": None}, False),
        ({"events": {}}, False),
        ({"events": {"http://schemas.openid.net/event/backchannel-logout": 1}}, False),
        ({"aud": "cid-other"}, False),
        ({"iss": "https://evil.example/"}, False),
        ({"sid": 7}, False),
    ],
)
async def test_logout_tokens(changed: dict[str, Any], good: bool) -> None:
    """OpenID Connect Back-Channel Logout 1.0 §2.6, rule by rule."""
    async with site() as here:
        token = here.core.token(here.core.payload(**{"events": LOGOUT, "jti": "j1", **changed}))
        if good:
            assert (await here.client.logout_token(here.provider, token)).token_id == "j1"
        else:
            with pytest.raises(OidcError):
                await here.client.logout_token(here.provider, token)


async def test_an_id_token_is_no_logout_token_and_the_other_way_round() -> None:
    """One cannot be used as the other."""
    async with site() as here:
        state = here.login()
        with pytest.raises(OidcError):
            await here.client.logout_token(here.provider, here.core.token(here.core.payload(nonce=state.nonce)))
        here.core.tokens = {
            "access_token": None,
            "id_token": here.core.token(here.core.payload(events=LOGOUT, jti="j1")),
        }
        assert (await refused(here)).problem is Problem.BAD_TOKEN
