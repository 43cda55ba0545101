"""What the core's API says, as typed records. Decoding is tolerant: unknown fields are ignored, missing optional
fields and ``null`` become defaults, unknown enumeration values stay plain strings (core-contract: conventions).

Field names are the API's own. ``Page[T]`` is one page of any list; ``next`` is a page *number*, 0 = last.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all records: immutable, keyword only, unknown fields ignored."""


class Pagination(Record, frozen=True, kw_only=True):
    """Where in a list a page stands. Numbers may arrive as floats."""

    next: float = 0
    count: float = 0
    current: float = 1
    total_pages: float = 1


class Page(Record, Generic[T], frozen=True, kw_only=True):
    """One page of a list."""

    pagination: Pagination
    results: list[T]


class OutpostRecord(Record, frozen=True, kw_only=True):
    """``/outposts/instances/``: this outpost as the core knows it. ``config`` keeps unknown keys."""

    pk: str
    name: str
    type: str
    managed: str | None = None
    config: dict[str, Any] = {}
    refresh_interval_s: float = 300


class ErrorReporting(Record, frozen=True, kw_only=True):
    """Read, never acted on: the core's own error reporting switch."""

    enabled: bool = False


class RootConfig(Record, frozen=True, kw_only=True):
    """``/root/config/``: cache times in seconds."""

    error_reporting: ErrorReporting = ErrorReporting()
    cache_timeout: float = 300
    cache_timeout_flows: float = 300
    cache_timeout_policies: float = 300
    capabilities: list[str] = []


class LDAPProvider(Record, frozen=True, kw_only=True):
    """``/outposts/ldap/``: one provider that an LDAP outpost serves."""

    pk: int
    name: str
    base_dn: str = "DC=ldap,DC=goauthentik,DC=io"
    bind_flow_slug: str
    unbind_flow_slug: str | None = None
    application_slug: str
    certificate: str | None = None
    tls_server_name: str | None = None
    uid_start_number: int = 2000
    gid_start_number: int = 4000
    search_mode: str = "direct"
    bind_mode: str = "direct"
    mfa_support: bool = True


class RadiusProvider(Record, frozen=True, kw_only=True):
    """``/outposts/radius/``: one provider that a RADIUS outpost serves."""

    pk: int
    name: str
    application_slug: str
    auth_flow_slug: str
    client_networks: str = ""
    shared_secret: str = ""
    mfa_support: bool = True
    certificate: str | None = None

    def __repr__(self) -> str:
        """Leave the shared secret out."""
        return f"RadiusProvider(pk={self.pk}, name={self.name!r})"


class ProxyProvider(Record, frozen=True, kw_only=True):
    """``/outposts/proxy/``: one provider that a proxy outpost serves."""

    pk: int
    name: str
    internal_host: str | None = None
    external_host: str
    internal_host_ssl_validation: bool = True
    client_id: str = ""
    client_secret: str = ""
    oidc_configuration: dict[str, Any] = {}
    cookie_secret: str = ""
    certificate: str | None = None
    skip_path_regex: str | None = None
    basic_auth_enabled: bool = False
    basic_auth_password_attribute: str | None = None
    basic_auth_user_attribute: str | None = None
    mode: str = "proxy"
    cookie_domain: str | None = None
    access_token_validity: float | None = None
    intercept_header_auth: bool = True
    scopes_to_request: list[str] = []
    assigned_application_slug: str = ""
    assigned_application_name: str = ""

    def __repr__(self) -> str:
        """Leave the secrets out."""
        return f"ProxyProvider(pk={self.pk}, name={self.name!r})"


class UserGroup(Record, frozen=True, kw_only=True):
    """A group inside a user record (direct groups only)."""

    pk: str
    name: str
    num_pk: int | None = None
    is_superuser: bool = False
    attributes: dict[str, Any] | None = None


class User(Record, frozen=True, kw_only=True):
    """``/core/users/``: one user. ``groups`` are uuids of direct groups; ``groups_obj`` is null if not included."""

    pk: int
    username: str
    name: str = ""
    is_active: bool = True
    last_login: str | None = None
    date_joined: str | None = None
    is_superuser: bool = False
    groups: list[str] = []
    groups_obj: list[UserGroup] | None = None
    email: str | None = None
    attributes: dict[str, Any] | None = None
    uid: str = ""
    path: str = "users"
    type: str = "internal"
    uuid: str | None = None
    password_change_date: str | None = None
    last_updated: str | None = None


class GroupMember(Record, frozen=True, kw_only=True):
    """A user inside a group record."""

    pk: int
    username: str
    name: str = ""
    is_active: bool = True
    email: str | None = None
    uid: str = ""
    attributes: dict[str, Any] | None = None


class RelatedGroup(Record, frozen=True, kw_only=True):
    """A parent or child inside a group record."""

    pk: str
    name: str
    is_superuser: bool = False
    attributes: dict[str, Any] | None = None


class Group(Record, frozen=True, kw_only=True):
    """``/core/groups/``: one group with its direct users, parents and children.

    2025.10 has ``parent`` and ``parent_name`` instead of ``parents``.
    """

    pk: str
    num_pk: int = 0
    name: str
    is_superuser: bool = False
    parents: list[str] | None = None
    parents_obj: list[RelatedGroup] | None = None
    parent: str | None = None
    parent_name: str | None = None
    users: list[int] = []
    users_obj: list[GroupMember] | None = None
    attributes: dict[str, Any] | None = None
    children: list[str] | None = None
    children_obj: list[RelatedGroup] | None = None


class SelfGroup(Record, frozen=True, kw_only=True):
    """A group inside ``users/me``."""

    pk: str
    name: str


class SelfUser(Record, frozen=True, kw_only=True):
    """The ``user`` inside ``/core/users/me/``."""

    pk: int
    username: str
    name: str = ""
    is_active: bool = True
    is_superuser: bool = False
    groups: list[SelfGroup] = []
    email: str | None = None
    uid: str = ""


class Me(Record, frozen=True, kw_only=True):
    """``/core/users/me/``."""

    user: SelfUser


class PolicyResult(Record, frozen=True, kw_only=True):
    """The ``access`` inside a check_access answer. Only ``passing`` decides; there is no default for it."""

    passing: bool
    messages: list[str] = []


class AccessCheck(Record, frozen=True, kw_only=True):
    """``/outposts/{ldap,radius}/<pk>/check_access/``. ``attributes`` is base64 of a RADIUS packet or null."""

    access: PolicyResult
    has_search_permission: bool = False
    attributes: str | None = None


class CertificateKeyPair(Record, frozen=True, kw_only=True):
    """``/crypto/certificatekeypairs/<uuid>/``."""

    pk: str
    name: str = ""
    fingerprint_sha256: str | None = None


class CertificateData(Record, frozen=True, kw_only=True):
    """``…/view_certificate/`` and ``…/view_private_key/``: PEM text, empty if there is none."""

    data: str = ""

    def __repr__(self) -> str:
        """Never show the PEM: it may be a private key."""
        return "CertificateData(…)"


class Brand(Record, frozen=True, kw_only=True):
    """``/core/brands/current/``: the slugs of the brand's flows."""

    flow_authentication: str | None = None
    flow_invalidation: str | None = None
