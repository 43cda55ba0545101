"""The embedded core as a process: start, ready file, lock, restart on the same data, stop, command line."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests import daemons

BLUEPRINT = daemons.ROOT / "tests" / "data" / "small-core.yaml"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder that does not exist yet."""
    return tmp_path / "data"


def start(data: Path, *arguments: str, **environ: str) -> daemons.Daemon:
    """A core on a free port with the small blueprint."""
    folder = data.parent / "run"
    given = ["--data", str(data), "--blueprint", str(BLUEPRINT), *arguments]
    return daemons.start("core", environ, given, folder=folder)


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    command = [sys.executable, "-m", "outposts", "core", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(daemons.ROOT), **environ}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Answers are looked at, not followed."""

    def redirect_request(self, *arguments: Any) -> None:
        """Never."""


def call(daemon: daemons.Daemon, path: str, **headers: str) -> tuple[int, Any]:
    """Status and JSON of a GET."""
    host, port = daemon.address("core")
    request = urllib.request.Request(f"http://{host}:{port}/api/v3{path}", headers=headers)
    try:
        with urllib.request.build_opener(NoRedirect).open(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.loads(refused.read() or b"null")


def test_start_restart_and_stop(data: Path) -> None:
    """Tokens survive a restart, a killed process leaves a usable folder, SIGTERM is exit code 0."""
    daemon = start(data, AUTHENTIK_BOOTSTRAP_PASSWORD="first", AUTHENTIK_BOOTSTRAP_TOKEN="boot-token")
    try:
        assert daemon.ready["pid"] == daemon.pid
        token = run("token", "small-ldap", "--data", str(data))
        assert (token.returncode, len(token.stdout.strip())) == (0, 60)
        bearer = {"Authorization": f"Bearer {token.stdout.strip()}"}
        status, outposts = call(daemon, "/outposts/instances/", **bearer)
        assert (status, outposts["results"][0]["name"]) == (200, "small-ldap")
        status, me = call(daemon, "/core/users/me/", Authorization="Bearer boot-token")
        assert (status, me["user"]["username"]) == (200, "akadmin")
        log = daemon.text()
        assert "boot-token" not in log
        assert token.stdout.strip() not in log

        second = run("--data", str(data), "--listen", "127.0.0.1:0")
        assert second.returncode == 1
        assert "another embedded core" in second.stderr
    finally:
        daemon.kill()

    daemon = start(data)
    try:
        assert call(daemon, "/outposts/instances/", **bearer)[0] == 200
        assert daemon.stop() == 0
        assert not (daemon.folder / "ready.json").exists()
    finally:
        daemon.kill()
    assert oct((data / "core.sqlite3").stat().st_mode & 0o777) == "0o600"


def test_sigint_stops_too(data: Path) -> None:
    """As Ctrl-C in a terminal."""
    daemon = start(data)
    try:
        daemon.signal(signal.SIGINT)
        assert daemon.process.wait(daemons.STOP_TIMEOUT_S) == 0
        # nobody can log in as administrator yet, and the log says what to do
        assert "AUTHENTIK_BOOTSTRAP_PASSWORD" in daemon.text()
    finally:
        daemon.kill()


def test_refusals(data: Path) -> None:
    """Exit codes: 1 for what cannot be used, 2 for what is written wrongly; the text names it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("--data", str(data), "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 1
    assert "cannot listen" in done.stderr
    wrong = run("--data", str(data), "--listen", "nonsense")
    assert (wrong.returncode, "--listen" in wrong.stderr) == (2, True)
    typo = run("--data", str(data), OUTPOSTS_CORE__LISTNE="127.0.0.1:0")
    assert (typo.returncode, "OUTPOSTS_CORE__LISTEN" in typo.stderr) == (2, True)
    broken = data.parent / "broken.yaml"
    broken.write_text("version: 1\nentries:\n  - model: no.such\n    identifiers: {}\n")
    done = run("--data", str(data), "--listen", "127.0.0.1:0", "--blueprint", str(broken))
    assert done.returncode == 1
    assert "broken.yaml:3" in done.stderr
    assert run("token", "x", "--data", str(data.parent / "nowhere")).returncode == 1
    unknown = run("token", "nobody", "--data", str(data))
    assert (unknown.returncode, "nobody" in unknown.stderr) == (1, True)


def test_blueprints_are_applied_again_at_each_start(data: Path) -> None:
    """A changed file changes its objects at the next start."""
    folder = data.parent
    blueprint = folder / "people.yaml"
    entry = "  - model: authentik_core.user\n    identifiers: {{username: zoe}}\n    attrs: {{name: {}}}\n"
    text = "version: 1\nentries:\n" + entry
    names = []
    for name in ("Zoe One", "Zoe Two"):
        blueprint.write_text(text.format(name))
        daemon = start(data, "--blueprint", str(blueprint), AUTHENTIK_BOOTSTRAP_TOKEN="boot-token")
        try:
            _, page = call(daemon, "/core/users/?username=zoe", Authorization="Bearer boot-token")
            names.append(page["results"][0]["name"])
        finally:
            daemon.kill()
    assert names == ["Zoe One", "Zoe Two"]
