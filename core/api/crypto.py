"""``/crypto/certificatekeypairs/``: certificates and private keys of providers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa

from core import access, models
from core.api.base import Answer, Call, Route, by_uuid

NAME = "CertificateKeyPair"
PARSED = 256  # certificates whose details are kept; an installation has a handful
_KEY_TYPES = (
    (rsa.RSAPublicKey, "rsa"), (ec.EllipticCurvePublicKey, "ec"), (ed25519.Ed25519PublicKey, "ed25519"),
    (ed448.Ed448PublicKey, "ed448"), (dsa.DSAPublicKey, "dsa"),
)  # fmt: skip


@functools.lru_cache(PARSED)
def _details(pem: str) -> dict[str, Any]:
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        empty = dict.fromkeys(("fingerprint_sha256", "fingerprint_sha1", "cert_expiry", "cert_subject", "key_type"))
        return empty
    key = certificate.public_key()
    return {
        "fingerprint_sha256": certificate.fingerprint(hashes.SHA256()).hex(":"),
        "fingerprint_sha1": certificate.fingerprint(hashes.SHA1()).hex(":"),
        "cert_expiry": certificate.not_valid_after_utc.isoformat().replace("+00:00", "Z"),
        "cert_subject": certificate.subject.rfc4514_string(),
        "key_type": next((name for kind, name in _KEY_TYPES if isinstance(key, kind)), None),
    }


def shown(pairs: Sequence[models.KeyPair]) -> list[dict[str, Any]]:
    """Key pairs as the API writes them, without PEM."""
    found = []
    for pair in pairs:
        details = _details(pair.certificate_data)
        base = f"/api/v3/crypto/certificatekeypairs/{pair.pk}"
        found.append(
            {
                "pk": pair.pk,
                "name": pair.name,
                **details,
                "private_key_available": bool(pair.key_data),
                "private_key_type": details["key_type"] if pair.key_data else None,  # the name in 2025.10
                "certificate_download_url": f"{base}/view_certificate/?download",
                "private_key_download_url": f"{base}/view_private_key/?download",
                "managed": pair.managed,
            }
        )
    return found


def _pair(call: Call, *permissions: str) -> models.KeyPair:
    call.require_user()
    pair = by_uuid(call, models.KeyPair, NAME, call.path["pk"])
    for permission in (access.VIEW_KEY_PAIR, *permissions):
        call.require_visible(permission, pair, NAME)
    return pair


async def listing(call: Call) -> Answer:
    """``GET /crypto/certificatekeypairs/``."""
    pks = call.visible(access.VIEW_KEY_PAIR, "authentik_crypto.certificatekeypair")
    filters: dict[str, Any] = {} if pks is None else {"pk__in": sorted(pks)}
    for name in ("name", "managed"):
        if call.param(name) is not None:
            filters[name] = call.param(name)
    has_key = call.boolean("has_key")
    keep = None if has_key is None else lambda pair: bool(pair.key_data) is has_key
    return call.listed(models.KeyPair, filters, shown, ordering=("name",), keep=keep)


async def retrieve(call: Call) -> Answer:
    """``GET /crypto/certificatekeypairs/<uuid>/``."""
    return Answer(shown([_pair(call)])[0])


def _pem(call: Call, pair: models.KeyPair, pem: str, suffix: str) -> Answer:
    if "download" not in {name for name, _ in call.params}:
        return Answer({"data": pem})
    name = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in pair.name)
    headers = {"Content-Disposition": f'attachment; filename="{name}_{suffix}.pem"'}
    return Answer(body=pem.encode(), content_type="application/x-pem-file", headers=headers)


async def view_certificate(call: Call) -> Answer:
    """``GET …/view_certificate/``: the PEM, as JSON or with ``download`` as a file."""
    pair = _pair(call, access.VIEW_CERTIFICATE)
    return _pem(call, pair, pair.certificate_data, "certificate")


async def view_private_key(call: Call) -> Answer:
    """``GET …/view_private_key/``: the PEM; each reading is an event."""
    pair = _pair(call, access.VIEW_PRIVATE_KEY)
    call.services.database.log_event(
        "secret_view", "authentik.crypto", context={"secret": {"pk": pair.pk, "name": pair.name}}, user=call.user,
        client_ip=call.http.client_ip, brand=call.http.brand,
    )  # fmt: skip
    return _pem(call, pair, pair.key_data, "private_key")


ROUTES = (
    Route("GET", "/crypto/certificatekeypairs/", listing),
    Route("GET", "/crypto/certificatekeypairs/{pk}/", retrieve),
    Route("GET", "/crypto/certificatekeypairs/{pk}/view_certificate/", view_certificate),
    Route("GET", "/crypto/certificatekeypairs/{pk}/view_private_key/", view_private_key),
)
