"""The flows of the fake core: a flow is a list of stages, a session walks through it as a browser would.

Behaves as recorded from a real core: a solved answer gives 302 to the same address, a wrong one 200 with the same
component and ``response_errors``; stages without a question run when they are reached; the session cookie changes at
the login; a POST may be the very first request; after the login a POST needs the CSRF header.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

JSON = dict[str, Any]

FLOW_INFO = {"title": "Stub", "background": "/b.jpg", "cancel_url": "/flows/-/cancel/", "layout": "stacked"}
REDIRECT: JSON = {"component": "xak-flow-redirect", "to": "/"}
CODE_REFUSED = "Invalid Token. Please ensure the time on your device is accurate and try again."


@dataclass
class Identification:
    """Asks for the name; with ``password`` for the password too."""

    password: bool = True


@dataclass
class Password:
    """Asks for the password; ``restart`` sends a wrong one back to the first stage without an error."""

    restart: bool = False


@dataclass
class Validate:
    """Asks for a code of whoever has one in ``People.codes``; others pass unasked. ``push`` adds a Duo device.

    ``email``: the codes come by mail to this (masked) address, when it is selected; ``People.mails`` counts.
    """

    push: bool = False
    email: str = ""


@dataclass
class Login:
    """Logs the user in; ``expires`` is the value of the session cookie's Expires attribute, None leaves it out."""

    expires: str | None = None


@dataclass
class Logout:
    """Ends the session."""


@dataclass
class Deny:
    """Answers access denied."""

    message: str = "denied"


@dataclass
class Ask:
    """Any challenge. ``endless`` accepts each answer and asks again."""

    component: str
    fields: JSON = field(default_factory=dict)
    endless: bool = False


Stage = Identification | Password | Validate | Login | Logout | Deny | Ask


@dataclass
class People:
    """Who may log in: passwords and codes by lower-case user name."""

    passwords: dict[str, str] = field(default_factory=dict)
    codes: dict[str, set[str]] = field(default_factory=dict)
    inactive: set[str] = field(default_factory=set)
    mails: list[str] = field(default_factory=list)  # whom a code was sent to

    def check(self, username: str, password: str) -> bool:
        """Whether this is an active user's password."""
        known = username.lower() in self.passwords and username.lower() not in self.inactive
        return known and self.passwords[username.lower()] == password


@dataclass
class Session:
    """One cookie's session: where it stands in which flow, and who it is."""

    sid: str = field(default_factory=lambda: secrets.token_hex(16))
    slug: str = ""
    position: int = 0
    username: str = ""
    authenticated: str = ""  # user name once logged in
    expires: str | None = None
    csrf: str = ""
    ended: bool = False

    @property
    def public_id(self) -> str:
        """The id under which the core announces its end."""
        return hashlib.sha256(self.sid.encode()).hexdigest()

    def cookie(self) -> str:
        """The value of ``authentik_session``: a token whose signature nobody but a core can check."""
        claims = {
            "sid": self.sid,
            "iss": "authentik",
            "sub": hashlib.sha256(self.authenticated.encode()).hexdigest() if self.authenticated else "anonymous",
            "authenticated": bool(self.authenticated),
            "acr": "goauthentik.io/core/default",
        }
        parts = [_b64(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
        signature = hmac.digest(b"stub", ".".join(parts).encode(), "sha256")
        return ".".join([*parts, _b64(signature)])


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def read_sid(cookie: str) -> str | None:
    """The ``sid`` of a session cookie's value."""
    try:
        payload = cookie.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return str(claims["sid"])
    except (IndexError, KeyError, ValueError):
        return None


class Executor:
    """Runs flows. ``flows`` may be changed at any time; ``sessions`` are by sid."""

    def __init__(self, people: People) -> None:
        self.people = people
        self.flows: dict[str, list[Stage]] = {
            "bind-flow": [Identification(), Validate(), Login()],
            "unbind-flow": [Logout()],
        }
        self.sessions: dict[str, Session] = {}

    def session_of(self, cookie: str | None) -> Session | None:
        """The living session of a cookie."""
        sid = read_sid(cookie) if cookie else None
        return self.sessions.get(sid) if sid else None

    def get(self, slug: str, session: Session) -> JSON:
        """The challenge that the session stands at; runs the stages that ask nothing."""
        stages = self.flows[slug]
        if session.slug != slug:
            session.slug, session.position = slug, 0
        while session.position < len(stages):
            stage = stages[session.position]
            if isinstance(stage, Login):
                self._login(session, stage)
            elif isinstance(stage, Logout):
                self.sessions.pop(session.sid, None)
                session.ended, session.authenticated = True, ""
            elif isinstance(stage, Validate) and not self._codes(session) and not stage.push:
                pass
            else:
                return self._challenge(stage, session)
            session.position += 1
        session.slug, session.position = "", 0
        return dict(REDIRECT)

    def post(self, slug: str, session: Session, answer: JSON, csrf: str | None) -> JSON | None:
        """Take an answer; None means solved (302), else the body of a 200."""
        if session.authenticated and csrf != session.csrf:
            return {"component": "ak-stage-flow-error", "request_id": secrets.token_hex(16)}
        challenge = self.get(slug, session)
        if challenge["component"] in ("xak-flow-redirect", "ak-stage-access-denied"):
            return challenge
        stage = self.flows[slug][session.position]
        errors = self._answer(stage, session, answer)
        if errors is not None:
            return challenge | {"response_errors": errors}
        if isinstance(stage, Password) and stage.restart and not session.username:
            session.position = 0
        elif not (isinstance(stage, Ask) and stage.endless):
            session.position += 1
        return None

    def _codes(self, session: Session) -> set[str]:
        return self.people.codes.get(session.username.lower(), set())

    def _login(self, session: Session, stage: Login) -> None:
        if not session.username or session.username.lower() in self.people.inactive:
            return
        self.sessions.pop(session.sid, None)
        session.sid = secrets.token_hex(16)
        session.authenticated, session.expires, session.csrf = session.username, stage.expires, secrets.token_hex(16)
        self.sessions[session.sid] = session

    def _challenge(self, stage: Stage, session: Session) -> JSON:
        common: JSON = {"flow_info": FLOW_INFO}
        if session.username:
            common |= {"pending_user": session.username, "pending_user_avatar": ""}
        match stage:
            case Identification():
                return common | {
                    "component": "ak-stage-identification",
                    "user_fields": ["username", "email"],
                    "password_fields": stage.password,
                    "captcha_stage": None,
                    "flow_designation": "authentication",
                    "primary_action": "Log in",
                    "sources": [],
                    "show_source_labels": False,
                }
            case Password():
                return common | {"component": "ak-stage-password", "recovery_url": None}
            case Validate():
                push: JSON = {"device_class": "duo", "device_uid": "7", "challenge": {}, "last_used": None}
                totp: JSON = {"device_class": "totp", "device_uid": "1", "challenge": {}, "last_used": None}
                mail: JSON = {**totp, "device_class": "email", "challenge": {"email": stage.email}}
                shown = [mail if stage.email else totp] if self._codes(session) else []
                shown += [push] if stage.push else []
                return common | {
                    "component": "ak-stage-authenticator-validate",
                    "device_challenges": shown,
                    "configuration_stages": [],
                }
            case Deny():
                return common | {"component": "ak-stage-access-denied", "error_message": stage.message}
            case Ask():
                return common | {"component": stage.component} | stage.fields
            case _:
                raise AssertionError(stage)

    def _answer(self, stage: Stage, session: Session, answer: JSON) -> JSON | None:
        """None if solved, else the ``response_errors``."""
        match stage:
            case Identification():
                name = str(answer.get("uid_field") or "")
                if not name:
                    return _error("non_field_errors", "No identification data provided.")
                if stage.password and not self.people.check(name, str(answer.get("password", ""))):
                    return _error("non_field_errors", "Failed to authenticate.")
                session.username = name
            case Password():
                if not self.people.check(session.username, str(answer.get("password", ""))):
                    if not stage.restart:
                        return _error("password", "Invalid password")
                    session.username = ""
            case Validate():
                if (answer.get("selected_challenge") or {}).get("device_class") == "email":
                    self.people.mails.append(session.username)
                if not any(key in answer for key in ("code", "duo", "webauthn")):
                    return _error("non_field_errors", "Empty response")
                if "code" in answer and answer["code"] not in self._codes(session):
                    return _error("code", CODE_REFUSED)
            case _:
                pass
        return None


def _error(key: str, text: str) -> JSON:
    return {key: [{"string": text, "code": "invalid"}]}
