"""EAP carried by RADIUS packets: State, keys, duplicates, what is never answered (R44–R49, R53, R54, R56–R58, R52).

The supplicant is ``eap_peer``, which shares no code with the server; the core is a test's.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from OpenSSL import SSL

from common.outcomes import Credentials, Denied, Reason, Unavailable
from outposts.radius import conversations, wire
from outposts.radius.eap.session import EapSession, EapSettings
from outposts.radius.providers import RadiusProvider
from outposts.radius.rfc import VENDOR_MICROSOFT, Attribute, Code, MicrosoftAttribute
from outposts.radius.session import STATE_SIZE
from outposts.radius.wire import Packet
from tests.radius import eap_peer
from tests.radius.desks import SECRET, House, Standing, blob, eap_request, passed, provider
from tests.radius.eap_peer import IDENTITY, NAK, TLS, TTLS, Peer, inner_peap, pap, response, settings_for

OTHER_NAS = "192.0.2.2"
HELLO = response(7, IDENTITY, b"alice")
CERTIFICATE = settings_for("tls", "ttls", "peap")


def house(served: RadiusProvider | None = None, settings: EapSettings | None = CERTIFICATE) -> House:
    """A house whose first provider speaks EAP."""
    made = House(served or provider())
    if settings is not None:
        made.authenticator.conversations.settings = {1: settings}
    return made


def eap_of(packet: Packet | None) -> bytes:
    """The EAP packet of a reply."""
    assert packet is not None
    return packet.joined(Attribute.EAP_MESSAGE)


def state_of(packet: Packet | None) -> tuple[int, bytes]:
    """The State of a challenge, as an attribute to send back."""
    assert packet is not None
    state = packet.first(Attribute.STATE)
    assert state is not None and len(state) == STATE_SIZE
    return (Attribute.STATE, state)


async def talk(
    where: House, peer: Peer, *more: tuple[int, bytes], twice: bool = False, **fields: Any
) -> tuple[Packet, bytes]:
    """A whole conversation; the last reply, and the request that it answers."""
    eap = response(7, IDENTITY, peer.identity)
    rows: tuple[tuple[int, bytes], ...] = more
    seen = set()
    for _ in range(100):
        octets = eap_request(eap, *rows, **fields)
        packet = await where.ask(octets)
        if twice:
            again = await where.ask(octets)
            assert (again and again.octets) == (packet and packet.octets)
        assert packet is not None
        if packet.code != Code.ACCESS_CHALLENGE:
            assert packet.first(Attribute.STATE) is None
            return packet, octets
        state = state_of(packet)
        assert state not in seen, "State is new in each round"
        seen.add(state)
        assert packet.first(Attribute.REPLY_MESSAGE) is None
        assert all(len(value) <= 253 for value in packet.all(Attribute.EAP_MESSAGE))
        rows = (*more, state)
        eap = peer.answer(eap_of(packet))
    raise AssertionError("the conversation has no end")


def keys_of(packet: Packet, octets: bytes) -> tuple[bytes, bytes]:
    """Recv and Send of an Accept, revealed as a NAS does."""
    found = []
    for kind in (MicrosoftAttribute.MS_MPPE_RECV_KEY, MicrosoftAttribute.MS_MPPE_SEND_KEY):
        [value] = packet.vendor(VENDOR_MICROSOFT, kind)
        found.append(wire.unsalted(SECRET, octets[4:20], value))
    return found[0], found[1]


# --- beginnings ---


async def test_r46_eap_start_is_answered_with_a_question_for_the_name() -> None:
    """Access-Challenge with Request/Identity and State."""
    where = house()
    packet = await where.ask(eap_request(b""))
    assert packet is not None and packet.code == Code.ACCESS_CHALLENGE
    eap = eap_of(packet)
    assert (eap[0], eap[2:]) == (1, b"\x00\x05\x01")
    state = state_of(packet)
    offer = await where.ask(eap_request(response(eap[1], IDENTITY, b"alice"), state))
    assert eap_of(offer)[4] == TLS


async def test_the_vector_of_an_identity() -> None:
    """``0201000a01616c696365`` → ``010200060d20`` (spec §12.11)."""
    packet = await house().ask(eap_request(bytes.fromhex("0201000a01616c696365")))
    assert eap_of(packet) == bytes.fromhex("010200060d20")


@pytest.mark.parametrize("settings", [None, EapSettings(("tls",), None), settings_for()])
async def test_r47_a_provider_without_a_method(settings: EapSettings | None) -> None:
    """Reject with EAP-Failure of the same id; no keys, no State."""
    packet = await house(settings=settings).ask(eap_request(HELLO))
    assert packet is not None and packet.code == Code.ACCESS_REJECT
    assert eap_of(packet) == bytes((4, 7, 0, 4))
    assert {kind for kind, _ in packet.attributes} == {Attribute.MESSAGE_AUTHENTICATOR, Attribute.EAP_MESSAGE}


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("code", [1, 2, 3, 4, 0, 255])
async def test_r44_short_eap_is_survived(size: int, code: int) -> None:
    """1 to 4 octets, any code: silence, and the next conversation works."""
    where = house()
    assert await where.ask(eap_request((bytes((code, 7)) + b"\x00\x04")[:size])) is None
    assert len(where.authenticator.conversations.exchanges) == 0
    assert eap_of(await where.ask(eap_request(HELLO)))[4] == TLS


async def test_r44_a_type_without_data() -> None:
    """A response of type 13 or 1 with nothing in it."""
    for number in (IDENTITY, NAK, TLS, 255):
        packet = await house().ask(eap_request(response(7, number)))
        assert packet is None or packet.code in (Code.ACCESS_CHALLENGE, Code.ACCESS_REJECT)


@pytest.mark.parametrize("data", [b"", b"\x15", b"\x00"])
async def test_r56_nak_as_the_first_message(data: bytes) -> None:
    """No crash; Reject with Failure."""
    packet = await house().ask(eap_request(response(7, NAK, data)))
    assert packet is not None and packet.code == Code.ACCESS_REJECT
    assert eap_of(packet) == bytes((4, 7, 0, 4))


@pytest.mark.parametrize("state", [b"", b"client's choice!", bytes(STATE_SIZE)])
async def test_r56_an_unknown_state(state: bytes) -> None:
    """Reject with Failure; nothing is created for it."""
    where = house()
    for eap in (response(9, TLS, b"\x00"), HELLO, b""):
        packet = await where.ask(eap_request(eap, (Attribute.STATE, state)))
        assert packet is not None and packet.code == Code.ACCESS_REJECT
        assert eap_of(packet) == bytes((4, eap[1] if eap else 0, 0, 4))
        assert where.observer.reason == "unknown_state"
    assert len(where.authenticator.conversations.exchanges) == 0


async def test_r19_another_one_s_state() -> None:
    """From another address: Reject, and the right client's conversation goes on."""
    where = house()
    state = state_of(await where.ask(eap_request(HELLO)))
    stolen = await where.ask(eap_request(response(8, NAK, bytes((TTLS,))), state), nas=OTHER_NAS)
    assert stolen is not None and stolen.code == Code.ACCESS_REJECT
    packet = await where.ask(eap_request(response(8, NAK, bytes((TTLS,))), state))
    assert eap_of(packet)[4] == TTLS


async def test_a_state_that_is_too_old() -> None:
    """A conversation has a minute."""
    where = house()
    state = state_of(await where.ask(eap_request(HELLO)))
    where.clock.advance(60)
    packet = await where.ask(eap_request(response(8, NAK, bytes((TTLS,))), state))
    assert packet is not None and packet.code == Code.ACCESS_REJECT
    assert where.observer.reason == "unknown_state"


async def test_a_packet_that_is_not_the_next_one_does_not_cost_the_conversation() -> None:
    """Another id, or no EAP at all: silence, and State is still good."""
    where = house()
    state = state_of(await where.ask(eap_request(HELLO)))
    for wrong in (response(200, TLS, b"\x00"), b"\x02\x08", b"\x01\x08\x00\x05\x01"):
        assert await where.ask(eap_request(wrong, state)) is None
    packet = await where.ask(eap_request(response(8, NAK, bytes((TTLS,))), state))
    assert eap_of(packet)[4] == TTLS


# --- whole logins ---


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
async def test_r48_r49_eap_tls(version: int) -> None:
    """Accept with the keys that the supplicant has: Recv = MSK 0–31, Send = MSK 32–63."""
    where = house()
    peer = Peer("tls", version=version, certificate=eap_peer.ALICE, trust=eap_peer.SERVERS)
    where.core.outcome = passed(attributes=blob((18, b"hi"), (11, b"filter")))
    packet, octets = await talk(where, peer, (Attribute.EAP_KEY_NAME, b"\0"))
    assert packet.code == Code.ACCESS_ACCEPT and eap_of(packet)[0] == 3
    msk = peer.keys()
    assert keys_of(packet, octets) == (msk[:32], msk[32:64])
    assert packet.first(Attribute.EAP_KEY_NAME) == peer.session_id()
    assert packet.first(Attribute.FILTER_ID) == b"filter"
    assert packet.first(Attribute.REPLY_MESSAGE) is None
    kinds = [kind for kind, _ in packet.attributes]
    assert kinds[:3] == [Attribute.MESSAGE_AUTHENTICATOR, Attribute.VENDOR_SPECIFIC, Attribute.VENDOR_SPECIFIC]
    [(target, credentials, interactive)] = where.core.logins
    assert credentials.certificate_only and not credentials.certificate_trusted and credentials.password == ""
    assert credentials.certificate_pem == eap_peer.ALICE.pem
    assert target.bind_identity and not interactive


@pytest.mark.parametrize(
    ("method", "inside"),
    [
        ("ttls", lambda message: None if message else pap(b"alice", b"wonderland;123456")),
        ("peap", inner_peap([b"alice", b"wonderland;123456"])),
    ],
)
async def test_r58_passwords_in_tunnels(method: str, inside: Callable[[bytes], bytes | None]) -> None:
    """The flow gets the clear password, as in PAP; Accept with keys."""
    where = house()
    peer = Peer(method, identity=b"anonymous@example.org", trust=eap_peer.SERVERS, inside=inside)
    packet, octets = await talk(where, peer)
    assert packet.code == Code.ACCESS_ACCEPT
    msk = peer.keys()
    assert keys_of(packet, octets) == (msk[:32], msk[32:64])
    [(target, credentials, _)] = where.core.logins
    assert (credentials.username, credentials.password) == ("alice", "wonderland;123456")
    assert target.mfa_support
    assert where.observer.outcomes[-1].username == "alice"


@pytest.mark.parametrize(
    ("method", "inside"),
    [
        ("ttls", lambda message: None if message else pap(b"alice", b"wonderland")),
        ("peap", inner_peap([b"alice", b"wonderland"])),
    ],
)
async def test_the_log_names_who_is_inside(method: str, inside: Callable[[bytes], bytes | None]) -> None:
    """The core need not be asked who it is: the name inside the tunnel counts, not User-Name."""
    where = house()
    where.core.outcome = passed(username=None)
    packet, _ = await talk(where, Peer(method, identity=b"anonymous", trust=eap_peer.SERVERS, inside=inside))
    assert packet.code == Code.ACCESS_ACCEPT
    assert where.observer.outcomes[-1].username == "alice"


async def test_r58_peap_asks_for_the_code() -> None:
    """A question of the core is a second prompt inside the tunnel."""
    where = house()
    standing = Standing("Code:", passed())
    where.core.outcome = standing
    peer = Peer("peap", trust=eap_peer.SERVERS, inside=inner_peap([b"alice", b"wonderland", b"123456"]))
    packet, _ = await talk(where, peer)
    assert packet.code == Code.ACCESS_ACCEPT
    assert standing.answers == ["123456"] and where.core.logins[0][2] is True


async def test_r16_ttls_with_pap_cannot_ask() -> None:
    """Reject, and the login that stands at a question is given up."""
    where = house()
    standing = Standing("Code:")
    where.core.outcome = standing
    peer = Peer("ttls", trust=eap_peer.SERVERS, inside=lambda m: None if m else pap(b"alice", b"wonderland"))
    packet, _ = await talk(where, peer)
    assert packet.code == Code.ACCESS_REJECT
    assert where.observer.reason == "mfa_required"
    await asyncio.sleep(0)
    assert standing.abandoned == 1


@pytest.mark.parametrize("method", ["tls", "ttls", "peap"])
async def test_r53_every_datagram_twice(method: str) -> None:
    """The same result as once: copies get the same octets, TLS is fed once."""
    where = house()
    peer = {
        "tls": lambda: Peer("tls", certificate=eap_peer.ALICE, trust=eap_peer.SERVERS),
        "ttls": lambda: Peer(
            "ttls", trust=eap_peer.SERVERS, inside=lambda m: None if m else pap(b"alice", b"wonderland")
        ),
        "peap": lambda: Peer("peap", trust=eap_peer.SERVERS, inside=inner_peap([b"alice", b"wonderland"])),
    }[method]()
    packet, octets = await talk(where, peer, twice=True)
    assert packet.code == Code.ACCESS_ACCEPT
    assert keys_of(packet, octets)[0] == peer.keys()[:32]
    assert len(where.core.logins) == 1


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Denied(Reason.INVALID_CREDENTIALS), "invalid_credentials"),
        (Denied(Reason.ACCESS_DENIED), "access_denied"),
        (Denied(Reason.IDENTITY_MISMATCH), "identity_mismatch"),
        (Denied("a reason of tomorrow"), "flow_error"),
        (passed(attributes="!!!"), "attribute_decode_failed"),
        (passed(attributes=blob(*[(18, b"x")])[:30]), "attribute_decode_failed"),
    ],
)
@pytest.mark.parametrize("method", ["tls", "ttls"])
async def test_r54_r40_refusals(method: str, outcome: Any, reason: str) -> None:
    """Reject with EAP-Failure, no keys, no Reply-Message."""
    where = house(provider(reply_message=True))
    where.core.outcome = outcome
    peer = Peer(
        method,
        certificate=eap_peer.ALICE if method == "tls" else None,
        trust=eap_peer.SERVERS,
        inside=lambda m: None if m or method == "tls" else pap(b"alice", b"wrong"),
    )
    packet, _ = await talk(where, peer)
    assert packet.code == Code.ACCESS_REJECT and eap_of(packet)[0] == 4
    assert {kind for kind, _ in packet.attributes} == {Attribute.MESSAGE_AUTHENTICATOR, Attribute.EAP_MESSAGE}
    assert where.observer.reason == reason
    assert len(where.authenticator.conversations.exchanges) == 0


async def test_r52_a_client_that_rejects_the_certificate() -> None:
    """Reject and Failure at once, the session is freed."""
    where = house()
    peer = Peer("tls", certificate=eap_peer.ALICE, trust=eap_peer.CLIENTS)  # trusts somebody else
    packet, _ = await talk(where, peer)
    assert packet.code == Code.ACCESS_REJECT and eap_of(packet)[0] == 4
    assert not where.core.logins and len(where.authenticator.conversations.exchanges) == 0


async def test_a_core_that_is_away_is_silence_in_the_middle_of_eap() -> None:
    """And the conversation is over; a reject where the operator wants one."""
    for served, expected in ((provider(), None), (provider(on_core_error="reject"), Code.ACCESS_REJECT)):
        where = house(served)
        where.core.outcome = Unavailable(Reason.CORE_UNAVAILABLE)
        peer = Peer("ttls", trust=eap_peer.SERVERS, inside=lambda m: None if m else pap(b"alice", b"wonderland"))
        if expected is None:
            with pytest.raises(AssertionError):
                await talk(where, peer)
            assert where.observer.reason == "core_error"
        else:
            packet, _ = await talk(where, peer)
            assert packet.code == expected
        assert len(where.authenticator.conversations.exchanges) == 0


@pytest.mark.parametrize("error", [RuntimeError("broken"), ValueError("wonderland")])
async def test_a_fault_while_the_core_is_asked_is_silence(error: Exception) -> None:
    """Never an Accept, and nothing is left behind."""
    where = house()
    where.core.outcome = error
    peer = Peer("ttls", trust=eap_peer.SERVERS, inside=lambda m: None if m else pap(b"alice", b"wonderland"))
    with pytest.raises(AssertionError):
        await talk(where, peer)
    assert where.observer.reason == "unexpected"
    assert len(where.authenticator.conversations.exchanges) == 0


async def test_a_success_that_nobody_granted_is_a_reject(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a session said Success without the core's word, it would not be believed."""
    from outposts.radius.eap.steps import Succeed

    where = house()
    monkeypatch.setattr(
        EapSession, "receive", lambda self, eap, now: Succeed(b"\x03\x07\x00\x04", bytes(64), b"", "alice", "tls")
    )
    packet = await where.ask(eap_request(HELLO))
    assert packet is not None and packet.code == Code.ACCESS_REJECT and eap_of(packet)[0] == 4


async def test_realms_and_certificates_only() -> None:
    """``strip_realm`` holds in tunnels; ``eap_require_ca`` with issuers refuses their passwords before the flow."""
    where = house(provider(client_ca="PEM", eap_require_ca=True))
    peer = Peer("ttls", trust=eap_peer.SERVERS, inside=lambda m: None if m else pap(b"alice", b"wonderland"))
    packet, _ = await talk(where, peer)
    assert packet.code == Code.ACCESS_REJECT and not where.core.logins


# --- load ---


async def test_r57_conversations_that_are_never_finished() -> None:
    """Memory is bounded, a client cannot begin more than so many a second, and other logins work."""
    where = house()
    conversations = where.authenticator.conversations
    conversations.exchanges.max_entries = 50
    for _ in range(150):
        await where.ask(eap_request(HELLO))
    assert len(conversations.exchanges) == 50
    assert [outcome.reason for outcome in where.observer.outcomes].count("exchange_rate") == 50
    peer = Peer("ttls", trust=eap_peer.SERVERS, inside=lambda m: None if m else pap(b"alice", b"wonderland"))
    where.clock.advance(1)
    packet, _ = await talk(where, peer)
    assert packet.code == Code.ACCESS_ACCEPT
    where.clock.advance(60)
    while where.authenticator.sweep(where.clock()):
        pass
    assert len(conversations.exchanges) == 0


@pytest.mark.parametrize("why", ["slow key", "enough done in this turn"])
async def test_handshakes_run_beside_the_loop(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """While a handshake computes, others are answered: always with a slow key, else when this turn had its share."""
    where = house()
    if why == "slow key":
        monkeypatch.setattr(EapSession, "is_slow", True)
    else:
        monkeypatch.setattr(conversations, "INLINE_S", 0.0)
    release, began = threading.Event(), threading.Event()
    real = EapSession.receive
    loop_thread = threading.get_ident()

    def slowly(self: EapSession, eap: bytes, now: float) -> Any:
        if self.works_on(eap):
            assert threading.get_ident() != loop_thread
            began.set()
            assert release.wait(20)
        return real(self, eap, now)

    monkeypatch.setattr(EapSession, "receive", slowly)
    peer = Peer("ttls", trust=eap_peer.SERVERS, inside=lambda m: None if m else pap(b"alice", b"wonderland"))
    start = await where.ask(eap_request(HELLO))
    offer = await where.ask(eap_request(response(eap_of(start)[1], NAK, bytes((TTLS,))), state_of(start)))
    where.give(eap_request(peer.answer(eap_of(offer)), state_of(offer)))
    await asyncio.to_thread(began.wait, 20)
    assert where.desk.pending == 1
    assert eap_of(await quickly(where, eap_request(HELLO)))[4] == TLS
    release.set()
    await where.settle()
    assert len(where.line.replies) == 4


async def test_a_quick_step_is_done_on_the_spot() -> None:
    """A usual key's step is answered at once; what it took counts until the next turn of the loop."""
    where = house()
    peer = Peer("ttls", trust=eap_peer.SERVERS, inside=lambda m: None if m else pap(b"alice", b"wonderland"))
    start = await where.ask(eap_request(HELLO))
    offer = await where.ask(eap_request(response(eap_of(start)[1], NAK, bytes((TTLS,))), state_of(start)))
    flight = await quickly(where, eap_request(peer.answer(eap_of(offer)), state_of(offer)))
    assert flight.code == Code.ACCESS_CHALLENGE
    ours = where.authenticator.conversations
    assert 0 < ours._spent < 1
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert ours._spent == 0


async def quickly(where: House, octets: bytes) -> Packet:
    """A reply that comes without waiting."""
    [reply] = where.give(octets)
    return wire.verify_reply(reply, octets[4:20], SECRET)


async def test_sessions_are_given_up_when_their_provider_changes_or_all_ends() -> None:
    """With the login that waits for an answer."""
    where = house()
    standing = Standing("Code:")
    where.core.outcome = standing
    answers = [b"alice", b"wonderland"]

    class Enough(Exception):
        """The peer is asked for the code and goes away."""

    def inside(message: bytes) -> bytes | None:
        if not message:
            return None
        if not answers:
            raise Enough
        return message[:1] + answers.pop(0)

    with pytest.raises(Enough):
        await talk(where, Peer("peap", trust=eap_peer.SERVERS, inside=inside))
    assert len(where.authenticator.conversations.exchanges) == 1
    where.authenticator.end_providers(lambda pk: pk == 1)
    await asyncio.sleep(0)
    assert standing.abandoned == 1
    await where.ask(eap_request(HELLO))
    await where.close()
    assert len(where.authenticator.conversations.exchanges) == 0


def test_credentials_of_eap_hold_nothing_that_is_shown() -> None:
    """Their repr is safe."""
    shown = repr(Credentials("alice", "secret", "192.0.2.1", certificate_pem="PEM"))
    assert "secret" not in shown and "PEM" not in shown
