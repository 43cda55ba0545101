"""The methods that can be offered, by the name they have in settings, and how a peer chooses among them."""

from __future__ import annotations

from collections.abc import Iterable

from outposts.radius.eap.peap import Peap
from outposts.radius.eap.tls import EapTls, TlsMethod
from outposts.radius.eap.ttls import Ttls

METHODS: dict[str, type[TlsMethod]] = {method.name: method for method in (EapTls, Ttls, Peap)}
BY_TYPE: dict[int, type[TlsMethod]] = {method.type: method for method in METHODS.values()}


def choose(wishes: bytes, left: Iterable[int]) -> int | None:
    """The first of a Nak's wishes (RFC 3748 §5.3.1) that has not been offered yet, None if there is none."""
    available = set(left)
    return next((wish for wish in wishes if wish in available), None)
