"""radsecproxy: takes RADIUS over UDP and speaks RadSec to the daemon."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import daemons, peer_programs

WAIT_S = 20.0  # for it to connect, or to be refused


def said(daemon: daemons.Daemon, event: str) -> int:
    """How often the daemon has logged an event."""
    return sum(one["event"] == event for one in daemon.records())


@contextmanager
def radsecproxy(folder: Path, daemon: daemons.Daemon, secret: str, event: str) -> Iterator[int]:
    """UDP in, RadSec to the daemon out; gives the UDP port when the daemon has logged this event anew.

    ``folder`` holds ca.pem, client.pem and client.key; ``secret`` is that of UDP clients.
    """
    program = peer_programs.program("radsecproxy")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    path, log = folder / "radsecproxy.conf", folder / "radsecproxy.log"
    before = said(daemon, event)
    path.write_text(
        f"""
ListenUDP 127.0.0.1:{port}
LogDestination file://{log}
tls default {{
    CACertificateFile {folder}/ca.pem
    CertificateFile {folder}/client.pem
    CertificateKeyFile {folder}/client.key
}}
client switches {{
    host 127.0.0.1
    type udp
    secret "{secret}"
}}
server outpost {{
    host 127.0.0.1
    port {daemon.address("radsec")[1]}
    type tls
    CertificateNameCheck off
    StatusServer on
}}
realm * {{
    server outpost
    accountingServer outpost
}}
"""
    )
    with log.open("wb") as sink:
        process = subprocess.Popen([program, "-f", "-c", str(path)], stdout=sink, stderr=sink, start_new_session=True)
    try:
        daemon.wait_for(lambda: said(daemon, event) > before, WAIT_S, lambda: event + log.read_text())
        yield port
    finally:
        process.terminate()
        process.wait(WAIT_S)
