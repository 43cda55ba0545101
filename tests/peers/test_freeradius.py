"""FreeRADIUS with rlm_ldap: the password by a bind as the user, the group by ``memberOf`` or by search."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from outposts import demo
from tests import peer_programs
from tests.peers import machine as machines
from tests.peers.machine import INSIDE, Machine
from tests.peers.office import GROUPS, JOERG_FULL_NAME, JOERG_NAME, JOERG_PASSWORD, USERS, Office
from tests.peers.suite import ALICE_PASSWORD, BASE, BOB_PASSWORD, SEARCH, SEARCH_PASSWORD

SECRET = "radius-secret"

# Where it looks for the groups of a user: in the user's entry, or for groups that have the user.
MEMBERSHIP = {
    "memberOf": "membership_attribute = memberOf",
    "member": 'membership_filter = "(member=%{control:Ldap-UserDn})"',
    "memberUid": 'membership_filter = "(memberUid=%{%{Stripped-User-Name}:-%{User-Name}})"',
}


@dataclass(frozen=True)
class RadiusServer:
    """A running FreeRADIUS."""

    machine: Machine
    port: int

    def ask(self, user: str, password: str) -> str:
        """What ``radclient`` prints about one Access-Request; the answer's attributes are in it."""
        request = f'User-Name = "{user}", User-Password = "{password}", Message-Authenticator = 0x00\n'
        command = ["radclient", "-x", "-r", "1", "-t", "20", f"127.0.0.1:{self.port}", "auth", SECRET]
        done = self.machine.run(*command, stdin=request)
        accepted, rejected = "Received Access-Accept" in done.stdout, "Received Access-Reject" in done.stdout
        assert accepted != rejected, done.stdout + done.stderr + self.machine.log()
        assert (done.returncode == 0) == accepted
        return done.stdout

    def accepts(self, user: str, password: str) -> bool:
        """Whether the answer is Access-Accept."""
        return "Received Access-Accept" in self.ask(user, password)


def configuration(office: Office, membership: str, port: int) -> str:
    """``radiusd.conf``. One way uses StartTLS, the others LDAPS; only members of staff get in."""
    start_tls = membership == "member"
    return f"""
libdir = /usr/lib/freeradius
raddbdir = {INSIDE}
logdir = {INSIDE}
run_dir = {INSIDE}
security {{
    reject_delay = 0
    allow_vulnerable_openssl = yes
}}
client here {{
    ipaddr = 127.0.0.1
    secret = {SECRET}
}}
modules {{
    always reject {{
        rcode = reject
    }}
    ldap {{
        server = '{office.url if start_tls else office.tls_url}'
        identity = '{SEARCH}'
        password = {SEARCH_PASSWORD}
        base_dn = '{BASE}'
        user {{
            base_dn = '{USERS}'
            filter = "(sAMAccountName=%{{%{{Stripped-User-Name}}:-%{{User-Name}}}})"
        }}
        group {{
            base_dn = '{GROUPS}'
            filter = '(objectClass=group)'
            name_attribute = cn
            {MEMBERSHIP[membership]}
        }}
        update {{
            reply:Reply-Message := 'displayName'
        }}
        tls {{
            start_tls = {"yes" if start_tls else "no"}
            ca_file = {INSIDE}/trusted.pem
            require_cert = 'demand'
        }}
        pool {{
            start = 1
            min = 1
            max = 4
        }}
    }}
}}
server office {{
    listen {{
        type = auth
        ipaddr = 127.0.0.1
        port = {port}
    }}
    authorize {{
        ldap
        if (!(LDAP-Group == "staff")) {{
            reject
        }}
        if (User-Password) {{
            update control {{
                Auth-Type := LDAP
            }}
        }}
    }}
    authenticate {{
        Auth-Type LDAP {{
            ldap
        }}
    }}
}}
"""


@contextmanager
def serving(office: Office, membership: str, folder: Path) -> Iterator[RadiusServer]:
    """FreeRADIUS on a free port."""
    peer_programs.program("freeradius")
    port = demo.free_port("127.0.0.1")
    (folder / "trusted.pem").write_text(office.certificate.read_text())
    (folder / "radiusd.conf").write_text(configuration(office, membership, port))
    (folder / "dictionary").write_text("")
    log = folder / "freeradius.log"
    with machines.opened(folder, {}) as machine:
        machine.start("freeradius", "freeradius", "-f", "-xx", "-l", "stdout", "-d", INSIDE)
        machine.wait_for(lambda: "Ready to process requests" in log.read_text(errors="replace"), "FreeRADIUS")
        yield RadiusServer(machine, port)


@pytest.fixture(scope="module", params=list(MEMBERSHIP))
def radius(
    request: pytest.FixtureRequest, office: Office, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RadiusServer]:
    """One server for each way of finding groups."""
    with serving(office, request.param, tmp_path_factory.mktemp("freeradius")) as started:
        yield started


def test_logins(radius: RadiusServer) -> None:
    """The right password passes; a wrong one, another user's and an unknown name do not."""
    answer = radius.ask("alice", ALICE_PASSWORD)
    assert "Received Access-Accept" in answer, radius.machine.log()
    assert 'Reply-Message = "Alice Adams"' in answer
    for user, password in (
        ("alice", "wrong"),
        ("alice", ""),
        ("alice", BOB_PASSWORD),
        ("nobody-here", "x"),
        ("*", "x"),
    ):
        assert not radius.accepts(user, password), (user, password)


def test_access_by_group(radius: RadiusServer) -> None:
    """The search account's password is right, but it is not in the group."""
    assert not radius.accepts("search", SEARCH_PASSWORD)
    log = radius.machine.folder / "freeradius.log"
    assert "User is not a member of" in log.read_text(errors="replace")


def test_names_outside_ascii(radius: RadiusServer) -> None:
    """Name, password, and the full name that comes back."""
    answer = radius.ask(JOERG_NAME, JOERG_PASSWORD)
    assert "Received Access-Accept" in answer, radius.machine.log()
    assert JOERG_FULL_NAME in answer
    assert not radius.accepts(JOERG_NAME, JOERG_PASSWORD.replace("ß", "ss"))


def test_a_login_with_a_code(radius: RadiusServer, office: Office) -> None:
    """``password;code``; the password alone is refused."""
    name, password, with_code = office.somebody_with_a_code()
    assert not radius.accepts(name, password)
    assert radius.accepts(name, with_code)
