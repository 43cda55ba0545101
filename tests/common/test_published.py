"""Memory files: private, unchangeable once published, and gone when nobody uses them."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from common.published import Area, map_published, publish, write_all


def test_published_and_mapped(tmp_path: Path) -> None:
    """One piece behind the other; nobody else may read the file, nobody can change it, no name is left."""
    publication = publish([b"abc", memoryview(b"defg")[:3], bytearray(b"!")], str(tmp_path))
    mapped = publication.map()
    assert mapped[:] == b"abcdef!"
    assert stat.S_IMODE(os.fstat(publication.fd).st_mode) == 0o600
    with pytest.raises(TypeError):
        mapped[0] = 1
    assert os.listdir(tmp_path) == []
    if hasattr(os, "memfd_create"):
        for change in (lambda: os.pwrite(publication.fd, b"x", 0), lambda: os.ftruncate(publication.fd, 1)):
            with pytest.raises(OSError):
                change()


def test_without_memory_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of mode 0600 without a name."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    area = Area(str(tmp_path))
    assert stat.S_IMODE(os.fstat(area.fd).st_mode) == 0o600
    assert os.listdir(tmp_path) == []
    write_all(area.fd, [b"abc"])
    assert area.publish().map()[:] == b"abc"


def test_a_map_outlives_its_publication(tmp_path: Path) -> None:
    """And a copy has a descriptor of its own."""
    publication = publish([b"abc"], str(tmp_path))
    copy = publication.again()
    mapped = publication.map()
    publication.close()
    publication.close()
    assert copy.map()[:] == mapped[:] == b"abc"
    assert copy.identity == publication.identity != publish([b"abc"], str(tmp_path)).identity


def test_handed_on_through_a_socket(tmp_path: Path) -> None:
    """As a supervisor gives it to a worker."""
    publication = publish([b"abc"], str(tmp_path))
    here, there = socket.socketpair()
    with here, there:
        socket.send_fds(here, [b"m"], [publication.fd])
        _, descriptors, _, _ = socket.recv_fds(there, 1, 1)
    mapped = map_published(descriptors[0], publication.size)
    os.close(descriptors[0])
    assert mapped[:] == b"abc"


def test_given_up_areas_leave_nothing(tmp_path: Path) -> None:
    """Closed once or twice; also when the pieces fail."""
    before = len(os.listdir("/proc/self/fd"))
    area = Area(str(tmp_path))
    area.close()
    area.close()
    with pytest.raises(TypeError):
        publish([b"abc", None], str(tmp_path))  # type: ignore[list-item]
    assert len(os.listdir("/proc/self/fd")) == before
