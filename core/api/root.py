"""``/root/``: public settings of the installation."""

from __future__ import annotations

from core.api.base import Answer, Call, Route

CACHE_TIMEOUT_S = 300  # what the reference answers; clients use it for their own caches


async def config(call: Call) -> Answer:
    """``GET /root/config/``: public. Error reporting is always off: nothing is sent anywhere."""
    return Answer(
        {
            "error_reporting": {
                "enabled": False,
                "sentry_dsn": "",
                "environment": "embedded",
                "send_pii": False,
                "traces_sample_rate": 0.0,
            },
            "capabilities": [],
            "cache_timeout": CACHE_TIMEOUT_S,
            "cache_timeout_flows": CACHE_TIMEOUT_S,
            "cache_timeout_policies": CACHE_TIMEOUT_S,
            "cache_timeout_reputation": CACHE_TIMEOUT_S,
        }
    )


ROUTES = (Route("GET", "/root/config/", config),)
