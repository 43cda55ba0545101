"""The mutual-TLS stage: which header counts from whom, which certificate counts, and whom it names."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from core import models
from core.certificates import OUTPOST_HEADER
from core.errors import CoreSettingError, ValidationFailed
from core.stages.mtls import MutualTLSStage
from tests.certificates import Issuer, authority
from tests.core.cores import Client, Clock, Core, core, settings
from tests.core.test_flows import TYPES, Builder

TYPES["mtls"] = MutualTLSStage.model
AUTHORITY = authority("people")
DENIED, PASSED = "ak-stage-access-denied", "xak-flow-redirect"
RADIUS_OUTPOST = "RC RADIUS outpost"
PROXIES: dict[str, Any] = {
    "ssl-client-cert": lambda issued: quote(issued.pem, safe=""),
    "x-forwarded-client-cert": lambda issued: f'By=spiffe://a;Hash=1;Cert="{quote(issued.pem, safe="")}";Subject="x,y"',
    "x-forwarded-tls-client-cert": lambda issued: base64.b64encode(
        issued.certificate.public_bytes(Encoding.DER)
    ).decode(),
}


def now() -> Clock:
    """The real time: certificates are made with it."""
    return Clock(time.time())


def stage(running: Core, *, issuer: Issuer | None = AUTHORITY, flow: str = "f", **options: Any) -> models.Flow:
    """A flow of mTLS and login."""
    build = Builder(running)
    made = build.flow(flow, designation=options.pop("designation", "authentication"))
    values = {"mode": "required", "cert_attribute": "common_name", "user_attribute": "username"} | options
    if issuer is not None:
        pair = running.database.save(models.KeyPair(name=f"ca-{flow}", certificate_data=issuer.pem))
        values["certificate_authorities"] = [pair.pk]
    build.stage(made, "mtls", options=values)
    build.stage(made, "login")
    return made


def outpost_client(running: Core, issued: Issuer | None, name: str = RADIUS_OUTPOST) -> Client:
    """An outpost that passes a certificate on."""
    client = running.headless(name)
    if issued is not None:
        client.headers[OUTPOST_HEADER] = quote_plus(issued.pem)
    return client


async def who(client: Client) -> str | None:
    """Whose session the client has now."""
    reply = await client.get("/core/users/me/")
    return str(reply.json["user"]["username"]) if reply.status == 200 else None


@pytest.mark.parametrize("name", [RADIUS_OUTPOST, "RC LDAP outpost"])
async def test_a_certificate_from_an_outpost_logs_its_owner_in(name: str) -> None:
    """Without any question asked; event and context say that it was a certificate, and which."""
    async with core(clock=now()) as running:
        stage(running)
        client = outpost_client(running, AUTHORITY.issue(["alice"]), name)
        assert (await client.walk("f")).component == PASSED
        assert await who(client) == "alice"
        event = running.database.first(models.Event, action="login")
        assert event is not None
        assert event.context["auth_method"] == "mtls"
        assert event.context["auth_method_args"]["certificate"]["subject"] == "CN=alice"


async def test_the_header_counts_only_with_the_token_of_an_outpost_that_may() -> None:
    """No token, a person's token, no right, no address: the header does not exist."""
    async with core(clock=now()) as running:
        stage(running)
        issued = AUTHORITY.issue(["alice"])
        header = {OUTPOST_HEADER: quote_plus(issued.pem)}
        ip = {"X-Authentik-Remote-Ip": "192.0.2.55"}
        for headers in (
            header,
            header | ip,
            header | ip | {"X-Authentik-Outpost-Token": "nonsense"},
            header | ip | {"X-Authentik-Outpost-Token": "alice-api-token-key-1"},
            header | {"X-Authentik-Outpost-Token": running.outpost_token(RADIUS_OUTPOST)},
        ):
            client = running.client(**headers)
            assert (await client.walk("f")).component == DENIED
            assert await who(client) is None
        account = running.database.user_by_api_key(running.outpost_token(RADIUS_OUTPOST))
        assert account is not None
        for held in running.database.find(models.Permission, permission__contains="pass_outpost_certificate"):
            running.database.delete(held)
        assert (await outpost_client(running, issued).walk("f")).component == DENIED
        running.database.renew_outposts()  # as at the next start
        assert (await outpost_client(running, issued).walk("f")).component == PASSED


@pytest.mark.parametrize("header", sorted(PROXIES))
async def test_the_header_of_a_trusted_proxy(header: str) -> None:
    """The named header from the proxy counts; others, doubled ones, and the same from elsewhere do not."""
    issued = AUTHORITY.issue(["alice"])
    async with core(clock=now(), OUTPOSTS_CORE__CLIENT_CERTIFICATE_HEADER=header) as running:
        stage(running)
        client = running.client(**{header: PROXIES[header](issued)})
        assert (await client.walk("f")).component == PASSED
        assert await who(client) == "alice"
        for other in PROXIES.keys() - {header}:
            assert (await running.client(**{other: PROXIES[other](issued)}).walk("f")).component == DENIED
        assert (await running.client(**{header: "nonsense"}).walk("f")).component == DENIED
        twice = [(header, PROXIES[header](issued)), (header, PROXIES[header](issued))]
        async with running.http.get(f"{running.url}/api/v3/flows/executor/f/", headers=twice) as answer:
            assert (await answer.json())["component"] == DENIED
    away = {"OUTPOSTS_CORE__CLIENT_CERTIFICATE_HEADER": header, "AUTHENTIK_LISTEN__TRUSTED_PROXY_CIDRS": "192.0.2.0/24"}
    async with core(clock=now(), **away) as running:
        stage(running)
        assert (await running.client(**{header: PROXIES[header](issued)}).walk("f")).component == DENIED


async def test_no_proxy_header_counts_until_one_is_named() -> None:
    """A proxy on the same machine is trusted for addresses by default, not for certificates."""
    async with core(clock=now()) as running:
        stage(running)
        for header, written in PROXIES.items():
            reply = await running.client(**{header: written(AUTHORITY.issue(["alice"]))}).walk("f")
            assert reply.component == DENIED
    with pytest.raises(CoreSettingError):
        settings(Path("/nowhere"), OUTPOSTS_CORE__CLIENT_CERTIFICATE_HEADER="X-Other")


@pytest.mark.parametrize(
    "make",
    [
        lambda: authority("people").issue(["alice"]),
        lambda: AUTHORITY.issue(["alice"], days=(-2, -1)),
        lambda: AUTHORITY.issue(["alice"], days=(1, 2)),
        lambda: AUTHORITY.issue(["alice"], purposes=[ExtendedKeyUsageOID.SERVER_AUTH]),
        lambda: AUTHORITY.issue(["nobody-of-this-name"]),
        lambda: AUTHORITY.issue(["Alice"]),
        lambda: AUTHORITY.issue(["alice", "bob"]),
        lambda: AUTHORITY.issue(["dave"]),
        lambda: authority("alice"),
    ],
    ids=["issuer", "expired", "early", "purpose", "unknown", "case", "two names", "inactive", "self-signed"],
)
async def test_certificates_that_name_nobody(make: Any) -> None:
    """Refused where a certificate is required; nobody is logged in either way."""
    async with core(clock=now()) as running:
        stage(running)
        stage(running, flow="g", mode="optional")
        for flow in ("f", "g"):
            client = outpost_client(running, make())
            assert (await client.walk(flow)).component == DENIED
            assert await who(client) is None


async def test_optional_goes_on_to_the_next_stage() -> None:
    """With a good certificate nobody is asked; without one the password is."""
    async with core(clock=now()) as running:
        build = Builder(running)
        flow = build.flow()
        pair = running.database.save(models.KeyPair(name="ca", certificate_data=AUTHORITY.pem))
        options = {
            "mode": "optional", "cert_attribute": "common_name", "user_attribute": "username",
            "certificate_authorities": [pair.pk],
        }  # fmt: skip
        build.stage(flow, "mtls", options=options)
        skipped = build.stage(flow, "identification", options={"user_fields": ["username"],
                                                               "password_stage": build.password_stage()})  # fmt: skip
        build.policy(skipped, "return 'certificate' not in context")
        build.stage(flow, "login")
        good = outpost_client(running, AUTHORITY.issue(["alice"]))
        assert (await good.walk("f")).component == PASSED
        assert await who(good) == "alice"
        for issued in (None, authority("other").issue(["alice"])):
            client = outpost_client(running, issued)
            assert (await client.walk("f")).component == "ak-stage-identification"
            assert (await client.login("bob", "bob-pw-1", "f")).component == PASSED
            assert await who(client) == "bob"


@pytest.mark.parametrize(
    ("options", "names", "emails", "owner"),
    [
        ({"cert_attribute": "email", "user_attribute": "email"}, ["x"], ["bob@example.test"], "bob"),
        ({"cert_attribute": "email", "user_attribute": "email"}, ["x"], ["no@example.test", "bob@example.test"], "bob"),
        (
            {"cert_attribute": "email", "user_attribute": "email"},
            ["x"],
            ["alice@example.test", "bob@example.test"],
            None,
        ),
        ({"cert_attribute": "email", "user_attribute": "email"}, ["bob@example.test"], [], None),
        ({"cert_attribute": "common_name", "user_attribute": "email"}, ["bob@example.test"], [], "bob"),
        ({"cert_attribute": "subject", "user_attribute": "username"}, ["carl"], [], "CN=carl"),
        ({"cert_attribute": "common_name", "user_attribute": "email"}, ["twice@example.test"], [], None),
    ],
)
async def test_attributes(options: dict[str, str], names: list[str], emails: list[str], owner: str | None) -> None:
    """What of the certificate is compared with what of the user; who could be two is nobody."""
    async with core(clock=now()) as running:
        running.database.save(models.User(username="CN=carl"))
        for name in ("one", "two"):
            running.database.save(models.User(username=name, email="twice@example.test"))
        stage(running, **options)
        client = outpost_client(running, AUTHORITY.issue(names, emails=emails))
        assert (await client.walk("f")).component == (PASSED if owner else DENIED)
        assert await who(client) == owner


async def test_authorities_of_the_stage_go_before_those_of_the_brand() -> None:
    """None at all is a mistake of the set-up, which an event tells; nobody is let in by it."""
    async with core(clock=now()) as running:
        other = authority("brand")
        stage(running, issuer=None)
        stage(running, flow="g")
        client = outpost_client(running, other.issue(["alice"]))
        assert (await client.walk("f")).component == DENIED
        assert running.database.exists(models.Event, action="configuration_error")
        pair = running.database.save(models.KeyPair(name="brand ca", certificate_data=other.pem))
        brand = running.database.first(models.Brand, default=True)
        assert brand is not None
        brand.client_certificates = [pair.pk]
        running.database.save(brand)
        assert (await outpost_client(running, other.issue(["alice"])).walk("f")).component == PASSED
        assert (await outpost_client(running, AUTHORITY.issue(["alice"])).walk("f")).component == DENIED
        assert (await outpost_client(running, other.issue(["alice"])).walk("g")).component == DENIED


async def test_an_intermediate_may_be_the_authority() -> None:
    """Outposts pass only the leaf on, so its direct issuer may be the one that is trusted."""
    async with core(clock=now()) as running:
        between = AUTHORITY.issue(["between"], authority=True, purposes=())
        stage(running, issuer=between)
        assert (await outpost_client(running, between.issue(["alice"])).walk("f")).component == PASSED


async def test_a_certificate_never_changes_whom_the_flow_is_about() -> None:
    """After a password of one person, the certificate of another is refused; that of the same is a second factor."""
    async with core(clock=now()) as running:
        build = Builder(running)
        flow = build.flow()
        build.stage(flow, "identification", 5, {"user_fields": ["username"], "password_stage": build.password_stage()})
        pair = running.database.save(models.KeyPair(name="ca", certificate_data=AUTHORITY.pem))
        options = {
            "mode": "required", "cert_attribute": "common_name", "user_attribute": "username",
            "certificate_authorities": [pair.pk],
        }  # fmt: skip
        build.stage(flow, "mtls", 6, options)
        build.stage(flow, "login", 7)
        bob = outpost_client(running, AUTHORITY.issue(["bob"]))
        assert (await bob.login("alice", "alice-pw-1", "f")).component == DENIED
        assert await who(bob) is None
        alice = outpost_client(running, AUTHORITY.issue(["alice"]))
        assert (await alice.login("alice", "alice-pw-1", "f")).component == PASSED
        assert await who(alice) == "alice"


async def test_an_enrollment_learns_from_an_unknown_certificate() -> None:
    """Name and address are there for the stages that follow."""
    async with core(clock=now()) as running:
        build = Builder(running)
        flow = build.flow(designation="enrollment")
        pair = running.database.save(models.KeyPair(name="ca", certificate_data=AUTHORITY.pem))
        options = {
            "mode": "required", "cert_attribute": "common_name", "user_attribute": "username",
            "certificate_authorities": [pair.pk],
        }  # fmt: skip
        build.stage(flow, "mtls", options=options)
        deny = build.stage(flow, "deny", options={"deny_message": "as expected"})
        build.policy(
            deny,
            "return context['prompt_data'] == {'email': 'new@example.test', 'name': 'newcomer'}"
            " and context['certificate']['subject'] == 'CN=newcomer'",
        )
        issued = AUTHORITY.issue(["newcomer"], emails=["new@example.test"])
        reply = await outpost_client(running, issued).walk("f")
        assert reply.json["error_message"] == "as expected"


def test_options() -> None:
    """Mode and both attributes must be given and be known."""
    good = {"mode": "required", "cert_attribute": "email", "user_attribute": "email"}
    assert MutualTLSStage.read_options(good).certificate_authorities == []
    for name in good:
        with pytest.raises(ValidationFailed):
            MutualTLSStage.read_options({key: value for key, value in good.items() if key != name})
        with pytest.raises(ValidationFailed):
            MutualTLSStage.read_options(good | {name: "other"})
