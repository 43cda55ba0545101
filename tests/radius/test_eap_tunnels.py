"""TTLS and PEAP: PAP, GTC and further questions inside a tunnel, every broken AVP, TLV and order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from outposts.radius.eap import peap, ttls
from outposts.radius.eap.contexts import TlsOptions
from outposts.radius.eap.gtc import Ask, Dialogue
from outposts.radius.eap.gtc import Asked as Stage
from outposts.radius.eap.session import EapSession, EapSettings
from outposts.radius.eap.steps import (
    Asked,
    Decide,
    Decision,
    Fail,
    Failed,
    Granted,
    MfaAnswer,
    PasswordLogin,
    Question,
    Refused,
    Send,
    Succeed,
)
from outposts.radius.eap.ttls import AttributeValue, AvpError, decode_avps, encode_avp
from tests.certificates import authority
from tests.radius.eap_peer import (
    GTC,
    IDENTITY,
    PEAP,
    SERVERS,
    TTLS,
    Peer,
    avp,
    inner_eap,
    inner_peap,
    pap,
    response,
    settings_for,
    talk,
    zeros,
)

VERSIONS = [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION]
BOTH = TlsOptions(tunnel_tls13=True)
SETTINGS = {name: settings_for(name, options=BOTH) for name in ("ttls", "peap")}
VECTOR = bytes.fromhex("000000014000000d616c6963650000000000000240000018776f6e6465726c616e64000000000000")
Inside = Callable[[bytes], bytes | None]


def session(name: str, settings: EapSettings | None = None) -> EapSession:
    """A session that offers one tunnelled method."""
    return EapSession(settings or SETTINGS[name], zeros)


def first(octets: bytes) -> Inside:
    """Say this once the tunnel stands, and nothing after."""
    return lambda message: None if message else octets


def core(password: str, code: str | None = None) -> Callable[[Question], Decision]:
    """A core with one user; with a code it asks for that, where it can be asked."""

    def decide(question: Question) -> Decision:
        if isinstance(question, MfaAnswer):
            return Granted() if question.text == code else Refused("invalid_credentials")
        assert isinstance(question, PasswordLogin)
        if question.password == f"{password};{code}":
            return Granted()
        if question.password != password:
            return Refused("invalid_credentials")
        return Granted() if code is None else Asked("Code: ")

    return decide


# -- logins --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("ttls", lambda: first(VECTOR)),
        ("ttls", lambda: inner_eap([b"alice", b"wonderland"])),
        ("peap", lambda: inner_peap([b"alice", b"wonderland"])),
    ],
)
def test_r58_a_login(name: str, inside: Callable[[], Inside], version: int, twice: bool) -> None:
    """The flow gets inner name and password; both sides have the same keys and Session-Id."""
    peer = Peer(name, identity=b"anon", version=version, trust=SERVERS, inside=inside())
    heard = talk(session(name), peer, core("wonderland"), twice=twice)
    assert heard.granted.msk == peer.keys() and heard.granted.session_id == peer.session_id()
    assert heard.granted.username == "alice" and heard.granted.method == name
    [question] = heard.questions
    assert isinstance(question, PasswordLogin)
    assert (question.username, question.password, question.outer_identity) == ("alice", "wonderland", "anon")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("ttls", lambda word: first(pap(b"alice", word))),
        ("ttls", lambda word: inner_eap([b"alice", word])),
        ("peap", lambda word: inner_peap([b"alice", word])),
    ],
)
def test_r58_password_and_code_in_one(name: str, inside: Callable[[bytes], Inside], version: int) -> None:
    """``password;code`` reaches the flow as it was typed; a wrong one is a Failure."""
    peer = Peer(name, version=version, inside=inside(b"pw;123456"))
    assert talk(session(name), peer, core("pw", "123456")).granted.msk == peer.keys()
    for wrong in (b"pw;654321", b"no", b""):
        heard = talk(session(name), Peer(name, version=version, inside=inside(wrong)), core("pw", "123456"))
        assert heard.refused.reason == "invalid_credentials"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("name", "inner"), [("ttls", inner_eap), ("peap", inner_peap)])
def test_r58_a_second_prompt(name: str, inner: Callable[..., Inside], version: int) -> None:
    """The core's question is put as a GTC prompt; its answer decides."""
    peer = Peer(name, version=version, inside=inner([b"alice", b"pw", b"123456"]))
    heard = talk(session(name), peer, core("pw", "123456"))
    assert heard.granted.msk == peer.keys()
    assert [type(question) for question in heard.questions] == [PasswordLogin, MfaAnswer]
    assert any(b"\x06Code: " in message for message in peer.seen)
    wrong = talk(
        session(name), Peer(name, version=version, inside=inner([b"alice", b"pw", b"000000"])), core("pw", "1")
    )
    assert wrong.refused.reason == "invalid_credentials"


def test_questions_have_an_end() -> None:
    """A core that asks for ever meets the session's round trip limit."""
    peer = Peer("peap", inside=inner_peap([b"alice", b"pw", *([b"?"] * 100)]))
    heard = talk(session("peap"), peer, lambda question: Asked("And now? "))
    assert heard.refused.reason == "eap_round_trips"


def test_a_prompt_is_cut_and_never_empty() -> None:
    """A prompt fits one line, ends between characters, and says something."""
    dialogue = Dialogue("", str)
    assert dialogue.further("é" * 300) == Ask(GTC, ("é" * 126).encode())
    assert dialogue.further("") == Ask(GTC, b"Code: ")


@pytest.mark.parametrize("name", ["ttls", "peap"])
def test_tunnels_stay_at_tls_12(name: str) -> None:
    """Unless TLS 1.3 is switched on for tunnels, a peer that could does not get it."""
    inside = first(VECTOR) if name == "ttls" else inner_peap([b"alice", b"wonderland"])
    peer = Peer(name, version=SSL.TLS1_3_VERSION, inside=inside)
    assert talk(session(name, settings_for(name)), peer).granted.msk == peer.keys()
    assert peer.tls.get_protocol_version() == SSL.TLS1_2_VERSION


@pytest.mark.parametrize("name", ["ttls", "peap"])
@pytest.mark.parametrize("version", VERSIONS)
def test_r52_a_peer_that_refuses_our_certificate(name: str, version: int) -> None:
    """No password crosses a tunnel that the peer does not trust."""
    heard = talk(session(name), Peer(name, version=version, trust=authority("else"), inside=first(VECTOR)))
    assert heard.refused.reason == "peer_refused" and heard.questions == []


@pytest.mark.parametrize("name", ["ttls", "peap"])
def test_nothing_is_resumed(name: str) -> None:
    """A peer with an old TLS session must give its password again."""

    def inside() -> Inside:
        return first(VECTOR) if name == "ttls" else inner_peap([b"alice", b"wonderland"])

    for version in VERSIONS:
        old = Peer(name, version=version, inside=inside())
        talk(session(name), old)
        heard = talk(session(name), Peer(name, version=version, resumes=old, inside=inside()))
        assert len(heard.questions) == 1
        assert isinstance(talk(session(name), Peer(name, resumes=old, inside=first(b""))).end, Fail)


@pytest.mark.parametrize("name", ["ttls", "peap"])
def test_another_version_of_the_method(name: str) -> None:
    """A peer that answers with a higher version than was offered is refused."""
    one = session(name)
    step = one.receive(response(1, IDENTITY, b"alice"), 0.0)
    assert isinstance(step, Send)
    step = one.receive(response(step.eap[1], step.eap[4], b"\x01\x16\3\1"), 0.0)
    assert isinstance(step, Fail) and step.reason == "tls_method_version"


# -- TTLS ----------------------------------------------------------------------------------------------------------


def test_avp_vector() -> None:
    """The vector of alice/wonderland, both ways."""
    assert list(decode_avps(VECTOR)) == [
        AttributeValue(1, 0, True, b"alice"),
        AttributeValue(2, 0, True, b"wonderland" + bytes(6)),
    ]
    assert encode_avp(1, b"alice") + encode_avp(2, b"wonderland" + bytes(6)) == VECTOR == pap(b"alice", b"wonderland")


NUMBERS = st.integers(0, 2**32 - 1)
AVPS = st.lists(st.tuples(NUMBERS, NUMBERS, st.booleans(), st.binary(max_size=40)), max_size=20)


@given(AVPS)
def test_avps_survive_a_round_trip(items: list[tuple[int, int, bool, bytes]]) -> None:
    """What is encoded is read back."""
    octets = b"".join(encode_avp(code, data, vendor, mandatory=must) for code, vendor, must, data in items)
    assert [(one.code, one.vendor, one.mandatory, one.data) for one in decode_avps(octets)] == items


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"\0\0\0\1\x40\0\0\7", "avp_length"),
        (b"\0\0\0\1\x40\0\0\0", "avp_length"),
        (b"\0\0\0\1\xc0\0\0\x0bxyz\0", "avp_length"),
        (b"\0\0\0\1\x40\0\0\x0eabcde", "avp_length"),
        (b"\0\0\0\1\x40\xff\xff\xffabcde", "avp_length"),
        (b"\0\0\0\1\x40\0\0", "avp_truncated"),
        (b"\0", "avp_truncated"),
        (encode_avp(9, b"", mandatory=False) * 65, "avp_too_many"),
    ],
)
def test_r59_broken_avps(octets: bytes, reason: str) -> None:
    """Length below the header, past the end, rests, too many: each is named, and ends a login with Failure."""
    with pytest.raises(AvpError) as caught:
        list(decode_avps(octets))
    assert caught.value.reason == reason
    heard = talk(session("ttls"), Peer("ttls", inside=first(octets)))
    assert heard.refused.reason == reason and heard.questions == []


NAME = avp(1, b"alice")
WORD = avp(2, b"pw")


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (NAME + WORD + avp(999, b"x"), "avp_unknown"),  # R59: unknown with M
        (NAME + WORD + avp(5, b"x", vendor=9), "avp_unknown"),
        (NAME, "avp_incomplete"),
        (WORD, "avp_incomplete"),
        (avp(999, b"x", flags=0), "avp_incomplete"),
        (NAME + NAME + WORD, "avp_twice"),
        (NAME + WORD + WORD, "avp_twice"),
        (NAME + avp(3, b"x" * 17) + avp(60, b"y" * 16), "unsupported_auth"),
        (NAME + avp(11, b"y" * 16, vendor=311) + avp(25, b"x" * 50, vendor=311), "unsupported_auth"),
        (NAME + avp(1, b"x" * 50, vendor=311), "unsupported_auth"),
        (NAME + WORD + avp(79, response(0, IDENTITY, b"alice")), "avp_ambiguous"),
        (avp(1, b"\xff") + WORD, "malformed_identity"),
        (avp(1, b"a\0b") + WORD, "malformed_identity"),
        (avp(1, b"x" * 254) + WORD, "malformed_identity"),
        (avp(1, b"") + WORD, "no_identity"),
        (NAME + avp(2, b"\xff\xfe"), "undecodable_password"),
        (NAME + avp(2, b"p\0w"), "undecodable_password"),
        (NAME + avp(2, b"x" * 513), "undecodable_password"),
        (avp(79, b"\2\1\0"), "inner_eap_too_short"),
        (avp(79, b"\1\1\0\5\1"), "inner_eap_code"),
        (avp(79, response(0, GTC, b"pw")), "inner_unexpected"),
        (avp(79, response(0, 26, b"x" * 50)), "inner_unexpected"),
        (avp(79, response(0, 3, b"\x1a")), "inner_unexpected"),
        (avp(79, response(0, IDENTITY, b"\xff")), "malformed_identity"),
        (avp(79, response(0, IDENTITY, b"")), "no_identity"),
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_ttls_peer_may_not_say(octets: bytes, reason: str, version: int) -> None:
    """Failure, and the core is not asked."""
    heard = talk(session("ttls"), Peer("ttls", version=version, inside=first(octets)))
    assert heard.refused.reason == reason and heard.questions == []


@pytest.mark.parametrize(
    "octets",
    [
        NAME + WORD + avp(999, b"x", flags=0),
        avp(5, b"x", vendor=9, flags=0) + WORD + NAME,
        NAME + avp(2, b"pw"),  # a peer that does not pad
    ],
)
def test_what_a_ttls_peer_may_say(octets: bytes) -> None:
    """Unknown AVPs without M are passed over, order is free, padding is the peer's business."""
    [question] = talk(session("ttls"), Peer("ttls", inside=first(octets))).questions
    assert isinstance(question, PasswordLogin) and (question.username, question.password) == ("alice", "pw")


def test_inner_message_in_pieces() -> None:
    """Several EAP-Message AVPs are one inner packet."""
    whole = response(0, IDENTITY, b"alice")
    left = [b"pw"]

    def say(message: bytes) -> bytes | None:
        if not message:
            return avp(79, whole[:4]) + avp(79, whole[4:])
        return avp(79, response(message[9], GTC, left.pop(0)))

    assert isinstance(talk(session("ttls"), Peer("ttls", inside=say)).end, Succeed)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda number: response(number, 3, b"\x1a"), "no_common_inner_method"),
        (lambda number: response(number, 26, b"x"), "inner_unexpected"),
        (lambda number: response(number + 1, GTC, b"pw"), "inner_eap_identifier"),
        (lambda number: response(number, IDENTITY, b"bob"), "inner_unexpected"),
        (lambda number: b"\3" + bytes((number,)) + b"\0\4", "inner_eap_code"),
    ],
)
def test_inner_methods_that_we_do_not_have(answer: Callable[[int], bytes], reason: str) -> None:
    """A Nak of GTC, another method, an old identifier, another name in the middle: Failure."""

    def say(message: bytes) -> bytes:
        return avp(79, answer(message[9]) if message else response(0, IDENTITY, b"alice"))

    heard = talk(session("ttls"), Peer("ttls", inside=say))
    assert heard.refused.reason == reason and heard.questions == []


def test_pap_in_the_middle_of_a_dialogue() -> None:
    """Once a peer talks EAP inside, it cannot fall back."""

    def say(message: bytes) -> bytes:
        return pap(b"bob", b"pw") if message else avp(79, response(0, IDENTITY, b"alice"))

    assert talk(session("ttls"), Peer("ttls", inside=say)).refused.reason == "avp_incomplete"


def test_a_silent_ttls_peer() -> None:
    """A peer that never says anything inside meets the round trip limit."""
    assert talk(session("ttls"), Peer("ttls", inside=first(b""))).refused.reason == "eap_round_trips"


def test_an_acknowledgement_before_the_tunnel() -> None:
    """An empty response instead of the ClientHello."""
    one = session("ttls")
    assert isinstance(one.receive(response(1, IDENTITY, b"alice"), 0.0), Send)
    step = one.receive(response(2, TTLS, b"\0"), 0.0)
    assert isinstance(step, Fail) and step.reason == "tls_out_of_order"


def test_tampered_records_are_refused() -> None:
    """A record that does not decrypt gets an alert, then Failure; nothing in it is looked at."""
    one, peer = session("ttls"), Peer("ttls", inside=first(VECTOR))
    packet = response(1, IDENTITY, b"alice")
    step = one.receive(packet, 0.0)
    while isinstance(step, Send) and not peer.established:
        packet = peer.answer(step.eap)
        if not peer.established:
            step = one.receive(packet, 0.0)
    step = one.receive(packet[:-1] + bytes((packet[-1] ^ 1,)), 0.0)
    assert isinstance(step, Send) and step.eap[6] == 0x15, "an alert record"
    step = one.receive(response(step.eap[1], TTLS, b"\0"), 0.0)
    assert isinstance(step, Fail) and step.reason == "tls_error"


# -- PEAP ----------------------------------------------------------------------------------------------------------


def test_result_vector() -> None:
    """``01 id 000B 21 8003 0002 0001``."""
    assert peap.result(5, peap.SUCCESS).hex() == "0105000b21800300020001"
    assert peap.status_of(bytes.fromhex("800300020001")) == 1
    assert peap.status_of(bytes.fromhex("800300020002")) == 2


@pytest.mark.parametrize(
    "data",
    [
        "",
        "80",
        "8003000200",
        "80030003000100",
        "800300010180030001",
        "800300020001800300020001",
        "8003ffff0001",
        "00040000",
    ],
)
def test_results_that_say_nothing(data: str) -> None:
    """Broken, missing or contradicting TLVs are no result."""
    assert peap.status_of(bytes.fromhex(data)) is None


def test_other_tlvs_are_passed_over() -> None:
    """A TLV that we do not know beside the result does no harm: we asked for the result."""
    assert peap.status_of(bytes.fromhex("000c0002abcd800300020001")) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_a_peap_refusal_is_said_inside(version: int) -> None:
    """The peer hears the failure inside the tunnel, agrees, then EAP-Failure comes."""
    peer = Peer("peap", version=version, inside=inner_peap([b"alice", b"no"]))
    heard = talk(session("peap"), peer, core("pw"))
    assert heard.refused.reason == "invalid_credentials"
    assert peer.seen[-1][4:] == bytes.fromhex("21800300020002")


@pytest.mark.parametrize("status", [b"\0\2", b"\0\0", b"\0\3", b"\0", b""])
def test_a_peer_that_does_not_agree(status: bytes) -> None:
    """Success here, something else there: Failure, no keys."""
    heard = talk(session("peap"), Peer("peap", inside=inner_peap([b"alice", b"pw"], status=status)))
    assert isinstance(heard.end, Fail) and heard.end.reason in ("peer_refused", "inner_eap_length")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"\x21" + bytes.fromhex("800300020001"), "inner_eap_"),  # without its header
        (b"\2\x63\0\x0b\x21" + bytes.fromhex("800300020001"), "inner_unexpected"),  # another identifier
        (b"\1\1\0\x0b\x21" + bytes.fromhex("800300020001"), "inner_eap_code"),
        (b"\2\1\0\6\6x", "inner_unexpected"),
        (b"\6password", "inner_eap_"),
    ],
)
def test_what_is_no_agreement(answer: bytes, reason: str) -> None:
    """Only a whole Extensions response to our request counts."""
    left = [b"\1alice", b"\6pw", answer]
    heard = talk(session("peap"), Peer("peap", inside=lambda message: left.pop(0) if message else None))
    assert heard.refused.reason.startswith(reason)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([b"\x06pw"], "inner_unexpected"),
        ([b"\1\xff"], "malformed_identity"),
        ([b"\1"], "no_identity"),
        ([b"\1alice", b"\3\x1a"], "no_common_inner_method"),
        ([b"\1alice", b"\x1axyz"], "inner_unexpected"),
        ([b"\1alice", b"\1bob"], "inner_unexpected"),
        ([b"\1alice", b"\6\xff"], "undecodable_password"),
        ([b"\1alice", bytes.fromhex("0201000b21800300020001")], "inner_unexpected"),
    ],
)
def test_r55_what_a_peap_peer_may_not_say(answers: list[bytes], reason: str) -> None:
    """MSCHAPv2 and everything else that is not served: a failure inside, then Failure; the core is not asked."""
    left = [*answers, b"anything"]
    peer = Peer("peap", inside=lambda message: left.pop(0) if message else None)
    heard = talk(session("peap"), peer)
    assert heard.refused.reason == reason and heard.questions == []
    assert peer.seen[-1].endswith(bytes.fromhex("21800300020002"))


def test_whole_inner_packets_are_taken_too() -> None:
    """Some peers keep the inner header that PEAPv0 leaves out."""
    left = [response(9, IDENTITY, b"alice"), response(9, GTC, b"pw"), bytes.fromhex("0201000b21800300020001")]
    peer = Peer("peap", inside=lambda message: left.pop(0) if message else None)
    assert talk(session("peap"), peer, core("pw")).granted.username == "alice"


@pytest.mark.parametrize("data", [b"\0", b""])
def test_peap_out_of_turn(data: bytes) -> None:
    """An acknowledgement or an empty packet where the peer should speak."""
    one, peer = session("peap"), Peer("peap", inside=inner_peap([b"alice", b"pw"]))
    packet = response(1, IDENTITY, b"alice")
    step = one.receive(packet, 0.0)
    while not peer.seen:
        assert isinstance(step, Send)
        packet = peer.answer(step.eap)
        if not peer.seen:
            step = one.receive(packet, 0.0)
    step = one.receive(response(packet[1], PEAP, data), 0.0)
    assert isinstance(step, Fail)


# -- the dialogue --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("type", [1, 2, 3, 4, 6, 26, 33, 0])
def test_every_stage_meets_every_type(stage: Stage, type: int) -> None:
    """The table of the dialogue: all that is not in it fails."""
    dialogue = Dialogue("", str)
    dialogue.asked = stage
    step = dialogue.receive(type, b"alice")
    legal: dict[tuple[Stage, int], object] = {
        (Stage.NAME, 1): Ask,
        (Stage.PASSWORD, 6): Decide,
        (Stage.MORE, 6): Decide,
    }
    assert isinstance(step, legal.get((stage, type), Failed))  # type: ignore[arg-type]


def test_methods_have_their_names() -> None:
    """Names in settings and types on the wire."""
    assert (ttls.Ttls.name, ttls.Ttls.type, peap.Peap.name, peap.Peap.type) == ("ttls", TTLS, "peap", PEAP)
