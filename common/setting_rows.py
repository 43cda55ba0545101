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
from common.setting_rows_ldap import ROWS as LDAP_ROWS
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
    *LDAP_ROWS,
    *RADIUS_ROWS,
    *PROXY_ROWS,
)


EXTRAS_BY_NAME: Mapping[tuple[str, str], ExtraSetting] = {(row.type, row.name): row for row in EXTRAS}
