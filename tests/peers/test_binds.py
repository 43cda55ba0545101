"""Ways to bind, and binds that are refused, by real clients: SASL, client certificates, waits after wrong passwords."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ldap3
import pytest

from tests import peer_programs
from tests.certificates import authority
from tests.peers.suite import ALICE, ALICE_PASSWORD, BOB, BOB_PASSWORD, Suite, run_peer, running

FAILURES = 5  # before alice has to wait
ROOT = authority()


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    """A daemon that takes client certificates and has little patience."""
    with tempfile.TemporaryDirectory() as name:
        issuers = Path(name, "issuers.pem")
        issuers.write_text(ROOT.pem)
        with running(
            OUTPOSTS_LDAP__CLIENT_CERTIFICATES="true",
            OUTPOSTS_LDAP__CLIENT_CA=f"file://{issuers}",
            OUTPOSTS_LDAP__BIND_FAILURES=str(FAILURES),
        ) as made:
            yield made


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Alice's certificate and key, from the issuer that the daemon knows."""
    issued = ROOT.issue(["alice"])
    file = tmp_path_factory.mktemp("client") / "alice.pem"
    file.write_text(issued.key_pem + issued.pem)
    return file


def link(suite: Suite, certificate: Path | None = None, **options: Any) -> Any:
    """An encrypted connection of ldap3, not bound yet."""
    file = str(certificate) if certificate is not None else None
    tls = ldap3.Tls(validate=ssl.CERT_NONE, local_certificate_file=file, local_private_key_file=file)
    host, port = suite.ldap.address("ldaps")
    server = ldap3.Server(host, port, use_ssl=True, tls=tls, get_info=ldap3.DSA)
    return ldap3.Connection(server, receive_timeout=20, **options)


def plain(suite: Suite, user: str, password: str, wanted: str | None = None) -> Any:
    """A PLAIN bind's connection, bound or not."""
    made = link(suite, authentication=ldap3.SASL, sasl_mechanism=ldap3.PLAIN, sasl_credentials=(wanted, user, password))
    made.bind()
    return made


@pytest.mark.parametrize(
    ("user", "password", "wanted", "result", "who"),
    [
        ("alice", ALICE_PASSWORD, None, 0, f"dn:{ALICE}"),
        (ALICE, ALICE_PASSWORD, None, 0, f"dn:{ALICE}"),
        ("alice", ALICE_PASSWORD, "u:alice", 0, f"dn:{ALICE}"),
        ("alice", ALICE_PASSWORD, f"dn:{ALICE}", 0, f"dn:{ALICE}"),
        ("alice", ALICE_PASSWORD, f"dn:{BOB}", 49, None),
        ("alice", ALICE_PASSWORD, "u:bob", 49, None),
        ("alice", "wrong", None, 49, None),
        ("nobody", "wrong", None, 49, None),
    ],
)
def test_plain(suite: Suite, user: str, password: str, wanted: str | None, result: int, who: str | None) -> None:
    """The flow decides; nobody acts for somebody else."""
    made = plain(suite, user, password, wanted)
    assert made.result["result"] == result
    assert (made.extend.standard.who_am_i() or None) == who
    made.unbind()


def test_a_certificate_does_not_replace_the_flow(suite: Suite, certificate: Path) -> None:
    """EXTERNAL is offered to who shows one, and the flow, which asks for a password, refuses it."""
    made = link(suite, certificate, authentication=ldap3.SASL, sasl_mechanism=ldap3.EXTERNAL, sasl_credentials="")
    made.open(read_server_info=True)
    assert set(made.server.info.supported_sasl_mechanisms) == {"PLAIN", "EXTERNAL"}
    for credentials in ("", "u:alice", f"dn:{ALICE}"):
        made.sasl_credentials = credentials
        assert not made.bind()
        assert made.result["result"] == 49
    made.unbind()
    bare = link(suite, authentication=ldap3.SASL, sasl_mechanism=ldap3.EXTERNAL, sasl_credentials="")
    bare.open(read_server_info=True)
    assert bare.server.info.supported_sasl_mechanisms == ["PLAIN"]
    assert not bare.bind()
    assert bare.result["result"] == 48
    bare.unbind()


def test_wrong_passwords_have_to_wait(suite: Suite) -> None:
    """Busy after some failures, for that account only; the log says why each was refused, without the password."""
    host, port = suite.ldap.address("ldap")
    server = ldap3.Server(host, port, get_info=ldap3.NONE)
    results = []
    for number in range(FAILURES + 3):
        made = ldap3.Connection(server, BOB, f"geheim-{number}", receive_timeout=20)
        made.bind()
        results.append(made.result["result"])
        made.unbind()
    assert results[: FAILURES + 1] == [49] * (FAILURES + 1)
    assert 51 in results[FAILURES + 1 :]
    other = ldap3.Connection(server, ALICE, ALICE_PASSWORD, receive_timeout=20)
    assert other.bind(), other.result
    other.unbind()
    lines = suite.ldap.text()
    assert '"reason":"invalid_credentials"' in lines
    assert '"stage":"ak-stage-' in lines
    assert '"reason":"account_busy"' in lines
    for secret in ("geheim-", ALICE_PASSWORD, BOB_PASSWORD, "authentik_session="):
        assert secret not in lines


def test_passwords_are_not_changed_here(suite: Suite, tmp_path: Path) -> None:
    """ldappasswd: 53, and nothing happened."""
    secret = tmp_path / "password"
    secret.write_text(ALICE_PASSWORD)
    who = ["-x", "-H", suite.ldap_url, "-D", ALICE, "-y", str(secret)]
    done = run_peer([peer_programs.program("ldappasswd"), *who, "-s", "new-pw", ALICE])
    assert done.returncode == 1
    assert "Result: Server is unwilling to perform (53)" in done.stdout
    made = plain(suite, "alice", ALICE_PASSWORD)
    assert made.result["result"] == 0
    made.unbind()


@pytest.mark.parametrize(("password", "result"), [(ALICE_PASSWORD, 0), ("wrong", 49)])
def test_plain_with_cyrus(suite: Suite, password: str, result: int, tmp_path: Path) -> None:
    """OpenLDAP's client over Cyrus SASL."""
    secret = tmp_path / "password"
    secret.write_text(password)
    tls = ["-o", "TLS_REQCERT=never", "-O", "none"]
    who = ["-Y", "PLAIN", "-U", "alice", "-X", "u:alice", "-y", str(secret), "-Q"]
    done = run_peer([peer_programs.program("ldapwhoami"), "-H", suite.ldaps_url, *tls, *who])
    assert done.returncode == result, done.stderr
    assert (f"dn:{ALICE}" in done.stdout) is (result == 0)
