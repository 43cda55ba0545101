"""RADIUS/1.1 (RFC 9765): what goes over the wire without MD5, and what becomes of it inside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from outposts.radius import radius11
from outposts.radius.rfc import MAX_PACKET, RADSEC_SECRET, VENDOR_CISCO, VENDOR_MICROSOFT, Attribute, Code
from outposts.radius.wire import (
    Attributes,
    PacketError,
    Signature,
    decode,
    encode_reply,
    make_salts,
    message_authenticator,
    mppe_keys,
    reveal_password,
    salted,
    verify_accounting,
    vsa,
)
from tests.radius.radsec_peer import Bench

TOKEN = b"\xde\xad\xbe\xef"
RANDOM = bytes(range(100, 116))


def packet(code: int, *rows: tuple[int, bytes], token: bytes = TOKEN) -> bytes:
    """A packet as a peer sends it, with rubbish in what is reserved (RFC 9765 §4.1: not looked at)."""
    octets = bytearray(radius11.encode(code, token, rows))
    octets[1] = 99
    octets[8:20] = b"reserved two"
    return bytes(octets)


def test_request_is_rewritten() -> None:
    """The plain password is found again; reserved fields mean nothing; the token is kept."""
    octets = packet(
        Code.ACCESS_REQUEST, (Attribute.USER_NAME, b"alice"), (Attribute.USER_PASSWORD, b"wonderland;123456")
    )
    rewritten = radius11.receive(octets, RANDOM)
    older = rewritten.packet
    assert rewritten.token == TOKEN
    assert (older.code, older.identifier, older.authenticator) == (1, 0, RANDOM)
    hidden = older.first(Attribute.USER_PASSWORD)
    assert hidden is not None and b"wonderland" not in older.octets
    assert reveal_password(RADSEC_SECRET, RANDOM, hidden) == b"wonderland;123456"
    assert "wonderland" not in repr(rewritten)


@pytest.mark.parametrize("password", [b"", b"x" * 129, b"secret\x00rest"], ids=["empty", "129 octets", "NUL"])
def test_passwords_that_rfc_9765_does_not_have_are_malformed(password: bytes) -> None:
    """§5.1.1; a NUL must not cut a password in two."""
    hidden = radius11.receive(packet(1, (Attribute.USER_PASSWORD, password)), RANDOM).packet.first(2)
    assert hidden is not None
    with pytest.raises(PacketError, match="malformed_password"):
        reveal_password(RADSEC_SECRET, RANDOM, hidden)


def test_longest_password_passes() -> None:
    """128 octets."""
    hidden = radius11.receive(packet(1, (Attribute.USER_PASSWORD, b"x" * 128)), RANDOM).packet.first(2)
    assert hidden is not None and reveal_password(RADSEC_SECRET, RANDOM, hidden) == b"x" * 128


@pytest.mark.parametrize(
    ("code", "rows"),
    [
        (Code.ACCESS_REQUEST, ((int(Attribute.EAP_MESSAGE), b"\x02\x01\x00\x05\x01"),)),
        (Code.STATUS_SERVER, ()),
    ],
)
def test_what_needs_a_signature_inside_has_one(code: Code, rows: Attributes) -> None:
    """RFC 3579, RFC 5997; whatever signature the peer sent does not count (RFC 9765 §5.2)."""
    older = radius11.receive(packet(code, (Attribute.MESSAGE_AUTHENTICATOR, b"forged")), RANDOM).packet
    assert older.all(Attribute.MESSAGE_AUTHENTICATOR) != [b"forged"]
    older = radius11.receive(packet(code, (Attribute.MESSAGE_AUTHENTICATOR, bytes(16)), *rows), RANDOM).packet
    assert message_authenticator(older, RADSEC_SECRET) is Signature.VALID
    assert len(older.all(Attribute.MESSAGE_AUTHENTICATOR)) == 1


def test_accounting_is_authentic_inside() -> None:
    """TLS has said so."""
    older = radius11.receive(packet(Code.ACCOUNTING_REQUEST, (Attribute.ACCT_STATUS_TYPE, bytes(4))), RANDOM).packet
    assert verify_accounting(older, RADSEC_SECRET)


def test_reply_is_plain() -> None:
    """Token, zeros, Proxy-State in order, keys and tunnel passwords as they are, no signature."""
    request = radius11.receive(
        packet(1, (Attribute.USER_NAME, b"a"), (Attribute.PROXY_STATE, b"p1"), (Attribute.PROXY_STATE, b"p2")), RANDOM
    )
    msk = os.urandom(64)
    tunnel = b"\x01" + salted(RADSEC_SECRET, RANDOM, b"\x80\x07", b"tunnel password")
    rows = (
        *mppe_keys(RADSEC_SECRET, RANDOM, msk, make_salts(b"abcd")),
        (int(Attribute.TUNNEL_PASSWORD), tunnel),
        (int(Attribute.EXTENDED_ATTRIBUTE_1), b"\x04\0\0\0\1"),
        vsa(VENDOR_CISCO, 1, b"shell:priv-lvl=15"),
        (int(Attribute.REPLY_MESSAGE), b"hi"),
    )
    octets = radius11.reply(encode_reply(request.packet, RADSEC_SECRET, Code.ACCESS_ACCEPT, rows), request)
    assert octets[:2] == b"\x02\x00" and octets[4:8] == TOKEN and octets[8:20] == bytes(12)
    assert int.from_bytes(octets[2:4], "big") == len(octets)
    found = decode(octets)
    assert found.all(Attribute.PROXY_STATE) == [b"p1", b"p2"]
    assert found.vendor(VENDOR_MICROSOFT, 17) == [msk[:32]] and found.vendor(VENDOR_MICROSOFT, 16) == [msk[32:]]
    assert found.first(Attribute.TUNNEL_PASSWORD) == b"\x01tunnel password"
    assert found.vendor(VENDOR_CISCO, 1) == [b"shell:priv-lvl=15"]
    assert found.first(Attribute.MESSAGE_AUTHENTICATOR) is None
    assert found.first(Attribute.EXTENDED_ATTRIBUTE_1) is None


def test_what_cannot_be_read_is_not_passed_on() -> None:
    """A tunnel password that is hidden for nobody is left out. A session key would be a promise: no reply."""
    request = radius11.receive(packet(1), RANDOM)
    accept = encode_reply(request.packet, RADSEC_SECRET, 2, ((int(Attribute.TUNNEL_PASSWORD), b"\x01plain"),))
    assert decode(radius11.reply(accept, request)).attributes == ()
    accept = encode_reply(request.packet, RADSEC_SECRET, 2, (vsa(VENDOR_MICROSOFT, 17, b"plain"),))
    with pytest.raises(PacketError):
        radius11.reply(accept, request)
    other = encode_reply(request.packet, RADSEC_SECRET, 2, (vsa(VENDOR_MICROSOFT, 7, bytes(4)),))
    assert decode(radius11.reply(other, request)).vendor(VENDOR_MICROSOFT, 7) == [bytes(4)]


def test_sizes() -> None:
    """A packet that fits stays within 4096 octets; one that would not fit inside is an error, not a crash."""
    filler = ((int(Attribute.VENDOR_SPECIFIC), bytes(253)),) * 15 + ((int(Attribute.REPLY_MESSAGE), bytes(249)),)
    full = packet(1, *filler)
    assert len(full) == MAX_PACKET
    assert radius11.receive(full, RANDOM).packet.first(Attribute.MESSAGE_AUTHENTICATOR) is None, "no room"
    assert radius11.receive(full, RANDOM).packet.first(Attribute.REPLY_MESSAGE)
    with pytest.raises(PacketError, match="too_large"):
        radius11.receive(packet(12, *filler), RANDOM)
    with pytest.raises(PacketError, match="too_large"):
        radius11.encode(2, TOKEN, (*filler, (1, b"")))


@given(some.binary(min_size=0, max_size=400), some.integers(0, 4096))
def test_noise_is_a_packet_or_the_error(noise: bytes, length: int) -> None:
    """No other exception, in either direction."""
    octets = noise[:2] + length.to_bytes(2, "big") + noise[2:]
    request = radius11.receive(packet(1, (Attribute.USER_NAME, b"a")), RANDOM)
    for call in (
        lambda: radius11.receive(octets, RANDOM),
        lambda: radius11.reply(octets, request),
        lambda: radius11.request(octets, TOKEN),
    ):
        try:
            call()
        except PacketError:
            pass
    assert radius11.judge(octets.ljust(20, b"\0"), octets) is None or octets[0] in (40, 43)


# -- on a connection ---------------------------------------------------------------------------------------------------


async def test_tokens_tell_requests_apart(tmp_path: Path) -> None:
    """Three hundred open requests with one Identifier (0), answered backwards: more than RADIUS/1.0 can have."""
    from outposts.radius.radsec import Limits

    bench = await Bench(tmp_path).start(Limits(max_outstanding=300))
    bench.desk.hold = True
    client = await bench.connect(alpn=["radius/1.1"])
    for number in range(300):
        client.send(packet(1, (Attribute.USER_NAME, b"u%d" % number), token=number.to_bytes(4, "big")))
    await bench.desk.until(300)
    assert {one.identifier for one in bench.desk.packets} == {0}
    assert len({line for _, line in bench.desk.held}) == 300, "the desk tells them apart by their line"
    for one, line in reversed(bench.desk.held):
        bench.desk.reply(one, line)
    replies = [await client.receive() for _ in range(300)]
    assert [int.from_bytes(reply[4:8], "big") for reply in replies] == list(range(299, -1, -1))
    await client.close()
    await bench.close()


async def test_what_is_broken_closes_the_connection(tmp_path: Path) -> None:
    """As in RADIUS/1.0."""
    bench = await Bench(tmp_path).start()
    client = await bench.connect(alpn=["radius/1.1"])
    client.send(b"\x01\x00\x00\x16" + bytes(16) + b"\x01\x09")
    assert await client.closed()
    await client.close()
    await bench.close()
