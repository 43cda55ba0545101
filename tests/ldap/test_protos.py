"""The classes of the PROTOS LDAPv3 suite against the daemon (``protos`` makes the messages).

Whatever comes, each message is answered in LDAP, ignored, or ends its connection; if it ends, nobody else's. A
neighbour that was there before is served all along, and nothing ever fails unexpectedly.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from tests.ldap import protos
from tests.ldap.protos import Case, Fate
from tests.ldap.sides import ALICE, Side, started
from tests.ldap_client import (
    BASE,
    DONE,
    ENTRY,
    EXTENDED_RESPONSE,
    NOTICE_OF_DISCONNECTION,
    Client,
    Closed,
    decode_result,
    elements,
    message,
    search_operation,
)

PROBE = 0x7FFFFF00  # message id of the question behind each message: is this connection still served?
PROBE_OCTETS = message(PROBE, search_operation("", BASE, "(objectClass=*)", ["1.1"]))
NEIGHBOUR_EVERY = 50  # cases between two questions of the neighbour
SETTINGS = {
    "OUTPOSTS_LDAP__BIND_FAILURES": "0",
    "OUTPOSTS_LDAP__BIND_FAILURES_PER_ADDRESS": "0",
    "OUTPOSTS_LDAP__BIND_FAILURES_PER_ACCOUNT": "0",
}


@pytest.fixture(scope="module")
def side() -> Iterator[Side]:
    """One daemon for all classes: what one leaves behind, the next would meet."""
    with started("cached", SETTINGS, {}) as side:
        yield side


class Strangers:
    """Connections that send exceptional messages; one stays in use as long as it is served."""

    def __init__(self, side: Side, *, bound: bool) -> None:
        self._side = side
        self._bound = bound
        self._client: Client | None = None

    def client(self) -> Client:
        """A connection that is served."""
        if self._client is None:
            self._client = self._side.client()
            if self._bound:
                assert self._client.bind(ALICE, "pw").code == 0
        return self._client

    def drop(self) -> None:
        """The connection has ended, or is not as it was."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def ask(self, data: bytes) -> tuple[list[tuple[int, int]], bool]:
        """Send; the answers (operation tag, code; -1 for entries), and whether the connection ended."""
        client = self.client()
        whole = _is_framed(data)
        try:
            client.send(data + PROBE_OCTETS if whole else data)
            if not whole:
                client.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # already ended by the server: what it said can still be read
        answers: list[tuple[int, int]] = []
        noticed = asked_again = False
        while True:
            try:
                number, tag, contents, _ = client.receive()
            except Closed:
                assert not client.buffer, "half a message at the end"
                self.drop()
                return answers, True
            assert not noticed, "a message behind the notice of disconnection"
            if number == PROBE:
                assert (tag, _code(tag, contents)) in ((DONE, 0), (ENTRY, -1))
                if tag != DONE:
                    continue
                if asked_again:
                    return answers, False
                # Answers may come in any order: what the server had to say before it heard this is said now.
                client.send(PROBE_OCTETS)
                asked_again = True
                continue
            if number == 0:
                answer = decode_result(tag, contents)
                assert (tag, answer.name) == (EXTENDED_RESPONSE, NOTICE_OF_DISCONNECTION)
                assert answer.code != 0
                noticed = True
                continue
            answers.append((tag, _code(tag, contents)))


def _code(tag: int, contents: bytes) -> int:
    if tag == ENTRY:
        (_, _), (_, attributes) = elements(contents)
        list(elements(attributes))
        return -1
    return decode_result(tag, contents).code


def _is_framed(data: bytes) -> bool:
    """Whether the outermost length says what was sent, so that another message may follow."""
    if len(data) < 2 or data[0] != 0x30:
        return False
    count = data[1] & 0x7F if data[1] & 0x80 else 0
    if data[1] == 0x80 or len(data) < 2 + count:
        return False
    length = int.from_bytes(data[2 : 2 + count], "big") if count else data[1]
    return len(data) == 2 + count + length


def judge(case: Case, strangers: Strangers, known: dict[bytes, tuple[list[tuple[int, int]], bool]]) -> None:
    """Send one case and look at what becomes of it."""
    answers, closed = strangers.ask(case.data)
    final = [code for tag, code in answers if tag != ENTRY]
    match case.fate:
        case Fate.SAME:
            if case.sound not in known:
                known[case.sound] = strangers.ask(case.sound)
            assert (answers, closed) == known[case.sound], case.label
        case Fate.REFUSED:
            assert closed or (final and 0 not in final), (case.label, answers)
        case Fate.CLOSED:
            assert closed, (case.label, answers)
            assert 0 not in final, (case.label, answers)
        case Fate.WAITS:
            assert closed, case.label
            assert not answers, (case.label, answers)
        case Fate.ANY:
            pass


@contextmanager
def watched(side: Side) -> Iterator[Client]:
    """A neighbour, bound before and served after; and a log without anything unexpected."""
    log_before = len(side.daemon.text())
    with side.bound() as neighbour:
        yield neighbour
        assert neighbour.search(ALICE, BASE).dns == [ALICE]
    assert side.daemon.alive()
    written = side.daemon.text()[log_before:]
    for word in ("unexpected", "Traceback", "exception"):
        assert word not in written, written[written.index(word) - 500 :][:3000]


def go_through(side: Side, cases: Iterable[Case], *, bound: bool, once: bool = False) -> None:
    """Send all cases; ``once``: each on a connection of its own."""
    known: dict[bytes, tuple[list[tuple[int, int]], bool]] = {}
    strangers = Strangers(side, bound=bound)
    with watched(side) as neighbour:
        for count, case in enumerate(cases, 1):
            try:
                judge(case, strangers, known)
            except (AssertionError, ValueError, TimeoutError) as problem:
                raise AssertionError(f"{case.label}: {case.data[:200].hex()}") from problem
            if once:
                strangers.drop()
            if count % NEIGHBOUR_EVERY == 0:
                assert neighbour.search(ALICE, BASE).dns == [ALICE]
        strangers.drop()


@pytest.mark.parametrize(("kind", "operation"), protos.PAIRS)
def test_class_before_a_bind(side: Side, kind: str, operation: str) -> None:
    """Anybody may send these. Binds and unbinds change a connection: each has its own."""
    go_through(side, protos.CLASSES[kind](operation), bound=False, once=operation not in protos.READS)


@pytest.mark.parametrize(("kind", "operation"), [pair for pair in protos.PAIRS if pair[1] in protos.READS])
def test_class_after_a_bind(side: Side, kind: str, operation: str) -> None:
    """The same from somebody who may search."""
    go_through(side, protos.CLASSES[kind](operation), bound=True)


@pytest.mark.parametrize("bound", [False, True], ids=["unbound", "bound"])
@pytest.mark.parametrize("cases", [protos.filters, protos.control_lists, protos.pages], ids=lambda made: made.__name__)
def test_filters_and_controls(side: Side, cases: protos.Cases, bound: bool) -> None:
    """Deep, wide, empty and self-containing ones."""
    go_through(side, cases(), bound=bound)
