"""One end of the socket between a supervisor and a worker: frames out, frames in, file descriptors beside them.

Writing never blocks: what the socket does not take waits here, up to ``MAX_UNSENT``; a peer that lets more pile up is
given up. The end of the connection is told once, with its reason, and is the end of the peer: both processes hold their
socket for as long as they live.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from common import logs
from common.worker_wire import MAX_FRAME_SIZE, Decoder, Message, Publish, WireError, encode

READ_SIZE = 1 << 18  # bytes per read; a status is some dozen, a configuration some thousand
MAX_UNSENT = 2 * MAX_FRAME_SIZE  # bytes waiting for a peer that does not read
MAX_FILES = 64  # descriptors that came ahead of their messages: one per provider is the most that is sent at once
# Linux takes at most 253 in one call; ours come one by one, and the ones that do not fit would be lost.
FILES_PER_READ = 64

log = logs.get_logger("workers")


class Channel:
    """``on_message(message, fd)`` gets each message, with its file for a ``Publish`` that has one (the receiver closes
    it, unless it raises); a ``WireError`` of it ends the connection. ``on_end(reason)`` is called once, with an
    empty reason if the other end is just gone. Neither is called after ``close``.
    """

    def __init__(
        self,
        connection: socket.socket,
        kinds: Any,
        on_message: Callable[[Message, int | None], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._socket = connection
        self._decoder = Decoder(kinds)
        self._on_message = on_message
        self._on_end = on_end
        self._unsent: deque[tuple[memoryview, int | None]] = deque()
        self._unsent_size = 0
        self._files: deque[int] = deque()
        self._writing = False
        self._open = True
        connection.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(connection.fileno(), self._readable)

    @property
    def is_open(self) -> bool:
        """Whether the other end can still be reached."""
        return self._open

    def send(self, message: Message, fd: int | None = None) -> None:
        """Send a message, with a copy of a descriptor if given. A peer that is gone is not told, and no error."""
        if not self._open:
            return
        frame = encode(message)
        self._unsent.append((memoryview(frame), os.dup(fd) if fd is not None else None))
        self._unsent_size += len(frame)
        if not self._writing:
            self._write()
        if self._unsent_size > MAX_UNSENT:
            self._end("does not read")

    def close(self) -> None:
        """Close without telling ``on_end``."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._socket.fileno())
        if self._writing:
            self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        for fd in [*self._files, *(fd for _, fd in self._unsent if fd is not None)]:
            os.close(fd)
        self._files.clear()
        self._unsent.clear()

    def _end(self, reason: str) -> None:
        if self._open:
            self.close()
            self._on_end(reason)

    # -- out ---------------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        try:
            while self._unsent:
                data, fd = self._unsent[0]
                extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd is not None else []
                sent = self._socket.sendmsg([data], extra)
                if fd is not None:  # it goes with the first byte
                    os.close(fd)
                self._unsent_size -= sent
                if sent == len(data):
                    self._unsent.popleft()
                else:
                    self._unsent[0] = (data[sent:], None)
        except (BlockingIOError, InterruptedError):
            self._watch(True)
        except OSError:
            # Not from here: the caller of ``send`` is in the middle of something.
            self._loop.call_soon(self._end, "")
        else:
            self._watch(False)

    def _watch(self, wanted: bool) -> None:
        if wanted and not self._writing:
            self._loop.add_writer(self._socket.fileno(), self._write)
        elif self._writing and not wanted:
            self._loop.remove_writer(self._socket.fileno())
        self._writing = wanted

    # -- in ----------------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data, files, flags, _ = self._socket.recvmsg(
                READ_SIZE, socket.CMSG_SPACE(FILES_PER_READ * 4), getattr(socket, "MSG_CMSG_CLOEXEC", 0)
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._end("")
            return
        self._take_files(files)
        if flags & socket.MSG_CTRUNC or len(self._files) > MAX_FILES:
            self._end("too many files")
            return
        if not data:
            self._end("")
            return
        try:
            for message in self._decoder.receive(data):
                self._deliver(message)
        except WireError as error:
            self._end(str(error))
            return
        if self._files and not self._decoder.pending and self._open:
            self._end("a file without a message")

    def _take_files(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                self._files.extend(numbers)

    def _deliver(self, message: Message) -> None:
        if not self._open:  # an earlier message of the same read has ended it
            return
        fd = None
        if isinstance(message, Publish) and message.has_file:
            if not self._files:
                raise WireError("a message without its file")
            fd = self._files.popleft()
        try:
            self._on_message(message, fd)
        except Exception as error:
            if fd is not None:
                os.close(fd)
            if isinstance(error, WireError):
                raise
            log.exception("message not handled", kind=type(message).__name__)
