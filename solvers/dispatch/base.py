"""What every way of dispatching work is: tasks out, results back as they complete, large arrays sent once."""

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
"""How often a task is begun again after its worker was lost, where nothing else is said."""

LOOK_SECONDS = 0.05
"""How often a wait for workers looks whether someone asked to stop."""


_HELD = 64
"""Solved problems that stay with the workers, whose arrays later ones may share; all of thousands would take up more
files than a process may have open."""


class Handle(abc.ABC, Generic[T]):
    """Something that was sent to the workers once; tasks hold the handle in its place.

    Attributes:
        nbytes: what was sent, in bytes; 0 where nothing had to be.
    """

    nbytes: int = 0

    @abc.abstractmethod
    def get(self) -> T:
        """The thing itself, or in a worker its copy, whose large arrays are read-only and shared."""

    def release(self) -> None:
        """Let go of the copy, once no task that holds the handle is under way."""


class Dispatch(abc.ABC):
    """A way to have work done; a context manager, which ends the workers.

    A dispatch does one piece of work at a time: :meth:`map` and :meth:`solve` are not called from several threads.
    """

    name: ClassVar[str]
    """The way's name in text."""

    workers: int = 1
    """Tasks under way at once."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027 - not every way has something to end
        """End the workers and let go of everything shared; the next piece of work would start new ones."""

    @classmethod
    def available(cls) -> Availability:
        """Whether this way can be gone here, and if not, what is missing and what mends it."""
        return Availability(True)

    def refuse_what_is_missing(self) -> None:
        """Raise UnavailableError where :meth:`available` says no."""
        ready = self.available()
        if not ready:
            raise UnavailableError(f"dispatch {self.name}: {ready.reason}")

    # The work

    def map(
        self, function: Callable[[T], R], tasks: Iterable[T], *, stop: Callable[[], bool] | None = None
    ) -> Iterator[tuple[int, R]]:
        """Call a function on each task; results come as they complete.

        A task whose worker is lost is begun again elsewhere, so it should not leave half-done things behind.

        Args:
            function: a function of a module, that can be pickled.
            tasks: what can be pickled; large arrays by :meth:`share`. Taken from the iterable as workers come free.
            stop: called now and then in this thread; from its first True on, :func:`told_to_stop` is true in all tasks,
                those to come included. They end as they see fit: each still has a result.

        Yields:
            The place of the task, from 0, and its result.

        Raises:
            WorkerLost: a task's worker ended without a result, again and again.
            Exception: what the function raised, of its own type, with the worker's traceback as a note. Tasks under way
                are given up then, as they are where the caller ends the iteration.
        """
        return self._map(function, iter(tasks), _once_true(stop))

    @abc.abstractmethod
    def _map(self, function: Callable[[T], R], tasks: Iterator[T], told: Callable[[], bool]) -> Iterator[tuple[int, R]]:
        """As :meth:`map`; `told` stays true once it was."""

    @abc.abstractmethod
    def share(self, obj: T) -> Handle[T]:
        """Send something to the workers once, whatever number of tasks will need it.

        Args:
            obj: what can be pickled. Arrays must not change while it is shared; read-only arrays that several shared
                things hold are sent once.
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
        """Solve problems: for a seed the same answers as `solver.solve_many`, whoever is done first.

        A solver that solves many at once by itself, at a service or as a batch on a GPU, does so in this process.

        Args:
            solver: who solves them.
            problems: the block problems.
            seed: problem number p is solved with seed + p.
            time_limit: seconds for each problem.
            target: an energy at which to stop, or one (or None) for each problem.
            initial_states: initial states or None for each problem.
            stop: called now and then in this thread; True ends what is under way and what is to come as early as it
                can. So does Ctrl-C.

        Returns:
            A SampleSet for each problem, in order.

        Raises:
            WorkerLost: a problem's worker ended without an answer, again and again.
            ProblemError, SolverError, ValueError: as `solver.solve_many`.
        """
        listed = list(problems)
        each: Any = target if np.ndim(cast(Any, target)) else [target] * len(listed)
        targets = cast(Sequence[float | None], each)
        if not self._takes(solver, listed, time_limit):
            return solver.solve_many(
                listed, seed=seed, time_limit=time_limit, targets=targets, initial_states=initial_states, stop=stop
            )
        # What cannot be solved is refused before anything is sent.
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
        """Whether these problems go to the workers, one by one."""
        return bool(problems) and not solver.solves_together(len(problems))

    def _prepare(self, solver: Solver, problems: list[BlockProblem]) -> None:  # noqa: B027
        """What is worth doing before the problems are sent."""

    def _kept(self, handles: list[Handle[Any]], obj: T) -> Handle[T]:
        handle = self.share(obj)
        handles.append(handle)
        return handle

    def _answers(
        self, tasks: Iterable[_Solve], handles: list[Handle[Any]], stop: Callable[[], bool] | None
    ) -> list[dimod.SampleSet]:
        """The answers to the tasks, in order; `handles` are the solver's and each problem's, once it is shared."""
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
                if interrupted and answer.info["ended_by"] == "stop":  # workers are told to stop, not why
                    answer.info["ended_by"] = "interrupt"
        if interrupted and all(answer.info["ended_by"] != "interrupt" for answer in answers.values()):
            signal.raise_signal(signal.SIGINT)  # too late to cut anything short here: it is for whoever called
        return [answers[place] for place in range(len(answers))]


def told_to_stop() -> bool:
    """Whether the task in which this is called has been told to end; false outside of tasks."""
    return _told.get()()


_told: contextvars.ContextVar[Callable[[], bool]] = contextvars.ContextVar("told_to_stop", default=lambda: False)


def listening_to(told: Callable[[], bool]) -> None:
    """In this context, let :func:`told_to_stop` say what a function says."""
    _told.set(told)


@dataclass(frozen=True)
class _Solve:
    """One problem on its way to a worker."""

    solver: Handle[Solver]
    problem: Handle[BlockProblem]
    seed: int
    time_limit: float | None
    target: float | None
    initial_states: StateArray | None


def _solve(task: _Solve) -> dimod.SampleSet:
    return task.solver.get().solve(
        task.problem.get(), seed=task.seed, time_limit=task.time_limit, target=task.target,
        initial_states=task.initial_states, stop=told_to_stop,
    )  # fmt: skip


def _once_true(stop: Callable[[], bool] | None) -> Callable[[], bool]:
    heard = False

    def told() -> bool:
        nonlocal heard
        heard = heard or (stop is not None and bool(stop()))
        return heard

    return told
