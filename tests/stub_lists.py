"""The lists of the fake core: filters, paging and refusals as recorded from a real one.

User and group names compare exactly, with their case; a repeated key is "or"; an unknown group or member is 400;
unknown keys are ignored; a page out of range is 404.
"""

from __future__ import annotations

import re
from typing import Any

JSON = dict[str, Any]
Query = list[tuple[str, str]]

PAGE_SIZE_DEFAULT = 20  # of a tenant
PAGE_SIZE_MAX = 100  # of a tenant


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, body: JSON) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


def users(everybody: list[JSON], all_groups: list[JSON], query: Query) -> JSON:
    """``/core/users/``."""
    found = sorted(everybody, key=lambda item: str(item["username"]))
    for key in ("username", "name", "email", "uuid"):
        wanted = [value for name, value in query if name == key]
        if wanted:
            found = [item for item in found if item[key] in wanted]
    found = _searched(found, query, ("username", "name", "email", "uuid", "attributes"))
    for key, of_group in (("groups_by_name", "name"), ("groups_by_pk", "pk")):
        wanted = _choices(key, query, {str(item[of_group]) for item in all_groups})
        if wanted:
            pks = {pk for item in all_groups if str(item[of_group]) in wanted for pk in item["users"]}
            found = [item for item in found if item["pk"] in pks]
    return _shown(page_of(found, query), query, {"include_groups": "groups_obj", "include_roles": "roles_obj"})


def groups(everybody: list[JSON], all_groups: list[JSON], query: Query) -> JSON:
    """``/core/groups/``."""
    found = sorted(all_groups, key=lambda item: str(item["name"]))
    wanted = [value for name, value in query if name == "name"]
    if wanted:
        found = [item for item in found if item["name"] in wanted]
    found = _searched(found, query, ("name",))
    for key, of_user in (("members_by_username", "username"), ("members_by_pk", "pk")):
        wanted = _choices(key, query, {str(item[of_user]) for item in everybody})
        if wanted:
            pks = {item["pk"] for item in everybody if str(item[of_user]) in wanted}
            found = [item for item in found if pks & set(item["users"])]
    switches = {"include_users": "users_obj", "include_children": "children_obj", "include_parents": "parents_obj"}
    return _shown(
        page_of(found, query), [("include_children", "false"), ("include_parents", "false"), *query], switches
    )


def _searched(found: list[JSON], query: Query, fields: tuple[str, ...]) -> list[JSON]:
    """``search=``: each word must be in one of the fields, in any letter case; spaces and commas divide words."""
    words = [word for name, value in query if name == "search" for word in re.split(r"[\s,]+", value.lower()) if word]
    for word in words:
        found = [item for item in found if any(word in str(item[field]).lower() for field in fields)]
    return found


def _choices(key: str, query: Query, known: set[str]) -> list[str]:
    """The values asked for; one that does not exist is refused."""
    wanted = [value for name, value in query if name == key]
    for value in wanted:
        if value not in known:
            raise Refused(400, {key: [f"Select a valid choice. {value} is not one of the available choices."]})
    return wanted


def page_of(items: list[JSON], query: list[tuple[str, str]]) -> JSON:
    """One page of a list, with the core's paging rules: size capped, out of range is 404."""
    values = dict(query)
    try:
        number, size = int(values.get("page", 1)), int(values.get("page_size", PAGE_SIZE_DEFAULT))
    except ValueError:
        raise Refused(404, {"detail": "Invalid page."}) from None
    size = min(max(size, 1), PAGE_SIZE_MAX)
    total = max(1, -(-len(items) // size))
    if not 1 <= number <= total:
        raise Refused(404, {"detail": "Invalid page."})
    chosen = items[(number - 1) * size : number * size]
    pagination = {
        "next": number + 1 if number < total else 0,
        "previous": number - 1,
        "count": len(items),
        "current": number,
        "total_pages": total,
        "start_index": (number - 1) * size + 1 if items else 0,
        "end_index": (number - 1) * size + len(chosen),
    }
    return {"pagination": pagination, "results": chosen, "autocomplete": {}}


def _shown(page: JSON, query: list[tuple[str, str]], switches: dict[str, str]) -> JSON:
    """The page without what the include switches leave out: those keys are null."""
    values = dict(query)
    hidden = {key for switch, key in switches.items() if values.get(switch, "true").lower() in ("false", "0")}
    results = [{key: None if key in hidden else value for key, value in item.items()} for item in page["results"]]
    return page | {"results": results}
