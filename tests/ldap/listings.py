"""Searches with controls on a snapshot, without a connection: controls in, entries and response controls out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from outposts.ldap import listing, paging
from outposts.ldap.ber import encode_boolean, encode_integer, encode_octets, sequence, tlv
from outposts.ldap.controls import Operation, read
from outposts.ldap.directory import Snapshot
from outposts.ldap.filters import Filter, encode
from outposts.ldap.messages import Control, SearchRequest
from outposts.ldap.paging import Cookies
from outposts.ldap.rfc import ControlOid
from outposts.ldap.search import SearchAnswer, Viewer
from tests.ldap.fixture import FULL, parts

COOKIES = Cookies(bytes(paging.KEY_SIZE))


def paged(size: int, cookie: bytes = b"", critical: bool = False) -> Control:
    """Paged results, written out by hand: not by the encoder of the answer."""
    return Control(ControlOid.PAGED_RESULTS, critical, sequence(encode_integer(size), encode_octets(cookie)))


def sort(*keys: str, critical: bool = False) -> Control:
    """Sort by keys written as ``[-]attribute[:rule]``."""
    rows = []
    for key in keys:
        name, _, rule = key.removeprefix("-").partition(":")
        rows.append(
            sequence(
                encode_octets(name.encode()),
                tlv(0x80, rule.encode()) if rule else b"",
                encode_boolean(True, 0x81) if key.startswith("-") else b"",
            )
        )
    return Control(ControlOid.SORT_REQUEST, critical, sequence(*rows))


def view(before: int, after: int, offset: int = 1, count: int = 0, value: bytes | None = None) -> Control:
    """A list view."""
    target = tlv(0xA0, encode_integer(offset) + encode_integer(count)) if value is None else tlv(0x81, value)
    return Control(ControlOid.VLV_REQUEST, False, sequence(encode_integer(before), encode_integer(after), target))


def values(*items: Filter, critical: bool = False) -> Control:
    """Matched values."""
    return Control(ControlOid.MATCHED_VALUES, critical, sequence(*map(encode, items)))


def asserted(node: Filter) -> Control:
    """An assertion."""
    return Control(ControlOid.ASSERTION, True, encode(node))


def subentries(visible: bool) -> Control:
    """Subentries or not."""
    return Control(ControlOid.SUBENTRIES, True, encode_boolean(visible))


def search(
    directory: Snapshot | None,
    asked: SearchRequest,
    controls: Iterable[Control],
    viewer: Viewer | None = FULL,
    *,
    stable: bool = True,
    **more: Any,
) -> SearchAnswer:
    """One search, worked off at once."""
    steps = listing.run(
        directory,
        asked,
        viewer,
        read(tuple(controls), Operation.SEARCH),
        COOKIES,
        context=repr(viewer).encode(),
        stable=stable,
        **more,
    )
    while True:
        try:
            next(steps)
        except StopIteration as done:
            answer: SearchAnswer = done.value
            return answer


def names(answer: SearchAnswer) -> list[str]:
    """DNs in the order they came."""
    found = []
    for _, message in parts(b"".join(answer.chunks)):
        (_, _), (_, content) = parts(message)
        found.append(parts(content)[0][1].decode())
    assert len(found) == answer.count
    return found


def responses(answer: SearchAnswer) -> dict[str, bytes]:
    """Response controls by OID; each once."""
    found = {control.oid: control.value or b"" for control in answer.controls}
    assert len(found) == len(answer.controls)
    return found


def cookie_of(answer: SearchAnswer) -> bytes:
    """The cookie of the next page."""
    return paging.decode(responses(answer)[ControlOid.PAGED_RESULTS]).cookie


def estimate_of(answer: SearchAnswer) -> int:
    """The count that came with a page."""
    return paging.decode(responses(answer)[ControlOid.PAGED_RESULTS]).size


def sort_result(answer: SearchAnswer) -> tuple[int, bytes | None]:
    """Code and attribute of the sort response."""
    ((_, content),) = parts(responses(answer)[ControlOid.SORT_RESPONSE])
    rows = parts(content)
    return rows[0][1][0], rows[1][1] if len(rows) > 1 else None


def view_result(answer: SearchAnswer) -> tuple[int, int, int]:
    """Target position, count, code of the list view response."""
    ((_, content),) = parts(responses(answer)[ControlOid.VLV_RESPONSE])
    position, count, code = (int.from_bytes(value, "big") for _, value in parts(content))
    return position, count, code


def pages(
    directories: Sequence[Snapshot],
    asked: SearchRequest,
    sizes: Sequence[int],
    more: Iterable[Control] = (),
    viewer: Viewer = FULL,
    *,
    stable: bool = True,
) -> list[str]:
    """All pages; page n comes from directory n and has size n, the last ones again and again."""
    found: list[str] = []
    cookie = b""
    for number in range(10_000):
        directory = directories[min(number, len(directories) - 1)]
        size = sizes[min(number, len(sizes) - 1)]
        answer = search(directory, asked, (*more, paged(size, cookie)), viewer, stable=stable)
        assert answer.code == 0, answer
        page = names(answer)
        assert len(page) <= size
        found += page
        cookie = cookie_of(answer)
        if not cookie:
            return found
        assert page
    raise AssertionError("pages without end")
