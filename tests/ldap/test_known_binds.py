"""Binds that are known by their octets: answered as the cache would, and only as long as it would."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import logs
from common.outcomes import Denied
from outposts.ldap import auth
from outposts.ldap.client_wire import encode_request
from outposts.ldap.connection import Connection
from outposts.ldap.messages import Control
from outposts.ldap.observe import Observations, lines
from outposts.ldap.prepared import bind_success, whole_bind
from outposts.ldap.providers import Provider, Providers
from outposts.ldap.rfc import ControlOid, ResultCode
from outposts.ldap.session import State
from outposts.ldap.wire import encode_bind_response
from tests.ldap.binds import ALICE, settings, until
from tests.ldap.desks import Paper, Room, bind_request, bound, codes, connect, say, search_request


async def known(**fields: Any) -> tuple[Room, Connection, Paper]:
    """A room in which alice's bind is known by its octets, and a connection bound as her."""
    room = Room(bind_mode="cached", **fields)
    connection, paper = await bound(room)
    say(connection, bind_request(2))  # answered by the cache, and noted
    assert codes(paper) == [0]
    assert room.witness.seen[-1] == ("bind", 0)
    say(connection, bind_request(3))
    assert codes(paper) == [0]
    assert room.witness.seen[-1] == ("known bind", 0)
    assert len(room.login.asked) == 1
    return room, connection, paper


@pytest.mark.parametrize("message_id", [1, 127, 128, 300, 70_000, 2**31 - 1])
async def test_the_answer_is_the_general_one(message_id: int) -> None:
    """Octet for octet, and the connection is bound as the same user; on a new connection as well."""
    room, connection, paper = await known()
    fresh, fresh_paper = connect(room)
    for one, its_paper in ((connection, paper), (fresh, fresh_paper)):
        say(one, bind_request(message_id))
        assert its_paper.data == encode_bind_response(message_id, ResultCode.SUCCESS)
        its_paper.take()
        assert one.session.state is State.BOUND
        assert one.identity is not None
        assert one.identity.username == "alice"
        assert one in room.bound.of_user(one.identity.user_pk)
        say(one, search_request(9, text="(cn=alice)"))
        assert codes(its_paper) == [0]
    assert len(room.login.asked) == 1
    if message_id not in (128,):  # 0x0080: the general way looks at such ids
        assert ("known bind", 0) in room.witness.seen[-4:]


@pytest.mark.parametrize(
    "changed",
    [
        {"password": "pW"},
        {"password": "pw "},
        {"password": ""},
        {"name": ALICE.replace("alice", "alicf")},
    ],
    ids=["password", "longer", "empty", "name"],
)
async def test_other_octets_are_another_bind(changed: dict[str, str]) -> None:
    """One octet differs: the general way decides, which asks the core or refuses; the former identity is gone."""
    room, connection, paper = await known()
    room.login.outcome = Denied("invalid_credentials")
    say(connection, bind_request(4, **changed))
    await until(lambda: paper.data)
    assert codes(paper)[0] != 0
    assert connection.identity is None
    assert connection.session.state is State.UNBOUND


def end_session(room: Room, identity: Any) -> None:
    """The core says that the session ended."""
    room.cache.end_session(identity.session.session_id)


def end_user(room: Room, identity: Any) -> None:
    """The user's password changed."""
    room.cache.end_user(identity.user_pk)


def end_provider(room: Room, identity: Any) -> None:
    """The provider changed."""
    room.cache.end_provider(identity.provider_pk)


def doubt(room: Room, identity: Any) -> None:
    """News may have been missed."""
    room.cache.doubt_all(room.now)


def age(room: Room, identity: Any) -> None:
    """The cache's time is over."""
    room.now += 301


def refuse(room: Room, identity: Any) -> None:
    """Another connection's run of the flow was refused."""
    for shelf in list(room.cache._shelves.values()):
        for digest in list(shelf.entries):
            room.cache.refused(identity.provider_pk, digest)


def new_providers(room: Room, identity: Any) -> None:
    """A refresh brought a provider without cached binds."""
    room.desk.providers = Providers([Provider(settings(search_mode="cached", bind_mode="direct"))])


def more_specific(room: Room, identity: Any) -> None:
    """A refresh brought a provider whose base DN is nearer: the name means another user now."""
    nearer = settings(2, base_dn="ou=users,DC=ldap,DC=goauthentik,DC=io")
    room.desk.providers = Providers([*room.desk.providers.all, Provider(nearer)])


@pytest.mark.parametrize(
    "end",
    [end_session, end_user, end_provider, doubt, age, refuse, new_providers, more_specific],
    ids=lambda f: f.__name__,
)
async def test_what_ends_the_cached_bind_ends_this(end: Callable[[Room, Any], None]) -> None:
    """The next bind with the same octets is not answered by them; what the core refuses then is refused."""
    room, connection, paper = await known()
    end(room, connection.identity)
    room.login.outcome = Denied("invalid_credentials")
    say(connection, bind_request(4))
    await until(lambda: paper.data)
    assert codes(paper) == [49]
    assert len(room.login.asked) == 2


async def test_guesses_lead_back_to_the_general_way() -> None:
    """An account that has to wait at this address waits; a success before that forgives what was mistyped."""
    room, connection, paper = await known()
    room.login.outcome = Denied("invalid_credentials")
    other, other_paper = connect(room)
    seen = []
    for number in range(20):
        if number in (1, 2):
            say(connection, bind_request(6))
            assert codes(paper) == [0]
            assert room.witness.seen[-1] == ("known bind", 0)
        say(other, bind_request(5, password=f"guess {number}"))
        await until(lambda: other_paper.data)
        seen += codes(other_paper)
    assert seen[0] == 49
    assert seen[-1] == ResultCode.BUSY
    say(connection, bind_request(6))
    assert codes(paper) == [ResultCode.BUSY]
    assert room.witness.seen[-1] == ("bind", ResultCode.BUSY)
    elsewhere = Paper()
    far = Connection(room.desk, elsewhere, "10.9.9.9", encrypted=False, listener="ldap")
    say(far, bind_request(1))
    assert codes(elsewhere) == [0]


async def test_clear_text_is_not_answered_for_what_was_encrypted() -> None:
    """With ``require_tls`` the octets of an encrypted bind mean nothing on a connection in the clear."""
    room = Room(bind_mode="cached", extra={"require_tls": True})

    async def tried(encrypted: bool) -> list[int]:
        paper = Paper()
        connection = Connection(room.desk, paper, "10.1.2.3", encrypted=encrypted, listener="ldap")
        seen = []
        for number in range(3):
            say(connection, bind_request(number + 1))
            await until(lambda: paper.data)
            seen += codes(paper)
        return seen

    assert await tried(True) == [0, 0, 0]
    assert await tried(False) == [13, 13, 13]
    assert room.witness.seen.count(("known bind", 0)) == 1


async def test_not_beside_other_messages() -> None:
    """Two in one piece, a part, and a bind with a control go the general way, with the same result."""
    room, connection, paper = await known()
    say(connection, bind_request(4), search_request(5, text="(cn=alice)"))
    await until(lambda: len(paper.data) > 100)
    assert codes(paper) == [0, 0]
    data = encode_request(bind_request(6))
    connection.received(data[:10])
    assert paper.data == b""
    connection.received(data[10:])
    assert codes(paper) == [0]
    who = Control(ControlOid.AUTHORIZATION_IDENTITY_REQUEST, False, None)
    request = bind_request(7)
    data = encode_request(type(request)(7, 3, request.name, request.authentication, (who,)))
    connection.received(data)
    assert len(paper.data) > len(bind_success(b"\x02\x01\x07"))
    assert codes(paper) == [0]
    assert [kind for kind, _ in room.witness.seen].count("known bind") == 1


async def test_an_operation_in_progress_is_given_up_first() -> None:
    """RFC 4511 §4.2.1: with a search under way the general way abandons it."""
    room, connection, paper = await known()
    connection.session._operations.add(99)
    say(connection, bind_request(4))
    assert codes(paper) == [0]
    assert not connection.session.operations
    assert room.witness.seen[-1] == ("bind", 0)


async def test_the_former_session_is_logged_out_when_nobody_rests_on_it() -> None:
    """A direct bind's session ends when a known bind takes its place."""
    room, connection, paper = await known()
    room.unbind_flow = "bye"
    say(connection, bind_request(4, name=ALICE.replace("alice", "bob")))
    await until(lambda: paper.data)
    assert codes(paper) == [0]
    bob = connection.identity
    assert bob is not None
    room.cache.end_user(bob.user_pk) if bob.user_pk != 1 else None
    say(connection, bind_request(5))
    assert codes(paper) == [0]
    assert room.witness.seen[-1] == ("known bind", 0)
    assert connection.identity is not bob
    assert list(room.bound.of_user(1)) == [connection]


async def test_room_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many users leave a bounded memo."""
    monkeypatch.setattr(auth, "MAX_BINDS_KNOWN", 3)
    room = Room(bind_mode="cached")
    connection, paper = connect(room)
    for number in range(20):
        for _ in range(3):
            say(connection, bind_request(1, name=ALICE.upper()[: 4 + number % 3] + ALICE[4 + number % 3 :]))
            await until(lambda: paper.data)
            assert codes(paper) == [0]
            assert len(room.desk.providers.binds) <= 3


async def test_a_defect_is_not_the_clients_business(monkeypatch: pytest.MonkeyPatch) -> None:
    """When recognising breaks, the general way answers."""
    room, connection, paper = await known()

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("defect")

    monkeypatch.setattr(room.desk.authenticator, "octets", broken)
    say(connection, bind_request(4))
    assert codes(paper) == [0]
    room.witness.error = RuntimeError("defect")
    monkeypatch.undo()
    say(connection, bind_request(5))
    assert codes(paper) == [0]


async def test_one_line_without_the_password() -> None:
    """The log line is the general one."""
    room, connection, paper = await known()
    room.desk.observer = Observations()
    written = io.StringIO()
    logs.configure("info", stream=written)
    say(connection, bind_request(4))
    assert codes(paper) == [0]
    lines.write()
    logs.configure("info")
    line = json.loads(written.getvalue().splitlines()[-1])
    assert line["event"] == "bind"
    assert line["bindDN"] == ALICE.lower()
    assert line["cached"] is True
    assert line["result"] == "success"
    assert "pw" not in line.values()


@given(st.binary(max_size=60))
def test_whole_bind_never_raises(noise: bytes) -> None:
    """Anything may arrive; what is found reaches to the end."""
    whole_bind(noise)
    data = bytearray(encode_request(bind_request(5)))
    for octet in noise[:5]:
        data[octet % 12] = octet
    at, behind = whole_bind(bytes(data))
    if behind:
        assert data[behind] == 0x60
        assert 2 <= at < behind < len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        encode_request(bind_request(5))[:-1],
        encode_request(bind_request(5)) + b"0",
        encode_request(bind_request(0)),
    ],
)
def test_whole_bind_wants_one(data: bytes) -> None:
    """Parts, more than one, and an id of zero are for the general way."""
    assert whole_bind(data) == (0, 0)
