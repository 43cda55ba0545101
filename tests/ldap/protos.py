"""Messages of the classes of the PROTOS LDAPv3 suite (Oulu University, c06): exceptional encodings and contents.

Every operation is written down once, soundly, as a tree of elements; a class says what is done to it: to each
element's length or identifier, to each text, to each number, to the filter, to the list of controls. Made without the
server's code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from tests.fuzz.damage import Node, parsed
from tests.ldap.sides import ALICE, b
from tests.ldap_client import (
    BASE,
    WHO_AM_I,
    bind_operation,
    boolean,
    compare_operation,
    control,
    extended_operation,
    integer,
    message,
    octets,
    sasl_operation,
    search_operation,
    tlv,
)

NUMBER = 5  # message id of every sound message
FILTER = "(&(|(cn=alice)(uid=a*b*c))(!(mail>=x))(sn~=y)(cn:dn:2.5.13.2:=z))"
PAGED, SORT, VLV = "1.2.840.113556.1.4.319", "1.2.840.113556.1.4.473", "2.16.840.1.113730.3.4.9"
SYNC, ASSERTION = "1.3.6.1.4.1.4203.1.9.1.1", "1.3.6.1.1.12"
PASSWORD_MODIFY, CANCEL = "1.3.6.1.4.1.4203.1.11.1", "1.3.6.1.1.8"


class Fate(Enum):
    """What has to become of a message. In any case the answers are LDAP, and nobody else notices."""

    ANY = "answered, ignored, or the connection closed"
    SAME = "as the sound message"
    REFUSED = "never success: an error as answer, or the connection closed"
    CLOSED = "notice of disconnection or nothing, and the connection closed"
    WAITS = "the rest is waited for: nothing is answered, the connection closed when the client ends it"


@dataclass(frozen=True)
class Case:
    """One message. ``label`` says what is exceptional in it."""

    label: str
    data: bytes
    fate: Fate = Fate.ANY
    sound: bytes = b""


Cases = Callable[[], Iterator[Case]]


def _attribute(name: str, *values: str) -> bytes:
    return tlv(0x30, octets(name), tlv(0x31, *(octets(value) for value in values)))


OPERATIONS: dict[str, bytes] = {
    "bind": bind_operation(ALICE, "no such password"),
    "bind sasl": sasl_operation("PLAIN", b"\0alice\0pw"),
    "unbind": tlv(0x42),
    "search": search_operation(b, BASE, FILTER, ["cn", "*", "+", "@person"], size_limit=3),
    "modify": tlv(0x66, octets(ALICE), tlv(0x30, tlv(0x30, integer(2, 0x0A), _attribute("cn", "x", "y")))),
    "add": tlv(0x68, octets(f"cn=new,{b}"), tlv(0x30, _attribute("objectClass", "person"), _attribute("sn", "x"))),
    "delete": tlv(0x4A, ALICE.encode()),
    "modify dn": tlv(0x6C, octets(ALICE), octets("cn=a"), boolean(True), octets(b, 0x80)),
    "compare": compare_operation(ALICE, "cn", "alice"),
    "abandon": tlv(0x50, b"\x63"),
    "extended": extended_operation(WHO_AM_I),
    "password modify": extended_operation(PASSWORD_MODIFY, tlv(0x30, octets(ALICE, 0x80), octets("new", 0x82))),
    "cancel": extended_operation(CANCEL, tlv(0x30, integer(99))),
}
CONTROLS = [
    control(PAGED, value=tlv(0x30, integer(2), octets(""))),
    control(SORT, value=tlv(0x30, tlv(0x30, octets("cn"), octets("2.5.13.3", 0x80), b"\x81\x01\xff"))),
    control("1.2.3.4", critical=False, value=b"unknown"),
]
READS = (
    "search",
    "compare",
    "extended",
    "abandon",
    "delete",
    "modify",
    "add",
    "modify dn",
    "password modify",
    "cancel",
)
"""Operations that leave a connection as it was."""


def sound(operation: str) -> bytes:
    """The message nothing is wrong with."""
    return message(NUMBER, OPERATIONS[operation], CONTROLS if operation == "search" else ())


# -- elements ----------------------------------------------------------------------------------------------------------

Way = tuple[int, ...]
Writer = Callable[[int, bytes], bytes]


def ways(nodes: list[Node], before: Way = ()) -> Iterator[Way]:
    """The place of each element."""
    for number, (_, content) in enumerate(nodes):
        yield (*before, number)
        if isinstance(content, list):
            yield from ways(content, (*before, number))


def at(nodes: list[Node], way: Way) -> Node:
    """The element at a place."""
    node = nodes[way[0]]
    for number in way[1:]:
        content = node[1]
        assert isinstance(content, list)
        node = content[number]
    return node


def written(nodes: list[Node], way: Way, other: Writer) -> bytes:
    """The octets of a tree in which the element at ``way`` is written by ``other(tag, content)``."""
    parts = []
    for number, (tag, content) in enumerate(nodes):
        here = bool(way) and way[0] == number
        inner = content if isinstance(content, bytes) else written(content, way[1:] if here else (), other)
        parts.append(other(tag, inner) if here and len(way) == 1 else tlv(tag, inner))
    return b"".join(parts)


def each(
    operation: str, wanted: Callable[[int, Way], bool] = lambda tag, way: True
) -> Iterator[tuple[str, list[Node], Way]]:
    """Every element of an operation's message of a kind: where it is in words, the tree, its place."""
    tree = parsed(sound(operation))
    for way in ways(tree):
        tag, _ = at(tree, way)
        if wanted(tag, way):
            yield f"{operation} {'.'.join(map(str, way))} 0x{tag:02x}", tree, way


def _is_text(tag: int, way: Way) -> bool:
    """Octet strings, and what is implicitly tagged as one; never the id of an abandon."""
    return (tag == 0x04 or (tag & 0xC0 == 0x80 and not tag & 0x20) or tag == 0x4A) and len(way) > 1


# -- classes -----------------------------------------------------------------------------------------------------------


def _in_octets(count: int) -> Callable[[int], bytes]:
    """Lengths in the long form with so many octets."""
    return lambda size: bytes([0x80 | count]) + size.to_bytes(count, "big")


OVERLONG: dict[str, Callable[[int], bytes]] = {f"{count} octets": _in_octets(count) for count in (4, 8)}
EXCEPTIONAL: dict[str, Callable[[int], bytes]] = {
    "length of 9 octets": lambda size: b"\x89" + size.to_bytes(9, "big"),
    "length of 126 octets": lambda size: b"\xfe" + size.to_bytes(126, "big"),
    "reserved length": lambda size: b"\xff",
    "32 bits all set": lambda size: b"\x84\xff\xff\xff\xff",
    "64 bits all set": lambda size: b"\x88" + b"\xff" * 8,
    "negative if signed": lambda size: b"\x84\x80\x00\x00\x00",
    "largest if signed": lambda size: b"\x84\x7f\xff\xff\xff",
    "16 bits all set": lambda size: b"\x82\xff\xff",
}


def lengths(operation: str) -> Iterator[Case]:
    """Lengths: indefinite, longer than need be, impossible, one more or less than there is."""
    plain = sound(operation)
    for where, tree, way in each(operation):
        outermost = len(way) == 1
        for name, length in OVERLONG.items():
            # RFC 4511 §5.1 asks for the definite form, not for the shortest one
            octet_form: Writer = lambda tag, inner, length=length: bytes([tag]) + length(len(inner)) + inner  # type: ignore[misc]  # noqa: E731
            yield Case(f"{where}: length in {name}", written(tree, way, octet_form), Fate.SAME, plain)
        for name, length in EXCEPTIONAL.items():
            impossible: Writer = lambda tag, inner, length=length: bytes([tag]) + length(len(inner)) + inner  # type: ignore[misc]  # noqa: E731
            waits = outermost and name == "16 bits all set"
            yield Case(f"{where}: {name}", written(tree, way, impossible), Fate.WAITS if waits else Fate.CLOSED)
        yield Case(
            f"{where}: indefinite length",
            written(tree, way, lambda tag, inner: bytes([tag | 0x20, 0x80]) + inner + b"\0\0"),
            Fate.CLOSED,
        )
        if outermost:
            more = written(tree, way, lambda tag, inner: bytes([tag]) + tlv(0, inner + b" ")[1:-1])
            yield Case(f"{where}: one more than there is", more, Fate.WAITS)
        less = written(tree, way, lambda tag, inner: bytes([tag]) + tlv(0, inner[:-1])[1:] + inner[-1:])
        yield Case(f"{where}: one less than there is", less, Fate.ANY)


def truncated(operation: str) -> Iterator[Case]:
    """A message that ends anywhere."""
    data = sound(operation)
    for size in range(1, len(data)):
        yield Case(f"{operation}: first {size} octets", data[:size], Fate.WAITS)


def cut_inside(operation: str) -> Iterator[Case]:
    """The same, with an outer length that fits what is left: nothing to wait for."""
    inner = parsed(sound(operation))[0][1]
    assert isinstance(inner, list)
    whole = b"".join(written([node], (), tlv) for node in inner)
    behind_the_operation = len(written(inner[:2], (), tlv))
    for size in range(len(whole)):
        if size != behind_the_operation:  # there, a message without its controls
            yield Case(f"{operation}: cut to {size} octets inside", tlv(0x30, whole[:size]), Fate.REFUSED)


TAGS = (0x00, 0x01, 0x02, 0x04, 0x05, 0x0A, 0x10, 0x1F, 0x24, 0x30, 0x31, 0x3F, 0x40, 0x7F, 0x80, 0x9F, 0xA0, 0xBF,
        0xC4, 0xFF)  # fmt: skip


def identifiers(operation: str) -> Iterator[Case]:
    """Identifiers: every class and form, reserved ones, more than one octet."""
    for where, tree, way in each(operation):
        own, _ = at(tree, way)
        for tag in (*TAGS, own ^ 0x20, own ^ 0x40, own ^ 0x80):
            if tag != own:
                other: Writer = lambda _, inner, tag=tag: tlv(tag, inner)  # type: ignore[misc]  # noqa: E731
                outermost = len(way) == 1
                yield Case(
                    f"{where}: as 0x{tag:02x}", written(tree, way, other), Fate.CLOSED if outermost else Fate.ANY
                )
        for long in (b"\x1f\x04", b"\x1f\x84\x00", b"\x9f\xff\xff\xff\xff\x7f", b"\xbf\x81\x80\x00"):
            several: Writer = lambda _, inner, long=long: long + tlv(0, inner)[1:]  # type: ignore[misc]  # noqa: E731
            yield Case(f"{where}: identifier {long.hex()}", written(tree, way, several), Fate.CLOSED)


FORMATS = [b"%s" * 64, b"%n%n%n%n", b"%x%08x%.1024d", b"${jndi:ldap://127.0.0.1/a}", b"%(name)s{0.__class__}{}"]
UNICODE = {
    "NUL": b"\0",
    "NUL inside": b"alice\0,ou=users",
    "overlong slash": b"\xc0\xaf",
    "overlong NUL": b"\xc0\x80",
    "three octets for NUL": b"\xe0\x80\x80",
    "a surrogate": b"\xed\xa0\x80",
    "a pair of surrogates": b"\xed\xa0\x80\xed\xb0\x80",
    "behind the last character": b"\xf4\x90\x80\x80",
    "five octets": b"\xf8\x88\x80\x80\x80",
    "six octets": b"\xfd\xbf\xbf\xbf\xbf\xbf",
    "a continuation alone": b"\x80",
    "begun and not ended": b"alice\xe2\x82",
    "FE FF": b"\xfe\xff\x00a",
    "not a character": b"\xef\xbf\xbf",
    "right to left": "\u202eecila\u202c".encode(),
    "zero width": "al\u200bi\u00adce".encode(),
    "grows when folded": "\u0390\u1fd3\ufb03\ufdfa".encode() * 50,
    "combining": b"a" + "\u0301".encode() * 2000,
}
SPECIAL = [
    b"", b" ", b"*", b"(", b")", b"\\", b"\\zz", b"=", b",", b"cn=", b"=a", b"cn=a,", b",,", b"+", b'"', b"#", b"cn=#",
    b"cn=#04", b"cn=#0403616263", b"cn=\\", b";", b"cn;;=a", b"1.", b".1", b"1" * 200 + b".1", b"../../etc/passwd",
    b"\r\n", b"<script>", b"' OR 1=1 --", b"cn=" + b"a+cn=" * 500 + b"a", b"cn=a," * 700 + b"dc=io", b"@",
    b"@nosuch", b"cn;" + b"a;" * 500 + b"b", b"-9" * 300, b"9" * 5000,
]  # fmt: skip


def texts(operation: str) -> Iterator[Case]:
    """Every text: format strings, NULs, damaged UTF-8, characters that mean something, nothing at all."""
    values = [(value[:20].decode("latin-1"), value) for value in FORMATS + SPECIAL] + list(UNICODE.items())
    for where, tree, way in each(operation, _is_text):
        for name, value in values:
            other: Writer = lambda tag, _, value=value: tlv(tag, value)  # type: ignore[misc]  # noqa: E731
            yield Case(f"{where}: {name!r}", written(tree, way, other))


SIZES = (127, 128, 255, 256, 1023, 4096, 4097, 32_767, 65_000)
LARGE = 1_000_000  # octets; more than may be sent before a bind, less than after


def overflows(operation: str) -> Iterator[Case]:
    """Every text in sizes around those of buffers."""
    for where, tree, way in each(operation, _is_text):
        for size in (*SIZES, LARGE):
            for filler in (b"A", b"\\00", b"cn=a,", b"\xc3\xa4"):
                value = (filler * (size // len(filler) + 1))[:size]
                other: Writer = lambda tag, _, value=value: tlv(tag, value)  # type: ignore[misc]  # noqa: E731
                yield Case(f"{where}: {size} octets of {filler!r}", written(tree, way, other))


INTEGERS = {
    "no octet": b"",
    "-1": b"\xff",
    "128": b"\x00\x80",
    "-128": b"\x80",
    "maxInt": b"\x7f\xff\xff\xff",
    "maxInt + 1": b"\x00\x80\x00\x00\x00",
    "-maxInt - 1": b"\x80\x00\x00\x00",
    "2^32 - 1": b"\x00\xff\xff\xff\xff",
    "2^63 - 1": b"\x7f" + b"\xff" * 7,
    "-2^63": b"\x80" + b"\x00" * 7,
    "9 octets": b"\x00" + b"\xff" * 8,
    "100 octets": b"\x7f" * 100,
    "1 in 8 octets": b"\x00" * 7 + b"\x01",
    "-1 in 8 octets": b"\xff" * 8,
    "1 in 100 octets": b"\x00" * 99 + b"\x01",
}


def numbers(operation: str) -> Iterator[Case]:
    """Every number and truth value: extremes, forms that are too long, none."""

    def is_number(tag: int, way: Way) -> bool:
        return tag in (0x01, 0x02, 0x0A, 0x50) or (tag in (0x81, 0x84) and operation == "search")

    for where, tree, way in each(operation, is_number):
        for name, value in INTEGERS.items():
            other: Writer = lambda tag, _, value=value: tlv(tag, value)  # type: ignore[misc]  # noqa: E731
            message_id = way == (0, 0)
            # RFC 4511 §4.1.1.1: from 0 to maxInt; what is not cannot be answered
            impossible = message_id and (name[0] == "-" or name in ("no octet", "maxInt + 1") or "^" in name)
            yield Case(f"{where}: {name}", written(tree, way, other), Fate.CLOSED if impossible else Fate.ANY)


# -- filters and controls ----------------------------------------------------------------------------------------------


def _search(filter: bytes, controls: list[bytes] | None = None) -> bytes:
    return message(NUMBER, search_operation(b, BASE, filter, ["1.1"]), controls or ())


def filters() -> Iterator[Case]:
    """Filters: deep, wide, empty, of unknown kinds, with parts in the wrong places."""
    item = tlv(0xA3, octets("cn"), octets("alice"))
    plain = _search(item)
    for tag in (0xA0, 0xA1, 0xA2):
        nested = item
        for depth in range(1, 10_001):
            nested = tlv(tag, nested)
            if depth in (1, 6, 38):
                yield Case(f"0x{tag:02x} nested {depth} times", _search(nested), Fate.ANY)
            elif depth in (101, 1000, 10_000):
                yield Case(f"0x{tag:02x} nested {depth} times", _search(nested), Fate.REFUSED)
    for tag in (0xA0, 0xA1):
        yield Case(f"0x{tag:02x} without children", _search(tlv(tag)))
        for count in (100, 4_999):
            yield Case(f"0x{tag:02x} of {count} children", _search(tlv(tag, item * count)), Fate.SAME, plain)
        for count in (5_001, 300_000):
            yield Case(f"0x{tag:02x} of {count} children", _search(tlv(tag, item * count)), Fate.REFUSED)
    yield Case("not without a child", _search(tlv(0xA2)), Fate.REFUSED)
    yield Case("not of two", _search(tlv(0xA2, item * 2)), Fate.REFUSED)
    initial, middle, final = octets("a", 0x80), octets("l", 0x81), octets("e", 0x82)
    for name, parts in {
        "none": b"",
        "two initials": initial * 2,
        "two finals": final * 2,
        "final first": final + middle,
        "initial last": middle + initial,
        "unknown part": octets("a", 0x83),
    }.items():
        yield Case(f"substrings: {name}", _search(tlv(0xA4, octets("cn"), tlv(0x30, parts))), Fate.REFUSED)
    for count in (10, 1_000, 20_000):
        parts = initial + middle * count + final
        yield Case(f"{count} substrings", _search(tlv(0xA4, octets("cn"), tlv(0x30, parts))))
        parts = octets("", 0x81) * count
        yield Case(f"{count} empty substrings", _search(tlv(0xA4, octets("cn"), tlv(0x30, parts))))
    for tag in (0x87, 0x88, 0xA7, 0xAA, 0xAF, 0x9E, 0xBE, 0x04, 0x30, 0x00):
        yield Case(f"choice 0x{tag:02x}", _search(tlv(tag, octets("cn"))))
    rule, attribute, value, dn = octets("2.5.13.2", 0x81), octets("cn", 0x82), octets("a", 0x83), b"\x84\x01\xff"
    for name, parts in {
        "nothing": b"",
        "value only": value,
        "no value": rule + attribute,
        "wrong order": value + attribute + rule,
        "rule twice": rule + rule + value,
        "long dnAttributes": attribute + value + b"\x84\x04\xff\xff\xff\xff",
    }.items():
        yield Case(
            f"extensible: {name}", _search(tlv(0xA9, parts)), Fate.REFUSED if name != "wrong order" else Fate.ANY
        )
    yield Case("extensible: everything", _search(tlv(0xA9, rule + attribute + value + dn)))
    in_chain = octets("1.2.840.113556.1.4.1941", 0x81) + octets("memberOf", 0x82) + octets("cn=ga,ou=groups," + b, 0x83)
    yield Case("200 chains", _search(tlv(0xA1, tlv(0xA9, in_chain) * 200)))
    names = [octets(f"a{number}") for number in range(5_000)]
    for count in (100, 5_000):
        yield Case(f"{count} attributes", message(NUMBER, _with_attributes(names[:count])))
        yield Case(f"one attribute {count} times", message(NUMBER, _with_attributes([octets("cn")] * count)))


def _with_attributes(names: list[bytes]) -> bytes:
    plain = search_operation(b, BASE, tlv(0x87, b"cn"), ())
    content = parsed(plain)[0][1]
    assert isinstance(content, list)
    return tlv(0x63, *(written([node], (), tlv) for node in content[:-1]), tlv(0x30, *names))


def control_lists() -> Iterator[Case]:
    """Controls: many, the same ones again, inside each other, with values that are none."""
    item = tlv(0x87, b"cn")
    unknown = control("1.2.3.4", value=b"x")
    for count in (1, 32):
        yield Case(f"{count} controls", _search(item, [unknown] * count), Fate.SAME, _search(item))
    for count in (33, 1_000):
        yield Case(f"{count} controls", _search(item, [unknown] * count), Fate.REFUSED)
    for oid in (PAGED, SORT, VLV, SYNC, ASSERTION):
        yield Case(f"{oid} without value", _search(item, [control(oid, critical=True)]), Fate.REFUSED)
        for value in (
            b"",
            b"\0",
            b"0",
            b"\x30\x80\0\0",
            b"\x30\x84\xff\xff\xff\xff",
            b"\x30\x03\x02\x01\xff",
            b"\x30" * 60,
            b"%s%n",
        ):
            yield Case(f"{oid} with {value!r}", _search(item, [control(oid, critical=True, value=value)]), Fate.REFUSED)
        nested = control(oid, value=b"x")
        for _ in range(200):
            nested = control(oid, critical=True, value=nested)
        yield Case(f"{oid} inside itself", _search(item, [nested]), Fate.REFUSED)
        twice = control(oid, value=tlv(0x30, integer(1), octets("")))
        yield Case(f"{oid} twice", _search(item, [twice, twice]), Fate.REFUSED)
    yield Case(
        "empty list",
        message(NUMBER, OPERATIONS["search"])[:0] + tlv(0x30, integer(NUMBER), OPERATIONS["compare"], tlv(0xA0)),
        Fate.SAME,
        sound("compare"),
    )
    yield Case("empty control", _search(item, [tlv(0x30)]), Fate.CLOSED)
    yield Case("control without type", _search(item, [tlv(0x30, boolean(True))]), Fate.CLOSED)
    yield Case("two lists", tlv(0x30, integer(NUMBER), OPERATIONS["compare"], tlv(0xA0, unknown), tlv(0xA0, unknown)))
    deep = tlv(0x30, octets("1.2.3.4"))
    for _ in range(3_000):
        deep = tlv(0x30, deep)
    yield Case("lists in lists", _search(item, [deep]), Fate.CLOSED)
    for size in (0, 1, 500, 20_000):
        for value in (b"1" * size, b"1." * size, b"\0" * size, b"%n" * size):
            yield Case(f"type of {size} times {value[:2]!r}", _search(item, [tlv(0x30, octets(value))]))


def pages() -> Iterator[Case]:
    """Paged results, sorts and list views: numbers at their ends, cookies of others."""
    item = tlv(0x87, b"cn")
    for name, size in INTEGERS.items():
        for cookie in (b"", b"\0", b"A" * 16, b"A" * 20_000):
            value = tlv(0x30, tlv(0x02, size), octets(cookie))
            yield Case(f"page of {name}, cookie of {len(cookie)}", _search(item, [control(PAGED, value=value)]))
        sort = control(SORT, value=tlv(0x30, tlv(0x30, octets("cn"))))
        for place in range(4):
            numbers = [integer(1), integer(1), integer(1), integer(9)]
            numbers[place] = tlv(0x02, size)
            view = tlv(0x30, *numbers[:2], tlv(0xA0, *numbers[2:]))
            yield Case(f"view, number {place} is {name}", _search(item, [sort, control(VLV, value=view)]))
    for keys in ([], [b"cn"] * 2, [b"cn", b"sn", b"uid"] * 10, [b"\0"], [b"%s"], [b"A" * 30_000]):
        value = tlv(0x30, *(tlv(0x30, octets(key)) for key in keys))
        yield Case(f"{len(keys)} sort keys", _search(item, [control(SORT, value=value)]))


CLASSES: dict[str, Callable[[str], Iterator[Case]]] = {
    "lengths": lengths,
    "truncated": truncated,
    "cut inside": cut_inside,
    "identifiers": identifiers,
    "texts": texts,
    "overflows": overflows,
    "numbers": numbers,
}
PAIRS = [
    (kind, operation)
    for kind, cases in CLASSES.items()
    for operation in OPERATIONS
    if next(cases(operation), None) is not None
]
"""Classes and operations that have something for the class."""
