"""Entries → encoded stores and indexes: the half of building a snapshot that knows nothing of the core's records."""

from __future__ import annotations

import re
from array import array

from pyroaring import BitMap

from outposts.ldap.ber import length_of, tlv
from outposts.ldap.contents import KIND_SHIFT, PK, RDN, SLOT_MASK, Contents
from outposts.ldap.dn import DN, DNError, fold
from outposts.ldap.encoded import EntryStore, StoreWriter, attribute
from outposts.ldap.entries import Entry, EntryOptions, Kind, container_entries, entry_uuid
from outposts.ldap.index import Column, Index
from outposts.ldap.rfc import OCTET_STRING, SEQUENCE, SET
from outposts.ldap.schema import OBJECT_CLASSES, SYNTAXES, Schema, base_object_class

MAX_REMEMBERED_SIZE = 512  # bytes of a value; most are shorter, and longer ones take their time anyway
_BASE_SCHEMA = Schema()
_CANONICAL = {name: kind.names[0].lower() for name, kind in _BASE_SCHEMA.types.items()}
_SYNTAX_LETTER = {kind.names[0].lower(): kind.syntax for kind in _BASE_SCHEMA.types.values()}


# Names that need no preparation for a comparison but lower case: no escapes, no spaces, nothing outside ASCII.
_PLAIN = re.compile(r"[A-Za-z0-9._@-]+").fullmatch


class _Heads(dict[int, bytes]):
    """Length of a single value → everything before it in the attribute's encoding."""

    def __init__(self, name: bytes) -> None:
        super().__init__()
        self._name = name

    def __missing__(self, size: int) -> bytes:
        value = bytes((OCTET_STRING,)) + length_of(size)
        values = bytes((SET,)) + length_of(len(value) + size) + value
        head = bytes((SEQUENCE,)) + length_of(len(self._name) + len(values) + size) + self._name + values
        if size < MAX_REMEMBERED_SIZE:
            self[size] = head
        return head


class _Way:
    """How one attribute of one kind is encoded and indexed: everything that is looked up once."""

    __slots__ = ("add_number", "add_value", "canonical", "column", "heads", "name", "normalise", "syntax")

    def __init__(self, name: str, canonical: str, syntax: str, column: Column) -> None:
        self.name = tlv(OCTET_STRING, name.encode())
        self.canonical = canonical
        self.syntax = syntax
        self.normalise = SYNTAXES[syntax].normalise
        self.column = column
        self.add_value = column.pending.append
        self.add_number = column.numbers.append
        self.heads = _Heads(self.name)

    def whole(self, values: bytes) -> bytes:
        """PartialAttribute (RFC 4511 §4.1.7) of finished values."""
        return tlv(SEQUENCE, self.name + tlv(SET, values))


class Assembler:
    """Takes entries, encodes them and collects their normalised values."""

    def __init__(self, options: EntryOptions) -> None:
        self.options = options
        self.writers = {
            kind: StoreWriter(b"" if kind == Kind.FIXED else attribute("objectClass", OBJECT_CLASSES[kind]))
            for kind in Kind
        }
        self.columns: dict[str, list[Column]] = {}
        self.loose: dict[str, list[int]] = {}  # attribute → entries with a value that could not be normalised
        self.rdns = [Column() for _ in Kind]
        self.pks = Column()
        self._ways: list[dict[str, _Way]] = [{} for _ in Kind]  # attribute as shown → how it is encoded and indexed
        self._dns: dict[str, tuple[bytes, bytes]] = {}  # DN → its octets as a value, comparable form
        self._fast_dns = [
            (f"{options.naming[kind]}=", f",{dn}", b"\x00" + DN.parse(dn).key)
            for kind, dn in options.containers.items()
        ]
        self._users_ending = options.user_ending

    def add(self, slot: int, entry: Entry) -> None:
        """Encode and index one entry."""
        kind = entry.kind
        number = kind << KIND_SHIFT | slot
        ways = self._ways[kind]
        encoded: list[bytes] = []
        for name, values in entry.attributes:
            way = ways.get(name)
            if way is None:
                way = ways[name] = self._way(name, kind)
            if way.syntax == "S":
                if len(values) == 1:
                    value = values[0]
                    raw = value.encode("utf-8", "replace")
                    encoded.append(way.heads[len(raw)] + raw)
                    if value.isascii() and value.isprintable():  # what ``fold`` does with such text
                        raw = raw.lower()
                        way.add_value(b" ".join(raw.split()) if b" " in raw else raw)
                    else:
                        way.add_value(fold(value).encode("utf-8", "replace"))
                    way.add_number(number)
                    continue
                for value in values:
                    way.add_value(fold(value).encode("utf-8", "replace"))
                    way.add_number(number)
            elif way.syntax == "D":
                pairs = [self._dn(value) for value in values]
                encoded.append(way.whole(b"".join([octets for octets, _ in pairs])))
                way.column.extend_with([key for _, key in pairs], number)
                continue
            else:
                for value in values:
                    normalised = way.normalise(value.encode("utf-8", "replace"))
                    if normalised is None:
                        self.loose.setdefault(way.canonical, []).append(number)
                    else:
                        way.add_value(normalised)
                        way.add_number(number)
                if len(values) == 1:
                    raw = values[0].encode("utf-8", "replace")
                    encoded.append(way.heads[len(raw)] + raw)
                    continue
            encoded.append(attribute(name, values))
        layout = tuple([name for name, _ in entry.attributes])
        self.writers[kind].add(slot, entry.dn.encode("utf-8", "replace"), layout, encoded, entry.uuid)
        if kind != Kind.FIXED:
            self.rdns[kind].add(fold(entry.name).encode("utf-8", "replace"), number)

    def _way(self, name: str, kind: Kind) -> _Way:
        lower = name.lower()
        canonical = _CANONICAL.get(lower, lower)
        columns = self.columns.get(canonical)
        if columns is None:
            columns = self.columns[canonical] = [Column() for _ in Kind]
        return _Way(name, canonical, _SYNTAX_LETTER.get(canonical, "S"), columns[kind])

    def _dn(self, text: str) -> tuple[bytes, bytes]:
        """A DN as an encoded value, and comparable. Groups' names are seen again and again, users' are not kept."""
        known = self._dns.get(text)
        if known is None:
            known = (tlv(OCTET_STRING, text.encode("utf-8", "replace")), self.dn_key(text))
            if not text.endswith(self._users_ending):
                self._dns[text] = known
        return known

    def settle(self) -> None:
        """After each page: values go from objects into flat bytes."""
        for columns in self.columns.values():
            for column in columns:
                column.settle()
        for column in (*self.rdns, self.pks):
            column.settle()

    def add_fixed(self) -> None:
        """The base entry and the three containers."""
        base = DN.parse(self.options.base_dn)
        first = base.rdns[0][0]
        classes = ("top", base_object_class(first.type))
        attributes = [("distinguishedName", (self.options.base_dn,)), ("objectClass", classes)]
        if first.type in ("dc", "o", "ou"):
            attributes.append((first.type, (first.value,)))
        uuid = entry_uuid(None, self.options.suffix)
        self.add(0, Entry(Kind.FIXED, self.options.base_dn, first.value, attributes, uuid))
        for slot, entry in enumerate(container_entries(self.options), 1):
            self.add(slot, entry._replace(attributes=[*entry.attributes, ("objectClass", OBJECT_CLASSES[Kind.FIXED])]))

    def dn_key(self, text: str) -> bytes:
        """Comparable form of a DN; the ones this directory makes take a short cut."""
        for opening, ending, key in self._fast_dns:
            if text.startswith(opening) and text.endswith(ending):
                value = text[len(opening) : -len(ending)]
                if value.isalnum():
                    return opening.encode() + fold(value).encode() + key
                if _PLAIN(value):
                    return opening.encode() + value.lower().encode() + key
                break
        try:
            return DN.parse(text).key
        except DNError:
            return fold(text).encode("utf-8", "replace")  # a custom value that is no DN equals only itself


def make_indexes(assembler: Assembler, previous: Contents | None, kept: BitMap) -> dict[str, Index]:
    """One index per attribute; equal ones (cn and sAMAccountName, name and sn) become one object."""
    indexes: dict[str, Index] = {}
    seen: dict[bytes, Index] = {}
    names = set(assembler.columns) | set(assembler.loose) | (set(previous.indexes) if previous else set())
    for name in sorted(names):
        old = previous.indexes.get(name) if previous else None
        index = make_index(assembler.columns.pop(name, []), assembler.loose.get(name, []), old, kept)
        if index.present:
            # an index taken over is told by its identity, a new one by its content
            indexes[name] = index if index is old else seen.setdefault(index.fingerprint(), index)
    return indexes


def make_index(columns: list[Column], loose: list[int], old: Index | None, kept: BitMap) -> Index:
    """The index of new pairs plus the old pairs of entries that were kept."""
    fresh = Column()
    for column in columns:
        fresh.extend(column)
    values = fresh.split()
    numbers = fresh.numbers
    present = BitMap(numbers)
    present.update(loose)
    if old is not None:
        gone = old.present - kept
        if not gone and not present:
            return old
        if gone == present and not loose and old.unchanged(gone, values, numbers):
            return old
        old_values, old_numbers = old.pairs()
        if gone:
            pairs = [pair for pair in zip(old_values, old_numbers, strict=True) if pair[1] not in gone]
            old_values = [value for value, _ in pairs]
            old_numbers = array("I", [number for _, number in pairs])
        values += old_values
        numbers.extend(old_numbers)
        present |= old.present & kept
    return Index.build(values, numbers, present)


def restricted(snapshot: Contents, user_pk: int, number: int) -> Contents:
    """See ``Snapshot.view``. ``number``: the user's entry; an unknown user (-1) sees the fixed entries only."""
    options = snapshot.options
    assembler = Assembler(options)
    assembler.add_fixed()
    kinds = {kind: BitMap() for kind in Kind}
    kinds[Kind.FIXED] = BitMap(range(4))

    def take(old: int, slot: int, changed: dict[str, tuple[str, ...] | None]) -> None:
        kind = Kind(old >> KIND_SHIFT)
        store = snapshot.stores[kind]
        attributes = []
        for name, values in store.attributes(old & SLOT_MASK):
            if name.lower() not in changed:
                attributes.append((name, tuple(value.decode() for value in values)))
            elif (replacement := changed[name.lower()]) is not None:
                attributes.append((name, replacement))
        dn = store.dn(old & SLOT_MASK).decode()
        uuid = bytes(store.uuids[(old & SLOT_MASK) * 16 : (old & SLOT_MASK) * 16 + 16])
        assembler.add(slot, Entry(kind, dn, DN.parse(dn).rdns[0][0].value, attributes, uuid))
        kinds[kind].add(kind << KIND_SHIFT | slot)

    if number >= 0:
        own_dn = snapshot.stores[Kind.USER].dn(number & SLOT_MASK).decode()
        take(number, 0, {})
        assembler.pks.add(b"u%d" % user_pk, Kind.USER << KIND_SHIFT)
        take(Kind.VIRTUAL_GROUP << KIND_SHIFT | number & SLOT_MASK, 0, {})
        member = snapshot.indexes.get("member")
        groups = member.equal(DN.parse(own_dn).key) & snapshot.kinds[Kind.GROUP] if member else BitMap()
        own_name = (DN.parse(own_dn).rdns[0][0].value,)
        only_self: dict[str, tuple[str, ...] | None] = {
            "member": (own_dn,),
            "uniquemember": (own_dn,),
            "memberuid": own_name,
            "memberof": None,
        }
        for slot, group in enumerate(groups):
            take(group, slot, only_self)
    stores: dict[Kind, EntryStore] = {kind: writer.finish() for kind, writer in assembler.writers.items()}
    return Contents(
        options=options,
        stores=stores,
        indexes=make_indexes(assembler, None, BitMap()),
        hidden={
            RDN: make_index(assembler.rdns, [], None, BitMap()),
            PK: make_index([assembler.pks], [], None, BitMap()),
        },
        kinds=kinds,
    )
