"""Random text from an alphabet: keys of sessions and tokens."""

from __future__ import annotations

import secrets


def random_text(alphabet: str, length: int) -> str:
    """``length`` characters, each equally likely: bytes beyond the last whole multiple of the alphabet are left out."""
    most = 256 - 256 % len(alphabet)
    found = ""
    while len(found) < length:
        found += "".join(alphabet[byte % len(alphabet)] for byte in secrets.token_bytes(2 * length) if byte < most)
    return found[:length]
