"""FreeRADIUS's ``radclient`` against the packet codec alone: signatures, hidden values and replies of every code.

The daemon is tested elsewhere; here a socket answers with what ``wire`` makes, also with what a daemon never sends.
"""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from outposts.radius.dictionary import load
from outposts.radius.rfc import Code
from outposts.radius.wire import (
    Attributes,
    Packet,
    Signature,
    decode,
    encode_reply,
    make_salts,
    message_authenticator,
    mppe_keys,
    reveal_password,
    salted,
    verify_accounting,
)
from tests import peer_programs

SECRET = "gehéim-and-testing123"
PASSWORD = "wonderland and a much longer pass phrase"
WAIT_S = 10.0  # for a datagram; a hang is a failure
MSK = bytes(range(64))


@contextmanager
def answering(code: int, wrong: bool = False) -> Iterator[tuple[int, list[Packet]]]:
    """A server for one request; gives its port and what it got. ``wrong``: one bit of the reply is flipped."""
    got: list[Packet] = []

    def serve() -> None:
        datagram, peer = server.recvfrom(5000)
        request = decode(datagram)
        got.append(request)
        octets = bytearray(encode_reply(request, SECRET.encode(), code, reply_attributes(request, code)))
        octets[-1] ^= wrong
        server.sendto(octets, peer)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(WAIT_S)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], got
        finally:
            thread.join()


def reply_attributes(request: Packet, code: int) -> Attributes:
    """An Accept with everything that is hidden or tagged; other replies say nothing."""
    if code != Code.ACCESS_ACCEPT or request.code != Code.ACCESS_REQUEST:
        return ()
    names = load()
    salts = make_salts(b"abcd")
    return (
        *mppe_keys(SECRET.encode(), request.authenticator, MSK, salts),
        (69, b"\1" + salted(SECRET.encode(), request.authenticator, b"\x81\1", b"tunnel-password")),
        names.attribute("Tunnel-Type", "VLAN", 1),
        names.attribute("Tunnel-Medium-Type", "IEEE-802", 1),
        names.attribute("Tunnel-Private-Group-Id", "20", 1),
        names.attribute("Cisco-AVPair", "shell:priv-lvl=15"),
        names.attribute("Framed-IPv6-Prefix", "2001:db8::/32"),
        names.attribute("Framed-Interface-Id", "1:2:3:4"),
    )


def radclient(port: int, kind: str, *attributes: str, wait_s: int = 5) -> subprocess.CompletedProcess[str]:
    """One request, not repeated."""
    program, waits = peer_programs.program("radclient"), ("-r", "1", "-t", str(wait_s))
    command = [program, "-x", *waits, f"127.0.0.1:{port}", kind, SECRET]
    return subprocess.run(
        command, input="\n".join(attributes) + "\n", capture_output=True, text=True, timeout=30, check=False
    )


def test_access_request_and_everything_hidden() -> None:
    """Its password and signature are right here; our keys, tunnel password and tags are right there."""
    with answering(Code.ACCESS_ACCEPT) as (port, got):
        done = radclient(
            port,
            "auth",
            "User-Name = alice",
            f'User-Password = "{PASSWORD}"',
            "Message-Authenticator = 0x00",
            "Proxy-State = 0x6162",
            "Proxy-State = 0x63",
        )
    (request,) = got
    assert message_authenticator(request, SECRET.encode()) is Signature.VALID
    hidden = request.first(2)
    assert hidden is not None
    assert reveal_password(SECRET.encode(), request.authenticator, hidden).decode() == PASSWORD
    assert done.returncode == 0, done.stderr
    reply = [line.strip() for line in done.stdout.partition("Received Access-Accept")[2].splitlines()]
    assert reply[1].startswith("Message-Authenticator = ")
    assert reply[2:] == [
        "Proxy-State = 0x6162",
        "Proxy-State = 0x63",
        f"MS-MPPE-Recv-Key = 0x{MSK[:32].hex()}",
        f"MS-MPPE-Send-Key = 0x{MSK[32:].hex()}",
        'Tunnel-Password:1 = "tunnel-password"',
        "Tunnel-Type:1 = VLAN",
        "Tunnel-Medium-Type:1 = IEEE-802",
        'Tunnel-Private-Group-Id:1 = "20"',
        'Cisco-AVPair = "shell:priv-lvl=15"',
        "Framed-IPv6-Prefix = 2001:db8::/32",
        "Framed-Interface-Id = 1:2:3:4",
    ]


@pytest.mark.parametrize(
    ("kind", "code", "name"),
    [
        ("auth", Code.ACCESS_REJECT, "Access-Reject"),
        ("auth", Code.ACCESS_CHALLENGE, "Access-Challenge"),
        ("acct", Code.ACCOUNTING_RESPONSE, "Accounting-Response"),
        ("status", Code.ACCESS_ACCEPT, "Access-Accept"),
        ("status", Code.ACCOUNTING_RESPONSE, "Accounting-Response"),
        ("disconnect", Code.DISCONNECT_ACK, "Disconnect-ACK"),
        ("disconnect", Code.DISCONNECT_NAK, "Disconnect-NAK"),
        ("coa", Code.COA_ACK, "CoA-ACK"),
        ("coa", Code.COA_NAK, "CoA-NAK"),
    ],
)
def test_requests_and_replies_of_every_code(kind: str, code: Code, name: str) -> None:
    """Each signed request verifies here, each reply there; a reply with one wrong bit is no reply."""
    row = "Acct-Session-Id = s1"
    for wrong in (False, True):
        with answering(code, wrong) as (port, got):
            done = radclient(port, kind, row, "Message-Authenticator = 0x00", wait_s=1 if wrong else 5)
        (request,) = got
        assert message_authenticator(request, SECRET.encode()) is Signature.VALID
        assert verify_accounting(request, SECRET.encode()) == (kind in ("acct", "disconnect", "coa"))
        assert (f"Received {name}" in done.stdout) != wrong
