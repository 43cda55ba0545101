"""Search: snapshot + request + viewer → encoded entries and a result code (RFC 4511 §4.5).

Cached and direct search end in the same ``run``: direct search first builds a small snapshot from what the core
answers (``direct.py``). What a viewer may not see is not in the snapshot that its filter is evaluated on, so neither
matches nor counts nor limits tell about it.
"""

from __future__ import annotations

import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

from pyroaring import BitMap

from outposts.ldap.ber import encode_integer, encode_octets, length_of, tlv
from outposts.ldap.directory import KIND_SHIFT, OPERATIONAL, SLOT_MASK, Snapshot
from outposts.ldap.dn import DN, DNError
from outposts.ldap.encoded import Plan, Prefixes, attribute
from outposts.ldap.entries import Kind
from outposts.ldap.evaluation import matches
from outposts.ldap.filters import And, Equality, Filter, Not, Or, Present, attribute_description
from outposts.ldap.messages import Control, SearchRequest
from outposts.ldap.rfc import SEQUENCE, SET, ResultCode, Scope
from outposts.ldap.schema import Attributes, RootInfo, Schema, root_dse, subschema

SUBSCHEMA = DN.parse("cn=subschema")
_SUBSCHEMA_KEY = SUBSCHEMA.key
# Attribute selections and plans remembered: clients ask for a handful of lists; worst case about 2 MB.
SELECTIONS_KEPT = 1024
PLANS_KEPT = 64  # per snapshot; a plan holds a few hundred bytes per layout
# Entries between two looks at the clock, and put in hand at once: a few milliseconds at most.
ENTRIES_PER_TIME_CHECK = 2048
# Up to here entries are encoded at once instead of chunk by chunk.
FEW_ENTRIES = 16
MAX_REMEMBERED_LIST = 2048  # bytes of an attribute list; longer ones are taken apart each time


@dataclass(frozen=True)
class Viewer:
    """Who searches: the user's pk and whether it may see everything."""

    user_pk: int
    full: bool


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """``chunks``: SearchResultEntry messages, joined into byte strings of about 64 KiB, made as they are asked for.

    ``code`` and ``matched`` (DN, UTF-8) belong into the SearchResultDone that follows; ``count`` entries are in
    ``chunks``. The time limit can end ``chunks`` early: ``final_code`` tells after the last chunk.
    """

    code: int
    chunks: Iterator[bytes]
    count: int
    matched: bytes = b""
    diagnostic: str = ""
    late: list[int] | None = None
    controls: tuple[Control, ...] = ()  # of the SearchResultDone
    cause: Exception | None = None  # for the log, never for the peer

    @property
    def final_code(self) -> int:
        """The code, once ``chunks`` is used up."""
        return self.late[0] if self.late else self.code


@dataclass(frozen=True)
class Selection:
    """Which attributes a request asks for (RFC 4511 §4.5.1.8, RFC 3673, RFC 4529)."""

    all_user: bool
    all_operational: bool
    names: frozenset[str]  # lower case as asked; canonical names are up to the schema
    classes: frozenset[str]  # RFC 4529: object classes whose attributes are asked for

    @property
    def everything(self) -> bool:
        """All user attributes and nothing that has to be computed."""
        return self.all_user and not self.all_operational and not self.names and not self.classes


@lru_cache(SELECTIONS_KEPT)
def selection(attributes: tuple[bytes, ...]) -> Selection:
    """Parse an attribute list. ``cn,mail`` in one string counts as two; what is no attribute description is ignored."""
    parts = [part.strip() for item in attributes for part in (item.split(b",") if b"," in item else (item,))]
    parts = [part for part in parts if part]
    if not parts:
        return Selection(True, False, frozenset(), frozenset())
    names, classes = set(), set()
    for part in parts:
        if part in (b"*", b"+", b"1.1"):
            continue
        if part.startswith(b"@"):
            classes.add(part[1:].decode("utf-8", "replace").lower())
            continue
        name = attribute_description(part)
        if name is not None:
            names.add(name)
    return Selection(b"*" in parts, b"+" in parts, frozenset(names), frozenset(classes))


def run(
    snapshot: Snapshot | None,
    request: SearchRequest,
    viewer: Viewer | None,
    *,
    info: RootInfo | None = None,
    strict: bool = False,
    size_limit: int = 0,
    out_of_time: Callable[[], bool] | None = None,
) -> SearchAnswer:
    """Answer one search.

    ``snapshot`` None: no provider serves this request, only the bare root DSE is known. ``viewer`` None: nobody is
    bound; everything below the base answers 50. ``strict``: an unknown base is noSuchObject (32) instead of an empty
    success. ``size_limit``: the server's own, 0 = none; exceeding it is adminLimitExceeded (11), the client's is 4.
    ``out_of_time`` is asked every few thousand entries; true ends the answer with timeLimitExceeded (3).
    """
    place = locate(snapshot, request, viewer, info=info, strict=strict)
    if isinstance(place, SearchAnswer):
        return place
    found = matches(place.snapshot, request.filter) & place.scope
    return _answer(place.snapshot, request, found, size_limit, out_of_time)


class Located(NamedTuple):
    """Where a search looks: what its viewer sees, the base, and the entries in scope."""

    snapshot: Snapshot
    base: DN
    scope: BitMap


def locate(
    snapshot: Snapshot | None, request: SearchRequest, viewer: Viewer | None, *, info: RootInfo | None, strict: bool
) -> Located | SearchAnswer:
    """The first half of ``run``: base and scope. Root DSE, schema and refusals are answers already."""
    try:
        base = DN.parse(request.base)
    except DNError:
        return _refused(ResultCode.INVALID_DN_SYNTAX, "search base is not a distinguished name")
    if not base.rdns:
        return _root(snapshot, request, info)
    if base.key == _SUBSCHEMA_KEY:
        return _subschema(snapshot, request)
    if viewer is None:
        return _refused(ResultCode.INSUFFICIENT_ACCESS_RIGHTS, "bind first")
    if snapshot is None:
        return _unknown_base(None, base, strict)
    seen = snapshot if viewer.full else snapshot.view(viewer.user_pk)
    scope = seen.below(base, request.scope)
    if scope is None:
        return _unknown_base(seen, base, strict)
    return Located(seen, base, scope)


def _refused(code: int, diagnostic: str = "", matched: bytes = b"") -> SearchAnswer:
    return SearchAnswer(code, iter(()), 0, matched, diagnostic)


def _unknown_base(snapshot: Snapshot | None, base: DN, strict: bool) -> SearchAnswer:
    """0 and nothing, or in strict mode 32 with the nearest entry above (RFC 4511 §4.1.9 matchedDN)."""
    if not strict:
        return SearchAnswer(ResultCode.SUCCESS, iter(()), 0)
    matched = b""
    name = base.parent
    while snapshot is not None and name is not None and name.rdns:
        number = snapshot.number_of(name)
        if number >= 0:
            matched = snapshot.dn(number)
            break
        name = name.parent
    return _refused(ResultCode.NO_SUCH_OBJECT, matched=matched)


def _answer(
    snapshot: Snapshot, request: SearchRequest, found: BitMap, size_limit: int, out_of_time: Callable[[], bool] | None
) -> SearchAnswer:
    count = len(found)
    code = ResultCode.SUCCESS
    limit = request.size_limit
    if limit and count > limit and (not size_limit or limit <= size_limit):
        code, count = ResultCode.SIZE_LIMIT_EXCEEDED, limit
    elif size_limit and count > size_limit:
        code, count = ResultCode.ADMIN_LIMIT_EXCEEDED, size_limit
    if not count:
        return SearchAnswer(code, iter(()), 0)
    if count <= FEW_ENTRIES:
        few = list(found) if len(found) == count else found.to_array()[:count]
        return SearchAnswer(code, iter((encode_few(snapshot, request, few),)), count)
    numbers: Sequence[int] = found.to_array()[:count]
    late: list[int] | None = None if out_of_time is None else []
    return SearchAnswer(code, encode_entries(snapshot, request, numbers, out_of_time, late), count, late=late)


def encode_entries(
    snapshot: Snapshot,
    request: SearchRequest,
    numbers: Sequence[int],
    out_of_time: Callable[[], bool] | None = None,
    late: list[int] | None = None,
) -> Iterator[bytes]:
    """Chunks of SearchResultEntry messages of these entries (ascending numbers)."""
    compiled = compiled_for(snapshot, request.attributes, request.types_only)
    prefixes = Prefixes(request.message_id)
    begin = 0
    total = len(numbers)
    while begin < total:
        kind = Kind(numbers[begin] >> KIND_SHIFT)
        end = total if numbers[-1] >> KIND_SHIFT == kind else bisect_left(numbers, (kind + 1) << KIND_SHIFT, begin)
        store = snapshot.stores[kind]
        first, last = numbers[begin] & SLOT_MASK, numbers[end - 1] & SLOT_MASK
        whole_range = last - first == end - begin - 1
        for at in range(begin, end, ENTRIES_PER_TIME_CHECK):
            if out_of_time is not None and out_of_time():
                if late is not None:
                    late.append(ResultCode.TIME_LIMIT_EXCEEDED)
                return
            stop = min(at + ENTRIES_PER_TIME_CHECK, end)
            part: Sequence[int]
            if whole_range:
                part = range(first + at - begin, first + stop - begin)
            else:
                part = [number & SLOT_MASK for number in numbers[at:stop]]
            if compiled.everything:
                yield from store.whole(part, prefixes)
            else:
                yield from store.selected(part, prefixes, partial(compiled.plan, kind))
        begin = end


def encode_few(snapshot: Snapshot, request: SearchRequest, numbers: Sequence[int]) -> bytes:
    """The same for a handful of entries in any order, without the machinery that only pays for many."""
    compiled = compiled_for(snapshot, request.attributes, request.types_only)
    identifier = encode_integer(request.message_id)
    pieces: list[bytes | memoryview] = []
    stores = snapshot.stores
    for number in numbers:
        slot = number & SLOT_MASK
        kind = number >> KIND_SHIFT
        store = stores[kind]  # type: ignore[index]
        start = store.starts[slot]
        if compiled.everything:
            body = store.data[start : store.starts[slot + 1]]
            size = len(body) + len(store.suffix)
            parts = [body, store.suffix]
        else:
            plan = compiled.plan(kind, store.layout_numbers[slot])
            cuts = store.cuts
            cut = store.cut_starts[slot]
            parts = [store.data[start + cuts[cut + low] : start + cuts[cut + high]] for low, high in plan.runs]
            for make in plan.computed:
                parts.append(make(slot))
            parts.append(plan.constant)
            content = sum(map(len, parts))
            opening = b"0" + length_of(content)
            parts[:0] = (store.data[start : start + cuts[cut]], opening)
            size = cuts[cut] + len(opening) + content
        operation = b"d" + length_of(size)
        pieces.append(b"0" + length_of(len(identifier) + len(operation) + size) + identifier + operation)
        pieces += parts
    return b"".join(pieces)


class Compiled:
    """An attribute list on one snapshot: what is chosen, and the plan of each layout as far as it was needed."""

    __slots__ = ("_plans", "_snapshot", "_types_only", "chosen", "everything")

    def __init__(self, snapshot: Snapshot, chosen: Selection, types_only: bool) -> None:
        self._snapshot = weakref.proxy(snapshot)  # which keeps this: a circle would outlive its use by minutes
        self._types_only = types_only
        self._plans: dict[int, Plan] = {}
        self.chosen = chosen
        self.everything = chosen.everything and not types_only

    def plan(self, kind: int, layout: int) -> Plan:
        """The plan for entries of this kind and layout."""
        key = layout << 2 | kind
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = _plan(self._snapshot, Kind(kind), layout, self.chosen, self._types_only)
        return plan


def compiled_for(snapshot: Snapshot, attributes: tuple[bytes, ...], types_only: bool) -> Compiled:
    """An attribute list on a snapshot: from the snapshot's memory, or new."""
    compiled = snapshot.compiled.get((attributes, types_only))
    if not isinstance(compiled, Compiled):
        compiled = Compiled(snapshot, selection(attributes), types_only)
        if len(snapshot.compiled) >= PLANS_KEPT:
            snapshot.compiled.clear()
        if sum(map(len, attributes)) <= MAX_REMEMBERED_LIST:
            snapshot.compiled[attributes, types_only] = compiled
    return compiled


def wanted_names(schema: Schema, chosen: Selection) -> set[str]:
    """Canonical names asked for one by one. A name with options finds nothing: no value here has any."""
    names = set()
    for name in chosen.names:
        canonical = schema.canonical(name)
        if canonical is not None:
            names.add(canonical)
    for name in chosen.classes:
        names.update(schema.class_attributes(name) or ())
    return names


def _plan(snapshot: Snapshot, kind: Kind, layout: int, chosen: Selection, types_only: bool) -> Plan:
    store = snapshot.stores[kind]
    names = wanted_names(snapshot.schema, chosen)
    shown = store.layouts[layout]
    places = [place for place, name in enumerate(snapshot.layouts[kind][layout]) if chosen.all_user or name in names]
    class_too = bool(store.suffix) and (chosen.all_user or "objectclass" in names)
    operational = [name for name in OPERATIONAL if chosen.all_operational or name in names]
    if types_only:
        titles = [shown[place] for place in places] + (["objectClass"] if class_too else [])
        titles += [OPERATIONAL[name] for name in operational]
        return Plan((), b"".join(_type_only(title) for title in titles))
    runs: list[tuple[int, int]] = []
    for place in places:
        if runs and runs[-1][1] == place + 1:
            runs[-1] = (runs[-1][0], place + 2)
        else:
            runs.append((place + 1, place + 2))

    constant = store.suffix if class_too else b""
    if kind != Kind.FIXED:
        same = [name for name in operational if name not in ("entryuuid", "entrydn")]
        constant += b"".join(snapshot.operational(kind, 0, name) for name in same)
        operational = [name for name in operational if name not in same]

    def maker(name: str) -> Callable[[int], bytes]:
        return lambda slot: snapshot.operational(kind, slot, name)

    return Plan(tuple(runs), constant, tuple(maker(name) for name in operational))


def _type_only(name: str) -> bytes:
    return tlv(SEQUENCE, encode_octets(name.encode()) + tlv(SET, b""))


# Root DSE and subschema: single entries outside the directory


def _root(snapshot: Snapshot | None, request: SearchRequest, info: RootInfo | None) -> SearchAnswer:
    if request.scope not in (Scope.BASE, Scope.SUB):
        return SearchAnswer(ResultCode.SUCCESS, iter(()), 0)
    base = None if snapshot is None else snapshot.options.base_dn
    user, operational = root_dse(base, info or RootInfo(""))
    # Clients of the original outpost get these with "*"; RFC 4512 §5.1 calls most of them operational: "+" shows all.
    return _single(b"", user, [*[row for row in user if row[0] != "objectClass"], *operational], request)


def _subschema(snapshot: Snapshot | None, request: SearchRequest) -> SearchAnswer:
    if request.scope not in (Scope.BASE, Scope.SUB):
        return SearchAnswer(ResultCode.SUCCESS, iter(()), 0)
    rows = subschema(snapshot.schema if snapshot is not None else Schema())
    return _single(b"cn=subschema", rows, [("subschemaSubentry", ("cn=subschema",))], request)


def _single(dn: bytes, user: Attributes, operational: Attributes, request: SearchRequest) -> SearchAnswer:
    if not matches_single(dict(user) | dict(operational), request.filter):
        return SearchAnswer(ResultCode.SUCCESS, iter(()), 0)
    chosen = selection(request.attributes)
    names = wanted_names(Schema(), chosen)
    shown: dict[str, tuple[str, ...]] = {}
    for name, values in user:
        if chosen.all_user or name.lower() in names:
            shown[name] = values
    for name, values in operational:
        if chosen.all_operational or name.lower() in names:
            shown[name] = values
    parts = [_type_only(name) if request.types_only else attribute(name, values) for name, values in shown.items()]
    content = encode_octets(dn) + tlv(SEQUENCE, b"".join(parts))
    message = Prefixes(request.message_id)[len(content)] + content
    return SearchAnswer(ResultCode.SUCCESS, iter((message,)), 1)


def matches_single(attributes: dict[str, tuple[str, ...]], node: Filter) -> bool:
    """A filter on one entry outside the directory (root DSE, subschema), which has no index: values are compared."""
    return _truth(attributes, node) is True


def _truth(attributes: dict[str, tuple[str, ...]], node: Filter) -> bool | None:
    """Three-valued; presence and equality are all that clients use here, the rest is Undefined."""
    if isinstance(node, And):
        results = [_truth(attributes, child) for child in node.children]
        return False if False in results else None if None in results else True
    if isinstance(node, Or):
        results = [_truth(attributes, child) for child in node.children]
        return True if True in results else None if None in results else False
    if isinstance(node, Not):
        result = _truth(attributes, node.child)
        return None if result is None else not result
    if not isinstance(node, Present | Equality):
        return None
    schema = _BASE_SCHEMA
    canonical = schema.canonical(node.attribute)
    if canonical is None:
        return None
    values = [value for name, found in attributes.items() if schema.canonical(name) == canonical for value in found]
    if isinstance(node, Present):
        return bool(values)
    normalise = schema.syntax(canonical).normalise
    wanted = normalise(node.value)
    return None if wanted is None else wanted in [normalise(value.encode()) for value in values]


_BASE_SCHEMA = Schema()
__all__ = [
    "Located",
    "SearchAnswer",
    "Selection",
    "Viewer",
    "encode_entries",
    "encode_few",
    "locate",
    "run",
    "selection",
]
