"""Set-up of an e-mail address as a second factor, and sending codes to it (flows.md §5.11)."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, ClassVar

from core import durations, models
from core.errors import Busy
from core.mail import Mail, MailFailed, is_address, masked
from core.services import Services
from core.stages.base import Advance, ChallengeStage, Errors, Invalid, Outcome, text_of
from core.stages.sent_codes import MailOptions, Pending, check_mail_options, mail_settings, new_code

DEVICE = "goauthentik.io/stages/authenticator_email/email_device"  # context key: the device that is being set up
ALREADY = "The user has an e-mail device already."
WRONG_CODE = "Code does not match"
NOT_SENT = "The code could not be sent. Try again later."
TOO_MANY = "Too many codes were sent. Try again later."
TEMPLATE = "email/email_otp.html"


class AuthenticatorEmailOptions(MailOptions, kw_only=True):
    """A mail server and what the mail says; the rest as in other set-up stages."""

    configure_flow: str | None = None
    friendly_name: str = ""

    subject: str = "authentik Sign-in code"
    template: str = TEMPLATE


class AuthenticatorEmailStage(ChallengeStage):
    """Sends a code to an address; who knows it has the address."""

    model = "authentik_stages_authenticator_email.authenticatoremailstage"
    Options = AuthenticatorEmailOptions
    component = "ak-stage-authenticator-email-form"
    verbose_name = "Email Authenticator Setup Stage"
    challenge_component = "ak-stage-authenticator-email"
    references: ClassVar[Mapping[str, str]] = {"configure_flow": "authentik_flows.flow"}

    @classmethod
    def check(cls, options: Any) -> None:
        """Mail options that cannot work are refused."""
        check_mail_options(options)

    async def prepare(self, method: str) -> Outcome | None:
        """A stored user without such a device; the first look sends the code if the address is known."""
        user, context = self.run.pending_user, self.run.plan.context
        if user is None or not user.stored:
            return Invalid()
        if self.run.services.database.exists(models.EmailDevice, user=user.pk, confirmed=True):
            return Invalid(ALREADY)
        address = self._known_address(user)
        if method == "GET" and address and Pending.read(context.get(DEVICE)) is None:
            await self._send(user, address)  # if it could not be sent the address is asked for
        return None

    async def challenge(self) -> dict[str, Any]:
        """Where the code went, or that an address is wanted."""
        pending = Pending.read(self.run.plan.context.get(DEVICE))
        return {"email": masked(pending.to) if pending else None, "email_required": pending is None}

    async def respond(self, data: Mapping[str, Any]) -> Outcome:
        """An address gets a code; a code confirms the device."""
        user, context = self.run.pending_user, self.run.plan.context
        pending = Pending.read(context.get(DEVICE))
        code, address = text_of(data, "code").strip(), text_of(data, "email").strip()
        if user is None:
            return Invalid()
        if not code:
            wanted = address or (pending.to if pending else self._known_address(user))
            if not is_address(wanted):
                return Errors.one("Enter a valid email address.", name="email")
            problem = await self._send(user, wanted)
            return Errors.one(problem, name="email") if problem else await self.ask()
        if pending is None or not pending.accepts(self.run.services, code):
            if pending is not None:
                context[DEVICE] = pending.data()
            return Errors.one(WRONG_CODE, name="code")
        device = models.EmailDevice(
            user=int(user.pk or 0),
            name=self.options.friendly_name or "Email Device",
            email=pending.to,
            stage=self.stage.pk,
            last_used=self.run.services.now(),
        )
        self.run.services.database.save(device)
        self.run.services.created(self.run.request, device)
        del context[DEVICE]
        return Advance()

    def _known_address(self, user: models.User) -> str:
        prompted = self.run.plan.context.get("prompt_data")
        given = prompted.get("email") if isinstance(prompted, dict) else None
        found = user.email or (given if isinstance(given, str) else "")
        return found if is_address(found) else ""

    async def _send(self, user: models.User, address: str) -> str:
        """Send a fresh code; the text of the problem if that failed."""
        services, code = self.run.services, new_code()
        if not services.sent_codes.take(f"email-setup:{user.pk}", services.now()):
            return TOO_MANY
        try:
            await send(services, self.options, user, address, code)
        except (MailFailed, Busy):
            return NOT_SENT
        self.run.plan.context[DEVICE] = Pending.make(services, address, code, self.options.token_expiry).data()
        return ""


async def send(services: Services, options: MailOptions, user: models.User, address: str, code: str) -> None:
    """Mail a code.

    :raises MailFailed: the mail server did not take it.
    :raises Busy: too many mails wait.
    """
    until = datetime.datetime.fromtimestamp(services.now() + durations.seconds(options.token_expiry), datetime.UTC)
    mail = Mail(address, options.subject, options.template, user, {"token": code, "expires": until})
    await services.mailer.send(mail, mail_settings(options, services))


async def send_to_device(services: Services, device: models.EmailDevice, user: models.User) -> None:
    """Give a device a fresh code and mail it. A device of no stage uses the mail server of the installation.

    :raises MailFailed: the mail server did not take it.
    :raises Busy: too many mails wait.
    """
    stage = services.database.first(models.Stage, pk=device.stage) if device.stage else None
    options = (
        AuthenticatorEmailStage.read_options(stage.options)
        if stage is not None
        else AuthenticatorEmailOptions(use_global_settings=True)
    )
    code = new_code()
    await send(services, options, user, device.email, code)
    with services.database.transaction():
        fresh = services.database.get(models.EmailDevice, device.pk)
        fresh.token, fresh.valid_until = code, services.now() + durations.seconds(options.token_expiry)
        services.database.save(fresh)
