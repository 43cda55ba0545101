"""Every way to refuse a bind: result code, metric label and text for clients. The one table of what is no success."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from common.outcomes import Reason
from outposts.ldap.rfc import ResultCode


@dataclass(frozen=True, slots=True)
class Refusal:
    """One way to say no: code, value of the metric's ``reason`` label, text for clients, never about credentials."""

    code: ResultCode
    label: str
    diagnostic: str = ""


CORE_SILENT = "the identity core does not answer"

# Reason → answer. The labels no_provider, flow_error, invalid_credentials and access_denied are the reference's; the
# others are ours. The first part is decided here, the rest by the login (``common.outcomes.Reason``).
REFUSALS: Mapping[str, Refusal] = {
    "version": Refusal(ResultCode.PROTOCOL_ERROR, "version", "only LDAP version 3 is spoken"),
    "method": Refusal(
        ResultCode.AUTH_METHOD_NOT_SUPPORTED, "method", "only simple and SASL authentication are offered"
    ),
    "mechanism": Refusal(ResultCode.AUTH_METHOD_NOT_SUPPORTED, "method", "SASL mechanism not supported"),
    "mechanism_without_tls": Refusal(ResultCode.CONFIDENTIALITY_REQUIRED, "tls_required", "start TLS first"),
    "plain_malformed": Refusal(ResultCode.PROTOCOL_ERROR, "method", "not a PLAIN message (RFC 4616)"),
    "external_off": Refusal(ResultCode.AUTH_METHOD_NOT_SUPPORTED, "method", "client certificates are not taken here"),
    "external_unclear": Refusal(
        ResultCode.INVALID_CREDENTIALS, "no_provider", "name who you are: several directories take certificates"
    ),
    # RFC 4513 §5.2.3: a client without external credentials
    "no_certificate": Refusal(
        ResultCode.INAPPROPRIATE_AUTHENTICATION, "no_certificate", "no client certificate was shown"
    ),
    "certificate_untrusted": Refusal(ResultCode.INVALID_CREDENTIALS, "certificate_untrusted"),
    "issuers_unusable": Refusal(ResultCode.UNAVAILABLE, "internal", "certificates cannot be verified now"),
    "authorization_id": Refusal(ResultCode.INVALID_CREDENTIALS, "authorization_id", "not who authenticated"),
    "account_busy": Refusal(ResultCode.BUSY, "throttled", "too many failed binds, try again later"),
    "address_busy": Refusal(ResultCode.BUSY, "throttled", "too many failed binds, try again later"),
    "tls_required": Refusal(ResultCode.CONFIDENTIALITY_REQUIRED, "tls_required", "start TLS first"),
    "critical_control": Refusal(ResultCode.UNAVAILABLE_CRITICAL_EXTENSION, "critical_control"),
    "control": Refusal(ResultCode.PROTOCOL_ERROR, "control", "a control twice, or with a broken value"),
    "anonymous": Refusal(ResultCode.INSUFFICIENT_ACCESS_RIGHTS, "no_provider"),
    "empty_password": Refusal(ResultCode.UNWILLING_TO_PERFORM, "empty_password", "a password is required"),
    "garbage_dn": Refusal(ResultCode.INVALID_DN_SYNTAX, "invalid_dn", "the name is not a DN"),
    "no_provider": Refusal(ResultCode.INSUFFICIENT_ACCESS_RIGHTS, "no_provider"),
    "no_user_name": Refusal(ResultCode.INSUFFICIENT_ACCESS_RIGHTS, "no_provider"),
    "empty_user_name": Refusal(ResultCode.INVALID_CREDENTIALS, "invalid_credentials"),
    "password_not_text": Refusal(ResultCode.INVALID_CREDENTIALS, "invalid_credentials"),
    "session_ended": Refusal(
        ResultCode.UNAVAILABLE, "session_ended", "session, user or provider changed during the bind"
    ),
    "unexpected": Refusal(ResultCode.OTHER, "internal", "internal error"),
    Reason.INVALID_CREDENTIALS: Refusal(ResultCode.INVALID_CREDENTIALS, "invalid_credentials"),
    Reason.ACCESS_DENIED: Refusal(ResultCode.INSUFFICIENT_ACCESS_RIGHTS, "access_denied"),
    Reason.FLOW_DENIED: Refusal(ResultCode.INVALID_CREDENTIALS, "flow_error"),
    Reason.FLOW_RESTARTED: Refusal(ResultCode.INVALID_CREDENTIALS, "invalid_credentials"),
    Reason.PASSWORD_NOT_ASKED: Refusal(ResultCode.INVALID_CREDENTIALS, "flow_error"),
    Reason.PASSWORD_WANTED: Refusal(ResultCode.INVALID_CREDENTIALS, "flow_error"),
    Reason.NAME_WANTED: Refusal(ResultCode.INVALID_CREDENTIALS, "flow_error"),
    Reason.CERTIFICATE_NOT_DECISIVE: Refusal(ResultCode.INVALID_CREDENTIALS, "certificate_untrusted"),
    Reason.IDENTITY_MISMATCH: Refusal(ResultCode.INVALID_CREDENTIALS, "identity_mismatch"),
    Reason.NOT_AUTHENTICATED: Refusal(ResultCode.INVALID_CREDENTIALS, "flow_error"),
    Reason.NEW_PASSWORD_WANTED: Refusal(ResultCode.INVALID_CREDENTIALS, "password_expired", "a new password is due"),
    Reason.UNSUPPORTED_CHALLENGE: Refusal(ResultCode.INVALID_CREDENTIALS, "flow_error"),
    Reason.MFA_UNSUPPORTED: Refusal(ResultCode.INVALID_CREDENTIALS, "flow_error"),
    Reason.CHALLENGE_EXPIRED: Refusal(ResultCode.INVALID_CREDENTIALS, "flow_error"),
    Reason.STORE_UNAVAILABLE: Refusal(ResultCode.UNAVAILABLE, "internal", "internal error"),
    Reason.NO_AUTHENTICATOR: Refusal(ResultCode.INVALID_CREDENTIALS, "flow_error"),
    Reason.TOO_DEEP: Refusal(ResultCode.INVALID_CREDENTIALS, "flow_error"),
    Reason.CORE_UNAVAILABLE: Refusal(ResultCode.UNAVAILABLE, "core_unavailable", CORE_SILENT),
    Reason.DEADLINE: Refusal(ResultCode.UNAVAILABLE, "core_unavailable", CORE_SILENT),
    Reason.CORE_REFUSED: Refusal(ResultCode.UNAVAILABLE, "core_unavailable", CORE_SILENT),
    Reason.FLOW_ERROR: Refusal(ResultCode.UNAVAILABLE, "flow_error", CORE_SILENT),
    Reason.NONSENSE: Refusal(ResultCode.UNAVAILABLE, "core_unavailable", CORE_SILENT),
    Reason.INTERNAL: Refusal(ResultCode.OTHER, "internal", "internal error"),
}
# For reasons that a newer login part may bring: by the class of the outcome, never a success.
UNKNOWN_DENIAL = Refusal(ResultCode.INVALID_CREDENTIALS, "flow_error")
UNKNOWN_FAILURE = Refusal(ResultCode.UNAVAILABLE, "core_unavailable", CORE_SILENT)
