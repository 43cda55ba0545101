"""Prepared searches answer with the very octets of the general way, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outposts.ldap import prepared
from outposts.ldap.client_wire import encode_request
from outposts.ldap.directory import Snapshot
from outposts.ldap.filter_text import parse_text
from outposts.ldap.messages import Control, Request, SearchRequest
from outposts.ldap.prepared import MAX_PREPARED, MAX_TRIES, PreparedSearches
from outposts.ldap.search import Viewer, run
from outposts.ldap.wire import decode_request, encode_result
from tests.ldap.desks import Room, bound, codes, say, search_request
from tests.ldap.fixture import ALICE_ONLY, BASE, FULL, snapshot

b = BASE.lower()
NAMES = ["alice", "ALICE", "bob", "svc", "Carol, X", "dave(1)*", "nobody", "ga", "gc", "8000", "2001", "xx", "Mül"]


@pytest.fixture(scope="module")
def directory() -> Snapshot:
    return snapshot()


def escaped(value: str) -> str:
    """A value as it stands in the text of a filter."""
    return "".join(f"\\{octet:02x}" for octet in value.encode())


def question(text: str, message_id: int = 5, **fields: object) -> bytes:
    """The octets of a search."""
    usual: dict[str, object] = {
        "message_id": message_id,
        "base": b.encode(),
        "scope": 2,
        "deref": 0,
        "size_limit": 0,
        "time_limit": 0,
        "types_only": False,
        "filter": parse_text(text),
    }
    return encode_request(SearchRequest(**(usual | fields)))  # type: ignore[arg-type]


def decoded(data: bytes) -> SearchRequest:
    """The same, decoded."""
    request: Request = decode_request(data)
    assert isinstance(request, SearchRequest)
    return request


def general(seen: Snapshot, request: SearchRequest) -> bytes:
    """The answer of the general way, done message included."""
    answer = run(seen, request, FULL)
    return b"".join(answer.chunks) + encode_result(request.message_id, 0x65, answer.final_code)


def asked(known: PreparedSearches, data: bytes) -> tuple[bytes, int] | None:
    """The answer, by taking the message apart and by the outline that this leaves behind: the same."""
    first = known.reply(data)
    assert known.reply(data) == first
    return first


SHAPES = [
    "(cn={})",
    "(sAMAccountName={})",
    "(uidNumber={})",
    "(&(objectClass=user)(cn={}))",
    "(&(cn={})(objectClass=group))",
    "(&(objectClass=posixGroup)(gidNumber={}))",
    "(&(!(objectClass=group))(sAMAccountName={})(cn=*))",
    "(&(cn={})(|(objectClass=user)(nosuch=x)))",
]
LISTS = [(), (b"cn", b"mail"), (b"*", b"+"), (b"1.1",), (b"memberOf", b"entryUUID"), (b"nosuch",)]


@pytest.mark.parametrize("viewer", [FULL, ALICE_ONLY], ids=["full", "own"])
@pytest.mark.parametrize("attributes", LISTS, ids=[b",".join(names).decode() for names in LISTS])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_octets(directory: Snapshot, shape: str, attributes: tuple[bytes, ...], viewer: Viewer) -> None:
    """Prepared with one value, asked with every other of the same length: equal to the general way, octet for octet."""
    seen = directory if viewer.full else directory.view(viewer.user_pk)
    answered = 0
    for first in NAMES:
        known = PreparedSearches()
        known.prepare(seen, decoded(question(shape.format(escaped(first)), attributes=attributes)))
        for other in NAMES:
            data = question(shape.format(escaped(other)), 77_000, attributes=attributes)
            message = prepared.split(data)
            assert message is not None
            assert message.message_id == 77_000
            answer = asked(known, data)
            if len(other.encode()) != len(first.encode()):
                assert answer is None
            elif answer is not None:
                answered += 1
                assert answer[0] == general(seen, decoded(data))
    assert answered


BASES = [
    f"cn={{}},ou=users,{b}",
    f"CN={{}}, ou=groups,{b.upper()}",
    f"cn={{}},ou=virtual-groups,{b}",
    f"2.5.4.3={{}},OU=users,{b}",
]
READS = ["(objectClass=*)", "(objectClass=user)", "(mail=*)", "(!(memberOf=*))", "(cn=alice)"]


@pytest.mark.parametrize("viewer", [FULL, ALICE_ONLY], ids=["full", "own"])
@pytest.mark.parametrize("text", READS)
@pytest.mark.parametrize("base", BASES)
def test_reads_by_name(directory: Snapshot, base: str, text: str, viewer: Viewer) -> None:
    """The name in the base varies: the octets of the general way; no such entry is the general way's to tell."""
    seen = directory if viewer.full else directory.view(viewer.user_pk)
    answered = 0
    words = [*NAMES, "a,b", "a+b=c", "ALI\\63E", "alice ", 'b"b', "#6162", "users"]
    for first in words:
        for limit in (0, 1):
            known = PreparedSearches()
            data = question(text, base=base.format(first).encode(), scope=0, size_limit=limit)
            known.prepare(seen, decoded(data))
            for other in words:
                data = question(text, 77_000, base=base.format(other).encode(), scope=0, size_limit=limit)
                answer = asked(known, data)
                if answer is not None:
                    answered += 1
                    assert answer[0] == general(seen, decoded(data))
                    assert answer[1] == 1
    assert answered or not viewer.full or text in ("(mail=*)", "(objectClass=user)", "(cn=alice)", "(!(memberOf=*))")


@given(st.binary(min_size=5, max_size=5))
def test_any_name(value: bytes) -> None:
    """Whatever stands where the name was: the same octets, or the general way."""
    seen = snapshot()
    known = PreparedSearches()
    request = decoded(question("(objectClass=*)", base=f"cn=alice,ou=users,{b}".encode(), scope=0))
    known.prepare(seen, request)
    assert len(known) == 1
    data = prepared._message(9, request.raw.replace(b"alice", value, 1))
    answer = asked(known, data)
    if answer is not None:
        assert answer[0] == general(seen, decoded(data))


@given(st.binary(max_size=12), st.sampled_from(["cn", "uidNumber", "memberOf", "createTimestamp", "ak-active"]))
def test_any_value(value: bytes, attribute: str) -> None:
    """Whatever stands where the value was: the same octets, or the general way."""
    seen = snapshot()
    known = PreparedSearches()
    first = {"uidNumber": "8000", "createTimestamp": "20240101000000Z", "ak-active": "TRUE"}.get(attribute, "alice")
    first = f"cn=ga,ou=groups,{b}" if attribute == "memberOf" else first
    request = decoded(question(f"({attribute}={escaped(first)})"))
    known.prepare(seen, request)
    changed = request.raw.replace(first.encode(), (value * 40)[: len(first.encode())].ljust(len(first.encode())))
    data = prepared._message(9, changed)
    assert prepared.split(data) is not None
    answer = asked(known, data)
    if answer is not None:
        assert answer[0] == general(seen, decoded(data))


@pytest.mark.parametrize(
    "data",
    [
        question("(cn=alice)", size_limit=3),
        question("(cn=alice)", controls=(Control("1.2.3", False, None),)),
        question("(objectClass=user)"),
        question("(cn=a*)"),
        question("(|(cn=alice)(mail=x))"),
        question("(!(cn=alice))"),
        question("(nosuch=alice)"),
        question("(cn=alice)", base=b"dc=elsewhere"),
        question("(cn=alice)", base=b""),
        question("(cn=alice)", base=b"not a name"),
        question(f"(cn={'x' * 3000})"),
    ],
)
def test_what_is_not_prepared(directory: Snapshot, data: bytes) -> None:
    """Limits that may be met, controls, and filters without one value that varies take the general way."""
    known = PreparedSearches()
    known.prepare(directory, decoded(data))
    assert len(known) == 0


def test_many_hits_take_the_general_way() -> None:
    """A value that many entries have is not answered here."""
    seen = Room(extra_users=40).desk.providers.all[0].snapshot
    assert seen is not None
    known = PreparedSearches()
    known.prepare(seen, decoded(question("(displayName=Alice Example)")))
    request = decoded(question("(homeDirectory=/home/user1)"))
    known.prepare(seen, request)
    assert asked(known, question("(ak-active=TRUE)")) is None


def test_the_value_is_found_where_it_stands(directory: Snapshot) -> None:
    """A value that also occurs in the base or in another branch is not mixed up with it."""
    for text in ("(&(ou=users)(cn=users))", "(&(cn=cn)(sAMAccountName=cn))", "(cn=2)", "(cn=ou)"):
        known = PreparedSearches()
        request = decoded(question(text, base=f"ou=users,{b}".encode()))
        known.prepare(directory, request)
        for data in (question(text, base=f"ou=users,{b}".encode()), question(text)):
            answer = asked(known, data)
            if answer is not None:
                assert answer[0] == general(directory, decoded(data))


def test_room_is_made_when_questions_change(directory: Snapshot) -> None:
    """Bounded: old questions go, and new ones find room after a while."""
    known = PreparedSearches()
    request = decoded(question("(cn=alice)"))
    for _ in range(MAX_PREPARED):
        known.prepare(directory, request)
    assert len(known) == MAX_PREPARED
    for _ in range(MAX_TRIES):
        assert len(known) == MAX_PREPARED
        known.prepare(directory, request)
    assert len(known) == 1


@given(st.binary(max_size=80))
def test_split_never_raises(data: bytes) -> None:
    """Anything may arrive."""
    prepared.split(data)
    whole = question("(cn=alice)")
    prepared.split(whole[: len(data)])
    damaged = bytearray(whole)
    for octet in data[:6]:
        damaged[octet % len(damaged)] = octet
    message = prepared.split(bytes(damaged))
    if message is not None:
        known = PreparedSearches()
        known.prepare(snapshot(), decoded(whole))
        known.reply(whole)  # leaves its outline
        answer = asked(known, bytes(damaged))
        if answer is not None:
            assert answer[0] == general(snapshot(), decoded(bytes(damaged)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        question("(cn=alice)")[:-1],
        question("(cn=alice)") + b"0",
        question("(cn=alice)") * 2,
        question("(cn=alice)").replace(b"\x02\x01\x05", b"\x02\x01\xff", 1),
        question("(cn=alice)", controls=(Control("1.2.3", True, None),)),
    ],
)
def test_split_wants_one_whole_search(data: bytes) -> None:
    """Parts, two at once, negative ids and controls are for the general way."""
    assert prepared.split(data) is None


async def test_a_connection_uses_it_and_then_not() -> None:
    """The second question of a kind is answered by its octets; with an id of zero the connection ends as always."""
    room = Room()
    snapshot_in_use = room.desk.providers.all[0].snapshot
    assert snapshot_in_use is not None
    snapshot_in_use.prepared = None  # other tests use the same directory
    connection, paper = await bound(room)
    say(connection, search_request(2))
    connection.received(question("(cn=alice)", 3))
    connection.received(question("(cn=ALICE)", 4))
    assert [kind for kind, _ in room.witness.seen][-2:] == ["search", "prepared"]
    assert codes(paper) == [0, 0, 0]
    connection.received(question("(cn=alice)", 0))
    assert connection.closing


async def test_a_defect_is_not_the_clients_business() -> None:
    """When the prepared way breaks, the general way answers."""
    room = Room()
    connection, paper = await bound(room)
    connection.received(question("(cn=alice)", 3))

    def broken(*_: object) -> None:
        raise RuntimeError("defect")

    room.desk.searches.prepared = broken  # type: ignore[assignment]
    connection.received(question("(cn=alice)", 4))
    assert codes(paper) == [0, 0]


@pytest.mark.parametrize("message_id", [1, 127, 128, 255, 256, 65_535, 2**31 - 1])
def test_an_outline_fits_any_message_id(directory: Snapshot, message_id: int) -> None:
    """Ids of one to four octets, also where the id's octets stand in the lengths before it."""
    known = PreparedSearches()
    known.prepare(directory, decoded(question("(cn=alice)")))
    for attributes in ((), tuple(b"x" * 25 for _ in range(9))):
        if attributes:
            known.prepare(directory, decoded(question("(cn=alice)", attributes=attributes)))
        for name in ("alice", "bobby", "ALICE"):
            data = question(f"(cn={name})", message_id, attributes=attributes)
            answer = asked(known, data)
            assert answer is not None
            assert answer[0] == general(directory, decoded(data))


@pytest.mark.parametrize("octets", [b"\x00", b"\x80", b"\xff"])
def test_an_outline_wants_a_positive_id(directory: Snapshot, octets: bytes) -> None:
    """An id of zero or below is for the general way, which ends the connection."""
    known = PreparedSearches()
    known.prepare(directory, decoded(question("(cn=alice)")))
    assert asked(known, question("(cn=alice)")) is not None
    assert known.reply(question("(cn=alice)").replace(b"\x02\x01\x05", b"\x02\x01" + octets, 1)) is None


def test_outlines_are_bounded(directory: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many ids and values leave a bounded number of outlines."""
    monkeypatch.setattr(prepared, "MAX_FRAMES", 4)
    known = PreparedSearches()
    known.prepare(directory, decoded(question("(cn=alice)")))
    for message_id in [1, 300, 70_000, 2**30] * 5:
        for padding in (0, 1):
            data = question("(cn=alice)", message_id)
            if padding:
                data = b"0\x81" + data[1:]
            assert asked(known, data) is not None
            assert known._frame_count <= 4
