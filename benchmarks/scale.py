"""Large directories: memory, a refresh under load, a warm start. One daemon of ours before a core that makes its lists.

Memory is told in two ways: the resident set of the serving process, and everything together: what all processes of the
daemon hold alone, plus each memory file once and whole, whether its pages were looked at or not.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import ldap_bench, ldap_data, measure, slapd
from benchmarks.measure import BASE, PASSWORD, PEOPLE, Plan, Server, load, login_of
from benchmarks.scale_core import ScaleCore
from tests import daemons
from tests.ldap_client import SUB, Client

LOAD_TIMEOUT_S = 3600.0  # a million users
SAMPLE_S = 0.05  # between two looks at memory
REFRESHES = 3  # medians of so many
CONNECTIONS = 16
STEADY_S = 4.0  # of searches without a refresh, for comparison
SEARCHED = 10_000  # different users are searched for


FACTS = (
    "users with 20 attributes and 5 groups each, in pages of 100 from a core that makes them as they are asked for",
    "memory of the serving process is its resident set, which the mapped directory is part of as far as it was read; "
    "everything is what all processes of the daemon hold alone, and each memory file whole and once",
    "processor time of building is without reading the lists; the builder runs at a lower priority (nice 5)",
    "the load generator and the core run on the same cores",
)


@dataclass
class Memory:
    """MiB. ``serving``: resident set of the serving process; ``whole``: everything, see above."""

    serving: float
    whole: float


@dataclass
class Report:
    """Lines for the page: (what, value)."""

    lines: list[tuple[str, str]] = field(default_factory=list)

    def add(self, what: str, value: str) -> None:
        """One more, shown at once too."""
        self.lines.append((what, value))
        print(f"  {what}: {value}", file=sys.stderr, flush=True)


def family(pid: int) -> list[int]:
    """A process and its children."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def memory_of(pid: int) -> Memory:
    """What a daemon and its children use now."""
    serving = alone = 0
    files: dict[int, int] = {}  # memory files by inode
    for member in family(pid):
        with contextlib.suppress(OSError):
            fields = dict(re.findall(r"^(\w+):\s+(\d+) kB", Path(f"/proc/{member}/smaps_rollup").read_text(), re.M))
            alone += (int(fields["Pss"]) - int(fields["Pss_Shmem"])) * 1024
            if member == pid:
                serving = int(fields["Rss"]) * 1024
        for folder in ("fd", "map_files"):
            with contextlib.suppress(OSError):
                for entry in Path(f"/proc/{member}/{folder}").iterdir():
                    with contextlib.suppress(OSError):
                        if "/memfd:" in os.readlink(entry):
                            status = os.stat(entry)
                            files[status.st_ino] = status.st_blocks * 512
    return Memory(serving / 2**20, (alone + sum(files.values())) / 2**20)


class Peak:
    """The highest values while the block runs."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self.peak = memory_of(pid)

    def __enter__(self) -> Peak:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            now = memory_of(self._pid)
            self.peak = Memory(max(self.peak.serving, now.serving), max(self.peak.whole, now.whole))

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def metric(daemon: daemons.Daemon, name: str) -> float:
    """A metric without labels, or the sum over all labels."""
    text = daemon.get("/metrics")[1].decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(rf"{name}(\{{|\s)", line))


def loads(daemon: daemons.Daemon) -> float:
    """How many directory loads there were."""
    return metric(daemon, "outposts_snapshot_duration_seconds_count")


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = LOAD_TIMEOUT_S, every_s: float = 0.1) -> None:
    """Wait until it is so."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"not in time: {what}")
        time.sleep(every_s)


def spread(users: int) -> list[str]:
    """Names of users all over the directory."""
    return [ldap_data.username(number) for number in range(1, users + 1, max(1, users // SEARCHED))]


def searches(server: Server, users: int, seconds: float) -> dict[str, Any]:
    """A job for the load generator: equality searches for users spread over the directory."""
    return ldap_bench.equality(spread(users), CONNECTIONS).job(server, Plan(seconds=seconds, warm_up_s=0.5))


@contextlib.contextmanager
def serving(core: ScaleCore, state: Path, workers: int = 1) -> Iterator[daemons.Daemon]:
    """Our daemon with a state folder, as soon as it listens."""
    environment = daemons.outpost_environment(
        core.url,
        core.token,
        OUTPOSTS_STATE_DIR=str(state),
        OUTPOSTS_WORKERS=str(workers),
        OUTPOSTS_LDAP__UID="username",
        OUTPOSTS_LDAP__BIND_CACHE_MAX="86400",
        AUTHENTIK_LDAP__PAGE_SIZE="100",
    )
    daemon = daemons.start("ldap", environment, timeout_s=LOAD_TIMEOUT_S)
    try:
        daemon.wait_until_ready(LOAD_TIMEOUT_S)
        yield daemon
    finally:
        daemon.kill()


def crowd(server: Server, users: int, report: Report) -> None:
    """Listing everybody, and what is left for others meanwhile."""
    plan = Plan(seconds=STEADY_S, warm_up_s=0.5)
    everybody = ldap_bench.listing(users + 1)
    listed = load(everybody.job(server, plan))["rate"] * (users + 1)
    report.add("listing everybody, one connection", f"{listed:,.0f} entries/s")
    job = searches(server, users, STEADY_S)
    alone, beside = load(job), measure.alongside(job, everybody.job(server, plan))
    report.add(
        f"  searches of {CONNECTIONS} other connections meanwhile",
        f"{beside['rate']:,.0f}/s, {beside['rate'] / alone['rate']:.0%} of alone, p99 {beside['p99_us'] / 1000:.2f} ms",
    )


def sizes(small: int, large: int, report: Report) -> None:
    """The same searches in a small and in a large directory, in alternating rounds."""
    with contextlib.ExitStack() as stack:
        servers = []
        users = {}
        for count in (small, large):
            core = stack.enter_context(ScaleCore(count))
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="outposts-bench-"))
            daemon = stack.enter_context(serving(core, Path(folder)))
            servers.append(Server(f"{count:,} users", daemon.address("ldap"), daemon.pid, "cn"))
            users[servers[-1].name] = count
        for make in (ldap_bench.equality, ldap_bench.base_reads):
            kinds = {name: make(spread(count), CONNECTIONS) for name, count in users.items()}
            kind = measure.Kind(
                kinds[servers[0].name].title,
                lambda server, kinds=kinds: kinds[server.name].requests(server),  # type: ignore[misc]
                CONNECTIONS,
                login_of("search"),
            )
            few, many = measure.take(kind, servers, Plan())
            report.add(
                kind.title,
                f"{few.rate:,.0f} with {small:,} users, {many.rate:,.0f} with {large:,}: {many.rate / few.rate:.2f}",
            )


@contextlib.contextmanager
def peer(ours: Server) -> Iterator[Server | None]:
    """slapd with the same entries, where it is installed."""
    try:
        program = ldap_bench.slapd_program()
    except SystemExit:
        yield None
        return
    print("  loading slapd with the same entries …", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="outposts-bench-") as folder:
        passwords = {f"cn=search,{PEOPLE}": PASSWORD}
        started = slapd.start(program, ldap_bench.served(ours), BASE, passwords, Path(folder) / "slapd")
        try:
            yield Server("slapd", started.address, started.daemon.pid, "uid")
        finally:
            started.stop()


def run(users: int, report: Report, *, refresh: bool, warm: bool, workers: int = 1, beside: bool = True) -> None:
    """Measure one size. ``beside``: slapd's searches during refreshes too."""
    with ScaleCore(users) as core, tempfile.TemporaryDirectory(prefix="outposts-bench-") as folder:
        state = Path(folder) / "state"
        started = time.monotonic()
        with serving(core, state, workers) as daemon:
            cold_s = time.monotonic() - started
            server = Server("outposts", daemon.address("ldap"), daemon.pid, "cn")
            full_cpu_s = metric(daemon, "outposts_snapshot_cpu_seconds")
            report.add(
                "first start, everything listed and built", f"{cold_s:.1f} s, {full_cpu_s:.1f} s CPU for building"
            )
            job = searches(server, users, STEADY_S)
            quiet = load(job)
            crowd(server, users, report)
            steady = memory_of(daemon.pid)
            report.add("memory, steady", f"{steady.serving:.0f} MiB serving process, {steady.whole:.0f} MiB everything")
            report.add(
                f"searches for one entry, {CONNECTIONS} connections",
                f"{quiet['rate']:,.0f}/s, p50 {quiet['p50_us'] / 1000:.2f} ms, p99 {quiet['p99_us'] / 1000:.2f} ms",
            )
            if refresh:
                with peer(server) if beside else contextlib.nullcontext(None) as theirs:
                    refreshes(core, daemon, server, theirs, users, report, steady, full_cpu_s)
        if warm:
            warm_starts(core, state, report)


def refreshes(
    core: ScaleCore,
    daemon: daemons.Daemon,
    server: Server,
    theirs: Server | None,
    users: int,
    report: Report,
    steady: Memory,
    full_s: float,
) -> None:
    """Refreshes with one user in a hundred changed, under load; as many again while slapd is asked instead."""
    p99, rates, shares, peaks, walls = [], [], [], [], []
    their_p99 = []
    family_size = len(family(daemon.pid))
    for asked in [server] * REFRESHES + ([theirs] * REFRESHES if theirs is not None else []):
        core.revision += 1
        before = loads(daemon)
        with Peak(daemon.pid) as peak:
            started = time.monotonic()
            os.kill(daemon.pid, signal.SIGUSR1)
            seconds = max(2.0, full_s * 0.2)
            results = []
            while loads(daemon) == before:
                results.append(load(searches(asked, users, seconds)))
            print(f"  refreshed in {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
        wait_for(lambda: len(family(daemon.pid)) == family_size, "the builder's end")
        if asked is not server:
            their_p99.append(max(result["p99_us"] for result in results))
            continue
        walls.append(time.monotonic() - started)
        p99.append(max(result["p99_us"] for result in results))
        rates.append(statistics.median(result["rate"] for result in results))
        shares.append(metric(daemon, "outposts_snapshot_cpu_seconds"))
        peaks.append(peak.peak)
    with Client(server.address) as client:  # what is served is the last revision
        assert client.bind(f"cn=search,{PEOPLE}", "bench-pw").code == 0
        answer = client.search(PEOPLE, SUB, f"(cn={ldap_data.username(100)})")
        assert answer.entries[0].attributes["title"] == [f"Position {100 % 40} {core.revision}"], answer
    after = memory_of(daemon.pid)
    middle = statistics.median
    cpu_s = middle(shares)
    report.add("refresh with 1 % changed", f"{cpu_s:.1f} s CPU for building, {cpu_s / full_s:.0%} of a full one")
    report.add(
        "  searches meanwhile", f"{middle(rates):,.0f}/s, p99 {middle(p99) / 1000:.2f} ms (median of {REFRESHES})"
    )
    if their_p99:
        report.add("  slapd's, with the same entries, meanwhile", f"p99 {middle(their_p99) / 1000:.2f} ms")
    highest = Memory(middle(peak.serving for peak in peaks), middle(peak.whole for peak in peaks))
    report.add(
        "  highest memory meanwhile",
        f"{highest.serving:.0f} MiB serving process ({highest.serving / steady.serving:.2f}×), "
        f"{highest.whole:.0f} MiB everything ({highest.whole / steady.whole:.2f}×)",
    )
    report.add("  memory afterwards", f"{after.serving:.0f} MiB serving process, {after.whole:.0f} MiB everything")


def warm_starts(core: ScaleCore, state: Path, report: Report) -> None:
    """From exec to the first correct answer, with the state of the run before; the core answers, as after a restart."""
    times = []
    for _ in range(REFRESHES):
        with socket_ports() as port:
            environment = daemons.outpost_environment(
                core.url, core.token, OUTPOSTS_STATE_DIR=str(state), OUTPOSTS_LDAP__UID="username",
                AUTHENTIK_LDAP__PAGE_SIZE="100", AUTHENTIK_LISTEN__LDAP=f"127.0.0.1:{port}",
            )  # fmt: skip
            launched = time.monotonic()
            daemon = daemons.launch("ldap", [sys.executable, "-m", "outposts", "ldap"], FREE | environment)
        try:
            times.append(_first_answer(port) - launched)
            if len(times) == 1:
                memory = memory_of(daemon.pid)
        finally:
            daemon.kill()
    report.add("warm start, exec to first correct answer", f"{statistics.median(times):.2f} s (median of {REFRESHES})")
    report.add("  memory then", f"{memory.serving:.0f} MiB serving process, {memory.whole:.0f} MiB everything")


FREE = {f"AUTHENTIK_LISTEN__{name}": "127.0.0.1:0" for name in ("LDAPS", "METRICS")}


@contextlib.contextmanager
def socket_ports() -> Iterator[int]:
    """A port that was free a moment ago."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield port


def _first_answer(port: int) -> float:
    """When a bind and a search of one user have been answered correctly."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            with Client(("127.0.0.1", port)) as client:
                assert client.bind(f"cn=search,{PEOPLE}", "bench-pw").code == 0
                answer = client.search(PEOPLE, SUB, f"(cn={ldap_data.username(42)})")
                assert [dn.lower() for dn in answer.dns] == [f"cn={ldap_data.username(42)},{PEOPLE}"], answer
                return time.monotonic()
        except ConnectionError:
            time.sleep(0.005)
    raise RuntimeError("no answer after a warm start")


def main() -> int:
    """``python -m benchmarks.scale USERS [--no-refresh] [--no-warm-start]``"""
    report = Report()
    run(int(sys.argv[1]), report, refresh="--no-refresh" not in sys.argv, warm="--no-warm-start" not in sys.argv)
    print(json.dumps(report.lines, ensure_ascii=False, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
