"""``outposts/radius/wire.py``: vectors of the RFCs, conformance rows by number, round trips, pyrad as the witness."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyrad.dictionary import Dictionary
from pyrad.packet import AcctPacket, AuthPacket, CoAPacket

from outposts.radius import dictionary, wire
from outposts.radius.rfc import MAX_ATTRIBUTES, VENDOR_MICROSOFT, Attribute, Code, MicrosoftAttribute
from outposts.radius.wire import (
    Packet,
    PacketError,
    Signature,
    decode,
    encode_attributes,
    encode_reply,
    encode_request,
    hide_password,
    make_salts,
    message_authenticator,
    mppe_keys,
    reveal_password,
    salted,
    split_long,
    unsalted,
    verify_accounting,
    verify_reply,
    vsa,
)
from tests.radius.packets import AUTHENTICATOR, PAIRS, SECRET, SECRETS, VECTORS, flip, packet

ATTRIBUTES = st.lists(
    st.tuples(st.integers(1, 255).filter(lambda kind: kind not in (33, 80)), st.binary(max_size=253)), max_size=12
).filter(lambda rows: sum(len(value) + 2 for _, value in rows) < 4000)
SECRET_OCTETS = st.binary(min_size=1, max_size=100)
SIXTEEN = st.binary(min_size=16, max_size=16)
REQUEST_CODES = (1, 4, 12, 40, 43)
MSK = bytes(range(64))


def reason(octets: bytes) -> str:
    """Why a datagram is no packet."""
    with pytest.raises(PacketError) as caught:
        decode(octets)
    return caught.value.reason


# --- vectors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_of_the_rfcs_verify(name: str) -> None:
    """RFC 2865 §7, RFC 5997 §6 and our own: each reply proves the secret to its request, and to no other."""
    secret = SECRETS[f"{name}-request"]
    request = decode(VECTORS[f"{name}-request"])
    reply = verify_reply(VECTORS[f"{name}-reply"], request.authenticator, secret)
    assert reply.identifier == request.identifier
    with pytest.raises(PacketError, match="bad_authenticator"):
        verify_reply(VECTORS[f"{name}-reply"], request.authenticator, secret + b"x")


def test_passwords_of_rfc_2865() -> None:
    """§7.1 and §7.3: the passwords that the texts name."""
    for name, password in (("pap", b"arctangent"), ("first", b"challenge"), ("second", b"99101462")):
        request = decode(VECTORS[f"rfc2865-{name}-request"])
        hidden = request.first(Attribute.USER_PASSWORD)
        assert hidden is not None
        assert reveal_password(b"xyzzy5461", request.authenticator, hidden) == password
        assert hide_password(b"xyzzy5461", request.authenticator, password) == hidden


@pytest.mark.parametrize(("name", "secret"), [("rfc5997-auth", b"xyzzy5461"), ("rfc5997-acct", b"xyzzy5461")])
def test_status_server_of_rfc_5997(name: str, secret: bytes) -> None:
    """§6: the Message-Authenticators of both requests are right, and ours are the same octets."""
    octets = VECTORS[f"{name}-request"]
    request = decode(octets)
    assert request.code == Code.STATUS_SERVER
    assert message_authenticator(request, secret) is Signature.VALID
    assert encode_request(12, request.identifier, secret, (), authenticator=request.authenticator) == octets


def test_message_authenticator_is_hmac_md5() -> None:
    """The vectors of RFC 2104 and RFC 2202 §2, also for a key longer than a block."""
    for key, text, digest in (
        (b"\x0b" * 16, b"Hi There", "9294727a3638bb1c13f48ef8158bfc9d"),
        (b"Jefe", b"what do ya want for nothing?", "750c783e6ab0b503eaa86e310a5db738"),
        (b"\xaa" * 16, b"\xdd" * 50, "56be34521d144c88dbb8c733f0e8b3f6"),
        (b"\xaa" * 80, b"Test Using Larger Than Block-Size Key - Hash Key First", "6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd"),
    ):
        assert wire.keyed(key).hmac(text).hex() == digest


def test_r01_request_and_replies_are_the_recorded_octets() -> None:
    """The Access-Request, its Accept with Proxy-State and Reply-Message, and a Reject."""
    octets = encode_request(
        Code.ACCESS_REQUEST,
        7,
        SECRET,
        (
            (Attribute.USER_NAME, b"alice"),
            (Attribute.USER_PASSWORD, bytes.fromhex("e18167ae118f167b7e2207240014828b")),
            (Attribute.NAS_IP_ADDRESS, b"\x7f\0\0\1"),
        ),
        authenticator=AUTHENTICATOR,
    )
    assert octets == VECTORS["ours-pap-request"]
    assert hide_password(SECRET, AUTHENTICATOR, b"wonderland").hex() == "e18167ae118f167b7e2207240014828b"
    request = decode(octets)
    assert message_authenticator(request, SECRET) is Signature.VALID
    proxied = decode(packet(1, bytes.fromhex("21047078")))
    accept = encode_reply(proxied, SECRET, Code.ACCESS_ACCEPT, ((Attribute.REPLY_MESSAGE, b"hi"),))
    assert accept == VECTORS["ours-accept-reply"]
    assert encode_reply(request, SECRET, Code.ACCESS_REJECT, ()) == VECTORS["ours-reject-reply"]


def test_r60_status_server_and_its_reply_are_the_recorded_octets() -> None:
    """Code 12 in, code 2 out, both signed."""
    octets = VECTORS["ours-status-request"]
    assert encode_request(12, 9, SECRET, (), authenticator=AUTHENTICATOR) == octets
    assert encode_reply(decode(octets), SECRET, 2, ()) == VECTORS["ours-status-reply"]


def test_r09_accounting_is_the_recorded_octets() -> None:
    """Start and its reply; with a Message-Authenticator; one altered bit anywhere makes it false."""
    octets = VECTORS["ours-accounting-request"]
    rows = ((Attribute.ACCT_STATUS_TYPE, b"\0\0\0\1"), (Attribute.ACCT_SESSION_ID, b"s1"))
    assert encode_request(4, 3, SECRET, rows, sign=False) == octets
    assert encode_request(4, 3, SECRET, rows[:1]) == VECTORS["ours-signed-accounting-request"]
    request = decode(octets)
    assert verify_accounting(request, SECRET)
    assert encode_reply(request, SECRET, 5, ()) == VECTORS["ours-accounting-reply"]
    for bit in [*range(32, 160), *range(22 * 8, len(octets) * 8)]:
        assert not verify_accounting(decode_any(flip(octets, bit)), SECRET)
    signed = decode(VECTORS["ours-signed-accounting-request"])
    assert verify_accounting(signed, SECRET)
    assert message_authenticator(signed, SECRET) is Signature.VALID
    assert not verify_reply(encode_reply(signed, SECRET, 5, ()), signed.authenticator, SECRET).attributes
    watched = decode(VECTORS["ours-status-request"])
    assert verify_reply(encode_reply(watched, SECRET, 5, ()), AUTHENTICATOR, SECRET).attributes[0][0] == 80


def decode_any(octets: bytes) -> Packet:
    """A packet with these octets, whether or not its attributes hold."""
    try:
        return decode(octets)
    except PacketError:
        return Packet(octets[0], octets[1], octets[4:20], (), octets)


def test_mppe_keys_are_the_recorded_octets() -> None:
    """RFC 2548 §2.4: Recv is octets 0 to 31 of the MSK with the first salt, Send 32 to 63 with the second."""
    rows = mppe_keys(SECRET, AUTHENTICATOR, MSK, (b"\x80\x01", b"\x80\x02"))
    assert [encode_attributes([row]).hex() for row in rows] == [
        "1a3a000001371134800112a4054f091e203ec82fb961b9b618fd8f15c5905da6d786c76711ebfbf9b14b8303667ce1e1c225c3924927cd3f0bce",
        "1a3a0000013710348002376b1f1ccf3fb99415c8da91dbdf1f2ac02b3461f521235cb7ca907f17107960c81f4cd971bccba508012bf3a2a2ef59",
    ]


def test_eap_identity_travels_in_eap_message() -> None:
    """The EAP vectors, as RFC 3579 §3.1 carries them: split at 253 octets, joined in order."""
    identity = bytes.fromhex("0201000a01616c696365")
    request = decode(packet(1, encode_attributes(split_long(Attribute.EAP_MESSAGE, identity))))
    assert request.joined(Attribute.EAP_MESSAGE) == identity
    start = bytes.fromhex("010200060d20")
    assert split_long(Attribute.EAP_MESSAGE, start) == ((79, start),)


def test_r42_vlan_blob_keeps_order_and_octets() -> None:
    """The attributes of the core's blob, decoded and encoded again."""
    blob = packet(1, bytes.fromhex("40060000000d 410600000006 51043230"))
    assert encode_attributes(decode(blob).attributes) == bytes.fromhex("40060000000d410600000006 51043230")


# --- what is no packet ------------------------------------------------------------------------------------------------


def test_r31_sizes() -> None:
    """19 octets, Length 18, Length past the datagram, 5000 octets: nothing. Octets beyond Length are ignored."""
    good = VECTORS["ours-pap-request"]
    assert reason(good[:19]) == "too_short"
    assert reason(b"") == "too_short"
    assert reason(packet(1, length=18)) == "bad_length"
    assert reason(packet(1, length=19)) == "bad_length"
    assert reason(packet(1, length=21)) == "bad_length"
    assert reason(packet(1, b"\1\3x", length=65_535)) == "bad_length"
    assert reason(good + bytes(5000 - len(good))) == "too_long"
    assert decode(good + b"0123456789") == decode(good)
    largest = packet(1, *[b"\1\xff" + bytes(253)] * 15, b"\1\xfb" + bytes(249))
    assert len(largest) == 4096
    assert len(decode(largest).attributes) == 16


def test_r33_attribute_lengths() -> None:
    """Length 0, 1 and past the end are nothing, at every place; an empty value is a value."""
    name = b"\1\7alice"
    for bad in (b"\1\0", b"\1\1", b"\1", b"\1\3", b"\1\xff" + bytes(10), b"\1\0\0\0", b"\2\1\1\3x"):
        assert reason(packet(1, bad)) == "bad_attribute"
        assert reason(packet(1, name, bad)) == "bad_attribute"
    assert decode(packet(1, b"\1\2")).attributes == ((1, b""),)


def test_attributes_are_counted() -> None:
    """200 attributes are read, 201 are not."""
    assert len(decode(packet(1, b"\1\2" * MAX_ATTRIBUTES)).attributes) == MAX_ATTRIBUTES
    assert reason(packet(1, b"\1\2" * (MAX_ATTRIBUTES + 1))) == "too_many_attributes"


def test_repr_holds_no_value() -> None:
    """A packet in a log or traceback shows types only."""
    request = decode(VECTORS["ours-pap-request"])
    assert repr(request) == "Packet(code=1, identifier=7, types=[80, 1, 2, 4])"


# --- Message-Authenticator --------------------------------------------------------------------------------------------


def test_r03_r05_wrong_signatures_are_invalid() -> None:
    """One flipped bit anywhere, another secret, two of them, length 17, 16 and 18 octets of value: never valid."""
    octets = VECTORS["ours-pap-request"]
    assert message_authenticator(decode(octets), SECRET) is Signature.VALID
    assert message_authenticator(decode(octets), b"testing124") is Signature.INVALID
    for bit in range(len(octets) * 8):
        assert message_authenticator(decode_any(flip(octets, bit)), SECRET) is not Signature.VALID
    value = octets[22:38]
    rest = octets[38:]
    for damaged in (
        packet(1, b"\x50\x12" + value, b"\x50\x12" + value, rest),
        packet(1, b"\x50\x11" + value[:15], rest),
        packet(1, b"\x50\x10" + value[:14], rest),
        packet(1, b"\x50\x13" + value + b"\0", rest),
        packet(1, b"\x50\x02", rest),
    ):
        assert message_authenticator(decode(damaged), SECRET) is Signature.INVALID
    assert message_authenticator(decode(packet(1, rest)), SECRET) is Signature.ABSENT


@pytest.mark.parametrize("at", [0, 1])
def test_two_signatures_are_invalid_though_one_is_right(at: int) -> None:
    """Each of the two in turn is right for the octets of the whole packet: still two."""
    rows = [b"\x50\x12" + bytes(range(16)), b"\x50\x12" + bytes(range(16))]
    rows[at] = b"\x50\x12" + bytes(16)
    rows[at] = b"\x50\x12" + hmac.digest(SECRET, packet(1, *rows), "md5")
    assert message_authenticator(decode(packet(1, *rows)), SECRET) is Signature.INVALID


@pytest.mark.parametrize("size", [15, 17])
def test_signatures_of_another_size_are_invalid_though_their_octets_are_right(size: int) -> None:
    """The sixteen octets behind its length are the right ones, but the attribute ends before or after them."""
    head, tail = bytes((0x50, size + 2)), b"\3x" if size < 16 else b"x\1\3x"
    blank = packet(1, head, bytes(16), tail)
    octets = packet(1, head, hmac.digest(SECRET, blank, "md5"), tail)
    assert [len(value) for kind, value in decode(octets).attributes[:1] if kind == 80] == [size]
    assert message_authenticator(decode(octets), SECRET) is Signature.INVALID


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("code", REQUEST_CODES)
def test_signature_at_any_place(code: int, place: int) -> None:
    """RFC 3579 §3.2 with the Authenticator of each kind of request, wherever the attribute stands."""
    rows = [b"\1\3x", b"\4\6\1\2\3\4"]
    rows.insert(place, b"\x50\x12" + bytes(16))
    blank = packet(code, *rows)
    signed_over = blank if code in (1, 12) else blank[:4] + bytes(16) + blank[20:]
    rows[place] = b"\x50\x12" + hmac.digest(SECRET, signed_over, "md5")
    assert message_authenticator(decode(packet(code, *rows)), SECRET) is Signature.VALID


@pytest.mark.parametrize("code", [2, 3, 5, 11, 41, 42, 44, 45, 99, 0, 255])
def test_r34_no_other_code_is_a_request(code: int) -> None:
    """Whatever it carries, a reply's or unknown code is never authentic as a request."""
    octets = packet(code, b"\x50\x12" + bytes(16))
    for signed_over in (octets, octets[:4] + bytes(16) + octets[20:]):
        signed = packet(code, b"\x50\x12" + hmac.digest(SECRET, signed_over, "md5"))
        assert message_authenticator(decode(signed), SECRET) is Signature.INVALID
    right = octets[:4] + hashlib.md5(octets[:4] + bytes(16) + octets[20:] + SECRET).digest() + octets[20:]
    assert not verify_accounting(decode(right), SECRET)
    assert message_authenticator(decode(packet(code)), SECRET) is Signature.INVALID


def test_r06_secret_is_utf_8() -> None:
    """A secret with other letters signs and hides with its UTF-8 octets."""
    secret = "gehéim-пароль".encode()
    octets = encode_request(
        1, 1, secret, ((2, hide_password(secret, AUTHENTICATOR, b"pw")),), authenticator=AUTHENTICATOR
    )
    request = decode(octets)
    blank = octets[:22] + bytes(16) + octets[38:]
    assert octets[22:38] == hmac.digest(secret, blank, "md5")
    assert message_authenticator(request, secret) is Signature.VALID
    assert reveal_password(secret, AUTHENTICATOR, request.all(2)[0]) == b"pw"
    assert verify_reply(encode_reply(request, secret, 2, ()), AUTHENTICATOR, secret).code == 2


# --- replies ----------------------------------------------------------------------------------------------------------


def test_r07_proxy_state_comes_back_in_order() -> None:
    """All of them, unchanged, also empty ones, behind the Message-Authenticator and before the rest."""
    request = decode(packet(1, b"\x21\3b", b"\1\3x", b"\x21\3a", b"\x21\2"))
    reply = verify_reply(encode_reply(request, SECRET, 2, ((18, b"hi"),)), AUTHENTICATOR, SECRET)
    assert [kind for kind, _ in reply.attributes] == [80, 33, 33, 33, 18]
    assert reply.all(Attribute.PROXY_STATE) == [b"b", b"a", b""]


@pytest.mark.parametrize("code", [2, 3, 11, 41, 42, 44, 45])
def test_every_reply_is_signed_first(code: int) -> None:
    """Also to a peer that did not sign; the signature is over the Authenticator of the request."""
    for signed in (True, False):
        request = decode(encode_request(1, 5, SECRET, ((1, b"x"),), authenticator=AUTHENTICATOR, sign=signed))
        octets = encode_reply(request, SECRET, code, ((18, b"x"),))
        assert octets[20:22] == b"\x50\x12"
        blank = octets[:4] + AUTHENTICATOR + b"\x50\x12" + bytes(16) + octets[38:]
        assert octets[22:38] == hmac.digest(SECRET, blank, "md5")
        assert octets[4:20] == hashlib.md5(octets[:4] + AUTHENTICATOR + octets[20:] + SECRET).digest()


def test_reply_has_a_largest_size() -> None:
    """4096 octets are sent, one more is an error that says so."""
    request = decode(packet(1, b"\x21\x06aaaa"))
    fits = [(26, bytes(253))] * 15 + [(18, bytes(205 + 18 + 2))]
    spare = 4096 - 20 - 18 - 6 - 15 * 255 - 2
    fits[-1] = (18, bytes(spare))
    assert len(encode_reply(request, SECRET, 2, fits)) == 4096
    fits[-1] = (18, bytes(spare + 1))
    with pytest.raises(PacketError, match="too_large"):
        encode_reply(request, SECRET, 2, fits)
    with pytest.raises(PacketError, match="too_large"):
        encode_request(4, 1, SECRET, [(26, bytes(253))] * 16)


@pytest.mark.parametrize("row", [(80, bytes(16)), (33, b"x"), (1, bytes(254)), (256, b""), (-1, b"")])
def test_replies_refuse_what_is_not_theirs(row: tuple[int, bytes]) -> None:
    """A second signature, a Proxy-State of our own, a value or type that does not fit."""
    with pytest.raises(PacketError, match="bad_attribute"):
        encode_reply(decode(packet(1)), SECRET, 2, [row])


def test_requests_need_an_authenticator() -> None:
    """Random octets where the sender has to bring them, and none where they are computed."""
    for wrong in (None, b"", bytes(15), bytes(17)):
        with pytest.raises(PacketError, match="bad_authenticator"):
            encode_request(1, 1, SECRET, (), authenticator=wrong)
    with pytest.raises(PacketError, match="bad_attribute"):
        encode_request(4, 1, SECRET, ((80, bytes(16)),))
    assert verify_accounting(decode(encode_request(40, 1, SECRET, (), authenticator=bytes(16))), SECRET)


def test_reply_with_a_wrong_signature_is_refused() -> None:
    """Its Response Authenticator alone, which BlastRADIUS can forge, does not help."""
    request = decode(packet(1))
    octets = bytearray(encode_reply(request, SECRET, 2, ()))
    octets[22] ^= 1
    octets[4:20] = hashlib.md5(bytes(octets[:4]) + AUTHENTICATOR + bytes(octets[20:]) + SECRET).digest()
    with pytest.raises(PacketError, match="bad_message_authenticator"):
        verify_reply(bytes(octets), AUTHENTICATOR, SECRET)


# --- hidden values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 15, 17, 31, 129, 144])
def test_r35_password_sizes(size: int) -> None:
    """Only 16 to 128 octets, a multiple of 16, are a User-Password."""
    with pytest.raises(PacketError, match="malformed_password"):
        reveal_password(SECRET, AUTHENTICATOR, bytes(size))


def test_password_ends_at_its_first_nul() -> None:
    """Padding is no part of it; the longest is 128 octets; an empty one is a block of zeros."""
    assert reveal_password(SECRET, AUTHENTICATOR, hide_password(SECRET, AUTHENTICATOR, b"pw\0rest")) == b"pw"
    assert len(hide_password(SECRET, AUTHENTICATOR, b"")) == 16
    assert len(hide_password(SECRET, AUTHENTICATOR, bytes(128))) == 128
    with pytest.raises(PacketError, match="malformed_password"):
        hide_password(SECRET, AUTHENTICATOR, bytes(129))


def test_r36_another_secret_gives_noise_not_an_error() -> None:
    """What it means is for the caller to say."""
    hidden = hide_password(SECRET, AUTHENTICATOR, b"wonderland")
    assert reveal_password(b"another", AUTHENTICATOR, hidden) != b"wonderland"


@given(SECRET_OCTETS, SIXTEEN, st.binary(max_size=128).filter(lambda value: 0 not in value))
def test_passwords_come_back(secret: bytes, authenticator: bytes, password: bytes) -> None:
    """Hidden and revealed with one secret."""
    hidden = hide_password(secret, authenticator, password)
    assert reveal_password(secret, authenticator, hidden) == password


@given(SECRET_OCTETS, SIXTEEN, st.binary(min_size=4, max_size=4), st.binary(max_size=239))
def test_salted_values_come_back(secret: bytes, authenticator: bytes, random: bytes, value: bytes) -> None:
    """RFC 2548 §2.4.2 there and back, with salts that are marked and differ."""
    first, second = make_salts(random)
    assert first != second
    assert first[0] & second[0] & 0x80
    hidden = salted(secret, authenticator, first, value)
    assert hidden[:2] == first
    assert len(hidden) <= 253
    assert len(hidden) % 16 == 2
    assert unsalted(secret, authenticator, hidden) == value
    assert salted(secret, authenticator, second, value) != hidden


def test_salted_values_have_a_form() -> None:
    """Salt without its bit, values over 239 octets, and what was never made so."""
    for salt, value in ((b"\x7f\0", b""), (b"\x80", b""), (b"\x80\0\0", b""), (b"\x80\0", bytes(240))):
        with pytest.raises(PacketError, match="bad_attribute"):
            salted(SECRET, AUTHENTICATOR, salt, value)
    for octets in (b"", b"\x80\0", b"\x80\0x", b"\x80\0" + bytes(15)):
        with pytest.raises(PacketError, match="bad_attribute"):
            unsalted(SECRET, AUTHENTICATOR, octets)
    noise = [unsalted_or_none(bytes((0x80, salt)) + bytes(16)) for salt in range(256)]
    assert None in noise


def unsalted_or_none(octets: bytes) -> bytes | None:
    """The value, or None if its length octet cannot be."""
    try:
        return unsalted(SECRET, AUTHENTICATOR, octets)
    except PacketError:
        return None


def test_salts_that_collide_are_made_to_differ() -> None:
    """Equal random octets, and octets that differ only in the bit that is set."""
    for random in (bytes(4), b"\x80\0\0\0", b"\xff" * 4, b"\x12\x34\x92\x34"):
        first, second = make_salts(random)
        assert first != second
        assert first[0] & second[0] & 0x80


# --- attributes -------------------------------------------------------------------------------------------------------


def test_vendor_attributes_are_found() -> None:
    """Several in one Vendor-Specific, several Vendor-Specific, other vendors, and what has another format."""
    two = (311).to_bytes(4, "big") + b"\1\4ab" + b"\x19\3c" + b"\1\2"
    request = decode(
        packet(
            1,
            encode_attributes(
                [(26, two), vsa(9, 1, b"other"), vsa(311, 1, b"z"), (26, b"\0\0\1"), (26, b"\0\0\1\x37\1\xffx")]
            ),
        )
    )
    assert request.vendor(311, 1) == [b"ab", b"", b"z"]
    assert request.vendor(311, 25) == [b"c"]
    assert request.vendor(9, 1) == [b"other"]
    assert request.vendor(10, 1) == []
    with pytest.raises(PacketError, match="bad_attribute"):
        vsa(311, 1, bytes(248))


@given(st.integers(1, 255), st.binary(max_size=2000))
def test_long_values_are_split(kind: int, value: bytes) -> None:
    """In order, each at most 253 octets, only the last one shorter, none empty but of an empty value."""
    rows = split_long(kind, value)
    assert b"".join(octets for _, octets in rows) == value
    assert {found for found, _ in rows} == {kind}
    assert all(len(octets) == 253 for _, octets in rows[:-1])
    assert len(rows) == max(1, -(-len(value) // 253))


# --- round trips ------------------------------------------------------------------------------------------------------


@given(st.sampled_from(REQUEST_CODES), st.integers(0, 255), SECRET_OCTETS, ATTRIBUTES, SIXTEEN, st.binary(max_size=9))
def test_requests_come_back(
    code: int, identifier: int, secret: bytes, rows: list[tuple[int, bytes]], authenticator: bytes, padding: bytes
) -> None:
    """What a client encodes we decode, whole and with trailing octets, and it verifies for this secret only."""
    octets = encode_request(code, identifier, secret, rows, authenticator=authenticator)
    request = decode(octets + padding)
    assert request.octets == octets
    assert (request.code, request.identifier) == (code, identifier)
    assert list(request.attributes[1:]) == rows
    assert message_authenticator(request, secret) is Signature.VALID
    assert message_authenticator(request, secret + b"x") is Signature.INVALID
    assert verify_accounting(request, secret) == (code not in (1, 12))


@given(st.binary(min_size=1, max_size=70), ATTRIBUTES, st.sampled_from([2, 3, 11]), st.data())
def test_replies_come_back_or_are_refused(
    secret: bytes, rows: list[tuple[int, bytes]], code: int, data: st.DataObject
) -> None:
    """A reply verifies; with one bit changed it never does."""
    request = decode(packet(1))
    octets = encode_reply(request, secret, code, rows)
    reply = verify_reply(octets, request.authenticator, secret)
    assert list(reply.attributes[1:]) == rows
    damaged = flip(octets, data.draw(st.integers(0, len(octets) * 8 - 1)))
    with pytest.raises(PacketError):
        verify_reply(damaged, request.authenticator, secret)


@given(st.binary(max_size=200))
def test_noise_is_refused_or_read(noise: bytes) -> None:
    """Nothing but a packet or a PacketError, and what is read encodes to the same octets."""
    try:
        found = decode(noise)
    except PacketError:
        return
    assert encode_attributes(found.attributes) == found.octets[20:]


# --- pyrad, an independent witness ------------------------------------------------------------------------------------

NAMES = Dictionary(str(dictionary.FILE))


def test_pyrad_reads_our_requests() -> None:
    """Each kind of request, with password and signature."""
    octets = VECTORS["ours-pap-request"]
    theirs = AuthPacket(packet=octets, secret=SECRET, dict=NAMES)
    assert theirs.verify_message_authenticator()
    assert theirs["User-Name"] == ["alice"]
    assert theirs.PwDecrypt(theirs["User-Password"][0]) == "wonderland"
    start = encode_request(4, 3, SECRET, ((40, b"\0\0\0\1"), (44, b"s1")))
    accounting = AcctPacket(packet=start, secret=SECRET, dict=NAMES)
    assert accounting.VerifyAcctRequest()
    assert accounting.verify_message_authenticator()
    assert accounting["Acct-Status-Type"] == ["Start"]
    disconnect = encode_request(40, 3, SECRET, ((44, b"s1"),))
    changed = CoAPacket(packet=disconnect, secret=SECRET, dict=NAMES)
    assert changed.VerifyCoARequest()
    assert changed.verify_message_authenticator()


def test_pyrad_accepts_our_replies() -> None:
    """Accept with keys, vendor attributes and Proxy-State; enforced signature; keys come out as they went in."""
    theirs = AuthPacket(secret=SECRET, dict=NAMES, id=77, message_authenticator=True, User_Name="bob")
    theirs["User-Password"] = theirs.PwCrypt("pässword")
    theirs["Proxy-State"] = [b"one", b"two"]
    request = decode(theirs.RequestPacket())
    assert message_authenticator(request, SECRET) is Signature.VALID
    password = request.first(2)
    assert password is not None
    assert reveal_password(SECRET, request.authenticator, password).decode() == "pässword"
    names = dictionary.load()
    octets = encode_reply(
        request,
        SECRET,
        2,
        (
            *mppe_keys(SECRET, request.authenticator, MSK, make_salts(b"abcd")),
            names.attribute("Cisco-AVPair", "shell:priv-lvl=15"),
            names.attribute("Tunnel-Type", "VLAN", 1),
            names.attribute("Tunnel-Private-Group-Id", "20", 1),
            names.attribute("Framed-IPv6-Prefix", "2001:db8::/32"),
        ),
    )
    reply = theirs.CreateReply(packet=octets)
    assert theirs.VerifyReply(reply, octets, enforce_ma=True)
    reply.request_authenticator = theirs.authenticator
    assert reply["MS-MPPE-Recv-Key"] == [MSK[:32]]
    assert reply["MS-MPPE-Send-Key"] == [MSK[32:]]
    assert reply["Cisco-AVPair"] == ["shell:priv-lvl=15"]
    assert reply["Framed-IPv6-Prefix"] == ["2001:db8::/32"]
    assert reply["Proxy-State"] == [b"one", b"two"]
    octets = flip(octets, len(octets) * 8 - 1)
    assert not theirs.VerifyReply(theirs.CreateReply(packet=octets), octets, enforce_ma=True)


def test_pyrad_signs_accounting_and_changes_for_us() -> None:
    """Its Accounting- and CoA-Requests verify, and it accepts the replies."""
    for theirs, reply_code in (
        (AcctPacket(secret=SECRET, dict=NAMES, message_authenticator=True, Acct_Session_Id="s1"), 5),
        (AcctPacket(secret=SECRET, dict=NAMES, Acct_Session_Id="s1"), 5),
        (AcctPacket(code=12, secret=SECRET, dict=NAMES, authenticator=AUTHENTICATOR, message_authenticator=True), 5),
        (CoAPacket(secret=SECRET, dict=NAMES, message_authenticator=True, Acct_Session_Id="s1"), 44),
    ):
        request = decode(theirs.RequestPacket())
        assert verify_accounting(request, SECRET) or request.code == Code.STATUS_SERVER
        assert message_authenticator(request, SECRET) is not Signature.INVALID
        octets = encode_reply(request, SECRET, reply_code, ())
        assert theirs.VerifyReply(theirs.CreateReply(packet=octets), octets)


def test_pyrad_replies_verify_here() -> None:
    """As a client (for Disconnect) we take what an independent server signs, and read what it salts."""
    octets = VECTORS["ours-pap-request"]
    theirs = AuthPacket(packet=octets, secret=SECRET, dict=NAMES).CreateReply(message_authenticator=True)
    theirs.code = 2
    theirs["MS-MPPE-Send-Key"] = b"k" * 32
    theirs["Tunnel-Password"] = "tunnel secret"
    reply = verify_reply(theirs.ReplyPacket(), AUTHENTICATOR, SECRET)
    (key,) = reply.vendor(VENDOR_MICROSOFT, MicrosoftAttribute.MS_MPPE_SEND_KEY)
    assert unsalted(SECRET, AUTHENTICATOR, key) == b"k" * 32
    (tagged,) = reply.all(Attribute.TUNNEL_PASSWORD)
    assert unsalted(SECRET, AUTHENTICATOR, tagged[1:]) == b"tunnel secret"
