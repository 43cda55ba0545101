"""Signed claims in cookies: JSON Web Tokens of one kind, HS256 with a fixed header (RFC 7519, RFC 7515 §3.1).

Every request reads one and every flow request writes one. A token with any other header, be it another algorithm or
none, is not one of ours: the header is compared as a whole, so nothing in it can be chosen by who sends it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import Any

import msgspec

MAX_TOKEN = 4096  # characters; what browsers keep of a cookie

_HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=") + b"."


def _signature(key: bytes, content: bytes) -> bytes:
    return base64.urlsafe_b64encode(hmac.digest(key, content, "sha256")).rstrip(b"=")


def write(claims: dict[str, Any], key: bytes) -> str:
    """The token for these claims."""
    content = _HEADER + base64.urlsafe_b64encode(msgspec.json.encode(claims)).rstrip(b"=")
    return (content + b"." + _signature(key, content)).decode()


def read(text: str, key: bytes) -> dict[str, Any] | None:
    """The claims of a token, ``None`` if it is not signed with this key. Times in it are the caller's to compare."""
    if len(text) > MAX_TOKEN or not text.isascii():
        return None
    content, _, signature = text.encode().rpartition(b".")
    if not content.startswith(_HEADER) or not hmac.compare_digest(_signature(key, content), signature):
        return None
    payload = content[len(_HEADER) :]
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
    except (binascii.Error, msgspec.DecodeError, ValueError):
        return None
    return claims if isinstance(claims, dict) else None
