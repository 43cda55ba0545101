"""Event matcher policy: passes for an event that has everything that is configured (flows.md §6.2)."""

from __future__ import annotations

from core.models import Event
from core.policies.base import PolicyOptions, PolicyRequest, PolicyResult, PolicyType


class EventMatcherOptions(PolicyOptions):
    """What is empty is not compared. ``model`` is ``app.model``; ``query`` is text anywhere in the event's context."""

    action: str | None = None
    app: str | None = None
    model: str | None = None
    client_ip: str | None = None
    query: str | None = None


class EventMatcherPolicy(PolicyType):
    """Compares ``context["event"]``; without an event it never passes."""

    model = "authentik_policies_event_matcher.eventmatcherpolicy"
    Options = EventMatcherOptions
    component = "ak-policy-event-matcher-form"
    verbose_name = "Event Matcher Policy"
    quick = True

    def passes(self, request: PolicyRequest) -> PolicyResult:
        """Every criterion that is configured must hold; none configured passes."""
        event, options = request.context.get("event"), self.options
        if not isinstance(event, Event):
            return PolicyResult(False)
        checks = (
            (options.action, lambda wanted: event.action == wanted),
            (options.app, lambda wanted: event.app == wanted),
            (options.model, lambda wanted: _model(event) == wanted.lower()),
            (options.client_ip, lambda wanted: event.client_ip == wanted),
            (options.query, lambda wanted: _contains(event.context, wanted)),
        )
        return PolicyResult(all(holds(wanted) for wanted, holds in checks if wanted))


def _model(event: Event) -> str:
    """The model that an event is about, as ``app.model``."""
    model = event.context.get("model")
    if not isinstance(model, dict):
        return ""
    app, name = str(model.get("app", "")), str(model.get("model_name", ""))
    return name.lower() if "." in name else f"{app}.{name}".lower()


def _contains(value: object, wanted: str) -> bool:
    if isinstance(value, dict):
        return any(_contains(item, wanted) for item in value.values())
    if isinstance(value, list | tuple):
        return any(_contains(item, wanted) for item in value)
    return wanted in str(value)
