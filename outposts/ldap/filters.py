"""Search filters: the tree and its BER form (RFC 4511 §4.5.1.7). :mod:`filter_text` has the text form.

The tree is made of small immutable values. Attribute descriptions in it are lower case and well formed
(``cn``, ``cn;lang-de``, ``2.5.4.3``); values are the octets the client sent. A filter item whose attribute description
is malformed, or whose kind is not defined, is no error but :class:`Undefined`, as three-valued logic wants it.

Reading and writing are iterative, so that no nesting can exhaust the stack; the nesting is capped nevertheless because
later stages may walk the tree recursively.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import msgspec

from common.errors import OutpostError
from outposts.ldap.ber import ProtocolError, boolean, expect, header, octets, skip_rest, tlv
from outposts.ldap.rfc import OCTET_STRING, SEQUENCE

MAX_NESTING: Final = 40
"""Levels of and/or/not. Clients in the field use up to 6, 389 Directory Server stops at 40; walking 40 levels
recursively stays far from Python's limit of 1,000 frames."""

MAX_ITEMS: Final = 5_000
"""Items, and empty and/or/not, of one filter. Some programs list a few hundred names; reading and evaluating this many
takes some 30 ms, during which nobody else is served."""

MAX_CACHED_DESCRIPTION: Final = 64
"""Bytes. Longer attribute descriptions are legal but not remembered, so that a client cannot fill memory with them."""

CACHED_DESCRIPTIONS: Final = 2048
"""Remembered attribute descriptions: some hundred names in a few spellings are in use; worst case about 500 KiB."""


class FilterError(OutpostError):
    """A text is not a filter. ``position`` is the offset in characters."""

    def __init__(self, problem: str, position: int) -> None:
        super().__init__(f"{problem} at offset {position}")
        self.problem = problem
        self.position = position


class And(msgspec.Struct, frozen=True):
    """All children hold. Without children: true (RFC 4526)."""

    children: tuple[Filter, ...]


class Or(msgspec.Struct, frozen=True):
    """One child holds. Without children: false (RFC 4526)."""

    children: tuple[Filter, ...]


class Not(msgspec.Struct, frozen=True):
    """The child is false. Undefined stays undefined."""

    child: Filter


class Equality(msgspec.Struct, frozen=True, gc=False):
    """``attribute`` has a value equal to ``value``."""

    attribute: str
    value: bytes


class Substrings(msgspec.Struct, frozen=True):
    """A value begins with ``initial``, holds each of ``any`` in this order behind it, and ends with ``final``."""

    attribute: str
    initial: bytes | None
    any: tuple[bytes, ...]
    final: bytes | None


class GreaterOrEqual(msgspec.Struct, frozen=True, gc=False):
    """A value is at or behind ``value`` in the order of the attribute's ordering rule."""

    attribute: str
    value: bytes


class LessOrEqual(msgspec.Struct, frozen=True, gc=False):
    """A value is at or before ``value`` in the order of the attribute's ordering rule."""

    attribute: str
    value: bytes


class Present(msgspec.Struct, frozen=True, gc=False):
    """The attribute has a value."""

    attribute: str


class Approx(msgspec.Struct, frozen=True, gc=False):
    """A value is approximately ``value``; what that means is the server's choice."""

    attribute: str
    value: bytes


class Extensible(msgspec.Struct, frozen=True, gc=False):
    """RFC 4511 §4.5.1.7.7. ``rule`` is a lower-case OID or name. One of ``rule`` and ``attribute`` may be None."""

    rule: str | None
    attribute: str | None
    value: bytes
    dn_attributes: bool = False


class Undefined(msgspec.Struct, frozen=True, gc=False):
    """An item that is neither true nor false for any entry. ``raw`` is its encoding, so that nothing is lost."""

    raw: bytes


Filter = (
    And | Or | Not | Equality | Substrings | GreaterOrEqual | LessOrEqual | Present | Approx | Extensible | Undefined
)

AND: Final = 0xA0
OR: Final = 0xA1
NOT: Final = 0xA2
EQUALITY: Final = 0xA3
SUBSTRINGS: Final = 0xA4
GREATER_OR_EQUAL: Final = 0xA5
LESS_OR_EQUAL: Final = 0xA6
PRESENT: Final = 0x87
APPROX: Final = 0xA8
EXTENSIBLE: Final = 0xA9
FIRST_UNKNOWN_CHOICE: Final = 10  # context tags from here on are kinds that RFC 4511 does not define

INITIAL: Final = 0x80
ANY: Final = 0x81
FINAL: Final = 0x82

DESCRIPTION: Final = re.compile(
    r"""
    (?: [0-9]+ (?: \.[0-9]+ )*                        # numericoid, RFC 4512 §1.4
      | [^\x00-\x20\x7f"#$&'()*+,;:<=>@\\|~!0-9.-][^\x00-\x20\x7f"&'()*,;:<=>\\|~!]* )
    (?: ; [A-Za-z0-9-]+ )*                            # options, RFC 4512 §2.5.2
    """,
    re.VERBOSE,
)
"""Attribute descriptions we take. Wider than ``keystring`` of RFC 4512 §1.4: the directory's own names hold ``_``,
``.`` and ``/``, and custom attributes may hold letters beyond ASCII."""


def _normalise(description: bytes) -> str | None:
    try:
        text = description.decode()
    except UnicodeDecodeError:
        return None
    return text.lower() if DESCRIPTION.fullmatch(text) else None


_normalise_cached = lru_cache(CACHED_DESCRIPTIONS)(_normalise)


def attribute_description(description: bytes) -> str | None:
    """Lower-case form of an attribute description (RFC 4512 §2.5), or None when it is malformed."""
    if len(description) <= MAX_CACHED_DESCRIPTION:
        return _normalise_cached(description)
    return _normalise(description)


def split_options(attribute: str) -> tuple[str, frozenset[str]]:
    """Attribute type and options of a normalised description: ``cn;lang-de`` → ``cn``, ``{lang-de}``."""
    kind, *options = attribute.split(";")
    return kind, frozenset(options)


def decode(data: bytes, position: int, end: int, max_nesting: int = MAX_NESTING) -> tuple[Filter, int]:
    """Read one filter: ``(filter, position behind it)``. Raises :class:`ProtocolError` and nothing else."""
    # One frame per open and/or/not: (its tag, end of its content, end of what holds it, children so far).
    open_tags: list[int] = []
    open_limits: list[int] = []
    open_children: list[list[Filter]] = []
    children: list[Filter] = []
    limit = end
    count = 0
    while True:
        tag, start, stop = header(data, position, limit)
        node: Filter
        if tag == EQUALITY:
            node = _assertion(data, position, start, stop, Equality)
        elif AND <= tag <= NOT:
            if len(open_tags) >= max_nesting:
                raise ProtocolError("filter nested too deep", fatal=False)
            if start < stop:
                open_tags.append(tag)
                open_limits.append(limit)
                open_children.append(children)
                children = []
                limit = stop
                position = start
                continue
            if tag == NOT:
                raise ProtocolError("not-filter without content")
            node = And(()) if tag == AND else Or(())
        elif tag == PRESENT:
            attribute = attribute_description(data[start:stop])
            node = Undefined(data[position:stop]) if attribute is None else Present(attribute)
        elif tag == SUBSTRINGS:
            node = _substrings(data, position, start, stop)
        elif tag == GREATER_OR_EQUAL:
            node = _assertion(data, position, start, stop, GreaterOrEqual)
        elif tag == LESS_OR_EQUAL:
            node = _assertion(data, position, start, stop, LessOrEqual)
        elif tag == APPROX:
            node = _assertion(data, position, start, stop, Approx)
        elif tag == EXTENSIBLE:
            node = _extensible(data, position, start, stop)
        elif tag & 0xC0 == 0x80 and tag & 0x1F >= FIRST_UNKNOWN_CHOICE:
            node = Undefined(data[position:stop])
        else:
            raise ProtocolError("not a filter choice")
        position = stop
        while True:
            if not open_tags:
                return node, position
            count += 1
            if count > MAX_ITEMS:
                raise ProtocolError("too many items in the filter", fatal=False)
            children.append(node)
            if position < limit:
                break
            tag = open_tags.pop()
            if tag == AND:
                node = And(tuple(children))
            elif tag == OR:
                node = Or(tuple(children))
            elif len(children) == 1:
                node = Not(children[0])
            else:
                raise ProtocolError("not-filter with several children")
            children = open_children.pop()
            limit = open_limits.pop()


AssertionKind = type[Equality] | type[GreaterOrEqual] | type[LessOrEqual] | type[Approx]


def _assertion(data: bytes, position: int, start: int, stop: int, kind: AssertionKind) -> Filter:
    """AttributeValueAssertion, RFC 4511 §4.1.6."""
    begin, middle = expect(data, start, stop, OCTET_STRING)
    value_start, value_stop = expect(data, middle, stop, OCTET_STRING)
    if value_stop != stop:
        skip_rest(data, value_stop, stop)
    attribute = attribute_description(data[begin:middle])
    if attribute is None:
        return Undefined(data[position:stop])
    return kind(attribute, data[value_start:value_stop])


def _substrings(data: bytes, position: int, start: int, stop: int) -> Filter:
    """SubstringFilter, RFC 4511 §4.5.1.7.2: initial only first, final only last, at least one of them all."""
    description, next_position = octets(data, start, stop)
    begin, limit = expect(data, next_position, stop, SEQUENCE)
    skip_rest(data, limit, stop)
    if begin == limit:
        raise ProtocolError("substring filter without substrings")
    initial: bytes | None = None
    final: bytes | None = None
    middle: list[bytes] = []
    at = begin
    while at < limit:
        tag, value_start, value_stop = header(data, at, limit)
        if final is not None:
            raise ProtocolError("substring behind the final one")
        if tag == ANY:
            middle.append(data[value_start:value_stop])
        elif tag == INITIAL:
            if at != begin:
                raise ProtocolError("initial substring is not the first")
            initial = data[value_start:value_stop]
        elif tag == FINAL:
            final = data[value_start:value_stop]
        else:
            raise ProtocolError("not a substring choice")
        at = value_stop
    attribute = attribute_description(description)
    if attribute is None:
        return Undefined(data[position:stop])
    return Substrings(attribute, initial, tuple(middle), final)


def _extensible(data: bytes, position: int, start: int, stop: int) -> Filter:
    """MatchingRuleAssertion, RFC 4511 §4.5.1.7.7."""
    raw_rule: bytes | None = None
    raw_attribute: bytes | None = None
    dn_attributes = False
    at = start
    if at < stop and data[at] == 0x81:
        raw_rule, at = octets(data, at, stop, 0x81)
    if at < stop and data[at] == 0x82:
        raw_attribute, at = octets(data, at, stop, 0x82)
    value, at = octets(data, at, stop, 0x83)
    if at < stop and data[at] == 0x84:
        dn_attributes, at = boolean(data, at, stop, 0x84)
    skip_rest(data, at, stop)
    if raw_rule is None and raw_attribute is None:
        raise ProtocolError("extensible match without rule and type", fatal=False)
    rule = None if raw_rule is None else attribute_description(raw_rule)
    attribute = None if raw_attribute is None else attribute_description(raw_attribute)
    if (raw_rule is not None and (rule is None or ";" in rule)) or (raw_attribute is not None and attribute is None):
        return Undefined(data[position:stop])
    return Extensible(rule, attribute, value, dn_attributes)


def encode(node: Filter) -> bytes:
    """The BER form of a filter."""
    # Post-order over an explicit stack: parts are joined when all children of a node are encoded.
    results: list[list[bytes]] = [[]]
    work: list[tuple[Filter, bool]] = [(node, False)]
    while work:
        current, done = work.pop()
        if isinstance(current, And | Or | Not):
            if done:
                content = b"".join(results.pop())
                tag = AND if isinstance(current, And) else OR if isinstance(current, Or) else NOT
                results[-1].append(tlv(tag, content))
            else:
                results.append([])
                work.append((current, True))
                children = (current.child,) if isinstance(current, Not) else current.children
                work.extend((child, False) for child in reversed(children))
        else:
            results[-1].append(_encode_item(current))
    return results[0][0]


_ASSERTION_TAGS: Final = {
    Equality: EQUALITY,
    GreaterOrEqual: GREATER_OR_EQUAL,
    LessOrEqual: LESS_OR_EQUAL,
    Approx: APPROX,
}


def _encode_item(
    node: Equality | Substrings | GreaterOrEqual | LessOrEqual | Present | Approx | Extensible | Undefined,
) -> bytes:
    if isinstance(node, Equality | GreaterOrEqual | LessOrEqual | Approx):
        content = tlv(OCTET_STRING, node.attribute.encode()) + tlv(OCTET_STRING, node.value)
        return tlv(_ASSERTION_TAGS[type(node)], content)
    if isinstance(node, Present):
        return tlv(PRESENT, node.attribute.encode())
    if isinstance(node, Substrings):
        parts = [] if node.initial is None else [tlv(INITIAL, node.initial)]
        parts.extend(tlv(ANY, part) for part in node.any)
        if node.final is not None:
            parts.append(tlv(FINAL, node.final))
        return tlv(SUBSTRINGS, tlv(OCTET_STRING, node.attribute.encode()) + tlv(SEQUENCE, b"".join(parts)))
    if isinstance(node, Extensible):
        content = b"" if node.rule is None else tlv(0x81, node.rule.encode())
        if node.attribute is not None:
            content += tlv(0x82, node.attribute.encode())
        content += tlv(0x83, node.value)
        if node.dn_attributes:
            content += b"\x84\x01\xff"
        return tlv(EXTENSIBLE, content)
    return node.raw
