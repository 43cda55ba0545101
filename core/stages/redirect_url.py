"""In-memory redirect stage: where ``flow_plan.redirect(url)`` of a policy leads (flows.md §2.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.flows.plan import REDIRECT_STAGE
from core.stages.base import Advance, Options, Outcome, Redirect, Stage


class RedirectURLOptions(Options, kw_only=True):
    """Where to go; set by code only."""

    to: str


class RedirectURLStage(Stage):
    """Answers a redirect on GET; a POST goes on to the next stage."""

    model = REDIRECT_STAGE
    Options = RedirectURLOptions
    verbose_name = "Redirect"

    async def handle(self, method: str, data: Mapping[str, Any] | None) -> Outcome:
        """The plan stays on this stage until the client posts."""
        return Advance() if method == "POST" else Redirect(self.options.to)
