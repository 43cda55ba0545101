"""Injured and invented packets through everything: nothing crashes, nobody is let in, nobody unknown is answered."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from outposts.radius import wire
from outposts.radius.request import Silence
from outposts.radius.rfc import Attribute, Code
from outposts.radius.wire import Packet
from tests.radius import eap_peer
from tests.radius.desks import PASSWORD, SECRET, House, access_request, eap_request, passed, provider, read
from tests.radius.eap_peer import IDENTITY, response, settings_for
from tests.radius.packets import REQUESTS

EAP = settings_for("tls", "ttls", "peap")
assert eap_peer.PAIR.servable


def given_to(octets: bytes, **fields: object) -> tuple[House, list[Packet]]:
    """What becomes of a datagram: the house, and the replies."""

    async def give() -> tuple[House, list[Packet]]:
        house = House(provider(**fields))  # type: ignore[arg-type]
        house.authenticator.conversations.settings = {1: EAP}
        house.core.outcome = lambda credentials: passed()
        house.give(octets)
        await house.settle()
        replies = [read(reply, octets) for reply, _ in house.line.replies]
        reasons = [outcome.reason for outcome in house.observer.outcomes if isinstance(outcome, Silence)]
        assert "unexpected" not in reasons
        await house.close()
        return house, replies

    return asyncio.run(give())


@settings(max_examples=150)
@given(st.sampled_from(REQUESTS), st.data())
def test_injured_requests(octets: bytes, data: st.DataObject) -> None:
    """A signed request with anything changed is met by silence."""
    injured = bytearray(octets)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(injured) - 1))
        injured[at] = data.draw(st.integers(0, 255))
    cut = bytes(injured[: data.draw(st.integers(0, len(injured)))])
    for one in (bytes(injured), cut):
        if one != octets:
            house, replies = given_to(one, require_message_authenticator="yes")
            assert replies == [] and house.core.logins == []


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(1, 255), st.binary(max_size=60)), max_size=12),
    st.sampled_from([Code.ACCESS_REQUEST, Code.STATUS_SERVER]),
)
def test_sound_packets_with_any_attributes(rows: list[tuple[int, bytes]], code: Code) -> None:
    """Whoever knows the secret may send nonsense: no crash, and an Accept only for the right password."""
    rows = [row for row in rows if row[0] != Attribute.MESSAGE_AUTHENTICATOR]
    octets = wire.encode_request(code, 7, SECRET, rows, authenticator=bytes(range(16)))
    house, replies = given_to(octets)
    for reply in replies:
        if code == Code.ACCESS_REQUEST and reply.code == Code.ACCESS_ACCEPT:
            assert len(house.core.logins) == 1


@settings(max_examples=100)
@given(st.binary(max_size=80), st.binary(max_size=25))
def test_any_eap_with_any_state(eap: bytes, state: bytes) -> None:
    """No crash; nobody is let in; no session is made for a State that is not ours."""
    for octets in (eap_request(eap), eap_request(eap, (Attribute.STATE, state))):
        _, replies = given_to(octets)
        assert all(reply.code != Code.ACCESS_ACCEPT for reply in replies)
    assert replies and replies[0].code == Code.ACCESS_REJECT


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=4))
def test_any_conversation(packets: list[bytes]) -> None:
    """EAP packets of any content, one after the other with the State that was given: no crash, no Accept."""

    async def talk() -> None:
        house = House()
        house.authenticator.conversations.settings = {1: EAP}
        reply = await house.ask(eap_request(response(7, IDENTITY, b"alice")))
        for octets in packets:
            if reply is None or reply.code != Code.ACCESS_CHALLENGE:
                break
            identifier = reply.joined(Attribute.EAP_MESSAGE)[1]
            eap = bytes((2, identifier)) + (len(octets) + 4).to_bytes(2, "big") + octets
            reply = await house.ask(eap_request(eap, (Attribute.STATE, reply.first(Attribute.STATE) or b"")))
            assert reply is None or reply.code != Code.ACCESS_ACCEPT
        assert "unexpected" not in [outcome.reason for outcome in house.observer.outcomes]
        assert not house.core.logins
        await house.close()

    asyncio.run(talk())


def test_the_sound_request_is_taken() -> None:
    """So that silence above means something."""
    _, replies = given_to(access_request(password=PASSWORD), require_message_authenticator="yes")
    assert [reply.code for reply in replies] == [Code.ACCESS_ACCEPT]
