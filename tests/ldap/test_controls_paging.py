"""Paged results (RFC 2696): the pages together are the result, whatever happens to the directory in between."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from outposts.ldap import paging
from outposts.ldap.directory import Snapshot
from outposts.ldap.filters import Equality, Filter, Not, Present, Substrings
from outposts.ldap.messages import Control, SearchRequest
from outposts.ldap.paging import CookieError, Cookies, KeptSnapshots, Position
from outposts.ldap.rfc import ControlOid, ResultCode
from outposts.ldap.search import Viewer, run
from tests import factories
from tests.ldap.fixture import ALICE_ONLY, BASE, FULL, OPTIONS, raw, request, snapshot
from tests.ldap.listings import COOKIES, cookie_of, estimate_of, names, paged, pages, search, sort

b = BASE.lower()
DIRECTORY = snapshot()
FILTERS: list[Filter] = [
    Present("objectclass"),
    Equality("objectclass", b"user"),
    Not(Equality("cn", b"alice")),
    Substrings("cn", None, (b"a",), None),
    Equality("nosuch", b"x"),
    Equality("cn", b"svc"),
]


def asked(node: Filter, base: str = BASE, scope: int = 2, size_limit: int = 0) -> SearchRequest:
    """A search by filter tree."""
    return msgspec.structs.replace(request(base=base, scope=scope, size_limit=size_limit), filter=node)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(FILTERS),
    st.lists(st.integers(1, 20), min_size=1, max_size=4),
    st.sampled_from([FULL, ALICE_ONLY, Viewer(99, full=False)]),
    st.sampled_from([(BASE, 2), (BASE, 1), (f"ou=users,{b}", 2), (f"cn=alice,ou=users,{b}", 0), (BASE, 0)]),
    st.sampled_from([(), ("cn",), ("-uidNumber", "cn"), ("entryUUID",)]),
    st.booleans(),
)
def test_pages_are_the_result(
    node: Filter, sizes: list[int], viewer: Viewer, place: tuple[str, int], keys: tuple[str, ...], stable: bool
) -> None:
    """Pages of any sizes give each entry of the plain search exactly once, sorted as the sorted search is."""
    wanted = asked(node, *place)
    more = (sort(*keys),) if keys else ()
    found = pages([DIRECTORY], wanted, sizes, more, viewer, stable=stable)
    assert sorted(found) == sorted(names(run(DIRECTORY, wanted, viewer)))
    if keys and stable:
        whole = names(search(DIRECTORY, wanted, more, viewer))
        assert [dn for dn in found if dn in whole] == (whole if viewer.full else found)


def directory(people: dict[int, tuple[str, str]], previous: Snapshot | None = None) -> Snapshot:
    """Users by pk: name and telephone number; a group of all of them."""
    users = [
        factories.user(pk, name, attributes={"extra": extra} if extra else {}) for pk, (name, extra) in people.items()
    ]
    groups = [factories.group("everybody", 3, users=list(people))]
    factories.link(users, groups)
    return Snapshot.build(OPTIONS, raw(users), raw(groups), previous)


PEOPLE = st.dictionaries(
    st.integers(1, 40), st.tuples(st.sampled_from("abcdef"), st.sampled_from(["", "x", "y", "z"])), max_size=25
).map(lambda found: {pk: (f"{letter}{pk}", extra) for pk, (letter, extra) in found.items()})


@settings(max_examples=200, deadline=None)
@given(
    PEOPLE,
    PEOPLE,
    st.sets(st.integers(1, 40)),
    st.integers(1, 7),
    st.sampled_from([(), ("cn",), ("extra",), ("-extra", "-cn"), ("uidNumber",)]),
    st.booleans(),
)
@example({1: ("a1", "x"), 2: ("b2", ""), 3: ("a3", "x")}, {2: ("c2", "z")}, {1, 3}, 2, ("extra",), True)
def test_a_refresh_between_pages(
    before: dict[int, tuple[str, str]],
    after: dict[int, tuple[str, str]],
    keep: set[int],
    size: int,
    keys: tuple[str, ...],
    stable: bool,
) -> None:
    """What did not change comes exactly once, what is new at most once.

    ``stable``: the refreshed directory was built on the former; otherwise it was built anew, in another order.
    """
    after = {pk: person for pk, person in after.items() if pk not in before} | {
        pk: before[pk] if pk in keep else after.get(pk, before[pk]) for pk in before if pk in keep or pk in after
    }
    first = directory(before)
    if stable:
        second = directory(after, first)
    else:
        second = directory(dict(reversed(list(after.items()))))
    wanted = asked(Equality("objectclass", b"user"))
    found = pages([first, second], wanted, [size], (sort(*keys),) if keys else (), stable=stable)
    same = {f"cn={name},ou=users,{b}" for pk, (name, extra) in before.items() if after.get(pk) == (name, extra)}
    for dn in same:
        assert found.count(dn) == 1, dn
    for dn in {f"cn={name},ou=users,{b}" for pk, (name, _) in after.items() if pk not in before}:
        assert found.count(dn) <= 1


def test_a_refresh_between_pages_keeps_the_numbering() -> None:
    """A directory that was numbered anew cannot be continued by numbers: 53 instead of gaps."""
    people = {pk: (f"a{pk}", "") for pk in range(1, 10)}
    wanted = asked(Equality("objectclass", b"user"))
    cookie = cookie_of(search(directory(people), wanted, [paged(4)]))
    answer = search(directory(dict(reversed(people.items()))), wanted, [paged(4, cookie)])
    assert (answer.code, answer.count) == (ResultCode.UNWILLING_TO_PERFORM, 0)


def test_foreign_cookies_are_refused() -> None:
    """Of another filter, base, attribute list, sort order or viewer, from another key, cut, or made up: 53."""
    wanted = asked(FILTERS[0])
    cookie = cookie_of(search(DIRECTORY, wanted, [paged(3)]))
    for other, viewer, more in (
        (asked(FILTERS[1]), FULL, []),
        (asked(FILTERS[0], base=f"ou=users,{b}"), FULL, []),
        (request("(objectClass=*)", ["cn"]), FULL, []),
        (wanted, ALICE_ONLY, []),
        (wanted, Viewer(2, full=True), []),
        (wanted, FULL, [sort("cn")]),
    ):
        answer = search(DIRECTORY, other, [*more, paged(3, cookie)], viewer)
        assert (answer.code, answer.count) == (ResultCode.UNWILLING_TO_PERFORM, 0)
    for broken in (cookie[:-1], cookie + b"x", b"x", bytes(40), cookie[:-1] + bytes((cookie[-1] ^ 1,))):
        assert search(DIRECTORY, wanted, [paged(3, broken)]).code == ResultCode.UNWILLING_TO_PERFORM
    assert search(DIRECTORY, wanted, [paged(3, cookie)]).code == 0
    with pytest.raises(CookieError):
        Cookies(b"\x01" * paging.KEY_SIZE).read(b"query", COOKIES.write(b"query", Position(1, b"", (), (), 0)))


def test_page_size_may_change_and_zero_ends() -> None:
    """The size belongs to the page, not to the search. Size 0 gives up, or asks for the count only."""
    wanted = asked(FILTERS[0])
    answer = search(DIRECTORY, wanted, [paged(3)])
    assert (answer.count, estimate_of(answer)) == (3, 17)
    assert search(DIRECTORY, wanted, [paged(5, cookie_of(answer))]).count == 5
    for cookie in (b"", cookie_of(answer)):
        ended = search(DIRECTORY, wanted, [paged(0, cookie)])
        assert (ended.code, ended.count, cookie_of(ended), estimate_of(ended)) == (0, 0, b"", 17)


def test_the_count_is_of_what_the_viewer_sees() -> None:
    """The estimate tells nothing about entries that are hidden."""
    assert estimate_of(search(DIRECTORY, asked(FILTERS[0]), [paged(1)], ALICE_ONLY)) == 8


@pytest.mark.parametrize(
    ("limit", "size", "shape"), [(5, 2, [2, 2, 1]), (4, 2, [2, 2]), (3, 10, [3]), (40, 10, [10, 7])]
)
@pytest.mark.parametrize("stable", [True, False])
def test_the_clients_size_limit_counts_all_pages(limit: int, size: int, shape: list[int], stable: bool) -> None:
    """The page that reaches the limit ends the listing with 4, unless nothing is left."""
    wanted = asked(FILTERS[0], size_limit=limit)
    cookie, sizes = b"", []
    for _ in range(20):
        answer = search(DIRECTORY, wanted, [paged(size, cookie)], stable=stable)
        sizes.append(answer.count)
        cookie = cookie_of(answer)
        if not cookie:
            break
    assert sizes == shape
    assert answer.code == (ResultCode.SIZE_LIMIT_EXCEEDED if limit < 17 else 0)


def test_the_servers_size_limit_counts_per_page() -> None:
    """A limit of the server makes pages smaller, not the listing."""
    answer = search(DIRECTORY, asked(FILTERS[0]), [paged(10)], size_limit=4)
    assert (answer.code, answer.count, bool(cookie_of(answer))) == (0, 4, True)


def test_time_that_runs_out_leaves_no_cookie() -> None:
    """Nothing is skipped behind a page that was cut: the listing ends with 3."""
    wanted = asked(FILTERS[0])
    answer = search(DIRECTORY, wanted, [paged(10)], out_of_time=lambda: True)
    assert list(answer.chunks) == []
    assert answer.final_code == ResultCode.TIME_LIMIT_EXCEEDED


def test_root_and_schema_are_one_page() -> None:
    """A page control on them is answered, with nothing to follow."""
    for base in ("", "cn=subschema"):
        answer = search(DIRECTORY, request(base=base, scope=0), [paged(10)])
        assert (answer.code, answer.count, cookie_of(answer)) == (0, 1, b"")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_octets_as_cookie(cookie: bytes) -> None:
    """Never anything but a page or 53."""
    answer = search(DIRECTORY, asked(FILTERS[0]), [paged(3, cookie)])
    assert answer.code == (ResultCode.UNWILLING_TO_PERFORM if cookie else 0)


def test_what_is_kept_for_direct_searches_is_little_and_short() -> None:
    """By time and by size; the newest stays."""
    now = 0.0
    kept = KeptSnapshots(lambda: now)
    kept.put(b"a", DIRECTORY)
    assert kept.get(b"a") is DIRECTORY
    now = paging.KEPT_S + 1
    assert kept.get(b"a") is None
    kept.put(b"b", DIRECTORY)
    assert len(kept) == 1
    now = 2 * paging.KEPT_S + 2
    kept.purge()
    assert len(kept) == 0
    size = paging.KEPT_FACTOR * sum(len(store.data) for store in DIRECTORY.stores.values())
    for number in range(paging.KEPT_BYTES // size + 10):
        kept.put(b"%d" % number, DIRECTORY)
    assert len(kept) <= paging.KEPT_BYTES // size
    assert kept.get(b"%d" % number) is DIRECTORY
    kept.drop(b"%d" % number)
    assert kept.get(b"%d" % number) is None


def test_control_value_without_sense() -> None:
    """Negative sizes, missing parts, trailing octets: protocol errors."""
    from outposts.ldap.ber import ProtocolError

    for value in (None, b"", b"\x30\x00", b"\x30\x05\x02\x01\xff\x04\x00", b"\x30\x05\x02\x01\x01\x04\x00x"):
        with pytest.raises(ProtocolError):
            paging.decode(value)
    assert Control(ControlOid.PAGED_RESULTS, False, paging.encode(5, b"c")).value == b"\x30\x06\x02\x01\x05\x04\x01c"
