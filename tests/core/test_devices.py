"""Second factors: setting each kind up, and logging in with it; against a mail server, an SMS service and Duo."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyotp
import pytest

from core import models, otp
from core.duo import DuoFailed, canonical, sign
from core.errors import ValidationFailed
from core.mail import Mail, MailFailed, is_address, masked
from core.settings import MailSettings
from core.stages import STORABLE
from tests.core.cores import Client, Core, Reply, core
from tests.core.services import DUO_ID, DUO_SECRET, MAIL_PASSWORD, MAIL_USER, Duo, duo, mail_server, sms_service
from tests.core.test_flows import TYPES, Builder

DENIED, PASSED, VALIDATE = "ak-stage-access-denied", "xak-flow-redirect", "ak-stage-authenticator-validate"
for kind in ("totp", "static", "email", "sms", "duo"):
    TYPES[kind] = f"authentik_stages_authenticator_{kind}.authenticator{kind}stage"


def setup_flow(running: Core, kind: str, **options: Any) -> str:
    """A flow of identification with password and a set-up stage; returns the stage's primary key."""
    build = Builder(running)
    flow = build.flow("setup")
    build.stage(flow, "identification", 1, {"user_fields": ["username"], "password_stage": build.password_stage()})
    return build.stage(flow, kind, 2, options).stage


def login_flow(running: Core, **options: Any) -> None:
    """A flow of identification with password, validation, and login."""
    build = Builder(running)
    flow = build.flow("login", title="login")
    build.count = 50
    build.stage(flow, "identification", 1, {"user_fields": ["username"], "password_stage": build.password_stage()})
    build.stage(flow, "validate", 2, {"not_configured_action": "deny"} | options)
    build.stage(flow, "login", 3)


async def begun(
    running: Core, slug: str = "setup", name: str = "alice", client: Client | None = None
) -> tuple[Client, Reply]:
    """After name and password."""
    client = client or running.client()
    return client, await client.login(name, f"{name}-pw-1", slug)


def error_of(reply: Reply) -> tuple[str, str]:
    """Field and code of the one error of a challenge."""
    ((name, found),) = reply.json["response_errors"].items()
    return name, found[0]["code"]


def reputation(running: Core, name: str = "alice") -> int:
    """Score of a name."""
    return running.database.reputation(identifier=name, ip=None)


# --- generators and lists --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", [6, "8"])
async def test_totp_setup(digits: Any) -> None:
    """The address has the secret; only a right code keeps it, and that code is used up."""
    async with core() as running:
        setup_flow(running, "totp", digits=digits)
        login_flow(running)
        client, reply = await begun(running)
        assert reply.component == "ak-stage-authenticator-totp"
        address = urlsplit(reply.json["config_url"])
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        assert (address.scheme, address.netloc, address.path) == ("otpauth", "totp", "/authentik:alice")
        assert {query["algorithm"], query["digits"], query["period"], query["issuer"]} == {
            "SHA1", str(digits), "30", "authentik",
        }  # fmt: skip
        generator = pyotp.TOTP(query["secret"], digits=int(digits))
        assert error_of(await client.flow("setup", {"code": "0" * int(digits)})) == ("code", "invalid")
        assert (await client.flow("setup")).json["config_url"] == reply.json["config_url"]
        assert not running.database.exists(models.TOTPDevice, user=running.user("alice").pk)
        code = generator.at(int(running.clock.now))
        assert (await client.walk("setup", {"code": code})).component == PASSED
        assert running.database.exists(models.Event, action="model_created")
        other, reply = await begun(running, "login")
        assert reply.component == VALIDATE
        assert error_of(await other.flow("login", {"code": code})) == ("code", "invalid")
        running.clock.now += 30
        code = generator.at(int(running.clock.now))
        assert (await other.walk("login", {"code": code})).component == PASSED


async def test_static_setup() -> None:
    """The codes that were shown work once each."""
    async with core() as running:
        setup_flow(running, "static", token_count=3, token_length=20)
        login_flow(running)
        client, reply = await begun(running)
        codes = reply.json["codes"]
        assert [len(code) for code in codes] == [20] * 3 and len(set(codes)) == 3
        assert not running.database.exists(models.StaticDevice, user=running.user("alice").pk)
        assert (await client.walk("setup", {})).component == PASSED
        for code, component in ((codes[0], PASSED), (codes[0], VALIDATE), (codes[2], VALIDATE)):
            other, _ = await begun(running, "login")
            assert (await other.walk("login", {"code": code})).component == component
        running.clock.now += 1.0  # the back-off after the code that was used already
        other, _ = await begun(running, "login")
        assert (await other.walk("login", {"code": codes[2]})).component == PASSED


@pytest.mark.parametrize("kind", ["totp", "static"])
async def test_generators_and_lists_skip_without_a_user(kind: str) -> None:
    """Nobody to set them up for: the flow goes on."""
    async with core() as running:
        build = Builder(running)
        build.stage(build.flow(), kind)
        assert (await running.client().walk("f")).component == PASSED


@pytest.mark.parametrize("kind", ["email", "sms", "duo"])
async def test_others_deny_without_a_user(kind: str) -> None:
    """These would send something to somebody."""
    async with core() as running:
        build = Builder(running)
        options = {
            "email": {},
            "sms": {"provider": "generic", "from_number": "1", "account_sid": "http://127.0.0.1:1/", "auth": "x"},
            "duo": {"api_hostname": "localhost:1", "client_id": "x", "client_secret": "y"},
        }[kind]
        build.stage(build.flow(), kind, options=options)
        assert (await running.client().walk("f")).component == DENIED


# --- e-mail ----------------------------------------------------------------------------------------------------------


async def test_email_setup_with_a_known_address() -> None:
    """The first look sends one code; it confirms the device; a second device is denied."""
    async with core() as running:
        with mail_server() as server:
            setup_flow(running, "email", host="127.0.0.1", port=server.port, from_address="core@example.test")
            client, reply = await begun(running)
            assert (reply.json["email"], reply.json["email_required"]) == ("a***@example.test", False)
            await client.flow("setup")
            assert server.recipients == [["alice@example.test"]]
            mail = server.mails[0]
            assert (mail["From"], mail["To"]) == ("core@example.test", "alice@example.test")
            assert server.code() in mail.get_body(("html",)).get_content()  # type: ignore[union-attr]
            code = server.code()
            wrong = "000000" if code != "000000" else "000001"
            assert error_of(await client.flow("setup", {"code": wrong})) == ("code", "invalid")
            assert (await client.walk("setup", {"code": code})).component == PASSED
            device = running.database.first(models.EmailDevice, user=running.user("alice").pk)
            assert device is not None and (device.email, device.confirmed) == ("alice@example.test", True)
            assert (await begun(running))[1].component == DENIED


async def test_email_setup_asks_for_an_address() -> None:
    """Of a user without one; a second answer without a code sends a new code, and only the new one counts."""
    async with core() as running:
        with mail_server() as server:
            setup_flow(running, "email", host="127.0.0.1", port=server.port)
            alice = running.user("alice")
            alice.email = ""
            running.database.save(alice)
            client, reply = await begun(running)
            assert (reply.json["email"], reply.json["email_required"]) == (None, True)
            for bad in ("", "nobody", "a@b@c.test", "x@y.test\r\nBcc: z@y.test"):
                assert error_of(await client.flow("setup", {"email": bad})) == ("email", "invalid")
            assert server.mails == []
            reply = await client.flow("setup", {"email": "new@example.test"})
            assert (reply.json["email"], "response_errors" in reply.json) == ("n***@example.test", False)
            first = server.code()
            await client.flow("setup", {})
            assert len(server.mails) == 2
            if first != server.code():
                assert error_of(await client.flow("setup", {"code": first})) == ("code", "invalid")
            assert (await client.walk("setup", {"code": server.code()})).component == PASSED


async def test_email_setup_limits() -> None:
    """Wrong codes, old codes, many mails: each has an end."""
    async with core() as running:
        with mail_server() as server:
            setup_flow(running, "email", host="127.0.0.1", port=server.port, token_expiry="minutes=1")
            client, _ = await begun(running)
            code = server.code()
            for _ in range(5):
                await client.flow("setup", {"code": "x"})
            assert error_of(await client.flow("setup", {"code": code})) == ("code", "invalid")
            await client.flow("setup", {})
            code = server.code()
            running.clock.now += 60
            assert error_of(await client.flow("setup", {"code": code})) == ("code", "invalid")
            for _ in range(3):
                assert "response_errors" not in (await client.flow("setup", {})).json
            assert error_of(await client.flow("setup", {})) == ("email", "invalid")
            assert len(server.mails) == 5
            running.clock.now += 600
            assert "response_errors" not in (await client.flow("setup", {})).json


async def test_email_validation() -> None:
    """The chosen challenge sends a code and says that an answer is missing; the code works once and not for long."""
    async with core() as running:
        with mail_server() as server:
            stage = setup_flow(running, "email", host="127.0.0.1", port=server.port, token_expiry="minutes=2")
            login_flow(running)
            user = running.user("alice")
            device = running.database.save(
                models.EmailDevice(user=user.pk or 0, name="m", email="alice@example.test", stage=stage)
            )
            client, reply = await begun(running, "login")
            (challenge,) = reply.json["device_challenges"]
            assert challenge == {
                "device_class": "email", "device_uid": str(device.pk), "challenge": {"email": "a***@example.test"},
                "last_used": None,
            }  # fmt: skip
            assert error_of(await client.flow("login", {"code": "123456"})) == ("code", "invalid")
            before = reputation(running)
            reply = await client.flow("login", {"selected_challenge": challenge})
            assert (reply.component, error_of(reply)) == (VALIDATE, ("non_field_errors", "invalid"))
            assert reputation(running) == before - 1
            code = server.code()
            assert (await client.walk("login", {"code": code})).component == PASSED
            again, _ = await begun(running, "login")
            assert error_of(await again.flow("login", {"code": code})) == ("code", "invalid")
            await again.flow("login", {"selected_challenge": challenge})
            code = server.code()
            running.clock.now += 120
            assert error_of(await again.flow("login", {"code": code})) == ("code", "invalid")
            await again.flow("login", {"selected_challenge": challenge})
            # selected and code together: as browsers send it; no second mail
            sent = len(server.mails)
            reply = await again.walk("login", {"selected_challenge": challenge, "code": server.code()})
            assert (reply.component, len(server.mails)) == (PASSED, sent)


async def test_email_validation_failures() -> None:
    """A challenge that was not offered, a mail server that refuses, too many mails."""
    async with core() as running:
        with mail_server() as server:
            stage = setup_flow(running, "email", host="127.0.0.1", port=server.port)
            login_flow(running)
            for name in ("alice", "bob"):
                running.database.save(
                    models.EmailDevice(user=running.user(name).pk or 0, name="m", email=f"{name}@x.test", stage=stage)
                )
            client, reply = await begun(running, "login")
            (challenge,) = reply.json["device_challenges"]
            others = running.database.first(models.EmailDevice, user=running.user("bob").pk)
            assert others is not None
            for bad in (
                "x", {}, {"device_class": "email"}, challenge | {"device_uid": str(others.pk)},
                challenge | {"device_class": "sms"},
            ):  # fmt: skip
                reply = await client.flow("login", {"selected_challenge": bad})
                assert error_of(reply) == ("selected_challenge", "invalid")
            assert server.mails == []
            server.refuse = "550 no such user"
            reply = await client.flow("login", {"selected_challenge": challenge})
            assert error_of(reply) == ("selected_challenge", "invalid")
            server.refuse = ""
            for _ in range(4):
                await client.flow("login", {"selected_challenge": challenge})
            reply = await client.flow("login", {"selected_challenge": challenge})
            assert error_of(reply) == ("selected_challenge", "throttled")
            assert len(server.mails) == 4
            assert (await client.walk("login", {"code": server.code()})).component == PASSED


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "starttls"])
async def test_mail_server_with_login(tls: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Login and STARTTLS; a certificate that is not known, a wrong password and a closed port are failures."""
    async with core() as running:
        with mail_server(tls=tls, login=True) as server:
            settings = MailSettings(
                host="localhost", port=server.port, username=MAIL_USER, password=MAIL_PASSWORD, use_tls=tls, timeout=5,
                from_address="Core <core@example.test>",
            )  # fmt: skip
            mail = Mail("alice@example.test", "subject", "email/email_otp.html", running.user("alice"), {"token": "1"})
            mailer = running.services.mailer
            if tls:
                with pytest.raises(MailFailed):
                    await mailer.send(mail, settings)
                monkeypatch.setenv("SSL_CERT_FILE", str(server.ca))
            await mailer.send(mail, settings)
            assert len(server.mails) == 1
            for wrong in ({"password": "no"}, {"port": 1}, {"host": ""}, {"use_ssl": True}):
                with pytest.raises(MailFailed) as failed:
                    await mailer.send(mail, dataclasses.replace(settings, **wrong))
                assert "alice" not in str(failed.value)
            with pytest.raises(MailFailed):
                await mailer.send(dataclasses.replace(mail, subject="a\nBcc: x@y.test"), settings)


async def test_global_mail_settings() -> None:
    """A stage may use the installation's mail server; a device without stage does."""
    with mail_server() as server:
        environ = {"AUTHENTIK_EMAIL__HOST": "127.0.0.1", "AUTHENTIK_EMAIL__PORT": str(server.port),
                   "AUTHENTIK_EMAIL__FROM": "global@example.test"}  # fmt: skip
        async with core(**environ) as running:
            setup_flow(running, "email", use_global_settings=True)
            login_flow(running)
            await begun(running)
            assert server.mails[0]["From"] == "global@example.test"
            running.database.save(models.EmailDevice(user=running.user("bob").pk or 0, name="m", email="bob@x.test"))
            client, reply = await begun(running, "login", "bob")
            challenge = next(one for one in reply.json["device_challenges"] if one["device_class"] == "email")
            await client.flow("login", {"selected_challenge": challenge})
            assert (await client.walk("login", {"code": server.code()})).component == PASSED


def test_addresses() -> None:
    """What can be written to, and what is shown of it."""
    for good in ("a@b", "a.b+c@example.test", "ü@exämple.test"):
        assert is_address(good)
    for bad in (
        "",
        "a",
        "@b",
        "a@",
        "a b@c",
        "a@b c",
        "a@b\n",
        "a@b..c",
        "<a@b>",
        "a@b,c@d",
        "a" * 65 + "@b",
        "a@" + "b" * 260,
    ):
        assert not is_address(bad)
    assert masked("alice@example.test") == "a***@example.test"


# --- SMS -------------------------------------------------------------------------------------------------------------


def sms_options(url: str, **more: Any) -> dict[str, Any]:
    """Options of a generic service."""
    return {
        "provider": "generic",
        "from_number": "+1555",
        "account_sid": url,
        "auth": "user",
        "auth_password": "pw",
    } | more


async def test_sms_setup_and_validation() -> None:
    """Number, code, device; then a code at login."""
    async with core() as running, sms_service() as service:
        setup_flow(running, "sms", **sms_options(service.url))
        login_flow(running)
        client, reply = await begun(running)
        assert reply.json["phone_number_required"] is True
        for bad in ("", "abc", "12", "1" * 16, "+49 30 1234 ext 5"):
            assert error_of(await client.flow("setup", {"phone_number": bad})) == ("phone_number", "invalid")
        reply = await client.flow("setup", {"phone_number": "0049 (30) 123-456"})
        assert (reply.json["phone_number_required"], "response_errors" in reply.json) == (False, False)
        authorization, body = service.posts[0]
        assert authorization == "Basic dXNlcjpwdw=="
        assert (body["From"], body["To"]) == ("+1555", "+4930123456")
        assert len(body["Body"]) == 6 and body["Body"] in body["Message"]
        assert error_of(await client.flow("setup", {"code": "x"})) == ("code", "invalid")
        assert (await client.walk("setup", {"code": service.code})).component == PASSED
        client, reply = await begun(running, "login")
        (challenge,) = reply.json["device_challenges"]
        assert (challenge["device_class"], challenge["challenge"]) == ("sms", {})
        await client.flow("login", {"selected_challenge": challenge})
        assert (await client.walk("login", {"code": service.code})).component == PASSED
        # the same number for somebody else
        other, _ = await begun(running, name="bob")
        assert error_of(await other.flow("setup", {"phone_number": "+4930123456"})) == ("phone_number", "invalid")


async def test_sms_verify_only() -> None:
    """Only a hash is kept: the device cannot be used to log in, and the number cannot be used twice."""
    async with core() as running, sms_service() as service:
        setup_flow(running, "sms", **sms_options(service.url, verify_only=True, auth_type="bearer"))
        login_flow(running)
        client, _ = await begun(running)
        await client.flow("setup", {"phone_number": "+4930123456"})
        assert service.posts[0][0] == "Bearer user"
        assert (await client.walk("setup", {"code": service.code})).component == PASSED
        device = running.database.first(models.SMSDevice, user=running.user("alice").pk)
        assert device is not None and device.is_hashed and "4930" not in device.phone_number
        assert (await begun(running, "login"))[1].component == DENIED
        other, _ = await begun(running, name="bob")
        assert error_of(await other.flow("setup", {"phone_number": "+4930123456"})) == ("phone_number", "invalid")


async def test_sms_mapping_prompt_and_failures() -> None:
    """A mapping makes the body; the number may come from a prompt; a service that fails is an error and an event."""
    async with core() as running, sms_service() as service:
        mapping = running.database.save(
            models.PropertyMapping(
                type="authentik_events.notificationwebhookmapping", name="sms",
                options={"expression": "return {'Body': token, 'to': device.phone_number, 'who': user.username}"},
            )
        )  # fmt: skip
        build = Builder(running)
        flow = build.flow("setup")
        build.stage(flow, "identification", 1, {"user_fields": ["username"], "password_stage": build.password_stage()})
        bound = build.stage(flow, "sms", 2, sms_options(service.url, mapping=mapping.pk))
        build.policy(bound, "context['flow_plan'].context['prompt_data'] = {'phone': '+49 1 234567'}\nreturn True")
        client, reply = await begun(running)
        assert reply.json["phone_number_required"] is False
        assert {name: value for name, value in service.posts[0][1].items() if name != "Body"} == {
            "to": "+491234567", "who": "alice",
        }  # fmt: skip
        service.status = 500
        assert error_of(await client.flow("setup", {"phone_number": "+4930123456"})) == ("phone_number", "invalid")
        mapping.options = {"expression": "1 / 0"}
        running.database.save(mapping)
        assert error_of(await client.flow("setup", {"phone_number": "+4930123456"})) == ("phone_number", "invalid")
        events = running.database.find(models.Event, action="configuration_error")
        assert {event.context["problem"] for event in events} == {"status 500", "mapping: ZeroDivisionError"}
        assert not any("493012" in str(event) for event in events)


# --- Duo -------------------------------------------------------------------------------------------------------------


def duo_options(peer: Duo, **more: Any) -> dict[str, Any]:
    """Options of the Duo stage."""
    return {"api_hostname": peer.host, "client_id": DUO_ID, "client_secret": DUO_SECRET} | more


async def with_duo(running: Core, peer: Duo, *, secret: str = DUO_SECRET) -> tuple[Client, Any]:
    """Alice with a Duo device, at the validation stage."""
    stage = setup_flow(running, "duo", **duo_options(peer, client_secret=secret))
    login_flow(running)
    running.database.save(
        models.DuoDevice(user=running.user("alice").pk or 0, name="d", stage=stage, duo_user_id="DU-alice")
    )
    client, reply = await begun(running, "login", client=running.headless())
    (challenge,) = reply.json["device_challenges"]
    assert (challenge["device_class"], challenge["challenge"]) == ("duo", {})
    return client, challenge


async def test_duo_setup() -> None:
    """An enrolment is begun once; it counts when Duo says so."""
    async with core() as running, duo(running) as peer:
        setup_flow(running, "duo", **duo_options(peer))
        client, reply = await begun(running)
        assert reply.component == "ak-stage-authenticator-duo"
        assert reply.json["activation_code"] == "duo://code"
        assert reply.json["activation_barcode"].startswith("https://duo.test/")
        assert (await client.flow("setup")).json["stage_uuid"] == reply.json["stage_uuid"]
        assert [path for path, _ in peer.calls] == ["/auth/v2/enroll"]
        assert (await client.walk("setup", {})).component == PASSED
        assert peer.calls[-1] == ("/auth/v2/enroll_status", {"user_id": "DU-alice", "activation_code": "duo://code"})
        device = running.database.first(models.DuoDevice, user=running.user("alice").pk)
        assert device is not None and device.duo_user_id == "DU-alice"
        for state in ("waiting", "invalid"):
            peer.activated = state
            client, _ = await begun(running, name="bob")
            assert (await client.walk("setup", {})).component == DENIED
        peer.broken = True
        assert (await begun(running, name="bob"))[1].component == DENIED
        assert not running.database.exists(models.DuoDevice, user=running.user("bob").pk)
        assert running.database.exists(models.Event, action="configuration_error")


async def test_duo_enrollment_status() -> None:
    """A page asks whether the phone is there: only in a session that sets one up, and only of this stage."""
    async with core() as running, duo(running) as peer:
        build = Builder(running)
        flow = build.flow("setup", designation="stage_configuration", authentication="require_authenticated")
        stage = build.stage(flow, "duo", options=duo_options(peer)).stage
        path = f"/stages/authenticator/duo/{stage}/enrollment_status/"
        assert (await running.client().post(path)).status == 403
        client, _ = await begun(running, "ldap-authentication-flow")
        headers = {"X-authentik-CSRF": client.jar["authentik_csrf"]}
        assert (await client.post(path, headers=headers)).status == 400
        assert (await client.flow("setup")).component == "ak-stage-authenticator-duo"
        for state in ("waiting", "success", "invalid"):
            peer.activated = state
            assert (await client.post(path, headers=headers)).json == {"duo_response": state}
        peer.broken = True
        assert (await client.post(path, headers=headers)).status == 400
        login = running.database.first(models.Stage, name="default-authentication-login")
        assert login is not None
        other = path.replace(stage, login.pk)
        assert (await client.post(other, headers=headers)).status == 404


async def test_duo_push_waits_for_the_person() -> None:
    """The request stays open while Duo says "waiting", and passes when it says "allow"; Duo sees who and from where."""
    async with core() as running, duo(running) as peer:
        client, challenge = await with_duo(running, peer)
        peer.hold, peer.answers = True, ["waiting", "allow"]
        answer = {"selected_challenge": challenge, "duo": int(challenge["device_uid"])}
        pending = asyncio.create_task(client.walk("login", answer))
        await peer.asked.wait()
        assert not pending.done()
        # others are served meanwhile
        assert (await running.client().flow("login")).status == 200
        peer.answered.set()
        assert (await pending).component == PASSED
        assert peer.refused == 0
        path, sent = peer.calls[0]
        assert path == "/auth/v2/auth"
        assert sent["ipaddr"] == "192.0.2.55"
        assert (sent["user_id"], sent["factor"], sent["device"]) == ("DU-alice", "auto", "auto")
        assert sent["display_username"] == "alice"
        event = running.database.first(models.Event, action="login")
        assert event is not None
        assert event.context["auth_method_args"]["mfa_devices"] == [{"model": "duodevice", "pk": 1}]


@pytest.mark.parametrize("answer", ["deny", "fraud", "", None])
async def test_duo_refusals(answer: str | None) -> None:
    """Only ``allow`` lets in; an answer without result, an unknown one, or none at all does not."""
    async with core() as running, duo(running) as peer:
        client, challenge = await with_duo(running, peer)
        before = reputation(running)
        peer.answers = [answer] if answer is not None else []
        peer.broken = answer is None
        reply = await client.flow("login", {"duo": int(challenge["device_uid"])})
        assert (reply.component, error_of(reply)) == (VALIDATE, ("duo", "invalid"))
        assert reputation(running) == before - 1
        assert (await client.get("/core/users/me/")).status == 403


async def test_duo_wrong_secret() -> None:
    """Duo refuses requests whose signature does not fit; so does the core the login."""
    async with core() as running, duo(running) as peer:
        client, challenge = await with_duo(running, peer, secret="another secret")
        peer.answers = ["allow"]
        reply = await client.flow("login", {"duo": int(challenge["device_uid"])})
        assert (error_of(reply), peer.refused, peer.calls) == (("duo", "invalid"), 1, [])
        event = running.database.first(models.Event, action="configuration_error")
        assert event is not None and "40103" in event.context["message"]
        assert "another secret" not in str(event.context)


async def test_duo_device_of_somebody_else() -> None:
    """No push goes to another's phone."""
    async with core() as running, duo(running) as peer:
        client, challenge = await with_duo(running, peer)
        stage = running.database.first(models.Stage, type=TYPES["duo"])
        assert stage is not None
        other = running.database.save(
            models.DuoDevice(user=running.user("bob").pk or 0, name="d", stage=stage.pk, duo_user_id="DU-bob")
        )
        for pk in (other.pk, 999, True, "x", -1, [], str(other.pk)):
            assert error_of(await client.flow("login", {"duo": pk})) == ("duo", "invalid")
        assert peer.calls == []
        peer.answers = ["allow"]
        assert (await client.walk("login", {"duo": challenge["device_uid"]})).component == PASSED


async def test_code_and_push_must_both_pass() -> None:
    """In one answer: a right code does not make up for a refused push, and no push is sent after a wrong code."""
    async with core() as running, duo(running) as peer:
        client, challenge = await with_duo(running, peer)
        running.database.save(models.StaticDevice(user=running.user("alice").pk or 0, name="s", tokens=["one", "two"]))
        pk = int(challenge["device_uid"])
        peer.answers = ["deny"]
        assert error_of(await client.flow("login", {"code": "wrong", "duo": pk})) == ("code", "invalid")
        assert peer.calls == []
        running.clock.now += 2
        assert error_of(await client.flow("login", {"code": "one", "duo": pk})) == ("duo", "invalid")
        peer.answers = ["allow"]
        assert (await client.walk("login", {"code": "two", "duo": pk})).component == PASSED


def test_duo_signature() -> None:
    """The text that is signed, line by line, with parameters that need escaping."""
    text = canonical("Tue, 21 Aug 2012 17:29:18 -0000", "post", "API-x.Duo.test", "/a", {"b": "ü &", "a": "~1 2"})
    assert text == "Tue, 21 Aug 2012 17:29:18 -0000\nPOST\napi-x.duo.test\n/a\na=~1%202&b=%C3%BC%20%26"
    assert len(sign("k", text)) == 128


async def test_duo_host_names() -> None:
    """A host name that is none never becomes an address."""
    from core.duo import DuoClient, DuoKeys

    for bad in ("", "a/b", "user@host", "host:port", "a b"):
        with pytest.raises(DuoFailed):
            DuoClient(None, DuoKeys(bad, "x", "y"), lambda: 0.0)  # type: ignore[arg-type]


# --- all kinds -------------------------------------------------------------------------------------------------------


async def test_case_71_classes_in_their_order() -> None:
    """One challenge for each class, duo first; classes that are not allowed are left out, yet their codes count."""
    async with core() as running:
        stage = setup_flow(running, "duo", api_hostname="localhost", client_id="x", client_secret="y")
        login_flow(running, device_classes=["totp", "sms", "duo", "email"])
        pk = running.user("alice").pk or 0
        database = running.database
        database.save(models.StaticDevice(user=pk, name="s", tokens=["code"]))
        database.save(models.TOTPDevice(user=pk, name="t", key="00"))
        database.save(models.SMSDevice(user=pk, name="p", phone_number="+491"))
        database.save(models.SMSDevice(user=pk, name="q", phone_number="hash:1"))
        database.save(models.EmailDevice(user=pk, name="e", email="a@b.test"))
        database.save(models.EmailDevice(user=pk, name="u", email="c@d.test", confirmed=False))
        database.save(models.DuoDevice(user=pk, name="d", stage=stage, duo_user_id="x"))
        client, reply = await begun(running, "login")
        found = [challenge["device_class"] for challenge in reply.json["device_challenges"]]
        assert found == ["duo", "email", "sms", "totp"]
        assert (await client.walk("login", {"code": "code"})).component == PASSED


def test_sent_codes_and_other_guesses() -> None:
    """A wrong code counts against a mail device only while a code is on its way, and a right one is taken only once."""
    mail = models.EmailDevice(pk=1, user=1, name="m", email="a@b.test")
    assert otp.verify([mail], "", 100.0) == (None, [])
    assert otp.verify([mail], "123456", 100.0) == (None, [])
    mail.token, mail.valid_until = "123456", 200.0
    assert otp.verify([mail], "654321", 100.0) == (None, [mail])
    assert otp.verify([mail], "123456", 100.5) == (None, [])  # the back-off
    assert otp.verify([mail], "123456", 101.0)[0] is mail
    assert otp.verify([mail], "123456", 102.0) == (None, [])


@pytest.mark.parametrize(
    ("kind", "options", "field"),
    [
        ("totp", {"digits": 7}, "digits"),
        ("static", {"token_length": 101}, "token_length"),
        ("static", {"token_count": 0}, "token_count"),
        ("email", {"template": "email/none.html"}, "template"),
        ("email", {"template": "email/base.html"}, "template"),
        ("email", {"port": 0}, "port"),
        ("email", {"from_address": "x"}, "from_address"),
        ("email", {"token_expiry": "soon"}, "token_expiry"),
        ("sms", {"provider": "generic", "from_number": "1", "account_sid": "AC1", "auth": "x"}, "account_sid"),
        ("sms", {"provider": "pigeon", "from_number": "1", "account_sid": "AC1", "auth": "x"}, "provider"),
        ("duo", {"client_id": "x", "client_secret": "y"}, "api_hostname"),
    ],
)
def test_options(kind: str, options: dict[str, Any], field: str) -> None:
    """Options that cannot work are refused when the stage is saved."""
    with pytest.raises(ValidationFailed) as refused:
        STORABLE[TYPES[kind]].read_options(options)
    assert field in str(refused.value)


async def test_setting_up_from_outside_a_flow() -> None:
    """``/flows/-/configure/``: log in first, then the stage's flow with who is logged in; other stages: 404."""
    async with core() as running:
        stage = running.database.first(models.Stage, name="default-authenticator-totp-setup")
        other = running.database.first(models.Stage, name="default-authentication-login")
        assert stage is not None and other is not None
        path = f"/flows/-/configure/{stage.pk}/"
        reply = await running.client().request("GET", path)
        assert (reply.status, reply.headers["Location"].partition("?")[0]) == (302, "/flows/-/default/authentication/")
        assert parse_qs(urlsplit(reply.headers["Location"]).query) == {"next": [path]}
        client, _ = await begun(running, "ldap-authentication-flow")
        reply = await client.request("GET", path)
        assert (reply.status, reply.headers["Location"]) == (302, "/if/flow/default-authenticator-totp-setup/")
        shown = await client.flow("default-authenticator-totp-setup")
        assert (shown.component, shown.json["pending_user"]) == ("ak-stage-authenticator-totp", "alice")
        for pk in (other.pk, "00000000-0000-4000-8000-000000000000", "nonsense"):
            assert (await client.request("GET", f"/flows/-/configure/{pk}/")).status == 404


async def test_default_flows_for_passwords_and_codes() -> None:
    """Those that come with the package: a new password twice, and codes that work once."""
    async with core() as running:
        client, _ = await begun(running, "ldap-authentication-flow")
        headers = {"X-authentik-CSRF": client.jar["authentik_csrf"]}
        assert (await client.flow("default-password-change")).component == "ak-stage-prompt"
        answer = {"password": "new one", "password_repeat": "another"}
        reply = await client.flow("default-password-change", answer, headers=headers)
        assert error_of(reply) == ("non_field_errors", "invalid")
        answer["password_repeat"] = "new one"
        assert (await client.walk("default-password-change", answer, headers=headers)).component == PASSED
        assert (await running.client().login("alice", "new one")).component == PASSED
        assert (await running.client().flow("default-password-change")).component == DENIED
        assert len((await client.flow("default-authenticator-static-setup")).json["codes"]) == 6
        assert (await client.walk("default-authenticator-static-setup", {}, headers=headers)).component == PASSED
        assert running.database.exists(models.StaticDevice, user=running.user("alice").pk)


async def test_case_71_no_device_leads_to_set_up() -> None:
    """One set-up stage comes at once; of several the person chooses; then the login goes on."""
    async with core() as running:
        totp = running.database.first(models.Stage, name="default-authenticator-totp-setup")
        static = running.database.first(models.Stage, name="default-authenticator-static-setup")
        assert totp is not None and static is not None
        login_flow(running, not_configured_action="configure", configuration_stages=[totp.pk])
        client, reply = await begun(running, "login")
        assert reply.component == "ak-stage-authenticator-totp"
        secret = parse_qs(urlsplit(reply.json["config_url"]).query)["secret"][0]
        code = pyotp.TOTP(secret).at(int(running.clock.now))
        assert (await client.walk("login", {"code": code})).component == PASSED
        assert (await client.get("/core/users/me/")).json["user"]["username"] == "alice"
        # from now on it is asked for
        assert (await begun(running, "login"))[1].component == VALIDATE
        stage = running.database.first(models.Stage, type=TYPES["validate"], name__startswith="login-")
        assert stage is not None
        stage.options = stage.options | {"configuration_stages": [totp.pk, static.pk]}
        running.database.save(stage)
        client, reply = await begun(running, "login", "carol")
        offered = reply.json["configuration_stages"]
        assert reply.json["device_challenges"] == []
        assert [(item["pk"], item["meta_model_name"]) for item in offered] == [
            (totp.pk, TYPES["totp"]),
            (static.pk, TYPES["static"]),
        ]
        for wrong in ({}, {"selected_stage": stage.pk}, {"selected_stage": "x"}, {"code": "123456"}):
            assert (await client.flow("login", wrong)).component == VALIDATE
        reply = await client.walk("login", {"selected_stage": static.pk})
        assert reply.component == "ak-stage-authenticator-static"
        assert (await client.walk("login", {})).component == PASSED
        assert (await client.get("/core/users/me/")).json["user"]["username"] == "carol"
