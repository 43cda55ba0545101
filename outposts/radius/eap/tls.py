"""TLS inside EAP: flights in and out, keys, and EAP-TLS itself (RFC 5216; RFC 9190 for TLS 1.3).

``TlsMethod`` is what EAP-TLS, TTLS and PEAP share. A peer's packet means one of four things::

    our flight is not out yet     it must be an acknowledgement; the next fragment goes out
    a fragment, more to follow    kept; acknowledged
    an acknowledgement            ``acknowledged``: our whole flight has arrived
    a whole flight                into TLS: ``established`` if the handshake ends with it, ``arrived`` if it had before

When TLS fails, its alert goes out first, and Failure follows whatever the peer answers (RFC 5216 §2.1.3). OpenSSL works
on memory only. The TLS object, 50 to 60 KiB, is made with the peer's first whole flight, which must look like TLS, and
dropped as soon as nothing more will be said through it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto

from outposts.radius.eap.contexts import ServerTls, Verification
from outposts.radius.eap.fragments import START, VERSION, FragmentError, Incoming, Outgoing, decode
from outposts.radius.eap.packet import EapType
from outposts.radius.eap.steps import (
    Asked,
    CertificateLogin,
    Decide,
    Decision,
    Failed,
    Finished,
    Granted,
    MethodStep,
    Refused,
    Request,
)

KEY_MATERIAL = 128  # octets: MSK and EMSK (RFC 5216 §2.3); exported whole, as TLS 1.3 hashes the length in
MSK = 64  # octets of it that leave this module; the EMSK never does
METHOD_ID = 64  # octets (RFC 9190 §2.3)
READ = 8192  # octets taken from TLS at a time: most flights are shorter, and each read clears that much memory
# Octets that TLS holds in the middle of a handshake, and in a tunnel; measured, Python's part included.
HANDSHAKE_WEIGHT, TUNNEL_WEIGHT = 56 * 1024, 34 * 1024
HANDSHAKE_RECORD = 0x16  # first octet of a ClientHello's record (RFC 8446 §5.1)
COMMITMENT = b"\0"  # the application data that says "no more handshake messages" (RFC 9190 §2.1.1)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a method is made with.

    ``packet_size``: the longest EAP packet in octets. ``identity``: what the peer showed outside. ``canonical``: makes
    the name for the flow of a name that a peer typed.
    """

    tls: ServerTls
    packet_size: int
    identity: str
    canonical: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Keys:
    """What the handshake gave for the outside."""

    msk: bytes = field(repr=False)
    session_id: bytes


class TlsMethod:
    """What the three methods share. Subclasses say what happens after the handshake."""

    __slots__ = ("_connection", "_failure", "_incoming", "_keys", "_outgoing", "_tls13", "setup")

    type: int
    name: str
    key_label: bytes = b"client EAP encryption"  # up to TLS 1.2
    tunnel = True

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._incoming = Incoming()
        self._outgoing: Outgoing | None = None
        self._connection: SSL.Connection | None = None
        self._failure: Failed | None = None
        self._keys: Keys | None = None
        self._tls13 = False

    def start(self) -> Request:
        """Flag S, nothing else."""
        return Request(bytes((START,)))

    def receive(self, data: bytes) -> MethodStep:
        """The peer's data after the type octet."""
        try:
            fragment = decode(data)
            if self.tunnel and fragment.flags & VERSION:
                raise FragmentError("tls_method_version")
            if self._outgoing is not None and not self._outgoing.done:
                if not fragment.acknowledges:
                    raise FragmentError("fragment_not_acknowledged")
                return Request(self._outgoing.next())
            if fragment.acknowledges and not self._incoming.under_way:
                return self._failure or self.acknowledged()
            flight = self._incoming.add(fragment)
        except FragmentError as error:
            return self._end(error.reason)
        if flight is None:
            return Request(b"\0")
        return self._failure or self._take(flight)

    @property
    def is_shaking_hands(self) -> bool:
        """Whether TLS has begun and not come to its end."""
        return self._connection is not None and self._keys is None

    @property
    def gathered(self) -> int:
        """Octets of a flight of the peer whose end has not come."""
        return self._incoming.held

    @property
    def weight(self) -> int:
        """About how many octets are held."""
        octets = self.gathered + (len(self._outgoing) if self._outgoing is not None else 0)
        if self._connection is not None:
            octets += HANDSHAKE_WEIGHT if self._keys is None else TUNNEL_WEIGHT
        return octets

    def works_on(self, data: bytes) -> bool:
        """The last fragment of something, when it is not just an acknowledgement."""
        try:
            fragment = decode(data)
        except FragmentError:
            return False
        return not fragment.more and bool(fragment.octets)

    def decided(self, decision: Decision) -> MethodStep:
        """A method that can ask, or has more to say after a decision, puts something else here."""
        if isinstance(decision, Granted):
            return self._finished()
        return self._end(refusal(decision))

    # What subclasses say

    def established(self) -> MethodStep:
        """The handshake is over; nothing has been sent of what TLS has to say."""
        raise NotImplementedError

    def acknowledged(self) -> MethodStep:
        """The peer has our whole flight and says nothing itself."""
        return self._end("tls_out_of_order")

    def arrived(self) -> MethodStep:
        """The peer has sent something after the handshake; ``_read`` gives it."""
        return self._end("tls_out_of_order")

    @property
    def username(self) -> str:
        """The name that the method authenticated."""
        raise NotImplementedError

    # What subclasses use

    def _context(self) -> SSL.Context:
        return self.setup.tls.tunnels

    def _flight(self, octets: bytes) -> Request:
        """Begin to send a flight; an empty one is an acknowledgement."""
        self._outgoing = Outgoing(octets, self.setup.packet_size)
        return Request(self._outgoing.next())

    def _pending(self) -> bytes:
        """What TLS has to say."""
        parts = []
        try:
            while self._connection is not None:
                parts.append(self._connection.bio_read(READ))
        except SSL.WantReadError:
            pass
        return b"".join(parts)

    def _write(self, octets: bytes) -> bytes:
        """Encrypt, together with whatever TLS had to say before. Raises ``SSL.Error``."""
        if self._connection is None:
            raise SSL.Error([])
        self._connection.sendall(octets)
        return self._pending()

    def _read(self) -> bytes:
        """Everything that the peer has sent inside; b"" if nothing. Raises ``SSL.Error``."""
        parts = []
        try:
            while self._connection is not None:
                parts.append(self._connection.recv(READ))
        except SSL.WantReadError:
            pass
        return b"".join(parts)

    def _release(self) -> None:
        """Nothing more will be said through TLS."""
        self._connection = None

    def _finished(self) -> MethodStep:
        """Success, for which there must be keys."""
        keys, self._keys = self._keys, None
        self._release()
        if keys is None:
            return Failed("tls_no_keys")
        return Finished(keys.msk, keys.session_id, self.username)

    def _end(self, reason: str, detail: str = "") -> Failed:
        self._release()
        self._keys = None
        self._failure = Failed(reason, detail)
        return self._failure

    def _break(self, error: SSL.Error) -> MethodStep:
        """TLS failed: its alert first, Failure with the peer's answer."""
        reason, detail = explain(error, self._connection)
        alert = self._pending()
        failed = self._end(reason, detail)
        return self._flight(alert) if alert else failed

    # TLS

    def _take(self, flight: bytes) -> MethodStep:
        if self._keys is not None:
            if self._connection is None:
                return self._end("peer_refused")  # we are done, the peer is not content
            self._connection.bio_write(flight)
            return self._guarded(self.arrived)
        if self._connection is None:
            if flight[0] != HANDSHAKE_RECORD:
                return self._end("tls_not_tls")
            self._connection = SSL.Connection(self._context(), None)
            self._connection.set_app_data(Verification())
            self._connection.set_accept_state()
        self._connection.bio_write(flight)
        return self._guarded(self._handshake)

    def _guarded(self, act: Callable[[], MethodStep]) -> MethodStep:
        try:
            return act()
        except SSL.Error as error:
            return self._break(error)

    def _handshake(self) -> MethodStep:
        connection = self._connection
        if connection is None:  # cannot be: the caller has just made it
            return self._end("tls_out_of_order")
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            octets = self._pending()
            # A peer that has more to say marks its fragments; a flight that TLS finds incomplete is none.
            return self._flight(octets) if octets else self._end("tls_incomplete")
        self._tls13 = connection.get_protocol_version() >= SSL.TLS1_3_VERSION
        self._keys = export(connection, self.type, self.key_label)
        return self.established()


def export(connection: SSL.Connection, type: int, label: bytes) -> Keys:
    """The keys of a finished handshake: RFC 5216 §2.3, RFC 5281 §8, RFC 9190 §2.3 and RFC 9427 §2.1.

    Up to TLS 1.2 the label belongs to the method; in TLS 1.3 the label is common and the type is its context.
    """
    number = bytes((type,))
    if connection.get_protocol_version() >= SSL.TLS1_3_VERSION:
        material = connection.export_keying_material(b"EXPORTER_EAP_TLS_Key_Material", KEY_MATERIAL, number)
        method_id = connection.export_keying_material(b"EXPORTER_EAP_TLS_Method-Id", METHOD_ID, number)
        return Keys(material[:MSK], number + method_id)
    material = connection.export_keying_material(label, KEY_MATERIAL)
    randoms = (connection.client_random() or b"") + (connection.server_random() or b"")
    return Keys(material[:MSK], number + randoms)


def refusal(decision: Decision) -> str:
    """The reason label of a decision that is not Granted."""
    if isinstance(decision, Refused):
        return decision.reason
    return "mfa_required" if isinstance(decision, Asked) else "eap_internal"


def explain(error: SSL.Error, connection: SSL.Connection | None) -> tuple[str, str]:
    """A label and a text for the log; OpenSSL's texts hold no secrets."""
    if isinstance(error, SSL.ZeroReturnError):
        return "peer_refused", "the peer closed TLS"
    texts = [entry[-1] for entry in error.args[0]] if error.args and isinstance(error.args[0], list) else []
    detail = "; ".join(texts[:3])
    if "certificate verify failed" in detail:
        verification = connection.get_app_data() if connection is not None else None
        problem = verification.problem if isinstance(verification, Verification) else ""
        return "client_certificate_refused", problem or detail
    if "peer did not return a certificate" in detail:
        return "client_certificate_missing", detail
    if "alert" in detail:
        return "peer_refused", detail
    return "tls_error", detail


class Phase(Enum):
    """Of EAP-TLS, after the handshake."""

    HANDSHAKE = "handshake"
    LAST_FLIGHT = "last flight"  # up to TLS 1.2: our Finished is out, the peer's acknowledgement is awaited
    DECIDING = "deciding"
    COMMITTED = "committed"  # TLS 1.3: the decision is made and said, the acknowledgement is awaited


class EapTls(TlsMethod):
    """EAP-TLS: the peer proves to hold a certificate's key, the core says whose it is.

    Up to TLS 1.2 the decision is taken when the peer has accepted our Finished. In TLS 1.3 it comes before the
    commitment message, since the peer may rely on that (RFC 9190 §2.1.1); both are then followed by Success only.
    """

    __slots__ = ("_certificate", "_phase")

    type = EapType.TLS
    name = "tls"
    tunnel = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._phase = Phase.HANDSHAKE
        self._certificate: CertificateLogin | None = None

    @property
    def username(self) -> str:
        """The name that was given to the flow."""
        return "" if self._certificate is None else self._certificate.identity

    def _context(self) -> SSL.Context:
        return self.setup.tls.certificates

    def established(self) -> MethodStep:
        """Note the certificate, then ask (TLS 1.3) or send the last flight."""
        try:
            certificate = None if self._connection is None else self._presented(self._connection)
        except (ValueError, x509.InvalidVersion) as error:
            # OpenSSL is more patient than what reads names later; nobody can be looked up by such a certificate.
            return self._end("client_certificate_refused", f"not readable ({type(error).__name__})")
        if certificate is None:
            return self._end("client_certificate_missing")
        self._certificate = certificate
        if self._tls13:
            self._phase = Phase.DECIDING
            return Decide(certificate)
        last = self._pending()
        self._release()
        self._phase = Phase.LAST_FLIGHT
        return self._flight(last)

    def acknowledged(self) -> MethodStep:
        """The peer has taken our last flight."""
        if self._phase is Phase.COMMITTED:
            return self._finished()
        if self._phase is not Phase.LAST_FLIGHT or self._certificate is None:
            return self._end("tls_out_of_order")
        self._phase = Phase.DECIDING
        return Decide(self._certificate)

    def decided(self, decision: Decision) -> MethodStep:
        """Up to TLS 1.2 that is all; TLS 1.3 says it to the peer first."""
        if not isinstance(decision, Granted) or not self._tls13:
            return super().decided(decision)
        try:
            last = self._write(COMMITMENT)
        except SSL.Error as error:
            return self._break(error)
        self._phase = Phase.COMMITTED
        return self._flight(last)

    def arrived(self) -> MethodStep:
        """TLS 1.3: the peer must acknowledge the commitment; anything it says instead is a refusal."""
        self._read()
        return self._end("peer_refused")

    def _presented(self, connection: SSL.Connection) -> CertificateLogin | None:
        leaf = connection.get_peer_certificate()
        if leaf is None:
            return None
        chain = connection.get_peer_cert_chain() or []
        pem = _pem(leaf)
        others = tuple(text for text in map(_pem, chain) if text != pem)
        return CertificateLogin(self._identity(leaf), pem, others, self.setup.tls.verifies_clients)

    def _identity(self, leaf: crypto.X509) -> str:
        """The peer's name for itself; where it hides that (RFC 9190 §2.1.7), the certificate's."""
        shown = self.setup.identity
        hidden = not shown or shown.startswith("@") or shown.partition("@")[0] == "anonymous"
        if hidden:
            names = leaf.to_cryptography().subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            if len(names) == 1:
                shown = str(names[0].value)
        return self.setup.canonical(shown)


def _pem(certificate: crypto.X509) -> str:
    return certificate.to_cryptography().public_bytes(Encoding.PEM).decode()
