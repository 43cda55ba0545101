"""The policy engine: bindings of a target → one result (flows.md §1.5).

Every policy runs, nothing is cut short; results are combined by the target's mode; messages come in order of bindings.
A pass is stated in one place, :func:`_combine`, and only from results that are true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import structlog

from core import models
from core.database import DELETED, Change, Database
from core.errors import PolicyFailed, ValidationFailed
from core.policies.base import PolicyRequest, PolicyResult, PolicyServices, PolicyType
from core.policies.environment import environment
from core.policies.threads import PolicyThreads

log = structlog.get_logger(__name__)

T = TypeVar("T")

DEFAULT_TIMEOUT_S = 30.0  # for policies that run without a binding; the default of a binding
_BOUND = (models.Policy, models.Group, models.User, models.Flow, models.StageBinding, models.Application)
EXECUTION_EVENT = "policy_execution"


class PolicyEngine:
    """Evaluates bindings and single policies. ``types`` is the registry of policy types by model name."""

    def __init__(
        self, database: Database, types: Mapping[str, type[PolicyType]], threads: PolicyThreads | None = None
    ) -> None:
        self._database = database
        self._types = types
        self._threads = threads or PolicyThreads()
        self._services = PolicyServices(database, self.make)
        self._bindings: dict[str, list[models.PolicyBinding]] = {}
        database.on_change(self._changed)

    def make(self, policy: models.Policy) -> PolicyType:
        """The behaviour of a stored policy.

        :raises ValidationFailed: its type is not known, or its options cannot be read: a fault of the configuration, so
            ``failure_result`` does not apply.
        """
        kind = self._types.get(policy.type)
        if kind is None:
            raise ValidationFailed(f"policy type {policy.type} is not offered")
        return kind(self._services, policy)

    async def evaluate(
        self,
        target: models.Flow | models.StageBinding | models.Application,
        user: models.User,
        *,
        http_request: Any = None,
        context: Mapping[str, Any] | None = None,
        empty_result: bool = True,
        debug: bool = False,
    ) -> PolicyResult:
        """Judge the enabled bindings of ``target`` for ``user``.

        ``context`` is copied (shallow) for each policy. ``empty_result`` is the answer when nothing is bound. Never
        raises for what a policy does.
        """
        bindings = self._bindings_of(target.pk)
        if not bindings:
            return PolicyResult(empty_result)
        results: list[bool] = []
        static = [binding for binding in bindings if binding.policy is None]
        mode = target.policy_engine_mode
        if static:
            hits = sum(self._static(binding, user) for binding in static)
            results.append(hits == len(static) if mode == "all" else hits > 0)
        messages: list[str] = []
        policies = self._database.get_many(models.Policy, [b.policy for b in bindings if b.policy is not None])
        for binding in bindings:
            if binding.policy is None:
                continue
            request = PolicyRequest(
                user=user, http_request=http_request, obj=target, context=dict(context or {}), debug=debug
            )
            policy = policies.get(binding.policy)
            result = await self._bound(binding, policy, request)
            results.append(result.passing)
            messages.extend(result.messages)
        if not results:
            return PolicyResult(empty_result)
        return PolicyResult(_combine(mode, results), tuple(messages))

    async def evaluate_policies(
        self,
        policies: Iterable[models.Policy],
        user: models.User,
        *,
        http_request: Any = None,
        context: Mapping[str, Any] | None = None,
        debug: bool = False,
    ) -> PolicyResult:
        """Judge a list of policies, all of which must pass (prompt validation, policy test). None: passes."""
        results: list[bool] = []
        messages: list[str] = []
        for policy in policies:
            request = PolicyRequest(user=user, http_request=http_request, context=dict(context or {}), debug=debug)
            try:
                result = await self._run(policy, request, DEFAULT_TIMEOUT_S)
            except Exception as error:
                result = self._failed(policy, error, passing=False)
            results.append(result.passing)
            messages.extend(result.messages)
        return PolicyResult(_combine("all", results) if results else True, tuple(messages))

    async def compute(
        self, work: Callable[[dict[str, Any]], T], request: PolicyRequest, name: str, timeout_s: float
    ) -> T:
        """What ``work`` makes of the names that expressions find, in a policy thread: mappings and prompts.

        Raises what ``work`` raises.

        :raises PolicyFailed: the time was over.
        """
        return await self._threads.run(lambda: work(environment(self._services, request, name)), timeout_s)

    def close(self) -> None:
        """End the policy threads."""
        self._threads.close()

    def _bindings_of(self, target_pk: str) -> list[models.PolicyBinding]:
        """The enabled bindings of a target, kept until anything changes that they may hang on."""
        known = self._bindings  # a change while reading puts another one in its place
        kept = known.get(target_pk)
        if kept is None:
            kept = known[target_pk] = self._database.bindings_of(target_pk)
        return kept

    def _changed(self, change: Change) -> None:
        # a deleted policy, group or user takes its bindings along without a word about them
        if change.model is models.PolicyBinding or (change.kind == DELETED and change.model in _BOUND):
            self._bindings = {}

    def _static(self, binding: models.PolicyBinding, user: models.User) -> bool:
        """Whether a group or user binding holds. A user without primary key never hits, negated or not."""
        if user.pk is None:
            return False
        if binding.group is not None:
            holds = self._database.is_member(user.pk, binding.group)
        else:
            holds = binding.user == user.pk
        return holds is not binding.negate

    async def _bound(
        self, binding: models.PolicyBinding, policy: models.Policy | None, request: PolicyRequest
    ) -> PolicyResult:
        if policy is None:
            return PolicyResult(False, ("The bound policy is gone.",))
        try:
            result = await self._run(policy, request, float(binding.timeout))
        except PolicyFailed as error:
            return self._failed(policy, error, passing=binding.failure_result)  # negate does not apply (§1.4)
        except Exception as error:
            return self._failed(policy, error, passing=False)
        if binding.negate:
            return PolicyResult(not result.passing, result.messages, result.raw_result)
        return result

    async def _run(self, policy: models.Policy, request: PolicyRequest, timeout_s: float) -> PolicyResult:
        kind = self.make(policy)
        work: Callable[[], PolicyResult] = lambda: kind.passes(request)  # noqa: E731
        result = work() if kind.quick else await self._threads.run(work, timeout_s)
        if policy.execution_logging:
            self._database.log_event(
                EXECUTION_EVENT,
                "authentik.policies",
                context={
                    "policy": {"pk": policy.pk, "name": policy.name},
                    "result": {"passing": result.passing, "messages": list(result.messages)},
                },
                user=request.user,
                client_ip=request.client_ip,
            )
        return result

    def _failed(self, policy: models.Policy, error: Exception, *, passing: bool) -> PolicyResult:
        log.warning("policy_failed", policy=policy.name, kind=type(error).__name__, passing=passing)
        return PolicyResult(passing, (str(error),))


def _combine(mode: str, results: list[bool]) -> bool:
    """``any``: one is true; ``all``: all are and there is one."""
    return any(results) if mode == "any" else bool(results) and all(results)
