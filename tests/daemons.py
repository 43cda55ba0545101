"""The only starter of real daemons: a subprocess in its own process group, on free ports, ended by its process id.

A daemon writes the addresses it really listens on to ``OUTPOSTS_READY_FILE``; ``start`` waits for that file, so a test
never guesses a port and never sleeps for a fixed time. What the daemon says goes to a file; a daemon that ends or hangs
instead of getting ready fails the test with the end of that file.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

READY_TIMEOUT_S = 30.0  # a cold start on two busy cores takes a few seconds
STOP_TIMEOUT_S = 15.0  # a daemon drains requests for at most 10 s
HEALTH_TIMEOUT_S = 5.0  # health is answered from memory
POLL_S = 0.02  # nothing tells a parent portably that a file appeared
LOG_TAIL_CHARACTERS = 6000  # enough for a traceback, little enough for a test report

# What a child may inherit. Settings of the person who runs the tests must not change what is tested.
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "SYSTEMROOT", "COVERAGE_PROCESS_START")


class DaemonFailed(AssertionError):
    """The daemon ended, hung or answered wrongly; the message holds the end of its log."""


class Daemon:
    """A running daemon. ``ready`` is the content of its ready file; ``folder`` is its own temporary folder."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], folder: Path, log: Path) -> None:
        self.name = name
        self.process = process
        self.folder = folder
        self.log = log
        self.ready: dict[str, Any] = {}
        self.temporary = False  # whether the folder goes when the daemon does
        self._last_words: str | None = None

    @property
    def pid(self) -> int:
        """Process id, which is its process group too."""
        return self.process.pid

    def address(self, listener: str) -> tuple[str, int]:
        """Host and port of the first address of a listener, such as ``ldap`` or ``metrics``."""
        addresses = self.ready.get(listener)
        if not addresses:
            raise DaemonFailed(f"{self.name} has no listener {listener!r}: {self.ready}")
        host, port = addresses[0][:2] if isinstance(addresses[0], list) else addresses[:2]
        return str(host), int(port)

    def text(self) -> str:
        """All that it has logged so far."""
        return self.log.read_text(errors="replace") if self._last_words is None else self._last_words

    def tail(self) -> str:
        """The end of its log, for failure messages."""
        return self.text()[-LOG_TAIL_CHARACTERS:]

    def records(self) -> list[dict[str, Any]]:
        """Its log lines that are JSON objects."""
        found = []
        for line in self.text().splitlines():
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict):
                    found.append(record)
        return found

    def get(self, path: str, *, method: str = "GET") -> tuple[int, bytes]:
        """Status and body of a path on its metrics port, or on its unix socket before it has written its ready file."""
        connection: http.client.HTTPConnection
        if "metrics" in self.ready:
            connection = http.client.HTTPConnection(*self.address("metrics"), timeout=HEALTH_TIMEOUT_S)
        else:
            connection = _UnixConnection(str(self.folder / "authentik-metrics.sock"))
        with contextlib.closing(connection):
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def wait_until_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait for ``/readyz`` to answer 200."""
        answer: tuple[int, bytes] = (0, b"")

        def ready() -> bool:
            nonlocal answer
            answer = self.get("/readyz")
            return answer[0] == 200

        self.wait_for(ready, timeout_s, lambda: f"/readyz answers {answer}")

    def wait_for(self, condition: Callable[[], bool], timeout_s: float, what: Callable[[], str]) -> None:
        """Wait for a condition while the daemon lives; the time-out's message ends with its log."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.process.poll() is not None:
                raise DaemonFailed(f"{self.name} ended with {self.process.returncode}; {what()}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise DaemonFailed(f"{self.name}: not within {timeout_s} s: {what()}\n{self.tail()}")
            time.sleep(POLL_S)

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to the daemon alone."""
        if self.alive():
            os.kill(self.pid, number)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM, wait, return the exit code; a daemon that does not end is killed and fails the test."""
        self.signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise DaemonFailed(f"{self.name} did not stop within {timeout_s} s\n{self.tail()}") from None
        finally:
            self.kill()

    def kill(self) -> None:
        """End the daemon's whole process group at once, as a power cut would."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        _running.discard(self)
        if self.temporary and self._last_words is None:
            self._last_words = self.text()
            shutil.rmtree(self.folder, ignore_errors=True)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=HEALTH_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(HEALTH_TIMEOUT_S)
        self.sock.connect(self._path)


_running: set[Daemon] = set()


@atexit.register
def _end_what_is_left() -> None:
    for daemon in list(_running):
        daemon.kill()


def launch(
    name: str, arguments: Sequence[str], environment: Mapping[str, str], *, folder: Path | None = None
) -> Daemon:
    """Start ``arguments`` without waiting for anything. The caller ends it with ``stop`` or ``kill``."""
    temporary = folder is None
    folder = folder or Path(tempfile.mkdtemp(prefix=f"outposts-{name}-"))
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    ready_file = folder / "ready.json"
    ready_file.unlink(missing_ok=True)
    full = {key: os.environ[key] for key in INHERITED if key in os.environ}
    full |= {"OUTPOSTS_READY_FILE": str(ready_file), "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    full |= environment
    with log.open("ab") as sink:
        process = subprocess.Popen(
            list(arguments),
            env=full,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    daemon = Daemon(name, process, folder, log)
    daemon.temporary = temporary
    _running.add(daemon)
    return daemon


def start(
    command: str,
    environment: Mapping[str, str],
    arguments: Sequence[str] = (),
    *,
    folder: Path | None = None,
    timeout_s: float = READY_TIMEOUT_S,
) -> Daemon:
    """Start ``outposts COMMAND`` on free loopback ports and wait until all its listeners are bound.

    ``environment`` wins over the port-0 defaults. The caller ends it; ``running`` does that by itself.
    """
    ports = {f"AUTHENTIK_LISTEN__{listener}": "127.0.0.1:0" for listener in LISTENERS}
    ports["OUTPOSTS_CORE__LISTEN"] = "127.0.0.1:0"
    daemon = launch(
        command, [sys.executable, "-m", "outposts", command, *arguments], ports | dict(environment), folder=folder
    )
    ready_file = daemon.folder / "ready.json"

    def written() -> bool:
        try:
            daemon.ready = json.loads(ready_file.read_text())
        except (FileNotFoundError, ValueError):
            return False
        return True

    try:
        daemon.wait_for(written, timeout_s, lambda: "ready file")
    except BaseException:
        daemon.kill()
        raise
    return daemon


LISTENERS = ("LDAP", "LDAPS", "RADIUS", "HTTP", "HTTPS", "METRICS")


@contextlib.contextmanager
def running(
    command: str,
    environment: Mapping[str, str],
    arguments: Sequence[str] = (),
    *,
    until_ready: bool = True,
    folder: Path | None = None,
) -> Iterator[Daemon]:
    """A daemon for the length of a ``with`` block; ``until_ready`` also waits for ``/readyz``."""
    daemon = start(command, environment, arguments, folder=folder)
    try:
        if until_ready:
            daemon.wait_until_ready()
        yield daemon
    finally:
        daemon.kill()


def outpost_environment(core_url: str, token: str, **settings: str) -> dict[str, str]:
    """The two settings that every outpost needs, and more by name."""
    return {"AUTHENTIK_HOST": core_url, "AUTHENTIK_TOKEN": token, **settings}
