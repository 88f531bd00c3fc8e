"""QAOA on Qiskit: `solvers.solve(problem, backend="qaoa")`."""

from solvers.qaoa.solver import Qaoa

__all__ = ["Qaoa"]
