"""What is different between two snapshots of one directory, and a bounded log of such differences.

Entries are the same entry when their entryUUID is the same. Slots are kept from snapshot to snapshot, so almost every
entry is compared at its own place, and places are compared in blocks: two pages of memory that are equal need no look
at the entries in them.

A snapshot's identity is a digest of what it was built from. It is the same after a restart with the same sealed
directory, and in every worker; the sync cookie carries it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from pyroaring import BitMap

from common.version import VERSION
from outposts.ldap import stored
from outposts.ldap.contents import KIND_SHIFT, SLOT_MASK
from outposts.ldap.directory import Snapshot
from outposts.ldap.encoded import EntryStore
from outposts.ldap.entries import Kind

IDENTITY_SIZE = 16  # bytes
MAX_SETS = 1000  # empty change sets included: logins change the records of users, not their entries; 500 bytes each
BLOCK = 64  # slots compared at once: some 40 KiB of entries, which copy and compare in about 10 µs


class Gone(NamedTuple):
    """An entry of the older snapshot that is no longer at its number: deleted, or moved to another one."""

    number: int
    uuid: bytes
    dn: bytes


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """From one snapshot to the next. ``before`` and ``after`` are identities; numbers are those of the newer one.

    ``touched``: entries that are new, moved, or not as before. ``added``: those of them whose entryUUID is new.
    ``counted``: containers with another number of subordinates. ``renamed``: touched entries with another DN → the old.
    ``within``: touched entries that kept place and DN, by the attributes (canonical lower case) that are different.
    """

    before: bytes
    after: bytes
    touched: BitMap
    added: BitMap
    counted: BitMap
    gone: tuple[Gone, ...]
    renamed: Mapping[int, bytes]
    within: Mapping[frozenset[str], BitMap]

    def touched_in(self, attributes: frozenset[str]) -> BitMap:
        """Touched entries that are another to somebody who looks at these attributes only."""
        unseen = [members for names, members in self.within.items() if not names & attributes]
        return self.touched - BitMap.union(*unseen) if unseen else self.touched

    @property
    def weight(self) -> int:
        """Number of entries that it names; 0 if nothing is different but the identity."""
        return len(self.touched) + len(self.gone) + len(self.counted)


def identity(snapshot: Snapshot) -> bytes:
    """Sixteen bytes that two snapshots share when they hold the same entries made by the same version of this code."""
    digest = blake2b(digest_size=IDENTITY_SIZE, person=b"ldap snapshot")
    origin = snapshot.origin
    facts = (VERSION, stored.VERSION, snapshot.options, origin.context, len(snapshot), len(origin.user_digests))
    digest.update(repr(facts).encode("utf-8", "replace"))
    digest.update(origin.user_digests)
    digest.update(origin.group_digests)
    if not origin.user_digests:  # a view, or nobody in it: the entries themselves
        for row in sorted(_rows(snapshot)):
            digest.update(row)
    return digest.digest()


def _rows(snapshot: Snapshot) -> list[bytes]:
    return [
        uuid_of(snapshot, number) + entry_bytes(snapshot.stores[Kind(number >> KIND_SHIFT)], number & SLOT_MASK)
        for number in snapshot.all
    ]


def uuid_of(snapshot: Snapshot, number: int) -> bytes:
    """entryUUID of an entry, 16 bytes."""
    slot = number & SLOT_MASK
    return bytes(snapshot.stores[Kind(number >> KIND_SHIFT)].uuids[slot * 16 : slot * 16 + 16])


def entry_bytes(store: EntryStore, slot: int) -> bytes:
    """The encoded entry, DN and attributes."""
    return bytes(store.data[store.starts[slot] : store.starts[slot + 1]])


def compare(older: Snapshot, newer: Snapshot) -> ChangeSet:
    """Everything that is different, at once."""
    steps = comparing(older, newer)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            changes: ChangeSet = done.value
            return changes


def comparing(older: Snapshot, newer: Snapshot) -> Generator[None, None, ChangeSet]:
    """Everything that is different, in steps of a few microseconds, so that others get their turns in between."""
    touched = BitMap()
    gone: list[Gone] = []
    renamed: dict[int, bytes] = {}
    within: dict[frozenset[str], list[int]] = {}
    fresh: list[int] = []  # entries at a number that held nothing or another entry before
    for kind in Kind:
        before, after = older.kinds[kind], newer.kinds[kind]
        fresh += after - before
        for number in before - after:
            gone.append(Gone(number, uuid_of(older, number), older.dn(number)))
            yield
        for number in _differing(older, newer, kind):
            yield
            if number < 0:
                continue
            uuid, dn = uuid_of(older, number), older.dn(number)
            touched.add(number)
            if uuid != uuid_of(newer, number):
                gone.append(Gone(number, uuid, dn))
                fresh.append(number)
            elif dn != newer.dn(number):
                renamed[number] = dn
            else:
                within.setdefault(_attributes(older, newer, number), []).append(number)
    touched.update(fresh)
    moved = {row.uuid for row in gone}
    counted = BitMap(
        number
        for number in older.kinds[Kind.FIXED] & newer.kinds[Kind.FIXED]
        if older.subordinates(Kind.FIXED, number) != newer.subordinates(Kind.FIXED, number)
    )
    return ChangeSet(
        before=identity(older),
        after=identity(newer),
        touched=touched,
        added=BitMap(number for number in fresh if uuid_of(newer, number) not in moved),
        counted=counted,
        gone=tuple(gone),
        renamed=renamed,
        within={names: BitMap(numbers) for names, numbers in within.items()},
    )


def _attributes(older: Snapshot, newer: Snapshot, number: int) -> frozenset[str]:
    """Attributes in which an entry is different."""
    before, after = _slices(older, number), _slices(newer, number)
    return frozenset(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _slices(snapshot: Snapshot, number: int) -> dict[str, list[bytes]]:
    """Canonical name → encoded attributes of that name."""
    kind, slot = Kind(number >> KIND_SHIFT), number & SLOT_MASK
    store = snapshot.stores[kind]
    start, cut = store.starts[slot], store.cut_starts[slot] + 1
    found: dict[str, list[bytes]] = {}
    for place, name in enumerate(snapshot.layouts[kind][store.layout_numbers[slot]]):
        raw = bytes(store.data[start + store.cuts[cut + place] : start + store.cuts[cut + place + 1]])
        found.setdefault(name, []).append(raw)
    return found


def _differing(older: Snapshot, newer: Snapshot, kind: Kind) -> Iterator[int]:
    """Numbers that hold an entry in both, not the same bytes or not the same entryUUID; -1 for each block on the way.

    A block of slots with the same occupants' bytes in a row holds the same entries: each says its own length.
    """
    before, after = older.stores[kind], newer.stores[kind]
    common = older.kinds[kind] & newer.kinds[kind]
    if before.suffix != after.suffix:
        yield from common
        return
    either = older.kinds[kind] ^ newer.kinds[kind]
    first = kind << KIND_SHIFT
    size = min(len(before), len(after))
    for low in range(0, size, BLOCK):
        yield -1
        high = min(low + BLOCK, size)
        if either.range_cardinality(first + low, first + high) == 0:
            if bytes(before.uuids[low * 16 : high * 16]) == bytes(after.uuids[low * 16 : high * 16]) and bytes(
                before.data[before.starts[low] : before.starts[high]]
            ) == bytes(after.data[after.starts[low] : after.starts[high]]):
                continue
        for slot in range(low, high):
            if first + slot in common and (
                bytes(before.uuids[slot * 16 : slot * 16 + 16]) != bytes(after.uuids[slot * 16 : slot * 16 + 16])
                or entry_bytes(before, slot) != entry_bytes(after, slot)
            ):
                yield first + slot


class ChangeLog:
    """The last change sets, each beginning where the one before it ends."""

    def __init__(self, keep: int) -> None:
        """``keep``: number of change sets that name entries. The newest always stays, for those who follow."""
        self.keep = keep
        self._sets: deque[ChangeSet] = deque()
        self._weight = self._full = 0

    def __len__(self) -> int:
        return len(self._sets)

    def append(self, changes: ChangeSet, entries: int) -> None:
        """Note one. ``entries``: size of the directory; a log that names more than that saves nobody anything."""
        if self._sets and self._sets[-1].after != changes.before:
            self.clear()
        self._sets.append(changes)
        self._weight += changes.weight
        self._full += changes.weight > 0
        while len(self._sets) > 1 and (self._full > self.keep or self._weight > entries or len(self._sets) > MAX_SETS):
            weight = self._sets.popleft().weight
            self._weight -= weight
            self._full -= weight > 0

    def clear(self) -> None:
        """Forget all."""
        self._sets.clear()
        self._weight = self._full = 0

    def since(self, before: bytes) -> list[ChangeSet] | None:
        """The change sets from that identity to the newest; None if it is not known any more.

        A directory can come back to what it was: the shortest way is the right one.
        """
        found: list[ChangeSet] = []
        for changes in reversed(self._sets):
            found.insert(0, changes)
            if changes.before == before:
                return found
        return None
