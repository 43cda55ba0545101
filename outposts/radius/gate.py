"""What stands before each login on the core: waits after failures, and a bounded number of logins at once.

Failures are counted for an account at a client, for a client, and for an account (``common/throttle.py``). Logins of
one account at one client that are under way could all be guesses, so only some run at once and the others wait. Clients
take turns: one that has hundreds of logins waiting delays those of another client by one. A login that comes to its
turn when its client has long given up is not begun at all.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable

from common import metrics, throttle
from common.outcomes import Denied, Outcome, Passed, Paused, Unavailable
from outposts.radius.refusals import NO_GUESS, OVERLOAD, THROTTLED
from outposts.radius.request import Request

MAX_FLOWS = 64  # logins on the core at once; the operator's ``max_flows`` takes its place


class Slots:
    """A number of things at once; whoever waits is served in turn with others, and in order among its own."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()  # whose turn it is, first

    async def take(self, who: str) -> None:
        """Returns when it is one's turn; ``give`` must follow."""
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give()  # somebody else's, then
            raise

    def give(self) -> None:
        """Let the next one begin."""
        while self._waiting:
            who, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[who] = turns  # behind everybody else
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class Gate:
    """One per process. ``now()`` is the clock of ``Request.received_at``; ``sleep`` takes seconds."""

    def __init__(self, now: Callable[[], float], *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._now = now
        self._sleep = sleep
        self.throttle = throttle.Throttle(os.urandom(throttle.KEY_SIZE))
        self._crowds: dict[bytes, deque[asyncio.Future[None]]] = {}  # by account and client, in the order of coming
        self._max_flows = MAX_FLOWS
        self._slots = Slots(MAX_FLOWS)

    @property
    def max_flows(self) -> int:
        """Logins on the core at once."""
        return self._max_flows

    @max_flows.setter
    def max_flows(self, count: int) -> None:
        if count != self._max_flows:
            # Those under way end in the old one: for their time there may be more than wanted.
            self._max_flows = count
            self._slots = Slots(count)

    async def run(
        self, request: Request, account: str, login: Callable[[], Awaitable[Outcome | Paused]]
    ) -> Outcome | Paused:
        """Run a login, or refuse to: ``Denied("throttled")``, ``Unavailable("overload")``."""
        attempt = self.throttle.attempt(request.provider.pk, account, request.client_ip)
        delay_s = 0.0
        if len(self.throttle):
            refused = await self._turn(request, attempt)
            if refused is not None:
                return refused
            delay_s = self.throttle.delay_s(attempt, self._now())
        failed: bool | None = None
        self.throttle.begin(attempt)
        try:
            if delay_s:
                metrics.radius_throttled.labels("delayed").inc()
                await self._sleep(delay_s)
            slots = self._slots
            await slots.take(request.client_ip)
            try:
                if self._now() - request.received_at > request.provider.deadline:
                    return Unavailable(OVERLOAD, "its turn came too late")
                outcome = await login()
            finally:
                slots.give()
            if isinstance(outcome, Passed):
                failed = False
            elif isinstance(outcome, Denied) and outcome.reason not in NO_GUESS:
                failed = True
            elif isinstance(outcome, Paused) and outcome.mistaken:
                failed = True  # a wrong code; whoever gives up before the last try must not try for nothing
            return outcome
        finally:
            self.throttle.end(attempt, self._now(), failed)
            self._next(attempt)

    async def _turn(self, request: Request, attempt: throttle.Attempt) -> Outcome | None:
        """Wait until a login may begin; the refusal if it may not.

        Many devices can share an account, and after a power cut they all come at once through one client. As long as
        nothing has failed they wait for one another; they are not guessing.
        """
        while True:
            now = self._now()
            for kind, blocked in (("account", self.throttle.pair_waiting), ("nas", self.throttle.address_blocked)):
                if blocked(attempt, now):
                    metrics.radius_throttled.labels(kind).inc()
                    return Denied(THROTTLED, "too many failed logins")
            if not self.throttle.pair_full(attempt, now):
                return None
            left_s = request.provider.deadline - (now - request.received_at)
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            crowd = self._crowds.setdefault(attempt.pair, deque())
            crowd.append(turn)
            try:
                async with asyncio.timeout(max(0.0, left_s)):
                    await turn
            except TimeoutError:
                return Unavailable(OVERLOAD, "its turn came too late")
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._next(attempt)  # somebody else's turn, then
                raise
            finally:
                if turn in crowd:
                    crowd.remove(turn)
                if not crowd and self._crowds.get(attempt.pair) is crowd:
                    del self._crowds[attempt.pair]

    def _next(self, attempt: throttle.Attempt) -> None:
        """Let the first of those who wait look again. If it may not begin, nobody behind it may."""
        for turn in self._crowds.get(attempt.pair, ()):
            if not turn.done():
                turn.set_result(None)
                return
