"""Routes and middleware: HTTP to API calls, flow requests and the WebSocket (flows.md §8).

A request is read once into :class:`core.http_request.HTTPRequest`: client address, host, brand, session, outpost.
Handlers know nothing of aiohttp. Errors become the API's shapes here and nowhere else; an unexpected one is a 500.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

import msgspec
from aiohttp import web
from multidict import CIMultiDict, MultiMapping

from common.logs import get_logger
from core import models
from core.api.base import NO_PERMISSION, Answer, Call, Route
from core.api.routes import ROUTES
from core.certificates import OUTPOST_HEADER
from core.database import Change
from core.errors import Busy, CorePartError, Forbidden, ValidationFailed
from core.flows.executor import Executor, Reply, is_local, same_origin
from core.flows.planner import EmptyFlow, FlowCatalogue, FlowNotApplicable, Planner
from core.http_request import FALLBACK_CLIENT_IP, HTTPRequest, parse_query
from core.hub import Hub
from core.oauth2.web import OAuth2Routes
from core.pages.web import Pages
from core.services import Services
from core.sessions import CSRF_HEADER, PLAN, SESSION_COOKIE, SessionHandle
from core.settings import CoreSettings
from core.stages.base import Stage

log = get_logger(__name__)

_request_id: ContextVar[str] = ContextVar("request_id", default="")

API = "/api/v3"
MAX_BODY_BYTES = 1024 * 1024  # the largest body is a blueprint import of a few hundred kilobytes
REQUEST_ID = "X-authentik-id"
TOKEN_INVALID = "Token invalid/expired"  # noqa: S105 - a message
METHOD_NOT_ALLOWED = "Method not allowed."
DEFAULT_DESIGNATIONS = ("authentication", "invalidation")
DEFAULT_AUTHENTICATION = "/flows/-/default/authentication/"
DEFAULT_INVALIDATION = "/flows/-/default/invalidation/"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_OUTPOST_TOKENS = 256  # outpost tokens whose outpost is remembered; an installation has a handful
MAX_SESSION_LOCKS = 10_000  # sessions with a flow request in progress at one time
RETRY_AFTER_S = 1  # what a client is told when the core is busy or starting

NOT_FOUND_PAGE = (
    '<!DOCTYPE html>\n<html lang="en"><head><title>Not Found</title></head><body><h1>Not Found</h1></body></html>\n'
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """The aiohttp application of the embedded core. ``ready`` is set once blueprints are applied."""

    def __init__(
        self, services: Services, settings: CoreSettings, hub: Hub, stage_types: Mapping[str, type[Stage]]
    ) -> None:
        self.ready = False
        self._services = services
        self._settings = settings
        self._hub = hub
        self._catalogue = FlowCatalogue(services.database)
        self._executor = Executor(services, self._catalogue, stage_types)
        self._pages = Pages(services, self, self._executor, self._catalogue)
        self._oauth2 = OAuth2Routes(services, self, self._pages, self._executor, Planner(services, self._catalogue))
        self._locks: dict[str, _Held] = {}
        self._outposts = _OutpostTokens(services)
        self.app = web.Application(middlewares=[self._middleware], client_max_size=MAX_BODY_BYTES)
        self._add_routes(ROUTES)

    def _add_routes(self, routes: Iterable[Route]) -> None:
        router = self.app.router
        router.add_get("/-/health/live/", self._live)
        router.add_get("/-/health/ready/", self._health_ready)
        router.add_get("/ws/outpost/{pk}/", self._websocket)
        router.add_get("/flows/-/cancel/", self._cancel_flow)
        router.add_get("/flows/-/default/{designation}/", self._default_flow)
        router.add_get("/flows/-/configure/{pk}/", self._configure_stage)
        router.add_route("*", API + "/flows/executor/{slug}/", self._flow)
        self._pages.add_routes(router)
        self._oauth2.add_routes(router)
        by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            by_path.setdefault(route.path, {})[route.method] = route
        for path, methods in by_path.items():
            router.add_route("*", API + path, self._api(methods))

    # --- every request ---------------------------------------------------------------------------------------------

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id = uuid.uuid4().hex
        _request_id.set(request_id)
        response: web.StreamResponse
        try:
            if not self.ready and request.path != "/-/health/live/":
                response = _error(503, "The core is starting.", {"Retry-After": str(RETRY_AFTER_S)})
            else:
                response = await handler(request)
        except web.HTTPRequestEntityTooLarge:
            response = _error(413, "The request is too large.")
        except web.HTTPException as refused:
            response = web.Response(status=refused.status, text=NOT_FOUND_PAGE, content_type="text/html")
        except ValidationFailed as error:
            response = _json(400, error.fields)
        except Busy as error:
            response = _error(503, str(error), {"Retry-After": str(RETRY_AFTER_S)})
        except CorePartError as error:
            response = _error(error.status, str(error))
        except (asyncio.CancelledError, ConnectionResetError):
            raise
        except Exception as error:
            # the text of an unknown exception may hold what was sent: only its type is logged
            log.exception("request failed", path=request.path, error=type(error).__name__, request_id=request_id)
            response = _error(500, "Internal error.")
        if not response.prepared:
            headers = response.headers
            headers[REQUEST_ID] = request_id
            headers["Server"] = "outposts"
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "same-origin"
            headers.setdefault("X-Frame-Options", "DENY")
            headers.setdefault("Cache-Control", "no-store")
        return response

    def facts(self, request: web.Request) -> tuple[HTTPRequest, SessionHandle]:
        """What planner, stages, policies and API see of a request, and its session."""
        headers = request.headers
        peer = _address(request.remote)
        trusted = peer is not None and any(peer in network for network in self._settings.trusted_proxies)
        outpost: models.Outpost | None = None
        given_ip, token = headers.get("X-authentik-remote-ip"), headers.get("X-authentik-outpost-token")
        if given_ip is not None and token is not None:
            outpost = self._outposts.outpost(token)
        client = peer
        if outpost is not None:
            client = _address(given_ip) or peer
        elif trusted:
            client = self._forwarded(headers.getall("X-Forwarded-For", [])) or peer
        client_ip = str(client) if client is not None else FALLBACK_CLIENT_IP
        secure = request.secure or (trusted and headers.get("X-Forwarded-Proto", "").split(",")[0].strip() == "https")
        host = (headers.get("X-Forwarded-Host") if trusted else None) or request.host
        cookies = request.cookies
        session = self._services.sessions.open(cookies, client_ip)
        facts = HTTPRequest(
            method=request.method,
            path=request.path,
            target=request.raw_path,
            host=host,
            secure=secure,
            client_ip=client_ip,
            user=session.user or self._services.anonymous,
            headers=headers,
            cookies=cookies,
            brand=self._services.database.brand_for(host),
            outpost=outpost,
            client_certificate=self._client_certificate(headers, outpost, trusted),
            request_id=_request_id.get(),
            session=session,
        )
        return facts, session

    def _client_certificate(
        self, headers: MultiMapping[str], outpost: models.Outpost | None, trusted: bool
    ) -> tuple[str, str] | None:
        """An outpost's own header with its token, or the one header that the proxy in front is said to set.

        A proxy that adds its header to one that the client sent is not one that sets it: two are as good as none.
        """
        name = OUTPOST_HEADER if outpost is not None else self._settings.client_certificate_header
        texts = headers.getall(name, []) if name and (outpost is not None or trusted) else []
        return (name, texts[0]) if len(texts) == 1 and texts[0] else None

    def _forwarded(self, values: list[str]) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The client behind trusted proxies: the last address that is not one of them (RFC 7239 section 8.1)."""
        chain = [_address(part.strip()) for value in values for part in value.split(",")]
        for address in reversed(chain):
            if address is None or not any(address in network for network in self._settings.trusted_proxies):
                return address
        return chain[0] if chain else None

    def finish(self, response: web.Response, facts: HTTPRequest, session: SessionHandle, *, announce: bool) -> None:
        """Write the session and set its cookies."""
        cookies = self._services.sessions.commit(
            session, client_ip=facts.client_ip, user_agent=facts.headers.get("User-Agent", "")[:255], announce=announce
        )
        now = self._services.now()
        for cookie in cookies:
            response.headers.add("Set-Cookie", cookie.header(secure=facts.secure, now=now))

    # --- flows -----------------------------------------------------------------------------------------------------

    async def _flow(self, request: web.Request) -> web.StreamResponse:
        flow = self._catalogue.flow(request.match_info["slug"])
        if flow is None:
            raise web.HTTPNotFound
        body = await request.read()
        async with self.locked(request.cookies.get(SESSION_COOKIE)):
            return await self._run_flow(request, flow, body)

    async def _run_flow(self, request: web.Request, flow: models.Flow, body: bytes) -> web.Response:
        facts, session = self.facts(request)
        inner = [value for name, value in parse_qsl(request.rel_url.raw_query_string, True) if name == "query"]
        facts.query = parse_query(inner[-1]) if inner else {}
        reply = await self._executor.execute(
            flow,
            facts,
            session,
            body=body,
            content_type=request.content_type,
            csrf_header=request.headers.get(CSRF_HEADER),
        )
        response = _reply(reply)
        self.finish(response, facts, session, announce=True)
        return response

    @contextlib.asynccontextmanager
    async def locked(self, cookie: str | None) -> AsyncIterator[None]:
        """Hold a session: two requests of one would overwrite each other's plan, so they go one after the other.

        :raises Busy: too many sessions are held.
        """
        if not cookie:
            yield
            return
        held = self._locks.get(cookie)
        if held is None:
            if len(self._locks) >= MAX_SESSION_LOCKS:
                raise Busy("too many logins are in progress")
            held = self._locks[cookie] = _Held()
        held.users += 1
        try:
            async with held.lock:
                yield
        finally:
            held.users -= 1
            if held.users == 0:
                self._locks.pop(cookie, None)

    async def _cancel_flow(self, request: web.Request) -> web.StreamResponse:
        """Drop the session's plan; on to a local ``next``, else to the default invalidation flow (flows.md §3.9)."""
        facts, session = self.facts(request)
        session.remove(PLAN)
        target = request.query.get("next", "")
        response = _redirect(target if is_local(target) else DEFAULT_INVALIDATION)
        self.finish(response, facts, session, announce=False)
        return response

    async def _default_flow(self, request: web.Request) -> web.StreamResponse:
        """To the page of the flow that this host uses for a designation: the brand's, else the first that passes."""
        designation = request.match_info["designation"]
        if designation not in DEFAULT_DESIGNATIONS:
            raise web.HTTPNotFound
        facts, session = self.facts(request)
        flow = await self.default_flow(designation, facts)
        if flow is None:
            raise web.HTTPNotFound
        plan = session.get(PLAN)
        if isinstance(plan, dict) and plan.get("flow") != flow.pk:
            session.remove(PLAN)
        query = f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""
        response = _redirect(f"/if/flow/{flow.slug}/{query}")
        self.finish(response, facts, session, announce=False)
        return response

    async def _configure_stage(self, request: web.Request) -> web.StreamResponse:
        """To the page by which who is logged in sets a stage up for himself: a device, a password (flows.md §3.9)."""
        facts, session = self.facts(request)
        if session.user is None:
            response = _redirect(f"{DEFAULT_AUTHENTICATION}?{urlencode({'next': request.path})}")
            self.finish(response, facts, session, announce=False)
            return response
        database = self._services.database
        stage = database.first(models.Stage, pk=request.match_info["pk"])
        pk = stage.options.get("configure_flow") if stage is not None else None
        flow = database.first(models.Flow, pk=pk) if pk else None
        if flow is None:
            raise web.HTTPNotFound
        try:
            await self._executor.begin(flow, facts, session, {"pending_user": session.user})
        except (FlowNotApplicable, EmptyFlow):
            raise web.HTTPNotFound from None
        response = _redirect(f"/if/flow/{flow.slug}/")
        self.finish(response, facts, session, announce=False)
        return response

    async def default_flow(self, designation: str, facts: HTTPRequest) -> models.Flow | None:
        database = self._services.database
        pk = getattr(facts.brand, f"flow_{designation}", None)
        if pk:
            return database.first(models.Flow, pk=pk)
        for flow in database.find(models.Flow, order_by="slug", designation=designation):
            if (await self._services.engine.evaluate(flow, facts.user, http_request=facts)).passing is True:
                return flow
        return None

    # --- API -------------------------------------------------------------------------------------------------------

    def _api(self, methods: Mapping[str, Route]) -> Handler:
        allowed = ", ".join(sorted(methods))

        async def handle(request: web.Request) -> web.StreamResponse:
            route = methods.get("GET" if request.method == "HEAD" else request.method)
            if route is None:
                return _error(405, METHOD_NOT_ALLOWED, {"Allow": allowed})
            facts, session = self.facts(request)
            user = self._caller(request, facts, session)
            call = Call(
                services=self._services,
                http=facts,
                session=session,
                user=user,
                path={name: unquote(value) for name, value in request.match_info.items()},
                params=list(request.query.items()),
                read=request.read,
            )
            answer = await route.handler(call)
            response = _answer(answer)
            self.finish(response, facts, session, announce=call.announce)
            return response

        return handle

    def _caller(self, request: web.Request, facts: HTTPRequest, session: SessionHandle) -> models.User | None:
        """Bearer token first, then the session; unsafe methods of a session need its CSRF token.

        :raises Forbidden: the token or the CSRF token is wrong.
        """
        authorization = request.headers.get("Authorization", "")
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() == "bearer":
            user = self._services.database.user_by_api_key(key.strip())
            if user is None:
                raise Forbidden(TOKEN_INVALID)
            facts.user = user
            return user
        if session.user is None:
            return None
        if request.method not in SAFE_METHODS and not (
            session.csrf_matches(facts.cookies, request.headers.get(CSRF_HEADER)) and same_origin(facts)
        ):
            raise Forbidden("CSRF Failed: CSRF token missing.")
        return session.user

    # --- WebSocket and health --------------------------------------------------------------------------------------

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        try:
            pk = str(uuid.UUID(request.match_info["pk"]))
        except ValueError:
            return web.Response(status=403)
        outpost = self._hub.admitted(request.headers.get("Authorization"), pk)
        if outpost is None:
            return web.Response(status=403)
        return await self._hub.serve(request, outpost, request.query.get("instance_uuid", "")[:64])

    async def _live(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=204)

    async def _health_ready(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=204)


class _Held:
    """A lock and how many requests hold or want it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class _OutpostTokens:
    """Which outpost a token stands for. Every flow request asks: kept until a token or outpost changes."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._known: OrderedDict[str, models.Outpost] = OrderedDict()
        services.database.on_change(self._changed)

    def _changed(self, change: Change) -> None:
        record = change.record
        if isinstance(record, models.Token | models.Outpost) or (
            isinstance(record, models.User) and record.type == models.INTERNAL_SERVICE_ACCOUNT
        ):
            self._known = OrderedDict()

    def outpost(self, key: str) -> models.Outpost | None:
        """The outpost whose account's API token this is; ``None`` for any other token."""
        known = self._known
        found = known.get(key)
        if found is not None:
            return found
        token = self._services.database.token_by_key(key, models.INTENT_API)
        user = self._services.database.user_by_api_key(key)
        if token is None or user is None or user.type != models.INTERNAL_SERVICE_ACCOUNT:
            return None
        outpost = self._services.database.outpost_of(user)
        if outpost is not None and not token.expiring:
            known[key] = outpost
            if len(known) > MAX_OUTPOST_TOKENS:
                known.popitem(last=False)
        return outpost


def _address(text: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text or "")
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _json(status: int, data: Any, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status,
        body=msgspec.json.encode(data),
        content_type="application/json",
        headers=CIMultiDict(headers or {}),
    )


def _error(status: int, detail: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return _json(status, {"detail": detail or NO_PERMISSION}, headers)


def _reply(reply: Reply) -> web.Response:
    if reply.location is not None:
        headers = {"Location": reply.location, "X-Frame-Options": "SAMEORIGIN"}
        return web.Response(status=302, headers=headers, content_type="text/html", charset="utf-8")
    return _json(200, reply.data, {"X-Frame-Options": "SAMEORIGIN"})


def _redirect(location: str) -> web.Response:
    return web.Response(status=302, headers={"Location": location}, content_type="text/html", charset="utf-8")


def _answer(answer: Answer) -> web.Response:
    if answer.status == 204:
        return web.Response(status=204, headers=CIMultiDict(answer.headers))
    if answer.body is not None:
        return web.Response(
            status=answer.status,
            body=answer.body,
            content_type=answer.content_type,
            headers=CIMultiDict(answer.headers),
        )
    return _json(answer.status, answer.data, answer.headers)
