"""Errors of dispatching work."""

from solvers.errors import SolverError


class WorkerLost(SolverError):
    """A task's workers ended repeatedly without a result: killed, out of memory, or their node was lost."""
