"""Extended operations (RFC 4511 §4.12): one row each in ``OPERATIONS``, which is also what the root DSE advertises.

``NOT_DONE`` has those that are known and always refused, which is more useful to a client than not to know them. An
operation that is in neither table is answered protocolError, as §4.12 asks for a requestName that is not recognised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from outposts.ldap import controls
from outposts.ldap.ber import ProtocolError
from outposts.ldap.messages import ExtendedRequest
from outposts.ldap.rfc import Extension, ResultCode
from outposts.ldap.sync_wire import decode_cancel


def _nothing_to_cancel(message_id: int) -> ResultCode:
    return ResultCode.NO_SUCH_OPERATION


@dataclass(frozen=True, slots=True)
class View:
    """What an operation may know of its connection.

    ``outstanding`` counts other requests in progress; ``authorization_id`` is empty for an anonymous connection.
    ``cancel`` stops the request with this message id, if that can be, and says what became of it.
    """

    encrypted: bool
    can_encrypt: bool
    outstanding: int
    authorization_id: str
    cancel: Callable[[int], ResultCode] = _nothing_to_cancel


@dataclass(frozen=True, slots=True)
class ExtendedAnswer:
    """A response, and whether the connection starts TLS right after it was sent."""

    code: ResultCode
    diagnostic: str = ""
    oid: str | None = None
    value: bytes | None = None
    start_tls: bool = False


def answer(request: ExtendedRequest, view: View) -> ExtendedAnswer:
    """Answer one extended request."""
    operation = OPERATIONS.get(request.oid) or NOT_DONE.get(request.oid)
    if operation is None:
        return ExtendedAnswer(ResultCode.PROTOCOL_ERROR, "extended operation not supported")
    try:
        controls.read(request.controls, controls.Operation.EXTENDED)
    except controls.ControlError as error:
        return ExtendedAnswer(error.code, error.diagnostic)
    return operation(request, view)


def start_tls(request: ExtendedRequest, view: View) -> ExtendedAnswer:
    """StartTLS, RFC 4511 §4.14: not twice, not while other requests are in progress; a bound state survives.

    The response names the operation in every case, as §4.14.2 says.
    """
    if request.value is not None:
        return ExtendedAnswer(ResultCode.PROTOCOL_ERROR, "StartTLS takes no value", Extension.START_TLS)
    if view.encrypted:
        return ExtendedAnswer(ResultCode.OPERATIONS_ERROR, "TLS is already in use", Extension.START_TLS)
    if view.outstanding:
        return ExtendedAnswer(ResultCode.OPERATIONS_ERROR, "other requests are in progress", Extension.START_TLS)
    if not view.can_encrypt:
        return ExtendedAnswer(ResultCode.UNAVAILABLE, "TLS is not available", Extension.START_TLS)
    return ExtendedAnswer(ResultCode.SUCCESS, oid=Extension.START_TLS, start_tls=True)


def who_am_i(request: ExtendedRequest, view: View) -> ExtendedAnswer:
    """Who am I, RFC 4532: the authorization identity as response value, empty when anonymous; no responseName."""
    if request.value is not None:
        return ExtendedAnswer(ResultCode.PROTOCOL_ERROR, "Who am I takes no value")
    return ExtendedAnswer(ResultCode.SUCCESS, value=view.authorization_id.encode())


def cancel(request: ExtendedRequest, view: View) -> ExtendedAnswer:
    """Cancel, RFC 3909: like Abandon, but both requests are answered, the other one with canceled (118)."""
    try:
        message_id = decode_cancel(request.value)
    except ProtocolError as error:
        return ExtendedAnswer(ResultCode.PROTOCOL_ERROR, error.diagnostic)
    return ExtendedAnswer(view.cancel(message_id))


def password_modify(request: ExtendedRequest, view: View) -> ExtendedAnswer:
    """Password modify, RFC 3062: passwords are the core's, and its flows for setting one want to be looked at.

    Such a flow shows prompts, may send mail and asks for the second factor again; nothing of it fits into one request.
    The value is not even decoded: it holds passwords.
    """
    return ExtendedAnswer(ResultCode.UNWILLING_TO_PERFORM, "passwords are changed on the identity core's own pages")


NOT_DONE: Mapping[str, Callable[[ExtendedRequest, View], ExtendedAnswer]] = {
    Extension.PASSWORD_MODIFY: password_modify,
}
OPERATIONS: Mapping[str, Callable[[ExtendedRequest, View], ExtendedAnswer]] = {
    Extension.START_TLS: start_tls,
    Extension.WHO_AM_I: who_am_i,
    Extension.CANCEL: cancel,
}
