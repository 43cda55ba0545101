"""The LDAP daemon: ``outposts ldap``, ``python -m outposts.ldap``. Puts Twisted's reactor on the loop and runs."""

from __future__ import annotations

import asyncio
import sys

from common import daemon
from common.service import DaemonContext, Service

# Seconds for which a thread (the building of a directory) may hold the interpreter while the loop waits for it.
# Python's own 5 ms would be felt by every search meanwhile.
SWITCH_INTERVAL_S = 0.0005


def main() -> int:
    """Run the daemon; returns its exit code (docs/settings.md)."""
    reactors = []

    def new_loop() -> asyncio.AbstractEventLoop:
        from twisted.internet.main import installReactor

        from outposts.ldap.server import LoopReactor

        loop = daemon.new_loop()
        reactor = LoopReactor(loop)
        installReactor(reactor)  # type: ignore[no-untyped-call]
        reactors.append(reactor)
        return loop

    def service(context: DaemonContext) -> Service:
        # Imported here: Twisted's modules ask for the installed reactor when they are loaded.
        from outposts.ldap.service import LDAPService

        return LDAPService(context, reactors[0])

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return daemon.main("ldap", service, loop_factory=new_loop)


if __name__ == "__main__":
    sys.exit(main())
