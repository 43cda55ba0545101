"""WebSocket messages ↔ JSON, and how long to wait before the socket is tried again (core-contract §5). Pure.

Both ends use it: the link of an outpost reads what the core sends, the embedded core's hub reads what outposts send.
Unknown instructions, extra keys and broken frames become ``Unknown``: they never end a connection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

ACK = 0
HELLO = 1
TRIGGER_UPDATE = 2
PROVIDER_SPECIFIC = 3
SESSION_END = 4

SESSION_END_TYPE = "event.session.end"
PROVIDER_SPECIFIC_TYPE = "event.provider.specific"


@dataclass(frozen=True)
class Ack:
    """The other side got a message."""


@dataclass(frozen=True)
class Hello:
    """What an outpost says of itself, every ten seconds. The core wants every field, and none of them null."""

    version: str
    build_hash: str
    instance_id: str
    runtime: str  # the field is called golangVersion; ours says "CPython 3.12.4"
    openssl_version: str
    hostname: str
    openssl_enabled: bool = True
    fips_enabled: bool = False


@dataclass(frozen=True)
class TriggerUpdate:
    """Something changed: refresh."""


@dataclass(frozen=True)
class ProviderSpecific:
    """A message for one kind of provider (remote access); nothing here uses it."""

    args: dict[str, Any]


@dataclass(frozen=True)
class SessionEnd:
    """A login session ended. ``session_id`` is the SHA-256 hex of its key."""

    session_id: str = field(repr=False)


@dataclass(frozen=True)
class Unknown:
    """A frame that means nothing to us, and why."""

    why: str


Event = Ack | Hello | TriggerUpdate | ProviderSpecific | SessionEnd | Unknown


class _Envelope(msgspec.Struct):
    """Any message. A missing ``instruction`` is an error; ``args`` may be absent or null."""

    instruction: int
    args: dict[str, Any] | None = None


_decoder = msgspec.json.Decoder(_Envelope)
_encoder = msgspec.json.Encoder()

# HELLO: field of ours → name on the wire, and its type
HELLO_FIELDS: tuple[tuple[str, str, type], ...] = (
    ("version", "version", str),
    ("build_hash", "buildHash", str),
    ("instance_id", "uuid", str),
    ("runtime", "golangVersion", str),
    ("openssl_enabled", "opensslEnabled", bool),
    ("openssl_version", "opensslVersion", str),
    ("fips_enabled", "fipsEnabled", bool),
    ("hostname", "hostname", str),
)


def decode(frame: str | bytes) -> Event:
    """One frame → what it says. Never raises."""
    try:
        message = _decoder.decode(frame)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return Unknown("not a message")
    read = _READERS.get(message.instruction)
    return read(message.args or {}) if read is not None else Unknown(f"instruction {message.instruction}")


def _read_hello(args: dict[str, Any]) -> Event:
    values: dict[str, Any] = {}
    for name, key, kind in HELLO_FIELDS:
        value = args.get(key)
        if type(value) is not kind:
            return Unknown(f"hello without {key}")
        values[name] = value
    return Hello(**values)


def _read_session_end(args: dict[str, Any]) -> Event:
    session_id = args.get("session_id")
    if not isinstance(session_id, str) or not session_id:
        return Unknown("session end without session")
    return SessionEnd(session_id)


_READERS: dict[int, Callable[[dict[str, Any]], Event]] = {
    ACK: lambda args: Ack(),
    HELLO: _read_hello,
    TRIGGER_UPDATE: lambda args: TriggerUpdate(),
    PROVIDER_SPECIFIC: ProviderSpecific,
    SESSION_END: _read_session_end,
}


def encode(event: Event) -> str:
    """A message as the text of one frame. ``Unknown`` cannot be sent."""
    args: dict[str, Any] = {}
    match event:
        case Ack():
            instruction = ACK
        case Hello():
            instruction = HELLO
            args = {key: getattr(event, name) for name, key, _ in HELLO_FIELDS}
        case TriggerUpdate():
            instruction = TRIGGER_UPDATE
        case ProviderSpecific():
            instruction, args = PROVIDER_SPECIFIC, {"type": PROVIDER_SPECIFIC_TYPE, **event.args}
        case SessionEnd():
            instruction, args = SESSION_END, {"type": SESSION_END_TYPE, "session_id": event.session_id}
        case Unknown():
            raise ValueError("not a message")
    return _encoder.encode({"instruction": instruction, "args": args}).decode()


Uniform = Callable[[float, float], float]  # a number between two bounds

FIRST_BOUND_S = 1.0
# While an outage is short the waits stay short, so that the socket is back within 5 s of an outage of 10 s: the last
# wait may begin at second 10, and a handshake takes a part of the remaining second.
SHORT_OUTAGE_S = 10.0
SHORT_BOUND_S = 4.0
# Back within 60 s of any longer one: the longest wait and the handshake's own time limit (10 s) together.
LONG_BOUND_S = 50.0


def reconnect_delay(attempt: int, absence_s: float, uniform: Uniform) -> float:
    """Seconds to wait before connection attempt number ``attempt`` of an outage (0 = the first: at once).

    ``absence_s``: how long the socket has been gone. Full jitter between one second and a bound that doubles.
    """
    if attempt <= 0:
        return 0.0
    bound = min(FIRST_BOUND_S * 2.0 ** min(attempt, 16), LONG_BOUND_S)
    if absence_s <= SHORT_OUTAGE_S:
        bound = min(bound, SHORT_BOUND_S)
    return uniform(FIRST_BOUND_S, bound)
