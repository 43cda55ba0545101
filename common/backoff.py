"""How long to wait before the next try: full jitter, exponential, capped. Pure; randomness is an argument.

Full jitter (a uniform draw between zero and the exponential bound) spreads many outposts that lost the same core best:
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from __future__ import annotations

FIRST_S = 1.0  # core-contract §2.2: the first bound
CAP_S = 60.0  # the core is found again within a minute of its return
FLOOR_S = 0.1  # a draw near zero must not become a tight loop
# A core or gateway may ask for more patience than our cap; a nonsensical value must not stop us for days.
MAX_RETRY_AFTER_S = 300.0


def bound(attempt: int) -> float:
    """The longest wait before try number ``attempt`` (1 = the first repetition), in seconds."""
    return min(CAP_S, FIRST_S * 2.0 ** min(max(attempt - 1, 0), 16))


def delay(attempt: int, draw: float, retry_after_s: float | None = None) -> float:
    """Seconds to wait before try number ``attempt``. ``draw`` is uniform in [0, 1); ``Retry-After`` is a minimum."""
    wait = max(FLOOR_S, bound(attempt) * draw)
    if retry_after_s is not None and retry_after_s > 0:
        wait = max(wait, min(retry_after_s, MAX_RETRY_AFTER_S))
    return wait
