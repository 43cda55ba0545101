"""Invitation stage: only who has an invitation goes on (flows.md §5.9)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from core import models
from core.database import merge
from core.stages.base import Advance, Invalid, Options, Outcome, Stage

PARAMETERS = ("itoken", "token")  # of the page's query; then what was prompted for as ``token``
INVALID = "Invalid invite/invite not found"


class InvitationOptions(Options, kw_only=True):
    """Whether a flow goes on for who was not invited."""

    continue_flow_without_invitation: bool = False


class InvitationStage(Stage):
    """Takes an invitation's data into ``prompt_data``; one for a single use is used up."""

    model = "authentik_stages_invitation.invitationstage"
    Options = InvitationOptions
    component = "ak-stage-invitation-form"
    verbose_name = "Invitation Stage"

    async def handle(self, method: str, data: Mapping[str, Any] | None) -> Outcome:
        """Works on GET and POST alike."""
        invitation = self._found()
        if invitation is None:
            return Advance() if self.options.continue_flow_without_invitation else Invalid(INVALID)
        context, services = self.run.plan.context, self.run.services
        prompted = context.setdefault("prompt_data", {})
        merge(prompted, invitation.fixed_data)
        context["invitation_in_effect"] = True
        described = {"app": "authentik_stages_invitation", "model_name": "invitation", "pk": invitation.pk}
        services.event(
            "invitation_used", self.run.request, stage=self.stage, invitation=described | {"name": invitation.name}
        )
        if invitation.single_use:
            services.database.delete(invitation)
        context["invitation"] = invitation
        return Advance()

    def _found(self) -> models.Invitation | None:
        """The invitation that is named, if it is live and for this flow."""
        query, prompted = self.run.request.query, self.run.plan.context.get("prompt_data")
        texts = [query.get(name) for name in PARAMETERS]
        texts.append(prompted.get("token") if isinstance(prompted, dict) else None)
        named = next((text for text in texts if isinstance(text, str) and text), None)
        try:
            pk = str(uuid.UUID(named or ""))
        except ValueError:
            return None
        found = self.run.services.database.first(models.Invitation, pk=pk)
        return found if found is not None and found.flow in (None, self.run.flow.pk) else None
