"""Password expiry policy: passes while the password is young enough (flows.md §6.2)."""

from __future__ import annotations

from typing import Any

from core import models, passwords
from core.errors import ValidationFailed
from core.policies.base import PolicyOptions, PolicyRequest, PolicyResult, PolicyType

DAY_S = 86400.0
EXPIRED = "Password has expired."


class PasswordExpiryOptions(PolicyOptions):
    """``deny_only`` leaves the old password usable elsewhere."""

    days: int
    deny_only: bool = False


class PasswordExpiryPolicy(PolicyType):
    """Fails for an old password and, unless told otherwise, makes it unusable."""

    model = "authentik_policies_expiry.passwordexpirypolicy"
    Options = PasswordExpiryOptions
    component = "ak-policy-password-expiry-form"
    verbose_name = "Password Expiry Policy"
    quick = True

    @classmethod
    def read_options(cls, options: dict[str, Any]) -> PolicyOptions:
        """Typed options; at least no negative time."""
        found = super().read_options(options)
        assert isinstance(found, PasswordExpiryOptions)
        if found.days < 0:
            raise ValidationFailed({"days": ["may not be negative"]})
        return found

    def passes(self, request: PolicyRequest) -> PolicyResult:
        """Compare the age of the password."""
        database = self.services.database
        user = database.first(models.User, pk=request.user.pk) if request.user.stored else None
        if user is None:
            return PolicyResult(False, (EXPIRED,))
        if database.clock() - user.password_change_date < self.options.days * DAY_S:
            return PolicyResult(True)
        if not self.options.deny_only and user.has_usable_password() and not request.debug:
            user.password_hash = passwords.UNUSABLE
            database.save(user)
        return PolicyResult(False, (EXPIRED,))
