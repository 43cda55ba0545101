"""URLs of the core, byte for byte: C03, C04, C32, C34."""

from __future__ import annotations

import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import endpoint, setting_values
from tests.common.core_server import Address


def where(url: str) -> endpoint.Endpoint:
    """An endpoint from what an operator writes, through the settings' own parser."""
    parsed = setting_values.core_address(url)
    return endpoint.endpoint(Address(parsed.base, host_query=parsed.query, host_socket=parsed.socket))


@pytest.mark.parametrize("url", ["https://h/auth", "https://h/auth/"])
def test_c03_sub_path_with_and_without_slash(url: str) -> None:
    """C03: the same API base and WebSocket in both."""
    core = where(url)
    assert core.url(endpoint.api_target("/core/users/me/")) == "https://h/auth/api/v3/core/users/me/"
    assert core.websocket_url("pk", "id", 0) == "wss://h/auth/ws/outpost/pk/?attempt=0&instance_uuid=id"


def test_c04_query_of_the_base_url() -> None:
    """C04: it goes to the WebSocket, and only there."""
    core = where("http://localhost:9000?foo=bar")
    assert core.websocket_url("pk", "id", 0) == (
        "ws://localhost:9000/ws/outpost/pk/?attempt=0&foo=bar&instance_uuid=id"
    )
    assert core.url(endpoint.api_target("/root/config/")) == "http://localhost:9000/api/v3/root/config/"


def test_unix_socket() -> None:
    """The HTTP host is ``localhost``; the path is the socket's."""
    core = where("unix:///run/core.sock")
    assert core.socket_path == "/run/core.sock"
    assert core.url("/api/v3/x/") == "http://localhost/api/v3/x/"


def test_c32_flow_query() -> None:
    """C32: escaped twice, upper-case hex."""
    assert endpoint.executor_target("f", "radius") == (
        "/api/v3/flows/executor/f/?query=goauthentik.io%252Foutpost%252Fradius%3Dtrue"
    )
    assert endpoint.executor_target("f", "ldap", warm_up=True) == (
        "/api/v3/flows/executor/f/?query=goauthentik.io%252Foutpost%252Fldap%3Dtrue"
        "%26goauthentik.io%252Foutpost%252Fldap-warmup%3Dtrue"
    )


@pytest.mark.parametrize(
    ("given_address", "sent"),
    [
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("10.1.2.3", "10.1.2.3"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("2001:DB8:0::7", "2001:db8::7"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_c34_bare_addresses(given_address: str, sent: str) -> None:
    """C34: IPv4 unmapped, no brackets, no zone."""
    headers = dict(endpoint.delegation_headers("t", given_address))
    assert headers["X-authentik-remote-ip"] == sent


@pytest.mark.parametrize("wrong", ["", "192.0.2.1:4711", "host", "1.2.3", "10.1.2.3\r\nX: y"])
def test_what_is_no_address(wrong: str) -> None:
    """Refused before anything is sent."""
    with pytest.raises(ValueError):
        endpoint.delegation_headers("t", wrong)


def test_certificate_header() -> None:
    """Form-encoded, one line."""
    headers = dict(endpoint.delegation_headers("t", "::1", "-----BEGIN CERTIFICATE-----\nAA+/=\n"))
    value = headers["X-Authentik-Outpost-Certificate"]
    assert "\n" not in value
    assert urllib.parse.unquote_plus(value) == "-----BEGIN CERTIFICATE-----\nAA+/=\n"


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/auth/api/v3/x/?a=%2F", "/api/v3/x/?a=%2F"),
        ("https://h/auth/api/v3/x/", "/api/v3/x/"),
        ("https://H/auth/api/v3/x/", "/api/v3/x/"),
        ("http://h/auth/api/v3/x/", None),
        ("https://other/auth/api/v3/x/", None),
        ("//other/auth/api/v3/x/", None),
        ("/api/v3/x/", None),
        ("/authority/api/v3/", None),
        ("", None),
        ("x/", None),
        ("https://[bad/auth/", None),
        ("/auth/api/v3/x/\r\nSet-Cookie: a=b", None),
        ("/auth/api v3", None),
    ],
)
def test_redirect_targets(location: str, target: str | None) -> None:
    """Only this core's own URLs are followed."""
    assert where("https://h/auth").own_target(location) == target


@given(slug=st.text(min_size=1), application=st.text())
def test_nothing_escapes_its_place(slug: str, application: str) -> None:
    """Whatever stands in a record, it stays one path segment or one value."""
    path = endpoint.executor_path(slug.encode("utf-8", "replace").decode())
    assert path.startswith("/api/v3/flows/executor/")
    assert path.count("/") == 6
    target = endpoint.check_access_target("ldap", 1, application.encode("utf-8", "replace").decode())
    assert urllib.parse.parse_qs(urllib.parse.urlsplit(target).query, keep_blank_values=True).keys() == {"app_slug"}
