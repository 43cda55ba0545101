"""The LDAP case table, rows 75 to 87: malformed messages, rights, a core that fails; real daemon, fake core."""

from __future__ import annotations

import signal

import pytest

from tests.ldap.sides import (
    ALICE,
    CONTAINERS,
    GROUPS,
    USERS,
    VIRTUAL,
    B,
    Side,
    Starter,
    b,
    bind_with_code,
    folded,
    group,
    user,
    virtual,
)
from tests.ldap_client import (
    BASE,
    NOTICE_OF_DISCONNECTION,
    SUB,
    WHO_AM_I,
    Closed,
    boolean,
    equality,
    integer,
    message,
    octets,
    search_operation,
    tlv,
)

# -- malformed messages -----------------------------------------------------------------------------------------------

EMPTY_CONTROL = message(1, search_operation(b), [tlv(0x30)])
MALFORMED = {
    "75 inner length beyond the packet": bytes.fromhex("30020205"),
    "75 huge length": bytes.fromhex("3088") + b"\xff" * 8,
    "75 length of 4 GiB": bytes.fromhex("3084ffffffff"),
    "75 empty control": EMPTY_CONTROL,
    "76 empty sequence": bytes.fromhex("3000"),
    "76 message id not an integer": tlv(0x30, octets("x"), search_operation(b)),
    "76 HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "75 indefinite length": bytes.fromhex("3080020101") + search_operation(b) + b"\0\0",
    "75 negation of nothing": message(1, search_operation(b, SUB, tlv(0xA2))),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_row_75_76_malformed_messages_end_only_their_connection(direct: Side, data: bytes) -> None:
    """That connection is closed, any answer before it is an error, everybody else goes on."""
    with direct.bound() as other, direct.client() as client:
        client.send(data)
        rest = client.wait_closed()
        assert b"\x0a\x01\x00" not in rest
        assert other.search(ALICE, BASE).dns == [ALICE]
    assert direct.daemon.alive()


def test_row_75_deep_nesting_ends_only_its_connection(direct: Side) -> None:
    """A filter of ten thousand levels is refused without recursion; the daemon goes on."""
    filter = equality("cn", "x")
    for _ in range(10_000):
        filter = tlv(0xA2, filter)
    with direct.bound() as other, direct.bound() as client:
        number = client.request(search_operation(b, SUB, filter))
        try:
            assert client.answer(number).code != 0
        except (Closed, AssertionError):
            client.close()
        assert other.search(ALICE, BASE).dns == [ALICE]
    assert direct.daemon.alive()


def test_row_75_announced_length_is_not_reserved(direct: Side) -> None:
    """Before a bind a message of a gigabyte is refused at its header."""
    with direct.client() as client:
        client.send(bytes.fromhex("30844000000002010160"))
        client.wait_closed()
    assert direct.daemon.alive()


def test_row_78_search_with_seven_elements(direct: Side) -> None:
    """Protocol error, closed."""
    with direct.bound() as client:
        parts = [octets(b), integer(0, 0x0A), integer(0, 0x0A), integer(0), integer(0), boolean(False)]
        client.send(message(9, tlv(0x63, *parts, equality("cn", "x"))))
        assert b"\x0a\x01\x02" in client.wait_closed()


def test_row_79_compare_and_writes(side: Side) -> None:
    """Compare answers; nothing can be written: 53 or 50, open."""
    with side.bound() as client:
        assert client.compare(ALICE, "mail", "ALICE@x.io").code == 6
        assert client.compare(ALICE, "mail", "bob@x.io").code == 5
        assert client.compare(user("zz"), "mail", "x").code == 32
        for tag in (0x68, 0x66, 0x6C):  # add, modify, modify DN
            operation = (
                tlv(tag, octets(ALICE), tlv(0x30))
                if tag != 0x6C
                else tlv(tag, octets(ALICE), octets("cn=x"), boolean(True))
            )
            assert client.answer(client.request(operation)).code in (50, 53)
        assert client.answer(client.request(octets(ALICE, 0x4A))).code in (50, 53)
        assert client.is_open()


def test_row_80_who_am_i(side: Side) -> None:
    """The authorisation id (RFC 4532), empty for nobody; an unknown operation is 2."""
    with side.client() as client:
        anonymous = client.extended(WHO_AM_I)
        assert (anonymous.code, anonymous.value or b"") == (0, b"")
        assert client.bind(ALICE, "pw").code == 0
        answer = client.extended(WHO_AM_I)
        assert answer.code == 0
        assert answer.value is not None
        assert answer.value.decode().lower() == f"dn:{ALICE}"
        assert client.extended("1.2.3.4").code == 2


def test_row_81_abandon_of_an_idle_id(side: Side) -> None:
    """No response, open."""
    with side.bound() as client:
        client.request(integer(99, 0x50))
        assert client.search(ALICE, BASE).dns == [ALICE]


def test_row_82_unknown_operation(side: Side) -> None:
    """Notice of disconnection with 2, closed."""
    with side.bound() as client:
        client.request(tlv(0x7E, octets("x")))
        rest = client.wait_closed()
    assert NOTICE_OF_DISCONNECTION.encode() in rest
    assert b"\x0a\x01\x02" in rest


# -- rights, failures -------------------------------------------------------------------------------------------------


def test_row_83_without_the_search_right(side: Side) -> None:
    """Base, containers, the own entry, own groups with the own membership only, the own virtual group."""
    side.core.searchers = set()
    side.core.people.passwords["alice"] = "pw-row-83"
    with side.bound(password="pw-row-83") as client:
        answer = client.search(b, SUB)
    assert answer.code == 0
    assert sorted(answer.dns) == sorted([B, *CONTAINERS, ALICE, group("ga"), group("gb"), virtual("alice")])
    members = {entry.dn: entry["member"] for entry in answer.entries if entry.dn in GROUPS}
    assert members == {group("ga"): [ALICE], group("gb"): [ALICE]}


def test_row_84_without_the_search_right_others_are_not_there(side: Side) -> None:
    """0, empty; nor can they be found by what they have."""
    side.core.searchers = set()
    side.core.people.passwords["alice"] = "pw-row-84"
    with side.bound(password="pw-row-84") as client:
        for base, scope, filter in [
            (user("bob"), BASE, "(objectClass=*)"),
            (group("gc"), BASE, "(objectClass=*)"),
            (b, SUB, "(cn=bob)"),
            (b, SUB, "(mail=bob@x.io)"),
            (b, SUB, f"(member={user('bob')})"),
        ]:
            answer = client.search(base, scope, filter)
            assert (answer.code, answer.dns) == (0, []), (base, filter)


def test_row_85_a_list_that_breaks_in_the_middle(start: Starter) -> None:
    """Page 2 failing is tried again a few times, then 52 and no entries."""
    side = start("direct", {"AUTHENTIK_LDAP__PAGE_SIZE": "2"})
    with side.bound() as client:
        assert len(client.search(b, SUB).entries) == 17
        fault = side.core.fault("/core/users/", status=500, query={"page": "2"})
        answer = client.search(b, SUB, "(objectClass=user)")
        assert (answer.code, answer.dns) == (52, [])
        assert 1 <= fault.hits <= 5
        side.core.clear_faults()
        assert len(client.search(b, SUB, "(objectClass=user)").entries) == 5


def test_row_86_a_failed_refresh_keeps_the_snapshot(start: Starter) -> None:
    """Everything is still served."""
    side = start("cached")
    with side.bound() as client:
        fault = side.core.fault("/core/users/$", status=500)
        side.daemon.signal(signal.SIGUSR1)
        side.core.wait_for(lambda: fault.hits >= 1, "the list is read")
        assert len(client.search(b, SUB).entries) == 17
        side.core.wait_for(lambda: fault.hits >= 3, "the list is tried three times", 30.0)
        assert len(client.search(b, SUB).entries) == 17
        side.core.clear_faults()
        side.core.users.pop()
        side.refresh()
        side.daemon.wait_for(lambda: len(client.search(b, SUB).entries) == 15, 10.0, lambda: "the new list is served")


@pytest.mark.parametrize("mode", ["direct", "cached"])
def test_row_87_one_bad_object_does_not_hide_the_others(start: Starter, mode: str) -> None:
    """The others are served; the bad one is counted and logged."""
    side = start(mode)
    side.core.users.append(dict(side.core.users[0], pk=9, username=None, attributes="no object"))
    side.core.users.sort(key=lambda item: str(item["username"]))
    side.core.groups.append(dict(side.core.groups[0], pk=None, name="broken"))
    if mode == "cached":
        side.refresh()
    with side.bound() as client:
        answer = client.search(b, SUB, "(objectClass=*)")
    assert answer.code == 0
    assert set(folded([*USERS, *GROUPS, *VIRTUAL])) <= set(folded(answer.dns))
    assert len(answer.dns) == 17
    (complaint,) = [record for record in side.daemon.records() if record.get("count") == 2]
    assert complaint["level"] == "error"
    assert side.metric("outposts_snapshot_skipped_objects") == 2


def test_two_people_never_meet(side: Side) -> None:
    """Rights belong to the connection: one with the search right does not lend it to another."""
    side.core.searchers = {"svc"}
    side.core.people.passwords |= {"svc": "pw-meet", "bob": "pw-meet"}
    with side.bound("svc", "pw-meet") as all_seeing, side.bound("bob", "pw-meet") as narrow:
        assert len(all_seeing.search(b, SUB, "(objectClass=user)").entries) == 5
        assert narrow.search(b, SUB, "(objectClass=user)").dns == [user("bob")]
        assert len(all_seeing.search(b, SUB, "(objectClass=user)").entries) == 5


def test_secrets_stay_out_of_the_log(side: Side) -> None:
    """Neither password, code, token nor cookie is in any log line."""
    assert bind_with_code(side, "secret-pw-log;654321", "secret-pw-log", "654321") == 0
    with side.client() as client:
        client.bind(ALICE, "secret-wrong-log")
    text = side.daemon.text()
    assert "secret-pw-log" not in text
    assert "secret-wrong-log" not in text
    assert "654321" not in text
    assert side.core.token not in text
    assert "authentik_session=" not in text
