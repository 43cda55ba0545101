"""``outposts/radius/providers.py``: record and settings as one, candidates told apart by signature, who is left out."""

from __future__ import annotations

from dataclasses import MISSING, fields
from ipaddress import ip_network
from typing import Any

import pytest

from common.records import RadiusProvider as Record
from common.setting_rows import EXTRAS
from common.settings import load
from common.tls import CertificatePair
from outposts.radius.providers import (
    EXTRA_FIELDS,
    ProviderError,
    Providers,
    RadiusProvider,
    problems,
    resolve,
    resolve_all,
)
from outposts.radius.wire import Packet, decode, encode_request
from tests.radius.packets import AUTHENTICATOR, SECRET, VECTORS, packet

ROWS = {row.name: row for row in EXTRAS if row.type == "radius"}


def default(name: str) -> Any:
    """A setting that nobody set."""
    return ROWS[name].default


def record(pk: int, networks: str = "0.0.0.0/0, ::/0", secret: str = "testing123", **rest: Any) -> Record:
    """A provider as the core lists it."""
    return Record(
        pk=pk,
        name=f"provider {pk}",
        application_slug=f"app-{pk}",
        auth_flow_slug="flow",
        client_networks=networks,
        shared_secret=secret,
        **rest,
    )


def table(*records: Record) -> Providers:
    """All of them in service."""
    return resolve_all(records, lambda record: None, lambda record, name: default(name))[0]


def request(secret: bytes, *, code: int = 1, sign: bool = True) -> Packet:
    """A request of a client with this secret."""
    return decode(encode_request(code, 7, secret, ((1, b"alice"),), authenticator=AUTHENTICATOR, sign=sign))


def test_a_record_and_settings_are_one() -> None:
    """Every field, with settings that are not the defaults."""
    pair = CertificatePair("uuid", "fingerprint", "certificate")
    said = {
        name: not value if isinstance(value := default(name), bool) else f"{name}?" for name in (*EXTRA_FIELDS, "class")
    }
    said |= {"challenge": (5, 7), "auto_consent": (4,)}
    provider = resolve(record(7, "10.0.0.5/8 fe80::/10", "gehéim", mfa_support=False), pair, said.__getitem__)
    assert (provider.pk, provider.name, provider.application_slug, provider.flow_slug) == (
        7,
        "provider 7",
        "app-7",
        "flow",
    )
    assert provider.secret == "gehéim".encode()
    assert provider.networks == (ip_network("10.0.0.0/8"), ip_network("fe80::/10"))
    assert provider.mfa_support is False
    assert provider.certificate is pair
    assert provider.challenge is True
    assert provider.auto_consent is False
    assert provider.add_class is said["class"]
    for name in EXTRA_FIELDS:
        assert getattr(provider, name) == said[name], name


def test_defaults_are_those_of_the_settings() -> None:
    """A provider made by hand behaves as one whose operator said nothing."""
    by_hand = RadiusProvider(1, "provider 1", "app-1", "flow", b"testing123", (ip_network("0.0.0.0/0"),))
    assert resolve(record(1, "0.0.0.0/0"), None, default) == by_hand
    ours = {field.name for field in fields(RadiusProvider) if field.default is not MISSING}
    about = {"networks", "mfa_support", "certificate", "challenge", "auto_consent", "add_class"}
    assert ours - about == set(EXTRA_FIELDS)


def test_settings_of_one_provider_by_name() -> None:
    """``x_radius_…`` as an object keyed by provider name, through the real settings."""
    settings = load({"AUTHENTIK_HOST": "http://127.0.0.1", "AUTHENTIK_TOKEN": "t", "OUTPOSTS_RADIUS__DEADLINE": "20"})
    config = {
        "x_radius_require_message_authenticator": {"provider 1": "yes", "*": "no"},
        "x_radius_challenge": [2],
        "x_radius_class": {"provider 2": True},
    }
    found, wrong = resolve_all(
        [record(2), record(1)],
        lambda record: None,
        lambda record, name: settings.extra("radius", name, config, record.name),
    )
    one, two = found
    assert not wrong
    assert (one.pk, one.require_message_authenticator, one.challenge, one.add_class, one.deadline) == (
        1,
        "yes",
        False,
        False,
        20.0,
    )
    assert (two.pk, two.require_message_authenticator, two.challenge, two.add_class) == (2, "no", True, True)


def test_secrets_are_not_in_reprs() -> None:
    """Neither of a provider nor of a table."""
    providers = table(record(1))
    assert "testing123" not in repr(providers.all)
    assert "testing123" not in repr(record(1))


def test_an_empty_secret_disables_the_provider() -> None:
    """§2.5: an error line for it, and the others are served."""
    with pytest.raises(ProviderError, match="secret is empty"):
        resolve(record(1, secret=""), None, default)
    found, wrong = resolve_all(
        [record(1, secret=""), record(2)], lambda record: None, lambda record, name: default(name)
    )
    assert [provider.pk for provider in found] == [2]
    assert wrong == ["provider 'provider 1': the shared secret is empty"]
    assert [provider.pk for provider in found.find("192.0.2.1")] == [2]


def test_r26_r27_bad_networks_are_named_and_the_rest_serves() -> None:
    """One line per provider and refresh, at most five entries in it; without a valid entry nothing matches."""
    found, wrong = resolve_all(
        [
            record(1, ""),
            record(2, "foo"),
            record(3, "10.0.0.0/8,"),
            record(4, "10.1.0.0/16 bar " + " ".join(f"x{number}" for number in range(8))),
        ],
        lambda record: None,
        lambda record, name: default(name),
    )
    assert [provider.pk for provider in found] == [1, 2, 3, 4]
    assert wrong == [
        "provider 'provider 2': client networks without a meaning: 'foo'",
        "provider 'provider 4': client networks without a meaning: 'bar', 'x0', 'x1', 'x2', 'x3' and 4 more",
    ]
    assert problems(record(3, "10.0.0.0/8,")) == []
    for peer, pks in (("10.2.0.1", [3]), ("10.1.0.1", [4]), ("192.0.2.1", []), ("::1", [])):
        assert [provider.pk for provider in found.find(peer)] == pks


def test_r24_the_longest_network_decides() -> None:
    """B's /16 within A's /8, a thousand times, also when the packet is signed for A: no way back to a shorter one."""
    providers = table(record(1, "10.0.0.0/8", "secret-a"), record(2, "10.1.0.0/16", "secret-b"))
    for chosen in (providers.choose(request(b"secret-a"), "10.1.2.3") for _ in range(1000)):
        assert chosen is not None
        assert chosen.pk == 2
    other = providers.choose(request(b"secret-b"), "10.2.2.3")
    assert other is not None
    assert other.pk == 1


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1)])
def test_r25_the_signature_tells_candidates_apart(order: tuple[int, ...]) -> None:
    """Several providers on one network: whose secret verifies, else the lowest pk, in whatever order they came."""
    secrets = {1: "secret-a", 2: "secret-b", 3: "secret-b"}
    providers = table(*(record(pk, secret=secrets[pk]) for pk in order))
    for packet_of_client, pk in (
        (request(b"secret-b"), 2),
        (request(b"secret-a"), 1),
        (request(b"secret-x"), 1),
        (request(b"secret-b", sign=False), 1),
        (request(b"secret-b", code=4), 2),
        (request(b"secret-b", code=4, sign=False), 2),
        (request(b"secret-x", code=4, sign=False), 1),
        (request(b"secret-b", code=12), 2),
        (request(b"secret-b", code=40), 2),
    ):
        chosen = providers.choose(packet_of_client, "192.0.2.1")
        assert chosen is not None
        assert chosen.pk == pk


def test_two_signatures_choose_nobody_else() -> None:
    """A packet that is invalid for everybody goes to the lowest pk, where it is dropped."""
    providers = table(record(1, secret="secret-a"), record(2))
    value = VECTORS["ours-pap-request"][20:38]
    chosen = providers.choose(decode(packet(1, value, value)), "192.0.2.1")
    assert chosen is not None
    assert chosen.pk == 1


def test_r30_one_secret_and_different_networks() -> None:
    """Each peer gets its own application: secrets are compared nowhere."""
    providers = table(record(1, "10.0.0.0/8"), record(2, "192.0.2.0/24"))
    for peer, slug in (("10.0.0.1", "app-1"), ("192.0.2.1", "app-2")):
        chosen = providers.choose(request(SECRET), peer)
        assert chosen is not None
        assert chosen.application_slug == slug


def test_r28_r29_versions_and_strangers() -> None:
    """An IPv4 peer of an IPv6 socket is IPv4; who is in no network gets nobody."""
    providers = table(record(1, "0.0.0.0/0"))
    assert [provider.pk for provider in providers.find("::ffff:192.0.2.1")] == [1]
    assert providers.choose(request(SECRET), "::ffff:192.0.2.1") is providers.by_pk[1]
    for stranger in ("2001:db8::1", "fe80::1%eth0", "no address"):
        assert providers.find(stranger) == ()
        assert providers.choose(request(SECRET), stranger) is None


def test_tables_are_in_pk_order() -> None:
    """The core lists by name; candidates, iteration and ``all`` are by pk."""
    providers = table(record(9), record(2), record(5))
    assert [provider.pk for provider in providers] == [2, 5, 9] == [provider.pk for provider in providers.all]
    assert [provider.pk for provider in providers.find("192.0.2.1")] == [2, 5, 9]
    assert len(providers) == 3
    assert providers.by_pk[5].application_slug == "app-5"
    assert len(Providers()) == 0
    assert Providers().find("192.0.2.1") == ()
