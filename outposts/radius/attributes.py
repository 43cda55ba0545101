"""What an Access-Accept says beside Message-Authenticator and Proxy-State: the core's attributes and ours.

The core sends attributes as base64 of a whole RADIUS packet, built by the provider's property mappings. They are copied
in their order, but for those that belong to the conversation and not to the user. Ours follow: the VLAN of a group
(RFC 3580 §3.31), Class, User-Name, Reply-Message; what the core says itself is not said a second time.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

from common.errors import OutpostError
from outposts.radius.rfc import (
    HEADER_SIZE,
    MAX_PACKET,
    MAX_VALUE,
    VENDOR_MICROSOFT,
    Attribute,
    MicrosoftAttribute,
)
from outposts.radius.wire import Attributes, Packet, PacketError, decode, vendor_attributes

NEVER_COPIED = frozenset(
    {
        Attribute.USER_PASSWORD,  # a request's
        Attribute.CHAP_PASSWORD,  # a request's
        Attribute.STATE,  # ours, one for each challenge
        Attribute.PROXY_STATE,  # the request's own come back
        Attribute.CHAP_CHALLENGE,  # a request's
        Attribute.EAP_MESSAGE,  # the EAP session's
        Attribute.MESSAGE_AUTHENTICATOR,  # the reply's own
    }
)
KEYS = frozenset({MicrosoftAttribute.MS_MPPE_SEND_KEY, MicrosoftAttribute.MS_MPPE_RECV_KEY})
TUNNEL = frozenset({Attribute.TUNNEL_TYPE, Attribute.TUNNEL_MEDIUM_TYPE, Attribute.TUNNEL_PRIVATE_GROUP_ID})

TUNNEL_VLAN = (13).to_bytes(4, "big")  # RFC 3580 §3.31; RFC 2868 §3.1: the first octet is a tag, 0 for none
MEDIUM_802 = (6).to_bytes(4, "big")  # RFC 2868 §3.2
MAX_TAG = 0x1F  # RFC 2868 §3.6: a first octet above this is no tag but text
SIGNATURE_SIZE = 18  # octets of a Message-Authenticator, which every reply has
CLASS_SIZE = 16  # octets of our Class: nobody guesses another login's


class AttributesError(OutpostError):
    """The Accept cannot be given. ``reason`` is the metric's label."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode_blob(text: str) -> Attributes:
    """The core's attributes. Raises ``AttributesError``: not base64, or not a RADIUS packet."""
    try:
        octets = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise AttributesError("attribute_decode_failed") from None
    try:
        return decode(octets).attributes
    except PacketError:
        raise AttributesError("attribute_parse_failed") from None


def room_for(request: Packet, reserved: int = 0) -> int:
    """Octets that a reply has for attributes. ``reserved``: what the caller adds by itself (EAP-Message)."""
    echoed = sum(len(value) + 2 for value in request.all(Attribute.PROXY_STATE))
    return MAX_PACKET - HEADER_SIZE - SIGNATURE_SIZE - echoed - reserved


def accept_attributes(
    blob: str | None,
    *,
    room: int,
    keys: Attributes = (),
    eap: bool = False,
    vlan: str | None = None,
    class_: bytes | None = None,
    user_name: str | None = None,
    reply_message: str = "",
) -> Attributes:
    """The attributes of an Accept, in order: ``keys``, the core's (``blob``, None for none), VLAN, Class, User-Name,
    Reply-Message.

    In EAP there is no Reply-Message, not even the core's (RFC 3579 §2.6.5). Raises ``AttributesError``: the blob is
    broken, or all does not fit into ``room`` octets.
    """
    copied = tuple(_copied(decode_blob(blob), with_keys=not keys, eap=eap)) if blob is not None else ()
    said = {kind for kind, _ in copied}
    found = [*keys, *copied]
    if vlan is not None and said.isdisjoint(TUNNEL):
        found += vlan_attributes(vlan)
    if class_ is not None:
        found.append((Attribute.CLASS, class_))
    if user_name is not None and Attribute.USER_NAME not in said:
        found += text_attributes(Attribute.USER_NAME, user_name)[:1]
    if reply_message and not eap and Attribute.REPLY_MESSAGE not in said:
        found += text_attributes(Attribute.REPLY_MESSAGE, reply_message)
    if sum(len(value) + 2 for _, value in found) > room:
        raise AttributesError("attributes_too_large")
    return tuple(found)


def _copied(attributes: Attributes, *, with_keys: bool, eap: bool) -> Iterable[tuple[int, bytes]]:
    for kind, value in attributes:
        if kind in NEVER_COPIED or (eap and kind == Attribute.REPLY_MESSAGE):
            continue
        if kind == Attribute.VENDOR_SPECIFIC and not with_keys:
            value = _without_keys(value)
            if not value:
                continue
        yield kind, value


def _without_keys(value: bytes) -> bytes:
    """A Vendor-Specific value without the keys that we give ourselves; empty if nothing is left."""
    vendor = value[:4]
    if vendor != VENDOR_MICROSOFT.to_bytes(4, "big"):
        return value
    inner = vendor_attributes(value)
    if not inner:  # not in the recommended format: all that shows is its first octet
        return b"" if value[4:5] and value[4] in KEYS else value
    kept = b"".join(bytes((kind, len(data) + 2)) + data for kind, data in inner if kind not in KEYS)
    return vendor + kept if kept else b""


def vlan_for(groups: Iterable[str], vlan_by_group: Iterable[tuple[str, str]]) -> str | None:
    """The VLAN of the first row whose group the user is in; a name counts as it is spelled in the core."""
    has = set(groups)
    return next((vlan for group, vlan in vlan_by_group if group in has), None)


def vlan_attributes(vlan: str) -> Attributes:
    """The three attributes that put a port into a VLAN (RFC 3580 §3.31), untagged. ``vlan`` is a number or a name.

    Raises ``AttributesError`` if it does not fit, or would be read as a tag.
    """
    value = vlan.encode()
    if not value or len(value) > MAX_VALUE or value[0] <= MAX_TAG:
        raise AttributesError("attribute_parse_failed")
    return (
        (Attribute.TUNNEL_TYPE, TUNNEL_VLAN),
        (Attribute.TUNNEL_MEDIUM_TYPE, MEDIUM_802),
        (Attribute.TUNNEL_PRIVATE_GROUP_ID, value),
    )


def text_attributes(kind: int, text: str) -> Attributes:
    """Text as one or more attributes of at most 253 octets, cut between characters (RFC 2865 §5: UTF-8)."""
    pieces: list[tuple[int, bytes]] = []
    left = text.encode()
    while left:
        end = min(len(left), MAX_VALUE)
        while end < len(left) and left[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append((kind, left[:end]))
        left = left[end:]
    return tuple(pieces)
