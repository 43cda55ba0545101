"""Names: vectors of RFC 4514 §4, equality, order, tolerance, limits, and printing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ldap3.utils.dn import parse_dn as ldap3_parse
from ldaptor.protocols.ldap.distinguishedname import DistinguishedName

from outposts.ldap import dn as module
from outposts.ldap.dn import DN, DNError, escape_value, fold

RFC_4514_SECTION_4: list[tuple[str, list[list[tuple[str, str]]]]] = [
    ("UID=jsmith,DC=example,DC=net", [[("uid", "jsmith")], [("dc", "example")], [("dc", "net")]]),
    (
        "OU=Sales+CN=J.  Smith,DC=example,DC=net",
        [[("ou", "Sales"), ("cn", "J.  Smith")], [("dc", "example")], [("dc", "net")]],
    ),
    (
        r"CN=James \"Jim\" Smith\, III,DC=example,DC=net",
        [[("cn", 'James "Jim" Smith, III')], [("dc", "example")], [("dc", "net")]],
    ),
    (r"CN=Before\0dAfter,DC=example,DC=net", [[("cn", "Before\rAfter")], [("dc", "example")], [("dc", "net")]]),
    ("1.3.6.1.4.1.1466.0=#04024869", [[("1.3.6.1.4.1.1466.0", "Hi")]]),
    (r"CN=Lu\C4\8Di\C4\87", [[("cn", "Lučić")]]),
]


def pairs(name: DN) -> list[list[tuple[str, str]]]:
    return [[(ava.type, ava.value) for ava in rdn] for rdn in name.rdns]


@pytest.mark.parametrize(("text", "expected"), RFC_4514_SECTION_4)
def test_rfc_4514_vectors(text: str, expected: list[list[tuple[str, str]]]) -> None:
    """https://www.rfc-editor.org/rfc/rfc4514#section-4: parsed, printed, parsed again; text and octets alike."""
    name = DN.parse(text)
    assert pairs(name) == expected
    assert DN.parse(str(name)) == name
    assert pairs(DN.parse(str(name))) == expected
    assert DN.parse(text.encode()) == name


def test_printing_keeps_the_rfc_forms() -> None:
    """Escapes are printed as RFC 4514 §2.4 has them, hex values as they came."""
    assert str(DN.parse(r"CN=James \"Jim\" Smith\, III,DC=net")) == r"CN=James \"Jim\" Smith\, III,DC=net"
    assert str(DN.parse("1.3.6.1.4.1.1466.0=#04024869")) == "1.3.6.1.4.1.1466.0=#04024869"
    assert str(DN.parse(r"CN=Before\0dAfter")) == r"CN=Before\0dAfter"
    assert str(DN().child("ou", "users").child("cn", "Carol, X")) == r"cn=Carol\, X,ou=users"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cn=alice,ou=users,dc=io", "CN=ALICE,OU=Users,DC=IO"),
        ("cn=alice,ou=users,dc=io", "cn = alice , ou = users ,  dc=io"),
        ("cn=alice,ou=users,dc=io", "cn=alice;ou=users;dc=io"),
        ("cn=alice,dc=io", 'cn="alice",dc=io'),
        ("cn=a\\,b,dc=io", 'cn="a,b",dc=io'),
        ("cn=a\\,b,dc=io", "cn=a\\2cb,dc=io"),
        ("cn=alice,dc=io", "cn=\\61lice,dc=io"),
        ("cn=alice,dc=io", "2.5.4.3=alice,0.9.2342.19200300.100.1.25=io"),
        ("cn=alice,dc=io", "OID.2.5.4.3=alice,domainComponent=io"),
        ("cn=alice", "commonName=Alice"),
        ("cn=a  b", "cn=a b"),
        ("cn=a+uid=b,dc=io", "UID=B+CN=A,dc=io"),
        ("cn=Hi", "cn=#0C024869"),
        ("cn=straße", "cn=STRASSE"),
        ("cn=Müller", "cn=Mu\u0308ller"),
        ("cn=Lučić", "cn=LUČIĆ"),
        ("cn=\\20alice\\20", "cn=alice"),
        ("cn=a=b", "cn=a\\=b"),
        ("cn=al\u00adice", "cn=alice"),
    ],
)
def test_equal_names_have_equal_keys(one: str, other: str) -> None:
    """Case, spacing, escapes, separators, OIDs, order inside an RDN and Unicode composition do not matter."""
    assert DN.parse(one) == DN.parse(other)
    assert DN.parse(one).key == DN.parse(other).key
    assert hash(DN.parse(one)) == hash(DN.parse(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cn=alice", "cn=alicf"),
        ("cn=alice", "uid=alice"),
        ("cn=a,cn=b", "cn=b,cn=a"),
        ("cn=a,cn=b", "cn=a+cn=b"),
        ("cn=a,cn=b", "cn=a\\,cn=b"),
        ("cn=a+cn=b", "cn=a\\+cn=b"),
        ("cn=#0202010a", "cn=\\#0202010a"),
        ("cn=a", "cn=a,dc=io"),
        ("cn=", "cn=a"),
        ("cn=#0C0423616263", "cn=#0403230000"),
    ],
)
def test_different_names_have_different_keys(one: str, other: str) -> None:
    """Nothing is normalised away that tells names apart."""
    assert DN.parse(one) != DN.parse(other)


@pytest.mark.parametrize(
    "text",
    [
        "garbage",
        " ",
        ",",
        "cn=a,",
        ",cn=a",
        "cn=a,,dc=b",
        "cn=a+",
        "=a",
        "1a=b",
        "c n=a",
        "cn_x=a",
        "cn=a\\",
        "cn=a\\4",
        "cn=a\\x",
        'cn="a',
        'cn="a"b',
        'cn=a"b',
        "cn=#",
        "cn=#0",
        "cn=#04",
        "cn=#0402",
        "cn=#0401616",
        "cn=#04016161",
        "cn=#xy",
        "cn=\\ff",
        "cn=\\00",
        "cn=a\x00b",
        "cn=\ud800",
        b"cn=\xff",
    ],
)
def test_broken_names(text: str | bytes) -> None:
    """invalidDNSyntax, said by one exception."""
    with pytest.raises(DNError):
        DN.parse(text)


def test_limits() -> None:
    """Length and number of RDNs are capped, exactly; long names are not remembered."""
    assert len(DN.parse(",".join(["cn=a"] * module.MAX_RDNS))) == module.MAX_RDNS
    with pytest.raises(DNError, match="too many"):
        DN.parse(",".join(["cn=a"] * (module.MAX_RDNS + 1)))
    before = module._parse_cached.cache_info().currsize
    assert DN.parse("cn=" + "a" * (module.MAX_LENGTH - 3))
    assert module._parse_cached.cache_info().currsize == before
    for text in ("cn=" + "a" * (module.MAX_LENGTH - 2), b"cn=" + b"a" * (module.MAX_LENGTH - 2)):
        with pytest.raises(DNError, match="too long"):
            DN.parse(text)


def test_position_in_the_tree() -> None:
    """Below, directly below, parent, and the empty name above everything."""
    base = DN.parse("DC=ldap,DC=io")
    alice = DN.parse("cn=alice,ou=users,dc=ldap,dc=io")
    assert alice.is_under(base)
    assert base.is_under(base)
    assert alice.is_under(DN())
    assert not base.is_under(alice)
    assert not DN.parse("cn=x,dc=xldap,dc=io").is_under(base)
    assert not DN.parse("cn=x\\,dc=ldap,dc=io").is_under(base)
    assert not alice.is_child_of(base)
    assert alice.parent is not None
    assert alice.is_child_of(alice.parent)
    assert str(alice.parent) == "ou=users,dc=ldap,dc=io"
    assert DN().parent is None
    assert not DN.parse(b"")
    assert alice.first_value("cn") == "alice"
    assert alice.first_value("uid") is None
    assert DN().first_value("cn") is None


def test_bool_repr_and_foreign_comparison() -> None:
    """The empty name is false; a representation is readable; other types are never equal."""
    assert bool(DN.parse("cn=a")) is True
    assert repr(DN.parse("cn=a")) == "DN('cn=a')"
    assert DN.parse("cn=a") != "cn=a"


values = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
types = st.sampled_from(["cn", "OU", "dc", "2.5.4.3", "x-y"])
names = st.lists(st.lists(st.tuples(types, values), min_size=1, max_size=2), max_size=4)


@given(names)
def test_any_value_survives_printing(parts: list[list[tuple[str, str]]]) -> None:
    """Whatever a value holds, its escaped form is parsed back to exactly it."""
    text = ",".join("+".join(f"{kind}={escape_value(value)}" for kind, value in rdn) for rdn in parts)
    name = DN.parse(text)
    assert [[ava.value for ava in rdn] for rdn in name.rdns] == [[value for _, value in rdn] for rdn in parts]
    assert str(name) == text
    assert name.key.count(b"\x00") == max(len(parts) - 1, 0)


@given(names)
def test_spelling_does_not_change_the_key(parts: list[list[tuple[str, str]]]) -> None:
    """Hex escapes, spaces, semicolons, another order and upper-case types: the same key."""
    plain = ",".join("+".join(f"{kind}={escape_value(value)}" for kind, value in rdn) for rdn in parts)
    odd = " ; ".join(
        " + ".join(
            f"{kind.upper()} = {''.join(f'{chr(92)}{octet:02X}' for octet in value.encode())}"
            for kind, value in reversed(rdn)
        )
        for rdn in parts
    )
    assert DN.parse(plain).key == DN.parse(odd).key


@given(values)
def test_fold_is_stable(value: str) -> None:
    """Folding twice changes nothing, and no separator of keys is left."""
    once = fold(value)
    assert fold(once) == once
    assert not set(once) & {"\x00", "\x01", "\x02"}
    assert once == once.strip(" ")
    assert "  " not in once


@given(st.text(max_size=40) | st.text(alphabet='cn=a,+;\\"# 04f', max_size=40) | st.binary(max_size=40))
def test_parser_has_two_answers(text: str | bytes) -> None:
    """A name or the DN error."""
    try:
        name = DN.parse(text)
    except DNError:
        return
    assert DN.parse(str(name)) == name


@pytest.mark.parametrize("text", [row[0] for row in RFC_4514_SECTION_4 if "#" not in row[0]])
def test_ldap3_agrees(text: str) -> None:
    """ldap3 splits our printed names at the same places."""
    name = DN.parse(text)
    assert [kind.lower() for kind, _, _ in ldap3_parse(str(name))] == [ava.type for rdn in name.rdns for ava in rdn]


@pytest.mark.parametrize("value", ["alice", "Carol, X", "a+b", 'q"u', "b\\s", "x;y", "<z>"])
def test_ldaptor_agrees(value: str) -> None:
    """ldaptor reads our escaped values."""
    theirs = DistinguishedName(str(DN.parse("ou=users,dc=io").child("cn", value)))
    assert [rdn.split()[0].value for rdn in theirs.split()] == [value, "users", "io"]
