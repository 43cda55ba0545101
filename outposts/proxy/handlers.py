"""Verdicts that have to wait for something: sessions out of the store, the core, the application behind.

``Handlers.handle`` answers one request, whatever happens: each step that fails ends as a page of refusal, and only
``decision.judge`` allows. What it needs is in ``Desk``, which the fast lane shares.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from common import logs
from common.errors import OutpostError
from common.shared_store import StoreUnavailable
from outposts.proxy import callback as callbacks
from outposts.proxy import pages, rfc
from outposts.proxy import state as states
from outposts.proxy.answers import (
    Answer,
    Answers,
    Pairs,
    as_html,
    no_session,
    origin_of,
    redirect,
    retry_url,
    session_cookie,
    sign_out_url,
    speaks_nginx,
    unavailable,
)
from outposts.proxy.callers import RawCaller
from outposts.proxy.decision import (
    Allow,
    BadRequest,
    Callback,
    Check,
    Forbidden,
    Login,
    LogoutNotice,
    Misconfigured,
    NoProvider,
    NotFound,
    Ping,
    Renew,
    SignOut,
    Start,
    Static,
    Tried,
    TryCredentials,
    Unauthorized,
    Verdict,
    judge,
    prepare,
)
from outposts.proxy.exchange import Forwarded
from outposts.proxy.header_auth import HeaderAuth
from outposts.proxy.listener import https_location
from outposts.proxy.observe import APP, PING, STATIC, Observations, outcome_of
from outposts.proxy.oidc import OidcError, OpenIdClient
from outposts.proxy.pages import Page
from outposts.proxy.providers import Providers, ProxyProvider
from outposts.proxy.renewal import Renewals
from outposts.proxy.revocation import MAX_LOGOUT_BODY, Revocation
from outposts.proxy.session import Event, Session
from outposts.proxy.state import StateError
from outposts.proxy.store import Sessions
from outposts.proxy.upstream import Forwarder
from outposts.proxy.wire import AuthRequest

FORM = "application/x-www-form-urlencoded"
MAX_FIELDS = 1000  # of a form that is kept; a page with more would be slow to show
BODY_S = 30.0  # for the whole of a form that is kept
USED_S = float(states.LIFETIME_S + states.CLOCK_SKEW_S)  # as long as a state could be used again
MAX_STEPS = 4  # verdicts about one request: credentials, a renewal, and what follows from each

log = logs.get_logger("proxy")


@dataclass
class Desk:
    """All that answers are made with. ``providers`` is replaced at each refresh."""

    sessions: Sessions
    client: OpenIdClient
    header_auth: HeaderAuth
    renewals: Renewals
    forwarder: Forwarder
    observations: Observations
    clock: Callable[[], float] = time.time
    random: Callable[[int], bytes] = secrets.token_bytes
    providers: Providers = field(default_factory=Providers)
    revocation: Revocation | None = None
    sign_out_everywhere: Callable[[ProxyProvider], bool] = lambda provider: (
        provider.settings["sign_out"] == "everywhere"
    )

    def __post_init__(self) -> None:
        self.answers = Answers(self.client, clock=self.clock, random=self.random)


class Handlers:
    """The full way of one process."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def handle(self, caller: RawCaller, request: AuthRequest, pairs: list[tuple[bytes, bytes]]) -> None:
        """Answer a request. Raises nothing but ``CancelledError``."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        about = _About(request)
        try:
            answer = await self._answer(caller, about, pairs)
        except StoreUnavailable as error:
            log.warning("session store", problem=str(error))
            answer = unavailable(request, "sessions cannot be looked up")
        except asyncio.CancelledError:
            caller.abort()
            raise
        except Exception:
            log.exception("request failed unexpectedly")
            page = pages.upstream_failed(500, "failed", as_html=as_html(request))
            answer = Answer(page, "failed")
        if answer is None:  # the forwarder has answered
            forwarded = about.forwarded
            status = forwarded.status if forwarded is not None else 0
            outcome = about.outcome
        else:
            status, outcome = answer.page.status, answer.outcome
            self.send(caller, answer)
        self.desk.observations.finished(
            request,
            about.provider,
            outcome,
            status,
            loop.time() - started,
            kind=about.kind,
            check=about.check,
            identity=about.identity,
            forwarded=about.forwarded,
        )

    def send(self, caller: RawCaller, answer: Answer) -> None:
        """Write a whole answer. A body that has not come by now is not waited for."""
        reusable = caller.keep_alive and caller.whole() is not None
        caller.write(pages.octets(answer.page, answer.more, caller.method == "HEAD", caller.minor, reusable))
        caller.end(reusable)

    async def _answer(self, caller: RawCaller, about: _About, pairs: list[tuple[bytes, bytes]]) -> Answer | None:
        desk, request = self.desk, about.request
        if not len(desk.providers) and not request.target.startswith(rfc.PREFIX + "/ping"):
            return unavailable(request, "there is no configuration yet")
        found = prepare(request, desk.providers)
        if isinstance(found, Check):
            about.check, about.provider = found, found.provider
            return await self._checked(caller, about, found, pairs)
        if isinstance(found, LogoutNotice):
            return await self._logout_notice(caller, found)
        return await self._verdict(about, found)

    async def _verdict(self, about: _About, verdict: Verdict) -> Answer:
        """A verdict that needs no session to be found first."""
        desk, request = self.desk, about.request
        match verdict:
            case BadRequest() | NoProvider() | NotFound() | Ping() | Static():
                about.kind = PING if isinstance(verdict, Ping) else STATIC if isinstance(verdict, Static) else APP
                return desk.answers.plain(verdict, request)
            case Misconfigured():
                about.provider = verdict.provider
                desk.observations.misconfigured(verdict, request, asyncio.get_running_loop().time())
                return Answer(pages.configuration_error(), "misconfigured")
            case Start():
                about.provider = verdict.provider
                return desk.answers.start(verdict, request)
            case Callback():
                return await self._callback(about, verdict)
            case SignOut():
                about.provider = verdict.provider
                return await self._sign_out(request, verdict)
        log.error("verdict without an answer", verdict=type(verdict).__name__)
        return Answer(pages.upstream_failed(500, "failed", as_html=as_html(request)), "failed")

    # -- somebody wants to pass --------------------------------------------------------------------------------------

    async def _checked(
        self, caller: RawCaller, about: _About, check: Check, pairs: list[tuple[bytes, bytes]]
    ) -> Answer | None:
        desk, request, provider = self.desk, check.request, check.provider
        if check.dialect is None:
            location = https_location(request, provider)
            if location is not None:
                return Answer(redirect(location, 308), "to_https")
        session = await desk.sessions.get(provider, check.values) if check.values else None
        tried, by_credentials = Tried.NOT_YET, False
        for _ in range(MAX_STEPS):
            verdict = judge(check, session, desk.clock(), tried)
            match verdict:
                case TryCredentials():
                    client = request.client or request.via.peer
                    found = await desk.header_auth.authenticate(provider, verdict.credential, client)
                    if isinstance(found, Session):
                        session, by_credentials, tried = found, True, Tried.REFUSED
                    else:
                        session, tried = None, found
                case Renew():
                    try:
                        session = await desk.renewals.renew(provider, verdict.session)
                    except OidcError as error:
                        log.warning("session not renewed", provider=provider.name, problem=error.detail)
                        return unavailable(request, "your session cannot be renewed")
                case Allow():
                    if by_credentials and verdict.session is session:
                        verdict = verdict._replace(used_authorization=True)
                    return await self._allowed(caller, about, check, verdict, pairs)
                case Login():
                    return await self._login(caller, about, check, verdict)
                case Unauthorized():
                    if tried is Tried.UNKNOWN and not speaks_nginx(check.dialect):
                        return unavailable(request, "your credentials cannot be checked")
                    return desk.answers.unauthorized(verdict, request, check.dialect)
                case Forbidden():
                    return desk.answers.forbidden(verdict, request)
                case _:
                    return await self._verdict(about, verdict)
        log.error("no verdict", provider=provider.name)
        return unavailable(request, "no decision was reached")

    async def _allowed(
        self, caller: RawCaller, about: _About, check: Check, allow: Allow, pairs: list[tuple[bytes, bytes]]
    ) -> Answer | None:
        about.outcome, about.identity = outcome_of(allow), allow.identity
        if allow.session is not None:
            self.desk.sessions.touch(allow.session, allow.provider)
        if check.dialect is None:
            about.forwarded = await self.desk.forwarder.forward(caller, check, allow, pairs)
            return None
        page = Page(200, (("Cache-Control", "no-store"),), b"")
        return Answer(page, about.outcome, tuple(allow.identity.pairs()))

    async def _login(self, caller: RawCaller, about: _About, check: Check, verdict: Login) -> Answer:
        """Send a browser to the login; a form that it sent is kept meanwhile."""
        request, answers = check.request, self.desk.answers
        if not verdict.keep_post:
            return answers.login(verdict, request)
        body = await self._form(caller, request, verdict.provider.settings["keep_post"])
        if body is None:
            return answers.unauthorized(Unauthorized(verdict.provider), request, None)
        kept = await self.desk.sessions.put_post(verdict.provider, body)
        return answers.login(verdict, request, kept)

    async def _form(self, caller: RawCaller, request: AuthRequest, limit: int) -> bytes | None:
        """The body of a form that can be shown again with nothing lost; None if it is another kind of body."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
            return None
        body = await self._body(caller, limit)
        return body if body is not None and fields_of(body) is not None else None

    async def _body(self, caller: RawCaller, limit: int) -> bytes | None:
        """A whole body of at most ``limit`` octets, if it comes in time."""
        if caller.expects:
            caller.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_S):
                while piece := await caller.read():
                    body += piece
                    if len(body) > limit:
                        return None
        except (TimeoutError, OutpostError):
            return None
        return bytes(body)

    # -- logins ------------------------------------------------------------------------------------------------------

    async def _callback(self, about: _About, verdict: Callback) -> Answer:
        """A browser is back from the core."""
        desk, request = self.desk, about.request
        found = callbacks.read(verdict, request, desk.random, desk.clock())
        about.provider = found.provider
        if isinstance(found, callbacks.Restart):
            try:
                ticket = states.next_ticket([found.ticket], desk.random, desk.clock())
                url, more = desk.answers.go_on(found.provider, found.state, ticket)
            except (StateError, OidcError) as error:
                return desk.answers.failed(found.provider, request, error, found.state.target)
            return Answer(redirect(url), "login_again", more)
        if isinstance(found, callbacks.Exchange):
            return await self._exchange(request, found)
        return self._failed(request, found)

    async def _exchange(self, request: AuthRequest, found: callbacks.Exchange) -> Answer:
        desk, provider, state = self.desk, found.provider, found.state
        values = provider.session_reader.values(request.headers.get("cookie"))
        former = await desk.sessions.get(provider, values) if values else None
        if not await desk.sessions.use_once(f"state {state.key}", USED_S):
            logged_in = former is not None and former.live(desk.clock(), provider.idle_s)
            ended = callbacks.replayed(found, logged_in=logged_in)
            if isinstance(ended, callbacks.Return):
                return Answer(redirect(ended.target or provider.external_host), "login_replayed")
            return self._failed(request, ended)
        try:
            tokens = await desk.client.exchange(provider, found.code, state)
        except OidcError as error:
            log.warning("login failed", provider=provider.name, problem=str(error.problem), detail=error.detail)
            return desk.answers.failed(provider, request, error, state.target)
        session, value = await desk.sessions.create(provider, tokens, replaces=former)
        more = (session_cookie(provider, value, session, desk.clock()),)
        target = state.target or provider.external_host
        if state.post:
            body = await desk.sessions.take_post(provider, state.post)
            fields = fields_of(body) if body is not None else None
            if fields is not None:
                page = pages.send_again(target, fields, application=provider.application_name, origin=origin_of(target))
                return Answer(page, "logged_in", more)
        return Answer(redirect(target), "logged_in", more)

    def _failed(self, request: AuthRequest, failed: callbacks.Failed) -> Answer:
        provider = failed.provider
        page = pages.login_failed(
            failed.status,
            str(failed.problem),
            as_html=as_html(request),
            retry_url=retry_url(provider, failed.target) if provider is not None else "",
            home_url=provider.external_host if provider is not None else "",
            details=[("error", failed.error), ("description", failed.description)],
        )
        return Answer(page, "login_failed")

    async def _logout_notice(self, caller: RawCaller, verdict: LogoutNotice) -> Answer:
        """The core says that a login is over, to each client by itself."""
        body = await self._body(caller, MAX_LOGOUT_BODY)
        status = 400
        if body is not None and self.desk.revocation is not None:
            by_pk = {provider.pk: provider for provider in verdict.providers}
            try:
                status = 200 if await self.desk.revocation.backchannel_logout(by_pk, body) else 400
            except OidcError as error:
                log.warning("logout token not checked", problem=error.detail)
                status = 503
        return Answer(pages.logout_noticed(status), "logout_notice")

    # -- sign-outs ---------------------------------------------------------------------------------------------------

    async def _sign_out(self, request: AuthRequest, verdict: SignOut) -> Answer:
        desk, provider = self.desk, verdict.provider
        html, name = as_html(request), provider.application_name
        end_session = desk.client.end_session_url(provider)
        session = await desk.sessions.get(provider, verdict.values) if verdict.values else None
        gone: Pairs = (no_session(provider),) if verdict.values else ()
        if session is None:
            page = pages.signed_out(as_html=html, application=name, again_url=provider.start_url)
            return Answer(page, "signed_out", gone if verdict.confirmed else ())
        if not verdict.confirmed:
            origins = {origin_of(url) for url in (provider.start_url, end_session) if url}
            page = pages.confirm_sign_out(
                sign_out_url(provider), as_html=html, application=name, form_origins=sorted(origins)
            )
            return Answer(page, "sign_out_unconfirmed")
        if not desk.sign_out_everywhere(provider):
            await desk.sessions.end(session, Event.SIGNED_OUT)
            page = pages.signed_out(
                as_html=html, application=name, again_url=provider.start_url, everywhere_url=end_session
            )
            return Answer(page, "signed_out", gone)
        await desk.sessions.end_subject(session.subject)
        desk.header_auth.subject_ended(session.subject)
        if end_session:
            return Answer(redirect(end_session), "signed_out", gone)
        page = pages.signed_out(as_html=html, application=name, again_url=provider.start_url)
        return Answer(page, "signed_out", gone)


class _About:
    """What is known of a request, for log and metrics."""

    __slots__ = ("check", "forwarded", "identity", "kind", "outcome", "provider", "request")

    def __init__(self, request: AuthRequest) -> None:
        self.request = request
        self.provider: ProxyProvider | None = None
        self.check: Check | None = None
        self.identity: Any = None
        self.forwarded: Forwarded | None = None
        self.kind = APP
        self.outcome = ""


def fields_of(body: bytes) -> tuple[tuple[str, str], ...] | None:
    """The fields of a form; None if showing them in a page of ours would change them."""
    try:
        text = body.decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:
        return None
    return tuple(pairs)
