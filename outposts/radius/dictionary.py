"""Attribute names, types and named values: text for people to octets for the wire, and back.

The names are in ``dictionaries/*.dictionary``: FreeRADIUS's format, read by pyrad; typed from RFCs and vendors' tables.
Nothing on the way of a request needs this: packets are made and read by number. It serves logs, tools and tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path
from typing import Final, TypeAlias

from pyrad.dictionary import Dictionary as Parsed

from common.errors import OutpostError
from outposts.radius.rfc import MAX_VALUE, MAX_VENDOR_VALUE
from outposts.radius.wire import VENDOR_SPECIFIC, vendor_attributes, vsa

FILE: Final = Path(__file__).parent / "dictionaries" / "all.dictionary"
MAX_TAG: Final = 0x1F
"""RFC 2868 §3.1: tags are 1 to 31; a first octet above that is the value's own."""
HIDDEN: Final = "…"
"""Shown instead of a value that a secret hides or that is one."""
UNSHOWN: Final = re.compile(
    "password|passphrase|secret|token|credential|psk|key|chap|arap|-pw|^digest-|^(proxy-)?state$|^eap-message$",
    re.IGNORECASE,
)
"""Names, and texts of Cisco-AVPair, whose values are secrets or let who reads them take part in a conversation."""

Value: TypeAlias = str | int | bytes


class DictionaryError(OutpostError):
    """There is no such attribute, or a value does not fit its type. Never holds the value."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One attribute. ``vendor`` is 0 for the RFCs' own; ``names`` are the named values of an integer.

    ``tagged``: groups by tags (RFC 2868 §3.1). ``hidden``: on the wire under the secret.
    """

    name: str
    vendor: int
    number: int
    kind: str
    tagged: bool = False
    hidden: bool = False
    names: Mapping[int, str] = field(default_factory=dict, repr=False)

    def encode(self, value: Value, tag: int = 0) -> bytes:
        """The value's octets, without type and length. Raises ``DictionaryError``."""
        if self.hidden:
            raise DictionaryError(f"{self.name}: hidden values are made with the secret")
        if not 0 <= tag <= (MAX_TAG if self.tagged else 0):
            raise DictionaryError(f"{self.name}: no such tag")
        try:
            octets = value if isinstance(value, bytes) else self._of_text(value)
        except (ValueError, OverflowError):
            raise DictionaryError(f"{self.name}: not a value of type {self.kind}") from None
        if self.tagged:
            octets = self._with_tag(octets, tag)
        if len(octets) > (MAX_VENDOR_VALUE if self.vendor else MAX_VALUE):
            raise DictionaryError(f"{self.name}: the value is too long")
        return octets

    def _of_text(self, value: str | int) -> bytes:
        if isinstance(value, str) and self.names:
            for number, name in self.names.items():
                if name.lower() == value.lower():
                    value = number
                    break
        return KINDS[self.kind].encode(value)

    def _with_tag(self, octets: bytes, tag: int) -> bytes:
        """RFC 2868 §3.1: in place of an integer's highest octet, before anything else.

        A text needs none when nothing in it looks like one (§3.6), and devices understand it best without.
        """
        if self.kind == "integer":
            if len(octets) != 4 or octets[0]:
                raise DictionaryError(f"{self.name}: tagged numbers have three octets")
            return bytes((tag,)) + octets[1:]
        return octets if not tag and octets[:1] > bytes((MAX_TAG,)) else bytes((tag,)) + octets

    def decode(self, octets: bytes) -> tuple[str, int]:
        """The value as text, and its tag (0 without). What does not fit the type is shown as hexadecimal."""
        if self.hidden or UNSHOWN.search(self.name):
            return HIDDEN, 0
        tag = 0
        if self.tagged and octets and octets[0] <= MAX_TAG:
            tag = octets[0]
            octets = b"\0" + octets[1:] if self.kind == "integer" else octets[1:]
        try:
            text = KINDS[self.kind].decode(octets)
        except ValueError:
            return f"0x{octets.hex()}", tag
        if self.names and text.isdecimal():
            text = self.names.get(int(text), text)
        return HIDDEN if self.name == "Cisco-AVPair" and UNSHOWN.search(text) else text, tag


# --- types: RFC 8044 §3 under the names of dictionary files -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Kind:
    """Both ways of one type; both raise ``ValueError`` (or ``OverflowError``) for what does not fit."""

    encode: Callable[[str | int], bytes]
    decode: Callable[[bytes], str]


def _sized(size: int, octets: bytes) -> bytes:
    if len(octets) != size:
        raise ValueError("wrong size")
    return octets


def _to_number(size: int, value: str | int) -> bytes:
    return (int(value, 0) if isinstance(value, str) else value).to_bytes(size, "big")


def _from_number(size: int, octets: bytes) -> str:
    return str(int.from_bytes(_sized(size, octets), "big"))


def _to_octets(value: str | int) -> bytes:
    text = str(value)
    return bytes.fromhex(text[2:]) if text.startswith("0x") else text.encode()


def _from_text(octets: bytes) -> str:
    text = octets.decode()
    if not text.isprintable():
        raise ValueError("control characters")
    return text


def _to_prefix(value: str | int) -> bytes:
    """RFC 3162 §2.3: a reserved octet, the length, and as much of the prefix as is not zero."""
    network = IPv6Network(str(value))
    used = -(-network.prefixlen // 8)
    return bytes((0, network.prefixlen)) + network.network_address.packed[:used]


def _from_prefix(octets: bytes) -> str:
    if not 2 <= len(octets) <= 18:
        raise ValueError("wrong size")
    return str(IPv6Network((octets[2:].ljust(16, b"\0"), octets[1])))


_GROUPS: Final = re.compile(r"[0-9a-f]{1,4}(:[0-9a-f]{1,4}){3}", re.IGNORECASE)


def _to_interface(value: str | int) -> bytes:
    """RFC 3162 §2.2: four groups of hexadecimal digits."""
    if not _GROUPS.fullmatch(str(value)):
        raise ValueError("not an interface identifier")
    return b"".join(int(group, 16).to_bytes(2, "big") for group in str(value).split(":"))


def _from_interface(octets: bytes) -> str:
    return ":".join(f"{int.from_bytes(octets[at : at + 2], 'big'):x}" for at in range(0, len(_sized(8, octets)), 2))


def _number(size: int) -> _Kind:
    return _Kind(partial(_to_number, size), partial(_from_number, size))


KINDS: Final[Mapping[str, _Kind]] = {
    "string": _Kind(lambda value: str(value).encode(), _from_text),
    "octets": _Kind(_to_octets, lambda octets: f"0x{octets.hex()}"),
    "integer": _number(4),
    "date": _number(4),
    "byte": _number(1),
    "short": _number(2),
    "integer64": _number(8),
    "ipaddr": _Kind(lambda value: IPv4Address(value).packed, lambda octets: str(IPv4Address(_sized(4, octets)))),
    "ipv6addr": _Kind(lambda value: IPv6Address(value).packed, lambda octets: str(IPv6Address(_sized(16, octets)))),
    "ipv6prefix": _Kind(_to_prefix, _from_prefix),
    "ifid": _Kind(_to_interface, _from_interface),
    "ether": _Kind(
        lambda value: _sized(6, bytes.fromhex(str(value).replace(":", "").replace("-", ""))),
        lambda octets: _sized(6, octets).hex(":"),
    ),
}


# --- the whole --------------------------------------------------------------------------------------------------------


class Dictionary:
    """Definitions by name (any case) and by vendor and number. Immutable."""

    def __init__(self, definitions: Iterable[Definition]) -> None:
        self.all = tuple(definitions)
        self._by_name = {definition.name.lower(): definition for definition in self.all}
        self._by_number = {(definition.vendor, definition.number): definition for definition in self.all}

    def named(self, name: str) -> Definition | None:
        """The attribute of that name."""
        return self._by_name.get(name.lower())

    def numbered(self, vendor: int, number: int) -> Definition | None:
        """The attribute of a vendor (0: the RFCs) with that type."""
        return self._by_number.get((vendor, number))

    def attribute(self, name: str, value: Value, tag: int = 0) -> tuple[int, bytes]:
        """An attribute as ``wire`` takes it. Raises ``DictionaryError``."""
        definition = self.named(name)
        if definition is None:
            raise DictionaryError(f"no attribute is named {name[:MAX_VALUE]!r}")
        octets = definition.encode(value, tag)
        return vsa(definition.vendor, definition.number, octets) if definition.vendor else (definition.number, octets)

    def show(self, attributes: Iterable[tuple[int, bytes]]) -> list[tuple[str, str]]:
        """Attributes as (name, text) for people; secrets are left out. A tag stands behind the name, as ``Name:1``."""
        shown: list[tuple[str, str]] = []
        for kind, value in attributes:
            inner = vendor_attributes(value) if kind == VENDOR_SPECIFIC else []
            if inner:
                vendor = int.from_bytes(value[:4], "big")
                shown += [self._shown(vendor, number, octets) for number, octets in inner]
            else:
                shown.append(self._shown(0, kind, value))
        return shown

    def _shown(self, vendor: int, number: int, octets: bytes) -> tuple[str, str]:
        definition = self.numbered(vendor, number)
        if definition is None:
            # Could be anything, a key too.
            return f"Attr-26.{vendor}.{number}" if vendor else f"Attr-{number}", f"({len(octets)} octets)"
        text, tag = definition.decode(octets)
        return f"{definition.name}:{tag}" if tag else definition.name, text


@lru_cache(maxsize=1)
def load() -> Dictionary:
    """Our own dictionary, read once."""
    return read(FILE)


def read(path: Path) -> Dictionary:
    """A dictionary file and what it includes. Raises pyrad's errors: only our own files are read."""
    parsed = Parsed(str(path))
    return Dictionary(
        Definition(
            name=found.name,
            vendor=parsed.vendors.GetForward(found.vendor),
            number=found.code,
            kind=found.type,
            tagged=found.has_tag,
            hidden=bool(found.encrypt),
            names={int.from_bytes(octets, "big"): name for name, octets in found.values.forward.items()},
        )
        for found in parsed.attributes.values()
    )
