"""The plain parts of a snapshot: what is built, stored and read back. Behaviour is in ``directory.py``.

Entry numbers are ``kind << KIND_SHIFT | slot``, so every kind is a range of numbers, results come in the order fixed
entries, users, groups, virtual groups, and a user and its virtual group have the same slot. Slots are kept from one
snapshot to the next, which lets indexes that did not change be shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pyroaring import BitMap

from outposts.ldap.encoded import EntryStore
from outposts.ldap.entries import EntryOptions, Kind
from outposts.ldap.index import Index

KIND_SHIFT = 28  # 268 million slots of each kind
SLOT_MASK = (1 << KIND_SHIFT) - 1

# Hidden indexes: not attributes, never reached by a filter
RDN = "rdn"  # folded value of the naming attribute → entries
PK = "pk"  # "u<pk>" or "g<uuid>" → user or group


@dataclass(frozen=True)
class BuildReport:
    """What went wrong or deserves a look while a snapshot was built."""

    users: int = 0
    groups: int = 0
    reused: int = 0  # objects whose raw form was the same as before
    errors: tuple[str, ...] = ()  # objects without an entry, by key; see MAX_ERRORS_TOLD
    error_count: int = 0
    gid_collisions: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (gidNumber, names of groups and users)
    uid_collisions: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (uidNumber, names of users)


@dataclass(frozen=True)
class Origin:
    """What a later build needs to recognise unchanged objects."""

    user_digests: bytes = b""  # 16 bytes per slot
    group_digests: bytes = b""
    context: bytes = b""  # digest of all group relations; decides about users only where those matter
    context_matters: bool = True


@dataclass(eq=False, repr=False)
class Contents:
    """Entries and indexes of one provider's directory. Never changed once they are complete."""

    options: EntryOptions
    stores: Mapping[Kind, EntryStore]
    indexes: Mapping[str, Index]  # canonical lower-case attribute name →
    hidden: Mapping[str, Index]
    kinds: Mapping[Kind, BitMap]  # all entries of each kind
    origin: Origin = field(default_factory=Origin)
    report: BuildReport = field(default_factory=BuildReport)

    def __repr__(self) -> str:
        """Short: entries hold people's data."""
        counts = ", ".join(f"{kind.name.lower()}={len(members)}" for kind, members in self.kinds.items())
        return f"{type(self).__name__}({self.options.base_dn!r}, {counts})"
