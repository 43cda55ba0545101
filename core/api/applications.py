"""``/core/applications/``: those that the caller may open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core import models
from core.api.base import Answer, Call, Route, not_found, update
from core.api.providers import base_fields

NAME = "Application"


def shown(call: Call, applications: Sequence[models.Application]) -> list[dict[str, Any]]:
    """Applications as the API writes them."""
    wanted = {pk for app in applications for pk in (app.provider, *app.backchannel_providers) if pk is not None}
    providers = list(call.services.database.get_many(models.Provider, wanted).values())
    described = {item["pk"]: item for item in base_fields(call, providers, typed=True)}
    for item in described.values():
        for name in ("assigned_application", "assigned_backchannel_application"):
            item[f"{name}_slug"] = item[f"{name}_slug"] or ""
            item[f"{name}_name"] = item[f"{name}_name"] or ""
    return [
        {
            "pk": app.pk,
            "name": app.name,
            "slug": app.slug,
            "provider": app.provider,
            "provider_obj": described.get(app.provider),
            "backchannel_providers": app.backchannel_providers,
            "backchannel_providers_obj": [described[pk] for pk in app.backchannel_providers if pk in described],
            "launch_url": app.meta_launch_url or None,
            "open_in_new_tab": app.open_in_new_tab,
            "meta_launch_url": app.meta_launch_url,
            "meta_icon": app.meta_icon or None,
            "meta_icon_url": app.meta_icon or None,
            "meta_icon_themed_urls": None,
            "meta_description": app.meta_description,
            "meta_publisher": app.meta_publisher,
            "policy_engine_mode": app.policy_engine_mode,
            "group": app.group,
        }
        for app in applications
    ]


async def listing(call: Call) -> Answer:
    """``GET /core/applications/``: only what policies allow; superusers see all with ``superuser_full_list``."""
    user = call.require_user()
    found = call.services.database.find(models.Application, order_by="name")
    if not (user.is_superuser and call.flag("superuser_full_list", False)):
        allowed = []
        for application in found:
            result = await call.services.access.application(application, user, http_request=call.http)
            if result.passing is True:
                allowed.append(application)
        found = allowed
    for name in ("name", "slug", "group"):
        if call.param(name) is not None:
            found = [application for application in found if getattr(application, name) == call.param(name)]
    if call.flag("only_with_launch_url", False):
        found = [application for application in found if application.meta_launch_url]
    return call.page(len(found), lambda limit, offset: found[offset : offset + limit], lambda page: shown(call, page))


def _application(call: Call) -> models.Application:
    call.require_superuser()
    application = call.services.database.first(models.Application, slug=call.path["slug"])
    if application is None:
        raise not_found(NAME)
    return application


async def retrieve(call: Call) -> Answer:
    """``GET /core/applications/<slug>/``."""
    return Answer(shown(call, [_application(call)])[0])


async def change(call: Call) -> Answer:
    """``PATCH /core/applications/<slug>/``; outposts that serve its provider are told of a new slug."""
    application = _application(call)
    call.writable(application)
    texts = ("name", "slug", "group", "meta_launch_url", "meta_description", "meta_publisher", "policy_engine_mode")
    update(application, await call.json(), {**dict.fromkeys(texts, str), "open_in_new_tab": bool})
    call.services.database.save(application)
    return Answer(shown(call, [application])[0])


ROUTES = (
    Route("GET", "/core/applications/", listing),
    Route("GET", "/core/applications/{slug}/", retrieve),
    Route("PATCH", "/core/applications/{slug}/", change),
)
