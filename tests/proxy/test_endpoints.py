"""``outposts/proxy/endpoints.py``: which host a browser, and which we, reach the core by (proxy.md §1.3)."""

from __future__ import annotations

from typing import Any

import pytest

from outposts.proxy.endpoints import Endpoints, at, authorize_url, endpoints, origin
from outposts.proxy.state import LoginState

INSIDE = "http://core.internal:9000"
PUBLIC = "https://id.example.org"


def oidc(base: str = INSIDE) -> dict[str, Any]:
    """A configuration as the core lists it to who asks it at ``base``."""
    return {
        "issuer": f"{base}/application/o/app/",
        "authorization_endpoint": f"{base}/application/o/authorize/",
        "token_endpoint": f"{base}/application/o/token/",
        "introspection_endpoint": f"{base}/application/o/introspect/",
        "end_session_endpoint": f"{base}/application/o/app/end-session/",
        "jwks_uri": f"{base}/application/o/app/jwks/",
        "id_token_signing_alg_values_supported": ["HS256", "none", "XX999", 7],
    }


def test_standalone() -> None:
    """Everything as received."""
    found = endpoints(oidc())
    assert found.authorize == f"{INSIDE}/application/o/authorize/"
    assert found.end_session == f"{INSIDE}/application/o/app/end-session/"
    assert found.issuers == (f"{INSIDE}/application/o/app/",)
    assert (found.host, found.scheme, found.forwarded) == ("", "", [])
    assert found.algorithms == {"HS256"}


def test_standalone_with_a_host_for_browsers() -> None:
    """Browsers are sent to the public host; we call the inner one, in the public one's name."""
    found = endpoints(oidc(), host_browser=f"{PUBLIC}/ignored/path?x")
    assert found.authorize == f"{PUBLIC}/application/o/authorize/"
    assert found.end_session == f"{PUBLIC}/application/o/app/end-session/"
    assert found.issuers[0] == f"{PUBLIC}/application/o/app/"
    assert found.jwks == f"{INSIDE}/application/o/app/jwks/"
    assert found.token == f"{INSIDE}/application/o/token/"
    assert found.introspection == f"{INSIDE}/application/o/introspect/"
    assert found.forwarded == [("Host", "id.example.org"), ("X-Forwarded-Proto", "https")]


def test_standalone_with_the_core_s_own_name() -> None:
    """Tokens then name the issuer by the host that the core was asked by; both names are the core's."""
    found = endpoints(oidc(), authentik_host=PUBLIC)
    assert found.authorize == f"{INSIDE}/application/o/authorize/"
    assert found.issuers == (f"{INSIDE}/application/o/app/", f"{PUBLIC}/application/o/app/")
    assert found.forwarded == [("Host", "id.example.org"), ("X-Forwarded-Proto", "https")]


def test_host_for_browsers_wins() -> None:
    """Over the name in the outpost's configuration."""
    found = endpoints(oidc(), host_browser=PUBLIC, authentik_host="https://other.example.org")
    assert found.forwarded[0] == ("Host", "id.example.org")
    assert f"{PUBLIC}/application/o/app/" in found.issuers


def test_same_host_is_not_overridden() -> None:
    """Case and a path make no difference."""
    assert endpoints(oidc(PUBLIC), authentik_host="https://ID.example.org/sub/").forwarded == []


def test_embedded() -> None:
    """The core's own outpost: its records hold local addresses, browsers and keys use the configured name."""
    found = endpoints(oidc(), authentik_host=PUBLIC, embedded=True)
    assert found.authorize == f"{PUBLIC}/application/o/authorize/"
    assert found.jwks == f"{PUBLIC}/application/o/app/jwks/"
    assert found.token == f"{INSIDE}/application/o/token/"
    assert found.issuers[0] == f"{PUBLIC}/application/o/app/"
    assert found.forwarded == [("Host", "id.example.org"), ("X-Forwarded-Proto", "https")]


@pytest.mark.parametrize(
    "bad",
    [
        "", "id.example.org", "//id.example.org", "ftp://id.example.org/", "javascript:alert(1)", "http://", "https://:1/",
        "https://user:pw@id.example.org/", "https://id.example.org:99999/", "https://id.example.org:0/",
        "https://id.example.org/\r\nX: y", "https://id.example.org/ x", "https://ïd.example.org/", "https://[::1/",
        "https://" + "a" * 3000, None, 7, ["https://id.example.org/"],
    ],
)  # fmt: skip
def test_what_is_no_address(bad: Any) -> None:
    """Counts as absent, wherever it stands."""
    found = endpoints(dict.fromkeys(oidc(), bad), host_browser=bad if isinstance(bad, str) else "")
    assert found == Endpoints()
    if isinstance(bad, str):
        assert origin(bad) is None
        good = endpoints(oidc(), host_browser=bad, authentik_host=bad)
        assert good == endpoints(oidc())


def test_exchange_of_hosts() -> None:
    """Paths and queries stay, fragments go."""
    assert at("http://a:1/x%2Fy/?q=1#f", ("https", "b")) == "https://b/x%2Fy/?q=1"
    assert at("", ("https", "b")) == ""
    assert at("http://a/x", None) == "http://a/x"


def test_authorize_endpoint_with_a_query() -> None:
    """It stays (RFC 6749 §3.1); without scopes there is no such parameter."""
    where = Endpoints(authorize="https://id/authorize?tenant=1")
    url = authorize_url(where, "c", "https://app/cb?x=1", [], LoginState(b"s" * 32, 1, b""), "sealed")
    assert url.startswith("https://id/authorize?tenant=1&client_id=c&redirect_uri=https%3A%2F%2Fapp%2Fcb%3Fx%3D1&")
    assert "scope=" not in url
