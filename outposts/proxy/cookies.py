"""Our cookies: their names, how they are read out of any ``Cookie`` header, how they are written (RFC 6265bis).

Reading is tolerant: a pair that is no pair is passed over, whatever stands around it, and of several cookies with one
name all values count, in order. The browser sends them in this order when a sibling host has set one for the whole
domain, and the session that is good is then taken. Nothing that browsers might drop is ever written: a cookie with its
attributes has at most 4096 octets.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from outposts.proxy import rfc

NAME_MEMO = 1024  # client ids whose cookie's name is remembered
MAX_VALUES = 4  # cookies of one name that are looked at; a browser sends one for each path and domain that set it
SESSION_VALUE = r"[A-Za-z0-9_-]{43}"
LOGIN_VALUE = r"[A-Za-z0-9_.-]{1,64}"
_BETWEEN = ("", ";")  # what stands in front of a pair
_VALUE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*")  # RFC 6265 §4.1.1 cookie-octet
_OWN = re.compile(
    rf"(?:__(?:Host|Secure)-)?{rfc.COOKIE_NAME}[0-9a-f]{{{rfc.COOKIE_NAME_DIGITS}}}(?:{rfc.LOGIN_COOKIE_SUFFIX})?"
)


class SameSite(StrEnum):
    """RFC 6265bis §5.6.7. ``NONE`` is for applications in frames of other sites."""

    LAX = "Lax"
    STRICT = "Strict"
    NONE = "None"


@dataclass(frozen=True, slots=True)
class CookieOptions:
    """Attributes of one provider's cookies. ``prefix`` is "", ``__Secure-`` or ``__Host-``; ``domain`` may be ""."""

    client_id: str
    domain: str = ""
    secure: bool = True
    same_site: SameSite = SameSite.LAX
    partitioned: bool = False
    prefix: str = ""

    @property
    def name(self) -> str:
        """Name of the session cookie."""
        return self.prefix + base_name(self.client_id)

    @property
    def login_name(self) -> str:
        """Name of the login cookie."""
        return self.name + rfc.LOGIN_COOKIE_SUFFIX


@lru_cache(NAME_MEMO)
def base_name(client_id: str) -> str:
    """The reference's name of a provider's cookie."""
    return rfc.COOKIE_NAME + hashlib.sha256(client_id.encode()).hexdigest()[: rfc.COOKIE_NAME_DIGITS]


class Reader:
    """Reads one cookie by its name out of ``Cookie`` headers; ``value`` is what its values look like."""

    __slots__ = ("_match", "_start", "name")

    def __init__(self, name: str, value: str = SESSION_VALUE) -> None:
        self.name = name
        self._start = name + "="
        self._match = re.compile(rf'("?)({value})\1[ \t]*(?=;|$)').match

    def values(self, header: str | None) -> tuple[str, ...]:
        """Values of our shape, in order, without doubles; of at most ``MAX_VALUES`` cookies of this name."""
        if not header:
            return ()
        at = header.find(self._start)
        if at < 0:
            return ()
        found: dict[str, None] = {}
        for _ in range(MAX_VALUES):
            if at == 0 or header[at - 2 : at] == "; " or header[:at].rstrip(" \t")[-1:] in _BETWEEN:
                match = self._match(header, at + len(self._start))
                if match is not None:
                    found[match[2]] = None
            at = header.find(self._start, at + 1)
            if at < 0:
                break
        return tuple(found)


def without_own(header: str) -> str:
    """A ``Cookie`` header as an application gets it: all cookies of ours taken out, the rest octet for octet."""
    if rfc.COOKIE_NAME not in header:
        return header
    kept = [part for part in header.split(";") if not _OWN.fullmatch(part.partition("=")[0].strip(" \t"))]
    return ";".join(kept).strip(" \t")


def write(options: CookieOptions, name: str, value: str, max_age_s: int) -> str:
    """The value of a ``Set-Cookie`` header. Raises ``ValueError`` if a browser might not keep it."""
    if not _VALUE.fullmatch(value):
        raise ValueError("not a cookie's value")
    parts = [f"{name}={value}", "Path=/"]
    if options.domain:
        parts.append(f"Domain={options.domain}")
    parts += [f"Max-Age={max_age_s}", "HttpOnly"]
    if options.secure:
        parts.append("Secure")
    parts.append(f"SameSite={options.same_site}")
    if options.partitioned:
        parts.append("Partitioned")
    text = "; ".join(parts)
    if len(text) > rfc.MAX_COOKIE:
        raise ValueError("a cookie that browsers would drop")
    return text


def delete(options: CookieOptions, name: str) -> str:
    """The ``Set-Cookie`` header that removes a cookie: same name, domain and path, no life."""
    return write(options, name, "", 0)
