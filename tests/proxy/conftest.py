"""Real daemons for tests of the proxy: the embedded core with the recorded providers, an outpost, an application."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests import daemons
from tests.proxy.web import NAVIGATION, Got, Web

P = "/outpost.goauthentik.io"
BLUEPRINT = daemons.ROOT / "tests" / "data" / "recorded-core.yaml"
OUTPOST = "RC Proxy outpost"
SINGLE = "single.proxy.test:9080"
DOMAIN = "auth.domain.test:9080"
FULL = "app.proxy.test:9080"
RECORDED_UPSTREAM = "http://127.0.0.1:8081"


class _Handler(BaseHTTPRequestHandler):
    """Tells what arrived; a request to change the protocol gets its octets back."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def _answer(self) -> None:
        size = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(size).decode("latin-1")
        headers = [[name, value] for name, value in self.headers.items()]
        seen = {"method": self.command, "target": self.path, "headers": headers, "body": body}
        self.server.seen.append(self.path)
        if self.headers.get("Upgrade"):
            self.send_response(101)
            self.send_header("Upgrade", self.headers["Upgrade"])
            self.send_header("Connection", "Upgrade")
            self.end_headers()
            self.wfile.flush()
            while data := self.connection.recv(65_536):
                self.connection.sendall(data)
            self.close_connection = True
            return
        content = json.dumps(seen).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_POST = do_HEAD = do_PUT = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[str] = []


class Application:
    """An application behind the proxy. ``seen``: targets of the requests that it got."""

    def __init__(self) -> None:
        self._server = _Server()
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def seen(self) -> list[str]:
        """See the class."""
        return self._server.seen

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="session")
def application() -> Iterator[Application]:
    """The application of the provider in mode ``proxy``."""
    running = Application()
    yield running
    running.close()


@pytest.fixture(scope="session")
def core(tmp_path_factory: pytest.TempPathFactory, application: Application) -> Iterator[daemons.Daemon]:
    """A core with the recorded providers, in front of our application."""
    folder = tmp_path_factory.mktemp("core")
    blueprint = folder / "core.yaml"
    text = BLUEPRINT.read_text()
    assert RECORDED_UPSTREAM in text
    blueprint.write_text(text.replace(RECORDED_UPSTREAM, f"http://127.0.0.1:{application.port}"))
    given = ["--data", str(folder / "data"), "--blueprint", str(blueprint)]
    with daemons.running("core", {}, given, until_ready=False, folder=folder / "run") as daemon:
        yield daemon


def environment(core: daemons.Daemon, **more: str) -> dict[str, str]:
    """Settings of an outpost before this core."""
    data: Path = core.folder.parent / "data"
    command = [sys.executable, "-m", "outposts", "core", "token", OUTPOST, "--data", str(data)]
    inherited = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(daemons.ROOT)}
    done = subprocess.run(command, env=inherited, capture_output=True, text=True, check=True)
    host, port = core.address("core")
    return daemons.outpost_environment(f"http://{host}:{port}", done.stdout.strip(), **more)


@pytest.fixture(scope="session")
def proxy(core: daemons.Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[daemons.Daemon]:
    """An outpost with a store in a file."""
    folder = tmp_path_factory.mktemp("proxy")
    with daemons.running("proxy", environment(core, OUTPOSTS_STATE_DIR=str(folder / "state"))) as daemon:
        yield daemon


def browser(core: daemons.Daemon, proxy: daemons.Daemon) -> Web:
    """A browser that finds core and outpost."""
    host, port = core.address("core")
    here = proxy.address("http")
    return Web({f"{host}:{port}": (host, port), **dict.fromkeys((SINGLE, DOMAIN, FULL), here)})


@pytest.fixture
def web(core: daemons.Daemon, proxy: daemons.Daemon) -> Web:
    """A browser that finds core and outpost."""
    return browser(core, proxy)


def check(web: Web, path: str = "/a?x=1&y=2", host: str = SINGLE, **headers: str) -> Got:
    """What nginx would be told about a browser's request."""
    sent = {**NAVIGATION, "X-Original-URL": f"http://{host}{path}", **headers}
    return web.send("GET", f"http://{host}{P}/auth/nginx", sent)


def log_in(web: Web, start: Got, user: str = "alice", *, until: str) -> Got:
    """From a redirect to the core through its pages to an address that begins with ``until``."""
    page = web.follow(web.send("GET", start.location))
    page = web.submit(page, uid_field=user)
    return web.submit(page, password=f"{user}-pw-1", until=until)
