"""Exact search: the best state of a small block with a proof of optimality.

- `solver`: the backend `exact`; which method runs, the first incumbent and the bound of a search that is cut off.
- `branching`: depth-first branch and bound with the bound of Gilmore and Lawler.
- `enumeration`: every feasible state in revolving-door order.
"""

from solvers.exact.solver import Exact

__all__ = ["Exact"]
