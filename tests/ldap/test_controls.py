"""Controls on real requests: which are refused, ignored, honoured; direct mode; conversations on a connection."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.outcomes import Denied
from outposts.ldap import controls, routing
from outposts.ldap.controls import ADVERTISED, ROWS, ControlError, Operation, read
from outposts.ldap.filter_text import parse_text
from outposts.ldap.messages import (
    AbandonRequest,
    BindResponse,
    CompareRequest,
    Control,
    DeleteRequest,
    ExtendedRequest,
    Request,
    SearchEntry,
)
from outposts.ldap.paging import KeptSnapshots
from outposts.ldap.paging import decode as decode_page
from outposts.ldap.rfc import ControlOid, Extension, ResultCode
from tests.ldap.binds import ALICE, b, until
from tests.ldap.desks import Paper, Room, bind_request, bound, codes, connect, say, search_request
from tests.ldap.listings import asserted, paged, sort, subentries, values, view

UNKNOWN = Control("1.2.3.4", False, b"x")
HARMLESS = (ControlOid.MANAGE_DSA_IT, ControlOid.DOMAIN_SCOPE, ControlOid.DONT_USE_COPY)
SESSION_TRACKING = Control(ControlOid.SESSION_TRACKING, False, b"\x30\x00")
SECURITY_DESCRIPTOR_FLAGS = Control("1.2.840.113556.1.4.801", False, b"\x30\x03\x02\x01\x07")


def critical(control: Control) -> Control:
    """The same, critical."""
    return Control(control.oid, True, control.value)


# The table


@pytest.mark.parametrize("operation", list(Operation))
def test_73_what_is_not_for_an_operation(operation: Operation) -> None:
    """Critical: 12. Otherwise ignored, whatever its value is. For each control of the table and an unknown one."""
    for oid in [row.oid for row in ROWS if not row.operations & operation] + [UNKNOWN.oid]:
        assert read([Control(oid, False, b"garbage")], operation) == controls.NONE
        for value in (None, b"garbage"):
            with pytest.raises(ControlError) as caught:
                read([Control(oid, True, value)], operation)
            assert caught.value.code == ResultCode.UNAVAILABLE_CRITICAL_EXTENSION


@pytest.mark.parametrize("oid", HARMLESS)
@pytest.mark.parametrize("value", [None, b"", b"x"])
def test_74_controls_without_value(oid: str, value: bytes | None) -> None:
    """Honoured, critical or not, with or without a value that nobody asked for."""
    found = read([Control(oid, True, value)], Operation.SEARCH)
    assert len(found.critical) == 1


@pytest.mark.parametrize("row", [row for row in ROWS if row.field != "proxied"], ids=lambda row: row.field)
def test_a_control_twice(row: controls.Row) -> None:
    """A protocol error."""
    good = {
        "paged": paged(1),
        "sort": sort("cn"),
        "view": view(1, 1),
        "matched_values": values(parse_text("(cn=*)")),
        "assertion": asserted(parse_text("(cn=*)")),
        "subentries": subentries(False),
        "sync": Control(ControlOid.SYNC_REQUEST, False, b"\x30\x03\x0a\x01\x01"),
        "persistent": Control(ControlOid.PERSISTENT_SEARCH, False, b"\x30\x09\x02\x01\x0f\x01\x01\xff\x01\x01\x00"),
    }.get(row.field, Control(row.oid))
    operation = next(one for one in Operation if one & row.operations)
    assert getattr(read([good], operation), row.field) is not None
    with pytest.raises(ControlError) as caught:
        read([good, good], operation)
    assert caught.value.code == ResultCode.PROTOCOL_ERROR


@pytest.mark.parametrize("field", ["paged", "sort", "view", "matched_values", "assertion", "subentries"])
def test_values_that_do_not_decode(field: str) -> None:
    """A protocol error, critical or not."""
    (oid,) = [row.oid for row in ROWS if row.field == field]
    for value in (None, b"", b"\x30", b"\x01\x02\x00", b"\xff" * 9, b"\x30\x84\xff\xff\xff\xff"):
        for is_critical in (False, True):
            with pytest.raises(ControlError) as caught:
                read([Control(oid, is_critical, value)], Operation.SEARCH)
            assert caught.value.code == ResultCode.PROTOCOL_ERROR


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(ROWS), st.booleans(), st.none() | st.binary(max_size=60), st.sampled_from(list(Operation)))
def test_any_control(row: controls.Row, is_critical: bool, value: bytes | None, operation: Operation) -> None:
    """Controls or a refusal with a code of the table, never anything else."""
    try:
        read([Control(row.oid, is_critical, value)], operation)
    except ControlError as caught:
        refusal = caught
    else:
        return
    assert refusal.code in (2, 12, 123)
    assert refusal.diagnostic


@pytest.mark.parametrize(
    ("control", "code"),
    [
        (Control(ControlOid.PROXIED_AUTHORIZATION, True, b"dn:cn=bob"), ResultCode.AUTHORIZATION_DENIED),
        (Control(ControlOid.PROXIED_AUTHORIZATION, True, b""), ResultCode.AUTHORIZATION_DENIED),
        (Control(ControlOid.PROXIED_AUTHORIZATION, False, b"dn:cn=bob"), ResultCode.PROTOCOL_ERROR),
        (Control(ControlOid.PROXIED_AUTHORIZATION, True, None), ResultCode.PROTOCOL_ERROR),
    ],
)
async def test_proxied_authorization(control: Control, code: int) -> None:
    """Nobody may act for others: 123 for each operation; without criticality or value it is no such control."""
    connection, paper = await bound(Room())
    say(
        connection,
        search_request(2, controls=(control,)),
        CompareRequest(3, ALICE.encode(), b"cn", b"alice", (control,)),
        ExtendedRequest(4, Extension.WHO_AM_I, None, (control,)),
        DeleteRequest(5, ALICE.encode(), (control,)),
    )
    assert codes(paper) == [code] * 4


# On a connection


async def ask(room: Room, paper: Paper, connection: Any, *requests: Request) -> list[Any]:
    """Send, and wait for the last answer of each."""
    seen = len(room.witness.seen)
    say(connection, *requests)
    await until(lambda: len(room.witness.seen) >= seen + len(requests))
    return paper.take()


def page_of(answers: list[Any]) -> tuple[int, int, bytes]:
    """Entries, estimate and cookie."""
    (control,) = answers[-1].controls
    assert control.oid == ControlOid.PAGED_RESULTS
    found = decode_page(control.value)
    return len(answers) - 1, found.size, found.cookie


@pytest.mark.parametrize("mode", ["cached", "direct"])
@pytest.mark.parametrize("size", [1, 4, 17, 100])
async def test_72_pages(mode: str, size: int) -> None:
    """Row 72 and more: pages of any size from both modes, each entry once."""
    room = Room(mode=mode)
    connection, paper = await bound(room)
    everything = {answer.name for answer in (await ask(room, paper, connection, search_request(2)))[:-1]}
    found: list[bytes] = []
    cookie = b""
    number = 2
    while True:
        number += 1
        answers = await ask(room, paper, connection, search_request(number, controls=(paged(size, cookie, True),)))
        assert answers[-1].code == 0
        count, estimate, cookie = page_of(answers)
        assert estimate == 17
        assert count == min(size, 17 - len(found))
        found += [answer.name for answer in answers[:-1]]
        if not cookie:
            break
    assert len(found) == len(set(found)) == 17
    assert set(found) == everything


async def test_pages_of_direct_searches_ask_the_core_once() -> None:
    """What was fetched for the first page serves the next ones, then it is let go."""
    room = Room(mode="direct")
    connection, paper = await bound(room)
    _, _, cookie = page_of(await ask(room, paper, connection, search_request(2, controls=(paged(6),))))
    asked = room.core.asked
    assert asked
    _, _, cookie = page_of(await ask(room, paper, connection, search_request(3, controls=(paged(6, cookie),))))
    assert room.core.asked == asked
    assert len(room.desk.searches._kept) == 1
    _, _, cookie = page_of(await ask(room, paper, connection, search_request(4, controls=(paged(6, cookie),))))
    assert (cookie, room.core.asked, len(room.desk.searches._kept)) == (b"", asked, 0)


async def test_pages_of_direct_searches_go_on_when_it_was_let_go() -> None:
    """Fetched anew, in another order and with one user more: what is left comes, each once."""
    room = Room(mode="direct")
    connection, paper = await bound(room)
    answers = await ask(room, paper, connection, search_request(2, controls=(paged(9),)))
    first, (_, _, cookie) = [answer.name for answer in answers[:-1]], page_of(answers)
    room.desk.searches._kept = KeptSnapshots(lambda: 0.0)
    room.core.user_list.reverse()
    room.core.group_list.reverse()
    answers = await ask(room, paper, connection, search_request(3, controls=(paged(9, cookie),)))
    rest = [answer.name for answer in answers[:-1]]
    assert page_of(answers)[2] == b""
    assert len(first) + len(rest) == len({*first, *rest}) == 17


async def test_pages_outlive_a_refresh() -> None:
    """The directory is replaced between two pages: the listing goes on."""
    from dataclasses import replace

    from outposts.ldap.providers import Providers
    from tests.ldap.desks import directory

    room = Room()
    connection, paper = await bound(room)
    answers = await ask(room, paper, connection, search_request(2, controls=(paged(10),)))
    first, (_, _, cookie) = [answer.name for answer in answers[:-1]], page_of(answers)
    (provider,) = room.desk.providers.all
    users, groups = directory(3)
    fresh = type(provider.snapshot).build(provider.settings.options, users, groups, provider.snapshot)  # type: ignore[union-attr]
    room.desk.providers = Providers([replace(provider, snapshot=fresh)])
    answers = await ask(room, paper, connection, search_request(3, controls=(paged(10, cookie),)))
    found = [*first, *(answer.name for answer in answers[:-1])]
    assert len(found) == len(set(found))
    assert page_of(answers)[1] == 23


async def test_cookies_of_another_connection_and_of_another_user() -> None:
    """The same user may go on on another connection; somebody else may not."""
    room = Room()
    connection, paper = await bound(room)
    _, _, cookie = page_of(await ask(room, paper, connection, search_request(2, controls=(paged(3),))))
    connection, paper = await bound(room)
    assert (await ask(room, paper, connection, search_request(2, controls=(paged(3, cookie),))))[-1].code == 0
    room.login.may_search = False
    connection, paper = await bound(room)
    answers = await ask(room, paper, connection, search_request(2, controls=(paged(3, cookie),)))
    assert [answer.code for answer in answers] == [ResultCode.UNWILLING_TO_PERFORM]


async def test_unbound_with_controls() -> None:
    """The root DSE is open with pages too; below the base it stays 50."""
    connection, paper = connect(Room())
    say(connection, search_request(1, "", 0, controls=(paged(3),)), search_request(2, controls=(paged(3), sort("cn"))))
    answers = paper.take()
    assert isinstance(answers[0], SearchEntry)
    assert [answer.code for answer in answers[1:]] == [0, 50]  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", ["cached", "direct"])
async def test_order_views_and_values(mode: str) -> None:
    """Sort, list view and matched values together, from both modes."""
    room = Room(mode=mode)
    connection, paper = await bound(room)
    request = search_request(
        2, f"ou=users,{b}", 1, "(objectClass=user)", b"cn", b"memberOf",
        controls=(sort("-cn"), view(0, 1, 2), values(parse_text("(cn=*)"))),
    )  # fmt: skip
    *found, done = await ask(room, paper, connection, request)
    assert [entry.name[:6] for entry in found] == [b"cn=dav", b"cn=Car"]
    assert [(row.description, len(row.values)) for row in found[0].attributes] == [(b"cn", 1)]
    assert {control.oid for control in done.controls} == {ControlOid.SORT_RESPONSE, ControlOid.VLV_RESPONSE}


async def test_a_large_sort_lets_others_in_between() -> None:
    """More than a slice of work: another request is answered first."""
    room = Room(extra_users=3000)
    connection, paper = await bound(room)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "SLICE_S", 0.0)
        say(connection, search_request(2, controls=(sort("-uid"),)), search_request(3, text="(cn=alice)"))
        await until(lambda: len(room.witness.seen) == 3)
    ends = [answer.message_id for answer in paper.take() if not isinstance(answer, SearchEntry)]
    assert ends == [3, 2]


async def test_a_large_sort_can_be_abandoned() -> None:
    """No answer, and the connection goes on."""
    room = Room(extra_users=3000)
    connection, paper = await bound(room)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "SLICE_S", 0.0)
        say(connection, search_request(2, controls=(sort("-name"),)), AbandonRequest(3, 2))
        await until(lambda: not connection.outstanding)
    assert paper.take() == []
    say(connection, search_request(4, scope=0))
    assert codes(paper) == [0]


@pytest.mark.parametrize("control", [UNKNOWN, SESSION_TRACKING, SECURITY_DESCRIPTOR_FLAGS], ids=lambda one: one.oid)
async def test_ignored_and_refused(control: Control) -> None:
    """What is not known is ignored, or 12 when critical, on every operation."""
    connection, paper = await bound(Room())
    for one, expected in ((control, [0, 6, 0, 53]), (critical(control), [12] * 4)):
        say(
            connection,
            search_request(2, scope=0, controls=(one,)),
            CompareRequest(3, ALICE.encode(), b"cn", b"alice", (one,)),
            ExtendedRequest(4, Extension.WHO_AM_I, None, (one,)),
            DeleteRequest(5, ALICE.encode(), (one,)),
        )
        assert codes(paper) == expected


@pytest.mark.parametrize("mode", ["cached", "direct"])
async def test_compare_with_assertion(mode: str) -> None:
    """122 unless the assertion is true for the entry, also when it needs a count."""
    room = Room(mode=mode)
    connection, paper = await bound(room)
    for name, text, expected in (
        (ALICE, "(mail=alice@x.io)", 6),
        (ALICE, "(mail=x)", ResultCode.ASSERTION_FAILED),
        (f"ou=users,{b}", "(numSubordinates=5)", 6),
    ):
        attribute, value = (b"cn", b"alice") if name == ALICE else (b"commonName", b"users")
        request = CompareRequest(9, name.encode(), attribute, value, (asserted(parse_text(text)),))
        assert [answer.code for answer in await ask(room, paper, connection, request)] == [expected]


@pytest.mark.parametrize("mode", ["cached", "direct"])
async def test_79_compare_looks_at_the_entry(mode: str) -> None:
    """A value that names no entry is false, not a missing object: 5; a missing entry is 32."""
    room = Room(mode=mode)
    connection, paper = await bound(room)
    for name, attribute, value, expected in (
        (ALICE, b"memberOf", b"cn=nope,ou=groups," + b.encode(), 5),
        (ALICE, b"memberOf", b"no name", 5),
        (ALICE, b"memberOf", b"cn=ga,ou=groups," + b.encode(), 6),
        (ALICE, b"mail", b"nobody@x.io", 5),
        (ALICE, b"cn", b"bob", 5),
        (f"cn=zz,ou=users,{b}", b"cn", b"zz", 32),
        (f"ou=users,{b}", b"numSubordinates", b"5", 6),
    ):
        answers = await ask(room, paper, connection, CompareRequest(9, name.encode(), attribute, value))
        assert [answer.code for answer in answers] == [expected], (attribute, value)


@pytest.mark.parametrize("mode", ["cached", "direct"])
async def test_search_with_assertion(mode: str) -> None:
    """The base decides, whether the filter would find it or not."""
    room = Room(mode=mode)
    connection, paper = await bound(room)
    for text, expected in (("(mail=alice@x.io)", [0]), ("(mail=x)", [ResultCode.ASSERTION_FAILED])):
        request = search_request(9, ALICE, 0, "(cn=zz)", controls=(asserted(parse_text(text)),))
        assert [answer.code for answer in await ask(room, paper, connection, request)] == expected


async def test_dont_use_copy_asks_the_core() -> None:
    """RFC 6171: a directory in memory is a copy."""
    room = Room()
    connection, paper = await bound(room)
    original = Control(ControlOid.DONT_USE_COPY, True)
    answers = await ask(room, paper, connection, search_request(2, ALICE, 0, controls=(original,)))
    assert (len(answers), answers[-1].code, room.core.asked) == (2, 0, 1)
    request = CompareRequest(3, ALICE.encode(), b"cn", b"alice", (original,))
    assert [answer.code for answer in await ask(room, paper, connection, request)] == [6]
    assert room.core.asked == 2


async def test_bind_tells_who_was_bound() -> None:
    """Authorization identity (RFC 3829): with a successful bind only."""
    room = Room()
    asking = (Control(ControlOid.AUTHORIZATION_IDENTITY_REQUEST, True),)
    for password, expected in (("pw", [b"dn:" + ALICE.encode()]), ("no", [])):
        connection, paper = connect(room)
        say(connection, msgspec.structs.replace(bind_request(password=password), controls=asking))
        await until(partial(getattr, paper, "data"))
        (answer,) = paper.take()
        assert [control.value for control in answer.controls] == expected


@pytest.mark.parametrize(
    ("outcome", "code", "value"),
    [
        (None, 0, b"\x30\x00"),
        (Denied("invalid_credentials"), 49, b"\x30\x00"),
        (Denied("new_password_wanted", "the flow asks for a new password"), 49, b"\x30\x03\x81\x01\x00"),
        (Denied("flow_denied", "Password expired 3 days ago."), 49, b"\x30\x00"),
    ],
)
async def test_password_policy(outcome: Denied | None, code: int, value: bytes) -> None:
    """draft-behera-ldap-password-policy: passwordExpired when the core wants a new one, else nothing."""
    room = Room()
    room.login.outcome = outcome
    for controls_sent, expected in (((Control(ControlOid.PASSWORD_POLICY),), [value]), ((), [])):
        connection, paper = connect(room)
        say(connection, msgspec.structs.replace(bind_request(), controls=controls_sent))
        await until(partial(getattr, paper, "data"))
        (answer,) = paper.take()
        assert isinstance(answer, BindResponse)
        assert (answer.code, [control.value for control in answer.controls]) == (code, expected)


@pytest.mark.parametrize(
    ("asking", "code"),
    [((Control("1.2.3", True),), 12), ((Control(ControlOid.AUTHORIZATION_IDENTITY_REQUEST),) * 2, 2),
     ((Control("1.2.3"),), 0), ((paged(1, critical=True),), 12)],
)  # fmt: skip
async def test_bind_with_other_controls(asking: tuple[Control, ...], code: int) -> None:
    """Refused before any password is looked at."""
    room = Room()
    connection, paper = connect(room)
    say(connection, msgspec.structs.replace(bind_request(), controls=asking))
    await until(lambda: paper.data)
    assert codes(paper) == [code]


async def test_39_the_root_dse_names_them() -> None:
    """Every control that is honoured, no other; what is only refused well is not offered."""
    room = Room()
    connection, paper = await bound(room)
    (entry, _) = await ask(room, paper, connection, search_request(2, "", 0, "(objectClass=*)", b"supportedControl"))
    (attribute,) = entry.attributes
    offered = [value.decode() for value in attribute.values]
    assert len(set(offered)) == len(offered)
    assert set(offered) >= set(ADVERTISED)
    # the others are answers
    assert not (set(offered) - set(ADVERTISED)) & {row.oid for row in ROWS}
    assert ControlOid.PROXIED_AUTHORIZATION not in ADVERTISED
    assert {"1.2.840.113556.1.4.319", "1.2.840.113556.1.4.474", "2.16.840.1.113730.3.4.9"} <= set(ADVERTISED)


async def test_the_servers_limits() -> None:
    """Its size limit is 11, per page none; its time limit 3, the shorter of both counts."""
    room = Room(extra_users=100)
    connection, paper = await bound(room)
    room.desk.searches.size_limit = 3
    answers = await ask(room, paper, connection, search_request(2))
    assert (len(answers), answers[-1].code) == (4, 11)
    answers = await ask(room, paper, connection, search_request(3, size_limit=2))
    assert (len(answers), answers[-1].code) == (3, 4)
    assert page_of(await ask(room, paper, connection, search_request(4, controls=(paged(10),))))[0] == 3
    room.desk.searches.size_limit = 0
    room.desk.searches.time_limit_s = 1e-9
    answers = await ask(room, paper, connection, search_request(5, time_limit=60))
    assert (len(answers), answers[-1].code) == (1, 3)
