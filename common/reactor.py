"""Twisted's reactor on the asyncio loop, for the daemons that listen with Twisted, and its stream connections."""

from __future__ import annotations

from typing import Any

from twisted.internet import main, tcp
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.protocol import ServerFactory
from twisted.python.failure import Failure

from common import logs

log = logs.get_logger("listeners")


class LoopReactor(AsyncioSelectorReactor):
    """Twisted's reactor on the asyncio loop, without the logging context that it builds around each event.

    The context (a dictionary and two calls per readable socket) serves Twisted's own log prefixes; nobody sees them.
    """

    def addReader(self, reader: Any) -> None:
        """Watch for readable; as in the parent, for sockets."""
        if reader not in self._readers:
            fd = reader.fileno()
            if isinstance(reader, Transport):
                self._asyncioEventloop.add_reader(fd, reader.readable)
            else:
                self._asyncioEventloop.add_reader(fd, self._readOrWrite, reader, True)
            self._readers[reader] = fd

    def disconnect(self, reader: Any, reason: Failure) -> None:
        """End a connection that ``reader`` found ended or broken."""
        self._disconnectSelectable(reader, reason, True)  # type: ignore[no-untyped-call]

    def addWriter(self, writer: Any) -> None:
        """Watch for writable; as in the parent, for sockets."""
        if writer not in self._writers:
            fd = writer.fileno()
            self._asyncioEventloop.add_writer(fd, self._readOrWrite, writer, False)
            self._writers[writer] = fd

    def adopt(self, fd: int, family: int, factory: ServerFactory) -> Any:
        """Listen on a stream socket that is bound already; as ``adoptStreamPort``, with our own connections."""
        port = _Port._fromListeningDescriptor(self, fd, family, factory)  # type: ignore[no-untyped-call]
        port.startListening()
        return port

    def dispose(self) -> None:
        """Free what the reactor itself holds, when the loop ends."""
        internal: Any = self._internalReaders
        timer: Any = self._timerHandle
        self.removeAll()  # type: ignore[no-untyped-call]
        for reader in list(internal):
            internal.discard(reader)
            reader.connectionLost(None)
        if timer is not None:
            timer.cancel()


class Transport(tcp.Server):
    """A connection that the loop itself calls when it can be read: three calls less for each piece that arrives."""

    reactor: Any
    protocol: Any  # a Wire, or the layer of TLS above it

    def readable(self) -> None:
        """Read once and hand over. As ``doRead`` and what the reactor does around it."""
        try:
            data = self.socket.recv(self.bufferSize)
        except BlockingIOError:
            return
        except OSError:
            self.reactor.disconnect(self, main.CONNECTION_LOST)
            return
        if not data:
            self.reactor.disconnect(self, main.CONNECTION_DONE)
            return
        try:
            self.protocol.dataReceived(data)
        except Exception:
            log.exception("connection failed unexpectedly")
            self.reactor.disconnect(self, main.CONNECTION_LOST)


class _Port(tcp.Port):
    """Accepts such connections."""

    transport = Transport
