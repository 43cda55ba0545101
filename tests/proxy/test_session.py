"""``outposts/proxy/session.py``: every state meets every event; what a session holds, and how long it counts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outposts.proxy import session as sessions
from outposts.proxy.identity import IdentityOptions, claims_of
from outposts.proxy.session import (
    MAX_STORED,
    MOVES,
    Event,
    Session,
    SessionError,
    State,
    StoredError,
    decode,
    encode,
    end_of_life,
    key_of,
    move,
    new_cookie,
    renew,
)
from tests.proxy.site import ALL, CLAIMS, NOW, randomness, session_at

SINGLE = ALL.by_pk[1]


def test_every_state_meets_every_event() -> None:
    """What is in the table follows; anything else is an error and nothing."""
    assert MOVES.keys() == set(State)
    for state in State:
        for event in Event:
            if event in MOVES[state]:
                assert move(state, event) is MOVES[state][event]
            else:
                with pytest.raises(SessionError):
                    move(state, event)


def test_only_proof_authenticates() -> None:
    """A verified token, good credentials or renewed tokens; and whatever ends a session ends it."""
    entering = {event for moves in MOVES.values() for event, after in moves.items() if after is State.AUTHENTICATED}
    from_nothing = {
        event
        for state, moves in MOVES.items()
        for event, after in moves.items()
        if after is State.AUTHENTICATED and state is not State.AUTHENTICATED
    }
    assert from_nothing == {Event.LOGIN_PASSED, Event.CREDENTIALS_PASSED}
    assert entering == from_nothing | {Event.LOGIN_BEGUN, Event.LOGIN_FAILED, Event.REFRESHED}
    for event in (Event.SIGNED_OUT, Event.EXPIRED, Event.IDLED, Event.REVOKED):
        assert MOVES[State.AUTHENTICATED][event] is State.ENDED
    assert Event.REFRESHED not in MOVES[State.ENDED]


@given(st.lists(st.sampled_from(Event)))
def test_any_story(story: list[Event]) -> None:
    """However it goes: after an end, nothing but proof leads back."""
    state, proved = State.ANONYMOUS, False
    for event in story:
        try:
            state = move(state, event)
        except SessionError:
            continue
        proved = state is State.AUTHENTICATED and (proved or event in (Event.LOGIN_PASSED, Event.CREDENTIALS_PASSED))
        assert (state is State.AUTHENTICATED) == proved


def test_cookies_are_random_and_stored_as_digests() -> None:
    """43 characters; the key tells nothing about them."""
    random = randomness()
    first, second = new_cookie(random), new_cookie(random)
    assert first != second
    for cookie in (first, second):
        assert sessions.COOKIE_VALUE.fullmatch(cookie)
        assert len(key_of(cookie)) == 32
        assert cookie.encode() not in key_of(cookie)


def test_what_a_login_makes() -> None:
    """Claims, headers, groups, names to be found by."""
    session = session_at(SINGLE)
    assert (session.provider_pk, session.client_id, session.subject) == (1, "cid-single", CLAIMS["sub"])
    assert session.sid == CLAIMS["sid"]
    assert session.groups == {"staff", "admins"}
    assert b"X-Authentik-Username: alice\r\n" in session.identity.block
    assert session.key == key_of("c" * 43)
    assert repr(session) == "Session(provider_pk=1, state=authenticated)"


@pytest.mark.parametrize(
    ("exp", "validity_s", "end"),
    [
        (NOW + 30, 3600.0, NOW + 30),
        (NOW + 7200, 3600.0, NOW + 3600),
        (NOW + 30, 0.0, NOW + 30),
        (None, 3600.0, NOW + 3600),
        (None, 0.0, NOW),
        (NOW - 5, 3600.0, NOW - 5),
    ],
)
def test_h04_the_earlier_end_counts(exp: float | None, validity_s: float, end: float) -> None:
    """The token's, or the provider's validity; nothing said is no life at all."""
    assert end_of_life(claims_of({"exp": exp} if exp is not None else {}), validity_s, NOW) == end


def test_life() -> None:
    """Until its token's end, its own end, or too long a silence."""
    session = session_at(SINGLE)
    assert session.live(NOW)
    assert session.live(NOW + 1799.9)
    assert not session.live(NOW + 1800)
    assert not session.renewable(NOW + 1800)
    assert session.live(NOW + 59, 60.0)
    assert not session.live(NOW + 60, 60.0)
    session.seen = NOW + 50
    assert session.live(NOW + 100, 60.0)


@pytest.mark.parametrize("event", [Event.SIGNED_OUT, Event.EXPIRED, Event.IDLED, Event.REVOKED])
def test_after_the_end(event: Event) -> None:
    """It never counts again, and cannot be renewed."""
    session = session_at(SINGLE, refresh_token="r", max_life_s=86_400.0)
    session.end(event)
    assert session.state is State.ENDED
    assert not session.live(NOW)
    assert not session.renewable(NOW)
    with pytest.raises(SessionError):
        renewed(session)
    session.end(Event.REVOKED)


def renewed(session: Session, now: float = NOW + 1800, **claims: Any) -> None:
    """New tokens for it."""
    renew(
        session,
        payload=CLAIMS | {"exp": now + 1800} | claims,
        token="new.t.t",
        refresh_token="",
        options=SINGLE.options,
        now=now,
        validity_s=3600.0,
    )


def test_renewal() -> None:
    """Its token is over, it is not: new claims count, and its own end stays."""
    session = session_at(SINGLE, refresh_token="r", max_life_s=4000.0)
    assert session.expires == NOW + 4000
    assert not session.live(NOW + 1800)
    assert session.renewable(NOW + 1800)
    renewed(session, groups=["other"])
    assert session.live(NOW + 1800)
    assert session.groups == {"other"}
    assert b"X-Authentik-Groups: other\r\n" in session.identity.block
    assert b"new.t.t" in session.identity.block
    assert (session.token, session.refresh_token) == ("new.t.t", "r")
    renewed(session, now=NOW + 3600)
    assert session.fresh_until == NOW + 4000
    assert not session.renewable(NOW + 4000)


def test_renewal_for_somebody_else() -> None:
    """Nothing changes."""
    session = session_at(SINGLE, refresh_token="r", max_life_s=4000.0)
    with pytest.raises(SessionError):
        renewed(session, sub="somebody")
    assert session.subject == CLAIMS["sub"]
    assert not session.live(NOW + 1800)


def test_stored_and_back() -> None:
    """Everything but the key; headers are made as the configuration says now."""
    session = session_at(SINGLE, refresh_token="r", max_life_s=4000.0, authorization="Basic x")
    session.seen = NOW + 7
    octets = encode(session)
    assert session.key not in octets
    assert b"c" * 43 not in octets
    options = IdentityOptions(provider="renamed")
    back = decode(session.key, octets, options)
    for name in ("key", "provider_pk", "client_id", "created", "expires", "fresh_until", "seen", "claims", "token",
                 "refresh_token", "credential", "payload", "groups", "subject", "sid", "state"):  # fmt: skip
        assert getattr(back, name) == getattr(session, name), name
    assert b"X-Authentik-Meta-Provider: renamed\r\n" in back.identity.block
    session.rebuild(options)
    assert session.identity == back.identity


@pytest.mark.parametrize("token", ["t.t.t", "", "x\ny", "t" * 30_000])
@pytest.mark.parametrize("send_jwt", [True, False])
def test_the_token_is_kept_once(token: str, send_jwt: bool) -> None:
    """In the headers if it stands there as it is, else beside them."""
    session = session_at(SINGLE, token=token, options=IdentityOptions(send_jwt=send_jwt))
    assert session.token == token
    assert bool(session.kept_token) == (bool(token) and (not send_jwt or token != "t.t.t"))
    back = decode(session.key, encode(session), IdentityOptions(send_jwt=not send_jwt))
    assert back.token == token


def test_claims_of_any_kind_are_kept() -> None:
    """Numbers of any size, text of any kind."""
    odd = {"n": 10**30, "s": "\ud800é", "f": 0.5, "x": [None, True, {}]}
    session = session_at(SINGLE, claims=odd)
    assert decode(session.key, encode(session), SINGLE.options).payload == CLAIMS | odd


def test_alike_sessions_share() -> None:
    """A hundred thousand of them have few sets of groups and names."""
    first, second = session_at(SINGLE), session_at(SINGLE, "d" * 43, claims={"sub": "other"})
    assert first.groups is second.groups
    assert first.identity.names is second.identity.names


@given(st.binary(max_size=100))
def test_what_is_no_stored_session(octets: bytes) -> None:
    """One error, whatever it is."""
    with pytest.raises(StoredError):
        decode(b"k", octets, IdentityOptions())


def test_stored_by_another_version_or_too_large() -> None:
    """As good as absent."""
    fields = msgspec.msgpack.decode(encode(session_at(SINGLE)))
    with pytest.raises(StoredError):
        decode(b"k", msgspec.msgpack.encode([fields[0] + 1, *fields[1:]]), IdentityOptions())
    for packed in (b"", b"[]", b"5", b"{", b"[" * 100_000):
        with pytest.raises(StoredError):
            decode(b"k", msgspec.msgpack.encode([*fields[:7], packed, *fields[8:]]), IdentityOptions())
    with pytest.raises(StoredError):
        decode(b"k", b"x" * (MAX_STORED + 1), IdentityOptions())
