"""The LDAP case table, rows 38 to 74: root DSE, entries, filters, attributes, limits; real daemon, fake core."""

from __future__ import annotations

import pytest

from tests.ldap.sides import (
    ALICE,
    CAROL,
    CONTAINERS,
    GROUPS,
    USERS,
    VIRTUAL,
    B,
    Side,
    Starter,
    b,
    folded,
    group,
    user,
    virtual,
)
from tests.ldap_client import (
    BASE,
    ONE,
    START_TLS,
    SUB,
    bind_operation,
    control,
    equality,
)

MANAGE_DSA_IT = "2.16.840.1.113730.3.4.2"


# -- root DSE, schema -------------------------------------------------------------------------------------------------


def test_row_38_root_dse_without_bind(side: Side) -> None:
    """0, one entry with the empty DN."""
    with side.client() as client:
        answer = client.search("", BASE)
    assert (answer.code, answer.dns) == (0, [""])


# What a server announces for the answers to a request control, as Active Directory does; nobody sends them.
RESPONSE_CONTROLS = {
    "1.2.840.113556.1.4.474": "1.2.840.113556.1.4.473",  # sorted
    "2.16.840.1.113730.3.4.10": "2.16.840.1.113730.3.4.9",  # virtual list view
    "2.16.840.1.113730.3.4.15": "2.16.840.1.113730.3.4.16",  # authorization identity
}
# Password policy (draft-behera) and authorization identity (RFC 3829) belong to a bind.
BIND_CONTROLS = {"1.3.6.1.4.1.42.2.27.8.5.1", "2.16.840.1.113730.3.4.16"}


def test_row_39_root_dse(side: Side) -> None:
    """What is served, and only what is there."""
    with side.bound() as client:
        (entry,) = client.search("", BASE).entries
    assert entry["supportedLDAPVersion"] == ["3"]
    assert [value.lower() for value in entry["namingContexts"]] == [b]
    assert [value.lower() for value in entry["subschemaSubentry"]] == ["cn=subschema"]
    assert "top" in entry["objectClass"]
    assert START_TLS in entry["supportedExtension"]
    announced = set(entry.attributes.get("supportedControl", []))
    for response, request in RESPONSE_CONTROLS.items():
        assert (response in announced) <= (request in announced)
    with side.bound() as client:
        for oid in announced - RESPONSE_CONTROLS.keys() - BIND_CONTROLS:
            code = client.search(b, BASE, controls=[control(oid, critical=True)]).code
            assert code != 12, f"{oid} is announced and refused"
    for oid in announced & BIND_CONTROLS:
        with side.client() as client:
            request = bind_operation(f"cn=alice,ou=users,{b}", "wrong")
            assert client.answer(client.request(request, [control(oid, critical=True)])).code == 49, (
                f"{oid} is announced and refused"
            )


def test_row_40_operational_attributes_of_the_root_dse(side: Side) -> None:
    """``+`` brings them."""
    with side.bound() as client:
        (entry,) = client.search("", BASE, attributes=["+"]).entries
    assert "namingContexts" in entry
    assert "supportedLDAPVersion" in entry


def test_row_41_root_dse_has_no_children(side: Side) -> None:
    """0, empty."""
    with side.bound() as client:
        answer = client.search("", ONE)
    assert (answer.code, answer.dns) == (0, [])


def test_row_42_search_without_bind(side: Side) -> None:
    """50, open."""
    with side.client() as client:
        answer = client.search(b, SUB)
        assert (answer.code, answer.dns) == (50, [])
        assert client.is_open()


def test_row_43_subschema(side: Side) -> None:
    """The schema entry, whatever the case of its name."""
    with side.bound() as client:
        (entry,) = client.search("cn=Subschema", BASE, attributes=["*", "+"]).entries
    assert any("'sAMAccountName'" in line for line in entry["attributeTypes"])
    assert any("'goauthentik.io/ldap/user'" in line for line in entry["objectClasses"])


# -- entries ----------------------------------------------------------------------------------------------------------


def test_row_44_everything(side: Side) -> None:
    """17 entries."""
    with side.bound() as client:
        answer = client.search(b, SUB, "(objectClass=*)")
    assert answer.code == 0
    assert sorted(answer.dns) == sorted([B, *CONTAINERS, *USERS, *GROUPS, *VIRTUAL])


def test_row_45_one_level(side: Side) -> None:
    """The three containers."""
    with side.bound() as client:
        assert sorted(client.search(b, ONE).dns) == sorted(CONTAINERS)


def test_row_46_users_under_their_container(side: Side) -> None:
    """5 users, in the lower-case base."""
    with side.bound() as client:
        assert sorted(client.search(f"OU=USERS,{B}", SUB, "(objectClass=user)").dns) == sorted(USERS)


def test_row_47_one_entry_by_its_dn(side: Side) -> None:
    """One entry, with one read of the core at most."""
    with side.bound() as client:
        side.core.forget()
        assert client.search(ALICE, BASE).dns == [ALICE]
    reads = side.core.called("/core/")
    assert len(reads) == (1 if side.mode == "direct" else 0), reads
    assert all(call.query.get("username", call.query.get("search")) == "alice" for call in reads), reads


def test_row_48_a_dn_that_is_not_there(side: Side, start: Starter) -> None:
    """0, empty."""
    with side.bound() as client:
        for scope in (BASE, ONE, SUB):
            answer = client.search(user("zz"), scope)
            assert (answer.code, answer.dns) == (0, [])


@pytest.mark.parametrize("mode", ["direct", "cached"])
def test_row_48_50_strict(start: Starter, mode: str) -> None:
    """32 in strict mode, inside and outside the base."""
    side = start(mode, {"OUTPOSTS_LDAP__STRICT": "true"})
    with side.bound() as client:
        assert client.search(user("zz"), BASE).code == 32
        assert client.search("dc=other", SUB).code == 32
        assert client.search(ALICE, BASE).code == 0
        assert client.search(f"ou=users,{b}", SUB, "(cn=zz)").code == 0


def test_row_49_a_base_that_is_no_dn(side: Side) -> None:
    """34, open."""
    with side.bound() as client:
        assert client.search("garbage", BASE).code == 34
        assert client.is_open()


def test_row_50_a_base_of_somebody_else(side: Side) -> None:
    """0, empty."""
    with side.bound() as client:
        answer = client.search("dc=other", SUB)
    assert (answer.code, answer.dns) == (0, [])


def test_row_51_attributes_of_a_user(side: Side) -> None:
    """Own attributes win over built-in ones; names and values in the documented form."""
    with side.bound() as client:
        (entry,) = client.search(ALICE, BASE).entries
    assert entry["extra"] == ["bar"]
    assert entry["ab-c"] == ["x"]
    assert entry["HomeDirectory"] == ["/h/alice"]
    assert "homeDirectory" not in entry
    assert entry["lst"] == ["a", "6", "1.5"]
    assert [value.lower() for value in entry["flag"]] == ["true"]
    assert entry["uidNumber"] == ["2001"]
    assert sorted(entry["memberOf"]) == [group("ga"), group("gb")]
    assert entry["cn"] == entry["sAMAccountName"] == ["alice"]
    assert entry["mail"] == ["alice@x.io"]
    assert entry["ak-active"] == ["TRUE"]
    assert entry["ak-superuser"] == ["FALSE"]
    assert entry["createTimestamp"] == ["20260102030405Z"]
    assert len(entry["uid"][0]) == 64


def test_row_52_numbers_from_attributes(side: Side) -> None:
    """bob's uidNumber is his gidNumber and his virtual group's."""
    with side.bound() as client:
        (entry,) = client.search(user("bob"), BASE).entries
        (own_group,) = client.search(virtual("bob"), BASE).entries
    assert entry["uidNumber"] == entry["gidNumber"] == own_group["gidNumber"] == ["8000"]


def test_row_53_attributes_without_values_are_left_out(side: Side) -> None:
    """Carol is inactive, a superuser, without e-mail and groups."""
    with side.bound() as client:
        (entry,) = client.search(CAROL, BASE).entries
    assert entry["ak-active"] == ["FALSE"]
    assert entry["ak-superuser"] == ["TRUE"]
    assert "mail" not in entry
    assert "memberOf" not in entry


def test_row_54_attributes_of_groups(side: Side) -> None:
    """Numbers, members with child groups, parents."""
    with side.bound() as client:
        (ga,) = client.search(group("ga"), BASE).entries
        (gc,) = client.search(group("gc"), BASE).entries
    assert ga["gidNumber"] == ["24001"]
    assert sorted(ga["member"]) == sorted([ALICE, user("bob"), group("gc")])
    assert gc["gidNumber"] == ["777"]
    assert gc["memberOf"] == [group("ga")]


def test_row_55_names_are_escaped(side: Side) -> None:
    """Found by the escaped DN, in any valid spelling of it."""
    with side.bound() as client:
        assert client.search(CAROL, BASE).dns == [CAROL]
        assert client.search(rf"cn=carol\2C X,ou=users,{b}", BASE).dns == [CAROL]
        assert client.search(f"ou=users,{b}", ONE, "(cn=Carol, X)").dns == [CAROL]


# -- filters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        pytest.param("(cn=ALICE)", [ALICE, virtual("alice")], id="56"),
        pytest.param(f"(memberOf=cn=ga,ou=groups,{b})", [ALICE, user("bob"), group("gc")], id="57"),
        pytest.param(f"(memberOf=cn=nope,ou=groups,{b})", [], id="58 unknown"),
        pytest.param(f"(memberOf=cn=GA,ou=groups,{b})", [ALICE, user("bob"), group("gc")], id="58 case"),
        pytest.param(f"(memberOf=CN=ga, OU=groups, {B})", [ALICE, user("bob"), group("gc")], id="58 spaces"),
        pytest.param(f"(member={ALICE})", [group("ga"), group("gb"), virtual("alice")], id="59"),
        pytest.param(f"(member=cn=gc,ou=groups,{b})", [group("ga")], id="60"),
        pytest.param("(|(objectClass=user)(objectClass=group))", [*USERS, *GROUPS, *VIRTUAL], id="61"),
        pytest.param("(&(objectClass=user)(!(objectClass=group)))", USERS, id="62"),
        pytest.param("(&(objectClass=posixGroup)(gidNumber=8000))", [virtual("bob")], id="63"),
        pytest.param("(cn=a*zzz*e)", [], id="64"),
        pytest.param("(cn=a*i*e)", [ALICE, virtual("alice")], id="64 matching"),
        pytest.param("(uidNumber>=2000)", USERS, id="65 >="),
        pytest.param("(uidNumber>=2004)", [user("bob"), user("dave(1)*"), user("svc")], id="65 numeric"),
        pytest.param("(uidNumber<=2001)", [ALICE], id="65 <="),
        pytest.param("(cn~=alice)", [ALICE, virtual("alice")], id="65 ~="),
        pytest.param("(cn:caseIgnoreMatch:=alice)", [ALICE, virtual("alice")], id="65 extensible"),
        pytest.param(equality("cn", ""), [], id="66 empty"),
        pytest.param(r"(cn=dave\281\29\2a)", [user("dave(1)*"), virtual("dave(1)*")], id="66 escaped"),
        pytest.param(r"(cn=a\2a)", [], id="67"),
        pytest.param("(member= )", [], id="77"),
        pytest.param("(memberOf= )", [], id="77 memberOf"),
        pytest.param("(CN=aLiCe)", [ALICE, virtual("alice")], id="spelling of the name"),
        pytest.param("(mail=ALICE@x.io)", [ALICE], id="mail"),
        pytest.param("(sAMAccountName=bob)", [user("bob"), virtual("bob")], id="sAMAccountName"),
        pytest.param("(displayName=alice)", [ALICE], id="displayName"),
        pytest.param("(&(objectClass=user)(!(memberOf=*)))", [CAROL, user("dave(1)*"), user("svc")], id="absent"),
        pytest.param("(!(nosuch=x))", [], id="undefined is not true"),
        pytest.param(f"(&(objectClass=user)(|(cn=bob)(memberOf={group('gb')})))", [ALICE, user("bob")], id="nested"),
        pytest.param("(extra=BAR)", [ALICE], id="own attribute"),
    ],
)
def test_row_56_to_67_filters(side: Side, filter: str | bytes, expected: list[str]) -> None:
    """The same entries in both modes; the connection stays open."""
    with side.bound() as client:
        answer = client.search(b, SUB, filter)
        assert answer.code == 0, answer
        assert folded(answer.dns) == folded(expected)
        assert client.is_open()


# -- attributes and limits --------------------------------------------------------------------------------------------


def test_row_68_chosen_attributes(side: Side) -> None:
    """Names in any case, unknown ones ignored, none, all."""
    with side.bound() as client:

        def names(*attributes: str) -> set[str]:
            (entry,) = client.search(ALICE, BASE, attributes=attributes).entries
            return set(entry.attributes)

        assert names("CN", "nosuch") == {"cn"}
        assert names("1.1") == set()
        assert names("1.1", "mail") == {"mail"}
        assert {"cn", "mail", "memberOf", "createTimestamp", "objectClass"} <= names("*", "+")
        assert names() <= names("*", "+")


def test_row_69_names_joined_by_a_comma(side: Side) -> None:
    """Some clients send one string; both attributes come."""
    with side.bound() as client:
        (entry,) = client.search(ALICE, BASE, attributes=["cn,mail"]).entries
    assert set(entry.attributes) == {"cn", "mail"}


def test_row_70_types_only(side: Side) -> None:
    """Names without values."""
    with side.bound() as client:
        (entry,) = client.search(ALICE, BASE, attributes=["cn", "mail"], types_only=True).entries
    assert entry.attributes == {"cn": [], "mail": []}


def test_row_71_size_limit(side: Side) -> None:
    """So many entries, then 4; a limit that is just enough is 0."""
    with side.bound() as client:
        answer = client.search(f"ou=users,{b}", SUB, size_limit=2)
        assert (answer.code, len(answer.entries)) == (4, 2)
        assert client.search(f"ou=users,{b}", ONE, size_limit=5).code == 0


def test_row_73_74_critical_controls(side: Side) -> None:
    """Unknown critical ones are 12 and return nothing; uncritical ones are ignored; the daemon goes on."""
    with side.bound() as client:
        for value in (b"x", None):
            answer = client.search(b, BASE, controls=[control("1.2.3.4", critical=True, value=value)])
            assert (answer.code, answer.dns) == (12, [])
            assert client.search(b, BASE, controls=[control("1.2.3.4", value=value)]).code == 0
        assert client.search(b, BASE, controls=[control(MANAGE_DSA_IT, critical=True)]).code in (0, 12)
        assert client.is_open()
