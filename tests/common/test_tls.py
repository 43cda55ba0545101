"""Which certificate a client gets, and that real handshakes present it, chain included, from TLS 1.2 on."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from common import tls
from common.tls import CertificateError, CertificatePair, Contexts, choose

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def pair(pk: str, *names: str) -> CertificatePair:
    """A pair for some names, with its own id."""
    made = tls.self_signed(NOW, names)
    return CertificatePair(pk, made.fingerprint, made.certificate_pem, made.private_key_pem)


def chained() -> tuple[CertificatePair, x509.Certificate]:
    """A leaf signed by an authority, both in one PEM, the key as PKCS #1 as the core delivers RSA keys."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")])

    def build(whose: x509.Name, public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, days: int) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(whose)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW)
            .not_valid_after(NOW + datetime.timedelta(days=days))
            .sign(authority_key, hashes.SHA256())
        )

    authority, leaf = build(name, authority_key.public_key(), 20), build(subject, key.public_key(), 10)
    pem = b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in (leaf, authority)).decode()
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    ).decode()
    return CertificatePair("chain", tls.fingerprint_sha256(pem), pem, key_pem), authority


def handshake(server: SSL.Context, maximum: int | None = None) -> SSL.Connection:
    """A client that trusts everything meets a server in memory; returns the client's side."""
    client_context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if maximum is not None:
        client_context.set_min_proto_version(SSL.TLS1_VERSION)
        client_context.set_max_proto_version(maximum)
        client_context.set_cipher_list(b"ALL:@SECLEVEL=0")
    client, other = SSL.Connection(client_context, None), SSL.Connection(server, None)
    client.set_connect_state()
    other.set_accept_state()
    sides = [client, other]
    for _ in range(10):
        done = 0
        for mine, yours in (sides, sides[::-1]):
            try:
                mine.do_handshake()
                done += 1
            except SSL.WantReadError:
                pass
            try:
                yours.bio_write(mine.bio_read(65536))
            except SSL.WantReadError:
                pass
        if done == 2:
            return client
    raise AssertionError("no end")


def test_choice_by_server_name() -> None:
    """The provider's name first, then a wildcard for one label, then names in certificates, then the one for all."""
    a, b, wild, san, rest = (pair(pk) for pk in ("a", "b", "wild", "san", "rest"))
    san = pair("san", "inside.example.net", "*.w.example.net")
    pairs = [("a.example.org", a), ("B.example.org.", b), ("*.example.org", wild), ("x", san), ("", rest)]
    for name, pk in [
        ("a.example.org", "a"),
        ("A.EXAMPLE.ORG", "a"),
        ("b.example.org", "b"),
        ("c.example.org", "wild"),
        ("c.d.example.org", "rest"),
        ("inside.example.net", "san"),
        ("q.w.example.net", "san"),
        ("q.r.w.example.net", "rest"),
        ("other", "rest"),
        ("", "rest"),
        (None, "rest"),
    ]:
        chosen = choose(name, pairs)
        assert chosen is not None
        assert chosen.pk == pk, name


def test_choice_without_a_fitting_one() -> None:
    """The first pair beats none; a pair without key is never chosen; nothing is None."""
    a = pair("a")
    bare = CertificatePair("bare", a.fingerprint, a.certificate_pem, "")
    assert choose("x", [("other", a)]) == a
    assert choose("bare", [("bare", bare), ("a", a)]) == a
    assert choose("bare", [("bare", bare)]) is None
    assert choose("x", []) is None


def test_self_signed_pair() -> None:
    """Valid now, for a while, on an elliptic-curve key; two are never the same."""
    made = tls.self_signed(NOW)
    tls.check(made)
    leaf = tls.chain(made.certificate_pem)[0]
    assert leaf.not_valid_before_utc < NOW < leaf.not_valid_after_utc
    assert tls.expires_at(made) == (NOW + datetime.timedelta(days=tls.SELF_SIGNED_DAYS)).timestamp()
    assert isinstance(leaf.public_key(), ec.EllipticCurvePublicKey)
    assert made.fingerprint == tls.fingerprint_sha256(made.certificate_pem)
    assert made != tls.self_signed(NOW)
    assert "PRIVATE" not in repr(made)


def test_the_whole_chain_is_presented() -> None:
    """Leaf and authority reach the client; the earlier end counts as the pair's."""
    made, authority = chained()
    tls.check(made)
    client = handshake(tls.openssl_context(made))
    presented = client.get_peer_cert_chain(as_cryptography=True)
    assert presented is not None
    assert [c.fingerprint(hashes.SHA256()) for c in presented] == [
        c.fingerprint(hashes.SHA256()) for c in tls.chain(made.certificate_pem)
    ]
    assert presented[1] == authority
    assert tls.expires_at(made) == (NOW + datetime.timedelta(days=10)).timestamp()


def test_tls_1_2_is_the_least() -> None:
    """TLS 1.2 and 1.3 pass, 1.1 does not."""
    context = tls.openssl_context(pair("a"))
    assert handshake(context).get_protocol_version_name() == "TLSv1.3"
    assert handshake(context, SSL.TLS1_2_VERSION).get_protocol_version_name() == "TLSv1.2"
    with pytest.raises(SSL.Error):
        handshake(context, SSL.TLS1_1_VERSION)


def test_contexts_follow_the_pairs() -> None:
    """One context per pair; a new pair of the same id gets its own; what is no longer wanted is dropped."""
    contexts, old, new = Contexts(), pair("a"), pair("a")
    first = contexts.of(old)
    assert contexts.of(old) is first
    assert contexts.of(new) is not first
    contexts.keep([new])
    assert contexts.of(old) is not first


@pytest.mark.parametrize("broken", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_unreadable_texts(broken: str) -> None:
    """An error that holds none of the text."""
    good, other = pair("a"), pair("b")
    for bad in (
        CertificatePair("x", "", broken, good.private_key_pem),
        CertificatePair("x", "", good.certificate_pem, broken or "x"),
        CertificatePair("x", "", good.certificate_pem, other.private_key_pem),
    ):
        with pytest.raises(CertificateError) as caught:
            tls.check(bad)
        assert "AAAA" not in str(caught.value)
    with pytest.raises(CertificateError):
        tls.openssl_context(CertificatePair("x", "", good.certificate_pem, ""))
    tls.check(CertificatePair("x", "", good.certificate_pem, ""))
