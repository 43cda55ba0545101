"""The WebSocket to the core: connect, say hello, hand on announcements, reconnect for ever (core-contract §5).

One reader, one writer. The reader never waits for what an event sets off: callbacks are plain functions that return at
once. A socket that has been silent for 35 s is dead, whatever TCP thinks.
"""

from __future__ import annotations

import asyncio
import platform
import random
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from yarl import URL

from common import endpoint, events, logs
from common.endpoint import CoreSettings
from common.errors import WebSocketRefused
from common.events import Hello
from common.transport import connector, proxy_for
from common.version import VERSION, build_hash, user_agent

MAX_FRAME_BYTES = 1024 * 1024  # the longest known message has some 300
NORMAL_CLOSURE = 1000

log = logs.get_logger("link")


@dataclass(frozen=True)
class Timing:
    """The link's times, in seconds; tests shorten them."""

    handshake_s: float = 10.0  # as the reference
    hello_s: float = 10.0  # the core forgets an instance 15 s after its last hello
    hello_jitter_s: float = 1.0  # so that many outposts do not say it in step
    silence_s: float = 35.0  # three hellos without any answer, and a bit
    refresh_after_s: float = 30.0  # an absence longer than this may have missed announcements
    write_s: float = 10.0  # a frame of 300 bytes that does not leave in this time will not
    goodbye_s: float = 1.0  # how long the other side's closing frame is waited for: it may be dead
    stable_s: float = 5.0  # a connection that ended sooner counts as a failed attempt, so that flapping is not a loop
    # Wait before attempt n of an outage that has lasted so many seconds.
    delay: Callable[[int, float], float] = lambda attempt, absence_s: events.reconnect_delay(
        attempt, absence_s, random.uniform
    )


def own_hello(instance_id: str) -> Hello:
    """What this process is, for the core's health page."""
    return Hello(
        version=VERSION,
        build_hash=build_hash(),
        instance_id=instance_id,
        runtime=f"{platform.python_implementation()} {platform.python_version()}",
        openssl_version=ssl.OPENSSL_VERSION,
        hostname=socket.gethostname(),
    )


class Link:
    """The link of one daemon.

    - ``on_update()``: refresh; may come many times for one edit, merging them is the daemon's.
    - ``on_session_end(session_id)``: a login session is over.
    - ``on_connection(connected, absence_s)``: with True, how long the socket had been gone (0.0 the first time).
    """

    def __init__(
        self,
        settings: CoreSettings,
        outpost_pk: str,
        instance_id: str,
        *,
        on_update: Callable[[], None],
        on_session_end: Callable[[str], None],
        on_connection: Callable[[bool, float], None],
        hello: Callable[[], Hello] | None = None,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._endpoint = endpoint.endpoint(settings)
        self._proxy = proxy_for(self._endpoint)
        self._outpost_pk = outpost_pk
        self._instance_id = instance_id
        self._on_update = on_update
        self._on_session_end = on_session_end
        self._on_connection = on_connection
        self._hello = hello or (lambda: own_hello(instance_id))
        self._timing = timing or Timing()
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._closing = asyncio.Event()
        self._lost_at: float | None = None  # None before the first connection and while connected
        self._last_problem = ""
        self.connected = False

    async def run(self) -> None:
        """Keep the link up until ``close`` or cancellation. No refusal, however often repeated, ends it."""
        outage_began = self._clock()
        attempt = 0
        ever_up = False
        try:
            while not self._closing.is_set():
                await self._pause(self._timing.delay(attempt, self._clock() - outage_began))
                if self._closing.is_set():
                    break
                lasted_s = await self._once(attempt + 1 if ever_up else attempt)
                ever_up = ever_up or lasted_s is not None
                if lasted_s is not None and lasted_s >= self._timing.stable_s:
                    attempt = 0
                    outage_began = self._clock()
                else:
                    attempt += 1
        finally:
            await self._disconnect()

    async def close(self) -> None:
        """Say goodbye (code 1000); ``run`` returns."""
        self._closing.set()
        await self._disconnect()

    async def _pause(self, seconds: float) -> None:
        """Wait, but not after ``close``. Even a pause of nothing lets others run."""
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            pass

    async def _disconnect(self) -> None:
        web_socket, self._socket = self._socket, None
        session, self._session = self._session, None
        if web_socket is not None and not web_socket.closed:
            await web_socket.close(code=NORMAL_CLOSURE)
        if session is not None:
            await session.close()

    async def _once(self, attempt: int) -> float | None:
        """One connection from handshake to end; for how long it was up, None if never. Raises only cancellation."""
        try:
            web_socket = await self._connect(attempt)
        except (WebSocketRefused, aiohttp.ClientError, OSError, TimeoutError) as error:
            self._problem(error)
            return None
        self._socket = web_socket
        began = self._clock()
        self._up()
        try:
            await self._serve(web_socket)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self._problem(error)
        finally:
            self._down()
            self._socket = None
            await web_socket.close()  # also when cancelled: without it the connection would linger
        return self._clock() - began

    async def _connect(self, attempt: int) -> aiohttp.ClientWebSocketResponse:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                connector=connector(self._settings, self._endpoint, limit=1), cookie_jar=aiohttp.DummyCookieJar()
            )
        url = URL(self._endpoint.websocket_url(self._outpost_pk, self._instance_id, attempt), encoded=True)
        headers = {"Authorization": f"Bearer {self._settings.token}", "User-Agent": user_agent()}
        try:
            async with asyncio.timeout(self._timing.handshake_s):
                return await self._session.ws_connect(
                    url,
                    headers=headers,
                    proxy=self._proxy,
                    max_msg_size=MAX_FRAME_BYTES,
                    autoclose=True,
                    autoping=True,
                    timeout=aiohttp.ClientWSTimeout(ws_close=self._timing.goodbye_s),
                )
        except aiohttp.WSServerHandshakeError as error:
            raise WebSocketRefused(f"handshake answered with {error.status}") from None

    async def _serve(self, web_socket: aiohttp.ClientWebSocketResponse) -> None:
        """Read and write until one of the two ends."""
        tasks = [asyncio.create_task(self._read(web_socket)), asyncio.create_task(self._write(web_socket))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, web_socket: aiohttp.ClientWebSocketResponse) -> None:
        """Hand on what comes; return at the end of the connection, raise TimeoutError after silence."""
        while True:
            async with asyncio.timeout(self._timing.silence_s):
                message = await web_socket.receive()
            if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                self._dispatch(events.decode(message.data))
            else:
                # Closed, closing or broken; pings are answered below us.
                log.debug("websocket ended", kind=message.type.name, close=web_socket.close_code)
                return

    async def _write(self, web_socket: aiohttp.ClientWebSocketResponse) -> None:
        """Say hello at once and then every ten seconds. The only place that sends."""
        timing = self._timing
        while True:
            async with asyncio.timeout(timing.write_s):
                await web_socket.send_str(events.encode(self._hello()))
            await asyncio.sleep(timing.hello_s + random.uniform(-timing.hello_jitter_s, timing.hello_jitter_s))

    def _dispatch(self, event: events.Event) -> None:
        match event:
            case events.TriggerUpdate():
                self._call("update", self._on_update)
            case events.SessionEnd():
                self._call("session end", self._on_session_end, event.session_id)
            case events.Unknown():
                log.debug("websocket message ignored", why=event.why)
            case _:
                pass

    def _up(self) -> None:
        absence_s = 0.0 if self._lost_at is None else self._clock() - self._lost_at
        self._lost_at = None
        self._last_problem = ""
        self.connected = True
        log.info("websocket connected", absence_s=round(absence_s, 1))
        self._call("connection", self._on_connection, True, absence_s)
        if absence_s > self._timing.refresh_after_s:
            self._call("update", self._on_update)

    def _down(self) -> None:
        self._lost_at = self._clock()
        self.connected = False
        if not self._closing.is_set():
            log.info("websocket lost")
        self._call("connection", self._on_connection, False, 0.0)

    def _problem(self, error: Exception) -> None:
        """Log a problem once, not at every attempt."""
        text = str(error) if isinstance(error, WebSocketRefused) else type(error).__name__
        if text != self._last_problem:
            self._last_problem = text
            log.warning("websocket not connected", problem=text)

    def _call(self, what: str, callback: Callable[..., None], *arguments: object) -> None:
        """Run a callback; its error must not end the link."""
        try:
            callback(*arguments)
        except Exception as error:
            log.error("handler failed", handler=what, kind=type(error).__name__)
