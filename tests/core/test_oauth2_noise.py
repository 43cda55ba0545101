"""Anything may be sent to the OAuth2 endpoints and pages: the answer is a refusal, never a failure of the server."""

from __future__ import annotations

import random
from urllib.parse import quote, urlencode

from tests.core.browsers import FORM, Browser
from tests.core.cores import core
from tests.core.oauth2_clients import proxy, web

ROUNDS = 80
WORDS = (
    "", "x", "\x00", "ä€😀", "%", "%ff", "%zz", "&", "=", "#", "../..", "a b", "<script>", "'\"", "\r\nX: y", "-1",
    "9" * 30, "none", "login", "S256", "code", "openid", "query", "form_post", "A" * 5000, "https://evil.test",
    "javascript:x", "{}",
)  # fmt: skip
NAMES = (
    "client_id", "client_secret", "redirect_uri", "response_type", "response_mode", "scope", "state", "nonce", "prompt",
    "max_age", "code_challenge", "code_challenge_method", "login_hint", "ak_login_after", "grant_type", "code",
    "code_verifier", "refresh_token", "username", "password", "token", "id_token_hint", "post_logout_redirect_uri",
    "next", "flow_token", "query", "json:x", "uid_field",
)  # fmt: skip
TARGETS = (
    "/application/o/authorize/", "/application/o/token/", "/application/o/introspect/", "/application/o/revoke/",
    "/application/o/userinfo/", "/application/o/proxy-full/end-session/", "/application/o/proxy-full/jwks/",
    "/application/o/proxy-full/.well-known/openid-configuration", "/if/flow/default-authentication-flow/",
    "/if/user/", "/",
)  # fmt: skip


async def test_noise() -> None:
    """Right requests with some parameters replaced, left out, doubled or broken, with and without a session."""
    choose = random.Random(20261125)
    async with core() as running:
        client, other, browser = proxy(running), web(running), Browser(running)
        await browser.open("/")
        await browser.log_in()
        right = {
            "client_id": client.client_id, "client_secret": str(client.secret), "redirect_uri": client.redirect_uri,
            "response_type": "code", "scope": client.scope, "grant_type": "authorization_code",
        }  # fmt: skip
        for number in range(ROUNDS):
            pairs = [(name, value) for name, value in right.items() if choose.random() < 0.8]
            pairs += [(choose.choice(NAMES), choose.choice(WORDS)) for _ in range(choose.randrange(4))]
            choose.shuffle(pairs)
            query = urlencode(pairs)
            if choose.random() < 0.2:
                cut = choose.randrange(len(query) + 1)
                query = query[:cut] + quote(choose.choice(WORDS), safe="%&=") + query[cut:]
            query = query.replace("#", "")
            headers = {
                "Content-Type": choose.choice((FORM, FORM, "application/json", "multipart/form-data; boundary=x"))
            }
            if choose.random() < 0.3:
                headers["Authorization"] = choose.choice(("Basic ????", "Basic YTpi", "Bearer x", "Bearer", "Digest x"))
            if choose.random() < 0.3:
                headers["X-Forwarded-Proto"] = choose.choice(("https", "", "x,y", "javascript"))
            sender = browser.client if choose.random() < 0.5 else running.client()
            for target in TARGETS:
                if choose.random() < 0.5:
                    reply = await sender.request("GET", f"{target}?{query}", headers=headers)
                else:
                    reply = await sender.request("POST", target, raw=query.encode(), headers=headers)
                assert reply.status < 500, (number, target, reply.status, query[:300])
                location = reply.headers.get("Location", "/")
                if not location.startswith("/"):
                    assert location.startswith((client.redirect_uri, other.redirect_uri)), (number, location)
