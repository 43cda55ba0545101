"""Feeds: each cached provider's directory as it goes from snapshot to snapshot, and the cookies that name its states.

Who follows a feed, and what it is told, is in ``sync.py``.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from pyroaring import BitMap

from outposts.ldap.changes import IDENTITY_SIZE, ChangeLog, ChangeSet, identity
from outposts.ldap.directory import Snapshot
from outposts.ldap.dn import DN
from outposts.ldap.evaluation import matches
from outposts.ldap.filters import Filter

if TYPE_CHECKING:
    from outposts.ldap.sync import Follower

KEY_SIZE: Final = 32  # bytes
MAC_SIZE: Final = 16  # bytes
COOKIE_VERSION: Final = b"1."
CONTENTS_KEPT: Final = 64  # results of filters per snapshot, for followers that ask for the same


class CookieSealer:
    """Makes and reads cookies: which state of the directory a client has, for which search of which viewer.

    The state is in it in the clear; a keyed digest over it and the search makes a cookie of another search, another
    viewer or another server as good as none. ASCII, because some clients keep cookies as text.
    """

    def __init__(self, key: bytes) -> None:
        """``key``: the same for all workers and after a restart, up to 64 bytes."""
        self._key = key

    def __repr__(self) -> str:
        return "CookieSealer(***)"

    def seal(self, state: bytes, search: bytes) -> bytes:
        """``state``: an identity; ``search``: digest of the search it belongs to."""
        return COOKIE_VERSION + base64.urlsafe_b64encode(state + self._mac(state, search)).rstrip(b"=")

    def open(self, cookie: bytes | None, search: bytes) -> bytes | None:
        """The state, or None for a cookie that is not one of ours for this search."""
        if cookie is None or not cookie.startswith(COOKIE_VERSION):
            return None
        text = cookie[len(COOKIE_VERSION) :]
        try:
            content = base64.b64decode(text + b"=" * (-len(text) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        state, mac = content[:IDENTITY_SIZE], content[IDENTITY_SIZE:]
        return state if hmac.compare_digest(mac, self._mac(state, search)) else None

    def _mac(self, state: bytes, search: bytes) -> bytes:
        return blake2b(state + search, key=self._key, digest_size=MAC_SIZE, person=b"ldap sync cookie").digest()


def cookie_key(token: str) -> bytes:
    """The key of cookies, from the outpost's token: the same for all workers and after a restart."""
    return blake2b(token.encode("utf-8", "surrogateescape"), digest_size=KEY_SIZE, person=b"ldap sync key").digest()


class Feed:
    """One provider's directory from snapshot to snapshot, and who follows it."""

    def __init__(self, provider_pk: int, snapshot: Snapshot, keep: int) -> None:
        """``keep``: change sets to remember."""
        self.provider_pk = provider_pk
        self.snapshot = snapshot
        self.log = ChangeLog(keep)
        self.followers: set[Follower] = set()
        self.offered: Snapshot | None = None  # a newer one, being compared
        self.closed = False
        self.idle: int | None = None  # snapshots since a search followed; None: none ever did
        self._identity: bytes | None = None
        self._contents: dict[tuple[bytes, int, bytes], BitMap] = {}

    @property
    def identity(self) -> bytes:
        """Identity of the snapshot; made when it is first asked for."""
        if self._identity is None:
            self._identity = identity(self.snapshot)
        return self._identity

    def publish(self, newer: Snapshot, changes: ChangeSet | None) -> list[Follower]:
        """Go on to a newer snapshot. Returns who has something to be told.

        ``changes`` None: they are not known; whoever follows has to begin anew.
        """
        before = self.identity
        self.snapshot = newer
        self._contents.clear()
        if changes is None:
            self.log.clear()
            self._identity = identity(newer)
        else:
            self._identity = changes.after
            if changes.after != before:
                self.log.append(changes, len(newer))
        return list(self.followers) if self._identity != before else []

    def skip_to(self, newer: Snapshot) -> None:
        """Go on without knowing what changed: nobody is there, and nobody's cookie is young enough to ask."""
        self.snapshot = newer
        self._identity = None
        self._contents.clear()
        self.log.clear()

    def content(self, base: DN, scope: int, encoded: bytes, node: Filter) -> BitMap:
        """Entries of the current snapshot that a search chooses; remembered for others that ask the same."""
        key = (base.key, scope, encoded)
        found = self._contents.get(key)
        if found is None:
            found = chosen(self.snapshot, base, scope, node)
            if len(self._contents) >= CONTENTS_KEPT:
                self._contents.clear()
            self._contents[key] = found
        return found

    def close(self) -> list[Follower]:
        """The directory is gone. Returns who has to be told."""
        self.closed = True
        return list(self.followers)


def chosen(snapshot: Snapshot, base: DN, scope: int, node: Filter) -> BitMap:
    """Entries that match in scope; none below a base that does not exist."""
    below = snapshot.below(base, scope)
    return BitMap() if below is None else matches(snapshot, node) & below


class Feeds:
    """The feeds of all cached providers. ``keep``: generations of changes to remember, may be changed."""

    def __init__(self, key: bytes, keep: int = 16) -> None:
        self.cookies = CookieSealer(key)
        self.keep = keep
        self.max_followers = 1000
        self._feeds: dict[int, Feed] = {}

    def __len__(self) -> int:
        """Number of searches that follow."""
        return sum(len(feed.followers) for feed in self._feeds.values())

    def of(self, provider_pk: int) -> Feed | None:
        """The feed of a provider."""
        return self._feeds.get(provider_pk)

    def offer(self, snapshots: Mapping[int, Snapshot]) -> tuple[list[Feed], list[Follower]]:
        """The directories in service now, by provider pk.

        Returns the feeds whose snapshot has to be compared with ``offered`` and then published, and the followers of
        directories that are gone.
        """
        orphans: list[Follower] = []
        for pk in self._feeds.keys() - snapshots.keys():
            orphans += self._feeds.pop(pk).close()
        waiting = []
        for pk, snapshot in snapshots.items():
            feed = self._feeds.get(pk)
            if feed is None:
                self._feeds[pk] = Feed(pk, snapshot, self.keep)
                continue
            feed.log.keep = self.keep
            if feed.offered is not None:
                feed.offered = snapshot  # whoever compares looks again when done
            elif feed.snapshot is not snapshot:
                if feed.followers:
                    feed.idle = 0
                elif feed.idle is None or feed.idle >= self.keep:
                    feed.skip_to(snapshot)  # to compare would take time, and keep the old directory in memory
                    continue
                else:
                    feed.idle += 1
                feed.offered = snapshot
                waiting.append(feed)
        return waiting, orphans
