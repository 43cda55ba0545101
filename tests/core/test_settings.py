"""Settings of the embedded core."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from core.errors import CoreSettingError
from core.settings import NAMES, CoreSettings, load

DATA = Path("data")


def read_file(path: str) -> str:
    """One file exists."""
    if path != "/pw":
        raise FileNotFoundError(2, "No such file or directory")
    return "from file\n"


def settings(**environ: str) -> CoreSettings:
    """Settings from these variables."""
    return load(environ, data=DATA, read_file=read_file)


def test_defaults_are_loopback_only() -> None:
    """Nothing set: port 9080 on both loopback addresses, only local proxies are believed."""
    found = settings()
    assert [str(address) for address in found.listen] == ["127.0.0.1:9080", "[::1]:9080"]
    assert ipaddress.ip_address("127.0.0.5") in found.trusted_proxies[0]
    assert len(found.trusted_proxies) == 2
    assert (found.bootstrap_password, found.bootstrap_token, found.public_url, found.log_level) == ("", "", "", "info")


def test_values() -> None:
    """Each variable reaches its field; secrets do not show."""
    found = settings(
        OUTPOSTS_CORE__LISTEN="0.0.0.0:0, [::1]:5",
        OUTPOSTS_CORE__PUBLIC_URL="https://id.example.org/sub/",
        AUTHENTIK_LISTEN__TRUSTED_PROXY_CIDRS="10.0.0.0/8",
        AUTHENTIK_BOOTSTRAP_PASSWORD_FILE="/pw",
        AUTHENTIK_BOOTSTRAP_TOKEN="file:///pw",
        AUTHENTIK_BOOTSTRAP_EMAIL="a@example.org",
        AUTHENTIK_LOG_LEVEL="Warning",
        OUTPOSTS_READY_FILE="/ready",
    )
    assert [str(address) for address in found.listen] == ["0.0.0.0:0", "[::1]:5"]
    assert found.public_url == "https://id.example.org/sub"
    assert found.trusted_proxies == (ipaddress.ip_network("10.0.0.0/8"),)
    assert found.bootstrap_password == found.bootstrap_token == "from file"
    assert (found.bootstrap_email, found.log_level, found.ready_file) == ("a@example.org", "warning", "/ready")
    assert "from file" not in repr(found)
    assert settings(AUTHENTIK_LOG_LEVEL="noise").log_level == "debug"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OUTPOSTS_CORE__LISTEN", "9080"), ("OUTPOSTS_CORE__LISTEN", ","), ("OUTPOSTS_CORE__LISTEN", "::1:5"),
        ("OUTPOSTS_CORE__LISTEN", "127.0.0.1:99999"), ("OUTPOSTS_CORE__PUBLIC_URL", "id.example.org"),
        ("OUTPOSTS_CORE__PUBLIC_URL", "https://a/?b"), ("AUTHENTIK_LISTEN__TRUSTED_PROXY_CIDRS", "all"),
        ("AUTHENTIK_BOOTSTRAP_PASSWORD_FILE", "/gone"), ("OUTPOSTS_CORE__LISTN", "x"),
    ],
)  # fmt: skip
def test_bad_values_stop_the_start(name: str, value: str) -> None:
    """Exit code 2, with the name and without the value of a secret."""
    with pytest.raises(CoreSettingError) as caught:
        settings(**{name: value})
    assert caught.value.exit_code == 2
    assert caught.value.name == name.removesuffix("_FILE")


def test_a_typing_mistake_gets_a_hint_and_a_secret_has_one_source() -> None:
    """The nearest name is suggested; a value and a file at once are refused."""
    with pytest.raises(CoreSettingError, match="OUTPOSTS_CORE__LISTEN"):
        settings(OUTPOSTS_CORE__LISTN="x")
    with pytest.raises(CoreSettingError, match="both"):
        settings(AUTHENTIK_BOOTSTRAP_TOKEN="a", AUTHENTIK_BOOTSTRAP_TOKEN_FILE="/pw")
    assert all(NAMES.values())
