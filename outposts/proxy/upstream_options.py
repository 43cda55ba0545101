"""How requests of a provider are forwarded: our own settings for it as one object."""

from __future__ import annotations

from dataclasses import dataclass

from outposts.proxy.providers import ProxyProvider
from outposts.proxy.upstream_pool import PLAIN, TlsOptions

FOREVER_S = 10.0 * 365 * 86_400  # a time-out of 0
NEVER_UPGRADED = frozenset({"h2c", "tls/1.0", "tls/1.1", "tls/1.2", "tls/1.3", "http/2.0"})


@dataclass(frozen=True, slots=True)
class Options:
    """How requests of a provider are forwarded. Times in seconds, ``max_body`` in octets (0: any)."""

    tls: TlsOptions = PLAIN
    connect_timeout_s: float = 10.0
    response_timeout_s: float = 300.0
    idle_timeout_s: float = 120.0
    tunnel_idle_s: float = 3600.0
    max_body: int = 0
    upgrades: frozenset[str] = frozenset({"websocket"})

    @classmethod
    def of(cls, provider: ProxyProvider) -> Options:
        """From a provider's settings."""
        settings, upstream = provider.settings, provider.upstream
        return cls(
            TlsOptions(
                upstream.verify if upstream is not None else True,
                settings["upstream_ca"],
                settings["upstream_certificate"],
                settings["upstream_server_name"],
            ),
            settings["upstream_connect_timeout"] or FOREVER_S,
            settings["upstream_response_timeout"] or FOREVER_S,
            settings["upstream_idle_timeout"] or FOREVER_S,
            settings["tunnel_idle_timeout"] or FOREVER_S,
            settings["max_body"],
            frozenset(name.lower() for name in settings["upgrades"]) - NEVER_UPGRADED,
        )


DEFAULTS = Options()
