"""Which binds may skip the flow, until when, and what ends that.

Only successes are kept. The key is a keyed BLAKE2 over provider, normalised DN and password under a random key of this
process: the cache holds no password and says nothing to who reads it later. An entry is *fresh* for a bounded time:
the least of ``bind_cache_max`` (``bind_cache_mfa`` when a one-time code was used) and the session's own end on the
core.
After that it is *stale*: the flow must run again, and only if the core does not answer may the entry still count, up to
``offline_grace`` later and never beyond the session's end. A bind with a one-time code gets no such grace: its code
must not live longer than an operator allowed.

Entries end at once on: end of the core session, password change or deactivation seen in a refresh, a change of the
provider, a refusal by the flow. After the link to the core was away so long that such news may have been missed, all
entries become stale, not gone: the next bind asks the core, and if that is still away the grace holds (an outage
shorter than that changes nothing).

An end may arrive while the login that it concerns is still on its way here. Every end is therefore numbered and
remembered for a while, and ``put`` takes the number that stood when the login began (``mark``).

Time is an argument: ``now`` in unix seconds. Nothing here blocks or does input or output.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

DIGEST_SIZE = 32  # bytes of BLAKE2: collisions are out of reach
KEY_SIZE = 32  # bytes of the process's random key
DEFAULT_MAX_ENTRIES = 100_000  # of one provider, about 300 bytes each; the operator's bind_cache_size replaces it
MAX_SWEPT = 1000  # entries of one sweep: below a millisecond of the loop's time
MAX_ENDED = 20_000  # ends remembered for logins under way; a login lasts at most a few minutes


class Session(Protocol):
    """What the cache needs to know of a session on the core (``common.login.CoreSession``)."""

    @property
    def session_id(self) -> str | None:
        """SHA-256 of the session key in hex, as session ends name it; None if the cookie did not tell."""

    @property
    def expires(self) -> float | None:
        """Unix seconds at which the session ends, if the core said so."""


class Bound(Protocol):
    """What a successful bind yields (``auth.Identity``)."""

    @property
    def provider_pk(self) -> int:
        """The provider that granted it."""

    @property
    def user_pk(self) -> int:
        """The user on the core."""

    @property
    def session(self) -> Session:
        """The session that the login opened."""


B = TypeVar("B", bound=Bound)


def session_key(session: Session) -> str:
    """What tells a session from all others: its id, or this very object if the core did not tell the id."""
    return session.session_id or f"object {id(session)}"


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long an entry counts, in seconds: an operator's settings of one provider."""

    fresh_s: float
    fresh_with_code_s: float
    grace_s: float
    max_entries: int = DEFAULT_MAX_ENTRIES


@dataclass(slots=True)
class _Entry(Generic[B]):
    identity: B
    fresh_until: float
    grace_until: float


@dataclass(slots=True)
class _Shelf(Generic[B]):
    """The entries of one provider, the oldest first."""

    entries: OrderedDict[bytes, _Entry[B]] = field(default_factory=OrderedDict)
    by_user: dict[int, set[bytes]] = field(default_factory=dict)


class BindCache(Generic[B]):
    """The cached binds of all providers of this process.

    ``key`` is ``KEY_SIZE`` random bytes; ``on_drop`` is told each identity that leaves the cache (its session may have
    no other user now).
    """

    def __init__(self, key: bytes, *, on_drop: Callable[[B], None] = lambda identity: None) -> None:
        if len(key) != KEY_SIZE:
            raise ValueError(f"the key must have {KEY_SIZE} bytes")
        self._key = key
        self._on_drop = on_drop
        self._shelves: dict[int, _Shelf[B]] = {}
        self._by_session: dict[str, set[tuple[int, bytes]]] = {}
        self._number = 0
        self._ended: OrderedDict[tuple[str, str | int], int] = OrderedDict()

    def __repr__(self) -> str:
        return f"BindCache({len(self)} entries)"

    def __len__(self) -> int:
        return sum(len(shelf.entries) for shelf in self._shelves.values())

    def digest(self, provider_pk: int, name: bytes, password: bytes) -> bytes:
        """The key of a bind: provider, normalised name (``DN.key``), password; lengths keep them apart."""
        hash_ = hashlib.blake2b(key=self._key, digest_size=DIGEST_SIZE)
        for part in (b"%d" % provider_pk, name, password):
            hash_.update(len(part).to_bytes(8, "big"))
            hash_.update(part)
        return hash_.digest()

    def fresh(self, provider_pk: int, digest: bytes, now: float) -> B | None:
        """The identity of a bind that may be answered without asking the core."""
        entry = self._find(provider_pk, digest, now)
        return entry.identity if entry is not None and now < entry.fresh_until else None

    def graced(self, provider_pk: int, digest: bytes, now: float) -> B | None:
        """The identity of a bind that may be answered because the core did not answer just now."""
        entry = self._find(provider_pk, digest, now)
        return entry.identity if entry is not None else None

    def mark(self) -> int:
        """The number of the last end so far; take it before a login begins."""
        return self._number

    def ended_since(self, identity: B, mark: int) -> bool:
        """Whether the session of a login that began at ``mark``, its user or its provider was ended meanwhile."""
        return any(self._ended.get(name, 0) > mark for name in _names(identity))

    def session_ended_since(self, identity: B, mark: int) -> bool:
        """The same for the session alone."""
        return self._ended.get(("session", session_key(identity.session)), 0) > mark

    def put(
        self, digest: bytes, identity: B, lifetimes: Lifetimes, now: float, *, used_code: bool, mark: int = 0
    ) -> bool:
        """Keep a success of a login that began at ``mark``. False: not kept, no lifetime left or ended meanwhile."""
        fresh_until = now + (lifetimes.fresh_with_code_s if used_code else lifetimes.fresh_s)
        grace_until = fresh_until + (0 if used_code else lifetimes.grace_s)
        if identity.session.expires is not None:
            fresh_until = min(fresh_until, identity.session.expires)
            grace_until = min(grace_until, identity.session.expires)
        self._remove(identity.provider_pk, digest)
        if fresh_until <= now or lifetimes.max_entries <= 0 or self.ended_since(identity, mark):
            return False
        shelf = self._shelves.setdefault(identity.provider_pk, _Shelf())
        shelf.entries[digest] = _Entry(identity, fresh_until, grace_until)
        shelf.by_user.setdefault(identity.user_pk, set()).add(digest)
        self._by_session.setdefault(session_key(identity.session), set()).add((identity.provider_pk, digest))
        while len(shelf.entries) > lifetimes.max_entries:
            self._remove(identity.provider_pk, next(iter(shelf.entries)))
        return True

    def refused(self, provider_pk: int, digest: bytes) -> None:
        """The core refused what an entry still held: forget it."""
        self._remove(provider_pk, digest)

    def end_session(self, session_id: str) -> int:
        """A session ended on the core. Returns the number of entries dropped."""
        self._note(("session", session_id))
        doomed = list(self._by_session.get(session_id, ()))
        for provider_pk, digest in doomed:
            self._remove(provider_pk, digest)
        return len(doomed)

    def end_user(self, user_pk: int) -> int:
        """A user's password changed, or the user was deactivated or deleted. Returns the number of entries dropped."""
        self._note(("user", user_pk))
        doomed = [(pk, digest) for pk, shelf in self._shelves.items() for digest in shelf.by_user.get(user_pk, ())]
        for provider_pk, digest in doomed:
            self._remove(provider_pk, digest)
        return len(doomed)

    def end_provider(self, provider_pk: int) -> int:
        """A provider changed or went away. Returns the number of entries dropped."""
        self._note(("provider", provider_pk))
        shelf = self._shelves.get(provider_pk)
        doomed = list(shelf.entries) if shelf is not None else []
        for digest in doomed:
            self._remove(provider_pk, digest)
        return len(doomed)

    def doubt_all(self, now: float) -> int:
        """News may have been missed: every entry must pass the flow again when next used. Returns their number."""
        for shelf in self._shelves.values():
            for entry in shelf.entries.values():
                entry.fresh_until = min(entry.fresh_until, now)
        return len(self)

    def sweep(self, now: float) -> int:
        """Drop the oldest entries that nobody can use any more; to be called every few seconds. Returns their number.

        Stops at the first entry that still counts: entries are in the order of their making, so one that ends early
        waits behind its elders at most their lifetime (it is not *used* meanwhile).
        """
        dropped = 0
        for provider_pk, shelf in list(self._shelves.items()):
            while shelf.entries and dropped < MAX_SWEPT:
                digest, entry = next(iter(shelf.entries.items()))
                if not _over(entry, now):
                    break
                self._remove(provider_pk, digest)
                dropped += 1
        return dropped

    def holds(self, identity: B) -> bool:
        """Whether an entry rests on this identity's session, so that ending it would end the entry."""
        return session_key(identity.session) in self._by_session

    def _find(self, provider_pk: int, digest: bytes, now: float) -> _Entry[B] | None:
        shelf = self._shelves.get(provider_pk)
        entry = shelf.entries.get(digest) if shelf is not None else None
        if entry is not None and _over(entry, now):
            self._remove(provider_pk, digest)
            return None
        return entry

    def _note(self, name: tuple[str, str | int]) -> None:
        self._number += 1
        self._ended[name] = self._number
        self._ended.move_to_end(name)
        if len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)

    def _remove(self, provider_pk: int, digest: bytes) -> None:
        shelf = self._shelves.get(provider_pk)
        entry = shelf.entries.pop(digest, None) if shelf is not None else None
        if shelf is None or entry is None:
            return
        identity = entry.identity
        _discard(shelf.by_user, identity.user_pk, digest)
        _discard(self._by_session, session_key(identity.session), (provider_pk, digest))
        if not shelf.entries:
            del self._shelves[provider_pk]
        self._on_drop(identity)


K = TypeVar("K")
V = TypeVar("V")


def _discard(sets: dict[K, set[V]], key: K, value: V) -> None:
    members = sets.get(key)
    if members is not None:
        members.discard(value)
        if not members:
            del sets[key]


def _names(identity: Bound) -> tuple[tuple[str, str | int], ...]:
    return (
        ("session", session_key(identity.session)),
        ("user", identity.user_pk),
        ("provider", identity.provider_pk),
    )


def _over(entry: _Entry[B], now: float) -> bool:
    return now >= entry.fresh_until and now >= entry.grace_until
