"""The pages' routes: flows as forms, the start page, the user's own page.

A page runs the very executor that the API runs, with the page's own query as the flow's query; only the way in (a form
instead of JSON) and out (HTML and redirects instead of challenges) is different.

Every form carries a token made from the session's key. A form without the right one, such as one that another site
sent or one of a session that has ended, does nothing: the page is shown anew (OWASP: cross-site request forgery).
"""

from __future__ import annotations

import hashlib
import hmac
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol
from urllib.parse import quote

import msgspec
from aiohttp import web

from core import models
from core.avatars import avatar
from core.errors import Busy
from core.flows.executor import Executor, Reply
from core.flows.planner import FlowCatalogue
from core.http_request import HTTPRequest, parse_query
from core.oauth2.protocol import PROXY_PROVIDER
from core.pages.forms import CSRF_FIELD, BadForm, answer_of, data_address, view_of
from core.pages.render import STYLE_PATH, message, page, style
from core.services import Services
from core.sessions import CSRF, CSRF_COOKIE, SESSION_COOKIE, SessionHandle

LOGIN, LOGOUT = "/flows/-/default/authentication/", "/flows/-/default/invalidation/"
USER_PAGE = "/if/user/"
HIDDEN_APPLICATION = "blank://blank"  # a launch URL that means "do not show"
# What may be in a Location as it is; everything else is percent-encoded (RFC 3986 §2).
_URL_LETTERS = "%/:=&?~#+!$,;'@()*[]"


class Host(Protocol):
    """What pages need of the server."""

    def facts(self, request: web.Request) -> tuple[HTTPRequest, SessionHandle]: ...
    def finish(self, response: web.Response, facts: HTTPRequest, session: SessionHandle, *, announce: bool) -> None: ...
    def locked(self, cookie: str | None) -> AbstractAsyncContextManager[None]: ...
    async def default_flow(self, designation: str, facts: HTTPRequest) -> models.Flow | None: ...


class Pages:
    """Answers browsers."""

    def __init__(self, services: Services, host: Host, executor: Executor, catalogue: FlowCatalogue) -> None:
        self._services = services
        self._host = host
        self._executor = executor
        self._catalogue = catalogue
        self._form_key = services.derived_key("forms of pages")

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add what this class answers."""
        router.add_get(STYLE_PATH, style)
        router.add_get("/", self._root)
        router.add_get(USER_PAGE, self._user_page)
        router.add_get("/if/flow/{slug}/", self._flow)
        router.add_post("/if/flow/{slug}/", self._flow)

    # --- flows -----------------------------------------------------------------------------------------------------

    async def _flow(self, request: web.Request) -> web.StreamResponse:
        flow = self._catalogue.flow(request.match_info["slug"])
        if flow is None:
            raise web.HTTPNotFound
        sent = await _form(request) if request.method == "POST" else []
        async with self._host.locked(request.cookies.get(SESSION_COOKIE)):
            facts, session = self._host.facts(request)
            facts.query = parse_query(request.rel_url.raw_query_string)
            try:
                response = await self._run(flow, facts, session, sent)
            except Busy:
                return message(
                    "Too busy", "Too many people are logging in right now. Please try again in a moment.",
                    brand=facts.brand, status=503, request_id=facts.request_id,
                )  # fmt: skip
            self._host.finish(response, facts, session, announce=True)
            return response

    async def _run(
        self, flow: models.Flow, facts: HTTPRequest, session: SessionHandle, sent: list[tuple[str, str]]
    ) -> web.Response:
        body, csrf = b"", None
        if facts.method == "POST":
            given = dict(sent).get(CSRF_FIELD, "")
            if not hmac.compare_digest(given.encode(), self.form_token(session).encode()):
                return redirect(facts.target, after_form=True)
            try:
                body = msgspec.json.encode(answer_of(sent))
            except BadForm as error:
                return message("Bad request", f"The form cannot be read: {error}.", brand=facts.brand, status=400)
            # the form's token stands in for the API's, which pages without scripts cannot send
            csrf = session.get(CSRF)
            if isinstance(csrf, str):
                facts.cookies = {**facts.cookies, CSRF_COOKIE: csrf}
        reply = await self._executor.execute(
            flow, facts, session, body=body, content_type="application/json", csrf_header=csrf
        )
        return self.shown(reply, facts, session)

    def shown(self, reply: Reply, facts: HTTPRequest, session: SessionHandle) -> web.Response:
        """An executor's answer as a page or a redirect."""
        after_form = facts.method == "POST"
        data = reply.data or {}
        if reply.location is not None:
            return redirect(reply.location, after_form=after_form)
        if data.get("component") == "xak-flow-redirect":
            return redirect(str(data.get("to", "/")), after_form=after_form)
        view = view_of(data)
        return page(
            "flow.html", brand=facts.brand, view=view, csrf_field=CSRF_FIELD,
            csrf="" if view.action or not view.has_form else self.form_token(session),
        )  # fmt: skip

    def form_token(self, session: SessionHandle) -> str:
        """What forms of a session must carry."""
        return hmac.new(self._form_key, session.key.encode(), hashlib.sha256).hexdigest()

    # --- own pages -------------------------------------------------------------------------------------------------

    async def _root(self, request: web.Request) -> web.StreamResponse:
        """Whoever is from outside goes to the brand's application, others to their own page."""
        facts, session = self._host.facts(request)
        if session.user is None:
            return to_login(request)
        brand = facts.brand
        if session.user.type != models.INTERNAL and brand is not None and brand.default_application:
            application = self._services.database.first(models.Application, pk=brand.default_application)
            url = launch_url(self._services, application, session.user) if application is not None else ""
            if url:
                return redirect(url)
        return redirect(USER_PAGE)

    async def _user_page(self, request: web.Request) -> web.StreamResponse:
        """Who somebody is, and what he may open."""
        facts, session = self._host.facts(request)
        user = session.user
        if user is None:
            return to_login(request)
        shown = []
        for application in self._services.database.find(models.Application, order_by="name"):
            url = launch_url(self._services, application, user)
            if not url:
                continue
            result = await self._services.access.application(application, user, http_request=facts)
            if result.passing is True:
                shown.append(
                    {
                        "name": application.name,
                        "url": url,
                        "description": application.meta_description,
                        "new_tab": application.open_in_new_tab,
                    }
                )
        response = page(
            "user.html", brand=facts.brand, title="Your applications", username=user.username, name=user.name,
            avatar=avatar(user.username, user.name), applications=shown, logout=LOGOUT,
        )  # fmt: skip
        self._host.finish(response, facts, session, announce=True)
        return response


def launch_url(services: Services, application: models.Application, user: models.User) -> str:
    """Where an application is opened: its own address, else that of its proxy; ``""`` if there is none to show.

    ``%(username)s``, ``%(email)s`` and ``%(name)s`` stand for the user's.
    """
    url = application.meta_launch_url
    if url == HIDDEN_APPLICATION:
        return ""
    if not url and application.provider is not None:
        provider = services.database.first(models.Provider, pk=application.provider, type=PROXY_PROVIDER)
        url = str(provider.options.get("external_host", "")) if provider is not None else ""
    if "%(" in url:
        names = {name: quote(getattr(user, name), safe="") for name in ("username", "email", "name")}
        try:
            url = url % names
        except (KeyError, TypeError, ValueError):
            return ""
    return url if url.startswith(("http://", "https://", "/")) else ""


def to_login(request: web.Request) -> web.Response:
    """To the login, and back here."""
    return redirect(f"{LOGIN}?next={quote(request.raw_path, safe='')}")


def redirect(location: str, *, after_form: bool = False) -> web.Response:
    """A redirect; after a form as "see other" (RFC 9110 §15.4.4), so that nothing is sent twice."""
    if any(ord(letter) < 0x20 or letter == "\x7f" for letter in location):
        return message("Bad request", "The address to go to is not acceptable.", brand=None, status=400)
    response = web.Response(status=303 if after_form else 302, content_type="text/html", charset="utf-8")
    response.headers["Location"] = quote(location, safe=_URL_LETTERS)
    return response


async def _form(request: web.Request) -> list[tuple[str, str]]:
    """The fields of a form, in order; a chosen file as a ``data:`` address."""
    found: list[tuple[str, str]] = []
    try:
        fields: Any = await request.post()
        for name, value in fields.items():
            if isinstance(value, web.FileField):
                if value.filename:
                    found.append((name, data_address(value.content_type, value.file.read())))
            else:
                found.append((name, value if isinstance(value, str) else value.decode()))
    except (ValueError, LookupError, AssertionError):
        raise web.HTTPBadRequest from None
    return found


__all__ = ["Host", "Pages", "launch_url", "redirect", "to_login"]
