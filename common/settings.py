"""Everything an operator can set: environment, configuration files, ``env://``, ``file://`` → one frozen ``Settings``.

The rows are in ``common/setting_rows.py``, the kinds of values in ``common/setting_values.py``. For a protocol's
setting the outpost's ``config`` on the core comes first, then environment, file, default; its value may be an object
keyed by provider name, ``*`` standing for the rest.

A bad value of our operator stops the start (``SettingError``); one that comes from the core is logged and passed over,
because a daemon must not stop for it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from common import logs
from common import setting_values as values
from common.errors import SettingError, StartError
from common.setting_rows import (
    EMBEDDED_CORE,
    EXTRAS,
    EXTRAS_BY_NAME,
    LOG_LEVEL,
    NETWORKS,
    PLAIN_VARIABLES,
    VARIABLES,
    Variable,
)
from common.setting_values import ExtraSetting, Kind, ListenAddress, Network

__all__ = ["EXTRAS", "USAGE", "VARIABLES", "ExtraSetting", "ListenAddress", "Settings", "load", "markdown"]

log = logs.get_logger("settings")

USAGE = """\
An outpost needs to know its core:
  AUTHENTIK_HOST   base URL of the core, such as https://id.example.org
  AUTHENTIK_TOKEN  token of the outpost, from the core's outpost page (or AUTHENTIK_TOKEN_FILE, or file:///path)
  AUTHENTIK_INSECURE=true accepts any certificate of the core (tests only)
All settings: docs/settings.md"""

NO_ADDRESS = values.CoreAddress("", "", None)


@dataclass(frozen=True)
class Settings:
    """What the operator decided, checked. Times are in seconds, sizes in bytes.

    ``host`` is the core's base URL without final slash (path kept), ``host_query`` its query, ``host_socket`` the path
    of a ``unix://`` core (then ``host`` is ``http://localhost``). ``warnings`` are for the log, once it is set up.
    ``record_dir`` is ``state_dir`` for files that several processes write; workers know it, and not the other.
    """

    core_address: values.CoreAddress = field(default=NO_ADDRESS, repr=False)
    token: str = field(default="", repr=False)
    insecure: bool = False
    host_browser: str = ""
    log_level: str = "info"
    debug: bool = False
    listen_ldap: tuple[ListenAddress, ...] = ()
    listen_ldaps: tuple[ListenAddress, ...] = ()
    listen_radius: tuple[ListenAddress, ...] = ()
    listen_accounting: tuple[ListenAddress, ...] = ()
    listen_radsec: tuple[ListenAddress, ...] = ()
    listen_radsec_psk: tuple[ListenAddress, ...] = ()
    listen_http: tuple[ListenAddress, ...] = ()
    listen_https: tuple[ListenAddress, ...] = ()
    listen_metrics: tuple[ListenAddress, ...] = ()
    trusted_proxies: tuple[Network, ...] = ()
    log_http_headers: tuple[str, ...] = ()
    ldap_page_size: int = 50
    web_read_header_timeout_s: float = 5
    web_read_timeout_s: float = 30
    web_write_timeout_s: float = 60
    web_idle_timeout_s: float = 120
    state_dir: str | None = None
    record_dir: str | None = None
    redis_url: str = field(default="", repr=False)
    ready_file: str | None = None
    workers: int = 1  # 0: as many as there are usable processors
    tmpdir: str = "/tmp"
    build_hash: str = ""
    extras: Mapping[tuple[str, str], Sequence[object]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        """Base URL of the core without final slash; may have a path."""
        return self.core_address.base

    @property
    def host_query(self) -> str:
        """Query of the core's URL without question mark; it goes into the WebSocket URL."""
        return self.core_address.query

    @property
    def host_socket(self) -> str | None:
        """Path of the core's unix socket, if that is how it is reached."""
        return self.core_address.socket

    def extra(self, type: str, name: str, outpost_config: Mapping[str, Any], provider_name: str = "") -> Any:
        """A protocol setting's value for one provider: outpost config > environment > file > default.

        ``provider_name`` "" asks for the value that holds for the whole daemon. A value from the core that does not fit
        is logged and passed over.
        """
        row = EXTRAS_BY_NAME[type, name]
        sources: list[tuple[object, str]] = []
        if outpost_config.get(row.key) is not None:
            sources.append((outpost_config[row.key], "outpost config"))
        sources += [(value, "operator") for value in self.extras.get((type, name), ())]
        for value, origin in sources:
            found, chosen = values.by_provider(row.kind, value, provider_name)
            if not found or chosen is None:
                continue
            try:
                return row.kind.parse(chosen)
            except (ValueError, OverflowError):
                log.warning(
                    "setting ignored",
                    setting=row.key,
                    origin=origin,
                    accepted=row.kind.accepted,
                    provider=provider_name,
                )
        return row.default

    def extras_of(self, type: str, outpost_config: Mapping[str, Any], provider_name: str = "") -> dict[str, Any]:
        """All settings of one protocol for one provider, by name."""
        return {
            row.name: self.extra(type, row.name, outpost_config, provider_name) for row in EXTRAS if row.type == type
        }


def _read_text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def _list_folder(path: str) -> list[str]:
    return [str(entry) for entry in Path(path).iterdir()]


def load(
    environ: Mapping[str, str],
    *,
    read_file: Callable[[str], str] = _read_text,
    list_folder: Callable[[str], Iterable[str]] = _list_folder,
    need_core: bool = True,
) -> Settings:
    """Read everything that can be set. ``need_core=False`` is for programs that do not talk to a core.

    Raises ``SettingError`` (exit code 2) for a value or name that is not accepted and ``StartError`` (exit code 1) when
    host or token are missing.
    """
    reader = _Reader(environ, read_file, list_folder)
    reader.check_names()
    found: dict[str, Any] = {variable.field: reader.variable(variable) for variable in VARIABLES}
    found["extras"] = {(row.type, row.name): reader.extra(row) for row in EXTRAS}
    found["state_dir"] = found["record_dir"] = found["state_dir"] or None
    found["ready_file"] = found["ready_file"] or None
    found["core_address"] = found["core_address"] or NO_ADDRESS
    if found["core_address"].warning:
        reader.warnings.append(f"AUTHENTIK_HOST: {found['core_address'].warning}")
    settings = Settings(
        **found,
        tmpdir=environ.get("TMPDIR") or "/tmp",
        build_hash=environ.get("GIT_BUILD_HASH", ""),
        warnings=tuple(reader.warnings),
    )
    if need_core:
        missing = [
            name
            for name, value in (("AUTHENTIK_HOST", settings.host), ("AUTHENTIK_TOKEN", settings.token))
            if not value
        ]
        if missing:
            raise StartError(f"{' and '.join(missing)} not set\n\n{USAGE}")
    return settings


class _Reader:
    """One pass over environment and files."""

    def __init__(
        self,
        environ: Mapping[str, str],
        read_file: Callable[[str], str],
        list_folder: Callable[[str], Iterable[str]],
    ) -> None:
        self._environ = environ
        self._read_file = read_file
        self._list_folder = list_folder
        self.warnings: list[str] = []
        self._file_values = self._read_configuration_files()

    def check_names(self) -> None:
        """Refuse unknown names of ours. Unknown names of the core are shared by compose files: none of our business."""
        known = {variable.name for variable in VARIABLES} | {row.variable for row in EXTRAS} | set(EMBEDDED_CORE)
        known |= {variable.name + "_FILE" for variable in VARIABLES if variable.secret}
        for name in sorted(self._environ):
            if name.startswith("OUTPOSTS_") and name not in known:
                self._refuse_unknown(name, {item for item in known if item.startswith("OUTPOSTS_")})
        ours = self._file_values.get("outposts", {})
        if not isinstance(ours, Mapping):
            raise SettingError("outposts (configuration file)", "not a mapping", "keys below outposts:")
        paths = {variable.path for variable in VARIABLES} | {("outposts", row.type, row.name) for row in EXTRAS}
        for key, value in ours.items():
            group = any(len(path) > 2 and path[1] == key for path in paths)
            if group and isinstance(value, Mapping):
                for inner in value:
                    if ("outposts", key, inner) not in paths:
                        self._refuse_unknown(f"outposts.{key}.{inner}", {".".join(path) for path in paths})
            elif ("outposts", key) not in paths:
                self._refuse_unknown(f"outposts.{key}", {".".join(path) for path in paths})

    def _refuse_unknown(self, name: str, known: Iterable[str]) -> None:
        near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)
        raise SettingError(name, "there is no such setting", f"did you mean {near[0]}? (see docs/settings.md)")

    def variable(self, variable: Variable) -> Any:
        """The checked value of one row."""
        raw = self._raw(variable)
        if raw is None or raw == "" or raw == []:
            if not variable.default:
                return () if variable.kind.listed else ""
            raw = variable.default
        if variable.kind is LOG_LEVEL:
            level, known = values.log_level(raw)
            if not known:
                self.warnings.append(f"{variable.name}: unknown level, using debug; accepted: {LOG_LEVEL.accepted}")
            return level
        if variable.kind is NETWORKS:
            return self._networks(variable.name, raw)
        return self._parse(variable.name, variable.kind, raw, show=not variable.secret)

    def _networks(self, name: str, raw: object) -> tuple[Network, ...]:
        """The networks that can be read; others are warned about, because deployments that run must keep running."""
        good: list[Network] = []
        for item in self._parse(name, NETWORKS, raw, show=True):
            try:
                good.append(values.network(item))
            except ValueError:
                self.warnings.append(f"{name}: {item!r} is not a network and is skipped")
        return tuple(good)

    def _raw(self, variable: Variable) -> Any:
        text = self._environ.get(variable.name, "")
        if variable.secret:
            path = self._environ.get(variable.name + "_FILE", "")
            if path and text:
                raise SettingError(variable.name, f"{variable.name}_FILE is set too", "one of the two")
            if path:
                return self._secret_file(variable.name + "_FILE", path)
        if text:
            return self._resolve(text, variable.kind)
        return self._resolve(self._in_files(variable.path), variable.kind) if variable.in_files else None

    def extra(self, row: ExtraSetting) -> tuple[object, ...]:
        """What environment and files say about one row, most important first, every value checked."""
        found: list[object] = []
        text = self._environ.get(row.variable, "").strip()
        if text:
            value: object = self._resolve(text, row.kind)
            if isinstance(value, str) and value.startswith("{"):
                try:
                    value = json.loads(value)
                except ValueError:
                    raise SettingError(row.variable, "not a JSON object", "an object keyed by provider name") from None
            found.append(value)
        in_file = self._in_files(("outposts", row.type, row.name))
        if in_file not in (None, ""):
            found.append(in_file if isinstance(in_file, Mapping) else self._resolve(in_file, row.kind))
        for value in found:
            for single in value.values() if values.is_keyed(value, row.kind) else [value]:
                if single is not None:
                    self._parse(row.variable, row.kind, single, show=True)
        return tuple(found)

    def _parse(self, name: str, kind: Kind, raw: object, *, show: bool) -> Any:
        try:
            return kind.parse(raw)
        except (ValueError, OverflowError) as error:
            shown = f"{raw!r}" if show and "@" not in str(raw) else "the value"
            raise SettingError(name, f"{shown} is not accepted ({error})", kind.accepted) from None

    def _resolve(self, raw: object, kind: Kind) -> Any:
        """Follow ``env://`` and ``file://``, in every item of a list too."""
        if kind.listed and isinstance(raw, str | list) and not (isinstance(raw, str) and raw.startswith("{")):
            try:
                items = values.split_list(raw)
            except ValueError:
                return raw
            return [part for item in items for part in values.split_list(self._follow(item))]
        return self._follow(raw) if isinstance(raw, str) else raw

    def _follow(self, text: str) -> str:
        scheme, separator, rest = text.partition("://")
        if not separator or scheme not in ("env", "file"):
            return text
        target, _, fallback = rest.partition("?")
        if scheme == "env":
            return self._environ.get(target, fallback)
        try:
            return self._read_file(target).strip()
        except (OSError, UnicodeDecodeError):
            return fallback

    def _secret_file(self, name: str, path: str) -> str:
        try:
            content = self._read_file(path).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingError(
                name, f"cannot be read: {type(error).__name__}", "path of a readable text file"
            ) from None
        if not content:
            raise SettingError(name, "the file is empty", "path of a file that holds the value")
        return content

    def _in_files(self, path: tuple[str, ...]) -> Any:
        value: object = self._file_values
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def _read_configuration_files(self) -> dict[str, Any]:
        folder = PurePosixPath(self._environ.get("WORKSPACE_DIR") or ".")
        env = self._environ.get("AUTHENTIK_ENV") or "local"
        paths = [
            str(folder / "authentik/lib/default.yml"),
            "/etc/authentik/config.yml",
            str(folder / f"{env}.yml"),
            str(folder / f"{env}.env.yml"),
        ]
        try:
            paths += sorted(path for path in self._list_folder("/etc/authentik/config.d") if path.endswith(".yml"))
        except FileNotFoundError:
            pass
        except OSError as error:
            self.warnings.append(f"/etc/authentik/config.d: skipped, {type(error).__name__}")
        merged: dict[str, Any] = {}
        for path in paths:
            try:
                content = yaml.safe_load(self._read_file(path))
            except FileNotFoundError:
                continue
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                self.warnings.append(f"{path}: skipped, {type(error).__name__}")
                continue
            if isinstance(content, Mapping):
                _merge(merged, content)
            elif content is not None:
                self.warnings.append(f"{path}: skipped, not a mapping")
        return merged


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(key), dict):
            _merge(below[key], value)
        else:
            below[key] = dict(value) if isinstance(value, Mapping) else value


def markdown() -> str:
    """The page ``docs/settings.md``, written from the tables."""
    lines = [
        "# Settings",
        "",
        "Written from the tables in `common/setting_rows.py` by `outposts docs`; a test compares them.",
        "",
        "An empty value counts as unset. Later wins: defaults, `./authentik/lib/default.yml`,",
        "`/etc/authentik/config.yml`, `<env>.yml` and `<env>.env.yml` in the working directory,",
        "`/etc/authentik/config.d/*.yml`, environment. A value may be `env://NAME?fallback` (another variable) or",
        "`file:///path?fallback` (a file's content, trimmed), in the items of a list too. In files,",
        "`AUTHENTIK_LISTEN__LDAP` is `listen: {ldap: …}` and `OUTPOSTS_STATE_DIR` is `outposts: {state_dir: …}`.",
        "",
        "Exit codes: 0 stopped on request; 1 host or token missing, or a port that cannot be used; 2 a value that is",
        "not accepted, or an unknown `OUTPOSTS_…` name. Unknown `AUTHENTIK_…` names are ignored.",
        "",
        "## Process",
        "",
        "| variable | default | accepted | meaning |",
        "|---|---|---|---|",
    ]
    for variable in VARIABLES:
        meaning = variable.help + (f" Also as `{variable.name}_FILE`." if variable.secret else "")
        if not variable.in_files:
            meaning += " Environment only."
        default = f"`{variable.default}`" if variable.default else "–"
        lines.append(f"| `{variable.name}` | {default} | {variable.kind.accepted} | {meaning} |")
    lines += ["", "## Surroundings", "", "| variable | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in PLAIN_VARIABLES.items()]
    lines += ["", "## Embedded core", "", "Environment only.", "", "| variable | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in EMBEDDED_CORE.items()]
    for type in dict.fromkeys(row.type for row in EXTRAS):
        lines += [
            "",
            f"## {type.upper()}",
            "",
            f"In the outpost's `config` on the core as `x_{type}_<name>`, in the environment as",
            f"`OUTPOSTS_{type.upper()}__<NAME>`, in files as `outposts: {{{type}: {{<name>: …}}}}`; the first of these",
            "that has a value wins. A value may be an object keyed by provider name, `*` for the rest (JSON in the",
            "environment).",
            "",
            "| name | default | accepted | meaning |",
            "|---|---|---|---|",
        ]
        for row in EXTRAS:
            if row.type == type:
                lines.append(f"| `{row.name}` | {_shown(row)} | {row.kind.accepted} | {row.help} |")
    return "\n".join(lines) + "\n"


def _shown(row: ExtraSetting) -> str:
    value = row.default
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, tuple):
        text = ",".join(value)
    elif isinstance(value, float):
        text = f"{value:.15g}"  # no exponents: 2592000, and 0.5
    else:
        text = str(value)
    return f"`{text}`{' ' + row.unit if row.unit else ''}" if text else "–"
