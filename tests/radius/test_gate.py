"""The gate before the core: many logins of one account are not guesses, failures are."""

from __future__ import annotations

import asyncio

import pytest

from common.outcomes import Denied, Outcome, Paused, Reason, Unavailable
from common.throttle import ThrottleLimits
from outposts.radius.gate import Gate
from outposts.radius.refusals import OVERLOAD, THROTTLED
from outposts.radius.request import Request
from tests.ldap.binds import until
from tests.radius.desks import Clock, access_request, passed, provider, request_of

WRONG = Denied(Reason.INVALID_CREDENTIALS, "wrong")


class Core:
    """Logins that end when the test says so; how many ran side by side."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.go = asyncio.Semaphore(0)
        self.inside = self.most = self.begun = 0

    async def login(self) -> Outcome | Paused:
        """One login."""
        self.begun += 1
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.go.acquire()
            return self.outcomes.pop(0) if self.outcomes else passed()
        finally:
            self.inside -= 1


def gate(clock: Clock, per_pair: int = 3) -> Gate:
    """A gate that lets an account fail three times."""
    made = Gate(clock)
    made.throttle.limits = ThrottleLimits(per_pair=per_pair, per_address=0, per_account=0)
    return made


def request(clock: Clock, deadline: float = 30.0) -> Request:
    """A request that came now."""
    return request_of(access_request(), provider(deadline=deadline), at=clock())


async def test_devices_that_share_an_account_wait_for_one_another() -> None:
    """Twenty at once through one client, nothing fails: all get in, never more at once than may still fail."""
    clock, core = Clock(), Core()
    one = gate(clock)
    tasks = [asyncio.create_task(one.run(request(clock), "shared", core.login)) for _ in range(20)]
    await until(lambda: core.begun == 4)
    for _ in range(20):
        core.go.release()
    assert {type(outcome).__name__ for outcome in await asyncio.gather(*tasks)} == {"Passed"}
    assert core.most == 4
    assert len(one.throttle) == 0
    assert not one._crowds


async def test_guesses_side_by_side_are_no_more_than_one_after_another() -> None:
    """Twenty wrong passwords at once: as many are tried as would be in turn, the others are refused."""
    clock, core = Clock(), Core(*[WRONG] * 20)
    one = gate(clock)
    tasks = [asyncio.create_task(one.run(request(clock), "alice", core.login)) for _ in range(20)]
    for _ in range(20):
        core.go.release()
    outcomes = await asyncio.gather(*tasks)
    tried = [outcome for outcome in outcomes if outcome == WRONG]
    refused = [outcome for outcome in outcomes if isinstance(outcome, Denied) and outcome.reason == THROTTLED]
    assert len(tried) == core.begun == 4
    assert len(refused) == 16
    assert not one._crowds


async def test_others_do_not_wait() -> None:
    """Another account at the same client gets in at once."""
    clock, core, other = Clock(), Core(), Core()
    one = gate(clock)
    tasks = [asyncio.create_task(one.run(request(clock), "shared", core.login)) for _ in range(9)]
    await until(lambda: core.begun == 4)
    other.go.release()
    assert type(await one.run(request(clock), "bob", other.login)).__name__ == "Passed"
    for _ in tasks:
        core.go.release()
    await asyncio.gather(*tasks)


async def test_who_waits_too_long_is_not_begun() -> None:
    """Silence for those whose time is up; the ones behind them get their turn."""
    clock, core = Clock(), Core()
    one = gate(clock, per_pair=1)
    holding = [asyncio.create_task(one.run(request(clock), "shared", core.login)) for _ in range(2)]
    await until(lambda: core.begun == 2)
    late = await one.run(request(clock, deadline=0.02), "shared", core.login)
    assert isinstance(late, Unavailable)
    assert late.reason == OVERLOAD
    waiting = asyncio.create_task(one.run(request(clock), "shared", core.login))
    for _ in range(3):
        core.go.release()
    assert type(await waiting).__name__ == "Passed"
    await asyncio.gather(*holding)
    assert core.begun == 3
    assert not one._crowds


@pytest.mark.parametrize("number", range(3))
async def test_a_turn_that_nobody_takes_goes_on_to_the_next(number: int) -> None:
    """A waiting request is cancelled, before or in the very moment of its turn: the others are not held up."""
    clock, core = Clock(), Core()
    one = gate(clock, per_pair=1)
    holding = [asyncio.create_task(one.run(request(clock), "shared", core.login)) for _ in range(2)]
    await until(lambda: core.begun == 2)
    waiting = [asyncio.create_task(one.run(request(clock), "shared", core.login)) for _ in range(3)]
    await until(lambda: sum(map(len, one._crowds.values())) == 3)
    if number:
        core.go.release()
        core.go.release()
        await asyncio.gather(*holding)
    if number < 2:
        waiting[0].cancel()
    for _ in range(5):
        core.go.release()
    done = await asyncio.gather(*waiting, *holding, return_exceptions=True)
    assert sum(type(outcome).__name__ == "Passed" for outcome in done) >= 4
    assert not one._crowds
