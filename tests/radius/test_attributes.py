"""Reply attributes: the core's blob, the VLAN of a group, and what is never copied (rows R39 to R42)."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyrad.dictionary import Dictionary
from pyrad.packet import Packet as PyradPacket

from outposts.radius import wire
from outposts.radius.attributes import (
    NEVER_COPIED,
    AttributesError,
    accept_attributes,
    decode_blob,
    room_for,
    text_attributes,
    vlan_attributes,
    vlan_for,
)
from outposts.radius.rfc import VENDOR_MICROSOFT, Attribute, Code
from outposts.radius.wire import Attributes
from tests import recorded

ROOM = 4000
VLAN_20 = bytes.fromhex("40060000000d41060000000651043230")
CISCO = b"\x00\x00\x00\x09\x01\x13shell:priv-lvl=15"


def packet(octets: bytes, *, code: int = 1) -> str:
    """A blob as the core builds it: a whole packet, its authenticator of no meaning."""
    head = bytes((code, 7)) + (20 + len(octets)).to_bytes(2, "big") + bytes(range(16))
    return base64.b64encode(head + octets).decode()


def blob(*attributes: tuple[int, bytes]) -> str:
    """A blob of attributes."""
    return packet(wire.encode_attributes(attributes))


def reason(action: Any) -> str:
    """The label of the refusal."""
    with pytest.raises(AttributesError) as caught:
        action()
    return caught.value.reason


def microsoft(*inner: tuple[int, bytes]) -> tuple[int, bytes]:
    """A Vendor-Specific attribute of Microsoft's with any number of attributes in it."""
    body = b"".join(bytes((kind, len(value) + 2)) + value for kind, value in inner)
    return 26, VENDOR_MICROSOFT.to_bytes(4, "big") + body


def test_recorded_blobs() -> None:
    """What a real core sent, in its order and octet for octet."""
    seen = {}
    for name in ("radius_good_login", "radius_no_mappings", "radius_broken_mapping"):
        for exchange in recorded.recording("flows", name)["exchanges"]:
            if "check_access" in exchange["request"]["path"]:
                seen[name] = accept_attributes(exchange["response"]["json"]["attributes"], room=ROOM)
    assert seen["radius_no_mappings"] == seen["radius_broken_mapping"] == ()
    assert seen["radius_good_login"] == (
        (18, b"hello alice"),
        (25, b"\x01\x02class"),
        (27, b"\x00\x00\x0e\x10"),
        (8, bytes((10, 1, 2, 3))),
        (26, CISCO),
    )


def test_r39_no_attributes() -> None:
    """Row R39: null is no attributes, and ours are still there; whether that is an Accept is the caller's business."""
    assert accept_attributes(None, room=ROOM) == ()
    assert accept_attributes(None, room=ROOM, class_=b"c" * 16) == ((25, b"c" * 16),)


@pytest.mark.parametrize("text", ["!!!", "AAA", "A", "é", "AQ==\n", " ", "AQ== AQ=="])
def test_r40_not_base64(text: str) -> None:
    """Row R40: refused, in PAP and EAP."""
    for eap in (False, True):
        assert reason(lambda eap=eap: accept_attributes(text, room=ROOM, eap=eap)) == "attribute_decode_failed"


def test_r40_not_a_packet() -> None:
    """Row R40: cut off, empty, a length that lies, an attribute that does not fit."""
    whole = base64.b64decode(blob((18, b"hello")))
    for size in range(len(whole)):
        cut = base64.b64encode(whole[:size]).decode()
        assert reason(lambda cut=cut: accept_attributes(cut, room=ROOM)) == "attribute_parse_failed"
    for octets in (b"\x12\x00", b"\x12\x01", b"\x12", b"\x12\x09ab"):
        assert reason(lambda octets=octets: decode_blob(packet(octets))) == "attribute_parse_failed"
    lying = base64.b64encode(whole[:2] + b"\x00\x13" + whole[4:]).decode()
    assert reason(lambda: decode_blob(lying)) == "attribute_parse_failed"


def test_r41_never_copied() -> None:
    """Row R41: of 79, 80, 24, 33 and 18 only 18 arrives."""
    text = blob((79, b"\x02\x01\x00\x04"), (80, bytes(16)), (24, b"state"), (33, b"px"), (18, b"hello"))
    assert accept_attributes(text, room=ROOM) == ((18, b"hello"),)
    every = blob(*((int(kind), b"\x00" * 16) for kind in NEVER_COPIED))
    assert accept_attributes(every, room=ROOM) == ()
    assert {int(kind) for kind in NEVER_COPIED} == {2, 3, 24, 33, 60, 79, 80}


def test_r42_vlan_in_order() -> None:
    """Row R42: the vector, octet for octet."""
    found = accept_attributes(packet(VLAN_20), room=ROOM)
    assert wire.encode_attributes(found) == VLAN_20


def test_repeated_attributes_are_kept_in_order() -> None:
    """Order and number carry meaning, as with filters."""
    rows = ((11, b"one"), (26, CISCO), (11, b"two"), (11, b"one"))
    assert accept_attributes(blob(*rows), room=ROOM) == rows


def test_keys() -> None:
    """Ours come first and once; without ours the core's stay."""
    ours: Attributes = (microsoft((17, b"k" * 50)), microsoft((16, b"k" * 50)))
    other = microsoft((7, b"\x00\x00\x00\x02"))
    mixed = microsoft((16, b"x" * 50), (7, b"\x00\x00\x00\x02"), (17, b"x" * 50))
    broken = (26, VENDOR_MICROSOFT.to_bytes(4, "big") + b"\x10\xff\x00")
    odd = (26, VENDOR_MICROSOFT.to_bytes(4, "big"))
    text = blob(microsoft((16, b"x" * 50)), other, mixed, broken, odd, (26, b"\x00"), (26, CISCO))
    assert accept_attributes(text, room=ROOM, keys=ours) == (*ours, other, other, odd, (26, b"\x00"), (26, CISCO))
    assert accept_attributes(text, room=ROOM) == decode_blob(text)


def test_room() -> None:
    """Too many octets are a refusal with a label of its own; the last octet that fits, fits."""
    text = blob(*[(18, b"x" * 253)] * 4)
    assert len(accept_attributes(text, room=4 * 255)) == 4
    assert reason(lambda: accept_attributes(text, room=4 * 255 - 1)) == "attributes_too_large"
    assert reason(lambda: accept_attributes(text, room=4 * 255, class_=b"c" * 16)) == "attributes_too_large"


@pytest.mark.parametrize("states", [(), (b"px",), (b"a", b"b" * 253)])
@pytest.mark.parametrize("reserved", [0, 6])
def test_room_is_what_a_reply_has(states: tuple[bytes, ...], reserved: int) -> None:
    """Filled to the last octet a reply can be encoded, and no further."""
    request = wire.decode(wire.encode_request(1, 1, b"s", [(33, state) for state in states], authenticator=bytes(16)))
    left = room_for(request, reserved) + reserved
    filled: list[tuple[int, bytes]] = []
    while left > 0:
        size = min(left, 255) if left - 255 != 1 else 254
        filled.append((18, b"x" * (size - 2)))
        left -= size
    assert len(wire.encode_reply(request, b"s", Code.ACCESS_ACCEPT, filled)) == 4096
    with pytest.raises(wire.PacketError):
        wire.encode_reply(request, b"s", Code.ACCESS_ACCEPT, [*filled, (18, b"")])


def test_eap_has_no_reply_message() -> None:
    """RFC 3579 §2.6.5: neither the core's nor ours."""
    found = accept_attributes(blob((18, b"hello"), (27, b"\x00\x00\x00\x01")), room=ROOM, eap=True, reply_message="hi")
    assert found == ((27, b"\x00\x00\x00\x01"),)


def test_ours_follow_the_cores() -> None:
    """VLAN, Class, User-Name, Reply-Message, in this order."""
    found = accept_attributes(
        blob((27, b"\x00\x00\x00\x01")),
        room=ROOM,
        vlan="20",
        class_=b"c" * 16,
        user_name="álice",
        reply_message="Welcome",
    )
    assert wire.encode_attributes(found[1:4]) == VLAN_20
    assert found[4:] == ((25, b"c" * 16), (1, "álice".encode()), (18, b"Welcome"))


def test_the_core_has_the_first_word() -> None:
    """What a mapping says is not said a second time; only Class may be there twice."""
    theirs = (*decode_blob(packet(VLAN_20)), (25, b"x"), (1, b"theirs"), (18, b"theirs"))
    found = accept_attributes(
        blob(*theirs), room=ROOM, vlan="30", class_=b"c" * 16, user_name="ours", reply_message="ours"
    )
    assert found == (*theirs, (25, b"c" * 16))
    assert accept_attributes(blob((81, b"40")), room=ROOM, vlan="30") == ((81, b"40"),)


def test_vlan_of_a_group() -> None:
    """The first row that fits, by the name as it is spelled; none is none."""
    rows = (("admins", "10"), ("staff", "20"))
    assert vlan_for(("staff", "admins"), rows) == "10"
    assert vlan_for(("staff",), rows) == "20"
    assert vlan_for(("Staff", "guests"), rows) is None
    assert vlan_for((), rows) is None
    assert vlan_for(("staff",), ()) is None


def test_vlan_attributes() -> None:
    """The three of RFC 3580 §3.31, untagged; a name is as good as a number; what would be a tag is refused."""
    assert wire.encode_attributes(vlan_attributes("20")) == VLAN_20
    assert vlan_attributes("guests")[2] == (81, b"guests")
    for bad in ("", "\x01x", "x" * 254):
        assert reason(lambda bad=bad: vlan_attributes(bad)) == "attribute_parse_failed"


def test_an_independent_client_reads_the_vlan() -> None:
    """pyrad decodes what we send."""
    words = "\n".join(
        (
            "ATTRIBUTE Tunnel-Type 64 integer has_tag",
            "ATTRIBUTE Tunnel-Medium-Type 65 integer has_tag",
            "ATTRIBUTE Tunnel-Private-Group-Id 81 string has_tag",
        )
    )
    request = wire.decode(wire.encode_request(1, 1, b"s", [], authenticator=bytes(16)))
    reply = wire.encode_reply(request, b"s", Code.ACCESS_ACCEPT, vlan_attributes("20"))
    read = PyradPacket(dict=Dictionary(io.StringIO(words)), secret=b"s", packet=reply)
    assert read[81] == [b"20"]
    assert read[64] == [b"\x00\x00\x00\x0d"]
    assert read[65] == [b"\x00\x00\x00\x06"]


@given(text=st.text(max_size=700))
@example(text="ü" * 127)
@example(text="x" + "€" * 300)
@example(text="xy" + "😀" * 300)
def test_text_in_pieces(text: str) -> None:
    """Nothing is lost, no piece is too long or empty, and each is whole characters."""
    pieces = text_attributes(18, text)
    assert b"".join(value for _, value in pieces) == text.encode()
    for _, value in pieces:
        assert 1 <= len(value) <= 253
        value.decode()


@given(octets=st.binary(max_size=200))
def test_any_blob(octets: bytes) -> None:
    """Whatever the core sends: attributes, or the one error."""
    for text in (base64.b64encode(octets).decode(), packet(octets), octets.decode("latin-1")):
        try:
            found = accept_attributes(text, room=ROOM, keys=(microsoft((17, b"k" * 50)),))
        except AttributesError:
            continue
        assert not {kind for kind, _ in found} & {int(kind) for kind in NEVER_COPIED}
        wire.encode_attributes(found)
        assert sum(b"\x00\x00\x01\x37\x11" in value[:5] for _, value in found) == 1


def test_names() -> None:
    """The numbers of RFC 2868."""
    assert [int(kind) for kind, _ in vlan_attributes("1")] == [64, 65, 81]
    assert Attribute.REPLY_MESSAGE == 18
