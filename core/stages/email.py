"""Email stage: a link by mail that leads back into the flow (flows.md §5.8).

The link's token keeps a copy of the plan with a question in front: programs that open links in mails do not answer it,
so they do not use the link up. The answer does.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urlencode

from core import durations, models
from core.database import new_token_key
from core.errors import Busy, ValidationFailed
from core.flows.plan import PlannedStage
from core.mail import Mail, MailFailed, is_address
from core.stages.base import Advance, ChallengeStage, Errors, Invalid, Outcome, check_duration
from core.stages.consent import ConsentOptions, ConsentStage
from core.stages.sent_codes import MailOptions, check_mail_options, mail_settings

CONFIRM = "goauthentik.io/stages/email/consent"  # type of the question in front of a link's plan
SENT = "email_sent"
PARAMETER = "flow_token"
GRACE_S = 60.0  # the link lives this much longer than the mail says
SENT_TEXT, SENT_CODE = "Email Successfully sent.", "email-sent"
NO_USER = "No pending user."
NOT_SENT = "The mail could not be sent. Try again later."
TOO_MANY = "Too many mails were sent. Try again later."


class EmailOptions(MailOptions, kw_only=True):
    """``recovery_max_attempts`` mails to one address within ``recovery_cache_timeout``."""

    template: str = "email/password_reset.html"
    activate_user_on_success: bool = False
    recovery_max_attempts: int = 5
    recovery_cache_timeout: str = "minutes=5"


class EmailStage(ChallengeStage):
    """Mails a link once, again for every answer, and goes on when the flow comes back through it."""

    model = "authentik_stages_email.emailstage"
    Options = EmailOptions
    component = "ak-stage-email-form"
    verbose_name = "Email Stage"
    challenge_component = "ak-stage-email"
    user_info: ClassVar[bool] = False

    @classmethod
    def check(cls, options: Any) -> None:
        """Mail options that cannot work are refused."""
        check_mail_options(options)
        check_duration("recovery_cache_timeout", options.recovery_cache_timeout)
        if options.recovery_max_attempts < 1:
            raise ValidationFailed({"recovery_max_attempts": ["must be at least 1"]})

    async def prepare(self, method: str) -> Outcome | None:
        """Back through the link: go on. The first time: send the mail."""
        context, pending = self.run.plan.context, self.run.pending_user
        if pending is None:
            return Invalid(NO_USER)
        restored = context.get("is_restored")
        if isinstance(restored, models.FlowToken):
            if not pending.stored or restored.user != pending.pk:
                return Invalid()
            self._activate(pending)
            return Advance()
        if method == "GET" and not context.get(SENT):
            await self._send(pending)  # what went wrong is in an event; the page looks the same
            context[SENT] = True
        return None

    async def respond(self, data: Mapping[str, Any]) -> Outcome:
        """Every answer asks for another mail and is "invalid" by design."""
        pending = self.run.pending_user
        if pending is None:
            return Invalid(NO_USER)
        self.run.plan.context[SENT] = True
        problem = await self._send(pending)
        if problem:
            return Errors.one(problem)
        return Errors.one(SENT_TEXT, code=SENT_CODE)

    def _activate(self, pending: models.User) -> None:
        if not self.options.activate_user_on_success:
            return
        database = self.run.services.database
        user = database.first(models.User, pk=pending.pk)
        if user is not None and not user.is_active:
            user.is_active = True
            database.save(user)
            pending.is_active = True

    async def _send(self, pending: models.User) -> str:
        """Send a mail; the text of the problem if that failed. Somebody who does not exist is as good as mailed."""
        services, options = self.run.services, self.options
        chosen = self.run.plan.context.get("email")
        address = chosen if isinstance(chosen, str) and chosen else pending.email
        key = f"email:{self.stage.pk}:{hashlib.sha256(address.casefold().encode()).hexdigest()}"
        window_s = durations.seconds(options.recovery_cache_timeout)
        if not services.sent_mails.take(key, services.now(), times=options.recovery_max_attempts, window_s=window_s):
            return TOO_MANY
        if not pending.stored or not is_address(address):
            return ""
        token = self._token(pending)
        until = datetime.datetime.fromtimestamp((token.expires or 0.0) - GRACE_S, datetime.UTC)
        query = {name: value for name, value in self.run.request.query.items() if name != PARAMETER}
        path = f"/if/flow/{self.run.flow.slug}/?{urlencode(query | {PARAMETER: token.key})}"
        variables = {"url": services.address(self.run.request, path), "expires": until, "token": token.key}
        try:
            mail = Mail(address, options.subject, options.template, pending, variables)
            await services.mailer.send(mail, mail_settings(options, services))
        except (MailFailed, Busy) as error:
            services.database.delete(token)
            services.event("configuration_error", self.run.request, stage=self.stage, message=str(error))
            return NOT_SENT
        services.event("email_sent", self.run.request, stage=self.stage, username=pending.username)
        return ""

    def _token(self, pending: models.User) -> models.FlowToken:
        """A token with a copy of the plan as it is now, the question in front."""
        services, plan = self.run.services, self.run.plan
        pk = str(uuid.uuid4())
        kept = plan.to_data()
        question = PlannedStage(type=CONFIRM, options={"token": pk})
        kept["stages"].insert(0, [question.binding, question.stage, question.type, False, question.options])
        kept["context"] |= {SENT: True, "consent_header": "Continue to confirm this email address."}
        token = models.FlowToken(
            pk=pk,
            key=new_token_key(),
            user=pending.pk,
            flow=self.run.flow.pk,
            plan=json.dumps(kept),
            revoke_on_execution=False,
            expires=services.now() + durations.seconds(self.options.token_expiry) + GRACE_S,
        )
        return services.database.save(token)


class ConfirmOptions(ConsentOptions, kw_only=True):
    """The token that the answer uses up, by its primary key; set by code only."""

    token: str


class ConfirmStage(ConsentStage):
    """The question in front of a link's plan."""

    model = CONFIRM
    Options = ConfirmOptions
    verbose_name = "Email Confirmation"

    def agreed(self) -> Outcome:
        """Use the link up; who comes second is refused."""
        database = self.run.services.database
        with database.transaction():
            token = database.first(models.FlowToken, pk=self.options.token)
            if token is None:
                return Invalid()
            database.delete(token)
        return Advance()
