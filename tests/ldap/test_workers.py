"""``outposts ldap`` with two workers as real processes: spread, revocation, refresh, crashes, nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from common.daemon import usable_processors
from tests import daemons, factories
from tests.daemons import Daemon
from tests.fakes import StubCore
from tests.ldap.sides import ALICE, B, Side, user
from tests.ldap_client import Client, bind_operation

WAIT_S = 20.0  # what has not happened by then will not happen; a worker takes some seconds to start on a busy machine
CONNECTIONS = 200
WORKERS = 2
NOTICE = 0  # message id of a notice of disconnection


class Pool:
    """A daemon with workers, and what the system says of their processes."""

    def __init__(self, core: StubCore, daemon: Daemon) -> None:
        self.core = core
        self.daemon = daemon
        self.side = Side(core, daemon, "cached")

    def workers(self) -> list[int]:
        """Process ids of the workers that are alive, oldest first."""
        return sorted(pid for pid in children(self.daemon.pid) if "worker" in command(pid) and state(pid) != "Z")

    def served_by(self, client: Client) -> int:
        """The worker that has a connection: the owner of its socket's other end."""
        port = client.socket.getsockname()[1]
        for pid in self.workers():
            if port in peers_of(pid, self.daemon.address("ldap")[1]):
                return pid
        raise AssertionError("nobody has this connection")

    def open(self, stack: ExitStack, count: int, name: str = ALICE, password: str = "pw") -> dict[int, list[Client]]:
        """Bound connections by worker."""
        clients = []
        for _ in range(count):
            client = stack.enter_context(Client(self.daemon.address("ldap")))
            assert client.bind(name, password).code == 0
            clients.append(client)
        found: dict[int, list[Client]] = {pid: [] for pid in self.workers()}
        for client in clients:
            found[self.served_by(client)].append(client)
        return found

    def one_each(self, stack: ExitStack, name: str = ALICE, password: str = "pw") -> dict[int, Client]:
        """A bound connection to each worker; the system chooses at random, so open until there is one."""
        found: dict[int, Client] = {}
        for _ in range(64):
            client = stack.enter_context(Client(self.daemon.address("ldap")))
            assert client.bind(name, password).code == 0
            found.setdefault(self.served_by(client), client)
            if len(found) == WORKERS:
                return found
        raise AssertionError(f"64 connections, all to {found.keys()}")

    def health(self) -> dict[str, Any]:
        """What ``/readyz`` answers."""
        answer: dict[str, Any] = json.loads(self.daemon.get("/readyz")[1])
        return answer

    def wait(self, condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> None:
        """Until something holds."""
        self.daemon.wait_for(lambda: bool(condition()), timeout_s, lambda: what)

    def wait_for_all(self) -> None:
        """Until all workers listen."""
        self.wait(lambda: self.health()["workers"]["listening"] == WORKERS, "all workers listen")


def command(pid: int) -> list[str]:
    """Arguments of a process; none when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def state(pid: int) -> str:
    """State letter of a process, "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie that its new parent has not collected yet has.

    Its first thread can be a zombie while others still end, and with them the sockets that all share.
    """
    try:
        threads = len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        threads = 0
    return threads <= 1 and state(pid) in ("", "Z", "X")


def children(pid: int) -> list[int]:
    """Child processes."""
    try:
        return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def peers_of(pid: int, local_port: int) -> set[int]:
    """Remote ports of a process's TCP connections on a local port."""
    inodes = set()
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                target = os.readlink(entry.path)
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[9] in inodes and int(fields[1].rpartition(":")[2], 16) == local_port:
            found.add(int(fields[2].rpartition(":")[2], 16))
    return found


@contextmanager
def started(**settings: str) -> Iterator[Pool]:
    """A core and a daemon with two workers."""
    with StubCore() as core:
        core.load_conformance(search_mode="cached", bind_mode="cached")
        # All binds come from one address; how many wrong ones meet one worker is chance.
        usual = {"OUTPOSTS_WORKERS": str(WORKERS), "OUTPOSTS_LDAP__BIND_FAILURES": "0"}
        environment = daemons.outpost_environment(core.url, core.token, **(usual | settings))
        with daemons.running("ldap", environment) as daemon:
            pool = Pool(core, daemon)
            pool.wait_for_all()
            yield pool


@pytest.fixture(scope="module")
def shared() -> Iterator[Pool]:
    """One daemon for the tests that leave it whole."""
    with started() as pool:
        yield pool


@pytest.fixture
def pool(shared: Pool) -> Pool:
    """The shared daemon with all workers and the directory of the case table."""
    shared.side.reset()
    shared.core.outpost["config"].pop("log_level", None)
    shared.wait_for_all()
    return shared


def test_two_processes_and_no_secret_in_sight(pool: Pool) -> None:
    """Workers have neither the token nor any setting in arguments or environment."""
    assert len(pool.workers()) == WORKERS
    for pid in pool.workers():
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        assert pool.core.token.encode() not in environment + arguments
        assert b"AUTHENTIK_" not in environment
        assert b"OUTPOSTS_" not in environment
    # that this would be seen: the supervisor itself was given it that way
    assert pool.core.token.encode() in Path(f"/proc/{pool.daemon.pid}/environ").read_bytes()


def test_connections_spread_and_all_answer_alike(pool: Pool) -> None:
    """200 connections: both workers have many, all see the same directory, the gauge is the sum."""
    with ExitStack() as stack:
        by_worker = pool.open(stack, CONNECTIONS)
        # 200 fair coins: fewer than 40 on one side happens once in 10^18 runs
        assert all(len(clients) >= 40 for clients in by_worker.values()), {p: len(c) for p, c in by_worker.items()}
        answers = {
            tuple(sorted(client.search(B).dns)) for clients in by_worker.values() for client in clients
        }  # fmt: skip
        assert len(answers) == 1
        assert len(answers.pop()) == 17
        assert pool.side.metric("outposts_connections") == CONNECTIONS
        assert pool.side.metric("outposts_workers_listening") == WORKERS


def test_counters_are_sums(pool: Pool) -> None:
    """A search on each worker counts twice, in the histogram's count and in its buckets."""
    name = "authentik_outpost_ldap_request_duration_seconds_count"

    def searches() -> float:
        text = pool.daemon.get("/metrics")[1].decode()
        found = re.findall(rf'(?m)^{name}{{[^}}]*type="search"[^}}]*}} (\S+)$', text)
        return sum(float(value) for value in found)

    with ExitStack() as stack:
        clients = pool.one_each(stack)
        before = searches()
        for client in clients.values():
            assert client.search(B).code == 0
        assert searches() == before + WORKERS


def test_session_end_reaches_both_workers(pool: Pool) -> None:
    """Each worker has a login of its own; ending the sessions closes the connections and empties the cache of both."""
    name = "svc"
    with ExitStack() as stack:
        clients = pool.one_each(stack, user(name))
        sessions = pool.core.sessions_of(name)
        assert len(sessions) == WORKERS
        for session in sessions:
            pool.core.end_session(session)
        for client in clients.values():
            assert client.answer(NOTICE).code == 52
        pool.core.people.passwords[name] = "another"
        # nobody may bind from a cache now: as many new connections as would meet both workers
        for _ in range(16):
            with Client(pool.daemon.address("ldap")) as fresh:
                assert fresh.bind(user(name), "pw").code == 49


def test_refresh_is_seen_by_both(pool: Pool) -> None:
    """A new user, an update from the core, and both workers have it."""
    with ExitStack() as stack:
        clients = pool.one_each(stack)
        for client in clients.values():
            assert client.search(B, filter="(cn=newcomer)").dns == []
        pool.core.users.append(factories.user(4711, "newcomer"))
        pool.side.refresh()
        for client in clients.values():
            assert len(client.search(B, filter="(cn=newcomer)").dns) == 2  # the user and its own group


def test_deactivated_user_is_cut_off_on_both(pool: Pool) -> None:
    """The listing shows it; connections and cached binds on both workers end."""
    with ExitStack() as stack:
        clients = pool.one_each(stack, user("bob"))
        for record in pool.core.users:
            if record["username"] == "bob":
                record["is_active"] = False
        pool.core.people.inactive.add("bob")
        pool.side.refresh()
        for client in clients.values():
            assert client.answer(NOTICE).code == 52
        for _ in range(16):
            with Client(pool.daemon.address("ldap")) as fresh:
                assert fresh.bind(user("bob"), "pw").code == 49


def test_provider_gone_on_both(pool: Pool) -> None:
    """Connections of a provider that is not served any more end on both workers, and nobody binds to it."""
    with ExitStack() as stack:
        clients = pool.one_each(stack)
        providers = pool.core.providers["ldap"]
        pool.core.providers["ldap"] = [factories.ldap_provider(pk=99, name="other", base_dn="dc=other")]
        pool.side.refresh()
        for client in clients.values():
            assert client.answer(NOTICE).code == 52
        for _ in range(16):
            with Client(pool.daemon.address("ldap")) as fresh:
                assert fresh.bind(ALICE, "pw").code == 50
        pool.core.providers["ldap"] = providers
        pool.side.refresh()
        with ExitStack() as again:
            pool.one_each(again)


def test_killed_worker_is_replaced_and_service_goes_on(pool: Pool) -> None:
    """SIGKILL for one worker: the other one's connections feel nothing, readiness tells, a new one comes whole."""
    with ExitStack() as stack:
        clients = pool.one_each(stack)
        victim, survivor = pool.workers()
        restarts = pool.side.metric("outposts_worker_restarts_total")
        counted = pool.side.metric("authentik_outpost_ldap_request_duration_seconds_count")
        os.kill(victim, signal.SIGKILL)
        # the listener of the dead one goes with it, so nobody is sent there
        pool.wait(lambda: gone(victim), "the worker is gone")
        for _ in range(20):
            assert clients[survivor].search(B).code == 0
            with Client(pool.daemon.address("ldap")) as fresh:
                assert fresh.bind(ALICE, "pw").code == 0
        pool.wait(lambda: pool.side.metric("outposts_worker_restarts_total") == restarts + 1, "restart counted")
        assert pool.daemon.get("/readyz")[0] == 200
        pool.wait_for_all()
        assert victim not in pool.workers() and survivor in pool.workers()
        assert pool.health()["workers"]["problems"] == []
        # what the dead one had counted is not lost
        assert pool.side.metric("authentik_outpost_ldap_request_duration_seconds_count") >= counted + 40
        with ExitStack() as again:
            for client in pool.one_each(again).values():
                assert len(client.search(B).dns) == 17
        said = [r for r in pool.daemon.records() if r["event"] == "worker ended, starting another"]
        assert said[-1]["problem"] == "was ended by SIGKILL"


def test_readiness_while_no_worker_is_there(pool: Pool) -> None:
    """Both killed: not ready, with the reason; clients are refused, not left waiting; then ready again."""
    for pid in pool.workers():
        os.kill(pid, signal.SIGKILL)
    pool.wait(lambda: pool.daemon.get("/readyz")[0] == 503, "not ready")
    pool.wait_for_all()
    assert pool.daemon.get("/readyz")[0] == 200


def test_worker_that_hangs_is_killed_for_a_revocation(pool: Pool) -> None:
    """A worker that cannot confirm the end of a session is ended, and its connections with it."""
    with ExitStack() as stack:
        clients = pool.one_each(stack)
        victim, survivor = pool.workers()
        session = pool.core.sessions_of("alice")[0]
        os.kill(victim, signal.SIGSTOP)
        pool.core.end_session(session)
        pool.wait(lambda: gone(victim), "the hung worker is ended")
        clients[victim].wait_closed()
        assert survivor in pool.workers()
        pool.wait_for_all()
        said = [r for r in pool.daemon.records() if r["event"] == "worker ended, starting another"]
        assert said[-1]["problem"].startswith("did not confirm SessionEnd")


def test_log_level_of_the_core_reaches_workers(pool: Pool) -> None:
    """At level error no worker writes a line per request."""
    pool.core.outpost["config"]["log_level"] = "error"
    pool.side.refresh()
    before = len(pool.daemon.text())
    with ExitStack() as stack:
        pool.one_each(stack)
    assert '"event":"bind"' not in pool.daemon.text()[before:]


def test_sigterm_drains_all_and_leaves_nothing() -> None:
    """Requests in flight on both workers are answered, then everything is gone."""
    with started() as pool, ExitStack() as stack:
        clients = pool.one_each(stack)
        workers = pool.workers()
        slow = pool.core.fault("/flows/executor/", delay_s=0.5)
        asked = {pid: client.request(bind_operation(user("svc"), "pw")) for pid, client in clients.items()}
        pool.core.wait_for(lambda: slow.hits >= WORKERS, "both logins are under way")
        pool.daemon.signal(signal.SIGTERM)
        for pid, client in clients.items():
            assert client.answer(asked[pid]).code == 0
        assert pool.daemon.process.wait(WAIT_S) == 0
        assert all(gone(pid) for pid in workers)
        assert not (pool.daemon.folder / "ready.json").exists()


def test_second_signal_ends_all_at_once() -> None:
    """A hung login does not hold it up, and no worker stays."""
    with started() as pool, ExitStack() as stack:
        clients = pool.one_each(stack)
        workers = pool.workers()
        hung = pool.core.fault("/flows/executor/", hang=True)
        for client in clients.values():
            client.request(bind_operation(user("svc"), "pw"))
        pool.core.wait_for(lambda: hung.hits >= WORKERS, "both logins hang")
        pool.daemon.signal(signal.SIGTERM)
        pool.wait(lambda: pool.health()["reasons"][:1] == ["stopping"], "stopping")
        pool.daemon.signal(signal.SIGTERM)
        assert pool.daemon.process.wait(WAIT_S) == 0
        _until_gone(workers)


def test_workers_die_with_their_supervisor() -> None:
    """SIGKILL for the supervisor, also while a worker is stopped and cannot see the end of its socket."""
    with started() as pool:
        workers = pool.workers()
        os.kill(workers[0], signal.SIGSTOP)
        os.kill(pool.daemon.pid, signal.SIGKILL)
        pool.daemon.process.wait(WAIT_S)
        _until_gone(workers)


def test_port_in_use_ends_the_start(tmp_path: Path) -> None:
    """A second daemon on the same port is refused, although sharing a port is what workers do."""
    with started() as pool:
        host, port = pool.daemon.address("ldap")
        environment = daemons.outpost_environment(
            pool.core.url, pool.core.token, OUTPOSTS_WORKERS="2", AUTHENTIK_LISTEN__LDAP=f"{host}:{port}"
        )
        with pytest.raises(daemons.DaemonFailed, match="ended with 1"):
            daemons.start("ldap", environment, folder=tmp_path / "second")
        with ExitStack() as stack:
            pool.one_each(stack)


@pytest.mark.parametrize("setting", ["1", "auto"])
def test_number_of_processes(setting: str) -> None:
    """One worker is the daemon itself, alone; ``auto`` is one for each usable processor."""
    expected = 1 if setting == "1" else usable_processors()
    with StubCore() as core:
        core.load_conformance(search_mode="direct", bind_mode="direct")
        environment = daemons.outpost_environment(core.url, core.token, OUTPOSTS_WORKERS=setting)
        with daemons.running("ldap", environment) as daemon:
            pool = Pool(core, daemon)
            if expected == 1:
                assert children(daemon.pid) == []
                assert "workers" not in pool.health()
            else:
                assert len(pool.workers()) == expected == pool.health()["workers"]["wanted"]
            with Client(daemon.address("ldap")) as client:
                assert client.bind(ALICE, "pw").code == 0
                assert len(client.search(B).dns) == 17


def _until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < deadline, {pid: state(pid) for pid in pids}
        time.sleep(daemons.POLL_S)
