"""Hosts, URLs and paths as they are compared, and ``safe_redirect``: the one place that says where a browser may go.

Text here is what came over the wire, one character per octet (Latin-1); results are ASCII. Nothing is repaired that two
readers might understand differently: such a host is no host, such a path is not canonical, such a target is no target.

- Host names are compared without case and final dot, as A-labels (IDNA 2008, UTS #46); addresses in short form.
- A domain holds itself and what ends in a dot and the domain, never ``evilexample.com`` for ``example.com``.
- A *canonical* path is decoded once and has no reading but one: no dot segments in any spelling, no doubled slashes, no
  encoded slash or percent sign, no backslash, no control characters. Rules that open a path look at nothing else.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_plus, unquote_to_bytes

import idna

from outposts.proxy import rfc

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[^\[\]:@/?#\\%\x00-\x20\x7f]+)(?::([0-9]{1,5}))?")
# Scheme, authority, path with sound escapes, query. No fragment: that never leaves a browser (RFC 9110 §4.2.5).
_URL = re.compile(
    r"(https?)://([^/?#\\@%\x00-\x20\x7f]++)((?:/(?:[^%?#\x00-\x20\x7f]++|%[0-9A-Fa-f]{2})*+)?)(?:\?([^#\x00-\x20\x7f]*+))?",
    re.IGNORECASE,
)
_TARGET = re.compile(r"(/(?:[^%?#\x00-\x20\x7f]++|%[0-9A-Fa-f]{2})*+)(?:\?([^#\x00-\x20\x7f]*+))?")
_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*+)++/?|/")  # has one reading; most paths are like this
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ENCODED_AMBIGUITY = re.compile(r"%(?:2f|5c|25|[01][0-9a-f]|7f)", re.IGNORECASE)
_FIT = re.compile(r"[\x21\x23-\x3b\x3d\x3f-\x5b\x5d\x5f\x61-\x7a\x7e]*+").fullmatch
_UNFIT = re.compile(
    r"[^\x21\x23-\x3b\x3d\x3f-\x5b\x5d\x5f\x61-\x7a\x7e]"
)  # not as such in a Location: "<>\^`{|}, non-ASCII
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_RAW_RD = re.compile(r"(?:https?://[^/?#&%]*(?:[/?]|\Z)|/)", re.IGNORECASE)
_FOLDED = "/\\.%;\u2044\u2215\u29f8"  # the last are slashes for fractions, division and a big solidus
HOST_MEMO = 4096  # hosts and URLs of recent requests; 255 octets each at most
COMMON_PORTS = frozenset(rfc.DEFAULT_PORTS.values())


class Host(NamedTuple):
    """A host as it is compared. ``port`` is None if it was not written."""

    name: str
    port: int | None = None

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port is None else f"{name}:{self.port}"


class Url(NamedTuple):
    """An absolute URL taken apart. ``path`` and ``query`` are raw; ``query`` is None if there is no ``?``.

    The host's port is None if it is the scheme's own.
    """

    scheme: str
    host: Host
    path: str
    query: str | None = None

    @property
    def origin(self) -> str:
        """``https://app.example.com``"""
        return f"{self.scheme}://{self.host}"

    @property
    def target(self) -> str:
        """Path and query."""
        return self.path if self.query is None else f"{self.path}?{self.query}"

    def __str__(self) -> str:
        return self.origin + self.target


@lru_cache(HOST_MEMO)
def _parse_host(text: str) -> Host | None:
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        return None
    name, port_text = match[1], match[2]
    port = int(port_text) if port_text else None
    if port is not None and not 0 < port < 65536:
        return None
    try:
        if name.startswith("["):
            return Host(ipaddress.IPv6Address(name[1:-1]).compressed, port)
        if not name.isascii():
            name = idna.encode(name.encode("latin-1").decode("utf-8"), uts46=True).decode()
        name = name.lower().removesuffix(".")
        if name.rpartition(".")[2].isdigit():  # what ends in a number is an address (WHATWG URL §3.5) or nothing
            return Host(str(ipaddress.IPv4Address(name)), port)
    except ValueError:  # IDNAError and UnicodeError are among them
        return None
    return Host(name, port) if len(name) <= rfc.MAX_HOST - 2 and _NAME.fullmatch(name) else None


def parse_host(text: str) -> Host | None:
    """``Host`` of a header's value, or None if it is no host: empty, too long, spaces, two dots, a bad port, …"""
    return _parse_host(text) if len(text) <= rfc.MAX_HOST else None


def in_domain(name: str, domain: str) -> bool:
    """Whether a host name is the domain or below it. Both normalised; the empty domain holds nothing."""
    return bool(domain) and (name == domain or name.endswith("." + domain))


def parse_url(text: str) -> Url | None:
    """An absolute ``http`` or ``https`` URL without user name and fragment, or None if it is anything else."""
    if len(text) > rfc.MAX_URL:
        return None
    match = _URL.fullmatch(text)
    if match is None:
        return None
    host = parse_host(match[2])
    if host is None:
        return None
    scheme = match[1].lower()
    if host.port == rfc.DEFAULT_PORTS[scheme]:
        host = Host(host.name)
    return Url(scheme, host, match[3] or "/", match[4])


def parse_target(text: str) -> tuple[str, str | None] | None:
    """Raw path and query of an origin-form target (RFC 9112 §3.2.1), or None if it is none or an escape is broken."""
    if len(text) > rfc.MAX_URL:
        return None
    match = _TARGET.fullmatch(text)
    return None if match is None else (match[1], match[2])


def canonical_path(raw: str) -> str | None:
    """A raw path decoded, if every reader would understand the same by it; else None. See the module's text."""
    if _PLAIN_PATH.fullmatch(raw):
        return raw
    if not raw.startswith("/") or _LONE_PERCENT.search(raw) or _ENCODED_AMBIGUITY.search(raw):
        return None
    try:
        path = unquote_to_bytes(raw.encode("latin-1")).decode("utf-8")
    except UnicodeError:
        return None
    if "//" in path or "\\" in path or _CONTROL.search(path):
        return None
    for segment in path.split("/"):
        # `..;x` is `..`, and `;x` is nothing, for servers that take parameters off first
        plain = segment.partition(";")[0].strip()
        if plain in (".", "..") or (segment and not plain):
            return None
    if not path.isascii() and _folds_to_ascii(path):
        return None
    return path


def _folds_to_ascii(path: str) -> bool:
    """Whether some software makes a dot or slash of a character that is none, such as a full-width one."""
    beyond = "".join(character for character in path if character > "\x7f")
    return any(mark in unicodedata.normalize("NFKC", beyond) for mark in _FOLDED)


def below(path: str, prefix: str) -> bool:
    """Whether a path is the prefix or below it, at a segment's border."""
    if prefix.endswith("/"):
        return path.startswith(prefix) or path == prefix[:-1]
    return path == prefix or path.startswith(prefix + "/")


def is_own_path(raw: str, base: str = "") -> bool:
    """Whether a raw path is one of the outpost's own, or might be read as one: those never go to an application.

    ``base`` is the directory of an external host with a path, without final slash.
    """
    if rfc.PREFIX not in raw and "%" not in raw and "." not in raw:
        return False
    decoded = unquote_to_bytes(raw.encode("latin-1", "replace")).decode("latin-1")
    path = _resolved(decoded)
    return below(path, rfc.PREFIX) or (bool(base) and below(path, base + rfc.PREFIX)) or below(decoded, rfc.PREFIX)


def _resolved(path: str) -> str:
    """A decoded path as the most helpful of servers might resolve it."""
    segments: list[str] = []
    for segment in path.replace("\\", "/").split("/"):
        plain = segment.partition(";")[0]
        if plain == "..":
            if segments:
                segments.pop()
        elif plain not in ("", "."):
            segments.append(plain)
    return "/" + "/".join(segments)


@dataclass(frozen=True, slots=True)
class Places:
    """Where a provider may send a browser: its external host, further hosts, and all hosts of its cookie domain.

    ``domain`` is "" unless the provider is for a whole domain; then any port of its hosts will do, and there is no
    host that a bare path could mean.
    """

    home: Url
    hosts: frozenset[Host] = frozenset()
    domain: str = ""

    def holds(self, host: Host) -> bool:
        """Whether a host is one of these."""
        return host == self.home.host or host in self.hosts or in_domain(host.name, self.domain)


def safe_redirect(text: str, places: Places) -> str | None:
    """A URL or path as an absolute URL to which a browser may be sent, or None.

    Only ``http`` and ``https``, never less than the external host has: ``http`` becomes ``https`` there. The host must
    be one of ``places``. No user names, backslashes, control characters or broken escapes in the path; a fragment is
    cut off. What a ``Location`` cannot hold is percent-encoded. Longer than ``MAX_TARGET`` is None.
    """
    text = text.partition("#")[0]
    if not text or len(text) > rfc.MAX_TARGET:
        return None
    if text.startswith("/"):
        found = parse_target(text)
        if found is None or places.domain:
            return None
        return redirect_to(Url(places.home.scheme, places.home.host, *found), places)
    url = parse_url(text)
    return None if url is None else redirect_to(url, places)


def redirect_to(url: Url, places: Places) -> str | None:
    """The same for a URL that is taken apart already."""
    if places.home.scheme == "https" and url.scheme == "http":
        if url.host.port is not None:
            return None  # who listens there for http does not for https
        url = Url("https", url.host, url.path, url.query)
    if not places.holds(url.host) or "\\" in url.path or url.path.startswith("//"):
        return None  # `//` is harmless behind a host, but not if anybody takes the host off
    query = "" if url.query is None else "?" + _fit(_LONE_PERCENT.sub("%25", url.query))
    target = f"{url.origin}{_fit(url.path)}{query}"
    return target if len(target) <= rfc.MAX_TARGET and not _LONE_PERCENT.search(url.path) else None


def _fit(text: str) -> str:
    """Percent-encode what may not stand in a header's URL."""
    return text if _FIT(text) else _UNFIT.sub(lambda match: f"%{ord(match[0]):02X}", text)


def query_value(query: str, key: str) -> str | None:
    """The first value of a form-encoded query's key, decoded (Latin-1 text of its octets), or None."""
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if unquote_plus(name, "latin-1") == key:
            return unquote_plus(value, "latin-1")
    return None


def query_says(query: str | None, key: str) -> bool:
    """Whether a query has this key with the value ``true``, in any case."""
    if not query or ("uthentik" not in query and "%" not in query):
        return False
    value = query_value(query, key)
    # The core appends errors with a second `?`: `…=true?error=…` says true as well.
    return value is not None and value.partition("?")[0].lower() == "true"


def return_url(query: str | None) -> str:
    """The value of ``rd`` in the query of ``P/start``, "" if there is none that can be read.

    Web servers write it encoded, as one value; or as it is, and then its own ``&`` are not ours and it goes on to the
    end of the query. Which one it is shows in how it begins. A lone ``%`` is no encoding at all.
    """
    if not query:
        return ""
    at = 0 if query.startswith("rd=") else query.find("&rd=") + 1
    if at == 0 and not query.startswith("rd="):
        return ""
    value = query[at + 3 :]
    if _RAW_RD.match(value):
        return "" if _LONE_PERCENT.search(value) else value
    value = value.partition("&")[0]
    return "" if _LONE_PERCENT.search(value) else unquote_plus(value, "latin-1")


def domain_of(cookie_domain: str | None) -> str | None:
    """A provider's cookie domain normalised: leading dot off, "" if it is empty, None if it is no domain."""
    text = (cookie_domain or "").strip().removeprefix(".")
    if not text:
        return ""
    host = parse_host(text.encode("utf-8").decode("latin-1"))
    return host.name if host is not None and host.port is None else None


def longest_first(domains: Iterable[str]) -> list[str]:
    """Domains in the order in which they are tried."""
    return sorted(set(domains), key=lambda domain: (-len(domain), domain))
