"""Sets of entries that were expensive to find, kept with the snapshot they were found in.

Filter items are values, so an item is its own key. What is remembered can never be wrong: a snapshot does not change.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final
from weakref import WeakKeyDictionary

from pyroaring import BitMap

from outposts.ldap.directory import Snapshot
from outposts.ldap.filters import Extensible, Filter, Not, Substrings

Item = Substrings | Extensible

SETS_KEPT: Final = 32
"""Per snapshot. A set takes up to an eighth of a byte for each entry: 25 KB at 100,000 users, so 1 MB together."""

VALUE_MAX: Final = 256
"""Bytes of assertion values; longer ones are not remembered, so that a client cannot fill memory with them."""

OFTEN: Final = 16
"""Times that an item is asked for before it is found for all entries, where each time a few entries would do."""

ASKED_KEPT: Final = 256
"""Items per snapshot that are counted; then all counts begin anew."""

_asked: WeakKeyDictionary[Snapshot, dict[Filter, int]] = WeakKeyDictionary()
_sets: WeakKeyDictionary[Snapshot, OrderedDict[Item, BitMap]] = WeakKeyDictionary()


def known(snapshot: Snapshot, item: Item) -> BitMap | None:
    """The set, if it was found before. It is shared: never change it."""
    sets = _sets.get(snapshot)
    if sets is None:
        return None
    found = sets.get(item)
    if found is not None:
        sets.move_to_end(item)
    return found


def is_asked_often(snapshot: Snapshot, node: Filter) -> bool:
    """Count that this was asked for, and whether that is often enough to find it once for all."""
    if isinstance(node, Not):
        return is_asked_often(snapshot, node.child)
    if not isinstance(node, Substrings | Extensible) or _size(node) > VALUE_MAX:
        return False
    counts = _asked.setdefault(snapshot, {})
    if len(counts) >= ASKED_KEPT:
        counts.clear()
    counts[node] = count = counts.get(node, 0) + 1
    return count >= OFTEN


def remember(snapshot: Snapshot, item: Item, found: BitMap) -> None:
    """Keep a set."""
    if _size(item) > VALUE_MAX:
        return
    sets = _sets.setdefault(snapshot, OrderedDict())
    sets[item] = found
    while len(sets) > SETS_KEPT:
        sets.popitem(last=False)


def _size(item: Item) -> int:
    if isinstance(item, Substrings):
        return len(item.attribute) + sum(map(len, (item.initial or b"", *item.any, item.final or b"")))
    return len(item.attribute or "") + len(item.value)
