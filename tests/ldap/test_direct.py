"""Direct search over a core that compares exactly and refuses unknown names, as the real one does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from common.errors import CoreError, CoreNotFound, CoreRejected, CoreUnavailable
from outposts.ldap.direct import Parameters, search
from outposts.ldap.entries import EntryOptions
from outposts.ldap.search import Viewer
from tests import factories
from tests.ldap.fixture import ALICE_ONLY, BASE, FULL, OPTIONS, ask, entries, names, raw, request, snapshot

b = BASE.lower()
ALICE = f"cn=alice,ou=users,{b}"


SEARCHED = ("username", "name", "email")  # fields that the core's ``search`` looks at


class Core:
    """The lists of a core, with its way of filtering; ``calls`` are the lists and parameters asked for."""

    def __init__(self, problem: Callable[[], CoreError] | None = None) -> None:
        self._users, self._groups = factories.conformance_users(), factories.conformance_groups()
        factories.link(self._users, self._groups)
        self._problem = problem
        self.calls: list[tuple[str, dict[str, list[str]]]] = []

    def _asked(self, name: str, params: Parameters) -> dict[str, list[str]]:
        asked: dict[str, list[str]] = {}
        for key, value in params:
            if not key.startswith("include_"):
                asked.setdefault(key, []).append(value)
        self.calls.append((name, asked))
        if self._problem is not None:
            raise self._problem()
        return asked

    async def users(self, params: Parameters) -> Sequence[msgspec.Raw]:
        asked = self._asked("users", params)
        found: list[Any] = self._users
        for key, field in (("username", "username"), ("email", "email"), ("name", "name")):
            if key in asked:
                found = [user for user in found if user[field] in asked[key]]
        for word in asked.get("search", []):
            found = [
                user for user in found if word.lower() in f"{user['username']} {user['name']} {user['email']}".lower()
            ]
        if "groups_by_name" in asked:
            if set(asked["groups_by_name"]) - {group["name"] for group in self._groups}:
                raise CoreRejected("GET /core/users/", "unknown group", status=400)
            found = [
                user for user in found if {group["name"] for group in user["groups_obj"]} & set(asked["groups_by_name"])
            ]
        return raw(found)

    async def groups(self, params: Parameters) -> Sequence[msgspec.Raw]:
        asked = self._asked("groups", params)
        found: list[Any] = self._groups
        if "name" in asked:
            found = [group for group in found if group["name"] in asked["name"]]
        for word in asked.get("search", []):
            found = [group for group in found if word.lower() in group["name"].lower()]
        known = {user["username"]: user["pk"] for user in self._users}
        wanted = [known.get(name) for name in asked.get("members_by_username", [])]
        wanted += [int(pk) if int(pk) in known.values() else None for pk in asked.get("members_by_pk", [])]
        if None in wanted:
            raise CoreRejected("GET /core/groups/", "unknown member", status=400)
        if wanted:
            found = [group for group in found if set(group["users"]) & set(wanted)]
        return raw(found)

    async def user(self, pk: int) -> msgspec.Raw:
        self.calls.append(("user", {"pk": [str(pk)]}))
        for record in self._users:
            if record["pk"] == pk:
                return raw([record])[0]
        raise CoreNotFound(f"GET /core/users/{pk}/", "not found", status=404)


TEXTS = [
    "(objectClass=*)", "(cn=ALICE)", "(cn=alice)", "(sAMAccountName=alice)", "(mail=ALICE@x.io)", "(uid=x)",
    f"(memberOf=cn=ga,ou=groups,{b})", f"(memberOf=cn=GA,ou=groups,{b})", f"(memberOf=cn=nope,ou=groups,{b})",
    f"(member={ALICE})", f"(member=cn=gc,ou=groups,{b})", "(member= )", f"(member=cn=nobody,ou=users,{b})",
    f"(&(objectClass=user)(memberOf=cn=ga,ou=groups,{b}))", "(&(objectClass=user)(cn=alice))", "(&(cn=ga)(member=*))",
    "(|(cn=alice)(cn=ga))", "(!(cn=alice))", "(&(objectClass=group)(!(cn=alice)))", r"(cn=dave\281\29\2a)",
    "(cn=Carol, x)", f"(memberOf:1.2.840.113556.1.4.1941:=cn=ga,ou=groups,{b})", "(displayName=alice)",
    f"(&(cn=gc)(memberOf:1.2.840.113556.1.4.1941:=cn=ga,ou=groups,{b}))", "(numSubordinates=5)",
]  # fmt: skip
BASES = [(BASE, 2), (BASE, 1), (BASE, 0), (f"ou=users,{b}", 2), (f"ou=Groups,{b}", 1), (f"ou=virtual-groups,{b}", 2)]
BASES += [(ALICE, 0), (f"cn=GA,ou=groups,{b}", 0), (f"cn=bob,ou=virtual-groups,{b}", 2), (f"cn=zz,ou=users,{b}", 0)]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("viewer", [FULL, ALICE_ONLY], ids=["full", "own"])
async def test_direct_answers_as_cached(viewer: Viewer, nested: bool) -> None:
    """[56–60, 77] Every filter at every base gives what the whole directory gives."""
    options = EntryOptions(BASE, nested_groups=nested)
    cached = snapshot(nested_groups=nested)
    for text, (base, scope) in itertools.product(TEXTS, BASES):
        for attributes in ([], ["+"]):
            asked = request(text, attributes, base=base, scope=scope)
            answer = await search(options, asked, viewer, Core())
            expected = ask(cached, text, attributes, viewer, base=base, scope=scope)
            assert (answer.code, entries(answer)) == (0, expected), (text, base, scope)


@pytest.mark.parametrize(
    ("text", "base", "scope", "calls"),
    [
        ("(objectClass=*)", ALICE, 0, [("users", {"search": ["alice"]})]),  # [47]
        ("(objectClass=*)", BASE, 0, []),
        ("(objectClass=*)", BASE, 1, []),
        ("(objectClass=*)", f"ou=users,{b}", 0, []),
        ("(objectClass=*)", f"ou=users,{b}", 1, [("users", {})]),
        ("(objectClass=*)", f"cn=ga,ou=groups,{b}", 0, [("groups", {"search": ["ga"]})]),
        ("(objectClass=*)", "dc=other", 2, []),
        ("(&(objectClass=user)(cn=alice))", BASE, 2, [("users", {"search": ["alice"]})]),
        (f"(memberOf=cn=ga,ou=groups,{b})", f"ou=users,{b}", 1,
         [("groups", {"search": ["ga"]}), ("users", {"groups_by_name": ["ga"]})]),
        (f"(memberOf=cn=nope,ou=groups,{b})", f"ou=users,{b}", 1, [("groups", {"search": ["nope"]})]),
        ("(member= )", BASE, 2, []),
    ],
)  # fmt: skip
async def test_what_is_asked(text: str, base: str, scope: int, calls: list[Any]) -> None:
    """[47] Only the lists and objects that can match are read."""
    core = Core()
    await search(OPTIONS, request(text, base=base, scope=scope), FULL, core)
    assert core.calls == calls


@pytest.mark.parametrize("viewer", [FULL, ALICE_ONLY], ids=["full", "own"])
@pytest.mark.parametrize(
    "chosen",
    [
        {"extra_attributes": ("memberUid", "uniqueMember", "distinguishedName")},
        {"extra_attributes": ("memberUid",), "nested_groups": True},
        {"only_groups": ("gb",)},
        {"only_groups": ("ga",), "nested_groups": True},
        {"active_only": True, "attributes_deny": ("mail",)},
    ],
    ids=str,
)
async def test_options_hold_in_direct_mode(chosen: dict[str, Any], viewer: Viewer) -> None:
    """What entries carry, and which there are, is the same as in the whole directory."""
    texts = [
        "(objectClass=*)", "(memberUid=ALICE)", "(&(objectClass=posixGroup)(memberUid=bob))", "(memberUid=nobody)",
        f"(uniqueMember={ALICE})", f"(memberOf=cn=ga,ou=groups,{b})", f"(member={ALICE})", "(cn=gc)", "(mail=bob@x.io)",
    ]  # fmt: skip
    cached = snapshot(**chosen)
    for text, (base, scope) in itertools.product(texts, BASES):
        answer = await search(EntryOptions(BASE, **chosen), request(text, base=base, scope=scope), viewer, Core())
        expected = ask(cached, text, (), viewer, base=base, scope=scope)
        assert (answer.code, entries(answer)) == (0, expected), (text, base, scope)


async def test_member_names_narrow_when_they_are_computed() -> None:
    """``memberUid`` asks for the groups of one user; as an own attribute of groups it may say anything."""
    asked = request("(&(objectClass=posixGroup)(memberUid=alice))", base=f"ou=groups,{b}")
    core = Core()
    await search(EntryOptions(BASE, extra_attributes=("memberUid",)), asked, FULL, core)
    assert core.calls == [("users", {"search": ["alice"]}), ("groups", {"members_by_username": ["alice"]})]
    core = Core()
    await search(OPTIONS, asked, FULL, core)
    assert core.calls == [("groups", {})]


async def test_own_entry_needs_no_list() -> None:
    """Without the right: the own user by pk, the own groups by member."""
    core = Core()
    answer = await search(OPTIONS, request(), ALICE_ONLY, core)
    assert len(entries(answer)) == 8
    assert core.calls == [("groups", {"members_by_pk": ["1"]}), ("user", {"pk": ["1"]})]


async def test_vanished_viewer_sees_the_fixed_entries() -> None:
    """The core knows the user no more (400 and 404): no error, nothing personal."""
    answer = await search(OPTIONS, request(), Viewer(99, full=False), Core())
    assert names(entries(answer)) == names(ask(snapshot().view(99)))


@pytest.mark.parametrize("viewer", [FULL, ALICE_ONLY])
async def test_failing_core_is_unavailable(viewer: Viewer) -> None:
    """[85] A list that cannot be had whole means 52 and no entry."""
    answer = await search(OPTIONS, request(), viewer, Core(lambda: CoreUnavailable("GET /core/users/", "HTTP 500")))
    assert (answer.code, answer.count, list(answer.chunks)) == (52, 0, [])
    assert isinstance(answer.cause, CoreUnavailable)


async def test_unbound_asks_nothing() -> None:
    """Nobody bound: refused without a call."""
    core = Core()
    assert (await search(OPTIONS, request(), None, core)).code == 50
    assert core.calls == []
