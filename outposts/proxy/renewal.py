"""New tokens for a session whose token is over: asked for once, however many requests wait, in all processes.

A refresh token is used up by being sent (the core may give another one), so two processes that both sent it would end
each other's session. The one that has the lock asks; the others look for what it has written.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from common import logs
from common.shared_store import StoreUnavailable
from outposts.proxy import session as sessions
from outposts.proxy.oidc import OidcError, OpenIdClient, Problem
from outposts.proxy.providers import ProxyProvider
from outposts.proxy.session import Event, Session, SessionError
from outposts.proxy.store import Sessions

LOCK_S = 30.0  # in which one process alone may renew a session: two calls of 10 s, and some to spare
POLL_S = 0.1  # between looks whether another process has done it
WAIT_S = 12.0  # for that; a person waits for the page

log = logs.get_logger("renewal")


class Renewals:
    """Renews sessions of one process; see the head of this module."""

    def __init__(self, store: Sessions, client: OpenIdClient, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._client = client
        self._clock = clock
        self._running: dict[bytes, asyncio.Task[Session | None]] = {}

    async def renew(self, provider: ProxyProvider, session: Session) -> Session | None:
        """The session with new tokens; None: it is over.

        Raises ``StoreUnavailable``, and ``OidcError`` (unavailable) if the core does not answer: then nobody knows.
        """
        key = session.key
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.get_running_loop().create_task(
                self._renew(provider, key), name="renewal"
            )
            task.add_done_callback(lambda done: self._done(key, done))
        return await asyncio.shield(task)

    def _done(self, key: bytes, task: asyncio.Task[Session | None]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            task.exception()  # whoever still waits has it

    async def _renew(self, provider: ProxyProvider, key: bytes) -> Session | None:
        store, lock = self._store, f"renew {key.hex()}"
        until = self._clock() + WAIT_S
        while not await store.use_once(lock, LOCK_S):
            current = await store.read(provider, key)
            if current is None or current.live(self._clock(), provider.idle_s):
                return current
            if self._clock() >= until:
                raise OidcError(Problem.UNAVAILABLE, "another process is renewing the session")
            await asyncio.sleep(POLL_S)
        try:
            return await self._renew_now(provider, key)
        finally:
            with contextlib.suppress(StoreUnavailable):
                await store.forget_use(lock)

    async def _renew_now(self, provider: ProxyProvider, key: bytes) -> Session | None:
        current = await self._store.read(provider, key)
        now = self._clock()
        if current is None or current.live(now, provider.idle_s):
            return current
        if not current.renewable(now, provider.idle_s):
            return None
        try:
            tokens = await self._client.refresh(provider, current.refresh_token, current.subject)
            sessions.renew(
                current,
                payload=tokens.payload,
                token=tokens.token,
                refresh_token=tokens.refresh_token,
                options=provider.options,
                now=self._clock(),
                validity_s=provider.validity_s,
            )
        except OidcError as error:
            if error.problem is Problem.UNAVAILABLE:
                raise
            log.info("session not renewed", provider=provider.name, problem=error.detail)
            await self._store.end(current, Event.EXPIRED)
            return None
        except SessionError as error:
            log.warning("session not renewed", provider=provider.name, problem=str(error))
            await self._store.end(current, Event.REVOKED)
            return None
        return current if await self._store.write(provider, current) else None

    async def close(self) -> None:
        """Give up what is under way."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
