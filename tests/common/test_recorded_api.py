"""Every recorded answer of a real core's API decodes with our records, through the client that daemons use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest

from common import records
from common.api import CoreApi
from common.errors import CoreError, CoreForbidden, CoreNotFound, CoreRejected, CoreUnavailable
from tests import recorded
from tests.common.test_recorded_flows import Settings

# Path below /api/v3 → what a good answer decodes to. Longest match wins.
KINDS: dict[str, Any] = {
    "/outposts/instances/": records.Page[records.OutpostRecord],
    "/root/config/": records.RootConfig,
    "/outposts/ldap/": records.Page[records.LDAPProvider],
    "/outposts/radius/": records.Page[records.RadiusProvider],
    "/outposts/proxy/": records.Page[records.ProxyProvider],
    "/core/users/": records.Page[records.User],
    "/core/users/5/": records.User,
    "/core/users/8/": records.User,
    "/core/users/me/": records.Me,
    "/core/groups/": records.Page[records.Group],
    "/core/groups/57d15cc9-1978-4494-8caa-6be832df8841/": records.Group,
    "/crypto/certificatekeypairs/": records.Page[records.CertificateKeyPair],
    "check_access/": records.AccessCheck,
    "view_certificate/": records.CertificateData,
    "view_private_key/": records.CertificateData,
    "/events/events/": dict[str, Any],
}
ADMIN_ONLY = ("/health/", "/default_settings/")  # not read by outposts

EXCHANGES = [
    pytest.param(exchange, id=f"{name}-{index}")
    for name in recorded.names("api")
    for index, exchange in enumerate(recorded.recording("api", name)["exchanges"])
    if not exchange["request"]["path"].partition("?")[0].endswith(ADMIN_ONLY)
]
ERRORS = {400: CoreRejected, 403: CoreForbidden, 404: CoreNotFound, 500: CoreUnavailable}


def kind_of(path: str) -> Any:
    """What a path answers with."""
    below = path.partition("?")[0].removeprefix("/api/v3")
    if below in KINDS:
        return KINDS[below]
    for ending in ("check_access/", "view_certificate/", "view_private_key/"):
        if below.endswith(ending):
            return KINDS[ending]
    if below.startswith("/crypto/certificatekeypairs/"):
        return records.CertificateKeyPair
    return None


def api_with(answer: Callable[[httpx.Request], httpx.Response], **more: Any) -> CoreApi:
    """A client whose answers come from a function."""
    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return CoreApi(Settings("outpost-token"), client=client, **more)


def answer_of(exchange: recorded.JSON) -> httpx.Response:
    """The recorded answer as httpx sees it."""
    found = recorded.response(exchange)
    headers = [(key, value) for key, value in found.headers.items() if key.lower() != "content-length"]
    return httpx.Response(found.status, headers=headers, content=found.body)


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_recorded_answer(exchange: recorded.JSON) -> None:
    """2xx decodes; anything else becomes the error of its status, with the core's request id."""
    request = exchange["request"]
    path = request["path"].partition("?")[0].removeprefix("/api/v3")
    api = api_with(lambda _: answer_of(exchange))
    status = exchange["response"]["status"]
    kind = kind_of(request["path"]) or dict[str, Any]
    if status < 300:
        decoded = await api._get(path, (), kind)
        if hasattr(decoded, "results"):
            assert len(decoded.results) == len(exchange["response"]["json"]["results"])
    else:
        with pytest.raises(ERRORS[status]) as caught:
            await api._get(path, (), kind)
        assert caught.value.status == status
        assert caught.value.request_id == recorded.response(exchange).headers["x-authentik-id"]
        body = exchange["response"].get("json") or {}
        if "detail" in body:
            assert caught.value.problem == body["detail"]
        elif status == 400:
            assert isinstance(caught.value, CoreRejected)
            assert caught.value.fields == body
    await api.close()


async def test_recorded_users_by_page() -> None:
    """Four recorded pages become one listing; what we send is what the recording was asked."""
    exchanges = {
        exchange["request"]["path"]: exchange
        for name in ("core_users_pages", "core_groups_pages")
        for exchange in recorded.recording("api", name)["exchanges"]
    }
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        target = request.url.raw_path.decode()
        asked.append(target)
        return answer_of(exchanges[target])

    api = api_with(answer)
    users = await api.users({"include_groups": "true", "include_roles": "true"}, page_size=10)
    whole = await api.users({"include_groups": "true", "include_roles": "true"}, page_size=50)
    groups = await api.groups(
        {
            "include_children": "true",
            "include_inherited_roles": "false",
            "include_parents": "true",
            "include_users": "true",
        },
        page_size=3,
    )
    assert len(asked) == 4 + 1 + 3
    decoded = [msgspec.json.decode(item, type=records.User) for item in users]
    assert [user.username for user in decoded] == [
        msgspec.json.decode(item, type=records.User).username for item in whole
    ]
    alice = next(user for user in decoded if user.username == "alice")
    assert alice.pk == 5
    assert alice.groups_obj is not None
    assert {group.name for group in alice.groups_obj} == {"staff", "ldap-search"}
    by_name = {group.name: group for group in (msgspec.json.decode(item, type=records.Group) for item in groups)}
    assert by_name["Matrix, +Müller"].parents is not None
    assert len(by_name["Matrix, +Müller"].parents) == 2
    await api.close()


async def test_recorded_provider_lists() -> None:
    """The typed lists."""
    answers = {
        exchange["request"]["path"]: exchange
        for kind in ("ldap", "radius", "proxy", "ldap")
        for exchange in reversed(recorded.recording("api", f"outposts_{kind}")["exchanges"])
    }
    api = api_with(lambda request: answer_of(answers[request.url.raw_path.decode()]))
    assert [provider.name for provider in await api.ldap_providers()] == ["LDAP cached", "LDAP direct", "LDAP mfa"]
    assert len(await api.radius_providers()) == 3
    assert len(await api.proxy_providers()) == 4
    await api.close()


async def test_recorded_certificate() -> None:
    """Certificate, chain and key; ``repr`` shows no key."""
    exchanges = recorded.recording("api", "crypto_certificate")["exchanges"][:3]
    answers = {exchange["request"]["path"]: exchange for exchange in exchanges}
    pk = exchanges[0]["request"]["path"].rstrip("/").rpartition("/")[2]
    api = api_with(lambda request: answer_of(answers[request.url.raw_path.decode()]))
    pair = await api.certificate_key_pair(pk)
    assert pair.fingerprint_sha256 is not None
    assert "BEGIN CERTIFICATE" in await api.certificate_pem(pk)
    assert "PRIVATE KEY" in await api.private_key_pem(pk)
    await api.close()


async def test_recorded_event() -> None:
    """An event goes out with a bare address, because a core refuses ``host:port`` (recorded 400)."""
    exchanges = recorded.recording("api", "events_create")["exchanges"]
    assert [exchange["response"]["status"] for exchange in exchanges] == [400, 201, 201]
    bodies: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(msgspec.json.decode(request.content))
        return answer_of(exchanges[1])

    api = api_with(answer)
    await api.report_event("configuration_error", {"message": "m"}, "::ffff:192.0.2.7")
    await api.report_event("configuration_error", {"message": "m"}, "192.0.2.7:4711")
    await api.report_event("configuration_error", {"message": "m"})
    assert [body["client_ip"] for body in bodies] == ["192.0.2.7", None, None]
    assert bodies[0] == {"action": "configuration_error", "context": {"message": "m"}, "client_ip": "192.0.2.7"}
    api_refusing = api_with(lambda _: answer_of(exchanges[0]))
    with pytest.raises(CoreError):
        await api_refusing.report_event("configuration_error", {})
    await api.close()
    await api_refusing.close()
