"""The proxy as a process before the embedded core as a process: logins, sessions and sign-outs over real sockets."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests import daemons
from tests.proxy.web import NAVIGATION, Got, Web, ask

P = "/outpost.goauthentik.io"
BLUEPRINT = daemons.ROOT / "tests" / "data" / "recorded-core.yaml"
OUTPOST = "RC Proxy outpost"
SINGLE = "single.proxy.test:9080"
DOMAIN = "auth.domain.test:9080"
FULL = "app.proxy.test:9080"


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[daemons.Daemon]:
    """A core with the recorded providers."""
    folder = tmp_path_factory.mktemp("core")
    given = ["--data", str(folder / "data"), "--blueprint", str(BLUEPRINT)]
    with daemons.running("core", {}, given, until_ready=False, folder=folder / "run") as daemon:
        yield daemon


def environment(core: daemons.Daemon, **more: str) -> dict[str, str]:
    """Settings of an outpost before this core."""
    data = core.folder.parent / "data"
    command = [sys.executable, "-m", "outposts", "core", "token", OUTPOST, "--data", str(data)]
    token = subprocess.run(
        command,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(daemons.ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    host, port = core.address("core")
    return daemons.outpost_environment(f"http://{host}:{port}", token, **more)


@pytest.fixture(scope="module")
def proxy(core: daemons.Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[daemons.Daemon]:
    """An outpost with a store in a file."""
    folder = tmp_path_factory.mktemp("proxy")
    with daemons.running("proxy", environment(core, OUTPOSTS_STATE_DIR=str(folder / "state"))) as daemon:
        yield daemon


@pytest.fixture
def web(core: daemons.Daemon, proxy: daemons.Daemon) -> Web:
    """A browser that finds core and outpost."""
    host, port = core.address("core")
    here = proxy.address("http")
    return Web({f"{host}:{port}": (host, port), **dict.fromkeys((SINGLE, DOMAIN, FULL), here)})


def check(web: Web, path: str = "/a?x=1&y=2", host: str = SINGLE, **headers: str) -> Got:
    """What nginx would be told about a browser's request."""
    sent = {**NAVIGATION, "X-Original-URL": f"http://{host}{path}", **headers}
    return web.send("GET", f"http://{host}{P}/auth/nginx", sent)


def log_in(web: Web, start: Got, user: str = "alice", *, until: str) -> Got:
    """From a redirect to the core through its pages to an address that begins with ``until``."""
    page = web.follow(web.send("GET", start.location))
    page = web.submit(page, uid_field=user)
    return web.submit(page, password=f"{user}-pw-1", until=until)


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
    lines = [line for line in proxy.records() if line.get("asked") == f"http://{SINGLE}/page-of-the-log"]
    assert [(line["status"], line["result"], line["user"]) for line in lines] == [(200, "allowed_session", "alice")]
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
