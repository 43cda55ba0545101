"""Server-side sorting (RFC 2891) and list views (draft-ietf-ldapext-ldapv3-vlv-09) against plain sorts of lists."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from outposts.ldap import sorting, vlv
from outposts.ldap.ber import ProtocolError
from outposts.ldap.directory import Snapshot
from outposts.ldap.filters import Equality, Present
from outposts.ldap.rfc import ControlOid, ResultCode
from outposts.ldap.search import run
from outposts.ldap.sorting import BY_NAME, Key, SortKey
from tests import factories
from tests.ldap.fixture import ALICE_ONLY, BASE, FULL, OPTIONS, raw, request, snapshot
from tests.ldap.listings import names, paged, responses, search, sort, sort_result, view, view_result

b = BASE.lower()
DIRECTORY = snapshot()
USERS = request("(objectClass=user)")


def directory(people: list[tuple[str, list[str], str]]) -> Snapshot:
    """Users with a letter, values of ``extra`` and of ``uidNumber``."""
    users = [
        factories.user(pk, f"{letter}{pk}", name=letter, attributes={"extra": extra, "uidNumber": number})
        for pk, (letter, extra, number) in enumerate(people, 1)
    ]
    factories.link(users, [])
    return Snapshot.build(OPTIONS, raw(users), [])


def plain_order(found: Snapshot, numbers: list[int], keys: list[tuple[str, bool]]) -> list[int]:
    """As the RFC says it: least value, none is largest, reversed as a whole. Knows entries, not indexes."""
    rows = list(numbers)
    for name, reverse in reversed(keys):

        def place(number: int, name: str = name) -> tuple[bool, Any]:
            values = [value.decode() for value in found.values(number, name)]
            if name in ("uidnumber", "numsubordinates"):
                return not values, min(map(int, values), default=0)
            return not values, min((value.lower() for value in values), default="")

        rows.sort(key=place, reverse=reverse)
    return rows


def run_order(
    found: Snapshot, members: BitMap, keys: list[tuple[str, bool]], pauses: list[int] | None = None
) -> list[int]:
    """What ``order`` gives; each pause of it is noted."""
    steps = sorting.order(found, members, [Key(name, reverse) for name, reverse in keys])
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return list(done.value)
        if pauses is not None:
            pauses.append(1)


KEYS = st.lists(
    st.tuples(st.sampled_from(["cn", "extra", "uidnumber", "name", "entryuuid", "numsubordinates"]), st.booleans()),
    min_size=1,
    max_size=3,
    unique_by=lambda key: key[0],
)
PEOPLE = st.lists(
    st.tuples(
        st.sampled_from("aBc"),
        st.lists(st.sampled_from(["x", "Y", "z", "10", "9"]), max_size=3, unique=True),
        st.sampled_from(["7", "70", "8", "-3"]),
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(PEOPLE, KEYS, st.sampled_from([0, 1, 64]), st.sampled_from([0, 3, 4096]), st.sets(st.integers(0, 70)))
def test_order_against_a_plain_sort(
    people: list[tuple[str, list[str], str]], keys: list[tuple[str, bool]], few: int, ranked: int, left_out: set[int]
) -> None:
    """All three ways of sorting (entries, ranks, index) give the order of the plain sort, for any part of the whole."""
    found = directory(people)
    numbers = [number for at, number in enumerate(found.all) if at not in left_out]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "FEW", few)
        patch.setattr(sorting, "RANKED", ranked)
        assert run_order(found, BitMap(numbers), keys) == plain_order(found, numbers, keys)


def test_many_equal_values_take_every_way() -> None:
    """Some thousand entries, ties of all sizes: the same order as the plain sort, in steps."""
    people = [("aBc"[pk % 3], [f"v{pk % 500}", f"w{pk % 7}"], str(pk % 40)) for pk in range(3000)]
    found = directory(people)
    for keys in (
        [("name", False), ("uidnumber", True), ("extra", False)],
        [("uidnumber", False), ("name", True)],
        [("extra", True), ("cn", True)],
        [("entryuuid", True)],
    ):
        pauses: list[int] = []
        assert run_order(found, found.all, keys, pauses) == plain_order(found, list(found.all), keys)
        assert pauses


def test_sorted_search() -> None:
    """Users by name, backwards, by number; the response says success."""
    answer = search(DIRECTORY, USERS, [sort("cn")])
    assert sort_result(answer) == (0, None)
    assert [dn[3:6] for dn in names(answer)] == ["ali", "bob", "Car", "dav", "svc"]
    backwards = search(DIRECTORY, USERS, [sort("-cn:caseIgnoreOrderingMatch")])
    assert [dn[3:6] for dn in names(backwards)] == ["svc", "dav", "Car", "bob", "ali"]
    by_number = search(DIRECTORY, USERS, [sort("-uidNumber", "cn")])
    assert names(by_number)[0].startswith("cn=bob,")


def test_entries_without_the_attribute_come_last() -> None:
    """And first when the order is reversed: none counts as the largest value (RFC 2891 §1.2)."""
    assert names(search(DIRECTORY, USERS, [sort("mail")]))[-1].startswith("cn=Carol")
    assert names(search(DIRECTORY, USERS, [sort("-mail")]))[0].startswith("cn=Carol")


@pytest.mark.parametrize(
    ("key", "code", "blamed"),
    [
        ("nosuch", ResultCode.NO_SUCH_ATTRIBUTE, b"nosuch"),
        ("member", ResultCode.INAPPROPRIATE_MATCHING, b"member"),
        ("cn:integerOrderingMatch", ResultCode.INAPPROPRIATE_MATCHING, b"cn"),
        ("cn:1.2.3", ResultCode.INAPPROPRIATE_MATCHING, b"cn"),
        ("no such", ResultCode.NO_SUCH_ATTRIBUTE, b"no such"),
    ],
)
def test_keys_that_cannot_be_used(key: str, code: int, blamed: bytes) -> None:
    """Critical: 12 and nothing; otherwise the entries come unsorted. Both name the attribute."""
    answer = search(DIRECTORY, USERS, [sort("uidNumber", key, critical=True)])
    assert (answer.code, answer.count, sort_result(answer)) == (12, 0, (code, blamed))
    answer = search(DIRECTORY, USERS, [sort("uidNumber", key)])
    assert (answer.code, names(answer), sort_result(answer)) == (0, names(run(DIRECTORY, USERS, FULL)), (code, blamed))


def test_too_many_keys_and_keys_given_twice() -> None:
    """53 in the response."""
    many = ["cn", "sn", "mail", "name", "uid", "displayName", "uidNumber", "gidNumber", "l", "title", "o"]
    assert sort_result(search(DIRECTORY, USERS, [sort(*many)]))[0] == 53
    assert sort_result(search(DIRECTORY, USERS, [sort("cn", "commonName")])) == (53, b"commonName")


def test_limits_of_a_sorted_search() -> None:
    """The first entries in order, then 4 or 11; out of time is 3."""
    limited = search(DIRECTORY, request("(objectClass=user)", size_limit=2), [sort("-cn")])
    assert (limited.code, [dn[3:6] for dn in names(limited)]) == (4, ["svc", "dav"])
    assert search(DIRECTORY, USERS, [sort("cn")], size_limit=2).code == 11
    late = search(DIRECTORY, USERS, [sort("cn")], out_of_time=lambda: True)
    assert (list(late.chunks), late.final_code) == ([], 3)


def test_an_order_is_remembered_with_its_snapshot() -> None:
    """Pages of one search sort once, those of another order or another filter do not share it."""
    found = directory([("a", ["x"], "1")] * 10)
    made: list[int] = []
    real = sorting.order
    with pytest.MonkeyPatch.context() as patch:

        def counted(*what: Any) -> Any:
            made.append(1)
            return real(*what)

        patch.setattr(sorting, "order", counted)
        for text, key, count in (("(cn=*)", "cn", 1), ("(cn=*)", "cn", 1), ("(cn=*)", "-cn", 2), ("(sn=*)", "cn", 3)):
            search(found, request(text), [sort(key), paged(2)])
            assert len(made) == count
    orders = sorting._orders[found]
    for number in range(100):
        orders.put(b"%d" % number, orders.known[next(iter(orders.known))])
    assert len(orders.known) == sorting.ORDERS_KEPT
    assert orders.entries == sum(map(len, orders.known.values()))


def test_least_of_a_vanished_attribute() -> None:
    """None, also for the fixed entries by name; the name of others."""
    assert sorting.least(DIRECTORY, 0, "nosuch") is None
    assert sorting.values_of(DIRECTORY, 0, (BY_NAME,)) == (None,)
    alice = next(iter(DIRECTORY.kinds[1]))  # type: ignore[index]
    assert sorting.values_of(DIRECTORY, alice, (BY_NAME,)) == (b"alice",)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40))
def test_any_octets_as_sort_keys(value: bytes) -> None:
    """A list of keys or a protocol error."""
    try:
        assert sorting.decode(value)
    except ProtocolError:
        pass


def test_sort_control_value() -> None:
    """All parts of a key."""
    value = sort("cn", "-sn:2.5.13.3").value
    assert sorting.decode(value) == (SortKey(b"cn"), SortKey(b"sn", "2.5.13.3", True))
    for broken in (None, b"", b"\x30\x00", (value or b"") + b"x"):
        with pytest.raises(ProtocolError):
            sorting.decode(broken)


# List views


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 40), st.sampled_from([0, 5, 17, 30]))
def test_views_by_offset(before: int, after: int, offset: int, count: int) -> None:
    """The window around a target in the sorted list; the target is where the client's share of the list ends."""
    whole = names(search(DIRECTORY, request(), [sort("cn")]))
    answer = search(DIRECTORY, request(), [sort("cn"), view(before, after, offset, count)])
    target, total, code = view_result(answer)
    assert (code, total) == (0, 17)
    if not count or count == 17:
        expected = min(offset, 18)
    elif offset > count:
        expected = 18
    else:
        expected = 1 if offset == 1 else 17 if offset == count else max(1, 17 * offset // count)
    assert target == expected
    assert names(answer) == whole[max(0, target - 1 - before) : target + after]


@pytest.mark.parametrize(
    ("keys", "value", "target"),
    [(["cn"], b"BOB", 2), (["cn"], b"aa", 1), (["cn"], b"zz", 6), (["cn"], b"c", 3), (["-cn"], b"dave", 3),
     (["uidNumber"], b"2004", 3), (["mail"], b"b", 2)],
)  # fmt: skip
def test_views_by_value(keys: list[str], value: bytes, target: int) -> None:
    """The target is the first entry at or behind the value, in the order that was asked for."""
    answer = search(DIRECTORY, USERS, [sort(*keys), view(1, 1, value=value)])
    assert view_result(answer) == (target, 5, 0)
    whole = names(search(DIRECTORY, USERS, [sort(*keys)]))
    assert names(answer) == whole[max(0, target - 2) : target + 1]


def test_views_that_cannot_be_shown() -> None:
    """76, with the reason in the response control: no sort, bad keys, offset 0, a value of another syntax."""
    for controls, reason in (
        ([view(1, 1)], ResultCode.SORT_CONTROL_MISSING),
        ([sort("nosuch"), view(1, 1)], ResultCode.NO_SUCH_ATTRIBUTE),
        ([sort("cn"), view(1, 1, offset=0)], ResultCode.OFFSET_RANGE_ERROR),
        ([sort("uidNumber"), view(1, 1, value=b"x")], ResultCode.INAPPROPRIATE_MATCHING),
    ):
        answer = search(DIRECTORY, USERS, controls)
        assert (answer.code, answer.count) == (ResultCode.VLV_ERROR, 0)
        assert view_result(answer)[2] == reason
    assert search(DIRECTORY, USERS, [sort("cn"), view(1, 1), paged(1)]).code == 53


def test_views_of_nothing_and_of_the_own_entries() -> None:
    """An empty list has count 0; a viewer's list is as long as what it sees."""
    nothing = msgspec.structs.replace(USERS, filter=Equality("nosuch", b"x"))
    assert view_result(search(DIRECTORY, nothing, [sort("cn"), view(1, 1)])) == (1, 0, 0)
    everything = msgspec.structs.replace(USERS, filter=Present("objectclass"))
    assert view_result(search(DIRECTORY, everything, [sort("cn"), view(0, 0)], ALICE_ONLY))[1] == 8


def test_view_of_the_root() -> None:
    """One entry, in order as it is."""
    answer = search(DIRECTORY, request(base="", scope=0), [sort("cn"), view(0, 0)])
    assert (view_result(answer), sort_result(answer), answer.count) == ((1, 1, 0), (0, None), 1)
    assert responses(answer).keys() == {ControlOid.SORT_RESPONSE, ControlOid.VLV_RESPONSE}


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40))
def test_any_octets_as_list_view(value: bytes) -> None:
    """A view or a protocol error."""
    try:
        assert vlv.decode(value).before >= 0
    except ProtocolError:
        pass


def test_list_view_value() -> None:
    """With and without a context identifier, which is ignored."""
    value = view(1, 2, 3, 4).value or b""
    assert vlv.decode(value) == vlv.ListView(1, 2, 3, 4)
    longer = b"\x30" + bytes((value[1] + 3,)) + value[2:] + b"\x04\x01c"
    assert vlv.decode(longer) == vlv.ListView(1, 2, 3, 4)
    assert vlv.decode(view(0, 0, value=b"x").value) == vlv.ListView(0, 0, value=b"x")
    for broken in (None, b"", b"\x30\x06\x02\x01\x01\x02\x01\x01", value + b"x", view(-1, 0).value):
        with pytest.raises(ProtocolError):
            vlv.decode(broken)
