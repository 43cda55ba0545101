"""Fuzz harness for the LDAP decoders: damaged real messages and noise, nothing but the three answers.

As a test it runs a fixed number of inputs from a fixed seed. As a program it runs as many as asked for::

    python -m tests.fuzz.test_ldap 10000000 [seed]
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from outposts.ldap import filters, sync_wire
from outposts.ldap.ber import ProtocolError, frame_end, length_of, tlv
from outposts.ldap.client_wire import decode_response, encode_request
from outposts.ldap.dn import DN, DNError
from outposts.ldap.filter_text import parse_text, to_text
from outposts.ldap.filters import FilterError
from outposts.ldap.rfc import Tag
from outposts.ldap.session import Session, SessionLimits
from outposts.ldap.sync_wire import (
    ChangeType,
    EntryChange,
    InfoKind,
    PersistentSearch,
    SyncDone,
    SyncInfo,
    SyncMode,
    SyncRequest,
    SyncState,
    SyncStateValue,
    encode_cancel,
    encode_entry_change,
    encode_persistent_search,
    encode_sync_done,
    encode_sync_info,
    encode_sync_request,
    encode_sync_state,
)
from outposts.ldap.wire import (
    Attribute,
    BindRequest,
    BindResponse,
    Control,
    ExtendedResponse,
    SearchEntry,
    Simple,
    decode_request,
    encode_response,
)

CAPTURED = Path(__file__).parent.parent / "data" / "ldap" / "openldap-requests.txt"
REQUESTS = [bytes.fromhex(line.split()[1]) for line in CAPTURED.read_text().splitlines()]
RESPONSES = [
    encode_response(SearchEntry(2, b"cn=a,dc=io", (Attribute(b"cn", (b"a", b"b")),), (Control("1.2", True, b"x"),))),
    encode_response(BindResponse(1, 14, server_sasl_credentials=b"more", referrals=(b"ldap://a",))),
    encode_response(ExtendedResponse(0, 2, oid="1.3.6.1.4.1.1466.20036", diagnostic="bye")),
]
NAMES = [
    b"cn=alice,ou=users,dc=ldap,dc=goauthentik,dc=io",
    rb'CN=James \"Jim\" Smith\, III + UID="x,y" ; 2.5.4.3=#04024869,DC=net',
    "cn=Lučić\\C4\\8D,o=größe".encode(),
]
TEXTS = [r"(&(objectClass=user)(|(cn=a*b*\2a)(!(mail=*))(a>=1)(b<=2)(cn~=x)(cn:dn:caseExactMatch:=y)))"]
LIMITS = SessionLimits(max_message_size_anonymous=4096, max_message_size=16_384, max_operations=4, max_waiting=8192)
TEST_ROUNDS = 20_000  # about two seconds; the program form is for millions

INTERESTING = b"\x00\x01\x02\x04\x0a\x30\x31\x60\x63\x7f\x80\x81\x82\x84\x88\xa0\xa1\xa2\xa3\xa4\xa9\xff"


def damage(source: random.Random, octets: bytes) -> bytes:
    """One to four small injuries, as a bad peer or a bad line would inflict them."""
    data = bytearray(octets)
    for _ in range(source.randint(1, 4)):
        position = source.randrange(len(data) + 1)
        match source.randrange(7):
            case 0:
                del data[position:]
            case 1:
                data[position:position] = source.randbytes(source.randint(1, 8))
            case 2:
                del data[position : position + source.randint(1, 8)]
            case 3 if data:
                data[position % len(data)] = source.choice(INTERESTING)
            case 4 if data:
                data[position % len(data)] ^= 1 << source.randrange(8)
            case 5:
                data[position:position] = data[: source.randint(1, 40)]
            case _:
                data[position : position + 1] = length_of(source.choice((0, 127, 128, 65_535, 2**32, 2**63)))
    return bytes(data)


def reframe(octets: bytes) -> bytes:
    """Give damaged contents a correct outer length, so that the damage reaches the inner readers."""
    return tlv(0x30, octets[2:]) if octets else octets


def request_message(source: random.Random) -> bytes:
    octets = source.choice(REQUESTS)
    if source.random() < 0.2:
        octets = tlv(0x30, b"\x02\x01\x05" + tlv(source.choice(list(Tag)), source.randbytes(source.randint(0, 40))))
    octets = damage(source, octets)
    return reframe(octets) if source.random() < 0.7 else octets


def fuzz_frame(source: random.Random) -> str:
    data = damage(source, source.choice(REQUESTS))
    cap = source.choice((16, 200, 4096))
    try:
        end = frame_end(data, 0, cap)
    except ProtocolError:
        return "error"
    assert 0 <= end <= cap
    return "message" if end and end <= len(data) else "more"


def fuzz_request(source: random.Random) -> str:
    data = request_message(source)
    try:
        message = decode_request(data)
    except ProtocolError:
        return "error"
    assert decode_request(encode_request(message)) == message or "Unknown" in repr(message)
    return "message"


def fuzz_response(source: random.Random) -> str:
    data = damage(source, source.choice(RESPONSES))
    try:
        decode_response(reframe(data) if source.random() < 0.7 else data)
    except ProtocolError:
        return "error"
    return "message"


def fuzz_filter(source: random.Random) -> str:
    data = damage(source, filters.encode(parse_text(TEXTS[0])))
    try:
        node, _ = filters.decode(data, 0, len(data))
    except ProtocolError:
        return "error"
    to_text(node)
    return "message"


def fuzz_filter_text(source: random.Random) -> str:
    try:
        parse_text(damage(source, source.choice(TEXTS).encode()).decode("latin-1"))
    except FilterError:
        return "error"
    return "message"


def fuzz_name(source: random.Random) -> str:
    try:
        name = DN.parse(damage(source, source.choice(NAMES)))
    except DNError:
        return "error"
    assert DN.parse(str(name)) == name
    return "message"


def fuzz_session(source: random.Random) -> str:
    """A short life of a connection: good and bad messages, cut anywhere, with the server's calls in between."""
    session: Session[str] = Session(LIMITS, secure=source.random() < 0.3)
    for _ in range(source.randint(1, 4)):
        good = encode_request(BindRequest(source.randint(1, 9), 3, b"cn=a", Simple(b"x")))
        data = source.choice((good, source.choice(REQUESTS), request_message(source)))
        cut = source.randint(0, len(data))
        for piece in (data[:cut], data[cut:]):
            handed = session.receive(piece)
            assert not (session.closed and session._pending)
            if source.random() < 0.7:
                session.bind_finished(source.choice(("alice", None)))
            if source.random() < 0.5:
                session.start_tls()
            for message in handed:
                session.finish(message.message_id)
    session.data_to_send()
    return "closed" if session.closed else "open"


FOLLOWING: dict[Callable[[bytes | None], Any], bytes] = {
    sync_wire.decode_sync_request: encode_sync_request(SyncRequest(SyncMode.REFRESH_AND_PERSIST, b"cookie", True)),
    sync_wire.decode_sync_state: encode_sync_state(SyncStateValue(SyncState.ADD, bytes(range(16)), b"cookie")),
    sync_wire.decode_sync_done: encode_sync_done(SyncDone(b"cookie", True)),
    sync_wire.decode_sync_info: encode_sync_info(SyncInfo(InfoKind.ID_SET, b"cookie", True, (bytes(16),) * 3)),
    sync_wire.decode_persistent_search: encode_persistent_search(PersistentSearch(15, True, True)),
    sync_wire.decode_entry_change: encode_entry_change(EntryChange(ChangeType.MODIFY_DN, b"cn=a", 7)),
    sync_wire.decode_cancel: encode_cancel(7),
}


def fuzz_following(source: random.Random) -> str:
    """Values of the controls for following a directory, and of Cancel."""
    decode, seed = source.choice(list(FOLLOWING.items()))
    try:
        decode(damage(source, seed))
    except ProtocolError:
        return "error"
    return "message"


TARGETS = (
    fuzz_frame,
    fuzz_request,
    fuzz_request,
    fuzz_response,
    fuzz_filter,
    fuzz_filter_text,
    fuzz_name,
    fuzz_session,
    fuzz_following,
)


def run(rounds: int, seed: int) -> Counter[tuple[str, str]]:
    """Run so many inputs; gives how often each target gave each answer. Any other outcome is an exception."""
    source = random.Random(seed)  # reproducible inputs, no secret
    answers: Counter[tuple[str, str]] = Counter()
    for number in range(rounds):
        target = TARGETS[number % len(TARGETS)]
        try:
            answers[target.__name__, target(source)] += 1
        except Exception as problem:
            raise AssertionError(f"{target.__name__}, input {number} of seed {seed}") from problem
    return answers


def test_decoders_have_three_answers() -> None:
    """Every target reaches each of its answers, and nothing else happens."""
    answers = run(TEST_ROUNDS, 1)
    for target in {target.__name__ for target in TARGETS} - {"fuzz_session", "fuzz_frame"}:
        assert answers[target, "message"] > 20
        assert answers[target, "error"] > 20
    for answer in ("message", "more", "error"):
        assert answers["fuzz_frame", answer] > 20
    for answer in ("open", "closed"):
        assert answers["fuzz_session", answer] > 20


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    for (name, answer), count in sorted(run(wanted, int(sys.argv[2]) if len(sys.argv) > 2 else 1).items()):
        print(f"{name:20} {answer:10} {count}")
