"""PROXY protocol, versions 1 and 2: bytes → the client's address as the load balancer in front saw it.

Sans-IO: ``decode`` gets what has arrived so far and answers ``None`` for "need more", a ``Header``, or raises
``ProxyProtocolError``. Whether the peer may be believed at all is the caller's decision (``trusted``).
The format: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, cited as PP §.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from common.errors import OutpostError
from common.setting_values import Network

V1_START = b"PROXY "
V1_MAX = 107  # bytes with CR LF; PP §2.1 counts 107 for the longest line
V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"  # PP §2.2
V2_FIXED = 16  # bytes: signature, version and command, family, length
V2_MAX = 4096  # bytes of addresses and TLVs; PP §2.2 expects at most 536, certificates in TLVs may take more
LOCAL, PROXY = 0, 1  # commands, PP §2.2
INET, INET6 = 1, 2  # address families, PP §2.2
_V2 = struct.Struct("!12sBBH")
_PORTS = struct.Struct("!HH")


class ProxyProtocolError(OutpostError):
    """The bytes are no PROXY header, or a damaged one; the connection has to be closed (PP §2)."""


@dataclass(frozen=True)
class Header:
    """A complete header: its length in bytes, and the client's address unless the header names none.

    ``address`` is None for ``UNKNOWN``, ``LOCAL`` and unix sockets: then the peer's own address counts.
    """

    size: int
    address: str | None
    port: int = 0


def plausible(data: bytes) -> bool:
    """Whether what has arrived may still become a PROXY header; true for an empty start.

    Neither start can open a message of LDAP or TLS, so the first byte mostly decides.
    """
    return any(data[: len(start)] == start[: len(data)] for start in (V1_START, V2_SIGNATURE))


def decode(data: bytes) -> Header | None:
    """Read a header at the start of ``data``; None asks for more bytes. Raises ``ProxyProtocolError``."""
    if not plausible(data):
        raise ProxyProtocolError("no PROXY header")
    if data[:1] == V1_START[:1]:
        return _decode_v1(data)
    return _decode_v2(data)


def _decode_v1(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, V1_MAX)
    if end < 0:
        if len(data) >= V1_MAX:
            raise ProxyProtocolError("version 1 line too long")
        return None
    words = data[:end].split(b" ")
    size = end + 2
    if len(words) >= 2 and words[1] == b"UNKNOWN":
        return Header(size, None)
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise ProxyProtocolError("version 1 line malformed")
    version = 4 if words[1] == b"TCP4" else 6
    source, _ = (_v1_address(word, version) for word in words[2:4])
    source_port, _ = (_v1_port(word) for word in words[4:6])
    return Header(size, unmap(source), source_port)


def _v1_address(word: bytes, version: int) -> str:
    try:
        address = ipaddress.ip_address(word.decode("ascii"))
    except ValueError:
        raise ProxyProtocolError("version 1 address malformed") from None
    if address.version != version or "%" in str(address):
        raise ProxyProtocolError("version 1 address of the wrong family")
    return str(address)


def _v1_port(word: bytes) -> int:
    if not word.isdigit() or len(word) > 5 or int(word) > 65535:
        raise ProxyProtocolError("version 1 port malformed")
    return int(word)


def _decode_v2(data: bytes) -> Header | None:
    if len(data) < V2_FIXED:
        return None
    _, version_command, family_transport, length = _V2.unpack_from(data)
    if version_command >> 4 != 2:
        raise ProxyProtocolError("version 2 header with another version number")
    command = version_command & 0x0F
    if command not in (LOCAL, PROXY):
        raise ProxyProtocolError("version 2 command unknown")
    if length > V2_MAX:
        raise ProxyProtocolError("version 2 header too long")
    size = V2_FIXED + length
    if len(data) < size:
        return None
    family = family_transport >> 4
    if command == LOCAL or family not in (INET, INET6):
        return Header(size, None)
    width = 4 if family == INET else 16
    if length < 2 * width + _PORTS.size:
        raise ProxyProtocolError("version 2 addresses cut short")
    source = ipaddress.ip_address(bytes(data[V2_FIXED : V2_FIXED + width]))
    source_port, _ = _PORTS.unpack_from(data, V2_FIXED + 2 * width)
    return Header(size, unmap(str(source)), source_port)


def unmap(address: str) -> str:
    """The plain form of an address: ``::ffff:10.1.2.3`` is ``10.1.2.3``, a zone (``%eth0``) is cut off.

    What is no IP address comes back as it is.
    """
    bare = address.partition("%")[0]
    if ":" not in bare:
        return address
    try:
        parsed = ipaddress.IPv6Address(bare)
    except ValueError:
        return address
    return str(parsed.ipv4_mapped or parsed)


def trusted(address: str, networks: Iterable[Network]) -> bool:
    """Whether a peer's address lies in one of the networks; what is no address never does."""
    try:
        parsed = ipaddress.ip_address(unmap(address))
    except ValueError:
        return False
    return any(parsed in network for network in networks if network.version == parsed.version)
