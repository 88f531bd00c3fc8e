"""Dispatches in this process: the calling thread, a pool of threads, or either by the solver's capabilities."""

from __future__ import annotations

import contextvars
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, ClassVar, TypeVar

from problems import BlockProblem
from solvers.base import Solver
from solvers.checks import at_least
from solvers.dispatch.base import Dispatch, Handle, set_stop_request
from solvers.run import allow_threads, cpu_threads, processors

T = TypeVar("T")
R = TypeVar("R")

_LOOK_SECONDS = 0.01  # between checks of `stop`; threads see the flag at once


class Here(Handle[T]):
    """Handle of an object in this process."""

    def __init__(self, obj: T) -> None:
        self._obj = obj

    def get(self) -> T:
        """The object itself."""
        return self._obj


class Serial(Dispatch):
    """One task after the other in the calling thread; problems are solved by the solver's own `solve_many`."""

    name: ClassVar[str] = "serial"

    def __init__(self) -> None:
        pass

    def share(self, obj: T) -> Handle[T]:
        """Nothing is sent."""
        return Here(obj)

    def _takes(self, solver: Solver, problems: list[BlockProblem], time_limit: float | None) -> bool:
        return False

    def _map(self, function: Callable[[T], R], tasks: Iterator[T], stop: Callable[[], bool]) -> Iterator[tuple[int, R]]:
        for place, task in enumerate(tasks):
            context = contextvars.copy_context()
            context.run(set_stop_request, stop)
            yield place, context.run(function, task)


class Threads(Dispatch):
    """A pool of threads, for solvers in compiled code that releases the interpreter's lock.

    Args:
        workers: tasks that run at once; None for one per processor.
        threads: threads that each task may use; None for an even share of the processors.

    Raises:
        OptionError: a setting that is not a positive integer.
    """

    name: ClassVar[str] = "threads"

    def __init__(self, workers: int | None = None, threads: int | None = None) -> None:
        self.workers, self.threads = shares(workers, threads)

    def share(self, obj: T) -> Handle[T]:
        """Nothing is sent."""
        return Here(obj)

    def _map(self, function: Callable[[T], R], tasks: Iterator[T], stop: Callable[[], bool]) -> Iterator[tuple[int, R]]:
        stopped = threading.Event()
        places: dict[Future[R], int] = {}
        numbered = enumerate(tasks)
        with ThreadPoolExecutor(self.workers, "dispatch") as pool:
            try:
                while True:
                    for place, task in itertools.islice(numbered, self.workers - len(places)):
                        context = contextvars.copy_context()  # with the account of remote calls
                        context.run(set_stop_request, stopped.is_set)
                        context.run(allow_threads, self.threads)
                        places[pool.submit(context.run, function, task)] = place
                    if not places:
                        return
                    done, _ = wait(places, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
                    if stop():
                        stopped.set()
                    for future in sorted(done, key=lambda one: places[one]):
                        yield places.pop(future), future.result()
            finally:
                stopped.set()  # threads cannot be killed: running ones are asked to end


class ByCapabilities(Dispatch):
    """The default: problems in parallel threads if the solver's capabilities allow it, otherwise one after the other.

    With a time limit they are solved one after the other, so that they do not compete for processor time.
    """

    name: ClassVar[str] = "by capabilities"

    def __init__(self) -> None:
        self._threads, self._serial = Threads(), Serial()
        self.workers = self._threads.workers

    def share(self, obj: T) -> Handle[T]:
        """Nothing is sent."""
        return Here(obj)

    def _takes(self, solver: Solver, problems: list[BlockProblem], time_limit: float | None) -> bool:
        alone = len(problems) < 2 or self.workers < 2 or time_limit is not None
        return not alone and solver.capabilities.side_by_side and super()._takes(solver, problems, time_limit)

    def _map(self, function: Callable[[T], R], tasks: Iterator[T], stop: Callable[[], bool]) -> Iterator[tuple[int, R]]:
        return self._threads._map(function, tasks, stop)


def thread_variables(threads: int) -> dict[str, str]:
    """Environment variables that set the number of threads of libraries in a new process; read when they are loaded.

    BLAS keeps its present number, since the rounding of matrix products depends on it: energies would differ in their
    last digits. Solvers spend little time in it.
    """
    blas = {
        name: os.environ.get(name) or os.environ.get("OMP_NUM_THREADS") or str(processors())
        for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    }
    return dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads)) | blas


def shares(workers: int | None, threads: int | None) -> tuple[int, int]:
    """Number of workers and of threads each, by default at most one thread per processor in all.

    Raises:
        OptionError: a number that is not a positive integer.
    """
    given: dict[str, Any] = {"workers": workers, "threads": threads}
    at_least(1, **{name: value for name, value in given.items() if value is not None})
    allowed = cpu_threads()
    workers = workers or max(1, allowed // (threads or 1))
    return workers, threads or max(1, allowed // workers)
