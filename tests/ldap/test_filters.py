"""Filters: BER and text forms, vectors of RFC 4515 §4, tolerance, limits, and the push-down to the API."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from ldaptor.protocols import pureber, pureldap

from outposts.ldap import filters as f
from outposts.ldap.ber import ProtocolError, tlv
from outposts.ldap.dn import DN
from outposts.ldap.filter_text import parse_text, to_text
from outposts.ldap.narrowing import EVERYTHING, NOTHING, ApiQuery, Term, narrow, narrow_entry
from tests.ldap.strategies import trees

RFC_4515_SECTION_4: list[tuple[str, f.Filter]] = [
    ("(cn=Babs Jensen)", f.Equality("cn", b"Babs Jensen")),
    ("(!(cn=Tim Howes))", f.Not(f.Equality("cn", b"Tim Howes"))),
    (
        "(&(objectClass=Person)(|(sn=Jensen)(cn=Babs J*)))",
        f.And(
            (
                f.Equality("objectclass", b"Person"),
                f.Or((f.Equality("sn", b"Jensen"), f.Substrings("cn", b"Babs J", (), None))),
            )
        ),
    ),
    ("(o=univ*of*mich*)", f.Substrings("o", b"univ", (b"of", b"mich"), None)),
    ("(seeAlso=)", f.Equality("seealso", b"")),
    ("(cn:caseExactMatch:=Fred Flintstone)", f.Extensible("caseexactmatch", "cn", b"Fred Flintstone")),
    ("(cn:=Betty Rubble)", f.Extensible(None, "cn", b"Betty Rubble")),
    ("(sn:dn:2.4.6.8.10:=Barney Rubble)", f.Extensible("2.4.6.8.10", "sn", b"Barney Rubble", True)),
    ("(o:dn:=Ace Industry)", f.Extensible(None, "o", b"Ace Industry", True)),
    ("(:1.2.3:=Wilma Flintstone)", f.Extensible("1.2.3", None, b"Wilma Flintstone")),
    ("(:DN:2.4.6.8.10:=Dino)", f.Extensible("2.4.6.8.10", None, b"Dino", True)),
    (r"(o=Parens R Us \28for all your parenthetical needs\29)",
     f.Equality("o", b"Parens R Us (for all your parenthetical needs)")),
    (r"(cn=*\2A*)", f.Substrings("cn", None, (b"*",), None)),
    (r"(filename=C:\5cMyFile)", f.Equality("filename", rb"C:\MyFile")),
    (r"(bin=\00\00\00\04)", f.Equality("bin", b"\x00\x00\x00\x04")),
    (r"(sn=Lu\c4\8di\c4\87)", f.Equality("sn", "Lučić".encode())),
    (r"(1.3.6.1.4.1.1466.0=\04\02\48\69)", f.Equality("1.3.6.1.4.1.1466.0", b"\x04\x02Hi")),
]  # fmt: skip


def decode(data: bytes, max_nesting: int = f.MAX_NESTING) -> f.Filter:
    node, end = f.decode(data, 0, len(data), max_nesting)
    assert end == len(data)
    return node


@pytest.mark.parametrize(("text", "tree"), RFC_4515_SECTION_4)
def test_rfc_4515_vectors(text: str, tree: f.Filter) -> None:
    """https://www.rfc-editor.org/rfc/rfc4515#section-4, both ways."""
    assert parse_text(text) == tree
    assert parse_text(to_text(tree)) == tree
    assert decode(f.encode(tree)) == tree


@given(trees)
def test_every_tree_survives_both_forms(tree: f.Filter) -> None:
    """BER and text are inverse to their writers."""
    assert decode(f.encode(tree)) == tree
    assert parse_text(to_text(tree)) == tree


@given(trees)
def test_ldaptor_reads_what_we_write(tree: f.Filter) -> None:
    """An independent codec takes our octets and gives them back unchanged."""
    ours = f.encode(tree)
    assume(b"\xa0\x00" not in ours)  # ldaptor has no absolute true and false
    assume(b"\xa1\x00" not in ours)
    assume(":" not in to_text(tree))  # ldaptor writes a matching rule's false default, which is legal but not ours
    theirs, size = pureber.berDecodeObject(
        pureldap.LDAPBERDecoderContext_Filter(
            fallback=pureldap.LDAPBERDecoderContext(fallback=pureber.BERDecoderContext())
        ),
        ours,
    )
    assert size == len(ours)
    assert decode(theirs.toWire()) == tree


@pytest.mark.parametrize("description", ["", " ", "c n", "cn;", "cn;a b", "1.", "-cn", "c(n", "*", "cn=", "\xff"])
def test_malformed_description_is_undefined(description: str) -> None:
    """RFC 4511 §4.5.1.7: an unrecognised description makes an item undefined, not an error; nothing is lost."""
    raw = tlv(0xA3, tlv(0x04, description.encode("latin-1")) + tlv(0x04, b"x"))
    assert decode(raw) == f.Undefined(raw)
    assert f.encode(f.Undefined(raw)) == raw
    assert to_text(f.Undefined(raw)) == "(?undefined)"
    present = tlv(0x87, description.encode("latin-1"))
    assert decode(present) == f.Undefined(present)


def test_long_descriptions_are_not_remembered() -> None:
    """A client cannot fill memory with names."""
    before = f._normalise_cached.cache_info().currsize
    for number in range(10):
        assert f.attribute_description(b"a" * 100 + b"%d" % number)
    assert f._normalise_cached.cache_info().currsize == before


def test_unknown_choice_is_undefined() -> None:
    """A kind of filter that no specification defines yet is undefined."""
    raw = bytes.fromhex("aa03040161")
    assert decode(raw) == f.Undefined(raw)
    assert decode(tlv(0xA0, raw)) == f.And((f.Undefined(raw),))


@pytest.mark.parametrize(
    "data",
    [
        "3000",  # not a choice
        "8300",  # primitive equality
        "a300",  # no assertion
        "a3030401",  # truncated
        "a200",  # not without child
        "a206870161870162",  # not with two children
        "a4050401613000",  # no substrings
        "a40b0401613006800161800162",  # two initial ones
        "a40b0401613006820161810162",  # any behind final
        "a4080401613003830161",  # unknown substring choice
        "a900",  # extensible without value
    ],
)
def test_broken_filters(data: str) -> None:
    """Broken structure is the protocol error."""
    octets = bytes.fromhex(data)
    with pytest.raises(ProtocolError):
        decode(octets)


def test_extensible_needs_rule_or_type() -> None:
    """RFC 4511 §4.5.1.7.7; the encoding is whole, so the connection may go on."""
    with pytest.raises(ProtocolError) as caught:
        decode(bytes.fromhex("a903830161"))
    assert not caught.value.fatal


def test_nesting_is_capped() -> None:
    """At the cap it works, one deeper it is refused, and thousands deep neither recursion nor memory gives in."""
    tree: f.Filter = f.Present("cn")
    for _ in range(f.MAX_NESTING):
        tree = f.Not(tree)
    assert decode(f.encode(tree)) == tree
    with pytest.raises(ProtocolError, match="deep") as caught:
        decode(f.encode(f.Not(tree)))
    assert not caught.value.fatal
    data = b"\x87\x01a"
    for _ in range(20_000):
        data = tlv(0xA2, data)
    with pytest.raises(ProtocolError, match="deep"):
        decode(data)
    with pytest.raises(f.FilterError, match="deep"):
        parse_text("(!" * 20_000 + "(a=b)" + ")" * 20_000)


@given(st.binary(max_size=60))
def test_decoder_has_two_answers(data: bytes) -> None:
    """A filter or the protocol error."""
    try:
        node, end = f.decode(data, 0, len(data))
    except ProtocolError:
        return
    assert 0 < end <= len(data)
    f.encode(node)
    to_text(node)


@given(st.text(max_size=40) | st.text(alphabet="()&|!*\\=<>~:a b2", max_size=40))
def test_parser_has_two_answers(text: str) -> None:
    """A filter or the filter error."""
    try:
        parse_text(text)
    except f.FilterError:
        pass


@pytest.mark.parametrize(
    "text", ["(cn=a", "cn", "()", "(&(cn=a)", "(cn=a))", r"(cn=\2)", "(cn=a)b", "(!)", "(cn>=a*b)"]
)
def test_broken_text(text: str) -> None:
    """Broken texts are refused."""
    with pytest.raises(f.FilterError):
        parse_text(text)


def test_options_are_split() -> None:
    """RFC 4512 §2.5.2: options are a set."""
    assert f.split_options("cn;lang-de;x") == ("cn", {"lang-de", "x"})
    assert f.split_options("cn") == ("cn", frozenset())


# --- push-down --------------------------------------------------------------------------------------------------------

BASE = "dc=ldap,dc=goauthentik,dc=io"


def user(parameter: str, value: str, searchable: bool = True) -> Term:
    return Term(parameter, value, "users", parameter, True, searchable)


def group(value: str, searchable: bool = True) -> Term:
    return Term("name", value, "groups", "name", True, searchable)


def by_group(value: str) -> Term:
    return Term("groups_by_name", value, "groups", "name", False, True)


def by_member(value: str) -> Term:
    return Term("members_by_username", value, "users", "username", False, True)


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("(cn=ALICE)", ApiQuery((user("username", "ALICE"),), (group("ALICE"),))),
        ("(2.5.4.3=alice)", ApiQuery((user("username", "alice"),), (group("alice"),))),
        ("(displayName=Alice)", ApiQuery((user("name", "Alice"),), ())),
        ("(name=Alice A)", ApiQuery((user("name", "Alice A", searchable=False),), ())),
        ("(mail=alice@x.io)", ApiQuery((user("email", "alice@x.io"),), ())),
        (f"(memberOf=cn=ga,ou=groups,{BASE})", ApiQuery((by_group("ga"),), ())),
        (f"(memberOf=CN=GA, OU=Groups,{BASE})", ApiQuery((by_group("GA"),), ())),
        (f"(memberOf=cn=alice,ou=users,{BASE})", NOTHING),
        ("(memberOf=ga)", NOTHING),
        (f"(member=cn=alice,ou=users,{BASE})", ApiQuery((user("username", "alice"),), (by_member("alice"),))),
        (f"(member=cn=gc,ou=groups,{BASE})", ApiQuery(None, ())),
        (f"(member=cn=alice,ou=virtual-groups,{BASE})", NOTHING),
        ("(member= )", NOTHING),
        ("(member=cn=x,dc=elsewhere)", EVERYTHING),
        ("(&(objectClass=user)(cn=alice))", ApiQuery((user("username", "alice"),), (group("alice"),))),
        ("(&(&(&(mail=a@b))))", ApiQuery((user("email", "a@b"),), ())),
        ("(&(cn=a)(cn=b))", ApiQuery((user("username", "a"), user("username", "b")), (group("a"), group("b")))),
        (f"(&(cn=a)(member=cn=gc,ou=groups,{BASE}))", ApiQuery(None, (group("a"),))),
        ("(|(cn=a)(cn=b))", EVERYTHING),
        ("(!(cn=a))", EVERYTHING),
        ("(&(!(cn=a))(|(mail=b)))", EVERYTHING),
        ("(cn=a*)", EVERYTHING),
        ("(cn>=a)", EVERYTHING),
        ("(cn=*)", EVERYTHING),
        ("(cn:=a)", EVERYTHING),
        ("(cn;lang-de=a)", EVERYTHING),
        ("(uid=a)", EVERYTHING),
        ("(objectClass=user)", EVERYTHING),
        (r"(cn=\ff)", EVERYTHING),
        (r"(cn=dave\281\29\2a)", ApiQuery((user("username", "dave(1)*", False),), (group("dave(1)*", False),))),
    ],
)  # fmt: skip
def test_narrowing(text: str, query: ApiQuery) -> None:
    """Spec §3.7 as amended by its §8: what each kind of item asks of the API."""
    assert narrow(parse_text(text)) == query


def test_narrowing_follows_the_options() -> None:
    """Nested groups do not narrow by membership; a user name in uid, and fixed object classes, do."""
    member_of = parse_text(f"(memberOf=cn=ga,ou=groups,{BASE})")
    assert narrow(member_of, nested_groups=True) == EVERYTHING
    member = parse_text(f"(member=cn=alice,ou=users,{BASE})")
    assert narrow(member, nested_groups=True) == ApiQuery((user("username", "alice"),), ())
    assert narrow(parse_text("(uid=a)"), uid_is_username=True) == ApiQuery((user("username", "a"),), ())
    assert narrow(parse_text("(objectClass=User)"), object_class_fixed=True) == ApiQuery((), None)
    assert narrow(parse_text("(objectClass=group)"), object_class_fixed=True) == EVERYTHING


def test_narrowing_to_one_entry() -> None:
    """A read of one entry by name asks one list only."""
    base = DN.parse(BASE)
    assert narrow_entry(DN.parse(f"cn=Alice,ou=USERS,{BASE}"), base) == ApiQuery((user("username", "Alice"),), None)
    virtual = narrow_entry(DN.parse(f"cn=alice,ou=virtual-groups,{BASE}"), base)
    assert virtual == ApiQuery((user("username", "alice"),), None)
    assert narrow_entry(DN.parse(f"cn=ga,ou=groups,{BASE}"), base) == ApiQuery(None, (group("ga"),))
    assert narrow_entry(DN.parse(f"cn=ga,ou=other,{BASE}"), base) == NOTHING
    assert narrow_entry(DN.parse("cn=alice,ou=users,dc=other,dc=a,dc=b"), base) == NOTHING
