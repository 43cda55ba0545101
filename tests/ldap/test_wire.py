"""Messages: round trips, real clients' octets, independent codecs as witnesses, refusals, and the three answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ldap3.operation.search import search_operation, search_result_entry_response_to_dict
from ldap3.protocol import rfc4511
from ldaptor.protocols import pureber, pureldap
from pyasn1.codec.ber import decoder as pyasn1_decoder
from pyasn1.codec.ber import encoder as pyasn1_encoder

from outposts.ldap import filters as f
from outposts.ldap import wire
from outposts.ldap.ber import ProtocolError, encode_integer, encode_octets, sequence, tlv
from outposts.ldap.client_wire import decode_response, encode_request
from outposts.ldap.filter_text import parse_text, to_text
from outposts.ldap.rfc import Extension, ResultCode, Scope, Tag
from outposts.ldap.wire import (
    AddRequest,
    Attribute,
    BindRequest,
    CompareRequest,
    Control,
    DeleteRequest,
    ExtendedRequest,
    ModifyDNRequest,
    ModifyRequest,
    Request,
    Response,
    Sasl,
    SearchRequest,
    Simple,
    UnbindRequest,
    UnknownAuthentication,
    UnknownRequest,
    decode_request,
    encode_response,
)
from tests.ldap.strategies import requests, responses

DATA = Path(__file__).parent.parent / "data" / "ldap"
CAPTURED = {
    name: bytes.fromhex(octets)
    for name, octets in (line.split() for line in (DATA / "openldap-requests.txt").read_text().splitlines())
}
ALICE = b"cn=alice,ou=users,dc=ldap,dc=goauthentik,dc=io"


# --- round trips and captured messages --------------------------------------------------------------------------------


@given(requests)
def test_every_request_round_trips(message: Request) -> None:
    """What the client's side writes, the server's side reads."""
    assert decode_request(encode_request(message)) == message


@given(responses)
def test_every_response_round_trips(message: Response) -> None:
    """What the server's side writes, the client's side reads."""
    assert decode_response(encode_response(message)) == message


@given(requests, st.binary(max_size=5), st.binary(max_size=5))
def test_a_message_may_lie_anywhere_in_a_buffer(message: Request, before: bytes, behind: bytes) -> None:
    """Positions instead of copies: neighbours do not matter."""
    octets = encode_request(message)
    assert decode_request(before + octets + behind, len(before), len(before) + len(octets)) == message


def test_captured_bind() -> None:
    """ldapsearch -x -D … -w …"""
    assert decode_request(CAPTURED["bind"]) == BindRequest(1, 3, ALICE, Simple(b"alice-demo-pw"))


def test_captured_search() -> None:
    """Every kind of filter item in one search."""
    message = decode_request(CAPTURED["ldapsearch-1"])
    assert isinstance(message, SearchRequest)
    assert (message.message_id, message.base, message.scope) == (2, b"dc=ldap,dc=goauthentik,dc=io", Scope.SUB)
    assert message.attributes == (b"cn", b"memberOf")
    assert to_text(message.filter) == (
        "(&(objectclass=user)(|(cn=a*b*c)(!(mail=*))(uidnumber>=1000)(uidnumber<=2000)(cn~=x)"
        "(cn:dn:caseexactmatch:=y)))"
    )


def test_captured_controls_and_limits() -> None:
    """-l 5 -z 300 -a always -s one -A -M -E pr=500 -E !sss=cn"""
    message = decode_request(CAPTURED["ldapsearch-controls-1"])
    assert isinstance(message, SearchRequest)
    assert message.filter == f.Equality("cn", "café".encode())
    assert (message.scope, message.deref, message.size_limit, message.time_limit) == (1, 3, 300, 5)
    assert message.types_only
    assert message.attributes == (b"*", b"+")
    assert {(control.oid, control.critical) for control in message.controls} == {
        ("2.16.840.1.113730.3.4.2", False),
        ("1.2.840.113556.1.4.319", False),
        ("1.2.840.113556.1.4.473", True),
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unbind", UnbindRequest(3)),
        ("ldapwhoami-1", ExtendedRequest(2, Extension.WHO_AM_I)),
        ("ldapcompare-1", CompareRequest(2, ALICE, b"cn", b"alice")),
        ("ldapdelete-1", DeleteRequest(2, ALICE)),
        ("ldapmodrdn-1", ModifyDNRequest(2, ALICE, b"cn=b", True, b"dc=io")),
        (
            "ldappasswd-1",
            ExtendedRequest(2, Extension.PASSWORD_MODIFY, sequence(tlv(0x80, ALICE), tlv(0x82, b"new-demo-pw"))),
        ),
        (
            "ldapmodify-1",
            ModifyRequest(
                2,
                ALICE,
                (wire.Change(2, Attribute(b"mail", (b"a@b",))), wire.Change(1, Attribute(b"cn", ()))),
            ),
        ),
        (
            "ldapmodify-2",
            AddRequest(
                3, b"cn=new,dc=io", (Attribute(b"cn", (b"new",)), Attribute(b"objectClass", (b"top", b"person")))
            ),
        ),
    ],
)
def test_captured_operations(name: str, message: Request) -> None:
    """The other requests of OpenLDAP's command line clients; we write the very same octets."""
    assert decode_request(CAPTURED[name]) == message
    assert encode_request(message) == CAPTURED[name]


# --- witnesses --------------------------------------------------------------------------------------------------------


def pyasn1_message(octets: bytes) -> Any:
    """One LDAPMessage by ldap3's ASN.1 specification."""
    message, rest = pyasn1_decoder.decode(octets, asn1Spec=rfc4511.LDAPMessage())
    assert not rest
    return message


@given(requests)
def test_pyasn1_agrees_about_requests(message: Request) -> None:
    """ldap3's specification under pyasn1 reads our octets, and we read what it writes from them."""
    if isinstance(message, SearchRequest):
        if message.scope > 2 or isinstance(message.filter, f.And | f.Or | f.Not):
            return  # no subordinate scope there, and nested filters can be written but not read
    theirs = pyasn1_message(encode_request(message))
    assert int(theirs["messageID"]) == message.message_id
    assert decode_request(pyasn1_encoder.encode(theirs)) == message


@given(responses)
def test_pyasn1_agrees_about_responses(message: Response) -> None:
    """The same for responses."""
    if getattr(message, "uris", True) == ():
        return  # a reference without address is not allowed there
    code = getattr(message, "code", 0)
    if code not in {int(known) for known in rfc4511.ResultCode.namedValues.values()}:
        return
    theirs = pyasn1_message(encode_response(message))
    assert int(theirs["messageID"]) == message.message_id
    assert decode_response(pyasn1_encoder.encode(theirs)) == message


@pytest.mark.parametrize(
    "text",
    [
        "(&(objectclass=user)(cn=alice))",
        "(&(objectclass=user)(|(cn=a*b*c)(mail=*@x)(!(mail=*)))(uidnumber>=1000)(uidnumber<=2000)(cn~=x))",
        "(!(|(cn=a)(&(sn=b)(cn:dn:2.5.13.5:=c))))",
    ],
)
def test_ldap3_writes_what_we_read(text: str) -> None:
    """Nested filters the other way round: ldap3 parses and encodes, we decode."""
    operation = search_operation("dc=io", text, "SUBTREE", "ALWAYS", ["cn"], 10, 20, True, False, False)
    envelope = rfc4511.LDAPMessage()
    envelope["messageID"] = rfc4511.MessageID(7)
    envelope["protocolOp"] = rfc4511.ProtocolOp().setComponentByName("searchRequest", operation)
    message = decode_request(pyasn1_encoder.encode(envelope))
    assert message == SearchRequest(7, b"dc=io", 2, 3, 10, 20, True, parse_text(text), (b"cn",))


def test_ldap3_reads_an_entry() -> None:
    """ldap3's own mapping understands a search entry of ours."""
    octets = encode_response(
        wire.SearchEntry(5, ALICE, (Attribute(b"cn", (b"alice",)), Attribute(b"mail", (b"a", b"b"))))
    )
    decoded = search_result_entry_response_to_dict(
        pyasn1_message(octets)["protocolOp"]["searchResEntry"], None, None, False
    )
    assert decoded["dn"] == ALICE.decode()
    assert decoded["raw_attributes"] == {"cn": [b"alice"], "mail": [b"a", b"b"]}


def ldaptor_message(octets: bytes) -> Any:
    """One message by ldaptor."""
    context = pureldap.LDAPBERDecoderContext_TopLevel(
        inherit=pureldap.LDAPBERDecoderContext_LDAPMessage(
            fallback=pureldap.LDAPBERDecoderContext(fallback=pureber.BERDecoderContext()),
            inherit=pureldap.LDAPBERDecoderContext(fallback=pureber.BERDecoderContext()),
        )
    )
    message, size = pureber.berDecodeObject(context, octets)
    assert size == len(octets)
    return message


@pytest.mark.parametrize("name", ["bind", "ldapsearch-1", "ldapdelete-1", "ldapwhoami-1", "ldapmodrdn-1", "unbind"])
def test_ldaptor_agrees(name: str) -> None:
    """ldaptor reads our encoding of captured requests, and its own encoding means the same to us."""
    message = decode_request(CAPTURED[name])
    theirs = ldaptor_message(encode_request(message))
    assert theirs.id == message.message_id
    assert decode_request(theirs.toWire()) == message


# --- tolerance --------------------------------------------------------------------------------------------------------


def test_non_minimal_lengths() -> None:
    """Active Directory's clients write every length in four octets."""

    def padded(tag: int, content: bytes) -> bytes:
        return bytes((tag, 0x84)) + len(content).to_bytes(4, "big") + content

    octets = padded(
        0x30,
        padded(0x02, b"\x05")
        + padded(
            0x63,
            padded(0x04, b"dc=io")
            + padded(0x0A, b"\x02")
            + padded(0x0A, b"\x00")
            + padded(0x02, b"\x03\xe8")
            + padded(0x02, b"\x00\x00\x00\x78")
            + padded(0x01, b"\x01")
            + padded(0xA3, padded(0x04, b"CN") + padded(0x04, b"x"))
            + padded(0x30, padded(0x04, b"cn") + padded(0x04, b"*")),
        ),
    )
    assert decode_request(octets) == SearchRequest(
        5, b"dc=io", Scope.SUB, 0, 1000, 120, True, f.Equality("cn", b"x"), (b"cn", b"*")
    )


def test_raw_identifies_the_question() -> None:
    """Equal questions have equal ``raw`` whatever their message id and controls; others do not."""

    def raw(message_id: int, value: bytes, *controls: Control) -> bytes:
        message = SearchRequest(message_id, b"dc=io", 2, 0, 0, 0, False, f.Equality("cn", value), (b"cn",), controls)
        decoded = decode_request(encode_request(message))
        assert isinstance(decoded, SearchRequest)
        return decoded.raw

    assert raw(1, b"a") == raw(70_000, b"a", Control("1.2.3", True)) != raw(1, b"b")


def test_unknown_trailing_elements_are_ignored() -> None:
    """RFC 4511 §4: elements with unknown tags at the end of a sequence MUST be ignored."""
    extra = tlv(0x8F, b"new")
    octets = sequence(encode_integer(1), tlv(Tag.EXTENDED_REQUEST, tlv(0x80, b"1.2.3") + extra), extra)
    assert decode_request(octets) == ExtendedRequest(1, "1.2.3")


def test_critical_control_without_value() -> None:
    """ManageDsaIT as clients send it: criticality, no value."""
    octets = encode_request(UnbindRequest(1, (Control("2.16.840.1.113730.3.4.2", True),)))
    assert decode_request(octets).controls == (Control("2.16.840.1.113730.3.4.2", True, None),)


def test_unknown_authentication_and_operations_are_values() -> None:
    """Not ours to refuse: the server answers authMethodNotSupported, the session disconnects."""
    bind = sequence(encode_integer(1), tlv(0x60, encode_integer(2) + encode_octets(b"") + tlv(0x81, b"krb")))
    assert decode_request(bind) == BindRequest(1, 2, b"", UnknownAuthentication(0x81))
    assert decode_request(sequence(encode_integer(1), tlv(0x7E, b""))) == UnknownRequest(1, 0x7E)
    assert decode_request(sequence(encode_integer(1), tlv(0x64, b""))) == UnknownRequest(1, 0x64)


# --- refusals ---------------------------------------------------------------------------------------------------------

SEARCH = CAPTURED["ldapsearch-1"]
SEVEN_ELEMENTS = sequence(encode_integer(9), tlv(0x63, bytes.fromhex("04000a01000a0100020100020100010100870161")))


@pytest.mark.parametrize(
    ("octets", "message_id", "tag", "fatal"),
    [
        (bytes.fromhex("3000"), None, None, True),
        (bytes.fromhex("30020205"), None, None, True),  # inner length beyond the message
        (bytes.fromhex("3003040101"), None, None, True),  # message id is no integer
        (bytes.fromhex("30050201ff4200"), None, None, True),  # negative message id
        (bytes.fromhex("30090205010000000042"), None, None, True),  # message id above maxInt
        (bytes.fromhex("3003020101"), 1, None, True),  # no operation
        (bytes.fromhex("3006020101420100"), 1, 0x42, True),  # unbind with content
        (bytes.fromhex("30050201014200") + b"x", None, None, True),  # octets behind
        (bytes.fromhex("30090201014200a0023000"), 1, 0x42, True),  # empty control
        (sequence(encode_integer(9), tlv(0x4A, b""), tlv(0xA0, b"\x30\x03\x04")), 9, 0x4A, True),
        (SEVEN_ELEMENTS, 9, 0x63, True),
        (sequence(encode_integer(9), tlv(0x63, bytes.fromhex("04000a01040a01000201000201000101008701613000"))),
         9, 0x63, False),  # unknown scope
        (sequence(encode_integer(9), tlv(0x63, bytes.fromhex("04000a01000a01000201ff0201000101008701613000"))),
         9, 0x63, False),  # negative size limit
        (sequence(encode_integer(9), tlv(0x60, b"")), 9, 0x60, True),
        (sequence(encode_integer(9), tlv(0x60, encode_integer(3) + encode_octets(b"") + b"\x04\x00")), 9, 0x60, True),
        (sequence(encode_integer(9), tlv(0x50, b"")), 9, 0x50, True),
        (sequence(encode_integer(9), tlv(0x77, b"")), 9, 0x77, True),
    ],
)  # fmt: skip
def test_refusals(octets: bytes, message_id: int | None, tag: int | None, fatal: bool) -> None:
    """What is wrong, in which message, and whether the connection may go on (RFC 4511 §4.1.1)."""
    with pytest.raises(ProtocolError) as caught:
        decode_request(octets)
    error = caught.value
    assert (error.message_id, error.request_tag, error.fatal) == (message_id, tag, fatal)


def test_answers_to_refused_messages() -> None:
    """A response when there is something to respond to; the notice when the connection ends."""
    both = wire.encode_refusal(ProtocolError("x", message_id=9, request_tag=0x63))
    response = wire.encode_result(9, Tag.SEARCH_DONE, ResultCode.PROTOCOL_ERROR, diagnostic="x")
    notice = wire.encode_notice_of_disconnection(ResultCode.PROTOCOL_ERROR, "x")
    assert both == response + notice
    assert wire.encode_refusal(ProtocolError("x", message_id=9, request_tag=0x63, fatal=False)) == response
    assert wire.encode_refusal(ProtocolError("x")) == notice
    assert wire.encode_refusal(ProtocolError("x", message_id=9, request_tag=0x42)) == notice
    assert decode_response(notice) == wire.ExtendedResponse(
        0, ResultCode.PROTOCOL_ERROR, diagnostic="x", oid="1.3.6.1.4.1.1466.20036"
    )


def test_too_many_controls() -> None:
    """The cap on controls is exact."""
    assert len(decode_request(encode_request(UnbindRequest(1, (Control("1.2"),) * wire.MAX_CONTROLS))).controls) == 32
    with pytest.raises(ProtocolError, match="too many controls"):
        decode_request(encode_request(UnbindRequest(1, (Control("1.2"),) * (wire.MAX_CONTROLS + 1))))


@pytest.mark.parametrize("name", sorted(CAPTURED))
def test_every_cut_and_every_changed_octet(name: str) -> None:
    """Damaged real messages: a message or the protocol error, never anything else."""
    octets = CAPTURED[name]
    for position in range(len(octets)):
        with pytest.raises(ProtocolError):
            decode_request(octets[:position])
        for change in (0x00, 0x01, 0x7F, 0x80, 0xFF, octets[position] ^ 0x20):
            damaged = octets[:position] + bytes((change,)) + octets[position + 1 :]
            try:
                decode_request(damaged)
            except ProtocolError:
                pass


@given(st.binary(max_size=80))
def test_decoders_have_two_answers_for_noise(data: bytes) -> None:
    """Noise behind a valid start reaches every reader."""
    for tag in Tag:
        octets = sequence(b"\x02\x01\x01", tlv(tag, data))
        for decode in (decode_request, decode_response):
            try:
                decode(octets)
            except ProtocolError:
                pass


# --- entries and secrets ----------------------------------------------------------------------------------------------


@given(st.integers(0, 2**31 - 1), st.integers(0, 70_000))
def test_entry_header_frames_any_body(message_id: int, length: int) -> None:
    """Header and body are one message; the closure gives the same octets."""
    body = encode_octets(b"cn=a") + sequence(tlv(0x30, encode_octets(b"x") + tlv(0x31, encode_octets(bytes(length)))))
    octets = wire.entry_header(message_id, len(body)) + body
    assert decode_response(octets) == wire.SearchEntry(message_id, b"cn=a", (Attribute(b"x", (bytes(length),)),))
    assert wire.entry_headers(message_id)(len(body)) == wire.entry_header(message_id, len(body))


def test_secrets_do_not_show() -> None:
    """Passwords, SASL credentials and extended values stay out of representations."""
    for message in (
        BindRequest(1, 3, b"cn=a", Simple(b"hunter2")),
        BindRequest(1, 3, b"cn=a", Sasl("PLAIN", b"hunter2")),
        ExtendedRequest(1, Extension.PASSWORD_MODIFY, b"hunter2"),
    ):
        assert "hunter2" not in repr(message)
    assert "mechanism='PLAIN', credentials=None" in repr(Sasl("PLAIN"))
