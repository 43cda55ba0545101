"""slapd as the judge of filters: our entries under our own schema, in a back-mdb database without clever indexes.

The schema that slapd gets is what our daemon publishes at ``cn=subschema``. Only what slapd cannot hold is changed, and
every such change is one of the names below: class names with a slash, flags that forbid a load, attributes that slapd
keeps by itself.
"""

from __future__ import annotations

import base64
import re
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.slapd import LISTEN_BACKLOG_WAIT_S, START_TIMEOUT_S, Slapd
from tests import daemons
from tests.ldap_client import BASE, Client, Entry

OID_ARC = "1.3.6.1.4.1.32473"  # the arc that RFC 5612 sets aside for examples
# What slapd defines in its own way goes there under another name, defined as ours, unless it names entries or both
# sides define it alike: cn (without an order there), and what is kept or computed by the server.
PREFIX = "oracle-"
KEPT = frozenset(
    {"cn", "commonname", "ou", "dc", "objectclass", "entryuuid", "entrydn", "hassubordinates", "subschemasubentry"}
)
# Kept or computed by slapd itself; entryUUID may be loaded.
NOT_LOADED = frozenset({"objectclass", "entrydn", "hassubordinates", "subschemasubentry", "structuralobjectclass"})
_NAMES = re.compile(r"NAME (?:\(\s*([^)]*)\)|'([^']*)')")
_KEYSTRING = re.compile(r"[A-Za-z][A-Za-z0-9-]*")


def class_there(name: str) -> str:
    """The name of an object class in slapd, which takes no slash or dot in it."""
    return name.replace("/", "-").replace(".", "")


def there(name: str, known: set[str]) -> str:
    """The name of an attribute in slapd: ``known`` are those that it defines itself."""
    return PREFIX + name if name.lower() in known - KEPT else name


def names_in(definition: str) -> list[str]:
    """All names in a definition."""
    found = _NAMES.search(definition)
    return re.findall(r"[^\s']+", found[1] or found[2]) if found else []


def _launch(program: str, folder: Path, configuration: str) -> Slapd:
    """Start slapd on a free port with this configuration."""
    path = folder / "slapd.conf"
    path.write_text(configuration)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "-f", str(path), "-h", f"ldap://127.0.0.1:{port}/", "-d", "0"]
    daemon = daemons.launch("slapd", command, {}, folder=folder)
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return Slapd(daemon, ("127.0.0.1", port))
        except OSError:
            if not daemon.alive() or time.monotonic() > deadline:
                daemon.kill()
                raise RuntimeError(f"slapd does not listen:\n{daemon.tail()}") from None
            time.sleep(LISTEN_BACKLOG_WAIT_S)


def _common(folder: Path) -> str:
    return (
        f"pidfile {folder / 'slapd.pid'}\nargsfile {folder / 'slapd.args'}\nmodulepath /usr/lib/ldap\n"
        "moduleload back_mdb\nloglevel none\nsizelimit unlimited\nallow bind_v2\n"
    )


def built_in(program: str, folder: Path) -> set[str]:
    """Lower-case names and OIDs of the attribute types that slapd has without any schema file."""
    folder.mkdir()
    server = _launch(program, folder, _common(folder))
    try:
        with Client(server.address) as client:
            entry = client.search("cn=Subschema", BASE, attributes=["attributeTypes"]).entries[0]
    finally:
        server.stop()
    found: set[str] = set()
    for definition in entry["attributeTypes"]:
        found.update(name.lower() for name in (*names_in(definition), definition.split()[1]))
    return found


def schema_there(subschema: Entry, known: set[str]) -> str:
    """Our published schema as configuration of slapd. Classes are names only, all of them auxiliary."""
    lines: list[str] = []
    for definition in subschema["attributeTypes"]:
        names = names_in(definition)
        oid = definition.split()[1]
        usable = [name for name in names if _KEYSTRING.fullmatch(name)]
        if "USAGE directoryOperation" in definition:
            continue
        if known & {oid.lower(), *(name.lower() for name in names)}:
            if names[0].lower() in KEPT:
                continue
            usable = [there(names[0], known)]
            definition = definition.replace(oid, f"{OID_ARC}.1.{len(lines)}", 1)
        text = _NAMES.sub("NAME ( " + " ".join(f"'{name}'" for name in usable) + " )", definition)
        for flag in (" SINGLE-VALUE", " NO-USER-MODIFICATION"):
            text = text.replace(flag, "")
        lines.append(f"attributetype {text}")
    for definition in subschema["objectClasses"]:
        oid, (name, *_) = definition.split()[1], names_in(definition)
        if name.lower() not in ("top", "subschema"):
            lines.append(f"objectclass ( {oid} NAME '{class_there(name)}' SUP top AUXILIARY )")
    lines.append(f"objectclass ( {OID_ARC}.2.1 NAME 'oracleEntry' SUP top STRUCTURAL )")
    return "\n".join(lines) + "\n"


def ldif(entries: Iterable[Entry], known: set[str]) -> str:
    """The entries as slapd loads them, parents first."""
    records = []
    for entry in sorted(entries, key=lambda entry: len(entry.dn.split(","))):
        lines = [_line("dn", entry.dn), "objectClass: oracleEntry"]
        lines += [f"objectClass: {class_there(name)}" for name in entry["objectClass"] if name != "top"]
        for name, values in entry.attributes.items():
            if name.lower() not in NOT_LOADED:
                lines += [_line(there(name, known), value) for value in values]
        records.append("\n".join(lines) + "\n")
    return "\n".join(records)


def _line(name: str, value: str) -> str:
    return f"{name}:: {base64.b64encode(value.encode()).decode()}"


def start(program: str, folder: Path, subschema: Entry, entries: Sequence[Entry], base: str) -> tuple[Slapd, set[str]]:
    """Load the entries below ``base`` and start slapd, which the caller ends with ``stop``; with its own names."""
    known = built_in(program, folder / "probe")
    (folder / "ours.schema").write_text(schema_there(subschema, known))
    (folder / "entries.ldif").write_text(ldif(entries, known))
    (folder / "db").mkdir()
    configuration = (
        f'include {folder / "ours.schema"}\n{_common(folder)}database mdb\nsuffix "{base}"\n'
        f"directory {folder / 'db'}\nmaxsize 67108864\nindex objectClass eq\n"
    )
    (folder / "slapd.conf").write_text(configuration)
    command = [program, "-T", "add", "-q", "-s", "-f", str(folder / "slapd.conf"), "-l", str(folder / "entries.ldif")]
    loaded = subprocess.run(command, capture_output=True, text=True, check=False)
    if loaded.returncode:
        raise RuntimeError(f"slapd does not take our entries: {loaded.stderr[-2000:]}")
    return _launch(program, folder, configuration), known
