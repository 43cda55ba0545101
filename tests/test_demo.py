"""The demo as a newcomer meets it: it says ready, every door works, Ctrl-C leaves no process and no file.

Tests marked ``peer`` type the printed RADIUS lines into a shell; they come before bob's login over LDAP, which takes
his next code.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import signal
import socket
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

from common import tls
from outposts import demo
from tests import peer_programs

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

    def line(self, begin: str, word: str = "") -> str:
        """The command that is printed for people to copy."""
        found = [line.strip() for line in self.output if line.strip().startswith(begin + " ") and word in line]
        assert len(found) == 1, (begin, found)
        return found[0]

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


def typed(line: str) -> subprocess.CompletedProcess[str]:
    """What a shell makes of a printed line, without a terminal."""
    return subprocess.run(
        ["sh", "-c", line], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.peer
def test_radtest_lines_let_people_in(running: RunningDemo) -> None:
    """The printed lines as they are: alice gets the VLAN of her group, bob's code counts once."""
    peer_programs.program("radtest")
    accepted = typed(running.line("radtest", "alice"))
    assert accepted.returncode == 0 and "Received Access-Accept" in accepted.stdout, accepted.stdout
    assert 'Tunnel-Private-Group-Id:0 = "30"' in accepted.stdout
    bob = typed(running.line("radtest", "bob"))
    assert bob.returncode == 0 and "Received Access-Accept" in bob.stdout, bob.stdout


@pytest.mark.peer
@pytest.mark.parametrize(
    ("old", "new"),
    [("alice-demo-pw", "alice-demo-pw2"), ("alice-demo-pw", "''"), ("alice alice-", "bob bob-"), ("alice ", "nobody ")],
    ids=["wrong password", "no password", "no code", "nobody"],
)
def test_radtest_lines_with_something_wrong(running: RunningDemo, old: str, new: str) -> None:
    """The same line with one thing wrong is rejected, and no VLAN is told."""
    peer_programs.program("radtest")
    refused = typed(running.line("radtest", "alice").replace(old, new))
    assert refused.returncode == 1 and "Received Access-Reject" in refused.stdout, refused.stdout
    assert "Tunnel" not in refused.stdout


@pytest.mark.peer
def test_radtest_with_another_secret(running: RunningDemo) -> None:
    """Somebody who does not know the secret gets no answer."""
    peer_programs.program("radclient")
    where = running.line("radtest", "alice").split()[3]
    request = 'User-Name = "alice", User-Password = "alice-demo-pw", Message-Authenticator = 0x00'
    done = typed(f"echo '{request}' | radclient -x -r 1 -t 1 {where} auth guessed")
    assert done.returncode == 1 and "Sent Access-Request" in done.stdout, (done.stdout, done.stderr)
    assert "Received" not in done.stdout


@pytest.mark.peer
def test_eapol_test_line(running: RunningDemo) -> None:
    """The printed line logs in with the written file, and the keys of both sides agree; not with a wrong password."""
    peer_programs.program("eapol_test")
    line = running.line("eapol_test")
    granted = typed(line)
    assert granted.returncode == 0 and granted.stdout.rstrip().endswith("SUCCESS"), granted.stdout[-2000:]
    assert "MPPE keys OK: 1  mismatch: 0" in granted.stdout
    path = Path(line.split()[2])
    wrong = path.with_name("wrong.conf")
    wrong.write_text(path.read_text().replace('"alice-demo-pw"', '"alice-demo-pw2"'))
    refused = typed(line.replace(str(path), str(wrong)))
    assert refused.returncode != 0 and "code=3 (Access-Reject)" in refused.stdout


def test_bob_needs_his_code(running: RunningDemo) -> None:
    """The TOTP device counts: without a code 49, with ``password;code`` 0."""
    with connection(running, "bob", "bob-demo-pw") as link:
        assert not link.bind()
        assert link.result["result"] == 49
    # the next one: the code of now may have been used over RADIUS already
    totp = pyotp.TOTP(demo.BOB_TOTP_SECRET)
    with connection(running, "bob", f"bob-demo-pw;{totp.at(int(time.time()) + 30)}") as link:
        if link.bind():
            return
    # A code that came late over RADIUS has taught the core that bob's clock is slow: then the next one is too early.
    time.sleep(30 - time.time() % 30)
    with connection(running, "bob", f"bob-demo-pw;{totp.now()}") as link:
        assert link.bind()


def test_everything_to_try_is_printed(running: RunningDemo) -> None:
    """A newcomer finds accounts and commands on the screen."""
    for word in (
        "akadmin / akadmin-demo-pw",
        "search / search-demo-pw",
        "ldapsearch -x",
        "ldaps://",
        "demo-secret",
        "Ctrl-C",
    ):
        assert word in running.text


def test_ctrl_c_leaves_no_process_and_no_file(running: RunningDemo) -> None:
    """Runs last of this module's looks: stop it and look for remains."""
    children = running.children()
    assert len(children) == 3
    assert list(running.folder.iterdir())
    assert running.stop() == 0
    assert not list(running.folder.iterdir())
    for pid in children:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_taken_port_is_replaced_and_said() -> None:
    """Default ports in use do not stop the demo."""
    for name, kind in (("ldap", socket.SOCK_STREAM), ("radius", socket.SOCK_DGRAM)):
        free = demo.free_port("127.0.0.1", kind)
        with socket.socket(socket.AF_INET, kind) as taken:
            taken.bind(("127.0.0.1", free))
            if kind == socket.SOCK_STREAM:
                taken.listen()
            assert not demo.can_bind("127.0.0.1", free, kind)
            chooser = demo.Demo(Path("/nonexistent"), None)
            assert chooser._usable_port(name, free) != free
            assert str(free) in chooser.moved[0]


def test_kept_data_keeps_the_certificate(tmp_path: Path) -> None:
    """EAP clients that trust it go on doing so; one that is about to end, or cannot be read, is replaced."""
    started = demo.Demo(tmp_path, None)
    first = started._radius_certificate()
    assert started._radius_certificate().private_key_pem == first.private_key_pem
    certificate, key = started._radius_files()
    assert key.stat().st_mode & 0o777 == 0o600
    ending = tls.self_signed(datetime.datetime.now(datetime.UTC), days=6)
    for old in (ending.certificate_pem, "no certificate"):
        certificate.write_text(old)
        assert started._radius_certificate().certificate_pem not in (old, first.certificate_pem)
        assert certificate.read_text() != old


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
