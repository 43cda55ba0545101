"""FreeRADIUS as the peer: its files module for PAP, rlm_rest against the same core, EAP with the same certificate."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

START_S = 20.0  # it loads its dictionaries, then listens
LIBRARIES = "/usr/lib/freeradius"
DICTIONARIES = "/usr/share/freeradius"


@dataclass
class FreeRadius:
    """A running one. ``port`` takes PAP from the files module, ``rest_port`` asks the core, ``eap_port`` speaks EAP."""

    process: subprocess.Popen[bytes]
    port: int
    rest_port: int
    eap_port: int

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)


def program() -> str:
    """Where it is, or the line that installs it."""
    found = shutil.which("freeradius") or shutil.which("freeradius", path="/usr/sbin:/usr/local/sbin")
    if not found or not Path(f"{LIBRARIES}/rlm_rest.so").exists():
        raise SystemExit("FreeRADIUS or its rlm_rest is not installed; run scripts/install-peers")
    return found


def version() -> str:
    """Its version."""
    text = subprocess.run([program(), "-v"], capture_output=True, text=True, check=False).stdout
    return text.split("FreeRADIUS Version ")[-1].split(",")[0].strip()


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port


def _server(name: str, port: int, **sections: str) -> str:
    """A virtual server; each section is its lines. ``port`` 0: an inner one, which does not listen."""
    listen = f"listen {{\ntype = auth\nipaddr = 127.0.0.1\nport = {port}\n}}\n" if port else ""
    parts = "".join(f"{section.replace('_', '-')} {{\n{lines}\n}}\n" for section, lines in sections.items())
    return f"server {name} {{\n{listen}{parts}}}\n"


def start(
    folder: Path, *, secret: str, password: str, core_url: str, calls: list[tuple[str, str]],
    certificate: Path, key: Path, ca: Path,
) -> FreeRadius:  # fmt: skip
    """Start it. ``calls``: (method, path) that rlm_rest makes of the core for one login, three of them."""
    folder.mkdir(parents=True)
    port, rest_port, eap_port = _free_port(), _free_port(), _free_port()
    (folder / "users").write_text(f'DEFAULT Cleartext-Password := "{password}"\n')
    sections = ("authorize", "authenticate", "post-auth")
    rest = "\n".join(
        f"{section} {{\n uri = \"${{..connect_uri}}{path.replace('%', '%%')}\"\n method = '{method.lower()}'\n"
        + (" body = 'json'\n data = '{\"uid_field\":\"%{User-Name}\",\"password\":\"%{User-Password}\"}'\n"
           if method == "POST" else "")
        + " tls = ${..tls}\n}"
        for section, (method, path) in zip(sections, calls, strict=True)
    )  # fmt: skip
    configuration = f"""
prefix = {folder}
localstatedir = {folder}
name = radiusd
libdir = {LIBRARIES}
raddbdir = {folder}
logdir = {folder}
run_dir = {folder}
dictionary_dir = {DICTIONARIES}
cleanup_delay = 0
max_requests = 65536
hostname_lookups = no
log {{
    destination = files
    file = {folder}/radius.log
    auth = no
}}
security {{
    reject_delay = 0
    allow_vulnerable_openssl = yes
}}
thread pool {{
    start_servers = 8
    max_servers = 32
    min_spare_servers = 3
    max_spare_servers = 10
    max_requests_per_server = 0
}}
client here {{
    ipaddr = 127.0.0.0/8
    secret = {secret}
}}
modules {{
    files {{
        filename = {folder}/users
    }}
    pap {{
    }}
    rest {{
        connect_uri = "{core_url}"
        tls {{
        }}
        {rest}
        pool {{
            start = 16
            min = 16
            max = 64
            spare = 16
            uses = 0
            lifetime = 0
            idle_timeout = 0
        }}
    }}
    eap {{
        default_eap_type = ttls
        timer_expire = 60
        max_sessions = 65536
        tls-config common {{
            private_key_file = {key}
            certificate_file = {certificate}
            ca_file = {ca}
            cipher_list = "DEFAULT"
            tls_min_version = "1.2"
            tls_max_version = "1.2"
            ecdh_curve = ""
            cache {{
                enable = no
            }}
        }}
        tls {{
            tls = common
        }}
        ttls {{
            tls = common
            default_eap_type = gtc
            virtual_server = inner
        }}
        gtc {{
            auth_type = PAP
        }}
    }}
}}
"""
    pap = "Auth-Type PAP {\npap\n}"
    chosen = "rest\nupdate control {\nAuth-Type := rest\n}"
    configuration += _server("pap", port, authorize="files\npap", authenticate=pap)
    configuration += _server(
        "rest", rest_port, authorize=chosen, authenticate="Auth-Type rest {\nrest\n}", post_auth="rest"
    )
    configuration += _server("eap", eap_port, authorize="eap {\nok = return\n}", authenticate="eap")
    configuration += _server("inner", 0, authorize="files\npap", authenticate=pap)
    (folder / "radiusd.conf").write_text(configuration)
    process = subprocess.Popen(
        [program(), "-f", "-d", str(folder), "-n", "radiusd"],
        stdout=(folder / "out").open("wb"), stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + START_S
    while not all(_taken(one) for one in (port, rest_port, eap_port)):
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            log = (folder / "out").read_text() + (
                (folder / "radius.log").read_text() if (folder / "radius.log").exists() else ""
            )
            raise RuntimeError(f"FreeRADIUS did not start: {log[-3000:]}")
        time.sleep(0.05)
    return FreeRadius(process, port, rest_port, eap_port)


def _taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        try:
            opened.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
