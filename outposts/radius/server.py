"""UDP sockets: datagrams in, many per turn of the loop; replies out by the same socket, from the address asked.

A socket that is bound to one address is read with ``recvfrom``. One that takes every address of the machine is read
with ``recvmsg``, which also tells the address that a datagram was sent to: the reply has to come from there, or the
client does not take it for one (RFC 2865 §3), and copies are told apart by it (RFC 5080 §2.2.2).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from collections.abc import Sequence
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped]

from common import logs
from common.listen import bind, name_of
from common.reactor import LoopReactor
from common.setting_values import ListenAddress
from outposts.radius.desk import Desk

BATCH = 64  # datagrams per turn of the loop: at 30 µs each others wait 2 ms
MAX_DATAGRAM = 4096 + 1  # octets read: one more than a packet may have shows that there were more
# Of the socket, in octets: 1,000 requests (max_pending) of 300 octets with the kernel's own 500 for each, four times.
# The kernel cuts it at net.core.rmem_max (212,992 by default, some 250 requests).
RECEIVE_BUFFER = 4 * 2**20
MAX_NAMES = 4096  # addresses whose short form is remembered; each is a client or a forger
ANCILLARY = socket.CMSG_SPACE(20)  # in6_pktinfo; in_pktinfo is shorter
IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)  # Linux; not among the constants before Python 3.12
_V4_INFO = struct.Struct("=I4s4s")  # in_pktinfo: interface, local address, header's destination
_V6_INFO = struct.Struct("=16sI")  # in6_pktinfo: address, interface

log = logs.get_logger("radius")


class Server:
    """All UDP sockets of the process."""

    def __init__(self, reactor: LoopReactor, desk: Desk) -> None:
        self.desk = desk
        self._reactor: Any = reactor
        self.wires: list[Wire] = []

    def listen(
        self, listener: str, address: ListenAddress, *, accounting_only: bool = False, shared: bool = False
    ) -> list[tuple[str, str, int]]:
        """Listen. Returns (listener, host, port) really bound; raises ``StartError``."""
        bound = []
        for opened in bind(address, socket.SOCK_DGRAM, shared=shared):
            bound.append((listener, *name_of(opened)))
            wire = Wire(opened, self.desk, listener, accounting_only=accounting_only)
            self.wires.append(wire)
            self._reactor.addReader(wire)
        return bound

    def stop_listening(self) -> None:
        """Read no more; replies can still be sent."""
        for wire in self.wires:
            self._reactor.removeReader(wire)

    async def drain(self, timeout_s: float) -> None:
        """Read no more, finish what is in progress."""
        self.stop_listening()
        await self.desk.drain(timeout_s)

    async def close(self) -> None:
        """Close the sockets."""
        self.stop_listening()
        await self.desk.close()
        for wire in self.wires:
            wire.close()
        self.wires.clear()
        await asyncio.sleep(0)  # the loop lets go of the descriptors


@implementer(IReadDescriptor)
class Wire:
    """One socket. ``send`` may be called until ``close``."""

    def __init__(self, opened: socket.socket, desk: Desk, listener: str, *, accounting_only: bool = False) -> None:
        self.listener = listener
        self.accounting_only = accounting_only
        self._socket = opened
        self._desk = desk
        host = name_of(opened)[0]
        self._any = ipaddress.ip_address(host).is_unspecified
        self._local = "" if self._any else short(host)
        self._names: dict[str, str] = {}
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if self._any:
            if opened.family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            else:
                opened.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)

    # -- called by Twisted -------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """The descriptor, -1 when closed."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """Twisted's name for this."""
        return "radius"

    def doRead(self) -> None:
        """Read what there is, up to a batch. One bad datagram must not end the others."""
        read = self._read_anywhere if self._any else self._read_here
        for _ in range(BATCH):
            try:
                if not read():
                    return
            except Exception:
                log.exception("datagram not handled")

    def connectionLost(self, reason: Failure) -> None:
        """Twisted gives the descriptor up; the socket is closed by ``close``."""

    # --------------------------------------------------------------------------------------------------------------

    def _read_here(self) -> bool:
        """One datagram of a socket with one address. False if there is none."""
        try:
            datagram, where = self._socket.recvfrom(MAX_DATAGRAM)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            log.debug("error of the network", problem=error.strerror)  # an ICMP message about an earlier reply
            return True
        host = where[0]
        self._desk.received(
            datagram,
            self._names.get(host) or self._name(host),
            where[1],
            self,
            where,
            local=self._local,
            accounting_only=self.accounting_only,
        )
        return True

    def _read_anywhere(self) -> bool:
        """One datagram of a socket with every address, and the address that it was sent to."""
        try:
            datagram, ancillary, _, where = self._socket.recvmsg(MAX_DATAGRAM, ANCILLARY)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            log.debug("error of the network", problem=error.strerror)
            return True
        local, info = "", None
        for level, kind, content in ancillary:
            if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
                address, interface = _V6_INFO.unpack_from(content)
                local = self._local_name(socket.AF_INET6, address)
                # The interface is needed for link-local addresses only; else the routing table knows better.
                keep = interface if address[:2] == b"\xfe\x80" else 0
                info = (level, kind, _V6_INFO.pack(address, keep))
            elif level == socket.IPPROTO_IP and kind == IP_PKTINFO:
                _, _, address = _V4_INFO.unpack_from(content)
                local = self._local_name(socket.AF_INET, address)
                info = (level, kind, _V4_INFO.pack(0, address, bytes(4)))
        host = where[0]
        self._desk.received(
            datagram,
            self._names.get(host) or self._name(host),
            where[1],
            self,
            (where, info),
            local=local,
            accounting_only=self.accounting_only,
        )
        return True

    def send(self, octets: bytes, where: object) -> None:
        """Send a reply. One that the network does not take is lost, as any datagram may be: the client asks again."""
        target: Any = where
        try:
            if not self._any:
                self._socket.sendto(octets, target)
                return
            address, info = target
            if info is None:
                self._socket.sendto(octets, address)
            else:
                self._socket.sendmsg([octets], [info], 0, address)
        except OSError as error:
            log.debug("reply not sent", listener=self.listener, problem=error.strerror)

    def silent(self, where: object) -> None:
        """Nothing is kept here that a reply would end."""

    def where(self, plain: Sequence[Any]) -> tuple[Any, ...]:
        """A ``where`` of this socket's kind that has been through an encoding, which makes lists of tuples."""
        if not self._any:
            return tuple(plain)
        address, info = plain
        return tuple(address), tuple(info) if info is not None else None

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _name(self, host: str) -> str:
        """A peer's address as the rules know it, remembered."""
        if len(self._names) >= MAX_NAMES:
            self._names.clear()
        name = self._names[host] = short(host)
        return name

    def _local_name(self, family: int, address: bytes) -> str:
        key = address.hex()
        return self._names.get(key) or self._names.setdefault(key, short(socket.inet_ntop(family, address)))


def short(host: str) -> str:
    """An address as text without scope; IPv4-mapped IPv6 is IPv4."""
    found = ipaddress.ip_address(host.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)
