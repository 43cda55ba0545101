"""Conformance cases of the flow engine, by their numbers in the specification (flows.md §10)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core import models, otp
from core.flows.executor import is_local
from core.models import Flow, Policy, PolicyBinding, Stage, StageBinding
from core.sessions import PLAN
from tests.core.cores import Client, Core, core

EXPRESSION = "authentik_policies_expression.expressionpolicy"
TYPES = {
    "dummy": "authentik_stages_dummy.dummystage",
    "deny": "authentik_stages_deny.denystage",
    "identification": "authentik_stages_identification.identificationstage",
    "password": "authentik_stages_password.passwordstage",
    "login": "authentik_stages_user_login.userloginstage",
    "logout": "authentik_stages_user_logout.userlogoutstage",
    "validate": "authentik_stages_authenticator_validate.authenticatorvalidatestage",
}
BACKENDS = ["authentik.core.auth.InbuiltBackend", "authentik.core.auth.TokenBackend"]


class Builder:
    """Makes flows for a test, short names for everything."""

    def __init__(self, running: Core) -> None:
        self.core = running
        self.database = running.database
        self.count = 0

    def flow(self, slug: str = "f", **fields: Any) -> Flow:
        """A flow."""
        values = {"name": slug, "title": slug, "designation": "authentication"} | fields
        return self.database.save(Flow(slug=slug, **values))

    def stage(
        self, flow: Flow, kind: str, order: int | None = None, options: Any = None, **binding: Any
    ) -> StageBinding:
        """A stage bound to a flow; its name is kind and number."""
        self.count += 1
        stage = Stage(type=TYPES[kind], name=f"{flow.slug}-{kind}-{self.count}", options=options or {})
        self.database.save(stage)
        place = self.count * 10 if order is None else order
        return self.database.save(StageBinding(target=flow.pk, stage=stage.pk, order=place, **binding))

    def policy(self, target: models.Model, expression: str, **binding: Any) -> PolicyBinding:
        """An expression policy bound to a flow or stage binding."""
        self.count += 1
        policy = Policy(type=EXPRESSION, name=f"policy-{self.count}", options={"expression": expression})
        self.database.save(policy)
        return self.database.save(PolicyBinding(target=target.pk, policy=policy.pk, order=self.count, **binding))

    def name_of(self, binding: StageBinding) -> str:
        """Name of a bound stage, as a dummy stage shows it."""
        return self.database.get(Stage, binding.stage).name

    def password_stage(self) -> str:
        """Primary key of a stored password stage, for embedding."""
        self.count += 1
        stage = Stage(type=TYPES["password"], name=f"embedded-{self.count}", options={"backends": BACKENDS})
        return self.database.save(stage).pk

    def login_flow(self, slug: str = "f", **options: Any) -> Flow:
        """Identification with password, then login."""
        flow = self.flow(slug)
        embedded = {"user_fields": ["username", "email"], "password_stage": self.password_stage()}
        self.stage(flow, "identification", options=embedded)
        self.stage(flow, "login", options=options)
        return flow


def plan_of(running: Core, client: Client) -> Any:
    """The plan in the client's session, or ``None``."""
    return running.services.sessions.open(client.jar, "127.0.0.1").get(PLAN)


async def test_case_1_unknown_slug_and_empty_flow() -> None:
    """404 for an unknown flow, the end for one without stages."""
    async with core() as running:
        client = running.client()
        assert (await client.flow("no-such-flow")).status == 404
        assert (await client.flow("rc-empty-flow")).json == {"component": "xak-flow-redirect", "to": "/"}


async def test_case_2_two_dummies() -> None:
    """Each response advances by a raw redirect to the same address; the last one ends."""
    async with core() as running:
        build = Builder(running)
        flow = build.flow()
        build.stage(flow, "dummy", 0)
        build.stage(flow, "dummy", 1)
        client = running.client()
        assert (await client.flow("f", query="")).component == "ak-stage-dummy"
        reply = await client.flow("f", {}, query="")
        assert (reply.status, reply.headers["Location"]) == (302, "/api/v3/flows/executor/f/?query=")
        assert (await client.flow("f", {}, query="")).json == {"component": "xak-flow-redirect", "to": "/"}


async def test_case_3_order() -> None:
    """Stages come by ascending order."""
    async with core() as running:
        build = Builder(running)
        flow = build.flow()
        names = {order: build.name_of(build.stage(flow, "dummy", order)) for order in (20, 5, 10)}
        client = running.client()
        seen = [(await client.flow("f")).json["name"]]
        seen += [(await client.walk("f", {})).json["name"] for _ in range(2)]
        assert seen == [names[5], names[10], names[20]]


async def test_cases_4_to_6_authentication_requirements() -> None:
    """Requirements of flows against who is logged in."""
    async with core() as running:
        build = Builder(running)
        for slug, need, designation in (
            ("need", "require_authenticated", "authentication"),
            ("enroll", "require_unauthenticated", "enrollment"),
            ("anon", "require_unauthenticated", "authentication"),
            ("super", "require_superuser", "authorization"),
        ):
            build.stage(build.flow(slug, authentication=need, designation=designation), "dummy")
        anonymous, alice = running.client(), running.client()
        assert (await anonymous.flow("need")).component == "ak-stage-access-denied"
        assert (await anonymous.flow("super")).component == "ak-stage-access-denied"
        assert (await alice.login("alice", "alice-pw-1")).component == "xak-flow-redirect"
        assert (await alice.flow("enroll")).component == "ak-stage-access-denied"
        assert (await alice.flow("anon", query="next=/x")).json == {"component": "xak-flow-redirect", "to": "/x"}
        assert (await alice.flow("super")).component == "ak-stage-access-denied"
        # case 6: superuser through a parent of the own group
        org = running.database.first(models.Group, name="staff")
        assert org is not None
        parent = running.database.save(models.Group(name="roots", is_superuser=True))
        org.parents = [parent.pk]
        running.database.save(org)
        assert (await alice.flow("super")).component == "ak-stage-dummy"


async def test_case_7_require_redirect_directly() -> None:
    """Without the mark of a redirect the flow does not start."""
    async with core() as running:
        build = Builder(running)
        build.stage(build.flow(authentication="require_redirect"), "dummy")
        assert (await running.client().flow("f")).component == "ak-stage-access-denied"


async def test_cases_8_and_9_outpost_headers() -> None:
    """Both headers are needed, and the token must be an outpost's; then the context knows outpost and address."""
    async with core() as running:
        token = running.outpost_token()
        flow = "rc-require-outpost-flow"
        address = {"X-authentik-remote-ip": "192.0.2.9"}
        denied = "ak-stage-access-denied"
        assert (await running.client().flow(flow)).component == denied
        client = running.client(**address, **{"X-authentik-outpost-token": token})
        assert (await client.flow(flow)).component == "ak-stage-identification"
        plan = plan_of(running, client)
        outpost = running.database.first(models.Outpost, name="RC LDAP outpost")
        assert outpost is not None
        assert plan["context"]["outpost"] == {"instance": {"$ref": ["outpost", outpost.pk]}}
        session = running.services.sessions.open(client.jar, "").record
        assert session is not None
        assert session.last_ip == "192.0.2.9"
        only_token = running.client(**{"X-authentik-outpost-token": token})
        assert (await only_token.flow(flow)).component == denied
        ordinary = running.client(**address, **{"X-authentik-outpost-token": "alice-api-token-key-1"})
        assert (await ordinary.flow(flow)).component == denied
        await ordinary.flow("rc-dummy-flow")
        session = running.services.sessions.open(ordinary.jar, "").record
        assert session is not None
        assert session.last_ip == "127.0.0.1"


@pytest.mark.parametrize(
    ("action", "query", "headless", "expected"),
    [
        ("message_continue", "", False, "denied"),
        ("continue", "", False, "/"),
        ("message_continue", "next=/y", False, "/y"),
        ("message", "next=/y", False, "denied"),
        ("continue", "", True, "denied"),
        ("continue", "next=/y", True, "denied"),
    ],
)
async def test_cases_10_and_11_denied_flow(action: str, query: str, headless: bool, expected: str) -> None:
    """A refusing flow policy with each denied action; outposts always get the refusal."""
    async with core() as running:
        build = Builder(running)
        flow = build.flow(denied_action=action)
        build.stage(flow, "dummy")
        build.policy(flow, 'ak_message("no, never")\nreturn False')
        client = running.headless() if headless else running.client()
        reply = await client.flow("f", query=query)
        if expected == "denied":
            assert reply.component == "ak-stage-access-denied"
            assert "no, never" in reply.json["error_message"]
        else:
            assert reply.json == {"component": "xak-flow-redirect", "to": expected}


async def test_cases_12_to_15_policies_on_stages() -> None:
    """Evaluated at planning, evaluated again at the stage, removed for good, and a redirect made by a policy."""
    async with core() as running:
        build = Builder(running)
        flow = build.flow("twelve")
        left_out = build.stage(flow, "dummy", evaluate_on_plan=True, re_evaluate_policies=False)
        build.policy(left_out, "return False")
        shown = build.name_of(build.stage(flow, "dummy"))
        client = running.client()
        assert (await client.flow("twelve")).json["name"] == shown

        flow = build.flow("thirteen")
        first = build.stage(flow, "dummy")
        build.policy(first, 'context["flow_plan"].context["seen"] = True\nreturn True')
        second = build.stage(flow, "dummy")
        build.policy(second, 'return not context.get("seen")')
        third = build.name_of(build.stage(flow, "dummy"))
        await client.flow("thirteen")
        assert (await client.walk("thirteen", {})).json["name"] == third

        for slug, last in (("fourteen", True), ("fourteen-b", False)):
            flow = build.flow(slug)
            bindings = [build.stage(flow, "dummy") for _ in range(4)]
            for binding, passes in zip(bindings, (True, False, False, last), strict=True):
                build.policy(binding, f"return {passes}")
            await client.flow(slug)
            reply = await client.walk(slug, {})
            if last:
                assert reply.json["name"] == build.name_of(bindings[3])
            else:
                assert reply.json == {"component": "xak-flow-redirect", "to": "/"}

        flow = build.flow("fifteen")
        binding = build.stage(flow, "dummy")
        build.policy(binding, 'context["flow_plan"].redirect("/z")\nreturn False')
        assert (await client.flow("fifteen")).json == {"component": "xak-flow-redirect", "to": "/z"}


async def test_case_16_another_flow_drops_the_plan() -> None:
    """One session runs one flow at a time."""
    async with core() as running:
        client = running.client()
        await client.flow("rc-two-stage-flow", {"uid_field": "alice"})
        assert (await client.flow("rc-dummy-flow")).component == "ak-stage-identification"
        assert (await client.flow("rc-two-stage-flow")).component == "ak-stage-identification"


async def test_cases_19_to_21_where_a_flow_ends() -> None:
    """``next`` stays on this host; the context's own redirect may go anywhere."""
    async with core() as running:
        build = Builder(running)
        build.stage(build.flow(), "dummy")
        client = running.client()
        await client.flow("f", query="next=/foo")
        assert (await client.flow("f", {}, query="next=/foo")).json == {"component": "xak-flow-redirect", "to": "/foo"}
        for target in ("http://e.x/", "//e.x/", "/\\e.x", "", "javascript:alert(1)", "\\\\e.x", "/\t/e.x"):
            query = "next=" + target
            await client.flow("f", query=query)
            reply = await client.flow("f", {}, query=query)
            assert reply.component == "ak-stage-access-denied", target
            assert plan_of(running, client) is None
        flow = build.flow("away")
        build.policy(
            build.stage(flow, "dummy"),
            'context["flow_plan"].context["redirect"] = "https://ok.example"\nreturn True',
        )
        await client.flow("away", query="next=/foo")
        reply = await client.flow("away", {}, query="next=/foo")
        assert reply.json == {"component": "xak-flow-redirect", "to": "https://ok.example"}


def test_local_targets() -> None:
    """One slash, and nothing that a browser would read as a host."""
    assert all(is_local(target) for target in ("/", "/a?b=c", "/if/user/#/settings"))
    assert not any(
        is_local(target) for target in ("", "//h", "/\\h", "\\\\h", "http://h", "x", "/\n/h", "javascript:1")
    )


async def test_case_22_cancel_url() -> None:
    """The cancel link carries the inner ``next``."""
    async with core() as running:
        reply = await running.client().flow("ldap-authentication-flow", query="next=/foo")
        assert reply.json["flow_info"]["cancel_url"] == "/flows/-/cancel/?next=%2Ffoo"


async def test_case_23_error_in_a_stage() -> None:
    """Only superusers see what went wrong."""
    async with core() as running:
        build = Builder(running)
        build.stage(build.flow(), "dummy", options={"throw_error": True})
        client = running.client()
        await client.login("alice", "alice-pw-1")
        reply = await client.flow("f")
        assert reply.component == "ak-stage-flow-error"
        assert reply.json.keys() == {"component", "request_id"}
        group = running.database.save(models.Group(name="roots", is_superuser=True))
        running.database.set_membership(running.user("alice"), group.pk, True)
        reply = await client.flow("f")
        assert {"error", "traceback"} <= reply.json.keys()


async def test_case_24_malformed_requests_keep_the_plan() -> None:
    """No JSON, a form, another method, a JSON list: a flow error, and the flow goes on afterwards."""
    async with core() as running:
        client = running.client()
        path = "/api/v3/flows/executor/rc-two-stage-flow/"
        await client.walk("rc-two-stage-flow", {"uid_field": "alice"})
        json_type = {"Content-Type": "application/json"}
        for method, raw, headers in (
            ("POST", b"{", json_type),
            ("POST", b"[]", json_type),
            ("POST", b'{"a": "\xff"}', json_type),
            ("POST", b"[" * 100_000, json_type),
            ("POST", b"password=x", {"Content-Type": "application/x-www-form-urlencoded"}),
            ("PUT", b"{}", json_type),
            ("DELETE", b"", {}),
        ):
            reply = await client.request(method, path, raw=raw, headers=headers)
            assert (reply.status, reply.component) == (200, "ak-stage-flow-error"), (method, raw[:20])
        assert (await client.flow("rc-two-stage-flow")).component == "ak-stage-password"


async def test_case_26_query_compared_by_meaning() -> None:
    """Whatever the encoding of the inner query, advancing is a raw redirect."""
    async with core() as running:
        for query in ("a=b%2520c", "a%3Db%2520c", "a%3Db%2Bc"):
            client = running.client()
            path = f"/flows/executor/rc-two-stage-flow/?query={query}"
            await client.get(path)
            assert (await client.post(path, {"uid_field": "alice"})).status == 302


async def test_case_27_title() -> None:
    """The title names user and application; a broken one is shown as it is."""
    async with core() as running:
        build = Builder(running)
        for slug, title in (("f", "Hi %(user)s / %(app)s"), ("g", "100 %(nobody)s"), ("h", "100 %")):
            binding = build.stage(build.flow(slug, title=title), "dummy")
            build.policy(binding, 'context["flow_plan"].context["pending_user_identifier"] = "bob"\nreturn True')
        client = running.client()
        titles = [(await client.flow(slug)).json["flow_info"]["title"] for slug in "fgh"]
        assert titles == ["Hi bob / ", "100 %(nobody)s", "100 %"]


async def test_case_29_csrf_of_a_logged_in_session() -> None:
    """A session that is logged in posts with its CSRF token only; without it the plan stays."""
    async with core() as running:
        client = running.client()
        await client.login("alice", "alice-pw-1")
        await client.flow("rc-two-stage-flow")
        assert (await client.flow("rc-two-stage-flow", {"uid_field": "bob"})).component == "ak-stage-flow-error"
        for wrong in ("", "x" * 32):
            reply = await client.flow("rc-two-stage-flow", {"uid_field": "bob"}, headers={"X-authentik-CSRF": wrong})
            assert reply.component == "ak-stage-flow-error"
        right = {"X-authentik-CSRF": client.jar["authentik_csrf"]}
        assert (await client.flow("rc-two-stage-flow", {"uid_field": "bob"}, headers=right)).status == 302
        api = await client.post("/events/events/", {"action": "x", "app": "y"})
        assert api.status == 403


async def test_cases_30_to_33_invalid_responses() -> None:
    """What an invalid response or stage leads to: again, or a restart with or without context."""
    async with core() as running:
        build = Builder(running)
        options = {"user_fields": ["username"], "pretend_user_exists": False}
        build.stage(build.flow("retry"), "identification", options=options)
        client = running.client()
        reply = await client.flow("retry", {"uid_field": "nobody"})
        assert reply.component == "ak-stage-identification"
        assert reply.json["response_errors"]["non_field_errors"][0]["code"] == "invalid"

        flow = build.flow("restart")
        build.stage(flow, "identification", options=options, invalid_response_action="restart")
        assert (await client.flow("restart", {"uid_field": "nobody"})).status == 302
        assert plan_of(running, client)["context"] == {}
        assert (await client.flow("restart")).component == "ak-stage-identification"

        # case 31: the context survives, so that a policy sees who failed
        flow = build.flow("with-context")
        deny = build.stage(flow, "deny", 0)
        build.policy(deny, 'return "pending_user" in context')
        build.stage(flow, "identification", 1, options, invalid_response_action="restart_with_context")
        await client.flow("with-context")
        assert (await client.walk("with-context", {"uid_field": "nobody"})).component == "ak-stage-access-denied"

        # case 32: a restart of a stage that can only refuse comes back to it
        build.stage(build.flow("loop"), "deny", invalid_response_action="restart")
        assert (await client.flow("loop")).status == 302

        # case 33: the flow's own policy says no by the time of the restart
        flow = build.flow("later")
        build.stage(flow, "identification", options=options, invalid_response_action="restart")
        await client.flow("later")
        build.policy(flow, "return False")
        assert (await client.flow("later", {"uid_field": "nobody"})).component == "ak-stage-access-denied"


async def test_case_47_identification_fields() -> None:
    """Only the chosen fields identify; matching ignores case if told to; unknown names may be pretended."""
    async with core() as running:
        build = Builder(running)
        build.stage(
            build.flow("strict"), "identification", options={"user_fields": ["email"], "pretend_user_exists": False}
        )
        flow = build.flow("pretend")
        build.stage(flow, "identification", options={"user_fields": ["email"]})
        build.stage(flow, "dummy")
        client = running.client()
        reply = await client.flow("strict", {"uid_field": "alice"})
        assert "non_field_errors" in reply.json["response_errors"]
        assert (await client.walk("pretend", {"uid_field": "alice"})).component == "ak-stage-dummy"
        pending = plan_of(running, client)["context"]["pending_user"]
        assert pending["$user"]["username"] == "alice"
        assert (await client.login("ALICE", "alice-pw-1")).component == "xak-flow-redirect"
        flow = build.flow("case")
        options = {"user_fields": ["username"], "case_insensitive_matching": False, "pretend_user_exists": False}
        build.stage(flow, "identification", options=options)
        reply = await running.client().flow("case", {"uid_field": "ALICE"})
        assert "non_field_errors" in reply.json["response_errors"]


async def test_case_48_embedded_password() -> None:
    """Right, wrong, unknown; afterwards the default policy skips a separate password stage."""
    async with core() as running:
        build = Builder(running)
        flow = build.flow()
        options = {"user_fields": ["username"], "password_stage": build.password_stage()}
        build.stage(flow, "identification", options=options)
        again = build.stage(flow, "password", options={"backends": BACKENDS})
        build.policy(again, 'return not hasattr(context["flow_plan"].context.get("pending_user"), "backend")')
        build.stage(flow, "dummy")
        client = running.client()
        answers = [
            (await client.flow("f", {"uid_field": name, "password": password})).json["response_errors"]
            for name, password in (("alice", "wrong"), ("nobody", "alice-pw-1"), ("dave", "dave-pw-1"), ("alice", ""))
        ]
        assert all(answer == answers[0] for answer in answers)
        assert answers[0]["non_field_errors"][0]["code"] == "invalid"
        reply = await client.walk("f", {"uid_field": "alice", "password": "alice-pw-1"})
        assert reply.component == "ak-stage-dummy"


async def test_cases_49_and_50_what_identification_shows() -> None:
    """The typed text instead of the user; a hint skips the form or fills it in."""
    async with core() as running:
        build = Builder(running)
        flow = build.flow("hide")
        build.stage(flow, "identification", options={"user_fields": ["email"], "show_matched_user": False})
        build.stage(flow, "password", options={"backends": BACKENDS})
        client = running.client()
        reply = await client.walk("hide", {"uid_field": "alice@example.test"})
        assert reply.json["pending_user"] == "alice@example.test"

        hint = 'context["flow_plan"].context["pending_user_identifier"] = "alice"\nreturn True'
        for slug, options in (("simple", {}), ("embedded", {"password_stage": build.password_stage()})):
            flow = build.flow(slug)
            opening = build.stage(flow, "dummy")
            build.policy(opening, hint)
            build.stage(flow, "identification", options={"user_fields": ["username"], **options})
            build.stage(flow, "dummy")
            await client.flow(slug)
        await client.flow("simple")
        assert (await client.walk("simple", {})).component == "ak-stage-dummy"
        assert plan_of(running, client)["context"]["pending_user"] == {"$ref": ["user", running.user("alice").pk]}
        await client.flow("embedded")
        reply = await client.walk("embedded", {})
        assert reply.component == "ak-stage-identification"
        assert reply.json["pending_user_identifier"] == "alice"


async def test_case_51_fifth_wrong_password() -> None:
    """Four errors, then the plan is gone."""
    async with core() as running:
        client = running.client()
        await client.walk("rc-two-stage-flow", {"uid_field": "alice"})
        for _ in range(4):
            reply = await client.flow("rc-two-stage-flow", {"password": "wrong"})
            assert reply.json["response_errors"]["password"][0]["code"] == "invalid"
        assert (await client.flow("rc-two-stage-flow", {"password": "wrong"})).component == "ak-stage-access-denied"
        assert plan_of(running, client) is None


async def test_cases_52_and_53_app_passwords_and_inactive_users() -> None:
    """An app password counts until it expires; an inactive user never gets in, whatever the password."""
    async with core() as running:
        alice = running.user("alice")
        token = running.database.save(
            models.Token(
                identifier="short", key="short-lived-key", intent="app_password", user=int(alice.pk or 0),
                expires=running.clock.now + 60,
            )
        )  # fmt: skip
        client = running.client()
        await client.walk("rc-two-stage-flow", {"uid_field": "alice"})
        assert (await client.flow("rc-two-stage-flow", {"password": "short-lived-key"})).status == 302
        assert plan_of(running, client)["context"]["auth_method"] == "token"
        running.clock.now += 61
        reply = await running.client().login("alice", token.key)
        assert reply.json["response_errors"]["non_field_errors"][0]["code"] == "invalid"
        client = running.client()
        await client.walk("rc-two-stage-flow", {"uid_field": "dave"})
        reply = await client.flow("rc-two-stage-flow", {"password": "dave-pw-1"})
        assert reply.json["response_errors"]["password"][0]["code"] == "invalid"
        # the app password of one person is of no use to another
        reply = await running.client().login("bob", "alice-app-password-key-1")
        assert reply.json["response_errors"]["non_field_errors"][0]["code"] == "invalid"


async def test_case_54_no_user() -> None:
    """Password and login without a pending user, and login of an inactive, unsaved or meanwhile deactivated one."""
    async with core() as running:
        build = Builder(running)
        build.stage(build.flow("password"), "password", options={"backends": BACKENDS})
        build.stage(build.flow("login"), "login")
        flow = build.flow("named")
        build.stage(flow, "identification", options={"user_fields": ["username"]})
        build.stage(flow, "login")
        client = running.client()
        for slug in ("password", "login"):
            assert (await client.flow(slug)).component == "ak-stage-access-denied"
        for name in ("dave", "nobody"):
            assert (await client.walk("named", {"uid_field": name})).component == "ak-stage-access-denied"
        assert (await client.flow("named", {"uid_field": "alice"})).status == 302
        alice = running.user("alice")
        alice.is_active = False
        running.database.save(alice)
        assert (await client.flow("named")).component == "ak-stage-access-denied"
        assert running.session_count("alice") == 0


async def test_cases_55_to_57_login() -> None:
    """Cookie life, a new key, "remember me", and the end of other sessions."""
    async with core() as running:
        build = Builder(running)
        build.login_flow("short", session_duration="seconds=2")
        build.login_flow("remember", session_duration="hours=1", remember_me_offset="days=1")
        build.login_flow("alone", terminate_other_sessions=True)
        client = running.client()
        await client.flow("short")
        before = client.jar["authentik_session"]
        reply = await client.walk("short", {"uid_field": "alice", "password": "alice-pw-1"})
        assert reply.cookies["authentik_session"]["max-age"] == "2"
        assert client.jar["authentik_session"] != before
        assert (await client.get("/core/users/me/")).json["user"]["username"] == "alice"
        running.clock.now += 3
        assert (await client.get("/core/users/me/")).status == 403

        client = running.client()
        reply = await client.walk("remember", {"uid_field": "alice", "password": "alice-pw-1"})
        assert reply.component == "ak-stage-user-login"
        assert "remember_me" in (await client.flow("remember", {})).json["response_errors"]
        reply = await client.flow("remember", {"remember_me": True})
        assert reply.cookies["authentik_session"]["max-age"] == str(3600 + 86400)

        other = running.client()
        await other.walk("alone", {"uid_field": "alice", "password": "alice-pw-1"})
        assert (await client.get("/core/users/me/")).status == 403
        assert (await other.get("/core/users/me/")).status == 200


async def test_case_71_no_device() -> None:
    """Without a device the stage skips, refuses, or refuses for lack of a set-up stage."""
    async with core() as running:
        build = Builder(running)
        for action, expected in (
            ("skip", "ak-stage-dummy"),
            ("deny", "ak-stage-access-denied"),
            ("configure", "ak-stage-access-denied"),
        ):
            flow = build.flow(action)
            build.stage(flow, "identification", options={"user_fields": ["username"]})
            build.stage(flow, "validate", options={"not_configured_action": action})
            build.stage(flow, "dummy")
            assert (await running.client().walk(action, {"uid_field": "alice"})).component == expected


async def test_case_72_codes_count_once() -> None:
    """A TOTP code and a static code are good for one login each; an empty answer is an error."""
    async with core() as running:
        key = b"12345678901234567890"
        code = otp.hotp(key, int(running.clock.now // 30), 6)
        for name, value in (("bob", code), ("erin", "static01")):
            results = []
            for _ in range(2):
                client = running.client()
                reply = await client.walk("rc-mfa-flow", {"uid_field": name, "password": f"{name}-pw-1"})
                assert reply.component == "ak-stage-authenticator-validate"
                empty = await client.flow("rc-mfa-flow", {})
                assert "non_field_errors" in empty.json["response_errors"]
                results.append(await client.walk("rc-mfa-flow", {"code": value}))
                running.clock.now += 5
            assert results[0].component == "xak-flow-redirect"
            assert results[1].json["response_errors"]["code"][0]["code"] == "invalid"
        assert running.session_count("bob") == 1


async def test_a_login_leaves_no_secret_behind() -> None:
    """Passwords and codes are in no session row and no event."""
    async with core() as running:
        client = running.client()
        await client.login("alice", "alice-pw-1")
        await running.client().walk("rc-two-stage-flow", {"uid_field": "bob"})
        await running.client().login("alice", "a-wrong-one")
        kept = [session.data for session in running.database.find(models.Session)]
        kept += [str(event.context) for event in running.database.find(models.Event)]
        assert kept
        assert not any(secret in text for text in kept for secret in ("alice-pw-1", "a-wrong-one"))


async def test_two_answers_at_once_use_one_plan_each() -> None:
    """Parallel requests of one session do not multiply the allowed attempts."""
    async with core() as running:
        client = running.client()
        await client.walk("rc-two-stage-flow", {"uid_field": "alice"})
        jar = dict(client.jar)

        async def wrong() -> str:
            twin = running.client()
            twin.jar = dict(jar)
            return (await twin.flow("rc-two-stage-flow", {"password": "wrong"})).component

        components = await asyncio.gather(*(wrong() for _ in range(5)))
        assert sorted(components) == ["ak-stage-access-denied"] + ["ak-stage-password"] * 4


async def test_cases_17_18_and_25_brand_default_and_cancel() -> None:
    """The first flow by slug that passes, the brand of a host, and a plan that is dropped."""
    async with core() as running:
        build = Builder(running)
        brand = running.database.first(models.Brand, default=True)
        assert brand is not None
        brand.flow_authentication = None
        running.database.save(brand)
        build.policy(build.flow("b-auth"), "return False")
        build.flow("c-auth")
        client = running.client()
        reply = await client.request("GET", "/flows/-/default/authentication/?next=%2Fq")
        assert (reply.status, reply.headers["Location"]) == (302, "/if/flow/c-auth/?next=%2Fq")
        for domain in ("a.b", "b"):
            running.database.save(models.Brand(domain=domain))
        for host, expected in (("x.a.b", "a.b"), ("A.B:8080", "a.b"), ("xa.b", "b"), ("other", brand.domain)):
            reply = await client.get("/core/brands/current/", headers={"Host": host})
            assert reply.json["matched_domain"] == expected
        await client.flow("rc-dummy-flow")
        assert plan_of(running, client) is not None
        reply = await client.request("GET", "/flows/-/cancel/?next=//e.x/")
        assert (reply.status, reply.headers["Location"]) == (302, "/flows/-/default/invalidation/")
        assert plan_of(running, client) is None
        assert (await client.request("GET", "/flows/-/cancel/?next=/y")).headers["Location"] == "/y"
        assert (await client.request("GET", "/flows/-/default/enrollment/")).status == 404
