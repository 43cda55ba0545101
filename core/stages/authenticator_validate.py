"""Authenticator validation stage: a second factor (flows.md §5.11). Codes of generators, lists, mails and SMS, and
pushes by Duo; for passkeys there are no devices yet."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from core import durations, models, otp, signed
from core.errors import Busy
from core.mail import MailFailed, masked
from core.stages import authenticator_duo, authenticator_email, authenticator_sms
from core.stages.base import (
    Advance,
    ChallengeStage,
    Errors,
    Invalid,
    Options,
    Outcome,
    check_duration,
    check_known,
    text_of,
)

NOT_CONFIGURED = "No (allowed) MFA authenticator configured."
# One text for wrong, used and throttled codes: nobody learns which it was.
WRONG_CODE = "Invalid Token. Please ensure the time on your device is accurate and try again."
EMPTY = "Empty response"
PUSH_REFUSED = "Authentication was not confirmed."
DEVICE_CLASSES = ("duo", "email", "sms", "static", "totp", "webauthn")  # the order in which challenges are listed
DEFAULT_DEVICE_CLASSES = ("static", "totp", "webauthn", "duo", "sms", "email")  # the API's own order
MFA_COOKIE = "authentik_mfa"
MAX_CODE = 128  # characters; the longest static code is 100
_CLASSES: dict[type[models.Device], str] = {
    models.StaticDevice: "static",
    models.TOTPDevice: "totp",
    models.EmailDevice: "email",
    models.SMSDevice: "sms",
    models.DuoDevice: "duo",
}


class AuthenticatorValidateOptions(Options, kw_only=True):
    """``last_auth_threshold`` is a duration text; 0 s means "ask every time"."""

    device_classes: list[str] = msgspec.field(default_factory=lambda: list(DEFAULT_DEVICE_CLASSES))
    not_configured_action: Literal["skip", "deny", "configure"] = "skip"
    configuration_stages: list[str] = msgspec.field(default_factory=list)
    last_auth_threshold: str = "seconds=0"
    webauthn_user_verification: Literal["required", "preferred", "discouraged"] = "preferred"
    webauthn_hints: list[str] = msgspec.field(default_factory=list)
    webauthn_allowed_device_types: list[str] = msgspec.field(default_factory=list)


class AuthenticatorValidateStage(ChallengeStage):
    """Asks for a code of one of the pending user's devices."""

    model = "authentik_stages_authenticator_validate.authenticatorvalidatestage"
    Options = AuthenticatorValidateOptions
    component = "ak-stage-authenticator-validate-form"
    verbose_name = "Authenticator Validation Stage"
    challenge_component = "ak-stage-authenticator-validate"

    @classmethod
    def check(cls, options: Any) -> None:
        """Unknown device classes and a threshold that cannot be read are refused."""
        check_known("device_classes", options.device_classes, DEVICE_CLASSES)
        check_duration("last_auth_threshold", options.last_auth_threshold)

    async def prepare(self, method: str) -> Outcome | None:
        """Skip, refuse or lead to a set-up stage if there is nothing to ask for."""
        user = self.run.pending_user
        if user is None:
            # without a user only a passkey could say who it is, and there are none
            return Advance()
        devices = self._listed(user)
        if devices:
            return Advance() if self._recently_used(devices) else None
        action = self.options.not_configured_action
        if action == "skip":
            return Advance()
        if action == "deny":
            return Invalid(NOT_CONFIGURED)
        stages = self._configuration_stages()
        if not stages:
            return Invalid(NOT_CONFIGURED)
        if len(stages) == 1:
            self.run.insert(stages[0])
            return Advance()
        return None

    async def challenge(self) -> dict[str, Any]:
        """One entry for each class of device, or the set-up stages to choose from."""
        user = self.run.pending_user
        devices = self._listed(user) if user is not None else []
        configuration = [] if devices else self._configuration_stages()
        return {
            "device_challenges": [
                {
                    "device_class": _class_of(device),
                    "device_uid": str(device.pk),
                    "challenge": _shown(device),
                    "last_used": _time(device.last_used),
                }
                for device in devices
            ],
            "configuration_stages": [
                {
                    "pk": stage.pk,
                    "name": stage.name,
                    "verbose_name": self.run.stage_types[stage.type].verbose_name,
                    "meta_model_name": stage.type,
                }
                for stage in configuration
            ],
        }

    async def respond(self, data: Mapping[str, Any]) -> Outcome:
        """In this order: send a code where asked to, check a code against all confirmed devices, ask for a push.

        Or insert the chosen set-up stage. Whatever is not accepted costs reputation.
        """
        run, services = self.run, self.run.services
        user = run.pending_user
        if user is None:
            return Invalid()
        chosen = text_of(data, "selected_stage")
        if chosen and not self._listed(user):
            for stage in self._configuration_stages():
                if stage.pk == chosen:
                    run.insert(stage)
                    return Advance()
        outcome = await self._answered(user, data)
        if isinstance(outcome, Errors):
            services.reputation(user.username, run.request.client_ip, -1)
            return outcome
        context = run.plan.context
        context.setdefault("auth_method", "auth_mfa")
        arguments = context.setdefault("auth_method_args", {})
        arguments.setdefault("mfa_devices", []).append(outcome)
        self._remember(outcome)
        return Advance()

    async def _answered(self, user: models.User, data: Mapping[str, Any]) -> models.Device | Errors:
        """The device that proved who it is. A code and a push in one answer must both pass."""
        selected = data.get("selected_challenge")
        code, pushed = text_of(data, "code").strip(), data.get("duo")
        if selected is not None:
            # with a code in the same answer the code was sent already: another would make it worthless
            problem = await self._select(user, selected, send=not code)
            if problem is not None:
                return problem
        if not code and pushed is None:
            return Errors.one(EMPTY)
        device: models.Device | None = None
        if code:
            device = self._verify(user, code) if len(code) <= MAX_CODE else None
            if device is None:
                return self._failed(user, "code")
        if pushed is not None:
            device = await self._push(user, pushed)
            if device is None:
                return self._failed(user, "duo", PUSH_REFUSED)
        return device if device is not None else Errors.one(EMPTY)

    def _failed(self, user: models.User, name: str, text: str = WRONG_CODE) -> Errors:
        self.run.services.event("login_failed", self.run.request, stage=self.stage, username=user.username)
        return Errors.one(text, name=name)

    async def _select(self, user: models.User, selected: Any, *, send: bool) -> Errors | None:
        """Send a code to the device of a chosen challenge; the problem if it is not one that was offered."""
        named = (selected.get("device_class"), selected.get("device_uid")) if isinstance(selected, dict) else None
        for device in self._listed(user):
            if named == (_class_of(device), str(device.pk)):
                return await self._send(user, device) if send else None
        return Errors.one("invalid challenge selected", name="selected_challenge")

    async def _send(self, user: models.User, device: models.Device) -> Errors | None:
        services = self.run.services
        if not isinstance(device, models.EmailDevice | models.SMSDevice):
            return None
        if not services.sent_codes.take(_uid(device), services.now()):
            return Errors.one(authenticator_email.TOO_MANY, name="selected_challenge", code="throttled")
        try:
            if isinstance(device, models.EmailDevice):
                await authenticator_email.send_to_device(services, device, user)
            else:
                await authenticator_sms.send_to_device(services, device, user)
        except (MailFailed, Busy, authenticator_sms.SMSFailed):
            return Errors.one(authenticator_email.NOT_SENT, name="selected_challenge")
        return None

    async def _push(self, user: models.User, pk: Any) -> models.DuoDevice | None:
        """The device if its owner said yes on the phone; the request stays open until then."""
        services, application = self.run.services, self.run.plan.context.get("application")
        if isinstance(pk, str) and pk.isascii() and pk.isdigit() and len(pk) < MAX_CODE:
            pk = int(pk)
        found = [device for device in self._devices(user) if isinstance(device, models.DuoDevice) and device.pk == pk]
        if not found or isinstance(pk, bool):
            return None
        name = application.name if isinstance(application, models.Application) else ""
        if not await authenticator_duo.push(services, self.run.request, found[0], user, name):
            return None
        with services.database.transaction():
            device = services.database.first(models.DuoDevice, pk=found[0].pk, confirmed=True)
            if device is not None:  # it may have been removed meanwhile
                device.last_used = services.now()
                services.database.save(device)
        return device

    def _verify(self, user: models.User, code: str) -> models.Device | None:
        """Reading, checking and saving are one transaction without a pause: a code cannot count twice."""
        services = self.run.services
        with services.database.transaction():
            devices = [device for device in self._devices(user) if not isinstance(device, models.DuoDevice)]
            accepted, changed = otp.verify(devices, code, services.now())
            for device in changed:
                services.database.save(device)
        return accepted

    def _devices(self, user: models.User) -> list[models.Device]:
        """All that can prove something: confirmed, and not a number of which only the hash is kept."""
        if not user.stored:
            return []
        found = self.run.services.database.devices_of(int(user.pk or 0))
        return [device for device in found if not (isinstance(device, models.SMSDevice) and device.is_hashed)]

    def _listed(self, user: models.User) -> list[models.Device]:
        """One device for each allowed class, in the fixed order of classes."""
        first: dict[str, models.Device] = {}
        for device in self._devices(user):
            name = _class_of(device)
            if name in self.options.device_classes:
                first.setdefault(name, device)
        return [first[name] for name in DEVICE_CLASSES if name in first]

    def _configuration_stages(self) -> list[models.Stage]:
        if self.options.not_configured_action != "configure":
            return []
        found = self.run.services.database.get_many(models.Stage, self.options.configuration_stages)
        stages = [found[pk] for pk in self.options.configuration_stages if pk in found]
        return [stage for stage in stages if stage.type in self.run.stage_types]

    # --- the cookie that lets a browser skip the stage for a while -------------------------------------------------

    def _secret(self) -> bytes:
        return self.run.services.derived_key(f"mfa:{self.stage.pk}")

    def _recently_used(self, devices: list[models.Device]) -> bool:
        """Whether the browser proved one of these devices to this very stage within the threshold."""
        if durations.seconds(self.options.last_auth_threshold) <= 0:
            return False
        cookie = self.run.request.cookies.get(MFA_COOKIE, "")
        claims = signed.read(cookie, self._secret())
        try:
            live = claims is not None and float(claims["exp"]) > self.run.services.now()
        except (KeyError, TypeError, ValueError):
            return False
        return (
            claims is not None
            and live
            and claims.get("stage") == self.stage.pk
            and claims.get("device") in {_uid(d) for d in devices}
        )

    def _remember(self, device: models.Device) -> None:
        threshold_s = durations.seconds(self.options.last_auth_threshold)
        if threshold_s <= 0:
            return
        claims = {"device": _uid(device), "stage": self.stage.pk, "exp": self.run.services.now() + threshold_s}
        cookie = signed.write(claims, self._secret())
        self.run.session.set_cookie(MFA_COOKIE, cookie, max_age_s=threshold_s, http_only=True)


def _class_of(device: models.Device) -> str:
    return _CLASSES[type(device)]


def _shown(device: models.Device) -> dict[str, Any]:
    """What a challenge tells about a device: whose mailbox to look into, nothing else."""
    return {"email": masked(device.email)} if isinstance(device, models.EmailDevice) else {}


def _uid(device: models.Device) -> str:
    return f"{_class_of(device)}-{device.pk}"


def _time(moment: float | None) -> str | None:
    if moment is None:
        return None
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).isoformat().replace("+00:00", "Z")
