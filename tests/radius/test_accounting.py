"""Accounting: what reports do to the table of sessions, and that nothing is answered before it is recorded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from common.errors import CoreUnavailable
from outposts.radius import accounting as module
from outposts.radius.accounting import Accounting, NotRecorded, Recorded, Session
from outposts.radius.intake import Accepted, Drop, Intake
from outposts.radius.providers import Providers, RadiusProvider
from outposts.radius.reports import GIGAWORD, MAX_SKEW_S, read
from outposts.radius.request import UDP, Answer, Request, Silence
from outposts.radius.rfc import Code
from outposts.radius.session import Duplicates
from outposts.radius.wire import Packet, decode, encode_reply
from tests.factories import FixedClock
from tests.radius.accounting_packets import INTERIM, OFF, ON, PROVIDER, SECRET, START, STOP, report
from tests.radius.packets import VECTORS, flip

NAS = ("192.0.2.1", 1813)


async def record(accounting: Accounting, packet: Packet, clock: FixedClock, peer: tuple[str, int] = NAS) -> Recorded:
    """Record a report at the clock's time."""
    recorded = await accounting.record(packet, PROVIDER, peer, clock())
    assert recorded is not None
    return recorded


def request(packet: Packet, provider: RadiusProvider = PROVIDER) -> Request:
    """A request that passed intake."""
    return Request(packet, provider, NAS, UDP, 0.0)


class Journal:
    """A journal in memory that can be told to fail, or to wait."""

    def __init__(self) -> None:
        self.noted: list[Recorded] = []
        self.fails = False
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def note(self, recorded: Recorded) -> None:
        """Keep it."""
        await self.may_go_on.wait()
        if self.fails:
            raise NotRecorded("disk full")
        self.noted.append(recorded)

    async def open_sessions(self) -> Sequence[Session]:
        """None."""
        return []

    async def close(self) -> None:
        """Nothing."""


# -- R09 ---------------------------------------------------------------------------------------------------------------


async def test_r09_vector_is_answered_with_the_vector() -> None:
    """The start of the vectors, and its reply octet by octet."""
    accounting = Accounting(FixedClock())
    packet = decode(VECTORS["ours-accounting-request"])
    answer = await accounting.answer(request(packet))
    assert isinstance(answer, Answer)
    assert encode_reply(packet, SECRET, answer.code, answer.attributes) == VECTORS["ours-accounting-reply"]
    assert [session.session_id for session in accounting.sessions] == ["s1"]


async def test_r09_signed_vector_is_answered_too() -> None:
    """A start with Message-Authenticator and without a session's name: answered, and no session."""
    accounting = Accounting(FixedClock())
    answer = await accounting.answer(request(decode(VECTORS["ours-signed-accounting-request"])))
    assert isinstance(answer, Answer) and answer.code == Code.ACCOUNTING_RESPONSE
    assert len(accounting.sessions) == 0


@pytest.mark.parametrize(
    ("accounting_on", "octets", "expected"),
    [
        (True, VECTORS["ours-accounting-request"], None),
        (True, flip(VECTORS["ours-accounting-request"], 8 * 4), "bad_authenticator"),
        (True, flip(VECTORS["ours-accounting-request"], 8 * 29), "bad_authenticator"),
        (False, VECTORS["ours-accounting-request"], "accounting_off"),
    ],
    ids=["as it is", "authenticator altered", "attribute altered", "accounting off"],
)
def test_r09_intake(accounting_on: bool, octets: bytes, expected: str | None) -> None:
    """Altered, or not wanted: dropped."""
    intake = Intake(Duplicates())
    from outposts.radius.networks import parse

    networks, _ = parse("0.0.0.0/0")
    intake.serve(Providers([RadiusProvider(7, "w", "w", "f", SECRET, networks, accounting=accounting_on)]))
    verdict = intake.receive(octets, *NAS, 0.0)
    if expected is None:
        assert isinstance(verdict, Accepted)
    else:
        assert isinstance(verdict, Drop) and verdict.reason == expected


async def test_nothing_is_answered_before_it_is_recorded() -> None:
    """RFC 2866 §2: the client forgets what was answered."""
    journal = Journal()
    journal.may_go_on.clear()
    accounting = Accounting(FixedClock(), journal=journal)
    answering = asyncio.ensure_future(accounting.answer(request(report(START))))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not answering.done()
    journal.may_go_on.set()
    assert isinstance(await answering, Answer)
    assert len(journal.noted) == 1


async def test_what_cannot_be_recorded_is_not_answered_and_may_come_again() -> None:
    """A full disk: silence; when there is room again, the second copy of a Stop ends the session as the first would."""
    clock, journal = FixedClock(), Journal()
    accounting = Accounting(clock, journal=journal)
    await record(accounting, report(START), clock)
    journal.fails = True
    clock.advance(60)
    silence = await accounting.answer(request(report(STOP, acct_input_octets=5)))
    assert isinstance(silence, Silence) and silence.again
    assert len(accounting.sessions) == 1
    journal.fails = False
    assert isinstance(await accounting.answer(request(report(STOP, acct_input_octets=5))), Answer)
    assert len(accounting.sessions) == 0
    assert journal.noted[-1].ended[0].input_octets == 5


async def test_without_status_type_nothing_is_answered() -> None:
    """RFC 2866 §5.13 wants exactly one."""
    accounting = Accounting(FixedClock())
    packet = report(START)
    without = Packet(packet.code, 3, packet.authenticator, packet.attributes[1:], packet.octets)
    assert isinstance(await accounting.answer(request(without)), Silence)


# -- sessions ----------------------------------------------------------------------------------------------------------


async def test_start_interim_stop() -> None:
    """The life of a session, with counters beyond 32 bits."""
    clock = FixedClock()
    accounting = Accounting(clock)
    await record(accounting, report(START, user_name="alice", calling_station_id="aa-bb", nas_identifier="ap1"), clock)
    clock.advance(600)
    interim = await record(
        accounting,
        report(
            INTERIM,
            nas_identifier="ap1",
            framed_ip_address=bytes([10, 0, 0, 9]),
            acct_input_octets=100,
            acct_input_gigawords=2,
            acct_output_octets=7,
            acct_session_time=600,
        ),
        clock,
    )
    assert interim.session is not None
    assert (interim.session.user_name, interim.session.framed_ip) == ("alice", "10.0.0.9")
    assert interim.session.input_octets == 2 * GIGAWORD + 100
    assert (interim.input_octets, interim.output_octets) == (2 * GIGAWORD + 100, 7)
    clock.advance(60)
    stop = await record(
        accounting,
        report(STOP, nas_identifier="ap1", acct_input_octets=150, acct_input_gigawords=2, acct_terminate_cause=1),
        clock,
    )
    (ended,) = stop.ended
    assert (ended.terminate_cause, ended.ended_at, ended.started_at) == ("user_request", clock(), clock() - 660)
    assert stop.input_octets == 50
    assert len(accounting.sessions) == 0


async def test_stop_without_start_is_a_whole_session() -> None:
    """The daemon was not there for the Start: the session's time says when it was."""
    clock = FixedClock()
    stop = await record(Accounting(clock), report(STOP, acct_session_time=3600, acct_output_octets=9), clock)
    assert stop.session is not None
    assert (stop.session.started_at, stop.session.ended_at) == (clock() - 3600, clock())


@pytest.mark.parametrize("late", [START, INTERIM, STOP])
async def test_what_is_older_than_the_end_does_not_open_the_session_again(late: int) -> None:
    """A Start that was on its way for ten seconds comes after the Stop; so does a second copy of the Stop."""
    clock = FixedClock()
    accounting = Accounting(clock)
    await record(accounting, report(STOP, acct_session_time=1), clock)
    clock.advance(9)
    recorded = await record(accounting, report(late, acct_delay_time=10, acct_input_octets=5), clock)
    assert recorded.session is None and not recorded.ended and not recorded.input_octets
    assert len(accounting.sessions) == 0


async def test_a_name_that_is_used_again_is_a_new_session() -> None:
    """Clients with a counter in memory begin at the same number after a restart."""
    clock = FixedClock()
    accounting = Accounting(clock)
    await record(accounting, report(START), clock)
    clock.advance(5)
    await record(accounting, report(STOP), clock)
    clock.advance(5)
    await record(accounting, report(START), clock)
    assert [session.started_at for session in accounting.sessions] == [clock()]


async def test_counters_never_fall() -> None:
    """An older interim report that comes late neither takes octets away nor counts them twice."""
    clock = FixedClock()
    accounting = Accounting(clock)
    await record(accounting, report(INTERIM, acct_input_octets=500), clock)
    late = await record(accounting, report(INTERIM, acct_input_octets=300), clock)
    assert late.input_octets == 0
    assert late.session is not None and late.session.input_octets == 500


@pytest.mark.parametrize(("status", "cause"), [(ON, "nas_reboot"), (OFF, "nas_request")])
async def test_on_and_off_clear_the_sessions_of_that_client_only(status: int, cause: str) -> None:
    """Same address, other name: another client behind the same proxy."""
    clock = FixedClock()
    accounting = Accounting(clock)
    for session, name in (("a1", "ap1"), ("a2", "ap1"), ("b1", "ap2")):
        await record(accounting, report(START, session, nas_identifier=name), clock)
    await record(accounting, report(START, "c1", nas_identifier="ap1"), clock, peer=("192.0.2.9", 1))
    clock.advance(1)
    cleared = await record(accounting, report(status, "", nas_identifier="ap1"), clock)
    assert [session.session_id for session in cleared.ended] == ["a1", "a2"]
    assert {session.terminate_cause for session in cleared.ended} == {cause}
    assert sorted(session.session_id for session in accounting.sessions) == ["b1", "c1"]


async def test_on_that_names_nobody_speaks_of_the_address() -> None:
    """Then all sessions of that address are meant."""
    clock = FixedClock()
    accounting = Accounting(clock)
    await record(accounting, report(START, "a", nas_identifier="ap1"), clock)
    await record(accounting, report(START, "b", nas_ip_address=bytes([10, 0, 0, 1])), clock)
    assert len((await record(accounting, report(ON, ""), clock)).ended) == 2


async def test_on_that_was_overtaken_does_not_end_newer_sessions() -> None:
    """The report of the restart was repeated for 20 s; a session that began since is not meant."""
    clock = FixedClock()
    accounting = Accounting(clock)
    await record(accounting, report(START), clock)
    clock.advance(1)
    assert not (await record(accounting, report(ON, "", acct_delay_time=20), clock)).ended
    assert len(accounting.sessions) == 1


async def test_other_status_types_are_recorded_and_open_nothing() -> None:
    """9 to 15 and what nobody has named yet."""
    clock = FixedClock()
    accounting = Accounting(clock)
    for status in (9, 15, 200):
        recorded = await record(accounting, report(status), clock)
        assert recorded.session is None
    assert len(accounting.sessions) == 0


async def test_table_is_bounded_and_the_one_heard_of_longest_ago_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that never sends a Stop cannot fill the memory, and its ends cannot either."""
    monkeypatch.setattr(module, "MAX_ENDED", 5)
    clock = FixedClock()
    accounting = Accounting(clock)
    accounting.sessions.max_sessions = 10
    for number in range(30):
        clock.advance(1)
        await record(accounting, report(START, f"s{number}"), clock)
        if number == 20:
            await record(accounting, report(INTERIM, "s11"), clock)
    names = {session.session_id for session in accounting.sessions}
    assert names == {"s11", *(f"s{number}" for number in range(21, 30))}
    for number in range(30):
        await record(accounting, report(STOP, f"s{number}"), clock)
    assert len(accounting.sessions) == 0
    assert len(accounting.sessions._ended) == 5
    assert not accounting.sessions._by_address


async def test_sessions_not_heard_of_are_given_up() -> None:
    """Their Stop was lost."""
    clock = FixedClock()
    accounting = Accounting(clock)
    await record(accounting, report(START, "old"), clock)
    clock.advance(accounting.sessions.stale_after_s - 10)
    await record(accounting, report(START, "new"), clock)
    clock.advance(10)
    accounting.sweep()
    assert [session.session_id for session in accounting.sessions] == ["new"]


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"acct_delay_time": 30}, -30),
        ({"event_timestamp": 1_700_000_000 - 5, "acct_delay_time": 30}, -5),
        ({"event_timestamp": 86_400}, 0),
        ({"event_timestamp": 1_700_000_000 + int(MAX_SKEW_S) + 9}, 0),
        ({"acct_delay_time": 0xFFFFFFFF}, 0),
        ({"acct_delay_time": b"\x01"}, 0),
    ],
    ids=["delay", "timestamp first", "clock of 1970", "clock of tomorrow", "delay of a century", "three octets short"],
)
def test_when_it_happened(more: Mapping[str, int | bytes], expected: int) -> None:
    """Seconds relative to now."""
    found = read(report(START, **more), PROVIDER, NAS[0], 1_700_000_000.0)  # type: ignore[arg-type]
    assert found is not None and found.happened_at - 1_700_000_000 == expected


def test_values_that_are_no_values_count_as_not_sent() -> None:
    """Wrong lengths, text that is none."""
    found = read(
        report(
            START,
            user_name=b"al\xffice",
            framed_ip_address=b"\x0a",
            nas_port=b"\x00\x01",
            acct_input_octets=b"",
            called_station_id=b"x\x00\x00",
        ),
        PROVIDER,
        NAS[0],
        0.0,
    )
    assert found is not None
    assert (found.user_name, found.framed_ip, found.nas_port, found.input_octets) == (r"al\xffice", "", None, None)
    assert found.called_station_id == "x"


def test_ipv6_clients_and_users() -> None:
    """RFC 3162, RFC 6911."""
    found = read(
        report(START, nas_ipv6_address=bytes(15) + b"\x01", framed_ipv6_address=bytes(15) + b"\x02"),
        PROVIDER,
        NAS[0],
        0.0,
    )
    assert found is not None and (found.client.nas_ip, found.framed_ip) == ("::1", "::2")


@given(
    some.lists(
        some.tuples(
            some.sampled_from([START, STOP, INTERIM, ON, OFF, 9]),
            some.sampled_from(["", "a", "b"]),
            some.sampled_from(["", "ap1", "ap2"]),
            some.integers(0, 2**32 - 1),
            some.integers(0, 100),
        ),
        max_size=40,
    )
)
def test_whatever_order_reports_come_in_the_table_agrees_with_itself(steps: list[tuple[Any, ...]]) -> None:
    """Index and table hold the same, nothing is both open and ended, counters are no less than reported last."""

    async def run() -> None:
        clock = FixedClock()
        accounting = Accounting(clock)
        for status, session, name, octets, delay in steps:
            clock.advance(1)
            more: dict[str, Any] = {"nas_identifier": name} if name else {}
            recorded = await record(
                accounting, report(status, session, acct_input_octets=octets, acct_delay_time=delay, **more), clock
            )
            assert recorded.input_octets >= 0
            sessions = accounting.sessions
            indexed = {key for keys in sessions._by_address.values() for key in keys}
            assert indexed == {one.key for one in sessions}
            assert all(one.ended_at is None for one in sessions)
            if recorded.session is not None and recorded.session.ended_at is None:
                assert sessions.get(recorded.session.key) == recorded.session

    asyncio.run(run())


# -- logs, metrics, events ---------------------------------------------------------------------------------------------


async def test_one_log_event_per_report(capsys: pytest.CaptureFixture[str]) -> None:
    """With what an operator looks for."""
    from common import logs

    logs.configure(debug=False)
    clock = FixedClock()
    await record(Accounting(clock), report(STOP, user_name="alice", acct_output_octets=12), clock)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (line,) = [line for line in lines if line["event"] == "accounting"]
    assert line["status"] == "stop" and line["user"] == "alice" and line["session_id"] == "s1"
    assert (line["client"], line["output_octets"], line["provider"]) == (NAS[0], 12, "wifi")


class Core:
    """Where events go."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Mapping[str, Any], str | None]] = []
        self.away = False
        self.told = asyncio.Event()

    async def report_event(self, action: str, context: Mapping[str, Any], client_ip: str | None = None) -> None:
        """As ``CoreApi``."""
        self.told.set()
        if self.away:
            raise CoreUnavailable("POST /events/events/", "no answer")
        self.events.append((action, context, client_ip))


async def test_events_are_off_until_asked_for() -> None:
    """And then have the core's own prefix for foreign actions."""
    clock, core = FixedClock(), Core()
    accounting = Accounting(clock, report_event=core.report_event)
    await record(accounting, report(START), clock)
    assert accounting._sender is None
    accounting.events = lambda provider: provider == "wifi"
    await record(accounting, report(STOP, user_name="alice"), clock)
    await core.told.wait()
    ((action, context, client_ip),) = core.events
    assert (action, client_ip) == ("custom_radius_accounting", NAS[0])
    assert context["status"] == "stop" and context["user"] == "alice"
    await accounting.close()


async def test_a_core_that_is_away_does_not_keep_reports_from_being_answered() -> None:
    """The event is lost, the report is not; what waits is bounded."""
    clock, core = FixedClock(), Core()
    core.away = True
    accounting = Accounting(clock, report_event=core.report_event)
    accounting.events = lambda provider: True
    for _ in range(module.MAX_EVENTS + 10):
        assert isinstance(await accounting.answer(request(report(INTERIM))), Answer)
    assert accounting._waiting.qsize() <= module.MAX_EVENTS
    await core.told.wait()
    await accounting.close()
