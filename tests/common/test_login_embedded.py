"""Every kind of question against the embedded core: real flows, a real mail server, an SMS service and Duo as peers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from common.login import Credentials, Denied, LoginService, LoginTarget, Passed
from common.transport import AiohttpTransport
from core import models
from tests.common.conversations import paused
from tests.common.core_server import Address
from tests.core.cores import Core, core
from tests.core.services import duo, mail_server, sms_service
from tests.core.test_devices import duo_options, login_flow, setup_flow, sms_options

ALICE = Credentials("alice", "alice-pw-1", "192.0.2.55")
TARGET = LoginTarget("radius", 6, "login", "radius-two", mfa_support=True)


@dataclass
class Set:
    """An embedded core and a login service before it."""

    core: Core
    login: LoginService

    def user(self) -> int:
        """Alice's primary key."""
        return self.core.user("alice").pk or 0


@contextlib.asynccontextmanager
async def embedded() -> AsyncIterator[Set]:
    """Both, for one test."""
    async with core() as running:
        address = Address(running.url, running.outpost_token("RC RADIUS outpost"))
        transport = AiohttpTransport(address)
        try:
            yield Set(running, LoginService(transport, address))
        finally:
            await transport.close()


async def test_email() -> None:
    """One mail; a wrong code, then the right one."""
    async with embedded() as it:
        with mail_server() as server:
            stage = setup_flow(it.core, "email", host="127.0.0.1", port=server.port)
            login_flow(it.core)
            it.core.database.save(models.EmailDevice(user=it.user(), name="m", email="alice@example.test", stage=stage))
            question = paused(await it.login.begin(TARGET, ALICE, interactive=True), "Code sent to a***@example.test:")
            question = paused(await question.answer("000000"), "Wrong code, try again:")
            it.core.clock.now += 60  # a wrong code throttles for a while
            outcome = await question.answer(server.code())
            assert isinstance(outcome, Passed)
            assert (outcome.username, outcome.used_code) == ("alice", True)
            assert len(server.mails) == 1


async def test_mail_server_that_refuses() -> None:
    """Nothing was sent, so nothing is asked."""
    async with embedded() as it:
        with mail_server() as server:
            server.refuse = "550 no"
            stage = setup_flow(it.core, "email", host="127.0.0.1", port=server.port)
            login_flow(it.core)
            it.core.database.save(models.EmailDevice(user=it.user(), name="m", email="alice@example.test", stage=stage))
            assert isinstance(await it.login.begin(TARGET, ALICE, interactive=True), Denied)


async def test_sms() -> None:
    """One message, one code."""
    async with embedded() as it, sms_service() as service:
        stage = setup_flow(it.core, "sms", **sms_options(service.url))
        login_flow(it.core)
        it.core.database.save(models.SMSDevice(user=it.user(), name="p", phone_number="+491", stage=stage))
        question = paused(await it.login.begin(TARGET, ALICE, interactive=True), "Code sent:")
        assert isinstance(await question.answer(service.code), Passed)
        assert len(service.posts) == 1


async def test_push() -> None:
    """Sent at once; Enter waits until Duo has the answer."""
    async with embedded() as it, duo(it.core) as peer:
        stage = setup_flow(it.core, "duo", **duo_options(peer))
        login_flow(it.core)
        it.core.database.save(models.DuoDevice(user=it.user(), name="d", stage=stage, duo_user_id="DU-alice"))
        peer.hold, peer.answers = True, ["waiting", "allow"]
        question = paused(await it.login.begin(TARGET, ALICE, interactive=True), "Confirm push, then press Enter")
        await peer.asked.wait()
        peer.answered.set()
        outcome = await question.answer("")
        assert isinstance(outcome, Passed)
        assert outcome.used_push
        assert [path for path, _ in peer.calls].count("/auth/v2/auth") == 1


async def test_push_that_is_refused() -> None:
    """Denied, without a second push."""
    async with embedded() as it, duo(it.core) as peer:
        stage = setup_flow(it.core, "duo", **duo_options(peer))
        login_flow(it.core)
        it.core.database.save(models.DuoDevice(user=it.user(), name="d", stage=stage, duo_user_id="DU-alice"))
        peer.answers = ["deny"]
        outcome = await paused(await it.login.begin(TARGET, ALICE, interactive=True)).answer("")
        assert isinstance(outcome, Denied)
        assert outcome.reason == "invalid_credentials"
        assert [path for path, _ in peer.calls].count("/auth/v2/auth") == 1


async def test_several_kinds() -> None:
    """The choice, as the core lists its devices; each way works, also sealed and restored in between."""
    async with embedded() as it, duo(it.core) as peer, sms_service() as service:
        stage = setup_flow(it.core, "duo", **duo_options(peer))
        sms = setup_sms(it.core, service.url)
        login_flow(it.core)
        database, user = it.core.database, it.user()
        database.save(models.DuoDevice(user=user, name="d", stage=stage, duo_user_id="DU-alice"))
        database.save(models.SMSDevice(user=user, name="p", phone_number="+491", stage=sms))
        database.save(models.StaticDevice(user=user, name="s", tokens=["static01"]))
        text = "Code, or 1=SMS 2=Push"
        for way in ("static01", "1", "2"):
            peer.answers = ["allow"]
            login = paused(await it.login.begin(TARGET, ALICE, interactive=True, sealable=True), text)
            sealed = login.sealed(b"x")
            assert sealed is not None
            restored = it.login.restore(sealed, b"x")
            assert restored is not None
            outcome = await restored.answer(way)
            if way == "1":
                outcome = await paused(outcome, "Code sent:").answer(service.code)
            if way == "2":
                outcome = await paused(outcome, "Press Enter, then confirm push").answer("")
            assert isinstance(outcome, Passed), way
        assert len(service.posts) == 1


def setup_sms(running: Core, url: str) -> str:
    """An SMS stage that is bound nowhere; its primary key."""
    stage = models.Stage(
        type="authentik_stages_authenticator_sms.authenticatorsmsstage", name="sms", options=sms_options(url)
    )
    return running.database.save(stage).pk


async def test_prompt() -> None:
    """The recorded set-up's field, by its label; empty is not accepted."""
    async with embedded() as it:
        target = replace(TARGET, flow_slug="rc-prompt-flow")
        question = paused(await it.login.begin(target, ALICE, interactive=True), "Favourite colour:")
        question = paused(await question.answer(""), "Not accepted, try again: Favourite colour:")
        assert isinstance(await question.answer("blue"), Passed)


async def test_consent() -> None:
    """Only where the operator agrees."""
    async with embedded() as it:
        target = replace(TARGET, flow_slug="rc-consent-flow")
        outcome = await it.login.begin(target, ALICE, interactive=True)
        assert isinstance(outcome, Denied)
        assert outcome.reason == "unsupported_challenge"
        outcome = await it.login.begin(replace(target, auto_consent=True), ALICE, interactive=True)
        assert isinstance(outcome, Passed)


async def test_password() -> None:
    """Asked for where the first packet had none: before the combined stage, and at the stage of its own."""
    async with embedded() as it:
        for slug in ("ldap-authentication-flow", "rc-two-stage-flow"):
            target = replace(TARGET, flow_slug=slug)
            question = paused(await it.login.begin(target, replace(ALICE, password=""), interactive=True), "Password:")
            assert isinstance(await question.answer("alice-pw-1"), Passed)
        question = paused(await it.login.begin(target, replace(ALICE, password=""), interactive=True), "Password:")
        question = paused(await question.answer("wrong"), "Wrong password, try again:")
        assert isinstance(await question.answer("alice-pw-1"), Passed)
