"""A browser comes back from the core: may its code be exchanged, is the login begun anew, or is that the end of it?

::

    state cannot be opened, or is missing        → Failed 400
    state is too old                             → Restart, if the browser still has a login cookie; else Failed 400
    the core says an error                       → Failed 403, its reason shown
    no code                                      → Failed 400
    no login cookie (another browser, or none)   → Failed 400
    another login cookie (a parallel answer)     → Restart, at most MAX_RESTARTS times; then Failed 400
    else                                         → Exchange: the code may be used, once

``Exchange`` says nothing about who logged in; the token does, when it has been verified. Before the exchange the caller
notes ``state.key`` as used where all replicas see it; if it was used before, ``replayed`` says what to answer. No code
of a login that is begun anew is ever exchanged, so nobody can be logged in as somebody else by a link.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from outposts.proxy import state as states
from outposts.proxy.decision import Callback, tickets_of
from outposts.proxy.providers import ProxyProvider
from outposts.proxy.state import Answer, LoginState, Random, StateError, StateProblem, Ticket
from outposts.proxy.wire import AuthRequest

CORE_ERROR = "core_error"


@dataclass(frozen=True, slots=True)
class Exchange:
    """The code may be exchanged, after ``state.key`` was noted as used."""

    provider: ProxyProvider
    state: LoginState
    code: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Restart:
    """Send the browser to the core again with this state; it holds ``ticket`` already."""

    provider: ProxyProvider
    state: LoginState
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Failed:
    """A page with the reason and a link that begins anew at ``target``.

    ``problem`` is a ``StateProblem`` or ``core_error``. ``provider`` is None if the host has several and none knows the
    state.
    """

    provider: ProxyProvider | None
    problem: str
    target: str = ""
    error: str = ""
    description: str = ""

    @property
    def status(self) -> int:
        """HTTP status of the page."""
        return 403 if self.problem == CORE_ERROR else 400


@dataclass(frozen=True, slots=True)
class Return:
    """Nothing is left to do: the browser is logged in, send it to ``target`` ("": the external host)."""

    provider: ProxyProvider
    target: str


def read(callback: Callback, request: AuthRequest, random: Random, now: float) -> Exchange | Restart | Failed:
    """What becomes of a callback. ``now`` in unix seconds."""
    alone = callback.providers[0] if len(callback.providers) == 1 else None
    try:
        answer = states.answer_of(callback.query)
    except StateError as error:
        return Failed(alone, error.problem)
    problem = StateProblem.MISSING
    for provider in callback.providers:
        try:
            state = provider.sealer.open(answer.state, now)
        except StateError as error:
            if error.state is not None:
                return _again(provider, request, error.state, error.problem, random, now)
            problem = error.problem
        else:
            return _opened(provider, request, state, answer, random, now)
    return Failed(alone, problem)


def _opened(
    provider: ProxyProvider, request: AuthRequest, state: LoginState, answer: Answer, random: Random, now: float
) -> Exchange | Restart | Failed:
    """The state is one of ours and in time."""
    if answer.error:
        return Failed(provider, CORE_ERROR, state.target, answer.error, answer.description)
    if not answer.code:
        return Failed(provider, StateProblem.MALFORMED, state.target)
    try:
        states.check_browser(state, tickets_of(provider, request))
    except StateError as error:
        return _again(provider, request, state, error.problem, random, now)
    return Exchange(provider, state, answer.code)


def _again(
    provider: ProxyProvider,
    request: AuthRequest,
    state: LoginState,
    problem: StateProblem,
    random: Random,
    now: float,
) -> Restart | Failed:
    """The login cannot go on with this state; a browser with a login cookie may begin it anew."""
    tickets = tickets_of(provider, request)
    if not tickets:
        return Failed(provider, problem, state.target)
    try:
        return Restart(provider, states.restart(state, random, now, tickets[0]), tickets[0])
    except StateError as error:
        return Failed(provider, error.problem, state.target)


def replayed(exchange: Exchange, *, logged_in: bool) -> Return | Failed:
    """The state was used before: a reload, or a second tab. Who is logged in goes on."""
    if logged_in:
        return Return(exchange.provider, exchange.state.target)
    return Failed(exchange.provider, StateProblem.USED, exchange.state.target)
