"""The bind cache: what is kept, for how long, and everything that ends it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from common.outcomes import CoreSession
from outposts.ldap.bind_cache import KEY_SIZE, MAX_SWEPT, BindCache, Lifetimes

NOW = 1_000_000.0
LIVES = Lifetimes(fresh_s=300, fresh_with_code_s=60, grace_s=600)


@dataclass(frozen=True)
class Someone:
    """The least that the cache wants to know."""

    provider_pk: int = 1
    user_pk: int = 7
    session: CoreSession = field(default_factory=lambda: CoreSession({}, "a" * 64, None))


def cache_with(
    identity: Someone, *, used_code: bool = False, lives: Lifetimes = LIVES
) -> tuple[BindCache[Someone], bytes]:
    cache: BindCache[Someone] = BindCache(bytes(KEY_SIZE))
    digest = cache.digest(identity.provider_pk, b"cn=alice", b"pw")
    assert cache.put(digest, identity, lives, NOW, used_code=used_code)
    return cache, digest


def test_a_success_is_fresh_until_its_maximum() -> None:
    """bind_cache_max bounds an entry whose session names no end (row 22)."""
    alice = Someone()
    cache, digest = cache_with(alice)
    assert cache.fresh(1, digest, NOW + 299.9) is alice
    assert cache.fresh(1, digest, NOW + 300) is None


def test_a_code_shortens_the_life_and_gives_no_grace() -> None:
    """bind_cache_mfa bounds a bind with a one-time code, and the core's absence does not stretch it."""
    alice = Someone()
    cache, digest = cache_with(alice, used_code=True)
    assert cache.fresh(1, digest, NOW + 59.9) is alice
    assert cache.graced(1, digest, NOW + 60) is None


def test_the_session_ends_the_entry() -> None:
    """The cookie's own end comes first, for grace too (row 21)."""
    alice = Someone(session=CoreSession({}, "b" * 64, NOW + 3))
    cache, digest = cache_with(alice)
    assert cache.fresh(1, digest, NOW + 2.9) is alice
    assert cache.fresh(1, digest, NOW + 3) is None
    assert cache.graced(1, digest, NOW + 3) is None


def test_a_session_that_is_over_is_not_kept() -> None:
    """An end in the past is an end, not for ever."""
    cache: BindCache[Someone] = BindCache(bytes(KEY_SIZE))
    alice = Someone(session=CoreSession({}, "b" * 64, NOW - 1))
    assert not cache.put(b"d", alice, LIVES, NOW, used_code=False)
    assert len(cache) == 0


def test_a_stale_entry_has_grace() -> None:
    """After its maximum an entry counts only for who asked the core in vain, for offline_grace."""
    alice = Someone()
    cache, digest = cache_with(alice)
    assert cache.graced(1, digest, NOW + 899.9) is alice
    assert cache.graced(1, digest, NOW + 900) is None
    assert len(cache) == 0


def test_doubt_asks_the_core_again_and_keeps_the_grace() -> None:
    """After news may have been missed the flow decides; if the core is still away, the grace holds."""
    alice = Someone()
    cache, digest = cache_with(alice)
    assert cache.doubt_all(NOW + 10) == 1
    assert cache.fresh(1, digest, NOW + 10) is None
    assert cache.graced(1, digest, NOW + 10) is alice


@pytest.mark.parametrize(
    "other", [(2, b"cn=alice", b"pw"), (1, b"cn=alicep", b"w"), (1, b"cn=alice", b"PW"), (1, b"cn=bob", b"pw")]
)
def test_only_the_same_bind_hits(other: tuple[int, bytes, bytes]) -> None:
    """Provider, name and password each matter, and none runs into the next."""
    cache, digest = cache_with(Someone())
    assert cache.digest(*other) != digest


def test_the_key_is_the_process_own() -> None:
    """Two processes make different digests of one bind."""
    one: BindCache[Someone] = BindCache(bytes(KEY_SIZE))
    two: BindCache[Someone] = BindCache(bytes([1]) * KEY_SIZE)
    assert one.digest(1, b"n", b"p") != two.digest(1, b"n", b"p")
    with pytest.raises(ValueError):
        BindCache(b"short")


@pytest.mark.parametrize("end", ["session", "user", "provider", "refusal"])
def test_every_end_drops_the_entry(end: str) -> None:
    """Session end, password change or deactivation, provider change, refusal by the flow."""
    dropped: list[Someone] = []
    cache: BindCache[Someone] = BindCache(bytes(KEY_SIZE), on_drop=dropped.append)
    alice, bob = Someone(), Someone(2, 8, CoreSession({}, "c" * 64, None))
    cache.put(b"a", alice, LIVES, NOW, used_code=False)
    cache.put(b"b", bob, LIVES, NOW, used_code=False)
    if end == "session":
        assert cache.end_session("a" * 64) == 1
    elif end == "user":
        assert cache.end_user(7) == 1
    elif end == "provider":
        assert cache.end_provider(1) == 1
    else:
        cache.refused(1, b"a")
    assert cache.graced(1, b"a", NOW) is None
    assert cache.fresh(2, b"b", NOW) is bob
    assert dropped == [alice]
    assert not cache.holds(alice)
    assert cache.holds(bob)


@pytest.mark.parametrize("end", ["session", "user", "provider"])
def test_an_end_during_the_login_prevents_keeping(end: str) -> None:
    """What ended between the begin of a login and its success is not kept."""
    cache: BindCache[Someone] = BindCache(bytes(KEY_SIZE))
    alice = Someone()
    mark = cache.mark()
    ends = {"session": lambda: cache.end_session("a" * 64), "user": lambda: cache.end_user(7)}
    ends.get(end, lambda: cache.end_provider(1))()
    assert cache.ended_since(alice, mark)
    assert cache.session_ended_since(alice, mark) == (end == "session")
    assert not cache.put(b"a", alice, LIVES, NOW, used_code=False, mark=mark)
    if end != "session":
        assert cache.put(b"a", alice, LIVES, NOW, used_code=False, mark=cache.mark())


def test_the_size_is_bounded_per_provider() -> None:
    """The oldest makes room; another provider's entries do not."""
    cache: BindCache[Someone] = BindCache(bytes(KEY_SIZE))
    lives = Lifetimes(300, 60, 600, max_entries=2)
    cache.put(b"other", Someone(provider_pk=2), lives, NOW, used_code=False)
    for name in (b"1", b"2", b"3"):
        cache.put(name, Someone(), lives, NOW, used_code=False)
    assert [cache.fresh(1, name, NOW) is not None for name in (b"1", b"2", b"3")] == [False, True, True]
    assert cache.fresh(2, b"other", NOW) is not None
    assert not cache.put(b"4", Someone(), Lifetimes(300, 60, 600, max_entries=0), NOW, used_code=False)


def test_the_sweep_frees_what_is_over() -> None:
    """Swept in slices, the oldest first."""
    cache: BindCache[Someone] = BindCache(bytes(KEY_SIZE))
    for number in range(MAX_SWEPT + 1):
        cache.put(b"%d" % number, Someone(), LIVES, NOW, used_code=False)
    assert cache.sweep(NOW + 899) == 0
    assert cache.sweep(NOW + 900) == MAX_SWEPT
    assert cache.sweep(NOW + 900) == 1
    assert len(cache) == 0


def test_sessions_without_id_are_told_apart() -> None:
    """A core that does not tell the session's id still gives distinct sessions."""
    cache: BindCache[Someone] = BindCache(bytes(KEY_SIZE))
    one, two = Someone(session=CoreSession({}, None, None)), Someone(session=CoreSession({}, None, None))
    cache.put(b"1", one, LIVES, NOW, used_code=False)
    assert cache.holds(one)
    assert not cache.holds(two)


def test_nothing_secret_shows() -> None:
    """The representation tells the size only."""
    cache, _ = cache_with(Someone())
    assert repr(cache) == "BindCache(1 entries)"
