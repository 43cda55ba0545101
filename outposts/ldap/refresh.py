"""Cached search mode: lists all users and groups, builds the snapshots of all cached providers from one listing.

Nothing is replaced unless the whole listing succeeded; searches meanwhile are answered from the old snapshots. What
loads is a ``Loader``: usually ``loading.ProcessLoader``, which has a process of its own do the work. ``ThreadLoader``
here lists on the loop and builds in a thread, for where no process can be started.

A listing also shows what the core sends no event for: whose password changed, who was deactivated or deleted. Such
users are named in ``Loaded``, so that cached binds and connections of theirs can be ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from common import logs, metrics
from common.published import Area
from common.sealed import SealedFile
from outposts.ldap.contents import Contents
from outposts.ldap.direct import GROUP_PARAMETERS, USER_PARAMETERS, Parameters
from outposts.ldap.directory import Snapshot
from outposts.ldap.providers import ProviderSettings
from outposts.ldap.rebuild import Changes, Rebuild, Target, write_contents
from outposts.ldap.routing import report_objects
from outposts.ldap.user_states import UserStates, states_of

log = logs.get_logger("ldap.refresh")


class Listings(Protocol):
    """What a refresh needs of ``common.api.CoreApi``."""

    async def users(self, params: Parameters, page_size: int) -> list[msgspec.Raw]:
        """All users, undecoded. Raises ``CoreError``."""

    async def groups(self, params: Parameters, page_size: int) -> list[msgspec.Raw]:
        """All groups, undecoded. Raises ``CoreError``."""


@dataclass(frozen=True)
class Loaded:
    """The outcome of a load. A provider without a snapshot keeps what it has.

    ``changed``: users whose password changed, or who were deactivated or deleted; ``gone``: only the latter.
    """

    snapshots: Mapping[int, Snapshot]
    states: UserStates = field(default_factory=UserStates)
    changed: Sequence[int] = ()
    gone: Sequence[int] = ()


class Loader(Protocol):
    """Lists everything and builds."""

    async def load(
        self, providers: Sequence[ProviderSettings], previous: Mapping[int, Snapshot], before: UserStates
    ) -> Loaded:
        """Directories of these providers, sealed into their state files too.

        ``previous``: what is served, by provider pk; ``before``: ``states`` of the load before. Raises ``CoreError`` if
        the listing failed, another ``OutpostError`` if the building did.
        """


class ThreadLoader:
    """Loads in this process: lists on the loop, builds in a thread."""

    def __init__(
        self, api: Listings, page_size: int, folder: str, state_file: Callable[[int], SealedFile | None]
    ) -> None:
        self._api = api
        self._page_size = page_size
        self._folder = folder
        self._state_file = state_file
        self._in_state_file: set[int] = set()

    async def load(
        self, providers: Sequence[ProviderSettings], previous: Mapping[int, Snapshot], before: UserStates
    ) -> Loaded:
        """See ``Loader``."""
        started = time.perf_counter()
        users, groups = await asyncio.gather(
            self._api.users(USER_PARAMETERS, self._page_size), self._api.groups(GROUP_PARAMETERS, self._page_size)
        )
        return await asyncio.to_thread(self._build, providers, previous, before, users, groups, started)

    def _build(
        self, providers: Sequence[ProviderSettings], previous: Mapping[int, Snapshot], before: UserStates,
        users: Sequence[msgspec.Raw], groups: Sequence[msgspec.Raw], started: float,
    ) -> Loaded:  # fmt: skip
        """In a thread."""
        rebuild = Rebuild([Target(one.pk, one.name, one.options, previous.get(one.pk)) for one in providers], before)
        rebuild.add_groups(groups)
        rebuild.add_users(users)
        snapshots = {}

        def write(target: Target, contents: Contents) -> None:
            snapshots[target.pk] = self._published(contents)

        for outcome in rebuild.finish(write, self._state_file, list(self._in_state_file)):
            if outcome.unchanged:
                snapshots[outcome.pk] = previous[outcome.pk]
            (self._in_state_file.add if outcome.sealed else self._in_state_file.discard)(outcome.pk)
        by_pk = {provider.pk: provider for provider in providers}
        report_loaded(by_pk, snapshots, len(users), len(groups), time.perf_counter() - started, rebuild.cpu_s)
        return told(snapshots, rebuild.changes())

    def _published(self, contents: Contents) -> Snapshot:
        """In a memory file, so that what building took can be given back; without one, as it was built."""
        with ExitStack() as stack:
            try:
                area = Area(self._folder, "directory")
                stack.callback(area.close)
                write_contents(area.fd, contents)
                return Snapshot.from_publication(area.publish())
            except OSError as error:
                log.warning("no memory file for a directory", problem=error.strerror)
                return Snapshot(contents)


def told(snapshots: Mapping[int, Snapshot], changes: Changes | None) -> Loaded:
    """The outcome of a rebuild as the service wants it."""
    changes = changes or Changes(UserStates())
    return Loaded(snapshots, changes.states, changes.changed, changes.gone)


def report_loaded(
    providers: Mapping[int, ProviderSettings], snapshots: Mapping[int, Snapshot], users: int, groups: int,
    seconds: float, build_cpu_s: float,
) -> None:  # fmt: skip
    """Metrics and log of a load that took so many seconds, and so much processor time without reading the lists."""
    for pk, provider in providers.items():
        if pk in snapshots:
            _report(provider, snapshots[pk], seconds)
        else:
            metrics.snapshot_errors.labels(provider.application_slug).inc()
    metrics.snapshot_cpu.set(build_cpu_s)
    log.info(
        "directory loaded",
        users=users,
        groups=groups,
        providers=len(snapshots),
        seconds=round(seconds, 3),
        build_cpu_s=round(build_cpu_s, 3),
    )


def _report(provider: ProviderSettings, snapshot: Snapshot, seconds: float) -> None:
    app = provider.application_slug
    report = snapshot.report
    metrics.snapshot_entries.labels(app).set(len(snapshot))
    metrics.snapshot_skipped.labels(app).set(report.error_count)
    metrics.gid_collisions.labels(app).set(len(report.gid_collisions))
    metrics.uid_collisions.labels(app).set(len(report.uid_collisions))
    metrics.snapshot_seconds.labels(app).observe(seconds)
    report_objects(provider, snapshot)
    if report.gid_collisions:
        log.warning(
            "groups share a gidNumber; give one of them the attribute gidNumber, or set gid to hash",
            provider=provider.name,
            count=len(report.gid_collisions),
            first=_first(report.gid_collisions),
        )
    if report.uid_collisions:
        log.warning(
            "users share a uidNumber; give each an attribute uidNumber of its own, or none",
            provider=provider.name,
            count=len(report.uid_collisions),
            first=_first(report.uid_collisions),
        )


def _first(shared: tuple[tuple[str, tuple[str, ...]], ...]) -> list[str]:
    return [f"{number}: {', '.join(names[:5])}" for number, names in shared[:5]]


__all__ = ["Listings", "Loaded", "Loader", "ThreadLoader", "UserStates", "report_loaded", "states_of", "told"]
