"""Searches with controls: assertion, subentries, sorting, pages, list views and matched values around one evaluation.

``run`` is a generator of small steps, because sorting a large result, or looking at every value of a large index, takes
longer than the loop may be held; its return value is the answer. ``search.run`` stays the short way of all others.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import islice

import msgspec
from pyroaring import BitMap

from outposts.ldap import assertion, filters, heavy, matched_values, paging, sorting, vlv
from outposts.ldap.contents import KIND_SHIFT, SLOT_MASK
from outposts.ldap.controls import Controls
from outposts.ldap.directory import Snapshot
from outposts.ldap.entries import Kind
from outposts.ldap.evaluation import matches
from outposts.ldap.messages import Control, SearchRequest
from outposts.ldap.paging import CookieError, Cookies, Position
from outposts.ldap.rfc import NO_ATTRIBUTES, ControlOid, ResultCode, Scope
from outposts.ldap.schema import RootInfo, Schema
from outposts.ldap.search import Located, SearchAnswer, Viewer, encode_entries, encode_few, locate
from outposts.ldap.sorting import Key, SortError

STEP_ENTRIES = 16
"""Entries encoded between two looks at the clock where order or values make each one work of its own."""

CHUNK_SIZE = 64 * 1024
"""Bytes handed out at a time, as in ``encoded``."""

Steps = Generator[None, None, SearchAnswer]


def applies(controls: Controls) -> bool:
    """Whether a request needs more than ``search.run``."""
    return not (
        controls.paged is None
        and controls.sort is None
        and controls.view is None
        and controls.matched_values is None
        and controls.assertion is None
        and controls.subentries is not True
    )


def query_digest(request: SearchRequest, controls: Controls, context: bytes) -> bytes:
    """What makes two requests the same search: everything but message id, page size, cookie and list view.

    ``context`` tells provider, viewer and options apart.
    """
    digest = blake2b(context, digest_size=16)
    raw = request.raw or b"\x00".join(
        (
            request.base,
            b"%d %d %d %d" % (request.scope, request.size_limit, request.time_limit, request.types_only),
            filters.encode(request.filter),
            *request.attributes,
        )
    )
    for part in (raw, repr((controls.sort, controls.matched_values, controls.assertion)).encode()):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def run(
    snapshot: Snapshot | None,
    request: SearchRequest,
    viewer: Viewer | None,
    controls: Controls,
    cookies: Cookies,
    *,
    context: bytes,
    stable: bool,
    info: RootInfo | None = None,
    strict: bool = False,
    size_limit: int = 0,
    out_of_time: Callable[[], bool] | None = None,
) -> Steps:
    """Answer one search. Arguments as for ``search.run``, and:

    ``stable``: entries keep their numbers from this snapshot to the one that replaces it, so pages may follow numbers;
    otherwise they follow names. ``size_limit`` counts per page.
    """
    if controls.view is not None and controls.paged is not None:
        return _refused(ResultCode.UNWILLING_TO_PERFORM, "list views and pages do not go together")
    place = locate(snapshot, request, viewer, info=info, strict=strict)
    if isinstance(place, SearchAnswer):
        if controls.assertion is not None and place.code == ResultCode.SUCCESS:
            # An entry outside the directory is not indexed: its search with the assertion as filter finds it or not.
            asked = msgspec.structs.replace(request, filter=controls.assertion, scope=Scope.BASE)
            asserted = locate(snapshot, asked, viewer, info=info, strict=strict)
            if not (isinstance(asserted, SearchAnswer) and asserted.count):
                return _refused(ResultCode.ASSERTION_FAILED)
        return _single(place, controls)
    assert viewer is not None
    if controls.assertion is not None:
        if place.snapshot.number_of(place.base) < 0:
            return _refused(ResultCode.NO_SUCH_OBJECT, "nothing there that the assertion could hold for")
        if not assertion.holds(place.snapshot, place.base, controls.assertion):
            return _refused(ResultCode.ASSERTION_FAILED)
    yield from heavy.work(place.snapshot, request.filter)
    job = _Job(place, request, controls, cookies, context, stable and viewer.full, size_limit, out_of_time)
    return (yield from job.run())


class _Job:
    """One search in work."""

    def __init__(
        self, place: Located, request: SearchRequest, controls: Controls, cookies: Cookies, context: bytes,
        stable: bool, size_limit: int, out_of_time: Callable[[], bool] | None,
    ) -> None:  # fmt: skip
        self._snapshot = place.snapshot
        self._scope = place.scope
        self._request = request
        self._controls = controls
        self._cookies = cookies
        self._stable = stable
        self._size_limit = size_limit
        self._out_of_time = out_of_time
        self._query = query_digest(request, controls, context)
        self._answers: list[Control] = []

    def run(self) -> Steps:
        snapshot, controls = self._snapshot, self._controls
        keys: tuple[Key, ...] = ()
        position: Position | None = None
        if controls.paged is not None and controls.paged.cookie:
            try:
                position = self._cookies.read(self._query, controls.paged.cookie)
            except CookieError as error:
                return self._refused(ResultCode.UNWILLING_TO_PERFORM, str(error))
            if not self._still_numbered(position):
                return self._refused(ResultCode.UNWILLING_TO_PERFORM, "the directory was built anew, start again")
            keys = position.keys  # as they were for the first page, whatever attributes there are by now
        if controls.sort is not None and keys:
            self._answer_sort(ResultCode.SUCCESS)
        elif controls.sort is not None:
            try:
                keys = sorting.resolve(snapshot, controls.sort)
            except SortError as error:
                self._answer_sort(error.code, error.attribute)
                if controls.view is not None:
                    return self._view_error(error.code)
                if "sort" in controls.critical:
                    return self._refused(ResultCode.UNAVAILABLE_CRITICAL_EXTENSION, "cannot sort by these keys")
            else:
                if position is not None:
                    keys = ()  # the listing began without order
                self._answer_sort(ResultCode.SUCCESS if keys else ResultCode.OTHER)
        if controls.view is not None and controls.sort is None:
            return self._view_error(ResultCode.SORT_CONTROL_MISSING)
        found = matches(snapshot, self._request.filter) & self._scope
        if controls.subentries is True:
            found = BitMap()
        if controls.paged is not None:
            return (yield from self._page(found, keys, controls.paged, position))
        if not keys:
            return self._whole(found)
        numbers = yield from self._sorted(found, keys)
        if numbers is None:
            return self._refused(ResultCode.TIME_LIMIT_EXCEEDED)
        if controls.view is not None:
            return self._window(numbers, keys[0], controls.view)
        code, count = self._limited(len(numbers), self._request.size_limit)
        return self._entries(code, numbers[:count])

    # -- results in one piece ----------------------------------------------------------------------------------------

    def _whole(self, found: BitMap) -> SearchAnswer:
        code, count = self._limited(len(found), self._request.size_limit)
        return self._entries(code, found.to_array()[:count])

    def _limited(self, count: int, limit: int) -> tuple[int, int]:
        """Code and number of entries of a result with ``count`` of them: the client's limit is 4, the server's 11."""
        own = self._size_limit
        if limit and count > limit and (not own or limit <= own):
            return ResultCode.SIZE_LIMIT_EXCEEDED, limit
        if own and count > own:
            return ResultCode.ADMIN_LIMIT_EXCEEDED, own
        return ResultCode.SUCCESS, count

    def _sorted(self, found: BitMap, keys: Sequence[Key]) -> Generator[None, None, Sequence[int] | None]:
        """Entry numbers in order; None when time ran out."""
        query = blake2b(repr(keys).encode(), key=self._query, digest_size=16).digest()
        steps = sorting.remembered(self._snapshot, query, found, keys)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                numbers: Sequence[int] = done.value
                return numbers
            if self._out_of_time is not None and self._out_of_time():
                return None
            yield

    # -- pages -------------------------------------------------------------------------------------------------------

    def _page(
        self, found: BitMap, keys: tuple[Key, ...], paged: paging.PagedRequest, position: Position | None
    ) -> Steps:
        total = len(found)
        sorted_by = keys
        if paged.size == 0:
            # With a cookie the client gives up the listing, without one it wants the count.
            self._answer_page(total, b"")
            return self._entries(ResultCode.SUCCESS, ())
        sent = position.sent if position is not None else 0
        limit = self._request.size_limit
        wanted = min(paged.size, self._size_limit) if self._size_limit else paged.size
        if limit:
            wanted = min(wanted, max(0, limit - sent))
        if not self._stable:
            keys = (*keys, sorting.BY_NAME)
        if keys:
            order = yield from self._sorted(found, keys)
            if order is None:
                self._answer_page(total, b"")
                return self._refused(ResultCode.TIME_LIMIT_EXCEEDED)
            start = 0 if position is None else self._start(order, keys, position)
            page: Sequence[int] = order[start : start + wanted]
            more = start + len(page) < len(order)
        else:
            first = 0 if position is None else position.number + 1
            page = list(islice(found.iter_equal_or_larger(first), wanted))
            more = bool(page) and page[-1] != found.max()
        sent += len(page)
        if more and limit and sent >= limit:
            self._answer_page(total, b"")
            return self._entries(ResultCode.SIZE_LIMIT_EXCEEDED, page)
        cookie = b""
        if more:
            values = sorting.values_of(self._snapshot, page[-1], keys)
            cookie = self._cookies.write(self._query, Position(page[-1], self._uuid(page[-1]), sorted_by, values, sent))
        self._answer_page(total, cookie)
        return self._entries(ResultCode.SUCCESS, page)

    def _start(self, order: Sequence[int], keys: Sequence[Key], position: Position) -> int:
        """Index of the first entry behind ``position``, whether that entry is still there and the same or not."""
        last = self._tie(position.number)

        def behind(index: int) -> bool:
            number = order[index]
            side = sorting.compare(sorting.values_of(self._snapshot, number, keys), position.values, keys)
            return side > 0 or (side == 0 and self._tie(number) > last)

        return vlv.first_position(len(order), behind) - 1

    def _tie(self, number: int) -> int:
        """What decides between entries with equal keys: the number, or the kind where numbers do not last."""
        return number if self._stable or number >> KIND_SHIFT == Kind.FIXED else number >> KIND_SHIFT << KIND_SHIFT

    def _still_numbered(self, position: Position) -> bool:
        """Whether the last entry that was sent has its number still, or is gone."""
        if not self._stable or position.number >> KIND_SHIFT == Kind.FIXED:
            return True
        kind, slot = Kind(position.number >> KIND_SHIFT), position.number & SLOT_MASK
        store = self._snapshot.stores[kind]
        if slot < len(store) and self._uuid(position.number) == position.uuid:
            return True
        uuids = bytes(store.uuids)
        at = uuids.find(position.uuid)
        while at >= 0 and at % 16:
            at = uuids.find(position.uuid, at + 1)
        return at < 0 or (kind << KIND_SHIFT | at // 16) not in self._snapshot.all

    def _uuid(self, number: int) -> bytes:
        slot = number & SLOT_MASK
        return bytes(self._snapshot.stores[Kind(number >> KIND_SHIFT)].uuids[slot * 16 : slot * 16 + 16])

    # -- list views --------------------------------------------------------------------------------------------------

    def _window(self, numbers: Sequence[int], key: Key, view: vlv.ListView) -> SearchAnswer:
        total = len(numbers)
        target: int | None
        if view.value is None:
            target = vlv.target_by_offset(view, total)
            if target is None:
                return self._view_error(ResultCode.OFFSET_RANGE_ERROR, total)
        else:
            wanted = self._snapshot.schema.syntax(key.name).normalise(view.value)
            if wanted is None:
                return self._view_error(ResultCode.INAPPROPRIATE_MATCHING, total)

            def reached(index: int) -> bool:
                own = sorting.values_of(self._snapshot, numbers[index], (key,))
                return sorting.compare(own, (wanted,), (key,)) >= 0

            target = vlv.first_position(total, reached)
        shown = vlv.window(view, target, total)
        code, count = self._limited(len(shown), self._request.size_limit)
        self._answer_view(target, total, ResultCode.SUCCESS)
        return self._entries(code, numbers[shown.start : shown.start + count])

    def _view_error(self, code: ResultCode, total: int = 0) -> SearchAnswer:
        """The draft's virtualListViewError (76), with the reason in the response control."""
        self._answer_view(0, total, code)
        return self._refused(ResultCode.VLV_ERROR, "cannot show this part of the list")

    # -- answers -----------------------------------------------------------------------------------------------------

    def _answer_sort(self, code: int, attribute: bytes | None = None) -> None:
        self._answers.append(Control(ControlOid.SORT_RESPONSE, False, sorting.encode(code, attribute)))

    def _answer_page(self, total: int, cookie: bytes) -> None:
        self._answers.append(Control(ControlOid.PAGED_RESULTS, False, paging.encode(total, cookie)))

    def _answer_view(self, target: int, total: int, code: int) -> None:
        self._answers.append(Control(ControlOid.VLV_RESPONSE, False, vlv.encode(target, total, code)))

    def _refused(self, code: int, diagnostic: str = "") -> SearchAnswer:
        return replace(_refused(code, diagnostic), controls=tuple(self._answers))

    def _entries(self, code: int, numbers: Sequence[int]) -> SearchAnswer:
        late: list[int] = []
        items = _value_items(self._controls, self._request)
        chunks: Iterator[bytes]
        if items is None and self._ascending(numbers):
            chunks = encode_entries(self._snapshot, self._request, numbers, self._out_of_time, late)
        else:
            chunks = self._one_by_one(numbers, items, late)
        return SearchAnswer(code, chunks, len(numbers), late=late, controls=tuple(self._answers))

    def _ascending(self, numbers: Sequence[int]) -> bool:
        """Whether the entries are in the order of the directory, which is encoded quickest."""
        return self._controls.sort is None and (self._stable or self._controls.paged is None) and len(numbers) > 0

    def _one_by_one(
        self, numbers: Sequence[int], items: Sequence[filters.Filter] | None, late: list[int]
    ) -> Iterator[bytes]:
        parts: list[bytes] = []
        size = 0
        for at in range(0, len(numbers), STEP_ENTRIES):
            if self._out_of_time is not None and self._out_of_time():
                late.append(ResultCode.TIME_LIMIT_EXCEEDED)
                return
            messages = encode_few(self._snapshot, self._request, numbers[at : at + STEP_ENTRIES])
            if items is not None:
                messages = matched_values.select(messages, self._snapshot.schema, items)
            parts.append(messages)
            size += len(messages)
            if size >= CHUNK_SIZE or items is not None:
                yield b"".join(parts)
                parts, size = [], 0
        if parts:
            yield b"".join(parts)


def _value_items(controls: Controls, request: SearchRequest) -> Sequence[filters.Filter] | None:
    """Items of matched values; None where they change nothing (RFC 3876 §2)."""
    if request.types_only or set(request.attributes) == {NO_ATTRIBUTES}:
        return None
    return controls.matched_values


def _refused(code: int, diagnostic: str = "") -> SearchAnswer:
    return SearchAnswer(code, iter(()), 0, diagnostic=diagnostic)


def _single(answer: SearchAnswer, controls: Controls) -> SearchAnswer:
    """Root DSE, schema, an unknown base or a refusal: at most one entry, which is a page and in order as it is."""
    if answer.code != ResultCode.SUCCESS:
        return answer
    count, chunks = answer.count, answer.chunks
    answers = []
    if controls.sort is not None:
        answers.append(Control(ControlOid.SORT_RESPONSE, False, sorting.encode(ResultCode.SUCCESS)))
    if controls.subentries is True:
        count, chunks = 0, iter(())
    if controls.paged is not None:
        answers.append(Control(ControlOid.PAGED_RESULTS, False, paging.encode(count, b"")))
        if controls.paged.size == 0:
            count, chunks = 0, iter(())
    if controls.view is not None:
        answers.append(Control(ControlOid.VLV_RESPONSE, False, vlv.encode(min(count, 1), count, ResultCode.SUCCESS)))
    if controls.matched_values is not None:
        chunks = (matched_values.select(chunk, Schema(), controls.matched_values) for chunk in chunks)
    return replace(answer, chunks=chunks, count=count, controls=tuple(answers))
