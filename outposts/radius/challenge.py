"""Access-Challenge: a login that waits for a person, carried to the NAS and back (RFC 2865 §4.4, §5.24).

::

    Access-Request   User-Name, User-Password              → login pauses at a question
    Access-Challenge State, Reply-Message, Prompt, Session-Timeout
    Access-Request   same User-Name, State, User-Password with what was typed   → login goes on

State is good for one packet from the client and provider that it was made for. Where replicas share a store, the paused
login is put there sealed, and any of them may go on with it; a push that is under way can go on only where it is. The
State of a shared login is longer than others and names no worker.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from common import logs
from common.outcomes import Denied, Outcome, Paused, Question, Reason, Unavailable
from common.shared_store import StoreUnavailable
from outposts.radius.attributes import text_attributes
from outposts.radius.providers import RadiusProvider
from outposts.radius.request import Answer, Request, Silence
from outposts.radius.rfc import Attribute, Code
from outposts.radius.session import STATE_SIZE, Exchanges
from outposts.radius.wire import Attributes, Packet, PacketError, reveal_password

SHARED_STATE_SIZE = STATE_SIZE + 4  # octets, all of chance; another length than a State that names a worker
NO_ECHO, ECHO = (0).to_bytes(4, "big"), (1).to_bytes(4, "big")  # RFC 2869 §5.10

log = logs.get_logger("radius.challenge")


class Store(Protocol):
    """What this part needs of ``common.shared_store.SharedStore``; both raise ``StoreUnavailable``."""

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value."""

    async def take(self, key: str) -> bytes | None:
        """A value, once."""


class Restores(Protocol):
    """What this part needs of ``common.login.LoginService``."""

    def restore(self, sealed: bytes, binding: bytes = b"") -> Paused | None:
        """A paused login from its sealed form."""


@dataclass(slots=True, eq=False)
class Pending:
    """A login that waits: ``user_name`` is the request's, octet for octet.

    ``provider`` is the one that it began with: a question that was put while it changed is over. None: shared, where
    the key says what must not have changed.
    """

    user_name: bytes
    paused: Paused
    provider: RadiusProvider | None = None


class AnswerRefused(Exception):
    """A packet that cannot be the answer to its challenge. ``reason`` is the metric's label."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def challenge_attributes(question: Question, state: bytes) -> Attributes:
    """What an Access-Challenge says (RFC 2865 §4.4): State, the text, whether to echo, seconds to answer."""
    return (
        (Attribute.STATE, state),
        *text_attributes(Attribute.REPLY_MESSAGE, question.text),
        (Attribute.PROMPT, ECHO if question.echo else NO_ECHO),
        (Attribute.SESSION_TIMEOUT, max(1, int(question.timeout_s)).to_bytes(4, "big")),
    )


def read_answer(user_name: bytes, packet: Packet, secret: bytes) -> str:
    """What the person typed, from a packet that answers a challenge of ``user_name``. Raises ``AnswerRefused``."""
    if packet.first(Attribute.USER_NAME) != user_name:
        raise AnswerRefused("user_changed")
    hidden = packet.first(Attribute.USER_PASSWORD)
    if hidden is None or packet.first(Attribute.EAP_MESSAGE) is not None:
        raise AnswerRefused("unsupported_auth")
    try:
        return reveal_password(secret, packet.authenticator, hidden).decode()
    except PacketError:
        raise AnswerRefused("malformed_password") from None
    except UnicodeDecodeError:
        raise AnswerRefused("undecodable_password") from None


class Challenges:
    """All logins of this process that wait for a person, and those that replicas share.

    ``exchanges`` keeps them here; ``store`` (None: nothing is shared) keeps them for all replicas. ``monotonic`` is
    the clock of ``exchanges``, ``random(n)`` gives n octets of chance, ``worker`` is this process's number.
    """

    def __init__(
        self,
        login: Restores,
        *,
        monotonic: Callable[[], float],
        random: Callable[[int], bytes],
        store: Store | None = None,
        worker: int = 0,
    ) -> None:
        self._login = login
        self._monotonic = monotonic
        self._random = random
        self._store = store
        self._ending: set[asyncio.Task[None]] = set()
        self.exchanges: Exchanges[Pending] = Exchanges(random, worker=worker, on_drop=self._drop)

    @property
    def shared(self) -> bool:
        """Whether logins are to begin as ``sealable``."""
        return self._store is not None

    async def ask(self, request: Request, paused: Paused) -> Answer | Silence:
        """The Access-Challenge for a paused login, which is kept until its answer.

        Silence if this client has begun too many in this second; a further question is no new beginning.
        """
        goes_on = request.packet.first(Attribute.STATE) is not None
        if not goes_on and not self.exchanges.admit(request.client_ip, self._monotonic()):
            await paused.abandon()
            return Silence("exchange_rate", again=False)
        user_name = request.packet.first(Attribute.USER_NAME) or b""
        state = await self._share(request, user_name, paused)
        if state is None:
            expires = self._monotonic() + paused.question.timeout_s
            state = self.exchanges.open(
                Pending(user_name, paused, request.provider), request.provider.pk, request.client_ip, expires
            )
        return Answer(Code.ACCESS_CHALLENGE, challenge_attributes(paused.question, state), username=paused.username)

    def may_know(self, state: bytes) -> bool:
        """Whether a State can be one of ours: if not, nobody has to be asked about it."""
        return self.exchanges.holds(state) or (self._store is not None and len(state) == SHARED_STATE_SIZE)

    async def answer(self, request: Request) -> Outcome | Paused:
        """Go on with the login that a request's State names. Never raises (but for cancellation)."""
        state = request.packet.first(Attribute.STATE) or b""
        pending = self.exchanges.take(state, request.provider.pk, request.client_ip, self._monotonic())
        if pending is not None and pending.provider is not request.provider:
            self._drop(pending)
            return Denied(Reason.CHALLENGE_EXPIRED, "the provider has changed meanwhile")
        if pending is None:
            try:
                pending = await self._fetch(request, state)
            except StoreUnavailable as error:
                return Unavailable(Reason.STORE_UNAVAILABLE, str(error))
        if pending is None:
            return Denied(Reason.CHALLENGE_EXPIRED, "State is unknown here, used before, or too old")
        try:
            text = read_answer(pending.user_name, request.packet, request.provider.secret)
        except AnswerRefused as refused:
            await pending.paused.abandon()
            return Denied(refused.reason, "not an answer to this challenge")
        return await pending.paused.answer(text)

    def sweep(self, now: float) -> bool:
        """Give up what waits for too long; to be called every few seconds. Whether more is left."""
        return self.exchanges.sweep(now)

    async def close(self) -> None:
        """Give up everything."""
        self.exchanges.end_providers(lambda pk: True)
        await asyncio.gather(*self._ending)

    async def _share(self, request: Request, user_name: bytes, paused: Paused) -> bytes | None:
        """Put a paused login where all replicas find it. None: it is to be kept here."""
        if self._store is None:
            return None
        state = self._random(SHARED_STATE_SIZE)
        key = shared_key(state, request)
        sealed = paused.sealed(binding(key, user_name))
        if sealed is None:
            return None
        try:
            await self._store.put(key, sealed, paused.question.timeout_s)
        except StoreUnavailable as error:
            log.warning("challenge not shared", problem=str(error))
            return None
        return state

    async def _fetch(self, request: Request, state: bytes) -> Pending | None:
        if self._store is None or len(state) != SHARED_STATE_SIZE:
            return None
        key = shared_key(state, request)
        sealed = await self._store.take(key)
        if sealed is None:
            return None
        user_name = request.packet.first(Attribute.USER_NAME) or b""
        paused = self._login.restore(sealed, binding(key, user_name))
        return Pending(user_name, paused) if paused is not None else None

    def _drop(self, pending: Pending) -> None:
        task = asyncio.ensure_future(pending.paused.abandon())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def shared_key(state: bytes, request: Request) -> str:
    """Under what a challenge is shared: another client or provider with the same State finds nothing, nor does the same
    provider once its application or flow has changed."""
    provider = request.provider
    whose = f"{provider.pk}|{provider.application_slug}|{provider.flow_slug}|{request.client_ip}|"
    return hashlib.sha256(whose.encode() + state).hexdigest()


def binding(key: str, user_name: bytes) -> bytes:
    """What a shared challenge is sealed for: its place, and the user name that the answer must repeat."""
    return key.encode() + b"|" + user_name
