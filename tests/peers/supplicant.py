"""wpa_supplicant's ``eapol_test``: the other end of EAP over RADIUS, which checks keys and Session-Id itself."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import peer_programs
from tests.certificates import Issuer

TIMEOUT_S = 30  # of one run on a busy machine; nothing is decided by it
POLL_S = 0.02  # between looks at whether the control socket is there

TLS12 = "tls_disable_tlsv1_3=1"
TLS13 = "tls_disable_tlsv1_0=1 tls_disable_tlsv1_1=1 tls_disable_tlsv1_2=1 tls_disable_tlsv1_3=0"


@dataclass(frozen=True)
class Access:
    """How a run ended, as eapol_test says it."""

    code: int
    text: str

    @property
    def granted(self) -> bool:
        """Access-Accept, EAP-Success, and the keys of both sides agree."""
        return self.code == 0 and self.text.rstrip().endswith("SUCCESS") and "MPPE keys OK: 1  mismatch: 0" in self.text

    @property
    def refused(self) -> bool:
        """EAP-Failure in an Access-Reject, which has no keys."""
        rejected = self.text.rpartition("RADIUS message: code=3 (Access-Reject)")[2]
        return self.code != 0 and "EAP Failure" in rejected and "MS-MPPE" not in self.text

    @property
    def longest(self) -> int:
        """Octets of the longest EAP packet that came."""
        return max(
            int(length) for length in re.findall(r"decapsulated EAP packet \(code=\d+ id=\d+ len=(\d+)\)", self.text)
        )

    @property
    def session_id_agrees(self) -> bool:
        """Whether the Accept's EAP-Key-Name is the Session-Id as the peer derives it."""
        return "Locally derived EAP Session-Id matches EAP-Key-Name from server" in self.text


class Supplicant:
    """Runs eapol_test in a folder of its own."""

    def __init__(self, folder: Path, address: tuple[str, int], authority: Issuer) -> None:
        self.folder = folder
        self.address = address
        folder.mkdir(parents=True, exist_ok=True)
        self.authority = self.file("ca.pem", authority.pem)

    def file(self, name: str, text: str) -> str:
        """A file in the folder; gives its path."""
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    def run(
        self,
        secret: str,
        method: str,
        *,
        identity: str = "alice",
        password: str | None = None,
        inner: str = "",
        certificate: Issuer | None = None,
        chain: Sequence[Issuer] = (),
        versions: str = TLS12,
        authority: Issuer | None = None,
        more: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        answers: Sequence[str] = (),
    ) -> Access:
        """One login. ``answers`` are typed at the prompts, one after the other, where there is no ``password``."""
        settings = {
            "key_mgmt": "WPA-EAP",
            "eap": method,
            "identity": f'"{identity}"',
            "phase1": f'"{versions}"',
            "ca_cert": f'"{self.authority if authority is None else self.file("other.pem", authority.pem)}"',
        }
        if password is not None:
            settings["password"] = f'"{password}"'
        if inner:
            settings |= {"phase2": f'"{inner}"', "anonymous_identity": '"anonymous"'}
        if certificate is not None:
            chained = "".join(one.pem for one in (certificate, *chain))
            settings["client_cert"] = f'"{self.file("client.pem", chained)}"'
            settings["private_key"] = f'"{self.file("client.key", certificate.key_pem)}"'
        settings |= more or {}
        control = self.folder / "control"
        network = "".join(f"  {name}={value}\n" for name, value in settings.items())
        head = f"ctrl_interface={control}\n" if answers else ""
        configuration = self.file("network.conf", f"{head}network={{\n{network}}}\n")
        host, port = self.address
        command = [peer_programs.program("eapol_test"), "-c", configuration, "-a", host, "-p", str(port), "-s", secret]
        command += ["-t", str(TIMEOUT_S), *(("-W",) if answers else ()), *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                if answers:
                    self._type(control / "test", answers)
                text, _ = process.communicate(timeout=TIMEOUT_S * 2)
            finally:
                process.kill()
        return Access(process.returncode, text)

    def _type(self, control: Path, answers: Sequence[str]) -> None:
        """Be the person at the prompts: wait for each question, answer it."""
        own = self.folder / "person"
        with contextlib.suppress(FileNotFoundError):
            own.unlink()
        deadline = time.monotonic() + TIMEOUT_S
        while not control.exists():
            assert time.monotonic() < deadline, "no control socket"
            time.sleep(POLL_S)
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as person:
            person.bind(os.fspath(own))
            person.settimeout(TIMEOUT_S)
            person.connect(os.fspath(control))
            person.send(b"ATTACH")
            left = list(answers)
            while left:
                line = person.recv(4096).decode(errors="replace")
                asked = re.search(r"CTRL-REQ-(\w+)-(\d+):", line)
                if asked:
                    person.send(f"CTRL-RSP-{asked[1]}-{asked[2]}:{left.pop(0)}".encode())
