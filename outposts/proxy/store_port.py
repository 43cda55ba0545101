"""Where sessions are kept: the port that ``store_memory.py``, ``store_sqlite.py`` and ``store_redis.py`` serve."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from common.shared_store import StoreUnavailable


class StoreFull(StoreUnavailable):
    """There is no room for another session."""

    retryable = False


@dataclass(frozen=True, slots=True)
class Row:
    """A session as a backend keeps it. Times in unix seconds; ``subject`` and ``sid`` are a vault's indexes, or b""."""

    key: bytes
    provider: int
    subject: bytes
    sid: bytes
    expires: float
    seen: float
    sealed: bytes = field(repr=False)


class News(Protocol):
    """Who has to hear what becomes of sessions, by whichever process."""

    def removed(self, keys: Sequence[bytes]) -> None:
        """These have ended."""

    def changed(self, keys: Sequence[bytes]) -> None:
        """These have other content now."""

    def doubt(self) -> None:
        """Something may have been missed."""


class Backend(Protocol):
    """Where sessions are kept. Everything but ``open`` raises ``StoreUnavailable`` if it cannot be done."""

    kind: str

    @property
    def trusted(self) -> bool:
        """Whether ends of sessions that other processes cause are heard of now."""

    async def open(self, news: News) -> None:
        """Make ready; tell ``news`` what happens from now on. Raises ``StartError``."""

    async def load(self, key: bytes) -> Row | None:
        """A session."""

    async def put(self, row: Row, now: float, replaces: bytes | None = None) -> None:
        """Keep a new session, in the place of another one if one is named. Raises ``StoreFull`` too."""

    async def update(self, row: Row) -> bool:
        """Replace a session's content. False if it is not there any more: nothing is written then."""

    async def seen(self, moments: Mapping[bytes, float]) -> None:
        """Note when sessions were last used."""

    async def remove(self, keys: Sequence[bytes]) -> None:
        """End sessions; all processes are told."""

    async def find(self, indexes: Sequence[bytes]) -> list[bytes]:
        """Keys of the sessions with one of these subjects or sids."""

    def rows(self) -> AsyncIterator[Row]:
        """All sessions."""

    async def use_once(self, key: bytes, now: float, ttl_s: float) -> bool:
        """True for the first who asks within ``ttl_s`` seconds."""

    async def forget_use(self, key: bytes) -> None:
        """The next who asks is the first again."""

    async def put_blob(self, key: bytes, value: bytes, now: float, ttl_s: float) -> None:
        """Keep octets for ``ttl_s`` seconds. Raises ``StoreFull`` too."""

    async def take_blob(self, key: bytes, now: float) -> bytes | None:
        """Octets that were kept, which are gone then."""

    async def sweep(self, now: float) -> None:
        """Drop what is over."""

    async def count(self) -> int:
        """How many sessions there are, about."""

    async def close(self) -> None:
        """Let go."""
