"""One pass over the core's lists → the next directory of every cached provider, and which users' logins are over.

Pages go in as they are read and are not kept. Runs in a process of its own (``build_process``) or in a thread
(``refresh``); both do the same with what comes out: write it into a memory file, and seal it into the state folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from common import logs
from common.published import write_all
from common.sealed import SealedFile
from outposts.ldap import stored
from outposts.ldap.building import ContentsBuilder
from outposts.ldap.contents import Contents
from outposts.ldap.entries import EntryOptions
from outposts.ldap.user_states import StatesBuilder, UserStates

log = logs.get_logger("ldap.refresh")


@dataclass(frozen=True)
class Target:
    """A provider whose directory is built. ``previous``: the one that is served, to take unchanged objects from."""

    pk: int
    name: str
    options: EntryOptions
    previous: Contents | None = None


class Outcome(msgspec.Struct):
    """What became of one provider's directory. Neither ``unchanged`` nor ``built``: it could not be built."""

    pk: int
    built: bool = False
    unchanged: bool = False  # every object is as it was: the directory that is served is the new one too
    sealed: bool = False  # the state file holds it


class Changes(msgspec.Struct):
    """What a listing says about users, compared with the one before it."""

    states: UserStates
    changed: list[int] = []  # password changed, deactivated or deleted
    gone: list[int] = []  # deactivated or deleted


class Rebuild:
    """``add_groups`` for all groups, then ``add_users`` for all users, then ``finish``, each once per page or target.

    A target whose building breaks down is dropped and keeps what it has; the others go on.
    """

    def __init__(self, targets: Sequence[Target], before: UserStates) -> None:
        self._before = before
        self._states = StatesBuilder()
        self._builders: dict[int, ContentsBuilder] = {}
        self._targets = {target.pk: target for target in targets}
        self.users = 0
        self.groups = 0
        self.cpu_s = 0.0  # processor time of this thread spent here; reading the lists is not in it
        for target in targets:
            self._each(target.pk, self._begin, target)

    def _begin(self, target: Target) -> None:
        self._builders[target.pk] = ContentsBuilder(target.options, target.previous)

    def add_groups(self, page: Sequence[msgspec.Raw]) -> None:
        """One page of ``/core/groups/``."""
        self.groups += len(page)
        for pk, builder in list(self._builders.items()):
            self._each(pk, builder.add_groups, page)

    def add_users(self, page: Sequence[msgspec.Raw]) -> None:
        """One page of ``/core/users/``."""
        self.users += len(page)
        started = time.thread_time()
        self._states.add(page)
        self.cpu_s += time.thread_time() - started
        for pk, builder in list(self._builders.items()):
            self._each(pk, builder.add_users, page)

    def finish(self, write: Callable[[Target, Contents], None], seal: Callable[[int], SealedFile | None],
               sealed_before: Sequence[int] = ()) -> Iterator[Outcome]:  # fmt: skip
        """Each target's outcome. ``write`` gets new contents; ``seal`` names a target's state file.

        ``sealed_before``: targets whose unchanged directory is in its state file already.
        """
        for pk, target in self._targets.items():
            outcome = Outcome(pk)
            if pk in self._builders:
                self._each(pk, self._finish, target, outcome, write, seal(pk), pk in sealed_before)
            yield outcome

    def _finish(
        self, target: Target, outcome: Outcome, write: Callable[[Target, Contents], None], file: SealedFile | None,
        in_file: bool,
    ) -> None:  # fmt: skip
        builder = self._builders.pop(target.pk)
        contents: Contents | None
        if target.previous is not None and builder.unchanged():
            contents = target.previous
            outcome.unchanged = True
            outcome.sealed = in_file
        else:
            contents = builder.finish()
            del builder  # with what building took, before the new directory is written beside it
            write(target, contents)
            outcome.built = True
        if file is not None and not outcome.sealed:
            outcome.sealed = file.write_pieces(stored.VERSION, stored.pieces(contents))

    def changes(self) -> Changes:
        """What happened to users since the listing before; nothing if there was none."""
        states = self._states.finish()
        if not self._before:
            return Changes(states)
        return Changes(states, sorted(self._before.changed(states)), sorted(self._before.gone(states)))

    def _each(self, pk: int, work: Callable[..., None], *arguments: Any) -> None:
        started = time.thread_time()
        try:
            work(*arguments)
        except Exception:
            log.exception("directory not built", provider=self._targets[pk].name)
            self._builders.pop(pk, None)
        self.cpu_s += time.thread_time() - started


def write_contents(descriptor: int, contents: Contents) -> None:
    """Into a memory file. Raises ``OSError``."""
    write_all(descriptor, stored.pieces(contents))
