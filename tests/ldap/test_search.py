"""Searches: scope, filter, selection, limits, visibility. Numbers in brackets are rows of the case table."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outposts.ldap import filters
from outposts.ldap.directory import OPERATIONAL, Snapshot
from outposts.ldap.evaluation import evaluate
from outposts.ldap.filters import (
    And,
    Equality,
    Extensible,
    Filter,
    GreaterOrEqual,
    LessOrEqual,
    Not,
    Or,
    Present,
    Substrings,
)
from outposts.ldap.rfc import ResultCode
from outposts.ldap.schema import SYNTAXES, RootInfo
from outposts.ldap.search import FEW_ENTRIES, run
from tests import factories
from tests.ldap.fixture import ALICE_ONLY, BASE, FULL, OPTIONS, ask, entries, names, raw, request, snapshot

b = BASE.lower()
USERS = ["Carol\\2c X,users", "alice,users", "bob,users", "dave(1)*,users", "svc,users"]


@pytest.fixture(scope="module")
def directory() -> Snapshot:
    return snapshot()


FILTERS = [
    ("(cn=ALICE)", ["alice,users", "alice,virtual-groups"]),  # [56]
    (f"(memberOf=cn=ga,ou=groups,{b})", ["alice,users", "bob,users", "gc,groups"]),  # [57]
    (f"(memberOf=CN=GA, ou=groups,{BASE})", ["alice,users", "bob,users", "gc,groups"]),  # [58]
    (f"(memberOf=cn=nope,ou=groups,{b})", []),  # [58]
    (f"(member=cn=alice,ou=users,{b})", ["alice,virtual-groups", "ga,groups", "gb,groups"]),  # [59]
    (f"(member=cn=gc,ou=groups,{b})", ["ga,groups"]),  # [60]
    ("(&(objectClass=user)(!(objectClass=group)))", USERS),  # [62]
    ("(&(objectClass=posixGroup)(gidNumber=8000))", ["bob,virtual-groups"]),  # [63]
    ("(cn=a*zzz*e)", []),  # [64]
    ("(cn=a*i*e)", ["alice,users", "alice,virtual-groups"]),
    ("(uidNumber>=2004)", ["bob,users", "dave(1)*,users", "svc,users"]),  # [65]
    ("(uidNumber<=02001)", ["alice,users"]),
    ("(cn~=alice)", ["alice,users", "alice,virtual-groups"]),  # [65]
    ("(cn:caseIgnoreMatch:=alice)", ["alice,users", "alice,virtual-groups"]),  # [65]
    ("(cn:caseExactMatch:=Alice)", []),
    ("(cn:2.5.13.5:=alice)", ["alice,users", "alice,virtual-groups"]),
    ("(cn=)", []),  # [66]
    (r"(cn=dave\281\29\2a)", ["dave(1)*,users", "dave(1)*,virtual-groups"]),  # [66]
    (r"(cn=a\2a)", []),  # [67]
    ("(member= )", []),  # [77]
    ("(nosuch=x)", []),
    ("(!(nosuch=x))", []),
    ("(|(nosuch=x)(cn=alice))", ["alice,users", "alice,virtual-groups"]),
    ("(uidNumber=x)", []),
    ("(!(uidNumber=x))", []),
    ("(&(objectClass=user)(!(mail=*)))", ["Carol\\2c X,users"]),
    ("(&(objectClass=group)(memberOf=*))", ["gc,groups"]),
    ("(2.5.4.3=alice)", ["alice,users", "alice,virtual-groups"]),
    ("(2.5.6.6=x)", []),
    ("(&(ou:dn:=users)(cn:dn:=alice))", ["alice,users"]),
    ("(:dn:caseIgnoreMatch:=svc)", ["svc,users", "svc,virtual-groups"]),
    ("(gidNumber:1.2.840.113556.1.4.803:=8000)", ["bob,users", "bob,virtual-groups"]),
    (f"(memberOf:1.2.840.113556.1.4.1941:=cn=ga,ou=groups,{b})", ["alice,users", "bob,users", "gc,groups"]),
    ("(cn;lang-de=alice)", []),
    ("(ab-c=X)", ["alice,users"]),
    (f"(entryDN=cn=alice,ou=users,{b})", ["alice,users"]),
    ("(&(hasSubordinates=FALSE)(cn=alice)(objectClass=user))", ["alice,users"]),
]


@pytest.mark.parametrize(("text", "expected"), FILTERS, ids=[text for text, _ in FILTERS])
def test_filters(directory: Snapshot, text: str, expected: list[str]) -> None:
    """Filters on the case table's directory."""
    assert names(ask(directory, text, ["1.1"])) == sorted(expected)


def test_either_class(directory: Snapshot) -> None:
    """[61] Users, groups and virtual groups."""
    assert len(ask(directory, "(|(objectClass=user)(objectClass=group))")) == 13


SCOPES = [
    (BASE, 0, 1),
    (BASE, 1, 3),  # [45]
    (BASE, 2, 17),  # [44]
    (BASE, 3, 16),
    (f"OU=USERS,{BASE}", 2, 6),
    (f"ou=users, {b}", 1, 5),
    (f"ou=users,{b}", 0, 1),
    (f"cn=alice,ou=users,{b}", 0, 1),
    (f"cn=alice,ou=users,{b}", 1, 0),
    (f"cn=alice,ou=users,{b}", 2, 1),
    (rf"cn=Carol\, X,ou=users,{b}", 0, 1),  # [55]
    (f"cn=zz,ou=users,{b}", 0, 0),  # [48]
    ("dc=other", 2, 0),  # [50]
]


@pytest.mark.parametrize(("base", "scope", "count"), SCOPES)
def test_scopes(directory: Snapshot, base: str, scope: int, count: int) -> None:
    """What each base and scope reach."""
    assert len(ask(directory, base=base, scope=scope)) == count


def test_users_are_below_the_lower_case_base(directory: Snapshot) -> None:
    """[46]"""
    found = ask(directory, "(objectClass=user)", base=f"OU=USERS,{BASE}")
    assert names(found) == USERS
    assert all(dn.endswith(f",ou=users,{b}") for dn in found)


def test_strict_and_bad_bases(directory: Snapshot) -> None:
    """[48, 49, 50] noSuchObject with the nearest entry only in strict mode; a base that is no DN is 34."""
    missing = run(directory, request(base=f"cn=zz,ou=users,{b}", scope=0), FULL, strict=True)
    assert (missing.code, missing.matched, missing.count) == (32, f"ou=users,{b}".encode(), 0)
    assert run(directory, request(base="dc=other"), FULL, strict=True).code == 32
    assert run(directory, request(base="garbage"), FULL).code == 34


def test_nobody_bound(directory: Snapshot) -> None:
    """[38, 42] The bare root DSE is for everybody, nothing below is."""
    assert run(directory, request(), None).code == 50
    found = ask(None, base="", scope=0, viewer=None)  # type: ignore[arg-type]
    assert found[""]["objectClass"] == ["top"]
    assert "namingContexts" not in found[""]


def test_root_dse(directory: Snapshot) -> None:
    """[39, 40, 41]"""
    info = RootInfo("1", ("1.2.3",), operational=(("directoryAgeSeconds", "5"),))
    answer = run(directory, request(base="", scope=0), FULL, info=info)
    found = entries(answer)[""]
    assert found["namingContexts"] == [b]
    assert found["supportedControl"] == ["1.2.3"]
    assert "directoryAgeSeconds" not in found
    found = entries(run(directory, request(attributes=["+"], base="", scope=0), FULL, info=info))[""]
    assert found["directoryAgeSeconds"] == ["5"]
    assert "supportedLDAPVersion" in found
    assert run(directory, request(base="", scope=1), FULL).count == 0
    assert run(directory, request("(cn=x)", base="", scope=0), FULL).count == 0


def test_subschema(directory: Snapshot) -> None:
    """[43] In any letter case, also by class."""
    assert "attributeTypes" in ask(directory, base="cn=Subschema", scope=0)["cn=subschema"]
    assert ask(directory, "(objectClass=subschema)", ["cn"], base="cn=subschema", scope=0) == {
        "cn=subschema": {"cn": ["subschema"]}
    }


SELECTIONS = [
    (["CN", "nosuch"], {"cn"}),  # [68]
    (["1.1"], set()),  # [68]
    (["1.1", "cn"], {"cn"}),
    (["cn,mail"], {"cn", "mail"}),  # [69]
    (["cn, mail", "uid"], {"cn", "mail", "uid"}),
    (["2.5.4.3", "surname"], {"cn", "sn"}),
    (["cn;lang-en", "mail;binary"], set()),
    (["+"], set(OPERATIONAL.values())),
    (["objectclass"], {"objectClass"}),
    (["entryUUID", "memberof"], {"entryUUID", "memberOf"}),
    (["@posixAccount"], {"cn", "homeDirectory", "uid", "uidNumber", "gidNumber", "objectClass", "name", "displayName"}),
    (["not an attribute", "\x00"], set()),
]


@pytest.mark.parametrize("types_only", [False, True])
@pytest.mark.parametrize(("attributes", "expected"), SELECTIONS, ids=[str(row[0]) for row in SELECTIONS])
def test_selection(directory: Snapshot, attributes: list[str], expected: set[str], types_only: bool) -> None:
    """Which attributes come; with typesOnly [70] names only. One entry and many take different paths."""
    one = ask(directory, "(&(objectClass=user)(cn=svc))", attributes, types_only=types_only)
    many = ask(_many(), "(objectClass=user)", attributes, types_only=types_only)
    assert len(many) > FEW_ENTRIES
    for entry in (*one.values(), *many.values()):
        assert entry.keys() - {"memberOf"} == expected - {"memberOf"}
        assert all((values == []) == types_only for values in entry.values())


def test_everything_and_operational(directory: Snapshot) -> None:
    """[68] ``*`` with ``+`` is all; ``*`` alone has the timestamps and no operational attributes."""
    dn = f"cn=alice,ou=users,{b}"
    plain = ask(directory, "(cn=alice)")[dn]
    assert plain == ask(directory, "(cn=alice)", ["*"])[dn]
    assert not set(OPERATIONAL.values()) & plain.keys()
    both = ask(directory, "(cn=alice)", ["*", "+"])[dn]
    assert both.keys() == plain.keys() | set(OPERATIONAL.values())
    assert both["entryDN"] == [dn]
    assert both["structuralObjectClass"] == ["inetOrgPerson"]
    assert ask(directory, base=f"ou=users,{b}", scope=0, attributes=["numSubordinates"]) == {
        f"ou=users,{b}": {"numSubordinates": ["5"]}
    }


def _many() -> Snapshot:
    return Snapshot.build(OPTIONS, raw(factories.user(pk, f"u{pk}") for pk in range(1, 200)), [])


def test_many_entries_come_in_chunks() -> None:
    """Whole and selected, the joined chunks are the same entries as one by one."""
    directory = _many()
    for attributes in ([], ["cn"], ["cn", "mail", "objectClass"], ["*", "+"]):
        found = ask(directory, attributes=attributes, message_id=70000)
        for dn, entry in list(found.items())[::37]:
            assert ask(directory, attributes=attributes, base=dn, scope=0) == {dn: entry}


def test_size_limits(directory: Snapshot) -> None:
    """[71] The client's limit ends with 4, the server's with 11; an exact fit is no excess."""
    for limit, code, count in ((2, 4, 2), (5, 0, 5), (6, 0, 5)):
        answer = run(directory, request("(objectClass=user)", size_limit=limit), FULL)
        assert (answer.code, len(entries(answer))) == (code, count)
    answer = run(directory, request("(objectClass=user)", size_limit=4), FULL, size_limit=3)
    assert (answer.code, answer.count) == (ResultCode.ADMIN_LIMIT_EXCEEDED, 3)


def test_time_limit() -> None:
    """Time that runs out ends the entries; the final code says so."""
    answer = run(_many(), request(), FULL, out_of_time=lambda: True)
    assert list(answer.chunks) == []
    assert answer.final_code == ResultCode.TIME_LIMIT_EXCEEDED
    answer = run(_many(), request(), FULL, out_of_time=lambda: False)
    assert len(entries(answer)) == answer.count
    assert answer.final_code == 0


RESTRICTED = [
    f"(member=cn=bob,ou=users,{b})",
    f"(memberOf=cn=ga,ou=groups,{b})",
    "(cn=bob)",
    "(uidNumber=8000)",
    f"(!(member=cn=alice,ou=users,{b}))",
    "(cn=*)",
    "(objectClass=group)",
    f"(memberOf:1.2.840.113556.1.4.1941:=cn=ga,ou=groups,{b})",
]


@pytest.mark.parametrize("text", RESTRICTED)
def test_filters_tell_nothing_about_others(directory: Snapshot, text: str) -> None:
    """[83] Without the right a filter answers as if nothing else existed: rows, limits and counts alike."""
    users = [user for user in factories.conformance_users() if user["username"] == "alice"]
    groups = [dict(group, parents=[]) for group in factories.conformance_groups() if 1 in group["users"]]
    for group in groups:
        group["users"] = [1]
    factories.link(users, groups)
    alone = Snapshot.build(OPTIONS, raw(users), raw(groups))
    assert ask(directory, text, ["*", "+"], viewer=ALICE_ONLY) == ask(alone, text, ["*", "+"])
    limited = run(directory, request(text, size_limit=1), ALICE_ONLY)
    assert limited.code == run(alone, request(text, size_limit=1), FULL).code


def test_base_read_of_somebody_else(directory: Snapshot) -> None:
    """[84] Empty; in strict mode the same answer as for a name that does not exist."""
    assert ask(directory, base=f"cn=bob,ou=users,{b}", scope=0, viewer=ALICE_ONLY) == {}
    codes = {
        run(directory, request(base=f"cn={name},ou=users,{b}", scope=0), ALICE_ONLY, strict=True).code
        for name in ("bob", "nobody")
    }
    assert codes == {32}


# A plain evaluator as the oracle: walks each entry, knows nothing of sets


def truth(directory: Snapshot, entry: dict[str, list[bytes]], node: Filter) -> bool | None:
    """RFC 4511 §4.5.1.7 for one entry."""
    if isinstance(node, And | Or):
        results = [truth(directory, entry, child) for child in node.children]
        stop = isinstance(node, Or)
        return stop if stop in results else None if None in results else not stop
    if isinstance(node, Not):
        result = truth(directory, entry, node.child)
        return None if result is None else not result
    assert isinstance(node, Equality | Substrings | GreaterOrEqual | LessOrEqual | Present)
    kind = directory.schema.types.get(node.attribute)
    if kind is None:
        return None
    syntax = SYNTAXES[kind.syntax]
    values = entry.get(kind.names[0].lower(), [])
    if isinstance(node, Present):
        return bool(values)
    own = [value for value in map(syntax.normalise, values) if value is not None]
    if isinstance(node, Substrings):
        if syntax.substrings is None:
            return None
        parts = [node.initial or b"", *node.any, node.final or b""]
        folded = [part.decode().lower() for part in parts]
        return any(_like(value.decode(), folded) for value in own)
    wanted = syntax.normalise(node.value)
    if wanted is None:
        return None
    if isinstance(node, Equality):
        return wanted in own
    if syntax.ordering is None:
        return None
    return any(value >= wanted if isinstance(node, GreaterOrEqual) else value <= wanted for value in own)


def _like(value: str, parts: list[str]) -> bool:
    if not value.startswith(parts[0]):
        return False
    rest = value[len(parts[0]) :]
    for part in parts[1:-1]:
        if part not in rest:
            return False
        rest = rest.split(part, 1)[1]
    return len(rest) >= len(parts[-1]) and rest.endswith(parts[-1])


ATTRIBUTES = st.sampled_from(
    ["cn", "sn", "mail", "uidnumber", "gidnumber", "member", "memberof", "ak-active", "extra", "nosuch", "description",
     "createtimestamp", "telephonenumber"]
)  # fmt: skip
ASSERTED = st.sampled_from(
    [b"a1", b"A2", b"b", b"x", b"2001", b"2003", b"-5", b"TRUE", b"20240101000000Z", b"a1@x.io",
     f"cn=a1,ou=users,{b}".encode(), f"cn=g,ou=groups,{b}".encode(), b"+49 1", b""]
)  # fmt: skip
SHORT = st.sampled_from([b"a", b"1", b"x", b"A", b".i"])
ITEMS = st.one_of(
    st.builds(Equality, ATTRIBUTES, ASSERTED),
    st.builds(Present, ATTRIBUTES),
    st.builds(GreaterOrEqual, ATTRIBUTES, ASSERTED),
    st.builds(LessOrEqual, ATTRIBUTES, ASSERTED),
    st.builds(Substrings, ATTRIBUTES, SHORT, st.tuples(SHORT), st.none() | SHORT),
    st.builds(Substrings, ATTRIBUTES, st.none(), st.tuples(SHORT), st.none()),
    st.builds(Substrings, ATTRIBUTES, st.none(), st.tuples(), SHORT),
)
TREES: st.SearchStrategy[Filter] = st.recursive(
    ITEMS,
    lambda inner: st.one_of(
        st.builds(And, st.lists(inner, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, max_size=3).map(tuple)),
        st.builds(Not, inner),
    ),
    max_leaves=8,
)
PEOPLE = st.lists(
    st.tuples(st.sampled_from("abAx"), st.sampled_from([None, "b", "2001", "x"]), st.booleans()), max_size=6
)


@settings(max_examples=400, deadline=None)
@given(PEOPLE, st.sets(st.integers(1, 6)), TREES)
def test_evaluator_against_plain_walk(
    people: list[tuple[str, str | None, bool]], members: set[int], node: Filter
) -> None:
    """True and Undefined are the same sets that a walk over all entries gives."""
    users = [
        factories.user(
            pk, f"{letter}{pk}", is_active=active,
            attributes={"extra": extra, "uidNumber": extra, "telephoneNumber": f"+49 {pk}"} if extra else {},
        )
        for pk, (letter, extra, active) in enumerate(people, 1)
    ]  # fmt: skip
    groups = [factories.group("g", 3, users=sorted(pk for pk in members if pk <= len(users)))]
    factories.link(users, groups)
    directory = Snapshot.build(OPTIONS, raw(users), raw(groups))
    true, undefined = evaluate(directory, node)
    for number in directory.all:
        expected = truth(directory, directory.entry(number), node)
        assert (number in true, undefined is not None and number in undefined) == (expected is True, expected is None)


@settings(max_examples=100, deadline=None)
@given(TREES)
def test_evaluation_never_changes_the_snapshot(node: Filter) -> None:
    """Sets that belong to the snapshot come out of any evaluation unchanged."""
    directory = _SHARED
    before = {name: directory.indexes[name].present.copy() for name in directory.indexes}
    everything = directory.all.copy()
    evaluate(directory, node)
    assert directory.all == everything
    assert all(directory.indexes[name].present == members for name, members in before.items())


_SHARED = snapshot()


def test_unknown_kinds_are_undefined(directory: Snapshot) -> None:
    """A choice or a rule that nobody knows is Undefined for all, so is its negation."""
    for node in (
        filters.Undefined(b"\x8a\x00"),
        Extensible("1.2.3.4", "cn", b"x"),
        Extensible("integermatch", "cn", b"1"),
        Extensible(None, "nosuch", b"x"),
    ):
        for tested in (node, Not(node)):
            true, undefined = evaluate(directory, tested)
            assert not true
            assert undefined == directory.all
