"""The public keys that providers sign with (JWK sets, RFC 7517), fetched when needed and kept for a while.

A token with an unknown key's name makes us look again, because providers change keys; but whoever can send tokens could
make us ask all the time that way, so one set is fetched at most once in ``GAP_S``, and once for all who wait. A set
that cannot be fetched any more stays good for ``STALE_S``: a core that is down must not log out those who are in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from outposts.proxy.backchannel import BackChannel, CallError
from outposts.proxy.tokens import Key, keys_of

KEEP_S = 600.0  # time after which a set is fetched again: so long does a key that was withdrawn still count
STALE_S = 86_400.0  # time for which an old set counts when there is no newer one to be had
GAP_S = 10.0  # between two fetches of one set because of unknown names
RETRY_S = 1.0  # after a failure: those who come within it get the same failure
MAX_KEYS = 32  # of one set; the core has one per certificate, and each may be tried against a token without a name
MAX_SETS = 256  # providers of one outpost with keys of their own; the set fetched longest ago goes first

Headers = Sequence[tuple[str, str]]


@dataclass(slots=True)
class _Set:
    """One set. ``at`` and ``failed`` are moments; ``fetching`` is shared by all who wait."""

    keys: tuple[Key, ...] = ()
    at: float = float("-inf")
    failed: float = float("-inf")
    problem: str = ""
    fetching: asyncio.Task[None] | None = field(default=None, repr=False)


class KeySets:
    """All sets, by URL. ``monotonic`` gives seconds that only grow."""

    def __init__(self, channel: BackChannel, monotonic: Callable[[], float]) -> None:
        self._channel = channel
        self._now = monotonic
        self._sets: dict[str, _Set] = {}

    async def get(self, url: str, headers: Headers = ()) -> tuple[Key, ...]:
        """The keys at a URL. Raises ``CallError`` if there are none to be had."""
        entry = self._entry(url)
        if self._now() - entry.at < KEEP_S:
            return entry.keys
        try:
            await self._fetch(url, entry, headers)
        except CallError:
            if self._now() - entry.at > STALE_S:
                raise
        return entry.keys

    async def newer(self, url: str, known: tuple[Key, ...], headers: Headers = ()) -> tuple[Key, ...]:
        """As ``get``, for somebody to whom ``known`` was not enough. The same keys if it is too early to ask again."""
        entry = self._entry(url)
        if entry.keys is known and self._now() - entry.at >= GAP_S:
            await self._fetch(url, entry, headers)
        return entry.keys

    async def _fetch(self, url: str, entry: _Set, headers: Headers) -> None:
        if self._now() - entry.failed < RETRY_S:
            raise CallError(entry.problem)
        if entry.fetching is None:
            entry.fetching = asyncio.get_running_loop().create_task(self._fetch_now(url, entry, headers))
        # Whoever gives up waiting must not take the answer away from the others.
        await asyncio.shield(entry.fetching)
        if entry.failed > entry.at:
            raise CallError(entry.problem)

    async def _fetch_now(self, url: str, entry: _Set, headers: Headers) -> None:
        try:
            reply = await self._channel.get(url, headers)
            if reply.status != 200:
                raise CallError(f"the core answers {reply.status} when asked for its keys", answered=True)
            keys = keys_of(reply.content, MAX_KEYS)
        except CallError as error:
            entry.failed, entry.problem = self._now(), error.problem
        else:
            entry.keys, entry.at, entry.failed = keys, self._now(), float("-inf")
        finally:
            entry.fetching = None

    def _entry(self, url: str) -> _Set:
        entry = self._sets.get(url)
        if entry is None:
            if len(self._sets) >= MAX_SETS:
                del self._sets[min(self._sets, key=lambda name: self._sets[name].at)]
            entry = self._sets[url] = _Set()
        return entry
