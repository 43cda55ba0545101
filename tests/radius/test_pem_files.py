"""Certificates in files: read again when they change, and never worse than before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common.tls import CertificateError
from outposts.radius.pem_files import PemFiles
from tests.certificates import authority

AUTHORITY = authority("files")
FIRST, SECOND = AUTHORITY.issue(("one.example",)), AUTHORITY.issue(("two.example",))


def write(folder: Path, certificate: str, key: str) -> tuple[str, str]:
    """The two files, replaced as certbot does: other files under the same names."""
    paths = []
    for name, text in (("tls.pem", certificate), ("tls.key", key)):
        made = folder / (name + ".new")
        made.write_text(text)
        os.replace(made, folder / name)
        paths.append(str(folder / name))
    return paths[0], paths[1]


def test_no_names_no_pair() -> None:
    """Both empty is nothing; one alone is a mistake."""
    files = PemFiles()
    assert files.pair("", "") is None
    with pytest.raises(CertificateError, match="together"):
        files.pair("", __file__)


def test_the_pair_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """The same object as long as the files are the same."""
    files = PemFiles()
    paths = write(tmp_path, FIRST.pem, FIRST.key_pem)
    pair = files.pair(*paths)
    assert pair is not None and pair.certificate_pem == FIRST.pem and pair.servable
    assert not files.changed() and files.pair(*paths) is pair
    write(tmp_path, SECOND.pem, SECOND.key_pem)
    assert files.changed()
    newer = files.pair(*paths)
    assert newer is not None and newer.certificate_pem == SECOND.pem
    assert not files.changed()


@pytest.mark.parametrize(
    ("certificate", "key"), [(SECOND.pem, FIRST.key_pem), ("", FIRST.key_pem), (FIRST.pem, ""), ("rubbish", "rubbish")]
)
def test_a_broken_pair_does_not_replace_a_good_one(tmp_path: Path, certificate: str, key: str) -> None:
    """Half of a renewal, or rubbish; the next change is looked at again."""
    files = PemFiles()
    paths = write(tmp_path, FIRST.pem, FIRST.key_pem)
    pair = files.pair(*paths)
    write(tmp_path, certificate, key)
    assert files.changed()
    assert files.pair(*paths) is pair
    assert not files.changed()
    write(tmp_path, SECOND.pem, SECOND.key_pem)
    newer = files.pair(*paths)
    assert newer is not None and newer.certificate_pem == SECOND.pem


def test_files_that_go_away_keep_the_pair(tmp_path: Path) -> None:
    """A moment without them is part of many renewals."""
    files = PemFiles()
    paths = write(tmp_path, FIRST.pem, FIRST.key_pem)
    pair = files.pair(*paths)
    Path(paths[1]).unlink()
    assert files.pair(*paths) is pair


@pytest.mark.parametrize(("certificate", "key"), [("", ""), ("rubbish", "rubbish"), (FIRST.pem, SECOND.key_pem)])
def test_files_that_never_were_good_are_an_error(tmp_path: Path, certificate: str, key: str) -> None:
    """Which quotes nothing of them."""
    files = PemFiles()
    with pytest.raises(CertificateError) as caught:
        files.pair(*write(tmp_path, certificate, key))
    assert "rubbish" not in str(caught.value) and "PRIVATE KEY-" not in str(caught.value)
    with pytest.raises(CertificateError, match="no-such-file"):
        PemFiles().pair(str(tmp_path / "no-such-file"), str(tmp_path / "no-such-key"))
