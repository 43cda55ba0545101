"""Names and numbers: spot checks against the registries, and survival of unknown values."""

from __future__ import annotations

import pytest

from outposts.ldap import rfc


def test_unknown_result_code_survives() -> None:
    """A code from a newer specification is a member with a telling name, not an exception."""
    code = rfc.ResultCode(4711)
    assert code == 4711
    assert code.name == "UNKNOWN_4711"
    assert rfc.ResultCode(0) is rfc.ResultCode.SUCCESS


def test_result_code_refuses_what_is_no_number() -> None:
    """Only numbers become codes."""
    with pytest.raises(ValueError):
        rfc.ResultCode("busy")


def test_response_tags_follow_requests() -> None:
    """RFC 4511 appendix B: each response's application number is its request's plus one, but for extended (23, 24)."""
    for request, response in rfc.RESPONSE_TAG.items():
        assert (response & 0x1F) == (request & 0x1F) + (2 if request == rfc.Tag.SEARCH_REQUEST else 1)


def test_aliases_are_lower_case_and_final() -> None:
    """Normalising twice changes nothing."""
    for alias, name in rfc.ATTRIBUTE_TYPES.items():
        assert alias == alias.lower()
        assert name not in rfc.ATTRIBUTE_TYPES
