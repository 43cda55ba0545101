"""Failed binds and their consequences, and what the log says of a refusal."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from common import logs
from common.client_certificate import ClientCertificate
from common.errors import CoreUnavailable
from common.outcomes import Denied, Outcome, Reason, Unavailable
from common.throttle import ThrottleLimits
from outposts.ldap.auth import BindAnswer, Peer
from outposts.ldap.messages import BindRequest, Sasl
from outposts.ldap.observe import Observations
from outposts.ldap.providers import Providers
from tests.certificates import authority
from tests.ldap.binds import ALICE, PEER, Desk, request, settings, table, until

DIRECT = table(settings())
CACHED = table(settings(bind_mode="cached"))
ELSEWHERE = Peer("10.9.9.9")


async def bind(desk: Desk, what: BindRequest, providers: Providers = DIRECT, peer: Peer = PEER) -> BindAnswer:
    answer = desk.authenticator.at_once(what, peer, providers)
    return answer if answer is not None else await desk.authenticator.bind(what, peer, providers)


def limited(**limits: Any) -> Desk:
    desk = Desk()
    off: dict[str, Any] = {"per_pair": 0, "per_address": 0, "per_account": 0}
    desk.authenticator.throttle.limits = ThrottleLimits(**(off | limits))
    return desk


async def guess(
    desk: Desk, times: int, providers: Providers = DIRECT, peer: Peer = PEER, name: str = ALICE
) -> list[int]:
    return [(await bind(desk, request(name, f"guess {n}"), providers, peer)).code for n in range(times)]


@pytest.mark.parametrize("providers", [DIRECT, CACHED], ids=["direct", "cached"])
async def test_guesses_wait(providers: Providers) -> None:
    """Three free, then busy without asking the core, until the wait is over; the right password waits as well."""
    desk = limited(per_pair=3)
    assert await guess(desk, 6, providers) == [49, 49, 49, 49, 51, 51]
    assert len(desk.login.asked) == 4
    assert (await bind(desk, request(), providers)).code == 51
    desk.now += 1
    assert (await bind(desk, request(), providers)).code == 0
    assert await guess(desk, 3, providers) == [49, 49, 49]


async def test_a_client_that_knows_no_busy() -> None:
    """``undecided_code``: 49 instead of 51, 52 and 80; the reason and its metric label stay what they are."""
    providers = table(settings(extra={"undecided_code": "invalid_credentials"}))
    desk = limited(per_pair=3)
    assert await guess(desk, 5, providers) == [49, 49, 49, 49, 49]
    assert len(desk.login.asked) == 4
    answer = await bind(desk, request(), providers)
    assert (answer.code, answer.identity, answer.reason, answer.label) == (49, None, "account_busy", "throttled")
    other = limited()
    for outcome, reason in ((Unavailable(Reason.CORE_UNAVAILABLE), "core_unavailable"), (Unavailable("new"), "new")):
        other.login.outcome = outcome
        answer = await bind(other, request(), providers)
        assert (answer.code, answer.identity, str(answer.reason)) == (49, None, reason)
        assert (await bind(other, request(), DIRECT)).code == 52


async def test_a_remembered_success_forgets_guesses_too() -> None:
    """A stale password elsewhere behind the same address does not add up against the person who is let in again."""
    desk = limited(per_pair=3)
    assert (await bind(desk, request(), CACHED)).code == 0
    for _ in range(4):
        assert await guess(desk, 3, CACHED) == [49, 49, 49]
        answer = await bind(desk, request(), CACHED)
        assert (answer.code, answer.cached) == (0, True)


async def test_a_cached_password_answers_no_guesses() -> None:
    """A right guess during the wait looks like a wrong one: otherwise the cache would tell."""
    desk = limited(per_pair=3)
    assert (await bind(desk, request(), CACHED)).code == 0
    await guess(desk, 4, CACHED)
    assert (await bind(desk, request(), CACHED)).code == 51


async def test_nobody_is_locked_out_elsewhere() -> None:
    """The account at another address: from the cache, and by the flow."""
    desk = limited(per_pair=3, per_address=3, per_account=1000)
    await guess(desk, 20, CACHED)
    assert (await bind(desk, request(), CACHED, ELSEWHERE)).code == 0
    assert (await bind(desk, request(), CACHED, ELSEWHERE)).cached
    assert (await bind(desk, request(f"cn=bob,{ALICE[9:]}"), CACHED, ELSEWHERE)).code == 0


async def test_an_address_that_guesses_many_accounts_waits() -> None:
    """But what is in the cache is still answered there, and only at a limited number of guesses an account."""
    desk = limited(per_pair=3, per_address=8)
    assert (await bind(desk, request(), CACHED)).code == 0
    for number in range(9):
        assert (await bind(desk, request(f"cn=user{number},{ALICE[9:]}", "x"), CACHED)).code == 49
    asked = len(desk.login.asked)
    assert (await bind(desk, request(f"cn=bob,{ALICE[9:]}"), CACHED)).code == 51
    assert (await bind(desk, request(), CACHED)).code == 0
    assert await guess(desk, 6, CACHED) == [51] * 6
    assert (await bind(desk, request(), CACHED)).code == 51
    assert len(desk.login.asked) == asked


async def test_guesses_side_by_side_are_counted_before_they_end() -> None:
    """A hundred connections do not get a hundred guesses."""
    desk = limited(per_pair=3)
    desk.login.gate = asyncio.Event()
    waiting = [asyncio.ensure_future(bind(desk, request(password=f"guess {n}"))) for n in range(100)]
    await until(lambda: sum(task.done() for task in waiting) == 96)
    desk.login.gate.set()
    assert sorted(answer.code for answer in await asyncio.gather(*waiting)) == [49] * 4 + [51] * 96
    assert len(desk.login.asked) == 4


async def test_one_bind_on_many_connections_is_one_attempt() -> None:
    """A pool that opens fifty connections at once, right or wrong."""
    desk = limited(per_pair=3)
    for password, code in (("pw", 0), ("no", 49)):
        answers = await asyncio.gather(*(bind(desk, request(password=password)) for _ in range(50)))
        assert {answer.code for answer in answers} == {code}
    assert len(desk.login.asked) == 2


async def test_an_account_under_attack_is_slow_not_closed() -> None:
    """From many addresses: the right password still binds, later."""
    desk = limited(per_account=5)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    desk.authenticator._sleep = sleep
    for number in range(8):
        await guess(desk, 1, peer=Peer(f"10.5.0.{number}"))
    assert slept == [0.25, 0.5]
    assert (await bind(desk, request())).code == 0
    assert slept == [0.25, 0.5, 1.0]


@pytest.mark.parametrize(
    "outcome", [Unavailable(Reason.CORE_UNAVAILABLE), Unavailable(Reason.DEADLINE), Unavailable(Reason.INTERNAL)]
)
async def test_a_core_that_is_away_locks_nobody_out(outcome: Outcome) -> None:
    """No verdict, no failure."""
    desk = limited(per_pair=1, per_address=1, per_account=1)
    desk.login.outcome = outcome
    for _ in range(20):
        assert (await bind(desk, request())).code in (52, 80)
    desk.login.outcome = None
    assert (await bind(desk, request())).code == 0


async def test_a_defect_leaves_no_attempt_behind() -> None:
    """Attempts under way are given back, whatever happens."""
    desk = limited(per_pair=1)
    desk.login.error = RuntimeError("defect")
    for _ in range(20):
        assert (await bind(desk, request())).code == 80
    desk.login.error = None
    assert (await bind(desk, request())).code == 0


async def test_a_certificate_does_not_count_for_the_account_it_names() -> None:
    """Anybody can make a certificate for anybody."""
    desk = limited(per_pair=1, per_account=1)
    desk.login.outcome = Denied(Reason.IDENTITY_MISMATCH)
    providers = table(settings(extra={"client_certificates": True}))
    peer = Peer(PEER.client_ip, True, ClientCertificate(authority().issue().pem))
    codes = [
        (await bind(desk, request("", method=Sasl("EXTERNAL", b"u:alice")), providers, peer)).code for _ in range(5)
    ]
    assert codes == [49, 49, 51, 51, 51]
    desk.login.outcome = None
    assert (await bind(desk, request(), providers)).code == 0


# -- the log ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure("trace", stream=stream)
    yield stream
    logs.configure("info")


async def told(desk: Desk, what: BindRequest, providers: Providers, stream: io.StringIO, peer: Peer = PEER) -> Any:
    """The line about a bind."""
    answer = await bind(desk, what, providers, peer)
    Observations().bind(peer.client_ip, what.name, answer, 0.0)
    await asyncio.sleep(0)
    return json.loads(stream.getvalue().splitlines()[-1])


async def test_one_line_says_why(written: io.StringIO) -> None:
    """Provider, flow, stage and the core's message."""
    desk = Desk()
    desk.login.outcome = Denied(Reason.FLOW_DENIED, "Only from the office.", "ak-stage-access-denied")
    line = await told(desk, request(), DIRECT, written)
    assert line["event"] == "bind"
    assert line["result"] == "invalid_credentials"
    assert line["reason"] == "flow_denied"
    assert (line["provider"], line["flow"]) == ("provider 1", "bind-flow")
    assert (line["stage"], line["message"]) == ("ak-stage-access-denied", "Only from the office.")
    assert (line["bindDN"], line["client"]) == (ALICE, "10.1.2.3")
    desk.login.outcome = Unavailable(Reason.CORE_UNAVAILABLE, "GET /x: 503")
    assert (await told(desk, request(), DIRECT, written))["message"] == "GET /x: 503"
    sasl = await told(desk, request("", method=Sasl("PLAIN", b"\0bob\0pw")), DIRECT, written, Peer("10.1.2.3", True))
    assert (sasl["sasl_user"], sasl["reason"]) == ("bob", "core_unavailable")


SECRETS = ("geheim-7f3", "482913", "kuchen-1d4")
PEM = authority().issue(["alice"]).pem
PASSWORD = f"{SECRETS[0]};{SECRETS[1]}"
TELLTALE: list[Outcome | Exception] = [
    Denied(Reason.INVALID_CREDENTIALS, f"password: {SECRETS[0]} is wrong", "ak-stage-password"),
    Denied(Reason.INVALID_CREDENTIALS, f"code: {SECRETS[1]} is wrong", "ak-stage-authenticator-validate"),
    Denied(Reason.FLOW_DENIED, f"{PASSWORD} was denied", "ak-stage-access-denied"),
    Denied(Reason.ACCESS_DENIED),
    Denied("unheard of"),
    Unavailable(Reason.CORE_UNAVAILABLE, f"POST: {PASSWORD}"),
    Unavailable(Reason.INTERNAL, "KeyError"),
    RuntimeError(f"{PASSWORD} {SECRETS[2]}"),
    KeyError(SECRETS[0]),
    CoreUnavailable("GET /x", "down"),
]


@pytest.mark.parametrize("what", TELLTALE, ids=repr)
@pytest.mark.parametrize("providers", [DIRECT, CACHED], ids=["direct", "cached"])
async def test_no_line_tells_a_secret(what: Outcome | Exception, providers: Providers, written: io.StringIO) -> None:
    """Password, code, cookie and certificate in no line of any level, by whatever way a bind fails."""
    desk = Desk()
    if isinstance(what, Exception):
        desk.login.error = what
    else:
        desk.login.outcome = what
    encrypted = Peer("10.1.2.3", True, ClientCertificate(PEM))
    taking = table(settings(extra={"client_certificates": True}))
    for message, providers_, peer in (
        (request(password=PASSWORD), providers, PEER),
        (request("not a dn", PASSWORD), providers, PEER),
        (request("", PASSWORD), providers, PEER),
        (request(password=PASSWORD, version=2), providers, PEER),
        (request("", method=Sasl("PLAIN", f"\0alice\0{PASSWORD}".encode())), providers, encrypted),
        (request("", method=Sasl("PLAIN", f"\0alice\0{PASSWORD}".encode())), providers, PEER),
        (request("", method=Sasl("PLAIN", f"alice\0{PASSWORD}".encode())), providers, encrypted),
        (request("", method=Sasl("LOGIN", PASSWORD.encode())), providers, encrypted),
        (request("", method=Sasl("EXTERNAL", b"u:alice")), providers, encrypted),
    ):
        line = await told(desk, message, providers_, written, peer)
        assert (line["event"], line["level"]) == ("bind", "info")
        assert line["result"] != "success"
        assert line["reason"]
    desk.login.error, desk.login.outcome = None, Denied(Reason.FLOW_DENIED, f"not this one: {PEM}")
    await told(desk, request("", method=Sasl("EXTERNAL", b"")), taking, written, encrypted)
    text = written.getvalue()
    assert len(text.splitlines()) >= 10
    for secret in (*SECRETS, "secret cookie", PEM.splitlines()[1], "BEGIN CERTIFICATE"):
        assert secret not in text
