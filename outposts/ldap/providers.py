"""Which provider serves a request, and with which settings; the table is immutable and replaced whole at each refresh.

Bind and search choose alike: the provider whose base DN is the longest one at or above the name, compared RDN by RDN
(``dc=io`` serves ``cn=a,dc=io`` but not ``cn=a,xdc=io``). What outlives a refresh (the directory's snapshot, cached
binds, bound connections) is tied to a provider's ``pk``, never to its name or place in the list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, cast

from common.errors import OutpostError
from common.records import LDAPProvider
from outposts.ldap.directory import Snapshot
from outposts.ldap.dn import DN, DNError
from outposts.ldap.entries import EntryOptions

# Search bases remembered with the provider they lead to. Clients use a handful (containers, entries just found);
# the memo is emptied when full, so hostile bases cost at most this many short keys (each below a message's size cap).
MEMO_SIZE = 4096
MEMO_KEY_SIZE = 512  # bytes; longer bases are looked up each time

T = TypeVar("T")


class ProviderError(OutpostError):
    """A provider record cannot be served (bad base DN); the others still are."""


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """One provider with everything an operator can say about it. Times in seconds.

    ``options`` say how entries are made (base DN verbatim in it), ``base`` is the base DN for comparison.
    """

    pk: int
    name: str
    base: DN
    bind_flow_slug: str
    unbind_flow_slug: str | None
    application_slug: str
    certificate: str | None
    tls_server_name: str
    options: EntryOptions
    search_cached: bool
    bind_cached: bool
    mfa_support: bool
    dn_attribute: str
    strict: bool
    bind_names: tuple[str, ...]
    require_tls: bool
    password_flow: str
    bind_cache_max: float
    bind_cache_mfa: float
    bind_cache_size: int
    offline_grace: float
    allow_push_only: bool
    client_certificates: bool
    client_ca: str
    undecided_code: str

    def ends_binds_of(self, older: ProviderSettings) -> bool:
        """Whether binds proved under ``older`` no longer count: who may bind, or how, has changed."""
        return any(getattr(self, name) != getattr(older, name) for name in BIND_FIELDS)

    def same_entries_as(self, older: ProviderSettings) -> bool:
        """Whether a snapshot built for ``older`` still holds the right entries."""
        return self.options == older.options


# A change of one of these asks every user to pass the flow again.
BIND_FIELDS = (
    "base",
    "bind_flow_slug",
    "application_slug",
    "bind_cached",
    "mfa_support",
    "dn_attribute",
    "bind_names",
    "bind_cache_max",
    "bind_cache_mfa",
    "offline_grace",
    "allow_push_only",
    "client_certificates",
    "client_ca",
)
# Settings of ours, named as in common/setting_rows.py and as in ProviderSettings.
EXTRA_FIELDS = (
    "dn_attribute",
    "strict",
    "bind_names",
    "require_tls",
    "password_flow",
    "bind_cache_max",
    "bind_cache_mfa",
    "bind_cache_size",
    "offline_grace",
    "allow_push_only",
    "client_certificates",
    "client_ca",
    "undecided_code",
)
# The same for ``EntryOptions``.
ENTRY_FIELDS = (
    "extra_attributes",
    "login_shell",
    "only_groups",
    "active_only",
    "attributes_allow",
    "attributes_deny",
)


def resolve(record: LDAPProvider, extra: Callable[[str], Any]) -> ProviderSettings:
    """A provider's record and our own settings for it, as one.

    ``extra(name)`` answers a row ``ldap.<name>`` of ``common/setting_rows.py`` for this provider. Raises
    ``ProviderError`` if the base DN cannot be served. An unknown mode means ``direct``: it asks the core every time.
    """
    try:
        base = DN.parse(record.base_dn)
    except DNError as error:
        raise ProviderError(f"provider {record.name!r}: base DN {record.base_dn!r} is not a DN: {error}") from None
    if not base.rdns:
        raise ProviderError(f"provider {record.name!r}: the base DN is empty")
    ours = {name: extra(name) for name in EXTRA_FIELDS}
    ours["bind_names"] = tuple(ours["bind_names"])
    return ProviderSettings(
        pk=record.pk,
        name=record.name,
        base=base,
        bind_flow_slug=record.bind_flow_slug,
        unbind_flow_slug=record.unbind_flow_slug or None,
        application_slug=record.application_slug,
        certificate=record.certificate or None,
        tls_server_name=record.tls_server_name or "",
        options=EntryOptions(
            base_dn=record.base_dn,
            uid_start=record.uid_start_number,
            gid_start=record.gid_start_number,
            dn_attribute=ours["dn_attribute"],
            uid_mode=extra("uid"),
            nested_groups=extra("nested_groups"),
            gid_mode=extra("gid"),
            **{name: extra(name) for name in ENTRY_FIELDS},
        ),
        search_cached=record.search_mode == "cached",
        bind_cached=record.bind_mode == "cached",
        mfa_support=record.mfa_support,
        **ours,
    )


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider in service: its settings and, in cached search mode once loaded, its directory."""

    settings: ProviderSettings
    snapshot: Snapshot | None = None

    @property
    def pk(self) -> int:
        """The core's id of the provider."""
        return self.settings.pk


class Providers:
    """All providers in service, in the core's order. Immutable but for a memo of recent lookups."""

    __slots__ = ("_by_base", "_memo", "_names", "all", "binds", "by_pk", "prepared", "shadowed")

    def __init__(self, providers: Iterable[Provider] = ()) -> None:
        self.all = tuple(providers)
        self.by_pk: Mapping[int, Provider] = {provider.pk: provider for provider in self.all}
        self._by_base: dict[bytes, Provider] = {}
        self._memo: dict[bytes, Provider | None] = {}
        self._names: dict[bytes, object] = {}
        self.binds: dict[bytes, Any] = {}  # ``auth``'s memo of binds answered from the cache
        self.prepared: dict[int, Any] = {}  # by pk, what ``routing`` prepared for those who may see everything
        shadowed = []
        for provider in self.all:
            if self._by_base.setdefault(provider.settings.base.key, provider) is not provider:
                shadowed.append(provider)
        # Providers whose base DN an earlier one has already: never chosen, worth a warning.
        self.shadowed = tuple(shadowed)

    def __len__(self) -> int:
        return len(self.all)

    def __iter__(self) -> Iterator[Provider]:
        return iter(self.all)

    def for_name(self, name: DN) -> Provider | None:
        """The provider with the longest base DN at or above a name, or None."""
        at: DN | None = name
        while at is not None and at.rdns:
            provider = self._by_base.get(at.key)
            if provider is not None:
                return provider
            at = at.parent
        return None

    def for_base(self, base: bytes) -> Provider | None:
        """The same for a name as it stands in a request; raises ``DNError`` if it is not a DN (RFC 4514)."""
        try:
            return self._memo[base]
        except KeyError:
            pass
        provider = self.for_name(DN.parse(base))
        if len(base) <= MEMO_KEY_SIZE:
            if len(self._memo) >= MEMO_SIZE:
                self._memo.clear()
            self._memo[base] = provider
        return provider

    def found(self, name: bytes, find: Callable[[bytes, Providers], T]) -> T:
        """What ``find`` finds for a bind name, remembered for as long as these providers are in service."""
        known = self._names.get(name)
        if known is not None:
            return cast(T, known)
        made = find(name, self)
        if len(name) <= MEMO_KEY_SIZE:
            if len(self._names) >= MEMO_SIZE:
                self._names.clear()
            self._names[name] = made
        return made

    def with_snapshots(self, snapshots: Mapping[int, Snapshot]) -> Providers:
        """The same providers with other directories, by pk; those not named keep theirs."""
        return Providers(
            replace(provider, snapshot=snapshots.get(provider.pk, provider.snapshot)) for provider in self.all
        )

    def ended_binds(self, newer: Providers) -> frozenset[int]:
        """The pks whose cached binds end when ``newer`` takes over: gone, or changed in a way that matters."""
        return frozenset(
            provider.pk
            for provider in self.all
            if (successor := newer.by_pk.get(provider.pk)) is None
            or successor.settings.ends_binds_of(provider.settings)
        )


assert {*BIND_FIELDS, *EXTRA_FIELDS} <= {field.name for field in fields(ProviderSettings)}
