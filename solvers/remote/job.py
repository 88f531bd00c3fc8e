"""A call that a service has accepted: waited for, read, cancelled, and known by its ticket."""

from __future__ import annotations

import abc
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from problems import BlockProblem
from solvers.errors import RemoteError
from solvers.remote.ledger import Stage, Ticket
from solvers.run import Run

if TYPE_CHECKING:
    import dimod

    from solvers.remote.solver import RemoteSolver

OnStage: TypeAlias = Callable[[Ticket], None]
"""Told of each stage of a call, with its ticket, before the next thing happens; what it raises ends the call."""


class Job(abc.ABC):
    """A call that a service has accepted, or whose answer is on record.

    Args:
        solver: whose call it is.
        problem: the block problem.
        ticket: what is known of the call.
        on_stage: told of every further stage before anything else happens.
        run: the solve that waits for it; None makes one of the ticket's seed.
    """

    def __init__(
        self,
        solver: RemoteSolver,
        problem: BlockProblem,
        ticket: Ticket,
        on_stage: OnStage | None = None,
        run: Run | None = None,
    ) -> None:
        self._solver, self._problem, self._on_stage = solver, problem, on_stage
        self._ticket = ticket
        self._run = run or solver._run(problem, ticket.get("seed"), None, None, None, None)

    @property
    def ticket(self) -> Ticket:
        """What is known of the call, plain JSON: :meth:`RemoteSolver.fetch` finds the job again by it."""
        return cast(Ticket, dict(self._ticket))

    @abc.abstractmethod
    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the answer, and bring the ticket to stage "answered" when it is there.

        Args:
            timeout: seconds; None for as long as it takes, 0 for a look.

        Returns:
            Whether the answer is there.

        Raises:
            RemoteError: the service cannot be reached; the job lives on.
            ServiceError: the job failed or was cancelled; the ticket says so.
        """

    @abc.abstractmethod
    def cancel(self) -> None:
        """Ask the service to drop the job; one that runs already may be billed and answered nevertheless."""

    def result(self, timeout: float | None = None) -> dimod.SampleSet:
        """Wait for the answer and read it, as :meth:`solvers.Solver.solve` returns it.

        Args:
            timeout: seconds to wait; None for as long as it takes.

        Raises:
            RemoteError: the service cannot be reached, or did not answer in time; the job lives on.
            ServiceError: the job failed or was cancelled.
        """
        if not self.wait(timeout):
            raise RemoteError(
                f"no answer within {timeout:.4g} s to problem {self._ticket.get('problem_id')}, which lives on at the "
                "service; wait longer, or find it again later with fetch(ticket, problem)"
            )
        begun = time.perf_counter()
        self._solver._set_up(self._problem)
        setup = time.perf_counter() - begun
        return self._solver._finished(self._problem, self._run, self._ticket, setup)

    def _reached(self, stage: Stage, **changes: Any) -> None:
        """Bring the ticket forward and tell of it."""
        self._ticket = cast(Ticket, {**self._ticket, **changes, "stage": stage})
        if self._on_stage is not None:
            self._on_stage(self.ticket)


class StoredJob(Job):
    """A job whose answer is on record."""

    def wait(self, timeout: float | None = None) -> bool:
        """The answer is there."""
        return True

    def cancel(self) -> None:
        """There is nothing left to cancel."""
