"""Cached search mode: lists all users and groups, builds the snapshots of all cached providers from one listing.

Listing is input and output on the loop, building is a computation in a thread; searches meanwhile are answered from the
old snapshots. Nothing is replaced unless the whole listing succeeded.

A listing also shows what the core sends no event for: whose password changed, who was deactivated or deleted. Such
users are named in ``Loaded``, so that cached binds and connections of theirs can be ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from common import logs, metrics
from outposts.ldap.builder import SnapshotBuilder
from outposts.ldap.direct import GROUP_PARAMETERS, USER_PARAMETERS, Parameters
from outposts.ldap.directory import Snapshot
from outposts.ldap.providers import ProviderSettings
from outposts.ldap.routing import report_objects

log = logs.get_logger("ldap.refresh")


class Listings(Protocol):
    """What a refresh needs of ``common.api.CoreApi``."""

    async def users(self, params: Parameters, page_size: int) -> list[msgspec.Raw]:
        """All users, undecoded. Raises ``CoreError``."""

    async def groups(self, params: Parameters, page_size: int) -> list[msgspec.Raw]:
        """All groups, undecoded. Raises ``CoreError``."""


class _UserState(msgspec.Struct):
    """The part of a user that decides whether a login from before still counts."""

    pk: int
    is_active: bool = True
    password_change_date: str | None = None


@dataclass(frozen=True)
class UserStates:
    """Of each user by pk: a number that changes with the password, and whether the user is active."""

    password: Mapping[int, int] = field(default_factory=dict)
    inactive: frozenset[int] = frozenset()

    def changed(self, newer: UserStates) -> frozenset[int]:
        """Users whose password changed, or who were deactivated or deleted."""
        return self.gone(newer) | {pk for pk, mark in self.password.items() if newer.password.get(pk, mark) != mark}

    def gone(self, newer: UserStates) -> frozenset[int]:
        """Users who were deactivated or deleted."""
        deleted = self.password.keys() - newer.password.keys()
        return frozenset(deleted | (newer.inactive - self.inactive))


@dataclass(frozen=True)
class Loaded:
    """The outcome of a load: snapshots by provider pk, and the users as they are now."""

    snapshots: Mapping[int, Snapshot]
    states: UserStates


async def load(
    api: Listings,
    providers: Sequence[ProviderSettings],
    previous: Mapping[int, Snapshot],
    page_size: int,
) -> Loaded:
    """List everything and build a snapshot for each provider. Raises ``CoreError`` if the listing failed."""
    started = time.perf_counter()
    users, groups = await asyncio.gather(api.users(USER_PARAMETERS, page_size), api.groups(GROUP_PARAMETERS, page_size))
    listed = time.perf_counter()
    loaded = await asyncio.to_thread(_build, providers, previous, users, groups)
    took = time.perf_counter() - started
    for provider in providers:
        snapshot = loaded.snapshots.get(provider.pk)
        if snapshot is not None:
            _report(provider, snapshot, took)
    log.info(
        "directory loaded",
        users=len(users),
        groups=len(groups),
        providers=len(loaded.snapshots),
        list_s=round(listed - started, 3),
        build_s=round(time.perf_counter() - listed, 3),
    )
    return loaded


def _build(
    providers: Sequence[ProviderSettings],
    previous: Mapping[int, Snapshot],
    users: Sequence[msgspec.Raw],
    groups: Sequence[msgspec.Raw],
) -> Loaded:
    """In a thread: one snapshot per provider; a provider whose building breaks down keeps what it has."""
    snapshots = {}
    for provider in providers:
        try:
            builder = SnapshotBuilder(provider.options, previous.get(provider.pk))
            builder.add_groups(groups)
            builder.add_users(users)
            snapshots[provider.pk] = builder.finish()
        except Exception:
            log.exception("snapshot not built", provider=provider.name)
            metrics.snapshot_errors.labels(provider.application_slug).inc()
    return Loaded(snapshots, states_of(users))


def states_of(users: Sequence[msgspec.Raw]) -> UserStates:
    """The states of listed users; one that cannot be decoded counts as gone, so its logins end."""
    password: dict[int, int] = {}
    inactive: set[int] = set()
    decoder = msgspec.json.Decoder(_UserState)
    for raw in users:
        try:
            state = decoder.decode(raw)
        except msgspec.MsgspecError:
            continue
        password[state.pk] = hash(state.password_change_date)
        if not state.is_active:
            inactive.add(state.pk)
    return UserStates(password, frozenset(inactive))


def _report(provider: ProviderSettings, snapshot: Snapshot, seconds: float) -> None:
    app = provider.application_slug
    report = snapshot.report
    metrics.snapshot_entries.labels(app).set(len(snapshot))
    metrics.snapshot_skipped.labels(app).set(report.error_count)
    metrics.gid_collisions.labels(app).set(len(report.gid_collisions))
    metrics.snapshot_seconds.labels(app).observe(seconds)
    report_objects(provider, snapshot)
    if report.gid_collisions:
        log.warning(
            "groups share a gidNumber; give one of them the attribute gidNumber, or set gid to hash",
            provider=provider.name,
            count=len(report.gid_collisions),
            first=[f"{number}: {', '.join(names)}" for number, names in report.gid_collisions[:5]],
        )
