"""Extensible match (RFC 4511 §4.5.1.7.7): matching rules by name, names of entries, bit rules, chains of groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pyroaring import BitMap

from outposts.ldap import remembered
from outposts.ldap.directory import KIND_SHIFT, Snapshot
from outposts.ldap.dn import DN, RDN, DNError, fold, normalise_type, prepare
from outposts.ldap.entries import Kind
from outposts.ldap.filters import Equality, Extensible
from outposts.ldap.index import STEP, Index
from outposts.ldap.items import NOTHING, Answer, equality, indexed
from outposts.ldap.rfc import MatchingRule
from outposts.ldap.schema import SYNTAXES, integer_of


def _named(*rules: tuple[tuple[str, str], tuple[str, str]]) -> dict[str, tuple[str, str]]:
    return {key: meaning for names, meaning in rules for key in names if key}


CASE_EXACT = "EF"  # letters of syntaxes whose values keep their case in indexes
INDEXED_AS = {"ignore": "SA", "exact": CASE_EXACT}  # what the rule compares is what the index of these holds
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


def extensible(snapshot: Snapshot, node: Extensible) -> Answer:
    """RFC 4511 §4.5.1.7.7, with Active Directory's bit and in-chain rules."""
    known = remembered.known(snapshot, node)
    if known is not None:
        return known, None
    rule = None if node.rule is None else RULES.get(node.rule)
    if node.rule is not None and rule is None:
        return NOTHING, snapshot.all
    if node.attribute is not None:
        names = [node.attribute] if indexed(snapshot, node.attribute) is not None else []
        if not names:
            return NOTHING, snapshot.all
    else:
        # rule without type: all attributes that the rule is good for
        names = [name for name, kind in snapshot.schema.types.items()
                 if rule and kind.syntax in rule[1] and name in snapshot.indexes]  # fmt: skip
    true: BitMap = NOTHING
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
        return NOTHING, None
    if rule is None:
        return equality(snapshot, Equality(attribute, value))
    if kind.syntax not in rule[1]:
        return NOTHING, snapshot.all
    index = snapshot.indexes.get(kind.names[0].lower())
    if rule[0] == "ignore" and kind.syntax in CASE_EXACT:
        return _ignoring_case(index, value), None
    if rule[0] in ("ignore", "exact") and kind.syntax not in INDEXED_AS[rule[0]]:
        return _compared(snapshot, kind.names[0].lower(), value, prepare if rule[0] == "exact" else fold)
    if rule[0] in ("equal", "ignore", "exact"):
        return equality(snapshot, Equality(attribute, value))
    normalised = SYNTAXES[kind.syntax].normalise(value)
    if normalised is None:
        return NOTHING, snapshot.all
    if index is None:
        return NOTHING, None
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
        return NOTHING, snapshot.all
    candidates, undefined = equality(snapshot, Equality(name, value))
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
        return NOTHING  # only text stands in names here
    try:
        text = node.value.decode()
    except UnicodeError:
        return NOTHING
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
