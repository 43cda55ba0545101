"""SASL EXTERNAL end to end: OpenLDAP's clients, the real daemon, and the embedded core's mutual-TLS stage.

One flow serves certificates and passwords: the certificate stage is optional, and who it found is not asked again.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from tests import peer_programs
from tests.certificates import Issuer, authority
from tests.peers.suite import ALICE, ALICE_PASSWORD, BASE, BOB, PEER_TIMEOUT_S, SEARCH, SEARCH_PASSWORD, Suite, running

AUTHORITY = authority("people of the demo")
FLOW = "certificate-or-password"


def blueprint() -> str:
    """The flow, and the demo's provider with it. JSON is valid YAML."""
    return f"""
version: 1
metadata: {{name: certificates}}
entries:
  - model: authentik_crypto.certificatekeypair
    id: authority
    identifiers: {{name: people}}
    attrs: {{certificate_data: {json.dumps(AUTHORITY.pem)}}}
  - model: authentik_stages_mtls.mutualtlsstage
    id: mtls
    identifiers: {{name: client-certificate}}
    attrs:
      mode: optional
      certificate_authorities: [!KeyOf authority]
      cert_attribute: common_name
      user_attribute: username
  - model: authentik_flows.flow
    id: flow
    identifiers: {{slug: {FLOW}}}
    attrs: {{name: LDAP, title: LDAP, designation: authentication, authentication: require_outpost}}
  - model: authentik_flows.flowstagebinding
    identifiers: {{target: !KeyOf flow, stage: !KeyOf mtls, order: 10}}
  - model: authentik_flows.flowstagebinding
    id: password
    identifiers:
      target: !KeyOf flow
      stage: !Find [authentik_stages_identification.identificationstage, [name, ldap-authentication-identification]]
      order: 20
  - model: authentik_policies_expression.expressionpolicy
    id: no-certificate
    identifiers: {{name: no-certificate}}
    attrs: {{expression: 'return "certificate" not in context'}}
  - model: authentik_policies.policybinding
    identifiers: {{target: !KeyOf password, policy: !KeyOf no-certificate, order: 0}}
  - model: authentik_flows.flowstagebinding
    identifiers:
      target: !KeyOf flow
      stage: !Find [authentik_stages_user_login.userloginstage, [name, ldap-authentication-login]]
      order: 30
  - model: authentik_providers_ldap.ldapprovider
    identifiers: {{name: Demo LDAP}}
    attrs: {{authorization_flow: !KeyOf flow}}
"""


@pytest.fixture(scope="module")
def certified() -> Iterator[Suite]:
    """The suite with that flow; the daemon asks TLS clients for a certificate. All refusals come from one address."""
    settings = {
        "OUTPOSTS_LDAP__CLIENT_CERTIFICATES": "true",
        "OUTPOSTS_LDAP__BIND_FAILURES": "0",
        "OUTPOSTS_LDAP__BIND_FAILURES_PER_ADDRESS": "0",
        "OUTPOSTS_LDAP__BIND_FAILURES_PER_ACCOUNT": "0",
    }
    with running(more=blueprint(), **settings) as started:
        yield started


def tls(suite: Suite, issued: Issuer | None) -> dict[str, str]:
    """The environment by which libldap finds its certificate; ``LDAPNOINIT`` would turn it off."""
    environment = {"PATH": os.environ["PATH"], "LDAPTLS_REQCERT": "never"}
    if issued is not None:
        for variable, text in (("LDAPTLS_CERT", issued.pem), ("LDAPTLS_KEY", issued.key_pem)):
            path = suite.folder / variable.lower()
            path.write_text(text)
            path.chmod(0o600)
            environment[variable] = str(path)
    return environment


def client(
    suite: Suite, name: str, issued: Issuer | None, *arguments: str, url: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a client with a certificate; libldap takes its files from the environment."""
    environment = tls(suite, issued)
    command = [peer_programs.program(name), "-Q", "-Y", "EXTERNAL", "-H", url or suite.ldaps_url, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PEER_TIMEOUT_S, check=False)


@pytest.mark.parametrize("start_tls", [False, True], ids=["ldaps", "starttls"])
def test_who_am_i(certified: Suite, start_tls: bool) -> None:
    """The certificate's name is who one is, over either kind of TLS, without a password."""
    more = ("-ZZ",) if start_tls else ()
    url = certified.ldap_url if start_tls else certified.ldaps_url
    done = client(certified, "ldapwhoami", AUTHORITY.issue(["alice"]), *more, url=url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().lower() == f"dn:{ALICE}"


def test_search(certified: Suite) -> None:
    """What a certificate may search is what its owner may: the search account sees everybody, bob himself."""
    done = client(certified, "ldapsearch", AUTHORITY.issue(["search"]), "-LLL", "-b", BASE, "(cn=alice)", "mail")
    assert done.returncode == 0, done.stderr
    assert "mail: alice@example.org" in done.stdout
    done = client(certified, "ldapsearch", AUTHORITY.issue(["bob"]), "-LLL", "-b", BASE, "(objectClass=user)", "dn")
    assert done.returncode == 0, done.stderr
    assert [line.lower() for line in done.stdout.splitlines() if line] == [f"dn: {BOB}"]


@pytest.mark.parametrize(
    ("issued", "wanted"),
    [
        (None, None),
        (authority("people of the demo").issue(["alice"]), None),
        (AUTHORITY.issue(["alice"], days=(-2, -1)), None),
        (AUTHORITY.issue(["nobody-here"]), None),
        (AUTHORITY.issue(["alice"]), f"dn:{BOB}"),
        (AUTHORITY.issue(["alice"]), "u:bob"),
    ],
    ids=["none", "other issuer", "expired", "unknown", "another dn", "another name"],
)
def test_refused(certified: Suite, issued: Issuer | None, wanted: str | None) -> None:
    """No certificate, one that does not count, and one that asks to be somebody else."""
    more = ("-X", wanted) if wanted else ()
    done = client(certified, "ldapwhoami", issued, *more)
    assert done.returncode != 0
    assert "dn:" not in done.stdout


def test_own_name_asked_for(certified: Suite) -> None:
    """An authorization identity that is the certificate's own is no obstacle."""
    done = client(certified, "ldapwhoami", AUTHORITY.issue(["alice"]), "-X", f"dn:{ALICE}")
    assert (done.returncode, done.stdout.strip().lower()) == (0, f"dn:{ALICE}")


@pytest.mark.parametrize("issued", [None, AUTHORITY.issue(["bob"])], ids=["without", "with another's certificate"])
def test_passwords_go_on(certified: Suite, issued: Issuer | None) -> None:
    """The same flow still takes passwords, and a certificate on the connection changes nothing about them."""
    for dn, password in ((ALICE, ALICE_PASSWORD), (SEARCH, SEARCH_PASSWORD)):
        secret = certified.folder / "password"
        secret.write_text(password)
        environment = tls(certified, issued)
        command = [peer_programs.program("ldapwhoami"), "-x", "-D", dn, "-y", str(secret), "-H", certified.ldaps_url]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PEER_TIMEOUT_S, check=False
        )
        assert (done.returncode, done.stdout.strip().lower()) == (0, f"dn:{dn}"), done.stderr
