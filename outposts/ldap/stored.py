"""A snapshot as bytes and back, for state files and for sharing between processes. Nothing is rebuilt when reading.

Format: magic, u16 version, u32 length of the head, head (msgpack: small things and the list of sections), padding,
then the sections, each at a multiple of eight bytes so that arrays can be used where they lie. Numbers in the machine's
own byte order, which the head names: a file from another kind of machine is refused, never misread.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from mmap import mmap
from typing import Any

import msgspec
from pyroaring import BitMap

from common.errors import OutpostError
from outposts.ldap.contents import BuildReport, Contents, Origin
from outposts.ldap.encoded import EntryStore
from outposts.ldap.entries import EntryOptions, Kind
from outposts.ldap.index import Index, IndexParts

MAGIC = b"OLDS"
VERSION = 2  # raise with every change of the format or of what entries hold: older files are then built anew
_FIXED = struct.Struct("<4sHI")
ALIGNMENT = 8  # bytes; the widest array item


class StoredError(OutpostError):
    """The bytes are not a snapshot of this version and machine."""


class _Sections:
    def __init__(self) -> None:
        self.parts: list[memoryview] = []
        self.lengths: list[int] = []

    def add(self, data: object) -> int:
        raw = memoryview(data)  # type: ignore[arg-type]
        self.parts.append(raw)
        self.lengths.append(raw.nbytes)
        return len(self.parts) - 1


def dump(snapshot: Contents) -> bytes:
    """See ``Snapshot.to_bytes``."""
    return b"".join(pieces(snapshot))


def pieces(snapshot: Contents) -> Iterator[bytes | memoryview]:
    """What ``dump`` returns, piece by piece and without a copy of the large ones."""
    sections = _Sections()
    stores = []
    for kind, store in snapshot.stores.items():
        stores.append(
            {
                "kind": int(kind),
                "data": sections.add(store.data),
                "starts": sections.add(store.starts),
                "cut_starts": sections.add(store.cut_starts),
                "cuts": sections.add(store.cuts),
                "wide": memoryview(store.cuts).itemsize == 4,  # type: ignore[arg-type]
                "layout_numbers": sections.add(store.layout_numbers),
                "layouts": store.layouts,
                "uuids": sections.add(store.uuids),
                "suffix": store.suffix,
            }
        )
    # an index that several attributes share is written once
    written: dict[int, int] = {}
    indexes: list[dict[str, Any]] = []

    def place(index: Index) -> int:
        if id(index) not in written:
            parts = index.parts(whole=False)
            written[id(index)] = len(indexes)
            indexes.append(
                {
                    "blob": sections.add(index.text()),
                    "offsets": sections.add(parts.offsets),
                    "numbers": sections.add(parts.numbers),
                    "ranges": sections.add(parts.ranges),
                    "bitmaps": [[number, sections.add(raw)] for number, raw in parts.bitmaps],
                    "present": sections.add(parts.present),
                }
            )
        return written[id(index)]

    head: dict[str, Any] = {
        "options": asdict(snapshot.options),
        "report": asdict(snapshot.report),
        "origin": asdict(snapshot.origin),
        "stores": stores,
        "names": {name: place(index) for name, index in snapshot.indexes.items()},
        "hidden": {name: place(index) for name, index in snapshot.hidden.items()},
        "indexes": indexes,
        "kinds": {str(int(kind)): sections.add(members.serialize()) for kind, members in snapshot.kinds.items()},
        "byteorder": sys.byteorder,
    }
    head["lengths"] = sections.lengths
    encoded = msgspec.msgpack.encode(head)
    yield _FIXED.pack(MAGIC, VERSION, len(encoded)) + encoded + bytes(-(_FIXED.size + len(encoded)) % ALIGNMENT)
    for part in sections.parts:
        yield part
        if part.nbytes % ALIGNMENT:
            yield bytes(-part.nbytes % ALIGNMENT)


def load(buffer: bytes | mmap) -> Contents:
    """See ``Snapshot.from_buffer``. Raises ``StoredError`` and nothing else."""
    try:
        return _load(buffer)
    except StoredError:
        raise
    except (ValueError, KeyError, IndexError, TypeError, struct.error, msgspec.MsgspecError) as error:
        raise StoredError(f"stored snapshot cannot be read: {type(error).__name__}") from None


def _load(buffer: bytes | mmap) -> Contents:
    view = memoryview(buffer)
    if len(view) < _FIXED.size:
        raise StoredError("stored snapshot is too short")
    magic, version, size = _FIXED.unpack(view[: _FIXED.size])
    if magic != MAGIC or version != VERSION:
        raise StoredError("stored snapshot has another format")
    head = msgspec.msgpack.decode(view[_FIXED.size : _FIXED.size + size])
    if head["byteorder"] != sys.byteorder:
        raise StoredError("stored snapshot is from a machine with another byte order")
    position = _FIXED.size + size
    position += -position % ALIGNMENT
    sections: list[memoryview] = []
    places: list[int] = []  # of the sections in the buffer
    for length in head["lengths"]:
        if position + length > len(view):
            raise StoredError("stored snapshot is cut off")
        sections.append(view[position : position + length])
        places.append(position)
        position += length + -length % ALIGNMENT

    def numbers(section: int, code: str) -> Sequence[int]:
        return sections[section].cast(code)  # type: ignore[call-overload, no-any-return]

    stores = {}
    for row in head["stores"]:
        kind = Kind(row["kind"])
        stores[kind] = EntryStore(
            sections[row["data"]],
            numbers(row["starts"], "Q"),
            numbers(row["cut_starts"], "I"),
            numbers(row["cuts"], "I" if row["wide"] else "H"),
            numbers(row["layout_numbers"], "I"),
            [tuple(layout) for layout in row["layouts"]],
            sections[row["uuids"]],
            row["suffix"],
        )
    indexes = [
        Index.from_parts(
            IndexParts(
                buffer,
                places[row["blob"]],
                sections[row["offsets"]],
                sections[row["numbers"]],
                sections[row["ranges"]],
                [(number, sections[section]) for number, section in row["bitmaps"]],
                sections[row["present"]],
            )
        )
        for row in head["indexes"]
    ]
    report = head["report"]
    report["errors"] = tuple(report["errors"])
    for name in ("gid_collisions", "uid_collisions"):
        report[name] = tuple((number, tuple(names)) for number, names in report[name])
    return Contents(
        options=msgspec.convert(head["options"], EntryOptions),
        stores=stores,
        indexes={name: indexes[place] for name, place in head["names"].items()},
        hidden={name: indexes[place] for name, place in head["hidden"].items()},
        kinds={Kind(int(kind)): BitMap.deserialize(bytes(sections[part])) for kind, part in head["kinds"].items()},
        origin=Origin(**head["origin"]),
        report=BuildReport(**report),
    )
