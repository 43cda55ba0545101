"""Disconnect-Request and CoA-Request (RFC 5176): which logins are remembered, what is sent for them, and how often.

We are the client here and the network gear is the server. ``Logins`` knows which session of the core let whom in where,
so that the end of that session can end the network's. ``Exchange`` is one request with its repetitions::

    sent ──2 s──► again ──4 s──► again ──8 s──► again ──16 s──► again ──16 s──► no answer
      └── ACK: done    └── NAK: refused, Error-Cause says why    (always the same octets: RFC 5080 §2.2.1)

No clock, no socket, no randomness: times are arguments in seconds of any one clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from outposts.radius.rfc import MAX_VALUE, Attribute, Code, ErrorCause
from outposts.radius.wire import Attributes, Packet, PacketError, encode_request, verify_reply

WAITS_S = (2.0, 4.0, 8.0, 16.0, 16.0)  # after each of five sendings; the last one is how long the last answer may take
MAX_LOGINS = 50_000  # logins remembered, about 1.2 KiB each; beyond, the oldest go
MAX_AGE_S = 86_400.0  # the core ends a session after a day unless told otherwise; it says when that is later
MAX_LOGINS_PER_SESSION = 16  # logins that one session of the core may have led to (roaming does not make new ones)

# RFC 5176 §3: a server must find one client by these, and one session by those, just as it has sent them itself.
CLIENT_ATTRIBUTES = (Attribute.NAS_IP_ADDRESS, Attribute.NAS_IPV6_ADDRESS, Attribute.NAS_IDENTIFIER)
SESSION_ATTRIBUTES = (Attribute.USER_NAME, Attribute.CALLING_STATION_ID, Attribute.ACCT_SESSION_ID)
PORT_ATTRIBUTES = (Attribute.NAS_PORT, Attribute.NAS_PORT_ID)  # where neither address nor session is known

ACKNOWLEDGED = {Code.DISCONNECT_REQUEST: Code.DISCONNECT_ACK, Code.COA_REQUEST: Code.COA_ACK}
REFUSED = {Code.DISCONNECT_REQUEST: Code.DISCONNECT_NAK, Code.COA_REQUEST: Code.COA_NAK}
# The session is not there: what was wanted is so, and nobody has to hear of it.
ALREADY_GONE = frozenset({ErrorCause.SESSION_CONTEXT_NOT_FOUND})
# The request named something that this server does not know; it may be found by less.
TOO_MUCH_SAID = frozenset({ErrorCause.UNSUPPORTED_ATTRIBUTE, ErrorCause.INVALID_ATTRIBUTE_VALUE})


@dataclass(frozen=True, slots=True)
class Login:
    """Somebody whom we let in: where, and how the client names that. ``attributes`` as it sent them.

    ``session_id`` is the core's session, as SESSION_END names it. ``at`` is when. ``class_`` is what we put into the
    Access-Accept, which ties accounting to this login.
    """

    session_id: str
    provider_pk: int
    peer: tuple[str, int]
    transport: str
    attributes: Attributes = field(repr=False)
    at: float
    class_: bytes = field(default=b"", repr=False)

    def first(self, kind: int) -> bytes | None:
        """The value of an attribute, or None."""
        return next((value for found, value in self.attributes if found == kind), None)


def login_of(
    session_id: str,
    packet: Packet,
    provider_pk: int,
    peer: tuple[str, int],
    transport: str,
    now: float,
    *,
    class_: bytes = b"",
    user_name: bytes | None = None,
) -> Login:
    """What is to be remembered of an Access-Request that was accepted.

    ``user_name`` is the User-Name of the Access-Accept, if it has one: the client uses that from then on (RFC 2865
    §5.1).
    """
    kept = []
    for kind in (*CLIENT_ATTRIBUTES, *SESSION_ATTRIBUTES, *PORT_ATTRIBUTES):
        value = packet.first(kind)
        if kind == Attribute.USER_NAME and user_name is not None:
            value = user_name
        if value is not None and len(value) <= MAX_VALUE:
            kept.append((int(kind), value))
    return Login(session_id, provider_pk, peer, transport, tuple(kept), now, class_)


class Logins:
    """Logins by the core's session; bounded by count and age. What is taken out is forgotten."""

    def __init__(self, max_logins: int = MAX_LOGINS, max_age_s: float = MAX_AGE_S) -> None:
        self.max_logins = max_logins
        self.max_age_s = max_age_s
        self._by_session: OrderedDict[str, list[Login]] = OrderedDict()
        self._by_class: dict[bytes, Login] = {}
        self._by_names: dict[tuple[int, str, bytes | None, bytes | None], Login] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Login]:
        return iter([login for logins in self._by_session.values() for login in logins])

    def remember(self, login: Login) -> None:
        """Keep a login. One of the same user, station and client replaces the older one: it is the same session."""
        older = self._by_names.get(_names(login))
        if older is not None:
            self._forget(older)
        logins = self._by_session.setdefault(login.session_id, [])
        self._by_session.move_to_end(login.session_id)
        if len(logins) >= MAX_LOGINS_PER_SESSION:
            self._forget(logins[0])
            logins = self._by_session.setdefault(login.session_id, logins)
        logins.append(login)
        self._index(login)
        self._count += 1
        while self._count > self.max_logins:
            self._forget(next(iter(self._by_session.values()))[0])

    def take(self, session_id: str, now: float) -> list[Login]:
        """All logins of a session of the core that has ended, and forget them."""
        found = [login for login in self._by_session.get(session_id, ()) if now - login.at < self.max_age_s]
        for login in list(self._by_session.get(session_id, ())):
            self._forget(login)
        return found

    def started(
        self, provider_pk: int, address: str, class_: bytes, attributes: Sequence[tuple[int, bytes]]
    ) -> Login | None:
        """Accounting says that a session is open: learn how the client names it. Returns the login it belongs to."""
        login = self._match(provider_pk, address, class_, attributes)
        if login is None:
            return None
        told = {
            int(kind): value for kind, value in attributes if kind in SESSION_ATTRIBUTES or kind in CLIENT_ATTRIBUTES
        }
        kept = tuple((kind, told.get(kind, value)) for kind, value in login.attributes)
        names = {kind for kind, _ in kept}
        newer = replace(login, attributes=kept + tuple(row for row in told.items() if row[0] not in names))
        if newer.attributes != login.attributes:
            logins = self._by_session[login.session_id]
            logins[logins.index(login)] = newer
            self._unindex(login)
            self._index(newer)
        return newer

    def stopped(
        self, provider_pk: int, address: str, class_: bytes, attributes: Sequence[tuple[int, bytes]]
    ) -> Login | None:
        """Accounting says that a session is over: there is nothing left to disconnect."""
        login = self._match(provider_pk, address, class_, attributes)
        if login is not None:
            session = dict(attributes).get(Attribute.ACCT_SESSION_ID)
            known = login.first(Attribute.ACCT_SESSION_ID)
            if session is not None and known is not None and session != known:
                return None  # an older session of the same user and station
            self._forget(login)
        return login

    def sweep(self, now: float) -> None:
        """Forget what is too old; to be called now and then."""
        for login in [login for login in self if now - login.at >= self.max_age_s]:
            self._forget(login)

    def _match(
        self, provider_pk: int, address: str, class_: bytes, attributes: Sequence[tuple[int, bytes]]
    ) -> Login | None:
        login = self._by_class.get(class_) if class_ else None
        if login is None:
            said = dict(attributes)
            names = (provider_pk, address, said.get(Attribute.USER_NAME), said.get(Attribute.CALLING_STATION_ID))
            login = self._by_names.get(names)
            if login is not None and class_ and login.class_ and class_ != login.class_:
                return None
        if login is None or login.provider_pk != provider_pk or login.peer[0] != address:
            return None
        return login

    def _index(self, login: Login) -> None:
        self._by_names[_names(login)] = login
        if login.class_:
            self._by_class[login.class_] = login

    def _unindex(self, login: Login) -> None:
        if self._by_names.get(_names(login)) is login:
            del self._by_names[_names(login)]
        if self._by_class.get(login.class_) is login:
            del self._by_class[login.class_]

    def _forget(self, login: Login) -> None:
        logins = self._by_session.get(login.session_id, [])
        if login not in logins:
            return
        logins.remove(login)
        self._count -= 1
        if not logins:
            del self._by_session[login.session_id]
        self._unindex(login)


def _names(login: Login) -> tuple[int, str, bytes | None, bytes | None]:
    return (
        login.provider_pk,
        login.peer[0],
        login.first(Attribute.USER_NAME),
        login.first(Attribute.CALLING_STATION_ID),
    )


def identification(login: Login, *, least: bool = False) -> Attributes:
    """What names the session to its client (RFC 5176 §3): the client, user, station and session as it sent them.

    All of them must fit, so nothing that may have changed is sent. ``least``: for a client that knows less, its own
    name and the session's (or, without one, the user's).
    """
    session: Iterable[int] = SESSION_ATTRIBUTES
    known = {kind for kind, _ in login.attributes}
    if least:
        session = (Attribute.ACCT_SESSION_ID if Attribute.ACCT_SESSION_ID in known else Attribute.USER_NAME,)
    elif not known & {Attribute.CALLING_STATION_ID, Attribute.ACCT_SESSION_ID}:
        session = (*SESSION_ATTRIBUTES, *PORT_ATTRIBUTES)
    wanted = (*CLIENT_ATTRIBUTES, *session)
    return tuple(row for row in login.attributes if row[0] in wanted)


def encode(
    code: Code, identifier: int, secret: bytes, attributes: Iterable[tuple[int, bytes]], unix_time: float
) -> bytes:
    """A Disconnect-Request or CoA-Request with Message-Authenticator and Event-Timestamp (RFC 5176 §3.3, §3.4).

    ``attributes`` identify the session and, for a CoA-Request, say what changes. The time stays as it is in
    repetitions, as everything else. Raises ``PacketError``.
    """
    if code not in ACKNOWLEDGED:
        raise PacketError("bad_code")
    stamp = (int(Attribute.EVENT_TIMESTAMP), (int(unix_time) & 0xFFFFFFFF).to_bytes(4, "big"))
    return encode_request(code, identifier, secret, (*attributes, stamp))


class Verdict(Enum):
    """How an exchange ended; the value is a metric's label."""

    DONE = "ack"
    GONE = "not_found"  # the client does not know the session (any more)
    REFUSED = "nak"
    NO_ANSWER = "no_answer"


@dataclass(frozen=True, slots=True)
class Result:
    """The end of an exchange. ``cause`` is the Error-Cause, if the client gave one."""

    verdict: Verdict
    cause: ErrorCause | None = None

    @property
    def try_less(self) -> bool:
        """Whether a request that says less may succeed."""
        return self.verdict is Verdict.REFUSED and self.cause in TOO_MUCH_SAID


class Exchange:
    """One request until it is answered or given up. ``octets`` is what is sent, each time the same."""

    def __init__(self, octets: bytes, secret: bytes, now: float, waits_s: Sequence[float] = WAITS_S) -> None:
        self.octets = octets
        self.identifier = octets[1]
        self.result: Result | None = None
        self.sent = 0
        self._secret = secret
        self._waits_s = waits_s
        self._due = now

    @property
    def due(self) -> float | None:
        """When ``tick`` is to be called; None when it is over."""
        return None if self.result is not None else self._due

    def tick(self, now: float) -> bytes | None:
        """The octets, if it is time to send them (again). Sets ``result`` when it is time to give up."""
        if self.result is not None or now < self._due:
            return None
        if self.sent == len(self._waits_s):
            self.result = Result(Verdict.NO_ANSWER)
            return None
        self._due = now + self._waits_s[self.sent]
        self.sent += 1
        return self.octets

    def receive(self, datagram: bytes) -> Result | None:
        """An answer, if this is one that proves to come from who knows the secret; anything else is as if not there."""
        if self.result is not None:
            return None
        self.result = judge(self.octets, datagram, self._secret)
        return self.result


def judge(request: bytes, reply: bytes, secret: bytes) -> Result | None:
    """What a reply to a request says; None if it is none. Never raises."""
    try:
        packet = verify_reply(reply, request[4:20], secret)
    except PacketError:
        return None
    if packet.identifier != request[1]:
        return None
    return verdict(Code(request[0]), packet)


def verdict(code: Code, packet: Packet) -> Result | None:
    """What a packet says as the reply to a request of this code; None if it is no reply to it."""
    value = packet.first(Attribute.ERROR_CAUSE)
    cause = ErrorCause(int.from_bytes(value, "big")) if value is not None and len(value) == 4 else None
    if packet.code == ACKNOWLEDGED.get(code):
        return Result(Verdict.DONE, cause)
    if packet.code == REFUSED.get(code):
        return Result(Verdict.GONE if cause in ALREADY_GONE else Verdict.REFUSED, cause)
    return None
