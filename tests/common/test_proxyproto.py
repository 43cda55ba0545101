"""PROXY headers: every row is read whole, byte by byte and with data behind it; damaged ones are refused."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import proxyproto
from common.proxyproto import Header, ProxyProtocolError, decode

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def v2(command: int, family: int, body: bytes) -> bytes:
    """A version 2 header."""
    return SIGNATURE + bytes([0x20 | command, family]) + struct.pack("!H", len(body)) + body


def inet(source: str, target: str, source_port: int, target_port: int) -> bytes:
    """Addresses of a version 2 header."""
    packed = ipaddress.ip_address(source).packed + ipaddress.ip_address(target).packed
    return packed + struct.pack("!HH", source_port, target_port)


# The first two lines are the examples of the format's own text (§2.1).
HEADERS = [
    (b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", "192.168.0.1", 56324),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255", 65535),
    (b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n", "2001:db8::1", 1),
    (b"PROXY TCP6 ::ffff:10.1.2.3 ::1 1 2\r\n", "10.1.2.3", 1),
    (b"PROXY UNKNOWN\r\n", None, 0),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None, 0),
    (v2(1, 0x11, inet("10.1.2.3", "10.0.0.1", 1234, 389)), "10.1.2.3", 1234),
    (v2(1, 0x21, inet("2001:db8::7", "::1", 1234, 389)), "2001:db8::7", 1234),
    (v2(1, 0x21, inet("::ffff:10.1.2.3", "::1", 9, 389)), "10.1.2.3", 9),
    (v2(1, 0x11, inet("10.1.2.3", "10.0.0.1", 1234, 389) + b"\x04\x00\x02ab"), "10.1.2.3", 1234),
    (v2(0, 0x00, b""), None, 0),
    (v2(0, 0x11, inet("10.1.2.3", "10.0.0.1", 1, 2)), None, 0),
    (v2(1, 0x31, bytes(216)), None, 0),
]


@pytest.mark.parametrize(("data", "address", "port"), HEADERS)
def test_headers(data: bytes, address: str | None, port: int) -> None:
    """Whole, cut at every place, and followed by the client's own bytes."""
    wanted = Header(len(data), address, port)
    assert decode(data) == wanted
    assert decode(data + b"0\x0c\x02\x01\x01") == wanted
    for cut in range(len(data)):
        assert proxyproto.plausible(data[:cut])
        assert decode(data[:cut]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"0\x0c\x02\x01\x01",
        b"\x16\x03\x01",
        b"GET / HTTP/1.1\r\n",
        b"PROXY TCP4 1.2.3.4\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 1\r\n",
        b"PROXY TCP4 ::1 ::1 1 1\r\n",
        b"PROXY TCP6 fe80::1%lo ::1 1 1\r\n",
        b"PROXY TCP4 1.2.3.4  1.2.3.4 1 1\r\n",
        b"PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n",
        b"PROXY " + b"x" * 102,
        SIGNATURE + b"\x11\x11\x00\x0c" + bytes(12),
        SIGNATURE + b"\x22\x11\x00\x0c" + bytes(12),
        v2(1, 0x11, bytes(11)),
        v2(1, 0x21, bytes(35)),
        SIGNATURE + b"\x21\x11\xff\xff",
    ],
)
def test_damaged_headers(data: bytes) -> None:
    """The one error, and nothing else."""
    with pytest.raises(ProxyProtocolError):
        decode(data)


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda tail: SIGNATURE + tail),
                 st.binary(max_size=120).map(lambda tail: b"PROXY TCP4 " + tail + b"\r\n")))  # fmt: skip
def test_three_answers_only(data: bytes) -> None:
    """A header, more bytes, or the error."""
    try:
        header = decode(data)
    except ProxyProtocolError:
        return
    assert header is None or 0 < header.size <= len(data)


@pytest.mark.parametrize(
    ("address", "plain"),
    [
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("::FFFF:0a01:0203", "10.1.2.3"),
        ("10.1.2.3", "10.1.2.3"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("unix", "unix"),
        ("a:b", "a:b"),
        ("", ""),
    ],
)
def test_c34_mapped_addresses_are_plain(address: str, plain: str) -> None:
    """A dual-stack socket's IPv4 peers are IPv4 everywhere else."""
    assert proxyproto.unmap(address) == plain


def test_trusted_peers() -> None:
    """By network, mapped addresses included; what is no address is never trusted."""
    networks = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fe80::/10")]
    assert proxyproto.trusted("10.1.2.3", networks)
    assert proxyproto.trusted("::ffff:10.1.2.3", networks)
    assert proxyproto.trusted("fe80::1%eth0", networks)
    assert not proxyproto.trusted("11.1.2.3", networks)
    assert not proxyproto.trusted("", networks)
    assert not proxyproto.trusted("10.1.2.3", [])
