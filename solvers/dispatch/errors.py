"""What can go wrong on the way to a worker and back."""

from solvers.errors import SolverError


class WorkerLost(SolverError):
    """A task's worker ended, again and again, without an answer: killed, out of memory, or its node gone."""
