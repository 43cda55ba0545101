"""Where a search goes: which provider's directory, with which right, from memory or from the core.

The right to search belongs to the connection: its ``Identity`` names the provider that granted it and what the user may
see. A search reaches the provider nearest above its base; if that is another one than the identity's, it is refused.
A base outside every provider is an unknown base of the identity's own provider. The root DSE and the schema are open to
everybody.

``code`` of a ``Result`` can only come from ``search.run``, or from a refusal made here, which is never success.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping

import msgspec

from common import metrics
from common.errors import CoreError
from common.logs import get_logger
from common.version import VERSION
from outposts.ldap import feeds, filters, heavy, listing, paging, sync
from outposts.ldap.auth import Identity
from outposts.ldap.compare import compare
from outposts.ldap.controls import ADVERTISED, ControlError, Controls, Operation, read
from outposts.ldap.direct import Fetch, fetch_snapshot
from outposts.ldap.directory import Snapshot
from outposts.ldap.dn import DN, DNError
from outposts.ldap.extended import OPERATIONS
from outposts.ldap.filters import Equality, Filter, Or, Present, attribute_description
from outposts.ldap.messages import CompareRequest, SearchRequest
from outposts.ldap.prepared import PreparedSearches, prepared_of
from outposts.ldap.providers import Provider, Providers, ProviderSettings
from outposts.ldap.rfc import NO_ATTRIBUTES, ControlOid, DerefAliases, Feature, ResultCode, Scope
from outposts.ldap.schema import RootInfo
from outposts.ldap.search import FEW_ENTRIES, SearchAnswer, run

log = get_logger("ldap.search")

FEATURES = (Feature.ALL_OPERATIONAL_ATTRIBUTES, Feature.OBJECT_CLASS_ATTRIBUTES, Feature.TRUE_FALSE_FILTERS)
ADVERTISED_ANYWHERE = tuple(oid for oid in ADVERTISED if oid not in sync.CONTROLS)  # not of cached directories only
DEFAULT_TIMEOUT_S = 60.0  # the operator's search_timeout replaces it
DEFAULT_MAX_ATTRIBUTES = 1_000  # of one search; the operator's max_attributes replaces it
# Seconds of work on one search before others get their turn, as for results that are written (connection.py).
SLICE_S = 0.003
EMPTY_KEPT = 64  # directories without entries, for the root DSE of direct providers; some 20 KB each


class Result:
    """The answer to a search: entries in ``chunks``, then what the done message says.

    ``reason`` is the metric's label of a refusal, else empty; ``app`` the application of the provider that answered.
    ``follower``: the search follows the directory (``sync``) and may have more to say after ``chunks``.
    """

    __slots__ = ("answer", "app", "follower", "reason")

    def __init__(
        self, answer: SearchAnswer, app: str = "", reason: str = "", follower: sync.Follower | None = None
    ) -> None:
        self.answer = answer
        self.app = app
        self.reason = reason
        self.follower = follower

    @property
    def chunks(self) -> Iterator[bytes]:
        """Search result entries, encoded."""
        return self.answer.chunks

    @property
    def code(self) -> int:
        """The result code; final once ``chunks`` is used up."""
        return self.answer.final_code if self.follower is None else self.follower.code

    @property
    def count(self) -> int:
        """Number of entries."""
        return self.answer.count if self.follower is None else self.follower.count


# Reason → code and text of a refusal made here.
REFUSALS: Mapping[str, tuple[ResultCode, str]] = {
    "empty_bind_dn": (ResultCode.INSUFFICIENT_ACCESS_RIGHTS, "bind first"),
    "invalid_bind_dn": (ResultCode.INSUFFICIENT_ACCESS_RIGHTS, "bound to another part of the directory"),
    "invalid_dn": (ResultCode.INVALID_DN_SYNTAX, "search base is not a distinguished name"),
    "directory_not_loaded": (ResultCode.UNAVAILABLE, "directory not loaded yet"),
    "core_unavailable": (ResultCode.UNAVAILABLE, "the identity core does not answer"),
    "time_limit": (ResultCode.TIME_LIMIT_EXCEEDED, ""),
    "too_many_followers": (ResultCode.ADMIN_LIMIT_EXCEEDED, "too many searches that wait for changes"),
    "too_many_attributes": (ResultCode.ADMIN_LIMIT_EXCEEDED, "too many attributes asked for"),
    "unexpected": (ResultCode.OTHER, "internal error"),
}


def failed(reason: str, app: str = "") -> Result:
    """A refusal of ``REFUSALS``; never success."""
    code, text = REFUSALS.get(reason, REFUSALS["unexpected"])
    return Result(SearchAnswer(code, iter(()), 0, diagnostic=text), app, reason)


def bad_controls(error: ControlError) -> Result:
    """The refusal of a request whose controls cannot be served."""
    critical = error.code == ResultCode.UNAVAILABLE_CRITICAL_EXTENSION
    answer = SearchAnswer(error.code, iter(()), 0, diagnostic=error.diagnostic)
    return Result(answer, reason="critical_control" if critical else "control")


def report_objects(settings: ProviderSettings, snapshot: Snapshot) -> None:
    """Count and log what of a listing has no entry (row 87): the other entries are served."""
    report = snapshot.report
    if report.error_count:
        metrics.snapshot_skipped.labels(settings.application_slug).set(report.error_count)
        log.error(
            "users or groups without an entry",
            provider=settings.name,
            count=report.error_count,
            first=list(report.errors),
        )


class Searches:
    """Answers searches and compares of all connections."""

    def __init__(
        self,
        fetch: Fetch,
        *,
        clock: Callable[[], float] = time.time,
        page_key: bytes | None = None,
        sync_key: bytes | None = None,
    ) -> None:
        """``page_key``: seals the cookies of paged results; made up if not given, then they end with this process.

        ``sync_key``: the same for the cookies of content synchronization.
        """
        self._fetch = fetch
        self.feeds = feeds.Feeds(sync_key or os.urandom(feeds.KEY_SIZE))
        self._clock = clock
        self._cookies = paging.Cookies(page_key or os.urandom(paging.KEY_SIZE))
        self._kept = paging.KeptSnapshots(time.monotonic)
        self._empty: dict[ProviderSettings, Snapshot] = {}
        self.timeout_s = DEFAULT_TIMEOUT_S
        self.max_attributes = DEFAULT_MAX_ATTRIBUTES
        # The server's own limits on one search: entries, and seconds; 0 is none.
        self.size_limit = 0
        self.time_limit_s = 0.0
        # Of cached providers, for the root DSE: unix time of the last good load by pk, and what went wrong since.
        self.loaded_at: Mapping[int, float] = {}
        self.load_problem = ""

    def begin(
        self,
        request: SearchRequest,
        identity: Identity | None,
        providers: Providers,
        mechanisms: tuple[str, ...] = (),
    ) -> Result | Awaitable[Result]:
        """Answer from memory, or give the work that asks the core. ``mechanisms``: what SASL the connection may use."""
        if len(request.attributes) > self.max_attributes:
            return failed("too_many_attributes")
        try:
            controls = read(request.controls, Operation.SEARCH)
        except ControlError as error:
            return bad_controls(error)
        if controls.sync is not None or controls.persistent is not None:
            followed = self._follow(request, identity, providers, controls)
            if followed is not None:
                return followed
        own = providers.by_pk.get(identity.provider_pk) if identity is not None else None
        if identity is None or own is None:
            answer = run(None, request, None, info=self._info(None, mechanisms))
            if answer.code == ResultCode.INSUFFICIENT_ACCESS_RIGHTS:
                return Result(answer, reason="empty_bind_dn")
            return self._run(None, request, identity, None, controls, info=self._info(None, mechanisms))
        settings = own.settings
        try:
            nearest = providers.for_base(request.base)
        except DNError:
            return failed("invalid_dn", settings.application_slug)
        if nearest is None:
            # Root DSE, schema, or a base outside: nothing of it needs the core.
            snapshot = own.snapshot or self._nothing(settings)
            return self._run(snapshot, request, identity, settings, controls, info=self._info(own, mechanisms))
        if nearest is not own:
            return failed("invalid_bind_dn", settings.application_slug)
        if not settings.search_cached or controls.dont_use_copy:
            return self._direct(request, identity, settings, controls)
        if own.snapshot is None:
            return failed("directory_not_loaded", settings.application_slug)
        if listing.applies(controls) or (identity.viewer.full and heavy.items(own.snapshot, request.filter)):
            return self._run(own.snapshot, request, identity, settings, controls, stable=True)
        answer = run(
            own.snapshot,
            request,
            identity.viewer,
            strict=settings.strict,
            size_limit=self.size_limit,
            out_of_time=self._timer(request),
        )
        if (
            answer.code == ResultCode.SUCCESS
            and answer.count <= FEW_ENTRIES
            and not request.controls
            and not 0 < self.size_limit < FEW_ENTRIES
        ):
            seen = _seen(own.snapshot, identity)
            prepared_of(seen).prepare(seen, request)
        return Result(answer, settings.application_slug)

    def prepared(self, identity: Identity, providers: Providers) -> tuple[PreparedSearches, str] | None:
        """Searches that this connection may ask by their octets, and the application; None if it has to be asked."""
        if identity.viewer.full:
            known: tuple[PreparedSearches, str] | None = providers.prepared.get(identity.provider_pk)
            if known is not None:
                return known
        own = providers.by_pk.get(identity.provider_pk)
        if own is None or own.snapshot is None or not own.settings.search_cached:
            return None
        found = prepared_of(_seen(own.snapshot, identity)), own.settings.application_slug
        if identity.viewer.full:
            providers.prepared[identity.provider_pk] = found
        return found

    def _run(
        self,
        snapshot: Snapshot | None,
        request: SearchRequest,
        identity: Identity | None,
        settings: ProviderSettings | None,
        controls: Controls,
        *,
        stable: bool = False,
        info: RootInfo | None = None,
    ) -> Result | Awaitable[Result]:
        """Answer with whatever controls there are: now, or in slices beside other requests if it takes longer."""
        viewer = identity.viewer if identity is not None else None
        app = settings.application_slug if settings is not None else ""
        strict = settings is not None and settings.strict
        timer = self._timer(request)
        if not listing.applies(controls) and (snapshot is None or not heavy.items(snapshot, request.filter)):
            answer = run(
                snapshot, request, viewer, info=info, strict=strict, size_limit=self.size_limit, out_of_time=timer
            )
            return Result(answer, app)
        steps = listing.run(
            snapshot,
            request,
            viewer,
            controls,
            self._cookies,
            context=_context(identity, settings),
            stable=stable,
            info=info,
            strict=strict,
            size_limit=self.size_limit,
            out_of_time=timer,
        )
        found = _advance(steps)
        return Result(found, app) if found is not None else _in_slices(steps, app)

    def _follow(
        self, request: SearchRequest, identity: Identity | None, providers: Providers, controls: Controls
    ) -> Result | None:
        """A search that follows a directory (``sync``).

        There is nothing to follow but the directory of a cached provider. Elsewhere a critical control is refused, and
        without that the search is an ordinary one: None.
        """
        wanted = controls.sync or controls.persistent
        refused = bad_controls(ControlError(ResultCode.UNAVAILABLE_CRITICAL_EXTENSION, "nothing to follow here"))
        elsewhere = refused if controls.critical & {"sync", "persistent"} else None
        own = providers.by_pk.get(identity.provider_pk) if identity is not None else None
        if wanted is None or identity is None or own is None:
            return failed("empty_bind_dn") if elsewhere is not None else None
        app = own.settings.application_slug
        try:
            base = DN.parse(request.base)
        except DNError:
            return failed("invalid_dn", app)
        nearest = providers.for_name(base)
        if nearest is not None and nearest is not own:
            return failed("invalid_bind_dn", app)
        if nearest is None or not own.settings.search_cached or controls.dont_use_copy:
            return elsewhere
        if listing.applies(controls) or (controls.sync is not None and controls.persistent is not None):
            return bad_controls(ControlError(ResultCode.UNWILLING_TO_PERFORM, "controls that exclude each other"))
        feed = self.feeds.of(own.pk)
        if feed is None:
            return failed("directory_not_loaded", app)
        if own.settings.strict and _seen(feed.snapshot, identity).below(base, request.scope) is None:
            return Result(run(feed.snapshot, request, identity.viewer, strict=True), app)
        question = sync.Question(request, base, identity.viewer, wanted, filters.encode(request.filter))
        follower = sync.Follower(feed, question, self.feeds.cookies, self.size_limit, self._timer(request))
        if follower.stays:
            if len(self.feeds) >= self.feeds.max_followers:
                return failed("too_many_followers", app)
            feed.followers.add(follower)
        return Result(SearchAnswer(ResultCode.SUCCESS, follower.due(), 0), app, follower=follower)

    async def _direct(
        self, request: SearchRequest, identity: Identity, settings: ProviderSettings, controls: Controls
    ) -> Result:
        """Ask the core, then answer with the same evaluator. The next page of a listing need not ask again."""
        limit_s = min(request.time_limit, self.timeout_s) if request.time_limit else self.timeout_s
        app = settings.application_slug
        try:
            async with asyncio.timeout(limit_s):
                kept, query = self._kept_for(request, identity, settings, controls)
                snapshot = kept or await fetch_snapshot(
                    settings.options, _widened(request, controls.assertion), identity.viewer, self._fetch
                )
        except TimeoutError:
            asked = request.time_limit and request.time_limit <= self.timeout_s
            return failed("time_limit" if asked else "core_unavailable", app)
        except CoreError as error:
            log.error("direct search failed", provider=settings.name, problem=str(error))
            return failed("core_unavailable", app)
        if kept is None:
            report_objects(settings, snapshot)
        result = self._run(snapshot, request, identity, settings, controls)
        if not isinstance(result, Result):
            result = await result
        if query:
            if controls.view is not None or _goes_on(result.answer):
                self._kept.put(query, snapshot)
                asyncio.get_running_loop().call_later(paging.KEPT_S + 1, self._kept.purge)
            else:
                self._kept.drop(query)
        return result

    def _kept_for(
        self, request: SearchRequest, identity: Identity, settings: ProviderSettings, controls: Controls
    ) -> tuple[Snapshot | None, bytes]:
        """The directory that an earlier page or view of this search has fetched, and what it is kept under."""
        if controls.view is None and controls.paged is None:
            return None, b""
        query = listing.query_digest(request, controls, _context(identity, settings))
        first = controls.view is None and (controls.paged is None or not controls.paged.cookie)
        return None if first else self._kept.get(query), query

    def _timer(self, request: SearchRequest) -> Callable[[], bool] | None:
        """Tells when the client's or the server's time limit has passed, whichever comes first."""
        own, asked = self.time_limit_s, request.time_limit
        limit_s = min(own, asked) if own and asked else own or asked
        return _timer(limit_s) if limit_s else None

    def compare(
        self, request: CompareRequest, identity: Identity | None, providers: Providers
    ) -> ResultCode | Awaitable[ResultCode]:
        """Compare, by the same ways as a search for the one entry."""
        try:
            controls = read(request.controls, Operation.COMPARE)
        except ControlError as error:
            return error.code
        own = providers.by_pk.get(identity.provider_pk) if identity is not None else None
        if identity is None or own is None:
            return ResultCode.INSUFFICIENT_ACCESS_RIGHTS
        try:
            nearest = providers.for_base(request.name)
        except DNError:
            return ResultCode.INVALID_DN_SYNTAX
        if nearest is None:
            return ResultCode.NO_SUCH_OBJECT
        if nearest is not own:
            return ResultCode.INSUFFICIENT_ACCESS_RIGHTS
        if not own.settings.search_cached or controls.dont_use_copy:
            return self._compare_direct(request, identity, own.settings, controls)
        if own.snapshot is None:
            return ResultCode.UNAVAILABLE
        return compare(own.snapshot, request, identity.viewer, controls.assertion)

    async def _compare_direct(
        self, request: CompareRequest, identity: Identity, settings: ProviderSettings, controls: Controls
    ) -> ResultCode:
        """The entry itself is fetched, whatever value is compared; the assertion tells what else of it is needed."""
        search = SearchRequest(
            message_id=request.message_id,
            base=request.name,
            scope=Scope.BASE,
            deref=DerefAliases.NEVER,
            size_limit=0,
            time_limit=0,
            types_only=False,
            filter=Equality(attribute_description(request.attribute) or "", request.value),
            attributes=(NO_ATTRIBUTES,),
        )
        search = _widened(search, controls.assertion or search.filter)
        try:
            async with asyncio.timeout(self.timeout_s):
                snapshot = await fetch_snapshot(settings.options, search, identity.viewer, self._fetch)
        except (TimeoutError, CoreError) as error:
            log.error("direct compare failed", provider=settings.name, problem=str(error))
            return ResultCode.UNAVAILABLE
        return compare(snapshot, request, identity.viewer, controls.assertion)

    def _nothing(self, settings: ProviderSettings) -> Snapshot:
        """The directory of a provider without any user or group: it knows its own base."""
        known = self._empty.get(settings)
        if known is None:
            if len(self._empty) >= EMPTY_KEPT:
                self._empty.clear()
            known = self._empty[settings] = Snapshot.build(settings.options, (), ())
        return known

    def _info(self, provider: Provider | None, mechanisms: tuple[str, ...]) -> RootInfo:
        """What the root DSE tells of this server."""
        operational: list[tuple[str, str]] = []
        cached = provider is not None and provider.settings.search_cached
        if provider is not None and provider.pk in self.loaded_at:
            age_s = max(0.0, self._clock() - self.loaded_at[provider.pk])
            operational.append(("directoryAgeSeconds", f"{age_s:.0f}"))
        if provider is not None and provider.settings.search_cached and self.load_problem:
            operational.append(("directoryLastError", self.load_problem))
        return RootInfo(
            version=VERSION,
            controls=ADVERTISED if cached else ADVERTISED_ANYWHERE,
            extensions=tuple(OPERATIONS),
            mechanisms=mechanisms,
            features=FEATURES,
            operational=tuple(operational),
        )


def _seen(snapshot: Snapshot, identity: Identity) -> Snapshot:
    """What the identity sees of a directory."""
    return snapshot if identity.viewer.full else snapshot.view(identity.viewer.user_pk)


def _context(identity: Identity | None, settings: ProviderSettings | None) -> bytes:
    """What tells searches with the same octets apart: who asks, and of which directory."""
    if identity is None or settings is None:
        return b""
    viewer = identity.viewer
    return repr((settings.pk, viewer.user_pk, viewer.full, settings.options)).encode()


def _widened(request: SearchRequest, assertion: Filter | None) -> SearchRequest:
    """The request whose answer also has what an assertion about its base looks at; what it finds does not matter."""
    if assertion is None:
        return request
    everything: Filter = Present("objectclass")
    return msgspec.structs.replace(request, filter=Or((everything, request.filter, assertion)))


def _goes_on(answer: SearchAnswer) -> bool:
    """Whether a page is not the last one."""
    return any(
        control.oid == ControlOid.PAGED_RESULTS and bool(paging.decode(control.value).cookie)
        for control in answer.controls
    )


def _advance(steps: listing.Steps) -> SearchAnswer | None:
    """Work on a search for a slice of time; None if it is not done."""
    until = time.perf_counter() + SLICE_S
    while True:
        try:
            next(steps)
        except StopIteration as done:
            answer: SearchAnswer = done.value
            return answer
        if time.perf_counter() > until:
            return None


async def _in_slices(steps: listing.Steps, app: str) -> Result:
    """The rest of a search, with turns for everybody else in between."""
    while True:
        await asyncio.sleep(0)
        answer = _advance(steps)
        if answer is not None:
            return Result(answer, app)


def _timer(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end
