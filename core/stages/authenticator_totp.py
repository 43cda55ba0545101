"""Set-up of a time-based code generator as a second factor (flows.md §5.11)."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

from core import models, otp
from core.errors import ValidationFailed
from core.stages.base import Advance, ChallengeStage, Errors, Outcome, text_of
from core.stages.sent_codes import SetupOptions

KEY = "goauthentik.io/stages/authenticator_totp/key"  # context key: the secret, in hex, until a code confirms it
KEY_BYTES = 20  # the length that RFC 4226 §4 recommends, and what all generators take
PERIOD_S = 30
WRONG_CODE = "Code does not match"


class AuthenticatorTOTPOptions(SetupOptions, kw_only=True):
    """``digits`` of a code. The API writes the choice as text."""

    digits: int | str = 6


class AuthenticatorTOTPStage(ChallengeStage):
    """Shows a secret; a valid code confirms that a generator has it."""

    model = "authentik_stages_authenticator_totp.authenticatortotpstage"
    Options = AuthenticatorTOTPOptions
    component = "ak-stage-authenticator-totp-form"
    verbose_name = "TOTP Authenticator Setup Stage"
    challenge_component = "ak-stage-authenticator-totp"
    references: ClassVar[Mapping[str, str]] = {"configure_flow": "authentik_flows.flow"}

    @classmethod
    def check(cls, options: Any) -> None:
        """Six or eight digits."""
        if str(options.digits) not in ("6", "8"):
            raise ValidationFailed({"digits": ["must be 6 or 8"]})

    async def prepare(self, method: str) -> Outcome | None:
        """Without a stored user there is nobody to set it up for: go on."""
        user = self.run.pending_user
        if user is None or not user.stored:
            return Advance()
        self.run.plan.context.setdefault(KEY, secrets.token_bytes(KEY_BYTES).hex())
        return None

    async def challenge(self) -> dict[str, Any]:
        """The secret as an address that generators read."""
        user, brand = self.run.pending_user, self.run.request.brand
        issuer = brand.branding_title if brand is not None else "authentik"
        key = base64.b32encode(bytes.fromhex(self.run.plan.context[KEY])).decode().rstrip("=")
        query = {
            "secret": key, "algorithm": "SHA1", "digits": str(self.options.digits), "period": str(PERIOD_S),
            "issuer": issuer,
        }  # fmt: skip
        name = f"{quote(issuer, safe='')}:{quote(user.username if user else '', safe='')}"
        return {"config_url": f"otpauth://totp/{name}?{urlencode(query, quote_via=quote)}"}

    async def respond(self, data: Mapping[str, Any]) -> Outcome:
        """A valid code makes the device; the code is used up by that."""
        user, services = self.run.pending_user, self.run.services
        if user is None:
            return Advance()
        device = models.TOTPDevice(
            user=int(user.pk or 0),
            name=self.options.friendly_name or "TOTP Authenticator",
            key=self.run.plan.context[KEY],
            step=PERIOD_S,
            digits=int(self.options.digits),
        )
        accepted, _ = otp.verify([device], text_of(data, "code").replace(" ", ""), services.now())
        if accepted is None:
            return Errors.one(WRONG_CODE, name="code")
        services.database.save(device)
        services.created(self.run.request, device)
        del self.run.plan.context[KEY]
        return Advance()
