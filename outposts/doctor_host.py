"""``outposts doctor``: what can be found on this machine alone: settings, files and folders, ports, Redis."""

from __future__ import annotations

import difflib
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import cache, listen, setting_values
from common import settings as all_settings
from common.errors import OutpostError, SealError, SettingError, StartError
from common.sealed import SealedFile
from common.setting_rows import EXTRAS, VARIABLES
from common.setting_values import ListenAddress
from common.settings import Settings
from common.shared_store import SharedStore, StoreUnavailable
from outposts import healthcheck
from outposts.doctor_report import Report

MAX_BAD_SETTINGS = 100  # each is found by reading the settings once more without it
MAX_SOCKET_PATH = 107  # bytes of a unix socket's path on Linux (sun_path, less the closing zero)
OTHERS = stat.S_IRWXG | stat.S_IRWXO
LISTENERS: Mapping[str, tuple[str, ...]] = {
    "ldap": ("listen_ldap", "listen_ldaps"),
    "radius": ("listen_radius", "listen_accounting", "listen_radsec", "listen_radsec_psk"),
    "proxy": ("listen_http", "listen_https"),
}
DATAGRAMS = ("listen_radius", "listen_accounting")  # listeners of UDP; all others are TCP


def settings(report: Report, environ: Mapping[str, str]) -> Settings | None:
    """Name every setting that is not accepted, not only the first. None if nothing can be read even without these."""
    left = dict(environ)
    bad = 0
    while True:
        try:
            found = all_settings.load(left, need_core=False)
            break
        except SettingError as error:
            report.fail("settings", f"{error.name}: {error.problem}", f"{error.name}: accepted is {error.accepted}")
            bad += 1
            known = [name for name in (error.name, error.name + "_FILE") if name in left]
            if not known or bad >= MAX_BAD_SETTINGS:
                report.fail("settings", "the rest was not looked at", f"correct {error.name} first, then ask again")
                return None
            for name in known:
                del left[name]
    for warning in found.warnings:
        report.warn("settings", warning, f"correct {warning.partition(':')[0]}")
    for name, value in (("AUTHENTIK_HOST", found.host), ("AUTHENTIK_TOKEN", found.token)):
        if not value and name not in (finding.found.partition(":")[0] for finding in report.findings):
            how = "the base URL of the core" if name == "AUTHENTIK_HOST" else "the token from the core's outpost page"
            report.fail("settings", f"{name} is not set", f"set {name} to {how}")
    if not report.findings:
        ours = sorted(name for name in environ if name.startswith(("AUTHENTIK_", "OUTPOSTS_")))
        report.ok("settings", f"all accepted: {', '.join(ours)}")
    return found


def outpost_config(report: Report, config: Mapping[str, Any], type: str) -> None:
    """Our own settings in the outpost's ``config`` on the core: unknown names, values that are passed over."""
    rows = {row.key: row for row in EXTRAS}
    good = 0
    for key, value in config.items():
        if not key.startswith("x_"):
            continue
        row = rows.get(key)
        if row is None:
            near = difflib.get_close_matches(key, sorted(rows), n=1, cutoff=0.0)
            report.warn("outpost config", f"{key}: there is no such setting", f"did you mean {near[0]}?")
            continue
        for single in value.values() if setting_values.is_keyed(value, row.kind) else [value]:
            try:
                if single is not None:
                    row.kind.parse(single)
            except (ValueError, OverflowError):
                report.warn(
                    "outpost config", f"{key}: a value that is passed over", f"{key}: accepted is {row.kind.accepted}"
                )
                break
        else:
            if row.type != type:
                report.warn("outpost config", f"{key} is for {row.type}, this outpost is {type}", f"remove {key}")
            good += 1
    if good:
        report.ok("outpost config", f"{good} settings of ours are read from the core")


# Files and folders


def files(report: Report, found: Settings, environ: Mapping[str, str], type: str | None) -> None:
    """Secret files, the state folder with what is in it, the folders of the socket and of the ready file."""
    for variable in VARIABLES:
        path = environ.get(variable.name + "_FILE", "") if variable.secret else ""
        if path:
            _secret(report, variable.name + "_FILE", path)
    _socket_folder(report, found.tmpdir)
    if found.ready_file:
        folder = os.path.dirname(os.path.abspath(found.ready_file))
        if os.access(folder, os.W_OK | os.X_OK):
            report.ok("files", f"OUTPOSTS_READY_FILE: {folder} can be written")
        else:
            report.fail("files", f"{folder} cannot be written", "OUTPOSTS_READY_FILE: name a file in a folder of ours")
    if found.state_dir is None:
        report.ok("state", "OUTPOSTS_STATE_DIR is not set: nothing is kept over a restart")
    else:
        _state_folder(report, Path(found.state_dir), found.token, type)


def _secret(report: Report, name: str, path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return  # the settings have told it
    if mode & stat.S_IRWXO:
        report.warn("files", f"{path} can be read by everybody on this machine", f"{name}: chmod o= {path}")
    else:
        report.ok("files", f"{name}: not open to others")


def _socket_folder(report: Report, folder: str) -> None:
    path = os.path.join(folder, healthcheck.SOCKET_NAME)
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        report.fail("files", f"{path} is too long for a unix socket", "set TMPDIR to a shorter path")
    elif not os.access(folder, os.W_OK | os.X_OK):
        report.warn("files", f"{folder} cannot be written: no socket for healthcheck", "set TMPDIR to a folder of ours")
    else:
        report.ok("files", f"TMPDIR: {folder} can be written")


def _state_folder(report: Report, folder: Path, token: str, type: str | None) -> None:
    owner = f"run doctor and daemon as the same user, or chown {folder} (OUTPOSTS_STATE_DIR)"
    try:
        mode = folder.stat().st_mode
    except FileNotFoundError:
        parent = next((above for above in folder.absolute().parents if above.exists()), Path("/"))
        if os.access(parent, os.W_OK | os.X_OK):
            report.ok("state", f"OUTPOSTS_STATE_DIR: {folder} is not there yet and can be made")
        else:
            report.fail(
                "state", f"{folder} is not there and cannot be made", f"make it, or write into {parent}: {owner}"
            )
        return
    except OSError as error:
        report.fail("state", f"{folder}: {error.strerror}", owner)
        return
    if not stat.S_ISDIR(mode):
        report.fail("state", f"{folder} is not a folder", "OUTPOSTS_STATE_DIR: name a folder")
        return
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        report.fail("state", f"{folder} cannot be read and written", owner)
        return
    before = len(report.findings)
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        report.warn("state", f"everybody may write into {folder}", f"OUTPOSTS_STATE_DIR: chmod o-w {folder}")
    for path in sorted(folder.iterdir()):
        try:
            status = path.lstat()
        except OSError:
            continue  # a temporary file of the daemon that runs
        if not stat.S_ISREG(status.st_mode):
            continue
        if not os.access(path, os.R_OK | os.W_OK):
            report.fail("state", f"{path} cannot be read and written", owner)
        elif status.st_mode & OTHERS:
            report.warn("state", f"{path} is open to others", f"OUTPOSTS_STATE_DIR: chmod 600 {path}")
    if type is not None and token:
        _sealed(report, folder / f"{type}-configuration", token)
    if len(report.findings) == before:
        report.ok("state", f"OUTPOSTS_STATE_DIR: {folder} can be read and written")


def _sealed(report: Report, path: Path, token: str) -> None:
    """Whether the last good configuration is one that a daemon with this token can use."""
    try:
        content = path.read_bytes()
    except OSError:
        return
    try:
        SealedFile(path, token, role=path.name).open(content, cache.SCHEMA)
    except SealError as error:
        report.warn("state", f"{path} will be ignored: {error}", "AUTHENTIK_TOKEN has changed, or delete the file")


# Ports


def ports(report: Report, found: Settings, type: str | None) -> None:
    """Whether the addresses of a daemon of this type can be bound. One that our own daemon holds is none's fault."""
    names = {variable.field: variable.name for variable in VARIABLES}
    running = _daemon_answers(found.tmpdir)
    for field in (*LISTENERS.get(type or "", ()), "listen_metrics"):
        kind = socket.SOCK_DGRAM if field in DATAGRAMS else socket.SOCK_STREAM
        for address in getattr(found, field):
            _port(report, names[field], address, kind, running, needed=field != "listen_metrics")


def _port(
    report: Report, name: str, address: ListenAddress, kind: socket.SocketKind, running: bool, *, needed: bool
) -> None:
    protocol = "udp" if kind == socket.SOCK_DGRAM else "tcp"
    try:
        opened = listen.bind(address, kind, accept=False)
    except StartError as error:
        if running:
            report.ok("ports", f"{name}: {address}/{protocol} is taken, and a daemon runs here")
        elif needed:
            report.fail("ports", f"{error} ({protocol})", f"{name}: another address or port, or end what has it")
        else:
            report.warn("ports", f"{error} ({protocol}): no metrics there", f"{name}: another address or port")
        return
    for one in opened:
        one.close()
    report.ok("ports", f"{name}: {address}/{protocol} can be bound")


def _daemon_answers(tmpdir: str) -> bool:
    try:
        return healthcheck.ask(os.path.join(tmpdir, healthcheck.SOCKET_NAME)) < 400
    except (OSError, ValueError):
        return False


# Redis


async def redis(report: Report, found: Settings) -> None:
    """Whether Redis or Valkey answers, is new enough, and lets us write."""
    if not found.redis_url:
        return
    store = SharedStore(found.redis_url, "outposts:doctor:")
    try:
        store.open()
        await store.put("probe", b"1", 10.0)
        await store.take("probe")
    except StoreUnavailable as error:
        report.fail(
            "redis",
            f"no usable answer ({error})",
            "OUTPOSTS_REDIS_URL: check host, port, password and database; Redis 6.2 or newer, or Valkey",
        )
    except OutpostError as error:
        report.fail("redis", str(error), "OUTPOSTS_REDIS_URL: redis://host:6379/0")
    else:
        report.ok("redis", "OUTPOSTS_REDIS_URL: a value was written and taken")
    finally:
        await store.close()
