"""The proxy as a process before the embedded core as a process: logins, sessions and sign-outs over real sockets."""

from __future__ import annotations

import json
import socket
import ssl
import time
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography import x509
from cryptography.x509.oid import NameOID

from common.tls import SELF_SIGNED_NAME
from tests import daemons
from tests.proxy.conftest import FULL, SINGLE, Application, P, browser, check, environment, log_in
from tests.proxy.web import NAVIGATION, Got, Web, ask

# The recorded provider for one application, as ``tests/data/recorded-core.yaml`` has it.
CLIENT = "U3ih4MZPZ888U6n8CQrQR2AqBzMnH179iWIu0BKQ"
CLIENT_SECRET = "ulwpqIpDrCw1DZbSR0kumvJu2AuykukgzA4kPmKGdQRnM0mXiWsCi6dY8JKs1BtcVwKbawQASkUVi1jwzuSnKHP23OPb9E2734jMs5vxgqjjpD7wj2troIYppi4CYBq8"  # noqa: E501


def test_forward_auth_from_anonymous_to_sign_out(web: Web) -> None:
    """Rows N2, N3, L1, L8, O1, O2: refused, sent to the login, logged in, allowed with a name, signed out."""
    refused = check(web)
    assert (refused.status, refused.body) == (401, b"unauthorized request\n")
    assert parse_qs(urlsplit(refused.location).query)["code_challenge_method"] == ["S256"]

    back = log_in(web, refused, until=f"http://{SINGLE}/a")
    assert back.location == f"http://{SINGLE}/a?x=1&y=2"
    allowed = check(web)
    assert (allowed.status, allowed.body) == (200, b"")
    assert allowed.one("x-authentik-username") == "alice"
    assert allowed.one("x-authentik-groups") == "ldap-search|staff"
    assert allowed.one("x-authentik-meta-app") == "proxy-single"

    out = web.send("GET", f"http://{SINGLE}{P}/sign_out")
    assert out.status == 302
    assert "/end-session/" in out.location
    assert any("Max-Age=0" in text for text in out.headers["set-cookie"])
    assert check(web).status == 401
    again = web.send("GET", f"http://{SINGLE}{P}/sign_out")
    assert again.status == 200
    assert "Signed out" in again.page.text


def test_only_the_browser_that_began_a_login_can_end_it(web: Web, proxy: daemons.Daemon) -> None:
    """Rows L9 and L10: another browser gets a page; the same one may come back, and is sent on."""
    refused = check(web)
    page = web.submit(web.follow(web.send("GET", refused.location)), uid_field="alice")
    callback = web.submit(page, password="alice-pw-1", until=f"http://{SINGLE}{P}/callback")
    stranger = Web(web.places)
    answer = stranger.send("GET", callback.location)
    assert answer.status == 400
    assert "begun elsewhere" in answer.page.text
    assert not stranger.jar
    first = web.send("GET", callback.location)
    assert first.status == 302
    second = web.send("GET", callback.location)
    assert (second.status, second.location) == (302, first.location)
    assert check(web).status == 200


def test_a_session_outlives_a_restart(core: daemons.Daemon, tmp_path: Path) -> None:
    """Who is logged in stays so: the store is a file, and nothing of it says who they are."""
    settings = environment(core, OUTPOSTS_STATE_DIR=str(tmp_path / "state"))
    host, port = core.address("core")
    web = Web({f"{host}:{port}": (host, port)})
    with daemons.running("proxy", settings) as first:
        web.places[SINGLE] = first.address("http")
        log_in(web, check(web), until=f"http://{SINGLE}/a")
        assert check(web).status == 200
        assert first.stop() == 0
    with daemons.running("proxy", settings) as second:
        web.places[SINGLE] = second.address("http")
        assert check(web).one("x-authentik-username") == "alice"
        stored = b"".join(path.read_bytes() for path in (tmp_path / "state").iterdir() if "sessions" in path.name)
        assert stored
        assert b"alice" not in stored


def test_what_is_logged_holds_no_secret(web: Web, proxy: daemons.Daemon) -> None:
    """One line for each request, with who asked and what became of it; no query, cookie, code or token."""
    log_in(web, check(web, "/secret-page?token=topsecret"), until=f"http://{SINGLE}/secret")
    assert check(web, "/page-of-the-log").status == 200
    asked = f"http://{SINGLE}/page-of-the-log"
    found: list[tuple[int, str, str]] = []

    def told() -> bool:
        """Lines are written after the answers that they are about."""
        lines = [line for line in proxy.records() if line.get("asked") == asked]
        found[:] = [(line["status"], line["result"], line["user"]) for line in lines]
        return bool(found)

    proxy.wait_for(told, 5.0, lambda: "no line")
    assert found == [(200, "allowed_session", "alice")]
    text = proxy.text()
    assert "topsecret" not in text
    assert "code=" not in text
    for values in web.jar.values():
        for name, value in values.items():
            if name.startswith("authentik_proxy_"):
                assert value not in text


def test_heads_that_can_be_read_in_two_ways_are_refused(proxy: daemons.Daemon) -> None:
    """Row R4 and beyond: each ends its connection with 400, and nothing after it is answered."""
    good = f"GET {P}/ping HTTP/1.1\r\nHost: {SINGLE}\r\n\r\n".encode()
    for bad in (
        f"GET {P}/ping HTTP/1.1\r\nHost : a\r\n\r\n",
        f"GET {P}/ping HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        f"GET {P}/ping  HTTP/1.1\r\nHost: a\r\n\r\n",
        f"POST {P}/ping HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        f"GET {P}/ping HTTP/1.1\nHost: a\n\n\r\n\r\n",
        f"POST {P}/ping HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 60\r\nHost: a\r\n\r\n",
        f"GET {P}/ping HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ):
        with socket.create_connection(proxy.address("http"), timeout=10) as client:
            client.sendall(bad.encode() + good)
            answer = b""
            while piece := client.recv(65_536):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 400 "), (bad, answer[:80])
        assert answer.count(b"HTTP/1.1") == 1, bad


def test_answers_come_in_order(proxy: daemons.Daemon, web: Web) -> None:
    """Pipelined requests of both lanes, in one packet and octet by octet."""
    head = f"Host: {SINGLE}\r\nX-Original-URL: http://{SINGLE}/a\r\n"
    requests = (
        f"GET {P}/auth/nginx HTTP/1.1\r\n{head}\r\n"
        f"GET {P}/ping HTTP/1.1\r\nHost: x\r\n\r\n"
        f"POST {P}/ping HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
        f"GET {P}/auth/nginx HTTP/1.1\r\n{head}\r\n"
        f"GET /elsewhere HTTP/1.1\r\nHost: {SINGLE}\r\nConnection: close\r\n\r\n"
    ).encode()
    for size in (len(requests), 7):
        with socket.create_connection(proxy.address("http"), timeout=10) as client:
            for at in range(0, len(requests), size):
                client.sendall(requests[at : at + size])
            answer = b""
            while piece := client.recv(65_536):
                answer += piece
        lines = [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
        assert lines == [401, 204, 204, 401, 404]


def test_ping_metrics_and_hosts(proxy: daemons.Daemon, web: Web) -> None:
    """Rows R1, R2, R3, R6: what is answered for which host; metrics have the reference's names."""
    here = proxy.address("http")
    for method in ("GET", "HEAD", "POST", "DELETE"):
        assert ask(here, method, f"{P}/ping", {"Host": "any.where"}).status == 204
    unknown = ask(here, "GET", "/", {"Host": "elsewhere.test"})
    assert unknown.status == 400
    assert json.loads(unknown.body)["Message"] == "no app for hostname"
    assert ask(here, "GET", f"{P}/callback/", {"Host": SINGLE.upper()}).status == 404
    status, text = proxy.get("/metrics")
    assert status == 200
    assert b"authentik_outpost_proxy_request_duration_seconds_bucket{host=" in text
    assert b'host="single.proxy.test:9080"' in text


def shown(got: Got) -> dict[str, list[str]]:
    """Headers of a request as the application got them, by lower-case name."""
    assert got.status == 200, got.body
    found: dict[str, list[str]] = {}
    for name, value in json.loads(got.body)["headers"]:
        found.setdefault(name.lower(), []).append(value)
    return found


def test_reverse_proxy_from_anonymous_to_the_application(web: Web, application: Application) -> None:
    """Rows P1, P2, P3, P13: login with the query kept; the raw target, who it is, and nothing that was forged."""
    first = web.send("GET", f"http://{FULL}/a?x=1")
    assert (first.status, first.location) == (
        302,
        f"http://{FULL}{P}/start?rd=http%3A%2F%2Fapp.proxy.test%3A9080%2Fa%3Fx%3D1",
    )
    got = log_in(web, first, until="")
    assert (got.status, got.url) == (200, f"http://{FULL}/a?x=1")
    forged = {"X-Authentik-Username": "root", "X_authentik_username": "root", "X-Forwarded-For": "192.0.2.1"}
    got = web.send("GET", f"http://{FULL}/a%2Fb/..;/c?a=%zz&b=1;c", NAVIGATION | forged)
    seen = shown(got)
    assert json.loads(got.body)["target"] == "/a%2Fb/..;/c?a=%zz&b=1;c"
    assert seen["x-authentik-username"] == ["alice"]
    assert "x_authentik_username" not in seen
    assert seen["host"] == [FULL]
    assert seen["x-forwarded-host"] == [FULL]
    assert seen["x-forwarded-proto"] == ["http"]
    assert "authentik_proxy_" not in "".join(seen.get("cookie", []))
    stranger = Web(web.places)
    open_to_all = shown(stranger.send("GET", f"http://{FULL}/public/x", NAVIGATION | forged))
    assert open_to_all["x-authentik-username"] == [""]
    assert "x_authentik_username" not in open_to_all


def test_a_script_gets_401_and_no_session(web: Web, application: Application) -> None:
    """Rows T9 and W10: no redirect for what is no navigation; nothing reaches the application."""
    before = len(application.seen)
    for method, headers in (
        ("GET", {"Sec-Fetch-Mode": "cors"}),
        ("POST", {"Content-Type": "application/json"}),
        ("GET", {"Connection": "Upgrade", "Upgrade": "websocket"}),
    ):
        got = web.send(method, f"http://{FULL}/api", headers, b"{}" if method == "POST" else None)
        assert got.status == 401, (method, headers)
        assert json.loads(got.body)["login_url"] == f"http://{FULL}{P}/start"
    assert not web.jar
    assert len(application.seen) == before


def test_a_form_is_kept_over_the_login(web: Web, application: Application) -> None:
    """What was typed is not lost: after the login a page offers to send it, octet for octet."""
    body = b"text=caf%C3%A9+%26+more&empty=&text=second"
    sent = {**NAVIGATION, "Sec-Fetch-Site": "same-origin", "Content-Type": "application/x-www-form-urlencoded"}
    first = web.send("POST", f"http://{FULL}/comments?to=1", sent, body)
    assert first.status == 302
    page = log_in(web, first, until="")
    assert page.status == 200
    assert "was kept" in page.page.text
    form = page.page.form
    assert form is not None
    assert form.action == f"http://{FULL}/comments?to=1"
    kept = [(given["name"], given["value"]) for tag, given in page.page.tags if tag == "input"]
    assert kept == [("text", "café & more"), ("empty", ""), ("text", "second")]
    got = web.submit(page)
    assert json.loads(got.body)["method"] == "POST"
    assert json.loads(got.body)["target"] == "/comments?to=1"


def test_a_websocket_passes(web: Web, proxy: daemons.Daemon) -> None:
    """Row P7: after the login octets go both ways."""
    log_in(web, web.send("GET", f"http://{FULL}/"), until="")
    with socket.create_connection(proxy.address("http"), timeout=10) as client:
        cookies = web.cookies("app.proxy.test")
        client.sendall(
            f"GET /socket HTTP/1.1\r\nHost: {FULL}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Cookie: {cookies}\r\n\r\n".encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += client.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 101 ")
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"


def test_nothing_of_our_own_reaches_the_application(web: Web, application: Application) -> None:
    """Whatever stands below our prefix is answered here, in every mode."""
    before = len(application.seen)
    for path, status in (
        (f"{P}/nothing", 404),
        (f"{P}/auth/nginx", 500),
        (f"{P}/../secret", 302),
        (f"{P}/callback", 400),
    ):
        got = web.send("GET", f"http://{FULL}{path}")
        assert got.status in (status, 404), (path, got.status)
    assert len(application.seen) == before


def test_traefik_and_caddy(web: Web) -> None:
    """Rows T1, T2, T3, T5, T6: a redirect instead of 401, the callback and the sign-out in the forwarded URL."""

    def ask_as(name: str, target: str, **more: str) -> Got:
        sent = {
            **NAVIGATION, "X-Forwarded-Proto": "http", "X-Forwarded-Host": SINGLE, "X-Forwarded-Uri": target, **more
        }  # fmt: skip
        return web.send("GET", f"http://{SINGLE}{P}/auth/{name}", sent)

    assert web.send("GET", f"http://{SINGLE}{P}/auth/traefik").status == 500
    for name in ("traefik", "caddy"):
        web.jar.clear()
        refused = ask_as(name, "/a?x=1&y=2")
        assert refused.status == 302
        callback = log_in(web, refused, until=f"http://{SINGLE}{P}/callback")
        target = callback.location.removeprefix(f"http://{SINGLE}")
        back = ask_as(name, target)
        assert (back.status, back.location) == (302, f"http://{SINGLE}/a?x=1&y=2")
        assert ask_as(name, "/a?x=1&y=2").one("x-authentik-username") == "alice"
        out = ask_as(name, "/?X-authentik-logout=true")
        assert out.status == 302
        assert "end-session" in out.location
        assert ask_as(name, "/a").status == 302


def test_a_session_of_one_provider_is_none_at_another(web: Web) -> None:
    """Row O4: the cookie's value under the other provider's name is nobody's."""
    log_in(web, check(web), until=f"http://{SINGLE}/a")
    names = {name for name in web.jar["single.proxy.test"] if not name.endswith("_login")}
    assert check(web).status == 200
    (value,) = {web.jar["single.proxy.test"][name] for name in names if len(web.jar["single.proxy.test"][name]) == 43}
    other = Web(web.places)
    log_in(other, other.send("GET", f"http://{FULL}/"), until="")
    (place,) = [name for name, kept in other.jar["app.proxy.test"].items() if len(kept) == 43]
    assert other.send("GET", f"http://{FULL}/").status == 200
    other.jar["app.proxy.test"][place] = value
    assert other.send("GET", f"http://{FULL}/").status == 302


def test_the_end_of_a_login_at_the_core_ends_the_session(web: Web, core: daemons.Daemon) -> None:
    """Row O3: the core says so over the WebSocket, and the next check is refused."""
    log_in(web, check(web), until=f"http://{SINGLE}/a")
    assert check(web).status == 200
    host, port = core.address("core")
    web.follow(web.send("GET", f"http://{host}:{port}/flows/-/default/invalidation/"))
    core.wait_for(lambda: check(web).status == 401, 5.0, lambda: "still allowed")


def test_the_core_may_post_logout_tokens(web: Web, core: daemons.Daemon, proxy: daemons.Daemon) -> None:
    """OpenID Connect Back-Channel Logout: the session of a user ends; what is no logout token ends nothing."""
    log_in(web, check(web), until=f"http://{SINGLE}/a")
    host, port = core.address("core")
    now = time.time()
    claims = {
        "iss": f"http://{host}:{port}/application/o/proxy-single/",
        "aud": CLIENT,
        "sub": check(web).one("x-authentik-uid"),
        "iat": now,
        "exp": now + 60,
        "jti": "one",
        "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
    }

    def post(token: str, method: str = "POST") -> int:
        body = urlencode({"logout_token": token}).encode()
        headers = {"Host": SINGLE, "Content-Type": "application/x-www-form-urlencoded"}
        return ask(proxy.address("http"), method, f"{P}/backchannel_logout", headers, body).status

    assert post(jwt.encode(claims, "x" * 128, "HS256")) == 400
    assert post(jwt.encode(claims | {"aud": "another"}, CLIENT_SECRET, "HS256")) == 400
    assert post("a" * 200_000) == 400
    good = jwt.encode(claims, CLIENT_SECRET, "HS256")
    assert post(good, "PUT") == 404
    assert check(web).status == 200
    assert post(good) == 200
    assert check(web).status == 401
    assert post(good) == 400  # a replay


def test_workers_share_sessions(core: daemons.Daemon, tmp_path: Path) -> None:
    """Two processes: whichever is met, the session is found, and its end is heard of by both."""
    settings = environment(core, OUTPOSTS_STATE_DIR=str(tmp_path / "state"), OUTPOSTS_WORKERS="2")
    with daemons.running("proxy", settings) as several:
        web = browser(core, several)
        log_in(web, check(web), until=f"http://{SINGLE}/a")
        assert {check(web).status for _ in range(40)} == {200}
        web.send("GET", f"http://{SINGLE}{P}/sign_out")
        assert {check(web).status for _ in range(40)} == {401}
        assert several.stop() == 0


def test_https_with_a_certificate_by_name(proxy: daemons.Daemon) -> None:
    """Row W50: the provider's pair for its host; what is asked inside is answered as over http."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    request = f"GET {P}/ping HTTP/1.1\r\nHost: {FULL}\r\nConnection: close\r\n\r\n".encode()
    with (
        socket.create_connection(proxy.address("https"), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="app.proxy.test") as client,
    ):
        octets = client.getpeercert(binary_form=True)
        client.sendall(request)
        assert client.recv(100).startswith(b"HTTP/1.1 204 ")
    assert octets is not None
    (name,) = x509.load_der_x509_certificate(octets).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value != SELF_SIGNED_NAME
