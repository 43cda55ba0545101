"""Bytes that several processes read at once: written once into a memory file, then mapped read-only by each reader.

A memory file (``memfd_create``) belongs to no folder, so what is in it never reaches a disk in the clear; once it is
published it is sealed against every change. Where the system has none, a file of mode 0600 in the given folder takes
its place, without a name as soon as it is open. One process owns the file and hands its descriptor on::

    supervisor:  publication = publish([content], folder)      # or: area = Area(folder); fill area.fd; area.publish()
                 socket.send_fds(channel, [message], [publication.fd])    # message: size and identity
    worker:      mapped = map_published(fd, size)              # the descriptor may be closed afterwards
                 snapshot = Snapshot.from_buffer(mapped)       # keeps the map for as long as it is used

A map outlives the publication: closing that only means that no further process can be given it. ``identity`` differs
for any two publications of a host, so a worker can say which one it serves.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
import tempfile
from collections.abc import Iterable

_SEALS = (
    getattr(fcntl, "F_SEAL_SEAL", 0)
    | getattr(fcntl, "F_SEAL_SHRINK", 0)
    | getattr(fcntl, "F_SEAL_GROW", 0)
    | getattr(fcntl, "F_SEAL_WRITE", 0)
)


class Area:
    """A file that is being filled through ``fd``, by this process or one that inherits the descriptor."""

    def __init__(self, folder: str, name: str = "outposts") -> None:
        """``folder``: for systems without memory files; ``name`` shows in ``/proc``. Raises ``OSError``."""
        if hasattr(os, "memfd_create"):
            self.fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.fchmod(self.fd, 0o600)
        else:
            self.fd, path = tempfile.mkstemp(prefix=f".{name}.", dir=folder)  # mode 0600, closed on exec
            os.unlink(path)

    def publish(self) -> Publication:
        """What is in the file now, for good. The area is used up."""
        size = os.fstat(self.fd).st_size
        with contextlib.suppress(OSError, AttributeError):  # not a memory file
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
        publication = Publication(self.fd, size)
        self.fd = -1
        return publication

    def close(self) -> None:
        """Give the content up, if it was not published."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Publication:
    """Finished content. ``fd`` is good for handing on until ``close``; ``size`` in bytes."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        self.identity = secrets.token_hex(16)

    def __repr__(self) -> str:
        return f"Publication({self.identity}, {self.size} bytes)"

    def map(self) -> mmap.mmap:
        """See ``map_published``."""
        return map_published(self.fd, self.size)

    def again(self) -> Publication:
        """The same content with a descriptor of its own, for another owner. Raises ``OSError``."""
        copy = Publication(os.dup(self.fd), self.size)
        copy.identity = self.identity
        return copy

    def close(self) -> None:
        """Nobody else is to get it; maps stay. May be called twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close()


def publish(content: Iterable[bytes | bytearray | memoryview], folder: str, name: str = "outposts") -> Publication:
    """Publish these bytes, one behind the other. Raises ``OSError`` (no memory, no descriptors)."""
    area = Area(folder, name)
    try:
        write_all(area.fd, content)
        return area.publish()
    finally:
        area.close()


def map_published(fd: int, size: int) -> mmap.mmap:
    """A read-only map that shares its memory with all others of that file. Raises ``OSError`` or ``ValueError``."""
    return mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)


def write_all(fd: int, content: Iterable[bytes | bytearray | memoryview]) -> int:
    """Write pieces whole; returns how many bytes. Raises ``OSError``."""
    total = 0
    for piece in content:
        with memoryview(piece) as view, view.cast("B") as left:
            position = 0
            while position < len(left):
                position += os.write(fd, left[position:])
            total += position
    return total
