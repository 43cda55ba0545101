"""The fake core behaves as the recordings of a real one: filters, paging, flows, cookies, WebSocket, faults."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import aiohttp
import httpx
import pytest

from tests.fakes import TOKEN, StubCore
from tests.stub_flows import Deny, Identification, Login, Password

QUERY = "?query=goauthentik.io%252Foutpost%252Fldap%3Dtrue"
EXECUTOR = f"/api/v3/flows/executor/bind-flow/{QUERY}"


@pytest.fixture
def core() -> Iterator[StubCore]:
    with StubCore() as core:
        core.load_conformance()
        yield core


@pytest.fixture
def client(core: StubCore) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=core.url, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False) as client:
        yield client


def test_lists_follow_the_paging_rules(core: StubCore, client: httpx.Client) -> None:
    """Pages are numbered, the last has next 0, one out of range is 404, no token is 403."""
    first = client.get("/api/v3/core/users/", params={"page_size": 3}).json()
    assert [item["username"] for item in first["results"]] == ["Carol, X", "alice", "bob"]
    assert first["pagination"]["next"] == 2
    assert client.get("/api/v3/core/users/", params={"page_size": 3, "page": 2}).json()["pagination"]["next"] == 0
    assert client.get("/api/v3/core/users/", params={"page": 9}).status_code == 404
    assert httpx.get(f"{core.url}/api/v3/core/users/", trust_env=False).status_code == 403


def test_filters_are_exact_and_unknown_choices_are_refused(client: httpx.Client) -> None:
    """User names compare with their case; unknown groups and members are 400."""

    def names(path: str, **query: str) -> list[str]:
        return [item.get("username") or item["name"] for item in client.get(path, params=query).json()["results"]]

    assert names("/api/v3/core/users/", username="alice") == ["alice"]
    assert names("/api/v3/core/users/", username="ALICE") == []
    assert names("/api/v3/core/users/", groups_by_name="ga") == ["alice", "bob"]
    assert client.get("/api/v3/core/users/", params={"groups_by_name": "GA"}).status_code == 400
    assert names("/api/v3/core/groups/", members_by_username="alice") == ["ga", "gb"]
    assert client.get("/api/v3/core/groups/", params={"members_by_pk": "99"}).status_code == 400
    group = client.get("/api/v3/core/groups/", params={"name": "ga"}).json()["results"][0]
    assert group["children_obj"] is None
    assert [item["username"] for item in group["users_obj"]] == ["alice", "bob"]


def test_a_flow_ends_logged_in_with_a_new_session(core: StubCore) -> None:
    """A POST first, 302, GET, redirect challenge; the cookie says authenticated, users/me knows who."""
    with httpx.Client(base_url=core.url, trust_env=False) as client:
        answer = client.post(EXECUTOR, json={"uid_field": "alice", "password": "pw"})
        assert answer.status_code == 302
        assert answer.headers["location"] == EXECUTOR
        before = client.cookies["authentik_session"]
        assert client.get(EXECUTOR).json()["component"] == "xak-flow-redirect"
        cookie = client.cookies["authentik_session"]
        assert cookie != before
        claims = json.loads(base64.urlsafe_b64decode(cookie.split(".")[1] + "=="))
        assert claims["authenticated"] is True
        assert client.get("/api/v3/core/users/me/").json()["user"]["pk"] == 1
        access = client.get("/api/v3/outposts/ldap/1/check_access/", params={"app_slug": "ldap-app"}).json()
        assert access["access"]["passing"]
        (session,) = core.sessions_of("alice")
        core.end_session(session)
        assert client.get("/api/v3/core/users/me/").status_code == 403


def test_a_wrong_password_stays_and_a_deny_stage_denies(core: StubCore) -> None:
    """Wrong: 200 with response_errors. Deny: access denied. Restart: silently back to the first stage."""
    core.executor.flows["deny"] = [Identification(), Deny("no")]
    core.executor.flows["restart"] = [Identification(password=False), Password(restart=True), Login()]

    def walk(slug: str, *answers: dict[str, str]) -> dict[str, object]:
        with httpx.Client(base_url=core.url, trust_env=False, follow_redirects=True) as client:
            target = f"/api/v3/flows/executor/{slug}/{QUERY}"
            answer = client.get(target)
            for fields in answers:
                answer = client.post(target, json=fields)
            return dict(answer.json())

    wrong = walk("bind-flow", {"uid_field": "alice", "password": "no"})
    assert "non_field_errors" in wrong["response_errors"]  # type: ignore[operator]
    assert walk("deny", {"uid_field": "alice", "password": "pw"})["component"] == "ak-stage-access-denied"
    restarted = walk("restart", {"uid_field": "alice"}, {"password": "no"})
    assert restarted["component"] == "ak-stage-identification"
    assert "response_errors" not in restarted
    inactive = walk("bind-flow", {"uid_field": "Carol, X", "password": "pw"})
    assert "response_errors" in inactive


def test_faults_come_and_go(core: StubCore, client: httpx.Client) -> None:
    """Status, count, HTML, reset and truncation are injected for matching calls only."""
    core.fault("/core/users/", status=500, times=1, query={"page": "2"})
    assert client.get("/api/v3/core/users/", params={"page": 1}).status_code == 200
    assert client.get("/api/v3/core/users/", params={"page": 2, "page_size": 3}).status_code == 500
    assert client.get("/api/v3/core/users/", params={"page": 2, "page_size": 3}).status_code == 200
    core.fault("/core/groups/", html=True)
    assert client.get("/api/v3/core/groups/").headers["content-type"].startswith("text/html")
    core.clear_faults()
    core.fault("/core/groups/", truncated=True)
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/api/v3/core/groups/")
    core.clear_faults()
    core.fault("/core/groups/", reset=True)
    with pytest.raises(httpx.TransportError):
        client.get("/api/v3/core/groups/")


async def test_websocket_acknowledges_and_pushes(core: StubCore) -> None:
    """A hello is acknowledged, updates and session ends arrive, a wrong token is 403."""
    url = f"{core.url}/ws/outpost/{core.outpost['pk']}/"
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await http.ws_connect(url, headers={"Authorization": "Bearer wrong"})
        async with http.ws_connect(url, headers={"Authorization": f"Bearer {TOKEN}"}) as socket:
            await socket.send_json({"instruction": 1, "args": {"uuid": "u"}})
            assert await socket.receive_json() == {"instruction": 0, "args": {}}
            assert core.hellos == [{"uuid": "u"}]
            core.push_update()
            assert (await socket.receive_json())["instruction"] == 2


def test_it_restarts_on_the_same_port(core: StubCore, client: httpx.Client) -> None:
    """An outage refuses connections; afterwards the same address answers."""
    core.stop()
    with pytest.raises(httpx.ConnectError):
        client.get("/api/v3/root/config/")
    core.start()
    assert client.get("/api/v3/root/config/").status_code == 200
