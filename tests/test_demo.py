"""The demo as a newcomer meets it: it says ready, every door works, Ctrl-C leaves no process and no file."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ldap3
import pyotp
import pytest
import yaml

from outposts import demo

START_TIMEOUT_S = 120
BASE = demo.BASE_DN.lower()


class RunningDemo:
    """A demo process, what it printed, and where it listens."""

    def __init__(self, folder: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("AUTHENTIK_", "OUTPOSTS_"))}
        self.folder = folder
        self.output: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "outposts", "demo"],
            env=environment | {"TMPDIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        give_up = time.monotonic() + START_TIMEOUT_S
        for line in self.process.stdout:
            self.output.append(line)
            if line == "ready\n":
                break
            assert time.monotonic() < give_up, "".join(self.output)
        assert self.output and self.output[-1] == "ready\n", "".join(self.output)

    @property
    def text(self) -> str:
        """Everything printed so far."""
        return "".join(self.output)

    @property
    def ldap_port(self) -> int:
        """The LDAP port as printed for people."""
        found = re.search(r"ldap://localhost:(\d+)", self.text)
        assert found
        return int(found[1])

    def children(self) -> list[int]:
        """Process ids of the demo's children."""
        listing = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(number) for number in listing.split()]

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal to the whole foreground group, as Ctrl-C does, and wait."""
        os.killpg(self.process.pid, number)
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.output += self.process.stdout.readlines()
        self.process.stdout.close()
        return code


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDemo]:
    """One demo for the tests that only look."""
    started = RunningDemo(tmp_path_factory.mktemp("demo"))
    yield started
    if started.process.poll() is None:
        started.stop()


@contextlib.contextmanager
def connection(running: RunningDemo, name: str, password: str) -> Iterator[Any]:
    """An unbound ldap3 connection, closed at the end."""
    server = ldap3.Server("127.0.0.1", running.ldap_port, get_info=ldap3.NONE, connect_timeout=10)
    link = ldap3.Connection(server, f"cn={name},ou=users,{BASE}", password, receive_timeout=20)
    try:
        yield link
    finally:
        link.unbind()


def test_search_account_reads_alice_and_everybody(running: RunningDemo) -> None:
    """The printed commands' account finds real entries."""
    with connection(running, "search", "search-demo-pw") as link:
        assert link.bind(), link.result
        assert link.search(BASE, "(cn=alice)", attributes=["*"])
        people = [entry for entry in link.response if entry["dn"] == f"cn=alice,ou=users,{BASE}"]
        assert people[0]["attributes"]["mail"] == ["alice@example.org"]
        assert sorted(people[0]["attributes"]["memberOf"]) == [f"cn={g},ou=groups,{BASE}" for g in ("admins", "staff")]
        assert link.search(f"ou=users,{BASE}", "(objectClass=user)", attributes=["cn"])
        names = {entry["attributes"]["cn"][0] for entry in link.response}
        assert {"alice", "bob", "search", "user01", "user50"} <= names


def test_wrong_password_is_49(running: RunningDemo) -> None:
    """A wrong password is never accepted."""
    with connection(running, "alice", "alice-demo-pw ") as link:
        assert not link.bind()
        assert link.result["result"] == 49


def test_bob_needs_his_code(running: RunningDemo) -> None:
    """The TOTP device counts: without a code 49, with ``password;code`` 0."""
    with connection(running, "bob", "bob-demo-pw") as link:
        assert not link.bind()
        assert link.result["result"] == 49
    code = pyotp.TOTP(demo.BOB_TOTP_SECRET).now()
    with connection(running, "bob", f"bob-demo-pw;{code}") as link:
        assert link.bind()


def test_everything_to_try_is_printed(running: RunningDemo) -> None:
    """A newcomer finds accounts and commands on the screen."""
    for word in ("akadmin / akadmin-demo-pw", "search / search-demo-pw", "ldapsearch -x", "ldaps://", "Ctrl-C"):
        assert word in running.text


def test_ctrl_c_leaves_no_process_and_no_file(running: RunningDemo) -> None:
    """Runs last of this module's looks: stop it and look for remains."""
    children = running.children()
    assert len(children) == 2
    assert list(running.folder.iterdir())
    assert running.stop() == 0
    assert not list(running.folder.iterdir())
    for pid in children:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_taken_port_is_replaced_and_said() -> None:
    """Default ports in use do not stop the demo."""
    free = demo.free_port("127.0.0.1")
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free))
        taken.listen()
        assert not demo.can_bind("127.0.0.1", free)
        chooser = demo.Demo(Path("/nonexistent"), None)
        assert chooser._usable_port("ldap", free) != free
        assert str(free) in chooser.moved[0]


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    """A clear sentence instead of a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "outposts", "demo", "--listen", "192.0.2.1", "--data", str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "192.0.2.1" in done.stderr
    assert "Traceback" not in done.stderr


def test_blueprint_is_valid_yaml_with_the_promised_people() -> None:
    """The template is filled in completely."""

    class Loader(yaml.SafeLoader):
        """Accepts the blueprint tags as plain values."""

    Loader.add_multi_constructor("!", lambda loader, suffix, node: suffix)
    text = demo.blueprint_text("http://localhost:9080")
    assert "@" not in re.sub(r"@example\.org", "", text.split("entries:")[1])
    entries = yaml.load(text, Loader=Loader)["entries"]
    names = [e["identifiers"]["username"] for e in entries if e["model"] == "authentik_core.user"]
    assert len(names) == 3 + demo.MORE_USERS
