"""User logout stage (flows.md §5.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.stages.base import Advance, Outcome, Stage


class UserLogoutStage(Stage):
    """Ends the session; the plan goes on in a new, anonymous one."""

    model = "authentik_stages_user_logout.userlogoutstage"
    component = "ak-stage-user-logout-form"
    verbose_name = "User Logout Stage"

    async def handle(self, method: str, data: Mapping[str, Any] | None) -> Outcome:
        """Log out on GET and POST alike; somebody who is not logged in just goes on."""
        if self.run.request.user.is_authenticated:
            self.run.services.event("logout", self.run.request)
        self.run.session.flush()
        self.run.request.user = self.run.services.anonymous
        return Advance()
