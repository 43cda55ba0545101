"""A browser's session: what may happen to it in which state, and what it holds. All rules about that are here.

States of a browser towards one provider::

    ANONYMOUS       no session; nothing is stored for it
    STARTED         a login is going on; it is held by the state and the login cookie (``state.py``), nothing is stored
    AUTHENTICATED   a session is stored, and its cookie is known to the browser
    ENDED           signed out, expired, idle for too long, revoked; the cookie is good for nothing any more

``MOVES`` says what follows from what; whatever is not in it is a defect of the caller, and ``move`` says so. A session
has a new random name for each login and never takes one that a client chose; it is stored under the digest of its
cookie. It belongs to one provider: brought to another one, it is nobody's.

Time is an argument, in unix seconds.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import msgspec

from common.errors import OutpostError
from outposts.proxy import identity
from outposts.proxy.identity import Claims, Identity, IdentityOptions

COOKIE_OCTETS = 32  # random octets of a session cookie: 256 bits
COOKIE_VALUE = re.compile(r"[A-Za-z0-9_-]{43}")
VERSION = 1  # of the stored form
GROUP_MEMO = 4096  # sets of groups that sessions share; there are fewer roles than people
MAX_STORED = 262_144  # octets of one stored session; a token of 64 KiB and its claims are below it


_encoder = msgspec.msgpack.Encoder()
_NOBODY = Identity(b"", frozenset())


class State(StrEnum):
    """Where a browser stands."""

    ANONYMOUS = "anonymous"
    STARTED = "started"
    AUTHENTICATED = "authenticated"
    ENDED = "ended"


class Event(StrEnum):
    """What can happen to it."""

    LOGIN_BEGUN = "login_begun"  # redirected to the core
    LOGIN_PASSED = "login_passed"  # the token was verified
    LOGIN_FAILED = "login_failed"
    CREDENTIALS_PASSED = "credentials_passed"  # header authentication
    REFRESHED = "refreshed"  # new tokens for the same login
    SIGNED_OUT = "signed_out"
    EXPIRED = "expired"  # its absolute life or its token's is over
    IDLED = "idled"  # not used for too long
    REVOKED = "revoked"  # the core ended it


MOVES: Mapping[State, Mapping[Event, State]] = {
    State.ANONYMOUS: {
        Event.LOGIN_BEGUN: State.STARTED,
        Event.CREDENTIALS_PASSED: State.AUTHENTICATED,
        Event.SIGNED_OUT: State.ANONYMOUS,
    },
    State.STARTED: {
        Event.LOGIN_BEGUN: State.STARTED,
        Event.LOGIN_PASSED: State.AUTHENTICATED,
        Event.LOGIN_FAILED: State.ANONYMOUS,
        Event.CREDENTIALS_PASSED: State.AUTHENTICATED,
        Event.SIGNED_OUT: State.ANONYMOUS,
    },
    State.AUTHENTICATED: {
        Event.LOGIN_BEGUN: State.AUTHENTICATED,  # `P/start` asked for by somebody who is logged in
        Event.LOGIN_PASSED: State.AUTHENTICATED,  # under a new name; the old session ends
        Event.LOGIN_FAILED: State.AUTHENTICATED,
        Event.CREDENTIALS_PASSED: State.AUTHENTICATED,
        Event.REFRESHED: State.AUTHENTICATED,
        Event.SIGNED_OUT: State.ENDED,
        Event.EXPIRED: State.ENDED,
        Event.IDLED: State.ENDED,
        Event.REVOKED: State.ENDED,
    },
    State.ENDED: {
        Event.LOGIN_BEGUN: State.STARTED,
        Event.CREDENTIALS_PASSED: State.AUTHENTICATED,
        Event.SIGNED_OUT: State.ENDED,
        Event.EXPIRED: State.ENDED,
        Event.IDLED: State.ENDED,
        Event.REVOKED: State.ENDED,
    },
}


class SessionError(OutpostError):
    """Something was asked of a session that its state does not allow: a defect of ours."""


class StoredError(OutpostError):
    """Octets are no session that this version can read."""


def move(state: State, event: Event) -> State:
    """The state after an event. Raises ``SessionError`` if it cannot happen there."""
    try:
        return MOVES[state][event]
    except KeyError:
        raise SessionError(f"{event} cannot happen to a session that is {state}") from None


@dataclass(slots=True, eq=False, repr=False)
class Session:
    """One login at one provider. Read for every request; only ``seen``, ``state`` and what ``renew`` sets change.

    There may be a hundred thousand of them, so each holds what every request needs ready-made, and the rest once:
    claims are ``packed``, and a token that stands in ``identity`` stands nowhere else.

    ``key`` is the digest of the cookie. ``expires`` is the end of its absolute life, ``fresh_until`` that of its token:
    between the two the token can be renewed if there is a ``refresh_token``. ``credential`` is the digest of the
    ``Authorization`` header that made it, if one did. ``subject`` is whom the core logged in, ``sid`` the core's name
    of the login session ("" for app passwords); sessions are found by either when the core ends them.
    """

    key: bytes
    provider_pk: int
    client_id: str
    created: float
    expires: float
    fresh_until: float
    seen: float
    identity: Identity
    packed: bytes
    refresh_token: str = ""
    credential: bytes = b""
    subject: str = ""
    sid: str = ""
    groups: frozenset[str] = frozenset()
    backend_override: str = ""
    host_header: str = ""
    kept_token: str = ""
    state: State = State.AUTHENTICATED

    def __repr__(self) -> str:
        """Without what identifies a person."""
        return f"Session(provider_pk={self.provider_pk}, state={self.state})"

    @property
    def payload(self) -> dict[str, Any]:
        """The claims as the token had them. Unpacked at each call."""
        return _payload(self.packed)

    @property
    def claims(self) -> Claims:
        """The claims that are used. Unpacked at each call."""
        return identity.claims_of(self.payload)

    @property
    def token(self) -> str:
        """The raw token."""
        return self.kept_token or self.identity.token

    def live(self, now: float, idle_s: float = 0.0) -> bool:
        """Whether it counts for a request now. ``idle_s`` 0: however long it was not used."""
        return (
            self.state is State.AUTHENTICATED
            and now < self.fresh_until
            and now < self.expires
            and (not idle_s or now - self.seen < idle_s)
        )

    def renewable(self, now: float, idle_s: float = 0.0) -> bool:
        """Whether new tokens may be asked for: the token is over, the session is not."""
        return (
            self.state is State.AUTHENTICATED
            and bool(self.refresh_token)
            and now < self.expires
            and (not idle_s or now - self.seen < idle_s)
        )

    def end(self, event: Event) -> None:
        """It is over; whoever still holds the object sees it."""
        self.state = move(self.state, event)

    def rebuild(self, options: IdentityOptions) -> None:
        """Make its headers anew, after the provider's configuration changed."""
        _fill(self, self.packed, self.claims, self.token, options)


def new_cookie(random: Callable[[int], bytes]) -> str:
    """A session cookie's value: 43 characters of base64url."""
    return base64.urlsafe_b64encode(random(COOKIE_OCTETS)).rstrip(b"=").decode()


def key_of(cookie: str) -> bytes:
    """What a session is found by; tells nothing about the cookie."""
    return hashlib.sha256(cookie.encode("latin-1", "replace")).digest()


def credential_of(authorization: str) -> bytes:
    """Digest of an ``Authorization`` header."""
    return hashlib.sha256(b"authorization\0" + authorization.encode("latin-1", "replace")).digest()


def end_of_life(claims: Claims, validity_s: float, now: float) -> float:
    """When a session is over at the latest: with its token, or after the provider's validity (0: none of its own)."""
    ends = [now + validity_s] if validity_s > 0 else []
    if claims.expires is not None:
        ends.append(claims.expires)
    return min(ends, default=now)


def create(
    cookie: str,
    *,
    provider_pk: int,
    client_id: str,
    payload: Mapping[str, Any],
    token: str,
    options: IdentityOptions,
    now: float,
    validity_s: float,
    max_life_s: float = 0.0,
    refresh_token: str = "",
    authorization: str = "",
) -> Session:
    """The session of a login that has passed: ``payload`` are the claims of a *verified* token.

    Its token counts until ``end_of_life``. With a ``refresh_token`` the session itself goes on for ``max_life_s``;
    without one the two are the same.
    """
    claims = identity.claims_of(payload)
    fresh_until = end_of_life(claims, validity_s, now)
    session = Session(
        key=key_of(cookie),
        provider_pk=provider_pk,
        client_id=client_id,
        created=now,
        expires=max(fresh_until, now + max_life_s) if refresh_token and max_life_s else fresh_until,
        fresh_until=fresh_until,
        seen=now,
        identity=_NOBODY,
        packed=b"",
        refresh_token=refresh_token,
        credential=credential_of(authorization) if authorization else b"",
    )
    _fill(session, _pack(payload), claims, token, options)
    return session


def _pack(payload: Mapping[str, Any]) -> bytes:
    """Claims as octets. Whatever JSON can say fits: whole numbers of any size, unpaired surrogates."""
    return json.dumps(payload, separators=(",", ":")).encode()


def _payload(packed: bytes) -> dict[str, Any]:
    """The claims again. Raises ``ValueError`` if they are none."""
    payload = json.loads(packed)
    if not isinstance(payload, dict):
        raise ValueError("no claims")
    return payload


def _fill(session: Session, packed: bytes, claims: Claims, token: str, options: IdentityOptions) -> None:
    """Set what comes from a token."""
    built = identity.build(claims, token, options)
    session.identity = built
    session.packed = packed
    session.kept_token = "" if built.token == token else token
    session.subject, session.sid = claims.subject, claims.sid
    session.groups = _groups(claims.groups)
    session.backend_override, session.host_header = claims.backend_override, claims.host_header


@lru_cache(GROUP_MEMO)
def _groups(names: tuple[str, ...]) -> frozenset[str]:
    """Users with the same groups share one set."""
    return frozenset(names)


def renew(
    session: Session,
    *,
    payload: Mapping[str, Any],
    token: str,
    refresh_token: str,
    options: IdentityOptions,
    now: float,
    validity_s: float,
) -> None:
    """New tokens for the same login. Raises ``SessionError`` if it has ended, or if they are somebody else's."""
    state = move(session.state, Event.REFRESHED)
    claims = identity.claims_of(payload)
    if claims.subject != session.subject:
        raise SessionError("the renewed token is another user's")
    _fill(session, _pack(payload), claims, token, options)
    session.state = state
    session.refresh_token = refresh_token or session.refresh_token
    session.fresh_until = min(end_of_life(claims, validity_s, now), session.expires)


class _Stored(msgspec.Struct, array_like=True, frozen=True):
    """A session as stores hold it (inside their seal). The first field is the version of this layout."""

    version: int
    provider_pk: int
    client_id: str
    created: float
    expires: float
    fresh_until: float
    seen: float
    packed: bytes
    token: str
    refresh_token: str
    credential: bytes


_decoder = msgspec.msgpack.Decoder(_Stored)


def encode(session: Session) -> bytes:
    """What a store seals and keeps. The key is not in it: the store has it already."""
    return _encoder.encode(
        _Stored(
            VERSION,
            session.provider_pk,
            session.client_id,
            session.created,
            session.expires,
            session.fresh_until,
            session.seen,
            session.packed,
            session.token,
            session.refresh_token,
            session.credential,
        )
    )


def decode(key: bytes, octets: bytes, options: IdentityOptions) -> Session:
    """A session out of a store, its headers made as the provider's configuration says now. Raises ``StoredError``."""
    if len(octets) > MAX_STORED:
        raise StoredError("too large")
    try:
        stored = _decoder.decode(octets)
        payload = _payload(stored.packed)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise StoredError("not a session") from None
    if stored.version != VERSION:
        raise StoredError("another version")
    session = Session(
        key=key,
        provider_pk=stored.provider_pk,
        client_id=stored.client_id,
        created=stored.created,
        expires=stored.expires,
        fresh_until=stored.fresh_until,
        seen=stored.seen,
        identity=_NOBODY,
        packed=b"",
        refresh_token=stored.refresh_token,
        credential=stored.credential,
    )
    _fill(session, stored.packed, identity.claims_of(payload), stored.token, options)
    return session
