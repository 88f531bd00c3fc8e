"""Local searches: simulated annealing, tabu search, repair and polish.

- `sa`, `tabu`: the solvers; both are dimod samplers too (`sampler`), by single flips (`flips`).
- `tabu_torch`: the tabu search of many problems at once, on tensors; `batched/` holds its GPU kernel.
- `arrays`: a block problem as the float32 arrays that kernels take.
- `walks`: a state under annealing or descent. `populations`: a population of the memetic tabu search.
- `sub_blocks`: search of large low-rank problems by sub-blocks.
- `target`: when a kernel should return because the target seems reached. `temperatures`: the range for annealing.
- `repair`: infeasible states made feasible; descent from feasible ones.
- `kernels/`: what numba compiles.
"""
