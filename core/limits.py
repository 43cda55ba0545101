"""How often something may be done: so many times within a window, for each key. Time is an argument."""

from __future__ import annotations

from collections import OrderedDict

MAX_KEYS = 10_000  # keys remembered at one time; the ones used longest ago are forgotten first


class Limit:
    """At most ``times`` within ``window_s`` seconds for each key."""

    def __init__(self, times: int, window_s: float) -> None:
        self._times = times
        self._window_s = window_s
        self._seen: OrderedDict[str, list[float]] = OrderedDict()

    def take(self, key: str, now: float, *, times: int | None = None, window_s: float | None = None) -> bool:
        """Whether it may be done once more now; a yes counts. ``times`` and ``window_s`` replace the usual ones."""
        window_s = self._window_s if window_s is None else window_s
        recent = [moment for moment in self._seen.get(key, ()) if now - moment < window_s]
        allowed = len(recent) < (self._times if times is None else times)
        if allowed:
            recent.append(now)
        self._seen[key] = recent
        self._seen.move_to_end(key)
        while len(self._seen) > MAX_KEYS:
            self._seen.popitem(last=False)
        return allowed
