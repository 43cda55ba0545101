"""Direct mode: what of a filter the core's API can answer for us (spec: which users and groups can match at all).

:func:`narrow` looks at equality items that every match must satisfy: the filter itself and the children of ANDs,
nested or not. OR, NOT, substrings and everything else ask for the full list. The narrowed lists are then searched with
the *full* filter, so a list may be too long but must never be too short.

When is a narrowed list long enough? Each :class:`Term` is one item's view of one list. LDAP compares these attributes
without regard to case and to repeated spaces, the API compares exactly. So asking the API for ``parameter=value`` alone
is **not** a superset of the matches. It becomes one like this:

1. ``term.searchable`` is False (the value holds something the API's free-text search may read in its own way, or folds
   differently there): leave the term out; without any other term take the full list.
2. List ``term.lookup`` with ``search=<value>``: case-insensitive containment in user name, name, e-mail (users) or name
   (groups). Keep the items whose ``term.field`` equals the value under :func:`dn.fold`. They hold every spelling.
3. None kept: no entry of that list matches. ``term.lookup`` is the list itself (``term.direct``): the kept items are
   the narrowed list, nothing more to ask. Otherwise repeat ``parameter`` once for each spelling (the API joins repeated
   keys with OR); an unknown spelling would be refused with 400, but these come from the core itself.

One term is enough: each alone gives a superset. All this holds as long as the mapped attributes come from the mapped
fields, i.e. no custom attribute of the object takes their place; a directory that allows this must not narrow by them.
Membership terms see direct members only: with nested groups they are left out (``nested_groups=True``).
"""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

from outposts.ldap.dn import DN, DNError, fold, normalise_type
from outposts.ldap.filters import And, Equality, Filter

List = Literal["users", "groups"]

SEARCHABLE: Final = re.compile(r"[A-Za-z0-9._@-]{1,150}")
"""Values that the API's free-text search takes as one literal word. Others may be split, quoted or read as a query;
letters beyond ASCII fold differently in databases. 150: the longest user name the core allows."""

USERS: Final = "users"
GROUPS: Final = "groups"
VIRTUAL_GROUPS: Final = "virtual-groups"

USER_FIELDS: Final = {
    "cn": "username",
    "samaccountname": "username",
    "displayname": "name",
    "name": "name",
    "sn": "name",
    "mail": "email",
}
"""Attribute → field of a user that it shows (spec §4.1)."""

GROUP_FIELDS: Final = {"cn": "name", "samaccountname": "name"}
"""Attribute → field of a group that it shows (spec §4.2)."""

ONLY_USERS: Final = frozenset(
    {
        "person",
        "organizationalperson",
        "inetorgperson",
        "user",
        "posixaccount",
        "goauthentik.io/ldap/user",
        "goauthentik.io/ldap/virtual-group",
    }
)
"""Object classes of entries that are made from users. The other way round there is none: virtual groups, made from
users, carry all classes of groups."""


class Term(msgspec.Struct, frozen=True):
    """One equality item as the API can see it; the module says how to make it complete."""

    parameter: str
    """Query parameter of the narrowed list: username, name, email, groups_by_name; name, members_by_username."""

    value: str
    """As the client sent it, DN escapes resolved."""

    lookup: List
    """The list that knows the spellings of the value …"""

    field: str
    """… in this field of its items."""

    direct: bool
    """The looked-up items are themselves the narrowed list."""

    searchable: bool
    """The value can be looked up. False: this term cannot narrow."""


class ApiQuery(msgspec.Struct, frozen=True):
    """What to read. For each list: None, nothing of it can match; ``()``, all of it; else terms, each a superset."""

    users: tuple[Term, ...] | None = ()
    groups: tuple[Term, ...] | None = ()


NOTHING: Final = ApiQuery(None, None)
EVERYTHING: Final = ApiQuery()


def narrow(
    node: Filter,
    *,
    nested_groups: bool = False,
    uid_is_username: bool = False,
    object_class_fixed: bool = False,
    membership: frozenset[str] = frozenset(),
) -> ApiQuery:
    """Which users and groups can match the filter.

    ``nested_groups``: member and memberOf are transitive here, so they do not narrow.
    ``uid_is_username``: ``uid`` shows the user name, so it narrows as ``cn`` does; group entries have another uid.
    ``object_class_fixed``: no object can bring its own ``objectClass`` values, so these may rule out a list.
    ``membership``: of ``memberUid`` and ``uniqueMember`` those that say what ``member`` says, never an own attribute.

    Virtual groups are made from users: they are found among the users that the query names.
    """
    users: list[Term] = []
    groups: list[Term] = []
    no_users = no_groups = False
    for item in _conjuncts(node):
        query = _item_query(item, nested_groups, uid_is_username, object_class_fixed, membership)
        if query.users is None:
            no_users = True
        else:
            users.extend(query.users)
        if query.groups is None:
            no_groups = True
        else:
            groups.extend(query.groups)
    return ApiQuery(None if no_users else tuple(users), None if no_groups else tuple(groups))


def narrow_entry(name: DN, base: DN) -> ApiQuery:
    """Which users and groups can be the entry ``name`` in the directory at ``base``: for reads of one entry."""
    container = _container(name)
    if not name.is_under(base) or len(name) != len(base) + 2 or container is None:
        return NOTHING
    value = name.rdns[0][0].value
    if container == GROUPS:
        return ApiQuery(None, (_term("name", value, GROUPS, "name", direct=True),))
    return ApiQuery((_term("username", value, USERS, "username", direct=True),), None)


def _conjuncts(node: Filter) -> list[Equality]:
    """The equality items that every match satisfies."""
    found: list[Equality] = []
    work: list[Filter] = [node]
    while work:
        current = work.pop()
        if isinstance(current, And):
            work.extend(reversed(current.children))
        elif isinstance(current, Equality):
            found.append(current)
    return found


def _item_query(
    item: Equality, nested_groups: bool, uid_is_username: bool, object_class_fixed: bool, membership: frozenset[str]
) -> ApiQuery:
    attribute = normalise_type(item.attribute)
    try:
        value = item.value.decode()
    except UnicodeDecodeError:
        return EVERYTHING
    if attribute == "memberof":
        return _member_of(value, nested_groups)
    if attribute == "member" or (attribute == "uniquemember" and "uniqueMember" in membership):
        return _member(value, nested_groups)
    if attribute == "memberuid" and "memberUid" in membership:
        return _member_name(value, nested_groups)
    if attribute == "objectclass":
        return ApiQuery((), None) if object_class_fixed and fold(value) in ONLY_USERS else EVERYTHING
    if attribute == "uid" and uid_is_username:
        return ApiQuery((_term("username", value, USERS, "username", direct=True),), ())
    users: tuple[Term, ...] = ()
    groups: tuple[Term, ...] = ()
    field = USER_FIELDS.get(attribute)
    # Virtual groups show only the user name, so the other fields narrow users whose virtual group cannot match anyway.
    if field is not None:
        users = (_term(field, value, USERS, field, direct=True),)
    field = GROUP_FIELDS.get(attribute)
    if field is not None:
        groups = (_term(field, value, GROUPS, field, direct=True),)
    return ApiQuery(users, groups)


def _member_of(value: str, nested_groups: bool) -> ApiQuery:
    """Users by their group; groups by their parent, for which the API has no parameter."""
    try:
        name = DN.parse(value)
    except DNError:
        return NOTHING  # the attribute has DN syntax: a value that is no DN matches nothing
    container = _container(name)
    if container in (USERS, VIRTUAL_GROUPS):
        return NOTHING  # only groups have members that point back
    if container == GROUPS and not nested_groups:
        term = _term("groups_by_name", name.rdns[0][0].value, GROUPS, "name", direct=False)
        return ApiQuery((term,), ())
    return EVERYTHING


def _member(value: str, nested_groups: bool) -> ApiQuery:
    """Groups by a member; a virtual group by its user; groups by a child group, for which the API has no parameter."""
    try:
        name = DN.parse(value)
    except DNError:
        return NOTHING  # as in _member_of
    container = _container(name)
    if container == VIRTUAL_GROUPS:
        return NOTHING  # nothing has a virtual group as member
    if container == GROUPS:
        return ApiQuery(None, ())
    if container == USERS:
        return _member_name(name.rdns[0][0].value, nested_groups)
    return EVERYTHING


def _member_name(username: str, nested_groups: bool) -> ApiQuery:
    """Groups that have this user as member, and the user for its virtual group."""
    users = (_term("username", username, USERS, "username", direct=True),)
    if nested_groups:
        return ApiQuery(users, ())
    return ApiQuery(users, (_term("members_by_username", username, USERS, "username", direct=False),))


def _container(name: DN) -> str | None:
    """``users``, ``groups`` or ``virtual-groups`` when the name is laid out as ``x=…,ou=<container>,<base>``."""
    if len(name) < 2 or len(name.rdns[0]) != 1 or len(name.rdns[1]) != 1:
        return None
    ava = name.rdns[1][0]
    value = fold(ava.value)
    return value if ava.type == "ou" and value in (USERS, GROUPS, VIRTUAL_GROUPS) else None


def _term(parameter: str, value: str, lookup: List, field: str, *, direct: bool) -> Term:
    return Term(parameter, value, lookup, field, direct, SEARCHABLE.fullmatch(value) is not None)
