"""Providers in blueprints: defaults, older spellings, and what is refused before it is stored."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from core.errors import ValidationFailed
from core.models import Application
from core.oauth2.options import OAuth2Options, ProxyOptions
from tests.core.cores import core

PROXY = {"external_host": "https://app.example.test", "internal_host": "http://127.0.0.1:8080"}


def read(kind: type[msgspec.Struct], **options: Any) -> Any:
    """Options as a blueprint gives them, as they are stored."""
    return msgspec.to_builtins(msgspec.convert(options, kind, strict=False))


def test_defaults_are_made_once_and_long_enough() -> None:
    """Identifiers and secrets of clients that name none; each is another."""
    one, other = read(OAuth2Options), read(OAuth2Options)
    assert one["client_id"] != other["client_id"] and len(one["client_id"]) == 40
    assert one["client_secret"] != other["client_secret"] and len(one["client_secret"]) == 120
    proxy = read(ProxyOptions, **PROXY)
    assert len(proxy["cookie_secret"]) == 50
    assert read(OAuth2Options, **one) == one, "what is stored is read again as it is"


def test_redirect_uris_as_they_once_were() -> None:
    """One strict address a line."""
    found = read(OAuth2Options, redirect_uris="https://a/cb\n\n https://b/cb ")["redirect_uris"]
    assert [(item["url"], item["matching_mode"], item["redirect_uri_type"]) for item in found] == [
        ("https://a/cb", "strict", "authorization"),
        ("https://b/cb", "strict", "authorization"),
    ]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"redirect_uris": [{"url": "javascript:alert(1)"}]}, "redirect_uris"),
        ({"redirect_uris": [{"url": "https://a/#f"}]}, "redirect_uris"),
        ({"redirect_uris": [{"url": "(", "matching_mode": "regex"}]}, "redirect_uris"),
        ({"redirect_uris": [{"url": "https://a", "matching_mode": "prefix"}]}, "matching_mode|Invalid enum"),
        ({"redirect_uris": [{"matching_mode": "strict"}]}, "url"),
        ({"client_id": ""}, "client_id"),
        ({"client_secret": ""}, "client_secret"),
        ({"client_type": "other"}, "Invalid enum"),
        ({"sub_mode": "other"}, "Invalid enum"),
        ({"issuer_mode": "other"}, "Invalid enum"),
        ({"access_token_validity": "soon"}, "soon"),
        ({"access_token_validity": "seconds=0"}, "access_token_validity"),
        ({"access_code_validity": "seconds=-1"}, "negative"),
        ({"encryption_key": "pk"}, "encryption_key"),
        ({"logout_uri": "https://a/logout"}, "logout_uri"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_oauth2_options_that_are_refused(options: dict[str, Any], problem: str) -> None:
    """With the option's name in the text; what is not offered is refused, not ignored."""
    with pytest.raises(msgspec.ValidationError, match=problem):
        read(OAuth2Options, **options)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"external_host": ""}, "external_host"),
        ({"external_host": "app.example.test"}, "external_host"),
        ({"external_host": "ftp://app.example.test"}, "external_host"),
        ({"internal_host": ""}, "internal_host"),
        ({"internal_host": "127.0.0.1:80"}, "internal_host"),
        ({"mode": "other"}, "Invalid enum"),
        ({"basic_auth_enabled": True}, "basic_auth_enabled"),
        ({"cookie_secret": ""}, "cookie_secret"),
        ({"access_token_validity": "x"}, "x"),
    ],
)
def test_proxy_options_that_are_refused(options: dict[str, Any], problem: str) -> None:
    """As the API refuses them."""
    with pytest.raises(msgspec.ValidationError, match=problem):
        read(ProxyOptions, **PROXY | options)
    assert read(ProxyOptions, external_host="https://h", mode="forward_single")["internal_host"] == ""


@pytest.mark.parametrize("slug", ["authorize", "token", "device", "userinfo", "introspect", "revoke"])
async def test_reserved_slugs(slug: str) -> None:
    """An application that is called like an endpoint could never be reached."""
    async with core() as running:
        with pytest.raises(ValidationFailed, match="reserved"):
            running.database.save(Application(name="x", slug=slug))
