"""The cases of the core contract that show in a whole daemon, by their number, on the RADIUS daemon.

One daemon before the fake core for most of them; each flow has a provider, a client network, so an address of its own.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from outposts.radius import wire
from outposts.radius.eap.packet import EapType
from outposts.radius.rfc import Attribute, Code
from tests import certificates, daemons, factories
from tests.fakes import StubCore
from tests.radius.client import Nas
from tests.radius.desks import PASSWORD, SECRET, access_request, eap_request, status_request
from tests.radius.packets import packet
from tests.stub_flows import Ask, Deny, Identification, Login, Password, Stage, Validate

QUERY = "query=goauthentik.io%252Foutpost%252Fradius%3Dtrue"
WAIT_S = 20.0  # for what a busy machine does by and by

WEBAUTHN: dict[str, object] = {"device_class": "webauthn", "device_uid": "1", "challenge": {}, "last_used": None}
ONLY_A_KEY = Ask("ak-stage-authenticator-validate", {"device_challenges": [WEBAUTHN]})
SEPARATE: list[Stage] = [Identification(password=False), Password(), Login()]
CIRCLE = Ask("xak-flow-redirect", {"to": f"/api/v3/flows/executor/flow-5/?{QUERY}"})

# Row, stages, password, answers at most, reason of the Reject ("" for Accept)
FLOWS: list[tuple[str, list[Stage], str, int, str]] = [
    ("c35 separate password stage", SEPARATE, PASSWORD, 2, ""),
    ("c36 password with the name", [Identification(), Login()], PASSWORD, 1, ""),
    ("c39 nobody logged in", [Identification()], PASSWORD, 1, "not_authenticated"),
    ("c39 empty flow", [], PASSWORD, 0, "password_not_asked"),
    ("password never asked", [Identification(password=False), Login()], PASSWORD, 1, "password_not_asked"),
    ("c40 circle", [Identification(), CIRCLE, Login()], PASSWORD, 1, "flow_error"),
    ("c41 wrong at the password stage", SEPARATE, "wrong", 2, "invalid_credentials"),
    (
        "c42 restart",
        [Identification(password=False), Password(restart=True), Login()],
        "wrong",
        3,
        "invalid_credentials",
    ),
    ("c43 access denied", [Identification(), Deny("not today"), Login()], PASSWORD, 1, "flow_denied"),
    ("c44 unknown stage", [Identification(), Ask("ak-stage-captcha"), Login()], PASSWORD, 1, "unsupported_stage"),
    ("c44 from the future", [Identification(), Ask("ak-stage-2030"), Login()], PASSWORD, 1, "unsupported_stage"),
    ("c52 key only", [Identification(), ONLY_A_KEY, Login()], PASSWORD, 1, "mfa_required"),
    ("c53 c54 after the login", [Identification(), Login(), Ask("ak-stage-user-login")], PASSWORD, 2, ""),
]
CODES, PUSHED = len(FLOWS), len(FLOWS) + 1  # providers of the rows about second factors


@pytest.fixture(scope="module")
def core() -> Iterator[StubCore]:
    """The core of most rows: provider 7 for everybody, one for each flow."""
    with StubCore("radius") as made:
        made.users = [factories.user(1, "alice"), factories.user(2, "bob")]
        made.people.passwords.update(alice=PASSWORD, bob="pw")
        flows = [stages for _, stages, *_ in FLOWS] + [[Identification(), Validate(push=True), Login()]] * 2
        for number, stages in enumerate(flows):
            made.executor.flows[f"flow-{number}"] = stages
        made.providers["radius"] = [factories.radius_provider(7, client_networks="127.0.0.0/8")] + [
            factories.radius_provider(100 + number, client_networks=network_of(number), auth_flow_slug=f"flow-{number}")
            for number in range(len(flows))
        ]
        yield made


def network_of(number: int) -> str:
    """The client network of a flow."""
    return f"127.{100 + number}.0.0/16"


@pytest.fixture(scope="module")
def daemon(core: StubCore) -> Iterator[daemons.Daemon]:
    """The daemon of most rows; failures are never a wait."""
    environment = daemons.outpost_environment(core.url, core.token, OUTPOSTS_RADIUS__FAILURES="0")
    with daemons.running("radius", environment) as made:
        yield made


@pytest.fixture
def nas(daemon: daemons.Daemon, core: StubCore) -> Iterator[Nas]:
    """A client of provider 7, and a core that has forgotten its calls and faults."""
    core.clear_faults()
    core.forget()
    with Nas(daemon) as made:
        yield made


def reason(daemon: daemons.Daemon, user: str) -> str:
    """The reason in the last line about a user."""
    lines = [one for one in daemon.records() if one["event"] == "request" and one["user"] == user]
    return str(lines[-1].get("reason", "")) if lines else "no line"


def answers(core: StubCore) -> list[dict[str, object]]:
    """What was posted to flows."""
    return [call.body or {} for call in core.called("/flows/executor/", "POST")]


PORTS = {f"AUTHENTIK_LISTEN__{name}": "127.0.0.1:0" for name in daemons.LISTENERS}


@pytest.mark.parametrize(
    ("environment", "code", "said"),
    [
        ({"AUTHENTIK_TOKEN": "t"}, 1, "AUTHENTIK_HOST"),  # C01
        ({"AUTHENTIK_HOST": "http://127.0.0.1:1"}, 1, "AUTHENTIK_TOKEN"),
        (
            daemons.outpost_environment("http://127.0.0.1:1", "t", OUTPOSTS_RADIUS__DEADLINE="soon"),
            2,
            "DEADLINE",
        ),  # C05
        (daemons.outpost_environment("http://127.0.0.1:1", "t", OUTPOSTS_RADIUS__DEADLINES="3"), 2, "DEADLINE"),
    ],
)
def test_c01_c05_settings_that_are_refused(environment: dict[str, str], code: int, said: str) -> None:
    """Missing, of a value that is none, of a name that is none: the exit code, and the name of the setting."""
    daemon = daemons.launch("radius", [sys.executable, "-m", "outposts", "radius"], environment)
    try:
        assert daemon.process.wait(WAIT_S) == code
        assert said in daemon.text()
    finally:
        daemon.kill()


@pytest.mark.parametrize(
    ("case", "why"), [("c11", "outpost"), ("c12", "outpost"), ("c13", "type"), ("c14", "provider")]
)
def test_c11_to_c14_not_ready_but_alive(case: str, why: str) -> None:
    """Wrong token, no outpost, outpost of another type, no provider: alive, not ready, later all is well."""
    with StubCore("radius") as core:
        core.providers["radius"] = [factories.radius_provider(7)]
        outpost, providers, token = core.outpost, core.providers["radius"], core.token
        if case == "c11":
            core.token = "another"
        elif case == "c12":
            core.outpost = {}
        elif case == "c13":
            core.outpost = outpost | {"type": "ldap"}
        else:
            core.providers["radius"] = []
        environment = PORTS | daemons.outpost_environment(core.url, token)
        daemon = daemons.launch("radius", [sys.executable, "-m", "outposts", "radius"], environment)
        try:
            core.wait_for(lambda: len(core.called("/outposts/instances/")) >= 1, "first try")
            answer: tuple[int, bytes] = (0, b"")

            def says_why() -> bool:
                nonlocal answer
                answer = daemon.get("/readyz")
                return answer[0] == 503 and why in answer[1].decode().lower()

            daemon.wait_for(says_why, WAIT_S, lambda: f"/readyz says {answer}")
            assert daemon.get("/outpost.goauthentik.io/ping")[0] == 204
            core.token, core.outpost, core.providers["radius"] = token, outpost, providers
            daemon.signal(signal.SIGUSR1)
            daemon.wait_until_ready()
        finally:
            daemon.kill()


def test_c08_address_of_older_deployments(core: StubCore) -> None:
    """A single IPv4 address is bound."""
    environment = daemons.outpost_environment(core.url, core.token, AUTHENTIK_LISTEN__RADIUS="0.0.0.0:0")
    with daemons.running("radius", environment) as daemon, Nas(daemon) as nas:
        assert daemon.ready["radius"][0][0] == "0.0.0.0"
        nas.to = ("127.0.0.1", nas.to[1])
        assert nas.ask(status_request()).code == Code.ACCESS_ACCEPT


def test_c16_providers_break_off(daemon: daemons.Daemon, core: StubCore, nas: Nas) -> None:
    """The old set is kept when the list fails."""
    fault = core.fault("/outposts/radius/$", status=500)
    daemon.signal(signal.SIGUSR1)
    core.wait_for(lambda: fault.hits >= 1, "refresh")
    assert nas.ask(access_request()).code == Code.ACCESS_ACCEPT


def test_c21_updates_are_merged(daemon: daemons.Daemon, core: StubCore, nas: Nas) -> None:
    """Five in a row make one refresh."""
    core.wait_for(lambda: core.connected() >= 1, "WebSocket")
    for _ in range(5):
        core.push_update()
    core.wait_for(lambda: bool(core.called("/outposts/radius/$")), "refresh after an update", WAIT_S)
    daemon.signal(signal.SIGUSR1)
    core.wait_for(lambda: len(core.called("/outposts/radius/$")) >= 2, "refresh by signal", WAIT_S)
    assert len(core.called("/outposts/radius/$")) == 2


def test_c23_c24_session_ends_while_a_refresh_is_running(core: StubCore) -> None:
    """An EAP or password login whose session ended is not let in; ends of strangers do no harm."""
    environment = daemons.outpost_environment(core.url, core.token)
    with daemons.running("radius", environment) as daemon, Nas(daemon) as nas:
        core.clear_faults()
        core.forget()
        core.wait_for(lambda: core.connected() >= 1, "WebSocket")
        core.fault("/outposts/radius/$", delay_s=3.0, times=1)
        daemon.signal(signal.SIGUSR1)
        core.wait_for(lambda: bool(core.called("/outposts/radius/$")), "the refresh")
        core.push('{"instruction": 4, "args": {"session_id": "ff"}}')
        core.fault(r"/outposts/radius/\d+/check_access/", delay_s=1.0, times=1)
        octets = access_request(user=b"bob", password="pw")
        nas.send(octets)
        core.wait_for(lambda: bool(core.called(r"/outposts/radius/\d+/check_access/")), "the access check")
        for session in core.sessions_of("bob"):
            core.end_session(session)
        assert wire.verify_reply(nas.receive()[0], octets[4:20], SECRET).code == Code.ACCESS_REJECT
        daemon.wait_for(lambda: reason(daemon, "bob") == "session_ended", WAIT_S, lambda: reason(daemon, "bob"))


def test_c28_stop_answers_what_is_under_way(core: StubCore) -> None:
    """SIGTERM while a login waits for the core: it is answered, exit 0, WebSocket closed."""
    core.clear_faults()
    core.forget()
    before = core.connected()
    with daemons.running("radius", daemons.outpost_environment(core.url, core.token)) as daemon, Nas(daemon) as nas:
        core.wait_for(lambda: core.connected() == before + 1, "WebSocket")
        core.fault(r"/outposts/radius/\d+/check_access/", delay_s=1.0, times=1)
        octets = access_request()
        nas.send(octets)
        core.wait_for(lambda: bool(core.called(r"/outposts/radius/\d+/check_access/")), "the login is under way")
        daemon.signal(signal.SIGTERM)
        assert wire.verify_reply(nas.receive()[0], octets[4:20], SECRET).code == Code.ACCESS_ACCEPT
        assert daemon.process.wait(12) == 0
    core.wait_for(lambda: core.connected() == before, "WebSocket is closed")


def test_c29_healthcheck(daemon: daemons.Daemon) -> None:
    """0 beside a running daemon, 1 without."""
    command = [sys.executable, "-m", "outposts", "radius", "healthcheck"]
    environment = {"TMPDIR": str(daemon.folder), "PYTHONPATH": str(daemons.ROOT), "PATH": "/usr/bin"}
    assert subprocess.run(command, env=environment, timeout=20, check=False).returncode == 0
    environment["TMPDIR"] = str(daemon.folder / "nothing-here")
    assert subprocess.run(command, env=environment, timeout=20, check=False, capture_output=True).returncode == 1


def test_c30_c31_ping_and_metrics(daemon: daemons.Daemon) -> None:
    """204 without a body; the info metric says that this is RADIUS."""
    for method in ("GET", "HEAD"):
        assert daemon.get("/outpost.goauthentik.io/ping", method=method) == (204, b"")
    text = daemon.get("/metrics")[1].decode()
    (info,) = [line for line in text.splitlines() if line.startswith("authentik_outpost_info{")]
    assert 'outpost_type="radius"' in info and info.endswith(" 1.0")


def test_c32_c33_login_calls_on_the_wire(core: StubCore, nas: Nas) -> None:
    """The query to the octet, both delegation headers, no Authorization."""
    assert nas.ask(access_request()).code == Code.ACCESS_ACCEPT
    calls = core.called("/flows/executor/bind-flow/")
    assert {call.raw_query for call in calls} == {QUERY}
    calls += core.called(r"/outposts/radius/\d+/check_access/")
    assert len(calls) >= 3
    for call in calls:
        assert "authorization" not in call.headers, call.path
        assert call.headers["x-authentik-outpost-token"] == core.token
        assert call.headers["x-authentik-remote-ip"] == "127.0.0.1"
        assert call.headers["user-agent"].startswith("goauthentik.io/outpost/")


def test_c34_mapped_addresses_are_unmapped(core: StubCore) -> None:
    """A client of a dual-stack socket is known by its IPv4 address."""
    environment = daemons.outpost_environment(core.url, core.token, AUTHENTIK_LISTEN__RADIUS="[::]:0")
    with daemons.running("radius", environment) as daemon, Nas(daemon) as nas:
        core.clear_faults()
        core.forget()
        nas.to = ("127.0.0.1", nas.to[1])
        assert nas.ask(access_request()).code == Code.ACCESS_ACCEPT
    addresses = {call.headers["x-authentik-remote-ip"] for call in core.called("/flows/executor/", "POST")}
    assert addresses == {"127.0.0.1"}


@pytest.mark.parametrize("number", range(len(FLOWS)), ids=[row for row, *_ in FLOWS])
def test_c35_c36_c39_to_c44_c52_to_c54_flows(daemon: daemons.Daemon, core: StubCore, nas: Nas, number: int) -> None:
    """Accept, or Reject with its reason; never more answers than needed, and no access check without a login."""
    _, _, password, given, why = FLOWS[number]
    with Nas(daemon, f"127.{100 + number}.0.1") as client:
        reply = client.ask(access_request(password=password))
    assert reply.code == (Code.ACCESS_REJECT if why else Code.ACCESS_ACCEPT)
    daemon.wait_for(lambda: reason(daemon, "alice") == why, WAIT_S, lambda: f"{why}, not {reason(daemon, 'alice')}")
    posted = answers(core)
    assert len(posted) <= given
    assert sum("password" in answer for answer in posted) <= 1
    assert all(answer.get("remember_me", False) is False for answer in posted)
    assert len(core.called(r"/outposts/radius/\d+/check_access/")) == (0 if why else 1)


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("/flows/executor/", {"status": 500}),
        ("/flows/executor/", {"status": 404, "html": True}),
        ("/flows/executor/", {"status": 200, "body": {"component": "ak-stage-flow-error", "request_id": "x"}}),
        (r"/outposts/radius/\d+/check_access/", {"status": 404}),
        (r"/outposts/radius/\d+/check_access/", {"status": 500}),
    ],
    ids=["c45 500", "c45 flow deleted", "c45 flow error", "c55 404", "c55 500"],
)
def test_c45_c55_errors_of_the_core_are_not_wrong_passwords(
    core: StubCore, daemon: daemons.Daemon, nas: Nas, path: str, what: dict[str, object]
) -> None:
    """No reply, so that the client asks its next server; the log says why, and the core's no is another matter."""
    user = f"nobody-{len(daemon.records())}"
    core.people.passwords[user] = "pw"
    fault = core.fault(path, **what)
    nas.send(access_request(user=user.encode(), password="pw"))
    core.wait_for(lambda: fault.hits >= 1, "the fault", WAIT_S)
    daemon.wait_for(lambda: reason(daemon, user) == "core_error", WAIT_S, lambda: reason(daemon, user))
    assert nas.silent(packet(99))
    core.clear_faults()
    core.denied.add(user)
    assert nas.ask(access_request(user=user.encode(), password="pw")).code == Code.ACCESS_REJECT
    daemon.wait_for(lambda: reason(daemon, user) == "access_denied", WAIT_S, lambda: reason(daemon, user))


def test_c46_c50_a_code_goes_alone(core: StubCore, daemon: daemons.Daemon, nas: Nas) -> None:
    """With TOTP and Duo a given code is sent by itself."""
    core.people.codes["alice"] = {"123456"}
    try:
        with Nas(daemon, f"127.{100 + CODES}.0.1") as client:
            assert client.ask(access_request(password=f"{PASSWORD};123456")).code == Code.ACCESS_ACCEPT
    finally:
        del core.people.codes["alice"]
    first, second = answers(core)
    assert first["password"] == PASSWORD
    assert second == {"component": "ak-stage-authenticator-validate", "code": "123456"}


def test_c51_push(core: StubCore, daemon: daemons.Daemon, nas: Nas) -> None:
    """Without a code Duo is asked, with the whole challenge and its number; a copy meanwhile asks nobody again."""
    fault = core.fault("/flows/executor/flow-", delay_s=0.5)
    octets = access_request()
    with Nas(daemon, f"127.{100 + PUSHED}.0.1") as client:
        client.send(octets)
        core.wait_for(lambda: fault.hits >= 1, "the login", WAIT_S)
        client.send(octets)
        assert wire.verify_reply(client.receive()[0], octets[4:20], SECRET).code == Code.ACCESS_ACCEPT
    (sent,) = [body for body in answers(core) if body.get("component") == "ak-stage-authenticator-validate"]
    assert sent["duo"] == 7
    assert isinstance(sent["selected_challenge"], dict)
    assert set(sent["selected_challenge"]) == {"device_class", "device_uid", "challenge", "last_used"}


def test_c57_logout(core: StubCore) -> None:
    """With ``x_radius_logout`` the log-out has the session's cookie, and the session is gone."""
    environment = daemons.outpost_environment(core.url, core.token, OUTPOSTS_RADIUS__LOGOUT="true")
    core.people.passwords["carol"] = "pw"
    with daemons.running("radius", environment) as daemon, Nas(daemon) as nas:
        assert nas.ask(access_request(user=b"carol", password="pw")).code == Code.ACCESS_ACCEPT
        core.wait_for(lambda: not core.sessions_of("carol"), "the session ends", WAIT_S)


def test_c58_c59_certificates() -> None:
    """EAP begins when the core has a certificate, with a new one after a change; a 404 keeps the old one."""
    pair = certificates.key_pair("radius.example")
    stored = {"fingerprint": pair.fingerprint, "certificate": pair.certificate, "key": pair.key}
    with StubCore("radius") as core:
        core.providers["radius"] = [factories.radius_provider(7, certificate="pair")]
        core.certificates["pair"] = stored
        with daemons.running("radius", daemons.outpost_environment(core.url, core.token)) as daemon, Nas(daemon) as nas:

            def offers_tls() -> bool:
                reply = nas.ask(eap_request(b"\x02\x09\x00\x0a\x01alice"))
                eap = reply.joined(Attribute.EAP_MESSAGE)
                return reply.code == Code.ACCESS_CHALLENGE and eap[4] == EapType.TLS

            def refresh() -> None:
                core.forget()
                before = time.time()
                daemon.signal(signal.SIGUSR1)
                daemon.wait_for(lambda: updated(daemon) >= before, WAIT_S, lambda: "a refresh")

            assert offers_tls()
            refresh()
            assert core.called("/crypto/") and not core.called(".*view_private_key"), "the same needs no download"
            core.certificates["pair"] = {
                "fingerprint": (second := certificates.key_pair("radius.example")).fingerprint,
                "certificate": second.certificate,
                "key": second.key,
            }
            refresh()
            assert core.called(".*view_private_key") and offers_tls()
            core.certificates.clear()
            core.forget()
            daemon.signal(signal.SIGUSR1)
            core.wait_for(lambda: len(core.called("/crypto/")) >= 1, "the certificate is looked at")
            assert offers_tls()


def updated(daemon: daemons.Daemon) -> float:
    """When the configuration was last fetched, from the metrics."""
    text = daemon.get("/metrics")[1].decode()
    return max(
        float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("authentik_outpost_last_update")
    )


def test_c60_concurrent_logins_do_not_mix(core: StubCore, daemon: daemons.Daemon, nas: Nas) -> None:
    """Each login's calls carry its own name, cookie and password; each client gets its own reply."""
    people = {f"user-{number}": f"pw-{number}" for number in range(6)}
    core.people.passwords |= people
    core.denied.add("user-5")

    def login(name: str) -> Code:
        with Nas(daemon) as client:
            return Code(client.ask(access_request(user=name.encode(), password=people[name])).code)

    names = [*people] * 3
    with ThreadPoolExecutor(len(names)) as pool:
        for name, code in zip(names, pool.map(login, names), strict=True):
            assert code == (Code.ACCESS_REJECT if name == "user-5" else Code.ACCESS_ACCEPT)
    given = answers(core)
    assert len(given) == len(names)
    for answer in given:
        assert people[str(answer["uid_field"])] == answer["password"]
