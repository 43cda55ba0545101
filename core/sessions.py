"""Sessions and cookies: who a browser or an outpost is, and what its flow remembers (flows.md §3.1, §5.3).

The session key is only in the cookie (a signed token with claim ``sid``); the row is named by the key's SHA-256, which
is also what outposts are told when a session ends. One request reads the row once and writes it at most once
(:meth:`SessionStore.commit`), and an anonymous session without content is not kept at all.
"""

from __future__ import annotations

import email.utils
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from core import signed
from core.database import Database
from core.errors import TooLarge
from core.models import Session, User
from core.random_text import random_text

SESSION_COOKIE = "authentik_session"
CSRF_COOKIE = "authentik_csrf"
CSRF_HEADER = "X-authentik-CSRF"
DEVICE_COOKIE = "authentik_device"
ISSUER = "authentik"
ACR = "goauthentik.io/core/default"

KEY_LENGTH = 32  # characters of 36: 165 bits
KEY_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
CSRF_COOKIE_LIFE_S = 31449600.0  # 52 weeks, as the reference sets it
ANONYMOUS_LIFE_S = 86400.0  # a day on the server; the cookie ends with the browser
BROWSER_LIFE_S = 86400.0  # an authenticated session without duration: a day after its last use
TOUCH_S = 600.0  # a session that is only read is written again after ten minutes, so that reading stays cheap
MAX_SESSION_BYTES = 256 * 1024  # a plan with its context; more is a runaway policy, not a login

# Keys inside the session's data
PLAN = "authentik/flows/plan"
QUERY = "authentik/flows/get"
POST = "authentik/flows/post"
HISTORY = "authentik/flows/history"
CSRF = "csrf"
DURATION = "duration"  # seconds given at login; absent: until the browser closes
BOUND_IP = "bound_ip"
AUTHENTICATED = "authenticated"  # when (Unix seconds) and how somebody logged in


def session_id(key: str) -> str:
    """What outposts know a session by: the SHA-256 of its key in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    """A fresh random session key."""
    return random_text(KEY_ALPHABET, KEY_LENGTH)


@dataclass
class Cookie:
    """A cookie to set; ``max_age_s`` ``None`` ends with the browser, 0 deletes."""

    name: str
    value: str = field(repr=False)
    max_age_s: float | None = None
    http_only: bool = False

    def header(self, *, secure: bool, now: float) -> str:
        """The value of ``Set-Cookie`` (RFC 6265 section 4.1); ``now`` in Unix seconds."""
        parts = [f"{self.name}={self.value or chr(34) * 2}"]
        if self.max_age_s is not None:
            at = 0.0 if self.max_age_s <= 0 else now + self.max_age_s
            parts += [f"expires={email.utils.formatdate(at, usegmt=True)}"]
        if self.http_only:
            parts.append("HttpOnly")
        if self.max_age_s is not None:
            parts.append(f"Max-Age={max(0, int(self.max_age_s))}")
        parts.append("Path=/")
        parts += ["SameSite=None", "Secure"] if secure else ["SameSite=Lax"]
        return "; ".join(parts)


class SessionHandle:
    """The session of one request. Changes are written by :meth:`SessionStore.commit`."""

    def __init__(self, store: SessionStore, record: Session | None, key: str | None, user: User | None) -> None:
        self._store = store
        self._record = record
        self._key = key
        self._pk = ""  # of the key, once it was asked for
        self.user = user
        self.data: dict[str, Any] = {}
        self.modified = False
        self.had_cookie = key is not None
        self.ended: list[Session] = []  # rows to delete: rotated, flushed
        self.cookies: list[Cookie] = []
        if record is not None:
            self.data = msgspec.json.decode(record.data)

    @property
    def key(self) -> str:
        """The session key; made on first use."""
        if self._key is None:
            self._key, self._pk = new_key(), ""
        return self._key

    @property
    def pk(self) -> str:
        """The session id, which is the row's primary key."""
        key = self.key
        if not self._pk:
            self._pk = session_id(key)
        return self._pk

    @property
    def authenticated(self) -> bool:
        """Whether somebody is logged in."""
        return self.user is not None

    @property
    def record(self) -> Session | None:
        """The stored row this request started with."""
        return self._record

    def get(self, name: str, default: Any = None) -> Any:
        """A value of the session's data."""
        return self.data.get(name, default)

    def put(self, name: str, value: Any) -> None:
        """Set a value of the session's data."""
        self.data[name] = value
        self.modified = True

    def remove(self, name: str) -> None:
        """Remove a value of the session's data."""
        if name in self.data:
            del self.data[name]
            self.modified = True

    def set_cookie(self, name: str, value: str, *, max_age_s: float | None, http_only: bool = False) -> None:
        """Send a cookie with this answer."""
        self.cookies.append(Cookie(name, value, max_age_s, http_only))

    def login(self, user: User, *, duration_s: float, bound_ip: str | None) -> None:
        """Make this the session of ``user`` under a new key; what another user left behind is dropped first.

        ``duration_s`` 0 means "until the browser closes". ``bound_ip``: later requests must come from there.
        """
        if self.user is not None and self.user.pk != user.pk:
            plan = self.data.get(PLAN)
            self.data = {} if plan is None else {PLAN: plan}
        self._rotate()
        self.user = user
        for name in (DURATION, BOUND_IP):
            self.data.pop(name, None)
        if duration_s > 0:
            self.data[DURATION] = duration_s
        if bound_ip is not None:
            self.data[BOUND_IP] = bound_ip
        csrf = new_key()
        self.data[CSRF] = csrf
        self.set_cookie(CSRF_COOKIE, csrf, max_age_s=CSRF_COOKIE_LIFE_S)

    def flush(self) -> None:
        """Log out: the row and all data go; what is kept from here on is a new anonymous session."""
        self._rotate()
        self.user = None
        self.data = {}

    def remember_device(self, user: User, life_s: float) -> None:
        """Set the cookie by which a later login sees that this browser is known."""
        if life_s > 0:
            self.set_cookie(DEVICE_COOKIE, self._store.device_token(user, life_s), max_age_s=life_s)

    def device_of(self, cookies: Mapping[str, str]) -> str | None:
        """The ``uid`` of the user this browser is known for, or ``None``."""
        return self._store.device_uid(cookies.get(DEVICE_COOKIE, ""))

    def csrf_matches(self, cookies: Mapping[str, str], header: str | None) -> bool:
        """Whether an unsafe request of this session carries its token, in the header and in the cookie."""
        expected, cookie = self.data.get(CSRF), cookies.get(CSRF_COOKIE)
        if not isinstance(expected, str) or not header or not cookie:
            return False
        return hmac.compare_digest(header.encode(), expected.encode()) and hmac.compare_digest(
            cookie.encode(), expected.encode()
        )

    def _rotate(self) -> None:
        if self._record is not None:
            self.ended.append(self._record)
        self._record = None
        self._key = None
        self.modified = True


class SessionStore:
    """Reads sessions from cookies and writes them back. ``clock`` gives Unix seconds."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._secret = bytes.fromhex(database.secret("session_key"))
        self._device_secret = bytes.fromhex(database.secret("device_key"))

    def open(self, cookies: Mapping[str, str], client_ip: str) -> SessionHandle:
        """The session that the cookie names; an unknown, expired, forged or ended one counts as none."""
        text = cookies.get(SESSION_COOKIE, "")
        if not text:
            return SessionHandle(self, None, None, None)
        empty = SessionHandle(self, None, None, None)
        empty.had_cookie = True
        claims = signed.read(text, self._secret)
        key = claims.get("sid") if claims is not None and claims.get("iss") == ISSUER else None
        if not isinstance(key, str):
            return empty
        record = self._database.first(Session, pk=session_id(key))
        if record is None or (record.expires is not None and record.expires <= self._clock()):
            return empty
        user: User | None = None
        if record.user is not None:
            user = self._database.user(record.user)
            if user is None or not user.is_active:
                self._database.delete(record)
                return empty
        handle = SessionHandle(self, record, key, user)
        bound = handle.data.get(BOUND_IP)
        if bound is not None and bound != client_ip:
            self._database.delete(record)
            return empty
        return handle

    def commit(self, handle: SessionHandle, *, client_ip: str, user_agent: str, announce: bool) -> list[Cookie]:
        """Write what the request changed and say which cookies to set.

        With ``announce`` the session cookie is sent again even if nothing changed, as executor and ``users/me`` do.
        """
        now = self._clock()
        record = handle.record
        cookies = list(handle.cookies)
        keep = handle.authenticated or bool(handle.data)
        due = record is not None and now - record.last_used >= TOUCH_S and handle.authenticated
        if not handle.modified and not due:
            if record is not None and announce:
                cookies.append(self._session_cookie(handle, record.expires, now))
            return cookies
        if not keep:
            self._drop(handle, record)
            if handle.had_cookie:
                cookies.append(Cookie(SESSION_COOKIE, "", 0))
            return cookies
        data = msgspec.json.encode(handle.data)
        if len(data) > MAX_SESSION_BYTES:
            raise TooLarge("The session's data is too large.")
        expires = self._expiry(handle, record, now)
        row = Session(
            pk=handle.pk,
            uuid=record.uuid if record else "",
            user=handle.user.pk if handle.user else None,
            data=data.decode(),
            created=record.created if record else now,
            last_used=now,
            expires=expires,
            last_ip=client_ip,
            user_agent=user_agent,
        )
        with self._database.transaction():
            # a session that ended while this request ran must not come back
            if record is not None and not self._database.exists(Session, pk=record.pk):
                return [*cookies, Cookie(SESSION_COOKIE, "", 0)]
            # neither may a user who was deactivated or deleted while the password was being checked
            if row.user is not None and not self._database.exists(User, pk=row.user, is_active=True):
                self._drop(handle, record)
                return [Cookie(SESSION_COOKIE, "", 0)]
            for old in handle.ended:
                self._database.delete(old)
            self._database.save(row)
        cookies.append(self._session_cookie(handle, expires, now))
        return cookies

    def _drop(self, handle: SessionHandle, record: Session | None) -> None:
        with self._database.transaction():
            for old in [*handle.ended, *([record] if record is not None else [])]:
                self._database.delete(old)

    def _expiry(self, handle: SessionHandle, record: Session | None, now: float) -> float:
        duration_s = handle.data.get(DURATION)
        if handle.authenticated and duration_s is not None:
            return record.expires if record is not None and record.expires is not None else now + float(duration_s)
        return now + (BROWSER_LIFE_S if handle.authenticated else ANONYMOUS_LIFE_S)

    def _session_cookie(self, handle: SessionHandle, expires: float | None, now: float) -> Cookie:
        claims = {
            "sid": handle.key,
            "iss": ISSUER,
            "sub": handle.user.uid if handle.user else "anonymous",
            "authenticated": handle.authenticated,
            "acr": ACR,
        }
        timed = handle.authenticated and DURATION in handle.data and expires is not None
        return Cookie(
            SESSION_COOKIE,
            signed.write(claims, self._secret),
            max(1.0, expires - now) if timed and expires is not None else None,
            http_only=True,
        )

    def device_token(self, user: User, life_s: float) -> str:
        """The signed content of the device cookie."""
        claims = {"sub": user.uid, "exp": self._clock() + life_s}
        return signed.write(claims, self._device_secret)

    def device_uid(self, text: str) -> str | None:
        """The user's ``uid`` inside a device cookie, or ``None`` if it is not ours or too old."""
        claims = signed.read(text, self._device_secret) if text else None
        try:
            if claims is None or float(claims["exp"]) <= self._clock():
                return None
        except (KeyError, TypeError, ValueError):
            return None
        sub = claims.get("sub")
        return sub if isinstance(sub, str) else None
