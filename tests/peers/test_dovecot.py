"""Dovecot: IMAP logins by bind (search first, or DN by template), mailboxes by userdb, a group that may log in."""

from __future__ import annotations

import imaplib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from outposts import demo
from tests import peer_programs
from tests.peers import machine as machines
from tests.peers.machine import INSIDE, Machine
from tests.peers.office import JOERG_NAME, JOERG_PASSWORD, STAFF, USERS, Office
from tests.peers.suite import ALICE_PASSWORD, BASE, BOB_PASSWORD, PEER_TIMEOUT_S, SEARCH, SEARCH_PASSWORD

WAYS = ("search then bind", "bind by template")


@dataclass(frozen=True)
class MailServer:
    """A running Dovecot."""

    machine: Machine
    port: int

    def login(self, user: str, password: str) -> imaplib.IMAP4 | None:
        """A logged-in connection, or nothing. SASL PLAIN, because IMAP's LOGIN is for ASCII."""
        connection = imaplib.IMAP4("127.0.0.1", self.port, timeout=PEER_TIMEOUT_S)
        try:
            connection.authenticate("PLAIN", lambda _: f"\0{user}\0{password}".encode())
        except imaplib.IMAP4.error as error:
            connection.shutdown()
            if "AUTHENTICATIONFAILED" not in str(error):
                raise
            return None
        return connection

    def accepts(self, user: str, password: str) -> bool:
        """Whether a login works."""
        connection = self.login(user, password)
        if connection is not None:
            connection.logout()
        return connection is not None

    def user(self, name: str) -> dict[str, str]:
        """What ``doveadm user`` says."""
        done = self.machine.run("doveadm", "-c", f"{INSIDE}/dovecot.conf", "user", name)
        if done.returncode == 67:  # EX_NOUSER
            return {}
        assert done.returncode == 0, done.stderr
        return dict(line.split("\t") for line in done.stdout.splitlines()[1:])


def configuration(port: int) -> str:
    """``dovecot.conf``. Failed logins are answered at once and cost no penalty, or the test would wait."""
    return f"""
base_dir = {INSIDE}/run
log_path = {INSIDE}/dovecot.log
protocols = imap
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
mail_location = maildir:{INSIDE}/mail/%{{user}}
first_valid_uid = 1000
auth_failure_delay = 0
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
# Names may have any character; the filter escapes them.
auth_username_chars =
auth_mechanisms = plain
passdb {{
  driver = ldap
  args = {INSIDE}/dovecot-ldap.conf.ext
}}
userdb {{
  driver = ldap
  args = {INSIDE}/dovecot-ldap.conf.ext
}}
service imap-login {{
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
"""


def ldap_configuration(office: Office, way: str) -> str:
    """``dovecot-ldap.conf.ext``. One way uses LDAPS, the other StartTLS."""
    if way == "search then bind":
        how = f"""
uris = {office.tls_url}
pass_filter = (&(objectClass=user)(|(sAMAccountName=%u)(mail=%u))(memberOf={STAFF}))
pass_attrs = sAMAccountName=user
"""
    else:
        how = f"""
uris = {office.url}
tls = yes
auth_bind_userdn = cn=%u,{USERS}
"""
    return f"""{how}
tls_ca_cert_file = {INSIDE}/trusted.pem
tls_require_cert = hard
dn = {SEARCH}
dnpass = {SEARCH_PASSWORD}
auth_bind = yes
base = {BASE}
user_filter = (&(objectClass=user)(|(sAMAccountName=%u)(mail=%u)))
user_attrs = sAMAccountName=user, homeDirectory=home, uidNumber=uid, gidNumber=gid
iterate_attrs = sAMAccountName=user
iterate_filter = (objectClass=user)
"""


@contextmanager
def serving(office: Office, way: str, folder: Path) -> Iterator[MailServer]:
    """Dovecot on a free port."""
    peer_programs.program("dovecot")
    port = demo.free_port("127.0.0.1")
    folder.chmod(0o755)
    (folder / "mail").mkdir()
    (folder / "mail").chmod(0o1777)  # every person's mailbox is made under their own number
    (folder / "trusted.pem").write_text(office.certificate.read_text())
    (folder / "dovecot.conf").write_text(configuration(port))
    (folder / "dovecot-ldap.conf.ext").write_text(ldap_configuration(office, way))
    with machines.opened(folder, {}) as machine:
        machine.start("dovecot", "dovecot", "-F", "-c", f"{INSIDE}/dovecot.conf")
        machine.wait_for_port(port)
        yield MailServer(machine, port)


@pytest.fixture(scope="module", params=WAYS)
def mail(
    request: pytest.FixtureRequest, office: Office, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MailServer]:
    """One mail server for each way of binding."""
    with serving(office, request.param, tmp_path_factory.mktemp("dovecot")) as started:
        yield started


def test_logins(mail: MailServer) -> None:
    """The right password passes; a wrong one, an empty one, another user's and an unknown name do not."""
    assert mail.accepts("alice", ALICE_PASSWORD), mail.machine.log()
    for user, password in (("alice", "wrong"), ("alice", ""), ("alice", BOB_PASSWORD), ("nobody-here", "x")):
        assert not mail.accepts(user, password), (user, password)
    assert mail.accepts("alice", ALICE_PASSWORD)


def test_a_mailbox_of_ones_own(mail: MailServer) -> None:
    """A message that alice puts into her mailbox is hers: the folder has her number as its owner."""
    connection = mail.login("alice", ALICE_PASSWORD)
    assert connection is not None, mail.machine.log()
    assert connection.append("INBOX", "", "", b"Subject: hello\r\n\r\nworld\r\n")[0] == "OK"
    assert connection.select("INBOX") == ("OK", [b"1"])
    connection.logout()
    assert (mail.machine.folder / "mail/alice").stat().st_uid == int(mail.user("alice")["uid"])


def test_userdb(mail: MailServer) -> None:
    """Numbers and home; by mail address too; the list of everybody."""
    alice = mail.user("alice")
    assert alice["home"] == "/home/alice"
    assert int(alice["uid"]) > 2000
    assert mail.user("alice@example.org")["uid"] == alice["uid"]
    assert mail.user("nobody-here") == {}
    done = mail.machine.run("doveadm", "-c", f"{INSIDE}/dovecot.conf", "user", "*")
    assert {"alice", "bob", JOERG_NAME, "user50"} <= set(done.stdout.split())


def test_names_outside_ascii(mail: MailServer) -> None:
    """Name and password."""
    assert mail.accepts(JOERG_NAME, JOERG_PASSWORD), mail.machine.log()
    assert not mail.accepts(JOERG_NAME, JOERG_PASSWORD.replace("ß", "ss"))


def test_a_login_with_a_code(mail: MailServer, office: Office) -> None:
    """``password;code``; the password alone is refused."""
    name, password, with_code = office.somebody_with_a_code()
    assert not mail.accepts(name, password)
    assert mail.accepts(name, with_code)


@pytest.mark.parametrize("mail", WAYS[:1], indirect=True)
def test_access_by_group(mail: MailServer) -> None:
    """``pass_filter`` finds members of staff only; a filter needs the search before the bind."""
    assert not mail.accepts("search", SEARCH_PASSWORD)
    assert mail.accepts("alice@example.org", ALICE_PASSWORD)
