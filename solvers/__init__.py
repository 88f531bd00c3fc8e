"""Solvers of block problems behind one function: `solvers.solve(problem, backend="tabu", seed=0)`."""

from solvers.base import Availability, Capabilities, Estimate, Outcome, Solver
from solvers.decompose import Decompose
from solvers.errors import OptionError, SolverError, UnavailableError
from solvers.registry import available, backends, fastest_local, get_solver, solve
from solvers.run import Run, versions

__all__ = [
    "Availability",
    "Capabilities",
    "Decompose",
    "Estimate",
    "OptionError",
    "Outcome",
    "Run",
    "Solver",
    "SolverError",
    "UnavailableError",
    "available",
    "backends",
    "fastest_local",
    "get_solver",
    "solve",
    "versions",
]
