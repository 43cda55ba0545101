"""Snapshots: building, building again, storing, what a viewer sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.published import publish
from outposts.ldap import stored
from outposts.ldap.directory import Snapshot
from outposts.ldap.dn import DN
from outposts.ldap.entries import EntryOptions
from tests import factories
from tests.ldap.fixture import ALICE_ONLY, BASE, OPTIONS, ask, names, raw, snapshot

USERS_DN = f"ou=users,{BASE.lower()}"


def build(users: list[Any], groups: list[Any], previous: Snapshot | None = None, **options: Any) -> Snapshot:
    factories.link(users, groups)
    return Snapshot.build(EntryOptions(BASE, **options), raw(users), raw(groups), previous)


def everything(directory: Snapshot) -> dict[str, dict[str, list[str]]]:
    return ask(directory, attributes=["*", "+"])


def test_seventeen_entries() -> None:
    """[44] Base, three containers, five users, three groups, five virtual groups."""
    assert len(snapshot()) == 17


def test_dn_lookup_is_by_meaning() -> None:
    """Case, spacing and escapes of a DN do not count; kinds are kept apart."""
    directory = snapshot()
    for text in (rf"cn=Carol\, X,{USERS_DN}", rf"CN=carol\2C  x, {USERS_DN.upper()}"):
        number = directory.number_of(DN.parse(text))
        assert directory.dn(number).decode() == rf"cn=Carol\, X,{USERS_DN}"
    assert directory.number_of(DN.parse(f"cn=ga,{USERS_DN}")) == -1
    assert directory.number_of(DN.parse(f"cn=alice,cn=alice,{USERS_DN}")) == -1
    assert directory.number_of(DN.parse(f"uid=alice,{USERS_DN}")) == -1
    assert directory.number_of(DN.parse("dc=other")) == -1


def test_broken_object_leaves_the_others() -> None:
    """[87] A record without a name, one that does not decode, one with a taken name: counted and named."""
    users: list[Any] = [factories.user(1, "alice"), factories.user(2, ""), factories.user(3, "ALICE")]
    items = [*raw(users), msgspec.Raw(b'{"pk": "x"}'), msgspec.Raw(b"nonsense")]
    directory = Snapshot.build(OPTIONS, items, [])
    assert names(ask(directory, "(objectClass=user)")) == ["alice,users"]
    assert directory.report.error_count == 4
    assert "user 2: user 2 has no username" in directory.report.errors
    assert "user pk x that does not decode: ValidationError" in directory.report.errors
    assert "user (no pk) that does not decode: DecodeError" in directory.report.errors
    assert len(directory) == 6


def test_object_listed_twice_counts_once() -> None:
    """Pages shift while they are read: the second showing is dropped, also with another name."""
    users: list[Any] = [factories.user(1, "alice"), factories.user(1, "alice"), factories.user(1, "renamed")]
    groups: list[Any] = [factories.group("g", 1, users=[]), factories.group("g", 1, users=[])]
    directory = Snapshot.build(OPTIONS, raw([*users, factories.user(2, "bob")]), raw(groups))
    assert names(ask(directory, "(cn=*)", base=f"ou=users,{BASE}", scope=1)) == ["alice,users", "bob,users"]
    assert (directory.report.error_count, directory.report.gid_collisions, len(directory)) == (0, (), 9)


def test_collisions_are_reported() -> None:
    """Groups that share a number are named."""
    groups = [factories.group("one", 5, users=[]), factories.group("two", 5, users=[])]
    assert build([], groups).report.gid_collisions == (("4005", ("one", "two")),)


def test_nested_groups_with_a_circle() -> None:
    """Transitive membership both ways; a circle ends and nobody is a member of itself."""
    users = [factories.user(1, "u"), factories.user(2, "v")]
    groups = [
        factories.group("top", 1, users=[], parents=["low"]),
        factories.group("mid", 2, users=[2], parents=["top"]),
        factories.group("low", 3, users=[1], parents=["mid"]),
    ]
    for record in groups:
        record["parents"] = [factories.group_uuid(name) if "-" not in name else name for name in record["parents"]]
    found = ask(build(users, groups, nested_groups=True))
    top = found[f"cn=top,ou=groups,{BASE.lower()}"]
    assert names(top["member"]) == ["low,groups", "mid,groups", "u,users", "v,users"]
    assert names(top["memberOf"]) == ["low,groups", "mid,groups"]
    assert names(found[f"cn=u,{USERS_DN}"]["memberOf"]) == ["low,groups", "mid,groups", "top,groups"]


def test_old_cores_parent_field() -> None:
    """2025.10: one ``parent`` with its name instead of a list."""
    record = factories.group("child", 1, users=[]) | {"parents": None, "parents_obj": None, "children": None}
    record |= {"parent": "x", "parent_name": "mother", "children_obj": None}
    found = ask(Snapshot.build(OPTIONS, [], raw([record])), "(cn=child)")
    assert names(next(iter(found.values()))["memberOf"]) == ["mother,groups"]


def test_members_by_number_only() -> None:
    """A group that names its members by pk only finds them among the users."""
    record = factories.group("g", 1, users=[2, 1, 99]) | {"users_obj": None}
    directory = Snapshot.build(OPTIONS, raw([factories.user(1, "a"), factories.user(2, "b")]), raw([record]))
    assert names(ask(directory, "(cn=g)")[f"cn=g,ou=groups,{BASE.lower()}"]["member"]) == ["a,users", "b,users"]


def test_large_group() -> None:
    """An entry of more than 64 KiB is whole, and its members are found."""
    users = [factories.user(pk, f"user{pk}") for pk in range(1, 3001)]
    groups = [factories.group("all", 1, users=list(range(1, 3001))), factories.group("none", 2, users=[])]
    directory = build(users, groups)
    found = ask(directory, f"(member=cn=user2999,{USERS_DN})")
    assert names(found) == ["all,groups", "user2999,virtual-groups"]
    assert len(found[f"cn=all,ou=groups,{BASE.lower()}"]["member"]) == 3000
    assert len(ask(directory, "(cn=*)", ["member"])) == len(directory) - 1


@pytest.mark.parametrize("mapped", [False, True])
def test_stored_and_read_back(mapped: bool, tmp_path: Path) -> None:
    """Bytes and back: same entries, same answers, same report; a later build reuses what was read."""
    directory = snapshot()
    data = directory.to_bytes()
    again = Snapshot.from_buffer(publish([data], str(tmp_path)).map() if mapped else data)
    assert again.to_bytes() == data
    assert names(ask(again, "(cn=*aro*)")) == names(ask(directory, "(cn=*aro*)")) != []
    assert everything(again) == everything(directory)
    assert again.options == directory.options
    assert again.report == directory.report
    assert names(ask(again, f"(memberOf=cn=ga,ou=groups,{BASE})")) == ["alice,users", "bob,users", "gc,groups"]
    users, groups = factories.conformance_users(), factories.conformance_groups()
    rebuilt = build(users, groups, again)
    assert rebuilt.report.reused == 8
    assert everything(rebuilt) == everything(directory)


def test_damaged_store_is_refused() -> None:
    """Cut off, another version, nonsense: one error, never a wrong snapshot."""
    data = snapshot().to_bytes()
    for damaged in (b"", data[:8], data[: len(data) // 2], b"XXXX" + data[4:], data[:4] + b"\xff\xff" + data[6:]):
        with pytest.raises(stored.StoredError):
            Snapshot.from_buffer(damaged)


def test_other_options_reuse_nothing() -> None:
    """A snapshot of other options is no help."""
    rebuilt = build(factories.conformance_users(), factories.conformance_groups(), snapshot(), uid_start=5000)
    assert rebuilt.report.reused == 0
    assert ask(rebuilt, "(cn=alice)", ["uidNumber"])[f"cn=alice,{USERS_DN}"] == {"uidNumber": ["5001"]}


def test_unchanged_rebuild_shares_indexes() -> None:
    """Nothing changed: the indexes are the same objects."""
    directory = snapshot()
    again = build(factories.conformance_users(), factories.conformance_groups(), directory)
    assert again.report.reused == 8
    assert all(again.indexes[name] is index for name, index in directory.indexes.items())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rebuild_equals_fresh_build(data: st.DataObject) -> None:
    """After any changes a build on top of the old snapshot answers as one from nothing, nested groups or not."""
    nested = data.draw(st.booleans())
    people = st.dictionaries(st.integers(1, 8), st.sampled_from(["a", "b", "c", "D"]), max_size=6)

    def world() -> tuple[list[Any], list[Any]]:
        chosen = data.draw(people)
        users = [factories.user(pk, f"{name}{pk}", attributes={"extra": name}) for pk, name in chosen.items()]
        groups = []
        for name in data.draw(st.sets(st.sampled_from(["g", "h", "i"]))):
            members = [pk for pk in chosen if data.draw(st.booleans())]
            groups.append(factories.group(name, 1, users=members))
        return users, groups

    previous = None
    for _ in range(3):
        users, groups = world()
        directory = build(users, groups, previous, nested_groups=nested)
        fresh = build(users, groups, nested_groups=nested)
        assert everything(directory) == everything(fresh)
        for text in ("(cn=a1)", "(extra=b)", "(cn=*)", "(member=*)", f"(memberOf=cn=g,ou=groups,{BASE})", "(!(cn=a*))"):
            assert ask(directory, text, ["1.1"]) == ask(fresh, text, ["1.1"]), text
        for user in users:
            dn = DN.parse(f"cn={user['username']},{USERS_DN}")
            assert directory.number_of(dn) == directory.user_number(user["pk"]) >= 0
        previous = directory


def test_view_of_a_user_without_the_right() -> None:
    """[83] Own entry, own groups with oneself as only member, own virtual group; base and containers."""
    found = ask(snapshot(), viewer=ALICE_ONLY)
    expected = ["alice,users", "alice,virtual-groups", "ga,groups", "gb,groups"]
    assert [name for name in names(found) if "," in name and not name.endswith("ldap")][:4] == expected
    assert len(found) == 8
    for name in ("ga", "gb"):
        entry = found[f"cn={name},ou=groups,{BASE.lower()}"]
        assert entry["member"] == [f"cn=alice,{USERS_DN}"]
        assert "memberOf" not in entry
    assert names(found[f"cn=alice,{USERS_DN}"]["memberOf"]) == ["ga,groups", "gb,groups"]


def test_view_of_an_unknown_user() -> None:
    """Only what everybody sees."""
    assert len(snapshot().view(4711)) == 4
