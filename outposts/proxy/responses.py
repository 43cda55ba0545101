"""Octets of an application's answer → head and pieces of its body (RFC 9112 §4 to §7). Sans-IO, one reader per answer.

An answer that could be read in two ways is an error, not repaired: two lengths, a length and chunks, a folded line, a
bare LF. Header lines that go on are kept as the application wrote them.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import NamedTuple

from common.errors import OutpostError
from outposts.proxy import rfc
from outposts.proxy.bodies import BodyError, BodyReader, Pairs

MAX_HEAD = 262_144
"""Octets of an answer's head. nginx takes 4 to 8 KiB, Go 1 MiB; applications with many large cookies send 64 KiB."""
MAX_LINES = 512  # header lines of an answer
MAX_INTERIM = 16  # heads with a status of 1xx before the real one
MAX_LENGTH_DIGITS = 18  # of Content-Length: an exabyte
START = b"HTTP/1."  # with which every answer begins; what does not is not waited for
MAX_NAMES = 4096  # spellings of header names that are remembered

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VISIBLE = bytes(octet for octet in range(256) if octet == 9 or (octet >= 32 and octet != 127))
_OWN_COOKIE = re.compile(rb"[ \t]*(?:__(?:Host|Secure)-)?" + rfc.COOKIE_NAME.encode() + rb"[0-9a-f]{8}")
_KEEP = re.compile(rb"(?:^|[,; ])timeout=([0-9]{1,6})\b", re.IGNORECASE)


class ResponseError(OutpostError):
    """The octets are no answer that can be passed on. The text holds none of them."""


class Kind(IntEnum):
    """What a header line is to a proxy."""

    PLAIN = 0
    HOP = 1  # for this hop only
    LENGTH = 2
    CODING = 3
    CONNECTION = 4
    UPGRADE = 5
    KEEP_ALIVE = 6
    COOKIE = 7


_KINDS = {b"content-length": Kind.LENGTH, b"transfer-encoding": Kind.CODING, b"connection": Kind.CONNECTION}
_KINDS |= {b"upgrade": Kind.UPGRADE, b"keep-alive": Kind.KEEP_ALIVE, b"set-cookie": Kind.COOKIE}
_KINDS = {name.encode(): Kind.HOP for name in rfc.HOP_BY_HOP} | _KINDS
_kinds: dict[bytes, Kind] = {}


def _kind(name: bytes) -> Kind:
    if not _NAME.fullmatch(name):
        raise ResponseError("malformed header")
    kind = _KINDS.get(name.lower(), Kind.PLAIN)
    if len(_kinds) < MAX_NAMES and len(name) <= 64:
        _kinds[name] = kind
    return kind


class ResponseHead(NamedTuple):
    """``lines`` are the header lines that go on, without those that frame the body or are for this hop.

    ``length`` is what ``Content-Length`` said, also where there is no body (answers to HEAD). ``keep_s``: for how long
    the application keeps the connection, None if it did not say; 0 if it closes.
    """

    status: int
    reason: bytes
    lines: list[bytes]
    length: int | None
    chunked: bool
    keep_s: float | None
    upgrade: bytes


def read_head(data: bytes, start: int, end: int) -> ResponseHead:
    """The head in ``data[start:end]``, ``end`` behind its blank line. Raises ``ResponseError``."""
    match = _STATUS.match(data, start, end)
    if match is None:
        raise ResponseError("malformed status line")
    block = data[match.end() : end - 2]
    raw = block.split(b"\r\n")
    raw.pop()
    if len(raw) > MAX_LINES:
        raise ResponseError("too many headers")
    if block.translate(None, _VISIBLE) != b"\r\n" * len(raw):
        raise ResponseError("control character in a header")
    lines: list[bytes] = []
    length: int | None = None
    chunked = False
    keeps = match[1] == b"1"
    keep_s: float | None = None
    upgrade = b""
    named: set[bytes] = set()
    for line in raw:
        name, colon, value = line.partition(b":")
        if not colon:
            raise ResponseError("malformed header")
        kind = _kinds.get(name)
        if kind is None:
            kind = _kind(name)
        if kind is Kind.PLAIN:
            lines.append(line)
        elif kind is Kind.LENGTH:
            if length is not None:
                raise ResponseError("two lengths")
            length = _length(value)
        elif kind is Kind.CODING:
            if chunked or value.strip(b" \t").lower() != b"chunked":
                raise ResponseError("a transfer coding other than chunked")
            chunked = True
        elif kind is Kind.CONNECTION:
            options = {option.strip(b" \t").lower() for option in value.split(b",")}
            keeps = (keeps or b"keep-alive" in options) and b"close" not in options
            named |= options
        elif kind is Kind.UPGRADE:
            upgrade = value.strip(b" \t")
        elif kind is Kind.KEEP_ALIVE:
            found = _KEEP.search(value)
            keep_s = float(found[1]) if found is not None else None
        elif kind is Kind.COOKIE:
            if not _OWN_COOKIE.match(value):  # an application must not set or delete sessions that are not its own
                lines.append(line)
    if chunked and (length is not None or match[1] == b"0"):
        raise ResponseError("a length and chunks")
    named -= {b"", b"close", b"keep-alive", b"upgrade"}
    if named:
        lines = [line for line in lines if line.partition(b":")[0].lower() not in named]
    return ResponseHead(int(match[2]), match[3] or b"", lines, length, chunked, keep_s if keeps else 0.0, upgrade)


def _length(value: bytes) -> int:
    digits = value.strip(b" \t")
    if not digits.isdigit() or len(digits) > MAX_LENGTH_DIGITS:
        raise ResponseError("malformed length")
    return int(digits)


class ResponseReader:
    """Reads one answer. ``head_only``: to a request with HEAD. ``upgrade``: 101 may come.

    After each ``feed``: ``interim`` holds heads with 1xx that came, ``head`` the real one, ``pieces`` what came of the
    body since somebody emptied it (``size`` octets), ``done`` whether that was all. ``rest`` is what follows: of a
    tunnel, or, after an answer, octets that nobody asked for.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_head_only",
        "_touched",
        "_upgrade",
        "done",
        "head",
        "interim",
        "pieces",
        "rest",
        "size",
    )

    def __init__(self, head_only: bool = False, upgrade: bool = False) -> None:
        self._head_only = head_only
        self._upgrade = upgrade
        self._touched = False
        self._buffer = bytearray()
        self._body: BodyReader | None = None
        self.interim: list[ResponseHead] = []
        self.head: ResponseHead | None = None
        self.pieces: list[bytes] = []
        self.size = 0
        self.done = False
        self.rest = b""

    @property
    def trailers(self) -> Pairs:
        """What stood behind a chunked body."""
        return self._body.trailers if self._body is not None else []

    @property
    def untouched(self) -> bool:
        """Whether not one octet has come."""
        return not self._touched

    @property
    def reusable(self) -> bool:
        """Whether another answer can be read from the same connection: this one is complete and nothing followed."""
        head, body = self.head, self._body
        return (
            self.done
            and not self.rest
            and head is not None
            and head.status != 101
            and head.keep_s != 0
            and (body is None or not body.to_the_end)
        )

    def feed(self, data: bytes) -> None:
        """Octets from the application. Raises ``ResponseError``."""
        self._touched = True
        if self.done:
            self.rest += data
            return
        if self._body is None:
            if self._buffer:
                searched = max(0, len(self._buffer) - 3)
                self._buffer += data
                if searched < len(START) and not START.startswith(bytes(self._buffer[: len(START)])):
                    raise ResponseError("not an HTTP/1 answer")
                if self._buffer.find(b"\r\n\r\n", searched) < 0 and len(self._buffer) < MAX_HEAD:
                    return
                data = bytes(self._buffer)
                self._buffer.clear()
            data = self._heads(data)
            if self._body is None:
                self.rest = data  # of a tunnel or behind an answer without a body; nothing if the head is not complete
                return
        if data:
            self._feed_body(data)

    def end(self) -> None:
        """The connection has ended. Raises ``ResponseError`` if the answer is not complete."""
        if self.done:
            return
        if self._body is None:
            raise ResponseError("closed within the head" if self._buffer else "closed without an answer")
        try:
            self._body.end()
        except BodyError as error:
            raise ResponseError(str(error)) from None
        self.done = True

    def _feed_body(self, data: bytes) -> None:
        body = self._body
        assert body is not None
        try:
            pieces, self.rest = body.feed(data)
        except BodyError as error:
            raise ResponseError(str(error)) from None
        self.pieces += pieces
        for piece in pieces:
            self.size += len(piece)
        self.done = body.done

    def _heads(self, data: bytes) -> bytes:
        """Read heads up to the real one; returns what follows, or nothing if more is needed."""
        start = 0
        while self.head is None:
            end = data.find(b"\r\n\r\n", start, start + MAX_HEAD)
            if end < 0:
                if len(data) - start >= MAX_HEAD:
                    raise ResponseError("head too large")
                if not START.startswith(data[start : start + len(START)]):
                    raise ResponseError("not an HTTP/1 answer")
                self._buffer += data[start:]
                return b""
            head = read_head(data, start, end + 4)
            start = end + 4
            if head.status >= 200 or head.status == 101:
                self._begin(head)
            elif len(self.interim) >= MAX_INTERIM:
                raise ResponseError("too many interim answers")
            else:
                self.interim.append(head)
        return data[start:]

    def _begin(self, head: ResponseHead) -> None:
        """The real head: what follows it (RFC 9112 §6.3)."""
        self.head = head
        if head.status == 101:
            if not self._upgrade:
                raise ResponseError("it changes the protocol, which nobody asked for")
            self.done = True
        elif self._head_only or head.status in (204, 304):
            self.done = True
        else:
            self._body = BodyReader(head.length, head.chunked)
            self.done = self._body.done
