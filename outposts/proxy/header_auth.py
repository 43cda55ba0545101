"""``Authorization`` headers: app passwords and tokens that the core is asked about, and as seldom as can be.

Bearer tokens are introspected; if the provider has no endpoint for that, their signature is checked. Basic credentials
are an app password of the user, or a token behind the reserved user name. What the core said is remembered for a
minute if it was yes, for less if it was no, and not at all if it did not say; requests with the same credentials wait
for one answer. Failures slow down who sends them (``common.throttle``), by address, and by account and address.

A session from here is in no store and has no cookie: it ends with its token, at the latest.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from common import logs
from common.throttle import KEY_SIZE, Attempt, Throttle, ThrottleLimits
from outposts.proxy import session as sessions
from outposts.proxy import tokens
from outposts.proxy.decision import Credential, CredentialKind, Tried
from outposts.proxy.oidc import OidcError, OpenIdClient, Problem, Tokens
from outposts.proxy.providers import ProxyProvider
from outposts.proxy.rfc import BASIC_TOKEN_USER
from outposts.proxy.session import Event, Session, State

GOOD_S = 60.0  # for which a yes is remembered, the reference's time; a revoked token counts for so long at most
BAD_S = 20.0  # for which a no is: short, because a token may be made a moment after it was first tried
MAX_GOOD = 20_000  # credentials, some 3 KiB each
MAX_BAD = 50_000  # some 200 bytes each
MAX_WAITING = 256  # credentials that the core is asked about at once; above that: nobody knows
LIMITS = ThrottleLimits(per_pair=10, per_address=100, per_account=50, wait_max=300.0)
"""Failures without consequence: a script with an old password tries once a minute, a person types a dozen times."""

Name = tuple[int, str, bytes]
"""Provider, client, digest of the header: what an answer is about."""

log = logs.get_logger("header_auth")


@dataclass(slots=True)
class _Good:
    """A yes, until when, and the core's name of the login if it has one."""

    session: Session = field(repr=False)
    until: float


class HeaderAuth:
    """Header authentication of one process. To be used on one event loop. Times by ``clock``, unix seconds."""

    def __init__(
        self,
        client: OpenIdClient,
        *,
        clock: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = secrets.token_bytes,
        limits: ThrottleLimits = LIMITS,
    ) -> None:
        self._client = client
        self._clock = clock
        self._random = random
        self.throttle = Throttle(random(KEY_SIZE), limits)
        self._good: OrderedDict[Name, _Good] = OrderedDict()
        self._bad: OrderedDict[Name, float] = OrderedDict()
        self._asking: dict[Name, asyncio.Task[Session | Tried]] = {}
        self._round = 0  # grows when answers that are under way must not be remembered
        self.asked = 0  # calls to the core so far

    def peek(self, provider: ProxyProvider, credential: Credential) -> Session | Tried | None:
        """What is remembered about credentials: a session, ``REFUSED``, or None if the core has to be asked."""
        name, now = _name(provider, credential), self._clock()
        good = self._good.get(name)
        if good is not None:
            if now < good.until and good.session.live(now):
                return good.session
            del self._good[name]
        if self._bad.get(name, now) > now:
            return Tried.REFUSED
        return None

    async def authenticate(
        self, provider: ProxyProvider, credential: Credential, client_address: object
    ) -> Session | Tried:
        """The session of credentials, or how they ended. Never raises; ``client_address`` is who sent them."""
        found = self.peek(provider, credential)
        if found is not None:
            return found
        attempt = self._attempt(provider, credential, client_address)
        now, throttle = self._clock(), self.throttle
        if throttle.pair_blocked(attempt, now) or throttle.address_blocked(attempt, now):
            return Tried.UNKNOWN
        name = _name(provider, credential)
        task = self._asking.get(name)
        if task is None:
            if len(self._asking) >= MAX_WAITING:
                return Tried.UNKNOWN
            delay_s = throttle.delay_s(attempt, now)
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._judge(name, provider, credential, attempt, delay_s), name="credentials")
            self._asking[name] = task
        # Whoever gives up waiting must not take the answer away from the others.
        return await asyncio.shield(task)

    def _attempt(self, provider: ProxyProvider, credential: Credential, client_address: object) -> Attempt:
        """Who is counted: a user, or each token by itself, since nobody guesses those."""
        account = credential.user
        if credential.kind is CredentialKind.BEARER or account == BASIC_TOKEN_USER:
            account = "token " + credential.digest.hex()
        return self.throttle.attempt(provider.pk, account, str(client_address or ""))

    async def _judge(
        self, name: Name, provider: ProxyProvider, credential: Credential, attempt: Attempt, delay_s: float
    ) -> Session | Tried:
        """Ask the core, remember what it says. The one place where credentials become a session."""
        answer: Session | Tried = Tried.UNKNOWN
        now_round = self._round
        self.throttle.begin(attempt)
        try:
            if delay_s:
                await asyncio.sleep(delay_s)
            try:
                found = await self._ask(provider, credential)
            except OidcError as error:
                if error.problem in (Problem.REFUSED, Problem.BAD_TOKEN):
                    answer = Tried.REFUSED
                else:
                    log.warning("credentials not checked", provider=provider.name, problem=error.detail)
            else:
                session = self._session(provider, credential, found) if found is not None else None
                answer = session if session is not None else Tried.REFUSED
        except Exception as error:
            # Whatever went wrong, nobody has said yes.
            log.error("credentials not checked", provider=provider.name, exc_info=error)
        finally:
            self._asking.pop(name, None)
            failed = None if answer is Tried.UNKNOWN else answer is Tried.REFUSED
            self.throttle.end(attempt, self._clock(), failed)
        if now_round == self._round:
            self._remember(name, answer)
        return answer

    def _remember(self, name: Name, answer: Session | Tried) -> None:
        now = self._clock()
        if isinstance(answer, Session):
            self._good[name] = _Good(answer, now + GOOD_S)
            while len(self._good) > MAX_GOOD:
                self._good.popitem(last=False)
        elif answer is Tried.REFUSED:
            self._bad[name] = now + BAD_S
            while len(self._bad) > MAX_BAD:
                self._bad.popitem(last=False)

    async def _ask(self, provider: ProxyProvider, credential: Credential) -> Tokens | None:
        """What the core says about credentials; None for no. Raises ``OidcError``."""
        if credential.kind is CredentialKind.BEARER:
            return await self._bearer(provider, credential.secret)
        if credential.user == BASIC_TOKEN_USER:
            found = await self._bearer(provider, credential.secret)
            if found is not None:
                return found
        self.asked += 1
        return await self._client.client_credentials(provider, credential.user, credential.secret)

    async def _bearer(self, provider: ProxyProvider, token: str) -> Tokens | None:
        if len(token) > tokens.MAX_TOKEN or not token.isascii() or not token.isprintable():
            return None
        self.asked += 1
        if not self._client.can_introspect(provider):
            return await self._client.verified(provider, token)
        claims = await self._client.introspect(provider, token)
        if claims is None:
            return None
        self._client.check_origin(provider, claims)
        return Tokens(claims, token)

    def _session(self, provider: ProxyProvider, credential: Credential, found: Tokens) -> Session | None:
        """A session of the core's answer; None if it is about nobody, or over already."""
        now = self._clock()
        session = sessions.create(
            sessions.new_cookie(self._random),
            provider_pk=provider.pk,
            client_id=provider.client_id,
            payload=found.payload,
            token=found.token,
            options=provider.options,
            now=now,
            validity_s=provider.validity_s or GOOD_S,
        )
        session.credential = credential.digest  # what it was made from is not passed on
        return session if session.subject and session.live(now) else None

    # -- ends --------------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Remember nothing any more; for when the configuration has changed."""
        self._round += 1
        self._good.clear()
        self._bad.clear()

    def session_ended(self, sid: str) -> None:
        """A login at the core has ended; tokens that came from it do not count any more."""
        self._round += 1
        for name in [name for name, good in self._good.items() if sid and good.session.sid == sid]:
            self._end(name)

    def subject_ended(self, subject: str, provider: ProxyProvider | None = None) -> None:
        """A user is signed out, at all providers or at one."""
        self._round += 1
        for name in [
            name
            for name, good in self._good.items()
            if good.session.subject == subject and (provider is None or name[0] == provider.pk)
        ]:
            self._end(name)

    def _end(self, name: Name) -> None:
        good = self._good.pop(name)
        if good.session.state is State.AUTHENTICATED:
            good.session.end(Event.REVOKED)

    async def close(self) -> None:
        """Give up what is under way."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


def _name(provider: ProxyProvider, credential: Credential) -> Name:
    return (provider.pk, provider.client_id, credential.digest)


def challenges(provider: ProxyProvider) -> list[str]:
    """Values of ``WWW-Authenticate`` for a provider (RFC 9110 §11.6.1, RFC 7617 §2, RFC 6750 §3)."""
    text = provider.application_name or provider.name
    plain = "".join(character if " " <= character <= "~" and character not in '"\\' else "?" for character in text)
    return [f'Basic realm="{plain}", charset="UTF-8"', f'Bearer realm="{plain}"']
