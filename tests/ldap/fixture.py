"""The directory of the case table (spec §8) as a snapshot, and a reader of encoded answers that is not the writer's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from outposts.ldap.directory import Snapshot
from outposts.ldap.entries import EntryOptions
from outposts.ldap.filter_text import parse_text
from outposts.ldap.messages import SearchRequest
from outposts.ldap.search import SearchAnswer, Viewer, run
from tests import factories

BASE = factories.BASE_DN
OPTIONS = EntryOptions(BASE)
FULL = Viewer(1, full=True)
ALICE_ONLY = Viewer(1, full=False)


def raw(items: Iterable[Any]) -> list[msgspec.Raw]:
    """As a page of the API brings them."""
    return [msgspec.Raw(msgspec.json.encode(item)) for item in items]


def snapshot(**options: Any) -> Snapshot:
    """The case table's directory; keyword arguments as for ``EntryOptions``."""
    users, groups = factories.conformance_users(), factories.conformance_groups()
    factories.link(users, groups)
    return Snapshot.build(EntryOptions(BASE, **options), raw(users), raw(groups))


def request(
    text: str = "(objectClass=*)", attributes: Iterable[str] = (), *, base: str = BASE, scope: int = 2, **fields: Any
) -> SearchRequest:
    """A search request as the decoder makes it."""
    rest = {"deref": 0, "size_limit": 0, "time_limit": 0, "types_only": False, **fields}
    return SearchRequest(
        message_id=rest.pop("message_id", 7),
        base=base.encode(),
        scope=scope,
        filter=parse_text(text),
        attributes=tuple(name.encode() for name in attributes),
        **rest,
    )


def read_tlv(data: bytes, at: int) -> tuple[int, bytes, int]:
    """(tag, content, position behind) of one BER element."""
    tag, length, at = data[at], data[at + 1], at + 2
    if length & 0x80:
        octets = length & 0x7F
        length, at = int.from_bytes(data[at : at + octets], "big"), at + octets
    assert at + length <= len(data)
    return tag, data[at : at + length], at + length


def parts(content: bytes) -> list[tuple[int, bytes]]:
    """All elements of a constructed content."""
    found, at = [], 0
    while at < len(content):
        tag, inner, at = read_tlv(content, at)
        found.append((tag, inner))
    return found


def entries(answer: SearchAnswer, message_id: int = 7) -> dict[str, dict[str, list[str]]]:
    """DN → attribute → values, from the bytes of an answer. Checks structure and message ids on the way."""
    found: dict[str, dict[str, list[str]]] = {}
    for tag, message in parts(b"".join(answer.chunks)):
        assert tag == 0x30
        (id_tag, number), (operation, content) = parts(message)
        assert id_tag == 2
        assert int.from_bytes(number, "big") == message_id
        assert operation == 0x64
        (_, dn), (sequence, attributes) = parts(content)
        assert sequence == 0x30
        entry: dict[str, list[str]] = {}
        for _, item in parts(attributes):
            (_, name), (_, values) = parts(item)
            assert name.decode() not in entry
            entry[name.decode()] = [value.decode() for _, value in parts(values)]
        assert dn.decode() not in found
        found[dn.decode()] = entry
    assert len(found) == answer.count
    return found


def ask(
    directory: Snapshot, text: str = "(objectClass=*)", attributes: Iterable[str] = (), viewer: Viewer | None = FULL,
    **fields: Any,
) -> dict[str, dict[str, list[str]]]:  # fmt: skip
    """Search and decode; the code must be 0."""
    asked = request(text, attributes, **fields)
    answer = run(directory, asked, viewer)
    assert answer.code == 0
    return entries(answer, asked.message_id)


def names(found: Iterable[str]) -> list[str]:
    """First two values of each DN, joined: ``alice,users``; easier to read in a test. Sorted."""
    return sorted(",".join(part.partition("=")[2] for part in dn.replace("\\,", "\\2c").split(",")[:2]) for dn in found)
