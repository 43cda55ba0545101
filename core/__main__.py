"""``outposts core``: the embedded core as one process. ``outposts core token NAME`` prints an outpost's token.

Start: lock on the data folder → database → listeners (503 while booting) → blueprints → ready file. Stop on SIGTERM or
SIGINT: WebSockets are closed with 1012, requests in flight finish, the database is closed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from aiohttp import web

from common import logs
from common.errors import StartError
from common.listen import bind, name_of
from common.setting_values import ListenAddress, listen_address, split_list
from core import models
from core.blueprints import Blueprints
from core.database import FILE_NAME, Database
from core.errors import CorePartError, CoreSettingError
from core.hashing import PasswordHasher
from core.hub import Hub
from core.mail import Mailer
from core.policies import POLICY_TYPES
from core.policies.engine import PolicyEngine
from core.server import Server
from core.services import Services
from core.settings import DEFAULT_LISTEN, NAMES, CoreSettings, load
from core.stages import STAGES, STORABLE

log = logs.get_logger(__name__)

LOCK_NAME = "core.lock"
EXPIRE_EVERY_S = 30.0  # how late an expired session may be announced to outposts
DRAIN_S = 10.0  # requests in flight get this long at a stop
MAX_LINE_BYTES = (
    32 * 1024
)  # of a request line: an authorization request waits, encoded twice, in the login page's query
KEEP_ALIVE_S = 75.0  # idle connections; longer than the 60 s that clients usually keep theirs
ADMIN = "akadmin"
NO_PASSWORD = (
    f"{ADMIN} has no password yet. Stop the core, set AUTHENTIK_BOOTSTRAP_PASSWORD "
    "(or AUTHENTIK_BOOTSTRAP_PASSWORD_FILE) and start it again."
)


class StartFailed(Exception):
    """The core cannot start; the text says why. ``code`` is the exit code."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


def main(arguments: list[str] | None = None) -> int:
    """Run ``outposts core`` with the arguments after the command's name and return the exit code."""
    options = _parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    try:
        if options.command == "token":
            return _print_token(options.name, options.data)
        settings = load(dict(os.environ), data=options.data, blueprints=tuple(options.blueprint))
        if options.listen:
            settings = dataclasses.replace(settings, listen=_listen(options.listen))
        logs.configure(settings.log_level)
        with _locked(settings.data), asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(_run(settings))
    except StartFailed as error:
        sys.stderr.write(f"outposts core: {error}\n")
        return error.code
    except CoreSettingError as error:
        sys.stderr.write(f"outposts core: {error}\n")
        return error.exit_code
    except (CorePartError, StartError) as error:
        sys.stderr.write(f"outposts core: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    names = "\n".join(f"  {name:38} {text}" for name, text in NAMES.items())
    parser = argparse.ArgumentParser(
        prog="outposts core",
        description="The embedded core: users, groups, flows and tokens in one SQLite file.",
        epilog=f"environment:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", choices=["run", "token"], default="run")
    parser.add_argument("name", nargs="?", help="outpost whose token is printed (with `token`)")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the database")
    parser.add_argument(
        "--blueprint", type=Path, action="append", default=[], metavar="FILE",
        help="YAML applied at each start; its objects are read-only elsewhere (may be repeated)",
    )  # fmt: skip
    parser.add_argument("--listen", metavar="ADDR", help=f"addresses, comma separated; default {DEFAULT_LISTEN}")
    return parser


def _listen(text: str) -> tuple[ListenAddress, ...]:
    try:
        return tuple(listen_address(item) for item in split_list(text))
    except ValueError as error:
        raise CoreSettingError("--listen", str(error), "addresses such as 127.0.0.1:9080 or [::1]:9080") from None


def _print_token(name: str | None, data: Path) -> int:
    """Print the token of an outpost; works while the core runs."""
    if not name:
        raise StartFailed("which outpost? outposts core token NAME --data DIR", 2)
    path = data / FILE_NAME
    if not path.exists():
        raise StartFailed(f"{path} does not exist; start the core once with this data folder")
    database = Database(path)
    try:
        sys.stdout.write(database.outpost_token(name) + "\n")
    finally:
        database.close()
    return 0


@contextlib.contextmanager
def _locked(data: Path) -> Iterator[None]:
    """Hold the data folder: two cores on one database would each believe to know all sessions.

    :raises StartFailed: another process holds it, or the folder cannot be used.
    """
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(data / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartFailed(f"the data folder {data} cannot be used: {error.strerror}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise StartFailed(f"the data folder {data} cannot be locked: {error.strerror}") from None
            raise StartFailed(f"another embedded core runs on the data folder {data}") from None
        yield
    finally:
        os.close(handle)  # which also gives the lock back


def _new_loop() -> asyncio.AbstractEventLoop:
    """The fast event loop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def _run(settings: CoreSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings) as core:
        if settings.ready_file:
            _write_ready_file(Path(settings.ready_file), core.listening)
        log.info("listening", addresses=[f"{host}:{port}" for host, port in core.listening])
        await stop.wait()
        log.info("stopping")
    if settings.ready_file:
        with contextlib.suppress(OSError):
            os.unlink(settings.ready_file)


@dataclasses.dataclass
class RunningCore:
    """A core that listens. ``listening`` holds the hosts and ports really bound."""

    services: Services
    server: Server
    hub: Hub
    blueprints: Blueprints
    listening: list[tuple[str, int]]


@contextlib.asynccontextmanager
async def running(settings: CoreSettings, *, clock: Callable[[], float] = time.time) -> AsyncIterator[RunningCore]:
    """The core for the length of a block: listening, blueprints applied. The caller holds the data folder.

    :raises StartError: an address cannot be used.
    :raises BlueprintError: a blueprint cannot be applied.
    :raises DatabaseError: the database cannot be used.
    """
    async with contextlib.AsyncExitStack() as stack:
        database = Database(settings.data / FILE_NAME, clock=clock)
        stack.callback(database.close)
        hasher = PasswordHasher()
        stack.callback(hasher.close)
        engine = PolicyEngine(database, POLICY_TYPES)
        stack.callback(engine.close)
        services = Services(
            database,
            engine=engine,
            passwords=hasher,
            mailer=Mailer(settings.mail),
            public_url=settings.public_url,
            clock=clock,
        )
        stack.push_async_callback(services.close)
        hub = Hub(services, asyncio.get_running_loop())
        server = Server(services, settings, hub, STAGES)
        runner = web.AppRunner(
            server.app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=DRAIN_S,
            keepalive_timeout=KEEP_ALIVE_S,
            max_line_size=MAX_LINE_BYTES,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        stack.push_async_callback(hub.close)
        sockets = [opened for address in settings.listen for opened in bind(address)]
        for opened in sockets:
            await web.SockSite(runner, opened).start()
        blueprints = Blueprints(database, STORABLE, POLICY_TYPES)
        await asyncio.to_thread(_apply, blueprints, settings)
        await _first_password(services, settings)
        server.ready = True
        expiry = asyncio.create_task(_expire(database))
        stack.callback(expiry.cancel)
        yield RunningCore(services, server, hub, blueprints, [name_of(opened) for opened in sockets])


def _apply(blueprints: Blueprints, settings: CoreSettings) -> None:
    blueprints.apply_defaults(
        password=settings.bootstrap_password, token=settings.bootstrap_token, email=settings.bootstrap_email
    )
    for path in settings.blueprints:
        blueprints.apply_file(path)
    blueprints.database.renew_outposts()


async def _first_password(services: Services, settings: CoreSettings) -> None:
    """Set the administrator's password if there is none yet, or say how to."""
    admin = services.database.first(models.User, username=ADMIN)
    if admin is None or admin.has_usable_password():
        return
    if not settings.bootstrap_password:
        log.warning(NO_PASSWORD)
        return
    admin.password_hash = await services.passwords.hash(settings.bootstrap_password)
    services.database.save(admin)


async def _expire(database: Database) -> None:
    """End what is due, again and again."""
    while True:
        try:
            database.expire()
        except Exception as error:
            log.error("expiry failed", error=type(error).__name__)
        await asyncio.sleep(EXPIRE_EVERY_S)


def _write_ready_file(path: Path, listening: list[tuple[str, int]]) -> None:
    content = json.dumps({"core": [list(where) for where in listening], "pid": os.getpid()})
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(content)
        os.replace(temporary, path)
    except OSError as error:
        raise StartFailed(f"the ready file {path} cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
