"""A TLS client's certificate: who issued it, whom it names. Nothing here logs anybody in; ``common/login.py`` does.

Whether a client holds the key was proved in the TLS handshake. ``trusted`` looks at the issuers each time it is asked,
so neither a resumed TLS session nor a connection that lives for days skips a look at the clock or at changed issuers.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import crypto

from common.tls import CertificateError, chain

UNREADABLE = (
    CertificateError,
    ValueError,
    TypeError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)
"""What reading a stranger's certificate may end with. TLS takes more than the library reads, and it reads lazily."""


@dataclass(frozen=True)
class ClientCertificate:
    """The leaf, and what else the client sent to lead to its issuer; all PEM."""

    pem: str = field(repr=False)
    others: tuple[str, ...] = field(default=(), repr=False)

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the text: tells certificates apart, no more."""
        return hashlib.sha256(self.pem.encode()).digest()


def of_peer(leaf: x509.Certificate, sent: Iterable[x509.Certificate]) -> ClientCertificate:
    """From what a TLS library says about its peer; ``sent`` may contain the leaf again."""
    pem = _pem(leaf)
    return ClientCertificate(pem, tuple(text for text in map(_pem, sent) if text != pem))


def trusted(
    certificate: ClientCertificate, issuers_pem: str, now: datetime.datetime, *, partial_chain: bool = False
) -> bool:
    """Whether one of the issuers vouches for the certificate as a client's, at ``now``: chain, dates, purpose.

    With ``partial_chain`` an issuer that is no root is trusted as it is.

    Raises ``CertificateError`` if ``issuers_pem`` holds no readable certificate: then nobody is trusted, which is not
    the same as no issuers being asked for.
    """
    store = crypto.X509Store()
    for issuer in chain(issuers_pem):
        store.add_cert(crypto.X509.from_cryptography(issuer))
    store.set_time(now)
    if partial_chain:
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    try:
        leaf = chain(certificate.pem)[0]
        others = [crypto.X509.from_cryptography(chain(text)[0]) for text in certificate.others]
        context = crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf), others)
        context.verify_certificate()
        return _is_for_clients(leaf)
    except (crypto.X509StoreContextError, crypto.Error, *UNREADABLE):
        return False


def _is_for_clients(leaf: x509.Certificate) -> bool:
    """RFC 5280 §4.2.1.12: a certificate that lists purposes must list this one."""
    try:
        purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return ExtendedKeyUsageOID.CLIENT_AUTH in purposes or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in purposes


def names(pem: str) -> frozenset[str]:
    """Whom a certificate may stand for: its common name, its subject (RFC 4514), its e-mail addresses.

    These are what the core's own certificate stage can match. Two common names name nobody. Never raises: a certificate
    that cannot be read names nobody.
    """
    try:
        leaf = chain(pem)[0]
        common = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        found = {leaf.subject.rfc4514_string()}
        if len(common) == 1:
            found.add(str(common[0].value))
        try:
            alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            found.update(alternative.get_values_for_type(x509.RFC822Name))
        except x509.ExtensionNotFound:
            pass
    except UNREADABLE:
        return frozenset()
    return frozenset(name for name in found if name.strip())


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
