"""TLS below RadSec: a layer on memory buffers between a socket and a ``Connection``, and the contexts it is made with.

pyOpenSSL and not Python's ``ssl``: it takes keys that are in no file, shows the certificate of a client whose issuer it
does not know (which a fingerprint may vouch for), and lets ALPN depend on the version of TLS and end a handshake, as
RFC 9765 §3 asks. Pre-shared keys are the other way round: only Python's ``ssl`` has them, from 3.13 on
(``psk_context``).

Everything is read anew for each handshake: a renewed certificate, changed issuers and revocation lists serve the next
client without a restart. Handshakes run in threads: whoever reaches the port may begin one, and each takes milliseconds
in which requests of others must be served.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509
from OpenSSL import SSL, crypto

from common import logs
from common.client_certificate import UNREADABLE
from common.tls import CertificateError, CertificatePair, choose, openssl_context
from outposts.radius.intake import Notes
from outposts.radius.radius11 import ALPN_10, ALPN_11
from outposts.radius.radsec_clients import Identity, identity, of_key

log = logs.get_logger("radius.radsec")

READ_SIZE = 65_536  # octets taken from TLS at a time: four records
WRITE_HIGH = 262_144  # octets of replies that may wait for a client; a reply has some 100, so it has stopped reading
MIN_KEY = 16  # octets of a pre-shared key; RFC 9813 §4.1 refuses shorter ones
MAX_KEY_NAME = 128  # octets of a key's name; RFC 4279 §5.1
TLS_1_3 = 0x0304  # RFC 8446 §4.2.1
# Of TLS 1.2, with forward secrecy; TLS 1.3 has its own list.
PSK_CIPHERS = "kECDHEPSK+CHACHA20:kDHEPSK+AESGCM:kDHEPSK+CHACHA20"
NO_PSK = (
    "TLS with pre-shared keys needs Python 3.13 or newer; this is an older one. Use certificates "
    "(OUTPOSTS_LISTEN__RADSEC) or a newer Python"
)


class Upper(Protocol):
    """What speaks through TLS."""

    def secured(self, who: Identity, version_11: bool) -> None:
        """The handshake is done."""

    def received(self, data: bytes) -> None:
        """Octets of the client."""

    def blocked(self, blocked: bool) -> None:
        """Whether too much waits to be written."""

    def lost(self, reason: str) -> None:
        """It is over, for whatever reason (a metric's label); called once."""


class Refused(Exception):
    """The handshake must not succeed. ``reason`` is a metric's label."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Wire(asyncio.Protocol):
    """A socket as the connection sees it. Without TLS of its own: for a transport that has it (pre-shared keys)."""

    transport: asyncio.Transport

    def __init__(self, upper: Callable[[Wire, str], Upper | None]) -> None:
        """``upper`` makes what speaks through it, given the client's address; None: the client is not let in."""
        self._make_upper = upper
        self._upper: Upper | None = None
        self._lost = ""

    def connection_made(self, transport: Any) -> None:
        """A socket was accepted."""
        self.transport = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH)
        self._upper = self._make_upper(self, str(transport.get_extra_info("peername")[0]))
        if self._upper is None:
            transport.abort()
            return
        self.opened(transport)

    def opened(self, transport: asyncio.Transport) -> None:
        """TLS is there already: who is it?"""
        protected = transport.get_extra_info("ssl_object")
        name = getattr(protected.context, KEY_NAME, "") if protected is not None else ""
        if not name:
            self.cut("unknown_client")
            return
        if self._upper is not None:
            self._upper.secured(of_key(name), protected.selected_alpn_protocol() == ALPN_11.decode())

    def data_received(self, data: bytes) -> None:
        """Octets."""
        if self._upper is not None and not self._lost:
            self._upper.received(data)

    def pause_writing(self) -> None:
        """The client does not read."""
        if self._upper is not None:
            self._upper.blocked(True)

    def resume_writing(self) -> None:
        """It reads again."""
        if self._upper is not None:
            self._upper.blocked(False)

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is gone."""
        if self._upper is not None:
            upper, self._upper = self._upper, None
            upper.lost(self._lost or "by_client")

    def write(self, data: bytes) -> None:
        """Send octets, in time."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def close(self, reason: str) -> None:
        """Close when everything is written."""
        self._lost = self._lost or reason
        self.transport.close()

    def cut(self, reason: str) -> None:
        """Close at once."""
        self._lost = self._lost or reason
        self.transport.abort()

    def pause(self) -> None:
        """Read no more for now."""
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if not self.transport.is_closing():
            self.transport.resume_reading()


class TlsWire(Wire):
    """A socket with TLS on it."""

    def __init__(
        self,
        upper: Callable[[Wire, str], Upper | None],
        contexts: Contexts,
        handshake_timeout_s: float,
        threads: Executor,
    ) -> None:
        super().__init__(upper)
        self._contexts = contexts
        self._timeout_s = handshake_timeout_s
        self._threads = threads
        self._early = b""  # what came while a thread was at work
        self._working = False
        self._timer: asyncio.TimerHandle | None = None
        self._tls: SSL.Connection | None = None
        self._done = False

    def opened(self, transport: asyncio.Transport) -> None:
        """Wait for the client's hello."""
        try:
            tls = SSL.Connection(self._contexts.context(), None)
        except CertificateError as error:
            log.error("no certificate for RadSec", problem=str(error))
            self.cut("no_certificate")
            return
        except Exception:
            log.exception("no TLS for RadSec")
            self.cut("unexpected")
            return
        tls.set_app_data(_Trust())
        tls.set_accept_state()
        self._tls = tls
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self.cut, "handshake_timeout")

    def data_received(self, data: bytes) -> None:
        """Octets of TLS."""
        if self._tls is None or self._lost:
            return
        if not self._done:
            self._early += data
            self._shake(self._tls)
            return
        self._tls.bio_write(data)
        self._carefully(self._read)

    def _shake(self, tls: SSL.Connection) -> None:
        """The next step of the handshake, in a thread, which has TLS for itself meanwhile; no more is read then."""
        if self._working or not self._early:
            return
        data, self._early = self._early, b""
        self._working = True
        self.pause()
        work = asyncio.get_running_loop().run_in_executor(self._threads, _step, tls, data)
        work.add_done_callback(self._shaken)

    def _shaken(self, work: asyncio.Future[bool]) -> None:
        """The thread is done with TLS."""
        self._working = False
        error = None if work.cancelled() else work.exception()
        if self._tls is None or self._lost or work.cancelled():
            return
        self.resume()

        def settle(tls: SSL.Connection) -> None:
            if error is not None:
                raise error
            if not work.result():
                raise SSL.WantReadError
            self._handshaken(tls)
            self._read(tls)

        self._carefully(settle)
        if self._tls is not None and not self._lost:
            if self._done and self._early:
                data, self._early = self._early, b""
                self.data_received(data)
            else:
                self._shake(self._tls)

    def _carefully(self, act: Callable[[SSL.Connection], None]) -> None:
        """Do something with TLS, and close where that fails."""
        if self._tls is None:
            return
        try:
            act(self._tls)
        except SSL.WantReadError:
            self._flush()
        except Refused as refused:
            self._flush()
            self.close(refused.reason)
        except SSL.ZeroReturnError:
            self.close("by_client")
        except SSL.Error:
            self._flush()  # the alert
            self.close("tls" if self._done else "handshake")
        except Exception:
            log.exception("no TLS for RadSec")
            self.cut("unexpected")

    def _read(self, tls: SSL.Connection) -> None:
        """Hand up what is there. Raises ``WantReadError`` when that is all."""
        while not self._lost and self._upper is not None:
            plain = tls.recv(READ_SIZE)
            self._upper.received(plain)
        self._flush()

    def _handshaken(self, tls: SSL.Connection) -> None:
        self._flush()
        if self._timer is not None:
            self._timer.cancel()
        version = tls.get_alpn_proto_negotiated()
        if version not in self._contexts.versions and (version or ALPN_10 not in self._contexts.versions):
            raise Refused("alpn")
        leaf = tls.get_peer_certificate(as_cryptography=True)
        if leaf is None:
            raise Refused("no_certificate")
        trust = tls.get_app_data()
        try:
            who = identity(leaf, trusted=self._contexts.has_issuers and not trust.problems)
        except UNREADABLE:
            raise Refused("certificate") from None
        if trust.problems and self._contexts.notes.due("issuer", self._address(), time.monotonic()):
            log.info("issuer of a RadSec client not trusted", client=str(who), problem=trust.problems[0])
        self._done = True
        if self._upper is not None:
            self._upper.secured(who, version == ALPN_11)

    def _address(self) -> str:
        return str((self.transport.get_extra_info("peername") or ("",))[0])

    def write(self, data: bytes) -> None:
        """Encrypt and send."""
        if self._tls is None or self._lost:
            return
        try:
            self._tls.sendall(data)
        except SSL.Error:
            self.cut("tls")
            return
        self._flush()

    def close(self, reason: str) -> None:
        """Say goodbye and close when everything is written."""
        if self._tls is not None and not self._lost and self._done:
            try:
                self._tls.shutdown()
                self._flush()
            except SSL.Error:
                pass  # the client is gone, or has broken off in the middle of a record
        super().close(reason)

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is gone."""
        if self._timer is not None:
            self._timer.cancel()
        self._tls = None
        super().connection_lost(error)

    def _flush(self) -> None:
        """Write what TLS has to say."""
        if self._tls is None:
            return
        try:
            while not self.transport.is_closing():
                self.transport.write(self._tls.bio_read(READ_SIZE))
        except SSL.WantReadError:
            pass


def _step(tls: SSL.Connection, data: bytes) -> bool:
    """A step of a handshake; whether it is done. Raises ``SSL.Error`` and ``Refused``."""
    tls.bio_write(data)
    try:
        tls.do_handshake()
    except SSL.WantReadError:
        return False
    return True


class _Trust:
    """What OpenSSL said against a client's certificate in one handshake."""

    __slots__ = ("problems",)

    def __init__(self) -> None:
        self.problems: list[str] = []


def _note_problem(connection: SSL.Connection, certificate: Any, error: int, depth: int, good: int) -> bool:
    """Take every certificate whose key the client has; what it is worth is seen after the handshake."""
    if not good:
        connection.get_app_data().problems.append(f"OpenSSL verification error {error} at depth {depth}")
    return True


class Contexts:
    """TLS contexts for the certificates of the moment. ``pairs`` answers (server name, pair); see ``tls.choose``.

    ``ca_path`` names a file with issuers and revocation lists; it is looked at for each handshake. ``changed`` is
    called when it has other content than before.
    """

    def __init__(self, pairs: Callable[[], Sequence[tuple[str, CertificatePair]]], changed: Callable[[], None]) -> None:
        self.versions: tuple[bytes, ...] = (ALPN_11, ALPN_10)
        self._pairs = pairs
        self._changed = changed
        self._ca_path = ""
        self._ca_stamp: tuple[int, int, int] | None = None
        self._issuers: list[x509.Certificate] = []
        self._revoked: list[x509.CertificateRevocationList] = []
        self._made: dict[CertificatePair, SSL.Context] = {}
        self._offered: Sequence[tuple[str, CertificatePair]] = ()
        self.notes = Notes()  # strangers can connect as often as they like, but write one line a minute

    @property
    def has_issuers(self) -> bool:
        """Whether a certificate can be trusted for its issuer at all."""
        return bool(self._issuers)

    def configure(self, ca_path: str, versions: Sequence[bytes]) -> None:
        """Use these from now on."""
        if tuple(versions) != self.versions or ca_path != self._ca_path:
            self._made.clear()
            self.versions = tuple(versions)
            self._ca_path, self._ca_stamp = ca_path, None
        self._look()

    def context(self) -> SSL.Context:
        """The context to begin a handshake with. Raises ``CertificateError`` if there is no certificate to show."""
        self._look()
        pairs = self._offered = self._pairs()
        for gone in [made for made in self._made if made not in {one for _, one in pairs}]:
            del self._made[gone]
        return self._context_for(None)

    def _context_for(self, server_name: str | None) -> SSL.Context:
        """The context of what is offered. May be called in a thread; that two make the same one does no harm."""
        pair = choose(server_name, self._offered)
        if pair is None:
            raise CertificateError("neither a provider nor OUTPOSTS_RADIUS__TLS_CERTIFICATE has one with a key")
        context = self._made.get(pair)
        if context is None:
            context = self._made[pair] = self._make(pair)
        return context

    def _make(self, pair: CertificatePair) -> SSL.Context:
        context = openssl_context(pair, ask_client=True)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _note_problem)
        store = context.get_cert_store()
        if store is None:
            raise CertificateError("no room for issuers")
        # An issuer that the operator names is trusted as it is, root or not; so is a client's own certificate.
        flags = crypto.X509StoreFlags.PARTIAL_CHAIN
        for issuer in self._issuers:
            store.add_cert(crypto.X509.from_cryptography(issuer))
            context.add_client_ca(issuer)
        for revoked in self._revoked:
            store.add_crl(revoked)
            flags |= crypto.X509StoreFlags.CRL_CHECK
        store.set_flags(flags)
        context.set_alpn_select_callback(self._version)
        context.set_tlsext_servername_callback(self._named)
        return context

    def _named(self, connection: SSL.Connection) -> None:
        try:
            name = connection.get_servername()
            if name:
                connection.set_context(self._context_for(name.decode("ascii")))
        except (UnicodeDecodeError, CertificateError):
            log.debug("server name of a RadSec client not usable, default certificate")

    def _version(self, connection: SSL.Connection, offered: list[bytes]) -> bytes:
        """RFC 9765 §3.3: the highest version of both; none is the end of the handshake."""
        for version in (ALPN_11, ALPN_10):
            if version in offered and version in self.versions:
                if version != ALPN_11 or connection.get_protocol_version() >= TLS_1_3:
                    return version
        raise Refused("alpn")

    def _look(self) -> None:
        """Read the issuers if their file has changed. One that cannot be read leaves the last ones in force."""
        if not self._ca_path:
            self._issuers, self._revoked = [], []
            return
        path = Path(self._ca_path)
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._ca_stamp:
                return
            text = path.read_bytes()
            issuers = x509.load_pem_x509_certificates(text)
            revoked = [
                x509.load_pem_x509_crl(b"-----BEGIN X509 CRL" + part) for part in text.split(b"-----BEGIN X509 CRL")[1:]
            ]
        except (OSError, ValueError) as error:
            if self._ca_stamp != (0, 0, 0):
                log.error("issuers of RadSec clients not readable", path=self._ca_path, problem=type(error).__name__)
                if self._ca_stamp is None:
                    self._issuers, self._revoked = [], []
                self._ca_stamp = (0, 0, 0)  # said once
            return
        first = self._ca_stamp is None
        self._ca_stamp, self._issuers, self._revoked = stamp, issuers, revoked
        self._made.clear()
        log.info("issuers of RadSec clients read", issuers=len(issuers), revocation_lists=len(revoked))
        if not first:
            self._changed()


# --- pre-shared keys --------------------------------------------------------------------------------------------------

KEY_NAME = "outposts_key_name"
"""Attribute of a context that says which key its handshake has used: each context is made for one connection."""


def psk_offered() -> bool:
    """Whether this Python can do TLS with pre-shared keys."""
    return hasattr(ssl.SSLContext, "set_psk_server_callback")


def read_keys(text: str) -> dict[str, bytes]:
    """Keys by name from a file's text: ``NAME KEY`` a line, the key in hex; ``#`` begins a comment.

    Raises ``ValueError`` naming the line, never the key.
    """
    keys: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            name, written = words
            key = bytes.fromhex(written)
        except ValueError:
            raise ValueError(f"line {number}: not NAME and KEY in hex") from None
        if len(key) < MIN_KEY:
            raise ValueError(f"line {number}: the key has less than {MIN_KEY} octets")
        if len(name.encode()) > MAX_KEY_NAME or name in keys:
            raise ValueError(f"line {number}: the name is too long or there already")
        keys[name] = key
    return keys


def psk_context(keys: Callable[[], dict[str, bytes]], versions: Sequence[bytes]) -> Any:
    """A context for one handshake with a pre-shared key. Raises ``CertificateError`` where Python has none.

    TLS 1.3 only for RADIUS/1.1; RFC 9813 §4.2 wants the name of an unknown key answered like a wrong key.
    """
    if not psk_offered():
        raise CertificateError(NO_PSK)
    context: Any = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if ALPN_10 not in versions else ssl.TLSVersion.TLSv1_2
    context.set_ciphers(PSK_CIPHERS)
    context.set_alpn_protocols([version.decode() for version in versions])
    context.num_tickets = 0

    def key_of(name: str | None) -> bytes:
        key = keys().get(name or "")
        if key is None:
            return b""
        setattr(context, KEY_NAME, name)
        return key

    context.set_psk_server_callback(key_of, "outposts")
    return context
