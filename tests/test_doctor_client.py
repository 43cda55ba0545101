"""``outposts doctor --at``: logins as a client, at real LDAP and RADIUS daemons."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.setting_values import ListenAddress
from outposts import doctor
from outposts.doctor_report import Finding, State
from tests import daemons, factories
from tests.fakes import StubCore

SECRET = "sixteen-letters-x"


@pytest.fixture(scope="module")
def core() -> Iterator[StubCore]:
    """A core that both daemons use, one after the other."""
    with StubCore() as stub:
        stub.load_conformance()
        yield stub


@pytest.fixture(scope="module")
def ldap(core: StubCore) -> Iterator[ListenAddress]:
    """The LDAP listener of a daemon of that core."""
    with daemons.running("ldap", {"AUTHENTIK_HOST": core.url, "AUTHENTIK_TOKEN": core.token}) as running:
        yield ListenAddress(*running.address("ldap"))


@pytest.fixture(scope="module")
def radius_core() -> Iterator[StubCore]:
    """A core of a RADIUS outpost."""
    with StubCore("radius") as stub:
        stub.users = factories.conformance_users()
        stub.people.passwords["alice"] = "pw"
        stub.providers["radius"] = [factories.radius_provider(shared_secret=SECRET)]
        yield stub


@pytest.fixture(scope="module")
def radius(radius_core: StubCore) -> Iterator[ListenAddress]:
    """The RADIUS listener of a daemon of that core."""
    environment = {"AUTHENTIK_HOST": radius_core.url, "AUTHENTIK_TOKEN": radius_core.token}
    with daemons.running("radius", environment) as running:
        yield ListenAddress(*running.address("radius"))


def login(core: StubCore, at: ListenAddress, folder: Path, password: str = "pw") -> Finding:
    """The finding about alice's login."""
    variables = {"AUTHENTIK_HOST": core.url, "AUTHENTIK_TOKEN": core.token, "TMPDIR": str(folder)}
    variables |= {f"AUTHENTIK_LISTEN__{name}": "127.0.0.1:0" for name in daemons.LISTENERS}
    report = asyncio.run(doctor.examine(variables, None, doctor.Probe("alice", password, at=at)))
    assert password == "pw" or password not in repr(report.findings)
    (found,) = [finding for finding in report.findings if finding.check == "login"]
    return found


def closed(kind: socket.SocketKind) -> ListenAddress:
    """An address that nobody listens on."""
    with socket.socket(type=kind) as free:
        free.bind(("127.0.0.1", 0))
        return ListenAddress(*free.getsockname())


def test_bind_passes(core: StubCore, ldap: ListenAddress, tmp_path: Path) -> None:
    """With the DN that the provider's settings make."""
    found = login(core, ldap, tmp_path)
    assert found.state is State.OK
    assert "bound as cn=alice,ou=users,dc=ldap" in found.found


def test_bind_is_refused(core: StubCore, ldap: ListenAddress, tmp_path: Path) -> None:
    """The code by name and number."""
    found = login(core, ldap, tmp_path, "wrong-secret-word")
    assert found.state is State.FAIL
    assert "invalid_credentials (49)" in found.found
    assert "name or password" in found.next


def test_bind_where_nobody_listens(core: StubCore, tmp_path: Path) -> None:
    """The argument is at fault."""
    found = login(core, closed(socket.SOCK_STREAM), tmp_path)
    assert found.state is State.FAIL
    assert "nobody listens" in found.found


def test_bind_at_something_else(core: StubCore, tmp_path: Path) -> None:
    """A web server is no LDAP server."""
    found = login(core, ListenAddress("127.0.0.1", core.port), tmp_path)
    assert found.state is State.FAIL
    assert "no usable answer" in found.found


def test_radius_accepts_and_rejects(radius_core: StubCore, radius: ListenAddress, tmp_path: Path) -> None:
    """A signed PAP request; the reply has to prove that it knows the secret."""
    found = login(radius_core, radius, tmp_path)
    assert (found.state, found.found) == (State.OK, f"alice at radius-7, {radius}: Access-Accept")
    found = login(radius_core, radius, tmp_path, "wrong-secret-word")
    assert found.state is State.FAIL
    assert "Access-Reject" in found.found


def test_radius_where_nobody_listens(radius_core: StubCore, tmp_path: Path) -> None:
    """The system says so on the same machine."""
    assert "nobody listens" in login(radius_core, closed(socket.SOCK_DGRAM), tmp_path).found


def test_radius_that_keeps_silent(radius_core: StubCore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packet is sent again, then the client networks and the secret are named."""
    monkeypatch.setattr("outposts.doctor_client.RADIUS_TRIES_S", (0.05, 0.05))
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        found = login(radius_core, ListenAddress(*silent.getsockname()), tmp_path)
        assert found.state is State.FAIL
        assert "client networks" in found.next
        assert silent.recv(4096) == silent.recv(4096)
