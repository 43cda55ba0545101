"""Every form in which a setting may be written, what wins, and how a mistake is told."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import pytest

from common import logs, setting_rows, settings
from common.errors import SettingError, StartError
from common.settings import EXTRAS, VARIABLES, ListenAddress, Settings
from core import settings as core_settings

BASE = {"AUTHENTIK_HOST": "https://id.example.org", "AUTHENTIK_TOKEN": "t0ken"}


def load(
    environ: Mapping[str, str] | None = None, files: Mapping[str, str] | None = None, *, need_core: bool = True
) -> Settings:
    """Settings from an environment on top of ``BASE`` and from files in memory."""

    def read_file(path: str) -> str:
        if files is None or path not in files:
            raise FileNotFoundError(path)
        return files[path]

    def list_folder(path: str) -> list[str]:
        return [name for name in files or {} if name.startswith(path + "/")]

    return settings.load({**BASE, **(environ or {})}, read_file=read_file, list_folder=list_folder, need_core=need_core)


def test_defaults() -> None:
    """Without more than host and token everything has the established default."""
    found = load()
    assert found.host == "https://id.example.org"
    assert found.token == "t0ken"
    assert found.listen_ldap == (ListenAddress("::", 3389),)
    assert found.listen_ldaps == (ListenAddress("::", 6636),)
    assert found.listen_radius == (ListenAddress("::", 1812),)
    assert found.listen_http == (ListenAddress("::", 9000),)
    assert found.listen_https == (ListenAddress("::", 9443),)
    assert found.listen_metrics == (ListenAddress("::", 9300),)
    assert [str(network) for network in found.trusted_proxies] == [
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "fe80::/10",
        "::1/128",
    ]
    assert (found.insecure, found.debug, found.log_level, found.ldap_page_size) == (False, False, "info", 50)
    assert (found.web_read_header_timeout_s, found.web_idle_timeout_s) == (5.0, 120.0)
    assert (found.state_dir, found.ready_file, found.workers, found.tmpdir) == (None, None, 1, "/tmp")
    assert found.warnings == ()


@pytest.mark.parametrize("missing", [["AUTHENTIK_HOST"], ["AUTHENTIK_TOKEN"], ["AUTHENTIK_HOST", "AUTHENTIK_TOKEN"]])
def test_c01_host_or_token_missing(missing: list[str]) -> None:
    """Usage text naming what is missing, exit code 1; an empty value is a missing one."""
    with pytest.raises(StartError) as caught:
        load(dict.fromkeys(missing, ""))
    assert caught.value.exit_code == 1
    assert str(caught.value).startswith(" and ".join(missing) + " not set")
    assert "AUTHENTIK_HOST " in str(caught.value)
    assert load(dict.fromkeys(missing, ""), need_core=False).workers == 1


def test_c02_token_from_file_and_fallback() -> None:
    """``file://`` gives the trimmed content; without the file, the text after the question mark."""
    token = {"AUTHENTIK_TOKEN": "file:///run/t?x"}
    assert load(token, {"/run/t": "abc\n"}).token == "abc"
    assert load(token).token == "x"


@pytest.mark.parametrize("url", ["https://h/auth", "https://h/auth/", "https://h/auth//"])
def test_c03_sub_path_with_and_without_slash(url: str) -> None:
    """Both spellings are one base URL."""
    assert load({"AUTHENTIK_HOST": url}).host == "https://h/auth"


def test_c04_query_of_the_host() -> None:
    """The query is kept apart from the base."""
    found = load({"AUTHENTIK_HOST": "http://localhost:9000?foo=bar"})
    assert (found.host, found.host_query) == ("http://localhost:9000", "foo=bar")


@pytest.mark.parametrize("word", ["maybe", "2", "tru", "ja"])
def test_c05_bad_boolean(word: str) -> None:
    """Exit code 2, naming the variable and what is accepted."""
    with pytest.raises(SettingError, match=r"AUTHENTIK_DEBUG.*accepted: true, false") as caught:
        load({"AUTHENTIK_DEBUG": word})
    assert caught.value.exit_code == 2
    assert caught.value.name == "AUTHENTIK_DEBUG"


@pytest.mark.parametrize("word", ["1", "t", "T", "TRUE", "true", "True", "yes", "Yes", "on", "ON"])
def test_true_words(word: str) -> None:
    """Everything that Go and people call true."""
    assert load({"AUTHENTIK_INSECURE": word}).insecure is True


@pytest.mark.parametrize("word", ["0", "f", "F", "FALSE", "false", "False", "no", "off", ""])
def test_false_words(word: str) -> None:
    """Everything that Go and people call false; empty is unset."""
    assert load({"AUTHENTIK_INSECURE": word}).insecure is False


def test_c07_list_of_addresses() -> None:
    """A comma list, entries trimmed."""
    found = load({"AUTHENTIK_LISTEN__METRICS": "127.0.0.1:9300, [::1]:9300"})
    assert found.listen_metrics == (ListenAddress("127.0.0.1", 9300), ListenAddress("::1", 9300))


def test_c08_single_address_of_older_deployments() -> None:
    """The 2025.10 form is one address."""
    assert load({"AUTHENTIK_LISTEN__RADIUS": "0.0.0.0:1812"}).listen_radius == (ListenAddress("0.0.0.0", 1812),)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("[::]:389", ("::", 389)),
        (":389", ("::", 389)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost:65535", ("localhost", 65535)),
        ("[fe80::1]:1", ("fe80::1", 1)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    """Forms of an address, port 0 included."""
    assert load({"AUTHENTIK_LISTEN__LDAP": text}).listen_ldap == (ListenAddress(*address),)


@pytest.mark.parametrize("text", ["389", "127.0.0.1", "::1:389", "127.0.0.1:65536", "127.0.0.1:-1", "1.2.3:1", "[x]:1"])
def test_bad_addresses(text: str) -> None:
    """Exit code 2, naming the variable."""
    with pytest.raises(SettingError, match="AUTHENTIK_LISTEN__LDAP"):
        load({"AUTHENTIK_LISTEN__LDAP": text})


@pytest.mark.parametrize("url", ["id.example.org", "ftp://h", "https://", "https://h:x", "http://a b", "unix://"])
def test_bad_host(url: str) -> None:
    """What is no URL of a core is exit code 2."""
    with pytest.raises(SettingError, match="AUTHENTIK_HOST"):
        load({"AUTHENTIK_HOST": url})


def test_unix_socket_host() -> None:
    """A core on a unix socket is asked as localhost."""
    found = load({"AUTHENTIK_HOST": "unix:///run/core.sock?a=b"})
    assert (found.host, found.host_socket, found.host_query) == ("http://localhost", "/run/core.sock", "a=b")


def test_credentials_in_the_url_are_left_out_and_not_shown() -> None:
    """User name and password in the URL go nowhere."""
    found = load({"AUTHENTIK_HOST": "https://me:pw@h:1/x"})
    assert found.host == "https://h:1/x"
    assert len(found.warnings) == 1
    assert "pw" not in found.warnings[0] + repr(found)


def test_env_reference_and_fallback() -> None:
    """``env://`` gives another variable, else the text after the question mark."""
    reference = {"AUTHENTIK_LOG_LEVEL": "env://LEVEL?warning"}
    assert load({**reference, "LEVEL": "error"}).log_level == "error"
    assert load(reference).log_level == "warning"


def test_references_in_list_items() -> None:
    """In each item of a list, in environment and file; a referenced value may hold several."""
    found = load(
        {"AUTHENTIK_LISTEN__LDAP": "env://ONE, file:///two", "ONE": "127.0.0.1:1"},
        {
            "/two": "127.0.0.1:2,127.0.0.1:3\n",
            "/etc/authentik/config.yml": "listen: {ldaps: ['env://ONE', '127.0.0.1:9']}",
        },
    )
    assert [address.port for address in found.listen_ldap] == [1, 2, 3]
    assert [address.port for address in found.listen_ldaps] == [1, 9]


def test_secret_from_a_file_variable() -> None:
    """``AUTHENTIK_TOKEN_FILE`` alone is as good as the token."""
    assert load({"AUTHENTIK_TOKEN": "", "AUTHENTIK_TOKEN_FILE": "/t"}, {"/t": " abc \n"}).token == "abc"


@pytest.mark.parametrize("name", [variable.name for variable in VARIABLES if variable.secret])
def test_value_and_file_are_a_contradiction(name: str) -> None:
    """Both set is exit code 2, and the value is not shown."""
    with pytest.raises(SettingError, match=f"{name}_FILE") as caught:
        load({name: "s3cret", f"{name}_FILE": "/t"}, {"/t": "abc"})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("files", [{}, {"/t": " \n"}])
def test_secret_file_that_gives_nothing(files: dict[str, str]) -> None:
    """A missing or empty file is exit code 2 naming the variable."""
    with pytest.raises(SettingError, match="AUTHENTIK_TOKEN_FILE"):
        load({"AUTHENTIK_TOKEN": "", "AUTHENTIK_TOKEN_FILE": "/t"}, files)


def test_secrets_are_not_in_the_representation() -> None:
    """The token is masked."""
    assert "t0ken" not in repr(load())


def test_names_of_the_embedded_core_are_known() -> None:
    """A shared environment does not stop a daemon; the list is the embedded core's own."""
    ours = {name for name in setting_rows.EMBEDDED_CORE if name.startswith("OUTPOSTS_")}
    assert ours == {name for name in core_settings.NAMES if name.startswith(core_settings.PREFIX)}
    load(dict.fromkeys(setting_rows.EMBEDDED_CORE, "x"))
    with pytest.raises(SettingError, match="OUTPOSTS_CORE__LISTEN"):
        load({"OUTPOSTS_CORE__LISTN": "x"})


@pytest.mark.parametrize(("text", "level"), [("WARNING", "warning"), ("Trace", "trace"), ("loud", "debug")])
def test_log_level(text: str, level: str) -> None:
    """Any case; an unknown one is debug and a warning."""
    found = load({"AUTHENTIK_LOG_LEVEL": text})
    assert found.log_level == level
    assert bool(found.warnings) == (text == "loud")


def test_bad_networks_are_skipped_with_a_warning() -> None:
    """The others stay."""
    found = load({"AUTHENTIK_LISTEN__TRUSTED_PROXY_CIDRS": "10.0.0.0/8, nonsense, 10.1.2.3"})
    assert [str(network) for network in found.trusted_proxies] == ["10.0.0.0/8", "10.1.2.3/32"]
    assert len(found.warnings) == 1
    assert "nonsense" in found.warnings[0]


@pytest.mark.parametrize(
    ("text", "seconds"), [("7", 7), ("1m30s", 90), ("500ms", 0.5), ("2h", 7200), ("minutes=5;seconds=3", 303)]
)
def test_durations(text: str, seconds: float) -> None:
    """Go's form, the core's form and plain seconds."""
    assert load({"AUTHENTIK_WEB__TIMEOUT_HTTP_READ": text}).web_read_timeout_s == seconds


@pytest.mark.parametrize("text", ["5x", "s", "-1s", "fortnights=1", "5s!", "nan"])
def test_bad_durations(text: str) -> None:
    """Exit code 2."""
    with pytest.raises(SettingError, match="AUTHENTIK_WEB__TIMEOUT_HTTP_READ"):
        load({"AUTHENTIK_WEB__TIMEOUT_HTTP_READ": text})


def test_unknown_names() -> None:
    """The core's are ignored, ours are refused with the nearest name."""
    load({"AUTHENTIK_POSTGRESQL__HOST": "db"})
    with pytest.raises(SettingError, match="OUTPOSTS_STATE_DIR") as caught:
        load({"OUTPOSTS_STATEDIR": "/x"})
    assert caught.value.exit_code == 2
    with pytest.raises(SettingError, match="OUTPOSTS_LDAP__BIND_CACHE_MAX"):
        load({"OUTPOSTS_LDAP__BINDCACHE_MAX": "5"})


def test_workers() -> None:
    """A number, or ``auto``, which the daemon replaces by what the machine has."""
    assert load({"OUTPOSTS_WORKERS": "1"}).workers == 1
    assert load({"OUTPOSTS_WORKERS": "4"}).workers == 4
    assert load({"OUTPOSTS_WORKERS": " Auto "}).workers == 0
    for bad in ("0", "-1", "1.5", "many", "100000"):
        with pytest.raises(SettingError, match="or auto"):
            load({"OUTPOSTS_WORKERS": bad})


def test_file_order_and_environment_last() -> None:
    """Each file wins over the one before, the environment over all."""
    files = {
        "authentik/lib/default.yml": "{log_level: error, debug: true, listen: {ldap: [], ldaps: '127.0.0.1:1'}}",
        "/etc/authentik/config.yml": "{log_level: warning, listen: {ldap: ['127.0.0.1:2']}}",
        "local.yml": "listen: {ldap: ['127.0.0.1:3']}",
        "local.env.yml": "listen: {ldap: ['127.0.0.1:4']}",
        "/etc/authentik/config.d/10.yml": "listen: {ldap: ['127.0.0.1:5']}",
        "/etc/authentik/config.d/20.yml": "listen: {ldap: ['127.0.0.1:6']}",
        "/etc/authentik/config.d/30.txt": "listen: {ldap: ['127.0.0.1:7']}",
    }
    found = load({}, files)
    assert (found.log_level, found.debug) == ("warning", True)
    assert found.listen_ldap == (ListenAddress("127.0.0.1", 6),)
    assert found.listen_ldaps == (ListenAddress("127.0.0.1", 1),)
    assert load({"AUTHENTIK_LISTEN__LDAP": "127.0.0.1:8"}, files).listen_ldap[0].port == 8


def test_file_names_follow_the_environment() -> None:
    """``AUTHENTIK_ENV`` and ``WORKSPACE_DIR`` choose the files."""
    found = load({"AUTHENTIK_ENV": "prod", "WORKSPACE_DIR": "/w"}, {"/w/prod.yml": "debug: true"})
    assert found.debug is True


def test_host_and_token_are_environment_only() -> None:
    """A file cannot set them."""
    with pytest.raises(StartError):
        load({"AUTHENTIK_HOST": "", "AUTHENTIK_TOKEN": ""}, {"local.yml": "{host: 'https://h', token: t}"})


@pytest.mark.parametrize("content", ["a: [", "- 1", "\x00"])
def test_unusable_file_is_skipped_with_a_warning(content: str) -> None:
    """A damaged file stops nothing."""
    assert load({}, {"local.yml": content}).warnings[0].startswith("local.yml: skipped")


def test_our_settings_in_files() -> None:
    """Below ``outposts:``; an unknown key is refused like an unknown variable."""
    found = load({}, {"local.yml": "outposts: {state_dir: /s, ldap: {strict: true, bind_names: [dn, mail]}}"})
    assert found.state_dir == "/s"
    assert found.extra("ldap", "strict", {}) is True
    assert found.extra("ldap", "bind_names", {}) == ("dn", "mail")
    with pytest.raises(SettingError, match=r"outposts\.ldap\.strict"):
        load({}, {"local.yml": "outposts: {ldap: {stritc: true}}"})
    with pytest.raises(SettingError, match=r"outposts\.state_dir"):
        load({}, {"local.yml": "outposts: {state_dri: /s}"})


def test_extra_order() -> None:
    """Outpost config, environment, file, default."""
    environ = {"OUTPOSTS_LDAP__BIND_CACHE_MAX": "2m"}
    files = {"local.yml": "outposts: {ldap: {bind_cache_max: 60, offline_grace: 61}}"}
    found = load(environ, files)
    assert found.extra("ldap", "bind_cache_max", {"x_ldap_bind_cache_max": 7}) == 7.0
    assert found.extra("ldap", "bind_cache_max", {}) == 120.0
    assert found.extra("ldap", "offline_grace", {}) == 61.0
    assert found.extra("ldap", "bind_cache_mfa", {}) == 60.0


def test_extra_by_provider_name() -> None:
    """An object keyed by provider name; the star is the rest; without it the next source decides."""
    environ = {"OUTPOSTS_LDAP__STRICT": json.dumps({"a": True, "*": False}), "OUTPOSTS_LDAP__GID": '{"a": "hash"}'}
    found = load(environ)
    assert [found.extra("ldap", "strict", {}, name) for name in ("a", "b", "")] == [True, False, False]
    assert [found.extra("ldap", "gid", {}, name) for name in ("a", "b")] == ["hash", "reference"]
    config = {"x_ldap_strict": {"b": "yes"}}
    assert [found.extra("ldap", "strict", config, name) for name in ("a", "b")] == [True, True]


@pytest.mark.parametrize(
    "value",
    [
        "staff=20, guests=30",
        {"staff": 20, "guests": "30"},
        {"office": {"staff": 20, "guests": 30}, "home": "staff=9"},
        {"office": "staff=20, guests=30", "*": ""},
    ],
)
def test_vlans_for_all_providers_or_by_provider(value: Any) -> None:
    """An object of groups is a value; one of texts with ``=``, or of objects, is keyed by provider name."""
    wanted = (("staff", "20"), ("guests", "30"))
    assert load().extra("radius", "vlan_by_group", {"x_radius_vlan_by_group": value}, "office") == wanted
    text = value if isinstance(value, str) else json.dumps(value)
    assert load({"OUTPOSTS_RADIUS__VLAN_BY_GROUP": text}).extra("radius", "vlan_by_group", {}, "office") == wanted


@pytest.mark.parametrize("value", ["perhaps", [], 3.5, {"*": "perhaps"}, {"*": {}}, {"*": []}])
def test_bad_value_from_the_core_is_passed_over(value: Any) -> None:
    """Logged without its value, and the next source is used: a daemon does not stop for it."""
    stream = io.StringIO()
    logs.configure("info", stream=stream)
    try:
        found = load({"OUTPOSTS_LDAP__STRICT": "true"})
        assert found.extra("ldap", "strict", {"x_ldap_strict": value}, "a") is True
    finally:
        logs.configure("info")
    line = json.loads(stream.getvalue())
    assert (line["event"], line["setting"]) == ("setting ignored", "x_ldap_strict")


@pytest.mark.parametrize("value", ["perhaps", "{", '{"a": "perhaps"}'])
def test_bad_value_of_the_operator_stops_the_start(value: str) -> None:
    """In any provider's value."""
    with pytest.raises(SettingError, match="OUTPOSTS_LDAP__STRICT"):
        load({"OUTPOSTS_LDAP__STRICT": value})


def test_sizes() -> None:
    """Bytes with and without unit."""
    for text, size in (("65536", 65536), ("64KiB", 65536), ("1m", 1048576)):
        assert load({"OUTPOSTS_LDAP__MAX_MESSAGE_SIZE": text}).extra("ldap", "max_message_size", {}) == size
    with pytest.raises(SettingError):
        load({"OUTPOSTS_LDAP__MAX_MESSAGE_SIZE": "12 parsecs"})


def test_every_row_has_a_default_of_its_own_kind() -> None:
    """Defaults pass their own check, and all extras of a type come in one call."""
    for row in EXTRAS:
        assert row.kind.parse(row.default) == row.default
    assert set(load().extras_of("ldap", {})) == {row.name for row in EXTRAS if row.type == "ldap"}


def test_every_row_is_documented() -> None:
    """The page names each row, with its default."""
    page = settings.markdown()
    for variable in VARIABLES:
        assert f"| `{variable.name}` |" in page
    for row in EXTRAS:
        assert f"| `{row.name}` |" in page
