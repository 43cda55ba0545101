"""Failed logins and how long their senders have to wait. Three counts, each a leaky bucket:

* one account from one address: after ``per_pair`` failures each further one doubles a wait, in which that account is
  answered busy *there*. A success forgets it. This is what stops guessing;
* one address: after ``per_address`` failures a wait for everything from there that would have to ask the core. What the
  bind cache can answer is still answered, so a busy application server keeps its users;
* one account from anywhere: after ``per_account`` failures its logins are delayed by seconds, never refused: otherwise
  anybody could lock out anybody.

An address is an IPv4 address or an IPv6 /64: whoever has one of those has all of it. Names are kept as keyed hashes.
Each count holds at most ``MAX_RECORDS``, of which the longest unused one goes first. Time is an argument (seconds);
nothing here blocks.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

K = TypeVar("K")

KEY_SIZE = 16  # bytes of the process's random key
MAX_RECORDS = 20_000  # of each count, some 250 bytes each: 15 MB when an attacker fills all three
FIRST_WAIT_S = 1.0  # doubled with each further failure: 1, 2, 4, … up to the operator's bind_backoff_max
FIRST_DELAY_S = 0.25
MAX_DELAY_S = 5.0  # below the time-outs of common clients (SSSD 6 s, Nextcloud 15 s)
MAX_DOUBLINGS = 30  # beyond which every wait is at its maximum anyway


@dataclass(frozen=True, slots=True)
class ThrottleLimits:
    """Failures that have no consequence; 0 switches a count off. ``wait_max`` in seconds."""

    per_pair: int = 10
    per_address: int = 200
    per_account: int = 50
    wait_max: float = 300.0


@dataclass(slots=True)
class _Count:
    """Failures, less what time has forgiven since ``at``; logins under way; until when to wait."""

    failures: float = 0.0
    at: float = 0.0
    until: float = 0.0
    pending: int = 0

    def decayed(self, now: float, per_second: float) -> float:
        return max(0.0, self.failures - max(0.0, now - self.at) * per_second)

    def fail(self, now: float, per_second: float, allowed: int, wait_max: float) -> None:
        self.failures = self.decayed(now, per_second) + 1
        self.at = now
        excess = int(self.failures - allowed)
        if excess > 0:
            self.until = now + min(wait_max, FIRST_WAIT_S * 2 ** min(excess - 1, MAX_DOUBLINGS))

    def waiting(self, now: float, wait_max: float) -> bool:
        # A clock that was set back must not make a wait longer than any wait may be.
        return now < self.until <= now + wait_max


@dataclass(slots=True)
class Attempt:
    """A login that may run; to be given back with ``Throttle.end``."""

    account: bytes = field(repr=False)
    address: str
    pair: bytes = field(repr=False)


class Throttle:
    """The counts of this process. ``limits`` may be replaced at a refresh."""

    def __init__(self, key: bytes, limits: ThrottleLimits | None = None) -> None:
        if len(key) != KEY_SIZE:
            raise ValueError(f"the key must have {KEY_SIZE} bytes")
        self._key = key
        self.limits = limits or ThrottleLimits()
        self._pairs: OrderedDict[bytes, _Count] = OrderedDict()
        self._addresses: OrderedDict[str, _Count] = OrderedDict()
        self._accounts: OrderedDict[bytes, _Count] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pairs) + len(self._addresses) + len(self._accounts)

    def attempt(self, provider_pk: int, username: str, client_ip: str) -> Attempt:
        """Who tries from where. Counts nothing yet."""
        text = username.casefold().encode("utf-8", "surrogatepass")
        account = hashlib.blake2b(b"%d " % provider_pk + text, key=self._key, digest_size=16).digest()
        address = network_of(client_ip)
        return Attempt(account, address, account + address.encode())

    def pair_blocked(self, attempt: Attempt, now: float) -> bool:
        """Whether this account has to wait at this address. To be asked before the cache: that answers guesses too."""
        return self.pair_waiting(attempt, now) or self.pair_full(attempt, now)

    def pair_waiting(self, attempt: Attempt, now: float) -> bool:
        """Whether it has to because of its failures."""
        count = self._pairs.get(attempt.pair)
        return count is not None and bool(self.limits.per_pair) and count.waiting(now, self.limits.wait_max)

    def pair_full(self, attempt: Attempt, now: float) -> bool:
        """Whether it has to until one of its logins under way is over.

        They may all fail: only as many run at once as may still fail, but always one.
        """
        count = self._pairs.get(attempt.pair)
        if count is None or not self.limits.per_pair:
            return False
        left = self.limits.per_pair + 1 - int(count.decayed(now, self._pair_rate))
        return count.pending >= max(1, left)

    def address_blocked(self, attempt: Attempt, now: float) -> bool:
        """Whether nothing from this address may ask the core now."""
        count = self._addresses.get(attempt.address)
        return count is not None and bool(self.limits.per_address) and count.waiting(now, self.limits.wait_max)

    def delay_s(self, attempt: Attempt, now: float) -> float:
        """How long a login of this account is to be delayed."""
        allowed = self.limits.per_account
        count = self._accounts.get(attempt.account)
        if count is None or not allowed:
            return 0.0
        excess = int(count.decayed(now, allowed / self._span_s) - allowed)
        return min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(excess - 1, MAX_DOUBLINGS)) if excess > 0 else 0.0

    def begin(self, attempt: Attempt) -> None:
        """A login starts."""
        _of(self._pairs, attempt.pair).pending += 1

    def end(self, attempt: Attempt, now: float, failed: bool | None) -> None:
        """It is over. ``failed`` None: nobody could tell, which counts for nothing."""
        count = _of(self._pairs, attempt.pair)
        count.pending = max(0, count.pending - 1)
        if failed:
            self.fail(attempt, now)
        elif failed is False:
            count.failures = count.until = 0.0
        if not count.pending and not count.failures:
            self._pairs.pop(attempt.pair, None)

    def forgive(self, attempt: Attempt) -> None:
        """A right password without a login: forget the failures of the account at this address, as ``end`` does."""
        count = self._pairs.get(attempt.pair)
        if count is not None:
            count.failures = count.until = 0.0
            if not count.pending:
                del self._pairs[attempt.pair]

    def fail(self, attempt: Attempt, now: float) -> None:
        """Count a failure."""
        limits, span_s = self.limits, self._span_s
        self.fail_pair(attempt, now)
        if allowed := limits.per_address:
            _of(self._addresses, attempt.address).fail(now, allowed / span_s, allowed, limits.wait_max)
        if allowed := limits.per_account:
            _of(self._accounts, attempt.account).fail(now, allowed / span_s, allowed, limits.wait_max)

    def fail_pair(self, attempt: Attempt, now: float) -> None:
        """Count a guess that only the cache has answered."""
        limits = self.limits
        if limits.per_pair:
            _of(self._pairs, attempt.pair).fail(now, self._pair_rate, limits.per_pair, limits.wait_max)

    @property
    def _span_s(self) -> float:
        """Seconds in which a full count is forgiven; of a pair: a single failure, so its waits really reach the top."""
        return max(1.0, self.limits.wait_max)

    @property
    def _pair_rate(self) -> float:
        return 1.0 / self._span_s


def _of(counts: OrderedDict[K, _Count], key: K) -> _Count:
    """The count of a key, made if need be, now the youngest."""
    count = counts.get(key)
    if count is None:
        count = counts[key] = _Count()
        while len(counts) > MAX_RECORDS:
            counts.popitem(last=False)
    else:
        counts.move_to_end(key)
    return count


@lru_cache(maxsize=4096)
def network_of(client_ip: str) -> str:
    """The address that is counted: IPv4 as it is, IPv6 by its /64."""
    try:
        address = ipaddress.ip_address(client_ip.partition("%")[0])
    except ValueError:
        return client_ip
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
    return str(address)
