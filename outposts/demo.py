"""``outposts demo``: the embedded core and all daemons as separate processes with demo data, until Ctrl-C.

Listens on 127.0.0.1 and ::1 only unless told otherwise: the passwords are public. Everything is written to one
temporary folder, which is removed at the end; ``--data DIR`` keeps it and starts from it the next time.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import ctypes
import datetime
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from common import tls
from outposts.radius import wire
from outposts.radius.rfc import AUTHENTICATOR_SIZE, MAX_PACKET, Code

BASE_DN = "DC=ldap,DC=goauthentik,DC=io"
BOB_TOTP_SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"  # noqa: S105 - public demo data, printed on purpose
RADIUS_SECRET = "demo-secret"  # noqa: S105 - public demo data
MORE_USERS = 50
DEFAULT_PORTS = {
    "core": 9080,
    "ldap": 3389,
    "ldaps": 6636,
    "ldap metrics": 9300,
    "radius": 1812,
    "radius metrics": 9301,
}
DATAGRAMS = {"radius"}  # listeners of UDP; all others are TCP
LOOPBACK, EVERYBODY = "127.0.0.0/8, ::1/128", "0.0.0.0/0, ::/0"  # whose RADIUS requests are answered
CERTIFICATE_RENEWED_S = 7 * 86400.0  # kept data gets a new certificate when the old one is valid for less than a week
ANSWER_TIMEOUT_S = (
    4.0  # for one answer of a daemon here; before it, RADIUS may look for up to 3 s whether the core lives
)

START_TIMEOUT_S = 60.0  # a slow machine hashes the demo passwords in a few seconds; a minute means something hangs
STOP_TIMEOUT_S = 15.0  # daemons drain for up to 10 s
POLL_S = 0.05
LOG_TAIL_LINES = 25
PR_SET_PDEATHSIG = 1  # prctl(2), Linux: signal that a child gets when its parent dies


class DemoError(Exception):
    """The demo cannot go on; the text says why and what to do."""


class Stopped(Exception):
    """A signal asked us to stop."""


def main(arguments: list[str]) -> int:
    """Run the demo; returns 0 when stopped on request, 1 when something did not start or died."""
    parser = argparse.ArgumentParser(
        prog="outposts demo",
        description="Start the embedded core and all daemons with demo data on this machine. Ctrl-C stops all.",
    )
    parser.add_argument(
        "--data", metavar="DIR", help="keep the data in DIR and use it again (default: removed at exit)"
    )
    parser.add_argument(
        "--listen", metavar="ADDR", help="listen on ADDR instead of 127.0.0.1 and ::1; the demo's passwords are public!"
    )
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    kept = options.data is not None
    folder = Path(options.data).absolute() if kept else Path(tempfile.mkdtemp(prefix="outposts-demo-"))
    demo = Demo(folder, options.listen)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        demo.start()
        print(demo.what_to_try(), flush=True)
        print("ready", flush=True)
        demo.watch()
    except Stopped:
        print("\nstopping …", flush=True)
        return 0
    except DemoError as error:
        print(f"\noutposts demo: {error}", file=sys.stderr, flush=True)
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        demo.stop()
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped


class Demo:
    """The child processes, where they listen, and what they are told.

    ``folder`` holds everything that is written; ``listen`` is the one address to listen on, ``None`` for loopback.
    """

    def __init__(self, folder: Path, listen: str | None) -> None:
        self.folder = folder
        self.addresses = [listen] if listen else loopback_addresses()
        self.public = listen
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.ports: dict[str, int] = {}
        self.moved: list[str] = []

    def start(self) -> None:
        """Start core, then daemons, each when the one before answers.

        :raises DemoError: something is missing, or a process did not come up in ``START_TIMEOUT_S``.
        """
        for name, port in DEFAULT_PORTS.items():
            self.ports[name] = self._usable_port(name, port)
        if self.public:
            print(f"warning: listening on {self.public} with passwords that everybody can read in the documentation")
        (self.folder / "logs").mkdir(exist_ok=True)
        blueprint = self.folder / "demo.yaml"
        radius_certificate = self._radius_certificate()
        blueprint.touch(mode=0o600)
        blueprint.write_text(
            blueprint_text(self.core_url, radius_certificate, EVERYBODY if self.public else LOOPBACK),
        )

        with _step("embedded core"):
            data = self.folder / "core"
            data.mkdir(mode=0o700, exist_ok=True)
            self._spawn(
                "core",
                ["core", "--data", str(data), "--blueprint", str(blueprint)],
                {
                    "OUTPOSTS_CORE__LISTEN": self._listen("core"),
                    "AUTHENTIK_BOOTSTRAP_PASSWORD": "akadmin-demo-pw",
                },
            )
            self._await("core", lambda: self._get("core", "/-/health/ready/"))
        with _step("LDAP"):
            token = self._token("demo-ldap")
            self._spawn(
                "ldap",
                ["ldap"],
                {
                    "AUTHENTIK_HOST": self.core_url,
                    "AUTHENTIK_TOKEN_FILE": str(token),
                    "AUTHENTIK_LISTEN__LDAP": self._listen("ldap"),
                    "AUTHENTIK_LISTEN__LDAPS": self._listen("ldaps"),
                    "AUTHENTIK_LISTEN__METRICS": self._listen("ldap metrics"),
                    "OUTPOSTS_STATE_DIR": str(self._subfolder("ldap-state")),
                },
            )
            self._await("ldap", lambda: self._get("ldap metrics", "/readyz"))
        with _step("RADIUS"):
            token = self._token("demo-radius")
            self._eapol_file().write_text(eapol_text(self._radius_files()[0]))
            self._spawn(
                "radius",
                ["radius"],
                {
                    "AUTHENTIK_HOST": self.core_url,
                    "AUTHENTIK_TOKEN_FILE": str(token),
                    "AUTHENTIK_LISTEN__RADIUS": self._listen("radius"),
                    "AUTHENTIK_LISTEN__METRICS": self._listen("radius metrics"),
                    "OUTPOSTS_STATE_DIR": str(self._subfolder("radius-state")),
                },
            )
            self._await("radius", lambda: self._get("radius metrics", "/readyz") and self._radius_answers())

    @property
    def core_url(self) -> str:
        """Where the embedded core answers, for people and for the daemons."""
        return f"http://localhost:{self.ports['core']}" if not self.public else self._url("core")

    def what_to_try(self) -> str:
        """The text printed when all is up: addresses, people, commands to copy."""
        host = "localhost" if not self.public else bracketed(self.addresses[0])
        ldap = f"ldap://{host}:{self.ports['ldap']}"
        base = BASE_DN.lower()
        search = f"ldapsearch -x -LLL -H {ldap} -b {base} -D cn=search,ou=users,{base} -w search-demo-pw"
        code = f"{sys.executable} -c \"import pyotp; print(pyotp.TOTP('{BOB_TOTP_SECRET}').now())\""
        radius, port = self._address(), self.ports["radius"]
        radtest = f"radtest {{}} {bracketed(radius)}:{port} 0 {RADIUS_SECRET}"
        moved = "".join(f"\n  note: {line}" for line in self.moved)
        return f"""
Outposts demo, {len(DEFAULT_PORTS)} listeners, data and logs in {self.folder}{moved}

  core     {self.core_url}   akadmin / akadmin-demo-pw
  LDAP     {ldap}   base {BASE_DN}
  LDAPS    ldaps://{host}:{self.ports["ldaps"]}   (self-signed certificate)
  RADIUS   {bracketed(radius)}:{port} (UDP)   secret {RADIUS_SECRET}
  metrics  http://{host}:{self.ports["ldap metrics"]}/metrics (LDAP), on {self.ports["radius metrics"]} (RADIUS)
           health: /readyz beside them

People
  search / search-demo-pw   may search the whole directory
  alice  / alice-demo-pw    groups staff, admins (both inside everyone)
  bob    / bob-demo-pw      has a TOTP device, secret {BOB_TOTP_SECRET}
  user01 … user{MORE_USERS:02d}           entries without a password

Try it in another terminal (Debian: apt-get install ldap-utils freeradius-utils eapoltest)
  {search} '(cn=alice)'
  {search} '(memberOf=cn=staff,ou=groups,{base})' cn mail

  bob's password is followed by ; and his code of now (each code is good for one login):
  ldapwhoami -x -H {ldap} -D cn=bob,ou=users,{base} -w "bob-demo-pw;$({code})"

  The same people over RADIUS, and as a Wi-Fi client (EAP-TTLS with PAP inside):
  {radtest.format("alice alice-demo-pw")}
  {radtest.format(f'bob "bob-demo-pw;$({code})"')}
  eapol_test -c {shlex.quote(str(self._eapol_file()))} -a {radius} -p {port} -s {RADIUS_SECRET}

Ctrl-C stops everything."""

    def watch(self) -> None:
        """Wait until a signal comes (``Stopped``) or a child dies.

        :raises DemoError: a child ended by itself.
        """
        while True:
            for name, child in self.children.items():
                if child.poll() is not None:
                    raise DemoError(f"{name} ended with exit code {child.returncode}\n{self._log_tail(name)}")
            time.sleep(0.25)

    def stop(self) -> None:
        """Daemons first, core last; one SIGTERM each, SIGKILL for what is still there after ``STOP_TIMEOUT_S``."""
        for name in reversed(list(self.children)):
            child = self.children.pop(name)
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()

    def _spawn(self, name: str, command: list[str], settings: dict[str, str]) -> None:
        # settings of the person's own shell must not reach the demo: it would talk to a real core
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("AUTHENTIK_", "OUTPOSTS_"))}
        environment |= settings
        environment["TMPDIR"] = str(self._subfolder(f"{name}-tmp"))
        environment["OUTPOSTS_READY_FILE"] = str(self._ready_file(name))
        self._ready_file(name).unlink(missing_ok=True)
        parent = os.getpid()
        with (self.folder / "logs" / f"{name}.log").open("wb") as log:
            self.children[name] = subprocess.Popen(
                [sys.executable, "-m", "outposts", *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=lambda: _leave_with(parent),
            )

    def _await(self, name: str, answers: Callable[[], bool]) -> None:
        give_up = time.monotonic() + START_TIMEOUT_S
        while not (self._ready_file(name).exists() and answers()):
            if self.children[name].poll() is not None:
                code = self.children[name].returncode
                raise DemoError(f"{name} did not start (exit code {code})\n{self._log_tail(name)}")
            if time.monotonic() > give_up:
                raise DemoError(f"{name} did not answer within {START_TIMEOUT_S:.0f} s\n{self._log_tail(name)}")
            time.sleep(POLL_S)

    def _token(self, outpost: str) -> Path:
        done = subprocess.run(
            [sys.executable, "-m", "outposts", "core", "token", outpost, "--data", str(self.folder / "core")],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise DemoError(f"no token for the outpost {outpost}: {done.stderr.strip()}")
        path = self.folder / f"{outpost}.token"
        path.touch(mode=0o600)
        path.write_text(done.stdout.strip())
        return path

    def _get(self, port: str, path: str) -> bool:
        try:
            with urllib.request.urlopen(self._url(port) + path, timeout=5) as answer:
                return bool(200 <= answer.status < 300)
        except (OSError, urllib.error.URLError, ValueError):
            return False

    def _radius_answers(self) -> bool:
        """Whether a Status-Server (RFC 5997) gets its Access-Accept: the daemon could decide a login now."""
        address = self._address()
        authenticator = os.urandom(AUTHENTICATOR_SIZE)
        secret = RADIUS_SECRET.encode()
        request = wire.encode_request(Code.STATUS_SERVER, 1, secret, (), authenticator=authenticator)
        with socket.socket(_family(address), socket.SOCK_DGRAM) as asking:
            asking.settimeout(ANSWER_TIMEOUT_S)
            try:
                asking.connect((address, self.ports["radius"]))
                asking.send(request)
                return wire.verify_reply(asking.recv(MAX_PACKET), authenticator, secret).code == Code.ACCESS_ACCEPT
            except (OSError, wire.PacketError):
                return False

    def _radius_certificate(self) -> tls.CertificatePair:
        """The certificate that EAP clients are told to trust; kept data keeps it, so that they go on trusting it."""
        certificate, key = self._radius_files()
        if certificate.exists() and key.exists():
            pair = tls.CertificatePair("", "", certificate.read_text(), key.read_text())
            with contextlib.suppress(tls.CertificateError):
                if tls.expires_at(pair) > time.time() + CERTIFICATE_RENEWED_S:
                    return pair
        pair = tls.self_signed(datetime.datetime.now(datetime.UTC))
        key.touch(mode=0o600)
        key.write_text(pair.private_key_pem)
        certificate.write_text(pair.certificate_pem)
        return pair

    def _radius_files(self) -> tuple[Path, Path]:
        return self.folder / "radius-certificate.pem", self.folder / "radius-key.pem"

    def _eapol_file(self) -> Path:
        return self.folder / "eapol-ttls-pap.conf"

    def _address(self) -> str:
        """Where this machine reaches the daemons: the first listening address, loopback where that is all of them."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.addresses[0], self.addresses[0])

    def _url(self, port: str) -> str:
        return f"http://{bracketed(self._address())}:{self.ports[port]}"

    def _listen(self, name: str) -> str:
        return ",".join(f"{bracketed(address)}:{self.ports[name]}" for address in self.addresses)

    def _usable_port(self, name: str, port: int) -> int:
        kind = socket.SOCK_DGRAM if name in DATAGRAMS else socket.SOCK_STREAM
        if all(can_bind(address, port, kind) for address in self.addresses):
            return port
        for _ in range(20 if can_bind(self.addresses[0], 0, kind) else 0):
            free = free_port(self.addresses[0], kind)
            if free not in self.ports.values() and all(can_bind(address, free, kind) for address in self.addresses):
                self.moved.append(f"port {port} ({name}) is in use, took {free}")
                return free
        raise DemoError(
            f"no usable port for {name} on {', '.join(self.addresses)}: is the address one of this machine?"
        )

    def _subfolder(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def _ready_file(self, name: str) -> Path:
        return self.folder / f"{name}.ready.json"

    def _log_tail(self, name: str) -> str:
        path = self.folder / "logs" / f"{name}.log"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join(f"  {name}: {line}" for line in lines[-LOG_TAIL_LINES:])


@contextlib.contextmanager
def _step(what: str) -> Iterator[None]:
    """Say what is being started, and how long it took."""
    print(f"starting {what} …", end="", flush=True)
    begun = time.monotonic()
    try:
        yield
    except BaseException:
        print(flush=True)
        raise
    print(f" up after {time.monotonic() - begun:.1f} s", flush=True)


def _leave_with(parent: int) -> None:
    """Run in the child before exec: Ctrl-C is the parent's business, and the parent's death is ours too."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(1)


def loopback_addresses() -> list[str]:
    """127.0.0.1, and ::1 where the machine has it."""
    return [address for address in ("127.0.0.1", "::1") if can_bind(address, 0)]


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def can_bind(address: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> bool:
    """Whether a listener could be opened there now; ``kind`` says whether of TCP or UDP."""
    try:
        with socket.socket(_family(address), kind) as probe:
            if kind == socket.SOCK_STREAM:  # for UDP it would take a port that somebody else has
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError:
        return False
    return True


def free_port(address: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that was free a moment ago."""
    with socket.socket(_family(address), kind) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def bracketed(address: str) -> str:
    """An address as it stands in a URL or listen setting."""
    return f"[{address}]" if ":" in address else address


def eapol_text(certificate: Path) -> str:
    """A network for ``eapol_test``: alice by EAP-TTLS with PAP, to a server that has this certificate and no other."""
    return f"""\
network={{
    key_mgmt=WPA-EAP
    eap=TTLS
    phase2="auth=PAP"
    anonymous_identity="anonymous"
    identity="alice"
    password="alice-demo-pw"
    ca_cert="{certificate}"
}}
"""


def blueprint_text(core_url: str, radius: tls.CertificatePair | None = None, radius_clients: str = LOOPBACK) -> str:
    """The demo's objects as a version-1 blueprint: the template beside this file, filled in.

    ``radius`` is the certificate for EAP (``None``: a new one), ``radius_clients`` are the networks that may ask over
    RADIUS. JSON strings are valid YAML, so values are put in as JSON.
    """
    template = (Path(__file__).parent / "demo.yaml").read_text()
    radius = radius or tls.self_signed(datetime.datetime.now(datetime.UTC))
    users = "".join(_more_user(number) for number in range(1, MORE_USERS + 1))
    return (
        template.replace("@BASE_DN@", json.dumps(BASE_DN))
        .replace("@CORE_URL@", json.dumps(core_url))
        .replace("@BOB_TOTP_KEY@", json.dumps(base64.b32decode(BOB_TOTP_SECRET).hex()))
        .replace("@RADIUS_CLIENTS@", json.dumps(radius_clients))
        .replace("@RADIUS_SECRET@", json.dumps(RADIUS_SECRET))
        .replace("@RADIUS_CERTIFICATE@", json.dumps(radius.certificate_pem))
        .replace("@RADIUS_KEY@", json.dumps(radius.private_key_pem))
        .replace("# @MORE_USERS@", users)
    )


def _more_user(number: int) -> str:
    name = f"user{number:02d}"
    groups = ["staff"] if number % 2 else []
    return (
        f"  - model: authentik_core.user\n"
        f"    identifiers: {{username: {name}}}\n"
        f"    attrs:\n"
        f"      name: User Number {number}\n"
        f"      email: {name}@example.org\n"
        f"      attributes: {{department: {'it' if number % 3 else 'sales'}}}\n"
        + (f"      groups: [{', '.join(f'!KeyOf {group}' for group in groups)}]\n" if groups else "")
    )
