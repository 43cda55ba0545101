"""The outpost's configuration: fetch, validate, swap whole, keep the last good one (core-contract §4, §7).

One refresh reads the outpost object, the root configuration, all providers of our type and their certificates. Only
when all of that is there does it become ``current``; a failure leaves the previous one in service. A single provider
that cannot be decoded is left out; a certificate that cannot be fetched stays the one we had and is tried again at the
next refresh.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import msgspec

from common import logs, metrics, tls
from common.errors import CoreError, CoreForbidden, OutpostError
from common.records import CertificateKeyPair, LDAPProvider, OutpostRecord, ProxyProvider, RadiusProvider, RootConfig
from common.tls import CertificateError, CertificatePair

SCHEMA = 1  # of the sealed configuration; another number makes older files unreadable on purpose
PROVIDER_PAGE_SIZE = 100  # providers per call, the core's own maximum
EXPIRY_WARNING_S = 14 * 86400.0  # two weeks: renewals that did not happen by then need a person

PROVIDER_TYPES: Mapping[str, type[Any]] = {"ldap": LDAPProvider, "radius": RadiusProvider, "proxy": ProxyProvider}

log = logs.get_logger("configuration")


class WrongOutpostType(OutpostError):
    """The token belongs to an outpost of another type: we must not serve it."""


class OutpostVanished(OutpostError):
    """The core knows no outpost for our token any more: it refuses the token, or shows no outpost."""

    retryable = True


class ConfigurationApi(Protocol):
    """What a refresh needs of the core."""

    async def outposts(self) -> list[OutpostRecord]:
        """Outposts the token may see."""

    async def root_config(self) -> RootConfig:
        """The core's root configuration."""

    def pages(
        self, path: str, params: Mapping[str, str] | Sequence[tuple[str, str]], page_size: int
    ) -> AsyncIterator[list[msgspec.Raw]]:
        """Pages of a listing, items undecoded."""

    async def certificate_key_pair(self, pk: str) -> CertificateKeyPair:
        """A key pair's record."""

    async def certificate_pem(self, pk: str) -> str:
        """Its certificate."""

    async def private_key_pem(self, pk: str) -> str:
        """Its key, "" if it has none."""


@dataclass(frozen=True)
class Configuration:
    """One complete configuration. ``certificates`` is by key-pair id; ``fetched_at`` is unix time."""

    outpost: OutpostRecord
    root: RootConfig
    providers: tuple[Any, ...]
    certificates: Mapping[str, CertificatePair] = field(default_factory=dict, repr=False)
    fetched_at: float = 0.0

    @property
    def log_level(self) -> str | None:
        """The level that the outpost object asks for; None for managed outposts, which keep the environment's."""
        if self.outpost.managed:
            return None
        level = self.outpost.config.get("log_level")
        return "info" if level in (None, "") else str(level)

    def certificate_of(self, provider: Any) -> CertificatePair | None:
        """The pair of a provider, if it has one."""
        return self.certificates.get(provider.certificate) if provider.certificate else None

    def without_providers(self) -> Configuration:
        """The same outpost serving nothing."""
        return Configuration(self.outpost, self.root, (), {}, self.fetched_at)


class _StoredPair(msgspec.Struct):
    pk: str
    fingerprint: str
    certificate_pem: str
    private_key_pem: str


class _Stored(msgspec.Struct):
    """A configuration as it is sealed."""

    fetched_at: float
    outpost: OutpostRecord
    root: RootConfig
    providers: list[msgspec.Raw]
    certificates: list[_StoredPair]


def to_bytes(configuration: Configuration) -> bytes:
    """For the sealed state; holds private keys."""
    return msgspec.json.encode(
        {
            "fetched_at": configuration.fetched_at,
            "outpost": configuration.outpost,
            "root": configuration.root,
            "providers": configuration.providers,
            "certificates": [
                _StoredPair(pair.pk, pair.fingerprint, pair.certificate_pem, pair.private_key_pem)
                for pair in configuration.certificates.values()
            ],
        }
    )


def from_bytes(content: bytes, outpost_type: str) -> Configuration | None:
    """The opposite; None if it is not a configuration of this type."""
    try:
        stored = msgspec.json.decode(content, type=_Stored)
        providers = tuple(msgspec.json.decode(raw, type=PROVIDER_TYPES[outpost_type]) for raw in stored.providers)
    except (msgspec.MsgspecError, ValueError):
        return None
    if stored.outpost.type != outpost_type:
        return None
    pairs = (CertificatePair(p.pk, p.fingerprint, p.certificate_pem, p.private_key_pem) for p in stored.certificates)
    return Configuration(stored.outpost, stored.root, providers, {pair.pk: pair for pair in pairs}, stored.fetched_at)


class ConfigurationCache:
    """The last good configuration and how to get the next one. ``clock`` gives unix time."""

    def __init__(self, api: ConfigurationApi, outpost_type: str, *, clock: Callable[[], float] = time.time) -> None:
        self._api = api
        self._type = outpost_type
        self._clock = clock
        self._root: RootConfig | None = None
        self._warned: set[str] = set()
        self.current: Configuration | None = None
        self.last_error: OutpostError | None = None
        # Known before the rest of a refresh is: enough to open the WebSocket.
        self.outpost_pk: str | None = None

    def age_s(self, now: float) -> float:
        """Seconds since the configuration in service was fetched; infinite if there is none."""
        return now - self.current.fetched_at if self.current else float("inf")

    def restore(self, configuration: Configuration) -> None:
        """Start from a sealed configuration."""
        self.current = configuration
        self.outpost_pk = configuration.outpost.pk
        self._root = configuration.root
        self._watch_certificates(configuration)

    async def refresh(self) -> Configuration:
        """Fetch everything and make it current.

        Raises ``CoreError``, ``OutpostVanished`` or ``WrongOutpostType``; then ``current`` stays as it was and
        ``last_error`` says why.
        """
        started = time.perf_counter()
        try:
            configuration = await self._fetch()
        except OutpostError as error:
            self.last_error = error
            metrics.refresh_errors.labels(_reason(error)).inc()
            raise
        finally:
            metrics.refresh_seconds.observe(time.perf_counter() - started)
        self.last_error = None
        self.current = configuration
        self._watch_certificates(configuration)
        return configuration

    async def _fetch(self) -> Configuration:
        try:
            outpost = self._own(await self._api.outposts())
        except CoreForbidden as error:
            raise OutpostVanished(f"the core refuses the token: {error}") from error
        self.outpost_pk = outpost.pk
        root = await self._root_config()
        providers = await self._providers()
        certificates = await self._certificates(providers)
        return Configuration(outpost, root, providers, certificates, self._clock())

    def _own(self, found: list[OutpostRecord]) -> OutpostRecord:
        if not found:
            raise OutpostVanished("token valid but no outpost visible")
        same_type = [outpost for outpost in found if outpost.type == self._type]
        if not same_type:
            raise WrongOutpostType(
                f"the token's outpost {found[0].name!r} is of type {found[0].type}, not {self._type}"
            )
        if len(found) > 1:
            log.warning("several outposts visible, taking the first of our type", outpost=same_type[0].name)
        return same_type[0]

    async def _root_config(self) -> RootConfig:
        try:
            self._root = await self._api.root_config()
        except CoreError as error:
            if self._root is None:
                raise
            log.warning("root configuration not read, keeping the last one", problem=str(error))
        return self._root

    async def _providers(self) -> tuple[Any, ...]:
        """All providers that can be decoded."""
        record_type = PROVIDER_TYPES[self._type]
        good: list[Any] = []
        skipped = 0
        async for page in self._api.pages(f"/outposts/{self._type}/", {}, PROVIDER_PAGE_SIZE):
            for raw in page:
                try:
                    good.append(msgspec.json.decode(raw, type=record_type))
                except msgspec.MsgspecError as error:
                    skipped += 1
                    # The library's text names field and type, never the value.
                    log.error("provider skipped", provider=_name_in(raw), problem=str(error))
        metrics.provider_skipped.set(skipped)
        metrics.providers.set(len(good))
        return tuple(good)

    async def _certificates(self, providers: tuple[Any, ...]) -> dict[str, CertificatePair]:
        previous = self.current.certificates if self.current else {}
        pairs: dict[str, CertificatePair] = {}
        for pk in dict.fromkeys(provider.certificate for provider in providers if provider.certificate):
            old = previous.get(pk)
            try:
                pairs[pk] = await self._certificate(pk, old)
            except (CoreError, CertificateError) as error:
                log.error("certificate not read", certificate=pk, kept_old=old is not None, problem=str(error))
                if old is not None:
                    pairs[pk] = old
        return pairs

    async def _certificate(self, pk: str, old: CertificatePair | None) -> CertificatePair:
        """The pair as it is now; the key is fetched only when the fingerprint is another one or unknown."""
        fingerprint = (await self._api.certificate_key_pair(pk)).fingerprint_sha256 or ""
        if old is not None and fingerprint and fingerprint == old.fingerprint:
            return old
        pair = CertificatePair(
            pk, fingerprint, await self._api.certificate_pem(pk), await self._api.private_key_pem(pk)
        )
        tls.check(pair)
        log.info("certificate loaded", certificate=pk, fingerprint=fingerprint, servable=pair.servable)
        return pair

    def _watch_certificates(self, configuration: Configuration) -> None:
        """Set the expiry metric, and warn once per certificate that is about to end."""
        metrics.certificate_expiry.clear()
        for pk, pair in configuration.certificates.items():
            try:
                ends = tls.expires_at(pair)
            except CertificateError:
                continue
            left = partial(self._seconds_until, ends)
            metrics.certificate_expiry.labels(pk).set_function(left)
            if left() < EXPIRY_WARNING_S and pair.fingerprint not in self._warned:
                self._warned.add(pair.fingerprint)
                log.warning("certificate ends soon", certificate=pk, days_left=round(left() / 86400, 1))

    def _seconds_until(self, moment: float) -> float:
        return moment - self._clock()


def _name_in(raw: msgspec.Raw) -> str:
    """A name for the log out of a record that cannot be decoded."""
    try:
        return str(msgspec.json.decode(raw, type=dict[str, Any]).get("name", "?"))
    except msgspec.MsgspecError:
        return "?"


def _reason(error: OutpostError) -> str:
    """Kind of an error as a metric label: ``CoreUnavailable`` is ``unavailable``."""
    name = type(error).__name__.removeprefix("Core")
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name).lstrip("_")
