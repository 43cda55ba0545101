"""Identification stage: who wants in (flows.md §5.1). With an embedded password stage it also checks the password.

Unknown name, inactive user, wrong and empty password get one answer after the same work, so that none can be told from
the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urlencode

import msgspec

from core import models
from core.avatars import DEFAULT_AVATAR
from core.stages.base import Advance, ChallengeStage, Errors, Options, Outcome, check_known, text_of
from core.stages.captcha import CaptchaStage
from core.stages.password import PasswordStage

FAILED = "Failed to authenticate."
MISSING = "No identification data provided."
USER_FIELDS = ("email", "username", "upn")
MAX_IDENTIFIER = 254  # characters, the longest mail address (RFC 5321 section 4.5.3.1.3); longer ones are unknown names


class IdentificationOptions(Options, kw_only=True):
    """Options as the API names them; links and stages are primary keys."""

    user_fields: list[str] = msgspec.field(default_factory=list)
    password_stage: str | None = None
    captcha_stage: str | None = None
    webauthn_stage: str | None = None
    case_insensitive_matching: bool = True
    show_matched_user: bool = True
    pretend_user_exists: bool = True
    enable_remember_me: bool = False
    enrollment_flow: str | None = None
    recovery_flow: str | None = None
    passwordless_flow: str | None = None
    sources: list[str] = msgspec.field(default_factory=list)
    show_source_labels: bool = False


class IdentificationStage(ChallengeStage):
    """Asks for a name (and a password) and puts ``pending_user`` into the context."""

    model = "authentik_stages_identification.identificationstage"
    Options = IdentificationOptions
    component = "ak-stage-identification-form"
    verbose_name = "Identification Stage"
    challenge_component = "ak-stage-identification"
    user_info: ClassVar[bool] = False
    references: ClassVar[Mapping[str, str]] = {
        "password_stage": "authentik_stages_password.passwordstage",
        "captcha_stage": "authentik_stages_captcha.captchastage",
        "enrollment_flow": "authentik_flows.flow",
        "recovery_flow": "authentik_flows.flow",
        "passwordless_flow": "authentik_flows.flow",
    }

    @classmethod
    def check(cls, options: Any) -> None:
        """Unknown user fields are refused."""
        check_known("user_fields", options.user_fields, USER_FIELDS)

    @property
    def password_stage(self) -> PasswordStage | None:
        """The embedded password stage; a missing one is a mistake of the set-up and never means "no password"."""
        pk = self.options.password_stage
        if not pk:
            return None
        stage = self.run.services.database.first(models.Stage, pk=pk)
        if stage is None or stage.type != PasswordStage.model:
            raise LookupError("the embedded password stage is missing")
        return PasswordStage(self.run, stage, None)

    @property
    def captcha_stage(self) -> CaptchaStage | None:
        """The embedded captcha stage; a missing one never means "no captcha"."""
        pk = self.options.captcha_stage
        if not pk:
            return None
        stage = self.run.services.database.first(models.Stage, pk=pk)
        if stage is None or stage.type != CaptchaStage.model:
            raise LookupError("the embedded captcha stage is missing")
        return CaptchaStage(self.run, stage, None)

    async def prepare(self, method: str) -> Outcome | None:
        """A known identifier (``login_hint``) is looked up silently if the stage asks for nothing else."""
        options = self.options
        hint = self.run.plan.context.get("pending_user_identifier")
        if method != "GET" or not hint or options.password_stage or options.captcha_stage or options.webauthn_stage:
            return None
        if self.binding is None or self.run.services.policies_bound(self.binding.pk):
            return None
        outcome = await self.respond({"uid_field": hint})
        return outcome if isinstance(outcome, Advance) else None

    async def challenge(self) -> dict[str, Any]:
        """Which fields to show, and the links beside them."""
        options, run = self.options, self.run
        password_stage = self.password_stage
        data: dict[str, Any] = {
            "user_fields": list(options.user_fields),
            "pending_user_identifier": run.plan.context.get("pending_user_identifier"),
            "password_fields": password_stage is not None,
            "allow_show_password": password_stage is not None and password_stage.options.allow_show_password,
            "flow_designation": run.flow.designation,
            "captcha_stage": None,
            "primary_action": "Continue" if run.flow.designation == "recovery" else "Log in",
            "sources": [],
            "show_source_labels": options.show_source_labels,
            "enable_remember_me": options.enable_remember_me,
            "passkey_challenge": None,
        }
        captcha = self.captcha_stage
        if captcha is not None:
            data["captcha_stage"] = await captcha.challenge() | {
                "pending_user": "",
                "pending_user_avatar": DEFAULT_AVATAR,
            }
        application = run.plan.context.get("application")
        if isinstance(application, models.Application):
            data["application_pre"] = application.name
            if application.meta_launch_url:
                data["application_pre_launch"] = application.meta_launch_url
        links = (("enroll_url", "enrollment_flow"), ("recovery_url", "recovery_flow"))
        for name, option in (*links, ("passwordless_url", "passwordless_flow")):
            pk = getattr(options, option)
            flow = run.services.database.first(models.Flow, pk=pk) if pk else None
            if flow is not None:
                query = urlencode(run.request.query)
                data[name] = f"/if/flow/{flow.slug}/" + (f"?{query}" if query else "")
        return data

    async def respond(self, data: Mapping[str, Any]) -> Outcome:
        """Look the name up, check the embedded password, and remember who it is."""
        run, context = self.run, self.run.plan.context
        typed = text_of(data, "uid_field")
        if not typed:
            return Errors.one(MISSING)
        password_stage = self.password_stage
        if not self.options.user_fields:
            return Errors.one(FAILED)  # nothing that could be accepted
        user = self._find(typed)
        if not self.options.show_matched_user:
            context["pending_user_identifier"] = typed
        if user is None:
            await run.services.passwords.spend(text_of(data, "password"))
            run.services.reputation(typed[:MAX_IDENTIFIER], run.request.client_ip, -1)
            context["pending_user"] = models.User(username=typed[:MAX_IDENTIFIER], email=typed[:MAX_IDENTIFIER])
            if self.options.pretend_user_exists and password_stage is None:
                return Advance()
            run.services.event("login_failed", run.request, stage=self.stage, username=typed[:MAX_IDENTIFIER])
            return Errors.one(FAILED)
        captcha = self.captcha_stage
        if captcha is not None and await captcha.problem(text_of(data, "captcha_token")):
            await run.services.passwords.spend("")
            context["pending_user"] = user
            return Errors.one(FAILED)
        if password_stage is not None:
            accepted = await password_stage.accepts(user, text_of(data, "password"))
            if accepted is None:
                context["pending_user"] = user
                return Errors.one(FAILED)
            user = accepted.user
        context["pending_user"] = user
        return Advance()

    def _find(self, typed: str) -> models.User | None:
        if len(typed) > MAX_IDENTIFIER or "\x00" in typed:
            return None
        return self.run.services.database.user_by_login(
            typed, self.options.user_fields, case_insensitive=self.options.case_insensitive_matching
        )
