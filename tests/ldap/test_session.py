"""The connection: every rule as a conversation, every delivery, and every state against every input."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from outposts.ldap import filters as f
from outposts.ldap.ber import encode_integer, frame_end, sequence, tlv
from outposts.ldap.client_wire import decode_response, encode_request
from outposts.ldap.rfc import Extension, ResultCode, Tag
from outposts.ldap.session import RULES, TRANSITIONS, Event, Kind, Rule, Session, SessionLimits, State, kind_of
from outposts.ldap.wire import (
    AbandonRequest,
    BindRequest,
    ExtendedRequest,
    ExtendedResponse,
    Request,
    Response,
    Result,
    SearchRequest,
    Simple,
    UnbindRequest,
)

LIMITS = SessionLimits(
    max_message_size_anonymous=200, max_message_size=2000, max_nesting=5, max_operations=3, max_waiting=400
)


def search(message_id: int, value: bytes = b"a") -> SearchRequest:
    return SearchRequest(message_id, b"dc=io", 2, 0, 0, 0, False, f.Equality("cn", value))


def bind(message_id: int) -> BindRequest:
    return BindRequest(message_id, 3, b"cn=a", Simple(b"pw"))


def start_tls(message_id: int, value: bytes | None = None) -> ExtendedRequest:
    return ExtendedRequest(message_id, Extension.START_TLS, value)


UNKNOWN = sequence(encode_integer(77), tlv(0x7E, b""))


def say(session: Session[str], *messages: Request | bytes) -> list[Request]:
    """Deliver messages in one piece."""
    return session.receive(b"".join(item if isinstance(item, bytes) else encode_request(item) for item in messages))


def heard(session: Session[str]) -> list[Response]:
    """What the rules answered."""
    data = session.data_to_send()
    found = []
    position = 0
    while position < len(data):
        end = frame_end(data, position, 10_000)
        found.append(decode_response(data, position, end))
        position = end
    return found


def is_notice(message: Response, code: int = ResultCode.PROTOCOL_ERROR) -> bool:
    return isinstance(message, ExtendedResponse) and (message.message_id, message.oid, message.code) == (
        0,
        Extension.NOTICE_OF_DISCONNECTION,
        code,
    )


def bound(limits: SessionLimits = LIMITS) -> Session[str]:
    session: Session[str] = Session(limits)
    say(session, bind(1))
    session.bind_finished("alice")
    return session


def in_state(state: State) -> Session[str]:
    """A session brought into a state by messages."""
    session: Session[str] = Session(LIMITS)
    if state is State.BOUND:
        return bound()
    if state is State.BINDING:
        say(session, bind(1))
    elif state is State.TLS_STARTING:
        say(session, start_tls(1))
    elif state is State.CLOSED:
        say(session, UnbindRequest(1))
    assert session.state is state
    return session


MESSAGES: dict[Kind, Request | bytes] = {
    Kind.BIND: bind(50),
    Kind.UNBIND: UnbindRequest(50),
    Kind.ABANDON: AbandonRequest(50, 49),
    Kind.START_TLS: start_tls(50),
    Kind.OPERATION: search(50),
    Kind.UNKNOWN: UNKNOWN,
}

AFTER: dict[Rule, State | None] = {
    Rule.BIND: State.BINDING,
    Rule.END: State.CLOSED,
    Rule.ABANDON: None,
    Rule.START_TLS: State.TLS_STARTING,
    Rule.START: None,
    Rule.DISCONNECT: State.CLOSED,
    Rule.WAIT: None,
    Rule.IGNORE: None,
}


def test_tables_are_complete() -> None:
    """Every state has a rule for every kind of message, and every state can be closed."""
    assert set(RULES) == {(state, kind) for state in State for kind in Kind}
    assert all(TRANSITIONS[state, Event.CLOSED] is State.CLOSED for state in State)
    assert not any(state is State.CLOSED and target is not State.CLOSED for (state, _), target in TRANSITIONS.items())


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("kind", Kind)
def test_every_state_meets_every_message(state: State, kind: Kind) -> None:
    """The session does what the table says: next state, hand over or not, notice or not."""
    session = in_state(state)
    session.data_to_send()
    message = MESSAGES[kind]
    rule_ = RULES[state, kind]
    handed = say(session, message)
    assert session.state is (AFTER[rule_] or state)
    hands_over = rule_ in (Rule.BIND, Rule.END, Rule.START_TLS, Rule.START)
    assert handed == ([message] if hands_over else [])
    assert [is_notice(answer) for answer in heard(session)] == ([True] if rule_ is Rule.DISCONNECT else [])


def test_kinds() -> None:
    """StartTLS is told from other extended requests."""
    assert kind_of(start_tls(1)) is Kind.START_TLS
    assert kind_of(ExtendedRequest(1, Extension.WHO_AM_I)) is Kind.OPERATION


# --- delivery ---------------------------------------------------------------------------------------------------------

CONVERSATIONS: list[list[Request]] = [
    [search(1), search(2, b"x" * 50)],
    [search(1), AbandonRequest(2, 1), search(3), UnbindRequest(4)],
    [ExtendedRequest(1, Extension.WHO_AM_I)],
    [search(1), bind(2)],
]


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@given(data=st.data())
@settings(max_examples=20)
def test_delivery_does_not_matter(conversation: list[Request], data: st.DataObject) -> None:
    """Whole, octet by octet, or cut anywhere: the same requests in the same order."""
    octets = b"".join(encode_request(message) for message in conversation)
    whole = Session[str](LIMITS).receive(octets)
    single: Session[str] = Session(LIMITS)
    assert [message for octet in octets for message in single.receive(bytes((octet,)))] == whole
    cuts = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=5)))
    pieces: Session[str] = Session(LIMITS)
    got = []
    for begin, end in zip([0, *cuts], [*cuts, len(octets)], strict=True):
        got += pieces.receive(octets[begin:end])
    assert got == whole
    assert pieces.state is single.state


def test_trailing_octets_wait_for_their_rest() -> None:
    """The beginning of the next message stays."""
    session: Session[str] = Session(LIMITS)
    second = encode_request(search(2))
    assert say(session, search(1), second[:7]) == [search(1)]
    assert say(session, second[7:]) == [search(2)]


# --- bind -------------------------------------------------------------------------------------------------------------


def test_requests_behind_a_bind_wait() -> None:
    """RFC 4511 §4.2.1: nothing is served while a bind runs; afterwards all of it, in order."""
    session: Session[str] = Session(LIMITS)
    assert say(session, bind(1), search(2)) == [bind(1)]
    assert say(session, search(3)) == []
    assert session.bind_finished("alice") == [search(2), search(3)]
    assert (session.state, session.identity) == (State.BOUND, "alice")


def test_a_waiting_bind_is_served_alone_again() -> None:
    """Two binds in one piece: the second starts when the first is answered, the search after both."""
    session: Session[str] = Session(LIMITS)
    assert say(session, bind(1), bind(2), search(3)) == [bind(1)]
    assert session.bind_finished("alice") == [bind(2)]
    assert session.identity is None
    assert session.bind_finished(None) == [search(3)]


def test_failed_bind_leaves_the_connection_anonymous() -> None:
    """RFC 4513 §4: neither during nor after a failed bind does the old identity count."""
    session = bound()
    say(session, bind(2))
    assert session.identity is None
    session.bind_finished(None)
    assert (session.state, session.identity) == (State.UNBOUND, None)


def test_a_bind_gives_up_operations() -> None:
    """What is in progress is announced as abandoned, and its answers are not sent any more."""
    session = bound()
    say(session, search(2), search(3))
    assert say(session, bind(4)) == [AbandonRequest(4, 2), AbandonRequest(4, 3), bind(4)]
    assert not session.finish(2)


def test_a_bind_answered_after_the_end_binds_nobody() -> None:
    """The connection went away while the bind ran."""
    session: Session[str] = Session(LIMITS)
    say(session, bind(1))
    session.connection_lost()
    assert session.bind_finished("alice") == []
    assert (session.closed, session.identity) == (True, None)


def test_bind_finished_without_a_bind_binds_nobody() -> None:
    """Only a bind in progress can end with an identity."""
    session: Session[str] = Session(LIMITS)
    assert session.bind_finished("alice") == []
    assert (session.state, session.identity) == (State.UNBOUND, None)


def test_waiting_octets_are_bounded() -> None:
    """First the transport is to pause, then the connection ends with busy."""
    session: Session[str] = Session(LIMITS)
    say(session, bind(1))
    assert session.wants_data
    session.receive(bytes(LIMITS.max_waiting + 1))
    assert not session.wants_data
    assert not session.closed
    session.receive(bytes(LIMITS.max_waiting))
    assert session.closed
    assert [is_notice(answer, ResultCode.BUSY) for answer in heard(session)] == [True]


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_size_cap_before_and_after_bind() -> None:
    """The larger cap needs an identity, and goes with it."""
    large = search(9, b"x" * 500)
    session: Session[str] = Session(LIMITS)
    assert say(session, large) == []
    assert session.closed
    session = bound()
    assert say(session, large) == [large]
    session.finish(9)
    say(session, bind(2))
    session.bind_finished(None)
    assert say(session, large) == []
    assert session.closed


def test_cap_of_a_message_behind_a_bind() -> None:
    """It is the answer of the bind that decides about what is already there."""
    large = search(9, b"x" * 300)
    session: Session[str] = Session(LIMITS)
    say(session, bind(1), large)
    assert session.bind_finished("alice") == [large]
    session = Session(LIMITS)
    say(session, bind(1), large)
    assert session.bind_finished(None) == []
    assert session.closed


def test_a_huge_length_ends_the_connection_at_once() -> None:
    """Ten octets suffice; nothing is buffered."""
    session: Session[str] = Session(LIMITS)
    assert say(session, bytes.fromhex("3088ffffffffffffffff")) == []
    assert session.closed
    assert not session._pending


# --- message ids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", [search(1), search(0), bind(1), start_tls(1)])
def test_ids_in_use_and_zero_end_the_connection(second: Request) -> None:
    """RFC 4511 §4.1.1.1."""
    session: Session[str] = Session(LIMITS)
    assert say(session, search(1), second) == [search(1)]
    assert session.closed
    assert [is_notice(answer) for answer in heard(session)] == [True]


def test_an_id_is_free_again_after_its_answer() -> None:
    """Clients may wrap around."""
    session: Session[str] = Session(LIMITS)
    say(session, search(1))
    assert session.finish(1)
    assert say(session, search(1)) == [search(1)]


def test_too_many_operations_are_refused_busy() -> None:
    """The connection stays, abandoning helps."""
    session: Session[str] = Session(LIMITS)
    assert say(session, search(1), search(2), search(3), search(4)) == [search(1), search(2), search(3)]
    assert heard(session) == [Result(4, Tag.SEARCH_DONE, ResultCode.BUSY, diagnostic="too many requests in progress")]
    assert say(session, AbandonRequest(5, 1), search(6)) == [AbandonRequest(5, 1), search(6)]


# --- abandon, unbind --------------------------------------------------------------------------------------------------


def test_abandon() -> None:
    """An operation in progress is given up and not answered; an idle id is ignored (spec row 81)."""
    session: Session[str] = Session(LIMITS)
    assert say(session, search(1), AbandonRequest(2, 1)) == [search(1), AbandonRequest(2, 1)]
    assert not session.in_progress(1)
    assert not session.finish(1)
    assert say(session, AbandonRequest(3, 1), AbandonRequest(4, 99), search(5)) == [search(5)]
    assert heard(session) == []


def test_nothing_is_served_behind_an_unbind() -> None:
    """RFC 4511 §4.3; the identity stays readable so that its core session can be ended."""
    session = bound()
    assert say(session, UnbindRequest(2), search(3)) == [UnbindRequest(2)]
    assert session.closed
    assert session.identity == "alice"
    assert session.receive(b"x") == []
    assert session.data_to_send() == b""


# --- StartTLS ---------------------------------------------------------------------------------------------------------


def tls_refusal(session: Session[str]) -> list[tuple[int, int, str | None]]:
    return [
        (answer.message_id, answer.code, answer.oid)
        for answer in heard(session)
        if isinstance(answer, ExtendedResponse)
    ]


def test_start_tls() -> None:
    """Accepted once: the response in clear, then the connection is secure and goes on."""
    session: Session[str] = Session(LIMITS)
    assert say(session, start_tls(1)) == [start_tls(1)]
    answer = decode_response(session.start_tls())
    assert answer == ExtendedResponse(1, ResultCode.SUCCESS, oid=Extension.START_TLS)
    assert session.secure
    assert session.start_tls() == b""
    assert say(session, search(2)) == [search(2)]
    session.finish(2)
    assert say(session, start_tls(3)) == []
    assert tls_refusal(session) == [(3, ResultCode.OPERATIONS_ERROR, Extension.START_TLS)]
    assert not session.closed


def test_start_tls_keeps_the_identity() -> None:
    """Spec row 33's other half: a bound connection stays bound."""
    session = bound()
    say(session, start_tls(2))
    session.start_tls()
    assert (session.state, session.identity) == (State.BOUND, "alice")


def test_refused_start_tls_goes_on_in_clear() -> None:
    """The server may say no."""
    session: Session[str] = Session(LIMITS)
    say(session, start_tls(1))
    answer = decode_response(session.refuse_tls(ResultCode.UNAVAILABLE, "no"))
    assert answer == ExtendedResponse(1, ResultCode.UNAVAILABLE, diagnostic="no", oid=Extension.START_TLS)
    assert (session.state, session.secure) == (State.UNBOUND, False)
    assert session.refuse_tls(ResultCode.UNAVAILABLE) == b""


@pytest.mark.parametrize(
    ("before", "request_", "code"),
    [([search(1)], start_tls(2), ResultCode.OPERATIONS_ERROR), ([], start_tls(2, b""), ResultCode.PROTOCOL_ERROR)],
)
def test_start_tls_refusals(before: list[Request], request_: Request, code: int) -> None:
    """RFC 4511 §4.14: not with requests in progress, not with a value."""
    session: Session[str] = Session(LIMITS)
    assert say(session, *before, request_) == before
    assert tls_refusal(session) == [(2, code, Extension.START_TLS)]
    assert not session.closed


def test_start_tls_on_an_encrypted_connection() -> None:
    """Spec row 34: 1, open."""
    session: Session[str] = Session(LIMITS, secure=True)
    assert say(session, start_tls(1)) == []
    assert tls_refusal(session) == [(1, ResultCode.OPERATIONS_ERROR, Extension.START_TLS)]
    assert not session.closed


@pytest.mark.parametrize("trailer", [b"\x30", encode_request(bind(2)), b"\x16\x03\x01"])
@pytest.mark.parametrize("split", [True, False])
def test_clear_octets_behind_start_tls_end_the_connection(trailer: bytes, split: bool) -> None:
    """Somebody in between must not be able to speak before the handshake."""
    session: Session[str] = Session(LIMITS)
    if split:
        say(session, start_tls(1))
        assert session.receive(trailer) == []
    else:
        assert say(session, search(3), AbandonRequest(4, 3), start_tls(1), trailer) == [
            search(3),
            AbandonRequest(4, 3),
        ]
    assert session.closed
    assert session.start_tls() == b""
    assert not session.secure


# --- broken messages --------------------------------------------------------------------------------------------------


def test_a_wrong_value_is_answered_and_the_connection_stays() -> None:
    """RFC 4511 §4.1.1, last paragraph."""
    session: Session[str] = Session(LIMITS)
    odd = SearchRequest(7, b"", 9, 0, 0, 0, False, f.Present("cn"))
    assert say(session, odd, search(8)) == [search(8)]
    assert [(answer.message_id, getattr(answer, "code", None)) for answer in heard(session)] == [(7, 2)]


def test_a_wrong_value_under_an_id_in_use_ends_the_connection() -> None:
    """A final response for an id that still has another request would be ambiguous."""
    session: Session[str] = Session(LIMITS)
    say(session, search(7), SearchRequest(7, b"", 9, 0, 0, 0, False, f.Present("cn")))
    assert session.closed
    assert [is_notice(answer) for answer in heard(session)] == [True]


def test_too_deep_filter_is_answered() -> None:
    """The session's own nesting cap applies."""
    session: Session[str] = Session(LIMITS)
    tree: f.Filter = f.Present("a")
    for _ in range(LIMITS.max_nesting + 1):
        tree = f.Not(tree)
    say(session, SearchRequest(1, b"", 0, 0, 0, 0, False, tree))
    assert [(answer.message_id, getattr(answer, "code", None)) for answer in heard(session)] == [(1, 2)]
    assert not session.closed


def test_a_broken_encoding_ends_the_connection() -> None:
    """Earlier messages of the same piece are still served, later ones not."""
    session: Session[str] = Session(LIMITS)
    broken = sequence(encode_integer(9), tlv(0x63, bytes.fromhex("04000a01000a0100020100020100010100870161")))
    assert say(session, search(1), broken, search(2)) == [search(1)]
    answers = heard(session)
    assert answers[0].message_id == 9
    assert is_notice(answers[1])
    assert session.closed


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x30\x00", bytes.fromhex("30020205"), b"\x16\x03\x01"])
def test_garbage_ends_the_connection(data: bytes) -> None:
    """Spec rows 75 and 76."""
    session: Session[str] = Session(LIMITS)
    assert session.receive(data) == []
    assert session.closed


def test_disconnect_says_so_once() -> None:
    """Idle time-outs, ended sessions, shut-down."""
    session = bound()
    session.disconnect(ResultCode.UNAVAILABLE, "shutting down")
    session.disconnect(ResultCode.UNAVAILABLE, "shutting down")
    assert [is_notice(answer, ResultCode.UNAVAILABLE) for answer in heard(session)] == [True]


# --- any order of anything --------------------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Messages, noise, cuts and the server's calls in any order, against the promises that must always hold."""

    def __init__(self) -> None:
        super().__init__()
        self.session: Session[str] = Session(LIMITS)
        self.binding = False
        self.may_be_bound = False
        self.was_closed = False

    def take(self, handed: list[Request]) -> None:
        assert not (self.was_closed and handed)
        for index, message in enumerate(handed):
            if isinstance(message, BindRequest):
                assert index == len(handed) - 1
                self.binding = True
                self.may_be_bound = False

    @rule(kinds=st.lists(st.sampled_from(Kind), min_size=1, max_size=4), ids=st.lists(st.integers(0, 6), min_size=4))
    def messages(self, kinds: list[Kind], ids: list[int]) -> None:
        made: list[Request | bytes] = []
        for kind, number in zip(kinds, ids, strict=False):
            made.append(
                {
                    Kind.BIND: bind(number),
                    Kind.UNBIND: UnbindRequest(number),
                    Kind.ABANDON: AbandonRequest(number, ids[0]),
                    Kind.START_TLS: start_tls(number),
                    Kind.OPERATION: search(number),
                    Kind.UNKNOWN: UNKNOWN,
                }[kind]
            )
        assert not self.binding or self.session.state in (State.BINDING, State.CLOSED)
        handed = say(self.session, *made)
        assert not (self.binding and handed)
        self.take(handed)

    @rule(data=st.binary(max_size=30))
    def noise(self, data: bytes) -> None:
        self.take(self.session.receive(data))

    @rule(identity=st.sampled_from(["alice", None]))
    def bind_finished(self, identity: str | None) -> None:
        was_binding = self.session.state is State.BINDING
        self.binding = False
        self.may_be_bound = was_binding and identity is not None
        self.take(self.session.bind_finished(identity))
        if not was_binding:
            self.may_be_bound = self.session.identity is not None

    @rule(number=st.integers(0, 6))
    def finish(self, number: int) -> None:
        known = number in self.session.operations
        assert self.session.finish(number) is known

    @rule()
    def start_tls(self) -> None:
        waiting = self.session.state is State.TLS_STARTING
        assert bool(self.session.start_tls()) is waiting

    @rule()
    def lose(self) -> None:
        self.session.connection_lost()

    @invariant()
    def promises(self) -> None:
        session = self.session
        if session.state is State.BOUND:
            assert session.identity is not None
        if session.state in (State.UNBOUND, State.BINDING):
            assert session.identity is None
        if session.state in (State.BINDING, State.CLOSED, State.TLS_STARTING):
            assert not session.operations
        if session.state is State.CLOSED:
            assert not session._pending
        else:
            assert not self.was_closed
        assert len(session.operations) <= LIMITS.max_operations
        assert session.identity is None or self.may_be_bound
        self.was_closed = session.closed


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=20, deadline=None)
