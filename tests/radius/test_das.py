"""Disconnect-Requests: what is remembered, what is sent, how often, and what answers mean (R32)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from outposts.radius import das
from outposts.radius.accounting import Accounting
from outposts.radius.das import Exchange, Login, Logins, Result, Verdict
from outposts.radius.das_sender import Disconnector
from outposts.radius.providers import RadiusProvider
from outposts.radius.request import RADSEC, UDP, Request
from outposts.radius.rfc import Attribute, Code, ErrorCause
from outposts.radius.wire import (
    Attributes,
    Packet,
    PacketError,
    Signature,
    decode,
    encode_reply,
    encode_request,
    message_authenticator,
    verify_accounting,
)
from tests.factories import FixedClock
from tests.radius.accounting_packets import ON, SECRET, START, STOP, report

NOW = 1_700_000_000.0
NAS = "127.0.0.1"
SESSION = "a" * 64


def access_request(user: str = "alice", station: str = "02-00-00-00-00-01", **more: bytes) -> Packet:
    """An Access-Request of an access point."""
    rows = [
        (Attribute.USER_NAME, user.encode()),
        (Attribute.NAS_IDENTIFIER, b"ap1"),
        (Attribute.NAS_IP_ADDRESS, bytes([10, 0, 0, 1])),
        (Attribute.CALLING_STATION_ID, station.encode()),
        (Attribute.NAS_PORT, bytes([0, 0, 0, 5])),
        *((Attribute[name.upper()], value) for name, value in more.items()),
    ]
    return decode(encode_request(Code.ACCESS_REQUEST, 9, SECRET, rows, authenticator=bytes(16)))


def login(session: str = SESSION, user: str = "alice", station: str = "02-00-00-00-00-01", at: float = NOW) -> Login:
    """One that is remembered."""
    return das.login_of(session, access_request(user, station), 7, (NAS, 1645), UDP, at)


# -- what is remembered ------------------------------------------------------------------------------------------------


def test_a_login_is_taken_once() -> None:
    """By the session of the core; another session is none of its business."""
    logins = Logins()
    logins.remember(login())
    assert logins.take("b" * 64, NOW) == []
    assert [one.peer for one in logins.take(SESSION, NOW)] == [(NAS, 1645)]
    assert logins.take(SESSION, NOW) == [] and len(logins) == 0
    assert not logins._by_names and not logins._by_class


def test_what_is_too_old_is_not_disconnected() -> None:
    """The network session has ended by its own time."""
    logins = Logins(max_age_s=100)
    logins.remember(login())
    assert logins.take(SESSION, NOW + 100) == []
    logins.remember(login())
    logins.sweep(NOW + 99)
    assert len(logins) == 1
    logins.sweep(NOW + 100)
    assert len(logins) == 0


def test_logins_are_bounded_and_the_oldest_go() -> None:
    """By count, and by count of one session."""
    logins = Logins(max_logins=20)
    for number in range(50):
        logins.remember(login(f"{number:064}", user=f"u{number}"))
    assert len(logins) == 20
    assert logins.take(f"{29:064}", NOW) == [] and logins.take(f"{30:064}", NOW)
    for number in range(das.MAX_LOGINS_PER_SESSION + 5):
        logins.remember(login(user=f"x{number}"))
    assert len(logins.take(SESSION, NOW)) == das.MAX_LOGINS_PER_SESSION


def test_the_same_user_and_station_again_is_the_same_network_session() -> None:
    """A re-authentication: the newer session of the core is the one whose end counts."""
    logins = Logins()
    logins.remember(login("1" * 64))
    logins.remember(login("2" * 64))
    assert logins.take("1" * 64, NOW) == []
    assert len(logins.take("2" * 64, NOW)) == 1


@given(
    some.lists(
        some.tuples(
            some.sampled_from(["remember", "take", "started", "stopped", "sweep"]),
            some.integers(0, 3),
            some.integers(0, 2),
            some.integers(0, 2),
        ),
        max_size=60,
    )
)
def test_whatever_happens_indexes_and_logins_agree(steps: list[tuple[str, int, int, int]]) -> None:
    """No login is in an index alone, none is counted twice."""
    logins = Logins(max_logins=6, max_age_s=50)
    for at, (step, session, user, station) in enumerate(steps):
        names: Attributes = (
            (Attribute.USER_NAME, b"u%d" % user),
            (Attribute.CALLING_STATION_ID, b"s%d" % station),
            (Attribute.ACCT_SESSION_ID, b"a%d" % session),
        )
        if step == "remember":
            one = login(f"{session:064}", f"u{user}", f"s{station}", at)
            class_ = b"c%d" % user if station else b""
            logins.remember(Login(one.session_id, 7, one.peer, UDP, one.attributes, at, class_))
        elif step == "take":
            logins.take(f"{session:064}", at)
        elif step == "started":
            logins.started(7, NAS, b"c%d" % user, names)
        elif step == "stopped":
            logins.stopped(7, NAS, b"c%d" % user, names)
        else:
            logins.sweep(at)
        kept = list(logins)
        assert len(logins) == len(kept) <= 6
        assert all(one in kept for one in [*logins._by_names.values(), *logins._by_class.values()])


# -- what is sent ------------------------------------------------------------------------------------------------------


def test_r32_request_is_signed_and_says_what_the_client_said() -> None:
    """RFC 5176 §3: the client, the user, the station, as they came; a time; and 16 zeros under the signature."""
    octets = das.encode(Code.DISCONNECT_REQUEST, 5, SECRET, das.identification(login()), NOW)
    packet = decode(octets)
    assert (packet.code, packet.identifier) == (40, 5)
    assert verify_accounting(packet, SECRET)
    assert message_authenticator(packet, SECRET) is Signature.VALID
    assert packet.attributes[0][0] == Attribute.MESSAGE_AUTHENTICATOR
    assert packet.first(Attribute.EVENT_TIMESTAMP) == int(NOW).to_bytes(4, "big")
    assert packet.first(Attribute.NAS_IDENTIFIER) == b"ap1"
    assert packet.first(Attribute.NAS_IP_ADDRESS) == bytes([10, 0, 0, 1])
    assert packet.first(Attribute.USER_NAME) == b"alice"
    assert packet.first(Attribute.CALLING_STATION_ID) == b"02-00-00-00-00-01"
    assert packet.first(Attribute.NAS_PORT) is None, "a port may have changed, and the station is known"


def test_identification_falls_back_to_the_port_and_to_less() -> None:
    """Without station and session the port is all there is; a client that does not know the rest gets the least."""
    rows = [(Attribute.USER_NAME, b"alice"), (Attribute.NAS_PORT, b"\0\0\0\5")]
    packet = decode(encode_request(Code.ACCESS_REQUEST, 9, SECRET, rows, authenticator=bytes(16)))
    wired = das.login_of(SESSION, packet, 7, (NAS, 1), UDP, NOW)
    assert das.identification(wired) == tuple((int(kind), value) for kind, value in rows)
    logins = Logins()
    logins.remember(login())
    named = report(START, "s9", user_name="alice", calling_station_id="02-00-00-00-00-01")
    known = logins.started(7, NAS, b"", named.attributes)
    assert known is not None
    assert dict(das.identification(known))[Attribute.ACCT_SESSION_ID] == b"s9"
    least = dict(das.identification(known, least=True))
    assert set(least) == {Attribute.NAS_IP_ADDRESS, Attribute.NAS_IDENTIFIER, Attribute.ACCT_SESSION_ID}


def test_only_requests_of_rfc_5176_are_encoded() -> None:
    """A CoA-Request is; an Access-Request is not."""
    coa = das.encode(Code.COA_REQUEST, 1, SECRET, (*das.identification(login()), (27, bytes(4))), NOW)
    assert decode(coa).code == 43 and verify_accounting(decode(coa), SECRET)
    with pytest.raises(PacketError):
        das.encode(Code.ACCESS_REQUEST, 1, SECRET, (), NOW)


def test_pyrad_takes_our_request() -> None:
    """A second opinion on authenticator and Message-Authenticator."""
    from pyrad.dictionary import Dictionary
    from pyrad.packet import CoAPacket

    octets = das.encode(Code.DISCONNECT_REQUEST, 5, SECRET, das.identification(login()), NOW)
    theirs = CoAPacket(packet=octets, secret=SECRET, dict=Dictionary())
    assert theirs.VerifyCoARequest()
    assert theirs.verify_message_authenticator()
    assert theirs[1] == [b"alice"]


# -- how often ---------------------------------------------------------------------------------------------------------


def test_r32_five_tries_at_2_4_8_16_seconds_with_the_same_octets() -> None:
    """And then it is given up."""
    exchange = Exchange(das.encode(Code.DISCONNECT_REQUEST, 5, SECRET, (), NOW), SECRET, 100.0)
    sent = []
    while exchange.due is not None:
        now = exchange.due
        octets = exchange.tick(now)
        if octets is not None:
            sent.append((now - 100, octets))
            assert exchange.tick(now) is None, "not twice at one time"
    assert [at for at, _ in sent] == [0, 2, 6, 14, 30]
    assert len({octets for _, octets in sent}) == 1
    assert exchange.result == Result(Verdict.NO_ANSWER)


@pytest.mark.parametrize(
    ("code", "cause", "expected"),
    [
        (Code.DISCONNECT_ACK, None, Result(Verdict.DONE)),
        (Code.DISCONNECT_ACK, 201, Result(Verdict.DONE, ErrorCause(201))),
        (Code.DISCONNECT_NAK, 503, Result(Verdict.GONE, ErrorCause(503))),
        (Code.DISCONNECT_NAK, 401, Result(Verdict.REFUSED, ErrorCause(401))),
        (Code.DISCONNECT_NAK, 506, Result(Verdict.REFUSED, ErrorCause(506))),
        (Code.DISCONNECT_NAK, 999, Result(Verdict.REFUSED, ErrorCause(999))),
        (Code.DISCONNECT_NAK, None, Result(Verdict.REFUSED)),
        (Code.COA_ACK, None, None),
        (Code.ACCESS_ACCEPT, None, None),
    ],
)
def test_what_answers_mean(code: Code, cause: int | None, expected: Result | None) -> None:
    """RFC 5176 §3.5; what is no answer to this request changes nothing."""
    octets = das.encode(Code.DISCONNECT_REQUEST, 5, SECRET, das.identification(login()), NOW)
    exchange = Exchange(octets, SECRET, 0.0)
    exchange.tick(0.0)
    rows = [] if cause is None else [(Attribute.ERROR_CAUSE, cause.to_bytes(4, "big"))]
    assert exchange.receive(encode_reply(decode(octets), SECRET, code, rows)) == expected
    assert (exchange.due is None) == (expected is not None)
    assert expected is None or expected.try_less == (cause in (401, 407))


def test_answers_that_prove_nothing_are_as_if_not_there() -> None:
    """Another secret, another Identifier, a changed octet, noise."""
    octets = das.encode(Code.DISCONNECT_REQUEST, 5, SECRET, (), NOW)
    good = encode_reply(decode(octets), SECRET, Code.DISCONNECT_ACK, ())
    other = decode(das.encode(Code.DISCONNECT_REQUEST, 6, SECRET, (), NOW))
    exchange = Exchange(octets, SECRET, 0.0)
    for bad in (
        encode_reply(decode(octets), b"other", Code.DISCONNECT_ACK, ()),
        encode_reply(other, SECRET, Code.DISCONNECT_ACK, ()),
        good[:-1] + bytes([good[-1] ^ 1]),
        good[:19],
        b"",
    ):
        assert exchange.receive(bad) is None and exchange.result is None
    assert exchange.receive(good) == Result(Verdict.DONE)


# -- over sockets ------------------------------------------------------------------------------------------------------


class Nas(asyncio.DatagramProtocol):
    """Network gear that takes Disconnect-Requests: answers what the test wants, after ignoring the first copies."""

    transport: asyncio.DatagramTransport

    def __init__(self, answers: Sequence[tuple[Code, int | None]], ignore: int = 0) -> None:
        self.answers = list(answers)
        self.ignore = ignore
        self.heard: list[bytes] = []
        self.came = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        """The socket is there."""
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple[Any, ...]) -> None:
        """A request."""
        self.heard.append(data)
        self.came.set()
        if len(self.heard) <= self.ignore or not self.answers:
            return
        code, cause = self.answers.pop(0)
        rows = [] if cause is None else [(Attribute.ERROR_CAUSE, cause.to_bytes(4, "big"))]
        self.transport.sendto(encode_reply(decode(data), SECRET, code, rows), address)

    @classmethod
    async def listen(cls, *answers: tuple[Code, int | None], ignore: int = 0) -> Nas:
        """On a free port of 127.0.0.1."""
        _, made = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: cls(answers, ignore), local_addr=(NAS, 0)
        )
        return made

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.transport.get_extra_info("sockname")[1])


def disconnector(nas: Nas, *, enabled: bool = True, waits_s: tuple[float, ...] = (0.05,) * 5) -> Disconnector:
    """One that knows a provider and finds its clients at the test's port."""
    provider = RadiusProvider(7, "wifi", "wifi", "f", SECRET, das=enabled)
    return Disconnector(
        lambda pk: provider if pk == 7 else None, clock=FixedClock(), port_of=lambda _: nas.port, waits_s=waits_s
    )


def accepted(transport: str = UDP, enabled: bool = True) -> Request:
    """A request that was answered with Access-Accept."""
    provider = RadiusProvider(7, "wifi", "wifi", "f", SECRET, das=enabled)
    return Request(access_request(), provider, (NAS, 1645), transport, 0.0)


async def until_idle(sender: Disconnector) -> None:
    """All exchanges are over."""
    while sender.in_flight:
        await asyncio.gather(*sender._tasks)


async def test_r32_session_end_becomes_a_disconnect_request() -> None:
    """To the client that the login came from, repeated until it is acknowledged, and then no more."""
    nas = await Nas.listen((Code.DISCONNECT_ACK, None), ignore=2)
    sender = disconnector(nas)
    sender.remember(SESSION, accepted())
    sender.session_ended("b" * 64)
    assert not sender.in_flight
    sender.session_ended(SESSION)
    await until_idle(sender)
    assert len(nas.heard) == 3 and len(set(nas.heard)) == 1
    packet = decode(nas.heard[0])
    assert packet.code == Code.DISCONNECT_REQUEST and verify_accounting(packet, SECRET)
    assert packet.first(Attribute.USER_NAME) == b"alice"
    sender.session_ended(SESSION)
    assert not sender.in_flight, "a session ends once"
    await sender.close()
    nas.transport.close()


async def test_r32_no_more_than_five_tries() -> None:
    """A client that says nothing."""
    nas = await Nas.listen()
    sender = disconnector(nas)
    sender.remember(SESSION, accepted())
    sender.session_ended(SESSION)
    await until_idle(sender)
    assert len(nas.heard) == 5
    await sender.close()
    nas.transport.close()


async def test_refused_for_saying_too_much_is_tried_with_less() -> None:
    """NAK 401: unsupported attribute. The second request is a new one, with another Identifier."""
    nas = await Nas.listen((Code.DISCONNECT_NAK, 401), (Code.DISCONNECT_ACK, None))
    sender = disconnector(nas)
    sender.remember(SESSION, accepted())
    sender.session_ended(SESSION)
    await until_idle(sender)
    first, second = map(decode, nas.heard)
    assert first.identifier != second.identifier
    assert first.first(Attribute.CALLING_STATION_ID) and second.first(Attribute.CALLING_STATION_ID) is None
    await sender.close()
    nas.transport.close()


async def test_off_means_off() -> None:
    """Nothing is remembered where the provider does not ask for it, and nothing is sent when it was turned off."""
    nas = await Nas.listen()
    sender = disconnector(nas, enabled=False)
    sender.remember(SESSION, accepted(enabled=False))
    assert len(sender.logins) == 0
    sender.remember(None, accepted())
    assert len(sender.logins) == 0, "a session that the core did not name cannot end"
    sender.remember(SESSION, accepted())
    sender.session_ended(SESSION)
    await until_idle(sender)
    assert not nas.heard
    await sender.close()
    nas.transport.close()


async def test_accounting_says_what_to_name_and_when_there_is_nothing_left() -> None:
    """Start brings the session's name and the client's name for the user; Stop and On end it."""
    clock = FixedClock()
    nas = await Nas.listen((Code.DISCONNECT_ACK, None))
    sender = disconnector(nas)
    accounting = Accounting(clock)
    accounting.listeners.append(sender.recorded)
    provider = RadiusProvider(7, "wifi", "wifi", "f", SECRET, das=True)
    class_ = bytes(range(16))

    async def told(packet: Packet) -> None:
        assert await accounting.record(packet, provider, (NAS, 1646), clock()) is not None

    names = {"calling_station_id": "02-00-00-00-00-01", "nas_identifier": "ap1"}
    sender.remember(SESSION, accepted(), class_=class_)
    await told(report(START, "s1", user_name="alice@office", **{"class": class_}, **names))
    (known,) = sender.logins
    assert known.first(Attribute.USER_NAME) == b"alice@office"
    await told(report(STOP, "other", user_name="alice@office", **names))
    assert len(sender.logins) == 1, "another session's end"
    await told(report(STOP, "s1", user_name="alice@office", **names))
    assert len(sender.logins) == 0
    sender.remember(SESSION, accepted())
    clock.advance(1)
    await told(report(START, "s2", user_name="alice", **names))
    clock.advance(1)
    await told(report(ON, "", nas_identifier="ap1"))
    assert len(sender.logins) == 0
    sender.remember(SESSION, accepted())
    clock.advance(1)
    await told(report(START, "s3", user_name="alice", **names))
    sender.session_ended(SESSION)
    await until_idle(sender)
    assert decode(nas.heard[0]).first(Attribute.ACCT_SESSION_ID) == b"s3"
    await sender.close()
    nas.transport.close()


async def test_a_client_of_radsec_is_asked_on_its_connection() -> None:
    """Nothing listens on its port 3799."""
    asked: list[tuple[int, tuple[str, int], Code, Attributes]] = []

    async def ask(pk: int, peer: tuple[str, int], code: Code, attributes: Attributes, at: float) -> Result | None:
        asked.append((pk, peer, code, attributes))
        return Result(Verdict.DONE)

    nas = await Nas.listen()
    sender = disconnector(nas)
    sender.ask_radsec = ask
    sender.remember(SESSION, accepted(RADSEC), user_name=b"alice@core")
    sender.session_ended(SESSION)
    await until_idle(sender)
    ((pk, peer, code, attributes),) = asked
    assert (pk, peer, code) == (7, (NAS, 1645), Code.DISCONNECT_REQUEST)
    assert dict(attributes)[Attribute.USER_NAME] == b"alice@core"
    assert not nas.heard
    await sender.close()
    nas.transport.close()


async def test_256_requests_to_one_client_have_256_numbers() -> None:
    """The next one is not sent; what is answered makes room."""
    nas = await Nas.listen()
    sender = disconnector(nas, waits_s=(30.0,))
    for number in range(257):
        one = accepted()
        packet = access_request(user=f"u{number}")
        sender.remember(f"{number:064}", Request(packet, one.provider, one.peer, UDP, 0.0))
        sender.session_ended(f"{number:064}")
    while len(nas.heard) < 256:
        nas.came.clear()
        await nas.came.wait()
    assert len({decode(octets).identifier for octets in nas.heard}) == 256
    assert sender.in_flight == 256
    await sender.close()
    nas.transport.close()


async def test_ipv6_clients() -> None:
    """A socket of its own family."""
    if not socket.has_ipv6:
        return
    nas = Nas([(Code.DISCONNECT_ACK, None)])
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: nas, local_addr=("::1", 0))
    sender = disconnector(nas)
    one = accepted()
    sender.remember(SESSION, Request(one.packet, one.provider, ("::1", 1645), UDP, 0.0))
    sender.session_ended(SESSION)
    await until_idle(sender)
    assert len(nas.heard) == 1
    await sender.close()
    nas.transport.close()
