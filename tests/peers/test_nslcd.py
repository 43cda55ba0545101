"""nslcd (nss-pam-ldapd): names, numbers, members and logins of a host, members from ``member`` and ``memberUid``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import peer_programs
from tests.peers import machine as machines
from tests.peers.hosts import PAM_SERVICE, Host
from tests.peers.office import JOERG_FULL_NAME, JOERG_NAME, JOERG_PASSWORD, SOUTH_NAME, STAFF, STAFF_NAMES, Office
from tests.peers.suite import ALICE_PASSWORD, BASE, BOB_PASSWORD, SEARCH, SEARCH_PASSWORD

NSSWITCH = "passwd: files ldap\ngroup: files ldap\nhosts: files\n"
PAM = "auth required pam_ldap.so\naccount required pam_ldap.so\n"


def configuration(office: Office, way: str) -> str:
    """``nslcd.conf``. One way uses LDAPS, the other StartTLS; only members of staff may log in."""
    transport = f"uri {office.tls_url}" if way == "member" else f"uri {office.url}\nssl start_tls"
    # Mapped to nothing, an attribute is not asked for.
    members = "" if way == "member" else 'map group member ""\n'
    return f"""{transport}
tls_reqcert demand
tls_cacertfile {office.certificate}
base {BASE}
binddn {SEARCH}
bindpw {SEARCH_PASSWORD}
filter passwd (objectClass=posixAccount)
map passwd uid sAMAccountName
filter group (objectClass=posixGroup)
map group cn sAMAccountName
{members}pagesize 20
validnames /^[^[:space:]:,\\/]+$/
pam_authz_search (&(objectClass=posixAccount)(sAMAccountName=$username)(memberOf={STAFF}))
"""


@contextmanager
def booted(office: Office, way: str, folder: Path) -> Iterator[Host]:
    """A host on which nslcd answers."""
    peer_programs.program("nslcd")
    (folder / "run/nslcd").mkdir(parents=True)
    (folder / "pam.d").mkdir()
    (folder / "nslcd.conf").write_text(configuration(office, way))
    (folder / "nslcd.conf").chmod(0o600)
    (folder / f"pam.d/{PAM_SERVICE}").write_text(PAM)
    (folder / "nsswitch.conf").write_text(NSSWITCH)
    places = {
        folder / "run": "/run",
        folder / "pam.d": "/etc/pam.d",
        folder / "nslcd.conf": "/etc/nslcd.conf",
        folder / "nsswitch.conf": "/etc/nsswitch.conf",
    }
    with machines.opened(folder, places) as machine:
        machine.start("nslcd", "nslcd", "--debug")
        host = Host(machine, "ldap", way)
        machine.wait_for(lambda: bool(host.names("passwd", "alice")), "getent passwd alice")
        yield host


@pytest.fixture(scope="module", params=["member", "memberUid"])
def host(request: pytest.FixtureRequest, office: Office, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One host for each attribute with members."""
    with booted(office, request.param, tmp_path_factory.mktemp(request.param)) as started:
        yield started


def test_people_by_name_and_number(host: Host) -> None:
    """All fields of the account; the number gives the same line."""
    line = host.names("passwd", "alice")
    name, _, uid, gid, full_name, home, shell = line
    assert (name, full_name, home, shell) == ("alice", "Alice Adams", "/home/alice", "/bin/bash")
    assert uid == gid
    assert host.names("passwd", uid) == line
    assert host.names("passwd", "nobody-here") == []


def test_groups(host: Host) -> None:
    """By name and number, members as login names; ``id`` and enumeration."""
    gid = host.names("group", "staff")[2]
    assert host.members("staff") == host.members(gid) == STAFF_NAMES
    assert host.members("admins") == {"alice"}
    assert host.groups_of("alice") == {"alice", "staff", "admins"}
    people = {"alice", "bob", "search", "akadmin", JOERG_NAME, *(f"user{number:02d}" for number in range(1, 51))}
    assert people <= host.listed("passwd")
    assert {"staff", "admins", "everyone", SOUTH_NAME} <= host.listed("group")


def test_names_outside_ascii(host: Host) -> None:
    """Account, gecos field, group and password."""
    line = host.names("passwd", JOERG_NAME)
    assert line[0] == JOERG_NAME
    assert line[4] == JOERG_FULL_NAME.replace(",", "")
    assert host.members(SOUTH_NAME) == {JOERG_NAME}
    assert host.groups_of(JOERG_NAME) == {JOERG_NAME, "staff", SOUTH_NAME}
    assert host.login(JOERG_NAME, JOERG_PASSWORD)
    assert not host.login(JOERG_NAME, JOERG_PASSWORD.replace("ß", "ss"))


def test_logins(host: Host) -> None:
    """The right password passes; a wrong one, an empty one and another user's do not."""
    assert host.login("alice", ALICE_PASSWORD), host.machine.log()
    for password in ("wrong", "", BOB_PASSWORD):
        assert not host.login("alice", password)


def test_a_login_with_a_code(host: Host, office: Office) -> None:
    """``password;code`` in the password prompt; the password alone is refused."""
    name, password, with_code = office.somebody_with_a_code()
    assert not host.login(name, password)
    assert host.login(name, with_code)


def test_access_by_group(host: Host) -> None:
    """The password is right, but the search account is not in the group that may log in."""
    assert host.login("search", SEARCH_PASSWORD, "authenticate")
    assert not host.login("search", SEARCH_PASSWORD)
