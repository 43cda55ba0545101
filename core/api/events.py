"""``/events/events/``: what outposts report, and the list for administrators."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from core import access, models
from core.api.base import NO_PERMISSION, Answer, Call, Route, moment
from core.errors import Forbidden, ValidationFailed

MAX_TEXT = 255  # characters of ``action`` and ``app``


def shown(events: Sequence[models.Event]) -> list[dict[str, Any]]:
    """Events as the API writes them."""
    return [
        {
            "pk": event.pk,
            "user": event.user,
            "action": event.action,
            "app": event.app,
            "context": event.context,
            "client_ip": event.client_ip,
            "created": moment(event.created),
            "expires": moment(event.expires),
            "brand": event.brand,
        }
        for event in events
    ]


async def create(call: Call) -> Answer:
    """``POST /events/events/``: 201. ``client_ip`` is a bare address or null."""
    user = call.require_user()
    if not call.services.access.may(user, access.ADD_EVENT):
        raise Forbidden(NO_PERMISSION)
    data = await call.json()
    problems: dict[str, list[str]] = {}
    for name in ("action", "app"):
        value = data.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
            problems[name] = ["This field is required." if value is None else "Not a valid string."]
    client_ip, context = data.get("client_ip"), data.get("context", {})
    if client_ip is not None:
        try:
            client_ip = str(ipaddress.ip_address(client_ip))
        except ValueError:
            problems["client_ip"] = ["Enter a valid IPv4 or IPv6 address."]
    if not isinstance(context, dict):
        problems["context"] = ["Not a valid object."]
    if problems:
        raise ValidationFailed(problems)
    event = call.services.database.log_event(
        data["action"], data["app"], context=context, client_ip=client_ip, brand=call.http.brand
    )
    return Answer(shown([event])[0], status=201)


async def listing(call: Call) -> Answer:
    """``GET /events/events/``: newest first, for superusers."""
    call.require_superuser()
    filters = {name: call.param(name) for name in ("action", "client_ip") if call.param(name) is not None}
    return call.listed(models.Event, filters, shown, ordering=("created", "action"))


ROUTES = (Route("POST", "/events/events/", create), Route("GET", "/events/events/", listing))
