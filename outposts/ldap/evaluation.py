"""Filters as set algebra with the three-valued logic of RFC 4511 §4.5.1.7: no filter scans entries.

Every filter becomes (entries for which it is true, entries for which it is Undefined); the rest is false. An unknown
attribute, an assertion value that its syntax does not allow and a rule that does not apply are Undefined for every
entry; a known attribute that an entry does not have is false.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pyroaring import BitMap

from outposts.ldap import remembered
from outposts.ldap.candidates import NARROW, Parts, is_costly, within
from outposts.ldap.directory import OPERATIONAL, Snapshot
from outposts.ldap.extensible import extensible
from outposts.ldap.filters import (
    And,
    Approx,
    Equality,
    Extensible,
    Filter,
    GreaterOrEqual,
    LessOrEqual,
    Not,
    Or,
    Present,
    Substrings,
)
from outposts.ldap.index import Index, value_matches
from outposts.ldap.items import NOTHING, Answer, computed_order, equality, indexed, present
from outposts.ldap.schema import SYNTAXES, Syntax


def evaluate(snapshot: Snapshot, node: Filter) -> Answer:
    """Evaluate a filter over all entries of a snapshot. Recursion is bounded by the decoder's nesting cap."""
    return _EVALUATORS.get(type(node), _undefined)(snapshot, node)


def matches(snapshot: Snapshot, node: Filter) -> BitMap:
    """Entries for which the filter is true."""
    return evaluate(snapshot, node)[0]


def _undefined(snapshot: Snapshot, _: object) -> Answer:
    return NOTHING, snapshot.all


def _and(snapshot: Snapshot, node: And) -> Answer:
    true: BitMap | None = None
    undefined: BitMap | None = None  # entries for which no child so far was false and one was undefined
    for child in cheap_first(node):
        left = true if undefined is None or true is None else true | undefined
        if left is not None and len(left) <= NARROW and is_costly(child):
            child_true, child_undefined = within(snapshot, child, left, evaluate, substring_parts)
        else:
            child_true, child_undefined = evaluate(snapshot, child)
        if true is None:
            true, undefined = child_true, child_undefined
        else:
            if undefined is not None or child_undefined is not None:
                possible = true if undefined is None else true | undefined
                child_possible = child_true if child_undefined is None else child_true | child_undefined
                undefined = (possible & child_possible) - (true & child_true)
            true = true & child_true
        if not true and not undefined:
            return NOTHING, None
    return (snapshot.all, None) if true is None else (true, undefined)


def cheap_first(node: And) -> Sequence[Filter]:
    """The children of an ``and``, those that look at every value of an index behind the others."""
    children = node.children
    for child in children:
        if type(child) is not Equality and type(child) is not Present and is_costly(child):
            return sorted(children, key=is_costly)
    return children


def _or(snapshot: Snapshot, node: Or) -> Answer:
    trues: list[BitMap] = []
    unknown: list[BitMap] = []
    for child in node.children:
        child_true, child_undefined = evaluate(snapshot, child)
        trues.append(child_true)
        if child_undefined is not None:
            unknown.append(child_undefined)
    true = BitMap.union(*trues) if trues else NOTHING
    return true, BitMap.union(*unknown) - true if unknown else None


def _not(snapshot: Snapshot, node: Not) -> Answer:
    true, undefined = evaluate(snapshot, node.child)
    rest = snapshot.all - true
    if undefined is not None:
        rest -= undefined
    return rest, undefined


def _substrings(snapshot: Snapshot, node: Substrings) -> Answer:
    found = indexed(snapshot, node.attribute)
    if found is None or found[1].substrings is None:
        return NOTHING, snapshot.all
    index, syntax = found
    known = remembered.known(snapshot, node)
    if known is not None:
        return known, None
    try:
        initial = prepare_part(syntax, node.initial, ends=(False, True))
        middle = [prepare_part(syntax, part, ends=(True, True)) or b"" for part in node.any]
        final = prepare_part(syntax, node.final, ends=(True, False))
    except UnicodeError:
        return NOTHING, snapshot.all
    if index is None:
        return NOTHING, None
    if not syntax.spaceless:
        spaces = [bool(part and (part[:1] == b" " or part[-1:] == b" ")) for part in (initial, *middle, final)]
        if any(spaces):
            return _with_spaces(index, initial, middle, final), None
    return index.substring(initial, middle, final), None


def substring_parts(snapshot: Snapshot, node: Substrings) -> Parts | None:
    """A substring item as ``index.substring`` takes it; None if that is not the whole question."""
    kind = snapshot.schema.types.get(node.attribute)
    if kind is None or kind.names[0].lower() not in snapshot.indexes:
        return None
    syntax = SYNTAXES[kind.syntax]
    if syntax.substrings is None:
        return None
    try:
        initial = prepare_part(syntax, node.initial, ends=(False, True)) or b""
        middle = [prepare_part(syntax, part, ends=(True, True)) or b"" for part in node.any]
        final = prepare_part(syntax, node.final, ends=(True, False))
    except UnicodeError:
        return None
    if not syntax.spaceless and any(b" " in (part[:1], part[-1:]) for part in (initial, *middle, final or b"")):
        return None
    return kind.names[0].lower(), syntax, initial, middle, final


def _with_spaces(index: Index, initial: bytes | None, middle: list[bytes], final: bytes | None) -> BitMap:
    """Parts with a space at an end, as RFC 4518 §2.6.1 says: values begin and end with one space, hold two inside."""

    def doubled(part: bytes) -> bytes:
        return part[:1] + part[1:-1].replace(b" ", b"  ") + part[-1:] if len(part) > 1 else part

    first = b"" if not initial else b" " + doubled(initial)
    last = b"" if not final else doubled(final) + b" "
    parts = [doubled(part) for part in middle]
    longest = max([part.strip(b" ") for part in (initial or b"", *middle, final or b"")], key=len)
    found = BitMap()
    for value in index.values():
        if longest in value and value_matches(b" " + value.replace(b" ", b"  ") + b" ", first, parts, last):
            found |= index.equal(value)
    return found


def prepare_part(syntax: Syntax, part: bytes | None, ends: tuple[bool, bool]) -> bytes | None:
    """Prepare one part of a substring assertion. ``ends``: may a space at its start, at its end be inside the value?

    RFC 4518 §2.6.1 squeezes spaces; a space where the part meets the rest of the value counts as one.
    """
    if part is None:
        return None
    text = part.decode()
    folded = syntax.prepare(text).encode("utf-8", "surrogatepass")
    if syntax.spaceless:
        return folded.replace(b" ", b"")
    if not folded:
        return b" " if text and all(ends) else b""
    if ends[0] and text[0].isspace():
        folded = b" " + folded
    if ends[1] and text[-1].isspace():
        folded += b" "
    return folded


def _ordering(snapshot: Snapshot, attribute: str, value: bytes, upwards: bool) -> Answer:
    found = indexed(snapshot, attribute)
    if found is None or found[1].ordering is None:
        return NOTHING, snapshot.all
    index, syntax = found
    normalised = syntax.normalise(value)
    if normalised is None:
        return NOTHING, snapshot.all
    if index is None:
        kind = snapshot.schema.types.get(attribute)
        name = "" if kind is None else kind.names[0].lower()
        return (computed_order(snapshot, name, normalised, upwards) if name in OPERATIONAL else NOTHING), None
    return (index.between(normalised, None) if upwards else index.between(None, normalised)), None


def _greater(snapshot: Snapshot, node: GreaterOrEqual) -> Answer:
    return _ordering(snapshot, node.attribute, node.value, upwards=True)


def _less(snapshot: Snapshot, node: LessOrEqual) -> Answer:
    return _ordering(snapshot, node.attribute, node.value, upwards=False)


_EVALUATORS: dict[type, Callable[[Snapshot, Any], Answer]] = {
    And: _and,
    Or: _or,
    Not: _not,
    Equality: equality,
    Approx: equality,
    Present: present,
    Substrings: _substrings,
    GreaterOrEqual: _greater,
    LessOrEqual: _less,
    Extensible: extensible,
}
