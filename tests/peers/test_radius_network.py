"""Accounting, disconnecting and RadSec with the programs of network gear: the real daemon before the fake core."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyrad.dictionary import Dictionary
from pyrad.packet import CoAACK, CoAPacket, DisconnectACK

from outposts.radius.rfc import Attribute, Code
from outposts.radius.wire import encode_request, hide_password
from tests import daemons, factories, peer_programs
from tests.certificates import authority
from tests.fakes import StubCore
from tests.peers.radsec_proxy import radsecproxy
from tests.radius.client import Nas
from tests.radius.radsec_peer import issue

SECRET = "testing123"
PASSWORD = "wonderland"
PROGRAMS = Path(__file__).parent / "programs"
WAIT_S = 20.0
DICTIONARY = """
ATTRIBUTE User-Name 1 string
ATTRIBUTE User-Password 2 string encrypt=1
ATTRIBUTE Acct-Status-Type 40 integer
ATTRIBUTE Acct-Session-Id 44 string
ATTRIBUTE Message-Authenticator 80 octets
"""


@dataclass
class Site:
    """Core, daemon, certificates."""

    core: StubCore
    daemon: daemons.Daemon
    folder: Path
    das: socket.socket

    def sessions(self, *arguments: str) -> list[dict[str, object]]:
        """What ``outposts radius sessions --json`` prints."""
        done = subprocess.run(
            [sys.executable, "-m", "outposts", "radius", "sessions", "--json", *arguments],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(daemons.ROOT),
                "TMPDIR": str(self.daemon.folder),
                "OUTPOSTS_STATE_DIR": str(self.folder / "state"),
            },
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        rows: list[dict[str, object]] = json.loads(done.stdout)
        return rows

    def radclient(self, listener: str, kind: str, text: str, port: int | None = None) -> str:
        """What radclient prints about one request."""
        where = self.daemon.address(listener)[1] if port is None else port
        command = [peer_programs.program("radclient"), "-x", "-r", "2", "-t", "10", f"127.0.0.1:{where}", kind, SECRET]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60).stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One for all tests."""
    folder = tmp_path_factory.mktemp("network")
    root = authority("network authority")
    server, client = root.issue(["127.0.0.1"], purposes=()), issue(root, "proxy", dns=["proxy.example.org"])
    for name, text in (
        ("ca.pem", root.pem),
        ("server.pem", server.pem),
        ("server.key", server.key_pem),
        ("client.pem", client.pem),
        ("client.key", client.key_pem),
        ("dictionary", DICTIONARY),
    ):
        (folder / name).write_text(text)
    with StubCore("radius") as core, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as das:
        das.bind(("127.0.0.1", 0))
        das.settimeout(WAIT_S)
        core.providers["radius"] = [factories.radius_provider(7, name="office", mfa_support=False)]
        core.users = [factories.user(1, "alice")]
        core.people.passwords["alice"] = PASSWORD
        environment = daemons.outpost_environment(
            core.url,
            core.token,
            OUTPOSTS_LISTEN__ACCOUNTING="127.0.0.1:0",
            OUTPOSTS_LISTEN__RADSEC="127.0.0.1:0",
            OUTPOSTS_STATE_DIR=str(folder / "state"),
            OUTPOSTS_RADIUS__ACCOUNTING="true",
            OUTPOSTS_RADIUS__ACCOUNTING_RECORD="sqlite",
            OUTPOSTS_RADIUS__ACCOUNTING_EVENTS="true",
            OUTPOSTS_RADIUS__CLASS="true",
            OUTPOSTS_RADIUS__DAS="true",
            OUTPOSTS_RADIUS__DAS_PORT=str(das.getsockname()[1]),
            OUTPOSTS_RADIUS__TLS_CERTIFICATE=str(folder / "server.pem"),
            OUTPOSTS_RADIUS__TLS_KEY=str(folder / "server.key"),
            OUTPOSTS_RADSEC__CA=str(folder / "ca.pem"),
            OUTPOSTS_RADSEC__CLIENTS='{"office": "proxy.example.org"}',
        )
        with daemons.running("radius", environment) as daemon:
            yield Site(core, daemon, folder, das)


def test_r09_radclient_accounts_and_the_list_shows_it(site: Site) -> None:
    """Start, Interim-Update, Stop on the accounting port; the running list, the record, an event on the core."""
    names = 'User-Name = "alice", Acct-Session-Id = "rc1", NAS-Identifier = "switch", Calling-Station-Id = "aa-bb"'
    answered = site.radclient("accounting", "acct", f"Acct-Status-Type = Start, {names}\n")
    assert "Received Accounting-Response" in answered, answered
    assert "Received Accounting-Response" in site.radclient(
        "accounting", "acct", f"Acct-Status-Type = Interim-Update, {names}, Acct-Input-Octets = 12345\n"
    )
    (row,) = [one for one in site.sessions() if one["session_id"] == "rc1"]
    assert (row["user"], row["nas_identifier"], row["input_octets"]) == ("alice", "switch", 12345)
    stop = f"Acct-Status-Type = Stop, {names}, Acct-Input-Octets = 20000, Acct-Terminate-Cause = User-Request\n"
    assert "Received Accounting-Response" in site.radclient("radius", "acct", stop), "the other port takes it too"
    assert not [one for one in site.sessions() if one["session_id"] == "rc1"]
    (row,) = [one for one in site.sessions("--all") if one["session_id"] == "rc1"]
    assert (row["input_octets"], row["terminate_cause"]) == (20000, "user_request")
    site.core.wait_for(lambda: len(site.core.events) >= 3, "events of three reports")
    assert {one["action"] for one in site.core.events} == {"custom_radius_accounting"}
    text = site.daemon.get("/metrics")[1].decode()
    assert 'outposts_radius_accounting_requests_total{app="radius-app-7",status="stop"} 1.0' in text
    assert 'outposts_radius_accounting_octets_total{app="radius-app-7",direction="in"} 20000.0' in text


def test_r09_wrong_secret_gets_no_answer(site: Site) -> None:
    """Dropped; the list does not know it."""
    command = [peer_programs.program("radclient"), "-r", "1", "-t", "1"]
    command += [f"127.0.0.1:{site.daemon.address('accounting')[1]}", "acct", "wrong"]
    text = 'Acct-Status-Type = Start, Acct-Session-Id = "forged"\n'
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0 and "Received" not in done.stdout
    assert not [one for one in site.sessions() if one["session_id"] == "forged"]


def access_request(station: str) -> bytes:
    """A login of alice from a station."""
    authenticator = os.urandom(16)
    rows = [
        (Attribute.USER_NAME, b"alice"),
        (Attribute.USER_PASSWORD, hide_password(SECRET.encode(), authenticator, PASSWORD.encode())),
        (Attribute.NAS_IDENTIFIER, b"switch"),
        (Attribute.CALLING_STATION_ID, station.encode()),
    ]
    return encode_request(Code.ACCESS_REQUEST, 77, SECRET.encode(), rows, authenticator=authenticator)


def test_r32_end_of_the_core_session_disconnects(site: Site) -> None:
    """A login, its accounting, the end of the session on the core: pyrad takes the Disconnect-Request and answers."""
    with Nas(site.daemon) as nas:
        reply = nas.ask(access_request("02-00-00-00-00-01"))
        assert reply.code == Code.ACCESS_ACCEPT
    class_ = reply.first(Attribute.CLASS)
    assert class_ is not None and len(class_) == 16
    start = f'Acct-Status-Type = Start, Acct-Session-Id = "rc2", User-Name = "alice", Class = 0x{class_.hex()}, '
    start += 'NAS-Identifier = "switch", Calling-Station-Id = "02-00-00-00-00-01"\n'
    assert "Received Accounting-Response" in site.radclient("accounting", "acct", start)
    (session,) = site.core.sessions_of("alice")
    site.core.end_session(session)
    octets, where = site.das.recvfrom(4096)
    request = CoAPacket(packet=octets, secret=SECRET.encode(), dict=Dictionary())
    assert request.code == Code.DISCONNECT_REQUEST
    assert request.VerifyCoARequest() and request.verify_message_authenticator()
    assert (request[1], request[31], request[44]) == ([b"alice"], [b"02-00-00-00-00-01"], [b"rc2"])
    again, _ = site.das.recvfrom(4096)
    assert again == octets, "after two seconds the same octets"
    answer = request.CreateReply()
    answer.code = DisconnectACK
    assert CoAACK != DisconnectACK
    site.das.sendto(answer.ReplyPacket(), where)

    def counted() -> bool:
        return 'outposts_radius_disconnects_total{result="ack"} 1.0' in site.daemon.get("/metrics")[1].decode()

    site.daemon.wait_for(counted, WAIT_S, lambda: "the acknowledgement is counted")


# -- radsecproxy -------------------------------------------------------------------------------------------------------


def test_radsecproxy(site: Site) -> None:
    """Logins and accounting of gear that knows only UDP, over TLS to us; its own requests ask whether we live."""
    with radsecproxy(site.folder, site.daemon, SECRET, "RadSec client connected") as port:
        login = f'User-Name = "alice", User-Password = "{PASSWORD}", Message-Authenticator = 0x00\n'
        accepted = site.radclient("", "auth", login, port)
        assert "Received Access-Accept" in accepted, accepted
        wrong = login.replace(PASSWORD, "no")
        assert "Received Access-Reject" in site.radclient("", "auth", wrong, port)
        start = 'Acct-Status-Type = Start, User-Name = "alice", Acct-Session-Id = "over-tls"\n'
        assert "Received Accounting-Response" in site.radclient("", "acct", start, port)
        assert [one for one in site.sessions() if one["session_id"] == "over-tls"]


def test_radsecproxy_with_a_strangers_certificate(site: Site) -> None:
    """The connection is closed, and no request of it is answered."""
    other = authority("other authority")
    stranger = issue(other, "proxy", dns=["proxy.example.org"])
    kept = {name: (site.folder / name).read_text() for name in ("client.pem", "client.key")}
    try:
        (site.folder / "client.pem").write_text(stranger.pem)
        (site.folder / "client.key").write_text(stranger.key_pem)
        with radsecproxy(site.folder, site.daemon, SECRET, "RadSec client of no provider") as port:
            text = 'User-Name = "alice", User-Password = "x", Message-Authenticator = 0x00\n'
            command = [peer_programs.program("radclient"), "-r", "1", "-t", "2", f"127.0.0.1:{port}", "auth", SECRET]
            done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
            assert "Received Access-" not in done.stdout
    finally:
        for name, text in kept.items():
            (site.folder / name).write_text(text)


# -- pyrad2 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_pyrad2_speaks_both_versions(site: Site, version: str) -> None:
    """An independent client of RADIUS/1.1: login and accounting without MD5, and the older form."""

    def ask(password: str) -> list[str]:
        done = subprocess.run(
            [
                sys.executable,
                str(PROGRAMS / "radsec11.py"),
                str(site.daemon.address("radsec")[1]),
                str(site.folder),
                version,
                "alice",
                password,
            ],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(peer_programs.folder("pyrad2"))},
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    spoken = "V" + version.replace(".", "_")
    assert ask(PASSWORD) == [spoken, "AccessAccept", "AccountingResponse"]
    assert ask("wrong") == [spoken, "AccessReject", "AccountingResponse"]
    assert [one for one in site.sessions() if one["session_id"] == "pyrad2-" + version]
    connected = [one for one in site.daemon.records() if one["event"] == "RadSec client connected"]
    assert re.fullmatch(re.escape(version), str(connected[-1]["version"]))
