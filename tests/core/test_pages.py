"""Pages in a browser without JavaScript: every challenge as a form, and what the pages refuse."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pyotp
import pytest

from core import models
from core.pages import forms
from core.pages.forms import BadForm, view_of
from core.pages.web import launch_url
from core.stages.base import ChallengeStage
from tests.core.browsers import FORM, Browser
from tests.core.cores import Clock, Core, core
from tests.core.oauth2_clients import proxy, web

DEFAULT = "/if/flow/default-authentication-flow/"


async def logged_in(running: Core, username: str = "alice") -> Browser:
    """Somebody who is logged in."""
    browser = Browser(running)
    await browser.open("/")
    return await browser.log_in(username)


# --- log in and out ---------------------------------------------------------------------------------------------------


async def test_log_in_and_out() -> None:
    """From the start page through the login to one's own page, and out again."""
    async with core() as running:
        web(running)
        browser = Browser(running)
        await browser.open("/")
        assert browser.at == DEFAULT + "?next=%2F"
        page = browser.page
        assert page.form is not None and page.form.method == "post"
        assert page.labels["uid_field"] == "Email or Username"
        assert page.attributes["uid_field"]["autocomplete"] == "username"
        await browser.submit(uid_field="alice")
        page = browser.page
        assert page.attributes["password"]["type"] == "password"
        assert page.attributes["password"]["autocomplete"] == "current-password"
        assert page.attributes["username"]["value"] == "alice", "for password managers"
        await browser.submit(password="alice-pw-1")
        assert browser.at == "/if/user/"
        page = browser.page
        assert "You are logged in as alice (Alice Anders)." in page.text
        assert page.links["Proxy full app"] == "http://app.proxy.test:9080"
        assert page.links["Web"] == "https://web.example.test/?u=alice"
        assert "Proxy denied app" not in page.text, "a policy says no"
        assert "LDAP app" not in page.text, "nothing to open"
        await browser.open(page.links["Log out"])
        assert browser.at == DEFAULT + "?next=%2F"
        assert running.session_count("alice") == 0


async def test_no_page_needs_a_script() -> None:
    """No script, style or handler inside; the policy allows none; nothing comes from elsewhere."""
    async with core() as running:
        browser = Browser(running)
        await browser.open("/")
        await browser.submit(uid_field="alice")
        for step in ("password", "user", "message"):
            reply = browser.reply
            assert reply is not None
            policy = reply.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy and "script-src" not in policy and "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy and "base-uri 'none'" in policy
            assert reply.headers["X-Frame-Options"] == "DENY"
            assert reply.headers["X-Content-Type-Options"] == "nosniff"
            assert reply.headers["Referrer-Policy"] == "same-origin"
            assert reply.headers["Cache-Control"] == "no-store"
            for tag, attributes in browser.page.tags:
                assert tag not in ("script", "style", "iframe", "object"), step
                assert not [name for name in attributes if name.startswith("on") or name == "style"], step
            if step == "password":
                await browser.submit(password="alice-pw-1")
            else:
                await browser.open("/application/o/authorize/")


async def test_the_style_sheet() -> None:
    """Served under a name that changes with its content."""
    async with core() as running:
        browser = Browser(running)
        await browser.open("/")
        (path,) = [given["href"] for tag, given in browser.page.tags if tag == "link" and given["rel"] == "stylesheet"]
        reply = await running.client().request("GET", path)
        assert reply.headers["Content-Type"].startswith("text/css")
        assert "immutable" in reply.headers["Cache-Control"]


async def test_a_wrong_password() -> None:
    """The page comes back with the error beside its field, and never with what was typed."""
    async with core() as running:
        browser = Browser(running)
        await browser.open("/")
        await browser.submit(uid_field="alice")
        await browser.submit(password="a-wrong-password")
        assert browser.status == 200
        page = browser.page
        assert "Invalid password" in page.text
        assert page.attributes["password"]["aria-invalid"] == "true"
        assert page.attributes["password"]["aria-describedby"] == "about-password"
        assert browser.reply is not None and b"a-wrong-password" not in browser.reply.body
        await browser.submit(password="alice-pw-1")
        assert browser.at == "/if/user/"


async def test_names_are_escaped() -> None:
    """What people type, and what the directory holds, stays text."""
    async with core() as running:
        browser = Browser(running)
        name = '<script>alert(1)</script>"'
        await browser.open("/")
        await browser.submit(uid_field=name)
        assert browser.reply is not None
        assert b"<script>" not in browser.reply.body
        alice = running.user("alice")
        alice.name = name
        running.database.save(alice)
        browser = await logged_in(running)
        assert name in browser.page.text
        assert b"<script>" not in browser.reply.body if browser.reply else False


@pytest.mark.parametrize("target", ["//evil.test/", "https://evil.test/", "/\\evil.test", "javascript:alert(1)"])
async def test_next_stays_here(target: str) -> None:
    """The end of a login leads to no other site."""
    async with core() as running:
        browser = Browser(running)
        await browser.open(f"{DEFAULT}?next={target}")
        await browser.log_in()
        assert browser.left == ""
        assert browser.page.title.startswith("Access denied")


async def test_cancel() -> None:
    """The link on each page drops what was begun."""
    async with core() as running:
        browser = Browser(running)
        await browser.open(DEFAULT + "?next=%2Fif%2Fuser%2F")
        await browser.submit(uid_field="alice")
        await browser.open(browser.page.links["Cancel"])
        assert "uid_field" in browser.page.attributes, "it begins anew"


async def test_outsiders_go_to_the_brands_application() -> None:
    """People who are not internal have no page of their own."""
    async with core() as running:
        alice = running.user("alice")
        alice.type = models.EXTERNAL
        running.database.save(alice)
        browser = await logged_in(running)
        assert browser.at == "/if/user/", "without an application there is nowhere else"
        brand = running.database.first(models.Brand, default=True)
        application = running.database.first(models.Application, slug="proxy-single")
        assert brand is not None and application is not None
        brand.default_application = application.pk
        running.database.save(brand)
        await browser.open("/")
        assert browser.left == "http://single.proxy.test:9080"


# --- forged and broken forms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "0" * 64, None])
async def test_forms_of_other_sites_do_nothing(token: str | None) -> None:
    """Without the token of this session a form only shows the page again: before a login and after it."""
    async with core() as running:
        browser = Browser(running)
        await browser.open("/")
        fields = "uid_field=carol" + (f"&ak-csrf={token}" if token is not None else "")
        await browser._go("POST", browser.at, fields)
        assert browser.hops == [303, 200]
        assert "uid_field" in browser.page.attributes, "nothing was answered"
        browser = await logged_in(running)
        await browser.open(proxy(running, "proxy-domain").authorize())
        form = browser.page.form
        assert form is not None
        await browser._go("POST", browser.at, f"token={form.fields['token']}" + (f"&ak-csrf={token}" if token else ""))
        assert browser.left == ""
        assert running.database.count(models.AuthorizationCode) == 0


async def test_the_token_of_another_session() -> None:
    """An attacker's own token is worth nothing with somebody else's cookie, nor the old one after a login."""
    async with core() as running:
        attacker, victim = Browser(running), Browser(running)
        await attacker.open("/")
        await victim.open("/")
        mine = attacker.page.form
        assert mine is not None
        await victim._go("POST", victim.at, f"uid_field=attacker&ak-csrf={mine.fields['ak-csrf']}")
        assert "uid_field" in victim.page.attributes
        before = victim.page.form
        assert before is not None
        await victim.log_in()
        await victim.open(proxy(running, "proxy-domain").authorize())
        form = victim.page.form
        assert form is not None
        assert form.fields["ak-csrf"] != before.fields["ak-csrf"], "the session's key changed at the login"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("json:x={", FORM),
        ("json:x=" + "[" * 50, FORM),
        ("&".join(f"a{number}=1" for number in range(300)), FORM),
    ],
)
async def test_forms_that_no_page_made(body: str, kind: str) -> None:
    """A page with status 400; the login goes on."""
    async with core() as running:
        browser = Browser(running)
        await browser.open("/")
        form = browser.page.form
        assert form is not None
        reply = await browser.client.request(
            "POST", browser.at, raw=f"ak-csrf={form.fields['ak-csrf']}&{body}", headers={"Content-Type": kind}
        )
        assert reply.status == 400
        await browser.open(browser.at)
        await browser.log_in()
        assert browser.at == "/if/user/"


async def test_unknown_flows_and_broken_uploads() -> None:
    """Not found; a form that is none is a bad request."""
    async with core() as running:
        client = running.client()
        assert (await client.request("GET", "/if/flow/nothing/")).status == 404
        for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
            reply = await client.request("POST", DEFAULT, raw="no boundary", headers={"Content-Type": kind})
            assert reply.status in (303, 400), kind
        reply = await client.request("POST", DEFAULT, raw=b"{}", headers={"Content-Type": "application/json"})
        assert reply.status == 303, "no form: no token"


# --- every challenge --------------------------------------------------------------------------------------------------


async def test_the_pages_of_a_second_factor() -> None:
    """A code from an app; a wrong one is refused beside its field."""
    clock = Clock()
    async with core(clock=clock) as running:
        browser = Browser(running)
        await browser.open("/")
        await browser.log_in("bob")
        page = browser.page
        assert page.attributes["code"]["autocomplete"] == "one-time-code"
        await browser.submit(code="000000")
        assert browser.page.attributes["code"]["aria-invalid"] == "true"
        clock.now += 60
        await browser.submit(code=pyotp.TOTP("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ").at(int(clock.now)))
        assert browser.at == "/if/user/"


async def test_setting_up_a_second_factor() -> None:
    """The key is on the page as text; the first code confirms the device."""
    clock = Clock()
    async with core(clock=clock) as running:
        browser = await logged_in(running)
        stage = running.database.first(models.Stage, type="authentik_stages_authenticator_totp.authenticatortotpstage")
        assert stage is not None
        await browser.open(f"/flows/-/configure/{stage.pk}/")
        found = re.search(r"secret=([A-Z2-7]+)", browser.page.text)
        assert found is not None
        await browser.submit(code=pyotp.TOTP(found[1]).at(int(clock.now)))
        assert running.database.count(models.TOTPDevice, user=running.user("alice").pk, confirmed=True) == 1


async def test_the_question_whether_to_stay_signed_in() -> None:
    """Yes and no are buttons."""
    async with core() as running:
        browser = Browser(running)
        await browser.open("/if/flow/rc-remember-flow/")
        await browser.submit(uid_field="alice", password="alice-pw-1")
        form = browser.page.form
        assert form is not None
        assert [label for label, _, _ in form.buttons] == ["Yes", "No"]
        await browser.submit("Yes")
        assert running.session_count("alice") == 1


async def test_the_page_of_a_denied_flow() -> None:
    """The policy's message, and no form."""
    async with core() as running:
        browser = Browser(running)
        await browser.open("/if/flow/rc-flow-policy-denied/")
        assert browser.page.title.startswith("Access denied")
        assert browser.page.form is None
        await browser.open("/if/flow/rc-deny-flow/")
        await browser.submit(uid_field="alice", password="alice-pw-1")
        assert browser.page.title.startswith("Access denied")
        assert running.session_count("alice") == 0


PROMPTS = """
version: 1
entries:
  - model: authentik_flows.flow
    id: flow
    identifiers: {slug: ask}
    attrs: {name: Ask, title: Ask, designation: enrollment}
  - model: authentik_stages_prompt.promptstage
    id: ask
    identifiers: {name: ask}
    attrs:
      fields: [%s]
  - model: authentik_stages_dummy.dummystage
    id: after
    identifiers: {name: after}
  - model: authentik_flows.flowstagebinding
    identifiers: {target: !KeyOf flow, stage: !KeyOf ask, order: 0}
  - model: authentik_flows.flowstagebinding
    identifiers: {target: !KeyOf flow, stage: !KeyOf after, order: 1}
"""
FIELDS: dict[str, dict[str, Any]] = {
    "text": {"initial_value": 'say "x"'},
    "text_area": {"initial_value": "line"},
    "email": {},
    "password": {},
    "number": {},
    "date": {},
    "checkbox": {"initial_value": "true"},
    "dropdown": {"placeholder": "return ['a', 'b']", "placeholder_expression": True},
    "radio-button-group": {"placeholder": "return ['c', 'd']", "placeholder_expression": True},
    "text_read_only": {"initial_value": "fixed"},
    "static": {"initial_value": "<b>read this</b>"},
    "hidden": {"initial_value": "secret-of-the-server"},
    "separator": {},
    "file": {"required": False},
}


async def test_every_kind_of_prompt() -> None:
    """Labels, values and choices are there; what is sent is what the flow keeps."""
    async with core() as running:
        for order, (kind, options) in enumerate(FIELDS.items()):
            key = kind.replace("-", "_")
            prompt = models.Prompt(name=key, field_key=key, label=f"Label of {key}", type=kind, order=order, **options)
            running.database.save(prompt)
        pks = [prompt.pk for prompt in running.database.find(models.Prompt, label__startswith="Label of")]
        running.inner.blueprints.apply(PROMPTS % ", ".join(pks), "prompts")
        browser = Browser(running)
        await browser.open("/if/flow/ask/")
        page = browser.page
        assert page.form is not None and page.form.encoding == "multipart/form-data"
        assert page.form.fields["text"] == 'say "x"'
        assert page.form.fields["checkbox"] == "true"
        assert "hidden" not in page.form.fields and "secret-of-the-server" not in page.text
        assert "<b>read this</b>" in page.text, "as text"
        assert page.attributes["password"]["autocomplete"] == "new-password"
        assert page.labels["email"] == "Label of email"
        answer = {
            "text": "T", "text_area": "two\r\nlines", "email": "a@example.test", "password": "pw", "number": "5",
            "date": "2026-01-31", "checkbox": "false", "dropdown": "b", "radio_button_group": "d",
        }  # fmt: skip
        boundary = "xx-boundary"
        sent = page.form.fields | answer
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in sent.items()
        ]
        parts.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n'
            f"Content-Type: text/plain\r\n\r\nhello\r\n--{boundary}--\r\n"
        )
        kind = f"multipart/form-data; boundary={boundary}"
        reply = await browser.client.request(
            "POST", browser.at, raw="".join(parts).encode(), headers={"Content-Type": kind}
        )
        assert reply.status == 303, reply.body.decode()[-2000:]
        (session,) = running.database.find(models.Session)
        kept = msgspec.json.decode(session.data)["authentik/flows/plan"]["context"]["prompt_data"]
        assert kept == {
            **answer, "number": 5, "checkbox": False, "text_read_only": "fixed", "static": "<b>read this</b>",
            "hidden": "secret-of-the-server", "file": "data:text/plain;base64,aGVsbG8=",
        }  # fmt: skip
        await browser.open(browser.at)
        assert "after" in browser.page.text


async def test_prompt_errors_are_beside_their_fields() -> None:
    """With what was wrong; object errors above."""
    async with core() as running:
        prompt = running.database.save(models.Prompt(name="e", field_key="e", label="Mail", type="email"))
        running.inner.blueprints.apply(PROMPTS % prompt.pk, "prompts")
        browser = Browser(running)
        await browser.open("/if/flow/ask/")
        await browser.submit(e="no address")
        assert "Enter a valid email address." in browser.page.text
        assert browser.page.attributes["e"]["aria-invalid"] == "true"


NEEDS_SCRIPT = {"ak-stage-captcha", "ak-stage-authenticator-webauthn"}


def components() -> set[str]:
    """The components of all stages that ask, as their classes say."""
    from core.stages import STAGES

    found = {kind.challenge_component for kind in STAGES.values() if issubclass(kind, ChallengeStage)}
    return found | {"ak-stage-access-denied", "ak-stage-flow-error", "ak-stage-session-end", "ak-stage-autosubmit"}


@pytest.mark.parametrize("component", sorted(components()))
def test_no_challenge_is_without_a_page(component: str) -> None:
    """Even the barest challenge gives a way on or out; where that needs a script, the page says so."""
    info = {"title": "T", "cancel_url": "/flows/-/cancel/"}
    view = view_of({"component": component, "flow_info": info, "user_fields": ["username"]})
    assert view.title
    assert view.has_form or view.links
    if component in NEEDS_SCRIPT:
        assert view.errors == [forms.NOT_WITHOUT_SCRIPT]
    else:
        assert forms.NOT_WITHOUT_SCRIPT not in view.errors


def test_what_can_only_be_said() -> None:
    """Challenges that need a script are said to, beside ways that need none."""
    keys = {"device_class": "webauthn", "device_uid": "-1", "challenge": {}}
    view = view_of({"component": "ak-stage-authenticator-validate", "device_challenges": [keys]})
    assert not view.has_form and forms.NOT_WITHOUT_SCRIPT in view.texts
    codes = {"device_class": "totp", "device_uid": "1", "challenge": {}}
    view = view_of({"component": "ak-stage-authenticator-validate", "device_challenges": [keys, codes]})
    assert view.has_form and [item.name for item in view.fields] == ["code"]
    assert view_of({"component": "of-a-newer-core"}).errors == [forms.NOT_WITHOUT_SCRIPT]


def test_choices_of_a_second_factor() -> None:
    """Buttons send what the stage expects: a chosen device, a push, a stage to set up."""
    devices = [{"device_class": name, "device_uid": "7", "challenge": {}} for name in ("email", "sms", "duo")]
    stages = [{"pk": "p1", "name": "totp", "verbose_name": "TOTP", "meta_model_name": "m"}]
    view = view_of(
        {
            "component": "ak-stage-authenticator-validate",
            "device_challenges": devices,
            "configuration_stages": stages,
        }
    )
    answers = [forms.answer_of([(button.name, button.value)]) for button in view.buttons if button.name]
    assert answers == [
        {"selected_challenge": {"device_class": "email", "device_uid": "7"}},
        {"selected_challenge": {"device_class": "sms", "device_uid": "7"}},
        {"duo": "7"},
        {"selected_stage": "p1"},
    ]


def test_answers() -> None:
    """The page's token is no answer; of two values of one name the last counts; JSON fields are decoded."""
    pairs = [("ak-csrf", "x"), ("a", "false"), ("a", "true"), ("json:remember_me", "false")]
    assert forms.answer_of(pairs) == {"a": "true", "remember_me": False}
    with pytest.raises(BadForm):
        forms.answer_of([("json:x", "{")])


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/%(username)s/%(email)s", "https://h/a%2Fb/a%40example.test"),
        ("https://h/%(nothing)s", ""),
        ("https://h/%(username)d", ""),
        ("https://h/100%", "https://h/100%"),
        ("javascript:alert(1)", ""),
        ("blank://blank", ""),
        ("/if/flow/x/", "/if/flow/x/"),
        ("", ""),
    ],
)
async def test_launch_urls(url: str, shown: str) -> None:
    """Names of the user are filled in, escaped; what is no web address is not shown."""
    async with core() as running:
        user = models.User(username="a/b", email="a@example.test")
        application = models.Application(name="x", slug="x", meta_launch_url=url)
        assert launch_url(running.services, application, user) == shown
