"""The EAP session: every state against every input, identifiers, limits, and who is offered what."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from OpenSSL import SSL

from outposts.radius.eap.contexts import TlsOptions
from outposts.radius.eap.session import (
    MAX_DURATION_S,
    MAX_ROUND_TRIPS,
    EapSession,
    EapSettings,
    Input,
    State,
)
from outposts.radius.eap.steps import (
    Asked,
    Decide,
    Fail,
    Granted,
    Ignore,
    PasswordLogin,
    Refused,
    Send,
    Step,
    Succeed,
)
from tests.radius.eap_peer import (
    ALICE,
    CLIENTS,
    IDENTITY,
    NAK,
    PEAP,
    TLS,
    TTLS,
    Peer,
    inner_peap,
    pap,
    response,
    settings_for,
    talk,
    zeros,
)

ALL = settings_for("tls", "ttls", "peap", options=TlsOptions(client_ca_pem=CLIENTS.pem))
NOTHING = EapSettings((), None)


def fresh(settings: EapSettings = ALL) -> EapSession:
    """A session that has heard nothing."""
    return EapSession(settings, zeros)


def _identity() -> EapSession:
    session = fresh()
    assert isinstance(session.receive(b"", 0.0), Send)
    return session


def _offered() -> EapSession:
    session = fresh()
    assert isinstance(session.receive(response(0, IDENTITY, b"alice"), 0.0), Send)
    return session


def _deciding() -> tuple[EapSession, Peer]:
    session = fresh(settings_for("ttls"))
    peer = Peer("ttls", inside=lambda message: pap(b"alice", b"pw"))
    packet = response(7, IDENTITY, b"alice")
    while not isinstance(step := session.receive(packet, 0.0), Decide):
        assert isinstance(step, Send)
        packet = peer.answer(step.eap)
    return session, peer


def _method() -> EapSession:
    session = _offered()
    peer = Peer(certificate=ALICE)
    step = session.receive(peer.answer(session.last_request), 0.0)
    assert isinstance(step, Send)
    return session


def _ended() -> EapSession:
    session = fresh(NOTHING)
    assert isinstance(session.receive(response(0, IDENTITY, b"alice"), 0.0), Fail)
    return session


STATES: dict[State, Callable[[], EapSession]] = {
    State.FRESH: fresh,
    State.IDENTITY: _identity,
    State.OFFERED: _offered,
    State.METHOD: _method,
    State.DECIDING: lambda: _deciding()[0],
    State.ENDED: _ended,
}
PACKETS: dict[Input, tuple[int, bytes]] = {
    Input.IDENTITY: (IDENTITY, b"alice"),
    Input.NAK: (NAK, bytes((TTLS,))),
    Input.NOTIFICATION: (2, b""),
    Input.METHOD: (TLS, b""),  # the method is asked, and fails: it has to have flags
    Input.OTHER: (26, b"xyz"),
}
F, N, S = Fail, Ignore, Send
EXPECTED: dict[State, dict[Input, type[Step]]] = {
    State.FRESH: dict(zip(Input, (S, S, F, N, F, F), strict=True)),
    State.IDENTITY: dict(zip(Input, (N, S, F, N, F, F), strict=True)),
    State.OFFERED: dict(zip(Input, (N, N, S, N, F, N), strict=True)),
    State.METHOD: dict(zip(Input, (N, N, N, N, F, N), strict=True)),
    State.DECIDING: dict.fromkeys(Input, N),
    State.ENDED: dict.fromkeys(Input, N),
}


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("kind", list(Input))
def test_every_state_meets_every_input(state: State, kind: Input) -> None:
    """The table: what is answered, and that nothing ever succeeds out of order or raises."""
    session = STATES[state]()
    assert session.state is state
    last = session.last_request
    identifier = last[1] if last else 0
    packet = b"" if kind is Input.START else response(identifier, *PACKETS[kind])
    step = session.receive(packet, 1.0)
    assert type(step) is EXPECTED[state][kind], step
    if isinstance(step, Ignore):
        assert session.state is state and session.last_request == last
    if isinstance(step, Fail):
        assert step.eap == bytes((4, identifier, 0, 4)) and session.state is State.ENDED


@pytest.mark.parametrize("state", list(State))
def test_a_decision_nobody_asked_for(state: State) -> None:
    """Granted out of the blue is a failure in every state but the one that waits for it."""
    session = STATES[state]()
    step = session.decided(Granted())
    assert isinstance(step, Succeed if state is State.DECIDING else Fail)
    assert session.state is State.ENDED
    assert isinstance(session.decided(Granted()), Fail)


@pytest.mark.parametrize("octets", [b"\2", b"\2\1", b"\2\1\0", b"\2\1\0\4", b"\1\1\0\5\1", b"\2\1\0\x09\1abc"])
@pytest.mark.parametrize("state", list(State))
def test_r44_malformed_packets_change_nothing(state: State, octets: bytes) -> None:
    """A broken packet is ignored in every state."""
    session = STATES[state]()
    before = session.last_request
    assert isinstance(session.receive(octets, 1.0), Ignore)
    assert session.state is state and session.last_request == before


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"a\0b", b"x" * 254])
def test_r44_identities_that_are_no_names(data: bytes) -> None:
    """An empty identity is allowed outside; octets that are no text are not."""
    step = fresh().receive(response(1, IDENTITY, data), 0.0)
    if data:
        assert isinstance(step, Fail) and step.reason == "malformed_identity"
    else:
        assert isinstance(step, Send)


def test_vector_identity_gets_a_tls_start() -> None:
    """``0201000a01616c696365`` → ``010200060d20``."""
    step = fresh().receive(bytes.fromhex("0201000a01616c696365"), 0.0)
    assert step == Send(bytes.fromhex("010200060d20"))


def test_r46_eap_start_asks_for_the_identity() -> None:
    """An empty EAP-Message gets Request/Identity, whose identifier is the chance that was given."""
    session = EapSession(ALL, lambda size: b"\x2a" * size)
    assert session.receive(b"", 0.0) == Send(b"\1\x2a\0\5\1")
    assert session.receive(response(0x2A, IDENTITY, b"alice"), 0.0) == Send(bytes((1, 0x2B, 0, 6, TLS, 0x20)))
    assert session.identity == "alice" and session.method == "tls"


def test_r47_no_certificate() -> None:
    """Without a server certificate an Identity gets Failure with its own identifier."""
    step = fresh(EapSettings(("tls", "ttls"), None)).receive(response(9, IDENTITY, b"alice"), 0.0)
    assert step == Fail(b"\4\x09\0\4", "eap_no_certificate")


def test_no_method_that_can_be_offered() -> None:
    """EAP-TLS alone, issuers required, none configured: nothing is offered."""
    settings = EapSettings(("tls",), settings_for("tls").tls, require_client_ca=True)
    step = fresh(settings).receive(response(9, IDENTITY, b"alice"), 0.0)
    assert step == Fail(b"\4\x09\0\4", "eap_no_method")
    assert settings.offered() == ()


def test_methods_are_offered_in_order() -> None:
    """Settings say the order; unknown names are left out."""
    settings = EapSettings(("peap", "leap", "tls"), ALL.tls)
    assert settings.offered() == (PEAP, TLS)
    step = fresh(settings).receive(response(1, IDENTITY, b"alice"), 0.0)
    assert step == Send(bytes((1, 2, 0, 6, PEAP, 0x20)))


def test_r55_nak_for_ttls() -> None:
    """The peer's wish is offered next, with the next identifier."""
    session = _offered()
    assert session.receive(response(1, NAK, bytes((TTLS,))), 0.0) == Send(bytes((1, 2, 0, 6, TTLS, 0x20)))
    assert session.method == "ttls"


@pytest.mark.parametrize("wishes", [b"\x1a", b"\0", b"", b"\x1a\x04\x06", bytes((TLS,))])
def test_r55_nak_for_what_we_do_not_have(wishes: bytes) -> None:
    """MSCHAPv2, none at all, or the very method that was refused: Failure."""
    step = _offered().receive(response(1, NAK, wishes), 0.0)
    assert isinstance(step, Fail) and step.reason == "eap_no_common_method" and step.eap == b"\4\1\0\4"


def test_nak_takes_the_first_wish_that_we_have() -> None:
    """MSCHAPv2 first, PEAP second: PEAP."""
    step = _offered().receive(response(1, NAK, bytes((26, PEAP, TTLS))), 0.0)
    assert step == Send(bytes((1, 2, 0, 6, PEAP, 0x20)))


def test_each_method_is_offered_once() -> None:
    """A peer that refuses everything in turn gets Failure, not a circle."""
    session = _offered()
    assert isinstance(session.receive(response(1, NAK, bytes((TTLS,))), 0.0), Send)
    assert isinstance(session.receive(response(2, NAK, bytes((PEAP,))), 0.0), Send)
    step = session.receive(response(3, NAK, bytes((TTLS, TLS))), 0.0)
    assert isinstance(step, Fail) and step.reason == "eap_no_common_method"


@pytest.mark.parametrize("type", [NAK, TLS, TTLS, 26])
def test_r56_out_of_order_first_messages(type: int) -> None:
    """A Nak or a method's response before anything else: Failure, no crash."""
    step = fresh().receive(response(3, type, b"\x15"), 0.0)
    assert isinstance(step, Fail) and step.reason == "eap_out_of_order" and step.eap == b"\4\3\0\4"


@pytest.mark.parametrize("state", [State.IDENTITY, State.OFFERED, State.METHOD])
def test_another_identifier_is_ignored(state: State) -> None:
    """A response to an older or a future request is dropped."""
    session = STATES[state]()
    identifier = session.last_request[1]
    for other in (identifier - 1, identifier + 1):
        step = session.receive(response(other % 256, IDENTITY, b"alice"), 0.0)
        assert step == Ignore("eap_identifier")


def test_identifiers_wrap_around() -> None:
    """After 255 comes 0."""
    session = fresh()
    assert session.receive(response(255, IDENTITY, b"alice"), 0.0) == Send(bytes((1, 0, 0, 6, TLS, 0x20)))


def test_the_time_limit() -> None:
    """What comes after a minute ends the session."""
    session = _offered()
    assert isinstance(session.receive(response(1, TLS, b"\x40abc"), MAX_DURATION_S), Send)
    step = session.receive(response(2, TLS, b"\x40abc"), MAX_DURATION_S + 0.1)
    assert step == Fail(b"\4\2\0\4", "eap_expired")


def test_the_round_trip_limit() -> None:
    """A peer that sends one octet after the other is stopped after fifty requests."""
    session = _offered()
    sent = 1
    while isinstance(step := session.receive(response(session.last_request[1], TLS, b"\x40a"), 0.0), Send):
        sent += 1
    assert sent == MAX_ROUND_TRIPS and isinstance(step, Fail) and step.reason == "eap_round_trips"


def test_an_abandoned_session_holds_nothing() -> None:
    """A session that its driver gave up is over."""
    session, _ = _deciding()
    session.abandon()
    assert session.state is State.ENDED and session.last_request == b""
    assert isinstance(session.decided(Granted()), Fail)


def test_a_question_where_none_can_be_put() -> None:
    """PAP inside TTLS cannot ask for a code."""
    session, _ = _deciding()
    step = session.decided(Asked("Code: "))
    assert isinstance(step, Fail) and step.reason == "mfa_required"


def test_a_refusal_is_told_by_its_reason() -> None:
    """The driver's label is the failure's."""
    session, _ = _deciding()
    step = session.decided(Refused("access_denied"))
    assert isinstance(step, Fail) and step.reason == "access_denied"
    assert session.state is State.ENDED


def test_what_is_work_for_a_thread() -> None:
    """Whole flights are; starts, fragments, acknowledgements and rubbish are not."""
    session = _offered()
    assert session.works_on(response(1, TLS, b"\0\x16\3\1"))
    assert session.works_on(response(1, TLS, b"\x80\0\0\0\3\x16\3\1"))
    for octets in (b"", b"\2", response(1, TLS, b"\0"), response(1, TLS, b"\x40abc"), response(1, NAK, b"\x15"),
                   response(1, TLS, b"\x80\0"), response(1, TTLS, b"\0abc"), b"\2\1\0\5\x0d"):  # fmt: skip
        assert not session.works_on(octets)
    assert not fresh().works_on(response(1, TLS, b"\0abc"))
    deciding, _ = _deciding()
    assert not deciding.works_on(response(1, TTLS, b"\0abc"))


def test_nothing_secret_is_shown() -> None:
    """Steps and questions can be logged whole."""
    question = PasswordLogin("alice", "hunter2", True, "anon")
    success = Succeed(b"\3\1\0\4", b"KEYKEYKEY", b"id", "alice", "tls")
    assert "hunter2" not in repr(question) and "KEYKEYKEY" not in repr(success)
    assert "hunter2" not in repr(Send(b"hunter2"))


@pytest.mark.parametrize("name", ["ttls", "peap"])
def test_realms_are_stripped_where_wanted(name: str) -> None:
    """The flow gets the name without its realm; the identity for logs stays as it was."""
    settings = EapSettings((name,), settings_for(name).tls, strip_realm=True)
    inside = inner_peap([b"EXAMPLE\\alice", b"pw"])
    if name == "ttls":
        inside = lambda message: None if message else pap(b"alice@example.org", b"pw")  # noqa: E731
    session = fresh(settings)
    heard = talk(session, Peer(name, identity=b"anon@example.org", inside=inside))
    assert heard.granted.username == "alice"
    question = heard.questions[0]
    assert isinstance(question, PasswordLogin)
    assert (question.username, question.outer_identity) == ("alice", "anon@example.org")


def test_sessions_share_contexts_between_threads() -> None:
    """Handshakes of one certificate in several threads at once do not disturb each other."""
    from concurrent.futures import ThreadPoolExecutor

    def login(number: int) -> bool:
        version = SSL.TLS1_3_VERSION if number % 2 else SSL.TLS1_2_VERSION
        good = number % 3 != 0
        peer = Peer(certificate=ALICE, version=version) if good else Peer(version=version)
        heard = talk(fresh(), peer)
        if good:
            return heard.granted.msk == peer.keys()
        return heard.refused.reason == "client_certificate_missing"

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(login, range(48)))
