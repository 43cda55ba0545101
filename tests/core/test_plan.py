"""Plans as JSON: references, unsaved users, ``backend``, and what cannot be kept."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from core import models
from core.flows.plan import MAX_DEPTH, Plan, PlanError, PlannedStage

ALICE = models.User(pk=5, username="alice", password_hash="secret-hash")
OBJECTS = {(models.User, 5): ALICE, (models.Group, "g"): models.Group(pk="g", name="g")}


def resolve(model: type[models.Model], pk: Any) -> models.Model | None:
    """Stored objects of the test."""
    return OBJECTS.get((model, pk))


def there_and_back(context: dict[str, Any]) -> dict[str, Any]:
    """A context after it was in a session."""
    text = json.dumps(Plan("f", [PlannedStage("b", "s", "t", True)], context).to_data())
    assert "secret-hash" not in text
    plan = Plan.from_data(json.loads(text), resolve)
    assert (plan.flow_pk, plan.stages) == ("f", [PlannedStage("b", "s", "t", True)])
    return plan.context


def test_values_come_back() -> None:
    """JSON values, times, keys that look like ours, and stored objects."""
    now = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    context = {"a": 1, "b": [None, True, 1.5, "x"], "c": {"$ref": ["user", 5], "d": {"$time": 1}}, "t": now}
    assert there_and_back(context) == context
    assert there_and_back({"groups": [OBJECTS[models.Group, "g"]]})["groups"] == [OBJECTS[models.Group, "g"]]


def test_users_keep_their_backend() -> None:
    """``backend`` is there exactly if it was, on stored and on unsaved users."""
    stored = models.User(pk=5, username="alice")
    stored.backend = "x.Y"  # type: ignore[attr-defined]
    found = there_and_back({"pending_user": stored})["pending_user"]
    assert (found.pk, found.backend) == (5, "x.Y")
    del found.backend
    assert not hasattr(there_and_back({"pending_user": ALICE})["pending_user"], "backend")
    unsaved = models.User(username="nobody", email="nobody@x", attributes={"a": [1]}, password_hash="secret-hash")
    found = there_and_back({"pending_user": unsaved})["pending_user"]
    assert (found.pk, found.username, found.email, found.attributes) == (None, "nobody", "nobody@x", {"a": [1]})
    assert not found.stored


@pytest.mark.parametrize("value", [object(), b"bytes", models.Group(name="unsaved"), models.Event(action="a", app="b")])
def test_what_cannot_be_kept(value: Any) -> None:
    """Other values are refused, not dropped."""
    with pytest.raises(PlanError):
        Plan("f", [], {"a": value}).to_data()


def test_depth_is_bounded() -> None:
    """A context that nests without end is refused."""
    value: Any = 1
    for _ in range(MAX_DEPTH + 1):
        value = [value]
    with pytest.raises(PlanError):
        Plan("f", [], {"a": value}).to_data()


@pytest.mark.parametrize(
    "data",
    [
        None, [], {}, {"flow": "f", "stages": [], "context": []}, {"flow": "f", "stages": [[1]], "context": {}},
        {"flow": "f", "stages": [], "context": {"u": {"$ref": ["user", 6]}}},
        {"flow": "f", "stages": [], "context": {"u": {"$ref": ["nonsense", 6]}}},
        {"flow": "f", "stages": [], "context": {"u": {"$user": {"nonsense": 1}}}},
    ],
)  # fmt: skip
def test_what_is_no_plan(data: Any) -> None:
    """Damaged plans and plans whose objects are gone are an error, never a guess."""
    with pytest.raises(PlanError):
        Plan.from_data(data, resolve)


def test_insert_and_redirect() -> None:
    """Both go right after the current stage."""
    plan = Plan("f", [PlannedStage("a"), PlannedStage("b")])
    plan.redirect("/z")
    plan.insert_stage(PlannedStage("c"))
    assert [stage.binding or stage.options["to"] for stage in plan.stages] == ["a", "c", "/z", "b"]
    plan.pop()
    assert plan.stages[0].binding == "c"
