"""The load generator counts what was answered, and stops when an answer is not the expected one."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Iterator

import pytest

from benchmarks import load, measure
from tests.ldap_client import integer, message, octets, tlv


class Echo(socketserver.BaseRequestHandler):
    """Answers each request ``n`` with ``answer n.``; ``bad`` gets something else and the end."""

    def handle(self) -> None:
        """One connection; the load generator ends it when its time is up."""
        with contextlib.suppress(ConnectionError):
            self.answer()

    def answer(self) -> None:
        """Until the end."""
        while data := self.request.recv(100):
            self.request.sendall(b"error" if data == b"bad" else b"answer " + data + b".")
            if data == b"bad":
                return


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    """A server of three lines."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[0], server.server_address[1]  # type: ignore[misc]
        server.shutdown()
        thread.join()


def job(address: tuple[str, int], *requests: bytes) -> dict[str, object]:
    """A short job."""
    return {
        "address": address,
        "connections": 3,
        "first": b"login".hex(),
        "first_tail": b"answer login.".hex(),
        "requests": [request.hex() for request in requests],
        "tail": b".".hex(),
        "warm_up_s": 0.02,
        "seconds": 0.2,
    }


def test_answers_are_counted(address: tuple[str, int]) -> None:
    """Every answer inside the time counts once, with its latency and octets."""
    result = load.run(job(address, b"a", b"b"))
    assert result["answers"] > 10
    assert result["octets"] >= result["answers"] * len(b"answer a.") - 3 * len(b"answer a.")
    assert 0 < result["p50_us"] <= result["p99_us"]


def test_a_wrong_answer_stops_the_run(address: tuple[str, int]) -> None:
    """An error is never counted as an answer."""
    with pytest.raises(load.Stalled):
        load.run(job(address, b"a", b"bad"))


def test_the_last_message_is_found() -> None:
    """Whatever came before it."""
    entry = message(2, tlv(0x64, octets("cn=x"), tlv(0x30)))
    done = message(2, tlv(0x65, integer(0, 0x0A), octets(""), octets("")))
    assert measure.final_message(entry + entry + done) == done
    assert measure.final_message(done) == done
