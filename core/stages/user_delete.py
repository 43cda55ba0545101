"""User delete stage (flows.md §5.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core import models
from core.stages.base import Advance, Invalid, Outcome, Stage


class UserDeleteStage(Stage):
    """Deletes whom the flow is about, without asking: a consent or prompt goes before it."""

    model = "authentik_stages_user_delete.userdeletestage"
    component = "ak-stage-user-delete-form"
    verbose_name = "User Delete Stage"

    async def handle(self, method: str, data: Mapping[str, Any] | None) -> Outcome:
        """Log out, delete, and go on with nobody."""
        run, services = self.run, self.run.services
        user = run.pending_user
        if user is None or not user.stored:
            return Invalid("No pending user.")
        record = services.database.first(models.User, pk=user.pk)
        if record is None:
            return Invalid("No pending user.")
        services.event(
            "model_deleted", run.request, model={"app": "authentik_core", "model_name": "user", "pk": user.pk}
        )
        if run.request.user == record:
            run.session.flush()
            run.request.user = services.anonymous
        services.database.delete(record)
        run.plan.context.pop("pending_user", None)
        return Advance()
