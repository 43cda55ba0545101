"""Measuring what a server answers: jobs for the load generator, taken alternately from several servers, medians told.

``ldap_bench`` and ``scale`` say what is asked; ``load`` is the generator, a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import factories
from tests.ldap_client import Client, bind_operation, elements, message

ROOT = Path(__file__).resolve().parent.parent
BASE = factories.BASE_DN.lower()
PEOPLE = f"ou=users,{BASE}"
MESSAGE_ID = 2  # of every timed request; 1 is the bind before it
PASSWORD = "bench-pw"
AT_ONCE = 1 << 18  # bytes that the load generator takes at once from a long answer


@dataclass(frozen=True)
class Plan:
    """How long and how often. ``rounds`` alternate between the two servers."""

    users: int = 10_000
    connections: int = 16
    seconds: float = 4.0
    warm_up_s: float = 1.0
    rounds: int = 3
    workers: int = 1


QUICK = Plan(users=2_000, seconds=1.0, warm_up_s=0.3, rounds=1)


@dataclass(frozen=True)
class Row:
    """One line of the table. ``ratio`` is in our favour when above 1; None where there is nothing beside it."""

    what: str
    ours: str
    theirs: str
    ratio: float | None
    note: str = ""


def exchange(address: tuple[str, int], first: bytes, request: bytes) -> tuple[bytes, bytes, int]:
    """The whole answers to a bind and to one request, raw, and how many messages the second has."""

    def whole(client: Client, final: Sequence[int]) -> tuple[bytes, int]:
        data = b""
        while True:
            data += client.socket.recv(1 << 20)
            try:
                parts = list(elements(data))
            except (AssertionError, IndexError):
                continue
            operations = [list(elements(body))[1][0] for _, body in parts]
            if operations and operations[-1] in final:
                return data, len(parts)

    with Client(address) as client:
        client.send(first)
        bound, _ = whole(client, (0x61,))
        client.send(request)
        answer, count = whole(client, (0x61, 0x65))
        return bound, answer, count


def final_message(data: bytes) -> bytes:
    """The last LDAPMessage of an answer, as sent."""
    position = 0
    last = data
    for _, body in elements(data):
        end = data.index(body, position) + len(body)
        last, position = data[position:end], end
    return last


@dataclass
class Server:
    """One of the two under test."""

    name: str
    address: tuple[str, int]
    pid: int
    attribute: str  # what single entries are searched by

    def pids(self) -> list[int]:
        """Its process and the workers of that."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *(int(child) for child in children)]

    def memory(self) -> tuple[float, float]:
        """Resident memory and the part that is not mapped files, in MiB. What processes share counts once."""
        total = anonymous = 0
        for pid in self.pids():
            fields = {}
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
                key, _, value = line.partition(":")
                fields[key] = int(value.split()[0])
            total += fields["Pss"]
            anonymous += fields["Pss_Anon"]
        if len(self.pids()) == 1:  # libraries that other programs map too are its own memory as well
            text = Path(f"/proc/{self.pid}/status").read_text()
            total, anonymous = (int(re.findall(rf"{name}:\s+(\d+)", text)[0]) for name in ("VmRSS", "RssAnon"))
        return total / 1024, anonymous / 1024

    def cpu_s(self) -> tuple[float, float]:
        """Processor time of all its processes and threads so far, in seconds: its own and the kernel's for it."""
        ticks = os.sysconf("SC_CLK_TCK")
        own = kernel = 0
        for pid in self.pids():
            after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            own, kernel = own + int(after_name[11]), kernel + int(after_name[12])
        return own / ticks, kernel / ticks

    def job(self, plan: Plan, requests: list[bytes], connections: int, first: bytes = b"") -> dict[str, Any]:
        """A job for the load generator, after one checked exchange: it must succeed with the same ending."""
        bound, answer, _ = exchange(self.address, first or requests[0], requests[0])
        return {
            "address": list(self.address),
            "connections": connections,
            "first": first.hex(),
            "first_tail": bound.hex(),
            "requests": [request.hex() for request in requests],
            "tail": final_message(answer).hex(),
            "warm_up_s": plan.warm_up_s,
            "seconds": plan.seconds,
        }


def login_of(name: str, number: int = 1) -> bytes:
    """A bind request."""
    return message(number, bind_operation(f"cn={name},{PEOPLE}", PASSWORD))


@dataclass(frozen=True)
class Kind:
    """One thing that is measured.

    ``requests`` gives the octets for a server, all ending in the same message; ``entries`` of each answer are counted
    instead of answers if it is not 1. ``first``: sent once per connection before.
    """

    title: str
    requests: Callable[[Server], list[bytes]]
    connections: int
    first: bytes
    entries: int = 1

    def job(self, server: Server, plan: Plan) -> dict[str, Any]:
        """A job for the load generator."""
        made = server.job(plan, self.requests(server), self.connections, self.first)
        return made | {"receive": AT_ONCE} if self.entries > 1 else made


@dataclass
class Taken:
    """Medians of one kind at one server. Times of the processor in microseconds, per answer or entry."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    user_us: float
    generator_busy: float

    @property
    def latency(self) -> str:
        """As the table shows it."""
        return f"p50 {self.p50_ms:.2f} ms, p99 {self.p99_ms:.2f} ms"


def take(kind: Kind, servers: Sequence[Server], plan: Plan) -> list[Taken]:
    """Measure one kind at all servers, in alternating rounds."""
    jobs = [kind.job(server, plan) for server in servers]
    results: list[list[dict[str, Any]]] = [[] for _ in servers]
    for _ in range(plan.rounds):
        for server, job, found in zip(servers, jobs, results, strict=True):
            before = server.cpu_s()
            result = load(job)
            things = result["answers_with_warm_up"] * kind.entries
            spent = [(after - start) * 1e6 for after, start in zip(server.cpu_s(), before, strict=True)]
            result["user_us"], result["cpu_us"] = spent[0] / things, sum(spent) / things
            found.append(result)
    return [_medians(kind, found) for found in results]


def _medians(kind: Kind, results: list[dict[str, Any]]) -> Taken:
    ordered = sorted(results, key=lambda result: float(result["rate"]))
    middle = ordered[len(ordered) // 2]
    return Taken(
        middle["rate"] * kind.entries,
        middle["p50_us"] / 1000,
        middle["p99_us"] / 1000,
        statistics.median(result["cpu_us"] for result in ordered),
        statistics.median(result["user_us"] for result in ordered),
        statistics.median(result["generator_busy"] for result in ordered),
    )


def row(what: str, ours: Taken, theirs: Taken, peer: str = "slapd") -> Row:
    """Rates beside each other."""
    note = f"outposts {ours.latency}; {peer} {theirs.latency}"
    return Row(what, f"{ours.rate:,.0f}", f"{theirs.rate:,.0f}", ours.rate / theirs.rate, note)


def cpu_row(each: str, ours: Taken, theirs: Taken) -> Row:
    """Processor time beside each other; less is in our favour."""
    return Row(
        f"  processor time per {each}, µs (without the kernel's)",
        f"{ours.cpu_us:.1f} ({ours.user_us:.1f})",
        f"{theirs.cpu_us:.1f} ({theirs.user_us:.1f})",
        theirs.cpu_us / max(ours.cpu_us, 0.01),
    )


def alongside(job: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The result of ``job`` while another load generator does ``other`` for at least as long."""
    longer = other | {"warm_up_s": 0.0, "seconds": job["warm_up_s"] + job["seconds"] + 2.0}
    with _generator() as beside:
        assert beside.stdin is not None
        beside.stdin.write(json.dumps(longer))
        beside.stdin.close()
        try:
            return load(job)
        finally:
            beside.terminate()


def _generator() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
    )  # fmt: skip


def load(job: dict[str, Any]) -> dict[str, Any]:
    """Run the load generator in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"load generator: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result
