"""Makes snapshots from the core's records, page by page; unchanged objects keep their slots and their encoded bytes.

A pure computation: give it a thread or call it in slices (each page is one slice, ``finish`` the last). Groups come
first, because with nested groups a user's ``memberOf`` needs all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import TypeVar

import msgspec
from pyroaring import BitMap

from common.records import Group, User
from outposts.ldap.assembly import Assembler, make_index, make_indexes
from outposts.ldap.collisions import shared_group_numbers, shared_user_numbers
from outposts.ldap.contents import KIND_SHIFT, PK, RDN, SLOT_MASK, BuildReport, Contents, Origin
from outposts.ldap.dn import fold
from outposts.ldap.entries import (
    EntryOptions,
    Kind,
    MappingError,
    group_entry,
    group_gid_number,
    user_entry,
    virtual_group_entry,
)
from outposts.ldap.index import SEPARATOR

DIGEST_SIZE = 16  # bytes; 2^64 objects until two share one by chance
MAX_ERRORS_TOLD = 20  # messages kept for the log; all are counted
RecordType = TypeVar("RecordType", User, Group)


class _UserKey(msgspec.Struct):
    """What of a user has to be known even if nothing of it changed."""

    pk: int
    username: str


_user_keys = msgspec.json.Decoder(_UserKey)


class ContentsBuilder:
    """Builds one snapshot: ``add_groups`` for all groups, then ``add_users`` page by page, then ``finish``."""

    def __init__(self, options: EntryOptions, previous: Contents | None = None) -> None:
        """``previous``: the snapshot to take unchanged objects from; one with other options is of no use."""
        self._options = options
        self._assembler = Assembler(options)
        self._assembler.add_fixed()
        self._previous = previous if previous is not None and previous.options == options else None
        self._digests: dict[Kind, dict[int, bytes]] = {Kind.USER: {}, Kind.GROUP: {}}
        self._slots = {kind: _Slots(self._previous, kind) for kind in (Kind.USER, Kind.GROUP)}
        self._kept: list[int] = []  # numbers of entries taken over
        self._errors: list[str] = []
        self._error_count = 0
        self._names: dict[Kind, set[str]] = {Kind.USER: set(), Kind.GROUP: set()}
        self._groups: list[tuple[bytes, Group]] = []  # with nested groups, or members by number only
        self._listed: dict[str, bytes] = {}  # by group: names of its members, 0xff between them
        self._group_names: dict[str, str] = {}
        self._parents: dict[str, set[str]] = {}
        self._user_names: dict[int, str] = {}
        self._late_groups: list[tuple[bytes, Group]] = []
        self._gids: dict[str, list[str]] = {}
        self._context: bytes | None = None
        self._context_matters = options.nested_groups or bool(options.only_groups)
        self._visible: frozenset[str] | None = None  # uuids of the groups that are shown; None: all
        self._reuse_users = True
        self._ancestors: dict[str, tuple[str, ...]] = {}

    def add_groups(self, groups: Iterable[Group | msgspec.Raw | bytes]) -> None:
        """Groups as the API gives them (raw JSON) or decoded."""
        for item in groups:
            decoded = self._decode(item, Group, Kind.GROUP)
            if decoded is not None:
                digest, group = decoded
                if group.users_obj is not None:
                    # names only, and as one object: members decoded are by far the largest part of all groups
                    names = [name.encode("utf-8", "surrogatepass") for name in self._shown_members(group)]
                    self._listed.setdefault(group.pk, SEPARATOR.join(names))
                    group = msgspec.structs.replace(group, users=[], users_obj=[])
                self._groups.append((digest, group))
                if group.pk in self._group_names:  # pages shift while they are read: an object can come twice
                    self._groups.pop()
                    continue
                self._group_names[group.pk] = group.name
                parents = self._parents.setdefault(group.pk, set())
                parents.update(group.parents or ())
                parents.update(parent.pk for parent in group.parents_obj or ())
                if group.parent:
                    parents.add(group.parent)
                for child in (*(group.children or ()), *(row.pk for row in group.children_obj or ())):
                    self._parents.setdefault(child, set()).add(group.pk)

    def add_users(self, users: Iterable[User | msgspec.Raw | bytes]) -> None:
        """Users as the API gives them (raw JSON) or decoded. All groups have to be there already."""
        if self._context is None:
            self._close_groups()
        for item in users:
            if self._keep_user(item):
                continue
            decoded = self._decode(item, User, Kind.USER)
            if decoded is None:
                continue
            digest, user = decoded
            if not self._shows_user(user):
                continue
            slot = self._slots[Kind.USER].take(b"u%d" % user.pk)
            if slot in self._digests[Kind.USER]:  # pages shift while they are read: an object can come twice
                continue
            try:
                self._claim(Kind.USER, user.username)
                entry = user_entry(self._options, user, self._member_of(user))
                virtual = virtual_group_entry(self._options, user)
                self._assembler.add(slot, entry)
                self._assembler.add(slot, virtual)
                self._assembler.pks.add(b"u%d" % user.pk, Kind.USER << KIND_SHIFT | slot)
                self._digests[Kind.USER][slot] = digest
                if self._options.nested_groups or self._late_groups:
                    self._user_names[user.pk] = user.username
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                self._fail(f"user {user.pk}: {error if isinstance(error, MappingError) else type(error).__name__}")

        self._assembler.settle()

    def _keep_user(self, item: User | msgspec.Raw | bytes) -> bool:
        """Take over a user whose raw form is as before, without decoding more of it than its key and name."""
        previous = self._previous
        if previous is None or not self._reuse_users or isinstance(item, User):
            return False
        try:
            key = _user_keys.decode(item)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return False
        slots = self._slots[Kind.USER]
        slot = slots.known(b"u%d" % key.pk)
        digests = self._digests[Kind.USER]
        if slot < 0 or slot in digests:
            return False
        digest = blake2b(item, digest_size=DIGEST_SIZE).digest()
        if slots.digest(slot) != digest:
            return False
        try:
            self._claim(Kind.USER, key.username)
        except MappingError as error:
            self._fail(f"user {key.pk}: {error}")
            return True
        for kind in (Kind.USER, Kind.VIRTUAL_GROUP):
            self._assembler.writers[kind].copy(slot, previous.stores[kind])
            self._kept.append(kind << KIND_SHIFT | slot)
        digests[slot] = digest
        if self._options.nested_groups or self._late_groups:
            self._user_names[key.pk] = key.username
        return True

    def unchanged(self) -> bool:
        """Whether everything is as in ``previous``, so that ``finish`` would only make it again."""
        previous = self._previous
        if previous is None or self._context is None or self._late_groups or self._error_count:
            return False
        users, groups = len(self._digests[Kind.USER]), len(self._digests[Kind.GROUP])
        return (
            len(self._kept) == 2 * users + groups  # a user's virtual group is kept with it
            and (len(previous.kinds[Kind.USER]), len(previous.kinds[Kind.GROUP])) == (users, groups)
            and previous.origin.context == self._context
            and previous.report.error_count == 0
        )

    def finish(self) -> Contents:
        """The snapshot. The builder is used up."""
        if self._context is None:
            self._close_groups()
        self._add_late_groups()
        assembler = self._assembler
        stores = {kind: writer.finish() for kind, writer in assembler.writers.items()}
        users = BitMap([Kind.USER << KIND_SHIFT | slot for slot in self._digests[Kind.USER]])
        groups = BitMap([Kind.GROUP << KIND_SHIFT | slot for slot in self._digests[Kind.GROUP]])
        kinds = {
            Kind.FIXED: BitMap(range(4)),
            Kind.USER: users,
            Kind.GROUP: groups,
            Kind.VIRTUAL_GROUP: BitMap([Kind.VIRTUAL_GROUP << KIND_SHIFT | slot for slot in self._digests[Kind.USER]]),
        }
        for members in kinds.values():
            members.run_optimize()
        kept = BitMap(self._kept)
        indexes = make_indexes(assembler, self._previous, kept)
        return Contents(
            options=self._options,
            stores=stores,
            indexes=indexes,
            hidden={
                RDN: make_index(assembler.rdns, [], self._previous.hidden[RDN] if self._previous else None, kept),
                PK: make_index([assembler.pks], [], self._previous.hidden[PK] if self._previous else None, kept),
            },
            kinds=kinds,
            origin=Origin(
                _digests(self._digests[Kind.USER]),
                _digests(self._digests[Kind.GROUP]),
                self._context or b"",
                self._context_matters,
            ),
            report=BuildReport(
                users=len(users),
                groups=len(groups),
                reused=len(kept & (users | groups)),
                errors=tuple(self._errors),
                error_count=self._error_count,
                gid_collisions=shared_group_numbers(
                    self._gids, indexes.get("gidnumber"), kinds[Kind.VIRTUAL_GROUP], stores
                ),
                uid_collisions=shared_user_numbers(indexes.get("uidnumber"), users, stores),
            ),
        )

    def _decode(
        self, item: RecordType | msgspec.Raw | bytes, record: type[RecordType], kind: Kind
    ) -> tuple[bytes, RecordType] | None:
        """(digest of the raw form, record); None for an object that cannot be read, which is counted."""
        raw = msgspec.json.encode(item) if isinstance(item, record) else bytes(item)  # type: ignore[arg-type]
        digest = blake2b(raw, digest_size=DIGEST_SIZE).digest()
        if isinstance(item, record):
            return digest, item
        try:
            return digest, msgspec.json.decode(raw, type=record)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            self._fail(f"{kind.name.lower()} {_identifier(raw)} that does not decode: {type(error).__name__}")
            return None

    def _claim(self, kind: Kind, name: str) -> None:
        """Refuse a second entry with the same DN (names differing by case or spacing only)."""
        key = fold(name)
        if key in self._names[kind]:
            raise MappingError("name is taken by another object")
        self._names[kind].add(key)

    def _fail(self, text: str) -> None:
        self._error_count += 1
        if len(self._errors) < MAX_ERRORS_TOLD:
            self._errors.append(text)

    # Groups

    def _close_groups(self) -> None:
        """All groups are known: relations first, then their entries as far as they need no user."""
        options = self._options
        relations = sorted(
            (pk, name, tuple(sorted(self._parents.get(pk, ())))) for pk, name in self._group_names.items()
        )
        self._context = blake2b(repr(relations).encode("utf-8", "replace"), digest_size=DIGEST_SIZE).digest()
        if options.only_groups:
            self._visible = self._named_groups()
        origin = self._previous.origin if self._previous else None
        if origin is not None and origin.context != self._context and (options.nested_groups or origin.context_matters):
            self._reuse_users = False
        if origin is not None:
            self._context_matters |= origin.context_matters
        groups, self._groups = self._groups, []
        for digest, group in groups:
            if self._visible is not None and group.pk not in self._visible:
                continue
            number = group_gid_number(options, group) if group.name else ""
            self._gids.setdefault(number, []).append(group.name)
            by_number = group.users_obj is None and bool(group.users)
            if options.nested_groups or by_number:
                self._late_groups.append((digest, group))
            else:
                members = [options.dn(Kind.USER, name) for name in self._listed_members(group)]
                # with some groups hidden, relations show more or less without any change of the record
                self._add_group(digest, group, members, reuse=self._visible is None or self._reuse_users)

    def _add_group(self, digest: bytes, group: Group, members: list[str], reuse: bool) -> None:
        slots = self._slots[Kind.GROUP]
        key = b"g" + group.pk.encode("utf-8", "replace")
        slot = slots.take(key)
        try:
            self._claim(Kind.GROUP, group.name)
            if reuse and self._previous is not None and slots.digest(slot) == digest:
                if self._relations_in_record(group):
                    self._assembler.writers[Kind.GROUP].copy(slot, self._previous.stores[Kind.GROUP])
                    self._kept.append(Kind.GROUP << KIND_SHIFT | slot)
                    self._digests[Kind.GROUP][slot] = digest
                    return
            children = [self._options.dn(Kind.GROUP, name) for name in self._children(group)]
            parents = [self._options.dn(Kind.GROUP, name) for name in self._parent_names(group)]
            self._assembler.add(slot, group_entry(self._options, group, [*members, *children], parents))
            self._assembler.pks.add(key, Kind.GROUP << KIND_SHIFT | slot)
            self._digests[Kind.GROUP][slot] = digest
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            self._fail(f"group {group.pk}: {error if isinstance(error, MappingError) else type(error).__name__}")

    @staticmethod
    def _relations_in_record(group: Group) -> bool:
        """Whether the record itself names parents and children, so that its digest covers them."""
        return (group.children_obj is not None or not group.children) and (
            group.parents_obj is not None or not (group.parents or group.parent)
        )

    def _children(self, group: Group) -> list[str]:
        """Names of child groups: direct ones, or all below with nested groups."""
        if self._options.nested_groups:
            return self._shown_names(self._descendants(group.pk))
        if group.children_obj is not None and self._visible is None:
            return [child.name for child in group.children_obj]
        return self._shown_names(group.children or [child.pk for child in group.children_obj or ()])

    def _shown_names(self, pks: Iterable[str]) -> list[str]:
        """Names of those of these groups that are known and shown."""
        names, visible = self._group_names, self._visible
        return [names[pk] for pk in pks if pk in names and (visible is None or pk in visible)]

    def _parent_names(self, group: Group) -> list[str]:
        if self._options.nested_groups:
            return self._shown_names(self._above(group.pk))
        if self._visible is not None:
            return self._shown_names(sorted(self._parents.get(group.pk, ())))
        if group.parents_obj is not None:
            return [parent.name for parent in group.parents_obj]
        if group.parents:
            return self._shown_names(group.parents)
        return [group.parent_name] if group.parent and group.parent_name else []

    def _above(self, pk: str) -> tuple[str, ...]:
        """All ancestors of a group, itself never among them; circles end."""
        known = self._ancestors.get(pk)
        if known is None:
            known = self._ancestors[pk] = _reach(pk, self._parents)
        return known

    def _descendants(self, pk: str) -> tuple[str, ...]:
        return _reach(pk, self._child_table())

    # Visibility

    def _named_groups(self) -> frozenset[str]:
        """The groups of ``only_groups`` and all below them."""
        wanted = set(self._options.only_groups)
        named = {pk for pk, name in self._group_names.items() if pk in wanted or name in wanted}
        return frozenset(named.union(*map(self._descendants, named)))

    def _shows_user(self, user: User) -> bool:
        if self._options.active_only and not user.is_active:
            return False
        return self._visible is None or not self._visible.isdisjoint(_group_pks(user))

    def _listed_members(self, group: Group) -> list[str]:
        """Names of the shown users among the members that the group's record named."""
        names = self._listed.get(group.pk)
        return [name.decode("utf-8", "surrogatepass") for name in names.split(SEPARATOR)] if names else []

    def _shown_members(self, group: Group) -> list[str]:
        active_only = self._options.active_only
        return [user.username for user in group.users_obj or () if user.is_active or not active_only]

    def _child_table(self) -> dict[str, set[str]]:
        if not hasattr(self, "_children_of"):
            self._children_of: dict[str, set[str]] = {}
            for child, parents in self._parents.items():
                for parent in parents:
                    self._children_of.setdefault(parent, set()).add(child)
        return self._children_of

    def _member_of(self, user: User) -> list[str]:
        """DNs of a user's groups."""
        options = self._options
        if self._visible is not None:
            pks = dict.fromkeys(_group_pks(user))
            if options.nested_groups:
                for pk in list(pks):
                    pks.update(dict.fromkeys(self._above(pk)))
            return [options.dn(Kind.GROUP, name) for name in self._shown_names(pks)]
        if options.nested_groups:
            pks = dict.fromkeys(user.groups or [group.pk for group in user.groups_obj or ()])
            names = {group.pk: group.name for group in user.groups_obj or ()}
            for pk in list(pks):
                pks.update(dict.fromkeys(self._above(pk)))
            found = [self._group_names.get(pk) or names.get(pk) for pk in pks]
            return [options.dn(Kind.GROUP, name) for name in found if name]
        if user.groups_obj is not None:
            return [options.dn(Kind.GROUP, group.name) for group in user.groups_obj]
        if user.groups:
            self._context_matters = True
        return [options.dn(Kind.GROUP, self._group_names[pk]) for pk in user.groups if pk in self._group_names]

    def _add_late_groups(self) -> None:
        """Groups whose members are known only now."""
        options = self._options
        direct: dict[str, list[str]] = {}
        for _, group in self._late_groups:
            if group.users_obj is not None:
                direct[group.pk] = self._listed_members(group)
            else:
                direct[group.pk] = [self._user_names[pk] for pk in group.users if pk in self._user_names]
        for digest, group in self._late_groups:
            names = dict.fromkeys(direct[group.pk])
            if options.nested_groups:
                for pk in self._descendants(group.pk):
                    names.update(dict.fromkeys(direct.get(pk, ())))
            self._add_group(digest, group, [options.dn(Kind.USER, name) for name in names], reuse=False)
        self._late_groups = []


class _Slots:
    """Hands out slots: the same object gets its old one, new objects get free ones."""

    def __init__(self, previous: Contents | None, kind: Kind) -> None:
        self._old: dict[bytes, int] = {}
        self._digests = b""
        self._next = 0
        self._free: list[int] = []
        self._taken: set[bytes] = set()
        if previous is not None:
            mark = b"u" if kind == Kind.USER else b"g"
            values, numbers = previous.hidden[PK].pairs()
            self._old = {
                value: number & SLOT_MASK for value, number in zip(values, numbers, strict=True) if value[:1] == mark
            }
            self._digests = previous.origin.user_digests if kind == Kind.USER else previous.origin.group_digests
            self._next = len(previous.stores[kind])
            if len(self._old) < self._next:
                self._free = sorted(set(range(self._next)) - set(self._old.values()), reverse=True)

    def take(self, key: bytes) -> int:
        """Slot of the object with this key."""
        if key in self._old:
            return self._old[key]
        slot = self._free.pop() if self._free else self._next
        if slot == self._next:
            self._next += 1
        self._old[key] = slot
        return slot

    def known(self, key: bytes) -> int:
        """Slot of an object that was there before or came already, -1 for another one."""
        return self._old.get(key, -1)

    def digest(self, slot: int) -> bytes:
        """Digest of what was in the slot before; empty for a new one."""
        return self._digests[slot * DIGEST_SIZE : (slot + 1) * DIGEST_SIZE]


def _group_pks(user: User) -> list[str]:
    return user.groups or [group.pk for group in user.groups_obj or ()]


def _reach(start: str, edges: dict[str, set[str]]) -> tuple[str, ...]:
    """Everything reachable over ``edges``, nearest first, without ``start`` itself."""
    found: dict[str, None] = {}
    waiting = [start]
    for pk in waiting:
        for other in sorted(edges.get(pk, ())):
            if other not in found and other != start:
                found[other] = None
                waiting.append(other)
    return tuple(found)


def _digests(by_slot: dict[int, bytes]) -> bytes:
    slots = max(by_slot, default=-1) + 1
    return b"".join([by_slot.get(slot, bytes(DIGEST_SIZE)) for slot in range(slots)])


class _Identified(msgspec.Struct):
    """The little of an object that names it, whatever else is wrong with it."""

    pk: int | str | None = None


def _identifier(raw: bytes) -> str:
    """``pk N`` of an object that does not decode, so that an operator finds it; never its content."""
    try:
        pk = msgspec.json.decode(raw, type=_Identified).pk
    except (msgspec.DecodeError, ValueError, RecursionError):
        return "(no pk)"
    return "(no pk)" if pk is None else f"pk {str(pk)[:64]}"
