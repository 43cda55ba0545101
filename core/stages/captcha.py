"""Captcha stage: reCAPTCHA and what answers like it (flows.md §5.10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from core.errors import ValidationFailed
from core.stages.base import Advance, ChallengeStage, Errors, Options, Outcome, text_of

SITE_KEY = "goauthentik.io/stages/captcha/site_key"  # context keys by which policies choose other keys
PRIVATE_KEY = "goauthentik.io/stages/captcha/private_key"
MAX_TOKEN = 16 * 1024  # characters; reCAPTCHA's have about 2,000
FAILED = "Failed to validate token."
UNREACHABLE = "The token could not be validated. Try again later."
NO_LIMIT = -1.0


class CaptchaOptions(Options, kw_only=True):
    """A score threshold of -1 is not compared."""

    public_key: str
    private_key: str
    interactive: bool = False
    js_url: str = "https://www.recaptcha.net/recaptcha/api.js"
    api_url: str = "https://www.recaptcha.net/recaptcha/api/siteverify"
    score_min_threshold: float = 0.5
    score_max_threshold: float = 1.0
    error_on_invalid_score: bool = True


class CaptchaStage(ChallengeStage):
    """Asks for a token and a server whether it is good."""

    model = "authentik_stages_captcha.captchastage"
    Options = CaptchaOptions
    component = "ak-stage-captcha-form"
    verbose_name = "Captcha Stage"
    challenge_component = "ak-stage-captcha"

    @classmethod
    def check(cls, options: Any) -> None:
        """Both addresses must be ones of the web."""
        for name in ("js_url", "api_url"):
            if not getattr(options, name).startswith(("https://", "http://")):
                raise ValidationFailed({name: ["Enter a valid URL."]})

    async def challenge(self) -> dict[str, Any]:
        """What a browser needs to make a token."""
        key = self.run.plan.context.get(SITE_KEY)
        return {
            "site_key": key if isinstance(key, str) and key else self.options.public_key,
            "js_url": self.options.js_url,
            "interactive": self.options.interactive,
        }

    async def respond(self, data: Mapping[str, Any]) -> Outcome:
        """The token decides."""
        problem = await self.problem(text_of(data, "token"))
        return Errors.one(problem, name="token") if problem else Advance()

    async def problem(self, token: str) -> str:
        """The text of what is wrong with a token; empty if nothing is, and the server's answer is in the context."""
        if not token or len(token) > MAX_TOKEN:
            return FAILED
        context, services = self.run.plan.context, self.run.services
        secret = context.get(PRIVATE_KEY)
        form = {
            "secret": secret if isinstance(secret, str) and secret else self.options.private_key,
            "response": token,
            "remoteip": self.run.request.client_ip,
        }
        try:
            answer = await services.http.post(self.options.api_url, data=form)
            answer.raise_for_status()
            body = answer.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):
            return UNREACHABLE
        if not isinstance(body, dict):
            return UNREACHABLE
        if self.options.error_on_invalid_score and not self._good(body):
            return FAILED
        context["captcha"] = {"response": body, "stage": self.stage}
        return ""

    def _good(self, body: Mapping[str, Any]) -> bool:
        """Whether the server says yes and the score, if there is one, lies within the limits."""
        if body.get("success") is not True:
            return False
        score = body.get("score")
        if score is None:
            return True
        if isinstance(score, bool) or not isinstance(score, int | float):
            return False
        least, most = self.options.score_min_threshold, self.options.score_max_threshold
        return bool((least == NO_LIMIT or score >= least) and (most == NO_LIMIT or score <= most))
