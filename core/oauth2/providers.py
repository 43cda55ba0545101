"""A stored OAuth2 or proxy provider and its application as one typed view.

A proxy provider's OAuth2 side is forced: confidential, signed with the client secret, claims inside the tokens, five
scope mappings, two strict redirect URIs (flows.md §8.4). It is computed here each time, so it cannot be stored wrongly.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from core import durations, models
from core.database import Database
from core.oauth2.protocol import (
    AUTHORIZATION,
    OAUTH2_PROVIDER,
    OPENID,
    PROXY_PROVIDER,
    SCOPE_MAPPING,
    STRICT,
    Credentials,
    OAuthError,
    RedirectURI,
    proxy_redirect_uris,
)

MANAGED = "goauthentik.io/providers/oauth2/scope-"
# The order in which scopes are named and asked for; others follow by name.
ORDER = (OPENID, "email", "profile", "entitlements", "ak_proxy", "offline_access")
DEFAULT_MAPPINGS = tuple(MANAGED + name for name in (OPENID, "email", "profile"))
PROXY_MAPPINGS = (*DEFAULT_MAPPINGS, MANAGED + "entitlements", "goauthentik.io/providers/proxy/scope-proxy")

CODE_LIFE, ACCESS_LIFE, REFRESH_LIFE = "minutes=1", "hours=1", "days=30"


@dataclass(frozen=True)
class Client:
    """A client. Durations in seconds; ``signing_key`` is the primary key of a key pair, ``None`` for the secret."""

    record: models.Provider
    application: models.Application
    client_id: str
    client_secret: str = field(repr=False)
    confidential: bool
    redirect_uris: tuple[RedirectURI, ...]
    code_life_s: float
    access_life_s: float
    refresh_life_s: float
    claims_in_token: bool
    signing_key: str | None
    sub_mode: str
    per_provider_issuer: bool
    federation: tuple[int, ...]

    @property
    def pk(self) -> int:
        """The provider's primary key."""
        return int(self.record.pk or 0)

    @property
    def is_proxy(self) -> bool:
        """Whether a proxy outpost is behind it."""
        return self.record.type == PROXY_PROVIDER

    def issuer(self, base: str) -> str:
        """The issuer as it is known at ``base``."""
        return f"{base}/application/o/{self.application.slug}/" if self.per_provider_issuer else f"{base}/"

    def allows(self, redirect_uri: str, kind: str = AUTHORIZATION) -> bool:
        """Whether a redirect URI is one of the configured ones."""
        return any(item.matches(redirect_uri) for item in self.redirect_uris if item.kind == kind)

    def knows(self, secret: str | None) -> bool:
        """Whether the secret is this client's. An empty one never is."""
        if not secret or not self.client_secret:
            return False
        return hmac.compare_digest(self.client_secret.encode(), secret.encode())


def of(record: models.Provider, application: models.Application) -> Client:
    """The view of a stored provider."""
    options: Mapping[str, Any] = record.options
    proxy = record.type == PROXY_PROVIDER
    if proxy:
        uris = proxy_redirect_uris(str(options.get("external_host", "")))
    else:
        uris = tuple(
            RedirectURI(
                str(item.get("url", "")),
                str(item.get("matching_mode", STRICT)),
                str(item.get("redirect_uri_type", AUTHORIZATION)),
            )
            for item in options.get("redirect_uris", ())
            if isinstance(item, Mapping) and item.get("url")
        )
    return Client(
        record=record,
        application=application,
        client_id=str(options.get("client_id", "")),
        client_secret=str(options.get("client_secret", "")),
        confidential=proxy or options.get("client_type", "confidential") != "public",
        redirect_uris=uris,
        code_life_s=durations.seconds(options.get("access_code_validity", CODE_LIFE)),
        access_life_s=durations.seconds(options.get("access_token_validity", ACCESS_LIFE)),
        refresh_life_s=durations.seconds(options.get("refresh_token_validity", REFRESH_LIFE)),
        claims_in_token=proxy or options.get("include_claims_in_id_token", True) is True,
        signing_key=None if proxy else options.get("signing_key"),
        sub_mode="hashed_user_id" if proxy else str(options.get("sub_mode", "hashed_user_id")),
        per_provider_issuer=proxy or options.get("issuer_mode", "per_provider") != "global",
        federation=tuple(options.get("jwt_federation_providers", ())),
    )


def by_client_id(database: Database, client_id: str) -> Client | None:
    """The client with this id, if it is the only one and has an application."""
    if not client_id:
        return None
    found = database.find(
        models.Provider, type__in=[OAUTH2_PROVIDER, PROXY_PROVIDER], options__client_id=client_id, limit=2
    )
    return _with_application(database, found[0]) if len(found) == 1 else None


def by_slug(database: Database, slug: str) -> Client | None:
    """The client of an application; its own provider goes before those behind it."""
    application = database.first(models.Application, slug=slug)
    if application is None:
        return None
    for pk in (application.provider, *application.backchannel_providers):
        record = database.first(models.Provider, pk=pk) if pk is not None else None
        if record is not None and record.type in (OAUTH2_PROVIDER, PROXY_PROVIDER):
            return of(record, application)
    return None


def by_pk(database: Database, pk: int) -> Client | None:
    """The client of a provider, if it has an application."""
    record = database.first(models.Provider, pk=pk, type__in=[OAUTH2_PROVIDER, PROXY_PROVIDER])
    return _with_application(database, record) if record is not None else None


def _with_application(database: Database, record: models.Provider) -> Client | None:
    application = database.application_of(int(record.pk or 0))
    return of(record, application) if application is not None else None


def authenticated(database: Database, given: Credentials, *, secret_needed: bool = True) -> Client:
    """The client that the credentials are those of. A secret that is shown must be right, needed or not.

    :raises OAuthError: there is no such client, or its secret is wrong or missing.
    """
    client = by_client_id(database, given.client_id)
    if client is None:
        raise OAuthError("invalid_client")
    if given.secret is not None or (secret_needed and client.confidential):
        if not client.knows(given.secret):
            raise OAuthError("invalid_client")
    return client


def mappings(database: Database, client: Client) -> list[models.PropertyMapping]:
    """The scope mappings of a client: its own, the forced ones of a proxy, the usual ones where none is named."""
    own = [
        mapping
        for mapping in database.get_many(models.PropertyMapping, client.record.property_mappings).values()
        if mapping.type == SCOPE_MAPPING
    ]
    named = PROXY_MAPPINGS if client.is_proxy else () if own else DEFAULT_MAPPINGS
    found = {mapping.pk: mapping for mapping in own}
    if named:
        defaults = database.find(models.PropertyMapping, type=SCOPE_MAPPING, managed__in=list(named))
        found |= {mapping.pk: mapping for mapping in defaults}
    return sorted(found.values(), key=lambda mapping: (_place(scope_of(mapping)), mapping.name))


def scope_of(mapping: models.PropertyMapping) -> str:
    """The scope that a mapping belongs to."""
    return str(mapping.options.get("scope_name", ""))


def scopes(database: Database, client: Client) -> list[str]:
    """All scopes of a client."""
    return list(dict.fromkeys(filter(None, map(scope_of, mappings(database, client)))))


def _place(scope: str) -> tuple[int, str]:
    return (ORDER.index(scope), "") if scope in ORDER else (len(ORDER), scope)
