"""EAP end to end: the real RADIUS daemon, and the embedded core with passwords, codes and certificates.

Providers with a secret each: passwords; certificates that the core's mutual-TLS stage knows; certificates whose issuers
the daemon itself checks, before a flow that only asks for a name; passwords again, with a server certificate out of
date, or with a long chain.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import daemons
from tests.certificates import Issuer, authority
from tests.peers.suite import core_url, outpost_token, start_core
from tests.peers.supplicant import Supplicant
from tests.radius.radsec_peer import issue

SERVERS = authority("servers of the demo")
BETWEEN = SERVERS.issue(("issuing servers",), authority=True, purposes=())
SERVER = BETWEEN.issue(("radius.example",), purposes=())
EXPIRED = BETWEEN.issue(("radius.example",), purposes=(), days=(-2, -1))
DEVICES = authority("network gear")
PROXY = issue(DEVICES, "proxy", dns=["proxy.example.org"])
PEOPLE = authority("people of the demo")
ISSUING = PEOPLE.issue(("issuing people",), authority=True, purposes=())
PASSWORDS, CERTIFICATES, CHECKED = "password-secret", "certificate-secret", "checked-secret"
OUT_OF_DATE, LONG = "out-of-date-secret", "long-secret"
CAROL_PASSWORD = "carol-demo-pw"
CODES = [f"carolc{number:02d}" for number in range(20)]

STAGES = {
    "identification": "authentik_stages_identification.identificationstage",
    "login": "authentik_stages_user_login.userloginstage",
}
OF_DEMO = {name: f"!Find [{model}, [name, ldap-authentication-{name}]]" for name, model in STAGES.items()}
OF_PASSWORDS = "!Find [authentik_flows.flow, [slug, ldap-authentication-flow]]"


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


def steps(root: Issuer, count: int) -> list[Issuer]:
    """Intermediate issuers below a root, the last first, as a chain is sent; each about 1.5 KiB for its many names."""
    found = [root]
    for number in range(count):
        emails = [f"somebody-{name:02d}@step-{number}.example.org" for name in range(25)]
        found.append(found[-1].issue((f"step {number}",), emails=emails, authority=True, purposes=()))
    return found[:0:-1]


LONG_CHAIN = steps(SERVERS, 5)
LONG_SERVER = LONG_CHAIN[0].issue(("radius.example",), purposes=())


def _key_pair(name: str, issuer: Issuer, *chain: Issuer) -> str:
    return f"""
  - model: authentik_crypto.certificatekeypair
    id: {name}
    identifiers: {{name: {name}}}
    attrs:
      certificate_data: {json.dumps("".join(one.pem for one in (issuer, *chain)))}
      key_data: {json.dumps(issuer.key_pem)}"""


def _provider(name: str, secret: str, flow: str, certificate: str = "server") -> str:
    return f"""
  - model: authentik_providers_radius.radiusprovider
    id: {name}
    identifiers: {{name: {name}}}
    attrs:
      authorization_flow: {flow}
      invalidation_flow: !Find [authentik_flows.flow, [slug, default-invalidation-flow]]
      client_networks: 127.0.0.0/8
      shared_secret: {secret}
      certificate: !KeyOf {certificate}
      mfa_support: true
  - model: authentik_core.application
    identifiers: {{slug: {name}}}
    attrs: {{name: {name}, provider: !KeyOf {name}}}"""


def blueprint() -> str:
    """Providers, an outpost, and carol with codes on paper. JSON is valid YAML."""
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
  {_key_pair("server", SERVER, BETWEEN)}
  {_key_pair("server-out-of-date", EXPIRED, BETWEEN)}
  {_key_pair("server-long", LONG_SERVER, *LONG_CHAIN)}
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
  {_provider("passwords", PASSWORDS, OF_PASSWORDS)}
  {_provider("out-of-date", OUT_OF_DATE, OF_PASSWORDS, "server-out-of-date")}
  {_provider("long", LONG, OF_PASSWORDS, "server-long")}
  {_provider("certificates", CERTIFICATES, "!KeyOf certificate-flow")}
  {_provider("checked", CHECKED, "!KeyOf name-flow")}
  - model: authentik_outposts.outpost
    identifiers: {{name: eap}}
    attrs:
      type: radius
      providers: [!KeyOf passwords, !KeyOf certificates, !KeyOf checked, !KeyOf out-of-date, !KeyOf long]
      config:
        x_radius_challenge: true
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
        return [str(record["reason"]) for record in self.radius.records() if record.get("reason")][-1]


@contextmanager
def opened() -> Iterator[Wifi]:
    """Core and RADIUS daemon. All refusals come from one address, so nothing is throttled."""
    with tempfile.TemporaryDirectory(prefix="outposts-eap-") as name:
        folder = Path(name)
        core = start_core(folder, more=blueprint())
        try:
            (folder / "radsec-ca.pem").write_text(DEVICES.pem)
            environment = daemons.outpost_environment(
                core_url(core),
                outpost_token(folder, "eap"),
                OUTPOSTS_LISTEN__RADSEC="127.0.0.1:0",
                OUTPOSTS_RADSEC__CA=str(folder / "radsec-ca.pem"),
                OUTPOSTS_RADSEC__CLIENTS='{"passwords": "proxy.example.org"}',
                **UNTHROTTLED,
            )
            with daemons.running("radius", environment) as radius:
                yield Wifi(radius, Supplicant(folder / "peer", radius.address("radius"), SERVERS))
        finally:
            core.kill()


UNTHROTTLED = {f"OUTPOSTS_RADIUS__FAILURES{kind}": "0" for kind in ("", "_PER_NAS")}
