"""TLS contexts of the EAP methods: made once per server certificate and options, shared by all sessions and threads.

There are two: one asks for a client certificate (EAP-TLS), one does not (TTLS, PEAP). No session is ever resumed:
nothing is cached and no ticket holds a session (RFC 5216 §2.1.2 leaves that to the server), so every login runs the
whole method. TLS 1.3 cannot be told here to send no tickets at all; those it sends are references into a cache that
does not exist.

Client certificates: with issuers configured, the chain must lead to one of them, be in date and be meant for clients
(RFC 5280 §6), and revocation lists are looked at when there are any; OpenSSL's clock counts. Any certificate of the
issuers' text may be the anchor, so an issuing authority can be trusted without its root. Without issuers every
certificate is taken: only the proof that the peer holds the key is ours then, the rest the core's.

The server's certificate status can be stapled from a response that the operator fetches (RFC 9190 §5.4). Asking an OCSP
server about a client's certificate is not offered here, as it would put a network call into the handshake: revocation
lists are, and the core can block the user.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509 import ocsp
from OpenSSL import SSL, crypto

from common.tls import CertificateError, CertificatePair, chain, openssl_context

QUICK_RSA_BITS = 2048  # a longer key signs in a thread
MAX_CHAIN = 10  # certificates between a leaf and its anchor: real ones have three
_CRL = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)


@dataclass(frozen=True)
class TlsOptions:
    """What a provider's EAP methods want of TLS; part of the key under which contexts are shared.

    ``client_ca_pem``: issuers of client certificates, "" for any. ``client_crl_pem``: their revocation lists; a leaf
    whose issuer has no current list is refused then. ``crl_whole_chain``: the same for every certificate up to the
    anchor. ``ocsp_response``: DER, stapled for clients that ask. ``tunnel_tls13``: TLS 1.3 for TTLS and PEAP too
    (RFC 9427); off, since many supplicants get it wrong.
    """

    client_ca_pem: str = field(default="", repr=False)
    client_crl_pem: str = field(default="", repr=False)
    crl_whole_chain: bool = False
    ocsp_response: bytes = field(default=b"", repr=False)
    tunnel_tls13: bool = False


class ServerTls:
    """The contexts of one server certificate.

    ``verifies_clients``: whether issuers are configured. ``is_slow``: its key takes milliseconds to sign.
    """

    __slots__ = ("certificates", "is_slow", "tunnels", "verifies_clients")

    def __init__(self, pair: CertificatePair, options: TlsOptions | None = None) -> None:
        """Raises ``CertificateError``: the pair, the issuers or a revocation list cannot be used."""
        options = options or TlsOptions()
        self.verifies_clients = bool(options.client_ca_pem.strip())
        self.is_slow = _is_slow(pair)
        self.certificates = _context(pair, options)
        self.tunnels = _context(pair, options)
        if not options.tunnel_tls13:
            self.tunnels.set_max_proto_version(SSL.TLS1_2_VERSION)
        if self.verifies_clients:
            _trust(self.certificates, options)
        elif options.client_crl_pem.strip():
            raise CertificateError("revocation lists without issuers of client certificates")
        self.certificates.set_verify(
            SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verified if self.verifies_clients else _taken
        )


class TlsContexts:
    """Contexts by pair and options, made on first use; those no longer in service are dropped by ``keep``."""

    def __init__(self) -> None:
        self._made: dict[tuple[CertificatePair, TlsOptions], ServerTls] = {}

    def of(self, pair: CertificatePair, options: TlsOptions | None = None) -> ServerTls:
        """The contexts of a pair. Raises ``CertificateError``."""
        key = (pair, options or TlsOptions())
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = ServerTls(*key)
        return made

    def keep(self, wanted: Iterable[ServerTls]) -> None:
        """Forget all others, after a refresh. Sessions under way keep theirs alive themselves."""
        kept = set(map(id, wanted))
        self._made = {key: made for key, made in self._made.items() if id(made) in kept}


class Verification:
    """What OpenSSL found wrong with a client's chain: hung to a connection, read for the log."""

    __slots__ = ("problem",)

    def __init__(self) -> None:
        self.problem = ""


def _context(pair: CertificatePair, options: TlsOptions) -> SSL.Context:
    context = openssl_context(pair)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_session_id(b"outposts-eap")
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # a session waits most of its life: 34 KiB less meanwhile
    context.set_verify_depth(MAX_CHAIN)
    if options.ocsp_response:
        response = options.ocsp_response
        try:
            ocsp.load_der_ocsp_response(response)
        except ValueError:
            raise CertificateError("certificate status not readable") from None
        context.set_ocsp_server_callback(lambda connection, data: response)
    return context


def _is_slow(pair: CertificatePair) -> bool:
    """RSA above 2,048 bits: twice the bits, six times the time. A signature with 2,048 takes 0.7 ms."""
    key = chain(pair.certificate_pem)[0].public_key()
    return isinstance(key, rsa.RSAPublicKey) and key.key_size > QUICK_RSA_BITS


def _trust(context: SSL.Context, options: TlsOptions) -> None:
    """Trust the issuers, name them in the request for a certificate, load revocation lists."""
    store = context.get_cert_store()
    if store is None:  # cannot be: a context is made with one
        raise CertificateError("no certificate store")
    for issuer in chain(options.client_ca_pem):
        store.add_cert(crypto.X509.from_cryptography(issuer))
        context.add_client_ca(issuer)
    flags = crypto.X509StoreFlags.PARTIAL_CHAIN
    lists = _revocation_lists(options.client_crl_pem)
    if lists:
        flags |= crypto.X509StoreFlags.CRL_CHECK
        if options.crl_whole_chain:
            flags |= crypto.X509StoreFlags.CRL_CHECK_ALL
        for revoked in lists:
            store.add_crl(revoked)
    store.set_flags(flags)


def _revocation_lists(pem: str) -> list[x509.CertificateRevocationList]:
    if not pem.strip():
        return []
    try:
        lists = [x509.load_pem_x509_crl(block) for block in _CRL.findall(pem.encode())]
    except ValueError:
        raise CertificateError("revocation list not readable") from None
    if not lists:
        raise CertificateError("no revocation list in the text")
    return lists


def _verified(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
    """OpenSSL's judgement stands; what it disliked first is noted."""
    if not ok:
        verification = connection.get_app_data()
        if isinstance(verification, Verification) and not verification.problem:
            verification.problem = f"{_PROBLEMS.get(error, f'error {error}')}, depth {depth}"
    return bool(ok)


def _taken(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
    """Any certificate: whose it is, the core decides."""
    return True


# Names of OpenSSL's verification results: ERR_CERT_HAS_EXPIRED → "cert has expired".
_PROBLEMS: dict[int, str] = {
    number: name.removeprefix("ERR_").replace("_", " ").lower()
    for name, number in vars(SSL.X509VerificationCodes).items()
    if isinstance(number, int)
}
