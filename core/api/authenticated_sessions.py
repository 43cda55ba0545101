"""``/core/authenticated_sessions/``: who is logged in, and how to end it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core import models
from core.api.base import Answer, Call, Route, moment, not_found

NAME = "AuthenticatedSession"
# User agents are kept as sent and not taken apart; clients require the parts.
UNPARSED_AGENT: dict[str, Any] = {
    "device": {"brand": "", "family": "Other", "model": ""},
    "os": {"family": "Other", "major": "", "minor": "", "patch": "", "patch_minor": ""},
    "user_agent": {"family": "Other", "major": "", "minor": "", "patch": ""},
}


def _shown(call: Call, sessions: Sequence[models.Session]) -> list[dict[str, Any]]:
    return [
        {
            "uuid": session.uuid,
            "current": call.session.record is not None and session.pk == call.session.record.pk,
            "user_agent": UNPARSED_AGENT | {"string": session.user_agent},
            "geo_ip": None,
            "asn": None,
            "user": session.user,
            "last_ip": session.last_ip,
            "last_user_agent": session.user_agent,
            "last_used": moment(session.last_used),
            "expires": moment(session.expires),
        }
        for session in sessions
    ]


def _filters(call: Call) -> dict[str, Any]:
    """Superusers see everybody's sessions, others their own."""
    user = call.require_user()
    filters: dict[str, Any] = {"user__isnull": False} if user.is_superuser else {"user": user.pk}
    username = call.param("user__username")
    if username is not None:
        found = call.services.database.first(models.User, username=username)
        filters["user__in"] = [found.pk] if found is not None else []
    return filters


async def listing(call: Call) -> Answer:
    """``GET /core/authenticated_sessions/``."""
    return call.listed(models.Session, _filters(call), lambda found: _shown(call, found), ordering=("last_used",))


async def remove(call: Call) -> Answer:
    """``DELETE /core/authenticated_sessions/<uuid>/``: outposts are told."""
    session = call.services.database.first(models.Session, uuid=call.path["uuid"], **_filters(call))
    if session is None:
        raise not_found(NAME)
    call.services.database.delete(session)
    return Answer(status=204)


ROUTES = (
    Route("GET", "/core/authenticated_sessions/", listing),
    Route("DELETE", "/core/authenticated_sessions/{uuid}/", remove),
)
