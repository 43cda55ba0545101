"""Access-Requests with a password: what is decided without asking, every outcome of a login, what an Accept says.

Rows R06, R08, R10, R11, R14–R17, R35–R43 of spec §13, and a fault at every outward call.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest

from common import logs
from common.outcomes import CoreSession, Denied, Reason, Unavailable
from outposts.radius import refusals, wire
from outposts.radius.auth import DENIED_TEXT
from outposts.radius.request import Answer, Silence
from outposts.radius.rfc import VENDOR_MICROSOFT, Attribute, Code
from tests.radius.desks import (
    NAS,
    PASSWORD,
    SECRET,
    House,
    Standing,
    access_request,
    attributes_of,
    blob,
    passed,
    provider,
    request_of,
)
from tests.radius.packets import VECTORS

STRONG = "correct horse battery staple"


@pytest.fixture
def lines() -> Iterator[StringIO]:
    """Everything that is logged, at the finest level."""
    stream = StringIO()
    before = logs.level_name()
    logs.configure("trace", stream=stream)
    yield stream
    logs.configure(before)


async def outcome_of(house: House, octets: bytes, nas: str = NAS) -> Answer | Silence:
    """What the authenticator says about a packet."""
    return await house.authenticator.answer(request_of(octets, house.intake.providers.all[0], nas, house.clock()))


# --- without asking ---

MS_CHAP = wire.vsa(VENDOR_MICROSOFT, 1, bytes(50))
MS_CHAP2 = wire.vsa(VENDOR_MICROSOFT, 25, bytes(50))
HIDDEN = int(Attribute.USER_PASSWORD)


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (access_request((HIDDEN, bytes(15)), password=None), "malformed_password"),  # R35
        (access_request((HIDDEN, bytes(17)), password=None), "malformed_password"),
        (access_request((HIDDEN, bytes(144)), password=None), "malformed_password"),
        (access_request((HIDDEN, b""), password=None), "malformed_password"),
        (access_request((HIDDEN, b"\xff" * 16), password=None), "undecodable_password"),  # R36
        (access_request(password=b"\xff\xfe"), "undecodable_password"),
        (access_request((Attribute.CHAP_PASSWORD, bytes(17)), password=None), "unsupported_auth"),  # R37
        (access_request((Attribute.CHAP_PASSWORD, bytes(17))), "unsupported_auth"),
        (access_request(MS_CHAP, password=None), "unsupported_auth"),
        (access_request(MS_CHAP2, password=None), "unsupported_auth"),
        (access_request(user=None), "no_user_name"),  # R38
        (access_request(user=b""), "no_user_name"),
        (access_request(user=b"  "), "no_user_name"),
        (access_request(user=b"\xff\xfe"), "malformed_user_name"),
        (access_request(password=None), "no_password"),
        (access_request(password=b""), "empty_password"),
        (access_request(password=b"\0secret"), "empty_password"),
    ],
)
async def test_what_needs_no_flow_is_refused_without_one(octets: bytes, reason: str) -> None:
    """R35 to R38: an Access-Reject at once, and the core is not asked."""
    house = House()
    decided = house.authenticator.decide(request_of(octets, house.intake.providers.all[0]))
    assert isinstance(decided, Answer)
    assert (decided.code, decided.reason) == (Code.ACCESS_REJECT, reason)
    assert not house.core.logins


async def test_r36_another_secret_is_hinted_at(lines: StringIO) -> None:
    """The operator is told what it probably is."""
    house = House()
    await house.ask(access_request((HIDDEN, b"\xff" * 16), password=None))
    await asyncio.sleep(0)
    assert "shared secret" in lines.getvalue()


async def test_passwords_are_refused_where_only_certificates_count() -> None:
    """``eap_require_ca`` with issuers: before any flow (spec §12.5)."""
    house = House(provider(client_ca="PEM", eap_require_ca=True))
    assert (await outcome_of(house, access_request())).reason == "certificate_required"
    assert not house.core.logins
    assert (await outcome_of(House(provider(eap_require_ca=True)), access_request())).reason == ""
    assert (await outcome_of(House(provider(client_ca="PEM")), access_request())).reason == ""


# --- what the core is asked ---


async def test_r01_a_login_is_run_for_the_vector() -> None:
    """Name, password, NAS address; Accept with nothing but its signature."""
    house = House(provider(mfa_support=False))
    packet = await house.ask(VECTORS["ours-pap-request"])
    assert packet is not None and packet.code == Code.ACCESS_ACCEPT and packet.identifier == 7
    assert attributes_of(packet) == ()
    [(target, credentials, interactive)] = house.core.logins
    assert (credentials.username, credentials.password, credentials.client_ip) == ("alice", PASSWORD, NAS)
    assert (target.protocol, target.provider_pk, target.flow_slug) == ("radius", 1, "flow")
    assert (target.application_slug, target.mfa_support, interactive) == ("app-1", False, False)


async def test_r06_a_secret_with_other_letters() -> None:
    """UTF-8 octets of the secret are the key."""
    secret = "geheimnis-äöü-秘密".encode()
    house = House(provider(secret=secret))
    octets = access_request(secret=secret)
    house.give(octets)
    await house.settle()
    assert wire.verify_reply(house.line.replies[0][0], octets[4:20], secret).code == Code.ACCESS_ACCEPT


@pytest.mark.parametrize(
    ("setting", "station", "expected"),
    [
        ("nas", b"203.0.113.9", NAS),
        ("calling-station", b"203.0.113.9", "203.0.113.9"),
        ("calling-station", b" 2001:db8::9 ", "2001:db8::9"),
        ("calling-station", b"00-11-22-33-44-55", NAS),
        ("calling-station", b"\xff\xff", NAS),
        ("calling-station", None, NAS),
    ],
)
async def test_whose_address_the_core_is_told(setting: str, station: bytes | None, expected: str) -> None:
    """The NAS's, or the station's if it is an address (spec §5)."""
    house = House(provider(client_ip=setting))
    more = () if station is None else ((Attribute.CALLING_STATION_ID, station),)
    await outcome_of(house, access_request(*more))
    assert house.core.logins[0][1].client_ip == expected


@pytest.mark.parametrize(
    ("name", "strip", "expected"),
    [
        (b"alice@example.org", False, "alice@example.org"),
        (b"alice@example.org", True, "alice"),
        (b"EXAMPLE\\alice", True, "alice"),
        (b"alice", True, "alice"),
        ("älice".encode(), True, "älice"),
    ],
)
async def test_realms(name: bytes, strip: bool, expected: str) -> None:
    """Kept unless asked otherwise."""
    house = House(provider(strip_realm=strip))
    await outcome_of(house, access_request(user=name))
    assert house.core.logins[0][1].username == expected


async def test_a_name_that_is_nothing_but_a_realm() -> None:
    """No flow for an empty name."""
    house = House(provider(strip_realm=True))
    assert (await outcome_of(house, access_request(user=b"@example.org"))).reason == "no_user_name"
    assert not house.core.logins


async def test_an_empty_password_goes_on_where_something_else_may_be_asked() -> None:
    """A challenge asks for it, a push needs none."""
    for served in (provider(challenge=True), provider(allow_push_only=True)):
        house = House(served)
        await outcome_of(house, access_request(password=b""))
        assert house.core.logins[0][1].password == ""


# --- every outcome ---


@pytest.mark.parametrize("reason", [*Reason, refusals.THROTTLED, "a reason of tomorrow"])
async def test_every_denial_is_a_reject(reason: str) -> None:
    """R08, R10, R11, R16: with its label, and never anything else."""
    house = House()
    house.core.outcome = Denied(reason, "the core's words", "ak-stage-password")
    answer = await outcome_of(house, access_request())
    assert isinstance(answer, Answer)
    assert answer.code == Code.ACCESS_REJECT
    assert answer.reason == refusals.DENIED.get(reason, "flow_error")
    assert (answer.stage, answer.message) == ("ak-stage-password", "the core's words")
    assert answer.attributes == ()


@pytest.mark.parametrize("reason", [*Reason, "a reason of tomorrow"])
async def test_r12_what_nobody_could_tell_is_silence(reason: str) -> None:
    """Or a reject where the operator wants one; never an Accept."""
    house = House()
    house.core.outcome = Unavailable(reason, "no answer")
    silence = await outcome_of(house, access_request())
    assert isinstance(silence, Silence) and silence.reason == "core_error"
    assert silence.again == (reason in (Reason.CORE_UNAVAILABLE, Reason.STORE_UNAVAILABLE))
    house = House(provider(on_core_error="reject"))
    house.core.outcome = Unavailable(reason, "no answer")
    answer = await outcome_of(house, access_request())
    assert isinstance(answer, Answer)
    assert (answer.code, answer.reason) == (Code.ACCESS_REJECT, "core_error")


def test_every_reason_of_a_denial_has_its_row() -> None:
    """What ``common.outcomes`` can say about a refusal is in the table."""
    unavailable = {
        Reason.CORE_UNAVAILABLE,
        Reason.DEADLINE,
        Reason.CORE_REFUSED,
        Reason.FLOW_ERROR,
        Reason.NONSENSE,
        Reason.STORE_UNAVAILABLE,
        Reason.INTERNAL,
    }
    assert set(Reason) - unavailable == {reason for reason in Reason if reason in refusals.DENIED}


@pytest.mark.parametrize(
    "error", [RuntimeError("alice:wonderland"), TimeoutError(), ValueError(PASSWORD), KeyError(PASSWORD), OSError()]
)
async def test_an_exception_in_the_login_is_silence(error: Exception, lines: StringIO) -> None:
    """Never an Accept, and its text, which may quote a password, is nowhere."""
    house = House()
    house.core.outcome = error
    assert await house.ask(access_request()) is None
    assert house.observer.reason == "unexpected"
    assert PASSWORD not in lines.getvalue()


async def test_a_success_that_is_none_of_ours_is_no_success() -> None:
    """Something else than the three outcomes, from a login part gone wrong."""
    for wrong in (True, object(), {"passing": True}, None):
        house = House()

        async def begin(*_: Any, wrong: Any = wrong, **__: Any) -> Any:
            return wrong

        house.core.begin = begin  # type: ignore[method-assign]
        packet = await house.ask(access_request())
        assert packet is None or packet.code == Code.ACCESS_REJECT


@pytest.mark.parametrize(
    ("name", "password"),
    [("grant", STRONG), ("accept", STRONG), ("login", STRONG), ("_concluded", STRONG), ("_refuse", b"\xff\xff")],
)
async def test_a_fault_anywhere_is_silence(name: str, password: str | bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step on the way fails once."""
    house = House()

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(house.authenticator, name, fail)
    assert await house.ask(access_request(password=password)) is None
    assert house.observer.reason == "unexpected"


async def test_a_session_that_ended_during_its_login_lets_nobody_in() -> None:
    """SESSION_END may come before the Accept is made."""
    house = House()
    house.authenticator.session_ended("session-1")
    assert (await outcome_of(house, access_request())).reason == "session_ended"
    house.core.outcome = passed(session=CoreSession({}, "session-2", None, "radius"))
    assert (await outcome_of(house, access_request())).reason == ""


async def test_ended_sessions_are_not_remembered_for_ever() -> None:
    """Longer than a login takes is enough."""
    house = House()
    for number in range(12_000):
        house.authenticator.session_ended(str(number))
    assert len(house.authenticator._ended) == 10_000
    house.clock.advance(1000)
    house.authenticator.session_ended("last")
    assert len(house.authenticator._ended) == 1


# --- challenges ---


async def test_r16_a_question_without_challenge_is_a_reject() -> None:
    """It is not asked for, and a login that stands at one all the same is given up."""
    house = House()
    standing = Standing("Code:")
    house.core.outcome = standing
    answer = await outcome_of(house, access_request())
    assert answer.reason == "mfa_required" and standing.abandoned == 1
    assert house.core.logins[0][2] is False


async def test_r17_a_question_with_challenge() -> None:
    """State, Reply-Message, Prompt, Session-Timeout; the answer goes on with the login; Accept."""
    house = House(provider(challenge=True))
    standing = Standing("Code:", passed())
    house.core.outcome = standing
    challenge = await house.ask(access_request())
    assert challenge is not None and challenge.code == Code.ACCESS_CHALLENGE
    assert house.core.logins[0][2] is True
    state = challenge.first(Attribute.STATE)
    assert state is not None and challenge.first(Attribute.REPLY_MESSAGE) == b"Code:"
    accept = await house.ask(access_request((Attribute.STATE, state), password="123456"))
    assert accept is not None and accept.code == Code.ACCESS_ACCEPT
    assert accept.first(Attribute.STATE) is None
    assert standing.answers == ["123456"]
    assert len(house.core.logins) == 1


async def test_r18_further_questions_and_the_end() -> None:
    """Each round has a State of its own; a denial ends it."""
    house = House(provider(challenge=True))
    third = Standing("Wrong code, try again:", Denied(Reason.INVALID_CREDENTIALS))
    second = Standing("Wrong code, try again:", third)
    house.core.outcome = Standing("Code:", second)
    states = []
    packet = await house.ask(access_request())
    for _ in range(3):
        assert packet is not None and packet.code == Code.ACCESS_CHALLENGE
        states.append(packet.first(Attribute.STATE) or b"")
        packet = await house.ask(access_request((Attribute.STATE, states[-1]), password="000000"))
    assert packet is not None and packet.code == Code.ACCESS_REJECT
    assert packet.first(Attribute.STATE) is None
    assert len(set(states)) == 3
    assert house.observer.reason == "invalid_credentials"


@pytest.mark.parametrize("state", [b"", b"x", bytes(20), bytes(253)])
async def test_r19_an_unknown_state_is_a_reject_without_flow(state: bytes) -> None:
    """Also where no challenge was ever made."""
    for challenge in (False, True):
        house = House(provider(challenge=challenge))
        answer = await outcome_of(house, access_request((Attribute.STATE, state)))
        assert isinstance(answer, Answer)
        assert (answer.code, answer.reason) == (Code.ACCESS_REJECT, "challenge_expired")
        assert not house.core.logins


async def test_a_core_that_is_away_at_an_answer_is_silence_and_the_answer_is_used_up() -> None:
    """A copy of it must not be tried again."""
    house = House(provider(challenge=True))
    house.core.outcome = Standing("Code:", Unavailable(Reason.CORE_UNAVAILABLE))
    challenge = await house.ask(access_request())
    assert challenge is not None
    octets = access_request((Attribute.STATE, challenge.first(Attribute.STATE) or b""), password="123456")
    assert await house.ask(octets) is None
    assert await house.ask(octets) is None
    assert house.observer.copies == 1


# --- replies ---


async def test_r39_no_attributes_because_a_mapping_failed() -> None:
    """Accept without them, or a reject where the operator wants it."""
    house = House()
    house.core.outcome = passed(attributes=None)
    answer = await outcome_of(house, access_request())
    assert isinstance(answer, Answer) and answer.code == Code.ACCESS_ACCEPT and answer.attributes == ()
    house = House(provider(on_mapping_error="reject"))
    house.core.outcome = passed(attributes=None)
    assert (await outcome_of(house, access_request())).reason == "mapping_error"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("!!!", "attribute_decode_failed"),
        ("AQ", "attribute_decode_failed"),
        ("AQAA", "attribute_parse_failed"),
        ("", "attribute_parse_failed"),
        (blob((18, b"x" * 30))[:32], "attribute_parse_failed"),
    ],
)
async def test_r40_a_broken_blob_is_a_reject(text: str, reason: str) -> None:
    """Nobody is let in with half of the rights."""
    house = House()
    house.core.outcome = passed(attributes=text)
    assert (await outcome_of(house, access_request())).reason == reason


async def test_r41_r42_attributes_are_copied_in_order() -> None:
    """But for those that belong to the conversation."""
    vlan = ((64, bytes((0, 0, 0, 13))), (65, bytes((0, 0, 0, 6))), (81, b"20"))
    house = House()
    house.core.outcome = passed(
        attributes=blob((79, b"x"), (80, bytes(16)), (24, b"s"), (33, b"p"), (18, b"hi"), *vlan)
    )
    packet = await house.ask(access_request())
    assert packet is not None
    assert attributes_of(packet) == ((18, b"hi"), *vlan)


async def test_more_attributes_than_a_packet_holds_are_a_reject() -> None:
    """Never a part of them."""
    house = House()
    house.core.outcome = passed(attributes=blob(*[(18, bytes(200))] * 20))
    ok = await outcome_of(house, access_request())
    assert ok.reason == ""
    states = [(Attribute.PROXY_STATE, bytes(10))] * 5
    assert (await outcome_of(house, access_request(*states))).reason == "attributes_too_large"


async def test_class_user_name_and_vlan() -> None:
    """On request only; and whoever listens is told what was sent."""
    house = House()
    await outcome_of(house, access_request())
    assert house.accepted[0][2:] == (b"", "")
    house = House(provider(add_class=True, echo_user=True, vlan_by_group=(("staff", "20"), ("guests", "30"))))
    house.core.outcome = passed(username="Alice", groups=("guests", "staff"))
    answer = await outcome_of(house, access_request())
    assert isinstance(answer, Answer)
    found = dict(answer.attributes)
    assert found[Attribute.USER_NAME] == b"Alice" and len(found[Attribute.CLASS]) == 16
    assert found[Attribute.TUNNEL_PRIVATE_GROUP_ID] == b"20"
    request, session, class_, user_name = house.accepted[0]
    assert (class_, user_name) == (found[Attribute.CLASS], "Alice")
    assert session.session_id == "session-1" and request.client_ip == NAS
    assert house.core.logins[0][0].want_user
    again = await outcome_of(house, access_request())
    assert isinstance(again, Answer) and dict(again.attributes)[Attribute.CLASS] != class_


async def test_reply_message_in_rejects_on_request() -> None:
    """A neutral text that is the same for every reason."""
    for reason in (Reason.INVALID_CREDENTIALS, Reason.ACCESS_DENIED):
        house = House(provider(reply_message=True))
        house.core.outcome = Denied(reason, "the core's words")
        packet = await house.ask(access_request())
        assert packet is not None
        assert packet.first(Attribute.REPLY_MESSAGE) == DENIED_TEXT.encode()


async def test_r07_proxy_state_comes_back_in_order() -> None:
    """In Accept, Reject and Challenge."""
    for outcome in (passed(), Denied(Reason.INVALID_CREDENTIALS), Standing("Code:")):
        house = House(provider(challenge=True))
        house.core.outcome = outcome
        packet = await house.ask(access_request((Attribute.PROXY_STATE, b"a"), (Attribute.PROXY_STATE, b"b")))
        assert packet is not None and packet.all(Attribute.PROXY_STATE) == [b"a", b"b"]


# --- throttle ---


async def test_r08_failures_make_wait_and_a_success_forgets_them() -> None:
    """Per account and client; others are not concerned; nobody is asked meanwhile."""
    house = House()
    house.authenticator.gate.throttle.limits = type(house.authenticator.gate.throttle.limits)(per_pair=3)
    house.core.outcome = Denied(Reason.INVALID_CREDENTIALS)
    for _ in range(4):
        assert (await outcome_of(house, access_request())).reason == "invalid_credentials"
    assert (await outcome_of(house, access_request())).reason == "throttled"
    assert (await outcome_of(house, access_request(user=b"bob"))).reason == "invalid_credentials"
    assert (await outcome_of(house, access_request(), "192.0.2.2")).reason == "invalid_credentials"
    assert len(house.core.logins) == 6
    house.clock.advance(2)
    house.core.outcome = passed()
    assert (await outcome_of(house, access_request())).reason == ""
    house.core.outcome = Denied(Reason.INVALID_CREDENTIALS)
    for _ in range(3):
        assert (await outcome_of(house, access_request())).reason == "invalid_credentials"


async def test_a_core_that_is_away_counts_for_nobody() -> None:
    """Not a failure of the account."""
    house = House()
    house.core.outcome = Unavailable(Reason.CORE_UNAVAILABLE)
    for _ in range(30):
        assert (await outcome_of(house, access_request())).reason == "core_error"
    assert len(house.authenticator.gate.throttle) == 0


async def test_a_client_with_too_many_failures_waits_where_that_is_wanted() -> None:
    """``failures_per_nas``."""
    house = House()
    house.authenticator.gate.throttle.limits = type(house.authenticator.gate.throttle.limits)(per_address=5)
    house.core.outcome = Denied(Reason.INVALID_CREDENTIALS)
    for number in range(7):
        await outcome_of(house, access_request(user=b"user%d" % number))
    assert (await outcome_of(house, access_request(user=b"another"))).reason == "throttled"
    assert (await outcome_of(house, access_request(user=b"another"), "192.0.2.2")).reason == "invalid_credentials"


# --- secrets ---


async def test_nothing_secret_is_told(lines: StringIO) -> None:
    """Neither password, State, shared secret nor attribute values, at the finest level; nor in any repr."""
    house = House(provider(challenge=True, add_class=True))
    standing = Standing("Code:", passed(attributes=blob((18, b"attribute-value"))))
    house.core.outcome = standing
    challenge = await house.ask(access_request(password=STRONG))
    assert challenge is not None
    state = challenge.first(Attribute.STATE) or b""
    await house.ask(access_request((Attribute.STATE, state), password="918273"))
    house.core.outcome = Denied(Reason.INVALID_CREDENTIALS, f"{STRONG} is wrong")
    await house.ask(access_request(password=STRONG))
    house.core.outcome = Denied(Reason.INVALID_CREDENTIALS, "483920 is wrong")
    await house.ask(access_request(password=STRONG + ";483920"))
    await asyncio.sleep(0)
    text = lines.getvalue() + repr(house.observer.outcomes) + repr(house.core.logins[0][1])
    assert "(withheld" in text
    for secret in (STRONG, "918273", "483920", SECRET.decode(), state.hex(), "attribute-value"):
        assert secret not in text
    written = [json.loads(line) for line in lines.getvalue().splitlines() if '"request"' in line]
    assert [line["result"] for line in written] == ["challenge", "accept", "reject", "reject"]
    first = written[0]
    assert (first["client"], first["code"], first["user"], first["provider"]) == (
        NAS,
        "access_request",
        "alice",
        "radius-1",
    )
    assert {"requestId", "identifier", "took-ms"} <= first.keys()


async def test_a_gate_lets_in_only_so_many_at_once() -> None:
    """``max_flows``; the others wait, and are not begun when their client has given up."""
    house = House()
    house.authenticator.gate.max_flows = 2
    house.core.hold = asyncio.Event()
    requests = [request_of(access_request(user=b"user%d" % number), at=house.clock()) for number in range(5)]
    tasks = [asyncio.ensure_future(house.authenticator.answer(request)) for request in requests]
    for _ in range(20):  # each turn of the loop lets everybody go on who can
        await asyncio.sleep(0)
    assert len(house.core.logins) == 2
    house.clock.advance(31)
    house.core.hold.set()
    outcomes = await asyncio.gather(*tasks)
    assert [isinstance(outcome, Answer) for outcome in outcomes] == [True, True, False, False, False]
    assert {outcome.reason for outcome in outcomes[2:]} == {"overload"}
    assert len(house.core.logins) == 2


async def test_overload_is_never_a_reject() -> None:
    """Even where a core that is away is one."""
    house = House(provider(on_core_error="reject"))
    house.clock.advance(100)
    outcome = await house.authenticator.answer(request_of(access_request(), house.intake.providers.all[0], at=1000.0))
    assert isinstance(outcome, Silence) and outcome.reason == "overload" and outcome.again


def test_the_name_of_a_request_is_a_uuid_of_its_own() -> None:
    """Version 4, the same each time it is asked for."""
    requests = [request_of(access_request()) for _ in range(100)]
    names = [uuid.UUID(request.id) for request in requests]
    assert {(name.version, name.variant) for name in names} == {(4, uuid.RFC_4122)}
    assert len(set(names)) == 100
    assert [str(name) for name in names] == [request.id for request in requests]
