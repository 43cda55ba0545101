"""EAP over RADIUS (RFC 3579): drives one ``EapSession`` per conversation, with the core's verdict where it asks.

::

    Access-Request with EAP-Message  no State → a new session      State of ours → its session      else → reject
    Send     → Access-Challenge with a new State          Ignore → silence; the State stays good
    Decide   → the core is asked, then ``decided``        Fail   → Access-Reject with EAP-Failure
    Succeed  → ``Grants.accept``, which alone states an Access-Accept; it needs what the core granted to this session

Cryptography takes up to a millisecond a step with the usual keys. That is done on the spot, as a change of threads
would cost as much, up to ``INLINE_S`` in one turn of the loop; what comes beyond that, and everything with a slow key,
runs in threads, so that others are served meanwhile. A session is taken out of the table while somebody works on it, so
it is never in two threads.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from common import logs
from common.outcomes import Credentials, Outcome, Passed, Paused, Unavailable
from outposts.radius import refusals
from outposts.radius.eap.packet import failure_for
from outposts.radius.eap.session import EapSession, EapSettings
from outposts.radius.eap.steps import (
    Asked,
    Decide,
    Decision,
    Fail,
    Granted,
    Ignore,
    MfaAnswer,
    PasswordLogin,
    Question,
    Refused,
    Send,
    Step,
    Succeed,
)
from outposts.radius.providers import RadiusProvider
from outposts.radius.request import Answer, Request, Silence
from outposts.radius.rfc import Attribute, Code
from outposts.radius.session import EXCHANGE_TTL_S, Exchanges
from outposts.radius.wire import Attributes, split_long

_EAP_MESSAGE, _STATE = int(Attribute.EAP_MESSAGE), int(Attribute.STATE)
# Seconds of cryptography in one turn of the loop, after which threads go on. Others wait that long, and one step more;
# the promise is 10 ms.
INLINE_S = 0.003
# Seconds without a word of the peer in the middle of a handshake, when a session weighs most and no person is asked.
# Access points give a client up after 30 s (hostapd, Cisco); it then begins anew.
HANDSHAKE_WAIT_S = 30.0
NO_EAP = EapSettings((), None)  # of a provider that is not set up for EAP: an Identity gets EAP-Failure

T = TypeVar("T")
G = TypeVar("G")

log = logs.get_logger("radius.eap")


class Grants(Protocol[G]):
    """What this part needs of ``auth.Authenticator``."""

    def grant(self, request: Request, passed: Passed, *, eap: bool, username: str = "") -> G | str:
        """What an Accept will be made of, or the label of the reason why there can be none.

        ``username`` is for the log if the core has not said who it is: in EAP, User-Name may be anybody's.
        """

    def accept(self, request: Request, grant: G, success: Succeed) -> Answer:
        """The Access-Accept."""

    def reject(
        self,
        request: Request,
        label: str,
        *,
        eap: bytes,
        username: str,
        stage: str,
        message: str,
        core_request: str = "",
    ) -> Answer:
        """The Access-Reject with an EAP-Failure."""

    def undecided(self, request: Request, outcome: Unavailable, username: str) -> Silence | None:
        """Silence where the core could not decide; None where the operator wants a reject instead."""

    async def login(self, request: Request, credentials: Credentials, *, interactive: bool) -> Outcome | Paused:
        """Run a login on the core."""

    async def go_on(self, request: Request, paused: Paused, text: str) -> Outcome | Paused:
        """Go on with a login that waits for a person's answer."""


@dataclass(slots=True, eq=False)
class Conversation(Generic[G]):
    """One EAP session, what the core has granted to it so far, and the login that waits for an answer.

    ``provider`` is the one that it began with: it is over when that changes, also while somebody works on it.
    """

    session: EapSession
    provider: RadiusProvider
    expires: float
    grant: G | None = None
    paused: Paused | None = None
    username: str = ""
    stage: str = ""
    message: str = field(default="", repr=False)
    core_request: str = ""

    @property
    def name(self) -> str:
        """Whom the log names."""
        return self.username or self.session.identity


class Conversations(Generic[G]):
    """All EAP conversations of this process. ``settings`` (by provider pk) change at a refresh."""

    def __init__(
        self,
        grants: Grants[G],
        *,
        now: Callable[[], float],
        random: Callable[[int], bytes] = os.urandom,
        worker: int = 0,
        threads: int | None = None,
    ) -> None:
        self.settings: Mapping[int, EapSettings] = {}
        self.exchanges: Exchanges[Conversation[G]] = Exchanges(
            random, worker=worker, on_drop=self._drop, weigh=lambda conversation: conversation.session.weight
        )
        self._grants = grants
        self._now = now
        self._random = random
        self._ending: set[asyncio.Task[None]] = set()
        # As many as processors: the work is arithmetic. Two at least, so that one long handshake is not all.
        count = threads or max(2, len(os.sched_getaffinity(0)))
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="eap")
        self._spent = 0.0  # seconds of cryptography in this turn of the loop

    def begin(self, request: Request) -> Answer | Silence | Coroutine[Any, Any, Answer | Silence]:
        """An Access-Request with EAP-Message: the answer, or what is to be awaited for it."""
        packet, provider = request.packet, request.provider
        eap = packet.joined(_EAP_MESSAGE)
        state = packet.first(_STATE)
        now = self._now()
        conversation: Conversation[G] | None
        if state is None:
            if not self.exchanges.admit(request.client_ip, now):
                return Silence("exchange_rate")
            mtu = packet.first(Attribute.FRAMED_MTU)
            session = EapSession(
                self.settings.get(provider.pk, NO_EAP),
                self._random,
                framed_mtu=int.from_bytes(mtu, "big") if mtu is not None and len(mtu) == 4 else None,
            )
            conversation = Conversation(session, provider, now + EXCHANGE_TTL_S)
        else:
            conversation = self.exchanges.take(state, provider.pk, request.client_ip, now)
            if conversation is not None and conversation.provider is not provider:
                self._drop(conversation)
                conversation = None
            if conversation is None:
                return self._grants.reject(
                    request, "unknown_state", eap=failure_for(eap), username="", stage="", message=""
                )
        if not conversation.session.works_on(eap):
            step = conversation.session.receive(eap, now)
        elif self._may_work_here(conversation.session):
            step = self._here(conversation.session.receive, eap, now)
        else:
            return self._work(request, conversation, eap)
        if isinstance(step, Decide):
            return self._decide(request, conversation, step)
        return self._replied(request, conversation, step)

    async def _work(self, request: Request, conversation: Conversation[G], eap: bytes) -> Answer | Silence:
        step = await self._in_thread(conversation.session.receive, eap, self._now())
        if isinstance(step, Decide):
            return await self._decide(request, conversation, step)
        return self._replied(request, conversation, step)

    def _may_work_here(self, session: EapSession) -> bool:
        return self._spent < INLINE_S and not session.is_slow

    def _here(self, work: Callable[..., Step], *arguments: Any) -> Step:
        """Do it now, and note what it took."""
        if not self._spent:
            asyncio.get_running_loop().call_soon(self._next_turn)
        started = time.perf_counter()
        try:
            return work(*arguments)
        finally:
            self._spent += time.perf_counter() - started

    def _next_turn(self) -> None:
        self._spent = 0.0

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def _decide(self, request: Request, conversation: Conversation[G], step: Step) -> Answer | Silence:
        """Ask the core as long as the session wants to know something."""
        session = conversation.session
        try:
            while isinstance(step, Decide):
                decision = await self._judge(request, conversation, step.question)
                if isinstance(decision, Silence):
                    # The session is over, so a copy of this packet would find none and be rejected: it is met by
                    # silence too, and the client asks its next server.
                    session.abandon()
                    return replace(decision, again=False)
                if self._may_work_here(session):
                    step = self._here(session.decided, decision)
                else:
                    step = await self._in_thread(session.decided, decision)
            return self._replied(request, conversation, step)
        except BaseException:
            session.abandon()
            raise

    async def _judge(self, request: Request, conversation: Conversation[G], question: Question) -> Decision | Silence:
        """The core's decision about one question; silence if it has none."""
        conversation.grant = None
        paused, conversation.paused = conversation.paused, None
        outcome: Outcome | Paused
        if isinstance(question, MfaAnswer):
            if paused is None:
                return Refused("unexpected")
            outcome = await self._grants.go_on(request, paused, question.text)
        else:
            if paused is not None:
                self._abandon(paused)
            interactive = False
            if isinstance(question, PasswordLogin):
                name, interactive = question.username, question.interactive
                credentials = Credentials(question.username, question.password, request.delegated_ip)
            else:
                name = question.identity
                credentials = Credentials(
                    question.identity,
                    "",
                    request.delegated_ip,
                    certificate_pem=question.leaf_pem,
                    certificate_only=True,
                    certificate_trusted=question.issuer_verified,
                )
            conversation.username = name
            outcome = await self._grants.login(request, credentials, interactive=interactive)
        return self._decision(request, conversation, outcome)

    def _decision(
        self, request: Request, conversation: Conversation[G], outcome: Outcome | Paused
    ) -> Decision | Silence:
        if isinstance(outcome, Passed):
            conversation.username = outcome.username or conversation.username
            grant = self._grants.grant(request, outcome, eap=True, username=conversation.username)
            if isinstance(grant, str):
                return Refused(grant)
            conversation.grant = grant
            return Granted()
        if isinstance(outcome, Paused):
            conversation.paused = outcome
            return Asked(outcome.question.text)
        conversation.message = outcome.message
        if isinstance(outcome, Unavailable):
            silence = self._grants.undecided(request, outcome, conversation.name)
            return silence if silence is not None else Refused("core_error")
        conversation.stage, conversation.core_request = outcome.stage, outcome.core_request
        return Refused(refusals.label(outcome))

    def _replied(self, request: Request, conversation: Conversation[G], step: Step) -> Answer | Silence:
        """A step of the session as a reply."""
        if isinstance(step, Send):
            expires = conversation.expires
            if conversation.session.is_shaking_hands:
                expires = min(expires, self._now() + HANDSHAKE_WAIT_S)
            state = self.exchanges.open(conversation, request.provider.pk, request.client_ip, expires)
            attributes: Attributes = ((_STATE, state), *split_long(_EAP_MESSAGE, step.eap))
            return Answer(Code.ACCESS_CHALLENGE, attributes, username=conversation.name)
        if isinstance(step, Ignore):
            used = request.packet.first(_STATE)
            if used is not None:
                self.exchanges.put_back(
                    used, conversation, request.provider.pk, request.client_ip, conversation.expires
                )
            return Silence(step.reason, username=conversation.name)
        if conversation.paused is not None:
            self._abandon(conversation.paused)
        if isinstance(step, Succeed) and conversation.grant is not None:
            return self._grants.accept(request, conversation.grant, step)
        failed = (
            step if isinstance(step, Fail) else Fail(failure_for(request.packet.joined(_EAP_MESSAGE)), "unexpected")
        )
        return self._grants.reject(
            request,
            failed.reason,
            eap=failed.eap,
            username=conversation.name,
            stage=conversation.stage,
            message=conversation.message or failed.detail,
            core_request=conversation.core_request,
        )

    # -- ends --------------------------------------------------------------------------------------------------------

    def _drop(self, conversation: Conversation[G]) -> None:
        conversation.session.abandon()
        if conversation.paused is not None:
            self._abandon(conversation.paused)

    def _abandon(self, paused: Paused) -> None:
        task = asyncio.ensure_future(paused.abandon())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """Give up everything."""
        self.exchanges.end_providers(lambda pk: True)
        await asyncio.gather(*self._ending, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)
