"""Logins that end at the core end here: by its message, by a logout token, or found out when messages may be missing.

The core says once, over the WebSocket, that a login has ended, and not at all to who is not connected. So after each
absence, and at the start, every login that sessions here come from is asked about: a token is not active any more when
its login has ended. One process of all does that, a few logins at a time, and goes on until each has been answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from common import logs
from common.errors import OutpostError
from common.shared_store import StoreUnavailable
from outposts.proxy.header_auth import HeaderAuth
from outposts.proxy.oidc import INTROSPECTED, OidcError, OpenIdClient
from outposts.proxy.providers import ProxyProvider
from outposts.proxy.session import Session
from outposts.proxy.store import Sessions

AT_ONCE = 8  # logins asked about at a time; the core answers some hundred a second, and others need it too
TAKEN_S = 30.0  # for which one process has the task; it says so again while it works
RETRY_FIRST_S, RETRY_MAX_S = 1.0, 30.0  # waits while the core or the store does not answer
MAX_LOGOUT_BODY = 131_072  # octets of a back-channel logout request: a token of at most 64 KiB, form-encoded
REPLAY_MAX_S = 3600.0  # for which a logout token is remembered; the core's last two minutes
TURN = "recheck"

log = logs.get_logger("revocation")


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check of all logins found: how many, how many had ended, whether all were answered for."""

    logins: int
    ended: int
    complete: bool


class Revocation:
    """Ends sessions because of what the core says. To be used on one event loop."""

    def __init__(self, store: Sessions, client: OpenIdClient, header_auth: HeaderAuth | None = None) -> None:
        self._store = store
        self._client = client
        self._header_auth = header_auth
        self._running: asyncio.Task[None] | None = None
        self._again = False

    def session_ended(self, sid: str) -> None:
        """A login has ended (``Service.session_ended``): a look into the store later its sessions have, too."""
        if self._header_auth is not None:
            self._header_auth.session_ended(sid)
        self._store.session_ended(sid)

    def connection_lost_for(self, seconds: float) -> None:
        """Messages may have been missed (``Service.connection_lost_for``), also those before the start: look."""
        if self._header_auth is not None:
            self._header_auth.forget()
        if self._running is not None and not self._running.done():
            self._again = True
            return
        self._running = asyncio.get_running_loop().create_task(self._until_complete(), name="check of logins")
        self._running.add_done_callback(_finished)

    async def _until_complete(self) -> None:
        wait_s = RETRY_FIRST_S
        asked: set[tuple[int, str]] = set()
        while True:
            self._again = False
            try:
                if not await self._store.use_once(TURN, TAKEN_S):
                    complete = not asked  # another process does it, unless it was ours before
                else:
                    checked = await self.check(asked)
                    complete = checked.complete
                    log.info("logins checked", logins=checked.logins, ended=checked.ended, complete=complete)
                    await self._store.forget_use(TURN)
            except StoreUnavailable as error:
                log.warning("logins not checked", problem=str(error))
                complete = False
            if self._again:
                asked.clear()
            elif complete:
                return
            await asyncio.sleep(wait_s)
            wait_s = min(RETRY_MAX_S, wait_s * 2)

    async def check(self, asked: set[tuple[int, str]] | None = None) -> Checked:
        """Ask about every login that sessions come from, but for those in ``asked``, and end what has ended.

        Those that were answered for are put into ``asked``. Raises ``StoreUnavailable``.
        """
        done: set[tuple[int, str]] = asked if asked is not None else set()
        found, ended, complete = 0, 0, True
        batch: dict[tuple[int, str], tuple[ProxyProvider, Session]] = {}

        async def finish() -> None:
            nonlocal ended, complete
            answers = await asyncio.gather(*(self._is_over(*login) for login in batch.values()))
            for (name, (provider, session)), over in zip(batch.items(), answers, strict=True):
                if over is None:
                    complete = False
                    continue
                done.add(name)
                if over:
                    ended += 1
                    await self._end(provider, session)
            batch.clear()

        seen: set[tuple[int, str]] = set()
        async for provider, session in self._store.logins():
            name = (provider.pk, session.sid)
            # Without a sid (app passwords) no login's end would have been told either; such sessions end by themselves.
            if not session.sid or name in done or name in seen or not self._client.can_introspect(provider):
                continue
            seen.add(name)
            found += 1
            batch[name] = (provider, session)
            if len(batch) >= AT_ONCE:
                await finish()
        await finish()
        return Checked(found, ended, complete)

    async def _is_over(self, provider: ProxyProvider, session: Session) -> bool | None:
        """Whether a login has ended; None if nobody says."""
        kept = session.payload.get(INTROSPECTED)
        token = kept if isinstance(kept, str) else session.token
        if not session.live(self._client.clock()) and session.refresh_token:
            token = session.refresh_token  # the other one is over by itself, which says nothing about the login
        try:
            active = await self._client.introspect(provider, token)
        except OidcError as error:
            log.debug("login not checked", provider=provider.name, problem=error.detail)
            return None
        return active is None

    async def _end(self, provider: ProxyProvider, session: Session) -> None:
        """A token of this login is not active: its sessions at this provider are over.

        Other providers' tokens are asked about by themselves: this one may have been revoked alone.
        """
        await self._store.end_sid(session.sid, provider)

    async def backchannel_logout(self, providers: Mapping[int, ProxyProvider], body: bytes) -> bool:
        """A request of OpenID Connect Back-Channel Logout 1.0 §2.5: True (200) if its sessions are ended.

        False (400) if it holds no logout token for one of ``providers``. Raises ``StoreUnavailable`` (503), and
        ``OidcError`` if the provider's keys cannot be had.
        """
        token = _logout_token(body)
        if not token:
            return False
        for provider in providers.values():
            try:
                logout = await self._client.logout_token(provider, token)
            except OidcError as error:
                if error.retryable:
                    raise
                continue
            lives_s = min(REPLAY_MAX_S, max(1.0, logout.expires - self._client.clock()))
            if not await self._store.use_once(f"logout {provider.pk} {logout.token_id}", lives_s):
                return False
            if logout.sid:
                if self._header_auth is not None:
                    self._header_auth.session_ended(logout.sid)
                ended = await self._store.end_sid(logout.sid, provider, over=True)
            else:
                if self._header_auth is not None:
                    self._header_auth.subject_ended(logout.subject, provider)
                ended = await self._store.end_subject(logout.subject, provider)
            log.info("sessions ended by a logout token", provider=provider.name, sessions=ended)
            return True
        return False

    async def close(self) -> None:
        """Give up what is under way."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def _logout_token(body: bytes) -> str:
    """The parameter of a logout request; "" if there is none, or more than one."""
    if len(body) > MAX_LOGOUT_BODY:
        return ""
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=16)
    except ValueError:
        return ""
    values = [value for name, value in pairs if name == "logout_token"]
    return values[0] if len(values) == 1 else ""


def _finished(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        if not isinstance(error, OutpostError):
            log.error("check of logins failed", exc_info=error)
