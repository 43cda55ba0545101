"""Matched values (RFC 3876): of each attribute only the values that match one of the control's filter items.

The items are compared with single values, not with entries, so this does not go through the index. An attribute without
a matching value is sent with an empty set, as §2 says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from outposts.ldap import filters
from outposts.ldap.ber import ProtocolError, encode_octets, expect, header, integer, octets, tlv
from outposts.ldap.dn import fold, prepare
from outposts.ldap.evaluation import prepare_part
from outposts.ldap.extensible import RULES
from outposts.ldap.filters import (
    Approx,
    Equality,
    Extensible,
    Filter,
    GreaterOrEqual,
    LessOrEqual,
    Present,
    Substrings,
    split_options,
)
from outposts.ldap.index import value_matches
from outposts.ldap.rfc import SEQUENCE, SET
from outposts.ldap.schema import SYNTAXES, AttributeType, Schema, integer_of
from outposts.ldap.wire import entry_header

MAX_ITEMS = 256
"""Filter items of one control. Each is compared with each value of an entry."""


def decode(value: bytes | None) -> tuple[Filter, ...]:
    """Read ValuesReturnFilter: items without and, or, not. Raises ``ProtocolError`` and nothing else."""
    if value is None:
        raise ProtocolError("matched values control without value", fatal=False)
    at, end = expect(value, 0, len(value), SEQUENCE)
    if end != len(value):
        raise ProtocolError("octets behind the values filter", fatal=False)
    items: list[Filter] = []
    while at < end:
        if len(items) == MAX_ITEMS:
            raise ProtocolError("too many items in the values filter", fatal=False)
        item, at = filters.decode(value, at, end, max_nesting=0)
        if isinstance(item, Extensible) and item.dn_attributes:
            raise ProtocolError("dnAttributes in the values filter", fatal=False)
        items.append(item)
    return tuple(items)


def select(messages: bytes, schema: Schema, items: Sequence[Filter]) -> bytes:
    """SearchResultEntry messages (our own, joined) with the matching values only."""
    kept = []
    position = 0
    while position < len(messages):
        _, at, end = header(messages, position, len(messages))
        message_id, at = integer(messages, at, end)
        _, at, end = header(messages, at, end)
        name_end = header(messages, at, end)[2]
        name = messages[at:name_end]
        attributes = tlv(SEQUENCE, b"".join(_attributes(messages, name_end, end, schema, items)))
        kept.append(entry_header(message_id, len(name) + len(attributes)) + name + attributes)
        position = end
    return b"".join(kept)


def _attributes(data: bytes, position: int, end: int, schema: Schema, items: Sequence[Filter]) -> Iterator[bytes]:
    at, end = expect(data, position, end, SEQUENCE)
    while at < end:
        begin, stop = expect(data, at, end, SEQUENCE)
        at = stop
        description, begin = octets(data, begin, stop)
        begin, stop = expect(data, begin, stop, SET)
        values = []
        kind = schema.types.get(description.decode().lower())
        while begin < stop:
            value, begin = octets(data, begin, stop)
            if kind is not None and any(matches(schema, kind, value, item) for item in items):
                values.append(encode_octets(value))
        yield tlv(SEQUENCE, encode_octets(description) + tlv(SET, b"".join(values)))


def matches(schema: Schema, kind: AttributeType, value: bytes, item: Filter) -> bool:
    """Whether one value of an attribute makes one item true."""
    attribute: str | None = getattr(item, "attribute", None)
    if attribute is not None:
        asked = schema.types.get(attribute) or schema.types.get(split_options(attribute)[0])
        if asked is not kind:
            return False
    if isinstance(item, Present):
        return True
    syntax = SYNTAXES[kind.syntax]
    own = syntax.normalise(value)
    if own is None:
        return False
    if isinstance(item, Substrings):
        if syntax.substrings is None:
            return False
        try:
            initial = prepare_part(syntax, item.initial, ends=(False, True)) or b""
            middle = [prepare_part(syntax, part, ends=(True, True)) or b"" for part in item.any]
            final = prepare_part(syntax, item.final, ends=(True, False))
        except UnicodeError:
            return False
        return value_matches(own, initial, middle, final)
    if isinstance(item, Extensible):
        return _extensible(kind, own, value, item)
    if not isinstance(item, Equality | Approx | GreaterOrEqual | LessOrEqual):
        return False
    wanted = syntax.normalise(item.value)
    if wanted is None:
        return False
    if isinstance(item, Equality | Approx):
        return own == wanted
    if syntax.ordering is None:
        return False
    return own >= wanted if isinstance(item, GreaterOrEqual) else own <= wanted


def _extensible(kind: AttributeType, own: bytes, value: bytes, item: Extensible) -> bool:
    """In-chain matching is about entries that lead to others, not about a value: it matches none."""
    meaning, letters = ("equal", kind.syntax) if item.rule is None else RULES.get(item.rule, ("", ""))
    if kind.syntax not in letters:
        return False
    if meaning in ("exact", "ignore"):
        form = prepare if meaning == "exact" else fold
        try:
            return form(value.decode()) == form(item.value.decode())
        except UnicodeError:
            return False
    wanted = SYNTAXES[kind.syntax].normalise(item.value)
    if wanted is None:
        return False
    if meaning in ("bit_and", "bit_or"):
        mask = integer_of(wanted)
        bits = integer_of(own) & mask
        return bits == mask if meaning == "bit_and" else bits != 0
    return own < wanted if meaning == "less" else meaning == "equal" and own == wanted
