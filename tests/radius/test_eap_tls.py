"""EAP-TLS: both TLS versions, keys, certificates good and bad, fragments, alerts, and what comes out of turn."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL, crypto

from common.tls import CertificateError, CertificatePair
from outposts.radius.eap.contexts import ServerTls, TlsContexts, TlsOptions
from outposts.radius.eap.session import EapSession, EapSettings
from outposts.radius.eap.steps import Asked, CertificateLogin, Decide, Fail, Granted, Ignore, Refused, Send, Succeed
from tests.certificates import Issuer, authority
from tests.radius.eap_peer import (
    ALICE,
    CLIENTS,
    IDENTITY,
    PAIR,
    SERVER,
    SERVERS,
    TLS,
    Peer,
    pair_of,
    response,
    settings_for,
    talk,
    zeros,
)

VERSIONS = [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION]
CHECKED = settings_for("tls", options=TlsOptions(client_ca_pem=CLIENTS.pem))
ANYBODY = settings_for("tls")


def session(settings: EapSettings = CHECKED, framed_mtu: int | None = None) -> EapSession:
    """A session that offers EAP-TLS."""
    return EapSession(settings, zeros, framed_mtu=framed_mtu)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("twice", [False, True])
def test_r48_r49_r53_a_login(version: int, twice: bool) -> None:
    """Both sides have the same keys and Session-Id; packets that come twice change nothing."""
    peer = Peer(version=version, certificate=ALICE, trust=SERVERS)
    heard = talk(session(), peer, twice=twice)
    success = heard.granted
    assert success.msk == peer.keys() and len(success.msk) == 64
    assert success.session_id == peer.session_id() and len(success.session_id) == 65
    assert success.username == "alice" and success.method == "tls"
    assert success.eap == bytes((3, heard.requests[-1][1], 0, 4))
    [question] = heard.questions
    assert isinstance(question, CertificateLogin)
    assert (question.identity, question.leaf_pem, question.issuer_verified) == ("alice", ALICE.pem, True)


def test_r49_the_commitment_comes_after_the_decision() -> None:
    """TLS 1.3: the core is asked before the peer hears the octet 0 (RFC 9190 §2.1.1), Success after its answer."""
    peer = Peer(version=SSL.TLS1_3_VERSION, certificate=ALICE)
    one = session()
    packet = response(1, IDENTITY, b"alice")
    while not isinstance(step := one.receive(packet, 0.0), Decide):
        assert isinstance(step, Send)
        packet = peer.answer(step.eap)
    assert peer.seen == []
    step = one.decided(Granted())
    assert isinstance(step, Send)
    packet = peer.answer(step.eap)
    assert peer.seen == [b"\0"]
    assert isinstance(one.receive(packet, 0.0), Succeed)


@pytest.mark.parametrize("version", VERSIONS)
def test_r54_a_refusal_has_no_keys(version: int) -> None:
    """The core says no: Failure with its reason, in TLS 1.3 without the commitment."""
    peer = Peer(version=version, certificate=ALICE)
    heard = talk(session(), peer, lambda question: Refused("access_denied"))
    assert heard.refused.reason == "access_denied" and peer.seen == []


@pytest.mark.parametrize("version", VERSIONS)
def test_there_is_nobody_to_ask(version: int) -> None:
    """A flow that wants a code cannot have it in EAP-TLS."""
    heard = talk(session(), Peer(version=version, certificate=ALICE), lambda question: Asked("Code: "))
    assert heard.refused.reason == "mfa_required"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("length_on", ["first", "all", "none"])
def test_r50_a_peer_that_fragments(version: int, length_on: str) -> None:
    """ClientHello and certificate in pieces of 100 octets, the length on the first, on every or on no fragment."""
    peer = Peer(version=version, certificate=ALICE, fragment=100, length_on=length_on)
    assert talk(session(), peer).granted.msk == peer.keys()
    assert peer.fragments > 5


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("mtu", "longest"), [(600, 596), (None, 1020), (1500, 1400), (100, 96), (20, 96)])
def test_r51_packets_fit_the_link(version: int, mtu: int | None, longest: int) -> None:
    """A long chain goes out in pieces; each fills the link and none is longer."""
    chain, issuers = SERVERS, []
    for depth in range(4):
        chain = chain.issue((f"intermediate {depth}",), authority=True, purposes=())
        issuers.append(chain)
    settings = settings_for("tls", pair=pair_of(chain.issue(("radius.example",), purposes=()), *reversed(issuers)))
    peer = Peer(version=version, certificate=ALICE, trust=SERVERS, fragment=1300)
    heard = talk(session(settings, mtu), peer)
    assert heard.granted.msk == peer.keys()
    assert max(map(len, heard.requests)) == longest
    first = next(request for request in heard.requests if len(request) == longest)
    assert first[5] & 0xC0 == 0xC0, "the length and M are on the first fragment"


@pytest.mark.parametrize("version", VERSIONS)
def test_r52_a_peer_that_refuses_our_certificate(version: int) -> None:
    """Its alert ends the session with Failure at once."""
    peer = Peer(version=version, certificate=ALICE, trust=authority("somebody else"))
    one = session()
    heard = talk(one, peer)
    assert heard.refused.reason == "peer_refused" and "unknown ca" in heard.refused.detail
    assert heard.questions == [] and one.last_request == b""
    assert heard.refused.eap[1] == heard.requests[-1][1]


def _with_crl(*revoked: Issuer, issuer: Issuer = CLIENTS, days: float = 1) -> str:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(now - datetime.timedelta(days=2))
        .next_update(now + datetime.timedelta(days=days))
    )
    for one in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(one.certificate.serial_number).revocation_date(now)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


INTERMEDIATE = CLIENTS.issue(("issuing authority",), authority=True, purposes=())
BOB = INTERMEDIATE.issue(("bob",))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("certificate", "chain", "options"),
    [
        (ALICE, (), TlsOptions(client_ca_pem=CLIENTS.pem)),
        (BOB, (INTERMEDIATE,), TlsOptions(client_ca_pem=CLIENTS.pem)),
        (BOB, (), TlsOptions(client_ca_pem=CLIENTS.pem + INTERMEDIATE.pem)),
        (BOB, (), TlsOptions(client_ca_pem=INTERMEDIATE.pem)),
        (BOB, (INTERMEDIATE,), TlsOptions(client_ca_pem=authority("other").pem + CLIENTS.pem)),
        (ALICE, (), TlsOptions(client_ca_pem=CLIENTS.pem, client_crl_pem=_with_crl(BOB))),
        (
            BOB,
            (INTERMEDIATE,),
            TlsOptions(
                client_ca_pem=CLIENTS.pem,
                client_crl_pem=_with_crl() + _with_crl(issuer=INTERMEDIATE),
                crl_whole_chain=True,
            ),
        ),
    ],
)
def test_certificates_that_are_good(
    version: int, certificate: Issuer, chain: tuple[Issuer, ...], options: TlsOptions
) -> None:
    """Roots, intermediates sent or configured, an issuer trusted without its root, revocation lists."""
    peer = Peer(version=version, certificate=certificate, chain=chain)
    heard = talk(session(settings_for("tls", options=options)), peer)
    assert heard.granted.msk == peer.keys()
    [question] = heard.questions
    assert isinstance(question, CertificateLogin) and question.issuer_verified
    assert question.chain_pem == tuple(one.pem for one in chain)


SELF = authority("alice")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("certificate", "options", "detail"),
    [
        (SELF, TlsOptions(client_ca_pem=CLIENTS.pem), "self signed"),
        (authority("other").issue(("alice",)), TlsOptions(client_ca_pem=CLIENTS.pem), "unable to get"),
        (BOB, TlsOptions(client_ca_pem=CLIENTS.pem), "unable to get"),
        (CLIENTS.issue(("alice",), days=(-3, -1)), TlsOptions(client_ca_pem=CLIENTS.pem), "cert has expired"),
        (CLIENTS.issue(("alice",), days=(1, 2)), TlsOptions(client_ca_pem=CLIENTS.pem), "cert not yet valid"),
        (
            CLIENTS.issue(("alice",), purposes=(ExtendedKeyUsageOID.SERVER_AUTH,)),
            TlsOptions(client_ca_pem=CLIENTS.pem),
            "purpose",
        ),
        (ALICE, TlsOptions(client_ca_pem=CLIENTS.pem, client_crl_pem=_with_crl(ALICE)), "cert revoked"),
        (ALICE, TlsOptions(client_ca_pem=CLIENTS.pem, client_crl_pem=_with_crl(days=-1)), "crl has expired"),
        (ALICE, TlsOptions(client_ca_pem=CLIENTS.pem, client_crl_pem=_with_crl(issuer=SERVERS)), "unable to get crl"),
        (
            ALICE.issue(("bob",)),  # alice is no authority
            TlsOptions(client_ca_pem=CLIENTS.pem + ALICE.pem),
            "invalid ca",
        ),
    ],
)
def test_certificates_that_are_not(version: int, certificate: Issuer, options: TlsOptions, detail: str) -> None:
    """TLS says why in an alert, Failure follows, the core is never asked."""
    peer = Peer(version=version, certificate=certificate)
    heard = talk(session(settings_for("tls", options=options)), peer)
    assert heard.refused.reason == "client_certificate_refused" and detail in heard.refused.detail
    assert heard.questions == []
    assert peer.refused, "the peer has got the alert"


@pytest.mark.parametrize("version", VERSIONS)
def test_no_certificate_at_all(version: int) -> None:
    """A peer without certificate is refused, issuers configured or not."""
    for settings in (CHECKED, ANYBODY):
        peer = Peer(version=version)
        heard = talk(session(settings), peer)
        assert heard.refused.reason == "client_certificate_missing" and heard.questions == []
        assert peer.refused, "TLS tells the peer what is missing"


@pytest.mark.parametrize("version", VERSIONS)
def test_without_issuers_the_core_decides(version: int) -> None:
    """Any certificate is taken, and is not said to be verified."""
    heard = talk(session(ANYBODY), Peer(version=version, certificate=SELF))
    [question] = heard.questions
    assert isinstance(question, CertificateLogin) and not question.issuer_verified and question.leaf_pem == SELF.pem


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07"),  # a version that does not exist
        (b"\x06\x03\x55\x04\x03\x0c\x05alice", b"\x06\x03\x55\x04\x03\x13\x05al\xffce"),  # a name that is no text
    ],
    ids=["version", "name"],
)
@pytest.mark.parametrize("identity", [b"alice", b""])
def test_certificates_that_only_openssl_can_read(
    version: int, old: bytes, new: bytes, identity: bytes, tmp_path: Path
) -> None:
    """Where any issuer is taken, a peer can show anything: no exception, and nobody gets in by it unasked."""
    der = SELF.certificate.public_bytes(serialization.Encoding.DER)
    assert old in der
    path = tmp_path / "client.der"
    path.write_bytes(der.replace(old, new))

    def prepare(context: SSL.Context) -> None:
        context.use_certificate_file(str(path), crypto.FILETYPE_ASN1)
        context.use_privatekey(SELF.key)

    peer = Peer(identity=identity, version=version, prepare=prepare)
    heard = talk(session(ANYBODY), peer, lambda question: Refused("unknown"))
    assert heard.refused.reason in ("client_certificate_refused", "unknown"), heard.refused
    assert heard.questions == [] or identity == b"alice"


@pytest.mark.parametrize("version", VERSIONS)
def test_issuers_are_named_in_the_request(version: int) -> None:
    """A supplicant with several certificates can choose."""
    peer = Peer(version=version, certificate=ALICE)
    talk(session(), peer)
    assert [name.CN for name in peer.tls.get_client_ca_list()] == ["client authority"]


@pytest.mark.parametrize(
    ("identity", "wanted"),
    [
        (b"alice", "alice"),
        (b"bob@example.org", "bob@example.org"),
        (b"", "alice"),
        (b"@example.org", "alice"),
        (b"anonymous", "alice"),
        (b"anonymous@example.org", "alice"),
    ],
)
def test_the_name_for_the_flow(identity: bytes, wanted: str) -> None:
    """The peer's name for itself, or the certificate's where the peer hides it (RFC 9190 §2.1.7)."""
    assert talk(session(), Peer(identity=identity, certificate=ALICE)).granted.username == wanted


@pytest.mark.parametrize("version", VERSIONS)
def test_sessions_are_not_resumed(version: int) -> None:
    """A peer that comes back with its old TLS session goes through the whole method again."""
    first = Peer(version=version, certificate=ALICE)
    talk(session(), first)
    second = Peer(version=version, certificate=ALICE, resumes=first)
    heard = talk(session(), second)
    assert heard.granted.msk == second.keys() != first.keys()
    assert len(heard.questions) == 1 and isinstance(heard.questions[0], CertificateLogin)
    assert heard.questions[0].leaf_pem == ALICE.pem


def test_old_tls_is_refused() -> None:
    """TLS 1.1 is answered with an alert."""

    def prepare(context: SSL.Context) -> None:
        context.set_min_proto_version(SSL.TLS1_VERSION)
        context.set_cipher_list(b"ALL:@SECLEVEL=0")

    heard = talk(session(), Peer(version=SSL.TLS1_1_VERSION, certificate=ALICE, prepare=prepare))
    assert heard.refused.reason == "tls_error" and "unsupported protocol" in heard.refused.detail
    assert heard.questions == []


def _until(one: EapSession, peer: Peer, reached: Callable[[bytes], bool]) -> bytes:
    """Run until the peer has a request that is the one; gives that."""
    packet = response(1, IDENTITY, b"alice")
    for _ in range(20):
        step = one.receive(packet, 0.0)
        while isinstance(step, Decide):
            step = one.decided(Granted())
        assert isinstance(step, Send), step
        packet = peer.answer(step.eap)
        if reached(step.eap):
            return step.eap
    raise AssertionError("never reached")


def _start(request: bytes) -> bool:
    return bool(request[5] & 0x20)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "fragment_without_flags"),
        (b"\0", "tls_out_of_order"),  # an acknowledgement of nothing
        (b"\0GET / HTTP/1.1", "tls_not_tls"),
        (b"\0\x17\3\3\0\1x", "tls_not_tls"),
        (b"\0\x16", "tls_incomplete"),
        (b"\0\x16\3\1\0\5", "tls_incomplete"),
        (b"\x80\0\0\0\2\x16", "flight_length"),
        (b"\x80\0\1\0\1\x16", "flight_too_long"),
    ],
)
def test_instead_of_a_hello(data: bytes, reason: str) -> None:
    """Each ends the session with Failure; no TLS object is made for what is no TLS."""
    one = session()
    request = _until(one, Peer(certificate=ALICE), _start)
    step = one.receive(response(request[1], TLS, data), 0.0)
    assert isinstance(step, Fail) and step.reason == reason
    assert isinstance(one.receive(response(request[1], TLS, data), 0.0), Ignore)


def test_a_broken_hello_gets_an_alert() -> None:
    """TLS answers rubbish in a record with an alert; whatever comes then, Failure follows."""
    for after in (b"\0", b"\0\x15\3\3\0\2\2\x28", b"\x40more"):
        one = session()
        request = _until(one, Peer(certificate=ALICE), _start)
        step = one.receive(response(request[1], TLS, b"\0\x16\3\1\0\4\x63\0\0\0"), 0.0)
        assert isinstance(step, Send) and step.eap[6] == 0x15, "an alert record"
        step = one.receive(response(step.eap[1], TLS, after), 0.0)
        while isinstance(step, Send):
            step = one.receive(response(step.eap[1], TLS, b"\0"), 0.0)
        assert isinstance(step, Fail) and step.reason == "tls_error"


def test_data_instead_of_an_acknowledgement() -> None:
    """While our flight is going out, nothing but acknowledgements is taken."""
    one = session(framed_mtu=300)
    request = _until(one, Peer(certificate=ALICE), lambda request: bool(request[5] & 0x40))
    step = one.receive(response(request[1], TLS, b"\0\x16\3\3\0\1x"), 0.0)
    assert isinstance(step, Fail) and step.reason == "fragment_not_acknowledged"


def test_an_acknowledgement_instead_of_a_flight() -> None:
    """A peer that has our flight must say something, not nothing."""
    one = session()
    request = _until(one, Peer(certificate=ALICE), lambda request: len(request) > 100 and not request[5] & 0x40)
    step = one.receive(response(request[1], TLS, b"\0"), 0.0)
    assert isinstance(step, Fail) and step.reason == "tls_out_of_order"


@pytest.mark.parametrize("version", VERSIONS)
def test_data_instead_of_the_last_acknowledgement(version: int) -> None:
    """A peer that is not content at the end is not let in."""
    one, peer = session(), Peer(version=version, certificate=ALICE)
    tls13 = version == SSL.TLS1_3_VERSION
    request = _until(one, peer, lambda request: peer.seen == [b"\0"] if tls13 else peer.established)
    peer.tls.sendall(b"what is this")
    step = one.receive(response(request[1], TLS, b"\0" + peer.drain()), 0.0)
    assert isinstance(step, Fail) and step.reason == "peer_refused"


def test_a_stapled_status() -> None:
    """Peers that ask get what the operator fetched (RFC 9190 §5.4)."""
    seen: list[bytes] = []

    def heard(connection: SSL.Connection, status: bytes, data: object) -> bool:
        seen.append(status)
        return True

    peer = Peer(certificate=ALICE, stapling=True, prepare=lambda context: context.set_ocsp_client_callback(heard))
    status = _status()
    settings = settings_for("tls", options=TlsOptions(ocsp_response=status))
    assert talk(session(settings), peer).granted.msk == peer.keys()
    assert seen == [status]


def _status() -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    builder = ocsp.OCSPResponseBuilder().add_response(
        SERVER.certificate, SERVERS.certificate, hashes.SHA256(), ocsp.OCSPCertStatus.GOOD, now, now, None, None
    )
    signed = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, SERVERS.certificate).sign(
        SERVERS.key, hashes.SHA256()
    )
    return signed.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(
    "options",
    [
        TlsOptions(client_ca_pem="rubbish"),
        TlsOptions(client_crl_pem=_with_crl()),
        TlsOptions(ocsp_response=b"STATUS"),
        TlsOptions(client_ca_pem=CLIENTS.pem, client_crl_pem="rubbish"),
        TlsOptions(
            client_ca_pem=CLIENTS.pem, client_crl_pem="-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"
        ),
    ],
)
def test_options_that_cannot_be_used(options: TlsOptions) -> None:
    """They are said when the contexts are made; nobody is trusted by accident."""
    with pytest.raises(CertificateError):
        ServerTls(PAIR, options)


def test_contexts_are_made_once() -> None:
    """Providers with one certificate and the same options share; a refresh drops what is out of service."""
    contexts = TlsContexts()
    first = contexts.of(PAIR)
    assert contexts.of(pair_of(SERVER)) is first
    other = contexts.of(PAIR, TlsOptions(client_ca_pem=CLIENTS.pem))
    assert other is not first and other.verifies_clients and not first.verifies_clients
    contexts.keep([other])
    assert contexts.of(PAIR, TlsOptions(client_ca_pem=CLIENTS.pem)) is other
    assert contexts.of(PAIR) is not first


@pytest.mark.parametrize(
    ("key", "slow"),
    [
        (lambda: ec.generate_private_key(ec.SECP256R1()), False),
        (lambda: rsa.generate_private_key(65537, 2048), False),
        (lambda: rsa.generate_private_key(65537, 3072), True),
    ],
    ids=["P-256", "RSA-2048", "RSA-3072"],
)
def test_which_keys_are_slow(key: Callable[[], Any], slow: bool) -> None:
    """Those whose signature takes milliseconds."""
    made = key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "radius.example")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, made.public_key(), 1, now, now + datetime.timedelta(days=1))
    certificate = builder.sign(made, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pair = CertificatePair("pk", "", certificate, made.private_bytes(*form).decode())
    assert ServerTls(pair).is_slow is slow
    assert session(settings_for("tls", pair=pair)).is_slow is slow
