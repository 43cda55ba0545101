"""Bind: from the request to the core's verdict and back to a result code.

The way of a bind: checks that need nobody (version, method, name, empty password), the provider whose base DN is
nearest above the name, the user name inside the name, the bind cache, the login flow on the core. Identical binds that
arrive while one is under way (same provider, name, password and client address) share its flow run.

``REFUSALS`` is the one table of everything that is not a success. Success is stated in one place, ``_granted``, which
alone makes an answer with an identity; a cached identity was put there by the same place that read ``Passed``. Whatever
else happens, an exception included, is a refusal.

Unknown users and wrong passwords take the same way: both run the flow, and the core answers both alike.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from common import logs, metrics
from common.outcomes import CoreSession, Credentials, Denied, LoginTarget, Outcome, Passed, Reason, Unavailable
from outposts.ldap import controls
from outposts.ldap.bind_cache import BindCache, Lifetimes
from outposts.ldap.dn import DN, DNError
from outposts.ldap.entries import Kind
from outposts.ldap.messages import BindRequest, Sasl, Simple
from outposts.ldap.providers import Provider, Providers, ProviderSettings
from outposts.ldap.rfc import LDAP_VERSION, ResultCode
from outposts.ldap.search import Viewer

log = logs.get_logger("ldap.auth")

# Mechanisms that would be understood on an encrypted connection; RFC 4513 §5.2 leaves the choice to the server.
SASL_MECHANISMS: frozenset[str] = frozenset()
# Named in RFC 4513 and wanted by clients; on a plain connection the useful answer is to encrypt first.
SASL_WANTS_TLS = frozenset({"PLAIN", "EXTERNAL"})

LOGOUTS_AT_ONCE = 2  # a core hashes and signs on few processors: log-outs must not push logins aside
MAX_LOGOUTS_WAITING = 1000  # beyond that the core lets the session end by itself

# A name that is no DN but one of the other forms people type: alice, alice@example.org, EXAMPLE\alice.
PLAIN_NAME = re.compile(r"[^\s,=+<>#;\"]+")


class LoginPort(Protocol):
    """What this part needs of ``common.login.LoginService``."""

    async def login(self, target: LoginTarget, credentials: Credentials) -> Outcome:
        """Run the flow and the access check."""

    async def logout(self, session: CoreSession, flow_slug: str | None, client_ip: str) -> bool:
        """End a session on the core."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is asking: address (PROXY header applied) and whether the connection is encrypted."""

    client_ip: str
    encrypted: bool = False


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
class Refusal:
    """One way to say no: code, value of the metric's ``reason`` label, text for clients, never about credentials."""

    code: ResultCode
    label: str
    diagnostic: str = ""


CORE_SILENT = "the identity core does not answer"

# Reason → answer. The labels no_provider, flow_error, invalid_credentials and access_denied are the reference's; the
# others are ours. The first part is decided here, the rest by the login (``common.outcomes.Reason``).
REFUSALS: Mapping[str, Refusal] = {
    "version": Refusal(ResultCode.PROTOCOL_ERROR, "version", "only LDAP version 3 is spoken"),
    "method": Refusal(ResultCode.AUTH_METHOD_NOT_SUPPORTED, "method", "only simple authentication is offered"),
    "mechanism": Refusal(ResultCode.AUTH_METHOD_NOT_SUPPORTED, "method", "SASL mechanism not supported"),
    "mechanism_without_tls": Refusal(ResultCode.CONFIDENTIALITY_REQUIRED, "tls_required", "start TLS first"),
    "tls_required": Refusal(ResultCode.CONFIDENTIALITY_REQUIRED, "tls_required", "start TLS first"),
    "critical_control": Refusal(ResultCode.UNAVAILABLE_CRITICAL_EXTENSION, "critical_control"),
    "control": Refusal(ResultCode.PROTOCOL_ERROR, "control", "a control twice, or with a broken value"),
    "anonymous": Refusal(ResultCode.INSUFFICIENT_ACCESS_RIGHTS, "no_provider"),
    "empty_password": Refusal(ResultCode.UNWILLING_TO_PERFORM, "empty_password", "a password is required"),
    "garbage_dn": Refusal(ResultCode.INVALID_DN_SYNTAX, "invalid_dn", "the name is not a DN"),
    "no_provider": Refusal(ResultCode.INSUFFICIENT_ACCESS_RIGHTS, "no_provider"),
    "no_user_name": Refusal(ResultCode.INSUFFICIENT_ACCESS_RIGHTS, "no_provider"),
    "empty_user_name": Refusal(ResultCode.INVALID_CREDENTIALS, "invalid_credentials"),
    "password_not_text": Refusal(ResultCode.INVALID_CREDENTIALS, "invalid_credentials"),
    "session_ended": Refusal(ResultCode.UNAVAILABLE, "session_ended", "the session ended during the bind"),
    "unexpected": Refusal(ResultCode.OTHER, "internal", "internal error"),
    Reason.INVALID_CREDENTIALS: Refusal(ResultCode.INVALID_CREDENTIALS, "invalid_credentials"),
    Reason.ACCESS_DENIED: Refusal(ResultCode.INSUFFICIENT_ACCESS_RIGHTS, "access_denied"),
    Reason.FLOW_DENIED: Refusal(ResultCode.INVALID_CREDENTIALS, "flow_error"),
    Reason.FLOW_RESTARTED: Refusal(ResultCode.INVALID_CREDENTIALS, "invalid_credentials"),
    Reason.PASSWORD_NOT_ASKED: Refusal(ResultCode.INVALID_CREDENTIALS, "flow_error"),
    Reason.NOT_AUTHENTICATED: Refusal(ResultCode.INVALID_CREDENTIALS, "flow_error"),
    Reason.UNSUPPORTED_CHALLENGE: Refusal(ResultCode.INVALID_CREDENTIALS, "flow_error"),
    Reason.NO_AUTHENTICATOR: Refusal(ResultCode.INVALID_CREDENTIALS, "flow_error"),
    Reason.TOO_DEEP: Refusal(ResultCode.INVALID_CREDENTIALS, "flow_error"),
    Reason.CORE_UNAVAILABLE: Refusal(ResultCode.UNAVAILABLE, "core_unavailable", CORE_SILENT),
    Reason.DEADLINE: Refusal(ResultCode.UNAVAILABLE, "core_unavailable", CORE_SILENT),
    Reason.CORE_REFUSED: Refusal(ResultCode.UNAVAILABLE, "core_unavailable", CORE_SILENT),
    Reason.FLOW_ERROR: Refusal(ResultCode.UNAVAILABLE, "flow_error", CORE_SILENT),
    Reason.NONSENSE: Refusal(ResultCode.UNAVAILABLE, "core_unavailable", CORE_SILENT),
    Reason.INTERNAL: Refusal(ResultCode.OTHER, "internal", "internal error"),
}
# For reasons that a newer login part may bring: by the class of the outcome, never a success.
UNKNOWN_DENIAL = Refusal(ResultCode.INVALID_CREDENTIALS, "flow_error")
UNKNOWN_FAILURE = Refusal(ResultCode.UNAVAILABLE, "core_unavailable", CORE_SILENT)


@dataclass(frozen=True, slots=True)
class BindAnswer:
    """The answer to a bind. ``reason`` is empty exactly when ``identity`` is there and the code is success."""

    code: ResultCode
    identity: Identity | None = None
    reason: str = ""
    label: str = ""
    diagnostic: str = ""
    provider: ProviderSettings | None = None
    cached: bool = False

    def __post_init__(self) -> None:
        if (self.code == ResultCode.SUCCESS) != (self.identity is not None):
            raise ValueError("a bind succeeds exactly when it yields an identity")


def _granted(identity: Identity, provider: ProviderSettings, *, cached: bool) -> BindAnswer:
    """The only place that states success: an identity that the core granted, now or as long as a cache may say so."""
    return BindAnswer(ResultCode.SUCCESS, identity, provider=provider, cached=cached)


def refused(reason: str, provider: ProviderSettings | None = None, unknown: Refusal = UNKNOWN_DENIAL) -> BindAnswer:
    """The answer for a reason; ``unknown`` stands in for one that ``REFUSALS`` does not have."""
    refusal = REFUSALS.get(reason, unknown)
    return BindAnswer(
        refusal.code, reason=str(reason), label=refusal.label, diagnostic=refusal.diagnostic, provider=provider
    )


@dataclass(frozen=True, slots=True)
class Question:
    """A bind that needs a verdict: provider, user name for the flow, normalised name, password."""

    provider: ProviderSettings
    username: str
    key: bytes
    password: str = field(repr=False)
    client_ip: str
    digest: bytes = field(repr=False)


@dataclass(slots=True)
class _Flight:
    """One flow run and how many binds wait for it."""

    task: asyncio.Task[BindAnswer]
    mark: int
    waiting: int = 0


class Authenticator:
    """Answers binds. One per process; the bind cache outlives refreshes because it is keyed by provider pk.

    ``in_use(identity)`` says whether any connection rests on the identity's session; ``now()`` is unix seconds.
    """

    def __init__(
        self,
        login: LoginPort,
        cache: BindCache[Identity],
        *,
        now: Callable[[], float],
        in_use: Callable[[Identity], bool] = lambda identity: False,
        unbind_flow: Callable[[int], str | None] = lambda provider_pk: None,
    ) -> None:
        self._login = login
        self._cache = cache
        self._now = now
        self._in_use = in_use
        self._unbind_flow = unbind_flow
        self._flights: dict[tuple[bytes, str], _Flight] = {}
        self._cache_hits = metrics.bind_cache_lookups.labels("hit")
        self._cache_misses = metrics.bind_cache_lookups.labels("miss")
        self._logouts: set[asyncio.Task[None]] = set()
        self._logout_gate = asyncio.Semaphore(LOGOUTS_AT_ONCE)

    def at_once(self, request: BindRequest, peer: Peer, providers: Providers) -> BindAnswer | None:
        """The answer where nobody has to be asked: a refusal, or a bind that the cache holds. None: ``bind`` it."""
        try:
            question = self.examine(request, peer, providers)
            if isinstance(question, BindAnswer):
                return question
            known = self._remembered(question)
            return None if known is None else _granted(known, question.provider, cached=True)
        except Exception:
            log.exception("bind failed unexpectedly", client=peer.client_ip)
            return refused("unexpected")

    async def bind(self, request: BindRequest, peer: Peer, providers: Providers) -> BindAnswer:
        """Answer one bind (RFC 4511 §4.2). Never raises but for cancellation."""
        try:
            question = self.examine(request, peer, providers)
            return question if isinstance(question, BindAnswer) else await self._ask(question)
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
            mechanism = method.mechanism.upper()
            wants_tls = mechanism in SASL_WANTS_TLS and not peer.encrypted
            return refused("mechanism_without_tls" if wants_tls else "mechanism")
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

    def _remembered(self, question: Question) -> Identity | None:
        """The identity of a bind that may be answered without asking the core."""
        provider = question.provider
        known = self._cache.fresh(provider.pk, question.digest, self._now()) if provider.bind_cached else None
        if known is not None:
            self._cache_hits.inc()
        return known

    async def _ask(self, question: Question) -> BindAnswer:
        """The verdict of the cache, of a run under way for the same bind, or of a new run."""
        provider = question.provider
        known = self._remembered(question)
        if known is not None:
            return _granted(known, provider, cached=True)
        if provider.bind_cached:
            self._cache_misses.inc()
        flight_key = (question.digest, question.client_ip)
        flight = self._flights.get(flight_key)
        if flight is None:
            task = asyncio.get_running_loop().create_task(self._run(question, self._cache.mark()))
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
        # The session may have ended between the end of the run and this waiter's turn.
        if answer.identity is not None and self._cache.session_ended_since(answer.identity, flight.mark):
            return refused("session_ended", provider)
        return answer

    def _landed(self, flight_key: tuple[bytes, str], task: asyncio.Task[BindAnswer]) -> None:
        flight = self._flights.pop(flight_key)
        if flight.waiting == 0:
            self._release_result(task)

    def _release_result(self, task: asyncio.Task[BindAnswer]) -> None:
        if not task.cancelled() and task.exception() is None and (identity := task.result().identity) is not None:
            self.release(identity)

    async def _run(self, question: Question, mark: int) -> BindAnswer:
        """One flow run, and what it means for the cache."""
        provider = question.provider
        target = LoginTarget(
            protocol="ldap",
            provider_pk=provider.pk,
            flow_slug=provider.bind_flow_slug,
            application_slug=provider.application_slug,
            mfa_support=provider.mfa_support,
            remember_me=provider.bind_cached,
            allow_push_only=provider.allow_push_only,
            want_user=True,
        )
        credentials = Credentials(username=question.username, password=question.password, client_ip=question.client_ip)
        outcome = await self._login.login(target, credentials)
        now = self._now()
        if isinstance(outcome, Passed):
            if outcome.user_pk is None:
                return refused("unexpected", provider)
            identity = _identity(question, outcome, outcome.user_pk)
            if self._cache.session_ended_since(identity, mark):
                return refused("session_ended", provider)
            if provider.bind_cached:
                lifetimes = Lifetimes(
                    fresh_s=provider.bind_cache_max,
                    fresh_with_code_s=min(provider.bind_cache_max, provider.bind_cache_mfa),
                    grace_s=provider.offline_grace,
                    max_entries=provider.bind_cache_size,
                )
                self._cache.put(question.digest, identity, lifetimes, now, used_code=outcome.used_code, mark=mark)
            return _granted(identity, provider, cached=False)
        if isinstance(outcome, Unavailable):
            if provider.bind_cached:
                known = self._cache.graced(provider.pk, question.digest, now)
                if known is not None:
                    metrics.bind_cache_lookups.labels("offline").inc()
                    log.info("core unreachable, cached bind honoured", provider=provider.name)
                    return _granted(known, provider, cached=True)
            return refused(outcome.reason, provider, UNKNOWN_FAILURE)
        # Denied, or an outcome this code does not know: what the cache held is over.
        self._cache.refused(provider.pk, question.digest)
        return refused(outcome.reason if isinstance(outcome, Denied) else "unexpected", provider)

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


def find_user(name: bytes, providers: Providers) -> tuple[ProviderSettings, str, bytes] | str:
    """Provider, user name for the flow and normalised name for a bind name; or the reason of a refusal.

    A DN below a provider's base names the user by the first ``cn`` (with ``dn_attribute=uid``: the first ``uid``, else
    ``cn``) left of the base, wherever it stands; letter case is kept for the flow. With ``bind_names`` a provider also
    takes plain user names (``username``), addresses that the flow itself resolves (``mail``), and ``user@domain`` where
    the domain spells the ``dc`` values of its base (``upn``). Plain names that nobody takes are no_provider, other
    text that is not a DN is garbage.
    """
    try:
        dn = DN.parse(name)
    except DNError:
        return _find_plain(name, providers)
    provider = providers.for_name(dn)
    if provider is None or "dn" not in provider.settings.bind_names:
        return "no_provider"
    settings = provider.settings
    username = _name_in(dn, settings)
    return "no_user_name" if username is None else (settings, username, dn.key)


def _name_in(dn: DN, settings: ProviderSettings) -> str | None:
    own = dn.rdns[: len(dn.rdns) - len(settings.base.rdns)]
    for wanted in ("uid", "cn") if settings.dn_attribute == "uid" else ("cn",):
        for rdn in own:
            for ava in rdn:
                if ava.type == wanted:
                    return ava.value
    return None


def _find_plain(name: bytes, providers: Providers) -> tuple[ProviderSettings, str, bytes] | str:
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return "garbage_dn"
    if not PLAIN_NAME.fullmatch(text):
        return "garbage_dn"
    key = b"\0" + text.casefold().encode()  # no DN's key begins so
    local, at, domain = text.rpartition("@")
    takers: list[tuple[Provider, str]] = []
    for provider in providers:
        forms = provider.settings.bind_names
        if at and local and "upn" in forms and domain.casefold() == _domain_of(provider.settings.base):
            takers.append((provider, local))
        elif ("mail" if at and local and domain else "" if at else "username") in forms:
            takers.append((provider, text))
    if not takers:
        return "no_provider"
    by_domain = [taker for taker in takers if taker[1] == local]
    provider, username = (by_domain or takers)[0]  # an own domain tells more; else the core's order decides
    return provider.settings, username, key


def _domain_of(base: DN) -> str:
    return ".".join(ava.value for rdn in base.rdns for ava in rdn if ava.type == "dc").casefold()
