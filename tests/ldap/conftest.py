"""A daemon in front of the fake core, in direct and in cached mode, for the whole module that asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.ldap.sides import Side, Starter, started


@pytest.fixture(scope="module")
def sides() -> Iterator[dict[str, Side]]:
    """The shared daemons, started when first asked for."""
    with ExitStack() as stack:

        class Lazy(dict[str, Side]):
            def __missing__(self, mode: str) -> Side:
                self[mode] = stack.enter_context(started(mode, {}, {}))
                return self[mode]

        yield Lazy()


@pytest.fixture(params=["direct", "cached"])
def side(request: pytest.FixtureRequest, sides: dict[str, Side]) -> Side:
    """Both modes, one after the other."""
    found = sides[request.param]
    found.reset()
    return found


@pytest.fixture
def direct(sides: dict[str, Side]) -> Side:
    """Direct search and bind."""
    sides["direct"].reset()
    return sides["direct"]


@pytest.fixture
def cached(sides: dict[str, Side]) -> Side:
    """Cached search and bind."""
    sides["cached"].reset()
    return sides["cached"]


@pytest.fixture
def start() -> Iterator[Starter]:
    """A daemon of one test's own: ``start(mode, {setting: value}, provider_field=value)``."""
    with ExitStack() as stack:

        def begin(mode: str = "direct", settings: dict[str, str] | None = None, **provider: Any) -> Side:
            return stack.enter_context(started(mode, settings or {}, provider))

        yield begin
