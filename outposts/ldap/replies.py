"""The last messages of answers, and the tags that answers have."""

from __future__ import annotations

from common.outcomes import Reason
from outposts.ldap import controls, routing
from outposts.ldap.auth import BindAnswer
from outposts.ldap.ber import encode_integer
from outposts.ldap.messages import (
    AddRequest,
    BindRequest,
    CompareRequest,
    Control,
    DeleteRequest,
    ExtendedRequest,
    ModifyDNRequest,
    ModifyRequest,
    SearchRequest,
)
from outposts.ldap.rfc import ControlOid, Tag
from outposts.ldap.wire import encode_result

REQUEST_TAG: dict[type, Tag] = {
    SearchRequest: Tag.SEARCH_REQUEST,
    BindRequest: Tag.BIND_REQUEST,
    ExtendedRequest: Tag.EXTENDED_REQUEST,
    CompareRequest: Tag.COMPARE_REQUEST,
    AddRequest: Tag.ADD_REQUEST,
    ModifyRequest: Tag.MODIFY_REQUEST,
    DeleteRequest: Tag.DELETE_REQUEST,
    ModifyDNRequest: Tag.MODIFY_DN_REQUEST,
}

DONE_WELL = b"\x65\x07\x0a\x01\x00\x04\x00\x04\x00"  # SearchResultDone: success, no matchedDN, no text


def search_done(request: SearchRequest, result: routing.Result) -> bytes:
    """The last message of a search's answer (RFC 4511 §4.5.2). The usual one is put together from two pieces."""
    answer = result.answer
    if result.follower is not None:
        return encode_result(request.message_id, Tag.SEARCH_DONE, result.code, controls=result.follower.controls)
    code = answer.final_code
    if code == 0 and not answer.matched and not answer.diagnostic and not answer.controls:
        identifier = encode_integer(request.message_id)
        return bytes((0x30, len(identifier) + len(DONE_WELL))) + identifier + DONE_WELL
    return encode_result(request.message_id, Tag.SEARCH_DONE, code, answer.matched, answer.diagnostic, answer.controls)


def bind_controls(request: BindRequest, answer: BindAnswer) -> tuple[Control, ...]:
    """What a bind asked to be told: who it is now (RFC 3829, successes only), and that its password has expired
    (draft-behera-ldap-password-policy-10 §6.2: an empty value says nothing of the kind is known)."""
    if not request.controls:
        return ()
    try:
        asked = controls.read(request.controls, controls.Operation.BIND)
    except controls.ControlError:
        return ()  # that is what the bind was refused for
    found = []
    if asked.authorization_identity and answer.identity is not None:
        name = answer.identity.authorization_id.encode()
        found.append(Control(ControlOid.AUTHORIZATION_IDENTITY_RESPONSE, False, name))
    if asked.password_policy:
        expired = answer.reason == Reason.NEW_PASSWORD_WANTED
        found.append(Control(ControlOid.PASSWORD_POLICY, False, PASSWORD_EXPIRED if expired else NO_POLICY_ERROR))
    return tuple(found)


# PasswordPolicyResponseValue ::= SEQUENCE { warning [0] … OPTIONAL, error [1] ENUMERATED { passwordExpired (0), … } }
PASSWORD_EXPIRED = b"\x30\x03\x81\x01\x00"
NO_POLICY_ERROR = b"\x30\x00"
