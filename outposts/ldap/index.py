"""Attribute → value → set of entry numbers, in flat buffers: no Python object per value at rest.

The distinct normalised values of one attribute stand sorted in one byte string, 0xff before, between and behind them,
which no normalised value holds (they are UTF-8 or 7-bit). So equality, ordering and prefixes are bisections, and a
substring search is ``bytes.find`` over the whole string, or over the parts of it that ``grams`` knows to matter. A
value's entries are a range of one uint32 array, or a bitmap from ``LARGE_POSTING`` entries on.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import compress, count, repeat
from mmap import mmap
from typing import NamedTuple

from pyroaring import BitMap

from outposts.ldap.grams import BLOCK, Grams

SEPARATOR = b"\xff"
# Entries per value from which a bitmap is kept: below, building one from the array costs about a microsecond.
LARGE_POSTING = 64
# A substring search that hits this share of the values (1/n) is finished value by value instead of hit by hit.
MANY_HITS_SHARE = 16

# Values between two that are kept as objects: a look-up bisects those and then searches 64 values as one byte string.
SAMPLE_STEP = 64

# Bytes of values looked through at a time by a substring search: each piece is copied out of the map first, because
# ``bytes.find`` is many times faster than a search in the map itself; small enough to stay in the processor's cache.
WINDOW = 64 * 1024

# Values between two pauses of a search that looks at each: a millisecond or two.
STEP = 2048

# Blocks of values that a search looks through without a pause: about a millisecond.
FEW_BLOCKS = 512

# Share (1/n) of all blocks from which the whole string is searched quicker.
MANY_BLOCKS_SHARE = 4

Numbers = Sequence[int]  # array("I") or a memoryview cast to "I"


class Column:
    """Values and entry numbers of one attribute while a snapshot is built: 0xff-joined values, one number each.

    ``pending`` and ``numbers`` may be appended to directly, one value and one number at a time.
    """

    __slots__ = ("_values", "numbers", "pending")

    def __init__(self) -> None:
        self._values = bytearray()
        self.pending: list[bytes] = []  # not joined yet
        self.numbers = array("I")

    def add(self, value: bytes, number: int) -> None:
        """``value`` is normalised; an entry's equal values may be added twice."""
        self.pending.append(value)
        self.numbers.append(number)

    def extend_with(self, values: Sequence[bytes], number: int) -> None:
        """Several values of one entry."""
        self.pending += values
        self.numbers.extend([number] * len(values))

    def extend(self, other: Column) -> None:
        """Append another column."""
        self.settle()
        other.settle()
        self._values += other._values
        self.numbers.extend(other.numbers)

    def settle(self) -> None:
        """Join what is pending: to be called now and then, since a value costs five times its size until then."""
        if self.pending:
            self.pending.append(b"")
            self._values += SEPARATOR.join(self.pending)
            self.pending.clear()

    def split(self) -> list[bytes]:
        """The values, one for each number."""
        self.settle()
        values = bytes(self._values).split(SEPARATOR)
        values.pop()
        return values


class IndexParts(NamedTuple):
    """The buffers of an index as they are written to a state file."""

    blob: bytes | mmap
    start: int  # where in ``blob`` this index begins: a map holds a whole snapshot
    offsets: bytes | memoryview  # uint32, one more than values
    numbers: bytes | memoryview  # uint32
    ranges: bytes | memoryview  # uint32, one more than values; empty when every value has exactly one entry
    bitmaps: list[tuple[int, bytes | memoryview]]  # value number → serialised bitmap
    present: bytes | memoryview  # serialised bitmap


class Index:
    """The values of one attribute. Immutable; so are the sets it returns: some are its own."""

    __slots__ = (
        "_blob",
        "_grams",
        "_large",
        "_numbers",
        "_offsets",
        "_ranges",
        "_samples",
        "_start",
        "present",
        "size",
    )

    def __init__(
        self, blob: bytes | mmap, offsets: Numbers, numbers: Numbers, ranges: Numbers | None, large: dict[int, BitMap],
        present: BitMap, start: int = 0,
    ) -> None:  # fmt: skip
        self._blob = blob  # a slice of either kind is bytes
        self._start = start
        self._offsets = offsets
        self._numbers = numbers
        self._ranges = ranges
        self._large = large
        self._samples: list[bytes] | None = None
        self.present = present  # entries with any value, also one that could not be normalised
        self.size = len(offsets) - 1
        self._grams = Grams(self.size)

    @staticmethod
    def build(values: list[bytes], numbers: Sequence[int], present: BitMap) -> Index:
        """From pairs in any order. ``present`` may hold more entries than the pairs do."""
        groups: dict[bytes, int] = dict.fromkeys(values, 0)
        distinct = sorted(groups)
        offsets = array("I", [1])
        position = 1
        append = offsets.append
        for value in distinct:
            position += len(value) + 1
            append(position)
        blob = SEPARATOR + SEPARATOR.join(distinct) + SEPARATOR if distinct else SEPARATOR
        if len(distinct) == len(values):
            of = dict(zip(values, numbers, strict=True))
            return Index(blob, offsets, array("I", map(of.__getitem__, distinct)), None, {}, present)
        lists: dict[bytes, list[int]] = {}
        for value, number in zip(values, numbers, strict=True):
            if value in lists:
                lists[value].append(number)
            else:
                lists[value] = [number]
        flat = array("I")
        ranges = array("I", [0])
        large: dict[int, BitMap] = {}
        for place, value in enumerate(distinct):
            found = lists.pop(value)
            if len(found) >= LARGE_POSTING:
                bitmap = BitMap(found)
                bitmap.run_optimize()
                large[place] = bitmap
            else:
                flat.extend(sorted(set(found)) if len(found) > 1 else found)
            ranges.append(len(flat))
        return Index(blob, offsets, flat, ranges, large, present)

    @staticmethod
    def from_parts(parts: IndexParts) -> Index:
        """Back from ``parts``; arrays stay views into what they were read from."""
        return Index(
            parts.blob,
            memoryview(parts.offsets).cast("I"),
            memoryview(parts.numbers).cast("I"),
            memoryview(parts.ranges).cast("I") if len(parts.ranges) else None,
            {place: BitMap.deserialize(bytes(data)) for place, data in parts.bitmaps},
            BitMap.deserialize(bytes(parts.present)),
            parts.start,
        )

    def text(self) -> memoryview:
        """All values with what separates them, where they lie: no copy."""
        return memoryview(self._blob)[self._start : self._start + self._offsets[self.size]]

    def parts(self, *, whole: bool = True) -> IndexParts:
        """The buffers, ready to be written; views but for the small ones. ``whole``: with the values, as a copy."""
        return IndexParts(
            self._blob[self._start : self._start + self._offsets[self.size]] if whole else b"",
            0,
            memoryview(self._offsets).cast("B"),  # type: ignore[arg-type]
            memoryview(self._numbers).cast("B"),  # type: ignore[arg-type]
            b"" if self._ranges is None else memoryview(self._ranges).cast("B"),  # type: ignore[arg-type]
            [(place, bitmap.serialize()) for place, bitmap in self._large.items()],
            self.present.serialize(),
        )

    def fingerprint(self) -> bytes:
        """Equal for indexes with the same values, entries and presence."""
        digest = blake2b(digest_size=16)
        for part in (self.text(), self._offsets, self._numbers, self._ranges or b"", self.present.serialize()):
            digest.update(part)  # type: ignore[arg-type]
        for place, bitmap in self._large.items():
            digest.update(b"%d" % place + bitmap.serialize())
        return digest.digest()

    def value(self, place: int) -> bytes:
        """The value number ``place`` in sorted order."""
        start = self._start
        return self._blob[start + self._offsets[place] : start + self._offsets[place + 1] - 1]

    def values(self) -> list[bytes]:
        """All distinct values, sorted."""
        start = self._start
        return self._blob[start + 1 : start + self._offsets[self.size] - 1].split(SEPARATOR) if self.size else []

    def place(self, value: bytes) -> int:
        """Number of an exact value, -1 if there is none."""
        samples = self._samples
        if samples is None:
            samples = self._sample()
        block = bisect_right(samples, value) - 1
        if block < 0:
            return -1
        low = block * SAMPLE_STEP
        high = min(low + SAMPLE_STEP, self.size)
        offsets = self._offsets
        begin = offsets[low]
        start = self._start
        at = self._blob[start + begin - 1 : start + offsets[high]].find(SEPARATOR + value + SEPARATOR)
        return -1 if at < 0 else bisect_left(offsets, at + begin, low, high)

    def numbers(self, place: int) -> Sequence[int]:
        """Entry numbers of a value, ascending."""
        if self._ranges is None:
            return self._numbers[place : place + 1]
        if place in self._large:
            return self._large[place].to_array()
        return self._numbers[self._ranges[place] : self._ranges[place + 1]]

    def pairs(self) -> tuple[list[bytes], array[int]]:
        """All (value, entry number) pairs, as ``build`` takes them."""
        values: list[bytes] = []
        numbers = array("I")
        if self._ranges is None:
            return self.values(), array("I", self._numbers)
        for place, value in enumerate(self.values()):
            found = self.numbers(place)
            values.extend([value] * len(found))
            numbers.extend(found)
        return values, numbers

    def unchanged(self, entries: BitMap, values: Sequence[bytes], numbers: Sequence[int]) -> bool:
        """Whether these entries have exactly these pairs here, too. Looks at no other entry's values."""
        pairs = set(zip(values, numbers, strict=True))
        if self._ranges is None:
            total = sum(map(entries.__contains__, self._numbers))
        else:
            total = sum(map(entries.__contains__, self._numbers)) + sum(
                entries.intersection_cardinality(bitmap) for bitmap in self._large.values()
            )
        if total != len(pairs):
            return False
        return all((place := self.place(value)) >= 0 and self._holds(place, number) for value, number in pairs)

    def _holds(self, place: int, number: int) -> bool:
        bitmap = self._large.get(place)
        return number in bitmap if bitmap is not None else number in self.numbers(place)

    # Sets of entries

    def equal(self, value: bytes) -> BitMap:
        """Entries with this value."""
        place = self.place(value)
        return self._at(place) if place >= 0 else BitMap()

    def between(self, low: bytes | None, high: bytes | None) -> BitMap:
        """Entries with a value from ``low`` up to and including ``high``; None = open end."""
        start = 0 if low is None else self._left(low)
        stop = self.size if high is None else self._right(high)
        return self._range(start, stop)

    def substring(self, initial: bytes | None, middle: Sequence[bytes], final: bytes | None) -> BitMap:
        """Entries with a value that begins, holds and ends so, parts not overlapping (RFC 4511 §4.5.1.7.2)."""
        found = BitMap()
        for _ in self.substring_steps(found, initial, middle, final):
            pass
        return found

    def substring_steps(
        self, found: BitMap, initial: bytes | None, middle: Sequence[bytes], final: bytes | None
    ) -> Iterator[None]:
        """The same in parts of some thousand values, so that others can have a turn in between; adds to ``found``."""
        parts = [part for part in middle if part]
        if initial:
            start, stop = self._left(initial), self._left(initial + SEPARATOR)
            if not middle and not final:
                found.update(self._range(start, stop))
                return
            for at in range(start, stop, STEP):
                part = range(at, min(at + STEP, stop))
                self._add(found, (place for place in part if value_matches(self.value(place), initial, middle, final)))
                yield
        elif not parts and not final:
            found.update(self._range(0, self.size))
        else:
            wanted = [*parts, final + SEPARATOR] if final else parts
            needle = max(wanted, key=len)
            blocks = self._grams.holding(wanted)
            several = blocks is None or len(blocks) > self._grams.total // MANY_BLOCKS_SHARE
            for hits in self._search(needle) if several or blocks is None else self._search_in(blocks, needle):
                if len(parts) + bool(final) > 1:
                    hits = [place for place in hits if value_matches(self.value(place), b"", parts, final)]
                self._add(found, hits)
                yield

    def is_quick(self, initial: bytes | None, middle: Sequence[bytes], final: bytes | None) -> bool:
        """Whether a substring search looks at few values."""
        if initial:
            return self._left(initial + SEPARATOR) - self._left(initial) <= STEP
        blocks = self._grams.holding([*middle, final + SEPARATOR] if final else middle)
        return blocks is not None and len(blocks) <= FEW_BLOCKS

    def _block(self, block: int) -> bytes:
        """The values of a block, with the separators around them."""
        low = block * BLOCK
        start = self._start
        return self._blob[start + self._offsets[low] - 1 : start + self._offsets[min(low + BLOCK, self.size)]]

    def _search_in(self, blocks: BitMap, needle: bytes) -> Iterator[Iterable[int]]:
        """As ``_search``, in some blocks alone."""
        offsets = self._offsets
        hits: list[int] = []
        for number, block in enumerate(blocks, 1):
            text = self._block(block)
            position = text.find(needle)
            if position >= 0:
                place = block * BLOCK
                begin = offsets[place] - 1
                last = min(place + BLOCK, self.size)
                while position >= 0:
                    place = bisect_right(offsets, begin + position, place, last) - 1
                    hits.append(place)
                    place += 1
                    position = text.find(needle, offsets[place] - begin)
            if number % FEW_BLOCKS == 0:
                yield hits
                hits = []
        yield hits

    def _search(self, needle: bytes) -> Iterator[Iterable[int]]:
        """Numbers of the values that hold ``needle`` (which may end in the separator), window by window."""
        grams = self._grams
        blob, start, offsets, size = self._blob, self._start, self._offsets, self.size
        first = 0
        while first < size:
            if grams.done < grams.total:
                grams.grow(self._block)
            begin = offsets[first] - 1
            last = min(size, first + STEP, max(first + 1, bisect_right(offsets, begin + WINDOW, first) - 1))
            window = blob[start + begin : start + offsets[last]]
            limit = (last - first) // MANY_HITS_SHARE + 8
            hits: list[int] = []
            place = first
            position = window.find(needle)
            while position >= 0:
                place = bisect_right(offsets, begin + position, place, last) - 1
                hits.append(place)
                if len(hits) > limit:
                    yield _holding(window, needle, first)
                    break
                place += 1
                position = window.find(needle, offsets[place] - begin)
            else:
                yield hits
            first = last

    def _sample(self) -> list[bytes]:
        """Every ``SAMPLE_STEP``-th value: made at the first look-up, so that loading stays quick."""
        self._samples = [self.value(place) for place in range(0, self.size, SAMPLE_STEP)]
        return self._samples

    def _left(self, value: bytes) -> int:
        """Number of the first value at or behind ``value``."""
        samples = self._samples if self._samples is not None else self._sample()
        low = max(0, bisect_left(samples, value) - 1) * SAMPLE_STEP
        places = range(low, min(low + SAMPLE_STEP + 1, self.size))
        return low + bisect_left(places, value, key=self.value)

    def _right(self, value: bytes) -> int:
        """Number of the first value behind ``value``."""
        place = self._left(value)
        return place + 1 if place < self.size and self.value(place) == value else place

    def _at(self, place: int) -> BitMap:
        if self._ranges is None:
            return BitMap((self._numbers[place],))
        if place in self._large:
            return self._large[place]
        return BitMap(self._numbers[self._ranges[place] : self._ranges[place + 1]])

    def _range(self, start: int, stop: int) -> BitMap:
        if start >= stop:
            return BitMap()
        if start == 0 and stop == self.size and not self._ranges and len(self._numbers) == len(self.present):
            return self.present
        if self._ranges is None:
            return BitMap(self._numbers[start:stop])
        found = BitMap(self._numbers[self._ranges[start] : self._ranges[stop]])
        for place, bitmap in self._large.items():
            if start <= place < stop:
                found |= bitmap
        return found

    def _add(self, found: BitMap, places: Iterable[int]) -> None:
        """Add the entries of these values."""
        if self._ranges is None:
            found.update(array("I", map(self._numbers.__getitem__, places)))
            return
        ranges, flat = self._ranges, self._numbers
        large = self._large
        collected = array("I")
        for place in places:
            if place in large:
                found |= large[place]
            else:
                collected.extend(flat[ranges[place] : ranges[place + 1]])
        found.update(collected)


def _holding(window: bytes, needle: bytes, first: int) -> Iterable[int]:
    """Numbers of the values in a window that hold ``needle``, where many do: value by value, all of it in C."""
    values = window[1:-1].split(SEPARATOR)
    if needle.endswith(SEPARATOR):
        return compress(count(first), map(bytes.endswith, values, repeat(needle[:-1])))
    return compress(count(first), map(bytes.__contains__, values, repeat(needle)))


def value_matches(value: bytes, initial: bytes, middle: Sequence[bytes], final: bytes | None) -> bool:
    """RFC 4511 §4.5.1.7.2 on normalised values: parts in this order, none sharing a byte with another."""
    if not value.startswith(initial):
        return False
    position = len(initial)
    stop = len(value) - len(final or b"")
    if final and not value.endswith(final):
        return False
    for part in middle:
        position = value.find(part, position, stop)
        if position < 0:
            return False
        position += len(part)
    return position <= stop
