"""``/flows/instances/``: flows for reading. The executor is not part of this file: it is no ordinary API call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core import models
from core.api.base import Answer, Call, Route, not_found

NAME = "Flow"
FILTERS = ("name", "slug", "designation", "denied_action")


def shown(call: Call, flows: Sequence[models.Flow]) -> list[dict[str, Any]]:
    """Flows as the API writes them. There is no plan cache, so ``cache_count`` is 0."""
    database = call.services.database
    answer = []
    for flow in flows:
        stages = [binding.stage for binding in database.find(models.StageBinding, target=flow.pk)]
        policies = [b.policy for b in database.find(models.PolicyBinding, target=flow.pk) if b.policy is not None]
        brand = call.http.brand
        background = flow.background or (brand.branding_default_flow_background if brand else "")
        answer.append(
            {
                "pk": flow.pk,
                "policybindingmodel_ptr_id": flow.pk,
                "name": flow.name,
                "slug": flow.slug,
                "title": flow.title,
                "designation": flow.designation,
                "background": background,
                "background_url": background,
                "background_themed_urls": None,
                "stages": stages,
                "policies": policies,
                "cache_count": 0,
                "policy_engine_mode": flow.policy_engine_mode,
                "compatibility_mode": flow.compatibility_mode,
                "export_url": f"/api/v3/flows/instances/{flow.slug}/export/",
                "layout": flow.layout,
                "denied_action": flow.denied_action,
                "authentication": flow.authentication,
            }
        )
    return answer


async def listing(call: Call) -> Answer:
    """``GET /flows/instances/``, for superusers."""
    call.require_superuser()
    filters: dict[str, Any] = {name: call.param(name) for name in FILTERS if call.param(name) is not None}
    if call.param("flow_uuid") is not None:
        filters["pk"] = call.param("flow_uuid")
    search = (call.param("search") or "").casefold()
    keep = (lambda flow: search in f"{flow.name} {flow.slug} {flow.title}".casefold()) if search else None
    return call.listed(
        models.Flow, filters, lambda found: shown(call, found), ordering=("name", "slug", "designation"), keep=keep
    )


async def retrieve(call: Call) -> Answer:
    """``GET /flows/instances/<slug>/``."""
    call.require_superuser()
    flow = call.services.database.flow_by_slug(call.path["slug"])
    if flow is None:
        raise not_found(NAME)
    return Answer(shown(call, [flow])[0])


ROUTES = (Route("GET", "/flows/instances/", listing), Route("GET", "/flows/instances/{slug}/", retrieve))
