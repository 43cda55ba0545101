"""WebSocket hub: what outposts are told without asking (flows.md §8.5).

Every committed change of the database comes by; those that concern an outpost become "trigger update" after a short
delay, so that one edit gives one message, and every ended login session becomes "session end" for all outposts at once.
Changes may come from any thread; the rest runs on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from common.logs import get_logger
from core import access, models
from core.database import DELETED, Change
from core.services import Services

log = get_logger(__name__)

ACK, HELLO, TRIGGER_UPDATE, SESSION_END = 0, 1, 2, 4
ACK_TEXT = json.dumps({"instruction": ACK, "args": {}})
UPDATE_TEXT = json.dumps({"instruction": TRIGGER_UPDATE, "args": {}})

UPDATE_DELAY_S = 0.2  # collects the saves of one edit; the reference takes 1.5 to 7 s
HEALTH_LIFE_S = 15.0  # an instance that said nothing for so long is not healthy (hello comes every 10 s)
MAX_MESSAGE_BYTES = 64 * 1024  # a hello has a few hundred bytes
MAX_WAITING = 256  # messages; a peer that reads slower than this is closed and asks again after its reconnect
SEND_TIMEOUT_S = 10.0  # a peer that does not read for so long is gone
HEARTBEAT_S = 45.0  # pings find peers that went without a word
MAX_INSTANCES = 1024  # health states per outpost; replicas beyond that are not shown


@dataclass(eq=False)
class _Connection:
    outpost: str
    instance: str
    socket: web.WebSocketResponse
    waiting: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(MAX_WAITING))


@dataclass(frozen=True)
class Health:
    """What an instance said last. ``seen`` in Unix seconds."""

    seen: float
    said: dict[str, Any]


class Hub:
    """All open connections. ``changed`` is the database's listener."""

    def __init__(self, services: Services, loop: asyncio.AbstractEventLoop) -> None:
        self._services = services
        self._loop = loop
        self._connections: set[_Connection] = set()
        self._due: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._health: dict[str, dict[str, Health]] = {}
        self._closing = False
        self._tasks: set[asyncio.Task[Any]] = set()
        services.database.on_change(self.changed)

    # --- from the database -----------------------------------------------------------------------------------------

    def changed(self, change: Change) -> None:
        """Note a committed change; callable from any thread, never raises."""
        record = change.record
        if isinstance(record, models.Session):
            if change.kind == DELETED and record.user is not None:
                self._on_loop(self._session_ended, record.pk)
            return
        outposts = self._concerned(record)
        if outposts:
            self._on_loop(self._update_soon, outposts)

    def _on_loop(self, function: Callable[..., None], argument: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is connected any more
            self._loop.call_soon_threadsafe(function, argument)

    def _concerned(self, record: models.Model) -> set[str]:
        """Primary keys of the outposts that a changed record concerns."""
        database = self._services.database
        match record:
            case models.Outpost():
                return {record.pk}
            case models.Provider():
                return {outpost.pk for outpost in database.outposts_with_provider(int(record.pk or 0))}
            case models.KeyPair():
                return {outpost.pk for outpost in database.outposts_with_certificate(record.pk)}
            case models.Application():
                pks = [*record.backchannel_providers, *([record.provider] if record.provider is not None else [])]
                return {outpost.pk for pk in pks for outpost in database.outposts_with_provider(pk)}
        return set()

    def _update_soon(self, outposts: set[str]) -> None:
        self._due |= outposts
        if self._timer is None:
            self._timer = self._loop.call_later(UPDATE_DELAY_S, self._update)

    def _update(self) -> None:
        due, self._due, self._timer = self._due, set(), None
        for connection in list(self._connections):
            if connection.outpost in due:
                self._send(connection, UPDATE_TEXT)

    def _session_ended(self, session_id: str) -> None:
        args = {"type": "event.session.end", "session_id": session_id}
        text = json.dumps({"instruction": SESSION_END, "args": args})
        for connection in list(self._connections):
            self._send(connection, text)

    def _send(self, connection: _Connection, text: str) -> None:
        try:
            connection.waiting.put_nowait(text)
        except asyncio.QueueFull:
            # a lost session end must not go unnoticed: the outpost reconnects and checks for itself
            self._connections.discard(connection)
            log.warning("outpost reads too slowly", outpost=connection.outpost, instance=connection.instance)
            self._background(connection.socket.close(code=WSCloseCode.TRY_AGAIN_LATER))

    def _background(self, work: Coroutine[Any, Any, Any]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- one connection --------------------------------------------------------------------------------------------

    def admitted(self, authorization: str | None, outpost_pk: str) -> models.Outpost | None:
        """The outpost, if the bearer token's user may view it."""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key or self._closing:
            return None
        database = self._services.database
        user = database.user_by_api_key(key.strip())
        outpost = database.first(models.Outpost, pk=outpost_pk)
        if user is None or outpost is None or not self._services.access.may(user, access.VIEW_OUTPOST, outpost):
            return None
        return outpost

    async def serve(self, request: web.Request, outpost: models.Outpost, instance: str) -> web.StreamResponse:
        """Talk to one outpost until either side closes."""
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=MAX_MESSAGE_BYTES)
        await socket.prepare(request)
        connection = _Connection(outpost.pk, instance, socket)
        self._connections.add(connection)
        writer = asyncio.create_task(self._write(connection))
        log.info("outpost connected", outpost=outpost.name, instance=instance)
        try:
            async for message in socket:
                if message.type != WSMsgType.TEXT or not self._receive(connection, message.data):
                    await socket.close(code=WSCloseCode.OK)
                    break
        finally:
            self._connections.discard(connection)
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer
            log.info("outpost disconnected", outpost=outpost.name, instance=instance, code=socket.close_code)
        return socket

    async def _write(self, connection: _Connection) -> None:
        while True:
            text = await connection.waiting.get()
            try:
                await asyncio.wait_for(connection.socket.send_str(text), SEND_TIMEOUT_S)
            except (TimeoutError, ConnectionError, RuntimeError):
                await connection.socket.close(code=WSCloseCode.GOING_AWAY)
                return

    def _receive(self, connection: _Connection, text: str) -> bool:
        """Handle a message; false closes the connection."""
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            return False
        if not isinstance(message, dict):
            return False
        instruction, args = message.get("instruction"), message.get("args", {})
        if not isinstance(instruction, int) or isinstance(instruction, bool) or not isinstance(args, dict):
            return False
        if instruction == ACK:
            return True
        if instruction == HELLO:
            self._note(connection, args)
        self._send(connection, ACK_TEXT)
        return True

    def _note(self, connection: _Connection, args: dict[str, Any]) -> None:
        said = {
            name: args[name]
            for name in ("version", "buildHash", "golangVersion", "opensslVersion", "hostname")
            if isinstance(args.get(name), str)
        }
        instances = self._health.setdefault(connection.outpost, {})
        now = self._services.now()
        for name in [name for name, health in instances.items() if now - health.seen > HEALTH_LIFE_S]:
            del instances[name]
        if connection.instance in instances or len(instances) < MAX_INSTANCES:
            instances[connection.instance] = Health(now, said)

    def health(self, outpost_pk: str) -> dict[str, Health]:
        """The live instances of an outpost by instance id."""
        now = self._services.now()
        known = self._health.get(outpost_pk, {})
        return {name: health for name, health in known.items() if now - health.seen <= HEALTH_LIFE_S}

    async def close(self) -> None:
        """Tell all outposts that the server stops (code 1012, RFC 6455 registry: service restart)."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        sockets = [connection.socket for connection in self._connections]
        await asyncio.gather(
            *(socket.close(code=WSCloseCode.SERVICE_RESTART) for socket in sockets), return_exceptions=True
        )
