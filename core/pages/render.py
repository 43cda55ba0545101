"""Templates, the headers of pages, and the style sheet."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Any

import jinja2
from aiohttp import web

from core import models

STYLE = files("core.pages").joinpath("static/style.css").read_bytes()
STYLE_PATH = f"/static/outposts/style-{hashlib.sha256(STYLE).hexdigest()[:16]}.css"
STYLE_LIFE_S = 365 * 24 * 3600  # the name changes with the content
DEFAULT_TITLE = "authentik"

# No script at all. There is no form-action: browsers apply it to every redirect that follows a form, so it would stop
# the way back to an application after the last form of a login.
POLICY = "default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'"

_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("core.pages", "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(template: str, *, brand: models.Brand | None, status: int = 200, **values: Any) -> web.Response:
    """A page from a template; everything in it is escaped."""
    text = _templates.get_template(template).render(
        style=STYLE_PATH, brand=brand.branding_title if brand is not None else DEFAULT_TITLE, **values
    )
    response = web.Response(status=status, text=text, content_type="text/html", charset="utf-8")
    response.headers["Content-Security-Policy"] = POLICY
    return response


def message(title: str, text: str, *, brand: models.Brand | None, status: int, request_id: str = "") -> web.Response:
    """A page that says one thing."""
    return page("message.html", brand=brand, status=status, title=title, text=text, request_id=request_id)


async def style(request: web.Request) -> web.StreamResponse:
    """The style sheet."""
    response = web.Response(body=STYLE, content_type="text/css", charset="utf-8")
    response.headers["Cache-Control"] = f"public, max-age={STYLE_LIFE_S}, immutable"
    return response
