"""Client certificates as they reach the core: in a header, from an outpost or from the proxy in front.

A header proves nothing by itself. The server takes one only from whom it trusts to have seen the TLS handshake
(:mod:`core.server`); here it becomes a certificate, or nothing. Which forms there are:

- outposts and nginx (``$ssl_client_escaped_cert``): percent-encoded PEM;
- Envoy ``X-Forwarded-Client-Cert``: ``Hash=…;Cert="percent-encoded PEM"``, the last element is the nearest proxy's;
- Traefik ``X-Forwarded-Tls-Client-Cert``: base64 without the PEM lines, the leaf first.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, unquote_plus

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

OUTPOST_HEADER = "X-Authentik-Outpost-Certificate"
MAX_TEXT = 16 * 1024  # characters of a header; a leaf with a large RSA key has about 4,000

_XFCC_ELEMENT = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
_XFCC_CERT = re.compile(r'(?:^|;)\s*Cert="((?:[^"\\]|\\.)*)"', re.IGNORECASE)


def _from_pem(text: str) -> bytes:
    return unquote_plus(text).encode()


def _from_envoy(text: str) -> bytes:
    elements = _XFCC_ELEMENT.findall(text)
    found = _XFCC_CERT.search(elements[-1].strip()) if elements else None
    return unquote(found[1]).encode() if found else b""


def _from_traefik(text: str) -> bytes:
    leaf = unquote(text).split(",", 1)[0].strip()
    der = base64.b64decode(leaf, validate=True)
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


PROXY_HEADERS: dict[str, Callable[[str], bytes]] = {
    "ssl-client-cert": _from_pem,
    "x-forwarded-client-cert": _from_envoy,
    "x-forwarded-tls-client-cert": _from_traefik,
}


def read(header: str, text: str) -> x509.Certificate | None:
    """The certificate in a header of this name; ``None`` if it cannot be read."""
    if len(text) > MAX_TEXT:
        return None
    try:
        return x509.load_pem_x509_certificate(PROXY_HEADERS.get(header.lower(), _from_pem)(text))
    except (ValueError, binascii.Error):
        return None


def pem(certificate: x509.Certificate) -> str:
    """The certificate as PEM."""
    return certificate.public_bytes(Encoding.PEM).decode()


def common_names(certificate: x509.Certificate) -> list[str]:
    """The common names of the subject; a certificate should have one."""
    return [str(item.value) for item in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


def emails(certificate: x509.Certificate) -> list[str]:
    """The e-mail addresses among the alternative names (RFC 5280 §4.2.1.6)."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return [str(item) for item in found.get_values_for_type(x509.RFC822Name)]
    except (x509.ExtensionNotFound, ValueError):
        return []


def described(certificate: x509.Certificate) -> dict[str, Any]:
    """What policies and events see of a certificate."""
    return {
        "serial_number": str(certificate.serial_number),
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "fingerprint_sha256": certificate.fingerprint(SHA256()).hex(":"),
        "fingerprint_sha1": certificate.fingerprint(SHA1()).hex(":"),
        "raw": pem(certificate),
    }
