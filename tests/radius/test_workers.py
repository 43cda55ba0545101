"""``outposts radius`` with two workers as real processes: copies, foreign State, a worker that is replaced."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec
import pytest

from common.service import DaemonContext
from common.worker import Colleague
from outposts.radius import wire
from outposts.radius.rfc import Attribute, Code
from outposts.radius.shared import RadiusSource, RadiusWorkerService
from tests import daemons, factories
from tests.fakes import StubCore
from tests.ldap.test_workers import children, command, gone, state
from tests.radius.client import Nas
from tests.radius.desks import SECRET, access_request, status_request

WORKERS = 2
PORTS = 24  # clients: that all of them meet the same worker of two happens once in eight million times


@contextmanager
def pool(**config: Any) -> Iterator[tuple[StubCore, daemons.Daemon]]:
    """A core where alice has a password and a code, and a daemon with two workers before it."""
    with StubCore("radius") as core:
        core.providers["radius"] = [factories.radius_provider(7)]
        core.outpost["config"] |= config
        core.users = [factories.user(1, "alice")]
        core.people.passwords["alice"] = "pw"
        core.people.codes["alice"] = {"123456"}
        environment = daemons.outpost_environment(
            core.url, core.token, OUTPOSTS_WORKERS=str(WORKERS), OUTPOSTS_RADIUS__STATUS_RATE="0"
        )
        with daemons.running("radius", environment) as daemon:
            yield core, daemon


def counter(daemon: daemons.Daemon, name: str) -> float:
    """The sum of a metric over its labels."""
    text = daemon.get("/metrics")[1].decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{[^}}]*\}})? ([0-9.e+]+)$", text, re.MULTILINE))


def workers(daemon: daemons.Daemon) -> list[int]:
    """Process ids of the workers that are alive."""
    return [pid for pid in children(daemon.pid) if "worker" in command(pid) and state(pid) != "Z"]


def test_copies_foreign_states_and_a_replaced_worker() -> None:
    """One pool for all of it: starting three processes takes its time."""
    with pool(x_radius_challenge=True) as (core, daemon), ExitStack() as stack:
        clients = [stack.enter_context(Nas(daemon)) for _ in range(PORTS)]
        # Both workers answer, and copies of a packet meet the worker that has its reply.
        for nas in clients:
            octets = access_request(password="pw;123456")
            nas.send(octets)
            reply = nas.receive()[0]
            assert wire.verify_reply(reply, octets[4:20], SECRET).code == Code.ACCESS_ACCEPT
            nas.send(octets)
            assert nas.receive()[0] == reply
        assert counter(daemon, "authentik_outpost_radius_duplicates_total") == PORTS
        posts = [call for call in core.called("/flows/", "POST") if "password" in (call.body or {})]
        assert len(posts) == PORTS
        # An answer from another port finds the worker that asked, and so do its copies.
        for asker, answerer in zip(clients, reversed(clients), strict=True):
            challenge = asker.ask(access_request(password="pw"))
            assert challenge.code == Code.ACCESS_CHALLENGE
            octets = access_request((Attribute.STATE, challenge.first(Attribute.STATE) or b""), password="123456")
            answerer.send(octets)
            reply = answerer.receive()[0]
            assert wire.verify_reply(reply, octets[4:20], SECRET).code == Code.ACCESS_ACCEPT
            answerer.send(octets)
            assert answerer.receive()[0] == reply
        assert counter(daemon, "outposts_radius_forwarded_total") > 0
        assert counter(daemon, "authentik_outpost_radius_requests_total") == 3 * PORTS
        # What a worker held is gone with it: a reject, nothing worse; and the pool is whole again.
        challenges = [nas.ask(access_request(password="pw")) for nas in clients]
        victim = workers(daemon)[0]
        os.kill(victim, signal.SIGKILL)
        daemon.wait_for(lambda: gone(victim), 20, lambda: "the end of a worker")
        daemon.wait_for(lambda: counter(daemon, "outposts_workers_listening") == WORKERS, 60, lambda: "a new worker")
        codes = []
        for challenge in challenges:
            octets = access_request((Attribute.STATE, challenge.first(Attribute.STATE) or b""), password="123456")
            codes.append(clients[0].ask(octets).code)
        assert set(codes) == {Code.ACCESS_ACCEPT, Code.ACCESS_REJECT}
        for nas in clients:
            assert nas.ask(status_request()).code == Code.ACCESS_ACCEPT
        assert daemon.stop() == 0


class _Nothing:
    """Connections of a context that is never used to talk."""

    async def root_config(self) -> None:
        """No answer."""


def worker_service(number: int, sent: list[tuple[int, str, bytes]]) -> RadiusWorkerService:
    """A worker's service without sockets."""
    from common.settings import load

    settings = load({"AUTHENTIK_HOST": "http://localhost", "AUTHENTIK_TOKEN": "t", "OUTPOSTS_WORKERS": "2"})
    nothing: Any = _Nothing()
    context = DaemonContext(settings, nothing, nothing, nothing, "id", lambda: None, worker=number)
    context.forward = lambda worker, what, content: sent.append((worker, what, content))
    return RadiusWorkerService(context, nothing)


async def test_what_another_worker_passes_on_is_looked_at() -> None:
    """A worker takes packets, and survives what is none."""
    service = worker_service(2, [])
    assert isinstance(service, Colleague)
    service.forwarded("something else", msgspec.msgpack.encode([0, "192.0.2.1", 5, "", [], b""]))
    service.forwarded("packet", msgspec.msgpack.encode([99, "192.0.2.1", 5, "", [], b""]))
    with pytest.raises(msgspec.MsgspecError):
        service.forwarded("packet", b"\xc1")


async def test_the_source_has_nothing_to_make() -> None:
    """The supervisor's half."""
    nothing: Any = _Nothing()
    source = RadiusSource(nothing)
    assert source.type == "radius" and source.not_ready() == []
    await source.close()
