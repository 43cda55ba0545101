"""A paused login that lives in this process: it takes one answer, then it is used up."""

from __future__ import annotations

import asyncio
from typing import Protocol

from common.challenges import Answer, PushAnswer
from common.errors import SealError
from common.outcomes import CoreSession, Denied, Outcome, Passed, Paused, Reason
from common.paused import Standing


class Continues(Protocol):
    """What this part needs of ``common.login.LoginService``."""

    def expired(self, standing: Standing) -> bool:
        """Whether the person's time is up."""

    async def hear(self, standing: Standing, text: str) -> Outcome | Paused:
        """Go on with what the person typed. Never raises."""

    async def go_on(self, standing: Standing, typed: Answer) -> Outcome | Paused:
        """Go on by sending an answer. Never raises."""

    async def logout(self, session: CoreSession, flow_slug: str | None, client_ip: str) -> bool:
        """End a session. Never raises."""

    def seal(self, standing: Standing, binding: bytes) -> bytes:
        """The sealed form. Raises ``SealError``."""


class PausedLogin(Paused):
    """See ``Paused``. With ``push`` that answer goes out at once, and the person's answer waits for what becomes of it.

    Then the login can neither be put away nor go on otherwise: its one call is under way.
    """

    def __init__(
        self, service: Continues, standing: Standing, push: PushAnswer | None = None, *, mistaken: bool = False
    ) -> None:
        self._service = service
        self.mistaken = mistaken
        self._standing: Standing | None = standing
        self._client_ip = standing.credentials.client_ip
        self.question = standing.question
        self.username = standing.credentials.username
        self._pushed: asyncio.Task[Outcome | Paused] | None = None
        if push is not None:
            self._pushed = asyncio.create_task(service.go_on(standing, push))

    def __repr__(self) -> str:
        return f"PausedLogin({self.question.kind})"

    async def answer(self, text: str) -> Outcome | Paused:
        """See ``Paused.answer``."""
        standing, self._standing = self._standing, None
        if standing is None:
            return Denied(Reason.CHALLENGE_EXPIRED, "answered before, or given up")
        if self._service.expired(standing):
            await self.abandon()
            return Denied(Reason.CHALLENGE_EXPIRED, "the answer came too late")
        if self._pushed is not None:
            return await self._pushed
        return await self._service.hear(standing, text)

    async def abandon(self) -> None:
        """See ``Paused.abandon``."""
        self._standing = None
        if self._pushed is None:
            return
        self._pushed.cancel()
        (outcome,) = await asyncio.gather(self._pushed, return_exceptions=True)
        if isinstance(outcome, Passed):
            await self._service.logout(outcome.session, None, self._client_ip)
        elif isinstance(outcome, Paused):
            await outcome.abandon()

    def sealed(self, binding: bytes = b"") -> bytes | None:
        """See ``Paused.sealed``."""
        if self._pushed is not None or self._standing is None:
            return None
        try:
            return self._service.seal(self._standing, binding)
        except SealError:
            return None
