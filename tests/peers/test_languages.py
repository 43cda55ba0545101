"""LDAP libraries of other languages: JNDI, Ruby's net-ldap, ldapts for Node.js, PHP; and curl. One table of answers.

Each program of ``programs/`` does what applications in its language do and prints ``name=value`` lines; the expected
values are the same for all.
"""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path

import pytest

from tests import certificates, peer_programs
from tests.peers.machine import ENVIRONMENT
from tests.peers.office import JOERG, JOERG_FULL_NAME, JOERG_NAME, JOERG_PASSWORD, STAFF, STAFF_NAMES, USERS, Office
from tests.peers.suite import (
    ALICE,
    ALICE_PASSWORD,
    PEER_TIMEOUT_S,
    SEARCH,
    SEARCH_PASSWORD,
    run_peer,
)

PROGRAMS = Path(__file__).parent / "programs"
PAGE_SIZE = 10  # as the programs ask for it

# What every program finds: names of checks and their values.
ANSWERS = {
    "wrong": "49",
    "alice": "accepted",
    "joerg": "accepted",
    "name": JOERG_FULL_NAME,
    "staff": ",".join(sorted(STAFF_NAMES)),
    "starttls": "true",
    "ldaps": "true",
    "other": "untrusted",
}
# And what only some have.
MORE_ANSWERS = {
    "jndi": {
        "member": "true",
        "sorted": "bob,alice",
        "follow": "[alice]",
        "throw": "[alice]",
        "syntax": "1.3.6.1.4.1.1466.115.121.1.27",
        "class": "posixAccount",
    },
    "net-ldap": {"bind_as": ALICE, "bind_as_wrong": "refused"},
    "ldapts": {"member": "true"},
    "php": {"member": "true", "whoami": f"dn:{SEARCH}"},
}
COMMANDS = {
    "jndi": ["java", "Jndi.java"],
    "net-ldap": ["ruby", "net_ldap.rb"],
    "ldapts": ["node", "ldapts.mjs"],
    "php": ["php", "ldap.php"],
}


def said(office: Office, client: str, folder: Path) -> dict[str, str]:
    """Run a client's program and read its lines. Passwords go through the environment, not the argument list."""
    command, source = COMMANDS[client]
    other = folder / "other.pem"
    other.write_text(certificates.key_pair("localhost").certificate)
    task = {
        "LDAP_URL": office.url,
        "LDAPS_URL": office.tls_url,
        "CERTIFICATE": str(office.certificate),
        "OTHER_CERTIFICATE": str(other),
        "USERS": USERS,
        "SEARCH_DN": SEARCH,
        "SEARCH_PASSWORD": SEARCH_PASSWORD,
        "ALICE_DN": ALICE,
        "ALICE_PASSWORD": ALICE_PASSWORD,
        "JOERG_DN": JOERG,
        "JOERG_NAME": JOERG_NAME,
        "JOERG_PASSWORD": JOERG_PASSWORD,
        "STAFF_DN": STAFF,
    }
    if client == "ldapts":
        task["NPM_FOLDER"] = str(peer_programs.folder("npm"))
    done = subprocess.run(
        [peer_programs.program(command), str(PROGRAMS / source)],
        env={**ENVIRONMENT, "PATH": os.environ["PATH"], **task},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PEER_TIMEOUT_S,
        check=False,
        start_new_session=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("client", list(COMMANDS))
def test_a_library(office: Office, client: str, tmp_path: Path) -> None:
    """Binds, a wrong password, searches, pages, groups, StartTLS, LDAPS, a certificate that is not trusted."""
    found = said(office, client, tmp_path)
    people = found.pop("people").split(",")
    assert {"alice", "bob", "search", JOERG_NAME, *(f"user{number:02d}" for number in range(1, 51))} <= set(people)
    assert len(people) == len(set(people))
    if "pages" in found:
        assert int(found.pop("pages")) == -(-len(people) // PAGE_SIZE)
    assert found == {**ANSWERS, **MORE_ANSWERS[client]}


def test_curl(office: Office, tmp_path: Path) -> None:
    """An LDAP URL (RFC 4516) of a person; over LDAPS the refusals: 67 is curl's "login denied", 60 its distrust."""
    other = tmp_path / "other.pem"
    other.write_text(certificates.key_pair("localhost").certificate)

    def fetch(url: str, password: str, certificate: Path) -> subprocess.CompletedProcess[str]:
        # RFC 4516 wants characters outside ASCII as percent-encoded UTF-8.
        lines = [
            f'url = "{url}/{USERS}?displayName,mail?one?(sAMAccountName=j%C3%B6rg)"',
            f'user = "{SEARCH}:{password}"',
            f'cacert = "{certificate}"',
        ]
        command = [peer_programs.program("curl"), "--silent", "--show-error", "--config", "-"]
        return run_peer(command, stdin="\n".join(lines))

    done = fetch(office.url, SEARCH_PASSWORD, office.certificate)
    assert done.returncode == 0, done.stderr
    assert "mail: joerg@example.org" in done.stdout
    assert base64.b64encode(JOERG_FULL_NAME.encode()).decode() in done.stdout
    assert fetch(office.url, "wrong", office.certificate).returncode == 67
    assert fetch(office.tls_url, "wrong", office.certificate).returncode == 67
    assert fetch(office.tls_url, SEARCH_PASSWORD, other).returncode == 60
