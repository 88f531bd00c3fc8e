"""Compiled kernels. Importing one of these modules imports numba; solvers do so when they first work.

Every kernel keeps all that it needs to continue in arrays of its caller, its random stream too. So it may return after
any number of steps and continue later with the same result: how often a solver reads the clock never changes an answer.

- `structures`: the NamedTuples that kernels take, with the shape and dtype of each array.
- `separate`: kernels that are compiled once and called by address.
- `population`: the memetic search, a state machine over the kernels below.
- `tabu`, `pairs`, `annealing`, `descent`: tabu steps, descent among all pairs, annealing, final descent in float64.
- `offspring`, `states`: random states, crossover and perturbation; fields and residuals of a state.
- `flips`: annealing, tabu steps and descent by single flips.
- `gram`: the matrix of a factor. `lanes`: vector instructions. `random`: random numbers.
"""
