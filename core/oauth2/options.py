"""Options of OAuth2 and proxy providers, as blueprints write them, and what is refused before it is stored."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from core import durations
from core.database import new_token_key
from core.oauth2.protocol import REGEX, redirectable

CLIENT_ID_LENGTH = 40  # characters of 62: 238 bits
COOKIE_SECRET_LENGTH = 50  # characters; the outpost signs its state with it


def _client_id() -> str:
    return new_token_key()[:CLIENT_ID_LENGTH]


def _client_secret() -> str:
    return new_token_key() + new_token_key()


def _check_durations(options: msgspec.Struct) -> None:
    for name in ("access_code_validity", "access_token_validity", "refresh_token_validity"):
        text = getattr(options, name, None)
        if text is not None and durations.seconds(text) < 1:
            raise ValueError(f"{name} is shorter than a second")


class RedirectURIOption(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One address that a client may name. An expression must match the whole address."""

    url: str
    matching_mode: Literal["strict", "regex"] = "strict"
    redirect_uri_type: Literal["authorization", "logout"] = "authorization"

    def __post_init__(self) -> None:
        if self.matching_mode == REGEX:
            try:
                re.compile(self.url)
            except re.error as error:
                raise ValueError(f"redirect_uris: {self.url!r} is no regular expression: {error}") from None
        elif not redirectable(self.url):
            raise ValueError(f"redirect_uris: {self.url!r} is no address that a browser may be sent to")


class OAuth2Options(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What an OAuth2 provider has of its own. ``redirect_uris`` may also be text, one address a line, as once was."""

    client_type: Literal["confidential", "public"] = "confidential"
    client_id: str = msgspec.field(default_factory=_client_id)
    client_secret: str = msgspec.field(default_factory=_client_secret)
    redirect_uris: list[RedirectURIOption] | str = msgspec.field(default_factory=list)
    access_code_validity: str = "minutes=1"
    access_token_validity: str = "hours=1"  # noqa: S105 - a duration
    refresh_token_validity: str = "days=30"  # noqa: S105 - a duration
    include_claims_in_id_token: bool = True
    signing_key: str | None = None
    encryption_key: str | None = None
    sub_mode: Literal[
        "hashed_user_id", "user_id", "user_uuid", "user_username", "user_email", "user_upn"
    ] = "hashed_user_id"  # fmt: skip
    issuer_mode: Literal["per_provider", "global"] = "per_provider"
    logout_uri: str = ""
    logout_method: Literal["backchannel", "frontchannel"] = "backchannel"
    refresh_token_threshold: str = "seconds=0"  # noqa: S105 - a duration
    jwt_federation_sources: list[str] = msgspec.field(default_factory=list)
    jwt_federation_providers: list[int] = msgspec.field(default_factory=list)

    def __post_init__(self) -> None:
        if isinstance(self.redirect_uris, str):
            lines = filter(None, map(str.strip, self.redirect_uris.splitlines()))
            self.redirect_uris = [RedirectURIOption(url=line) for line in lines]
        if not self.client_id:
            raise ValueError("client_id may not be empty")
        if self.client_type == "confidential" and not self.client_secret:
            raise ValueError("client_secret may not be empty")
        # a promise that would not be kept is refused
        if self.encryption_key is not None:
            raise ValueError("encryption_key is not offered: tokens are signed, not encrypted")
        if self.logout_uri:
            raise ValueError("logout_uri is not offered: clients are not told when a session ends")
        _check_durations(self)


class ProxyOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a proxy provider has of its own; its OAuth2 side is forced (:mod:`core.oauth2.providers`)."""

    external_host: str
    internal_host: str = ""
    internal_host_ssl_validation: bool = True
    mode: Literal["proxy", "forward_single", "forward_domain"] = "proxy"
    certificate: str | None = None
    skip_path_regex: str = ""
    basic_auth_enabled: bool = False
    basic_auth_password_attribute: str = ""
    basic_auth_user_attribute: str = ""
    intercept_header_auth: bool = True
    cookie_domain: str = ""
    client_id: str = msgspec.field(default_factory=_client_id)
    client_secret: str = msgspec.field(default_factory=_client_secret)
    cookie_secret: str = msgspec.field(default_factory=lambda: new_token_key()[:COOKIE_SECRET_LENGTH])
    access_token_validity: str = "hours=1"  # noqa: S105 - a duration
    refresh_token_validity: str = "days=30"  # noqa: S105 - a duration
    jwt_federation_sources: list[str] = msgspec.field(default_factory=list)
    jwt_federation_providers: list[int] = msgspec.field(default_factory=list)

    def __post_init__(self) -> None:
        _check_http("external_host", self.external_host)
        if self.mode == "proxy" and not self.internal_host:
            raise ValueError("internal_host must be given in mode proxy")
        if self.internal_host:
            _check_http("internal_host", self.internal_host)
        if self.basic_auth_enabled and not (self.basic_auth_user_attribute and self.basic_auth_password_attribute):
            raise ValueError("basic_auth_enabled needs both attribute names")
        for name in ("client_id", "client_secret", "cookie_secret"):
            if not getattr(self, name):
                raise ValueError(f"{name} may not be empty")
        _check_durations(self)


def _check_http(name: str, url: str) -> None:
    if not redirectable(url) or urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"{name} must be an http or https address")
