"""Whether logins can be decided now: what Status-Server asks (RFC 5997 §4.2).

The core has answered something within ``FRESH_S``, or it is asked now, with a call that costs it next to nothing. Many
Status-Servers at once are one call, and a core that did not answer is left alone for ``PAUSE_S``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from common import logs
from common.errors import CoreError

FRESH_S = 60.0  # spec: an answer that recent counts
PROBE_S = 3.0  # for one look; clients wait about that long before they ask the next server
PAUSE_S = 5.0  # after a look that failed; clients that watch ask every few seconds

log = logs.get_logger("radius")


class CoreWatch:
    """``ask`` makes a cheap call to the core; raises ``CoreError`` when there is no answer. ``now()`` in seconds."""

    def __init__(self, ask: Callable[[], Awaitable[object]], now: Callable[[], float]) -> None:
        self._ask = ask
        self._now = now
        self._heard_at: float | None = None
        self._failed_at: float | None = None
        self._look: asyncio.Task[bool] | None = None

    def heard(self) -> None:
        """The core has answered something."""
        self._heard_at = self._now()

    @property
    def fresh(self) -> bool:
        """Whether it has done so lately."""
        return self._heard_at is not None and self._now() - self._heard_at < FRESH_S

    async def reachable(self) -> bool:
        """Whether the core answers. Never raises but for cancellation."""
        if self.fresh:
            return True
        if self._failed_at is not None and self._now() - self._failed_at < PAUSE_S:
            return False
        if self._look is None or self._look.done():
            self._look = asyncio.get_running_loop().create_task(self._probe())
        return await asyncio.shield(self._look)

    async def _probe(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_S):
                await self._ask()
        except (CoreError, TimeoutError) as error:
            self._failed_at = self._now()
            log.info("core does not answer, Status-Server neither", problem=str(error) or "no answer in time")
            return False
        except Exception:
            self._failed_at = self._now()
            log.exception("look at the core failed")
            return False
        self._failed_at = None
        self.heard()
        return True

    async def close(self) -> None:
        """End a look that is under way."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.gather(self._look, return_exceptions=True)
