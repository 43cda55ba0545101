"""Whether logins can be decided: what Status-Server asks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from common.errors import CoreUnavailable
from outposts.radius import core_watch
from outposts.radius.core_watch import FRESH_S, PAUSE_S, CoreWatch
from tests.radius.desks import Clock


class Looks:
    """A core that is looked at."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.count = 0
        self.hold: asyncio.Event | None = None

    async def __call__(self) -> object:
        self.count += 1
        if self.hold is not None:
            await self.hold.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def test_an_answer_counts_for_a_minute() -> None:
    """Then the core is asked, once a minute at most."""
    clock, looks = Clock(), Looks()
    watch = CoreWatch(looks, clock)
    told = []
    for seconds in (0, FRESH_S - 1, 1, FRESH_S - 1):
        clock.advance(seconds)
        told.append((watch.fresh, await watch.reachable(), looks.count))
    assert told == [(False, True, 1), (True, True, 1), (False, True, 2), (True, True, 2)]
    watch.heard()
    clock.advance(FRESH_S - 1)
    assert watch.fresh


@pytest.mark.parametrize("fault", [CoreUnavailable("GET /", "no answer"), TimeoutError(), RuntimeError("broken")])
async def test_r60_no_answer(fault: Exception) -> None:
    """Not able, and the core is left alone for a moment; when it is back, so are we."""
    clock, looks = Clock(), Looks(fault)
    watch = CoreWatch(looks, clock)
    assert not await watch.reachable()
    looks.answer = None
    clock.advance(PAUSE_S - 1)
    assert not await watch.reachable() and looks.count == 1
    clock.advance(1)
    assert await watch.reachable() and looks.count == 2


async def test_many_questions_are_one_look() -> None:
    """And one that gives up does not take the others' answer away."""
    clock, looks = Clock(), Looks()
    looks.hold = asyncio.Event()
    watch = CoreWatch(looks, clock)
    asked = [asyncio.ensure_future(watch.reachable()) for _ in range(10)]
    await asyncio.sleep(0)
    asked[0].cancel()
    await asyncio.sleep(0)
    looks.hold.set()
    assert await asyncio.gather(*asked[1:]) == [True] * 9
    assert looks.count == 1


async def test_a_core_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is not waited for."""
    monkeypatch.setattr(core_watch, "PROBE_S", 0.01)
    looks = Looks()
    looks.hold = asyncio.Event()
    watch = CoreWatch(looks, Clock())
    assert not await watch.reachable()
    await watch.close()


async def test_closing_ends_a_look() -> None:
    """Nothing is left in the background."""
    looks = Looks()
    looks.hold = asyncio.Event()
    watch = CoreWatch(looks, Clock())
    asked = asyncio.ensure_future(watch.reachable())
    await asyncio.sleep(0)
    await watch.close()
    with pytest.raises(asyncio.CancelledError):
        await asked
