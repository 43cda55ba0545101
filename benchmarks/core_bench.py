"""The embedded core: complete headless flow runs, access checks and list pages, by one process.

The client is a plain socket in this process, so what it costs is not in the server's figures. Runs with an app password
cost no password hash; those with a password cost the real one, argon2id with the parameters of ``core/passwords.py``.
Beside it stands what a full core did on two cores when its answers were recorded: one bind a second.
"""

from __future__ import annotations

import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.scale import Report
from tests import daemons

ROOT = Path(__file__).resolve().parent.parent
BLUEPRINT = ROOT / "tests" / "data" / "recorded-core.yaml"
RUNS, QUICK_RUNS = 1000, 100
RECORDED_RUNS_S = 1.2  # complete binds a second of the recorded core, four at a time (recordings of 2026.5)
RECORDED_MS = {"check_access": 146.0, "users/me": 112.0}
FLOW = "/api/v3/flows/executor/ldap-authentication-flow/?query=goauthentik.io%252Foutpost%252Fldap%3Dtrue"
FACTS = (
    "one process, one connection, one request at a time; the flow is identification with password, then login",
    "CPU is the server's, user and system, from /proc",
    "no figure of a full core was taken in this run: what is beside was recorded once, on two shared cores",
)


@dataclass
class Caller:
    """One keep-alive connection with cookies and outpost headers."""

    link: socket.socket
    token: str

    def __post_init__(self) -> None:
        self.cookies: dict[bytes, bytes] = {}

    def send(self, method: str, target: str, body: bytes = b"", *, bearer: bool = False) -> tuple[int, bytes]:
        """One request; status and body."""
        lines = [f"{method} {target} HTTP/1.1".encode(), b"Host: 127.0.0.1"]
        if bearer:
            lines.append(f"Authorization: Bearer {self.token}".encode())
        else:
            lines += [f"X-authentik-outpost-token: {self.token}".encode(), b"X-authentik-remote-ip: 192.0.2.5"]
        if self.cookies:
            lines.append(b"Cookie: " + b"; ".join(b"%b=%b" % pair for pair in self.cookies.items()))
        if body:
            lines += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
        self.link.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, rest = data.partition(b"\r\n\r\n")
        found = re.search(rb"(?i)content-length: (\d+)", head)
        while len(rest) < (int(found[1]) if found else 0):
            rest += self._more()
        for name, value in re.findall(rb"(?i)set-cookie: ([^=]+)=([^;]*)", head):
            self.cookies[name] = value
        return int(head.split(b" ", 2)[1]), rest

    def _more(self) -> bytes:
        data = self.link.recv(1 << 16)
        if not data:
            raise RuntimeError("the core closed the connection")
        return data

    def log_in(self, username: str, password: str, *, look: bool) -> None:
        """A complete run; ``look`` asks for the first challenge before it is answered."""
        self.cookies = {}
        if look:
            self.send("GET", FLOW)
        answer = f'{{"uid_field":"{username}","password":"{password}"}}'.encode()
        status, body = self.send("POST", FLOW, answer)
        while status == 302:
            status, body = self.send("GET", FLOW)
        if b"xak-flow-redirect" not in body:
            raise RuntimeError("the flow did not end")

    def get(self, target: str, *, bearer: bool = False) -> None:
        """One GET that must be 200."""
        if self.send("GET", target, bearer=bearer)[0] != 200:
            raise RuntimeError(f"{target} was refused")


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _token(data: Path) -> str:
    """The outpost's token, as an operator gets it."""
    command = [sys.executable, "-m", "outposts", "core", "token", "RC LDAP outpost", "--data", str(data)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def _running() -> Iterator[tuple[Caller, int]]:
    with tempfile.TemporaryDirectory(prefix="core-bench-") as name:
        folder = Path(name)
        settings = {"OUTPOSTS_CORE__LISTEN": "127.0.0.1:0", "AUTHENTIK_LOG_LEVEL": "warning"}
        arguments = ["--data", str(folder / "data"), "--blueprint", str(BLUEPRINT)]
        with daemons.running("core", settings, arguments, folder=folder, until_ready=False) as core:
            token = _token(folder / "data")
            with socket.create_connection(core.address("core"), 60) as link:
                yield Caller(link, token), core.pid


def run(report: Report, *, quick: bool = False) -> None:
    """Measure, and fill in the report."""
    runs = QUICK_RUNS if quick else RUNS
    with _running() as (caller, pid):

        def measure(what: str, work: Callable[[], None], times: int) -> tuple[float, float]:
            for _ in range(min(50, times)):
                work()
            before, started, taken = cpu_s(pid), time.perf_counter(), []
            for _ in range(times):
                begun = time.perf_counter()
                work()
                taken.append(time.perf_counter() - begun)
            seconds = time.perf_counter() - started
            cpu_ms = (cpu_s(pid) - before) / times * 1000
            median_ms = statistics.median(taken) * 1000
            report.add(what, f"{times / seconds:,.0f}/s, median {median_ms:.2f} ms, CPU {cpu_ms:.2f} ms")
            return times / seconds, median_ms

        key = "alice-app-password-key-1"
        measure("flow runs, app password", lambda: caller.log_in("alice", key, look=True), runs)
        measure("flow runs, answer as the first request", lambda: caller.log_in("alice", key, look=False), runs)

        def with_password() -> None:
            caller.log_in("alice", "alice-pw-1", look=True)

        rate, _ = measure("flow runs, password (argon2id)", with_password, max(20, runs // 10))
        report.add(
            "  the recorded core did, with its hash", f"{RECORDED_RUNS_S}/s; {rate / RECORDED_RUNS_S:,.0f} times that"
        )
        access = "/api/v3/outposts/ldap/1/check_access/?app_slug=ldap-direct"
        for what, target in (("check_access", access), ("users/me", "/api/v3/core/users/me/")):
            _, median_ms = measure(what, lambda target=target: caller.get(target), runs)  # type: ignore[misc]
            report.add(
                "  the recorded core took",
                f"{RECORDED_MS[what]:.0f} ms; {RECORDED_MS[what] / median_ms:,.0f} times ours",
            )
        page = "/api/v3/core/users/?page_size=100&include_groups=true&include_roles=true"
        measure("list page of all users", lambda: caller.get(page, bearer=True), max(20, runs // 10))
