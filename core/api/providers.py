"""``/providers/``: the administrator's view of providers; only LDAP ones are written over the API so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core import access, models
from core.api.base import Answer, Call, Route, by_number, update
from core.errors import ValidationFailed

LDAP = "authentik_providers_ldap.ldapprovider"
RADIUS = "authentik_providers_radius.radiusprovider"
PROXY = "authentik_providers_proxy.proxyprovider"
NAME = "LDAPProvider"

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


def _shown_ldap(call: Call, providers: Sequence[models.Provider]) -> list[dict[str, Any]]:
    answer = []
    for provider, base in zip(providers, base_fields(call, providers, typed=True), strict=True):
        # the API requires these four to be texts
        for name in ("assigned_application", "assigned_backchannel_application"):
            base[f"{name}_slug"] = base[f"{name}_slug"] or ""
            base[f"{name}_name"] = base[f"{name}_name"] or ""
        served = call.services.database.outposts_with_provider(int(provider.pk or 0))
        options = {name: provider.options.get(name, default) for name, (default, _) in LDAP_OPTIONS.items()}
        answer.append(
            base
            | options
            | {"certificate": provider.options.get("certificate"), "outpost_set": [outpost.name for outpost in served]}
        )
    return answer


async def ldap_list(call: Call) -> Answer:
    """``GET /providers/ldap/``."""
    pks = call.visible(access.view_provider(LDAP), LDAP)
    filters: dict[str, Any] = {"type": LDAP}
    if pks is not None:
        filters["pk__in"] = [int(pk) for pk in pks]
    if call.param("name__iexact") is not None:
        filters["name__iexact"] = call.param("name__iexact")
    return call.listed(models.Provider, filters, lambda found: _shown_ldap(call, found), ordering=("name", "pk"))


def _ldap(call: Call) -> models.Provider:
    call.require_user()
    provider = by_number(call, models.Provider, NAME, call.path["pk"])
    call.require_visible(access.view_provider(LDAP), provider, NAME)
    return provider


async def ldap_retrieve(call: Call) -> Answer:
    """``GET /providers/ldap/<pk>/``."""
    return Answer(_shown_ldap(call, [_ldap(call)])[0])


async def ldap_change(call: Call) -> Answer:
    """``PATCH`` and ``PUT /providers/ldap/<pk>/``; the outposts that serve it are told."""
    call.require_superuser()
    provider = _ldap(call)
    call.writable(provider)
    data = await call.json()
    problems: dict[str, list[str]] = {}
    options = dict(provider.options)
    for name, (_, kind) in LDAP_OPTIONS.items():
        if name not in data:
            continue
        value = data[name]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            problems[name] = ["Not a valid value."]
        elif name in ("search_mode", "bind_mode") and value not in MODES:
            problems[name] = [f'"{value}" is not a valid choice.']
        else:
            options[name] = value
    if "certificate" in data:
        pk = data["certificate"]
        if pk is not None and call.services.database.first(models.KeyPair, pk=str(pk)) is None:
            problems["certificate"] = ["Invalid pk - object does not exist."]
        options["certificate"] = pk
    if problems:
        raise ValidationFailed(problems)
    update(provider, data, {"name": str})
    provider.options = options
    call.services.database.save(provider)
    return Answer(_shown_ldap(call, [provider])[0])


async def ldap_remove(call: Call) -> Answer:
    """``DELETE /providers/ldap/<pk>/``."""
    call.require_superuser()
    provider = _ldap(call)
    call.writable(provider)
    call.services.database.delete(provider)
    return Answer(status=204)


async def all_list(call: Call) -> Answer:
    """``GET /providers/all/``, for superusers."""
    call.require_superuser()
    return call.listed(models.Provider, {}, lambda found: base_fields(call, found, typed=True), ordering=("name", "pk"))


ROUTES = (
    Route("GET", "/providers/all/", all_list),
    Route("GET", "/providers/ldap/", ldap_list),
    Route("GET", "/providers/ldap/{pk}/", ldap_retrieve),
    Route("PATCH", "/providers/ldap/{pk}/", ldap_change),
    Route("PUT", "/providers/ldap/{pk}/", ldap_change),
    Route("DELETE", "/providers/ldap/{pk}/", ldap_remove),
)
