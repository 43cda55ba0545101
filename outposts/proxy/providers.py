"""What the core says about a proxy provider, with the operator's settings, as one object; and which one serves a host.

Everything that a request needs is made here, once per refresh: compiled rules, cookie names, keys, header octets. The
table is immutable and replaced whole; sessions are tied to a provider's ``pk`` and ``client_id``, so they survive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urljoin, urlsplit

from common.errors import OutpostError
from common.records import ProxyProvider as Record
from common.tls import CertificatePair
from outposts.proxy import cookies, identity, rfc
from outposts.proxy.cookies import CookieOptions, Reader, SameSite
from outposts.proxy.identity import Identity, IdentityOptions
from outposts.proxy.rules import Rules, group_rules, path_rules
from outposts.proxy.state import Sealer
from outposts.proxy.urls import COMMON_PORTS, Host, Places, Url, below, domain_of, in_domain, parse_host, parse_url

MEMO_SIZE = 4096  # Host headers whose provider is remembered; clients choose them, so it is emptied when full


class ProviderError(OutpostError):
    """A provider record cannot be served; the others still are."""


class Mode(StrEnum):
    """What a provider does (proxy.md §1.1)."""

    PROXY = "proxy"
    SINGLE = "forward_single"
    DOMAIN = "forward_domain"


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where requests of a provider in mode ``proxy`` go. ``path`` is put in front of theirs; no final slash."""

    scheme: str
    host: Host
    path: str = ""
    verify: bool = True

    @property
    def origin(self) -> str:
        """``http://app:8080``"""
        return f"{self.scheme}://{self.host}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ProxyProvider:
    """One provider with everything that can be said about it. Times in seconds.

    ``settings`` are the rows ``proxy.<name>`` of our own settings for this provider. ``base`` is the directory of an
    external host with a path, without final slash: its own paths begin with ``base`` and ``PREFIX``.
    """

    pk: int
    name: str
    application_slug: str
    application_name: str
    mode: Mode
    external_host: str
    external: Url
    base: str
    redirect_uri: str
    start_url: str
    client_id: str
    client_secret: str
    cookie_secret: str
    oidc: Mapping[str, Any]
    scopes: tuple[str, ...]
    validity_s: float
    places: Places
    rules: Rules
    cookie: CookieOptions
    session_reader: Reader
    login_reader: Reader
    sealer: Sealer
    options: IdentityOptions
    anonymous: Identity
    stripped: frozenset[str]
    intercept: bool
    upstream: Upstream | None
    certificate: CertificatePair | None
    idle_s: float
    settings: Mapping[str, Any]

    def __repr__(self) -> str:
        """Short, for logs."""
        return f"ProxyProvider(pk={self.pk}, name={self.name!r})"

    @property
    def forward(self) -> bool:
        """Whether a web server asks, instead of sending its requests through us."""
        return self.mode is not Mode.PROXY

    def own_path(self, path: str) -> str | None:
        """What follows ``PREFIX`` in a raw path that is one of our own, else None."""
        for start in (rfc.PREFIX, self.base + rfc.PREFIX):
            if path == start or path.startswith(start + "/"):
                return path[len(start) :]
        return None


def resolve(
    record: Record,
    certificate: CertificatePair | None,
    settings: Mapping[str, Any],
    *,
    outpost: str = "",
    version: str = "",
) -> tuple[ProxyProvider, list[str]]:
    """A provider's record and our own settings for it as one, and what is wrong with it all the same.

    Raises ``ProviderError`` if it cannot be served: no usable external host, no OAuth client, no cookie secret, an
    unknown mode, or no upstream where one is needed.
    """

    def broken(problem: str) -> ProviderError:
        return ProviderError(f"provider {record.name!r}: {problem}")

    wrong: list[str] = []
    try:
        mode = Mode(record.mode)
    except ValueError:
        raise broken(f"unknown mode {record.mode!r}") from None
    external = parse_url(_octets(record.external_host))
    if external is None:
        raise broken("the external host is no http or https URL")
    if not record.client_id or not record.client_secret or not record.cookie_secret:
        raise broken("client id, client secret or cookie secret is empty")
    upstream = _upstream(record) if mode is Mode.PROXY else None
    if mode is Mode.PROXY and upstream is None:
        raise broken("the internal host is no http or https URL")

    domain = domain_of(record.cookie_domain)
    if domain is None:
        wrong.append("the cookie domain is no domain; it is not used")
    if mode is Mode.DOMAIN and not domain:
        wrong.append("a provider for a domain without a cookie domain serves its external host only")
    if domain and not in_domain(external.host.name, domain):
        wrong.append("the external host is not in the cookie domain: browsers will refuse its cookies")
    hosts = _hosts(settings["hosts"], wrong)
    places = Places(external, hosts, (domain or "") if mode is Mode.DOMAIN else "")
    paths, bad_paths = path_rules(record.skip_path_regex, places, whole=settings["skip_match"] == "full")
    groups, bad_groups = group_rules(settings["required_groups"])
    cookie = _cookie(record.client_id, domain or "", external, settings, wrong)
    oidc = record.oidc_configuration
    options = IdentityOptions(
        outpost=outpost,
        provider=record.name,
        application=record.assigned_application_slug,
        version=version,
        jwks_url=str(oidc.get("jwks_uri") or ""),
        send_jwt=settings["send_jwt"],
        budget=settings["header_budget"],
        basic_auth=record.basic_auth_enabled,
        basic_user_attribute=record.basic_auth_user_attribute or "",
        basic_password_attribute=record.basic_auth_password_attribute or "",
    )
    redirect_uri = urljoin(record.external_host, f"{rfc.PREFIX[1:]}/callback")
    provider = ProxyProvider(
        pk=record.pk,
        name=record.name,
        application_slug=record.assigned_application_slug,
        application_name=record.assigned_application_name,
        mode=mode,
        external_host=record.external_host,
        external=external,
        base=urlsplit(redirect_uri).path.removesuffix(f"{rfc.PREFIX}/callback"),
        redirect_uri=f"{redirect_uri}?{rfc.CALLBACK_SIGNATURE}=true",
        start_url=urljoin(record.external_host, f"{rfc.PREFIX[1:]}/start"),
        client_id=record.client_id,
        client_secret=record.client_secret,
        cookie_secret=record.cookie_secret,
        oidc=oidc,
        scopes=tuple(sorted(record.scopes_to_request)),
        validity_s=record.access_token_validity or 0.0,
        places=places,
        rules=Rules(paths, mode is Mode.DOMAIN, groups, settings["skip_networks"]),
        cookie=cookie,
        session_reader=Reader(cookie.name),
        login_reader=Reader(cookie.login_name, cookies.LOGIN_VALUE),
        sealer=Sealer(record.cookie_secret, record.client_id),
        options=options,
        anonymous=identity.anonymous(options),
        stripped=frozenset(identity.folded(name) for name in settings["strip_headers"]),
        intercept=record.intercept_header_auth,
        upstream=upstream,
        certificate=certificate,
        idle_s=settings["session_idle"],
        settings=settings,
    )
    return provider, [f"provider {record.name!r}: {problem}" for problem in (*wrong, *bad_paths, *bad_groups)]


def _octets(text: str) -> str:
    """Text of a record as the same kind of text that requests are: one character per octet of its UTF-8."""
    return text.encode("utf-8", "replace").decode("latin-1")


def _upstream(record: Record) -> Upstream | None:
    url = parse_url(_octets(record.internal_host or ""))
    if url is None:
        return None
    return Upstream(url.scheme, url.host, url.path.rstrip("/"), record.internal_host_ssl_validation)


def _hosts(entries: Iterable[str], wrong: list[str]) -> frozenset[Host]:
    """Further hosts of a provider."""
    found = set()
    for entry in entries:
        host = parse_host(_octets(entry))
        if host is None:
            wrong.append(f"further host {entry[:80]!r} is no host")
        else:
            found.add(Host(host.name) if host.port in COMMON_PORTS else host)
    return frozenset(found)


def _cookie(client_id: str, domain: str, external: Url, settings: Mapping[str, Any], wrong: list[str]) -> CookieOptions:
    """How cookies of a provider are written: as asked for, as far as browsers will keep them."""
    secure = external.scheme == "https"
    same_site = SameSite(settings["cookie_same_site"].capitalize())
    prefix = {"host": "__Host-", "secure": "__Secure-"}.get(settings["cookie_prefix"], "")
    partitioned = settings["cookie_partitioned"]
    if not secure and (prefix or partitioned or same_site is SameSite.NONE):
        wrong.append("cookies with a prefix, partitioned or for other sites need an https external host")
        prefix, partitioned, same_site = "", False, SameSite.LAX
    if prefix == "__Host-" and domain:
        wrong.append("a cookie with the prefix __Host- cannot have a domain; it gets __Secure-")
        prefix = "__Secure-"
    return CookieOptions(client_id, domain, secure, same_site, partitioned, prefix)


class Miss(StrEnum):
    """Why no provider serves a host."""

    BAD_HOST = "bad_host"  # it is no host
    UNKNOWN = "unknown"  # no provider has it
    NO_PATH = "no_path"  # the providers that have it are for other paths


class Providers:
    """All providers in service. Immutable but for the memo of hosts."""

    __slots__ = ("_by_domain", "_by_host", "_by_name", "_domains", "_memo", "all", "by_pk")

    def __init__(self, providers: Iterable[ProxyProvider] = ()) -> None:
        """Providers in the core's order: of two with the same host and path, the later one serves."""
        self.all = tuple(providers)
        self.by_pk: Mapping[int, ProxyProvider] = {provider.pk: provider for provider in self.all}
        hosts: dict[Host, dict[str, ProxyProvider]] = {}
        domains: dict[str, dict[str, ProxyProvider]] = {}
        for provider in self.all:
            for host in (*provider.places.hosts, provider.external.host):
                hosts.setdefault(host, {})[provider.base] = provider
            if provider.places.domain:
                domains.setdefault(provider.places.domain, {})[""] = provider
        self._by_host = {host: _longest_base_first(found.values()) for host, found in hosts.items()}
        by_name: dict[str, list[Host]] = {}
        for host in self._by_host:
            by_name.setdefault(host.name, []).append(host)
        # A name that has one place only is served on any port: behind a port mapping nobody knows the outer one.
        self._by_name = {name: found[0] for name, found in by_name.items() if len(found) == 1}
        self._by_domain = {domain: tuple(found.values()) for domain, found in domains.items()}
        self._domains = sorted(self._by_domain, key=lambda domain: (-len(domain), domain))
        self._memo: dict[str, tuple[Host, tuple[ProxyProvider, ...]] | Miss] = {}

    def __len__(self) -> int:
        return len(self.all)

    def __iter__(self) -> Iterator[ProxyProvider]:
        return iter(self.all)

    def lookup(self, text: str) -> tuple[Host, tuple[ProxyProvider, ...]] | Miss:
        """A ``Host`` header (one character per octet) → host and the providers that have it, longest path first."""
        found = self._memo.get(text)
        if found is None:
            found = self._lookup(text)
            if len(text) <= rfc.MAX_HOST:
                if len(self._memo) >= MEMO_SIZE:
                    self._memo.clear()
                self._memo[text] = found
        return found

    def _lookup(self, text: str) -> tuple[Host, tuple[ProxyProvider, ...]] | Miss:
        host = parse_host(text)
        if host is None:
            return Miss.BAD_HOST
        candidates = self.exactly(host)
        if not candidates and len(self.all) == 1:
            candidates = self.all
        return (host, candidates) if candidates else Miss.UNKNOWN

    def exactly(self, host: Host) -> tuple[ProxyProvider, ...]:
        """The providers of a host: named by an external host, or by the longest cookie domain that it is in."""
        found = self._by_host.get(host)
        if found is None and host.port in COMMON_PORTS:
            found = self._by_host.get(Host(host.name))
        if found is None and host.name in self._by_name:
            found = self._by_host[self._by_name[host.name]]
        if found is not None:
            return found
        for domain in self._domains:
            if in_domain(host.name, domain):
                return self._by_domain[domain]
        return ()

    def find(self, text: str, path: str) -> ProxyProvider | Miss:
        """The provider for a ``Host`` header and a raw path."""
        found = self.lookup(text)
        if isinstance(found, Miss):
            return found
        return choose(found[1], path) or Miss.NO_PATH


def choose(candidates: tuple[ProxyProvider, ...], path: str) -> ProxyProvider | None:
    """Of the providers of one host, the one whose path is the longest in front of ``path``; a single one has all."""
    if len(candidates) == 1:
        return candidates[0]
    for provider in candidates:
        if not provider.base or below(path, provider.base):
            return provider
    return None


def _longest_base_first(providers: Iterable[ProxyProvider]) -> tuple[ProxyProvider, ...]:
    return tuple(sorted(providers, key=lambda provider: (-len(provider.base), provider.base)))


def resolve_all(
    records: Iterable[Record],
    certificate_of: Callable[[Record], CertificatePair | None],
    settings_of: Callable[[Record], Mapping[str, Any]],
    *,
    former: Providers | None = None,
    outpost: str = "",
    version: str = "",
) -> tuple[Providers, list[str]]:
    """All providers that can be served, and what is wrong, one line each for log and gauge.

    A provider whose new record cannot be served keeps its ``former`` self: a mistake in a form must not lock out those
    who use it.
    """
    served: list[ProxyProvider] = []
    wrong: list[str] = []
    for record in records:
        try:
            provider, problems = resolve(
                record, certificate_of(record), settings_of(record), outpost=outpost, version=version
            )
        except ProviderError as error:
            wrong.append(str(error))
            kept = former.by_pk.get(record.pk) if former is not None else None
            if kept is not None:
                served.append(kept)
        else:
            served.append(provider)
            wrong += problems
    wrong += _shadowed(served)
    return Providers(served), wrong


def _shadowed(providers: list[ProxyProvider]) -> list[str]:
    """Providers that nobody can reach because a later one has their place, or that share a cookie."""
    wrong: list[str] = []
    places: dict[tuple[Host, str], ProxyProvider] = {}
    names: dict[str, ProxyProvider] = {}
    for provider in providers:
        before = places.get((provider.external.host, provider.base))
        if before is not None:
            wrong.append(f"provider {before.name!r} cannot be reached: {provider.name!r} has the same external host")
        places[provider.external.host, provider.base] = provider
        before = names.get(provider.cookie.name)
        if before is not None:
            wrong.append(f"providers {before.name!r} and {provider.name!r} have the same cookie name")
        names[provider.cookie.name] = provider
    return wrong
