"""``/outposts/``: what an outpost asks about itself and its providers, and whether a user may pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core import access, durations, models
from core.api.base import NO_CREDENTIALS, Answer, Call, Route, by_number, by_uuid, not_found, update
from core.api.providers import LDAP, LDAP_OPTIONS, PROXY, PROXY_OPTIONS, RADIUS, base_fields
from core.errors import Forbidden, ValidationFailed
from core.oauth2 import discovery
from core.oauth2 import providers as clients
from core.oauth2.protocol import base_url
from core.radius_attributes import reply_attributes

OUTPOST = "authentik_outposts.outpost"
NAME = "Outpost"
DEFAULT_REFRESH = "minutes=5"
MIN_REFRESH_S = 30.0  # what outposts use at least

# What an outpost's ``config`` always has; outposts must find ``authentik_host``.
CONFIG_DEFAULTS: dict[str, Any] = {
    "log_level": "info",
    "authentik_host": "",
    "authentik_host_insecure": False,
    "authentik_host_browser": "",
    "object_naming_template": "ak-outpost-%(name)s",
    "refresh_interval": DEFAULT_REFRESH,
}


def shown(call: Call, outposts: Sequence[models.Outpost]) -> list[dict[str, Any]]:
    """Outposts as the API writes them."""
    database = call.services.database
    answer = []
    for outpost in outposts:
        known = database.get_many(models.Provider, outpost.providers)
        providers = [known[pk] for pk in outpost.providers if pk in known]
        config = CONFIG_DEFAULTS | outpost.config
        answer.append(
            {
                "pk": outpost.pk,
                "name": outpost.name,
                "type": outpost.type,
                "providers": [provider.pk for provider in providers],
                "providers_obj": base_fields(call, providers, typed=False),
                "service_connection": None,
                "service_connection_obj": None,
                "refresh_interval_s": refresh_interval_s(config),
                "token_identifier": outpost.token_identifier,
                "config": config,
                "managed": outpost.managed,
            }
        )
    return answer


def refresh_interval_s(config: dict[str, Any]) -> int:
    """The refresh interval of an outpost in seconds; one that cannot be read is the default."""
    try:
        return int(max(MIN_REFRESH_S, durations.seconds(str(config.get("refresh_interval", DEFAULT_REFRESH)))))
    except ValueError:
        return int(durations.seconds(DEFAULT_REFRESH))


async def instances(call: Call) -> Answer:
    """``GET /outposts/instances/``: an outpost sees exactly itself."""
    pks = call.visible(access.VIEW_OUTPOST, OUTPOST)
    filters: dict[str, Any] = {} if pks is None else {"pk__in": sorted(pks)}
    for name in ("name__iexact", "name__icontains", "managed__iexact", "managed__icontains"):
        if call.param(name) is not None:
            filters[name] = call.param(name)
    by_provider = call.all("providers_by_pk")
    if by_provider:
        numbers = [int(value) for value in by_provider if value.isascii() and value.isdigit() and len(value) < 19]
        filters["providers__in"] = numbers
    if call.boolean("providers__isnull") is not None:
        filters["providers__isnull"] = call.boolean("providers__isnull")
    return call.listed(models.Outpost, filters, lambda found: shown(call, found), ordering=("name",))


def _outpost(call: Call) -> models.Outpost:
    call.require_user()
    outpost = by_uuid(call, models.Outpost, NAME, call.path["pk"])
    call.require_visible(access.VIEW_OUTPOST, outpost, NAME)
    return outpost


async def instance(call: Call) -> Answer:
    """``GET /outposts/instances/<uuid>/``."""
    return Answer(shown(call, [_outpost(call)])[0])


async def instance_change(call: Call) -> Answer:
    """``PATCH`` and ``PUT /outposts/instances/<uuid>/``; the outpost is told."""
    call.require_superuser()
    outpost = _outpost(call)
    call.writable(outpost)
    data = await call.json()
    update(outpost, data, {"name": str, "config": dict})
    if "providers" in data:
        pks = data["providers"]
        known = call.services.database.get_many(models.Provider, pks if isinstance(pks, list) else [])
        if not isinstance(pks, list) or any(pk not in known for pk in pks):
            raise ValidationFailed({"providers": ["Invalid pk - object does not exist."]})
        outpost.providers = list(pks)
    call.services.database.save(outpost)
    return Answer(shown(call, [outpost])[0])


async def instance_remove(call: Call) -> Answer:
    """``DELETE /outposts/instances/<uuid>/``: its token ends with it."""
    call.require_superuser()
    outpost = _outpost(call)
    call.writable(outpost)
    call.services.database.delete(outpost)
    return Answer(status=204)


# --- providers as outposts read them ---------------------------------------------------------------------------------


def _served(call: Call, type_: str) -> tuple[list[models.Provider], dict[int, models.Application]]:
    """Providers of a type that the caller may see and that have an application, by name, with those applications."""
    pks = call.visible(access.view_provider(type_), type_)
    filters: dict[str, Any] = {"type": type_}
    if pks is not None:
        filters["pk__in"] = [int(pk) for pk in pks]
    if call.param("name") is not None:
        filters["name"] = call.param("name")
    providers = call.services.database.find(models.Provider, order_by="name", **filters)
    applications = call.services.database.applications_of([int(provider.pk or 0) for provider in providers])
    return [provider for provider in providers if provider.pk in applications], applications


def _slugs(call: Call, providers: Sequence[models.Provider]) -> dict[str, str]:
    wanted = {pk for item in providers for pk in (item.authentication_flow, item.authorization_flow,
                                                  item.invalidation_flow) if pk}  # fmt: skip
    return {pk: flow.slug for pk, flow in call.services.database.get_many(models.Flow, wanted).items()}


async def ldap(call: Call) -> Answer:
    """``GET /outposts/ldap/``: the bind flow is the authorization flow, as with the reference."""
    providers, applications = _served(call, LDAP)

    def show(page: Sequence[models.Provider]) -> list[dict[str, Any]]:
        slugs = _slugs(call, page)
        return [
            {
                "pk": provider.pk,
                "name": provider.name,
                "bind_flow_slug": slugs.get(provider.authorization_flow or "", ""),
                "unbind_flow_slug": slugs.get(provider.invalidation_flow or ""),
                "application_slug": applications[int(provider.pk or 0)].slug,
                "certificate": provider.options.get("certificate"),
                **{name: provider.options.get(name, default) for name, (default, _) in LDAP_OPTIONS.items()},
            }
            for provider in page
        ]

    return call.page(len(providers), lambda limit, offset: providers[offset : offset + limit], show)


async def radius(call: Call) -> Answer:
    """``GET /outposts/radius/``."""
    providers, applications = _served(call, RADIUS)

    def show(page: Sequence[models.Provider]) -> list[dict[str, Any]]:
        slugs = _slugs(call, page)
        return [
            {
                "pk": provider.pk,
                "name": provider.name,
                "application_slug": applications[int(provider.pk or 0)].slug,
                "auth_flow_slug": slugs.get(provider.authorization_flow or "", ""),
                "client_networks": provider.options.get("client_networks", "0.0.0.0/0, ::/0"),
                "shared_secret": provider.options.get("shared_secret", ""),
                "mfa_support": provider.options.get("mfa_support", True),
                "certificate": provider.options.get("certificate"),
            }
            for provider in page
        ]

    return call.page(len(providers), lambda limit, offset: providers[offset : offset + limit], show)


async def proxy(call: Call) -> Answer:
    """``GET /outposts/proxy/``; the addresses are those by which this very request came (flows.md §8.4)."""
    providers, applications = _served(call, PROXY)
    database = call.services.database
    base = base_url(call.http.headers.get("Host", ""), call.http.headers.get("X-Forwarded-Proto", ""),
                    secure=call.http.secure)  # fmt: skip
    if base is None:
        raise ValidationFailed("The Host header is not acceptable.")

    def show(page: Sequence[models.Provider]) -> list[dict[str, Any]]:
        shown = []
        for provider in page:
            client = clients.of(provider, applications[int(provider.pk or 0)])
            shown.append(
                {
                    "pk": provider.pk,
                    "name": provider.name,
                    **{name: provider.options.get(name, default) for name, default in PROXY_OPTIONS.items()},
                    "client_id": client.client_id,
                    "client_secret": client.client_secret,
                    "oidc_configuration": discovery.document(database, client, base),
                    "access_token_validity": client.access_life_s,
                    "scopes_to_request": clients.scopes(database, client),
                    "assigned_application_slug": client.application.slug,
                    "assigned_application_name": client.application.name,
                }
            )
        return shown

    return call.page(len(providers), lambda limit, offset: providers[offset : offset + limit], show)


def _asked(call: Call, type_: str, name: str) -> tuple[models.User, models.Provider, models.Application]:
    """Who asks for access, and to what. An anonymous session is never answered.

    :raises Forbidden: nobody is logged in.
    :raises NotFound: there is no such provider or application. They need not belong together.
    """
    if call.user is None:
        raise Forbidden(NO_CREDENTIALS)
    provider = by_number(call, models.Provider, name, call.path["pk"])
    if provider.type != type_:
        raise not_found(name)
    slug = call.param("app_slug")
    if slug is None:
        raise ValidationFailed({"app_slug": ["This field is required."]})
    application = call.services.database.first(models.Application, slug=slug)
    if application is None:
        raise not_found("Application")
    return call.user, provider, application


def _access(passing: bool) -> dict[str, Any]:
    """Both lists of messages are always empty."""
    return {"passing": passing, "messages": [], "log_messages": []}


async def ldap_check_access(call: Call) -> Answer:
    """``GET /outposts/ldap/<pk>/check_access/?app_slug=``: for the user of the session (or token), never anonymous.

    ``has_search_permission`` does not depend on ``passing``.
    """
    user, provider, application = _asked(call, LDAP, "LDAPProvider")
    result = await call.services.access.application(application, user, http_request=call.http)
    return Answer(
        {
            "has_search_permission": call.services.access.search_full_directory(user, provider),
            "access": _access(result.passing is True),
        }
    )


async def radius_check_access(call: Call) -> Answer:
    """``GET /outposts/radius/<pk>/check_access/?app_slug=``: as above, with the reply attributes of who may pass."""
    user, provider, application = _asked(call, RADIUS, "RadiusProvider")
    result = await call.services.access.application(application, user, http_request=call.http)
    passing = result.passing is True
    attributes = await reply_attributes(call.services, provider, user, call.http) if passing else None
    return Answer({"attributes": attributes, "access": _access(passing)})


ROUTES = (
    Route("GET", "/outposts/instances/", instances),
    Route("GET", "/outposts/instances/{pk}/", instance),
    Route("PATCH", "/outposts/instances/{pk}/", instance_change),
    Route("PUT", "/outposts/instances/{pk}/", instance_change),
    Route("DELETE", "/outposts/instances/{pk}/", instance_remove),
    Route("GET", "/outposts/ldap/", ldap),
    Route("GET", "/outposts/ldap/{pk}/check_access/", ldap_check_access),
    Route("GET", "/outposts/radius/", radius),
    Route("GET", "/outposts/radius/{pk}/check_access/", radius_check_access),
    Route("GET", "/outposts/proxy/", proxy),
)
