"""The cases of the core contract that show in a whole daemon, by their number, on the LDAP daemon."""

from __future__ import annotations

import json
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import certificates, daemons
from tests.fakes import StubCore
from tests.ldap.sides import ALICE, Side, Starter, b, posts, user
from tests.ldap_client import BASE, Client, bind_operation
from tests.stub_flows import Ask, Identification, Login, Password, Stage, Validate

WARM_UP = "query=goauthentik.io%252Foutpost%252Fldap%3Dtrue%26goauthentik.io%252Foutpost%252Fldap-warmup%3Dtrue"
QUERY = "query=goauthentik.io%252Foutpost%252Fldap%3Dtrue"


def ended(environment: dict[str, str]) -> tuple[int, str]:
    """Start the daemon with settings that it must refuse; its exit code and what it said."""
    daemon = daemons.launch("ldap", [sys.executable, "-m", "outposts", "ldap"], environment)
    try:
        return daemon.process.wait(20), daemon.text()
    finally:
        daemon.kill()


@pytest.fixture
def core() -> Iterator[StubCore]:
    """A core for one test."""
    with StubCore() as core:
        core.load_conformance(search_mode="cached", bind_mode="cached")
        yield core


def test_c01_missing_host_or_token(core: StubCore) -> None:
    """Usage, exit 1, no traffic."""
    code, said = ended({"AUTHENTIK_TOKEN": "t"})
    assert code == 1
    assert "AUTHENTIK_HOST" in said
    code, said = ended({"AUTHENTIK_HOST": core.url})
    assert code == 1
    assert "AUTHENTIK_TOKEN" in said
    assert not core.calls


@pytest.mark.parametrize("value", ["file://{folder}/token?x", "env://OTHER_VARIABLE?x"])
def test_c02_token_from_a_file_or_another_variable(core: StubCore, tmp_path: Path, value: str) -> None:
    """White space around it is cut."""
    (tmp_path / "token").write_text(f"{core.token}\n")
    environment = daemons.outpost_environment(core.url, value.format(folder=tmp_path), OTHER_VARIABLE=core.token)
    with daemons.running("ldap", environment):
        assert core.called("/outposts/instances/")


@pytest.mark.parametrize("slash", ["", "/"])
def test_c03_a_core_below_a_path(slash: str) -> None:
    """With and without the final slash, for API, logins and WebSocket."""
    with StubCore(sub_path="/auth") as core:
        core.load_conformance()
        with daemons.running("ldap", daemons.outpost_environment(core.url + slash, core.token)) as daemon:
            core.wait_for(lambda: core.connected() == 1, "WebSocket")
            with Client(daemon.address("ldap")) as client:
                assert client.bind(ALICE, "pw").code == 0


def test_c04_query_of_the_host_goes_to_the_websocket(core: StubCore) -> None:
    """``foo=bar``, ``instance_uuid`` and ``attempt=0``; then a complete hello."""
    with daemons.running("ldap", daemons.outpost_environment(f"{core.url}?foo=bar", core.token)):
        core.wait_for(lambda: bool(core.hellos), "hello")
        (first, *_) = core.called("/ws/outpost/")
    assert (first.query["foo"], first.query["attempt"]) == ("bar", "0")
    assert first.query["instance_uuid"] == core.hellos[0]["uuid"]
    for key in ("version", "buildHash", "uuid", "golangVersion", "opensslVersion", "hostname"):
        assert isinstance(core.hellos[0][key], str), key
    for key in ("opensslEnabled", "fipsEnabled"):
        assert isinstance(core.hellos[0][key], bool), key


def test_c05_a_bad_value_names_the_variable(core: StubCore) -> None:
    """Exit 2; no traffic."""
    code, said = ended(daemons.outpost_environment(core.url, core.token, AUTHENTIK_DEBUG="maybe"))
    assert code == 2
    assert "AUTHENTIK_DEBUG" in said
    code, said = ended(daemons.outpost_environment(core.url, core.token, OUTPOSTS_LDAP__NESTED_GROUP="true"))
    assert code == 2
    assert "OUTPOSTS_LDAP__NESTED_GROUPS" in said
    assert not core.calls


def test_c06_a_self_signed_core(tmp_path: Path) -> None:
    """With ``AUTHENTIK_INSECURE=True`` API, logins and WebSocket connect; without it nothing does."""
    pair = certificates.key_pair("localhost")
    (tmp_path / "pair.pem").write_text(pair.certificate + pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")
    with StubCore(tls=context) as core:
        core.load_conformance()
        environment = daemons.outpost_environment(core.url, core.token, AUTHENTIK_INSECURE="True")
        with daemons.running("ldap", environment) as daemon:
            core.wait_for(lambda: core.connected() == 1, "WebSocket")
            with Client(daemon.address("ldap")) as client:
                assert client.bind(ALICE, "pw").code == 0
        core.forget()
        environment["AUTHENTIK_INSECURE"] = "False"
        checked = daemons.launch("ldap", [sys.executable, "-m", "outposts", "ldap"], PORTS | environment)
        try:
            checked.wait_for(lambda: "refresh failed" in checked.text(), 20.0, lambda: "complaint")
        finally:
            checked.kill()
        assert not core.calls


PORTS = {f"AUTHENTIK_LISTEN__{name}": "127.0.0.1:0" for name in daemons.LISTENERS}


def test_c07_several_metrics_addresses(core: StubCore) -> None:
    """Both are bound."""
    environment = daemons.outpost_environment(core.url, core.token)
    environment["AUTHENTIK_LISTEN__METRICS"] = "127.0.0.1:0, 127.0.0.2:0"
    with daemons.running("ldap", environment) as daemon:
        assert [address[0] for address in daemon.ready["metrics"]] == ["127.0.0.1", "127.0.0.2"]


def test_c09_a_core_that_is_starting(core: StubCore) -> None:
    """503 with Retry-After: waits that long, goes on, does not exit."""
    body = {"error": "authentik starting"}
    core.fault("/outposts/instances/", status=503, headers={"Retry-After": "2"}, body=body, times=1)
    with daemons.running("ldap", daemons.outpost_environment(core.url, core.token)):
        first, second, *_ = core.called("/outposts/instances/")
    assert second.at - first.at >= 2


@pytest.mark.parametrize(
    ("case", "reason"), [("c11", "outpost"), ("c12", "outpost"), ("c13", "type"), ("c14", "provider")]
)
def test_c11_to_c14_not_ready_but_alive(core: StubCore, case: str, reason: str) -> None:
    """Wrong token, no outpost, outpost of another type, no provider: alive, not ready, later all is well."""
    outpost, providers = core.outpost, core.providers["ldap"]
    if case == "c11":
        core.token = "another"
    elif case == "c12":
        core.outpost = {}
    elif case == "c13":
        core.outpost = outpost | {"type": "radius"}
    else:
        core.providers["ldap"] = []
    environment = PORTS | daemons.outpost_environment(core.url, "stub-outpost-token")
    daemon = daemons.launch("ldap", [sys.executable, "-m", "outposts", "ldap"], environment)
    try:
        core.wait_for(lambda: len(core.called("/outposts/instances/")) >= 1, "first try")
        answer: tuple[int, bytes] = (0, b"")

        def says_why() -> bool:
            nonlocal answer
            answer = daemon.get("/readyz")
            return answer[0] == 503 and reason in answer[1].decode().lower()

        daemon.wait_for(says_why, 10.0, lambda: f"/readyz says {answer}")
        assert daemon.get("/outpost.goauthentik.io/ping")[0] == 204
        core.token, core.outpost, core.providers["ldap"] = "stub-outpost-token", outpost, providers
        daemon.signal(signal.SIGUSR1)
        daemon.wait_until_ready()
    finally:
        daemon.kill()


def asked_for(daemon: daemons.Daemon, ready_file: Path) -> bool:
    """Read the ready file, if it is there."""
    if not ready_file.exists():
        return False
    daemon.ready = json.loads(ready_file.read_text())
    return True


def test_c16_providers_break_off(cached: Side) -> None:
    """The old set is kept when the list fails."""
    fault = cached.core.fault("/outposts/ldap/$", status=500)
    cached.daemon.signal(signal.SIGUSR1)
    cached.core.wait_for(lambda: fault.hits >= 1, "refresh")
    with cached.bound() as client:
        assert client.search(ALICE, BASE).dns == [ALICE]


def test_c21_updates_are_merged(start: Starter) -> None:
    """Five in a row make one refresh."""
    side = start("cached")
    side.core.wait_for(lambda: side.core.connected() == 1, "WebSocket")
    before = len(side.core.called("/outposts/ldap/$"))
    updated = side.metric("authentik_outpost_last_update")
    for _ in range(5):
        side.core.push_update()
    side.daemon.wait_for(
        lambda: side.metric("authentik_outpost_last_update") > updated, 20.0, lambda: "refresh after an update"
    )
    side.refresh()
    assert len(side.core.called("/outposts/ldap/$")) == before + 2


def test_c22_c24_strange_frames_do_no_harm(cached: Side) -> None:
    """Unknown instructions, other JSON, no JSON, session ends of strangers: the connection is kept."""
    core = cached.core
    core.wait_for(lambda: core.connected() == 1, "WebSocket")
    core.forget()
    with cached.bound() as client:
        for frame in ('{"instruction": 99}', "[]", "not json", '{"instruction": 4, "args": {"session_id": "ff"}}'):
            core.push(frame)
        hellos = len(core.hellos)
        core.wait_for(lambda: len(core.hellos) > hellos, "a further hello", 15.0)
        assert client.search(ALICE, BASE).code == 0
    assert not core.called("/ws/")


def test_c28_stop_answers_what_is_under_way(start: Starter) -> None:
    """SIGTERM while a bind waits for the core: the bind is answered, exit 0, WebSocket closed."""
    side = start("direct")
    fault = side.core.fault("/core/users/me/", delay_s=1.0)
    with side.client() as client:
        number = client.request(bind_operation(ALICE, "pw"))
        side.core.wait_for(lambda: fault.hits == 1, "the bind is under way")
        side.daemon.signal(signal.SIGTERM)
        assert client.answer(number).code == 0
    assert side.daemon.process.wait(12) == 0
    side.core.wait_for(lambda: side.core.connected() == 0, "WebSocket is closed")


def test_c29_healthcheck(cached: Side) -> None:
    """0 beside a running daemon, 1 without."""
    command = [sys.executable, "-m", "outposts", "healthcheck"]
    environment = {"TMPDIR": str(cached.daemon.folder), "PYTHONPATH": str(daemons.ROOT), "PATH": "/usr/bin"}
    assert subprocess.run(command, env=environment, timeout=20, check=False).returncode == 0
    environment["TMPDIR"] = str(cached.daemon.folder / "nothing-here")
    assert subprocess.run(command, env=environment, timeout=20, check=False, capture_output=True).returncode == 1


def test_c30_c31_ping_and_metrics(cached: Side) -> None:
    """204 without a body for any method; the info metric with its labels; other paths 404."""
    for method in ("GET", "HEAD", "POST"):
        assert cached.daemon.get("/outpost.goauthentik.io/ping", method=method) == (204, b"")
    text = cached.daemon.get("/metrics")[1].decode()
    (info,) = re.findall(r"(?m)^authentik_outpost_info\{(.*)\} 1(?:\.0)?$", text)
    labels = {name for name, _ in re.findall(r'(\w+)="([^"]*)"', info)}
    assert labels == {"outpost_name", "outpost_type", "uuid", "version", "build"}
    assert cached.daemon.get("/elsewhere")[0] == 404


def test_c32_c33_login_calls_on_the_wire(direct: Side) -> None:
    """The query to the byte, both delegation headers, no Authorization."""
    direct.core.people.passwords["alice"] = "pw-c32"
    with direct.client() as client:
        assert client.bind(ALICE, "pw-c32").code == 0
    calls = direct.core.called("/flows/executor/bind-flow/")
    assert QUERY in {call.raw_query for call in calls} <= {QUERY, WARM_UP}
    calls += direct.core.called(r"/outposts/ldap/\d+/check_access/") + direct.core.called("/core/users/me/")
    assert len(calls) >= 4
    for call in calls:
        assert "authorization" not in call.headers, call.path
        assert call.headers["x-authentik-outpost-token"] == direct.core.token
        assert call.headers["x-authentik-remote-ip"] == "127.0.0.1"
        assert call.headers["user-agent"].startswith("goauthentik.io/outpost/")


def test_c34_mapped_addresses_are_unmapped(start: Starter) -> None:
    """A client of a dual-stack socket is known by its IPv4 address."""
    side = start("direct", {"AUTHENTIK_LISTEN__LDAP": "[::]:0"})
    with Client(("127.0.0.1", side.daemon.address("ldap")[1])) as client:
        assert client.bind(ALICE, "pw").code == 0
    addresses = {
        call.headers["x-authentik-remote-ip"] for call in side.core.called("/flows/executor/bind-flow/", "POST")
    }
    assert addresses == {"127.0.0.1"}


WEBAUTHN: dict[str, object] = {"device_class": "webauthn", "device_uid": "1", "challenge": {}, "last_used": None}
OWN_ADDRESS = f"/api/v3/flows/executor/c40-circle/?{QUERY}"
SEPARATE: list[Stage] = [Identification(password=False), Password(), Login()]


@pytest.fixture
def flow_of_its_own(direct: Side, request: pytest.FixtureRequest) -> Iterator[str]:
    """A bind flow that no other case has used: how a flow begins is remembered for a while."""
    slug = re.sub(r"\W+", "-", request.node.callspec.id)
    direct.core.executor.flows[slug] = []
    direct.core.providers["ldap"][0]["bind_flow_slug"] = slug
    direct.refresh()
    direct.core.forget()
    yield slug
    direct.core.providers["ldap"][0]["bind_flow_slug"] = "bind-flow"
    direct.refresh()


@pytest.mark.parametrize(
    ("stages", "sent", "code", "given"),
    [
        pytest.param(SEPARATE, "pw", 0, 2, id="c35 separate password stage"),
        pytest.param([Identification(), Login()], "pw", 0, 1, id="c36 password with the name"),
        pytest.param([Identification()], "pw", 49, 1, id="c39 nobody logged in"),
        pytest.param([], "pw", 49, 1, id="c39 empty flow"),
        pytest.param([Identification(password=False), Login()], "pw", 49, 1, id="password never asked"),
        pytest.param(
            [Identification(), Ask("xak-flow-redirect", {"to": OWN_ADDRESS}), Login()], "pw", 49, 1, id="c40 circle"
        ),
        pytest.param(SEPARATE, "wrong", 49, 2, id="c41 wrong at the password stage"),
        pytest.param(
            [Identification(password=False), Password(restart=True), Login()], "wrong", 49, 3, id="c42 restart"
        ),
        pytest.param([Identification(), Ask("ak-stage-captcha"), Login()], "pw", 49, 1, id="c44 unknown stage"),
        pytest.param([Identification(), Ask("ak-stage-new-in-2030"), Login()], "pw", 49, 1, id="c44 from the future"),
        pytest.param(
            [
                Identification(),
                Ask("ak-stage-authenticator-validate", {"device_challenges": [WEBAUTHN]}),
                Login(),
            ],
            "pw",
            49,
            1,
            id="c52 key only",
        ),
        pytest.param([Identification(), Login(), Ask("ak-stage-user-login")], "pw", 0, 2, id="c53 c54 after the login"),
    ],
)
def test_c35_to_c54_flows(
    direct: Side, flow_of_its_own: str, stages: list[Stage], sent: str, code: int, given: int
) -> None:
    """The result of a bind, and never more answers than needed."""
    direct.core.executor.flows[flow_of_its_own] = stages
    with direct.client() as client:
        assert client.bind(ALICE, sent).code == code
    assert 0 < len(posts(direct)) <= given or not stages
    if code:
        assert not [
            c for c in direct.core.called(r"/outposts/ldap/\d+/check_access/") if "authentik_session" in c.headers
        ]


def test_c45_errors_of_the_core_are_not_wrong_passwords(direct: Side) -> None:
    """Flow deleted, 500, flow error: 52, or another code that does not blame the password."""
    core = direct.core
    with direct.client() as client:
        core.fault("/flows/executor/bind-flow/", status=500)
        assert client.bind(ALICE, "pw").code == 52
        core.clear_faults()
        core.fault("/flows/executor/bind-flow/", status=404, html=True)
        assert client.bind(ALICE, "pw").code == 52
        core.clear_faults()
        core.fault(
            "/flows/executor/bind-flow/", status=200, body={"component": "ak-stage-flow-error", "request_id": "x"}
        )
        assert client.bind(ALICE, "pw").code == 52


def test_c50_a_code_goes_alone(direct: Side) -> None:
    """With TOTP and Duo a given code is sent by itself."""
    direct.core.executor.flows["bind-flow"] = [Identification(), Validate(push=True), Login()]
    direct.core.people.codes["alice"] = {"123456"}
    with direct.client() as client:
        assert client.bind(ALICE, "pw;123456").code == 0
    (sent,) = [body for body in posts(direct) if body.get("component") == "ak-stage-authenticator-validate"]
    assert sent == {"component": "ak-stage-authenticator-validate", "code": "123456"}


def test_c51_push(direct: Side) -> None:
    """Without a code Duo is asked, with the whole challenge and its number."""
    direct.core.executor.flows["bind-flow"] = [Identification(), Validate(push=True), Login()]
    with direct.client() as client:
        assert client.bind(ALICE, "pw").code == 0
    (sent,) = [body for body in posts(direct) if body.get("component") == "ak-stage-authenticator-validate"]
    assert sent["duo"] == 7
    assert isinstance(sent["selected_challenge"], dict)
    assert set(sent["selected_challenge"]) == {"device_class", "device_uid", "challenge", "last_used"}


def test_c57_unbind_logs_out(direct: Side) -> None:
    """The unbind flow runs with the session's cookie; the session is gone."""
    direct.core.people.passwords["svc"] = "pw-c57"
    with direct.client() as client:
        assert client.bind(user("svc"), "pw-c57").code == 0
        assert direct.core.sessions_of("svc")
        client.request(b"\x42\x00")
        client.wait_closed()
    direct.core.wait_for(lambda: not direct.core.sessions_of("svc"), "session ends")
    assert direct.core.called("/flows/executor/unbind-flow/")


def test_c58_c59_certificates(start: Starter) -> None:
    """A new fingerprint brings the new pair without a restart, the same one no download; a 404 keeps the old."""
    side = start("cached", certificate="pair")
    first, second = certificates.key_pair("ldap.one"), certificates.key_pair("ldap.two")

    def offer(pair: certificates.KeyPair) -> None:
        stored = {"fingerprint": pair.fingerprint, "certificate": pair.certificate, "key": pair.key}
        side.core.certificates["pair"] = stored

    def presented() -> bytes | None:
        with side.client(tls=True) as client:
            assert isinstance(client.socket, ssl.SSLSocket)
            return client.socket.getpeercert(binary_form=True)

    offer(first)
    side.refresh()
    assert presented() == first.der
    side.core.forget()
    side.refresh()
    assert not side.core.called(".*view_private_key")
    offer(second)
    side.refresh()
    assert presented() == second.der
    side.core.certificates.clear()
    side.daemon.signal(signal.SIGUSR1)
    side.core.wait_for(lambda: len(side.core.called("/crypto/")) >= 1, "certificate is looked at")
    assert presented() == second.der


def test_c60_concurrent_logins_do_not_mix(direct: Side) -> None:
    """Each bind's calls carry its own name, cookie and password."""
    names = ["alice", "bob", "svc"] * 4
    direct.core.people.passwords |= {name: f"pw-{name}" for name in set(names)}

    def bind(name: str) -> tuple[int, list[str]]:
        with direct.client() as client:
            code = client.bind(user(name), f"pw-{name}").code
            return code, client.search(f"ou=users,{b}", filter=f"(cn={name})").dns

    with ThreadPoolExecutor(len(names)) as pool:
        for name, (code, dns) in zip(names, pool.map(bind, names), strict=True):
            assert (code, dns) == (0, [user(name)])
    for body in posts(direct):
        assert body["password"] == f"pw-{body['uid_field']}"


def test_core_away_at_the_start(core: StubCore) -> None:
    """C10: the daemon tries again and comes up soon after the core."""
    environment = PORTS | daemons.outpost_environment(core.url, core.token)
    core.stop()
    daemon = daemons.launch("ldap", [sys.executable, "-m", "outposts", "ldap"], environment)
    try:
        begin = time.monotonic()
        daemon.wait_for(lambda: "/outposts/instances/" in daemon.text(), 20.0, lambda: "first failure is logged")
        core.start()
        daemon.wait_for(lambda: asked_for(daemon, daemon.folder / "ready.json"), 20.0, lambda: "listens")
        daemon.wait_until_ready()
        assert time.monotonic() - begin < 60
    finally:
        daemon.kill()
