"""OpenLDAP's slapd as the peer: back-mdb with equality indexes, loaded with the same entries as ours.

The schema is made from the attributes that the entries really have, so the same names carry the same values on both
sides. Settings are Debian's defaults, apart from the size limit, which would cut a full listing.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import daemons

SCHEMAS = ("core", "cosine", "inetorgperson", "nis")
INDEXED = ("objectClass", "cn", "uid", "mail", "sAMAccountName", "uidNumber", "gidNumber", "member", "memberOf")
EQUALITY = dict.fromkeys(INDEXED, "eq")
BARE = {"objectClass": "eq"}  # what slapd cannot do without
FULL = EQUALITY | {"mail": "pres,eq,sub"}
DN_SYNTAX = {"member", "memberOf"}
# Kept by slapd itself for every entry and not ours to give.
OPERATIONAL = {"createTimestamp", "modifyTimestamp", "entryUUID"}
EXTRA_CLASSES = ("user", "goauthentik-ldap-user")  # slapd takes no slash in a name
PERSON_CLASSES = ("top", "person", "organizationalPerson", "inetOrgPerson", "posixAccount", *EXTRA_CLASSES)
OID_ARC = "1.3.6.1.4.1.32473"  # the arc that RFC 5612 sets aside for examples
START_TIMEOUT_S = 20.0
LISTEN_BACKLOG_WAIT_S = 0.05

Attributes = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Entry:
    """One entry of the data, as ours serves it."""

    dn: str
    attributes: Attributes


def known_attributes(folder: Path) -> set[str]:
    """Lower-case names that the standard schema files and slapd itself define."""
    names = {"objectclass", "name", "entrydn", "createtimestamp", "modifytimestamp", "cn", "userpassword", "member"}
    for schema in SCHEMAS:
        # what slapd defines by itself is left in the files as comments; names of classes do no harm here
        text = (folder / f"{schema}.schema").read_text()
        for several, single in re.findall(r"NAME\s+(?:\(([^)]*)\)|'([^']*)')", text):
            names.update(name.lower() for name in re.findall(r"[\w.-]+", several or single))
    return names


def schema_for(entries: Iterable[Entry], folder: Path) -> str:
    """Definitions of the attributes and of one auxiliary class that the standard schema lacks."""
    names = {name for entry in entries for name in entry.attributes} - {"objectClass"} - OPERATIONAL
    missing = sorted(name for name in names if name.lower() not in known_attributes(folder))
    lines = []
    for number, name in enumerate(missing):
        is_dn = name in DN_SYNTAX
        matching = "distinguishedNameMatch" if is_dn else "caseIgnoreMatch"
        syntax = "1.3.6.1.4.1.1466.115.121.1.12" if is_dn else "1.3.6.1.4.1.1466.115.121.1.15"
        lines.append(
            f"attributetype ( {OID_ARC}.1.{number} NAME '{name}' EQUALITY {matching} "
            + ("" if is_dn else "SUBSTR caseIgnoreSubstringsMatch ")
            + f"SYNTAX {syntax} )"
        )
    may = " $ ".join(sorted(names | {"userPassword"}))
    lines.append(f"objectclass ( {OID_ARC}.2.1 NAME 'outpostsEntry' SUP top AUXILIARY MAY ( {may} ) )")
    # The structural class of all but people: groupOfNames would want a member, and a group may have none.
    lines.append(f"objectclass ( {OID_ARC}.2.2 NAME 'outpostsObject' SUP top STRUCTURAL MAY ( cn $ ou $ dc ) )")
    for number, name in enumerate(EXTRA_CLASSES):
        lines.append(f"objectclass ( {OID_ARC}.3.{number} NAME '{name}' SUP top AUXILIARY )")
    return "\n".join(lines) + "\n"


def ssha(password: str) -> str:
    """slapd's default password hash."""
    salt = os.urandom(8)
    digest = hashlib.sha1(password.encode() + salt).digest()
    return "{SSHA}" + base64.b64encode(digest + salt).decode()


def ldif(entries: Iterable[Entry], base: str, passwords: Mapping[str, str]) -> Iterable[str]:
    """The data as LDIF; ``passwords`` by DN. People keep as many object classes as they have with us."""
    yield f"dn: {base}\nobjectClass: outpostsObject\nobjectClass: outpostsEntry\n\n"
    for name in ("users", "groups"):
        yield f"dn: ou={name},{base}\nobjectClass: outpostsObject\nou: {name}\n\n"
    for entry in entries:
        person = "posixAccount" in entry.attributes.get("objectClass", ())
        classes = (*(PERSON_CLASSES if person else ("outpostsObject",)), "outpostsEntry")
        lines = [_line("dn", entry.dn), *(f"objectClass: {name}" for name in classes)]
        for name, values in entry.attributes.items():
            if name != "objectClass" and name not in OPERATIONAL:
                lines.extend(_line(name, value) for value in values)
        if entry.dn in passwords:
            lines.append(_line("userPassword", ssha(passwords[entry.dn])))
        yield "\n".join(lines) + "\n\n"


def _line(name: str, value: str) -> str:
    return f"{name}:: {base64.b64encode(value.encode()).decode()}"


def start(
    program: str,
    entries: Sequence[Entry],
    base: str,
    passwords: Mapping[str, str],
    folder: Path,
    indexes: Mapping[str, str] = EQUALITY,
) -> Slapd:
    """Load the data and start slapd on a free port; the caller ends it with ``stop``. ``indexes``: kinds by name."""
    schemas = Path("/etc/ldap/schema")
    database = folder / "db"
    database.mkdir(parents=True)
    (folder / "outposts.schema").write_text(schema_for(entries, schemas))
    known = known_attributes(schemas) | {name.lower() for entry in entries[:200] for name in entry.attributes}
    includes = "".join(f"include {schemas / schema}.schema\n" for schema in SCHEMAS)
    lines = "".join(f"index {name} {kinds}\n" for name, kinds in indexes.items() if name.lower() in known)
    (folder / "slapd.conf").write_text(
        f"{includes}include {folder / 'outposts.schema'}\n"
        f"pidfile {folder / 'slapd.pid'}\nargsfile {folder / 'slapd.args'}\n"
        "modulepath /usr/lib/ldap\nmoduleload back_mdb\nloglevel none\nsizelimit unlimited\n"
        f'database mdb\nsuffix "{base}"\ndirectory {database}\nmaxsize 2147483648\n{lines}'
        "access to attrs=userPassword by anonymous auth by * none\naccess to * by users read by anonymous auth\n"
    )
    with (folder / "data.ldif").open("w") as sink:
        sink.writelines(ldif(entries, base, passwords))
    command = [program, "-T", "add", "-q", "-f", str(folder / "slapd.conf"), "-l", str(folder / "data.ldif")]
    loaded = subprocess.run(command, capture_output=True, text=True, check=False)
    if loaded.returncode:
        raise RuntimeError(f"slapadd failed: {loaded.stderr[-2000:]}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"ldap://127.0.0.1:{port}/"
    daemon = daemons.launch("slapd", [program, "-f", str(folder / "slapd.conf"), "-h", url, "-d", "0"], {})
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


@dataclass
class Slapd:
    """A running slapd."""

    daemon: daemons.Daemon
    address: tuple[str, int]

    def stop(self) -> None:
        """End it."""
        self.daemon.kill()


def version(program: str) -> str:
    """Its version, such as ``2.5.13``."""
    shown = subprocess.run([program, "-VV"], capture_output=True, text=True, check=False)
    found = re.search(r"slapd (\S+)", shown.stderr + shown.stdout)
    return found[1] if found else "?"
