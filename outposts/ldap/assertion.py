"""The assertion control (RFC 4528): do it only if a filter is true for the entry that the request names."""

from __future__ import annotations

from outposts.ldap import filters
from outposts.ldap.ber import ProtocolError
from outposts.ldap.directory import Snapshot
from outposts.ldap.dn import DN
from outposts.ldap.evaluation import matches
from outposts.ldap.filters import And, Equality, Filter


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
    if snapshot.number_of(name) < 0:
        return False
    # Together with the name, so that costly parts are looked at for this one entry only.
    return bool(matches(snapshot, And((Equality("entrydn", str(name).encode()), node))))
