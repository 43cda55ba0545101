"""RADIUS: our daemon beside FreeRADIUS, measured alternately on the same machine, medians reported.

* Requests that need no core (Status-Server, copies of a request, packets with a wrong signature) beside FreeRADIUS's
  PAP from its files module.
* PAP logins through a core that answers at once (``learned_core``) beside FreeRADIUS's rlm_rest, which makes the same
  number of calls to the same core.
* EAP handshakes in an eapol_test loop with the same certificate: processor time of the server per handshake.
* What a handshake costs others, and what 10,000 conversations that nobody goes on with cost in memory.
"""

from __future__ import annotations

import datetime
import json
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from benchmarks import freeradius
from benchmarks.measure import ROOT, Row, Server
from outposts.radius.rfc import Attribute, Code
from outposts.radius.wire import encode_request, hide_password
from tests import certificates, daemons, factories
from tests.fakes import StubCore
from tests.stub_flows import Identification, Login

SECRET = "bench-secret"
USER, PASSWORD = "alice", "bench-pw"
FLOW, CERTIFICATE_FLOW = "bind-flow", "certificate-flow"
CERTIFICATE_CLIENT, CERTIFICATE_CLIENTS = "127.9.9.9", "127.9.0.0/16"
PROVIDER = 1
HALF_OPEN = 10_000
SOURCES = 250  # loopback addresses that half-open conversations come from: a client may begin 100 a second
# Our own limits, raised so that the run does not meet them, and printed.
RAISED = {"OUTPOSTS_RADIUS__STATUS_RATE": "0", "OUTPOSTS_RADIUS__MAX_FLOWS": "256"}


@dataclass(frozen=True)
class Plan:
    """How long and how often. ``rounds`` alternate between the two servers."""

    sockets: int = 16
    seconds: float = 4.0
    warm_up_s: float = 1.0
    rounds: int = 3
    handshakes: int = 100
    half_open: int = HALF_OPEN
    workers: int = 1
    rsa: bool = False  # the server's key: RSA with 2,048 bits instead of ECDSA with P-256


QUICK = Plan(seconds=1.0, warm_up_s=0.3, rounds=1, handshakes=10, half_open=500)


def load(job: dict[str, Any]) -> dict[str, Any]:
    """Run the load generator in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load_udp"],
        input=json.dumps(job), capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"load generator: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def provider(pk: int, flow: str, networks: str) -> dict[str, Any]:
    """A provider's record."""
    return {
        "pk": pk,
        "name": flow,
        "application_slug": "bench",
        "auth_flow_slug": flow,
        "client_networks": networks,
        "shared_secret": SECRET,
        "mfa_support": True,
        "certificate": None,
    }


def wrong_signature() -> bytes:
    """An Access-Request whose Message-Authenticator is of another secret."""
    authenticator = secrets.token_bytes(16)
    hidden = hide_password(b"another", authenticator, PASSWORD.encode())
    attributes = ((Attribute.USER_NAME, USER.encode()), (Attribute.USER_PASSWORD, hidden))
    return encode_request(Code.ACCESS_REQUEST, 1, b"another", attributes, authenticator=authenticator)


def elliptic_certificate(issuer: certificates.Issuer) -> tuple[str, str]:
    """Key and certificate of a server with ECDSA and P-256."""
    made = issuer.issue(("radius.example",), purposes=())
    return made.key_pem, made.pem


def rsa_certificate() -> tuple[str, str]:
    """The same with RSA and 2,048 bits, self-signed."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "radius.example")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    return key.private_bytes(*form).decode(), pem


class Bench:
    """Everything that runs, and the rows."""

    def __init__(self, plan: Plan, say: Callable[[str], None], stack: ExitStack) -> None:
        self.plan = plan
        self.say = say
        self.stack = stack
        self.rows: list[Row] = []
        self.busy = 0.0
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outposts-bench-")))
        self.authority = certificates.authority()
        client = self.authority.issue((USER,))
        key, certificate = rsa_certificate() if plan.rsa else elliptic_certificate(self.authority)
        self.files = {}
        for name, text in {
            "server.pem": certificate,
            "server.key": key,
            "ca.pem": self.authority.pem,
            "trusted.pem": certificate if plan.rsa else self.authority.pem,
            "client.pem": client.pem,
            "client.key": client.key_pem,
        }.items():
            self.files[name] = self.folder / name
            self.files[name].write_text(text)
        self._start_ours()
        self._start_theirs()

    def _start_ours(self) -> None:
        core = self.stack.enter_context(StubCore("radius"))
        # Certificates need a flow that asks for no password: a provider of its own, for clients with other addresses.
        core.providers["radius"] = [
            provider(PROVIDER, FLOW, "127.0.0.0/8"),
            provider(PROVIDER + 1, CERTIFICATE_FLOW, CERTIFICATE_CLIENTS),
        ]
        core.executor.flows[CERTIFICATE_FLOW] = [Identification(password=False), Login()]
        core.users = [factories.user(1, USER)]
        core.people.passwords = {USER: PASSWORD}
        core.outpost["config"]["log_level"] = "warning"  # FreeRADIUS does not write a line per request either
        core.outpost["config"]["x_radius_eap_types"] = ["tls", "ttls", "peap"]
        core.outpost["config"]["x_radius_client_ca"] = {CERTIFICATE_FLOW: self.authority.pem, "*": ""}
        instant = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.learned_core", core.url], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self.stack.callback(instant.wait)
        self.stack.callback(instant.terminate)
        assert instant.stdout is not None
        self.core_url = f"http://127.0.0.1:{int(instant.stdout.readline())}"
        environment = daemons.outpost_environment(
            self.core_url, core.token, **RAISED, OUTPOSTS_WORKERS=str(self.plan.workers),
            OUTPOSTS_RADIUS__TLS_CERTIFICATE=str(self.files["server.pem"]),
            OUTPOSTS_RADIUS__TLS_KEY=str(self.files["server.key"]),
        )  # fmt: skip
        daemon = self.stack.enter_context(daemons.running("radius", environment))
        self.address = daemon.address("radius")
        self.ours = Server("outposts", self.address, daemon.pid, "")
        for _ in range(2):  # the first asks for the challenge, later ones begin with the answer
            self._login(self.address)
        before = len(core.calls)
        self._login(self.address)
        if len(core.calls) != before:
            raise RuntimeError("the instant core did not learn the login")
        query = "?query=goauthentik.io%252Foutpost%252Fradius%3Dtrue"
        self.calls = [("POST", f"/api/v3/flows/executor/{FLOW}/{query}"),
                      ("GET", f"/api/v3/flows/executor/{FLOW}/{query}"),
                      ("GET", f"/api/v3/outposts/radius/{PROVIDER}/check_access/?app_slug=bench")]  # fmt: skip

    def _start_theirs(self) -> None:
        self.peer = freeradius.start(
            self.folder / "freeradius", secret=SECRET, password=PASSWORD, core_url=self.core_url,
            calls=self.calls, certificate=self.files["server.pem"], key=self.files["server.key"],
            ca=self.files["ca.pem"],
        )  # fmt: skip
        self.stack.callback(self.peer.stop)
        self.theirs = Server("freeradius", ("127.0.0.1", self.peer.port), self.peer.process.pid, "")
        self._login(("127.0.0.1", self.peer.port))
        self._login(("127.0.0.1", self.peer.rest_port))

    def _login(self, address: tuple[str, int]) -> None:
        """One login, which must be accepted."""
        done = subprocess.run(
            ["radclient", "-r", "1", "-t", "10", f"{address[0]}:{address[1]}", "auth", SECRET],
            input=f'User-Name = "{USER}", User-Password = "{PASSWORD}", Message-Authenticator = 0x00',
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            log = self.folder / "freeradius" / "radius.log"
            raise RuntimeError(done.stdout + done.stderr + (log.read_text()[-2000:] if log.exists() else ""))

    # -- rates -------------------------------------------------------------------------------------------------------

    def _job(self, address: tuple[str, int], kind: str = "pap", **more: Any) -> dict[str, Any]:
        return {
            "address": list(address), "secret": SECRET, "kind": kind, "user": USER, "password": PASSWORD,
            "sockets": self.plan.sockets, "count": 256 * self.plan.sockets * 4, "expect": int(Code.ACCESS_ACCEPT),
            "warm_up_s": self.plan.warm_up_s, "seconds": self.plan.seconds,
        } | more  # fmt: skip

    def rates(self) -> None:
        """The rates, each in rounds that alternate between the servers."""
        noise = [wrong_signature().hex() for _ in range(9)]
        theirs = self._job(("127.0.0.1", self.peer.port))
        jobs = {
            "Status-Server/s, beside PAP from files": (self._job(self.address, "status"), 1, theirs, 1),
            "copies of a request/s, beside PAP from files": (
                self._job(self.address, copies=True, count=256 * self.plan.sockets), 1, theirs, 1),
            "wrong signatures/s (and one Status-Server in ten), beside PAP from files": (
                self._job(self.address, "status", noise=noise), 10, theirs, 1),
            "PAP logins/s through the core, beside rlm_rest": (
                self._job(self.address), 1, self._job(("127.0.0.1", self.peer.rest_port)), 1),
        }  # fmt: skip
        for title, (our_job, our_factor, their_job, their_factor) in jobs.items():
            self.say(f"measuring {title} …")
            results: list[list[dict[str, Any]]] = [[], []]
            for _ in range(self.plan.rounds):
                for which, (server, job, factor) in enumerate(
                    ((self.ours, our_job, our_factor), (self.theirs, their_job, their_factor))
                ):
                    before = server.cpu_s()
                    result = load(job)
                    things = result["answers_with_warm_up"] * factor
                    spent = [(end - start) * 1e6 for end, start in zip(server.cpu_s(), before, strict=True)]
                    result |= {"user_us": spent[0] / things, "cpu_us": sum(spent) / things}
                    result["rate"] *= factor
                    results[which].append(result)
            self._rows(title, results)

    def _rows(self, title: str, results: list[list[dict[str, Any]]]) -> None:
        middle = [sorted(one, key=lambda result: result["rate"])[len(one) // 2] for one in results]
        self.busy = max(self.busy, *(one["generator_busy"] for one in middle))
        names = ("outposts", "freeradius")
        note = "; ".join(
            f"{name} p50 {one['p50_us'] / 1000:.2f} ms, p99 {one['p99_us'] / 1000:.2f} ms"
            for name, one in zip(names, middle, strict=True)
        )
        ours, theirs = middle
        self.rows.append(
            Row(title, f"{ours['rate']:,.0f}", f"{theirs['rate']:,.0f}", ours["rate"] / theirs["rate"], note)
        )
        self.rows.append(
            Row(
                "  processor time per request, µs (without the kernel's)",
                f"{ours['cpu_us']:.1f} ({ours['user_us']:.1f})",
                f"{theirs['cpu_us']:.1f} ({theirs['user_us']:.1f})",
                theirs["cpu_us"] / max(ours["cpu_us"], 0.01),
            )
        )

    # -- handshakes --------------------------------------------------------------------------------------------------

    def _supplicant(self, method: str) -> Path:
        """A configuration file of eapol_test."""
        inner = {
            "ttls": f'eap=TTLS\nphase2="auth=PAP"\nidentity="{USER}"\nanonymous_identity="anonymous"\n'
            f'password="{PASSWORD}"\n',
            "tls": f'eap=TLS\nidentity="{USER}"\nclient_cert="{self.files["client.pem"]}"\n'
            f'private_key="{self.files["client.key"]}"\n',
        }[method]
        file = self.folder / f"{method}.conf"
        file.write_text(
            f'network={{\nkey_mgmt=IEEE8021X\n{inner}ca_cert="{self.files["trusted.pem"]}"\n'
            'phase1="tls_disable_tlsv1_3=1"\n}\n'
        )
        return file

    def _handshakes(self, file: Path, port: int, count: int) -> None:
        """``count`` logins one after another, each a whole handshake; every one must succeed."""
        for _ in range(count):
            done = subprocess.run(
                [
                    *("eapol_test", "-c", str(file), "-a", "127.0.0.1", "-p", str(port), "-s", SECRET, "-t", "10"),
                    *("-A", CERTIFICATE_CLIENT if file.stem == "tls" else "127.0.0.1"),
                ],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode or "SUCCESS" not in done.stdout[-200:]:
                raise RuntimeError(f"eapol_test failed: {done.stdout[-3000:]}")

    def handshakes(self) -> None:
        """Processor time of a whole handshake, and how long others wait meanwhile."""
        for method in ("ttls", "tls"):
            title = {"ttls": "EAP-TTLS/PAP", "tls": "EAP-TLS"}[method] + (", RSA-2048" if self.plan.rsa else ", P-256")
            self.say(f"measuring {title} handshakes …")
            file = self._supplicant(method)
            spent: list[list[float]] = [[], []]
            for _ in range(self.plan.rounds):
                for which, (server, port) in enumerate(
                    ((self.ours, self.address[1]), (self.theirs, self.peer.eap_port))
                ):
                    self._handshakes(file, port, 2)
                    before = sum(server.cpu_s())
                    self._handshakes(file, port, self.plan.handshakes)
                    spent[which].append((sum(server.cpu_s()) - before) * 1000 / self.plan.handshakes)
            ours, theirs = (statistics.median(one) for one in spent)
            self.rows.append(
                Row(f"{title}, processor time per handshake, ms", f"{ours:.2f}", f"{theirs:.2f}", theirs / ours)
            )
        self._others()

    def _others(self) -> None:
        """What Status-Server waits while four clients do handshakes."""
        file = self._supplicant("ttls")
        stop = threading.Event()

        def shake() -> None:
            while not stop.is_set():
                self._handshakes(file, self.address[1], 1)

        threads = [threading.Thread(target=shake) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            result = load(self._job(self.address, "status", sockets=1, count=2560))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        self.rows.append(
            Row(
                f"Status-Server while four clients do handshakes{', RSA-2048' if self.plan.rsa else ', P-256'}, ms",
                ", ".join(f"{name} {result[f'{name}_us'] / 1000:.2f}" for name in ("p50", "p99", "max")),
                "", 0.0,
            )
        )  # fmt: skip

    # -- memory ------------------------------------------------------------------------------------------------------

    def memory(self) -> None:
        """What conversations cost that were begun and not gone on with."""
        self.say(f"beginning {self.plan.half_open} EAP conversations …")
        before = self.ours.memory()[0]
        identity = b"\x02\x01\x00\x0a\x01alice"
        begun = 0
        number = 0
        while begun < self.plan.half_open:
            source = f"127.0.{1 + number // 250 % 4}.{1 + number % SOURCES}"
            number += 1
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
                opened.bind((source, 0))
                opened.settimeout(2)
                for identifier in range(10):
                    attributes = ((Attribute.USER_NAME, USER.encode()), (Attribute.EAP_MESSAGE, identity))
                    opened.sendto(
                        encode_request(Code.ACCESS_REQUEST, identifier, SECRET.encode(), attributes,
                                       authenticator=os.urandom(16)), self.address)  # fmt: skip
                    answer = opened.recv(4096)
                    if answer[0] != Code.ACCESS_CHALLENGE:
                        raise RuntimeError(f"code {answer[0]} instead of Access-Challenge")
                    begun += 1
        after = self.ours.memory()[0]
        self.rows.append(
            Row(f"memory, MiB; with {begun:,} conversations begun", f"{before:.0f}; {after:.0f}",
                f"{self.theirs.memory()[0]:.0f}", self.theirs.memory()[0] / before)
        )  # fmt: skip


def handshakes(plan: Plan, say: Callable[[str], None]) -> list[Row]:
    """The handshakes alone, to be had with another key too."""
    with ExitStack() as stack:
        bench = Bench(plan, say, stack)
        bench.handshakes()
        return bench.rows


def run(plan: Plan, say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Do all measurements. Returns the table's rows and facts worth printing beside them."""
    for name in ("radclient", "eapol_test"):
        if shutil.which(name) is None:
            raise SystemExit(f"{name} is not installed; run scripts/install-peers")
    with ExitStack() as stack:
        say("starting our daemon and FreeRADIUS …")
        bench = Bench(plan, say, stack)
        bench.rates()
        bench.handshakes()
        bench.memory()
        processes = "one process" if plan.workers == 1 else f"a supervisor and {plan.workers} workers"
        facts = [
            f"{plan.sockets} sockets with one request each; {plan.rounds} alternating rounds of {plan.seconds:g} s, "
            f"medians; handshakes: {plan.handshakes} one after another in each round, TLS 1.2",
            f"FreeRADIUS {freeradius.version()}, its thread pool; ours {processes}; both without a line per request",
            "a login is three calls to the core: answer, result, access check; rlm_rest makes the same three",
            "our limits for this run: " + ", ".join(f"{name}={value}" for name, value in RAISED.items()),
            f"the load generator used {bench.busy:.0%} of one core at most; the core runs here, too",
        ]
        return bench.rows, facts
