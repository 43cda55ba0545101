"""A record of sessions in Redis or Valkey, which several daemons share.

::

    outposts:radius:session:<id>         one session as JSON; ended ones expire by themselves
    outposts:radius:open                 sorted set of <id> by when it was last heard of
    outposts:radius:ended                sorted set of <id> by when it ended
    outposts:radius:client:<id>          set of open <id> of one client, for Accounting-On and -Off

Each report is one transaction (MULTI), so no session is in two places. ``<id>`` is a digest: names come from clients.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from common.errors import StartError
from outposts.radius.accounting import CLEARING, STALE, STALE_AFTER_S, NotRecorded, Recorded, Session, cause_of, over
from outposts.radius.reports import Client

PREFIX = "outposts:radius:"
OPEN, ENDED = PREFIX + "open", PREFIX + "ended"
TIMEOUT_S = 3.0  # for one transaction; clients ask again after 3 to 5
CLEAN_EVERY_S = 60.0  # between looks for sessions that have not been heard of
MAX_GIVEN_UP = 1_000  # of them at a time
MAX_LISTED = 100_000  # sessions read at once
NO_REDIS = "accounting_record=redis needs the Python package redis: install outposts[redis]"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Session).decode


def _digest(*parts: object) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:40]


def _id(session: Session) -> str:
    client = session.client
    return _digest(client.provider_pk, client.address, client.nas_ip, client.nas_identifier, session.session_id)


def _plain(session: Session) -> bytes:
    return _encode(replace(session, names=()))


def _of_client(client: Client) -> str:
    return PREFIX + "client:" + _digest(client.provider_pk, client.address)


class RedisJournal:
    """See ``accounting.Journal``. Raises ``StartError`` if the package is not there or the URL is none."""

    def __init__(self, url: str, keep_s: float, *, stale_s: float = STALE_AFTER_S) -> None:
        try:
            import redis.asyncio as redis
        except ImportError:
            raise StartError(NO_REDIS) from None
        self.keep_s = keep_s
        self.stale_s = stale_s
        self._one_by_one = asyncio.Lock()
        self._cleaned_at = 0.0
        self._failures = 0
        self._errors: tuple[type[Exception], ...] = (redis.RedisError, OSError, msgspec.DecodeError)
        try:
            self._redis: Any = redis.Redis.from_url(
                url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, health_check_interval=30
            )
        except ValueError:
            raise StartError("OUTPOSTS_REDIS_URL is not a URL of Redis") from None

    async def note(self, recorded: Recorded) -> None:
        """Returns when the server has it. Raises ``NotRecorded``."""
        # In the order in which they came: an end must not be overtaken by what was reported before it.
        failures = self._failures
        async with self._one_by_one:
            if self._failures != failures:
                # A server that hangs must not have each of those that wait wait again: they would take all the room
                # for requests, logins included. Their clients ask again.
                raise NotRecorded("Redis: no answer to the one before")
            try:
                await self._note(recorded)
            except NotRecorded:
                self._failures += 1
                raise

    async def _note(self, recorded: Recorded) -> None:
        report = recorded.report
        try:
            ended = {_id(session): session for session in recorded.ended}
            if report.status in CLEARING:
                ended = {**await self._cleared(recorded), **ended}
            opened = recorded.session if recorded.session is not None and recorded.session.ended_at is None else None
            if report.heard_at - self._cleaned_at >= CLEAN_EVERY_S:
                self._cleaned_at = report.heard_at
                ended = {**await self._given_up(report.heard_at), **ended}
                ended.pop(_id(opened) if opened is not None else "", None)
            if opened is None and not ended:
                return
            async with self._redis.pipeline(transaction=True) as pipe:
                if opened is not None:
                    one = _id(opened)
                    pipe.set(PREFIX + "session:" + one, _plain(opened))
                    pipe.zadd(OPEN, {one: opened.updated_at})
                    pipe.sadd(_of_client(opened.client), one)
                for one, session in ended.items():
                    self._end(pipe, one, session)
                pipe.zremrangebyscore(ENDED, "-inf", report.heard_at - self.keep_s)
                await pipe.execute()
        except self._errors as error:
            raise NotRecorded(f"Redis: {type(error).__name__}") from None

    def _end(self, pipe: Any, one: str, session: Session) -> None:
        ended_at = session.ended_at or session.updated_at
        # The same client may use a session's name again later: its end has a place of its own.
        last = f"{one}:{int(ended_at)}"
        pipe.delete(PREFIX + "session:" + one)
        pipe.zrem(OPEN, one)
        pipe.srem(_of_client(session.client), one)
        pipe.set(PREFIX + "session:" + last, _plain(session), ex=max(1, int(self.keep_s)))
        pipe.zadd(ENDED, {last: ended_at})

    async def _given_up(self, now: float) -> dict[str, Session]:
        """Sessions that nobody has heard of for too long: they ended when they were last heard of."""
        found = await self._redis.zrangebyscore(OPEN, "-inf", now - self.stale_s, start=0, num=MAX_GIVEN_UP)
        sessions = await self._sessions([name.decode() for name in found])
        return {_id(session): over(session, session.updated_at, STALE) for session in sessions}

    async def _cleared(self, recorded: Recorded) -> dict[str, Session]:
        """Sessions of a client that has restarted, those included that other daemons have heard of."""
        report = recorded.report
        found = [name.decode() for name in await self._redis.smembers(_of_client(report.client))]
        return {
            _id(session): over(session, report.happened_at, cause_of(report.status))
            for session in await self._sessions(found)
            if session.client.is_meant_by(report.client) and session.started_at <= report.happened_at
        }

    async def _sessions(self, ids: Sequence[str]) -> list[Session]:
        if not ids:
            return []
        values = await self._redis.mget([PREFIX + "session:" + one for one in ids])
        return [_decode(value) for value in values if value is not None]

    async def open_sessions(self) -> Sequence[Session]:
        """Sessions without an end. Raises ``NotRecorded``."""
        return await self.list_sessions(ended=False, limit=MAX_LISTED)

    async def list_sessions(self, *, ended: bool, limit: int) -> list[Session]:
        """Sessions, the ones heard of last first; with ``ended`` also those that are over. Raises ``NotRecorded``."""
        try:
            ids = [name.decode() for name in await self._redis.zrevrange(OPEN, 0, limit - 1)]
            if ended:
                ids += [name.decode() for name in await self._redis.zrevrange(ENDED, 0, limit - 1)]
            return (await self._sessions(ids))[:limit]
        except self._errors as error:
            raise NotRecorded(f"Redis: {type(error).__name__}") from None

    async def close(self) -> None:
        """Let go of the connections."""
        await self._redis.aclose()
