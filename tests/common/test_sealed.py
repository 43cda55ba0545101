"""Sealed files: only the same token, role, format and schema open them, and writing is all or nothing."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import logs
from common.errors import SealError
from common.sealed import PIECE_SIZE, SealedFile


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What is logged."""
    text = io.StringIO()
    logs.configure("info", stream=text)
    yield text
    logs.configure("info")


def test_there_and_back(tmp_path: Path) -> None:
    """The folder is made, the file is private, its bytes show nothing of the content and differ each time."""
    file = SealedFile(tmp_path / "new" / "state", "token")
    assert file.read(1) is None
    assert file.write(1, b"content") is True
    first = file.path.read_bytes()
    assert file.read(1) == b"content"
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert first[:8] == b"OUTP\x00\x01\x00\x01"
    assert b"content" not in first
    file.write(1, b"content")
    assert file.path.read_bytes() != first
    assert os.listdir(file.path.parent) == ["state"]


def test_only_the_right_file_opens(tmp_path: Path, stream: io.StringIO) -> None:
    """Another token, schema or role is as good as no file; each says so in one line, without the token."""
    path = tmp_path / "state"
    SealedFile(path, "t0ken").write(1, b"content")
    assert SealedFile(path, "other").read(1) is None
    assert SealedFile(path, "t0ken").read(2) is None
    assert SealedFile(path, "t0ken", role="directory").read(1) is None
    assert SealedFile(path, "t0ken").read(1) == b"content"
    assert stream.getvalue().count("\n") == 3
    assert "t0ken" not in stream.getvalue()


def test_every_change_is_noticed(tmp_path: Path) -> None:
    """Each single bit, every shortening, and additions."""
    file = SealedFile(tmp_path / "state", "token")
    good = file.seal(1, b"content")
    assert file.open(good, 1) == b"content"
    damaged = [good[:cut] for cut in range(len(good))] + [good + b"\x00", b""]
    for place in range(len(good)):
        for bit in range(8):
            changed = bytearray(good)
            changed[place] ^= 1 << bit
            damaged.append(bytes(changed))
    for content in damaged:
        with pytest.raises(SealError):
            file.open(content, 1)


def test_failed_writing_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: io.StringIO
) -> None:
    """A full disk is logged, leaves no temporary file, and what was there stays."""
    file = SealedFile(tmp_path / "state", "token")
    file.write(1, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert file.write(1, b"new") is False
    monkeypatch.undo()
    assert file.read(1) == b"old"
    assert os.listdir(tmp_path) == ["state"]
    assert "No space left" in stream.getvalue()


def test_unreadable_and_removed(tmp_path: Path, stream: io.StringIO) -> None:
    """A folder in its place is logged; removing is quiet."""
    (tmp_path / "folder").mkdir()
    assert SealedFile(tmp_path / "folder", "token").read(1) is None
    assert "state not readable" in stream.getvalue()
    file = SealedFile(tmp_path / "state", "token")
    file.write(1, b"x")
    file.remove()
    file.remove()
    assert not file.path.exists()
    assert "token" not in repr(file)


def test_piece_by_piece(tmp_path: Path, stream: io.StringIO) -> None:
    """Large content passes through in pieces; the file is the same kind as any other, and every change is noticed."""
    content = os.urandom(PIECE_SIZE * 2 + 5)
    file = SealedFile(tmp_path / "state", "token")
    assert file.write_pieces(1, [b"", memoryview(content)[:7], content[7:]]) is True
    assert file.read(1) == content
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600

    def read(schema: int = 1, token: str = "token") -> bytes | None:
        with (tmp_path / "plain").open("w+b") as target:
            if not SealedFile(file.path, token).read_into(schema, target.fileno()):
                return None
            target.seek(0)
            return target.read()

    assert read() == content
    assert read(schema=2) is None
    assert read(token="other") is None
    good = file.path.read_bytes()
    for damaged in (b"", good[:20], good[:-1], good[: PIECE_SIZE * 2], good + b"\x00", good[:99] + b"?" + good[100:]):
        file.path.write_bytes(damaged)
        assert read() is None
    file.path.unlink()
    assert read() is None
    assert stream.getvalue().count("\n") == 8


def test_a_writer_that_fails_leaves_the_file(tmp_path: Path) -> None:
    """An error while the pieces are made is the caller's; the file stays as it was."""
    file = SealedFile(tmp_path / "state", "token")
    file.write(1, b"old")

    def pieces() -> Iterator[bytes]:
        yield b"new"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        file.write_pieces(1, pieces())
    assert file.read(1) == b"old"
    assert os.listdir(tmp_path) == ["state"]
