"""Frames between supervisor and worker: every message in pieces of every size; else ``WireError`` and nothing more."""

from __future__ import annotations

import random
import struct

import msgspec
import pytest

from common.worker_wire import (
    MAX_FRAME_SIZE,
    VERSION,
    Ack,
    Configure,
    ConnectionLost,
    Decoder,
    Drain,
    Drop,
    Failed,
    Hello,
    Listen,
    Listening,
    Message,
    Metrics,
    MetricsRequest,
    Publish,
    Refresh,
    SessionEnd,
    Started,
    Status,
    ToSupervisor,
    ToWorker,
    WireError,
    encode,
)

TO_WORKER: list[Message] = [
    Hello(VERSION, 1, "instance", b"settings \x00\xff"),
    Configure(2, b"x" * 70_000),
    Publish(3, "directory/1", b"", True, 2**40),
    Publish(4, "state", b"details", False, 0),
    Listen(5),
    SessionEnd(6, "ab" * 32),
    ConnectionLost(7, 31.5),
    Drop(8, "user_changed", (1, 2, 2**40)),
    Drop(9, "user_gone", ()),
    MetricsRequest(10),
    Drain(11, 8.5),
]
TO_SUPERVISOR: list[Message] = [
    Started(VERSION, 4711),
    Listening((("ldap", "127.0.0.1", 3389), ("ldaps", "::1", 6636))),
    Failed("cannot listen on 127.0.0.1:389: Permission denied"),
    Ack(1),
    Ack(2, "failed"),
    Metrics(3, b"\x90"),
    Status(()),
    Status(("directory of provider p not loaded", "ünicode")),
    Refresh(),
]
CASES = [(ToWorker, message) for message in TO_WORKER] + [(ToSupervisor, message) for message in TO_SUPERVISOR]


@pytest.mark.parametrize(("kinds", "message"), CASES, ids=lambda case: type(case).__name__)
def test_every_delivery(kinds: object, message: Message) -> None:
    """Whole, byte by byte, and with the beginning of another frame behind it."""
    frame = encode(message)
    assert Decoder(kinds).receive(frame) == [message]
    decoder = Decoder(kinds)
    got = []
    step = 1 if len(frame) < 1000 else 997
    for start in range(0, len(frame), step):
        assert got == []
        got += decoder.receive(frame[start : start + step])
    assert got == [message]
    assert decoder.pending == 0
    decoder = Decoder(kinds)
    assert decoder.receive(frame + frame[:3]) == [message]
    assert decoder.pending == 3
    assert decoder.receive(frame[3:] + frame) == [message, message]


@pytest.mark.parametrize("message", TO_WORKER, ids=lambda case: type(case).__name__)
def test_supervisor_hears_no_orders(message: Message) -> None:
    """What only a supervisor says is refused by one."""
    with pytest.raises(WireError):
        Decoder(ToSupervisor).receive(encode(message))


@pytest.mark.parametrize("message", TO_SUPERVISOR, ids=lambda case: type(case).__name__)
def test_worker_hears_no_reports(message: Message) -> None:
    """And the other way round."""
    with pytest.raises(WireError):
        Decoder(ToWorker).receive(encode(message))


def test_length_is_checked_before_content() -> None:
    """A frame that would be too long is refused by its first four bytes, and the decoder stays refused."""
    decoder = Decoder(ToWorker)
    assert decoder.receive(struct.pack("!I", MAX_FRAME_SIZE)) == []  # may come
    decoder = Decoder(ToWorker)
    with pytest.raises(WireError, match="frame of"):
        decoder.receive(struct.pack("!I", MAX_FRAME_SIZE + 1))
    with pytest.raises(WireError, match="broken"):
        decoder.receive(encode(Listen(1)))
    assert decoder.pending == 0


def test_too_large_to_send() -> None:
    """Said by the sender, who can still do something about it."""
    with pytest.raises(WireError, match="Configure"):
        encode(Configure(1, bytes(MAX_FRAME_SIZE)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        msgspec.msgpack.encode({"kind": 4}),
        msgspec.msgpack.encode([4]),  # a number is missing
        msgspec.msgpack.encode([4, "five"]),
        msgspec.msgpack.encode([4, 5, 6]),  # one field too many
        msgspec.msgpack.encode([99, 5]),
        msgspec.msgpack.encode([4, 5]) + b"\x00",
        b"\x91" * 5000,
        msgspec.msgpack.encode([6, 1, b"\xff"]),
    ],
)
def test_no_message(body: bytes) -> None:
    """Anything else than exactly one message is an error; its text shows nothing of the content."""
    with pytest.raises(WireError) as caught:
        Decoder(ToWorker).receive(struct.pack("!I", len(body)) + body)
    assert str(caught.value) == "a frame that is no message"


def test_secrets_are_not_shown() -> None:
    """Settings (the token) and configurations (private keys) do not appear in a representation."""
    for message in (Hello(1, 2, "i", b"the-token"), Configure(1, b"the-token")):
        assert "the-token" not in repr(message)
        assert "the-token" not in f"{[message]}"


def test_noise() -> None:
    """Damaged and random frames in random pieces: messages or ``WireError``, never anything else."""
    chance = random.Random(20261125)
    frames = [encode(message) for _, message in CASES if not isinstance(message, Configure)]
    outcomes = {"messages": 0, "refused": 0, "waiting": 0}
    for _ in range(20_000):
        data = bytearray(chance.choice(frames))
        for _ in range(chance.randint(0, 4)):
            way = chance.randint(0, 3)
            place = chance.randrange(len(data)) if data else 0
            if way == 0 and data:
                data[place] = chance.randrange(256)
            elif way == 1:
                del data[place:]
            elif way == 2:
                data += chance.randbytes(chance.randint(1, 20))
            else:
                data[place:place] = chance.randbytes(chance.randint(1, 4))
        decoder = Decoder(chance.choice([ToWorker, ToSupervisor]))
        try:
            cut = chance.randint(0, len(data))
            got = decoder.receive(bytes(data[:cut])) + decoder.receive(bytes(data[cut:]))
        except WireError:
            outcomes["refused"] += 1
        else:
            assert all(isinstance(message, Message) for message in got)
            assert decoder.pending <= len(data)
            outcomes["messages" if got else "waiting"] += 1
    assert min(outcomes.values()) > 500, outcomes
