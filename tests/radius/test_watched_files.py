"""Files that are replaced under a running daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.tls import CertificateError
from outposts.radius import watched_files
from outposts.radius.watched_files import WatchedFiles


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """Replaced, rewritten, taken away and put back."""
    path, files = tmp_path / "list.pem", WatchedFiles()
    path.write_bytes(b"one")
    assert files.read(str(path)) == b"one" and not files.changed()
    (tmp_path / "new").write_bytes(b"two!")
    (tmp_path / "new").rename(path)
    assert files.changed()
    assert files.read(str(path)) == b"two!" and not files.changed()
    path.unlink()
    assert files.changed()
    assert files.read(str(path)) == b"two!" and not files.changed()
    path.write_bytes(b"three")
    assert files.changed() and files.read(str(path)) == b"three"


def test_no_path_is_nothing() -> None:
    """An empty setting reads nothing."""
    assert WatchedFiles().read("") == b""


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was never there, and one that is too long, are said by name."""
    with pytest.raises(CertificateError, match=r"absent: No such file"):
        WatchedFiles().read(str(tmp_path / "absent"))
    monkeypatch.setattr(watched_files, "MAX_FILE", 3)
    (tmp_path / "long").write_bytes(b"four")
    with pytest.raises(CertificateError, match="longer than 3 octets"):
        WatchedFiles().read(str(tmp_path / "long"))
