"""Records become attributes as the entry mapping says; numbers in brackets are rows of the case table."""

from __future__ import annotations

import pytest

from common.records import Group, User
from outposts.ldap import entries
from outposts.ldap.entries import EntryOptions, MappingError
from tests.ldap.fixture import OPTIONS, snapshot


def show(user: User, options: EntryOptions = OPTIONS) -> dict[str, tuple[str, ...]]:
    return dict(entries.user_entry(options, user, ()).attributes)


def test_custom_attributes_of_alice() -> None:
    """[51] Names sanitised, ``%s`` replaced, built-ins of the same name replaced, null dropped."""
    user = User(
        pk=1,
        username="alice",
        attributes={"extra": "bar", "a.b/c": "x", "HomeDirectory": "/h/%s", "lst": ["a", 6, None, 1.5], "flag": True},
    )
    found = show(user)
    assert found["extra"] == ("bar",)
    assert found["ab-c"] == ("x",)
    assert found["HomeDirectory"] == ("/h/alice",)
    assert "homeDirectory" not in found
    assert found["lst"] == ("a", "6", "1.5")
    assert found["flag"] == ("true",)
    assert found["uidNumber"] == ("2001",)


def test_numbers_of_bob() -> None:
    """[52] A string ``uidNumber`` is also the group number, of the virtual group too."""
    user = User(pk=2, username="bob", attributes={"uidNumber": "8000"})
    assert show(user)["uidNumber"] == show(user)["gidNumber"] == ("8000",)
    assert dict(entries.virtual_group_entry(OPTIONS, user).attributes)["gidNumber"] == ("8000",)


def test_number_that_is_no_string_is_shown_only() -> None:
    """A JSON number is shown; the group number stays computed."""
    found = show(User(pk=2, username="bob", attributes={"uidNumber": 8000}))
    assert found["uidNumber"] == ("8000",)
    assert found["gidNumber"] == ("2002",)


def test_valueless_attributes_are_left_out() -> None:
    """[53]"""
    found = show(User(pk=3, username="Carol, X", is_active=False, is_superuser=True, email=None))
    assert found["ak-active"] == ("FALSE",)
    assert found["ak-superuser"] == ("TRUE",)
    assert not {"mail", "memberOf", "name", "sn"} & found.keys()
    assert all(values and all(values) for values in found.values())


def test_dn_is_escaped() -> None:
    """[55]"""
    entry = entries.user_entry(OPTIONS, User(pk=3, username="Carol, X"), ())
    assert entry.dn == r"cn=Carol\, X,ou=users,dc=ldap,dc=goauthentik,dc=io"


@pytest.mark.parametrize("name", ["objectClass", "MEMBEROF", "member", "cn", "ak-superuser", "ak.-active", "entryUUID"])
def test_rights_and_names_are_not_replaced(name: str) -> None:
    """W12: attributes that say who somebody is or may do come from the record alone."""
    found = show(User(pk=1, username="alice", attributes={name: "evil"}))
    assert all("evil" not in values for values in found.values())


def test_null_hides_a_built_in() -> None:
    """An administrator's null takes the attribute away."""
    assert "homeDirectory" not in show(User(pk=1, username="a", attributes={"homeDirectory": None}))


def test_two_keys_with_one_name_are_one_attribute() -> None:
    """Spellings are put together; LDAP knows each attribute once."""
    found = entries.custom_attributes({"a.b": "1", "AB": ["2", "1"]})
    assert found == {"ab": ("ab", ("1", "2"))}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"), (1e21, "1000000000000000000000"), (1e-7, "0.0000001"), (-0.5, "-0.5"),
        (2**63, "9223372036854775808"),
        ({"b": [1, None], "a": True}, "map[a:true b:[1 <nil>]]"),
    ],
)  # fmt: skip
def test_value_formats(value: object, text: str) -> None:
    """Shortest decimals without exponent; nested values in print form."""
    assert entries.custom_attributes({"x": value})["x"][1] == (text,)


def test_percent_signs_stay() -> None:
    """Only ``%s`` means something."""
    assert entries.custom_attributes({"x": "100% %d %s"}, "bob")["x"][1] == ("100% %d bob",)
    assert entries.custom_attributes({"x": "%s"})["x"][1] == ("%s",)


@pytest.mark.parametrize(
    ("iso", "text"),
    [
        ("2026-11-22T17:15:29.188051Z", "20261122171529Z"),
        ("2026-11-22T17:15:29+02:00", "20261122151529Z"),
        ("2026-11-22T17:15:29", "20261122171529Z"),
        ("never", ""),
        (None, ""),
    ],
)
def test_times(iso: str | None, text: str) -> None:
    """UTC, fraction cut; nonsense gives no value."""
    assert entries.generalized_time(iso) == text


def test_group_numbers() -> None:
    """[54] and ``gid=hash``."""
    group = Group(pk="5b2d4cc0-0000-4000-8000-000000000001", num_pk=20001, name="ga")
    assert entries.group_gid_number(OPTIONS, group) == "24001"
    hashed = int(entries.group_gid_number(EntryOptions("dc=x", gid_mode="hash"), group))
    assert entries.HASHED_GID_START <= hashed < 2**31
    own = Group(pk="x", num_pk=1, name="gc", attributes={"gidNumber": "777"})
    assert entries.group_gid_number(OPTIONS, own) == "777"
    missing = Group(pk="5b2d4cc0-0000-4000-8000-000000000001", name="ga")
    assert entries.group_gid_number(OPTIONS, missing) == str(4000 + int(str(int(missing.pk.replace("-", ""), 16))[:5]))


def test_uid_modes() -> None:
    """``uid`` is the core's hash unless the login name is asked for or names the entry."""
    user = User(pk=1, username="alice", uid="a" * 64, attributes={"uid": "other"})
    assert show(user)["uid"] == ("other",)
    assert dict(
        entries.user_entry(EntryOptions("dc=x", uid_mode="username"), User(pk=1, username="al"), ()).attributes
    )["uid"] == ("al",)
    named = entries.user_entry(EntryOptions("dc=x", dn_attribute="uid"), user, ())
    assert named.dn == "uid=alice,ou=users,dc=x"
    assert dict(named.attributes)["uid"] == ("alice",)


def test_empty_name_is_an_error() -> None:
    """An entry without a name cannot be; the record's key is told."""
    with pytest.raises(MappingError, match="user 9"):
        entries.user_entry(OPTIONS, User(pk=9, username=""), ())


def test_collisions_are_reported() -> None:
    """Two groups with one number are named in the report."""
    assert snapshot().report.gid_collisions == ()
