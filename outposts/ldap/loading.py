"""Who builds the directories of cached providers: a process of its own, or a thread where no process can be started.

``ProcessLoader.load`` gives snapshots that lie in memory files (``Snapshot.publication``), which a supervisor hands to
its workers as they are. A builder that dies, hangs or cannot read the lists changes nothing: ``load`` raises, and what
is served stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from common import errors, logs
from common.errors import CoreError, CoreUnavailable, OutpostError
from common.published import Area
from common.sealed import SealedFile
from common.settings import Settings
from outposts.ldap.build_job import LENGTH, Failure, Job, Reply, Wanted
from outposts.ldap.directory import Snapshot
from outposts.ldap.providers import ProviderSettings
from outposts.ldap.refresh import Loaded, Loader, report_loaded, told
from outposts.ldap.user_states import UserStates

# Seconds after which a builder is taken for hung: a million users take less than half an hour on a slow core.
BUILD_TIMEOUT_S = 3600.0
END_S = 10.0  # for a builder that has replied to end
PACKAGES = str(Path(__file__).resolve().parent.parent.parent)
# The C library's allocator gives blocks from this size (bytes) back as soon as they are free. By default it raises that
# to 32 MiB in a process that frees large blocks, and a builder does little else: a sixth of its memory.
GIVE_BACK = ("MALLOC_MMAP_THRESHOLD_", "131072")
# Prefixes of environment variables that the builder does not get: what it needs of them is in its job.
KEPT_BACK = ("AUTHENTIK_", "OUTPOSTS_")

log = logs.get_logger("ldap.refresh")


class BuilderError(OutpostError):
    """The builder process gave no reply."""

    retryable = True


class ProcessLoader:
    """Starts a builder process for each load. ``instead`` loads where none can be started."""

    def __init__(
        self,
        settings: Settings,
        state_file: Callable[[int], SealedFile | None],
        instead: Loader,
        *,
        command: Sequence[str] | None = None,
        timeout_s: float = BUILD_TIMEOUT_S,
    ) -> None:
        """``state_file``: of a provider, by pk. ``command``: another builder, for tests."""
        self._settings = settings
        self._state_file = state_file
        self._instead = instead
        self._command = [sys.executable, "-P", "-m", "outposts.ldap.build_process"] if command is None else command
        self._timeout_s = timeout_s
        self._in_state_file: set[int] = set()
        self.process: subprocess.Popen[bytes] | None = None

    async def load(
        self, providers: Sequence[ProviderSettings], previous: Mapping[int, Snapshot], before: UserStates
    ) -> Loaded:
        """See ``refresh.Loader``."""
        started = time.perf_counter()
        with contextlib.ExitStack() as stack:
            try:
                areas = {provider.pk: Area(self._settings.tmpdir, "directory") for provider in providers}
                for area in areas.values():
                    stack.callback(area.close)
                process = self._start([area.fd for area in areas.values()], previous)
            except OSError as error:
                log.warning("no builder process, building in a thread", problem=error.strerror)
                return await self._instead.load(providers, previous, before)
            job = self._job(providers, previous, before, areas)
            reply = await self._ask(process, job)
            if reply.failure is not None:
                raise _core_error(reply.failure)
            return await asyncio.to_thread(self._loaded, reply, providers, previous, areas, started)

    def _start(self, areas: list[int], previous: Mapping[int, Snapshot]) -> subprocess.Popen[bytes]:
        published = [snapshot.publication.fd for snapshot in previous.values() if snapshot.publication is not None]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(KEPT_BACK)}
        environment.setdefault(*GIVE_BACK)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (PACKAGES, environment.get("PYTHONPATH"))))
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[*areas, *published],
            env=environment,
        )

    def _job(
        self, providers: Sequence[ProviderSettings], previous: Mapping[int, Snapshot], before: UserStates,
        areas: Mapping[int, Area],
    ) -> Job:  # fmt: skip
        wanted = []
        for provider in providers:
            one = Wanted(provider.pk, provider.name, provider.options, areas[provider.pk].fd)
            old = previous.get(provider.pk)
            if old is not None and old.publication is not None and old.options == provider.options:
                one.previous, one.previous_size = old.publication.fd, old.publication.size
            file = self._state_file(provider.pk)
            if file is not None:
                one.state_file, one.state_role = str(file.path.absolute()), file.role
                one.in_state_file = provider.pk in self._in_state_file
            wanted.append(one)
        settings = self._settings
        return Job(
            host=settings.host,
            host_query=settings.host_query,
            host_socket=settings.host_socket,
            token=settings.token,
            insecure=settings.insecure,
            page_size=settings.ldap_page_size,
            wanted=wanted,
            before=before,
            log_level=logs.level_name(),
            debug=settings.debug,
        )

    async def _ask(self, process: subprocess.Popen[bytes], job: Job) -> Reply:
        """The process's reply; it has ended by then, whatever happens."""
        self.process = process
        limit = threading.Timer(self._timeout_s, process.kill)
        limit.daemon = True
        limit.start()
        talk = asyncio.ensure_future(asyncio.to_thread(_converse, process, msgspec.msgpack.encode(job)))
        try:
            data = await asyncio.shield(talk)
            if not data:
                raise BuilderError(f"the builder process ended without a reply (exit code {process.returncode})")
            return msgspec.msgpack.decode(data, type=Reply)
        except msgspec.MsgspecError:
            raise BuilderError("the builder process gave a reply that cannot be read") from None
        except asyncio.CancelledError:
            process.kill()
            await asyncio.wait([talk])  # the thread sees the end of the pipe, and takes the dead process away
            raise
        finally:
            limit.cancel()
            self.process = None

    def _loaded(
        self, reply: Reply, providers: Sequence[ProviderSettings], previous: Mapping[int, Snapshot],
        areas: Mapping[int, Area], started: float,
    ) -> Loaded:  # fmt: skip
        """In a thread: map what was built."""
        snapshots = {}
        by_pk = {provider.pk: provider for provider in providers}
        for outcome in reply.outcomes:
            pk = outcome.pk
            if outcome.sealed:
                self._in_state_file.add(pk)
            else:
                self._in_state_file.discard(pk)
            if outcome.unchanged:
                snapshots[pk] = previous[pk]
            elif outcome.built:
                snapshots[pk] = Snapshot.from_publication(areas[pk].publish())
        took_s = time.perf_counter() - started
        report_loaded(by_pk, snapshots, reply.users, reply.groups, took_s, reply.build_cpu_s)
        return told(snapshots, reply.changes)


def _converse(process: subprocess.Popen[bytes], job: bytes) -> bytes:
    """In a thread: give the job, take everything the process says, wait for its end."""
    assert process.stdin is not None and process.stdout is not None
    with process.stdout, contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(LENGTH.pack(len(job)) + job)
        process.stdin.flush()
        data = process.stdout.read()  # standard input stays open meanwhile: its end would end the process
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return data if process.returncode == 0 else b""


def _core_error(failure: Failure) -> CoreError:
    kind = getattr(errors, failure.kind, CoreUnavailable)
    if not (isinstance(kind, type) and issubclass(kind, CoreError)):
        kind = CoreUnavailable
    return kind(
        failure.call,
        failure.problem,
        status=failure.status,
        request_id=failure.request_id,
        retry_after_s=failure.retry_after_s,
    )
