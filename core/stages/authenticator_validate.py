"""Authenticator validation stage: a second factor (flows.md §5.11). TOTP and static codes; other classes need their own
set-up stages and have no devices until those exist."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Literal

import jwt
import msgspec

from core import durations, models, otp
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
DEVICE_CLASSES = ("duo", "email", "sms", "static", "totp", "webauthn")  # the order in which challenges are listed
DEFAULT_DEVICE_CLASSES = ("static", "totp", "webauthn", "duo", "sms", "email")  # the API's own order
MFA_COOKIE = "authentik_mfa"
MAX_CODE = 128  # characters; the longest static code is 100


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
                    "challenge": {},
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
        """Check a code against all confirmed devices of the user, or insert the chosen set-up stage."""
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
        code = text_of(data, "code").strip()
        if not code:
            services.reputation(user.username, run.request.client_ip, -1)
            return Errors.one(EMPTY)
        device = self._verify(user, code) if len(code) <= MAX_CODE else None
        if device is None:
            services.reputation(user.username, run.request.client_ip, -1)
            services.event("login_failed", run.request, stage=self.stage, username=user.username)
            return Errors.one(WRONG_CODE, name="code")
        context = run.plan.context
        context.setdefault("auth_method", "auth_mfa")
        arguments = context.setdefault("auth_method_args", {})
        arguments.setdefault("mfa_devices", []).append(device)
        self._remember(device)
        return Advance()

    def _verify(self, user: models.User, code: str) -> otp.Device | None:
        """Reading, checking and saving are one transaction without a pause: a code cannot count twice."""
        services = self.run.services
        with services.database.transaction():
            accepted, changed = otp.verify(self._devices(user), code, services.now())
            for device in changed:
                services.database.save(device)
        return accepted

    def _devices(self, user: models.User) -> list[otp.Device]:
        if not user.stored:
            return []
        database = self.run.services.database
        return [
            *database.find(models.StaticDevice, user=user.pk, confirmed=True),
            *database.find(models.TOTPDevice, user=user.pk, confirmed=True),
        ]

    def _listed(self, user: models.User) -> list[otp.Device]:
        """One device for each allowed class, in the fixed order of classes."""
        first: dict[str, otp.Device] = {}
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

    def _recently_used(self, devices: list[otp.Device]) -> bool:
        """Whether the browser proved one of these devices to this very stage within the threshold."""
        if durations.seconds(self.options.last_auth_threshold) <= 0:
            return False
        cookie = self.run.request.cookies.get(MFA_COOKIE, "")
        try:
            claims = jwt.decode(
                cookie, self._secret(), algorithms=["HS256"], options={"require": ["exp"], "verify_exp": False}
            )
            live = float(claims["exp"]) > self.run.services.now()
        except (jwt.PyJWTError, KeyError, TypeError, ValueError):
            return False
        return live and claims.get("stage") == self.stage.pk and claims.get("device") in {_uid(d) for d in devices}

    def _remember(self, device: otp.Device) -> None:
        threshold_s = durations.seconds(self.options.last_auth_threshold)
        if threshold_s <= 0:
            return
        claims = {"device": _uid(device), "stage": self.stage.pk, "exp": self.run.services.now() + threshold_s}
        cookie = jwt.encode(claims, self._secret(), algorithm="HS256")
        self.run.session.set_cookie(MFA_COOKIE, cookie, max_age_s=threshold_s, http_only=True)


def _class_of(device: otp.Device) -> str:
    return "totp" if isinstance(device, models.TOTPDevice) else "static"


def _uid(device: otp.Device) -> str:
    return f"{_class_of(device)}-{device.pk}"


def _time(moment: float | None) -> str | None:
    if moment is None:
        return None
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).isoformat().replace("+00:00", "Z")
