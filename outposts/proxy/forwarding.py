"""A request that may pass, as the application behind gets it: where to, and with which headers (mode ``proxy``).

What a client says about who it is never arrives: every spelling of an identity header, our own cookies, credentials
that were meant for us, and forwarding headers of peers that are not trusted are taken out, whether anybody is logged in
or not. The target goes on octet for octet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from outposts.proxy import cookies, identity, rfc
from outposts.proxy.decision import Allow, Check
from outposts.proxy.dialects import SCHEMES
from outposts.proxy.providers import Upstream
from outposts.proxy.urls import parse_host, parse_url

Pairs = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """Where a request goes, and its headers in order. ``target`` is raw; ``upgrade`` the protocol asked for, or "".

    Hop-by-hop headers are not in it: framing, ``Connection`` and ``Upgrade`` are the sender's.
    """

    upstream: Upstream
    target: str
    headers: Pairs = field(repr=False)
    upgrade: str = ""


def upstream_request(check: Check, allow: Allow, pairs: Sequence[tuple[bytes, bytes]]) -> UpstreamRequest:
    """What to send for a request; ``pairs``: its headers as they came. Raises ``ValueError`` if nothing is behind."""
    configured = allow.provider.upstream
    if configured is None:
        raise ValueError("a provider without an upstream")
    upstream, host = configured, _host(check)
    session = allow.session
    if session is not None:
        override = parse_url(session.backend_override) if session.backend_override else None
        if override is not None:
            upstream = Upstream(override.scheme, override.host, "", configured.verify)
        if session.host_header and parse_host(session.host_header) is not None:
            host = session.host_header
    headers = _kept(check, allow, pairs)
    headers += _forwarding(check)
    headers += allow.identity.pairs()
    headers.insert(0, (b"Host", host.encode("latin-1", "replace")))
    request = check.request
    upgrade = request.headers.get("upgrade", "") if "upgrade" in _connection(request.headers.get("connection")) else ""
    return UpstreamRequest(upstream, upstream.path + request.target, headers, upgrade)


def _host(check: Check) -> str:
    return check.request.headers.get("host", "")


def _connection(value: str | None) -> frozenset[str]:
    """Names in a ``Connection`` header: they are for this hop only (RFC 9110 §7.6.1)."""
    return frozenset(name for name in (item.strip().lower() for item in (value or "").split(",")) if name)


def _kept(check: Check, allow: Allow, pairs: Iterable[tuple[bytes, bytes]]) -> Pairs:
    """The client's headers that go on."""
    request = check.request
    named = _connection(request.headers.get("connection"))
    names = allow.identity.names | allow.provider.stripped
    used = allow.used_authorization
    kept: Pairs = []
    for name, value in pairs:
        plain = name.decode("latin-1").lower()
        if plain in rfc.HOP_BY_HOP or plain in named or plain == "host":
            if plain != "te" or value.strip().lower() != b"trailers":
                continue
        if plain == "authorization" and used:
            continue
        if plain in rfc.FORWARDING or identity.folded(plain) in rfc.FORWARDING:
            continue
        if not identity.client_may_send(plain, names):
            continue
        if plain == "cookie":
            value = cookies.without_own(value.decode("latin-1")).encode("latin-1")
            if not value:
                continue
        kept.append((name, value))
    return kept


def _forwarding(check: Check) -> Pairs:
    """Who asked, for what and how: from trusted proxies what they say, else what this connection shows."""
    request = check.request
    headers, via = request.headers, request.via
    peer = via.peer.partition("%")[0]
    chain = headers.get("x-forwarded-for", "") if via.trusted else ""
    proto = SCHEMES.get(headers.get("x-forwarded-proto", "").lower(), "") if via.trusted else ""
    proto = proto or ("https" if via.secure else "http")
    host = (headers.get("x-forwarded-host") if via.trusted else "") or _host(check)
    client = request.client
    found: list[tuple[str, str]] = [("X-Forwarded-Host", host), ("X-Forwarded-Proto", proto)]
    if peer:
        found.append(("X-Forwarded-For", f"{chain}, {peer}" if chain else peer))
    if client is not None:
        found.append(("X-Real-Ip", str(client)))
    if via.trusted and headers.get("forwarded"):
        node = f'"[{peer}]"' if ":" in peer else peer or "unknown"
        found.append(("Forwarded", f'{headers["forwarded"]}, for={node};host="{_host(check)}";proto={proto}'))
    return [(name.encode(), value.encode("latin-1", "replace")) for name, value in found]
