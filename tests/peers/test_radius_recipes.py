"""What ``docs/radius.md`` shows as blueprint and as property mappings, with radclient as the network gear."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import daemons, peer_programs
from tests.peers.suite import ALICE_PASSWORD, core_url, outpost_token, start_core
from tests.peers.test_radius_proxies import login, radclient

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "radius.md").read_text()
SECRET = "recipe-secret"
PRINTER = "a4c3f0123456"


def shown(section: str, begin: str) -> str:
    """An indented block of a section that begins with this line."""
    part = TEXT.split(f"### {section}\n", 1)[1].split("\n### ", 1)[0]
    found = re.search(rf"(?m)^( +){re.escape(begin)}.*\n(?:\1.*\n|\n(?=\1))*", part)
    assert found, (section, begin)
    return textwrap.dedent(found[0])


def provider(*mappings: str) -> str:
    """A provider that gives alice and the devices access, with these property mappings."""
    expressions = "".join(
        f"""
  - model: authentik_providers_radius.radiusproviderpropertymapping
    id: mapping-{number}
    identifiers: {{name: recipe-{number}}}
    attrs:
      expression: |
{textwrap.indent(text, " " * 8)}"""
        for number, text in enumerate(mappings)
    )
    return f"""
version: 1
metadata: {{name: recipes}}
entries:{expressions}
  - model: authentik_core.group
    id: vpn
    identifiers: {{name: vpn-users}}
  - model: authentik_core.user
    identifiers: {{username: dave}}
    attrs: {{name: Dave, password: dave-pw, groups: [!KeyOf vpn]}}
  - model: authentik_providers_radius.radiusprovider
    id: recipes
    identifiers: {{name: recipes}}
    attrs:
      authorization_flow: !Find [authentik_flows.flow, [slug, ldap-authentication-flow]]
      invalidation_flow: !Find [authentik_flows.flow, [slug, default-invalidation-flow]]
      client_networks: 127.0.0.0/8
      shared_secret: {SECRET}
      mfa_support: true
      property_mappings: [{", ".join(f"!KeyOf mapping-{number}" for number in range(len(mappings)))}]
  - model: authentik_core.application
    identifiers: {{slug: recipes}}
    attrs: {{name: recipes, provider: !KeyOf recipes}}
  - model: authentik_outposts.outpost
    identifiers: {{name: recipes}}
    attrs:
      type: radius
      providers: [!KeyOf recipes]
      config:
        x_radius_vlan_by_group: devices=40, staff=20
"""


@contextmanager
def opened(folder: Path) -> Iterator[daemons.Daemon]:
    """Core and RADIUS daemon with what the recipes say."""
    mappings = [shown("FortiGate", "define_attribute")]
    mappings += [f"packet{found}" for found in re.findall(r'`packet(\["(?:Cisco-AVPair|Class)"\] = [^`]+)`', TEXT)]
    assert len(mappings) == 3
    devices = shown("MAC authentication bypass", "version: 1").split("entries:\n", 1)[1]
    core = start_core(folder, more=provider(*mappings) + devices)
    try:
        environment = daemons.outpost_environment(core_url(core), outpost_token(folder, "recipes"))
        with daemons.running("radius", environment) as radius:
            yield radius
    finally:
        core.kill()


@pytest.fixture(scope="module")
def radius(tmp_path_factory: pytest.TempPathFactory) -> Iterator[daemons.Daemon]:
    """One for all recipes."""
    peer_programs.program("radclient")
    with opened(tmp_path_factory.mktemp("recipes")) as started:
        yield started


def test_mac_authentication_bypass(radius: daemons.Daemon) -> None:
    """A printer gets the devices' VLAN, as a switch asks; an unknown address and a wrong spelling are rejected."""
    port = radius.address("radius")[1]
    more = ["Service-Type = Call-Check", "NAS-Port-Type = Ethernet", 'Calling-Station-Id = "A4-C3-F0-12-34-56"']
    accepted = radclient(port, SECRET, login(PRINTER, PRINTER, *more))
    assert "Received Access-Accept" in accepted and 'Tunnel-Private-Group-Id:0 = "40"' in accepted, accepted
    for name in ("a4c3f0123457", "A4-C3-F0-12-34-56"):
        assert "Received Access-Reject" in radclient(port, SECRET, login(name, name, *more))


def test_property_mappings(radius: daemons.Daemon) -> None:
    """Fortinet's group for its members only, Cisco's privilege, and Class, as radclient's dictionaries read them."""
    port = radius.address("radius")[1]
    dave = radclient(port, SECRET, login("dave", "dave-pw"))
    assert 'Fortinet-Group-Name = "vpn"' in dave, dave
    assert 'Cisco-AVPair = "shell:priv-lvl=15"' in dave
    assert f"Class = 0x{b'vpn-users'.hex()}" in dave
    alice = radclient(port, SECRET, login("alice", ALICE_PASSWORD))
    assert "Received Access-Accept" in alice and "Fortinet" not in alice, alice
    assert 'Tunnel-Private-Group-Id:0 = "20"' in alice
