"""EAP packets and fragments: vectors, every malformation, and round trips."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outposts.radius.eap import fragments, packet
from outposts.radius.eap.fragments import FragmentError, Incoming, Outgoing
from outposts.radius.eap.packet import EapCode, EapError, EapPacket, EapType


def test_vector_identity() -> None:
    """The vector of an Identity response, and the EAP-TLS start that follows it."""
    read = packet.decode_response(bytes.fromhex("0201000a01616c696365")[:10])
    assert read == EapPacket(2, 1, 1, b"alice")
    assert packet.encode(EapCode.REQUEST, 2, EapType.TLS, b"\x20") == bytes.fromhex("010200060d20")


def test_identity_request_vector() -> None:
    """An Identity request is five octets."""
    assert packet.encode(EapCode.REQUEST, 9, EapType.IDENTITY) == bytes.fromhex("0109000501")


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"", "eap_too_short"),
        (b"\x02", "eap_too_short"),
        (b"\x02\x01", "eap_too_short"),
        (b"\x02\x01\x00", "eap_too_short"),
        (b"\x02\x01\x00\x04", "eap_without_type"),
        (b"\x02\x01\x00\x03", "eap_length"),
        (b"\x02\x01\x00\x00\x01", "eap_length"),
        (b"\x02\x01\x00\x06\x01", "eap_length"),
        (b"\x02\x01\xff\xff\x01abc", "eap_length"),
        (b"\x01\x01\x00\x05\x01", "eap_code"),
        (b"\x03\x01\x00\x04", "eap_code"),
        (b"\x04\x01\x00\x04", "eap_code"),
        (b"\x05\x01\x00\x05\x01", "eap_code"),
        (b"\x00\x01\x00\x05\x01", "eap_code"),
    ],
)
def test_r44_malformed_packets_are_refused(octets: bytes, reason: str) -> None:
    """Packets of up to four octets, wrong lengths, and codes that no peer sends: each is named, none is read."""
    with pytest.raises(EapError) as caught:
        packet.decode_response(octets)
    assert caught.value.reason == reason


def test_r44_type_octet_only() -> None:
    """A response that is only its type has no data; that is a packet."""
    assert packet.decode_response(b"\x02\x01\x00\x05\x01") == EapPacket(2, 1, 1, b"")


def test_padding_is_ignored() -> None:
    """Octets beyond Length do not belong to the packet (RFC 3748 §4.1)."""
    assert packet.decode_response(b"\x02\x01\x00\x06\x01aPADDING").data == b"a"


@given(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=300), st.binary(max_size=9))
def test_packets_survive_a_round_trip(identifier: int, type: int, data: bytes, padding: bytes) -> None:
    """What is encoded is read back, with whatever padding."""
    octets = packet.encode(EapCode.RESPONSE, identifier, type, data)
    assert packet.decode_response(octets + padding) == EapPacket(2, identifier, type, data)


def test_too_long_to_encode() -> None:
    """A packet that the length field cannot say is not made."""
    with pytest.raises(EapError, match="eap_too_long"):
        packet.encode(1, 1, 1, bytes(65536))


@pytest.mark.parametrize(
    ("octets", "wanted"),
    [(b"", "04000004"), (b"\x02", "04000004"), (b"\x02\x09", "04090004"), (b"\2\7xyz", "04070004")],
)
def test_failure_for_anything(octets: bytes, wanted: str) -> None:
    """A Failure carries the identifier of what it answers, if there is one."""
    assert packet.failure_for(octets).hex() == wanted


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("alice", "alice"),
        ("alice@example.org", "alice"),
        ("a@b@example.org", "a@b"),
        ("EXAMPLE\\alice", "alice"),
        ("@example.org", ""),
        ("", ""),
    ],
)
def test_realms(name: str, wanted: str) -> None:
    """Both ways of writing a realm are cut off."""
    assert packet.without_realm(name) == wanted


@pytest.mark.parametrize(
    ("mtu", "size"), [(None, 1020), (1400, 1396), (1500, 1400), (9000, 1400), (600, 596), (100, 96), (64, 96), (0, 96)]
)
def test_packet_size(mtu: int | None, size: int) -> None:
    """Framed-MTU less four, between 96 and 1400; 1020 without."""
    assert fragments.packet_size(mtu) == size


def test_short_flight_is_one_packet_without_length() -> None:
    """What fits goes out whole, with no flag."""
    out = Outgoing(b"x" * 86, 96)
    assert out.next() == b"\0" + b"x" * 86
    assert out.done


def test_long_flight_is_cut() -> None:
    """The length is on the first fragment only, M on all but the last, and no packet is too long."""
    out = Outgoing(bytes(range(200)), 96)
    first, second, third = out.next(), out.next(), out.next()
    assert first[:5] == b"\xc0\0\0\0\xc8" and second[0] == 0x40 and third[0] == 0
    assert first[5:] + second[1:] + third[1:] == bytes(range(200))
    assert max(map(len, (first, second, third))) + 5 <= 96 and out.done


def test_empty_flight_is_an_acknowledgement() -> None:
    """Nothing to say is one octet of flags."""
    out = Outgoing(b"", 1020)
    assert out.next() == b"\0" and out.done


@given(st.binary(max_size=5000), st.integers(96, 1400))
def test_cut_and_joined_again(flight: bytes, size: int) -> None:
    """Whatever is cut for a packet size is the same when it is collected."""
    out, collected = Outgoing(flight, size), Incoming()
    while True:
        data = out.next()
        assert len(data) + 5 <= size
        whole = collected.add(fragments.decode(data))
        if out.done:
            assert whole == flight
            return
        assert whole is None


def _collected(*packets: bytes) -> bytes | None:
    incoming = Incoming()
    whole = None
    for data in packets:
        whole = incoming.add(fragments.decode(data))
    return whole


@pytest.mark.parametrize(
    "packets",
    [
        (b"\xc0\0\0\0\4ab", b"\0cd"),
        (b"\xc0\0\0\0\4ab", b"\x80\0\0\0\4cd"),
        (b"\x40ab", b"\0cd"),
        (b"\x40ab", b"\x80\0\0\0\4cd"),
        (b"\x80\0\0\0\4abcd",),
        (b"\0abcd",),
    ],
)
def test_length_may_be_anywhere(packets: tuple[bytes, ...]) -> None:
    """The length is taken on any fragment, on all, or on none."""
    assert _collected(*packets) == b"abcd"


@pytest.mark.parametrize(
    ("packets", "reason"),
    [
        ((b"",), "fragment_without_flags"),
        ((b"\x80",), "fragment_length"),
        ((b"\x80\0\0\0",), "fragment_length"),
        ((b"\x80\0\0\0\5abcd",), "flight_length"),
        ((b"\x80\0\0\0\3abcd",), "flight_too_long"),
        ((b"\xc0\0\0\0\4ab", b"\x80\0\0\0\5cd"), "flight_length_changed"),
        ((b"\xc0\0\0\0\4ab", b"\0c"), "flight_length"),
        ((b"\xc0\0\0\0\3ab", b"\x40cd"), "flight_too_long"),
        ((b"\xc0\0\1\0\1a",), "flight_too_long"),
        ((b"\xc0\xff\xff\xff\xffa",), "flight_too_long"),
        ((b"\x40",), "fragment_empty"),
        ((b"\xc0\0\0\0\4",), "fragment_empty"),
    ],
)
def test_fragments_that_break_the_rules(packets: tuple[bytes, ...], reason: str) -> None:
    """Each is refused by name."""
    with pytest.raises(FragmentError) as caught:
        _collected(*packets)
    assert caught.value.reason == reason


def test_flights_are_capped_without_a_length() -> None:
    """A peer that never says how much it will send is stopped at the cap."""
    incoming = Incoming()
    fragment = fragments.decode(b"\x40" + bytes(1024))
    for _ in range(fragments.MAX_FLIGHT // 1024):
        incoming.add(fragment)
    assert incoming.held == fragments.MAX_FLIGHT
    with pytest.raises(FragmentError, match="flight_too_long"):
        incoming.add(fragment)


def test_a_declared_length_holds_nothing() -> None:
    """64 KiB announced, ten octets sent: ten octets held."""
    incoming = Incoming()
    assert incoming.add(fragments.decode(b"\xc0\0\1\0\0" + b"x" * 10)) is None
    assert incoming.held == 10 and incoming.under_way
