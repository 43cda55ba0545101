"""Syntaxes of attribute values and the matching rules that go with them (RFC 4517): values become comparable bytes.

``Syntax.normalise`` gives equal bytes for equal values, and bytes in the order of the ordering rule; None for a value
that the syntax does not allow. No normalised value holds 0xff, which separates values in an index.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import NamedTuple

from outposts.ldap.dn import DN, DNError, fold, prepare

SYNTAX_PREFIX = "1.3.6.1.4.1.1466.115.121.1."


class Syntax(NamedTuple):
    """A syntax with the rules we apply to it. ``normalise`` returns the comparable form, None if invalid.

    ``prepare`` does the same for text that may be a part of a value; ``spaceless``: spaces never count.
    """

    number: str
    description: str
    equality: str
    ordering: str | None
    substrings: str | None
    normalise: Callable[[bytes], bytes | None]
    prepare: Callable[[str], str] = fold
    spaceless: bool = False


def _text(value: bytes) -> bytes | None:
    try:
        return fold(value.decode()).encode()
    except UnicodeError:
        return None


def _some_text(value: bytes) -> bytes | None:
    """A directory string has at least one character (RFC 4517 §3.3.6)."""
    return _text(value) if value else None


def _exact(value: bytes) -> bytes | None:
    try:
        return prepare(value.decode()).encode()
    except UnicodeError:
        return None


def _some_exact(value: bytes) -> bytes | None:
    return _exact(value) if value else None


def _octets(value: bytes) -> bytes:
    """As it is. 0xff never stands in the values here, which are UTF-8; 0xfe neither, so it equals none of them."""
    return value.replace(b"\xff", b"\xfe")


def _numeric(value: bytes) -> bytes | None:
    """RFC 4517 §3.3.23 and RFC 4518 §2.6.2: digits, spaces do not count."""
    digits = value.replace(b" ", b"")
    return digits if digits.isdigit() else None


def _digits(text: str) -> str:
    """Part of a numeric string. Raises UnicodeError, as text that is no UTF-8 does: the assertion is invalid."""
    if text.strip(" ") and not (text.isascii() and text.replace(" ", "").isdigit()):
        raise UnicodeError("not digits")
    return text


def _phone_text(text: str) -> str:
    return fold(text).replace("-", "")


def _telephone(value: bytes) -> bytes | None:
    """RFC 4517 §4.2.29: spaces and hyphens do not count."""
    folded = _some_text(value)
    return None if folded is None else folded.replace(b" ", b"").replace(b"-", b"")


def _dn(value: bytes) -> bytes | None:
    try:
        return DN.parse(value).key
    except DNError:
        return None


_INTEGER = re.compile(rb"\s*(-?)0*([0-9]+)\s*")
_INTEGER_DIGITS_MAX = 640  # Python always converts that many (sys.int_info); 2,100 bits are more than anybody counts


def _integer(value: bytes) -> bytes | None:
    """Sign, length, digits: byte order is numeric order. Negative numbers are complemented."""
    match = _INTEGER.fullmatch(value)
    if match is None:
        return None
    digits = match[2]
    if len(digits) > _INTEGER_DIGITS_MAX:
        return None
    if match[1] and digits != b"0":
        length = 0xFFFF - len(digits)
        # 0xff separates values in an index and never appears: 7-bit groups keep every byte below it
        return b"0%c%c%c" % (length >> 14, length >> 7 & 0x7F, length & 0x7F) + digits.translate(_COMPLEMENT)
    length = len(digits)
    return b"1%c%c%c" % (length >> 14, length >> 7 & 0x7F, length & 0x7F) + digits


_COMPLEMENT = bytes.maketrans(b"0123456789", b"9876543210")


def integer_of(normalised: bytes) -> int:
    """The number that ``_integer`` normalised."""
    digits = normalised[4:]
    return int(digits) if normalised[:1] == b"1" else -int(digits.translate(_COMPLEMENT))


_TIME = re.compile(rb"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)?(\d\d)?(?:[.,](\d+))?(Z|[+-]\d\d(?:\d\d)?)")


def _time(value: bytes) -> bytes | None:
    """RFC 4517 §3.3.13 → UTC ``YYYYMMDDhhmmss`` with the fraction of a second, trailing zeros cut."""
    match = _TIME.fullmatch(value)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31 and int(hour) < 24):
        return None
    if int(minute or 0) > 59 or int(second or 0) > 60:
        return None
    if zone == b"Z" and second is not None and fraction is None:
        return year + month + day + hour + minute + second
    return _moment(year, month, day, hour, minute, second, fraction, zone)


def _moment(
    year: bytes, month: bytes, day: bytes, hour: bytes, minute: bytes | None, second: bytes | None,
    fraction: bytes | None, zone: bytes,
) -> bytes | None:  # fmt: skip
    """The slow path of ``_time``: missing minutes or seconds, fractions of them, offsets."""
    from datetime import UTC, datetime, timedelta, timezone
    from fractions import Fraction

    offset = timedelta(0)
    if zone != b"Z":
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[3:5] or 0))
        if offset >= timedelta(hours=24):
            return None
        offset = -offset if zone[:1] == b"-" else offset
    part = Fraction(int(fraction), 10 ** len(fraction)) if fraction else Fraction(0)
    unit = 3600 if minute is None else 60 if second is None else 1
    seconds = Fraction(min(int(second or 0), 59)) + part * unit
    whole = int(seconds)
    try:
        moment = datetime(int(year), int(month), int(day), int(hour), int(minute or 0), tzinfo=timezone(offset))
        moment = moment.astimezone(UTC) + timedelta(seconds=whole)
    except (ValueError, OverflowError):
        return None
    text = moment.strftime("%Y%m%d%H%M%S").rjust(14, "0").encode()
    rest = seconds - whole
    if rest and fraction:
        digits = str(int(rest * 10 ** len(fraction))).rjust(len(fraction), "0").rstrip("0")
        text += b"." + digits.encode() if digits else b""
    return text


def _boolean(value: bytes) -> bytes | None:
    upper = value.strip().upper()
    return upper if upper in (b"TRUE", b"FALSE") else None


def _uuid(value: bytes) -> bytes | None:
    try:
        return str(uuid.UUID(value.decode())).encode()
    except ValueError:
        return None


SYNTAXES: dict[str, Syntax] = {
    "S": Syntax(
        "15", "Directory String", "caseIgnoreMatch", "caseIgnoreOrderingMatch", "caseIgnoreSubstringsMatch", _some_text
    ),
    "E": Syntax(
        "15", "Directory String", "caseExactMatch", "caseExactOrderingMatch", "caseExactSubstringsMatch",
        _some_exact, prepare,
    ),
    "A": Syntax("26", "IA5 String", "caseIgnoreIA5Match", None, "caseIgnoreIA5SubstringsMatch", _text),
    "F": Syntax("26", "IA5 String", "caseExactIA5Match", None, "caseExactIA5SubstringsMatch", _exact, prepare),
    "N": Syntax(
        "36", "Numeric String", "numericStringMatch", "numericStringOrderingMatch", "numericStringSubstringsMatch",
        _numeric, _digits, True,
    ),
    "T": Syntax(
        "50", "Telephone Number", "telephoneNumberMatch", None, "telephoneNumberSubstringsMatch", _telephone,
        _phone_text, True,
    ),
    "X": Syntax("40", "Octet String", "octetStringMatch", "octetStringOrderingMatch", None, _octets),
    "D": Syntax("12", "DN", "distinguishedNameMatch", None, None, _dn),
    "I": Syntax("27", "INTEGER", "integerMatch", "integerOrderingMatch", None, _integer),
    "G": Syntax("24", "Generalized Time", "generalizedTimeMatch", "generalizedTimeOrderingMatch", None, _time),
    "B": Syntax("7", "Boolean", "booleanMatch", None, None, _boolean),
    "O": Syntax("38", "OID", "objectIdentifierMatch", None, None, _text),
    "U": Syntax("1.3.6.1.1.16.1", "UUID", "uuidMatch", "uuidOrderingMatch", None, _uuid),
}  # fmt: skip
"""Letter, as in the tables of ``schema.py``, → syntax. Only E, F and X tell upper from lower case values."""
