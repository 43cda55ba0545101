"""Listeners and connections of one process: how many, how long, and how they end.

Time-outs cost nothing per request: once a second all connections are looked at. A head has to come within its time, a
connection between two requests is kept for a while, a client that takes nothing is cut; what is under way has its own
time-outs (``upstream.py``, ``oidc.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from common import logs, metrics
from common.listen import bind, name_of
from common.setting_values import ListenAddress, Network
from outposts.proxy.fast_lane import Phase, Wire
from outposts.proxy.handlers import Desk, Handlers
from outposts.proxy.listener import Listener, ServerTls

SWEEP_S = 1.0  # between looks at all connections; their limits are many seconds

log = logs.get_logger("proxy")


@dataclass(frozen=True)
class Limits:
    """What one process accepts. Times in seconds; defaults and reasons stand with the settings."""

    max_connections: int = 16_384
    max_connections_per_address: int = 1_000
    head_timeout_s: float = 5.0
    idle_timeout_s: float = 120.0
    write_timeout_s: float = 60.0


class Server:
    """All listeners and connections of the process. ``limits`` may be replaced at a refresh."""

    def __init__(self, desk: Desk, limits: Limits, *, trusted_proxies: Sequence[Network]) -> None:
        self.desk = desk
        self.handlers = Handlers(desk)
        self.limits = limits
        self.trusted_proxies = tuple(trusted_proxies)
        self.tls = ServerTls()
        self.wires: set[Wire] = set()
        self.draining = False
        self._per_address: dict[str, int] = {}
        self._listeners: list[Listener] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._all_gone: asyncio.Event | None = None

    def listen(self, name: str, address: ListenAddress, *, shared: bool = False) -> list[tuple[str, str, int]]:
        """Listen as ``http`` or ``https``, ``shared`` with other workers. Returns (name, host, port) really bound;
        raises ``StartError``.
        """
        sockets = bind(address, shared=shared)
        bound = [(name, *name_of(opened)) for opened in sockets]
        context = self.tls.context if name == "https" else None
        listener = Listener(sockets, self._wire, proxies=self.trusted_proxies, tls=context)
        listener.start()
        self._listeners.append(listener)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
        return bound

    def _wire(self, peer: str, port: int, secure: bool) -> Wire:
        return Wire(self, peer, port, secure)

    def admit(self, wire: Wire) -> bool:
        """Count a connection; False if there are too many."""
        limits = self.limits
        if len(self.wires) >= limits.max_connections:
            log.warning("too many connections", connections=len(self.wires))
            return False
        count = self._per_address.get(wire.peer, 0)
        if count >= limits.max_connections_per_address and not wire.trusted:
            log.debug("too many connections from one address", client=wire.peer)
            return False
        self._per_address[wire.peer] = count + 1
        self.wires.add(wire)
        metrics.proxy_connections.set(len(self.wires))
        return True

    def gone(self, wire: Wire) -> None:
        """A connection has ended."""
        if wire not in self.wires:
            return
        self.wires.discard(wire)
        count = self._per_address.get(wire.peer, 0) - 1
        if count > 0:
            self._per_address[wire.peer] = count
        else:
            self._per_address.pop(wire.peer, None)
        metrics.proxy_connections.set(len(self.wires))
        if not self.wires and self._all_gone is not None:
            self._all_gone.set()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now, limits = loop.time(), self.limits
        for wire in list(self.wires):
            waited = now - wire.since
            if wire.phase is Phase.HEAD and waited > limits.head_timeout_s:
                wire.expire()
            elif wire.phase is Phase.IDLE and waited > limits.idle_timeout_s:
                wire.close()
            else:
                stuck = wire.stuck_since and now - wire.stuck_since > limits.write_timeout_s
                leaving = wire.phase is Phase.CLOSING and wire.idle and waited > limits.write_timeout_s
                if stuck or leaving:
                    wire.abort()
        self._sweeper = loop.call_later(SWEEP_S, self._sweep)

    async def drain(self, timeout_s: float) -> None:
        """Accept nothing new, let what is under way end; tunnels would take for ever and are cut."""
        self.draining = True
        await self._stop_listening()
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        for wire in list(self.wires):
            if wire.phase in (Phase.IDLE, Phase.HEAD):
                wire.close()
        for tunnel in list(self.desk.forwarder.tunnels):
            tunnel.close()
        if self.wires:
            self._all_gone = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._all_gone.wait()

    async def _stop_listening(self) -> None:
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            with contextlib.suppress(OSError):
                await listener.close()

    async def close(self) -> None:
        """Cut off what is left."""
        self.draining = True
        await self._stop_listening()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for wire in list(self.wires):
            wire.abort()
        await asyncio.sleep(0)
