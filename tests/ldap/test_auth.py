"""Binds: which code for what, what the cache may answer, and that nothing but ``Passed`` ever succeeds."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.outcomes import CoreSession, Denied, Outcome, Passed, Reason, Unavailable
from outposts.ldap import auth
from outposts.ldap.auth import BindAnswer, Peer
from outposts.ldap.bind_names import find_user
from outposts.ldap.messages import BindRequest, Control, Sasl, UnknownAuthentication
from outposts.ldap.providers import Providers
from outposts.ldap.refusals import REFUSALS
from outposts.ldap.rfc import ResultCode
from tests.ldap.binds import ALICE, PEER, B, Desk, b, request, settings, table, until

DIRECT = table(settings())
CACHED = table(settings(bind_mode="cached"))
TLS = Peer("10.1.2.3", encrypted=True)


async def bind(desk: Desk, what: BindRequest, providers: Providers = DIRECT, peer: Peer = PEER) -> BindAnswer:
    return await desk.authenticator.bind(what, peer, providers)


# Rows 1–9 of the case table: bind DN → code, user name that the flow sees.
NAMES = [
    (1, ALICE, 0, "alice"),
    (2, f"CN=alice,OU=USERS,{B}", 0, "alice"),
    (2, f"cn=Alice,ou=users,{b}", 0, "Alice"),
    (4, f"cn=alice,{B}", 0, "alice"),
    (4, f"cn=alice,ou=groups,{B}", 0, "alice"),
    (4, f"ou=x,cn=alice,{B}", 0, "alice"),
    (4, f"cn=alice+uid=1,ou=users,{B}", 0, "alice"),
    (4, rf"cn=\61lice,ou=users,{B}", 0, "alice"),
    (4, f"cn=alice;ou=users;{B}", 0, "alice"),
    (5, f"uid=alice,ou=users,{b}", 50, None),
    (5, "alice", 50, None),
    (5, "alice@example.org", 50, None),
    (5, "EXAMPLE\\alice", 50, None),
    (5, "cn=alice", 50, None),
    (5, B, 50, None),
    (5, "cn=alice,,dc=io", 34, None),
    (5, "not a dn", 34, None),
    (5, b"cn=\xff", 34, None),
    (8, "cn=alice, ou=users, dc=ldap, dc=goauthentik, dc=io", 0, "alice"),
    (9, f"cn=alice,x{b}", 50, None),
    (9, f"cn=,ou=users,{b}", 49, None),
]


@pytest.mark.parametrize(("row", "name", "code", "username"), NAMES)
async def test_rows_1_to_9_names(row: int, name: str, code: int, username: str | None) -> None:
    """Which DN forms name a user, and that only those reach the flow."""
    desk = Desk()
    answer = await bind(desk, request(name))
    assert answer.code == code
    assert [credentials.username for _, credentials in desk.login.asked] == ([username] if username else [])


async def test_03_wrong_password() -> None:
    """49, after the flow said so."""
    desk = Desk()
    answer = await bind(desk, request(password="wrong"))
    assert (answer.code, answer.identity, len(desk.login.asked)) == (49, None, 1)


@pytest.mark.parametrize(
    ("row", "what", "peer", "code"),
    [
        (6, request("", ""), PEER, 50),
        (6, request("", "pw"), PEER, 50),
        (7, request(ALICE, ""), PEER, 53),
        (10, request(version=2), PEER, 2),
        (10, request(version=4), PEER, 2),
        (11, request(method=Sasl("PLAIN", b"\0alice\0pw")), PEER, 13),
        (11, request(method=Sasl("external")), PEER, 13),
        (11, request(method=Sasl("GSSAPI")), PEER, 7),
        (12, request(method=Sasl("GSSAPI", b"\0alice\0pw")), TLS, 7),
        (12, request(method=Sasl("PLAIN", b"alice\0pw")), TLS, 2),
        (12, request("", method=Sasl("EXTERNAL", b"dn:" + ALICE.encode())), TLS, 7),
        (0, request(method=UnknownAuthentication(0x89)), TLS, 7),
        (0, request(password=b"\xff\xfe"), PEER, 49),
        (0, request(controls=(Control("1.2.3", True),)), PEER, 12),
    ],
)
async def test_rows_6_to_12_no_flow_runs(row: int, what: BindRequest, peer: Peer, code: int) -> None:
    """What is refused without asking the core."""
    desk = Desk()
    answer = await bind(desk, what, peer=peer)
    assert (answer.code, answer.identity, desk.login.asked) == (code, None, [])


async def test_require_tls_refuses_before_the_flow() -> None:
    """13 in the clear, the flow on TLS."""
    desk = Desk()
    providers = table(settings(extra={"require_tls": True}))
    assert (await bind(desk, request(), providers)).code == 13
    assert desk.login.asked == []
    assert (await bind(desk, request(), providers, TLS)).code == 0


# Rows 13–18: what the login says → code.
OUTCOMES: list[tuple[Outcome, int]] = [
    (Denied(Reason.INVALID_CREDENTIALS), 49),
    (Denied(Reason.FLOW_DENIED), 49),
    (Denied(Reason.FLOW_RESTARTED), 49),
    (Denied(Reason.ACCESS_DENIED), 50),
    (Denied(Reason.PASSWORD_NOT_ASKED), 49),
    (Denied(Reason.NOT_AUTHENTICATED), 49),
    (Denied(Reason.UNSUPPORTED_CHALLENGE), 49),
    (Denied(Reason.NO_AUTHENTICATOR), 49),
    (Denied(Reason.TOO_DEEP), 49),
    (Denied("something new"), 49),
    (Unavailable(Reason.CORE_UNAVAILABLE), 52),
    (Unavailable(Reason.DEADLINE), 52),
    (Unavailable(Reason.CORE_REFUSED), 52),
    (Unavailable(Reason.FLOW_ERROR), 52),
    (Unavailable(Reason.NONSENSE), 52),
    (Unavailable(Reason.INTERNAL), 80),
    (Unavailable("something new"), 52),
    (Passed(CoreSession({}, None, None), None, None, True, None, False), 80),
]


@pytest.mark.parametrize(("outcome", "code"), OUTCOMES)
@pytest.mark.parametrize("providers", [DIRECT, CACHED], ids=["direct", "cached"])
async def test_rows_13_to_18_outcomes(outcome: Outcome, code: int, providers: Providers) -> None:
    """Each way not to pass has its code, never 0, with and without cache."""
    desk = Desk()
    desk.login.outcome = outcome
    answer = await bind(desk, request(), providers)
    assert (answer.code, answer.identity) == (code, None)
    assert len(desk.cache) == 0


def test_every_reason_has_its_row_and_none_is_a_success() -> None:
    """A new reason of the login part gets a row of its own; no row says 0."""
    assert {reason.value for reason in Reason} <= {str(reason) for reason in REFUSALS}
    assert all(refusal.code != ResultCode.SUCCESS for refusal in REFUSALS.values())


def test_success_is_stated_in_one_place() -> None:
    """One use of the code for success makes answers; another only checks them."""
    source = Path(auth.__file__).read_text()
    assert len(re.findall(r"BindAnswer\(ResultCode\.SUCCESS", source)) == 1
    with pytest.raises(ValueError):
        BindAnswer(ResultCode.SUCCESS)


@pytest.mark.parametrize("error", [RuntimeError("boom"), ValueError(), KeyError("x"), OSError()])
@pytest.mark.parametrize("providers", [DIRECT, CACHED], ids=["direct", "cached"])
async def test_any_exception_is_a_refusal(error: Exception, providers: Providers) -> None:
    """A broken login part gives 80 to all who wait, and the next bind works."""
    desk = Desk()
    desk.login.error = error
    answers = await asyncio.gather(bind(desk, request(), providers), bind(desk, request(), providers))
    assert [answer.code for answer in answers] == [80, 80]
    desk.login.error = None
    assert (await bind(desk, request(), providers)).code == 0


class Foreign:
    """No outcome at all."""

    reason = "passed"


@pytest.mark.parametrize("outcome", [Foreign(), True, object(), "passed"])
async def test_what_is_no_outcome_is_a_refusal(outcome: Any) -> None:
    """Only the class ``Passed`` succeeds."""
    desk = Desk()
    desk.login.outcome = outcome
    assert (await bind(desk, request())).code == 80


async def test_the_flow_gets_what_it_needs() -> None:
    """Target and credentials of the provider that was chosen."""
    desk = Desk()
    await bind(desk, request(), table(settings(bind_mode="cached", mfa_support=False)))
    target, credentials = desk.login.asked[0]
    assert (target.protocol, target.provider_pk, target.flow_slug, target.application_slug) == (
        "ldap",
        1,
        "bind-flow",
        "app",
    )
    assert (target.mfa_support, target.remember_me, target.want_user) == (False, True, True)
    assert (credentials.username, credentials.password, credentials.client_ip) == ("alice", "pw", "10.1.2.3")


@pytest.mark.parametrize("may_search", [True, False])
async def test_the_identity_carries_the_right(may_search: bool) -> None:
    """User, search right and authorization identity of the connection."""
    desk = Desk()
    desk.login.may_search = may_search
    identity = (await bind(desk, request())).identity
    assert identity is not None
    assert (identity.viewer.user_pk, identity.viewer.full) == (1, may_search)
    assert identity.authorization_id == f"dn:{ALICE}"


async def test_19_cached_answers_without_the_core() -> None:
    """Same bind, DN in another case and spacing: 0, no flow."""
    desk = Desk()
    assert (await bind(desk, request(), CACHED)).cached is False
    again = await bind(desk, request(f"CN=ALICE, OU=users, {B}"), CACHED)
    assert (again.code, again.cached, len(desk.login.asked)) == (0, True, 1)


async def test_20_refusals_are_not_cached() -> None:
    """Every wrong password asks the core, and ends what the cache held for it."""
    desk = Desk()
    for _ in range(2):
        assert (await bind(desk, request(password="no"), CACHED)).code == 49
    assert len(desk.login.asked) == 2


async def test_21_the_cookies_end_asks_the_core_again() -> None:
    """The session's own end is the entry's end."""
    desk = Desk()
    desk.login.expires = desk.now + 3
    await bind(desk, request(), CACHED)
    desk.now += 4
    desk.login.expires = desk.now + 3
    assert (await bind(desk, request(), CACHED)).code == 0
    assert len(desk.login.asked) == 2


async def test_22_a_revoked_access_is_seen_after_the_maximum() -> None:
    """bind_cache_max bounds a session without end."""
    desk = Desk()
    await bind(desk, request(), CACHED)
    desk.login.outcome = Denied(Reason.ACCESS_DENIED)
    desk.now += 299
    assert (await bind(desk, request(), CACHED)).code == 0
    desk.now += 2
    assert (await bind(desk, request(), CACHED)).code == 50


async def test_23_session_end_asks_the_core_again() -> None:
    """No bind from the cache with an ended session."""
    desk = Desk()
    identity = (await bind(desk, request(), CACHED)).identity
    assert identity is not None
    assert identity.session.session_id is not None
    desk.cache.end_session(identity.session.session_id)
    await bind(desk, request(), CACHED)
    assert len(desk.login.asked) == 2


async def test_an_unreachable_core_honours_a_stale_bind_for_the_grace() -> None:
    """52 for what is unknown, 0 for what was proved not long ago, 52 again when the grace is over."""
    desk = Desk()
    await bind(desk, request(), CACHED)
    desk.login.outcome = Unavailable(Reason.CORE_UNAVAILABLE)
    desk.now += 301
    graced = await bind(desk, request(), CACHED)
    assert (graced.code, graced.cached) == (0, True)
    assert (await bind(desk, request(password="other"), CACHED)).code == 52
    desk.now += 600
    assert (await bind(desk, request(), CACHED)).code == 52


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason not in auth.CORE_AWAY])
async def test_a_core_that_answers_gets_no_grace(reason: Reason) -> None:
    """Whatever is wrong: it is there, and did not say yes."""
    desk = Desk()
    await bind(desk, request(), CACHED)
    desk.login.outcome = Unavailable(reason)
    desk.now += 301
    assert (await bind(desk, request(), CACHED)).code != 0


async def test_a_refusal_ends_the_grace() -> None:
    """Once the core said no, its silence does not help any more."""
    desk = Desk()
    await bind(desk, request(), CACHED)
    desk.now += 301
    desk.login.outcome = Denied(Reason.INVALID_CREDENTIALS)
    assert (await bind(desk, request(), CACHED)).code == 49
    desk.login.outcome = Unavailable(Reason.CORE_UNAVAILABLE)
    assert (await bind(desk, request(), CACHED)).code == 52


@pytest.mark.parametrize("factor", ["used_code", "used_push"])
async def test_a_bind_with_a_second_factor_lives_shorter_and_has_no_grace(factor: str) -> None:
    """bind_cache_mfa, and 52 when the core is away after it."""
    desk = Desk()
    session = CoreSession({}, "s" * 64, None)
    code, push = factor == "used_code", factor == "used_push"
    desk.login.outcome = Passed(session, 1, None, True, None, used_code=code, used_push=push)
    await bind(desk, request(), CACHED)
    desk.now += 59
    assert (await bind(desk, request(), CACHED)).cached
    desk.now += 2
    desk.login.outcome = Unavailable(Reason.CORE_UNAVAILABLE)
    assert (await bind(desk, request(), CACHED)).code == 52


async def test_identical_binds_share_one_flow_run() -> None:
    """Same provider, name, password and address; another address runs its own flow."""
    desk = Desk()
    desk.login.gate = asyncio.Event()
    waiting = [asyncio.ensure_future(bind(desk, request())) for _ in range(5)]
    waiting.append(asyncio.ensure_future(bind(desk, request(), peer=Peer("10.9.9.9"))))
    waiting.append(asyncio.ensure_future(bind(desk, request(password="other"))))
    await until(lambda: len(desk.login.asked) == 3)
    desk.login.gate.set()
    assert [answer.code for answer in await asyncio.gather(*waiting)] == [0] * 6 + [49]
    assert len(desk.login.asked) == 3
    await bind(desk, request())
    assert len(desk.login.asked) == 4


async def test_a_client_that_leaves_does_not_end_the_shared_run() -> None:
    """The others still get their answer."""
    desk = Desk()
    desk.login.gate = asyncio.Event()
    first, second = (asyncio.ensure_future(bind(desk, request())) for _ in range(2))
    await until(lambda: desk.login.asked)
    first.cancel()
    desk.login.gate.set()
    assert (await second).code == 0


ENDS: list[Callable[[Desk], int]] = [
    lambda desk: desk.cache.end_session(f"{1:064d}"),
    lambda desk: desk.cache.end_user(1),
    lambda desk: desk.cache.end_provider(1),
]


def void(_: object) -> None:
    """Nothing."""


@pytest.mark.parametrize("end", ENDS)
async def test_what_ends_during_the_bind_is_no_success(end: Callable[[Desk], int]) -> None:
    """The news may come before its login is known here: of the session, of the user, of the provider's settings."""
    desk = Desk()
    desk.login.on_login = lambda: void(end(desk))
    answer = await bind(desk, request(), CACHED)
    assert (answer.code, answer.reason, len(desk.cache)) == (52, "session_ended", 0)


async def test_a_session_that_nobody_uses_is_logged_out() -> None:
    """With an unbind flow: when its last connection left and no cached bind rests on it, once."""
    desk = Desk(unbind_flow="bye")
    identity = (await bind(desk, request())).identity
    assert identity is not None
    desk.used.add(identity.session.session_id)
    desk.authenticator.release(identity)
    await asyncio.sleep(0.01)
    assert desk.login.logged_out == []
    desk.used.clear()
    desk.authenticator.release(identity)
    await desk.authenticator.close(1)
    assert desk.login.logged_out == [(identity.session, "bye")]


async def test_a_cached_session_is_not_logged_out() -> None:
    """Its log-out would end the cached bind."""
    desk = Desk(unbind_flow="bye")
    identity = (await bind(desk, request(), CACHED)).identity
    assert identity is not None
    desk.authenticator.release(identity)
    await desk.authenticator.close(1)
    assert desk.login.logged_out == []


async def test_a_session_whose_client_left_meanwhile_is_logged_out() -> None:
    """Nobody took the result of the run."""
    desk = Desk(unbind_flow="bye")
    desk.login.gate = asyncio.Event()
    only = asyncio.ensure_future(bind(desk, request()))
    await until(lambda: desk.login.asked)
    only.cancel()
    await asyncio.gather(only, return_exceptions=True)
    desk.login.gate.set()
    await until(lambda: desk.login.logged_out)
    await desk.authenticator.close(1)


FORMS = ("dn", "username", "mail", "upn")


@pytest.mark.parametrize(
    ("forms", "name", "found"),
    [
        (("dn", "username"), "alice", "alice"),
        (("dn", "mail"), "alice@example.org", "alice@example.org"),
        (("dn", "upn"), "alice@ldap.goauthentik.io", "alice"),
        (("dn", "upn"), "alice@LDAP.goauthentik.IO", "alice"),
        (("dn", "upn"), "alice@example.org", "no_provider"),
        (FORMS, "alice@example.org", "alice@example.org"),
        (FORMS, "alice@ldap.goauthentik.io", "alice"),
        (("dn",), "alice", "no_provider"),
        (("username",), ALICE, "no_provider"),
        (FORMS, "@ldap.goauthentik.io", "no_provider"),
        (FORMS, "alice@", "no_provider"),
    ],
)
def test_bind_names(forms: tuple[str, ...], name: str, found: str) -> None:
    """Which names besides DNs a provider takes, if the operator says so."""
    result = find_user(name.encode(), table(settings(extra={"bind_names": forms})))
    assert (result if isinstance(result, str) else result[1]) == found


def test_dn_attribute_uid() -> None:
    """``uid`` names users; ``cn`` still does for clients set up before."""
    providers = table(settings(extra={"dn_attribute": "uid"}))
    for name in (f"uid=alice,ou=users,{b}", f"cn=x+uid=alice,ou=users,{b}", f"cn=alice,ou=users,{b}"):
        result = find_user(name.encode(), providers)
        assert not isinstance(result, str)
        assert result[1] == "alice"


async def test_nothing_secret_shows() -> None:
    """Neither password nor cookie in the representation of what is passed around."""
    desk = Desk()
    question = desk.authenticator.examine(request(password="geheim"), PEER, DIRECT)
    answer = await bind(desk, request())
    for thing in (question, answer, answer.identity, desk.authenticator, desk.cache):
        assert not re.search("geheim|secret cookie|'pw'", repr(thing))
