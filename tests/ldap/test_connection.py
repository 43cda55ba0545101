"""One connection above the socket: order, slices, rights, and that a broken part refuses one request only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from common.errors import CoreUnavailable
from outposts.ldap import connection as connection_module
from outposts.ldap import encoded
from outposts.ldap.connection import SLICE_REQUESTS
from outposts.ldap.messages import (
    AbandonRequest,
    AddRequest,
    CompareRequest,
    Control,
    DeleteRequest,
    ExtendedRequest,
    ModifyDNRequest,
    ModifyRequest,
    Request,
    SearchEntry,
    UnbindRequest,
)
from outposts.ldap.rfc import ControlOid, Extension
from tests.ldap.binds import ALICE, B, b, until
from tests.ldap.desks import Paper, Room, bind_request, bound, codes, connect, say, search_request


async def test_bind_then_search() -> None:
    """The usual conversation; row 44."""
    room = Room()
    connection, paper = await bound(room)
    say(connection, search_request())
    answers = paper.take()
    assert len([answer for answer in answers if isinstance(answer, SearchEntry)]) == 17
    assert answers[-1].code == 0  # type: ignore[union-attr]
    assert room.witness.seen == [("bind", 0), ("search", 0)]


async def test_what_comes_behind_a_bind_waits_for_it() -> None:
    """Pipelined: the search is answered with the right that the bind gives."""
    room = Room()
    connection, paper = connect(room)
    say(connection, bind_request(), search_request(2, text="(cn=alice)"), search_request(3, text="(cn=bob)"))
    assert paper.data == b""
    await until(lambda: paper.data.count(b"\x65") >= 2 or len(room.witness.seen) == 3)
    assert [answer.message_id for answer in paper.take()] == [1, 2, 2, 2, 3, 3, 3]


async def test_32_a_failed_bind_ends_the_right() -> None:
    """RFC 4513 §4: the connection is anonymous from the bind request on."""
    room = Room()
    connection, paper = await bound(room)
    say(connection, bind_request(2, password="no"))
    await until(lambda: paper.data)
    say(connection, search_request(3))
    assert codes(paper) == [49, 50]
    assert len(room.bound) == 0


@pytest.mark.parametrize(
    ("base", "scope", "code", "entries"), [("", 0, 0, 1), ("cn=subschema", 0, 0, 1), (b, 2, 50, 0)]
)
async def test_38_42_unbound(base: str, scope: int, code: int, entries: int) -> None:
    """Root DSE and schema are open, the directory answers 50, and the connection stays."""
    connection, paper = connect(Room())
    say(connection, search_request(1, base, scope))
    answers = paper.take()
    assert (len(answers) - 1, answers[-1].code) == (entries, code)  # type: ignore[union-attr]
    assert paper.acts == []


@pytest.mark.parametrize("base", ["garbage", "cn=a,,dc=io"])
async def test_49_a_base_that_is_no_dn(base: str) -> None:
    """34, bound or not."""
    room = Room()
    connection, paper = connect(room)
    say(connection, search_request(1, base))
    assert codes(paper) == [34]
    connection, paper = await bound(room)
    say(connection, search_request(2, base))
    assert codes(paper) == [34]


async def test_the_right_belongs_to_the_connection() -> None:
    """Two connections bound by one name: the one without the search right sees its own entries only."""
    room = Room()
    full, full_paper = await bound(room)
    room.login.may_search = False
    own, own_paper = await bound(room)
    for connection, paper, expected in ((full, full_paper, 17), (own, own_paper, 8)):
        say(connection, search_request())
        assert len(paper.take()) - 1 == expected


async def test_a_right_of_one_provider_is_none_at_another() -> None:
    """50 for the base of a provider that did not grant the bind, 0 and empty outside all."""
    from outposts.ldap.providers import Provider, Providers
    from tests.ldap.binds import settings

    room = Room()
    connection, paper = await bound(room)
    first = room.desk.providers.all[0]
    room.desk.providers = Providers([first, Provider(settings(2, "dc=other"))])
    say(connection, search_request(2, "cn=x,dc=other"), search_request(3, "dc=nowhere"))
    assert codes(paper) == [50, 0]
    room.desk.providers = Providers([Provider(settings(2, "dc=other"))])
    say(connection, search_request(4))
    assert codes(paper) == [50]


@pytest.mark.parametrize(
    ("control", "code"),
    [
        (Control("1.2.3", True, b"x"), 12),
        (Control("1.2.3", True), 12),
        (Control("1.2.3", False), 0),
        (Control(ControlOid.MANAGE_DSA_IT, True), 0),
    ],
)
async def test_73_74_critical_controls(control: Control, code: int) -> None:
    """What is critical and unknown is refused; ManageDsaIT is honoured: there are no referrals."""
    connection, paper = await bound(Room())
    say(connection, search_request(controls=(control,), scope=0))
    assert codes(paper) == [code]


async def test_72_a_server_without_directory_yet() -> None:
    """52 until the first load, never an empty success."""
    from dataclasses import replace

    from outposts.ldap.providers import Providers

    room = Room()
    connection, paper = await bound(room)
    room.desk.providers = Providers(replace(provider, snapshot=None) for provider in room.desk.providers)
    say(connection, search_request(), CompareRequest(3, ALICE.encode(), b"cn", b"alice"))
    assert codes(paper) == [52, 52]


COMPARES = [
    (ALICE, b"cn", b"ALICE", 6),
    (ALICE, b"cn", b"bob", 5),
    (ALICE, b"objectClass", b"person", 6),
    (ALICE, b"title", b"x", 16),
    (f"cn=zz,ou=users,{b}", b"cn", b"zz", 32),
    ("dc=other", b"cn", b"zz", 32),
    ("garbage", b"cn", b"zz", 34),
]


@pytest.mark.parametrize("mode", ["cached", "direct"])
@pytest.mark.parametrize(("name", "attribute", "value", "code"), COMPARES)
async def test_79_compare(mode: str, name: str, attribute: bytes, value: bytes, code: int) -> None:
    """True, false, no such attribute, no such entry, no DN."""
    connection, paper = await bound(Room(mode=mode))
    say(connection, CompareRequest(2, name.encode(), attribute, value))
    await until(lambda: paper.data)
    assert codes(paper) == [code]


WRITES: list[Request] = [
    AddRequest(2, ALICE.encode(), ()),
    ModifyRequest(2, ALICE.encode(), ()),
    DeleteRequest(2, ALICE.encode()),
    ModifyDNRequest(2, ALICE.encode(), b"cn=x", True),
]


@pytest.mark.parametrize("request_", WRITES, ids=lambda request: type(request).__name__)
async def test_79_nothing_is_written(request_: Request) -> None:
    """53 when bound, 50 when not; a compare of somebody unbound is 50 too."""
    connection, paper = await bound(Room())
    say(connection, request_)
    assert codes(paper) == [53]
    connection, paper = connect(Room())
    say(connection, request_, CompareRequest(3, ALICE.encode(), b"cn", b"alice"))
    assert codes(paper) == [50, 50]


async def test_80_who_am_i() -> None:
    """The authorization identity in the spelling of the entry."""
    connection, paper = await bound(Room(), name=f"CN=alice, ou=users,{B}")
    say(connection, ExtendedRequest(2, Extension.WHO_AM_I))
    answer: Any = paper.take()[0]
    assert (answer.code, answer.value) == (0, f"dn:{ALICE}".encode())


async def test_33_start_tls() -> None:
    """The answer goes out before TLS begins."""
    connection, paper = connect(Room())
    say(connection, ExtendedRequest(1, Extension.START_TLS))
    assert (codes(paper), paper.acts) == ([0], ["tls"])
    say(connection, ExtendedRequest(2, Extension.START_TLS))
    assert (codes(paper), paper.acts) == ([1], ["tls"])


async def test_clear_text_behind_start_tls_ends_the_connection() -> None:
    """It would be taken for encrypted: nothing of it is answered."""
    room = Room()
    connection, paper = connect(room)
    say(connection, ExtendedRequest(1, Extension.START_TLS), bind_request(2))
    assert ("tls" in paper.acts, "close" in paper.acts) == (False, True)
    assert room.login.asked == []


async def test_81_abandon() -> None:
    """An idle id: nothing. A search that asks the core: ended without an answer, its id is free again."""
    room = Room(mode="direct")
    connection, paper = await bound(room)
    room.core.gate = asyncio.Event()
    say(connection, AbandonRequest(2, 77), search_request(3))
    await until(lambda: room.core.asked)
    say(connection, AbandonRequest(4, 3))
    await until(lambda: connection.outstanding == 0)
    room.core.gate = None
    say(connection, search_request(3, text="(cn=alice)"))
    await until(lambda: paper.data)
    assert [answer.message_id for answer in paper.take()] == [3, 3, 3]
    assert paper.acts == []


async def test_searches_that_ask_the_core_run_beside_others() -> None:
    """A slow one does not hold up the next."""
    room = Room(mode="direct")
    connection, paper = await bound(room)
    room.core.gate = asyncio.Event()
    say(connection, search_request(2), search_request(3, "", 0))
    await until(lambda: paper.data)
    assert [answer.message_id for answer in paper.take()] == [3, 3]
    room.core.gate.set()
    await until(lambda: paper.data)
    assert paper.take()[-1].message_id == 2


async def test_a_bind_gives_up_what_is_in_progress() -> None:
    """RFC 4511 §4.2.1."""
    room = Room(mode="direct")
    connection, paper = await bound(room)
    room.core.gate = asyncio.Event()
    say(connection, search_request(2), bind_request(3))
    await until(lambda: paper.data)
    assert [answer.message_id for answer in paper.take()] == [3]


@pytest.mark.parametrize(
    ("error", "code"), [(CoreUnavailable("GET /x", "down"), 52), (RuntimeError("boom"), 80), (KeyError(), 80)]
)
async def test_85_a_direct_search_without_the_core(error: Exception, code: int) -> None:
    """52 when the core does not answer, 80 for a defect of ours; never an empty success."""
    room = Room(mode="direct")
    connection, paper = await bound(room)
    room.core.error = error
    say(connection, search_request(2))
    await until(lambda: paper.data)
    assert codes(paper) == [code]


def broken(*_: object, **__: object) -> Any:
    """A part with a defect."""
    raise RuntimeError("defect")


class BrokenChunks:
    """Entries that break off."""

    def __init__(self, good: int) -> None:
        self.good = good

    def __iter__(self) -> BrokenChunks:
        return self

    def __next__(self) -> bytes:
        self.good -= 1
        if self.good < 0:
            raise RuntimeError("defect")
        return b"\x30\x0a\x02\x01\x02\x64\x05\x04\x01x\x30\x00" * 6000


def break_chunks(good: int) -> Callable[[Room], None]:
    def apply(room: Room) -> None:
        from outposts.ldap.routing import Result
        from outposts.ldap.search import SearchAnswer

        room.desk.searches.begin = lambda *_: Result(SearchAnswer(0, BrokenChunks(good), 1))  # type: ignore[method-assign]

    return apply


def break_attribute(path: str) -> Callable[[Room], None]:
    def apply(room: Room) -> None:
        *way, last = path.split(".")
        target: Any = room.desk
        for name in way:
            target = getattr(target, name)
        setattr(target, last, broken)

    return apply


SEARCH, COMPARE, WHO = (
    search_request(2),
    CompareRequest(2, ALICE.encode(), b"cn", b"x"),
    ExtendedRequest(2, Extension.WHO_AM_I),
)
PORTS: list[tuple[str, Callable[[Room], None], Request]] = [
    ("search", break_attribute("searches.begin"), SEARCH),
    ("providers", break_attribute("providers"), SEARCH),
    ("first chunk", break_chunks(0), SEARCH),
    ("second chunk", break_chunks(1), SEARCH),
    ("third chunk", break_chunks(2), SEARCH),
    ("compare", break_attribute("searches.compare"), COMPARE),
    ("login", break_attribute("authenticator._login.login"), bind_request(2)),
    ("cache", break_attribute("authenticator._cache.digest"), bind_request(2)),
    ("authenticator", break_attribute("authenticator.bind"), bind_request(2)),
    ("clock", break_attribute("authenticator._now"), bind_request(2)),
    ("throttle", break_attribute("authenticator.throttle"), bind_request(2)),
    ("throttle's names", break_attribute("authenticator._attempt"), bind_request(2)),
]


@pytest.mark.parametrize(("apply", "request_"), [row[1:] for row in PORTS], ids=[row[0] for row in PORTS])
async def test_a_broken_part_refuses_one_request(apply: Callable[[Room], None], request_: Request) -> None:
    """80, never 0; this connection goes on and its neighbour never notices."""
    room = Room()
    neighbour, neighbour_paper = await bound(room)
    connection, paper = await bound(room)
    whole = dict(vars(room.desk)), dict(vars(room.desk.searches)), dict(vars(room.desk.authenticator))
    login, digest = room.login.login, room.cache.digest
    apply(room)
    say(connection, request_)
    await until(lambda: any(getattr(answer, "code", None) is not None for answer in _peek(paper)))
    assert codes(paper) == [80]
    vars(room.desk).update(whole[0])
    vars(room.desk.searches).clear()
    vars(room.desk.searches).update(whole[1])
    vars(room.desk.authenticator).clear()
    vars(room.desk.authenticator).update(whole[2])
    room.login.login, room.cache.digest = login, digest  # type: ignore[method-assign]
    say(neighbour, search_request(9, text="(cn=alice)"))
    assert codes(neighbour_paper) == [0]
    say(connection, bind_request(10))
    await until(lambda: paper.data)
    say(connection, search_request(11, text="(cn=alice)"))
    assert codes(paper) == [0, 0]


def _peek(paper: Paper) -> list[Any]:
    from tests.ldap.desks import responses

    return list(responses(paper.data))


async def test_a_broken_observer_costs_the_connection_at_most() -> None:
    """Answers are out before they are counted; the neighbour goes on."""
    room = Room()
    neighbour, neighbour_paper = await bound(room)
    connection, paper = await bound(room)
    room.witness.error = RuntimeError("defect")
    say(connection, search_request(2, text="(cn=alice)"))
    assert codes(paper)[0] == 0
    room.witness.error = None
    say(neighbour, search_request(3, text="(cn=alice)"))
    assert codes(neighbour_paper) == [0]


async def test_a_large_result_waits_for_a_client_that_does_not_read() -> None:
    """Nothing more is made while the wire is blocked; then the rest comes, and the connection reads on."""
    room = Room(extra_users=800)
    connection, paper = await bound(room)
    send = paper.send

    def send_and_block(data: bytes) -> None:
        send(data)
        if not connection.is_blocked:
            connection.blocked()

    paper.send = send_and_block  # type: ignore[method-assign]
    say(connection, search_request(2))
    sent = len(paper.data)
    assert sent > 0
    say(connection, search_request(3, text="(cn=alice)"))
    await asyncio.sleep(0)
    assert (len(paper.data), paper.acts[-1]) == (sent, "pause")
    paper.send = send  # type: ignore[method-assign]
    connection.unblocked()
    await until(lambda: connection.outstanding == 0)
    answers = paper.take()
    assert len([answer for answer in answers if answer.message_id == 2]) == 17 + 2 * 800 + 1
    assert answers[-1].message_id == 3
    assert paper.acts[-1] == "resume"


@pytest.mark.parametrize(("others_s", "per_turn"), [(0.0, 4), (0.002, 11), (1.0, 31)])
async def test_a_listing_takes_turns_by_what_others_need(others_s: float, per_turn: int) -> None:
    """With nobody else the shortest turns; half of what others used; never more than a slice."""
    room = Room(extra_users=3000)
    connection, paper = await bound(room)
    now = 100.0
    turns: list[int] = []

    def send(data: bytes) -> None:
        nonlocal now
        now += 0.0001  # what making and sending a chunk takes
        turns[-1] += 1

    turns.append(0)
    paper.send = send  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection_module, "time", SimpleNamespace(monotonic=lambda: now, perf_counter=lambda: now))
        patch.setattr(encoded, "CHUNK_SIZE", 2000)
        say(connection, search_request(2))
        while len(room.witness.seen) < 2:
            turns.append(0)
            now += others_s
            await asyncio.sleep(0)
    whole = [turn for turn in turns[1:] if turn][:-1]  # the first comes from nowhere, the last is what is left
    assert len(whole) > 3
    assert {abs(turn - per_turn) <= 1 for turn in whole} == {True}, whole


async def test_many_requests_in_one_read_are_served_in_slices() -> None:
    """Others get their turn in between, and the order stays."""
    connection, paper = await bound(Room())
    say(connection, *(search_request(number, b, 0) for number in range(10, 10 + 3 * SLICE_REQUESTS)))
    first = {answer.message_id for answer in paper.take()}
    assert len(first) == SLICE_REQUESTS
    await until(lambda: not connection._backlog)
    rest = [answer.message_id for answer in paper.take()]
    assert rest == sorted(rest)
    assert len(set(rest)) == 2 * SLICE_REQUESTS


async def test_24_session_end_finds_every_connection() -> None:
    """All connections of a session, and of a user; each is told and closed."""
    room = Room()
    room.login.gate = asyncio.Event()
    one, two = connect(room), connect(room)
    for connection, _ in (one, two):
        say(connection, bind_request())
    await until(lambda: room.login.asked)
    room.login.gate.set()
    await until(lambda: len(room.bound) == 2)
    other, other_paper = await bound(room)
    assert len(room.login.asked) == 2
    identity = one[0].identity
    assert identity is not None
    assert identity.session.session_id is not None
    assert set(room.bound.of_session(identity.session.session_id)) == {one[0], two[0]}
    assert set(room.bound.of_user(1)) == {one[0], two[0], other}
    from outposts.ldap.rfc import ResultCode

    for connection in room.bound.of_session(identity.session.session_id):
        connection.finish(ResultCode.UNAVAILABLE, "session ended")
    for _, paper in (one, two):
        assert paper.take()[-1].oid == Extension.NOTICE_OF_DISCONNECTION  # type: ignore[union-attr]
        assert paper.acts[-1] == "close"
    assert room.bound.of_session(identity.session.session_id) == []
    say(other, search_request(5, text="(cn=alice)"))
    assert codes(other_paper) == [0]


@pytest.mark.parametrize("leave", ["unbind", "rebind", "hang up"])
async def test_the_session_is_logged_out_when_its_connection_leaves(leave: str) -> None:
    """With an unbind flow: after unbind, another bind, or a lost connection."""
    room = Room()
    room.unbind_flow = "bye"
    connection, paper = await bound(room)
    if leave == "unbind":
        say(connection, UnbindRequest(2))
        assert paper.acts == ["close"]
        assert paper.take() == []
    elif leave == "rebind":
        say(connection, bind_request(2))
    connection_left = leave != "rebind"
    if connection_left:
        connection.lost()
    await until(lambda: room.login.logged_out)
    assert [session.session_id for session, _ in room.login.logged_out] == [f"{1:064d}"]


async def test_nothing_is_answered_after_the_end() -> None:
    """A bind under way when the client leaves binds nobody."""
    room = Room()
    room.login.gate = asyncio.Event()
    connection, paper = connect(room)
    say(connection, bind_request())
    await until(lambda: room.login.asked)
    connection.lost()
    room.login.gate.set()
    await asyncio.sleep(0.01)
    assert (paper.data, len(room.bound)) == (b"", 0)
