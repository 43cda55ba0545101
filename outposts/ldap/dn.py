"""Distinguished names: parsed, comparable, printable (RFC 4514), with the tolerance of RFC 4514 §4 towards RFC 2253.

Two names are equal when their ``key`` is. The key is made so:

* attribute types: lower case, OIDs and long names replaced by the short name (:data:`rfc.ATTRIBUTE_TYPES`);
* values: :func:`fold`, the caseIgnoreMatch preparation of RFC 4518 (mapping, NFKC, case folding, insignificant
  spaces). It is applied to every type, case-exact ones too: no name in this directory differs only by case;
* the pairs of a multi-valued RDN sorted; RDNs joined by NUL, pairs by U+0001, which no prepared value can hold.

So ``name.key`` ends with NUL + ``base.key`` exactly when the name lies below the base.
Values are text. A ``#`` value whose BER is a string type counts as that string, any other stays opaque hex.
Parsing raises :class:`DNError` and nothing else.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

import msgspec

from common.errors import OutpostError
from outposts.ldap.ber import ProtocolError, header
from outposts.ldap.rfc import ATTRIBUTE_TYPES

MAX_LENGTH: Final = 4096
"""Bytes of a name as sent. Usernames hold at most 150 characters and bases a few labels; escapes may triple that."""

MAX_RDNS: Final = 64
"""Relative names in one name. Directories in the field stay below 20."""

MAX_CACHED_LENGTH: Final = 256
"""Bytes. Longer names are parsed each time, so that a client cannot fill memory with them."""

CACHED_NAMES: Final = 2048
"""Remembered names: search bases and bind names in use. Usually 2 MiB; 40 MiB if all have 256 bytes and 64 RDNs."""

STRING_TAGS: Final = {0x0C: "utf-8", 0x13: "ascii", 0x16: "ascii", 0x12: "ascii", 0x04: "utf-8", 0x1E: "utf-16-be"}
"""BER types whose ``#`` form is taken as text: UTF8String, PrintableString, IA5String, NumericString, OCTET STRING,
BMPString."""

OPAQUE: Final = "\x02"
"""Marks an opaque ``#`` value in a key, so that it never equals the text ``#…``."""

_TYPE = re.compile(r"(?:(?:oid\.)?[0-9]+(?:\.[0-9]+)*|[a-z][a-z0-9-]*)", re.IGNORECASE)
_HEX_VALUE = re.compile(r"#((?:[0-9a-fA-F]{2})+)")
_PLAIN = re.compile(r'[^\\",+;=#<>\x00]+')
_ESCAPED = frozenset('"+,;<>\\ #=')
_HEX = frozenset("0123456789abcdefABCDEF")


class DNError(OutpostError):
    """A text is not a distinguished name: invalidDNSyntax (34) where a client sent it."""


class Ava(msgspec.Struct, frozen=True, gc=False):
    """One attribute type and value.

    ``type`` is normalised (lower case, short name), ``name`` as it was written, ``value`` the unescaped text.
    ``hex`` holds the octets of a ``#`` value and is None otherwise.
    """

    type: str
    value: str
    name: str
    hex: bytes | None = None

    def __str__(self) -> str:
        if self.hex is not None:
            return f"{self.name}=#{self.hex.hex()}"
        return f"{self.name}={escape_value(self.value)}"

    @property
    def key(self) -> str:
        """Comparable form, see the module."""
        if self.hex is not None and self.value.startswith("#"):
            return f"{self.type}={OPAQUE}{self.hex.hex()}"
        return f"{self.type}={fold(self.value)}"


RDN = tuple[Ava, ...]


def fold(text: str) -> str:
    """Prepare text as caseIgnoreMatch compares it (RFC 4518 §2): equal results mean equal values.

    Map (control and invisible characters vanish, all white space becomes a space), NFKC, case folding, then drop
    spaces at both ends and squeeze inner runs to one. ``str.casefold`` with NFKC covers tables B.2 and B.3 of RFC 3454
    in the Unicode version of the interpreter. Prohibited characters are kept: they simply match themselves.
    """
    if text.isascii():
        if text.isprintable():
            return " ".join(text.lower().split()) if " " in text else text.lower()
        return " ".join(_map(text).lower().split())
    mapped = unicodedata.normalize("NFKC", _map(text)).casefold()
    return " ".join(unicodedata.normalize("NFKC", mapped).split())


def prepare(text: str) -> str:
    """The same for rules that tell upper from lower case (caseExactMatch): no case folding."""
    if text.isascii() and text.isprintable():
        return " ".join(text.split()) if " " in text else text
    return " ".join(unicodedata.normalize("NFKC", _map(text)).split())


def _map(text: str) -> str:
    """RFC 4518 §2.2."""
    result = []
    for character in text:
        if character in "\t\n\v\f\r\x85":
            result.append(" ")
        elif character in "\u00ad\u1806\u034f\u200b\ufffc" or "\ufe00" <= character <= "\ufe0f":
            continue
        else:
            category = unicodedata.category(character)
            if category in ("Cc", "Cf"):
                continue
            result.append(" " if category in ("Zs", "Zl", "Zp") else character)
    return "".join(result)


# Nothing in such a value is ever escaped: most names of users and groups are like that.
_UNESCAPED = re.compile(r"[A-Za-z0-9._@-]+").fullmatch


def escape_value(value: str) -> str:
    """A value as it is written in a DN (RFC 4514 §2.4)."""
    if value.isalnum() or _UNESCAPED(value):
        return value
    parts = []
    last = len(value) - 1
    for index, character in enumerate(value):
        if character in '"+,;<>\\' or (character == " " and index in (0, last)) or (character == "#" and index == 0):
            parts.append("\\" + character)
        elif character < " " or character == "\x7f":
            parts.append(f"\\{ord(character):02x}")
        else:
            parts.append(character)
    return "".join(parts)


class DN:
    """A distinguished name. Immutable; equal and hashed by ``key``."""

    __slots__ = ("_text", "key", "rdns")

    rdns: tuple[RDN, ...]
    key: bytes

    def __init__(self, rdns: tuple[RDN, ...] = ()) -> None:
        """From relative names, the leftmost first. No RDN may be empty."""
        self.rdns = rdns
        self.key = "\x00".join(
            rdn[0].key if len(rdn) == 1 else "\x01".join(sorted(ava.key for ava in rdn)) for rdn in rdns
        ).encode()
        self._text: str | None = None

    @staticmethod
    def parse(text: str | bytes) -> DN:
        """Parse RFC 4514 text. The empty text is the empty name (root DSE). Raises :class:`DNError`."""
        if len(text) <= MAX_CACHED_LENGTH:
            return _parse_cached(text)
        return _parse(text)

    @property
    def parent(self) -> DN | None:
        """The name without its leftmost RDN; None for the empty name."""
        return DN(self.rdns[1:]) if self.rdns else None

    def child(self, attribute: str, value: str) -> DN:
        """The name with one more RDN on the left. ``value`` is plain text, not escaped."""
        return DN(((Ava(normalise_type(attribute), value, attribute),), *self.rdns))

    def is_under(self, base: DN) -> bool:
        """True when this name is the base or lies anywhere below it."""
        key = base.key
        return not key or self.key == key or self.key.endswith(b"\x00" + key)

    def is_child_of(self, base: DN) -> bool:
        """True when this name lies exactly one level below the base."""
        return len(self.rdns) == len(base.rdns) + 1 and self.is_under(base)

    def first_value(self, attribute: str) -> str | None:
        """Value of the attribute type (normalised short name) in the leftmost RDN, None if that has no such type."""
        if self.rdns:
            for ava in self.rdns[0]:
                if ava.type == attribute:
                    return ava.value
        return None

    def __str__(self) -> str:
        if self._text is None:
            self._text = ",".join("+".join(str(ava) for ava in rdn) for rdn in self.rdns)
        return self._text

    def __repr__(self) -> str:
        return f"DN({str(self)!r})"

    def __bool__(self) -> bool:
        return bool(self.rdns)

    def __len__(self) -> int:
        return len(self.rdns)

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, DN) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)


def normalise_type(name: str) -> str:
    """Lower-case short name of an attribute type given as name, alias, OID or ``OID.n.n.n``."""
    lower = name.lower().removeprefix("oid.")
    return ATTRIBUTE_TYPES.get(lower, lower)


def _parse(text: str | bytes) -> DN:
    if len(text) > MAX_LENGTH:
        raise DNError("name too long")
    try:
        if isinstance(text, bytes):
            text = text.decode()
        elif len(text.encode()) > MAX_LENGTH:
            raise DNError("name too long")
    except UnicodeError:
        raise DNError("name is not Unicode text") from None
    if not text:
        return DN()
    rdns: list[RDN] = []
    avas: list[Ava] = []
    position = 0
    while True:
        ava, position = _parse_ava(text, position)
        avas.append(ava)
        separator = text[position] if position < len(text) else ""
        if separator != "+":
            rdns.append(tuple(avas))
            avas = []
            if len(rdns) > MAX_RDNS:
                raise DNError("too many relative names")
            if not separator:
                return DN(tuple(rdns))
        position += 1


_parse_cached = lru_cache(CACHED_NAMES)(_parse)


def _parse_ava(text: str, position: int) -> tuple[Ava, int]:
    """One ``type=value``; the position returned is at ``,``, ``;``, ``+`` or the end."""
    equals = text.find("=", position)
    if equals < 0:
        raise DNError("relative name without '='")
    name = text[position:equals].strip(" ")
    if not _TYPE.fullmatch(name):
        raise DNError("malformed attribute type")
    value, octets, position = _parse_value(text, equals + 1)
    return Ava(normalise_type(name), value, name, octets), position


def _parse_value(text: str, position: int) -> tuple[str, bytes | None, int]:
    size = len(text)
    while position < size and text[position] == " ":
        position += 1
    if position < size and text[position] == "#":
        return _parse_hex(text, position)
    if position < size and text[position] == '"':
        value, position = _parse_quoted(text, position + 1)
        return value, None, _to_separator(text, position)
    plain = _PLAIN.match(text, position)
    if plain is not None and (plain.end() == size or text[plain.end()] in ",;+"):
        return plain[0].rstrip(" "), None, plain.end()
    pieces: list[bytes] = []
    kept = 0  # length up to which trailing spaces are part of the value: they were escaped
    length = 0
    while position < size and text[position] not in ",;+":
        character = text[position]
        if character == "\\":
            piece, position = _parse_escape(text, position)
            length += len(piece)
            kept = length
        elif character in '"\x00':
            raise DNError("character that needs an escape")
        else:
            piece = character.encode()
            position += 1
            length += len(piece)
            if character != " ":
                kept = length
        pieces.append(piece)
    return _text(b"".join(pieces)[:kept]), None, position


def _parse_quoted(text: str, position: int) -> tuple[str, int]:
    """RFC 2253 §4: a value in double quotes; the position returned is behind the closing one."""
    pieces: list[bytes] = []
    while position < len(text):
        character = text[position]
        if character == '"':
            return _text(b"".join(pieces)), position + 1
        if character == "\\":
            piece, position = _parse_escape(text, position)
        else:
            piece = character.encode()
            position += 1
        pieces.append(piece)
    raise DNError("quote without end")


def _parse_escape(text: str, position: int) -> tuple[bytes, int]:
    """RFC 4514 §3 ``pair``: a backslash with two hex digits or one special character."""
    pair = text[position + 1 : position + 3]
    if len(pair) == 2 and pair[0] in _HEX and pair[1] in _HEX:
        return bytes.fromhex(pair), position + 3
    if pair and pair[0] in _ESCAPED:
        return pair[0].encode(), position + 2
    raise DNError("malformed escape")


def _parse_hex(text: str, position: int) -> tuple[str, bytes, int]:
    """RFC 4514 §3 ``hexstring``: the BER form of a value."""
    match = _HEX_VALUE.match(text, position)
    if match is None:
        raise DNError("malformed hexadecimal value")
    octets = bytes.fromhex(match[1])
    try:
        tag, start, stop = header(octets, 0, len(octets))
    except ProtocolError:
        raise DNError("hexadecimal value is not BER") from None
    if stop != len(octets):
        raise DNError("hexadecimal value is not one BER element")
    value = match[0].lower()
    encoding = STRING_TAGS.get(tag)
    if encoding is not None:
        try:
            decoded = octets[start:stop].decode(encoding)
        except UnicodeDecodeError:
            pass  # opaque then: it equals only itself
        else:
            # A text that itself begins with "#" stays opaque: ``Ava.key`` tells the two apart by that character.
            if not decoded.startswith("#") and "\x00" not in decoded:
                value = decoded
    return value, octets, _to_separator(text, match.end())


def _to_separator(text: str, position: int) -> int:
    while position < len(text) and text[position] == " ":
        position += 1
    if position < len(text) and text[position] not in ",;+":
        raise DNError("text behind a value")
    return position


def _text(octets: bytes) -> str:
    try:
        value = octets.decode()
    except UnicodeDecodeError:
        raise DNError("value is not UTF-8") from None
    if "\x00" in value:
        raise DNError("NUL in a value")
    return value
