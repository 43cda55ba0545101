"""Challenges through real daemons over UDP: alone, with workers, and as replicas that share a Valkey server."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterator

import pytest

from outposts.radius import wire
from outposts.radius.rfc import Attribute, Code
from tests import daemons, factories
from tests.fakes import StubCore
from tests.valkey import valkey_server

SECRET = b"testing123"
WAIT_S = 15.0  # for a reply from a busy machine; nothing here is decided by this time
ORIGIN = ("127.0.0.1", 0)

_numbers = itertools.count(1)


@pytest.fixture
def core() -> Iterator[StubCore]:
    """A core where alice has a password and a code."""
    with StubCore("radius") as stub:
        stub.outpost["config"] |= {"x_radius_challenge": True}
        stub.providers["radius"] = [
            {"pk": 7, "name": "vpn", "application_slug": "app", "auth_flow_slug": "bind-flow",
             "client_networks": "127.0.0.0/8", "shared_secret": SECRET.decode(), "mfa_support": True,
             "certificate": None},
        ]  # fmt: skip
        stub.users = [factories.user(5, "alice")]
        stub.people.passwords["alice"] = "pw"
        stub.people.codes["alice"] = {"123456"}
        yield stub


def exchange(daemon: daemons.Daemon, password: str, *more: tuple[int, bytes]) -> wire.Packet:
    """One Access-Request from a port of its own, and its verified reply."""
    number = next(_numbers)
    authenticator = number.to_bytes(16, "big")
    rows = [
        (int(Attribute.USER_NAME), b"alice"),
        (int(Attribute.USER_PASSWORD), wire.hide_password(SECRET, authenticator, password.encode())),
        *more,
    ]
    octets = wire.encode_request(Code.ACCESS_REQUEST, number % 256, SECRET, rows, authenticator=authenticator)
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
        client.bind(ORIGIN)
        client.settimeout(WAIT_S)
        client.sendto(octets, daemon.address("radius"))
        return wire.verify_reply(client.recv(4096), authenticator, SECRET)


def state_of(reply: wire.Packet, text: str) -> tuple[int, bytes]:
    """State of a reply that must be a challenge with this text."""
    assert reply.code == Code.ACCESS_CHALLENGE
    assert reply.joined(Attribute.REPLY_MESSAGE).decode() == text
    return int(Attribute.STATE), reply.first(Attribute.STATE) or b""


def environment(core: StubCore, **more: str) -> dict[str, str]:
    """Settings of a daemon before this core."""
    return daemons.outpost_environment(core.url, core.token, **more)


def converse(first: daemons.Daemon, second: daemons.Daemon) -> None:
    """Password to one, a wrong code to the other, the right one to the first; used States are worth nothing."""
    asked = state_of(exchange(first, "pw"), "Code:")
    again = state_of(exchange(second, "000000", asked), "Wrong code, try again:")
    reply = exchange(first, "123456", again)
    assert reply.code == Code.ACCESS_ACCEPT
    for daemon in (first, second):
        for used in (asked, again):
            assert exchange(daemon, "123456", used).code == Code.ACCESS_REJECT


def test_r17_one_daemon(core: StubCore) -> None:
    """Row R17 from the socket to the core and back."""
    with daemons.running("radius", environment(core)) as daemon:
        converse(daemon, daemon)


def test_workers(core: StubCore) -> None:
    """Whichever worker a packet reaches: often enough that chance does not decide."""
    with daemons.running("radius", environment(core, OUTPOSTS_WORKERS="2")) as daemon:
        for number in range(8):
            core.people.codes["alice"] = {f"12345{number}"}
            asked = state_of(exchange(daemon, "pw"), "Code:")
            assert exchange(daemon, f"12345{number}", asked).code == Code.ACCESS_ACCEPT


def test_replicas(core: StubCore) -> None:
    """Asked by one daemon, answered at the other, through Valkey; without it, a daemon keeps its own questions."""
    with valkey_server() as server, contextlib.ExitStack() as stack:
        address = server.connection_url
        settings = environment(core, OUTPOSTS_REDIS_URL=address)
        one, other = (stack.enter_context(daemons.running("radius", settings)) for _ in range(2))
        converse(one, other)
        asked = state_of(exchange(one, "pw"), "Code:")
        one.kill()
        assert exchange(other, "123456", asked).code == Code.ACCESS_ACCEPT
        server.terminate()
        alone = state_of(exchange(other, "pw"), "Code:")
        assert exchange(other, "123456", alone).code == Code.ACCESS_ACCEPT
        for daemon in (one, other):
            assert address not in daemon.text()


def test_an_address_that_is_none(core: StubCore) -> None:
    """The daemon ends with 1 and names the setting, not its value."""
    with pytest.raises(daemons.DaemonFailed, match="ended with 1") as caught:
        daemons.start("radius", environment(core, OUTPOSTS_REDIS_URL="redis://:hunter2@h:port/0"))
    assert "OUTPOSTS_REDIS_URL" in str(caught.value)
    assert "hunter2" not in str(caught.value)
