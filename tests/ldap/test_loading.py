"""The builder process: what it builds, what its failures leave, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from common.errors import CoreForbidden
from common.sealed import SealedFile
from common.settings import Settings, load
from outposts.ldap import stored
from outposts.ldap.directory import Snapshot
from outposts.ldap.dn import DN
from outposts.ldap.loading import BuilderError, ProcessLoader
from outposts.ldap.providers import ProviderSettings, resolve
from outposts.ldap.refresh import Loaded, ThreadLoader
from outposts.ldap.user_states import UserStates
from tests import factories
from tests.fakes import StubCore
from tests.ldap.binds import until
from tests.ldap.fixture import ask, names
from tests.ldap.test_service import Api, provider

TOKEN = "a-token-of-its-own"
COUNT = 150  # users: several pages


@pytest.fixture
def core() -> Iterator[StubCore]:
    """A core with users and groups."""
    with StubCore() as stub:
        stub.token = TOKEN
        stub.users = [factories.user(pk, f"user{pk:03d}") for pk in range(1, COUNT + 1)]
        stub.groups = [factories.group(f"g{pk}", pk, users=list(range(pk, COUNT + 1, 5))) for pk in range(1, 6)]
        factories.link(stub.users, stub.groups)
        yield stub


def settings_of(core: StubCore, folder: Path, **more: str) -> ProviderSettings:
    """Resolved settings of a cached provider."""
    from common.setting_rows import EXTRAS_BY_NAME

    return resolve(provider(), lambda name: EXTRAS_BY_NAME["ldap", name].default)


class Never:
    """A loader that must not be needed."""

    async def load(self, *_: object) -> Loaded:
        """Fail."""
        raise AssertionError("loaded in a thread")


class Site:
    """A process loader with its state folder."""

    def __init__(self, core: StubCore, folder: Path, **more: Any) -> None:
        self.core = core
        self.folder = folder
        environ: Mapping[str, str] = {
            "AUTHENTIK_HOST": core.url,
            "AUTHENTIK_TOKEN": TOKEN,
            "AUTHENTIK_LDAP__PAGE_SIZE": "40",
            "TMPDIR": str(folder),
        }
        self.settings: Settings = load(environ)
        self.wanted = [settings_of(core, folder)]
        self.loader = ProcessLoader(self.settings, self.file, more.pop("instead", Never()), **more)
        self.served: dict[int, Snapshot] = {}
        self.states = UserStates()

    def file(self, pk: int) -> SealedFile:
        """State file of a provider."""
        return SealedFile(self.folder / f"state-{pk}", TOKEN)

    async def load(self) -> Loaded:
        """One load; what it brings is served from then on."""
        loaded = await self.loader.load(self.wanted, self.served, self.states)
        self.served.update(loaded.snapshots)
        self.states = loaded.states
        return loaded

    @property
    def snapshot(self) -> Snapshot:
        """What is served."""
        return self.served[1]


async def test_built_as_in_this_process(core: StubCore, tmp_path: Path) -> None:
    """The same entries as a thread makes from the same lists, in a memory file of mode 0600 that nobody can change."""
    site = Site(core, tmp_path)
    await site.load()

    class Lists(Api):
        def __init__(self) -> None:
            super().__init__()
            self.user_records, self.group_records = core.users, core.groups

    thread = ThreadLoader(Lists(), 40, str(tmp_path), lambda _: None)
    loaded = await thread.load(site.wanted, {}, UserStates())
    everything = ask(site.snapshot, attributes=["*", "+"])
    assert ask(loaded.snapshots[1], attributes=["*", "+"]) == everything
    assert len(everything) == 4 + 2 * COUNT + 5
    assert loaded.states == site.states
    assert len(ask(site.snapshot, "(memberOf=cn=g1,ou=groups,dc=ldap,dc=goauthentik,dc=io)")) == COUNT // 5
    publication = site.snapshot.publication
    assert publication is not None
    assert stat.S_IMODE(os.fstat(publication.fd).st_mode) == 0o600
    with pytest.raises(OSError):
        os.pwrite(publication.fd, b"x", 0)
    assert stat.S_IMODE(site.file(1).path.stat().st_mode) == 0o600
    assert site.file(1).read(stored.VERSION) == site.snapshot.to_bytes()
    assert os.listdir(tmp_path) == ["state-1"]


async def test_only_what_changed_is_made_again(core: StubCore, tmp_path: Path) -> None:
    """One user in a hundred; the others keep their bytes. Nothing changed: the directory that is served stays."""
    site = Site(core, tmp_path)
    await site.load()
    first = site.snapshot
    core.users[7]["name"] = "Renamed"
    await site.load()
    assert site.snapshot is not first
    assert site.snapshot.report.reused == COUNT + 5 - 1
    assert len(ask(site.snapshot, "(displayName=renamed)")) == 1
    second, written = site.snapshot, site.file(1).path.stat().st_mtime_ns
    loaded = await site.load()
    assert loaded.snapshots[1] is second
    assert site.file(1).path.stat().st_mtime_ns == written
    assert (loaded.changed, loaded.gone) == ([], [])


async def test_users_whose_logins_are_over(core: StubCore, tmp_path: Path) -> None:
    """New password, deactivated, deleted: told by number."""
    site = Site(core, tmp_path)
    assert list((await site.load()).changed) == []
    core.users[0]["password_change_date"] = "2031-01-01T00:00:00Z"
    core.users[1]["is_active"] = False
    del core.users[2]
    loaded = await site.load()
    assert (loaded.changed, loaded.gone) == ([1, 2, 3], [2, 3])


async def test_a_list_that_cannot_be_read_changes_nothing(core: StubCore, tmp_path: Path) -> None:
    """The core's error arrives as it was; what is served and what is sealed stay; the next load works."""
    site = Site(core, tmp_path)
    await site.load()
    first, sealed = site.snapshot, site.file(1).path.read_bytes()
    core.users[7]["name"] = "Renamed"
    core.token = "another"
    with pytest.raises(CoreForbidden) as caught:
        await site.load()
    assert caught.value.status == 403
    assert TOKEN not in str(caught.value)
    assert site.snapshot is first
    assert site.file(1).path.read_bytes() == sealed
    core.token = TOKEN
    await site.load()
    assert site.snapshot is not first


@pytest.mark.parametrize(
    "program",
    ["import sys; sys.exit(1)", "import os; os.kill(os.getpid(), 9)", "print('nonsense')", "raise MemoryError"],
)
async def test_a_builder_that_dies_is_an_error(core: StubCore, tmp_path: Path, program: str) -> None:
    """Without a whole reply and exit code 0 nothing counts."""
    site = Site(core, tmp_path, command=[sys.executable, "-c", program])
    with pytest.raises(BuilderError):
        await site.load()
    assert site.served == {}


async def test_a_builder_killed_at_work(core: StubCore, tmp_path: Path) -> None:
    """As the kernel does when memory is short; a later load works again."""
    site = Site(core, tmp_path)
    await site.load()
    first = site.snapshot
    core.users[7]["name"] = "Renamed"
    task = asyncio.create_task(site.load())
    await until(lambda: site.loader.process is not None)
    assert site.loader.process is not None
    site.loader.process.send_signal(signal.SIGKILL)
    with pytest.raises(BuilderError):
        await task
    assert site.snapshot is first
    await site.load()
    assert site.snapshot is not first


async def test_a_builder_that_hangs_is_ended(core: StubCore, tmp_path: Path) -> None:
    """After its time; and at once when the load is given up."""
    hanging = [sys.executable, "-c", "import signal; signal.pause()"]
    site = Site(core, tmp_path, command=hanging, timeout_s=0.2)
    with pytest.raises(BuilderError):
        await site.load()
    site = Site(core, tmp_path, command=hanging)
    task = asyncio.create_task(site.load())
    await until(lambda: site.loader.process is not None)
    process = site.loader.process
    assert process is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert process.wait(10) == -signal.SIGKILL


async def test_the_token_is_in_no_argument_and_no_environment(
    core: StubCore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes through the pipe."""
    monkeypatch.setenv("AUTHENTIK_TOKEN", TOKEN)
    show = "import os, sys; open(sys.argv[1], 'w').write(repr(dict(os.environ)) + repr(sys.argv))"
    site = Site(core, tmp_path, command=[sys.executable, "-c", show, str(tmp_path / "seen")])
    with pytest.raises(BuilderError):
        await site.load()
    assert "PYTHONPATH" in (tmp_path / "seen").read_text()
    assert TOKEN not in (tmp_path / "seen").read_text()
    assert TOKEN not in repr(site.loader._job(site.wanted, {}, UserStates(), {1: FakeArea()}))  # type: ignore[dict-item]


class FakeArea:
    """An area without a file."""

    fd = -1


async def test_without_processes_a_thread_builds(core: StubCore, tmp_path: Path) -> None:
    """Where none can be started."""
    thread = ThreadLoader(Api(), 40, str(tmp_path), lambda _: None)
    site = Site(core, tmp_path, command=["/nowhere/python"], instead=thread)
    assert len((await site.load()).snapshots[1]) == 17


def maps() -> int:
    """Memory maps of this process that are directories, and descriptors."""
    with open("/proc/self/maps") as lines:
        mapped = sum("memfd:directory" in line for line in lines)
    return mapped + len(os.listdir("/proc/self/fd"))


async def test_nothing_is_left_of_old_directories(tmp_path: Path) -> None:
    """Fifty refreshes with a change in each, in the thread, which maps as the process loader does."""
    api = Api()
    settings = [settings_of(None, tmp_path)]  # type: ignore[arg-type]
    loader = ThreadLoader(api, 40, str(tmp_path), lambda _: None)
    served: dict[int, Snapshot] = {}
    counts = []
    for turn in range(50):
        api.user_records[0]["name"] = f"Name {turn}"
        served.update((await loader.load(settings, served, UserStates())).snapshots)
        assert names(ask(served[1], f"(displayName=Name {turn})")) == ["alice,users"]
        counts.append(maps())
    assert max(counts) <= counts[0] + 4
    assert served[1].number_of(DN.parse("cn=alice,ou=users,dc=ldap,dc=goauthentik,dc=io")) >= 0


async def test_searches_meanwhile_see_one_directory_or_the_other(core: StubCore, tmp_path: Path) -> None:
    """Answers that began on the old directory end on it, whole, although it was replaced and let go."""
    site = Site(core, tmp_path)
    await site.load()
    answers: list[set[str]] = []
    stop = asyncio.Event()

    async def search() -> None:
        while not stop.is_set():
            began = site.snapshot
            await asyncio.sleep(0.01)  # a refresh may come in between; the builder wants the processor too
            found = ask(began, "(objectClass=user)", ["displayName"])
            assert len(found) == COUNT
            answers.append({one["displayName"][0] for one in found.values()})

    searching = asyncio.create_task(search())
    for turn in range(3):
        for user in core.users:
            user["name"] = f"turn {turn}"
        await site.load()
        await until(lambda: answers and answers[-1] == {f"turn {turn}"})  # noqa: B023
    stop.set()
    await searching
    assert all(len(names) == 1 for names in answers if names <= {f"turn {turn}" for turn in range(3)})
    assert [names for names in answers if len(names & {"turn 0", "turn 1", "turn 2"}) == 1][-1] == {"turn 2"}
