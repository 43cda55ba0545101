"""Fuzz harness for everything that reads what an LDAP client sends: nothing but the three answers.

As a test it runs a fixed number of inputs from a fixed seed. As a program it runs as many as asked for, says how far it
is, and ends with how often each reader gave each answer::

    python -m tests.fuzz.test_ldap 10000000 [seed]

``damage`` says how inputs are made.
"""

from __future__ import annotations

import datetime
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from common import client_certificate, proxyproto
from common.proxyproto import ProxyProtocolError
from outposts.ldap import (
    assertion,
    controls,
    filters,
    matched_values,
    paging,
    prepared,
    sasl,
    schema,
    sorting,
    sync_wire,
    vlv,
)
from outposts.ldap.ber import ProtocolError, encode_boolean, frame_end, tlv
from outposts.ldap.bind_names import find_certificate_user, find_sasl_user, find_user
from outposts.ldap.client_wire import decode_response, encode_request
from outposts.ldap.controls import ControlError, Operation
from outposts.ldap.directory import Snapshot
from outposts.ldap.dn import DN, DNError
from outposts.ldap.evaluation import evaluate
from outposts.ldap.feeds import CookieSealer
from outposts.ldap.filter_text import parse_text, to_text
from outposts.ldap.filters import FilterError
from outposts.ldap.messages import SearchRequest
from outposts.ldap.paging import CookieError, Cookies, Position
from outposts.ldap.providers import Providers
from outposts.ldap.rfc import ControlOid, Tag
from outposts.ldap.session import Session, SessionLimits
from outposts.ldap.sorting import SortError
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
    Sasl,
    SearchEntry,
    Simple,
    decode_controls,
    decode_request,
    encode_controls,
    encode_response,
)
from tests.certificates import authority
from tests.fuzz.damage import TEXTS as BAD_TEXTS
from tests.fuzz.damage import altered, injured, parsed
from tests.ldap.binds import settings, table
from tests.ldap.fixture import snapshot

CAPTURED = Path(__file__).parent.parent / "data" / "ldap" / "openldap-requests.txt"
REQUESTS = [
    *(bytes.fromhex(line.split()[1]) for line in CAPTURED.read_text().splitlines()),
    encode_request(
        BindRequest(2, 3, b"", Sasl("PLAIN", b"\0alice\0pw"), (Control(ControlOid.PASSWORD_POLICY, False),))
    ),
]
REQUEST_TREES = [parsed(octets) for octets in REQUESTS]
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
TEXTS = [
    r"(&(objectClass=user)(|(cn=a*b*\2a)(!(mail=*))(a>=1)(b<=2)(cn~=x)(cn:dn:caseExactMatch:=y)))",
    r"(|(uidNumber>=2001)(createTimestamp<=20260101000000Z)(memberOf:1.2.840.113556.1.4.1941:=cn=ga,dc=io)(uid=*))",
    r"(&(uidNumber:1.2.840.113556.1.4.803:=3)(entryUUID=6ba7b810-9dad-11d1-80b4-00c04fd430c8)(telephoneNumber=+1 2*))",
]
FILTER_OCTETS = [filters.encode(parse_text(text)) for text in TEXTS]
FILTER_TREES = [parsed(octets) for octets in FILTER_OCTETS]
LIMITS = SessionLimits(max_message_size_anonymous=4096, max_message_size=16_384, max_operations=4, max_waiting=8192)
TEST_ROUNDS = 45_000  # a few seconds; the program form is for millions
TELL_EVERY_S = 60.0


def reframe(octets: bytes) -> bytes:
    """Give damaged contents a correct outer length, so that the damage reaches the inner readers."""
    return tlv(0x30, octets[2:]) if octets else octets


def request_message(source: random.Random) -> bytes:
    if source.random() < 0.5:
        return altered(source, source.choice(REQUEST_TREES))
    octets = source.choice(REQUESTS)
    if source.random() < 0.2:
        octets = tlv(0x30, b"\x02\x01\x05" + tlv(source.choice(list(Tag)), source.randbytes(source.randint(0, 40))))
    octets = injured(source, octets)
    return reframe(octets) if source.random() < 0.7 else octets


def filter_octets(source: random.Random) -> bytes:
    if source.random() < 0.7:
        return altered(source, source.choice(FILTER_TREES))
    return injured(source, source.choice(FILTER_OCTETS))


def text_octets(source: random.Random, seeds: list[bytes]) -> bytes:
    """A text with damage in it, or a bad text alone or inside."""
    octets = source.choice(seeds)
    if source.random() < 0.3:
        at = source.randint(0, len(octets))
        return octets[:at] + source.choice(BAD_TEXTS) + octets[at:]
    return injured(source, octets)


@cache
def directory() -> Snapshot:
    """What filters and keys are tried on."""
    return snapshot()


def fuzz_frame(source: random.Random) -> str:
    data = injured(source, source.choice(REQUESTS))
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
    data = injured(source, source.choice(RESPONSES))
    try:
        decode_response(reframe(data) if source.random() < 0.7 else data)
    except ProtocolError:
        return "error"
    return "message"


def fuzz_filter(source: random.Random) -> str:
    data = filter_octets(source)
    try:
        node, _ = filters.decode(data, 0, len(data))
    except ProtocolError:
        return "error"
    to_text(node)
    return "message"


def fuzz_filter_text(source: random.Random) -> str:
    try:
        parse_text(injured(source, source.choice(TEXTS).encode()).decode("latin-1"))
    except FilterError:
        return "error"
    return "message"


def fuzz_name(source: random.Random) -> str:
    try:
        name = DN.parse(text_octets(source, NAMES))
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


SYNC_COOKIE = CookieSealer(bytes(32)).seal(bytes(16), b"search")
FOLLOWING: dict[Callable[[bytes | None], Any], bytes] = {
    sync_wire.decode_sync_request: encode_sync_request(SyncRequest(SyncMode.REFRESH_AND_PERSIST, SYNC_COOKIE, True)),
    sync_wire.decode_sync_state: encode_sync_state(SyncStateValue(SyncState.ADD, bytes(range(16)), b"cookie")),
    sync_wire.decode_sync_done: encode_sync_done(SyncDone(b"cookie", True)),
    sync_wire.decode_sync_info: encode_sync_info(SyncInfo(InfoKind.ID_SET, b"cookie", True, (bytes(16),) * 3)),
    sync_wire.decode_persistent_search: encode_persistent_search(PersistentSearch(15, True, True)),
    sync_wire.decode_entry_change: encode_entry_change(EntryChange(ChangeType.MODIFY_DN, b"cn=a", 7)),
    sync_wire.decode_cancel: encode_cancel(7),
}
SORT_KEYS = tlv(
    0x30,
    tlv(0x30, tlv(0x04, b"cn") + tlv(0x80, b"2.5.13.3") + b"\x81\x01\xff") + tlv(0x30, tlv(0x04, b"uidNumber")),
)
LIST_VIEW = tlv(0x30, b"\x02\x01\x03\x02\x01\x05\xa0\x06\x02\x01\x01\x02\x01\x09\x04\x02id")
CONTROL_VALUES: dict[str, list[bytes | None]] = {
    ControlOid.PAGED_RESULTS: [paging.encode(500, b""), paging.encode(1, b"cookie")],
    ControlOid.SORT_REQUEST: [SORT_KEYS],
    ControlOid.VLV_REQUEST: [LIST_VIEW, tlv(0x30, b"\x02\x01\x00\x02\x01\x05\x81\x01a")],
    ControlOid.MATCHED_VALUES: [
        tlv(0x30, b"".join(filters.encode(parse_text(text)) for text in ("(cn=a*)", "(b>=1)")))
    ],
    ControlOid.ASSERTION: [FILTER_OCTETS[0], FILTER_OCTETS[1]],
    ControlOid.SYNC_REQUEST: [FOLLOWING[sync_wire.decode_sync_request]],
    ControlOid.PERSISTENT_SEARCH: [FOLLOWING[sync_wire.decode_persistent_search]],
    ControlOid.SUBENTRIES: [encode_boolean(False)],
    ControlOid.PROXIED_AUTHORIZATION: [b"dn:cn=alice", None],
    "1.2.3.4.5": [b"unknown", None],
}
NOT_BER = (ControlOid.PROXIED_AUTHORIZATION, "1.2.3.4.5")
CONTROL_OIDS = [*CONTROL_VALUES, *(row.oid for row in controls.ROWS if row.oid not in CONTROL_VALUES)]


def damaged_value(source: random.Random, seed: bytes) -> bytes:
    """The value of a control or an extended operation."""
    return altered(source, parsed(seed)) if source.random() < 0.6 else injured(source, seed)


def fuzz_following(source: random.Random) -> str:
    """Values of the controls for following a directory, and of Cancel."""
    decode, seed = source.choice(list(FOLLOWING.items()))
    try:
        decode(damaged_value(source, seed))
    except ProtocolError:
        return "error"
    return "message"


DECODERS: list[tuple[Callable[[bytes | None], Any], bytes]] = [
    (decode, seed)
    for oid, decode in (
        (ControlOid.PAGED_RESULTS, paging.decode),
        (ControlOid.SORT_REQUEST, sorting.decode),
        (ControlOid.VLV_REQUEST, vlv.decode),
        (ControlOid.MATCHED_VALUES, matched_values.decode),
        (ControlOid.ASSERTION, assertion.decode),
        (ControlOid.SUBENTRIES, controls.BY_OID[ControlOid.SUBENTRIES].decode),
    )
    for seed in CONTROL_VALUES[oid]
    if seed is not None
]


def fuzz_control_value(source: random.Random) -> str:
    """Each control's own reader; sort keys are looked up as well, values filters compared."""
    decode, seed = source.choice(DECODERS)
    try:
        found = decode(damaged_value(source, seed))
    except ProtocolError:
        return "error"
    kinds = directory().schema
    if decode is sorting.decode:
        try:
            sorting.resolve(directory(), found)
        except SortError:
            return "error"
    elif decode is matched_values.decode:
        for item in found:
            matched_values.matches(kinds, kinds.types["cn"], b"alice", item)
            matched_values.matches(kinds, kinds.types["uidnumber"], b"2001", item)
    elif decode is vlv.decode:
        total = source.choice((0, 1, 10, 100_000))
        target = vlv.target_by_offset(found, total)
        if target is not None:
            assert 1 <= target <= total + 1
            vlv.window(found, target, total)
    return "message"


def fuzz_controls(source: random.Random) -> str:
    """A message's list of controls, and what it means for each operation."""
    given = []
    for _ in range(source.randint(1, 3)):
        oid = source.choice(CONTROL_OIDS)
        value = source.choice(CONTROL_VALUES.get(oid, [None]))
        if value is not None and source.random() < 0.3:
            value = injured(source, value) if oid in NOT_BER else damaged_value(source, value)
        given.append(Control(oid, source.random() < 0.3, value))
    octets = encode_controls(given)
    if source.random() < 0.3:
        octets = altered(source, parsed(octets))
    try:
        decoded = decode_controls(octets, 0, len(octets))
    except ProtocolError:
        return "error"
    try:
        controls.read(decoded, source.choice(list(Operation)))
    except ControlError:
        return "error"
    return "message"


PAGE_COOKIES = Cookies(bytes(32))
POSITION = Position(7, bytes(16), (sorting.Key("cn"),), (b"alice",), 3)


def fuzz_cookie(source: random.Random) -> str:
    """Cookies of pages and of following: a changed one is none."""
    if source.random() < 0.5:
        cookie = PAGE_COOKIES.write(b"search", POSITION)
        given = injured(source, cookie) if source.random() < 0.9 else cookie
        try:
            assert PAGE_COOKIES.read(b"search", given) == POSITION
        except CookieError:
            return "error"
        assert given == cookie
        return "message"
    given = injured(source, SYNC_COOKIE) if source.random() < 0.9 else SYNC_COOKIE
    state = CookieSealer(bytes(32)).open(given, b"search")
    assert state in (None, bytes(16))
    return "error" if state is None else "message"


def fuzz_evaluation(source: random.Random) -> str:
    """A filter that could be read has an answer: entries for which it is true, others for which it is undefined."""
    data = filter_octets(source)
    try:
        node, _ = filters.decode(data, 0, len(data))
    except ProtocolError:
        return "error"
    true, undefined = evaluate(directory(), node)
    assert true <= directory().all
    assert not undefined or not true & undefined
    return "message"


def fuzz_value(source: random.Random) -> str:
    """Values by their syntax: comparable octets, or none."""
    syntax = source.choice(list(schema.SYNTAXES.values()))
    value = text_octets(source, VALUES)
    normalised = syntax.normalise(value)
    assert normalised is None or b"\xff" not in normalised
    return "error" if normalised is None else "message"


VALUES = [b"alice", b" 2001 ", b"-17", b"20260131120000.5+0130", b"TRUE", b"+49 (30) 12-34", b"1.2.840.113556.1.4.803",
          b"6ba7b810-9dad-11d1-80b4-00c04fd430c8", *NAMES]  # fmt: skip
PLAIN = [b"\0alice\0pw", b"dn:cn=alice,ou=users,dc=io\0alice\0pw", "u:ali\u0301ce\0ali\u0301ce\0pw".encode()]


def fuzz_sasl(source: random.Random) -> str:
    """PLAIN messages and authorization identities."""
    plain = sasl.parse_plain(text_octets(source, PLAIN))
    if plain is None:
        return "error"
    assert plain.authentication_id
    assert plain.password
    sasl.name_of(plain.authorization_id)
    if sasl.same_identity(plain.authorization_id, "cn=alice,ou=users,dc=io", "alice"):
        assert plain.authorization_id.lower() != "dn:"
    return "message"


@cache
def providers() -> Providers:
    """Two bases, one inside the other; the inner one takes every form of a name and certificates."""
    every = {"bind_names": ["dn", "username", "mail", "upn"], "dn_attribute": "uid", "client_certificates": True}
    return table(settings(1, "dc=io"), settings(2, extra=every))


BIND_NAMES = [*NAMES, b"alice", b"alice@ldap.goauthentik.io", b"EXAMPLE\\alice", b"u:alice", b"dn:cn=alice,dc=io"]


def fuzz_bind_name(source: random.Random) -> str:
    """Names that bind: a user of a provider, or a reason."""
    name = text_octets(source, BIND_NAMES)
    found = find_user(name, providers())
    text = name.decode("utf-8", "replace")
    find_sasl_user(text, providers())
    find_certificate_user(text, providers())
    return "error" if isinstance(found, str) else "message"


PROXY = [
    b"PROXY TCP4 192.0.2.55 192.0.2.1 56324 389\r\n",
    b"PROXY TCP6 2001:db8::1 ::1 56324 389\r\n",
    b"PROXY UNKNOWN ff..ff\r\n",
    proxyproto.V2_SIGNATURE + b"\x21\x11\x00\x0c\xc0\x00\x02\x37\x7f\x00\x00\x01\xdc\x04\x01\x85",
    proxyproto.V2_SIGNATURE + b"\x21\x21\x00\x27" + bytes(32) + b"\xdc\x04\x01\x85" + b"\x03\x00\x00",
    proxyproto.V2_SIGNATURE + b"\x20\x00\x00\x00",
]


def fuzz_proxy(source: random.Random) -> str:
    """The PROXY header in front of a connection."""
    octets = source.choice(PROXY)
    data = injured(source, octets) if source.random() < 0.7 else octets[: source.randint(0, len(octets))] + b"0"
    try:
        header = proxyproto.decode(data)
    except ProxyProtocolError:
        return "error"
    if header is None:
        return "more"
    assert 0 < header.size <= len(data)
    if header.address is not None:
        proxyproto.trusted(header.address, ())
    return "message"


def fuzz_prepared(source: random.Random) -> str:
    """The quick look at a search: where both understand a message, they understand the same."""
    data = altered(source, REQUEST_TREES[1]) if source.random() < 0.5 else request_message(source)
    quick = prepared.split(data)
    if quick is None:
        return "error"
    try:
        message = decode_request(data)
    except ProtocolError:
        return "error"
    if isinstance(message, SearchRequest) and not message.controls:
        assert message.message_id == quick.message_id
        assert quick.question.startswith(message.raw)  # unknown elements behind it are ignored (RFC 4511 §4)
        return "message"
    return "error"


@cache
def certificates() -> tuple[str, list[bytes]]:
    """An issuer, and certificates of it (DER)."""
    root = authority()
    leaves = [root.issue(("alice",), emails=("alice@x.io",)), root.issue(("a", "b")), root.issue((), purposes=())]
    return root.pem, [leaf.certificate.public_bytes(Encoding.DER) for leaf in leaves]


CERTIFICATE_TIME = datetime.datetime.now(datetime.UTC)


def fuzz_certificate(source: random.Random) -> str:
    """Fields of a client's certificate, as far as a TLS library would hand it over."""
    issuer, seeds = certificates()
    octets = source.choice(seeds)
    kind = source.random()
    if kind < 0.2:
        data = octets
    else:
        data = altered(source, parsed(octets)) if kind < 0.7 else injured(source, octets)
    try:
        leaf = x509.load_der_x509_certificate(data)
        certificate = client_certificate.of_peer(leaf, [leaf])
    except client_certificate.UNREADABLE:
        return "error"
    client_certificate.names(certificate.pem)
    taken = client_certificate.trusted(certificate, issuer, CERTIFICATE_TIME)
    assert not taken or data in seeds
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
    fuzz_control_value,
    fuzz_controls,
    fuzz_cookie,
    fuzz_evaluation,
    fuzz_value,
    fuzz_sasl,
    fuzz_bind_name,
    fuzz_proxy,
    fuzz_prepared,
)
RARELY = {fuzz_certificate: 200}
"""Slow targets: one of so many inputs."""


def run(rounds: int, seed: int, tell: Callable[[int], None] = lambda done: None) -> Counter[tuple[str, str]]:
    """Run so many inputs; gives how often each target gave each answer. Any other outcome is an exception.

    ``tell`` is called now and then with the number of inputs done.
    """
    source = random.Random(seed)  # reproducible inputs, no secret
    answers: Counter[tuple[str, str]] = Counter()
    for number in range(rounds):
        target = TARGETS[number % len(TARGETS)]
        for rare, every in RARELY.items():
            if number % every == 0:
                target = rare
        try:
            answers[target.__name__, target(source)] += 1
        except Exception as problem:
            raise AssertionError(f"{target.__name__}, input {number} of seed {seed}") from problem
        if not number % 10_000:
            tell(number)
    return answers


@pytest.mark.filterwarnings("ignore::UserWarning")  # of cryptography, about damaged certificates
def test_decoders_have_three_answers() -> None:
    """Every target reaches each of its answers, and nothing else happens."""
    answers = run(TEST_ROUNDS, 1)
    for target in {target.__name__ for target in (*TARGETS, *RARELY)} - {"fuzz_session"}:
        assert answers[target, "message"] > 20, target
        assert answers[target, "error"] > 20, target
    for target in ("fuzz_frame", "fuzz_proxy"):
        assert answers[target, "more"] > 20
    for answer in ("open", "closed"):
        assert answers["fuzz_session", answer] > 20


def main(arguments: list[str]) -> None:
    """The program."""
    wanted = int(arguments[0]) if arguments else 1_000_000
    seed = int(arguments[1]) if len(arguments) > 1 else 1
    started = told = time.monotonic()

    def tell(done: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= TELL_EVERY_S:
            told = now
            print(f"{done:,} of {wanted:,} inputs, {done / (now - started):,.0f}/s", file=sys.stderr, flush=True)

    answers = run(wanted, seed, tell)
    for (name, answer), count in sorted(answers.items()):
        print(f"{name:20} {answer:10} {count}")
    print(f"{wanted:,} inputs of seed {seed} in {time.monotonic() - started:,.0f} s, nothing but the three answers")


if __name__ == "__main__":
    main(sys.argv[1:])
