"""Redirect stage: to an address, or into another flow (flows.md §5.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal
from urllib.parse import urlencode

from core import models
from core.errors import ValidationFailed
from core.flows.planner import EmptyFlow, FlowNotApplicable
from core.stages.base import Advance, Invalid, Options, Outcome, Redirect, Stage

TARGET = "redirect_stage_target"  # context key by which policies choose another target
FLOW_SCHEME = "ak-flow://"
NO_TARGET = "The redirect has no target."
# What a browser would run instead of open.
REFUSED_SCHEMES = ("javascript:", "data:", "vbscript:")


class RedirectOptions(Options, kw_only=True):
    """``target_flow`` is a flow's primary key."""

    mode: Literal["static", "flow"]
    target_static: str = ""
    target_flow: str | None = None
    keep_context: bool = True


class RedirectStage(Stage):
    """Leaves the flow for an address, or replaces it by another flow."""

    model = "authentik_stages_redirect.redirectstage"
    Options = RedirectOptions
    component = "ak-stage-redirect-form"
    verbose_name = "Redirect Stage"
    references: ClassVar[Mapping[str, str]] = {"target_flow": "authentik_flows.flow"}

    @classmethod
    def check(cls, options: Any) -> None:
        """The target that the mode needs must be given."""
        if options.mode == "static" and not options.target_static:
            raise ValidationFailed({"target_static": ["Target URL should be present when mode is Static."]})
        if options.mode == "flow" and not options.target_flow:
            raise ValidationFailed({"target_flow": ["Target Flow should be present when mode is Flow."]})

    async def handle(self, method: str, data: Mapping[str, Any] | None) -> Outcome:
        """A GET redirects; a POST that names any target goes on to the next stage."""
        target = self._target()
        if isinstance(target, models.Flow):
            return await self._into(target)
        if method == "POST" and isinstance((data or {}).get("to"), str):
            return Advance()
        if not target or target.strip().lower().startswith(REFUSED_SCHEMES):
            return Invalid(NO_TARGET)
        return Redirect(target)

    def _target(self) -> models.Flow | str:
        database, options = self.run.services.database, self.options
        chosen = self.run.plan.context.get(TARGET)
        if isinstance(chosen, str) and chosen:
            if not chosen.startswith(FLOW_SCHEME):
                return chosen
            flow = database.flow_by_slug(chosen.removeprefix(FLOW_SCHEME).strip("/"))
            if flow is not None:
                return flow
        if options.mode == "static":
            return str(options.target_static)
        return database.first(models.Flow, pk=options.target_flow) or ""

    async def _into(self, flow: models.Flow) -> Outcome:
        """Plan the other flow and put it into this one's place."""
        run = self.run
        context = dict(run.plan.context) if self.options.keep_context else {}
        context["is_redirected"] = run.flow
        try:
            run.plan = await run.planner.plan(flow, run.request, context)
        except (FlowNotApplicable, EmptyFlow) as refusal:
            return Invalid(refusal.text if isinstance(refusal, FlowNotApplicable) else NO_TARGET)
        query = urlencode(run.request.query)
        return Redirect(f"/if/flow/{flow.slug}/" + (f"?{query}" if query else ""))
