"""Password hashing off the event loop, in a bounded pool: a flood of logins cannot take all memory or all cores."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from core import passwords
from core.errors import Busy, ValidationFailed
from core.models import User

T = TypeVar("T")

THREADS = os.cpu_count() or 1  # argon2 releases the interpreter lock, so one per core keeps all cores busy
QUEUE_LIMIT = 64  # waiting hashes per pool: with 20 ms each on two cores under one second of waiting


class PasswordHasher:
    """Hashes and compares in ``threads`` threads; more than ``queue_limit`` waiting ones are refused with ``Busy``."""

    def __init__(self, *, threads: int = THREADS, queue_limit: int = QUEUE_LIMIT) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="passwords")
        self._limit = threads + queue_limit
        self._running = 0
        self._lock = threading.Lock()

    async def check(self, user: User, password: str) -> bool:
        """Whether ``password`` is the user's. A user without password hash costs the same time and is never right.

        :raises Busy: the queue is full.
        """
        return await self._run(lambda: passwords.verify(user.password_hash, password))

    async def spend(self, password: str) -> None:
        """Spend the time of one comparison, for a name that nobody has.

        :raises Busy: the queue is full.
        """
        await self._run(lambda: passwords.verify(passwords.UNUSABLE, password))

    async def hash(self, password: str) -> str:
        """The hash to store.

        :raises Busy: the queue is full.
        :raises ValidationFailed: the password is too long.
        """
        salt = secrets.token_bytes(passwords.SALT_BYTES)
        try:
            return await self._run(lambda: passwords.hash_password(password, salt))
        except ValueError as error:
            raise ValidationFailed({"password": [str(error)]}) from None

    def close(self) -> None:
        """Stop the threads; waiting work is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        with self._lock:
            if self._running >= self._limit:
                raise Busy("too many passwords are being checked")
            self._running += 1
        future = self._pool.submit(work)
        # counted until the thread is done: a caller that gave up does not free the core
        future.add_done_callback(lambda _: self._done())
        return await asyncio.wrap_future(future)

    def _done(self) -> None:
        with self._lock:
            self._running -= 1
