"""SSSD as root: names, numbers, members, enumeration and logins of a host, with both ways of writing group members."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import peer_programs
from tests.peers import machine as machines
from tests.peers.hosts import PAM_SERVICE, Host
from tests.peers.office import (
    JOERG_FULL_NAME,
    JOERG_NAME,
    JOERG_PASSWORD,
    SOUTH_NAME,
    SSH_KEYS,
    STAFF,
    STAFF_NAMES,
    Office,
    opened,
)
from tests.peers.suite import ALICE_PASSWORD, BASE, BOB_PASSWORD, SEARCH, SEARCH_PASSWORD

NSSWITCH = "passwd: files sss\ngroup: files sss\nhosts: files\n"
PAM = "auth required pam_sss.so\naccount required pam_sss.so\n"
WAYS = ("rfc2307bis", "rfc2307")


def parents(host: Host) -> set[str]:
    """What members of staff are members of because staff is."""
    return {"everyone"} if host.way == "rfc2307bis" else set()


def configuration(office: Office, way: str) -> str:
    """``sssd.conf``. One way uses LDAPS, the other StartTLS; only members of staff may log in."""
    transport = f"ldap_uri = {office.tls_url}"
    if way == "rfc2307":
        transport = f"ldap_uri = {office.url}\nldap_id_use_start_tls = true"
    member = {"rfc2307bis": "member", "rfc2307": "memberUid"}[way]
    return f"""
[sssd]
services = nss, pam, ssh
domains = office

[nss]
filter_users = root
filter_groups = root

[domain/office]
id_provider = ldap
auth_provider = ldap
access_provider = ldap
{transport}
ldap_tls_cacert = {office.certificate}
ldap_tls_reqcert = demand
ldap_search_base = {BASE}
ldap_default_bind_dn = {SEARCH}
ldap_default_authtok = {SEARCH_PASSWORD}
ldap_schema = {way}
ldap_user_object_class = posixAccount
ldap_user_name = sAMAccountName
ldap_user_fullname = displayName
ldap_user_uuid = entryUUID
ldap_user_ssh_public_key = sshPublicKey
ldap_group_object_class = posixGroup
ldap_group_name = sAMAccountName
ldap_group_member = {member}
ldap_group_uuid = entryUUID
ldap_access_filter = (memberOf={STAFF})
enumerate = true
ldap_enumeration_refresh_offset = 0
sudo_provider = none
cache_credentials = false
"""


@contextmanager
def booted(text: str, way: str, folder: Path) -> Iterator[Host]:
    """A host on which SSSD runs with ``text`` as its configuration and answers."""
    peer_programs.program("sssd")
    for name in ("lib/db", "lib/mc", "lib/pipes/private", "lib/pubconf", "lib/secrets", "log", "run", "etc", "pam.d"):
        (folder / name).mkdir(parents=True, mode=0o755)
    (folder / "etc/sssd.conf").write_text(text)
    (folder / "etc/sssd.conf").chmod(0o600)
    (folder / f"pam.d/{PAM_SERVICE}").write_text(PAM)
    (folder / "nsswitch.conf").write_text(NSSWITCH)
    places = {
        folder / "lib": "/var/lib/sss",
        folder / "log": "/var/log/sssd",
        folder / "run": "/run",
        folder / "etc": "/etc/sssd",
        folder / "pam.d": "/etc/pam.d",
        folder / "nsswitch.conf": "/etc/nsswitch.conf",
    }
    with machines.opened(folder, places) as machine:
        machine.start("sssd", "sssd", "--interactive", "--logger=files", "--debug-level=3")
        host = Host(machine, "sss", way)
        machine.wait_for(lambda: bool(host.names("passwd", "alice")), "getent passwd alice")
        yield host


@pytest.fixture(scope="module", params=WAYS)
def host(request: pytest.FixtureRequest, office: Office, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One host for each way of writing members."""
    with booted(configuration(office, request.param), request.param, tmp_path_factory.mktemp(request.param)) as started:
        yield started


def test_people_by_name_and_number(host: Host) -> None:
    """All fields of the account; the number gives the same line."""
    line = host.names("passwd", "alice")
    name, _, uid, gid, full_name, home, shell = line
    assert (name, full_name, home, shell) == ("alice", "Alice Adams", "/home/alice", "/bin/bash")
    assert uid == gid
    assert int(uid) > 2000
    assert host.names("passwd", uid) == line
    assert host.names("passwd", "nobody-here") == []


def test_groups_by_name_and_number(host: Host) -> None:
    """Members are login names, whichever attribute they come from."""
    name, _, gid, _ = host.names("group", "staff")
    assert name == "staff"
    assert host.names("group", gid)[0] == "staff"
    assert host.members("staff") == host.members(gid) == STAFF_NAMES
    assert host.members("admins") == {"alice"}


def test_id_lists_all_groups(host: Host) -> None:
    """``id``: the private group first, then real ones. rfc2307bis has the parents of groups too, rfc2307 cannot."""
    done = host.machine.run("id", "alice")
    assert done.returncode == 0, done.stderr
    uid = host.names("passwd", "alice")[2]
    assert done.stdout.startswith(f"uid={uid}(alice) gid={uid}(alice) ")
    assert host.groups_of("alice") == {"alice", "staff", "admins"} | parents(host)


def test_enumeration(host: Host) -> None:
    """Everybody and every group, also those outside ASCII."""
    people = {"alice", "bob", "search", "akadmin", JOERG_NAME, *(f"user{number:02d}" for number in range(1, 51))}
    host.machine.wait_for(lambda: people <= host.listed("passwd"), "enumeration of people")
    host.machine.wait_for(lambda: {"staff", "admins", SOUTH_NAME} <= host.listed("group"), "enumeration of groups")


def test_names_outside_ascii(host: Host) -> None:
    """Account, gecos field, group and password."""
    line = host.names("passwd", JOERG_NAME)
    assert line[0] == JOERG_NAME
    assert line[4] == JOERG_FULL_NAME.replace(",", "")
    assert host.names("group", SOUTH_NAME)[3] == JOERG_NAME
    assert host.groups_of(JOERG_NAME) == {JOERG_NAME, "staff", SOUTH_NAME} | parents(host)
    assert host.login(JOERG_NAME, JOERG_PASSWORD)
    assert not host.login(JOERG_NAME, JOERG_PASSWORD.replace("ß", "ss"))


def test_public_keys(host: Host) -> None:
    """What sshd would ask for: the attribute ``sshPublicKey`` as it stands on the core."""
    done = host.machine.run("sss_ssh_authorizedkeys", JOERG_NAME)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == SSH_KEYS
    assert host.machine.run("sss_ssh_authorizedkeys", "alice").stdout == ""


def test_logins(host: Host) -> None:
    """The right password passes; a wrong one, an empty one and another user's do not."""
    assert host.login("alice", ALICE_PASSWORD), host.machine.log()
    for password in ("wrong", "", BOB_PASSWORD):
        assert not host.login("alice", password)
    assert host.login("alice", ALICE_PASSWORD)


def test_a_login_with_a_code(host: Host, office: Office) -> None:
    """``password;code`` in the password prompt; the password alone is refused."""
    name, password, with_code = office.somebody_with_a_code()
    assert not host.login(name, password)
    assert host.login(name, with_code)


def test_access_by_group(host: Host) -> None:
    """The password is right, but the search account is not in the group that may log in."""
    assert host.login("search", SEARCH_PASSWORD, "authenticate")
    assert not host.login("search", SEARCH_PASSWORD)


def test_the_check_of_sssctl(host: Host) -> None:
    """``sssctl user-checks`` asks NSS and PAM itself and says what they answered."""

    def check(password: str) -> str:
        command = ("sssctl", "user-checks", "alice", "--action=auth", f"--service={PAM_SERVICE}")
        done = host.machine.run(*command, stdin=f"{password}\n")
        return done.stdout + done.stderr

    text = check(ALICE_PASSWORD)
    assert "pam_authenticate for user [alice]: Success" in text, text
    assert "- user id: " in text
    assert "Authentication failure" in check("wrong")


def test_names_that_sssd_expects(tmp_path: Path) -> None:
    """With ``uid`` as the login name SSSD needs no names of attributes; here in direct mode, by StartTLS, on demand."""
    with opened(mode="direct", OUTPOSTS_LDAP__UID="username") as office:
        text = f"""
[sssd]
services = nss, pam
domains = office

[domain/office]
id_provider = ldap
ldap_uri = {office.url}
ldap_id_use_start_tls = true
ldap_tls_cacert = {office.certificate}
ldap_search_base = {BASE}
ldap_default_bind_dn = {SEARCH}
ldap_default_authtok = {SEARCH_PASSWORD}
ldap_schema = rfc2307bis
"""
        with booted(text, "rfc2307bis", tmp_path) as host:
            line = host.names("passwd", "alice")
            assert line[0] == "alice"
            assert host.names("passwd", line[2]) == line
            assert host.members("staff") == host.members(host.names("group", "staff")[2]) == STAFF_NAMES
            assert host.groups_of(JOERG_NAME) == {JOERG_NAME, "staff", SOUTH_NAME, "everyone"}
            assert host.login(JOERG_NAME, JOERG_PASSWORD)
            assert not host.login("alice", "wrong")
            assert host.login("alice", ALICE_PASSWORD)
