"""Settings that change what entries carry and which there are: extra attributes, visibility, attribute lists."""

from __future__ import annotations

from typing import Any

import pytest

from common import setting_rows
from common.records import Group, LDAPProvider, User
from outposts.ldap import entries, providers
from outposts.ldap.directory import Snapshot
from outposts.ldap.entries import EXTRA_ATTRIBUTES, EntryOptions
from outposts.ldap.search import Viewer
from tests import factories
from tests.ldap.fixture import BASE, ask, names, raw, snapshot

LOWER = BASE.lower()
ALICE = f"cn=alice,ou=users,{LOWER}"


def show(user: User, **options: Any) -> dict[str, tuple[str, ...]]:
    return dict(entries.user_entry(EntryOptions(BASE, **options), user, ()).attributes)


def tree(**options: Any) -> Snapshot:
    """Users u1 (root), u2 (mid, inactive), u3 (leaf), u4 (other); groups root > mid > leaf, and other."""
    users = [factories.user(pk, f"u{pk}", is_active=pk != 2) for pk in range(1, 5)]
    groups = [
        factories.group("root", 1, users=[1]),
        factories.group("mid", 2, users=[2], parents=["root"]),
        factories.group("leaf", 3, users=[3], parents=["mid"]),
        factories.group(
            "other", 4, users=[1, 4], parents=["root"], attributes={"memberUid": ["x"], "uniqueMember": "x"}
        ),
    ]
    factories.link(users, groups)
    return Snapshot.build(EntryOptions(BASE, **options), raw(users), raw(groups))


def test_nothing_is_added_by_default() -> None:
    """An entry carries none of the extra attributes unless the setting names them."""
    assert not show(User(pk=1, username="alice", name="Alice Smith")).keys() & set(EXTRA_ATTRIBUTES)
    assert "memberUid" not in ask(snapshot())[f"cn=ga,ou=groups,{LOWER}"]


def test_extra_attributes_of_users() -> None:
    """Each value is made from the user's own fields."""
    user = User(pk=1, username="alice", name="Mary Ann: Smith, jr", is_active=False)
    found = show(user, extra_attributes=EXTRA_ATTRIBUTES, login_shell="/bin/zsh")
    assert {name: found[name] for name in EXTRA_ATTRIBUTES if name in found} == {
        "loginShell": ("/bin/zsh",),
        "gecos": ("Mary Ann Smith jr",),
        "givenName": ("Mary Ann: Smith,",),
        "distinguishedName": (ALICE,),
        "userPrincipalName": ("alice@ldap.goauthentik.io",),
        "userAccountControl": ("514",),
    }


def test_own_attributes_win() -> None:
    """An object's own attribute replaces the computed one; a single word is a given name, no name is none."""
    user = User(pk=1, username="alice", name="Alice", attributes={"loginShell": "/bin/fish", "GECOS": "x"})
    found = show(user, extra_attributes=("loginShell", "gecos", "givenName"))
    assert (found["loginShell"], found["GECOS"], found["givenName"]) == (("/bin/fish",), ("x",), ("Alice",))
    assert "gecos" not in found
    assert "givenName" not in show(User(pk=1, username="alice"), extra_attributes=("givenName",))


def test_base_without_domain_has_no_principal_name() -> None:
    """``userPrincipalName`` needs the ``dc`` values of the base."""
    options = EntryOptions("o=firm", extra_attributes=("userPrincipalName",))
    assert "userPrincipalName" not in dict(entries.user_entry(options, User(pk=1, username="a"), ()).attributes)


def test_members_by_name() -> None:
    """Users among the members, virtual groups included; names come out as they are, groups are left out."""
    users = [factories.user(1, "alice"), factories.user(2, "Carol, X"), factories.user(3, "dave+é")]
    groups = [factories.group("ga", 1, users=[1, 2, 3]), factories.group("gc", 2, users=[], parents=["ga"])]
    factories.link(users, groups)
    options = EntryOptions(BASE, extra_attributes=("memberUid", "uniqueMember"))
    directory = Snapshot.build(options, raw(users), raw(groups))
    found = ask(directory, "(objectClass=posixGroup)")
    ga = found[f"cn=ga,ou=groups,{LOWER}"]
    assert ga["memberUid"] == ["alice", "Carol, X", "dave+é"]
    assert ga["uniqueMember"] == ga["member"]
    assert len(ga["member"]) == 4
    assert not {"memberUid", "uniqueMember"} & found[f"cn=gc,ou=groups,{LOWER}"].keys()
    assert found[rf"cn=Carol\, X,ou=virtual-groups,{LOWER}"]["memberUid"] == ["Carol, X"]
    assert names(ask(directory, "(&(objectClass=posixGroup)(memberUid=carol, x))")) == [
        "Carol\\2c X,virtual-groups",
        "ga,groups",
    ]


def test_computed_membership_replaces_an_own_attribute() -> None:
    """Who is a member is never up to an object's own attributes once the server says it."""
    found = ask(tree(extra_attributes=("memberUid", "uniqueMember")))[f"cn=other,ou=groups,{LOWER}"]
    assert found["memberUid"] == ["u1", "u4"]
    assert found["uniqueMember"] == found["member"]
    assert ask(tree())[f"cn=other,ou=groups,{LOWER}"]["memberUid"] == ["x"]


def test_nested_members_by_name() -> None:
    """With nested groups ``memberUid`` holds inherited members too."""
    found = ask(tree(extra_attributes=("memberUid",), nested_groups=True), "(cn=root)")
    assert sorted(found[f"cn=root,ou=groups,{LOWER}"]["memberUid"]) == ["u1", "u2", "u3", "u4"]


def test_foreign_members_stay_hidden() -> None:
    """A viewer without the full-search right sees itself only, in every attribute that names members."""
    directory = tree(extra_attributes=("memberUid", "uniqueMember"))
    found = ask(directory, "(objectClass=group)", viewer=Viewer(1, full=False))[f"cn=other,ou=groups,{LOWER}"]
    own = [f"cn=u1,ou=users,{LOWER}"]
    assert (found["member"], found["uniqueMember"], found["memberUid"]) == (own, own, ["u1"])
    assert not ask(directory, "(memberUid=u4)", viewer=Viewer(1, full=False))


@pytest.mark.parametrize(
    ("sssd_filter", "expected"),
    [
        ("(&(memberUid=alice)(objectClass=posixGroup)(cn=*)(&(gidNumber=*)(!(gidNumber=0))))", "alice ga gb"),
        ("(&(gidNumber=24001)(objectClass=posixGroup)(cn=*)(&(gidNumber=*)(!(gidNumber=0))))", "ga"),
        ("(&(gidNumber=8000)(objectClass=posixGroup)(cn=*))", "bob"),
        ("(&(member=cn=alice,ou=users,dc=ldap,dc=goauthentik,dc=io)(objectClass=posixGroup)(cn=*))", "alice ga gb"),
        ("(&(uid=alice)(objectClass=posixAccount)(uidNumber=*)(gidNumber=*))", "alice"),
        ("(&(uid=alice)(objectClass=posixAccount)(&(uidNumber=*)(!(uidNumber=0))))", "alice"),
        ("(&(uidNumber=8000)(objectClass=posixAccount)(uid=*)(&(uidNumber=*)(!(uidNumber=0))))", "bob"),
        ("(&(objectClass=posixAccount)(uid=*)(uidNumber=*)(gidNumber=*)(modifyTimestamp>=20260104030405Z))",
         "Carol, X alice bob dave(1)* svc"),
        ("(&(objectClass=posixAccount)(uid=*)(modifyTimestamp>=20260104030406Z))", ""),
        ("(&(objectClass=posixAccount)(uid=*)(!(modifyTimestamp<=20260104030404Z)))",
         "Carol, X alice bob dave(1)* svc"),
        ("(&(objectClass=posixAccount)(uid=*)(entryUSN>=1))", ""),
        ("(&(objectClass=posixAccount)(uid=*)(!(entryUSN<=1)))", ""),
    ],
)  # fmt: skip
def test_sssd_filters(sssd_filter: str, expected: str) -> None:
    """The filters that SSSD sends with its ``rfc2307`` and ``rfc2307bis`` schemas find what they should."""
    directory = snapshot(uid_mode="username", extra_attributes=("memberUid", "loginShell", "gecos"))
    found = ask(directory, sssd_filter, ["cn"])
    assert " ".join(sorted(entry["cn"][0] for entry in found.values())) == expected


def test_account_is_complete_for_rfc2307() -> None:
    """An account has what ``passwd`` shows, a group what ``group`` shows (RFC 2307 §4)."""
    directory = snapshot(uid_mode="username", extra_attributes=("memberUid", "loginShell", "gecos"))
    wanted = ["uid", "uidNumber", "gidNumber", "gecos", "homeDirectory", "loginShell"]
    alice = ask(directory, "(uid=alice)", [*wanted, "memberUid"], base=f"ou=users,{LOWER}")[ALICE]
    assert alice == {
        "uid": ["alice"],
        "uidNumber": ["2001"],
        "gidNumber": ["2001"],
        "gecos": ["Alice"],
        "HomeDirectory": ["/h/alice"],
        "loginShell": ["/bin/bash"],
    }


def test_only_groups_shows_what_is_below_and_its_members() -> None:
    """The named group, groups below it, and people in any of them; relations end at what is shown."""
    directory = tree(only_groups=("mid",))
    assert names(ask(directory, "(|(objectClass=user)(objectClass=group))")) == [
        "leaf,groups", "mid,groups", "u2,users", "u2,virtual-groups", "u3,users", "u3,virtual-groups",
    ]  # fmt: skip
    found = ask(directory)
    assert "memberOf" not in found[f"cn=mid,ou=groups,{LOWER}"]
    assert found[f"cn=leaf,ou=groups,{LOWER}"]["memberOf"] == [f"cn=mid,ou=groups,{LOWER}"]
    assert found[f"cn=u3,ou=users,{LOWER}"]["memberOf"] == [f"cn=leaf,ou=groups,{LOWER}"]


def test_only_groups_by_uuid_and_unknown() -> None:
    """A uuid names a group too; a name that no group has shows nobody."""
    assert names(ask(tree(only_groups=(factories.group_uuid("leaf"),)), "(objectClass=user)")) == ["u3,users"]
    assert not ask(tree(only_groups=("nobody",)), "(|(objectClass=user)(objectClass=group))")


def test_only_groups_with_nested_groups() -> None:
    """A user in a group below the named one is a member of both; foreign groups do not show."""
    found = ask(tree(only_groups=("mid",), nested_groups=True))
    assert found[f"cn=u3,ou=users,{LOWER}"]["memberOf"] == [
        f"cn=leaf,ou=groups,{LOWER}", f"cn=mid,ou=groups,{LOWER}",
    ]  # fmt: skip
    assert f"cn=u3,ou=users,{LOWER}" in found[f"cn=mid,ou=groups,{LOWER}"]["member"]
    other = ask(tree(only_groups=("other",)), "(objectClass=user)")
    assert other[f"cn=u1,ou=users,{LOWER}"]["memberOf"] == [f"cn=other,ou=groups,{LOWER}"]


def test_active_only() -> None:
    """Inactive users vanish, from member lists too."""
    directory = tree(active_only=True, extra_attributes=("memberUid",))
    assert names(ask(directory, "(objectClass=user)")) == ["u1,users", "u3,users", "u4,users"]
    assert "u2" not in str(ask(directory))
    assert "u2" not in str(ask(tree(active_only=True, nested_groups=True)))


def test_visibility_follows_a_change_of_groups() -> None:
    """Unchanged users and groups appear and vanish when the groups around them move."""
    options = EntryOptions(BASE, only_groups=("mid",))

    def build(parent: str, previous: Snapshot | None) -> Snapshot:
        users = [factories.user(1, "u1")]
        groups = [
            factories.group("mid", 2, users=[]),
            factories.group("top", 1, users=[]),
            factories.group("leaf", 3, users=[1], parents=[parent]),
        ]
        factories.link(users, groups)
        return Snapshot.build(options, raw(users), raw(groups), previous)

    first = build("mid", None)
    assert names(ask(first, "(objectClass=user)")) == ["u1,users"]
    second = build("top", first)
    assert not ask(second, "(|(objectClass=user)(cn=leaf))")
    third = build("mid", second)
    assert ask(third) == ask(first)


def test_attribute_lists() -> None:
    """Denied attributes do not exist, neither in entries nor for filters; the naming attribute stays."""
    directory = snapshot(attributes_deny=("MAIL", "cn", "surname", "extra"))
    alice = ask(directory)[ALICE]
    assert not {"mail", "sn", "extra"} & alice.keys()
    assert {"cn", "displayName", "memberOf", "objectClass"} <= alice.keys()
    assert not ask(directory, "(mail=*)")
    assert not ask(directory, "(!(extra=bar))"), "an attribute that nobody has is undefined"
    only = ask(snapshot(attributes_allow=("mail", "member"), attributes_deny=("member",)))
    assert only[ALICE].keys() == {"cn", "mail", "objectClass"}
    assert only[f"cn=ga,ou=groups,{LOWER}"].keys() == {"cn", "objectClass"}


def test_attribute_lists_with_uid_names() -> None:
    """Where ``uid`` names users it stays; groups are named by ``cn``."""
    found = ask(snapshot(dn_attribute="uid", attributes_deny=("cn", "uid")))
    assert found[f"uid=alice,ou=users,{LOWER}"]["uid"] == ["alice"]
    assert "cn" not in found[f"uid=alice,ou=users,{LOWER}"]
    assert found[f"cn=ga,ou=groups,{LOWER}"]["cn"] == ["ga"]


def test_options_survive_the_state_file() -> None:
    """A stored snapshot counts as built with the same options, so its entries are taken over."""
    first = tree(extra_attributes=("memberUid",), only_groups=("root",), attributes_deny=("mail",))
    again = Snapshot.from_buffer(first.to_bytes())
    assert again.options == first.options
    assert hash(again.options) == hash(first.options)


def test_every_option_is_a_setting() -> None:
    """Each of these settings has a row, and its value reaches the entries."""
    chosen: dict[str, Any] = {row.name: row.default for row in setting_rows.EXTRAS if row.type == "ldap"}
    chosen |= {"extra_attributes": ("memberUid",), "active_only": True, "only_groups": ("a",)}
    record = LDAPProvider(pk=1, name="p", bind_flow_slug="b", application_slug="a")
    options = providers.resolve(record, chosen.__getitem__).options
    assert options.extra_attributes == ("memberUid",)
    assert options.active_only
    assert options.only_groups == ("a",)
    row = setting_rows.EXTRAS_BY_NAME["ldap", "extra_attributes"]
    assert row.kind.parse("memberuid, LOGINSHELL") == ("memberUid", "loginShell")
    assert row.kind.parse("") == ()
    with pytest.raises(ValueError, match="words"):
        row.kind.parse("memberUid,nosuch")
    assert row.kind.parse(list(EXTRA_ATTRIBUTES)) == EXTRA_ATTRIBUTES


def test_shared_numbers_are_told() -> None:
    """Users with one ``uidNumber``, and groups with the number of another group or of a user's own group."""
    users = [
        factories.user(1, "one", attributes={"uidNumber": "5000"}),
        factories.user(2, "two, too", attributes={"uidNumber": "05000", "gidNumber": "60"}),
        factories.user(3, "three"),
    ]
    groups = [
        factories.group("ga", 1, users=[], attributes={"gidNumber": "2003"}),
        factories.group("gb", 2, users=[], attributes={"gidNumber": "77"}),
        factories.group("gc", 3, users=[], attributes={"gidNumber": "77"}),
        factories.group("gd", 4, users=[], attributes={"gidNumber": "no number", "uidNumber": "2003"}),
    ]
    factories.link(users, groups)
    report = Snapshot.build(EntryOptions(BASE), raw(users), raw(groups)).report
    assert report.uid_collisions == (("5000", ("one", "two, too")),)
    assert report.gid_collisions == (("2003", ("ga", "three")), ("77", ("gb", "gc")))
    again = Snapshot.from_buffer(Snapshot.build(EntryOptions(BASE), raw(users), raw(groups)).to_bytes()).report
    assert (again.uid_collisions, again.gid_collisions) == (report.uid_collisions, report.gid_collisions)


def test_every_attribute_belongs_to_a_class() -> None:
    """With all extra attributes the published schema still allows what entries carry."""
    directory = tree(extra_attributes=EXTRA_ATTRIBUTES, nested_groups=True)
    for dn, entry in ask(directory, attributes=["*", "+"]).items():
        classes = [directory.schema.class_attributes(name) for name in entry["objectClass"]]
        assert None not in classes, dn
        allowed = frozenset().union(*(found or () for found in classes))
        for name in entry:
            kind = directory.schema.types[name.lower()]
            assert kind.operational or kind.names[0].lower() in allowed, (dn, name)


def test_hashed_group_numbers() -> None:
    """``gid=hash``: 2^20 plus 30 bits of the uuid's SHA-256; an own attribute still wins."""
    group = Group(pk="5b2d4cc0-0000-4000-8000-000000000001", name="g", num_pk=12345)
    options = EntryOptions(BASE, gid_mode="hash")
    number = int(entries.group_gid_number(options, group))
    assert 1 << 20 <= number < (1 << 20) + (1 << 30)
    assert number == int(entries.group_gid_number(options, Group(pk=group.pk, name="renamed", num_pk=1)))
    own = Group(pk=group.pk, name="g", attributes={"gidNumber": "777"})
    assert entries.group_gid_number(options, own) == "777"
