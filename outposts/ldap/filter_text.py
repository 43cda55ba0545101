"""Filters as text (RFC 4515): for logs, the doctor and tests. The wire never passes through here.

:func:`to_text` and :func:`parse_text` are inverse to each other, except for what the text form cannot say: an
:class:`Undefined` item is written ``(?undefined)``, empty substrings are not read back, a rule cannot be called ``dn``.
Both are iterative.
"""

from __future__ import annotations

import re
from typing import Final

from outposts.ldap.filters import (
    MAX_NESTING,
    And,
    Approx,
    Equality,
    Extensible,
    Filter,
    FilterError,
    GreaterOrEqual,
    LessOrEqual,
    Not,
    Or,
    Present,
    Substrings,
    Undefined,
    attribute_description,
)

_MUST_ESCAPE: Final = frozenset(b"*()\\\x00")
_VALUE_END: Final = re.compile(r"[()]")
_OPERATOR: Final = re.compile(r"([^=~<>:()]*+)(:?[^=~<>()]*?:=|~=|>=|<=|=)", re.DOTALL)


def escape(value: bytes) -> str:
    r"""An assertion value in a filter's text: ``*``, ``(``, ``)``, ``\``, NUL and what is not UTF-8 as ``\xx`` (§3)."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return "".join(
            chr(octet) if 0x20 <= octet < 0x7F and octet not in _MUST_ESCAPE else f"\\{octet:02x}" for octet in value
        )
    if text.isalnum():
        return text
    return "".join(
        f"\\{ord(character):02x}" if character in "*()\\" or character < " " or character == "\x7f" else character
        for character in text
    )


def to_text(node: Filter) -> str:
    """The filter in RFC 4515 form."""
    parts: list[str] = []
    work: list[Filter | str] = [node]
    while work:
        current = work.pop()
        if isinstance(current, str):
            parts.append(current)
        elif isinstance(current, Not):
            parts.append("(!")
            work += [")", current.child]
        elif isinstance(current, And | Or):
            parts.append("(&" if isinstance(current, And) else "(|")
            work.append(")")
            work.extend(reversed(current.children))
        else:
            parts.append(f"({_item_text(current)})")
    return "".join(parts)


def _item_text(
    node: Equality | Substrings | GreaterOrEqual | LessOrEqual | Present | Approx | Extensible | Undefined,
) -> str:
    if isinstance(node, Equality):
        return f"{node.attribute}={escape(node.value)}"
    if isinstance(node, Present):
        return f"{node.attribute}=*"
    if isinstance(node, GreaterOrEqual):
        return f"{node.attribute}>={escape(node.value)}"
    if isinstance(node, LessOrEqual):
        return f"{node.attribute}<={escape(node.value)}"
    if isinstance(node, Approx):
        return f"{node.attribute}~={escape(node.value)}"
    if isinstance(node, Substrings):
        pieces = [node.initial or b"", *node.any, node.final or b""]
        return f"{node.attribute}={'*'.join(escape(piece) for piece in pieces)}"
    if isinstance(node, Extensible):
        dn_attributes = ":dn" if node.dn_attributes else ""
        rule = "" if node.rule is None else f":{node.rule}"
        return f"{node.attribute or ''}{dn_attributes}{rule}:={escape(node.value)}"
    return "?undefined"


def parse_text(text: str, max_nesting: int = MAX_NESTING) -> Filter:
    """Read a filter in RFC 4515 form, outer parentheses optional. Raises :class:`FilterError` and nothing else."""
    stripped = text.strip(" ")
    if not stripped.startswith("("):
        return _parse_item(stripped, 0)
    opened: list[tuple[str, list[Filter]]] = []
    children: list[Filter] = []
    position = len(text) - len(text.lstrip(" "))
    while True:
        position = _skip_spaces(text, position)
        if position >= len(text):
            raise FilterError("filter without end", position)
        node: Filter
        if text[position] == "(":
            operator = text[position + 1 : position + 2]
            if operator in ("&", "|", "!"):
                if len(opened) >= max_nesting:
                    raise FilterError("filter nested too deep", position)
                opened.append((operator, children))
                children = []
                position += 2
                continue
            end = _VALUE_END.search(text, position + 1)
            if end is None or end[0] == "(":
                raise FilterError("item without end", position)
            node = _parse_item(text[position + 1 : end.start()], position + 1)
            position = end.end()
        elif text[position] == ")" and opened:
            operator, outer = opened.pop()
            if operator == "!":
                if len(children) != 1:
                    raise FilterError("not-filter needs exactly one child", position)
                node = Not(children[0])
            else:
                node = And(tuple(children)) if operator == "&" else Or(tuple(children))
            children = outer
            position += 1
        else:
            raise FilterError("'(' expected", position)
        if not opened:
            if _skip_spaces(text, position) != len(text):
                raise FilterError("text behind the filter", position)
            return node
        children.append(node)


def _skip_spaces(text: str, position: int) -> int:
    while position < len(text) and text[position] == " ":
        position += 1
    return position


def _parse_item(text: str, offset: int) -> Filter:
    match = _OPERATOR.match(text)
    if match is None:
        raise FilterError("item without operator", offset)
    operator = match[2]
    value = text[match.end() :]
    if operator.endswith(":="):
        return _parse_extensible(match[1] + operator[:-2], _unescape(value, offset + match.end()), offset)
    attribute = _description(match[1], offset)
    if operator != "=":
        octets = _unescape(value, offset + match.end())
        if operator == ">=":
            return GreaterOrEqual(attribute, octets)
        return LessOrEqual(attribute, octets) if operator == "<=" else Approx(attribute, octets)
    if value == "*":
        return Present(attribute)
    if "*" in value:
        initial, *middle, final = (_unescape(piece, offset + match.end()) for piece in value.split("*"))
        if b"" in middle or not (initial or middle or final):
            raise FilterError("empty substring", offset)
        return Substrings(attribute, initial or None, tuple(middle), final or None)
    return Equality(attribute, _unescape(value, offset + match.end()))


def _parse_extensible(left: str, value: bytes, offset: int) -> Filter:
    """``attr[:dn][:rule]`` or ``[:dn]:rule`` (§3)."""
    attribute, *rest = left.split(":")
    dn_attributes = bool(rest) and rest[0].lower() == "dn"
    if dn_attributes:
        rest = rest[1:]
    if len(rest) > 1 or (not rest and not attribute):
        raise FilterError("malformed extensible match", offset)
    rule = _description(rest[0], offset) if rest else None
    return Extensible(rule, _description(attribute, offset) if attribute else None, value, dn_attributes)


def _description(text: str, offset: int) -> str:
    try:
        found = attribute_description(text.encode())
    except UnicodeEncodeError:
        found = None
    if found is None:
        raise FilterError("malformed attribute description", offset)
    return found


def _unescape(text: str, offset: int) -> bytes:
    if "*" in text:
        raise FilterError("'*' needs an escape here", offset)
    try:
        if "\\" not in text:
            return text.encode()
        first, *rest = text.split("\\")
        pieces = [first.encode()]
        for piece in rest:
            if not re.fullmatch("[0-9a-fA-F]{2}", piece[:2]):
                raise FilterError("malformed escape", offset)
            pieces += [bytes.fromhex(piece[:2]), piece[2:].encode()]
    except UnicodeEncodeError:
        raise FilterError("character outside Unicode text", offset) from None
    return b"".join(pieces)
