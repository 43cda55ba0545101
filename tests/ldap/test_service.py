"""The daemon's service: what a configuration, a load and an ended session change."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.cache import Configuration
from common.errors import CoreUnavailable
from common.reactor import LoopReactor
from common.records import LDAPProvider, OutpostRecord, RootConfig
from common.service import DaemonContext
from common.settings import load
from outposts.ldap import refresh
from outposts.ldap.connection import Connection
from outposts.ldap.service import LDAPService
from tests import factories
from tests.ldap.binds import ALICE, B, Login, until
from tests.ldap.desks import Paper, bind_request, say, search_request
from tests.ldap_client import message, search_operation


class Api:
    """The core's lists."""

    def __init__(self) -> None:
        self.user_records, self.group_records = factories.conformance_users(), factories.conformance_groups()
        factories.link(self.user_records, self.group_records)
        self.error: Exception | None = None
        self.listings = 0

    def _give(self, records: list[dict[str, Any]]) -> list[msgspec.Raw]:
        self.listings += 1
        if self.error is not None:
            raise self.error
        return [msgspec.Raw(msgspec.json.encode(record)) for record in records]

    async def users(self, params: object, page_size: int) -> list[msgspec.Raw]:
        """All users."""
        return self._give(self.user_records)

    async def groups(self, params: object, page_size: int) -> list[msgspec.Raw]:
        """All groups."""
        return self._give(self.group_records)


class WarmLogin(Login):
    """A login part that counts warm-ups."""

    warmed = 0

    async def warm_up(self, target: object) -> None:
        """One warm-up."""
        self.warmed += 1


def provider(pk: int = 1, base_dn: str = B, **fields: Any) -> LDAPProvider:
    """A provider in cached mode."""
    modes = {"search_mode": "cached", "bind_mode": "cached"} | fields
    return LDAPProvider(
        **{"pk": pk, "name": f"p{pk}", "base_dn": base_dn, "bind_flow_slug": "f", "application_slug": f"a{pk}"} | modes
    )


def configuration(*providers: LDAPProvider, **config: Any) -> Configuration:
    """A configuration with these providers."""
    outpost = OutpostRecord(pk="o", name="outpost", type="ldap", config=config)
    return Configuration(outpost, RootConfig(), providers)


class House:
    """A service and what it stands on."""

    def __init__(self, service: LDAPService, context: DaemonContext, api: Api, login: WarmLogin) -> None:
        self.service = service
        self.context = context
        self.api = api
        self.login = login
        self.now = 1000.0

    async def bound(self, name: str = ALICE) -> tuple[Connection, Paper]:
        """A connection that is bound."""
        paper = Paper()
        connection = Connection(self.service.desk, paper, "10.1.2.3", encrypted=False, listener="ldap")
        say(connection, bind_request(name=name))
        await until(lambda: paper.data)
        assert paper.take()[-1].code == 0  # type: ignore[union-attr]
        return connection, paper


@asynccontextmanager
async def house(state: Path | None = None, api: Api | None = None) -> AsyncIterator[House]:
    """A service on the running loop."""
    environ: Mapping[str, str] = {"AUTHENTIK_HOST": "http://localhost", "AUTHENTIK_TOKEN": "t"} | (
        {"OUTPOSTS_STATE_DIR": str(state)} if state else {}
    )
    api, login = api or Api(), WarmLogin()
    built: list[House] = []
    context = DaemonContext(
        load(environ), api, None, login, "instance", lambda: None, clock=lambda: built[0].now if built else 1000.0
    )
    service = LDAPService(context, LoopReactor(asyncio.get_running_loop()))
    built.append(House(service, context, api, login))
    try:
        yield built[0]
    finally:
        await context.cancel_all()
        await service.close()


def entries(connection: Connection, paper: Paper, base: str = B.lower()) -> int:
    """How many entries a search of everything finds; -code if it is refused."""
    say(connection, search_request(9, base))
    answers = paper.take()
    code: int = answers[-1].code  # type: ignore[union-attr]
    return len(answers) - 1 if code == 0 else -code


async def test_cached_providers_share_one_listing() -> None:
    """One call for users and one for groups, whatever the number of providers."""
    async with house() as at:
        await at.service.apply(configuration(provider(1), provider(2, "dc=two"), provider(3, "dc=three")))
        assert at.api.listings == 2
        assert at.service.not_ready() == []
        assert all(len(one.snapshot or ()) == 17 for one in at.service.desk.providers)


@pytest.mark.parametrize("error", [CoreUnavailable("GET /core/users/", "down"), RuntimeError("a defect of ours")])
async def test_86_a_failed_load_keeps_the_last_directory(error: Exception) -> None:
    """Not ready without one; with one, it stays."""
    async with house() as at:
        at.api.error = error
        await at.service.apply(configuration(provider()))
        assert at.service.not_ready() != []
        at.api.error = None
        await at.service.apply(configuration(provider()))
        connection, paper = await at.bound()
        at.api.error = error
        at.api.user_records.clear()
        await at.service.apply(configuration(provider()))
        assert entries(connection, paper) == 17
        assert at.service.not_ready() == []


async def test_new_entry_settings_wait_for_their_directory() -> None:
    """Until it can be built the old base is served as before."""
    async with house() as at:
        await at.service.apply(configuration(provider()))
        connection, paper = await at.bound()
        at.api.error = CoreUnavailable("GET /core/users/", "down")
        await at.service.apply(configuration(provider(base_dn="dc=new")))
        assert entries(connection, paper) == 17
        at.api.error = None
        await at.service.apply(configuration(provider(base_dn="dc=new")))
        assert entries(connection, paper) == 0
        assert entries(connection, paper, "dc=new") == 17


async def test_a_bad_provider_does_not_stop_the_others() -> None:
    """It is left out."""
    async with house() as at:
        await at.service.apply(configuration(provider(1, "garbage"), provider(2)))
        assert [one.pk for one in at.service.desk.providers] == [2]


async def test_25_a_changed_flow_ends_cached_binds() -> None:
    """The next bind runs the new flow."""
    async with house() as at:
        await at.service.apply(configuration(provider()))
        await at.bound()
        await at.bound()
        assert [target.flow_slug for target, _ in at.login.asked] == ["f"]
        await at.service.apply(configuration(provider(bind_flow_slug="other")))
        await at.bound()
        assert [target.flow_slug for target, _ in at.login.asked] == ["f", "other"]


async def test_a_provider_that_is_gone_ends_its_connections() -> None:
    """Nobody stays bound to nothing."""
    async with house() as at:
        await at.service.apply(configuration(provider()))
        _, paper = await at.bound()
        await at.service.apply(configuration())
        assert paper.acts == ["close"]
        assert len(at.service.cache) == 0


async def test_24_session_end_closes_every_connection_and_the_cached_bind() -> None:
    """Two connections of one cached session."""
    async with house() as at:
        await at.service.apply(configuration(provider()))
        papers = [(await at.bound())[1], (await at.bound())[1]]
        assert len(at.login.asked) == 1
        at.service.session_ended("f" * 64)
        assert [paper.acts for paper in papers] == [[], []]
        at.service.session_ended(f"{1:064d}")
        assert [paper.acts for paper in papers] == [["close"], ["close"]]
        await at.bound()
        assert len(at.login.asked) == 2


async def test_a_new_password_ends_cached_binds_but_no_connection() -> None:
    """The core sends no event for it: the load sees it."""
    async with house() as at:
        await at.service.apply(configuration(provider()))
        connection, paper = await at.bound()
        at.api.user_records[0]["password_change_date"] = "2031-01-01T00:00:00Z"
        await at.service.apply(configuration(provider()))
        assert len(at.service.cache) == 0
        assert entries(connection, paper) == 17


async def test_a_deactivated_user_is_out() -> None:
    """Cached bind and connections, also when the user was deleted."""
    for change in ("inactive", "deleted"):
        async with house() as at:
            await at.service.apply(configuration(provider()))
            _, paper = await at.bound()
            if change == "inactive":
                at.api.user_records[0]["is_active"] = False
            else:
                del at.api.user_records[0]
            await at.service.apply(configuration(provider()))
            assert len(at.service.cache) == 0
            assert paper.acts == ["close"]


async def test_a_long_absence_doubts_cached_binds() -> None:
    """They are asked again; while the core is away, the grace holds."""
    from common.outcomes import Reason, Unavailable

    async with house() as at:
        await at.service.apply(configuration(provider()))
        await at.bound()
        at.service.connection_lost_for(31.0)
        at.login.outcome = Unavailable(Reason.CORE_UNAVAILABLE)
        await at.bound()
        assert len(at.login.asked) == 2
        at.login.outcome = None
        await at.bound()
        await at.bound()
        assert len(at.login.asked) == 3


async def test_the_sealed_directory_serves_while_the_core_is_away(tmp_path: Path) -> None:
    """Written after a load, read at the next start; another token or other settings do not fit."""
    async with house(tmp_path) as at:
        await at.service.apply(configuration(provider()))
    api = Api()
    api.error = CoreUnavailable("GET /core/users/", "down")
    async with house(tmp_path, api) as at:
        await at.service.apply(configuration(provider()))
        assert at.service.not_ready() == []
        connection, paper = await at.bound()
        assert entries(connection, paper) == 17
    async with house(tmp_path, api) as at:
        await at.service.apply(configuration(provider(base_dn="dc=new")))
        assert at.service.not_ready() != []


async def test_the_flows_are_warmed_up() -> None:
    """Once at the start, each provider's."""
    async with house() as at:
        await at.service.apply(configuration(provider(1), provider(2, "dc=two")))
        await until(lambda: at.login.warmed == 2)


async def test_outpost_settings_take_effect_at_once() -> None:
    """``x_ldap_*`` of the outpost's config."""
    async with house() as at:
        await at.service.apply(configuration(provider(), x_ldap_strict=True, x_ldap_idle_timeout=7))
        connection, paper = await at.bound()
        assert entries(connection, paper, "dc=nowhere") == -32
        assert at.service.server.limits.idle_timeout == 7


def test_states_of_users() -> None:
    """What changed and who is gone; a record that cannot be read counts as gone."""

    def states(*records: dict[str, Any]) -> refresh.UserStates:
        return refresh.states_of([msgspec.Raw(msgspec.json.encode(record)) for record in records])

    one, two, three = ({"pk": pk, "is_active": True, "password_change_date": "2030"} for pk in (1, 2, 3))
    before = states(one, two, three)
    after = states(one | {"password_change_date": "2031"}, two | {"is_active": False}, {"pk": "no number"})
    assert before.changed(after) == {1, 2, 3}
    assert before.gone(after) == {2, 3}
    assert before.changed(before) == frozenset()
    assert states().gone(before) == frozenset()


async def test_a_directory_that_is_replaced_is_let_go_at_once() -> None:
    """However it was searched: a circle of references would keep its memory until the garbage collector comes by."""
    async with house() as at:
        await at.service.apply(configuration(provider()))
        connection, paper = await at.bound()
        old = weakref.ref(at.service.desk.providers.by_pk[1].snapshot)
        gc.disable()
        try:
            for attributes in ((), (b"cn",), (b"entryUUID", b"+")):
                for name in (b"alice", b"bob"):
                    request = search_operation(B, 2, f"(cn={name.decode()})", [one.decode() for one in attributes])
                    connection.received(message(7, request))
                    await until(lambda: paper.data)
                    assert len(paper.take()) == 3
            at.api.user_records[0]["name"] = "Renamed"
            await at.service.apply(configuration(provider()))
            await until(lambda: old() is None)
        finally:
            gc.enable()
