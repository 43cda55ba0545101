"""A core that a test holds in its hand: the part of the core's API that outposts call, over real HTTP and WebSocket.

``StubCore`` runs in its own thread on 127.0.0.1, so that a daemon in another process and a test without an event loop
can both use it. What it answers is plain data that a test may change at any time (``users``, ``groups``,
``providers``, ``outpost``, ``people``, ``executor.flows``, ``certificates``); what it was asked is in ``calls``;
``fault`` makes chosen calls fail in chosen ways. Filters, paging and refusals are those recorded from a real core.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from aiohttp import WSMsgType, web

from tests import factories, stub_lists
from tests.stub_flows import Executor, People, Session
from tests.stub_lists import Refused, page_of

JSON = dict[str, Any]

TOKEN = "stub-outpost-token"
WAIT_S = 10.0  # an event that has not come by then will not come
API = "/api/v3"
UPDATE, SESSION_END = 2, 4  # WebSocket instructions


@dataclass(frozen=True)
class Call:
    """One request that arrived: ``path`` is below /api/v3, ``raw_query`` as sent."""

    method: str
    path: str
    query: dict[str, str]
    raw_query: str
    headers: dict[str, str]
    body: Any
    at: float  # monotonic seconds


@dataclass
class Fault:
    """What goes wrong for calls whose path matches; ``times`` None is until ``clear_faults``."""

    pattern: re.Pattern[str]
    status: int | None = None
    body: JSON | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    hang: bool = False  # accept and never answer
    reset: bool = False  # close the connection without an answer
    html: bool = False  # an error page of something in front of the core
    truncated: bool = False  # end in the middle of the body
    query: dict[str, str] = field(default_factory=dict)
    method: str | None = None
    times: int | None = None
    hits: int = 0


class StubCore:
    """The fake core; a context manager, or ``start`` and ``stop``. ``stop`` and ``start`` again keep the port."""

    def __init__(self, type_: str = "ldap", *, sub_path: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.sub_path = sub_path  # such as "/auth": all addresses are below it
        self.tls = tls
        self.token = TOKEN
        self.outpost = factories.outpost(type_)
        self.root_config: JSON = {
            "error_reporting": {"enabled": False, "sentry_dsn": "", "environment": "", "send_pii": False},
            "capabilities": [],
            "cache_timeout": 300,
            "cache_timeout_flows": 3600,
            "cache_timeout_policies": 300,
        }
        self.providers: dict[str, list[JSON]] = {"ldap": [], "radius": [], "proxy": []}
        self.users: list[JSON] = []
        self.groups: list[JSON] = []
        self.certificates: dict[str, JSON] = {}  # pk → {"fingerprint", "certificate", "key"}
        self.people = People()
        self.executor = Executor(self.people)
        self.denied: set[str] = set()  # lower-case names that check_access refuses
        # What check_access says for a user of a RADIUS provider who passes; None: a property mapping failed.
        self.attributes: str | None = "AQAAFAAAAAAAAAAAAAAAAAAAAAA="
        self.searchers: set[str] | None = None  # lower-case names with the search right; None: everybody
        self.events: list[JSON] = []
        self.hellos: list[JSON] = []
        self.calls: list[Call] = []
        self.faults: list[Fault] = []
        self.port = 0
        self._changed = threading.Condition()
        self._sockets: set[web.WebSocketResponse] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._halt: asyncio.Event | None = None
        self._closing: asyncio.Event | None = None

    # -- life -----------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Its base URL, without a final slash."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}{self.sub_path}"

    def __enter__(self) -> StubCore:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; returns when it does."""
        started = threading.Event()
        failed: list[BaseException] = []

        def serve() -> None:
            try:
                asyncio.run(self._serve(started))
            except BaseException as error:
                failed.append(error)
                started.set()

        self._thread = threading.Thread(target=serve, name="stub-core", daemon=True)
        self._thread.start()
        started.wait(WAIT_S)
        if failed:
            raise failed[0]

    def stop(self) -> None:
        """Close the listener and all connections at once, as a crash would."""
        if self._loop is not None and self._halt is not None:
            self._loop.call_soon_threadsafe(self._halt.set)
            assert self._thread is not None
            self._thread.join(WAIT_S)
            self._loop = None

    async def _serve(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._halt, self._closing = asyncio.Event(), asyncio.Event()
        application = web.Application(middlewares=[self._middleware], client_max_size=4 * 2**20)
        application.router.add_get(self.sub_path + "/ws/outpost/{pk}/", self._websocket)
        application.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True, ssl_context=self.tls)
        await site.start()
        self.port = runner.addresses[0][1]
        started.set()
        await self._halt.wait()
        # Accept nothing more before closing the listener: asyncio loses track of a connection that it has accepted but
        # not yet set up when its server is closed, and the socket would be left to the garbage collector.
        assert isinstance(site._server, asyncio.Server)
        for listener in site._server.sockets:
            self._loop.remove_reader(listener.fileno())
        await _settle()
        self._closing.set()
        for socket in list(self._sockets):
            await socket.close(code=1012)
        await runner.cleanup()
        await _settle()

    # -- what tests ask and say -----------------------------------------------------------------------------------

    def load_conformance(self, **provider: Any) -> None:
        """The directory of the case table behind one LDAP provider."""
        self.users, self.groups = factories.conformance_users(), factories.conformance_groups()
        factories.link(self.users, self.groups)
        self.providers["ldap"] = [factories.ldap_provider(**provider)]
        self.people.passwords.update({str(user["username"]).lower(): "pw" for user in self.users})
        self.people.inactive.update(str(user["username"]).lower() for user in self.users if not user["is_active"])

    def called(self, path: str, method: str | None = None) -> list[Call]:
        """The calls whose path (below /api/v3) matches a regular expression from its start."""
        return [
            call for call in list(self.calls) if re.match(path, call.path) and method in (None, call.method)
        ]  # fmt: skip

    def forget(self) -> None:
        """Empty the call log."""
        self.calls.clear()

    def fault(self, path: str, **what: Any) -> Fault:
        """Make calls fail whose path (below /api/v3, or /ws/…) matches; newest fault first. See ``Fault``."""
        fault = Fault(re.compile(path), **what)
        self.faults.insert(0, fault)
        return fault

    def clear_faults(self) -> None:
        """Everything works again."""
        self.faults.clear()

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
        """Wait until a condition about what the core has seen holds."""
        with self._changed:
            if not self._changed.wait_for(condition, timeout_s):
                raise AssertionError(f"not within {timeout_s} s: {what}; last calls: {self.calls[-5:]}")

    def connected(self) -> int:
        """How many WebSockets are open."""
        return len(self._sockets)

    def push(self, message: JSON | str) -> None:
        """Send a frame to every connected outpost."""
        text = message if isinstance(message, str) else json.dumps(message)

        async def send() -> None:
            for socket in list(self._sockets):
                await socket.send_str(text)

        self._run(send())

    def push_update(self) -> None:
        """Tell outposts to refresh."""
        self.push({"instruction": UPDATE, "args": {}})

    def end_session(self, session: Session) -> None:
        """End a session and tell all outposts."""
        self.executor.sessions.pop(session.sid, None)
        args = {"type": "event.session.end", "session_id": session.public_id}
        self.push({"instruction": SESSION_END, "args": args})

    def sessions_of(self, username: str) -> list[Session]:
        """The living logged-in sessions of a user."""
        return [s for s in list(self.executor.sessions.values()) if s.authenticated.lower() == username.lower()]

    def drop_websockets(self) -> None:
        """Close every WebSocket as a restarting server does."""

        async def close() -> None:
            for socket in list(self._sockets):
                await socket.close(code=1012)

        self._run(close())

    def _run(self, work: Any) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # -- requests -------------------------------------------------------------------------------------------------

    @web.middleware
    async def _middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        path = request.path.removeprefix(self.sub_path).removeprefix(API)
        body = await _body_of(request)
        headers = {key.lower(): value for key, value in request.headers.items()}
        self.calls.append(
            Call(
                request.method, path, dict(request.query), request.rel_url.raw_query_string, headers, body,
                time.monotonic(),
            )
        )  # fmt: skip
        self._notify()
        fault = self._fault_of(request, path)
        if fault is not None:
            if fault.delay_s:
                await asyncio.sleep(fault.delay_s)
            if fault.hang:
                assert self._closing is not None
                await self._closing.wait()
            if fault.reset or fault.hang:
                if request.transport is not None:
                    request.transport.abort()
                return web.Response(status=500)
            if fault.html:
                page = "<html><body><h1>Bad gateway</h1></body></html>"
                return web.Response(status=fault.status or 502, text=page, content_type="text/html")
            if fault.truncated:
                whole = await handler(request)
                assert isinstance(whole, web.Response)
                return await self._truncate(request, bytes(whole.body or b""))  # type: ignore[arg-type]
            if fault.status is not None:
                return web.json_response(fault.body or {"detail": "fault"}, status=fault.status, headers=fault.headers)
        return await handler(request)

    def _fault_of(self, request: web.Request, path: str) -> Fault | None:
        for fault in self.faults:
            fits = fault.pattern.match(path) and fault.method in (None, request.method)
            if fits and all(request.query.get(key) == value for key, value in fault.query.items()):
                if fault.times is None or fault.hits < fault.times:
                    fault.hits += 1
                    return fault
        return None

    async def _truncate(self, request: web.Request, body: bytes) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
        await answer.prepare(request)
        await answer.write(body[: len(body) // 2])
        assert request.transport is not None
        request.transport.close()
        return answer

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix(self.sub_path)
        if not request.path.startswith(self.sub_path + API):
            return web.Response(status=404, text="<html></html>", content_type="text/html")
        path = path.removeprefix(API)
        try:
            flow = re.fullmatch(r"/flows/executor/([^/]+)/", path)
            if flow:
                return self._flow(request, flow[1], await _body_of(request))
            access = re.fullmatch(r"/outposts/(ldap|radius)/(\d+)/check_access/", path)
            if access:
                return web.json_response(self._check_access(request, access[1], int(access[2])))
            if path == "/core/users/me/":
                return web.json_response(self._me(request))
            if path == "/root/config/":
                return web.json_response(self.root_config)
            if path == "/core/brands/current/":
                return web.json_response({"flow_authentication": "bind-flow", "flow_invalidation": "unbind-flow"})
            if request.headers.get("Authorization", "").lower() != f"bearer {self.token}".lower():
                sent = "Authorization" in request.headers
                detail = "Token invalid/expired" if sent else "Authentication credentials were not provided."
                raise Refused(403, {"detail": detail})
            if path == "/events/events/" and request.method == "POST":
                self.events.append(await _body_of(request))
                return web.json_response(self.events[-1], status=201)
            return web.json_response(self._bearer(request, path))
        except Refused as refused:
            return web.json_response(refused.body, status=refused.status)

    def _bearer(self, request: web.Request, path: str) -> JSON:
        """The calls made with the outpost's token."""
        query = parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True)
        if path == "/outposts/instances/":
            return page_of([self.outpost] if self.outpost else [], query)
        if path == "/core/users/":
            return stub_lists.users(self.users, self.groups, query)
        if path == "/core/groups/":
            return stub_lists.groups(self.users, self.groups, query)
        listing = re.fullmatch(r"/outposts/(ldap|radius|proxy)/", path)
        if listing:
            return page_of(sorted(self.providers[listing[1]], key=lambda item: item["name"]), query)
        one = re.fullmatch(r"/core/(users|groups)/([^/]+)/", path)
        if one:
            for item in self.users if one[1] == "users" else self.groups:
                if str(item["pk"]) == one[2]:
                    return item
        pair = re.fullmatch(r"/crypto/certificatekeypairs/([^/]+)/(view_certificate/|view_private_key/)?", path)
        if pair and pair[1] in self.certificates:
            stored = self.certificates[pair[1]]
            if not pair[2]:
                return {"pk": pair[1], "name": "stub", "fingerprint_sha256": stored["fingerprint"]}
            return {"data": stored["certificate" if pair[2] == "view_certificate/" else "key"]}
        raise Refused(404, {"detail": "Not found."})

    # -- logins ---------------------------------------------------------------------------------------------------

    def _session(self, request: web.Request) -> Session | None:
        return self.executor.session_of(request.cookies.get("authentik_session"))

    def _flow(self, request: web.Request, slug: str, sent: Any) -> web.Response:
        if slug not in self.executor.flows:
            return web.Response(status=404, text="<html>Not Found</html>", content_type="text/html")
        session = self._session(request)
        if session is None:
            session = Session()
            self.executor.sessions[session.sid] = session
        answer: web.Response
        if request.method == "POST":
            body = sent if isinstance(sent, dict) else {}
            challenge = self.executor.post(slug, session, body, request.headers.get("X-authentik-CSRF"))
            raw = request.rel_url.raw_query_string
            if challenge is None and raw == urlencode(parse_qsl(raw, keep_blank_values=True)):
                answer = web.Response(status=302, headers={"Location": request.raw_path}, content_type="text/html")
            else:
                answer = web.json_response(challenge or {"component": "xak-flow-redirect", "to": request.raw_path})
        else:
            answer = web.json_response(self.executor.get(slug, session))
        if session.ended:
            answer.headers.add("Set-Cookie", 'authentik_session=""; Max-Age=0; Path=/')
        else:
            expires = f"; Expires={session.expires}" if session.expires else ""
            cookie = f"authentik_session={session.cookie()}; HttpOnly; Path=/; SameSite=Lax{expires}"
            answer.headers.add("Set-Cookie", cookie)
        if session.csrf:
            answer.headers.add("Set-Cookie", f"authentik_csrf={session.csrf}; Path=/; SameSite=Lax")
        return answer

    def _check_access(self, request: web.Request, type_: str, pk: int) -> JSON:
        slug = request.query.get("app_slug")
        known = [item for item in self.providers[type_] if item["pk"] == pk]
        if not known or slug not in {item["application_slug"] for item in self.providers[type_]}:
            raise Refused(404, {"detail": "Not found."})
        session = self._session(request)
        name = session.authenticated.lower() if session else ""
        may_search = bool(name) and (self.searchers is None or name in self.searchers)
        passing = name not in self.denied
        return {
            "has_search_permission": may_search,
            "access": {"passing": passing, "messages": [], "log_messages": []},
        } | ({"attributes": self.attributes if passing else None} if type_ == "radius" else {})

    def _me(self, request: web.Request) -> JSON:
        session = self._session(request)
        for item in self.users:
            if session and str(item["username"]).lower() == session.authenticated.lower():
                groups = [{"name": group["name"], "pk": group["pk"]} for group in item["groups_obj"] or []]
                keys = ("pk", "username", "name", "is_active", "is_superuser", "email", "uid", "avatar")
                return {"user": {key: item[key] for key in keys} | {"groups": groups, "roles": []}}
        raise Refused(403, {"detail": "Authentication credentials were not provided."})

    # -- WebSocket ------------------------------------------------------------------------------------------------

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        sent = request.headers.get("Authorization", "").lower()
        if sent != f"bearer {self.token}".lower() or request.match_info["pk"] != (self.outpost or {}).get("pk"):
            return web.Response(status=403)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._sockets.add(socket)
        self._notify()
        try:
            async for message in socket:
                if message.type != WSMsgType.TEXT:
                    await socket.close(code=1000)
                    break
                try:
                    frame = json.loads(message.data)
                    instruction = frame["instruction"]
                except (ValueError, KeyError, TypeError):
                    await socket.close(code=1000)
                    break
                if instruction == 1:
                    self.hellos.append(frame["args"])
                if instruction != 0:
                    await socket.send_str(json.dumps({"instruction": 0, "args": {}}))
                self._notify()
        finally:
            self._sockets.discard(socket)
            self._notify()
        return socket


async def _settle() -> None:
    """Let everything run that the loop has already been asked to do."""
    for _ in range(10):
        await asyncio.sleep(0)


async def _body_of(request: web.Request) -> Any:
    """The body as JSON, as text if it is not JSON, or None. aiohttp keeps what was read, so it can be asked twice."""
    text = await request.text()
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text
