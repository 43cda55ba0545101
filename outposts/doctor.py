"""``outposts doctor``: looks at everything that a daemon needs, and says what is wrong and what to change.

The checks are in ``doctor_host.py`` (this machine), ``doctor_core.py`` (the way to the core), ``doctor_providers.py``
and ``doctor_directory.py`` (what the outpost serves); ``doctor_report.py`` holds and prints what they find. Nothing is
changed anywhere, except that ``--user`` logs a user in and out again.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from common import logs, setting_values
from common.api import CoreApi, client_for
from common.lean_transport import transport_for
from common.login import LoginService
from common.setting_values import ListenAddress
from common.settings import Settings
from outposts import doctor_client, doctor_core, doctor_directory, doctor_host, doctor_providers, doctor_report
from outposts.doctor_report import Report

TYPES = ("ldap", "radius", "proxy")
LIST_S = 10.0  # for one page of a list; read up to three times
MAX_PASSWORD = 4096  # bytes read of a password file


@dataclass(frozen=True)
class Probe:
    """Who is to be logged in, and where ("": at the first provider)."""

    username: str
    password: str = field(repr=False)
    provider: str = ""
    at: ListenAddress | None = None  # the listener of a daemon to log in at, as a client; None: at the core


def main(arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> int:
    """Run all checks and print them. 0: nothing failed, 1: something did, 2: bad usage."""
    parser = argparse.ArgumentParser(
        prog="outposts doctor",
        description="Checks settings, the way to the core, the outpost and its providers, with the same environment as "
        "a daemon. Exit code 0: nothing failed; 1: something did; 2: bad usage.",
    )
    parser.add_argument("type", nargs="?", choices=TYPES, help="the daemon to look at (default: what the token is for)")
    parser.add_argument(
        "--directory", action="store_true", help="LDAP: list all users and groups too, and look for shared numbers"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument("--user", metavar="NAME", help="log this user in; the password is asked for")
    parser.add_argument("--password-file", metavar="PATH", help="read the password from a file")
    parser.add_argument("--provider", metavar="NAME", help="log in at this provider (default: the first one)")
    parser.add_argument("--at", metavar="HOST:PORT", help="log in as a client at this LDAP or RADIUS listener")
    try:
        options = parser.parse_args(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    if options.user is None and (options.password_file or options.provider or options.at):
        sys.stderr.write("outposts doctor: --password-file, --provider and --at need --user\n")
        return 2
    at: ListenAddress | None = None
    if options.at is not None:
        try:
            (at,) = setting_values.LISTEN_LIST.parse(options.at)
        except ValueError:
            sys.stderr.write("outposts doctor: --at is one HOST:PORT\n")
            return 2
    probe = None
    if options.user is not None:
        try:
            probe = Probe(options.user, _password(options.user, options.password_file), options.provider or "", at)
        except (OSError, EOFError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            sys.stderr.write(f"outposts doctor: no password: {reason}\n")
            return 2
    variables = os.environ if environ is None else environ
    logs.set_level("error")  # what the parts that we borrow would log is told by the findings
    report = asyncio.run(examine(variables, options.type, probe, directory=options.directory))
    if options.json:
        sys.stdout.write(doctor_report.as_json(report.findings))
    else:
        sys.stdout.write(doctor_report.as_text(report.findings, colour=_colour(variables)))
    return 1 if report.failed else 0


def _password(username: str, path: str | None) -> str:
    """The password from a file, whose last line end does not count, or from the terminal."""
    if path is None:
        return getpass.getpass(f"Password of {username}: ")
    with Path(path).open("rb") as file:
        return file.read(MAX_PASSWORD).decode().removesuffix("\n").removesuffix("\r")


def _colour(environ: Mapping[str, str]) -> bool:
    """Colour on a terminal only, and not where https://no-color.org asks for none."""
    return sys.stdout.isatty() and not environ.get("NO_COLOR")


async def examine(
    environ: Mapping[str, str],
    wanted: str | None = None,
    probe: Probe | None = None,
    now: Callable[[], float] = time.time,
    *,
    directory: bool = False,
) -> Report:
    """All checks. ``now`` gives unix time; ``directory``: users and groups are listed too."""
    report = Report()
    settings = doctor_host.settings(report, environ)
    if settings is None:
        return report
    type = wanted
    if settings.host and settings.token:
        type = await _core(report, settings, wanted, probe, now, directory) or wanted
    doctor_host.files(report, settings, environ, type)
    doctor_host.ports(report, settings, type)
    await doctor_host.redis(report, settings)
    return report


async def _core(
    report: Report,
    settings: Settings,
    wanted: str | None,
    probe: Probe | None,
    now: Callable[[], float],
    directory: bool,
) -> str | None:
    """Everything about the core; the outpost's type as far as it was found."""
    found = await doctor_core.reach(report, settings, now)
    if found is None:
        return None
    outpost = doctor_core.outpost(report, found, wanted)
    if outpost is None:
        return None
    doctor_host.outpost_config(report, outpost.config, outpost.type)
    await doctor_core.websocket(report, settings, outpost.pk)
    client = client_for(settings)
    client.timeout = httpx.Timeout(LIST_S)
    api, transport = CoreApi(settings, client=client), transport_for(settings)
    try:
        providers = await doctor_providers.listed(report, api, outpost.type)
        await doctor_providers.certificates(report, api, providers, outpost.type, now())
        doctor_providers.overlaps(report, providers, outpost.type)
        await doctor_providers.flows(report, settings, transport, providers, outpost.type)
        if directory and outpost.type == "ldap":
            await doctor_directory.directory(report, settings, api, providers, outpost.config)
        if probe is not None:
            await _login(report, settings, LoginService(transport, settings), providers, outpost.config, probe)
    finally:
        await api.close()
        await transport.close()
    return outpost.type


async def _login(
    report: Report,
    settings: Settings,
    service: LoginService,
    providers: Sequence[Any],
    config: dict[str, Any],
    probe: Probe,
) -> None:
    chosen = [provider for provider in providers if probe.provider in ("", provider.name)]
    if not chosen:
        names = ", ".join(provider.name for provider in providers) or "none"
        report.fail("login", f"there is no provider {probe.provider!r}", f"--provider: one of {names}")
        return
    target = doctor_providers.target_of(settings, chosen[0], config)
    if target is None:
        report.fail("login", "users of a proxy outpost log in by browser", "--user: with an LDAP or RADIUS outpost")
        return
    if probe.at is not None:
        await doctor_client.login(report, settings, config, chosen[0], probe.at, probe.username, probe.password)
        return
    await doctor_providers.login(report, service, target, chosen[0], probe.username, probe.password)
