"""Solvers of block problems behind one function: `solvers.solve(problem, backend="tabu", seed=0)`."""

from solvers.base import Availability, Capabilities, Estimate, Outcome, Solver
from solvers.decompose import Decompose, fitted
from solvers.errors import (
    BudgetReached,
    OptionError,
    RemoteError,
    ServiceError,
    SolverError,
    UnavailableError,
)
from solvers.registry import available, backends, checked, fastest_local, get_solver, solve
from solvers.run import Run, versions

__all__ = [
    "Availability",
    "BudgetReached",
    "Capabilities",
    "Decompose",
    "Estimate",
    "OptionError",
    "Outcome",
    "RemoteError",
    "Run",
    "ServiceError",
    "Solver",
    "SolverError",
    "UnavailableError",
    "available",
    "backends",
    "checked",
    "fastest_local",
    "fitted",
    "get_solver",
    "solve",
    "versions",
]
