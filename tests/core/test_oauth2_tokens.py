"""Tokens: refresh, client credentials and app passwords, introspection, revocation, userinfo, keys, log-out."""

from __future__ import annotations

import base64
import datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from core import models
from tests.certificates import key_pair
from tests.core.browsers import Browser
from tests.core.cores import Clock, Core, core
from tests.core.oauth2_clients import OAuthClient, claims_by_key_set, claims_of, decoded, proxy, spa, web

ALICE = {"grant_type": "client_credentials", "username": "alice", "password": "alice-app-password-key-1"}


async def active(client: OAuthClient, token: str) -> bool:
    """Whether the core says that a token counts."""
    found: bool = (await client.introspect(token))["active"]
    return found


async def tokens_of(client: OAuthClient, browser: Browser | None = None) -> dict[str, Any]:
    """Tokens of alice by the code flow."""
    if browser is None:
        browser = Browser(client.core)
        await browser.open("/")
        await browser.log_in()
    await browser.open(client.authorize())
    reply = await client.exchange(browser.given["code"])
    assert reply.status == 200, reply.body
    found: dict[str, Any] = reply.json
    return found


async def refused(client: OAuthClient, **fields: str | None) -> str:
    """The error of a token request."""
    reply = await client.post("token", **fields)
    assert reply.status == 400, reply.body
    assert set(reply.json) == {"error", "error_description", "request_id"}
    assert reply.headers["Cache-Control"] == "no-store"
    return str(reply.json["error"])


# --- app passwords and client credentials -----------------------------------------------------------------------------


async def test_an_app_password_is_enough() -> None:
    """Conformance case 88: no client secret, and a token without session."""
    async with core() as running:
        client = proxy(running)
        assert client.secret is not None
        reply = await client.post("token", client_secret=None, scope=client.scope, **ALICE)
        assert reply.status == 200, reply.body
        claims = claims_of(reply.json["id_token"], client.secret)
        assert claims["sub"] == running.user("alice").uid
        assert "sid" not in claims and "amr" not in claims
        assert claims["ak_proxy"]["user_attributes"]["sn"] == "Anders"
        assert (await client.introspect(reply.json["access_token"]))["active"] is True
        assert "refresh_token" not in reply.json
        reply = await client.post("token", client_secret=None, scope=client.scope, **ALICE | {"grant_type": "password"})
        assert reply.status == 200


@pytest.mark.parametrize(
    ("username", "password"),
    [
        ("alice", "alice-pw-1"),
        ("alice", "wrong"),
        ("Alice", "alice-app-password-key-1"),
        ("alice", "alice-api-token-key-1"),
        ("alice", None),
        (None, "alice-app-password-key-1"),
        ("bob", "alice-app-password-key-1"),
        ("ldapservice", "ldapservice-app-password-key-1"),
        ("nobody-here", "x"),
    ],
)
async def test_app_passwords_that_are_refused(username: str | None, password: str | None) -> None:
    """Real passwords, other spellings, API tokens, other people's, and who may not use the application: one answer."""
    async with core() as running:
        client = proxy(running)
        fields = {"grant_type": "client_credentials", "username": username, "password": password}
        assert await refused(client, client_secret=None, scope=client.scope, **fields) == "invalid_grant"
        assert running.database.count(models.AccessToken) == 0


async def test_an_app_password_of_nobody() -> None:
    """Expired, or its owner is not active."""
    clock = Clock()
    async with core(clock=clock) as running:
        client, alice = proxy(running), running.user("alice")
        token = running.database.first(models.Token, key=ALICE["password"])
        assert token is not None
        token.expiring, token.expires = True, clock.now + 10
        running.database.save(token)
        assert (await client.post("token", client_secret=None, **ALICE)).status == 200
        clock.now += 11
        assert await refused(client, client_secret=None, **ALICE) == "invalid_grant"
        clock.now -= 11
        alice.is_active = False
        running.database.save(alice)
        assert await refused(client, client_secret=None, **ALICE) == "invalid_grant"


async def test_failures_are_noted() -> None:
    """An event and reputation, without the password; a success is a login."""
    async with core() as running:
        client = proxy(running)
        await refused(client, client_secret=None, **ALICE | {"password": "a-wrong-app-password"})
        event = running.database.first(models.Event, action="login_failed")
        assert event is not None and "a-wrong-app-password" not in str(event.context)
        assert running.database.reputation(identifier="alice", ip="127.0.0.1") == -1
        await client.post("token", client_secret=None, **ALICE)
        event = running.database.first(models.Event, action="login")
        assert event is not None and event.user["username"] == "alice"


async def test_a_client_by_itself() -> None:
    """With its secret it gets an account of its own, the same each time; policies of the application count for it."""
    async with core() as running:
        client = web(running)
        for _ in range(2):
            reply = await client.post("token", grant_type="client_credentials", scope="email")
            assert reply.status == 200, reply.body
        account = running.user("ak-web-client_credentials")
        assert (account.type, account.path) == ("service_account", "goauthentik.io/apps/web")
        for secret in (None, "", "wrong"):
            error = await refused(client, grant_type="client_credentials", client_secret=secret)
            assert error == "invalid_client"
        # the application of the proxy is for the group staff
        assert await refused(proxy(running), grant_type="client_credentials") == "invalid_grant"


async def test_a_name_that_somebody_took_is_not_the_clients() -> None:
    """Who enrolled under the name of a client's account gives the client nothing."""
    async with core() as running:
        client = web(running)
        running.database.save(models.User(username="ak-web-client_credentials"))
        assert await refused(client, grant_type="client_credentials") == "invalid_grant"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, "invalid_request"),
        ({"grant_type": "implicit"}, "unsupported_grant_type"),
        ({"grant_type": "urn:ietf:params:oauth:grant-type:device_code"}, "unsupported_grant_type"),
        ({"grant_type": "authorization_code"}, "invalid_grant"),
        ({"grant_type": "refresh_token"}, "invalid_grant"),
        ({"grant_type": "refresh_token", "refresh_token": "x"}, "invalid_grant"),
        ({"grant_type": "client_credentials", "client_assertion": "a.b.c"}, "invalid_client"),
        ({"grant_type": "authorization_code", "client_id": "unknown"}, "invalid_client"),
        ({"grant_type": "authorization_code", "client_id": None}, "invalid_client"),
    ],
)
async def test_token_requests_that_are_refused(fields: dict[str, str | None], error: str) -> None:
    """Always 400, never 401 (flows.md §8.4)."""
    async with core() as running:
        assert await refused(web(running), **fields) == error


async def test_other_methods_and_bodies() -> None:
    """Only a form by POST."""
    async with core() as running:
        client = running.client()
        for path in ("token", "introspect", "revoke"):
            assert (await client.request("GET", f"/application/o/{path}/")).status in (404, 405)
            reply = await client.request("POST", f"/application/o/{path}/", body={"grant_type": "x"})
            assert (reply.status, reply.json["error"]) == (400, "invalid_request")


async def test_basic_authentication_of_clients() -> None:
    """RFC 6749 §2.3.1, which clients should prefer."""
    async with core() as running:
        client = web(running)
        header = {"Authorization": "Basic " + base64.b64encode(f"{client.client_id}:{client.secret}".encode()).decode()}
        reply = await client.post(
            "token", header, client_id=None, client_secret=None, grant_type="client_credentials", scope="openid"
        )
        assert reply.status == 200
        reply = await client.post(
            "introspect", header, client_id=None, client_secret=None, token=reply.json["access_token"]
        )
        assert reply.json["active"] is True


# --- refresh ----------------------------------------------------------------------------------------------------------


async def test_refresh_tokens_are_replaced() -> None:
    """A new one each time; scopes may shrink; the new access token is of the same login."""
    async with core() as running:
        client = web(running)
        assert client.secret is not None
        first = await tokens_of(client)
        reply = await client.post("token", grant_type="refresh_token", refresh_token=first["refresh_token"])
        assert reply.status == 200, reply.body
        second = reply.json
        assert second["refresh_token"] != first["refresh_token"]
        before, after = (claims_of(item["id_token"], client.secret) for item in (first, second))
        assert {name: before[name] for name in ("sub", "sid", "auth_time", "iss", "aud")} == {
            name: after[name] for name in ("sub", "sid", "auth_time", "iss", "aud")
        }
        reply = await client.post(
            "token", grant_type="refresh_token", refresh_token=second["refresh_token"], scope="openid"
        )
        assert reply.json["scope"] == "openid"
        assert "refresh_token" not in reply.json, "offline access was given up"


async def test_a_used_refresh_token_ends_the_family() -> None:
    """Somebody has a copy (RFC 9700 §4.14.2)."""
    async with core() as running:
        client = web(running)
        first = await tokens_of(client)
        second = (await client.post("token", grant_type="refresh_token", refresh_token=first["refresh_token"])).json
        assert (
            await refused(client, grant_type="refresh_token", refresh_token=first["refresh_token"]) == "invalid_grant"
        )
        assert (
            await refused(client, grant_type="refresh_token", refresh_token=second["refresh_token"]) == "invalid_grant"
        )
        assert not await active(client, second["access_token"])


async def test_refresh_tokens_are_bound() -> None:
    """To the client, to what was granted, to an active user, and to their time."""
    clock = Clock()
    async with core(clock=clock) as running:
        client = web(running)
        token = (await tokens_of(client))["refresh_token"]
        assert await refused(spa(running), grant_type="refresh_token", refresh_token=token) == "invalid_grant"
        assert (
            await refused(client, grant_type="refresh_token", refresh_token=token, client_secret="x")
            == "invalid_client"
        )
        assert (
            await refused(client, grant_type="refresh_token", refresh_token=token, scope="openid profile")
            == "invalid_scope"
        )
        token = (await tokens_of(client))["refresh_token"]
        clock.now += 30 * 86400 + 1
        assert await refused(client, grant_type="refresh_token", refresh_token=token) == "invalid_grant"
        token = (await tokens_of(client))["refresh_token"]
        alice = running.user("alice")
        alice.is_active = False
        running.database.save(alice)
        assert await refused(client, grant_type="refresh_token", refresh_token=token) == "invalid_grant"


async def test_offline_access_outlives_the_session() -> None:
    """That is what it is for; what comes after names no session any more."""
    async with core() as running:
        client = web(running)
        assert client.secret is not None
        first = await tokens_of(client)
        running.database.end_sessions(int(running.user("alice").pk or 0))
        assert not await active(client, first["access_token"])
        reply = await client.post("token", grant_type="refresh_token", refresh_token=first["refresh_token"])
        assert "sid" not in claims_of(reply.json["id_token"], client.secret)
        assert await active(client, reply.json["access_token"])


# --- introspection ----------------------------------------------------------------------------------------------------


async def test_introspection_tells_the_claims() -> None:
    """Those of the id token, and to which client with which scope."""
    async with core() as running:
        client = proxy(running)
        assert client.secret is not None
        tokens = await tokens_of(client)
        said = await client.introspect(tokens["access_token"])
        expected = claims_of(tokens["id_token"], client.secret)
        assert said == expected | {"active": True, "scope": client.scope, "client_id": client.client_id}


async def test_refresh_tokens_are_introspected_too() -> None:
    """Until they are used."""
    async with core() as running:
        client = web(running)
        token = (await tokens_of(client))["refresh_token"]
        said = await client.introspect(token)
        assert (said["active"], said["sub"]) == (True, running.user("alice").uid)
        await client.post("token", grant_type="refresh_token", refresh_token=token)
        assert await client.introspect(token) == {"active": False}


async def test_what_is_not_active() -> None:
    """Nonsense, id tokens, API tokens, other clients' tokens, and anything with a wrong secret: one answer."""
    async with core() as running:
        client, other = proxy(running), proxy(running, "proxy-single")
        tokens = await tokens_of(client)
        inactive = {"active": False}
        for token in ("nonsense", "", tokens["id_token"], "alice-api-token-key-1", tokens["access_token"] + "x"):
            assert await client.introspect(token) == inactive, token
        assert await other.introspect(tokens["access_token"]) == inactive
        reply = await client.post("introspect", token=tokens["access_token"], client_secret="wrong")
        assert (reply.status, reply.json) == (200, inactive)
        reply = await client.post("introspect", token=tokens["access_token"], client_secret=None)
        assert (reply.status, reply.json) == (200, inactive)
        assert await active(client, tokens["access_token"])


@pytest.mark.parametrize("what", ["log out", "deactivate", "end", "time", "provider"])
async def test_access_tokens_die_with_what_they_hang_on(what: str) -> None:
    """Session, user, provider, and their own time."""
    clock = Clock()
    async with core(clock=clock) as running:
        client, browser = proxy(running), Browser(running)
        await browser.open("/")
        await browser.log_in()
        token = (await tokens_of(client, browser))["access_token"]
        assert await active(client, token)
        alice = running.user("alice")
        if what == "log out":
            await browser.open("/flows/-/default/invalidation/")
        elif what == "deactivate":
            alice.is_active = False
            running.database.save(alice)
        elif what == "end":
            running.database.end_sessions(int(alice.pk or 0))
        elif what == "time":
            clock.now += 3601
        else:
            provider = running.database.first(models.Provider, name="Proxy full")
            assert provider is not None
            running.database.delete(provider)
        assert not await active(client, token)
        reply = await running.client().request(
            "GET", "/application/o/userinfo/", headers={"Authorization": f"Bearer {token}"}
        )
        assert reply.status == 401


async def test_a_session_whose_time_is_over_counts_as_ended() -> None:
    """Also while its row has not been cleared away yet, and for codes too."""
    clock = Clock()
    async with core(clock=clock) as running:
        client, browser = web(running), Browser(running)
        provider = running.database.first(models.Provider, name="web")
        assert provider is not None
        provider.options |= {"access_token_validity": "days=3", "access_code_validity": "days=3"}
        running.database.save(provider)
        await browser.open("/")
        await browser.log_in()
        token = (await tokens_of(client, browser))["access_token"]
        await browser.open(client.authorize())
        code = browser.given["code"]
        clock.now += 86400 + 1
        assert running.database.sql("SELECT count(*) FROM session WHERE user IS NOT NULL")[0][0] == 1
        assert not await active(client, token)
        assert (await client.exchange(code)).json["error"] == "invalid_grant"


async def test_tokens_of_federated_providers() -> None:
    """A provider may name others whose tokens it accepts; not the other way round."""
    async with core() as running:
        client, other = proxy(running), proxy(running, "proxy-single")
        token = (await tokens_of(client))["access_token"]
        full, single = (
            running.database.first(models.Provider, name=name) for name in ("Proxy full", "Proxy forward single")
        )
        assert full is not None and single is not None
        single.options["jwt_federation_providers"] = [full.pk]
        running.database.save(single)
        assert (await other.introspect(token))["client_id"] == client.client_id
        assert not await active(client, (await tokens_of(other))["access_token"])


async def test_expired_rows_are_cleared_away() -> None:
    """Codes and tokens do not pile up."""
    clock = Clock()
    async with core(clock=clock) as running:
        await tokens_of(web(running))
        clock.now += 40 * 86400
        running.database.expire()
        for table in ("oauth2_code", "oauth2_access_token", "oauth2_refresh_token"):
            assert running.database.sql(f"SELECT count(*) FROM {table}")[0][0] == 0


# --- revocation and userinfo ------------------------------------------------------------------------------------------


async def test_revocation() -> None:
    """Own tokens end; a refresh token takes all along; what is unknown is fine too (RFC 7009 §2.2)."""
    async with core() as running:
        client = web(running)
        first, second = await tokens_of(client), await tokens_of(client)
        assert (await proxy(running).post("revoke", token=first["access_token"])).status == 200
        assert await active(client, first["access_token"]), "it is not that client's"
        assert (await client.post("revoke", token=first["access_token"])).status == 200
        assert not await active(client, first["access_token"])
        assert await active(client, second["access_token"])
        assert (await client.post("revoke", token=second["refresh_token"])).status == 200
        assert not await active(client, second["access_token"])
        assert (
            await refused(client, grant_type="refresh_token", refresh_token=second["refresh_token"]) == "invalid_grant"
        )
        assert (await client.post("revoke", token="unknown")).status == 200
        reply = await client.post("revoke", token="unknown", client_secret="wrong")
        assert (reply.status, reply.json["error"]) == (400, "invalid_client")


async def test_userinfo() -> None:
    """The claims as they are now, by header or by form."""
    async with core() as running:
        client = proxy(running)
        token = (await tokens_of(client))["access_token"]
        alice = running.user("alice")
        alice.email = "new@example.test"
        running.database.save(alice)
        bearer = {"Authorization": f"Bearer {token}"}
        reply = await running.client().request("GET", "/application/o/userinfo/", headers=bearer)
        assert reply.status == 200
        assert (reply.json["sub"], reply.json["email"]) == (alice.uid, "new@example.test")
        assert "iss" not in reply.json
        assert (await client.post("userinfo", access_token=token)).json == reply.json


async def test_userinfo_refusals() -> None:
    """RFC 6750 §3.1: 401 for no token or a wrong one, 403 without the scope."""
    async with core() as running:
        client = running.client()
        for headers in (
            {},
            {"Authorization": "Bearer x"},
            {"Authorization": "Basic eDp5"},
            {"Authorization": "Bearer"},
        ):
            reply = await client.request("GET", "/application/o/userinfo/", headers=headers)
            assert reply.status == 401
            assert 'error="invalid_token"' in reply.headers["WWW-Authenticate"]
        reply = await proxy(running).post("token", client_secret=None, scope="email", **ALICE)
        bearer = {"Authorization": f"Bearer {reply.json['access_token']}"}
        reply = await client.request("GET", "/application/o/userinfo/", headers=bearer)
        assert reply.status == 403
        assert 'error="insufficient_scope"' in reply.headers["WWW-Authenticate"]


# --- claims -----------------------------------------------------------------------------------------------------------


def add_mapping(running: Core, provider_name: str, expression: str, scope: str = "email") -> None:
    """Give a provider one more scope mapping."""
    mapping = running.database.save(
        models.PropertyMapping(
            type="authentik_providers_oauth2.scopemapping",
            name="zz of this test",
            options={"scope_name": scope, "expression": expression, "description": ""},
        )
    )
    provider = running.database.first(models.Provider, name=provider_name)
    assert provider is not None
    provider.property_mappings.append(mapping.pk)
    running.database.save(provider)


async def test_mappings_add_claims_but_not_those_of_the_protocol() -> None:
    """Deeply merged; a mapping cannot say who issued the token, for whom, or whose it is."""
    async with core() as running:
        client = proxy(running)
        assert client.secret is not None
        text = (
            'return {"sub": "root", "iss": "x", "aud": "x", "exp": 1, "sid": "x", "active": False, "client_id": "x",'
            ' "own": provider.application.slug, "ak_proxy": {"backend_override": "http://b", "is_superuser": True}}'
        )
        add_mapping(running, "Proxy full", text, "zz")
        reply = await client.post("token", client_secret=None, scope=client.scope + " zz", **ALICE)
        claims = claims_of(reply.json["id_token"], client.secret)
        assert claims["sub"] == running.user("alice").uid
        assert claims["aud"] == client.client_id and claims["exp"] > 1 and "sid" not in claims
        assert claims["own"] == "proxy-full"
        assert claims["ak_proxy"]["backend_override"] == "http://b"
        assert claims["ak_proxy"]["user_attributes"]["sn"] == "Anders"


@pytest.mark.parametrize("expression", ["raise ValueError('no')", "return [1]", "return 1 / 0", "while True: pass"])
async def test_a_mapping_that_fails_fails_the_token(expression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the claims could mean other rights; an event says which mapping it was."""
    monkeypatch.setattr("core.oauth2.claims.MAPPING_TIMEOUT_S", 0.2)
    async with core() as running:
        client = proxy(running)
        add_mapping(running, "Proxy full", expression)
        assert await refused(client, client_secret=None, scope=client.scope, **ALICE) == "server_error"
        event = running.database.first(models.Event, action="configuration_error")
        assert event is not None and event.context["mapping"]["name"] == "zz of this test"
        assert running.database.count(models.AccessToken) == 0


async def test_a_mapping_may_leave_itself_out() -> None:
    """SkipObject, or nothing returned."""
    async with core() as running:
        client = proxy(running)
        add_mapping(running, "Proxy full", "raise SkipObject()")
        assert (await client.post("token", client_secret=None, scope=client.scope, **ALICE)).status == 200


async def test_entitlements() -> None:
    """Names of what groups and users, inherited ones too, are entitled to in this application."""
    async with core() as running:
        client = proxy(running)
        assert client.secret is not None
        running.inner.blueprints.apply(
            """
version: 1
entries:
  - model: authentik_core.applicationentitlement
    id: editor
    identifiers: {name: editor, app: !Find [authentik_core.application, [slug, proxy-full]]}
  - model: authentik_core.applicationentitlement
    id: admin
    identifiers: {name: admin, app: !Find [authentik_core.application, [slug, proxy-full]]}
  - model: authentik_core.applicationentitlement
    id: elsewhere
    identifiers: {name: elsewhere, app: !Find [authentik_core.application, [slug, proxy-single]]}
  - model: authentik_policies.policybinding
    identifiers: {target: !KeyOf editor, group: !Find [authentik_core.group, [name, staff]], order: 0}
  - model: authentik_policies.policybinding
    identifiers: {target: !KeyOf admin, user: !Find [authentik_core.user, [username, bob]], order: 0}
  - model: authentik_policies.policybinding
    identifiers: {target: !KeyOf admin, user: !Find [authentik_core.user, [username, carol]], order: 1}
    attrs: {negate: true}
  - model: authentik_policies.policybinding
    identifiers: {target: !KeyOf elsewhere, group: !Find [authentik_core.group, [name, staff]], order: 0}
""",
            "entitlements",
        )
        reply = await client.post("token", client_secret=None, scope=client.scope, **ALICE)
        claims = claims_of(reply.json["id_token"], client.secret)
        assert claims["entitlements"] == claims["roles"] == ["editor"]
        application = running.database.first(models.Application, slug="proxy-full")
        assert application is not None
        running.database.delete(application)
        assert running.database.count(models.ApplicationEntitlement) == 1


@pytest.mark.parametrize(
    ("mode", "value"),
    [
        ("hashed_user_id", lambda user: user.uid),
        ("user_id", lambda user: str(user.pk)),
        ("user_uuid", lambda user: user.uuid),
        ("user_username", lambda user: "alice"),
        ("user_email", lambda user: "alice@example.test"),
        ("user_upn", None),
        ("unknown", None),
    ],
)
async def test_subject_modes(mode: str, value: Any) -> None:
    """A user without the value gets no token: an empty subject would be everybody's."""
    async with core() as running:
        client = web(running)
        assert client.secret is not None
        provider = running.database.first(models.Provider, name="web")
        assert provider is not None
        provider.options["sub_mode"] = mode
        running.database.save(provider)
        if value is None:
            assert await refused(client, client_secret=None, scope="openid", **ALICE) == "server_error"
            return
        reply = await client.post("token", client_secret=None, scope="openid", **ALICE)
        assert claims_of(reply.json["id_token"], client.secret)["sub"] == value(running.user("alice"))


# --- keys and discovery -----------------------------------------------------------------------------------------------


def rsa_pair(bits: int = 2048) -> tuple[str, str]:
    """A certificate and its RSA key as PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signer")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


def sign_with(running: Core, certificate: str, key: str) -> None:
    """Let the web client's tokens be signed with a certificate."""
    pair = running.database.save(models.KeyPair(name="signer", certificate_data=certificate, key_data=key))
    provider = running.database.first(models.Provider, name="web")
    assert provider is not None
    provider.options["signing_key"] = pair.pk
    running.database.save(provider)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
async def test_signing_with_a_certificate(algorithm: str) -> None:
    """The key set has the public half only; the document names the algorithm."""
    async with core() as running:
        client = web(running)
        pair = key_pair("signer")
        sign_with(running, *(rsa_pair() if algorithm == "RS256" else (pair.certificate, pair.key)))
        document = (await running.client().request("GET", "/application/o/web/.well-known/openid-configuration")).json
        assert document["id_token_signing_alg_values_supported"] == [algorithm]
        keys = (await running.client().request("GET", document["jwks_uri"].removeprefix(running.url))).json["keys"]
        assert not {"d", "p", "q", "k"} & set(keys[0])
        tokens = await tokens_of(client)
        for name in ("id_token", "access_token"):
            assert claims_by_key_set(tokens[name], keys)["aud"] == client.client_id


async def test_a_key_that_cannot_be_used_is_not_replaced() -> None:
    """No fall-back to the client secret: no document, no keys, no tokens."""
    pair, other = key_pair("a"), key_pair("b")
    for certificate, key in (
        (pair.certificate, ""),
        (pair.certificate, other.key),
        (pair.certificate, "nonsense"),
        rsa_pair(1024),
    ):
        async with core() as running:
            client = web(running)
            sign_with(running, certificate, key)
            assert await refused(client, client_secret=None, scope="openid", **ALICE) == "server_error"
            for path in ("jwks/", ".well-known/openid-configuration"):
                reply = await running.client().request("GET", f"/application/o/web/{path}")
                assert (reply.status, reply.json["error"]) == (400, "server_error")


async def test_discovery_follows_the_request() -> None:
    """By Host and X-Forwarded-Proto; unknown applications are not found."""
    async with core() as running:
        client = running.client()
        path = "/application/o/proxy-full/.well-known/openid-configuration"
        reply = await client.request("GET", path, headers={"Host": "id.test", "X-Forwarded-Proto": "https"})
        assert reply.json["issuer"] == "https://id.test/application/o/proxy-full/"
        assert reply.json["token_endpoint"] == "https://id.test/application/o/token/"
        assert reply.headers["Access-Control-Allow-Origin"] == "*"
        assert (await client.request("GET", "/application/o/proxy-full/jwks/")).json == {}
        assert (await client.request("GET", "/application/o/proxy-full/")).headers["Location"] == path
        for slug in ("nothing", "ldap-direct"):
            assert (await client.request("GET", f"/application/o/{slug}/jwks/")).status == 404


async def test_a_global_issuer() -> None:
    """issuer_mode: one issuer for all providers that say so."""
    async with core() as running:
        client = web(running)
        assert client.secret is not None
        provider = running.database.first(models.Provider, name="web")
        assert provider is not None
        provider.options["issuer_mode"] = "global"
        running.database.save(provider)
        reply = await client.post("token", client_secret=None, scope="openid", **ALICE)
        assert claims_of(reply.json["id_token"], client.secret)["iss"] == running.url + "/"


# --- end of the session -----------------------------------------------------------------------------------------------


async def test_log_out_of_a_proxy() -> None:
    """The provider's invalidation flow: that application's tokens end, the login stays, the page offers the rest."""
    async with core() as running:
        client, browser = proxy(running), Browser(running)
        await browser.open("/")
        await browser.log_in()
        mine = (await tokens_of(client, browser))["access_token"]
        other = (await tokens_of(proxy(running, "proxy-single"), browser))["access_token"]
        await browser.open("/application/o/proxy-full/end-session/")
        assert browser.page.title.startswith("You have logged out of Proxy full app.")
        assert browser.page.links["Log out of authentik"] == "/flows/-/default/invalidation/"
        assert not await active(client, mine)
        assert await active(proxy(running, "proxy-single"), other)
        await browser.open(browser.page.links["Log out of authentik"])
        assert running.session_count("alice") == 0
        assert not await active(proxy(running, "proxy-single"), other)


async def test_log_out_that_ends_the_login() -> None:
    """And goes back to the address that the client registered for it, with the state; to no other."""
    async with core() as running:
        web(running)
        for target, left in (
            ("https://web.example.test/bye", "https://web.example.test/bye?state=s1"),
            ("https://web.example.test/cb", ""),
            ("https://evil.test/", ""),
        ):
            browser = Browser(running)
            await browser.open("/")
            await browser.log_in()
            await browser.open(f"/application/o/web/end-session/?post_logout_redirect_uri={target}&state=s1")
            assert browser.left == left
            assert running.session_count("alice") == 0


async def test_log_out_of_nobody() -> None:
    """Who is not logged in is asked to log in first; unknown applications are not found."""
    async with core() as running:
        browser = Browser(running)
        await browser.open("/application/o/proxy-full/end-session/")
        assert browser.at.startswith("/if/flow/default-authentication-flow/")
        await browser.open("/application/o/nothing/end-session/")
        assert browser.status == 404


# --- what outposts read -----------------------------------------------------------------------------------------------


async def test_the_list_that_proxy_outposts_read() -> None:
    """All four providers by name, with addresses by Host and scheme of the request; other outposts see none."""
    async with core() as running:
        client = running.bearer(running.outpost_token("RC Proxy outpost"))
        reply = await client.get("/outposts/proxy/", headers={"Host": "id.test", "X-Forwarded-Proto": "https"})
        found = {item["assigned_application_slug"]: item for item in reply.json["results"]}
        assert list(found) == ["proxy-denied", "proxy-domain", "proxy-single", "proxy-full"]
        full = found["proxy-full"]
        assert full["oidc_configuration"]["issuer"] == "https://id.test/application/o/proxy-full/"
        assert full["oidc_configuration"]["id_token_signing_alg_values_supported"] == ["HS256"], "a certificate is TLS"
        assert full["scopes_to_request"] == ["openid", "email", "profile", "entitlements", "ak_proxy"]
        assert full["access_token_validity"] == 3600.0
        assert full["certificate"] is not None
        assert found["proxy-single"]["internal_host"] == ""
        other = await running.bearer(running.outpost_token()).get("/outposts/proxy/")
        assert other.json["results"] == []


def test_tokens_of_the_tests_are_read_without_the_library() -> None:
    """The helper refuses a token with a changed signature."""
    token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJhIjoxfQ.AAAA"
    assert decoded(token.split(".")[1]) == {"a": 1}
    with pytest.raises(AssertionError, match="signature"):
        claims_of(token, "secret")
