"""A flow run as a generator: ``challenge = yield answer`` (core-contract §6.2–§6.5). No input, no output, no clock.

The generator yields an ``Answer`` to be POSTed, or None for a GET, and is sent the challenge that came back. It returns

- ``Ended``        the flow ended in a redirect; it says what the core accepted on the way. This is no success yet:
                   ``common/login.py`` alone decides that, with the session cookie and the access check;
- ``Denied`` or ``Unavailable``   the flow stopped;
- ``Surprise``     the flow did not begin as it was remembered to (only with ``opening``): begin again with a GET.

The limits: 20 answers, 3 redirects to the flow itself, and never the same answer to the same component twice. The last
one because a flow may restart silently after a wrong password; answering again would burn the user's attempts.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from common import challenges
from common.challenges import (
    AccessDenied,
    Answer,
    AuthenticatorValidate,
    Challenge,
    CodeAnswer,
    FlowError,
    Identification,
    IdentificationAnswer,
    Password,
    PasswordAnswer,
    Prompt,
    PushAnswer,
    Redirect,
    UserLogin,
    UserLoginAnswer,
)
from common.outcomes import Denied, Reason, Unavailable

MAX_ANSWERS = 20  # core-contract §6.2; the longest sensible flow has five
MAX_SELF_REDIRECTS = 3  # C40
SEPARATOR = ";"  # between password and code (core-contract §6.4)
TOTP_LENGTH = 6
STATIC_LENGTH = 8
CODE_CLASSES = frozenset({"totp", "static", "sms", "email"})  # devices that a code can be for
NAMING = "ak-stage-identification"  # the stage whose answer holds a user name
DIGITS = frozenset("0123456789")
ALPHANUMERICS = DIGITS | frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


@dataclass(frozen=True)
class Ended:
    """The flow ended in a redirect. What the core took without complaint on the way, when it had asked for it.

    ``named``: a user name was sent, so the user may be whoever the client said, not whom a certificate named.
    """

    password_accepted: bool = False
    code_accepted: bool = False
    push_accepted: bool = False
    to: str = "/"
    named: bool = False


@dataclass(frozen=True)
class Surprise:
    """The flow did not begin as remembered."""


Result = Ended | Denied | Unavailable | Surprise
Run = Generator[Answer | None, Challenge, Result]


def split_code(password: str) -> tuple[str, str | None]:
    """``password;code`` → both; None where the text after the last separator cannot be a code.

    Six ASCII digits, or eight ASCII letters and digits.
    """
    head, separator, tail = password.rpartition(SEPARATOR)
    if separator and (
        (len(tail) == TOTP_LENGTH and DIGITS.issuperset(tail))
        or (len(tail) == STATIC_LENGTH and ALPHANUMERICS.issuperset(tail))
    ):
        return head, tail
    return password, None


@dataclass(frozen=True)
class Solver:
    """Answers challenges from what the client brought.

    Without ``mfa_support`` nothing is split and the whole password is the code too, so that a flow which asks for a
    code alone works.
    """

    username: str
    password: str = field(repr=False)
    code: str | None = field(repr=False)
    remember_me: bool = False
    certificate_only: bool = False

    @classmethod
    def without_password(cls, username: str) -> Solver:
        """For a client that brought a certificate and nothing else: whatever asks for more ends the flow."""
        return cls(username, "", None, certificate_only=True)

    @classmethod
    def of(cls, username: str, password: str, *, mfa_support: bool, remember_me: bool = False) -> Solver:
        """From a single password field."""
        if mfa_support:
            secret, code = split_code(password)
        else:
            secret, code = password, password or None
        return cls(username, secret, code, remember_me)

    def opening(self) -> IdentificationAnswer:
        """The answer for a flow that is known to begin with user name and password."""
        return IdentificationAnswer(uid_field=self.username, password=self.password)

    def answer(self, challenge: Challenge) -> Answer | Denied:
        """The answer, or why there is none."""
        solve = SOLVERS.get(type(challenge))
        if solve is None:
            return Denied(
                Reason.UNSUPPORTED_CHALLENGE,
                f"unsupported challenge type {challenge.component}",
                challenge.component,
            )
        return solve(self, challenge)

    def _identify(self, challenge: Challenge) -> Answer | Denied:
        assert isinstance(challenge, Identification)
        if challenge.captcha_stage is not None:
            return Denied(Reason.UNSUPPORTED_CHALLENGE, "the flow asks for a captcha", challenge.component)
        if self.certificate_only and challenge.password_fields:
            return Denied(Reason.PASSWORD_WANTED, "the flow asks for a password", challenge.component)
        if self.certificate_only and not self.username:
            return Denied(Reason.NAME_WANTED, "the flow asks for a user name", challenge.component)
        if challenge.password_fields:
            return self.opening()
        return IdentificationAnswer(uid_field=self.username)

    def _password(self, challenge: Challenge) -> Answer | Denied:
        if self.certificate_only:
            return Denied(Reason.PASSWORD_WANTED, "the flow asks for a password", challenge.component)
        return PasswordAnswer(password=self.password)

    def _second_factor(self, challenge: Challenge) -> Answer | Denied:
        """A code if there is one and it can be for a device; else a push; else nothing fits."""
        assert isinstance(challenge, AuthenticatorValidate)
        devices = challenge.device_challenges or []
        if self.code and any(device.device_class in CODE_CLASSES for device in devices):
            return CodeAnswer(code=self.code)
        for device in devices:
            if device.device_class == "duo" and str(device.device_uid).isascii() and str(device.device_uid).isdigit():
                return PushAnswer(selected_challenge=device, duo=int(device.device_uid))
        return Denied(Reason.NO_AUTHENTICATOR, "no compatible authenticator", challenge.component)

    def _stay(self, challenge: Challenge) -> Answer | Denied:
        return UserLoginAnswer(remember_me=self.remember_me)


SOLVERS: dict[type[Challenge], Callable[[Solver, Challenge], Answer | Denied]] = {
    Identification: Solver._identify,
    Password: Solver._password,
    AuthenticatorValidate: Solver._second_factor,
    UserLogin: Solver._stay,
}


def asks_both(challenge: Challenge) -> bool:
    """Whether a first challenge wants user name and password in one answer, and nothing that we cannot give."""
    return isinstance(challenge, Identification) and bool(challenge.password_fields) and challenge.captcha_stage is None


def proves(answer: Answer) -> str:
    """Which proof an answer carries: "password", "code", "push", or "" for none. An empty one proves nothing."""
    if isinstance(answer, IdentificationAnswer | PasswordAnswer):
        return "password" if answer.password else ""
    if isinstance(answer, CodeAnswer):
        return "code" if answer.code else ""
    return "push" if isinstance(answer, PushAnswer) else ""


def run(solver: Solver, executor_path: str, *, opening: bool = False) -> Run:
    """Run a flow. ``executor_path`` is the flow's own path, to tell a detour from the end.

    ``opening``: the flow is known to begin with user name and password, so the first thing sent is that answer.
    """
    sent: set[tuple[str, bytes]] = set()
    accepted: set[str] = set()
    self_redirects = 0
    answer: Answer | None = solver.opening() if opening else None
    while True:
        challenge = yield answer
        if answer is not None:
            sent.add((answer.component, challenges.encode(answer)))
        last = answer
        # A redirect to the flow itself leaves open what became of the answer: look again.
        while isinstance(challenge, Redirect) and _is_own(challenge.to, executor_path):
            self_redirects += 1
            if self_redirects > MAX_SELF_REDIRECTS:
                return Denied(Reason.TOO_DEEP, "the flow redirects to itself", challenge.component)
            challenge = yield None

        if opening and len(sent) == 1 and last is not None and _is_surprise(challenge):
            return Surprise()
        stopped = _stopped(challenge)
        if stopped is not None:
            return stopped
        # No complaint, and the flow went on to something else: the last answer was taken.
        if last is not None and challenge.component != last.component:
            accepted.add(proves(last))
        if isinstance(challenge, Redirect):
            named = any(component == NAMING for component, _ in sent)
            return Ended("password" in accepted, "code" in accepted, "push" in accepted, challenge.to or "", named)

        if isinstance(challenge, Prompt) and challenge.wants_new_password and "password" in accepted:
            return Denied(Reason.NEW_PASSWORD_WANTED, "the flow asks for a new password", challenge.component)
        solved = solver.answer(challenge)
        if isinstance(solved, Denied):
            return solved
        if (solved.component, challenges.encode(solved)) in sent:
            return Denied(Reason.FLOW_RESTARTED, "flow restarted", challenge.component)
        if len(sent) >= MAX_ANSWERS:
            return Denied(Reason.TOO_DEEP, f"more than {MAX_ANSWERS} answers", challenge.component)
        answer = solved


def _is_own(to: str | None, executor_path: str) -> bool:
    """Whether a redirect leads to the flow's own executor, with or without the core's sub-path or origin."""
    try:
        path = urlsplit(to or "").path
    except ValueError:
        return False
    return path == executor_path or path.endswith(executor_path)


def _is_surprise(challenge: Challenge) -> bool:
    """Whether the answer to an opening shows that it went to another kind of stage, or nowhere."""
    if isinstance(challenge, FlowError):
        return True
    return challenge.refusal is not None and not isinstance(challenge, Identification)


def _stopped(challenge: Challenge) -> Denied | Unavailable | None:
    """The end by refusal or by error, if the challenge is one."""
    if isinstance(challenge, FlowError):
        return Unavailable(
            Reason.FLOW_ERROR, f"the core failed inside the flow [request {challenge.request_id or '-'}]"
        )
    if isinstance(challenge, AccessDenied):
        return Denied(Reason.FLOW_DENIED, challenge.error_message or "", challenge.component)
    refusal = challenge.refusal
    if refusal is not None:
        return Denied(Reason.INVALID_CREDENTIALS, refusal, challenge.component)
    return None
