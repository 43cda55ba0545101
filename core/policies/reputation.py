"""Reputation policy: passes when trust is *low*, so that an extra stage can be shown (flows.md §6.2)."""

from __future__ import annotations

from core.policies.base import PolicyOptions, PolicyRequest, PolicyResult, PolicyType


class ReputationOptions(PolicyOptions):
    """Which rows count, and the score at or below which the policy passes."""

    check_ip: bool = True
    check_username: bool = True
    threshold: int = -5


class ReputationPolicy(PolicyType):
    """Passes when the summed score of the user's name and the client's address is at or below the threshold."""

    model = "authentik_policies_reputation.reputationpolicy"
    Options = ReputationOptions
    component = "ak-policy-reputation-form"
    verbose_name = "Reputation Policy"
    quick = True

    def passes(self, request: PolicyRequest) -> PolicyResult:
        """Compare the score; with both checks off it is 0."""
        score = self.services.database.reputation(
            identifier=request.user.username if self.options.check_username else None,
            ip=request.client_ip if self.options.check_ip else None,
        )
        return PolicyResult(score <= self.options.threshold, (), score)
