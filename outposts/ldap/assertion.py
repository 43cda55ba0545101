"""The assertion control (RFC 4528): do it only if a filter is true for the entry that the request names."""

from __future__ import annotations

from outposts.ldap import filters
from outposts.ldap.ber import ProtocolError
from outposts.ldap.directory import Snapshot
from outposts.ldap.dn import DN
from outposts.ldap.evaluation import matches
from outposts.ldap.filters import Filter


def decode(value: bytes | None) -> Filter:
    """Read the control value, a filter. Raises ``ProtocolError`` and nothing else."""
    if value is None:
        raise ProtocolError("assertion control without value", fatal=False)
    node, end = filters.decode(value, 0, len(value))
    if end != len(value):
        raise ProtocolError("octets behind the assertion", fatal=False)
    return node


def holds(snapshot: Snapshot, name: DN, node: Filter) -> bool:
    """Whether the filter is true for the entry; Undefined is as good as false (RFC 4528 §3)."""
    number = snapshot.number_of(name)
    return number >= 0 and number in matches(snapshot, node)
