"""The LDAP case table, rows 1 to 37: binds, codes, TLS and providers; real daemon process, fake core.

Test names carry the row's number. Where the answer must be the same whether the provider reads the core for each
request or serves from its snapshot, the test runs in both modes. Rows 38 to 74 are in test_conformance_search.py,
the rest in test_conformance_failures.py.
"""

from __future__ import annotations

import ssl
import time
from collections import Counter
from email.utils import formatdate

import pytest

from tests import certificates
from tests.ldap.sides import (
    ALICE,
    B,
    Side,
    Starter,
    b,
    bind_with_code,
    posts,
    user,
)
from tests.ldap_client import (
    BASE,
    START_TLS,
    SUB,
    Client,
    Closed,
    extended_operation,
    message,
    search_operation,
)
from tests.stub_flows import Ask, Deny, Identification, Login, Password

# -- bind -------------------------------------------------------------------------------------------------------------


def test_row_01_bind_with_the_right_password(side: Side) -> None:
    """0."""
    with side.client() as client:
        assert client.bind(ALICE, "pw").code == 0


def test_row_02_letter_case_of_the_dn_does_not_matter(side: Side) -> None:
    """0, and the flow sees the name as it was written."""
    side.core.people.passwords["alice"] = "pw-row-02"
    with side.client() as client:
        assert client.bind(f"CN=alice,OU=USERS,{B.upper()}", "pw-row-02").code == 0
    assert posts(side)[0]["uid_field"] == "alice"


def test_row_03_wrong_password(side: Side) -> None:
    """49, open."""
    with side.client() as client:
        assert client.bind(ALICE, "wrong").code == 49
        assert client.bind(ALICE, "pw").code == 0


def test_row_04_bind_directly_under_the_base(side: Side) -> None:
    """0."""
    with side.client() as client:
        assert client.bind(f"cn=alice,{B}", "pw").code == 0


@pytest.mark.parametrize(
    ("name", "code"),
    [(f"uid=alice,ou=users,{b}", 50), ("alice", 50), (f"cn=alice,,ou=users,{b}", 34), (f"cn=a\\zz,{b}", 34)],
)
def test_row_05_names_that_no_provider_takes(side: Side, name: str, code: int) -> None:
    """50, and 34 for what is no DN; open, no flow."""
    with side.client() as client:
        assert client.bind(name, "pw").code == code
        assert client.is_open()
    assert not posts(side)


def test_row_06_anonymous_bind(side: Side) -> None:
    """50, open."""
    with side.client() as client:
        assert client.bind("", "").code == 50
        assert client.is_open()


def test_row_07_unauthenticated_bind(side: Side) -> None:
    """A name without a password is 53 (RFC 4513 section 5.1.2) and never reaches a flow."""
    with side.client() as client:
        assert client.bind(ALICE, "").code == 53
        assert client.search(b, BASE).code == 50
    assert not side.core.called("/flows/executor/bind-flow/", "POST")


def test_row_08_spaces_in_the_dn_do_not_matter(side: Side) -> None:
    """0: DNs compare, not strings."""
    with side.client() as client:
        assert client.bind("cn=alice, ou=users, dc=ldap, dc=goauthentik, dc=io", "pw").code == 0


def test_row_09_a_glued_suffix_is_another_base(side: Side) -> None:
    """50, no flow."""
    with side.client() as client:
        assert client.bind(f"cn=alice,x{b}", "pw").code == 50
    assert not posts(side)


def test_row_10_protocol_version_2(side: Side) -> None:
    """2, no flow."""
    with side.client() as client:
        assert client.bind(ALICE, "pw", version=2).code == 2
    assert not posts(side)


def test_row_11_sasl_without_tls(direct: Side) -> None:
    """Mechanisms that send a password or need a certificate want TLS: 13; unknown ones: 7."""
    with direct.client() as client:
        assert client.sasl("PLAIN", b"\0alice\0pw").code == 13
        assert client.sasl("EXTERNAL", b"").code == 13
        assert client.sasl("CRAM-MD5").code == 7
        assert client.search(b, BASE).code == 50


@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "GSSAPI", "SCRAM-SHA-256", "", "PLAIN2"])
def test_row_12_sasl_mechanisms_that_are_not_there(direct: Side, mechanism: str) -> None:
    """7 on TLS, no flow, nobody bound."""
    with direct.client(tls=True) as client:
        assert client.sasl(mechanism, f"dn:{ALICE}".encode()).code == 7
        assert client.search(b, BASE).code == 50
    assert not posts(direct)


@pytest.mark.parametrize(
    "stage",
    [
        Deny("no"),
        Ask("ak-stage-consent", {"token": "t"}),
        Ask("ak-stage-password", endless=True),
        Ask("ak-stage-dummy", endless=True),
        Ask("ak-stage-captcha"),
    ],
    ids=["deny", "consent", "endless password", "endless dummy", "captcha"],
)
def test_row_13_flows_that_do_not_end_well(side: Side, stage: Deny | Ask) -> None:
    """49; no answer is given twice, at most 20 in all."""
    side.core.people.passwords["alice"] = "pw-row-13"
    side.core.executor.flows["bind-flow"] = [Identification(), stage, Login()]
    with side.client() as client:
        assert client.bind(ALICE, "pw-row-13").code == 49
        assert client.is_open()
    given = Counter(str(body) for body in posts(side))
    assert sum(given.values()) <= 20
    assert set(given.values()) == {1}


def test_row_13_a_flow_that_starts_again_is_not_answered_again(side: Side) -> None:
    """A stage that silently restarts the flow on a wrong password sees that password once."""
    side.core.executor.flows["bind-flow"] = [Identification(password=False), Password(restart=True), Login()]
    with side.client() as client:
        assert client.bind(ALICE, "wrong-row-13").code == 49
    given = [body for body in posts(side) if body.get("password") == "wrong-row-13"]
    assert len(given) == 1


def test_row_14_access_refused(side: Side) -> None:
    """50."""
    side.core.people.passwords["alice"] = "pw-row-14"
    side.core.denied.add("alice")
    with side.client() as client:
        assert client.bind(ALICE, "pw-row-14").code == 50
        assert client.search(b, BASE).code == 50


@pytest.mark.parametrize("status", [500, 404])
def test_row_15_access_check_fails(side: Side, status: int) -> None:
    """52, never 0."""
    side.core.people.passwords["alice"] = "pw-row-15"
    side.core.fault(r"/outposts/ldap/\d+/check_access/", status=status)
    with side.client() as client:
        assert client.bind(ALICE, "pw-row-15").code == 52
        assert client.search(b, BASE).code == 50


def test_row_16_user_information_fails(side: Side) -> None:
    """52."""
    side.core.people.passwords["alice"] = "pw-row-16"
    side.core.fault("/core/users/me/", status=500)
    with side.client() as client:
        assert client.bind(ALICE, "pw-row-16").code == 52


@pytest.mark.parametrize("what", [{"reset": True}, {"status": 503}, {"html": True}, {"truncated": True}])
def test_row_17_18_core_out_of_order(side: Side, what: dict[str, object]) -> None:
    """52 for credentials that nobody has seen succeed, whatever way the core fails; never 0, never 49."""
    side.core.fault("/flows/executor/", **what)
    with side.client() as client:
        assert client.bind(ALICE, "pw-row-17").code == 52
        assert client.is_open()


@pytest.mark.parametrize("mode", ["direct", "cached"])
def test_row_17_18_core_unreachable(start: Starter, mode: str) -> None:
    """52 in both modes; a cached success is still honoured in cached mode."""
    side = start(mode)
    with side.client() as client:
        assert client.bind(ALICE, "pw").code == 0
    side.core.stop()
    with side.client() as client:
        assert client.bind(ALICE, "other").code == 52
        assert client.bind(user("bob"), "pw").code == 52
        assert client.bind(ALICE, "pw").code == (0 if mode == "cached" else 52)


def test_row_19_a_known_bind_is_answered_from_the_cache(cached: Side) -> None:
    """0, without a call, in whatever letter case."""
    cached.core.people.passwords["bob"] = "pw-row-19"
    with cached.client() as client:
        assert client.bind(user("bob"), "pw-row-19").code == 0
        cached.core.forget()
        assert client.bind(user("BOB").upper(), "pw-row-19").code == 0
        assert client.bind(user("bob"), "pw-row-19").code == 0
    assert not cached.core.calls


def test_row_20_a_wrong_password_is_not_remembered_for_long(cached: Side) -> None:
    """49 twice; when it becomes the right one, a bind succeeds within seconds."""
    with cached.client() as client:
        assert client.bind(user("bob"), "pw-row-20").code == 49
        assert client.bind(user("bob"), "pw-row-20").code == 49
        cached.core.people.passwords["bob"] = "pw-row-20"
        cached.daemon.wait_for(
            lambda: client.bind(user("bob"), "pw-row-20").code == 0, 10.0, lambda: "the mended password is accepted"
        )


def test_row_21_the_cookies_end_ends_the_cached_bind(cached: Side) -> None:
    """The flow runs again after ``Expires``."""
    cached.core.people.passwords["bob"] = "pw-row-21"
    expires = formatdate(time.time() + 2, usegmt=True)
    cached.core.executor.flows["bind-flow"] = [Identification(), Login(expires=expires)]
    with cached.client() as client:
        assert client.bind(user("bob"), "pw-row-21").code == 0
        cached.core.executor.flows["bind-flow"] = [Identification(), Login()]
        cached.core.forget()

        def asked_again() -> bool:
            assert client.bind(user("bob"), "pw-row-21").code == 0
            return bool(posts(cached))

        cached.daemon.wait_for(asked_again, 10.0, lambda: "the flow runs again after the cookie's end")


def test_row_22_a_cookie_without_end_does_not_last_for_ever(start: Starter) -> None:
    """``bind_cache_max`` bounds it: then a revoked access is seen."""
    side = start("cached", {"OUTPOSTS_LDAP__BIND_CACHE_MAX": "1"})
    with side.client() as client:
        assert client.bind(ALICE, "pw").code == 0
        side.core.denied.add("alice")
        side.daemon.wait_for(lambda: client.bind(ALICE, "pw").code == 50, 10.0, lambda: "revoked access is seen")


def test_row_23_session_end_drops_the_cached_bind(cached: Side) -> None:
    """The flow runs again."""
    cached.core.people.passwords["bob"] = "pw-row-23"
    cached.core.wait_for(lambda: cached.core.connected() == 1, "WebSocket")
    with cached.client() as client:
        assert client.bind(user("bob"), "pw-row-23").code == 0
        (session, *_) = cached.core.sessions_of("bob")[-1:]
        cached.core.forget()
        cached.core.end_session(session)
        client.wait_closed()
    with cached.client() as client:
        assert client.bind(user("bob"), "pw-row-23").code == 0
    assert posts(cached)


def test_row_24_session_end_closes_all_connections_of_the_session(cached: Side) -> None:
    """Both connections end; one of another session stays."""
    cached.core.people.passwords["bob"] = "pw-row-24"
    cached.core.wait_for(lambda: cached.core.connected() == 1, "WebSocket")
    with cached.client() as first, cached.client() as second, cached.bound("svc") as other:
        assert first.bind(user("bob"), "pw-row-24").code == 0
        assert second.bind(user("bob"), "pw-row-24").code == 0
        cached.core.end_session(cached.core.sessions_of("bob")[-1])
        first.wait_closed()
        second.wait_closed()
        assert other.search(b, BASE).code == 0


def test_row_25_a_new_bind_flow_is_used_after_a_refresh(cached: Side) -> None:
    """The next bind runs the new flow."""
    cached.core.executor.flows["new-flow"] = [Identification(), Login()]
    cached.core.providers["ldap"][0]["bind_flow_slug"] = "new-flow"
    cached.core.people.passwords["bob"] = "pw-row-25"
    cached.refresh()
    cached.core.forget()
    with cached.client() as client:
        assert client.bind(user("bob"), "pw-row-25").code == 0
    assert {call.path for call in cached.core.called("/flows/executor/", "POST")} == {"/flows/executor/new-flow/"}
    cached.core.providers["ldap"][0]["bind_flow_slug"] = "bind-flow"
    cached.refresh()


# -- codes ------------------------------------------------------------------------------------------------------------


def test_row_26_six_digits_are_a_code(side: Side) -> None:
    """``pw;123456`` is the password ``pw`` and the code ``123456``."""
    assert bind_with_code(side, "pw;123456", "pw", "123456") == 0
    given = {key: value for body in posts(side) for key, value in body.items()}
    assert (given["password"], given["code"]) == ("pw", "123456")


def test_row_27_eight_letters_and_digits_are_a_code(side: Side) -> None:
    """A static token."""
    assert bind_with_code(side, "pw;abcd1234", "pw", "abcd1234") == 0


@pytest.mark.parametrize("sent", ["pw28", "pw28;", "pw28;12345", "pw28;abcdef", "pw28;abcd-234", "pw28;1234567"])
def test_row_28_anything_else_is_the_password(side: Side, sent: str) -> None:
    """Whole, and no code is sent."""
    side.core.people.passwords["alice"] = sent
    with side.client() as client:
        assert client.bind(ALICE, sent).code == 0
    assert [body.get("password") for body in posts(side)] == [sent]
    assert not any("code" in body for body in posts(side))


def test_row_28_without_a_code_the_second_factor_refuses(side: Side) -> None:
    """A user with a device and no code in the password is refused."""
    assert bind_with_code(side, "pw28", "pw28", "123456") == 49


def test_row_29_the_last_semicolon_divides(side: Side) -> None:
    """``a;b;123456`` is ``a;b`` and ``123456``."""
    assert bind_with_code(side, "a;b;123456", "a;b", "123456") == 0


@pytest.mark.parametrize("mode", ["direct", "cached"])
def test_row_30_without_mfa_support_nothing_is_divided(start: Starter, mode: str) -> None:
    """Both answers are the whole string."""
    side = start(mode, mfa_support=False)
    assert bind_with_code(side, "pw;123456", "pw;123456", "pw;123456") == 0
    assert bind_with_code(side, "pw2;123456", "pw2", "123456") == 49


def test_row_31_a_sign_is_no_digit(side: Side) -> None:
    """``pw;+12345`` is a password."""
    side.core.people.passwords["alice"] = "pw;+12345"
    with side.client() as client:
        assert client.bind(ALICE, "pw;+12345").code == 0
    assert posts(side)[0]["password"] == "pw;+12345"


def test_row_32_a_failed_bind_ends_the_earlier_one(side: Side) -> None:
    """RFC 4511 section 4.2.1: then nobody is bound."""
    with side.bound() as client:
        assert client.search(b, BASE).code == 0
        assert client.bind(ALICE, "wrong").code == 49
        assert client.search(b, BASE).code == 50


# -- TLS, PROXY, several providers ------------------------------------------------------------------------------------


def test_row_33_start_tls(side: Side) -> None:
    """0 with the response name, then a bind over TLS."""
    with side.client() as client:
        answer = client.extended(START_TLS)
        assert (answer.code, answer.name) == (0, START_TLS)
        client.start_tls()
        assert client.bind(ALICE, "pw").code == 0
        assert client.search(ALICE, BASE).dns == [ALICE]


def test_row_33_what_came_before_tls_is_not_believed(direct: Side) -> None:
    """A request pipelined behind StartTLS in clear text is never answered inside TLS."""
    with direct.client() as client:
        smuggled = message(2, search_operation("", BASE))
        client.send(message(1, extended_operation(START_TLS)) + smuggled)
        try:
            client.receive()
            client.start_tls()
            client.number = 10
            assert client.search("", BASE).code == 0
        except (Closed, ssl.SSLError, ConnectionResetError):
            pass  # refusing the connection is as good


def test_row_34_start_tls_where_it_makes_no_sense(direct: Side) -> None:
    """1 on LDAPS and the second time; the connection stays."""
    with direct.client(tls=True) as client:
        assert client.extended(START_TLS).code == 1
        assert client.is_open()
    with direct.client() as client:
        assert client.extended(START_TLS).code == 0
        client.start_tls()
        assert client.extended(START_TLS).code == 1
        assert client.is_open()


def test_row_35_the_address_in_a_proxy_header_counts(direct: Side) -> None:
    """From a trusted peer; the core is told the address in it."""
    direct.core.people.passwords["alice"] = "pw-row-35"
    with direct.client() as client:
        client.send(b"PROXY TCP4 192.0.2.55 192.0.2.1 56324 389\r\n")
        assert client.bind(ALICE, "pw-row-35").code == 0
    calls = direct.core.called("/flows/executor/bind-flow/", "POST")
    assert {call.headers["x-authentik-remote-ip"] for call in calls} == {"192.0.2.55"}


def test_row_36_the_certificate_follows_the_server_name(start: Starter) -> None:
    """Two providers with their own pairs: each name gets its own certificate, any other name one of them."""
    side = start("direct")
    pairs = {name: certificates.key_pair(name) for name in ("ldap.one", "ldap.two")}
    only = side.core.providers["ldap"][0]
    side.core.providers["ldap"] = []
    for number, (name, pair) in enumerate(pairs.items(), 1):
        side.core.certificates[name] = {
            "fingerprint": pair.fingerprint,
            "certificate": pair.certificate,
            "key": pair.key,
        }
        base = f"dc=p{number}"
        provider = dict(only, pk=number, name=name, base_dn=base, certificate=name, tls_server_name=name)
        side.core.providers["ldap"].append(provider)
    side.refresh()
    for name, pair in pairs.items():
        with Client(side.daemon.address("ldaps"), tls=True, server_name=name) as client:
            assert isinstance(client.socket, ssl.SSLSocket)
            assert client.socket.getpeercert(binary_form=True) == pair.der


@pytest.mark.parametrize("names", [("a", "z"), ("z", "a")], ids=["short base first", "long base first"])
def test_row_37_the_most_specific_provider_serves(start: Starter, names: tuple[str, str]) -> None:
    """Bind and search go to the same provider, whatever their order."""
    side = start("direct")
    short, long = names
    side.core.executor.flows["short-flow"] = [Deny()]
    side.core.providers["ldap"] = [
        dict(side.core.providers["ldap"][0], pk=1, name=long),
        dict(
            side.core.providers["ldap"][0], pk=2, name=short, base_dn="dc=io",
            bind_flow_slug="short-flow", application_slug="other-app",
        ),
    ]  # fmt: skip
    side.refresh()
    with side.bound() as client:
        assert client.search(b, BASE).dns == [B]
        assert len(client.search(b, SUB).entries) == 17
