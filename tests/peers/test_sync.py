"""Replicas of the real daemon's directory: OpenLDAP's ldapsearch and python-ldap's consumer, over changes and restarts.

The suite is of this file's own: people are changed through the core's API, and the daemon is started again with its
state folder.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import daemons, peer_programs
from tests.peers.suite import (
    ADMIN_TOKEN,
    ALICE,
    ALICE_PASSWORD,
    BASE,
    SEARCH,
    SEARCH_PASSWORD,
    Suite,
    core_url,
    outpost_token,
    start_core,
)

# A login changes modifyTimestamp of whom it logs in, at a time that depends on what is cached.
OTHERS = "(!(cn=search))"
PATIENCE_S = 20.0  # for a change to arrive: a refresh of the demo's directory takes a fraction of a second


class Own:
    """Core and daemon, the daemon with a state folder so that it can be started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.core = start_core(folder)
        (folder / "state").mkdir()
        self.environment = daemons.outpost_environment(
            core_url(self.core), outpost_token(folder, "demo-ldap"), OUTPOSTS_STATE_DIR=str(folder / "state")
        )
        self.ldap = daemons.start("ldap", self.environment)

    @property
    def url(self) -> str:
        """For clients."""
        return Suite(self.folder, self.core, self.ldap).ldap_url

    def restart(self) -> None:
        """The daemon, with what it has written."""
        self.ldap.kill()
        self.ldap = daemons.start("ldap", self.environment)

    def close(self) -> None:
        """Both."""
        self.ldap.kill()
        self.core.kill()

    def api(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The core's API as its administrator."""
        request = urllib.request.Request(
            f"{core_url(self.core)}/api/v3{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Authorization": f"Bearer {ADMIN_TOKEN}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            content = answer.read()
            return json.loads(content) if content else None

    def user(self, name: str) -> int:
        """The pk of a user, made if there is none."""
        found = self.api("GET", f"/core/users/?username={name}")["results"]
        if found:
            return int(found[0]["pk"])
        return int(self.api("POST", "/core/users/", {"username": name, "name": name, "path": "users"})["pk"])

    def refresh(self) -> None:
        """Make the daemon list the directory again, and wait until it is served.

        Twice: the first one may have begun before the change that is to be seen.
        """

        def last_update() -> float:
            text = self.ldap.get("/metrics")[1].decode()
            found = re.search(r"(?m)^authentik_outpost_last_update\{[^}]*\} (\S+)$", text)
            return float(found[1]) if found else 0.0

        for _ in range(2):
            before = last_update()
            self.ldap.signal(signal.SIGUSR1)
            self.ldap.wait_for(lambda before=before: last_update() > before, PATIENCE_S, lambda: "refresh")  # type: ignore[misc]


@pytest.fixture(scope="module")
def own() -> Iterator[Own]:
    """A suite of this file's own."""
    with tempfile.TemporaryDirectory(prefix="outposts-sync-") as name:
        made = Own(Path(name))
        try:
            yield made
        finally:
            made.close()


class Lines:
    """A program that is talked to line by line."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.process.stdout, selectors.EVENT_READ)
        self.text = ""

    def say(self, line: str) -> None:
        """Send a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def until(self, pattern: str) -> str:
        """What it prints up to and with a pattern; that part is used up."""
        end = time.monotonic() + PATIENCE_S
        while (found := re.search(pattern, self.text, re.S)) is None:
            assert time.monotonic() < end, f"{pattern!r} did not come: {self.text!r}"
            assert self.process.stdout is not None
            if self._selector.select(0.5):
                data = os.read(self.process.stdout.fileno(), 65_536)
                assert data, f"{pattern!r} did not come before the end: {self.text!r}"
                self.text += data.decode()
        heard, self.text = self.text[: found.end()], self.text[found.end() :]
        return heard

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self._selector.close()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LDAPNOINIT": "1"}


@contextmanager
def ldapsearch(own: Own, *arguments: str, dn: str = SEARCH, password: str = SEARCH_PASSWORD) -> Iterator[Lines]:
    """ldapsearch with a simple bind."""
    secret = own.folder / "password"
    secret.write_text(password)
    secret.chmod(0o600)
    line_by_line = [peer_programs.program("stdbuf"), "-oL"]
    command = [*line_by_line, peer_programs.program("ldapsearch"), "-x", "-o", "ldif-wrap=no", "-H", own.url]
    lines = Lines([*command, "-D", dn, "-y", str(secret), *arguments], ENVIRONMENT)
    try:
        yield lines
    finally:
        lines.close()


def dns(text: str) -> list[str]:
    """The DNs in what ldapsearch printed."""
    return re.findall(r"(?m)^dn: (.*)$", text)


def cookie(text: str) -> str:
    """The last cookie in it."""
    return str(re.findall(r"(?m)^# cookie: (\S+)$", text)[-1])


def test_ldapsearch_refresh_only(own: Own) -> None:
    """Everything with a cookie; with the cookie nothing, then one change."""
    pk = own.user("ron")
    own.refresh()
    arguments = ("-b", BASE, OTHERS, "cn", "mail")
    done = r"# numResponses: .*?\n"
    with ldapsearch(own, "-E", "sync=ro", *arguments) as lines:
        text = lines.until(done)
    assert "result: 0 Success" in text
    assert "# SyncDone control refreshDeletes=0" in text
    assert ALICE in dns(text)
    assert len(dns(text)) == text.count("# SyncState control, UUID") > 100
    with ldapsearch(own, "-E", f"sync=ro/{cookie(text)}", *arguments) as lines:
        second = lines.until(done)
    assert dns(second) == []
    assert "# SyncDone control refreshDeletes=1" in second
    own.api("PATCH", f"/core/users/{pk}/", {"email": "ron@example.org"})
    own.refresh()
    with ldapsearch(own, "-E", f"sync=ro/{cookie(second)}", *arguments) as lines:
        third = lines.until(done)
    assert dns(third) == [f"cn=ron,ou=users,{BASE}"]
    assert "mail: ron@example.org" in third


def test_ldapsearch_refresh_and_persist(own: Own) -> None:
    """It goes on to show what happens: a user comes, changes, goes."""
    ann = f"cn=ann,ou=users,{BASE}"
    with ldapsearch(own, "-b", f"ou=users,{BASE}", "-E", "!sync=rp", "(cn=a*)", "mail") as lines:
        text = lines.until("switching to persist stage")
        assert ALICE in dns(text)
        assert "refresh present" in text
        pk = own.user("ann")
        own.refresh()
        text = lines.until("new cookie")
        assert (dns(text), text.count(" added")) == ([ann], 1)
        own.api("PATCH", f"/core/users/{pk}/", {"email": "ann@example.org"})
        own.refresh()
        text = lines.until("new cookie")
        assert (dns(text), text.count(" modified")) == ([ann], 1)
        assert "mail: ann@example.org" in text
        own.api("DELETE", f"/core/users/{pk}/")
        own.refresh()
        text = lines.until("new cookie")
        assert (dns(text), text.count(" deleted")) == ([ann], 1)


def test_persistent_search_by_ldapsearch(own: Own) -> None:
    """The control as octets: all kinds, changes only, with notifications; ldapsearch shows them."""
    value = "MAkCAQ8BAf8BAf8="
    with ldapsearch(
        own, "-b", f"ou=users,{BASE}", "-E", f"!2.16.840.1.113730.3.4.3=::{value}", "(objectClass=*)", "cn"
    ) as lines:
        lines.until("requesting: cn")
        # nothing comes until something happens, so there is nothing to wait for but the connection
        own.ldap.wait_for(lambda: following(own) > 0, PATIENCE_S, lambda: "the search follows")
        pk = own.user("pat")
        own.refresh()
        text = lines.until(r"cn: pat\n")
        assert "control: 2.16.840.1.113730.3.4.7 false " in text
        own.api("DELETE", f"/core/users/{pk}/")
        own.refresh()
        lines.until(rf"dn: cn=pat,ou=users,{BASE}\n")


def following(own: Own) -> float:
    """How many searches follow a directory."""
    text = own.ldap.get("/metrics")[1].decode()
    found = re.search(r"(?m)^outposts_followers (\S+)$", text)
    return float(found[1]) if found else 0.0


def test_somebody_without_the_search_right(own: Own) -> None:
    """Alice follows what she sees."""
    with ldapsearch(own, "-b", BASE, "-E", "!sync=ro", dn=ALICE, password=ALICE_PASSWORD) as lines:
        text = lines.until(r"# numResponses: .*?\n")
    assert [dn for dn in dns(text) if dn.endswith(f",ou=users,{BASE}")] == [ALICE]


CONSUMER = """
import json, sys
import ldap
from ldap.ldapobject import SimpleLDAPObject
from ldap.syncrepl import SyncreplConsumer

class Consumer(SimpleLDAPObject, SyncreplConsumer):
    held, cookie, present, moved, refreshed = {}, None, set(), False, False

    def syncrepl_set_cookie(self, cookie):
        type(self).cookie = cookie

    def syncrepl_get_cookie(self):
        return type(self).cookie

    def syncrepl_entry(self, dn, attributes, uuid):
        self.held[uuid] = [dn.lower(), sorted(
            [name, sorted(value.decode() for value in values)] for name, values in attributes.items())]
        self.moved = True

    def syncrepl_delete(self, uuids):
        for uuid in uuids:
            self.held.pop(uuid, None)
        self.moved = True

    def syncrepl_present(self, uuids, refreshDeletes=False):
        if uuids is not None:
            self.present.update(uuids)
        else:
            if not refreshDeletes:
                for uuid in set(self.held) - self.present:
                    del self.held[uuid]
            self.present.clear()

    def syncrepl_refreshdone(self):
        self.refreshed = True
        print(json.dumps("refreshed"), flush=True)

def say(consumer, counted):
    plain = SimpleLDAPObject(url)
    plain.simple_bind_s(dn, password)
    truth = {}
    for name, attributes in plain.search_s(base, ldap.SCOPE_SUBTREE, text, ["*", "entryUUID"]):
        uuid = attributes.pop("entryUUID")[0].decode()
        truth[uuid] = [name.lower(), sorted(
            [key, sorted(value.decode() for value in values)] for key, values in attributes.items())]
    plain.unbind_s()
    print(json.dumps({"same": truth == consumer.held, "entries": len(consumer.held), "moved": counted}), flush=True)

base, dn, password, text = json.loads(sys.stdin.readline())
consumer = None
for line in sys.stdin:
    order, url = line.split()
    if order in ("poll", "listen"):
        consumer = Consumer(url)
        consumer.set_option(ldap.OPT_NETWORK_TIMEOUT, 10)
        consumer.simple_bind_s(dn, password)
        mode = "refreshOnly" if order == "poll" else "refreshAndPersist"
        number = consumer.syncrepl_search(base, ldap.SCOPE_SUBTREE, mode, filterstr=text, attrlist=["*"])
    if order == "poll":
        while consumer.syncrepl_poll(number, timeout=20):
            pass
        say(consumer, consumer.moved)
        consumer.unbind_s()
    elif order == "listen":
        while not consumer.refreshed:
            consumer.syncrepl_poll(number, timeout=20)
    elif order == "next":
        before = Consumer.cookie
        while Consumer.cookie == before:
            consumer.syncrepl_poll(number, timeout=20)
        say(consumer, consumer.moved)
    elif order == "cancel":
        consumer.cancel_s(number)
        print(json.dumps("canceled"), flush=True)
"""


@contextmanager
def consuming(text: str) -> Iterator[Lines]:
    """python-ldap's consumer; it compares what it holds with a plain search."""
    environment = ENVIRONMENT | {"PYTHONPATH": str(peer_programs.folder("python-ldap"))}
    lines = Lines([sys.executable, "-c", CONSUMER], environment)
    try:
        lines.say(json.dumps([BASE, SEARCH, SEARCH_PASSWORD, text]))
        yield lines
    finally:
        lines.close()


def answer(lines: Lines) -> Any:
    """One line of the consumer's."""
    return json.loads(lines.until(r"\n"))


def test_python_ldap_polls_over_changes_and_restarts(own: Own) -> None:
    """The consumer holds what a plain search finds, each time; after a restart of the daemon nothing moves."""
    pk = own.user("kim")
    own.refresh()
    with consuming(OTHERS) as lines:
        lines.say(f"poll {own.url}")
        first = answer(lines)
        assert first["same"]
        assert first["entries"] > 100
        own.api("PATCH", f"/core/users/{pk}/", {"email": "kim@example.org"})
        own.user("lee")
        own.refresh()
        lines.say(f"poll {own.url}")
        assert answer(lines) == {"same": True, "entries": first["entries"] + 2, "moved": True}
        own.restart()
        lines.say(f"poll {own.url}")
        assert answer(lines) == {"same": True, "entries": first["entries"] + 2, "moved": False}
        own.api("DELETE", f"/core/users/{pk}/")
        own.refresh()
        lines.say(f"poll {own.url}")
        assert answer(lines) == {"same": True, "entries": first["entries"], "moved": True}


def test_python_ldap_listens(own: Own) -> None:
    """Changes arrive by themselves; Cancel ends the search (RFC 3909) and the connection stays."""
    filter = "(|(cn=moe*)(mail=moe*))"
    with consuming(filter) as lines:
        lines.say(f"listen {own.url}")
        assert answer(lines) == "refreshed"
        pk = own.user("moe")
        own.refresh()
        lines.say(f"next {own.url}")
        assert answer(lines) == {"same": True, "entries": 2, "moved": True}
        own.api("PATCH", f"/core/users/{pk}/", {"username": "larry", "email": "moe@example.org"})
        own.refresh()
        lines.say(f"next {own.url}")
        assert answer(lines) == {"same": True, "entries": 1, "moved": True}
        lines.say(f"cancel {own.url}")
        assert answer(lines) == "canceled"


SLAPD = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
objectclass ( 1.1.3.1 NAME 'nsContainer' SUP top STRUCTURAL MUST cn )
modulepath /usr/lib/ldap
moduleload back_mdb
database mdb
suffix "{base}"
rootdn "cn=root,{base}"
rootpw consumer
directory {folder}
syncrepl rid=001 provider={url} type=refreshAndPersist retry="1 +" searchbase="{base}" scope=sub
  filter="(|(objectClass=domain)(objectClass=nsContainer))" attrs="cn,dc,ou" schemachecking=off
  bindmethod=simple binddn="{dn}" credentials="{password}"
"""


def test_slapd_as_a_consumer(own: Own, tmp_path: Path) -> None:
    """It replicates what its schema can hold: class names with a slash in them, as users have, it cannot."""
    program = peer_programs.program("slapd")
    (tmp_path / "data").mkdir()
    configuration = tmp_path / "slapd.conf"
    configuration.write_text(
        SLAPD.format(base=BASE, folder=tmp_path / "data", url=own.url, dn=SEARCH, password=SEARCH_PASSWORD)
    )
    secret = own.folder / "root-password"
    secret.write_text("consumer")
    secret.chmod(0o600)
    url = f"ldapi://{str(own.folder / 'slapd').replace('/', '%2F')}"
    slapd = Lines([program, "-f", str(configuration), "-h", url, "-d", "sync"], ENVIRONMENT)
    try:
        heard = slapd.until("REFRESH_PRESENT.*?cookie=1\\.")
        assert heard.count("be_add") == 4
        search = [peer_programs.program("ldapsearch"), "-x", "-LLL", "-H", url, "-D", f"cn=root,{BASE}"]
        done = subprocess.run(
            [*search, "-y", str(secret), "-b", BASE, "1.1"], capture_output=True, text=True, timeout=60, check=True
        )
        assert [dn.lower() for dn in dns(done.stdout)] == [
            BASE, f"ou=users,{BASE}", f"ou=groups,{BASE}", f"ou=virtual-groups,{BASE}",
        ]  # fmt: skip
    finally:
        slapd.close()
