"""Runs a policy in a thread with a time limit.

The limit works in three steps. The caller stops waiting as soon as the time is over, whatever the thread does. The
thread gets an exception at its next Python instruction (``PyThreadState_SetAsyncExc``), which ends loops. A thread that
sits in a blocking C call ends when the call returns; until then it counts against ``MAX_THREADS``, so that stuck
policies lead to refusals, never to an endless number of threads. A thread whose time was over is not used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from core.errors import PolicyFailed

T = TypeVar("T")

MAX_THREADS = 16  # policies at a time; one takes well under a millisecond unless it asks the network


class TimeIsOver(BaseException):
    """Raised inside a policy whose time is over; not an ``Exception``, so that policies do not swallow it."""


class _Worker:
    """A daemon thread that runs one job after another; daemon, so that a stuck policy does not hold up the exit.

    ``ended`` is called in the thread when it ends. ``guard`` sees to it that only a running job is interrupted.
    """

    def __init__(self, ended: Callable[[], None]) -> None:
        self.jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.abandoned = False
        self._ended = ended
        self._busy = False
        self._guard = threading.Lock()
        self.thread = threading.Thread(target=self._run, name="policy", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            while not self.abandoned and (job := self.jobs.get()) is not None:
                with self._guard:
                    self._busy = True
                job()
                with self._guard:
                    self._busy = False
        except TimeIsOver:
            pass
        finally:
            self._ended()

    def interrupt(self) -> None:
        """Use the thread no more, and raise ``TimeIsOver`` in it at its next Python instruction."""
        with self._guard:
            self.abandoned = True
            if self._busy and self.thread.ident is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self.thread.ident), ctypes.py_object(TimeIsOver)
                )
        self.jobs.put(None)


class PolicyThreads:
    """A pool of at most ``limit`` policy threads for one event loop."""

    def __init__(self, limit: int = MAX_THREADS) -> None:
        self._idle: list[_Worker] = []
        self._free = asyncio.Semaphore(limit)  # an abandoned thread gives its place back when it has ended

    async def run(self, work: Callable[[], T], timeout_s: float) -> T:
        """What ``work`` returns or raises.

        :raises PolicyFailed: the time was over, or no thread was free in that time.
        """
        scope = asyncio.timeout(timeout_s)
        try:
            async with scope:
                await self._free.acquire()
                return await self._run(work)
        except TimeoutError:
            if not scope.expired():
                raise  # the policy's own
            raise PolicyFailed(f"the policy took longer than {timeout_s:g} seconds") from None

    async def _run(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def on_loop(function: Callable[..., None], *arguments: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(function, *arguments)

        worker = self._idle.pop() if self._idle else _Worker(lambda: on_loop(self._free.release))

        def finish(result: T | None, problem: BaseException | None) -> None:
            if worker.abandoned:
                return
            if problem is None:
                answer.set_result(result)  # type: ignore[arg-type]  # without problem the result is there
            else:
                answer.set_exception(problem)

        def job() -> None:
            try:
                result = work()
            except (Exception, SystemExit, GeneratorExit, KeyboardInterrupt) as error:
                carried = isinstance(error, Exception) and not isinstance(error, StopIteration)
                problem = error if carried else PolicyFailed(f"{type(error).__name__}: {error}")
                on_loop(finish, None, problem)
            else:
                on_loop(finish, result, None)

        worker.jobs.put(job)
        try:
            result = await answer
        except asyncio.CancelledError:
            worker.interrupt()
            raise
        except BaseException:
            self._put_back(worker)
            raise
        self._put_back(worker)
        return result

    def _put_back(self, worker: _Worker) -> None:
        self._idle.append(worker)
        self._free.release()

    def close(self) -> None:
        """End the idle threads."""
        for worker in self._idle:
            worker.abandoned = True
            worker.jobs.put(None)
        self._idle.clear()
