"""What somebody tries who means harm: clients that know a secret or none, people behind them, and bad moments."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest

from common import logs
from common.login import Credentials
from common.outcomes import Denied, LoginTarget, Passed, Paused, Reason, Unavailable
from common.throttle import ThrottleLimits
from outposts.radius import service, wire
from outposts.radius.eap.session import EapSettings
from outposts.radius.eap.tls import Keys
from outposts.radius.gate import Slots
from outposts.radius.providers import Providers
from outposts.radius.rfc import VENDOR_MICROSOFT, Attribute, Code
from outposts.radius.server import Wire
from outposts.radius.service import RadiusService
from outposts.radius.session import SLICE, STATE_SIZE, Duplicates, Exchanges
from outposts.radius.shared import MAX_UNSIGNED
from tests.common.scripted_core import BOTH, REDIRECT, answer, log_in, session
from tests.common.scripted_core import Core as ScriptedCore
from tests.ldap.binds import until
from tests.radius import eap_peer
from tests.radius.desks import House, Standing, access_request, chance, eap_request, passed, provider, request_of
from tests.radius.eap_peer import IDENTITY, NAK, TLS, TTLS, Peer, inner_peap, pap, response
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


# --- one against the others ---


async def test_one_client_cannot_use_up_the_room_of_all() -> None:
    """``max_pending_per_nas``: its further requests meet silence, others are served, and room comes back."""
    where = House()
    where.desk.max_pending, where.desk.max_pending_per_client = 10, 4
    where.core.hold = asyncio.Event()
    for number in range(8):
        where.give(access_request(user=b"user%d" % number))
    assert where.desk.pending == 4
    assert [outcome.reason for outcome in where.observer.outcomes] == ["overload"] * 4
    where.give(access_request(user=b"bob"), nas="192.0.2.2")
    assert where.desk.pending == 5
    where.core.hold.set()
    await where.settle()
    assert len(where.line.replies) == 5
    assert where.desk._clients == {}
    assert (await where.ask(access_request())) is not None


async def test_clients_take_turns_at_the_core() -> None:
    """One slot, a hundred logins of one client waiting: another client's is the next but one."""
    slots, order = Slots(1), []

    async def login(who: str) -> None:
        await slots.take(who)
        order.append(who)
        await asyncio.sleep(0)
        slots.give()

    tasks = [asyncio.create_task(login("greedy")) for _ in range(100)]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(login("other")))
    await asyncio.gather(*tasks)
    assert len(order) == 101 and order.index("other") <= 3


@pytest.mark.parametrize("after_its_turn", [False, True])
async def test_a_turn_is_not_lost_with_who_is_cancelled(after_its_turn: bool) -> None:
    """Cancelled while it waits, or just as its turn came: the next one gets it."""
    slots = Slots(1)
    await slots.take("a")
    waiting = asyncio.create_task(slots.take("b"))
    await asyncio.sleep(0)
    if after_its_turn:
        slots.give()
        waiting.cancel()
    else:
        waiting.cancel()
        slots.give()
    await asyncio.gather(waiting, return_exceptions=True)
    assert waiting.cancelled()
    async with asyncio.timeout(5):
        await slots.take("c")


async def test_a_delayed_reject_is_not_cut_off_by_the_end() -> None:
    """A daemon that stops waits for it: as long as one is due, something is in progress."""
    where = House(provider(reject_delay=0.01))
    where.core.outcome = Denied(Reason.INVALID_CREDENTIALS)
    where.core.hold = asyncio.Event()
    where.give(access_request())
    await until(where.core.asked.is_set)
    draining = asyncio.create_task(where.desk.drain(20))
    await asyncio.sleep(0)
    where.core.hold.set()
    await draining
    assert len(where.line.replies) == 1


# --- memory and log ---


def test_long_packets_do_not_fill_the_memory_with_copies() -> None:
    """The oldest go by their size too."""
    kept = Duplicates(max_octets=100_000)
    for number in range(200):
        key = (None, "", "192.0.2.1", number, 256)
        entry = kept.begin(key, bytes(4096))
        assert kept.answer(entry, bytes(20), 1000.0)
    assert len(kept) == 100_000 // 4116
    kept.clear()
    assert len(kept) == 0 and kept._octets == 0


@pytest.mark.parametrize("signed", [False, True])
async def test_a_flood_without_secret_does_not_fill_the_log(signed: bool, lines: StringIO) -> None:
    """Rejects that nobody had to be asked for: one line a minute for each client, unless the client can sign."""
    where = House()
    for _ in range(50):
        await where.ask(access_request(password=b"\xff\xfe", sign=signed))
        await asyncio.sleep(0)
    written = lines.getvalue().count("undecodable_password")
    assert written == (50 if signed else 1)
    where.clock.advance(61)
    await where.ask(access_request(password=b"\xff\xfe", sign=signed))
    await asyncio.sleep(0)
    assert lines.getvalue().count("undecodable_password") == written + 1


async def test_too_much_is_told_once(lines: StringIO) -> None:
    """Overload makes no line for each packet; it says what to do."""
    where = House()
    where.desk.max_pending = 0
    for _ in range(50):
        where.give(access_request())
    assert where.observer.outcomes[-1].reason == "overload"
    assert lines.getvalue().count("overload") == 1 and "max_pending_per_nas" in lines.getvalue()


async def test_r57_half_open_conversations_are_bounded_by_memory() -> None:
    """Handshakes that stop after the server's flight: the oldest go, the weight is given back, the newest go on."""
    where = house()
    ours = where.authenticator.conversations.exchanges
    ours.max_weight = 10 * 60_000
    peers = []
    for _ in range(30):
        peer = Peer("ttls", trust=eap_peer.SERVERS, inside=lambda m: None if m else pap(b"alice", b"pw"))
        start = await where.ask(eap_request(HELLO))
        offer = await where.ask(eap_request(response(eap_of(start)[1], NAK, bytes((TTLS,))), state_of(start)))
        flight = await where.ask(eap_request(peer.answer(eap_of(offer)), state_of(offer)))
        assert flight is not None
        peers.append((peer, flight))
        assert ours.weight <= ours.max_weight
    assert 9 <= len(ours) <= 10
    peer, flight = peers[0]
    lost = await where.ask(eap_request(peer.answer(eap_of(flight)), state_of(flight)))
    assert lost is not None and lost.code == Code.ACCESS_REJECT
    peer, flight = peers[-1]
    packet: wire.Packet | None = flight
    while packet is not None and packet.code == Code.ACCESS_CHALLENGE:
        packet = await where.ask(eap_request(peer.answer(eap_of(packet)), state_of(packet)))
    assert packet is not None and packet.code == Code.ACCESS_ACCEPT
    where.clock.advance(31)  # a handshake that has stopped does not keep its memory for the whole minute
    where.authenticator.sweep(where.clock())
    assert (len(ours), ours.weight) == (0, 0)


async def test_fragments_that_never_end_weigh_too() -> None:
    """A flight whose end does not come counts by what has come of it."""
    where = house()
    ours = where.authenticator.conversations.exchanges
    packet = await where.ask(eap_request(HELLO))
    before = ours.weight
    for _ in range(10):
        identifier = eap_of(packet)[1]
        packet = await where.ask(eap_request(response(identifier, TLS, b"\x40" + bytes(1000)), state_of(packet)))
    assert ours.weight >= before + 10_000
    [waiting] = ours._waiting.values()
    assert waiting.value.session.is_slow


async def test_a_person_has_the_whole_minute() -> None:
    """Only machines are hurried: at a question inside a tunnel nothing is cut short."""
    where = house()
    where.core.outcome = Standing("Code:", passed())
    inside = inner_peap([b"alice", b"wonderland", b"123456"])

    def slow(message: bytes) -> bytes | None:
        if b"Code:" in message:
            where.clock.advance(45)
            where.authenticator.sweep(where.clock())
        return inside(message)

    packet, _ = await talk(where, Peer("peap", trust=eap_peer.SERVERS, inside=slow))
    assert packet.code == Code.ACCESS_ACCEPT


async def test_memory_of_a_crowd_goes_back_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, when much has been let go of; not for little."""
    trimmed: list[int] = []
    monkeypatch.setattr(service, "_trim", lambda: trimmed.append(1))
    exchanges = SimpleNamespace(weight=100 << 20)
    crowd: Any = SimpleNamespace(
        _heaviest=0, authenticator=SimpleNamespace(conversations=SimpleNamespace(exchanges=exchanges))
    )
    for weight in (100 << 20, 90 << 20, 70 << 20, 60 << 20, 30 << 20, 20 << 20):
        exchanges.weight = weight
        await RadiusService._give_memory_back(crowd)
    assert len(trimmed) == 2


def test_the_c_library_is_asked_where_it_can() -> None:
    """Where it cannot, nothing happens."""
    service._trim()


async def test_challenges_of_passwords_count_as_new_conversations() -> None:
    """A hundred a second of one client; further questions of the same logins are none; what is too much is given up."""
    where = House(provider(challenge=True))
    given_up = []
    where.core.outcome = lambda credentials: Standing("Code:", Standing("Again:", passed()))
    asked = [await where.ask(access_request(user=b"user%d" % number)) for number in range(100)]
    further = await where.ask(access_request(state_row(asked[0]), user=b"user0", password="123456"))
    assert further is not None and further.code == Code.ACCESS_CHALLENGE
    given_up.append(Standing("Code:"))
    where.core.outcome = given_up[0]
    assert await where.ask(access_request(user=b"one too many")) is None
    assert where.observer.reason == "exchange_rate" and given_up[0].abandoned == 1
    where.clock.advance(1)
    where.core.outcome = Standing("Code:")
    assert (await where.ask(access_request(user=b"in time"))) is not None


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


def test_a_crowd_ends_in_slices() -> None:
    """Freeing ten thousand handshakes at once would hold everybody up."""
    ended: list[int] = []
    table: Exchanges[int] = Exchanges(chance, on_drop=ended.append)
    for number in range(100):
        table.open(number, 1, "192.0.2.1", 50.0 if number < 70 else 90.0)
    assert [table.sweep(60.0), len(ended)] == [True, SLICE]
    while table.sweep(60.0):
        pass
    assert ended == list(range(70)) and len(table) == 30


async def test_rejects_for_nothing_take_no_room() -> None:
    """``reject_delay`` slows down guesses; what anybody may send is refused at once, a State of nobody included."""
    where = House(provider(reject_delay=5.0, challenge=True))
    for octets, reason in (
        (access_request(password=b"\xff\xfe", sign=False), "undecodable_password"),
        (access_request((Attribute.STATE, bytes(STATE_SIZE)), sign=False), "challenge_expired"),
        (access_request((Attribute.STATE, b"x"), sign=False), "challenge_expired"),
    ):
        assert len(where.give(octets)) == 1
        assert where.observer.reason == reason and where.desk.pending == 0
    where.core.outcome = Denied(Reason.INVALID_CREDENTIALS)
    where.give(access_request())
    await until(where.core.asked.is_set)
    await asyncio.sleep(0)
    assert where.desk.pending == 1 and len(where.line.replies) == 3
    await where.close()


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
