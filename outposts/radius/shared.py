"""The RADIUS service of a daemon with several workers.

The system gives each client's port to one worker for as long as the same workers listen, so copies of a packet meet the
worker that has its reply. A conversation may change its port: State begins with the number of the worker that holds it,
and a worker that gets another one's passes the packet on, over the supervisor. The reply goes out by the right address
either way, because all workers listen on the same one. A worker that was replaced holds nothing: its State is unknown,
which is a reject, as after a restart of the daemon.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.cache import Configuration
from common.reactor import LoopReactor
from common.service import DaemonContext
from common.worker import Published
from outposts.radius.extension import Extensions, none
from outposts.radius.service import RadiusService


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
        super().__init__(context, reactor, extensions, worker=context.worker)

    async def receive(self, published: Published) -> None:
        """Nothing is published."""

    def drop(self, what: str, keys: Sequence[int]) -> None:
        """Nothing is dropped by key: each login asks the core."""
