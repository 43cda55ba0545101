"""``outposts doctor --directory``: the directory that an LDAP daemon would make: entries, shared numbers, left-outs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from common.api import CoreApi
from common.errors import CoreError, CoreForbidden
from common.settings import Settings
from outposts.doctor_report import Report
from outposts.ldap.contents import BuildReport
from outposts.ldap.direct import GROUP_PARAMETERS, USER_PARAMETERS
from outposts.ldap.directory import Snapshot
from outposts.ldap.providers import ProviderError, ProviderSettings, resolve

MAX_NAMES = 5  # of those who share a number


async def directory(
    report: Report, settings: Settings, api: CoreApi, providers: Sequence[Any], config: dict[str, Any]
) -> None:
    """List everything once and build each LDAP provider's directory from it."""
    served = []
    for record in providers:
        try:
            served.append(resolve(record, partial(_extra, settings, config, record.name)))
        except ProviderError:
            continue  # the base DN, which has its own finding
    if not served:
        return
    try:
        groups = await api.groups(GROUP_PARAMETERS, settings.ldap_page_size)
        users = await api.users(USER_PARAMETERS, settings.ldap_page_size)
    except CoreForbidden:
        report.fail(
            "directory",
            "the token may not list users and groups",
            "save the outpost on the core once more, so that its account gets the rights",
        )
        return
    except CoreError as error:
        report.fail("directory", f"users and groups cannot be listed: {error.problem}", "look at the core's log")
        return
    for provider in served:
        snapshot = await asyncio.to_thread(Snapshot.build, provider.options, users, groups)
        _judge(report, provider, snapshot.report)


def _extra(settings: Settings, config: dict[str, Any], provider_name: str, name: str) -> Any:
    return settings.extra("ldap", name, config, provider_name)


def _judge(report: Report, provider: ProviderSettings, built: BuildReport) -> None:
    name = provider.name
    report.ok("directory", f"{name}: {built.users} users, {built.groups} groups")
    if built.error_count:
        report.warn(
            "directory",
            f"{name}: {built.error_count} users or groups have no entry: {', '.join(built.errors[:MAX_NAMES])}",
            "rename them or correct their attributes on the core",
        )
    for number, names in built.gid_collisions[:MAX_NAMES]:
        report.warn(
            "directory",
            f"{name}: gidNumber {number} is shared by {_some(names)}",
            "give one of the groups the attribute gidNumber, or set x_ldap_gid to hash",
        )
    for number, names in built.uid_collisions[:MAX_NAMES]:
        report.warn(
            "directory",
            f"{name}: uidNumber {number} is shared by {_some(names)}",
            "give each user an attribute uidNumber of its own, or none",
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
