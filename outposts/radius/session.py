"""What lasts longer than one packet: replies to send again, and exchanges that wait for their next packet.

**Duplicates** (RFC 5080 §2.2.2). A client that hears nothing repeats its packet, octet for octet, from the same port
with the same Identifier. While the first copy is being worked on, others are dropped; once it is answered, the same
octets are sent again, so nothing is done twice: no second push, no code used twice. A packet with the same Identifier
and other octets is a new request; what the older one still yields is nobody's any more::

                     same octets            other octets
    unknown          → new                  → new
    in progress      → drop                 → new, the older one's answer is not sent
    answered         → send again           → new

**Exchanges** (RFC 2865 §5.24, RFC 3579 §2.6.1). A conversation of several packets is held together by State: random
octets that we choose anew for each challenge, good for one packet, from the client and for the provider that they were
made for. Nobody else can use up a State, and nothing is created for a State that we did not make::

    open  → State          take: this State, provider, client, in time → the conversation, and State is used up
                           take: anything else                        → nothing, and nothing changes

Time is an argument (seconds of one clock), randomness too. Both tables are bounded; the oldest goes first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")

# Where a packet came from and which one it is: socket or connection, local address, the peer's address, its port,
# Code * 256 + Identifier. Octets, the Request Authenticator among them, are compared beside it.
Key = tuple[object, str, str, int, int]

DUPLICATE_TTL_S = 15.0  # how long a reply is kept; RFC 5080 §2.2.2 asks for 5 to 30 s
# Replies kept, mostly 300 bytes with their request, at most 8 KiB: 15 s at 3,300 requests a second.
MAX_DUPLICATES = 50_000
MAX_DUPLICATE_OCTETS = 32 * 2**20  # of those packets and replies: twice what they usually take, whoever sends long ones
SLICE = 32  # conversations that are ended before others get their turn
STATE_SIZE = 20  # octets of State: one for the worker, 19 of chance
MAX_EXCHANGES = 10_000
MAX_WEIGHT = 256 * 2**20  # octets that they hold together; the operator's ``eap_memory`` takes its place
MAX_NEW_PER_PEER = 100  # new exchanges a second of one client address
EXCHANGE_TTL_S = 60.0  # of an EAP conversation from its first packet; challenges to people bring their own time


@dataclass(slots=True, eq=False)
class Entry:
    """A packet that is being worked on (``reply`` None) or is done (``reply`` empty: nothing was sent).

    ``context`` is what the packet was verified with: a copy is as good as long as that is in service.
    """

    key: Key
    octets: bytes = field(repr=False)
    context: object = field(default=None, repr=False)
    reply: bytes | None = field(default=None, repr=False)
    expires: float = 0.0


class Duplicates:
    """Packets of the last seconds and their replies. Every entry that was begun must be answered or forgotten."""

    def __init__(
        self,
        ttl_s: float = DUPLICATE_TTL_S,
        max_entries: int = MAX_DUPLICATES,
        max_octets: int = MAX_DUPLICATE_OCTETS,
    ) -> None:
        self.ttl_s = ttl_s
        self.max_entries = max_entries
        self.max_octets = max_octets
        self._octets = 0  # of what is done
        self._entries: dict[Key, Entry] = {}
        self._done: deque[Entry] = deque()  # in the order in which they expire

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: Key, octets: bytes, now: float) -> Entry | None:
        """The entry of this very packet; None if it is no copy of a recent one."""
        entry = self._entries.get(key)
        if entry is None or entry.octets != octets or (entry.reply is not None and now >= entry.expires):
            return None
        return entry

    def begin(self, key: Key, octets: bytes, context: object = None) -> Entry:
        """Note a new packet; whatever had this key is forgotten."""
        entry = self._entries[key] = Entry(key, octets, context)
        return entry

    def answer(self, entry: Entry, reply: bytes, now: float) -> bool:
        """Keep a reply, empty for none. False if a newer request has the key: then nothing is to be sent."""
        if self._entries.get(entry.key) is not entry:
            return False
        entry.reply = reply
        entry.expires = now + self.ttl_s
        self._done.append(entry)
        self._octets += len(entry.octets) + len(reply)
        self.sweep(now)
        return True

    def forget(self, entry: Entry) -> None:
        """Nothing came of it: the next copy is worked on again."""
        if self._entries.get(entry.key) is entry:
            del self._entries[entry.key]

    def sweep(self, now: float) -> None:
        """Forget what is over, and the oldest when there are too many."""
        done = self._done
        while done and (done[0].expires <= now or len(done) > self.max_entries or self._octets > self.max_octets):
            self._forget_oldest()

    def clear(self) -> None:
        """Forget all replies; what is in progress stays."""
        while self._done:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        entry = self._done.popleft()
        self._octets -= len(entry.octets) + len(entry.reply or b"")
        self.forget(entry)


@dataclass(slots=True, eq=False)
class _Waiting(Generic[T]):
    """A conversation between two packets. It is kept under its State, which it does not show."""

    value: T
    provider_pk: int
    peer: str
    expires: float
    weight: int


class Exchanges(Generic[T]):
    """Conversations that wait for their next packet, by State.

    ``random(n)`` gives n octets of chance. ``worker`` is this process's number, which State begins with, so that a
    packet that reaches another worker can be passed on. ``on_drop`` is told of each conversation that ends here.
    ``weigh`` says how many octets one holds: together they hold ``max_weight``, which changes at a refresh.
    """

    def __init__(
        self,
        random: Callable[[int], bytes],
        *,
        worker: int = 0,
        max_entries: int = MAX_EXCHANGES,
        max_new_per_peer: int = MAX_NEW_PER_PEER,
        on_drop: Callable[[T], None] = lambda value: None,
        weigh: Callable[[T], int] = lambda value: 0,
        max_weight: int = MAX_WEIGHT,
    ) -> None:
        self.max_entries = max_entries
        self.max_weight = max_weight
        self.weight = 0  # octets that all of them hold
        self._weigh = weigh
        self.max_new_per_peer = max_new_per_peer
        self._random = random
        self._worker = worker
        self._on_drop = on_drop
        self._waiting: dict[bytes, _Waiting[T]] = {}
        self._second = 0
        self._new: dict[str, int] = {}  # by peer, in this second

    def __len__(self) -> int:
        return len(self._waiting)

    def admit(self, peer: str, now: float) -> bool:
        """Count a new conversation of a client address; False if it has begun too many this second."""
        second = int(now)
        if second != self._second:
            self._second = second
            self._new.clear()
        count = self._new.get(peer, 0) + 1
        if count > self.max_new_per_peer:
            return False
        self._new[peer] = count
        return True

    def open(self, value: T, provider_pk: int, peer: str, expires: float) -> bytes:
        """Keep a conversation until its next packet, at most until ``expires``. Returns the State to send."""
        state = bytes((self._worker,)) + self._random(STATE_SIZE - 1)
        self._keep(state, value, provider_pk, peer, expires)
        return state

    def _keep(self, state: bytes, value: T, provider_pk: int, peer: str, expires: float) -> None:
        weight = self._weigh(value)
        self.weight += weight
        self._waiting[state] = _Waiting(value, provider_pk, peer, expires, weight)
        while self._waiting and (len(self._waiting) > self.max_entries or self.weight > self.max_weight):
            self._end(next(iter(self._waiting)))

    def _remove(self, state: bytes) -> T:
        found = self._waiting.pop(state)
        self.weight -= found.weight
        return found.value

    def _end(self, state: bytes) -> None:
        self._on_drop(self._remove(state))

    def take(self, state: bytes, provider_pk: int, peer: str, now: float) -> T | None:
        """The conversation of a State, which is used up by this; None unless it is the right client's, in time."""
        found = self._waiting.get(state)
        if found is None or found.provider_pk != provider_pk or found.peer != peer:
            return None
        self._remove(state)
        if now >= found.expires:
            self._on_drop(found.value)
            return None
        return found.value

    def holds(self, state: bytes) -> bool:
        """Whether a conversation waits under this State, whoever asks."""
        return state in self._waiting

    def put_back(self, state: bytes, value: T, provider_pk: int, peer: str, expires: float) -> None:
        """The packet that took it was not its next packet: State is good again."""
        self._keep(state, value, provider_pk, peer, expires)

    def sweep(self, now: float) -> bool:
        """End conversations whose time is over, at most ``SLICE``; to be called every few seconds. True: more wait.

        They end in slices, because freeing TLS takes a tenth of a millisecond for each.
        """
        over = list(islice((state for state, waiting in self._waiting.items() if now >= waiting.expires), SLICE))
        for state in over:
            self._end(state)
        return len(over) == SLICE

    def end_providers(self, gone: Callable[[int], bool]) -> None:
        """End the conversations of providers (by pk) for which ``gone`` says so."""
        over = [state for state, waiting in self._waiting.items() if gone(waiting.provider_pk)]
        for state in over:
            self._end(state)


def worker_of(state: bytes) -> int | None:
    """Which worker made a State of ours; None if it is none of ours."""
    return state[0] if len(state) == STATE_SIZE else None
