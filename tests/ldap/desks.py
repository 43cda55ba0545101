"""A desk with the conformance directory behind it, and connections or a server on top of it."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

import msgspec

from common.client_certificate import ClientCertificate
from common.reactor import LoopReactor
from common.setting_values import ListenAddress
from common.tls import self_signed
from outposts.ldap.auth import Authenticator, BindAnswer, Identity
from outposts.ldap.bind_cache import KEY_SIZE, BindCache
from outposts.ldap.bound import BoundConnections
from outposts.ldap.client_wire import decode_response, encode_request
from outposts.ldap.connection import Connection
from outposts.ldap.desk import Desk
from outposts.ldap.direct import Parameters
from outposts.ldap.directory import Snapshot
from outposts.ldap.entries import EntryOptions
from outposts.ldap.filter_text import parse_text
from outposts.ldap.messages import BindRequest, Request, Response, SearchRequest, Simple
from outposts.ldap.providers import Provider, Providers
from outposts.ldap.routing import Result, Searches
from outposts.ldap.server import Limits, Server
from outposts.ldap.session import SessionLimits
from tests import factories
from tests.ldap.binds import ALICE, Login, b, settings, until

LIMITS = Limits(
    max_connections=100,
    max_connections_per_address=50,
    anonymous_timeout=60,
    idle_timeout=60,
    write_timeout=60,
)


def directory(extra_users: int = 0) -> tuple[list[msgspec.Raw], list[msgspec.Raw]]:
    """Users and groups of the case table as the core lists them, and more users for large results."""
    users, groups = factories.conformance_users(), factories.conformance_groups()
    factories.link(users, groups)
    users += [factories.user(1000 + number, f"user{number}") for number in range(extra_users)]
    encode = msgspec.json.encode
    return [msgspec.Raw(encode(user)) for user in users], [msgspec.Raw(encode(group)) for group in groups]


@lru_cache(4)
def _snapshot(options: EntryOptions, extra_users: int) -> Snapshot:
    """Immutable, so tests may share it."""
    return Snapshot.build(options, *directory(extra_users))


class Core:
    """The core's lists for direct searches, with a gate and an error in the test's hand."""

    def __init__(self) -> None:
        self.user_list, self.group_list = directory()
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.asked = 0

    async def _answer(self, items: Sequence[msgspec.Raw]) -> Sequence[msgspec.Raw]:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return items

    async def users(self, params: Parameters) -> Sequence[msgspec.Raw]:
        """All users, whatever was asked: never too few."""
        return await self._answer(self.user_list)

    async def groups(self, params: Parameters) -> Sequence[msgspec.Raw]:
        """All groups."""
        return await self._answer(self.group_list)

    async def user(self, pk: int) -> msgspec.Raw:
        """The first user."""
        return (await self._answer(self.user_list[:1]))[0]


class Witness:
    """An observer that remembers, or breaks."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.error: Exception | None = None

    def _note(self, kind: str, code: int) -> None:
        self.seen.append((kind, int(code)))
        if self.error is not None:
            raise self.error

    def bind(self, client_ip: str, name: bytes, answer: BindAnswer, started: float) -> None:
        """A bind."""
        self._note("bind", answer.code)

    def known_bind(self, client_ip: str, data: bytes, answer: BindAnswer, started: float) -> None:
        """A bind by its octets."""
        self._note("known bind", answer.code)

    def search(
        self, client_ip: str, identity: Identity | None, request: SearchRequest, result: Result, started: float
    ) -> None:
        """A search."""
        self._note("search", result.code)

    def prepared_search(
        self, client_ip: str, identity: Identity, data: bytes, count: int, app: str, started: float
    ) -> None:
        """A search by its octets."""
        self._note("prepared", 0)

    def other(self, client_ip: str, kind: str, identity: Identity | None, code: int, started: float) -> None:
        """Anything else."""
        self._note(kind, code)


class Room:
    """Everything below the socket."""

    def __init__(self, *, mode: str = "cached", extra_users: int = 0, **fields: Any) -> None:
        self.login = Login()
        self.core = Core()
        self.witness = Witness()
        self.bound: BoundConnections[Connection, Identity] = BoundConnections()
        self.cache: BindCache[Identity] = BindCache(bytes(KEY_SIZE))
        self.unbind_flow: str | None = None
        self.now = 0.0
        provider = settings(**({"search_mode": mode, "bind_mode": "direct"} | fields))
        snapshot = _snapshot(provider.options, extra_users) if mode == "cached" else None
        self.desk = Desk(
            authenticator=Authenticator(
                self.login,
                self.cache,
                now=lambda: self.now,
                in_use=self.bound.uses,
                unbind_flow=lambda pk: self.unbind_flow,
            ),
            searches=Searches(self.core),
            bound=self.bound,
            observer=self.witness,
            limits=SessionLimits(),
            providers=Providers([Provider(provider, snapshot)]),
        )


def bind_request(message_id: int = 1, name: str = ALICE, password: str = "pw") -> BindRequest:
    """A simple bind."""
    return BindRequest(message_id, 3, name.encode(), Simple(password.encode()))


def search_request(
    message_id: int = 2, base: str = b, scope: int = 2, text: str = "(objectClass=*)", *attributes: bytes, **more: Any
) -> SearchRequest:
    """A search."""
    limits: dict[str, Any] = {"size_limit": 0, "time_limit": 0, "controls": ()} | more
    return SearchRequest(
        message_id=message_id,
        base=base.encode(),
        scope=scope,
        deref=0,
        types_only=False,
        filter=parse_text(text),
        attributes=attributes,
        **limits,
    )


def responses(data: bytes) -> list[Response]:
    """All messages in a byte string."""
    found = []
    position = 0
    while position < len(data):
        length, size = data[position + 1], 2
        if length & 0x80:
            size += length & 0x7F
            length = int.from_bytes(data[position + 2 : position + size], "big")
        found.append(decode_response(data, position, position + size + length))
        position += size + length
    return found


class Paper:
    """A wire that writes down what a connection does."""

    def __init__(self) -> None:
        self.data = b""
        self.acts: list[str] = []
        self.certificate: ClientCertificate | None = None

    def send(self, data: bytes) -> None:
        """Remember."""
        self.data += data

    def pause_reading(self) -> None:
        """Remember."""
        self.acts.append("pause")

    def resume_reading(self) -> None:
        """Remember."""
        self.acts.append("resume")

    def close(self) -> None:
        """Remember."""
        self.acts.append("close")

    def abort(self) -> None:
        """Remember."""
        self.acts.append("abort")

    def start_tls(self) -> None:
        """Remember."""
        self.acts.append("tls")

    def client_certificate(self) -> ClientCertificate | None:
        """What the test says."""
        return self.certificate

    def take(self) -> list[Response]:
        """What was sent since the last time."""
        data, self.data = self.data, b""
        return responses(data)


def connect(room: Room) -> tuple[Connection, Paper]:
    """A connection on paper."""
    paper = Paper()
    return Connection(room.desk, paper, "10.1.2.3", encrypted=False, listener="ldap"), paper


def say(connection: Connection, *requests: Request) -> None:
    """The client sends these in one piece."""
    connection.received(b"".join(encode_request(request) for request in requests))


def codes(paper: Paper) -> list[int]:
    """Codes of the final answers that were sent."""
    return [int(answer.code) for answer in paper.take() if hasattr(answer, "code")]


async def bound(room: Room, **what: Any) -> tuple[Any, Paper]:
    """A connection that is bound."""
    connection, paper = connect(room)
    say(connection, bind_request(**what))
    await until(lambda: paper.data)
    assert codes(paper) == [0]
    return connection, paper


@asynccontextmanager
async def serving(
    room: Room, *, listener: str = "ldap", limits: Limits = LIMITS, trusted: str = ""
) -> AsyncIterator[tuple[Server, int]]:
    """A server on loopback, on the running loop."""
    import ipaddress

    reactor = LoopReactor(asyncio.get_running_loop())
    server = Server(
        reactor,
        room.desk,
        limits,
        trusted_proxies=[ipaddress.ip_network(trusted)] if trusted else [],
        self_signed=lambda: self_signed(datetime.datetime.now(datetime.UTC)),
    )
    try:
        yield server, server.listen(listener, ListenAddress("127.0.0.1", 0))[0][2]
    finally:
        await server.close()
        reactor.dispose()


class Caller:
    """A client on a real socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, *requests: Request) -> None:
        """Send."""
        self.writer.write(b"".join(encode_request(request) for request in requests))
        await self.writer.drain()

    async def hear(self) -> Response:
        """The next message."""
        head = await self.reader.readexactly(2)
        length = head[1]
        if length & 0x80:
            more = await self.reader.readexactly(length & 0x7F)
            head += more
            length = int.from_bytes(more, "big")
        return decode_response(head + await self.reader.readexactly(length))

    async def hear_all(self, message_id: int) -> list[Response]:
        """Messages until the one that ends the answer to a request."""
        from outposts.ldap.messages import SearchEntry

        found = [await self.hear()]
        while isinstance(found[-1], SearchEntry) or found[-1].message_id != message_id:
            found.append(await self.hear())
        return found

    async def bind(self, **what: Any) -> int:
        """Bind; returns the code."""
        await self.ask(bind_request(**what))
        answer: Any = await self.hear()
        return int(answer.code)

    async def closed(self) -> bytes:
        """Wait for the end; returns what came before it."""
        try:
            return await asyncio.wait_for(self.reader.read(), 5)
        except ConnectionResetError:
            return b""

    async def close(self) -> None:
        """Hang up."""
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except (ConnectionResetError, BrokenPipeError):
            pass


@asynccontextmanager
async def calling(port: int, **options: Any) -> AsyncIterator[Caller]:
    """A client on a new connection."""
    caller = Caller(*await asyncio.open_connection("127.0.0.1", port, **options))
    try:
        yield caller
    finally:
        await caller.close()
