"""Verdicts that need nothing but themselves → answers: refusals in each web server's words, the beginning of a login.

No waiting in here: the fast lane and the full way both answer with these.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import quote

from outposts.proxy import cookies, header_auth, pages
from outposts.proxy import state as states
from outposts.proxy.decision import (
    BadRequest,
    Forbidden,
    Login,
    NoProvider,
    NotFound,
    Ping,
    Reply,
    Start,
    Static,
    Unauthorized,
    tickets_of,
)
from outposts.proxy.dialects import Dialect, Refusal
from outposts.proxy.oidc import OidcError, OpenIdClient
from outposts.proxy.pages import Page
from outposts.proxy.providers import ProxyProvider
from outposts.proxy.session import Session
from outposts.proxy.state import LoginState, StateError, Ticket
from outposts.proxy.wire import AuthRequest

Pairs = tuple[tuple[bytes, bytes], ...]


class Answer(NamedTuple):
    """A page, further headers for it (cookies, challenges), and what became of the request in one word."""

    page: Page
    outcome: str
    more: Pairs = ()


NO_STORE = ("Cache-Control", "no-store")


def redirect(url: str, status: int = 302) -> Page:
    """Send a browser elsewhere. ``url`` is ours or one that ``safe_redirect`` accepted."""
    return Page(status, (("Location", url), NO_STORE, ("Referrer-Policy", "no-referrer")), b"")


def as_html(request: AuthRequest) -> bool:
    """Whether who asks gets a page, rather than JSON."""
    headers = request.headers
    return pages.wants_html(headers.get("accept", ""), headers.get("sec-fetch-mode", ""))


def speaks_nginx(dialect: Dialect | None) -> bool:
    """Whether a web server asks that understands 2xx, 401 and 403 only."""
    return dialect is not None and dialect.refusal is Refusal.UNAUTHORIZED


def set_cookie(text: str) -> tuple[bytes, bytes]:
    """A ``Set-Cookie`` header."""
    return (b"Set-Cookie", text.encode("latin-1"))


def session_cookie(provider: ProxyProvider, value: str, session: Session, now: float) -> tuple[bytes, bytes]:
    """The cookie of a new session; it lasts as long as the session may."""
    life_s = max(1, int(session.expires - now))
    return set_cookie(cookies.write(provider.cookie, provider.cookie.name, value, life_s))


def no_session(provider: ProxyProvider) -> tuple[bytes, bytes]:
    """The end of a session's cookie."""
    return set_cookie(cookies.delete(provider.cookie, provider.cookie.name))


def sign_out_url(provider: ProxyProvider) -> str:
    """Where a person signs out."""
    return provider.start_url.removesuffix("start") + "sign_out"


def retry_url(provider: ProxyProvider, target: str) -> str:
    """Where a login begins anew."""
    return f"{provider.start_url}?rd={quote(target, safe='')}" if target else provider.start_url


class Answers:
    """Answers of one process. ``clock`` in unix seconds."""

    def __init__(
        self,
        client: OpenIdClient,
        *,
        clock: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._client = client
        self._clock = clock
        self._random = random

    # -- logins ------------------------------------------------------------------------------------------------------

    def begin(self, provider: ProxyProvider, request: AuthRequest, target: str, post: str = "") -> tuple[str, Pairs]:
        """A login of a browser: where it is sent, and the cookie that ties the login to it.

        Raises ``StateError`` (a loop) and ``OidcError`` (the provider names no place for logins).
        """
        now = self._clock()
        ticket = states.next_ticket(tickets_of(provider, request), self._random, now)
        state = states.begin(self._random, now, ticket, target=target, post=post)
        return self.go_on(provider, state, ticket)

    def go_on(self, provider: ProxyProvider, state: LoginState, ticket: Ticket) -> tuple[str, Pairs]:
        """The same for a login that is there already. Raises ``OidcError``."""
        url = self._client.authorize_url(provider, state)
        text = cookies.write(provider.cookie, provider.cookie.login_name, ticket.value, states.LIFETIME_S)
        return url, (set_cookie(text),)

    def login(self, verdict: Login, request: AuthRequest, post: str = "") -> Answer:
        """A browser has to log in."""
        provider = verdict.provider
        if verdict.reply is Reply.START:
            return Answer(redirect(verdict.start), "login")
        in_words_of_nginx = verdict.reply is Reply.UNAUTHORIZED
        try:
            url, more = self.begin(provider, request, verdict.target, post)
        except (StateError, OidcError) as error:
            if in_words_of_nginx:
                return Answer(pages.unauthorized_check(), "login_failed")
            return self.failed(provider, request, error, verdict.target)
        if in_words_of_nginx:
            return Answer(pages.unauthorized_check(), "login", ((b"Location", url.encode("latin-1")), *more))
        return Answer(redirect(url), "login", more)

    def start(self, verdict: Start, request: AuthRequest) -> Answer:
        """``P/start``."""
        try:
            url, more = self.begin(verdict.provider, request, verdict.target)
        except (StateError, OidcError) as error:
            return self.failed(verdict.provider, request, error, verdict.target)
        return Answer(redirect(url), "login", more)

    def failed(
        self, provider: ProxyProvider, request: AuthRequest, error: StateError | OidcError, target: str
    ) -> Answer:
        """A login came to nothing: a page says why, and where to begin anew."""
        if isinstance(error, OidcError):
            problem = "token" if error.problem == "bad_token" else "exchange"
            status, details = 502, [("reason", error.detail)]
        else:
            problem, status, details = str(error.problem), 400, []
        page = pages.login_failed(
            status,
            problem,
            as_html=as_html(request),
            retry_url=retry_url(provider, target),
            home_url=provider.external_host,
            details=details,
        )
        return Answer(page, "login_failed")

    # -- refusals ----------------------------------------------------------------------------------------------------

    def unauthorized(self, verdict: Unauthorized, request: AuthRequest, dialect: Dialect | None) -> Answer:
        """401 without a login."""
        provider = verdict.provider
        challenges = header_auth.challenges(provider) if verdict.challenge else []
        outcome = "bad_credentials" if verdict.challenge else "unauthorized"
        more = tuple((b"WWW-Authenticate", value.encode("latin-1")) for value in challenges)
        if speaks_nginx(dialect):
            return Answer(pages.unauthorized_check(), outcome, more)
        html = as_html(request) and verdict.challenge
        first = challenges[0] if challenges else ""
        return Answer(pages.unauthorized(verdict.login_url, challenge=first, as_html=html), outcome, more[1:])

    def forbidden(self, verdict: Forbidden, request: AuthRequest) -> Answer:
        """403."""
        provider = verdict.provider
        page = pages.forbidden(provider.application_name, as_html=as_html(request), sign_out_url=sign_out_url(provider))
        return Answer(page, "forbidden")

    def plain(self, verdict: BadRequest | NoProvider | NotFound | Ping | Static, request: AuthRequest) -> Answer:
        """What is the same for everybody. There are no static files: pages have all they need inside."""
        if isinstance(verdict, BadRequest):
            return Answer(pages.bad_request(verdict.problem, as_html=as_html(request)), "bad_request")
        if isinstance(verdict, NoProvider):
            return Answer(pages.no_provider(verdict.host), "no_provider")
        if isinstance(verdict, Ping):
            return Answer(Page(204, (NO_STORE,), b""), "ping")
        return Answer(pages.not_found(as_html=as_html(request)), "not_found")


def unavailable(request: AuthRequest, what: str) -> Answer:
    """503: sessions or the core cannot be reached."""
    return Answer(pages.unavailable(what, as_html=as_html(request)), "unavailable")


def origin_of(url: str) -> str:
    """``https://host`` of one of our own URLs."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"
