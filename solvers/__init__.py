"""Solvers of block problems behind one function: `solvers.solve(problem, backend="tabu", seed=0)`."""

from solvers.base import Availability, Capabilities, Estimate, Outcome, Solver
from solvers.errors import OptionError, SolverError, UnavailableError
from solvers.registry import available, backends, get_solver, solve
from solvers.run import Run

__all__ = [
    "Availability",
    "Capabilities",
    "Estimate",
    "OptionError",
    "Outcome",
    "Run",
    "Solver",
    "SolverError",
    "UnavailableError",
    "available",
    "backends",
    "get_solver",
    "solve",
]
