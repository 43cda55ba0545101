"""Files that are replaced under a running daemon, read again when they change: revocation lists, OCSP responses."""

from __future__ import annotations

import os

from common.tls import CertificateError

MAX_FILE = 16 << 20  # octets: revocation lists of large authorities take some; something else was named

Stamp = tuple[int, int, int] | None


class WatchedFiles:
    """Contents by path. A file that has gone away keeps what was read last, which dates in it will end."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[bytes, Stamp]] = {}

    def read(self, path: str) -> bytes:
        """The contents; b"" without a path. Raises ``CertificateError`` if the file could never be read."""
        if not path:
            return b""
        known = self._known.get(path)
        stamp = _stamp(path)
        if known is not None and known[1] == stamp:
            return known[0]
        try:
            with open(path, "rb") as file:
                octets = file.read(MAX_FILE + 1)
            if len(octets) > MAX_FILE:
                raise CertificateError(f"{path}: longer than {MAX_FILE} octets")
        except OSError as error:
            if known is None:
                raise CertificateError(f"{path}: {error.strerror}") from None
            octets = known[0]
        self._known[path] = (octets, stamp)
        return octets

    def changed(self) -> bool:
        """Whether any file that was read is another one now."""
        return any(known[1] != _stamp(path) for path, known in list(self._known.items()))


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
