"""Set-up of a phone number as a second factor; codes go to it by Twilio or any HTTP service (flows.md §5.11)."""

from __future__ import annotations

import hmac
import re
from collections.abc import Generator, Mapping
from typing import Any, ClassVar, Literal
from urllib.parse import quote, urlsplit

import httpx

from core import durations, models
from core.devices import HASHED_NUMBER
from core.errors import ValidationFailed
from core.policies.base import PolicyRequest
from core.policies.expression import evaluate
from core.services import Services
from core.stages.base import Advance, ChallengeStage, Errors, Invalid, Outcome, text_of
from core.stages.sent_codes import Pending, SetupOptions, new_code

DEVICE = "goauthentik.io/stages/authenticator_sms/sms_device"  # context key: the device that is being set up
INVALID_NUMBER = "Invalid phone number"
TAKEN = "This number is in use already."
WRONG_CODE = "Code does not match"
NOT_SENT = "The code could not be sent. Try again later."
TOO_MANY = "Too many codes were sent. Try again later."
TWILIO = "https://api.twilio.com/2010-04-01/Accounts"
CODE_LIFE = "minutes=5"
MAPPING_TIMEOUT_S = 5.0  # the expression that makes the body for a service
_NUMBER = re.compile(r"\+?[0-9]{5,15}")  # E.164 has at most 15 digits
_DECORATION = str.maketrans("", "", " -./()\t\u00a0")


class SMSFailed(Exception):
    """A message could not be handed to the service. The text names neither number nor content."""


class AuthenticatorSMSOptions(SetupOptions, kw_only=True):
    """``account_sid`` is the account at Twilio or the address of a generic service; ``mapping`` makes its JSON body."""

    provider: Literal["twilio", "generic"]
    from_number: str
    account_sid: str
    auth: str
    auth_password: str = ""
    auth_type: Literal["basic", "bearer"] = "basic"
    verify_only: bool = False
    mapping: str | None = None


class AuthenticatorSMSStage(ChallengeStage):
    """Sends a code to a number; who knows it has the phone."""

    model = "authentik_stages_authenticator_sms.authenticatorsmsstage"
    Options = AuthenticatorSMSOptions
    component = "ak-stage-authenticator-sms-form"
    verbose_name = "SMS Authenticator Setup Stage"
    challenge_component = "ak-stage-authenticator-sms"
    references: ClassVar[Mapping[str, str]] = {"configure_flow": "authentik_flows.flow"}

    @classmethod
    def check(cls, options: Any) -> None:
        """A generic service must have an address."""
        if options.provider == "generic" and urlsplit(options.account_sid).scheme not in ("http", "https"):
            raise ValidationFailed({"account_sid": ["must be an http or https address with a generic provider"]})

    async def prepare(self, method: str) -> Outcome | None:
        """A stored user; the first look sends the code if the number is known from a prompt."""
        user, context = self.run.pending_user, self.run.plan.context
        if user is None or not user.stored:
            return Invalid()
        prompted = context.get("prompt_data")
        given = prompted.get("phone") if isinstance(prompted, dict) else None
        if method == "GET" and isinstance(given, str) and given and Pending.read(context.get(DEVICE)) is None:
            await self._send(user, normal(given))
        return None

    async def challenge(self) -> dict[str, Any]:
        """Whether a number is wanted, or a code."""
        return {"phone_number_required": Pending.read(self.run.plan.context.get(DEVICE)) is None}

    async def respond(self, data: Mapping[str, Any]) -> Outcome:
        """A number gets a code; a code confirms the device."""
        user, context, services = self.run.pending_user, self.run.plan.context, self.run.services
        pending = Pending.read(context.get(DEVICE))
        code = text_of(data, "code").strip()
        if user is None:
            return Invalid()
        if not code:
            number = normal(text_of(data, "phone_number")) or (pending.to if pending else "")
            problem = await self._send(user, number)
            return Errors.one(problem, name="phone_number") if problem else await self.ask()
        if pending is None or not pending.accepts(services, code):
            if pending is not None:
                context[DEVICE] = pending.data()
            return Errors.one(WRONG_CODE, name="code")
        device = models.SMSDevice(
            user=int(user.pk or 0),
            name=self.options.friendly_name or "SMS Device",
            phone_number=hashed(services, pending.to) if self.options.verify_only else pending.to,
            stage=self.stage.pk,
            last_used=services.now(),
        )
        try:
            services.database.save(device)
        except ValidationFailed:  # somebody else was faster with the same number
            return Errors.one(TAKEN, name="phone_number")
        services.created(self.run.request, device)
        del context[DEVICE]
        return Advance()

    async def _send(self, user: models.User, number: str) -> str:
        """Send a fresh code; the text of the problem if that failed."""
        services, code = self.run.services, new_code()
        if not _NUMBER.fullmatch(number):
            return INVALID_NUMBER
        both = [number, hashed(services, number)]
        if services.database.exists(models.SMSDevice, stage=self.stage.pk, phone_number__in=both):
            return TAKEN
        if not services.sent_codes.take(f"sms-setup:{user.pk}", services.now()):
            return TOO_MANY
        device = models.SMSDevice(user=int(user.pk or 0), name="", phone_number=number)
        try:
            await send(services, self.stage, self.options, user, device, code)
        except SMSFailed:
            return NOT_SENT
        self.run.plan.context[DEVICE] = Pending.make(services, number, code, CODE_LIFE).data()
        return ""


def normal(number: str) -> str:
    """A number without what people write for the eye; ``00`` in front is ``+``."""
    bare = number.translate(_DECORATION)
    return "+" + bare[2:] if bare.startswith("00") else bare


def hashed(services: Services, number: str) -> str:
    """What is kept of a number that is only verified: the same number gives the same text, in this installation."""
    return HASHED_NUMBER + hmac.digest(services.derived_key("phone-number"), number.encode(), "sha256").hex()


class _Bearer(httpx.Auth):
    """``Authorization: Bearer`` (RFC 6750 §2.1)."""

    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the header."""
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


async def send(
    services: Services,
    stage: models.Stage,
    options: AuthenticatorSMSOptions,
    user: models.User,
    device: models.SMSDevice,
    code: str,
) -> None:
    """Send a code to a device's number.

    :raises SMSFailed: the service did not take it; an event says so.
    """
    text = f"Use this code to authenticate in authentik: {code}"
    try:
        if options.provider == "twilio":
            answer = await services.http.post(
                f"{TWILIO}/{quote(options.account_sid, safe='')}/Messages.json",
                data={"From": options.from_number, "To": device.phone_number, "Body": text},
                auth=httpx.BasicAuth(options.account_sid, options.auth),
            )
        else:
            credentials: httpx.Auth = (
                _Bearer(options.auth)
                if options.auth_type == "bearer"
                else httpx.BasicAuth(options.auth, options.auth_password)
            )
            body = await _body(services, options, user, device, code, text)
            answer = await services.http.post(options.account_sid, json=body, auth=credentials)
        if answer.is_success:
            return
        problem = f"status {answer.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError) as error:
        problem = type(error).__name__
    except Exception as error:  # of the mapping's expression
        problem = f"mapping: {type(error).__name__}"
    services.database.log_event(
        "configuration_error",
        "authentik.stages.authenticator_sms",
        context={
            "message": "An SMS could not be sent",
            "problem": problem,
            "stage": {"pk": stage.pk, "name": stage.name},
        },
        user=user,
    )
    raise SMSFailed(problem)


async def _body(
    services: Services,
    options: AuthenticatorSMSOptions,
    user: models.User,
    device: models.SMSDevice,
    code: str,
    text: str,
) -> Any:
    plain = {"From": options.from_number, "To": device.phone_number, "Body": code, "Message": text}
    if not options.mapping:
        return plain
    mapping = services.database.first(models.PropertyMapping, pk=options.mapping)
    if mapping is None:
        raise ValueError("the mapping is missing")
    request = PolicyRequest(user=user)
    own = {"user": user, "device": device, "token": code, "message": text, "stage": options}
    source, name = mapping.options["expression"], mapping.name
    return await services.engine.compute(
        lambda names: evaluate(source, name, names | own), request, name, MAPPING_TIMEOUT_S
    )


async def send_to_device(services: Services, device: models.SMSDevice, user: models.User) -> None:
    """Give a device a fresh code and send it.

    :raises SMSFailed: the service did not take it, or the device's stage is gone.
    """
    stage = services.database.first(models.Stage, pk=device.stage) if device.stage else None
    if stage is None or device.is_hashed:
        raise SMSFailed("the device has no stage or no number")
    code = new_code()
    await send(services, stage, AuthenticatorSMSStage.read_options(stage.options), user, device, code)
    with services.database.transaction():
        fresh = services.database.get(models.SMSDevice, device.pk)
        fresh.token, fresh.valid_until = code, services.now() + durations.seconds(CODE_LIFE)
        services.database.save(fresh)
