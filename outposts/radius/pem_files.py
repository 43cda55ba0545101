"""A certificate and its key in files, read again when they change; certbot and its like replace them under us."""

from __future__ import annotations

import os

from common.tls import CertificateError, CertificatePair, check

MAX_FILE = 1 << 20  # octets: a chain of ten certificates takes 30 KiB; something else was named


class PemFiles:
    """Pairs by their two paths. What cannot be read or does not fit together keeps the pair that was there before."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, str], tuple[CertificatePair, object]] = {}

    def pair(self, certificate_path: str, key_path: str) -> CertificatePair | None:
        """The pair in these files; None without names. Raises ``CertificateError`` if there never was one."""
        if not certificate_path and not key_path:
            return None
        paths = (certificate_path, key_path)
        known = self._pairs.get(paths)
        stamp = tuple(_stamp(path) for path in paths)
        if known is not None and known[1] == stamp:
            return known[0]
        try:
            made = CertificatePair("", "", _read(certificate_path), _read(key_path))
            check(made)
            if not made.servable:
                raise CertificateError("no key in the file")
        except CertificateError:
            if known is None:
                raise
            # In the middle of being replaced, or broken: the next change will be seen.
            self._pairs[paths] = (known[0], stamp)
            return known[0]
        self._pairs[paths] = (made, stamp)
        return made

    def changed(self) -> bool:
        """Whether any file that is in use is another one now."""
        return any(known[1] != tuple(_stamp(path) for path in paths) for paths, known in list(self._pairs.items()))


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read(path: str) -> str:
    if not path:
        raise CertificateError("tls_certificate and tls_key have to be named together")
    try:
        with open(path, encoding="ascii") as file:
            return file.read(MAX_FILE)
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "not PEM text"
        raise CertificateError(f"{path}: {problem}") from None
