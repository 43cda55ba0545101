"""Policy types by model name. A further type is one file with a subclass of ``PolicyType`` and one line here."""

from __future__ import annotations

from core.policies.base import PolicyType
from core.policies.dummy import DummyPolicy
from core.policies.event_matcher import EventMatcherPolicy
from core.policies.expiry import PasswordExpiryPolicy
from core.policies.expression import ExpressionPolicy
from core.policies.password import PasswordPolicy
from core.policies.reputation import ReputationPolicy
from core.policies.unique_password import UniquePasswordPolicy

POLICY_TYPES: dict[str, type[PolicyType]] = {
    kind.model: kind
    for kind in (
        DummyPolicy,
        EventMatcherPolicy,
        ExpressionPolicy,
        PasswordExpiryPolicy,
        PasswordPolicy,
        ReputationPolicy,
        UniquePasswordPolicy,
    )
}
