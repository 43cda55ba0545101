"""What is told about finished requests: one log line each and the metrics. Never a password, never an entry's content.

A search's line needs its filter as text; that is made only when the line is written.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

from common import logs, metrics
from outposts.ldap import routing
from outposts.ldap.auth import BindAnswer, Identity
from outposts.ldap.filter_text import to_text
from outposts.ldap.messages import BindRequest, SearchRequest
from outposts.ldap.rfc import ResultCode, Scope
from outposts.ldap.search import SearchAnswer
from outposts.ldap.wire import decode_request

SCOPES = {Scope.BASE: "Base Object", Scope.ONE: "Single Level", Scope.SUB: "Whole Subtree", Scope.CHILDREN: "Children"}
MAX_LOGGED_ATTRIBUTES = 50  # of one request
MAX_NAME = 512  # bytes or characters of a name that is logged; longer ones are nobody's
MAX_MESSAGE = 1024  # characters of the core's own words about a refusal

log = logs.get_logger("ldap")
lines = logs.RequestLines("ldap")


class Observations:
    """Counts and logs. ``outpost_name`` is set at each refresh. ``started`` everywhere is of ``time.monotonic``."""

    def __init__(self) -> None:
        self._outpost_name = ""
        self._histograms: dict[tuple[str, str], metrics.Gathered] = {}
        self._searches: dict[str, metrics.Gathered] = {}  # those of searches again, by application: the hottest way

    @property
    def outpost_name(self) -> str:
        """The metric label of that name."""
        return self._outpost_name

    @outpost_name.setter
    def outpost_name(self, name: str) -> None:
        if name != self._outpost_name:
            self._outpost_name = name
            self._histograms.clear()
            self._searches.clear()

    def bind(self, client_ip: str, name: bytes, answer: BindAnswer, started: float) -> None:
        """A bind was answered."""
        app = answer.provider.application_slug if answer.provider is not None else ""
        took = time.monotonic() - started
        self._observe("bind", app, took)
        if answer.reason:
            self._rejected("bind", answer.label, app)
        if log.enabled("info"):
            fields: dict[str, Any] = _why(answer) if answer.reason else {"cached": answer.cached}
            if answer.username:
                fields["sasl_user"] = answer.username[:MAX_NAME]
            self._line("bind", _text(name), client_ip, took, answer.code, **fields)

    def known_bind(self, client_ip: str, data: bytes, answer: BindAnswer, started: float) -> None:
        """A bind was answered without decoding ``data``, its whole message: decode it only for a line."""
        if not log.enabled("info"):
            app = answer.provider.application_slug if answer.provider is not None else ""
            self._observe("bind", app, time.monotonic() - started)
            return
        request = decode_request(data)
        if isinstance(request, BindRequest):
            self.bind(client_ip, request.name, answer, started)

    def search(
        self, client_ip: str, identity: Identity | None, request: SearchRequest, result: routing.Result, started: float
    ) -> None:
        """A search was answered."""
        took = time.monotonic() - started
        app = result.app
        self._observe("search", app, took)
        if result.reason:
            self._rejected("search", result.reason, app)
        if log.enabled("info"):
            fields: dict[str, Any] = {"reason": result.reason} if result.reason else {}
            self._line(
                "search",
                identity.dn if identity is not None else "",
                client_ip,
                took,
                result.code,
                baseDN=request.base.decode("utf-8", "replace"),
                scope=SCOPES.get(Scope(request.scope), str(request.scope)),
                filter=to_text(request.filter),
                attributes=[name.decode("utf-8", "replace") for name in request.attributes[:MAX_LOGGED_ATTRIBUTES]],
                entries=result.count,
                **fields,
            )

    def prepared_search(
        self, client_ip: str, identity: Identity, data: bytes, count: int, app: str, started: float
    ) -> None:
        """A search was answered without decoding ``data``, its whole message: decode it only for a line."""
        if not log.enabled("info"):
            histogram = self._searches.get(app)
            if histogram is None:
                self._observe("search", app, time.monotonic() - started)
                self._searches[app] = self._histograms["search", app]
            else:
                histogram.observe(time.monotonic() - started)
            return
        request = decode_request(data)
        if isinstance(request, SearchRequest):
            answer = SearchAnswer(ResultCode.SUCCESS, iter(()), count)
            self.search(client_ip, identity, request, routing.Result(answer, app), started)

    def other(self, client_ip: str, kind: str, identity: Identity | None, code: int, started: float) -> None:
        """Any other request was answered."""
        took = time.monotonic() - started
        self._observe(kind, "", took)
        if log.enabled("info"):
            self._line(kind, identity.dn if identity is not None else "", client_ip, took, code)

    def _line(self, kind: str, name: str, client_ip: str, took: float, code: int, **fields: Any) -> None:
        first = lines.add(
            kind,
            {
                "bindDN": name.lower(),
                "requestId": str(uuid.uuid4()),
                "client": client_ip,
                "took-ms": round(took * 1000, 2),
                "result": ResultCode(code).name.lower(),
                **fields,
            },
        )
        if first:
            # Written at the end of this turn of the loop, with the lines of all requests that it serves.
            asyncio.get_running_loop().call_soon(lines.write)

    def _observe(self, kind: str, app: str, took: float) -> None:
        histogram = self._histograms.get((kind, app))
        if histogram is None:
            of_kind = metrics.ldap_requests.labels(self._outpost_name, kind, app)
            histogram = self._histograms[kind, app] = metrics.Gathered(of_kind)
        histogram.observe(took)

    def _rejected(self, kind: str, reason: str, app: str) -> None:
        metrics.ldap_rejected.labels(self._outpost_name, kind, reason, app).inc()


def _why(answer: BindAnswer) -> dict[str, Any]:
    """Why a bind was refused: our reason, then who said so, as far as it got: provider, flow, stage, its message."""
    fields: dict[str, Any] = {"reason": answer.reason}
    if answer.provider is not None:
        fields |= {"provider": answer.provider.name, "flow": answer.provider.bind_flow_slug}
    if answer.stage:
        fields["stage"] = answer.stage
    if answer.message:
        fields["message"] = answer.message[:MAX_MESSAGE]
    return fields


def _text(name: bytes) -> str:
    return name[:MAX_NAME].decode("utf-8", "replace")
