"""The process that lists the core's users and groups and builds directories, so that serving never feels it.

Started by ``loading.ProcessLoader`` for each refresh (``python -m outposts.ldap.build_process``). It reads its job from
standard input (the core's token is in it, and so in no argument and no environment), writes finished directories into
memory files whose descriptors it inherited, writes its reply to standard output and ends; all memory that building
takes ends with it. It runs at a lower priority, and ends at once when its standard input closes: then the daemon is
gone, or does not want the outcome any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from typing import Any

import msgspec

from common import logs
from common.api import CoreApi, ListingChanged
from common.errors import CoreError
from common.published import map_published
from common.sealed import SealedFile
from outposts.ldap import stored
from outposts.ldap.build_job import LENGTH, Failure, Job, Reply, Wanted
from outposts.ldap.contents import Contents
from outposts.ldap.direct import GROUP_PARAMETERS, USER_PARAMETERS
from outposts.ldap.rebuild import Rebuild, Target, write_contents

NICENESS = 5  # on a busy single core the daemon's searches get about three times the share of this process

log = logs.get_logger("ldap.refresh")


async def build(job: Job) -> Reply:
    """Read the lists and fill the memory files."""
    api = CoreApi(job)
    try:
        try:
            rebuild = await _read(api, job, careful=False)
        except ListingChanged:
            log.debug("a list changed while it was read, starting anew")
            rebuild = await _read(api, job, careful=True)
    except ListingChanged:
        return Reply(_failure(CoreApi.keeps_changing("/core/users/")))
    except CoreError as error:
        return Reply(_failure(error))
    finally:
        await api.close()
    by_pk = {wanted.pk: wanted for wanted in job.wanted}

    def write(target: Target, contents: Contents) -> None:
        write_contents(by_pk[target.pk].area, contents)

    def state_file(pk: int) -> SealedFile | None:
        wanted = by_pk[pk]
        return SealedFile(wanted.state_file, job.token, wanted.state_role) if wanted.state_file else None

    done = [wanted.pk for wanted in job.wanted if wanted.in_state_file]
    changes = rebuild.changes()
    outcomes = list(rebuild.finish(write, state_file, done))
    return Reply(
        None, outcomes, changes, rebuild.users, rebuild.groups, round(rebuild.cpu_s, 3), round(time.process_time(), 3)
    )


async def _read(api: CoreApi, job: Job, *, careful: bool) -> Rebuild:
    """One reading of both lists. Raises ``ListingChanged`` or ``CoreError``."""
    rebuild = Rebuild([_target(wanted) for wanted in job.wanted], job.before)
    for path, parameters, add in (
        ("/core/groups/", GROUP_PARAMETERS, rebuild.add_groups),
        ("/core/users/", USER_PARAMETERS, rebuild.add_users),
    ):
        pages = api.pages_as_read(path, parameters, job.page_size, careful=careful)
        async with contextlib.aclosing(pages) as reading:  # type: ignore[type-var]
            async for page in reading:
                add(page)
    return rebuild


def _target(wanted: Wanted) -> Target:
    previous = None
    if wanted.previous >= 0:
        try:
            previous = stored.load(map_published(wanted.previous, wanted.previous_size))
        except (stored.StoredError, OSError, ValueError) as error:
            log.warning("last directory not usable, building from nothing", provider=wanted.name, problem=str(error))
    return Target(wanted.pk, wanted.name, wanted.options, previous)


def _failure(error: CoreError) -> Failure:
    return Failure(type(error).__name__, error.call, error.problem, error.status, error.request_id, error.retry_after_s)


def _end_with_input(replied: threading.Event) -> None:
    """Wait until nobody holds the other end of standard input, which is also so behind the reply."""
    while os.read(0, 1):
        pass
    os._exit(0 if replied.is_set() else 1)


def _read_exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = os.read(0, size - len(data))
        if not piece:
            raise EOFError("the job was cut off")
        data += piece
    return data


def main() -> int:
    """Read a job, do it, write the reply."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the daemon decides
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    answer = os.dup(1)
    os.dup2(2, 1)  # nothing that prints may get into the reply
    job: Any = msgspec.msgpack.decode(_read_exactly(LENGTH.unpack(_read_exactly(LENGTH.size))[0]), type=Job)
    logs.configure(job.log_level, debug=job.debug)
    replied = threading.Event()
    threading.Thread(target=_end_with_input, args=(replied,), daemon=True).start()
    reply = asyncio.run(build(job))
    with os.fdopen(answer, "wb") as out:
        out.write(msgspec.msgpack.encode(reply))
        out.flush()
        replied.set()
    return 0


if __name__ == "__main__":
    sys.exit(main())
