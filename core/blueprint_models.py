"""The models that blueprints may name: which record each is, which options it has, and how fields are written.

Stages and policies come from their registries, so a new type is known here without a change. What the reference offers
and this core does not yet is refused by name, never ignored.
"""

from __future__ import annotations

import datetime
import ipaddress
import secrets
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import msgspec

from core import models
from core.database import MODEL_NAMES
from core.errors import ValidationFailed
from core.models import Model
from core.oauth2.options import OAuth2Options, ProxyOptions
from core.policies.base import PolicyType
from core.policies.expression import compile_body

RADIUS_SECRET_LENGTH = 32  # characters; far above what RFC 2865 §3 asks for


class _Options(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of the options of providers and mappings."""


class LDAPOptions(_Options):
    """What an LDAP provider has of its own."""

    base_dn: str = "DC=ldap,DC=goauthentik,DC=io"
    certificate: str | None = None
    tls_server_name: str = ""
    uid_start_number: int = 2000
    gid_start_number: int = 4000
    search_mode: typing.Literal["direct", "cached"] = "direct"
    bind_mode: typing.Literal["direct", "cached"] = "direct"
    mfa_support: bool = True


class RadiusOptions(_Options):
    """What a RADIUS provider has of its own."""

    client_networks: str = "0.0.0.0/0, ::/0"
    shared_secret: str = msgspec.field(
        default_factory=lambda: "".join(
            secrets.choice("abcdefghjkmnpqrstuvwxyz23456789") for _ in range(RADIUS_SECRET_LENGTH)
        )
    )
    mfa_support: bool = True
    certificate: str | None = None

    def __post_init__(self) -> None:
        for text in filter(None, map(str.strip, self.client_networks.split(","))):
            try:
                ipaddress.ip_network(text, strict=False)
            except ValueError as error:
                raise ValueError(f"client_networks: {error}") from None  # the decoder's own error from here on
        if not self.shared_secret:
            raise ValueError("shared_secret may not be empty")


class MappingOptions(_Options):
    """An expression."""

    expression: str


class ScopeMappingOptions(MappingOptions):
    """An expression for a scope."""

    scope_name: str
    description: str = ""


def _mapping_options(kind: type[MappingOptions]) -> Callable[[dict[str, Any]], Any]:
    def read(options: dict[str, Any]) -> MappingOptions:
        found = msgspec.convert(options, kind, strict=False)
        compile_body(found.expression, "mapping")
        return found

    return read


def _struct(kind: type[msgspec.Struct]) -> Callable[[dict[str, Any]], Any]:
    return lambda options: msgspec.convert(options, kind, strict=False)


@dataclass(frozen=True)
class ModelRow:
    """One model: its record class; ``renamed`` fields (blueprint → record); ``ignored`` ones, without effect here;
    ``extra`` ones, which the loader handles itself; ``options`` checks type-specific fields and fills in defaults."""

    record: type[Model]
    renamed: Mapping[str, str] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    extra: frozenset[str] = frozenset()
    options: Callable[[dict[str, Any]], Any] | None = None


_MEMBERS = {"groups": "group_pks", "roles": "role_pks"}
_PROVIDER_IGNORED = frozenset({"is_backchannel", "backchannel_application", "application"})
_PLAIN: dict[type[Model], ModelRow] = {
    models.User: ModelRow(models.User, _MEMBERS, extra=frozenset({"password", "permissions"})),
    models.Group: ModelRow(models.Group, {"roles": "role_pks"}, extra=frozenset({"users", "parent"})),
    models.Role: ModelRow(models.Role, extra=frozenset({"permissions"})),
    models.Token: ModelRow(models.Token),
    models.Application: ModelRow(
        models.Application, ignored=frozenset({"icon", "meta_hide", "policy_engine", "blank_launch_url"})
    ),
    models.ApplicationEntitlement: ModelRow(models.ApplicationEntitlement),
    models.Flow: ModelRow(models.Flow),
    models.StageBinding: ModelRow(models.StageBinding),
    models.PolicyBinding: ModelRow(models.PolicyBinding),
    models.Outpost: ModelRow(models.Outpost, {"_config": "config"}, frozenset({"service_connection"})),
    models.Brand: ModelRow(models.Brand),
    models.KeyPair: ModelRow(models.KeyPair),
    models.TOTPDevice: ModelRow(models.TOTPDevice),
    models.StaticDevice: ModelRow(models.StaticDevice),
    models.EmailDevice: ModelRow(models.EmailDevice),
    models.SMSDevice: ModelRow(models.SMSDevice),
    models.DuoDevice: ModelRow(models.DuoDevice),
    models.Prompt: ModelRow(models.Prompt, ignored=frozenset({"promptstage_set"})),
    models.Invitation: ModelRow(models.Invitation),
}
_PROVIDERS: dict[str, type[msgspec.Struct]] = {
    "authentik_providers_ldap.ldapprovider": LDAPOptions,
    "authentik_providers_radius.radiusprovider": RadiusOptions,
    "authentik_providers_oauth2.oauth2provider": OAuth2Options,
    "authentik_providers_proxy.proxyprovider": ProxyOptions,
}
_MAPPINGS: dict[str, type[MappingOptions]] = {
    "authentik_events.notificationwebhookmapping": MappingOptions,
    "authentik_providers_oauth2.scopemapping": ScopeMappingOptions,
    "authentik_providers_radius.radiusproviderpropertymapping": MappingOptions,
}
META_APPLY = "authentik_blueprints.metaapplyblueprint"
OLDER_NAMES = {"authentik_tenants.tenant": "authentik_brands.brand"}

# Known to the reference; a blueprint that needs one is refused by name.
_NOT_OFFERED_STAGES = ("source", "authenticator_webauthn")
NOT_OFFERED = frozenset(
    {f"authentik_stages_{name}.{name.replace('_', '')}stage" for name in _NOT_OFFERED_STAGES}
    | {
        "authentik_policies_geoip.geoippolicy",
        "authentik_sources_oauth.oauthsource",
        "authentik_sources_saml.samlsource", "authentik_sources_ldap.ldapsource", "authentik_enterprise.license",
        "authentik_rbac.initialpermissions", "authentik_events.notificationrule",
        "authentik_events.notificationtransport", "authentik_tasks_schedules.schedule",
    }
)  # fmt: skip


def rows(stages: Mapping[str, Any], policies: Mapping[str, type[PolicyType]]) -> dict[str, ModelRow]:
    """Every model that blueprints may name. ``stages`` and ``policies`` are the registries of types by model name."""
    found = {MODEL_NAMES[record]: row for record, row in _PLAIN.items()}
    found |= {
        name: ModelRow(
            models.Provider, ignored=_PROVIDER_IGNORED, extra=frozenset({"search_group"}), options=_struct(kind)
        )
        for name, kind in _PROVIDERS.items()
    }
    found |= {
        name: ModelRow(models.PropertyMapping, options=_mapping_options(kind)) for name, kind in _MAPPINGS.items()
    }
    found |= {name: ModelRow(models.Stage, options=kind.read_options) for name, kind in stages.items()}
    found |= {name: ModelRow(models.Policy, options=kind.read_options) for name, kind in policies.items()}
    return found


_hints_kept: dict[type[Model], dict[str, Any]] = {}


def hints(record: type[Model]) -> dict[str, Any]:
    """Types of the fields of a record class that a blueprint may set."""
    if record not in _hints_kept:
        known = typing.get_type_hints(record)
        hidden = {"directory", "password_hash", "is_superuser", "uid"} if record is models.User else {"options", "type"}
        _hints_kept[record] = {item.name: known[item.name] for item in fields(record) if item.name not in hidden}
        if record in (models.Outpost, models.Prompt):
            _hints_kept[record]["type"] = known["type"]
    return _hints_kept[record]


def required(record: type[Model]) -> list[str]:
    """Fields that a new record must be given."""
    return [
        item.name
        for item in fields(record)
        if item.default is MISSING and item.default_factory is MISSING and item.name in hints(record)
    ]


def convert(record: type[Model], name: str, value: Any) -> Any:
    """A value of a blueprint as the record's field wants it; text that looks like a number becomes one.

    :raises ValidationFailed: it does not fit.
    """
    kind = hints(record)[name]
    if name == "expires" and isinstance(value, str):
        value = _moment(value)
    if hasattr(value, "timestamp"):
        value = value.timestamp()
    if record is models.StaticDevice and name == "tokens" and isinstance(value, list):
        value = [item.get("token") if isinstance(item, dict) else item for item in value]
    if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if value is None and name == "attributes":
        value = {}
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ValidationFailed({name: [str(error)]}) from None


def _moment(text: str) -> float:
    try:
        return float(msgspec.convert(text, datetime.datetime).timestamp())
    except msgspec.ValidationError:
        raise ValidationFailed({"expires": ["must be a time such as 2030-01-31T12:00:00Z"]}) from None
