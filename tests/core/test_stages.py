"""Stages beyond logging in, by the case numbers of the specification (flows.md §10, 58 to 70)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web

from core import models, passwords
from core.errors import ValidationFailed
from core.prompts import TYPES as PROMPT_KINDS
from core.stage_models import PROMPT_TYPES
from core.stages import STORABLE
from tests.core.cores import Client, Core, Reply, core
from tests.core.services import MailServer, _serving, mail_server
from tests.core.test_flows import TYPES, Builder

DENIED, END = "ak-stage-access-denied", "xak-flow-redirect"
for _kind in ("prompt", "consent", "redirect", "invitation", "captcha"):
    TYPES[_kind] = f"authentik_stages_{_kind}.{_kind}stage"
TYPES |= {
    "mail": "authentik_stages_email.emailstage",
    "write": "authentik_stages_user_write.userwritestage",
    "delete": "authentik_stages_user_delete.userdeletestage",
}


def context_policy(build: Builder, binding: models.StageBinding, **values: Any) -> None:
    """Let a binding's policy put values into the plan's context."""
    build.policy(binding, f"context['flow_plan'].context.update({values!r})\nreturn True")


def saw(build: Builder, flow: models.Flow, expression: str) -> None:
    """End a flow with a stage that denies with "yes" if an expression over the context holds."""
    bound = build.stage(flow, "deny", options={"deny_message": "yes"})
    build.policy(bound, f"context = request.context\nreturn {expression}")


def errors(reply: Reply) -> dict[str, str]:
    """Codes of the first error of each field."""
    return {name: found[0]["code"] for name, found in reply.json["response_errors"].items()}


def said(reply: Reply) -> str:
    """The message of a refusal."""
    return str(reply.json.get("error_message"))


def prompt(running: Core, key: str, kind: str = "text", **fields: Any) -> str:
    """A stored prompt's primary key."""
    values = {"name": f"{key}-{kind}-{running.database.count(models.Prompt)}", "label": key.upper()} | fields
    return running.database.save(models.Prompt(field_key=key, type=kind, **values)).pk


# --- user write ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "prompted"),
    [
        ({}, None),
        ({"user_creation_mode": "never_create"}, {"username": "new"}),
        ({}, {"name": "no user name"}),
        ({}, {"username": ""}),
        ({}, {"username": "alice"}),
        ({}, {"username": "x" * 151}),
        ({"user_creation_mode": "always_create"}, {"username": "new", "password": "x" * 5000}),
    ],
)
async def test_case_58_user_write_refuses(options: dict[str, Any], prompted: Any) -> None:
    """Nothing to write, nobody to write to, names that cannot be: denied, and nothing is changed."""
    async with core() as running:
        before = running.database.count(models.User)
        build = Builder(running)
        bound = build.stage(build.flow(designation="enrollment"), "write", options=options)
        if prompted is not None:
            context_policy(build, bound, prompt_data=prompted)
        assert (await running.client().walk("f")).component == DENIED
        assert running.database.count(models.User) == before


async def test_case_59_what_is_written() -> None:
    """Attributes nested and merged, password hashed; fields that are not for a person to decide are dropped."""
    async with core() as running:
        build = Builder(running)
        prompted = {
            "username": "new", "name": "New User", "email": "new@example.test", "password": "n3w-pw",
            "attributes.a.b": 1, "attributes_a.c": 2, "attributes": {"d": 3}, "groups": ["x"], "nope": 1,
            "component": "c",
            "is_active": False, "is_superuser": True, "type": "internal", "path": "elsewhere", "pk": 1, "uuid": "u",
            "password_hash": "y", "set_password": "z",
        }  # fmt: skip
        bound = build.stage(build.flow(designation="enrollment"), "write", options={"user_path_template": "people"})
        context_policy(build, bound, prompt_data=prompted)
        assert (await running.client().walk("f")).component == END
        user = running.user("new")
        assert (user.name, user.email, user.is_active, user.type, user.path) == (
            "New User", "new@example.test", True, "external", "people",
        )  # fmt: skip
        assert user.attributes == {"a": {"b": 1, "c": 2}, "d": 3}
        assert user.group_pks == [] and not user.is_superuser
        assert passwords.verify(user.password_hash, "n3w-pw")
        event = running.database.first(models.Event, action="user_write")
        assert event is not None and "n3w-pw" not in str(event.context)


async def test_case_60_created_inactive_in_groups() -> None:
    """The stage's group and those of the context; path and type of the context; a forbidden type is downgraded."""
    async with core() as running:
        build = Builder(running)
        group = running.database.save(models.Group(name="g"))
        other = running.database.save(models.Group(name="h"))
        flow = build.flow(designation="enrollment")
        bound = build.stage(flow, "write", options={"create_users_as_inactive": True, "create_users_group": group.pk})
        build.policy(
            bound,
            "plan = context['flow_plan'].context\n"
            "plan['prompt_data'] = {'username': 'new'}\n"
            "plan['groups'] = [g for g in ak_user_by(username='carrier').groups.all() if g.name == 'h']\n"
            "plan['user_path'] = 'a/b'; plan['user_type'] = 'internal_service_account'\nreturn True",
        )
        running.database.save(models.User(username="carrier", group_pks=[other.pk]))
        assert (await running.client().walk("f")).component == END
        user = running.user("new")
        assert not user.is_active and set(user.group_pks) == {group.pk, other.pk}
        assert (user.path, user.type) == ("a/b", "service_account")


async def test_user_write_changes_who_is_logged_in() -> None:
    """The session's user is the target; a new password does not end the own session; groups are added."""
    async with core() as running:
        build = Builder(running)
        group = running.database.save(models.Group(name="g"))
        flow = build.flow(designation="stage_configuration", authentication="require_authenticated")
        bound = build.stage(flow, "write", options={"create_users_group": group.pk})
        context_policy(build, bound, prompt_data={"password": "changed-pw", "name": "Changed"})
        client = running.client()
        await client.login("alice", "alice-pw-1")
        count = len(running.user("alice").group_pks)
        running.clock.now += 10
        assert (await client.walk("f")).component == END
        alice = running.user("alice")
        assert (alice.name, alice.username, len(alice.group_pks)) == ("Changed", "alice", count + 1)
        assert alice.password_change_date == running.clock.now
        assert (await client.get("/core/users/me/")).json["user"]["name"] == "Changed"
        assert (await running.client().login("alice", "changed-pw")).component == END
        assert (await running.client().login("alice", "alice-pw-1")).component == "ak-stage-identification"


async def test_enrollment_from_prompt_to_login() -> None:
    """A whole enrollment: form, user, login; the new user is logged in and can come again with the password."""
    async with core() as running:
        build = Builder(running)
        flow = build.flow("enroll", designation="enrollment", authentication="require_unauthenticated")
        fields = [
            prompt(running, "username", "username", order=0),
            prompt(running, "email", "email", order=1),
            prompt(running, "password", "password", order=2),
            prompt(running, "password_repeat", "password", order=3),
            prompt(running, "attributes.phone", "text", order=4, required=False),
        ]
        build.stage(flow, "prompt", options={"fields": fields})
        build.stage(flow, "write", options={"user_creation_mode": "always_create"})
        build.stage(flow, "login")
        client = running.client()
        assert (await client.flow("enroll")).component == "ak-stage-prompt"
        answer = {"username": "fresh", "email": "fresh@example.test", "password": "pw one", "password_repeat": "pw one",
                  "attributes.phone": "123"}  # fmt: skip
        assert (await client.walk("enroll", answer)).component == END
        assert (await client.get("/core/users/me/")).json["user"]["username"] == "fresh"
        assert running.user("fresh").attributes == {"phone": "123"}
        assert (await running.client().login("fresh", "pw one")).component == END


async def test_user_delete() -> None:
    """Whom the flow is about is deleted, and logged out; without anybody it is denied."""
    async with core() as running:
        build = Builder(running)
        build.stage(build.flow(designation="unenrollment"), "delete")
        assert (await running.client().walk("f")).component == DENIED
        client = running.client()
        await client.login("alice", "alice-pw-1")
        assert (await client.walk("f")).component == END
        assert running.database.first(models.User, username="alice") is None
        assert (await client.get("/core/users/me/")).status == 403
        assert running.database.exists(models.Event, action="model_deleted")


# --- prompt ----------------------------------------------------------------------------------------------------------


def prompt_flow(running: Core, *fields: str, expression: str = "False", **options: Any) -> tuple[Builder, Client]:
    """A flow of a prompt stage and a deny stage that says "yes" if the expression over the context holds."""
    build = Builder(running)
    flow = build.flow()
    build.stage(flow, "prompt", options={"fields": list(fields)} | options)
    saw(build, flow, expression)
    return build, running.client()


async def test_case_61_prompt_errors() -> None:
    """Passwords that differ, a name that is taken, a value that is no choice; all errors of fields at once."""
    async with core() as running:
        fields = [
            prompt(running, "a", "password"), prompt(running, "b", "password"), prompt(running, "c", "password"),
            prompt(running, "user", "username"), prompt(running, "pick", "dropdown", placeholder="only"),
        ]  # fmt: skip
        _, client = prompt_flow(running, *fields)
        good = {"a": "1", "b": "1", "c": "1", "user": "free", "pick": "only"}
        assert errors(await client.flow("f", good | {"c": "2"})) == {"non_field_errors": "invalid"}
        reply = await client.flow("f", good | {"user": "alice", "pick": "other"})
        assert errors(reply) == {"user": "invalid", "pick": "invalid_choice"}
        assert errors(await client.flow("f", {})) == {"a": "required", "b": "required", "c": "required",
                                                      "user": "required"}  # fmt: skip
        assert (await client.walk("f", good)).component == END


VALUES: list[tuple[str, dict[str, Any], Any, Any]] = [
    # type, prompt's fields, posted, stored (or the error's code in a list)
    ("text", {}, "  kept  ", "  kept  "),
    ("text", {}, "", ["blank"]),
    ("text", {}, None, ["null"]),
    ("text", {}, ["x"], ["invalid"]),
    ("text", {}, True, ["invalid"]),
    ("text", {}, "a\0b", ["null_characters_not_allowed"]),
    ("text", {"required": False}, "", ""),
    ("text_area", {}, "a\nb", "a\nb"),
    ("email", {}, "a@example.test", "a@example.test"),
    ("email", {}, "nobody", ["invalid"]),
    ("password", {}, "  ", "  "),
    ("number", {}, "42", 42),
    ("number", {}, -7, -7),
    ("number", {}, "4.2", ["invalid"]),
    ("number", {}, True, ["invalid"]),
    ("number", {}, "9" * 30, ["invalid"]),
    ("checkbox", {}, True, True),
    ("checkbox", {}, "false", False),
    ("checkbox", {}, "maybe", ["invalid"]),
    ("date", {}, "2026-02-28", "2026-02-28"),
    ("date", {}, "2026-02-30", ["invalid"]),
    ("date-time", {}, "2026-02-28T10:00:00Z", "2026-02-28T10:00:00+00:00"),
    ("date-time", {}, "today", ["invalid"]),
    ("file", {}, "data:text/plain;base64,aGVsbG8=", "data:text/plain;base64,aGVsbG8="),
    ("file", {}, "data:text/plain;base64,<script>", ["invalid"]),
    ("file", {}, "hello", ["invalid"]),
    ("ak-locale", {}, "", ""),
    ("ak-locale", {}, "de", "de"),
    ("hidden", {"initial_value": "mine"}, "yours", "mine"),
    ("hidden", {"placeholder": "shown"}, "yours", "shown"),
    ("static", {"initial_value": "mine"}, "yours", "mine"),
    ("text_read_only", {"initial_value": "mine"}, "yours", "mine"),
    ("text_area_read_only", {}, "yours", ""),
    ("radio-button-group", {"placeholder": "a"}, "a", "a"),
    ("dropdown", {"placeholder": "return ['a', {'label': 'Two', 'value': 2}]", "placeholder_expression": True}, "2", 2),
]


@pytest.mark.parametrize(("kind", "fields", "posted", "expected"), VALUES)
async def test_case_62_values_of_every_type(kind: str, fields: dict[str, Any], posted: Any, expected: Any) -> None:
    """What is stored for each type, or with which code it is refused."""
    async with core() as running:
        stored = repr(expected)
        _, client = prompt_flow(
            running, prompt(running, "k", kind, **fields),
            expression=f"(d := context['prompt_data']) == {{'k': {stored}}} and type(d['k']) is type({stored})",
        )  # fmt: skip
        reply = await client.walk("f", {"k": posted, "unknown": 1})
        if isinstance(expected, list):
            assert errors(reply) == {"k": expected[0]}
        else:
            assert said(reply) == "yes", reply.json


async def test_case_62_keys_that_are_missing() -> None:
    """A value to begin with is taken; without one a required field is missed, an optional one is not stored."""
    async with core() as running:
        _, client = prompt_flow(
            running,
            prompt(running, "a", initial_value="x"),
            prompt(running, "b", required=False),
            prompt(running, "c", "checkbox"),
            prompt(running, "d", "separator"),
            expression="context['prompt_data'] == {'a': 'x'}",
        )
        assert said(await client.walk("f", {})) == "yes"


async def test_case_63_initial_values_and_choices() -> None:
    """The context goes before expressions, which do not run then; choices from the context or an expression."""
    async with core() as running:
        build = Builder(running)
        fields = [
            prompt(running, "k", initial_value="raise ValueError('never run')", initial_value_expression=True, order=0),
            prompt(running, "e", initial_value="return user.username + prompt_context['k']",
                   initial_value_expression=True, order=1),
            prompt(running, "broken", initial_value="return 1 / 0", initial_value_expression=True, order=2),
            prompt(running, "list", "dropdown", order=3),
            prompt(running, "made", "radio-button-group", placeholder="return ['x', 'y']", placeholder_expression=True,
                   initial_value="y", order=4),
            prompt(running, "none", "dropdown", placeholder="return []", placeholder_expression=True, order=5),
            prompt(running, "gone", "dropdown", placeholder="p", initial_value="no choice", order=6),
        ]  # fmt: skip
        bound = build.stage(build.flow(), "prompt", options={"fields": fields[::-1]})
        data = {"k": "from context", "list__choices": [1, {"label": "a", "value": "b"}]}
        context_policy(build, bound, prompt_data=data)
        client = running.client()
        await client.login("alice", "alice-pw-1")
        shown = (await client.flow("f")).json["fields"]
        assert [field["field_key"] for field in shown] == ["k", "e", "broken", "list", "made", "none", "gone"]
        by_key = {field["field_key"]: field for field in shown}
        assert by_key["k"]["initial_value"] == "from context"
        assert by_key["e"]["initial_value"] == "alicefrom context"
        assert by_key["broken"]["initial_value"] == "return 1 / 0"
        assert by_key["list"]["choices"] == [{"value": "1", "label": "1"}, {"value": "b", "label": "a"}]
        assert (by_key["list"]["initial_value"], by_key["list"]["placeholder"]) == ("1", "")
        assert by_key["made"]["initial_value"] == "y"
        assert (by_key["none"]["choices"], by_key["none"]["initial_value"]) == ([], "")
        assert by_key["gone"]["initial_value"] == "p"
        assert by_key["k"]["choices"] is None


async def test_validation_policies() -> None:
    """All must pass; they see the submitted values alone; a policy that is gone refuses."""
    async with core() as running:
        build = Builder(running)
        made = []
        for number, expression in enumerate(
            (
                "return True",
                "ak_message('not ' + context['prompt_data']['k'])\nreturn context['prompt_data'] == {'k': 'v'}",
            )
        ):
            policy = models.Policy(
                type="authentik_policies_expression.expressionpolicy",
                name=f"v{number}",
                options={"expression": expression},
            )
            made.append(running.database.save(policy).pk)
        flow = build.flow()
        bound = build.stage(flow, "prompt", options={"fields": [prompt(running, "k")], "validation_policies": made})
        context_policy(build, bound, prompt_data={"earlier": 1})
        saw(build, flow, "context['prompt_data'] == {'earlier': 1, 'k': 'v'}")
        client = running.client()
        reply = await client.flow("f", {"k": "w"})
        assert reply.json["response_errors"]["non_field_errors"] == [{"string": "not w", "code": "invalid"}]
        assert said(await client.walk("f", {"k": "v"})) == "yes"
        running.database.delete(running.database.get(models.Policy, made[0]))
        other = running.client()
        await other.flow("f")
        assert errors(await other.flow("f", {"k": "v"})) == {"non_field_errors": "invalid"}


def test_prompt_types_are_the_same_everywhere() -> None:
    """The names that are stored, and those that have a rule."""
    assert set(PROMPT_TYPES) == set(PROMPT_KINDS)


# --- consent ---------------------------------------------------------------------------------------------------------

PERMISSIONS = [{"id": "a", "name": "A"}, {"id": "b", "name": "B"}]


def consent_flow(running: Core, *, permissions: list[Any], application: bool = True, **options: Any) -> Client:
    """A flow with a consent stage, for alice and an application."""
    build = Builder(running)
    build.count = running.database.count(models.Stage)
    old = running.database.first(models.Flow, slug="f")
    if old is not None:
        running.database.delete(old)
    bound = build.stage(build.flow(designation="authorization"), "consent", options=options)
    build.policy(
        bound,
        "plan = context['flow_plan'].context\n"
        f"plan['consent_permissions'] = {permissions!r}\nplan['consent_header'] = 'head'\n"
        + ("plan['application'] = ak_call_policy('app').raw_result\n" if application else "")
        + "return True",
    )
    if running.database.first(models.Policy, name="app") is None:
        running.database.save(
            models.Policy(
                type="authentik_policies_expression.expressionpolicy", name="app",
                options={"expression": "return request.user.directory.first("
                                       "__import__('core.models').models.Application, slug='ldap-mfa')"},
            )
        )  # fmt: skip
    return running.client()


async def test_case_64_consent() -> None:
    """The token of the last look counts; what was agreed to is not asked again, unless more is wanted or it is over."""
    async with core() as running:
        client = consent_flow(running, permissions=PERMISSIONS[:1], mode="permanent")
        await client.login("alice", "alice-pw-1")
        first = (await client.flow("f")).json
        assert (first["permissions"], first["additional_permissions"], first["header_text"]) == (
            PERMISSIONS[:1],
            [],
            "head",
        )
        second = (await client.flow("f")).json
        assert first["token"] != second["token"]
        for wrong in (first["token"], "", None, 5):
            reply = await client.flow("f", {"token": wrong}, headers=csrf(client))
            assert errors(reply) == {"token": "invalid"}
        assert (await client.walk("f", {"token": reply.json["token"]}, headers=csrf(client))).component == END
        assert (await client.flow("f")).component == END
        jar = client.jar
        client = consent_flow(running, permissions=PERMISSIONS, mode="expiring", consent_expire_in="hours=1")
        client.jar = jar
        shown = (await client.flow("f")).json
        assert (shown["permissions"], shown["additional_permissions"]) == (PERMISSIONS[:1], PERMISSIONS[1:])
        await client.walk("f", {"token": shown["token"]}, headers=csrf(client))
        assert (await client.flow("f")).component == END
        (consent,) = running.database.find(models.Consent)
        assert (consent.permissions, consent.expires) == ("a b", running.clock.now + 3600)
        running.clock.now += 3600
        assert (await client.flow("f")).component == "ak-stage-consent"


@pytest.mark.parametrize(("mode", "application"), [("always_require", True), ("permanent", False)])
async def test_case_64_consent_that_is_not_kept(mode: str, application: bool) -> None:
    """Always asked, or nothing to keep it for: nothing is stored."""
    async with core() as running:
        client = consent_flow(running, permissions=PERMISSIONS, application=application, mode=mode)
        await client.login("alice", "alice-pw-1")
        for _ in range(2):
            shown = (await client.flow("f")).json
            assert (await client.walk("f", {"token": shown["token"]}, headers=csrf(client))).component == END
        assert running.database.count(models.Consent) == 0


def csrf(client: Client) -> dict[str, str]:
    """The header that a logged-in session must send."""
    return {"X-authentik-CSRF": client.jar["authentik_csrf"]}


# --- redirect --------------------------------------------------------------------------------------------------------


async def test_case_65_redirect_targets() -> None:
    """A static address, another flow named by a policy, and an unknown one that falls back."""
    async with core() as running:
        build = Builder(running)
        build.stage(build.flow(), "redirect", options={"mode": "static", "target_static": "https://x.test/a"})
        client = running.client()
        assert (await client.flow("f")).json == {"component": END, "to": "https://x.test/a"}
        assert (await client.flow("f")).json["to"] == "https://x.test/a"
        assert (await client.walk("f", {"to": "anything"})).json["to"] == "/"
        target = build.flow("g", authentication="require_redirect")
        saw(build, target, "context['is_redirected'].slug == 'h' and context['kept'] == 1")
        bound = build.stage(
            build.flow("h"), "redirect", options={"mode": "static", "target_static": "https://x.test/b"}
        )
        context_policy(build, bound, redirect_stage_target="ak-flow://g", kept=1)
        assert (await client.flow("g")).component == DENIED
        reply = await client.flow("h", query="next=/x")
        assert reply.json == {"component": END, "to": "/if/flow/g/?next=%2Fx"}
        assert said(await client.flow("g", query="next=/x")) == "yes"
        for chosen, expected in (("ak-flow://missing", "https://x.test/b"), ("/local", "/local")):
            for old in running.database.find(models.PolicyBinding, target=bound.pk):
                running.database.delete(old)
            context_policy(build, bound, redirect_stage_target=chosen)
            assert (await running.client().flow("h")).json["to"] == expected


async def test_case_66_redirect_without_context() -> None:
    """Only the mark of the redirect goes along."""
    async with core() as running:
        build = Builder(running)
        target = build.flow("g", authentication="require_redirect")
        saw(build, target, "set(context) - {'flow_plan'} == {'is_redirected'}")
        options = {"mode": "flow", "target_flow": target.pk, "keep_context": False}
        bound = build.stage(build.flow(), "redirect", options=options)
        context_policy(build, bound, lost=1)
        client = running.client()
        assert (await client.flow("f")).json["to"] == "/if/flow/g/"
        assert said(await client.flow("g")) == "yes"


@pytest.mark.parametrize("target", ["javascript:alert(1)", " JavaScript:x", "data:text/html,x"])
async def test_redirect_refuses_what_a_browser_would_run(target: str) -> None:
    """Such an address is no target."""
    async with core() as running:
        build = Builder(running)
        build.stage(build.flow(), "redirect", options={"mode": "static", "target_static": target})
        assert (await running.client().flow("f")).component == DENIED


async def test_redirect_into_a_flow_that_does_not_apply() -> None:
    """Denied, with what the other flow says."""
    async with core() as running:
        build = Builder(running)
        target = build.flow("g", authentication="require_superuser")
        build.stage(target, "dummy")
        build.stage(build.flow(), "redirect", options={"mode": "flow", "target_flow": target.pk})
        assert (await running.client().flow("f")).component == DENIED


# --- e-mail ----------------------------------------------------------------------------------------------------------


def recovery(running: Core, server: MailServer, **options: Any) -> tuple[Builder, models.Flow]:
    """Identification, mail, and a dummy stage behind it."""
    build = Builder(running)
    flow = build.flow("recover", designation="recovery")
    build.stage(flow, "identification", 1, {"user_fields": ["username"]})
    values = {"host": "127.0.0.1", "port": server.port, "from_address": "core@example.test"} | options
    build.stage(flow, "mail", 2, values)
    build.stage(flow, "dummy", 3)
    return build, flow


def link(server: MailServer, number: int = -1) -> str:
    """The query of the link in a mail."""
    found = re.search(r"http://\S+", server.text(number))
    assert found is not None
    address = urlsplit(found[0])
    assert address.path == "/if/flow/recover/"
    return address.query


async def test_case_67_email() -> None:
    """One mail for one visit, another for an answer; the link asks, then leads on; it works once, and for its owner."""
    async with core() as running:
        with mail_server() as server:
            recovery(running, server, activate_user_on_success=True)
            dave = running.user("dave")
            client = running.client()
            assert (await client.walk("recover", {"uid_field": "dave"}, query="next=/x")).component == "ak-stage-email"
            assert "pending_user" not in (await client.flow("recover", query="next=/x")).json
            assert server.recipients == [["dave@example.test"]]
            assert errors(await client.flow("recover", {}, query="next=/x")) == {"non_field_errors": "email-sent"}
            assert len(server.mails) == 2
            query = link(server)
            assert parse_qs(query)["next"] == ["/x"]
            # another browser, as mails are often read elsewhere
            other = running.client()
            shown = await other.flow("recover", query=query)
            assert (shown.component, shown.json["pending_user"]) == ("ak-stage-consent", "dave")
            await running.client().flow("recover", query=query)  # who only looks uses nothing up
            assert not running.user("dave").is_active
            reply = await other.walk("recover", {"token": shown.json["token"]}, query=query)
            assert reply.component == "ak-stage-dummy"
            assert running.user("dave").is_active
            assert (await other.walk("recover", {}, query=query)).json == {"component": END, "to": "/x"}
            again = running.client()
            assert (await again.flow("recover", query=query)).component == "ak-stage-identification"
            # the first mail's link still works; once in the browser of somebody else's recovery
            victim = running.client()
            assert (await victim.walk("recover", {"uid_field": "bob"})).component == "ak-stage-email"
            shown = await victim.flow("recover", query=link(server, 0))
            assert shown.component == "ak-stage-consent"
            reply = await victim.walk("recover", {"token": shown.json["token"]}, query=link(server, 0))
            assert reply.component == DENIED
            assert dave.pk is not None


async def test_case_67_link_used_up_between_question_and_answer() -> None:
    """Two browsers look, one answers first: the other is denied."""
    async with core() as running:
        with mail_server() as server:
            recovery(running, server)
            await running.client().walk("recover", {"uid_field": "alice"})
            one, two = running.client(), running.client()
            tokens = [(await each.flow("recover", query=link(server))).json["token"] for each in (one, two)]
            assert (await one.walk("recover", {"token": tokens[0]}, query=link(server))).component == "ak-stage-dummy"
            assert (await two.walk("recover", {"token": tokens[1]}, query=link(server))).component == DENIED


async def test_case_67_expiry_and_limits() -> None:
    """An old link is none; so many mails in a window, then none, which an answer says."""
    async with core() as running:
        with mail_server() as server:
            recovery(running, server, token_expiry="minutes=2", recovery_max_attempts=2)
            client = running.client()
            await client.walk("recover", {"uid_field": "alice"})
            await client.flow("recover", {})
            assert errors(await client.flow("recover", {})) == {"non_field_errors": "invalid"}
            assert len(server.mails) == 2
            running.clock.now += 2 * 60 + 59
            assert (await running.client().flow("recover", query=link(server))).component == "ak-stage-consent"
            running.clock.now += 1
            assert (await running.client().flow("recover", query=link(server))).component == "ak-stage-identification"
            running.clock.now += 121
            assert errors(await client.flow("recover", {})) == {"non_field_errors": "email-sent"}
            server.refuse = "550 no"
            assert errors(await client.flow("recover", {})) == {"non_field_errors": "invalid"}


async def test_case_68_email_to_nobody() -> None:
    """Somebody who does not exist sees the same page, and no mail is sent."""
    async with core() as running:
        with mail_server() as server:
            recovery(running, server)
            client = running.client()
            assert (await client.walk("recover", {"uid_field": "nobody"})).component == "ak-stage-email"
            assert errors(await client.flow("recover", {})) == {"non_field_errors": "email-sent"}
            assert server.mails == []


async def test_email_address_and_user_of_the_context() -> None:
    """``email`` goes before the user's address; without anybody it is denied."""
    async with core() as running:
        with mail_server() as server:
            build, flow = recovery(running, server)
            bound = running.database.find(models.StageBinding, target=flow.pk)[1]
            context_policy(build, bound, email="other@example.test")
            await running.client().walk("recover", {"uid_field": "alice"})
            assert server.recipients == [["other@example.test"]]
            running.database.delete(running.database.find(models.StageBinding, target=flow.pk)[0])
            assert (await running.client().flow("recover")).component == DENIED


# --- invitation ------------------------------------------------------------------------------------------------------


async def test_case_69_invitation() -> None:
    """None, expired, for another flow; a good one is merged in and, for a single use, gone."""
    async with core() as running:
        build = Builder(running)
        flow, other = build.flow(designation="enrollment"), build.flow("other")
        bound = build.stage(flow, "invitation")
        saw(
            build, flow,
            "(d := context['prompt_data']) == {'email': 'a@b.test', 'typed': 1, 'list': [1, 2], 'token': d['token']}"
            " and context['invitation_in_effect'] and context['invitation'].name == 'one'",
        )  # fmt: skip
        database = running.database
        fixed = {"email": "a@b.test", "list": [2]}

        def invite(**fields: Any) -> str:
            return database.save(models.Invitation(name="one", fixed_data=fixed, **fields)).pk

        for query in (None, "itoken=", "itoken=nonsense", f"itoken={flow.pk}"):
            assert (await running.client().flow("f", query=query)).component == DENIED
        assert (await running.client().flow("f", query=f"itoken={invite(flow=other.pk)}")).component == DENIED
        late = invite(expires=running.clock.now - 1)
        assert (await running.client().flow("f", query=f"itoken={late}")).component == DENIED
        context_policy(build, bound, prompt_data={"typed": 1, "list": [1], "email": "typed@b.test", "token": None})
        once = invite(single_use=True, flow=flow.pk)
        assert said(await running.client().walk("f", query=f"itoken={once}")) == "yes"
        assert database.first(models.Invitation, pk=once) is None
        assert (await running.client().walk("f", query=f"itoken={once}")).component == DENIED
        often = invite()
        for name in ("itoken", "token"):
            assert said(await running.client().walk("f", query=f"{name}={often}")) == "yes"
        for old in database.find(models.PolicyBinding, target=bound.pk):
            database.delete(old)
        context_policy(build, bound, prompt_data={"typed": 1, "list": [1], "token": often})
        assert said(await running.client().walk("f")) == "yes"


async def test_case_69_flow_goes_on_without() -> None:
    """If the stage says so, somebody who was not invited goes on."""
    async with core() as running:
        build = Builder(running)
        flow = build.flow()
        build.stage(flow, "invitation", options={"continue_flow_without_invitation": True})
        saw(build, flow, "'invitation' not in context")
        assert said(await running.client().walk("f", query="itoken=nonsense")) == "yes"


# --- captcha ---------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def captcha_server(answer: Any, posts: list[dict[str, str]]) -> AsyncIterator[str]:
    """A captcha service that always gives this answer."""

    async def verify(request: web.Request) -> web.Response:
        posts.append({name: str(value) for name, value in (await request.post()).items()})
        return web.json_response(answer) if isinstance(answer, dict) else web.Response(status=500, text=str(answer))

    app = web.Application()
    app.router.add_post("/verify", verify)
    async with _serving(app) as port:
        yield f"http://127.0.0.1:{port}/verify"


@pytest.mark.parametrize(
    ("answer", "options", "passes"),
    [
        ({"success": True, "score": 0.9}, {}, True),
        ({"success": True}, {}, True),
        ({"success": True, "score": 99}, {}, False),
        ({"success": True, "score": 99}, {"error_on_invalid_score": False}, True),
        ({"success": True, "score": 99}, {"score_max_threshold": -1}, True),
        ({"success": True, "score": 0.1}, {}, False),
        ({"success": True, "score": 0.1}, {"score_min_threshold": -1}, True),
        ({"success": True, "score": "high"}, {}, False),
        ({"success": False}, {}, False),
        ({"success": False}, {"error_on_invalid_score": False}, True),
        ({"success": "yes"}, {}, False),
        ({}, {}, False),
        ("broken", {}, False),
        ("broken", {"error_on_invalid_score": False}, False),
    ],
)
async def test_case_70_captcha(answer: Any, options: dict[str, Any], passes: bool) -> None:
    """What the service says, the score's limits, and a service that fails, which always is an error."""
    posts: list[dict[str, str]] = []
    async with core() as running, captcha_server(answer, posts) as url:
        build = Builder(running)
        flow = build.flow()
        build.stage(flow, "captcha", options={"public_key": "site", "private_key": "secret", "api_url": url} | options)
        saw(build, flow, f"context['captcha']['response'] == {answer!r}")
        client = running.client()
        shown = await client.flow("f")
        assert (shown.json["site_key"], shown.json["interactive"]) == ("site", False)
        reply = await client.walk("f", {"token": "from the browser"})
        assert posts == [{"secret": "secret", "response": "from the browser", "remoteip": "127.0.0.1"}]
        assert said(reply) == "yes" if passes else errors(reply) == {"token": "invalid"}
        assert errors(await running.client().flow("f", {})) == {"token": "invalid"}
        assert len(posts) == 1


async def test_captcha_in_identification() -> None:
    """Embedded: a bad token is the same error as a wrong password; a good one lets the password decide."""
    posts: list[dict[str, str]] = []
    async with core() as running, captcha_server({"success": True}, posts) as url:
        build = Builder(running)
        flow = build.flow()
        stage = models.Stage(
            type=TYPES["captcha"], name="captcha", options={"public_key": "site", "private_key": "s", "api_url": url}
        )
        running.database.save(stage)
        options = {"user_fields": ["username"], "password_stage": build.password_stage(), "captcha_stage": stage.pk}
        build.stage(flow, "identification", options=options)
        build.stage(flow, "login")
        client = running.client()
        shown = (await client.flow("f")).json["captcha_stage"]
        assert (shown["site_key"], shown["interactive"], shown["pending_user"]) == ("site", False, "")
        good = {"uid_field": "alice", "password": "alice-pw-1", "captcha_token": "t"}
        for wrong in ({"captcha_token": ""}, {"password": "no"}, {"uid_field": "nobody"}):
            assert errors(await client.flow("f", good | wrong)) == {"non_field_errors": "invalid"}
        assert (await client.walk("f", good)).component == END
        assert len(posts) == 2  # not for the empty token, nor for somebody who does not exist


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "field"),
    [
        ("consent", {"mode": "sometimes"}, "mode"),
        ("consent", {"consent_expire_in": "later"}, "consent_expire_in"),
        ("redirect", {"mode": "static"}, "target_static"),
        ("redirect", {"mode": "flow"}, "target_flow"),
        ("mail", {"recovery_max_attempts": 0}, "recovery_max_attempts"),
        ("mail", {"template": "../secrets.html"}, "template"),
        ("captcha", {"public_key": "x", "private_key": "y", "api_url": "file:///etc/passwd"}, "api_url"),
        ("write", {"user_type": "robot"}, "user_type"),
        ("invitation", {"unknown": 1}, "unknown"),
    ],
)
def test_options(kind: str, options: dict[str, Any], field: str) -> None:
    """Options that cannot work are refused when the stage is saved."""
    with pytest.raises(ValidationFailed) as refused:
        STORABLE[TYPES[kind]].read_options(options)
    assert field in str(refused.value)


async def test_more_than_a_session_holds_is_refused() -> None:
    """Each file is within its limit, all together are not: 413, and the flow is where it was."""
    async with core() as running:
        fields = [prompt(running, key, "file", required=key == "a") for key in "abc"]
        _, client = prompt_flow(running, *fields)
        await client.flow("f")
        large = "data:text/plain;base64," + "A" * (125 * 1024)
        reply = await client.flow("f", {"a": large, "b": large, "c": large})
        assert reply.status == 413, reply.body
        assert (await client.flow("f")).component == "ak-stage-prompt"
        assert (await client.walk("f", {"a": large})).component == END
