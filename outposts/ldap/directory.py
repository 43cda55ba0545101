"""The immutable snapshot of one provider's directory: encoded entries, indexes, and nothing that changes.

``builder.SnapshotBuilder`` makes snapshots from the core's records, ``evaluation.evaluate`` answers filters,
``search.run`` answers requests.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import fields
from mmap import mmap
from typing import NamedTuple

import msgspec
from pyroaring import BitMap

from common.published import Publication
from common.records import Group, User
from outposts.ldap.assembly import restricted
from outposts.ldap.building import ContentsBuilder
from outposts.ldap.contents import KIND_SHIFT, PK, RDN, SLOT_MASK, BuildReport, Contents, Origin
from outposts.ldap.dn import DN, fold
from outposts.ldap.encoded import attribute
from outposts.ldap.entries import EntryOptions, Kind
from outposts.ldap.index import Index
from outposts.ldap.schema import OBJECT_CLASSES, STRUCTURAL, SYNTAXES, Schema, Syntax
from outposts.ldap.stored import StoredError, dump, load

# Views of users without the full-search right that are kept: each is a snapshot of a few entries, some 20 KB.
VIEWS_KEPT = 256


class Resolved(NamedTuple):
    """An attribute as filters see it. No ``values``: no entry has it, or it is computed."""

    canonical: str
    letter: str
    syntax: Syntax
    values: Index | None


class Snapshot(Contents):
    """One provider's directory. Never changed after it was built; views for viewers are made on demand and kept."""

    def __init__(self, contents: Contents, publication: Publication | None = None) -> None:
        """Derived look-ups on top of ``contents``, none of them in proportion to the number of entries.

        ``publication``: the memory file that holds ``contents``, for handing it to other processes.
        """
        super().__init__(**{item.name: getattr(contents, item.name) for item in fields(Contents)})
        self.publication = publication
        self.schema = Schema(name for store in self.stores.values() for layout in store.layouts for name in layout)
        self.all = BitMap.union(*self.kinds.values()) if self.kinds else BitMap()
        self.base = DN.parse(self.options.base_dn)
        self.containers = {DN.parse(dn).key: kind for kind, dn in self.options.containers.items()}
        self.fixed = {DN.parse(store_dn).key: slot for slot, store_dn in enumerate(self._fixed_dns())}
        self.classes = self._classes()
        self.resolved: dict[str, Resolved | None] = {}
        self.compiled: dict[tuple[tuple[bytes, ...], bool], object] = {}  # search.py's plans by attribute list
        self.prepared: object = None  # prepared.py's searches
        self._scopes: dict[tuple[bytes, int], BitMap] = {}
        self._views: OrderedDict[int, Snapshot] = OrderedDict()
        # canonical names of each layout, per kind; attribute plans of requests are made from these
        self.layouts = {
            kind: [tuple(self.schema.canonical(name) or name.lower() for name in layout) for layout in store.layouts]
            for kind, store in self.stores.items()
        }
        self.suffix_names = {kind: ("objectclass" if store.suffix else "") for kind, store in self.stores.items()}

    @staticmethod
    def build(
        options: EntryOptions,
        users: Iterable[User | msgspec.Raw | bytes],
        groups: Iterable[Group | msgspec.Raw | bytes],
        previous: Snapshot | None = None,
    ) -> Snapshot:
        """Everything at once; ``builder.SnapshotBuilder`` does the same page by page."""
        builder = ContentsBuilder(options, previous)
        builder.add_groups(groups)
        builder.add_users(users)
        return Snapshot(builder.finish())

    def to_bytes(self) -> bytes:
        """The whole snapshot for a state file; ``from_buffer`` reads it back without building anything."""
        return dump(self)

    @staticmethod
    def from_buffer(buffer: bytes | mmap) -> Snapshot:
        """Read what ``to_bytes`` wrote; entries and values stay in ``buffer``, which is kept for as long.

        Raises ``stored.StoredError`` if it is something else.
        """
        return Snapshot(load(buffer))

    @staticmethod
    def from_publication(publication: Publication) -> Snapshot:
        """As ``from_buffer``, from a memory file that was published. Raises ``StoredError`` or ``OSError``."""
        try:
            return Snapshot(load(publication.map()), publication)
        except ValueError as error:  # an empty file cannot be mapped
            raise StoredError(str(error)) from None

    def __len__(self) -> int:
        """Number of entries."""
        return len(self.all)

    # Looking things up

    def resolve(self, attribute: str) -> Resolved | None:
        """What a filter needs to know about an attribute description (lower case); None if it is unknown."""
        kind = self.schema.types.get(attribute)
        if kind is None:
            return None
        canonical = kind.names[0].lower()
        made = Resolved(canonical, kind.syntax, SYNTAXES[kind.syntax], self.indexes.get(canonical))
        self.resolved[attribute] = made  # as many as the schema has names
        return made

    def number_of(self, name: DN) -> int:
        """Entry number of a DN, -1 if there is no such entry."""
        slot = self.fixed.get(name.key)
        if slot is not None:
            return slot
        if not name.rdns or len(name.rdns[0]) != 1:
            return -1
        kind = self.containers.get(name.key.partition(b"\x00")[2])
        if kind is None or name.rdns[0][0].type != self.options.naming[kind]:
            return -1
        index = self.hidden[RDN]
        place = index.place(fold(name.rdns[0][0].value).encode("utf-8", "surrogatepass"))
        if place >= 0:
            for number in index.numbers(place):
                if number >> KIND_SHIFT == kind:
                    return number
        return -1

    def user_number(self, pk: int) -> int:
        """Entry number of the user with this pk, -1 if unknown."""
        index = self.hidden[PK]
        place = index.place(b"u%d" % pk)
        return index.numbers(place)[0] if place >= 0 else -1

    def dn(self, number: int) -> bytes:
        """DN of an entry, UTF-8."""
        return self.stores[Kind(number >> KIND_SHIFT)].dn(number & SLOT_MASK)

    def entry(self, number: int) -> dict[str, list[bytes]]:
        """Attributes of an entry by canonical lower-case name, ``objectclass`` included."""
        kind = Kind(number >> KIND_SHIFT)
        store = self.stores[kind]
        found = {(self.schema.canonical(name) or name.lower()): values
                 for name, values in store.attributes(number & SLOT_MASK)}  # fmt: skip
        if store.suffix:
            found["objectclass"] = [name.encode() for name in OBJECT_CLASSES[kind]]
        return found

    def values(self, number: int, name: str) -> list[bytes]:
        """Values of one attribute (canonical lower case), operational ones included."""
        kind, slot = Kind(number >> KIND_SHIFT), number & SLOT_MASK
        if name in OPERATIONAL:
            return [self.operational_value(kind, slot, name)]
        return self.entry(number).get(name, [])

    def subordinates(self, kind: Kind, slot: int) -> int:
        """Number of entries immediately below."""
        if kind != Kind.FIXED:
            return 0
        return len(self.kinds[Kind.FIXED]) - 1 if slot == 0 else len(self.kinds[Kind(slot)])

    def operational_value(self, kind: Kind, slot: int, name: str) -> bytes:
        """One of ``OPERATIONAL``."""
        if name == "entryuuid":
            raw = bytes(self.stores[kind].uuids[slot * 16 : slot * 16 + 16]).hex()
            return "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:])).encode()
        if name == "entrydn":
            return self.stores[kind].dn(slot)
        if name == "structuralobjectclass":
            return (self.base_class if kind == Kind.FIXED and slot == 0 else STRUCTURAL[kind]).encode()
        if name == "hassubordinates":
            return b"TRUE" if self.subordinates(kind, slot) else b"FALSE"
        if name == "numsubordinates":
            return b"%d" % self.subordinates(kind, slot)
        return b"cn=subschema"

    def operational(self, kind: Kind, slot: int, name: str) -> bytes:
        """``operational_value`` as finished PartialAttribute."""
        return attribute(OPERATIONAL[name], (self.operational_value(kind, slot, name).decode(),))

    # Sets

    def below(self, name: DN, scope: int) -> BitMap | None:
        """Entries in scope of a search base (RFC 4511 §4.5.1.2); None if there is no such base.

        Scope 3 (subordinates) is a subtree without its base.
        """
        known = self._scopes.get((name.key, scope))
        if known is not None:
            return known
        number = self.number_of(name)
        if number < 0:
            return None
        found = self._below(number, scope)
        if number >> KIND_SHIFT == Kind.FIXED:
            self._scopes[name.key, scope] = found  # four names, four scopes
        return found

    def _below(self, number: int, scope: int) -> BitMap:
        if scope == 0:
            return BitMap((number,))
        if number >> KIND_SHIFT != Kind.FIXED:
            return BitMap((number,)) if scope == 2 else BitMap()
        if number == 0:
            if scope == 1:
                return self.kinds[Kind.FIXED] - BitMap((0,))
            return self.all if scope == 2 else self.all - BitMap((0,))
        children = self.kinds[Kind(number)]
        return children | BitMap((number,)) if scope == 2 else children

    def view(self, user_pk: int) -> Snapshot:
        """What a user without the full-search right sees, as a snapshot of its own.

        The fixed entries, the own user and virtual group, and the groups whose members include the user, with the
        user as only member and without parents. Everything a search can tell (matches, counts, limits) comes from
        that snapshot, so nothing else can show through.
        """
        known = self._views.get(user_pk)
        if known is not None:
            return known
        made = Snapshot(restricted(self, user_pk, self.user_number(user_pk)))
        self._views[user_pk] = made
        if len(self._views) > VIEWS_KEPT:
            self._views.popitem(last=False)
        return made

    def _fixed_dns(self) -> list[str]:
        return [self.stores[Kind.FIXED].dn(slot).decode() for slot in range(len(self.stores[Kind.FIXED]))]

    def _classes(self) -> dict[str, BitMap]:
        """Lower-case class name → entries that carry it."""
        found: dict[str, BitMap] = {}
        for kind, members in self.kinds.items():
            if kind != Kind.FIXED:
                for name in OBJECT_CLASSES[kind]:
                    found[name.lower()] = found.get(name.lower(), BitMap()) | members
        self.base_class = "nsContainer"
        for number in self.kinds[Kind.FIXED]:
            for values in (dict(self.stores[Kind.FIXED].attributes(number)).get("objectClass", []),):
                for value in values:
                    name = value.decode().lower()
                    found[name] = found.get(name, BitMap()) | BitMap((number,))
                if number == 0 and values:
                    self.base_class = values[-1].decode()
        return found


OPERATIONAL: dict[str, str] = {
    "entryuuid": "entryUUID",
    "entrydn": "entryDN",
    "structuralobjectclass": "structuralObjectClass",
    "hassubordinates": "hasSubordinates",
    "numsubordinates": "numSubordinates",
    "subschemasubentry": "subschemaSubentry",
}
"""Operational attributes computed when they are asked for: canonical name → name as shown."""

__all__ = ["KIND_SHIFT", "OPERATIONAL", "PK", "RDN", "SLOT_MASK", "BuildReport", "Origin", "Resolved", "Snapshot"]
