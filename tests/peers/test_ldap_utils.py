"""OpenLDAP's command line clients against the real daemon and the real embedded core."""

from __future__ import annotations

import base64
import re
import subprocess
from pathlib import Path

import pyotp
import pytest

from outposts import demo
from tests import peer_programs
from tests.peers.suite import (
    ALICE,
    ALICE_PASSWORD,
    BASE,
    BOB,
    BOB_PASSWORD,
    SEARCH,
    SEARCH_PASSWORD,
    Suite,
    run_peer,
)


def client(
    suite: Suite,
    name: str,
    *arguments: str,
    dn: str = SEARCH,
    password: str = SEARCH_PASSWORD,
    url: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run one of the clients with a simple bind; the password goes through a file, not the argument list."""
    secret = suite.folder / "password"
    secret.write_text(password)
    command = [peer_programs.program(name), "-x", "-H", url or suite.ldap_url, "-D", dn, "-y", str(secret)]
    return run_peer([*command, *arguments])


def entries(text: str) -> dict[str, dict[str, list[str]]]:
    """LDIF as ldapsearch prints it with -LLL: DN → attribute → values."""
    found: dict[str, dict[str, list[str]]] = {}
    for block in re.sub(r"\n ", "", text).strip().split("\n\n"):
        entry: dict[str, list[str]] = {}
        for line in block.splitlines():
            name, _, value = line.partition(":")
            value = base64.b64decode(value[1:]).decode() if value.startswith(":") else value.strip()
            entry.setdefault(name, []).append(value)
        if "dn" in entry:
            found[entry["dn"][0]] = entry
    return found


def search(suite: Suite, filter: str, *attributes: str, base: str = BASE) -> dict[str, dict[str, list[str]]]:
    """ldapsearch as the search account."""
    done = client(suite, "ldapsearch", "-LLL", "-b", base, filter, *attributes)
    assert done.returncode == 0, done.stderr
    return entries(done.stdout)


def test_the_whole_directory(suite: Suite) -> None:
    """Containers, people, groups, virtual groups."""
    found = search(suite, "(objectClass=*)")
    for dn in (demo.BASE_DN, f"ou=users,{BASE}", ALICE, BOB, SEARCH, f"cn=staff,ou=groups,{BASE}"):
        assert dn in found
    assert f"cn=alice,ou=virtual-groups,{BASE}" in found
    assert len([dn for dn in found if dn.endswith(f",ou=users,{BASE}")]) >= 53


@pytest.mark.parametrize(
    "filter",
    [
        "(cn=alice)",
        "(sAMAccountName=alice)",
        "(mail=alice@example.org)",
        "(memberOf=cn=admins,ou=groups," + BASE + ")",
        "(&(objectClass=user)(mail=ALICE@*))",
    ],
)
def test_alice_is_found(suite: Suite, filter: str) -> None:
    """By name, account name, mail, group."""
    assert ALICE in search(suite, filter, "cn")
    assert BOB not in search(suite, filter, "cn")


def test_members_of_a_group(suite: Suite) -> None:
    """staff has alice and bob."""
    found = search(suite, f"(memberOf=cn=staff,ou=groups,{BASE})", "cn")
    assert {ALICE, BOB} <= set(found)
    assert SEARCH not in found


def test_alice_is_found_by_her_uid(suite: Suite) -> None:
    """64 digits."""
    (uid,) = search(suite, "(cn=alice)", "uid", base=f"ou=users,{BASE}")[ALICE]["uid"]
    assert re.fullmatch(r"[0-9a-f]{64}", uid)
    assert ALICE in search(suite, f"(uid={uid})", "cn")


def test_a_wrong_password_is_49(suite: Suite) -> None:
    """Never accepted."""
    done = client(suite, "ldapsearch", "-b", BASE, dn=ALICE, password="wrong")
    assert done.returncode == 49, done


def test_alice_sees_herself_only(suite: Suite) -> None:
    """Without the search right: own entry, own groups."""
    done = client(suite, "ldapsearch", "-LLL", "-b", BASE, dn=ALICE, password=ALICE_PASSWORD)
    assert done.returncode == 0, done.stderr
    people = [dn for dn in entries(done.stdout) if dn.endswith(f",ou=users,{BASE}")]
    assert people == [ALICE]


def test_bob_binds_with_his_code(suite: Suite) -> None:
    """``password;code`` is accepted, the password alone is 49."""
    code = pyotp.TOTP(demo.BOB_TOTP_SECRET).now()
    assert client(suite, "ldapwhoami", dn=BOB, password=BOB_PASSWORD).returncode == 49
    done = client(suite, "ldapsearch", "-LLL", "-b", BOB, "-s", "base", dn=BOB, password=f"{BOB_PASSWORD};{code}")
    assert done.returncode == 0, done.stderr
    assert BOB in entries(done.stdout)


def test_start_tls_and_ldaps(suite: Suite, tmp_path: Path) -> None:
    """Both ways to TLS; the certificate is self-signed, so it is not checked here."""
    configuration = tmp_path / "ldaprc"
    configuration.write_text("TLS_REQCERT never\n")
    secret = tmp_path / "password"
    secret.write_text(SEARCH_PASSWORD)
    program = peer_programs.program("ldapsearch")
    for arguments in (["-H", suite.ldaps_url], ["-ZZ", "-H", suite.ldap_url]):
        command = [program, "-x", "-LLL", "-D", SEARCH, "-y", str(secret), *arguments, "-b", ALICE, "-s", "base"]
        done = subprocess.run(
            command, env={"LDAPCONF": str(configuration)}, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert ALICE in entries(done.stdout)


def test_root_dse_and_schema(suite: Suite) -> None:
    """The root DSE and the schema that it names. An anonymous bind, which ldapsearch -x makes, is refused."""
    program = peer_programs.program("ldapsearch")
    anonymous = run_peer([program, "-x", "-LLL", "-H", suite.ldap_url, "-b", "", "-s", "base"])
    assert anonymous.returncode == 50, anonymous
    done = client(suite, "ldapsearch", "-LLL", "-b", "", "-s", "base", "*", "+")
    assert done.returncode == 0, done.stderr
    assert "supportedLDAPVersion: 3" in done.stdout
    assert "subschemaSubentry: cn=subschema" in done.stdout
    found = search(suite, "(objectClass=subschema)", "attributeTypes", base="cn=subschema")
    assert any("sAMAccountName" in line for line in found["cn=subschema"]["attributeTypes"])


def test_whoami_and_compare(suite: Suite) -> None:
    """Who am I and compare, as scripts use them."""
    done = client(suite, "ldapwhoami")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().lower() == f"dn:{SEARCH}"
    assert client(suite, "ldapcompare", ALICE, "mail:ALICE@example.org").returncode == 6
    assert client(suite, "ldapcompare", ALICE, "mail:bob@example.org").returncode == 5
