"""Drives ``flow.py`` over the transport: cookies, delegation headers, redirects by hand, CSRF (core-contract §6.1).

One ``FlowClient`` is one execution: it owns the cookies, and nothing of it is shared with another but the connections
below the transport. Calls of one execution are serial, except for the two checks after the flow.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TypeVar

import msgspec

from common import challenges, endpoint
from common.challenges import Answer, Challenge, PushAnswer, Redirect
from common.endpoint import Endpoint
from common.errors import (
    CoreError,
    CoreForbidden,
    CoreNonsense,
    CoreNotFound,
    CoreRejected,
    CoreTimedOut,
    CoreUnavailable,
)
from common.flow import Result, Run
from common.transport import Response, Transport

GET_TIMEOUT_S = 10.0  # core-contract §3, "checks"; a loaded core answers in less than one
POST_TIMEOUT_S = 30.0  # a password hash takes the core 0.6 s; LDAP sources behind it may take seconds
PUSH_TIMEOUT_S = 75.0  # the core holds a Duo POST until the user answers, for up to 60 s (C51)
GET_REPEATS = 2  # after a network error; a POST is never repeated (core-contract §6.6)
MAX_HOPS = 30  # redirects a step; each silent stage is one
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_RETRY_AFTER_S = 3600.0
MAX_REQUEST_ID = 64  # characters of X-authentik-id; the core's are 32

SESSION_COOKIE = "authentik_session"
CSRF_COOKIE = "authentik_csrf"
CSRF_HEADER = "X-authentik-CSRF"

T = TypeVar("T")
Observe = Callable[[str, str, str, float], None]  # method, component of the challenge received, flow slug, seconds


class SessionClaims(msgspec.Struct, frozen=True):
    """What we read of the session cookie's payload. It is signed with a key of the core: read, never trusted alone."""

    sid: str | None = None
    authenticated: bool = False


@dataclass(frozen=True)
class SessionCookie:
    """The session as the last cookie tells it. ``claims`` is None if the cookie is a plain session key."""

    value: str = field(repr=False)
    claims: SessionClaims | None
    expires: float | None

    @property
    def session_id(self) -> str:
        """SHA-256 hex of the session key: the name under which the core announces the session's end."""
        key = self.claims.sid if self.claims is not None and self.claims.sid else self.value
        return hashlib.sha256(key.encode()).hexdigest()


def read_claims(value: str) -> SessionClaims | None:
    """Payload of a JWT without looking at its signature; None if the value is no JWT.

    A JWT whose payload cannot be used says "not authenticated".
    """
    parts = value.split(".")
    if len(parts) != 3:
        return None
    try:
        header = msgspec.json.decode(_unpadded(parts[0]))
    except (ValueError, binascii.Error):
        return None
    if not isinstance(header, dict) or "alg" not in header:
        return None
    try:
        return msgspec.json.decode(_unpadded(parts[1]), type=SessionClaims)
    except (ValueError, binascii.Error):
        return SessionClaims()


def _unpadded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


class CookieStore:
    """Every cookie that the core sets, whatever its Domain, Path, Secure and SameSite say (core-contract §6.1)."""

    def __init__(self, cookies: Mapping[str, str] | None = None) -> None:
        self._values: dict[str, str] = dict(cookies or {})
        self._session_expires: float | None = None

    def __repr__(self) -> str:
        return f"CookieStore({sorted(self._values)})"

    def receive(self, lines: Sequence[str], now: float) -> None:
        """Take in ``Set-Cookie`` lines; ``now`` in unix seconds. An empty or expired cookie is removed."""
        for line in lines:
            pair, *attributes = line.split(";")
            name, separator, value = pair.partition("=")
            name, value = name.strip(), value.strip()
            if not separator or not name:
                continue
            expires = _expiry(attributes, now)
            gone = value.strip('"') == "" or (expires is not None and expires <= now)
            if gone:
                self._values.pop(name, None)
            else:
                self._values[name] = value
            if name == SESSION_COOKIE:
                self._session_expires = None if gone else expires

    def get(self, name: str) -> str | None:
        """A cookie's value."""
        return self._values.get(name)

    def header(self) -> str | None:
        """The ``Cookie`` header's value, None without cookies."""
        return "; ".join(f"{name}={value}" for name, value in self._values.items()) or None

    def copy(self) -> dict[str, str]:
        """Names and values, to go on with later."""
        return dict(self._values)

    @property
    def session(self) -> SessionCookie | None:
        """The session, None if there is no session cookie."""
        value = self._values.get(SESSION_COOKIE, "").strip('"')
        if not value:
            return None
        return SessionCookie(value, read_claims(value), self._session_expires)


def _expiry(attributes: Sequence[str], now: float) -> float | None:
    """End of life in unix seconds from ``Max-Age``, else ``Expires`` (RFC 6265 §5.3)."""
    expires: float | None = None
    for attribute in attributes:
        name, _, value = attribute.partition("=")
        name, value = name.strip().lower(), value.strip()
        if name == "max-age":
            try:
                return now + int(value)
            except ValueError:
                continue
        if name == "expires":
            try:
                expires = parsedate_to_datetime(value).timestamp()
            except (ValueError, OverflowError):
                continue
    return expires


def error_for(call: str, answer: Response) -> CoreError | None:
    """The error that an answer's status means; None for 2xx and redirects."""
    status = answer.status
    if 200 <= status < 400:
        return None
    request_id = answer.request_id
    if status == 429 or status >= 500:
        return CoreUnavailable(
            call, "the core cannot answer", status=status, request_id=request_id, retry_after_s=retry_after(answer)
        )
    if status in (401, 403):
        return CoreForbidden(call, "refused", status=status, request_id=request_id)
    if status == 404:
        return CoreNotFound(call, "not found", status=status, request_id=request_id)
    return CoreRejected(call, "request refused", status=status, request_id=request_id)


def retry_after(answer: Response) -> float | None:
    """``Retry-After`` in seconds, the delta form only; capped."""
    text = answer.headers.get("retry-after", "").strip()
    return min(float(text), MAX_RETRY_AFTER_S) if text.isascii() and text.isdigit() else None


class FlowClient:
    """One execution of one flow, for one client address.

    ``deadline`` and ``monotonic`` share a clock; ``now`` is unix time, for cookie expiry. ``cookies`` go on with an
    earlier execution's session.
    """

    def __init__(
        self,
        transport: Transport,
        where: Endpoint,
        *,
        token: str,
        client_ip: str,
        slug: str,
        protocol: str,
        deadline: float,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        observe: Observe,
        certificate_pem: str | None = None,
        cookies: Mapping[str, str] | None = None,
        warm_up: bool = False,
    ) -> None:
        self._transport = transport
        self._where = where
        self._delegation = endpoint.delegation_headers(token, client_ip, certificate_pem)
        self._slug = slug
        self._path = endpoint.executor_path(slug)
        self._target = endpoint.executor_target(slug, protocol, warm_up=warm_up)
        self._deadline = deadline
        self._now = now
        self._monotonic = monotonic
        self._observe = observe
        self.core_request = ""  # X-authentik-id of the flow's last answer
        self._redirected = False  # whether the last challenge came after a redirect
        self.cookies = CookieStore(cookies)

    @property
    def executor_path(self) -> str:
        """Path of the flow's executor."""
        return self._path

    async def run(self, run: Run, first: Callable[[Challenge], None] | None = None) -> Result:
        """Drive a flow to its end. ``first`` sees the challenge of a first GET. Raises ``CoreError``.

        It does not see one that came after a redirect: then a silent stage goes before, which would swallow an answer.
        """
        answer = next(run)
        if answer is not None:
            first = None
        while True:
            challenge = await self.step(answer)
            if first is not None:
                if not self._redirected:
                    first(challenge)
                first = None
            try:
                answer = run.send(challenge)
            except StopIteration as stop:
                result: Result = stop.value
                return result

    async def step(self, answer: Answer | None) -> Challenge:
        """GET (None) or POST an answer, follow the hops, return the challenge. Raises ``CoreError``."""
        started = self._monotonic()
        if answer is None:
            method, response = "GET", await self.get(self._target)
        else:
            method = "POST"
            timeout_s = PUSH_TIMEOUT_S if isinstance(answer, PushAnswer) else POST_TIMEOUT_S
            response = await self._send("POST", self._target, challenges.encode(answer), timeout_s)
        challenge = await self._arrive(method, response)
        self._observe(method, _label(challenge), self._slug, self._monotonic() - started)
        return challenge

    async def _arrive(self, method: str, response: Response) -> Challenge:
        """Follow redirects to the executor itself; any other one is the flow's end, as if the core had said so."""
        call = f"{method} {self._path}"
        hops = 0
        self._redirected = response.status in REDIRECTS
        while response.status in REDIRECTS:
            location = response.headers.get("location")
            if not location:
                raise CoreNonsense(call, "redirect without Location", status=response.status)
            target = self._where.own_target(location)
            if target is None or target.partition("?")[0] != self._path:
                return Redirect(component="xak-flow-redirect", to=location)
            hops += 1
            if hops > MAX_HOPS:
                raise CoreNonsense(call, f"more than {MAX_HOPS} redirects")
            response = await self.get(target)
        return self._challenge(call, response)

    def _challenge(self, call: str, response: Response) -> Challenge:
        self.core_request = _printable(response.request_id)
        error = error_for(call, response)
        if error is not None:
            raise error
        if response.status != 200 or not response.is_json:
            raise CoreNonsense(call, "not a JSON answer", status=response.status, request_id=response.request_id)
        try:
            return challenges.decode(response.body)
        except challenges.ChallengeError:
            raise CoreNonsense(
                call, "not a flow challenge", status=response.status, request_id=response.request_id
            ) from None

    async def read(self, target: str, kind: type[T]) -> T:
        """GET a record in the session: access check, users/me. Raises ``CoreError``."""
        response = await self.get(target)
        call = f"GET {target.partition('?')[0]}"
        error = error_for(call, response)
        if error is not None:
            raise error
        if response.status != 200 or not response.is_json:
            raise CoreNonsense(call, "not a JSON answer", status=response.status, request_id=response.request_id)
        try:
            return msgspec.json.decode(response.body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise CoreNonsense(
                call, "unexpected shape", status=response.status, request_id=response.request_id
            ) from None

    async def get(self, target: str) -> Response:
        """GET, repeated at most twice after a network error. A time-out is not repeated: the budget is better spent."""
        for left in range(GET_REPEATS, -1, -1):
            try:
                return await self._send("GET", target, None, GET_TIMEOUT_S)
            except CoreTimedOut:
                raise
            except CoreUnavailable:
                if left == 0:
                    raise
        raise AssertionError("unreachable")

    async def _send(self, method: str, target: str, body: bytes | None, timeout_s: float) -> Response:
        left = self._deadline - self._monotonic()
        if left <= 0:
            raise CoreTimedOut(f"{method} {target.partition('?')[0]}", "the login's time is used up")
        headers = [("Accept", "application/json"), *self._delegation]
        cookie = self.cookies.header()
        if cookie:
            headers.append(("Cookie", cookie))
        if body is not None:
            headers.append(("Content-Type", "application/json"))
            csrf = self.cookies.get(CSRF_COOKIE)
            if csrf:
                # Set with the login, and wanted from then on; over https the origin is checked too.
                headers.append((CSRF_HEADER, csrf))
                headers.append(("Referer", self._where.url("/")))
        response = await self._transport.request(
            method, target, headers=headers, body=body, timeout_s=min(timeout_s, left)
        )
        self.cookies.receive(response.headers.getall("set-cookie", []), self._now())
        return response


def _printable(request_id: str | None) -> str:
    """The core's name for a call, as it may stand in a log line."""
    return "".join(character for character in (request_id or "")[:MAX_REQUEST_ID] if character.isprintable())


def _label(challenge: Challenge) -> str:
    """A component as a metric's label: the core's word, but only if it is a known one (labels must stay few)."""
    return challenge.component if challenge.component in challenges.COMPONENTS else "other"
