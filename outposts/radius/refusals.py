"""Every way to refuse a login, and what is silence instead: reason → label. The one table of what is no Access-Accept.

The labels flow_denied, invalid_credentials, access_denied, attribute_decode_failed and attribute_parse_failed are those
of the core's own outposts, the others are ours. A label says why to operators; the client hears a plain Access-Reject.
"""

from __future__ import annotations

from collections.abc import Mapping

from common.outcomes import Denied, Reason, Unavailable

THROTTLED = "throttled"  # too many failed logins; nobody was asked
OVERLOAD = "overload"  # it waited for its turn until nobody waited for the answer any more

# Reasons of ``Denied`` → label of ``radius_requests_rejected_total``.
DENIED: Mapping[str, str] = {
    Reason.INVALID_CREDENTIALS: "invalid_credentials",
    Reason.FLOW_RESTARTED: "invalid_credentials",
    Reason.FLOW_DENIED: "flow_denied",
    Reason.ACCESS_DENIED: "access_denied",
    Reason.PASSWORD_NOT_ASKED: "password_not_asked",
    Reason.PASSWORD_WANTED: "unsupported_stage",
    Reason.NAME_WANTED: "unsupported_stage",
    Reason.CERTIFICATE_NOT_DECISIVE: "certificate_not_decisive",
    Reason.IDENTITY_MISMATCH: "identity_mismatch",
    Reason.NOT_AUTHENTICATED: "not_authenticated",
    Reason.NEW_PASSWORD_WANTED: "password_expired",
    Reason.UNSUPPORTED_CHALLENGE: "unsupported_stage",
    Reason.NO_AUTHENTICATOR: "mfa_required",
    Reason.MFA_UNSUPPORTED: "mfa_unsupported",
    Reason.CHALLENGE_EXPIRED: "challenge_expired",
    Reason.TOO_DEEP: "flow_error",
    THROTTLED: THROTTLED,
    # An answer to a challenge that is none (challenge.read_answer)
    "user_changed": "user_changed",
    "unsupported_auth": "unsupported_auth",
    "malformed_password": "malformed_password",
    "undecodable_password": "undecodable_password",
}
UNKNOWN_DENIAL = "flow_error"  # a reason that a newer login part may bring

# Denials that say nothing about whether somebody guesses.
NO_GUESS = frozenset(
    {
        THROTTLED,
        Reason.CHALLENGE_EXPIRED,
        "user_changed",
        "unsupported_auth",
        "malformed_password",
        "undecodable_password",
    }
)
# Only here the core has certainly done nothing that a second try would do twice; and even then a code may be used up.
AGAIN = frozenset({Reason.CORE_UNAVAILABLE, Reason.STORE_UNAVAILABLE})


def label(outcome: Denied | Unavailable) -> str:
    """The label of an outcome that is no success."""
    if isinstance(outcome, Denied):
        return DENIED.get(outcome.reason, UNKNOWN_DENIAL)
    return OVERLOAD if outcome.reason == OVERLOAD else "core_error"
