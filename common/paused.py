"""A paused login as data: what is needed to go on, here or in another process, and its sealed form (design.md §5).

A ``Standing`` holds cookies, and the password as long as the core has not taken it, so it leaves the process only
sealed: one octet format, 12 octets nonce, AES-256-GCM of MessagePack. The key is derived from the outpost's token,
which all replicas of an outpost share. What the challenge belongs to (client, provider) is authenticated with it: a
sealed login opens only for the ``binding`` that it was sealed for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common import challenges
from common.challenges import Challenge, ChallengeError
from common.dialogue import Person
from common.errors import SealError
from common.flow import Progress, Solver
from common.outcomes import Credentials, LoginTarget, Question

PAUSE_S = 120.0  # from the login's begin to a person's last answer (core-contract §6.6)
FORMAT = b"\x01"
NONCE_SIZE = 12  # octets, the size GCM is made for (NIST SP 800-38D §8.2)
TAG_SIZE = 16  # octets
MAX_SEALED = 65_536  # octets; cookies are at most a few KiB, challenges too


@dataclass
class Standing:
    """Where a login stands. ``expires`` is in unix seconds, so that it means the same on every machine."""

    target: LoginTarget
    credentials: Credentials = field(repr=False)
    solver: Solver = field(repr=False)
    person: Person = field(repr=False)
    progress: Progress = field(repr=False)
    cookies: dict[str, str] = field(repr=False)
    challenge: bytes = field(repr=False)
    question: Question
    expires: float

    def forget_used(self) -> None:
        """Drop the password once the core has taken it: nothing that follows may use it again."""
        self.credentials = replace(self.credentials, password="")
        if "password" in self.progress.accepted:
            code = None if self.solver.whole or "code" in self.progress.accepted else self.solver.code
            self.solver = replace(self.solver, password="", code=code)

    def pending(self) -> Challenge:
        """The challenge that waits for an answer."""
        return challenges.decode(self.challenge)


class Seal:
    """Seals and opens standings with a key from the outpost's token."""

    def __init__(self, token: str) -> None:
        key = HKDF(SHA256(), 32, salt=b"outposts paused login", info=FORMAT).derive(token.encode())
        self._cipher = AESGCM(key)

    def close(self, standing: Standing, binding: bytes) -> bytes:
        """The sealed form. Raises ``SealError`` if it is too large."""
        content = msgspec.msgpack.encode(standing)
        nonce = os.urandom(NONCE_SIZE)
        sealed = FORMAT + nonce + self._cipher.encrypt(nonce, content, FORMAT + binding)
        if len(sealed) > MAX_SEALED:
            raise SealError("too large")
        return sealed

    def open(self, sealed: bytes, binding: bytes) -> Standing:
        """A standing. Raises ``SealError`` if it is none of ours, was changed, or belongs to something else."""
        start = len(FORMAT) + NONCE_SIZE
        if not start + TAG_SIZE <= len(sealed) <= MAX_SEALED or not sealed.startswith(FORMAT):
            raise SealError("not a sealed login")
        try:
            content = self._cipher.decrypt(sealed[len(FORMAT) : start], sealed[start:], FORMAT + binding)
            standing = msgspec.msgpack.decode(content, type=Standing)
            standing.pending()
        except InvalidTag:
            raise SealError("sealed with another token or for something else, or changed") from None
        except (msgspec.MsgspecError, UnicodeDecodeError, ChallengeError):
            raise SealError("sealed by another version") from None
        return standing
