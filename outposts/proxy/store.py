"""Sessions of browsers: found in a step for every request, kept where restarts and other processes find them.

Two layers::

    Sessions   what is asked: opens, closes and finds sessions; keeps those in use ready-made in memory
    Backend    where they are kept, sealed (``store_port.py``): memory, SQLite, Redis or Valkey (``store_*.py``)

A session in memory counts only as long as its end would be heard of: the backend says when that is in doubt (its
connection for news is down), and then every request asks the backend again, and is refused if it does not answer.
Nothing is ever allowed because a store failed. Names of sessions are made here and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from common import logs
from common.errors import OutpostError
from common.shared_store import StoreUnavailable
from outposts.proxy import session as sessions
from outposts.proxy import state as states
from outposts.proxy.oidc import Tokens
from outposts.proxy.providers import Providers, ProxyProvider
from outposts.proxy.session import Event, Session, State, StoredError
from outposts.proxy.store_port import Backend, Row
from outposts.proxy.vault import Vault

HOT_MAX = 131_072  # sessions ready-made in memory, about 3 KiB each with a token of 1 KiB
GONE_MAX = 100_000  # ends that are remembered, so that what was read before them is not believed after them
GONE_S = 120.0  # time for that; a read that takes longer was given up
SWEEP_S = 30.0  # between two looks for sessions that are over
SWEEP_SLICE = 2_000  # sessions that are looked at in one go, below a millisecond
SEEN_PARTS = 10  # a use is written down once in each tenth of the idle time: so exact is its end over all processes
SEEN_AT_MOST_S = 60.0
USES_S = 2.0  # between two writes of uses
POST_S = float(states.LIFETIME_S)  # a form is kept as long as its login may take
RETRY_FIRST_S, RETRY_MAX_S = 0.5, 15.0  # waits between attempts to end sessions in a store that does not answer

log = logs.get_logger("store")


class Sessions:
    """All sessions of an outpost's providers. To be used on one event loop."""

    def __init__(
        self,
        backend: Backend,
        *,
        clock: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = secrets.token_bytes,
        hot_max: int = HOT_MAX,
    ) -> None:
        self.backend = backend
        self._clock = clock
        self._random = random
        self._hot_max = hot_max
        self._hot: dict[bytes, Session] = {}
        self._epoch = 0  # grows when what was read before must not be believed any more
        self._gone: OrderedDict[object, float] = OrderedDict()  # keys of sessions, and names of logins at the core
        self._unended: set[str] = set()  # sids whose end the store does not know yet
        self._providers = Providers()
        self._vaults: dict[int, Vault] = {}
        self._loading: dict[tuple[int, bytes], asyncio.Task[Session | None]] = {}
        self._used: dict[bytes, float] = {}  # uses that are not written down yet
        self._tasks: set[asyncio.Task[Any]] = set()
        self.problem = ""  # why the store did not answer last; "" if it did

    async def open(self) -> None:
        """Make the store ready. Raises ``StartError``."""
        await self.backend.open(self)
        self._spawn(self._keep_tidy(), "proxy sessions")

    async def close(self) -> None:
        """Write down what is left, and let go."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(StoreUnavailable):
            await self._write_uses()
        await self.backend.close()

    def apply(self, providers: Providers) -> None:
        """Serve these providers. Sessions stay; headers of those whose provider has changed are made anew."""
        former = self._providers
        self._providers = providers
        vaults: dict[int, Vault] = {}
        changed: set[int] = set()
        for provider in providers:
            before = former.by_pk.get(provider.pk)
            same = before is not None and (before.client_id, before.cookie_secret) == (
                provider.client_id,
                provider.cookie_secret,
            )
            vaults[provider.pk] = (
                self._vaults[provider.pk] if same else Vault(provider.pk, provider.client_id, provider.cookie_secret)
            )
            if before is None or not same or before.options != provider.options:
                changed.add(provider.pk)
        changed |= former.by_pk.keys() - providers.by_pk.keys()
        self._vaults = vaults
        if changed:
            self._epoch += 1
            for key in [key for key, session in self._hot.items() if session.provider_pk in changed]:
                del self._hot[key]

    @property
    def find(self) -> Callable[[bytes], Session | None]:
        """For ``decision.pick``: a session by its key, if it is ready-made in memory. A dictionary's look-up."""
        return self._hot.get

    @property
    def hot(self) -> int:
        """How many sessions are ready-made in memory."""
        return len(self._hot)

    # -- requests ----------------------------------------------------------------------------------------------------

    def peek(self, value: str) -> Session | None:
        """The session of a cookie's value if it is ready-made in memory; None: ask ``get``. A dictionary look-up.

        Whether it counts is for ``decision.judge`` to say. If it does not, ``get`` is to be asked too: another process
        may have used or renewed it since.
        """
        return self._hot.get(sessions.key_of(value))

    async def get(self, provider: ProxyProvider, values: Sequence[str]) -> Session | None:
        """The best session of a provider among these cookies: the first that is live, else one that can be renewed.

        Raises ``StoreUnavailable``.
        """
        now = self._clock()
        second: Session | None = None
        for value in values:
            session = await self._find(provider, sessions.key_of(value), now)
            if session is None or session.provider_pk != provider.pk or session.client_id != provider.client_id:
                continue
            if session.live(now, provider.idle_s):
                return session
            if second is None or (not second.renewable(now, provider.idle_s)):
                second = session
        return second

    async def _find(self, provider: ProxyProvider, key: bytes, now: float) -> Session | None:
        session = self._hot.get(key)
        if session is not None:
            if session.live(now, provider.idle_s) or session.provider_pk != provider.pk:
                return session
            self._hot.pop(key, None)  # another process may have used or renewed it since
        name = (provider.pk, key)
        task = self._loading.get(name)
        if task is None:
            task = self._spawn(self._load(provider, key), "session")
            self._loading[name] = task
            task.add_done_callback(lambda _: self._loading.pop(name, None))
        return await asyncio.shield(task)

    async def _load(self, provider: ProxyProvider, key: bytes) -> Session | None:
        """A session out of the backend, ready-made; it stays in memory if its end would be heard of."""
        epoch = self._epoch
        session = await self.read(provider, key)
        if session is not None and epoch == self._epoch and self.backend.trusted:
            self._keep(session)
        return session

    def touch(self, session: Session, provider: ProxyProvider) -> None:
        """A request was allowed because of this session. Cheap; written down now and then if idle sessions end."""
        if not provider.idle_s:
            return
        now = self._clock()
        part = min(provider.idle_s / SEEN_PARTS, SEEN_AT_MOST_S)
        if now // part != session.seen // part:
            self._used[session.key] = now
        session.seen = now

    def _keep(self, session: Session) -> None:
        """Have a session ready."""
        hot = self._hot
        hot[session.key] = session
        while len(hot) > self._hot_max:
            del hot[next(iter(hot))]

    # -- logins ------------------------------------------------------------------------------------------------------

    async def create(
        self,
        provider: ProxyProvider,
        tokens: Tokens,
        *,
        replaces: Session | None = None,
        authorization: str = "",
    ) -> tuple[Session, str]:
        """A session for a login that has passed, and the new cookie that it is found by. The one it replaces ends.

        Raises ``StoreUnavailable``, also if the login has ended at the core meanwhile.
        """
        vault = self._vaults.get(provider.pk)
        if vault is None:
            raise StoreUnavailable("the provider is not served any more")
        now = self._clock()
        refreshed = provider.settings["refresh_tokens"] and tokens.refresh_token
        cookie = sessions.new_cookie(self._random)
        session = sessions.create(
            cookie,
            provider_pk=provider.pk,
            client_id=provider.client_id,
            payload=tokens.payload,
            token=tokens.token,
            options=provider.options,
            now=now,
            validity_s=provider.validity_s,
            max_life_s=provider.settings["session_max"],
            refresh_token=tokens.refresh_token if refreshed else "",
            authorization=authorization,
        )
        row = self._row(vault, session)
        epoch = self._epoch
        await self.asked(self.backend.put(row, now, replaces.key if replaces is not None else None))
        if replaces is not None:
            self._forget(replaces.key)
            if replaces.state is State.AUTHENTICATED:
                replaces.end(Event.SIGNED_OUT)
        if self._is_gone(session):
            await self.asked(self.backend.remove([session.key]))
            raise StoreUnavailable("the login has ended at the core")
        if epoch == self._epoch and self.backend.trusted:
            self._keep(session)
        return session, cookie

    def _row(self, vault: Vault, session: Session) -> Row:
        try:
            sealed = vault.seal(session, self._random)
        except StoredError as error:
            raise StoreUnavailable(f"the session cannot be kept: {error}") from None
        return Row(
            session.key,
            session.provider_pk,
            vault.subject_index(session.subject),
            vault.sid_index(session.sid),
            session.expires,
            session.seen,
            sealed,
        )

    async def read(self, provider: ProxyProvider, key: bytes) -> Session | None:
        """A session as the store has it now, another object than others hold. Raises ``StoreUnavailable``."""
        vault = self._vaults.get(provider.pk)
        if vault is None or key in self._gone:
            return None
        row = await self.asked(self.backend.load(key))
        if row is None or row.provider != provider.pk:
            self._hot.pop(key, None)
            return None
        try:
            session = vault.open(key, row.sealed, provider)
        except StoredError as error:
            log.debug("session not readable", provider=provider.name, problem=str(error))
            return None
        session.seen = max(session.seen, row.seen, self._used.get(key, 0.0))
        return None if self._is_gone(session) or self._clock() >= session.expires else session

    async def write(self, provider: ProxyProvider, session: Session) -> bool:
        """Keep what a session has become. False if it has ended meanwhile. Raises ``StoreUnavailable``."""
        vault, epoch = self._vaults.get(provider.pk), self._epoch
        if vault is None or self._is_gone(session):
            return False
        if not await self.asked(self.backend.update(self._row(vault, session))):
            self._forget(session.key)
            return False
        self._hot.pop(session.key, None)
        if self._is_gone(session):
            await self.asked(self.backend.remove([session.key]))
            return False
        if epoch == self._epoch and self.backend.trusted:
            self._keep(session)
        return True

    # -- ends --------------------------------------------------------------------------------------------------------

    async def end(self, session: Session, event: Event = Event.SIGNED_OUT) -> None:
        """End one session. Raises ``StoreUnavailable`` if others may go on using it."""
        self._forget(session.key)
        if session.state is State.AUTHENTICATED:
            session.end(event)
        await self.asked(self.backend.remove([session.key]))

    async def end_subject(self, subject: str, provider: ProxyProvider | None = None) -> int:
        """End all sessions of a user, at all providers or at one; how many. Raises ``StoreUnavailable``."""
        return await self._end_found(
            [vault.subject_index(subject) for vault in self._vaults_of(provider)],
            lambda session: session.subject == subject and (provider is None or session.provider_pk == provider.pk),
        )

    async def end_sid(self, sid: str, provider: ProxyProvider | None = None, *, over: bool = False) -> int:
        """End all sessions that came from one login at the core; how many. Raises ``StoreUnavailable``.

        ``over``: that login is over, so what it has yet to yield here does not count either.
        """
        if not sid:
            return 0
        if over:
            self._note_gone(_sid_at(sid, provider))
        return await self._end_found(
            [vault.sid_index(sid) for vault in self._vaults_of(provider)],
            lambda session: session.sid == sid and (provider is None or session.provider_pk == provider.pk),
        )

    def _vaults_of(self, provider: ProxyProvider | None) -> list[Vault]:
        if provider is None:
            return list(self._vaults.values())
        return [self._vaults[provider.pk]] if provider.pk in self._vaults else []

    async def _end_found(self, indexes: list[bytes], mine: Callable[[Session], bool]) -> int:
        indexes = [index for index in indexes if index]
        try:
            keys = await self.asked(self.backend.find(indexes)) if indexes else []
            self.removed(keys)
            if keys:
                await self.asked(self.backend.remove(keys))
        except StoreUnavailable:
            # Here at least it ends at once; what the store has is for the caller to try again.
            self.removed([key for key, session in self._hot.items() if mine(session)])
            raise
        return len(keys)

    def session_ended(self, sid: str) -> None:
        """The core says that a login has ended: everywhere as soon as the store answers, here in any case."""
        if sid and sid not in self._unended:
            self._note_gone(_sid_at(sid, None))
            self._unended.add(sid)
            self._spawn(self._end_until_done(sid), "session end")

    async def _end_until_done(self, sid: str) -> None:
        wait_s = RETRY_FIRST_S
        try:
            while True:
                try:
                    ended = await self.end_sid(sid, over=True)
                except StoreUnavailable as error:
                    log.warning("sessions not ended yet", problem=str(error))
                    await asyncio.sleep(wait_s)
                    wait_s = min(RETRY_MAX_S, wait_s * 2)
                else:
                    if ended:
                        log.info("sessions ended by the core", sessions=ended)
                    return
        finally:
            self._unended.discard(sid)

    def removed(self, keys: Sequence[bytes]) -> None:
        """Sessions have ended, by whomever."""
        for key in keys:
            session = self._forget(key)
            if session is not None and session.state is State.AUTHENTICATED:
                session.end(Event.REVOKED)

    def _forget(self, key: bytes) -> Session | None:
        self._note_gone(key)
        self._used.pop(key, None)
        return self._hot.pop(key, None)

    def _note_gone(self, what: object) -> None:
        self._gone[what] = self._clock() + GONE_S
        self._gone.move_to_end(what)
        while len(self._gone) > GONE_MAX:
            self._gone.popitem(last=False)

    def _is_gone(self, session: Session) -> bool:
        sid = session.sid
        if session.key in self._gone or sid in self._unended:
            return True
        return bool(sid) and (("sid", sid, 0) in self._gone or ("sid", sid, session.provider_pk) in self._gone)

    def changed(self, keys: Sequence[bytes]) -> None:
        """Sessions have other content now: it is read when they are needed."""
        self._epoch += 1
        for key in keys:
            self._hot.pop(key, None)

    def doubt(self) -> None:
        """News may have been missed: what is in memory is not believed any more."""
        self._epoch += 1
        self._hot.clear()

    # -- other things that are kept ----------------------------------------------------------------------------------

    async def use_once(self, name: str, ttl_s: float) -> bool:
        """True for the first who names this within ``ttl_s`` seconds, in all processes. Raises ``StoreUnavailable``."""
        first: bool = await self.asked(self.backend.use_once(b"once" + name.encode(), self._clock(), ttl_s))
        return first

    async def forget_use(self, name: str) -> None:
        """The next who names this is the first again. Raises ``StoreUnavailable``."""
        await self.asked(self.backend.forget_use(b"once" + name.encode()))

    async def put_post(self, provider: ProxyProvider, content: bytes) -> str:
        """Keep a form during a login; the name that it is taken by. Raises ``StoreUnavailable``."""
        vault = self._vaults.get(provider.pk)
        if vault is None:
            raise StoreUnavailable("the provider is not served any more")
        name = self._random(16).hex()
        sealed = vault.seal_octets(b"post", name.encode(), content, self._random)
        await self.asked(self.backend.put_blob(b"post" + name.encode(), sealed, self._clock(), POST_S))
        return name

    async def take_post(self, provider: ProxyProvider, name: str) -> bytes | None:
        """A form that was kept, once. Raises ``StoreUnavailable``."""
        vault = self._vaults.get(provider.pk)
        if vault is None or not name.isascii():
            return None
        sealed = await self.asked(self.backend.take_blob(b"post" + name.encode(), self._clock()))
        try:
            return vault.open_octets(b"post", name.encode(), sealed) if sealed is not None else None
        except StoredError:
            return None

    async def logins(self) -> AsyncIterator[tuple[ProxyProvider, Session]]:
        """All sessions that are live, whole. Raises ``StoreUnavailable``."""
        async for row in self.backend.rows():
            provider, vault = self._providers.by_pk.get(row.provider), self._vaults.get(row.provider)
            if provider is None or vault is None:
                continue
            try:
                session = vault.open(row.key, row.sealed, provider)
            except StoredError:
                continue
            if self._clock() < session.expires:
                yield provider, session

    # -- housekeeping ------------------------------------------------------------------------------------------------

    async def _keep_tidy(self) -> None:
        rounds = 0
        while True:
            await asyncio.sleep(USES_S)
            rounds += 1
            try:
                await self._write_uses()
                if rounds * USES_S >= SWEEP_S:
                    rounds = 0
                    await self.sweep()
            except StoreUnavailable as error:
                log.warning("sessions not swept", problem=str(error))

    async def sweep(self) -> None:
        """Write down uses, drop what is over. Raises ``StoreUnavailable``."""
        now = self._clock()
        while self._gone and next(iter(self._gone.values())) < now:
            self._gone.popitem(last=False)
        keys = list(self._hot)
        for start in range(0, len(keys), SWEEP_SLICE):
            for key in keys[start : start + SWEEP_SLICE]:
                session = self._hot.get(key)
                if session is not None and now >= session.expires:
                    del self._hot[key]
            await asyncio.sleep(0)
        await self._write_uses()
        await self.asked(self.backend.sweep(now))

    async def _write_uses(self) -> None:
        if self._used:
            used, self._used = self._used, {}
            await self.asked(self.backend.seen(used))

    async def asked(self, call: Coroutine[Any, Any, Any]) -> Any:
        """An answer of the backend; what went wrong is remembered for whoever asks how we are."""
        try:
            answer = await call
        except StoreUnavailable as error:
            self.problem = str(error) or "the session store does not answer"
            raise
        self.problem = ""
        return answer

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if not isinstance(error, OutpostError):  # those are for whoever waits
                log.error("background task failed", task=task.get_name(), exc_info=error)


def _sid_at(sid: str, provider: ProxyProvider | None) -> tuple[str, str, int]:
    """How a login at the core that is over is remembered; 0 for all providers."""
    return ("sid", sid, provider.pk if provider is not None else 0)
