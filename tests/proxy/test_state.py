"""``outposts/proxy/state.py``: states of logins are sealed, expire, belong to a browser and are used once."""

from __future__ import annotations

import base64
import hashlib
import random as randoms

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outposts.proxy import rfc
from outposts.proxy.state import (
    CLOCK_SKEW_S,
    LIFETIME_S,
    LOOP_WINDOW_S,
    MAX_BEGUN,
    MAX_RESTARTS,
    MAX_STATE,
    Answer,
    LoginState,
    Sealer,
    StateError,
    StateProblem,
    Ticket,
    UsedStates,
    answer_of,
    begin,
    check_browser,
    new_ticket,
    next_ticket,
    restart,
)
from tests.proxy.site import NOW, randomness

RANDOM = randomness()
SEALER = Sealer("cookie-secret", "cid")
TICKET = new_ticket(RANDOM, NOW)
TARGET = "https://app.example.com/a?x=1"


def problem_of(text: str | None, sealer: Sealer = SEALER, now: float = NOW) -> StateProblem:
    """Why a state is refused."""
    with pytest.raises(StateError) as caught:
        sealer.open(text, now)
    return caught.value.problem


def test_there_and_back() -> None:
    """Everything arrives; nobody can read it on the way, and no two texts are the same."""
    state = begin(RANDOM, NOW, TICKET, target=TARGET, restarts=2, post="k")
    text = SEALER.seal(state, RANDOM)
    assert SEALER.open(text, NOW) == state
    assert (state.target, state.restarts, state.post, state.issued) == (TARGET, 2, "k", int(NOW))
    octets = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    for secret in (state.seed, state.verifier.encode(), state.nonce.encode(), b"app.example.com"):
        assert secret not in octets
    assert SEALER.seal(state, RANDOM) != text
    assert "seed" not in repr(state)


def test_another_replica_opens_it() -> None:
    """With the same provider's secret, and only with that."""
    text = SEALER.seal(begin(RANDOM, NOW, TICKET), RANDOM)
    assert Sealer("cookie-secret", "cid").open(text, NOW).issued == int(NOW)
    assert problem_of(text, Sealer("cookie-secret", "other")) is StateProblem.MALFORMED
    assert problem_of(text, Sealer("other", "cid")) is StateProblem.MALFORMED


def test_pkce_and_nonce() -> None:
    """RFC 7636 §4.1, §4.2: 43 characters, S256; all derived, all different."""
    state = begin(RANDOM, NOW, TICKET)
    assert len(state.verifier) == len(state.nonce) == 43
    digest = hashlib.sha256(state.verifier.encode()).digest()
    assert state.challenge == base64.urlsafe_b64encode(digest).decode().rstrip("=")
    assert len({state.verifier, state.challenge, state.nonce, state.key}) == 4
    other = begin(RANDOM, NOW, TICKET)
    assert {state.verifier, state.nonce, state.key}.isdisjoint({other.verifier, other.nonce, other.key})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, StateProblem.MISSING),
        ("", StateProblem.MISSING),
        ("x", StateProblem.MALFORMED),
        ("A" * 43, StateProblem.MALFORMED),
        ("A" * (MAX_STATE + 1), StateProblem.MALFORMED),
        ("é" * 40, StateProblem.MALFORMED),
        ("a b+c/d=", StateProblem.MALFORMED),
        ("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJyZWRpcmVjdCI6IiJ9.", StateProblem.MALFORMED),
    ],
)
def test_l09_what_is_no_state(text: str | None, problem: StateProblem) -> None:
    """Missing, not ours, an unsigned token."""
    assert problem_of(text) is problem


def test_l09_every_changed_character_is_noticed() -> None:
    """Also the spare bits of the last one, and what is added or cut off."""
    text = SEALER.seal(begin(RANDOM, NOW, TICKET, target="https://h/"), RANDOM)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for at, old in enumerate(text):
        new = alphabet[(alphabet.index(old) + 1) % 64]
        assert problem_of(text[:at] + new + text[at + 1 :]) is StateProblem.MALFORMED
    for changed in (text[:-1], text + "A", text + "=", " " + text, text + "\n"):
        assert problem_of(changed) is StateProblem.MALFORMED


def test_w20_states_expire() -> None:
    """After ten minutes; one from the future is as bad, but clocks differ a little."""
    text = SEALER.seal(begin(RANDOM, NOW, TICKET, target=TARGET), RANDOM)
    for now in (NOW, NOW + LIFETIME_S, NOW - CLOCK_SKEW_S):
        assert SEALER.open(text, now).target == TARGET
    for now in (NOW + LIFETIME_S + 1, NOW - CLOCK_SKEW_S - 1):
        with pytest.raises(StateError) as caught:
            SEALER.open(text, now)
        assert caught.value.problem is StateProblem.EXPIRED
        assert caught.value.state is not None
        assert caught.value.state.target == TARGET


@pytest.mark.parametrize(("length", "kept"), [(rfc.MAX_TARGET, True), (rfc.MAX_TARGET + 1, False), (20_000, False)])
def test_l15_long_targets(length: int, kept: bool) -> None:
    """The longest that travels fits into a request line; longer ones end at the external host."""
    state = begin(RANDOM, NOW, TICKET, target="h" * length)
    assert len(state.target) == (length if kept else 0)
    assert len(SEALER.seal(state, RANDOM)) < 6000


def test_targets_are_ascii() -> None:
    """What is none never gets into a state."""
    assert begin(RANDOM, NOW, TICKET, target="https://é/").target == ""


def test_states_belong_to_a_browser() -> None:
    """Any of its tickets will do; another browser's, or none, will not."""
    state = begin(RANDOM, NOW, TICKET)
    other = new_ticket(RANDOM, NOW)
    check_browser(state, [TICKET])
    check_browser(state, [other, TICKET.next(NOW)])
    for tickets, problem in (([], StateProblem.NO_COOKIE), ([other], StateProblem.OTHER_COOKIE)):
        with pytest.raises(StateError) as caught:
            check_browser(state, tickets)
        assert caught.value.problem is problem


def test_restarts_are_counted() -> None:
    """The target stays, everything secret is new, and there is an end."""
    state = begin(RANDOM, NOW, TICKET, target=TARGET, post="k")
    other = new_ticket(RANDOM, NOW)
    for number in range(1, MAX_RESTARTS + 1):
        again = restart(state, RANDOM, NOW + number, other)
        assert (again.target, again.post, again.restarts, again.issued) == (TARGET, "k", number, int(NOW) + number)
        assert again.browser == other.digest
        assert again.nonce != state.nonce
        state = again
    with pytest.raises(StateError) as caught:
        restart(state, RANDOM, NOW, other)
    assert caught.value.problem is StateProblem.LOOPING


def test_tickets_are_text() -> None:
    """There and back; nothing else is a ticket."""
    assert Ticket.parse(TICKET.value) == TICKET
    assert TICKET.secret not in repr(TICKET)
    for text in (
        None,
        "",
        "x",
        TICKET.secret,
        TICKET.value + "0" * 4,
        TICKET.value.replace(".", "-"),
        TICKET.value + "\n",
    ):
        assert Ticket.parse(text) is None


def test_tickets_count_logins() -> None:
    """Many in a short time are a loop; after a pause counting begins anew."""
    ticket = TICKET
    for number in range(MAX_BEGUN - 1):
        assert not ticket.looping(NOW + number)
        ticket = ticket.next(NOW + number)
    assert ticket.looping(NOW + MAX_BEGUN)
    assert not ticket.looping(NOW + LOOP_WINDOW_S + 1)
    assert ticket.next(NOW + LOOP_WINDOW_S + 1) == Ticket(ticket.secret, int(NOW) + LOOP_WINDOW_S + 1, 1)
    assert ticket.digest == TICKET.digest
    assert Ticket(ticket.secret, int(NOW), 999).next(NOW).begun == 999


def test_a_browser_keeps_its_ticket() -> None:
    """The first one it brought, so that logins of other tabs go on; too many end with an error."""
    made = next_ticket([], RANDOM, NOW)
    assert made.begun == 1
    again = next_ticket([made, TICKET], RANDOM, NOW + 1)
    assert (again.secret, again.begun) == (made.secret, 2)
    check_browser(begin(RANDOM, NOW, made), [again])
    with pytest.raises(StateError) as caught:
        next_ticket([Ticket(made.secret, int(NOW), MAX_BEGUN)], RANDOM, NOW + 1)
    assert caught.value.problem is StateProblem.LOOPING


def test_used_states() -> None:
    """Once; forgotten when they would have expired; the oldest go first when there are too many."""
    used = UsedStates(size=3)
    assert used.use("a", NOW)
    assert not used.use("a", NOW + LIFETIME_S)
    assert used.use("a", NOW + LIFETIME_S + CLOCK_SKEW_S + 1)
    for key in "bcd":
        assert used.use(key, NOW + LIFETIME_S + CLOCK_SKEW_S + 1)
    assert len(used) == 3
    assert not used.use("d", NOW + LIFETIME_S + CLOCK_SKEW_S + 2)


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("X-authentik-auth-callback=true&code=c&state=s", Answer("c", "s")),
        (
            "X-authentik-auth-callback=true?error=login_required&error_description=Please+log%20in&state=s",
            Answer("", "s", "login_required", "Please log in"),
        ),
        ("error=access_denied&state=s", Answer("", "s", "access_denied")),
        ("", Answer()),
        ("code=a%2Bb", Answer("a+b")),
        ("error=<b>%0d%0aX&error_description=%ff", Answer("", "", "<b>X", "\ufffd")),
    ],
)
def test_l11_answers(query: str, answer: Answer) -> None:
    """As the core sends them, its second question mark too."""
    assert answer_of(query) == answer


@pytest.mark.parametrize(
    "query", ["code=a&code=b", "state=a&x&state=a", "code=" + "a" * 5000, "code=%00", "code=%C3%A9"]
)
def test_answers_with_two_readings(query: str) -> None:
    """RFC 6749 §3.1: no parameter twice; a code is plain text."""
    with pytest.raises(StateError) as caught:
        answer_of(query)
    assert caught.value.problem is StateProblem.MALFORMED


@given(st.binary(max_size=200), st.text(max_size=60))
def test_nothing_but_a_state_opens(octets: bytes, text: str) -> None:
    """One answer or the error, whatever comes in."""
    for candidate in (base64.urlsafe_b64encode(octets).decode().rstrip("="), text):
        assert problem_of(candidate) in (StateProblem.MALFORMED, StateProblem.MISSING)


@given(st.integers(0, 2**32))
def test_states_of_any_seed(seed: int) -> None:
    """Sealing and opening are each other's inverse."""
    random = randoms.Random(seed).randbytes
    state: LoginState = begin(random, seed, new_ticket(random, seed), target="https://h/" + "x" * (seed % 4000))
    assert SEALER.open(SEALER.seal(state, random), seed) == state
