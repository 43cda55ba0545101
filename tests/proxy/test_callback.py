"""``outposts/proxy/callback.py``: L8 to L11, T10 and T11 as far as they are decided before the exchange."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from outposts.proxy import callback
from outposts.proxy.callback import Exchange, Failed, Restart, Return
from outposts.proxy.decision import Callback, prepare
from outposts.proxy.providers import Providers, ProxyProvider
from outposts.proxy.state import LIFETIME_S, MAX_RESTARTS, LoginState, Ticket, begin, new_ticket
from tests.proxy.site import ALL, NOW, P, randomness, record, request, table

RANDOM = randomness()
SINGLE = ALL.by_pk[1]
TARGET = "https://app.example.com/a?x=1"
TICKET = new_ticket(RANDOM, NOW)


def started(ticket: Ticket = TICKET, restarts: int = 0) -> LoginState:
    """A login that was begun."""
    return begin(RANDOM, NOW, ticket, target=TARGET, restarts=restarts)


def returned(
    state: LoginState | str | None,
    ticket: Ticket | None = TICKET,
    *,
    one: ProxyProvider = SINGLE,
    providers: Providers = ALL,
    more: str = "&code=c",
    now: float = NOW + 5,
) -> Exchange | Restart | Failed:
    """The browser with this login cookie comes back with this state."""
    text = one.sealer.seal(state, RANDOM) if isinstance(state, LoginState) else state
    query = "X-authentik-auth-callback=true" + (f"&state={quote(text)}" if text is not None else "") + more
    headers = {"Cookie": f"a=1; {one.cookie.login_name}={ticket.value}"} if ticket is not None else {}
    there = request(f"{P}/callback?{query}", headers, host=one.external.host.name)
    found = prepare(there, providers)
    assert isinstance(found, Callback)
    return callback.read(found, there, RANDOM, now)


def test_l08_valid() -> None:
    """The code may be exchanged, with the verifier and nonce of this login."""
    state = started()
    found = returned(state)
    assert isinstance(found, Exchange)
    assert (found.provider, found.state, found.code) == (SINGLE, state, "c")
    assert (found.state.verifier, found.state.nonce) == (state.verifier, state.nonce)


@pytest.mark.parametrize(
    ("state", "problem"),
    [(None, "missing"), ("", "missing"), ("junk", "malformed"), ("eyJhbGciOiJub25lIn0.e30.", "malformed")],
)
def test_l09_bad_states(state: str | None, problem: str) -> None:
    """400."""
    found = returned(state)
    assert found == Failed(SINGLE, problem)
    assert isinstance(found, Failed)
    assert found.status == 400


def test_l09_another_providers_state() -> None:
    """Each has its own key."""
    text = ALL.by_pk[2].sealer.seal(started(), RANDOM)
    assert returned(text) == Failed(SINGLE, "malformed")


def test_l09_another_browsers_state() -> None:
    """Without a login cookie: 400, the target is offered again."""
    assert returned(started(), None) == Failed(SINGLE, "no_cookie", TARGET)


def test_t11_overwritten_cookie() -> None:
    """The first state and the second cookie: begun anew with that cookie, and then it works."""
    first, second = started(), new_ticket(RANDOM, NOW)
    found = returned(first, second)
    assert isinstance(found, Restart)
    assert (found.state.target, found.state.restarts, found.ticket) == (TARGET, 1, second)
    assert isinstance(returned(found.state, second), Exchange)


def test_t10_stale_state() -> None:
    """A login that took too long begins anew in the same browser; without its cookie it is the end."""
    found = returned(started(), now=NOW + LIFETIME_S + 1)
    assert isinstance(found, Restart)
    assert found.state.issued == int(NOW) + LIFETIME_S + 1
    assert returned(started(), None, now=NOW + LIFETIME_S + 1) == Failed(SINGLE, "expired", TARGET)


def test_restarts_end() -> None:
    """With a page instead of a loop."""
    found = returned(started(restarts=MAX_RESTARTS), new_ticket(RANDOM, NOW))
    assert found == Failed(SINGLE, "looping", TARGET)


@pytest.mark.parametrize(
    "more",
    ["&error=access_denied&error_description=No", "?error=access_denied&error_description=No"],
)
def test_l11_errors_of_the_core(more: str) -> None:
    """403 with the reason, for any browser; no code beside it is used."""
    for ticket in (TICKET, None):
        found = returned(started(), ticket, more="&code=c" + more)
        assert found == Failed(SINGLE, "core_error", TARGET, "access_denied", "No")
        assert isinstance(found, Failed)
        assert found.status == 403


def test_no_code() -> None:
    """400."""
    assert returned(started(), more="") == Failed(SINGLE, "malformed", TARGET)
    assert returned(started(), more="&code=a&code=b") == Failed(SINGLE, "malformed")


def test_l10_replayed() -> None:
    """To the target who is logged in, else a page."""
    found = returned(started())
    assert isinstance(found, Exchange)
    assert callback.replayed(found, logged_in=True) == Return(SINGLE, TARGET)
    assert callback.replayed(found, logged_in=False) == Failed(SINGLE, "used", TARGET)


def test_w09_several_providers_of_a_host() -> None:
    """The seal says whose state it is."""
    providers = table(
        record(1, "root", "cid-1", "https://h.example.com", mode="forward_single"),
        record(2, "app", "cid-2", "https://h.example.com/app/", mode="forward_single"),
    )
    for pk in (1, 2):
        found = returned(started(), one=providers.by_pk[pk], providers=providers)
        assert isinstance(found, Exchange)
        assert found.provider.pk == pk
    assert returned("junk", one=providers.by_pk[1], providers=providers) == Failed(None, "malformed")
