"""A machine inside this one: mount and process namespaces of its own, in which servers run with our configuration.

Host logins read fixed paths (``/etc/nsswitch.conf``, ``/var/lib/sss``). A ``Machine`` puts files and folders of a
temporary folder there for its own processes only; nothing outside changes, and when it ends the kernel ends every
process in it. Its whole folder is at ``INSIDE``, so that servers that are not root can reach it. The network is the
outer one.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests import peer_programs
from tests.peers.suite import PEER_TIMEOUT_S

POLL_S = 0.05  # nothing tells a parent portably that another program listens
START_TIMEOUT_S = 30.0  # a cold start on two busy cores takes some seconds
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INSIDE = "/mnt"
# Servers differ in what they do with names outside ASCII unless they are told.
ENVIRONMENT = {"PATH": PATH, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "LDAPNOINIT": "1"}


class PeerFailed(AssertionError):
    """A server ended or did not get ready; the message holds the end of its log."""


class Machine:
    """Runs programs in its namespaces. ``folder`` is the temporary folder; ``opened`` makes and ends one."""

    def __init__(self, folder: Path, holder: subprocess.Popen[bytes], first: int) -> None:
        self.folder = folder
        self._holder = holder
        self._first = first  # process id, out here, of the first process in there
        self._servers: dict[str, subprocess.Popen[bytes]] = {}

    def _entered(self, command: list[str]) -> list[str]:
        return [peer_programs.program("nsenter"), f"--target={self._first}", "--mount", "--pid", "--", *command]

    def run(self, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        return subprocess.run(
            self._entered(list(command)), env=ENVIRONMENT, input=stdin, capture_output=True, text=True,
            timeout=PEER_TIMEOUT_S, check=False, cwd=self.folder, start_new_session=True,
        )  # fmt: skip

    def start(self, name: str, *command: str) -> None:
        """Start a server that stays in the foreground; its output goes to ``NAME.log``."""
        peer_programs.program(command[0])
        with (self.folder / f"{name}.log").open("ab") as sink:
            self._servers[name] = subprocess.Popen(
                self._entered(list(command)), env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=sink,
                stderr=subprocess.STDOUT, cwd=self.folder, start_new_session=True,
            )  # fmt: skip

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition while all servers live."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not condition():
            for name, server in self._servers.items():
                if server.poll() is not None:
                    raise PeerFailed(f"{name} ended with {server.returncode}\n{self.log()}")
            if time.monotonic() > deadline:
                raise PeerFailed(f"not within {START_TIMEOUT_S} s: {what}\n{self.log()}")
            time.sleep(POLL_S)

    def wait_for_port(self, port: int) -> None:
        """Wait until a server accepts connections on 127.0.0.1."""

        def accepts() -> bool:
            with socket.socket() as probe:
                probe.settimeout(PEER_TIMEOUT_S)
                return probe.connect_ex(("127.0.0.1", port)) == 0

        self.wait_for(accepts, f"port {port}")

    def log(self) -> str:
        """The ends of all log files."""
        logs = sorted(self.folder.rglob("*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}" for log in logs)

    def close(self) -> None:
        """End every process in it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._first, signal.SIGKILL)  # the first process of a process namespace takes all others with it
        self._holder.wait()
        for server in self._servers.values():
            server.wait()


@contextlib.contextmanager
def opened(folder: Path, places: Mapping[Path, str]) -> Iterator[Machine]:
    """A machine for a ``with`` block: ``places`` are files and folders, and the path at which it sees each of them."""
    peer_programs.needs_root()
    places = {folder: INSIDE, **places}
    mounts = [shlex.join(["mount", "--bind", str(source), target]) for source, target in places.items()]
    script = "\n".join(["set -eu", *mounts, "echo ready", "exec sleep infinity"])
    namespaces = ["--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "--propagation", "private"]
    with (folder / "machine.log").open("wb") as errors:
        holder = subprocess.Popen(
            [peer_programs.program("unshare"), *namespaces, "--", "sh", "-c", script],
            env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
        )  # fmt: skip
    assert holder.stdout is not None
    with holder.stdout:
        line = holder.stdout.readline()
    if line != b"ready\n":
        holder.kill()
        raise PeerFailed(f"no namespaces: {holder.wait()} {(folder / 'machine.log').read_text()}")
    first = int(Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()[0])
    machine = Machine(folder, holder, first)
    try:
        yield machine
    finally:
        machine.close()
