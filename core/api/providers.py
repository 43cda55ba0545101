"""``/providers/``: the administrator's view of providers; LDAP and RADIUS ones are also changed over the API."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core import access, models
from core.api.base import Answer, Call, Route, by_number, not_found, update
from core.errors import ValidationFailed

LDAP = "authentik_providers_ldap.ldapprovider"
RADIUS = "authentik_providers_radius.radiusprovider"
PROXY = "authentik_providers_proxy.proxyprovider"

# option → (default, type) of an LDAP provider
LDAP_OPTIONS: dict[str, tuple[Any, type]] = {
    "base_dn": ("DC=ldap,DC=goauthentik,DC=io", str),
    "tls_server_name": ("", str),
    "uid_start_number": (2000, int),
    "gid_start_number": (4000, int),
    "search_mode": ("direct", str),
    "bind_mode": ("direct", str),
    "mfa_support": (True, bool),
}
# the same of a RADIUS provider
RADIUS_OPTIONS: dict[str, tuple[Any, type]] = {
    "client_networks": ("0.0.0.0/0, ::/0", str),
    "shared_secret": ("", str),
    "mfa_support": (True, bool),
}
# what a proxy outpost gets of a provider as it is stored; option → default
PROXY_OPTIONS: dict[str, Any] = {
    "external_host": "",
    "internal_host": "",
    "internal_host_ssl_validation": True,
    "cookie_secret": "",
    "certificate": None,
    "skip_path_regex": "",
    "basic_auth_enabled": False,
    "basic_auth_password_attribute": "",
    "basic_auth_user_attribute": "",
    "mode": "proxy",
    "cookie_domain": "",
    "intercept_header_auth": True,
}
MODES = ("direct", "cached")
ZERO_UUID = "00000000-0000-0000-0000-000000000000"  # for a required flow that is not set


def base_fields(call: Call, providers: Sequence[models.Provider], *, typed: bool) -> list[dict[str, Any]]:
    """What every provider shows. ``typed`` names its own type, else the base class, as inside an outpost."""
    database = call.services.database
    pks = [int(provider.pk or 0) for provider in providers]
    front = {app.provider: app for app in database.find(models.Application, provider__in=pks)}
    back: dict[int, models.Application] = {}
    for application in database.find(models.Application, backchannel_providers__in=pks):
        back.update(dict.fromkeys(application.backchannel_providers, application))
    shown = []
    for provider in providers:
        own, behind = front.get(provider.pk), back.get(int(provider.pk or 0))
        kind = provider.type.rsplit(".", 1)[-1]
        shown.append(
            {
                "pk": provider.pk,
                "name": provider.name,
                "authentication_flow": provider.authentication_flow,
                "authorization_flow": provider.authorization_flow or ZERO_UUID,
                "invalidation_flow": provider.invalidation_flow or ZERO_UUID,
                "property_mappings": provider.property_mappings,
                "component": f"ak-provider-{kind.removesuffix('provider')}-form" if typed else "",
                "assigned_application_slug": own.slug if own else None,
                "assigned_application_name": own.name if own else None,
                "assigned_backchannel_application_slug": behind.slug if behind else None,
                "assigned_backchannel_application_name": behind.name if behind else None,
                "verbose_name": f"{kind.removesuffix('provider').upper()} Provider" if typed else "provider",
                "verbose_name_plural": f"{kind.removesuffix('provider').upper()} Providers" if typed else "providers",
                "meta_model_name": provider.type if typed else "authentik_core.provider",
            }
        )
    return shown


@dataclass(frozen=True)
class Kind:
    """One type of provider: its model name, how errors call it, its part of the path, its options."""

    model: str
    name: str
    path: str
    options: dict[str, tuple[Any, type]]


KINDS = (Kind(LDAP, "LDAPProvider", "ldap", LDAP_OPTIONS), Kind(RADIUS, "RadiusProvider", "radius", RADIUS_OPTIONS))


def _shown(call: Call, kind: Kind, providers: Sequence[models.Provider]) -> list[dict[str, Any]]:
    answer = []
    for provider, base in zip(providers, base_fields(call, providers, typed=True), strict=True):
        if kind.model == LDAP:
            # the API of these requires the four to be texts
            for name in ("assigned_application", "assigned_backchannel_application"):
                base[f"{name}_slug"] = base[f"{name}_slug"] or ""
                base[f"{name}_name"] = base[f"{name}_name"] or ""
        served = call.services.database.outposts_with_provider(int(provider.pk or 0))
        options = {name: provider.options.get(name, default) for name, (default, _) in kind.options.items()}
        answer.append(
            base
            | options
            | {"certificate": provider.options.get("certificate"), "outpost_set": [outpost.name for outpost in served]}
        )
    return answer


def _one(call: Call, kind: Kind) -> models.Provider:
    call.require_user()
    provider = by_number(call, models.Provider, kind.name, call.path["pk"])
    if provider.type != kind.model:
        raise not_found(kind.name)
    call.require_visible(access.view_provider(kind.model), provider, kind.name)
    return provider


async def listing(call: Call, kind: Kind) -> Answer:
    """``GET /providers/<kind>/``."""
    pks = call.visible(access.view_provider(kind.model), kind.model)
    filters: dict[str, Any] = {"type": kind.model}
    if pks is not None:
        filters["pk__in"] = [int(pk) for pk in pks]
    if call.param("name__iexact") is not None:
        filters["name__iexact"] = call.param("name__iexact")
    return call.listed(models.Provider, filters, lambda found: _shown(call, kind, found), ordering=("name", "pk"))


async def retrieve(call: Call, kind: Kind) -> Answer:
    """``GET /providers/<kind>/<pk>/``."""
    return Answer(_shown(call, kind, [_one(call, kind)])[0])


async def change(call: Call, kind: Kind) -> Answer:
    """``PATCH`` and ``PUT /providers/<kind>/<pk>/``; the outposts that serve it are told."""
    call.require_superuser()
    provider = _one(call, kind)
    call.writable(provider)
    data = await call.json()
    problems: dict[str, list[str]] = {}
    options = dict(provider.options)
    for name, (_, type_) in kind.options.items():
        if name not in data:
            continue
        value = data[name]
        if not isinstance(value, type_) or (type_ is int and isinstance(value, bool)):
            problems[name] = ["Not a valid value."]
        elif name in ("search_mode", "bind_mode") and value not in MODES:
            problems[name] = [f'"{value}" is not a valid choice.']
        elif name == "shared_secret" and not value:
            problems[name] = ["This field may not be blank."]
        elif name == "client_networks" and not _are_networks(str(value)):
            problems[name] = ["Not a list of networks."]
        else:
            options[name] = value
    if "certificate" in data:
        pk = data["certificate"]
        if pk is not None and call.services.database.first(models.KeyPair, pk=str(pk)) is None:
            problems["certificate"] = ["Invalid pk - object does not exist."]
        options["certificate"] = pk
    mappings = data.get("property_mappings", provider.property_mappings)
    if not isinstance(mappings, list) or not all(isinstance(pk, str) for pk in mappings):
        problems["property_mappings"] = ["Not a valid value."]
    elif len(call.services.database.get_many(models.PropertyMapping, mappings)) != len(set(mappings)):
        problems["property_mappings"] = ["Invalid pk - object does not exist."]
    if problems:
        raise ValidationFailed(problems)
    update(provider, data, {"name": str})
    provider.options, provider.property_mappings = options, list(mappings)
    call.services.database.save(provider)
    return Answer(_shown(call, kind, [provider])[0])


def _are_networks(text: str) -> bool:
    try:
        for part in filter(None, map(str.strip, text.split(","))):
            ipaddress.ip_network(part, strict=False)
    except ValueError:
        return False
    return True


async def remove(call: Call, kind: Kind) -> Answer:
    """``DELETE /providers/<kind>/<pk>/``."""
    call.require_superuser()
    provider = _one(call, kind)
    call.writable(provider)
    call.services.database.delete(provider)
    return Answer(status=204)


async def all_list(call: Call) -> Answer:
    """``GET /providers/all/``, for superusers."""
    call.require_superuser()
    return call.listed(models.Provider, {}, lambda found: base_fields(call, found, typed=True), ordering=("name", "pk"))


def _of(kind: Kind) -> list[Route]:
    """The routes of one kind."""
    verbs = (("GET", "", listing), ("GET", "{pk}/", retrieve), ("PATCH", "{pk}/", change), ("PUT", "{pk}/", change),
             ("DELETE", "{pk}/", remove))  # fmt: skip
    return [
        Route(method, f"/providers/{kind.path}/{rest}", functools.partial(handler, kind=kind))
        for method, rest, handler in verbs
    ]


ROUTES = (Route("GET", "/providers/all/", all_list), *(route for kind in KINDS for route in _of(kind)))
