"""What goes out of a request's and an answer's head and trailers to the other side: the request's octets, and which
trailers and types matter (RFC 9110 §6.5 and §7.6, RFC 9112 §3).
"""

from __future__ import annotations

import re

from outposts.proxy import rfc
from outposts.proxy.bodies import Pairs
from outposts.proxy.forwarding import UpstreamRequest
from outposts.proxy.identity import client_may_send, folded

MAX_NAMES = 4096  # spellings of header names that are remembered; clients choose them, so the rest is looked at anew
_TARGET = re.compile(rb"/[\x21-\x7e\x80-\xff]*")
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SET_HERE = frozenset({b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect", b"trailer"})
_NOT_IN_TRAILERS = frozenset({"authorization", "cookie", "set-cookie", "age", "cache-control", "expires", "vary"})

_plain: set[bytes] = set()  # spellings of header names that go on as they are


def request_head(plan: UpstreamRequest, method_name: str, upgrade: str, length: int | None, expects: bool) -> bytes:
    """The request's head as octets. Raises ``ValueError`` if something in it would be read as more than it is.

    ``upgrade``: the protocol is asked for; ``length`` of the body, None: chunked; ``expects``: it waits for 100.
    """
    target = plan.target.encode("latin-1", "replace")
    method = method_name.encode("latin-1", "replace")
    if not _TARGET.fullmatch(target) or not _METHOD.fullmatch(method):
        raise ValueError("it cannot be written as one request")
    lines = [b"%b %b HTTP/1.1" % (method, target)]
    connection = b"Upgrade" if upgrade else b""
    for name, value in plan.headers:
        if name not in _plain:
            lower = name.lower()
            if lower in _SET_HERE:
                continue
            if lower == b"te":
                connection = connection + b", TE" if connection else b"TE"
            elif len(_plain) < MAX_NAMES and len(name) <= 64:
                _plain.add(name)
        lines.append(name + b": " + value)
    if upgrade:
        lines.append(b"Upgrade: %b" % plan.upgrade.encode("latin-1", "replace"))
    if connection:
        lines.append(b"Connection: %b" % connection)
    if length is None:
        lines.append(b"Transfer-Encoding: chunked")
    elif length or method_name not in ("GET", "HEAD", "OPTIONS", "DELETE"):
        lines.append(b"Content-Length: %d" % length)
    if expects:
        lines.append(b"Expect: 100-continue")
    block = b"\r\n".join(lines)
    if block.count(b"\n") != len(lines) - 1 or block.count(b"\r") != len(lines) - 1 or b"\0" in block:
        raise ValueError("it cannot be written as one request")
    return block + b"\r\n\r\n"


def is_event_stream(line: bytes) -> bool:
    """Whether a header line says that the answer is a stream of events."""
    name, _, value = line.partition(b":")
    return name.lower() == b"content-type" and value.strip().lower().startswith(b"text/event-stream")


def may_trail(name: bytes, names: frozenset[str] = frozenset()) -> bool:
    """Whether a trailer may go on (RFC 9110 §6.5.1): it must not say anything about routing, framing or who asks."""
    text = name.decode("latin-1").lower()
    plain = folded(text)
    if text in _NOT_IN_TRAILERS or not client_may_send(text, names):
        return False
    return not any(text in kind or plain in kind for kind in (rfc.HOP_BY_HOP, rfc.FRAMING, rfc.FORWARDING))


def passed_trailers(trailers: Pairs) -> Pairs:
    """Those of an answer's trailers that go on."""
    return [pair for pair in trailers if may_trail(pair[0])] if trailers else trailers
