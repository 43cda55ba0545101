"""``outposts status``: what a daemon on this machine is doing, read from its metrics and health addresses.

It asks the unix socket in TMPDIR first, then the addresses of ``AUTHENTIK_LISTEN__METRICS``; ``--metrics`` names
another address.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from common import setting_values
from common.errors import OutpostError
from common.setting_values import ListenAddress
from common.settings import load
from outposts import healthcheck
from outposts.doctor_report import COLOURS, RESET, plain

TIMEOUT_S = 5.0  # metrics of several workers are gathered within one
MAX_ANSWER = 32 * 2**20  # bytes; a daemon with many applications has about one megabyte of metrics
EVERYWHERE = {"::": "::1", "0.0.0.0": "127.0.0.1"}  # whom to ask who listens on all addresses


class NobodyAnswers(OutpostError):
    """No daemon answers at any of the places asked."""


@dataclass(frozen=True)
class Sample:
    """One value of ``/metrics``."""

    labels: Mapping[str, str]
    value: float


Samples = Mapping[str, list[Sample]]


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


def main(arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> int:
    """Print what a daemon is doing. 0: it is ready, 1: it is not, or nobody answers, 2: bad usage or settings."""
    parser = argparse.ArgumentParser(
        prog="outposts status",
        description="Shows the daemon that runs on this machine (same TMPDIR, else AUTHENTIK_LISTEN__METRICS). Exit "
        "code 0: it is ready; 1: it is not, or nobody answers; 2: bad usage.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--metrics", metavar="HOST:PORT", help="ask this metrics address instead")
    try:
        options = parser.parse_args(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    variables = os.environ if environ is None else environ
    try:
        places = _places(variables, options.metrics)
    except (OutpostError, ValueError) as error:
        sys.stderr.write(f"outposts status: {error}\n")
        return 2
    try:
        where, health, samples = ask(places)
    except NobodyAnswers as error:
        sys.stderr.write(f"outposts status: {error}\n")
        return 1
    status = gather(health, samples, time.time())
    if options.json:
        sys.stdout.write(json.dumps(status, indent=2, ensure_ascii=False) + "\n")
    else:
        colour = sys.stdout.isatty() and not variables.get("NO_COLOR")
        sys.stdout.write(f"asked {where}\n" + as_text(status, colour=colour))
    return 0 if status["ready"] else 1


def _places(variables: Mapping[str, str], wanted: str | None) -> list[str | ListenAddress]:
    """Where to ask, in this order: a path is a unix socket."""
    if wanted is not None:
        found: tuple[ListenAddress, ...] = setting_values.LISTEN_LIST.parse(wanted)
        return list(found)
    settings = load(variables, need_core=False)
    places: list[str | ListenAddress] = [os.path.join(settings.tmpdir, healthcheck.SOCKET_NAME)]
    return places + [address for address in settings.listen_metrics if address.port]


def ask(places: Sequence[str | ListenAddress]) -> tuple[str, dict[str, Any], Samples]:
    """The first place that answers, its readiness and its metrics. Raises ``NobodyAnswers``."""
    problems = []
    for place in places:
        try:
            health = json.loads(_get(place, "/readyz"))
            if not isinstance(health, dict) or "ready" not in health:
                raise ValueError("not a daemon of ours")
            return str(place), health, parse(_get(place, "/metrics").decode())
        except OSError as error:
            problems.append(f"{place}: {error.strerror or 'no answer'}")
        except (ValueError, http.client.HTTPException):
            problems.append(f"{place}: something else answers")
    raise NobodyAnswers(f"no daemon answers ({'; '.join(problems)}); use the daemon's TMPDIR, or --metrics HOST:PORT")


def _get(place: str | ListenAddress, path: str) -> bytes:
    connection: http.client.HTTPConnection
    if isinstance(place, str):
        connection = _UnixConnection(place)
    else:
        connection = http.client.HTTPConnection(EVERYWHERE.get(place.host, place.host), place.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        body = connection.getresponse().read(MAX_ANSWER + 1)
    finally:
        connection.close()
    if len(body) > MAX_ANSWER:
        raise ValueError("too long")
    return body


def parse(text: str) -> Samples:
    """Metrics by name. Raises ``ValueError``."""
    found: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(Sample(sample.labels, float(sample.value)))
    return found


def gather(health: Mapping[str, Any], samples: Samples, now: float) -> dict[str, Any]:
    """What there is to show, for programs; what a daemon does not have is left out. Times in seconds."""

    def one(name: str) -> float | None:
        values = samples.get(name)
        return values[0].value if values else None

    def total(name: str) -> float:
        return sum(sample.value for sample in samples.get(name, ()))

    def by(name: str, label: str) -> dict[str, float]:
        return {sample.labels.get(label, ""): sample.value for sample in samples.get(name, ())}

    info = samples.get("authentik_outpost_info")
    labels = info[0].labels if info else {}
    updated = one("authentik_outpost_last_update")
    started = one("process_start_time_seconds")
    link = one("authentik_outpost_connection")
    directories: dict[str, dict[str, float | None]] = {}
    for key, name in DIRECTORY.items():
        for app, value in by(name, "app").items():
            directories.setdefault(app, dict.fromkeys(DIRECTORY, 0.0) | {"age_s": None})[key] = (
                _known(value) if key == "age_s" else value
            )
    status: dict[str, Any] = {
        "ready": health["ready"] is True,
        "reasons": [str(reason) for reason in health.get("reasons") or ()],
        "last_error": str(health.get("last_error", "")),
        "outpost": labels.get("outpost_name", ""),
        "type": labels.get("outpost_type", ""),
        "version": labels.get("version", ""),
        "instance": labels.get("uuid", ""),
        "uptime_s": None if started is None else max(0.0, now - started),
        "memory_bytes": one("process_resident_memory_bytes"),
        "link": None if link is None else link == 1.0,
        "link_openings": total("outposts_websocket_connects_total"),
        "providers": one("outposts_providers"),
        "providers_skipped": one("outposts_providers_skipped"),
        "configuration_age_s": _known(one("outposts_configuration_age_seconds")),
        "last_update": updated,
        "refresh_errors": by("outposts_refresh_errors_total", "reason"),
        "certificates": by("outposts_certificate_expiry_seconds", "certificate"),
        "directories": directories,
        "connections": by("outposts_connections", "listener"),
        "counts": {key: total(name) for key, name in COUNTS.items() if name in samples},
        "flow_calls": total("authentik_outpost_flow_timing_get_seconds_count")
        + total("authentik_outpost_flow_timing_post_seconds_count"),
        "rejected": {
            f"{kind} {reason}": value for (kind, reason), value in sorted(_rejected(samples).items()) if value
        },
    }
    if isinstance(health.get("workers"), dict):
        status["workers"] = health["workers"]
    return status


DIRECTORY = {
    "entries": "outposts_snapshot_entries",
    "age_s": "outposts_snapshot_age_seconds",
    "errors": "outposts_snapshot_errors_total",
    "skipped": "outposts_snapshot_skipped_objects",
    "gid_collisions": "outposts_gid_collisions",
    "uid_collisions": "outposts_uid_collisions",
}
COUNTS = {
    "remembered binds": "outposts_bind_cache_entries",
    "searches that follow changes": "outposts_followers",
    "RADIUS requests in progress": "authentik_outpost_radius_inflight",
    "EAP conversations": "authentik_outpost_radius_eap_sessions",
    "RADIUS logins that wait for an answer": "outposts_radius_challenges",
    "accounting sessions": "outposts_radius_sessions",
    "RADIUS settings that cannot be used": "authentik_outpost_radius_config_errors",
    "proxy sessions in memory": "outposts_proxy_sessions_in_memory",
    "proxy connections": "outposts_proxy_connections",
    "proxy settings that cannot be used": "outposts_proxy_config_errors",
    "worker restarts": "outposts_worker_restarts_total",
}
REJECTED = {
    "ldap": "authentik_outpost_ldap_requests_rejected_total",
    "radius": "authentik_outpost_radius_requests_rejected_total",
    "radius silence": "authentik_outpost_radius_dropped_total",
}


def _rejected(samples: Samples) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for kind, name in REJECTED.items():
        for sample in samples.get(name, ()):
            key = (kind, sample.labels.get("reason", ""))
            found[key] = found.get(key, 0.0) + sample.value
    return found


def _known(age: float | None) -> float | None:
    """An age; None for what has never been (negative or infinite)."""
    return age if age is not None and 0 <= age < float("inf") else None


def as_text(status: Mapping[str, Any], *, colour: bool) -> str:
    """The same for people, one subject per line."""
    state = "ready" if status["ready"] else "not ready"
    if colour:
        state = COLOURS["ok" if status["ready"] else "fail"] + state + RESET
    rows: list[tuple[str, str]] = [("state", state)]
    rows += [("", plain(reason)) for reason in status["reasons"]]
    name, kind = status["outpost"], status["type"]
    rows.append(("outpost", f"{plain(name)} ({kind})" if name else "not known yet"))
    version = status["version"]
    facts = [version] if version else []
    if status["uptime_s"] is not None:
        facts.append(f"up {duration(status['uptime_s'])}")
    if status["memory_bytes"] is not None:
        facts.append(f"{status['memory_bytes'] / 2**20:.0f} MiB")
    rows.append(("daemon", ", ".join(facts)))
    link = {True: "open", False: "closed", None: "not opened yet"}[status["link"]]
    rows.append(("link", f"{link}, opened {status['link_openings']:.0f} times"))
    skipped = status["providers_skipped"]
    rows.append(("providers", f"{status['providers'] or 0:.0f}" + (f", {skipped:.0f} left out" if skipped else "")))
    age = status["configuration_age_s"]
    rows.append(("configuration", "none yet" if age is None else f"read {duration(age)} ago"))
    if status["last_error"]:
        rows.append(("last error", plain(status["last_error"])))
    for reason, count in status["refresh_errors"].items():
        rows.append(("refresh errors", f"{plain(reason)}: {count:.0f}"))
    for certificate, left_s in status["certificates"].items():
        end = f"ends in {duration(left_s)}" if left_s >= 0 else f"ended {duration(-left_s)} ago"
        rows.append(("certificate", f"{plain(certificate)}: {end}"))
    for app, directory in status["directories"].items():
        rows.append(("directory", f"{plain(app)}: {_directory(directory)}"))
    if status["connections"]:
        open_ones = ", ".join(f"{plain(where)} {count:.0f}" for where, count in status["connections"].items())
        rows.append(("connections", open_ones))
    rows += [("count", f"{name}: {count:.0f}") for name, count in status["counts"].items() if count]
    rows.append(("core calls", f"{status['flow_calls']:.0f} steps of flows"))
    rows += [("rejected", f"{plain(reason)}: {count:.0f}") for reason, count in status["rejected"].items()]
    workers = status.get("workers")
    if workers:
        rows.append(("workers", f"{workers.get('listening', 0)} of {workers.get('wanted', 0)} listen"))
        rows += [("", plain(str(problem))) for problem in workers.get("problems") or ()]
    width = max(len(name) for name, _ in rows)
    return "".join(f"{name:<{width}}  {text}\n" for name, text in rows)


def _directory(directory: Mapping[str, float | None]) -> str:
    age = directory["age_s"]
    parts = [f"{directory['entries']:.0f} entries", "not read yet" if age is None else f"read {duration(age)} ago"]
    for key, words in (
        ("errors", "failed refreshes"),
        ("skipped", "objects left out"),
        ("gid_collisions", "groups share a gidNumber"),
        ("uid_collisions", "users share a uidNumber"),
    ):
        if directory[key]:
            parts.append(f"{directory[key]:.0f} {words}")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as people say it, in at most two units."""
    if not seconds < float("inf"):
        return "never"
    left = int(seconds)
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for place, (name, size) in enumerate(units):
        if left >= size or name == "s":
            text = f"{left // size} {name}"
            if place + 1 < len(units) and (rest := left % size // units[place + 1][1]):
                text += f" {rest} {units[place + 1][0]}"
            return text
    return "0 s"
