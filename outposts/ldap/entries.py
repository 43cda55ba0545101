"""User or Group record → the attributes of its directory entry. No encoding, no index, no state.

Names and formats follow the entry mapping that LDAP clients of authentik-compatible cores know; attributes without a
value are left out (RFC 4512 §2.2 has no empty attributes), distinguished names are escaped per RFC 4514 §2.4.

``objectClass`` is not among the attributes returned here: it depends on the kind alone (``schema.OBJECT_CLASSES``).
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from common.records import Group, User
from outposts.ldap.dn import DN, DNError, escape_value, normalise_type

# gid=hash: numbers start above the usual local range and below 2^31, so that every client can hold them
# (2^20 + 2^30 - 1 < 2^31). With 30 bits, 1,000 groups collide with a chance of 0.05 %.
HASHED_GID_START = 1 << 20
HASHED_GID_BITS = 30

# Attributes whose value decides about rights, membership or naming: the objects' own attributes never replace them.
# Everything else may be replaced (homeDirectory, uidNumber, mail, …), which administrators rely on.
PROTECTED = frozenset(
    {
        "objectclass", "cn", "commonname", "samaccountname", "member", "memberof", "uniquemember",
        "ak-superuser", "ak-active",
        "createtimestamp", "modifytimestamp", "pwdchangedtime", "creatorsname", "modifiersname",
        "entryuuid", "entrydn", "structuralobjectclass", "hassubordinates", "numsubordinates", "subschemasubentry",
    }
)  # fmt: skip

# What ``extra_attributes`` may name. ``memberUid`` and ``uniqueMember`` say again what ``member`` says.
EXTRA_ATTRIBUTES = (
    "loginShell", "gecos", "givenName", "distinguishedName", "userPrincipalName", "userAccountControl",
    "memberUid", "uniqueMember",
)  # fmt: skip
# Active Directory's flags: NORMAL_ACCOUNT, and with ACCOUNTDISABLE.
ACCOUNT_ENABLED, ACCOUNT_DISABLED = "512", "514"
# A colon ends the field in passwd(5), a comma ends the name in it.
_NOT_IN_GECOS = str.maketrans(dict.fromkeys(":,\n\r", " "))

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]")
# RFC 4122 appendix C, name space for X.500 distinguished names
_X500_NAMESPACE = uuid.UUID("6ba7b814-9dad-11d1-80b4-00c04fd430c8")
_X500_BYTES = _X500_NAMESPACE.bytes


class Kind(IntEnum):
    """What an entry is. The numbers are the high bits of entry numbers, so this is also the order of results."""

    FIXED = 0  # base entry and containers
    USER = 1
    GROUP = 2
    VIRTUAL_GROUP = 3


class MappingError(ValueError):
    """A record from the core has no usable entry (empty name). The message names the record by key only."""


@dataclass(frozen=True)
class EntryOptions:
    """How records become entries: the provider's fields and the ``x_ldap_*`` settings of the same names."""

    base_dn: str  # kept verbatim for the base entry; everything below it is lower case
    uid_start: int = 2000  # added to the user's pk
    gid_start: int = 4000  # added to the group's num_pk
    dn_attribute: str = "cn"  # "cn" or "uid": naming attribute of users
    uid_mode: str = "hash"  # "hash" (the core's uid) or "username"
    nested_groups: bool = False  # member and memberOf with everything that is inherited
    gid_mode: str = "reference"  # "reference" (gid_start + num_pk) or "hash"
    extra_attributes: tuple[str, ...] = ()  # of EXTRA_ATTRIBUTES
    login_shell: str = "/bin/bash"
    only_groups: tuple[str, ...] = ()  # names or uuids; empty: everything is shown
    active_only: bool = False
    attributes_allow: tuple[str, ...] = ()  # empty: all
    attributes_deny: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Lists become tuples: stored options come back with lists and have to compare equal."""
        for name in ("extra_attributes", "only_groups", "attributes_allow", "attributes_deny"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @cached_property
    def extras(self) -> frozenset[str]:
        """``extra_attributes`` for looking up."""
        return frozenset(self.extra_attributes)

    @cached_property
    def domain(self) -> str:
        """The ``dc`` values of the base as a domain name; empty if it has none."""
        return ".".join(ava.value for rdn in DN.parse(self.base_dn).rdns for ava in rdn if ava.type == "dc").lower()

    @cached_property
    def user_ending(self) -> str:
        """What every user's DN ends with."""
        return "," + self.containers[Kind.USER]

    def shows(self, name: str, kind: Kind) -> bool:
        """Whether entries of this kind may carry an attribute (any letter case; aliases count as the same)."""
        allowed, denied = self._shown_names
        lower = normalise_type(name.lower())
        if lower == self.naming[kind]:
            return True
        return lower not in denied and (not allowed or lower in allowed)

    @cached_property
    def _shown_names(self) -> tuple[frozenset[str], frozenset[str]]:
        return (
            frozenset(normalise_type(name.lower()) for name in self.attributes_allow),
            frozenset(normalise_type(name.lower()) for name in self.attributes_deny),
        )

    @property
    def shows_all(self) -> bool:
        """Whether no attribute is left out."""
        return not self.attributes_allow and not self.attributes_deny

    @cached_property
    def suffix(self) -> str:
        """The base DN in lower case, as it ends every DN below the base."""
        return self.base_dn.lower()

    @cached_property
    def containers(self) -> dict[Kind, str]:
        """DN of the container of each kind."""
        return {
            Kind.USER: f"ou=users,{self.suffix}",
            Kind.GROUP: f"ou=groups,{self.suffix}",
            Kind.VIRTUAL_GROUP: f"ou=virtual-groups,{self.suffix}",
        }

    @cached_property
    def naming(self) -> dict[Kind, str]:
        """Naming attribute of each kind."""
        return {Kind.USER: self.dn_attribute, Kind.GROUP: "cn", Kind.VIRTUAL_GROUP: "cn"}

    @property
    def uid_is_username(self) -> bool:
        """Whether ``uid`` holds the login name: a naming attribute has to be in the entry (RFC 4512 §2.3.1)."""
        return self.uid_mode == "username" or self.dn_attribute == "uid"

    def dn(self, kind: Kind, name: str) -> str:
        """The DN of the user, group or virtual group ``name``."""
        return f"{self.naming[kind]}={escape_value(name)},{self.containers[kind]}"


Attributes = list[tuple[str, tuple[str, ...]]]


class Entry(NamedTuple):
    """One entry before encoding. ``attributes`` are (name, values) pairs, every name once, no empty value list."""

    kind: Kind
    dn: str
    name: str  # value of the naming attribute, unescaped
    attributes: list[tuple[str, tuple[str, ...]]]
    uuid: bytes  # 16 bytes


def user_entry(options: EntryOptions, user: User, member_of: Iterable[str]) -> Entry:
    """The entry of ``user``. ``member_of`` are the DNs of its groups. Raises MappingError."""
    if not user.username:
        raise MappingError(f"user {user.pk} has no username")
    custom = custom_attributes(user.attributes, username=user.username)
    uid = user.username if options.uid_is_username else user.uid
    number = user_uid_number(options, user)
    built_in = [
        ("cn", user.username),
        ("sAMAccountName", user.username),
        ("uid", uid),
        ("name", user.name),
        ("displayName", user.name),
        ("sn", user.name),
        ("mail", user.email or ""),
        ("uidNumber", number),
        ("gidNumber", user_gid_number(options, user)),
        ("homeDirectory", f"/home/{user.username}"),
        ("ak-active", boolean(user.is_active)),
        ("ak-superuser", boolean(user.is_superuser)),
        ("pwdChangedTime", generalized_time(user.password_change_date)),
        ("createTimestamp", generalized_time(user.date_joined)),
        ("modifyTimestamp", generalized_time(user.last_updated)),
    ]
    if options.dn_attribute == "uid":
        custom.pop("uid", None)  # the naming attribute
    dn = options.dn(Kind.USER, user.username)
    if options.extras:
        built_in += _user_extras(options, user, dn)
    attributes = _merge(built_in, custom)
    groups = tuple(dict.fromkeys(member_of))
    if groups:
        attributes.append(("memberOf", groups))
    if not options.shows_all:
        attributes = _shown(options, Kind.USER, attributes)
    return Entry(Kind.USER, dn, user.username, attributes, entry_uuid(user.uuid, dn))


def virtual_group_entry(options: EntryOptions, user: User) -> Entry:
    """The group of one that carries the user's primary ``gidNumber``. Raises MappingError."""
    if not user.username:
        raise MappingError(f"user {user.pk} has no username")
    dn = options.dn(Kind.VIRTUAL_GROUP, user.username)
    member = options.dn(Kind.USER, user.username)
    attributes = _merge(
        [
            ("cn", user.username),
            ("sAMAccountName", user.username),
            ("uid", user.username if options.uid_is_username else user.uid),
            ("gidNumber", user_gid_number(options, user)),
            ("member", member),
            ("ak-superuser", boolean(False)),
        ],
        {},
    )
    if options.extras:
        attributes += _group_extras(options, dn, (member,))
    if not options.shows_all:
        attributes = _shown(options, Kind.VIRTUAL_GROUP, attributes)
    return Entry(Kind.VIRTUAL_GROUP, dn, user.username, attributes, entry_uuid(None, dn))


def group_entry(options: EntryOptions, group: Group, members: Iterable[str], member_of: Iterable[str]) -> Entry:
    """The entry of ``group``. ``members`` and ``member_of`` are DNs, in the order to be shown. Raises MappingError."""
    if not group.name:
        raise MappingError(f"group {group.pk} has no name")
    custom = custom_attributes(group.attributes)
    for name in MEMBERSHIP & options.extras:
        custom.pop(name.lower(), None)
    attributes = _merge(
        [
            ("cn", group.name),
            ("sAMAccountName", group.name),
            ("uid", group.pk),
            ("gidNumber", group_gid_number(options, group)),
            ("ak-superuser", boolean(group.is_superuser)),
        ],
        custom,
    )
    dn = options.dn(Kind.GROUP, group.name)
    member = tuple(dict.fromkeys(members))
    for name, values in (("member", member), ("memberOf", tuple(dict.fromkeys(member_of)))):
        if values:
            attributes.append((name, values))
    if options.extras:
        attributes += [row for row in _group_extras(options, dn, member) if row[0].lower() not in custom]
    if not options.shows_all:
        attributes = _shown(options, Kind.GROUP, attributes)
    return Entry(Kind.GROUP, dn, group.name, attributes, entry_uuid(group.pk, dn))


MEMBERSHIP = frozenset({"memberUid", "uniqueMember"})


def _user_extras(options: EntryOptions, user: User, dn: str) -> list[tuple[str, str]]:
    """What ``extra_attributes`` adds to a user."""
    words = user.name.split()
    values = {
        "loginShell": options.login_shell,
        "gecos": " ".join(user.name.translate(_NOT_IN_GECOS).split()),
        "givenName": " ".join(words[:-1] or words),  # all but the family name, as far as a single field can tell
        "distinguishedName": dn,
        "userPrincipalName": f"{user.username}@{options.domain}" if options.domain else "",
        "userAccountControl": ACCOUNT_ENABLED if user.is_active else ACCOUNT_DISABLED,
    }
    return [(name, value) for name, value in values.items() if name in options.extras]


def _group_extras(options: EntryOptions, dn: str, members: tuple[str, ...]) -> Attributes:
    """What ``extra_attributes`` adds to a group, virtual ones too."""
    extras = options.extras
    found: Attributes = [("distinguishedName", (dn,))] if "distinguishedName" in extras else []
    if "memberUid" in extras and (names := member_names(options, members)):
        found.append(("memberUid", names))
    if "uniqueMember" in extras and members:
        found.append(("uniqueMember", members))
    return found


def member_names(options: EntryOptions, members: Iterable[str]) -> tuple[str, ...]:
    """User names of those members, given by DN, that are users (RFC 2307 ``memberUid`` knows no groups)."""
    opening, ending = f"{options.dn_attribute}=", options.user_ending
    found = []
    for dn in members:
        if dn.endswith(ending):
            name = dn[len(opening) : -len(ending)]
            if "\\" in name:
                try:
                    name = DN.parse(dn).rdns[0][0].value
                except DNError:
                    continue
            found.append(name)
    return tuple(found)


def _shown(options: EntryOptions, kind: Kind, attributes: Attributes) -> Attributes:
    return [row for row in attributes if options.shows(row[0], kind)]


def container_entries(options: EntryOptions) -> list[Entry]:
    """The three containers below the base."""
    found = []
    for dn, name in ((dn, dn.split(",", 1)[0].removeprefix("ou=")) for dn in options.containers.values()):
        attributes: Attributes = [("distinguishedName", (dn,)), ("commonName", (name,))]
        found.append(Entry(Kind.FIXED, dn, name, attributes, entry_uuid(None, dn)))
    return found


# Numbers, times, values


def user_uid_number(options: EntryOptions, user: User) -> str:
    """``uidNumber``: the user's own attribute if it is a string, else computed."""
    own = (user.attributes or {}).get("uidNumber")
    return own if isinstance(own, str) and own else str(options.uid_start + user.pk)


def user_gid_number(options: EntryOptions, user: User) -> str:
    """``gidNumber`` of the user and of its virtual group: own string attribute, else the user's ``uidNumber``."""
    own = (user.attributes or {}).get("gidNumber")
    return own if isinstance(own, str) and own else user_uid_number(options, user)


def group_gid_number(options: EntryOptions, group: Group) -> str:
    """``gidNumber`` of a group: own string attribute, else by ``gid_mode``."""
    own = (group.attributes or {}).get("gidNumber")
    if isinstance(own, str) and own:
        return own
    if options.gid_mode == "hash":
        digest = hashlib.sha256(_uuid_bytes(group.pk) or group.pk.encode()).digest()
        return str(HASHED_GID_START + (int.from_bytes(digest[:4], "big") >> (32 - HASHED_GID_BITS)))
    return str(options.gid_start + (group.num_pk or _num_pk(group.pk)))


def boolean(value: bool) -> str:
    """RFC 4517 §3.3.3."""
    return "TRUE" if value else "FALSE"


_USUAL_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", re.ASCII).fullmatch


def generalized_time(value: str | None) -> str:
    """ISO 8601 as the core writes it → ``YYYYMMDDhhmmssZ`` (RFC 4517 §3.3.13), fraction cut; "" if unusable."""
    if not value:
        return ""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return ""
    if moment.tzinfo is UTC and _USUAL_TIME(value):
        return f"{value[0:4]}{value[5:7]}{value[8:10]}{value[11:13]}{value[14:16]}{value[17:19]}Z"
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).strftime("%Y%m%d%H%M%SZ").rjust(15, "0")


def entry_uuid(value: str | None, dn: str) -> bytes:
    """16 bytes of ``entryUUID``: the object's own uuid, else a version 5 uuid of the DN (RFC 4530 wants it stable)."""
    if value and (own := _uuid_bytes(value)):
        return own
    # uuid.uuid5(_X500_NAMESPACE, dn).bytes (RFC 4122 §4.3), without the object in between
    raw = bytearray(hashlib.sha1(_X500_BYTES + dn.encode(), usedforsecurity=False).digest()[:16])
    raw[6] = raw[6] & 0x0F | 0x50
    raw[8] = raw[8] & 0x3F | 0x80
    return bytes(raw)


@lru_cache(1024)  # keys of attributes: the same few for all objects
def sanitised_name(key: str) -> str:
    """An attribute name that LDAP can carry: ``/`` → ``-``, dots removed, anything else that is odd → ``-``."""
    name = key.replace("/", "-").replace(".", "")
    return name if not _NOT_IN_A_NAME.search(name) else _NOT_IN_A_NAME.sub("-", name)


def custom_attributes(
    attributes: Mapping[str, Any] | None, username: str | None = None
) -> dict[str, tuple[str, tuple[str, ...]]]:
    """An object's own ``attributes`` → lower-case name → (name, values).

    Protected names, empty names and names without a value that can be shown are left out; keys that become the same
    name are put together. With ``username`` every ``%s`` in a value becomes the user name.
    """
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for key, value in (attributes or {}).items():
        name = sanitised_name(key)
        lower = name.lower()
        if not lower or lower in PROTECTED:
            continue
        values = _values(value)
        if username is not None:
            values = [text.replace("%s", username) if "%s" in text else text for text in values]
        if lower in found:
            name = found[lower][0]
            values = [*found[lower][1], *values]
        # A key with null or "" still hides the built-in attribute of that name, as an administrator asked for it.
        found[lower] = (name, tuple(dict.fromkeys(values)) if len(values) > 1 else tuple(values))
    return found


def _values(value: object) -> list[str]:
    """The texts of one JSON value; null, "" and null elements of a list vanish."""
    if isinstance(value, str):
        return [value] if value else []
    if value is None:
        return []
    if isinstance(value, list):
        return [text for text in map(_text, value) if text]
    return [text] if (text := _text(value)) else []


def _text(value: object) -> str:
    """One scalar as text; nested structures in the print form that clients of the original outpost know."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _decimal(value)
    return _printed(value)


def _decimal(value: float) -> str:
    """Shortest decimal digits that give this number back, never with an exponent."""
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _printed(value: object) -> str:
    """``map[a:1 b:[x y]]``: keys sorted, null as ``<nil>``."""
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{_printed(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(map(_printed, value)) + "]"
    return "<nil>" if value is None else _text(value)


def _merge(
    built_in: Sequence[tuple[str, str]], custom: dict[str, tuple[str, tuple[str, ...]]]
) -> list[tuple[str, tuple[str, ...]]]:
    """Built-in attributes that are not replaced, then the custom ones, all with at least one value."""
    merged: Attributes = [(name, (value,)) for name, value in built_in if value and name.lower() not in custom]
    merged.extend((name, values) for name, values in custom.values() if values)
    return merged


def _uuid_bytes(text: str) -> bytes | None:
    try:
        if len(text) == 36 and text[8] == text[13] == text[18] == text[23] == "-":  # the core's way to write it
            return bytes.fromhex(text[:8] + text[9:13] + text[14:18] + text[19:23] + text[24:])
        return uuid.UUID(text).bytes
    except ValueError:
        return None


def _num_pk(pk: str) -> int:
    """The core's ``num_pk`` where a record lacks it: the first five decimal digits of the uuid as a number."""
    raw = _uuid_bytes(pk)
    return int(str(int.from_bytes(raw, "big"))[:5]) if raw else 0
