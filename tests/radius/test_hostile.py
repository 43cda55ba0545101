"""What somebody tries who means harm: clients that know a secret or none, people behind them, and bad moments."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from io import StringIO

import pytest

from common import logs
from common.login import Credentials
from common.outcomes import Denied, LoginTarget, Passed, Paused, Reason, Unavailable
from common.throttle import ThrottleLimits
from outposts.radius import wire
from outposts.radius.eap.session import EapSettings
from outposts.radius.eap.tls import Keys
from outposts.radius.providers import Providers
from outposts.radius.rfc import VENDOR_MICROSOFT, Attribute, Code
from outposts.radius.server import Wire
from outposts.radius.session import STATE_SIZE
from outposts.radius.shared import MAX_UNSIGNED
from tests.common.scripted_core import BOTH, REDIRECT, answer, log_in, session
from tests.common.scripted_core import Core as ScriptedCore
from tests.ldap.binds import until
from tests.radius import eap_peer
from tests.radius.desks import House, Standing, access_request, eap_request, passed, provider, request_of
from tests.radius.eap_peer import IDENTITY, Peer, inner_peap, pap, response
from tests.radius.test_challenge import daemon
from tests.radius.test_conversations import eap_of, house, state_of, talk
from tests.radius.test_workers import worker_service

HELLO = response(7, IDENTITY, b"alice")


@pytest.fixture
def lines() -> Iterator[StringIO]:
    """Everything that is logged."""
    stream = StringIO()
    before = logs.level_name()
    logs.configure("info", stream=stream)
    yield stream
    logs.configure(before)


def state_row(packet: wire.Packet | None) -> tuple[int, bytes]:
    """The State of a challenge to a person, to send back."""
    assert packet is not None and packet.code == Code.ACCESS_CHALLENGE
    return (Attribute.STATE, packet.first(Attribute.STATE) or b"")


# --- cost ---


async def test_vendor_attributes_are_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A packet full of them costs what its size costs, not its square."""
    looks = 0
    real = wire.vendor_attributes

    def counted(value: bytes) -> list[tuple[int, bytes]]:
        nonlocal looks
        looks += 1
        return real(value)

    monkeypatch.setattr(wire, "vendor_attributes", counted)
    vendor = (Attribute.VENDOR_SPECIFIC, VENDOR_MICROSOFT.to_bytes(4, "big") + b"\x63\x02")
    where = House()
    where.give(access_request(*[vendor] * 190, password=b"\xff\xff"))
    assert where.observer.reason == "undecodable_password"
    assert looks <= 2 * 190


# --- guesses ---


class Wrong(Standing):
    """A question after a wrong answer."""

    mistaken = True


@pytest.mark.parametrize("stripped", [False, True])
async def test_wrong_codes_count_also_when_the_login_is_given_up(stripped: bool) -> None:
    """Two wrong codes, then a new login with the right password, and again: no way around the wait."""
    where = House(provider(challenge=True, strip_realm=stripped))
    where.authenticator.gate.throttle.limits = ThrottleLimits(per_pair=5, per_address=0, per_account=0)
    answered = 0
    for turn in range(20):
        name = b"alice@realm%d" % turn if stripped else b"alice"
        where.core.outcome = Standing("Code:", Wrong("Wrong code:", Wrong("Wrong code:")))
        challenge = await where.ask(access_request(user=name))
        for _ in range(2):
            if challenge is None or challenge.code != Code.ACCESS_CHALLENGE:
                break
            challenge = await where.ask(access_request(state_row(challenge), user=name, password="000000"))
            answered += challenge is not None and challenge.code == Code.ACCESS_CHALLENGE
    assert where.observer.reason == "throttled"
    assert answered <= 7


async def test_a_question_says_whether_it_follows_a_wrong_answer() -> None:
    """What the count above rests on, with a real login: first question, wrong code, the same code again."""
    target = LoginTarget("radius", 7, "bind-flow", "app", mfa_support=True)
    async with daemon() as nas:
        first = await nas.login.begin(target, Credentials("alice", "pw", "192.0.2.1"), interactive=True)
        assert isinstance(first, Paused) and not first.mistaken
        second = await first.answer("000001")
        assert isinstance(second, Paused) and second.mistaken
        third = await second.answer("000001")
        assert isinstance(third, Paused) and third.mistaken


# --- bad moments ---


@pytest.mark.parametrize("method", ["tls", "ttls", "peap"])
async def test_r12_a_core_that_is_away_is_silence_for_copies_of_eap_too(method: str) -> None:
    """A NAS repeats its packet before it asks the next server; a reject would end the matter."""
    where = house()
    where.core.outcome = Unavailable(Reason.CORE_UNAVAILABLE)
    peer = Peer(
        method,
        certificate=eap_peer.ALICE if method == "tls" else None,
        trust=eap_peer.SERVERS,
        inside=inner_peap([b"alice", b"pw"])
        if method == "peap"
        else lambda m: None if m or method == "tls" else pap(b"alice", b"pw"),
    )
    eap = response(7, IDENTITY, b"alice")
    rows: tuple[tuple[int, bytes], ...] = ()
    while (packet := await where.ask(octets := eap_request(eap, *rows))) is not None:
        assert packet.code == Code.ACCESS_CHALLENGE
        rows, eap = (state_of(packet),), peer.answer(eap_of(packet))
    assert where.observer.reason == "core_error"
    for _ in range(3):
        where.clock.advance(4)
        assert await where.ask(octets) is None
    assert len(where.core.logins) == 1


async def test_a_session_that_ends_between_the_yes_of_the_core_and_the_end_of_eap() -> None:
    """PEAP says the result inside first; nobody is let in with what has ended meanwhile."""
    where = house()
    inside = inner_peap([b"alice", b"wonderland"])

    def listens(message: bytes) -> bytes | None:
        if message[4:5] == b"\x21":  # the result: the core has said yes
            where.authenticator.session_ended("session-1")
        return inside(message)

    packet, _ = await talk(where, Peer("peap", trust=eap_peer.SERVERS, inside=listens))
    assert where.core.logins
    assert packet.code == Code.ACCESS_REJECT and eap_of(packet)[0] == 4
    assert where.observer.reason == "session_ended"
    assert {kind for kind, _ in packet.attributes} == {Attribute.MESSAGE_AUTHENTICATOR, Attribute.EAP_MESSAGE}
    assert not where.accepted


async def test_a_provider_that_changes_while_eap_is_worked_on() -> None:
    """A session that is being worked on cannot be ended by the refresh: its next packet ends it."""
    where = house()
    settings = where.authenticator.conversations.settings
    where.core.hold = asyncio.Event()
    where.core.outcome = Standing("Code:", passed())
    peer = Peer("peap", trust=eap_peer.SERVERS, inside=inner_peap([b"alice", b"wonderland", b"123456"]))
    packet = await where.ask(eap_request(HELLO))
    while not where.core.logins:
        octets = eap_request(peer.answer(eap_of(packet)), state_of(packet))
        where.give(octets)
        await until(lambda: where.core.asked.is_set() or not where.desk.pending)
        if not where.core.logins:
            packet = wire.decode(where.line.replies[-1][0])
    changed = provider(application_slug="another")
    where.serve(changed)
    where.authenticator.end_providers(lambda pk: True)
    where.authenticator.conversations.settings = settings
    where.core.hold.set()
    await where.settle()
    asked = wire.decode(where.line.replies[-1][0])
    assert asked.code == Code.ACCESS_CHALLENGE
    packet = await where.ask(eap_request(peer.answer(eap_of(asked)), state_of(asked)))
    assert packet is not None and packet.code == Code.ACCESS_REJECT
    assert where.observer.reason == "unknown_state"


async def test_a_provider_that_changes_while_a_question_is_put() -> None:
    """The same for an Access-Challenge."""
    where = House(provider(challenge=True))
    standing = Standing("Code:", passed())
    where.core.outcome, where.core.hold = standing, asyncio.Event()
    where.give(access_request())
    await until(where.core.asked.is_set)
    where.serve(provider(challenge=True, application_slug="another"))
    where.authenticator.end_providers(lambda pk: True)
    where.core.hold.set()
    await where.settle()
    challenge = wire.decode(where.line.replies[-1][0])
    packet = await where.ask(access_request(state_row(challenge), password="123456"))
    assert packet is not None and packet.code == Code.ACCESS_REJECT
    assert where.observer.reason == "challenge_expired"
    await until(lambda: standing.abandoned)
    assert standing.answers == []


# --- what must not be shown ---


def test_session_keys_show_nothing() -> None:
    """Their repr is safe."""
    assert "secret" not in repr(Keys(b"secret" * 10, b"id"))


# --- between workers ---


async def test_states_of_nobody_and_floods_are_not_passed_on() -> None:
    """Only to workers that there are; of packets that anybody may have sent, only so many a second."""
    sent: list[tuple[int, str, bytes]] = []
    service = worker_service(1, sent)
    line = Wire.__new__(Wire)
    service.server.wires.append(line)

    def passes(worker: int, *, sign: bool = True, at: float = 1000.0) -> bool:
        state = (Attribute.STATE, bytes((worker,)) + bytes(STATE_SIZE - 1))
        return service._pass_on(request_of(access_request(state, sign=sign), at=at), line, ("192.0.2.1", 5))

    assert not passes(0), "its own"
    assert not passes(2) and not passes(255), "there are two workers"
    assert passes(1) and [worker for worker, _, _ in sent] == [2]
    sent.clear()
    assert all(passes(1, sign=False) for _ in range(1000)), "nothing is answered here in the other's place"
    assert len(sent) == MAX_UNSIGNED
    assert passes(1) and len(sent) == MAX_UNSIGNED + 1
    assert passes(1, sign=False, at=1001.0) and len(sent) == MAX_UNSIGNED + 2


# --- finding it in the core's log ---


async def test_the_line_of_a_request_names_the_core_s(lines: StringIO) -> None:
    """Accepted, refused, and refused in EAP."""
    where = house(provider(networks="192.0.2.0/24"))
    where.core.outcome = passed(core_request="r-accept")
    await where.ask(access_request())
    where.core.outcome = Denied(Reason.INVALID_CREDENTIALS, core_request="r-reject")
    await where.ask(access_request())
    where.core.outcome = Denied(Reason.INVALID_CREDENTIALS, core_request="r-eap")
    await talk(where, Peer("tls", certificate=eap_peer.ALICE, trust=eap_peer.SERVERS))
    await asyncio.sleep(0)
    text = lines.getvalue()
    for name in ("r-accept", "r-reject", "r-eap"):
        assert text.count(f'"core-request":"{name}"') == 1


async def test_outcomes_name_the_last_call_of_the_flow() -> None:
    """Whatever the core's header holds, it fits a line."""
    core = ScriptedCore(answer(BOTH), answer(REDIRECT, 200, session(), x_authentik_id="a\x07bc" + "x" * 100))
    outcome = await log_in(core)
    assert isinstance(outcome, Passed) and outcome.core_request == "abc" + "x" * 60
    refusal = BOTH | {"response_errors": {"non_field_errors": [{"string": "no", "code": "invalid"}]}}
    outcome = await log_in(ScriptedCore(answer(BOTH), answer(refusal, x_authentik_id="def")))
    assert isinstance(outcome, Denied) and outcome.core_request == "def"


async def test_files_that_change_during_a_refresh_do_not_bring_older_settings_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The refresh wins: what a look at the files has made for the providers of before is dropped."""
    service = worker_service(1, [])
    newer = {1: EapSettings(("tls",), None, require_client_ca=True)}

    async def slow(providers: Providers) -> tuple[dict[int, EapSettings], list[str]]:
        service.desk.intake.serve(Providers([provider()]))
        service.authenticator.conversations.settings = newer
        return {1: EapSettings(("tls",), None)}, []

    monkeypatch.setattr(service, "_eap_settings", slow)
    await service._read_files_again()
    assert service.authenticator.conversations.settings is newer


async def test_a_look_at_files_does_not_hide_other_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with a provider's record stays told and counted."""
    service = worker_service(1, [])
    service._configured = ["no secret"]

    async def one(providers: Providers) -> tuple[dict[int, EapSettings], list[str]]:
        return {}, ["certificate"]

    monkeypatch.setattr(service, "_eap_settings", one)
    await service._read_files_again()
    assert service._problems == ["no secret", "certificate"]
