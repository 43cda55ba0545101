"""The metrics and health server of a daemon, on the metrics addresses and on a unix socket (core-contract §8.1).

It only reports: what it reports is asked of the daemon at each request. It starts before anything else, so that a
daemon that waits for its core can already be asked why it is not ready.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from aiohttp import web

from common import listen, logs, metrics
from common.errors import StartError
from common.setting_values import ListenAddress

SOCKET_NAME = "authentik-metrics.sock"  # the name that the core's own health checks know
SHUTDOWN_S = 0.1  # a reader of metrics is not waited for at the end
PREFIX = "/outpost.goauthentik.io"

log = logs.get_logger("health")


class HealthServer:
    """Answers ``ping``, ``livez``, ``readyz`` and ``metrics``. ``not_ready`` gives the reasons, none = ready."""

    def __init__(
        self,
        addresses: Sequence[ListenAddress],
        tmpdir: str,
        not_ready: Callable[[], list[str]],
        *,
        metrics_text: Callable[[], Awaitable[bytes]] | None = None,
        details: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """``metrics_text`` replaces this process's own metrics; ``details`` go into the answer of ``readyz``."""
        self._metrics_text = metrics_text
        self._details = details
        self._addresses = addresses
        self._not_ready = not_ready
        self._socket_path = os.path.join(tmpdir, SOCKET_NAME)
        self._inode: int | None = None
        self._runner: web.ServerRunner | None = None

    async def start(self) -> list[tuple[str, int]]:
        """Listen; returns what was really bound. An address that cannot be bound is a warning."""
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=SHUTDOWN_S)
        await self._runner.setup()
        bound: list[tuple[str, int]] = []
        for address in self._addresses:
            try:
                for opened in listen.bind(address):
                    await web.SockSite(self._runner, opened).start()
                    bound.append(listen.name_of(opened))
            except StartError as error:
                log.warning("metrics listener left out", problem=str(error))
        try:
            opened = listen.bind_unix(self._socket_path)
            self._inode = os.lstat(self._socket_path).st_ino
            await web.SockSite(self._runner, opened).start()
        except (StartError, OSError) as error:
            log.warning("health socket left out", problem=str(error))
        return bound

    async def close(self) -> None:
        """Stop listening and remove the unix socket."""
        if self._inode is not None:
            listen.remove_unix(self._socket_path, self._inode)
            self._inode = None
        if self._runner is not None:
            with suppress(OSError):
                await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path == f"{PREFIX}/ping":
            return web.Response(status=204)
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"Allow": "GET, HEAD"})
        if path == "/metrics":
            text = metrics.text() if self._metrics_text is None else await self._metrics_text()
            return web.Response(body=text, headers={"Content-Type": metrics.CONTENT_TYPE})
        if path in ("/livez", f"{PREFIX}/live"):
            return web.json_response({"live": True})
        if path in ("/readyz", f"{PREFIX}/ready"):
            reasons = self._not_ready()
            answer = {"ready": not reasons, "reasons": reasons, **self._details()}
            return web.json_response(answer, status=503 if reasons else 200)
        return web.Response(status=404)
