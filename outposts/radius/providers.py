"""Which provider serves a client, and with which settings; the table is immutable and replaced whole at each refresh.

The longest client network over all providers decides; only providers on that same network are candidates. Secrets are
compared nowhere: among several candidates the packet's own signature says whose secret its sender has. What outlives a
refresh (challenges, EAP sessions, who has once signed) is tied to a provider's ``pk``, never to its name or place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from common.errors import OutpostError
from common.records import RadiusProvider as Record
from common.tls import CertificatePair
from outposts.radius.networks import Network, Networks, parse
from outposts.radius.wire import COMPUTED_AUTHENTICATOR, Packet, Signature, message_authenticator, verify_accounting

MAX_REFUSED_SHOWN = 5  # entries of one provider's client_networks named in a log line


class ProviderError(OutpostError):
    """A provider record cannot be served (no secret); the others still are."""


@dataclass(frozen=True, slots=True)
class RadiusProvider:
    """One provider with everything an operator can say about it. Times in seconds.

    The fields from ``require_message_authenticator`` on are rows ``radius.<name>`` of the settings, with the defaults
    that those have; ``add_class`` is the row ``class``. ``challenge`` and ``auto_consent`` say it for this provider.
    """

    pk: int
    name: str
    application_slug: str
    flow_slug: str
    secret: bytes = field(repr=False)
    networks: tuple[Network, ...] = ()
    mfa_support: bool = True
    certificate: CertificatePair | None = None
    require_message_authenticator: str = "auto"  # auto, yes, no
    deadline: float = 30.0
    client_ip: str = "nas"  # nas, calling-station
    strip_realm: bool = False
    on_core_error: str = "drop"  # drop, reject
    on_mapping_error: str = "accept"  # accept, reject
    login_timeout: float = 90.0
    allow_push_only: bool = False
    challenge: bool = False
    auto_consent: bool = False
    logout: bool = False
    eap_types: tuple[str, ...] = ("tls",)
    client_ca: str = ""
    eap_require_ca: bool = False
    eap_bind_identity: bool = True
    client_crl: str = ""
    crl_whole_chain: bool = False
    tls_status: str = ""
    tunnel_tls13: bool = False
    reply_message: bool = False
    reject_delay: float = 0.0
    add_class: bool = False
    echo_user: bool = False
    vlan_by_group: tuple[tuple[str, str], ...] = ()
    accounting: bool = False
    das: bool = False


# Rows of the settings whose value is a field of the same name.
EXTRA_FIELDS = (
    "require_message_authenticator",
    "deadline",
    "client_ip",
    "strip_realm",
    "on_core_error",
    "on_mapping_error",
    "login_timeout",
    "allow_push_only",
    "logout",
    "eap_types",
    "client_ca",
    "eap_require_ca",
    "eap_bind_identity",
    "client_crl",
    "crl_whole_chain",
    "tls_status",
    "tunnel_tls13",
    "reply_message",
    "reject_delay",
    "echo_user",
    "vlan_by_group",
    "accounting",
    "das",
)


def resolve(record: Record, certificate: CertificatePair | None, extra: Callable[[str], Any]) -> RadiusProvider:
    """A provider's record, its key pair and our own settings for it, as one.

    ``extra(name)`` answers a row ``radius.<name>`` for this provider. Entries of ``client_networks`` that are no
    network are passed over (``problems`` names them). Raises ``ProviderError`` if there is no secret: MD5 over an
    empty one proves nothing.
    """
    if not record.shared_secret:
        raise ProviderError(f"provider {record.name!r}: the shared secret is empty")
    networks, _ = parse(record.client_networks)
    return RadiusProvider(
        pk=record.pk,
        name=record.name,
        application_slug=record.application_slug,
        flow_slug=record.auth_flow_slug,
        secret=record.shared_secret.encode(),
        networks=networks,
        mfa_support=record.mfa_support,
        certificate=certificate,
        challenge=_holds(extra("challenge"), record.pk),
        auto_consent=_holds(extra("auto_consent"), record.pk),
        add_class=extra("class"),
        **{name: extra(name) for name in EXTRA_FIELDS},
    )


def _holds(value: bool | tuple[int, ...], pk: int) -> bool:
    """A row that says true, false, or for which providers."""
    return value if isinstance(value, bool) else pk in value


def problems(record: Record) -> list[str]:
    """What is wrong with the client networks of a record that can be served all the same, for the log."""
    _, refused = parse(record.client_networks)
    if not refused:
        return []
    shown = ", ".join(repr(entry) for entry in refused[:MAX_REFUSED_SHOWN])
    more = f" and {len(refused) - MAX_REFUSED_SHOWN} more" if len(refused) > MAX_REFUSED_SHOWN else ""
    return [f"provider {record.name!r}: client networks without a meaning: {shown}{more}"]


class Providers:
    """All providers in service, by ``pk``. Immutable but for the memo in their networks."""

    __slots__ = ("_networks", "all", "by_pk")

    def __init__(self, providers: Iterable[RadiusProvider] = ()) -> None:
        self.all = tuple(sorted(providers, key=lambda provider: provider.pk))
        self.by_pk: Mapping[int, RadiusProvider] = {provider.pk: provider for provider in self.all}
        self._networks: Networks[RadiusProvider] = Networks(
            (network, provider) for provider in self.all for network in provider.networks
        )

    def __len__(self) -> int:
        return len(self.all)

    def __iter__(self) -> Iterator[RadiusProvider]:
        return iter(self.all)

    def find(self, address: str) -> tuple[RadiusProvider, ...]:
        """The providers on the longest network that holds a peer's address, in ``pk`` order.

        The address as a socket names it: a scope is dropped and IPv4-mapped IPv6 is IPv4.
        """
        return self._networks.find(address)

    def choose(self, packet: Packet, address: str) -> RadiusProvider | None:
        """The provider that serves this packet; None if the address is in no network.

        Several on one network: the first whose secret verifies the packet (its Message-Authenticator, or the Request
        Authenticator where that is computed); the first of all if none does or nothing is signed. That one is then
        asked to verify, so a packet that fits nobody is dropped as a bad signature.
        """
        candidates = self.find(address)
        if not candidates:
            return None
        if len(candidates) > 1:
            for provider in candidates:
                if _signed_for(packet, provider.secret):
                    return provider
        return candidates[0]


def _signed_for(packet: Packet, secret: bytes) -> bool:
    """Whether a packet proves that its sender has this secret."""
    if packet.code in COMPUTED_AUTHENTICATOR:
        return verify_accounting(packet, secret)
    return message_authenticator(packet, secret) is Signature.VALID


def resolve_all(
    records: Iterable[Record],
    certificate_of: Callable[[Record], CertificatePair | None],
    extra: Callable[[Record, str], Any],
) -> tuple[Providers, list[str]]:
    """All providers that can be served, and what is wrong with the rest, one line each for log and gauge."""
    served: list[RadiusProvider] = []
    wrong: list[str] = []
    for record in records:
        try:
            served.append(resolve(record, certificate_of(record), partial(extra, record)))
        except ProviderError as error:
            wrong.append(str(error))
        wrong += problems(record)
    return Providers(served), wrong
