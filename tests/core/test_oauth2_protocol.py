"""Rules of OAuth2 without storage: PKCE, redirect URIs, client credentials, parameters."""

from __future__ import annotations

import base64

import pytest

from core.oauth2 import protocol
from core.oauth2.protocol import Authorization, OAuthError, RedirectURI

# RFC 7636 appendix B, https://www.rfc-editor.org/rfc/rfc7636#appendix-B
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_pkce_vector() -> None:
    """The example of the RFC; plain compares the verifier itself."""
    assert protocol.verifier_matches(VERIFIER, CHALLENGE, "S256")
    assert protocol.verifier_matches(VERIFIER, VERIFIER, "plain")
    assert not protocol.verifier_matches(VERIFIER, VERIFIER, "S256")
    assert not protocol.verifier_matches(VERIFIER, CHALLENGE, "plain")
    assert not protocol.verifier_matches(VERIFIER, CHALLENGE, "s256")


@pytest.mark.parametrize("verifier", ["", "a" * 42, "a" * 129, VERIFIER[:-1] + "=", VERIFIER + "\n", "ä" * 43])
def test_verifiers_of_another_form_never_match(verifier: str) -> None:
    """43 to 128 unreserved characters, nothing else."""
    assert not protocol.verifier_matches(verifier, verifier, "plain")
    assert not protocol.challenge_acceptable(verifier, "S256")


@pytest.mark.parametrize(
    ("host", "callback", "start"),
    [
        ("http://h", "http://h/outpost.goauthentik.io/callback", "http://h"),
        ("http://h:9080/", "http://h:9080/outpost.goauthentik.io/callback", "http://h:9080/"),
        ("https://h/a/", "https://h/a/outpost.goauthentik.io/callback", "https://h/a/"),
        ("https://h/a", "https://h/outpost.goauthentik.io/callback", "https://h/a"),
    ],
)
def test_redirect_uris_of_proxies(host: str, callback: str, start: str) -> None:
    """The callback takes the place of the path's last part; no slash is added to the host."""
    query = "?X-authentik-auth-callback=true"
    assert [item.url for item in protocol.proxy_redirect_uris(host)] == [callback + query, start + query]
    assert all(item.mode == "strict" for item in protocol.proxy_redirect_uris(host))


@pytest.mark.parametrize(
    ("mode", "url", "given", "matches"),
    [
        ("strict", "https://a/cb", "https://a/cb", True),
        ("strict", "https://a/cb", "https://a/cb/", False),
        ("strict", "https://a/cb", "https://A/cb", False),
        ("strict", "https://a/.*", "https://a/x", False),
        ("regex", r"https://a/\w+", "https://a/x", True),
        ("regex", r"https://a/\w+", "https://a/x/y", False),
        ("regex", r"https://a/\w+", "https://evil/?https://a/x", False),
        ("regex", r"https://a/\w+", "https://a/x\n", False),
        ("regex", "(", "(", False),
        ("other", "https://a/cb", "https://a/cb", False),
    ],
)
def test_matching(mode: str, url: str, given: str, matches: bool) -> None:
    """Octets must be equal, or the whole must match."""
    assert RedirectURI(url, mode).matches(given) is matches


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x", "vbscript:x", "//host/cb", "/cb", "", "cb",
        "https:///cb", "http:cb", "https://h/cb#f", "https://h/cb#", " https://h/", "https://h/\ncb", "https://h\\cb",
        "https://[::1/cb",
    ],
)  # fmt: skip
def test_addresses_that_no_browser_is_sent_to(url: str) -> None:
    """Scripts, addresses without host, fragments, and what browsers read differently."""
    assert not protocol.redirectable(url)


@pytest.mark.parametrize("url", ["https://h/cb?x=1", "http://127.0.0.1:5000/", "com.example.app:/cb", "https://[::1]/"])
def test_addresses_that_a_browser_may_be_sent_to(url: str) -> None:
    """Web addresses, and those of apps on the same device (RFC 8252 §7.1)."""
    assert protocol.redirectable(url)


def test_parameters_are_added_to_what_is_there() -> None:
    """With ``&`` after a query, as a fragment where asked for."""
    assert protocol.with_parameters("https://h/cb?a=b", {"code": "x y"}) == "https://h/cb?a=b&code=x+y"
    assert protocol.with_parameters("https://h/cb", {"code": "x"}) == "https://h/cb?code=x"
    assert protocol.with_parameters("https://h/cb?a=b", {"code": "x"}, fragment=True) == "https://h/cb?a=b#code=x"


def basic(text: str) -> str:
    """A Basic header."""
    return "Basic " + base64.b64encode(text.encode()).decode()


def test_client_credentials() -> None:
    """From the form or the header, whose parts are form-encoded (RFC 6749 §2.3.1)."""
    given = protocol.credentials("", {"client_id": "c", "client_secret": "s"})
    assert (given.client_id, given.secret) == ("c", "s")
    given = protocol.credentials(basic("c%3A1:s%25+x"), {})
    assert (given.client_id, given.secret) == ("c:1", "s% x")
    assert protocol.credentials(basic("c:s"), {"client_id": "c"}).secret == "s"
    assert protocol.credentials("", {"client_id": "c"}).secret is None
    assert "s" not in repr(given).replace("secret", "").replace("client_id", "").replace("Credentials", "")


@pytest.mark.parametrize(
    ("header", "parameters"),
    [
        ("", {}),
        ("Basic !!!", {"client_id": "c"}),
        ("Basic " + base64.b64encode(b"\xff:\xff").decode(), {}),
        (basic("no colon"), {}),
        (basic("c:s"), {"client_id": "other"}),
        (basic("c:s"), {"client_id": "c", "client_secret": "s"}),
        (basic(":s"), {}),
    ],
)
def test_client_credentials_that_are_refused(header: str, parameters: dict[str, str]) -> None:
    """Unreadable, contradictory, or given twice."""
    with pytest.raises(OAuthError, match="invalid_client"):
        protocol.credentials(header, parameters)


def test_forms() -> None:
    """Empty parameters count as absent; one that is there twice, or too long, refuses the whole."""
    kind = "application/x-www-form-urlencoded; charset=utf-8"
    assert protocol.form(b"a=1&b=", kind) == {"a": "1"}
    for body, content_type in (
        (b"a=1&a=2", kind),
        (b"a=%ff", kind),
        (b"a=%00", kind),
        (b"a=" + b"x" * (protocol.MAX_PARAMETER + 1), kind),
        (b"\xff", kind),
        (b"a=1", "application/json"),
        (b"a=1", ""),
    ):
        with pytest.raises(OAuthError, match="invalid_request"):
            protocol.form(body, content_type)


def test_the_base_is_host_and_forwarded_scheme() -> None:
    """The first of several schemes counts; what is no host is refused."""
    assert protocol.base_url("h:9000", "", secure=False) == "http://h:9000"
    assert protocol.base_url("h", "", secure=True) == "https://h"
    assert protocol.base_url("h", "https, http", secure=False) == "https://h"
    assert protocol.base_url("[::1]:80", "http", secure=True) == "http://[::1]:80"
    assert protocol.base_url("h", "gopher", secure=False) == "http://h"
    for host in ("", "h/x", "h@x", 'h"', "h h", "h:port", "h:123456"):
        assert protocol.base_url(host, "", secure=False) is None, host


def test_an_authorization_waits_as_json() -> None:
    """Written and read again; anything else is not one."""
    asked = Authorization("c", "https://h/cb", ("openid", "email"), state="s", nonce="n")
    assert Authorization.of(asked.data()) == asked
    assert Authorization.of({"client_id": "c"}) is None
    assert Authorization.of(None) is None
