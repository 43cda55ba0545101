"""Is this token one that the core made for us, for this login, and does it still count? (RFC 7519, RFC 8725)

The algorithm is decided by what a key *is*, never by what a token says: a shared secret verifies HS* only, a public key
only the algorithms of its own kind, and neither is ever handed to the other's. A token names its algorithm; if that is
not one which the provider lists, or which the key itself is marked for, it is refused before any key is touched.

``verify`` is the only way to claims that count. Level 1: keys and time are arguments.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt
import msgspec
from jwt.exceptions import PyJWTError

from common.errors import OutpostError
from outposts.proxy.endpoints import SIGNING

MAX_TOKEN = 65_536  # characters; with groups and attributes the core's have 1 to 10 thousand
MAX_PARTS_DEPTH = 64  # nested objects and lists in claims; more is made to hurt a parser
NOT_YET_S = 300  # seconds that ``nbf`` and ``iat`` may lie ahead: clocks that are not set. ``exp`` has no such leeway
MAX_LIFE_S = 10 * 366 * 86_400  # seconds ahead of now that an ``exp`` may lie; above it arithmetic is not to be trusted
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"  # OpenID Connect Back-Channel Logout 1.0 §2.4

KINDS = {
    "HS256": "oct",
    "HS384": "oct",
    "HS512": "oct",
    "RS256": "RSA",
    "RS384": "RSA",
    "RS512": "RSA",
    "PS256": "RSA",
    "PS384": "RSA",
    "PS512": "RSA",
    "ES256": "P-256",
    "ES384": "P-384",
    "ES512": "P-521",
    "EdDSA": "OKP",
}
"""What kind of key each algorithm needs (RFC 7518 §3.1, RFC 8037 §3.1)."""
MIN_RSA_BITS = 2048  # RFC 7518 §3.3
_JWS = jwt.PyJWS()


class TokenError(OutpostError):
    """A token does not count; ``problem`` says why, in words that hold nothing of it."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"token: {problem}")
        self.problem = problem


class UnknownKey(TokenError):
    """No key that is known here has the token's name for it: there may be newer ones."""

    def __init__(self) -> None:
        super().__init__("made with a key that the provider does not publish")


@dataclass(frozen=True, slots=True)
class Key:
    """One public key of a provider. ``algorithm`` is "" if it is not marked for one."""

    kind: str
    key_id: str
    algorithm: str
    public: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a token must say. ``nonce`` None: it is not asked for. ``algorithms`` are those that the provider lists."""

    client_id: str
    issuers: Sequence[str]
    algorithms: frozenset[str]
    nonce: str | None = None
    subject: str | None = None
    subject_needed: bool = True


def keys_of(document: object, limit: int) -> tuple[Key, ...]:
    """The keys of a JWK set (RFC 7517 §5) that can verify signatures; the first ``limit`` of them.

    Others are passed over: for encryption, too weak, symmetric (a shared secret in public is none), or not understood.
    """
    listed = document.get("keys") if isinstance(document, Mapping) else None
    found: list[Key] = []
    for entry in listed if isinstance(listed, list) else ():
        if len(found) >= limit:
            break
        key = _key_of(entry)
        if key is not None:
            found.append(key)
    return tuple(found)


def _key_of(entry: object) -> Key | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    operations = entry.get("key_ops")
    if isinstance(operations, list) and "verify" not in operations:
        return None
    algorithm = entry.get("alg") or ""
    kind = entry.get("kty")
    if kind == "EC":
        kind = entry.get("crv")
    default = {"RSA": "RS256", "P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "OKP": "EdDSA"}.get(str(kind))
    if default is None or not isinstance(algorithm, str) or (algorithm and KINDS.get(algorithm) != kind):
        return None
    try:
        public = jwt.PyJWK({name: value for name, value in entry.items() if name != "d"}, default).key
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if kind == "RSA" and not MIN_RSA_BITS <= public.key_size <= 16_384:
        return None
    key_id = entry.get("kid")
    return Key(str(kind), key_id if isinstance(key_id, str) else "", algorithm, public)


def verify(token: str, expected: Expected, secret: str, keys: Iterable[Key], now: float) -> dict[str, Any]:
    """The claims of a token that counts. Raises ``TokenError``; ``UnknownKey`` if other keys might help.

    ``secret`` is the client secret (for HS*), ``keys`` the provider's public ones, ``now`` in unix seconds.
    """
    payload = verify_signature(token, expected.algorithms, secret, keys)
    _check_times(payload, now)
    if payload.get("iss") not in expected.issuers:
        raise TokenError("from another issuer")
    check_audience(payload, expected.client_id)
    subject = payload.get("sub", "")
    if not isinstance(subject, str) or not (subject or not expected.subject_needed):
        raise TokenError("about nobody")
    if expected.subject is not None and not _same(subject, expected.subject):
        raise TokenError("about somebody else")
    if expected.nonce is not None:
        nonce = payload.get("nonce")
        if not isinstance(nonce, str) or not _same(nonce, expected.nonce):
            raise TokenError("of another login")
    return payload


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass"))


def verify_signature(token: str, algorithms: frozenset[str], secret: str, keys: Iterable[Key]) -> dict[str, Any]:
    """The payload of a token whose signature is the provider's; nothing else about it is known then."""
    header = header_of(token)
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in SIGNING:
        raise TokenError("signed with an algorithm that is not accepted")
    if "crit" in header:  # extensions that must be understood (RFC 7515 §4.1.11); none is
        raise TokenError("with extensions that are not understood")
    if KINDS[algorithm] == "oct":
        if algorithm not in algorithms or not secret:
            raise TokenError("signed with an algorithm that the provider does not use")
        candidates: list[Any] = [secret]
    else:
        candidates = _matching(header, algorithm, algorithms, keys)
    for candidate in candidates:
        try:
            decoded = _JWS.decode_complete(token, candidate, [algorithm])
        except (PyJWTError, ValueError, TypeError):
            continue
        return _claims(decoded["payload"])
    raise TokenError("not signed by the provider")


def header_of(token: str) -> dict[str, Any]:
    """The header of a token, unverified. Raises ``TokenError``."""
    if len(token) > MAX_TOKEN or not token.isascii():
        raise TokenError("too long, or not a token")
    text = token.partition(".")[0]
    try:
        header = msgspec.json.decode(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
    except (binascii.Error, ValueError, msgspec.MsgspecError, RecursionError):
        raise TokenError("not a token") from None
    if not isinstance(header, dict) or token.count(".") != 2:
        raise TokenError("not a token")
    return header


def is_symmetric(token: str) -> bool:
    """Whether a token says that it is signed with a shared secret, so that no public key is needed to judge it."""
    return KINDS.get(str(header_of(token).get("alg"))) == "oct"


def _matching(header: Mapping[str, Any], algorithm: str, listed: frozenset[str], keys: Iterable[Key]) -> list[Any]:
    """Public keys that may have made a signature: of the right kind, and with the token's name for them if it has one.

    The algorithm has to be one that the provider lists, or the one that the key is marked for.
    """
    key_id = header.get("kid")
    named = isinstance(key_id, str) and bool(key_id)
    fitting = [
        key
        for key in keys
        if key.kind == KINDS[algorithm]
        and (not named or key.key_id == key_id)
        and (key.algorithm == algorithm if key.algorithm else algorithm in listed)
    ]
    if not fitting:
        raise UnknownKey
    return [key.public for key in fitting]


def _claims(octets: bytes) -> dict[str, Any]:
    try:
        payload = msgspec.json.decode(octets)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise TokenError("without claims") from None
    if not isinstance(payload, dict) or not _shallow(payload):
        raise TokenError("without claims")
    return payload


def _shallow(payload: object) -> bool:
    """Whether claims are nested no deeper than ``MAX_PARTS_DEPTH``: what copies and stores them later recurses."""
    level: list[Any] = [payload]
    for _ in range(MAX_PARTS_DEPTH):
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return True
    return False


def _check_times(payload: Mapping[str, Any], now: float) -> None:
    expires = _number(payload.get("exp"))
    if expires is None:
        raise TokenError("without an end")
    if not now < expires < now + MAX_LIFE_S:
        raise TokenError("over")
    for name in ("nbf", "iat"):
        value = payload.get(name)
        if value is not None:
            moment = _number(value)
            if moment is None or moment > now + NOT_YET_S:
                raise TokenError("not valid yet")


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def check_audience(payload: Mapping[str, Any], client_id: str) -> None:
    """Raise ``TokenError`` unless a token is for this client, and for it alone if it says so (OIDC Core §3.1.3.7)."""
    audience = payload.get("aud")
    listed = [audience] if isinstance(audience, str) else audience
    if not isinstance(listed, list) or client_id not in listed:
        raise TokenError("for somebody else")
    if payload.get("azp", client_id) != client_id:
        raise TokenError("for somebody else")


def check_access_token(payload: Mapping[str, Any], id_token: str, access_token: str) -> None:
    """Raise ``TokenError`` if a verified ID token says that another access token goes with it (OIDC Core §3.1.3.6)."""
    said = payload.get("at_hash")
    if said is None:
        return
    algorithm = str(header_of(id_token).get("alg"))
    digest = hashlib.new("sha512" if algorithm == "EdDSA" else f"sha{algorithm[-3:]}", access_token.encode()).digest()
    half = base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()
    if not isinstance(said, str) or not _same(said, half):
        raise TokenError("with another access token")
