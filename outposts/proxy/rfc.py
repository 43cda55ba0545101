"""Names and constants of HTTP, cookies, OAuth and forward auth, each with where it comes from. Facts only."""

from __future__ import annotations

PREFIX = "/outpost.goauthentik.io"
"""Where the outpost's own paths begin; nothing below it ever goes to an application."""

LOGOUT_NOTICE = "/backchannel_logout"
"""Where below ``PREFIX`` a core may post logout tokens (OpenID Connect Back-Channel Logout 1.0 §2.5); ours."""

CALLBACK_SIGNATURE = "X-authentik-auth-callback"
LOGOUT_SIGNATURE = "X-authentik-logout"
"""Query keys that, with the value ``true``, make any path of a provider its callback or its sign-out."""

COOKIE_NAME = "authentik_proxy_"
COOKIE_NAME_DIGITS = 8  # hexadecimal digits of SHA-256(client_id) that follow the name
LOGIN_COOKIE_SUFFIX = "_login"
MAX_COOKIE = 4096  # octets of name, value and attributes that browsers must keep (RFC 6265 §6.1)

SAFE_METHODS = frozenset({"GET", "HEAD"})
"""Methods of a navigation that can be begun anew after a login (RFC 9110 §9.2.1 without OPTIONS and TRACE)."""

# RFC 9110 §7.6.1, with the names that older software uses. Never passed on in either direction.
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

# Headers that say where a request came from: set by proxies, so no attribute of a user may set them.
FORWARDING = frozenset(
    {
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-method",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-forwarded-uri",
        "x-original-method",
        "x-original-uri",
        "x-original-url",
        "x-real-ip",
    }
)

# Headers that frame or steer an answer of a forward-auth check or a request to an application.
FRAMING = frozenset(
    {
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "expect",
        "host",
        "http2-settings",
        "location",
        "server",
        "set-cookie",
        "status",
        "www-authenticate",
    }
)

IDENTITY_PREFIX = "x-authentik-"

# Identity headers as they stand on the wire, in this order (the reference's names).
USERNAME = "X-Authentik-Username"
GROUPS = "X-Authentik-Groups"
ENTITLEMENTS = "X-Authentik-Entitlements"
EMAIL = "X-Authentik-Email"
NAME = "X-Authentik-Name"
UID = "X-Authentik-Uid"
JWT = "X-Authentik-Jwt"
META_JWKS = "X-Authentik-Meta-Jwks"
META_OUTPOST = "X-Authentik-Meta-Outpost"
META_PROVIDER = "X-Authentik-Meta-Provider"
META_APP = "X-Authentik-Meta-App"
META_VERSION = "X-Authentik-Meta-Version"
IDENTITY_HEADERS = (
    USERNAME,
    GROUPS,
    ENTITLEMENTS,
    EMAIL,
    NAME,
    UID,
    JWT,
    META_JWKS,
    META_OUTPOST,
    META_PROVIDER,
    META_APP,
    META_VERSION,
)

LIST_SEPARATOR = "|"
LIST_SEPARATOR_ESCAPED = "%7C"  # a separator inside a group's name must not make two groups of one

BASIC_TOKEN_USER = "goauthentik.io/token"  # noqa: S105 - a reserved user name; the password is then a bearer token

DEFAULT_PORTS = {"http": 80, "https": 443}

MAX_HOST = 255  # octets of a host name (RFC 1035 §2.3.4), or of an address literal
MAX_URL = 65_536  # octets of an original URL; Envoy and Caddy take 60 KiB and 1 MiB of head, browsers 64 KiB of URL
MAX_TARGET = 4096
"""Octets of a URL that travels through a login. Sealed and in base64 it is 5.6 KiB of a request line, which nginx,
HAProxy and the core cut at 8 KiB. Longer ones are dropped: such a login ends at the external host."""
