"""What a supervisor and its workers say to each other: bytes ↔ typed messages; the socket is in ``worker_channel.py``.

A frame is a 32-bit big-endian length and that many bytes of MessagePack: one of the messages below, told apart by their
tag. The length is compared with ``MAX_FRAME_SIZE`` before anything is kept. Both ends come from the same release, so
anything unexpected is a ``WireError`` and ends the connection; there is no tolerance to abuse.

What must be known to have happened carries a ``number``, answered by ``Ack`` with that number::

    supervisor                                     worker
    Hello (settings, token included)  ────────►
                                      ◄────────    Started
    Configure, Publish …, Listen      ────────►    in this order, one after the other
                                      ◄────────    Ack each; Listening or Failed
    SessionEnd, Drop, ConnectionLost  ────────►    at once, ahead of what waits
                                      ◄────────    Ack
    MetricsRequest                    ────────►
                                      ◄────────    Metrics
                                      ◄────────    Status, every second and at each change; Refresh
    Forward (from another worker)     ◄───────►    Forward (to another worker)
    Drain                             ────────►
                                      ◄────────    Ack, then the end of the connection

``Publish`` with ``has_file`` comes with exactly one file descriptor, in the order of the messages.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from common.errors import OutpostError

VERSION = 1  # of this conversation
# A configuration with a thousand providers, each with a certificate chain, takes some 10 MB; directories never pass
# here (they are files). Twice as much and a worker would hold more in flight than it holds in service.
MAX_FRAME_SIZE = 32 * 2**20
# Keys of one ``Drop``; more are sent as several. Keeps a frame that drops everybody below a megabyte.
MAX_DROP_KEYS = 50_000
_LENGTH = struct.Struct("!I")


class WireError(OutpostError):
    """The other end sent what no supervisor or worker of this release sends."""


class Message(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", forbid_unknown_fields=True):
    """Base of all messages."""


class Hello(Message, frozen=True, tag=1):
    """Supervisor's first: who you are and what the operator decided (``setting_transfer``; with the token)."""

    version: int
    worker: int
    instance_id: str
    settings: bytes

    def __repr__(self) -> str:
        return f"Hello(worker={self.worker})"


class Configure(Message, frozen=True, tag=2):
    """Serve this configuration (``cache.to_bytes``; with private keys, and with the log level in force)."""

    number: int
    configuration: bytes

    def __repr__(self) -> str:
        return f"Configure(number={self.number})"


class Publish(Message, frozen=True, tag=3):
    """Something that the protocol's service has made for all workers. ``name`` and ``details`` are its business."""

    number: int
    name: str
    details: bytes
    has_file: bool
    size: int  # of the file, in bytes


class Listen(Message, frozen=True, tag=4):
    """Open the listeners of the settings."""

    number: int


class SessionEnd(Message, frozen=True, tag=5):
    """A login session of the core has ended."""

    number: int
    session_id: str


class ConnectionLost(Message, frozen=True, tag=6):
    """The WebSocket was away for so many seconds: session ends may have been missed."""

    number: int
    seconds: float


class Drop(Message, frozen=True, tag=7):
    """Forget what rests on these keys; ``what`` is the protocol's name for them, such as ``user_changed``."""

    number: int
    what: str
    keys: tuple[int, ...]


class MetricsRequest(Message, frozen=True, tag=9):
    """Tell your metrics."""

    number: int


class Drain(Message, frozen=True, tag=10):
    """Accept nothing new, finish within this time, end."""

    number: int
    timeout_s: float


class Started(Message, frozen=True, tag=20):
    """Worker's first: it runs and has read its settings."""

    version: int
    pid: int


class Listening(Message, frozen=True, tag=21):
    """All listeners are open: (name, host, port) each."""

    listeners: tuple[tuple[str, str, int], ...]


class Failed(Message, frozen=True, tag=22):
    """Listening is not possible; the text is for the operator."""

    problem: str


class Ack(Message, frozen=True, tag=23):
    """The message of that number is done; ``problem`` is empty unless it went wrong."""

    number: int
    problem: str = ""


class Metrics(Message, frozen=True, tag=24):
    """Answer to ``MetricsRequest``: see ``metric_merge``."""

    number: int
    families: bytes


class Status(Message, frozen=True, tag=25):
    """Sign of life, and why the service could not answer (empty = it can)."""

    reasons: tuple[str, ...]


class Refresh(Message, frozen=True, tag=26):
    """The service asks for a refresh."""


class Forward(Message, frozen=True, tag=27):
    """Something that another worker has to deal with, passed on by the supervisor; lost if that worker is gone.

    ``worker`` is the number of the one it is for. ``what`` and ``content`` are the protocol's business.
    """

    worker: int
    what: str
    content: bytes

    def __repr__(self) -> str:
        return f"Forward(worker={self.worker}, what={self.what!r})"


ToWorker = Hello | Configure | Publish | Listen | SessionEnd | ConnectionLost | Drop | MetricsRequest | Drain | Forward
ToSupervisor = Started | Listening | Failed | Ack | Metrics | Status | Refresh | Forward


def encode(message: Message) -> bytes:
    """A message as one frame. Raises ``WireError`` if it is too large to be sent."""
    body = msgspec.msgpack.encode(message)
    if len(body) > MAX_FRAME_SIZE:
        raise WireError(f"{type(message).__name__} has {len(body)} bytes, more than a frame may have")
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Bytes of one direction, in pieces of any size → messages. After a ``WireError`` it refuses everything."""

    def __init__(self, kinds: Any) -> None:
        """``kinds``: ``ToWorker`` or ``ToSupervisor``, the messages that this end may hear."""
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(kinds)
        self._buffer = bytearray()
        self._broken = False

    def receive(self, data: bytes) -> list[Message]:
        """The messages that are complete now. Raises ``WireError`` for a frame that is too long or no message."""
        if self._broken:
            raise WireError("the conversation is broken")
        self._buffer += data
        found: list[Message] = []
        position = 0
        try:
            while len(self._buffer) - position >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._buffer, position)
                if length > MAX_FRAME_SIZE:
                    raise WireError(f"a frame of {length} bytes")
                end = position + _LENGTH.size + length
                if len(self._buffer) < end:
                    break
                found.append(self._message(bytes(self._buffer[position + _LENGTH.size : end])))
                position = end
        except WireError:
            self._broken = True
            self._buffer.clear()
            raise
        del self._buffer[:position]
        return found

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not complete."""
        return len(self._buffer)

    def _message(self, body: bytes) -> Message:
        try:
            message = self._decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            # The text of the error could show a part of the content.
            raise WireError("a frame that is no message") from None
        assert isinstance(message, Message)
        return message
