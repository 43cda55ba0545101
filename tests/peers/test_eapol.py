"""EAP end to end: eapol_test, the real RADIUS daemon, and the embedded core; ``wifi`` says who there is."""

from __future__ import annotations

import pytest

from tests.certificates import Issuer, authority
from tests.peers.suite import ALICE_PASSWORD
from tests.peers.supplicant import TLS12, TLS13, Access
from tests.peers.wifi import (
    CAROL_PASSWORD,
    CERTIFICATES,
    CHECKED,
    CODES,
    ISSUING,
    LONG,
    OUT_OF_DATE,
    PASSWORDS,
    PEOPLE,
    Wifi,
    steps,
)

STRANGER = authority("somebody else")

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
def test_r52_a_peer_that_does_not_trust_us(wifi: Wifi, versions: str) -> None:
    """The peer's alert ends it with a Reject."""
    certificate = PEOPLE.issue(("alice",))
    access = wifi.supplicant.run(CHECKED, "TLS", certificate=certificate, authority=STRANGER, versions=versions)
    assert access.refused, access.text
    assert wifi.last_reason() == "peer_refused"


@TUNNELS
@pytest.mark.parametrize(
    ("secret", "authority", "more"),
    [
        (PASSWORDS, STRANGER, {}),
        (OUT_OF_DATE, None, {}),
        (PASSWORDS, None, {"domain_match": '"radius.other.example"'}),
    ],
    ids=["other issuer", "out of date", "other name"],
)
def test_r52_no_tunnel_to_a_server_that_is_not_trusted(
    wifi: Wifi, method: str, inner: str, secret: str, authority: Issuer | None, more: dict[str, str]
) -> None:
    """The same in tunnels, and no password crosses them: the core is not asked."""
    access = wifi.supplicant.run(secret, method, password=ALICE_PASSWORD, inner=inner, authority=authority, more=more)
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


@TUNNELS
def test_r51_a_long_chain_in_small_packets(wifi: Wifi, method: str, inner: str) -> None:
    """The server's six certificates, in EAP packets that fit a Framed-MTU of 300."""
    access = wifi.supplicant.run(LONG, method, password=ALICE_PASSWORD, inner=inner, arguments=["-N12:d:300"])
    assert access.granted, access.text
    assert access.longest <= 296
    assert access.text.count("decapsulated EAP packet (code=1") > 20


@VERSIONS
def test_r50_a_long_chain_of_the_peer(wifi: Wifi, versions: str) -> None:
    """The peer's six certificates in packets of 500 octets: each is acknowledged, and all are looked at."""
    chain = steps(PEOPLE, 5)
    certificate = chain[0].issue(("alice",))
    small = {"fragment_size": "500"}
    access = wifi.supplicant.run(CHECKED, "TLS", certificate=certificate, chain=chain, versions=versions, more=small)
    assert access.granted, access.text
    access = wifi.supplicant.run(
        CHECKED, "TLS", certificate=certificate, chain=chain[:-1], versions=versions, more=small
    )
    assert access.refused and wifi.last_reason() == "client_certificate_refused"


def test_reauthentication(wifi: Wifi) -> None:
    """A peer that would resume its TLS session goes through the whole method each time."""
    access: Access = wifi.supplicant.run(
        PASSWORDS, "PEAP", password=ALICE_PASSWORD, inner="auth=GTC", arguments=["-r", "2"]
    )
    assert access.text.count("CTRL-EVENT-EAP-SUCCESS") == 3, access.text
    assert "MPPE keys OK: 3  mismatch: 0" in access.text
