"""Accounting (RFC 2866): what the network gear reports of the sessions that we let in.

``Accounting.record`` notes one Accounting-Request and returns when it is noted; only then the caller may answer,
because the client forgets what was answered (RFC 2866 §2). Noting is: the table of open sessions in memory, a log line,
metrics, and, where the operator wants it, a ``Journal`` that outlives the process.

::

    Start    → the session is open                     On, Off  → all sessions of that client are over
    Interim  → open, newer counters                    others   → logged, the table stays as it is
    Stop     → over

Packets may come twice, late or out of order. Acct-Delay-Time and Event-Timestamp say when something happened, and what
is older than a session's end does not open it again. The table is bounded by count and by age.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from common import logs, metrics
from common.errors import OutpostError
from outposts.radius.providers import RadiusProvider
from outposts.radius.reports import Client, Report, read
from outposts.radius.request import Answer, Request, Silence
from outposts.radius.rfc import AcctStatusType, Code
from outposts.radius.wire import Attributes, Packet

log = logs.get_logger("radius.accounting")

MAX_SESSIONS = 50_000  # open sessions kept in memory, about 1.9 KiB each; beyond, the one heard of longest ago goes
STALE_AFTER_S = 86_400.0  # a session not heard of for a day has lost its Stop: interim reports come every few minutes
STALE = "stale"  # why such a session has ended, beside the causes of RFC 2866 §5.10
MAX_ENDED = 10_000  # ends remembered, so that a late Start or Interim does not open the session again
ENDED_TTL_S = 300.0  # how long an end is remembered; clients repeat a report for some 30 s, proxies for minutes
EVENT_ACTION = "custom_radius_accounting"  # "custom_": what the core leaves to others (core-contract, events)
MAX_EVENTS = 1_000  # events for the core that wait for their turn; beyond, they are left out and counted
OPENING = (AcctStatusType.START, AcctStatusType.INTERIM_UPDATE)
CLEARING = (AcctStatusType.ACCOUNTING_ON, AcctStatusType.ACCOUNTING_OFF)


def cause_of(status: AcctStatusType) -> str:
    """Why all sessions of a client end (RFC 2866 §5.10): it has begun anew, or says that it stops."""
    return "nas_reboot" if status == AcctStatusType.ACCOUNTING_ON else "nas_request"


class NotRecorded(OutpostError):
    """A report could not be noted for good; it must not be answered, so that the client sends it again."""

    retryable = True


Key = tuple[Client, str]  # a session: Acct-Session-Id is unique within one client only (RFC 2866 §5.5)


@dataclass(frozen=True, slots=True)
class Session:
    """A session as last reported. ``ended_at`` None: open."""

    client: Client
    session_id: str
    application_slug: str
    provider_name: str
    user_name: str
    calling_station_id: str
    called_station_id: str
    framed_ip: str
    nas_port: int | None
    class_: bytes = field(repr=False)
    multi_session_id: str
    started_at: float
    updated_at: float
    input_octets: int
    output_octets: int
    session_time_s: int
    ended_at: float | None = None
    terminate_cause: str = ""
    names: Attributes = field(default=(), repr=False)  # as in the last report; not in a journal

    @property
    def key(self) -> Key:
        """What tells it from others."""
        return (self.client, self.session_id)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a report has changed: ``session`` is the one it speaks of, ``ended`` all that are over now."""

    report: Report
    session: Session | None = None
    ended: tuple[Session, ...] = ()
    input_octets: int = 0  # new since the last report
    output_octets: int = 0


class Journal(Protocol):
    """A record that outlives the process."""

    async def note(self, recorded: Recorded) -> None:
        """Returns when it is safe. Raises ``NotRecorded``."""

    async def open_sessions(self) -> Sequence[Session]:
        """Sessions without an end, to start from."""

    async def close(self) -> None:
        """Write what is left and let go."""


class Sessions:
    """Open sessions. Times are unix seconds and arguments; see the module for the rules."""

    def __init__(self, max_sessions: int = MAX_SESSIONS, stale_after_s: float = STALE_AFTER_S) -> None:
        self.max_sessions = max_sessions
        self.stale_after_s = stale_after_s
        self._open: OrderedDict[Key, Session] = OrderedDict()  # the one heard of longest ago first
        self._by_address: dict[tuple[int, str], set[Key]] = {}
        self._ended: OrderedDict[Key, tuple[float, float]] = OrderedDict()  # (when it ended, when to forget that)

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._open.values()))

    def get(self, key: Key) -> Session | None:
        """An open session."""
        return self._open.get(key)

    def restore(self, sessions: Sequence[Session]) -> None:
        """Start from what a journal holds."""
        for session in sorted(sessions, key=lambda one: one.updated_at)[-self.max_sessions :]:
            if session.ended_at is None and session.key not in self._open:
                self._put(session)

    def weigh(self, report: Report) -> Recorded:
        """What a report means, before anything is changed."""
        if report.status in CLEARING:
            address = (report.client.provider_pk, report.client.address)
            meant = [self._open[key] for key in self._by_address.get(address, ()) if key[0].is_meant_by(report.client)]
            # A session that began after the restart which this speaks of is not meant: its report was faster.
            cause = cause_of(report.status)
            return Recorded(
                report,
                ended=tuple(
                    over(session, report.happened_at, cause)
                    for session in sorted(meant, key=lambda one: one.session_id)
                    if session.started_at <= report.happened_at
                ),
            )
        if not report.session_id or report.status not in (*OPENING, AcctStatusType.STOP):
            return Recorded(report)
        key = (report.client, report.session_id)
        old = self._open.get(key)
        end = self._ended.get(key)
        if old is None and end is not None and report.happened_at <= end[0]:
            return Recorded(report)  # a copy, or older than the end
        session = _merged(old, report)
        if report.status == AcctStatusType.STOP:
            session = over(session, max(report.happened_at, session.started_at), report.terminate_cause)
        return Recorded(
            report,
            session,
            (session,) if session.ended_at is not None else (),
            max(0, session.input_octets - (old.input_octets if old else 0)),
            max(0, session.output_octets - (old.output_octets if old else 0)),
        )

    def settle(self, recorded: Recorded) -> tuple[Session, ...]:
        """Make it so. Returns the sessions that had to go for lack of room."""
        now = recorded.report.heard_at
        for session in recorded.ended:
            self._remove(session.key)
            self._ended[session.key] = (session.ended_at or now, now + ENDED_TTL_S)
            self._ended.move_to_end(session.key)
        while len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)
        if recorded.session is not None and recorded.session.ended_at is None:
            self._put(recorded.session)
        pushed_out = []
        while len(self._open) > self.max_sessions:
            pushed_out.append(next(iter(self._open.values())))
            self._remove(pushed_out[-1].key)
        return tuple(pushed_out)

    def undo(self, recorded: Recorded) -> None:
        """The ends in it are not safe yet: the sessions are open again, so that the next copy ends them again."""
        for session in recorded.ended:
            self._ended.pop(session.key, None)
            if session.key not in self._open:
                self._put(replace(session, ended_at=None, terminate_cause=""))

    def sweep(self, now: float) -> tuple[Session, ...]:
        """Take out and return the sessions that have not been heard of for too long."""
        while self._ended and next(iter(self._ended.values()))[1] <= now:
            self._ended.popitem(last=False)
        stale = []
        for session in self._open.values():
            if session.updated_at + self.stale_after_s > now:
                break
            stale.append(session)
        for session in stale:
            self._remove(session.key)
        return tuple(stale)

    def _put(self, session: Session) -> None:
        self._open[session.key] = session
        self._open.move_to_end(session.key)
        self._by_address.setdefault((session.client.provider_pk, session.client.address), set()).add(session.key)

    def _remove(self, key: Key) -> None:
        if self._open.pop(key, None) is None:
            return
        address = (key[0].provider_pk, key[0].address)
        keys = self._by_address[address]
        keys.discard(key)
        if not keys:
            del self._by_address[address]


def _merged(old: Session | None, report: Report) -> Session:
    """A session with what a report says of it; what the report leaves out stays."""
    lasted = report.session_time_s or 0
    return Session(
        client=report.client,
        session_id=report.session_id,
        application_slug=report.application_slug,
        provider_name=report.provider_name,
        user_name=report.user_name or (old.user_name if old else ""),
        calling_station_id=report.calling_station_id or (old.calling_station_id if old else ""),
        called_station_id=report.called_station_id or (old.called_station_id if old else ""),
        framed_ip=report.framed_ip or (old.framed_ip if old else ""),
        nas_port=report.nas_port if report.nas_port is not None else (old.nas_port if old else None),
        class_=report.class_ or (old.class_ if old else b""),
        multi_session_id=report.multi_session_id or (old.multi_session_id if old else ""),
        started_at=old.started_at if old else report.happened_at - lasted,
        updated_at=report.heard_at,
        # Counters only grow; a smaller one is a late report (or a Start, which has none).
        input_octets=max(report.input_octets or 0, old.input_octets if old else 0),
        output_octets=max(report.output_octets or 0, old.output_octets if old else 0),
        session_time_s=max(lasted, old.session_time_s if old else 0),
        names=report.names,
    )


def over(session: Session, at: float, cause: str) -> Session:
    """A session that has ended."""
    return replace(session, ended_at=at, terminate_cause=cause)


Event = Callable[[str, Mapping[str, Any], str | None], Awaitable[None]]


class Accounting:
    """Takes reports. ``clock`` gives unix seconds; ``report_event`` writes an event into the core's log.

    ``listeners`` hear of everything that was recorded. ``events`` says for which providers (by name) the core shall
    have an event of each report.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        journal: Journal | None = None,
        report_event: Event | None = None,
    ) -> None:
        self.sessions = Sessions()
        self.journal = journal
        self.listeners: list[Callable[[Recorded], None]] = []
        self.started = False
        self.events: Callable[[str], bool] = lambda _provider: False
        self._clock = clock
        self._report_event = report_event
        self._waiting: asyncio.Queue[Recorded] = asyncio.Queue(MAX_EVENTS)
        self._sender: asyncio.Task[None] | None = None

    async def start(self, *, restore: bool = True) -> None:
        """See whether the journal can be used (``NotRecorded`` if not) and take over the sessions that it knows.

        ``restore`` False: leave them there. Several workers would each count all of them.
        """
        if self.journal is not None:
            known = await self.journal.open_sessions()
            if restore:
                self.sessions.restore(known)
                log.info("sessions taken over from the record", sessions=len(self.sessions))
        self.started = True

    async def answer(self, request: Request) -> Answer | Silence:
        """Answer an Accounting-Request that passed intake: noted, or nothing is said and the client sends it again."""
        try:
            recorded = await self.record(request.packet, request.provider, request.peer, self._clock())
        except NotRecorded as error:
            metrics.radius_accounting_failures.labels("not_recorded").inc()
            return Silence("accounting_not_recorded", message=str(error))
        if recorded is None:
            metrics.radius_accounting_failures.labels("no_status").inc()
            return Silence("accounting_without_status", again=False)
        return Answer(Code.ACCOUNTING_RESPONSE, username=recorded.report.user_name)

    async def record(
        self, packet: Packet, provider: RadiusProvider, peer: tuple[str, int], now: float
    ) -> Recorded | None:
        """Note what a verified Accounting-Request of a provider's client says; ``now`` in unix seconds.

        None: it does not say what it is about. Raises ``NotRecorded`` when the journal does not take it.
        """
        report = read(packet, provider, peer[0], now)
        if report is None:
            return None
        recorded = self.sessions.weigh(report)
        for session in self.sessions.settle(recorded):
            metrics.radius_sessions_lost.labels("room").inc()
            log.warning("session left out of the table, which is full", **_fields(session))
        if self.journal is not None:
            try:
                await self.journal.note(recorded)
            except NotRecorded:
                self.sessions.undo(recorded)
                raise
        self._tell(recorded)
        return recorded

    def sweep(self) -> None:
        """Give up sessions that nobody has spoken of for long; to be called every few seconds."""
        for session in self.sessions.sweep(self._clock()):
            metrics.radius_sessions_lost.labels("stale").inc()
            log.info("session not heard of for too long", **_fields(session))

    async def close(self) -> None:
        """Stop sending events, and let the journal write what is left."""
        if self._sender is not None:
            self._sender.cancel()
            with suppress(asyncio.CancelledError):
                await self._sender
        if self.journal is not None:
            await self.journal.close()

    def _tell(self, recorded: Recorded) -> None:
        report = recorded.report
        metrics.radius_accounting_reports.labels(report.application_slug, _status_label(report.status)).inc()
        for direction, octets in (("in", recorded.input_octets), ("out", recorded.output_octets)):
            if octets:
                metrics.radius_accounting_octets.labels(report.application_slug, direction).inc(octets)
        log.info("accounting", **fields_of(recorded))
        for listener in self.listeners:
            listener(recorded)
        if self._report_event is not None and self.events(report.provider_name):
            try:
                self._waiting.put_nowait(recorded)
            except asyncio.QueueFull:
                metrics.radius_accounting_failures.labels("event").inc()
                return
            if self._sender is None:
                self._sender = asyncio.get_running_loop().create_task(self._send_events(self._report_event))

    async def _send_events(self, report_event: Event) -> None:
        """One at a time: the core writes a row for each, and logins come first."""
        while True:
            recorded = await self._waiting.get()
            try:
                await report_event(EVENT_ACTION, fields_of(recorded), recorded.report.client.address)
            except OutpostError as error:
                metrics.radius_accounting_failures.labels("event").inc()
                log.warning("event not written by the core", problem=str(error))


def _status_label(status: AcctStatusType) -> str:
    """A label of a metric: whatever a client sends must not make a new series."""
    return status.name.lower() if not status.name.startswith("UNKNOWN_") else "other"


def fields_of(recorded: Recorded) -> dict[str, Any]:
    """A report for logs and events, without what it leaves empty."""
    report, session = recorded.report, recorded.session
    fields: dict[str, Any] = {
        "status": report.status.name.lower(),
        "provider": report.provider_name,
        "client": report.client.address,
        "nas_ip": report.client.nas_ip,
        "nas_identifier": report.client.nas_identifier,
        "nas_port": report.nas_port,
        "session_id": report.session_id,
        "user": report.user_name or (session.user_name if session else ""),
        "calling_station": report.calling_station_id,
        "called_station": report.called_station_id,
        "framed_ip": report.framed_ip,
        "terminate_cause": report.terminate_cause,
    }
    if session is not None:
        fields |= {
            "input_octets": session.input_octets,
            "output_octets": session.output_octets,
            "session_time_s": session.session_time_s,
        }
    if recorded.ended:
        fields["ended"] = len(recorded.ended)
    return {name: value for name, value in fields.items() if value not in ("", None)}


def _fields(session: Session) -> dict[str, Any]:
    return {
        "provider": session.provider_name,
        "client": session.client.address,
        "session_id": session.session_id,
        "user": session.user_name,
    }
