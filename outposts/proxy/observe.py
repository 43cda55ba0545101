"""What is told about requests: one log line each and the metrics. Never a query, cookie, token or credential.

Labels are bounded: hosts are those of the configuration, methods those of the standard, whatever clients send. What a
web server in front gets wrong is told to the core as an event, with headers by name only, at most one a minute for each
provider: whoever sends such requests must not fill the core's log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from common import logs, metrics
from outposts.proxy.decision import Allow, Check, Misconfigured
from outposts.proxy.exchange import Forwarded
from outposts.proxy.identity import Identity
from outposts.proxy.providers import ProxyProvider
from outposts.proxy.urls import Host
from outposts.proxy.wire import AuthRequest

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "OTHER"  # any other method
APP, PING, STATIC = "app", "ping", "static"  # the reference's values of ``type``
EVENT_EVERY_S = 60.0  # between two events about one provider
MAX_AGENT = 200  # characters of a User-Agent in the log

_USERNAME = b"X-Authentik-Username: "

log = logs.get_logger("proxy")
lines = logs.RequestLines("proxy")


class Observations:
    """Counts and logs. ``outpost_name`` is set at each refresh; times are seconds of the loop's clock."""

    def __init__(self, report: Callable[[str, Mapping[str, Any], str | None], Coroutine[Any, Any, None]]) -> None:
        """``report``: sends an event to the core (``CoreApi.report_event``)."""
        self._report = report
        self._outpost_name = ""
        self._histograms: dict[tuple[str, Host | None, str], metrics.Gathered] = {}
        self._counters: dict[tuple[str, str], metrics.Tally] = {}
        self._told: dict[int, float] = {}
        self._events: set[asyncio.Task[None]] = set()

    @property
    def outpost_name(self) -> str:
        """The metric label of that name."""
        return self._outpost_name

    @outpost_name.setter
    def outpost_name(self, name: str) -> None:
        if name != self._outpost_name:
            self._outpost_name = name
            self._histograms.clear()

    def finished(
        self,
        request: AuthRequest,
        provider: ProxyProvider | None,
        outcome: str,
        status: int,
        took: float,
        *,
        kind: str = APP,
        check: Check | None = None,
        identity: Identity | None = None,
        forwarded: Forwarded | None = None,
    ) -> None:
        """A request was answered. ``outcome``: what became of it, in one word; ``took`` in seconds."""
        method = request.method if request.method in METHODS else OTHER
        place = provider.external.host if provider is not None else None
        histogram = self._histograms.get((method, place, kind))
        if histogram is None:
            host = str(place) if place is not None else ""
            histogram = metrics.Gathered(metrics.proxy_requests.labels(self._outpost_name, method, host, kind))
            self._histograms[method, place, kind] = histogram
        histogram.observe(took)
        name = provider.name if provider is not None else ""
        counter = self._counters.get((name, outcome))
        if counter is None:
            counter = self._counters[name, outcome] = metrics.Tally(metrics.proxy_answers.labels(name, outcome))
        counter.inc()
        if forwarded is not None and provider is not None and provider.upstream is not None:
            upstream = provider.upstream
            metrics.proxy_upstream_seconds.labels(
                self._outpost_name, method, upstream.scheme, str(place), str(upstream.host)
            ).observe(forwarded.head_s)
        if log.enabled("info" if kind == APP else "debug"):
            self._line(request, name, outcome, status, took, check, identity, forwarded)

    def _line(
        self,
        request: AuthRequest,
        provider: str,
        outcome: str,
        status: int,
        took: float,
        check: Check | None,
        identity: Identity | None,
        forwarded: Forwarded | None,
    ) -> None:
        headers = request.headers
        fields: dict[str, Any] = {
            "method": request.method,
            "host": headers.get("host", ""),
            "status": status,
            "result": outcome,
            "runtime-ms": round(took * 1000, 2),
            "remote": str(request.client or request.via.peer) if "x-forwarded-for" in headers else request.via.peer,
            "provider": provider,
            "user": user_of(identity) if identity is not None else "",
            "user_agent": headers.get("user-agent", "")[:MAX_AGENT],
        }
        if check is not None and check.dialect is not None:
            fields["asked"] = f"{check.url.origin}{check.url.path}"
        if forwarded is not None:
            fields["upstream"] = forwarded.origin
            fields["size"] = forwarded.sent
            if forwarded.cause is not None:
                fields["cause"], fields["detail"] = str(forwarded.cause), forwarded.detail
        if lines.add(request.target.partition("?")[0], fields):
            # Written at the end of this turn of the loop, with the lines of all requests that it serves.
            asyncio.get_running_loop().call_soon(lines.write)

    def misconfigured(self, verdict: Misconfigured, request: AuthRequest, now: float) -> None:
        """A web server does not say what the original URL is: the core's log says so, now and then."""
        provider = verdict.provider
        key = provider.pk if provider is not None else 0
        if now < self._told.get(key, now):
            return
        self._told[key] = now + EVENT_EVERY_S
        name = provider.name if provider is not None else ""
        log.warning("web server in front is not configured well", provider=name, problem=verdict.problem)
        context = {
            "message": f"The web server in front ({verdict.dialect.name}) is not configured well: {verdict.problem}",
            "outpost": self._outpost_name,
            "provider": name,
            "headers": sorted(request.headers),
        }
        client = request.client
        task = asyncio.get_running_loop().create_task(self._tell(context, str(client) if client else None))
        self._events.add(task)
        task.add_done_callback(self._events.discard)

    async def _tell(self, context: Mapping[str, Any], client_ip: str | None) -> None:
        try:
            await self._report("configuration_error", context, client_ip)
        except Exception as error:  # an event that cannot be told must not disturb anything
            log.debug("event not told", problem=type(error).__name__)

    async def close(self) -> None:
        """Give up what is being told."""
        for task in self._events:
            task.cancel()
        await asyncio.gather(*self._events, return_exceptions=True)


def user_of(identity: Identity) -> str:
    """The user's name in identity headers, "" if there is none."""
    _, _, rest = identity.block.partition(_USERNAME)
    return rest.partition(b"\r\n")[0].decode("utf-8", "replace")


def outcome_of(allow: Allow) -> str:
    """Why a request was allowed, for counters and log."""
    return f"allowed_{allow.why}"
