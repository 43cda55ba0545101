"""What a login asks for and how it ends: ``Passed``, ``Denied`` or ``Unavailable``. Facts only, no decisions.

``Passed`` is made in one place, ``common/login.py``. ``Denied`` says that the core, or our own success rule, refused
this login. ``Unavailable`` says that nobody could tell; a protocol that can tell the two apart must do so
(core-contract §6.3). A login begun with ``interactive`` may also stand still as ``Paused``, at a question to a person.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Reason(StrEnum):
    """Why a login did not pass; compares equal to its text, which is what logs and metrics show."""

    # Denied
    INVALID_CREDENTIALS = "invalid_credentials"  # the core answered response_errors
    FLOW_DENIED = "flow_denied"  # ak-stage-access-denied: a deny stage or a policy
    FLOW_RESTARTED = "flow_restarted"  # the flow asked again for an answer that it already had
    ACCESS_DENIED = "access_denied"  # the flow passed, the application's bindings did not
    PASSWORD_NOT_ASKED = "password_not_asked"  # noqa: S105 - the flow ended without looking at password or code
    PASSWORD_WANTED = "password_wanted"  # noqa: S105 - a certificate alone was brought and the flow asks for more
    NAME_WANTED = "name_wanted"  # a certificate alone was brought and the flow asks for a user name
    CERTIFICATE_NOT_DECISIVE = "certificate_not_decisive"  # nothing shows that anybody verified the certificate
    IDENTITY_MISMATCH = "identity_mismatch"  # the session is another user's than the certificate's
    NOT_AUTHENTICATED = "not_authenticated"  # the flow ended and nobody is logged in
    NEW_PASSWORD_WANTED = "new_password_wanted"  # noqa: S105 - the password is right, and the flow asks for another one
    UNSUPPORTED_CHALLENGE = "unsupported_challenge"  # a stage that needs a browser
    NO_AUTHENTICATOR = "no_compatible_authenticator"  # a second factor is due and none fits this protocol
    MFA_UNSUPPORTED = "mfa_unsupported"  # a second factor is due and only a browser could give it
    CHALLENGE_EXPIRED = "challenge_expired"  # a person's answer came too late, or a second time
    TOO_DEEP = "too_many_steps"  # more answers or self-redirects than a flow may take
    # Unavailable
    CORE_UNAVAILABLE = "core_unavailable"  # no answer, 429, 5xx
    DEADLINE = "deadline"  # the login's time budget is used up
    CORE_REFUSED = "core_refused"  # 4xx where none is expected: flow or provider gone, token refused
    FLOW_ERROR = "flow_error"  # ak-stage-flow-error: an exception inside the core
    NONSENSE = "nonsense"  # an answer of the wrong type or shape
    STORE_UNAVAILABLE = "store_unavailable"  # the store that replicas share does not answer
    INTERNAL = "internal"  # a defect of ours; never a success


@dataclass(frozen=True)
class Credentials:
    """What a client brought. ``client_ip`` may be in any literal form; it is normalised before it is sent.

    ``certificate_pem`` is the client's leaf certificate, whose key the client proved to hold; it goes to the core and
    never replaces the flow. ``certificate_only``: the client brought no password, so the certificate has to be the
    proof (``common/login.py`` says when it is); ``certificate_trusted``: the outpost itself verified its issuer.
    """

    username: str
    password: str = field(repr=False)
    client_ip: str
    certificate_pem: str | None = field(default=None, repr=False)
    certificate_only: bool = False
    certificate_trusted: bool = False


@dataclass(frozen=True)
class LoginTarget:
    """Where a login goes: protocol, provider, flow and application, and what the protocol can do.

    ``mfa_support``: a code may follow the password after ``;``. ``remember_me``: sessions are cached on purpose.
    ``allow_push_only``: a flow that asks for neither password nor code but for a push may pass. ``want_user``: look the
    user up (key, name, groups) beside the access check. ``auto_consent``: consent stages are agreed to for the user.
    ``bind_identity``: a login by a certificate alone passes only as a user whom the certificate names; without, the
    core alone says whose it is, so a flow that asks for a name does not pass.
    """

    protocol: str  # "ldap" or "radius"
    provider_pk: int
    flow_slug: str
    application_slug: str
    mfa_support: bool
    remember_me: bool = False
    allow_push_only: bool = False
    want_user: bool = True
    auto_consent: bool = False
    bind_identity: bool = True


@dataclass(frozen=True)
class CoreSession:
    """A user's live session on the core.

    ``session_id`` is the SHA-256 hex of the session key, as SESSION_END names it. ``expires`` is in unix seconds; None
    when the core set no end (then a configured maximum holds, never "for ever").
    """

    cookies: Mapping[str, str] = field(repr=False)
    session_id: str | None
    expires: float | None
    protocol: str = "ldap"


@dataclass(frozen=True)
class Passed:
    """Logged in and allowed to use the application.

    ``attributes`` is RADIUS' base64 packet; ``used_code``: a second factor's code was part of the password field;
    ``used_push``: a push was confirmed, of which the password field shows nothing. ``email`` and ``groups`` (names of
    the user's groups, as ``users/me`` lists them) are known only if the user was looked up. ``core_request`` is the id
    under which the core has logged the flow's last call.
    """

    session: CoreSession
    user_pk: int | None
    username: str | None
    has_search_permission: bool
    attributes: str | None = field(repr=False)
    used_code: bool
    used_push: bool = False
    email: str | None = None
    groups: tuple[str, ...] = ()
    core_request: str = field(default="", compare=False)


@dataclass(frozen=True)
class Denied:
    """Refused. ``message`` is the core's own text for people; ``stage`` the component that refused.

    ``core_request``: as in ``Passed``; empty where the flow was not run.
    """

    reason: str
    message: str = ""
    stage: str = ""
    core_request: str = field(default="", compare=False)


@dataclass(frozen=True)
class Unavailable:
    """Not decided: the core could not be asked, or is set up so that it cannot answer."""

    reason: str
    message: str = ""


Outcome = Passed | Denied | Unavailable


class QuestionKind(StrEnum):
    """What a person is asked for."""

    PASSWORD = "password"  # noqa: S105 - the first factor, which the client did not bring
    CODE = "code"  # a one-time code
    CHOICE = "choice"  # which second factor, or a code at once
    PUSH = "push"  # confirm on another device, then answer anything
    FIELD = "field"  # a field of a prompt stage


@dataclass(frozen=True)
class Question:
    """What to show to a person: ``text`` is one line without control characters, ``echo`` whether typing may be seen.

    ``options`` are the numbered choices that the text already names. ``timeout_s``: seconds left for the answer, at
    the moment when the question was made.
    """

    text: str
    echo: bool
    kind: QuestionKind
    timeout_s: float
    options: tuple[str, ...] = ()


class Paused(ABC):
    """A login that waits for a person's answer; made by ``LoginService.begin`` and ``LoginService.restore``.

    It is used once: either ``answer`` or ``abandon``. A second answer, or one after the time is up, is ``Denied``
    (``challenge_expired``) and reaches nobody.
    """

    question: Question
    username: str  # the name that the login began with
    mistaken = False  # whether the question follows an answer of the person's that was no good: a guess, maybe

    @abstractmethod
    async def answer(self, text: str) -> Outcome | Paused:
        """Go on with what the person typed. Never raises (but for cancellation)."""

    @abstractmethod
    async def abandon(self) -> None:
        """Give up: nothing goes on in the background, and a session that was reached meanwhile is ended."""

    @abstractmethod
    def sealed(self, binding: bytes = b"") -> bytes | None:
        """Everything that is needed to go on elsewhere, encrypted; None if it can go on only here.

        ``binding`` must be the same at ``restore``. Whoever has put the sealed form away drops this object.
        """
