"""Direct search: what of the core's lists can match is fetched, becomes a small snapshot, and ``search.run`` answers.

``narrowing`` says what the API can select. Each entry is complete however little was fetched: a group record names all
its members, a user record all its groups; what needs the whole picture (nested groups, in-chain matching, counts of
subordinates) fetches it.

A custom attribute ``mail`` replaces the e-mail address in an entry, but the API selects by the address: in direct mode
a search for such a custom address alone does not find its user.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from common.errors import CoreError, CoreNotFound, CoreRejected
from outposts.ldap.builder import SnapshotBuilder
from outposts.ldap.directory import Snapshot
from outposts.ldap.dn import DN, DNError, fold
from outposts.ldap.entries import EntryOptions, Kind
from outposts.ldap.filters import And, Extensible, Filter, Not, Or
from outposts.ldap.messages import SearchRequest
from outposts.ldap.narrowing import EVERYTHING, NOTHING, ApiQuery, Term, narrow, narrow_entry
from outposts.ldap.rfc import MatchingRule, ResultCode, Scope
from outposts.ldap.schema import RootInfo
from outposts.ldap.search import SearchAnswer, Viewer, run, selection

Parameters = Sequence[tuple[str, str]]
USER_PARAMETERS: Parameters = (("include_groups", "true"), ("include_roles", "false"))
GROUP_PARAMETERS: Parameters = (
    ("include_users", "true"),
    ("include_children", "true"),
    ("include_parents", "true"),
    ("include_inherited_roles", "false"),
)
# Objects that are made into entries between two turns of the loop: some 2 ms; more go to a thread.
BUILT_ON_LOOP = 20
# Terms by these fields are not used: custom attributes commonly replace what entries show of them (sn, displayName).
REPLACED_FIELDS = frozenset({("users", "name")})
_COUNTS = frozenset({"numsubordinates", "hassubordinates", "1.3.6.1.4.1.453.16.2.103", "2.5.18.9"})


class Fetch(Protocol):
    """What direct search needs of the core: complete lists (all pages), raw. Every method raises ``CoreError``."""

    async def users(self, params: Parameters) -> Sequence[msgspec.Raw]:
        """``/core/users/`` with these query parameters."""

    async def groups(self, params: Parameters) -> Sequence[msgspec.Raw]:
        """``/core/groups/`` with these query parameters."""

    async def user(self, pk: int) -> msgspec.Raw:
        """``/core/users/<pk>/``."""


class _Named(msgspec.Struct):
    """The fields that a look-up compares."""

    username: str = ""
    name: str = ""
    email: str | None = None


_NAMED = msgspec.json.Decoder(_Named)


async def search(
    options: EntryOptions,
    request: SearchRequest,
    viewer: Viewer | None,
    fetch: Fetch,
    *,
    info: RootInfo | None = None,
    strict: bool = False,
    size_limit: int = 0,
    out_of_time: Callable[[], bool] | None = None,
) -> SearchAnswer:
    """Answer one search from the core's API. Arguments as for ``search.run``; a failing core means 52."""
    try:
        snapshot = await fetch_snapshot(options, request, viewer, fetch)
    except CoreError as error:
        return SearchAnswer(
            ResultCode.UNAVAILABLE, iter(()), 0, diagnostic="the identity core does not answer", cause=error
        )
    return run(snapshot, request, viewer, info=info, strict=strict, size_limit=size_limit, out_of_time=out_of_time)


async def fetch_snapshot(
    options: EntryOptions, request: SearchRequest, viewer: Viewer | None, fetch: Fetch
) -> Snapshot:
    """A snapshot that holds everything which can match the request. Raises ``CoreError``."""
    builder = SnapshotBuilder(options)
    query = plan(options, request) if viewer is not None else NOTHING
    if viewer is not None and not viewer.full:
        await _fetch_own(options, viewer, query, fetch, builder)
        return builder.finish()
    users, groups = query.users, query.groups
    if (options.nested_groups or options.only_groups) and (users is not None or groups is not None):
        groups = ()  # inherited membership or visibility of one object can run through any group
    listed_users, listed_groups = await asyncio.gather(_list(fetch, "users", users), _list(fetch, "groups", groups))

    def build() -> Snapshot:
        builder.add_groups(listed_groups)
        builder.add_users(listed_users)
        return builder.finish()

    few = len(listed_users) + len(listed_groups) <= BUILT_ON_LOOP
    return build() if few else await asyncio.to_thread(build)


def plan(options: EntryOptions, request: SearchRequest) -> ApiQuery:
    """What to fetch for a request: by its scope and by its filter, whichever says less."""
    try:
        base = DN.parse(request.base)
    except DNError:
        return NOTHING
    by_scope = _by_scope(options, base, request)
    if by_scope == NOTHING:
        return NOTHING
    by_filter = narrow(
        request.filter,
        nested_groups=options.nested_groups,
        uid_is_username=options.uid_is_username,
        object_class_fixed=True,
        membership=options.extras,
    )
    users = _together(by_scope.users, by_filter.users)
    groups = _together(by_scope.groups, by_filter.groups)
    if _needs_all_groups(request.filter):
        groups = ()
    return ApiQuery(users, groups)


def _together(one: tuple[Term, ...] | None, other: tuple[Term, ...] | None) -> tuple[Term, ...] | None:
    return None if one is None or other is None else (*one, *other)


def _by_scope(options: EntryOptions, base: DN, request: SearchRequest) -> ApiQuery:
    """Which lists the base and scope reach."""
    counts = _asks_for_counts(request)
    root = DN.parse(options.base_dn)
    if not base.is_under(root):
        return NOTHING
    if base == root:
        return EVERYTHING if request.scope in (Scope.SUB, Scope.CHILDREN) or counts else NOTHING
    for kind, dn in options.containers.items():
        if base == DN.parse(dn):
            if request.scope == Scope.BASE and not counts:
                return NOTHING
            return ApiQuery(None, ()) if kind == Kind.GROUP else ApiQuery((), None)
    return narrow_entry(base, root) if request.scope in (Scope.BASE, Scope.SUB) else NOTHING


def _asks_for_counts(request: SearchRequest) -> bool:
    """Whether numbers of subordinates are shown or tested."""
    chosen = selection(request.attributes)
    if chosen.all_operational or chosen.names & _COUNTS:
        return True
    return any(getattr(item, "attribute", None) in _COUNTS for item in _items(request.filter))


def _needs_all_groups(node: Filter) -> bool:
    return any(isinstance(item, Extensible) and item.rule in MatchingRule.IN_CHAIN for item in _items(node))


def _items(node: Filter) -> list[Filter]:
    """All items of a filter, without and, or, not."""
    found: list[Filter] = []
    waiting = [node]
    for current in waiting:
        if isinstance(current, And | Or):
            waiting.extend(current.children)
        elif isinstance(current, Not):
            waiting.append(current.child)
        else:
            found.append(current)
    return found


async def _fetch_own(
    options: EntryOptions, viewer: Viewer, query: ApiQuery, fetch: Fetch, builder: SnapshotBuilder
) -> None:
    """The viewer's own user and groups."""
    if query == NOTHING:
        return
    mine: Parameters = () if options.nested_groups or options.only_groups else (("members_by_pk", str(viewer.user_pk)),)
    try:
        builder.add_groups(await fetch.groups((*GROUP_PARAMETERS, *mine)))
    except CoreRejected:
        pass  # the core does not know this user (any more): no groups
    try:
        builder.add_users([await fetch.user(viewer.user_pk)])
    except CoreNotFound:
        pass


async def _list(fetch: Fetch, name: str, terms: Sequence[Term] | None) -> Sequence[msgspec.Raw]:
    """One list, narrowed by the first term that can be looked up; ``narrowing`` says why this is complete."""
    if terms is None:
        return ()
    terms = [term for term in terms if term.searchable and (term.lookup, term.field) not in REPLACED_FIELDS]
    if not terms:
        return await _call(fetch, name, ())
    # a direct term costs one call, the others two
    term = min(terms, key=lambda candidate: not candidate.direct)
    wanted = fold(term.value)
    kept = []
    spellings: dict[str, None] = {}
    for raw in await _call(fetch, term.lookup, (("search", term.value),)):
        try:
            value = getattr(_NAMED.decode(raw), term.field) or ""
        except msgspec.MsgspecError:
            continue
        if fold(value) == wanted:
            kept.append(raw)
            spellings[value] = None
    if term.direct or not kept:
        return kept
    return await _call(fetch, name, tuple((term.parameter, spelling) for spelling in spellings))


async def _call(fetch: Fetch, name: str, params: Parameters) -> Sequence[msgspec.Raw]:
    """One listing. A value that the core refuses (400) vanished since it was looked up: nothing matches."""
    try:
        if name == "users":
            return await fetch.users((*USER_PARAMETERS, *params))
        return await fetch.groups((*GROUP_PARAMETERS, *params))
    except CoreRejected:
        if not params:
            raise
        return ()


__all__ = ["Fetch", "Parameters", "fetch_snapshot", "plan", "search"]
