"""Bodies of HTTP/1.1 messages: where one ends, and chunked coding both ways (RFC 9112 §6 and §7).

Sans-IO, one reader per body. Pieces come out as they go in, without joining; only the lines between chunks are held,
and they are short. What is not exactly as the RFC has it is an error: a lenient reader in front of a strict one is how
one request becomes two.
"""

from __future__ import annotations

import re

from common.errors import OutpostError

Pairs = list[tuple[bytes, bytes]]

MAX_CHUNK_LINE = 1024  # octets of a size with its extensions, which nobody uses
MAX_TRAILERS = 16_384  # octets; trailers hold a checksum or a status
MAX_TRAILER_LINES = 64

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
LAST_CHUNK = b"0\r\n\r\n"


class BodyError(OutpostError):
    """The octets are not a body of this kind."""


class BodyReader:
    """Reads one body: ``length`` octets, chunked, or (neither) up to the end of the connection."""

    __slots__ = ("_chunked", "_held", "_in_trailers", "_left", "_trailer_size", "done", "trailers")

    def __init__(self, length: int | None, chunked: bool = False) -> None:
        self._chunked = chunked
        self._left = -1 if chunked else length
        self._held = b""
        self._in_trailers = False
        self._trailer_size = 0
        self.trailers: Pairs = []
        self.done = self._left == 0

    @property
    def to_the_end(self) -> bool:
        """Whether only the end of the connection ends it."""
        return self._left is None

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Pieces of the body in ``data``, and what follows the body. Raises ``BodyError``."""
        if self.done:
            return [], data
        left = self._left
        if left is None:
            return [data], b""
        if self._chunked:
            return self._feed_chunked(data)
        size = len(data)
        if size < left:
            self._left = left - size
            return [data], b""
        self._left = 0
        self.done = True
        return ([data], b"") if size == left else ([data[:left]], data[left:])

    def end(self) -> None:
        """The connection has ended. Raises ``BodyError`` if the body is not complete."""
        if self._left is None:
            self.done = True
        if not self.done:
            raise BodyError("the body broke off")

    def _feed_chunked(self, data: bytes) -> tuple[list[bytes], bytes]:
        """``_left`` is -1 between chunks, else what is missing of one with its CR LF."""
        if self._held:
            data = self._held + data
            self._held = b""
        pieces: list[bytes] = []
        at, size, left = 0, len(data), self._left or 0
        while at < size:
            if left > 2:
                piece = data[at : at + left - 2]
                pieces.append(piece)
                at += len(piece)
                left -= len(piece)
            elif left > 0:
                if size - at < left:
                    break
                if data[at : at + 2] != b"\r\n":
                    raise BodyError("a chunk does not end where it says")
                at += 2
                left = -1
            else:
                end = data.find(b"\n", at, at + MAX_CHUNK_LINE)
                if end < 0:
                    if size - at >= MAX_CHUNK_LINE:
                        raise BodyError("a line between chunks is too long")
                    break
                if data[end - 1 : end] != b"\r" or end == at:
                    raise BodyError("a line between chunks ends without CR")
                line = data[at : end - 1]
                at = end + 1
                if self._in_trailers:
                    if not line:
                        self.done = True
                        break
                    self._trailer(line)
                    continue
                match = _SIZE.fullmatch(line)
                if match is None:
                    raise BodyError("not the size of a chunk")
                left = int(match[1], 16)
                if left:
                    left += 2
                else:
                    self._in_trailers, left = True, -1
        self._left = left
        if self.done:
            return pieces, data[at:]
        self._held = data[at:]
        return pieces, b""

    def _trailer(self, line: bytes) -> None:
        match = _FIELD.fullmatch(line)
        self._trailer_size += len(line)
        if match is None or self._trailer_size > MAX_TRAILERS or len(self.trailers) >= MAX_TRAILER_LINES:
            raise BodyError("not a trailer, or too many")
        self.trailers.append((match[1], match[2]))


def chunk(piece: bytes) -> bytes:
    """A piece as a chunk; must not be empty, that would be the last one."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def last_chunk(trailers: Pairs) -> bytes:
    """The end of a chunked body."""
    if not trailers:
        return LAST_CHUNK
    return b"0\r\n%b\r\n" % b"".join(b"%b: %b\r\n" % pair for pair in trailers)
