"""LDAP: our daemon (cached search and bind, in front of a fake core) beside slapd with the same entries.

Measured alternately, ours and slapd's, medians reported: searches for one entry by an indexed equality over several
connections, listing all people, simple binds of known users, and memory. slapd is loaded with exactly the entries that
our daemon serves, so both carry the same attributes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import ldap_data, slapd
from tests import daemons, factories
from tests.fakes import StubCore
from tests.ldap_client import (
    ONE,
    SUB,
    Client,
    bind_operation,
    elements,
    message,
    search_operation,
)

ROOT = Path(__file__).resolve().parent.parent
BASE = factories.BASE_DN.lower()
PEOPLE = f"ou=users,{BASE}"
MESSAGE_ID = 2  # of every timed request; 1 is the bind before it
PASSWORD = "bench-pw"
KNOWN = ldap_data.username(42)
BINDERS = 64  # users whose binds are timed
# Our own limits, raised so that the run does not meet them, and printed.
RAISED = {"OUTPOSTS_LDAP__BIND_CACHE_MAX": "86400"}
SETTINGS = {"OUTPOSTS_LDAP__UID": "username", "AUTHENTIK_LDAP__PAGE_SIZE": "100"}


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
    """One line of the table. ``ratio`` is in our favour when above 1."""

    what: str
    ours: str
    theirs: str
    ratio: float
    note: str = ""


def records(count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The users and groups as the core lists them, and the user that searches."""
    users: list[dict[str, Any]] = [json.loads(raw) for raw in ldap_data.raw_users(count)]
    users.append(factories.user(count + 1, "search"))
    return users, [json.loads(raw) for raw in ldap_data.raw_groups(count)]


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


def check(servers: Sequence[Server], plan: Plan) -> int:
    """Both servers answer the timed requests with the same entries; returns attributes per person."""
    seen: dict[str, Any] = {}
    for server in servers:
        with Client(server.address) as client:
            assert client.bind(f"cn=search,{PEOPLE}", PASSWORD).code == 0, server.name
            assert client.bind(f"cn=search,{PEOPLE}", PASSWORD + "x").code == 49, server.name
            assert client.bind(f"cn=search,{PEOPLE}", PASSWORD).code == 0, server.name
            people = client.search(PEOPLE, ONE)
            assert people.code == 0 and len(people.entries) == plan.users + 1, (server.name, len(people.entries))
            one = client.search(PEOPLE, SUB, f"({server.attribute}={KNOWN})")
            assert [dn.lower() for dn in one.dns] == [f"cn={KNOWN},{PEOPLE}"], (server.name, one.dns)
            seen[server.name] = sorted(dn.lower() for dn in people.dns)
    first, second = seen.values()
    assert first == second
    return len(one.entries[0].attributes)


def run(plan: Plan, say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Do all measurements. Returns the table's rows and facts worth printing beside them."""
    program = slapd_program()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outposts-bench-")))
        core = stack.enter_context(StubCore())
        core.users, core.groups = records(plan.users)
        core.providers["ldap"] = [factories.ldap_provider(search_mode="cached", bind_mode="cached")]
        core.outpost["config"]["log_level"] = "warning"  # slapd does not write a line per request either
        core.people.passwords = {str(user["username"]): PASSWORD for user in core.users}
        say(f"starting our daemon with {plan.users} users …")
        workers = {"OUTPOSTS_WORKERS": str(plan.workers)}
        environment = daemons.outpost_environment(core.url, core.token, **SETTINGS, **RAISED, **workers)
        daemon = stack.enter_context(daemons.running("ldap", environment))
        ours = Server("outposts", daemon.address("ldap"), daemon.pid, "cn")
        say("loading slapd with the same entries …")
        entries = served(ours)
        passwords = {f"cn={name},{PEOPLE}": PASSWORD for name in ["search", *binders(plan)]}
        peer = slapd.start(program, entries, BASE, passwords, folder / "slapd")
        stack.callback(peer.stop)
        theirs = Server("slapd", peer.address, peer.daemon.pid, "uid")
        servers = (ours, theirs)
        attributes = check(servers, plan)
        rows, busy = timed(servers, plan, say)
        memory = [server.memory() for server in servers]
        rows.append(
            Row(
                "memory, MiB (without mapped files)",
                f"{memory[0][0]:.0f} ({memory[0][1]:.0f})",
                f"{memory[1][0]:.0f} ({memory[1][1]:.0f})",
                memory[1][0] / memory[0][0],
            )
        )
        groups = f"{ldap_data.GROUPS_PER_USER} of {ldap_data.group_count(plan.users)} groups"
        facts = [
            f"{plan.users} users with {attributes} attributes, in {groups} each; "
            f"{plan.rounds} alternating rounds of {plan.seconds:g} s, medians",
            f"slapd {slapd.version(program)}, back-mdb, equality indexes, its default threads; "
            f"ours {'one process' if plan.workers == 1 else f'a supervisor and {plan.workers} workers'}, cached mode; "
            "both without a log line per request",
            "our limits for this run: " + ", ".join(f"{name}={value}" for name, value in RAISED.items()),
            f"the load generator used {busy:.0%} of one core at most",
        ]
        return rows, facts


def slapd_program() -> str:
    """Where slapd is, or the line that installs it."""
    found = shutil.which("slapd") or shutil.which("slapd", path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise SystemExit("slapd is not installed; run scripts/install-peers")
    return found


def binders(plan: Plan) -> list[str]:
    """The users whose binds are timed."""
    step = plan.users // BINDERS
    chosen = [number for number in range(1, plan.users, step) if ldap_data.user(number, plan.users)["is_active"]]
    return [ldap_data.username(number) for number in chosen[:BINDERS]]


def served(server: Server) -> list[slapd.Entry]:
    """All people and groups as our daemon serves them."""
    found: list[slapd.Entry] = []
    with Client(server.address) as client:
        assert client.bind(f"cn=search,{PEOPLE}", PASSWORD).code == 0
        for container in (PEOPLE, f"ou=groups,{BASE}"):
            answer = client.search(container, ONE)
            assert answer.code == 0 and answer.entries, answer
            found.extend(slapd.Entry(entry.dn, entry.attributes) for entry in answer.entries)
    return found


def timed(servers: Sequence[Server], plan: Plan, say: Callable[[str], None]) -> tuple[list[Row], float]:
    """The three timed measurements; also how busy the load generator was at most."""
    rows: list[Row] = []
    busy = 0.0
    jobs: dict[tuple[str, str], dict[str, Any]] = {}
    for server in servers:
        names = [ldap_data.username(number) for number in range(1, plan.users + 1)]
        searches = [
            message(MESSAGE_ID, search_operation(PEOPLE, SUB, f"({server.attribute}={name})")) for name in names
        ]
        binds = [login_of(name, MESSAGE_ID) for name in binders(plan)]
        listing = [message(MESSAGE_ID, search_operation(PEOPLE, ONE))]
        first = login_of("search")
        jobs["searches", server.name] = server.job(plan, searches, plan.connections, first)
        jobs["entries", server.name] = server.job(plan, listing, 1, first) | {"receive": 1 << 18}
        for bind in binds:  # the first bind of a user is a login at the core
            exchange(server.address, bind, bind)
        jobs["binds", server.name] = server.job(plan, binds, plan.connections, login_of(binders(plan)[0]))
    titles = {
        "searches": f"searches/s, one entry, {plan.connections} connections",
        "entries": "listing everybody, entries/s, one connection",
        "binds": f"simple binds/s, {plan.connections} connections",
    }
    for kind, title in titles.items():
        say(f"measuring {title} …")
        results: dict[str, list[dict[str, Any]]] = {server.name: [] for server in servers}
        for _ in range(plan.rounds):
            for server in servers:
                before = server.cpu_s()
                result = load(jobs[kind, server.name])
                things = result["answers_with_warm_up"] * (plan.users if kind == "entries" else 1)
                spent = [(after - start) * 1e6 for after, start in zip(server.cpu_s(), before, strict=True)]
                result["user_us"], result["cpu_us"] = spent[0] / things, sum(spent) / things
                results[server.name].append(result)
        medians = {}
        latency = {}
        cpu = {}
        user = {}
        for server in servers:
            ordered = sorted(results[server.name], key=lambda result: result["rate"])
            middle = ordered[len(ordered) // 2]
            medians[server.name] = middle["rate"] * (plan.users + 1 if kind == "entries" else 1)
            latency[server.name] = f"p50 {middle['p50_us'] / 1000:.2f} ms, p99 {middle['p99_us'] / 1000:.2f} ms"
            cpu[server.name] = statistics.median(result["cpu_us"] for result in ordered)
            user[server.name] = statistics.median(result["user_us"] for result in ordered)
            busy = max(busy, statistics.median(result["generator_busy"] for result in ordered))
        ours, theirs = medians.values()
        rows.append(
            Row(
                title,
                f"{ours:,.0f}",
                f"{theirs:,.0f}",
                ours / theirs,
                "; ".join(f"{name} {text}" for name, text in latency.items()),
            )
        )
        spent_by_us, spent_by_them = cpu.values()
        each = "entry" if kind == "entries" else "request"
        rows.append(
            Row(
                f"  processor time per {each}, µs (without the kernel's)",
                f"{spent_by_us:.1f} ({user[servers[0].name]:.1f})",
                f"{spent_by_them:.1f} ({user[servers[1].name]:.1f})",
                spent_by_them / max(spent_by_us, 0.01),
            )
        )
    return rows, busy
