"""The directory that configured programs meet: the demo's people and more, with what host logins need.

Beside the demo there are a user and a group with names outside ASCII and a certificate from the core, so that clients
can check it as they do in production. ``recipes`` of the documentation name the same settings.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyotp

from tests import certificates
from tests.peers.suite import BASE, Suite, running

JOERG_NAME, JOERG_FULL_NAME = "jörg", "Jörg Müller, geb. Ōsaka"
JOERG, JOERG_PASSWORD = f"cn={JOERG_NAME},ou=users,{BASE}", "Paßwort «日本» 1"
SOUTH_NAME = "vertrieb-süd"
SOUTH = f"cn={SOUTH_NAME},ou=groups,{BASE}"
STAFF, ADMINS = f"cn=staff,ou=groups,{BASE}", f"cn=admins,ou=groups,{BASE}"
# People with a device for one-time codes. The core takes each code once, so every test has somebody of its own.
CODE_PASSWORD, CODE_SECRET = "code-demo-pw", "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
CODE_NAMES = [f"code{number:02d}" for number in range(1, 13)]
STAFF_NAMES = {"alice", "bob", JOERG_NAME, *CODE_NAMES, *(f"user{number:02d}" for number in range(1, 51, 2))}
SSH_KEYS = [f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{letter * 43} jörg@{letter}" for letter in "AB"]
USERS, GROUPS = f"ou=users,{BASE}", f"ou=groups,{BASE}"

# For rfc2307 clients memberUid; for host logins the shell and the gecos field. All clients, with all their wrong
# passwords for the same few people, come from one address.
SETTINGS = {
    "OUTPOSTS_LDAP__EXTRA_ATTRIBUTES": "loginShell,gecos,memberUid",
    "OUTPOSTS_LDAP__BIND_FAILURES": "0",
    "OUTPOSTS_LDAP__BIND_FAILURES_PER_ADDRESS": "0",
    "OUTPOSTS_LDAP__BIND_FAILURES_PER_ACCOUNT": "0",
}


@dataclass(frozen=True)
class Office:
    """The running suite and the file with the certificate that its clients trust."""

    suite: Suite
    certificate: Path
    unused: list[str] = field(default_factory=lambda: list(CODE_NAMES))

    def somebody_with_a_code(self) -> tuple[str, str, str]:
        """Name, password, and password with a code, of somebody who has not logged in yet."""
        return self.unused.pop(), CODE_PASSWORD, f"{CODE_PASSWORD};{pyotp.TOTP(CODE_SECRET).now()}"

    @property
    def host(self) -> str:
        """Where the daemon listens."""
        return self.suite.ldap.address("ldap")[0]

    @property
    def port(self) -> int:
        """Port of LDAP with StartTLS."""
        return self.suite.ldap.address("ldap")[1]

    @property
    def tls_port(self) -> int:
        """Port of LDAPS."""
        return self.suite.ldap.address("ldaps")[1]

    @property
    def url(self) -> str:
        """LDAP, by the address that the certificate has. (libldap puts the machine's own name for ``localhost``.)"""
        return f"ldap://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        """LDAPS, by the address that the certificate has."""
        return f"ldaps://127.0.0.1:{self.tls_port}"


def _person_with_device(name: str) -> str:
    return f"""
  - model: authentik_core.user
    id: {name}
    identifiers: {{username: {name}}}
    attrs:
      name: {name}
      password: {CODE_PASSWORD}
      groups: [!Find [authentik_core.group, [name, staff]]]
  - model: authentik_stages_authenticator_totp.totpdevice
    identifiers: {{name: phone, user: !KeyOf {name}}}
    attrs:
      key: {base64.b32decode(CODE_SECRET).hex()}
      confirmed: true"""


def blueprint(pair: certificates.KeyPair, mode: str) -> str:
    """People, group and certificate in addition to the demo's; ``mode`` of searches and binds. JSON is valid YAML."""
    return f"""
version: 1
metadata: {{name: office}}
entries:
  - model: authentik_core.group
    id: south
    identifiers: {{name: {json.dumps(SOUTH_NAME)}}}
    attrs: {{}}
  - model: authentik_core.user
    identifiers: {{username: {json.dumps(JOERG_NAME)}}}
    attrs:
      name: {json.dumps(JOERG_FULL_NAME)}
      email: joerg@example.org
      password: {json.dumps(JOERG_PASSWORD)}
      attributes: {{sshPublicKey: {json.dumps(SSH_KEYS)}}}
      groups: [!KeyOf south, !Find [authentik_core.group, [name, staff]]]
  - model: authentik_crypto.certificatekeypair
    id: pair
    identifiers: {{name: directory}}
    attrs:
      certificate_data: {json.dumps(pair.certificate)}
      key_data: {json.dumps(pair.key)}
  - model: authentik_providers_ldap.ldapprovider
    identifiers: {{name: Demo LDAP}}
    attrs:
      certificate: !KeyOf pair
      tls_server_name: localhost
      search_mode: {mode}
      bind_mode: {mode}
{"".join(map(_person_with_device, CODE_NAMES))}
"""


@contextmanager
def opened(mode: str = "cached", **settings: str) -> Iterator[Office]:
    """The office for the length of a ``with`` block; ``mode`` of searches and binds, more settings of the daemon."""
    pair = certificates.key_pair("localhost")
    with running(more=blueprint(pair, mode), **SETTINGS, **settings) as suite:
        certificate = suite.folder / "trusted.pem"
        certificate.write_text(pair.certificate)
        yield Office(suite, certificate)
