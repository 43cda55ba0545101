"""Waiting times between tries."""

from __future__ import annotations

import pytest

from common import backoff


def test_bounds_double_up_to_the_cap() -> None:
    """From 1 s to 60 s, and no overflow after years."""
    assert [backoff.bound(attempt) for attempt in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff.bound(10**9) == 60


@pytest.mark.parametrize("attempt", [1, 3, 50])
def test_full_jitter(attempt: int) -> None:
    """The draw decides between almost nothing and the bound."""
    assert backoff.delay(attempt, 0.0) == backoff.FLOOR_S
    assert backoff.delay(attempt, 0.5) == backoff.bound(attempt) / 2
    assert backoff.delay(attempt, 0.999) <= 60


def test_c09_retry_after_is_a_minimum() -> None:
    """The core's wish is honoured, within reason."""
    assert backoff.delay(1, 0.5, 5.0) == 5.0
    assert backoff.delay(7, 0.5, 5.0) == 30.0
    assert backoff.delay(1, 0.5, 1e9) == backoff.MAX_RETRY_AFTER_S
    assert backoff.delay(1, 0.5, -3.0) == 0.5


def test_c10_tries_are_at_most_a_minute_apart() -> None:
    """However long the core has been away."""
    assert max(backoff.delay(attempt, 0.999999) for attempt in range(1, 2000)) <= 60
