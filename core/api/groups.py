"""``/core/groups/``: the groups that LDAP outposts read, and what an administrator needs of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from core import access, models
from core.api.base import (
    Answer,
    Call,
    Route,
    attribute_filter,
    by_number,
    by_uuid,
    contains,
    invalid_choice,
    moment,
    update,
)
from core.errors import ValidationFailed

NAME = "Group"


def shown(
    call: Call,
    groups: Sequence[models.Group],
    *,
    users: bool = True,
    children: bool = False,
    parents: bool = False,
    inherited_roles: bool = False,
) -> list[dict[str, Any]]:
    """Groups as the API writes them, in five queries for a whole page. ``parent`` and ``parent_name`` are 2025.10's."""
    database = call.services.database
    pks = [group.pk for group in groups]
    members, below = database.member_pks(pks), database.children(pks)
    people: dict[int, models.User] = {}
    if users:
        people = database.get_many(models.User, {pk for found in members.values() for pk in found})
    related = database.get_many(
        models.Group,
        {pk for group in groups for pk in group.parents} | {pk for found in below.values() for pk in found},
    )
    roles = database.get_many(models.Role, {pk for group in groups for pk in group.role_pks})
    answer = []
    for group in groups:
        parent = related.get(group.parents[0]) if group.parents else None
        answer.append(
            {
                "pk": group.pk,
                "num_pk": group.num_pk,
                "name": group.name,
                "is_superuser": group.is_superuser,
                "parents": group.parents,
                "parents_obj": [_related(related[pk]) for pk in group.parents if pk in related] if parents else None,
                "parent": parent.pk if parent else None,
                "parent_name": parent.name if parent else None,
                "users": members[group.pk],
                "users_obj": [_member(people[pk]) for pk in members[group.pk] if pk in people] if users else None,
                "attributes": group.attributes,
                "roles": group.role_pks,
                "roles_obj": [{"pk": pk, "name": roles[pk].name} for pk in group.role_pks if pk in roles],
                "inherited_roles_obj": _inherited(call, group) if inherited_roles else None,
                "children": below[group.pk],
                "children_obj": [_related(related[pk]) for pk in below[group.pk] if pk in related]
                if children
                else None,
            }
        )
    return answer


def _inherited(call: Call, group: models.Group) -> list[dict[str, Any]]:
    database = call.services.database
    above = database.get_many(models.Group, database.ancestor_pks(group.pk) - {group.pk})
    held = {pk for ancestor in above.values() for pk in ancestor.role_pks}
    return [{"pk": role.pk, "name": role.name} for role in database.find(models.Role, pk__in=list(held))]


def _related(group: models.Group) -> dict[str, Any]:
    return {
        "pk": group.pk,
        "name": group.name,
        "is_superuser": group.is_superuser,
        "attributes": group.attributes,
        "group_uuid": group.pk,
    }


def _member(user: models.User) -> dict[str, Any]:
    return {
        "pk": user.pk,
        "username": user.username,
        "name": user.name,
        "is_active": user.is_active,
        "last_login": moment(user.last_login),
        "email": user.email,
        "attributes": user.attributes,
        "uid": user.uid,
    }


def _options(call: Call) -> dict[str, bool]:
    return {
        "users": call.flag("include_users", True),
        "children": call.flag("include_children", False),
        "parents": call.flag("include_parents", False),
        "inherited_roles": call.flag("include_inherited_roles", False),
    }


async def listing(call: Call) -> Answer:
    """``GET /core/groups/``: all groups for LDAP outposts and superusers, an empty list for other outposts."""
    pks = call.visible(access.VIEW_GROUP, "authentik_core.group")
    filters: dict[str, Any] = {} if pks is None else {"pk__in": sorted(pks)}
    if call.param("name") is not None:
        filters["name"] = call.param("name")
    if call.boolean("is_superuser") is not None:
        filters["is_superuser"] = call.boolean("is_superuser")
    for wanted in _by_members(call):
        allowed = filters.get("pk__in")
        filters["pk__in"] = sorted(wanted if allowed is None else wanted & set(allowed))
    options = _options(call)
    return call.listed(
        models.Group, filters, lambda groups: shown(call, groups, **options), ordering=("name",), keep=_kept(call)
    )


def _by_members(call: Call) -> list[set[str]]:
    """Groups by direct members: one set for each of the two parameters in use; unknown values are refused."""
    database = call.services.database
    sets = []
    for name, column in (("members_by_username", "username"), ("members_by_pk", "pk")):
        values = call.all(name)
        if not values:
            continue
        keys: list[Any] = list(values)
        if column == "pk":
            for value in values:
                if not (value.isascii() and value.isdigit() and len(value) < 19):
                    raise invalid_choice(name, value)
            keys = [int(value) for value in values]
        wanted: dict[str, Any] = {f"{column}__in": keys}
        users = database.find(models.User, **wanted)
        known = {str(getattr(user, column)) for user in users}
        for value in values:
            if value not in known:
                raise invalid_choice(name, value)
        sets.append({pk for user in users for pk in user.group_pks})
    return sets


def _kept(call: Call) -> Callable[[models.Group], bool] | None:
    attributes, search = attribute_filter(call), (call.param("search") or "").casefold()
    if attributes is None and not search:
        return None

    def keep(group: models.Group) -> bool:
        if attributes is not None and not contains(group.attributes, attributes):
            return False
        return search in group.name.casefold()

    return keep


def _group(call: Call) -> models.Group:
    call.require_user()
    group = by_uuid(call, models.Group, NAME, call.path["pk"])
    call.require_visible(access.VIEW_GROUP, group, NAME)
    return group


async def retrieve(call: Call) -> Answer:
    """``GET /core/groups/<uuid>/``; children and parents are shown without being asked for."""
    options = _options(call) | {"children": True, "parents": True}
    return Answer(shown(call, [_group(call)], **options)[0])


async def create(call: Call) -> Answer:
    """``POST /core/groups/``: 201."""
    call.require_superuser()
    data = await call.json()
    if not isinstance(data.get("name"), str) or not data["name"]:
        raise ValidationFailed({"name": ["This field is required."]})
    return Answer(shown(call, [_write(call, models.Group(name=data["name"]), data)])[0], status=201)


async def change(call: Call) -> Answer:
    """``PATCH`` and ``PUT /core/groups/<uuid>/``."""
    call.require_superuser()
    group = _group(call)
    call.writable(group)
    return Answer(shown(call, [_write(call, group, await call.json())])[0])


def _write(call: Call, group: models.Group, data: dict[str, Any]) -> models.Group:
    database = call.services.database
    update(group, data, {"name": str, "is_superuser": bool, "attributes": dict})
    if "parents" in data:
        parents = data["parents"]
        known = database.get_many(models.Group, parents if isinstance(parents, list) else [])
        if not isinstance(parents, list) or any(pk not in known for pk in parents):
            raise ValidationFailed({"parents": ["Invalid pk - object does not exist."]})
        group.parents = list(parents)
    with database.transaction():
        database.save(group)
        if "users" in data:
            _set_members(call, group, data["users"])
    return group


def _set_members(call: Call, group: models.Group, wanted: Any) -> None:
    database = call.services.database
    people = database.get_many(models.User, wanted if isinstance(wanted, list) else [])
    if not isinstance(wanted, list) or any(pk not in people for pk in wanted):
        raise ValidationFailed({"users": ["Invalid pk - object does not exist."]})
    present = {user.pk: user for user in database.members(group.pk)}
    for pk, user in present.items():
        if pk not in people:
            database.set_membership(user, group.pk, False)
    for pk, user in people.items():
        if pk not in present:
            database.set_membership(user, group.pk, True)


async def _membership(call: Call, member: bool) -> Answer:
    call.require_superuser()
    group = _group(call)
    pk = (await call.json()).get("pk")
    user = by_number(call, models.User, "User", str(pk))
    call.services.database.set_membership(user, group.pk, member)
    return Answer(status=204)


async def add_user(call: Call) -> Answer:
    """``POST /core/groups/<uuid>/add_user/`` with ``{pk}``: 204."""
    return await _membership(call, True)


async def remove_user(call: Call) -> Answer:
    """``POST /core/groups/<uuid>/remove_user/`` with ``{pk}``: 204."""
    return await _membership(call, False)


async def remove(call: Call) -> Answer:
    """``DELETE /core/groups/<uuid>/``."""
    call.require_superuser()
    group = _group(call)
    call.writable(group)
    call.services.database.delete(group)
    return Answer(status=204)


ROUTES = (
    Route("GET", "/core/groups/", listing),
    Route("POST", "/core/groups/", create),
    Route("GET", "/core/groups/{pk}/", retrieve),
    Route("PATCH", "/core/groups/{pk}/", change),
    Route("PUT", "/core/groups/{pk}/", change),
    Route("DELETE", "/core/groups/{pk}/", remove),
    Route("POST", "/core/groups/{pk}/add_user/", add_user),
    Route("POST", "/core/groups/{pk}/remove_user/", remove_user),
)
