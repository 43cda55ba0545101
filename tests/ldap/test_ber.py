"""The bounded reader and writer: what is legal, what is refused, and that nothing else ever happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outposts.ldap import ber
from outposts.ldap.ber import ProtocolError

CAP = 1000


@given(st.binary(max_size=300), st.integers(0, 3))
def test_element_round_trip_with_any_length_form(content: bytes, padding: int) -> None:
    """X.690 §8.1.3: minimal and non-minimal lengths mean the same."""
    size = len(content).to_bytes(2 + padding, "big")
    padded = bytes((0x04, 0x80 | len(size))) + size + content
    assert ber.octets(padded, 0, len(padded)) == (content, len(padded))
    minimal = ber.encode_octets(content)
    assert ber.octets(minimal, 0, len(minimal)) == (content, len(minimal))


@given(st.integers(-(2**63), 2**63 - 1))
def test_integer_round_trip(value: int) -> None:
    """Any integer of eight octets comes back."""
    encoded = ber.encode_integer(value)
    assert ber.integer(encoded, 0, len(encoded)) == (value, len(encoded))


def test_integer_is_minimal() -> None:
    """X.690 §8.3.2, at the edges."""
    assert ber.encode_integer(127).hex() == "02017f"
    assert ber.encode_integer(128).hex() == "02020080"
    assert ber.encode_integer(255).hex() == "020200ff"
    assert ber.encode_integer(256).hex() == "02020100"
    assert ber.encode_integer(-1).hex() == "0201ff"
    assert ber.encode_integer(-128).hex() == "020180"


@given(st.integers(0, 2**20))
def test_length_octets_are_minimal(size: int) -> None:
    """The writer never pads."""
    encoded = ber.length_of(size)
    if size < 0x80:
        assert encoded == bytes((size,))
    else:
        assert encoded[0] == 0x80 | (len(encoded) - 1)
        assert encoded[1] != 0
        assert int.from_bytes(encoded[1:], "big") == size


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("", "missing"),
        ("04", "missing"),
        ("0405616263", "longer"),
        ("0480", "indefinite"),
        ("048a0000000000000000000161", "length of length"),
        ("0482", "truncated"),
        ("1f0101", "multi-octet"),
        ("0201", "longer"),
    ],
)
def test_bad_headers(data: str, problem: str) -> None:
    """Each defect of a header has its own words."""
    octets = bytes.fromhex(data)
    with pytest.raises(ProtocolError, match=problem):
        ber.header(octets, 0, len(octets))


@pytest.mark.parametrize("data", ["0200", "0209000000000000000001", "040101"])
def test_bad_integers(data: str) -> None:
    """No octets, too many octets, another type."""
    octets = bytes.fromhex(data)
    with pytest.raises(ProtocolError):
        ber.integer(octets, 0, len(octets))


def test_boolean_is_one_octet() -> None:
    """Any octet but zero is true; two octets are no boolean."""
    assert ber.boolean(b"\x01\x01\x01", 0, 3) == (True, 3)
    assert ber.boolean(b"\x01\x01\x00", 0, 3) == (False, 3)
    with pytest.raises(ProtocolError):
        ber.boolean(b"\x01\x02\x00\x00", 0, 4)


def test_frame_waits_octet_by_octet() -> None:
    """0 until the header is complete, then the end, wherever the body stands."""
    message = b"\x30\x82\x01\x00" + bytes(256)
    assert [ber.frame_end(message[:size], 0, CAP) for size in range(4)] == [0, 0, 0, 0]
    assert ber.frame_end(message[:4], 0, CAP) == len(message)
    assert ber.frame_end(b"xx" + message, 2, CAP) == len(message) + 2


@pytest.mark.parametrize(
    "data",
    [
        "3088ffffffffffffffff",  # huge length
        "3084ffffffff",
        "308203e5",  # 997 octets: one more than the cap with its header
        "3080",  # indefinite
        "30897f",  # length of length
        "474554",  # "GET"
        "00",
    ],
)
def test_frame_refuses_before_anything_is_kept(data: str) -> None:
    """The declared length is compared with the cap as soon as it is there; not one octet of the body is needed."""
    with pytest.raises(ProtocolError):
        ber.frame_end(bytes.fromhex(data), 0, CAP)


def test_frame_refuses_a_long_length_at_its_first_octets() -> None:
    """A length that can only grow is refused while its last octets are still missing."""
    with pytest.raises(ProtocolError, match="too large"):
        ber.frame_end(bytes.fromhex("3084ffff"), 0, CAP)


def test_frame_takes_exactly_the_cap() -> None:
    """The cap counts the header."""
    assert ber.frame_end(bytes.fromhex("308203e4"), 0, CAP) == CAP


@given(st.binary(max_size=12), st.integers(1, 100))
def test_frame_has_three_answers(data: bytes, cap: int) -> None:
    """Need more, an end within the cap, or the protocol error."""
    try:
        end = ber.frame_end(data, 0, cap)
    except ProtocolError:
        return
    assert 0 <= end <= cap
