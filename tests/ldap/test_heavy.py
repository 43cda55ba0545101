"""Costly filters: looked at for few entries, or worked off in steps; either way the answer is the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from outposts.ldap import candidates, evaluation, heavy, remembered, routing
from outposts.ldap.directory import Snapshot
from outposts.ldap.evaluation import evaluate, matches
from outposts.ldap.filter_text import parse_text
from outposts.ldap.filters import And, Filter, Substrings
from outposts.ldap.index import WINDOW, Index
from outposts.ldap.messages import SearchEntry
from tests import factories
from tests.ldap.binds import until
from tests.ldap.desks import Room, bound, say, search_request
from tests.ldap.fixture import BASE, OPTIONS, raw
from tests.ldap.test_search import TREES

b = BASE.lower()


def directory(count: int) -> Snapshot:
    """Users with numbers, addresses and a few attributes; every tenth in a group."""
    users = [
        factories.user(
            pk, f"a{pk}", attributes={"extra": f"x{pk % 7}", "telephoneNumber": f"+49 {pk}"} if pk % 3 else {}
        )
        for pk in range(1, count + 1)
    ]
    groups = [factories.group("g", 3, users=list(range(10, count + 1, 10)))]
    factories.link(users, groups)
    return Snapshot.build(OPTIONS, raw(users), raw(groups))


SMALL = directory(12)
LARGE = directory(700)


def plain(snapshot: Snapshot, node: Filter) -> tuple[BitMap, BitMap]:
    """The answer without any short way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "NARROW", -1)
        patch.setattr(remembered, "known", lambda snapshot, item: None)
        true, undefined = evaluate(snapshot, node)
    return true, undefined or BitMap()


@settings(max_examples=300, deadline=None)
@given(TREES, TREES)
def test_few_entries_are_looked_at(one: Filter, other: Filter) -> None:
    """True and Undefined are the same whether an and narrows its costly children or not."""
    node = And((one, other))
    true, undefined = evaluate(SMALL, node)
    assert (true, undefined or BitMap()) == plain(SMALL, node)


@settings(max_examples=200, deadline=None)
@given(TREES)
def test_steps_give_the_same(node: Filter) -> None:
    """What was worked off in steps before is the same set; then nothing is heavy any more."""
    remembered._sets.clear()
    expected = plain(SMALL, node)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heavy, "LARGE", 0)
        for _ in heavy.work(SMALL, node):
            pass
        assert heavy.items(SMALL, node) == []
    true, undefined = evaluate(SMALL, node)
    assert (true, undefined or BitMap()) == expected


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("(mail=*x*)", 1),
        ("(cn=a1*)", 0),
        ("(cn=a*1)", 0),
        ("(&(objectClass=user)(mail=*x*))", 1),
        (f"(&(memberOf=cn=g,ou=groups,{b})(!(mail=*x*)))", 0),
        (f"(&(!(mail=*x*))(memberOf=cn=g,ou=groups,{b}))", 0),
        ("(&(cn=a1)(|(mail=*x*)(cn=*1*)))", 0),
        ("(|(mail=*x*)(cn=*1*)(cn=a1))", 2),
        ("(!(cn=*1*))", 1),
        ("(uidNumber:1.2.840.113556.1.4.803:=1)", 1),
        ("(uidNumber:1.2.840.113556.1.4.804:=3)", 1),
        ("(nosuch=*x*)", 0),
        ("(member=*x*)", 0),
        ("(uidNumber>=2000)", 0),
        ("(cn=alice)", 0),
    ],
)
def test_what_is_heavy(text: str, count: int) -> None:
    """Items that go through all values of a large index, unless the rest of an and leaves few entries."""
    node = parse_text(text)
    remembered._sets.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heavy, "LARGE", 100)
        assert len(heavy.items(LARGE, node)) == count
        expected = plain(LARGE, node)[0]
        assert len(list(heavy.work(LARGE, node))) >= count
        assert heavy.items(LARGE, node) == []
    assert matches(LARGE, node) == expected


def test_what_is_asked_again_and_again_is_found_once_for_all() -> None:
    """Where a few entries are looked at each time, to know it is cheaper in the end."""
    node = parse_text(f"(&(memberOf=cn=g,ou=groups,{b})(!(mail=*x*)))")
    remembered._sets.clear()
    remembered._asked.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heavy, "LARGE", 100)
        counts = [len(heavy.items(LARGE, node)) for _ in range(remembered.OFTEN)]
        assert counts == [0] * (remembered.OFTEN - 1) + [1]
        expected = plain(LARGE, node)[0]
        for _ in heavy.work(LARGE, node):
            pass
        assert matches(LARGE, node) == expected
        assert heavy.items(LARGE, node) == []
    for number in range(2 * remembered.ASKED_KEPT):
        remembered.is_asked_often(LARGE, parse_text(f"(mail=*{number}*)"))
    assert len(remembered._asked[LARGE]) <= remembered.ASKED_KEPT


def test_little_is_remembered() -> None:
    """So many sets, none for long values, and none outlives its snapshot."""
    found = directory(3)
    for number in range(100):
        remembered.remember(found, Substrings("cn", None, (b"%d" % number,), None), BitMap((1,)))
    assert len(remembered._sets[found]) == remembered.SETS_KEPT
    assert remembered.known(found, Substrings("cn", None, (b"99",), None)) == BitMap((1,))
    assert remembered.known(found, Substrings("cn", None, (b"0",), None)) is None
    long = Substrings("cn", None, (b"x" * remembered.VALUE_MAX,), None)
    remembered.remember(found, long, BitMap((1,)))
    assert remembered.known(found, long) is None


VALUES = st.lists(st.binary(max_size=6).map(lambda value: value.replace(b"\xff", b"a")), min_size=1, max_size=60)


@settings(max_examples=300, deadline=None)
@given(VALUES, st.sampled_from([b"a", b"aa", b"\x00", b"ab", b"b"]), st.booleans(), st.sampled_from([8, 64, WINDOW]))
def test_substrings_in_windows(values: list[bytes], needle: bytes, at_end: bool, window: int) -> None:
    """Few hits or many, in one window or in several: the entries whose value holds the part, or ends with it."""
    index = Index.build(values, list(range(len(values))), BitMap(range(len(values))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("outposts.ldap.index.WINDOW", window)
        found = index.substring(None, [] if at_end else [needle], needle if at_end else None)
    held = [number for number, value in enumerate(values) if (value.endswith(needle) if at_end else needle in value)]
    assert list(found) == held


async def test_a_costly_filter_lets_others_in_between() -> None:
    """More than a slice of work: another request is answered first; the next time it is known."""
    room = Room(extra_users=3000)
    connection, paper = await bound(room)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heavy, "LARGE", 100)
        patch.setattr(routing, "SLICE_S", 0.0)
        say(connection, search_request(2, text="(cn=*r1*)"), search_request(3, text="(cn=alice)"))
        await until(lambda: len(room.witness.seen) == 3)
        answers = paper.take()
        assert [answer.message_id for answer in answers if not isinstance(answer, SearchEntry)] == [3, 2]
        assert len([answer for answer in answers if answer.message_id == 2]) > 2000
        found = len([answer for answer in answers if answer.message_id == 2])
        say(connection, search_request(4, text="(cn=*r1*)"))
        assert 4 not in connection._tasks  # known by now: answered at once, and streamed
        await until(lambda: len(room.witness.seen) == 4)
        assert len(paper.take()) == found


def test_costly_or_not() -> None:
    """What looks at every value."""
    for text, costly in (("(cn=a*)", False), ("(cn=*a)", True), ("(!(cn=*a*))", True), ("(&(cn=a)(sn=b))", False),
                         ("(|(cn=a)(sn=*b*))", True), ("(cn:=a)", False), ("(uidNumber>=3)", False),
                         ("(x:1.2.840.113556.1.4.803:=1)", True)):  # fmt: skip
        assert candidates.is_costly(parse_text(text)) is costly
