"""Bind: from the request to the core's verdict and back to a result code.

The way of a bind: checks that need nobody (version, method, name, empty password), the provider whose base DN is
nearest above the name, the user name inside the name, the bind cache, the login flow on the core. Identical binds that
arrive while one is under way (same provider, name, password and client address) share its flow run.

SASL PLAIN is the same with another wrapping. SASL EXTERNAL sends the client's TLS certificate through the flow instead
of a password; it never comes from the cache, and ``common/login.py`` says when it passes.

Failed binds are counted (``throttle``). Whether an account has to wait at an address is asked before the cache, because
a cache that answers right guesses is as good as the core for guessing.

``refusals.REFUSALS`` is the one table of everything that is not a success. Success is stated in one place,
``_granted``, which alone makes an answer with an identity; a cached identity was put there by the same place that read
``Passed``. Whatever else happens, an exception included, is a refusal.

Unknown users and wrong passwords take the same way: both run the flow, and the core answers both alike.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from common import client_certificate, logs, metrics, throttle
from common.client_certificate import ClientCertificate
from common.flow import split_code
from common.outcomes import CoreSession, Credentials, Denied, LoginTarget, Outcome, Passed, Reason, Unavailable
from common.tls import CertificateError
from outposts.ldap import controls, sasl
from outposts.ldap.bind_cache import DIGEST_SIZE, KEY_SIZE, BindCache, Lifetimes
from outposts.ldap.bind_names import find_certificate_user, find_sasl_user, find_user
from outposts.ldap.entries import Kind
from outposts.ldap.messages import BindRequest, Sasl, Simple
from outposts.ldap.providers import Providers, ProviderSettings
from outposts.ldap.refusals import REFUSALS, UNKNOWN_DENIAL, UNKNOWN_FAILURE, Refusal
from outposts.ldap.rfc import LDAP_VERSION, ResultCode
from outposts.ldap.search import Viewer

log = logs.get_logger("ldap.auth")

# Only where the core gave no answer may the cache's grace stand in for it; a core that answers with anything else (the
# flow is gone, our token is refused, an exception in a policy) is there, and has not consented.
UNDECIDED = frozenset(
    {ResultCode.BUSY, ResultCode.UNAVAILABLE, ResultCode.OTHER}
)  # codes that say nothing of a password
CORE_AWAY = frozenset({Reason.CORE_UNAVAILABLE, Reason.DEADLINE})
MAX_BINDS_KNOWN = 16_384  # binds recognised by their octets, of one refresh; some 300 bytes each
LOGOUTS_AT_ONCE = 2  # a core hashes and signs on few processors: log-outs must not push logins aside
MAX_LOGOUTS_WAITING = 1000  # beyond that the core lets the session end by itself


class LoginPort(Protocol):
    """What this part needs of ``common.login.LoginService``."""

    async def login(self, target: LoginTarget, credentials: Credentials) -> Outcome:
        """Run the flow and the access check."""

    async def logout(self, session: CoreSession, flow_slug: str | None, client_ip: str) -> bool:
        """End a session on the core."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is asking: address (PROXY header applied), whether the connection is encrypted, the client's certificate."""

    client_ip: str
    encrypted: bool = False
    certificate: ClientCertificate | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a connection is bound as. Rights belong to the connection that holds this, not to the text of a DN."""

    provider_pk: int
    dn: str
    user_pk: int
    username: str
    client_ip: str
    session: CoreSession = field(repr=False)
    viewer: Viewer

    @property
    def authorization_id(self) -> str:
        """The authzId of RFC 4513 §5.2.1.8."""
        return f"dn:{self.dn}"


@dataclass(frozen=True, slots=True)
class BindAnswer:
    """The answer to a bind. ``reason`` is empty exactly when ``identity`` is there and the code is success.

    For the log: ``stage`` and ``message`` are the core's words for a refusal; ``username``: whom a SASL message named.
    """

    code: ResultCode
    identity: Identity | None = None
    reason: str = ""
    label: str = ""
    diagnostic: str = ""
    provider: ProviderSettings | None = None
    cached: bool = False
    stage: str = ""
    message: str = field(default="", repr=False)
    username: str = ""

    def __post_init__(self) -> None:
        if (self.code == ResultCode.SUCCESS) != (self.identity is not None):
            raise ValueError("a bind succeeds exactly when it yields an identity")


def _granted(identity: Identity, provider: ProviderSettings, *, cached: bool) -> BindAnswer:
    """The only place that states success: an identity that the core granted, now or as long as a cache may say so."""
    return BindAnswer(ResultCode.SUCCESS, identity, provider=provider, cached=cached)


def refused(reason: str, provider: ProviderSettings | None = None, unknown: Refusal = UNKNOWN_DENIAL) -> BindAnswer:
    """The answer for a reason; ``unknown`` stands in for one that ``REFUSALS`` does not have."""
    refusal = REFUSALS.get(reason, unknown)
    code = refusal.code
    if code in UNDECIDED and provider is not None and provider.undecided_code != "exact":
        code = ResultCode.INVALID_CREDENTIALS
    return BindAnswer(code, reason=str(reason), label=refusal.label, diagnostic=refusal.diagnostic, provider=provider)


@dataclass(frozen=True, slots=True)
class Question:
    """A bind that needs a verdict: provider, user name for the flow, normalised name, password or certificate.

    ``authorization_id`` is whom a SASL message asks to be; ``sasl`` whether it was one.
    """

    provider: ProviderSettings
    username: str
    key: bytes
    password: str = field(repr=False)
    client_ip: str
    digest: bytes = field(repr=False)
    sasl: bool = False
    authorization_id: str = ""
    certificate: ClientCertificate | None = None
    certificate_trusted: bool = False

    @property
    def cacheable(self) -> bool:
        """Whether the bind cache may know it: passwords only."""
        return self.provider.bind_cached and self.certificate is None


@dataclass(slots=True)
class _Flight:
    """One flow run and how many binds wait for it."""

    task: asyncio.Task[BindAnswer]
    mark: int
    waiting: int = 0


class Authenticator:
    """Answers binds. One per process; the bind cache outlives refreshes because it is keyed by provider pk.

    ``in_use(identity)`` says whether any connection rests on the identity's session; ``now()`` is unix seconds.
    ``sleep`` takes seconds.
    """

    def __init__(
        self,
        login: LoginPort,
        cache: BindCache[Identity],
        *,
        now: Callable[[], float],
        in_use: Callable[[Identity], bool] = lambda identity: False,
        unbind_flow: Callable[[int], str | None] = lambda provider_pk: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._login = login
        self._cache = cache
        self._now = now
        self._in_use = in_use
        self._unbind_flow = unbind_flow
        self._sleep = sleep
        self.throttle = throttle.Throttle(os.urandom(throttle.KEY_SIZE))
        self._flights: dict[tuple[bytes, str], _Flight] = {}
        self._hit_tally = metrics.Tally(metrics.bind_cache_lookups.labels("hit"))
        # One for binds in the clear, one for encrypted ones: what may be answered differs.
        self._octets_keys = os.urandom(KEY_SIZE), os.urandom(KEY_SIZE)
        self._cache_misses = metrics.bind_cache_lookups.labels("miss")
        self._logouts: set[asyncio.Task[None]] = set()
        self._logout_gate = asyncio.Semaphore(LOGOUTS_AT_ONCE)

    def octets(self, content: bytes, *, encrypted: bool) -> bytes:
        """A keyed digest of an encoded BindRequest: says nothing to who reads it later."""
        key = self._octets_keys[encrypted]
        return hashlib.blake2b(content, key=key, digest_size=DIGEST_SIZE).digest()

    def again(self, octets: bytes, client_ip: str, providers: Providers) -> BindAnswer | None:
        """The answer to a bind whose very octets the cache answered before, as long as it still would. None: ask."""
        memo = providers.binds.get(octets)
        if memo is None:
            return None
        answer: BindAnswer = memo[0]
        question: Question = memo[1]
        identity = answer.identity
        now = self._now()
        if identity is None or self._cache.fresh(identity.provider_pk, question.digest, now) is not identity:
            return None
        if len(self.throttle):
            attempt = self.throttle.attempt(identity.provider_pk, question.username, client_ip)
            if self.throttle.pair_blocked(attempt, now):
                return None
            self.throttle.forgive(attempt)
        self._hit_tally.inc()
        return answer

    def at_once(self, request: BindRequest, peer: Peer, providers: Providers, octets: bytes = b"") -> BindAnswer | None:
        """The answer where nobody has to be asked: a refusal, or a bind that the cache holds. None: ``bind`` it.

        ``octets``: digest of the encoded request, if it came in a message without controls.
        """
        try:
            question = self.examine(request, peer, providers)
            if isinstance(question, BindAnswer):
                return question
            if self._account_blocked(question):
                return refused("account_busy", question.provider)
            known = self._remembered(question)
            if known is None:
                return None
            answer = self._answer_for(question, known, cached=True)
            if octets and not question.sasl:
                if len(providers.binds) >= MAX_BINDS_KNOWN:
                    providers.binds.clear()
                providers.binds[octets] = (answer, replace(question, password=""))  # nothing needs that any more
            return answer
        except Exception:
            log.exception("bind failed unexpectedly", client=peer.client_ip)
            return refused("unexpected")

    async def bind(self, request: BindRequest, peer: Peer, providers: Providers) -> BindAnswer:
        """Answer one bind (RFC 4511 §4.2). Never raises but for cancellation."""
        try:
            question = self.examine(request, peer, providers)
            if isinstance(question, BindAnswer):
                return question
            answer = await self._ask(question)
            return replace(answer, username=question.username) if question.sasl else answer
        except Exception:
            log.exception("bind failed unexpectedly", client=peer.client_ip)
            return refused("unexpected")

    def examine(self, request: BindRequest, peer: Peer, providers: Providers) -> Question | BindAnswer:
        """Everything that can be said of a bind without asking the core: a refusal, or the question to put to it."""
        if request.version != LDAP_VERSION:
            return refused("version")
        try:
            controls.read(request.controls, controls.Operation.BIND)
        except controls.ControlError as error:
            critical = error.code == ResultCode.UNAVAILABLE_CRITICAL_EXTENSION
            return refused("critical_control" if critical else "control")
        method = request.authentication
        if isinstance(method, Sasl):
            return self._examine_sasl(method, peer, providers)
        if not isinstance(method, Simple):
            return refused("method")
        if not request.name:
            return refused("anonymous")
        if not method.password:
            return refused("empty_password")
        found = providers.found(request.name, find_user)
        if isinstance(found, str):
            return refused(found)
        provider, username, key = found
        if provider.require_tls and not peer.encrypted:
            return refused("tls_required", provider)
        if not username.strip():
            return refused("empty_user_name", provider)
        try:
            password = method.password.decode()
        except UnicodeDecodeError:
            return refused("password_not_text", provider)
        digest = self._cache.digest(provider.pk, key, method.password)
        return Question(provider, username, key, password, peer.client_ip, digest)

    def _examine_sasl(self, method: Sasl, peer: Peer, providers: Providers) -> Question | BindAnswer:
        """PLAIN and EXTERNAL; the name in the bind request itself means nothing here (RFC 4511 §4.2)."""
        mechanism = method.mechanism.upper()
        if mechanism not in (sasl.PLAIN, sasl.EXTERNAL):
            return refused("mechanism")
        if not peer.encrypted:
            return refused("mechanism_without_tls")
        if mechanism == sasl.EXTERNAL:
            return self._examine_external(method, peer, providers)
        message = sasl.parse_plain(method.credentials)
        if message is None:
            return refused("plain_malformed")
        found = find_sasl_user(message.authentication_id, providers)
        if isinstance(found, str):
            return refused(found)
        provider, username, key = found
        if message.authorization_id and sasl.name_of(message.authorization_id) is None:
            return refused("authorization_id", provider)
        if not username.strip():
            return refused("empty_user_name", provider)
        try:
            password = message.password.decode()
        except UnicodeDecodeError:
            return refused("password_not_text", provider)
        digest = self._cache.digest(provider.pk, key, message.password)
        return Question(
            provider,
            username,
            key,
            password,
            peer.client_ip,
            digest,
            sasl=True,
            authorization_id=message.authorization_id,
        )

    def _examine_external(self, method: Sasl, peer: Peer, providers: Providers) -> Question | BindAnswer:
        """Credentials are the authorization identity, or nothing (RFC 4422 appendix A.1)."""
        try:
            wanted = (method.credentials or b"").decode()
        except UnicodeDecodeError:
            return refused("authorization_id")
        found = find_certificate_user(wanted, providers)
        if isinstance(found, str):
            return refused(found)
        provider, username = found
        certificate = peer.certificate
        if certificate is None:
            return refused("no_certificate", provider)
        trusted = False
        if provider.client_ca:
            now = datetime.datetime.fromtimestamp(self._now(), datetime.UTC)
            try:
                trusted = client_certificate.trusted(certificate, provider.client_ca, now)
            except CertificateError as error:
                log.error("client_ca not usable, certificates refused", provider=provider.name, problem=str(error))
                return refused("issuers_unusable", provider)
            if not trusted:
                return refused("certificate_untrusted", provider)
        # No password is empty, so no other digest can be the same. Shared runs must agree in all that is sent.
        key = b"\1" + certificate.fingerprint + wanted.encode()
        return Question(
            provider,
            username,
            key,
            "",
            peer.client_ip,
            self._cache.digest(provider.pk, key, b""),
            sasl=True,
            authorization_id=wanted,
            certificate=certificate,
            certificate_trusted=trusted,
        )

    def _attempt(self, question: Question) -> throttle.Attempt:
        """Whom the throttle counts: a certificate counts for itself, never for the account that it may name."""
        certificate = question.certificate
        name = question.username if certificate is None else f"\1{certificate.fingerprint.hex()}"
        return self.throttle.attempt(question.provider.pk, name, question.client_ip)

    def _account_blocked(self, question: Question) -> bool:
        """Whether the account has to wait at this address. A bind that a run under way will answer does not guess."""
        if not len(self.throttle) or (question.digest, question.client_ip) in self._flights:
            return False
        blocked = self.throttle.pair_blocked(self._attempt(question), self._now())
        if blocked:
            metrics.bind_throttled.labels("account").inc()
        return blocked

    def _answer_for(self, question: Question, identity: Identity, *, cached: bool) -> BindAnswer:
        """Success, unless the message asks to be somebody else than the one who authenticated (RFC 4616 §2)."""
        proved = (question.username, question.key) if question.certificate is None else None
        if not sasl.same_identity(question.authorization_id, identity.dn, identity.username, proved):
            return refused("authorization_id", question.provider)
        return _granted(identity, question.provider, cached=cached)

    def _remembered(self, question: Question) -> Identity | None:
        """The identity of a bind that may be answered without asking the core."""
        provider = question.provider
        known = self._cache.fresh(provider.pk, question.digest, self._now()) if question.cacheable else None
        if known is not None:
            self._hit_tally.inc()
            if len(self.throttle):
                self.throttle.forgive(self._attempt(question))
        return known

    async def _ask(self, question: Question) -> BindAnswer:
        """The verdict of the cache, of a run under way for the same bind, or of a new run."""
        provider = question.provider
        if self._account_blocked(question):
            return refused("account_busy", provider)
        known = self._remembered(question)
        if known is not None:
            return self._answer_for(question, known, cached=True)
        if question.cacheable:
            self._cache_misses.inc()
        flight_key = (question.digest, question.client_ip)
        flight = self._flights.get(flight_key)
        if flight is None:
            attempt = self._attempt(question)
            if self.throttle.address_blocked(attempt, self._now()):
                metrics.bind_throttled.labels("address").inc()
                if question.cacheable:
                    self.throttle.fail_pair(attempt, self._now())  # the cache has just said that it was no right guess
                return refused("address_busy", provider)
            self.throttle.begin(attempt)
            task = asyncio.get_running_loop().create_task(self._counted(question, attempt, self._cache.mark()))
            flight = self._flights[flight_key] = _Flight(task, self._cache.mark())
            task.add_done_callback(lambda done: self._landed(flight_key, done))
        flight.waiting += 1
        try:
            answer = await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if flight.waiting == 0 and flight.task.done():
                # When the connections had their turn to note the identity, see whether anybody did.
                asyncio.get_running_loop().call_soon(self._release_result, flight.task)
        if answer.identity is None:
            return answer
        # The session may have ended between the end of the run and this waiter's turn.
        if self._cache.ended_since(answer.identity, flight.mark):
            return refused("session_ended", provider)
        return self._answer_for(question, answer.identity, cached=answer.cached)

    def _landed(self, flight_key: tuple[bytes, str], task: asyncio.Task[BindAnswer]) -> None:
        flight = self._flights.pop(flight_key)
        if flight.waiting == 0:
            self._release_result(task)

    def _release_result(self, task: asyncio.Task[BindAnswer]) -> None:
        if not task.cancelled() and task.exception() is None and (identity := task.result().identity) is not None:
            self.release(identity)

    async def _counted(self, question: Question, attempt: throttle.Attempt, mark: int) -> BindAnswer:
        """One flow run, delayed if the account is under attack, and its outcome counted."""
        failed: bool | None = None
        try:
            delay_s = self.throttle.delay_s(attempt, self._now())
            if delay_s:
                metrics.bind_throttled.labels("delayed").inc()
                await self._sleep(delay_s)
            answer, failed = await self._run(question, mark)
            return answer
        finally:
            self.throttle.end(attempt, self._now(), failed)

    async def _run(self, question: Question, mark: int) -> tuple[BindAnswer, bool | None]:
        """One flow run, and what it means for the cache; and whether it failed (None: nobody could tell)."""
        provider = question.provider
        target = LoginTarget(
            protocol="ldap",
            provider_pk=provider.pk,
            flow_slug=provider.bind_flow_slug,
            application_slug=provider.application_slug,
            mfa_support=provider.mfa_support,
            remember_me=question.cacheable,
            allow_push_only=provider.allow_push_only,
            want_user=True,
        )
        certificate = question.certificate
        credentials = Credentials(
            username=question.username,
            password=question.password,
            client_ip=question.client_ip,
            certificate_pem=certificate.pem if certificate is not None else None,
            certificate_only=certificate is not None,
            certificate_trusted=question.certificate_trusted,
        )
        outcome = await self._login.login(target, credentials)
        now = self._now()
        if isinstance(outcome, Passed):
            if outcome.user_pk is None:
                return refused("unexpected", provider), None
            identity = _identity(question, outcome, outcome.user_pk)
            if self._cache.ended_since(identity, mark):
                self.release(identity)
                return refused("session_ended", provider), None
            if question.cacheable:
                lifetimes = Lifetimes(
                    fresh_s=provider.bind_cache_max,
                    fresh_with_code_s=min(provider.bind_cache_max, provider.bind_cache_mfa),
                    grace_s=provider.offline_grace,
                    max_entries=provider.bind_cache_size,
                )
                second_factor = outcome.used_code or outcome.used_push
                self._cache.put(question.digest, identity, lifetimes, now, used_code=second_factor, mark=mark)
            return _granted(identity, provider, cached=False), False
        if isinstance(outcome, Unavailable):
            if question.cacheable and outcome.reason in CORE_AWAY:
                known = self._cache.graced(provider.pk, question.digest, now)
                if known is not None:
                    metrics.bind_cache_lookups.labels("offline").inc()
                    log.info("core unreachable, cached bind honoured", provider=provider.name)
                    return _granted(known, provider, cached=True), None
            answer = refused(outcome.reason, provider, UNKNOWN_FAILURE)
            return replace(answer, message=_without_secrets(outcome.message, question)), None
        # Denied, or an outcome this code does not know: what the cache held is over.
        self._cache.refused(provider.pk, question.digest)
        denied = outcome if isinstance(outcome, Denied) else Denied("unexpected")
        message = _without_secrets(denied.message, question)
        answer = replace(refused(denied.reason, provider), stage=denied.stage, message=message)
        return answer, True

    def release(self, identity: Identity) -> None:
        """Log a session out on the core, in the background, if nothing rests on it and a flow is configured."""
        flow = self._unbind_flow(identity.provider_pk)
        if flow is None or self._in_use(identity) or self._cache.holds(identity):
            return
        if self._cache.session_ended_since(identity, 0):
            return
        if len(self._logouts) >= MAX_LOGOUTS_WAITING:
            log.warning("too many log-outs waiting, session left to end by itself")
            return
        task = asyncio.get_running_loop().create_task(self._log_out(identity, flow))
        self._logouts.add(task)
        task.add_done_callback(self._logouts.discard)

    async def _log_out(self, identity: Identity, flow: str) -> None:
        try:
            async with self._logout_gate:
                done = await self._login.logout(identity.session, flow, identity.client_ip)
            log.info("unbind", bindDN=identity.dn.lower(), client=identity.client_ip, logged_out=done)
        except Exception:
            log.exception("log-out failed unexpectedly")

    async def close(self, timeout_s: float) -> None:
        """Give log-outs under way this long, then end them and every flow run."""
        if self._logouts:
            await asyncio.wait(self._logouts, timeout=timeout_s)
        tasks = [*self._logouts, *(flight.task for flight in self._flights.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _without_secrets(message: str, question: Question) -> str:
    """The core's text for a log line; withheld whole if it quotes what the client sent as a secret."""
    secrets = (question.password, *split_code(question.password), "-----BEGIN ")
    return "(withheld: it quotes a secret)" if any(secret in message for secret in secrets if secret) else message


def _identity(question: Question, passed: Passed, user_pk: int) -> Identity:
    username = passed.username or question.username
    provider = question.provider
    return Identity(
        provider_pk=provider.pk,
        dn=provider.options.dn(Kind.USER, username),
        user_pk=user_pk,
        username=username,
        client_ip=question.client_ip,
        session=passed.session,
        viewer=Viewer(user_pk=user_pk, full=passed.has_search_permission),
    )
