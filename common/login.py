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
    This also keeps a name sent beside the certificate from putting another user in its place.

A flow that asks for a password or an unsent name ends such a login.

Everything else is ``Denied`` or ``Unavailable``, any unexpected exception included.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from common import client_certificate, endpoint, flow, logs, metrics
from common.challenges import Answer, Challenge, Redirect
from common.endpoint import CoreSettings
from common.errors import CoreError, CoreForbidden, CoreNonsense, CoreNotFound, CoreRejected, CoreTimedOut
from common.flow import Ended, Solver, Surprise
from common.flow_client import FlowClient
from common.openings import Opening, Openings
from common.outcomes import (
    CoreSession,
    Credentials,
    Denied,
    LoginTarget,
    Outcome,
    Passed,
    Reason,
    Unavailable,
)
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

    def configuration_changed(self) -> None:
        """Forget how flows begin and which log-out flow the brand has; cheap, to be called after each refresh."""
        self._openings.forget()
        self._brand = None

    async def login(self, target: LoginTarget, credentials: Credentials) -> Outcome:
        """Run one login. Never raises (but for cancellation); takes no longer than the budget."""
        try:
            async with asyncio.timeout(self.budget_s):
                return await self._login(target, credentials)
        except TimeoutError:
            return Unavailable(Reason.DEADLINE, f"not done within {self.budget_s:g} s")
        except CoreError as error:
            return _unavailable(error)
        except Exception as error:
            _log_defect("login failed unexpectedly", error)
            return Unavailable(Reason.INTERNAL, type(error).__name__)

    async def _login(self, target: LoginTarget, credentials: Credentials) -> Outcome:
        if credentials.certificate_only:
            if not credentials.certificate_pem or credentials.password:
                return Unavailable(Reason.INTERNAL, "not a certificate alone")
            solver = Solver.without_password(credentials.username)
        else:
            solver = Solver.of(
                credentials.username,
                credentials.password,
                mfa_support=target.mfa_support,
                remember_me=target.remember_me,
            )
        opening = Opening(target.flow_slug, target.protocol, endpoint.bare_address(credentials.client_ip))
        deadline = self._monotonic() + self.budget_s

        def client() -> FlowClient:
            return self._client(
                opening.client_ip,
                target.flow_slug,
                target.protocol,
                deadline,
                certificate_pem=credentials.certificate_pem,
            )

        # A certificate may change how a flow begins, so such logins always look first.
        if credentials.certificate_pem is None and self._openings.known(opening, self._monotonic()):
            execution = client()
            result = await execution.run(flow.run(solver, execution.executor_path, opening=True))
            unsettled = isinstance(result, Surprise)
            if unsettled or (isinstance(result, Denied) and result.reason == Reason.FLOW_RESTARTED):
                self._openings.surprise(opening, self._monotonic())
            if not unsettled:
                return await self._conclude(target, credentials, execution, result)

        def began(challenge: Challenge) -> None:
            if credentials.certificate_pem is None:
                self._openings.saw(opening, flow.asks_both(challenge), self._monotonic())

        execution = client()
        result = await execution.run(flow.run(solver, execution.executor_path), first=began)
        return await self._conclude(target, credentials, execution, result)

    async def _conclude(
        self, target: LoginTarget, credentials: Credentials, execution: FlowClient, result: flow.Result
    ) -> Outcome:
        """The success rule. This is the one place that makes a ``Passed``."""
        if isinstance(result, Denied | Unavailable):
            return result
        if not isinstance(result, Ended):
            return Unavailable(Reason.INTERNAL, type(result).__name__)
        if credentials.certificate_only:
            if not (credentials.certificate_trusted or not result.named):
                return Denied(Reason.CERTIFICATE_NOT_DECISIVE, "the certificate's issuer was not verified here")
        elif not (
            result.password_accepted or result.code_accepted or (target.allow_push_only and result.push_accepted)
        ):
            return Denied(Reason.PASSWORD_NOT_ASKED, "the flow ended without checking the password")
        session = execution.cookies.session
        if session is None or (session.claims is not None and session.claims.authenticated is not True):
            return Denied(Reason.NOT_AUTHENTICATED, "the flow ended without logging anyone in")

        ask_user = target.want_user or session.claims is None or credentials.certificate_only
        access, me = await asyncio.gather(
            _caught(
                execution.read(
                    endpoint.check_access_target(target.protocol, target.provider_pk, target.application_slug),
                    AccessCheck,
                )
            ),
            _caught(execution.read(endpoint.api_target("/core/users/me/"), Me)) if ask_user else _nothing(),
        )
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
        if credentials.certificate_only:
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


async def _nothing() -> None:
    return None


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
