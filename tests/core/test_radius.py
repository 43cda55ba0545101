"""RADIUS providers: reply attributes from property mappings, and what becomes of mappings that fail (radius.md §6)."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from pyrad.dictionary import Dictionary
from pyrad.packet import Packet

from core import models
from core.blueprints import Blueprints
from core.errors import BlueprintError
from core.policies import POLICY_TYPES
from core.radius_attributes import DICTIONARY, RADIUS_MAPPING
from core.stages import STORABLE
from tests.core.cores import Core, core

RADIUS_OUTPOST = "RC RADIUS outpost"


def provider(running: Core, name: str = "RADIUS two") -> models.Provider:
    """A provider of the set-up; "two" has no mappings."""
    found = running.database.first(models.Provider, name=name)
    assert found is not None
    return found


def with_mappings(running: Core, *expressions: str) -> models.Provider:
    """The provider with these mappings, whose names sort in this order."""
    changed = provider(running)
    changed.property_mappings = [
        running.database.save(
            models.PropertyMapping(type=RADIUS_MAPPING, name=f"m{number}", options={"expression": expression})
        ).pk
        for number, expression in enumerate(expressions)
    ]
    changed.property_mappings.reverse()  # the names decide, not the list
    return running.database.save(changed)


async def check_access(running: Core, served: models.Provider, slug: str = "radius-two", user: str = "alice") -> Any:
    """Log in over the flow as RADIUS would, and ask for access."""
    client = running.headless(RADIUS_OUTPOST)
    assert (await client.login(user, f"{user}-pw-1")).component == "xak-flow-redirect"
    reply = await client.get(f"/outposts/radius/{served.pk}/check_access/?app_slug={slug}")
    assert reply.status == 200, reply.body
    return reply.json


def attributes(answer: Any) -> list[tuple[Any, list[bytes]]]:
    """The attributes of an answer's packet, by number, as another implementation reads them."""
    raw = base64.b64decode(answer["attributes"])
    assert raw[0] == 1 and len(raw) == int.from_bytes(raw[2:4], "big")
    packet = Packet(packet=raw, dict=Dictionary(str(DICTIONARY)))
    return [(key, packet[key]) for key in dict.keys(packet)]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("packet['Reply-Message'] = 'hi ' + user.username", [(18, [b"hi alice"])]),
        ("packet['Reply-Message'] = ['a', 'b']", [(18, [b"a", b"b"])]),
        ("packet.AddAttribute('Class', b'1')\npacket.AddAttribute('Class', b'2')", [(25, [b"1", b"2"])]),
        ("packet['Service-Type'] = 'Administrative-User'", [(6, [b"\0\0\0\6"])]),
        ("packet['Framed-IP-Address'] = '192.0.2.7'", [(8, [b"\xc0\0\2\7"])]),
        (
            r"packet[64]=[b'\x00\x00\x00\x0d']; packet[65]=[b'\x00\x00\x00\x06']; packet[81]=[b'20']",
            [(64, [b"\0\0\0\x0d"]), (65, [b"\0\0\0\6"]), (81, [b"20"])],
        ),
        ("packet['Cisco-AVPair'] = 'shell:priv-lvl=15'", [((9, 1), [b"shell:priv-lvl=15"])]),
        ("packet['MS-Primary-DNS-Server'] = '192.0.2.1'", [((311, 28), [b"\xc0\0\2\1"])]),
        (
            "define_attribute(vendor_code=14988, vendor_name='Mikrotik', attribute_name='Group', attribute_code=3,"
            " attribute_type='string')\npacket['Mikrotik-Group'] = request.user.groups.all().first().name",
            [((14988, 3), [b"ldap-search"])],
        ),
        ("raise SkipObject", []),
        ("return {'ignored': 1}", []),
        ("packet['Filter-Id'] = str(ak_client_ip) + ' ' + http_request.method", [(11, [b"192.0.2.55 GET"])]),
    ],
)
async def test_mappings(expression: str, expected: list[Any]) -> None:
    """Every way of writing an attribute, seen in the packet; the packet has nothing else."""
    async with core() as running:
        answer = await check_access(running, with_mappings(running, expression))
        assert answer["access"]["passing"] is True
        assert attributes(answer) == expected


async def test_mappings_run_in_order_of_their_names_over_one_packet() -> None:
    """A later mapping sees and replaces what an earlier one wrote; one that skips itself keeps the others."""
    async with core() as running:
        served = with_mappings(
            running,
            "packet['Reply-Message'] = 'first'\npacket['Session-Timeout'] = 60",
            "packet['Reply-Message'] = packet['Reply-Message'][0] + ', second'",
            "packet['Class'] = b'kept'\nraise SkipObject",
        )
        assert attributes(await check_access(running, served)) == [
            (18, [b"first, second"]),
            (27, [b"\0\0\0<"]),
            (25, [b"kept"]),
        ]


async def test_attributes_that_one_mapping_defines_are_gone_with_the_login() -> None:
    """``define_attribute`` holds for one login: the shared dictionary does not grow."""
    async with core() as running:
        define = "define_attribute(99, 'Zz', 'A', 1, 'string')\n"
        assert attributes(await check_access(running, with_mappings(running, define + "packet['Zz-A'] = 'x'")))
        for mapping in running.database.find(models.PropertyMapping, name="m0"):
            running.database.delete(mapping)
        answer = await check_access(running, with_mappings(running, "packet['Zz-A'] = 'x'"))
        assert answer["attributes"] is None


@pytest.mark.parametrize(
    "expression",
    [
        "raise ValueError('boom')",
        "1 / 0",
        "packet['No-Such-Attribute'] = 1",
        "packet['Tunnel-Type'] = 13",
        "packet['MS-MPPE-Send-Key'] = b'secret'",
        "packet['Session-Timeout'] = -1",
        "packet['Reply-Message'] = 'x' * 254",
        "define_attribute(9, 'Cisco', 'Long', 9, 'octets')\npacket['Cisco-Long'] = b'x' * 248",
        "packet['Class'] = [b'x' * 253] * 17",
        "packet[81] = 20",
        "def deeper(): return deeper()\ndeeper()",
    ],
)
async def test_a_failing_mapping_leaves_access_and_takes_the_attributes(expression: str) -> None:
    """``attributes`` is null, access passes, and an event says which mapping and why."""
    async with core() as running:
        answer = await check_access(running, with_mappings(running, "packet['Class'] = b'1'", expression))
        assert answer == {"attributes": None, "access": {"passing": True, "messages": [], "log_messages": []}}
        event = running.database.first(models.Event, action="configuration_error")
        assert event is not None
        assert event.context["provider"]["name"] == "RADIUS two"
        assert event.user["username"] == "alice"
        assert event.client_ip == "192.0.2.55"
        named = event.context["mapping"]
        # what only shows when the packet is written belongs to all mappings together
        assert named is None or named["name"] == "m1"


async def test_a_mapping_that_loops_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit of all mappings together ends it; the login goes on without attributes."""
    monkeypatch.setattr("core.radius_attributes.MAPPING_TIMEOUT_S", 0.2)
    async with core() as running:
        answer = await check_access(running, with_mappings(running, "while True: pass"))
        assert (answer["attributes"], answer["access"]["passing"]) == (None, True)


async def test_denied_users_get_no_attributes() -> None:
    """The mappings do not even run for whom the application keeps out."""
    async with core() as running:
        served = provider(running, "RADIUS one")
        answer = await check_access(running, served, "radius-one", "carol")
        assert (answer["attributes"], answer["access"]["passing"]) == (None, False)
        assert not running.database.exists(models.Event, action="configuration_error")


async def test_check_access_of_other_providers_and_strangers() -> None:
    """Anonymous 403, wrong kind of provider 404, no application named 400, unknown application 404."""
    async with core() as running:
        served, ldap = provider(running), provider(running, "LDAP direct")
        path = f"/outposts/radius/{served.pk}/check_access/"
        assert (await running.client().get(path + "?app_slug=radius-two")).status == 403
        assert (await running.headless(RADIUS_OUTPOST).get(path + "?app_slug=radius-two")).status == 403
        admin = running.admin()
        assert (await admin.get(path)).status == 400
        assert (await admin.get(path + "?app_slug=nope")).status == 404
        assert (await admin.get(f"/outposts/radius/{ldap.pk}/check_access/?app_slug=radius-two")).status == 404


@pytest.mark.parametrize(
    ("attrs", "field"),
    [
        ("client_networks: 10.0.0.0/40", "client_networks"),
        ("client_networks: somewhere", "client_networks"),
        ("shared_secret: ''", "shared_secret"),
        ("mfa_support: perhaps", "mfa_support"),
        ("no_such_option: 1", "no_such_option"),
    ],
)
async def test_blueprints_with_mistakes_change_nothing(attrs: str, field: str) -> None:
    """A provider's options are checked when they are saved."""
    async with core() as running:
        text = (
            "version: 1\nmetadata: {name: t}\nentries:\n- model: authentik_providers_radius.radiusprovider\n"
            f"  identifiers: {{name: new}}\n  attrs:\n    {attrs}\n"
        )
        with pytest.raises(BlueprintError) as refused:
            Blueprints(running.database, STORABLE, POLICY_TYPES).apply(text, "t.yaml")
        assert field in str(refused.value)
        assert not running.database.exists(models.Provider, name="new")


async def test_a_mapping_that_does_not_compile_is_refused() -> None:
    """With the line inside the expression."""
    async with core() as running:
        text = (
            f"version: 1\nmetadata: {{name: t}}\nentries:\n- model: {RADIUS_MAPPING}\n"
            '  identifiers: {name: bad}\n  attrs: {expression: "x = 1\\nif:"}\n'
        )
        with pytest.raises(BlueprintError, match=r"expression: .*line 2"):
            Blueprints(running.database, STORABLE, POLICY_TYPES).apply(text, "t.yaml")


async def test_providers_over_the_api() -> None:
    """Seen by an administrator and, its own, by the outpost; changed with checks; the LDAP path does not know them."""
    async with core() as running:
        running.database.forget_owned(str(running.database.owner_of(provider(running))))
        admin, served = running.admin(), provider(running, "RADIUS one")
        path = f"/api/v3/providers/radius/{served.pk}/"
        shown = (await admin.request("GET", path)).json
        assert (shown["shared_secret"], shown["client_networks"]) == ("radius-secret-1", "127.0.0.0/8, ::1/128")
        assert shown["outpost_set"] == [RADIUS_OUTPOST] and shown["assigned_application_slug"] == "radius-one"
        assert len((await admin.get("/providers/radius/")).json["results"]) == 3
        assert (await admin.get(f"/providers/ldap/{served.pk}/")).status == 404
        assert (await running.bearer("alice-api-token-key-1").request("GET", path)).status == 404
        for body, field in (
            ({"client_networks": "nowhere"}, "client_networks"), ({"shared_secret": ""}, "shared_secret"),
            ({"mfa_support": "yes"}, "mfa_support"), ({"property_mappings": ["x"]}, "property_mappings"),
            ({"property_mappings": 5}, "property_mappings"), ({"certificate": "x"}, "certificate"),
        ):  # fmt: skip
            reply = await admin.request("PATCH", path, body=body)
            assert reply.status == 400 and field in reply.json, body
        body = {
            "client_networks": "192.0.2.0/24",
            "shared_secret": "other",
            "mfa_support": False,
            "property_mappings": [],
        }
        reply = await admin.request("PATCH", path, body=body)
        assert reply.status == 200, reply.body
        listed = (await running.bearer(running.outpost_token(RADIUS_OUTPOST)).get("/outposts/radius/")).json["results"]
        assert {"client_networks": "192.0.2.0/24", "shared_secret": "other", "mfa_support": False}.items() <= listed[
            1
        ].items()
        assert (await admin.request("DELETE", path)).status == 204
        assert (await admin.request("GET", path)).status == 404
