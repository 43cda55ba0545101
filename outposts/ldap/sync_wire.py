"""Controls and messages for following a directory ↔ bytes: RFC 4533, persistent search, Cancel (RFC 3909).

Decoders raise ``ProtocolError`` and nothing else. Cookies are opaque octets here; ``sync.py`` makes and reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

import msgspec

from outposts.ldap.ber import (
    ProtocolError,
    boolean,
    encode_boolean,
    encode_enumerated,
    encode_integer,
    encode_octets,
    expect,
    header,
    integer,
    octets,
    sequence,
    skip_rest,
    tlv,
)
from outposts.ldap.rfc import BOOLEAN, ENUMERATED, MAX_INT, OCTET_STRING, SEQUENCE, SET

UUID_SIZE: Final = 16  # bytes, RFC 4533 §2.1.2
MAX_COOKIE: Final = 1024  # bytes; ours are 46, those of other servers with many masters some hundred


class SyncMode(IntEnum):
    """RFC 4533 §2.2."""

    REFRESH_ONLY = 1
    REFRESH_AND_PERSIST = 3


class SyncRequest(msgspec.Struct, frozen=True):
    """RFC 4533 §2.2: Sync Request Value."""

    mode: SyncMode
    cookie: bytes | None = None
    reload_hint: bool = False


class SyncState(IntEnum):
    """RFC 4533 §2.3."""

    PRESENT = 0
    ADD = 1
    MODIFY = 2
    DELETE = 3


class SyncStateValue(msgspec.Struct, frozen=True):
    """RFC 4533 §2.3: goes with each entry."""

    state: SyncState
    uuid: bytes
    cookie: bytes | None = None


class SyncDone(msgspec.Struct, frozen=True):
    """RFC 4533 §2.4: goes with the final result of a refresh."""

    cookie: bytes | None = None
    refresh_deletes: bool = False


class InfoKind(IntEnum):
    """RFC 4533 §2.5: which syncInfoValue, as its context tag."""

    NEW_COOKIE = 0
    REFRESH_DELETE = 1
    REFRESH_PRESENT = 2
    ID_SET = 3


class SyncInfo(msgspec.Struct, frozen=True):
    """RFC 4533 §2.5. ``flag``: refreshDone of the two ends of a phase, refreshDeletes of an id set."""

    kind: InfoKind
    cookie: bytes | None = None
    flag: bool = False
    uuids: tuple[bytes, ...] = ()


class ChangeType(IntEnum):
    """draft-ietf-ldapext-psearch-03 §4: bits of the request, values of the notification."""

    ADD = 1
    DELETE = 2
    MODIFY = 4
    MODIFY_DN = 8


ALL_CHANGES: Final = 15


class PersistentSearch(msgspec.Struct, frozen=True):
    """draft-ietf-ldapext-psearch-03 §3."""

    change_types: int
    changes_only: bool
    return_changes: bool


class EntryChange(msgspec.Struct, frozen=True):
    """draft-ietf-ldapext-psearch-03 §4."""

    change_type: ChangeType
    previous_dn: bytes | None = None
    change_number: int | None = None


def _open(value: bytes | None) -> tuple[bytes, int, int]:
    """(octets, start, end) of the content of a value that is one SEQUENCE and nothing more."""
    if value is None:
        raise ProtocolError("control without value")
    start, stop = expect(value, 0, len(value), SEQUENCE)
    if stop != len(value):
        raise ProtocolError("octets behind the control value")
    return value, start, stop


def _cookie(data: bytes, position: int, end: int) -> tuple[bytes | None, int]:
    if position < end and data[position] == OCTET_STRING:
        cookie, position = octets(data, position, end)
        if len(cookie) > MAX_COOKIE:
            raise ProtocolError("cookie too large")
        return cookie, position
    return None, position


def _flag(data: bytes, position: int, end: int, default: bool) -> tuple[bool, int]:
    if position < end and data[position] == BOOLEAN:
        return boolean(data, position, end)
    return default, position


def _optional_cookie(cookie: bytes | None) -> bytes:
    return b"" if cookie is None else encode_octets(cookie)


def decode_sync_request(value: bytes | None) -> SyncRequest:
    """RFC 4533 §2.2."""
    data, position, end = _open(value)
    number, position = integer(data, position, end, ENUMERATED)
    if number not in (SyncMode.REFRESH_ONLY, SyncMode.REFRESH_AND_PERSIST):
        raise ProtocolError("unknown synchronization mode")
    cookie, position = _cookie(data, position, end)
    hint, position = _flag(data, position, end, False)
    skip_rest(data, position, end)
    return SyncRequest(SyncMode(number), cookie, hint)


def encode_sync_request(request: SyncRequest) -> bytes:
    """RFC 4533 §2.2; the default is left out."""
    hint = encode_boolean(True) if request.reload_hint else b""
    return sequence(encode_enumerated(request.mode), _optional_cookie(request.cookie), hint)


def decode_sync_state(value: bytes | None) -> SyncStateValue:
    """RFC 4533 §2.3."""
    data, position, end = _open(value)
    number, position = integer(data, position, end, ENUMERATED)
    if not 0 <= number <= SyncState.DELETE:
        raise ProtocolError("unknown synchronization state")
    uuid, position = octets(data, position, end)
    if len(uuid) != UUID_SIZE:
        raise ProtocolError("entryUUID is not 16 octets")
    cookie, position = _cookie(data, position, end)
    skip_rest(data, position, end)
    return SyncStateValue(SyncState(number), uuid, cookie)


def encode_sync_state(value: SyncStateValue) -> bytes:
    """RFC 4533 §2.3. Without a cookie the uuid comes last, which ``sync.py`` makes use of."""
    return sequence(encode_enumerated(value.state), encode_octets(value.uuid), _optional_cookie(value.cookie))


def decode_sync_done(value: bytes | None) -> SyncDone:
    """RFC 4533 §2.4."""
    data, position, end = _open(value)
    cookie, position = _cookie(data, position, end)
    deletes, position = _flag(data, position, end, False)
    skip_rest(data, position, end)
    return SyncDone(cookie, deletes)


def encode_sync_done(done: SyncDone) -> bytes:
    """RFC 4533 §2.4; the default is left out."""
    return sequence(_optional_cookie(done.cookie), encode_boolean(True) if done.refresh_deletes else b"")


def decode_sync_info(value: bytes | None) -> SyncInfo:
    """RFC 4533 §2.5."""
    if value is None:
        raise ProtocolError("sync info without value")
    tag, position, end = header(value, 0, len(value))
    if end != len(value):
        raise ProtocolError("octets behind the sync info value")
    if tag == 0x80:
        return SyncInfo(InfoKind.NEW_COOKIE, octets(value, 0, end, 0x80)[0])
    if tag not in (0xA1, 0xA2, 0xA3):
        raise ProtocolError("unknown sync info")
    kind = InfoKind(tag & 0x1F)
    cookie, position = _cookie(value, position, end)
    flag, position = _flag(value, position, end, kind is not InfoKind.ID_SET)
    uuids: list[bytes] = []
    if kind is InfoKind.ID_SET:
        position, stop = expect(value, position, end, SET)
        while position < stop:
            uuid, position = octets(value, position, stop)
            if len(uuid) != UUID_SIZE:
                raise ProtocolError("entryUUID is not 16 octets")
            uuids.append(uuid)
    skip_rest(value, position, end)
    return SyncInfo(kind, cookie, flag, tuple(uuids))


def encode_sync_info(info: SyncInfo) -> bytes:
    """RFC 4533 §2.5; defaults are left out (refreshDone TRUE, refreshDeletes FALSE)."""
    if info.kind is InfoKind.NEW_COOKIE:
        return tlv(0x80, info.cookie or b"")
    content = _optional_cookie(info.cookie)
    if info.kind is InfoKind.ID_SET:
        content += encode_boolean(True) if info.flag else b""
        content += tlv(SET, b"".join([encode_octets(uuid) for uuid in info.uuids]))
    elif not info.flag:
        content += encode_boolean(False)
    return tlv(0xA0 | info.kind, content)


def decode_persistent_search(value: bytes | None) -> PersistentSearch:
    """draft-ietf-ldapext-psearch-03 §3. Change types outside the four are an error."""
    data, position, end = _open(value)
    types, position = integer(data, position, end)
    only, position = boolean(data, position, end)
    changes, position = boolean(data, position, end)
    skip_rest(data, position, end)
    if not 0 < types <= ALL_CHANGES:
        raise ProtocolError("unknown change types")
    return PersistentSearch(types, only, changes)


def encode_persistent_search(search: PersistentSearch) -> bytes:
    """draft-ietf-ldapext-psearch-03 §3."""
    flags = encode_boolean(search.changes_only) + encode_boolean(search.return_changes)
    return sequence(encode_integer(search.change_types), flags)


def decode_entry_change(value: bytes | None) -> EntryChange:
    """draft-ietf-ldapext-psearch-03 §4."""
    data, position, end = _open(value)
    number, position = integer(data, position, end, ENUMERATED)
    if number not in (1, 2, 4, 8):
        raise ProtocolError("unknown change type")
    previous: bytes | None = None
    if position < end and data[position] == OCTET_STRING:
        previous, position = octets(data, position, end)
    count: int | None = None
    if position < end and data[position] == 0x02:
        count, position = integer(data, position, end)
    skip_rest(data, position, end)
    return EntryChange(ChangeType(number), previous, count)


def encode_entry_change(change: EntryChange) -> bytes:
    """draft-ietf-ldapext-psearch-03 §4."""
    count = b"" if change.change_number is None else encode_integer(change.change_number)
    return sequence(encode_enumerated(change.change_type), _optional_cookie(change.previous_dn), count)


def decode_cancel(value: bytes | None) -> int:
    """RFC 3909 §2.1: the message id of the operation to cancel."""
    data, position, end = _open(value)
    message_id, position = integer(data, position, end)
    skip_rest(data, position, end)
    if not 0 <= message_id <= MAX_INT:
        raise ProtocolError("message id out of range")
    return message_id


def encode_cancel(message_id: int) -> bytes:
    """RFC 3909 §2.1."""
    return sequence(encode_integer(message_id))


def id_sets(uuids: Sequence[bytes], per_message: int) -> list[SyncInfo]:
    """Deletions during a refresh (RFC 4533 §3.3.2), so many to a message."""
    return [
        SyncInfo(InfoKind.ID_SET, None, True, tuple(uuids[at : at + per_message]))
        for at in range(0, len(uuids), per_message)
    ]
