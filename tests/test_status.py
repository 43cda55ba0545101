"""``outposts status``: what it says about real daemons, about one that waits for its core, and about none."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outposts import doctor, status
from tests import daemons, factories
from tests.fakes import StubCore


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a clean environment."""
    return subprocess.run(
        [sys.executable, "-m", "outposts", "status", *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(daemons.ROOT), "TMPDIR": str(folder)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def core() -> Iterator[StubCore]:
    """A core with a directory behind a provider in cached mode."""
    with StubCore() as stub:
        stub.load_conformance(search_mode="cached")
        yield stub


@pytest.fixture(scope="module")
def daemon(core: StubCore) -> Iterator[daemons.Daemon]:
    """An LDAP daemon of that core."""
    environment = {"AUTHENTIK_HOST": core.url, "AUTHENTIK_TOKEN": core.token}
    with daemons.running("ldap", environment) as running:
        core.wait_for(lambda: core.connected() > 0, "WebSocket")
        yield running


def test_running_daemon_for_programs(daemon: daemons.Daemon) -> None:
    """Over the socket in TMPDIR: outpost, link, providers, directory, ages."""
    done = run(daemon.folder, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["ready"] is True
    assert found["reasons"] == []
    assert (found["outpost"], found["type"]) == ("stub ldap outpost", "ldap")
    assert found["version"]
    assert found["link"] is True
    assert found["providers"] == 1
    assert 0 <= found["configuration_age_s"] < 600
    directory = found["directories"]["ldap-app"]
    assert directory["entries"] > 5
    assert directory["errors"] == 0
    assert found["uptime_s"] < 600
    assert found["memory_bytes"] > 1e6


def test_running_daemon_for_people(daemon: daemons.Daemon) -> None:
    """One subject per line, without colour in a pipe."""
    done = run(daemon.folder)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == f"asked {daemon.folder}/authentik-metrics.sock"
    rows = {line.split()[0]: line for line in lines[1:]}
    assert rows["state"].endswith("ready")
    assert "stub ldap outpost (ldap)" in rows["outpost"]
    assert "open" in rows["link"]
    assert "ldap-app" in rows["directory"]
    assert "entries, read" in rows["directory"]
    assert "\x1b" not in done.stdout


def test_metrics_address_instead_of_the_socket(daemon: daemons.Daemon, tmp_path: Path) -> None:
    """By argument, and by the daemon's own setting when there is no socket in TMPDIR."""
    host, port = daemon.address("metrics")
    address = f"{host}:{port}"
    assert f"asked {address}\n" in run(tmp_path, "--metrics", address).stdout
    done = run(tmp_path, AUTHENTIK_LISTEN__METRICS=address)
    assert done.returncode == 0
    assert f"asked {address}\n" in done.stdout


def test_doctor_beside_a_running_daemon(core: StubCore, daemon: daemons.Daemon) -> None:
    """The ports that it holds are all right, and its socket is left alone."""
    variables = {"AUTHENTIK_HOST": core.url, "AUTHENTIK_TOKEN": core.token, "TMPDIR": str(daemon.folder)}
    for listener in ("ldap", "ldaps", "metrics"):
        host, port = daemon.address(listener)
        variables[f"AUTHENTIK_LISTEN__{listener.upper()}"] = f"{host}:{port}"
    findings = asyncio.run(doctor.examine(variables)).findings
    ports = [finding for finding in findings if finding.check == "ports"]
    assert len(ports) == 3
    assert all(finding.state == "ok" and "a daemon runs here" in finding.found for finding in ports)
    assert run(daemon.folder).returncode == 0


def test_daemon_that_waits_for_its_core(tmp_path: Path) -> None:
    """It answers and is not ready: exit 1, and the reason is the core's refusal."""
    with StubCore() as stub:
        stub.providers["ldap"] = [factories.ldap_provider()]
        environment = {
            "AUTHENTIK_HOST": stub.url,
            "AUTHENTIK_TOKEN": "wrong",
            "AUTHENTIK_LISTEN__METRICS": "127.0.0.1:0",
        }
        environment |= {f"AUTHENTIK_LISTEN__{name}": "127.0.0.1:0" for name in ("LDAP", "LDAPS")}
        waiting = daemons.launch("ldap", [sys.executable, "-m", "outposts", "ldap"], environment, folder=tmp_path)
        try:
            waiting.wait_for(
                lambda: "Token invalid/expired" in run(tmp_path).stdout, daemons.READY_TIMEOUT_S, lambda: "a reason"
            )
            done = run(tmp_path)
            assert done.returncode == 1
            assert "not ready" in done.stdout
            assert "not known yet" in done.stdout
            assert "the core does not know this outpost" in done.stdout
            found = json.loads(run(tmp_path, "--json").stdout)
            assert found["ready"] is False
            assert "Token invalid/expired" in found["last_error"]
            assert found["configuration_age_s"] is None
            assert found["refresh_errors"]
        finally:
            waiting.kill()


def test_no_daemon(tmp_path: Path) -> None:
    """All places that were asked, and what to do."""
    done = run(tmp_path, AUTHENTIK_LISTEN__METRICS="127.0.0.1:1")
    assert done.returncode == 1
    assert f"{tmp_path}/authentik-metrics.sock: No such file" in done.stderr
    assert "127.0.0.1:1: Connection refused" in done.stderr


def test_something_else_on_the_port(core: StubCore, tmp_path: Path) -> None:
    """A web server is no daemon."""
    done = run(tmp_path, "--metrics", f"127.0.0.1:{core.port}")
    assert done.returncode == 1
    assert "something else answers" in done.stderr


@pytest.mark.parametrize("arguments", [["--metrics", "nonsense:x"], ["more"]])
def test_bad_usage(tmp_path: Path, arguments: list[str]) -> None:
    """Exit 2 with the reason."""
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert "outposts status" in done.stderr


# What the words are made of

METRICS = """\
# TYPE authentik_outpost_info gauge
authentik_outpost_info{build="",outpost_name="o\x1bx",outpost_type="radius",uuid="u",version="1.2"} 1.0
# TYPE authentik_outpost_connection gauge
authentik_outpost_connection{outpost_name="o",outpost_type="radius",uuid="u"} 0.0
# TYPE outposts_refresh_errors counter
outposts_refresh_errors_total{reason="unavailable"} 3.0
# TYPE outposts_certificate_expiry_seconds gauge
outposts_certificate_expiry_seconds{certificate="web"} -7200.0
outposts_certificate_expiry_seconds{certificate="eap"} 864000.0
# TYPE outposts_gid_collisions gauge
outposts_gid_collisions{app="a"} 2.0
# TYPE authentik_outpost_radius_requests_rejected counter
authentik_outpost_radius_requests_rejected_total{app="a",outpost_name="o",reason="denied"} 4.0
authentik_outpost_radius_requests_rejected_total{app="b",outpost_name="o",reason="denied"} 1.0
# TYPE outposts_configuration_age_seconds gauge
outposts_configuration_age_seconds +Inf
# TYPE authentik_outpost_radius_inflight gauge
authentik_outpost_radius_inflight 7.0
"""


def shown(*, colour: bool = False) -> str:
    """Those metrics for people, of a daemon with workers that is not ready."""
    health = {
        "ready": False,
        "reasons": ["no provider"],
        "workers": {"wanted": 2, "listening": 1, "problems": ["worker 2: starting"]},
    }
    return status.as_text(status.gather(health, status.parse(METRICS), 1000.0), colour=colour)


def test_what_is_wrong_is_on_a_line_of_its_own() -> None:
    """Closed link, errors by reason, certificates, collisions, refusals added up, workers; nothing moves the cursor."""
    text = shown()
    for words in (
        "no provider", "closed", "unavailable: 3", "web: ended 2 h ago", "eap: ends in 10 d",
        "2 groups share a gidNumber", "radius denied: 5", "1 of 2 listen", "worker 2: starting", "none yet",
        "RADIUS requests in progress: 7", "o x (radius)",
    ):  # fmt: skip
        assert words in text
    assert "\x1b" not in text
    assert "\x1b[31mnot ready\x1b[0m" in shown(colour=True)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (61, "1 min 1 s"), (3600, "1 h"), (93_600, "1 d 2 h"), (float("inf"), "never")],
)
def test_durations(seconds: float, text: str) -> None:
    """At most two units."""
    assert status.duration(seconds) == text
