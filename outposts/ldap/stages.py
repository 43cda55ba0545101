"""Stages of a search that follows a directory (RFC 4533 §3.3, §3.4), and what moves it from one to the next."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Stage(Enum):
    """Where a follower stands (RFC 4533 §3.3, §3.4)."""

    REFRESH = "refresh"
    PERSIST = "persist"
    ENDED = "ended"


class Event(Enum):
    """What moves a follower from stage to stage."""

    REFRESHED = "refresh complete, the client goes"
    REFRESHED_AND_STAYS = "refresh complete, the client stays"
    CUT = "a limit was reached"
    LOST = "the changes since the last message are not known any more"
    CLOSED = "abandoned, canceled, connection or directory gone"


TRANSITIONS: Final[Mapping[tuple[Stage, Event], Stage]] = {
    (Stage.REFRESH, Event.REFRESHED): Stage.ENDED,
    (Stage.REFRESH, Event.REFRESHED_AND_STAYS): Stage.PERSIST,
    (Stage.REFRESH, Event.CUT): Stage.ENDED,
    (Stage.PERSIST, Event.CUT): Stage.ENDED,
    (Stage.PERSIST, Event.LOST): Stage.ENDED,
    **{(stage, Event.CLOSED): Stage.ENDED for stage in Stage},
}
"""A pair that is not listed changes nothing."""
