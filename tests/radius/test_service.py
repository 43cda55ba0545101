"""The service: what a refresh puts in service and what it ends, problems of providers, certificates, ended sessions."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import REGISTRY

from common.cache import Configuration
from common.outcomes import CoreSession
from common.reactor import LoopReactor
from common.records import OutpostRecord, RadiusProvider, RootConfig
from common.service import DaemonContext
from common.settings import load
from common.tls import CertificatePair
from outposts.radius.extension import Parts
from outposts.radius.providers import Providers
from outposts.radius.request import Request
from outposts.radius.rfc import Attribute, Code
from outposts.radius.service import RadiusService
from tests import factories
from tests.radius import eap_peer
from tests.radius.desks import NAS, PORT, Core, Sent, access_request, eap_request, passed, read
from tests.radius.eap_peer import IDENTITY, PAIR, response

LINE = Sent()  # one for all: copies are known by the socket that they come by
TOKENS = {"AUTHENTIK_HOST": "http://localhost", "AUTHENTIK_TOKEN": "t"}


class Login(Core):
    """The login service of a test."""

    budget_s = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.logouts: list[tuple[CoreSession, str | None, str]] = []
        self.fault: Exception | None = None

    async def logout(self, session: CoreSession, flow_slug: str | None, client_ip: str) -> bool:
        """Note a log-out."""
        self.logouts.append((session, flow_slug, client_ip))
        if self.fault is not None:
            raise self.fault
        return True


class Api:
    """A core that answers the look at it."""

    async def root_config(self) -> None:
        """It is there."""


class Part:
    """An optional part that notes what it is told."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.told: list[str] = []
        self.problem = ""
        self.fault: Exception | None = None

    async def apply(self, configuration: Configuration, providers: Providers) -> None:
        """Note it."""
        self.told.append(f"apply {len(providers)}")
        if self.fault is not None:
            raise self.fault

    async def listen(self, *, shared: bool) -> list[tuple[str, str, int]]:
        """Note it."""
        return [("part", "127.0.0.1", 1)]

    def accepted(self, request: Request, session: CoreSession, class_: bytes, user_name: str) -> None:
        """Note it."""
        self.told.append(f"accepted {session.session_id}")

    def session_ended(self, session_id: str) -> None:
        """Note it."""
        self.told.append(f"ended {session_id}")

    def sweep(self) -> None:
        """Note it."""
        self.told.append("sweep")

    def not_ready(self) -> list[str]:
        """As the test says."""
        return [self.problem] if self.problem else []

    def stop_listening(self) -> None:
        """Note it."""
        self.told.append("stop")

    async def close(self) -> None:
        """Note it."""
        self.told.append("close")


def configuration(
    *records: Mapping[str, Any], pairs: Mapping[str, CertificatePair] | None = None, **config: Any
) -> Configuration:
    """What a refresh brings."""
    outpost = msgspec.convert(factories.outpost("radius", config=config), OutpostRecord)
    root = msgspec.convert({"error_reporting": {}, "cache_timeout_flows": 300}, RootConfig)
    providers = tuple(msgspec.convert(dict(record), RadiusProvider) for record in records)
    return Configuration(outpost, root, providers, pairs or {}, 0.0)


@asynccontextmanager
async def running(**environment: str) -> AsyncIterator[tuple[RadiusService, Login, Part]]:
    """A service that listens nowhere."""
    login = Login()
    api: Any = Api()
    context = DaemonContext(load(TOKENS | environment), api, None, login, "id", lambda: None)
    reactor = LoopReactor(asyncio.get_running_loop())
    parts: list[Part] = []

    def extensions(given: Parts) -> list[Part]:
        parts.append(Part(given))
        return parts

    service = RadiusService(context, reactor, extensions)
    try:
        yield service, login, parts[0]
    finally:
        await context.cancel_all()
        await service.close()


async def ask(service: RadiusService, octets: bytes, secret: bytes = b"testing123") -> Any:
    """A packet handed to the desk; its reply or None."""
    LINE.replies.clear()
    service.desk.received(octets, NAS, PORT, LINE, None)
    await service.desk.drain(20.0)
    return read(LINE.replies[0][0], octets, secret) if LINE.replies else None


async def test_a_refresh_puts_providers_in_service() -> None:
    """And their successors; without providers nobody is answered."""
    async with running() as (service, _, part):
        assert await ask(service, access_request()) is None
        await service.apply(configuration(factories.radius_provider(7)))
        assert (await ask(service, access_request())).code == Code.ACCESS_ACCEPT
        await service.apply(configuration(factories.radius_provider(7, shared_secret="other")))
        assert await ask(service, access_request()) is None
        assert (await ask(service, access_request(secret=b"other"), b"other")).code == Code.ACCESS_ACCEPT
        await service.apply(configuration())
        assert await ask(service, access_request(secret=b"other")) is None
        assert part.told == ["apply 1", "accepted session-1", "apply 1", "accepted session-1", "apply 0"]


async def test_what_did_not_change_goes_on() -> None:
    """Copies, habits of clients and conversations outlive a refresh; those of a changed provider end."""
    async with running() as (service, login, _):
        await service.apply(configuration(factories.radius_provider(7), x_radius_challenge=True))
        octets = access_request()
        reply = await ask(service, octets)
        start = await ask(service, eap_request(b""))
        state = (Attribute.STATE, start.first(Attribute.STATE))
        await service.apply(configuration(factories.radius_provider(7), x_radius_challenge=True))
        assert (await ask(service, octets)).octets == reply.octets and len(login.logins) == 1
        assert await ask(service, access_request(sign=False)) is None
        assert len(service.authenticator.conversations.exchanges) == 1
        await service.apply(configuration(factories.radius_provider(7, mfa_support=False)))
        assert len(service.authenticator.conversations.exchanges) == 0
        assert (await ask(service, access_request(sign=False))).code == Code.ACCESS_ACCEPT
        refused = await ask(service, eap_request(response(1, IDENTITY, b"alice"), state))
        assert refused.code == Code.ACCESS_REJECT


async def test_bad_records_are_counted_and_take_nobody_down() -> None:
    """R26, R27: networks without a meaning, an empty secret, a certificate that is none; said once."""
    async with running() as (service, _, _):
        bad = [
            factories.radius_provider(1, client_networks="foo, 10.0.0.0/8"),
            factories.radius_provider(2, shared_secret=""),
            factories.radius_provider(3, certificate="broken", client_networks="192.0.2.0/24"),
        ]
        pairs = {"broken": CertificatePair("broken", "", "no PEM", "no PEM")}
        for _ in range(2):
            await service.apply(configuration(*bad, pairs=pairs))
        assert REGISTRY.get_sample_value("authentik_outpost_radius_config_errors") == 3
        assert service.not_ready() == []
        refused = await ask(service, eap_request(response(7, IDENTITY, b"alice")))
        assert refused.code == Code.ACCESS_REJECT
        assert (await ask(service, access_request())).code == Code.ACCESS_ACCEPT
        await service.apply(configuration(factories.radius_provider(2, shared_secret="")))
        [reason] = service.not_ready()
        assert "no provider can be served" in reason and "secret" in reason


async def test_a_part_that_fails_does_not_take_logins_down() -> None:
    """They are decided with the new configuration all the same."""
    async with running() as (service, _, part):
        part.fault = RuntimeError("broken")
        await service.apply(configuration(factories.radius_provider(7)))
        assert (await ask(service, access_request())).code == Code.ACCESS_ACCEPT


async def test_settings_reach_what_they_set() -> None:
    """The outpost's config, for all or by provider."""
    config: dict[str, Any] = {
        "x_radius_max_flows": 3,
        "x_radius_max_pending": 4,
        "x_radius_status_rate": 5,
        "x_radius_duplicate_ttl": "6s",
        "x_radius_failures": 7,
        "x_radius_failures_per_nas": 8,
        "x_radius_failures_per_account": 9,
        "x_radius_failure_backoff_max": 10,
        "x_radius_reject_delay": {"radius-7": 2, "*": 1},
        "x_radius_challenge": [8],
    }
    async with running() as (service, _, _):
        await service.apply(configuration(factories.radius_provider(7), factories.radius_provider(8), **config))
        gate, limits = service.authenticator.gate, service.authenticator.gate.throttle.limits
        assert (gate.max_flows, service.desk.max_pending, service.desk.intake.status_rate) == (3, 4, 5)
        assert service.duplicates.ttl_s == 6
        assert (limits.per_pair, limits.per_address, limits.per_account, limits.wait_max) == (7, 8, 9, 10)
        seven, eight = service.desk.intake.providers
        assert (seven.reject_delay, eight.reject_delay) == (2, 1)
        assert (seven.challenge, eight.challenge) == (False, True)


async def test_a_certificate_of_the_core_and_one_in_files(tmp_path: Path) -> None:
    """EAP is offered with either; files that change are read again; other listeners are shown the same pairs."""
    certificate, key = tmp_path / "tls.pem", tmp_path / "tls.key"
    certificate.write_text(PAIR.certificate_pem)
    key.write_text(PAIR.private_key_pem)
    files = {"OUTPOSTS_RADIUS__TLS_CERTIFICATE": str(certificate), "OUTPOSTS_RADIUS__TLS_KEY": str(key)}
    async with running() as (service, _, part):
        await service.apply(configuration(factories.radius_provider(7, certificate="pair"), pairs={"pair": PAIR}))
        assert (await ask(service, eap_request(response(7, IDENTITY, b"alice")))).code == Code.ACCESS_CHALLENGE
        assert part.parts.pairs() == [("radius-7", PAIR)]
    async with running(**files) as (service, _, part):
        await service.apply(configuration(factories.radius_provider(7)))
        assert (await ask(service, eap_request(response(7, IDENTITY, b"alice")))).code == Code.ACCESS_CHALLENGE
        first = service.authenticator.conversations.settings[7].tls
        newer = eap_peer.SERVERS.issue(("newer.example",), purposes=())
        for path, text in ((certificate, newer.pem), (key, newer.key_pem)):
            path.with_suffix(".new").write_text(text)
            os.replace(path.with_suffix(".new"), path)

        async def changed() -> None:
            while service.authenticator.conversations.settings[7].tls is first:  # noqa: ASYNC110 - the daemon's own sweep
                await asyncio.sleep(0.01)

        await asyncio.wait_for(changed(), 20)
        assert [pair.certificate_pem for _, pair in part.parts.pairs()] == [newer.pem]
        assert "sweep" in part.told


async def test_log_out_after_a_login() -> None:
    """On request; not where the session is needed for disconnecting; a failure is nobody's."""
    async with running() as (service, login, _):
        await service.apply(configuration(factories.radius_provider(7), x_radius_logout=True))
        login.fault = RuntimeError("broken")
        for user in (b"alice", b"bob"):
            assert (await ask(service, access_request(user=user))).code == Code.ACCESS_ACCEPT
        await service.drain(20.0)
        assert [(flow, address) for _, flow, address in login.logouts] == [(None, NAS)] * 2
        await service.apply(configuration(factories.radius_provider(7), x_radius_logout=True, x_radius_das=True))
        await ask(service, access_request())
        await service.drain(20.0)
        assert len(login.logouts) == 2


async def test_ended_sessions_and_parts() -> None:
    """Nobody is let in with an ended session; parts hear of it, listen, and say why they are not ready."""
    async with running() as (service, login, part):
        await service.apply(configuration(factories.radius_provider(7)))
        service.session_ended("session-1")
        assert (await ask(service, access_request())).code == Code.ACCESS_REJECT
        login.outcome = passed(session=CoreSession({}, "session-2", None, "radius"))
        assert (await ask(service, access_request())).code == Code.ACCESS_ACCEPT
        part.problem = "no room"
        assert service.not_ready() == ["no room"]
        service.connection_lost_for(100.0)
        await service.drain(1.0)
        assert {"ended session-1", "accepted session-2", "stop"} <= set(part.told)
        assert "accepted session-1" not in part.told
    assert part.told[-1] == "close"


@pytest.mark.parametrize("fresh", [True, False])
async def test_whether_logins_can_be_decided(fresh: bool) -> None:
    """Without providers never; else the core's last answer, or a look at it."""
    async with running() as (service, _, _):
        assert service._able() is False
        await service.apply(configuration(factories.radius_provider(7)))
        if fresh:
            service.core.heard()
            assert service._able() is True
        else:
            assert await service._able() is True
