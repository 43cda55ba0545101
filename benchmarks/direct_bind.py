"""Direct binds: what our daemon adds to the core's own calls, before a core that answers at once.

A bind is three calls after each other: the answer to the first question, the next step of the flow, then the access
check and the user's record together. The same calls are made without a daemon; what a bind takes longer is ours.
"""

from __future__ import annotations

import base64
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks import ldap_data
from benchmarks.instant_core import KINDS, kind_of
from benchmarks.measure import MESSAGE_ID, PASSWORD, ROOT, Plan, Server, load, login_of
from tests import daemons, factories
from tests.fakes import StubCore
from tests.stub_flows import Identification, Login

FLOW = "/api/v3/flows/executor/bind-flow/?query=goauthentik.io%252Foutpost%252Fldap%3Dtrue"
USER = ldap_data.username(1)
CALLS = 2000  # logins by calls alone


def _request(method: str, target: str, core: StubCore, cookie: str = "", body: bytes = b"") -> bytes:
    """A call as the daemon makes it."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: 127.0.0.1:{core.port}", "Accept: application/json",
             f"X-authentik-outpost-token: {core.token}", "X-authentik-remote-ip: 127.0.0.1"]  # fmt: skip
    if cookie:
        lines.append(f"Cookie: {cookie}")
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def _call(link: socket.socket, request: bytes) -> bytes:
    """The whole answer."""
    link.sendall(request)
    data = b""
    while True:
        more = link.recv(65536)
        if not more:
            raise RuntimeError("the core closed the connection")
        data += more
        head, end, body = data.partition(b"\r\n\r\n")
        if end:
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if len(body) >= (int(lengths[0][15:]) if lengths else 0):
                return data


def _cookies(answer: bytes, known: dict[str, str]) -> str:
    for line in answer.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        if line.lower().startswith(b"set-cookie:"):
            name, _, value = line[11:].split(b";")[0].strip().decode().partition("=")
            known[name] = value
    return "; ".join(f"{name}={value}" for name, value in known.items())


def walk(core: StubCore) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The calls of one login and their answers, by kind."""
    requests: dict[str, bytes] = {}
    answers: dict[str, bytes] = {}
    known: dict[str, str] = {}
    cookie = ""
    name = {"component": "ak-stage-identification", "uid_field": USER, "password": PASSWORD}
    with socket.create_connection(("127.0.0.1", core.port), 10) as link:
        for kind, method, target, body in (
            ("ask", "GET", FLOW, b""),
            ("answer", "POST", FLOW, json.dumps(name).encode()),
            ("done", "GET", FLOW, b""),
            ("access", "GET", "/api/v3/outposts/ldap/1/check_access/?app_slug=ldap-app", b""),
            ("me", "GET", "/api/v3/core/users/me/", b""),
        ):
            requests[kind] = _request(method, target, core, cookie, body)
            assert kind_of(requests[kind]) == kind
            answers[kind] = _call(link, requests[kind])
            cookie = _cookies(answers[kind], known)
    for kind, status in zip(KINDS, (b"200", b"302", b"200", b"200", b"200"), strict=True):
        assert answers[kind].split(b" ", 2)[1] == status, (kind, answers[kind][:300])
    assert b"xak-flow-redirect" in answers["done"], answers["done"]
    return requests, answers


@contextmanager
def instant(core: StubCore, answers: dict[str, bytes]) -> Iterator[int]:
    """The instant core in front of a stub core; gives its port."""
    command = [sys.executable, "-m", "benchmarks.instant_core", "127.0.0.1", str(core.port)]
    given = json.dumps({kind: base64.b64encode(answer).decode() for kind, answer in answers.items()})
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(given + "\n")
            process.stdin.flush()
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait(10)


def calls_alone(port: int, requests: dict[str, bytes], rounds: int = CALLS) -> float:
    """Median of a login's calls without a daemon, in ms: two after each other, then two together."""
    taken = []
    with socket.create_connection(("127.0.0.1", port), 10) as one, socket.create_connection(("127.0.0.1", port)) as two:
        for link in (one, two):
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(rounds):
            started = time.perf_counter()
            _call(one, requests["answer"])
            _call(one, requests["done"])
            two.sendall(requests["me"])
            _call(one, requests["access"])
            _call(two, b"")
            taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1000


def measure_added(plan: Plan) -> tuple[float, float, float, float]:
    """Medians in ms: what a bind adds, the calls alone, the bind, our processor time for it."""
    with ExitStack() as stack:
        core = stack.enter_context(StubCore())
        core.users = [factories.user(1, USER)]
        core.executor.flows["bind-flow"] = [Identification(), Login()]
        core.providers["ldap"] = [factories.ldap_provider(search_mode="direct", bind_mode="direct")]
        core.outpost["config"]["log_level"] = "warning"
        core.people.passwords = {USER: PASSWORD}
        requests, answers = walk(core)
        port = stack.enter_context(instant(core, answers))
        environment = daemons.outpost_environment(f"http://127.0.0.1:{port}", core.token)
        daemon = stack.enter_context(daemons.running("ldap", environment))
        server = Server("outposts", daemon.address("ldap"), daemon.pid, "cn")
        bind = login_of(USER, MESSAGE_ID)
        job = server.job(plan, [bind], 1)
        wholes, calls, spent = [], [], []
        for _ in range(plan.rounds):
            calls.append(calls_alone(port, requests))
            before = sum(server.cpu_s())
            result = load(job)
            spent.append((sum(server.cpu_s()) - before) * 1000 / result["answers_with_warm_up"])
            wholes.append(result["p50_us"] / 1000)
        asked = len(core.called("/flows/executor/", "POST"))
        assert asked <= 1, f"{asked} logins went past the instant core"
    whole, alone = statistics.median(wholes), statistics.median(calls)
    return whole - alone, alone, whole, statistics.median(spent)


if __name__ == "__main__":
    print(
        "added {:.2f} ms, calls alone {:.2f} ms, bind {:.2f} ms, processor time {:.2f} ms".format(
            *measure_added(Plan())
        )
    )
