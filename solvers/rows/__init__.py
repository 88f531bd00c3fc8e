"""Row problems: thousands of small problems that share one matrix, solved in one call and returned as arrays.

- `batch`: the public functions; they check shapes and distribute rows over threads.
- `search`: compiled kernels for the error of masks alone: tabu search by swaps, and greedy growth.
- `refit`: compiled kernels for the error that is left when the surviving weights of a row are refitted.

Importing this imports no numba; the functions import their kernels when called.
"""

from solvers.rows.batch import elimination_costs, grow_rows, solve_refitted_rows, solve_rows

__all__ = ["elimination_costs", "grow_rows", "solve_refitted_rows", "solve_rows"]
