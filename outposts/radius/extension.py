"""What optional parts of the daemon plug into the service: accounting, disconnects, RadSec.

A part is made once per process with the service's own pieces (``Parts``); the service calls it at the points named
below. Sockets of its own give packets to ``Parts.desk`` (``Desk.received``), so every packet takes the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from common.cache import Configuration
from common.outcomes import CoreSession
from common.service import DaemonContext
from common.tls import CertificatePair
from outposts.radius.desk import Desk
from outposts.radius.providers import Providers
from outposts.radius.request import Request


@dataclass(frozen=True)
class Parts:
    """What a part gets. ``extra(name, provider_name)`` answers a row ``radius.<name>`` as it holds now.

    ``pairs()`` are the certificates that may be shown: (name of the provider, pair). ``sole``: this process is the only
    one that serves, so what is kept in memory is all there is; False in one of several workers.
    """

    context: DaemonContext
    desk: Desk
    extra: Callable[[str, str], Any]
    pairs: Callable[[], Sequence[tuple[str, CertificatePair]]]
    sole: bool = True


class Extension(Protocol):
    """One optional part."""

    async def apply(self, configuration: Configuration, providers: Providers) -> None:
        """These are in service from now on."""

    async def listen(self, *, shared: bool) -> list[tuple[str, str, int]]:
        """Open listeners of its own; ``shared`` with other workers. Raises ``StartError``."""

    def accepted(self, request: Request, session: CoreSession, class_: bytes, user_name: str) -> None:
        """Somebody is let in. ``class_`` and ``user_name``: Class and User-Name of the Access-Accept, or empty."""

    def session_ended(self, session_id: str) -> None:
        """A session of the core has ended."""

    def sweep(self) -> None:
        """Some seconds have passed."""

    def not_ready(self) -> list[str]:
        """Why it cannot do its work; empty: it can."""

    def stop_listening(self) -> None:
        """Take nothing new; replies can still be sent."""

    async def close(self) -> None:
        """Close everything."""


Extensions = Callable[[Parts], Sequence[Extension]]


def none(parts: Parts) -> Sequence[Extension]:
    """A daemon without optional parts."""
    return ()
