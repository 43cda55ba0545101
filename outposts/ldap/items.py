"""Filter items that a look-up answers: equality and presence, of computed attributes too; what an index is good for."""

from __future__ import annotations

from typing import Final

from pyroaring import BitMap

from outposts.ldap.directory import KIND_SHIFT, OPERATIONAL, Snapshot
from outposts.ldap.dn import DN, Ava
from outposts.ldap.entries import Kind
from outposts.ldap.filters import Approx, Equality, Present
from outposts.ldap.index import Index
from outposts.ldap.schema import CLASS_NAMES, SYNTAXES, Syntax

# A pair (true, undefined); ``None`` for undefined means "for no entry". Sets may belong to the snapshot: never change.
Answer = tuple[BitMap, BitMap | None]

NOTHING: Final = BitMap()


def known_type(snapshot: Snapshot, attribute: str) -> str | None:
    """Canonical name of the attribute of a filter; None if not in the schema. Options are not part of it."""
    kind = snapshot.schema.types.get(attribute)
    return None if kind is None else kind.names[0].lower()


def equality(snapshot: Snapshot, node: Equality | Approx) -> Answer:
    attribute = node.attribute
    found = snapshot.resolved.get(attribute) or snapshot.resolve(attribute)
    if found is None:
        if ";" in attribute and known_type(snapshot, attribute.partition(";")[0]) is not None:
            return NOTHING, None  # no value here has an option
        return NOTHING, snapshot.all
    canonical, letter, syntax, index = found
    if letter == "O" and canonical == "objectclass":
        name = node.value.decode("utf-8", "replace").strip().lower()
        return snapshot.classes.get(CLASS_NAMES.get(name, name), NOTHING), None
    normalised = syntax.normalise(node.value)
    if normalised is None:
        return NOTHING, snapshot.all
    if index is not None:
        return index.equal(normalised), None
    return (_operational(snapshot, canonical, normalised) if canonical in OPERATIONAL else NOTHING), None


def _operational(snapshot: Snapshot, name: str, value: bytes) -> BitMap:
    """Equality on an attribute that is computed."""
    if name == "entrydn":
        for number in [snapshot.number_of(_dn_of_key(value))]:
            return BitMap((number,)) if number >= 0 else NOTHING
    if name == "subschemasubentry":
        return snapshot.all if value == b"cn=subschema" else NOTHING
    if name == "entryuuid":
        wanted = bytes.fromhex(value.replace(b"-", b"").decode())
        found = BitMap()
        for kind, store in snapshot.stores.items():
            uuids = bytes(store.uuids)
            position = uuids.find(wanted)
            while position >= 0:
                if position % 16 == 0:
                    found.add(kind << KIND_SHIFT | position // 16)
                position = uuids.find(wanted, position + 1)
        return found & snapshot.all
    found = BitMap()
    for number in snapshot.kinds[Kind.FIXED]:
        if _operational_key(snapshot, Kind.FIXED, number, name) == value:
            found.add(number)
    for kind in (Kind.USER, Kind.GROUP, Kind.VIRTUAL_GROUP):
        if snapshot.kinds[kind] and _operational_key(snapshot, kind, 0, name) == value:
            found |= snapshot.kinds[kind]
    return found


def computed_order(snapshot: Snapshot, name: str, value: bytes, upwards: bool) -> BitMap:
    """Ordering on an attribute that is computed: entryUUID of each entry, numSubordinates of each kind."""

    def fits(own: bytes | None) -> bool:
        return own is not None and (own >= value if upwards else own <= value)

    if name == "entryuuid":
        limit = bytes.fromhex(value.replace(b"-", b"").decode())
        found = BitMap()
        for kind, store in snapshot.stores.items():
            uuids = bytes(store.uuids)
            each = (uuids[at : at + 16] for at in range(0, len(uuids), 16))
            found.update(
                kind << KIND_SHIFT | slot
                for slot, own in enumerate(each)
                if (own >= limit if upwards else own <= limit)
            )
        return found & snapshot.all
    found = BitMap([n for n in snapshot.kinds[Kind.FIXED] if fits(_operational_key(snapshot, Kind.FIXED, n, name))])
    for kind in (Kind.USER, Kind.GROUP, Kind.VIRTUAL_GROUP):
        if fits(_operational_key(snapshot, kind, 0, name)):
            found |= snapshot.kinds[kind]
    return found


def _operational_key(snapshot: Snapshot, kind: Kind, slot: int, name: str) -> bytes | None:
    return snapshot.schema.syntax(name).normalise(snapshot.operational_value(kind, slot, name))


def _dn_of_key(key: bytes) -> DN:
    """A DN with this key: good for looking up, not for showing."""
    rdns = []
    for part in key.decode("utf-8", "surrogatepass").split("\x00"):
        avas = []
        for pair in part.split("\x01"):
            kind, _, value = pair.partition("=")
            avas.append(Ava(kind, value, kind))
        rdns.append(tuple(avas))
    return DN(tuple(rdns))


def present(snapshot: Snapshot, node: Present) -> Answer:
    kind = snapshot.schema.types.get(node.attribute)
    if kind is None:
        known = ";" in node.attribute and known_type(snapshot, node.attribute.partition(";")[0]) is not None
        return NOTHING, None if known else snapshot.all
    canonical = kind.names[0].lower()
    if canonical == "objectclass" or canonical in OPERATIONAL:
        return snapshot.all, None
    index = snapshot.indexes.get(canonical)
    return (NOTHING if index is None else index.present), None


def indexed(snapshot: Snapshot, attribute: str) -> tuple[Index | None, Syntax] | None:
    """Index and syntax of an attribute of a filter; None if it is unknown. No index: no entry has it."""
    kind = snapshot.schema.types.get(attribute)
    if kind is None:
        base = snapshot.schema.types.get(attribute.partition(";")[0]) if ";" in attribute else None
        return None if base is None else (None, SYNTAXES[base.syntax])
    canonical = kind.names[0].lower()
    if canonical in OPERATIONAL:
        return None, SYNTAXES[kind.syntax]
    return snapshot.indexes.get(canonical), SYNTAXES[kind.syntax]
