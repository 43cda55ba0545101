"""Planner: may this flow start for this request, and with which stages (flows.md §2.2).

No plan is kept between requests of different sessions (the reference's plan cache is optional): a flow's bindings and
stages are read from :class:`FlowCatalogue`, which drops a flow as soon as something in it is saved.
"""

from __future__ import annotations

from typing import Any

from core import models
from core.database import Change, Database
from core.flows.plan import Plan, PlannedStage
from core.http_request import HTTPRequest
from core.services import Services

NOT_APPLICABLE = "Flow does not apply to current user."


class FlowNotApplicable(Exception):
    """The flow may not start. ``messages`` are those of its policies."""

    def __init__(self, messages: tuple[str, ...] = ()) -> None:
        super().__init__("flow not applicable")
        self.messages = messages

    @property
    def text(self) -> str:
        """What the user may read."""
        return "\n".join(self.messages) or NOT_APPLICABLE


class EmptyFlow(Exception):
    """No stage is left to run."""


class FlowCatalogue:
    """Flows by slug and their bindings and stages, kept in memory until anything about flows changes."""

    WATCHED = (models.Flow, models.StageBinding, models.Stage)

    def __init__(self, database: Database) -> None:
        self._database = database
        self._flows: dict[str, models.Flow] = {}
        self._stages: dict[str, list[tuple[models.StageBinding, models.Stage]]] = {}
        self._by_binding: dict[str, tuple[models.StageBinding, models.Stage]] = {}
        database.on_change(self._changed)

    def _changed(self, change: Change) -> None:
        if issubclass(change.model, self.WATCHED):
            self._flows, self._stages, self._by_binding = {}, {}, {}

    def flow(self, slug: str) -> models.Flow | None:
        """The flow with this slug."""
        flow = self._flows.get(slug)
        if flow is None:
            flow = self._database.flow_by_slug(slug)
            if flow is not None:
                self._flows[slug] = flow
        return flow

    def stages(self, flow: models.Flow) -> list[tuple[models.StageBinding, models.Stage]]:
        """Bindings and stages of a flow in plan order."""
        found = self._stages.get(flow.pk)
        if found is None:
            found = self._stages[flow.pk] = self._database.stages_of(flow.pk)
            self._by_binding |= {binding.pk: (binding, stage) for binding, stage in found}
        return found

    def binding(self, flow: models.Flow, pk: str) -> tuple[models.StageBinding, models.Stage] | None:
        """One binding of a flow with its stage, or ``None`` if it is gone."""
        self.stages(flow)
        return self._by_binding.get(pk)


class Planner:
    """Makes plans."""

    def __init__(self, services: Services, catalogue: FlowCatalogue) -> None:
        self._services = services
        self._catalogue = catalogue

    async def plan(
        self,
        flow: models.Flow,
        request: HTTPRequest,
        context: dict[str, Any] | None = None,
        *,
        allow_empty: bool = False,
    ) -> Plan:
        """A plan for ``flow`` that starts with ``context``.

        :raises FlowNotApplicable: the authentication requirement or a policy of the flow says no.
        :raises EmptyFlow: there is no stage, and ``allow_empty`` is false.
        """
        plan = Plan(flow_pk=flow.pk, context=dict(context or {}))
        pending = plan.context.get("pending_user")
        subject = pending if isinstance(pending, models.User) else request.user
        if not _meets_requirement(flow, request, plan.context):
            raise FlowNotApplicable
        if request.outpost is not None:
            plan.context["outpost"] = {"instance": request.outpost}
        result = await self._services.engine.evaluate(flow, subject, http_request=request, context=plan.context)
        if not result.passing:
            raise FlowNotApplicable(tuple(result.messages))
        for binding, stage in self._catalogue.stages(flow):
            if binding.evaluate_on_plan and not await self.passes(binding, plan, subject, request):
                continue
            plan.append(
                PlannedStage(
                    binding=binding.pk, stage=stage.pk, type=stage.type, re_evaluate=binding.re_evaluate_policies
                )
            )
        if not plan.stages and not allow_empty:
            raise EmptyFlow
        return plan

    async def passes(
        self, binding: models.StageBinding, plan: Plan, subject: models.User, request: HTTPRequest
    ) -> bool:
        """Whether the policies of a stage binding pass now. They see a copy of the context and the live plan."""
        result = await self._services.engine.evaluate(
            binding, subject, http_request=request, context={**plan.context, "flow_plan": plan}
        )
        return bool(result.passing)


def _meets_requirement(flow: models.Flow, request: HTTPRequest, context: dict[str, Any]) -> bool:
    match flow.authentication:
        case "none":
            return True
        case "require_authenticated":
            return request.user.is_authenticated
        case "require_unauthenticated":
            return not request.user.is_authenticated
        case "require_superuser":
            return request.user.is_authenticated and request.user.is_superuser
        case "require_redirect":
            return context.get("is_redirected") is not None
        case "require_outpost":
            return request.outpost is not None
    return False  # a requirement of a newer core is not met
