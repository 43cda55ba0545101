"""The other end of an EAP conversation, in memory: a supplicant on pyOpenSSL, and its faults when a test wants them.

It shares no code with the server's methods: packets, fragments, AVPs and keys are put together here once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto

from common.tls import CertificatePair
from outposts.radius.eap.contexts import ServerTls, TlsOptions
from outposts.radius.eap.session import EapSession, EapSettings
from outposts.radius.eap.steps import Decide, Decision, Fail, Granted, Ignore, Question, Send, Step, Succeed
from tests.certificates import Issuer, authority

IDENTITY, NAK, GTC, TLS, TTLS, PEAP, EXTENSIONS = 1, 3, 6, 13, 21, 25, 33
TYPES = {"tls": TLS, "ttls": TTLS, "peap": PEAP}

SERVERS = authority("server authority")
SERVER = SERVERS.issue(("radius.example",), purposes=())
CLIENTS = authority("client authority")
ALICE = CLIENTS.issue(("alice",))


def pair_of(issued: Issuer, *chain: Issuer) -> CertificatePair:
    """What the core would give as a key pair."""
    return CertificatePair("pk", "", issued.pem + "".join(one.pem for one in chain), issued.key_pem)


PAIR = pair_of(SERVER)


def settings_for(*types: str, options: TlsOptions | None = None, pair: CertificatePair = PAIR) -> EapSettings:
    """A provider's settings with these methods."""
    return EapSettings(types, ServerTls(pair, options))


def zeros(size: int) -> bytes:
    """No chance at all."""
    return bytes(size)


def response(identifier: int, type: int, data: bytes = b"") -> bytes:
    """An EAP response."""
    return bytes((2, identifier)) + (5 + len(data)).to_bytes(2, "big") + bytes((type,)) + data


def avp(code: int, data: bytes, vendor: int = 0, flags: int = 0x40) -> bytes:
    """An AVP of TTLS, padded."""
    flags |= 0x80 if vendor else 0
    head = code.to_bytes(4, "big") + bytes((flags,)) + (len(data) + (12 if vendor else 8)).to_bytes(3, "big")
    octets = head + (vendor.to_bytes(4, "big") if vendor else b"") + data
    return octets + bytes(-len(octets) % 4)


def pap(name: bytes, password: bytes) -> bytes:
    """User-Name and User-Password, the password padded to sixteen octets."""
    return avp(1, name) + avp(2, password + bytes(-len(password) % 16))


@dataclass
class Peer:
    """One supplicant. ``inside`` is told each decrypted message ("" when the tunnel stands) and says what to send."""

    method: str = "tls"
    identity: bytes = b"alice"
    version: int = SSL.TLS1_2_VERSION
    certificate: Issuer | None = None
    chain: Sequence[Issuer] = ()
    trust: Issuer | None = None
    fragment: int = 1000  # TLS octets in each packet
    length_on: str = "first"  # first, all, none, or wrong
    inside: Callable[[bytes], bytes | None] = lambda message: None
    prepare: Callable[[SSL.Context], object] = lambda context: None
    resumes: Peer | None = None  # its TLS session is offered again
    stapling: bool = False  # asks for the server certificate's status
    context: SSL.Context = field(init=False)
    tls: SSL.Connection = field(init=False)
    established: bool = False
    refused: str = ""
    received: bytes = b""
    to_send: list[bytes] = field(default_factory=list)
    fragments: int = 0
    seen: list[bytes] = field(default_factory=list)
    after: bytes | None = None  # sent instead of the last acknowledgement

    def __post_init__(self) -> None:
        self.context = self._make_context() if self.resumes is None else self.resumes.context
        self.tls = SSL.Connection(self.context, None)
        if self.resumes is not None:
            kept = self.resumes.tls.get_session()
            assert kept is not None
            self.tls.set_session(kept)
        if self.stapling:
            self.tls.request_ocsp()
        self.tls.set_connect_state()

    def _make_context(self) -> SSL.Context:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(self.version)
        if self.trust is not None:
            store = context.get_cert_store()
            assert store is not None
            store.add_cert(crypto.X509.from_cryptography(self.trust.certificate))
            context.set_verify(SSL.VERIFY_PEER)
        if self.certificate is not None:
            context.use_certificate(self.certificate.certificate)
            key = load_pem_private_key(self.certificate.key_pem.encode(), None)
            context.use_privatekey(key)  # type: ignore[arg-type]
            for one in self.chain:
                context.add_extra_chain_cert(one.certificate)
        self.prepare(context)
        return context

    def answer(self, request: bytes) -> bytes:
        """The response to one request."""
        identifier, type, data = request[1], request[4], request[5:]
        assert request[0] == 1 and int.from_bytes(request[2:4], "big") == len(request)
        if type == IDENTITY:
            return response(identifier, IDENTITY, self.identity)
        if type != TYPES[self.method]:
            return response(identifier, NAK, bytes((TYPES[self.method],)))
        return response(identifier, type, self._flight(data[0], data[1:]))

    def keys(self) -> bytes:
        """The MSK as this side computes it."""
        number = bytes((TYPES[self.method],))
        if self.tls.get_protocol_version() >= SSL.TLS1_3_VERSION:
            return self.tls.export_keying_material(b"EXPORTER_EAP_TLS_Key_Material", 128, number)[:64]
        label = b"ttls keying material" if self.method == "ttls" else b"client EAP encryption"
        return self.tls.export_keying_material(label, 128)[:64]

    def session_id(self) -> bytes:
        """The Session-Id as this side computes it."""
        number = bytes((TYPES[self.method],))
        if self.tls.get_protocol_version() >= SSL.TLS1_3_VERSION:
            return number + self.tls.export_keying_material(b"EXPORTER_EAP_TLS_Method-Id", 64, number)
        return number + (self.tls.client_random() or b"") + (self.tls.server_random() or b"")

    def _flight(self, flags: int, data: bytes) -> bytes:
        if flags & 0x80:
            data = data[4:]
        if self.to_send:
            assert not data and not flags & 0x40, "the server must acknowledge a fragment with nothing"
            return self.to_send.pop(0)
        self.received += data
        if flags & 0x40:
            return b"\0"
        flight, self.received = self.received, b""
        if flight:
            self.tls.bio_write(flight)
        self._turn(start=bool(flags & 0x20))
        self.to_send = self._cut(self.drain())
        return self.to_send.pop(0)

    def _turn(self, start: bool) -> None:
        if not self.established and not self.refused:
            try:
                self.tls.do_handshake()
                self.established = True
                self._say(b"")
            except SSL.WantReadError:
                return
            except SSL.Error as error:
                self.refused = str(error)
                return
        if self.refused:
            return
        try:
            while True:
                message = self.tls.recv(20000)
                self.seen.append(message)
                self._say(message)
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            self.refused = str(error)

    def _say(self, message: bytes) -> None:
        answer = self.inside(message)
        if answer:
            self.tls.sendall(answer)

    def drain(self) -> bytes:
        octets = b""
        try:
            while True:
                octets += self.tls.bio_read(65536)
        except SSL.WantReadError:
            return octets

    def _cut(self, flight: bytes) -> list[bytes]:
        if not flight:
            return [b"\0"]
        total = (len(flight) + (1 if self.length_on == "wrong" else 0)).to_bytes(4, "big")
        pieces = [flight[at : at + self.fragment] for at in range(0, len(flight), self.fragment)]
        packets = []
        for index, piece in enumerate(pieces):
            more = 0x40 if index < len(pieces) - 1 else 0
            with_length = self.length_on in ("all", "wrong") or (self.length_on == "first" and index == 0 and more > 0)
            packets.append((bytes((0x80 | more,)) + total if with_length else bytes((more,))) + piece)
        self.fragments = max(self.fragments, len(packets))
        return packets


@dataclass
class Talk:
    """How a conversation went."""

    end: Step
    requests: list[bytes]
    questions: list[Question]

    @property
    def granted(self) -> Succeed:
        """The success that it must have been."""
        assert isinstance(self.end, Succeed), self.end
        return self.end

    @property
    def refused(self) -> Fail:
        """The failure that it must have been."""
        assert isinstance(self.end, Fail), self.end
        return self.end


def talk(
    session: EapSession,
    peer: Peer,
    decide: Callable[[Question], Decision] = lambda question: Granted(),
    *,
    twice: bool = False,
    start: bytes | None = None,
) -> Talk:
    """Run a conversation to its end. ``twice``: every packet of the peer arrives a second time."""
    requests: list[bytes] = []
    questions: list[Question] = []
    packet = response(7, IDENTITY, peer.identity) if start is None else start
    for now in range(200):
        step = session.receive(packet, now / 10)
        while isinstance(step, Decide):
            questions.append(step.question)
            step = session.decided(decide(step.question))
        if twice:
            again = session.receive(packet, now / 10)
            assert isinstance(again, Ignore), again
        if not isinstance(step, Send):
            return Talk(step, requests, questions)
        requests.append(step.eap)
        packet = peer.answer(step.eap)
    raise AssertionError("the conversation has no end")


def inner_eap(answers: Sequence[bytes]) -> Callable[[bytes], bytes | None]:
    """What a peer says inside TTLS with EAP-GTC: its identity at once, then one answer for each GTC request."""
    left = list(answers)

    def say(message: bytes) -> bytes | None:
        if not message:
            return avp(79, response(0, IDENTITY, left.pop(0)))
        assert message[:4] == (79).to_bytes(4, "big")
        request = message[8 : int.from_bytes(message[5:8], "big")]
        assert request[0] == 1 and request[4] == GTC, request
        return avp(79, response(request[1], GTC, left.pop(0)))

    return say


def inner_peap(answers: Sequence[bytes], *, status: bytes = b"\0\1") -> Callable[[bytes], bytes | None]:
    """What a peer says inside PEAP: an answer for each Identity or GTC request, and agreement to the result."""
    left = list(answers)

    def say(message: bytes) -> bytes | None:
        if not message:
            return None
        if message == bytes((IDENTITY,)) or message[0] == GTC:
            return message[:1] + left.pop(0)
        assert message[0] == 1 and message[4] == EXTENSIONS, message
        agreed = message[9:] if message[9:] == b"\0\2" else status
        return b"\2" + message[1:9] + agreed

    return say
