"""Settings for workers: nothing is lost on the way, and nothing is shown when they cannot be read."""

from __future__ import annotations

from dataclasses import fields

import msgspec
import pytest

from common.setting_transfer import TransferError, from_bytes, to_bytes
from common.settings import Settings, load

FULL = {
    "AUTHENTIK_HOST": "https://id.example.org:8443/auth/?a=b",
    "AUTHENTIK_TOKEN": "the-token",
    "AUTHENTIK_INSECURE": "true",
    "AUTHENTIK_LOG_LEVEL": "debug",
    "AUTHENTIK_LISTEN__LDAP": "127.0.0.1:1389,[::1]:1389",
    "AUTHENTIK_LISTEN__TRUSTED_PROXY_CIDRS": "10.0.0.0/8,fd00::/8",
    "OUTPOSTS_WORKERS": "3",
    "OUTPOSTS_STATE_DIR": "/state",
    "OUTPOSTS_LDAP__BIND_NAMES": "dn,upn",
    "OUTPOSTS_LDAP__BIND_CACHE_MAX": '{"p1": "60", "*": 30}',
}


@pytest.mark.parametrize("environ", [{}, FULL, {"AUTHENTIK_HOST": "unix:///run/core.sock"}])
def test_the_same_arrives(environ: dict[str, str]) -> None:
    """Every field, with its type, and what is derived from them."""
    settings = load(environ, need_core=False)
    arrived = from_bytes(to_bytes(settings))
    for item in fields(Settings):
        before, after = getattr(settings, item.name), getattr(arrived, item.name)
        assert after == before, item.name
        if before is not None and item.name != "extras":
            assert type(after) is type(before), item.name
    assert (arrived.host, arrived.host_query, arrived.host_socket) == (
        settings.host, settings.host_query, settings.host_socket,
    )  # fmt: skip
    assert hash(arrived.listen_ldap) == hash(settings.listen_ldap)
    for name in ("bind_names", "bind_cache_max", "strict"):
        assert arrived.extra("ldap", name, {}, "p1") == settings.extra("ldap", name, {}, "p1")


@pytest.mark.parametrize(
    "content",
    [b"", b"\xc1", b"\x80", msgspec.msgpack.encode([1]), msgspec.msgpack.encode({"token": "the-token", "unknown": 1})],
)
def test_unreadable(content: bytes) -> None:
    """One error, without the content."""
    with pytest.raises(TransferError) as caught:
        from_bytes(content)
    assert "the-token" not in str(caught.value)


def test_every_damage_is_one_error() -> None:
    """Cut anywhere: refused, never half of the settings."""
    whole = to_bytes(load(FULL, need_core=False))
    for end in range(len(whole)):
        with pytest.raises(TransferError):
            from_bytes(whole[:end])
