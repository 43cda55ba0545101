"""Fuzz harness for RADIUS: damaged real packets, sound packets with strange attributes, nothing but the known answers.

As a test it runs a fixed number of inputs from a fixed seed. As a program it runs as many as asked for::

    python -m tests.fuzz.test_radius 10000000 [seed]

Damage anywhere mostly ends at the first wrong length or at the signature. So half of the packets are taken apart,
changed attribute by attribute, put together with right lengths, and signed: that reaches what stands behind.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from ipaddress import ip_network

from outposts.radius.dictionary import load
from outposts.radius.intake import Accepted, Copy, Drop, Intake
from outposts.radius.networks import address, parse
from outposts.radius.providers import Providers, RadiusProvider
from outposts.radius.rfc import MAX_ATTRIBUTES, Attribute
from outposts.radius.session import Duplicates
from outposts.radius.wire import (
    Attributes,
    Packet,
    PacketError,
    Signature,
    decode,
    encode_attributes,
    encode_reply,
    encode_request,
    message_authenticator,
    mppe_keys,
    reveal_password,
    salted,
    unsalted,
    verify_accounting,
    verify_reply,
    vsa,
)
from tests.fuzz import eap
from tests.fuzz.damage import injured
from tests.radius.packets import AUTHENTICATOR, REQUESTS, SECRET, VECTORS

TEST_ROUNDS = 20_000  # a few seconds; the program form is for millions
TYPES = (*range(1, 4), 24, 25, 26, 26, 31, 33, 64, 69, 79, 79, 80, 81, 97, 102, 241, 0, 255)
VENDORS = (9, 311, 14122, 0, 2**32 - 1)
SIZES = (0, 1, 2, 3, 4, 5, 15, 16, 17, 18, 127, 128, 129, 144, 247, 252, 253)
TEXTS = (b"", b"\0", b"alice", b"a@b@c", b"\xff\xfe", b"%s%n", b"\r\n\0x", "ä".encode() * 60, b"10.0.0.1", b"::1")
RICH: Attributes = (
    (1, b"alice"),
    (2, bytes.fromhex("e18167ae118f167b7e2207240014828b")),
    (4, b"\x7f\0\0\1"),
    (24, bytes(20)),
    (33, b"px"),
    (79, bytes.fromhex("0201000a01616c696365")),
    vsa(311, 25, bytes(50)),
    vsa(9, 1, b"shell:priv-lvl=15"),
    (69, b"\1" + salted(SECRET, AUTHENTICATOR, b"\x80\1", b"pw")),
    (64, b"\1\0\0\x0d"),
    *mppe_keys(SECRET, AUTHENTICATOR, bytes(range(64)), (b"\x80\1", b"\x80\2")),
)
RICH_REQUEST = encode_request(1, 9, SECRET, RICH, authenticator=AUTHENTICATOR)
SEEDS = [*REQUESTS, RICH_REQUEST]
REPLIES = [VECTORS["ours-accept-reply"], encode_reply(decode(RICH_REQUEST), SECRET, 2, RICH[5:])]
PROVIDERS = Providers(
    (
        RadiusProvider(1, "one", "one", "flow", SECRET, (ip_network("10.0.0.0/8"),), accounting=True),
        RadiusProvider(2, "two", "two", "flow", b"xyzzy5461", (ip_network("10.0.0.0/8"), ip_network("fe80::/10"))),
    )
)
NETWORKS = b"10.0.0.5/8, ::ffff:10.0.0.0/104 fe80::/10,192.0.2.1\t2001:db8::/32"
PEERS = (b"10.1.2.3", b"::ffff:10.1.2.3", b"fe80::1%eth0", b"2001:db8::1")


def altered(source: random.Random, rows: Attributes) -> Attributes:
    """The attributes with one to four of them changed, all lengths right."""
    changed = list(rows)
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(changed) + 1)
        kind, value = source.choice(rows) if rows else (1, b"")
        match source.randrange(7):
            case 0:
                del changed[at : at + 1]
            case 1:
                changed.insert(at, (kind, value))
            case 2:
                changed.insert(at, (source.choice(TYPES), source.randbytes(source.choice(SIZES))))
            case 3:
                changed.insert(at, (source.choice(TYPES), source.choice(TEXTS)))
            case 4:
                changed.insert(at, (kind, injured(source, value)[:253]))
            case 5:
                vendor = source.choice(VENDORS).to_bytes(4, "big")
                changed.insert(at, (26, vendor + injured(source, b"\1\6abcd\2\2\x19\3z")))
            case _:
                changed[at:at] = [(source.choice(TYPES), b"")] * source.choice((2, 199, 300))
    return tuple(changed)


def strange(source: random.Random) -> bytes:
    """A sound, signed packet with strange attributes; now and then too large, which is the encoder's refusal."""
    seed = decode(source.choice(SEEDS))
    rows = altered(source, tuple(row for row in seed.attributes if row[0] != 80))
    sign = source.random() < 0.7 and all(kind != 80 for kind, _ in rows)
    secret = source.choice((SECRET, b"xyzzy5461", b"other"))
    code = source.choice((1, 1, 1, 4, 12, 40, 43, 2, 99))
    return encode_request(code, source.randrange(256), secret, rows, authenticator=source.randbytes(16), sign=sign)


def datagram(source: random.Random) -> bytes:
    """Whatever may come out of the network."""
    if source.random() < 0.5:
        octets = injured(source, source.choice(SEEDS))
        # With a Length that fits, so that the damage reaches the attributes.
        return octets[:2] + len(octets).to_bytes(2, "big") + octets[4:] if source.random() < 0.7 else octets
    try:
        return strange(source)
    except PacketError:
        return source.randbytes(source.randrange(60))


def fuzz_decode(source: random.Random) -> str:
    """A packet that is read has exactly the attributes that its octets say."""
    data = datagram(source)
    try:
        packet = decode(data)
    except PacketError:
        return "error"
    assert packet.octets == data[: len(packet.octets)]
    assert encode_attributes(packet.attributes) == packet.octets[20:]
    assert repr(packet)
    return "message"


def fuzz_readers(source: random.Random) -> str:
    """Everything that reads a packet's attributes."""
    try:
        packet = decode(datagram(source))
    except PacketError:
        return "error"
    for kind in (1, 2, 24, 79, 80):
        values = packet.all(kind)
        assert packet.joined(kind) == b"".join(values)
        assert packet.first(kind) == (values[0] if values else None)
    for vendor in VENDORS:
        packet.vendor(vendor, 1)
    for name, text in load().show(packet.attributes):
        assert name
        assert text.isprintable()
    return "message"


def fuzz_signature(source: random.Random) -> str:
    """Only who has the secret is believed: damaged octets never are, unless the damage changed nothing."""
    signed = source.choice([octets for octets in SEEDS if octets[20] == Attribute.MESSAGE_AUTHENTICATOR])
    secret = SECRET if message_authenticator(decode(signed), SECRET) is Signature.VALID else b"xyzzy5461"
    octets = injured(source, signed)
    octets = octets[:2] + len(octets).to_bytes(2, "big") + octets[4:] if source.random() < 0.8 else octets
    try:
        packet = decode(octets)
    except PacketError:
        return "error"
    found = message_authenticator(packet, secret)
    if found is Signature.VALID:
        # An Accounting-Request's signature leaves its Authenticator out, which is a signature itself.
        assert packet.octets == signed or (packet.code == 4 and packet.octets[20:] == signed[20:])
    if packet.code not in (4, 40, 43) or packet.octets != signed:
        assert not verify_accounting(packet, secret)
    return found.value


def fuzz_reply(source: random.Random) -> str:
    """Damaged replies prove nothing."""
    original = source.choice(REPLIES)
    data = injured(source, original) if source.random() < 0.9 else original
    try:
        packet = verify_reply(data, AUTHENTICATOR, SECRET)
    except PacketError:
        return "error"
    assert packet.octets == original
    return "message"


def fuzz_hidden(source: random.Random) -> str:
    """Hidden values of any size, and with any salt."""
    value = source.randbytes(source.choice(SIZES))
    try:
        if source.random() < 0.5:
            assert b"\0" not in reveal_password(SECRET, AUTHENTICATOR, value)
        else:
            assert len(unsalted(SECRET, AUTHENTICATOR, value)) < len(value)
    except PacketError:
        return "error"
    return "message"


def fuzz_answer(source: random.Random) -> str:
    """A reply to any packet is signed, at most 4096 octets, and has the packet's Proxy-State."""
    try:
        packet = decode(datagram(source))
        rows = altered(source, tuple(row for row in RICH if row[0] != 33))
        octets = encode_reply(packet, SECRET, source.choice((2, 3, 5, 11)), rows)
    except PacketError:
        return "error"
    assert len(octets) <= 4096
    if len(rows) + len(packet.attributes) >= MAX_ATTRIBUTES:
        return "message"
    reply: Packet = verify_reply(octets, packet.authenticator, SECRET)
    assert reply.all(33) == packet.all(33)
    return "message"


def fuzz_intake(source: random.Random) -> str:
    """Several packets of one client: each has one of three verdicts, and an accepted one is authentic where it must."""
    intake = Intake(Duplicates())
    intake.providers = PROVIDERS
    verdict = ""
    for now in range(3):
        data = datagram(source)
        peer = source.choice(("10.0.0.1", "fe80::1%eth0", "192.0.2.1"))
        for _ in range(source.choice((1, 2))):
            found = intake.receive(data, peer, 1, float(now))
            match found:
                case Accepted():
                    packet, secret = found.request.packet, found.request.provider.secret
                    signature = message_authenticator(packet, secret)
                    assert signature is not Signature.INVALID
                    if packet.code == 4:
                        assert verify_accounting(packet, secret)
                    else:
                        assert signature is Signature.VALID or (packet.code == 1 and not packet.all(79))
                    verdict = "accepted"
                case Copy():
                    verdict = "copy"
                case Drop():
                    assert found.reason
                    verdict = "drop"
    return verdict


def fuzz_networks(source: random.Random) -> str:
    """What an administrator may type, and what a socket may call its peer."""
    found, refused = parse(injured(source, NETWORKS).decode("latin-1"))
    assert all(network.num_addresses for network in found)
    address(injured(source, source.choice(PEERS)).decode("latin-1"))
    return "error" if refused else "message"


TARGETS = (
    fuzz_decode,
    fuzz_readers,
    fuzz_signature,
    fuzz_reply,
    fuzz_hidden,
    fuzz_answer,
    fuzz_intake,
    fuzz_networks,
    *eap.TARGETS,
)
# What each target may say; each must be reached, so that a harness that no longer gets anywhere is seen.
ANSWERS = {
    "fuzz_signature": ("error", "invalid", "absent", "valid"),
    "fuzz_intake": ("accepted", "copy", "drop"),
    **eap.ANSWERS,
}


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


def test_readers_have_known_answers() -> None:
    """Every target reaches each of its answers, and nothing else happens."""
    answers = run(TEST_ROUNDS, 1)
    for target in TARGETS:
        expected = ANSWERS.get(target.__name__, ("message", "error"))
        assert {answer for name, answer in answers if name == target.__name__} == {*expected}
        for answer in expected:
            assert answers[target.__name__, answer] > 5, (target.__name__, answer)


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    for (name, answer), count in sorted(run(wanted, int(sys.argv[2]) if len(sys.argv) > 2 else 1).items()):
        print(f"{name:20} {answer:10} {count}")
