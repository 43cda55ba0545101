"""Password hashes: argon2id in the usual ``$argon2id$…`` text form. The salt is an argument; nothing here waits.

A comparison takes the same path and time whether or not there is a hash to compare with, so that an unknown user cannot
be told from a wrong password.
"""

from __future__ import annotations

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

# OWASP's password storage sheet: argon2id with 19 MiB, 2 passes, 1 lane; about 20 ms on one core, and a burst of logins
# on a small machine does not run out of memory.
MEMORY_KIB = 19 * 1024
PASSES = 2
LANES = 1
SALT_BYTES = 16
HASH_BYTES = 32

MAX_PASSWORD_BYTES = 4096  # longer ones are never accepted: no person types them, and they cost memory
UNUSABLE = ""

_hasher = PasswordHasher(
    time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES, hash_len=HASH_BYTES, salt_len=SALT_BYTES, type=Type.ID
)
# Compared with when there is no hash; same cost as a real one. Its password is of no use: the answer is always false.
_DECOY = _hasher.hash("", salt=bytes(SALT_BYTES))


def hash_password(password: str, salt: bytes) -> str:
    """Hash of a password; ``salt`` is ``SALT_BYTES`` random bytes.

    :raises ValueError: the password is longer than ``MAX_PASSWORD_BYTES`` in UTF-8.
    """
    if len(password.encode()) > MAX_PASSWORD_BYTES:
        raise ValueError(f"a password may have at most {MAX_PASSWORD_BYTES} bytes")
    return _hasher.hash(password, salt=salt)


def verify(password_hash: str, password: str) -> bool:
    """Whether the password belongs to the hash. No hash, an unreadable one, or an overlong password: false, in the
    time of a real comparison."""
    usable = password_hash.startswith("$argon2")
    encoded = password.encode("utf-8", "surrogatepass")
    try:
        _hasher.verify(password_hash if usable else _DECOY, encoded[:MAX_PASSWORD_BYTES])
    except (VerificationError, InvalidHashError):
        return False
    return usable and len(encoded) <= MAX_PASSWORD_BYTES
