"""WebSocket messages and reconnect delays, without a socket."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import events

HELLO = events.Hello("0.1.0", "outposts", "7a1c", "CPython 3.12.4", "OpenSSL 3.0.0", "host")


@pytest.mark.parametrize(
    "event",
    [
        events.Ack(),
        HELLO,
        events.TriggerUpdate(),
        events.ProviderSpecific({"type": "event.provider.specific", "sub_type": "init_connection"}),
        events.SessionEnd("ab" * 32),
    ],
    ids=lambda event: type(event).__name__,
)
def test_both_ways(event: events.Event) -> None:
    """What is encoded decodes to the same."""
    assert events.decode(events.encode(event)) == event


def test_hello_on_the_wire() -> None:
    """Exactly the names and types that a core checks."""
    assert json.loads(events.encode(HELLO)) == {
        "instruction": 1,
        "args": {
            "version": "0.1.0",
            "buildHash": "outposts",
            "uuid": "7a1c",
            "golangVersion": "CPython 3.12.4",
            "opensslEnabled": True,
            "opensslVersion": "OpenSSL 3.0.0",
            "fipsEnabled": False,
            "hostname": "host",
        },
    }


@pytest.mark.parametrize(
    "frame",
    [
        "not json",
        "",
        "[]",
        "{}",
        "null",
        '{"instruction": null}',
        '{"instruction": "2"}',
        '{"instruction": 2.5}',
        '{"instruction": 99, "args": {}}',
        '{"instruction": -1}',
        '{"instruction": 4, "args": {}}',
        '{"instruction": 4, "args": {"session_id": 5}}',
        '{"instruction": 4, "args": {"session_id": ""}}',
        '{"instruction": 2, "args": []}',
        '{"instruction": 1, "args": {"version": "1"}}',
        b"\xff\xfe",
        "[" * 100_000,
    ],
)
def test_c22_frames_without_meaning(frame: str | bytes) -> None:
    """C22: unknown and broken frames are told apart from messages, and raise nothing."""
    assert isinstance(events.decode(frame), events.Unknown)


def test_tolerance() -> None:
    """Absent or null args, extra keys."""
    assert events.decode('{"instruction": 2}') == events.TriggerUpdate()
    assert events.decode('{"instruction": 2, "args": null, "x": [1]}') == events.TriggerUpdate()
    ended = events.decode('{"instruction": 4, "args": {"type": "event.session.end", "session_id": "ab", "x": 1}}')
    assert ended == events.SessionEnd("ab")


def test_unknown_cannot_be_sent() -> None:
    """There is nothing to send."""
    with pytest.raises(ValueError):
        events.encode(events.Unknown("x"))


@given(st.one_of(st.text(), st.binary(), st.builds(json.dumps, st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["instruction", "args", "session_id"]), inner),
))))  # fmt: skip
def test_decoding_never_raises(frame: str | bytes) -> None:
    """Any frame is some event."""
    assert isinstance(events.decode(frame), events.Event)


def test_hello_fields_are_complete() -> None:
    """Each field of ``Hello`` is on the wire."""
    assert {row[0] for row in events.HELLO_FIELDS} == {item.name for item in dataclasses.fields(events.Hello)}


@given(outage_s=st.floats(0, 600), draws=st.lists(st.floats(0, 1), min_size=40, max_size=40))
def test_back_in_time_after_any_outage(outage_s: float, draws: list[float]) -> None:
    """Whatever the draws: back within 5 s of an outage of up to 10 s, else within 60 s, handshake not counted."""
    clock = 0.0
    supply = iter(draws)
    for attempt in range(10_000):
        clock += events.reconnect_delay(attempt, clock, lambda low, high: low + (high - low) * next(supply, 1.0))
        if clock >= outage_s:
            break
    late = clock - outage_s
    assert late <= (5.0 if outage_s <= 10.0 else 50.0)


@given(attempt=st.integers(1, 10_000), absence_s=st.floats(0, 1e6))
def test_delays_stay_between_one_second_and_the_cap(attempt: int, absence_s: float) -> None:
    """No tight loop, no wait of minutes; the first retry is immediate."""
    bounds: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        bounds.append((low, high))
        return high

    assert events.reconnect_delay(0, absence_s, uniform) == 0.0
    assert bounds == []
    assert 1.0 <= events.reconnect_delay(attempt, absence_s, uniform) <= 50.0
    assert bounds[0][0] == 1.0
