"""Filters as set algebra with the three-valued logic of RFC 4511 §4.5.1.7: no filter scans entries.

Every filter becomes (entries for which it is true, entries for which it is Undefined); the rest is false. An unknown
attribute, an assertion value that its syntax does not allow and a rule that does not apply are Undefined for every
entry; a known attribute that an entry does not have is false.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pyroaring import BitMap

from outposts.ldap import remembered
from outposts.ldap.candidates import NARROW, Parts, is_costly, within
from outposts.ldap.directory import KIND_SHIFT, OPERATIONAL, Snapshot
from outposts.ldap.dn import DN, RDN, DNError, fold, normalise_type, prepare
from outposts.ldap.entries import Kind
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
from outposts.ldap.index import STEP, Index, value_matches
from outposts.ldap.rfc import MatchingRule
from outposts.ldap.schema import CLASS_NAMES, SYNTAXES, Syntax, integer_of

# A pair (true, undefined); ``None`` for undefined means "for no entry". Sets may belong to the snapshot: never change.
Answer = tuple[BitMap, BitMap | None]

_NOTHING = BitMap()


def evaluate(snapshot: Snapshot, node: Filter) -> Answer:
    """Evaluate a filter over all entries of a snapshot. Recursion is bounded by the decoder's nesting cap."""
    return _EVALUATORS.get(type(node), _undefined)(snapshot, node)


def matches(snapshot: Snapshot, node: Filter) -> BitMap:
    """Entries for which the filter is true."""
    return evaluate(snapshot, node)[0]


def _undefined(snapshot: Snapshot, _: object) -> Answer:
    return _NOTHING, snapshot.all


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
            return _NOTHING, None
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
    true = BitMap.union(*trues) if trues else _NOTHING
    return true, BitMap.union(*unknown) - true if unknown else None


def _not(snapshot: Snapshot, node: Not) -> Answer:
    true, undefined = evaluate(snapshot, node.child)
    rest = snapshot.all - true
    if undefined is not None:
        rest -= undefined
    return rest, undefined


def _known(snapshot: Snapshot, attribute: str) -> str | None:
    """Canonical name of the attribute of a filter; None if not in the schema. Options are not part of it."""
    kind = snapshot.schema.types.get(attribute)
    return None if kind is None else kind.names[0].lower()


def _equality(snapshot: Snapshot, node: Equality | Approx) -> Answer:
    attribute = node.attribute
    found = snapshot.resolved.get(attribute) or snapshot.resolve(attribute)
    if found is None:
        if ";" in attribute and _known(snapshot, attribute.partition(";")[0]) is not None:
            return _NOTHING, None  # no value here has an option
        return _NOTHING, snapshot.all
    canonical, letter, syntax, index = found
    if letter == "O" and canonical == "objectclass":
        name = node.value.decode("utf-8", "replace").strip().lower()
        return snapshot.classes.get(CLASS_NAMES.get(name, name), _NOTHING), None
    normalised = syntax.normalise(node.value)
    if normalised is None:
        return _NOTHING, snapshot.all
    if index is not None:
        return index.equal(normalised), None
    return (_operational(snapshot, canonical, normalised) if canonical in OPERATIONAL else _NOTHING), None


def _operational(snapshot: Snapshot, name: str, value: bytes) -> BitMap:
    """Equality on an attribute that is computed."""
    if name == "entrydn":
        for number in [snapshot.number_of(_dn_of_key(value))]:
            return BitMap((number,)) if number >= 0 else _NOTHING
    if name == "subschemasubentry":
        return snapshot.all if value == b"cn=subschema" else _NOTHING
    if name == "entryuuid":
        wanted = bytes.fromhex(value.replace(b"-", b"").decode())
        found = BitMap()
        for kind, store in snapshot.stores.items():
            uuids = bytes(store.uuids)
            position = uuids.find(wanted)
            while position >= 0:
                if position % 16 == 0:
                    found.add(kind << KIND_SHIFT | position // 16)
                position = uuids.find(wanted, position + 1)
        return found & snapshot.all
    found = BitMap()
    for number in snapshot.kinds[Kind.FIXED]:
        if _operational_key(snapshot, Kind.FIXED, number, name) == value:
            found.add(number)
    for kind in (Kind.USER, Kind.GROUP, Kind.VIRTUAL_GROUP):
        if snapshot.kinds[kind] and _operational_key(snapshot, kind, 0, name) == value:
            found |= snapshot.kinds[kind]
    return found


def _computed_order(snapshot: Snapshot, name: str, value: bytes, upwards: bool) -> BitMap:
    """Ordering on an attribute that is computed: entryUUID of each entry, numSubordinates of each kind."""

    def fits(own: bytes | None) -> bool:
        return own is not None and (own >= value if upwards else own <= value)

    if name == "entryuuid":
        limit = bytes.fromhex(value.replace(b"-", b"").decode())
        found = BitMap()
        for kind, store in snapshot.stores.items():
            uuids = bytes(store.uuids)
            each = (uuids[at : at + 16] for at in range(0, len(uuids), 16))
            found.update(
                kind << KIND_SHIFT | slot
                for slot, own in enumerate(each)
                if (own >= limit if upwards else own <= limit)
            )
        return found & snapshot.all
    found = BitMap([n for n in snapshot.kinds[Kind.FIXED] if fits(_operational_key(snapshot, Kind.FIXED, n, name))])
    for kind in (Kind.USER, Kind.GROUP, Kind.VIRTUAL_GROUP):
        if fits(_operational_key(snapshot, kind, 0, name)):
            found |= snapshot.kinds[kind]
    return found


def _operational_key(snapshot: Snapshot, kind: Kind, slot: int, name: str) -> bytes | None:
    return snapshot.schema.syntax(name).normalise(snapshot.operational_value(kind, slot, name))


def _dn_of_key(key: bytes) -> DN:
    """A DN with this key: good for looking up, not for showing."""
    from outposts.ldap.dn import Ava

    rdns = []
    for part in key.decode("utf-8", "surrogatepass").split("\x00"):
        avas = []
        for pair in part.split("\x01"):
            kind, _, value = pair.partition("=")
            avas.append(Ava(kind, value, kind))
        rdns.append(tuple(avas))
    return DN(tuple(rdns))


def _present(snapshot: Snapshot, node: Present) -> Answer:
    kind = snapshot.schema.types.get(node.attribute)
    if kind is None:
        known = ";" in node.attribute and _known(snapshot, node.attribute.partition(";")[0]) is not None
        return _NOTHING, None if known else snapshot.all
    canonical = kind.names[0].lower()
    if canonical == "objectclass" or canonical in OPERATIONAL:
        return snapshot.all, None
    index = snapshot.indexes.get(canonical)
    return (_NOTHING if index is None else index.present), None


def _indexed(snapshot: Snapshot, attribute: str) -> tuple[Index | None, Syntax] | None:
    """Index and syntax of an attribute of a filter; None if it is unknown. No index: no entry has it."""
    kind = snapshot.schema.types.get(attribute)
    if kind is None:
        base = snapshot.schema.types.get(attribute.partition(";")[0]) if ";" in attribute else None
        return None if base is None else (None, SYNTAXES[base.syntax])
    canonical = kind.names[0].lower()
    if canonical in OPERATIONAL:
        return None, SYNTAXES[kind.syntax]
    return snapshot.indexes.get(canonical), SYNTAXES[kind.syntax]


def _substrings(snapshot: Snapshot, node: Substrings) -> Answer:
    found = _indexed(snapshot, node.attribute)
    if found is None or found[1].substrings is None:
        return _NOTHING, snapshot.all
    index, syntax = found
    known = remembered.known(snapshot, node)
    if known is not None:
        return known, None
    try:
        initial = prepare_part(syntax, node.initial, ends=(False, True))
        middle = [prepare_part(syntax, part, ends=(True, True)) or b"" for part in node.any]
        final = prepare_part(syntax, node.final, ends=(True, False))
    except UnicodeError:
        return _NOTHING, snapshot.all
    if index is None:
        return _NOTHING, None
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
    found = _indexed(snapshot, attribute)
    if found is None or found[1].ordering is None:
        return _NOTHING, snapshot.all
    index, syntax = found
    normalised = syntax.normalise(value)
    if normalised is None:
        return _NOTHING, snapshot.all
    if index is None:
        kind = snapshot.schema.types.get(attribute)
        name = "" if kind is None else kind.names[0].lower()
        return (_computed_order(snapshot, name, normalised, upwards) if name in OPERATIONAL else _NOTHING), None
    return (index.between(normalised, None) if upwards else index.between(None, normalised)), None


def _greater(snapshot: Snapshot, node: GreaterOrEqual) -> Answer:
    return _ordering(snapshot, node.attribute, node.value, upwards=True)


def _less(snapshot: Snapshot, node: LessOrEqual) -> Answer:
    return _ordering(snapshot, node.attribute, node.value, upwards=False)


# Extensible match


def _extensible(snapshot: Snapshot, node: Extensible) -> Answer:
    """RFC 4511 §4.5.1.7.7, with Active Directory's bit and in-chain rules."""
    known = remembered.known(snapshot, node)
    if known is not None:
        return known, None
    rule = None if node.rule is None else RULES.get(node.rule)
    if node.rule is not None and rule is None:
        return _NOTHING, snapshot.all
    if node.attribute is not None:
        names = [node.attribute] if _indexed(snapshot, node.attribute) is not None else []
        if not names:
            return _NOTHING, snapshot.all
    else:
        # rule without type: all attributes that the rule is good for
        names = [name for name, kind in snapshot.schema.types.items()
                 if rule and kind.syntax in rule[1] and name in snapshot.indexes]  # fmt: skip
    true: BitMap = _NOTHING
    undefined: BitMap | None = None
    for name in names:
        part, unknown = _rule_match(snapshot, name, rule, node.value)
        true = true | part
        undefined = unknown if undefined is None else undefined if unknown is None else undefined | unknown
    if node.dn_attributes:
        true = true | _in_names(snapshot, node, rule)
    return true, None if undefined is None else undefined - true


def _rule_match(
    snapshot: Snapshot, attribute: str, rule: tuple[str, str] | None, value: bytes
) -> tuple[BitMap, BitMap | None]:
    kind = snapshot.schema.types.get(attribute)
    if kind is None:
        return _NOTHING, None
    if rule is None:
        return _equality(snapshot, Equality(attribute, value))
    if kind.syntax not in rule[1]:
        return _NOTHING, snapshot.all
    index = snapshot.indexes.get(kind.names[0].lower())
    if rule[0] == "ignore" and kind.syntax in _CASE_EXACT:
        return _ignoring_case(index, value), None
    if rule[0] in ("ignore", "exact") and kind.syntax not in _INDEXED_AS[rule[0]]:
        return _compared(snapshot, kind.names[0].lower(), value, prepare if rule[0] == "exact" else fold)
    if rule[0] in ("equal", "ignore", "exact"):
        return _equality(snapshot, Equality(attribute, value))
    normalised = SYNTAXES[kind.syntax].normalise(value)
    if normalised is None:
        return _NOTHING, snapshot.all
    if index is None:
        return _NOTHING, None
    if rule[0] in ("greater", "less"):
        # the ordering rules of extensible matching are "less than" (RFC 4517 §4.2)
        return index.between(None, normalised) - index.equal(normalised), None
    if rule[0] in ("bit_and", "bit_or"):
        found = BitMap()
        for _ in bit_steps(found, index, integer_of(normalised), every=rule[0] == "bit_and"):
            pass
        return found, None
    return _chain(snapshot, index, normalised), None


def bit_steps(found: BitMap, index: Index, mask: int, *, every: bool) -> Iterator[None]:
    """Add the entries with a number that has every bit, or any bit, of ``mask``: in parts of some thousand values."""
    for start in range(0, index.size, STEP):
        for place in range(start, min(start + STEP, index.size)):
            bits = integer_of(index.value(place)) & mask
            if bits == mask if every else bits != 0:
                found.update(index.numbers(place))
        yield


def _compared(snapshot: Snapshot, name: str, value: bytes, form: Callable[[str], str]) -> Answer:
    """Equality by a stricter rule than the index of the attribute has: what that finds is looked at once more."""
    try:
        wanted = form(value.decode())
    except UnicodeError:
        return _NOTHING, snapshot.all
    candidates, undefined = _equality(snapshot, Equality(name, value))
    return BitMap(
        number
        for number in candidates & snapshot.all
        if any(form(own.decode("utf-8", "replace")) == wanted for own in snapshot.values(number, name))
    ), undefined


def _ignoring_case(index: Index | None, value: bytes) -> BitMap:
    """Equality without regard to case on an attribute whose values are kept in their case."""
    found = BitMap()
    try:
        wanted = fold(value.decode())
    except UnicodeError:
        return found
    for own in () if index is None else index.values():
        if fold(own.decode()) == wanted:
            found |= index.equal(own)  # type: ignore[union-attr]
    return found


def _chain(snapshot: Snapshot, index: Index, key: bytes) -> BitMap:
    """In chain: entries whose attribute leads to ``key`` over any number of steps; circles end."""
    found = BitMap()
    waiting = [key]
    seen = {key}
    for current in waiting:
        step = (index.equal(current) & snapshot.all) - found
        found |= step
        for number in step:
            if number >> KIND_SHIFT != Kind.VIRTUAL_GROUP:
                try:
                    name = DN.parse(snapshot.dn(number)).key
                except DNError:
                    continue
                if name not in seen:
                    seen.add(name)
                    waiting.append(name)
    return found


def _in_names(snapshot: Snapshot, node: Extensible, rule: tuple[str, str] | None) -> BitMap:
    """``:dn:``: entries whose DN holds a pair of this type and value, for types that the rule is good for."""
    if rule is not None and rule[0] not in ("ignore", "exact", "less"):
        return _NOTHING  # only text stands in names here
    try:
        text = node.value.decode()
    except UnicodeError:
        return _NOTHING
    compare = prepare if rule is not None and rule[0] == "exact" else fold
    wanted = compare(text)
    ordered = rule is not None and rule[0] == "less"
    key = fold(text).encode("utf-8", "surrogatepass")
    kind = None if node.attribute is None else normalise_type(node.attribute)
    found = BitMap()
    types = snapshot.schema.types

    def fits(name: str) -> bool:
        known = types.get(name)
        return kind in (None, name) and (rule is None or (known is not None and known.syntax in rule[1]))

    def holds(rdns: tuple[RDN, ...]) -> bool:
        values = [compare(ava.value) for rdn in rdns for ava in rdn if fits(ava.type)]
        return any(value < wanted for value in values) if ordered else wanted in values

    if holds(snapshot.base.rdns):
        return snapshot.all
    for dn, container in snapshot.options.containers.items():
        if holds(DN.parse(container).rdns[:1]):
            found |= snapshot.kinds[dn] | BitMap((int(dn),))
        if fits(snapshot.options.naming[dn]):
            index = snapshot.hidden["rdn"]
            named = (index.between(None, key) - index.equal(key) if ordered else index.equal(key)) & snapshot.kinds[dn]
            if compare is prepare:
                named = BitMap(number for number in named if holds(DN.parse(snapshot.dn(number)).rdns[:1]))
            found |= named
    return found


def _named(*rules: tuple[tuple[str, str], tuple[str, str]]) -> dict[str, tuple[str, str]]:
    return {key: meaning for names, meaning in rules for key in names if key}


_CASE_EXACT = "EF"  # letters of syntaxes whose values keep their case in indexes
_INDEXED_AS = {"ignore": "SA", "exact": _CASE_EXACT}  # what the rule compares is what the index of these holds
# rule OID or lower-case name → (what to do, letters of the syntaxes it is good for)
RULES: dict[str, tuple[str, str]] = _named(
    (MatchingRule.CASE_IGNORE, ("ignore", "SET")),
    (MatchingRule.CASE_IGNORE_IA5, ("ignore", "AFS")),  # mail and the like are directory strings here
    (MatchingRule.CASE_IGNORE_ORDERING, ("less", "SA")),
    (MatchingRule.CASE_EXACT, ("exact", "SET")),
    (MatchingRule.CASE_EXACT_IA5, ("exact", "AFS")),
    (MatchingRule.CASE_EXACT_ORDERING, ("less", "EF")),
    (MatchingRule.NUMERIC_STRING, ("equal", "N")),
    (MatchingRule.NUMERIC_STRING_ORDERING, ("less", "N")),
    (MatchingRule.OCTET_STRING, ("equal", "X")),
    (MatchingRule.OCTET_STRING_ORDERING, ("less", "X")),
    (MatchingRule.DISTINGUISHED_NAME, ("equal", "D")),
    (MatchingRule.OBJECT_IDENTIFIER, ("equal", "O")),
    (MatchingRule.BOOLEAN, ("equal", "B")),
    (MatchingRule.INTEGER, ("equal", "I")),
    (MatchingRule.INTEGER_ORDERING, ("less", "I")),
    (MatchingRule.TELEPHONE_NUMBER, ("equal", "T")),
    (MatchingRule.GENERALIZED_TIME, ("equal", "G")),
    (MatchingRule.GENERALIZED_TIME_ORDERING, ("less", "G")),
    (MatchingRule.UUID, ("equal", "U")),
    (MatchingRule.BIT_AND, ("bit_and", "I")),
    (MatchingRule.BIT_OR, ("bit_or", "I")),
    (MatchingRule.IN_CHAIN, ("chain", "D")),
)

_EVALUATORS: dict[type, Callable[[Snapshot, Any], Answer]] = {
    And: _and,
    Or: _or,
    Not: _not,
    Equality: _equality,
    Approx: _equality,
    Present: _present,
    Substrings: _substrings,
    GreaterOrEqual: _greater,
    LessOrEqual: _less,
    Extensible: _extensible,
}
