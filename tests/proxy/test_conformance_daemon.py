"""Rows of the proxy's conformance table that need sockets and a core: credentials, errors, absences, replicas."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from outposts.proxy.rfc import LOGIN_COOKIE_SUFFIX
from tests import daemons
from tests.proxy.conftest import BLUEPRINT, DOMAIN, FULL, SINGLE, P, browser, check, environment, log_in
from tests.proxy.web import NAVIGATION, Web
from tests.valkey import valkey_server

APP_PASSWORD = base64.b64encode(b"alice:alice-app-password-key-1").decode()
WRONG = base64.b64encode(b"alice:alice-pw-1").decode()  # a real password is no app password


def test_h01_and_h03_credentials_are_checked_and_not_passed_on(web: Web) -> None:
    """Rows H1, H3: an app password lets in each time, the application never sees it, and no cookie is set."""
    for _ in range(2):
        got = web.send("GET", f"http://{FULL}/api", {"Authorization": f"Basic {APP_PASSWORD}"})
        assert got.status == 200
        headers = json.loads(got.body)["headers"]
        assert ["X-Authentik-Username", "alice"] in headers
        assert f"Basic {APP_PASSWORD}" not in [value for _, value in headers]
    assert check(web, Authorization=f"Basic {APP_PASSWORD}").one("x-authentik-username") == "alice"
    assert not web.jar


def test_h02_bad_credentials_get_a_challenge(web: Web) -> None:
    """Rows H2, H5: 401 that says what is taken; what is open stays open."""
    for sent in (f"Basic {WRONG}", "Bearer a.b.c"):
        got = web.send("GET", f"http://{FULL}/api", {"Authorization": sent})
        assert got.status == 401
        assert any(value.startswith("Basic realm=") for value in got.headers["www-authenticate"])
        assert check(web, Authorization=sent).status == 401
        assert web.send("GET", f"http://{FULL}/public/x", {"Authorization": sent}).status == 200


def test_l11_an_error_of_the_core_is_a_page(web: Web) -> None:
    """Row L11: both forms of an error, 403 with the reason and a way back; no redirect that would loop."""
    state = quote(parse_qs(urlsplit(check(web).location).query)["state"][0])
    for joined in ("&error=access_denied", "?error=login_required"):
        query = f"X-authentik-auth-callback=true{joined}&error_description=not+today&state={state}"
        got = web.send("GET", f"http://{SINGLE}{P}/callback?{query}")
        assert got.status == 403
        assert "not today" in got.page.text
        assert got.page.links["Log in again"].startswith(f"http://{SINGLE}{P}/start")


def test_l02_and_l09_nobody_is_sent_elsewhere(web: Web) -> None:
    """Rows L2, L3, L9: foreign targets end at the external host; a state that is not ours is a page."""
    for target in ("https://evil.org/", "//evil.org", "/\\evil.org", "javascript:alert(1)", "https:evil.org"):
        web.jar.clear()
        start = web.send("GET", f"http://{SINGLE}{P}/start?rd={quote(target)}")
        assert start.status == 302
        callback = log_in(web, start, until=f"http://{SINGLE}{P}/callback")
        back = web.send("GET", callback.location)
        assert back.location.startswith(f"http://{SINGLE}"), (target, back.location)
    for state in ("", "x", "a" * 9000):
        got = web.send("GET", f"http://{SINGLE}{P}/callback?code=c&state={state}")
        assert got.status == 400
        assert got.page.text


def test_o02_a_sign_out_by_another_site_is_asked_about(web: Web) -> None:
    """Row O2: a link elsewhere signs nobody out; the button of our page does."""
    log_in(web, check(web), until=f"http://{SINGLE}/a")
    url = f"http://{SINGLE}{P}/sign_out"
    asked = web.send("GET", url, {**NAVIGATION, "Sec-Fetch-Site": "cross-site"})
    assert asked.status == 200
    assert "Another page asks" in asked.page.text
    assert check(web).status == 200
    web.submit(asked, until="http://127.0.0.1")
    assert check(web).status == 401


def test_t12_and_t13_a_domain_and_many_strangers(web: Web, proxy: daemons.Daemon) -> None:
    """Rows T12, T13: strangers leave nothing behind; a domain's login has its cookie for all of it."""
    for _ in range(200):
        assert check(Web(web.places)).status == 401
    web.places["a.domain.test:9080"] = web.places[DOMAIN]
    refused = check(web, "/x", "a.domain.test:9080")
    assert parse_qs(urlsplit(refused.location).query)["redirect_uri"][0].startswith(f"http://{DOMAIN}{P}/callback")
    (cookie,) = refused.headers["set-cookie"]
    assert "Domain=domain.test" in cookie


def test_l12_and_r07_while_the_core_is_away(tmp_path: Path) -> None:
    """Rows L12, R7: who is logged in passes, also after a restart; a login ends as a page, not as a loop."""
    folder = tmp_path / "core"
    given = ["--data", str(folder / "data"), "--blueprint", str(BLUEPRINT)]
    with contextlib.ExitStack() as stack:
        core = stack.enter_context(daemons.running("core", {}, given, until_ready=False, folder=folder / "run"))
        settings = environment(core, OUTPOSTS_STATE_DIR=str(tmp_path / "state"))
        first = stack.enter_context(daemons.running("proxy", settings))
        web, late = browser(core, first), browser(core, first)
        log_in(web, check(web), until=f"http://{SINGLE}/a")
        callback = log_in(late, check(late), until=f"http://{SINGLE}{P}/callback")
        core.kill()
        assert check(web).status == 200
        got = late.send("GET", callback.location)
        assert got.status == 502
        assert "could not be finished" in got.page.text
        assert check(late).status == 401
        first.stop()
        second = stack.enter_context(daemons.running("proxy", settings, until_ready=False))
        web.places[SINGLE] = second.address("http")
        assert check(web).one("x-authentik-username") == "alice"


def test_o03_a_login_that_ended_while_nobody_listened(core: daemons.Daemon, tmp_path: Path) -> None:
    """Row O3: the outpost was not there when the core said so; it asks when it is back."""
    settings = environment(core, OUTPOSTS_STATE_DIR=str(tmp_path / "state"))
    with daemons.running("proxy", settings) as first:
        web, other = browser(core, first), browser(core, first)
        log_in(web, check(web), until=f"http://{SINGLE}/a")
        log_in(other, check(other), until=f"http://{SINGLE}/a")
        assert (check(web).status, check(other).status) == (200, 200)
        assert first.stop() == 0
    host, port = core.address("core")
    web.follow(web.send("GET", f"http://{host}:{port}/flows/-/default/invalidation/"))
    with daemons.running("proxy", settings) as second:
        web.places[SINGLE] = other.places[SINGLE] = second.address("http")
        second.wait_for(lambda: check(web).status == 401, 10.0, lambda: "still allowed")
        assert check(other).status == 200


def test_w16_replicas_share_sessions_over_redis(core: daemons.Daemon) -> None:
    """W16: a login that begins at one ends at the other; a sign-out at one is one at both; without the store, 503."""
    with valkey_server() as server, contextlib.ExitStack() as stack:
        settings = environment(core, OUTPOSTS_REDIS_URL=server.connection_url)
        one, other = (stack.enter_context(daemons.running("proxy", settings)) for _ in range(2))
        web = browser(core, one)
        callback = log_in(web, check(web), until=f"http://{SINGLE}{P}/callback")
        web.places[SINGLE] = other.address("http")
        assert web.send("GET", callback.location).location == f"http://{SINGLE}/a?x=1&y=2"
        for daemon in (one, other, one):
            web.places[SINGLE] = daemon.address("http")
            assert check(web).status == 200
        web.send("GET", f"http://{SINGLE}{P}/sign_out")
        web.places[SINGLE] = other.address("http")
        other.wait_for(lambda: check(web).status == 401, 5.0, lambda: "still allowed at the other one")
        server.terminate()
        assert check(browser(core, other)).status == 401, "no cookie, no need to look it up"
        kept = web.jar["single.proxy.test"]
        kept |= {name.removesuffix(LOGIN_COOKIE_SUFFIX): "a" * 43 for name in kept}
        assert check(web).status == 503, "row L16"
        got = web.send("GET", callback.location)
        assert got.status == 503
        assert "set-cookie" not in got.headers


def test_limits_of_connections_and_heads(core: daemons.Daemon) -> None:
    """A head has its time, an address its number of connections; others go on."""
    settings = environment(
        core,
        AUTHENTIK_LISTEN__TRUSTED_PROXY_CIDRS="10.0.0.0/8",
        AUTHENTIK_WEB__TIMEOUT_HTTP_READ_HEADER="1s",
        OUTPOSTS_PROXY__MAX_CONNECTIONS_PER_ADDRESS="3",
    )
    with daemons.running("proxy", settings) as daemon, contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(daemon.address("http"), timeout=10)) for _ in range(3)]
        for client in held:
            client.sendall(b"GET / HTTP/1.1\r\n")
        with socket.create_connection(daemon.address("http"), timeout=10) as further:
            further.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                assert further.recv(10) == b""
        for client in held:
            answer = b""
            while piece := client.recv(65_536):
                answer += piece
            assert answer.startswith(b"HTTP/1.1 408 ")
        with socket.create_connection(daemon.address("http"), timeout=10) as again:
            again.sendall(f"GET {P}/ping HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert again.recv(100).startswith(b"HTTP/1.1 204 ")
