"""Duplicates and exchanges: every state meets every input, and both tables stay bounded (spec §12.1, §12.2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from outposts.radius.session import STATE_SIZE, Duplicates, Exchanges, Key, worker_of
from tests.radius.desks import NAS, PORT, chance

KEY: Key = ("line", "192.0.2.9", NAS, PORT, 1 << 8 | 7)
FIRST, OTHER = b"first packet", b"other packet"


def unknown(table: Duplicates) -> None:
    """Nothing has come."""


def in_progress(table: Duplicates) -> None:
    """The first packet is being worked on."""
    table.begin(KEY, FIRST)


def answered(table: Duplicates) -> None:
    """The first packet has its reply."""
    table.answer(table.begin(KEY, FIRST), b"reply", 100.0)


def met_by_silence(table: Duplicates) -> None:
    """The first packet is over without a reply."""
    table.answer(table.begin(KEY, FIRST), b"", 100.0)


def forgotten(table: Duplicates) -> None:
    """Nothing came of the first packet."""
    table.forget(table.begin(KEY, FIRST))


# What ``find`` says: None = a new packet, ... = in progress, octets = the reply to send again.
ROWS: list[tuple[Callable[[Duplicates], None], bytes, float, object]] = [
    (unknown, FIRST, 100.0, None),
    (unknown, OTHER, 100.0, None),
    (in_progress, FIRST, 100.0, ...),
    (in_progress, FIRST, 10_000.0, ...),
    (in_progress, OTHER, 100.0, None),
    (answered, FIRST, 100.0, b"reply"),
    (answered, FIRST, 114.9, b"reply"),
    (answered, FIRST, 115.0, None),
    (answered, OTHER, 100.0, None),
    (met_by_silence, FIRST, 114.9, b""),
    (met_by_silence, FIRST, 115.0, None),
    (met_by_silence, OTHER, 100.0, None),
    (forgotten, FIRST, 100.0, None),
    (forgotten, OTHER, 100.0, None),
]


@pytest.mark.parametrize(("state", "octets", "now", "expected"), ROWS)
def test_every_state_meets_every_packet(
    state: Callable[[Duplicates], None], octets: bytes, now: float, expected: object
) -> None:
    """A copy is dropped or answered with the same octets; other octets are a new request."""
    table = Duplicates()
    state(table)
    entry = table.find(KEY, octets, now)
    if expected is None:
        assert entry is None
    else:
        assert entry is not None
        assert entry.reply == (None if expected is ... else expected)


@pytest.mark.parametrize("place", range(5))
def test_a_packet_from_elsewhere_is_no_copy(place: int) -> None:
    """Line, local address, client address, port, code and Identifier all belong to the key."""
    table = Duplicates()
    answered(table)
    other = list(KEY)
    other[place] = 999 if place > 2 else "other"
    assert table.find(tuple(other), FIRST, 100.0) is None  # type: ignore[arg-type]
    assert table.find(KEY, FIRST, 100.0) is not None


def test_an_older_answer_is_not_sent_when_a_newer_request_has_its_identifier() -> None:
    """The older one's late result is nobody's any more, and cannot become the newer one's reply."""
    table = Duplicates()
    older = table.begin(KEY, FIRST)
    newer = table.begin(KEY, OTHER)
    assert not table.answer(older, b"late", 100.0)
    table.forget(older)
    entry = table.find(KEY, OTHER, 100.0)
    assert entry is newer and entry.reply is None
    assert table.answer(newer, b"reply", 100.0)


def test_replies_are_forgotten_when_their_time_is_over() -> None:
    """The table does not grow with what is over."""
    table = Duplicates(ttl_s=15)
    for number in range(100):
        table.answer(table.begin((*KEY[:4], number), FIRST), b"reply", float(number))
    assert len(table) == 15  # those of the last 15 seconds
    table.sweep(1000.0)
    assert len(table) == 0


def test_the_table_of_replies_is_bounded() -> None:
    """The oldest goes first; what is in progress stays."""
    table = Duplicates(max_entries=10)
    waiting = table.begin((*KEY[:4], 9999), FIRST)
    for number in range(100):
        table.answer(table.begin((*KEY[:4], number), FIRST), b"reply", 1.0)
    assert len(table) <= 12
    assert table.find((*KEY[:4], 99), FIRST, 1.0) is not None
    assert table.find((*KEY[:4], 0), FIRST, 1.0) is None
    assert table.find(waiting.key, FIRST, 1.0) is waiting


def test_clearing_keeps_what_is_in_progress() -> None:
    """Replies go, work does not."""
    table = Duplicates()
    answered(table)
    waiting = table.begin((*KEY[:4], 5), FIRST)
    table.clear()
    assert table.find(KEY, FIRST, 100.0) is None
    assert table.find(waiting.key, FIRST, 100.0) is waiting


# --- exchanges ---


def test_state_is_good_once() -> None:
    """A State is used up by the packet that brings it."""
    table: Exchanges[str] = Exchanges(chance)
    state = table.open("login", 1, NAS, 60.0)
    assert len(state) == STATE_SIZE
    assert table.take(state, 1, NAS, 10.0) == "login"
    assert table.take(state, 1, NAS, 10.0) is None


@pytest.mark.parametrize(
    ("change", "provider_pk", "peer", "now"),
    [
        (True, 1, NAS, 10.0),
        (False, 2, NAS, 10.0),
        (False, 1, "192.0.2.2", 10.0),
    ],
)
def test_another_one_s_state_is_unknown_and_not_used_up(change: bool, provider_pk: int, peer: str, now: float) -> None:
    """R19: altered, of another provider, from another address: nothing, and the right client can still go on."""
    table: Exchanges[str] = Exchanges(chance)
    state = table.open("login", 1, NAS, 60.0)
    sent = state[:-1] + bytes((state[-1] ^ 1,)) if change else state
    assert table.take(sent, provider_pk, peer, now) is None
    assert table.take(state, 1, NAS, 10.0) == "login"


def test_a_state_that_is_too_old_ends_its_conversation() -> None:
    """R19: after its time, whether it is asked for or swept away; each end is told once."""
    ended: list[str] = []
    table: Exchanges[str] = Exchanges(chance, on_drop=ended.append)
    state = table.open("asked for", 1, NAS, 60.0)
    assert table.take(state, 1, NAS, 60.0) is None
    table.open("swept", 1, NAS, 60.0)
    kept = table.open("kept", 1, NAS, 61.0)
    table.sweep(60.0)
    assert ended == ["asked for", "swept"]
    assert table.take(kept, 1, NAS, 60.5) == "kept"


def test_put_back_makes_a_state_good_again() -> None:
    """A packet that was not the next one does not cost the conversation."""
    table: Exchanges[str] = Exchanges(chance)
    state = table.open("login", 1, NAS, 60.0)
    taken = table.take(state, 1, NAS, 10.0)
    assert taken is not None
    table.put_back(state, taken, 1, NAS, 60.0)
    assert table.take(state, 1, NAS, 10.0) == "login"


def test_r57_conversations_are_bounded_and_the_oldest_goes_first() -> None:
    """20,000 that are never finished leave 10,000; the newest still work."""
    ended: list[int] = []
    table: Exchanges[int] = Exchanges(chance, max_entries=10_000, on_drop=ended.append)
    states = [table.open(number, 1, NAS, 1e9) for number in range(20_000)]
    assert len(table) == 10_000
    assert ended == list(range(10_000))
    assert table.take(states[-1], 1, NAS, 1.0) == 19_999


def test_new_conversations_of_one_client_are_limited_per_second() -> None:
    """A hundred a second for one address; another address, and the next second, have their own."""
    table: Exchanges[int] = Exchanges(chance)
    assert [table.admit(NAS, 5.0) for _ in range(101)] == [True] * 100 + [False]
    assert table.admit("192.0.2.2", 5.9)
    assert not table.admit(NAS, 5.9)
    assert table.admit(NAS, 6.0)


def test_conversations_of_changed_providers_end() -> None:
    """What belongs to a provider goes with it."""
    ended: list[str] = []
    table: Exchanges[str] = Exchanges(chance, on_drop=ended.append)
    table.open("gone", 1, NAS, 60.0)
    kept = table.open("kept", 2, NAS, 60.0)
    table.end_providers(lambda pk: pk == 1)
    assert ended == ["gone"]
    assert table.take(kept, 2, NAS, 1.0) == "kept"


def test_a_state_names_its_worker() -> None:
    """Whoever gets another worker's State knows whose it is; foreign octets are nobody's."""
    table: Exchanges[str] = Exchanges(chance, worker=5)
    assert worker_of(table.open("login", 1, NAS, 60.0)) == 5
    assert worker_of(b"") is None
    assert worker_of(bytes(16)) is None
