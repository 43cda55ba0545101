"""Server-side sorting (RFC 2891): the control's values, and entries in the order of their attributes.

An index holds its values in order, so sorting is mostly reading: the entries of each value, value by value. Only small
results are compared one by one. Everything here works in small steps (generators that yield now and then), because a
hundred thousand entries take longer than the loop may be held.

An entry counts by its least value of each key; an entry without one comes behind all others, or in front of them when
the key is reversed (RFC 2891 §1.2). Entries that are equal in all keys stay in the order of the directory.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Final
from weakref import WeakKeyDictionary

import msgspec
from pyroaring import BitMap

from outposts.ldap.ber import ProtocolError, boolean, encode_enumerated, expect, octets, sequence, skip_rest, tlv
from outposts.ldap.directory import KIND_SHIFT, OPERATIONAL, RDN, SLOT_MASK, Snapshot
from outposts.ldap.entries import Kind
from outposts.ldap.extensible import RULES
from outposts.ldap.filters import attribute_description
from outposts.ldap.rfc import SEQUENCE, ResultCode
from outposts.ldap.syntaxes import SYNTAXES

MAX_KEYS: Final = 10
"""Sort keys of one request. Clients send one or two; each further one costs a pass."""

STEP: Final = 1024
"""Entries or values between two pauses: about a millisecond."""

DECODED_STEP: Final = 32
"""The same where values are taken from encoded entries: some 5 µs each and key."""

DECODE_SHARE: Final = 25
"""Up to 1/n of an index's values, taking values from the entries is quicker than reading the index."""

FEW: Final = 64
"""Entries that are compared one by one in any case."""

RANKED: Final = 4096
"""Entries that are sorted at once, by values taken from them or by the ranks of these; a few milliseconds."""

ORDERS_KEPT: Final = 16
ORDER_ENTRIES_KEPT: Final = 2_000_000
"""Sorted results remembered per snapshot, so that pages and list views sort once: so many, 4 bytes per entry."""

ORDERING_RULES: Final[dict[str, str]] = {
    **{rule: letters for rule, (meaning, letters) in RULES.items() if meaning == "less"},
    "1.3.6.1.1.16.3": "U",
    "uuidorderingmatch": "U",  # RFC 4530 §2.3
}
"""Names of ordering rules → letters of the syntaxes that they order."""

Steps = Generator[None, None, "array[int]"]
Numbers = Sequence[int] | BitMap


class SortKey(msgspec.Struct, frozen=True):
    """One key as the client sent it. ``rule`` is lower case."""

    attribute: bytes
    rule: str | None = None
    reverse: bool = False


def decode(value: bytes | None) -> tuple[SortKey, ...]:
    """Read SortKeyList (RFC 2891 §1.1). Raises ``ProtocolError`` and nothing else."""
    if value is None:
        raise ProtocolError("sort control without value", fatal=False)
    at, end = expect(value, 0, len(value), SEQUENCE)
    if end != len(value) or at == end:
        raise ProtocolError("not a sort key list", fatal=False)
    keys = []
    while at < end:
        begin, stop = expect(value, at, end, SEQUENCE)
        at = stop
        attribute, begin = octets(value, begin, stop)
        rule: str | None = None
        reverse = False
        if begin < stop and value[begin] == 0x80:
            raw, begin = octets(value, begin, stop, 0x80)
            rule = raw.decode("latin-1").lower()
        if begin < stop and value[begin] == 0x81:
            reverse, begin = boolean(value, begin, stop, 0x81)
        skip_rest(value, begin, stop)
        keys.append(SortKey(attribute, rule, reverse))
    return tuple(keys)


def encode(code: int, attribute: bytes | None = None) -> bytes:
    """Value of the response control (RFC 2891 §1.2); ``attribute`` is the first key that could not be used."""
    return sequence(encode_enumerated(code), b"" if attribute is None else tlv(0x80, attribute))


class Key(msgspec.Struct, frozen=True):
    """A key on one snapshot. ``name`` is canonical; the name ``RDN`` means the folded value that names the entry."""

    name: str
    reverse: bool = False


BY_NAME: Final = Key(RDN)
"""Order by name: the same in any two snapshots, however they were numbered."""


class SortError(Exception):
    """The keys cannot be used: ``code`` of the sort response, ``attribute`` that is to blame."""

    def __init__(self, code: ResultCode, attribute: bytes | None) -> None:
        super().__init__(code.name)
        self.code = code
        self.attribute = attribute


def resolve(snapshot: Snapshot, keys: Sequence[SortKey]) -> tuple[Key, ...]:
    """Keys by the snapshot's schema. Raises ``SortError``: 16 unknown attribute, 18 no such ordering rule for it."""
    if len(keys) > MAX_KEYS:
        raise SortError(ResultCode.UNWILLING_TO_PERFORM, None)
    found: list[Key] = []
    for key in keys:
        description = attribute_description(key.attribute)
        kind = None if description is None else snapshot.schema.types.get(description)
        if kind is None:
            raise SortError(ResultCode.NO_SUCH_ATTRIBUTE, key.attribute)
        if key.rule is None:
            sortable = SYNTAXES[kind.syntax].ordering is not None
        else:
            sortable = kind.syntax in ORDERING_RULES.get(key.rule, "")
        if not sortable:
            raise SortError(ResultCode.INAPPROPRIATE_MATCHING, key.attribute)
        name = kind.names[0].lower()
        if name in (row.name for row in found):
            raise SortError(ResultCode.UNWILLING_TO_PERFORM, key.attribute)  # RFC 2891 §1.1: once each
        found.append(Key(name, key.reverse))
    return tuple(found)


# Values of single entries


def values_of(snapshot: Snapshot, number: int, keys: Sequence[Key]) -> tuple[bytes | None, ...]:
    """What an entry is sorted by: its least value of each key, comparable; None where it has none."""
    return tuple(least(snapshot, number, key.name) for key in keys)


def least(snapshot: Snapshot, number: int, name: str) -> bytes | None:
    """The least comparable value of one attribute; None without one."""
    kind, slot = Kind(number >> KIND_SHIFT), number & SLOT_MASK
    if name == RDN:
        return None if kind == Kind.FIXED else _name_of(snapshot, number)
    if name not in snapshot.schema.types:
        return None  # an attribute that no entry has any more
    normalise = snapshot.schema.syntax(name).normalise
    if name in OPERATIONAL:
        return normalise(snapshot.operational_value(kind, slot, name))
    store = snapshot.stores[kind]
    layout = snapshot.layouts[kind][store.layout_numbers[slot]]
    if name not in layout:
        return None
    own = (normalise(value) for value in store.values(slot, layout.index(name)))
    return min((value for value in own if value is not None), default=None)


def _name_of(snapshot: Snapshot, number: int) -> bytes:
    from outposts.ldap.dn import DN, fold

    return fold(DN.parse(snapshot.dn(number)).rdns[0][0].value).encode("utf-8", "surrogatepass")


def compare(one: Sequence[bytes | None], other: Sequence[bytes | None], keys: Sequence[Key]) -> int:
    """Negative: ``one`` comes first; 0: equal in all keys. Both as ``values_of`` gives them."""
    for mine, theirs, key in zip(one, other, keys, strict=True):
        if mine != theirs:
            first = theirs is None or (mine is not None and mine < theirs)
            return -1 if first != key.reverse else 1
    return 0


# Whole results


def order(snapshot: Snapshot, found: BitMap, keys: Sequence[Key]) -> Steps:
    """All of ``found`` in order. A generator of steps; its return value are the entry numbers."""
    out = array("I")
    yield from _Sorter(snapshot, found, keys).sort(found, 0, out)
    return out


def _place(place: int, row: tuple[tuple[bytes | None, ...], int]) -> tuple[bool, bytes]:
    """Sort key of a row by one of its values: none comes last."""
    value = row[0][place]
    return value is None, value or b""


class _Sorter:
    """One sort: what is the same for all its parts."""

    def __init__(self, snapshot: Snapshot, found: BitMap, keys: Sequence[Key]) -> None:
        self._snapshot = snapshot
        self._found = found
        self._keys = keys
        self._ranks: dict[int, dict[int, int]] = {}

    def sort(self, members: BitMap, level: int, out: array[int]) -> Generator[None, None, None]:
        """Append ``members``, equal in the keys before ``level``, in order."""
        if level == len(self._keys) or len(members) == 1:
            out.extend(members.to_array())
            return
        key = self._keys[level]
        if not level and len(members) <= min(RANKED, max(FEW, _size(self._snapshot, key.name) // DECODE_SHARE)):
            yield from self._compared(members, level, out)
            return
        if level and len(members) <= RANKED:
            yield from self._ranked(members, level, out)
            return
        groups: list[int | BitMap | None] = []
        yield from self._grouped(members, key, groups)
        for at, group in enumerate(groups):
            groups[at] = None  # goes here, not all at the end: a hundred thousand sets take their time
            if isinstance(group, int):
                out.append(group)
            elif group is not None:
                yield from self.sort(group, level + 1, out)
            if at % STEP == STEP - 1:
                yield

    def _compared(self, members: BitMap, level: int, out: array[int]) -> Generator[None, None, None]:
        """By values taken from the entries."""
        keys = self._keys[level:]
        rows: list[tuple[tuple[bytes | None, ...], int]] = []
        for at, number in enumerate(members):
            rows.append((values_of(self._snapshot, number, keys), number))
            if at % DECODED_STEP == DECODED_STEP - 1:
                yield
        for place, key in reversed(list(enumerate(keys))):  # a sort keeps the order of what is equal
            rows.sort(key=partial(_place, place), reverse=key.reverse)
        out.extend(number for _, number in rows)

    def _ranked(self, members: BitMap, level: int, out: array[int]) -> Generator[None, None, None]:
        """By the places of values in the order of each further key."""
        tables: list[tuple[dict[int, int], int]] = []
        for further in range(level, len(self._keys)):
            table = self._ranks.get(further)
            if table is None:
                table = self._ranks[further] = {}
                yield from self._rank(self._keys[further], table)
            tables.append((table, -1 if self._keys[further].reverse else 1))
        last = 1 << KIND_SHIFT  # behind every value
        rank: Callable[[int], tuple[int, ...]] = lambda number: tuple(  # noqa: E731
            [table.get(number, last) * sign for table, sign in tables]
        )
        out.extend(sorted(members, key=rank))
        yield

    def _rank(self, key: Key, table: dict[int, int]) -> Generator[None, None, None]:
        found = self._found
        for at, numbers in enumerate(_runs(self._snapshot, key.name, found)):
            if not numbers:
                yield
            for number in numbers:
                if number in found and number not in table:
                    table[number] = at
            if at % STEP == STEP - 1:
                yield

    def _grouped(self, members: BitMap, key: Key, groups: list[int | BitMap | None]) -> Generator[None, None, None]:
        """Entries with the same least value together, in the key's order, those without a value as one group."""
        left = members.copy()
        for at, numbers in enumerate(_runs(self._snapshot, key.name, members)):
            if len(numbers) == 1:
                number = numbers[0]
                if number in left:
                    left.remove(number)
                    groups.append(number)
            elif not numbers:
                yield
            else:
                same = BitMap(numbers)
                same &= left
                if same:
                    left -= same
                    groups.append(same)
            if at % STEP == STEP - 1:
                yield
                if not left:
                    break
        if left:
            groups.append(left)
        if key.reverse:
            groups.reverse()


def _size(snapshot: Snapshot, name: str) -> int:
    """Values that ``_runs`` would go through."""
    index = snapshot.hidden[RDN] if name == RDN else snapshot.indexes.get(name)
    return index.size if index is not None else 0 if name not in OPERATIONAL else len(snapshot)


def _runs(snapshot: Snapshot, name: str, members: BitMap) -> Iterator[Numbers]:
    """The entries of each value of an attribute, in the order of the values; other entries may be among them."""
    index = snapshot.hidden[RDN] if name == RDN else snapshot.indexes.get(name)
    if index is not None:
        return map(index.numbers, range(index.size))
    if name not in OPERATIONAL:
        return iter(())
    return _computed(snapshot, name, members)


def _computed(snapshot: Snapshot, name: str, members: BitMap) -> Iterator[Numbers]:
    """The same for attributes that are not stored: UUIDs in parts by their first byte, counts by value.

    An empty run is a pause: all entries are looked at before the first value can be told.
    """
    if name == "entryuuid":
        # Bytes, not pairs: a hundred thousand tuples would have the garbage collector walk over them again and again.
        parts: list[list[bytes]] = [[] for _ in range(256)]
        for at, number in enumerate(members):
            if at % STEP == STEP - 1:
                yield ()
            store, slot = snapshot.stores[number >> KIND_SHIFT], number & SLOT_MASK  # type: ignore[index]
            raw = bytes(store.uuids[slot * 16 : slot * 16 + 16])
            parts[raw[0]].append(raw + number.to_bytes(4, "big"))
        for at, part in enumerate(parts):
            parts[at] = []
            part.sort()
            yield from ((int.from_bytes(row[16:], "big"),) for row in part)
        return
    by_value: dict[bytes, BitMap] = {}
    normalise = snapshot.schema.syntax(name).normalise
    known: dict[Kind, bytes | None] = {}  # all entries of a kind but the fixed ones have the same
    for at, number in enumerate(members):
        if at % STEP == STEP - 1:
            yield ()
        kind = Kind(number >> KIND_SHIFT)
        if kind == Kind.FIXED or kind not in known:
            known[kind] = normalise(snapshot.operational_value(kind, number & SLOT_MASK, name))
        value = known[kind]
        if value is not None:
            by_value.setdefault(value, BitMap()).add(number)
    for value in sorted(by_value):
        yield by_value[value]


class _Orders:
    """Sorted results of one snapshot."""

    def __init__(self) -> None:
        self.known: OrderedDict[bytes, array[int]] = OrderedDict()
        self.entries = 0

    def put(self, query: bytes, numbers: array[int]) -> None:
        self.known[query] = numbers
        self.entries += len(numbers)
        while len(self.known) > ORDERS_KEPT or (self.entries > ORDER_ENTRIES_KEPT and len(self.known) > 1):
            _, former = self.known.popitem(last=False)
            self.entries -= len(former)


# They go with their snapshot.
_orders: WeakKeyDictionary[Snapshot, _Orders] = WeakKeyDictionary()


def remembered(snapshot: Snapshot, query: bytes, found: BitMap, keys: Sequence[Key]) -> Steps:
    """``order``, made once per snapshot and ``query`` (a digest that tells base, scope, filter and keys)."""
    orders = _orders.setdefault(snapshot, _Orders())
    numbers = orders.known.get(query)
    if numbers is None:
        numbers = yield from order(snapshot, found, keys)
        orders.put(query, numbers)
    else:
        orders.known.move_to_end(query)
    return numbers
