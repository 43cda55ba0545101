"""The LDAP daemon: ``outposts ldap``, ``python -m outposts.ldap``. Puts Twisted's reactor on the loop and runs.

With several workers this is also what each of them runs, as ``python -m outposts.ldap worker <descriptor>``.
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

# Seconds for which a thread (the building of a directory) may hold the interpreter while the loop waits for it.
# Python's own 5 ms would be felt by every search meanwhile.
SWITCH_INTERVAL_S = 0.0005


def spare_the_collector() -> None:
    """Take all that was imported out of the garbage collector's sight.

    A full collection over the 70,000 objects of modules takes some 50 ms, in which nobody is answered; over what comes
    later it takes well under one.
    """
    gc.freeze()


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
        from outposts.ldap.service import LDAPService, process_loader

        spare_the_collector()
        return LDAPService(context, reactors[0], process_loader)

    def worker_service(context: DaemonContext) -> WorkerService:
        from outposts.ldap.shared import LDAPWorkerService

        spare_the_collector()
        return LDAPWorkerService(context, reactors[0])

    def source(context: DaemonContext, publisher: Publisher) -> Source:
        from outposts.ldap.shared import LDAPSource

        return LDAPSource(context, reactors[0], publisher)

    def workers(count: int) -> ServiceFactory:
        from common.worker_process import interpreter_command
        from common.workers import Plan, Pool

        listeners = {"listen_ldap": socket.SOCK_STREAM, "listen_ldaps": socket.SOCK_STREAM}
        plan = Plan(count, interpreter_command("outposts.ldap"), listeners)
        return lambda context: Pool(context, plan, source)

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    if arguments:
        from common import worker

        return worker.main(int(arguments[1]), worker_service, loop_factory=new_loop)
    return daemon.main("ldap", service, loop_factory=new_loop, workers=workers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
