"""Kinds of setting values: text (or a JSON/YAML value) in, typed value out, ``ValueError`` if it does not fit.

A ``Kind`` knows how to read a value and what to tell an operator who wrote another one. The same kinds serve the
environment (always text), configuration files (YAML values) and the outpost's ``config`` on the core (JSON values).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard
from urllib.parse import urlsplit

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOG_LEVELS = ("trace", "debug", "info", "warning", "error")

TRUE_WORDS = frozenset({"1", "t", "true", "yes", "on"})
FALSE_WORDS = frozenset({"0", "f", "false", "no", "off"})

# Suffixes of Go's durations, which the core's deployments write ("1m30s"), and of plain day counts.
SECONDS_PER_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# Names of the core's own time strings ("minutes=5;seconds=30").
SECONDS_PER_NAME = {
    "microseconds": 0.000001,
    "milliseconds": 0.001,
    "seconds": 1.0,
    "minutes": 60.0,
    "hours": 3600.0,
    "days": 86400.0,
    "weeks": 604800.0,
}
BYTES_PER_UNIT = {"": 1, "b": 1, "k": 1024, "kib": 1024, "m": 1024**2, "mib": 1024**2, "g": 1024**3, "gib": 1024**3}

_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")
_SIZE = re.compile(r"(\d+)\s*([a-z]*)")


class ListenAddress(NamedTuple):
    """Where to listen: an IP address or host name (``::`` is both families) and a port, 0 = any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class CoreAddress(NamedTuple):
    """A core's base URL taken apart: ``base`` without final slash, ``query`` without ``?``, ``socket`` of unix:// ones.

    ``warning`` says what was left out of what the operator wrote.
    """

    base: str
    query: str
    socket: str | None
    warning: str = ""


@dataclass(frozen=True)
class Kind:
    """How one sort of value is read. ``accepted`` completes "accepted: …" in an error and in the documentation.

    ``is_object`` tells an object that is itself a value from one that is keyed by provider name.
    """

    name: str
    accepted: str
    parse: Callable[[object], Any]
    listed: bool = False
    is_object: Callable[[Mapping[Any, object]], bool] = lambda _: False


@dataclass(frozen=True)
class ExtraSetting:
    """One setting of a protocol, which may differ per provider. ``default`` is a finished value."""

    type: str
    name: str
    kind: Kind
    default: Any
    unit: str
    help: str

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return f"OUTPOSTS_{self.type}__{self.name}".upper()

    @property
    def key(self) -> str:
        """Its name in the outpost's ``config``."""
        return f"x_{self.type}_{self.name}"


def split_list(value: object) -> list[str]:
    """Items of a comma list or of a real list, trimmed, without empty ones."""
    if isinstance(value, str):
        return [item for item in (part.strip() for part in value.split(",")) if item]
    if isinstance(value, list | tuple):
        return [item for element in value for item in split_list(_text(element))]
    raise ValueError("not a list")


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise ValueError("not a plain value")


def _boolean(value: object) -> bool:
    word = _text(value).strip().lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise ValueError("neither true nor false")


def _number(value: object) -> float:
    if isinstance(value, bool):
        raise ValueError("not a number")
    number = float(_text(value))
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError("not a finite number")
    return number


def seconds(value: object) -> float:
    """Seconds of ``30``, ``30s``, ``1m30s``, ``500ms`` or ``minutes=5;seconds=3``."""
    try:
        return _number(value)
    except ValueError:
        text = _text(value).strip().lower()
    if "=" in text:
        total = 0.0
        for part in text.split(";"):
            name, _, amount = part.partition("=")
            if name.strip() not in SECONDS_PER_NAME:
                raise ValueError("unknown unit of time")
            total += SECONDS_PER_NAME[name.strip()] * _number(amount)
        return total
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(amount + unit for amount, unit in parts) != text:
        raise ValueError("not a duration")
    return sum(float(amount) * SECONDS_PER_UNIT[unit] for amount, unit in parts)


def _bytes(value: object) -> int:
    match = _SIZE.fullmatch(_text(value).strip().lower())
    if not match or match[2] not in BYTES_PER_UNIT:
        raise ValueError("not a size")
    return int(match[1]) * BYTES_PER_UNIT[match[2]]


def listen_address(value: object) -> ListenAddress:
    """``127.0.0.1:389``, ``[::]:389``, ``:389`` (all addresses of both families) or ``localhost:0``."""
    host, separator, port = _text(value).strip().rpartition(":")
    if not separator or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError("no port from 0 to 65535 at the end")
    if host.startswith("[") and host.endswith("]"):
        return ListenAddress(str(ipaddress.IPv6Address(host[1:-1])), int(port))
    if ":" in host:
        raise ValueError("an IPv6 address needs brackets")
    if re.fullmatch(r"[0-9.]+", host):
        ipaddress.IPv4Address(host)
    elif host and not re.fullmatch(r"[A-Za-z0-9._-]+", host):
        raise ValueError("not a host name")
    return ListenAddress(host or "::", int(port))


def core_address(value: object) -> CoreAddress:
    """Take a core's base URL apart: with and without final slash, sub-path, query; ``unix://`` socket paths."""
    text = _text(value).strip()
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError("not a URL") from error
    if parts.scheme == "unix":
        path = parts.netloc + parts.path
        if not path:
            raise ValueError("no socket path")
        return CoreAddress("http://localhost", parts.query, path)
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s\x00-\x1f]", text):
        raise ValueError("not a URL")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    authority = host if port is None else f"{host}:{port}"
    warning = "user name and password in the URL are not used" if "@" in parts.netloc else ""
    return CoreAddress(f"{parts.scheme}://{authority}{parts.path.rstrip('/')}", parts.query, None, warning)


def log_level(value: object) -> tuple[str, bool]:
    """Level in lower case and whether it is a known one; anything unknown means ``debug``."""
    level = value.strip().lower() if isinstance(value, str) else ""
    return (level, True) if level in LOG_LEVELS else ("debug", False)


def network(value: object) -> Network:
    """``10.0.0.0/8`` or a single address; host bits are allowed."""
    return ipaddress.ip_network(_text(value).strip(), strict=False)


def is_keyed(value: object, kind: Kind) -> TypeGuard[Mapping[Any, object]]:
    """Whether this is an object keyed by provider name, and not a value."""
    return isinstance(value, Mapping) and not kind.is_object(value)


def by_provider(kind: Kind, value: object, provider_name: str) -> tuple[bool, object]:
    """Pick a provider's value out of an object keyed by provider name; ``*`` is for the rest.

    Returns whether there is one. A plain value holds for every provider.
    """
    if not is_keyed(value, kind):
        return True, value
    if provider_name in value:
        return True, value[provider_name]
    if "*" in value:
        return True, value["*"]
    return False, None


def _plain_text(value: object) -> str:
    return _text(value).strip()


TEXT = Kind("text", "any text", _plain_text)
BOOLEAN = Kind("boolean", "true, false, yes, no, on, off, 1, 0", _boolean)
LISTEN = Kind("address", "ADDRESS:PORT such as 127.0.0.1:389 or [::]:389", listen_address)
LISTEN_LIST = Kind(
    "addresses",
    "comma list of ADDRESS:PORT such as 127.0.0.1:389 or [::]:389",
    lambda value: tuple(listen_address(item) for item in split_list(value)),
    listed=True,
)
TEXT_LIST = Kind("texts", "comma list", lambda value: tuple(split_list(value)), listed=True)
CORE_URL = Kind(
    "URL", "http://HOST, https://HOST (both with optional port, path and query) or unix://PATH", core_address
)


def number(minimum: int, maximum: int | None = None) -> Kind:
    """A whole number within limits."""

    def parse(value: object) -> int:
        amount = _number(value)
        if amount != int(amount) or amount < minimum or (maximum is not None and amount > maximum):
            raise ValueError("out of range or not whole")
        return int(amount)

    return Kind("number", f"whole number from {minimum}" + ("" if maximum is None else f" to {maximum}"), parse)


def _count_or_auto(value: object) -> int:
    return 0 if _text(value).strip().lower() == "auto" else _COUNT.parse(value)


MAX_WORKERS = 256  # more processes than any machine has use for; a typing error must not start thousands
_COUNT = number(1, MAX_WORKERS)
COUNT_OR_AUTO = Kind("count", f"whole number from 1 to {MAX_WORKERS}, or auto", _count_or_auto)


def duration(minimum_s: float = 0.0) -> Kind:
    """A length of time in seconds."""

    def parse(value: object) -> float:
        amount = seconds(value)
        if amount < minimum_s:
            raise ValueError("too short")
        return amount

    return Kind("duration", f"seconds, or such as 30s, 1m30s, 2h, minutes=5; at least {minimum_s:g} s", parse)


def size(minimum: int) -> Kind:
    """A number of bytes."""

    def parse(value: object) -> int:
        amount = _bytes(value)
        if amount < minimum:
            raise ValueError("too small")
        return amount

    return Kind("size", f"bytes, or such as 64KiB, 4MiB; at least {minimum} bytes", parse)


def choice(*words: str) -> Kind:
    """One of some words."""

    def parse(value: object) -> str:
        word = _text(value).strip().lower()
        if word not in words:
            raise ValueError("not one of the words")
        return word

    return Kind("choice", ", ".join(words), parse)


def choices(*words: str, empty: bool = False) -> Kind:
    """Some words, as a list, in any letter case; none only if ``empty``."""
    known = {word.lower(): word for word in words}

    def parse(value: object) -> tuple[str, ...]:
        chosen = tuple(known.get(item.lower(), "") for item in split_list(value))
        if not all(chosen) or not (chosen or empty):
            raise ValueError("not among the words")
        return tuple(dict.fromkeys(chosen))

    return Kind("choices", "comma list of " + ", ".join(words), parse, listed=True)
