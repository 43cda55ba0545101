"""The proxy daemon's service: puts each configuration in service, keeps sessions over it, hears of ended logins.

A refresh never takes anything away: a provider whose new record cannot be served keeps its former self, sessions stay
with their provider, and connections stay open. Sessions are in the store, so a restart finds them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common import logs, metrics
from common.cache import Configuration
from common.records import ProxyProvider as Record
from common.service import DaemonContext
from common.version import user_agent
from outposts.proxy import stores
from outposts.proxy.handlers import Desk
from outposts.proxy.header_auth import HeaderAuth
from outposts.proxy.observe import Observations
from outposts.proxy.oidc import OpenIdClient
from outposts.proxy.providers import resolve_all
from outposts.proxy.renewal import Renewals
from outposts.proxy.revocation import Revocation
from outposts.proxy.server import Limits, Server
from outposts.proxy.store import Sessions
from outposts.proxy.upstream import Forwarder

log = logs.get_logger("proxy")


class ProxyService:
    """See ``common.service.Service``."""

    type = "proxy"
    absence_s = 0.0  # after any time without WebSocket ends of logins may have been missed

    def __init__(self, context: DaemonContext) -> None:
        self._context = context
        self._config: Mapping[str, Any] = {}
        self._problems: list[str] = []
        self._records = 0
        settings = context.settings
        clock = context.clock
        self.sessions = Sessions(stores.backend(settings, worker=context.worker, clock=clock), clock=clock)
        self.client = OpenIdClient(settings, host_browser=settings.host_browser or "", clock=clock)
        self.header_auth = HeaderAuth(self.client, clock=clock)
        self.renewals = Renewals(self.sessions, self.client, clock=clock)
        self.revocation = Revocation(self.sessions, self.client, self.header_auth)
        self.forwarder = Forwarder()
        self.observations = Observations(context.api.report_event)
        self.desk = Desk(
            self.sessions,
            self.client,
            self.header_auth,
            self.renewals,
            self.forwarder,
            self.observations,
            clock=clock,
            revocation=self.revocation,
        )
        self.server = Server(self.desk, self._limits(), trusted_proxies=settings.trusted_proxies)
        metrics.proxy_sessions.set_function(lambda: self.sessions.hot)

    # -- common.service.Service --------------------------------------------------------------------------------------

    async def apply(self, configuration: Configuration) -> None:
        """Serve this configuration from now on."""
        outpost = configuration.outpost
        self._config = outpost.config
        self.observations.outpost_name = outpost.name
        self.server.limits = self._limits()
        providers, problems = resolve_all(
            configuration.providers,
            configuration.certificate_of,
            self._settings_of,
            former=self.desk.providers,
            outpost=outpost.name,
            version=user_agent(),
        )
        self._records = len(configuration.providers)
        self.client.apply(providers, outpost)
        self.sessions.apply(providers)
        self.header_auth.forget()
        self.forwarder.renew()
        problems = [*problems, *self.server.tls.renew(providers)]
        self.desk.providers = providers
        self._report(problems)

    async def listen(self) -> list[tuple[str, str, int]]:
        """Open the store and the listeners."""
        await self.sessions.open()
        settings = self._context.settings
        shared = settings.workers > 1
        bound = []
        for name, addresses in (("http", settings.listen_http), ("https", settings.listen_https)):
            for address in addresses:
                bound += self.server.listen(name, address, shared=shared)
        # Logins that ended while nobody was here to hear of it.
        self.revocation.connection_lost_for(0.0)
        return bound

    def not_ready(self) -> list[str]:
        """No provider that can be served though the core has some; or sessions that cannot be looked up."""
        reasons = []
        if self._records and not len(self.desk.providers):
            reasons.append("no provider can be served: " + "; ".join(self._problems))
        if self.sessions.problem:
            reasons.append(f"session store: {self.sessions.problem}")
        return reasons

    def session_ended(self, session_id: str) -> None:
        """Nobody passes with that login any more."""
        self.revocation.session_ended(session_id)

    def connection_lost_for(self, seconds: float) -> None:
        """Ends may have been missed: every login is asked about."""
        self.revocation.connection_lost_for(seconds)

    async def drain(self, timeout_s: float) -> None:
        """Accept nothing new, finish what is in progress."""
        await self.server.drain(timeout_s)

    async def close(self) -> None:
        """Cut off what is left."""
        await self.server.close()
        await self.observations.close()
        await self.revocation.close()
        await self.renewals.close()
        await self.header_auth.close()
        await self.forwarder.close()
        await self.sessions.close()
        await self.client.close()

    # -- settings ----------------------------------------------------------------------------------------------------

    def _settings_of(self, record: Record) -> Mapping[str, Any]:
        return self._context.settings.extras_of("proxy", self._config, record.name)

    def _limits(self) -> Limits:
        settings = self._context.settings
        return Limits(
            settings.extra("proxy", "max_connections", self._config),
            settings.extra("proxy", "max_connections_per_address", self._config),
            settings.web_read_header_timeout_s,
            settings.web_idle_timeout_s,
            settings.web_write_timeout_s,
        )

    def _report(self, problems: list[str]) -> None:
        """Each problem once per change, all of them counted."""
        for problem in problems:
            if problem not in self._problems:
                log.error("configuration of a provider", problem=problem)
        self._problems = problems
        metrics.proxy_config_errors.set(len(problems))
