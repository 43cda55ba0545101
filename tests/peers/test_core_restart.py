"""The core is killed and started again while clients search and bind: nobody of them notices."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.ldap_client import SUB, Client
from tests.peers.suite import ALICE, ALICE_PASSWORD, BASE, SEARCH, SEARCH_PASSWORD, Suite, running

ENOUGH = 50  # requests of each kind that must have been answered in each phase
RECONNECT_S = 5.0  # after an outage of at most 10 s, counted from when the core listens again


@pytest.fixture
def own() -> Iterator[Suite]:
    """A suite that this test may break."""
    with running() as started:
        yield started


class Worker:
    """A client that repeats one request over and over and counts the result codes."""

    def __init__(self, suite: Suite, kind: str) -> None:
        self.codes: Counter[int | str] = Counter()
        self.kind = kind
        self._suite = suite
        self._halt = threading.Event()
        self._thread = threading.Thread(target=self._work, name=kind)
        self._thread.start()

    def _work(self) -> None:
        try:
            with Client(self._suite.ldap.address("ldap")) as client:
                first = client.bind(SEARCH, SEARCH_PASSWORD).code
                self.codes[first] += 1
                while not self._halt.is_set():
                    if self.kind == "search":
                        answer = client.search(BASE, SUB, "(cn=alice)")
                        self.codes[answer.code if answer.entries else "empty"] += 1
                    else:
                        self.codes[client.bind(ALICE, ALICE_PASSWORD).code] += 1
        except Exception as error:
            self.codes[repr(error)] += 1

    def stop(self) -> None:
        """End it."""
        self._halt.set()
        self._thread.join()


def connected(suite: Suite) -> bool:
    """Whether the daemon says that its WebSocket is up."""
    text = suite.ldap.get("/metrics")[1].decode()
    found = re.search(r"(?m)^authentik_outpost_connection\{[^}]*\} (\S+)$", text)
    return found is not None and float(found[1]) == 1


def test_cached_searches_and_binds_survive_a_restart_of_the_core(own: Suite) -> None:
    """Every search and every bind within its lifetime is 0; the WebSocket comes back; new logins are 52, then 0."""
    daemon = own.ldap
    daemon.wait_for(lambda: connected(own), 10.0, lambda: "WebSocket at the start")
    with Client(daemon.address("ldap")) as client:
        assert client.bind(ALICE, ALICE_PASSWORD).code == 0
        assert client.bind(SEARCH, SEARCH_PASSWORD).code == 0
    workers = [Worker(own, "search"), Worker(own, "bind")]
    try:

        def progress(what: str) -> None:
            """Wait until each worker has done enough since now."""
            goals = [worker.codes.total() + ENOUGH for worker in workers]
            daemon.wait_for(
                lambda: all(worker.codes.total() >= goal for worker, goal in zip(workers, goals, strict=True)),
                20.0,
                lambda: f"{what}: {[dict(worker.codes) for worker in workers]}",
            )

        progress("with the core")
        own.core.kill()
        daemon.wait_for(lambda: not connected(own), 10.0, lambda: "WebSocket is seen to be down")
        progress("without the core")
        with Client(daemon.address("ldap")) as client:
            assert client.bind(ALICE, "not seen before").code == 52
            assert daemon.get("/readyz")[0] == 200
        own.restart_core()
        daemon.wait_for(lambda: connected(own), RECONNECT_S, lambda: "WebSocket is back")
        progress("with the core again")
        with Client(daemon.address("ldap")) as client:
            assert client.bind(ALICE, "wrong").code == 49
    finally:
        for worker in workers:
            worker.stop()
    assert [set(worker.codes) for worker in workers] == [{0}, {0}]
