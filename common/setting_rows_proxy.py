"""Rows of the proxy's own settings (see ``common/setting_rows.py``)."""

from __future__ import annotations

from common import setting_values as values
from common.setting_values import ExtraSetting, Kind

NETWORKS = Kind(
    "networks",
    "comma list of ADDRESS/BITS",
    lambda value: tuple(values.network(item) for item in values.split_list(value)),
    listed=True,
)

ROWS: tuple[ExtraSetting, ...] = (
    ExtraSetting(
        "proxy",
        "hosts",
        values.TEXT_LIST,
        (),
        "",
        "Further hosts (`HOST` or `HOST:PORT`) that this provider serves. A login that begins on one ends there only "
        "if the cookie domain holds it, else at the same path of the external host.",
    ),
    ExtraSetting(
        "proxy",
        "skip_match",
        values.choice("search", "full"),
        "search",
        "",
        "How unauthenticated paths match: somewhere in the path (`search`, the core's meaning), or all of it (`full`).",
    ),
    ExtraSetting(
        "proxy",
        "required_groups",
        values.TEXT_LIST,
        (),
        "",
        "Entries `/PATH=GROUP|GROUP` or `HOST/PATH=GROUP|GROUP`: who is logged in but in none of these groups gets 403 "
        "at that path and below it. All entries that match have to be met.",
    ),
    ExtraSetting(
        "proxy", "skip_networks", NETWORKS, (), "", "Networks whose clients need no login. They have no identity."
    ),
    ExtraSetting(
        "proxy",
        "session_idle",
        values.duration(),
        0.0,
        "s",
        "Longest time between two requests of a session. 0: any.",
    ),
    ExtraSetting(
        "proxy",
        "refresh_tokens",
        values.BOOLEAN,
        False,
        "",
        "Renew tokens in the background, so that a session outlives its token and follows changes of groups. The "
        "provider needs the scope `offline_access`.",
    ),
    ExtraSetting(
        "proxy",
        "session_max",
        values.duration(),
        86_400.0,
        "s",
        "Longest life of a session whose tokens are renewed. Others end with their token.",
    ),
    ExtraSetting(
        "proxy",
        "keep_post",
        values.size(0),
        65_536,
        "bytes",
        "Mode `proxy`: largest form that is kept during a login and sent on after it; a comment with a picture link is "
        "some KiB. 0: none.",
    ),
    ExtraSetting(
        "proxy",
        "cookie_prefix",
        values.choice("none", "secure", "host"),
        "none",
        "",
        "Put `__Secure-` or `__Host-` in front of cookie names; the latter only without a cookie domain.",
    ),
    ExtraSetting(
        "proxy",
        "cookie_same_site",
        values.choice("lax", "strict", "none"),
        "lax",
        "",
        "`SameSite` of cookies. `none` for applications in frames of other sites; `strict` asks for a login after "
        "every link from another site.",
    ),
    ExtraSetting(
        "proxy",
        "cookie_partitioned",
        values.BOOLEAN,
        False,
        "",
        "Cookies with `Partitioned`: one jar for each site that frames the application.",
    ),
    ExtraSetting("proxy", "send_jwt", values.BOOLEAN, True, "", "Put the token into `X-authentik-jwt`."),
    ExtraSetting(
        "proxy",
        "header_budget",
        values.size(1024),
        24_576,
        "bytes",
        "Size of all identity headers together. What does not fit is left out: first the token, then additional "
        "headers, then entitlements, then groups. nginx needs `proxy_buffer_size` above it.",
    ),
    ExtraSetting(
        "proxy",
        "strip_headers",
        values.TEXT_LIST,
        (),
        "",
        "Mode `proxy`: request headers that are always taken out, in any spelling, besides `X-authentik-*`. Name here "
        "what `additionalHeaders` of some users set.",
    ),
    ExtraSetting(
        "proxy",
        "upstream_ca",
        values.TEXT,
        "",
        "",
        "Mode `proxy`: certificates that the application's TLS certificate has to lead to, PEM text (or "
        "`file://PATH`). Empty: the system's. The provider's switch for validation turns the check off altogether.",
    ),
    ExtraSetting(
        "proxy",
        "upstream_certificate",
        values.TEXT,
        "",
        "",
        "Mode `proxy`: a certificate and its key for an application that asks for one, PEM text (or `file://PATH`).",
    ),
    ExtraSetting(
        "proxy",
        "upstream_server_name",
        values.TEXT,
        "",
        "",
        "Mode `proxy`: name that the application is asked for in TLS (SNI) and that its certificate must have. Empty: "
        "the host of the internal URL.",
    ),
    ExtraSetting(
        "proxy",
        "upstream_connect_timeout",
        values.duration(0.1),
        10.0,
        "s",
        "Mode `proxy`: longest time until a connection to the application is open, TLS included; then 504.",
    ),
    ExtraSetting(
        "proxy",
        "upstream_response_timeout",
        values.duration(),
        300.0,
        "s",
        "Mode `proxy`: longest time from the end of a request to the head of its answer; then 504. Reports and long "
        "polls take minutes. 0: any.",
    ),
    ExtraSetting(
        "proxy",
        "upstream_idle_timeout",
        values.duration(),
        120.0,
        "s",
        "Mode `proxy`: longest time without any octet of a body, from either side. 0: any.",
    ),
    ExtraSetting(
        "proxy",
        "tunnel_idle_timeout",
        values.duration(),
        3600.0,
        "s",
        "Mode `proxy`: the same for WebSockets and other upgrades, and for answers of the type `text/event-stream`. "
        "0: any.",
    ),
    ExtraSetting(
        "proxy",
        "upgrades",
        values.TEXT_LIST,
        ("websocket",),
        "",
        "Mode `proxy`: protocols that a connection may change to (`Upgrade`). Never `h2c`: what goes through it is not "
        "checked any more.",
    ),
    ExtraSetting(
        "proxy",
        "max_body",
        values.size(0),
        0,
        "bytes",
        "Mode `proxy`: largest body of a request; then 413. 0: any.",
    ),
    ExtraSetting(
        "proxy",
        "https_redirect",
        values.BOOLEAN,
        False,
        "",
        "Mode `proxy`: send clients that come over plain http to https, if the external host is https. Not for peers "
        "that are trusted proxies and say that the client came over https.",
    ),
    ExtraSetting(
        "proxy",
        "sign_out",
        values.choice("everywhere", "application"),
        "everywhere",
        "",
        "What a sign-out ends: all of the user's sessions here and the login at the core (`everywhere`), or this one "
        "session (`application`).",
    ),
    ExtraSetting(
        "proxy",
        "max_connections",
        values.number(1, 1_000_000),
        16_384,
        "connections",
        "Open connections of one process; further ones are closed at once. A WebSocket holds one for hours.",
    ),
    ExtraSetting(
        "proxy",
        "max_connections_per_address",
        values.number(1, 1_000_000),
        1_000,
        "connections",
        "Open connections from one client address; trusted proxies may have any number.",
    ),
)
