"""The recorded packets of ``tests/data/radius/vectors.txt``, and what damages a packet."""

from __future__ import annotations

from pathlib import Path

FILE = Path(__file__).parent.parent / "data" / "radius" / "vectors.txt"
ROWS = [line.split(maxsplit=2) for line in FILE.read_text().splitlines()]
VECTORS = {name: bytes.fromhex(octets) for name, _, octets in ROWS}
SECRETS = {name: secret.encode() for name, secret, _ in ROWS}
PAIRS = [name.removesuffix("-reply") for name in VECTORS if name.removesuffix("-reply") + "-request" in VECTORS]
REQUESTS = [octets for name, octets in VECTORS.items() if name.endswith("-request")]

SECRET = b"testing123"
AUTHENTICATOR = bytes(range(16))


def packet(code: int, *attributes: bytes, identifier: int = 7, length: int | None = None) -> bytes:
    """A packet of raw attributes with an authenticator that is right for nothing; ``length`` overrules the true one."""
    body = b"".join(attributes)
    size = 20 + len(body) if length is None else length
    return bytes((code, identifier)) + size.to_bytes(2, "big") + AUTHENTICATOR + body


def flip(octets: bytes, bit: int) -> bytes:
    """One bit changed."""
    changed = bytearray(octets)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
