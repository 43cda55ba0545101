"""Which flows were seen to begin with user name and password in one form, so that the first call may be the answer.

That saves a round trip (design.md §4.7). What is remembered is only what the core showed to this very client address,
and only for a minute: a flow's first stage may depend on the address, and an edit of a flow is not announced. So a flow
that stops asking for a password stops counting as one that asks within that minute.

Time is an argument: seconds of any clock that only goes forward.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

REMEMBER_S = 60.0  # see above; a busy client still saves 59 of 60 GETs at one bind a second
AVOID_S = (
    600.0  # after a surprise: long enough that a flow which cannot be opened so costs one lost call in ten minutes
)
MAX_ENTRIES = 4096  # client addresses times flows; an entry is some 300 bytes


class Opening(NamedTuple):
    """What a flow is known by."""

    slug: str
    protocol: str
    client_ip: str


class Openings:
    """Memory of openings, bounded; the least recently seen goes first."""

    def __init__(self) -> None:
        self._until: OrderedDict[Opening, tuple[bool, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def known(self, opening: Opening, now: float) -> bool:
        """Whether the flow was seen to begin with user name and password, not longer than a minute ago."""
        good, until = self._until.get(opening, (False, 0.0))
        return good and now < until

    def saw(self, opening: Opening, asks_both: bool, now: float) -> None:
        """Note how a flow began; ``asks_both``: identification with a password field and nothing else in it."""
        good, until = self._until.get(opening, (False, 0.0))
        if not good and now < until:
            return  # still avoided
        if asks_both:
            self._note(opening, True, now + REMEMBER_S)
        else:
            self._until.pop(opening, None)

    def surprise(self, opening: Opening, now: float) -> None:
        """The answer did not fit: do not begin this flow so for a while."""
        self._note(opening, False, now + AVOID_S)

    def forget(self) -> None:
        """Drop everything, after a change of configuration."""
        self._until.clear()

    def _note(self, opening: Opening, good: bool, until: float) -> None:
        self._until[opening] = (good, until)
        self._until.move_to_end(opening)
        while len(self._until) > MAX_ENTRIES:
            self._until.popitem(last=False)
