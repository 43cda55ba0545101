"""Every database that a test of the core opens is closed at its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from core.database import Database


@pytest.fixture(autouse=True)
def _databases_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remember each database made, close it afterwards; closing twice is harmless."""
    made: list[Database] = []
    original = Database.__init__

    def remembering(self: Database, *arguments: Any, **named: Any) -> None:
        original(self, *arguments, **named)
        made.append(self)

    monkeypatch.setattr(Database, "__init__", remembering)
    yield
    for database in made:
        database.close()
