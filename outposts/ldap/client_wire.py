"""Bytes ↔ typed LDAP messages, the client's side: requests are encoded, responses decoded (RFC 4511 §4).

The doctor and the tests speak to servers through this; together with :mod:`wire` the codec is symmetric.
"""

from __future__ import annotations

from outposts.ldap import filters
from outposts.ldap.ber import (
    ProtocolError,
    encode_boolean,
    encode_enumerated,
    encode_integer,
    encode_octets,
    expect,
    header,
    integer,
    octets,
    sequence,
    skip_rest,
    tlv,
)
from outposts.ldap.messages import (
    AbandonRequest,
    AddRequest,
    Attribute,
    BindRequest,
    BindResponse,
    CompareRequest,
    Control,
    DeleteRequest,
    ExtendedRequest,
    ExtendedResponse,
    IntermediateResponse,
    ModifyDNRequest,
    ModifyRequest,
    Request,
    Response,
    Result,
    Sasl,
    SearchEntry,
    SearchReference,
    SearchRequest,
    Simple,
    UnbindRequest,
)
from outposts.ldap.rfc import (
    AUTH_SASL,
    AUTH_SIMPLE,
    ENUMERATED,
    MAX_INT,
    REFERRAL_TAG,
    RESPONSE_TAG,
    SEQUENCE,
    SET,
    Tag,
)
from outposts.ldap.wire import decode_controls, encode_attribute, encode_controls, octet_strings

_RESULT_TAGS = frozenset(int(tag) for tag in RESPONSE_TAG.values()) - {Tag.BIND_RESPONSE, Tag.EXTENDED_RESPONSE}


# --- requests out -----------------------------------------------------------------------------------------------------


def encode_request(message: Request) -> bytes:
    """Encode any request. :class:`UnknownRequest` and unknown authentication become an empty element of that tag."""
    return sequence(encode_integer(message.message_id), _operation(message), encode_controls(message.controls))


def _operation(message: Request) -> bytes:
    if isinstance(message, SearchRequest):
        return tlv(Tag.SEARCH_REQUEST, _search(message))
    if isinstance(message, BindRequest):
        return tlv(Tag.BIND_REQUEST, _bind(message))
    if isinstance(message, UnbindRequest):
        return tlv(Tag.UNBIND_REQUEST, b"")
    if isinstance(message, AbandonRequest):
        return encode_integer(message.abandoned_id, Tag.ABANDON_REQUEST)
    if isinstance(message, ExtendedRequest):
        content = tlv(0x80, message.oid.encode("latin-1", "replace"))
        if message.value is not None:
            content += tlv(0x81, message.value)
        return tlv(Tag.EXTENDED_REQUEST, content)
    if isinstance(message, CompareRequest):
        assertion = sequence(encode_octets(message.attribute), encode_octets(message.value))
        return tlv(Tag.COMPARE_REQUEST, encode_octets(message.name) + assertion)
    if isinstance(message, DeleteRequest):
        return tlv(Tag.DELETE_REQUEST, message.name)
    if isinstance(message, AddRequest):
        items = sequence(*(encode_attribute(item.description, item.values) for item in message.attributes))
        return tlv(Tag.ADD_REQUEST, encode_octets(message.name) + items)
    if isinstance(message, ModifyRequest):
        changes = [
            sequence(
                encode_enumerated(change.operation),
                encode_attribute(change.attribute.description, change.attribute.values),
            )
            for change in message.changes
        ]
        return tlv(Tag.MODIFY_REQUEST, encode_octets(message.name) + sequence(*changes))
    if isinstance(message, ModifyDNRequest):
        content = encode_octets(message.name) + encode_octets(message.new_rdn) + encode_boolean(message.delete_old_rdn)
        if message.new_superior is not None:
            content += tlv(0x80, message.new_superior)
        return tlv(Tag.MODIFY_DN_REQUEST, content)
    return tlv(message.tag, b"")


def _search(message: SearchRequest) -> bytes:
    return b"".join(
        (
            encode_octets(message.base),
            encode_enumerated(message.scope),
            encode_enumerated(message.deref),
            encode_integer(message.size_limit),
            encode_integer(message.time_limit),
            encode_boolean(message.types_only),
            filters.encode(message.filter),
            sequence(*(encode_octets(attribute) for attribute in message.attributes)),
        )
    )


def _bind(message: BindRequest) -> bytes:
    choice = message.authentication
    if isinstance(choice, Simple):
        encoded = tlv(AUTH_SIMPLE, choice.password)
    elif isinstance(choice, Sasl):
        content = encode_octets(choice.mechanism.encode("latin-1", "replace"))
        if choice.credentials is not None:
            content += encode_octets(choice.credentials)
        encoded = tlv(AUTH_SASL, content)
    else:
        encoded = tlv(choice.tag, b"")
    return encode_integer(message.version) + encode_octets(message.name) + encoded


# --- responses in -----------------------------------------------------------------------------------------------------


def decode_response(data: bytes, start: int = 0, end: int | None = None) -> Response:
    """Decode the one message that fills ``data[start:end]``. Raises :class:`ProtocolError` and nothing else."""
    if end is None:
        end = len(data)
    position, stop = expect(data, start, end, SEQUENCE)
    if stop != end:
        raise ProtocolError("octets behind the message")
    message_id, position = integer(data, position, end)
    if not 0 <= message_id <= MAX_INT:
        raise ProtocolError("message id out of range")
    tag, body, behind = header(data, position, end)
    controls = decode_controls(data, behind, end)
    if tag == Tag.SEARCH_ENTRY:
        return _entry(data, body, behind, message_id, controls)
    if tag == Tag.SEARCH_REFERENCE:
        return SearchReference(message_id, octet_strings(data, body, behind), controls)
    if tag == Tag.INTERMEDIATE_RESPONSE:
        oid, value, at = _named_value(data, body, behind, 0x80, 0x81)
        skip_rest(data, at, behind)
        return IntermediateResponse(message_id, oid, value, controls)
    if tag not in _RESULT_TAGS and tag not in (Tag.BIND_RESPONSE, Tag.EXTENDED_RESPONSE):
        raise ProtocolError("not a response")
    code, at = integer(data, body, behind, ENUMERATED)
    matched, at = octets(data, at, behind)
    diagnostic, at = octets(data, at, behind)
    text = diagnostic.decode("utf-8", "replace")
    referrals: tuple[bytes, ...] = ()
    if at < behind and data[at] == REFERRAL_TAG:
        first, at = expect(data, at, behind, REFERRAL_TAG)
        referrals = octet_strings(data, first, at)
    if tag == Tag.BIND_RESPONSE:
        credentials: bytes | None = None
        if at < behind and data[at] == 0x87:
            credentials, at = octets(data, at, behind, 0x87)
        skip_rest(data, at, behind)
        return BindResponse(message_id, code, matched, text, referrals, credentials, controls)
    if tag == Tag.EXTENDED_RESPONSE:
        oid, value, at = _named_value(data, at, behind, 0x8A, 0x8B)
        skip_rest(data, at, behind)
        return ExtendedResponse(message_id, code, matched, text, referrals, oid, value, controls)
    skip_rest(data, at, behind)
    return Result(message_id, tag, code, matched, text, referrals, controls)


def _named_value(
    data: bytes, position: int, end: int, name_tag: int, value_tag: int
) -> tuple[str | None, bytes | None, int]:
    """Optional name and value of extended and intermediate responses."""
    name: bytes | None = None
    value: bytes | None = None
    if position < end and data[position] == name_tag:
        name, position = octets(data, position, end, name_tag)
    if position < end and data[position] == value_tag:
        value, position = octets(data, position, end, value_tag)
    return None if name is None else name.decode("latin-1"), value, position


def _entry(data: bytes, position: int, end: int, message_id: int, controls: tuple[Control, ...]) -> SearchEntry:
    name, position = octets(data, position, end)
    at, stop = expect(data, position, end, SEQUENCE)
    skip_rest(data, stop, end)
    found: list[Attribute] = []
    while at < stop:
        start, behind = expect(data, at, stop, SEQUENCE)
        description, start = octets(data, start, behind)
        first, last = expect(data, start, behind, SET)
        skip_rest(data, last, behind)
        found.append(Attribute(description, octet_strings(data, first, last)))
        at = behind
    return SearchEntry(message_id, name, tuple(found), controls)
