"""What one Accounting-Request says (RFC 2866 §5, RFC 2869 §5): octets in, ``Report`` out. Nothing is decided here."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from outposts.radius.das import CLIENT_ATTRIBUTES, SESSION_ATTRIBUTES
from outposts.radius.providers import RadiusProvider
from outposts.radius.rfc import AcctStatusType, AcctTerminateCause, Attribute
from outposts.radius.wire import Attributes, Packet

MAX_SKEW_S = 86_400.0  # an Event-Timestamp further away than this is a clock that was never set: not believed
GIGAWORD = 1 << 32  # RFC 2869 §5.1: how often the counter of octets has wrapped
NAMES = frozenset({*CLIENT_ATTRIBUTES, *SESSION_ATTRIBUTES})


@dataclass(frozen=True, slots=True)
class Client:
    """Who reports: the address that the packet came from, and how the gear names itself (it may sit behind a proxy)."""

    provider_pk: int
    address: str
    nas_ip: str = ""
    nas_identifier: str = ""

    def is_meant_by(self, other: Client) -> bool:
        """Whether a report of ``other`` speaks of this client: the same, as far as ``other`` names itself."""
        return (
            self.provider_pk == other.provider_pk
            and self.address == other.address
            and other.nas_ip in ("", self.nas_ip)
            and other.nas_identifier in ("", self.nas_identifier)
        )


@dataclass(frozen=True, slots=True)
class Report:
    """One Accounting-Request. Times in unix seconds, counters in octets; texts empty where nothing was reported.

    ``happened_at`` is when the client saw it, not when we heard of it.
    """

    status: AcctStatusType
    client: Client
    application_slug: str
    provider_name: str
    session_id: str
    user_name: str
    happened_at: float
    heard_at: float
    calling_station_id: str = ""
    called_station_id: str = ""
    framed_ip: str = ""
    nas_port: int | None = None
    class_: bytes = field(default=b"", repr=False)
    input_octets: int | None = None
    output_octets: int | None = None
    session_time_s: int | None = None
    terminate_cause: str = ""
    multi_session_id: str = ""
    names: Attributes = field(default=(), repr=False)  # how the client names itself and the session, as it wrote it


def read(packet: Packet, provider: RadiusProvider, address: str, now: float) -> Report | None:
    """What an Accounting-Request says; None without Acct-Status-Type, which it must have (RFC 2866 §5.13).

    ``address`` is where it came from, ``now`` unix seconds. A value of the wrong length counts as not sent.
    """
    status = _number(packet.first(Attribute.ACCT_STATUS_TYPE))
    if status is None:
        return None
    cause = _number(packet.first(Attribute.ACCT_TERMINATE_CAUSE))
    return Report(
        status=AcctStatusType(status),
        client=Client(
            provider.pk,
            address,
            _address(packet.first(Attribute.NAS_IP_ADDRESS) or packet.first(Attribute.NAS_IPV6_ADDRESS)),
            _text(packet.first(Attribute.NAS_IDENTIFIER)),
        ),
        application_slug=provider.application_slug,
        provider_name=provider.name,
        session_id=_text(packet.first(Attribute.ACCT_SESSION_ID)),
        user_name=_text(packet.first(Attribute.USER_NAME)),
        happened_at=_happened_at(packet, now),
        heard_at=now,
        calling_station_id=_text(packet.first(Attribute.CALLING_STATION_ID)),
        called_station_id=_text(packet.first(Attribute.CALLED_STATION_ID)),
        framed_ip=_address(packet.first(Attribute.FRAMED_IP_ADDRESS) or packet.first(Attribute.FRAMED_IPV6_ADDRESS)),
        nas_port=_number(packet.first(Attribute.NAS_PORT)),
        class_=packet.first(Attribute.CLASS) or b"",
        input_octets=_counter(packet, Attribute.ACCT_INPUT_OCTETS, Attribute.ACCT_INPUT_GIGAWORDS),
        output_octets=_counter(packet, Attribute.ACCT_OUTPUT_OCTETS, Attribute.ACCT_OUTPUT_GIGAWORDS),
        session_time_s=_number(packet.first(Attribute.ACCT_SESSION_TIME)),
        terminate_cause="" if cause is None else AcctTerminateCause(cause).name.lower(),
        multi_session_id=_text(packet.first(Attribute.ACCT_MULTI_SESSION_ID)),
        names=tuple(row for row in packet.attributes if row[0] in NAMES),
    )


def _number(value: bytes | None) -> int | None:
    """A 32-bit number (RFC 2865 §5, "integer")."""
    return int.from_bytes(value, "big") if value is not None and len(value) == 4 else None


def _text(value: bytes | None) -> str:
    """Text as the client wrote it; what is no UTF-8 stays recognisable and can be shown."""
    return value.decode("utf-8", "backslashreplace").rstrip("\x00") if value else ""


def _address(value: bytes | None) -> str:
    if value is None or len(value) not in (4, 16):
        return ""
    return str(ipaddress.ip_address(value))


def _counter(packet: Packet, low: int, high: int) -> int | None:
    octets, wrapped = _number(packet.first(low)), _number(packet.first(high))
    if octets is None and wrapped is None:
        return None
    return (wrapped or 0) * GIGAWORD + (octets or 0)


def _happened_at(packet: Packet, now: float) -> float:
    """RFC 2869 §5.3 Event-Timestamp, else Acct-Delay-Time before now (RFC 2866 §5.2)."""
    stamp = _number(packet.first(Attribute.EVENT_TIMESTAMP))
    if stamp is not None and abs(stamp - now) <= MAX_SKEW_S:
        return float(stamp)
    delay = _number(packet.first(Attribute.ACCT_DELAY_TIME)) or 0
    return now - delay if delay <= MAX_SKEW_S else now
