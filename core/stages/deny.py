"""Deny stage (flows.md §5.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.stages.base import Invalid, Options, Outcome, Stage


class DenyOptions(Options, kw_only=True):
    """``deny_message`` is shown to the user; the context's own message goes first."""

    deny_message: str = ""


class DenyStage(Stage):
    """Always declares itself invalid."""

    model = "authentik_stages_deny.denystage"
    Options = DenyOptions
    component = "ak-stage-deny-form"
    verbose_name = "Deny Stage"

    async def handle(self, method: str, data: Mapping[str, Any] | None) -> Outcome:
        """Refuse whatever is sent."""
        message = self.run.plan.context.get("deny_message")
        return Invalid(message if isinstance(message, str) and message else self.options.deny_message)
