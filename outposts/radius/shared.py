"""The RADIUS service of a daemon with several workers.

The system gives each client's port to one worker for as long as the same workers listen, so copies of a packet meet the
worker that has its reply. A conversation may change its port: State begins with the number of the worker that holds it,
and a worker that gets another one's passes the packet on, over the supervisor. The reply goes out by the right address
either way, because all workers listen on the same one. A worker that was replaced holds nothing: its State is unknown,
which is a reject, as after a restart of the daemon.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from common import logs, metrics
from common.cache import Configuration
from common.reactor import LoopReactor
from common.service import DaemonContext
from common.worker import Published
from outposts.radius.desk import Line
from outposts.radius.extension import Extensions, none
from outposts.radius.intake import Drop
from outposts.radius.request import Request
from outposts.radius.rfc import Attribute, Code
from outposts.radius.server import Wire
from outposts.radius.service import RadiusService
from outposts.radius.session import worker_of

PACKET = "packet"
# Packets without Message-Authenticator that a worker passes on in one second: people who answer a question are fewer,
# and a flood must not keep the supervisor from its work.
MAX_UNSIGNED = 200
_STATE, _ACCESS_REQUEST = int(Attribute.STATE), int(Code.ACCESS_REQUEST)
_MESSAGE_AUTHENTICATOR = int(Attribute.MESSAGE_AUTHENTICATOR)

log = logs.get_logger("radius")


class _Packet(msgspec.Struct, array_like=True):
    """A packet that another worker got. ``wire``: which of the sockets, all workers open the same ones in order."""

    wire: int
    client_ip: str
    client_port: int
    local: str
    where: tuple[Any, ...]
    octets: bytes


class RadiusSource:
    """See ``common.workers.Source``: workers need nothing that is made once for all."""

    type = "radius"

    def __init__(self, context: DaemonContext) -> None:
        self._context = context

    async def apply(self, configuration: Configuration) -> None:
        """The workers do it all."""

    def not_ready(self) -> list[str]:
        """Nothing is missing here."""
        return []

    async def close(self) -> None:
        """Nothing to release."""


class RadiusWorkerService(RadiusService):
    """See ``common.worker.WorkerService``."""

    def __init__(self, context: DaemonContext, reactor: LoopReactor, extensions: Extensions = none) -> None:
        # State has one octet for the number, and there are at most 256 workers, which count from 1.
        super().__init__(context, reactor, extensions, worker=max(0, context.worker - 1))
        self._second = self._unsigned = 0
        self._decoder = msgspec.msgpack.Decoder(_Packet)
        self.desk.pass_on = self._pass_on

    def _pass_on(self, request: Request, line: Line, where: object) -> bool:
        """Have another worker deal with an answer to a challenge of its own."""
        if request.packet.code != _ACCESS_REQUEST or not isinstance(line, Wire):
            return False
        state = request.packet.first(_STATE)
        maker = worker_of(state) if state is not None else None
        forward = self._context.forward
        if maker is None or maker == self._context.worker - 1 or forward is None or not isinstance(where, tuple):
            return False
        if maker >= self._context.settings.workers:
            return False  # nobody's State: a reject
        if request.packet.first(_MESSAGE_AUTHENTICATOR) is None and not self._may_pass_unsigned(request.received_at):
            self.observations.dropped(Drop("forward_rate", request.provider), request.client_ip, request.received_at)
            return True
        packet = _Packet(
            self.server.wires.index(line),
            *request.peer,
            request.local,
            where,
            request.packet.octets,
        )
        forward(maker + 1, PACKET, msgspec.msgpack.encode(packet))
        metrics.radius_forwarded.inc()
        return True

    def _may_pass_unsigned(self, now: float) -> bool:
        """Whether one more packet that anybody may have sent can go through the supervisor in this second."""
        second = int(now)
        if second != self._second:
            self._second, self._unsigned = second, 0
        self._unsigned += 1
        return self._unsigned <= MAX_UNSIGNED

    def forwarded(self, what: str, content: bytes) -> None:
        """See ``common.worker.Colleague``."""
        packet = self._decoder.decode(content)
        if what != PACKET or not 0 <= packet.wire < len(self.server.wires):
            log.error("not understood what another worker passed on", what=what)
            return
        wire = self.server.wires[packet.wire]
        self.desk.received(
            packet.octets,
            packet.client_ip,
            packet.client_port,
            wire,
            wire.where(packet.where),
            local=packet.local,
            accounting_only=wire.accounting_only,
            passed_on=True,
        )

    async def receive(self, published: Published) -> None:
        """Nothing is published."""

    def drop(self, what: str, keys: Sequence[int]) -> None:
        """Nothing is dropped by key: each login asks the core."""
