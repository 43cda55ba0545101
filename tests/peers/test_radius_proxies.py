"""In front of the real daemon: FreeRADIUS as a proxy, radsecproxy with EAP, radtest and radclient.

The daemon and the embedded core are those of ``test_eapol``. FreeRADIUS adds a Proxy-State, re-encrypts passwords and
session keys with the secret of its own client, and believes only replies that bring its Proxy-State back.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from outposts import demo
from tests import peer_programs
from tests.peers.radsec_proxy import radsecproxy
from tests.peers.suite import ALICE_PASSWORD
from tests.peers.supplicant import Supplicant
from tests.peers.wifi import CAROL_PASSWORD, CHECKED, CODES, PASSWORDS, PEOPLE, PROXY, SERVERS, Wifi

FRONT_SECRET = "secret of the switches"
LIBRARIES = "/usr/lib/freeradius"
START_S = 20.0
POLL_S = 0.05  # between looks at its log
REQUEST_S = 20  # for one reply on a busy machine


@dataclass(frozen=True)
class Front:
    """A running proxy."""

    port: int
    log: Path
    supplicant: Supplicant

    def said(self) -> str:
        """All that it has logged."""
        return self.log.read_text(errors="replace")


def configuration(folder: Path, port: int, home: tuple[str, int], secret: str) -> str:
    """``radiusd.conf`` of a proxy and nothing else: whatever comes goes to one home server."""
    return f"""
prefix = {folder}
localstatedir = {folder}
name = radiusd
libdir = {LIBRARIES}
raddbdir = {folder}
logdir = {folder}
run_dir = {folder}
security {{
    reject_delay = 0
    allow_vulnerable_openssl = yes
}}
client switches {{
    ipaddr = 127.0.0.1
    secret = "{FRONT_SECRET}"
}}
modules {{
}}
proxy server {{
    default_fallback = no
}}
home_server outposts {{
    type = auth
    ipaddr = {home[0]}
    port = {home[1]}
    secret = "{secret}"
    response_window = {REQUEST_S}
    status_check = status-server
}}
home_server_pool outposts {{
    type = fail-over
    home_server = outposts
}}
realm outposts {{
    auth_pool = outposts
    nostrip
}}
server front {{
    listen {{
        type = auth
        ipaddr = 127.0.0.1
        port = {port}
    }}
    authorize {{
        update control {{
            Proxy-To-Realm := outposts
        }}
    }}
}}
"""


@contextmanager
def freeradius(folder: Path, home: tuple[str, int], secret: str) -> Iterator[Front]:
    """FreeRADIUS as a proxy to this server."""
    program = peer_programs.program("freeradius")
    folder.mkdir()
    port, log = demo.free_port("127.0.0.1"), folder / "freeradius.log"
    (folder / "radiusd.conf").write_text(configuration(folder, port, home, secret))
    (folder / "dictionary").write_text("")
    command = [program, "-f", "-xx", "-l", "stdout", "-d", str(folder)]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, start_new_session=True)
    front = Front(port, log, Supplicant(folder / "peer", ("127.0.0.1", port), SERVERS))
    try:
        deadline = time.monotonic() + START_S
        while "Ready to process requests" not in front.said():
            assert process.poll() is None and time.monotonic() < deadline, front.said()
            time.sleep(POLL_S)
        yield front
    finally:
        process.terminate()
        process.wait(START_S)


@pytest.fixture(scope="module")
def front(wifi: Wifi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A proxy to the provider of passwords."""
    folder = tmp_path_factory.mktemp("front") / "freeradius"
    with freeradius(folder, wifi.radius.address("radius"), PASSWORDS) as started:
        yield started


def radclient(port: int, secret: str, request: str, *, wait_s: int = REQUEST_S) -> str:
    """What radclient prints about one Access-Request, sent once."""
    command = [peer_programs.program("radclient"), "-x", "-r", "1", "-t", str(wait_s)]
    command += [f"127.0.0.1:{port}", "auth", secret]
    return subprocess.run(command, input=request, capture_output=True, text=True, check=False, timeout=60).stdout


def login(user: str, password: str, *more: str) -> str:
    """The attributes of a signed login as radclient reads them."""
    rows = [f'User-Name = "{user}"', f'User-Password = "{password}"', "Message-Authenticator = 0x00", *more]
    return ", ".join(rows) + "\n"


def test_r07_passwords_through_freeradius(front: Front) -> None:
    """Accept and Reject come through, each with the Proxy-State that FreeRADIUS has added."""
    assert "Received Access-Accept" in radclient(front.port, FRONT_SECRET, login("alice", ALICE_PASSWORD)), front.said()
    assert "Received Access-Reject" in radclient(front.port, FRONT_SECRET, login("alice", "wrong"))
    with_code = login("carol", f"{CAROL_PASSWORD};{CODES.pop()}")
    assert "Received Access-Accept" in radclient(front.port, FRONT_SECRET, with_code)
    returned = re.findall(
        r"Received Access-\w+ Id \d+ from 127[^\n]*\n(?:\(\d+\)   [^\n]*\n)*?\(\d+\)   Proxy-State = 0x", front.said()
    )
    assert len(returned) >= 3, front.said()


def test_r07_two_proxies_in_a_row(front: Front, tmp_path: Path) -> None:
    """Two Proxy-States; both come back in order, else one of the two proxies would drop the reply."""
    with freeradius(tmp_path / "second", ("127.0.0.1", front.port), FRONT_SECRET) as second:
        assert "Received Access-Accept" in radclient(second.port, FRONT_SECRET, login("alice", ALICE_PASSWORD))
        assert "Received Access-Reject" in radclient(second.port, FRONT_SECRET, login("alice", "wrong"))


def test_r17_a_challenge_through_freeradius(front: Front) -> None:
    """The password, then a code at the prompt; the State goes there and back unchanged, and once."""
    asked = radclient(front.port, FRONT_SECRET, login("carol", CAROL_PASSWORD))
    assert "Received Access-Challenge" in asked and 'Reply-Message = "Code:"' in asked, asked
    (state,) = re.findall(r"State = (0x[0-9a-f]+)", asked)
    answer = login("carol", CODES.pop(), f"State = {state}")
    assert "Received Access-Accept" in radclient(front.port, FRONT_SECRET, answer)
    again = login("carol", CODES[-1], f"State = {state}")
    assert "Received Access-Reject" in radclient(front.port, FRONT_SECRET, again)


@pytest.mark.parametrize(
    ("method", "inner"),
    [("TTLS", "auth=PAP"), ("TTLS", "autheap=GTC"), ("PEAP", "auth=GTC")],
    ids=["ttls-pap", "ttls-gtc", "peap-gtc"],
)
def test_r58_tunnels_through_freeradius(front: Front, method: str, inner: str) -> None:
    """Keys that FreeRADIUS has hidden anew are still the client's."""
    access = front.supplicant.run(FRONT_SECRET, method, password=ALICE_PASSWORD, inner=inner)
    assert access.granted, access.text
    access = front.supplicant.run(FRONT_SECRET, method, password="wrong", inner=inner)
    assert access.refused, access.text


def test_r48_certificates_through_freeradius(wifi: Wifi, tmp_path: Path) -> None:
    """EAP-TLS with fragments both ways."""
    with freeradius(tmp_path / "tls", wifi.radius.address("radius"), CHECKED) as proxy:
        access = proxy.supplicant.run(
            FRONT_SECRET, "TLS", certificate=PEOPLE.issue(("alice",)), more={"fragment_size": "300"}
        )
        assert access.granted, access.text


def test_r04_what_a_switch_did_not_sign(front: Front) -> None:
    """FreeRADIUS signs what it passes on, also where its client has not; so ``auto`` takes it, Proxy-State or not."""
    unsigned = f'User-Name = "alice", User-Password = "{ALICE_PASSWORD}"\n'
    assert "Received Access-Accept" in radclient(front.port, FRONT_SECRET, unsigned)


@pytest.mark.parametrize(
    ("method", "inner"), [("TTLS", "auth=PAP"), ("PEAP", "auth=GTC")], ids=["ttls-pap", "peap-gtc"]
)
def test_r58_tunnels_through_radsecproxy(wifi: Wifi, tmp_path: Path, method: str, inner: str) -> None:
    """EAP in RadSec: conversations and keys survive the change of transport and secret."""
    for name, text in (
        ("ca.pem", SERVERS.pem),
        ("client.pem", PROXY.pem),
        ("client.key", PROXY.key_pem),
    ):
        (tmp_path / name).write_text(text)
    with radsecproxy(tmp_path, wifi.radius, FRONT_SECRET, "RadSec client connected") as port:
        supplicant = Supplicant(tmp_path / "peer", ("127.0.0.1", port), SERVERS)
        access = supplicant.run(FRONT_SECRET, method, password=ALICE_PASSWORD, inner=inner)
        assert access.granted, access.text
        access = supplicant.run(FRONT_SECRET, method, password="wrong", inner=inner)
        assert access.refused, access.text


def test_radtest(wifi: Wifi) -> None:
    """The line that everybody types first."""

    def radtest(user: str, password: str, secret: str = PASSWORDS) -> str:
        program = peer_programs.program("radtest")
        host, port = wifi.radius.address("radius")
        command = [program, user, password, f"{host}:{port}", "0", secret, "0", "127.0.0.1"]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout

    assert "Received Access-Accept" in radtest("alice", ALICE_PASSWORD)
    assert "Received Access-Reject" in radtest("alice", ALICE_PASSWORD + "x")
    assert "Received Access-Reject" in radtest("nobody", ALICE_PASSWORD)
    assert "Received Access-Accept" in radtest("carol", f"{CAROL_PASSWORD};{CODES.pop()}")
    assert "Received Access-Challenge" in radtest("carol", CAROL_PASSWORD)


@pytest.mark.parametrize("kind", ["chap", "mschap"])
def test_r37_radtest_with_what_cannot_work(wifi: Wifi, kind: str) -> None:
    """CHAP and MS-CHAP are rejected, with the right password too."""
    host, port = wifi.radius.address("radius")
    command = [peer_programs.program("radtest"), "-t", kind, "alice", ALICE_PASSWORD, f"{host}:{port}", "0", PASSWORDS]
    done = subprocess.run([*command, "0", "127.0.0.1"], capture_output=True, text=True, check=False, timeout=60)
    assert "Received Access-Reject" in done.stdout, done.stdout
    wifi.radius.wait_for(lambda: wifi.last_reason() == "unsupported_auth", REQUEST_S, wifi.last_reason)
