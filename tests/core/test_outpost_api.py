"""What outposts and administrators get from the API, and what the WebSocket tells (flows.md §8, cases 82 to 86)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import jwt
import pytest

from core import models, otp
from core.hub import MAX_MESSAGE_BYTES
from tests.core.cores import OUTPOST, Core, core

WAIT_S = 5.0  # far more than the hub's delay; a missing message fails the test


def outpost(running: Core, name: str = OUTPOST) -> models.Outpost:
    """An outpost by name."""
    found = running.database.first(models.Outpost, name=name)
    assert found is not None
    return found


@contextlib.asynccontextmanager
async def socket(running: Core, name: str = OUTPOST) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A WebSocket of an outpost."""
    url = f"{running.url}/ws/outpost/{outpost(running, name).pk}/?instance_uuid=one&attempt=0"
    headers = {"Authorization": f"Bearer {running.outpost_token(name)}"}
    async with running.http.ws_connect(url, headers=headers) as opened:
        yield opened


async def message(opened: aiohttp.ClientWebSocketResponse) -> Any:
    """The next message."""
    return json.loads(await asyncio.wait_for(opened.receive_str(), WAIT_S))


async def instruction(opened: aiohttp.ClientWebSocketResponse, number: int) -> Any:
    """The next message with this instruction; others are passed over."""
    while True:
        found = await message(opened)
        if found["instruction"] == number:
            return found["args"]


async def test_case_82_login_and_access_by_outpost_headers() -> None:
    """Two stages, access check, who am I; the search permission is a matter of its own."""
    async with core() as running:
        for name, may_search in (("alice", True), ("user01", False)):
            client = running.headless()
            await client.flow("default-authentication-flow")
            await client.walk("default-authentication-flow", {"uid_field": name})
            reply = await client.walk("default-authentication-flow", {"password": f"{name}-pw-1"})
            assert reply.component == "xak-flow-redirect"
            check = await client.get("/outposts/ldap/1/check_access/?app_slug=ldap-direct")
            assert check.json["access"] == {"passing": True, "messages": [], "log_messages": []}
            assert check.json["has_search_permission"] is may_search
            assert (await client.get("/core/users/me/")).json["user"]["username"] == name


async def test_case_83_totp() -> None:
    """A code as second answer; without one there is no way through."""
    async with core() as running:
        client = running.headless()
        await client.walk("rc-mfa-flow", {"uid_field": "bob", "password": "bob-pw-1"})
        assert (await client.get("/core/users/me/")).status == 403
        code = otp.hotp(b"12345678901234567890", int(running.clock.now // 30), 6)
        assert (await client.walk("rc-mfa-flow", {"code": code})).component == "xak-flow-redirect"
        assert (await client.get("/core/users/me/")).json["user"]["username"] == "bob"


async def test_case_84_check_access() -> None:
    """Nobody: 403, also for an application without bindings. Somebody without the right: 200, not passing."""
    async with core() as running:
        for client in (running.client(), running.headless()):
            await client.flow("rc-empty-flow")
            for path in ("1/check_access/?app_slug=ldap-direct", "3/check_access/?app_slug=ldap-mfa"):
                assert (await client.get(f"/outposts/ldap/{path}")).status == 403
            assert (await client.get("/core/users/me/")).status == 403
        carol = running.client()
        await carol.login("carol", "carol-pw-1")
        denied = await carol.get("/outposts/ldap/1/check_access/?app_slug=ldap-direct")
        assert (denied.status, denied.json["access"]["passing"]) == (200, False)
        assert (await carol.get("/outposts/ldap/3/check_access/?app_slug=ldap-mfa")).json["access"]["passing"] is True
        assert (await carol.get("/outposts/ldap/3/check_access/")).status == 400


async def test_case_85_what_an_outpost_sees() -> None:
    """Itself, its providers, all users; nothing of other types; a person's token sees none of it."""
    async with core() as running:
        client = running.bearer(running.outpost_token())
        assert [item["name"] for item in (await client.get("/outposts/instances/")).json["results"]] == [OUTPOST]
        for path in ("/outposts/radius/", "/outposts/proxy/"):
            assert (await client.get(path)).json["results"] == []
        other = running.bearer(running.outpost_token("RC RADIUS outpost"))
        assert (await other.get("/core/users/")).json["results"] == []
        person = running.bearer("alice-api-token-key-1")
        for path in ("/outposts/instances/", "/outposts/ldap/", "/core/users/", "/core/groups/", "/flows/instances/"):
            reply = await person.get(path)
            assert (reply.status, reply.json) == (
                403,
                {"detail": "You do not have permission to perform this action."},
            ), path
        assert (await running.bearer("alice-app-password-key-1").get("/outposts/instances/")).status == 403


async def test_certificates() -> None:
    """An outpost reads certificate and key of its own providers; anybody else does not learn that they exist."""
    async with core() as running:
        pair = running.database.first(models.KeyPair, name="recorded certificate")
        assert pair is not None
        base = f"/crypto/certificatekeypairs/{pair.pk}/"
        client = running.bearer(running.outpost_token())
        shown = (await client.get(base)).json
        assert len(shown["fingerprint_sha256"]) == 95
        assert "BEGIN" not in json.dumps(shown)
        assert (await client.get(base + "view_certificate/")).json["data"] == pair.certificate_data
        assert (await client.get(base + "view_private_key/")).json["data"] == pair.key_data
        running.database.save(models.Outpost(name="without providers", type="radius"))
        stranger = running.bearer(running.outpost_token("without providers"))
        for path in (base, base + "view_certificate/", base + "view_private_key/"):
            assert (await stranger.get(path)).status == 404
            assert (await running.client().get(path)).status == 403


async def test_case_86_websocket() -> None:
    """Who may connect, what is acknowledged, and what closes the connection."""
    async with core() as running:
        pk = outpost(running).pk
        tokens = {
            "": 403,
            "nonsense": 403,
            "alice-api-token-key-1": 403,
            running.outpost_token("RC RADIUS outpost"): 403,
        }
        for token, status in tokens.items():
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await running.http.ws_connect(f"{running.url}/ws/outpost/{pk}/", headers=headers)
            assert refused.value.status == status
        async with socket(running) as opened:
            for sent in (
                '{"instruction": 1, "args": {"version": "1", "uuid": "one"}}',
                '{"instruction": 1}',
                '{"instruction": 99, "args": {}}',
            ):
                await opened.send_str(sent)
                assert (await opened.receive_str()) == '{"instruction": 0, "args": {}}'
                expected = {"version": "1"} if "version" in sent else {}
                assert running.inner.hub.health(pk)["one"].said == expected
            running.clock.now += 16
            assert running.inner.hub.health(pk) == {}
        for wrong in ("not json", "[]", '{"args": {}}', '{"instruction": "1"}', '{"instruction": 1, "args": []}'):
            async with socket(running) as opened:
                await opened.send_str(wrong)
                assert (await asyncio.wait_for(opened.receive(), WAIT_S)).type == aiohttp.WSMsgType.CLOSE
                assert opened.close_code == 1000
        async with socket(running) as opened:
            await opened.send_str("x" * (MAX_MESSAGE_BYTES + 1))
            assert (await asyncio.wait_for(opened.receive(), WAIT_S)).type == aiohttp.WSMsgType.CLOSE


async def test_updates_are_told_once() -> None:
    """A saved provider, outpost, certificate or application is one message to the outposts concerned, to no other."""
    async with core() as running:
        pair = running.database.first(models.KeyPair, name="recorded certificate")
        application = running.database.first(models.Application, slug="ldap-direct")
        provider = running.database.get(models.Provider, 1)
        async with socket(running) as opened, socket(running, "RC RADIUS outpost") as other:
            for record in (provider, outpost(running), pair, application):
                assert record is not None
                running.database.save(record)
                running.database.save(record)  # two saves of one edit
                assert await message(opened) == {"instruction": 2, "args": {}}
                if record is pair:  # a provider of the other one has it too
                    assert await message(other) == {"instruction": 2, "args": {}}
            running.database.delete(provider)
            assert await message(opened) == {"instruction": 2, "args": {}}
            # the next thing that both hear is the session end: no update came for the other one
            session = await _logged_in(running, "alice")
            running.database.delete(session)
            assert (await message(other))["instruction"] == 4
            assert (await message(opened))["instruction"] == 4


async def _logged_in(running: Core, name: str) -> models.Session:
    client = running.client()
    await client.login(name, f"{name}-pw-1")
    session = running.services.sessions.open(client.jar, "127.0.0.1").record
    assert session is not None
    return session


@pytest.mark.parametrize("way", ["logout", "admin", "deactivate", "delete", "expire", "again"])
async def test_session_end_reaches_all_outposts(way: str) -> None:
    """However a session ends, every outpost hears the hash of its key; a password set by an admin ends nothing."""
    async with core() as running:
        client = running.client()
        await client.login("alice", "alice-pw-1")
        sid = jwt.decode(client.jar["authentik_session"], options={"verify_signature": False})["sid"]
        alice = running.user("alice")
        admin = running.admin()
        async with socket(running) as opened, socket(running, "RC RADIUS outpost") as other:
            reply = await admin.post(f"/core/users/{alice.pk}/set_password/", {"password": "another-pw"})
            if reply.status == 409:  # the user belongs to the blueprint file
                running.database.forget_owned(str(running.database.owner_of(alice)))
                reply = await admin.post(f"/core/users/{alice.pk}/set_password/", {"password": "another-pw"})
            assert reply.status == 204
            assert (await client.get("/core/users/me/")).status == 200
            match way:
                case "logout":
                    reply = await client.flow("default-invalidation-flow")
                    assert reply.json == {"component": "xak-flow-redirect", "to": "/"}
                    assert reply.cookies["authentik_session"]["max-age"] == "0"
                case "admin":
                    listed = (await admin.get("/core/authenticated_sessions/?user__username=alice")).json["results"]
                    reply = await admin.request("DELETE", f"/api/v3/core/authenticated_sessions/{listed[0]['uuid']}/")
                    assert reply.status == 204
                case "deactivate":
                    reply = await admin.request("PATCH", f"/api/v3/core/users/{alice.pk}/", body={"is_active": False})
                    assert reply.status == 200
                case "delete":
                    assert (await admin.request("DELETE", f"/api/v3/core/users/{alice.pk}/")).status == 204
                case "expire":
                    running.clock.now += 86401
                    running.database.expire()
                case "again":
                    client.headers["X-authentik-CSRF"] = client.jar["authentik_csrf"]
                    assert (await client.login("bob", "bob-pw-1")).component == "xak-flow-redirect"
            for listener in (opened, other):
                args = await instruction(listener, 4)
                assert args == {"type": "event.session.end", "session_id": hashlib.sha256(sid.encode()).hexdigest()}
        if way != "again":
            assert (await client.get("/core/users/me/")).status == 403


async def test_anonymous_sessions_end_in_silence() -> None:
    """A session that nobody logged into is of no interest to outposts."""
    async with core() as running, socket(running) as opened:
        await running.client().flow("ldap-authentication-flow")
        running.clock.now += 86401
        running.database.expire()
        assert running.database.count(models.Session) == 0
        session = await _logged_in(running, "alice")
        running.database.delete(session)
        assert (await instruction(opened, 4))["session_id"] == session.pk


async def test_server_stop_closes_with_1012() -> None:
    """Outposts are told that the server restarts."""
    async with core() as running, socket(running) as opened:
        closing = asyncio.create_task(running.inner.hub.close())
        assert (await asyncio.wait_for(opened.receive(), WAIT_S)).type == aiohttp.WSMsgType.CLOSE
        assert opened.close_code == 1012
        await closing


async def test_pages() -> None:
    """Sizes are capped, pages out of range are 404, unknown parameters and orders are ignored."""
    async with core() as running:
        client = running.bearer(running.outpost_token())
        total = running.database.count(models.User)
        reply = (await client.get("/core/users/?page=2&page_size=10&nonsense=1&ordering=nonsense")).json
        assert reply["pagination"] | {"total_pages": 0} == {
            "next": 3, "previous": 1, "count": total, "current": 2, "total_pages": 0, "start_index": 11,
            "end_index": 20,
        }  # fmt: skip
        assert len((await client.get("/core/users/")).json["results"]) == 20
        assert len((await client.get("/core/users/?page_size=1000000")).json["results"]) == total
        for page in ("0", "-1", "99", "x", "1.5"):
            bad = await client.get(f"/core/users/?page={page}")
            assert (bad.status, bad.json) == (404, {"detail": "Invalid page."})
        names = [item["username"] for item in (await client.get("/core/users/?ordering=-username")).json["results"]]
        assert names == sorted(names, reverse=True)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("is_active=false", {"dave"}),
        ("type=service_account", {"ldapservice"}),
        ("groups_by_name=engineering", {"user11"}),
        ("groups_by_name=engineering&groups_by_name=ldap-search", {"alice", "user11"}),
        ("search=Number%2001", {"user01"}),
        ('attributes={"nested":{"a":1}}', {"alice"}),
        ("is_superuser=true", {"akadmin"}),
        ("path_startswith=goauthentik.io&type=external", set()),
        ("date_joined__gt=2999-01-01T00:00:00Z", set()),
        ("username=alice&email=bob@example.test", set()),
    ],
)
async def test_user_filters(query: str, expected: set[str]) -> None:
    """Filters of the user list."""
    async with core() as running:
        reply = await running.admin().get(f"/core/users/?{query}")
        assert {item["username"] for item in reply.json["results"]} == expected


async def test_errors_have_the_apis_shapes() -> None:
    """Wrong methods, wrong bodies, wrong tokens on public pages, huge bodies, and nothing of it is a 500."""
    async with core() as running:
        wrong = running.bearer("nonsense")
        for path in ("/root/config/", "/core/brands/current/", "/core/users/"):
            reply = await wrong.get(path)
            assert (reply.status, reply.json) == (403, {"detail": "Token invalid/expired"})
            assert "WWW-Authenticate" not in reply.headers
        admin = running.admin()
        assert (await admin.request("DELETE", "/api/v3/root/config/")).status == 405
        assert (await admin.request("POST", "/api/v3/core/users/", raw=b"{")).status == 400
        assert (await admin.post("/core/users/", {"name": "x"})).json == {"username": ["This field is required."]}
        assert (await admin.post("/core/users/", {"username": "alice", "name": "x"})).status == 400
        assert (await admin.request("POST", "/api/v3/core/users/", raw=io.BytesIO(b"x" * 2_000_000))).status == 413
        for path in ("/core/users/99999999999999999999/", "/core/users/x/", "/core/groups/x/", "/nothing/here/"):
            assert (await admin.get(path)).status == 404
        assert len((await admin.get("/root/config/")).headers["X-authentik-id"]) == 32


async def test_blueprint_objects_are_read_only() -> None:
    """What a ``--blueprint`` file owns is not changed over the API; what an administrator made is."""
    async with core() as running:
        admin = running.admin()
        alice = running.user("alice")
        assert (await admin.request("PATCH", f"/api/v3/core/users/{alice.pk}/", body={"name": "x"})).status == 409
        made = await admin.post("/core/users/", {"username": "new", "name": "New", "groups": []})
        assert made.status == 201
        path = f"/api/v3/core/users/{made.json['pk']}/"
        group = (await admin.post("/core/groups/", {"name": "g"})).json
        assert (await admin.post(f"/core/groups/{group['pk']}/add_user/", {"pk": made.json["pk"]})).status == 204
        assert (await admin.request("GET", path)).json["groups"] == [group["pk"]]
        assert (await admin.request("PATCH", path, body={"is_active": "yes"})).status == 400
        assert (await admin.request("DELETE", path)).status == 204


async def test_forged_and_foreign_cookies_count_as_none() -> None:
    """Neither a cookie signed with another key, nor ``alg: none``, nor an ended session logs anybody in."""
    async with core() as running:
        client = running.client()
        await client.login("alice", "alice-pw-1")
        good = client.jar["authentik_session"]
        claims = jwt.decode(good, options={"verify_signature": False})
        forged = jwt.encode(claims, "k" * 32, algorithm="HS256")
        unsigned = jwt.encode(claims, None, algorithm="none")
        for text in (forged, unsigned, "x", good[:-2], good.split(".")[0]):
            thief = running.client()
            thief.jar = {"authentik_session": text}
            assert (await thief.get("/core/users/me/")).status == 403
        assert (await client.get("/core/users/me/")).status == 200


async def test_forwarded_addresses_count_from_trusted_proxies_only() -> None:
    """The last address that is no trusted proxy; nothing from a stranger."""
    cases = ((True, "203.0.113.7, 127.0.0.1", "203.0.113.7"), (True, "6.6.6.6, 203.0.113.7", "203.0.113.7"),
             (True, "nonsense", "127.0.0.1"), (False, "203.0.113.7", "127.0.0.1"))  # fmt: skip
    for trusted, sent, expected in cases:
        environ = {} if trusted else {"AUTHENTIK_LISTEN__TRUSTED_PROXY_CIDRS": "10.0.0.0/8"}
        async with core(**environ) as running:
            client = running.client(**{"X-Forwarded-For": sent, "X-Forwarded-Proto": "https"})
            reply = await client.flow("ldap-authentication-flow")
            session = running.services.sessions.open(client.jar, "").record
            assert session is not None
            assert session.last_ip == expected
            assert ("secure" in reply.cookies["authentik_session"]) is trusted


async def test_starting_answers_503() -> None:
    """Until blueprints are applied only the live check is answered."""
    async with core() as running:
        running.inner.server.ready = False
        assert (await running.client().get("/root/config/")).status == 503
        assert (await running.client().request("GET", "/-/health/ready/")).status == 503
        assert (await running.client().request("GET", "/-/health/live/")).status == 204
