"""Work done in this process: in this thread, in a pool of threads, or as the solver's capabilities say."""

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
from solvers.dispatch.base import Dispatch, Handle, listening_to
from solvers.run import allow_threads, cpu_threads, processors

T = TypeVar("T")
R = TypeVar("R")

_LOOK_SECONDS = 0.01  # between looks whether someone asked to stop: threads hear at once


class Here(Handle[T]):
    """Something that is in this process anyway."""

    def __init__(self, obj: T) -> None:
        self._obj = obj

    def get(self) -> T:
        """The thing itself."""
        return self._obj


class Serial(Dispatch):
    """One task after the other, in this thread; problems by the solver's own `solve_many`."""

    name: ClassVar[str] = "serial"

    def __init__(self) -> None:
        pass

    def share(self, obj: T) -> Handle[T]:
        """Nothing is sent."""
        return Here(obj)

    def _takes(self, solver: Solver, problems: list[BlockProblem], time_limit: float | None) -> bool:
        return False

    def _map(self, function: Callable[[T], R], tasks: Iterator[T], told: Callable[[], bool]) -> Iterator[tuple[int, R]]:
        for place, task in enumerate(tasks):
            context = contextvars.copy_context()
            context.run(listening_to, told)
            yield place, context.run(function, task)


class Threads(Dispatch):
    """A pool of threads: for solvers that work in compiled code, which does not hold the interpreter's lock.

    Args:
        workers: tasks under way at once; None for one a processor.
        threads: threads that a task may use in its turn; None for an even share of the processors.

    Raises:
        OptionError: a setting that is not a positive whole number.
    """

    name: ClassVar[str] = "threads"

    def __init__(self, workers: int | None = None, threads: int | None = None) -> None:
        self.workers, self.threads = shares(workers, threads)

    def share(self, obj: T) -> Handle[T]:
        """Nothing is sent."""
        return Here(obj)

    def _map(self, function: Callable[[T], R], tasks: Iterator[T], told: Callable[[], bool]) -> Iterator[tuple[int, R]]:
        stopped = threading.Event()
        places: dict[Future[R], int] = {}
        numbered = enumerate(tasks)
        with ThreadPoolExecutor(self.workers, "dispatch") as pool:
            try:
                while True:
                    for place, task in itertools.islice(numbered, self.workers - len(places)):
                        context = contextvars.copy_context()  # with the account of remote calls
                        context.run(listening_to, stopped.is_set)
                        context.run(allow_threads, self.threads)
                        places[pool.submit(context.run, function, task)] = place
                    if not places:
                        return
                    done, _ = wait(places, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
                    if told():
                        stopped.set()
                    for future in sorted(done, key=lambda one: places[one]):
                        yield places.pop(future), future.result()
            finally:
                stopped.set()  # threads cannot be ended: those under way are asked to


class ByCapabilities(Dispatch):
    """The default: several problems side by side in threads where the solver's capabilities allow it, else in turn.

    With a time limit they are solved in turn, so that they do not take the processors from one another's clocks.
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

    def _map(self, function: Callable[[T], R], tasks: Iterator[T], told: Callable[[], bool]) -> Iterator[tuple[int, R]]:
        return self._threads._map(function, tasks, told)


def thread_variables(threads: int) -> dict[str, str]:
    """By which libraries in a new process are told how many threads to start, which they read when they are loaded.

    BLAS keeps the number it has here, since it rounds products of matrices otherwise in more threads or fewer: energies
    would differ in their last digits. Solvers spend little time in it.
    """
    blas = {
        name: os.environ.get(name) or os.environ.get("OMP_NUM_THREADS") or str(processors())
        for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    }
    return dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads)) | blas


def shares(workers: int | None, threads: int | None) -> tuple[int, int]:
    """How many workers, of how many threads each: together no more than there are processors, unless told.

    Raises:
        OptionError: a number that is not a positive whole one.
    """
    given: dict[str, Any] = {"workers": workers, "threads": threads}
    at_least(1, **{name: value for name, value in given.items() if value is not None})
    allowed = cpu_threads()
    workers = workers or max(1, allowed // (threads or 1))
    return workers, threads or max(1, allowed // workers)
