"""Credentials → flow → access check → ``Passed | Denied | Unavailable``: the only place where success is stated.

The rule (design.md §4.7, core-contract §6.5). A login passes only if all of these hold:

1. the flow ended in a redirect;
2. in this run the password, or the code, was part of an answer that the flow asked for and the core did not refuse (or,
   where the operator allows it, a push was confirmed);
3. the last session cookie says ``authenticated``, or, if it is no JWT, ``users/me`` answers;
4. the access check says ``passing``.

Where a client brought a TLS certificate and no password (``Credentials.certificate_only``), something else takes the
place of 2. The certificate goes to the core, whose certificate stage may look at it, but nothing in a flow's answers
shows whether there is such a stage. So:

2a. either the outpost itself verified the certificate's issuer, or no user name was sent in this run: then the core had
    nothing but the certificate to find a user by; and
2b. the user of the session (``users/me``) is one that the certificate names (common name, subject or e-mail address).
    This also keeps a name sent beside the certificate from putting another user in its place. An operator may leave
    it to the core whom a certificate stands for (``bind_identity`` off); then no name may have been sent at all.

A flow that asks for a password or an unsent name ends such a login.

A login begun as interactive may stand still at a question to a person (``Paused``). It goes on with the same cookies,
is never in two calls at once, and ends by the same rule in the same place. Work for one packet of the client has the
budget of a whole login; the person has two minutes from the beginning.

Everything else is ``Denied`` or ``Unavailable``, any unexpected exception included.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from common import challenges, client_certificate, endpoint, flow, logs, metrics
from common.challenges import Answer, Challenge, Redirect
from common.dialogue import Ask, Person
from common.endpoint import CoreSettings
from common.errors import CoreError, CoreForbidden, CoreNonsense, CoreNotFound, CoreRejected, CoreTimedOut, SealError
from common.flow import Asked, Ended, Progress, Solver, Surprise
from common.flow_client import FlowClient
from common.openings import Opening, Openings
from common.outcomes import (
    CoreSession,
    Credentials,
    Denied,
    LoginTarget,
    Outcome,
    Passed,
    Paused,
    Question,
    QuestionKind,
    Reason,
    Unavailable,
)
from common.paused import PAUSE_S, Seal, Standing
from common.paused_login import PausedLogin
from common.records import AccessCheck, Brand, Me
from common.transport import Transport

__all__ = [
    "CoreSession",
    "Credentials",
    "Denied",
    "LoginService",
    "LoginTarget",
    "Outcome",
    "Passed",
    "Paused",
    "Question",
    "Reason",
    "Unavailable",
]

LOGIN_BUDGET_S = 90.0  # a push may take 60 s, the calls around it a second each; the contract's cap is 120
LOGOUT_BUDGET_S = 20.0  # nobody waits for it
MAX_LOGOUT_ANSWERS = 3  # log-out stages need no answer; a page that only wants to be confirmed gets one each
WARM_UP_ADDRESS = "127.0.0.1"  # flows that require an outpost deny a call without an address
BRAND_S = 300.0  # how long the brand's log-out flow is remembered; the core's own flow cache time

T = TypeVar("T")

log = logs.get_logger("login")


def observe(method: str, component: str, slug: str, seconds: float) -> None:
    """Count one step of a flow in the metrics."""
    metric = metrics.flow_get if method == "GET" else metrics.flow_post
    metric.labels(stage=component, flow=slug).observe(seconds)


class _Confirm(Answer, frozen=True, kw_only=True):
    """The empty answer, for pages of a log-out flow that only want to be left."""

    __repr__ = Answer.__repr__


class LoginService:
    """Logs users in and out. Stateless but for the memory of how flows begin; single flight is the caller's."""

    def __init__(
        self,
        transport: Transport,
        settings: CoreSettings,
        *,
        budget_s: float = LOGIN_BUDGET_S,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._where = endpoint.endpoint(settings)
        self._token = settings.token
        self.budget_s = budget_s  # seconds for one login; the daemon sets it anew with each configuration
        self._now = now
        self._monotonic = monotonic
        self._openings = Openings()
        self._brand: tuple[str | None, float] | None = None
        self._seal = Seal(settings.token)

    def configuration_changed(self) -> None:
        """Forget how flows begin and which log-out flow the brand has; cheap, to be called after each refresh."""
        self._openings.forget()
        self._brand = None

    async def login(self, target: LoginTarget, credentials: Credentials) -> Outcome:
        """Run one login. Never raises (but for cancellation); takes no longer than the budget."""
        outcome = await self._within_budget(self._login(target, credentials, None, 0.0))
        return outcome if not isinstance(outcome, Paused) else Unavailable(Reason.INTERNAL, "paused")

    async def begin(
        self, target: LoginTarget, credentials: Credentials, *, interactive: bool, sealable: bool = False
    ) -> Outcome | Paused:
        """As ``login``, but with ``interactive`` it may come to stand at a question to a person.

        ``sealable``: the question may be put away (``Paused.sealed``), so a push is sent only when the person answers;
        otherwise it is sent at once, and the answer waits for what became of it.
        """
        if not interactive or credentials.certificate_only:
            return await self.login(target, credentials)
        person = Person(push_on_answer=sealable)
        return await self._within_budget(self._login(target, credentials, person, self._now() + PAUSE_S))

    def restore(self, sealed: bytes, binding: bytes = b"") -> Paused | None:
        """A paused login from its sealed form; None if it is not ours, was changed, or its time is up.

        Whoever calls sees to it that no sealed form is restored twice.
        """
        try:
            standing = self._seal.open(sealed, binding)
        except SealError as error:
            log.warning("paused login not usable", problem=str(error))
            return None
        left_s = standing.expires - self._now()
        if left_s <= 0:
            return None
        standing.question = replace(standing.question, timeout_s=left_s)
        return PausedLogin(self, standing)

    async def _within_budget(self, work: Awaitable[Outcome | Paused]) -> Outcome | Paused:
        """Some work's outcome, whatever it raises."""
        try:
            async with asyncio.timeout(self.budget_s):
                return await work
        except TimeoutError:
            return Unavailable(Reason.DEADLINE, f"not done within {self.budget_s:g} s")
        except CoreError as error:
            return _unavailable(error)
        except Exception as error:
            _log_defect("login failed unexpectedly", error)
            return Unavailable(Reason.INTERNAL, type(error).__name__)

    async def _login(
        self, target: LoginTarget, credentials: Credentials, person: Person | None, expires: float
    ) -> Outcome | Paused:
        if credentials.certificate_only:
            if not credentials.certificate_pem or credentials.password:
                return Unavailable(Reason.INTERNAL, "not a certificate alone")
            solver = Solver.without_password(credentials.username, auto_consent=target.auto_consent)
        else:
            solver = Solver.of(
                credentials.username,
                credentials.password,
                mfa_support=target.mfa_support,
                remember_me=target.remember_me,
                auto_consent=target.auto_consent,
            )
        opening = Opening(target.flow_slug, target.protocol, endpoint.bare_address(credentials.client_ip))
        deadline = self._monotonic() + self.budget_s

        # A certificate may change how a flow begins, so such logins always look first; so does one without a password
        # that somebody can be asked for.
        looks_first = credentials.certificate_pem is not None or (person is not None and not solver.password)
        if not looks_first and self._openings.known(opening, self._monotonic()):
            run = _Run(target, credentials, solver, person, Progress(), expires)
            execution = self._execution(run, deadline)
            result = await execution.run(
                flow.run(solver, execution.executor_path, opening=True, person=person, progress=run.progress)
            )
            unsettled = isinstance(result, Surprise)
            if unsettled or (isinstance(result, Denied) and result.reason == Reason.FLOW_RESTARTED):
                self._openings.surprise(opening, self._monotonic())
            if not unsettled:
                return await self._conclude(run, execution, result)

        def began(challenge: Challenge) -> None:
            if credentials.certificate_pem is None:
                self._openings.saw(opening, flow.asks_both(challenge), self._monotonic())

        run = _Run(target, credentials, solver, person, Progress(), expires)
        execution = self._execution(run, deadline)
        result = await execution.run(
            flow.run(solver, execution.executor_path, person=person, progress=run.progress), first=began
        )
        return await self._conclude(run, execution, result)

    async def go_on(self, standing: Standing, typed: Answer) -> Outcome | Paused:
        """Go on with a paused login by sending an answer. Never raises (but for cancellation)."""
        return await self._within_budget(self._go_on(standing, typed))

    async def _go_on(self, standing: Standing, typed: Answer) -> Outcome | Paused:
        run = _Run(
            standing.target,
            standing.credentials,
            standing.solver,
            standing.person,
            standing.progress,
            standing.expires,
            standing.person.wrong,
        )
        execution = self._execution(run, self._monotonic() + self.budget_s, standing.cookies)
        result = await execution.run(
            flow.run(run.solver, execution.executor_path, person=run.person, progress=run.progress, typed=typed)
        )
        return await self._conclude(run, execution, result)

    def expired(self, standing: Standing) -> bool:
        """Whether a person's answer comes too late."""
        return self._now() >= standing.expires

    async def hear(self, standing: Standing, text: str) -> Outcome | Paused:
        """Go on with a paused login by what the person typed. Never raises (but for cancellation)."""
        return await self._within_budget(self._hear(standing, text))

    async def _hear(self, standing: Standing, text: str) -> Outcome | Paused:
        challenge, wrong = standing.pending(), standing.person.wrong
        standing.solver, move = flow.heard(standing.solver, standing.person, standing.progress, challenge, text)
        if isinstance(move, Denied):
            return move
        if isinstance(move, Ask):
            return self.pause(standing, move, mistaken=standing.person.wrong > wrong)
        return await self._go_on(standing, move)

    def pause(self, standing: Standing, ask: Ask, *, mistaken: bool = False) -> Paused:
        """Stand still at a question; a push that goes with it is sent now. ``mistaken``: see ``Paused``."""
        left_s = max(0.0, standing.expires - self._now())
        standing.question = Question(ask.text, ask.echo, ask.kind, left_s, ask.options)
        return PausedLogin(self, standing, ask.push, mistaken=mistaken)

    def seal(self, standing: Standing, binding: bytes) -> bytes:
        """The sealed form. Raises ``SealError``."""
        return self._seal.close(standing, binding)

    async def _conclude(self, run: _Run, execution: FlowClient, result: flow.Result) -> Outcome | Paused:
        """The outcome of a flow, with the core's name for its last call."""
        outcome = await self._judge(run, execution, result)
        return replace(outcome, core_request=execution.core_request) if isinstance(outcome, Denied) else outcome

    async def _judge(self, run: _Run, execution: FlowClient, result: flow.Result) -> Outcome | Paused:
        """The success rule. This is the one place that makes a ``Passed``."""
        target, credentials = run.target, run.credentials
        if isinstance(result, Denied | Unavailable):
            return result
        if isinstance(result, Asked):
            standing = run.standing(execution, result.challenge)
            return self.pause(standing, result.ask, mistaken=standing.person.wrong > run.wrong)
        if not isinstance(result, Ended):
            return Unavailable(Reason.INTERNAL, type(result).__name__)
        if credentials.certificate_only:
            if result.named and not credentials.certificate_trusted:
                return Denied(Reason.CERTIFICATE_NOT_DECISIVE, "the certificate's issuer was not verified here")
            if result.named and not target.bind_identity:
                return Denied(Reason.CERTIFICATE_NOT_DECISIVE, "a name was sent, and it need not be the certificate's")
        elif not (
            result.password_accepted or result.code_accepted or (target.allow_push_only and result.push_accepted)
        ):
            return Denied(Reason.PASSWORD_NOT_ASKED, "the flow ended without checking the password")
        session = execution.cookies.session
        if session is None or (session.claims is not None and session.claims.authenticated is not True):
            return Denied(Reason.NOT_AUTHENTICATED, "the flow ended without logging anyone in")

        ask_user = target.want_user or session.claims is None or credentials.certificate_only
        check = endpoint.check_access_target(target.protocol, target.provider_pk, target.application_slug)
        checking = _caught(execution.read(check, AccessCheck))
        access: AccessCheck | CoreError
        me: Me | CoreError | None = None
        if ask_user:
            access, me = await asyncio.gather(
                checking, _caught(execution.read(endpoint.api_target("/core/users/me/"), Me))
            )
        else:
            access = await checking
        if isinstance(access, CoreError):
            return _unavailable(access)
        if access.access.passing is not True:
            return Denied(Reason.ACCESS_DENIED, " ".join(access.access.messages))
        if isinstance(me, CoreForbidden):
            return Denied(Reason.NOT_AUTHENTICATED, "the core does not know the session")
        if isinstance(me, CoreError):
            return _unavailable(me)
        if ask_user and me is None:
            return Unavailable(Reason.INTERNAL, "user not looked up")
        if credentials.certificate_only and target.bind_identity:
            named = client_certificate.names(credentials.certificate_pem or "")
            if me is None or named.isdisjoint({me.user.username, me.user.email}):
                return Denied(Reason.IDENTITY_MISMATCH, "the session is not the certificate's user's")
        return Passed(
            session=CoreSession(
                cookies=execution.cookies.copy(),
                session_id=session.session_id,
                expires=session.expires,
                protocol=target.protocol,
            ),
            user_pk=me.user.pk if me is not None else None,
            username=me.user.username if me is not None else None,
            has_search_permission=access.has_search_permission is True,
            attributes=access.attributes,
            used_code=result.code_accepted,
            used_push=result.push_accepted,
            email=me.user.email if me is not None else None,
            groups=tuple(group.name for group in me.user.groups) if me is not None else (),
            core_request=execution.core_request,
        )

    async def logout(self, session: CoreSession, flow_slug: str | None, client_ip: str) -> bool:
        """End a session: run the log-out flow (None: the brand's) with its cookies. Whether the core ended it.

        Never raises (but for cancellation).
        """
        try:
            async with asyncio.timeout(LOGOUT_BUDGET_S):
                slug = flow_slug or await self._brand_logout(client_ip, session.protocol)
                if not slug:
                    return False
                return await self._logout(session, slug, client_ip)
        except (TimeoutError, CoreError) as error:
            log.warning("log-out failed", flow=flow_slug, error=str(error) or "time is up")
        except Exception as error:
            _log_defect("log-out failed unexpectedly", error)
        return False

    async def _logout(self, session: CoreSession, slug: str, client_ip: str) -> bool:
        execution = self._client(
            endpoint.bare_address(client_ip),
            slug,
            session.protocol,
            self._monotonic() + LOGOUT_BUDGET_S,
            cookies=session.cookies,
        )
        challenge = await execution.step(None)
        for _ in range(MAX_LOGOUT_ANSWERS):
            if isinstance(challenge, Redirect):
                break
            challenge = await execution.step(_Confirm(component=challenge.component))
        left = execution.cookies.session
        if left is None:
            return True
        return left.claims is not None and not left.claims.authenticated and left.session_id != session.session_id

    async def _brand_logout(self, client_ip: str, protocol: str) -> str | None:
        if self._brand is not None and self._monotonic() < self._brand[1]:
            return self._brand[0]
        execution = self._client(endpoint.bare_address(client_ip), "-", protocol, self._monotonic() + LOGOUT_BUDGET_S)
        brand = await execution.read(endpoint.api_target("/core/brands/current/"), Brand)
        self._brand = (brand.flow_invalidation, self._monotonic() + BRAND_S)
        return brand.flow_invalidation

    async def warm_up(self, target: LoginTarget) -> None:
        """One GET that fills the core's flow cache. Never raises (but for cancellation)."""
        try:
            execution = self._client(
                WARM_UP_ADDRESS, target.flow_slug, target.protocol, self._monotonic() + LOGOUT_BUDGET_S, warm_up=True
            )
            await execution.step(None)
        except CoreError as error:
            log.debug("warm-up failed", flow=target.flow_slug, error=str(error))
        except Exception as error:
            _log_defect("warm-up failed unexpectedly", error)

    def _execution(self, run: _Run, deadline: float, cookies: Mapping[str, str] | None = None) -> FlowClient:
        return self._client(
            endpoint.bare_address(run.credentials.client_ip),
            run.target.flow_slug,
            run.target.protocol,
            deadline,
            certificate_pem=run.credentials.certificate_pem,
            cookies=cookies,
        )

    def _client(
        self,
        client_ip: str,
        slug: str,
        protocol: str,
        deadline: float,
        *,
        certificate_pem: str | None = None,
        cookies: Mapping[str, str] | None = None,
        warm_up: bool = False,
    ) -> FlowClient:
        return FlowClient(
            self._transport,
            self._where,
            token=self._token,
            client_ip=client_ip,
            slug=slug,
            protocol=protocol,
            deadline=deadline,
            now=self._now,
            monotonic=self._monotonic,
            observe=observe,
            certificate_pem=certificate_pem,
            cookies=cookies,
            warm_up=warm_up,
        )


@dataclass
class _Run:
    """One login between two pauses."""

    target: LoginTarget
    credentials: Credentials
    solver: Solver
    person: Person | None
    progress: Progress
    expires: float
    wrong: int = 0  # answers to the present challenge that were no good before this run

    def standing(self, execution: FlowClient, challenge: Challenge) -> Standing:
        """Everything that is needed to go on later."""
        assert self.person is not None
        standing = Standing(
            target=self.target,
            credentials=self.credentials,
            solver=self.solver,
            person=self.person,
            progress=self.progress,
            cookies=execution.cookies.copy(),
            challenge=challenges.encode_challenge(challenge),
            question=Question("", True, QuestionKind.CODE, 0.0),
            expires=self.expires,
        )
        standing.forget_used()
        return standing


async def _caught(call: Awaitable[T]) -> T | CoreError:
    """A call's result, or its error as a value, so that one failed call does not leave the other running."""
    try:
        return await call
    except CoreError as error:
        return error


def _unavailable(error: CoreError) -> Unavailable:
    """What an error of a call means for a login: never wrong credentials (C45, C55)."""
    if isinstance(error, CoreTimedOut):
        return Unavailable(Reason.DEADLINE, str(error))
    if isinstance(error, CoreForbidden | CoreNotFound | CoreRejected):
        return Unavailable(Reason.CORE_REFUSED, str(error))
    if isinstance(error, CoreNonsense):
        return Unavailable(Reason.NONSENSE, str(error))
    return Unavailable(Reason.CORE_UNAVAILABLE, str(error))


def _log_defect(event: str, error: Exception) -> None:
    """Where it went wrong, without the exception's text: that may quote what a client sent."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"
    log.error(event, kind=type(error).__name__, place=place)
