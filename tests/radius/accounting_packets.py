"""Accounting-Requests for tests, made by the encoder of ``wire`` (which has vectors of its own)."""

from __future__ import annotations

from outposts.radius.providers import RadiusProvider
from outposts.radius.rfc import AcctStatusType, Attribute, Code
from outposts.radius.wire import Packet, decode, encode_request

SECRET = b"testing123"
PROVIDER = RadiusProvider(7, "wifi", "wifi-app", "login", SECRET, accounting=True, das=True)


def number(value: int) -> bytes:
    """A 32-bit number."""
    return value.to_bytes(4, "big")


def rows(status: int, session_id: str = "s1", **more: int | str | bytes) -> list[tuple[int, bytes]]:
    """Attributes of a report: keyword names are those of ``Attribute`` in lower case."""
    found: list[tuple[int, bytes]] = [(Attribute.ACCT_STATUS_TYPE, number(status))]
    if session_id:
        found.append((Attribute.ACCT_SESSION_ID, session_id.encode()))
    for name, value in more.items():
        octets = number(value) if isinstance(value, int) else value.encode() if isinstance(value, str) else value
        found.append((Attribute[name.upper()], octets))
    return found


def report(status: int, session_id: str = "s1", *, identifier: int = 3, **more: int | str | bytes) -> Packet:
    """A whole packet."""
    return decode(
        encode_request(Code.ACCOUNTING_REQUEST, identifier, SECRET, rows(status, session_id, **more), sign=False)
    )


START, STOP, INTERIM = AcctStatusType.START, AcctStatusType.STOP, AcctStatusType.INTERIM_UPDATE
ON, OFF = AcctStatusType.ACCOUNTING_ON, AcctStatusType.ACCOUNTING_OFF
