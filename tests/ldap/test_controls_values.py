"""Matched values (RFC 3876), assertions (RFC 4528) and subentries (RFC 3672)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outposts.ldap import assertion, matched_values
from outposts.ldap.ber import ProtocolError
from outposts.ldap.directory import Snapshot
from outposts.ldap.evaluation import matches
from outposts.ldap.filter_text import parse_text
from outposts.ldap.filters import Equality, Filter, Not, Present, encode
from outposts.ldap.messages import SearchRequest
from outposts.ldap.rfc import ResultCode
from outposts.ldap.search import run
from tests import factories
from tests.ldap.fixture import ALICE_ONLY, BASE, FULL, OPTIONS, entries, raw, request, snapshot
from tests.ldap.listings import asserted, estimate_of, names, paged, search, sort, subentries, values
from tests.ldap.test_search import ITEMS

b = BASE.lower()
DIRECTORY = snapshot()
ALICE = f"cn=alice,ou=users,{b}"


def shown(
    text: str, *attributes: str, items: tuple[str, ...], types_only: bool = False
) -> dict[str, dict[str, list[str]]]:
    """A search whose values are cut down."""
    return entries(
        search(DIRECTORY, request(text, attributes, types_only=types_only), [values(*map(parse_text, items))])
    )


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (("(memberOf=CN=ga, ou=groups," + BASE + ")",), [f"cn=ga,ou=groups,{b}"]),
        (("(memberOf=*)",), [f"cn=ga,ou=groups,{b}", f"cn=gb,ou=groups,{b}"]),
        (("(memberOf=cn=zz,ou=groups," + b + ")", "(cn=alice)"), []),
        (("(memberOf=cn=gb,ou=groups," + b + ")", "(memberOf=x)"), [f"cn=gb,ou=groups,{b}"]),
        ((), []),
    ],
)
def test_only_matching_values_come(items: tuple[str, ...], expected: list[str]) -> None:
    """Values that match any item; an attribute without one comes with an empty set."""
    found = shown("(&(objectClass=user)(cn=alice))", "memberOf", items=items)
    assert found == {ALICE: {"memberOf": expected}}


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("(lst=A)", ["a"]),
        ("(lst>=6)", ["a", "6"]),
        ("(lst<=3)", ["1.5"]),
        ("(lst=1*5)", ["1.5"]),
        ("(lst~=a)", ["a"]),
        ("(lst:caseExactMatch:=A)", []),
        ("(lst:caseExactMatch:=a)", ["a"]),
        ("(:caseIgnoreMatch:=a)", ["a"]),
        ("(lst:2.5.13.3:=6)", ["1.5"]),
        ("(lst:1.2.3:=a)", []),
        ("(lst:integerMatch:=6)", []),
    ],
)
def test_kinds_of_items(item: str, expected: list[str]) -> None:
    """Each kind of item on single values."""
    found = shown("(&(objectClass=user)(cn=alice))", "lst", "cn", items=(item,))
    assert found == {ALICE: {"lst": expected, "cn": []}}


def test_numbers_by_bits() -> None:
    """Active Directory's bit rules; in-chain is about entries and matches no value."""
    for item, count in (("(gidNumber:1.2.840.113556.1.4.803:=8000)", 1), ("(gidNumber:1.2.840.113556.1.4.804:=64)", 1),
                        ("(gidNumber:1.2.840.113556.1.4.803:=1)", 0),
                        ("(memberOf:1.2.840.113556.1.4.1941:=cn=ga,ou=groups," + b + ")", 0)):  # fmt: skip
        found = shown("(&(objectClass=user)(cn=bob))", "gidNumber", "memberOf", items=(item,))
        assert sum(len(row) for row in found[f"cn=bob,ou=users,{b}"].values()) == count


def test_where_the_control_changes_nothing() -> None:
    """Names only, and no attributes (§2)."""
    assert shown("(cn=alice)", "cn", items=("(cn=zz)",), types_only=True)[ALICE] == {"cn": []}
    assert shown("(cn=alice)", "1.1", items=("(cn=zz)",))[ALICE] == {}


def test_root_and_schema_too() -> None:
    """Values of the entries outside the directory."""
    asked = request("(objectClass=*)", ["supportedLDAPVersion", "vendorName"], base="", scope=0)
    found = entries(search(DIRECTORY, asked, [values(parse_text("(supportedLDAPVersion=3)"))]))
    assert found == {"": {"supportedLDAPVersion": ["3"], "vendorName": []}}


@settings(max_examples=200, deadline=None)
@given(ITEMS)
def test_values_and_filters_agree(item: Filter) -> None:
    """An entry matches an item exactly when one of its values does."""
    directory = _MANY
    asked = request()
    found = entries(search(directory, asked, [values(item)]))
    attribute = directory.schema.canonical(getattr(item, "attribute", ""))
    true = matches(directory, item)
    for number in directory.all:
        own = found[directory.dn(number).decode()]
        kept = [
            value for name, values in own.items() if directory.schema.canonical(name) == attribute for value in values
        ]
        assert bool(kept) == (number in true), (item, own)
        assert not any(values for name, values in own.items() if directory.schema.canonical(name) != attribute)


def _many() -> Snapshot:
    users = [
        factories.user(pk, f"a{pk}", attributes={"extra": ["b", "x"][: pk % 3], "telephoneNumber": f"+49 {pk}"})
        for pk in range(1, 8)
    ]
    groups = [factories.group("g", 3, users=[1, 2])]
    factories.link(users, groups)
    return Snapshot.build(OPTIONS, raw(users), raw(groups))


_MANY = _many()


def test_values_filter_is_flat() -> None:
    """And, or, not, dnAttributes, too many items, trailing octets: protocol errors."""
    for broken in (
        None,
        b"",
        values(Not(Present("cn"))).value,
        values(parse_text("(&)")).value,
        values(parse_text("(cn:dn:=x)")).value,
        values(*[Present("cn")] * (matched_values.MAX_ITEMS + 1)).value,
        (values(Present("cn")).value or b"") + b"x",
    ):
        with pytest.raises(ProtocolError):
            matched_values.decode(broken)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40))
def test_any_octets_as_filters(value: bytes) -> None:
    """A filter or a protocol error, for both controls that hold one."""
    for decode in (matched_values.decode, assertion.decode):
        try:
            decode(value)
        except ProtocolError:
            pass


# Assertions


def at(base: str, text: str = "(objectClass=*)") -> SearchRequest:
    """A base search."""
    return request(text, base=base, scope=0)


@pytest.mark.parametrize(
    ("base", "text", "code"),
    [
        (ALICE, "(mail=alice@x.io)", 0),
        (ALICE, "(mail=bob@x.io)", ResultCode.ASSERTION_FAILED),
        (ALICE, "(nosuch=x)", ResultCode.ASSERTION_FAILED),
        (ALICE, "(!(nosuch=x))", ResultCode.ASSERTION_FAILED),
        (f"ou=users,{b}", "(numSubordinates=5)", 0),
        (f"cn=zz,ou=users,{b}", "(objectClass=*)", ResultCode.ASSERTION_FAILED),
        ("", "(supportedLDAPVersion=3)", 0),
        ("", "(supportedLDAPVersion=2)", ResultCode.ASSERTION_FAILED),
        ("garbage", "(cn=*)", ResultCode.INVALID_DN_SYNTAX),
    ],
)
def test_assertions_about_the_base(base: str, text: str, code: int) -> None:
    """The search goes on only if the filter is true for its base; Undefined is not true."""
    answer = search(DIRECTORY, at(base), [asserted(parse_text(text))])
    assert answer.code == code
    assert answer.count == (code == 0)


def test_assertions_tell_nothing_about_hidden_entries() -> None:
    """To a viewer who may not see it an entry is not there."""
    answer = search(DIRECTORY, at(f"cn=bob,ou=users,{b}"), [asserted(Present("cn"))], ALICE_ONLY)
    missing = search(DIRECTORY, at(f"cn=zz,ou=users,{b}"), [asserted(Present("cn"))], ALICE_ONLY)
    assert (answer.code, answer.diagnostic) == (missing.code, missing.diagnostic)


def test_assertion_value() -> None:
    """A filter and nothing behind it."""
    node = parse_text("(&(cn=a)(!(sn=b)))")
    assert assertion.decode(encode(node)) == node
    for broken in (None, b"", encode(node) + b"x"):
        with pytest.raises(ProtocolError):
            assertion.decode(broken)


# Subentries


def test_subentries() -> None:
    """There are none: asked for they alone come, so nothing does; else all other entries."""
    assert search(DIRECTORY, request(), [subentries(True)]).count == 0
    nothing = search(DIRECTORY, request(), [subentries(True), paged(5)])
    assert (nothing.count, estimate_of(nothing)) == (0, 0)
    assert search(DIRECTORY, request(base="", scope=0), [subentries(True)]).count == 0
    everything = search(DIRECTORY, request(), [subentries(False), sort("cn")])
    assert sorted(names(everything)) == sorted(names(run(DIRECTORY, request(), FULL)))


def test_equality_of_something_else_is_left() -> None:
    """Values of attributes that no item names go, whatever they are."""
    answer = search(DIRECTORY, request("(cn=alice)"), [values(Equality("cn", b"alice"))])
    for entry in entries(answer).values():
        assert {name for name, left in entry.items() if left} == {"cn"}
