"""The case table of spec §13 over UDP: the real daemon before the fake core. One daemon for most rows.

Rows about EAP methods are in ``test_conversations``, challenges in ``test_challenge*``, accounting and disconnecting in
their own files; packets that are dropped are in ``test_intake`` too, one by one.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from outposts.radius import wire
from outposts.radius.rfc import Attribute, Code
from tests import daemons, factories, peer_programs, stub_flows
from tests.fakes import StubCore
from tests.radius.client import Nas
from tests.radius.desks import PASSWORD, SECRET, access_request, attributes_of, blob, eap_request, status_request
from tests.radius.packets import VECTORS, flip, packet

OTHER_SECRET = b"another secret"
NOWHERE = "127.9.9.9"  # in no client network

PROVIDERS = [
    factories.radius_provider(7, client_networks="127.0.0.0/16", mfa_support=True),
    factories.radius_provider(8, client_networks="127.1.0.0/16", mfa_support=False),
    factories.radius_provider(9, client_networks="127.2.0.0/16", auth_flow_slug="empty-flow"),
    factories.radius_provider(10, client_networks="127.3.0.5/16, foo, 127.4.0.7,", shared_secret=OTHER_SECRET.decode()),
    factories.radius_provider(11, client_networks=""),
    factories.radius_provider(12, client_networks="127.5.0.0/16", shared_secret=""),
    factories.radius_provider(13, client_networks="127.6.0.0/16", shared_secret="schlüssel-秘密"),
]


def fill(core: StubCore) -> None:
    """Alice with a password, bob with a code too, providers for all rows."""
    core.providers["radius"] = [dict(one) for one in PROVIDERS]
    core.users = [factories.user(1, "alice"), factories.user(2, "bob"), factories.user(3, "eve")]
    core.people.passwords.update(alice=PASSWORD, bob="pw", eve="pw")
    core.people.codes["bob"] = {"123456"}
    core.executor.flows["empty-flow"] = []
    core.denied.add("eve")


@pytest.fixture(scope="module")
def core() -> Iterator[StubCore]:
    """The core of all rows."""
    with StubCore("radius") as made:
        fill(made)
        yield made


@pytest.fixture(scope="module")
def daemon(core: StubCore) -> Iterator[daemons.Daemon]:
    """The daemon of all rows; its failures are never a wait, its Status-Server never too many."""
    settings = {"OUTPOSTS_RADIUS__STATUS_RATE": "0", "OUTPOSTS_RADIUS__FAILURES": "0"}
    with daemons.running("radius", daemons.outpost_environment(core.url, core.token, **settings)) as made:
        yield made


@pytest.fixture
def nas(daemon: daemons.Daemon, core: StubCore) -> Iterator[Nas]:
    """A client of provider 7, and a core that has forgotten its calls and faults."""
    core.clear_faults()
    core.forget()
    with Nas(daemon) as made:
        yield made


def posts(core: StubCore) -> int:
    """How many passwords were sent to the core."""
    return sum("password" in (call.body or {}) for call in core.called("/flows/executor/", "POST"))


def test_r01_the_vector(nas: Nas, core: StubCore) -> None:
    """Accept, id 7, signed first, nothing else."""
    reply = nas.ask(VECTORS["ours-pap-request"])
    assert (reply.code, reply.identifier, attributes_of(reply)) == (Code.ACCESS_ACCEPT, 7, ())
    [call] = core.called("/outposts/radius/7/check_access/")
    assert call.query["app_slug"] == "radius-app-7"
    assert core.called("/flows/executor/bind-flow/")[0].headers["x-authentik-remote-ip"] == "127.0.0.1"
    query = core.called("/flows/executor/bind-flow/")[0].raw_query
    assert query == "query=goauthentik.io%252Foutpost%252Fradius%3Dtrue"


def test_r06_a_secret_of_other_letters(daemon: daemons.Daemon, nas: Nas) -> None:
    """Its UTF-8 octets are the key."""
    secret = "schlüssel-秘密".encode()
    with Nas(daemon, "127.6.0.1") as other:
        assert other.ask(access_request(secret=secret), secret).code == Code.ACCESS_ACCEPT


def test_r07_proxy_state(nas: Nas) -> None:
    """Both come back, in order."""
    reply = nas.ask(access_request((Attribute.PROXY_STATE, b"a"), (Attribute.PROXY_STATE, b"b")))
    assert attributes_of(reply) == ((33, b"a"), (33, b"b"))


@pytest.mark.parametrize(("user", "password"), [(b"alice", "wrong"), (b"nobody", PASSWORD)])
def test_r08_wrong_password_and_unknown_user(nas: Nas, core: StubCore, user: bytes, password: str) -> None:
    """Reject; the password is posted once."""
    assert nas.ask(access_request(user=user, password=password)).code == Code.ACCESS_REJECT
    assert posts(core) == 1


def test_r10_a_policy_denies(nas: Nas, daemon: daemons.Daemon) -> None:
    """Reject access_denied, in the log and the metrics."""
    assert nas.ask(access_request(user=b"eve", password="pw")).code == Code.ACCESS_REJECT
    daemon.wait_for(lambda: last_reason(daemon, "eve") == "access_denied", 10, lambda: "the line of eve")
    text = daemon.get("/metrics")[1].decode()
    assert re.search(r'radius_requests_rejected_total\{[^}]*reason="access_denied"[^}]*\} 1\.0', text)


def last_reason(daemon: daemons.Daemon, user: str) -> str:
    """The reason in the last line about a user."""
    lines = [one for one in daemon.records() if one["event"] == "request" and one["user"] == user]
    return str(lines[-1].get("reason", "")) if lines else "no line"


def test_r11_a_redirect_without_login(daemon: daemons.Daemon, nas: Nas) -> None:
    """A flow that asks nothing logs nobody in."""
    with Nas(daemon, "127.2.0.1") as other:
        assert other.ask(access_request(user=b"r11")).code == Code.ACCESS_REJECT
    daemon.wait_for(lambda: last_reason(daemon, "r11") == "password_not_asked", 10, lambda: "the line of r11")


def test_r12_the_core_is_down_and_comes_back(nas: Nas, core: StubCore) -> None:
    """No reply; the very next copy is answered when the core is back."""
    octets = access_request()
    core.fault("/flows/", status=503)
    nas.send(octets)
    core.wait_for(lambda: bool(core.called("/flows/")), "the login")
    assert nas.silent(packet(99))
    core.clear_faults()
    deadline = time.monotonic() + 20
    while True:  # the first copy may still be in progress
        nas.send(octets)
        nas.send(status := status_request(identifier=253))
        reply = nas.receive()[0]
        if reply[1] != 253:
            assert wire.verify_reply(reply, octets[4:20], SECRET).code == Code.ACCESS_ACCEPT
            return
        assert wire.verify_reply(reply, status[4:20], SECRET)
        assert time.monotonic() < deadline


def test_r43_check_access_fails(nas: Nas, core: StubCore) -> None:
    """500 is a core error: silence, not Accept."""
    core.fault("/outposts/radius/7/check_access/", status=500)
    nas.send(access_request())
    core.wait_for(lambda: bool(core.called("/outposts/radius/7/check_access/")), "the access check")
    assert nas.silent(packet(99))


@pytest.mark.parametrize(("password", "host", "expected"), [
    ("pw;123456", "127.0.0.1", Code.ACCESS_ACCEPT),  # R14
    ("pw;000000", "127.0.0.1", Code.ACCESS_REJECT),
    ("pw;123456", "127.1.0.1", Code.ACCESS_REJECT),  # R15: the whole string is the password
    ("pw", "127.0.0.1", Code.ACCESS_REJECT),  # R16
])  # fmt: skip
def test_r14_r15_r16_codes(
    daemon: daemons.Daemon, core: StubCore, nas: Nas, password: str, host: str, expected: Code
) -> None:
    """Split only where the provider says so."""
    with Nas(daemon, host) as client:
        assert client.ask(access_request(user=b"bob", password=password)).code == expected
    sent = [call.body["password"] for call in core.called("/flows/", "POST") if "password" in (call.body or {})]
    assert sent == [password if host == "127.1.0.1" else "pw"]


def test_r21_r22_copies(nas: Nas, core: StubCore) -> None:
    """Three at once: one flow, one reply; one later: the same octets, no flow."""
    core.fault("/outposts/radius/", delay_s=0.5, times=1)
    octets = access_request(user=b"bob", password="pw;123456")
    for _ in range(3):
        nas.send(octets)
    reply, _ = nas.receive()
    assert wire.verify_reply(reply, octets[4:20], SECRET).code == Code.ACCESS_ACCEPT
    calls = len(core.calls)
    nas.send(octets)
    assert nas.receive()[0] == reply
    assert len(core.calls) == calls
    assert posts(core) == 1


def test_r23_another_authenticator(nas: Nas, core: StubCore) -> None:
    """A new flow."""
    for _ in range(2):
        assert nas.ask(access_request(identifier=7)).code == Code.ACCESS_ACCEPT
    assert posts(core) == 2


def test_r26_r27_odd_networks(daemon: daemons.Daemon, nas: Nas) -> None:
    """Host bits are masked, a bare address is a host, the rest is an error that takes nobody down."""
    for host, served in (("127.3.200.1", True), ("127.4.0.7", True), ("127.4.0.8", False), (NOWHERE, False)):
        with Nas(daemon, host) as other:
            octets = access_request(secret=OTHER_SECRET)
            other.send(octets)
            if served:
                assert wire.verify_reply(other.receive()[0], octets[4:20], OTHER_SECRET).code == Code.ACCESS_ACCEPT
            else:
                nas.ask(status_request())  # answered after it was read
                other._socket.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    other.receive()
    text = daemon.get("/metrics")[1].decode()
    assert "authentik_outpost_radius_config_errors 2.0" in text  # a network that is none, a secret that is empty
    assert daemon.get("/readyz")[0] == 200


def test_r30_equal_secrets(daemon: daemons.Daemon, core: StubCore, nas: Nas) -> None:
    """Each client gets its own application."""
    for host, pk in (("127.0.0.1", 7), ("127.1.0.1", 8)):
        core.forget()
        with Nas(daemon, host) as client:
            assert client.ask(access_request()).code == Code.ACCESS_ACCEPT
        assert [call.path for call in core.called("/outposts/radius/")] == [f"/outposts/radius/{pk}/check_access/"]


@pytest.mark.parametrize(
    "octets",
    [
        VECTORS["ours-pap-request"][:19],
        packet(1, length=18),
        packet(1, length=4000),
        VECTORS["ours-pap-request"] + bytes(5000),
        packet(1, b"\x04\x00"),
        packet(1, b"\x04\x01"),
        packet(1, b"\x04\x20abc"),
        *(packet(code) for code in (2, 3, 5, 11, 40, 43, 99)),
        flip(VECTORS["ours-pap-request"], 8 * 30),
        access_request((Attribute.MESSAGE_AUTHENTICATOR, bytes(15)), sign=False),
        access_request((Attribute.PROXY_STATE, b"x"), sign=False),
        access_request(secret=b"wrong"),
        eap_request(b"\x02\x01\x00\x0a\x01alice", sign=False),
        eap_request(b"\x02"),
        eap_request(b"\x02\x01\x00\x04"),
        status_request(sign=False),
        VECTORS["ours-accounting-request"],
    ],
)
def test_r04_r05_r09_r31_r33_r34_r44_r45_silence(nas: Nas, core: StubCore, octets: bytes) -> None:
    """Where the spec wants silence, there is silence, and no flow; the next request is answered."""
    assert nas.silent(octets)
    assert core.called("/flows/") == []


def test_r31_octets_behind_the_packet(nas: Nas) -> None:
    """Are padding."""
    octets = access_request()
    nas.send(octets + bytes(10))
    assert wire.verify_reply(nas.receive()[0], octets[4:20], SECRET).code == Code.ACCESS_ACCEPT


HIDDEN = int(Attribute.USER_PASSWORD)


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (access_request((HIDDEN, bytes(15)), user=b"r35", password=None), "malformed_password"),
        (access_request((HIDDEN, bytes(17)), user=b"r35", password=None), "malformed_password"),
        (access_request((HIDDEN, bytes(144)), user=b"r35", password=None), "malformed_password"),
        (access_request((HIDDEN, b"\xff" * 16), user=b"r35", password=None), "undecodable_password"),
        (access_request((Attribute.CHAP_PASSWORD, bytes(17)), user=b"r35", password=None), "unsupported_auth"),
        (access_request(user=b"r35", password=None), "no_password"),
    ],
)
def test_r35_to_r38_refused_without_a_flow(
    nas: Nas, core: StubCore, daemon: daemons.Daemon, octets: bytes, reason: str
) -> None:
    """A Reject at once."""
    assert nas.ask(octets).code == Code.ACCESS_REJECT
    assert core.called("/flows/") == []
    daemon.wait_for(lambda: last_reason(daemon, "r35") == reason, 10, lambda: f"the line with {reason}")


@pytest.mark.parametrize("user", [None, b"", b"\xff\xfe"])
def test_r38_names(nas: Nas, core: StubCore, user: bytes | None) -> None:
    """Missing, empty, not UTF-8."""
    assert nas.ask(access_request(user=user)).code == Code.ACCESS_REJECT
    assert core.called("/flows/") == []


VLAN = ((64, bytes((0, 0, 0, 13))), (65, bytes((0, 0, 0, 6))), (81, b"20"))


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (None, ()),  # R39
        ("!!!", None),  # R40
        ("AQAA", None),
        (blob((79, b"x"), (80, bytes(16)), (24, b"s"), (33, b"p"), (18, b"hi")), ((18, b"hi"),)),  # R41
        (blob(*VLAN), VLAN),  # R42
    ],
)
def test_r39_to_r42_attributes(
    nas: Nas, core: StubCore, attributes: str | None, expected: wire.Attributes | None
) -> None:
    """What the core says, in its order; a blob that cannot be read is a Reject."""
    before, core.attributes = core.attributes, attributes
    try:
        reply = nas.ask(access_request())
        denied = nas.ask(access_request(user=b"eve", password="pw"))
    finally:
        core.attributes = before
    assert denied.code == Code.ACCESS_REJECT
    if expected is None:
        assert reply.code == Code.ACCESS_REJECT
    else:
        assert (reply.code, attributes_of(reply)) == (Code.ACCESS_ACCEPT, expected)


def test_r46_r47_eap_without_certificate(nas: Nas) -> None:
    """Start: the name is asked for; a name: Reject with EAP-Failure of its id."""
    start = nas.ask(eap_request(b""))
    assert start.code == Code.ACCESS_CHALLENGE and start.joined(Attribute.EAP_MESSAGE)[4] == 1
    refused = nas.ask(eap_request(b"\x02\x09\x00\x0a\x01alice"))
    assert refused.code == Code.ACCESS_REJECT
    assert refused.joined(Attribute.EAP_MESSAGE) == bytes((4, 9, 0, 4))


def test_r56_nak_first_and_unknown_state(nas: Nas) -> None:
    """No crash; Reject."""
    for octets in (eap_request(b"\x02\x01\x00\x06\x03\x15"), eap_request(b"\x02\x01\x00\x06\x0d\x00", (24, b"mine"))):
        reply = nas.ask(octets)
        assert reply.code == Code.ACCESS_REJECT
        assert reply.joined(Attribute.EAP_MESSAGE) == bytes((4, 1, 0, 4))


def test_r60_status_server(nas: Nas, core: StubCore) -> None:
    """The vector; no flow."""
    nas.send(VECTORS["ours-status-request"])
    assert nas.receive()[0] == VECTORS["ours-status-reply"]
    assert core.called("/flows/") == []


def test_no_secret_is_in_the_log(daemon: daemons.Daemon, nas: Nas) -> None:
    """Of all that was sent above."""
    nas.ask(access_request(user=b"bob", password="pw;123456"))
    text = daemon.text()
    for secret in (PASSWORD, "123456", SECRET.decode(), OTHER_SECRET.decode(), "schlüssel"):
        assert secret not in text


# --- daemons of their own ---


@pytest.fixture
def own_core() -> Iterator[StubCore]:
    """A core for one test."""
    with StubCore("radius") as made:
        fill(made)
        yield made


def test_r02_r03_policies(own_core: StubCore) -> None:
    """auto: taken with a warning until the client has signed; yes: never."""
    environment = daemons.outpost_environment(own_core.url, own_core.token)
    with daemons.running("radius", environment) as daemon, Nas(daemon) as nas:
        assert nas.ask(access_request(sign=False)).code == Code.ACCESS_ACCEPT
        assert nas.ask(access_request()).code == Code.ACCESS_ACCEPT
        assert nas.silent(access_request(sign=False))
        text = daemon.get("/metrics")[1].decode()
        assert "authentik_outpost_radius_without_message_authenticator_total 1.0" in text
        assert sum("no Message-Authenticator" in one["event"] for one in daemon.records()) == 1
        own_core.outpost["config"]["x_radius_require_message_authenticator"] = {"radius-8": "yes", "*": "no"}
        own_core.push_update()
        daemon.wait_for(lambda: taken(nas), 20, lambda: "the new policy")
        with Nas(daemon, "127.1.0.1") as other:
            other.send(access_request(sign=False))
            assert other.silent(packet(99))


def taken(nas: Nas) -> bool:
    """Whether an unsigned request is answered."""
    octets = access_request(sign=False)
    nas.send(octets)
    nas.send(status_request(identifier=254))
    replies = [nas.receive()[0]]
    if replies[0][1] == 254:
        nas._socket.settimeout(1.0)
        try:
            replies.append(nas.receive()[0])
        except TimeoutError:
            return False
        finally:
            nas._socket.settimeout(20.0)
    return any(wire.decode(reply).identifier == octets[1] for reply in replies)


def test_r12_r60_status_server_is_silent_while_the_core_is_down(own_core: StubCore, tmp_path: Path) -> None:
    """A daemon that starts from its sealed configuration, before a core that does not answer, says so by silence."""
    state = tmp_path / "state"
    environment = daemons.outpost_environment(
        own_core.url, own_core.token, OUTPOSTS_STATE_DIR=str(state), OUTPOSTS_RADIUS__ON_CORE_ERROR="reject"
    )
    with daemons.running("radius", environment) as daemon, Nas(daemon) as nas:
        assert nas.ask(status_request()).code == Code.ACCESS_ACCEPT
    own_core.fault("/", status=503)
    with daemons.running("radius", environment) as daemon, Nas(daemon) as nas:
        fence = access_request((HIDDEN, bytes(15)), password=None, identifier=254)
        nas.send(status_request())
        own_core.wait_for(lambda: len(own_core.called("/root/config/")) > 1, "the look at the core")
        nas.send(fence)
        reply = nas.receive()[0]
        assert reply[1] == 254
        # ``on_core_error=reject``
        assert nas.ask(access_request()).code == Code.ACCESS_REJECT


def test_r13_a_late_result_is_not_sent(own_core: StubCore) -> None:
    """The deadline is a second here; the next copy gets it."""
    environment = daemons.outpost_environment(own_core.url, own_core.token, OUTPOSTS_RADIUS__DEADLINE="1s")
    with daemons.running("radius", environment) as daemon, Nas(daemon) as nas:
        own_core.fault("/outposts/radius/", delay_s=2.0, times=1)
        octets = access_request(user=b"alice")
        nas.send(octets)
        daemon.wait_for(lambda: last_reason(daemon, "alice") == "deadline", 20, lambda: "the late result")
        assert nas.silent(packet(99))
        nas.send(octets)
        assert wire.verify_reply(nas.receive()[0], octets[4:20], SECRET).code == Code.ACCESS_ACCEPT
        assert posts(own_core) == 1


def test_r28_ipv4_on_a_socket_for_everybody(own_core: StubCore) -> None:
    """``[::]``: IPv4 peers match IPv4 networks; the core is told a dotted address; replies come from where asked."""
    environment = daemons.outpost_environment(own_core.url, own_core.token, AUTHENTIK_LISTEN__RADIUS="[::]:0")
    own_core.providers["radius"] = [factories.radius_provider(7)]
    with daemons.running("radius", environment) as daemon:
        with Nas(daemon, "127.0.0.1") as nas:
            octets = access_request()
            nas.send(octets, "127.0.0.77")
            reply, where = nas.receive()
            assert wire.verify_reply(reply, octets[4:20], SECRET).code == Code.ACCESS_ACCEPT
            assert where == "127.0.0.77"
        assert own_core.called("/flows/")[0].headers["x-authentik-remote-ip"] == "127.0.0.1"
        with Nas(daemon, "::1") as nas:
            octets = access_request()
            nas.send(octets, "::1")
            reply, where = nas.receive()
            assert wire.verify_reply(reply, octets[4:20], SECRET).code == Code.ACCESS_ACCEPT and where == "::1"
            assert own_core.called("/flows/")[-1].headers["x-authentik-remote-ip"] == "::1"


def test_several_sockets_and_radclient(own_core: StubCore) -> None:
    """FreeRADIUS' client gets its Accept on each of them."""
    environment = daemons.outpost_environment(
        own_core.url, own_core.token, AUTHENTIK_LISTEN__RADIUS="127.0.0.1:0,127.0.0.2:0"
    )
    with daemons.running("radius", environment) as daemon:
        assert len(daemon.ready["radius"]) == 2
        for host, port in daemon.ready["radius"]:
            octets = access_request()
            with Nas(daemon, "127.0.0.1") as nas:
                nas.to = (host, port)
                assert nas.ask(octets).code == Code.ACCESS_ACCEPT


def test_draining_answers_what_is_in_progress(own_core: StubCore) -> None:
    """SIGTERM while a login runs: its reply is sent, then the daemon ends with 0."""
    environment = daemons.outpost_environment(own_core.url, own_core.token)
    with daemons.running("radius", environment) as daemon, Nas(daemon) as nas:
        own_core.fault("/outposts/radius/", delay_s=1.0, times=1)
        octets = access_request()
        nas.send(octets)
        own_core.wait_for(lambda: bool(own_core.called("/flows/")), "the login")
        assert daemon.stop() == 0
        assert wire.verify_reply(nas.receive()[0], octets[4:20], SECRET).code == Code.ACCESS_ACCEPT


def test_logout_after_the_login(own_core: StubCore) -> None:
    """``x_radius_logout``: the session that the login made is ended."""
    own_core.outpost["config"]["x_radius_logout"] = True
    environment = daemons.outpost_environment(own_core.url, own_core.token)
    with daemons.running("radius", environment) as daemon, Nas(daemon) as nas:
        assert nas.ask(access_request()).code == Code.ACCESS_ACCEPT
        own_core.wait_for(lambda: not own_core.sessions_of("alice"), "the log-out")
        own_core.outpost["config"]["x_radius_logout"] = False
        own_core.push_update()
        own_core.wait_for(lambda: len(own_core.called("/outposts/radius/", "GET")) > 2, "the refresh")


def test_a_refresh_changes_what_is_served(own_core: StubCore) -> None:
    """Another secret from now on; a provider that is gone answers nobody."""
    environment = daemons.outpost_environment(own_core.url, own_core.token)
    with daemons.running("radius", environment) as daemon, Nas(daemon) as nas:
        assert nas.ask(access_request()).code == Code.ACCESS_ACCEPT
        own_core.providers["radius"][0]["shared_secret"] = "changed"
        own_core.push_update()

        def changed() -> bool:
            octets = access_request(secret=b"changed")
            nas.send(octets)
            nas._socket.settimeout(1.0)
            try:
                return wire.decode(nas.receive()[0]).identifier == octets[1]
            except TimeoutError:
                return False
            finally:
                nas._socket.settimeout(20.0)

        daemon.wait_for(changed, 20, lambda: "the new secret")


@pytest.mark.peer
def test_radclient(own_core: StubCore) -> None:
    """Accept, Reject and Status-Server as FreeRADIUS' own client sees them."""
    program = peer_programs.program("radclient")
    environment = daemons.outpost_environment(own_core.url, own_core.token)
    with daemons.running("radius", environment) as daemon:
        host, port = daemon.address("radius")
        for kind, words, expected in (
            ("auth", f"User-Name=alice,User-Password={PASSWORD},Message-Authenticator=0x00", "Access-Accept"),
            ("auth", "User-Name=alice,User-Password=wrong,Message-Authenticator=0x00", "Access-Reject"),
            ("status", "Message-Authenticator=0x00", "Access-Accept"),
        ):
            done = subprocess.run(
                [program, "-x", "-t", "20", "-r", "1", f"{host}:{port}", kind, SECRET.decode()],
                input=words,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert f"Received {expected}" in done.stdout, done.stdout + done.stderr


def test_stub_flows_are_what_the_rows_assume() -> None:
    """The flow of most rows asks for name and password, then a code, then logs in."""
    kinds = [type(stage) for stage in StubCore("radius").executor.flows["bind-flow"]]
    assert kinds == [stub_flows.Identification, stub_flows.Validate, stub_flows.Login]
