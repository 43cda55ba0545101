"""Octets of an HTTP/1.1 request head ↔ ``Head`` and ``AuthRequest``; and what the fast lane may answer.

``read_head`` has three answers: a head, None for "need more", and ``HeadError`` with the status to refuse with. It is
strict where RFC 9112 lets a recipient be lenient (bare LF, folded lines, space before the colon, whitespace first): one
parser decides, and what might be read in two ways is an error. The fast lane takes complete requests without a body
from here; for all others the same octets go to the full server.

Text is Latin-1, one character per octet. Header names are in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from common.errors import OutpostError
from outposts.proxy import clients

MAX_HEAD = 1_048_576  # octets of a request's line and headers, the reference's limit
MAX_FAST_HEAD = 65_536  # octets; larger heads are rare and go to the full server
MAX_HEADERS = 256  # header lines; browsers and proxies send a few dozen
MAX_TARGET = 65_536  # octets of a request's target

MAX_NAMES = 4096  # spellings of header names that are remembered; clients choose them, so the rest is read anew

_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([\x21-\x7e\x80-\xff]+) HTTP/1\.([01])\r\n")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_VISIBLE = bytes(octet for octet in range(256) if octet == 9 or (octet >= 32 and octet != 127))

# Headers whose value decides something: two of them are two answers to one question.
SINGLE = frozenset(
    {
        "authorization",
        "content-length",
        "content-type",
        "host",
        "origin",
        "sec-fetch-dest",
        "sec-fetch-mode",
        "sec-fetch-site",
        "transfer-encoding",
        "x-forwarded-host",
        "x-forwarded-method",
        "x-forwarded-proto",
        "x-forwarded-uri",
        "x-original-method",
        "x-original-uri",
        "x-original-url",
        "x-requested-with",
    }
)
JOINED_BY = {"cookie": "; "}  # RFC 9113 §8.2.3: cookies may come in several lines; all others are lists (RFC 9110 §5.3)


class HeadError(OutpostError):
    """Octets are no request head. ``status`` is the refusal: 400, 414, 431 or 505."""

    def __init__(self, problem: str, status: int = 400) -> None:
        super().__init__(problem)
        self.problem = problem
        self.status = status


class Head(NamedTuple):
    """A request head: ``size`` octets of it, blank line included. ``headers`` and ``repeated`` as in ``gather``."""

    method: str
    target: str
    minor: int
    headers: dict[str, str]
    repeated: str
    size: int


class Connection:
    """What all requests of one connection have in common; made once.

    ``peer`` is the address of the socket or of its PROXY header, ``proxies`` the networks whose forwarding headers are
    believed, ``trusted`` whether the peer is in one of them, ``secure`` whether it came over TLS.
    """

    __slots__ = ("peer", "proxies", "secure", "trusted")

    def __init__(self, peer: str, proxies: Sequence[clients.Network] = (), *, secure: bool = False) -> None:
        self.peer = peer
        self.proxies = tuple(proxies)
        self.secure = secure
        self.trusted = clients.is_trusted(peer, self.proxies)


class AuthRequest:
    """A request as the rules see it. ``headers`` has one value per name; ``repeated`` names one that had to be single.

    ``via`` is what is known of the connection.
    """

    __slots__ = ("headers", "method", "repeated", "target", "via")

    def __init__(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        via: Connection,
        repeated: str = "",
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.via = via
        self.repeated = repeated

    def __repr__(self) -> str:
        """Without values: cookies and credentials are among them."""
        return f"AuthRequest({self.method}, headers={sorted(self.headers)}, peer={self.via.peer!r})"

    @property
    def client(self) -> clients.Address | None:
        """The client's address: the peer's, or the one that trusted proxies say."""
        return clients.client_address(self.via.peer, self.headers.get("x-forwarded-for"), self.via.proxies)


def read_head(data: bytes | bytearray) -> Head | None:
    """A request head at the start of ``data``; None if it is not complete yet. Raises ``HeadError``."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > MAX_HEAD:
            raise HeadError("head too large", 431)
        return None
    if end > MAX_HEAD:
        raise HeadError("head too large", 431)
    line = _LINE.match(data)
    if line is None:
        raise _line_error(data)
    if line.end(2) - line.start(2) > MAX_TARGET:
        raise HeadError("target too long", 414)
    start = line.end()
    block = data[start : end + 2]
    lines = block.count(b"\r\n")
    if lines > MAX_HEADERS:
        raise HeadError("too many headers", 431)
    if block.translate(None, _VISIBLE) != b"\r\n" * lines:
        raise HeadError("control character in a header")
    headers, repeated = _headers(block.decode("latin-1"))
    return Head(line[1].decode(), line[2].decode("latin-1"), line[3][0] - 48, headers, repeated, end + 4)


_names: dict[str, str] = {}


def _headers(block: str) -> tuple[dict[str, str], str]:
    """Headers of a block of lines, as ``gather`` has them. A folded line or one without a name is an error."""
    headers: dict[str, str] = {}
    repeated = ""
    for line in block.split("\r\n")[:-1]:
        name, colon, value = line.partition(":")
        if not colon:
            raise HeadError("malformed header")
        name = _names.get(name) or _lower(name)
        if name in headers:
            repeated = _again(headers, name, value.strip(" \t")) or repeated
        else:
            headers[name] = value.strip(" \t")
    return headers, repeated


def _lower(name: str) -> str:
    """A header's name in lower case, if it is one."""
    if not _NAME.fullmatch(name):
        raise HeadError("malformed header")
    lower = name.lower()
    if len(_names) < MAX_NAMES and len(name) <= 64:
        _names[name] = lower
    return lower


def _line_error(data: bytes | bytearray) -> HeadError:
    """Why a request line is none."""
    line = bytes(data[:MAX_TARGET]).partition(b"\r\n")[0]
    if re.search(rb" HTTP/[0-9]\.[0-9]$", line) and not re.search(rb" HTTP/1\.[01]$", line):
        return HeadError("version", 505)
    return HeadError("malformed request line")


def gather(pairs: Iterable[tuple[str, str]]) -> tuple[dict[str, str], str]:
    """Headers by name, in lower case, and the name of one that stands there twice though it must not (or "").

    Of those the first value stays, so that nothing can be changed by adding one; whoever decides refuses the request.
    """
    headers: dict[str, str] = {}
    repeated = ""
    for name, value in pairs:
        if name in headers:
            repeated = _again(headers, name, value) or repeated
        else:
            headers[name] = value
    return headers, repeated


def _again(headers: dict[str, str], name: str, value: str) -> str:
    """A header that is there already: joined to it; or its name, if there may be but one."""
    if name in SINGLE:
        return name
    headers[name] += JOINED_BY.get(name, ", ") + value
    return ""


def auth_request(head: Head, via: Connection) -> AuthRequest:
    """A head as the rules see it."""
    return AuthRequest(head.method, head.target, head.headers, via, head.repeated)


def raw_request(method: str, target: str, raw_headers: Iterable[tuple[bytes, bytes]], via: Connection) -> AuthRequest:
    """The same from another parser's octets (aiohttp's ``raw_headers``); ``target`` must be the raw one."""
    headers, repeated = gather((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in raw_headers)
    return AuthRequest(method, target, headers, via, repeated)


class Lane(Enum):
    """Where a request goes on."""

    FAST = "fast"
    FULL = "full"


def lane(head: Head) -> Lane:
    """Whether the fast lane may answer: no body, nothing expected first. It closes if ``keeps_alive`` says so."""
    headers = head.headers
    if head.size > MAX_FAST_HEAD or head.method not in ("GET", "HEAD"):
        return Lane.FULL
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        return Lane.FULL
    return Lane.FULL if "expect" in headers else Lane.FAST


def keeps_alive(head: Head) -> bool:
    """Whether the connection goes on after the answer (RFC 9112 §9.3)."""
    wishes = head.headers.get("connection")
    if wishes is None:
        return head.minor == 1
    options = {option.strip().lower() for option in wishes.split(",")}
    return "close" not in options and (head.minor == 1 or "keep-alive" in options)
