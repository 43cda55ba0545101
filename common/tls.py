"""Certificates of listeners: key pairs from the core, which one a client gets, and what TLS libraries need of it.

A listener calls ``choose`` with the client's server name at each handshake and ``Contexts.of`` with the outcome, so a
renewed certificate is served with the next handshake and no restart. Where no provider has a pair, the listener serves
``self_signed``, made once per process. Minimum version: TLS 1.2.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL

from common.errors import OutpostError

SELF_SIGNED_DAYS = 365  # a daemon that runs longer has been restarted for updates meanwhile
SELF_SIGNED_NAME = "outposts self-signed certificate"
# Modern suites of TLS 1.2; TLS 1.3 has its own list. No static RSA, no CBC.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:!aNULL:!MD5:!DSS"

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class CertificateError(OutpostError):
    """A certificate or key is not PEM, or the two do not belong together. Never holds any of the text."""


@dataclass(frozen=True)
class CertificatePair:
    """A certificate, with its chain, and its key ("" = certificate only). ``pk`` is the core's id, "" for self-signed.

    ``fingerprint`` is the core's ``fingerprint_sha256``, empty when the core did not say one.
    """

    pk: str
    fingerprint: str
    certificate_pem: str
    private_key_pem: str = field(default="", repr=False)

    @property
    def servable(self) -> bool:
        """Whether a listener can present it."""
        return bool(self.private_key_pem and self.certificate_pem)


def check(pair: CertificatePair) -> None:
    """Raise ``CertificateError`` unless the PEM texts can be read and, with a key, belong together."""
    certificates = chain(pair.certificate_pem)
    if not pair.private_key_pem:
        return
    try:
        key = load_pem_private_key(pair.private_key_pem.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"private key not readable ({type(error).__name__})") from None
    wanted = certificates[0].public_key().public_bytes(*_SPKI)
    if key.public_key().public_bytes(*_SPKI) != wanted:
        raise CertificateError("private key and certificate do not belong together")


_SPKI = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def chain(pem: str) -> list[x509.Certificate]:
    """All certificates of a PEM text, leaf first. Raises ``CertificateError``."""
    try:
        found = [x509.load_pem_x509_certificate(block) for block in _CERTIFICATE.findall(pem.encode())]
    except ValueError:
        raise CertificateError("certificate not readable") from None
    if not found:
        raise CertificateError("no certificate in the text")
    return found


def expires_at(pair: CertificatePair) -> float:
    """Unix time at which the first certificate of the chain ends."""
    return min(certificate.not_valid_after_utc.timestamp() for certificate in chain(pair.certificate_pem))


def fingerprint_sha256(pem: str) -> str:
    """SHA-256 of the leaf, written as the core does: lower-case hex pairs with colons."""
    return chain(pem)[0].fingerprint(hashes.SHA256()).hex(":")


def choose(server_name: str | None, pairs: Sequence[tuple[str, CertificatePair]]) -> CertificatePair | None:
    """The pair for a client: by configured server name, by a name in the certificate, else the first one; None if none.

    ``pairs`` are (server name of the provider or "", pair), in the core's order. A provider's ``*.example.org`` stands
    for exactly one label (RFC 6125 §6.4.3). Pairs without a key are passed over.
    """
    usable = [(name.strip().lower().rstrip("."), pair) for name, pair in pairs if pair.servable]
    if not usable:
        return None
    wanted = (server_name or "").strip().lower().rstrip(".")
    if wanted:
        wildcard = "*." + wanted.partition(".")[2] if "." in wanted else ""
        for candidate in (wanted, wildcard):
            for name, pair in usable:
                if candidate and name == candidate:
                    return pair
        for _, pair in usable:
            if any(name in (wanted, wildcard) for name in _names(pair.certificate_pem)):
                return pair
    # A pair without server name is meant for everybody; else the first one beats a self-signed certificate.
    return next((pair for name, pair in usable if not name), usable[0][1])


@lru_cache(maxsize=256)
def _names(certificate_pem: str) -> tuple[str, ...]:
    """DNS names of a certificate, lower case: asked at every handshake, so remembered."""
    try:
        leaf = chain(certificate_pem)[0]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return tuple(name.lower() for name in names.get_values_for_type(x509.DNSName))
    except (CertificateError, x509.ExtensionNotFound, ValueError):
        return ()


def self_signed(
    now: datetime.datetime, names: Iterable[str] = ("localhost",), days: int = SELF_SIGNED_DAYS
) -> CertificatePair:
    """A fresh pair on an EC key (P-256: every client of the last decade has it, and signing is cheap)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SELF_SIGNED_NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks of clients may be behind
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return CertificatePair("", certificate.fingerprint(hashes.SHA256()).hex(":"), certificate_pem, key_pem)


def openssl_context(pair: CertificatePair, *, ask_client: bool = False) -> SSL.Context:
    """A server context for pyOpenSSL (Twisted): TLS 1.2 and up, the whole chain. Raises ``CertificateError``.

    ``ask_client``: clients are asked for a certificate and may have none. Whatever they show is taken here: only the
    proof that the key is theirs belongs to the handshake, ``client_certificate.trusted`` says what it is worth.
    """
    if not pair.servable:
        raise CertificateError("no private key")
    check(pair)
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(CIPHERS.encode())
    # Renegotiation is a load vector and nobody's need; sessions are resumed by tickets only.
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    if ask_client:
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        # A resumed session would know the certificate but not what the client sent to lead to its issuer.
        context.set_options(SSL.OP_NO_TICKET)
        context.set_session_id(b"outposts")
    leaf, *others = chain(pair.certificate_pem)
    context.use_certificate(leaf)
    for certificate in others:
        context.add_extra_chain_cert(certificate)
    key = load_pem_private_key(pair.private_key_pem.encode(), None)
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise CertificateError("private key is neither RSA nor elliptic curve")
    context.use_privatekey(key)
    context.check_privatekey()
    return context


class Contexts:
    """pyOpenSSL contexts by pair, made on first use; a context that is no longer asked for is dropped by ``keep``.

    ``ask_client`` holds for contexts made later; drop all to change it.
    """

    def __init__(self, *, ask_client: bool = False) -> None:
        self.ask_client = ask_client
        self._made: dict[CertificatePair, SSL.Context] = {}

    def of(self, pair: CertificatePair) -> SSL.Context:
        """The context of a pair. Raises ``CertificateError``."""
        context = self._made.get(pair)
        if context is None:
            context = self._made[pair] = openssl_context(pair, ask_client=self.ask_client)
        return context

    def keep(self, pairs: Iterable[CertificatePair]) -> None:
        """Forget all other pairs, after a refresh."""
        wanted = set(pairs)
        for pair in [pair for pair in self._made if pair not in wanted]:
            del self._made[pair]
