"""Virtual list views (draft-ietf-ldapext-ldapv3-vlv-09): the control's values and the window they mean.

A window is asked for by position or by value in a sorted result. Nothing is remembered for a client: positions count in
the directory as it is now, so no context identifier is given out, and one that is sent is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from outposts.ldap.ber import (
    ProtocolError,
    encode_enumerated,
    encode_integer,
    expect,
    header,
    integer,
    octets,
    sequence,
    skip_rest,
)
from outposts.ldap.rfc import MAX_INT, OCTET_STRING, SEQUENCE

BY_OFFSET: Final = 0xA0
BY_VALUE: Final = 0x81


class ListView(msgspec.Struct, frozen=True):
    """VirtualListViewRequest. Either ``value`` is there, or ``offset`` and the client's idea of the total count."""

    before: int
    after: int
    offset: int = 0
    count: int = 0
    value: bytes | None = None


def decode(value: bytes | None) -> ListView:
    """Read the control value. Raises ``ProtocolError`` and nothing else."""
    if value is None:
        raise ProtocolError("list view control without value", fatal=False)
    at, end = expect(value, 0, len(value), SEQUENCE)
    before, at = integer(value, at, end)
    after, at = integer(value, at, end)
    tag, start, stop = header(value, at, end)
    offset = count = 0
    wanted: bytes | None = None
    if tag == BY_OFFSET:
        offset, start = integer(value, start, stop)
        count, start = integer(value, start, stop)
        skip_rest(value, start, stop)
    elif tag == BY_VALUE:
        wanted = value[start:stop]
    else:
        raise ProtocolError("not a list view target", fatal=False)
    if stop < end and value[stop] == OCTET_STRING:
        _, stop = octets(value, stop, end)
    skip_rest(value, stop, end)
    if end != len(value) or not all(0 <= number <= MAX_INT for number in (before, after, offset, count)):
        raise ProtocolError("not a list view control value", fatal=False)
    return ListView(before, after, offset, count, wanted)


def encode(position: int, count: int, code: int) -> bytes:
    """Value of the response control: position of the target (from 1), entries in the list, result."""
    return sequence(encode_integer(position), encode_integer(count), encode_enumerated(code))


def target_by_offset(view: ListView, total: int) -> int | None:
    """Position of the target (from 1) in a list of ``total`` entries; None for an offset that is out of range.

    A client that thinks of another count means the same share of the list, its ends exactly.
    """
    if view.offset < 1:
        return None
    if not view.count or view.count == total:
        return min(view.offset, total + 1)
    if view.offset > view.count:
        return total + 1
    if view.offset == 1:
        return min(1, total + 1)
    if view.offset == view.count:
        return max(1, total)
    return min(max(1, total * view.offset // view.count), total + 1)


def first_position(total: int, reached: Callable[[int], bool]) -> int:
    """Position (from 1) of the first entry for which ``reached(index from 0)`` holds; behind the last if none does.

    Bisection: once it holds it holds for all that follow.
    """
    low, high = 0, total
    while low < high:
        middle = (low + high) // 2
        if reached(middle):
            high = middle
        else:
            low = middle + 1
    return low + 1


def window(view: ListView, target: int, total: int) -> range:
    """Indexes (from 0) of the entries around the target, cut at the ends of the list."""
    return range(max(0, target - 1 - view.before), min(total, target + view.after))
