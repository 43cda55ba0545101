"""Prepared searches: a question seen before, asked again with another value, is answered without being decoded again.

Applications ask the same question all day with another name in it. After such a search was answered the usual way it is
*prepared*: its octets before and behind the one assertion value that varies, the index that value is looked up in, the
set of entries that base, scope, viewer and the rest of the filter allow, and the plan of its attributes. The next
message with the same octets around a value of the same length is that search: every length in it is the same, so it can
mean nothing else. For the reading of one entry by its name, what varies is the name in the base. ``Prepared`` belongs
to one immutable snapshot (a viewer's own one, if it may not see everything) and ends with it; nothing is remembered of
answers.

Whatever is out of the ordinary (a value that is not valid for the attribute, many hits, a limit that would be met, a
control) is answered with None: the caller takes the general way, which decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace
from pyroaring import BitMap

from outposts.ldap.ber import ProtocolError, length_of
from outposts.ldap.directory import KIND_SHIFT, RDN, SLOT_MASK, Snapshot
from outposts.ldap.dn import DN, DNError
from outposts.ldap.entries import Kind
from outposts.ldap.evaluation import matches
from outposts.ldap.filters import And, Equality, Filter
from outposts.ldap.index import Index
from outposts.ldap.messages import SearchRequest
from outposts.ldap.rfc import SEQUENCE, Scope, Tag
from outposts.ldap.search import FEW_ENTRIES, Compiled, compiled_for
from outposts.ldap.wire import decode_request

MAX_PREPARED = 64  # questions of one snapshot; an application has a handful. Each holds a set of entries, some 10 KB
MAX_TRIES = 4096  # searches that found no room before all are dropped to make it: old questions go, at little cost
MAX_QUESTION = 2048  # octets; longer questions are rare and are not worth comparing
MAX_SIZE_LIMIT = FEW_ENTRIES  # a client's size limit below this may be met: the general way counts
MAX_FRAMES = 1024  # message outlines of one snapshot; each is some 200 bytes and there is one per length of a value
MAX_HEADS = 8192  # entry headers remembered, 150 bytes each; a directory has one per size of an entry
DONE = b"\x65\x07\x0a\x01\x00\x04\x00\x04\x00"  # SearchResultDone: success, no matchedDN, no text (RFC 4511 §4.5.2)
# The first octets of a message with DONE, by the length of the message id's element (three to six octets).
DONE_HEADS = tuple(bytes((SEQUENCE, size + len(DONE))) for size in range(8))
BOUND = b"\x61\x07\x0a\x01\x00\x04\x00\x04\x00"  # BindResponse: success, as short (RFC 4511 §4.2.2)
PLAIN_NAME = re.compile(rb"[A-Za-z0-9._@-]+").fullmatch  # as it stands in a DN
SEARCH_TAG = int(Tag.SEARCH_REQUEST)
BIND_TAG = int(Tag.BIND_REQUEST)


class Message(NamedTuple):
    """A whole search request without controls, taken apart as far as needed to compare it."""

    message_id: int
    start: int  # of the message id's element in the message
    identifier: bytes  # message id as INTEGER, tag and length included
    question: bytes  # content of the SearchRequest


class Frame(NamedTuple):
    """The outline of a whole message with a prepared search: everything but the digits of its id and the value.

    A message of the same length with the same octets at the same places has every length and tag at the same place, so
    it is that search with another id and another value.
    """

    head: bytes  # up to and with the length of the message id
    start: int  # of the message id's element
    end: int  # of it
    body: bytes  # from there to the value
    value: int  # where the value starts
    stop: int  # where it ends
    tail: bytes  # from there to the end
    prepared: Prepared


class Prepared:
    """One prepared search."""

    __slots__ = (
        "_allowed",
        "_compiled",
        "_index",
        "_named",
        "_normalise",
        "_stores",
        "end",
        "prefix",
        "start",
        "suffix",
    )

    def __init__(
        self,
        snapshot: Snapshot,
        question: bytes,
        start: int,
        end: int,
        index: Index,
        normalise: Callable[[bytes], bytes | None],
        allowed: BitMap,
        compiled: Compiled,
        named: bool = False,
    ) -> None:
        """``named``: the value names the base; what to say where there is no such entry is not decided here."""
        self.prefix = question[:start]
        self.suffix = question[end:]
        self.start = start
        self.end = end
        self._stores = snapshot.stores  # not the snapshot, which keeps this: it would outlive its use
        self._index = index
        self._normalise = normalise
        self._allowed = allowed
        self._compiled = compiled
        self._named = named

    def answer(self, identifier: bytes, value: bytes) -> tuple[bytes, int] | None:
        """All messages of the answer, joined, and the number of entries; None: take the general way."""
        normalised = self._normalise(value)
        if not normalised:
            return None
        place = self._index.place(normalised)
        if place < 0:
            return None if self._named else (DONE_HEADS[len(identifier)] + identifier + DONE, 0)
        numbers = self._index.numbers(place)
        allowed = self._allowed
        stores = self._stores
        compiled = self._compiled
        if len(numbers) == 1 and compiled.everything and (number := numbers[0]) in allowed:
            # What nearly all are: one entry, all of it.
            store = stores[number >> KIND_SHIFT]  # type: ignore[index]
            slot = number & SLOT_MASK
            starts = store.starts
            start, stop = starts[slot], starts[slot + 1]
            suffix = store.suffix
            first, operation = _entry_heads(stop - start + len(suffix), len(identifier))
            ending = DONE_HEADS[len(identifier)]
            return b"".join((first, identifier, operation, store.data[start:stop], suffix, ending, identifier, DONE)), 1
        if len(numbers) > FEW_ENTRIES:
            return None
        done = DONE_HEADS[len(identifier)] + identifier + DONE
        pieces: list[bytes | memoryview] = []
        count = 0
        for number in numbers:
            if number not in allowed:
                continue
            count += 1
            kind = number >> KIND_SHIFT
            slot = number & SLOT_MASK
            store = stores[kind]  # type: ignore[index]
            start = store.starts[slot]
            if compiled.everything:
                suffix = store.suffix
                stop = store.starts[slot + 1]
                size = stop - start + len(suffix)
                operation = b"d" + length_of(size)
                head = b"0" + length_of(len(identifier) + len(operation) + size) + identifier + operation
                pieces += (head, store.data[start:stop], suffix)
                continue
            plan = compiled.plan(kind, store.layout_numbers[slot])
            cuts = store.cuts
            cut = store.cut_starts[slot]
            parts: list[bytes | memoryview] = [
                store.data[start + cuts[cut + low] : start + cuts[cut + high]] for low, high in plan.runs
            ]
            for make in plan.computed:
                parts.append(make(slot))
            parts.append(plan.constant)
            content = sum(map(len, parts))
            opening = b"0" + length_of(content)
            name = store.data[start : start + cuts[cut]]
            size = len(name) + len(opening) + content
            operation = b"d" + length_of(size)
            head = b"0" + length_of(len(identifier) + len(operation) + size) + identifier + operation
            pieces += (head, name, opening, *parts)
        if not count and self._named:
            return None
        pieces.append(done)
        return b"".join(pieces), count


class PreparedSearches:
    """The prepared searches of one snapshot, by the length of the question."""

    __slots__ = ("_by_length", "_count", "_frame_count", "_frames", "_tries")

    def __init__(self) -> None:
        self._by_length: dict[int, list[Prepared]] = {}
        self._frames: dict[int, list[Frame]] = {}  # by the length of the whole message
        self._frame_count = 0
        self._count = 0
        self._tries = 0

    def __len__(self) -> int:
        return self._count

    def reply(self, data: bytes) -> tuple[bytes, int] | None:
        """The answer to a whole message, a question that was prepared, and the number of entries in it; or None."""
        for head, start, end, body, value, stop, tail, prepared in self._frames.get(len(data), ()):
            if (
                data.startswith(body, end)
                and data.startswith(head)
                and data.endswith(tail)
                and 0 < data[start + 2] < 128
            ):
                return prepared.answer(data[start:end], data[value:stop])
        message = split(data)
        if message is None or message.message_id == 0:
            return None
        prepared_one = self._find(message.question)
        if prepared_one is None:
            return None
        self._outline(data, message, prepared_one)
        return prepared_one.answer(message.identifier, message.question[prepared_one.start : prepared_one.end])

    def _find(self, question: bytes) -> Prepared | None:
        for prepared in self._by_length.get(len(question), ()):
            if question.startswith(prepared.prefix) and question.endswith(prepared.suffix):
                return prepared
        return None

    def _outline(self, data: bytes, message: Message, prepared: Prepared) -> None:
        """Remember what messages with this search look like."""
        if self._frame_count >= MAX_FRAMES:
            self._frames.clear()
            self._frame_count = 0
        begin = len(data) - len(message.question)
        start, end = message.start, message.start + len(message.identifier)
        value, stop = begin + prepared.start, begin + prepared.end
        frame = Frame(data[: start + 2], start, end, data[end:value], value, stop, data[stop:], prepared)
        self._frames.setdefault(len(data), []).append(frame)
        self._frame_count += 1

    def prepare(self, snapshot: Snapshot, request: SearchRequest) -> None:
        """Remember a search that was answered successfully from ``snapshot``, if it is of a kind that pays."""
        if self._count >= MAX_PREPARED:
            self._tries += 1
            if self._tries < MAX_TRIES:
                return
            self._by_length.clear()
            self._frames.clear()
            self._frame_count = self._count = self._tries = 0
        prepared = prepare(snapshot, request)
        if prepared is not None:
            self._by_length.setdefault(len(request.raw), []).append(prepared)
            self._count += 1


_heads: dict[int, tuple[bytes, bytes]] = {}


def _entry_heads(size: int, id_size: int) -> tuple[bytes, bytes]:
    """What stands before and behind the id of a SearchResultEntry; ``size``: bytes of its name and attributes."""
    key = size << 3 | id_size
    known = _heads.get(key)
    if known is None:
        if len(_heads) >= MAX_HEADS:
            _heads.clear()
        operation = b"d" + length_of(size)
        known = _heads[key] = b"0" + length_of(id_size + len(operation) + size), operation
    return known


def prepared_of(snapshot: Snapshot) -> PreparedSearches:
    """The prepared searches of a snapshot; they live as long as it."""
    known = snapshot.prepared
    if isinstance(known, PreparedSearches):
        return known
    made = snapshot.prepared = PreparedSearches()
    return made


def split(data: bytes) -> Message | None:
    """One whole LDAPMessage with a search and without controls, in the usual encoding; None for everything else."""
    size = len(data)
    if size < 16 or size > MAX_QUESTION or data[0] != SEQUENCE:
        return None
    at = _content(data, 1, size)
    if at == 0 or data[at] != 0x02:
        return None
    length = data[at + 1]
    behind = at + 2 + length
    if not 0 < length <= 4 or behind + 2 > size:
        return None
    first = data[at + 2]
    if first > 0x7F or (first == 0 and length > 1 and data[at + 3] < 0x80) or data[behind] != SEARCH_TAG:
        return None
    begin = _content(data, behind + 1, size)
    if begin == 0:
        return None
    return Message(int.from_bytes(data[at + 2 : behind], "big"), at, data[at:behind], data[begin:])


def whole_bind(data: bytes) -> tuple[int, int]:
    """Where the id's element and the BindRequest stand in one whole LDAPMessage without controls; (0, 0) if it is none.

    The request reaches to the end of ``data``, as far as the lengths say.
    """
    size = len(data)
    if size < 14 or size > MAX_QUESTION or data[0] != SEQUENCE:
        return 0, 0
    at = _content(data, 1, size)
    if at == 0 or data[at] != 0x02:
        return 0, 0
    length = data[at + 1]
    behind = at + 2 + length
    if not 0 < length <= 4 or behind + 2 > size or not 0 < data[at + 2] < 0x80 or data[behind] != BIND_TAG:
        return 0, 0
    return (at, behind) if _content(data, behind + 1, size) else (0, 0)


def bind_success(identifier: bytes) -> bytes:
    """BindResponse: success, nothing else (RFC 4511 §4.2.2); ``identifier``: the element of the message id."""
    return DONE_HEADS[len(identifier)] + identifier + BOUND


def _content(data: bytes, at: int, size: int) -> int:
    """Where content begins that reaches exactly to ``size``, its length standing at ``at``; 0 if it does not."""
    first = data[at]
    if first < 0x80:
        begin, length = at + 1, first
    elif first == 0x81 and at + 1 < size:
        begin, length = at + 2, data[at + 1]
    elif first == 0x82 and at + 2 < size:
        begin, length = at + 3, data[at + 1] << 8 | data[at + 2]
    else:
        return 0
    return begin if begin + length == size else 0


def prepare(snapshot: Snapshot, request: SearchRequest) -> Prepared | None:
    """Take a search apart around the value that is most likely to vary; None if it has no such value.

    That is the assertion of the only filter, or of one branch of an ``and``, on an indexed attribute: of several the
    one with the fewest hits.
    """
    question = request.raw
    if request.controls or len(question) > MAX_QUESTION:
        return None
    try:
        base = DN.parse(request.base)
    except DNError:
        return None
    if request.scope == Scope.BASE:
        return prepare_read(snapshot, request, base)
    if 0 < request.size_limit < MAX_SIZE_LIMIT:
        return None
    scope = snapshot.below(base, request.scope) if base.rdns else None
    if scope is None:
        return None
    branches: tuple[Filter, ...] = (
        tuple(request.filter.children) if isinstance(request.filter, And) else (request.filter,)
    )
    candidates = []
    for number, branch in enumerate(branches):
        if not isinstance(branch, Equality):
            continue
        found = snapshot.resolved.get(branch.attribute) or snapshot.resolve(branch.attribute)
        if found is None or found.values is None or found.canonical == "objectclass":
            continue
        normalised = found.syntax.normalise(branch.value)
        if not normalised:
            continue
        candidates.append((len(found.values.equal(normalised)), number, found.values, found.syntax.normalise))
    if not candidates:
        return None
    hits, chosen, index, normalise = min(candidates, key=lambda candidate: candidate[:2])
    if hits > FEW_ENTRIES:
        return None
    variable = branches[chosen]
    assert isinstance(variable, Equality)
    place = _place(request, branches, chosen, variable)
    if place is None:
        return None
    others = branches[:chosen] + branches[chosen + 1 :]
    allowed = scope & matches(snapshot, And(others)) if others else scope
    compiled = compiled_for(snapshot, request.attributes, request.types_only)
    return Prepared(snapshot, question, *place, index, normalise, allowed, compiled)


def prepare_read(snapshot: Snapshot, request: SearchRequest, base: DN) -> Prepared | None:
    """The same for the reading of one user or group: the value that varies is the one that names it.

    Only for names without anything to escape or to fold but letter case, which is nearly all of them.
    """
    number = snapshot.number_of(base)
    kind = number >> KIND_SHIFT
    name = request.base.partition(b"=")[2].partition(b",")[0]
    if number < 0 or kind == Kind.FIXED or not PLAIN_NAME(name):
        return None
    question = request.raw
    begin = question.find(request.base, 2, len(request.base) + 6)  # behind its tag and length
    if begin < 0:
        return None
    start = begin + request.base.index(b"=") + 1
    allowed = snapshot.kinds[Kind(kind)] & matches(snapshot, request.filter)
    compiled = compiled_for(snapshot, request.attributes, request.types_only)
    index = snapshot.hidden[RDN]
    return Prepared(snapshot, question, start, start + len(name), index, _plain_name, allowed, compiled, named=True)


def _plain_name(value: bytes) -> bytes | None:
    """How such a name is compared; None for another one."""
    return value.lower() if PLAIN_NAME(value) else None


def _place(
    request: SearchRequest, branches: tuple[Filter, ...], chosen: int, variable: Equality
) -> tuple[int, int] | None:
    """Where the value of a branch stands in the question; proven by decoding the question with another value there."""
    value = variable.value
    probe = bytes(octet ^ 0x01 for octet in value)
    wanted: Filter = replace(variable, value=probe)
    if isinstance(request.filter, And):
        wanted = And((*branches[:chosen], wanted, *branches[chosen + 1 :]))
    expected = replace(request, filter=wanted)
    question = request.raw
    start = question.find(value)
    while start >= 0:
        changed = question[:start] + probe + question[start + len(value) :]
        try:
            decoded = decode_request(_message(request.message_id, changed))
        except ProtocolError:
            decoded = None
        if decoded == expected:
            return start, start + len(value)
        start = question.find(value, start + 1)
    return None


def _message(message_id: int, question: bytes) -> bytes:
    identifier = message_id.to_bytes(message_id.bit_length() // 8 + 1, "big")
    operation = bytes((SEARCH_TAG,)) + length_of(len(question)) + question
    content = b"\x02" + length_of(len(identifier)) + identifier + operation
    return b"0" + length_of(len(content)) + content
