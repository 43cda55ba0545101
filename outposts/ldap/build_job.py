"""What the daemon and its builder process (``build_process``) say to each other, as MessagePack on two pipes."""

from __future__ import annotations

import struct

import msgspec

from outposts.ldap.entries import EntryOptions
from outposts.ldap.rebuild import Changes, Outcome
from outposts.ldap.user_states import UserStates

LENGTH = struct.Struct("!I")  # before the job on standard input


class Wanted(msgspec.Struct):
    """One directory to build."""

    pk: int
    name: str
    options: EntryOptions
    area: int  # descriptor of the memory file to fill
    previous: int = -1  # descriptor of the directory that is served, -1 for none
    previous_size: int = 0
    state_file: str = ""  # absolute path; empty: none
    state_role: str = ""
    in_state_file: bool = False  # it holds ``previous`` already


class Job(msgspec.Struct):
    """Everything the process has to know; the first five fields are ``common.endpoint.CoreSettings``."""

    host: str
    host_query: str
    host_socket: str | None
    token: str
    insecure: bool
    page_size: int
    wanted: list[Wanted]
    before: UserStates
    log_level: str = "info"
    debug: bool = False

    def __repr__(self) -> str:
        """Without the token."""
        return f"Job({self.host!r}, {len(self.wanted)} wanted)"


class Failure(msgspec.Struct):
    """A ``CoreError``, by its class and fields."""

    kind: str
    call: str
    problem: str
    status: int | None = None
    request_id: str | None = None
    retry_after_s: float | None = None


class Reply(msgspec.Struct):
    """What came of it. Times in seconds; ``build_cpu_s`` is without reading the lists, ``cpu_s`` is everything."""

    failure: Failure | None = None
    outcomes: list[Outcome] = []
    changes: Changes | None = None
    users: int = 0
    groups: int = 0
    build_cpu_s: float = 0.0
    cpu_s: float = 0.0
