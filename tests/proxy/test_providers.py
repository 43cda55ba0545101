"""``outposts/proxy/providers.py``: record and settings as one, hosts to providers, mistakes that are survived."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.records import Page
from common.records import ProxyProvider as Record
from common.settings import load
from common.tls import CertificatePair
from outposts.proxy.cookies import SameSite
from outposts.proxy.providers import Miss, Mode, ProviderError, Providers, ProxyProvider, resolve, resolve_all
from outposts.proxy.urls import Host
from tests.proxy.site import ALL, DEFAULTS, D, P, S, X, provider, record, table

RECORDINGS = Path(__file__).parent.parent / "data" / "recordings"


def name_of(found: ProxyProvider | Miss) -> str:
    """Which one, or why none."""
    return found if isinstance(found, Miss) else found.name


def test_all_of_a_record() -> None:
    """What the core says, made ready for requests."""
    pair = CertificatePair("uuid", "fingerprint", "certificate")
    one = record(
        7,
        "full",
        "cid-proxy",
        "https://Proxy.example.com:8443/app/",
        mode="proxy",
        internal_host="http://Up:8080/base/",
        internal_host_ssl_validation=False,
        basic_auth_enabled=True,
        basic_auth_user_attribute="u",
        basic_auth_password_attribute="p",
        intercept_header_auth=False,
        cookie_domain=".Example.com",
        scopes_to_request=["profile", "email", "openid"],
    )
    found, wrong = resolve(one, pair, DEFAULTS, outpost="o", version="v")
    assert wrong == []
    assert (found.pk, found.name, found.mode, found.certificate) == (7, "full", Mode.PROXY, pair)
    assert found.external.host == Host("proxy.example.com", 8443)
    assert found.base == "/app"
    assert found.redirect_uri == f"https://Proxy.example.com:8443/app{P}/callback?X-authentik-auth-callback=true"
    assert found.start_url == f"https://Proxy.example.com:8443/app{P}/start"
    assert found.upstream is not None
    assert (found.upstream.origin, found.upstream.path, found.upstream.verify) == ("http://up:8080", "/base", False)
    assert found.scopes == ("email", "openid", "profile")
    assert (found.cookie.name, found.cookie.domain, found.cookie.secure) == (
        "authentik_proxy_115fa190", "example.com", True,
    )  # fmt: skip
    assert (found.options.basic_auth, found.options.basic_user_attribute, found.options.basic_password_attribute) == (
        True, "u", "p",
    )  # fmt: skip
    assert (found.options.outpost, found.options.provider, found.options.application) == ("o", "full", "app-7")
    assert (found.intercept, found.validity_s, found.forward) == (False, 3600.0, False)
    assert found.anonymous.names == frozenset(name for name in found.anonymous.names if name.startswith("x-authentik-"))
    for secret in ("client-secret", "B8E9ZFO"):
        assert secret not in repr(found)


@pytest.mark.parametrize(
    "host", ["https://app.example.com", "https://app.example.com/", "http://h:9000", "https://h/a/b"]
)
def test_w09_redirect_uri_is_the_cores(host: str) -> None:
    """The core joins the external host as a URL: the last segment is replaced."""
    base = host.rpartition("/")[0] if host.count("/") > 2 else host
    assert provider(record(1, "x", "cid", host, mode="forward_single")).redirect_uri == (
        f"{base}{P}/callback?X-authentik-auth-callback=true"
    )


@pytest.mark.parametrize(
    "rest",
    [
        {"external_host": "app.example.com"},
        {"external_host": ""},
        {"external_host": "ftp://app.example.com"},
        {"external_host": "https://a b"},
        {"client_id": ""},
        {"client_secret": ""},
        {"cookie_secret": ""},
        {"mode": "sideways"},
        {"mode": "proxy", "internal_host": ""},
        {"mode": "proxy", "internal_host": None},
        {"mode": "proxy", "internal_host": "up:8080"},
    ],
)
def test_records_that_cannot_be_served(rest: dict[str, Any]) -> None:
    """The error names the provider; the others are served, and who was served before still is."""
    broken = msgspec.structs.replace(S, **rest)
    with pytest.raises(ProviderError, match="'S'"):
        provider(broken)
    found, wrong = resolve_all([broken, X], lambda _: None, lambda _: DEFAULTS)
    assert [one.name for one in found] == ["X"]
    assert len(wrong) == 1
    kept, wrong = resolve_all([broken, X], lambda _: None, lambda _: DEFAULTS, former=ALL)
    assert kept.by_pk[1] is ALL.by_pk[1]
    assert len(wrong) == 1


@pytest.mark.parametrize(
    ("rest", "settings", "count"),
    [
        ({}, {}, 0),
        ({"cookie_domain": "a b"}, {}, 1),
        ({"cookie_domain": "other.org"}, {}, 1),
        ({"mode": "forward_domain"}, {}, 1),
        ({"skip_path_regex": "(\n^/x\n[a"}, {}, 2),
        ({}, {"required_groups": ("x",)}, 1),
        ({}, {"hosts": ("a b", "ok.example.com")}, 1),
        ({"external_host": "http://app.example.com"}, {"cookie_prefix": "host"}, 1),
        ({"cookie_domain": "example.com"}, {"cookie_prefix": "host"}, 1),
    ],
)
def test_what_is_wrong_is_said(rest: dict[str, Any], settings: dict[str, Any], count: int) -> None:
    """One line each, with the provider's name; it is served all the same."""
    _, wrong = resolve(msgspec.structs.replace(S, **rest), None, DEFAULTS | settings)
    assert len(wrong) == count
    assert all("'S'" in line for line in wrong)


def test_cookie_settings() -> None:
    """As asked for, as far as browsers keep them."""
    host = provider(S, cookie_prefix="host", cookie_same_site="none", cookie_partitioned=True).cookie
    assert (host.prefix, host.same_site, host.partitioned) == ("__Host-", SameSite.NONE, True)
    assert host.name == "__Host-authentik_proxy_c25d3005"
    assert provider(D, cookie_prefix="host").cookie.prefix == "__Secure-"
    plain = provider(msgspec.structs.replace(S, external_host="http://app.example.com"), cookie_same_site="none").cookie
    assert (plain.secure, plain.same_site, plain.prefix) == (False, SameSite.LAX, "")


def test_settings_of_one_provider_by_name() -> None:
    """``x_proxy_…`` as an object keyed by provider name, through the real settings."""
    settings = load(
        {"AUTHENTIK_HOST": "http://127.0.0.1", "AUTHENTIK_TOKEN": "t", "OUTPOSTS_PROXY__SESSION_IDLE": "20m"}
    )
    config = {
        "x_proxy_skip_networks": {"S": "10.0.0.0/8, fd00::/8"},
        "x_proxy_required_groups": {"S": ["/admin=admins"], "*": []},
        "x_proxy_hosts": {"D": "alias.org"},
    }
    found, wrong = resolve_all(
        [S, D], lambda _: None, lambda one: settings.extras_of("proxy", config, one.name), outpost="o"
    )
    assert wrong == []
    assert [str(network) for network in found.by_pk[1].rules.networks] == ["10.0.0.0/8", "fd00::/8"]
    assert [len(one.rules.groups) for one in found] == [1, 0]
    assert found.by_pk[1].idle_s == 1200.0
    assert name_of(found.find("alias.org", "/")) == "D"


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("app.example.com", "S"),
        ("APP.example.com:443", "S"),
        ("app.example.com:8443", "S"),
        ("auth.example.com", "D"),
        ("proxy.example.com.", "X"),
        ("example.com", "D"),
        ("a.b.example.com:1", "D"),
        ("evilexample.com", Miss.UNKNOWN),
        ("", Miss.BAD_HOST),
        ("a b", Miss.BAD_HOST),
    ],
)
def test_hosts(host: str, name: str) -> None:
    """External hosts first, then the domain."""
    assert name_of(ALL.find(host, "/")) == name
    assert name_of(ALL.find(host, "/")) == name  # remembered


def test_w53_longest_domain_then_order() -> None:
    """The longer domain wins; of two equal ones, and of two equal hosts, the later in the core's list."""

    def at(pk: int, name: str, host: str, **rest: Any) -> Record:
        return record(pk, name, f"cid-{pk}", host, mode="forward_domain" if rest else "forward_single", **rest)

    providers, wrong = resolve_all(
        [
            at(1, "wide", "https://wide.org", cookie_domain="example.com"),
            at(2, "deep", "https://deep.org", cookie_domain="a.example.com"),
            at(3, "wide too", "https://wide2.org", cookie_domain="example.com"),
            at(4, "one", "https://same.org"),
            at(5, "two", "https://SAME.org:443"),
            at(6, "ports", "https://many.org:1"),
            at(7, "ports too", "https://many.org:2"),
            at(8, "no port", "https://many.org"),
        ],
        lambda _: None,
        lambda _: DEFAULTS,
    )
    for host, name in (
        ("x.a.example.com", "deep"),
        ("b.example.com", "wide too"),
        ("wide.org", "wide"),
        ("same.org", "two"),
        ("many.org:1", "ports"),
        ("many.org:2", "ports too"),
        ("many.org:3", Miss.UNKNOWN),
        ("many.org", "no port"),
        ("many.org:443", "no port"),
    ):
        assert name_of(providers.find(host, "/")) == name
    assert sum("cannot be reached" in line for line in wrong) == 1


def test_one_provider_takes_every_host() -> None:
    """But only what is a host."""
    alone = table(S)
    assert name_of(alone.find("anything.org", "/")) == "S"
    assert name_of(alone.find("a b", "/")) == Miss.BAD_HOST
    assert name_of(Providers().find("a.org", "/")) == Miss.UNKNOWN


def test_paths_below_one_host() -> None:
    """The longest in front; where none is, nobody."""
    providers = table(
        record(1, "a", "c1", "https://h.org/a/", mode="forward_single"),
        record(2, "ab", "c2", "https://h.org/a/b/", mode="forward_single"),
        record(3, "x", "c3", "https://x.org", mode="forward_single"),
    )
    for path, name in (("/a/b/c", "ab"), ("/a/b", "ab"), ("/a/bc", "a"), ("/a", "a"), ("/b", Miss.NO_PATH)):
        assert name_of(providers.find("h.org", path)) == name
    assert providers.by_pk[1].own_path(f"/a{P}/callback") == "/callback"
    assert providers.by_pk[1].own_path(f"{P}/callback") == "/callback"
    assert providers.by_pk[1].own_path(f"/b{P}/callback") is None
    assert providers.by_pk[1].own_path(f"{P}x") is None


def test_same_cookie_name_is_said() -> None:
    """Two providers with one client id would share a cookie."""
    _, wrong = resolve_all([S, msgspec.structs.replace(X, client_id="cid-single")], lambda _: None, lambda _: DEFAULTS)
    assert sum("same cookie name" in line for line in wrong) == 1


def test_the_memo_of_hosts_is_bounded() -> None:
    """Clients choose what they send."""
    for number in range(5000):
        ALL.find(f"h{number}.example.com", "/")
    assert len(ALL._memo) <= 4096
    assert name_of(ALL.find("app.example.com", "/")) == "S"


def test_recorded_providers() -> None:
    """Those of a real core can all be served."""
    recording = json.loads((RECORDINGS / "api" / "outposts_proxy.json").read_text())
    answer = recording["exchanges"][0]["response"]["json"]
    records = msgspec.convert(answer, Page[Record]).results
    found, wrong = resolve_all(records, lambda _: None, lambda _: DEFAULTS)
    assert len(found) == len(records) >= 4
    assert wrong == []
    assert {one.mode for one in found} == set(Mode)
    for one in found:
        assert one.oidc["issuer"]
        assert one.scopes == ("ak_proxy", "email", "entitlements", "openid", "profile")
