"""The whole suite for tests with real peers: embedded core and LDAP daemon with the demo's people, on free ports."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from outposts import demo
from tests import daemons, peer_programs

BASE = demo.BASE_DN.lower()
SEARCH, SEARCH_PASSWORD = f"cn=search,ou=users,{BASE}", "search-demo-pw"
ALICE, ALICE_PASSWORD = f"cn=alice,ou=users,{BASE}", "alice-demo-pw"
BOB, BOB_PASSWORD = f"cn=bob,ou=users,{BASE}", "bob-demo-pw"
ADMIN_TOKEN = "suite-admin-token"
PEER_TIMEOUT_S = 60.0  # a client that hangs fails the test


@dataclass
class Suite:
    """A running core and LDAP daemon."""

    folder: Path
    core: daemons.Daemon
    ldap: daemons.Daemon

    @property
    def core_url(self) -> str:
        """Base URL of the core."""
        return core_url(self.core)

    @property
    def ldap_url(self) -> str:
        """For clients of LDAP."""
        return "ldap://{}:{}".format(*self.ldap.address("ldap"))

    @property
    def ldaps_url(self) -> str:
        """The same over TLS."""
        return "ldaps://{}:{}".format(*self.ldap.address("ldaps"))

    def restart_core(self) -> None:
        """Start the core again with its data on the port that it had; it must not run."""
        self.core = start_core(self.folder, listen=core_url(self.core).removeprefix("http://"))


def core_url(core: daemons.Daemon) -> str:
    """Base URL of a core from its ready file."""
    listener = next(name for name, value in core.ready.items() if isinstance(value, list))
    return "http://{}:{}".format(*core.address(listener))


def start_core(folder: Path, *, listen: str = "127.0.0.1:0", more: str = "") -> daemons.Daemon:
    """The embedded core with the demo's blueprint, ``more`` as a second one, and its data in ``folder``."""
    data = folder / "core-data"
    data.mkdir(exist_ok=True)
    blueprint = folder / "demo.yaml"
    blueprint.write_text(demo.blueprint_text("http://127.0.0.1"))
    settings = {
        "OUTPOSTS_CORE__LISTEN": listen,
        "AUTHENTIK_BOOTSTRAP_PASSWORD": "akadmin-demo-pw",
        "AUTHENTIK_BOOTSTRAP_TOKEN": ADMIN_TOKEN,
    }
    arguments = ["--data", str(data), "--blueprint", str(blueprint)]
    if more:
        second = folder / "more.yaml"
        second.write_text(more)
        arguments += ["--blueprint", str(second)]
    return daemons.start("core", settings, arguments, folder=folder / "core")


def outpost_token(folder: Path, outpost: str) -> str:
    """What ``outposts core token`` prints."""
    command = [sys.executable, "-m", "outposts", "core", "token", outpost, "--data", str(folder / "core-data")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PEER_TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def running(*, more: str = "", **settings: str) -> Iterator[Suite]:
    """Core and LDAP daemon; ``more`` is a blueprint beside the demo's, ``settings`` are the daemon's."""
    with tempfile.TemporaryDirectory(prefix="outposts-suite-") as name:
        folder = Path(name)
        core = start_core(folder, more=more)
        suite = None
        try:
            environment = daemons.outpost_environment(core_url(core), outpost_token(folder, "demo-ldap"), **settings)
            with daemons.running("ldap", environment) as ldap:
                suite = Suite(folder, core, ldap)
                yield suite
        finally:
            (suite.core if suite else core).kill()


def run_peer(command: list[str], *, package: str | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a client; ``package`` is the folder of a PyPI peer that it may import."""
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LDAPNOINIT": "1"}
    if package is not None:
        environment["PYTHONPATH"] = str(peer_programs.folder(package))
    return subprocess.run(
        command, env=environment, input=stdin, capture_output=True, text=True, timeout=PEER_TIMEOUT_S, check=False
    )
