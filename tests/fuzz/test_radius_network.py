"""Fuzz harness for what RadSec clients and accounting reports may send: framing, RADIUS/1.1, reports, answers to us.

As a test it runs a fixed number of inputs from a fixed seed. As a program it runs as many as asked for::

    python -m tests.fuzz.test_radius_network 1000000 [seed]
"""

from __future__ import annotations

import random
import sys
from collections import Counter

from outposts.radius import das, radius11
from outposts.radius.accounting import Sessions
from outposts.radius.providers import RadiusProvider
from outposts.radius.radsec_stream import Stream
from outposts.radius.reports import read
from outposts.radius.rfc import MAX_PACKET, Attribute, Code
from outposts.radius.wire import PacketError, decode, encode_reply, encode_request
from tests.fuzz.damage import injured
from tests.radius.packets import REQUESTS, SECRET

TEST_ROUNDS = 10_000  # a few seconds; the program form is for millions
PROVIDER = RadiusProvider(7, "wifi", "wifi", "flow", SECRET, accounting=True)
NUMBERS = (b"", b"\0", bytes(4), b"\xff" * 4, b"\0\0\0\1", b"\0\0\0\3", b"\x7f\xff\xff\xff", bytes(5), b"\0\0\0\7")
TEXTS = (b"", b"\0", b"alice", b"\xff\xfe", b"%s%n", b"\x1b[31m", b"\r\n", "ä".encode() * 60, bytes(253))
REPORTED = (1, 4, 5, 8, 25, 30, 31, 32, 40, 41, 42, 43, 44, 46, 49, 50, 52, 53, 55, 95, 168)
NOW = 1_700_000_000.0


def fuzz_stream(source: random.Random) -> str:
    """Whole packets as they were sent, then the error or more to come; never more than a packet kept."""
    octets = b"".join(source.choice(REQUESTS) for _ in range(source.randint(1, 6)))
    whole = source.random() < 0.3
    if not whole:
        octets = injured(source, octets)
    stream, found, at = Stream(), [], 0
    try:
        while at < len(octets):
            size = source.choice((1, 3, 20, 100, 5000))
            found += stream.receive(octets[at : at + size])
            at += size
            assert len(stream) < MAX_PACKET
    except PacketError:
        assert not whole and len(stream) == 0
        return "error"
    assert b"".join(found) == octets[: len(octets) - len(stream)]
    return "message" if found else "more"


def report(source: random.Random) -> bytes:
    """An accounting request with values of all kinds."""
    rows = [(Attribute.ACCT_STATUS_TYPE, bytes((0, 0, 0, source.choice((1, 2, 3, 7, 8, 15, 200)))))]
    for _ in range(source.randint(0, 12)):
        rows.append((Attribute(source.choice(REPORTED)), source.choice(NUMBERS + TEXTS)))
    return encode_request(Code.ACCOUNTING_REQUEST, 1, SECRET, rows, sign=source.random() < 0.5)


def fuzz_report(source: random.Random) -> str:
    """A report or none, and a table that agrees with itself, whatever is reported in whatever order."""
    sessions = Sessions(max_sessions=5)
    outcome = "none"
    for step in range(source.randint(1, 8)):
        try:
            packet = decode(injured(source, report(source)) if source.random() < 0.3 else report(source))
        except PacketError:
            outcome = "error"
            continue
        found = read(packet, PROVIDER, "192.0.2.1", NOW + step)
        if found is None:
            continue
        outcome = "message"
        recorded = sessions.weigh(found)
        assert recorded.input_octets >= 0 and recorded.output_octets >= 0
        sessions.settle(recorded)
        assert len(sessions) <= 5
        assert all(session.ended_at is None for session in sessions)
        assert {key for keys in sessions._by_address.values() for key in keys} == {one.key for one in sessions}
    return outcome


def fuzz_radius11(source: random.Random) -> str:
    """A request of RADIUS/1.1 and its reply; what was plain is plain again, and nothing is signed."""
    octets = source.choice(REQUESTS)
    if source.random() < 0.7:
        octets = injured(source, octets)
    if len(octets) < 20:
        return "short"
    try:
        request = radius11.receive(octets, source.randbytes(16))
    except PacketError:
        return "error"
    assert request.packet.identifier == 0 and request.token == octets[4:8]
    try:
        answer = radius11.reply(encode_reply(request.packet, b"radsec", Code.ACCESS_ACCEPT, ((18, b"hi"),)), request)
    except PacketError:
        return "too large"
    reply = decode(answer)
    assert answer[4:8] == request.token and answer[8:20] == bytes(12)
    assert reply.first(Attribute.MESSAGE_AUTHENTICATOR) is None
    assert reply.all(Attribute.PROXY_STATE) == request.packet.all(Attribute.PROXY_STATE)
    return "message"


def fuzz_answer(source: random.Random) -> str:
    """An answer to a Disconnect-Request of ours: only the one that is right in every octet counts."""
    request = das.encode(Code.DISCONNECT_REQUEST, source.randrange(256), SECRET, ((1, b"alice"),), NOW)
    right = encode_reply(decode(request), SECRET, source.choice((41, 42)), ())
    given = right if source.random() < 0.2 else injured(source, right)
    result = das.judge(request, given, SECRET)
    # Octets behind the packet's Length are padding.
    same = given[: len(right)] == right
    assert (result is not None) == same
    return "message" if same else "refused"


HARNESSES = (fuzz_stream, fuzz_report, fuzz_radius11, fuzz_answer)


def run(rounds: int, seed: int) -> Counter[tuple[str, str]]:
    """So many inputs for each reader; counts by reader and outcome."""
    source = random.Random(seed)
    return Counter((harness.__name__, harness(source)) for _ in range(rounds) for harness in HARNESSES)


def test_a_few_thousand_inputs_each() -> None:
    """Every reader meets both what it takes and what it refuses."""
    seen = run(TEST_ROUNDS, 20261125)
    for harness, outcomes in (
        ("fuzz_stream", ("message", "more", "error")),
        ("fuzz_report", ("message", "error")),
        ("fuzz_radius11", ("message", "error")),
        ("fuzz_answer", ("message", "refused")),
    ):
        for outcome in outcomes:
            assert seen[harness, outcome] > 100, (harness, outcome, seen)


if __name__ == "__main__":
    for (name, what), times in sorted(run(int(sys.argv[1]), int([*sys.argv, "1"][2])).items()):
        print(f"{name:20} {what:10} {times}")
