"""Costly parts of a filter on a few entries: their own values are compared, instead of all values of an index.

An ``and`` is as true as its most particular part: where a group or a name leaves a few hundred entries, it is quicker
to look at those than to find all entries whose address holds an ``x``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pyroaring import BitMap

from outposts.ldap import remembered
from outposts.ldap.directory import KIND_SHIFT, SLOT_MASK, Snapshot
from outposts.ldap.entries import Kind
from outposts.ldap.filters import And, Equality, Extensible, Filter, Not, Or, Present, Substrings
from outposts.ldap.index import value_matches
from outposts.ldap.rfc import MatchingRule
from outposts.ldap.syntaxes import Syntax

NARROW: Final = 400
"""Entries up to which each is looked at: some 6 µs for an attribute, so two to three milliseconds."""

INDEX_SHARE: Final = 40
"""Values of an index that are looked through in the time that one entry takes."""

BIT_RULES: Final = frozenset((MatchingRule.BIT_AND[0], MatchingRule.BIT_OR[0]))

Answer = tuple[BitMap, BitMap | None]
Parts = tuple[str, Syntax, bytes, Sequence[bytes], bytes | None]  # canonical attribute, its syntax, prepared parts


def is_costly(node: Filter) -> bool:
    """Whether evaluating this looks at every value of an index."""
    if isinstance(node, Equality | Present):
        return False
    if isinstance(node, Substrings):
        return bool(node.any) or node.final is not None
    if isinstance(node, And | Or):
        return any(map(is_costly, node.children))
    if isinstance(node, Not):
        return is_costly(node.child)
    return isinstance(node, Extensible) and node.rule in BIT_RULES


def within(
    snapshot: Snapshot,
    node: Filter,
    entries: BitMap,
    evaluate: Callable[[Snapshot, Filter], Answer],
    parts_of: Callable[[Snapshot, Substrings], Parts | None],
) -> Answer:
    """A filter on ``entries`` alone: (true, undefined), both parts of it.

    ``evaluate`` answers what is not costly; ``parts_of`` prepares a substring item, or says None where only
    ``evaluate`` can answer.
    """
    if isinstance(node, Not):
        true, undefined = within(snapshot, node.child, entries, evaluate, parts_of)
        rest = entries - true
        return (rest, None) if undefined is None else (rest - undefined, undefined)
    if isinstance(node, Or | And) and node.children:
        both = isinstance(node, And)
        answers = [within(snapshot, child, entries, evaluate, parts_of) for child in node.children]
        trues = [true for true, _ in answers]
        possible = [true if undefined is None else true | undefined for true, undefined in answers]
        true = BitMap.intersection(*trues) if both else BitMap.union(*trues)
        maybe = BitMap.intersection(*possible) if both else BitMap.union(*possible)
        return true, (maybe - true) or None
    parts = parts_of(snapshot, node) if isinstance(node, Substrings) else None
    if parts is None:
        true, undefined = evaluate(snapshot, node)
        return true & entries, None if undefined is None else undefined & entries
    assert isinstance(node, Substrings)
    known = remembered.known(snapshot, node)
    if known is not None:
        return known & entries, None
    name, syntax, initial, middle, final = parts
    index = snapshot.indexes[name]
    if index.size <= len(entries) * INDEX_SHARE or index.is_quick(initial, middle, final):
        found = index.substring(initial, middle, final)
        remembered.remember(snapshot, node, found)
        return found & entries, None
    return BitMap(
        number
        for number in entries
        if any(
            own is not None and value_matches(own, initial, middle, final)
            for own in map(syntax.normalise, _values(snapshot, number, name))
        )
    ), None


def _values(snapshot: Snapshot, number: int, name: str) -> list[bytes]:
    kind, slot = Kind(number >> KIND_SHIFT), number & SLOT_MASK
    store = snapshot.stores[kind]
    layout = snapshot.layouts[kind][store.layout_numbers[slot]]
    return store.values(slot, layout.index(name)) if name in layout else []
