"""Worker processes from outside: how one is started, and how it ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGES = str(Path(__file__).resolve().parent.parent)  # the folder that this process's packages are in
# Our settings travel on the socket: tokens must not stand in the environment of another process (/proc/<pid>/environ).
OWN_PREFIXES = ("AUTHENTIK_", "OUTPOSTS_")
LINGER_S = 1.0  # between a worker's closing of its socket and its end


def start(command: Sequence[str]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a worker. Returns the process and our end of the socket to it, whose other end's number is the last
    argument. Raises ``OSError``.
    """
    ours, theirs = socket.socketpair()
    try:
        process = subprocess.Popen(
            [*command, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            env=_environment(),
            pass_fds=(theirs.fileno(),),
        )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return process, ours


def _environment() -> dict[str, str]:
    """A worker's environment: ours without our settings; it finds the packages that this process was started from."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OWN_PREFIXES)}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (PACKAGES, kept.get("PYTHONPATH"))))
    return kept


def end_of(process: subprocess.Popen[bytes]) -> str:
    """In a thread: how a process ended whose socket is closed, for a person."""
    try:
        code = process.wait(LINGER_S)
    except subprocess.TimeoutExpired:
        return "closed its connection"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def interpreter_command(module: str) -> tuple[str, ...]:
    """The command of ``python -m module worker``, with this interpreter and nothing of the working folder (-P)."""
    return (sys.executable, "-P", "-m", module, "worker")
