"""A core behind the transport port: flow answers from a list, checks from a table, and every way to fail."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Sequence
from typing import Any

from common.errors import CoreNonsense, CoreTimedOut, CoreUnavailable
from common.login import Credentials, LoginService, LoginTarget, Outcome
from common.transport import Response
from tests.common.test_recorded_flows import Settings

FLOW = "/api/v3/flows/executor/f/"
TARGET = LoginTarget("ldap", 7, "f", "app", mfa_support=True)
ALICE = Credentials("alice", "hunter2", "192.0.2.55")
BOTH = {"component": "ak-stage-identification", "password_fields": True}
NAME = {"component": "ak-stage-identification", "password_fields": False}
REDIRECT = {"component": "xak-flow-redirect", "to": "/"}
PASSING = {"access": {"passing": True, "messages": [], "log_messages": []}, "has_search_permission": True}
ME = {"user": {"pk": 5, "username": "alice", "groups": []}}


def jwt(sid: str, authenticated: Any = True, **more: Any) -> str:
    """A session cookie like a core's; the signature is of no interest."""
    parts = [{"alg": "HS256", "typ": "JWT"}, {"sid": sid, "iss": "authentik", "authenticated": authenticated, **more}]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


def answer(body: Any = None, status: int = 200, *cookies: str, **headers: str) -> Response:
    """A JSON answer."""
    pairs = [("content-type", "application/json"), *((key.replace("_", "-"), value) for key, value in headers.items())]
    pairs += [("set-cookie", cookie) for cookie in cookies]
    return Response.of(status, pairs, json.dumps(body).encode())


def session(sid: str = "s1", authenticated: Any = True, attributes: str = "Path=/; HttpOnly; SameSite=Lax") -> str:
    """A ``Set-Cookie`` line of the session."""
    return f"authentik_session={jwt(sid, authenticated)}; {attributes}"


Step = Response | Exception | Callable[[], Response]


class Core:
    """A core whose flow answers come from a list, and whose checks come from a table."""

    def __init__(self, *steps: Step, **checks: Step) -> None:
        self.steps = list(steps)
        self.checks: dict[str, Step] = {
            "check_access": answer(PASSING),
            "users/me": answer(ME),
            "brands/current": answer({"flow_invalidation": "bye"}),
            **{key.replace("__", "/"): value for key, value in checks.items()},
        }
        self.calls: list[tuple[str, str, dict[str, str], Any]] = []
        self.timeouts: list[float] = []

    async def request(
        self,
        method: str,
        target: str,
        *,
        headers: Sequence[tuple[str, str]],
        body: bytes | None = None,
        timeout_s: float,
    ) -> Response:
        names = [name.lower() for name, _ in headers]
        assert len(names) == len(set(names))
        lower = {name.lower(): value for name, value in headers}
        self.calls.append((method, target, lower, json.loads(body) if body is not None else None))
        self.timeouts.append(timeout_s)
        step: Step
        if "/flows/executor/" in target:
            assert self.steps, f"not expected: {method} {target}"
            step = self.steps.pop(0)
        else:
            step = next(value for key, value in self.checks.items() if key in target)
        await asyncio.sleep(0)
        if isinstance(step, Exception):
            raise step
        return step if isinstance(step, Response) else step()

    async def close(self) -> None:
        """Nothing."""

    def posts(self) -> list[Any]:
        """Bodies of all answers."""
        return [body for method, _, _, body in self.calls if method == "POST"]

    def asked(self, part: str) -> int:
        """How many calls had this in their target."""
        return sum(part in target for _, target, _, _ in self.calls)


async def log_in(
    core: Core, target: LoginTarget = TARGET, who: Credentials = ALICE, service: LoginService | None = None
) -> Outcome:
    """One login."""
    return await (service or LoginService(core, Settings("outpost-token"), now=lambda: 1000.0)).login(target, who)


def moved(location: str = FLOW + "?query=x", *cookies: str, status: int = 302) -> Response:
    """A redirect as a core makes it: no body, HTML."""
    pairs = [("content-type", "text/html"), ("location", location), *(("set-cookie", line) for line in cookies)]
    return Response.of(status, pairs)


GOOD: tuple[Step, ...] = (answer(BOTH, 200, session("s0", False)), moved(), answer(REDIRECT, 200, session("s1")))


HTML = Response.of(200, [("content-type", "text/html")], b"<h1>hello</h1>")
TRUNCATED = Response.of(200, [("content-type", "application/json")], b'{"component": "xak-flow-red')
FAULTS: dict[str, tuple[Step, str]] = {
    "time-out": (CoreTimedOut("GET x", "late"), "deadline"),
    "no answer": (CoreUnavailable("GET x", "reset"), "core_unavailable"),
    "rubbish": (CoreNonsense("GET x", "rubbish"), "nonsense"),
    "500": (answer({"detail": "x"}, 500), "core_unavailable"),
    "502 html": (Response.of(502, [("content-type", "text/html")], b"<h1>"), "core_unavailable"),
    "503 booting": (answer({"error": "authentik starting"}, 503, retry_after="5"), "core_unavailable"),
    "429": (answer({"detail": "slow"}, 429), "core_unavailable"),
    "404 html": (Response.of(404, [("content-type", "text/html")], b"<h1>"), "core_refused"),
    "403": (answer({"detail": "CSRF Failed"}, 403), "core_refused"),
    "400": (answer({}, 400), "core_refused"),
    "html": (HTML, "nonsense"),
    "truncated": (TRUNCATED, "nonsense"),
    "empty": (Response.of(200, [("content-type", "application/json")]), "nonsense"),
    "204": (Response.of(204, []), "nonsense"),
    "redirect to nowhere": (Response.of(302, []), "nonsense"),
    "flow error": (answer({"component": "ak-stage-flow-error", "request_id": "r"}), "flow_error"),
    "defect": (ZeroDivisionError("x"), "internal"),
}
