"""Routes of the OAuth2 provider below ``/application/o/`` (flows.md §8.4).

The authorization endpoint is the only place that decides whether a person gets into a flow that ends with a code:
request right → logged in, lately enough → application allows → authorization flow. The code itself is made by the
flow's last stage, :mod:`core.stages.oauth2_fulfilment`, which asks again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import msgspec
from aiohttp import web

from core import models
from core.flows.executor import Executor, Reply
from core.flows.plan import Plan, PlannedStage
from core.flows.planner import EmptyFlow, FlowNotApplicable, Planner
from core.http_request import HTTPRequest
from core.oauth2 import authorize, discovery, introspection, keys, providers, tokens
from core.oauth2.authorize import Asked
from core.oauth2.grants import TokenEndpoint
from core.oauth2.protocol import (
    LOGOUT,
    AuthorizeRefused,
    Credentials,
    OAuthError,
    RedirectRefused,
    base_url,
    credentials,
    form,
    redirectable,
    with_parameters,
)
from core.pages.render import message
from core.pages.web import Host, Pages, redirect
from core.services import Services
from core.sessions import HISTORY, PLAN, SESSION_COOKIE, SessionHandle
from core.stages.consent import ConsentStage
from core.stages.oauth2_fulfilment import FULFILMENT, NOT_ALLOWED, PARAMS, policy_context
from core.stages.session_end import POST_LOGOUT, SESSION_END

ROOT = "/application/o"
DENIED_TITLE = "Access denied"
UNUSABLE = "This application is not set up completely. Please tell its administrator."
NO_LOGIN = "There is no way to log in here."

MAX_LOCATION = 3072  # characters of a redirect that says things twice; proxies in front may take 4 KiB of headers

Answer = Callable[[dict[str, str], Credentials, HTTPRequest, str], Awaitable[Any]]


class OAuth2Routes:
    """Answers clients and the browsers that they send."""

    def __init__(self, services: Services, host: Host, pages: Pages, executor: Executor, planner: Planner) -> None:
        self._services = services
        self._host = host
        self._pages = pages
        self._executor = executor
        self._planner = planner
        self._tokens = TokenEndpoint(services)
        self._login_key = services.derived_key("oauth2 login after")

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add what this class answers. The fixed names go before applications of the same slug."""
        for method in ("GET", "POST"):
            router.add_route(method, f"{ROOT}/authorize/", self._authorize)
            router.add_route(method, f"{ROOT}/userinfo/", self._userinfo)
        router.add_post(f"{ROOT}/token/", self._client(self._token))
        router.add_post(f"{ROOT}/introspect/", self._client(self._introspect))
        router.add_post(f"{ROOT}/revoke/", self._client(self._revoke))
        router.add_get(ROOT + "/{slug}/jwks/", self._jwks)
        router.add_get(ROOT + "/{slug}/.well-known/openid-configuration", self._discovery)
        router.add_get(ROOT + "/{slug}/", self._issuer)
        for method in ("GET", "POST"):
            router.add_route(method, ROOT + "/{slug}/end-session/", self._end_session)

    # --- authorization ---------------------------------------------------------------------------------------------

    async def _authorize(self, request: web.Request) -> web.StreamResponse:
        pairs = await _pairs(request)
        async with self._host.locked(request.cookies.get(SESSION_COOKIE)):
            facts, session = self._host.facts(request)
            facts.query = dict(pairs)
            try:
                asked = authorize.read(self._services.database, pairs)
                response = await self._authorized(asked, pairs, facts, session)
            except RedirectRefused as refused:
                return message("Bad request", str(refused), brand=facts.brand, status=400, request_id=facts.request_id)
            except AuthorizeRefused as refused:
                response = self._to_client(refused.redirect_uri, refused.mode, refused.parameters, facts, session)
            self._host.finish(response, facts, session, announce=True)
            return response

    async def _authorized(
        self, asked: Asked, pairs: list[tuple[str, str]], facts: HTTPRequest, session: SessionHandle
    ) -> web.Response:
        """Where a right request leads.

        :raises AuthorizeRefused: back to the client.
        """
        silent = authorize.PROMPT_NONE in asked.prompts
        login, now = tokens.login_of(session), self._services.now()
        late = login is not None and authorize.needs_login(asked, login.auth_time, now, self._login_key)
        if login is None or late:
            if silent:
                raise self._refused(asked, "login_required")
            return await self._log_in(asked, pairs, facts, session)
        application, context = asked.client.application, policy_context(asked.authorization)
        context["oauth_max_age"] = asked.max_age_s
        result = await self._services.access.application(application, login.user, http_request=facts, context=context)
        if result.passing is not True:
            return self._denied("\n".join(result.messages), facts)
        flow = self._flow(asked.client.record.authorization_flow)
        if flow is None:
            return self._denied(UNUSABLE, facts)
        try:
            plan = await self._planner.plan(flow, facts, self._context(asked), allow_empty=True)
        except FlowNotApplicable as refusal:
            return self._denied(refusal.text, facts)
        if authorize.PROMPT_CONSENT in asked.prompts and all(s.type != ConsentStage.model for s in plan.stages):
            plan.append(PlannedStage(type=ConsentStage.model, options={"mode": "always_require"}))
        if plan.stages and silent:
            raise self._refused(asked, "interaction_required")
        plan.append(PlannedStage(type=FULFILMENT))
        self._start(plan, session)
        if len(plan.stages) > 1:
            return redirect(f"/if/flow/{flow.slug}/?{urlencode(pairs)}")
        # nothing to show: the flow's only stage runs at once
        facts.method, facts.query = "GET", {}
        reply = await self._executor.execute(flow, facts, session, body=b"", content_type="", csrf_header=None)
        return self._pages.shown(reply, facts, session)

    async def _log_in(
        self, asked: Asked, pairs: list[tuple[str, str]], facts: HTTPRequest, session: SessionHandle
    ) -> web.Response:
        """To the login that this application wants, and back to this request."""
        back = pairs
        if session.authenticated:
            after = authorize.login_after(asked, self._services.now(), self._login_key)
            back = [(name, value) for name, value in pairs if name != authorize.LOGIN_AFTER]
            back.append((authorize.LOGIN_AFTER, after))
        flow = self._flow(asked.client.record.authentication_flow) or await self._host.default_flow(
            "authentication", facts
        )
        context: dict[str, Any] = {"application": asked.client.application}
        if asked.login_hint:
            context["pending_user_identifier"] = asked.login_hint
        try:
            if flow is None:
                raise FlowNotApplicable((NO_LOGIN,))
            plan = await self._planner.plan(flow, facts, context)
        except (FlowNotApplicable, EmptyFlow) as refusal:
            if session.authenticated:
                raise self._refused(asked, "login_required") from None
            return self._denied(refusal.text if isinstance(refusal, FlowNotApplicable) else NO_LOGIN, facts)
        self._start(plan, session)
        following = quote(f"{ROOT}/authorize/?{urlencode(back)}", safe="")
        own = f"{urlencode(pairs)}&"
        if len(own) + len(following) > MAX_LOCATION:
            own = ""  # what matters is in ``next``
        return redirect(f"/if/flow/{flow.slug}/?{own}next={following}")

    def _context(self, asked: Asked) -> dict[str, Any]:
        application, database = asked.client.application, self._services.database
        wanted = [
            mapping
            for mapping in providers.mappings(database, asked.client)
            if providers.scope_of(mapping) in asked.authorization.scopes
        ]
        return {
            "is_sso": True,
            "application": application,
            PARAMS: asked.authorization.data(),
            "consent_header": f"You're about to sign into {application.name}.",
            "consent_permissions": [
                {"name": str(mapping.options.get("description") or ""), "id": providers.scope_of(mapping)}
                for mapping in wanted
            ],
        }

    @staticmethod
    def _start(plan: Plan, session: SessionHandle) -> None:
        session.put(HISTORY, [])
        session.put(PLAN, plan.to_data())

    def _flow(self, pk: str | None) -> models.Flow | None:
        return self._services.database.first(models.Flow, pk=pk) if pk else None

    @staticmethod
    def _refused(asked: Asked, code: str) -> AuthorizeRefused:
        authorization = asked.authorization
        return AuthorizeRefused(code, authorization.redirect_uri, authorization.response_mode, authorization.state)

    def _denied(self, text: str, facts: HTTPRequest) -> web.Response:
        """The person may not; the client never hears of it, as with the reference."""
        return message(DENIED_TITLE, text or NOT_ALLOWED, brand=facts.brand, status=200, request_id=facts.request_id)

    def _to_client(
        self, redirect_uri: str, mode: str, parameters: dict[str, str], facts: HTTPRequest, session: SessionHandle
    ) -> web.Response:
        if mode == "form_post":
            data = {"component": "ak-stage-autosubmit", "url": redirect_uri, "attrs": parameters}
            return self._pages.shown(Reply(data), facts, session)
        return redirect(with_parameters(redirect_uri, parameters, fragment=mode == "fragment"))

    # --- end of a session ------------------------------------------------------------------------------------------

    async def _end_session(self, request: web.Request) -> web.StreamResponse:
        """RP-initiated logout: runs the provider's invalidation flow. The id token hint is not read."""
        client = providers.by_slug(self._services.database, request.match_info["slug"])
        if client is None:
            raise web.HTTPNotFound
        given = dict(await _pairs(request))
        async with self._host.locked(request.cookies.get(SESSION_COOKIE)):
            facts, session = self._host.facts(request)
            facts.query = given
            if session.user is None:
                following = quote(f"{request.path}?{urlencode(given)}" if given else request.path, safe="")
                return redirect(f"/flows/-/default/authentication/?next={following}")
            context: dict[str, Any] = {"application": client.application}
            target = given.get("post_logout_redirect_uri", "")
            if target and redirectable(target) and client.allows(target, LOGOUT):
                state = {"state": given["state"]} if given.get("state") else {}
                context[POST_LOGOUT] = with_parameters(target, state) if state else target
            flow = self._flow(client.record.invalidation_flow) or await self._host.default_flow("invalidation", facts)
            try:
                if flow is None:
                    raise FlowNotApplicable((UNUSABLE,))
                plan = await self._planner.plan(flow, facts, context, allow_empty=True)
            except FlowNotApplicable as refusal:
                return self._denied(refusal.text, facts)
            plan.append(PlannedStage(type=SESSION_END))
            self._start(plan, session)
            query = f"?{urlencode(given)}" if given else ""
            response = redirect(f"/if/flow/{flow.slug}/{query}")
            self._host.finish(response, facts, session, announce=True)
            return response

    # --- what clients call -----------------------------------------------------------------------------------------

    def _client(self, answer: Answer) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """A handler for a form of a client; errors as RFC 6749 §5.2 wants them, always with status 400."""

        async def handle(request: web.Request) -> web.StreamResponse:
            facts, _ = self._host.facts(request)
            try:
                parameters = form(await request.read(), request.headers.get("Content-Type", ""))
                given = credentials(request.headers.get("Authorization", ""), parameters)
                return _json(200, await answer(parameters, given, facts, self._base(request, facts)))
            except OAuthError as error:
                return _refusal(400, error, facts)

        return handle

    async def _token(self, parameters: dict[str, str], given: Credentials, facts: HTTPRequest, base: str) -> Any:
        return await self._tokens.answer(parameters, given, facts, base)

    async def _introspect(self, parameters: dict[str, str], given: Credentials, facts: HTTPRequest, base: str) -> Any:
        return introspection.introspect(self._services, parameters, given)

    async def _revoke(self, parameters: dict[str, str], given: Credentials, facts: HTTPRequest, base: str) -> Any:
        introspection.revoke(self._services, parameters, given)
        return {}

    async def _userinfo(self, request: web.Request) -> web.StreamResponse:
        """RFC 6750: the token in the header, or in a form."""
        facts, _ = self._host.facts(request)
        try:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer":
                token = ""
                if request.method == "POST" and request.can_read_body:
                    content_type = request.headers.get("Content-Type", "")
                    token = form(await request.read(), content_type).get("access_token", "")
            return _json(200, await introspection.userinfo(self._services, token.strip(), facts))
        except OAuthError as error:
            status = {"invalid_token": 401, "insufficient_scope": 403}.get(error.code, 400)
            response = _refusal(status, error, facts)
            if status != 400:
                response.headers["WWW-Authenticate"] = (
                    f'Bearer error="{error.code}", error_description="{error.description}"'
                )
            return response

    async def _jwks(self, request: web.Request) -> web.StreamResponse:
        return self._document(request, lambda client, base: keys.jwks(self._services.database, client))

    async def _discovery(self, request: web.Request) -> web.StreamResponse:
        return self._document(request, lambda client, base: discovery.document(self._services.database, client, base))

    async def _issuer(self, request: web.Request) -> web.StreamResponse:
        """The issuer's own address leads to its configuration."""
        if providers.by_slug(self._services.database, request.match_info["slug"]) is None:
            raise web.HTTPNotFound
        return redirect(f"{ROOT}/{quote(request.match_info['slug'], safe='')}/.well-known/openid-configuration")

    def _document(
        self, request: web.Request, make: Callable[[providers.Client, str], dict[str, Any]]
    ) -> web.StreamResponse:
        client = providers.by_slug(self._services.database, request.match_info["slug"])
        if client is None:
            raise web.HTTPNotFound
        facts, _ = self._host.facts(request)
        try:
            response = _json(200, make(client, self._base(request, facts)))
        except OAuthError as error:
            return _refusal(400, error, facts)
        response.headers["Access-Control-Allow-Origin"] = "*"  # public, and browsers' clients read it
        return response

    @staticmethod
    def _base(request: web.Request, facts: HTTPRequest) -> str:
        base = base_url(request.host, request.headers.get("X-Forwarded-Proto", ""), secure=facts.secure)
        if base is None:
            raise OAuthError("invalid_request", "The Host header is not acceptable")
        return base


async def _pairs(request: web.Request) -> list[tuple[str, str]]:
    """Parameters of the query, or of the form of a POST."""
    text = request.rel_url.raw_query_string
    if request.method == "POST":
        try:
            text = (await request.read()).decode()
        except UnicodeDecodeError:
            raise web.HTTPBadRequest from None
    return parse_qsl(text, keep_blank_values=True)


def _json(status: int, data: Any) -> web.Response:
    response = web.Response(status=status, body=msgspec.json.encode(data), content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    response.headers["Pragma"] = "no-cache"
    return response


def _refusal(status: int, error: OAuthError, facts: HTTPRequest) -> web.Response:
    data = {"error": error.code, "error_description": error.description, "request_id": facts.request_id}
    return _json(status, data)
