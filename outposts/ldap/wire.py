"""Bytes ↔ typed LDAP messages, the server's side: requests are decoded, responses encoded (RFC 4511 §4, §5.1).

:func:`decode_request` takes exactly one message (``ber.frame_end`` finds where it ends) and gives one value of
:data:`Request` or raises :class:`ProtocolError`, never anything else. The client's side is :mod:`client_wire`; the
message classes live in :mod:`messages` and are named here again.

A search answer is not built from attribute objects: the directory keeps each entry as finished octets, and
:func:`entry_header` gives the few octets that go in front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from outposts.ldap import filters
from outposts.ldap.ber import (
    ProtocolError,
    boolean,
    encode_enumerated,
    encode_integer,
    encode_octets,
    expect,
    header,
    integer,
    integer_content,
    length_of,
    octets,
    sequence,
    skip_rest,
    tlv,
)
from outposts.ldap.filters import Filter
from outposts.ldap.messages import (
    AbandonRequest,
    AddRequest,
    Attribute,
    Authentication,
    BindRequest,
    BindResponse,
    Change,
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
    UnknownAuthentication,
    UnknownRequest,
)
from outposts.ldap.rfc import (
    AUTH_SASL,
    AUTH_SIMPLE,
    BOOLEAN,
    CONTROLS,
    ENUMERATED,
    INTEGER,
    MAX_INT,
    OCTET_STRING,
    REFERRAL_TAG,
    RESPONSE_TAG,
    SEQUENCE,
    SET,
    Extension,
    ResultCode,
    Scope,
    Tag,
)

__all__ = [
    "AbandonRequest",
    "AddRequest",
    "Attribute",
    "Authentication",
    "BindRequest",
    "BindResponse",
    "Change",
    "CompareRequest",
    "Control",
    "DeleteRequest",
    "ExtendedRequest",
    "ExtendedResponse",
    "Filter",
    "IntermediateResponse",
    "ModifyDNRequest",
    "ModifyRequest",
    "ProtocolError",
    "Request",
    "Response",
    "Result",
    "Sasl",
    "SearchEntry",
    "SearchReference",
    "SearchRequest",
    "Simple",
    "UnbindRequest",
    "UnknownAuthentication",
    "UnknownRequest",
    "decode_controls",
    "decode_request",
    "encode_attribute",
    "encode_bind_response",
    "encode_controls",
    "encode_extended_response",
    "encode_intermediate_response",
    "encode_notice_of_disconnection",
    "encode_refusal",
    "encode_response",
    "encode_result",
    "encode_search_entry",
    "encode_search_reference",
    "entry_header",
    "entry_headers",
    "octet_strings",
]

MAX_CONTROLS: Final = 32
"""Controls on one message. Clients in the field send up to 4; each costs a look-up."""


# --- requests in ------------------------------------------------------------------------------------------------------


def decode_request(
    data: bytes, start: int = 0, end: int | None = None, *, max_nesting: int = filters.MAX_NESTING
) -> Request:
    """Decode the one message that fills ``data[start:end]``. Raises :class:`ProtocolError` and nothing else.

    Octets behind the message are an error here: framing is the caller's work (:func:`ber.frame_end`).
    """
    if end is None:
        end = len(data)
    message_id: int | None = None
    tag: int | None = None
    try:
        position, stop = expect(data, start, end, SEQUENCE)
        if stop != end:
            raise ProtocolError("octets behind the message")
        message_id, position = integer(data, position, end)
        if not 0 <= message_id <= MAX_INT:
            message_id = None
            raise ProtocolError("message id out of range")
        tag, body, behind = header(data, position, end)
        controls = () if behind == end else decode_controls(data, behind, end)
        reader = _READERS.get(tag)
        if reader is None:
            return UnknownRequest(message_id, tag, controls)
        return reader(data, body, behind, message_id, controls, max_nesting)
    except ProtocolError as error:
        if error.message_id is None:
            error.message_id = message_id
            error.request_tag = tag
        raise


def decode_controls(data: bytes, position: int, end: int) -> tuple[Control, ...]:
    """Controls of a message (§4.1.11) and whatever unknown elements follow the operation."""
    while position < end:
        tag, start, stop = header(data, position, end)
        position = stop
        if tag == CONTROLS:
            skip_rest(data, stop, end)
            return _control_list(data, start, stop)
    return ()


def _control_list(data: bytes, position: int, end: int) -> tuple[Control, ...]:
    found: list[Control] = []
    while position < end:
        if len(found) == MAX_CONTROLS:
            raise ProtocolError("too many controls")
        at, stop = expect(data, position, end, SEQUENCE)
        position = stop
        oid, at = octets(data, at, stop)
        critical = False
        value: bytes | None = None
        if at < stop and data[at] == BOOLEAN:
            critical, at = boolean(data, at, stop)
        if at < stop and data[at] == OCTET_STRING:
            value, at = octets(data, at, stop)
        skip_rest(data, at, stop)
        found.append(Control(oid.decode("latin-1"), critical, value))
    return tuple(found)


def _bind(
    data: bytes, position: int, end: int, message_id: int, controls: tuple[Control, ...], max_nesting: int
) -> Request:
    """§4.2: version, name, authentication choice."""
    version, position = integer(data, position, end)
    name, position = octets(data, position, end)
    tag, start, stop = header(data, position, end)
    authentication: Authentication
    if tag == AUTH_SIMPLE:
        authentication = Simple(data[start:stop])
    elif tag == AUTH_SASL:
        mechanism, at = octets(data, start, stop)
        credentials: bytes | None = None
        if at < stop and data[at] == OCTET_STRING:
            credentials, at = octets(data, at, stop)
        skip_rest(data, at, stop)
        authentication = Sasl(mechanism.decode("latin-1"), credentials)
    elif tag & 0xC0 == 0x80:
        authentication = UnknownAuthentication(tag)
    else:
        raise ProtocolError("not an authentication choice")
    skip_rest(data, stop, end)
    return BindRequest(message_id, version, name, authentication, controls)


def _unbind(
    data: bytes, position: int, end: int, message_id: int, controls: tuple[Control, ...], max_nesting: int
) -> Request:
    """§4.3: NULL."""
    if position != end:
        raise ProtocolError("unbind request with content")
    return UnbindRequest(message_id, controls)


def _search(
    data: bytes, position: int, end: int, message_id: int, controls: tuple[Control, ...], max_nesting: int
) -> Request:
    """§4.5.1. The hottest reader: the usual short forms are read in place, anything else takes the general way."""
    # baseObject
    base_start, at = expect(data, position, end, OCTET_STRING)
    base = data[base_start:at]
    # scope, derefAliases: 0A 01 xx 0A 01 xx
    if data[at : at + 2] == b"\x0a\x01" and data[at + 3 : at + 5] == b"\x0a\x01" and at + 6 <= end:
        scope = data[at + 2]
        deref = data[at + 5]
        at += 6
    else:
        scope, at = integer(data, at, end, ENUMERATED)
        deref, at = integer(data, at, end, ENUMERATED)
    # sizeLimit, timeLimit, typesOnly: 02 01 xx 02 01 xx 01 01 xx
    if data[at : at + 2] == b"\x02\x01" and data[at + 3 : at + 5] == b"\x02\x01" and at + 6 <= end:
        size_limit = data[at + 2]
        time_limit = data[at + 5]
        at += 6
        if size_limit > 127 or time_limit > 127:  # one octet with the sign bit: negative
            raise ProtocolError("limit out of range", fatal=False)
    else:
        size_limit, at = integer(data, at, end, INTEGER)
        time_limit, at = integer(data, at, end, INTEGER)
        if not (0 <= size_limit <= MAX_INT and 0 <= time_limit <= MAX_INT):
            raise ProtocolError("limit out of range", fatal=False)
    types_only, at = boolean(data, at, end)
    try:
        tree, at = filters.decode(data, at, end, max_nesting)
    except ProtocolError as error:
        if not error.fatal:
            _attributes_follow(data, at, end)
        raise
    # attributes
    attributes_start, behind = expect(data, at, end, SEQUENCE)
    attributes: tuple[bytes, ...] = ()
    if attributes_start != behind:
        attributes = octet_strings(data, attributes_start, behind)
    if behind != end:
        skip_rest(data, behind, end)
    if scope > Scope.CHILDREN or scope < 0:
        raise ProtocolError("unknown scope", fatal=False)
    if deref > 3 or deref < 0:
        raise ProtocolError("unknown value of derefAliases", fatal=False)
    return SearchRequest(
        message_id,
        base,
        scope,
        deref,
        size_limit,
        time_limit,
        types_only,
        tree,
        attributes,
        controls,
        data[position:behind],
    )


def _attributes_follow(data: bytes, position: int, end: int) -> None:
    """A refused filter must still be one well-formed element with the attribute list behind it."""
    _, _, behind = header(data, position, end)
    expect(data, behind, end, SEQUENCE)


def octet_strings(data: bytes, position: int, end: int) -> tuple[bytes, ...]:
    """The OCTET STRINGs that fill a range."""
    found: list[bytes] = []
    while position < end:
        if data[position] == OCTET_STRING and position + 2 <= end and data[position + 1] < 0x80:
            start = position + 2
            position = start + data[position + 1]
            if position > end:
                raise ProtocolError("element longer than what holds it")
            found.append(data[start:position])
        else:
            value, position = octets(data, position, end)
            found.append(value)
    return tuple(found)


def _attribute(data: bytes, position: int, end: int) -> tuple[Attribute, int]:
    """PartialAttribute, §4.1.7: ``(attribute, position behind it)``."""
    at, stop = expect(data, position, end, SEQUENCE)
    description, at = octets(data, at, stop)
    start, at = expect(data, at, stop, SET)
    values = octet_strings(data, start, at)
    skip_rest(data, at, stop)
    return Attribute(description, values), stop


def _modify(
    data: bytes, position: int, end: int, message_id: int, controls: tuple[Control, ...], max_nesting: int
) -> Request:
    """§4.6."""
    name, position = octets(data, position, end)
    at, stop = expect(data, position, end, SEQUENCE)
    skip_rest(data, stop, end)
    changes: list[Change] = []
    while at < stop:
        start, behind = expect(data, at, stop, SEQUENCE)
        operation, start = integer(data, start, behind, ENUMERATED)
        attribute, start = _attribute(data, start, behind)
        skip_rest(data, start, behind)
        changes.append(Change(operation, attribute))
        at = behind
    return ModifyRequest(message_id, name, tuple(changes), controls)


def _add(
    data: bytes, position: int, end: int, message_id: int, controls: tuple[Control, ...], max_nesting: int
) -> Request:
    """§4.7."""
    name, position = octets(data, position, end)
    at, stop = expect(data, position, end, SEQUENCE)
    skip_rest(data, stop, end)
    attributes: list[Attribute] = []
    while at < stop:
        attribute, at = _attribute(data, at, stop)
        attributes.append(attribute)
    return AddRequest(message_id, name, tuple(attributes), controls)


def _delete(
    data: bytes, position: int, end: int, message_id: int, controls: tuple[Control, ...], max_nesting: int
) -> Request:
    """§4.8: the name itself."""
    return DeleteRequest(message_id, data[position:end], controls)


def _modify_dn(
    data: bytes, position: int, end: int, message_id: int, controls: tuple[Control, ...], max_nesting: int
) -> Request:
    """§4.9."""
    name, position = octets(data, position, end)
    new_rdn, position = octets(data, position, end)
    delete_old, position = boolean(data, position, end)
    superior: bytes | None = None
    if position < end and data[position] == 0x80:
        superior, position = octets(data, position, end, 0x80)
    skip_rest(data, position, end)
    return ModifyDNRequest(message_id, name, new_rdn, delete_old, superior, controls)


def _compare(
    data: bytes, position: int, end: int, message_id: int, controls: tuple[Control, ...], max_nesting: int
) -> Request:
    """§4.10."""
    name, position = octets(data, position, end)
    at, stop = expect(data, position, end, SEQUENCE)
    skip_rest(data, stop, end)
    attribute, at = octets(data, at, stop)
    value, at = octets(data, at, stop)
    skip_rest(data, at, stop)
    return CompareRequest(message_id, name, attribute, value, controls)


def _abandon(
    data: bytes, position: int, end: int, message_id: int, controls: tuple[Control, ...], max_nesting: int
) -> Request:
    """§4.11: the message id itself."""
    abandoned_id = integer_content(data, position, end)
    if not 0 <= abandoned_id <= MAX_INT:
        raise ProtocolError("message id out of range", fatal=False)
    return AbandonRequest(message_id, abandoned_id, controls)


def _extended(
    data: bytes, position: int, end: int, message_id: int, controls: tuple[Control, ...], max_nesting: int
) -> Request:
    """§4.12."""
    oid, position = octets(data, position, end, 0x80)
    value: bytes | None = None
    if position < end and data[position] == 0x81:
        value, position = octets(data, position, end, 0x81)
    skip_rest(data, position, end)
    return ExtendedRequest(message_id, oid.decode("latin-1"), value, controls)


_Reader = Callable[[bytes, int, int, int, "tuple[Control, ...]", int], Request]
_READERS: Final[dict[int, _Reader]] = {
    int(Tag.SEARCH_REQUEST): _search,
    int(Tag.BIND_REQUEST): _bind,
    int(Tag.UNBIND_REQUEST): _unbind,
    int(Tag.MODIFY_REQUEST): _modify,
    int(Tag.ADD_REQUEST): _add,
    int(Tag.DELETE_REQUEST): _delete,
    int(Tag.MODIFY_DN_REQUEST): _modify_dn,
    int(Tag.COMPARE_REQUEST): _compare,
    int(Tag.ABANDON_REQUEST): _abandon,
    int(Tag.EXTENDED_REQUEST): _extended,
}


# --- responses out ----------------------------------------------------------------------------------------------------


def encode_controls(controls: Sequence[Control]) -> bytes:
    """The ``controls [0]`` element of a message, or nothing when there are none (§4.1.11)."""
    if not controls:
        return b""
    parts = []
    for control in controls:
        content = encode_octets(control.oid.encode("latin-1", "replace"))
        if control.critical:
            content += b"\x01\x01\xff"
        if control.value is not None:
            content += encode_octets(control.value)
        parts.append(tlv(SEQUENCE, content))
    return tlv(CONTROLS, b"".join(parts))


def _message(message_id: int, operation: bytes, controls: Sequence[Control]) -> bytes:
    return sequence(encode_integer(message_id), operation, encode_controls(controls))


def _result(code: int, matched_dn: bytes, diagnostic: str, referrals: Sequence[bytes]) -> bytes:
    """Elements of LDAPResult (§4.1.9) without the tag around them."""
    text = diagnostic.encode("utf-8", "replace")
    content = encode_enumerated(code) + encode_octets(matched_dn) + encode_octets(text)
    if referrals:
        content += tlv(REFERRAL_TAG, b"".join(encode_octets(uri) for uri in referrals))
    return content


def encode_result(
    message_id: int,
    tag: int,
    code: int,
    matched_dn: bytes = b"",
    diagnostic: str = "",
    controls: Sequence[Control] = (),
    referrals: Sequence[bytes] = (),
) -> bytes:
    """A response that is an LDAPResult and nothing more (§4.1.9); ``tag`` is the response's :class:`rfc.Tag`."""
    return _message(message_id, tlv(tag, _result(code, matched_dn, diagnostic, referrals)), controls)


def encode_bind_response(
    message_id: int,
    code: int,
    matched_dn: bytes = b"",
    diagnostic: str = "",
    controls: Sequence[Control] = (),
    *,
    server_sasl_credentials: bytes | None = None,
    referrals: Sequence[bytes] = (),
) -> bytes:
    """§4.2.2."""
    content = _result(code, matched_dn, diagnostic, referrals)
    if server_sasl_credentials is not None:
        content += tlv(0x87, server_sasl_credentials)
    return _message(message_id, tlv(Tag.BIND_RESPONSE, content), controls)


def encode_extended_response(
    message_id: int,
    code: int,
    oid: str | None = None,
    value: bytes | None = None,
    diagnostic: str = "",
    controls: Sequence[Control] = (),
    *,
    matched_dn: bytes = b"",
    referrals: Sequence[bytes] = (),
) -> bytes:
    """§4.12."""
    content = _result(code, matched_dn, diagnostic, referrals)
    if oid is not None:
        content += tlv(0x8A, oid.encode("latin-1", "replace"))
    if value is not None:
        content += tlv(0x8B, value)
    return _message(message_id, tlv(Tag.EXTENDED_RESPONSE, content), controls)


def encode_notice_of_disconnection(code: int, diagnostic: str = "") -> bytes:
    """§4.4.1: the unsolicited notification that is sent before the server ends the connection."""
    return encode_extended_response(0, code, Extension.NOTICE_OF_DISCONNECTION, diagnostic=diagnostic)


def encode_intermediate_response(
    message_id: int, oid: str | None = None, value: bytes | None = None, controls: Sequence[Control] = ()
) -> bytes:
    """§4.13; RFC 4533 §2.5 sends sync info in one."""
    content = b"" if oid is None else tlv(0x80, oid.encode("latin-1", "replace"))
    if value is not None:
        content += tlv(0x81, value)
    return _message(message_id, tlv(Tag.INTERMEDIATE_RESPONSE, content), controls)


def entry_header(message_id: int, body_length: int, controls_length: int = 0) -> bytes:
    """What goes before a SearchResultEntry's body (§4.5.2), so that header + body (+ controls) is one message.

    The body is objectName and attributes, both encoded: ``04 len name 30 len attributes``. ``controls_length`` is the
    size of the encoded controls that the caller puts behind the body. All lengths in bytes.
    """
    identifier = encode_integer(message_id)
    operation = b"\x64" + length_of(body_length)
    return (
        b"\x30" + length_of(len(identifier) + len(operation) + body_length + controls_length) + identifier + operation
    )


def entry_headers(message_id: int) -> Callable[[int], bytes]:
    """:func:`entry_header` for the many entries of one search: body length in, header out, each length made once."""
    known: dict[int, bytes] = {}

    def header_for(body_length: int) -> bytes:
        found = known.get(body_length)
        if found is None:
            found = known[body_length] = entry_header(message_id, body_length)
        return found

    return header_for


def encode_attribute(description: bytes, values: Iterable[bytes]) -> bytes:
    """PartialAttribute, §4.1.7: one element of an entry's attribute list."""
    return sequence(encode_octets(description), tlv(SET, b"".join([encode_octets(value) for value in values])))


def encode_search_entry(
    message_id: int, name: bytes, attributes: Iterable[Attribute], controls: Sequence[Control] = ()
) -> bytes:
    """§4.5.2, from values. For single entries; directories keep finished bodies and use :func:`entry_header`."""
    body = encode_octets(name) + sequence(*(encode_attribute(item.description, item.values) for item in attributes))
    behind = encode_controls(controls)
    return entry_header(message_id, len(body), len(behind)) + body + behind


def encode_search_reference(message_id: int, uris: Sequence[bytes], controls: Sequence[Control] = ()) -> bytes:
    """§4.5.3."""
    return _message(message_id, tlv(Tag.SEARCH_REFERENCE, b"".join(encode_octets(uri) for uri in uris)), controls)


def encode_response(message: Response) -> bytes:
    """Encode any response message."""
    if isinstance(message, SearchEntry):
        return encode_search_entry(message.message_id, message.name, message.attributes, message.controls)
    if isinstance(message, SearchReference):
        return encode_search_reference(message.message_id, message.uris, message.controls)
    if isinstance(message, IntermediateResponse):
        return encode_intermediate_response(message.message_id, message.oid, message.value, message.controls)
    if isinstance(message, BindResponse):
        return encode_bind_response(
            message.message_id,
            message.code,
            message.matched_dn,
            message.diagnostic,
            message.controls,
            server_sasl_credentials=message.server_sasl_credentials,
            referrals=message.referrals,
        )
    if isinstance(message, ExtendedResponse):
        return encode_extended_response(
            message.message_id,
            message.code,
            message.oid,
            message.value,
            message.diagnostic,
            message.controls,
            matched_dn=message.matched_dn,
            referrals=message.referrals,
        )
    return encode_result(
        message.message_id,
        message.tag,
        message.code,
        message.matched_dn,
        message.diagnostic,
        message.controls,
        message.referrals,
    )


def encode_refusal(error: ProtocolError) -> bytes:
    """What a peer is sent for its broken message (RFC 4511 §4.1.1).

    A response with protocolError when message id and operation could be read and the operation has a response; for a
    fatal error the notice of disconnection too, after which the caller ends the connection.
    """
    answer = b""
    tag = None if error.request_tag is None else RESPONSE_TAG.get(error.request_tag)
    if error.message_id and tag is not None:
        answer = encode_result(error.message_id, tag, ResultCode.PROTOCOL_ERROR, diagnostic=error.diagnostic)
    if error.fatal:
        answer += encode_notice_of_disconnection(ResultCode.PROTOCOL_ERROR, error.diagnostic)
    return answer
