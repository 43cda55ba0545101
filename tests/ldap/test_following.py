"""Searches that follow a directory on connections: waking, stopping, limits, rights, and what the service tells."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from outposts.ldap.changes import compare
from outposts.ldap.connection import Connection
from outposts.ldap.directory import Snapshot
from outposts.ldap.messages import (
    AbandonRequest,
    CompareRequest,
    Control,
    ExtendedRequest,
    Response,
    SearchEntry,
    SearchRequest,
    UnbindRequest,
)
from outposts.ldap.providers import Provider, Providers
from outposts.ldap.rfc import ControlOid, Extension, ResultCode
from outposts.ldap.search import Viewer
from outposts.ldap.sync_wire import (
    PersistentSearch,
    SyncMode,
    SyncRequest,
    encode_cancel,
    encode_persistent_search,
    encode_sync_request,
)
from tests import factories
from tests.ldap.binds import ALICE, B, b, until
from tests.ldap.desks import (
    LIMITS,
    Paper,
    Room,
    bind_request,
    calling,
    connect,
    directory,
    say,
    search_request,
    serving,
)
from tests.ldap.replica import Replica, truth
from tests.ldap.test_service import configuration, house, provider

RO, RP = SyncMode.REFRESH_ONLY, SyncMode.REFRESH_AND_PERSIST
FULL = Viewer(1, True)


class Office(Room):
    """A room whose directory can be followed and changed."""

    def __init__(self, **what: Any) -> None:
        super().__init__(**what)
        self.offer()

    @property
    def snapshot(self) -> Snapshot:
        """The directory in service."""
        found = self.desk.providers.all[0].snapshot
        assert found is not None
        return found

    def offer(self) -> None:
        """As the service does it, without the thread."""
        feeds = self.desk.searches.feeds
        waiting, orphans = feeds.offer({one.pk: one.snapshot for one in self.desk.providers if one.snapshot})
        for feed in waiting:
            newer, feed.offered = feed.offered, None
            assert newer is not None
            for follower in feed.publish(newer, compare(feed.snapshot, newer)):
                follower.wake()
        for follower in orphans:
            follower.wake()

    def change(self, number: int = 0) -> None:
        """One user more, or one that is another, in service."""
        users, groups = directory()
        users.append(raw(factories.user(900, f"new{number}")))
        old = self.desk.providers.all[0]
        newer = Snapshot.build(self.snapshot.options, users, groups, self.snapshot)
        self.desk.providers = Providers([replace(old, snapshot=newer)])
        self.offer()


def raw(record: dict[str, Any]) -> Any:
    """As the core lists it."""
    import msgspec

    return msgspec.Raw(msgspec.json.encode(record))


def sync(mode: SyncMode = RP, *, critical: bool = True) -> Control:
    """The request control, without cookie."""
    return Control(ControlOid.SYNC_REQUEST, critical, encode_sync_request(SyncRequest(mode)))


def persistent(*, critical: bool = True) -> Control:
    """Everything from now on."""
    return Control(ControlOid.PERSISTENT_SEARCH, critical, encode_persistent_search(PersistentSearch(15, True, True)))


async def bound(room: Room, **what: Any) -> tuple[Connection, Paper]:
    """A connection that is bound."""
    connection, paper = connect(room)
    say(connection, bind_request(**what))
    await until(lambda: paper.data)
    assert paper.take()[-1].code == 0  # type: ignore[union-attr]
    return connection, paper


async def heard(connection: Connection, paper: Paper) -> list[Response]:
    """What was written, when everything that is due is."""
    await until(lambda: connection.outstanding == 0)
    return paper.take()


def cancel(message_id: int, wanted: int) -> ExtendedRequest:
    """RFC 3909."""
    return ExtendedRequest(message_id, Extension.CANCEL, encode_cancel(wanted))


def ends(messages: list[Response]) -> list[tuple[int, int]]:
    """(message id, code) of each final answer."""
    return [(one.message_id, int(one.code)) for one in messages if hasattr(one, "code")]


# -- the persist stage on a connection -------------------------------------------------------------------------------


async def test_a_replica_over_a_connection() -> None:
    """Refresh, change, change; the connection serves other requests meanwhile and owes nothing."""
    room, replica = Office(), Replica()
    connection, paper = await bound(room)
    request = search_request(2, B, 2, controls=(replica.control(RP),))
    say(connection, request)
    replica.hear(await heard(connection, paper))
    assert replica.content == truth(room.snapshot, request, FULL)
    assert (connection.outstanding, connection.following) == (0, 1)
    for number in range(2):
        room.change(number)
        replica.hear(await heard(connection, paper))
        assert replica.content == truth(room.snapshot, request, FULL)
        say(connection, search_request(7, ALICE, 0))
        assert ends(await heard(connection, paper)) == [(7, 0)]
    room.offer()
    assert paper.data == b""


async def test_refresh_only_ends_with_its_control() -> None:
    """The next one, with the cookie, is empty."""
    room, replica = Office(), Replica()
    connection, paper = await bound(room)
    for expected in ({"add": 17}, {}):
        say(connection, search_request(2, B, 2, controls=(replica.control(RO),)))
        replica.hear(await heard(connection, paper))
        assert (replica.code, replica.counts) == (0, expected)
    assert connection.following == 0
    assert room.witness.seen[-2:] == [("search", 0)] * 2


async def test_persistent_search_over_a_connection() -> None:
    """Nothing at first, then the new user and its group."""
    room = Office()
    connection, paper = await bound(room)
    say(connection, search_request(2, B, 2, "(cn=new0)", controls=(persistent(),)))
    assert paper.data == b""
    room.change()
    assert [type(message) for message in (await heard(connection, paper))] == [SearchEntry, SearchEntry]


@pytest.mark.parametrize("how", ["abandon", "cancel", "bind", "unbind", "lost", "finish"])
async def test_every_way_to_stop(how: str) -> None:
    """Nothing comes afterwards, and nobody is left on the feed's list."""
    room = Office()
    connection, paper = await bound(room)
    say(connection, search_request(2, B, 2, controls=(sync(),)))
    assert len(room.desk.searches.feeds) == 1
    (await heard(connection, paper))
    if how == "abandon":
        say(connection, AbandonRequest(3, 2))
        assert paper.data == b""
    elif how == "cancel":
        say(connection, cancel(3, 2))
        assert ends(await heard(connection, paper)) == [(2, ResultCode.CANCELED), (3, 0)]
    elif how == "bind":
        say(connection, bind_request(3))
        await until(lambda: paper.data)
        assert ends(await heard(connection, paper)) == [(3, 0)]
    elif how == "unbind":
        say(connection, UnbindRequest(3))
        connection.lost()
    elif how == "lost":
        connection.lost()
    else:
        connection.finish(ResultCode.UNAVAILABLE, "session ended")
        assert ends(await heard(connection, paper)) == [(0, ResultCode.UNAVAILABLE)]
        connection.lost()
    assert len(room.desk.searches.feeds) == 0
    assert connection.following == 0
    room.change()
    assert paper.data == b""


async def test_the_message_id_of_a_stopped_search_is_free() -> None:
    """RFC 4511 §4.1.1.1."""
    room = Office()
    connection, paper = await bound(room)
    for _ in range(3):
        say(connection, search_request(2, B, 2, controls=(sync(),)))
        say(connection, cancel(3, 2))
    assert ends(await heard(connection, paper)) == [(2, ResultCode.CANCELED), (3, 0)] * 3


async def test_a_client_that_does_not_read_gets_the_latest_when_it_does() -> None:
    """While it is blocked nothing is made; afterwards all changes come as one."""
    room, replica = Office(), Replica()
    connection, paper = await bound(room)
    request = search_request(2, B, 2, controls=(replica.control(RP),))
    say(connection, request)
    replica.hear(await heard(connection, paper))
    connection.blocked()
    for number in range(3):
        room.change(number)
    assert paper.data == b""
    replica.counts.clear()
    connection.unblocked()
    replica.hear(await heard(connection, paper))
    assert replica.content == truth(room.snapshot, request, FULL)
    assert replica.counts == {"add": 2}


async def test_a_large_refresh_takes_turns_and_can_be_stopped() -> None:
    """It is a stream like any large result."""
    room = Office(extra_users=3000)
    connection, paper = await bound(room)
    connection.blocked()
    say(connection, search_request(2, B, 2, controls=(sync(),)))
    assert (paper.data, connection.outstanding, connection.following) == (b"", 1, 1)
    say(connection, cancel(3, 2))
    assert ends(await heard(connection, paper)) == [(2, ResultCode.CANCELED), (3, 0)]
    assert (connection.outstanding, len(room.desk.searches.feeds)) == (0, 0)
    connection.unblocked()
    assert paper.data == b""


async def test_a_search_that_breaks_down_stops_following() -> None:
    """80, once."""
    room = Office()
    connection, paper = await bound(room)
    say(connection, search_request(2, B, 2, controls=(sync(),)))
    (await heard(connection, paper))
    feed = room.desk.searches.feeds.of(1)
    assert feed is not None
    feed.log.since = None  # type: ignore[method-assign,assignment]
    room.change()
    assert ends(await heard(connection, paper)) == [(2, ResultCode.OTHER)]
    assert len(room.desk.searches.feeds) == 0


# -- limits ----------------------------------------------------------------------------------------------------------


async def test_limits_of_a_connection_and_of_the_process() -> None:
    """11 beyond them; refreshes that end are not counted."""
    room = Office()
    room.desk.max_followers = 2
    room.desk.searches.feeds.max_followers = 3
    first, paper = await bound(room)
    for number in range(3):
        say(first, search_request(2 + number, ALICE, 0, controls=(sync(),)))
    assert ends(await heard(first, paper)) == [(4, ResultCode.ADMIN_LIMIT_EXCEEDED)]
    say(first, search_request(9, ALICE, 0, controls=(sync(RO),)))
    assert ends(await heard(first, paper)) == [(9, 0)]
    second, paper = await bound(room)
    for number in range(2):
        say(second, search_request(2 + number, ALICE, 0, controls=(persistent(),)))
    assert ends(await heard(second, paper)) == [(3, ResultCode.ADMIN_LIMIT_EXCEEDED)]
    first.lost()
    say(second, search_request(4, ALICE, 0, controls=(persistent(),)))
    assert ends(await heard(second, paper)) == []


async def test_waiting_searches_do_not_use_up_requests() -> None:
    """Reading goes on whatever follows."""
    room = Office()
    room.desk.max_requests = 1
    connection, paper = await bound(room)
    say(connection, search_request(2, ALICE, 0, controls=(sync(),)), search_request(3, ALICE, 0))
    await until(lambda: ends(paper.take()) == [(3, 0)])
    assert paper.acts.count("pause") == paper.acts.count("resume")


async def test_a_connection_that_follows_is_not_idle() -> None:
    """Others are hung up on; this one waits for changes. Draining ends it."""
    room = Office()
    limits = replace(LIMITS, idle_timeout=0.0)
    async with serving(room, limits=limits) as (server, port), calling(port) as silent, calling(port) as follower:
        await silent.bind()
        await follower.bind()
        await follower.ask(search_request(2, ALICE, 0, controls=(sync(),)))
        assert await silent.closed() == b""
        assert len(room.desk.searches.feeds) == 1
        await server.drain(5)
        assert await follower.closed()
        assert len(room.desk.searches.feeds) == 0


# -- where there is nothing to follow, and who may -------------------------------------------------------------------


@pytest.mark.parametrize("control", [sync, persistent])
async def test_direct_mode_refuses_what_is_critical(control: Any) -> None:
    """12; not critical, it is an ordinary search."""
    room = Room(mode="direct")
    connection, paper = await bound(room)
    say(connection, search_request(2, B, 2, controls=(control(),)))
    assert ends(await heard(connection, paper)) == [(2, ResultCode.UNAVAILABLE_CRITICAL_EXTENSION)]
    say(connection, search_request(3, B, 2, controls=(control(critical=False),)))
    await until(lambda: paper.data)
    messages = await heard(connection, paper)
    assert ends(messages) == [(3, 0)]
    assert len(messages) == 18
    assert all(message.controls == () for message in messages)


@pytest.mark.parametrize(
    ("controls", "base", "code"),
    [
        ((sync(),), "", 12),
        ((sync(critical=False),), "", 0),
        ((sync(),), "cn=subschema", 12),
        ((sync(),), "dc=elsewhere", 12),
        ((sync(),), "no dn", 34),
        ((sync(RO),), f"cn=nobody,ou=users,{b}", 0),
        ((sync(), persistent()), b, 53),
        ((sync(), Control(ControlOid.PAGED_RESULTS, True, b"\x30\x05\x02\x01\x05\x04\x00")), b, 53),
        ((sync(), Control("1.2.3", True)), b, 12),
        ((sync(RO), Control(ControlOid.MANAGE_DSA_IT, True)), b, 0),
        ((Control(ControlOid.SYNC_REQUEST, False, b"\x30\x00"),), b, 2),
        ((Control(ControlOid.PERSISTENT_SEARCH, True, None),), b, 2),
    ],
)
async def test_what_is_refused(controls: tuple[Control, ...], base: str, code: int) -> None:
    """Bases without a directory, controls that exclude each other, broken values; the connection stays."""
    room = Office()
    connection, paper = await bound(room)
    say(connection, search_request(2, base, 0, controls=controls))
    assert ends(await heard(connection, paper)) == [(2, code)]
    assert len(room.desk.searches.feeds) == 0
    assert paper.acts == []


async def test_strict_mode_says_that_there_is_no_such_base() -> None:
    """32 with the nearest entry above."""
    room = Office(extra={"strict": True})
    connection, paper = await bound(room)
    say(connection, search_request(2, f"cn=nobody,ou=users,{b}", 2, controls=(sync(),)))
    (answer,) = await heard(connection, paper)
    assert (answer.code, answer.matched_dn.lower()) == (32, f"ou=users,{b}".encode())  # type: ignore[union-attr]


async def test_nobody_follows_without_a_bind_or_elsewhere() -> None:
    """50, as for any search."""
    room = Office()
    connection, paper = connect(room)
    for control in (sync(), sync(critical=False)):
        say(connection, search_request(2, B, 2, controls=(control,)))
        assert ends(await heard(connection, paper)) == [(2, 50)]
    connection, paper = await bound(room)
    from tests.ldap.binds import settings

    room.desk.providers = Providers([room.desk.providers.all[0], Provider(settings(2, "dc=other"))])
    say(connection, search_request(2, "dc=other", 2, controls=(sync(),)))
    assert ends(await heard(connection, paper)) == [(2, 50)]


async def test_a_viewer_without_the_search_right_follows_what_it_sees() -> None:
    """The others' changes are no news."""
    room, replica = Office(), Replica()
    room.login.may_search = False
    connection, paper = await bound(room)
    request = search_request(2, B, 2, controls=(replica.control(RP),))
    say(connection, request)
    replica.hear(await heard(connection, paper))
    assert replica.content == truth(room.snapshot, request, Viewer(1, False))
    assert replica.counts == {"add": 8}
    room.change()
    assert paper.data == b""


async def test_before_the_first_load() -> None:
    """52."""
    room = Office()
    room.desk.providers = Providers([replace(room.desk.providers.all[0], snapshot=None)])
    room.offer()
    connection, paper = await bound(room)
    say(connection, search_request(2, B, 2, controls=(sync(),)))
    assert ends(await heard(connection, paper)) == [(2, ResultCode.UNAVAILABLE)]


@pytest.mark.parametrize(("mode", "there"), [("cached", True), ("direct", False)])
async def test_advertised_where_it_works(mode: str, there: bool) -> None:
    """supportedControl of a direct provider names none of them; Cancel works everywhere."""
    connection, paper = await bound(Room(mode=mode))
    say(connection, search_request(2, "", 0))
    entry = (await heard(connection, paper))[0]
    assert isinstance(entry, SearchEntry)
    values = {item.description: set(item.values) for item in entry.attributes}
    for oid in (ControlOid.SYNC_REQUEST, ControlOid.PERSISTENT_SEARCH):
        assert (oid.encode() in values[b"supportedControl"]) is there
    assert len(values[b"supportedControl"]) > 3
    assert Extension.CANCEL.encode() in values[b"supportedExtension"]


# -- Cancel ----------------------------------------------------------------------------------------------------------


async def test_cancel_of_searches_and_compares_that_wait_for_the_core() -> None:
    """118 for the one, success for Cancel; the core's answer comes too late."""
    room = Room(mode="direct")
    room.core.gate = asyncio.Event()
    connection, paper = await bound(room)
    say(connection, search_request(2, ALICE, 0), CompareRequest(3, ALICE.encode(), b"cn", b"alice"))
    say(connection, cancel(4, 2), cancel(5, 3), cancel(6, 2))
    assert ends(await heard(connection, paper)) == [
        (2, 118),
        (4, 0),
        (3, 118),
        (5, 0),
        (6, ResultCode.NO_SUCH_OPERATION),
    ]
    room.core.gate.set()
    await until(lambda: connection.outstanding == 0)
    assert paper.data == b""


async def test_a_request_that_is_given_up_before_it_began_leaves_nothing() -> None:
    """Search and abandon in one piece: neither is answered, and the request counts no more."""
    room = Room(mode="direct")
    connection, paper = await bound(room)
    say(connection, search_request(2, ALICE, 0), AbandonRequest(3, 2))
    await until(lambda: connection.outstanding == 0)
    say(connection, search_request(2, ALICE, 0), cancel(3, 2))
    await until(lambda: connection.outstanding == 0)
    assert ends(await heard(connection, paper)) == [(2, 118), (3, 0)]
    assert room.core.asked == 0


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (encode_cancel(99), ResultCode.NO_SUCH_OPERATION),
        (encode_cancel(5), ResultCode.CANNOT_CANCEL),
        (None, ResultCode.PROTOCOL_ERROR),
        (b"", ResultCode.PROTOCOL_ERROR),
        (b"\x30\x03\x02\x01\xff", ResultCode.PROTOCOL_ERROR),
    ],
)
async def test_cancel_of_nothing(value: bytes | None, code: ResultCode) -> None:
    """An unknown id, its own, none."""
    connection, paper = await bound(Room())
    say(connection, ExtendedRequest(5, Extension.CANCEL, value))
    assert ends(await heard(connection, paper)) == [(5, code)]


# -- the service -----------------------------------------------------------------------------------------------------


async def followed(request: SearchRequest, connection: Connection, paper: Paper, replica: Replica) -> None:
    """Start following, and hear the refresh."""
    say(connection, request)
    await until(lambda: paper.data)
    replica.hear(await heard(connection, paper))
    assert replica.refreshed


async def test_the_service_tells_followers_what_a_load_changed() -> None:
    """Compared after the swap, told in turn; the cookie survives a restart with the state folder."""
    async with house() as at:
        await at.service.apply(configuration(provider()))
        connection, paper = await at.bound()
        replica = Replica()
        request = search_request(2, B, 2, controls=(replica.control(RP),))
        await followed(request, connection, paper, replica)
        at.api.user_records.append(factories.user(77, "zoe"))
        await at.service.apply(configuration(provider()))
        await until(lambda: paper.data)
        replica.hear(await heard(connection, paper))
        (only,) = at.service.desk.providers
        assert only.snapshot is not None
        assert replica.content == truth(only.snapshot, request, FULL)
        # the provider is asked directly from now on
        await at.service.apply(configuration(provider(search_mode="direct")))
        replica.hear(await heard(connection, paper))
        assert replica.code == ResultCode.SYNC_REFRESH_REQUIRED


async def test_cookies_survive_a_restart(tmp_path: Any) -> None:
    """From the sealed directory, and after the load that follows it when nothing changed."""
    replica = Replica()
    expected: list[dict[str, int]] = [{"add": 17}, {}]
    for counts in expected:
        async with house(tmp_path) as at:
            await at.service.apply(configuration(provider()))
            connection, paper = await at.bound()
            say(connection, search_request(2, B, 2, controls=(replica.control(RO),)))
            replica.hear(await heard(connection, paper))
            assert (replica.code, replica.counts) == (0, counts)
            await at.service.apply(configuration(provider()))
            say(connection, search_request(2, B, 2, controls=(replica.control(RO),)))
            replica.hear(await heard(connection, paper))
            assert (replica.code, replica.counts) == (0, {})


async def test_a_comparison_that_breaks_down_makes_followers_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """4096, never silence."""
    async with house() as at:
        await at.service.apply(configuration(provider()))
        connection, paper = await at.bound()
        replica = Replica()
        await followed(search_request(2, B, 2, controls=(replica.control(RP),)), connection, paper, replica)

        def broken(*_: object) -> None:
            raise RuntimeError("a defect of ours")

        monkeypatch.setattr("outposts.ldap.service.comparing", broken)
        at.api.user_records.append(factories.user(77, "zoe"))
        await at.service.apply(configuration(provider()))
        await until(lambda: paper.data)
        replica.hear(await heard(connection, paper))
        assert replica.code == ResultCode.SYNC_REFRESH_REQUIRED


async def test_limits_come_from_settings() -> None:
    """Of the outpost's configuration."""
    async with house() as at:
        await at.service.apply(
            configuration(
                provider(), x_ldap_max_followers=7, x_ldap_max_followers_per_connection=3, x_ldap_sync_history=5
            )
        )
        feeds = at.service.desk.searches.feeds
        assert (feeds.max_followers, at.service.desk.max_followers, feeds.keep) == (7, 3, 5)
