"""Fuzz targets of EAP: packets, fragments, whole sessions with damaged flights, and what comes out of a tunnel.

No session ever ends in Success here, since nothing is ever granted to it; everything else is one of the known steps.
"""

from __future__ import annotations

import random

from OpenSSL import SSL

from outposts.radius.eap import fragments, packet, peap
from outposts.radius.eap.contexts import TlsOptions
from outposts.radius.eap.fragments import MAX_FLIGHT, FragmentError, Incoming
from outposts.radius.eap.packet import EapError
from outposts.radius.eap.peap import Peap
from outposts.radius.eap.session import EapSession, State
from outposts.radius.eap.steps import Asked, Decide, Fail, Failed, Finished, Ignore, Refused, Request, Send
from outposts.radius.eap.tls import Keys, Setup, TlsMethod
from outposts.radius.eap.ttls import AvpError, Ttls, decode_avps, encode_avp
from tests.fuzz.damage import injured
from tests.radius.eap_peer import CLIENTS, Peer, avp, pap, response, settings_for, zeros

SETTINGS = settings_for("tls", "ttls", "peap", options=TlsOptions(client_ca_pem=CLIENTS.pem))
HELLOS = [
    Peer(method, version=version).answer(bytes((1, 0, 0, 6, type, 0x20)))[5:]
    for method, type in (("tls", 13), ("ttls", 21), ("peap", 25))
    for version in (0x0303, 0x0304)
]
PACKETS = [
    b"",
    response(1, 1, b"alice"),
    response(1, 3, b"\x15\x19"),
    response(1, 2),
    response(1, 13, b"\0"),
    bytes.fromhex("04010004"),
    *(response(1, 13, hello) for hello in HELLOS),
]
TUNNELLED = [
    pap(b"alice", b"wonderland"),
    pap(b"alice", b"pw") + avp(999, b"x", flags=0) + avp(5, b"y", vendor=9, flags=0),
    avp(79, response(0, 1, b"alice")),
    avp(79, response(1, 6, b"pw")),
    avp(1, b"alice") + avp(11, bytes(16), vendor=311) + avp(25, bytes(50), vendor=311),
]
INNER = [
    b"\1alice",
    b"\6pw",
    b"\3\x1a",
    response(3, 6, b"pw"),
    peap.result(1, 1, 2),
    peap.result(1, 2, 2),
]


class OpenTtls(Ttls):
    """TTLS whose tunnel stands and hides nothing."""

    said = b""

    def _read(self) -> bytes:
        return self.said

    def _write(self, octets: bytes) -> bytes:
        return octets


class OpenPeap(Peap):
    """PEAP whose tunnel stands and hides nothing."""

    said = b""

    def _read(self) -> bytes:
        return self.said

    def _write(self, octets: bytes) -> bytes:
        return octets


def fuzz_eap_packet(source: random.Random) -> str:
    """A packet that is read is the same when it is written again."""
    data = injured(source, source.choice(PACKETS))
    packet.failure_for(data)
    try:
        read = packet.decode_response(data)
    except EapError:
        return "error"
    assert read.type is not None
    again = packet.encode(read.code, read.identifier, read.type, read.data)
    assert data.startswith(again)
    return "message"


def fuzz_eap_fragments(source: random.Random) -> str:
    """No more is held than has come, nor more than a flight may have."""
    incoming = Incoming()
    came = 0
    for _ in range(source.randint(1, 8)):
        data = source.choice((b"\0abc", b"\x40abc", b"\xc0\0\0\0\x06abc", b"\x80\0\0\0\6abc", b"\x40" + bytes(30_000)))
        if source.random() < 0.3:
            data = injured(source, data)
        try:
            flight = incoming.add(fragments.decode(data))
        except FragmentError:
            return "error"
        came += len(data)
        assert incoming.held <= min(came, MAX_FLIGHT)
        if flight is not None:
            assert len(flight) <= came
            return "message"
    return "more"


def fuzz_eap_session(source: random.Random) -> str:
    """A short life of a session: good and damaged packets, mostly with the right identifier."""
    session = EapSession(SETTINGS, zeros, framed_mtu=source.choice((None, 0, 600, 2**32 - 1)))
    answer = ""
    for now in range(source.randint(2, 7)):
        data = PACKETS[1] if not now and source.random() < 0.8 else source.choice(PACKETS)
        if source.random() < 0.4:
            data = injured(source, data)
        if len(data) > 4 and source.random() < 0.9:
            last = session.last_request
            data = data[:1] + last[1:2] + data[2:] if last else data
            if session.state in (State.OFFERED, State.METHOD) and source.random() < 0.7:
                data = data[:4] + last[4:5] + data[5:]  # of the method that is under way
        session.works_on(data)
        step = session.receive(data, source.choice((float(now), 61.0)) if source.random() < 0.05 else float(now))
        while isinstance(step, Decide):
            step = session.decided(source.choice((Refused("no"), Asked("?"))))
        assert isinstance(step, Send | Fail | Ignore)
        assert not isinstance(step, Send) or len(step.eap) <= 1400
        answer = type(step).__name__
        if isinstance(step, Fail):
            break
    return answer


class _Silent:
    """Stands for a TLS object that takes everything and has nothing to say."""

    def bio_write(self, octets: bytes) -> int:
        return len(octets)

    def bio_read(self, size: int) -> bytes:
        raise SSL.WantReadError


def _opened(method: TlsMethod) -> None:
    method._keys = Keys(bytes(64), b"")
    method._connection = _Silent()  # type: ignore[assignment]


SETUP = Setup(settings_for("ttls").tls, 1020, "anon", str)  # type: ignore[arg-type]


def fuzz_eap_avps(source: random.Random) -> str:
    """What a TTLS peer says inside: decided on, answered, or the end; never success."""
    method = OpenTtls(SETUP)
    _opened(method)
    answer = ""
    for _ in range(source.randint(1, 3)):
        said = source.choice(TUNNELLED)
        method.said = injured(source, said) if source.random() < 0.8 else said
        try:
            for one in decode_avps(method.said):
                encode_avp(one.code, one.data, one.vendor)
        except AvpError:
            pass
        if method._connection is None:
            break
        step = method.receive(b"\0x")
        if isinstance(step, Decide):
            answer = "decide"
            step = method.decided(source.choice((Refused("no"), Asked("?"))))
        assert isinstance(step, Request | Failed)
        answer = answer or type(step).__name__
    return answer


def fuzz_eap_inner(source: random.Random) -> str:
    """What a PEAP peer says inside: success only after it was granted and agreed to, so never here."""
    method = OpenPeap(SETUP)
    _opened(method)
    answer = ""
    method.acknowledged()
    while method._outgoing is not None and not method._outgoing.done:
        method._outgoing.next()
    for number in range(source.randint(1, 4)):
        said = source.choice(INNER) if source.random() < 0.3 else INNER[min(number, 1)]
        method.said = injured(source, said) if source.random() < 0.4 else said
        peap.status_of(injured(source, INNER[4][5:]))
        if method._connection is None:
            break
        step = method.receive(b"\0x")
        if isinstance(step, Decide):
            answer = "decide"
            step = method.decided(source.choice((Refused("no"), Asked("?"))))
        assert isinstance(step, Request | Failed)
        assert not isinstance(step, Finished)
        answer = answer or type(step).__name__
    return answer


TARGETS = (fuzz_eap_packet, fuzz_eap_fragments, fuzz_eap_session, fuzz_eap_avps, fuzz_eap_inner)
ANSWERS = {
    "fuzz_eap_fragments": ("error", "message", "more"),
    "fuzz_eap_session": ("Send", "Fail", "Ignore"),
    "fuzz_eap_avps": ("decide", "Request", "Failed"),
    "fuzz_eap_inner": ("decide", "Request", "Failed"),
}
