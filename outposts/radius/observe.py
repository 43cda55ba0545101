"""What is told about requests: one log line each and the metrics. Never a password, State, key or secret.

Dropped packets are counted, and written about at most once a minute for each client address and reason: whoever floods
this server must not fill its log. The same holds for rejects that cost the core nothing, where nothing shows that the
request comes from somebody who knows the secret.
"""

from __future__ import annotations

import asyncio
from typing import Any

from common import logs, metrics
from outposts.radius.intake import Copy, Drop, Notes
from outposts.radius.providers import RadiusProvider
from outposts.radius.request import UDP, Answer, Request, Silence
from outposts.radius.rfc import Attribute, Code

MAX_NAME = 253  # characters of a name that is logged; User-Name is no longer
MAX_MESSAGE = 1024  # characters of the core's own words about a refusal

RESULTS = {
    int(Code.ACCESS_ACCEPT): "accept",
    int(Code.ACCESS_REJECT): "reject",
    int(Code.ACCESS_CHALLENGE): "challenge",
    int(Code.ACCOUNTING_RESPONSE): "response",
}
SILENCE = "silence"
CODES = {int(code): code.name.lower() for code in (Code.ACCESS_REQUEST, Code.ACCOUNTING_REQUEST, Code.STATUS_SERVER)}
# Reasons that an operator can do something about, with what it probably is.
HINTS = {
    "bad_message_authenticator": "probably another shared secret on the client",
    "bad_authenticator": "probably another shared secret on the client",
    "no_message_authenticator": "have the client send it, or see x_radius_require_message_authenticator",
    "unknown_client": "in the client networks of no provider",
    "overload": "more requests in progress than x_radius_max_pending, or x_radius_max_pending_per_nas of this client",
    "exchange_rate": "more EAP conversations or challenges begun in one second than one client may",
}
# Silence where there is too much of something: a line for each would add to it.
TOO_MUCH = frozenset({"overload", "exchange_rate"})
# Rejects without a flow, which a packet without Message-Authenticator brings about, whoever has sent it.
FOR_NOTHING = frozenset(
    {
        "unsupported_auth",
        "no_user_name",
        "malformed_user_name",
        "no_password",
        "malformed_password",
        "undecodable_password",
        "empty_password",
        "certificate_required",
        "challenge_expired",
        "user_changed",
        "throttled",
    }
)
_MESSAGE_AUTHENTICATOR = int(Attribute.MESSAGE_AUTHENTICATOR)
_USER_NAME, _STATUS_SERVER = int(Attribute.USER_NAME), int(Code.STATUS_SERVER)

log = logs.get_logger("radius")
lines = logs.RequestLines("radius")


class Observations:
    """Counts and logs. ``outpost_name`` is set at each refresh; times are in seconds, monotonic."""

    def __init__(self) -> None:
        self._outpost_name = ""
        self._notes = Notes()
        self._histograms: dict[str, Any] = {}
        self._requests: dict[tuple[str, int, str], Any] = {}
        self._drops: dict[str, Any] = {}
        self._copies = metrics.Tally(metrics.radius_duplicates)

    @property
    def outpost_name(self) -> str:
        """The metric label of that name."""
        return self._outpost_name

    @outpost_name.setter
    def outpost_name(self, name: str) -> None:
        if name != self._outpost_name:
            self._outpost_name = name
            self._histograms.clear()
            self._requests.clear()
            self._drops.clear()

    def dropped(self, drop: Drop, client_ip: str, now: float) -> None:
        """A packet got no reply, and no second look."""
        self._count_drop(drop.reason)
        self._note(drop.reason, drop.provider, client_ip, now)

    def _note(self, reason: str, provider: RadiusProvider | None, client_ip: str, now: float) -> None:
        if self._notes.due(reason, client_ip, now):
            fields: dict[str, Any] = {"reason": reason, "client": client_ip}
            if provider is not None:
                fields["provider"] = provider.name
            if reason in HINTS:
                log.warning("packet dropped", **fields, hint=HINTS[reason])
            else:
                log.info("packet dropped", **fields)

    def unsigned(self, provider: RadiusProvider, client_ip: str) -> None:
        """A request without Message-Authenticator was taken."""
        metrics.radius_unsigned.inc()
        if self._notes.once("unsigned", client_ip):
            log.warning(
                "client sends no Message-Authenticator",
                client=client_ip,
                provider=provider.name,
                hint="its replies can be forged on the way (CVE-2024-3596): update the client",
            )

    def copied(self, copy: Copy, client_ip: str) -> None:
        """A copy of a recent packet came."""
        self._copies.inc()
        if log.enabled("debug"):
            log.debug("copy of a recent packet", client=client_ip, provider=copy.provider.name, again=bool(copy.reply))

    def finished(self, request: Request, outcome: Answer | Silence, took: float) -> None:
        """A request was answered, or met by silence."""
        provider, packet = request.provider, request.packet
        app = provider.application_slug
        result = RESULTS.get(outcome.code, "other") if isinstance(outcome, Answer) else SILENCE
        histogram = self._histograms.get(app)
        if histogram is None:
            histogram = metrics.Gathered(metrics.radius_requests_seconds.labels(self._outpost_name, app))
            self._histograms[app] = histogram
        histogram.observe(took)
        key = (app, packet.code, result)
        counter = self._requests.get(key)
        if counter is None:
            code = CODES[packet.code]
            counter = metrics.Tally(metrics.radius_requests.labels(self._outpost_name, app, code, result))
            self._requests[key] = counter
        counter.inc()
        if result == SILENCE:
            self._count_drop(outcome.reason)
        elif result == "reject":
            metrics.radius_rejected.labels(self._outpost_name, outcome.reason, app).inc()
        now = request.received_at + took
        if result == SILENCE and outcome.reason in TOO_MUCH:
            self._note(outcome.reason, provider, request.client_ip, now)
            return
        if (
            result == "reject"
            and outcome.reason in FOR_NOTHING
            and request.transport == UDP
            and packet.first(_MESSAGE_AUTHENTICATOR) is None
            and not self._notes.due(outcome.reason, request.client_ip, now)
        ):
            return
        # Watch-dogs ask every few seconds: that they were answered is nothing to tell every time.
        if log.enabled("info" if packet.code != _STATUS_SERVER else "debug"):
            self._line(request, outcome, result, took)

    def _count_drop(self, reason: str) -> None:
        counter = self._drops.get(reason)
        if counter is None:
            counter = self._drops[reason] = metrics.Tally(metrics.radius_dropped.labels(self._outpost_name, reason))
        counter.inc()

    def _line(self, request: Request, outcome: Answer | Silence, result: str, took: float) -> None:
        packet = request.packet
        user = outcome.username or (packet.first(_USER_NAME) or b"").decode("utf-8", "replace")
        fields: dict[str, Any] = {
            "requestId": request.id,
            "client": request.client_ip,
            "code": CODES[packet.code],
            "identifier": packet.identifier,
            "user": user[:MAX_NAME],
            "provider": request.provider.name,
            "result": result,
            "took-ms": round(took * 1000, 2),
        }
        if outcome.reason:
            fields["reason"] = outcome.reason
        if isinstance(outcome, Answer) and outcome.stage:
            fields["stage"] = outcome.stage
        if isinstance(outcome, Answer) and outcome.core_request:
            fields["core-request"] = outcome.core_request
        if outcome.message:
            fields["message"] = outcome.message[:MAX_MESSAGE]
        if lines.add("request", fields):
            # Written at the end of this turn of the loop, with the lines of all requests that it serves.
            asyncio.get_running_loop().call_soon(lines.write)
