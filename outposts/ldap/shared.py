"""The LDAP service of a daemon with several workers: one process loads the directories, the workers serve them.

``LDAPSource`` is the supervisor's half: the same service without listeners and logins. What it puts in service it
publishes as one memory file per provider, and it tells who must not be logged in any longer. ``LDAPWorkerService`` is
the other half: the same service, which gets its directories instead of loading them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

import msgspec

from common.cache import Configuration
from common.published import publish
from common.reactor import LoopReactor
from common.service import DaemonContext
from common.worker import Published
from common.workers import Publisher
from outposts.ldap.directory import Snapshot
from outposts.ldap.service import LDAPService, process_loader
from outposts.ldap.stored import StoredError

DIRECTORY = "directory/"  # name of a publication: this and the provider's pk
STATE = "state"
CHANGED, GONE = "user_changed", "user_gone"  # what ``drop`` is told: users whose logins count no more


class _Directory(msgspec.Struct):
    """Details of a published directory: unix time of its load, unless it is from a state file."""

    loaded_at: float | None


class _State(msgspec.Struct):
    """How old the directories are (unix time of the load, by provider), and what is wrong with the last load."""

    loaded_at: dict[int, float]
    problem: str


class LDAPSource(LDAPService):
    """See ``common.workers.Source``."""

    def __init__(self, context: DaemonContext, reactor: LoopReactor, publisher: Publisher) -> None:
        super().__init__(context, reactor, process_loader)
        self._publisher = publisher
        self._given: dict[int, Snapshot] = {}
        self._publishing = asyncio.Lock()

    async def apply(self, configuration: Configuration) -> None:
        """Put it in service here, and publish the directories."""
        await super().apply(configuration)
        await self._publish()

    async def _load(self) -> None:
        await super()._load()
        await self._publish()

    async def _publish(self) -> None:
        """Publish what the workers do not have yet."""
        async with self._publishing:
            current = {provider.pk: provider.snapshot for provider in self.desk.providers if provider.snapshot}
            for pk in self._given.keys() - current.keys():
                self._publisher.withdraw(f"{DIRECTORY}{pk}")
                del self._given[pk]
            for pk, snapshot in current.items():
                if self._given.get(pk) is snapshot:
                    continue
                publication = snapshot.publication
                if publication is None:  # restored from a state file, or there was no memory file for it
                    publication = await asyncio.to_thread(publish, [snapshot.to_bytes()], self._context.settings.tmpdir)
                details = msgspec.msgpack.encode(_Directory(self._loaded_at.get(pk)))
                await self._publisher.publish(f"{DIRECTORY}{pk}", details, publication)
                self._given[pk] = snapshot
            state = _State(self._loaded_at, self._load_problem)
            await self._publisher.publish(STATE, msgspec.msgpack.encode(state))

    def _end_logins(self, changed: Collection[int], gone: Collection[int]) -> None:
        for what, users in ((CHANGED, changed), (GONE, gone)):
            if users:
                self._context.spawn(self._publisher.drop(what, tuple(users)), "end logins")


class LDAPWorkerService(LDAPService):
    """See ``common.worker.WorkerService``."""

    async def _load(self) -> None:
        """The supervisor does that."""

    async def receive(self, published: Published) -> None:
        """A directory, or news about all of them. Raises ``StoredError`` and ``msgspec.MsgspecError``."""
        if published.name == STATE:
            state = msgspec.msgpack.decode(published.details, type=_State)
            self._loaded_at.update((pk, at) for pk, at in state.loaded_at.items() if pk in self._loaded_at)
            self.desk.searches.loaded_at = dict(self._loaded_at)
            self._load_problem = state.problem
            self.desk.searches.load_problem = "the last refresh failed" if state.problem else ""
        elif published.name.startswith(DIRECTORY):
            if published.file is None:
                raise StoredError("a directory without its file")
            details = msgspec.msgpack.decode(published.details, type=_Directory)
            snapshot = await asyncio.to_thread(Snapshot.from_buffer, published.file)
            self._serve({int(published.name.removeprefix(DIRECTORY)): snapshot}, details.loaded_at)

    def drop(self, what: str, keys: Sequence[int]) -> None:
        """Users whose logins count no more."""
        self._end_logins(keys, keys if what == GONE else ())
