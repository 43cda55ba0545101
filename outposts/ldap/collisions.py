"""Entries that share a number that should be theirs alone: ``uidNumber`` of users, ``gidNumber`` of groups.

Clients that look accounts up by number (RFC 2307) would take one for the other. A pure look into a finished directory;
its cost follows the number of groups, and of users only where two of them really share a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pyroaring import BitMap

from outposts.ldap.contents import KIND_SHIFT, SLOT_MASK
from outposts.ldap.dn import DN, DNError
from outposts.ldap.encoded import EntryStore
from outposts.ldap.entries import Kind
from outposts.ldap.index import Index
from outposts.ldap.schema import SYNTAXES, integer_of

MAX_TOLD = 100  # shared numbers that are listed with their names; more are a matter of the settings, not of names
Shared = tuple[tuple[str, tuple[str, ...]], ...]  # (number, names)


def shared_user_numbers(index: Index | None, users: BitMap, stores: Mapping[Kind, EntryStore]) -> Shared:
    """Users with the same ``uidNumber``, up to ``MAX_TOLD`` numbers."""
    found: list[tuple[str, tuple[str, ...]]] = []
    if index is None or index.size == len(index.present):
        return ()  # every value has one entry
    for place in range(index.size):
        numbers = index.numbers(place)
        if len(numbers) > 1:
            mine = [number for number in numbers if number in users]
            if len(mine) > 1:
                found.append((str(integer_of(index.value(place))), _names(mine, stores)))
                if len(found) == MAX_TOLD:
                    break
    return tuple(found)


def shared_group_numbers(
    groups: Mapping[str, Iterable[str]], index: Index | None, virtual: BitMap, stores: Mapping[Kind, EntryStore]
) -> Shared:
    """Groups that share a ``gidNumber`` with each other or with the group of a user.

    ``groups``: number → names of groups. ``virtual``: the groups of users.
    """
    found = []
    for number, group_names in sorted(groups.items()):
        names = sorted(group_names)
        key = SYNTAXES["I"].normalise(number.encode("utf-8", "replace"))
        if index is not None and key is not None:
            names += _names(index.equal(key) & virtual, stores)
        if len(names) > 1:
            found.append((number, tuple(names)))
    return tuple(found)


def _names(numbers: Iterable[int], stores: Mapping[Kind, EntryStore]) -> tuple[str, ...]:
    names = []
    for number in numbers:
        dn = stores[Kind(number >> KIND_SHIFT)].dn(number & SLOT_MASK)
        try:
            names.append(DN.parse(dn).rdns[0][0].value)
        except DNError:  # longer than names may be in requests
            names.append(dn.decode("utf-8", "replace"))
    return tuple(names)
