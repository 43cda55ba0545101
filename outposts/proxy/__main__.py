"""The proxy daemon: ``outposts proxy``, ``python -m outposts.proxy``.

With several workers this is also what each of them runs, as ``python -m outposts.proxy worker <descriptor>``.
"""

from __future__ import annotations

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


def main(arguments: Sequence[str] = ()) -> int:
    """Run the daemon, or the worker that the arguments name; returns its exit code (docs/settings.md)."""

    # Imported inside: a supervisor of workers needs none of it.

    def service(context: DaemonContext) -> Service:
        from outposts.proxy.service import ProxyService

        gc.freeze()  # what was imported stays: no collection has to look at it again
        return ProxyService(context)

    def worker_service(context: DaemonContext) -> WorkerService:
        from outposts.proxy.shared import ProxyWorkerService

        gc.freeze()
        return ProxyWorkerService(context)

    def source(context: DaemonContext, publisher: Publisher) -> Source:
        from outposts.proxy.shared import ProxySource

        return ProxySource(context)

    def workers(count: int) -> ServiceFactory:
        from common.worker_process import interpreter_command
        from common.workers import Plan, Pool

        listeners = {"listen_http": socket.SOCK_STREAM, "listen_https": socket.SOCK_STREAM}
        plan = Plan(count, interpreter_command("outposts.proxy"), listeners)
        return lambda context: Pool(context, plan, source)

    if arguments:
        from common import worker

        return worker.main(int(arguments[1]), worker_service, loop_factory=daemon.new_loop)
    return daemon.main("proxy", service, workers=workers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
