"""Policy engine and policy types: conformance cases 34–44 and 46 of flows.md §10 by number."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from core.database import Database
from core.errors import PolicyFailed, ValidationFailed
from core.models import Flow, Group, Model, Policy, PolicyBinding, StaticDevice, TOTPDevice, User, anonymous_user
from core.policies import POLICY_TYPES
from core.policies.base import PolicyResult
from core.policies.engine import PolicyEngine
from core.policies.expression import compile_body, evaluate
from core.policies.helpers import HELPERS
from core.policies.threads import PolicyThreads

EXPRESSION = "authentik_policies_expression.expressionpolicy"
DUMMY = "authentik_policies_dummy.dummypolicy"
REPUTATION = "authentik_policies_reputation.reputationpolicy"


@dataclass
class Request:
    """As much of an HTTP request as policies look at."""

    client_ip: str = "192.0.2.1"
    GET: dict[str, str] = field(default_factory=dict)


@dataclass
class Plan:
    """A plan with nothing but a context."""

    context: dict[str, Any] = field(default_factory=dict)


class Setup:
    """One flow in a fresh database, and short ways to bind things to it."""

    def __init__(self, mode: str = "any") -> None:
        self.database = Database(":memory:")
        self.engine = PolicyEngine(self.database, POLICY_TYPES)
        self.flow = self.database.save(
            Flow(name="f", slug="f", title="f", designation="authentication", policy_engine_mode=mode)
        )
        self.user = self.database.save(User(username="jane"))
        self.other = self.database.save(User(username="joe"))
        self.order = 0

    def expression(self, source: str, name: str = "", **binding: Any) -> None:
        """Bind an expression policy."""
        policy = Policy(type=EXPRESSION, name=name or f"policy {self.order}", options={"expression": source})
        self.bind(policy=self.database.save(policy).pk, **binding)

    def bind(self, **binding: Any) -> None:
        """Bind a policy, group or user."""
        self.order += 1
        self.database.save(PolicyBinding(target=self.flow.pk, order=self.order, **binding))

    async def judge(self, user: User | None = None, **more: Any) -> PolicyResult:
        """The engine's result, for jane unless another user is given."""
        return await self.engine.evaluate(self.flow, user or self.user, **more)


async def test_34_nothing_bound_passes() -> None:
    """No bindings, or only disabled ones: pass, unless the caller's default says otherwise."""
    setup = Setup()
    assert (await setup.judge()).passing
    setup.expression("return False", enabled=False)
    assert (await setup.judge()).passing
    assert not (await setup.judge(empty_result=False)).passing


@pytest.mark.parametrize(("mode", "passing"), [("any", True), ("all", False)])
async def test_35_modes_and_order_of_messages(mode: str, passing: bool) -> None:
    """[false, true]: any passes, all fails, and both messages come in order each time."""
    setup = Setup(mode)
    setup.expression("ak_message('one')\nreturn False")
    setup.expression("ak_message('two')\nreturn True")
    result = await setup.judge()
    assert result.passing is passing
    assert result.messages == ("one", "two")


@pytest.mark.parametrize(("mode", "passing"), [("any", True), ("all", False)])
async def test_36_groups_are_one_result(mode: str, passing: bool) -> None:
    """Member of one of two bound groups."""
    setup = Setup(mode)
    inside = setup.database.save(Group(name="in"))
    outside = setup.database.save(Group(name="out"))
    setup.database.set_membership(setup.user, inside.pk, True)
    setup.bind(group=inside.pk)
    setup.bind(group=outside.pk)
    assert (await setup.judge()).passing is passing


@pytest.mark.parametrize("verdict", [True, False])
async def test_37_all_needs_group_and_policy(verdict: bool) -> None:
    """Mode all: the member also needs the policy."""
    setup = Setup("all")
    group = setup.database.save(Group(name="in"))
    setup.database.set_membership(setup.user, group.pk, True)
    setup.bind(group=group.pk)
    setup.expression(f"return {verdict}")
    assert (await setup.judge()).passing is verdict


async def test_38_member_of_a_child_passes() -> None:
    """A binding on an ancestor counts for members of the child."""
    setup = Setup()
    top = setup.database.save(Group(name="top"))
    middle = setup.database.save(Group(name="middle", parents=[top.pk]))
    child = setup.database.save(Group(name="child", parents=[middle.pk]))
    setup.database.set_membership(setup.user, child.pk, True)
    setup.bind(group=top.pk)
    assert (await setup.judge()).passing
    assert not (await setup.judge(setup.other)).passing


async def test_39_negated_user_binding() -> None:
    """Other user passes, the same one fails, an anonymous one never hits."""
    setup = Setup()
    setup.bind(user=setup.user.pk, negate=True)
    assert (await setup.judge(setup.other)).passing
    assert not (await setup.judge()).passing
    assert not (await setup.judge(anonymous_user())).passing
    assert not (await setup.judge(User(username="pretend"))).passing


@pytest.mark.parametrize(
    ("failure_result", "negate", "passing"), [(False, False, False), (True, False, True), (True, True, True)]
)
async def test_40_a_failing_expression(failure_result: bool, negate: bool, passing: bool) -> None:
    """An exception gives ``failure_result``, which ``negate`` does not touch; the error is the message."""
    setup = Setup()
    setup.expression("return 1 / 0", failure_result=failure_result, negate=negate)
    result = await setup.judge()
    assert result.passing is passing
    assert "ZeroDivisionError" in result.messages[0]


@pytest.mark.parametrize(
    ("source", "passing"),
    [
        ("return None", False),
        ("pass", False),
        ("", False),
        ("return 'x'", True),
        ("return 0", False),
        ("return [1]", True),
    ],
)
async def test_41_truth_decides(source: str, passing: bool) -> None:
    """Truthy passes, falsy and nothing fail."""
    setup = Setup()
    setup.expression(source)
    assert (await setup.judge()).passing is passing


@pytest.mark.parametrize("failure_result", [False, True])
@pytest.mark.parametrize("source", ["while True: pass", "while True:\n  try:\n    x = 1\n  except Exception: pass"])
async def test_41_time_is_limited(source: str, failure_result: bool) -> None:
    """A policy that runs longer than its binding allows gives ``failure_result``, and its thread ends."""
    setup = Setup()
    before = set(threading.enumerate())
    setup.expression(source, timeout=1, failure_result=failure_result)
    result = await setup.judge()
    assert result.passing is failure_result
    assert "longer" in result.messages[0]
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
        assert not thread.is_alive()


async def test_41_a_blocked_thread_is_left_behind() -> None:
    """A policy stuck in a call that cannot be interrupted does not hold the caller, and its place comes back later."""
    threads, gate = PolicyThreads(limit=1), threading.Event()
    with pytest.raises(PolicyFailed):
        await threads.run(gate.wait, 0.05)
    with pytest.raises(PolicyFailed):  # the only place is taken: refused in time, not queued for ever
        await threads.run(lambda: True, 0.05)
    gate.set()
    assert await threads.run(lambda: 7, 30) == 7
    threads.close()


async def test_a_thread_carries_every_exception() -> None:
    """What a policy raises comes out; exceptions that futures or threads treat specially become failures."""
    threads = PolicyThreads(limit=1)

    def raising(error: BaseException) -> Any:
        def work() -> None:
            raise error

        return work

    with pytest.raises(TimeoutError):
        await threads.run(raising(TimeoutError("own")), 30)
    for error in (StopIteration(), SystemExit(1), KeyboardInterrupt(), GeneratorExit()):
        with pytest.raises(PolicyFailed):
            await threads.run(raising(error), 30)
    assert await threads.run(lambda: 1, 30) == 1
    threads.close()


def test_42_bindings_must_be_whole() -> None:
    """Policy and group, nothing at all, both evaluate flags off: refused."""
    from core.models import Stage, StageBinding

    setup = Setup()
    group = setup.database.save(Group(name="g"))
    policy = setup.database.save(Policy(type=EXPRESSION, name="p", options={"expression": ""}))
    stage = setup.database.save(Stage(type="authentik_stages_dummy.dummystage", name="s"))
    wrong: list[Model] = [
        PolicyBinding(target=setup.flow.pk, policy=policy.pk, group=group.pk),
        PolicyBinding(target=setup.flow.pk),
        StageBinding(target=setup.flow.pk, stage=stage.pk, order=0, evaluate_on_plan=False, re_evaluate_policies=False),
    ]
    for binding in wrong:
        with pytest.raises(ValidationFailed):
            setup.database.save(binding)


async def test_43_context_is_a_copy_but_the_plan_is_live() -> None:
    """Assigning a key of the context reaches nobody; changing the plan does."""
    setup = Setup("all")
    plan = Plan()
    setup.expression("context['a'] = 1\ncontext['flow_plan'].context['b'] = 2\nreturn True")
    setup.expression("return 'a' not in context and context['flow_plan'].context['b'] == 2")
    given: dict[str, Any] = {"flow_plan": plan}
    assert (await setup.judge(context=given)).passing
    assert given == {"flow_plan": plan}
    assert plan.context == {"b": 2}


async def test_44_a_policy_calls_another() -> None:
    """The named policy sees the given context; an unknown name is a failure."""
    setup = Setup()
    setup.database.save(Policy(type=EXPRESSION, name="p", options={"expression": "return context['x'] == 1"}))
    setup.expression("return ak_call_policy('p', x=1).passing")
    assert (await setup.judge()).passing
    second = Setup()
    second.expression("return ak_call_policy('gone').passing")
    assert not (await second.judge()).passing


@pytest.mark.parametrize(("score", "passing"), [(-5, True), (-4, False)])
async def test_46_reputation_passes_when_trust_is_low(score: int, passing: bool) -> None:
    """At or below the threshold passes; rows of name and address add up."""
    setup = Setup()
    policy = setup.database.save(Policy(type=REPUTATION, name="r", options={"threshold": -5}))
    setup.bind(policy=policy.pk)
    setup.database.change_reputation("jane", "198.51.100.1", score + 1)
    setup.database.change_reputation("someone", "192.0.2.1", -1)
    assert (await setup.judge(http_request=Request())).passing is passing


async def test_46_reputation_without_checks_is_zero() -> None:
    """Both checks off: the score is 0, not the sum of everything."""
    setup = Setup()
    setup.database.change_reputation("jane", "192.0.2.1", -5)
    options = {"check_ip": False, "check_username": False, "threshold": -1}
    policy = setup.database.save(Policy(type=REPUTATION, name="r", options=options))
    setup.bind(policy=policy.pk)
    assert not (await setup.judge(http_request=Request())).passing


@pytest.mark.parametrize("result", [True, False])
async def test_dummy_policy_answers_what_it_is_told(result: bool) -> None:
    """The result and one message."""
    setup = Setup()
    options = {"result": result, "wait_min": 0, "wait_max": 0}
    policy = setup.database.save(Policy(type=DUMMY, name="d", options=options))
    setup.bind(policy=policy.pk)
    answer = await setup.judge()
    assert answer.passing is result
    assert len(answer.messages) == 1


@pytest.mark.parametrize(("kind", "options"), [("nonsense.policy", {}), (EXPRESSION, {}), (REPUTATION, {"thresh": 1})])
async def test_a_broken_policy_never_passes(kind: str, options: dict[str, Any]) -> None:
    """An unknown type or unreadable options fail even where failures would pass, and negated as well."""
    for binding in ({"failure_result": True}, {"negate": True}):
        setup = Setup()
        policy = setup.database.save(Policy(type=kind, name="p", options=options))
        setup.bind(policy=policy.pk, **binding)
        assert not (await setup.judge()).passing


async def test_expressions_see_people_groups_and_devices() -> None:
    """The names of flows.md §6.1 that reach into storage."""
    setup = Setup("all")
    top = setup.database.save(Group(name="top", attributes={"level": 3}))
    child = setup.database.save(Group(name="child", parents=[top.pk], attributes={"tags": ["a"]}))
    setup.user.attributes = {"tags": ["b"]}
    setup.database.set_membership(setup.user, child.pk, True)
    setup.database.save(TOTPDevice(user=setup.user.pk or 0, name="t", key="00ff"))
    setup.database.save(StaticDevice(user=setup.other.pk or 0, name="s", confirmed=False))
    for source in (
        "return ak_is_group_member(request.user, name='top')",
        "return not ak_is_group_member(request.user, name='none')",
        "return ak_is_group_member(request.user, attributes__level__gt=2)",
        "return ak_user_by(username__iexact='JANE') == request.user",
        "return ak_user_by(username='nobody') is None",
        "return [g.name for g in request.user.groups.all()] == ['child']",
        "return request.user.groups.filter(name__startswith='ch').exists()",
        "return request.user.group_attributes() == {'level': 3, 'tags': ['a', 'b']}",
        "return ak_user_has_authenticator(request.user, 'totp')",
        "return not ak_user_has_authenticator(request.user, 'static')",
        "return not ak_user_has_authenticator(ak_user_by(username='joe'))",
        "return str(ak_client_ip) == '192.0.2.1' and ak_client_ip in ip_network('192.0.2.0/24')",
        "return http_request.GET['x'] == '1' and not ak_is_sso_flow",
        "import re\nreturn re.match('a', 'abc')",
        "ak_create_event('seen', who=request.user)\nreturn True",
        "ak_logger.info('said')\nreturn True",
    ):
        setup.expression(source)
    result = await setup.judge(http_request=Request(GET={"x": "1"}))
    assert result == PolicyResult(True, result.messages)
    from core.models import Event

    assert setup.database.find(Event, action="custom_seen")[0].context == {
        "who": {"pk": setup.user.pk, "model_name": "user"}
    }


async def test_executions_are_logged_on_request() -> None:
    """``execution_logging`` leaves an event with the result."""
    from core.models import Event

    setup = Setup()
    policy = Policy(type=EXPRESSION, name="p", options={"expression": "return True"}, execution_logging=True)
    setup.bind(policy=setup.database.save(policy).pk)
    await setup.judge()
    assert setup.database.find(Event, action="policy_execution")[0].context["result"]["passing"] is True


async def test_a_list_of_policies_must_all_pass() -> None:
    """Prompt validation: mode all, failures count as refusals."""
    setup = Setup()
    good, bad, broken = (
        setup.database.save(Policy(type=EXPRESSION, name=str(index), options={"expression": source}))
        for index, source in enumerate(("return True", "ak_message('no')\nreturn False", "raise KeyError('x')"))
    )
    judge = setup.engine.evaluate_policies
    assert (await judge([], setup.user)).passing
    assert (await judge([good, good], setup.user)).passing
    assert await judge([good, bad], setup.user) == PolicyResult(False, ("no",))
    assert not (await judge([good, broken], setup.user)).passing


def test_a_syntax_error_is_told_with_its_line() -> None:
    """The line is that of the expression as written."""
    with pytest.raises(ValidationFailed, match="line 2"):
        compile_body("x = 1\nretur x", "p")


def test_names_become_identifiers() -> None:
    """``:``, ``.`` and ``-`` in names become ``_``."""
    assert evaluate("return a_b_c_d", "p", {"a:b.c-d": 5}) == 5


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("regex_match('abcde', 'c.e')", True),
        ("regex_match('abc', 'x')", False),
        ("regex_replace('a-b', '-', '+')", "a+b"),
        ("list_flatten(['a', 'b'])", "a"),
        ("list_flatten([])", None),
        ("list_flatten('x')", "x"),
        ("slugify('Größe & Co. 1')", "groe-co-1"),
        ("resolve_dns('127.0.0.1')", ["127.0.0.1"]),
        ("resolve_dns('name.invalid.')", []),
    ],
)
def test_helpers(call: str, expected: object) -> None:
    """Helpers that need neither request nor storage."""
    assert evaluate(f"return {call}", "p", HELPERS) == expected


async def test_bindings_are_read_again_after_every_change() -> None:
    """Saved, switched off, deleted, or gone with its policy or group: the next evaluation knows."""
    setup = Setup()
    assert (await setup.judge()).passing
    setup.expression("return False", name="no")
    assert not (await setup.judge()).passing
    (binding,) = setup.database.find(PolicyBinding)
    binding.enabled = False
    setup.database.save(binding)
    assert (await setup.judge()).passing
    binding.enabled = True
    setup.database.save(binding)
    assert not (await setup.judge()).passing
    policy = setup.database.first(Policy, name="no")
    assert policy is not None
    setup.database.delete(policy)
    assert (await setup.judge()).passing
    group = setup.database.save(Group(name="g"))
    setup.bind(group=group.pk)
    assert not (await setup.judge()).passing
    setup.database.delete(group)
    assert (await setup.judge()).passing
