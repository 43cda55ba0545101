"""Paged results (RFC 2696): the control's values, and cookies that carry their own state.

The server remembers nothing between two pages. A cookie holds where the last page ended and is sealed, with a key of
this outpost, over the search it belongs to, so a cookie of another search, of another viewer or made up is told at
once.

A page after the directory was refreshed continues behind the last entry that was sent: entries keep their numbers from
one snapshot to the next, and where they do not (direct mode, the small view of an unprivileged user) the order is by
name. So an entry that did not change comes exactly once, whatever happened between the pages.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

import msgspec

from common.errors import OutpostError
from outposts.ldap.ber import ProtocolError, encode_integer, encode_octets, expect, integer, octets, sequence, skip_rest
from outposts.ldap.directory import Snapshot
from outposts.ldap.rfc import MAX_INT, SEQUENCE
from outposts.ldap.sorting import Key

MAC_SIZE: Final = 16
"""Bytes. 128 bits cannot be guessed over a connection."""

KEY_SIZE: Final = 32
"""Bytes of the key that cookies are sealed with."""

KEPT_S: Final = 60.0
"""Seconds for which the directory fetched for one page of a direct search serves the next: clients ask at once, and
nobody wants older data from a mode that is called direct."""

KEPT_BYTES: Final = 64 * 1024 * 1024
"""Encoded entries kept for that, all searches together; some 60,000 users."""

KEPT_FACTOR: Final = 3
"""A snapshot of a few entries takes about this many times the bytes of its encoded entries: indexes, offsets."""


class PagedRequest(msgspec.Struct, frozen=True):
    """realSearchControlValue of a request (RFC 2696 §2). Size 0: only the count, or the end of a listing."""

    size: int
    cookie: bytes


def decode(value: bytes | None) -> PagedRequest:
    """Read the control value. Raises ``ProtocolError`` and nothing else."""
    if value is None:
        raise ProtocolError("paged results control without value", fatal=False)
    at, stop = expect(value, 0, len(value), SEQUENCE)
    size, at = integer(value, at, stop)
    cookie, at = octets(value, at, stop)
    skip_rest(value, at, stop)
    if stop != len(value) or not 0 <= size <= MAX_INT:
        raise ProtocolError("not a paged results control value", fatal=False)
    return PagedRequest(size, cookie)


def encode(size: int, cookie: bytes) -> bytes:
    """Value of the response control: number of entries of the whole listing, and the cookie of the next page."""
    return sequence(encode_integer(min(size, MAX_INT)), encode_octets(cookie))


class Position(msgspec.Struct, frozen=True, array_like=True):
    """Where a page ended."""

    number: int  # of the last entry sent
    uuid: bytes  # its entryUUID
    keys: tuple[Key, ...]  # what the listing is sorted by; empty when it is not, or cannot be
    values: tuple[bytes | None, ...]  # the entry's values of these, and its name where numbers do not last
    sent: int  # entries so far, all pages together


class CookieError(OutpostError):
    """The cookie is not one of this search: unwillingToPerform (53)."""


_DECODER = msgspec.msgpack.Decoder(Position)


class Cookies:
    """Makes and reads cookies. ``key``: ``KEY_SIZE`` random bytes; processes with the same one share their cookies."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def write(self, query: bytes, position: Position) -> bytes:
        """Cookie for ``position`` in the search told by ``query`` (a digest)."""
        payload = msgspec.msgpack.encode(position)
        return self._seal(query, payload) + payload

    def read(self, query: bytes, cookie: bytes) -> Position:
        """The position. Raises ``CookieError`` for any cookie that was not made for this search."""
        seal, payload = cookie[:MAC_SIZE], cookie[MAC_SIZE:]
        if not hmac.compare_digest(seal, self._seal(query, payload)):
            raise CookieError("cookie does not belong to this search")
        try:
            return _DECODER.decode(payload)
        except msgspec.MsgspecError:
            raise CookieError("cookie does not belong to this search") from None

    def _seal(self, query: bytes, payload: bytes) -> bytes:
        return blake2b(len(query).to_bytes(4, "big") + query + payload, digest_size=MAC_SIZE, key=self._key).digest()


def cookie_key(token: str) -> bytes:
    """The key of cookies, from the outpost's token: the same for all workers and after a restart."""
    return blake2b(token.encode("utf-8", "surrogateescape"), digest_size=KEY_SIZE, person=b"ldap page key").digest()


class KeptSnapshots:
    """Directories fetched for direct searches that go on page by page: a few, for a short time."""

    def __init__(self, now: Callable[[], float]) -> None:
        """``now``: a monotonic clock in seconds."""
        self._now = now
        self._kept: OrderedDict[bytes, tuple[float, int, Snapshot]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, query: bytes) -> Snapshot | None:
        """What was kept for this search, if it is not too old."""
        found = self._kept.get(query)
        if found is None or found[0] < self._now():
            return None
        return found[2]

    def put(self, query: bytes, snapshot: Snapshot) -> None:
        """Keep for ``KEPT_S`` from now; what is too old or too much goes."""
        self.drop(query)
        size = KEPT_FACTOR * sum(len(store.data) for store in snapshot.stores.values())
        self._kept[query] = (self._now() + KEPT_S, size, snapshot)
        self._bytes += size
        while self._bytes > KEPT_BYTES:
            self.drop(next(iter(self._kept)))
        self.purge()

    def purge(self) -> None:
        """Let go of what is too old."""
        while self._kept and next(iter(self._kept.values()))[0] < self._now():
            self.drop(next(iter(self._kept)))

    def drop(self, query: bytes) -> None:
        """The listing is over."""
        former = self._kept.pop(query, None)
        if former is not None:
            self._bytes -= former[1]
