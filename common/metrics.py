"""Every metric, defined once. Names, types and labels that start with ``authentik_`` are those of the core's own
outposts (core-contract §8.3, ldap §6), so dashboards and alerts keep working; ours start with ``outposts_``.

Objects live for the process. No label and no value holds a user name, an address or a secret. ``METRICS`` lists all of
them for the documentation; ``text()`` is what ``/metrics`` answers.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Mapping
from typing import Any, ClassVar
from weakref import WeakSet

from prometheus_client import (
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

disable_created_metrics()  # type: ignore[no-untyped-call]  # the core's own outposts have no "_created" series

GATHERED = 1024  # values of one histogram that wait to be counted: 8 KiB, counted within 0.2 ms


class _Waiting:
    """What is to be told to a metric later: whoever collects the metrics sees all of it."""

    _all: ClassVar[WeakSet[_Waiting]] = WeakSet()

    def __init__(self) -> None:
        self._all.add(self)

    def __del__(self) -> None:
        self.count()

    def count(self) -> None:
        """Tell the metric what was gathered."""
        raise NotImplementedError

    @classmethod
    def count_all(cls) -> None:
        """Tell all metrics."""
        for gathered in list(cls._all):
            gathered.count()


class Gathered(_Waiting):
    """One histogram (with its labels) for what happens many thousand times a second: counts values many at once.

    A histogram takes two locks and a walk over its buckets per value. To be told values from one thread only.
    """

    def __init__(self, histogram: Histogram) -> None:
        self._histogram: Any = histogram  # its parts are looked at below
        self._waiting: list[float] = []
        super().__init__()

    def observe(self, value: float) -> None:
        """As the histogram's own."""
        waiting = self._waiting
        waiting.append(value)
        if len(waiting) >= GATHERED:
            self.count()

    def count(self) -> None:
        """Tell the histogram what was gathered."""
        values, self._waiting = self._waiting, []
        if not values:
            return
        bounds = self._histogram._upper_bounds
        places = Counts(bisect_left(bounds, value) for value in values)
        for place, times in places.items():
            self._histogram._buckets[place].inc(times)
        self._histogram._sum.inc(math.fsum(values))


class Tally(_Waiting):
    """The same for one counter (with its labels), which takes a lock each time."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._times = 0
        super().__init__()

    def inc(self) -> None:
        """As the counter's own."""
        self._times += 1

    def count(self) -> None:
        """Tell the counter what was gathered."""
        times, self._times = self._times, 0
        if times:
            self._counter.inc(times)


class _Before:
    """Stands first in the registry: whoever collects it, in whatever way, first has everything counted."""

    def describe(self) -> list[Any]:
        """Nothing."""
        return []

    def collect(self) -> list[Any]:
        """Nothing."""
        _Waiting.count_all()
        return []


REGISTRY.register(_Before())

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# What the core's own outposts have.
INFO_LABELS = ("outpost_name", "outpost_type", "uuid", "version", "build")

info = Gauge("authentik_outpost_info", "This outpost; always 1.", INFO_LABELS)
last_update = Gauge("authentik_outpost_last_update", "Unix time of the last good refresh.", INFO_LABELS)
connection = Gauge(
    "authentik_outpost_connection",
    "Whether the WebSocket to the core is open: 1 or 0.",
    ("outpost_name", "outpost_type", "uuid"),
)
flow_get = Histogram(
    "authentik_outpost_flow_timing_get_seconds",
    "Time of a challenge fetched with GET, by the component received.",
    ("stage", "flow"),
)
flow_post = Histogram(
    "authentik_outpost_flow_timing_post_seconds",
    "Time of an answer sent with POST, by the component received.",
    ("stage", "flow"),
)
ldap_requests = Histogram(
    "authentik_outpost_ldap_request_duration_seconds",
    "Time of an LDAP request.",
    ("outpost_name", "type", "app"),
)
ldap_rejected = Counter(
    "authentik_outpost_ldap_requests_rejected_total",
    "LDAP requests that were refused, by reason.",
    ("outpost_name", "type", "reason", "app"),
)

# Ours: the link to the core.
refresh_seconds = Histogram(
    "outposts_refresh_duration_seconds",
    "Time of a refresh of outpost, providers and certificates.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
refresh_errors = Counter(
    "outposts_refresh_errors_total",
    "Refreshes that failed; the last good data stay in service. reason: unavailable, outpost_vanished and so on.",
    ("reason",),
)
provider_skipped = Gauge("outposts_providers_skipped", "Providers left out because their record cannot be used.")
providers = Gauge("outposts_providers", "Providers in service.")
configuration_age = Gauge("outposts_configuration_age_seconds", "Age of the configuration in service.")
certificate_expiry = Gauge(
    "outposts_certificate_expiry_seconds",
    "Seconds until a provider's certificate ends; negative when it has.",
    ("certificate",),
)
link_reconnects = Counter("outposts_websocket_connects_total", "Openings of the WebSocket to the core.")
session_ends = Counter("outposts_session_ends_total", "Session ends heard from the core.")
# Ours: the listeners.
connections = Gauge("outposts_connections", "Open client connections.", ("listener",))
connections_refused = Counter(
    "outposts_connections_refused_total", "Client connections closed at once.", ("listener", "reason")
)
connections_cut = Counter(
    "outposts_connections_cut_total",
    "Client connections ended for being slow or silent. reason: handshake, opening, message, reading, idle.",
    ("reason",),
)
protocol_errors = Counter(
    "outposts_protocol_errors_total", "Messages that broke the protocol; their connection was closed.", ("listener",)
)

# Ours: the directory and its caches.
snapshot_age = Gauge("outposts_snapshot_age_seconds", "Age of the directory snapshot in service.", ("app",))
snapshot_entries = Gauge("outposts_snapshot_entries", "Entries of the directory snapshot in service.", ("app",))
snapshot_errors = Counter("outposts_snapshot_errors_total", "Refreshes of a directory that failed.", ("app",))
snapshot_cpu = Gauge(
    "outposts_snapshot_cpu_seconds", "Processor time of the last directory refresh, without reading the lists."
)
snapshot_seconds = Histogram(
    "outposts_snapshot_duration_seconds",
    "Time of a directory refresh, listing and building.",
    ("app",),
    buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)
snapshot_skipped = Gauge("outposts_snapshot_skipped_objects", "Users and groups that could not be mapped.", ("app",))
gid_collisions = Gauge("outposts_gid_collisions", "Groups that share a gidNumber with another entry.", ("app",))
uid_collisions = Gauge("outposts_uid_collisions", "Values of uidNumber that several users share.", ("app",))
followers = Gauge("outposts_followers", "Searches that wait for changes of a directory.")
bind_cache_entries = Gauge("outposts_bind_cache_entries", "Successful binds that are remembered.")
bind_cache_lookups = Counter(
    "outposts_bind_cache_lookups_total",
    "Look-ups in the bind cache. result: hit, miss, offline (a hit after its end, core away).",
    ("result",),
)
bind_throttled = Counter(
    "outposts_bind_throttled_total",
    "Binds that met a limit on failures. kind: account (at its address, busy), address (busy), delayed.",
    ("kind",),
)

# Ours: RADIUS accounting, disconnecting, RadSec.
radius_requests_seconds = Histogram(
    "authentik_outpost_radius_request_duration_seconds",
    "Time of a RADIUS request, from its arrival to its reply or to silence.",
    ("outpost_name", "app"),
)
radius_rejected = Counter(
    "authentik_outpost_radius_requests_rejected_total",
    "Access-Rejects, by reason.",
    ("outpost_name", "reason", "app"),
)
radius_requests = Counter(
    "authentik_outpost_radius_requests_total",
    "RADIUS requests that were taken. code: of the request; result: accept, reject, challenge, response, silence.",
    ("outpost_name", "app", "code", "result"),
)
radius_dropped = Counter(
    "authentik_outpost_radius_dropped_total",
    "RADIUS packets that got no reply, by reason.",
    ("outpost_name", "reason"),
)
radius_duplicates = Counter(
    "authentik_outpost_radius_duplicates_total",
    "Copies of a recent packet: answered with the same octets again, or dropped while the first is being worked on.",
)
radius_inflight = Gauge("authentik_outpost_radius_inflight", "RADIUS requests in progress.")
radius_eap_sessions = Gauge(
    "authentik_outpost_radius_eap_sessions", "EAP conversations that wait for their next packet."
)
radius_eap_memory = Gauge(
    "outposts_radius_eap_memory_bytes", "About what those hold in memory; x_radius_eap_memory is the limit."
)
radius_challenges = Gauge("outposts_radius_challenges", "Logins that wait for a person's answer to Access-Challenge.")
radius_unsigned = Counter(
    "authentik_outpost_radius_without_message_authenticator_total",
    "Access-Requests that were taken without Message-Authenticator.",
)
proxy_requests = Histogram(
    "authentik_outpost_proxy_request_duration_seconds",
    "Time of a request; `host` is the external host of the provider, `type` is app, ping or static.",
    ("outpost_name", "method", "host", "type"),
)
proxy_upstream_seconds = Histogram(
    "authentik_outpost_proxy_upstream_response_duration_seconds",
    "Time until an application had answered; `host` is the external host of the provider.",
    ("outpost_name", "method", "scheme", "host", "upstream_host"),
)
proxy_answers = Counter(
    "outposts_proxy_answers_total",
    "Answers by what became of the request: allowed, login, unauthorized, forbidden and so on.",
    ("provider", "outcome"),
)
proxy_connections = Gauge("outposts_proxy_connections", "Open connections of clients.")
proxy_sessions = Gauge("outposts_proxy_sessions_in_memory", "Sessions that are ready-made in memory.")
proxy_config_errors = Gauge(
    "outposts_proxy_config_errors",
    "What cannot be used of the proxy providers' records and settings, at the last refresh.",
)
radius_config_errors = Gauge(
    "authentik_outpost_radius_config_errors",
    "What cannot be used of the RADIUS providers' records (networks, secrets, certificates), at the last refresh.",
)
radius_mapping_errors = Counter(
    "outposts_radius_mapping_errors_total",
    "Logins that passed and for which the core could not make reply attributes.",
    ("app",),
)
radius_throttled = Counter(
    "outposts_radius_throttled_total",
    "Logins that met a limit on failures. kind: account (at its client), nas, delayed.",
    ("kind",),
)
radius_forwarded = Counter(
    "outposts_radius_forwarded_total", "Packets of a conversation that another worker holds, passed on to it."
)
radius_accounting_reports = Counter(
    "outposts_radius_accounting_requests_total",
    "Accounting requests recorded. status: start, stop, interim_update, accounting_on, accounting_off and so on.",
    ("app", "status"),
)
radius_accounting_octets = Counter(
    "outposts_radius_accounting_octets_total",
    "Octets that sessions are reported to have moved. direction, as the client sees it: in (from the user), out.",
    ("app", "direction"),
)
radius_accounting_failures = Counter(
    "outposts_radius_accounting_failures_total",
    "Reports that came to nothing. reason: not_recorded (not answered), no_status, event (not written by the core).",
    ("reason",),
)
radius_sessions = Gauge("outposts_radius_sessions", "Open sessions, as accounting says.")
radius_sessions_lost = Counter(
    "outposts_radius_sessions_lost_total",
    "Sessions given up without a Stop. reason: stale (not heard of), room (too many).",
    ("reason",),
)
radius_logins_remembered = Gauge("outposts_radius_logins_remembered", "Logins that can still be disconnected.")
radius_disconnects = Counter(
    "outposts_radius_disconnects_total",
    "Disconnect and CoA requests that were sent. result: ack, not_found, nak, no_answer, unreachable, dropped.",
    ("result",),
)
radsec_closed = Counter(
    "outposts_radsec_connections_closed_total",
    "RadSec connections that we ended. reason: unknown_client, bad_length, bad_attribute, bad_authenticator and so on.",
    ("reason",),
)

# Ours: several workers.
workers_listening = Gauge("outposts_workers_listening", "Worker processes that listen; 0 in a daemon of one process.")
worker_restarts = Counter("outposts_worker_restarts_total", "Worker processes that ended and were replaced.")

# What a gauge of a daemon with several workers shows: the sum over all processes, the greatest value, or what the
# supervisor says. Counters and histograms are always added up. The last four come from prometheus_client itself.
SUM, GREATEST, SUPERVISOR = "sum", "greatest", "supervisor"
GAUGE_RULES: Mapping[str, str] = {
    "authentik_outpost_info": SUPERVISOR,
    "authentik_outpost_last_update": SUPERVISOR,
    "authentik_outpost_connection": SUPERVISOR,
    "outposts_providers_skipped": SUPERVISOR,
    "outposts_providers": SUPERVISOR,
    "outposts_configuration_age_seconds": SUPERVISOR,
    "outposts_certificate_expiry_seconds": SUPERVISOR,
    "outposts_connections": SUM,
    "outposts_snapshot_age_seconds": GREATEST,
    "outposts_snapshot_entries": SUPERVISOR,
    "outposts_snapshot_skipped_objects": SUPERVISOR,
    "outposts_snapshot_cpu_seconds": SUPERVISOR,
    "outposts_gid_collisions": SUPERVISOR,
    "outposts_uid_collisions": SUPERVISOR,
    "outposts_followers": SUM,
    "outposts_bind_cache_entries": SUM,
    "authentik_outpost_radius_inflight": SUM,
    "authentik_outpost_radius_eap_sessions": SUM,
    "outposts_radius_eap_memory_bytes": SUM,
    "outposts_radius_challenges": SUM,
    "authentik_outpost_radius_config_errors": SUPERVISOR,
    "outposts_proxy_config_errors": SUPERVISOR,
    "outposts_proxy_connections": SUM,
    "outposts_proxy_sessions_in_memory": SUM,
    "outposts_radius_sessions": SUM,
    "outposts_radius_logins_remembered": SUM,
    "outposts_workers_listening": SUPERVISOR,
    "process_resident_memory_bytes": SUM,  # pages that workers share count for each of them
    "process_virtual_memory_bytes": SUM,
    "process_open_fds": SUM,
    "process_start_time_seconds": SUPERVISOR,
}

METRICS: tuple[Any, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Gauge | Counter | Histogram)
)


def name_of(metric: Any) -> str:
    """The name as ``/metrics`` shows it."""
    suffix = "_total" if isinstance(metric, Counter) else ""
    return f"{metric._name}{suffix}"


def markdown() -> str:
    """The page ``docs/metrics.md``, written from the objects above."""
    lines = [
        "# Metrics",
        "",
        "Written from `common/metrics.py` by `outposts docs`; a test compares them. Every daemon answers `/metrics` on",
        "`AUTHENTIK_LISTEN__METRICS` and on the unix socket `$TMPDIR/authentik-metrics.sock`. Names that start with",
        "`authentik_` are those of the core's own outposts. No label holds a user name, an address or a secret.",
        "",
        "| metric | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric._labelnames) or "–"
        lines.append(f"| `{name_of(metric)}` | {metric._type} | {labels} | {metric._documentation} |")
    return "\n".join(lines) + "\n"


def text(registry: Any = REGISTRY) -> bytes:
    """All metrics in Prometheus' text format. ``registry``: anything with ``collect()``."""
    return generate_latest(registry)
