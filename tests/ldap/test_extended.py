"""Extended operations, one row each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from outposts.ldap import extended
from outposts.ldap.messages import Control, ExtendedRequest
from outposts.ldap.rfc import Extension, ResultCode

ANONYMOUS = extended.View(encrypted=False, can_encrypt=True, outstanding=0, authorization_id="")


def test_33_start_tls_is_answered_with_its_name_and_begins() -> None:
    """Success names the operation (RFC 4511 §4.14.2)."""
    answer = extended.answer(ExtendedRequest(1, Extension.START_TLS), ANONYMOUS)
    assert (answer.code, answer.oid, answer.start_tls) == (ResultCode.SUCCESS, Extension.START_TLS, True)


@pytest.mark.parametrize(
    ("view", "value", "code"),
    [
        (replace(ANONYMOUS, encrypted=True), None, ResultCode.OPERATIONS_ERROR),
        (replace(ANONYMOUS, outstanding=1), None, ResultCode.OPERATIONS_ERROR),
        (replace(ANONYMOUS, can_encrypt=False), None, ResultCode.UNAVAILABLE),
        (ANONYMOUS, b"x", ResultCode.PROTOCOL_ERROR),
    ],
)
def test_34_start_tls_is_refused(view: extended.View, value: bytes | None, code: ResultCode) -> None:
    """On TLS already, while requests run, without a certificate, with a value."""
    answer = extended.answer(ExtendedRequest(1, Extension.START_TLS, value), view)
    assert (answer.code, answer.start_tls) == (code, False)


def test_80_who_am_i() -> None:
    """RFC 4532: authzId, empty for anonymous, and no response name."""
    bound = replace(ANONYMOUS, authorization_id="dn:cn=alice,ou=users,dc=x")
    answer = extended.answer(ExtendedRequest(1, Extension.WHO_AM_I), bound)
    assert (answer.code, answer.oid, answer.value) == (ResultCode.SUCCESS, None, b"dn:cn=alice,ou=users,dc=x")
    assert extended.answer(ExtendedRequest(1, Extension.WHO_AM_I), ANONYMOUS).value == b""
    assert extended.answer(ExtendedRequest(1, Extension.WHO_AM_I, b""), bound).code == ResultCode.PROTOCOL_ERROR


@pytest.mark.parametrize("oid", ["1.2.3", "", Extension.NOTICE_OF_DISCONNECTION])
def test_unknown_operations_are_protocol_errors(oid: str) -> None:
    """RFC 4511 §4.12."""
    assert extended.answer(ExtendedRequest(1, oid), ANONYMOUS).code == ResultCode.PROTOCOL_ERROR


def test_a_critical_control_is_refused() -> None:
    """RFC 4511 §4.1.11: what is not understood and critical is not ignored."""
    request = ExtendedRequest(1, Extension.WHO_AM_I, None, (Control("1.2.3", True),))
    assert extended.answer(request, ANONYMOUS).code == ResultCode.UNAVAILABLE_CRITICAL_EXTENSION
    harmless = ExtendedRequest(1, Extension.WHO_AM_I, None, (Control("1.2.3", False),))
    assert extended.answer(harmless, ANONYMOUS).code == ResultCode.SUCCESS
