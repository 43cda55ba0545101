"""``outposts/proxy/dialects.py``: the table, and who speaks what; the questions themselves are in ``test_decision``."""

from __future__ import annotations

import pytest

from outposts.proxy.dialects import SPOKEN, TABLE, Dialect, Refusal, by_path
from outposts.proxy.urls import Host
from tests.proxy.site import P, asked, request


def test_every_server_speaks_a_dialect() -> None:
    """HAProxy and Apache have nothing of their own."""
    assert set(SPOKEN.values()) == {dialect.name for dialect in TABLE}
    assert SPOKEN["haproxy"] == SPOKEN["apache"] == "nginx"


@pytest.mark.parametrize("dialect", TABLE, ids=lambda dialect: dialect.name)
def test_rows(dialect: Dialect) -> None:
    """Each is found by its own path, and by nothing near it unless the original path follows it."""
    found = by_path(f"{P}/auth/{dialect.name}")
    assert found is dialect
    below = by_path(f"{P}/auth/{dialect.name}/x")
    assert (below is dialect) == found.below
    for near in (f"{P}/auth/{found.name}x", f"/x{P}/auth/{found.name}", f"{P}/auth/{found.name.upper()}", f"{P}/auth"):
        assert by_path(near) is None


def test_only_nginx_needs_401() -> None:
    """The others pass a redirect on."""
    assert {row.name: row.refusal for row in TABLE} == {
        "nginx": Refusal.UNAUTHORIZED,
        "traefik": Refusal.REDIRECT,
        "caddy": Refusal.REDIRECT,
        "envoy": Refusal.REDIRECT,
    }


@pytest.mark.parametrize("dialect", TABLE, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("target", ["/", "/a?x=1&y=%zz", "/a//b/../c;d?", "/\u00c3\u00a9", "/%2e%2e/"])
def test_original_urls_stay_raw(dialect: Dialect, target: str) -> None:
    """Path and query as the browser sent them."""
    one = asked(dialect.name, target)
    url = dialect.original(one, Host("app.example.com"), "https")
    assert url is not None
    assert (url.scheme, str(url.host), url.target) == ("https", "app.example.com", target)


def test_scheme_and_port_of_a_bare_target() -> None:
    """The scheme's own port is none, as in URLs."""
    row = by_path(f"{P}/auth/nginx")
    assert row is not None
    one = request(row.path, {"X-Original-URI": "/a", "X-Forwarded-Proto": "nonsense"})
    hosts = {Host("h", 443): "h", Host("h", 8443): "h:8443", Host("::1"): "[::1]"}
    for host, shown in hosts.items():
        assert str(row.original(one, host, "https")) == f"https://{shown}/a"
