"""Readers of bodies and answers: every delivery gives the same, and nothing but their own errors comes out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outposts.proxy.bodies import BodyError, BodyReader, chunk, last_chunk
from outposts.proxy.responses import ResponseError, ResponseReader

OK = b"HTTP/1.1 200 OK\r\n"
ANSWERS: dict[str, tuple[bytes, bytes]] = {  # answer → its body
    "length": (OK + b"Content-Length: 5\r\nX-A: b\r\n\r\nhello", b"hello"),
    "no body": (OK + b"Content-Length: 0\r\n\r\n", b""),
    "chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n002;a=b\r\nlo\r\n0\r\nX-T: 1\r\n\r\n", b"hello"),
    "no chunks": (OK + b"transfer-encoding:CHUNKED \r\n\r\n0\r\n\r\n", b""),
    "204": (b"HTTP/1.1 204 \r\nX: y\r\n\r\n", b""),
    "no reason": (b"HTTP/1.1 304\r\n\r\n", b""),
    "interim": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: a\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\nx",
        b"x",
    ),
}


def read(parts: list[bytes], **how: bool) -> dict[str, Any]:
    """All that a reader says about an answer that comes in these parts."""
    reader = ResponseReader(**how)
    for part in parts:
        reader.feed(part)
    head = reader.head
    return {
        "head": head,
        "body": b"".join(reader.pieces),
        "size": reader.size,
        "interim": [one.status for one in reader.interim],
        "trailers": reader.trailers,
        "done": reader.done,
        "rest": reader.rest,
        "reusable": reader.reusable,
    }


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("surplus", [b"", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_every_delivery_gives_the_same(name: str, surplus: bytes) -> None:
    answer, body = ANSWERS[name]
    whole = read([answer + surplus])
    assert whole["done"] and (whole["body"], whole["rest"], whole["reusable"]) == (body, surplus, not surplus)
    assert read([(answer + surplus)[at : at + 1] for at in range(len(answer + surplus))]) == whole
    for at in range(len(answer)):
        assert read([answer[:at], answer[at:] + surplus]) == whole
        assert not read([answer[:at]])["done"] or at == len(answer)


def test_an_answer_up_to_the_end() -> None:
    reader = ResponseReader()
    reader.feed(b"HTTP/1.0 200 OK\r\n\r\nhel")
    reader.feed(b"lo")
    assert not reader.done
    reader.end()
    assert reader.done and b"".join(reader.pieces) == b"hello" and not reader.reusable


@pytest.mark.parametrize(
    ("head", "keep_s"),
    [
        (b"HTTP/1.1 200 OK\r\n", None),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", 0.0),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive, Close\r\n", 0.0),
        (b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5, max=99\r\n", 5.0),
        (b"HTTP/1.1 200 OK\r\nkeep-alive: max=99,timeout=7\r\n", 7.0),
        (b"HTTP/1.0 200 OK\r\n", 0.0),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", None),
    ],
)
def test_how_long_a_connection_is_kept(head: bytes, keep_s: float | None) -> None:
    found = read([head + b"Content-Length: 0\r\n\r\n"])
    assert found["head"].keep_s == keep_s and found["reusable"] is (keep_s != 0)


def test_lines_go_on_as_they_were_written() -> None:
    head = b"X-a:b\r\nX-A:  c \r\nX-Empty:\r\nServer: \xe4\xff\tx\r\nDate: now\r\n"
    assert read([OK + head + b"Content-Length: 0\r\n\r\n"])["head"].lines == head.split(b"\r\n")[:-1]


def test_a_body_is_not_kept_beyond_what_is_taken() -> None:
    body = BodyReader(None, chunked=True)
    assert body.feed(b"5\r\nhel") == ([b"hel"], b"")
    assert body.feed(b"lo\r") == ([b"lo"], b"")
    assert body.feed(b"\n0\r\n\r\nnext") == ([], b"next") and body.done
    with pytest.raises(BodyError):
        BodyReader(3).end()


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.integers(1, 60))
def test_chunks_there_and_back(parts: list[bytes], step: int) -> None:
    trailers = [(b"X-A", b"1"), (b"X-B", b"")]
    data = b"".join(map(chunk, parts)) + last_chunk(trailers)
    body, content = BodyReader(None, chunked=True), b""
    for at in range(0, len(data), step):
        pieces, rest = body.feed(data[at : at + step])
        content += b"".join(pieces)
        assert rest == b""
    assert (content, body.trailers, body.done) == (b"".join(parts), trailers, True)


SEEDS = [answer for answer, _ in ANSWERS.values()]
NOISE = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b"0",
    b"9" * 20,
    b"chunked",
    b"Content-Length: 3\r\n",
    b"\xff",
    b";",
    b"HTTP/1.1 ",
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good answer with pieces cut out and put in."""
    data = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        until = draw(st.integers(at, min(len(data), at + 8)))
        data = data[:at] + draw(st.sampled_from(NOISE) | st.binary(max_size=4)) + data[until:]
    return data


@settings(max_examples=600)
@given(damaged(), st.integers(1, 40), st.booleans(), st.booleans())
def test_fuzz_damaged_answers(data: bytes, step: int, head_only: bool, upgrade: bool) -> None:
    """Whole or in parts: the same answer or an error, never another exception, and no header in a value."""

    def outcome(parts: list[bytes]) -> Any:
        try:
            return read(parts, head_only=head_only, upgrade=upgrade)
        except ResponseError:
            return None

    whole = outcome([data])
    parts = outcome([data[at : at + step] for at in range(0, len(data), step)])
    # What follows an answer is looked at by nobody: an error in it is none if it comes later.
    assert parts == whole
    if whole is not None and whole["head"] is not None:
        for line in whole["head"].lines:
            assert b"\r" not in line and b"\n" not in line and b"\0" not in line
            assert line.partition(b":")[0].lower() not in (b"content-length", b"transfer-encoding", b"connection")


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_fuzz_noise(data: bytes) -> None:
    for start in (b"", OK, OK + b"Transfer-Encoding: chunked\r\n\r\n", OK + b"Content-Length: 5\r\n\r\n"):
        reader = ResponseReader()
        try:
            reader.feed(start + data)
            reader.end()
        except ResponseError:
            continue
        assert reader.done
