"""Filter items that have to look at every value of a large index: worked off in steps, before the filter is evaluated.

Most filters are a few look-ups. A substring in the middle of a value, or a bit rule, goes through all values of an
attribute, which for a hundred thousand users takes longer than the loop may be held. ``work`` does that in steps and
leaves the sets where the evaluator finds them (``remembered``), for further pages and later searches too.

Where the rest of an ``and`` leaves few entries, the evaluator looks at those alone (``candidates``); then nothing is
heavy, unless it is asked again and again: then to know it is cheaper.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pyroaring import BitMap

from outposts.ldap import remembered
from outposts.ldap.candidates import BIT_RULES, NARROW, is_costly
from outposts.ldap.directory import Snapshot
from outposts.ldap.evaluation import cheap_first, evaluate, substring_parts
from outposts.ldap.extensible import bit_steps
from outposts.ldap.filters import And, Equality, Extensible, Filter, Not, Or, Present, Substrings
from outposts.ldap.remembered import Item
from outposts.ldap.rfc import MatchingRule
from outposts.ldap.schema import integer_of

LARGE: Final = 4096
"""Values of an index from which going through all of them is done in steps: about a millisecond."""


def items(snapshot: Snapshot, node: Filter) -> list[Item]:
    """The items of a filter that would hold the loop."""
    found: list[Item] = []
    if type(node) is not Equality and type(node) is not Present:
        _collect(snapshot, node, found)
    return found


def _collect(snapshot: Snapshot, node: Filter, found: list[Item]) -> None:
    if isinstance(node, And):
        costly = [child for child in node.children if is_costly(child)]
        if costly:
            few = _few_left(snapshot, node, len(costly))
            for child in costly:
                if not few or remembered.is_asked_often(snapshot, child):
                    _collect(snapshot, child, found)
    elif isinstance(node, Or):
        for child in node.children:
            _collect(snapshot, child, found)
    elif isinstance(node, Not):
        _collect(snapshot, node.child, found)
    elif isinstance(node, Substrings | Extensible) and is_costly(node):
        if remembered.known(snapshot, node) is None and _steps(snapshot, node, BitMap()) is not None:
            found.append(node)


def _few_left(snapshot: Snapshot, node: And, costly: int) -> bool:
    """Whether the other children of an ``and`` leave so few entries that these are looked at one by one."""
    children = cheap_first(node)
    if len(children) == costly:
        return False
    true, undefined = evaluate(snapshot, And(tuple(children[: len(children) - costly])))
    return len(true) + (0 if undefined is None else len(undefined)) <= NARROW


def work(snapshot: Snapshot, node: Filter) -> Iterator[None]:
    """Find the sets of the heavy items of a filter, a step at a time."""
    for item in items(snapshot, node):
        found = BitMap()
        steps = _steps(snapshot, item, found)
        if steps is not None:
            yield from steps
            remembered.remember(snapshot, item, found)


def _steps(snapshot: Snapshot, item: Item, found: BitMap) -> Iterator[None] | None:
    """The work on one item, which fills ``found``; None if there is little, or none that can be done in steps."""
    if isinstance(item, Substrings):
        parts = substring_parts(snapshot, item)
        if parts is None:
            return None
        name, _, initial, middle, final = parts
        index = snapshot.indexes[name]
        if index.size <= LARGE or index.is_quick(initial, middle, final):
            return None
        return index.substring_steps(found, initial, middle, final)
    kind = snapshot.schema.types.get(item.attribute or "")
    if item.rule not in BIT_RULES or kind is None or kind.syntax != "I" or item.dn_attributes:
        return None
    numbers = snapshot.indexes.get(kind.names[0].lower())
    mask = snapshot.schema.syntax(kind.names[0].lower()).normalise(item.value)
    if numbers is None or numbers.size <= LARGE or mask is None:
        return None
    return bit_steps(found, numbers, integer_of(mask), every=item.rule == MatchingRule.BIT_AND[0])
