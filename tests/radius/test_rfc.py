"""Names and numbers: survival of unknown values, and that no two names share a number."""

from __future__ import annotations

from enum import IntEnum

import pytest

from outposts.radius import rfc

REGISTRIES = [
    found
    for found in vars(rfc).values()
    if isinstance(found, type) and issubclass(found, rfc.Registry) and found is not rfc.Registry
]


def test_unknown_values_survive() -> None:
    """A number from a newer specification is a member with a telling name, not an exception."""
    assert rfc.Code(99) == 99
    assert rfc.Code(99).name == "UNKNOWN_99"
    assert rfc.Code(1) is rfc.Code.ACCESS_REQUEST
    assert rfc.Attribute(250).name == "UNKNOWN_250"


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.__name__)
def test_registries_have_one_name_per_number(registry: type[IntEnum]) -> None:
    """No alias hides a typing error, and only numbers become members."""
    assert len(registry) == len(registry.__members__)
    with pytest.raises(ValueError):
        registry("busy")


def test_sizes_fit_each_other() -> None:
    """RFC 2865 §3 and §5: what one field leaves to the next."""
    assert rfc.HEADER_SIZE == rfc.MIN_PACKET == 4 + rfc.AUTHENTICATOR_SIZE
    assert rfc.MAX_VALUE == 255 - 2
    assert rfc.MAX_VENDOR_VALUE == rfc.MAX_VALUE - 4 - 2
    assert rfc.MAX_PASSWORD % 16 == 0
