"""Durations as the core writes them: ``key=number`` pairs joined by ``;``, such as ``hours=1;minutes=30``."""

from __future__ import annotations

import functools

UNITS_S = {
    "microseconds": 1e-6, "milliseconds": 1e-3, "seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86400.0,
    "weeks": 604800.0,
}  # fmt: skip
MAX_S = 100 * 365 * 86400.0  # a hundred years: longer is a mistake and would overflow dates
CACHE_SIZE = 256  # a handful of texts is in use at any time


@functools.lru_cache(CACHE_SIZE)
def seconds(text: str) -> float:
    """The duration in seconds. Keys are in any case; unknown keys are skipped.

    :raises ValueError: no known key, a value that is no number, or a negative or endless duration.
    """
    total, known = 0.0, False
    for pair in text.split(";"):
        key, _, value = pair.partition("=")
        unit = UNITS_S.get(key.strip().lower())
        if unit is None:
            continue
        total += float(value) * unit
        known = True
    if not known:
        raise ValueError(f"{text!r} is no duration; write key=number with a key of {', '.join(UNITS_S)}")
    if not 0 <= total <= MAX_S:
        raise ValueError(f"{text!r} is negative or too long")
    return total
