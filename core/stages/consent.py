"""Consent stage: may this application have these permissions (flows.md §5.7)."""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from core import durations, models
from core.stages.base import Advance, ChallengeStage, Errors, Invalid, Options, Outcome, check_duration, text_of

TOKEN = "goauthentik.io/stages/consent/token"  # noqa: S105 - a context key: what the next answer must repeat
WRONG_TOKEN = "Invalid consent token, re-showing prompt"  # noqa: S105 - a message


class ConsentOptions(Options, kw_only=True):
    """``consent_expire_in`` counts in mode ``expiring`` only."""

    mode: Literal["always_require", "permanent", "expiring"] = "expiring"
    consent_expire_in: str = "weeks=4"


class ConsentStage(ChallengeStage):
    """Asks once, or for what is new, and remembers the answer as its mode says."""

    model = "authentik_stages_consent.consentstage"
    Options: ClassVar[type[Options]] = ConsentOptions
    component = "ak-stage-consent-form"
    verbose_name = "Consent Stage"
    challenge_component = "ak-stage-consent"

    @classmethod
    def check(cls, options: Any) -> None:
        """A duration that cannot be read is refused."""
        check_duration("consent_expire_in", options.consent_expire_in)

    async def prepare(self, method: str) -> Outcome | None:
        """Skip if exactly these permissions were agreed to before."""
        context = self.run.plan.context
        context.setdefault("consent_permissions", [])
        context["consent_additional_permissions"] = []
        if not self._remembers():
            return None
        stored = self._stored()
        context["consent"] = stored
        if stored is None:
            return None
        granted, wanted = set(stored.permissions.split()), {_id(item) for item in context["consent_permissions"]}
        if granted == wanted:
            return Advance()
        context["consent_additional_permissions"] = [
            item for item in context["consent_permissions"] if _id(item) not in granted
        ]
        return None

    async def challenge(self) -> dict[str, Any]:
        """What is asked for, split into what was granted before and what is new; a fresh token each time."""
        context = self.run.plan.context
        token = context[TOKEN] = str(uuid.uuid4())
        new = context.get("consent_additional_permissions", [])
        granted = [item for item in context.get("consent_permissions", []) if item not in new]
        data: dict[str, Any] = {"permissions": granted, "additional_permissions": new, "token": token}
        if "consent_header" in context:
            data["header_text"] = str(context["consent_header"])
        return data

    async def respond(self, data: Mapping[str, Any]) -> Outcome:
        """The token must be the one that was shown last."""
        context = self.run.plan.context
        expected = context.get(TOKEN)
        if not isinstance(expected, str) or not hmac.compare_digest(expected.encode(), text_of(data, "token").encode()):
            return Errors.one(WRONG_TOKEN, name="token")
        context.pop(TOKEN)
        return self.agreed()

    def agreed(self) -> Outcome:
        """Remember and go on."""
        user, application = self.run.pending_user, self.run.plan.context.get("application")
        if not self._remembers():
            return Advance()
        if user is None or not user.stored or not isinstance(application, models.Application):
            return Invalid()
        consent = self._stored() or models.Consent(user=int(user.pk or 0), application=application.pk)
        consent.permissions = " ".join(_id(item) for item in self.run.plan.context.get("consent_permissions", []))
        consent.expiring = self.options.mode == "expiring"
        consent.expires = (
            self.run.services.now() + durations.seconds(self.options.consent_expire_in) if consent.expiring else None
        )
        self.run.services.database.save(consent)
        return Advance()

    def _remembers(self) -> bool:
        """Whether this stage keeps answers: an in-memory one never does, nor without somebody and something to keep."""
        user, application = self.run.pending_user, self.run.plan.context.get("application")
        return (
            bool(self.stage.pk)
            and self.options.mode != "always_require"
            and isinstance(application, models.Application)
            and user is not None
            and user.stored
        )

    def _stored(self) -> models.Consent | None:
        user, application = self.run.pending_user, self.run.plan.context.get("application")
        if user is None or not isinstance(application, models.Application):
            return None
        return self.run.services.database.first(models.Consent, user=user.pk, application=application.pk)


def _id(permission: Any) -> str:
    return str(permission.get("id", "")) if isinstance(permission, Mapping) else str(permission)
