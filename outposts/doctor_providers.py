"""``outposts doctor``: the outpost's providers: records, certificates, flows, overlaps, and a real login."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from common import challenges, endpoint, tls
from common.api import CoreApi
from common.challenges import Challenge
from common.errors import CoreError, CoreForbidden, CoreNotFound
from common.flow_client import FlowClient
from common.login import LoginService
from common.outcomes import Credentials, Denied, LoginTarget, Passed, Reason, Unavailable
from common.records import LDAPProvider, ProxyProvider, RadiusProvider
from common.settings import Settings
from common.tls import CertificateError, CertificatePair
from common.transport import Transport
from outposts.doctor_core import EXPIRY_WARNING_S, day
from outposts.doctor_report import Report
from outposts.ldap.dn import DN, DNError
from outposts.radius import networks

FLOW_S = 20.0  # for the first page of a flow
PROBE_ADDRESS = "127.0.0.1"  # what the core hears as the client's address
MIN_SECRET = 16  # characters of a RADIUS shared secret; RFC 2865 §3 asks for at least that many
Provider = LDAPProvider | RadiusProvider | ProxyProvider


async def listed(report: Report, api: CoreApi, type: str) -> list[Any]:
    """The outpost's providers, with a finding about how many."""
    read: dict[str, Callable[[], Any]] = {
        "ldap": api.ldap_providers,
        "radius": api.radius_providers,
        "proxy": api.proxy_providers,
    }
    if type not in read:
        report.fail("providers", f"there is no daemon for outposts of type {type}", "AUTHENTIK_TOKEN: another outpost")
        return []
    try:
        found: list[Any] = await read[type]()
    except CoreError as error:
        report.fail("providers", f"the list cannot be read: {error.problem}", "look at the core's log")
        return []
    if found:
        report.ok("providers", f"{len(found)}: {', '.join(provider.name for provider in found)}")
    else:
        report.fail(
            "providers", "the outpost has none, so it serves nobody", "choose applications in the outpost on the core"
        )
    return found


# Certificates


async def certificates(report: Report, api: CoreApi, providers: Sequence[Any], type: str, now: float) -> None:
    """Whether the key pairs can be read and used, and until when."""
    seen: set[str] = set()
    for provider in providers:
        pk = provider.certificate
        if not pk:
            if type == "ldap":
                report.warn(
                    "certificate",
                    f"{provider.name}: none, LDAPS and StartTLS show a self-signed one",
                    "choose a certificate in the provider on the core",
                )
        elif pk not in seen:
            seen.add(pk)
            await _certificate(report, api, provider.name, pk, now)


async def _certificate(report: Report, api: CoreApi, name: str, pk: str, now: float) -> None:
    try:
        pair = CertificatePair(pk, "", await api.certificate_pem(pk), await api.private_key_pem(pk))
        tls.check(pair)
        left_s = tls.expires_at(pair) - now
    except (CoreForbidden, CoreNotFound) as error:
        report.fail(
            "certificate",
            f"{name}: the core does not hand out key pair {pk} ({error.status})",
            "save the provider on the core once more, so that the outpost gets the right to read it",
        )
        return
    except CoreError as error:
        report.fail("certificate", f"{name}: key pair {pk} cannot be read: {error.problem}", "look at the core's log")
        return
    except CertificateError as error:
        report.fail("certificate", f"{name}: {error}", "import certificate and key anew on the core")
        return
    if not pair.servable:
        report.fail("certificate", f"{name}: the key pair has no private key", "choose one with a key in the provider")
    elif left_s < 0:
        report.fail("certificate", f"{name}: ended {day(now + left_s)}", "renew the certificate on the core")
    elif left_s < EXPIRY_WARNING_S:
        report.warn("certificate", f"{name}: ends {day(now + left_s)}", "renew the certificate on the core")
    else:
        report.ok("certificate", f"{name}: ends {day(now + left_s)}")


# Overlaps


def overlaps(report: Report, providers: Sequence[Any], type: str) -> None:
    """Providers that take each other's requests."""
    if type == "ldap":
        _base_dns(report, providers)
    elif type == "radius":
        _networks(report, providers)
    elif type == "proxy":
        _hosts(report, providers)


def _base_dns(report: Report, providers: Sequence[LDAPProvider]) -> None:
    bases: dict[bytes, list[tuple[LDAPProvider, DN]]] = defaultdict(list)
    wrong = False
    for provider in providers:
        try:
            base = DN.parse(provider.base_dn)
            if not base.rdns:
                raise DNError("empty")
        except DNError as error:
            wrong = True
            report.fail(
                "base dn",
                f"{provider.name}: {provider.base_dn!r} is not a DN ({error})",
                "correct the base DN in the provider on the core, such as DC=ldap,DC=example,DC=org",
            )
            continue
        bases[base.key].append((provider, base))
    for same in bases.values():
        if len(same) > 1:
            wrong = True
            report.fail(
                "base dn",
                f"{' and '.join(provider.name for provider, _ in same)} have the same base DN {same[0][1]}",
                "give each provider a base DN of its own, or move one to another outpost",
            )
    every = [same[0] for same in bases.values()]
    for inner, below in every:
        for outer, above in every:
            if inner is not outer and below.is_under(above):
                wrong = True
                report.warn(
                    "base dn",
                    f"{below} ({inner.name}) is below {above} ({outer.name}): the longer one serves it",
                    "if that is not meant, give the providers base DNs beside each other",
                )
    if every and not wrong:
        report.ok("base dn", "; ".join(f"{provider.name}: {provider.base_dn}" for provider, _ in every))


def _networks(report: Report, providers: Sequence[RadiusProvider]) -> None:
    by_network: dict[networks.Network, list[RadiusProvider]] = defaultdict(list)
    wrong = False
    for provider in providers:
        found, refused = networks.parse(provider.client_networks)
        for network in found:
            by_network[network].append(provider)
        if refused:
            wrong = True
            report.warn(
                "networks",
                f"{provider.name}: {', '.join(repr(entry) for entry in refused[:5])} is no network and is passed over",
                "correct the client networks in the provider on the core, such as 10.0.0.0/8",
            )
        if not found:
            wrong = True
            report.fail(
                "networks",
                f"{provider.name} has no client networks, so it answers nobody",
                "set the client networks in the provider on the core",
            )
        if not provider.shared_secret:
            wrong = True
            report.fail(
                "networks", f"{provider.name} has no shared secret, so it is not served", "set one in the provider"
            )
        elif len(provider.shared_secret) < MIN_SECRET:
            report.warn(
                "networks",
                f"{provider.name}: the shared secret is shorter than {MIN_SECRET} characters",
                "set a longer random one in the provider and in its clients",
            )
    for network, same in by_network.items():
        if len(same) > 1:
            wrong = True
            _same_network(report, network, same)
    for inner in by_network:
        above = [
            outer for outer in by_network if outer != inner and outer.version == inner.version and _within(inner, outer)
        ]
        if above:
            outer = max(above, key=lambda network: network.prefixlen)
            if by_network[outer] != by_network[inner]:
                wrong = True
                report.warn(
                    "networks",
                    f"{inner} ({by_network[inner][0].name}) is inside {outer} ({by_network[outer][0].name}): "
                    "the longest prefix serves",
                    "if that is not meant, change the client networks of one of them",
                )
    if by_network and not wrong:
        report.ok("networks", f"{len(by_network)} client networks, each with one provider")


def _same_network(report: Report, network: networks.Network, same: Sequence[RadiusProvider]) -> None:
    names = " and ".join(provider.name for provider in same)
    if len({provider.shared_secret for provider in same}) < len(same):
        report.fail(
            "networks",
            f"{network} is served by {names} with the same secret: only one of them is ever asked",
            "give each provider client networks or a secret of its own",
        )
    else:
        report.warn(
            "networks",
            f"{network} is served by {names}: signed packets go by their secret, unsigned ones to the first",
            "have the clients send Message-Authenticator, or give each provider networks of its own",
        )


def _within(inner: networks.Network, outer: networks.Network) -> bool:
    shift = outer.max_prefixlen - outer.prefixlen
    return (
        inner.prefixlen > outer.prefixlen and int(inner.network_address) >> shift == int(outer.network_address) >> shift
    )


def _hosts(report: Report, providers: Sequence[ProxyProvider]) -> None:
    hosts: dict[str, list[str]] = defaultdict(list)
    for provider in providers:
        hosts[provider.external_host.rstrip("/").lower()].append(provider.name)
        if provider.mode == "forward_domain" and not provider.cookie_domain:
            report.fail(
                "hosts",
                f"{provider.name} serves a whole domain and has no cookie domain",
                "set the cookie domain in the provider on the core",
            )
    for host, names in hosts.items():
        if len(names) > 1:
            report.fail(
                "hosts", f"{' and '.join(names)} have the same external host {host}", "give each a host of its own"
            )
        else:
            report.ok("hosts", f"{names[0]}: {host}")


# Flows

# What the first page of a flow may be, and what to do about one that no protocol without a browser can answer.
BROWSER_ONLY = {
    "ak-stage-captcha": "a captcha: take the captcha stage out of the flow",
    "ak-stage-consent": "consent, as authorization flows do: choose a flow with the designation authentication",
    "ak-stage-autosubmit": "a form for a browser: take that stage out of the flow",
    "ak-stage-authenticator-webauthn": "the set-up of a security key: take that stage out of the flow",
    "ak-stage-authenticator-totp": "the set-up of an authenticator: take that stage out of the flow",
    "ak-stage-authenticator-static": "the set-up of static codes: take that stage out of the flow",
    "ak-stage-email": "an e-mail with a link: take the e-mail stage out of the flow",
    "ak-stage-prompt": "a prompt: take the prompt stage out of the flow",
    "ak-stage-password": "a password before anybody was named: put an identification stage first",
    "ak-stage-user-login": "the login before anybody was named: put identification and password stages before it",
}


def flow_of(provider: Provider) -> str:
    """The slug of the flow that logs users in; "" for proxy providers, whose users log in by browser."""
    if isinstance(provider, LDAPProvider):
        return provider.bind_flow_slug
    return provider.auth_flow_slug if isinstance(provider, RadiusProvider) else ""


async def flows(report: Report, settings: Settings, transport: Transport, providers: Sequence[Any], type: str) -> None:
    """The first page of each provider's flow, and what becomes of it without a browser."""
    for provider in providers:
        slug = flow_of(provider)
        if not slug:
            continue
        client = FlowClient(
            transport,
            endpoint.endpoint(settings),
            token=settings.token,
            client_ip=PROBE_ADDRESS,
            slug=slug,
            protocol=type,
            deadline=time.monotonic() + FLOW_S,
            now=time.time,
            monotonic=time.monotonic,
            observe=lambda *_: None,
        )
        name = f"{provider.name}, flow {slug}"
        field = "bind flow" if type == "ldap" else "authentication flow"
        try:
            challenge = await client.step(None)
        except CoreNotFound:
            report.fail("flow", f"{name}: there is no such flow (404)", f"choose the {field} in the provider anew")
        except CoreForbidden:
            report.fail("flow", f"{name}: refused (403)", "AUTHENTIK_TOKEN: the outpost's, and let it pass the proxy")
        except CoreError as error:
            report.fail("flow", f"{name}: {error.problem}", "look at the core's log")
        else:
            _judge(report, name, field, provider, challenge)


def _judge(report: Report, name: str, field: str, provider: Any, challenge: Challenge) -> None:
    """Whether a flow's first page can be answered without a browser."""
    codes = "a code may follow the password after ;" if provider.mfa_support else "no codes (MFA support is off)"
    kind = challenge.component
    if isinstance(challenge, challenges.Identification):
        if challenge.captcha_stage is not None:
            report.fail("flow", f"{name}: a captcha", "remove the captcha stage in the identification stage")
        elif challenge.password_fields:
            report.ok("flow", f"{name}: name and password in one answer; {codes}")
        else:
            report.ok("flow", f"{name}: the name first, what follows shows a login (--user NAME); {codes}")
    elif isinstance(challenge, challenges.AccessDenied):
        report.fail(
            "flow",
            f"{name}: denied from the start ({challenge.error_message or 'no reason given'})",
            "look at the policies bound to the flow and at its authentication requirement (none or outpost)",
        )
    elif isinstance(challenge, challenges.Redirect):
        report.fail(
            "flow",
            f"{name}: ends at once and asks for no password, as authorization and invalidation flows do",
            f"{field}: choose a flow with the designation authentication",
        )
    elif isinstance(challenge, challenges.FlowError):
        report.fail("flow", f"{name}: an exception in the core", "look at the core's log")
    elif isinstance(challenge, challenges.AuthenticatorValidate):
        report.fail(
            "flow",
            f"{name}: begins with a second factor ({kind})",
            f"{field}: a flow that begins with an identification stage",
        )
    else:
        what = BROWSER_ONLY.get(kind, "needs a browser: take that stage out of the flow")
        report.fail("flow", f"{name}: begins with {kind}, which cannot be answered without a browser", what)


# A login

NEXT: dict[str, str] = {
    Reason.INVALID_CREDENTIALS: "name or password is wrong, or the flow does not look where the user is",
    Reason.FLOW_DENIED: "look at the policies and deny stages of the flow, and at the core's log",
    Reason.FLOW_RESTARTED: "name, password or code is wrong, or a stage sends the flow back to its beginning",
    Reason.ACCESS_DENIED: "the login is good; bind the user or a group to the application on the core",
    Reason.PASSWORD_NOT_ASKED: "put a password stage into the flow",
    Reason.NOT_AUTHENTICATED: "put a user login stage at the end of the flow",
    Reason.NEW_PASSWORD_WANTED: "the password is right and has ended: the user sets another one in a browser",
    Reason.UNSUPPORTED_CHALLENGE: "take that stage out of the flow, or give the provider a flow of its own",
    Reason.NO_AUTHENTICATOR: "the user needs TOTP, static codes or Duo; a code goes as PASSWORD;CODE (MFA support on)",
    Reason.MFA_UNSUPPORTED: "turn MFA support on in the provider, or use devices that need no browser",
    Reason.TOO_DEEP: "the flow runs in a circle: look at its stages and redirects",
    Reason.CORE_REFUSED: "flow or provider is gone, or the token may not use it: save the provider on the core anew",
    Reason.FLOW_ERROR: "look at the core's log",
    Reason.DEADLINE: "the core is too slow: look at its load; x_<type>_login_timeout is our patience",
    Reason.CORE_UNAVAILABLE: "look at the core's log",
    Reason.NONSENSE: "something in front of the core answers in its place",
}


def target_of(settings: Settings, provider: Provider, config: dict[str, Any]) -> LoginTarget | None:
    """The login that the daemon would do for a provider; None for those whose users log in by browser."""
    if isinstance(provider, LDAPProvider):
        push = settings.extra("ldap", "allow_push_only", config, provider.name)
        return LoginTarget(
            "ldap", provider.pk, provider.bind_flow_slug, provider.application_slug, provider.mfa_support,
            allow_push_only=push,
        )  # fmt: skip
    if isinstance(provider, RadiusProvider):
        push = settings.extra("radius", "allow_push_only", config, provider.name)
        agreed = settings.extra("radius", "auto_consent", config, provider.name)
        return LoginTarget(
            "radius", provider.pk, provider.auth_flow_slug, provider.application_slug, provider.mfa_support,
            allow_push_only=push, auto_consent=agreed if isinstance(agreed, bool) else provider.pk in agreed,
        )  # fmt: skip
    return None


async def login(
    report: Report, service: LoginService, target: LoginTarget, provider: Provider, username: str, password: str
) -> None:
    """A real login of a user through a provider, and the log-out after it."""
    outcome = await service.login(target, Credentials(username, password, PROBE_ADDRESS))
    name = f"{username} at {provider.name}"
    match outcome:
        case Passed():
            search = ", may search everything" if outcome.has_search_permission else ""
            code = ", with a code" if outcome.used_code else ""
            report.ok("login", f"{name}: passed and allowed to use {target.application_slug}{code}{search}")
            unbind = provider.unbind_flow_slug if isinstance(provider, LDAPProvider) else None
            if not await service.logout(outcome.session, unbind, PROBE_ADDRESS):
                report.warn(
                    "login",
                    "the session could not be ended",
                    "look at the unbind flow, or the brand's invalidation flow",
                )
        case Denied() | Unavailable():
            said = f": {outcome.message}" if outcome.message else ""
            stage = f" at {outcome.stage}" if isinstance(outcome, Denied) and outcome.stage else ""
            advice = NEXT.get(outcome.reason, "look at the core's log")
            report.fail("login", f"{name}: {outcome.reason}{stage}{said}", advice)
