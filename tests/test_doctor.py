"""``outposts doctor``: each fault that it knows is planted, and the sentence that says what to change is found."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from common import logs, records
from common.outcomes import Reason
from outposts import doctor, doctor_providers, doctor_report
from outposts.doctor_report import Finding, Report, State
from tests import certificates, factories, stub_flows
from tests.fakes import StubCore
from tests.valkey import valkey_server

LIMIT_S = 60.0  # an examination that takes longer hangs


@pytest.fixture
def core() -> Iterator[StubCore]:
    """A core with one LDAP provider, nothing wrong."""
    with StubCore() as stub:
        stub.load_conformance()
        yield stub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for the socket."""
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp"


def environ(core: StubCore, folder: Path, **more: str) -> dict[str, str]:
    """Settings of a daemon of that core, on free ports."""
    listeners = ("LDAP", "LDAPS", "RADIUS", "HTTP", "HTTPS", "METRICS")
    ports = {f"AUTHENTIK_LISTEN__{listener}": "127.0.0.1:0" for listener in listeners}
    return ports | {"AUTHENTIK_HOST": core.url, "AUTHENTIK_TOKEN": core.token, "TMPDIR": str(folder)} | more


def examine(
    variables: Mapping[str, str], wanted: str | None = None, probe: doctor.Probe | None = None, ahead_s: float = 0.0
) -> list[Finding]:
    """All findings; with a clock that is ahead."""

    async def run() -> Report:
        async with asyncio.timeout(LIMIT_S):
            return await doctor.examine(variables, wanted, probe, lambda: time.time() + ahead_s)

    return asyncio.run(run()).findings


def of(findings: list[Finding], check: str, state: State | None = None) -> list[Finding]:
    """The findings of one check."""
    return [finding for finding in findings if finding.check == check and state in (None, finding.state)]


def one(findings: list[Finding], check: str, state: State) -> Finding:
    """The only finding of a check that ended so."""
    found = of(findings, check, state)
    assert len(found) == 1, findings
    return found[0]


def names_of(findings: list[Finding]) -> set[str]:
    """The checks that were made."""
    return {finding.check for finding in findings}


# Nothing wrong


def test_nothing_wrong_is_all_ok(core: StubCore, folder: Path) -> None:
    """Everything is looked at; only the self-signed certificate is worth a word."""
    findings = examine(environ(core, folder))
    assert {finding.check for finding in findings if finding.state is not State.OK} == {"certificate"}
    wanted = {"settings", "dns", "tcp", "clock", "token", "outpost", "websocket", "providers", "flow", "ports", "files"}
    assert wanted <= names_of(findings)
    assert not core.hellos, "an examination must not count as an outpost"


@pytest.mark.parametrize("type", ["radius", "proxy"])
def test_other_types_are_examined_too(folder: Path, type: str) -> None:
    """The outpost says what it is."""
    with StubCore(type) as stub:
        stub.providers["radius"] = [factories.radius_provider(shared_secret="sixteen-letters-x")]
        stub.providers["proxy"] = [
            {"pk": 3, "name": "wiki", "external_host": "https://wiki.example.org", "mode": "proxy"}
        ]
        findings = examine(environ(stub, folder))
    assert not [finding for finding in findings if finding.state is State.FAIL]
    assert f"type {type}" in one(findings, "outpost", State.OK).found
    port = "AUTHENTIK_LISTEN__RADIUS" if type == "radius" else "AUTHENTIK_LISTEN__HTTPS"
    assert any(port in finding.found for finding in of(findings, "ports", State.OK))


# Settings


def test_every_bad_setting_is_named(core: StubCore, folder: Path) -> None:
    """Not the first alone, and the core is examined all the same."""
    findings = examine(
        environ(
            core, folder, AUTHENTIK_DEBUG="perhaps", OUTPOSTS_WORKERS="-3", OUTPOSTS_LDAP__STRICTT="true",
            OUTPOSTS_LDAP__GID="random", AUTHENTIK_LOG_LEVEL="loud",
        )
    )  # fmt: skip
    text = "\n".join(finding.found + finding.next for finding in of(findings, "settings", State.FAIL))
    for name in ("AUTHENTIK_DEBUG", "OUTPOSTS_WORKERS", "OUTPOSTS_LDAP__STRICTT", "OUTPOSTS_LDAP__GID"):
        assert name in text
    assert "did you mean OUTPOSTS_LDAP__STRICT?" in text
    assert "AUTHENTIK_LOG_LEVEL" in one(findings, "settings", State.WARN).found
    assert one(findings, "token", State.OK)


def test_bad_host_is_not_also_missing(core: StubCore, folder: Path) -> None:
    """One fault, one finding."""
    findings = examine(environ(core, folder, AUTHENTIK_HOST="core.example.org"))
    assert "AUTHENTIK_HOST" in one(findings, "settings", State.FAIL).found
    assert "dns" not in names_of(findings)


def test_token_twice_is_told_without_the_token(core: StubCore, folder: Path) -> None:
    """Both ways of giving it at once; no finding holds it."""
    path = folder / "token"
    path.write_text("another-secret")
    findings = examine(environ(core, folder, AUTHENTIK_TOKEN_FILE=str(path)))
    assert "AUTHENTIK_TOKEN_FILE is set too" in one(findings, "settings", State.FAIL).found
    assert core.token not in repr(findings)
    assert "another-secret" not in repr(findings)


def test_bad_setting_in_a_file_ends_the_list(core: StubCore, folder: Path) -> None:
    """It cannot be left out to look for more; that is said, and the core is not examined with half the settings."""
    (folder / "local.yml").write_text("outposts: {ldap: {gid: random}}")
    findings = examine(environ(core, folder, WORKSPACE_DIR=str(folder)))
    text = "\n".join(finding.found for finding in of(findings, "settings", State.FAIL))
    assert "OUTPOSTS_LDAP__GID" in text
    assert "the rest was not looked at" in text
    assert names_of(findings) == {"settings"}


@pytest.mark.parametrize("token", ["two words", "line\nend", "n\u00f6"])
def test_token_that_is_none(core: StubCore, folder: Path, token: str) -> None:
    """It is not sent, and not shown."""
    finding = one(examine(environ(core, folder, AUTHENTIK_TOKEN=token)), "token", State.FAIL)
    assert "AUTHENTIK_TOKEN" in finding.next
    assert token not in repr(finding)
    assert not core.calls


def test_settings_on_the_core_are_looked_at(core: StubCore, folder: Path) -> None:
    """Unknown names and values that a daemon passes over."""
    core.outpost["config"] |= {"x_ldap_stricct": True, "x_ldap_gid": "random", "x_ldap_bind_cache_max": 60}
    findings = examine(environ(core, folder))
    text = "\n".join(finding.found + finding.next for finding in of(findings, "outpost config", State.WARN))
    assert "x_ldap_stricct" in text
    assert "x_ldap_strict?" in text
    assert "x_ldap_gid" in text
    assert "1 settings" in one(findings, "outpost config", State.OK).found


# The way to the core


def test_name_without_address(core: StubCore, folder: Path) -> None:
    """The name is at fault, so nothing behind it is tried."""
    findings = examine(environ(core, folder, AUTHENTIK_HOST="http://core.invalid"))
    finding = one(findings, "dns", State.FAIL)
    assert "core.invalid" in finding.found
    assert "AUTHENTIK_HOST" in finding.next
    assert "tcp" not in names_of(findings)


def test_port_that_nobody_listens_on(core: StubCore, folder: Path) -> None:
    """Refused, with the system's word for it."""
    core.stop()
    finding = one(examine(environ(core, folder)), "tcp", State.FAIL)
    assert "Connection refused" in finding.found
    assert "AUTHENTIK_HOST" in finding.next


def test_unix_socket_that_nobody_listens_on(core: StubCore, folder: Path) -> None:
    """The path is named."""
    findings = examine(environ(core, folder, AUTHENTIK_HOST=f"unix://{folder}/core.sock"))
    assert f"{folder}/core.sock" in one(findings, "tcp", State.FAIL).found


def test_http_proxy_that_does_not_answer(core: StubCore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is what is looked at, and its settings are named."""
    core.stop()
    monkeypatch.setenv("HTTP_PROXY", core.url)
    monkeypatch.setenv("http_proxy", core.url)
    findings = examine(environ(core, folder, AUTHENTIK_HOST="http://core.invalid"))
    assert "the proxy 127.0.0.1" in one(findings, "dns", State.OK).found
    finding = one(findings, "tcp", State.FAIL)
    assert "the proxy" in finding.found
    assert "NO_PROXY" in finding.next


@pytest.mark.parametrize(
    ("fault", "found", "then"),
    [
        ({"status": 403, "body": {"detail": "Token invalid/expired"}}, "refuses the token (403", "AUTHENTIK_TOKEN"),
        ({"status": 403, "html": True}, "in front of the core refuses", "/api/"),
        ({"status": 404}, "no authentik API", "sub-path"),
        ({"status": 302, "headers": {"Location": "https://id.example.org/"}}, "https://id.example.org/", "https://"),
        ({"status": 503}, "cannot answer (503)", "core's log"),
        ({"status": 200, "html": True}, "no JSON", "AUTHENTIK_HOST"),
        ({"status": 200, "body": {"results": 3}}, "no list of outposts", "AUTHENTIK_HOST"),
        ({"reset": True}, "the call failed", "AUTHENTIK_HOST"),
    ],
)
def test_each_answer_to_the_first_call_is_told_apart(
    core: StubCore, folder: Path, fault: dict[str, Any], found: str, then: str
) -> None:
    """A refused token, something in front, a wrong address, a core that is ill."""
    core.fault("/outposts/instances/", **fault)
    findings = examine(environ(core, folder))
    finding = one(findings, "token", State.FAIL)
    assert found in finding.found
    assert then in finding.next
    assert "websocket" not in names_of(findings)


def test_core_that_hangs(core: StubCore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examination ends."""
    monkeypatch.setattr("outposts.doctor_core.CALL_S", 0.2)
    core.fault("/outposts/instances/", hang=True)
    assert "does not answer within 0.2 s" in one(examine(environ(core, folder)), "token", State.FAIL).found


@pytest.mark.parametrize(("ahead_s", "state"), [(0.0, State.OK), (15.0, State.WARN), (-120.0, State.FAIL)])
def test_clocks_are_compared(core: StubCore, folder: Path, ahead_s: float, state: State) -> None:
    """A few seconds are nothing, half a minute is the end of one-time codes."""
    finding = one(examine(environ(core, folder), ahead_s=ahead_s), "clock", state)
    if ahead_s:
        assert ("ahead of" if ahead_s > 0 else "behind") in finding.found
        assert "NTP" in finding.next


def test_clock_of_the_core_is_what_it_says(core: StubCore, folder: Path) -> None:
    """The Date header decides; the list that comes with it counts as always."""
    body = {"pagination": {}, "results": [core.outpost]}
    date = format_datetime(datetime(2020, 1, 1, tzinfo=UTC), usegmt=True)
    core.fault("/outposts/instances/", status=200, body=body, headers={"Date": date})
    findings = examine(environ(core, folder))
    assert "ahead of" in one(findings, "clock", State.FAIL).found
    assert one(findings, "outpost", State.OK)


def test_no_outpost_and_another_outpost(core: StubCore, folder: Path) -> None:
    """A good token of somebody else is not a wrong token."""
    findings = examine(environ(core, folder), "radius")
    assert "of type ldap, not radius" in one(findings, "outpost", State.FAIL).found
    core.outpost = {}
    findings = examine(environ(core, folder))
    assert one(findings, "token", State.OK)
    assert "shows no outpost" in one(findings, "outpost", State.FAIL).found


def test_several_outposts_are_an_administrators_token(core: StubCore, folder: Path) -> None:
    """It works, and it is too much."""
    body = {"pagination": {}, "results": [factories.outpost("radius", name="other"), core.outpost]}
    core.fault("/outposts/instances/", status=200, body=body)
    finding = one(examine(environ(core, folder), "ldap"), "outpost", State.WARN)
    assert "2 outposts" in finding.found
    assert "(ldap)" in finding.found


@pytest.mark.parametrize(("status", "then"), [(403, "Authorization"), (404, "Upgrade"), (502, "Upgrade")])
def test_websocket_that_is_refused(core: StubCore, folder: Path, status: int, then: str) -> None:
    """Something in front of the core that knows no WebSockets is the usual reason."""
    core.fault("/ws/", status=status)
    finding = one(examine(environ(core, folder)), "websocket", State.FAIL)
    assert str(status) in finding.found
    assert then in finding.next


# TLS


@pytest.fixture
def pair() -> certificates.KeyPair:
    """A certificate for localhost and 127.0.0.1."""
    return certificates.key_pair("localhost")


@pytest.fixture
def tls_core(pair: certificates.KeyPair, tmp_path: Path) -> Iterator[StubCore]:
    """A core behind TLS."""
    (tmp_path / "pair.pem").write_text(pair.certificate + pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")
    with StubCore(tls=context) as stub:
        stub.load_conformance()
        yield stub


def test_certificate_that_is_not_trusted(tls_core: StubCore, folder: Path) -> None:
    """Whose it is, who issued it, and both ways out."""
    finding = one(examine(environ(tls_core, folder)), "tls", State.FAIL)
    assert "localhost, issued by localhost, ends " in finding.found
    assert "SSL_CERT_FILE" in finding.next


def test_certificate_that_is_trusted(
    tls_core: StubCore, folder: Path, pair: certificates.KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the authority known all goes through; one day is left, which is worth a word."""
    (tmp_path / "ca.pem").write_text(pair.certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    findings = examine(environ(tls_core, folder))
    assert "(1 days)" in one(findings, "tls", State.WARN).found
    assert one(findings, "websocket", State.OK)


def test_certificate_that_is_not_checked(tls_core: StubCore, folder: Path) -> None:
    """It works, and it is said."""
    findings = examine(environ(tls_core, folder, AUTHENTIK_INSECURE="true"))
    assert "AUTHENTIK_INSECURE" in one(findings, "tls", State.WARN).next
    assert one(findings, "token", State.OK)


def test_plain_http_port_asked_for_tls(core: StubCore, folder: Path) -> None:
    """The scheme is wrong."""
    findings = examine(environ(core, folder, AUTHENTIK_HOST=core.url.replace("http://", "https://")))
    assert "http://" in one(findings, "tls", State.FAIL).next


@contextmanager
def core_with(tmp_path: Path, *chain: certificates.Issuer) -> Iterator[StubCore]:
    """A core that shows these certificates, its own first."""
    (tmp_path / "chain.pem").write_text("".join(each.pem for each in chain))
    (tmp_path / "key.pem").write_text(chain[0].key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    with StubCore(tls=context) as stub:
        yield stub


@pytest.mark.parametrize(
    ("days", "whole", "found", "then"),
    [
        ((-1, 1), False, "unable to get local issuer", "have it send the intermediate too"),
        ((-2, -1), True, "ended ", "renew the certificate"),
        ((-1, 1), True, "mismatch", "AUTHENTIK_HOST: use a name that the certificate has, or issue one for 127.0.0.1"),
    ],
)
def test_each_fault_of_a_chain_is_told_apart(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    days: tuple[float, float],
    whole: bool,
    found: str,
    then: str,
) -> None:
    """The root is trusted; the intermediate is missing, the time is over, the name is another one."""
    root = certificates.authority("root")
    between = root.issue(("between",), purposes=(), authority=True)
    leaf = between.issue(("core.example.org",), purposes=(ExtendedKeyUsageOID.SERVER_AUTH,), days=days)
    (tmp_path / "root.pem").write_text(root.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "root.pem"))
    with core_with(tmp_path, leaf, *([between] if whole else [])) as core:
        finding = one(examine(environ(core, folder)), "tls", State.FAIL)
    assert "core.example.org, issued by between" in finding.found
    assert found in finding.found
    assert then in finding.next


def test_handshake_that_hangs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that takes connections and says nothing; the examination ends."""
    monkeypatch.setattr("outposts.doctor_core.STEP_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        variables = {"AUTHENTIK_HOST": f"https://127.0.0.1:{silent.getsockname()[1]}", "AUTHENTIK_TOKEN": "t"}
        findings = examine(variables | {"TMPDIR": str(folder), "AUTHENTIK_LISTEN__METRICS": "127.0.0.1:0"})
    assert "no answer in time" in one(findings, "tls", State.FAIL).found
    assert "token" not in names_of(findings)


# Providers


def test_no_provider(core: StubCore, folder: Path) -> None:
    """An outpost that serves nothing."""
    core.providers["ldap"] = []
    assert "serves nobody" in one(examine(environ(core, folder)), "providers", State.FAIL).found


def key_pair_days(days: float) -> float:
    """How far ahead a clock has to be so that a test's pair, valid for a day, has so many days left."""
    return (1 - days) * 86400.0


def test_provider_certificates(core: StubCore, folder: Path, pair: certificates.KeyPair) -> None:
    """About to end, without a key, with another's key, not handed out."""
    core.providers["ldap"] = [factories.ldap_provider(n, base_dn=f"dc=p{n}", certificate=f"k{n}") for n in (1, 2, 3, 4)]
    stored = {"fingerprint": pair.fingerprint, "certificate": pair.certificate, "key": pair.key}
    core.certificates = {
        "k1": stored,
        "k2": stored | {"key": ""},
        "k3": stored | {"key": certificates.key_pair("other").key},
    }
    findings = examine(environ(core, folder))
    assert "ldap-1: ends " in one(findings, "certificate", State.WARN).found
    text = "\n".join(finding.found for finding in of(findings, "certificate", State.FAIL))
    assert "ldap-2: the key pair has no private key" in text
    assert "ldap-3: private key and certificate do not belong together" in text
    assert "ldap-4: the core does not hand out key pair k4" in text
    assert pair.key not in repr(findings)


def test_provider_certificate_that_has_ended(core: StubCore, folder: Path, pair: certificates.KeyPair) -> None:
    """Two days after a pair of one day was made."""
    core.providers["ldap"] = [factories.ldap_provider(certificate="k1")]
    core.certificates["k1"] = {"fingerprint": "", "certificate": pair.certificate, "key": pair.key}
    findings = examine(environ(core, folder), ahead_s=key_pair_days(-1))
    assert "ldap-1: ended " in one(findings, "certificate", State.FAIL).found


def test_base_dns(core: StubCore, folder: Path) -> None:
    """The same one twice, one below another, and one that is none."""
    bases = ["dc=a,dc=io", "DC=A, dc=IO", "ou=x,dc=a,dc=io", "nonsense", "dc=xa,dc=io"]
    core.providers["ldap"] = [factories.ldap_provider(pk, base_dn=base) for pk, base in enumerate(bases, 1)]
    findings = examine(environ(core, folder))
    failed = [finding.found for finding in of(findings, "base dn", State.FAIL)]
    assert any("ldap-1 and ldap-2 have the same base DN" in text for text in failed)
    assert any("ldap-4" in text and "not a DN" in text for text in failed)
    assert "ou=x,dc=a,dc=io (ldap-3) is below" in one(findings, "base dn", State.WARN).found


def radius(*rows: tuple[str, str]) -> list[Finding]:
    """What is found about RADIUS providers with these networks and secrets."""
    report = Report()
    found: list[Any] = [
        records.RadiusProvider(
            pk=pk, name=f"r{pk}", application_slug="a", auth_flow_slug="f", client_networks=text, shared_secret=secret
        )
        for pk, (text, secret) in enumerate(rows, 1)
    ]
    doctor_providers.overlaps(report, found, "radius")
    return report.findings


LONG, OTHER = "a-secret-of-some-length", "another-secret-of-some-length"


def test_client_networks_beside_each_other() -> None:
    """Nothing to say."""
    assert [finding.state for finding in radius(("10.0.0.0/8", LONG), ("192.168.0.0/16, ::1", OTHER))] == [State.OK]


def test_client_networks_that_overlap() -> None:
    """The longest prefix serves; the nearest network above is named."""
    findings = radius(("10.0.0.0/8", LONG), ("10.1.0.0/16", OTHER), ("0.0.0.0/0", LONG))
    found = [finding.found for finding in of(findings, "networks", State.WARN)]
    assert any("10.1.0.0/16 (r2) is inside 10.0.0.0/8 (r1)" in text for text in found)
    assert any("10.0.0.0/8 (r1) is inside 0.0.0.0/0 (r3)" in text for text in found)
    assert len(found) == 2


def test_one_client_network_of_several_providers() -> None:
    """Two secrets can be told apart by signed packets, one cannot."""
    assert "go by their secret" in radius(("10.0.0.0/8", LONG), ("10.0.0.0/8", OTHER))[0].found
    finding = radius(("10.0.0.0/8", LONG), ("10.3.4.5/8", LONG))[0]
    assert finding.state is State.FAIL
    assert "r1 and r2 with the same secret" in finding.found


def test_networks_and_secrets_that_cannot_be_used() -> None:
    """None at all, text that is none, no secret, a short one; no secret is shown."""
    findings = radius(("", LONG), ("10.0.0.0/33 10.0.0.1", LONG), ("10.0.0.2", ""), ("10.0.0.3", "brief-one"))
    text = "\n".join(finding.found for finding in findings)
    assert "r1 has no client networks" in text
    assert "'10.0.0.0/33' is no network" in text
    assert "r3 has no shared secret" in text
    assert "r4: the shared secret is shorter than 16" in text
    assert "brief-one" not in repr(findings)


def test_proxy_hosts() -> None:
    """The same host twice, and a domain without its cookie domain."""
    report = Report()
    found: list[Any] = [
        records.ProxyProvider(pk=1, name="a", external_host="https://a.example.org/"),
        records.ProxyProvider(pk=2, name="b", external_host="https://A.example.org"),
        records.ProxyProvider(pk=3, name="c", external_host="https://c.example.org", mode="forward_domain"),
    ]
    doctor_providers.overlaps(report, found, "proxy")
    text = "\n".join(finding.found for finding in of(report.findings, "hosts", State.FAIL))
    assert "a and b have the same external host" in text
    assert "c serves a whole domain" in text


# Flows


@pytest.mark.parametrize(
    ("stages", "found", "then"),
    [
        ([], "ends at once", "designation authentication"),
        ([stub_flows.Ask("ak-stage-consent")], "ak-stage-consent", "designation authentication"),
        ([stub_flows.Ask("ak-stage-captcha")], "ak-stage-captcha", "captcha stage"),
        ([stub_flows.Ask("ak-stage-novelty")], "ak-stage-novelty", "needs a browser"),
        ([stub_flows.Ask("ak-stage-prompt", {"fields": []})], "ak-stage-prompt", "prompt stage"),
        ([stub_flows.Deny("not today")], "not today", "policies"),
        ([stub_flows.Ask("ak-stage-flow-error")], "exception", "core's log"),
        ([stub_flows.Ask("ak-stage-authenticator-validate")], "second factor", "identification stage"),
        ([stub_flows.Ask("ak-stage-identification", {"captcha_stage": {"x": 1}})], "captcha", "identification stage"),
    ],
)
def test_flows_that_do_not_suit(
    core: StubCore, folder: Path, stages: list[stub_flows.Stage], found: str, then: str
) -> None:
    """What the first page is decides, and the sentence says what to change."""
    core.executor.flows["bind-flow"] = stages
    finding = one(examine(environ(core, folder)), "flow", State.FAIL)
    assert "ldap-1, flow bind-flow" in finding.found
    assert found in finding.found
    assert then in finding.next


def test_flow_that_is_gone_and_core_that_cannot_run_it(core: StubCore, folder: Path) -> None:
    """404 is not 500."""
    core.providers["ldap"][0]["bind_flow_slug"] = "gone"
    assert "no such flow" in one(examine(environ(core, folder)), "flow", State.FAIL).found
    core.providers["ldap"][0]["bind_flow_slug"] = "bind-flow"
    core.fault("/flows/executor/", status=500)
    assert "core's log" in one(examine(environ(core, folder)), "flow", State.FAIL).next


def test_flow_with_the_password_on_its_own_page(core: StubCore, folder: Path) -> None:
    """Good as far as it shows; whether codes are taken is said."""
    core.executor.flows["bind-flow"] = [
        stub_flows.Identification(password=False), stub_flows.Password(), stub_flows.Login()
    ]  # fmt: skip
    core.providers["ldap"][0]["mfa_support"] = False
    found = one(examine(environ(core, folder)), "flow", State.OK).found
    assert "the name first" in found
    assert "MFA support is off" in found


# A login


def test_login_passes_and_is_ended(core: StubCore, folder: Path) -> None:
    """A real one: the session is gone afterwards."""
    findings = examine(environ(core, folder), probe=doctor.Probe("alice", "pw"))
    assert "passed" in one(findings, "login", State.OK).found
    assert core.sessions_of("alice") == []


def test_login_that_cannot_be_ended(core: StubCore, folder: Path) -> None:
    """Somebody should know that a session stays."""
    core.executor.flows["unbind-flow"] = []
    findings = examine(environ(core, folder), probe=doctor.Probe("alice", "pw"))
    assert "could not be ended" in one(findings, "login", State.WARN).found


@pytest.mark.parametrize(
    ("prepare", "found", "then"),
    [
        (lambda core: core.people.passwords.update(alice="other"), "invalid_credentials", "password is wrong"),
        (lambda core: core.denied.add("alice"), "access_denied", "bind the user or a group"),
        (lambda core: core.executor.flows["bind-flow"].pop(), "not_authenticated", "user login stage"),
        (
            lambda core: core.executor.flows["bind-flow"].insert(1, stub_flows.Ask("ak-stage-captcha")),
            "unsupported_challenge at ak-stage-captcha",
            "take that stage out",
        ),
        (lambda core: core.fault("/outposts/ldap/1/check_access/", status=500), "core_unavailable", "core's log"),
    ],
)
def test_login_that_fails(core: StubCore, folder: Path, prepare: Any, found: str, then: str) -> None:
    """Each reason has its sentence; none holds the password."""
    prepare(core)
    findings = examine(environ(core, folder), probe=doctor.Probe("alice", "pw"))
    finding = one(findings, "login", State.FAIL)
    assert found in finding.found
    assert then in finding.next


def test_login_at_a_chosen_provider(core: StubCore, folder: Path) -> None:
    """By name; an unknown one is answered with those that there are."""
    core.providers["ldap"].append(factories.ldap_provider(2, base_dn="dc=b", application_slug="b-app"))
    findings = examine(environ(core, folder), probe=doctor.Probe("alice", "pw", "ldap-2"))
    assert "alice at ldap-2" in one(findings, "login", State.OK).found
    findings = examine(environ(core, folder), probe=doctor.Probe("alice", "pw", "ldap-3"))
    assert "ldap-1, ldap-2" in one(findings, "login", State.FAIL).next


def test_every_reason_has_advice() -> None:
    """What a login without a certificate can end with is in the table."""
    certificates_only = {"password_wanted", "name_wanted", "certificate_not_decisive", "identity_mismatch"}
    elsewhere = {"challenge_expired", "store_unavailable", "internal"}
    missing = {str(reason) for reason in Reason} - set(doctor_providers.NEXT)
    assert missing == certificates_only | elsewhere


# The directory


def directory_of(core: StubCore, folder: Path) -> list[Finding]:
    """The findings with ``--directory`` about it."""

    async def run() -> Report:
        return await doctor.examine(environ(core, folder), directory=True)

    return of(asyncio.run(run()).findings, "directory")


def test_directory_is_counted(core: StubCore, folder: Path) -> None:
    """Only when it is asked for: it reads everything."""
    assert not of(examine(environ(core, folder)), "directory")
    assert not core.called("/core/users/$")
    assert [finding.found for finding in directory_of(core, folder)] == ["ldap-1: 5 users, 3 groups"]


def test_shared_numbers(core: StubCore, folder: Path) -> None:
    """Names and number, and both ways out."""
    core.groups[0]["attributes"] = {"gidNumber": "777"}
    core.users[0]["attributes"] = core.users[1]["attributes"] = {"uidNumber": "5000"}
    found = {finding.found: finding.next for finding in directory_of(core, folder) if finding.state is State.WARN}
    assert len(found) == 2
    gid = next(text for text in found if "gidNumber 777" in text)
    assert "ga" in gid
    assert "gc" in gid
    assert "x_ldap_gid" in found[gid]
    uid = next(text for text in found if "uidNumber 5000" in text)
    assert core.users[0]["username"] in uid


def test_directory_that_may_not_be_listed(core: StubCore, folder: Path) -> None:
    """The outpost's account has lost its rights."""
    core.fault("/core/users/$", status=403)
    assert "may not list" in directory_of(core, folder)[0].found


# This machine


def test_port_that_is_taken(core: StubCore, folder: Path) -> None:
    """Named with its setting; a taken metrics port stops no daemon."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        more = {"AUTHENTIK_LISTEN__LDAP": address, "AUTHENTIK_LISTEN__METRICS": address}
        findings = examine(environ(core, folder, **more))
    finding = one(findings, "ports", State.FAIL)
    assert address in finding.found
    assert "AUTHENTIK_LISTEN__LDAP" in finding.next
    assert "AUTHENTIK_LISTEN__METRICS" in one(findings, "ports", State.WARN).next


def test_state_folder(core: StubCore, folder: Path, tmp_path: Path) -> None:
    """Not there yet, a file, open to others, sealed for another token."""
    state = tmp_path / "state"
    variables = environ(core, folder, OUTPOSTS_STATE_DIR=str(state))
    assert "can be made" in one(examine(variables), "state", State.OK).found
    state.mkdir()
    assert "can be read and written" in one(examine(variables), "state", State.OK).found
    sealed = state / "ldap-configuration"
    sealed.write_bytes(b"OUTP" + bytes(60))
    sealed.chmod(0o644)
    found = [finding.found for finding in of(examine(variables), "state", State.WARN)]
    assert any("is open to others" in text for text in found)
    assert any("will be ignored" in text for text in found)
    state = tmp_path / "file"
    state.write_text("")
    findings = examine(variables | {"OUTPOSTS_STATE_DIR": str(state)})
    assert "not a folder" in one(findings, "state", State.FAIL).found


def test_state_folder_that_is_closed(
    core: StubCore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's folder; nothing is closed to root, so the system's answer is given here."""
    really = os.access
    monkeypatch.setattr("os.access", lambda path, mode: "closed" not in str(path) and really(path, mode))
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    findings = examine(environ(core, folder, OUTPOSTS_STATE_DIR=str(closed)))
    assert "cannot be read and written" in one(findings, "state", State.FAIL).found


def test_token_file_that_everybody_reads(core: StubCore, folder: Path) -> None:
    """The mode is the finding, and the token is in none."""
    path = folder / "token"
    path.write_text(core.token)
    path.chmod(0o644)
    variables = environ(core, folder, AUTHENTIK_TOKEN_FILE=str(path))
    del variables["AUTHENTIK_TOKEN"]
    findings = examine(variables)
    assert "AUTHENTIK_TOKEN_FILE" in one(findings, "files", State.WARN).next
    path.chmod(0o600)
    assert not of(examine(variables), "files", State.WARN)


def test_folder_of_the_socket(core: StubCore, folder: Path) -> None:
    """A path too long for a socket."""
    long = folder / ("x" * 100)
    long.mkdir()
    findings = examine(environ(core, folder, TMPDIR=str(long)))
    assert "TMPDIR" in one(findings, "files", State.FAIL).next


def test_redis(core: StubCore, folder: Path) -> None:
    """A server that answers, then the same one gone."""
    with valkey_server() as server:
        url = server.connection_url
        assert one(examine(environ(core, folder, OUTPOSTS_REDIS_URL=url)), "redis", State.OK)
    finding = one(examine(environ(core, folder, OUTPOSTS_REDIS_URL=url)), "redis", State.FAIL)
    assert "OUTPOSTS_REDIS_URL" in finding.next


# The command


@pytest.fixture
def level() -> Iterator[None]:
    """The command quietens the log of its process; tests go on with theirs."""
    before = logs._State.level
    yield
    logs._State.level = before


@pytest.mark.usefixtures("level")
def test_json_and_exit_codes(core: StubCore, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 and ``ok``, then 1."""
    assert doctor.main(["--json"], environ(core, folder)) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is True
    assert {"check": "token", "state": "ok", "found": "the core accepts it", "next": ""} in answer["checks"]
    core.token = "another"
    assert doctor.main(["ldap", "--json"], environ(core, folder, AUTHENTIK_TOKEN="wrong")) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


@pytest.mark.usefixtures("level")
def test_password_file(core: StubCore, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line end at the file's end is not part of the password."""
    path = folder / "password"
    path.write_text("pw\n")
    assert doctor.main(["--user", "alice", "--password-file", str(path)], environ(core, folder)) == 0
    assert "alice at ldap-1: passed" in capsys.readouterr().out


@pytest.mark.usefixtures("level")
def test_password_is_asked_for(
    core: StubCore, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the terminal, without echo."""
    monkeypatch.setattr("getpass.getpass", lambda prompt: "wrong" if "alice" in prompt else "")
    assert doctor.main(["--user", "alice"], environ(core, folder)) == 1
    assert "invalid_credentials" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["ldapp"],
        ["--password", "x"],
        ["--provider", "x"],
        ["--at", "h:1"],
        ["--user", "a", "--at", "x:y"],
        ["--user", "a", "--password-file", "/nowhere/at/all"],
    ],
)
def test_bad_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, told on the error channel; nothing is examined."""
    assert doctor.main(arguments, {}) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "outposts doctor" in captured.err


# Words


def test_text_for_people() -> None:
    """One line each, aligned; the next step behind an arrow; colour only when asked for."""
    report = Report()
    report.ok("a", "fine")
    report.fail("longer", "bad\n\x1b[2J thing", "SETTING: change it")
    text = doctor_report.as_text(report.findings, colour=False)
    assert text == ("ok    a       fine\nfail  longer  bad  [2J thing → SETTING: change it\n1 ok, 0 warn, 1 fail\n")
    assert "\x1b[31mfail\x1b[0m" in doctor_report.as_text(report.findings, colour=True)


def test_long_answers_are_cut() -> None:
    """What a core answers does not fill the screen."""
    assert len(doctor_report.plain("x" * 10_000)) == doctor_report.MAX_TEXT


class _Terminal(io.StringIO):
    """Standard output that is a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def test_colour_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not where NO_COLOR is set."""
    monkeypatch.setattr("sys.stdout", _Terminal())
    assert doctor._colour({})
    assert not doctor._colour({"NO_COLOR": "1"})
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert not doctor._colour({})
