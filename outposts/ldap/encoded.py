"""Entries as finished BER in one buffer per kind, and search results spliced from them.

An entry is kept as ``04 dn · 30 length · attributes`` of its SearchResultEntry (RFC 4511 §4.5.2), followed when it is
sent by the kind's constant ``objectClass`` attribute. Offsets ("cuts") say where each attribute ends, a layout says
which they are, so a result is: message id, slice, constant. Slots are stable numbers; a free slot has no bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain, repeat
from operator import gt, lt, sub
from typing import NamedTuple

from outposts.ldap.ber import encode_integer, header, length_of, tlv
from outposts.ldap.rfc import OCTET_STRING, SEQUENCE, SET, Tag

# Bytes of joined messages handed out at a time: a full socket buffer's worth, about 50 entries of usual size,
# put together in far less than the 5 ms that a search may hold the loop.
CHUNK_SIZE = 64 * 1024
Buffer = bytes | memoryview
Layout = tuple[str, ...]


def attribute(name: str, values: Sequence[str]) -> bytes:
    """PartialAttribute, RFC 4511 §4.1.7."""
    if len(values) == 1:
        content = tlv(OCTET_STRING, _octets(values[0]))
    else:
        content = b"".join([tlv(OCTET_STRING, _octets(value)) for value in values])
    return tlv(SEQUENCE, tlv(OCTET_STRING, name.encode()) + tlv(SET, content))


def _octets(text: str) -> bytes:
    """UTF-8. A lone surrogate (JSON allows one) becomes a question mark."""
    return text.encode("utf-8", "replace")


class Prefixes(dict[int, bytes]):
    """Length of a SearchResultEntry's content → everything before it in the message with one message id."""

    def __init__(self, message_id: int) -> None:
        super().__init__()
        self._id = encode_integer(message_id)

    def __missing__(self, size: int) -> bytes:
        operation = bytes((Tag.SEARCH_ENTRY,)) + length_of(size)
        total = len(self._id) + len(operation) + size
        value = bytes((SEQUENCE,)) + length_of(total) + self._id + operation
        self[size] = value
        return value


class Plan(NamedTuple):
    """What of a layout is sent: runs of cuts, then constant bytes, then attributes computed from (slot)."""

    runs: tuple[tuple[int, int], ...]
    constant: bytes
    computed: tuple[Callable[[int], bytes], ...] = ()


class EntryStore:
    """The entries of one kind. Immutable."""

    __slots__ = ("cut_starts", "cuts", "data", "layout_numbers", "layouts", "starts", "suffix", "uuids")

    def __init__(
        self, data: Buffer, starts: Sequence[int], cut_starts: Sequence[int], cuts: Sequence[int],
        layout_numbers: Sequence[int], layouts: list[Layout], uuids: Buffer, suffix: bytes,
    ) -> None:  # fmt: skip
        self.data = data
        self.starts = starts  # uint64, one more than slots
        self.cut_starts = cut_starts  # uint32, one more than slots
        self.cuts = cuts  # uint16 or uint32, relative to the entry's start: end of DN, start of attributes, end of each
        self.layout_numbers = layout_numbers  # uint32
        self.layouts = layouts  # attribute names as shown
        self.uuids = uuids  # 16 bytes each
        self.suffix = suffix  # the objectClass attribute, or empty where entries carry their own

    def __len__(self) -> int:
        """Number of slots, free ones included."""
        return len(self.starts) - 1

    def dn(self, slot: int) -> bytes:
        """DN as UTF-8 text."""
        start = self.starts[slot]
        raw = bytes(self.data[start : start + self.cuts[self.cut_starts[slot]]])
        _, begin, stop = header(raw, 0, len(raw))
        return raw[begin:stop]

    def attributes(self, slot: int) -> list[tuple[str, list[bytes]]]:
        """Decoded attributes, without the constant ``objectClass``."""
        layout = self.layouts[self.layout_numbers[slot]]
        return [(name, self.values(slot, place)) for place, name in enumerate(layout)]

    def values(self, slot: int, place: int) -> list[bytes]:
        """Decoded values of the attribute at ``place`` in the entry's layout."""
        start = self.starts[slot]
        cut = self.cut_starts[slot] + 1 + place
        raw = bytes(self.data[start + self.cuts[cut] : start + self.cuts[cut + 1]])
        _, begin, stop = header(raw, 0, len(raw))
        _, _, position = header(raw, begin, stop)
        _, position, stop = header(raw, position, stop)
        values = []
        while position < stop:
            _, begin, position = header(raw, position, stop)
            values.append(raw[begin:position])
        return values

    def whole(self, slots: Sequence[int], prefixes: Prefixes) -> Iterator[bytes]:
        """Messages of ascending ``slots`` with all their attributes, in chunks."""
        data, suffix, starts = self.data, self.suffix, self.starts
        extra = len(suffix)
        average = max(1, starts[len(starts) - 1] // max(1, len(self)) + extra)
        step = max(1, CHUNK_SIZE // average)
        for at in range(0, len(slots), step):
            batch = slots[at : at + step]
            count = len(batch)
            if batch[-1] - batch[0] == count - 1:
                edges = list(starts[batch[0] : batch[-1] + 2])
                begins, ends = edges[:-1], edges[1:]
            else:
                begins = [starts[slot] for slot in batch]
                ends = [starts[slot + 1] for slot in batch]
            sizes = (
                map(sub, ends, begins)
                if not extra
                else [end - begin + extra for begin, end in zip(begins, ends, strict=True)]
            )
            slices: Iterator[Buffer] = map(_getter(data), map(slice, begins, ends))
            yield b"".join(
                chain.from_iterable(zip(map(prefixes.__getitem__, sizes), slices, repeat(suffix, count), strict=True))
            )

    def selected(self, slots: Sequence[int], prefixes: Prefixes, plan_of: Callable[[int], Plan]) -> Iterator[bytes]:
        """Messages of ascending ``slots`` with what ``plan_of(layout number)`` selects, in chunks."""
        data, starts, cut_starts, cuts = self.data, self.starts, self.cut_starts, self.cuts
        layout_numbers = self.layout_numbers
        plans: dict[int, Plan] = {}
        pieces: list[Buffer] = []
        filled = 0
        for slot in slots:
            layout = layout_numbers[slot]
            plan = plans.get(layout)
            if plan is None:
                plan = plans[layout] = plan_of(layout)
            runs, constant, computed = plan
            start = starts[slot]
            cut = cut_starts[slot]
            dn_size = cuts[cut]
            if len(runs) == 1:
                low, high = runs[0]
                body = data[start + cuts[cut + low] : start + cuts[cut + high]]
                size = len(body) + len(constant)
                parts = [body]
            else:
                parts = [data[start + cuts[cut + low] : start + cuts[cut + high]] for low, high in runs]
                size = sum(map(len, parts)) + len(constant)
            if computed:
                parts.extend([make(slot) for make in computed])
                size = sum(map(len, parts)) + len(constant)
            opening = SEQUENCE_HEADERS[size] if size < len(SEQUENCE_HEADERS) else b"0" + length_of(size)
            body_size = dn_size + len(opening) + size
            pieces.append(prefixes[body_size])
            pieces.append(data[start : start + dn_size])
            pieces.append(opening)
            pieces += parts
            pieces.append(constant)
            filled += body_size
            if filled >= CHUNK_SIZE:
                yield b"".join(pieces)
                pieces = []
                filled = 0
        if pieces:
            yield b"".join(pieces)


SEQUENCE_HEADERS: tuple[bytes, ...] = tuple(bytes((SEQUENCE,)) + length_of(size) for size in range(4096))


def _getter(data: Buffer) -> Callable[[slice], Buffer]:
    return data.__getitem__


class StoreWriter:
    """Collects the entries of one kind. Slots may be written in any order, each once; ``finish`` puts them in order.

    Flat arrays all the way: a hundred thousand tuples would cost more than the entries they describe.
    """

    def __init__(self, suffix: bytes) -> None:
        self.suffix = suffix
        self._data = bytearray()
        self._cuts = array("I")
        self._slots = array("I")  # in the order written; so are the following
        self._ends = array("Q")
        self._cut_ends = array("I")
        self._layout_numbers = array("I")
        self._uuids = bytearray()
        self._layouts: dict[Layout, int] = {}
        self._copying: EntryStore | None = None  # whose entries from ``_run`` are still to be taken over
        self._run = (0, 0)

    def add(self, slot: int, dn: bytes, layout: Layout, attributes: Sequence[bytes], uuid: bytes) -> None:
        """``attributes``: finished BER, in the order of ``layout``."""
        if self._copying is not None:
            self._copy_run()
        name = tlv(OCTET_STRING, dn)
        body = b"".join(attributes)
        opening = bytes((SEQUENCE,)) + length_of(len(body) + len(self.suffix))
        self._data += name + opening + body
        self._cuts.append(len(name))
        self._cuts.extend(accumulate(map(len, attributes), initial=len(name) + len(opening)))
        self._slots.append(slot)
        self._ends.append(len(self._data))
        self._cut_ends.append(len(self._cuts))
        self._layout_numbers.append(self._layouts.setdefault(layout, len(self._layouts)))
        self._uuids += uuid

    def copy(self, slot: int, store: EntryStore) -> None:
        """Take over the bytes of an unchanged entry. Neighbours are taken over together, at the next other entry."""
        if self._copying is not None:
            if store is self._copying and slot == self._run[1]:
                self._run = (self._run[0], slot + 1)
                return
            self._copy_run()
        self._copying = store
        self._run = (slot, slot + 1)

    def _copy_run(self) -> None:
        store = self._copying
        assert store is not None
        self._copying = None
        first, last = self._run
        start, cut = store.starts[first], store.cut_starts[first]
        at, cut_at = len(self._data) - start, len(self._cuts) - cut
        self._data += store.data[start : store.starts[last]]
        self._cuts.extend(iter(store.cuts[cut : store.cut_starts[last]]))
        self._slots.extend(range(first, last))
        self._ends.extend([at + end for end in store.starts[first + 1 : last + 1]])
        self._cut_ends.extend([cut_at + end for end in store.cut_starts[first + 1 : last + 1]])
        own = {number: self._layouts.setdefault(store.layouts[number], len(self._layouts))
               for number in dict.fromkeys(store.layout_numbers[first:last])}  # fmt: skip
        self._layout_numbers.extend(map(own.__getitem__, store.layout_numbers[first:last]))
        self._uuids += store.uuids[first * 16 : last * 16]

    def finish(self) -> EntryStore:
        """The store; this writer is not to be used any more."""
        if self._copying is not None:
            self._copy_run()
        layouts = list(self._layouts) or [()]
        if self._slots and self._slots[-1] == len(self._slots) - 1 and all(map(lt, self._slots, self._slots[1:])):
            # every slot in its order, none free: all is in place
            self._ends.insert(0, 0)
            self._cut_ends.insert(0, 0)
            return EntryStore(
                memoryview(self._data).toreadonly(), self._ends, self._cut_ends, _narrow(self._cuts),
                self._layout_numbers, layouts, bytes(self._uuids), self.suffix,
            )  # fmt: skip
        order = list(range(len(self._slots)))
        data, cuts = self._data, self._cuts
        if any(map(gt, self._slots, self._slots[1:])):
            order.sort(key=self._slots.__getitem__)
            data, cuts = bytearray(), array("I")
            for row in order:
                data += self._data[self._ends[row - 1] if row else 0 : self._ends[row]]
                cuts.extend(self._cuts[self._cut_ends[row - 1] if row else 0 : self._cut_ends[row]])
        starts, cut_starts, numbers = array("Q", [0]), array("I", [0]), array("I")
        uuids = bytearray()
        for row in order:
            while len(numbers) < self._slots[row]:  # free slots have no bytes
                starts.append(starts[-1])
                cut_starts.append(cut_starts[-1])
                numbers.append(0)
                uuids += bytes(16)
            starts.append(starts[-1] + self._ends[row] - (self._ends[row - 1] if row else 0))
            cut_starts.append(cut_starts[-1] + self._cut_ends[row] - (self._cut_ends[row - 1] if row else 0))
            numbers.append(self._layout_numbers[row])
            uuids += self._uuids[row * 16 : row * 16 + 16]
        content = memoryview(data).toreadonly()
        return EntryStore(content, starts, cut_starts, _narrow(cuts), numbers, layouts, bytes(uuids), self.suffix)


def _narrow(cuts: array[int]) -> array[int]:
    """In two bytes each, unless an entry is too large for that."""
    return array("H", cuts) if max(cuts, default=0) < 1 << 16 else cuts
