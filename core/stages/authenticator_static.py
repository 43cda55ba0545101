"""Set-up of a list of codes that work once each (flows.md §5.11)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, ClassVar

from core import models
from core.errors import ValidationFailed
from core.stages.base import Advance, ChallengeStage, Outcome
from core.stages.sent_codes import SetupOptions

CODES = "goauthentik.io/stages/authenticator_static/codes"  # context key: the codes until they are confirmed
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
MAX_COUNT = 100
MAX_LENGTH = 100


class AuthenticatorStaticOptions(SetupOptions, kw_only=True):
    """How many codes of how many characters."""

    token_count: int = 6
    token_length: int = 12


class AuthenticatorStaticStage(ChallengeStage):
    """Shows the codes; any answer keeps them."""

    model = "authentik_stages_authenticator_static.authenticatorstaticstage"
    Options = AuthenticatorStaticOptions
    component = "ak-stage-authenticator-static-form"
    verbose_name = "Static Authenticator Setup Stage"
    challenge_component = "ak-stage-authenticator-static"
    references: ClassVar[Mapping[str, str]] = {"configure_flow": "authentik_flows.flow"}

    @classmethod
    def check(cls, options: Any) -> None:
        """Counts within reason."""
        for name, most in (("token_count", MAX_COUNT), ("token_length", MAX_LENGTH)):
            if not 1 <= getattr(options, name) <= most:
                raise ValidationFailed({name: [f"must be from 1 to {most}"]})

    async def prepare(self, method: str) -> Outcome | None:
        """Without a stored user there is nobody to set them up for: go on."""
        user = self.run.pending_user
        if user is None or not user.stored:
            return Advance()
        context = self.run.plan.context
        if CODES not in context:
            context[CODES] = [
                "".join(secrets.choice(ALPHABET) for _ in range(self.options.token_length))
                for _ in range(self.options.token_count)
            ]
        return None

    async def challenge(self) -> dict[str, Any]:
        """The codes."""
        return {"codes": self.run.plan.context[CODES]}

    async def respond(self, data: Mapping[str, Any]) -> Outcome:
        """Whatever is sent: the person has seen them."""
        user, services = self.run.pending_user, self.run.services
        if user is None:
            return Advance()
        device = models.StaticDevice(
            user=int(user.pk or 0),
            name=self.options.friendly_name or "Static Token",
            tokens=list(self.run.plan.context.pop(CODES)),
        )
        services.database.save(device)
        services.created(self.run.request, device)
        return Advance()
