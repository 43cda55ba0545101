"""Everything between a socket and the core, in memory: packets in, replies out, a core that answers as a test says."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

from common.outcomes import (
    CoreSession,
    Credentials,
    LoginTarget,
    Outcome,
    Passed,
    Paused,
    Question,
    QuestionKind,
)
from outposts.radius import wire
from outposts.radius.auth import Authenticator
from outposts.radius.desk import Desk
from outposts.radius.intake import Drop, Intake
from outposts.radius.networks import parse
from outposts.radius.observe import Observations
from outposts.radius.providers import Providers, RadiusProvider
from outposts.radius.request import UDP, Answer, Request, Silence
from outposts.radius.rfc import Attribute, Code
from outposts.radius.session import Duplicates
from outposts.radius.wire import Attributes, Packet

SECRET = b"testing123"
NAS, PORT = "192.0.2.1", 40000
PASSWORD = "wonderland"
EMPTY_BLOB = "AQAAFAAAAAAAAAAAAAAAAAAAAAA="  # a packet without attributes, as the core sends it
SETTLE_S = 20.0  # nothing here takes long; a hang fails
_numbers = itertools.count(1)


class Clock:
    """A clock that a test moves by hand."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """The time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def chance(size: int) -> bytes:
    """Octets that are not the same twice, as far as so few can be."""
    number: int = next(_numbers) % 256**size
    return number.to_bytes(size, "big")


def provider(pk: int = 1, networks: str = "0.0.0.0/0, ::/0", **fields: Any) -> RadiusProvider:
    """A provider for everybody."""
    rest: dict[str, Any] = {"name": f"radius-{pk}", "application_slug": f"app-{pk}", "flow_slug": "flow"}
    return RadiusProvider(pk=pk, secret=fields.pop("secret", SECRET), networks=parse(networks)[0], **rest | fields)


def access_request(
    *more: tuple[int, bytes],
    user: bytes | None = b"alice",
    password: str | bytes | None = PASSWORD,
    identifier: int | None = None,
    authenticator: bytes | None = None,
    secret: bytes = SECRET,
    sign: bool = True,
) -> bytes:
    """An Access-Request as a NAS sends it: new authenticator and Identifier (below 250) each time unless given."""
    number = next(_numbers)
    authenticator = authenticator or number.to_bytes(16, "big")
    rows: list[tuple[int, bytes]] = [] if user is None else [(Attribute.USER_NAME, user)]
    if password is not None:
        clear = password.encode() if isinstance(password, str) else password
        rows.append((Attribute.USER_PASSWORD, wire.hide_password(secret, authenticator, clear)))
    return wire.encode_request(
        Code.ACCESS_REQUEST,
        number % 250 if identifier is None else identifier,
        secret,
        [*rows, *more],
        authenticator=authenticator,
        sign=sign,
    )


def eap_request(eap: bytes, *more: tuple[int, bytes], **fields: Any) -> bytes:
    """An Access-Request that carries an EAP packet."""
    return access_request(*wire.split_long(Attribute.EAP_MESSAGE, eap), *more, password=None, **fields)


def status_request(identifier: int = 9, *, sign: bool = True, secret: bytes = SECRET) -> bytes:
    """A Status-Server."""
    authenticator = next(_numbers).to_bytes(16, "big")
    return wire.encode_request(Code.STATUS_SERVER, identifier, secret, (), authenticator=authenticator, sign=sign)


def request_of(octets: bytes, served: RadiusProvider | None = None, nas: str = NAS, at: float = 1000.0) -> Request:
    """A packet as intake would hand it on."""
    return Request(wire.decode(octets), served or provider(), (nas, PORT), UDP, at)


def read(reply: bytes, request: bytes, secret: bytes = SECRET) -> Packet:
    """A reply, checked as a NAS checks it: its authenticator, and that it is signed first of all (spec §3, §4)."""
    packet = wire.verify_reply(reply, request[4:20], secret)
    assert packet.identifier == request[1]
    if packet.code != Code.ACCOUNTING_RESPONSE:
        assert packet.attributes[0][0] == Attribute.MESSAGE_AUTHENTICATOR
    return packet


def passed(**fields: Any) -> Passed:
    """A login that passed."""
    known: dict[str, Any] = {
        "session": CoreSession({"authentik_session": "s"}, "session-1", None, "radius"),
        "user_pk": 7,
        "username": "alice",
        "has_search_permission": False,
        "attributes": EMPTY_BLOB,
        "used_code": False,
    }
    return Passed(**known | fields)


class Standing(Paused):
    """A paused login of a test: ``outcomes`` are what its answers lead to, one after the other."""

    def __init__(self, text: str, *outcomes: Outcome | Paused) -> None:
        self.question = Question(text, False, QuestionKind.CODE, 120.0)
        self.username = "alice"
        self.answers: list[str] = []
        self.abandoned = 0
        self._outcomes = list(outcomes)

    async def answer(self, text: str) -> Outcome | Paused:
        """Note what was typed."""
        self.answers.append(text)
        return self._outcomes.pop(0)

    async def abandon(self) -> None:
        """Note the end."""
        self.abandoned += 1

    def sealed(self, binding: bytes = b"") -> bytes | None:
        """Only here."""
        return None


@dataclass
class Core:
    """The login port. ``outcome`` may be an exception, to be raised, or a function of the credentials."""

    outcome: Any = field(default_factory=passed)
    logins: list[tuple[LoginTarget, Credentials, bool]] = field(default_factory=list)
    hold: asyncio.Event | None = None  # logins wait for it
    asked: asyncio.Event = field(default_factory=asyncio.Event)  # set by the first login

    async def begin(
        self, target: LoginTarget, credentials: Credentials, *, interactive: bool, sealable: bool = False
    ) -> Outcome | Paused:
        """Run a login."""
        self.logins.append((target, credentials, interactive))
        self.asked.set()
        if self.hold is not None:
            await self.hold.wait()
        found = self.outcome(credentials) if callable(self.outcome) else self.outcome
        if isinstance(found, BaseException):
            raise found
        if isinstance(found, Awaitable):
            found = await found
        assert isinstance(found, Outcome | Paused)
        return found

    def restore(self, sealed: bytes, binding: bytes = b"") -> Paused | None:
        """Nothing is shared."""
        return None


class Sent:
    """A line: what was sent, and where to."""

    def __init__(self) -> None:
        self.replies: list[tuple[bytes, object]] = []

    def send(self, octets: bytes, where: object) -> None:
        """Note a reply."""
        self.replies.append((octets, where))

    def silent(self, where: object) -> None:
        """Nothing to note: what is not there was not sent."""


class House:
    """A desk with all that belongs to it, for providers of the test's choice."""

    def __init__(self, *served: RadiusProvider, accounting: Any = None, able: Any = None) -> None:
        self.clock = Clock()
        self.core = Core()
        self.line = Sent()
        self.observer = Watched()
        self.accepted: list[tuple[Request, CoreSession, bytes, str]] = []
        self.authenticator = Authenticator(
            self.core,
            now=self.clock,
            random=chance,
            on_accept=lambda *what: self.accepted.append(what),
        )
        self.duplicates = Duplicates()
        self.intake = Intake(self.duplicates, unsigned=self.observer.unsigned)
        self.desk = Desk(
            self.intake,
            self.authenticator,
            self.observer,
            accounting=accounting,
            able=able or (lambda: True),
            clock=self.clock,
        )
        self.serve(*(served or (provider(),)))

    def serve(self, *served: RadiusProvider) -> None:
        """Put providers in service, those that are the same object as unchanged."""
        older = self.intake.providers.by_pk
        self.intake.serve(Providers(served), [one.pk for one in served if older.get(one.pk) is one])

    def give(self, octets: bytes, nas: str = NAS, port: int = PORT, **fields: Any) -> list[bytes]:
        """Hand in a datagram; what was sent at once."""
        before = len(self.line.replies)
        self.desk.received(octets, nas, port, self.line, (nas, port), **fields)
        return [reply for reply, _ in self.line.replies[before:]]

    async def ask(self, octets: bytes, nas: str = NAS, port: int = PORT, **fields: Any) -> Packet | None:
        """Hand in a datagram and wait for what becomes of it; the reply, checked, or None for silence."""
        before = len(self.line.replies)
        self.desk.received(octets, nas, port, self.line, (nas, port), **fields)
        await self.settle()
        replies = self.line.replies[before:]
        assert len(replies) <= 1, "one request, one reply"
        return read(replies[0][0], octets) if replies else None

    async def settle(self) -> None:
        """Until nothing is in progress."""
        await self.desk.drain(SETTLE_S)
        assert not self.desk.pending

    async def close(self) -> None:
        """End everything."""
        await self.desk.close()
        await self.authenticator.close()


class Watched(Observations):
    """The daemon's own observations, and what they were told."""

    def __init__(self) -> None:
        super().__init__()
        self.outpost_name = "test"
        self.drops: list[str] = []
        self.copies = 0
        self.outcomes: list[Answer | Silence] = []
        self.unsigned_clients: list[str] = []

    def dropped(self, drop: Drop, client_ip: str, now: float) -> None:
        """Note a drop."""
        self.drops.append(drop.reason)
        super().dropped(drop, client_ip, now)

    def copied(self, copy: Any, client_ip: str) -> None:
        """Note a copy."""
        self.copies += 1
        super().copied(copy, client_ip)

    def finished(self, request: Request, outcome: Answer | Silence, took: float) -> None:
        """Note an end."""
        self.outcomes.append(outcome)
        super().finished(request, outcome, took)

    def unsigned(self, provider: RadiusProvider, client_ip: str) -> None:
        """Note a client that does not sign."""
        self.unsigned_clients.append(client_ip)
        super().unsigned(provider, client_ip)

    @property
    def reason(self) -> str:
        """Of the last request that was worked on."""
        return self.outcomes[-1].reason


def blob(*attributes: tuple[int, bytes]) -> str:
    """What the core sends as attributes: base64 of a whole packet."""
    body = wire.encode_attributes(attributes)
    octets = bytes((1, 5)) + (20 + len(body)).to_bytes(2, "big") + bytes(16) + body
    return base64.b64encode(octets).decode()


def attributes_of(packet: Packet) -> Attributes:
    """All but the signature."""
    return tuple(row for row in packet.attributes if row[0] != Attribute.MESSAGE_AUTHENTICATOR)
