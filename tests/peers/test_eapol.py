"""EAP end to end: eapol_test, the real RADIUS daemon, and the embedded core with passwords, codes and certificates.

Three providers with three secrets: passwords; certificates that the core's mutual-TLS stage knows; certificates whose
issuers the daemon itself checks, before a flow that only asks for a name.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import daemons, peer_programs
from tests.certificates import Issuer, authority
from tests.peers.suite import ALICE_PASSWORD, core_url, outpost_token, start_core
from tests.peers.supplicant import TLS12, TLS13, Access, Supplicant

SERVERS = authority("servers of the demo")
BETWEEN = SERVERS.issue(("issuing servers",), authority=True, purposes=())
SERVER = BETWEEN.issue(("radius.example",), purposes=())
PEOPLE = authority("people of the demo")
ISSUING = PEOPLE.issue(("issuing people",), authority=True, purposes=())
PASSWORDS, CERTIFICATES, CHECKED = "password-secret", "certificate-secret", "checked-secret"
CAROL_PASSWORD = "carol-demo-pw"
CODES = [f"carolc{number:02d}" for number in range(20)]

STAGES = {
    "identification": "authentik_stages_identification.identificationstage",
    "login": "authentik_stages_user_login.userloginstage",
}
OF_DEMO = {name: f"!Find [{model}, [name, ldap-authentication-{name}]]" for name, model in STAGES.items()}


def _flow(slug: str, *stages: str) -> str:
    text = f"""
  - model: authentik_flows.flow
    id: {slug}
    identifiers: {{slug: {slug}}}
    attrs: {{name: {slug}, title: {slug}, designation: authentication, authentication: require_outpost}}"""
    for order, stage in enumerate(stages):
        text += f"""
  - model: authentik_flows.flowstagebinding
    identifiers: {{target: !KeyOf {slug}, stage: {stage}, order: {order}}}"""
    return text


def _provider(name: str, secret: str, flow: str) -> str:
    return f"""
  - model: authentik_providers_radius.radiusprovider
    id: {name}
    identifiers: {{name: {name}}}
    attrs:
      authorization_flow: {flow}
      invalidation_flow: !Find [authentik_flows.flow, [slug, default-invalidation-flow]]
      client_networks: 127.0.0.0/8
      shared_secret: {secret}
      certificate: !KeyOf server
      mfa_support: true
  - model: authentik_core.application
    identifiers: {{slug: {name}}}
    attrs: {{name: {name}, provider: !KeyOf {name}}}"""


def blueprint() -> str:
    """Three providers, an outpost, and carol with codes on paper. JSON is valid YAML."""
    return f"""
version: 1
metadata: {{name: eap}}
entries:
  - model: authentik_core.user
    id: carol
    identifiers: {{username: carol}}
    attrs: {{name: Carol, email: carol@example.org, password: {CAROL_PASSWORD}}}
  - model: authentik_stages_authenticator_static.staticdevice
    identifiers: {{name: paper, user: !KeyOf carol}}
    attrs: {{confirmed: true, tokens: {json.dumps(CODES)}}}
  - model: authentik_crypto.certificatekeypair
    id: server
    identifiers: {{name: server}}
    attrs:
      certificate_data: {json.dumps(SERVER.pem + BETWEEN.pem)}
      key_data: {json.dumps(SERVER.key_pem)}
  - model: authentik_crypto.certificatekeypair
    id: people
    identifiers: {{name: people}}
    attrs: {{certificate_data: {json.dumps(PEOPLE.pem)}}}
  - model: authentik_stages_mtls.mutualtlsstage
    id: mtls
    identifiers: {{name: client-certificate}}
    attrs:
      mode: required
      certificate_authorities: [!KeyOf people]
      cert_attribute: common_name
      user_attribute: username
  - model: authentik_stages_identification.identificationstage
    id: name-only
    identifiers: {{name: name-only}}
    attrs: {{user_fields: [username, email]}}
  {_flow("certificate-flow", "!KeyOf mtls", OF_DEMO["login"])}
  {_flow("name-flow", "!KeyOf name-only", OF_DEMO["login"])}
  {_provider("passwords", PASSWORDS, "!Find [authentik_flows.flow, [slug, ldap-authentication-flow]]")}
  {_provider("certificates", CERTIFICATES, "!KeyOf certificate-flow")}
  {_provider("checked", CHECKED, "!KeyOf name-flow")}
  - model: authentik_outposts.outpost
    identifiers: {{name: eap}}
    attrs:
      type: radius
      providers: [!KeyOf passwords, !KeyOf certificates, !KeyOf checked]
      config:
        x_radius_eap_types: {{"checked": [tls], "certificates": [tls], "*": [tls, ttls, peap]}}
        x_radius_client_ca: {{"checked": {json.dumps(PEOPLE.pem)}, "*": ""}}
"""


@dataclass
class Wifi:
    """The running daemon and who talks to it."""

    radius: daemons.Daemon
    supplicant: Supplicant

    def last_reason(self) -> str:
        """The reason of the last request that the daemon has logged."""
        return [record["reason"] for record in self.radius.records() if record.get("reason")][-1]


@pytest.fixture(scope="module")
def wifi() -> Iterator[Wifi]:
    """Core and RADIUS daemon. All refusals come from one address, so nothing is throttled."""
    peer_programs.program("eapol_test")
    with tempfile.TemporaryDirectory(prefix="outposts-eap-") as name:
        folder = Path(name)
        core = start_core(folder, more=blueprint())
        try:
            environment = daemons.outpost_environment(core_url(core), outpost_token(folder, "eap"), **UNTHROTTLED)
            with daemons.running("radius", environment) as radius:
                yield Wifi(radius, Supplicant(folder / "peer", radius.address("radius"), SERVERS))
        finally:
            core.kill()


UNTHROTTLED = {f"OUTPOSTS_RADIUS__FAILURES{kind}": "0" for kind in ("", "_PER_NAS")}
VERSIONS = pytest.mark.parametrize("versions", [TLS12, TLS13], ids=["tls12", "tls13"])
TUNNELS = pytest.mark.parametrize(
    ("method", "inner"),
    [("TTLS", "auth=PAP"), ("TTLS", "autheap=GTC"), ("PEAP", "auth=GTC")],
    ids=["ttls-pap", "ttls-gtc", "peap-gtc"],
)


@TUNNELS
@pytest.mark.parametrize("user", [("alice", ALICE_PASSWORD), ("carol", "")], ids=["password", "password;code"])
def test_r58_passwords(wifi: Wifi, method: str, inner: str, user: tuple[str, str]) -> None:
    """Inside a tunnel: a password, and a password with a code; the keys of both sides agree."""
    name, password = user
    typed = password or f"{CAROL_PASSWORD};{CODES.pop()}"
    access = wifi.supplicant.run(PASSWORDS, method, identity=name, password=typed, inner=inner, arguments=["-e"])
    assert access.granted and access.session_id_agrees, access.text


@TUNNELS
def test_wrong_passwords(wifi: Wifi, method: str, inner: str) -> None:
    """Failure, and no keys."""
    access = wifi.supplicant.run(PASSWORDS, method, password="wrong", inner=inner)
    assert access.refused, access.text
    assert wifi.last_reason() == "invalid_credentials"


@pytest.mark.parametrize(("method", "inner"), [("TTLS", "autheap=GTC"), ("PEAP", "auth=GTC")], ids=["ttls", "peap"])
def test_r58_a_second_prompt(wifi: Wifi, method: str, inner: str) -> None:
    """A person types the password at the first prompt and a code at the second."""
    answers = [CAROL_PASSWORD, CODES.pop()]
    access = wifi.supplicant.run(PASSWORDS, method, identity="carol", inner=inner, answers=answers)
    assert access.granted, access.text


def test_r58_wrong_codes_at_the_prompt(wifi: Wifi) -> None:
    """A wrong code is asked for again, three times in all (in PEAP: this peer takes one further question in TTLS)."""
    answers = [CAROL_PASSWORD, "000000", "000000", "000000"]
    access = wifi.supplicant.run(PASSWORDS, "PEAP", identity="carol", inner="auth=GTC", answers=answers)
    assert access.refused, access.text


@pytest.mark.parametrize(
    ("method", "inner", "reason"),
    [
        ("TTLS", "auth=MSCHAPV2", "unsupported_auth"),
        ("TTLS", "auth=CHAP", "unsupported_auth"),
        ("TTLS", "autheap=MD5", "no_common_inner_method"),
        ("PEAP", "auth=MSCHAPV2", "no_common_inner_method"),
        ("MD5", "", "eap_no_common_method"),
    ],
)
def test_r55_methods_that_cannot_work(wifi: Wifi, method: str, inner: str, reason: str) -> None:
    """What needs a password hash on the core is refused, without a flow."""
    access = wifi.supplicant.run(PASSWORDS, method, password=ALICE_PASSWORD, inner=inner)
    assert access.refused, access.text
    assert wifi.last_reason() == reason


@VERSIONS
@pytest.mark.parametrize("secret", [CERTIFICATES, CHECKED], ids=["core", "daemon"])
def test_r48_r49_certificates(wifi: Wifi, versions: str, secret: str) -> None:
    """A certificate that the core's stage knows, or whose issuer the daemon knows."""
    certificate = PEOPLE.issue(("alice",))
    access = wifi.supplicant.run(secret, "TLS", certificate=certificate, versions=versions, arguments=["-e"])
    assert access.granted and access.session_id_agrees, access.text


@VERSIONS
def test_intermediate_issuers(wifi: Wifi, versions: str) -> None:
    """The peer sends what leads to the issuer that the daemon knows."""
    certificate = ISSUING.issue(("alice",))
    access = wifi.supplicant.run(CHECKED, "TLS", certificate=certificate, chain=[ISSUING], versions=versions)
    assert access.granted, access.text
    access = wifi.supplicant.run(CHECKED, "TLS", certificate=certificate, versions=versions)
    assert access.refused and wifi.last_reason() == "client_certificate_refused"


@VERSIONS
@pytest.mark.parametrize(
    ("secret", "certificate", "identity", "reason"),
    [
        (CERTIFICATES, authority("people of the demo").issue(("alice",)), "alice", None),
        (CERTIFICATES, PEOPLE.issue(("nobody",)), "alice", None),
        (CHECKED, authority("people of the demo").issue(("alice",)), "alice", "client_certificate_refused"),
        (CHECKED, PEOPLE.issue(("alice",), days=(-2, -1)), "alice", "client_certificate_refused"),
        (CHECKED, PEOPLE.issue(("alice",)), "carol", "identity_mismatch"),
    ],
    ids=["unknown issuer", "unknown user", "other issuer", "expired", "somebody else's name"],
)
def test_r54_certificates_that_do_not_count(
    wifi: Wifi, versions: str, secret: str, certificate: Issuer, identity: str, reason: str | None
) -> None:
    """Refused by the core or by the daemon; no keys either way."""
    access = wifi.supplicant.run(secret, "TLS", identity=identity, certificate=certificate, versions=versions)
    assert access.refused, access.text
    assert reason is None or wifi.last_reason() == reason


@VERSIONS
@pytest.mark.parametrize("method", ["TLS", "TTLS"])
def test_r52_a_peer_that_does_not_trust_us(wifi: Wifi, method: str, versions: str) -> None:
    """The peer's alert ends it with a Reject, and no password has crossed the tunnel."""
    secret = CHECKED if method == "TLS" else PASSWORDS
    access = wifi.supplicant.run(
        secret,
        method,
        password=ALICE_PASSWORD,
        inner="" if method == "TLS" else "auth=PAP",
        certificate=PEOPLE.issue(("alice",)) if method == "TLS" else None,
        authority=authority("somebody else"),
        versions=versions if method == "TLS" else TLS12,
    )
    assert access.refused, access.text
    assert wifi.last_reason() == "peer_refused"


@VERSIONS
def test_r50_r51_fragments_both_ways(wifi: Wifi, versions: str) -> None:
    """The peer cuts its flights to 100 octets; ours fit a Framed-MTU of 600."""
    access = wifi.supplicant.run(
        CHECKED,
        "TLS",
        certificate=ISSUING.issue(("alice",)),
        chain=[ISSUING],
        versions=versions,
        more={"fragment_size": "100"},
        arguments=["-N12:d:600"],
    )
    assert access.granted, access.text
    assert access.longest <= 596


def test_reauthentication(wifi: Wifi) -> None:
    """A peer that would resume its TLS session goes through the whole method each time."""
    access: Access = wifi.supplicant.run(
        PASSWORDS, "PEAP", password=ALICE_PASSWORD, inner="auth=GTC", arguments=["-r", "2"]
    )
    assert access.text.count("CTRL-EVENT-EAP-SUCCESS") == 3, access.text
    assert "MPPE keys OK: 3  mismatch: 0" in access.text
