"""Settings of the embedded core: environment and command line → one frozen ``CoreSettings``.

Secrets may also come from a file (``NAME_FILE``). An unknown ``OUTPOSTS_CORE__*`` name is an error, so that a typing
mistake does not go unnoticed. The names that start with ``AUTHENTIK_`` are those that the reference core reads.
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from common.setting_values import ListenAddress, Network, listen_address, split_list
from core.errors import CoreSettingError

DEFAULT_LISTEN = "127.0.0.1:9080,[::1]:9080"  # loopback until told otherwise
DEFAULT_TRUSTED_PROXIES = "127.0.0.0/8,::1/128"  # only a proxy on the same machine may name the client
# As nginx, Envoy and Traefik write it. Only one counts: a proxy overwrites its own header, not those of the others.
PROXY_HEADERS = ("ssl-client-cert", "x-forwarded-client-cert", "x-forwarded-tls-client-cert")
LOG_LEVELS = ("trace", "debug", "info", "warning", "error")
PREFIX = "OUTPOSTS_CORE__"

# name → help; the order is that of the documentation
NAMES: dict[str, str] = {
    "OUTPOSTS_CORE__LISTEN": f"listen addresses, comma separated, port 0 = any free one; default {DEFAULT_LISTEN}",
    "OUTPOSTS_CORE__PUBLIC_URL": "base URL for browsers, e.g. https://id.example.org; default: as the request says",
    "AUTHENTIK_LISTEN__TRUSTED_PROXY_CIDRS": "networks whose X-Forwarded-* headers count; default "
    + DEFAULT_TRUSTED_PROXIES,
    "OUTPOSTS_CORE__CLIENT_CERTIFICATE_HEADER": "header with a TLS client's certificate that the trusted proxy sets on "
    f"every request: one of {', '.join(PROXY_HEADERS)}; default: none",
    "AUTHENTIK_BOOTSTRAP_PASSWORD": "password of akadmin, set at the first start; also with _FILE",
    "AUTHENTIK_BOOTSTRAP_TOKEN": "API token of akadmin, set at the first start; also with _FILE",
    "AUTHENTIK_BOOTSTRAP_EMAIL": "e-mail address of akadmin, set at the first start",
    "AUTHENTIK_EMAIL__HOST": "mail server; default: none, no mails are sent",
    "AUTHENTIK_EMAIL__PORT": "its port; default 25",
    "AUTHENTIK_EMAIL__USERNAME": "user name for it; default: none",
    "AUTHENTIK_EMAIL__PASSWORD": "password for it; also with _FILE",
    "AUTHENTIK_EMAIL__USE_TLS": "STARTTLS before anything else; default false",
    "AUTHENTIK_EMAIL__USE_SSL": "TLS from the first byte on; default false",
    "AUTHENTIK_EMAIL__TIMEOUT": "seconds for one connection; default 10",
    "AUTHENTIK_EMAIL__FROM": "sender address; default authentik@localhost",
    "AUTHENTIK_LOG_LEVEL": f"one of {', '.join(LOG_LEVELS)}; default info",
    "OUTPOSTS_READY_FILE": "file that gets the real addresses as JSON when all listen",
}


@dataclass(frozen=True)
class MailSettings:
    """A mail server; without ``host`` there is none. ``timeout`` in seconds."""

    host: str = ""
    port: int = 25
    username: str = ""
    password: str = field(default="", repr=False)
    use_tls: bool = False
    use_ssl: bool = False
    timeout: int = 10
    from_address: str = "authentik@localhost"


@dataclass(frozen=True)
class CoreSettings:
    """Everything that the embedded core is told from outside. ``public_url`` is without final slash or empty."""

    data: Path
    blueprints: tuple[Path, ...] = ()
    listen: tuple[ListenAddress, ...] = ()
    public_url: str = ""
    trusted_proxies: tuple[Network, ...] = ()
    client_certificate_header: str = ""
    mail: MailSettings = MailSettings()
    bootstrap_password: str = field(default="", repr=False)
    bootstrap_token: str = field(default="", repr=False)
    bootstrap_email: str = "root@example.com"
    log_level: str = "info"
    ready_file: str | None = None


def load(
    environ: Mapping[str, str],
    *,
    data: Path,
    blueprints: tuple[Path, ...] = (),
    read_file: Callable[[str], str] = lambda path: Path(path).read_text(),
) -> CoreSettings:
    """Settings from the environment and the command line's ``data`` folder and ``blueprints``.

    :raises CoreSettingError: a value is not accepted or an ``OUTPOSTS_CORE__*`` name is unknown.
    """
    for name in environ:
        if name.startswith(PREFIX) and name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, 1)
            raise CoreSettingError(name, "unknown setting", f"did you mean {near[0]}?" if near else ", ".join(NAMES))
    level = environ.get("AUTHENTIK_LOG_LEVEL", "").lower() or "info"
    return CoreSettings(
        data=data,
        blueprints=blueprints,
        listen=_addresses("OUTPOSTS_CORE__LISTEN", environ.get("OUTPOSTS_CORE__LISTEN") or DEFAULT_LISTEN),
        public_url=_url("OUTPOSTS_CORE__PUBLIC_URL", environ.get("OUTPOSTS_CORE__PUBLIC_URL", "")),
        trusted_proxies=_networks(
            "AUTHENTIK_LISTEN__TRUSTED_PROXY_CIDRS",
            environ.get("AUTHENTIK_LISTEN__TRUSTED_PROXY_CIDRS") or DEFAULT_TRUSTED_PROXIES,
        ),
        client_certificate_header=_header(environ.get("OUTPOSTS_CORE__CLIENT_CERTIFICATE_HEADER", "")),
        mail=_mail(environ, read_file),
        bootstrap_password=_secret("AUTHENTIK_BOOTSTRAP_PASSWORD", environ, read_file),
        bootstrap_token=_secret("AUTHENTIK_BOOTSTRAP_TOKEN", environ, read_file),
        bootstrap_email=environ.get("AUTHENTIK_BOOTSTRAP_EMAIL") or CoreSettings.bootstrap_email,
        log_level=level if level in LOG_LEVELS else "debug",
        ready_file=environ.get("OUTPOSTS_READY_FILE") or None,
    )


def _addresses(name: str, text: str) -> tuple[ListenAddress, ...]:
    try:
        found = tuple(listen_address(item) for item in split_list(text))
    except ValueError as error:
        raise CoreSettingError(name, str(error), "addresses such as 127.0.0.1:9080 or [::1]:9080") from None
    if not found:
        raise CoreSettingError(name, "no address", "addresses such as 127.0.0.1:9080 or [::1]:9080")
    return found


def _networks(name: str, text: str) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(item, strict=False) for item in split_list(text))
    except ValueError:
        raise CoreSettingError(name, "not a list of networks", "networks such as 10.0.0.0/8, comma separated") from None


def _mail(environ: Mapping[str, str], read_file: Callable[[str], str]) -> MailSettings:
    def given(name: str) -> str:
        return environ.get(f"AUTHENTIK_EMAIL__{name}", "")

    default = MailSettings()
    return MailSettings(
        host=given("HOST"),
        port=_number("AUTHENTIK_EMAIL__PORT", given("PORT"), default.port, 65535),
        username=given("USERNAME"),
        password=_secret("AUTHENTIK_EMAIL__PASSWORD", environ, read_file),
        use_tls=_flag("AUTHENTIK_EMAIL__USE_TLS", given("USE_TLS")),
        use_ssl=_flag("AUTHENTIK_EMAIL__USE_SSL", given("USE_SSL")),
        timeout=_number("AUTHENTIK_EMAIL__TIMEOUT", given("TIMEOUT"), default.timeout, 3600),
        from_address=given("FROM") or default.from_address,
    )


def _number(name: str, text: str, default: int, highest: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= highest):
        raise CoreSettingError(name, "not a number that is possible", f"1 to {highest}")
    return int(text)


def _flag(name: str, text: str) -> bool:
    known = {"": False, "false": False, "no": False, "off": False, "0": False} | dict.fromkeys(
        ("true", "yes", "on", "1"), True
    )
    if text.lower() not in known:
        raise CoreSettingError(name, "not a boolean", "true or false")
    return known[text.lower()]


def _header(text: str) -> str:
    if text and text.lower() not in PROXY_HEADERS:
        raise CoreSettingError(
            "OUTPOSTS_CORE__CLIENT_CERTIFICATE_HEADER", "not a header that is known", ", ".join(PROXY_HEADERS)
        )
    return text.lower()


def _url(name: str, text: str) -> str:
    if not text:
        return ""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise CoreSettingError(name, "not a base URL", "http:// or https:// with a host, without query")
    return text.rstrip("/")


def _secret(name: str, environ: Mapping[str, str], read_file: Callable[[str], str]) -> str:
    value, path = environ.get(name, ""), environ.get(name + "_FILE", "")
    if value and path:
        raise CoreSettingError(name, f"{name} and {name}_FILE are both set", "one of the two")
    if path or value.startswith("file://"):
        try:
            return read_file(path or value.removeprefix("file://")).rstrip("\r\n")
        except OSError as error:
            raise CoreSettingError(name, f"the file cannot be read: {error.strerror}", "a readable file") from None
    return value
