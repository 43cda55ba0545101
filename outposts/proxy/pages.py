"""Pages of our own: what went wrong and what to do about it, for people as HTML, for programs as JSON.

No scripts, nothing from elsewhere, nothing that a client sent (but for a host name, escaped), no secrets. Every page is
for one moment: none is stored. Text is made here and nowhere else; ``octets`` writes a page as a whole answer.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple

HTML_TYPES = ("text/html", "application/xhtml+xml")
MAX_SHOWN = 300  # characters of a text that came from elsewhere
RETRY_S = 10  # seconds after which a browser or program may try again what was unavailable

_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:12vh auto;padding:0 1.25rem}"
    "h1{font-size:1.5rem;line-height:1.25;margin:0 0 1rem}"
    "p{margin:0 0 1rem}"
    "small,dl{color:GrayText}dt{float:left;clear:left;margin-right:.5rem}dd{margin:0}"
    "a,button{display:inline-block;margin:0 1rem 1rem 0;font:inherit}"
    "button{padding:.4rem 1rem;cursor:pointer}"
    "form{margin:0}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


class Link(NamedTuple):
    """Where a page leads. ``post``: a button that sends a form, because it changes something; ``fields`` are in it."""

    text: str
    url: str
    post: bool = False
    fields: tuple[tuple[str, str], ...] = ()


class Page(NamedTuple):
    """An answer of our own."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def wants_html(accept: str, fetch_mode: str = "") -> bool:
    """Whether HTML is the better answer: to whoever asks for it, and to whoever does not say what.

    ``fetch_mode`` is ``Sec-Fetch-Mode``: scripts of a page that do not say what they take get JSON.
    """
    accept = accept.lower()
    if any(kind in accept for kind in HTML_TYPES):
        return True
    if "json" in accept:
        return False
    return fetch_mode in ("", "navigate")


def page(
    status: int,
    code: str,
    title: str,
    text: str,
    *,
    as_html: bool = True,
    advice: str = "",
    links: Iterable[Link] = (),
    details: Iterable[tuple[str, str]] = (),
    headers: Iterable[tuple[str, str]] = (),
    retry_s: int | None = None,
    form_origins: Iterable[str] = (),
) -> Page:
    """Any page. ``code`` is for programs, one word; ``details`` are shown small.

    ``form_origins`` are where a form's answer may redirect to, besides here: browsers hold that against the policy.
    """
    links, details = tuple(links), tuple((name, value[:MAX_SHOWN]) for name, value in details if value)
    found = [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer")]
    if retry_s is not None:
        found.append(("Retry-After", str(retry_s)))
    found += headers
    if as_html:
        body = _html(title, text, advice, links, details)
        found.append(("Content-Type", "text/html; charset=utf-8"))
        forms = " ".join(("'self'", *form_origins)) if any(link.post for link in links) else "'none'"
        found.append(
            (
                "Content-Security-Policy",
                f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action {forms}; base-uri 'none'; "
                "frame-ancestors 'none'",
            )
        )
    else:
        answer: dict[str, object] = {"error": code, "title": title, "detail": text}
        if advice:
            answer["advice"] = advice
        answer |= dict(details)
        answer |= {"links": {link.text: link.url for link in links}} if links else {}
        body = json.dumps(answer).encode()
        found.append(("Content-Type", "application/json"))
    return Page(status, tuple(found), body)


def _html(title: str, text: str, advice: str, links: tuple[Link, ...], details: tuple[tuple[str, str], ...]) -> bytes:
    escape = html.escape
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="robots" content="noindex">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1><p>{escape(text)}</p>"
    ]
    if advice:
        parts.append(f"<p>{escape(advice)}</p>")
    for link in links:
        if link.post:
            hidden = "".join(
                f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">' for name, value in link.fields
            )
            parts.append(
                f'<form method="post" action="{escape(link.url)}">{hidden}<button>{escape(link.text)}</button></form>'
            )
        else:
            parts.append(f'<a href="{escape(link.url)}">{escape(link.text)}</a>')
    if details:
        items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in details)
        parts.append(f"<dl>{items}</dl>")
    parts.append("</main></body></html>\n")
    return "".join(parts).encode("utf-8", "replace")


def octets(
    answer: Page,
    more: Iterable[tuple[bytes, bytes]] = (),
    head_only: bool = False,
    minor: int = 1,
    keep_alive: bool = True,
) -> bytes:
    """A page as a whole HTTP/1.1 answer. ``more``: further headers, such as cookies."""
    lines = [f"HTTP/1.1 {answer.status} {reason(answer.status)}"]
    lines += [f"{name}: {value}" for name, value in answer.headers]
    if answer.status != 204:  # RFC 9110 §8.6
        lines.append(f"Content-Length: {len(answer.body)}")
    if not keep_alive:
        lines.append("Connection: close")
    elif minor == 0:
        lines.append("Connection: keep-alive")
    head = "\r\n".join(lines).encode("latin-1", "replace")
    head += b"".join(b"\r\n%b: %b" % pair for pair in more) + b"\r\n\r\n"
    return head if head_only else head + answer.body


def reason(status: int) -> str:
    """The phrase of a status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


# What failed behind us: cause → title, text, advice, whether another try makes sense.
_ASK = "If it stays like this, tell whoever runs the application."
_UPSTREAM: dict[str, tuple[str, str, str, bool]] = {
    "name": ("Bad Gateway", "Failed to connect to backend. The application's address is not known.", _ASK, True),
    "refused": ("Bad Gateway", "Failed to connect to backend. The application does not answer.", _ASK, True),
    "tls": (
        "Bad Gateway",
        "Failed to connect to backend. No trusted connection to the application could be made.",
        "Its certificate has to be renewed, or its issuer made known here.",
        False,
    ),
    "connect_timeout": (
        "Gateway Timeout",
        "Failed to connect to backend. The application did not answer in time.",
        _ASK,
        True,
    ),
    "setup": (
        "Bad Gateway",
        "Failed to connect to backend. The settings for this application cannot be used.",
        "The log says which.",
        False,
    ),
    "closed": ("Bad Gateway", "The application closed the connection without an answer.", _ASK, True),
    "broken": ("Bad Gateway", "The application's answer could not be understood.", _ASK, False),
    "cut": ("Bad Gateway", "The application's answer broke off.", _ASK, True),
    "response_timeout": ("Gateway Timeout", "The application did not answer in time.", _ASK, True),
    "idle": ("Gateway Timeout", "The application stopped in the middle of the request.", _ASK, True),
    "too_large": (
        "Too Large",
        "What was sent is larger than this application takes.",
        "Send less at a time, or ask whoever runs the application for a higher limit.",
        False,
    ),
    "bad_body": ("Bad Request", "What was sent is not what its head says.", "", False),
    "slow_body": ("Request Timeout", "What was being sent did not come to an end in time.", "Try again.", False),
    "bad_request": ("Bad Request", "This request cannot be passed on.", "", False),
    "method": ("Method Not Allowed", "This method is not passed on to applications.", "", False),
}
_FAILED = ("Internal Error", "The request could not be handled.", "Try again; the log says what was wrong.", False)


def upstream_failed(status: int, cause: str, *, as_html: bool = True, detail: str = "") -> Page:
    """The application behind did not answer. ``cause`` as in ``exchange.Cause``; ``detail`` for superusers only."""
    title, text, advice, again = _UPSTREAM.get(cause, _FAILED)
    return page(
        status,
        cause,
        title,
        text,
        as_html=as_html,
        advice=advice,
        details=[("reason", detail)],
        headers=[("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")] if status == 405 else (),
        retry_s=RETRY_S if again and status >= 500 else None,
    )


def unauthorized(login_url: str, *, challenge: str = "", as_html: bool = False) -> Page:
    """401 for what is no navigation: where a person may log in. ``challenge``: value of ``WWW-Authenticate``."""
    text = "These credentials are not good here." if challenge else "Nobody is logged in."
    headers = [("WWW-Authenticate", challenge)] if challenge else []
    found = page(
        401,
        "unauthorized",
        "Unauthenticated",
        text,
        as_html=as_html,
        links=[Link("Log in", login_url)] if as_html else (),
        headers=headers,
    )
    if as_html:
        return found
    answer = {"error": "unauthorized", "title": "Unauthenticated", "detail": text, "login_url": login_url}
    return found._replace(body=json.dumps(answer).encode())


def forbidden(application: str, *, as_html: bool = True, sign_out_url: str = "") -> Page:
    """403: logged in, but not in a group that this place needs."""
    return page(
        403,
        "forbidden",
        "No access",
        f"You are logged in, but your account may not open this part of {application or 'the application'}.",
        as_html=as_html,
        advice="Ask whoever runs it for access. After a change you may have to log in again.",
        links=[Link("Log in as somebody else", sign_out_url)] if sign_out_url else (),
    )


# What went wrong in a login: problem (``state.StateProblem`` or a word of ours) → title, text, advice.
_AGAIN = "Begin again with the link below."
_LOGIN: dict[str, tuple[str, str, str]] = {
    "missing": ("The login is not complete", "The address holds no login that can be finished here.", _AGAIN),
    "malformed": ("The login is not complete", "The address holds no login that can be finished here.", _AGAIN),
    "expired": ("The login took too long", "It has to be finished within some minutes.", _AGAIN),
    "used": ("This login was used already", "Each login can be finished once. Somebody went back or reloaded.", _AGAIN),
    "no_cookie": (
        "The login was begun elsewhere",
        "It was begun in another browser or window, or this browser does not keep cookies.",
        "Allow cookies for this site, then begin again with the link below.",
    ),
    "other_cookie": (
        "The login was begun elsewhere",
        "Another login was begun in this browser meanwhile.",
        _AGAIN,
    ),
    "looping": (
        "The login does not come to an end",
        "It was begun again several times and each time its cookie was missing.",
        "Allow cookies for this site. If it stays like this, the address of the application and that of the provider "
        "do not belong together: tell whoever runs it.",
    ),
    "core_error": ("The login was refused", "The login service did not let it through.", _AGAIN),
    "exchange": (
        "The login could not be finished",
        "The login service did not confirm it.",
        "Try again. If it stays like this, tell whoever runs the application.",
    ),
    "token": (
        "The login could not be finished",
        "What the login service confirmed cannot be trusted: it is not meant for this application, or not valid now.",
        "Tell whoever runs the application; the log says what was wrong.",
    ),
}


def login_failed(
    status: int,
    problem: str,
    *,
    as_html: bool = True,
    retry_url: str = "",
    home_url: str = "",
    details: Iterable[tuple[str, str]] = (),
) -> Page:
    """A login that came to nothing. ``details``: error and description that the core gave."""
    title, text, advice = _LOGIN.get(problem, _LOGIN["malformed"])
    links = [Link("Log in again", retry_url)] if retry_url else []
    links += [Link("To the application", home_url)] if home_url and home_url != retry_url else []
    return page(
        status,
        f"login_{problem}",
        title,
        text,
        as_html=as_html,
        advice=advice,
        links=links,
        details=details,
        retry_s=RETRY_S if status >= 500 else None,
    )


def unavailable(what: str = "", *, as_html: bool = True, retry_s: int = RETRY_S) -> Page:
    """503: sessions or the core cannot be reached, or there is no configuration yet. ``what`` in a few words."""
    return page(
        503,
        "unavailable",
        "Not available at the moment",
        f"Your request cannot be handled now{': ' + what if what else ''}.",
        as_html=as_html,
        advice="Try again in a moment.",
        retry_s=retry_s,
    )


def throttled(retry_s: int, *, as_html: bool = True) -> Page:
    """429: too many attempts with credentials that are not good."""
    return page(
        429,
        "throttled",
        "Too many attempts",
        "There were too many attempts with wrong credentials.",
        as_html=as_html,
        advice="Wait before the next one.",
        retry_s=retry_s,
    )


def bad_request(problem: str, *, status: int = 400, as_html: bool = True) -> Page:
    """The request can be read in two ways or in none. ``problem`` is ours, without octets of the request."""
    return page(
        status,
        "bad_request",
        reason(status),
        f"This request is not taken: {problem}.",
        as_html=as_html,
        advice="Deleting this site's cookies may help. If you followed a link, it may be damaged.",
    )


def not_found(*, as_html: bool = True) -> Page:
    """404 below our own prefix."""
    return page(404, "not_found", "Not found", "There is nothing at this address.", as_html=as_html)


def signed_out(*, as_html: bool = True, application: str = "", again_url: str = "", everywhere_url: str = "") -> Page:
    """200 after a sign-out, or where nobody was logged in."""
    links = [Link("Log in again", again_url)] if again_url else []
    links += [Link("Sign out everywhere", everywhere_url)] if everywhere_url else []
    return page(
        200,
        "signed_out",
        "Signed out",
        f"You are signed out of {application}." if application else "You are signed out.",
        as_html=as_html,
        advice="You may still be logged in at the login service." if everywhere_url else "",
        links=links,
    )


def confirm_sign_out(
    action_url: str, *, as_html: bool = True, application: str = "", form_origins: Iterable[str] = ()
) -> Page:
    """Another site made the browser ask for a sign-out: a person has to say so."""
    return page(
        200,
        "confirm_sign_out",
        "Sign out?",
        f"Another page asks to sign you out of {application}." if application else "Another page asks to sign you out.",
        as_html=as_html,
        links=[Link("Sign out", action_url, post=True)],
        form_origins=form_origins,
    )


def send_again(target: str, fields: Iterable[tuple[str, str]], *, application: str = "", origin: str = "") -> Page:
    """200 after a login in the middle of which a form was kept: a button sends it to ``target``."""
    return page(
        200,
        "send_again",
        "You are logged in",
        f"What you had entered for {application} was kept." if application else "What you had entered was kept.",
        advice="Send it now, or leave this page to drop it.",
        links=[Link("Send", target, True, tuple(fields))],
        form_origins=[origin] if origin else (),
    )


def no_provider(host: str) -> Page:
    """400 in the reference's words: no provider has this host."""
    answer = {
        "Message": "no app for hostname",
        "Host": host[:MAX_SHOWN],
        "Detail": f"Check the outpost settings and make sure '{host[:MAX_SHOWN]}' is included.",
    }
    body = json.dumps(answer, indent="\t").encode()
    return Page(
        400,
        (("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store")),
        body,
    )


def logout_noticed(status: int) -> Page:
    """What a core is told that posted a logout token (OpenID Connect Back-Channel Logout 1.0 §2.8)."""
    return _plain(status, {200: "", 400: "not a logout token\n"}.get(status, "later\n"))


def configuration_error() -> Page:
    """500 in the reference's words: the web server does not say what the original URL is."""
    return _plain(500, "configuration error\n")


def unauthorized_check() -> Page:
    """401 in the reference's words, for a web server that asks as nginx does."""
    return _plain(401, "unauthorized request\n")


def _plain(status: int, text: str) -> Page:
    headers = (
        ("Content-Type", "text/plain; charset=utf-8"),
        ("X-Content-Type-Options", "nosniff"),
        ("Cache-Control", "no-store"),
    )
    return Page(status, headers, text.encode())
