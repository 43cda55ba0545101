"""Dummy stage, for trying flows out (flows.md §5.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from core.stages.base import Advance, ChallengeStage, Options, Outcome


class DummyStageError(Exception):
    """Raised on purpose by a dummy stage with ``throw_error``."""


class DummyOptions(Options, kw_only=True):
    """``throw_error`` makes the stage fail, to see what users see then."""

    throw_error: bool = False


class DummyStage(ChallengeStage):
    """Shows its name; every response passes."""

    model = "authentik_stages_dummy.dummystage"
    Options = DummyOptions
    component = "ak-stage-dummy-form"
    verbose_name = "Dummy Stage"
    challenge_component = "ak-stage-dummy"
    user_info: ClassVar[bool] = False

    async def prepare(self, method: str) -> Outcome | None:
        """Fail if told to."""
        if self.options.throw_error:
            raise DummyStageError("this stage was told to fail")
        return None

    async def challenge(self) -> dict[str, Any]:
        """The stage's name."""
        return {"name": self.stage.name}

    async def respond(self, data: Mapping[str, Any]) -> Outcome:
        """Everything is accepted."""
        return Advance()
