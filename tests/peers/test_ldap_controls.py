"""Controls as real clients send and read them: OpenLDAP's ldapsearch and ldap3."""

from __future__ import annotations

import base64
import re
import subprocess
from typing import Any

import ldap3
import pytest

from tests import peer_programs
from tests.peers.suite import ALICE, BASE, SEARCH, SEARCH_PASSWORD, Suite
from tests.peers.test_ldap_utils import client, entries

USERS = f"ou=users,{BASE}"


def searched(suite: Suite, *arguments: str) -> subprocess.CompletedProcess[str]:
    """ldapsearch as the search account."""
    return client(suite, "ldapsearch", "-LLL", *arguments)


def names(done: subprocess.CompletedProcess[str]) -> list[str]:
    """DNs in the order they came; a listing with controls has comments in between."""
    assert done.returncode == 0, done.stderr
    found = []
    for line in re.sub(r"\n ", "", done.stdout).splitlines():
        if line.startswith("dn: "):
            found.append(line[4:])
        elif line.startswith("dn:: "):
            found.append(base64.b64decode(line[5:]).decode())
    return found


@pytest.fixture(scope="module")
def users(suite: Suite) -> list[str]:
    """All users by a plain search."""
    return names(searched(suite, "-b", USERS, "-s", "one", "(objectClass=user)", "cn"))


@pytest.mark.parametrize("size", [1, 7, 50, 1000])
def test_ldapsearch_pages(suite: Suite, users: list[str], size: int) -> None:
    """``-E pr=n/noprompt``: every entry once."""
    found = names(searched(suite, "-E", f"!pr={size}/noprompt", "-b", USERS, "-s", "one", "(objectClass=user)", "cn"))
    assert len(found) == len(set(found))
    assert set(found) == set(users)


def test_ldapsearch_sorts(suite: Suite, users: list[str]) -> None:
    """``-E sss=``: in order, backwards, by two keys; a key that is not known is told."""
    arguments = ["-b", USERS, "-s", "one", "(objectClass=user)", "cn"]
    found = names(searched(suite, "-E", "!sss=cn", *arguments))
    assert found == sorted(users)
    assert names(searched(suite, "-E", "!sss=-cn:2.5.13.3", *arguments)) == found[::-1]
    refused = searched(suite, "-E", "!sss=nosuch", *arguments)
    assert refused.returncode == 12, refused


def test_ldapsearch_sorted_pages(suite: Suite, users: list[str]) -> None:
    """Both together."""
    arguments = ["-b", USERS, "-s", "one", "(objectClass=user)", "cn"]
    assert names(searched(suite, "-E", "sss=-cn", "-E", "pr=10/noprompt", *arguments)) == sorted(users)[::-1]


@pytest.mark.parametrize(
    ("window", "part"), [("0/4/1/0", slice(0, 5)), ("2/2/10/0", slice(7, 12)), ("0/1:alice", None)]
)
def test_ldapsearch_list_view(suite: Suite, users: list[str], window: str, part: slice | None) -> None:
    """``-E vlv=``: a window by offset and by value. The client goes on to ask for windows, so it is ended."""
    secret = suite.folder / "password"
    secret.write_text(SEARCH_PASSWORD)
    command = [peer_programs.program("ldapsearch"), "-x", "-H", suite.ldap_url, "-D", SEARCH, "-y", str(secret)]
    command += ["-LLL", "-o", "ldif_wrap=no", "-E", "!sss=cn", "-E", f"!vlv={window}"]
    command += ["-b", USERS, "-s", "one", "(objectClass=user)", "cn"]
    found = []
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env={"LDAPNOINIT": "1"}
    ) as program:
        assert program.stdout is not None
        for line in program.stdout:
            if line.startswith("Press ["):
                break
            if line.startswith("dn: "):
                found.append(line[4:].strip())
        program.kill()
    whole = sorted(users)
    assert found == (whole[part] if part is not None else whole[whole.index(ALICE) :][:2])


def test_ldapsearch_matched_values(suite: Suite) -> None:
    """``-E mv=``: of many values the ones that match."""
    staff = f"cn=staff,ou=groups,{BASE}"
    every = entries(searched(suite, "-b", staff, "-s", "base", "(objectClass=*)", "member").stdout)[staff]["member"]
    assert len(every) > 1
    done = searched(suite, "-E", f"!mv=((member={ALICE}))", "-b", staff, "-s", "base", "(objectClass=*)", "member")
    assert done.returncode == 0, done.stderr
    assert entries(done.stdout)[staff]["member"] == [ALICE]


def test_ldapsearch_assertion(suite: Suite) -> None:
    """``-e assert=``: 122 unless it is true for the base."""
    arguments = ["-b", ALICE, "-s", "base", "(objectClass=*)", "cn"]
    assert names(searched(suite, "-e", "!assert=(mail=alice@example.org)", *arguments)) == [ALICE]
    assert searched(suite, "-e", "!assert=(mail=bob@example.org)", *arguments).returncode == 122


def test_ldapsearch_harmless_and_refused(suite: Suite) -> None:
    """ManageDsaIT, don't use copy, subentries, domain scope; proxied authorization is 123; session tracking ignored."""
    arguments = ["-b", ALICE, "-s", "base", "(objectClass=*)", "cn"]
    assert names(searched(suite, "-M", *arguments)) == [ALICE]
    assert names(searched(suite, "-MM", *arguments)) == [ALICE]
    assert names(searched(suite, "-E", "!dontUseCopy", *arguments)) == [ALICE]
    assert names(searched(suite, "-E", "!domainScope", *arguments)) == [ALICE]
    assert names(searched(suite, "-E", "!subentries=false", *arguments)) == [ALICE]
    assert names(searched(suite, "-E", "!subentries=true", *arguments)) == []
    assert names(searched(suite, "-e", "sessiontracking", *arguments)) == [ALICE]
    assert searched(suite, "-e", f"!authzid=dn:{ALICE}", *arguments).returncode == 123
    assert searched(suite, "-E", "!1.2.3.4", *arguments).returncode == 12
    assert names(searched(suite, "-E", "1.2.3.4", *arguments)) == [ALICE]


def test_ldapwhoami_with_controls(suite: Suite) -> None:
    """The operation takes proxied authorization too, and refuses it."""
    refused = client(suite, "ldapwhoami", "-e", f"!authzid=dn:{ALICE}")
    assert refused.returncode != 0
    assert "(123)" in refused.stderr
    told = client(suite, "ldapwhoami", "-e", "bauthzid")
    assert told.returncode == 0, told.stderr


def test_limits(suite: Suite) -> None:
    """``-z`` is 4 with that many entries, ``-l`` does no harm; names only with ``-A``."""
    done = searched(suite, "-z", "5", "-b", USERS, "(objectClass=user)", "cn")
    assert done.returncode == 4
    assert done.stdout.count("dn: ") == 5
    assert names(searched(suite, "-l", "30", "-b", ALICE, "-s", "base", "(objectClass=*)")) == [ALICE]
    names_only = searched(suite, "-A", "-b", ALICE, "-s", "base", "(objectClass=*)", "cn", "mail")
    assert "mail:\n" in names_only.stdout
    assert "alice@example.org" not in names_only.stdout


def link(suite: Suite) -> Any:
    """A bound ldap3 connection."""
    host, port = suite.ldap.address("ldap")
    server = ldap3.Server(host, port, get_info=ldap3.ALL, connect_timeout=10)
    return ldap3.Connection(server, SEARCH, SEARCH_PASSWORD, auto_bind=True, receive_timeout=20)


@pytest.mark.parametrize("size", [5, 1000])
def test_ldap3_paged_search(suite: Suite, users: list[str], size: int) -> None:
    """Its own paging loop gives every entry once."""
    connection = link(suite)
    found = connection.extend.standard.paged_search(
        USERS, "(objectClass=user)", ldap3.LEVEL, attributes=["cn"], paged_size=size, paged_criticality=True
    )
    assert sorted(entry["dn"] for entry in found) == sorted(users)
    connection.unbind()


def test_ldap3_reads_the_response_controls(suite: Suite, users: list[str]) -> None:
    """Estimate and cookie; the root DSE names the controls by OIDs that ldap3 knows."""
    connection = link(suite)
    assert "1.2.840.113556.1.4.319" in [row[0] for row in connection.server.info.supported_controls]
    assert connection.search(USERS, "(objectClass=user)", ldap3.LEVEL, attributes=["cn"], paged_size=3)
    value = connection.result["controls"]["1.2.840.113556.1.4.319"]["value"]
    assert value["size"] == len(users)
    assert value["cookie"]
    assert not connection.search(
        USERS, "(objectClass=group)", ldap3.LEVEL, attributes=["cn"], paged_size=3, paged_cookie=value["cookie"]
    )
    assert connection.result["result"] == 53
    connection.unbind()
