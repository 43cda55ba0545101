"""Claims of a token → header octets ready to be sent; and which headers a client must not send itself.

A session's headers are made once, at login and when the configuration changes, never per request. All
``X-authentik-*`` headers are always there, empty if there is no value, so that whatever copies them also overwrites
what a client sent. Values are UTF-8 without control characters, list items are joined with ``|`` and a ``|`` inside one
is written ``%7C``.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec

from outposts.proxy import rfc

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # dropped from values
NOT_ALPHANUMERIC = re.compile(r"[^a-z0-9]")
_JWT_LINE = f"\r\n{rfc.JWT}: ".encode()  # never the first one
NAMES_MEMO = 1024  # sets of header names that identities share; most have no headers of their own
DEFAULT_BUDGET = 24_576
"""Octets of all headers of one identity. The printed nginx configuration has buffers of 32 KiB, which the rest of an
answer shares."""
MAX_ADDITIONAL = 64  # headers that one user's attributes may add; more is a mistake, and servers stop at 100 in all


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says about a user, as far as it is used. Claims of a wrong type count as absent."""

    subject: str = ""
    username: str = ""
    name: str = ""
    email: str = ""
    groups: tuple[str, ...] = ()
    entitlements: tuple[str, ...] = ()
    sid: str = ""
    expires: float | None = None
    superuser: bool = False
    proxy: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict, repr=False)
    backend_override: str = ""
    host_header: str = ""


@dataclass(frozen=True, slots=True)
class IdentityOptions:
    """What a provider and its operator say about headers."""

    outpost: str = ""
    provider: str = ""
    application: str = ""
    version: str = ""
    jwks_url: str = ""
    send_jwt: bool = True
    budget: int = DEFAULT_BUDGET
    basic_auth: bool = False
    basic_user_attribute: str = ""
    basic_password_attribute: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """Headers of one user, ready to send: ``block`` is ``Name: value`` lines, each with its CR LF.

    ``names`` are those of all headers in ``block``, folded (see ``folded``): what a client sends under such a name is
    removed. ``dropped`` names headers that did not fit or may not be set, for the log.
    """

    block: bytes = field(repr=False)
    names: frozenset[str]
    dropped: tuple[str, ...] = ()

    @property
    def token(self) -> str:
        """The token in ``X-authentik-jwt``, "" if it is not there."""
        _, found, rest = self.block.partition(_JWT_LINE)
        return rest.partition(b"\r\n")[0].decode() if found else ""

    def pairs(self) -> list[tuple[bytes, bytes]]:
        """The headers one by one."""
        return [
            (name, value) for name, _, value in (line.partition(b": ") for line in self.block.split(b"\r\n") if line)
        ]


def claims_of(payload: Mapping[str, Any]) -> Claims:
    """The claims of a verified token or of an introspection answer. Never fails: a wrong type is an absent claim."""
    proxy = payload.get("ak_proxy")
    inner = proxy if isinstance(proxy, Mapping) else {}
    attributes = inner.get("user_attributes")
    expires = payload.get("exp")
    return Claims(
        subject=_text(payload.get("sub")),
        username=_text(payload.get("preferred_username")),
        name=_text(payload.get("name")),
        email=_text(payload.get("email")),
        groups=_texts(payload.get("groups")),
        entitlements=_texts(payload.get("entitlements")),
        sid=_text(payload.get("sid")),
        expires=float(expires) if isinstance(expires, int | float) and not isinstance(expires, bool) else None,
        superuser=inner.get("is_superuser") is True,
        proxy=isinstance(proxy, Mapping),
        attributes=attributes if isinstance(attributes, Mapping) else {},
        backend_override=_text(inner.get("backend_override")),
        host_header=_text(inner.get("host_header")),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        return ()
    return tuple(item for item in value if isinstance(item, str) and item)


def build(claims: Claims, token: str, options: IdentityOptions) -> Identity:
    """Headers of a logged-in user. ``token`` is the raw one; it is left out if it does not fit the budget."""
    values = {
        rfc.USERNAME: claims.username,
        rfc.GROUPS: joined(claims.groups),
        rfc.ENTITLEMENTS: joined(claims.entitlements),
        rfc.EMAIL: claims.email,
        rfc.NAME: claims.name,
        rfc.UID: claims.subject,
        rfc.JWT: token if options.send_jwt else "",
        **_about(options),
    }
    additional, dropped = _additional(claims)
    authorization = _basic(claims, options)
    if authorization:
        additional = {name: value for name, value in additional.items() if name.lower() != "authorization"}
        additional["Authorization"] = authorization
    return _within(values, additional, dropped, options.budget)


def anonymous(options: IdentityOptions) -> Identity:
    """Headers of a request without a user: all identity headers, empty but for what is about the provider."""
    return _within(dict.fromkeys(rfc.IDENTITY_HEADERS, "") | _about(options), {}, [], options.budget)


def _about(options: IdentityOptions) -> dict[str, str]:
    return {
        rfc.META_JWKS: options.jwks_url,
        rfc.META_OUTPOST: options.outpost,
        rfc.META_PROVIDER: options.provider,
        rfc.META_APP: options.application,
        rfc.META_VERSION: options.version,
    }


def joined(items: Iterable[str]) -> str:
    """A list as one value."""
    return rfc.LIST_SEPARATOR.join(item.replace(rfc.LIST_SEPARATOR, rfc.LIST_SEPARATOR_ESCAPED) for item in items)


def header_value(text: str) -> bytes:
    """A value as octets that no reader can take for two headers: UTF-8, no control characters, no space at the ends."""
    return CONTROL.sub("", text).strip(" ").encode("utf-8", "ignore")


def folded(name: str) -> str:
    """A header's name as programs behind CGI see it: case and everything but letters and digits are one."""
    return NOT_ALPHANUMERIC.sub("-", name.lower())


def client_may_send(name: str, names: frozenset[str] = frozenset()) -> bool:
    """Whether a header may go on to an application as the client sent it.

    ``names`` are the folded names that are set for this request or that the operator reserved. Every spelling of
    ``X-authentik-*`` is ours, also on requests without a user.
    """
    plain = folded(name)
    return not plain.startswith(rfc.IDENTITY_PREFIX) and plain not in names


def _additional(claims: Claims) -> tuple[dict[str, str], list[str]]:
    """``additionalHeaders`` of a user's attributes: name → value, and the names that were refused."""
    wanted = claims.attributes.get("additionalHeaders")
    if not claims.proxy or not isinstance(wanted, Mapping):
        return {}, [] if wanted is None or not claims.proxy else ["additionalHeaders"]
    chosen: dict[str, tuple[str, str]] = {}
    refused: list[str] = []
    for name, value in wanted.items():
        if not isinstance(name, str) or not _may_be_added(name) or isinstance(value, Mapping | list | tuple):
            refused.append(CONTROL.sub("", str(name)))
        elif len(chosen) >= MAX_ADDITIONAL and name.lower() not in chosen:
            refused.append(name)
        else:
            chosen[name.lower()] = (name, _scalar(value))
    return dict(chosen.values()), refused


def _may_be_added(name: str) -> bool:
    """Whether attributes of a user may set this header: not an identity header, nor one that frames or forwards."""
    if not TOKEN.fullmatch(name):
        return False
    plain = folded(name)
    if plain.startswith(rfc.IDENTITY_PREFIX):
        return False
    return plain not in rfc.HOP_BY_HOP and plain not in rfc.FORWARDING and plain not in rfc.FRAMING


def _scalar(value: object) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()


def _basic(claims: Claims, options: IdentityOptions) -> str:
    """The value of ``Authorization`` that carries a user's own credentials for an application, or nothing."""
    if not options.basic_auth or not claims.proxy:
        return ""
    password = _text(claims.attributes.get(options.basic_password_attribute))
    if not password:
        return ""
    user = _text(claims.attributes.get(options.basic_user_attribute)) or claims.email
    pair = f"{user}:{password}".encode("utf-8", "ignore")
    return "Basic " + base64.b64encode(pair).decode()


# What goes first when the headers do not fit: what an application can do without, then what takes rights away only.
GIVEN_UP = (rfc.JWT, rfc.ENTITLEMENTS, rfc.GROUPS, rfc.NAME, rfc.EMAIL)


def _within(values: dict[str, str], additional: dict[str, str], dropped: list[str], budget: int) -> Identity:
    """All headers as one block of at most ``budget`` octets; names and values are octets that are safe."""
    parts = {name: header_value(value) for name, value in values.items()}
    more = {name: header_value(value) for name, value in additional.items()}

    def size() -> int:
        return sum(len(name) + len(value) + 4 for group in (parts, more) for name, value in group.items())

    for name in (rfc.JWT, *sorted(more, key=lambda name: -len(more[name])), *GIVEN_UP[1:]):
        if size() <= budget:
            break
        if name in more:
            del more[name]
        elif not parts[name]:
            continue
        else:
            parts[name] = b""
        dropped = [*dropped, name]
    block = b"".join(b"%b: %b\r\n" % (name.encode(), value) for group in (parts, more) for name, value in group.items())
    return Identity(block, _folded((*parts, *more)), tuple(dropped))


@lru_cache(NAMES_MEMO)
def _folded(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(folded(name) for name in names)
