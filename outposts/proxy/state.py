"""What travels through a login in the parameter ``state``: sealed, expiring, for one browser, used once.

Nothing is kept here for a login that is going on, so a thousand anonymous requests cost no memory, and every replica
that knows the provider's ``cookie_secret`` can end a login that another one began. The sealed content holds where to go
afterwards and 32 random octets, from which the PKCE verifier (RFC 7636) and the nonce (OpenID Connect Core §3.1.2.1)
are derived; nobody who sees the URL learns them.

A state belongs to the browser that holds the login cookie it names (``Ticket``). All logins that a browser begins share
that cookie, so tabs do not disturb each other. A state of another browser is refused; one whose login cookie was
overwritten by a parallel request is begun anew, at most ``MAX_RESTARTS`` times.

Layout of a state: base64url of nonce (12 octets) and AES-256-GCM of a MessagePack array; the key is HKDF-SHA256 of
``cookie_secret`` and ``client_id``. Randomness and time are arguments.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import unquote_plus

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.errors import OutpostError
from outposts.proxy import rfc

Random = Callable[[int], bytes]
"""``secrets.token_bytes``, given by the caller."""

LIFETIME_S = 600  # time for a login: long enough for a second factor and a forgotten password, RFC 6749 §4.1.2 scale
CLOCK_SKEW_S = 60  # how far replicas' clocks may be apart before a state counts as one from the future
MAX_RESTARTS = 3  # of one login; a further one would be a loop
SEED_SIZE = 32  # octets; 256 bits, as RFC 7636 §7.1 asks of a verifier
NONCE_SIZE = 12  # octets, the size GCM is made for (NIST SP 800-38D §8.2)
MAX_STATE = 8192  # characters; a sealed state with the longest target has 5.7 thousand
MAX_POST_KEY = 64  # characters that name a kept request body in a store
MAX_USED = 100_000  # states remembered as used; 100 bytes each, and one login a millisecond for two minutes

TICKET_SIZE = 32  # random octets of a login cookie
TICKET_TEXT = re.compile(r"([A-Za-z0-9_-]{43})\.([0-9a-f]{8,9})\.([0-9]{1,3})")
LOOP_WINDOW_S = 30  # time in which ``MAX_BEGUN`` logins of one browser are no coincidence but a loop
MAX_BEGUN = 20  # a browser that restores 20 tabs begins 20 logins, most of them before it has any cookie


class StateProblem(StrEnum):
    """Why a state is refused."""

    MISSING = "missing"
    MALFORMED = "malformed"  # not ours, or changed, or made with another key or for another provider
    EXPIRED = "expired"
    USED = "used"
    NO_COOKIE = "no_cookie"  # the browser brought no login cookie: another browser, or cookies are blocked
    OTHER_COOKIE = "other_cookie"  # it brought one, of another login: overwritten by a parallel answer
    LOOPING = "looping"  # begun anew too often


class StateError(OutpostError):
    """A state cannot be used; ``problem`` says why, ``state`` is there if it could be opened."""

    def __init__(self, problem: StateProblem, state: LoginState | None = None) -> None:
        super().__init__(f"login state: {problem}")
        self.problem = problem
        self.state = state


class _Sealed(msgspec.Struct, array_like=True, frozen=True):
    """The content of a sealed state; the first field is the version of this layout."""

    version: int
    seed: bytes
    issued: int
    browser: bytes
    target: str
    restarts: int
    post: str


VERSION = 1
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Sealed).decode


@dataclass(frozen=True, slots=True)
class LoginState:
    """A login that was begun. ``target`` is a URL that ``safe_redirect`` accepted, or "" for the external host.

    ``issued`` in unix seconds. ``browser`` is the digest of the login cookie. ``post`` names a kept request body.
    """

    seed: bytes = field(repr=False)
    issued: int
    browser: bytes = field(repr=False)
    target: str = ""
    restarts: int = 0
    post: str = ""

    @property
    def key(self) -> str:
        """What is remembered when the state was used; tells nothing about the rest."""
        return self._derive(b"key").hex()[:32]

    @property
    def verifier(self) -> str:
        """PKCE ``code_verifier``: 43 characters (RFC 7636 §4.1)."""
        return _base64url(self._derive(b"verifier"))

    @property
    def challenge(self) -> str:
        """PKCE ``code_challenge`` of method S256 (RFC 7636 §4.2)."""
        return _base64url(hashlib.sha256(self.verifier.encode()).digest())

    @property
    def nonce(self) -> str:
        """The ``nonce`` that the ID token must repeat."""
        return _base64url(self._derive(b"nonce"))

    def _derive(self, purpose: bytes) -> bytes:
        return hmac.digest(self.seed, purpose, "sha256")


@dataclass(frozen=True, slots=True)
class Ticket:
    """A login cookie: random text that ties states to a browser, and how many logins it began since when."""

    secret: str = field(repr=False)
    since: int
    begun: int

    @classmethod
    def parse(cls, value: str | None) -> Ticket | None:
        """The ticket of a cookie's value, or None if there is none of our shape."""
        match = TICKET_TEXT.fullmatch(value or "")
        return cls(match[1], int(match[2], 16), int(match[3])) if match else None

    @property
    def value(self) -> str:
        """The cookie's value."""
        return f"{self.secret}.{self.since:08x}.{self.begun}"

    @property
    def digest(self) -> bytes:
        """What a state names it by."""
        return hashlib.sha256(self.secret.encode()).digest()[:16]

    def next(self, now: float) -> Ticket:
        """The ticket after one more login was begun."""
        if not 0 <= now - self.since <= LOOP_WINDOW_S:
            return Ticket(self.secret, int(now), 1)
        return Ticket(self.secret, self.since, min(self.begun + 1, 999))

    def looping(self, now: float) -> bool:
        """Whether this browser began so many logins in so little time that one more makes no sense."""
        return self.begun >= MAX_BEGUN and 0 <= now - self.since <= LOOP_WINDOW_S


def new_ticket(random: Random, now: float) -> Ticket:
    """A ticket for a browser that has none."""
    return Ticket(_base64url(random(TICKET_SIZE)), int(now), 1)


def next_ticket(tickets: list[Ticket], random: Random, now: float) -> Ticket:
    """The ticket for one more login of a browser that brought these: its own again, so that its other logins go on.

    Raises ``StateError`` (looping) if it begins so many that something must be wrong. The caller sets it as a cookie.
    """
    if not tickets:
        return new_ticket(random, now)
    if tickets[0].looping(now):
        raise StateError(StateProblem.LOOPING)
    return tickets[0].next(now)


def begin(
    random: Random, now: float, ticket: Ticket, *, target: str = "", restarts: int = 0, post: str = ""
) -> LoginState:
    """A new login of a browser. A target too long to travel is left out: the login then ends at the external host."""
    if len(target) > rfc.MAX_TARGET or not target.isascii():
        target = ""
    return LoginState(random(SEED_SIZE), int(now), ticket.digest, target, restarts, post[:MAX_POST_KEY])


class Sealer:
    """Seals and opens the states of one provider."""

    __slots__ = ("_cipher",)

    def __init__(self, cookie_secret: str, client_id: str) -> None:
        info = b"outposts proxy login state\0" + client_id.encode()
        key = HKDF(SHA256(), 32, salt=b"outposts proxy", info=info).derive(cookie_secret.encode())
        self._cipher = AESGCM(key)

    def seal(self, state: LoginState, random: Random) -> str:
        """The parameter ``state``: base64url text."""
        content = _Sealed(VERSION, state.seed, state.issued, state.browser, state.target, state.restarts, state.post)
        nonce = random(NONCE_SIZE)
        return _base64url(nonce + self._cipher.encrypt(nonce, _encode(content), None))

    def open(self, text: str | None, now: float) -> LoginState:
        """A state that came back. Raises ``StateError``: missing, malformed or expired."""
        if not text:
            raise StateError(StateProblem.MISSING)
        if len(text) > MAX_STATE:
            raise StateError(StateProblem.MALFORMED)
        try:
            octets = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", validate=True)
            if _base64url(octets) != text:  # one text for one state: spare bits of the last character count too
                raise ValueError("not canonical")
            content = _decode(self._cipher.decrypt(octets[:NONCE_SIZE], octets[NONCE_SIZE:], None))
        except (ValueError, binascii.Error, UnicodeEncodeError, InvalidTag, msgspec.MsgspecError):
            raise StateError(StateProblem.MALFORMED) from None
        if content.version != VERSION:
            raise StateError(StateProblem.MALFORMED)
        state = LoginState(
            content.seed, content.issued, content.browser, content.target, content.restarts, content.post
        )
        if not -CLOCK_SKEW_S <= now - state.issued <= LIFETIME_S:
            raise StateError(StateProblem.EXPIRED, state)
        return state


def check_browser(state: LoginState, tickets: list[Ticket]) -> None:
    """Raise ``StateError`` unless one of a browser's login cookies is the one that the state was made for."""
    if not tickets:
        raise StateError(StateProblem.NO_COOKIE, state)
    if not any(hmac.compare_digest(ticket.digest, state.browser) for ticket in tickets):
        raise StateError(StateProblem.OTHER_COOKIE, state)


def restart(state: LoginState, random: Random, now: float, ticket: Ticket) -> LoginState:
    """The same login once more, for a browser whose cookie was overwritten. Raises ``StateError`` if that is a loop."""
    if state.restarts >= MAX_RESTARTS:
        raise StateError(StateProblem.LOOPING, state)
    return begin(random, now, ticket, target=state.target, restarts=state.restarts + 1, post=state.post)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a browser brings back from the core. "" is what was not there. ``error`` as in RFC 6749 §4.1.2.1."""

    code: str = field(default="", repr=False)
    state: str = field(default="", repr=False)
    error: str = ""
    description: str = ""


MAX_CODE = 4096  # characters; the core's codes have 32
MAX_SHOWN = 300  # characters of an error's text that are shown to a person


def answer_of(query: str) -> Answer:
    """The parameters of a callback. Raises ``StateError`` (malformed) if one stands there twice (RFC 6749 §3.1).

    The core appends errors with a second ``?`` to a redirect URI that has a query already, so that one separates too.
    """
    found: dict[str, str] = {}
    for pair in query.replace("?", "&").split("&"):
        name, _, value = pair.partition("=")
        if name in ("code", "state", "error", "error_description"):
            if name in found:
                raise StateError(StateProblem.MALFORMED)
            found[name] = unquote_plus(value, "utf-8", "replace")
    code = found.get("code", "")
    if len(code) > MAX_CODE or not code.isascii() or not code.isprintable():
        raise StateError(StateProblem.MALFORMED)
    return Answer(
        code,
        found.get("state", ""),
        _shown(found.get("error", "")),
        _shown(found.get("error_description", "")),
    )


def _shown(text: str) -> str:
    """Text of somebody else's as it may stand in a page or a log line."""
    return "".join(character for character in text[:MAX_SHOWN] if character.isprintable())


class UsedStates:
    """Keys of states that were used, until those expire anyway. Bounded; for one process."""

    def __init__(self, size: int = MAX_USED) -> None:
        self._size = size
        self._until: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def use(self, key: str, now: float, lifetime_s: float = LIFETIME_S + CLOCK_SKEW_S) -> bool:
        """Note a use. False if it is not the first one."""
        while self._until:
            oldest, until = next(iter(self._until.items()))
            if until > now and len(self._until) < self._size:
                break
            del self._until[oldest]
        if self._until.get(key, now) > now:
            return False
        self._until[key] = now + lifetime_s
        return True


def _base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()
