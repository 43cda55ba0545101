"""State files: sealed with a key from the outpost's token, versioned, mode 0600, replaced atomically (design.md §2).

Layout: magic ``OUTP``, u16 format, u16 schema (both big-endian), 12 bytes nonce, AES-256-GCM of the content. The first
eight bytes and the file's role are authenticated too, so a file cannot be passed off as another one. The key is HKDF-
SHA256 of the token: whoever has a copy of the file learns nothing without the token, and after a change of the token
the file is as good as absent. Reading never raises for a bad file: one log line, and the caller starts from nothing.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import struct
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common import logs
from common.errors import SealError

MAGIC = b"OUTP"
FORMAT = 1  # of the envelope; the content's own version is ``schema``
NONCE_SIZE = 12  # bytes, the size GCM is made for (NIST SP 800-38D §8.2)
TAG_SIZE = 16  # bytes
HEAD = struct.Struct("!4sHH")
MAX_SIZE = 2_000_000_000  # bytes sealed in one piece; the library's AES-GCM ends at 2^31 - 1
MAX_STREAM = 60_000_000_000  # bytes sealed piece by piece; GCM ends at 2^36 - 32 (NIST SP 800-38D §5.2.1.1)
PIECE_SIZE = 1 << 20  # bytes encrypted or decrypted at a time, so that a large file never stands in memory twice

log = logs.get_logger("sealed")


class SealedFile:
    """One state file. ``role`` separates the keys of files that share a token: the file's name if not given."""

    def __init__(self, path: Path | str, token: str, role: str | None = None) -> None:
        self.path = Path(path)
        self.role = role or self.path.name
        self._role = self.role.encode()
        self._key = HKDF(SHA256(), 32, salt=b"outposts state", info=self._role).derive(token.encode())
        self._cipher = AESGCM(self._key)

    def __repr__(self) -> str:
        return f"SealedFile({str(self.path)!r})"

    def read(self, schema: int) -> bytes | None:
        """The content, or None if there is no file or none that can be used (then one log line says why)."""
        try:
            sealed = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("state not readable", path=str(self.path), problem=error.strerror)
            return None
        try:
            return self.open(sealed, schema)
        except SealError as error:
            log.warning("state ignored", path=str(self.path), problem=str(error))
            return None

    def read_into(self, schema: int, target: int) -> bool:
        """As ``read``, but written to the file descriptor ``target`` piece by piece; False if there is nothing usable.

        What stands in ``target`` counts only after True: its end is checked last. Raises ``OSError`` if ``target``
        cannot be written.
        """
        try:
            source = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            log.warning("state not readable", path=str(self.path), problem=error.strerror)
            return False
        try:
            self._open_into(source, schema, target)
        except SealError as error:
            log.warning("state ignored", path=str(self.path), problem=str(error))
            return False
        finally:
            os.close(source)
        return True

    def _open_into(self, source: int, schema: int, target: int) -> None:
        opening = os.read(source, HEAD.size + NONCE_SIZE)
        left = os.fstat(source).st_size - HEAD.size - NONCE_SIZE - TAG_SIZE
        if left < 0 or len(opening) < HEAD.size + NONCE_SIZE:
            raise SealError("too short")
        self._check_head(opening, schema)
        decryptor = Cipher(AES(self._key), GCM(opening[HEAD.size :])).decryptor()
        decryptor.authenticate_additional_data(opening[: HEAD.size] + self._role)
        while left:
            piece = os.read(source, min(left, PIECE_SIZE))
            if not piece:
                raise SealError("cut off")
            left -= len(piece)
            plain = memoryview(decryptor.update(piece))
            while plain:
                plain = plain[os.write(target, plain) :]
        try:
            decryptor.finalize_with_tag(os.read(source, TAG_SIZE))
        except (InvalidTag, ValueError):
            raise SealError("sealed with another token, or changed") from None

    @staticmethod
    def _check_head(opening: bytes, schema: int) -> None:
        magic, envelope, found_schema = HEAD.unpack_from(opening)
        if magic != MAGIC:
            raise SealError("not a state file")
        if envelope != FORMAT:
            raise SealError("another format")
        if found_schema != schema:
            raise SealError("another schema")

    def open(self, sealed: bytes, schema: int) -> bytes:
        """Unseal a file's bytes. Raises ``SealError``."""
        if len(sealed) < HEAD.size + NONCE_SIZE + TAG_SIZE:
            raise SealError("too short")
        self._check_head(sealed, schema)
        nonce = sealed[HEAD.size : HEAD.size + NONCE_SIZE]
        try:
            return self._cipher.decrypt(nonce, sealed[HEAD.size + NONCE_SIZE :], sealed[: HEAD.size] + self._role)
        except InvalidTag:
            raise SealError("sealed with another token, or changed") from None

    def seal(self, schema: int, content: bytes) -> bytes:
        """The bytes of a file with this content. Raises ``SealError`` if it is too large."""
        if len(content) > MAX_SIZE:
            raise SealError("too large")
        head = HEAD.pack(MAGIC, FORMAT, schema)
        nonce = secrets.token_bytes(NONCE_SIZE)
        return head + nonce + self._cipher.encrypt(nonce, content, head + self._role)

    def _sealed_pieces(self, schema: int, pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
        head = HEAD.pack(MAGIC, FORMAT, schema)
        nonce = secrets.token_bytes(NONCE_SIZE)
        encryptor = Cipher(AES(self._key), GCM(nonce)).encryptor()
        encryptor.authenticate_additional_data(head + self._role)
        yield head + nonce
        total = 0
        for content in pieces:
            view = memoryview(content).cast("B")
            total += len(view)
            if total > MAX_STREAM:
                raise SealError("too large")
            for start in range(0, len(view), PIECE_SIZE):
                yield encryptor.update(view[start : start + PIECE_SIZE])
        yield encryptor.finalize() + encryptor.tag

    def write(self, schema: int, content: bytes) -> bool:
        """Replace the file. A full disk or a missing right is logged, and the file stays as it was: then False."""
        return self.write_pieces(schema, [content])

    def write_pieces(self, schema: int, pieces: Iterable[bytes | memoryview]) -> bool:
        """As ``write``, for content that is better not put together in memory."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _replace(self.path, self._sealed_pieces(schema, pieces))
        except (OSError, SealError) as error:
            problem = error.strerror if isinstance(error, OSError) else str(error)
            log.warning("state not written", path=str(self.path), problem=problem)
            return False
        return True

    def remove(self) -> None:
        """Delete the file if it is there."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def _replace(path: Path, pieces: Iterable[bytes]) -> None:
    """Write beside the file, sync, rename: a reader sees the old or the new content, a power cut too."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
