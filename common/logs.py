"""Logs: one JSON object per line on standard error (or text for people), with secrets masked by the name of their key.

Keys: ``event``, ``timestamp`` (RFC 3339), ``level``, ``logger``, then the call's own fields. A level that is switched
off costs one comparison. ``TRACE`` is below debug and never shows more secrets than any other level.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any, TextIO

import structlog

from common.errors import OutpostError

TRACE = 5
LEVELS: Mapping[str, int] = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
MASK = "***"
# Values under such keys are secrets wherever they turn up: request bodies, headers, settings, provider records.
ALWAYS_SECRET = re.compile(r"passw|secret|cookie|authorization|credential|(^|[_-])(otp|pin)($|[_-])", re.IGNORECASE)
# The same as text, while a number under such a name is a result code, a count or a time.
SECRET_TEXT = re.compile(r"token|private|(^|[_-])(code|sid|key|pem|csrf)($|[_-])", re.IGNORECASE)
# Names that look like secrets by the rules above and are none.
PLAIN_KEYS = frozenset({"result_code", "exit_code", "error_code", "password_flow"})
MAX_FRAMES = 12  # of an exception's origin: enough to see which request led there
MAX_TEXT = 4096  # characters of one logged value: enough for a filter, too little to flood a log


class _StandardError:
    """The standard error stream of the moment, so that a replaced ``sys.stderr`` is found."""

    def write(self, text: str) -> None:
        """Pass on."""
        sys.stderr.write(text)

    def flush(self) -> None:
        """Pass on."""
        sys.stderr.flush()


class _State:
    """Level and writer in force; the level is read on every log call, so it is a plain attribute."""

    level = logging.INFO
    writer: Any = None
    stream: Any = None
    render: Callable[[Any, str, Mapping[str, Any]], str]


@lru_cache(maxsize=1024)
def _secrecy(key: str) -> int:
    """0: plain, 1: secret if it is not a number, 2: secret."""
    if key.lower() in PLAIN_KEYS:
        return 0
    if ALWAYS_SECRET.search(key):
        return 2
    return 1 if SECRET_TEXT.search(key) else 0


def masked(value: Any, key: str = "", depth: int = 0) -> Any:
    """A copy of a value that may be logged: secrets masked by key, long texts cut, foreign objects by their type."""
    if value is None or isinstance(value, bool) or value == "":
        return value
    secrecy = _secrecy(key) if key else 0
    if isinstance(value, int | float):
        return MASK if secrecy == 2 else value
    if secrecy:
        return MASK
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "…"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if depth >= 6:
        return "…"
    if isinstance(value, Mapping):
        return {str(name): masked(inner, str(name), depth + 1) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [masked(inner, "", depth + 1) for inner in value]
    return masked(str(value), "", depth + 1)


def _timestamp(now: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    return f"{whole}.{int(now % 1 * 1000):03d}Z"


def _finish(_logger: Any, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Put the keys in order, mask, and render an exception as its type chain and text without local values."""
    line: dict[str, Any] = {
        "event": event.pop("event", ""),
        "timestamp": _timestamp(time.time()),
        "level": {"warn": "warning", "exception": "error", "critical": "error"}.get(method, method),
        "logger": event.pop("logger", ""),
    }
    if event.pop("trace", False):
        line["level"] = "trace"
    trouble = event.pop("exc_info", None)
    for key, value in event.items():
        line[key] = masked(value, key)
    if trouble:
        error = trouble if isinstance(trouble, BaseException) else sys.exc_info()[1]
        if error is not None:
            line["exception"] = _exception(error)
    return line


def _exception(error: BaseException) -> list[str]:
    """Where an exception came from: file, line, function of each frame, never source text or values."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    # Only our own errors are known to carry no secret in their text, and the operating system's.
    text = f": {error}" if isinstance(error, OutpostError | OSError) else ""
    return [f"{type(error).__name__}{text}", *frames[-MAX_FRAMES:]]


def _json(_logger: Any, _method: str, line: Mapping[str, Any]) -> str:
    return _encode(line)


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _text(_logger: Any, _method: str, line: Mapping[str, Any]) -> str:
    fields = " ".join(
        f"{key}={json.dumps(value, ensure_ascii=False)}"
        for key, value in line.items()
        if key not in ("event", "timestamp", "level", "logger")
    )
    head = f"{line['timestamp']} {line['level']:<7} {line['logger']}: {_one_line(line['event'])}"
    return f"{head} {fields}".rstrip()


def _one_line(text: object) -> str:
    return json.dumps(str(text), ensure_ascii=False)[1:-1]


class Logger:
    """A named logger. Fields are keyword arguments: ``log.info("bound", client=address)``."""

    __slots__ = ("_fields", "_name")

    def __init__(self, name: str, fields: Mapping[str, Any] | None = None) -> None:
        self._name = name
        self._fields = dict(fields or {})

    def bind(self, **fields: Any) -> Logger:
        """A logger that adds these fields to every line."""
        return Logger(self._name, {**self._fields, **fields})

    def _write(self, method: str, event: str, fields: Mapping[str, Any]) -> None:
        getattr(_State.writer, method)(event, **{"logger": self._name, **self._fields, **fields})

    def enabled(self, level: str) -> bool:
        """Whether lines of this level are written: for callers whose fields are costly."""
        return _State.level <= LEVELS[level]

    def trace(self, event: str, **fields: Any) -> None:
        """Finest detail; still without secrets."""
        if _State.level <= TRACE:
            self._write("debug", event, {**fields, "trace": True})

    def debug(self, event: str, **fields: Any) -> None:
        """What helps to follow one request."""
        if _State.level <= logging.DEBUG:
            self._write("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """What an operator wants to see every day."""
        if _State.level <= logging.INFO:
            self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something is not as it should be; the service goes on."""
        if _State.level <= logging.WARNING:
            self._write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something failed."""
        self._write("error", event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """An error with the current exception's origin (no values)."""
        self._write("error", event, {**fields, "exc_info": True})


class RequestLines:
    """The info lines that every request gets: same text as ``Logger.info``, gathered and written together.

    A fast server writes tens of thousands of them; one system call each, and a chain of processors, would cost more
    than the request. ``add`` is told fields that are no secrets by their names: they are not masked, only cut.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lines: list[str] = []
        self._second = 0
        self._second_text = ""

    def add(self, event: str, fields: Mapping[str, Any]) -> bool:
        """Take a line; True for the first one after a ``write``: then the caller has ``write`` called soon."""
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second, self._second_text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        line = {
            "event": event,
            "timestamp": f"{self._second_text}.{int((now - second) * 1000):03d}Z",
            "level": "info",
            "logger": self._name,
        }
        for key, value in fields.items():
            line[key] = value if type(value) is not str or len(value) <= MAX_TEXT else value[:MAX_TEXT] + "…"
        self._lines.append(_State.render(None, "info", line))
        return len(self._lines) == 1

    def write(self) -> None:
        """Write what was gathered."""
        if self._lines:
            self._lines.append("")
            text = "\n".join(self._lines)
            self._lines.clear()
            _State.stream.write(text)
            _State.stream.flush()


def get_logger(name: str) -> Logger:
    """The logger of a part of the program."""
    return Logger(name)


def set_level(level: str) -> bool:
    """Set the level in force: ``trace debug info warning error``; anything else means debug. True if it changed."""
    number = LEVELS.get(level.strip().lower(), logging.DEBUG)
    changed = number != _State.level
    _State.level = number
    # Libraries speak up from warning on, and at debug only when asked for everything.
    logging.getLogger().setLevel(logging.DEBUG if number <= TRACE else max(number, logging.WARNING))
    return changed


class _LibraryLines(logging.Handler):
    """Lines of libraries (asyncio, aiohttp, …) in the same format."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one library line."""
        level = (
            "error" if record.levelno >= logging.ERROR else "warning" if record.levelno >= logging.WARNING else "debug"
        )
        fields: dict[str, Any] = {"exc_info": record.exc_info[1]} if record.exc_info and record.exc_info[1] else {}
        try:
            text = record.getMessage()
        except Exception:
            text = str(record.msg)
        Logger(record.name)._write(level, text, fields)


def level_name() -> str:
    """The level in force, as ``set_level`` takes it."""
    return next(name for name, number in LEVELS.items() if number == _State.level)


def configure(level: str = "info", *, debug: bool = False, stream: TextIO | None = None) -> None:
    """Set up logging for the process: JSON lines, or text if ``debug``. ``stream`` defaults to standard error."""
    _set_writer(debug, stream)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _LibraryLines)]:
        root.removeHandler(handler)
    root.addHandler(_LibraryLines())
    set_level(level)


def _set_writer(debug: bool, stream: TextIO | None) -> None:
    structlog.configure(
        processors=[_finish, _text if debug else _json],
        wrapper_class=structlog.BoundLogger,
        logger_factory=structlog.WriteLoggerFactory(file=stream or _StandardError()),  # type: ignore[arg-type]
    )
    _State.writer = structlog.get_logger().bind()
    _State.stream = stream or _StandardError()
    _State.render = staticmethod(_text if debug else _json)


_set_writer(False, None)
