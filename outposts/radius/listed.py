"""The list of open sessions, told to whoever may open a unix socket below ``TMPDIR``: ``outposts radius sessions``.

Each process of the daemon has its own, ``outposts-radius-sessions-<pid>.sock``, for its own user only: it tells who is
online where. A client connects, reads one JSON object per line until the end, and sends nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from common import logs
from common.errors import StartError
from common.listen import bind_unix, remove_unix
from outposts.radius.accounting import Session, Sessions

log = logs.get_logger("radius.accounting")

PATTERN = "outposts-radius-sessions-*.sock"
CHUNK = 500  # sessions written at a time, some 200 KiB; others get their turn in between
TIMEOUT_S = 5.0  # a reader that takes nothing for so long is left alone
MAX_READERS = 4  # at once; a list of 50,000 sessions is 20 MB on its way

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Session).decode


def path_of(folder: str, pid: int) -> Path:
    """Where a process tells its sessions."""
    return Path(folder) / PATTERN.replace("*", str(pid))


class SessionsSocket:
    """Tells the sessions of this process. ``folder`` is ``Settings.tmpdir``."""

    def __init__(self, sessions: Sessions, folder: str) -> None:
        self.path = path_of(folder, os.getpid())
        self._sessions = sessions
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._readers = 0

    async def listen(self) -> None:
        """Open the socket. Without it (a folder that cannot be written) the daemon runs all the same: one log line."""
        before = os.umask(0o177)  # nobody else may connect, not even between bind and chmod
        try:
            opened = bind_unix(str(self.path))
        except StartError as error:
            log.warning("sessions cannot be listed", problem=str(error))
            return
        finally:
            os.umask(before)
        self._inode = os.lstat(self.path).st_ino
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(), self._tell), sock=opened
        )

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._readers += 1
        try:
            if self._readers <= MAX_READERS:
                for chunk in chunks(self._sessions):
                    writer.write(chunk)
                    await asyncio.wait_for(writer.drain(), TIMEOUT_S)
        except (OSError, TimeoutError) as error:
            log.debug("list of sessions not read to its end", kind=type(error).__name__)
        finally:
            self._readers -= 1
            writer.close()

    async def close(self) -> None:
        """Close and remove the socket."""
        if self._server is not None:
            self._server.close()
            self._server = None
            remove_unix(str(self.path), self._inode)


def chunks(sessions: Iterable[Session]) -> Iterator[bytes]:
    """Sessions as lines of JSON, some at a time."""
    lines: list[bytes] = []
    for session in sessions:
        lines.append(_encode(session))
        if len(lines) >= CHUNK:
            yield b"\n".join(lines) + b"\n"
            lines.clear()
    if lines:
        yield b"\n".join(lines) + b"\n"


@dataclass(frozen=True)
class Running:
    """What the processes of a daemon have told: of a session that several know, the newest word."""

    sessions: list[Session]
    processes: int


def ask(folder: str) -> Running | None:
    """The sessions of all running processes; None if nobody answers. Blocks; for the command line."""
    found: dict[object, Session] = {}
    answered = 0
    for path in sorted(Path(folder).glob(PATTERN)):
        try:
            with socket.socket(socket.AF_UNIX) as asked:
                asked.settimeout(TIMEOUT_S)
                asked.connect(str(path))
                with asked.makefile("rb") as lines:
                    for line in lines:
                        session = _decode(line)
                        known = found.get(session.key)
                        if known is None or known.updated_at < session.updated_at:
                            found[session.key] = session
            answered += 1
        except (OSError, msgspec.DecodeError):
            continue  # left over from a process that was killed, or another user's
    return Running(list(found.values()), answered) if answered else None
