"""Password stage and its backends (flows.md §5.2)."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from core import models
from core.stages.base import Advance, ChallengeStage, Errors, Invalid, Options, Outcome, check_known, text_of

INBUILT = "authentik.core.auth.InbuiltBackend"
TOKEN = "authentik.core.auth.TokenBackend"  # noqa: S105 - the name of a backend
# Live binds to other directories are not part of the embedded core: they never match.
LDAP = "authentik.sources.ldap.auth.LDAPBackend"
KERBEROS = "authentik.sources.kerberos.auth.KerberosBackend"
BACKENDS = (INBUILT, TOKEN, LDAP, KERBEROS)

WRONG = "Invalid password"
FAILURES = "goauthentik.io/stages/password/failures"  # context key: wrong answers in this plan


class PasswordOptions(Options, kw_only=True):
    """``backends`` are tried in order; ``failed_attempts_before_cancel`` counts answers within one plan."""

    backends: list[str] = msgspec.field(default_factory=list)
    failed_attempts_before_cancel: int = 5
    allow_show_password: bool = False
    configure_flow: str | None = None


@dataclass(frozen=True)
class Accepted:
    """A backend accepted the password; ``user`` was read anew and carries ``backend``."""

    user: models.User
    backend: str


class PasswordStage(ChallengeStage):
    """Asks for the password of ``pending_user``."""

    model = "authentik_stages_password.passwordstage"
    Options = PasswordOptions
    component = "ak-stage-password-form"
    verbose_name = "Password Stage"
    challenge_component = "ak-stage-password"
    references: ClassVar[Mapping[str, str]] = {"configure_flow": "authentik_flows.flow"}

    @classmethod
    def check(cls, options: Any) -> None:
        """Unknown backends are refused."""
        check_known("backends", options.backends, BACKENDS)

    async def prepare(self, method: str) -> Outcome | None:
        """Without a pending user there is nothing to ask."""
        return None if self.run.pending_user is not None else Invalid()

    async def challenge(self) -> dict[str, Any]:
        """A recovery link is offered if the brand has such a flow."""
        data: dict[str, Any] = {"allow_show_password": self.options.allow_show_password}
        brand = self.run.request.brand
        flow = (
            self.run.services.database.get(models.Flow, brand.flow_recovery) if brand and brand.flow_recovery else None
        )
        if flow is not None:
            scheme = "https" if self.run.request.secure else "http"
            data["recovery_url"] = f"{scheme}://{self.run.request.host}/if/flow/{flow.slug}/"
        return data

    async def respond(self, data: Mapping[str, Any]) -> Outcome:
        """Check the password; the last allowed failure ends the plan."""
        user, context = self.run.pending_user, self.run.plan.context
        if user is None:
            return Invalid()
        if "password" not in data or not isinstance(data["password"], str):
            return Errors.one("This field is required.", name="password", code="required")
        accepted = await self.accepts(user, text_of(data, "password"))
        if accepted is None:
            failures = int(context.get(FAILURES, 0)) + 1
            context[FAILURES] = failures
            if failures >= self.options.failed_attempts_before_cancel:
                return Invalid(WRONG)
            return Errors.one(WRONG, name="password")
        context.pop(FAILURES, None)
        context["pending_user"] = accepted.user
        context["user_backend"] = accepted.backend
        return Advance()

    async def accepts(self, user: models.User, password: str) -> Accepted | None:
        """Try the backends. The work for a user that is unknown, inactive or has no password is that of a wrong one.

        A failure is written as an event and costs reputation.
        """
        run, services = self.run, self.run.services
        method, backend = "", ""
        args: dict[str, Any] = {}
        token = self._app_password(user, password) if TOKEN in self.options.backends else None
        if token is not None:
            # looked up first because it costs nothing; which backend is named first makes no difference to a key of
            # 60 random characters
            method, backend = "token", TOKEN
            args = {"token": {"pk": token.pk, "identifier": token.identifier}}
        elif INBUILT in self.options.backends and user.stored and user.is_active and user.has_usable_password():
            if await services.passwords.check(user, password):
                method, backend = "password", INBUILT
        else:
            await services.passwords.spend(password)
        fresh = services.database.user(user.pk) if method and user.stored else None
        if fresh is None or (backend == INBUILT and not fresh.is_active):
            services.reputation(user.username, run.request.client_ip, -1)
            services.event("login_failed", run.request, stage=self.stage, username=user.username)
            return None
        fresh.backend = backend  # type: ignore[attr-defined]  # exists only once a backend accepted
        run.plan.context.setdefault("auth_method", method)
        arguments = run.plan.context.setdefault("auth_method_args", {})
        for name, value in args.items():
            arguments.setdefault(name, value)
        return Accepted(fresh, backend)

    def _app_password(self, user: models.User, password: str) -> models.Token | None:
        if not user.stored or not password:
            return None
        token = self.run.services.database.app_password(user, password)
        if token is None or not hmac.compare_digest(token.key.encode(), password.encode()):
            return None
        return token
