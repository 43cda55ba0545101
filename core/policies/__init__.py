"""Policy types by model name. A further type is one file with a subclass of ``PolicyType`` and one line here."""

from __future__ import annotations

from core.policies.base import PolicyType
from core.policies.dummy import DummyPolicy
from core.policies.expression import ExpressionPolicy
from core.policies.reputation import ReputationPolicy

POLICY_TYPES: dict[str, type[PolicyType]] = {
    kind.model: kind
    for kind in (
        DummyPolicy,
        ExpressionPolicy,
        ReputationPolicy,
    )
}
