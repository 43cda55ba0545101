"""User login stage: the only place where a session becomes that of a user (flows.md §5.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from core import durations, models
from core.sessions import AUTHENTICATED
from core.stages.base import Advance, Challenge, ChallengeStage, Errors, Invalid, Options, Outcome, check_duration
from core.stages.password import INBUILT


class UserLoginOptions(Options, kw_only=True):
    """Durations are ``key=number;…`` texts. A duration of 0 s means "until the browser closes".

    ``geoip_binding`` and the network bindings by AS number need location data that the embedded core does not have;
    they are kept and have no effect. ``bind_asn_network_ip`` compares the address.
    """

    session_duration: str = "seconds=0"
    remember_me_offset: str = "seconds=0"
    terminate_other_sessions: bool = False
    remember_device: str = "days=30"
    network_binding: Literal["no_binding", "bind_asn", "bind_asn_network", "bind_asn_network_ip"] = "no_binding"
    geoip_binding: Literal["no_binding", "bind_continent", "bind_continent_country", "bind_continent_country_city"] = (
        "no_binding"
    )


class UserLoginStage(ChallengeStage):
    """Logs ``pending_user`` in; asks "remember me?" first if an offset is set."""

    model = "authentik_stages_user_login.userloginstage"
    Options = UserLoginOptions
    component = "ak-stage-user-login-form"
    verbose_name = "User Login Stage"
    challenge_component = "ak-stage-user-login"

    @classmethod
    def check(cls, options: Any) -> None:
        """Durations that cannot be read are refused."""
        for name in ("session_duration", "remember_me_offset", "remember_device"):
            check_duration(name, getattr(options, name))

    async def handle(self, method: str, data: Mapping[str, Any] | None) -> Outcome:
        """Without an offset the login happens on GET and POST alike."""
        if durations.seconds(self.options.remember_me_offset) <= 0:
            return self._login(remember=False, interactive=False)
        if method == "GET":
            return Challenge(self.challenge_component, {}, user_info=True)
        return await self.respond(data or {})

    async def respond(self, data: Mapping[str, Any]) -> Outcome:
        """``remember_me`` must be there and be a boolean."""
        remember = data.get("remember_me")
        if not isinstance(remember, bool):
            code, text = (
                ("required", "This field is required.") if remember is None else ("invalid", "Must be a boolean.")
            )
            return Errors.one(text, name="remember_me", code=code)
        return self._login(remember=remember, interactive=True)

    def _login(self, *, remember: bool, interactive: bool) -> Outcome:
        run, services, context = self.run, self.run.services, self.run.plan.context
        pending = run.pending_user
        # read again: what the plan holds may be older than a deactivation
        user = services.database.first(models.User, pk=pending.pk) if pending is not None and pending.stored else None
        if user is None or not user.is_active:
            return Invalid()
        duration_s = durations.seconds(self.options.session_duration)
        if remember:
            duration_s += durations.seconds(self.options.remember_me_offset)
        arguments = context.setdefault("auth_method_args", {})
        arguments["known_device"] = run.session.device_of(run.request.cookies) == user.uid
        context.setdefault("user_backend", INBUILT)
        bound_ip = run.request.client_ip if self.options.network_binding == "bind_asn_network_ip" else None
        run.session.login(user, duration_s=duration_s, bound_ip=bound_ip)
        how = {"method": str(context.get("auth_method", "password")), "mfa": bool(arguments.get("mfa_devices"))}
        run.session.put(AUTHENTICATED, {"at": services.now(), **how})
        if not interactive:
            run.session.remember_device(user, durations.seconds(self.options.remember_device))
        services.logged_in(user)
        run.request.user = user
        services.reputation(user.username, run.request.client_ip, +1)
        services.event(
            "login",
            run.request,
            auth_method=context.get("auth_method", "password"),
            auth_method_args=_plain(arguments),
        )
        if self.options.terminate_other_sessions:
            services.end_other_sessions(user, keep=run.session.pk)
        return Advance()


def _plain(value: Any) -> Any:
    """The arguments as they go into an event: objects become their primary key."""
    if isinstance(value, models.Model):
        return {"model": type(value).__name__.lower(), "pk": value.pk}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
