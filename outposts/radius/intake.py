"""What is done with a packet before anybody thinks about it: is it one, may its sender send it, has it come before?

The order is fixed, each step costs more than the one before it, and each failure is silence with a reason: nobody who
does not know the secret can make this server speak, not even to say no::

    size and Length → code → client network → copy of a recent packet → attributes → authenticity → rate

A copy is recognised by its octets, so whatever was true of the first one is true of it. It is looked for early because
it then costs least, which is when a client that hears nothing sends most.

**Message-Authenticator.** A wrong one, or two, are never taken. EAP and Status-Server need one (RFC 3579 §3.2, RFC 5997
§3). Other Access-Requests without one can be answered by an attacker in the middle (CVE-2024-3596), so the policy
``auto`` takes them only without Proxy-State, and never again from a client address that has once shown that it can
sign. That memory is bounded, and only clients who know the secret can write into it.

No input or output, no clock: time is an argument, in monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from outposts.radius.providers import Providers, RadiusProvider
from outposts.radius.request import UDP, Request
from outposts.radius.rfc import Attribute, Code
from outposts.radius.session import Duplicates, Entry, Key
from outposts.radius.wire import (
    PacketError,
    Signature,
    check_size,
    decode,
    message_authenticator,
    verify_accounting,
)

MAX_SIGNERS = 65_536  # client addresses that have signed; each is a device that knows a secret
MAX_NOTED = 4096  # addresses that a log line was written about; forged ones must not fill the memory
NOTE_EVERY_S = 60.0  # shortest time between two log lines about the same address and reason

ACCESS, ACCOUNTING, STATUS = int(Code.ACCESS_REQUEST), int(Code.ACCOUNTING_REQUEST), int(Code.STATUS_SERVER)
AUTH_CODES = frozenset({ACCESS, ACCOUNTING, STATUS})
ACCOUNTING_CODES = frozenset({ACCOUNTING, STATUS})
_PROXY_STATE, _EAP_MESSAGE = int(Attribute.PROXY_STATE), int(Attribute.EAP_MESSAGE)


@dataclass(slots=True, eq=False)
class Accepted:
    """A request to be worked on. ``entry`` must be answered or forgotten (``session.Duplicates``)."""

    request: Request
    entry: Entry


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of a recent packet: send ``reply`` again, or nothing if it is empty (in progress, or met by silence)."""

    reply: bytes
    provider: RadiusProvider


@dataclass(frozen=True, slots=True)
class Drop:
    """Nothing is sent. ``reason`` is the label of ``radius_dropped_total``; ``provider`` where it is known."""

    reason: str
    provider: RadiusProvider | None = None


Verdict = Accepted | Copy | Drop


class Intake:
    """Takes packets in. One per process; ``providers``, ``status_rate`` (per second and client) change at a refresh.

    ``unsigned(provider, client_ip)`` is told of each accepted request without Message-Authenticator.
    """

    def __init__(
        self,
        duplicates: Duplicates,
        *,
        unsigned: Callable[[RadiusProvider, str], None] = lambda provider, client_ip: None,
    ) -> None:
        self.duplicates = duplicates
        self.providers = Providers()
        self.status_rate = 0
        self._unsigned = unsigned
        self._signers: dict[tuple[int, str], None] = {}
        self._second = 0
        self._statuses: dict[str, int] = {}  # of this second, by client address

    def receive(
        self,
        datagram: bytes,
        client_ip: str,
        client_port: int,
        now: float,
        *,
        line: object = None,
        local: str = "",
        codes: frozenset[int] = AUTH_CODES,
        transport: str = UDP,
        provider: RadiusProvider | None = None,
    ) -> Verdict:
        """What to do with a datagram.

        ``line`` is the socket or connection that it came by, ``local`` the address it was sent to, ``codes`` what that
        socket takes. ``provider``: given where something better than an address names the client (RadSec).
        """
        try:
            length = check_size(datagram)
        except PacketError as error:
            return Drop(error.reason)
        code = datagram[0]
        if code not in codes:
            return Drop("code")
        candidates = self.providers.find(client_ip) if provider is None else (provider,)
        if not candidates:
            return Drop("unknown_client")
        octets = datagram if length == len(datagram) else datagram[:length]
        key: Key = (line, local, client_ip, client_port, code << 8 | octets[1])
        entry = self.duplicates.find(key, octets, now)
        if entry is not None:
            for candidate in candidates:
                if candidate is entry.context:
                    return Copy(entry.reply or b"", candidate)
        try:
            packet = decode(octets)
        except PacketError as error:
            return Drop(error.reason, candidates[0] if len(candidates) == 1 else None)
        chosen = candidates[0] if len(candidates) == 1 else self.providers.choose(packet, client_ip)
        if chosen is None:
            return Drop("unknown_client")
        request = Request(packet, chosen, (client_ip, client_port), transport, now, local)
        problem = self._problem(request, now)
        if problem:
            return Drop(problem, chosen)
        return Accepted(request, self.duplicates.begin(key, octets, chosen))

    def _problem(self, request: Request, now: float) -> str:
        """Why a request is not believed, or not now; empty if it is."""
        packet, provider = request.packet, request.provider
        signature = message_authenticator(packet, provider.secret)
        if signature is Signature.INVALID:
            return "bad_message_authenticator"
        if packet.code == ACCOUNTING:
            if not provider.accounting:
                return "accounting_off"
            return "" if verify_accounting(packet, provider.secret) else "bad_authenticator"
        if packet.code == STATUS:
            if signature is Signature.ABSENT:
                return "no_message_authenticator"
            return "" if self._status_due(request.client_ip, now) else "status_rate"
        if signature is Signature.VALID:
            self._signed(provider, request.client_ip)
            return ""
        return self._policy(request)

    def _policy(self, request: Request) -> str:
        """Whether an Access-Request may come without Message-Authenticator."""
        packet, provider = request.packet, request.provider
        policy = provider.require_message_authenticator
        for kind, _ in packet.attributes:
            if kind == _EAP_MESSAGE or (kind == _PROXY_STATE and policy != "no"):
                return "no_message_authenticator"
        if policy != "no" and (policy != "auto" or (provider.pk, request.client_ip) in self._signers):
            return "no_message_authenticator"
        self._unsigned(provider, request.client_ip)
        return ""

    def _signed(self, provider: RadiusProvider, client_ip: str) -> None:
        who = (provider.pk, client_ip)
        if who not in self._signers and provider.require_message_authenticator == "auto":
            if len(self._signers) >= MAX_SIGNERS:
                del self._signers[next(iter(self._signers))]
            self._signers[who] = None

    def _status_due(self, client_ip: str, now: float) -> bool:
        if not self.status_rate:
            return True
        second = int(now)
        if second != self._second:
            self._second = second
            self._statuses.clear()
        count = self._statuses[client_ip] = self._statuses.get(client_ip, 0) + 1
        return count <= self.status_rate

    def serve(self, providers: Providers, keep: Iterable[int] = ()) -> None:
        """Serve these from now on; ``keep``: those (by pk) that have not changed, whose clients' habits still hold."""
        unchanged = set(keep)
        self.providers = providers
        self._signers = {who: None for who in self._signers if who[0] in unchanged}


class Notes:
    """Which addresses were written about lately: a log line says something once, a flood must not write lines."""

    def __init__(self, every_s: float = NOTE_EVERY_S) -> None:
        self._every_s = every_s
        self._noted: dict[tuple[str, str], float] = {}
        self._once: dict[tuple[str, str], None] = {}

    def once(self, reason: str, client_ip: str) -> bool:
        """Whether nothing was written about this yet; counts as written. Forgets the oldest when there are many."""
        key = (reason, client_ip)
        if key in self._once:
            return False
        if len(self._once) >= MAX_NOTED:
            del self._once[next(iter(self._once))]
        self._once[key] = None
        return True

    def due(self, reason: str, client_ip: str, now: float) -> bool:
        """Whether a line may be written; counts as written."""
        key = (reason, client_ip)
        at = self._noted.get(key)
        if at is not None and now - at < self._every_s:
            return False
        if at is None and len(self._noted) >= MAX_NOTED:
            self._noted = {key: at for key, at in self._noted.items() if now - at < self._every_s}
            if len(self._noted) >= MAX_NOTED:
                return False
        self._noted[key] = now
        return True
