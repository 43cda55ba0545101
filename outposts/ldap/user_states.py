"""What a listing shows that the core sends no event for: whose password changed, who was deactivated or deleted.

Kept as two flat arrays, because a comparison of two listings is the only thing they are for: it is made in the process
or thread that lists, and only the users concerned are told on.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from hashlib import blake2b

import msgspec

MARK_SIZE = 8  # bytes of digest per user, the lowest bit replaced by "active"


class _State(msgspec.Struct):
    """The part of a user that decides whether a login from before still counts."""

    pk: int
    is_active: bool = True
    password_change_date: str | None = None


_decoder = msgspec.json.Decoder(_State)


class UserStates(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """Of each user: a mark that changes with the password, and whether the user is active. Good for transport."""

    pks: bytes = b""  # int64
    marks: bytes = b""  # uint64: 63 bits of a digest of the time of the last password change, one bit for active

    def __bool__(self) -> bool:
        """Whether anything was listed yet."""
        return bool(self.pks)

    def changed(self, newer: UserStates) -> frozenset[int]:
        """Users whose password changed, or who were deactivated or deleted."""
        after = newer._by_pk()
        return self.gone(newer) | {pk for pk, mark in self._by_pk().items() if (after.get(pk, mark) ^ mark) >> 1}

    def gone(self, newer: UserStates) -> frozenset[int]:
        """Users who were deactivated or deleted."""
        before, after = self._by_pk(), newer._by_pk()
        deleted = before.keys() - after.keys()
        return frozenset(deleted) | {pk for pk, mark in after.items() if not mark & 1 and before.get(pk, 1) & 1}

    def _by_pk(self) -> dict[int, int]:
        return dict(zip(array("q", self.pks), array("Q", self.marks), strict=True))


class StatesBuilder:
    """Collects the states of a listing, page by page."""

    def __init__(self) -> None:
        self._pks = array("q")
        self._marks = array("Q")
        self._known: dict[str | None, int] = {}  # password times are often the same for many

    def add(self, users: Iterable[msgspec.Raw]) -> None:
        """One page. A user that cannot be decoded is left out, counts as gone, and so its logins end."""
        for raw in users:
            try:
                state = _decoder.decode(raw)
                mark = self._mark(state.password_change_date)
                self._pks.append(state.pk)
            except (msgspec.MsgspecError, UnicodeError, OverflowError):
                continue
            self._marks.append(mark | state.is_active)

    def _mark(self, moment: str | None) -> int:
        mark = self._known.get(moment)
        if mark is None:
            digest = blake2b((moment or "").encode("utf-8", "replace"), digest_size=MARK_SIZE).digest()
            mark = int.from_bytes(digest, "little") & ~1
            if len(self._known) < 4096:  # bounded: with a time for each user remembering is of no use
                self._known[moment] = mark
        return mark

    def finish(self) -> UserStates:
        """The states."""
        return UserStates(self._pks.tobytes(), self._marks.tobytes())


def states_of(users: Iterable[msgspec.Raw]) -> UserStates:
    """The states of users that are all at hand."""
    builder = StatesBuilder()
    builder.add(users)
    return builder.finish()
