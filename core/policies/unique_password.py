"""Password uniqueness policy: not one of the last passwords again. Also keeps the history that it asks."""

from __future__ import annotations

from typing import Any

from core import models, passwords
from core.database import Database
from core.errors import ValidationFailed
from core.policies.base import PolicyOptions, PolicyRequest, PolicyResult, PolicyType

MODEL = "authentik_policies_unique_password.uniquepasswordpolicy"
USED = "This password has been used previously. Please choose a different one."
NOT_SET = "Password not set in context"
MAX_HISTORY = 50  # each one costs a whole password hash when a new password is checked


class UniquePasswordOptions(PolicyOptions):
    """How many of the last passwords are compared, the present one included."""

    password_field: str = "password"  # noqa: S105 - the name of a field
    num_historical_passwords: int = 1


class UniquePasswordPolicy(PolicyType):
    """Passes for a password that the user did not have lately."""

    model = MODEL
    Options = UniquePasswordOptions
    component = "ak-policy-password-uniqueness-form"
    verbose_name = "Password Uniqueness Policy"

    @classmethod
    def read_options(cls, options: dict[str, Any]) -> PolicyOptions:
        """Typed options; the number within reason."""
        found = super().read_options(options)
        assert isinstance(found, UniquePasswordOptions)
        if not 0 <= found.num_historical_passwords <= MAX_HISTORY:
            raise ValidationFailed({"num_historical_passwords": [f"must be from 0 to {MAX_HISTORY}"]})
        return found

    def passes(self, request: PolicyRequest) -> PolicyResult:
        """Compare with each hash that is kept."""
        value = wanted_password(request, self.options.password_field)
        if value is None:
            return PolicyResult(False, (NOT_SET,))
        count = self.options.num_historical_passwords
        if not request.user.stored or count == 0:
            return PolicyResult(True)
        database = self.services.database
        user = database.first(models.User, pk=request.user.pk)
        hashes = [user.password_hash] if user is not None and user.has_usable_password() else []
        kept = database.find(models.PasswordHistory, limit=count, user=request.user.pk)
        hashes += [item.password_hash for item in kept]
        for known in hashes[:count]:
            if passwords.verify(known, value):
                return PolicyResult(False, (USED,))
        return PolicyResult(True)


def wanted_password(request: PolicyRequest, name: str) -> str | None:
    """The password that a policy is asked about: what was typed, else what the context has; ``None``: there is none."""
    prompted = request.context.get("prompt_data")
    value = prompted.get(name) if isinstance(prompted, dict) and name in prompted else request.context.get(name)
    return value if isinstance(value, str) and value else None


def remember_password(database: Database, user: models.User, old_hash: str) -> None:
    """Keep the hash of a password that is being replaced, as many as the longest-remembering policy wants; without such
    a policy nothing is kept."""
    counts = [
        int(policy.options.get("num_historical_passwords", 1)) for policy in database.find(models.Policy, type=MODEL)
    ]
    keep = max(counts, default=0) - 1  # the present one counts and is with the user
    if keep < 1:
        return
    database.save(models.PasswordHistory(user=int(user.pk or 0), password_hash=old_hash))
    for old in database.find(models.PasswordHistory, user=user.pk)[keep:]:
        database.delete(old)
