"""``/stages/authenticator/``: what a page asks while somebody sets a device up."""

from __future__ import annotations

from typing import Any

from core import models
from core.api.base import Answer, Call, Route, by_uuid, not_found
from core.duo import DuoFailed
from core.errors import ValidationFailed
from core.sessions import PLAN
from core.stages.authenticator_duo import ENROLL, AuthenticatorDuoStage, client_of

NAME = "AuthenticatorDuoStage"


async def duo_enrollment_status(call: Call) -> Answer:
    """``POST /stages/authenticator/duo/<uuid>/enrollment_status/``: whether the phone of this session's flow is there.

    ``{"duo_response": "success" | "waiting" | "invalid"}``; the flow itself asks Duo again before it believes it.
    """
    call.require_user()
    stage = by_uuid(call, models.Stage, NAME, call.path["pk"])
    if stage.type != AuthenticatorDuoStage.model:
        raise not_found(NAME)
    plan = call.session.get(PLAN)
    context: Any = plan.get("context") if isinstance(plan, dict) else None
    known = context.get(ENROLL) if isinstance(context, dict) else None
    if not isinstance(known, dict):
        raise ValidationFailed("No enrolment is in progress.")
    try:
        status = await client_of(call.services, stage).enroll_status(known["user_id"], known["activation_code"])
    except DuoFailed:
        raise ValidationFailed("Duo cannot be reached.") from None
    return Answer({"duo_response": status})


ROUTES = (Route("POST", "/stages/authenticator/duo/{pk}/enrollment_status/", duo_enrollment_status),)
