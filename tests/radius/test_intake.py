"""Intake: what is dropped and why, before anybody thinks about a packet (spec §2 to §4; rows R02–R05, R24–R31, …)."""

from __future__ import annotations

import hmac
import itertools

import pytest

from outposts.radius import wire
from outposts.radius.intake import ACCOUNTING_CODES, NOTE_EVERY_S, Accepted, Copy, Drop, Intake, Notes, Verdict
from outposts.radius.providers import Providers, RadiusProvider
from outposts.radius.rfc import Attribute, Code
from outposts.radius.session import Duplicates
from tests.radius.desks import NAS, PORT, SECRET, access_request, eap_request, provider, status_request
from tests.radius.packets import VECTORS, flip, packet

_ports = itertools.count(20_000)
OTHER_NAS = "192.0.2.2"


def intake(*served: RadiusProvider) -> Intake:
    """An intake for these providers."""
    made = Intake(Duplicates())
    made.serve(Providers(served or (provider(),)))
    return made


def taken(
    where: Intake, octets: bytes, nas: str = NAS, now: float = 100.0, port: int | None = None, **more: object
) -> Verdict:
    """Hand in a packet, from a port of its own unless told."""
    return where.receive(octets, nas, port or next(_ports), now, **more)  # type: ignore[arg-type]


def reason(verdict: Verdict) -> str:
    """Why it was dropped; "" if it was not."""
    return verdict.reason if isinstance(verdict, Drop) else ""


def chosen(verdict: Verdict) -> int:
    """The provider of an accepted request."""
    assert isinstance(verdict, Accepted), verdict
    return verdict.request.provider.pk


def _two_signatures() -> bytes:
    """The first one is right, if the second one is data."""
    octets = access_request(*[(Attribute.MESSAGE_AUTHENTICATOR, bytes(16))] * 2, sign=False)
    at = len(octets) - 2 * 18 + 2
    return octets[:at] + hmac.digest(SECRET, octets, "md5") + octets[at + 16 :]


VECTOR = VECTORS["ours-pap-request"]
UNSIGNED = access_request(sign=False)
TWO_SIGNATURES = _two_signatures()
SHORT_SIGNATURE = access_request((Attribute.MESSAGE_AUTHENTICATOR, bytes(15)), sign=False)


# --- step 1 to 4: size, code, client, attributes ---


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (VECTOR[:19], "too_short"),
        (b"", "too_short"),
        (packet(1, length=18), "bad_length"),
        (packet(1, length=21), "bad_length"),
        (packet(1, length=4097), "bad_length"),
        (VECTOR + bytes(5000 - len(VECTOR)), "too_long"),
        (VECTOR + bytes(10), ""),
        (VECTOR + bytes(4096 - len(VECTOR)), ""),
    ],
)
def test_r31_sizes(octets: bytes, expected: str) -> None:
    """Datagram and Length within 20 and 4096, Length within the datagram; what follows it is ignored."""
    assert reason(taken(intake(), octets)) == expected


@pytest.mark.parametrize("raw", [b"\x04\x00", b"\x04\x01", b"\x04\x07abc", b"\x04", b"\x01\x03a\x04\x00"])
def test_r33_attribute_lengths(raw: bytes) -> None:
    """An attribute of length 0 or 1, or past the end."""
    assert reason(taken(intake(), packet(1, raw))) == "bad_attribute"


def test_more_than_200_attributes_are_not_read() -> None:
    """200 are, 201 are not (spec §3 step 4)."""
    assert reason(taken(intake(), packet(1, b"\x19\x02" * 201))) == "too_many_attributes"
    many = access_request(*[(Attribute.CLASS, b"")] * 197)  # and user, password, signature
    assert reason(taken(intake(), many)) == ""


@pytest.mark.parametrize("code", [0, 2, 3, 5, 11, 13, 40, 41, 43, 99, 255])
def test_r34_codes_that_are_no_request_of_ours(code: int) -> None:
    """Replies, Disconnect and CoA, unknown codes."""
    assert reason(taken(intake(), packet(code))) == "code"


def test_r34_access_requests_are_not_taken_where_accounting_listens() -> None:
    """Each port has its codes."""
    assert reason(taken(intake(), VECTOR, codes=ACCOUNTING_CODES)) == "code"


def test_r29_a_client_of_no_network() -> None:
    """Silence, whatever it sends; also without any provider."""
    assert reason(taken(intake(provider(networks="10.0.0.0/8")), VECTOR)) == "unknown_client"
    assert reason(taken(intake(provider(networks="")), VECTOR)) == "unknown_client"
    empty = Intake(Duplicates())
    assert reason(taken(empty, VECTOR)) == "unknown_client"


# --- which provider ---


def test_r24_the_longest_network_decides_every_time() -> None:
    """10.1.2.3 belongs to 10.1.0.0/16, a thousand times of a thousand."""
    where = intake(provider(1, "10.0.0.0/8"), provider(2, "10.1.0.0/16"))
    assert {chosen(taken(where, access_request(), "10.1.2.3")) for _ in range(1000)} == {2}
    assert chosen(taken(where, access_request(), "10.2.2.3")) == 1


def test_r24_a_shorter_network_is_no_way_out() -> None:
    """Signed with the secret of the shorter network: still the longer one's, and its signature is wrong."""
    where = intake(provider(1, "10.0.0.0/8", secret=b"one"), provider(2, "10.1.0.0/16", secret=b"two"))
    assert reason(taken(where, access_request(secret=b"one"), "10.1.2.3")) == "bad_message_authenticator"


def test_r25_the_signature_decides_between_equal_networks() -> None:
    """Two providers on one network: whose secret the packet is signed with; the lowest pk if it is not signed."""
    where = intake(provider(1, secret=b"one"), provider(2, secret=b"two"))
    assert chosen(taken(where, access_request(secret=b"two"))) == 2
    assert chosen(taken(where, access_request(secret=b"one"))) == 1
    assert chosen(taken(where, access_request(secret=b"two", sign=False), OTHER_NAS)) == 1
    assert reason(taken(where, access_request(secret=b"three"))) == "bad_message_authenticator"


def test_r25_accounting_is_told_apart_by_its_authenticator() -> None:
    """The Request Authenticator of accounting is a signature too."""
    where = intake(provider(1, secret=b"one", accounting=True), provider(2, secret=b"two", accounting=True))
    report = wire.encode_request(Code.ACCOUNTING_REQUEST, 3, b"two", ((40, bytes((0, 0, 0, 1))),), sign=False)
    assert chosen(taken(where, report)) == 2


def test_r30_equal_secrets_are_told_apart_by_network() -> None:
    """Each client gets its own application; secrets are compared nowhere."""
    where = intake(provider(1, "10.0.0.0/8"), provider(2, "192.168.0.0/16"))
    assert chosen(taken(where, access_request(), "10.0.0.1")) == 1
    assert chosen(taken(where, access_request(), "192.168.0.1")) == 2


# --- Message-Authenticator ---


def test_r01_the_vector_is_taken() -> None:
    """Signed, authentic, and its password can be read."""
    verdict = taken(intake(), VECTOR)
    assert isinstance(verdict, Accepted)
    assert verdict.request.packet.first(Attribute.USER_NAME) == b"alice"


@pytest.mark.parametrize("policy", ["auto", "yes", "no"])
@pytest.mark.parametrize(
    "octets", [flip(VECTOR, 8 * 30), TWO_SIGNATURES, SHORT_SIGNATURE], ids=["wrong", "two", "length 17"]
)
def test_r05_a_wrong_signature_is_never_taken(policy: str, octets: bytes) -> None:
    """One bit flipped, two of them, a wrong length; whatever the policy (R03: also with no)."""
    assert reason(taken(intake(provider(require_message_authenticator=policy)), octets)) == "bad_message_authenticator"


@pytest.mark.parametrize("bit", range(0, 8 * len(VECTOR), 7))
def test_r05_any_bit_counts(bit: int) -> None:
    """Whatever is changed on the way, the packet is not taken for what it was."""
    verdict = taken(intake(provider(require_message_authenticator="yes")), flip(VECTOR, bit))
    assert isinstance(verdict, Drop)


def test_r02_auto_takes_unsigned_requests_until_the_client_has_signed() -> None:
    """Unsigned: taken and counted; after a right signature of that address, no more; others are not concerned."""
    unsigned: list[str] = []
    where = Intake(Duplicates(), unsigned=lambda provider, client_ip: unsigned.append(client_ip))
    where.serve(Providers((provider(),)))
    assert isinstance(taken(where, access_request(sign=False)), Accepted)
    assert unsigned == [NAS]
    assert isinstance(taken(where, access_request()), Accepted)
    assert reason(taken(where, access_request(sign=False))) == "no_message_authenticator"
    assert isinstance(taken(where, access_request(sign=False), OTHER_NAS), Accepted)
    assert unsigned == [NAS, OTHER_NAS]


def test_r02_a_wrong_signature_does_not_teach_anything() -> None:
    """Only who knows the secret can make this server ask for signatures."""
    where = intake()
    taken(where, access_request(secret=b"wrong"))
    assert isinstance(taken(where, access_request(sign=False)), Accepted)


def test_r02_what_was_learned_ends_when_the_provider_changes() -> None:
    """And stays while it is the same."""
    first, second = provider(1, "192.0.2.1"), provider(2, "192.0.2.2")
    where = intake(first, second)
    taken(where, access_request(), NAS)
    taken(where, access_request(), OTHER_NAS)
    where.serve(Providers((first, second)), keep=(1,))
    assert reason(taken(where, access_request(sign=False), NAS)) == "no_message_authenticator"
    assert isinstance(taken(where, access_request(sign=False), OTHER_NAS), Accepted)


def test_r03_policies_yes_and_no() -> None:
    """Yes: never without. No: also from a client that has signed, and with Proxy-State."""
    strict = intake(provider(require_message_authenticator="yes"))
    assert reason(taken(strict, UNSIGNED)) == "no_message_authenticator"
    loose = intake(provider(require_message_authenticator="no"))
    taken(loose, access_request())
    assert isinstance(taken(loose, access_request(sign=False)), Accepted)
    assert isinstance(taken(loose, access_request((Attribute.PROXY_STATE, b"x"), sign=False)), Accepted)


def test_r04_unsigned_with_proxy_state() -> None:
    """That is what an attacker in the middle needs (CVE-2024-3596)."""
    octets = access_request((Attribute.PROXY_STATE, b"x"), sign=False)
    assert reason(taken(intake(), octets)) == "no_message_authenticator"


@pytest.mark.parametrize("policy", ["auto", "yes", "no"])
def test_r45_eap_is_always_signed(policy: str) -> None:
    """RFC 3579 §3.2."""
    octets = eap_request(b"\x02\x01\x00\x0a\x01alice", sign=False)
    assert reason(taken(intake(provider(require_message_authenticator=policy)), octets)) == "no_message_authenticator"


@pytest.mark.parametrize("policy", ["auto", "yes", "no"])
def test_r60_status_server_is_always_signed(policy: str) -> None:
    """RFC 5997 §3."""
    where = intake(provider(require_message_authenticator=policy))
    assert reason(taken(where, status_request(sign=False))) == "no_message_authenticator"
    assert reason(taken(where, status_request(secret=b"wrong"))) == "bad_message_authenticator"
    assert isinstance(taken(where, VECTORS["ours-status-request"]), Accepted)


def test_status_server_has_a_rate_for_each_client() -> None:
    """So many a second; copies are not counted; 0 is any number."""
    where = intake()
    where.status_rate = 3
    assert [reason(taken(where, status_request(), now=5.0)) for _ in range(4)] == ["", "", "", "status_rate"]
    assert reason(taken(where, status_request(), OTHER_NAS, now=5.5)) == ""
    assert reason(taken(where, status_request(), now=6.0)) == ""
    where.status_rate = 0
    assert {reason(taken(where, status_request(), now=7.0)) for _ in range(50)} == {""}


def test_r09_accounting_needs_its_setting_and_a_right_authenticator() -> None:
    """On: taken; altered: not; off: not."""
    vector = VECTORS["ours-accounting-request"]
    assert isinstance(taken(intake(provider(accounting=True)), vector), Accepted)
    assert isinstance(taken(intake(provider(accounting=True)), VECTORS["ours-signed-accounting-request"]), Accepted)
    assert reason(taken(intake(provider(accounting=True)), flip(vector, 8 * 10))) == "bad_authenticator"
    assert reason(taken(intake(), vector)) == "accounting_off"


# --- copies ---


def test_a_copy_is_known_by_its_octets_before_anything_is_computed() -> None:
    """In progress: nothing to send; answered: the same octets; padding does not make another packet of it."""
    where = intake()
    first = taken(where, VECTOR, port=PORT)
    assert isinstance(first, Accepted)
    copy = taken(where, VECTOR, port=PORT)
    assert isinstance(copy, Copy) and copy.reply == b""
    where.duplicates.answer(first.entry, b"reply", 100.0)
    for octets in (VECTOR, VECTOR + bytes(10)):
        copy = taken(where, octets, port=PORT)
        assert isinstance(copy, Copy) and copy.reply == b"reply"
    assert isinstance(taken(where, VECTOR, port=PORT, now=120.0), Accepted)


def test_a_copy_counts_only_while_its_provider_is_in_service() -> None:
    """Another secret, another network: the packet is judged anew."""
    where = intake()
    first = taken(where, VECTOR, port=PORT)
    assert isinstance(first, Accepted)
    where.duplicates.answer(first.entry, b"reply", 100.0)
    where.serve(Providers((provider(secret=b"another"),)))
    assert reason(taken(where, VECTOR, port=PORT)) == "bad_message_authenticator"


def test_r23_same_identifier_other_authenticator() -> None:
    """A new request."""
    where = intake()
    assert isinstance(taken(where, access_request(identifier=7), port=PORT), Accepted)
    assert isinstance(taken(where, access_request(identifier=7), port=PORT), Accepted)


def test_a_client_that_is_named_by_something_better_than_its_address() -> None:
    """RadSec: the certificate says whose client it is, and no network is asked."""
    where = intake(provider(networks=""))
    radsec = provider(5, networks="", secret=b"radsec")
    verdict = taken(where, access_request(secret=b"radsec"), "203.0.113.7", provider=radsec, transport="radsec")
    assert isinstance(verdict, Accepted)
    assert verdict.request.provider is radsec and verdict.request.transport == "radsec"


# --- notes ---


def test_a_flood_does_not_write_lines() -> None:
    """Once a minute for each address and reason, and no more addresses than fit."""
    notes = Notes()
    assert [notes.due("code", NAS, now) for now in (0.0, 1.0, NOTE_EVERY_S - 1, NOTE_EVERY_S)] == [
        True,
        False,
        False,
        True,
    ]
    assert notes.due("too_short", NAS, 1.0)
    written = sum(notes.due("code", f"10.0.{number // 256}.{number % 256}", 61.0) for number in range(10_000))
    assert written < 5000
    assert notes.due("code", "10.200.0.1", 61.0 + 2 * NOTE_EVERY_S)


def test_what_is_said_once_is_said_once() -> None:
    """Until so many others have been spoken of that the oldest are forgotten."""
    notes = Notes()
    assert notes.once("unsigned", NAS)
    assert not notes.once("unsigned", NAS)
    assert notes.once("unsigned", OTHER_NAS)
    assert not notes.once("unsigned", NAS)
