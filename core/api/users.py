"""``/core/users/``: the directory that LDAP outposts read, ``users/me``, and what an administrator needs of people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from core import access, models
from core.api.base import (
    NO_PERMISSION,
    Answer,
    Call,
    Route,
    attribute_filter,
    by_number,
    contains,
    invalid_choice,
    moment,
    read_moment,
    update,
)
from core.avatars import avatar
from core.errors import Forbidden, ValidationFailed

NAME = "User"
ORDERING = ("username", "name", "email", "is_active", "date_joined", "last_login", "last_updated", "path", "type")
WRITABLE: dict[str, type] = {
    "username": str, "name": str, "email": str, "is_active": bool, "attributes": dict, "groups": list, "path": str,
    "type": str,
}  # fmt: skip
EXACT = ("username", "email", "name", "path")
TIMES = ("date_joined", "last_login", "last_updated")


def shown(
    call: Call, users: Sequence[models.User], *, include_groups: bool = True, include_roles: bool = True
) -> list[dict[str, Any]]:
    """Users as the API writes them. Groups and roles of all users are read in one query each."""
    database = call.services.database
    groups: dict[str, dict[str, Any]] = {}
    if include_groups:
        wanted = {pk for user in users for pk in user.group_pks}
        groups = {pk: _group(group) for pk, group in database.get_many(models.Group, wanted).items()} if wanted else {}
    roles: dict[str, models.Role] = {}
    if include_roles:
        held = {pk for user in users for pk in user.role_pks}
        roles = database.get_many(models.Role, held) if held else {}
    return [
        {
            "pk": user.pk,
            "username": user.username,
            "name": user.name,
            "is_active": user.is_active,
            "last_login": moment(user.last_login),
            "date_joined": moment(user.date_joined),
            "is_superuser": user.is_superuser,
            "groups": user.group_pks,
            "groups_obj": [groups[pk] for pk in user.group_pks if pk in groups] if include_groups else None,
            "roles": user.role_pks,
            "roles_obj": [_role(roles[pk]) for pk in user.role_pks if pk in roles] if include_roles else None,
            "email": user.email,
            "avatar": avatar(user.username, user.name),
            "attributes": user.attributes,
            "uid": user.uid,
            "path": user.path,
            "type": user.type,
            "uuid": user.uuid,
            "password_change_date": moment(user.password_change_date),
            "last_updated": moment(user.last_updated),
        }
        for user in users
    ]


def _group(group: models.Group) -> dict[str, Any]:
    return {
        "pk": group.pk,
        "num_pk": group.num_pk,
        "name": group.name,
        "is_superuser": group.is_superuser,
        "attributes": group.attributes,
    }


def _role(role: models.Role) -> dict[str, Any]:
    return {"pk": role.pk, "name": role.name}


async def listing(call: Call) -> Answer:
    """``GET /core/users/``: all users for LDAP outposts and superusers, an empty list for other outposts."""
    pks = call.visible(access.VIEW_USER, "authentik_core.user")
    filters: dict[str, Any] = {} if pks is None else {"pk__in": [int(pk) for pk in pks]}
    for name in EXACT:
        value = call.param(name)
        if value is not None:
            filters[name] = value
    if call.param("uuid") is not None:
        filters["uuid"] = call.param("uuid")
    if call.param("path_startswith") is not None:
        filters["path__startswith"] = call.param("path_startswith")
    if call.boolean("is_active") is not None:
        filters["is_active"] = call.boolean("is_active")
    for name in TIMES:
        for parameter, look_up in ((name, name), (f"{name}__gt", f"{name}__gt"), (f"{name}__lt", f"{name}__lt")):
            value = call.param(parameter)
            if value is not None:
                filters[look_up] = read_moment(parameter, value)
    types = call.all("type")
    if types:
        for value in types:
            if value not in models.USER_TYPES:
                raise invalid_choice("type", value)
        filters["type__in"] = types
    _related(call, filters)
    include = {name: call.flag(f"include_{name}", True) for name in ("groups", "roles")}
    return call.listed(
        models.User,
        filters,
        lambda users: shown(call, users, include_groups=include["groups"], include_roles=include["roles"]),
        ordering=ORDERING,
        keep=_kept(call),
    )


def _related(call: Call, filters: dict[str, Any]) -> None:
    """``groups_by_*`` and ``roles_by_*``: direct relations; several values mean any of them, unknown are refused."""
    for model, prefix, column in ((models.Group, "groups_by", "group_pks"), (models.Role, "roles_by", "role_pks")):
        sets: list[list[str]] = []
        for suffix in ("name", "pk"):
            values = call.all(f"{prefix}_{suffix}")
            if not values:
                continue
            wanted: dict[str, Any] = {f"{suffix}__in": values}
            found = call.services.database.find(model, **wanted)
            known = {getattr(record, suffix) for record in found}
            for value in values:
                if value not in known:
                    raise invalid_choice(f"{prefix}_{suffix}", value)
            sets.append([str(record.pk) for record in found])
        if len(sets) == 2:
            # both parameters must hold; a user may satisfy them by different groups
            one: dict[str, Any] = {f"{column}__in": sets[0]}
            first = {user.pk for user in call.services.database.find(models.User, **one)}
            previous = filters.get("pk__in")
            filters["pk__in"] = list(first if previous is None else first & set(previous))
        if sets:
            filters[f"{column}__in"] = sets[-1]


def _kept(call: Call) -> Callable[[models.User], bool] | None:
    """What the database cannot filter: superusers, attributes, search text. ``None`` if nothing of it is asked."""
    superuser, attributes = call.boolean("is_superuser"), attribute_filter(call)
    search = (call.param("search") or "").casefold()
    if superuser is None and attributes is None and not search:
        return None

    def keep(user: models.User) -> bool:
        if superuser is not None and user.is_superuser is not superuser:
            return False
        if attributes is not None and not contains(user.attributes, attributes):
            return False
        return not search or any(search in text.casefold() for text in (user.username, user.name, user.email))

    return keep


def _user(call: Call) -> models.User:
    call.require_user()
    user = by_number(call, models.User, NAME, call.path["pk"])
    call.require_visible(access.VIEW_USER, user, NAME)
    return user


async def retrieve(call: Call) -> Answer:
    """``GET /core/users/<pk>/``."""
    return Answer(shown(call, [_user(call)])[0])


async def me(call: Call) -> Answer:
    """``GET /core/users/me/``: whoever calls, in a shape of its own."""
    user = call.require_user()
    call.announce = call.session.authenticated
    roles = user.all_roles()
    return Answer(
        {
            "user": {
                "pk": user.pk,
                "username": user.username,
                "name": user.name,
                "is_active": user.is_active,
                "is_superuser": user.is_superuser,
                "groups": [{"name": group.name, "pk": group.pk} for group in user.groups],
                "roles": [{"name": role.name, "pk": role.pk} for role in roles],
                "email": user.email,
                "avatar": avatar(user.username, user.name),
                "uid": user.uid,
                "settings": user.attributes.get("settings")
                if isinstance(user.attributes.get("settings"), dict)
                else {},
                "type": user.type,
                "system_permissions": ["access_admin_interface"] if user.is_superuser else [],
            }
        }
    )


async def create(call: Call) -> Answer:
    """``POST /core/users/``: 201."""
    call.require_superuser()
    data = await call.json()
    if not isinstance(data.get("username"), str) or not isinstance(data.get("name"), str):
        missing = [name for name in ("username", "name") if not isinstance(data.get(name), str)]
        raise ValidationFailed({name: ["This field is required."] for name in missing})
    return Answer(shown(call, [_write(call, models.User(username=data["username"]), data)])[0], status=201)


async def change(call: Call) -> Answer:
    """``PATCH`` and ``PUT /core/users/<pk>/``. Deactivating a user ends all sessions."""
    call.require_superuser()
    user = _user(call)
    call.writable(user)
    return Answer(shown(call, [_write(call, user, await call.json())])[0])


def _write(call: Call, user: models.User, data: dict[str, Any]) -> models.User:
    if user.type == models.INTERNAL_SERVICE_ACCOUNT or data.get("type") == models.INTERNAL_SERVICE_ACCOUNT:
        raise ValidationFailed({"type": ["Internal service accounts are made by the core only."]})
    update(user, data, {name: kind for name, kind in WRITABLE.items() if name != "groups"})
    if "groups" in data:
        groups = data["groups"]
        known = call.services.database.get_many(models.Group, groups if isinstance(groups, list) else [])
        if not isinstance(groups, list) or any(pk not in known for pk in groups):
            raise ValidationFailed({"groups": ["Invalid pk - object does not exist."]})
        user.group_pks = list(groups)
    return call.services.database.save(user)


async def remove(call: Call) -> Answer:
    """``DELETE /core/users/<pk>/``: sessions end first."""
    caller = call.require_superuser()
    user = _user(call)
    call.writable(user)
    if user == caller:
        raise Forbidden(NO_PERMISSION)
    call.services.database.delete(user)
    return Answer(status=204)


async def set_password(call: Call) -> Answer:
    """``POST /core/users/<pk>/set_password/``: sessions stay valid, as with the reference."""
    call.require_superuser()
    user = _user(call)
    call.writable(user)
    password = (await call.json()).get("password")
    if not isinstance(password, str) or not password:
        raise ValidationFailed({"password": ["This field is required."]})
    password_hash = await call.services.passwords.hash(password)
    user = by_number(call, models.User, NAME, call.path["pk"])  # hashing took a while
    user.password_hash = password_hash
    user.password_change_date = call.services.now()
    call.services.database.save(user)
    return Answer(status=204)


ROUTES = (
    Route("GET", "/core/users/", listing),
    Route("POST", "/core/users/", create),
    Route("GET", "/core/users/me/", me),
    Route("GET", "/core/users/{pk}/", retrieve),
    Route("PATCH", "/core/users/{pk}/", change),
    Route("PUT", "/core/users/{pk}/", change),
    Route("DELETE", "/core/users/{pk}/", remove),
    Route("POST", "/core/users/{pk}/set_password/", set_password),
)
