"""All API routes; a further group is one file and one line. Order matters where a fixed part meets a ``{name}``."""

from __future__ import annotations

from core.api import (
    applications,
    authenticated_sessions,
    authenticators,
    brands,
    crypto,
    events,
    flows,
    groups,
    outposts,
    providers,
    root,
    users,
)
from core.api.base import Route

ROUTES: tuple[Route, ...] = (
    *applications.ROUTES,
    *authenticated_sessions.ROUTES,
    *authenticators.ROUTES,
    *brands.ROUTES,
    *crypto.ROUTES,
    *events.ROUTES,
    *flows.ROUTES,
    *groups.ROUTES,
    *outposts.ROUTES,
    *providers.ROUTES,
    *root.ROUTES,
    *users.ROUTES,
)
