"""In-memory stage at the end of an application's log-out (flows.md §2.5, §8.4): where to go from here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core import models
from core.oauth2 import providers, tokens
from core.stages.base import Advance, Challenge, Invalid, Outcome, Stage

SESSION_END = "goauthentik.io/flows/session_end"
POST_LOGOUT = "goauthentik.io/providers/oauth2/post_logout_redirect_uri"  # context key: a checked address
DEFAULT_INVALIDATION = "/flows/-/default/invalidation/"


class SessionEndStage(Stage):
    """Ends what the application has of this session; then on to its own address, or a page that offers more."""

    model = SESSION_END
    verbose_name = "Session End"

    async def handle(self, method: str, data: Mapping[str, Any] | None) -> Outcome:
        """To the address that the client gave; else ``/`` for who is logged out, and a page for who is not."""
        run = self.run
        application = run.plan.context.get("application")
        if not isinstance(application, models.Application):
            return Invalid()
        if run.session.authenticated:
            client = providers.by_slug(run.services.database, application.slug)
            if client is not None:
                tokens.end_session_of(run.services.database, client, run.session.pk)
        target = run.plan.context.get(POST_LOGOUT)
        if isinstance(target, str) and target:
            run.plan.context["redirect"] = target
            return Advance()
        if not run.session.authenticated:
            run.plan.context["redirect"] = "/"
            return Advance()
        brand = run.request.brand
        data = {
            "application_name": application.name,
            "application_launch_url": application.meta_launch_url,
            "invalidation_flow_url": DEFAULT_INVALIDATION,
            "brand_name": brand.branding_title if brand is not None else "",
        }
        return Challenge("ak-stage-session-end", dict(data), user_info=True)
