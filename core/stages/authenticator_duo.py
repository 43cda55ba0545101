"""Set-up of Duo as a second factor, and pushes to it (flows.md §5.11). The client is in :mod:`core.duo`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from core import models
from core.duo import DuoClient, DuoFailed, DuoKeys
from core.http_request import HTTPRequest
from core.services import Services
from core.stages.base import Advance, ChallengeStage, Invalid, Outcome
from core.stages.sent_codes import SetupOptions

ENROLL = "goauthentik.io/stages/authenticator_duo/enroll"  # context key: user, code and picture of an enrolment
UNAVAILABLE = "Duo cannot be reached. Try again later."
NOT_ACTIVATED = "The phone was not activated at Duo."
ALREADY = "This Duo user has a device already."


class AuthenticatorDuoOptions(SetupOptions, kw_only=True):
    """An application at Duo; the admin keys are kept and have no effect here (they import existing users)."""

    api_hostname: str
    client_id: str
    client_secret: str
    admin_integration_key: str = ""
    admin_secret_key: str = ""


class AuthenticatorDuoStage(ChallengeStage):
    """Shows the code by which a phone becomes Duo's; done once Duo says that it is."""

    model = "authentik_stages_authenticator_duo.authenticatorduostage"
    Options = AuthenticatorDuoOptions
    component = "ak-stage-authenticator-duo-form"
    verbose_name = "Duo Authenticator Setup Stage"
    challenge_component = "ak-stage-authenticator-duo"
    references: ClassVar[Mapping[str, str]] = {"configure_flow": "authentik_flows.flow"}

    async def prepare(self, method: str) -> Outcome | None:
        """A stored user; an enrolment is begun once for a flow."""
        user, context = self.run.pending_user, self.run.plan.context
        if user is None or not user.stored:
            return Invalid()
        if ENROLL not in context:
            try:
                enrollment = await client_of(self.run.services, self.stage).enroll(user.username)
            except DuoFailed as error:
                failed(self.run.services, self.run.request, self.stage, error)
                return Invalid(UNAVAILABLE)
            context[ENROLL] = {
                "user_id": enrollment.user_id,
                "activation_code": enrollment.activation_code,
                "activation_barcode": enrollment.barcode,
            }
        return None

    async def challenge(self) -> dict[str, Any]:
        """What to show to the phone."""
        known = self.run.plan.context[ENROLL]
        return {
            "activation_barcode": known["activation_barcode"],
            "activation_code": known["activation_code"],
            "stage_uuid": self.stage.pk,
        }

    async def respond(self, data: Mapping[str, Any]) -> Outcome:
        """Whatever is sent: Duo is asked whether the phone is there."""
        user, services = self.run.pending_user, self.run.services
        if user is None:
            return Invalid()
        known = self.run.plan.context.pop(ENROLL)
        try:
            status = await client_of(services, self.stage).enroll_status(known["user_id"], known["activation_code"])
        except DuoFailed as error:
            failed(services, self.run.request, self.stage, error)
            return Invalid(UNAVAILABLE)
        if status != "success":
            return Invalid(NOT_ACTIVATED)
        if services.database.exists(models.DuoDevice, stage=self.stage.pk, duo_user_id=known["user_id"]):
            return Invalid(ALREADY)
        device = models.DuoDevice(
            user=int(user.pk or 0),
            name=self.options.friendly_name or "Duo Authenticator",
            stage=self.stage.pk,
            duo_user_id=known["user_id"],
        )
        services.database.save(device)
        services.created(self.run.request, device)
        return Advance()


def client_of(services: Services, stage: models.Stage) -> DuoClient:
    """A client with the keys of a stage.

    :raises DuoFailed: the host name is none.
    """
    options = AuthenticatorDuoStage.read_options(stage.options)
    keys = DuoKeys(options.api_hostname, options.client_id, options.client_secret)
    return DuoClient(services.http, keys, services.now)


def failed(services: Services, request: HTTPRequest, stage: models.Stage, error: DuoFailed) -> None:
    """Tell the administrators; the error's text holds no secret."""
    services.event("configuration_error", request, stage=stage, message=f"Failed to use Duo: {error}")


async def push(
    services: Services, request: HTTPRequest, device: models.DuoDevice, user: models.User, application: str
) -> bool:
    """Ask the person on the phone and wait. False as well if Duo cannot be asked, which an event tells."""
    stage = services.database.first(models.Stage, pk=device.stage)
    if stage is None:
        return False
    brand = request.brand.branding_title if request.brand is not None else "authentik"
    about = {"Domain": request.host} | ({"Application": application} if application else {})
    try:
        return await client_of(services, stage).push(
            device.duo_user_id,
            client_ip=request.client_ip,
            username=user.username,
            kind=f"{brand} Login request",
            about=about,
        )
    except DuoFailed as error:
        failed(services, request, stage, error)
        return False
