"""Solvers of block problems behind one function: `solvers.solve(problem, backend="tabu", seed=0)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from solvers.comparison import compare

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
    "compare",
    "fastest_local",
    "fitted",
    "get_solver",
    "solve",
    "versions",
]


def __getattr__(name: str) -> Any:
    """`compare`, which brings a dozen modules along, when it is first asked for."""
    if name == "compare":
        from solvers.comparison import compare

        return compare
    raise AttributeError(f"module 'solvers' has no attribute {name!r}")
