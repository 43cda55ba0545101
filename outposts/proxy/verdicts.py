"""What can become of a request: one class per answer. ``decision.py`` gives them, the server acts on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import NamedTuple
from urllib.parse import quote

from outposts.proxy.dialects import Dialect
from outposts.proxy.identity import Identity
from outposts.proxy.providers import ProxyProvider
from outposts.proxy.session import Session


class Passed(StrEnum):
    """Why a request may pass."""

    SESSION = "session"
    CREDENTIALS = "credentials"
    OPEN_PATH = "open_path"  # an unauthenticated path
    OPEN_NETWORK = "open_network"  # a network without login
    OWN_PATH = "own_path"  # nginx asks for the outpost's own paths too; the outpost answers them itself


class Allow(NamedTuple):
    """The request may pass. ``identity`` are the headers of the answer, or of the request to the application.

    ``session`` is None if nobody is logged in. ``used_authorization``: the client's ``Authorization`` was for us and
    must not reach the application.
    """

    provider: ProxyProvider
    identity: Identity
    session: Session | None
    why: Passed
    used_authorization: bool = False


class Reply(StrEnum):
    """How a browser is sent to the login."""

    REDIRECT = "redirect"  # 302 to the authorize URL
    UNAUTHORIZED = "unauthorized"  # 401 with that URL as ``Location``
    START = "start"  # 302 to ``Login.start``


class Login(NamedTuple):
    """Nobody is logged in and a browser asks: begin a login that ends at ``target`` ("": the external host)."""

    provider: ProxyProvider
    target: str
    reply: Reply
    keep_post: bool = False

    @property
    def start(self) -> str:
        """The URL that begins this login."""
        return f"{self.provider.start_url}?rd={quote(self.target, safe='')}" if self.target else self.provider.start_url


class Unauthorized(NamedTuple):
    """401 for what is no navigation, or for credentials that are not good (``challenge``). Sets no cookie."""

    provider: ProxyProvider
    challenge: bool = False

    @property
    def login_url(self) -> str:
        """Where a person may log in."""
        return self.provider.start_url


@dataclass(frozen=True, slots=True)
class Forbidden:
    """403: logged in, and in none of the groups that this path needs."""

    provider: ProxyProvider
    session: Session


@dataclass(frozen=True, slots=True)
class BadRequest:
    """400: the request can be read in two ways or in none. ``problem`` holds no octet of it."""

    problem: str


@dataclass(frozen=True, slots=True)
class NoProvider:
    """400 with the reference's JSON: this host is nobody's."""

    host: str


@dataclass(frozen=True, slots=True)
class Misconfigured:
    """500 ``configuration error``: the web server does not say what the original URL is."""

    provider: ProxyProvider | None
    dialect: Dialect
    problem: str


@dataclass(frozen=True, slots=True)
class NotFound:
    """404."""


@dataclass(frozen=True, slots=True)
class Ping:
    """204."""


@dataclass(frozen=True, slots=True)
class Static:
    """A packaged file; ``path`` is what follows ``P/static/``, raw."""

    path: str


@dataclass(frozen=True, slots=True)
class Start:
    """``P/start``: begin a login that ends at ``target`` ("": the external host)."""

    provider: ProxyProvider
    target: str


@dataclass(frozen=True, slots=True)
class Callback:
    """The core sent a browser back. ``providers`` are those of the host: the state's seal says whose it is."""

    providers: tuple[ProxyProvider, ...]
    query: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class LogoutNotice:
    """The core says with a logout token in the body that a login is over; ``providers`` are those of the host."""

    providers: tuple[ProxyProvider, ...]


@dataclass(frozen=True, slots=True)
class SignOut:
    """Somebody wants to be signed out; ``confirmed`` is False if another site may have made the browser ask."""

    provider: ProxyProvider
    values: tuple[str, ...] = field(repr=False)
    confirmed: bool


class CredentialKind(StrEnum):
    """Formats of ``Authorization`` that can be ours."""

    BEARER = "bearer"
    BASIC = "basic"


@dataclass(frozen=True, slots=True)
class Credential:
    """What a client brought in ``Authorization``. ``digest`` names it in caches. A bearer token is ``secret``."""

    kind: CredentialKind
    user: str
    secret: str = field(repr=False)
    digest: bytes = field(repr=False)


class Tried(Enum):
    """How the credentials of a request ended."""

    NOT_YET = "not_yet"
    REFUSED = "refused"  # the core says no
    UNKNOWN = "unknown"  # the core does not answer, or the attempt was throttled


@dataclass(frozen=True, slots=True)
class TryCredentials:
    """Ask the core about these, then ``judge`` again with the session that they gave, or with ``Tried``."""

    provider: ProxyProvider
    credential: Credential


@dataclass(frozen=True, slots=True)
class Renew:
    """The session's token is over: get a new one, then ``judge`` again; with None if there was none."""

    session: Session


Verdict = (
    Allow
    | Login
    | Unauthorized
    | Forbidden
    | BadRequest
    | NoProvider
    | Misconfigured
    | NotFound
    | Ping
    | Static
    | Start
    | Callback
    | LogoutNotice
    | SignOut
    | TryCredentials
    | Renew
)
