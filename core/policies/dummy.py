"""Dummy policy: a fixed result after a random wait; for trying out bindings."""

from __future__ import annotations

import random
import time
from typing import Any

from core.errors import ValidationFailed
from core.policies.base import PolicyOptions, PolicyRequest, PolicyResult, PolicyType

SLICE_S = 0.05  # the wait is cut into slices so that a time limit can end it


class DummyOptions(PolicyOptions):
    """``result`` after ``wait_min`` to ``wait_max`` seconds."""

    result: bool = False
    wait_min: float = 5
    wait_max: float = 30


class DummyPolicy(PolicyType):
    """Answers ``result`` with one message that never changes."""

    model = "authentik_policies_dummy.dummypolicy"
    Options = DummyOptions
    component = "ak-policy-dummy-form"
    verbose_name = "Dummy Policy"

    @classmethod
    def read_options(cls, options: dict[str, Any]) -> PolicyOptions:
        """Typed options; the shortest wait may not be above the longest."""
        found = super().read_options(options)
        if isinstance(found, DummyOptions) and not 0 <= found.wait_min <= found.wait_max:
            raise ValidationFailed({"wait_min": ["must be from 0 to wait_max"]})
        return found

    def passes(self, request: PolicyRequest) -> PolicyResult:
        """The configured result."""
        until = time.monotonic() + random.uniform(self.options.wait_min, self.options.wait_max)
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, SLICE_S))
        return PolicyResult(self.options.result, ("dummy",), self.options.result)
