"""How web servers ask whether a request may pass: where the original URL stands, and which refusal they understand.

One row per way of asking. HAProxy and Apache have nothing of their own and ask as nginx does. A dialect only reads;
what is allowed is decided elsewhere (``decision.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from outposts.proxy import rfc
from outposts.proxy.urls import Host, Url, parse_target, parse_url
from outposts.proxy.wire import AuthRequest

# Traefik names the protocol of a WebSocket request after it.
SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


class Refusal(StrEnum):
    """What a web server makes of an answer that is not 2xx."""

    UNAUTHORIZED = "unauthorized"  # 401 is kept, a redirect would become 500; ``Location`` is an extra
    REDIRECT = "redirect"  # the whole answer goes to the browser


@dataclass(frozen=True)
class Dialect:
    """One way of asking. ``original`` gives the URL asked for, or None if it is missing or broken.

    Its arguments: the request, the host that routing found, and the scheme to take where the server does not tell.
    ``method_header`` holds the original method; without one the request's own is it. ``own_paths_pass``: the server
    asks for the outpost's own paths too. ``signatures``: query keys in the original URL may mean callback or sign-out.
    ``below``: the original path is what follows the dialect's own.
    """

    name: str
    path: str
    original: Callable[[AuthRequest, Host, str], Url | None]
    refusal: Refusal
    method_header: str = ""
    own_paths_pass: bool = False
    signatures: bool = False
    below: bool = False


def _nginx(request: AuthRequest, host: Host, scheme: str) -> Url | None:
    """``X-Original-URI``, a target, before ``X-Original-URL``, a whole URL."""
    target = request.headers.get("x-original-uri")
    if target:
        return _joined(request, host, scheme, target)
    return parse_url(request.headers.get("x-original-url", ""))


def _forwarded(request: AuthRequest, host: Host, scheme: str) -> Url | None:
    """``X-Forwarded-Proto``, ``-Host`` and ``-Uri`` of a trusted peer; all three or none."""
    if not request.via.trusted:
        return None
    headers = request.headers
    proto = SCHEMES.get(headers.get("x-forwarded-proto", "").lower())
    name, target = headers.get("x-forwarded-host"), headers.get("x-forwarded-uri")
    if not proto or not name or not target or not target.startswith("/"):
        return None
    return parse_url(f"{proto}://{name}{target}")


def _envoy(request: AuthRequest, host: Host, scheme: str) -> Url | None:
    """The request's own host, and what follows the dialect's path in its target."""
    target = request.target[len(ENVOY_PATH) :]
    if not target.startswith("/"):
        target = "/" + target
    return _joined(request, host, scheme, target)


def _joined(request: AuthRequest, host: Host, scheme: str, target: str) -> Url | None:
    """A URL of a bare target."""
    found = parse_target(target)
    if found is None:
        return None
    if request.via.trusted:
        scheme = SCHEMES.get(request.headers.get("x-forwarded-proto", "").lower(), scheme)
    if host.port == rfc.DEFAULT_PORTS[scheme]:
        host = Host(host.name)
    return Url(scheme, host, *found)


AUTH = rfc.PREFIX + "/auth/"
ENVOY_PATH = AUTH + "envoy"

TABLE: tuple[Dialect, ...] = (
    Dialect("nginx", AUTH + "nginx", _nginx, Refusal.UNAUTHORIZED, "x-original-method", own_paths_pass=True),
    Dialect("traefik", AUTH + "traefik", _forwarded, Refusal.REDIRECT, "x-forwarded-method", signatures=True),
    Dialect("caddy", AUTH + "caddy", _forwarded, Refusal.REDIRECT, "x-forwarded-method", signatures=True),
    Dialect("envoy", ENVOY_PATH, _envoy, Refusal.REDIRECT, below=True),
)

SPOKEN: Mapping[str, str] = {
    "nginx": "nginx",
    "traefik": "traefik",
    "caddy": "caddy",
    "envoy": "envoy",
    "haproxy": "nginx",
    "apache": "nginx",
}
"""Which dialect each web server speaks."""

_EXACT = {dialect.path: dialect for dialect in TABLE}
_BELOW = tuple(dialect for dialect in TABLE if dialect.below)


def by_path(path: str) -> Dialect | None:
    """The dialect of a request's raw path (without query), if it is the path of a check."""
    found = _EXACT.get(path)
    if found is not None:
        return found
    for dialect in _BELOW:
        if path.startswith(dialect.path + "/"):
            return dialect
    return None
