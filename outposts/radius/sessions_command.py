"""``outposts radius sessions``: who is online, as accounting says; a table for people, JSON for programs."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.errors import OutpostError, SettingError
from common.settings import Settings, load
from outposts.radius import journal, listed
from outposts.radius.accounting import NotRecorded, Session

MAX_SHOWN = 10_000  # sessions of a record shown at once, unless told otherwise
MAX_CELL = 40  # characters of one cell of the table
HEAD = ("USER", "STATION", "ADDRESS", "NAS", "SINCE", "FOR", "IN", "OUT", "PROVIDER", "SESSION", "END")


def main(arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> int:
    """Print the sessions. 0: printed, 1: there is nobody to ask or nothing to read, 2: arguments or settings wrong."""
    parser = argparse.ArgumentParser(
        prog="outposts radius sessions",
        description="Lists the sessions that accounting has reported: those of the daemon that runs on this machine "
        "(same user, same TMPDIR), or those in its record (setting accounting_record).",
    )
    parser.add_argument("--json", action="store_true", help="one JSON array instead of a table")
    parser.add_argument("--record", action="store_true", help="read the record instead of asking the running daemon")
    parser.add_argument("--all", action="store_true", help="sessions that are over too; implies --record")
    parser.add_argument("--user", default="", help="only sessions of this user")
    parser.add_argument("--limit", type=int, default=MAX_SHOWN, help=f"at most so many (default {MAX_SHOWN})")
    try:
        options = parser.parse_args(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        settings = load(os.environ if environ is None else environ, need_core=False)
        sessions = _find(settings, record=options.record or options.all, ended=options.all, limit=options.limit)
    except SettingError as error:
        return _fail(str(error), error.exit_code)
    except OutpostError as error:
        return _fail(str(error), 1)
    if options.user:
        sessions = [session for session in sessions if session.user_name == options.user]
    sessions = sorted(sessions, key=lambda session: (session.started_at, session.session_id))[-max(0, options.limit) :]
    now = time.time()
    if options.json:
        sys.stdout.write(json.dumps([as_json(session) for session in sessions], indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(table(sessions, now))
    return 0


def _fail(problem: str, code: int) -> int:
    sys.stderr.write(f"outposts radius sessions: {problem}\n")
    return code


def _find(settings: Settings, *, record: bool, ended: bool, limit: int) -> list[Session]:
    path = Path(settings.state_dir) / journal.FILE_NAME if settings.state_dir is not None else None
    if not record:
        running = listed.ask(settings.tmpdir)
        # Of several workers one may have heard of a session's start and another of its end: the record knows both.
        if running is not None and (running.processes == 1 or not (settings.redis_url or (path and path.exists()))):
            return running.sessions
    # Which record the daemon keeps may be said on the core, which is not asked here: the one that is there is meant.
    if path is not None and path.exists() and settings.extra("radius", "accounting_record", {}) != "redis":
        return journal.read_sessions(path, ended=ended, limit=limit)
    if settings.redis_url:
        return asyncio.run(_from_redis(settings.redis_url, ended, limit))
    asked = "" if record else f"no daemon with x_radius_accounting answers in {settings.tmpdir} (its TMPDIR), and "
    raise NotRecorded(asked + (f"there is no record {path}" if path else "there is no record: see OUTPOSTS_STATE_DIR"))


async def _from_redis(url: str, ended: bool, limit: int) -> list[Session]:
    from outposts.radius.journal_redis import RedisJournal

    record = RedisJournal(url, 0)
    try:
        return await record.list_sessions(ended=ended, limit=limit)
    finally:
        await record.close()


def as_json(session: Session) -> dict[str, Any]:
    """A session for programs: times in unix seconds, counters in octets; what is not known is left out."""
    client = session.client
    fields: dict[str, Any] = {
        "user": session.user_name,
        "session_id": session.session_id,
        "provider": session.provider_name,
        "application": session.application_slug,
        "client": client.address,
        "nas_ip": client.nas_ip,
        "nas_identifier": client.nas_identifier,
        "nas_port": session.nas_port,
        "calling_station": session.calling_station_id,
        "called_station": session.called_station_id,
        "framed_ip": session.framed_ip,
        "started_at": session.started_at,
        "updated_at": session.updated_at,
        "ended_at": session.ended_at,
        "terminate_cause": session.terminate_cause,
        "input_octets": session.input_octets,
        "output_octets": session.output_octets,
        "session_time_s": session.session_time_s,
        "multi_session_id": session.multi_session_id,
    }
    return {name: value for name, value in fields.items() if value not in ("", None)}


def table(sessions: Sequence[Session], now: float) -> str:
    """The sessions for people, times in UTC. What clients have sent is shown without control characters."""
    rows = [HEAD]
    for session in sessions:
        until = session.ended_at if session.ended_at is not None else now
        rows.append(
            (
                _cell(session.user_name),
                _cell(session.calling_station_id),
                _cell(session.framed_ip),
                _cell(session.client.nas_identifier or session.client.nas_ip or session.client.address),
                datetime.fromtimestamp(session.started_at, UTC).strftime("%Y-%m-%d %H:%M"),
                _duration(until - session.started_at),
                _size(session.input_octets),
                _size(session.output_octets),
                _cell(session.provider_name),
                _cell(session.session_id),
                _cell(session.terminate_cause or "ended") if session.ended_at is not None else "",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines) + f"\n{len(sessions)} session{'' if len(sessions) == 1 else 's'}\n"


def _cell(text: str) -> str:
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= MAX_CELL else shown[: MAX_CELL - 1] + "…"


def _duration(seconds: float) -> str:
    minutes = max(0, int(seconds)) // 60
    days, hours = minutes // 1440, minutes // 60 % 24
    return f"{days}d {hours:02}:{minutes % 60:02}" if days else f"{hours:02}:{minutes % 60:02}"


def _size(octets: int) -> str:
    size = float(octets)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
