"""The LDAP daemon's service: puts each configuration in service, keeps the directories fresh, hears of ended sessions.

A refresh never takes anything away: a provider whose directory could not be loaded keeps the one it has, and a bad
provider record is left out with an error.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from common import logs, metrics
from common.api import CoreApi
from common.cache import Configuration
from common.errors import OutpostError
from common.outcomes import LoginTarget
from common.published import Area
from common.reactor import LoopReactor
from common.sealed import SealedFile
from common.service import DaemonContext
from common.throttle import ThrottleLimits
from common.tls import self_signed
from outposts.ldap import paging, stored
from outposts.ldap.auth import Authenticator, Identity
from outposts.ldap.bind_cache import KEY_SIZE, BindCache
from outposts.ldap.bound import BoundConnections
from outposts.ldap.changes import ChangeSet, comparing
from outposts.ldap.connection import Connection
from outposts.ldap.desk import Desk
from outposts.ldap.direct import Parameters
from outposts.ldap.directory import Snapshot
from outposts.ldap.feeds import Feed, cookie_key
from outposts.ldap.loading import ProcessLoader
from outposts.ldap.observe import Observations
from outposts.ldap.providers import Provider, ProviderError, Providers, ProviderSettings, resolve
from outposts.ldap.refresh import Loaded, Loader, ThreadLoader, UserStates
from outposts.ldap.rfc import ResultCode
from outposts.ldap.routing import Searches
from outposts.ldap.server import Limits, Server
from outposts.ldap.session import SessionLimits

log = logs.get_logger("ldap")

SLICE_S = 0.001  # seconds of comparing before others get their turn
CACHE_SWEEP_S = 5.0  # seconds between looks at the bind cache for entries that are over
WARM_UP_MIN_S = 30.0  # shortest time between two warm-ups of the core's flow cache
# One read of the socket (64 KiB) can bring this many of the smallest requests; answered busy beyond it. What runs
# beside others is bounded much lower by max_requests, beyond which reading pauses.
REQUESTS_PER_READ = 2200


class CoreLists:
    """Direct search's view of the core (``direct.Fetch``): whole lists in pages of the operator's size."""

    def __init__(self, api: CoreApi, page_size: int) -> None:
        self._api = api
        self._page_size = page_size

    async def users(self, params: Parameters) -> Sequence[msgspec.Raw]:
        """``/core/users/`` with these query parameters."""
        return await self._api.users(params, self._page_size)

    async def groups(self, params: Parameters) -> Sequence[msgspec.Raw]:
        """``/core/groups/`` with these query parameters."""
        return await self._api.groups(params, self._page_size)

    async def user(self, pk: int) -> msgspec.Raw:
        """``/core/users/<pk>/``."""
        return await self._api.user(pk)


class LDAPService:
    """See ``common.service.Service``."""

    type = "ldap"

    def __init__(
        self, context: DaemonContext, reactor: LoopReactor, loader: Callable[[DaemonContext], Loader] | None = None
    ) -> None:
        """``loader`` makes what loads the directories of cached providers; without one a thread does it."""
        self._context = context
        self._reactor = reactor
        self._loader = (loader or thread_loader)(context)
        self._resolved: tuple[ProviderSettings, ...] = ()
        self._states = UserStates()
        self._loading = asyncio.Lock()
        self._loaded_at: dict[int, float] = {}
        self._load_problem = ""
        self._warm_up_every_s = 0.0
        self._background = False
        self._applied = False
        bound: BoundConnections[Connection, Identity] = BoundConnections()
        cache: BindCache[Identity] = BindCache(os.urandom(KEY_SIZE), on_drop=self._dropped)
        self.cache = cache
        self.bound = bound
        self.observations = Observations()
        self.authenticator = Authenticator(
            context.login, cache, now=context.clock, in_use=bound.uses, unbind_flow=self._unbind_flow
        )
        self.desk = Desk(
            authenticator=self.authenticator,
            searches=Searches(
                CoreLists(context.api, context.settings.ldap_page_size),
                clock=context.clock,
                sync_key=cookie_key(context.settings.token),
                page_key=paging.cookie_key(context.settings.token),
            ),
            bound=bound,
            observer=self.observations,
            limits=SessionLimits(),
            providers=Providers(),
        )
        self.server = Server(
            reactor,
            self.desk,
            self._limits({}),
            trusted_proxies=context.settings.trusted_proxies,
            self_signed=lambda: self_signed(datetime.datetime.now(datetime.UTC)),
        )
        metrics.bind_cache_entries.set_function(lambda: len(cache))
        feeds = self.desk.searches.feeds
        metrics.followers.set_function(lambda: len(feeds))

    # -- common.service.Service --------------------------------------------------------------------------------------

    async def apply(self, configuration: Configuration) -> None:
        """Serve this configuration from now on."""
        config = configuration.outpost.config
        self.observations.outpost_name = configuration.outpost.name
        self.server.limits = self._limits(config)
        self.desk.limits = self._session_limits(config)
        self.desk.max_requests = self._extra("max_requests", config)
        self.desk.max_followers = self._extra("max_followers_per_connection", config)
        feeds = self.desk.searches.feeds
        feeds.max_followers = self._extra("max_followers", config)
        feeds.keep = self._extra("sync_history", config)
        self.desk.searches.max_attributes = self._extra("max_attributes", config)
        self.authenticator.throttle.limits = ThrottleLimits(
            per_pair=self._extra("bind_failures", config),
            per_address=self._extra("bind_failures_per_address", config),
            per_account=self._extra("bind_failures_per_account", config),
            wait_max=self._extra("bind_backoff_max", config),
        )
        self.desk.searches.timeout_s = self._extra("search_timeout", config)
        self.desk.searches.time_limit_s = self._extra("time_limit", config)
        self.desk.searches.size_limit = self._extra("size_limit", config)
        resolved = []
        for record in configuration.providers:
            try:
                resolved.append(resolve(record, partial(self._extra_of, config, record.name)))
            except ProviderError as error:
                log.error("provider left out", problem=str(error))
        self._resolved = tuple(resolved)
        self._put_in_service([self._provider(settings, self._restored(settings)) for settings in resolved])
        self.server.ask_client_certificates(any(settings.client_certificates for settings in resolved))
        self.server.use_certificates(
            (settings.tls_server_name, pair)
            for settings in resolved
            if settings.certificate and (pair := configuration.certificates.get(settings.certificate)) is not None
        )
        self._warm_up_every_s = max(configuration.root.cache_timeout_flows, WARM_UP_MIN_S)
        if not self._background:
            self._background = True
            self._context.spawn(self._warm_up(), "flow warm-up")
            self._context.spawn(self._sweep(), "bind cache sweep")
        first, self._applied = not self._applied, True
        if any(settings.search_cached for settings in resolved):
            if first and not self.not_ready():
                # Sealed directories are served at once, whether the core answers or not; fresh ones follow.
                self._context.spawn(self._load(), "directory load")
            else:
                await self._load()

    async def listen(self) -> list[tuple[str, str, int]]:
        """Open the LDAP and LDAPS listeners."""
        bound = []
        for listener, addresses in (
            ("ldap", self._context.settings.listen_ldap),
            ("ldaps", self._context.settings.listen_ldaps),
        ):
            for address in addresses:
                bound += self.server.listen(listener, address, shared=self._context.settings.workers > 1)
        return bound

    def not_ready(self) -> list[str]:
        """Providers in cached search mode that have no directory yet."""
        reasons = []
        for provider in self.desk.providers:
            if provider.settings.search_cached and provider.snapshot is None:
                problem = f": {self._load_problem}" if self._load_problem else ""
                reasons.append(f"directory of provider {provider.settings.name} not loaded{problem}")
        return reasons

    def session_ended(self, session_id: str) -> None:
        """Close every connection of that session, and let nobody bind from the cache with it."""
        self.cache.end_session(session_id)
        self._say_goodbye(self.bound.of_session(session_id), "session ended")

    def connection_lost_for(self, seconds: float) -> None:
        """Session ends may have been missed: each cached bind must pass the flow again before it counts.

        Not dropped but doubted: if the core turns out to be away after all, ``offline_grace`` holds as before.
        """
        doubted = self.cache.doubt_all(self._context.clock())
        log.info("cached binds will be asked again", entries=doubted, absence_s=round(seconds, 1))

    async def drain(self, timeout_s: float) -> None:
        """Accept nothing new, finish what is in progress, log sessions out as far as time allows."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        await self.server.drain(timeout_s)
        await self.authenticator.close(max(0.0, until - loop.time()))

    async def close(self) -> None:
        """Cut off what is left."""
        await self.server.close()
        await self.authenticator.close(0)
        self._reactor.dispose()

    # -- providers ---------------------------------------------------------------------------------------------------

    def _provider(self, settings: ProviderSettings, restored: Snapshot | None) -> Provider:
        """A provider with the best directory at hand; while one for new entry settings is built, the old one stays."""
        old = self.desk.providers.by_pk.get(settings.pk)
        if not settings.search_cached:
            return Provider(settings)
        if old is not None and old.snapshot is not None:
            if settings.same_entries_as(old.settings):
                return Provider(settings, old.snapshot)
            return Provider(replace(old.settings, bind_flow_slug=settings.bind_flow_slug), old.snapshot)
        return Provider(settings, restored)

    def _put_in_service(self, providers: Iterable[Provider]) -> None:
        """Swap the table; end what the change ends."""
        newer = Providers(providers)
        older = self.desk.providers
        for pk in older.ended_binds(newer):
            self.cache.end_provider(pk)
        for pk in older.by_pk.keys() - newer.by_pk.keys():
            self._say_goodbye(self.bound.of_provider(pk), "provider is gone")
        self.desk.providers = newer
        self._follow(newer)
        for provider in newer.shadowed:
            log.error("provider never chosen: an earlier one has the same base DN", provider=provider.settings.name)

    def _follow(self, providers: Providers) -> None:
        """Tell searches that follow a directory what is new in it, as soon as it has been compared."""
        waiting, orphans = self.desk.searches.feeds.offer(
            {one.pk: one.snapshot for one in providers if one.snapshot is not None and one.settings.search_cached}
        )
        for follower in orphans:
            follower.wake()
        for feed in waiting:
            self._context.spawn(self._tell_followers(feed), "changes of a directory")

    async def _tell_followers(self, feed: Feed) -> None:
        """Compare and tell, until nothing newer has come meanwhile. Each follower gets a turn of the loop."""
        while (newer := feed.offered) is not None:
            changes = None
            if newer is not feed.snapshot:
                try:
                    changes = await _in_slices(comparing(feed.snapshot, newer))
                except Exception:
                    log.exception("changes of a directory not known")
                for follower in feed.publish(newer, changes):
                    follower.wake()
                    await asyncio.sleep(0)
            if feed.offered is newer:
                feed.offered = None

    async def _load(self) -> None:
        """Load the directories of all cached providers, and serve them."""
        async with self._loading:
            wanted = [settings for settings in self._resolved if settings.search_cached]
            previous = {
                provider.pk: provider.snapshot for provider in self.desk.providers if provider.snapshot is not None
            }
            try:
                loaded = await self._loader.load(wanted, previous, self._states)
            except Exception as error:
                if isinstance(error, OutpostError):
                    log.error("directory not loaded, keeping the last one", problem=str(error))
                else:
                    log.exception("directory not loaded, keeping the last one")
                self._load_problem = str(error) if isinstance(error, OutpostError) else "internal error"
                for settings in wanted:
                    metrics.snapshot_errors.labels(settings.application_slug).inc()
                self.desk.searches.load_problem = "the last refresh failed"
                return
            self._load_problem = self.desk.searches.load_problem = ""
            self._swap(loaded)

    def _swap(self, loaded: Loaded) -> None:
        self._serve(loaded.snapshots, self._context.clock())
        self._states = loaded.states
        self._end_logins(loaded.changed, loaded.gone)

    def _serve(self, snapshots: Mapping[int, Snapshot], loaded_at: float | None) -> None:
        """Serve these directories, by provider, from now on; other providers keep theirs.

        ``loaded_at``: unix time; None for directories from state files, whose age nobody knows.
        """
        providers = []
        for settings in self._resolved:
            snapshot = snapshots.get(settings.pk)
            if snapshot is not None and snapshot.options == settings.options and settings.search_cached:
                providers.append(Provider(settings, snapshot))
                if loaded_at is None:
                    continue
                self._loaded_at[settings.pk] = loaded_at
                metrics.snapshot_age.labels(settings.application_slug).set_function(partial(self._age, settings.pk))
            else:
                providers.append(self._provider(settings, None))
        self._put_in_service(providers)
        self.desk.searches.loaded_at = dict(self._loaded_at)

    def _end_logins(self, changed: Collection[int], gone: Collection[int]) -> None:
        """Users by pk: whose cached binds count no more, and of these the ones whose connections end too."""
        for pk in changed:
            self.cache.end_user(pk)
        for pk in gone:
            self._say_goodbye(self.bound.of_user(pk), "user is not active")

    # -- sealed state ------------------------------------------------------------------------------------------------

    def _restored(self, settings: ProviderSettings) -> Snapshot | None:
        """The sealed directory of a provider, if it holds what the settings ask for; only before the first load."""
        sealed = state_file(self._context, settings.pk)
        if sealed is None or not settings.search_cached or settings.pk in self._loaded_at:
            return None
        try:
            area = Area(self._context.settings.tmpdir, "directory")
        except OSError as error:
            log.warning("no memory file for the sealed directory", problem=error.strerror)
            return None
        try:
            if not sealed.read_into(stored.VERSION, area.fd):
                return None
            snapshot = Snapshot.from_publication(area.publish())
        except (stored.StoredError, OSError) as error:
            log.warning("sealed directory not usable", provider=settings.name, problem=str(error))
            return None
        finally:
            area.close()
        return snapshot if snapshot.options == settings.options else None

    # -- sessions and users ------------------------------------------------------------------------------------------

    def _say_goodbye(self, connections: Iterable[Connection], why: str) -> None:
        for connection in connections:
            log.info("connection ended", client=connection.client_ip, reason=why)
            connection.finish(ResultCode.UNAVAILABLE, why)

    def _dropped(self, identity: Identity) -> None:
        """A cached bind is over; its session is released when the caller is done with the cache."""
        asyncio.get_running_loop().call_soon(self.authenticator.release, identity)

    def _unbind_flow(self, provider_pk: int) -> str | None:
        provider = self.desk.providers.by_pk.get(provider_pk)
        return provider.settings.unbind_flow_slug if provider is not None else None

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(CACHE_SWEEP_S)
            self.cache.sweep(self._context.clock())

    async def _warm_up(self) -> None:
        """Have the core plan each bind flow ahead of time (core-contract §6.5)."""
        while True:
            for settings in self._resolved:
                target = LoginTarget(
                    protocol="ldap",
                    provider_pk=settings.pk,
                    flow_slug=settings.bind_flow_slug,
                    application_slug=settings.application_slug,
                    mfa_support=settings.mfa_support,
                )
                await self._context.login.warm_up(target)
            await asyncio.sleep(self._warm_up_every_s)

    # -- settings ----------------------------------------------------------------------------------------------------

    def _extra(self, name: str, config: Mapping[str, Any], provider_name: str = "") -> Any:
        return self._context.settings.extra("ldap", name, config, provider_name)

    def _extra_of(self, config: Mapping[str, Any], provider_name: str, name: str) -> Any:
        return self._extra(name, config, provider_name)

    def _age(self, pk: int) -> float:
        return self._context.clock() - self._loaded_at[pk]

    def _limits(self, config: Mapping[str, Any]) -> Limits:
        names = (
            "max_connections",
            "max_connections_per_address",
            "anonymous_timeout",
            "idle_timeout",
            "write_timeout",
            "message_timeout",
        )
        return Limits(**{name: self._extra(name, config) for name in names})

    def _session_limits(self, config: Mapping[str, Any]) -> SessionLimits:
        names = ("max_message_size_anonymous", "max_message_size", "max_nesting")
        return SessionLimits(
            **{name: self._extra(name, config) for name in names},
            max_operations=self._extra("max_requests", config) + REQUESTS_PER_READ,
        )


async def _in_slices(steps: Generator[None, None, ChangeSet]) -> ChangeSet:
    """On the loop, not in a thread: a thread would keep the interpreter for 5 ms at a time."""
    until = time.perf_counter() + SLICE_S
    while True:
        try:
            next(steps)
        except StopIteration as done:
            changes: ChangeSet = done.value
            return changes
        if time.perf_counter() > until:
            await asyncio.sleep(0)
            until = time.perf_counter() + SLICE_S


def state_file(context: DaemonContext, pk: int) -> SealedFile | None:
    """Where the directory of a provider is sealed; None without a state folder."""
    return context.sealed(f"ldap-directory-{pk}")


def thread_loader(context: DaemonContext) -> Loader:
    """Lists on the loop, builds in a thread."""
    settings = context.settings
    return ThreadLoader(context.api, settings.ldap_page_size, settings.tmpdir, partial(state_file, context))


def process_loader(context: DaemonContext) -> Loader:
    """Has a process of its own list and build, if one can be started."""
    return ProcessLoader(context.settings, partial(state_file, context), thread_loader(context))
