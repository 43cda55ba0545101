"""Recorded exchanges of a real core, and a transport that replays them and checks what it is asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import CoreUnavailable
from common.transport import Response

ROOT = Path(__file__).parent / "data" / "recordings"
EXECUTOR = "/api/v3/flows/executor/"

JSON = dict[str, Any]


def recording(folder: str, name: str) -> JSON:
    """One recording."""
    loaded: JSON = json.loads((ROOT / folder / f"{name}.json").read_text())
    return loaded


def names(folder: str) -> list[str]:
    """All recordings of a folder that hold exchanges."""
    return sorted(path.stem for path in (ROOT / folder).glob("*.json") if "exchanges" in json.loads(path.read_text()))


def header(exchange: JSON, name: str) -> str | None:
    """A header of the recorded request."""
    for key, value in exchange["request"]["headers"]:
        if key.lower() == name.lower():
            return str(value)
    return None


def runs(exchanges: Sequence[JSON]) -> list[list[JSON]]:
    """Cut a recording into runs: each begins with an executor call that brings no cookie."""
    found: list[list[JSON]] = []
    for exchange in exchanges:
        starts = exchange["request"]["path"].startswith(EXECUTOR) and header(exchange, "cookie") is None
        if starts or not found:
            found.append([])
        found[-1].append(exchange)
    return found


def response(exchange: JSON) -> Response:
    """The recorded answer."""
    recorded = exchange["response"]
    body = json.dumps(recorded["json"]) if recorded.get("json") is not None else recorded.get("body_text") or ""
    return Response.of(recorded["status"], [(key, value) for key, value in recorded["headers"]], body.encode())


@dataclass
class Sent:
    """A request that reached the transport."""

    method: str
    target: str
    headers: dict[str, str]
    body: JSON | None


@dataclass
class Replay:
    """A ``Transport`` that serves recorded answers.

    Calls of a flow must come in the recorded order with the recorded body (as far as ours is meant to be the same);
    the checks after it may come in any order. What was not recorded is noted and answered as "no answer".
    """

    exchanges: list[JSON]
    sent: list[Sent] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    served: set[int] = field(default_factory=set)

    async def request(
        self,
        method: str,
        target: str,
        *,
        headers: Sequence[tuple[str, str]],
        body: bytes | None = None,
        timeout_s: float,
    ) -> Response:
        """See ``Transport.request``."""
        sent = Sent(method, target, dict(headers), json.loads(body) if body is not None else None)
        self.sent.append(sent)
        if timeout_s <= 0:
            self.problems.append(f"{method} {target}: no time given")
        index = self._find(sent)
        if index is None:
            self.unanswered.append(f"{method} {target.partition('?')[0].removeprefix('/api/v3')}")
            raise CoreUnavailable(f"{method} {target}", "not recorded")
        self.served.add(index)
        self._compare(sent, self.exchanges[index], self._challenge_before(index))
        return response(self.exchanges[index])

    async def close(self) -> None:
        """Nothing to close."""

    def left_over(self) -> list[str]:
        """Recorded requests that were not made."""
        return [
            f"{exchange['request']['method']} {exchange['request']['path']}"
            for index, exchange in enumerate(self.exchanges)
            if index not in self.served
        ]

    def _find(self, sent: Sent) -> int | None:
        flow_call = sent.target.startswith(EXECUTOR)
        for index, exchange in enumerate(self.exchanges):
            if index in self.served:
                continue
            request = exchange["request"]
            if (request["method"], request["path"]) == (sent.method, sent.target):
                return index
            if flow_call and request["path"].startswith(EXECUTOR):
                return None
        return None

    def _challenge_before(self, index: int) -> JSON:
        for exchange in reversed(self.exchanges[:index]):
            challenge = exchange["response"].get("json")
            if isinstance(challenge, dict) and "component" in challenge:
                return challenge
        return {}

    def _compare(self, sent: Sent, exchange: JSON, challenge: JSON) -> None:
        text = exchange["request"].get("body_text")
        recorded = json.loads(text) if text else None
        if recorded is not None:
            if recorded["component"] == "ak-stage-identification" and challenge.get("password_fields") is False:
                recorded.pop("password", None)  # the reference sends it unasked; we must not
            if recorded["component"] == "ak-stage-authenticator-validate":
                recorded.pop("selected_challenge", None)  # with a code nothing is selected
        if recorded != sent.body:
            # Names only: a password does not belong into the text of a failed assertion.
            self.problems.append(f"{sent.method} {sent.target}: body differs in {_differences(recorded, sent.body)}")


def _differences(left: JSON | None, right: JSON | None) -> list[str]:
    left, right = left or {}, right or {}
    return sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))
