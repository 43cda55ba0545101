"""``outposts/proxy/header_auth.py``: cases H1 to H5, and what credentials cost the core."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from common.throttle import ThrottleLimits
from outposts.proxy import header_auth
from outposts.proxy.decision import (
    Allow,
    Check,
    Credential,
    Passed,
    Tried,
    Unauthorized,
    credential_from,
    judge,
    prepare,
)
from outposts.proxy.header_auth import HeaderAuth, challenges
from outposts.proxy.session import Session, State
from tests.proxy.openid import ALICE, Site, outpost, site
from tests.proxy.site import asked, provider, record, table, verdict
from tests.proxy.stores import Clock
from tests.proxy.test_oidc import FAULTS

TOKEN = "aaa.bbb.ccc"


def bearer(token: str = TOKEN) -> Credential:
    """Credentials as a client sends them."""
    found = credential_from(f"Bearer {token}")
    assert found is not None
    return found


def basic(user: str = "alice", password: str = "app-pw") -> Credential:
    """An app password."""
    found = credential_from("Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    assert found is not None
    return found


class Desk:
    """Header authentication at a provider, and the clock it goes by."""

    def __init__(self, here: Site, clock: Clock, auth: HeaderAuth) -> None:
        self.here, self.clock, self.auth = here, clock, auth

    async def judge(self, credential: Credential, address: str = "192.0.2.1") -> Session | Tried:
        """What becomes of credentials."""
        return await self.auth.authenticate(self.here.provider, credential, address)

    def calls(self) -> int:
        """How often the core was asked."""
        return sum(len(self.here.core.forms.get(name, [])) for name in ("introspect", "token"))


@asynccontextmanager
async def desk(limits: ThrottleLimits | None = None, **rest: Any) -> AsyncIterator[Desk]:
    """A provider of whose tokens alice's is active."""
    async with site(**rest) as here:
        clock = Clock(time.time())
        here.core.active = lambda token: here.core.payload() if token == TOKEN else False
        auth = HeaderAuth(here.client, clock=clock, **({"limits": limits} if limits else {}))
        try:
            yield Desk(here, clock, auth)
        finally:
            await auth.close()


async def test_h1_bearer() -> None:
    """Asked once, remembered for a minute, asked again."""
    async with desk() as here:
        first = await here.judge(bearer())
        assert isinstance(first, Session) and first.subject == ALICE and first.token == TOKEN
        assert first.live(here.clock.now)
        assert await here.judge(bearer()) is first
        assert here.auth.peek(here.here.provider, bearer()) is first
        assert here.calls() == 1
        here.clock.now += 61
        assert here.auth.peek(here.here.provider, bearer()) is None
        second = await here.judge(bearer())
        assert isinstance(second, Session) and second is not first
        assert here.calls() == 2


async def test_h1_the_application_never_gets_what_was_used() -> None:
    """By the verdict: the header is taken out, the first and the second time."""
    async with desk() as here:
        value = f"Bearer {TOKEN}"
        for _ in range(2):
            session = await here.judge(bearer())
            assert isinstance(session, Session)
            allowed = judged(here, value, session)
            assert isinstance(allowed, Allow)
            assert (allowed.why, allowed.used_authorization) == (Passed.CREDENTIALS, True)


def judged(here: Desk, value: str, session: Session) -> Any:
    """The verdict about a request whose credentials gave a session."""
    check = prepare(asked("traefik", "/a", {"Authorization": value}), here.here.providers)
    assert isinstance(check, Check)
    return judge(check, session, here.clock.now)


async def test_h2_refused() -> None:
    """The core says no: remembered for a while, and a challenge is due."""
    async with desk() as here:
        assert await here.judge(bearer("x.y.z")) is Tried.REFUSED
        assert here.auth.peek(here.here.provider, bearer("x.y.z")) is Tried.REFUSED
        answer = verdict(
            asked("nginx", "/a", {"Authorization": "Bearer x.y.z"}), here.here.providers, tried=Tried.REFUSED
        )
        assert isinstance(answer, Unauthorized) and answer.challenge


def test_h2_challenges() -> None:
    """Both schemes; a realm that cannot break out of its quotes."""
    one = record(1, "S", "c", "https://app.example.com", mode="forward_single", assigned_application_name='A"\\ü\r\nB')
    assert challenges(provider(one)) == ['Basic realm="A?????B", charset="UTF-8"', 'Bearer realm="A?????B"']


async def test_h3_basic() -> None:
    """An app password; the ID token is what the application gets."""
    async with desk() as here:
        session = await here.judge(basic())
        assert isinstance(session, Session)
        [form] = here.here.core.forms["token"]
        assert (form["grant_type"], form["username"], form["password"]) == ("client_credentials", "alice", "app-pw")
        assert "client_secret" not in form
        assert "introspect" not in here.here.core.forms


async def test_h3_token_as_password() -> None:
    """Behind the reserved user name; what is no token may still be an app password of that name."""
    async with desk() as here:
        session = await here.judge(basic("goauthentik.io/token", TOKEN))
        assert isinstance(session, Session) and session.token == TOKEN
        assert "token" not in here.here.core.forms
        assert isinstance(await here.judge(basic("goauthentik.io/token", "other")), Session)
        assert len(here.here.core.forms["token"]) == 1


async def test_h4_ends_with_the_token() -> None:
    """Thirty seconds of life are thirty seconds, also out of memory."""
    async with desk() as here:
        here.here.core.active = lambda token: here.here.core.payload(exp=here.clock.now + 30)
        session = await here.judge(bearer())
        assert isinstance(session, Session)
        here.clock.now += 31
        assert not session.live(here.clock.now)
        assert here.auth.peek(here.here.provider, bearer()) is None
        here.here.core.active = lambda token: here.here.core.payload(exp=here.clock.now - 1)
        assert await here.judge(bearer()) is Tried.REFUSED


async def test_h5_bad_credentials_cost_little() -> None:
    """A hundred tries of the same ones: one call. Others of the same user at that address: few."""
    async with desk() as here:
        here.here.core.answers["token"] = FAULTS["400"][0]
        for _ in range(100):
            assert await here.judge(basic()) is Tried.REFUSED
        assert here.calls() == 1
        found = [await here.judge(basic(password=f"guess {number}")) for number in range(100)]
        assert here.calls() <= 12
        assert found[-1] is Tried.UNKNOWN
        assert await here.judge(basic("bob"), "192.0.2.99") is Tried.REFUSED  # others are not held up


async def test_h5_tokens_are_counted_by_address() -> None:
    """A stale token does not bar good ones from the same address, a flood of them does."""
    async with desk(ThrottleLimits(per_pair=3, per_address=20, per_account=50)) as here:
        for number in range(10):
            assert await here.judge(bearer(f"x.y.{number}")) is Tried.REFUSED
        assert isinstance(await here.judge(bearer()), Session)
        found = [await here.judge(bearer(f"x.y.{number}")) for number in range(10, 60)]
        assert here.calls() <= 25
        assert found[-1] is Tried.UNKNOWN
        assert isinstance(await here.judge(bearer()), Session)  # remembered: nobody is asked
        assert isinstance(await here.judge(bearer(), "192.0.2.2"), Session)


async def test_a_no_is_forgotten_soon() -> None:
    """A token that is made after it was first tried works a moment later."""
    async with desk() as here:
        assert await here.judge(bearer("n.e.w")) is Tried.REFUSED
        here.here.core.active = lambda token: here.here.core.payload()
        assert await here.judge(bearer("n.e.w")) is Tried.REFUSED
        here.clock.now += header_auth.BAD_S + 1
        assert isinstance(await here.judge(bearer("n.e.w")), Session)


async def test_one_call_for_all_who_wait() -> None:
    """Also if the first of them gives up."""
    async with desk() as here:
        go = asyncio.Event()

        async def slow(_: web.Request) -> web.StreamResponse:
            await go.wait()
            return web.json_response({"active": True, **here.here.core.payload()})

        here.here.core.answers["introspect"] = slow
        tasks = [asyncio.create_task(here.judge(bearer())) for _ in range(20)]
        await asyncio.sleep(0.05)
        tasks[0].cancel()
        go.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert all(isinstance(session, Session) for session in found[1:])
        assert here.calls() == 1


@pytest.mark.parametrize("endpoint", ["introspect", "token"])
@pytest.mark.parametrize("name", [name for name in FAULTS if name not in ("400", "401", "403")])
async def test_faults_are_never_a_yes(endpoint: str, name: str) -> None:
    """Nor remembered as a no."""
    async with desk(timeout_s=0.3) as here:
        here.here.core.answers[endpoint] = FAULTS[name][0]
        credential = bearer() if endpoint == "introspect" else basic()
        assert await here.judge(credential) is Tried.UNKNOWN
        assert here.auth.peek(here.here.provider, credential) is None
        del here.here.core.answers[endpoint]
        assert isinstance(await here.judge(credential), Session)


async def test_claims_that_do_not_count() -> None:
    """For another client, from another core, about nobody."""
    async with desk() as here:
        for number, changed in enumerate(
            ({"aud": "cid-other"}, {"iss": "https://evil.example/"}, {"sub": None}, {"sub": ""}, {"sub": 7})
        ):
            here.here.core.active = lambda token, changed=changed: here.here.core.payload(**changed)  # type: ignore[misc]
            assert await here.judge(bearer(f"t.o.{number}")) is Tried.REFUSED


async def test_other_providers_ask_for_themselves() -> None:
    """What one provider's users may do says nothing about another one."""
    async with desk() as here:
        assert isinstance(await here.judge(bearer()), Session)
        other = table(
            record(2, "T", "cid-other", "https://t.example.com", mode="forward_single",
                   oidc_configuration=here.here.core.oidc())
        ).by_pk[2]  # fmt: skip
        assert here.auth.peek(other, bearer()) is None


async def test_ends() -> None:
    """A login at the core that is over, a user who is signed out, a new configuration."""
    async with desk() as here:
        session = await here.judge(bearer())
        assert isinstance(session, Session)
        here.auth.session_ended("another")
        assert here.auth.peek(here.here.provider, bearer()) is session
        here.auth.session_ended(session.sid)
        assert here.auth.peek(here.here.provider, bearer()) is None
        assert session.state is State.ENDED
        assert isinstance(await here.judge(bearer()), Session)
        here.auth.subject_ended(ALICE)
        assert here.auth.peek(here.here.provider, bearer()) is None
        assert isinstance(await here.judge(bearer()), Session)
        here.auth.forget()
        assert here.auth.peek(here.here.provider, bearer()) is None


async def test_an_end_that_overtakes_an_answer() -> None:
    """What was asked before the end is not remembered after it."""
    async with desk() as here:
        asked_, go = asyncio.Event(), asyncio.Event()

        async def slow(_: web.Request) -> web.StreamResponse:
            asked_.set()
            await go.wait()
            return web.json_response({"active": True, **here.here.core.payload()})

        here.here.core.answers["introspect"] = slow
        task = asyncio.create_task(here.judge(bearer()))
        await asked_.wait()
        here.auth.session_ended("5e" * 32)
        go.set()
        await task
        assert here.auth.peek(here.here.provider, bearer()) is None


async def test_without_introspection_the_signature_counts() -> None:
    """A provider that names no endpoint for it."""
    async with desk() as here:
        here.here.client.apply(
            table(
                record(1, "S", "cid-single", "https://app.example.com", mode="forward_single",
                       client_secret="x" * 128,
                       oidc_configuration={**here.here.core.oidc(), "introspection_endpoint": ""})
            ),
            outpost(),
        )  # fmt: skip
        good = here.here.core.token(here.here.core.payload())
        assert isinstance(await here.judge(bearer(good)), Session)
        here.here.core.secret = "y" * 128
        assert await here.judge(bearer(here.here.core.token(here.here.core.payload()))) is Tried.REFUSED


async def test_memory_is_bounded(monkeypatch: Any) -> None:
    """The oldest answers go first."""
    monkeypatch.setattr(header_auth, "MAX_BAD", 5)
    monkeypatch.setattr(header_auth, "MAX_GOOD", 5)
    async with desk() as here:
        for number in range(10):
            await here.judge(bearer(f"x.y.{number}"), f"192.0.2.{number}")
        assert len(here.auth._bad) == 5
        here.here.core.active = lambda token: here.here.core.payload()
        for number in range(10):
            await here.judge(bearer(f"g.o.{number}"))
        assert len(here.auth._good) == 5


async def test_a_defect_is_no_yes(monkeypatch: Any) -> None:
    """An exception that nobody thought of ends as: nobody knows."""
    async with desk() as here:

        async def broken(*_: Any) -> Any:
            raise ZeroDivisionError

        monkeypatch.setattr(here.here.client, "introspect", broken)
        assert await here.judge(bearer()) is Tried.UNKNOWN
