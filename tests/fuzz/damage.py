"""Damage for fuzz harnesses: octets injured anywhere, and BER whose elements are changed while its lengths stay right.

Octets injured anywhere mostly fail at the first wrong length. A changed element in an otherwise sound message reaches
the readers behind: what is missing, twice, of another type, empty, huge or out of range.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

Node = tuple[int, "bytes | list[Node]"]
"""An element: identifier octet, and its content: octets, or the elements in it."""

INTERESTING = b"\x00\x01\x02\x04\x0a\x30\x31\x60\x63\x7f\x80\x81\x82\x84\x88\xa0\xa1\xa2\xa3\xa4\xa9\xff"
LENGTHS = (0, 127, 128, 65_535, 2**31 - 1, 2**31, 2**32, 2**63, 2**64)
NUMBERS = (0, -1, 1, 127, 128, 255, 256, 2**31 - 1, 2**31, -(2**31), 2**32, 2**63 - 1, -(2**63), 2**64)
TEXTS = (
    b"",
    b"\x00",
    b"*",
    b"%s%n%x",
    b"a" * 300,
    b"\xff\xfe",
    b"\xc0\x80",  # overlong NUL
    b"\xed\xa0\x80",  # a surrogate
    b"\xf4\x90\x80\x80",  # behind the last code point
    "\u200b\u00ad \u0130\u1e9e".encode(),
    b"9" * 700,
    b"-0",
    b"20261340256161Z",
    b"cn=a,",
    b"cn=#0401",
    b"((((((((",
    b"\\",
)


def injured(source: random.Random, octets: bytes) -> bytes:
    """One to four small injuries, as a bad peer or a bad line would inflict them."""
    data = bytearray(octets)
    for _ in range(source.randint(1, 4)):
        position = source.randrange(len(data) + 1)
        match source.randrange(7):
            case 0:
                del data[position:]
            case 1:
                data[position:position] = source.randbytes(source.randint(1, 8))
            case 2:
                del data[position : position + source.randint(1, 8)]
            case 3 if data:
                data[position % len(data)] = source.choice(INTERESTING)
            case 4 if data:
                data[position % len(data)] ^= 1 << source.randrange(8)
            case 5:
                data[position:position] = data[: source.randint(1, 40)]
            case _:
                data[position : position + 1] = _length(source.choice(LENGTHS))
    return bytes(data)


def parsed(data: bytes) -> list[Node]:
    """Sound BER as elements; whatever is marked as constructed is taken apart."""
    found: list[Node] = []
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            octets = length & 0x7F
            length, at = int.from_bytes(data[at : at + octets], "big"), at + octets
        content = data[at : at + length]
        assert len(content) == length
        found.append((tag, parsed(content) if tag & 0x20 else content))
        at += length
    return found


def encoded(nodes: list[Node]) -> bytes:
    """Elements as BER, lengths definite and minimal."""
    parts: list[bytes] = []
    for tag, content in nodes:
        octets = content if isinstance(content, bytes) else encoded(content)
        parts += (bytes((tag,)), _length(len(octets)), octets)
    return b"".join(parts)


def altered(source: random.Random, nodes: list[Node]) -> bytes:
    """BER of the elements with one or two of them changed, all lengths right."""
    for _ in range(source.randint(1, 2)):
        places = list(_places(nodes, ()))
        if not places:
            break
        nodes = _changed(source, nodes, source.choice(places))
    return encoded(nodes)


def _places(nodes: list[Node], path: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for number, (_, content) in enumerate(nodes):
        yield (*path, number)
        if isinstance(content, list):
            yield from _places(content, (*path, number))


def _changed(source: random.Random, nodes: list[Node], path: tuple[int, ...]) -> list[Node]:
    """A copy in which the element at ``path`` is another."""
    number = path[0]
    tag, content = nodes[number]
    new: list[Node]
    if len(path) > 1:
        assert isinstance(content, list)
        new = [(tag, _changed(source, content, path[1:]))]
    else:
        new = _other(source, tag, content)
    return [*nodes[:number], *new, *nodes[number + 1 :]]


def _other(source: random.Random, tag: int, content: bytes | list[Node]) -> list[Node]:
    """What stands where an element stood."""
    match source.randrange(9):
        case 0:
            return []
        case 1:
            return [(tag, content), (tag, content)]
        case 2:
            return [(source.choice(INTERESTING), content)]
        case 3:
            return [(tag, b"")]
        case 4:
            return [(source.randrange(256), source.randbytes(source.randint(0, 12))), (tag, content)]
        case 5 if isinstance(content, bytes):
            return [(tag, _number(source.choice(NUMBERS)))]
        case 6 if isinstance(content, bytes):
            return [(tag, injured(source, content))]
        case 7 if isinstance(content, list):
            inner: list[Node] = content
            for _ in range(source.choice((1, 5, 60))):
                inner = [(tag, inner)]
            return inner
        case 8 if isinstance(content, list):
            return [(tag, content * source.choice((2, 40)))]
        case _:
            return [(tag, source.choice(TEXTS))]


def _number(value: int) -> bytes:
    """Content of an INTEGER."""
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


def _length(size: int) -> bytes:
    """Length octets."""
    if size < 0x80:
        return bytes((size,))
    content = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((0x80 | len(content),)) + content
