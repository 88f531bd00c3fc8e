"""States of a block problem of different quality, from random to the best, for energy_vs_loss.py."""

from __future__ import annotations

import numpy as np
from numba import njit

import solvers
from problems import BlockProblem
from solvers.local.repair import polish

TEMPERATURES = 8
SWEEPS = 20


def ladder(problem: BlockProblem, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Feasible states and the way each was found.

    Args:
        problem: the block problem, of up to a few thousand variables.
        mask: the present mask [n].
        seed: seed of all randomness.

    Returns:
        Distinct states [s, n] and their kinds [s]: "random"; "descent", during descents from random states;
        "annealed", at a temperature; "optimum", where descents end; "near", the best state with some swaps at random;
        "from mask", during a descent from the present mask; "mask"; "best", of `tabu` and all of these.
    """
    rng = np.random.default_rng(seed)
    dense = problem.to_dense()
    Q, c = dense.form.dense(), dense.single_energies
    random = problem.random_states(30, rng)
    best = np.asarray(solvers.solve(problem, "tabu", seed=seed).record.sample[0], np.int8)
    found: dict[str, list[np.ndarray]] = {
        "mask": [mask],
        "random": list(random),
        "descent": [x for start in random[:6] for x in _descent(Q, c, start, 12)],
        "annealed": _annealed(Q, c, random[-1], 6, rng),
        "optimum": list(polish(problem, random)),
        "from mask": _descent(Q, c, mask, 15),
        "near": [_swapped(best, swaps, rng) for swaps in (1, 2, 4, 8, 16, 32, 64) for _ in range(5)],
        "best": [best],
    }
    states = np.array([x for group in found.values() for x in group], np.int8)
    kinds = np.array([kind for kind, group in found.items() for _ in group])
    states, first = np.unique(states, axis=0, return_index=True)
    kinds = kinds[first]
    kinds[int(np.argmin(problem.energy(states)))] = "best"
    return states, kinds


def _descent(Q: np.ndarray, c: np.ndarray, start: np.ndarray, count: int) -> list[np.ndarray]:
    """States during a steepest descent, a fixed number of swaps apart, including the last."""
    x = start.copy()
    h = c + 2.0 * Q @ x
    path = []
    while True:
        ones, zeros = np.flatnonzero(x), np.flatnonzero(x == 0)
        out = ones[np.argmax(h[ones])]
        changes = h[zeros] - h[out] - 2.0 * Q[out, zeros]
        into = zeros[np.argmin(changes)]
        if changes.min() >= 0.0:
            break
        x[out], x[into] = 0, 1
        h += 2.0 * (Q[into] - Q[out])
        path.append(x.copy())
    if not path:
        return []
    return [path[i] for i in np.unique(np.linspace(0, len(path) - 1, count).round().astype(int))]


def _annealed(Q: np.ndarray, c: np.ndarray, start: np.ndarray, each: int, rng: np.random.Generator) -> list[np.ndarray]:
    """States of walks at fixed temperatures, from accepting any swap to accepting hardly any."""
    ones, zeros = np.flatnonzero(start), np.flatnonzero(start == 0)
    i, j = rng.choice(ones, 1000), rng.choice(zeros, 1000)
    h = c + 2.0 * Q @ start
    sizes = np.abs(h[j] - h[i] - 2.0 * Q[i, j])
    states, x = [], start.copy()
    for temperature in np.geomspace(np.quantile(sizes, 0.9), max(np.quantile(sizes, 0.01), 1e-300) / 10, TEMPERATURES):
        for _ in range(each):
            x = x.copy()
            _walk(Q, c + 2.0 * Q @ x, x, temperature, SWEEPS * len(x), int(rng.integers(2**31)))
            states.append(x)
    return states


@njit(cache=True)
def _walk(Q, h, x, temperature, proposals, seed):  # type: ignore[no-untyped-def]
    np.random.seed(seed)  # noqa: NPY002 - numba has no Generator of its own seed
    for _ in range(proposals):
        i, j = np.random.randint(len(x)), np.random.randint(len(x))  # noqa: NPY002
        if x[i] != 1 or x[j] != 0:
            continue
        change = h[j] - h[i] - 2.0 * Q[i, j]
        if change <= 0.0 or np.random.random() < np.exp(-change / temperature):  # noqa: NPY002
            x[i], x[j] = 0, 1
            for v in range(len(x)):
                h[v] += 2.0 * (Q[j, v] - Q[i, v])


def _swapped(x: np.ndarray, swaps: int, rng: np.random.Generator) -> np.ndarray:
    ones, zeros = np.flatnonzero(x), np.flatnonzero(x == 0)
    swaps = min(swaps, len(ones), len(zeros))
    y = x.copy()
    y[rng.choice(ones, swaps, replace=False)] = 0
    y[rng.choice(zeros, swaps, replace=False)] = 1
    return y
