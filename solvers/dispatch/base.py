"""The interface of every dispatch: tasks go out, results return as they complete, large arrays are sent once."""

from __future__ import annotations

import abc
import contextvars
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

import numpy as np

from problems import BlockProblem
from problems.forms import StateArray
from solvers.base import Availability, InitialStates, Solver
from solvers.errors import UnavailableError
from solvers.run import on_interrupt

if TYPE_CHECKING:
    import dimod

T = TypeVar("T")
R = TypeVar("R")
Self = TypeVar("Self", bound="Dispatch")

RETRIES = 3
"""Default number of restarts of a task whose worker was lost."""

LOOK_SECONDS = 0.05
"""Seconds between checks of `stop` while waiting for workers."""


_HELD = 64
"""Solved problems that stay with the workers, as later ones may share their arrays; thousands would exceed the limit
of open files of a process."""


class Handle(abc.ABC, Generic[T]):
    """Handle of an object that was sent to the workers once; tasks hold the handle in its place.

    Attributes:
        nbytes: bytes sent; 0 if nothing had to be sent.
    """

    nbytes: int = 0

    @abc.abstractmethod
    def get(self) -> T:
        """The object itself, or in a worker its copy, whose large arrays are read-only and shared."""

    def release(self) -> None:
        """Free the copy; call this when no running task holds the handle."""


class Dispatch(abc.ABC):
    """Where tasks run; a context manager that ends the workers.

    A dispatch runs one :meth:`map` or :meth:`solve` at a time; do not call them from several threads.
    """

    name: ClassVar[str]
    """The name in text."""

    workers: int = 1
    """Tasks that run at once."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027 - not every dispatch has workers
        """End the workers and free all shared objects; later work starts new workers."""

    @classmethod
    def available(cls) -> Availability:
        """Whether this dispatch can be used here; if not, what is missing and how to install it."""
        return Availability(True)

    def refuse_what_is_missing(self) -> None:
        """Raise UnavailableError if :meth:`available` is false."""
        ready = self.available()
        if not ready:
            raise UnavailableError(f"dispatch {self.name}: {ready.reason}")

    # The work

    def map(
        self, function: Callable[[T], R], tasks: Iterable[T], *, stop: Callable[[], bool] | None = None
    ) -> Iterator[tuple[int, R]]:
        """Call a function on each task; results are yielded as they complete.

        A task whose worker is lost is restarted on another worker, so it must be safe to run again.

        Args:
            function: a function at module level, which can be pickled.
            tasks: objects that can be pickled; send large arrays by :meth:`share`. Taken as workers become free.
            stop: called periodically in this thread; once it returns True, :func:`stop_requested` is true in all tasks,
                later ones included. Tasks choose how to end; each still returns a result.

        Yields:
            The index of the task, from 0, and its result.

        Raises:
            WorkerLost: the worker of a task ended without a result more often than the retries allow.
            Exception: the exception of the function, with the worker's traceback as a note. Running tasks are then
                abandoned, as they are when the caller ends the iteration.
        """
        return self._map(function, iter(tasks), _once_true(stop))

    @abc.abstractmethod
    def _map(self, function: Callable[[T], R], tasks: Iterator[T], stop: Callable[[], bool]) -> Iterator[tuple[int, R]]:
        """As :meth:`map`; once `stop` returns True it keeps doing so."""

    @abc.abstractmethod
    def share(self, obj: T) -> Handle[T]:
        """Send an object to the workers once, however many tasks use it.

        Args:
            obj: an object that can be pickled. Its arrays must not change while it is shared; a read-only array in
                several shared objects is sent once.
        """

    def solve(
        self,
        solver: Solver,
        problems: Iterable[BlockProblem],
        *,
        seed: int | None = None,
        time_limit: float | None = None,
        target: float | Sequence[float | None] | None = None,
        initial_states: Sequence[InitialStates] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> list[dimod.SampleSet]:
        """Solve problems; the answers for a seed are those of `solver.solve_many`, in whatever order workers finish.

        A solver that solves many problems together, at a service or as a batch on a GPU, runs in this process.

        Args:
            solver: the solver.
            problems: the block problems.
            seed: problem number p is solved with seed + p.
            time_limit: seconds for each problem.
            target: an energy at which to stop, or one (or None) for each problem.
            initial_states: initial states or None for each problem.
            stop: called periodically in this thread; True ends running and later solves as early as possible, each
                with its best state so far. So does Ctrl-C.

        Returns:
            A SampleSet for each problem, in order.

        Raises:
            WorkerLost: the worker of a problem ended without an answer more often than the retries allow.
            ProblemError, SolverError, ValueError: as `solver.solve_many`.
        """
        listed = list(problems)
        each: Any = target if np.ndim(cast(Any, target)) else [target] * len(listed)
        targets = cast(Sequence[float | None], each)
        if not self._takes(solver, listed, time_limit):
            return solver.solve_many(
                listed, seed=seed, time_limit=time_limit, targets=targets, initial_states=initial_states, stop=stop
            )
        # Problems that cannot be solved are refused before anything is sent.
        runs = solver._runs(listed, seed, time_limit, targets, initial_states, stop)
        solver._refuse_what_is_missing()
        handles: list[Handle[Any]] = []
        try:
            self._prepare(solver, listed)
            shared_solver = self._kept(handles, solver)
            tasks = (
                _Solve(
                    shared_solver, self._kept(handles, problem), run.seed, time_limit, run.target, run.initial_states
                )
                for problem, run in zip(listed, runs, strict=True)
            )
            return self._answers(tasks, handles, stop)
        finally:
            for handle in handles:
                handle.release()

    def _takes(self, solver: Solver, problems: list[BlockProblem], time_limit: float | None) -> bool:
        """Whether these problems are sent to the workers one by one."""
        return bool(problems) and not solver.solves_together(len(problems))

    def _prepare(self, solver: Solver, problems: list[BlockProblem]) -> None:  # noqa: B027
        """Preparations before the problems are sent."""

    def _kept(self, handles: list[Handle[Any]], obj: T) -> Handle[T]:
        handle = self.share(obj)
        handles.append(handle)
        return handle

    def _answers(
        self, tasks: Iterable[_Solve], handles: list[Handle[Any]], stop: Callable[[], bool] | None
    ) -> list[dimod.SampleSet]:
        """The answers to the tasks, in order; `handles` has the solver's, then each problem's as it is shared."""
        interrupted = False

        def note() -> None:
            nonlocal interrupted
            if interrupted:
                raise KeyboardInterrupt
            interrupted = True

        answers: dict[int, dimod.SampleSet] = {}
        held: deque[int] = deque()
        with on_interrupt(note):
            for place, answer in self.map(_solve, tasks, stop=lambda: interrupted or (stop is not None and stop())):
                answers[place] = answer
                held.append(place)
                if len(held) > _HELD:
                    handles[1 + held.popleft()].release()
                if interrupted and answer.info["ended_by"] == "stop":  # workers do not know the reason
                    answer.info["ended_by"] = "interrupt"
        if interrupted and all(answer.info["ended_by"] != "interrupt" for answer in answers.values()):
            signal.raise_signal(signal.SIGINT)  # no solve was cut short: the caller gets the signal
        return [answers[place] for place in range(len(answers))]


def stop_requested() -> bool:
    """Whether the calling task was asked to end; false outside of tasks."""
    return _request.get()()


_request: contextvars.ContextVar[Callable[[], bool]] = contextvars.ContextVar("stop_requested", default=lambda: False)


def set_stop_request(stop: Callable[[], bool]) -> None:
    """In this context, make :func:`stop_requested` return what a function returns."""
    _request.set(stop)


@dataclass(frozen=True)
class _Solve:
    """A problem to solve, as it is sent to a worker."""

    solver: Handle[Solver]
    problem: Handle[BlockProblem]
    seed: int
    time_limit: float | None
    target: float | None
    initial_states: StateArray | None


def _solve(task: _Solve) -> dimod.SampleSet:
    return task.solver.get().solve(
        task.problem.get(), seed=task.seed, time_limit=task.time_limit, target=task.target,
        initial_states=task.initial_states, stop=stop_requested,
    )  # fmt: skip


def _once_true(stop: Callable[[], bool] | None) -> Callable[[], bool]:
    heard = False

    def once() -> bool:
        nonlocal heard
        heard = heard or (stop is not None and bool(stop()))
        return heard

    return once
