"""Failed binds: who waits how long, and who does not."""

from __future__ import annotations

import pytest

from common import throttle
from common.throttle import KEY_SIZE, MAX_DELAY_S, MAX_RECORDS, Attempt, Throttle, ThrottleLimits, network_of

HERE, THERE = "10.0.0.1", "10.0.0.2"


def make(**limits: float) -> Throttle:
    return Throttle(bytes(KEY_SIZE), ThrottleLimits(**limits))  # type: ignore[arg-type]


def fail(what: Throttle, attempt: Attempt, times: int = 1, now: float = 0.0) -> None:
    for _ in range(times):
        what.begin(attempt)
        what.end(attempt, now, True)


def test_the_wait_of_an_account_at_an_address_doubles() -> None:
    """Nothing for the free failures; then 1, 2, 4, … seconds, at most the operator's longest."""
    counts = make(per_pair=3, wait_max=60)
    alice = counts.attempt(1, "alice", HERE)
    fail(counts, alice, 3)
    assert not counts.pair_blocked(alice, 0)
    waits = []
    for _ in range(9):
        fail(counts, alice)
        waits.append(next(second for second in range(1000) if not counts.pair_blocked(alice, second)))
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_nobody_else_waits() -> None:
    """The same account elsewhere, another account here, the same name at another provider."""
    counts = make(per_pair=3)
    fail(counts, counts.attempt(1, "alice", HERE), 20)
    assert counts.pair_blocked(counts.attempt(1, "ALICE", HERE), 0)
    for other in (
        counts.attempt(1, "alice", THERE),
        counts.attempt(1, "bob", HERE),
        counts.attempt(2, "alice", HERE),
    ):
        assert not counts.pair_blocked(other, 0)
        assert not counts.address_blocked(other, 0)


def test_a_success_forgets_what_was_mistyped() -> None:
    """Of the account at that address; the address itself is forgiven by time alone."""
    counts = make(per_pair=3, per_address=5)
    alice = counts.attempt(1, "alice", HERE)
    fail(counts, alice, 6)
    counts.begin(alice)
    counts.end(alice, 0, False)
    assert not counts.pair_blocked(alice, 0)
    assert counts.address_blocked(alice, 0)


def test_time_forgives() -> None:
    """One failure of a pair, all of an address, in the longest wait."""
    counts = make(per_pair=3, per_address=10, wait_max=100)
    alice = counts.attempt(1, "alice", HERE)
    fail(counts, alice, 3)
    fail(counts, alice, 1, now=100)  # the third again
    assert not counts.pair_blocked(alice, 100)
    fail(counts, alice, 1, now=100)
    assert counts.pair_blocked(alice, 100)
    fail(counts, counts.attempt(1, "bob", HERE), 10, now=300)
    assert not counts.address_blocked(alice, 300)


def test_logins_under_way_count_as_what_they_may_become() -> None:
    """Guesses side by side are no more than guesses one after the other; one is always let through."""
    counts = make(per_pair=3)
    alice = counts.attempt(1, "alice", HERE)
    fail(counts, alice, 2)
    for _ in range(2):
        assert not counts.pair_blocked(alice, 0)
        counts.begin(alice)
    assert counts.pair_blocked(alice, 0)
    counts.end(alice, 0, None)
    assert not counts.pair_blocked(alice, 0)


def test_what_nobody_could_tell_counts_for_nothing() -> None:
    """A core that is away locks nobody out, and leaves no record."""
    counts = make(per_pair=1, per_address=1, per_account=1)
    alice = counts.attempt(1, "alice", HERE)
    for _ in range(50):
        counts.begin(alice)
        counts.end(alice, 0, None)
    assert not counts.pair_blocked(alice, 0)
    assert len(counts) == 0


def test_an_address_waits_for_all_its_accounts() -> None:
    """Guesses spread over accounts; another address does not wait."""
    counts = make(per_pair=10, per_address=5)
    for number in range(6):
        fail(counts, counts.attempt(1, f"user{number}", HERE))
    new = counts.attempt(1, "carol", HERE)
    assert counts.address_blocked(new, 0)
    assert not counts.address_blocked(new, 1)
    assert not counts.address_blocked(counts.attempt(1, "carol", THERE), 0)


def test_an_account_that_is_guessed_from_everywhere_is_delayed_not_refused() -> None:
    """Up to the longest delay."""
    counts = make(per_account=20)
    for number in range(20):
        fail(counts, counts.attempt(1, "alice", f"10.1.0.{number}"))
    alice = counts.attempt(1, "alice", HERE)
    assert counts.delay_s(alice, 0) == 0
    delays = []
    for number in range(20, 30):
        fail(counts, counts.attempt(1, "alice", f"10.1.0.{number}"))
        delays.append(counts.delay_s(alice, 0))
    assert delays[:4] == [0.25, 0.5, 1.0, 2.0]
    assert max(delays) == MAX_DELAY_S
    assert not counts.pair_blocked(alice, 0)
    assert not counts.address_blocked(alice, 0)
    assert counts.delay_s(counts.attempt(1, "bob", HERE), 0) == 0


def test_zero_switches_a_count_off() -> None:
    """And keeps no record."""
    counts = make(per_pair=0, per_address=0, per_account=0)
    alice = counts.attempt(1, "alice", HERE)
    fail(counts, alice, 1000)
    assert (counts.pair_blocked(alice, 0), counts.address_blocked(alice, 0), counts.delay_s(alice, 0)) == (
        False,
        False,
        0.0,
    )
    assert len(counts) == 0


def test_a_clock_that_was_set_back_makes_no_longer_wait() -> None:
    """A wait is never longer than any wait may be."""
    counts = make(per_pair=1, wait_max=60)
    alice = counts.attempt(1, "alice", HERE)
    fail(counts, alice, 20, now=1_000_000)
    assert counts.pair_blocked(alice, 1_000_000)
    assert not counts.pair_blocked(alice, 900_000)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many names and addresses try; the youngest are kept."""
    assert MAX_RECORDS <= 100_000
    monkeypatch.setattr(throttle, "MAX_RECORDS", 100)
    counts = make(per_pair=1)
    for number in range(1000):
        fail(counts, counts.attempt(1, f"user{number}", f"10.0.{number // 250}.{number % 250}"), 3)
    assert len(counts) == 300
    assert counts.pair_blocked(counts.attempt(1, "user999", "10.0.3.249"), 0)


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("nonsense", "nonsense"),
    ],
)
def test_addresses_are_counted_by_who_has_them(address: str, counted: str) -> None:
    """Whoever has an IPv6 network has all addresses in it."""
    assert network_of(address) == counted


def test_names_are_not_kept() -> None:
    """Nor shown."""
    counts = make()
    attempt = counts.attempt(1, "geheim", HERE)
    fail(counts, attempt, 3)
    assert "geheim" not in repr(attempt) + repr(vars(counts))
