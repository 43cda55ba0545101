"""A NAS on real sockets: sends packets to a daemon, knows replies, and can tell that none comes."""

from __future__ import annotations

import socket

from outposts.radius.wire import Packet
from tests import daemons
from tests.radius.desks import SECRET, read, status_request

WAIT_S = 20.0  # for a reply from a busy machine; nothing is decided by this time


class Nas:
    """One socket. ``host`` is the address that it sends from, ``family`` follows from the daemon's address."""

    def __init__(self, daemon: daemons.Daemon, host: str = "127.0.0.1", *, listener: str = "radius") -> None:
        self.to = daemon.address(listener)
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, 0))
        self._socket.settimeout(WAIT_S)

    def __enter__(self) -> Nas:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, octets: bytes, to: str | None = None) -> None:
        """Send without waiting."""
        self._socket.sendto(octets, (to or self.to[0], self.to[1]))

    def receive(self) -> tuple[bytes, str]:
        """The next datagram and the address that it came from."""
        octets, where = self._socket.recvfrom(65535)
        return octets, str(where[0])

    def ask(self, octets: bytes, secret: bytes = SECRET) -> Packet:
        """Send, and the next reply, which must be this request's."""
        self.send(octets)
        return read(self.receive()[0], octets, secret)

    def silent(self, octets: bytes, fence: bytes | None = None) -> bool:
        """Whether a packet gets no reply: one that does, sent after it on the same socket, is answered first.

        Right only for what is dropped at once; ``fence`` replaces the Status-Server that is asked.
        """
        fence = fence or status_request(identifier=254)
        self.send(octets)
        self.send(fence)
        reply = self.receive()[0]
        return reply[1] == 254 and bool(read(reply, fence))
