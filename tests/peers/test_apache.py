"""Apache httpd with mod_authnz_ldap: search then bind, and every kind of ``Require ldap-…``."""

from __future__ import annotations

import base64
import contextlib
import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from outposts import demo
from tests import peer_programs
from tests.peers import machine as machines
from tests.peers.machine import INSIDE, Machine
from tests.peers.office import ADMINS, GROUPS, JOERG_NAME, JOERG_PASSWORD, SOUTH, STAFF, USERS, Office
from tests.peers.suite import (
    ALICE,
    ALICE_PASSWORD,
    BOB_PASSWORD,
    PEER_TIMEOUT_S,
    SEARCH,
    SEARCH_PASSWORD,
)

MODULES = "/usr/lib/apache2/modules"
EVERYONE = f"cn=everyone,{GROUPS}"

# Place on the server → who may enter.
PLACES = {
    "anybody": "Require valid-user",
    "staff": f"Require ldap-group {STAFF}",
    "admins": f"Require ldap-group {ADMINS}",
    "south": f"Require ldap-group {SOUTH}",
    "names": f"AuthLDAPGroupAttribute memberUid\nAuthLDAPGroupAttributeIsDN off\nRequire ldap-group {STAFF}",
    "everyone": f"AuthLDAPSubGroupClass group\nAuthLDAPMaxSubGroupDepth 2\nRequire ldap-group {EVERYONE}",
    "filter": f"Require ldap-filter memberOf={ADMINS}",
    "attribute": "Require ldap-attribute department=it",
    "user": "Require ldap-user alice",
    "dn": f"Require ldap-dn {ALICE}",
}
# Whom each place lets in, with the right password.
ALICE_ENTERS = {"anybody", "staff", "admins", "names", "everyone", "filter", "attribute", "user", "dn"}
JOERG_ENTERS = {"anybody", "staff", "south", "names", "everyone"}
SEARCH_ENTERS = {"anybody"}


@dataclass(frozen=True)
class WebServer:
    """A running httpd."""

    machine: Machine
    port: int

    def status(self, place: str, user: str, password: str) -> int:
        """The status of a page behind HTTP basic authentication (RFC 7617 with UTF-8)."""
        credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PEER_TIMEOUT_S)
        with contextlib.closing(connection):
            connection.request("GET", f"/{place}/page", headers={"Authorization": f"Basic {credentials}"})
            answer = connection.getresponse()
            answer.read()
            return answer.status

    def entered(self, user: str, password: str) -> set[str]:
        """The places that let somebody in; the others must say 401."""
        found = {place: self.status(place, user, password) for place in PLACES}
        assert set(found.values()) <= {200, 401}, (found, self.machine.log())
        return {place for place, status in found.items() if status == 200}


def configuration(office: Office, transport: str, port: int) -> str:
    """``httpd.conf``."""
    url = office.tls_url if transport == "LDAPS" else office.url
    mode = "" if transport == "LDAPS" else " STARTTLS"
    loaded = ("mpm_event", "authn_core", "authz_core", "authz_user", "auth_basic", "ldap", "authnz_ldap")
    modules = "\n".join(f"LoadModule {name}_module {MODULES}/mod_{name}.so" for name in loaded)
    # All of it in every place: httpd does not add AuthLDAP… lines of an inner place to those of the outer one.
    directory = f"""
AuthType Basic
AuthName office
AuthBasicProvider ldap
AuthLDAPURL "{url}/{USERS}?sAMAccountName?sub?(objectClass=user)"{mode}
AuthLDAPBindDN "{SEARCH}"
AuthLDAPBindPassword "{SEARCH_PASSWORD}"
"""
    places = "\n".join(f"<Location /{name}>{directory}{rule}\n</Location>" for name, rule in PLACES.items())
    return f"""
{modules}
ServerRoot {INSIDE}
ServerName localhost
PidFile {INSIDE}/httpd.pid
Listen 127.0.0.1:{port}
User www-data
Group www-data
DocumentRoot {INSIDE}/www
ErrorLog {INSIDE}/httpd.log
LogLevel info ldap:debug authnz_ldap:debug
LDAPTrustedGlobalCert CA_BASE64 {INSIDE}/trusted.pem
LDAPVerifyServerCert On
{places}
"""


@contextmanager
def serving(office: Office, transport: str, folder: Path) -> Iterator[WebServer]:
    """httpd on a free port."""
    peer_programs.program("apache2")
    port = demo.free_port("127.0.0.1")
    folder.chmod(0o755)
    for place in PLACES:
        (folder / "www" / place).mkdir(parents=True)
        (folder / "www" / place / "page").write_text("welcome\n")
    (folder / "trusted.pem").write_text(office.certificate.read_text())
    (folder / "httpd.conf").write_text(configuration(office, transport, port))
    with machines.opened(folder, {}) as machine:
        machine.start("apache2", "apache2", "-D", "FOREGROUND", "-f", f"{INSIDE}/httpd.conf")
        machine.wait_for_port(port)
        yield WebServer(machine, port)


@pytest.fixture(scope="module", params=["LDAPS", "StartTLS"])
def web(
    request: pytest.FixtureRequest, office: Office, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebServer]:
    """One web server for each way to TLS."""
    with serving(office, request.param, tmp_path_factory.mktemp("apache")) as started:
        yield started


def test_logins(web: WebServer) -> None:
    """The right password passes; a wrong one, an empty one, another user's and an unknown name do not."""
    assert web.status("anybody", "alice", ALICE_PASSWORD) == 200, web.machine.log()
    for user, password in (
        ("alice", "wrong"),
        ("alice", ""),
        ("alice", BOB_PASSWORD),
        ("nobody-here", "x"),
        ("*", "x"),
    ):
        assert web.status("anybody", user, password) == 401, (user, password)


def test_who_may_enter(web: WebServer) -> None:
    """Groups by compare, by name, through a parent group, by filter, attribute, name and DN."""
    assert web.entered("alice", ALICE_PASSWORD) == ALICE_ENTERS
    assert web.entered("search", SEARCH_PASSWORD) == SEARCH_ENTERS
    assert web.entered("alice", "wrong") == set()


def test_names_outside_ascii(web: WebServer) -> None:
    """Name, group and password."""
    assert web.entered(JOERG_NAME, JOERG_PASSWORD) == JOERG_ENTERS
    assert web.status("anybody", JOERG_NAME, JOERG_PASSWORD.replace("ß", "ss")) == 401


def test_a_login_with_a_code(web: WebServer, office: Office) -> None:
    """``password;code``; the password alone is refused."""
    name, password, with_code = office.somebody_with_a_code()
    assert web.status("anybody", name, password) == 401
    assert web.status("anybody", name, with_code) == 200
