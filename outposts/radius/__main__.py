"""The RADIUS daemon: ``outposts radius``, ``python -m outposts.radius``. Puts Twisted's reactor on the loop and runs.

With several workers this is also what each of them runs, as ``python -m outposts.radius worker <descriptor>``.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from common import daemon
from common.service import DaemonContext, Service, ServiceFactory

if TYPE_CHECKING:
    from common.worker import WorkerService
    from common.workers import Publisher, Source

# Seconds for which a thread (a TLS handshake of EAP) may hold the interpreter while the loop waits for it. Python's own
# 5 ms would be felt by every request meanwhile.
SWITCH_INTERVAL_S = 0.0005


def main(arguments: Sequence[str] = ()) -> int:
    """Run the daemon, or the worker that the arguments name; returns its exit code (docs/settings.md)."""
    reactors = []

    def new_loop() -> asyncio.AbstractEventLoop:
        from twisted.internet.main import installReactor

        from common.reactor import LoopReactor

        loop = daemon.new_loop()
        reactor = LoopReactor(loop)
        installReactor(reactor)  # type: ignore[no-untyped-call]
        reactors.append(reactor)
        return loop

    # Imported inside: Twisted's modules ask for the installed reactor when they are loaded.

    def service(context: DaemonContext) -> Service:
        from outposts.radius.additions import additions
        from outposts.radius.service import RadiusService

        gc.freeze()  # what was imported stays: no collection has to look at it again
        return RadiusService(context, reactors[0], additions)

    def worker_service(context: DaemonContext) -> WorkerService:
        from outposts.radius.additions import additions
        from outposts.radius.shared import RadiusWorkerService

        gc.freeze()
        return RadiusWorkerService(context, reactors[0], additions)

    def source(context: DaemonContext, publisher: Publisher) -> Source:
        from outposts.radius.shared import RadiusSource

        return RadiusSource(context)

    def workers(count: int) -> ServiceFactory:
        from common.worker_process import interpreter_command
        from common.workers import Plan, Pool

        listeners = {
            "listen_radius": socket.SOCK_DGRAM,
            "listen_accounting": socket.SOCK_DGRAM,
            "listen_radsec": socket.SOCK_STREAM,
            "listen_radsec_psk": socket.SOCK_STREAM,
        }
        plan = Plan(count, interpreter_command("outposts.radius"), listeners)
        return lambda context: Pool(context, plan, source)

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    if arguments:
        from common import worker

        return worker.main(int(arguments[1]), worker_service, loop_factory=new_loop)
    return daemon.main("radius", service, loop_factory=new_loop, workers=workers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
