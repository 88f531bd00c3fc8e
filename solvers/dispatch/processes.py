"""A pool of processes; a worker that is killed is replaced and its task restarted."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, ClassVar, TypeVar

from problems import BlockProblem
from solvers.base import Solver
from solvers.checks import at_least
from solvers.dispatch import worker
from solvers.dispatch.base import LOOK_SECONDS, RETRIES, Dispatch, Handle
from solvers.dispatch.errors import WorkerLost
from solvers.dispatch.local import shares, thread_variables
from solvers.dispatch.parcels import SentHandle, SentOnce, pack, pickled, segments
from solvers.errors import SolverError

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger(__name__)

_PATIENCE = 5.0  # seconds after which a worker that was asked to end is killed


class SharedHandle(SentHandle[T]):
    """Handle of an object in shared memory."""

    def __reduce__(self) -> Any:
        self.get()
        return _Arrived, (self._packed.data, self._packed.parts)


class _Arrived(Handle[Any]):
    """The handle in a worker."""

    def __init__(self, data: bytes, names: list[str]) -> None:
        self._data, self._names = data, names

    def get(self) -> Any:
        """A copy whose large arrays are shared by all workers."""
        return worker.received(self._data, self._names)


class Processes(Dispatch):
    """A pool of processes on this machine, started when there is work and kept until the dispatch is closed.

    Workers are new interpreters, so a script that uses them needs `if __name__ == "__main__":`.

    Args:
        workers: tasks that run at once; None for one per processor.
        threads: threads that each worker may use; None for an even share of the processors.
        retries: how often a task is restarted after its worker was lost.

    Raises:
        OptionError: a setting that is not an integer in its range.
    """

    name: ClassVar[str] = "processes"

    def __init__(self, workers: int | None = None, threads: int | None = None, retries: int = RETRIES) -> None:
        self.workers, self.threads = shares(workers, threads)
        at_least(0, retries=retries)
        self.retries = retries
        self._pool: list[_Worker] = []
        self._segments = segments()
        self._warm: set[str] = set()
        self._lost_at_start = 0
        self._busy = False
        weakref.finalize(self, _end_here, os.getpid(), self._pool, self._segments)  # closes it at exit at the latest

    def close(self) -> None:
        """End the workers, busy or not, and free the shared memory."""
        _end(self._pool, self._segments)

    def share(self, obj: T) -> Handle[T]:
        """Copy the large arrays into shared memory that all workers map."""
        return SharedHandle(obj, pack(obj, self._segments), self._release)

    def _release(self, names: list[str]) -> None:
        gone = self._segments.release(names)
        for one in self._pool if gone else []:
            with contextlib.suppress(OSError):  # a worker that is gone holds nothing
                one.connection.send(("forget", gone))

    def _prepare(self, solver: Solver, problems: list[BlockProblem]) -> None:
        """Start the workers; meanwhile compile the kernels once, here, so that workers load them from the cache."""
        while len(self._pool) < min(self.workers, len(problems)):
            self._pool.append(_Worker.started(self.threads))
        if repr(solver) not in self._warm:
            solver._set_up(problems[0])
            self._warm.add(repr(solver))

    # Calls

    def _map(self, function: Callable[[T], R], tasks: Iterator[T], stop: Callable[[], bool]) -> Iterator[tuple[int, R]]:
        if self._busy:
            raise SolverError("a pool of processes does one piece of work at a time; end the other iteration first")
        self._busy = True
        calls = (_Call(place, pickled((function, task))) for place, task in enumerate(tasks))
        waiting: deque[_Call] = deque()
        stopped = False
        try:
            while True:
                self._hand_out(calls, waiting, stopped)
                if not any(one.call for one in self._pool) and not waiting:
                    return
                for one in self._heard(LOOK_SECONDS):
                    message = one.message()
                    if message is None:
                        self._replace(one, waiting)
                    elif message[:1] == worker.READY:
                        one.ready, self._lost_at_start = True, 0
                    else:
                        place, one.call = one.call.place, None  # type: ignore[union-attr]
                        yield place, worker.opened(message)
                if not stopped and stop():
                    stopped = True
                    self._tell_to_stop()
        finally:
            self._busy = False
            for one in [one for one in self._pool if one.call]:
                self._pool.remove(one)
                one.end(0.0)

    def _hand_out(self, calls: Iterator[_Call], waiting: deque[_Call], stopped: bool) -> None:
        free = self.workers - sum(one.call is not None for one in self._pool)
        while len(waiting) < free and (call := next(calls, None)) is not None:
            waiting.append(call)
        while len(self._pool) < self.workers and sum(one.call is None for one in self._pool) < len(waiting):
            self._pool.append(_Worker.started(self.threads))
        for one in self._pool:
            # A worker that ended while idle has lost no task; `_map` replaces it.
            if waiting and one.ready and one.call is None and one.process.is_alive():
                one.call = waiting.popleft()
                try:
                    one.connection.send(("call", one.call.payload, stopped))
                except OSError:
                    waiting.appendleft(one.call)
                    one.call = None

    def _heard(self, seconds: float) -> list[_Worker]:
        """Workers that sent a message or have ended."""
        awaited: dict[Any, _Worker] = {}
        for one in self._pool:
            awaited[one.connection] = awaited[one.process.sentinel] = one
        heard = multiprocessing.connection.wait(list(awaited), timeout=seconds)
        return list(dict.fromkeys(awaited[thing] for thing in heard))

    def _tell_to_stop(self) -> None:
        for one in self._pool:
            with contextlib.suppress(OSError):
                one.connection.send(("stop",))

    def _replace(self, lost: _Worker, waiting: deque[_Call]) -> None:
        """Remove a worker and put its call back in front; `_map` starts another worker."""
        self._pool.remove(lost)
        how = lost.end(_PATIENCE)
        if not lost.ready:
            self._lost_at_start += 1
            if self._lost_at_start > self.retries or how.startswith("exit"):
                raise WorkerLost(
                    f"a worker process ended while it started ({how}); a script that uses processes needs its calls "
                    'under `if __name__ == "__main__":`, and what it imports must be importable there'
                )
            return
        call = lost.call
        if call is None:
            return
        call.lost += 1
        if call.lost > self.retries:
            raise WorkerLost(
                f"task {call.place} lost its worker {call.lost} times, at last by {how}; where memory is short, fewer "
                "workers (workers=) or smaller blocks help"
            )
        logger.warning("task %d lost its worker (%s) and is restarted", call.place, how)
        waiting.appendleft(call)


@dataclass
class _Call:
    """A task, pickled with its function."""

    place: int
    payload: bytes
    lost: int = 0


@dataclass(eq=False)
class _Worker:
    """A worker process, as the pool sees it."""

    process: SpawnProcess
    connection: Connection
    ready: bool = False
    call: _Call | None = None

    @classmethod
    def started(cls, threads: int) -> _Worker:
        """Start a process; it sends READY when it is."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=worker.main, args=(theirs, threads), name="dispatch", daemon=True)
        if hasattr(signal, "pthread_sigmask"):
            resource_tracker.ensure_running()  # started with the process, it would let Ctrl-C through
        with _environment(thread_variables(threads)), _interrupts_held(), _importable_main():
            process.start()
        theirs.close()
        return cls(process, ours)

    def message(self) -> bytes | None:
        """The message of the worker; None if it has ended."""
        try:
            return self.connection.recv_bytes() if self.connection.poll() else None
        except (EOFError, OSError):
            return None

    def end(self, patience: float) -> str:
        """End the process; return how it ended, as text."""
        self.connection.close()
        self.process.join(patience)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        code = self.process.exitcode or 0
        self.process.close()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _end_here(owner: int, pool: list[_Worker], shared: SentOnce[str]) -> None:
    if os.getpid() == owner:  # a fork has only copies of the pool
        _end(pool, shared)


def _end(pool: list[_Worker], shared: SentOnce[str]) -> None:
    for one in pool:
        one.connection.close()  # which ends the process
    for one in pool:
        one.end(_PATIENCE)
    pool.clear()
    shared.clear()


_starting = threading.Lock()


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for processes started in this context."""
    with _starting:
        before = {name: os.environ.get(name) for name in values}
        os.environ.update(values)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


@contextlib.contextmanager
def _importable_main() -> Iterator[None]:
    """Keep new processes from looking for the file of a program that has none, such as that of `python -`."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if file is None or os.path.exists(file):
        yield
        return
    del main.__file__
    try:
        yield
    finally:
        main.__file__ = file


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Block Ctrl-C, so that a process started in this context inherits the block until it removes it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
