"""The desk: copies, deadlines, overload, delays, what goes away meanwhile, the end (rows R12, R13, R21–R23, R60)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from common.outcomes import Denied, Reason, Unavailable
from outposts.radius import wire
from outposts.radius.request import Answer, Request, Silence
from outposts.radius.rfc import Attribute, Code
from tests.radius.desks import (
    NAS,
    PORT,
    House,
    Standing,
    access_request,
    attributes_of,
    passed,
    provider,
    read,
    status_request,
)
from tests.radius.packets import VECTORS

OTHER_PORT = PORT + 1


async def turns(count: int = 10) -> None:
    """Let everybody go on who can."""
    for _ in range(count):
        await asyncio.sleep(0)


# --- copies ---


async def test_r21_copies_of_a_request_in_progress_are_dropped() -> None:
    """Three equal datagrams while the flow runs: one flow, one reply."""
    house = House()
    house.core.hold = asyncio.Event()
    octets = access_request()
    for _ in range(3):
        assert house.give(octets) == []
    await turns()
    assert len(house.core.logins) == 1 and house.observer.copies == 2
    house.core.hold.set()
    await house.settle()
    [(reply, where)] = house.line.replies
    assert read(reply, octets).code == Code.ACCESS_ACCEPT and where == (NAS, PORT)


@pytest.mark.parametrize("outcome", [passed(), Denied(Reason.INVALID_CREDENTIALS), Standing("Code:")])
async def test_r22_a_copy_after_the_reply_gets_the_same_octets(outcome: Any) -> None:
    """No new flow, so no code is used twice; a challenge keeps its State."""
    house = House(provider(challenge=True))
    house.core.outcome = outcome
    octets = access_request()
    assert await house.ask(octets) is not None
    house.clock.advance(3)
    [again] = house.give(octets)
    assert again == house.line.replies[0][0]
    assert len(house.core.logins) == 1
    house.clock.advance(15)
    await house.ask(octets)
    assert len(house.core.logins) == 2


async def test_r23_the_same_identifier_with_another_authenticator_is_a_new_flow() -> None:
    """Its own reply each, also when the first one is still in progress: that one's late result is nobody's."""
    house = House()
    first, second = access_request(identifier=7), access_request(identifier=7)
    assert await house.ask(first) is not None
    assert await house.ask(second) is not None
    assert len(house.core.logins) == 2
    house = House()
    house.core.hold = asyncio.Event()
    house.give(first)
    house.give(second)
    house.core.hold.set()
    await house.settle()
    [(reply, _)] = house.line.replies
    assert read(reply, second).code == Code.ACCESS_ACCEPT
    assert sorted(outcome.reason for outcome in house.observer.outcomes) == ["", "superseded"]


async def test_the_same_packet_from_another_port_is_another_request() -> None:
    """A client may use its Identifiers on several ports."""
    house = House()
    octets = access_request()
    assert await house.ask(octets) is not None
    assert await house.ask(octets, port=OTHER_PORT) is not None
    assert len(house.core.logins) == 2


async def test_the_local_address_and_the_socket_tell_copies_apart() -> None:
    """RFC 5080 §2.2.2."""
    house = House()
    octets = access_request()
    for local in ("198.51.100.1", "198.51.100.2"):
        assert await house.ask(octets, local=local) is not None
    assert len(house.core.logins) == 2


async def test_copies_of_a_request_that_silence_met() -> None:
    """Tried again where nothing can have happened, else silence for as long as a reply would be kept."""
    house = House()
    octets = access_request()
    house.core.outcome = Unavailable(Reason.CORE_UNAVAILABLE)
    assert await house.ask(octets) is None
    house.core.outcome = passed()
    assert await house.ask(octets) is not None  # R12: the core is back
    house.core.outcome = Unavailable(Reason.DEADLINE)
    octets = access_request()
    assert await house.ask(octets) is None
    house.core.outcome = passed()
    assert await house.ask(octets) is None
    assert len(house.core.logins) == 3
    assert await house.ask(access_request()) is not None


# --- time ---


async def test_r13_a_late_result_is_not_sent_but_kept_for_the_next_copy() -> None:
    """After the deadline nobody waits for it; it may come right when the client asks once more."""
    house = House()
    house.core.hold = asyncio.Event()
    octets = access_request()
    house.give(octets)
    await turns()
    house.clock.advance(40)
    house.core.hold.set()
    await house.settle()
    assert house.line.replies == []
    assert house.observer.reason == "deadline"
    [reply] = house.give(octets)
    assert read(reply, octets).code == Code.ACCESS_ACCEPT
    assert len(house.core.logins) == 1


async def test_the_deadline_is_the_provider_s() -> None:
    """``x_radius_deadline``."""
    house = House(provider(deadline=60.0))
    house.core.hold = asyncio.Event()
    house.give(access_request())
    await turns()
    house.clock.advance(40)
    house.core.hold.set()
    await house.settle()
    assert len(house.line.replies) == 1


async def test_rejects_may_be_delayed_and_copies_meanwhile_are_dropped() -> None:
    """``x_radius_reject_delay``: Accepts are not delayed, and a delayed reject is one request in progress."""
    house = House(provider(reject_delay=0.05))
    octets = access_request()
    house.core.outcome = Denied(Reason.INVALID_CREDENTIALS)
    house.give(octets)
    await turns()
    assert house.line.replies == [] and house.desk.pending == 1
    assert house.give(octets) == []
    await house.settle()
    [(reply, _)] = house.line.replies
    assert read(reply, octets).code == Code.ACCESS_REJECT
    house.core.outcome = passed()
    assert await house.ask(access_request()) is not None


# --- load ---


async def test_overload_is_silence_and_ends() -> None:
    """``max_pending``: further requests are dropped, never rejected, and their copies are taken when there is room."""
    house = House()
    house.desk.max_pending = 2
    house.core.hold = asyncio.Event()
    for number in range(2):
        house.give(access_request(user=b"user%d" % number))
    third = access_request()
    assert house.give(third) == []
    assert house.observer.reason == "overload"
    house.core.hold.set()
    await house.settle()
    assert len(house.line.replies) == 2
    assert await house.ask(third) is not None


async def test_nobody_waits_behind_a_slow_login() -> None:
    """While one login hangs, another one and Status-Server are answered."""
    house = House()
    hold = asyncio.Event()

    async def slowly() -> Any:
        await hold.wait()
        return passed()

    house.core.outcome = lambda credentials: slowly() if credentials.username == "slow" else passed()
    house.give(access_request(user=b"slow"))
    quick = access_request(user=b"quick")
    house.give(quick)
    await turns()
    [(reply, _)] = house.line.replies
    assert read(reply, quick).code == Code.ACCESS_ACCEPT
    status = status_request()
    assert [read(one, status).code for one in house.give(status)] == [Code.ACCESS_ACCEPT]
    hold.set()
    await house.settle()
    assert len(house.line.replies) == 3


# --- what goes away meanwhile ---


async def test_a_provider_that_is_gone_meanwhile_answers_nobody() -> None:
    """Spec §9; one that has only changed does."""
    house = House()
    house.core.hold = asyncio.Event()
    house.give(access_request())
    await turns()
    house.serve(provider(2))
    house.core.hold.set()
    await house.settle()
    assert house.line.replies == []
    assert house.observer.reason == "provider_gone"
    house = House()
    house.core.hold = asyncio.Event()
    house.give(access_request())
    await turns()
    house.serve(provider(1, name="another name"))
    house.core.hold.set()
    await house.settle()
    assert len(house.line.replies) == 1


async def test_a_reply_that_cannot_be_encoded_is_silence() -> None:
    """A defect of ours, not the client's."""
    house = House()
    house.authenticator.decide = lambda request: Answer(  # type: ignore[method-assign]
        Code.ACCESS_ACCEPT, ((Attribute.MESSAGE_AUTHENTICATOR, bytes(16)),)
    )
    assert await house.ask(access_request()) is None
    assert house.observer.reason == "bad_attribute"


# --- Status-Server ---


async def test_r60_status_server_vector() -> None:
    """Nothing but a signature; no flow."""
    house = House()
    octets = VECTORS["ours-status-request"]
    [reply] = house.give(octets)
    assert reply == VECTORS["ours-status-reply"]
    assert not house.core.logins


async def test_r60_status_server_while_logins_cannot_be_decided() -> None:
    """Silence, whether that is known at once or has to be found out."""

    async def found_out(answer: bool) -> bool:
        return answer

    for able, expected in (
        (lambda: False, 0),
        (lambda: found_out(False), 0),
        (lambda: found_out(True), 1),
        (lambda: True, 1),
    ):
        house = House(able=able)
        await house.ask(status_request())
        assert len(house.line.replies) == expected
    assert House(able=lambda: False).give(VECTORS["ours-pap-request"]) == []


async def test_status_server_on_the_accounting_port() -> None:
    """Accounting-Response, signed because the request was (RFC 5997 §4.2)."""
    house = House(accounting=Books())
    octets = status_request()
    [reply] = house.give(octets, accounting_only=True)
    packet = wire.verify_reply(reply, octets[4:20], b"testing123")
    assert packet.code == Code.ACCOUNTING_RESPONSE
    assert [kind for kind, _ in packet.attributes] == [Attribute.MESSAGE_AUTHENTICATOR]


# --- accounting ---


class Books:
    """Records as a test says."""

    def __init__(self, outcome: Answer | Silence | Exception | None = None) -> None:
        self.outcome = outcome or Answer(Code.ACCOUNTING_RESPONSE)
        self.noted = 0

    async def answer(self, request: Request) -> Answer | Silence:
        """Note it."""
        self.noted += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


async def test_r09_accounting_is_answered_when_it_is_recorded() -> None:
    """The vector; its copy is answered and not recorded again; off: dropped."""
    octets = VECTORS["ours-accounting-request"]
    books = Books()
    house = House(provider(accounting=True), accounting=books)
    house.give(octets)
    await house.settle()
    [again] = house.give(octets)
    assert house.line.replies[0][0] == again == VECTORS["ours-accounting-reply"]
    assert books.noted == 1
    off = House(accounting=books)
    assert off.give(octets) == [] and books.noted == 1


@pytest.mark.parametrize("fault", [Silence("accounting_not_recorded"), RuntimeError("broken")])
async def test_what_was_not_recorded_is_not_answered_and_may_come_again(fault: Any) -> None:
    """RFC 2866 §2: no reply before it is recorded."""
    books = Books(fault)
    house = House(provider(accounting=True), accounting=books)
    octets = VECTORS["ours-accounting-request"]
    for _ in range(2):
        house.give(octets)
        await house.settle()
    assert house.line.replies == [] and books.noted == 2


# --- several workers ---


async def test_a_packet_for_another_worker_is_passed_on_and_so_are_its_copies() -> None:
    """Nothing is kept of it here; what was passed on to us is not passed on again."""
    house = House()
    passed_on: list[Request] = []

    def pass_on(request: Request, line: object, where: object) -> bool:
        passed_on.append(request)
        return True

    house.desk.pass_on = pass_on
    octets = access_request()
    assert house.give(octets) == house.give(octets) == []
    assert len(passed_on) == 2 and not house.core.logins
    house.give(octets, passed_on=True)
    await house.settle()
    assert len(house.line.replies) == 1 and len(passed_on) == 2


# --- the end ---


async def test_draining_finishes_what_is_in_progress() -> None:
    """And does not wait for ever."""
    house = House()
    house.core.hold = asyncio.Event()
    house.give(access_request())
    await turns()
    draining = asyncio.ensure_future(house.desk.drain(20.0))
    await turns()
    assert not draining.done()
    house.core.hold.set()
    await draining
    assert len(house.line.replies) == 1
    house.core.hold = asyncio.Event()
    house.give(access_request())
    await house.desk.drain(0.01)
    assert house.desk.pending == 1
    await house.close()
    assert house.desk.pending == 0 and len(house.line.replies) == 1


async def test_a_line_that_fails_does_not_take_others_down() -> None:
    """A fault while sending ends that request only."""
    house = House()

    class Broken:
        def send(self, octets: bytes, where: object) -> None:
            raise OSError("gone")

        def silent(self, where: object) -> None:
            """Never called here."""

    with pytest.raises(OSError, match="gone"):
        house.desk.received(status_request(), NAS, PORT, Broken(), None)
    assert await house.ask(access_request()) is not None


async def test_a_fault_in_deciding_at_once_is_silence() -> None:
    """Exceptions of the authenticator, the watch over the core, and of a coroutine that was handed out."""
    house = House()

    def fail(request: Request) -> Answer | Silence | Coroutine[Any, Any, Answer | Silence]:
        raise RuntimeError("broken")

    house.authenticator.decide = fail  # type: ignore[method-assign]
    assert await house.ask(access_request()) is None

    async def broken() -> bool:
        raise RuntimeError("broken")

    house = House(able=broken)
    assert await house.ask(status_request()) is None
    assert house.observer.reason == "unexpected"


async def test_the_authenticator_s_way_of_one_request() -> None:
    """The vectors of the spec, from octets to octets (§12.11)."""
    house = House()
    [*_] = house.give(VECTORS["ours-pap-request"])
    await house.settle()
    packet = read(house.line.replies[0][0], VECTORS["ours-pap-request"])
    assert attributes_of(packet) == ()
    house = House(provider(mfa_support=True))
    house.core.outcome = Denied(Reason.INVALID_CREDENTIALS)
    house.give(VECTORS["ours-pap-request"])
    await house.settle()
    assert house.line.replies[0][0] == VECTORS["ours-reject-reply"]
