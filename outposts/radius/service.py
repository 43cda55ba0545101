"""The RADIUS daemon's service: puts each configuration in service, sweeps, hears of ended sessions.

A bad provider record is left out, or served as far as it can be, with an error; it never takes the others down. What
belongs to a provider (challenges, EAP conversations, replies kept for copies) ends when that provider changes.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from common import logs, metrics
from common.cache import Configuration
from common.outcomes import CoreSession
from common.reactor import LoopReactor
from common.records import RadiusProvider as Record
from common.service import DaemonContext
from common.shared_store import SharedStore
from common.throttle import ThrottleLimits
from common.tls import CertificateError, CertificatePair
from outposts.radius.auth import Authenticator
from outposts.radius.challenge import Challenges
from outposts.radius.core_watch import CoreWatch
from outposts.radius.desk import Desk
from outposts.radius.eap.contexts import TlsContexts, TlsOptions
from outposts.radius.eap.session import EapSettings
from outposts.radius.extension import Extension, Extensions, Parts, none
from outposts.radius.intake import Intake
from outposts.radius.observe import Observations
from outposts.radius.pem_files import PemFiles
from outposts.radius.providers import Providers, RadiusProvider, resolve_all
from outposts.radius.request import Request
from outposts.radius.server import Server
from outposts.radius.session import Duplicates
from outposts.radius.watched_files import WatchedFiles

SWEEP_S = 2.0  # seconds between looks at what is over, and at certificate files that may have changed
CHALLENGES_PREFIX = "outposts:radius:challenge:"  # keys of challenges in Redis or Valkey, which others may use too
LOGOUTS_AT_ONCE = 2  # a core hashes and signs on few processors: log-outs must not push logins aside
TRIM_OCTETS = 16 * 2**20  # that EAP conversations have let go of, before memory is given back to the system
MAX_LOGOUTS_WAITING = 1000  # beyond that the core lets the session end by itself

log = logs.get_logger("radius")


class RadiusService:
    """See ``common.service.Service``. ``worker`` is this process's number among several, 0 if it is alone."""

    type = "radius"

    def __init__(
        self, context: DaemonContext, reactor: LoopReactor, extensions: Extensions = none, *, worker: int = 0
    ) -> None:
        self._context = context
        self._reactor = reactor
        self._config: Mapping[str, Any] = {}
        self._problems: list[str] = []
        self._configured: list[str] = []  # those of them that are not about certificates
        self._records = 0
        self._files = PemFiles()
        self._watched = WatchedFiles()
        self._contexts = TlsContexts()
        self._making = asyncio.Lock()  # contexts and files are looked up by one thread at a time
        self._sweeping = False
        self._born = time.time()
        self._heaviest = 0  # octets of EAP conversations since memory was given back
        self._logouts: set[asyncio.Task[None]] = set()
        self._logout_gate = asyncio.Semaphore(LOGOUTS_AT_ONCE)
        self.core = CoreWatch(context.api.root_config, time.monotonic)
        self.observations = Observations()
        self.duplicates = Duplicates()
        address = context.settings.redis_url
        self._store = SharedStore(address, CHALLENGES_PREFIX) if address else None
        self.authenticator = Authenticator(
            context.login,
            worker=worker,
            challenges=Challenges(
                context.login, monotonic=time.monotonic, random=os.urandom, store=self._store, worker=worker
            ),
            on_accept=self._accepted,
            on_core_answer=self.core.heard,
        )
        self.desk = Desk(
            Intake(self.duplicates, unsigned=self.observations.unsigned),
            self.authenticator,
            self.observations,
            able=self._able,
        )
        self.server = Server(reactor, self.desk)
        self._extensions: Sequence[Extension] = extensions(
            Parts(context, self.desk, self._extra, self._pairs, sole=context.settings.workers == 1)
        )
        metrics.radius_inflight.set_function(lambda: self.desk.pending)
        metrics.radius_eap_sessions.set_function(lambda: len(self.authenticator.conversations.exchanges))
        metrics.radius_eap_memory.set_function(lambda: self.authenticator.conversations.exchanges.weight)
        metrics.radius_challenges.set_function(lambda: len(self.authenticator.challenges.exchanges))

    # -- common.service.Service --------------------------------------------------------------------------------------

    async def apply(self, configuration: Configuration) -> None:
        """Serve this configuration from now on."""
        self._config = configuration.outpost.config
        self.observations.outpost_name = configuration.outpost.name
        if configuration.fetched_at >= self._born and time.time() - configuration.fetched_at < SWEEP_S:
            self.core.heard()  # not by what was read from a state file, however young
        resolved, problems = resolve_all(configuration.providers, configuration.certificate_of, self._extra_of)
        self._records = len(configuration.providers)
        older = self.desk.intake.providers
        providers = Providers(
            before if (before := older.by_pk.get(provider.pk)) == provider else provider for provider in resolved
        )
        unchanged = {provider.pk for provider in providers if older.by_pk.get(provider.pk) is provider}
        eap, certificate_problems = await self._eap_settings(providers)
        self._configured = problems
        self._report([*problems, *certificate_problems])
        gate = self.authenticator.gate
        gate.max_flows = self._extra("max_flows")
        gate.throttle.limits = ThrottleLimits(
            per_pair=self._extra("failures"),
            per_address=self._extra("failures_per_nas"),
            per_account=self._extra("failures_per_account"),
            wait_max=self._extra("failure_backoff_max"),
        )
        self.duplicates.ttl_s = self._extra("duplicate_ttl")
        self.desk.max_pending = self._extra("max_pending")
        self.desk.max_pending_per_client = self._extra("max_pending_per_nas")
        self.desk.intake.status_rate = self._extra("status_rate")
        self.authenticator.conversations.settings = eap
        self.authenticator.conversations.exchanges.max_weight = self._extra("eap_memory")
        self.desk.intake.serve(providers, unchanged)
        self.authenticator.end_providers(lambda pk: pk not in unchanged)
        for extension in self._extensions:
            try:
                await extension.apply(configuration, providers)
            except Exception:  # the others, and the logins, go on with what is in service now
                log.exception("part of the daemon not configured", part=type(extension).__name__)
        if not self._sweeping:
            self._sweeping = True
            self._context.spawn(self._sweep(), "sweep")

    async def listen(self) -> list[tuple[str, str, int]]:
        """Open the listeners."""
        if self._store is not None:
            self._store.open()
        settings = self._context.settings
        shared = settings.workers > 1
        bound = []
        for address in settings.listen_radius:
            bound += self.server.listen("radius", address, shared=shared)
        for address in settings.listen_accounting:
            bound += self.server.listen("accounting", address, accounting_only=True, shared=shared)
        for extension in self._extensions:
            bound += await extension.listen(shared=shared)
        return bound

    def not_ready(self) -> list[str]:
        """No provider that can be served, though the core has some; or a part that cannot do its work."""
        reasons = []
        if self._records and not len(self.desk.intake.providers):
            reasons.append("no provider can be served: " + "; ".join(self._problems))
        for extension in self._extensions:
            reasons += extension.not_ready()
        return reasons

    def session_ended(self, session_id: str) -> None:
        """Nobody is let in with that session any more, and who was let in may be disconnected."""
        self.authenticator.session_ended(session_id)
        for extension in self._extensions:
            extension.session_ended(session_id)

    def connection_lost_for(self, seconds: float) -> None:
        """Nothing is remembered here that a missed session end would have taken away: each login asks the core."""

    async def drain(self, timeout_s: float) -> None:
        """Read nothing new, finish what is in progress, log sessions out as far as time allows."""
        until = time.monotonic() + timeout_s
        for extension in self._extensions:
            extension.stop_listening()
        await self.server.drain(timeout_s)
        if self._logouts:
            await asyncio.wait(self._logouts, timeout=max(0.0, until - time.monotonic()))

    async def close(self) -> None:
        """Cut off what is left."""
        await self.server.close()
        for extension in self._extensions:
            await extension.close()
        for task in self._logouts:
            task.cancel()
        await asyncio.gather(*self._logouts, return_exceptions=True)
        await self.authenticator.close()
        if self._store is not None:
            await self._store.close()
        await self.core.close()
        self._reactor.dispose()

    # -- certificates ------------------------------------------------------------------------------------------------

    async def _eap_settings(self, providers: Providers) -> tuple[dict[int, EapSettings], list[str]]:
        """EAP settings by provider, and what is wrong. Reading files and keys takes milliseconds: in a thread."""
        async with self._making:
            return await asyncio.to_thread(self._make_eap_settings, providers)

    def _make_eap_settings(self, providers: Providers) -> tuple[dict[int, EapSettings], list[str]]:
        made: dict[int, EapSettings] = {}
        problems = []
        for provider in providers:
            tls = None
            try:
                pair = self._pair_of(provider)
                if pair is not None and provider.eap_types:
                    tls = self._contexts.of(pair, self._tls_options(provider))
            except CertificateError as error:
                problems.append(f"provider {provider.name!r}: EAP is off: {error}")
            made[provider.pk] = EapSettings(
                types=provider.eap_types,
                tls=tls,
                strip_realm=provider.strip_realm,
                require_client_ca=provider.eap_require_ca,
            )
        self._contexts.keep(settings.tls for settings in made.values() if settings.tls is not None)
        return made, problems

    def _tls_options(self, provider: RadiusProvider) -> TlsOptions:
        try:
            lists = self._watched.read(provider.client_crl).decode("ascii")
        except UnicodeDecodeError:
            raise CertificateError(f"{provider.client_crl}: not PEM text") from None
        return TlsOptions(
            client_ca_pem=provider.client_ca,
            client_crl_pem=lists,
            crl_whole_chain=provider.crl_whole_chain,
            ocsp_response=self._watched.read(provider.tls_status),
            tunnel_tls13=provider.tunnel_tls13,
        )

    def _pair_of(self, provider: RadiusProvider) -> CertificatePair | None:
        """The core's pair, else the one in files. Raises ``CertificateError``."""
        if provider.certificate is not None and provider.certificate.servable:
            return provider.certificate
        return self._files.pair(self._extra("tls_certificate", provider.name), self._extra("tls_key", provider.name))

    def _pairs(self) -> list[tuple[str, CertificatePair]]:
        """The pairs of all providers, for listeners that show one."""
        found = []
        for provider in self.desk.intake.providers:
            try:
                pair = self._pair_of(provider)
            except CertificateError as error:
                log.error("certificate not usable", provider=provider.name, problem=str(error))
                continue
            if pair is not None:
                found.append((provider.name, pair))
        return found

    # -- background --------------------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                now = time.monotonic()
                self.duplicates.sweep(now)
                while self.authenticator.sweep(now):  # noqa: ASYNC110 - it is work, and others come in between
                    await asyncio.sleep(0)
                await self._give_memory_back()
                for extension in self._extensions:
                    extension.sweep()
                if await asyncio.to_thread(lambda: self._files.changed() or self._watched.changed()):
                    await self._read_files_again()
            except Exception:
                log.exception("sweep failed")

    async def _read_files_again(self) -> None:
        """Certificate files have changed."""
        providers = self.desk.intake.providers
        eap, problems = await self._eap_settings(providers)
        if self.desk.intake.providers is not providers:
            return  # a refresh was faster, and has read the files too: what is here belongs to providers of before
        self._report([*self._configured, *problems])
        self.authenticator.conversations.settings = eap
        log.info("certificate files read again")

    async def _give_memory_back(self) -> None:
        """After a crowd of EAP conversations. TLS leaves small gaps, which the C library keeps unless it is told."""
        weight = self.authenticator.conversations.exchanges.weight
        self._heaviest = max(self._heaviest, weight)
        if self._heaviest - weight > TRIM_OCTETS:
            self._heaviest = weight
            await asyncio.to_thread(_trim)  # some 50 ms for each 100 MiB

    def _able(self) -> Any:
        """Whether logins can be decided now, see ``Desk``."""
        if not len(self.desk.intake.providers):
            return False
        return True if self.core.fresh else self.core.reachable()

    def _accepted(self, request: Request, session: CoreSession, class_: bytes, user_name: str) -> None:
        for extension in self._extensions:
            extension.accepted(request, session, class_, user_name)
        if request.provider.logout and not request.provider.das:
            if len(self._logouts) >= MAX_LOGOUTS_WAITING:
                log.warning("too many log-outs waiting, session left to end by itself")
                return
            task = asyncio.get_running_loop().create_task(self._log_out(session, request.delegated_ip))
            self._logouts.add(task)
            task.add_done_callback(self._logouts.discard)

    async def _log_out(self, session: CoreSession, client_ip: str) -> None:
        try:
            async with self._logout_gate:
                await self._context.login.logout(session, None, client_ip)
        except Exception:
            log.exception("log-out failed unexpectedly")

    # -- settings ----------------------------------------------------------------------------------------------------

    def _extra(self, name: str, provider_name: str = "") -> Any:
        return self._context.settings.extra("radius", name, self._config, provider_name)

    def _extra_of(self, record: Record, name: str) -> Any:
        return self._extra(name, record.name)

    def _report(self, problems: list[str]) -> None:
        """Each problem once per change, all of them counted."""
        for problem in problems:
            if problem not in self._problems:
                log.error("configuration of a provider", problem=problem)
        self._problems = problems
        metrics.radius_config_errors.set(len(problems))


def _trim() -> None:
    """Give memory that is free back to the system, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
