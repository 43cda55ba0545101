"""The two tables of everything that can be set, and what their rows look like; ``common/settings.py`` reads them.

- ``VARIABLES``: settings of the process, under the names that the core's own outposts use, and a few of ours.
- ``EXTRAS``: settings of one protocol, which may differ per provider. One row is ``x_<type>_<name>`` in the outpost's
  ``config`` on the core, ``OUTPOSTS_<TYPE>__<NAME>`` in the environment and ``outposts.<type>.<name>`` in a file.

``docs/settings.md`` is written from these rows, so ``help`` is text for operators. Add a row, then run
``outposts docs``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from common import setting_values as values
from common.setting_rows_proxy import ROWS as PROXY_ROWS
from common.setting_rows_radius import ROWS as RADIUS_ROWS
from common.setting_values import ExtraSetting, Kind

DEFAULT_TRUSTED_PROXIES = "127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fe80::/10,::1/128"


@dataclass(frozen=True)
class Variable:
    """One process setting: environment name, attribute of ``Settings``, kind of value, default as one would write it.

    ``in_files`` says whether configuration files may set it; a ``secret`` may also be given as ``<NAME>_FILE``.
    """

    name: str
    field: str
    kind: Kind
    default: str
    help: str
    in_files: bool = True
    secret: bool = False

    @property
    def path(self) -> tuple[str, ...]:
        """Where a configuration file has it: ``AUTHENTIK_LISTEN__LDAP`` is ``listen.ldap``."""
        owner, _, rest = self.name.partition("_")
        keys = tuple(rest.lower().split("__"))
        return ("outposts", *keys) if owner == "OUTPOSTS" else keys


def _known_log_level(value: object) -> str:
    level, known = values.log_level(value)
    if not known:
        raise ValueError("unknown")
    return level


LOG_LEVEL = Kind("log level", ", ".join(values.LOG_LEVELS), _known_log_level)
# Invalid entries are warned about and skipped, not refused: deployments that run today must keep running.
NETWORKS = Kind("networks", "comma list of ADDRESS/BITS", lambda value: tuple(values.split_list(value)), listed=True)

VARIABLES: tuple[Variable, ...] = (
    Variable(
        "AUTHENTIK_HOST",
        "core_address",
        values.CORE_URL,
        "",
        "Base URL of the core. May have a path; a query goes into the WebSocket URL. The host name selects brand and "
        "tenant on the core. Required.",
        in_files=False,
    ),
    Variable("AUTHENTIK_TOKEN", "token", values.TEXT, "", "Token of the outpost. Required.", False, secret=True),
    Variable("AUTHENTIK_INSECURE", "insecure", values.BOOLEAN, "false", "Accept any certificate of the core."),
    Variable(
        "AUTHENTIK_HOST_BROWSER", "host_browser", values.TEXT, "", "Proxy: base URL of the core as browsers see it."
    ),
    Variable(
        "AUTHENTIK_LOG_LEVEL",
        "log_level",
        LOG_LEVEL,
        "info",
        "Until the first refresh; then `log_level` of the outpost's config holds (not for managed outposts). An "
        "unknown level means debug.",
    ),
    Variable("AUTHENTIK_DEBUG", "debug", values.BOOLEAN, "false", "Logs as text for people instead of JSON."),
    Variable("AUTHENTIK_LISTEN__LDAP", "listen_ldap", values.LISTEN_LIST, "[::]:3389", "LDAP and StartTLS, TCP."),
    Variable("AUTHENTIK_LISTEN__LDAPS", "listen_ldaps", values.LISTEN_LIST, "[::]:6636", "LDAP over TLS, TCP."),
    Variable("AUTHENTIK_LISTEN__RADIUS", "listen_radius", values.LISTEN_LIST, "[::]:1812", "RADIUS, UDP."),
    Variable(
        "OUTPOSTS_LISTEN__ACCOUNTING",
        "listen_accounting",
        values.LISTEN_LIST,
        "",
        "RADIUS accounting, UDP; usually port 1813. Needs the setting `accounting`.",
    ),
    Variable(
        "OUTPOSTS_LISTEN__RADSEC",
        "listen_radsec",
        values.LISTEN_LIST,
        "",
        "RADIUS over TLS (RFC 6614), TCP; usually port 2083.",
    ),
    Variable(
        "OUTPOSTS_LISTEN__RADSEC_PSK",
        "listen_radsec_psk",
        values.LISTEN_LIST,
        "",
        "RADIUS over TLS with pre-shared keys instead of certificates, TCP. Needs Python 3.13.",
    ),
    Variable("AUTHENTIK_LISTEN__HTTP", "listen_http", values.LISTEN_LIST, "[::]:9000", "Proxy, HTTP."),
    Variable("AUTHENTIK_LISTEN__HTTPS", "listen_https", values.LISTEN_LIST, "[::]:9443", "Proxy, HTTPS."),
    Variable("AUTHENTIK_LISTEN__METRICS", "listen_metrics", values.LISTEN_LIST, "[::]:9300", "Metrics and health."),
    Variable(
        "AUTHENTIK_LISTEN__TRUSTED_PROXY_CIDRS",
        "trusted_proxies",
        NETWORKS,
        DEFAULT_TRUSTED_PROXIES,
        "Peers whose PROXY protocol header and X-Forwarded headers are believed.",
    ),
    Variable(
        "AUTHENTIK_LOG__HTTP_HEADERS",
        "log_http_headers",
        values.TEXT_LIST,
        "User-Agent",
        "Request headers that go into HTTP access logs.",
    ),
    Variable(
        "AUTHENTIK_LDAP__PAGE_SIZE",
        "ldap_page_size",
        values.number(1, 10000),
        "50",
        "LDAP: page size of user and group listings. The core cuts it at its own maximum.",
    ),
    Variable(
        "AUTHENTIK_WEB__TIMEOUT_HTTP_READ_HEADER",
        "web_read_header_timeout_s",
        values.duration(0.1),
        "5s",
        "Proxy: time for a request's header.",
    ),
    Variable(
        "AUTHENTIK_WEB__TIMEOUT_HTTP_READ",
        "web_read_timeout_s",
        values.duration(0.1),
        "30s",
        "Proxy: time for reading a request.",
    ),
    Variable(
        "AUTHENTIK_WEB__TIMEOUT_HTTP_WRITE",
        "web_write_timeout_s",
        values.duration(0.1),
        "60s",
        "Proxy: time for writing an answer.",
    ),
    Variable(
        "AUTHENTIK_WEB__TIMEOUT_HTTP_IDLE",
        "web_idle_timeout_s",
        values.duration(0.1),
        "120s",
        "Proxy: time an unused connection is kept.",
    ),
    Variable(
        "OUTPOSTS_STATE_DIR",
        "state_dir",
        values.TEXT,
        "",
        "Folder for sealed state (last good configuration and directory). Unset: memory only.",
    ),
    Variable(
        "OUTPOSTS_REDIS_URL",
        "redis_url",
        values.TEXT,
        "",
        "Redis or Valkey for what several daemons share, such as redis://host:6379/0. Needs the extra `redis`.",
        secret=True,
    ),
    Variable(
        "OUTPOSTS_READY_FILE",
        "ready_file",
        values.TEXT,
        "",
        "File that receives the addresses really bound, as JSON, when all listeners answer.",
    ),
    Variable(
        "OUTPOSTS_WORKERS",
        "workers",
        values.COUNT_OR_AUTO,
        "1",
        "Worker processes that share the listeners; `auto`: one per processor that this daemon may use (running.md).",
    ),
)

# Read directly, before or outside the tables; named here for the documentation and the unknown-name check.
PLAIN_VARIABLES: Mapping[str, str] = {
    "AUTHENTIK_ENV": "Name of the configuration files `<env>.yml` and `<env>.env.yml`; default `local`.",
    "WORKSPACE_DIR": "Folder in which relative configuration files are looked for; default: the working directory.",
    "TMPDIR": "Folder of the socket `authentik-metrics.sock`; default `/tmp`.",
    "GIT_BUILD_HASH": "Build hash that is reported to the core.",
    "HTTP_PROXY, HTTPS_PROXY, NO_PROXY": "Proxy for calls to the core and for the WebSocket.",
    "SSL_CERT_FILE, SSL_CERT_DIR": "Certificate authorities to trust instead of the system's.",
}

# Read by the embedded core itself (``core/settings.py``); here because daemons may share its environment.
EMBEDDED_CORE: Mapping[str, str] = {
    "OUTPOSTS_CORE__LISTEN": "Addresses to listen on; default `127.0.0.1:9080,[::1]:9080`.",
    "OUTPOSTS_CORE__PUBLIC_URL": "Base URL for browsers; default: as the request says.",
    "OUTPOSTS_CORE__CLIENT_CERTIFICATE_HEADER": "Header with a TLS client's certificate that the trusted proxy sets on "
    "every request; default: none.",
    "AUTHENTIK_EMAIL__HOST": "Mail server; default: none, only stages with a mail server of their own send mails.",
    "AUTHENTIK_EMAIL__PORT": "Port of the mail server; default 25.",
    "AUTHENTIK_EMAIL__USERNAME": "User name at the mail server; default: none.",
    "AUTHENTIK_EMAIL__PASSWORD": "Password at the mail server. Also with `_FILE`.",
    "AUTHENTIK_EMAIL__USE_TLS": "STARTTLS before anything else; default `false`.",
    "AUTHENTIK_EMAIL__USE_SSL": "TLS from the first byte on; default `false`.",
    "AUTHENTIK_EMAIL__TIMEOUT": "Seconds for one connection to the mail server; default 10.",
    "AUTHENTIK_EMAIL__FROM": "Sender of mails; default `authentik@localhost`.",
    "AUTHENTIK_BOOTSTRAP_PASSWORD": "Password of `akadmin`, set at the first start. Also with `_FILE`.",
    "AUTHENTIK_BOOTSTRAP_TOKEN": "API token of `akadmin`, set at the first start. Also with `_FILE`.",
    "AUTHENTIK_BOOTSTRAP_EMAIL": "E-mail address of `akadmin`, set at the first start.",
}

EXTRAS: tuple[ExtraSetting, ...] = (
    ExtraSetting(
        "ldap",
        "dn_attribute",
        values.choice("cn", "uid"),
        "cn",
        "",
        "Attribute that names users: `cn=alice,ou=users,…`.",
    ),
    ExtraSetting(
        "ldap",
        "uid",
        values.choice("hash", "username"),
        "hash",
        "",
        "What `uid` holds: the core's 64-digit user id, or the login name (always so when `uid` names users).",
    ),
    ExtraSetting(
        "ldap", "nested_groups", values.BOOLEAN, False, "", "`memberOf` and `member` also through child groups."
    ),
    ExtraSetting("ldap", "strict", values.BOOLEAN, False, "", "Answer 32 (no such object) for an unknown search base."),
    ExtraSetting(
        "ldap",
        "bind_names",
        values.choices("dn", "username", "mail", "upn"),
        ("dn",),
        "",
        "What a bind may name a user by.",
    ),
    ExtraSetting("ldap", "require_tls", values.BOOLEAN, False, "", "Refuse passwords on connections without TLS (13)."),
    ExtraSetting(
        "ldap",
        "password_flow",
        values.TEXT,
        "",
        "",
        "Kept for a flow that changes passwords. Has no effect: password modify is always refused (53), because such a "
        "flow asks questions that LDAP cannot put to anybody.",
    ),
    ExtraSetting(
        "ldap",
        "client_certificates",
        values.BOOLEAN,
        False,
        "",
        "Ask TLS clients for a certificate, and take it for SASL EXTERNAL. The outpost's service account needs the "
        "core's permission `authentik_stages_mtls.pass_outpost_certificate`.",
    ),
    ExtraSetting(
        "ldap",
        "client_ca",
        values.TEXT,
        "",
        "",
        "Issuers of client certificates, PEM text (or `file://PATH`). Empty: the core's certificate stage alone "
        "decides, and a flow that asks for a user name is refused.",
    ),
    ExtraSetting(
        "ldap",
        "gid",
        values.choice("reference", "hash"),
        "reference",
        "",
        "How groups get their `gidNumber`: the core's numbering, or 2^20 plus 30 bits of the SHA-256 of their uuid.",
    ),
    ExtraSetting(
        "ldap",
        "extra_attributes",
        values.choices(
            "loginShell",
            "gecos",
            "givenName",
            "distinguishedName",
            "userPrincipalName",
            "userAccountControl",
            "memberUid",
            "uniqueMember",
            empty=True,
        ),
        (),
        "",
        "Attributes that entries carry in addition. Objects' own attributes of these names win, except `memberUid` and "
        "`uniqueMember`, which follow `member`.",
    ),
    ExtraSetting(
        "ldap",
        "login_shell",
        values.TEXT,
        "/bin/bash",
        "",
        "Value of `loginShell` for users without an attribute `loginShell`, if `extra_attributes` names it.",
    ),
    ExtraSetting(
        "ldap",
        "only_groups",
        values.TEXT_LIST,
        (),
        "",
        "Names or uuids of groups: only these, the groups below them and their members are shown. Empty: everything. "
        "Who may bind is up to the core.",
    ),
    ExtraSetting("ldap", "active_only", values.BOOLEAN, False, "", "Show active users only, also as members."),
    ExtraSetting(
        "ldap",
        "attributes_allow",
        values.TEXT_LIST,
        (),
        "",
        "The only attributes of users and groups that exist here, besides `objectClass`, the naming attribute and what "
        "the server computes. Empty: all.",
    ),
    ExtraSetting(
        "ldap",
        "attributes_deny",
        values.TEXT_LIST,
        (),
        "",
        "Attributes of users and groups that do not exist here, whatever `attributes_allow` says.",
    ),
    ExtraSetting(
        "ldap", "bind_cache_max", values.duration(), 300.0, "s", "Longest time for which a cached bind skips the flow."
    ),
    ExtraSetting(
        "ldap", "bind_cache_mfa", values.duration(), 60.0, "s", "The same for a bind that used a one-time code."
    ),
    ExtraSetting(
        "ldap",
        "bind_cache_size",
        values.number(0, 10_000_000),
        100_000,
        "entries",
        "Successful binds remembered per provider; about 300 bytes each. 0 remembers none.",
    ),
    ExtraSetting(
        "ldap",
        "offline_grace",
        values.duration(),
        600.0,
        "s",
        "How long after its end a cached bind still counts while the core does not answer.",
    ),
    ExtraSetting(
        "ldap",
        "allow_push_only",
        values.BOOLEAN,
        False,
        "",
        "Accept a login flow that never asks for the password (push confirmation only).",
    ),
    ExtraSetting(
        "ldap",
        "login_timeout",
        values.duration(1),
        90.0,
        "s",
        "Whole time of one bind. A push confirmation blocks up to 75 s on the core.",
    ),
    ExtraSetting(
        "ldap",
        "undecided_code",
        values.choice("exact", "invalid_credentials"),
        "exact",
        "",
        "Answer to a bind that could not be decided: `exact` says busy (51), unavailable (52) or other (80); "
        "`invalid_credentials` says 49, for clients that end or drop the server when they hear of anything else. Such "
        "a client then takes a silent core for a wrong password.",
    ),
    ExtraSetting(
        "ldap",
        "bind_failures",
        values.number(0, 1_000_000),
        10,
        "binds",
        "Failed binds of one account from one address before it has to wait there (busy, 51): 1 s, doubled with each "
        "further failure. People mistype three or four times. A success forgets them. 0: no limit.",
    ),
    ExtraSetting(
        "ldap",
        "bind_failures_per_address",
        values.number(0, 1_000_000),
        200,
        "binds",
        "The same for one address (IPv6: a /64) and all accounts, but what the bind cache knows is still answered. One "
        "application server may bind for a thousand people. 0: no limit.",
    ),
    ExtraSetting(
        "ldap",
        "bind_failures_per_account",
        values.number(0, 1_000_000),
        50,
        "binds",
        "Failed binds of one account from anywhere before its binds are delayed, by at most 5 s; they are never "
        "refused, so nobody can lock somebody else out. 0: no limit.",
    ),
    ExtraSetting(
        "ldap",
        "bind_backoff_max",
        values.duration(1),
        300.0,
        "s",
        "Longest wait after failed binds. In this time one failure of an account at an address is forgiven, and all of "
        "an address or of an account.",
    ),
    ExtraSetting(
        "ldap",
        "max_message_size_anonymous",
        values.size(1024),
        65_536,
        "bytes",
        "Largest message before a bind. A bind is a name and a password: 64 KiB leaves room for tokens.",
    ),
    ExtraSetting(
        "ldap",
        "max_message_size",
        values.size(1024),
        4_194_304,
        "bytes",
        "Largest message after a bind: 4 MiB is a filter with tens of thousands of terms; OpenLDAP has the same.",
    ),
    ExtraSetting(
        "ldap",
        "max_nesting",
        values.number(4, 1000),
        64,
        "levels",
        "Deepest nesting of a filter. Filters made by programs stay below 10; OpenLDAP cuts at 100.",
    ),
    ExtraSetting(
        "ldap",
        "max_connections",
        values.number(1, 1_000_000),
        10_000,
        "connections",
        "Open connections of one process; further ones are closed at once.",
    ),
    ExtraSetting(
        "ldap",
        "max_connections_per_address",
        values.number(1, 1_000_000),
        1_000,
        "connections",
        "Open connections from one client address. Connection pools of many applications may share one.",
    ),
    ExtraSetting(
        "ldap",
        "max_requests",
        values.number(1, 10_000),
        100,
        "requests",
        "Requests of one connection in progress at the same time; reading pauses beyond it.",
    ),
    ExtraSetting(
        "ldap",
        "max_followers",
        values.number(0, 1_000_000),
        1_000,
        "searches",
        "Searches of one process that wait for changes (content synchronization, persistent search). Each costs a few "
        "KiB and, at a change, what it is told. 0 allows none.",
    ),
    ExtraSetting(
        "ldap",
        "max_followers_per_connection",
        values.number(0, 1_000),
        10,
        "searches",
        "The same for one connection. Consumers use one connection for each search.",
    ),
    ExtraSetting(
        "ldap",
        "sync_history",
        values.number(0, 1_000),
        16,
        "refreshes",
        "Refreshes with changes that are remembered, so that a consumer that comes back gets the difference instead of "
        "everything; about 100 bytes per change, never more changes than the directory has entries.",
    ),
    ExtraSetting(
        "ldap",
        "max_attributes",
        values.number(1, 1_000_000),
        1_000,
        "attributes",
        "Attributes that one search may ask for (11 beyond it). Clients name a few dozen at most.",
    ),
    ExtraSetting(
        "ldap",
        "message_timeout",
        values.duration(1),
        30.0,
        "s",
        "Time for a message that has begun, or a TLS handshake, to be complete: slow senders are cut off, however "
        "steadily they drip.",
    ),
    ExtraSetting(
        "ldap",
        "anonymous_timeout",
        values.duration(1),
        60.0,
        "s",
        "Silence after which a connection without a bound user is closed.",
    ),
    ExtraSetting(
        "ldap",
        "idle_timeout",
        values.duration(1),
        900.0,
        "s",
        "Silence after which a bound connection is closed: 15 minutes, as in Active Directory's MaxConnIdleTime.",
    ),
    ExtraSetting(
        "ldap",
        "write_timeout",
        values.duration(1),
        30.0,
        "s",
        "How long a client may leave an answer unread before it is cut off.",
    ),
    ExtraSetting(
        "ldap",
        "size_limit",
        values.number(0, 2_147_483_647),
        0,
        "entries",
        "Most entries in one answer, or in one page of paged results; a search that finds more ends with 11. 0: any.",
    ),
    ExtraSetting(
        "ldap",
        "time_limit",
        values.duration(),
        3600.0,
        "s",
        "Longest time for one search with its transfer, then it ends with 3; OpenLDAP has the same default. 0: any.",
    ),
    ExtraSetting(
        "ldap",
        "search_timeout",
        values.duration(1),
        60.0,
        "s",
        "Whole time of one search that has to ask the core (direct mode).",
    ),
    *RADIUS_ROWS,
    *PROXY_ROWS,
)


EXTRAS_BY_NAME: Mapping[tuple[str, str], ExtraSetting] = {(row.type, row.name): row for row in EXTRAS}
