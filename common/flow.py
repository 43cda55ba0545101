"""A flow run as a generator: ``challenge = yield answer`` (core-contract §6.2–§6.5). No input, no output, no clock.

The generator yields an ``Answer`` to be POSTed, or None for a GET, and is sent the challenge that came back. It returns

- ``Ended``        the flow ended in a redirect; it says what the core accepted on the way. This is no success yet:
                   ``common/login.py`` alone decides that, with the session cookie and the access check;
- ``Denied`` or ``Unavailable``   the flow stopped;
- ``Surprise``     the flow did not begin as it was remembered to (only with ``opening``): begin again with a GET;
- ``Asked``        a person has to answer first (only with ``person``). ``heard`` turns what was typed into an answer,
                   and a new run with the same ``Progress`` goes on with it.

The limits: 20 answers, 3 redirects to the flow itself, and never the same answer to the same component twice. The last
one because a flow may restart silently after a wrong password; answering again would burn the user's attempts.
"""

from __future__ import annotations

import hashlib
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
    Consent,
    ConsentAnswer,
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
from common.dialogue import Ask, Person, Typed
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


@dataclass(frozen=True)
class Asked:
    """A person has to answer ``ask``, which is about ``challenge``."""

    ask: Ask
    challenge: Challenge


@dataclass
class Progress:
    """How far a flow has come; plain data, so that a paused one can be put away.

    ``sent``: digests of the answers; ``accepted``: which proofs the core took; ``named``: a user name was sent.
    """

    sent: set[bytes] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)
    self_redirects: int = 0
    named: bool = False

    def note(self, answer: Answer) -> None:
        """An answer was sent."""
        self.sent.add(_digest(answer))
        self.named = self.named or answer.component == NAMING

    def knows(self, answer: Answer) -> bool:
        """Whether this very answer was sent before."""
        return _digest(answer) in self.sent


def _digest(answer: Answer) -> bytes:
    return hashlib.sha256(answer.component.encode() + b"\0" + challenges.encode(answer)).digest()


Result = Ended | Denied | Unavailable | Surprise | Asked
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

    Without ``mfa_support`` nothing is split and the whole password is the code too (``whole``), so that a flow which
    asks for a code alone works.
    """

    username: str
    password: str = field(repr=False)
    code: str | None = field(repr=False)
    remember_me: bool = False
    certificate_only: bool = False
    auto_consent: bool = False
    whole: bool = False

    @classmethod
    def without_password(cls, username: str, *, auto_consent: bool = False) -> Solver:
        """For a client that brought a certificate and nothing else: whatever asks for more ends the flow."""
        return cls(username, "", None, certificate_only=True, auto_consent=auto_consent)

    @classmethod
    def of(
        cls,
        username: str,
        password: str,
        *,
        mfa_support: bool,
        remember_me: bool = False,
        auto_consent: bool = False,
    ) -> Solver:
        """From a single password field."""
        if mfa_support:
            secret, code = split_code(password)
        else:
            secret, code = password, password or None
        return cls(username, secret, code, remember_me, auto_consent=auto_consent, whole=not mfa_support)

    def with_password(self, password: str) -> Solver:
        """The same with a password that came later."""
        return Solver.of(
            self.username,
            password,
            mfa_support=not self.whole,
            remember_me=self.remember_me,
            auto_consent=self.auto_consent,
        )

    def has_code(self, progress: Progress) -> bool:
        """Whether the client brought a code. A password that was taken as such is none."""
        return bool(self.code) and not (self.whole and "password" in progress.accepted)

    def opening(self) -> IdentificationAnswer:
        """The answer for a flow that is known to begin with user name and password."""
        return IdentificationAnswer(uid_field=self.username, password=self.password)

    def answer(self, challenge: Challenge) -> Answer | Denied:
        """The answer, or why there is none."""
        solve = SOLVERS.get(type(challenge))
        return solve(self, challenge) if solve is not None else _unsupported(challenge)

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

    def _agree(self, challenge: Challenge) -> Answer | Denied:
        assert isinstance(challenge, Consent)
        if self.auto_consent and isinstance(challenge.token, str):
            return ConsentAnswer(token=challenge.token)
        return _unsupported(challenge)


def _unsupported(challenge: Challenge) -> Denied:
    return Denied(
        Reason.UNSUPPORTED_CHALLENGE, f"unsupported challenge type {challenge.component}", challenge.component
    )


SOLVERS: dict[type[Challenge], Callable[[Solver, Challenge], Answer | Denied]] = {
    Identification: Solver._identify,
    Password: Solver._password,
    AuthenticatorValidate: Solver._second_factor,
    Consent: Solver._agree,
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


def run(
    solver: Solver,
    executor_path: str,
    *,
    opening: bool = False,
    person: Person | None = None,
    progress: Progress | None = None,
    typed: Answer | None = None,
) -> Run:
    """Run a flow. ``executor_path`` is the flow's own path, to tell a detour from the end.

    ``opening``: the flow is known to begin with user name and password, so the first thing sent is that answer.
    ``person``: somebody may be asked. ``progress`` and ``typed``: go on where an earlier run ended as ``Asked``, with
    what ``heard`` made of the person's text.
    """
    progress = progress or Progress()
    answer: Answer | None = solver.opening() if opening else typed
    while True:
        challenge = yield answer
        if answer is not None:
            progress.note(answer)
        last = answer
        # A redirect to the flow itself leaves open what became of the answer: look again.
        while isinstance(challenge, Redirect) and _is_own(challenge.to, executor_path):
            progress.self_redirects += 1
            if progress.self_redirects > MAX_SELF_REDIRECTS:
                return Denied(Reason.TOO_DEEP, "the flow redirects to itself", challenge.component)
            challenge = yield None

        if opening and len(progress.sent) == 1 and last is not None and _is_surprise(challenge):
            return Surprise()
        stopped = _stopped(challenge)
        solved: Answer | Ask | Denied | None = None
        if stopped is not None:
            if person is None or challenge.refusal is None or isinstance(challenge, FlowError | AccessDenied):
                return stopped
            solved = person.refused(challenge, last, typed=last is typed)
            if solved is None:
                return stopped
        elif last is not None and challenge.component != last.component:
            # No complaint, and the flow went on to something else: the last answer was taken.
            progress.accepted.add(proves(last))
            if person is not None:
                person.settled()
        if isinstance(challenge, Redirect):
            proofs = progress.accepted
            return Ended("password" in proofs, "code" in proofs, "push" in proofs, challenge.to or "", progress.named)

        if solved is None:
            solved = _solve(solver, person, progress, challenge)
        solved = _unless_repeated(progress, solved, challenge)
        if isinstance(solved, Denied):
            return solved
        if isinstance(solved, Ask):
            return Asked(solved, challenge)
        answer = solved


def _solve(solver: Solver, person: Person | None, progress: Progress, challenge: Challenge) -> Answer | Ask | Denied:
    """What follows a challenge that is no complaint: the person's business first, then what the client brought."""
    if person is not None:
        move = person.consider(challenge, password=bool(solver.password), code=solver.has_code(progress))
        if move is not None:
            return move
    elif isinstance(challenge, Prompt) and challenge.wants_new_password and "password" in progress.accepted:
        return Denied(Reason.NEW_PASSWORD_WANTED, "the flow asks for a new password", challenge.component)
    return solver.answer(challenge)


def _unless_repeated(progress: Progress, move: Answer | Ask | Denied, challenge: Challenge) -> Answer | Ask | Denied:
    """The move, unless what it would send was sent before, or too much was."""
    answer = move.push if isinstance(move, Ask) else move
    if isinstance(answer, Answer):
        if progress.knows(answer):
            return Denied(Reason.FLOW_RESTARTED, "flow restarted", challenge.component)
        if len(progress.sent) >= MAX_ANSWERS:
            return Denied(Reason.TOO_DEEP, f"more than {MAX_ANSWERS} answers", challenge.component)
    return move


def heard(
    solver: Solver, person: Person, progress: Progress, challenge: Challenge, text: str
) -> tuple[Solver, Answer | Ask | Denied]:
    """What a person's text about a challenge leads to, and the solver to go on with (it may have got a password).

    An answer is to be sent by ``run(…, typed=answer)``. One that was sent before is not sent again but is no good, as
    if the core had said so.
    """
    move = person.reply(challenge, text)
    if isinstance(move, Typed):
        solver = solver.with_password(move.password)
        move = solver.answer(challenge)
    if isinstance(move, Answer) and progress.knows(move):
        move = person.mistaken(challenge)
    return solver, _unless_repeated(progress, move, challenge)


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
