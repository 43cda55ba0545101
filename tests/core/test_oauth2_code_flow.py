"""The authorization code flow over HTTP: a browser without JavaScript, a client, and every refusal on the way."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from core import models
from tests.core.browsers import Browser
from tests.core.cores import Clock, Core, core
from tests.core.oauth2_clients import CHALLENGE, VERIFIER, OAuthClient, claims_of, proxy, spa, web
from tests.core.test_oauth2_tokens import active


async def browser_of(running: Core, username: str = "alice") -> Browser:
    """Somebody who is logged in."""
    browser = Browser(running)
    await browser.open("/")
    await browser.log_in(username)
    assert browser.at == "/if/user/", browser.page.text
    return browser


async def code_of(client: OAuthClient, browser: Browser, **changed: str | None) -> str:
    """A code for somebody who is logged in."""
    await browser.open(client.authorize(**changed))
    assert "code" in browser.given, (browser.left, browser.status)
    return browser.given["code"]


# --- all the way ------------------------------------------------------------------------------------------------------


async def test_the_whole_flow_of_a_proxy() -> None:
    """Conformance case 87: from the outpost's redirect to verified claims, with the login in between."""
    async with core() as running:
        client, browser = proxy(running), Browser(running)
        await browser.open(client.authorize())
        assert browser.at.startswith("/if/flow/default-authentication-flow/")
        assert "Log in to continue to Proxy full app." in browser.page.text
        await browser.submit(uid_field="alice")
        await browser.submit(password="alice-pw-1")
        assert browser.left.startswith(client.redirect_uri + "&code=")
        assert browser.given["state"] == "state-1"

        reply = await client.exchange(browser.given["code"])
        assert reply.status == 200, reply.body
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.headers["Pragma"] == "no-cache"
        tokens = reply.json
        assert (tokens["token_type"], tokens["expires_in"]) == ("Bearer", 3600)
        assert tokens["scope"] == client.scope
        assert "refresh_token" not in tokens, "nobody asked for offline access"

        assert client.secret is not None
        claims = claims_of(tokens["id_token"], client.secret)
        alice, now = running.user("alice"), int(running.clock.now)
        session = running.database.first(models.Session, user=alice.pk)
        assert session is not None
        assert claims["iss"] == f"{running.url}/application/o/proxy-full/"
        assert claims["aud"] == client.client_id
        assert claims["sub"] == alice.uid
        assert (claims["iat"], claims["exp"], claims["auth_time"]) == (now, now + 3600, now)
        assert claims["amr"] == ["pwd"]
        assert claims["sid"] == session.pk, "outposts end their sessions by this"
        assert claims["groups"] == ["ldap-search", "staff"]
        assert claims["entitlements"] == []
        assert claims["email_verified"] is False
        user_attributes = claims["ak_proxy"]["user_attributes"]
        assert user_attributes["additionalHeaders"] == {"X-Staff": "1", "X-Alice": "yes"}, "group and user, merged"
        assert claims["ak_proxy"]["is_superuser"] is False

        access = claims_of(tokens["access_token"], client.secret)
        assert access.pop("azp") == client.client_id
        assert access.pop("scope") == client.scope
        assert len(access.pop("uid")) == 40
        assert access == claims


@pytest.mark.parametrize("slug", ["proxy-full", "proxy-single"])
async def test_who_is_logged_in_comes_straight_back(slug: str) -> None:
    """With implicit consent the authorization endpoint answers with the code at once."""
    async with core() as running:
        client, browser = proxy(running, slug), await browser_of(running)
        await browser.open(client.authorize())
        assert browser.hops == [302]
        assert (await client.exchange(browser.given["code"])).status == 200


async def test_explicit_consent_is_asked_once() -> None:
    """The page names what the application gets; a second time it is known."""
    async with core() as running:
        client, browser = proxy(running, "proxy-domain"), await browser_of(running)
        await browser.open(client.authorize())
        assert browser.at.startswith("/if/flow/default-provider-authorization-explicit-consent/")
        assert "You're about to sign into Proxy domain app." in browser.page.text
        assert "Email address" in browser.page.text
        await browser.submit()
        assert (await client.exchange(browser.given["code"])).status == 200
        await browser.open(client.authorize())
        assert "code" in browser.given
        assert running.database.count(models.Consent) == 1


async def test_a_consent_that_is_not_given_gives_no_code() -> None:
    """Only the form with the page's own token counts."""
    async with core() as running:
        client, browser = proxy(running, "proxy-domain"), await browser_of(running)
        await browser.open(client.authorize())
        await browser.submit(token="another")
        assert not browser.left
        assert "Invalid consent token" in browser.page.text
        assert running.database.count(models.AuthorizationCode) == 0


async def test_the_issuer_is_where_the_client_asked() -> None:
    """Host and X-Forwarded-Proto of the token request; X-Forwarded-Host is not looked at (flows.md §8.4)."""
    async with core() as running:
        client, browser = proxy(running), await browser_of(running)
        assert client.secret is not None
        for headers, issuer in (
            ({"Host": "auth.example.test"}, "http://auth.example.test"),
            ({"Host": "auth.example.test", "X-Forwarded-Proto": "https"}, "https://auth.example.test"),
            ({"Host": "a.test", "X-Forwarded-Host": "b.test", "X-Forwarded-Proto": "https"}, "https://a.test"),
        ):
            reply = await client.exchange(await code_of(client, browser), headers)
            assert claims_of(reply.json["id_token"], client.secret)["iss"] == issuer + "/application/o/proxy-full/"
        reply = await client.exchange(await code_of(client, browser), {"Host": "bad host"})
        assert (reply.status, reply.json["error"]) == (400, "invalid_request")


# --- PKCE and nonce ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "challenge"), [("S256", CHALLENGE), ("plain", VERIFIER), (None, VERIFIER)])
async def test_pkce(method: str | None, challenge: str) -> None:
    """The verifier that belongs to the challenge; without a method it is plain. The nonce is in the id token."""
    async with core() as running:
        client, browser = proxy(running), await browser_of(running)
        assert client.secret is not None
        asked = {"code_challenge": challenge, "code_challenge_method": method, "nonce": "n-1"}
        code = await code_of(client, browser, **asked)
        reply = await client.exchange(code, code_verifier=VERIFIER)
        assert reply.status == 200
        assert claims_of(reply.json["id_token"], client.secret)["nonce"] == "n-1"


@pytest.mark.parametrize("verifier", [None, CHALLENGE, VERIFIER[:-1] + "A", "short"])
async def test_a_wrong_verifier_burns_the_code(verifier: str | None) -> None:
    """A code that was shown with the wrong verifier is not worth a second try."""
    async with core() as running:
        client, browser = proxy(running), await browser_of(running)
        code = await code_of(client, browser, code_challenge=CHALLENGE, code_challenge_method="S256")
        for given in (verifier, VERIFIER):
            reply = await client.exchange(code, code_verifier=given)
            assert (reply.status, reply.json["error"]) == (400, "invalid_grant")


async def test_a_verifier_without_challenge_is_refused() -> None:
    """Somebody took the challenge out of the request (RFC 9700 §2.1.1)."""
    async with core() as running:
        client, browser = proxy(running), await browser_of(running)
        reply = await client.exchange(await code_of(client, browser), code_verifier=VERIFIER)
        assert (reply.status, reply.json["error"]) == (400, "invalid_grant")


async def test_public_clients() -> None:
    """No secret, but a challenge; a secret that is shown all the same is wrong."""
    async with core() as running:
        client, browser = spa(running), await browser_of(running)
        await browser.open(client.authorize())
        assert browser.given["error"] == "invalid_request"
        code = await code_of(client, browser, code_challenge=CHALLENGE, code_challenge_method="S256")
        reply = await client.exchange(code, code_verifier=VERIFIER, client_secret="any")
        assert reply.json["error"] == "invalid_client"
        reply = await client.exchange(code, code_verifier=VERIFIER)
        assert reply.status == 200
        reply = await client.post("token", grant_type="client_credentials")
        assert reply.json["error"] == "invalid_client"
        assert await client.introspect("anything") == {"active": False}


# --- refused before anything is sent anywhere -------------------------------------------------------------------------

WRONG = {
    "client_id": [None, "", "unknown", "web-client\x00"],
    "redirect_uri": [
        None, "", "http://evil.test/cb", "http://app.proxy.test:9080/outpost.goauthentik.io/callback",
        "http://app.proxy.test:9080/?X-authentik-auth-callback=true", "javascript:alert(1)",
        "http://app.proxy.test:9080/outpost.goauthentik.io/callback?X-authentik-auth-callback=true&x=1",
        "http://app.proxy.test:9080/outpost.goauthentik.io/callback?X-authentik-auth-callback=true#f",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
@pytest.mark.parametrize("logged_in", [False, True])
async def test_a_wrong_client_or_address_is_told_to_the_person(name: str, value: str | None, logged_in: bool) -> None:
    """A page with status 400; the browser stays here."""
    async with core() as running:
        client = proxy(running)
        browser = await browser_of(running) if logged_in else Browser(running)
        await browser.open(client.authorize(**{name: value}))
        assert (browser.status, browser.left) == (400, "")
        assert browser.page.title.startswith("Bad request")


async def test_the_two_addresses_of_a_proxy() -> None:
    """The callback, and the host as it is written, without a slash before the query."""
    async with core() as running:
        client, browser = proxy(running), await browser_of(running)
        await browser.open(client.authorize(redirect_uri="http://app.proxy.test:9080?X-authentik-auth-callback=true"))
        assert browser.left.startswith("http://app.proxy.test:9080?X-authentik-auth-callback=true&code=")


async def test_two_clients_or_addresses_in_one_request() -> None:
    """Neither the first nor the last counts."""
    async with core() as running:
        client, browser = proxy(running), await browser_of(running)
        for extra in ("&client_id=web-client", "&redirect_uri=http%3A%2F%2Fevil.test"):
            await browser.open(client.authorize() + extra)
            assert (browser.status, browser.left) == (400, "")


async def test_patterns_of_addresses() -> None:
    """A pattern must match the whole address; an address for log-out is none for codes."""
    async with core() as running:
        client, browser = web(running), await browser_of(running)
        await browser.open(client.authorize(redirect_uri="https://any.example.test/back"))
        assert browser.left.startswith("https://any.example.test/back?code=")
        for wrong in (
            "https://any.example.test/back/x",
            "https://a.b.example.test/back",
            "https://web.example.test/bye",
        ):
            await browser.open(client.authorize(redirect_uri=wrong))
            assert (browser.status, browser.left) == (400, "")


async def test_a_client_id_that_two_providers_have_is_nobodys() -> None:
    """Whose code it would be is not to be guessed."""
    async with core() as running:
        client, browser = proxy(running), await browser_of(running)
        other = running.database.first(models.Provider, name="Proxy forward single")
        assert other is not None
        other.options["client_id"] = client.client_id
        running.database.save(other)
        await browser.open(client.authorize())
        assert browser.status == 400


# --- refused, and told to the client ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"response_type": None}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": "code id_token"}, "unsupported_response_type"),
        ({"response_mode": "other"}, "invalid_request"),
        ({"request": "x.y.z"}, "request_not_supported"),
        ({"request_uri": "https://h/r"}, "request_uri_not_supported"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"code_challenge": CHALLENGE, "code_challenge_method": "S512"}, "invalid_request"),
        ({"code_challenge_method": "S256"}, "invalid_request"),
        ({"prompt": "none login"}, "invalid_request"),
        ({"prompt": "other"}, "invalid_request"),
        ({"max_age": "-1"}, "invalid_request"),
        ({"max_age": "soon"}, "invalid_request"),
        ({"nonce": "n" * 5000}, "invalid_request"),
    ],
)
async def test_refusals_go_back_to_the_client(changed: dict[str, str | None], error: str) -> None:
    """With ``&`` after the callback's own query, and with the state."""
    async with core() as running:
        client, browser = proxy(running), await browser_of(running)
        await browser.open(client.authorize(**changed))
        assert browser.left.startswith(client.redirect_uri + "&error=")
        assert (browser.given["error"], browser.given["state"]) == (error, "state-1")
        assert "code" not in browser.given


async def test_a_long_state_comes_back_whole() -> None:
    """Outposts keep where somebody wanted to go in it; the login page's address does not say everything twice then."""
    async with core() as running:
        client, browser = proxy(running), Browser(running)
        state = "s" * 4000
        await browser.open(client.authorize(state=state))
        assert len(browser.at) < 6000
        assert "Log in to continue to Proxy full app." in browser.page.text
        await browser.log_in()
        assert browser.given["state"] == state


async def test_parameters_given_twice_are_refused() -> None:
    """RFC 6749 §3.1."""
    async with core() as running:
        client, browser = proxy(running), await browser_of(running)
        await browser.open(client.authorize() + "&scope=openid")
        assert browser.given["error"] == "invalid_request"


async def test_scopes_are_cut_to_those_of_the_provider() -> None:
    """What was cut is missing in the answer; without ``openid`` there is no id token."""
    async with core() as running:
        client, browser = proxy(running), await browser_of(running)
        reply = await client.exchange(await code_of(client, browser, scope="email unknown goauthentik.io/api email"))
        assert reply.json["scope"] == "email"
        assert "id_token" not in reply.json


# --- who, and how long ago --------------------------------------------------------------------------------------------


async def test_prompt_none() -> None:
    """Nobody logged in, or something to ask: an error; else a code without a page."""
    async with core() as running:
        client, browser = proxy(running), Browser(running)
        await browser.open(client.authorize(prompt="none"))
        assert browser.given["error"] == "login_required"
        browser = await browser_of(running)
        await browser.open(client.authorize(prompt="none"))
        assert "code" in browser.given
        await browser.open(proxy(running, "proxy-domain").authorize(prompt="none"))
        assert browser.given["error"] == "interaction_required"


@pytest.mark.parametrize("changed", [{"prompt": "login"}, {"max_age": "0"}, {"max_age": "60"}])
async def test_a_login_that_is_too_old_is_done_again(changed: dict[str, str]) -> None:
    """Once, and the new time is in the token."""
    clock = Clock()
    async with core(clock=clock) as running:
        client, browser = proxy(running), await browser_of(running)
        assert client.secret is not None
        clock.now += 100
        await browser.open(client.authorize(**changed))
        assert browser.at.startswith("/if/flow/default-authentication-flow/"), "the old login is not good enough"
        clock.now += 10
        await browser.log_in()
        claims = claims_of((await client.exchange(browser.given["code"])).json["id_token"], client.secret)
        assert claims["auth_time"] == int(clock.now)


async def test_a_forged_login_time_does_not_help() -> None:
    """The parameter that ends a second login is signed, for this client and state."""
    clock = Clock()
    async with core(clock=clock) as running:
        client, browser = proxy(running), await browser_of(running)
        clock.now += 100
        await browser.open(client.authorize(prompt="login"))
        after = browser.at.rpartition("ak_login_after%3D")[2]
        assert after
        clock.now += 100
        for forged in ("0.000.abc", "0", after.replace("%253A", ":")[:-1] + "0", "x.y"):
            await browser.open(client.authorize(prompt="login", ak_login_after=forged))
            assert not browser.left, forged
        for changed in ({"state": "other"}, {}):
            await browser.open(client.authorize(prompt="login", ak_login_after=after, **changed))
            assert not browser.left, "nobody has logged in since"
        clock.now += 1
        await browser.log_in()
        assert "code" in browser.given


async def test_prompt_login_where_nobody_may_log_in_again() -> None:
    """A flow for strangers only does not apply to who is logged in: the client is told, nothing loops."""
    async with core() as running:
        client, browser = proxy(running), await browser_of(running)
        flow = running.database.flow_by_slug("default-authentication-flow")
        assert flow is not None
        flow.authentication = "require_unauthenticated"
        running.database.save(flow)
        await browser.open(client.authorize(prompt="login"))
        assert browser.given["error"] == "login_required"


async def test_prompt_consent_asks_where_nothing_would_be_asked() -> None:
    """With implicit consent too."""
    async with core() as running:
        client, browser = proxy(running), await browser_of(running)
        await browser.open(client.authorize(prompt="consent"))
        assert "You're about to sign into Proxy full app." in browser.page.text
        await browser.submit()
        assert "code" in browser.given


async def test_a_login_hint_fills_in_the_name() -> None:
    """The identification page has the name already, or is left out."""
    async with core() as running:
        client, browser = proxy(running), Browser(running)
        await browser.open(client.authorize(login_hint="alice"))
        await browser.submit(password="alice-pw-1")
        assert "code" in browser.given


# --- access -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slug", "username"), [("proxy-denied", "alice"), ("proxy-full", "carol")])
async def test_who_may_not_stays_here(slug: str, username: str) -> None:
    """A page with status 200; the client never hears of it (flows.md §8.4)."""
    async with core() as running:
        client, browser = proxy(running, slug), await browser_of(running, username)
        await browser.open(client.authorize())
        assert (browser.status, browser.left) == (200, "")
        assert browser.page.title.startswith("Access denied")
        assert running.database.count(models.AuthorizationCode) == 0


async def test_the_policy_says_why() -> None:
    """Messages of policies are shown."""
    async with core() as running:
        browser = await browser_of(running)
        await browser.open(proxy(running, "proxy-denied").authorize())
        assert "Policy says no." in browser.page.text


async def test_access_is_asked_again_where_the_code_is_made() -> None:
    """Who lost the right while the consent page was open gets no code."""
    async with core() as running:
        client, browser = proxy(running, "proxy-domain"), await browser_of(running)
        await browser.open(client.authorize())
        application = running.database.first(models.Application, slug="proxy-domain")
        staff = running.database.first(models.Group, name="empty-group")
        assert application is not None and staff is not None
        running.database.save(models.PolicyBinding(target=application.pk, group=staff.pk))
        await browser.submit()
        assert not browser.left
        assert browser.page.title.startswith("Access denied")


async def test_access_is_asked_again_where_the_code_is_used() -> None:
    """And between code and token."""
    async with core() as running:
        client, browser = proxy(running), await browser_of(running)
        code = await code_of(client, browser)
        alice = running.user("alice")
        for group in running.database.direct_groups(alice):
            alice.group_pks.remove(group.pk)
        running.database.save(alice)
        reply = await client.exchange(code)
        assert (reply.status, reply.json["error"]) == (400, "invalid_grant")


async def test_a_flow_that_is_missing_or_does_not_apply() -> None:
    """Without authorization flow there is no authorization."""
    async with core() as running:
        client, browser = proxy(running), await browser_of(running)
        provider = running.database.first(models.Provider, name="Proxy full")
        assert provider is not None
        flow = running.database.flow_by_slug("rc-flow-policy-denied")
        assert flow is not None
        for pk in (None, flow.pk):
            provider.authorization_flow = pk
            running.database.save(provider)
            await browser.open(client.authorize())
            assert not browser.left
            assert browser.page.title.startswith("Access denied")


# --- the code ---------------------------------------------------------------------------------------------------------


async def test_a_code_works_once_and_the_second_time_ends_the_first() -> None:
    """RFC 6749 §4.1.2: the tokens of the first time may be in the wrong hands."""
    async with core() as running:
        client, browser = proxy(running), await browser_of(running)
        code = await code_of(client, browser)
        first = (await client.exchange(code)).json
        assert await active(client, first["access_token"])
        reply = await client.exchange(code)
        assert (reply.status, reply.json["error"]) == (400, "invalid_grant")
        assert set(reply.json) == {"error", "error_description", "request_id"}
        assert not await active(client, first["access_token"])


async def test_a_code_lives_for_a_minute() -> None:
    """access_code_validity."""
    clock = Clock()
    async with core(clock=clock) as running:
        client, browser = proxy(running), await browser_of(running)
        code = await code_of(client, browser)
        clock.now += 61
        assert (await client.exchange(code)).json["error"] == "invalid_grant"


async def test_a_code_belongs_to_client_and_address() -> None:
    """Another client does not get it, and does not spoil it; another address does."""
    async with core() as running:
        client, browser = proxy(running), await browser_of(running)
        code = await code_of(client, browser)
        assert (await proxy(running, "proxy-single").exchange(code)).json["error"] == "invalid_grant"
        assert (await client.exchange(code, client_secret="wrong")).json["error"] == "invalid_client"
        assert (await client.exchange(code, client_secret=None)).json["error"] == "invalid_client"
        assert (await client.exchange(code)).status == 200
        for wrong in (None, "http://app.proxy.test:9080?X-authentik-auth-callback=true"):
            code = await code_of(client, browser)
            assert (await client.exchange(code, redirect_uri=wrong)).json["error"] == "invalid_grant"


@pytest.mark.parametrize("what", ["log out", "deactivate", "delete the session"])
async def test_a_code_goes_with_its_session(what: str) -> None:
    """Whatever ends the login ends the code."""
    async with core() as running:
        client, browser = proxy(running), await browser_of(running)
        code = await code_of(client, browser)
        alice = running.user("alice")
        if what == "log out":
            await browser.open("/flows/-/default/invalidation/")
        elif what == "deactivate":
            alice.is_active = False
            running.database.save(alice)
        else:
            running.database.end_sessions(int(alice.pk or 0))
        assert (await client.exchange(code)).json["error"] == "invalid_grant"
        assert running.database.count(models.AuthorizationCode) == 0


async def test_codes_and_tokens_are_not_in_the_database() -> None:
    """Only their digests are."""
    async with core() as running:
        client, browser = proxy(running), await browser_of(running)
        code = await code_of(client, browser)
        dump = "\n".join(running.database._connection.iterdump())
        assert code not in dump
        token = (await client.exchange(code)).json["access_token"]
        assert token not in "\n".join(running.database._connection.iterdump())


# --- response modes ---------------------------------------------------------------------------------------------------


async def test_the_code_in_the_fragment() -> None:
    """response_mode=fragment."""
    async with core() as running:
        client, browser = web(running), await browser_of(running)
        await browser.open(client.authorize(response_mode="fragment"))
        assert urlsplit(browser.left).query == ""
        assert (await client.exchange(browser.given["code"])).status == 200


async def test_the_code_in_a_form() -> None:
    """response_mode=form_post: a page with a button, since nothing here runs by itself; errors likewise."""
    async with core() as running:
        client, browser = web(running), await browser_of(running)
        await browser.open(client.authorize(response_mode="form_post"))
        form = browser.page.form
        assert form is not None
        assert (form.action, form.method) == (client.redirect_uri, "post")
        assert set(form.fields) == {"code", "state"}, "no token of ours goes to another site"
        assert (await client.exchange(form.fields["code"])).status == 200
        await browser.open(client.authorize(response_mode="form_post", response_type="token"))
        form = browser.page.form
        assert form is not None
        assert form.fields["error"] == "unsupported_response_type"


async def test_authorization_by_post() -> None:
    """The request may come as a form (OpenID Connect Core 1.0 §3.1.2.1)."""
    async with core() as running:
        client, browser = proxy(running), await browser_of(running)
        path, _, query = client.authorize().partition("?")
        await browser._go("POST", path, query)
        assert "code" in browser.given
        stranger = Browser(running)
        await stranger._go("POST", path, query)
        await stranger.log_in()
        assert "code" in stranger.given
