"""Where the core is and how its URLs are written, byte for byte (core-contract §3, §5.1, §6.1). No input or output.

The flow executor compares the URL that it rebuilds itself with the one that came in, so the query of a flow call must
be encoded exactly as Python's ``urllib.parse.urlencode`` does it. Nobody may re-quote what is built here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol
from urllib.parse import parse_qsl, quote, quote_plus, urlencode, urlsplit

API = "/api/v3"
# Targets and addresses remembered: a login needs the same few each time, and making them takes as long as sending them.
TARGETS_KEPT = 256  # flows and providers of an outpost; some 200 bytes each
ADDRESSES_KEPT = 4096  # client addresses; some 200 bytes each

_NOT_IN_A_URL = re.compile(r"[\x00-\x20\x7f]")

Params = Mapping[str, str] | Sequence[tuple[str, str]]


class CoreSettings(Protocol):
    """The part of ``common.settings.Settings`` that a connection to the core needs."""

    @property
    def host(self) -> str:
        """Base URL without final slash; may have a path."""

    @property
    def host_query(self) -> str:
        """Query of the base URL, for the WebSocket only."""

    @property
    def host_socket(self) -> str | None:
        """Path of a unix socket, if the core is reached by one."""

    @property
    def token(self) -> str:
        """The outpost's token."""

    @property
    def insecure(self) -> bool:
        """Accept any certificate of the core."""


@dataclass(frozen=True)
class Endpoint:
    """A core's base URL taken apart. ``base_path`` is "" or "/auth": all targets stand below it."""

    scheme: str
    authority: str
    base_path: str
    query: str = ""
    socket_path: str | None = None

    @property
    def origin(self) -> str:
        """``https://id.example.org``"""
        return f"{self.scheme}://{self.authority}"

    def url(self, target: str) -> str:
        """Full URL of a target below the sub-path."""
        return f"{self.origin}{self.base_path}{target}"

    def own_target(self, location: str) -> str | None:
        """A redirect's ``Location`` as a target of this core (path and query below the sub-path), else None."""
        if _NOT_IN_A_URL.search(location):
            return None
        try:
            parts = urlsplit(location)
        except ValueError:
            return None
        if parts.scheme or parts.netloc:
            if (parts.scheme or self.scheme, parts.netloc.lower()) != (self.scheme, self.authority.lower()):
                return None
        if not parts.path.startswith(self.base_path + "/"):
            return None
        target = parts.path[len(self.base_path) :]
        return f"{target}?{parts.query}" if parts.query else target

    def websocket_url(self, outpost_pk: str, instance_id: str, attempt: int) -> str:
        """The outpost socket's URL: keys sorted, form-encoded, the base URL's query kept."""
        scheme = "wss" if self.scheme == "https" else "ws"
        pairs = [*parse_qsl(self.query, keep_blank_values=True)]
        pairs += [("instance_uuid", instance_id), ("attempt", str(attempt))]
        path = f"{self.base_path}/ws/outpost/{quote(outpost_pk, safe='')}/"
        return f"{scheme}://{self.authority}{path}?{urlencode(sorted(pairs, key=lambda pair: pair[0]))}"


def endpoint(settings: CoreSettings) -> Endpoint:
    """The endpoint that the settings name; with and without final slash it is the same one."""
    parts = urlsplit(settings.host)
    return Endpoint(
        scheme=parts.scheme,
        authority=parts.netloc,
        base_path=parts.path.rstrip("/"),
        query=settings.host_query,
        socket_path=settings.host_socket,
    )


def api_target(path: str, params: Params = ()) -> str:
    """``/core/users/`` and parameters → target below the sub-path."""
    query = urlencode(list(params.items()) if isinstance(params, Mapping) else list(params))
    return f"{API}{path}?{query}" if query else f"{API}{path}"


@lru_cache(TARGETS_KEPT)
def executor_path(slug: str) -> str:
    """Path of a flow's executor, final slash included."""
    return f"{API}/flows/executor/{quote(slug, safe='')}/"


@lru_cache(TARGETS_KEPT)
def executor_target(slug: str, protocol: str, *, warm_up: bool = False) -> str:
    """Target of a flow call; policies see ``goauthentik.io/outpost/<protocol>`` as the flow's parameters.

    The inner query is form-encoded, then encoded again as the value of ``query``.
    """
    inner = {f"goauthentik.io/outpost/{protocol}": "true"}
    if warm_up:
        inner[f"goauthentik.io/outpost/{protocol}-warmup"] = "true"
    return f"{executor_path(slug)}?{urlencode({'query': urlencode(inner)})}"


@lru_cache(TARGETS_KEPT)
def check_access_target(protocol: str, provider_pk: int, application_slug: str) -> str:
    """Target of the access check; a missing ``app_slug`` would be a 500."""
    return api_target(
        f"/outposts/{quote(protocol, safe='')}/{provider_pk}/check_access/", {"app_slug": application_slug}
    )


@lru_cache(ADDRESSES_KEPT)
def bare_address(client_ip: str) -> str:
    """A client address as the core wants it: a bare literal, IPv4 unmapped, no zone; ValueError if it is none."""
    address = ipaddress.ip_address(client_ip.strip().removeprefix("[").removesuffix("]").partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def delegation_headers(token: str, client_ip: str, certificate_pem: str | None = None) -> list[tuple[str, str]]:
    """Headers that make the core treat the caller as an outpost that speaks for ``client_ip``. Both must be present."""
    headers = [("X-authentik-outpost-token", token), ("X-authentik-remote-ip", bare_address(client_ip))]
    if certificate_pem:
        headers.append(("X-Authentik-Outpost-Certificate", quote_plus(certificate_pem)))
    return headers
