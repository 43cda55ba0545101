"""Shared test wiring: coroutine tests run on a fresh asyncio loop (no asynchronous plugin needed)."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from hypothesis import settings

# A timing is never asserted: Hypothesis must not fail an example because the machine is busy.
settings.register_profile("outposts", deadline=None)
settings.load_profile("outposts")

TEST_TIMEOUT_S = 120  # a hang is a failure, not a stuck suite


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run ``async def`` tests with ``asyncio.run``."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments: dict[str, Any] = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    async def run() -> None:
        await asyncio.wait_for(pyfuncitem.obj(**arguments), TEST_TIMEOUT_S)

    asyncio.run(run())
    return True
