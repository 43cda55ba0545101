"""A consumer of RFC 4533 as a model: it applies messages, and what it holds can be compared with the directory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from outposts.ldap.directory import Snapshot
from outposts.ldap.dn import DN
from outposts.ldap.messages import (
    Control,
    IntermediateResponse,
    Response,
    Result,
    SearchEntry,
    SearchRequest,
)
from outposts.ldap.rfc import ControlOid, Extension
from outposts.ldap.search import Viewer, run
from outposts.ldap.sync_wire import (
    InfoKind,
    SyncMode,
    SyncRequest,
    SyncState,
    decode_sync_done,
    decode_sync_info,
    decode_sync_state,
    encode_sync_request,
)
from tests.ldap.desks import responses

Content = dict[bytes, tuple[bytes, frozenset[tuple[bytes, frozenset[bytes]]]]]
"""entryUUID → DN and attributes."""


def shape(entry: SearchEntry) -> tuple[bytes, frozenset[tuple[bytes, frozenset[bytes]]]]:
    """What of an entry has to be equal."""
    return entry.name, frozenset((item.description, frozenset(item.values)) for item in entry.attributes)


@dataclass
class Replica:
    """RFC 4533 §3.3, §3.4, the client's side. ``refreshed``: whether the refresh stage is over."""

    content: Content = field(default_factory=dict)
    cookie: bytes | None = None
    refreshed: bool = False
    code: int | None = None
    counts: dict[str, int] = field(default_factory=dict)
    _present: set[bytes] = field(default_factory=set)

    def control(self, mode: SyncMode) -> Control:
        """The request control of a new search: what arrives from now on belongs to it."""
        self.refreshed, self.code, self.counts = False, None, {}
        self._present = set()
        return Control(ControlOid.SYNC_REQUEST, True, encode_sync_request(SyncRequest(mode, self.cookie)))

    def hear(self, data: bytes | Iterable[Response]) -> None:
        """Messages from the server."""
        for message in responses(data) if isinstance(data, bytes) else data:
            if isinstance(message, SearchEntry):
                self._entry(message)
            elif isinstance(message, IntermediateResponse):
                assert message.oid == Extension.SYNC_INFO
                self._info(message.value)
            else:
                assert isinstance(message, Result)
                self._done(message)

    def _note(self, what: str, number: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + number

    def _entry(self, message: SearchEntry) -> None:
        (control,) = message.controls
        assert control.oid == ControlOid.SYNC_STATE
        value = decode_sync_state(control.value)
        self._note(value.state.name.lower())
        if value.state is SyncState.DELETE:
            assert message.attributes == ()
            assert self.refreshed
            assert value.uuid in self.content, "told to delete what it never had"
            del self.content[value.uuid]
            return
        if self.refreshed:
            assert (value.state is SyncState.MODIFY) == (value.uuid in self.content)
        self._present.add(value.uuid)
        self.content[value.uuid] = shape(message)

    def _info(self, value: bytes | None) -> None:
        info = decode_sync_info(value)
        if info.kind is InfoKind.ID_SET:
            assert info.flag
            assert not self.refreshed
            self._note("listed", len(info.uuids))
            for uuid in info.uuids:
                self.content.pop(uuid, None)
        elif info.kind is not InfoKind.NEW_COOKIE:
            assert info.flag
            assert not self.refreshed
            self._end_of_refresh(deletes=info.kind is InfoKind.REFRESH_DELETE)
        self.cookie = info.cookie or self.cookie

    def _done(self, message: Result) -> None:
        self.code = message.code
        if message.code == 0:
            (control,) = message.controls
            done = decode_sync_done(control.value)
            self._end_of_refresh(deletes=done.refresh_deletes)
            self.cookie = done.cookie
        else:
            assert message.controls == ()

    def _end_of_refresh(self, *, deletes: bool) -> None:
        if not deletes:
            self.content = {uuid: entry for uuid, entry in self.content.items() if uuid in self._present}
        self.refreshed = True


def truth(snapshot: Snapshot, request: SearchRequest, viewer: Viewer) -> Content:
    """What a plain search finds."""
    seen = snapshot if viewer.full else snapshot.view(viewer.user_pk)
    found: Content = {}
    for message in responses(b"".join(run(snapshot, request, viewer).chunks)):
        assert isinstance(message, SearchEntry)
        text = seen.values(seen.number_of(DN.parse(message.name)), "entryuuid")[0]
        found[bytes.fromhex(text.decode().replace("-", ""))] = shape(message)
    return found
