"""Clients' certificates: which issuers vouch for whom, when, and for what."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from common.client_certificate import ClientCertificate, names, of_peer, trusted
from common.tls import CertificateError
from tests.certificates import Issuer, authority, key_pair
from tests.fuzz.damage import encoded, parsed

ROOT = authority()
MIDDLE = ROOT.issue(["middle"], authority=True, purposes=())
NOW = datetime.datetime.now(datetime.UTC)


def shown(one: Issuer, *others: Issuer) -> ClientCertificate:
    return ClientCertificate(one.pem, tuple(other.pem for other in others))


def test_an_issuer_vouches() -> None:
    """Directly, and by a certificate in between that the client sends."""
    assert trusted(shown(ROOT.issue()), ROOT.pem, NOW)
    assert trusted(shown(MIDDLE.issue(), MIDDLE), ROOT.pem, NOW)
    assert trusted(shown(ROOT.issue()), authority("other").pem + ROOT.pem, NOW)


@pytest.mark.parametrize(
    "certificate",
    [
        shown(authority("other").issue()),
        shown(authority("authority").issue()),  # an issuer of the same name
        shown(authority("self")),
        ClientCertificate(key_pair("alice").certificate),
        shown(MIDDLE.issue()),  # nothing in between was sent
        shown(ROOT.issue(["leaf"], purposes=()).issue(), ROOT.issue(["leaf"], purposes=())),
        shown(ROOT.issue(days=(-3, -1))),
        shown(ROOT.issue(days=(0.5, 1))),
        shown(ROOT.issue(purposes=[ExtendedKeyUsageOID.SERVER_AUTH])),
        ClientCertificate("garbage"),
        ClientCertificate(""),
    ],
)
def test_who_is_not_vouched_for(certificate: ClientCertificate) -> None:
    """Other issuers, issuers that may not issue, other times, other purposes, no certificate at all."""
    assert trusted(certificate, ROOT.pem, NOW) is False


def test_an_issued_certificate_issues_nothing() -> None:
    """A client's own certificate is no authority."""
    leaf = ROOT.issue()
    assert trusted(shown(leaf.issue(["admin"]), leaf), ROOT.pem, NOW) is False


def test_the_clock_is_the_callers() -> None:
    """A long connection's certificate is looked at anew."""
    certificate = shown(ROOT.issue(days=(-1, 0.5)))
    assert trusted(certificate, ROOT.pem, NOW)
    assert not trusted(certificate, ROOT.pem, NOW + datetime.timedelta(days=0.6))


@pytest.mark.parametrize("purposes", [(), [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]])
def test_a_certificate_without_purposes_is_for_all(purposes: list[object]) -> None:
    """RFC 5280 §4.2.1.12."""
    assert trusted(shown(ROOT.issue(purposes=purposes)), ROOT.pem, NOW)  # type: ignore[arg-type]


@pytest.mark.parametrize("issuers", ["", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"])
def test_unreadable_issuers_are_an_error_not_a_yes(issuers: str) -> None:
    """The caller must not take them for no issuers."""
    with pytest.raises(CertificateError):
        trusted(shown(ROOT.issue()), issuers, NOW)


def test_whom_a_certificate_names() -> None:
    """Common name, subject, e-mail addresses; two common names name nobody by themselves."""
    assert names(ROOT.issue(["alice"], emails=["alice@x.io", "al@x.io"]).pem) == {
        "alice",
        "CN=alice",
        "alice@x.io",
        "al@x.io",
    }
    assert names(ROOT.issue(["alice", "bob"]).pem) == {"CN=bob,CN=alice"}
    assert names("garbage") == frozenset()


def test_a_certificate_that_cannot_be_read_names_nobody() -> None:
    """TLS takes a certificate that has an extension twice; reading its extensions fails."""
    seed = parsed(ROOT.issue(["alice"], emails=["alice@x.io"]).certificate.public_bytes(Encoding.DER))
    certificate = seed[0][1]
    fields = certificate[0][1]
    assert isinstance(fields, list)
    *others, (tag, extensions) = fields
    (list_tag, each), *_ = extensions
    twice = [*others, (tag, [(list_tag, each * 2)])]
    der = encoded([(0x30, [(0x30, twice), *certificate[1:]])])
    made = of_peer(x509.load_der_x509_certificate(der), ())
    assert names(made.pem) == frozenset()
    assert not trusted(made, ROOT.pem, NOW)


def test_what_a_library_says_of_its_peer() -> None:
    """The leaf is not its own issuer."""
    leaf = MIDDLE.issue()
    made = of_peer(leaf.certificate, [leaf.certificate, MIDDLE.certificate])
    assert made == shown(leaf, MIDDLE)
    assert made.fingerprint != shown(MIDDLE).fingerprint
    assert "BEGIN" not in repr(made)
