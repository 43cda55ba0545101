"""Too much of everything: one client against the others, memory, the log; what a flood costs and what it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest

from common import logs
from common.outcomes import Denied, Reason
from outposts.radius import service, wire
from outposts.radius.gate import Slots
from outposts.radius.rfc import Attribute, Code
from outposts.radius.service import RadiusService
from outposts.radius.session import SLICE, STATE_SIZE, Duplicates, Exchanges
from tests.ldap.binds import until
from tests.radius import eap_peer
from tests.radius.desks import House, Standing, access_request, chance, eap_request, passed, provider
from tests.radius.eap_peer import IDENTITY, NAK, TLS, TTLS, Peer, inner_peap, pap, response
from tests.radius.test_conversations import eap_of, house, state_of, talk

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
