"""One request, one verdict. The only module that says ``Allow``.

Two steps, because a session may have to be fetched from somewhere::

    prepare(request, providers)          → Check: somebody wants to pass; or a verdict that needs no session
    judge(check, session, now, …)        → verdict

Between the two the caller looks up the sessions of ``check.values``; ``pick`` does it if a dictionary has them.
Two verdicts ask for something and are followed by another ``judge``: ``TryCredentials`` (then say how it ended) and
``Renew`` (then bring the renewed session, or None). Everything unexpected is a refusal: a new branch that forgets to
answer fails as a missing verdict, never as a pass.

The order for somebody who wants to pass: session, credentials in ``Authorization``, what is open to everybody, login or
refusal.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable

from outposts.proxy import clients, dialects, rfc
from outposts.proxy.dialects import Dialect, Refusal
from outposts.proxy.providers import Miss, Mode, Providers, ProxyProvider, choose
from outposts.proxy.session import Session, credential_of, key_of
from outposts.proxy.state import Ticket
from outposts.proxy.urls import (
    Host,
    Url,
    canonical_path,
    in_domain,
    is_own_path,
    parse_url,
    query_says,
    redirect_to,
    return_url,
    safe_redirect,
)
from outposts.proxy.urls import below as path_below
from outposts.proxy.verdicts import (
    Allow,
    BadRequest,
    Callback,
    Credential,
    CredentialKind,
    Forbidden,
    Login,
    LogoutNotice,
    Misconfigured,
    NoProvider,
    NotFound,
    Passed,
    Ping,
    Renew,
    Reply,
    SignOut,
    Start,
    Static,
    Tried,
    TryCredentials,
    Unauthorized,
    Verdict,
)
from outposts.proxy.wire import AuthRequest

__all__ = [
    "Allow",
    "BadRequest",
    "Callback",
    "Check",
    "Credential",
    "CredentialKind",
    "Forbidden",
    "Login",
    "LogoutNotice",
    "Misconfigured",
    "NoProvider",
    "NotFound",
    "Passed",
    "Ping",
    "Renew",
    "Reply",
    "SignOut",
    "Start",
    "Static",
    "Tried",
    "TryCredentials",
    "Unauthorized",
    "Verdict",
    "credential_from",
    "from_another_site",
    "is_navigation",
    "judge",
    "login_target",
    "pick",
    "prepare",
    "start_target",
    "tickets_of",
]  # verdicts too: who asks for one needs their names

MAX_CREDENTIAL = 65_536  # characters of an Authorization header; a token of more is in no header budget
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
HTML = ("text/html", "application/xhtml+xml", "*/*")
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")  # what a form may send


class Check:
    """Somebody wants to pass. ``url`` is what they asked for; ``dialect`` None in mode ``proxy``.

    ``values`` are the session cookies that the browser sent, in order: the first that is a live session counts.
    """

    __slots__ = ("dialect", "provider", "request", "url", "values")

    def __init__(
        self, request: AuthRequest, provider: ProxyProvider, dialect: Dialect | None, url: Url, values: tuple[str, ...]
    ) -> None:
        self.request = request
        self.provider = provider
        self.dialect = dialect
        self.url = url
        self.values = values


def prepare(request: AuthRequest, providers: Providers) -> Check | Verdict:
    """What a request is about, and whose it is."""
    if request.repeated:
        return BadRequest(f"more than one {request.repeated}")
    target = request.target
    path, mark, query = target.partition("?")
    if not path.startswith("/") or "#" in target:
        return BadRequest("the target is no path")
    dialect = dialects.by_path(path)
    if dialect is None and path.startswith(rfc.PREFIX):
        if path.startswith(rfc.PREFIX + "/ping"):
            return Ping()
        if path.startswith(rfc.PREFIX + "/static/"):
            return Static(path[len(rfc.PREFIX + "/static/") :])
    headers = request.headers
    name = (headers.get("x-forwarded-host") if request.via.trusted else None) or headers.get("host", "")
    found = providers.lookup(name)
    if isinstance(found, Miss):
        return BadRequest("no host") if found is Miss.BAD_HOST else NoProvider(name)
    host, candidates = found
    if dialect is not None:
        return _asked(request, dialect, host, candidates)
    return _own_or_proxied(request, host, candidates, path, query if mark else None)


def _asked(
    request: AuthRequest, dialect: Dialect, host: Host, candidates: tuple[ProxyProvider, ...]
) -> Check | Verdict:
    """A web server asks whether a request may pass."""
    url = dialect.original(request, host, candidates[0].external.scheme)
    if url is None:
        return Misconfigured(candidates[0] if len(candidates) == 1 else None, dialect, _what_is_wrong(request, dialect))
    provider = choose(candidates, url.path)
    if provider is None:
        return NoProvider(str(host))
    if dialect.signatures and url.query and "uthentik-" in url.query:
        answer = _signature(request, candidates, provider, url.query)
        if answer is not None:
            return answer
    return Check(request, provider, dialect, url, provider.session_reader.values(request.headers.get("cookie")))


def _what_is_wrong(request: AuthRequest, dialect: Dialect) -> str:
    if dialect.signatures and not request.via.trusted:
        return "the peer is not among the trusted proxies, its X-Forwarded headers are not believed"
    return "the headers with the original URL are missing or broken"


def _own_or_proxied(
    request: AuthRequest, host: Host, candidates: tuple[ProxyProvider, ...], path: str, query: str | None
) -> Check | Verdict:
    """One of our own paths, or a request that is to go through us."""
    provider = choose(candidates, path)
    for candidate in candidates:
        rest = candidate.own_path(path)
        if rest is not None:
            return _own(request, candidates, provider or candidate, rest, query)
    if provider is None:
        return NoProvider(str(host))
    if provider.mode is not Mode.PROXY or is_own_path(path, provider.base):
        return NotFound()
    if query and ("uthentik-" in query or "%" in query):
        answer = _signature(request, candidates, provider, query)
        if answer is not None:
            return answer
    url = Url(provider.external.scheme, host, path, query)
    return Check(request, provider, None, url, provider.session_reader.values(request.headers.get("cookie")))


def _own(
    request: AuthRequest,
    candidates: tuple[ProxyProvider, ...],
    provider: ProxyProvider,
    rest: str,
    query: str | None,
) -> Verdict:
    """Our own paths below ``PREFIX``."""
    if rest == "/callback" and query is not None:
        return Callback(candidates, query)
    if rest == rfc.LOGOUT_NOTICE and request.method == "POST":
        return LogoutNotice(candidates)
    if rest == "/sign_out":
        return _sign_out(request, provider)
    if rest == "/start":
        answer = _signature(request, candidates, provider, query)
        if answer is not None:
            return answer
        wanted = return_url(query)
        url = parse_url(wanted)
        provider = (choose(candidates, url.path) if url is not None else None) or provider
        return Start(provider, start_target(provider, wanted))
    if rest == "/callback":
        return Callback(candidates, "")
    return NotFound()


def _signature(
    request: AuthRequest, candidates: tuple[ProxyProvider, ...], provider: ProxyProvider, query: str | None
) -> Verdict | None:
    """What a query asks for that makes any path the callback or the sign-out."""
    if query_says(query, rfc.CALLBACK_SIGNATURE):
        return Callback(candidates, query or "")
    if query_says(query, rfc.LOGOUT_SIGNATURE):
        return _sign_out(request, provider)
    return None


def _sign_out(request: AuthRequest, provider: ProxyProvider) -> SignOut:
    values = provider.session_reader.values(request.headers.get("cookie"))
    return SignOut(provider, values, not from_another_site(request, provider))


def from_another_site(request: AuthRequest, provider: ProxyProvider) -> bool:
    """Whether another site may have made the browser send this: by ``Sec-Fetch-Site``, ``Origin`` or ``Referer``."""
    headers = request.headers
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "same-site", "none")
    source = headers.get("origin") or headers.get("referer")
    if not source:
        return False  # typed in, or no browser
    url = parse_url(source.partition("#")[0])
    return url is None or not provider.places.holds(url.host)


def is_navigation(method: str, headers: dict[str, str]) -> bool:
    """Whether a browser asks for a page that it will show, so that a login in its place makes sense.

    Without Fetch metadata (old browsers, tools) whatever may take HTML and is no script's request counts.
    """
    if method not in rfc.SAFE_METHODS:
        return False
    return _shows_a_page(headers)


def _shows_a_page(headers: dict[str, str]) -> bool:
    if "upgrade" in headers and headers["upgrade"].lower() == "websocket":
        return False
    mode = headers.get("sec-fetch-mode")
    if mode is not None:
        return mode == "navigate"
    if "access-control-request-method" in headers or headers.get("x-requested-with", "").lower() == "xmlhttprequest":
        return False
    accept = headers.get("accept")
    return not accept or any(kind in accept.lower() for kind in HTML)


def pick(check: Check, find: Callable[[bytes], Session | None], now: float) -> Session | None:
    """Of the sessions that a browser's cookies name, the one that counts: the first live one, else one to renew.

    ``find`` looks a session up by its key (a dictionary's ``get``). One of another provider is none.
    """
    provider, renewable = check.provider, None
    for value in check.values:
        session = find(key_of(value))
        if session is None or session.provider_pk != provider.pk or session.client_id != provider.client_id:
            continue
        if session.live(now, provider.idle_s):
            return session
        if renewable is None and session.renewable(now, provider.idle_s):
            renewable = session
    return renewable


def judge(check: Check, session: Session | None, now: float, tried: Tried = Tried.NOT_YET) -> Verdict:
    """Whether somebody may pass. ``session`` is what the store has for a cookie of the check, or what the credentials
    of the request gave; it counts only if it is live and of this provider. ``now`` in unix seconds.
    """
    provider = check.provider
    if session is not None and session.provider_pk == provider.pk and session.client_id == provider.client_id:
        if session.live(now, provider.idle_s):
            if provider.rules.groups and provider.rules.missing(check.url, session.groups) is not None:
                if _open_to_all(check) is None:  # who is logged in may do no less than anybody
                    return Forbidden(provider, session)
            return _allow_user(check, session)
        if session.renewable(now, provider.idle_s):
            return Renew(session)
    authorization = check.request.headers.get("authorization")
    if authorization is not None and provider.intercept and tried is Tried.NOT_YET:
        credential = credential_from(authorization)
        if credential is not None:
            return TryCredentials(provider, credential)
    why = _open_to_all(check)
    if why is not None:
        return Allow(provider, provider.anonymous, None, why)
    if authorization is not None and provider.intercept:
        return Unauthorized(provider, challenge=True)
    return _login(check)


def _allow_user(check: Check, session: Session) -> Allow:
    """A live session of this provider. What it was made from is not passed on to the application."""
    authorization = check.request.headers.get("authorization") if session.credential else None
    if authorization is None:
        return Allow(check.provider, session.identity, session, Passed.SESSION)
    used = credential_of(authorization) == session.credential
    return Allow(check.provider, session.identity, session, Passed.CREDENTIALS if used else Passed.SESSION, used)


def _open_to_all(check: Check) -> Passed | None:
    """Why this request needs no login, if it does not."""
    provider = check.provider
    if provider.rules.opening(check.url) is not None:
        return Passed.OPEN_PATH
    if provider.rules.networks:
        if clients.within(check.request.client, provider.rules.networks):
            return Passed.OPEN_NETWORK
    if check.dialect is not None and check.dialect.own_paths_pass:
        path = canonical_path(check.url.path)
        if path is not None and (path_below(path, rfc.PREFIX) or path_below(path, provider.base + rfc.PREFIX)):
            return Passed.OWN_PATH
    return None


def _login(check: Check) -> Verdict:
    """Nobody is logged in, and nothing is open: a login for a browser's page, 401 for everything else."""
    provider, headers, dialect = check.provider, check.request.headers, check.dialect
    if dialect is None:
        if is_navigation(check.request.method, headers):
            return Login(provider, login_target(provider, check.url), Reply.START)
        if _post_to_keep(check):
            return Login(provider, login_target(provider, check.url), Reply.REDIRECT, keep_post=True)
        return Unauthorized(provider)
    method = headers.get(dialect.method_header, "GET") if dialect.method_header else check.request.method
    if not is_navigation(method.upper(), headers):
        return Unauthorized(provider)
    reply = Reply.UNAUTHORIZED if dialect.refusal is Refusal.UNAUTHORIZED else Reply.REDIRECT
    return Login(provider, login_target(provider, check.url), reply)


def _post_to_keep(check: Check) -> bool:
    """Whether this is a form that a person sent off and that can be sent again after the login."""
    headers = check.request.headers
    limit = check.provider.settings["keep_post"]
    length = headers.get("content-length", "")
    return (
        limit > 0
        and check.request.method == "POST"
        and _shows_a_page(headers)
        and headers.get("content-type", "").partition(";")[0].strip().lower() in FORMS
        and length.isascii()
        and length.isdigit()
        and len(length) < 12
        and int(length) <= limit
        and not from_another_site(check.request, check.provider)
    )


def login_target(provider: ProxyProvider, url: Url) -> str:
    """Where a login ends that began at ``url``: there, or "" (the external host) if a browser must not be sent there.

    On a further host, whose cookies are not those of the external host, it ends at the same place of the external host:
    there the session will be.
    """
    home = provider.places.home
    if url.host != home.host and not provider.places.domain:
        known = url.host.name == home.host.name or provider.places.holds(url.host)
        if not known:
            return ""
        if not (provider.places.holds(url.host) and in_domain(url.host.name, provider.cookie.domain)):
            url = Url(home.scheme, home.host, url.path, url.query)
    return redirect_to(url, provider.places) or ""


def start_target(provider: ProxyProvider, wanted: str) -> str:
    """Where a login ends that was asked for with ``rd``."""
    target = safe_redirect(wanted, provider.places)
    if target is None:
        return ""
    url = parse_url(target)
    return login_target(provider, url) if url is not None else ""


def credential_from(authorization: str) -> Credential | None:
    """Credentials that may be ours: a bearer token that is a JWT, or Basic. Other values belong to the application."""
    if len(authorization) > MAX_CREDENTIAL:
        return None
    scheme, _, value = authorization.partition(" ")
    value = value.strip(" ")
    digest = credential_of(authorization)
    if scheme.lower() == CredentialKind.BEARER and _JWT.fullmatch(value):
        return Credential(CredentialKind.BEARER, "", value, digest)
    if scheme.lower() == CredentialKind.BASIC:
        try:
            pair = base64.b64decode(value, validate=True).decode("utf-8")
        except (binascii.Error, ValueError):
            return None
        user, separator, password = pair.partition(":")
        if separator and user and password and pair.isprintable():
            return Credential(CredentialKind.BASIC, user, password, digest)
    return None


def tickets_of(provider: ProxyProvider, request: AuthRequest) -> list[Ticket]:
    """The login cookies that a browser brought for a provider, in order."""
    values = provider.login_reader.values(request.headers.get("cookie"))
    return [ticket for ticket in map(Ticket.parse, values) if ticket is not None]
