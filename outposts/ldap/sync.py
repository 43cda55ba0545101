"""Following a directory: content synchronization (RFC 4533) and persistent search (draft-ietf-ldapext-psearch-03).

A ``feeds.Feed`` is one provider's directory from snapshot to snapshot, with a log of what changed. A ``Follower``
is one search that follows it: first the refresh (everything, or what changed since the client's cookie), then, if the
client wants to stay, the changes as they come. Plain objects: ``connection.py`` writes what ``Follower.due`` yields and
``service.py`` publishes snapshots.

What a client may not see never shows: a restricted viewer follows its own view, and what is compared for it are two
views. For viewers of everything, a refresh by cookie may name deletions of entries that its filter never chose, as the
RFC allows; in the persist stage each follower knows exactly what it has sent.

A refresh by cookie tells deletions (delete phase, RFC 4533 §3.3.2). When the cookie is unknown, too old or of another
search, everything is sent and what was not sent is gone (present phase), whatever the reload hint: that always
converges. e-syncRefreshRequired (4096) ends a persist stage that cannot go on.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from pyroaring import BitMap

from outposts.ldap.ber import encode_integer, encode_octets, length_of
from outposts.ldap.changes import ChangeSet, compare, identity, uuid_of
from outposts.ldap.directory import Snapshot
from outposts.ldap.dn import DN
from outposts.ldap.encoded import CHUNK_SIZE
from outposts.ldap.feeds import CookieSealer, Feed, chosen
from outposts.ldap.filters import And, Extensible, Filter, Not, Or
from outposts.ldap.messages import Control, SearchRequest
from outposts.ldap.rfc import CONTROLS as CONTROLS_TAG
from outposts.ldap.rfc import SEQUENCE, ControlOid, Extension, MatchingRule, ResultCode, Tag
from outposts.ldap.schema import Schema
from outposts.ldap.search import Selection, Viewer, encode_entries, selection, wanted_names
from outposts.ldap.stages import TRANSITIONS, Event, Stage
from outposts.ldap.sync_wire import (
    ChangeType,
    EntryChange,
    InfoKind,
    PersistentSearch,
    SyncDone,
    SyncInfo,
    SyncMode,
    SyncRequest,
    SyncState,
    encode_entry_change,
    encode_sync_done,
    encode_sync_info,
    id_sets,
)
from outposts.ldap.wire import encode_controls, encode_intermediate_response, encode_search_entry

CONTROLS: Final = (ControlOid.SYNC_REQUEST, ControlOid.PERSISTENT_SEARCH)
"""Values of supportedControl where a directory can be followed, and nowhere else."""
UUIDS_PER_MESSAGE: Final = 1000  # 18 KB; OpenLDAP sends fewer, but receives any number
COUNTS = frozenset({"numsubordinates", "hassubordinates"})


@dataclass(frozen=True, slots=True)
class Question:
    """A search with one of our controls, as far as it is the same for every snapshot."""

    request: SearchRequest
    base: DN
    viewer: Viewer
    wanted: SyncRequest | PersistentSearch
    encoded_filter: bytes

    def digest(self, provider_pk: int) -> bytes:
        """What a cookie is bound to: equal digests mean the same entries with the same attributes."""
        request = self.request
        who = b"" if self.viewer.full else b"%d" % self.viewer.user_pk
        digest = blake2b(digest_size=16, person=b"ldap sync search")
        flags = b"%d %d %d" % (provider_pk, request.scope, request.types_only)
        attributes = sorted(name.lower() for name in request.attributes)
        for part in (flags, who, self.base.key, self.encoded_filter, *attributes):
            digest.update(len(part).to_bytes(4, "big") + part)
        return digest.digest()


class Follower:
    """One search that follows a feed. ``due`` yields what is to be written now.

    ``wake`` is called when there is more; ``code`` and ``controls`` belong into the final message once ``ended``.
    """

    def __init__(
        self,
        feed: Feed,
        question: Question,
        cookies: CookieSealer,
        size_limit: int = 0,
        out_of_time: Callable[[], bool] | None = None,
    ) -> None:
        """``size_limit``: the server's own, for the refresh, 0 = none. ``out_of_time`` ends the refresh.

        The client's size limit counts all entries sent; else the persist stage has no end of its own.
        """
        self.feed = feed
        feed.idle = 0
        self.stage = Stage.REFRESH
        self.code: int = ResultCode.SUCCESS
        self.controls: tuple[Control, ...] = ()
        self.count = 0  # entries sent
        self.wake: Callable[[], None] = _nobody
        request = question.request
        self._request = request
        self._question = question
        self._cookies = cookies
        self._size_limit = size_limit
        self._out_of_time = out_of_time
        self._sync = question.wanted if isinstance(question.wanted, SyncRequest) else None
        self._search = question.wanted if isinstance(question.wanted, PersistentSearch) else None
        self._digest = question.digest(feed.provider_pk)
        self._far = reaches_far(request.filter)
        attributes = selection(request.attributes)
        self._attributes = looks_at(request.filter, attributes, feed.snapshot.schema)
        self._counts = (
            attributes.all_operational or bool(attributes.names & COUNTS) or names_any(request.filter, COUNTS)
        )
        # Where the client is: the feed's identity, and of its own content the numbers; for a restricted viewer they
        # are of the view.
        self._at = b""
        self._content = BitMap()
        self._view: Snapshot | None = None
        self._told = b""  # the last cookie

    @property
    def ended(self) -> bool:
        """Nothing more will come."""
        return self.stage is Stage.ENDED

    @property
    def stays(self) -> bool:
        """Whether the client asked for more than a refresh."""
        return self._search is not None or (self._sync is not None and self._sync.mode is SyncMode.REFRESH_AND_PERSIST)

    @property
    def behind(self) -> bool:
        """There is something to be told."""
        return not self.ended and (self.stage is Stage.REFRESH or self.feed.closed or self._at != self.feed.identity)

    def close(self, code: int = ResultCode.SUCCESS) -> None:
        """Stop following, with this code if a final message is to be sent."""
        if not self.ended:
            self.code = code
        self._move(Event.CLOSED)
        self.feed.followers.discard(self)

    def due(self) -> Iterator[bytes]:
        """Messages to write now, in chunks. When used up: ``ended``, or wait for ``wake``."""
        if self.stage is Stage.REFRESH:
            yield from self._refresh()
        while self.stage is Stage.PERSIST and self.behind:
            if self.feed.closed:
                self._end(Event.LOST, ResultCode.UNAVAILABLE if self._search else ResultCode.SYNC_REFRESH_REQUIRED)
            else:
                yield from self._catch_up()

    def _move(self, event: Event) -> None:
        self.stage = TRANSITIONS.get((self.stage, event), self.stage)

    def _end(self, event: Event, code: int) -> None:
        self.code = code
        self._move(event)
        self.feed.followers.discard(self)

    # -- refresh stage -----------------------------------------------------------------------------------------------

    def _refresh(self) -> Iterator[bytes]:
        """RFC 4533 §3.3; of a persistent search, the entries that there are."""
        at, seen = self._look()
        content = self._choose(seen)
        known = None if self._sync is None else self._known(seen)
        if known is None:
            numbers, deletes = content, list[bytes]()
        else:
            numbers, deletes = self._since(seen, content, known)
        if self._search is not None and self._search.changes_only:
            numbers = BitMap()
        for info in id_sets(deletes, UUIDS_PER_MESSAGE):
            yield self._info(info)
        cut = yield from self._entries(seen, numbers, SyncState.ADD, self._out_of_time)
        if cut:
            self._end(Event.CUT, cut)
            return
        self._settle(at, seen, content)
        if self._sync is not None:
            cookie = self._cookie()
            if self.stays:
                kind = InfoKind.REFRESH_PRESENT if known is None else InfoKind.REFRESH_DELETE
                yield self._info(SyncInfo(kind, cookie, True))
            else:
                done = encode_sync_done(SyncDone(cookie, known is not None))
                self.controls = (Control(ControlOid.SYNC_DONE, False, done),)
        self._move(Event.REFRESHED_AND_STAYS if self.stays else Event.REFRESHED)

    def _known(self, seen: Snapshot) -> list[ChangeSet] | None:
        """What happened since the client's cookie; None if that cannot be told."""
        assert self._sync is not None
        state = self._cookies.open(self._sync.cookie, self._digest)
        if state is None:
            return None
        if not self._question.viewer.full:
            return [] if state == identity(seen) else None
        if state == self.feed.identity:
            return []
        return None if self._far else self.feed.log.since(state)

    def _since(self, seen: Snapshot, content: BitMap, steps: Sequence[ChangeSet]) -> tuple[BitMap, list[bytes]]:
        """(entries to send, entryUUIDs that are not in the content any more) for a client whose content is unknown."""
        touched = self._touched(steps) & seen.all
        numbers = content & touched
        left = dict.fromkeys(row.uuid for step in steps for row in step.gone)
        left.update(dict.fromkeys(uuid_of(seen, number) for number in touched - content))
        for number in numbers:
            left.pop(uuid_of(seen, number), None)
        return numbers, list(left)

    # -- persist stage -----------------------------------------------------------------------------------------------

    def _catch_up(self) -> Iterator[bytes]:
        """RFC 4533 §3.4: from where the client is to the feed's snapshot, as one step."""
        before = self._view
        at, seen = self._look()
        steps: list[ChangeSet] | None
        if before is None:
            steps = self.feed.log.since(self._at)
        else:
            steps = [compare(before, seen)]
        if steps is None:
            self._end(Event.LOST, ResultCode.BUSY if self._search else ResultCode.SYNC_REFRESH_REQUIRED)
            return
        if not any(step.weight for step in steps):
            self._settle(at, seen, self._content)
            return
        content = self._choose(seen)
        mine = self._content.copy()
        left: dict[bytes, bytes] = {}  # entryUUID → DN of the client's entries that are not at their number any more
        for step in steps:
            for row in step.gone:
                if row.number in mine:
                    mine.discard(row.number)
                    left[row.uuid] = row.dn
        touched = self._touched(steps) & seen.all
        appeared = content - mine
        news = (content & touched) | appeared
        vanished = mine - content
        same = {number: uuid_of(seen, number) for number in appeared}
        moved = {number for number, uuid in same.items() if left.pop(uuid, None) is not None}
        changed = news - appeared | BitMap(moved)
        if self._search is not None:
            cut = yield from self._tell_changes(seen, steps, news, left)
        else:
            for number in vanished:
                left[uuid_of(seen, number)] = seen.dn(number)
            yield from _gathered(self._deleted(uuid, dn) for uuid, dn in left.items())
            cut = yield from self._entries(seen, changed, SyncState.MODIFY)
            if not cut:
                cut = yield from self._entries(seen, news - changed, SyncState.ADD)
        if cut:
            self._end(Event.CUT, cut)
            return
        self._settle(at, seen, content)
        if self._sync is not None:
            told, cookie = self._told, self._cookie()
            if cookie != told:
                yield self._info(SyncInfo(InfoKind.NEW_COOKIE, cookie))

    def _tell_changes(
        self, seen: Snapshot, steps: Sequence[ChangeSet], news: BitMap, left: Mapping[bytes, bytes]
    ) -> Generator[bytes, None, int]:
        """Persistent search: changes of the wanted kinds, each with what it was (draft §4)."""
        assert self._search is not None
        types = self._search.change_types
        if types & ChangeType.DELETE:
            here = {uuid_of(seen, number) for number in self._touched(steps) & seen.all}
            change = self._change(ChangeType.DELETE)
            yield from _gathered(
                encode_search_entry(self._request.message_id, dn, (), change)
                for uuid, dn in left.items()
                if uuid not in here
            )
        added = BitMap.union(*(step.added for step in steps)) & news if steps else BitMap()
        renamed: dict[int, bytes] = {}
        for step in steps:
            for number, dn in step.renamed.items():
                if number in news and number not in added:
                    renamed.setdefault(number, dn)
        if types & ChangeType.ADD:
            cut = yield from self._entries(seen, added, None, None, self._change(ChangeType.ADD))
            if cut:
                return cut
        if types & ChangeType.MODIFY_DN:
            for number, dn in sorted(renamed.items()):
                change = self._change(ChangeType.MODIFY_DN, dn)
                cut = yield from self._entries(seen, BitMap((number,)), None, None, change)
                if cut:
                    return cut
            news = news - BitMap(renamed)
        if types & ChangeType.MODIFY:
            cut = yield from self._entries(seen, news - added, None, None, self._change(ChangeType.MODIFY))
            return cut
        return 0

    # -- what both need ----------------------------------------------------------------------------------------------

    def _look(self) -> tuple[bytes, Snapshot]:
        """(identity of the feed, what the viewer sees of it)."""
        viewer = self._question.viewer
        snapshot = self.feed.snapshot
        if viewer.full:
            return self.feed.identity, snapshot
        self._view = snapshot.view(viewer.user_pk)
        return self.feed.identity, self._view

    def _choose(self, seen: Snapshot) -> BitMap:
        question = self._question
        if question.viewer.full:
            return self.feed.content(question.base, self._request.scope, question.encoded_filter, self._request.filter)
        return chosen(seen, question.base, self._request.scope, self._request.filter)

    def _settle(self, at: bytes, seen: Snapshot, content: BitMap) -> None:
        """The client has been told everything up to here."""
        self._at = at
        self._content = content
        if not self._question.viewer.full:
            self._view = seen

    def _touched(self, steps: Iterable[ChangeSet]) -> BitMap:
        found = BitMap()
        for step in steps:
            found |= step.touched if self._attributes is None else step.touched_in(self._attributes)
            if self._counts:
                found |= step.counted
        return found

    def _cookie(self) -> bytes:
        state = self._at if self._view is None else identity(self._view)
        self._told = self._cookies.seal(state, self._digest)
        return self._told

    def _info(self, info: SyncInfo) -> bytes:
        return encode_intermediate_response(self._request.message_id, Extension.SYNC_INFO, encode_sync_info(info))

    def _deleted(self, uuid: bytes, dn: bytes) -> bytes:
        """An entry that is not in the content any more, without attributes (RFC 4533 §3.4)."""
        body = encode_octets(dn) + b"0\x00"
        operation = bytes((Tag.SEARCH_ENTRY,)) + length_of(len(body)) + body
        return _wrapped(self._request.message_id, operation + _STATE_CONTROL[SyncState.DELETE] + uuid)

    def _change(self, change: ChangeType, previous: bytes | None = None) -> tuple[Control, ...]:
        assert self._search is not None
        if not self._search.return_changes:
            return ()
        return (Control(ControlOid.ENTRY_CHANGE, False, encode_entry_change(EntryChange(change, previous))),)

    def _entries(
        self,
        seen: Snapshot,
        numbers: BitMap,
        state: SyncState | None,
        out_of_time: Callable[[], bool] | None = None,
        controls: Sequence[Control] = (),
    ) -> Generator[bytes, None, int]:
        """Entries, each with its Sync State control or with ``controls``. Returns a code if a limit cut them short."""
        limit = self._request.size_limit
        cut: int = 0
        ordered = numbers.to_array()
        if limit and self.count + len(ordered) > limit:
            ordered = ordered[: max(0, limit - self.count)]
            cut = ResultCode.SIZE_LIMIT_EXCEEDED
        if self.stage is Stage.REFRESH and self._size_limit and len(ordered) > self._size_limit:
            ordered = ordered[: self._size_limit]
            cut = ResultCode.ADMIN_LIMIT_EXCEEDED
        if not ordered:
            return cut
        self.count += len(ordered)
        late: list[int] = []
        plain = encode_entries(seen, self._request, ordered, out_of_time, late)
        if self._sync is not None and state is not None:
            prefix = _STATE_CONTROL[state]
            yield from _with_tails(plain, (prefix + uuid_of(seen, number) for number in ordered))
        elif controls:
            tail = encode_controls(controls)
            yield from _with_tails(plain, (tail for _ in ordered))
        else:
            yield from plain
        return late[0] if late else cut


def _nobody() -> None:
    """Nobody waits yet."""


def _state_control(state: SyncState) -> bytes:
    """The encoded controls of an entry up to its entryUUID, which is all that differs from entry to entry."""
    value = bytes((SEQUENCE, 3 + 18)) + bytes((0x0A, 1, state)) + b"\x04\x10"
    content = encode_octets(ControlOid.SYNC_STATE.encode()) + bytes((0x04, len(value) + 16)) + value
    control = bytes((SEQUENCE,)) + length_of(len(content) + 16) + content
    return bytes((CONTROLS_TAG,)) + length_of(len(control) + 16) + control


_STATE_CONTROL: Final = {state: _state_control(state) for state in SyncState}


def _wrapped(message_id: int, content: bytes) -> bytes:
    identifier = encode_integer(message_id)
    return bytes((SEQUENCE,)) + length_of(len(identifier) + len(content)) + identifier + content


def _gathered(messages: Iterable[bytes]) -> Iterator[bytes]:
    """The same in chunks."""
    pieces: list[bytes] = []
    size = 0
    for message in messages:
        pieces.append(message)
        size += len(message)
        if size >= CHUNK_SIZE:
            yield b"".join(pieces)
            pieces, size = [], 0
    if pieces:
        yield b"".join(pieces)


def _with_tails(chunks: Iterable[bytes], tails: Iterator[bytes]) -> Iterator[bytes]:
    """Messages in chunks, each with its tail (encoded controls) put behind and its length corrected."""
    for chunk in chunks:
        pieces: list[bytes | memoryview] = []
        view = memoryview(chunk)
        position, size = 0, len(chunk)
        while position < size:
            length = chunk[position + 1]
            start = position + 2
            if length >= 0x80:
                start += length & 0x7F
                length = int.from_bytes(chunk[position + 2 : start], "big")
            position = start + length
            tail = next(tails)
            pieces += (b"0", length_of(length + len(tail)), view[start:position], tail)
        yield b"".join(pieces)


# Filters


def _walk(node: Filter) -> Iterator[Filter]:
    waiting = [node]
    while waiting:
        item = waiting.pop()
        yield item
        if isinstance(item, And | Or):
            waiting.extend(item.children)
        elif isinstance(item, Not):
            waiting.append(item.child)


def reaches_far(node: Filter) -> bool:
    """Whether an entry can come to match without being changed itself: the rule that follows groups in groups."""
    return any(isinstance(item, Extensible) and item.rule in MatchingRule.IN_CHAIN for item in _walk(node))


def looks_at(node: Filter, chosen: Selection, schema: Schema) -> frozenset[str] | None:
    """Canonical names of the attributes that decide whether an entry is found and what of it is sent; None: all."""
    if chosen.all_user:
        return None
    names = wanted_names(schema, chosen)
    for item in _walk(node):
        if isinstance(item, Extensible) and item.attribute is None:
            return None
        name = getattr(item, "attribute", None)
        if name is not None:
            names.add(schema.canonical(name) or name)
    return frozenset(names)


def names_any(node: Filter, attributes: frozenset[str]) -> bool:
    """Whether a filter asks for one of these attributes."""
    return any(getattr(item, "attribute", None) in attributes for item in _walk(node))
