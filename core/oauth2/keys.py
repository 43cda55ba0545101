"""Signing and keys: HS256 with the client secret, or RS256 and ES256 with the key of a certificate (RFC 7518)."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from core import models
from core.database import Database
from core.oauth2.protocol import OAuthError
from core.oauth2.providers import Client

MIN_RSA_BITS = 2048  # RFC 7518 §3.3
KEYS_KEPT = 64  # parsed key pairs; an installation signs with a handful
_CURVES = {"secp256r1": ("ES256", "P-256"), "secp384r1": ("ES384", "P-384"), "secp521r1": ("ES512", "P-521")}

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class SigningKey:
    """What a client's tokens are signed with. ``public`` is the JWK, ``None`` for the client secret."""

    algorithm: str
    key: str | PrivateKey = field(repr=False)
    kid: str | None = None
    public: dict[str, Any] | None = None

    def sign(self, claims: dict[str, Any]) -> str:
        """A signed token."""
        headers = {"kid": self.kid} if self.kid is not None else None
        return jwt.encode(claims, self.key, algorithm=self.algorithm, headers=headers)


def signing_key(database: Database, client: Client) -> SigningKey:
    """The key of a client. A certificate that cannot be used is never replaced by the secret.

    :raises OAuthError: there is no usable key.
    """
    if client.signing_key is None:
        if not client.client_secret:
            raise OAuthError("server_error", "The provider has no key")
        return SigningKey("HS256", client.client_secret)
    pair = database.first(models.KeyPair, pk=client.signing_key)
    try:
        if pair is None or not pair.key_data:
            raise ValueError("no private key")
        return _parsed(pair.certificate_data, pair.key_data)
    except (ValueError, TypeError):
        raise OAuthError("server_error", "The provider's signing key cannot be used") from None


@functools.lru_cache(KEYS_KEPT)
def _parsed(certificate_pem: str, key_pem: str) -> SigningKey:
    key = load_pem_private_key(key_pem.encode(), password=None)
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < MIN_RSA_BITS:
            raise ValueError("the RSA key is too short")
        numbers = key.public_key().public_numbers()
        algorithm, essential = "RS256", {"e": _number(numbers.e), "kty": "RSA", "n": _number(numbers.n)}
    elif isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        algorithm, curve = _CURVES[key.curve.name]
        point, size = key.public_key().public_numbers(), (key.key_size + 7) // 8
        essential = {"crv": curve, "kty": "EC", "x": _number(point.x, size), "y": _number(point.y, size)}
    else:
        raise ValueError("neither an RSA nor a known elliptic curve key")
    if certificate.public_key() != key.public_key():
        raise ValueError("certificate and key do not belong together")
    # RFC 7638: the thumbprint of the essential members
    text = json.dumps(essential, sort_keys=True, separators=(",", ":"))
    kid = _base64url(hashlib.sha256(text.encode()).digest())
    der = certificate.public_bytes(Encoding.DER)
    public = essential | {
        "alg": algorithm,
        "kid": kid,
        "use": "sig",
        "x5c": [base64.b64encode(der).decode()],
        "x5t#S256": _base64url(hashlib.sha256(der).digest()),
    }
    return SigningKey(algorithm, key, kid, public)


def jwks(database: Database, client: Client) -> dict[str, Any]:
    """The public keys of a client (RFC 7517 §5); an empty object where tokens are signed with the secret."""
    public = signing_key(database, client).public
    return {} if public is None else {"keys": [public]}


def _number(value: int, size: int | None = None) -> str:
    return _base64url(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def _base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
