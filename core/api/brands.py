"""``/core/brands/``: the look and the flows of the host that was asked."""

from __future__ import annotations

from typing import Any

from core import models
from core.api.base import Answer, Call, Route

# Switches of the reference; every client release requires those that it knows.
FLAGS = {
    "core_default_app_access": True,
    "enterprise_audit_include_expanded_diff": False,
    "flows_continuous_login": False,
    "flows_refresh_others": False,
    "policies_buffered_access_view": False,
}
FLOWS = (
    "flow_authentication", "flow_invalidation", "flow_recovery", "flow_unenrollment", "flow_user_settings",
    "flow_device_code",
)  # fmt: skip


async def current(call: Call) -> Answer:
    """``GET /core/brands/current/``: public."""
    brand = call.http.brand or models.Brand(domain="fallback")
    wanted = {pk for name in FLOWS if (pk := getattr(brand, name))}
    slugs = {pk: flow.slug for pk, flow in call.services.database.get_many(models.Flow, wanted).items()}
    answer: dict[str, Any] = {
        "matched_domain": brand.domain,
        "branding_title": brand.branding_title,
        "branding_logo": brand.branding_logo,
        "branding_logo_themed_urls": None,
        "branding_favicon": brand.branding_favicon,
        "branding_favicon_themed_urls": None,
        "branding_custom_css": brand.branding_custom_css,
        "ui_footer_links": [],
        "ui_theme": "automatic",
        "default_locale": "",
        "flags": FLAGS,
    }
    return Answer(answer | {name: slugs[pk] for name in FLOWS if (pk := getattr(brand, name)) in slugs})


ROUTES = (Route("GET", "/core/brands/current/", current),)
